//! What a first start says: what is shown, in a line, and three ways to go on.

use eframe::egui::{self, RichText};

use super::lessons::{LessonAction, Lessons};
use super::topbar::TopBar;
use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::view::Context;
use crate::guide::Place;
use crate::model::builtin::BUILTINS;

/// The page of the guide for somebody who sees the window for the first time.
const FIRST: &str = "first-steps";

/// The cards, until they are put away.
pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>, lessons: &Lessons, top: &mut TopBar) {
    let palette = cx.palette;
    let frame = egui::Frame::new().fill(palette.base).inner_margin(egui::Margin::symmetric(12, 6));
    egui::Panel::top("welcome").frame(frame).resizable(false).show_separator_line(false).show(ui, |ui| {
        let backwards = egui::Layout::right_to_left(egui::Align::Min);
        ui.with_layout(backwards, |ui| {
            if ui.button("×").on_hover_text("put these away").clicked() {
                cx.push(Action::Welcomed);
            }
            ui.with_layout(egui::Layout::top_down(egui::Align::Min), |ui| {
                if let Some(story) = story(cx) {
                    ui.add(egui::Label::new(RichText::new(story).color(palette.text)).wrap());
                    ui.add_space(theme::GRID);
                }
                ui.columns(3, |uis| {
                    card(
                        &mut uis[0],
                        cx,
                        "What am I looking at?",
                        "Each part of this window in a sentence.",
                        |ui, cx| {
                            if ui.button("First steps").clicked() {
                                cx.push(Action::Guide(Place::page(FIRST)));
                            }
                            if ui.button("All of the guide").clicked() {
                                cx.push(Action::Guide(Place::page(crate::guide::CONTENTS)));
                            }
                        },
                    );
                    let tours = "Guided tours of ten minutes: attention, induction, superposition, features.";
                    card(&mut uis[1], cx, "Try a lesson", tours, |ui, cx| {
                        if ui.button("Begin the first").clicked() {
                            // First, since a lesson puts this document aside.
                            cx.push(Action::Welcomed);
                            cx.push(Action::Lesson(LessonAction::Begin(0)));
                        }
                    });
                    let is_small = BUILTINS.iter().any(|b| b.name == cx.state.desk().model);
                    let (title, models) = match is_small {
                        true => (
                            "A larger model",
                            "SmolLM2 speaks English: 135 million parameters. Or open a model of your own.",
                        ),
                        false => ("Another model", "A file, or a model that other programs keep on this machine."),
                    };
                    card(&mut uis[2], cx, title, models, |ui, cx| {
                        if is_small {
                            lessons.language_model(ui, cx.actions);
                        }
                        if ui.button("Open a file…").clicked() {
                            cx.push(Action::Do(Command::OpenFile));
                        }
                        top.found_models(ui, cx);
                    });
                });
            });
        });
    });
}

/// What the open model does with its own prompt, where it is one that ships.
fn story(cx: &Context<'_>) -> Option<&'static str> {
    let desk = cx.state.desk();
    let shown = BUILTINS.iter().find(|b| b.name == desk.model && b.prompt == desk.prompt)?;
    Some(shown.story)
}

fn card(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    title: &str,
    text: &str,
    buttons: impl FnOnce(&mut egui::Ui, &mut Context<'_>),
) {
    let frame = egui::Frame::new().fill(cx.palette.panel).corner_radius(6.0).inner_margin(egui::Margin::same(8));
    frame.show(ui, |ui| {
        ui.set_min_width(ui.available_width());
        // Columns would stretch the words of a line over all of it.
        ui.with_layout(egui::Layout::top_down(egui::Align::Min), |ui| {
            ui.label(RichText::new(title).font(theme::title()));
            ui.add(egui::Label::new(RichText::new(text).color(cx.palette.weak)).wrap());
            ui.horizontal_wrapped(|ui| buttons(ui, cx));
        });
    });
}
