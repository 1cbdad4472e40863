//! The views of features: what they share.

pub mod dashboard;
pub mod directions;
pub mod heatmap;
pub mod map;
pub mod monitor;
pub mod neurons;
pub mod training;

use eframe::egui::text::LayoutJob;
use eframe::egui::{self, Color32, Rangef, RichText, TextFormat};
use egui_plot::{AxisHints, GridInput, GridMark, Plot};

use super::{Context, message};
use crate::app::command::Action;
use crate::app::features::FeatureAction;
use crate::app::theme;
use crate::app::widgets::{captioned, token_text};
use crate::features::index::Example;
use crate::features::store::BUILTINS;

/// Says what to do where no dictionary is open; true if one is.
fn dictionary_open(ui: &mut egui::Ui, cx: &mut Context<'_>) -> bool {
    let s = &cx.state.features;
    if s.dictionary.value.is_some() {
        return true;
    }
    if let Some(e) = &s.dictionary.error {
        message(ui, e, true);
    } else if s.dictionary.is_running() {
        message(ui, "reading the dictionary …", false);
    } else if let Some(b) = BUILTINS.iter().find(|b| b.model == cx.state.document.model) {
        // The first thing anyone wants here is one click away.
        ui.vertical_centered(|ui| {
            ui.add_space((ui.available_height() / 2.0 - 40.0).max(0.0));
            ui.label(RichText::new("no dictionary is open").color(cx.palette.weak));
            ui.add_space(6.0);
            let button = egui::Button::new(RichText::new(format!("Open {}", b.name)).color(cx.palette.accent));
            if ui.add(button).on_hover_text(b.purpose).clicked() {
                act(cx, FeatureAction::Open(b.name.to_owned()));
            }
        });
    } else {
        message(ui, "open a dictionary at the left, or train one", false);
    }
    false
}

/// The pinned layer, to be changed where one has to be chosen.
pub(in crate::app) fn layer_field(ui: &mut egui::Ui, cx: &mut Context<'_>, last: usize) {
    let mut layer = cx.pinned().layer;
    captioned(ui, weak(cx, "layer"), 40.0, |ui| {
        let drag = egui::DragValue::new(&mut layer).range(0..=last).speed(0.1);
        ui.add(drag)
            .on_hover_text("the pinned layer; arrows up and down change it too")
            .accessible_name("pinned layer");
    });
    cx.pin(|p| p.layer = layer);
}

fn weak(cx: &Context<'_>, text: impl Into<String>) -> RichText {
    RichText::new(text).font(theme::small()).color(cx.palette.weak)
}

/// Numbers on an axis: multiples of 1, 2 or 5 times a power of ten, at least `apart` of the library's smallest distances
/// from each other, and whole where the axis is `counted`. The library's own powers of ten leave small plots with one.
fn round_marks(input: &GridInput, apart: f64, counted: bool) -> Vec<GridMark> {
    // Numbers with many digits need more room: the library leaves out those that do not have it.
    let digits = input.bounds.0.abs().max(input.bounds.1.abs()).max(1.0).log10().floor() + 1.0;
    let apart = if counted { apart.max(digits + 1.0) } else { apart };
    let least = (apart * input.base_step_size).max(if counted { 1.0 } else { f64::MIN_POSITIVE });
    let power = 10f64.powf(least.log10().floor());
    let step_size = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= least).unwrap_or(10.0 * power);
    let (from, to) = ((input.bounds.0 / step_size).ceil(), (input.bounds.1 / step_size).floor());
    // A plot that is not laid out yet has no bounds to speak of.
    let count = if to >= from { (to - from).min(100.0) as usize + 1 } else { 0 };
    (0..count).map(|i| GridMark { value: (from + i as f64) * step_size, step_size }).collect()
}

