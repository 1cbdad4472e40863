//! Where to save: a path to type, with the system's dialog beside it. The system's dialog alone would not
//! do: without a desktop portal it gives nothing, which looks the same as a cancellation.

use std::path::PathBuf;

use eframe::egui;

/// Something to be written once its place is known.
pub struct Save {
    pub path: String,
    pub bytes: Vec<u8>,
}

/// What the user wants.
pub enum Choice {
    Write(PathBuf),
    Browse,
    Cancel,
}

impl Save {
    /// Proposes `name` in the user's documents, or the working folder.
    pub fn new(name: &str, bytes: Vec<u8>) -> Self {
        let folder = directories::UserDirs::new().and_then(|d| d.document_dir().map(PathBuf::from)).unwrap_or_default();
        // A label may be part of it, and have anything in it.
        let name = name.replace(['/', '\\', ':', '\0'], "_");
        Self { path: folder.join(name).display().to_string(), bytes }
    }

    pub fn ui(&mut self, ctx: &egui::Context) -> Option<Choice> {
        let mut choice = None;
        let modal = egui::Modal::new(egui::Id::unique("save")).show(ctx, |ui| {
            ui.set_width(480.0);
            ui.heading("Save as");
            let field = egui::TextEdit::singleline(&mut self.path).desired_width(f32::INFINITY);
            let response = ui.add(field).accessible_name("Path to save to");
            let enter = response.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
            ui.add_space(8.0);
            ui.horizontal(|ui| {
                if ui.button("Save").clicked() || enter {
                    choice = Some(Choice::Write(PathBuf::from(self.path.trim())));
                }
                if ui.button("Browse…").clicked() {
                    choice = Some(Choice::Browse);
                }
                if ui.button("Cancel").clicked() {
                    choice = Some(Choice::Cancel);
                }
            });
        });
        if modal.should_close() {
            choice = Some(Choice::Cancel);
        }
        choice
    }
}
