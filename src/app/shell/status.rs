//! The bottom line: what runs, how far it is, and what the machine is.

use crate::app::view::{Context, Workspace};
use eframe::egui::{self, RichText};

use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::training::TrainingAction;
use crate::app::widgets::names;
use crate::memory;
use crate::question::Question as _;
use crate::superposition::live::ToyTrainingOf;
use crate::training::live::TransformerTrainingOf;

/// Shows how far the training of toy models is.
fn toy_models(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let state = &cx.state.superposition;
    let Some((fraction, left)) = state.progress() else { return };
    let models = state.setup().map_or(0, |s| s.instances.len());
    ui.label(RichText::new(format!("training {models} toy models")).font(theme::small()));
    ui.add(egui::ProgressBar::new(fraction).desired_width(160.0).desired_height(6.0));
    if let Some(left) = left {
        ui.label(RichText::new(names::left(left)).font(theme::mono_small()).color(cx.palette.weak));
    }
    if ui.small_button("pause").clicked() {
        cx.push(Action::Superposition(SuperpositionAction::Pause(true)));
    }
}

/// Shows how far the training of a transformer is.
fn transformer(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let Some((fraction, left)) = cx.state.training.progress() else { return };
    ui.label(RichText::new(format!("training {}", cx.state.training.task.name)).font(theme::small()));
    ui.add(egui::ProgressBar::new(fraction).desired_width(160.0).desired_height(6.0));
    if let Some(left) = left {
        ui.label(RichText::new(names::left(left)).font(theme::mono_small()).color(cx.palette.weak));
    }
    if ui.small_button("stop").clicked() {
        cx.push(Action::Training(TrainingAction::Stop));
    }
}

pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>, adapter: &str, workspace: Workspace) {
    ui.horizontal_centered(|ui| {
        // Trainings that are watched live have lines of their own.
        let live = [ToyTrainingOf::LABEL, TransformerTrainingOf::LABEL];
        match cx.state.pool.running().iter().find(|t| !live.contains(&t.label)) {
            Some(task) => {
                // The bar is shown only for work that is felt; shorter jobs would make the line flicker.
                if task.progress.elapsed() > 0.25 {
                    ui.label(RichText::new(task.label).font(theme::small()));
                    let bar = egui::ProgressBar::new(task.progress.fraction()).desired_width(160.0);
                    ui.add(bar.desired_height(6.0));
                    if let Some(left) = task.progress.seconds_left() {
                        let text = RichText::new(names::left(left)).font(theme::mono_small());
                        ui.label(text.color(cx.palette.weak));
                    }
                    let waiting = cx.state.pool.waiting();
                    if waiting > 0 {
                        let text = format!("{waiting} more waiting");
                        ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
                    }
                    if ui.small_button("cancel").on_hover_text("Escape").clicked() {
                        cx.push(Action::Do(Command::Cancel));
                    }
                } else {
                    ui.label(RichText::new("working …").font(theme::small()).color(cx.palette.weak));
                }
                ui.ctx().request_repaint_after(std::time::Duration::from_millis(100));
            }
            None if cx.state.superposition.is_running() || cx.state.training.is_running() => {}
            None => {
                let text = match cx.state.run().filter(|_| matches!(workspace, Workspace::Model | Workspace::Features))
                {
                    Some(r) => format!(
                        "{} tokens · mean loss {}",
                        r.trace.len(),
                        r.trace.mean_loss().map_or("–".to_owned(), |l| format!("{l:.2} nats"))
                    ),
                    None => "ready".to_owned(),
                };
                ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
            }
        }
        if cx.state.superposition.is_running() {
            toy_models(ui, cx);
        }
        if cx.state.training.is_running() {
            transformer(ui, cx);
        }
        let draft = &cx.state.desk().draft;
        if !draft.is_empty() {
            ui.separator();
            let n = draft.nodes.len();
            let mut text = format!("circuit: {}", names::counted(n, "component"));
            if let Some(t) = cx.state.results.tried.get().filter(|t| t.fresh) {
                let q = &t.quality;
                // Hardly less than nothing is nothing.
                let tidy = |v: f32| if v.abs() < 0.005 { 0.0 } else { v };
                text += &format!(
                    " · {} edges · faithful {:.2} · complete {:.2}",
                    q.size,
                    tidy(q.faithfulness),
                    tidy(q.completeness)
                );
            }
            let link = egui::Label::new(RichText::new(text).font(theme::small())).sense(egui::Sense::click());
            if ui.add(link).on_hover_text("show the circuit").clicked() {
                cx.push(Action::Show(crate::app::model::views::circuit::VIEW.name));
            }
        }
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let memory = cx.state.model.as_ref().map_or(0, |m| m.weight_bytes());
            let threads = rayon::current_num_threads();
            let weights = memory::bytes(memory as u64);
            let whole = format!("{weights} of weights · {adapter} · {threads} threads");
            // What runs comes first where both have no room.
            let width =
                |t: &str| ui.painter().layout_no_wrap(t.to_owned(), theme::small(), cx.palette.weak).size().x + 16.0;
            let texts = [whole.clone(), format!("{weights} of weights")];
            if let Some(text) = texts.into_iter().find(|t| width(t) <= ui.available_width()) {
                ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak))
                    .on_hover_text(format!("memory of the weights, graphics adapter, threads of the model: {whole}"));
            }
            let n = cx.state.notices.len();
            if n > 0 && ui.small_button(if n == 1 { "1 message".to_owned() } else { format!("{n} messages") }).clicked()
            {
                cx.push(Action::Do(Command::Messages));
            }
        });
    });
}
