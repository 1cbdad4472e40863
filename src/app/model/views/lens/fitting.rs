//! Fitting a lens beside the window: what it is fitted on, how far it is, and how far two halves of its prompts agree.

use std::path::PathBuf;

use eframe::egui::{self, RichText};
use egui_plot::{Line, Plot, PlotPoints};

use super::VIEW;
use super::reading::Reading;
use super::settings::LensSettings;
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::captioned;
use crate::app::widgets::plots::{axes, said_of_points};
use crate::lenses::question::MergeOf;

/// Height of the picture.
const HEIGHT: f32 = 56.0;

/// What is typed for the next fit, once that differs from what the last one was asked for; and the folder of the parts that
/// are put together next.
#[derive(Default)]
pub struct Typed {
    next: Option<(String, usize)>,
    parts: String,
}

pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>, reading: &mut Reading, typed: &mut Typed, settings: &LensSettings) {
    let mut new = settings.clone();
    let Reading { fit, begun, jacobian, .. } = reading;
    // What is done is opened, and nothing is fitted any more.
    if let Some(fitted) = fit.take_news() {
        new.jacobian = fitted.lens.path.as_ref().map(|path| path.display().to_string());
        // The file may have been there already.
        jacobian.again();
        *begun = None;
    }
    let Typed { next, parts } = typed;
    let (words, prompts) = next.get_or_insert_with(|| (settings.text.clone(), settings.prompts));
    let (mut goes, mut stops) = (false, false);
    let slot = &*fit;
    let weak = cx.palette.weak;
    let small = move |t: String| RichText::new(t).font(theme::small()).color(weak);
    ui.horizontal_wrapped(|ui| {
        ui.add_enabled_ui(!slot.is_running(), |ui| {
            captioned(ui, small("fit on".to_owned()), 90.0, |ui| {
                ui.add(egui::TextEdit::singleline(words).desired_width(90.0))
                    .on_hover_text("a text file, a folder of them, or a shipped text: mixed, prose")
                    .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "text to fit a lens on"));
            });
            captioned(ui, small("prompts".to_owned()), 50.0, |ui| {
                ui.add(egui::DragValue::new(prompts).range(2..=100_000)).accessible_name("Prompts");
            });
        })
        .response
        .on_disabled_hover_text("stop the fit first");
        if slot.is_running() {
            if ui.button("Stop").on_hover_text("it goes on from here when it is fitted again").clicked() {
                *begun = None;
                stops = true;
            }
            let left = slot.progress().and_then(crate::progress::Progress::seconds_left);
            let left = left.map_or(String::new(), |s| format!(", {} left", span(s)));
            let done = slot.progress().map_or(0.0, crate::progress::Progress::fraction);
            ui.label(small(format!("{:.0} %{left}", 100.0 * done)));
        } else {
            let text = RichText::new("Fit").color(cx.palette.base);
            let button = egui::Button::new(text).fill(cx.palette.accent);
            if ui.add(button).on_hover_text("a fit that was stopped goes on").clicked() {
                (new.text, new.prompts) = (words.clone(), *prompts);
                goes = true;
            }
        }
        if let Some(f) = slot.fresh() {
            ui.label(small(format!("{} of {} prompts", f.prompts, f.total)));
        }
        if let Some(error) = slot.error() {
            ui.label(RichText::new(error).font(theme::small()).color(cx.palette.error));
        }
    });
    merge_ui(ui, cx, reading, parts, &mut new);
    let fit = &mut reading.fit;
    if stops {
        fit.want(&cx.state.pool, None);
    }
    if goes {
        begin(cx, reading, &new);
    }
    if new != *settings {
        cx.set(&VIEW, &new);
    }
    let Some(fitted) = reading.fit.get().filter(|f| !f.agreement.is_empty()) else { return };
    ui.label(small("how far the lenses of two halves of the prompts agree, by layer (cosine)".to_owned()));
    axes(Plot::new("halves"), "layer", true)
        .height(HEIGHT)
        .show_grid([false, true])
        .allow_scroll(false)
        .include_y(0.0)
        .include_y(1.0)
        .label_formatter(said_of_points(|_, x, y| format!("layer {x:.0}\n{y:.4}")))
        .show(ui, |p| {
            let points: PlotPoints<'_> = fitted.agreement.iter().map(|(l, a)| [*l as f64, f64::from(*a)]).collect();
            p.line(Line::new("halves", points).color(cx.palette.accent).width(2.0));
        });
}

/// The field for parts that were fitted elsewhere.
fn merge_ui(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    reading: &mut Reading,
    parts: &mut String,
    new: &mut LensSettings,
) {
    let weak = cx.palette.weak;
    let small = move |t: String| RichText::new(t).font(theme::small()).color(weak);
    let Reading { merge, jacobian, .. } = reading;
    if let Some(merged) = merge.take_news() {
        new.jacobian = Some(merged.output.display().to_string());
        // The file may be there already, of fewer parts.
        jacobian.again();
        let beside = |n: usize, what: &str| if n > 0 { format!("; {n} {what}") } else { String::new() };
        cx.push(Action::Say(format!(
            "{} parts of {} prompts are merged{}{}.",
            merged.parts,
            merged.prompts,
            beside(merged.missing, "are still missing"),
            beside(merged.others, "other files of the folder are left out")
        )));
    }
    ui.horizontal_wrapped(|ui| {
        captioned(ui, small("parts".to_owned()), 150.0, |ui| {
            ui.add(egui::TextEdit::singleline(parts).desired_width(150.0).hint_text("their folder"))
                .on_hover_text("the folder of the parts that `jlens fit --shard` wrote, here or on other machines")
                .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "folder of parts"));
        });
        let (there, running) = (!parts.trim().is_empty(), merge.is_running());
        let button = ui.add_enabled(there && !running, egui::Button::new("Merge"));
        let why = if running { "merging …" } else { "name the folder of the parts" };
        if button.on_disabled_hover_text(why).clicked()
            && let Some(model) = cx.state.model.clone()
        {
            let folder = cx.state.features.folders.lenses.clone();
            merge.again();
            merge.want(&cx.state.pool, Some(MergeOf { model, parts: PathBuf::from(parts.trim()), folder }));
        }
        if let Some(error) = merge.error() {
            ui.label(RichText::new(error).font(theme::small()).color(cx.palette.error));
        }
    });
}

/// Begins a fit, or goes on with one that was stopped.
pub fn begin(cx: &Context<'_>, reading: &mut Reading, settings: &LensSettings) {
    let folder = &cx.state.features.folders.lenses;
    reading.begun = cx.state.model.as_ref().map(|model| settings.fit(model, folder));
    // A text of the same name may have been changed since.
    reading.fit.again();
    reading.fit.want(&cx.state.pool, reading.begun.clone());
}

/// Seconds in words.
fn span(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
