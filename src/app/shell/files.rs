//! What the window opens and saves, away from the thread that draws.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui;

use super::notices::Level;
use super::save::Choice;
use crate::app::App;
use crate::app::action::Load;
use crate::app::look::picture;
use crate::circuit::draft::Draft;
use crate::circuit::file::{CircuitFile, FORMAT};
use crate::engine::EditStack;
use crate::error::{Error, Result};
use crate::features::dictionary::formats;
use crate::files::write_atomic;
use crate::graph::layout::{Cut, Shown};
use crate::graph::marks::Marks;
use crate::jobs::slot::Slot;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use crate::session::file::{EXTENSION, Session, is_session};
use crate::session::kept;

/// What has come of a file.
#[derive(Clone, Debug)]
pub enum Message {
    Nothing,
    Open(PathBuf),
    Say(Level, String),
    /// Bytes that want a place, under a proposed name.
    Save(String, Vec<u8>),
    /// The place chosen in the system's dialog.
    SaveTo(PathBuf),
    Stack(PathBuf, EditStack),
    Graph(PathBuf),
    Dictionary(PathBuf),
    /// A file with a direction.
    Direction(PathBuf),
    Circuit(PathBuf, Draft),
    /// A session, with its file.
    Session(Box<Session>),
    /// A file was written.
    Saved(PathBuf),
    /// Models that lessons need and that are there.
    Models(HashMap<String, PathBuf>),
    /// A circuit's name, and the circuit to compare with.
    Compared(String, Draft),
}

type Work = dyn Fn() -> Message + Send + Sync;

/// Work with a file. Each piece is asked for once and is equal to itself alone.
#[derive(Clone)]
pub struct FileOf(Arc<Work>);

impl PartialEq for FileOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Question for FileOf {
    type Answer = Message;
    const LABEL: &'static str = "reading or writing a file";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Message)) -> Result<Message> {
        Ok((self.0)())
    }
}

/// Files that are being read and written.
#[derive(Default)]
pub struct Files(Vec<Slot<FileOf>>);

impl Files {
    /// What has come of files since this was last asked.
    pub fn poll(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        for slot in &mut self.0 {
            slot.poll();
            all.extend(slot.take_news().map(|m| (*m).clone()));
            all.extend(slot.take_error().map(|e| Message::Say(Level::Error, e)));
        }
        self.0.retain(Slot::is_running);
        all
    }
}

impl App {
    /// Works with a file; what comes of it arrives as a message.
    pub fn background(&mut self, work: impl Fn() -> Message + Send + Sync + 'static) {
        let mut slot = Slot::default();
        slot.want(&self.state.pool, Some(FileOf(Arc::new(work))));
        self.files.0.push(slot);
    }

    /// Asks the system for a file, or reads the one that was named.
    pub fn load(&mut self, what: &Load) {
        let what = what.clone();
        self.background(move || {
            if let Load::Stack(Some(path)) = &what {
                return read_stack(Path::new(path));
            }
            let (title, filter, extensions): (_, _, &[&str]) = match &what {
                Load::ModelFile | Load::ModelFolder => {
                    ("Open a model or a session", "models, sessions and results", &["gguf", "safetensors", "json", EXTENSION])
                }
                Load::Graph => ("Open a graph or a circuit", "graphs and circuits", &["json"]),
                Load::Compared => ("A circuit to compare with", "circuits", &["json"]),
                Load::Stack(_) => ("Open a stack of edits", "edits", &["json"]),
            };
            let dialog = rfd::AsyncFileDialog::new().set_title(title);
            let handle = if what == Load::ModelFolder {
                pollster::block_on(dialog.pick_folder())
            } else {
                pollster::block_on(dialog.add_filter(filter, extensions).pick_file())
            };
            // The dialog gives nothing both when it is cancelled and when the system has none.
            let Some(handle) = handle else {
                let text = "No file was chosen; a file can also be dropped on the window, and a model's path be typed in the model menu.";
                return Message::Say(Level::Info, text.to_owned());
            };
            let path = handle.path();
            match &what {
                Load::ModelFile => read_dropped(path),
                Load::ModelFolder => Message::Open(path.to_owned()),
                Load::Graph => read_json(path),
                Load::Compared => read_compared(path),
                Load::Stack(_) => read_stack(path),
            }
        });
    }

