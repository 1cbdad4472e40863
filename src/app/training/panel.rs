//! The bars of the training workspace: the task and its settings at the left, the way back through time above.

use crate::app::view::{Context, Workspace};
use crate::app::widgets::names;
use eframe::egui::{self, RichText, vec2};

use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::training::TrainingAction;
use crate::app::widgets::colorbar::number;
use crate::training::TASKS;

pub fn settings(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let s = &cx.state.training;
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 3.0;
        ui.add_space(4.0);
        let weak = |t: &str| RichText::new(t).font(theme::small()).color(cx.palette.weak);
        ui.label(RichText::new("Models").font(theme::title()).color(cx.palette.weak));
        for task in TASKS {
            let button = egui::Button::selectable(s.task == task, task.name).truncate().right_text("");
            let size = [ui.available_width(), 22.0];
            let response = ui.add_enabled_ui(!s.is_running(), |ui| ui.add_sized(size, button)).inner;
            let response = response.on_hover_text(task.purpose).on_disabled_hover_text(STOP_FIRST);
            if response.clicked() {
                cx.actions.push(Action::Training(TrainingAction::Choose(task.name)));
            }
        }
        let task = s.task;
        ui.add_space(6.0);
        ui.add(egui::Label::new(RichText::new(task.watch).font(theme::body())).wrap());
        ui.add(egui::Label::new(weak(task.source)).wrap());
        ui.add_space(8.0);
        ui.separator();
        ui.horizontal(|ui| {
            ui.label(weak("seed")).on_hover_text("first weights and data follow from it");
            let mut seed = s.seed;
            let field = egui::DragValue::new(&mut seed).speed(0.05);
            ui.add_enabled(!s.is_running(), field).on_disabled_hover_text(STOP_FIRST).accessible_name("seed");
            if seed != s.seed {
                cx.actions.push(Action::Training(TrainingAction::Seed(seed)));
            }
            let mut steps = s.steps.unwrap_or(task.steps);
            ui.label(weak("steps"));
            let field = egui::DragValue::new(&mut steps).range(10..=1_000_000).speed(10);
            ui.add_enabled(!s.is_running(), field).on_disabled_hover_text(STOP_FIRST).accessible_name("steps");
            if steps != s.steps.unwrap_or(task.steps) {
                let own = (steps != task.steps).then_some(steps);
                cx.actions.push(Action::Training(TrainingAction::Steps(own)));
            }
        });
        ui.add_space(4.0);
        let width = ui.available_width();
        let wide = |text: RichText| egui::Button::new(text.font(theme::title())).min_size(vec2(width, 30.0));
        if s.is_running() {
            if ui.add(wide(RichText::new("Stop"))).on_hover_text("it can go on from here").clicked() {
                cx.actions.push(Action::Training(TrainingAction::Stop));
            }
        } else {
            let text = RichText::new("Train").color(cx.palette.base);
            let help = format!("from first weights drawn by the seed; {}", task.time);
            if ui.add(wide(text).fill(cx.palette.accent)).on_hover_text(help).clicked() {
                cx.actions.push(Action::Training(TrainingAction::Start { fresh: true }));
            }
            if s.can_go_on()
                && ui.add(wide(RichText::new("Go on"))).on_hover_text("from where it was stopped").clicked()
            {
                cx.actions.push(Action::Training(TrainingAction::Start { fresh: false }));
            }
        }
        ui.add_space(8.0);
        ui.separator();
        ui.label(RichText::new("Look inside").font(theme::title()).color(cx.palette.weak));
        if let Some((step, folder)) = s.checkpoint() {
            let text = format!("Open the model of step {step}");
            let help = "as the model of all other views: lens, attribution, patching, graphs, circuits";
            if ui.add(wide(RichText::new(text))).on_hover_text(help).clicked() {
                open(cx, folder.display().to_string());
            }
        }
        if crate::model::builtin::by_name(task.name).is_some() {
            let help = "the trained model that ships with this program";
            if ui.add(wide(RichText::new("Open the finished model"))).on_hover_text(help).clicked() {
                open(cx, task.name.to_owned());
            }
        }
    });
}

/// Why the settings of a training under way cannot be changed.
const STOP_FIRST: &str = "stop the training first";

/// Opens a model with the prompt that shows it.
fn open(cx: &mut Context<'_>, spec: String) {
    let name = cx.state.training.task.name;
    let prompt = crate::model::builtin::by_name(name).map(|b| ModelAction::Prompt(b.prompt.to_owned()));
    cx.push(Action::OpenThen(spec, prompt.into_iter().collect()));
    cx.actions.push(Action::Enter(Workspace::Model));
}

/// The way back through time.
pub fn transport(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let s = &cx.state.training;
    ui.horizontal_centered(|ui| {
        let title = if s.is_running() { format!("training {}", s.task.name) } else { s.task.name.to_owned() };
        ui.label(RichText::new(title).font(theme::title()));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let total = s.steps.unwrap_or(s.task.steps);
            let text = match s.probe() {
                Some(probe) => {
                    let loss = s.reports().iter().rev().find(|r| r.step <= probe.step).and_then(|r| r.values.first());
                    let loss = loss.map_or(String::new(), |(_, v)| format!("   loss {}", number(*v)));
                    format!("step {} of {total}{loss}", probe.step)
                }
                None => "not trained yet".to_owned(),
            };
            ui.label(RichText::new(text).font(theme::mono()));
            if let Some((_, Some(left))) = s.progress() {
                ui.add_space(theme::GRID);
                ui.label(RichText::new(names::left(left)).font(theme::mono_small()).color(cx.palette.weak));
            }
            if s.shown.is_some() && ui.button("now").on_hover_text("back to the newest step").clicked() {
                cx.actions.push(Action::Training(TrainingAction::Scrub(None)));
            }
            let steps: Vec<usize> = s.probes().iter().map(|x| x.step).collect();
            let at = s.probe().map_or(0, |x| x.step);
            if let Some(k) = crate::app::widgets::scrubber::show(ui, &steps, at, total, s.shown.is_some()) {
                cx.actions.push(Action::Training(TrainingAction::Scrub(k)));
            }
        });
    });
}
