//! The bottom line: what runs, how far it is, and what the machine is.

use crate::app::view::{Context, Workspace};
use eframe::egui::{self, RichText};

use crate::app::action::Action;
use crate::app::action::Command;
use crate::app::look::theme;
use crate::app::superposition::LabAction;
use crate::app::training::ScratchAction;
use crate::jobs::pool::Task;

/// How far the superposition lab is.
fn training(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let lab = &cx.state.lab;
    let Some((fraction, left)) = lab.progress() else { return };
    let models = lab.setup().map_or(0, |s| s.instances.len());
    ui.label(RichText::new(format!("training {models} toy models")).font(theme::small()));
    ui.add(egui::ProgressBar::new(fraction).desired_width(160.0).desired_height(6.0));
    if let Some(left) = left {
        ui.label(RichText::new(format!("{left:.1} s left")).font(theme::mono_small()).color(cx.palette.weak));
    }
    if ui.small_button("pause").clicked() {
        cx.actions.push(Action::Lab(LabAction::Pause(true)));
    }
}

/// How far the transformer is that is being trained.
fn course(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let Some((fraction, left)) = cx.state.scratch.progress() else { return };
    ui.label(RichText::new(format!("training {}", cx.state.scratch.lab)).font(theme::small()));
    ui.add(egui::ProgressBar::new(fraction).desired_width(160.0).desired_height(6.0));
    if let Some(left) = left {
        ui.label(RichText::new(format!("{left:.0} s left")).font(theme::mono_small()).color(cx.palette.weak));
    }
    if ui.small_button("stop").clicked() {
        cx.actions.push(Action::Scratch(ScratchAction::Stop));
    }
}

/// Returns the longest of the tasks that take long enough to be felt; shorter ones would make the line flicker.
fn felt(cx: &Context<'_>) -> Option<Task> {
    cx.state.pool.running().into_iter().next().filter(|t| t.progress.elapsed() > 0.25)
}

/// How far a task is.
fn task(ui: &mut egui::Ui, cx: &mut Context<'_>, task: &Task) {
    ui.label(RichText::new(task.label).font(theme::small()));
    ui.add(egui::ProgressBar::new(task.progress.fraction()).desired_width(160.0).desired_height(6.0));
    if let Some(left) = task.progress.seconds_left() {
        ui.label(RichText::new(format!("{left:.0} s left")).font(theme::mono_small()).color(cx.palette.weak));
    }
    if ui.small_button("stop").on_hover_text("Escape").clicked() {
        cx.actions.push(Action::Do(Command::Cancel));
    }
}

pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>, adapter: &str, workspace: Workspace) {
    let felt = felt(cx);
    ui.horizontal_centered(|ui| {
        match cx.state.worker.status() {
            Some(status) => {
                // The wheel starts only for work that is felt; shorter jobs would make the line flicker.
                let felt = status.progress.elapsed() > 0.25;
                if felt {
                    ui.label(RichText::new(status.kind.label()).font(theme::small()));
                    let bar =
                        egui::ProgressBar::new(status.progress.fraction()).desired_width(160.0).desired_height(6.0);
                    ui.add(bar);
                    if let Some(left) = status.progress.seconds_left() {
                        ui.label(
                            RichText::new(format!("{left:.1} s left")).font(theme::mono_small()).color(cx.palette.weak),
                        );
                    }
                    if status.waiting > 0 {
                        let text = format!("{} more waiting", status.waiting);
                        ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
                    }
                    if ui.small_button("cancel").on_hover_text("Escape").clicked() {
                        cx.actions.push(Action::Do(Command::Cancel));
                    }
                } else {
                    ui.label(RichText::new("working …").font(theme::small()).color(cx.palette.weak));
                }
                ui.ctx().request_repaint_after(std::time::Duration::from_millis(100));
            }
            None if cx.state.lab.is_running() || cx.state.scratch.is_running() || felt.is_some() => {}
            None => {
                let text = match cx.state.run().filter(|_| matches!(workspace, Workspace::Model | Workspace::Features))
                {
                    Some(r) => format!(
                        "{} tokens · mean loss {}",
                        r.trace.len(),
                        r.trace.mean_loss().map_or("–".to_owned(), |l| format!("{l:.3} nats"))
                    ),
                    None => "ready".to_owned(),
                };
                ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
            }
        }
        if cx.state.lab.is_running() {
            training(ui, cx);
        }
        if cx.state.scratch.is_running() {
            course(ui, cx);
        }
        if let Some(felt) = &felt {
            task(ui, cx, felt);
        }
        if cx.state.pool.is_busy() {
            ui.ctx().request_repaint_after(std::time::Duration::from_millis(200));
        }
        let cart = &cx.state.document.cart;
        if !cart.is_empty() {
            ui.separator();
            let n = cart.nodes.len();
            let mut text = format!("circuit: {n} component{}", if n == 1 { "" } else { "s" });
            if let Some(t) = cx.state.results.tried.get().filter(|t| t.fresh) {
                let q = &t.quality;
                text +=
                    &format!(" · {} edges · faithful {:.2} · complete {:.2}", q.size, q.faithfulness, q.completeness);
            }
            let link = egui::Label::new(RichText::new(text).font(theme::small())).sense(egui::Sense::click());
            if ui.add(link).on_hover_text("show the circuit").clicked() {
                cx.actions.push(Action::Show(crate::app::model::views::circuit::VIEW.name));
            }
        }
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let memory = cx.state.model.as_ref().map_or(0, |m| m.weight_bytes());
            let threads = rayon::current_num_threads();
            let text = format!("{:.0} MB weights · {adapter} · {threads} threads", memory as f64 / 1e6);
            ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak))
                .on_hover_text("memory of the weights as f32, graphics adapter, threads of the model");
            let n = cx.state.notices.len();
            if n > 0 && ui.small_button(if n == 1 { "1 message".to_owned() } else { format!("{n} messages") }).clicked()
            {
                cx.actions.push(Action::Do(Command::Messages));
            }
        });
    });
}
