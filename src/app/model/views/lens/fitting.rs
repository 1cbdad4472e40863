//! Fitting a lens beside the window: what it is fitted on, how far it is, and how far two halves of its prompts agree.

use eframe::egui::{self, RichText};
use egui_plot::{Line, Plot, PlotPoints};

use super::VIEW;
use super::settings::LensSettings;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::captioned;
use crate::app::widgets::plots::{axes, said_of_points};
use crate::jobs::{AnySlot, Slot};
use crate::lenses::question::FitOf;

/// Height of the picture.
const HEIGHT: f32 = 120.0;

/// What is typed for the next fit, once that differs from what the last one was asked for.
pub type Typed = Option<(String, usize)>;

pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>, fit: &mut Slot<FitOf>, typed: &mut Typed, settings: &LensSettings) {
    let mut new = settings.clone();
    // What is done is opened, and nothing is fitted any more.
    if let Some(output) = fit.take_news().and_then(|_| fit.get().map(|f| f.question.output.clone())) {
        new.jacobian = Some(output.display().to_string());
        new.fits = false;
    }
    let (words, prompts) = typed.get_or_insert_with(|| (settings.text.clone(), settings.prompts));
    let mut goes = false;
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
                new.fits = false;
            }
            let left = slot.progress().and_then(crate::progress::Progress::seconds_left);
            let left = left.map_or(String::new(), |s| format!(", {} left", span(s)));
            let done = slot.progress().map_or(0.0, crate::progress::Progress::fraction);
            ui.label(small(format!("{:.0} %{left}", 100.0 * done)));
        } else {
            let text = RichText::new("Fit").color(cx.palette.base);
            let button = egui::Button::new(text).fill(cx.palette.accent);
            if ui.add(button).on_hover_text("a fit that was stopped goes on").clicked() {
                (new.fits, new.text, new.prompts) = (true, words.clone(), *prompts);
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
    if goes {
        fit.retry();
    }
    if new != *settings {
        cx.set(&VIEW, &new);
    }
    let Some(fitted) = fit.get().filter(|f| !f.agreement.is_empty()) else { return };
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

/// Seconds in words.
fn span(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