/// A mark's number with as many places as tell it from the next.
fn mark_text(mark: GridMark) -> String {
    let places = (-mark.step_size.log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{:.places$}", mark.value)
}

/// A plot's axes with numbers closer together than the library has them. Layers and steps are `counted`: between whole
/// numbers stands nothing.
fn axes<'a>(plot: Plot<'a>, x: &str, counted: bool) -> Plot<'a> {
    let label = RichText::new(x).font(theme::small());
    let across = AxisHints::new_x().label(label).label_spacing(Rangef::new(20.0, 30.0)).formatter(|m, _| mark_text(m));
    let upwards = AxisHints::new_y().min_thickness(44.0).label_spacing(Rangef::new(13.0, 18.0));
    let upwards = upwards.formatter(|m, _| mark_text(m));
    plot.x_grid_spacer(move |input| round_marks(&input, 5.0, counted))
        .y_grid_spacer(|input| round_marks(&input, 2.5, false))
        .custom_x_axes(vec![across])
        .custom_y_axes(vec![upwards])
}

fn act(cx: &mut Context<'_>, action: FeatureAction) {
    cx.actions.push(Action::Feature(action));
}

/// How strongly a token is shaded.
fn shade(cx: &Context<'_>, share: f32) -> Color32 {
    let share = share.clamp(0.0, 1.0);
    if share <= 0.0 { Color32::TRANSPARENT } else { cx.palette.positive.gamma_multiply(0.12 + 0.68 * share) }
}

/// An example's tokens, shaded by activation; the one it is about is underlined.
fn example(cx: &Context<'_>, e: &Example, max: f32) -> LayoutJob {
    let mut job = LayoutJob::default();
    job.wrap.max_rows = 1;
    for (i, (id, a)) in e.tokens.iter().zip(&e.activations).enumerate() {
        let focus = e.start as usize + i == e.position as usize;
        let format = TextFormat {
            font_id: theme::mono_small(),
            color: if focus { cx.palette.text } else { cx.palette.weak },
            background: shade(cx, a / max.max(f32::MIN_POSITIVE)),
            underline: if focus { egui::Stroke::new(1.5, cx.palette.accent) } else { egui::Stroke::NONE },
            ..Default::default()
        };
        let text = cx.state.model.as_ref().map_or_else(|| id.to_string(), |m| m.token_text(*id));
        // Spaces stay spaces: an example is read as text.
        let text = match text.strip_prefix(' ') {
            Some(rest) => format!(" {}", token_text::visible(rest)),
            None => token_text::visible(&text),
        };
        job.append(&text, 0.0, format);
    }
    job
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_not_too_many() {
        let marks = |bounds, base_step_size, counted| {
            let input = GridInput { bounds, base_step_size };
            round_marks(&input, 5.0, counted).iter().map(|m| m.value).collect::<Vec<_>>()
        };
        assert_eq!(marks((-30.0, 850.0), 36.0, true), [0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(marks((-1.0, 4.0), 0.05, true), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(marks((-2.2, 2.2), 0.1, false), [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]);
        // Seven digits take more than the 40 points that short ones are apart (the library's distances are of 8).
        assert_eq!(marks((0.0, 1e6), 1e6 / 64.0, true), [0.0, 2e5, 4e5, 6e5, 8e5, 1e6]);
        let texts = |step_size| [-2.0, 0.0, 1.0].map(|n| mark_text(GridMark { value: n * step_size, step_size }));
        assert_eq!(texts(0.05), ["-0.10", "0.00", "0.05"]);
        assert_eq!(
            (texts(0.5), texts(200.0)),
            (["-1.0", "0.0", "0.5"].map(str::to_owned), ["-400", "0", "200"].map(str::to_owned))
        );
        assert_eq!(marks((0.0, 0.0), 0.0, false).len(), 1);
        assert!(marks((f64::NEG_INFINITY, f64::INFINITY), 1.0, false).len() < 102);
        assert!(marks((f64::NAN, 1.0), f64::NAN, true).len() < 102);
    }
}
