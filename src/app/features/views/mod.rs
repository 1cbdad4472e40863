//! The views of features: what they share.

crate::app::view::views![heatmap, monitor, directions, map, training, page, neurons];

use eframe::egui::text::LayoutJob;
use eframe::egui::{self, Color32, RichText, TextFormat};

use crate::app::action::Action;
use crate::app::features::FeatureAction;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::{captioned, message, token_text};
use crate::features::dictionary::store::BUILTINS;
use crate::features::scan::index::Example;

/// Says what to do where no dictionary is open; true if one is.
fn dictionary_open(ui: &mut egui::Ui, cx: &mut Context<'_>) -> bool {
    let s = &cx.state.features;
    if s.dictionary().is_some() {
        return true;
    }
    if let Some(e) = s.dictionary.error() {
        message(ui, e, true);
    } else if s.dictionary.is_running() {
        message(ui, "reading the dictionary …", false);
    } else if let Some(b) = BUILTINS.iter().find(|b| b.model == cx.state.desk().model) {
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
        let drag = egui::DragValue::new(&mut layer).range(0..=last).clamp_existing_to_range(false).speed(0.1);
        ui.add(drag)
            .on_hover_text("the pinned layer; arrows up and down change it too")
            .accessible_name("pinned layer");
    });
    cx.pin(|p| p.layer = layer);
}

fn weak(cx: &Context<'_>, text: impl Into<String>) -> RichText {
    RichText::new(text).font(theme::small()).color(cx.palette.weak)
}

fn act(cx: &mut Context<'_>, action: FeatureAction) {
    cx.push(Action::Feature(action));
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
