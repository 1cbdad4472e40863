//! The command palette: every command and view, by typing part of its name.

use eframe::egui::{self, RichText};

use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::view;

#[derive(Default)]
pub struct CommandPalette {
    pub open: bool,
    query: String,
    selected: usize,
}

impl CommandPalette {
    pub fn show(&mut self) {
        self.open = true;
        self.query.clear();
        self.selected = 0;
    }

    pub fn ui(&mut self, ctx: &egui::Context, actions: &mut Vec<Action>) {
        if !self.open {
            return;
        }
        let palette = Palette::of(ctx);
        let mut entries: Vec<(String, String, Action)> = Command::ALL
            .iter()
            .filter(|c| **c != Command::Palette)
            .map(|c| {
                let keys = c.shortcut().map(|s| ctx.format_shortcut(&s)).unwrap_or_default();
                (c.title().to_owned(), keys, Action::Do(*c))
            })
            .collect();
        entries.extend(view::all().map(|v| (format!("Show {}", v.title), String::new(), Action::Show(v.name))));
        let query = self.query.to_lowercase();
        entries.retain(|(title, ..)| is_subsequence(&query, &title.to_lowercase()));
        self.selected = self.selected.min(entries.len().saturating_sub(1));
        let (down, up, enter) = ctx.input_mut(|i| {
            (
                i.consume_key(egui::Modifiers::NONE, egui::Key::ArrowDown),
                i.consume_key(egui::Modifiers::NONE, egui::Key::ArrowUp),
                i.consume_key(egui::Modifiers::NONE, egui::Key::Enter),
            )
        });
        if down {
            self.selected = (self.selected + 1).min(entries.len().saturating_sub(1));
        }
        if up {
            self.selected = self.selected.saturating_sub(1);
        }
        let mut chosen = if enter { entries.get(self.selected).map(|e| e.2.clone()) } else { None };
        let modal = egui::Modal::new(egui::Id::unique("command palette")).show(ctx, |ui| {
            ui.set_width(460.0);
            let field =
                egui::TextEdit::singleline(&mut self.query).hint_text("Type a command").desired_width(f32::INFINITY);
            ui.add(field).accessible_name("Type a command").request_focus();
            ui.add_space(theme::GRID);
            egui::ScrollArea::vertical().max_height(360.0).show(ui, |ui| {
                for (i, (title, keys, action)) in entries.iter().enumerate() {
                    let text = RichText::new(title);
                    let button = egui::Button::selectable(i == self.selected, text)
                        .right_text(RichText::new(keys).font(theme::mono_small()).color(palette.weak));
                    if ui.add_sized([ui.available_width(), 24.0], button).clicked() {
                        chosen = Some(action.clone());
                    }
                }
                if entries.is_empty() {
                    ui.label(RichText::new("no command has these letters").color(palette.weak));
                }
            });
        });
        if modal.should_close() {
            self.open = false;
        }
        if let Some(action) = chosen {
            self.open = false;
            actions.push(action);
        }
    }
}

/// Whether the letters of `needle` stand in `hay` in this order.
fn is_subsequence(needle: &str, hay: &str) -> bool {
    let mut letters = hay.chars();
    needle.chars().filter(|c| !c.is_whitespace()).all(|c| letters.any(|h| h == c))
}

#[cfg(test)]
mod tests {
    use super::is_subsequence;

    #[test]
    fn letters_in_order() {
        assert!(is_subsequence("sat", "show attention"));
        assert!(!is_subsequence("xs", "show attention"));
        assert!(is_subsequence("", "anything"));
    }
}
