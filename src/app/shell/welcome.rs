//! What a first start says: what this is, in three cards.

use eframe::egui::{self, RichText};

use super::lessons::LessonAction;
use crate::app::App;
use crate::app::action::{Action, Command};
use crate::app::look::theme::{self, Palette};
use crate::app::view::Context;

/// What the parts of the window are, for somebody who sees them for the first time.
const PARTS: [(&str, &str); 6] = [
    ("The prompt", "is the text that the model reads. Type another one: everything follows as you type."),
    (
        "The coloured tokens",
        "are its pieces. The brighter one is, the less the model expected it. A click chooses one.",
    ),
    ("Right of the arrow", "stands what the model expects next, and how surely. A click asks why."),
    ("Attention", "shows for each head from which tokens it takes what it carries on."),
    ("Lenses", "show what the model would say if it stopped after each layer."),
    ("Direct attribution", "shows which head and which MLP pushed the answer up or down."),
];

impl App {
    /// The cards, until they are put away.
    pub(in crate::app) fn welcome(ui: &mut egui::Ui, cx: &mut Context<'_>, explains: &mut bool) {
        let palette = cx.palette;
        let frame = egui::Frame::new().fill(palette.base).inner_margin(egui::Margin::symmetric(12, 6));
        egui::Panel::top("welcome").frame(frame).resizable(false).show_separator_line(false).show(ui, |ui| {
            let cards: [(&str, &str, Action); 3] = [
                (
                    "Open a model",
                    "This program runs a language model and shows how each word comes about. A small one is open already.",
                    Action::Do(Command::OpenFile),
                ),
                (
                    "Try a lesson",
                    "Guided tours of ten minutes: attention heads, induction, superposition, features.",
                    Action::Lesson(LessonAction::Begin(0)),
                ),
                ("What am I looking at?", "Every part of this window in a sentence.", Action::Say(String::new())),
            ];
            let width = (ui.available_width() - 40.0) / 3.0 - ui.spacing().item_spacing.x;
            ui.horizontal_top(|ui| {
                for (k, (title, text, action)) in cards.into_iter().enumerate() {
                    if card(ui, palette, width, title, text) {
                        // First, since a lesson puts this document aside.
                        cx.push(Action::Welcomed);
                        if k == 2 {
                            *explains = true;
                        } else {
                            cx.push(action);
                        }
                    }
                }
                if ui.button("×").on_hover_text("put these away").clicked() {
                    cx.push(Action::Welcomed);
                }
            });
        });
    }

    /// What the window's parts are.
    pub(in crate::app) fn explain(&mut self, ctx: &egui::Context) {
        let window = egui::Window::new("What am I looking at?").open(&mut self.explains).collapsible(false);
        let window = window.resizable(false).anchor(egui::Align2::CENTER_CENTER, egui::Vec2::ZERO);
        window.show(ctx, |ui| {
            ui.set_width(460.0);
            for (part, what) in PARTS {
                ui.label(RichText::new(part).font(theme::title()));
                ui.label(what);
                ui.add_space(theme::GRID);
            }
            ui.label(
                "The ? at a view's tab says more of it; F1 lists what keys and mouse do; Ctrl+K finds everything.",
            );
        });
    }
}

fn card(ui: &mut egui::Ui, palette: Palette, width: f32, title: &str, text: &str) -> bool {
    let frame = egui::Frame::new().fill(palette.panel).corner_radius(6.0).inner_margin(egui::Margin::same(8));
    let down = egui::Layout::top_down(egui::Align::Min);
    ui.allocate_ui_with_layout(egui::vec2(width, 72.0), down, |ui| {
        let shown = frame.show(ui, |ui| {
            ui.set_min_size(egui::vec2(width - 16.0, 64.0));
            let pressed = ui.button(RichText::new(title).font(theme::title())).clicked();
            ui.add(egui::Label::new(RichText::new(text).color(palette.weak)).wrap());
            pressed
        });
        shown.inner
    })
    .inner
}