    /// The question where to save, and what follows from the answer.
    pub fn saving(&mut self, ctx: &egui::Context) {
        let Some(choice) = self.save.as_mut().and_then(|s| s.ui(ctx)) else { return };
        match choice {
            Choice::Cancel => self.save = None,
            Choice::Write(path) => {
                if let Some(save) = self.save.take() {
                    self.background(move || written(&path, &save.bytes));
                }
            }
            Choice::Browse => self.background(|| {
                let dialog = rfd::AsyncFileDialog::new().set_title("Save as");
                pollster::block_on(dialog.save_file())
                    .map_or(Message::Nothing, |h| Message::SaveTo(h.path().to_owned()))
            }),
        }
    }

    /// Takes a picture of a view at the end of the next frame.
    pub fn save_picture(&self, ctx: &egui::Context, view: &'static str) {
        let rect = self.layout.pane(view).and_then(|(_, rect)| rect);
        let (taken, wake) = (self.screenshots.clone(), ctx.clone());
        let ppp = ctx.pixels_per_point();
        ctx.request_screenshot(move |image| {
            taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((view, image, rect, ppp));
            wake.request_repaint();
        });
    }

    /// Pictures that were taken become files.
    pub fn develop(&mut self) {
        let taken = std::mem::take(&mut *self.screenshots.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (view, image, rect, ppp) in taken {
            self.background(move || match picture::encode(&image, rect, ppp) {
                Ok(bytes) => Message::Save(format!("{view}.png"), bytes),
                Err(e) => Message::Say(Level::Error, e.to_string()),
            });
        }
    }
}

/// A picture of a view on its way: the view, the window's picture, the view's place in it, pixels a point.
pub type Screenshot = (&'static str, Arc<egui::ColorImage>, Option<egui::Rect>, f32);

fn read_stack(path: &Path) -> Message {
    match EditStack::open(path) {
        Ok(stack) => Message::Stack(path.to_owned(), stack),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

/// A file or folder that was opened or dropped on the window: a session, a graph, a circuit, a direction, a stack of
/// edits, a dictionary, or a model.
pub fn read_dropped(path: &Path) -> Message {
    if is_session(path) {
        return read_session(path);
    }
    let config = path.file_name().is_some_and(|n| n == "config.json" || n == "cfg.json");
    if path.extension().is_some_and(|e| e == "json") && !config {
        read_json(path)
    } else if formats::is_dropped(path) {
        Message::Dictionary(path.to_owned())
    } else {
        Message::Open(path.to_owned())
    }
}

/// A JSON file: a graph, a circuit, a direction, or a stack of edits.
fn read_json(path: &Path) -> Message {
    let value = std::fs::read(path).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    match value {
        Some(v) if v.get("nodes").is_some() && v.get("links").is_some() => Message::Graph(path.to_owned()),
        Some(v) if v.get("format").and_then(|f| f.as_str()) == Some(FORMAT) => match CircuitFile::open(path) {
            Ok(file) => Message::Circuit(path.to_owned(), file.draft()),
            Err(e) => Message::Say(Level::Error, e.to_string()),
        },
        Some(v) if v.get("layers").is_some() && v.get("hook").is_some() => Message::Direction(path.to_owned()),
        _ => read_stack(path),
    }
}

/// A session. One that was kept by itself says where the user's file is; any other file is the user's.
pub fn read_session(path: &Path) -> Message {
    match Session::open(path) {
        Ok(session) if path.starts_with(kept::folder()) => Message::Session(Box::new(session)),
        Ok(session) => Message::Session(Box::new(Session { file: Some(path.to_owned()), ..session })),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

/// A circuit to compare with.
fn read_compared(path: &Path) -> Message {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    match CircuitFile::open(path) {
        Ok(file) => Message::Compared(name, file.draft()),
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

fn written(path: &Path, bytes: &[u8]) -> Message {
    match write_atomic(path, bytes) {
        Ok(()) => Message::Saved(path.to_owned()),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}
