//! What the window opens and saves, away from the thread that draws.

use std::path::PathBuf;

use eframe::egui;

use crate::app::App;
use crate::app::Message;
use crate::app::look::picture;
use crate::app::shell::notices::Level;
use crate::app::shell::save::Choice;
use crate::error::Error;
use crate::files::write_atomic;
use crate::graph::layout::{Cut, Shown};
use crate::graph::marks::Marks;

impl App {
    /// Runs something slow on a thread of its own; what it says comes back as a message.
    pub fn background(&self, ctx: &egui::Context, work: impl FnOnce() -> Option<Message> + Send + 'static) {
        let (sender, ctx) = (self.messages.0.clone(), ctx.clone());
        std::thread::spawn(move || {
            if let Some(message) = work() {
                // The window may have been closed meanwhile; then there is nobody to tell.
                drop(sender.send(message));
                ctx.request_repaint();
            }
        });
    }

    pub fn pick(&self, ctx: &egui::Context, folder: bool) {
        let dialog = rfd::AsyncFileDialog::new().set_title("Open a model");
        self.background(ctx, move || {
            let handle = if folder {
                pollster::block_on(dialog.pick_folder())
            } else {
                pollster::block_on(dialog.add_filter("models", &["gguf", "safetensors", "json"]).pick_file())
            };
            // The dialog gives nothing both when it is cancelled and when the system has none.
            Some(handle.map_or_else(
                || {
                    Message::Say(
                        Level::Info,
                        "No file was chosen; a path can also be typed in the model menu, or dropped on the window."
                            .to_owned(),
                    )
                },
                |h| Message::Open(h.path().to_owned()),
            ))
        });
    }

    pub fn open_stack(&self, ctx: &egui::Context, path: PathBuf) {
        self.background(ctx, move || Some(read_stack(&path)));
    }

    /// The question where to save, and what follows from the answer.
    pub fn saving(&mut self, ctx: &egui::Context) {
        let Some(choice) = self.save.as_mut().and_then(|s| s.ui(ctx)) else { return };
        match choice {
            Choice::Cancel => self.save = None,
            Choice::Write(path) => {
                if let Some(save) = self.save.take() {
                    self.background(ctx, move || Some(written(&path, &save.bytes)));
                }
            }
            Choice::Browse => {
                let dialog = rfd::AsyncFileDialog::new().set_title("Save as");
                self.background(ctx, move || {
                    pollster::block_on(dialog.save_file()).map(|h| Message::SaveTo(h.path().to_owned()))
                });
            }
        }
    }

    pub fn save_picture(&self, ctx: &egui::Context, view: &'static str) {
        let rect = self.layout.pane(view).and_then(|(_, rect)| rect);
        let (sender, wake) = (self.messages.0.clone(), ctx.clone());
        let ppp = ctx.pixels_per_point();
        ctx.request_screenshot(move |image| {
            std::thread::spawn(move || {
                let message = match picture::encode(&image, rect, ppp) {
                    Ok(bytes) => Message::Save(format!("{}.png", view), bytes),
                    Err(e) => Message::Say(Level::Error, e.to_string()),
                };
                // The window may have been closed meanwhile; then there is nobody to ask.
                drop(sender.send(message));
                wake.request_repaint();
            });
        });
    }
}

pub fn read_stack(path: &std::path::Path) -> Message {
    match crate::engine::EditStack::open(path) {
        Ok(stack) => Message::Stack(path.to_owned(), stack),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

/// A dropped or chosen JSON file: a graph, a circuit, a direction, or a stack of edits.
pub fn read_json(path: &std::path::Path) -> Message {
    use crate::circuit::file::{CircuitFile, FORMAT};
    let value = std::fs::read(path).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    match value {
        Some(v) if v.get("nodes").is_some() && v.get("links").is_some() => Message::Graph(path.to_owned()),
        Some(v) if v.get("format").and_then(|f| f.as_str()) == Some(FORMAT) => match CircuitFile::open(path) {
            Ok(file) => Message::Cart(path.to_owned(), file.cart()),
            Err(e) => Message::Say(Level::Error, e.to_string()),
        },
        Some(v) if v.get("layers").is_some() && v.get("hook").is_some() => Message::Direction(path.to_owned()),
        _ => read_stack(path),
    }
}

/// A circuit to compare with.
pub fn read_compared(path: &std::path::Path) -> Message {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    match crate::circuit::file::CircuitFile::open(path) {
        Ok(file) => Message::Compared(name, file.cart()),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

pub fn graph_bytes(shown: &Shown, cut: &Cut, marks: &Marks) -> Message {
    let text = shown.file(cut).and_then(|mut f| {
        marks.write(&mut f);
        serde_json::to_vec(&f.to_json()).map_err(|e| Error::failed(e.to_string()))
    });
    match text {
        Ok(bytes) => Message::Save("graph.json".to_owned(), bytes),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

fn written(path: &std::path::Path, bytes: &[u8]) -> Message {
    match write_atomic(path, bytes) {
        Ok(()) => Message::Say(Level::Info, format!("Saved {}.", path.display())),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}
