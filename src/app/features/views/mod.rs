//! The views of features: what they share.

crate::app::view::views![heatmap, monitor, directions, probes, map, training, page, neurons];

use std::sync::Arc;

use eframe::egui::text::LayoutJob;
use eframe::egui::{self, Color32, RichText, TextFormat, pos2, vec2};

use crate::app::action::Action;
use crate::app::features::FeatureAction;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::{captioned, message, token_text};
use crate::features::dictionary::store::BUILTINS;
use crate::features::scan::index::Example;
use crate::gpu::colormap::ink_on;

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

/// A piece of an example: tokens that make whole characters together.
struct Piece {
    text: String,
    /// The largest of its tokens' activations.
    activation: f32,
    /// It has the token that the example is about.
    focus: bool,
}

fn pieces(cx: &Context<'_>, e: &Example) -> Vec<Piece> {
    let tokenizer = cx.state.model.as_ref().and_then(|m| m.tokenizer.as_ref());
    let bytes: Vec<&[u8]> = e.tokens.iter().map(|id| tokenizer.map_or(&[][..], |t| t.bytes(*id))).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < e.tokens.len() {
        let n = token_text::whole(&bytes[at..]);
        let text = match std::str::from_utf8(&bytes[at..at + n].concat()) {
            // Spaces stay spaces: an example is read as text.
            Ok(text) if !text.is_empty() => match text.strip_prefix(' ') {
                Some(rest) if !rest.is_empty() => format!(" {}", token_text::visible(rest)),
                _ => token_text::visible(text),
            },
            _ => cx.text_of(e.tokens[at]),
        };
        let activation = e.activations.iter().skip(at).take(n).copied().fold(0.0, f32::max);
        out.push(Piece { text, activation, focus: (at..at + n).contains(&e.at()) });
        at += n;
    }
    out
}

/// An example as one line, shaded by activation. The token that it is about is underlined and stands in the same column
/// in every line; what is around it takes the width there is, and is cut between tokens.
fn example(ui: &mut egui::Ui, cx: &Context<'_>, e: &Example, max: f32) -> egui::Response {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 17.0), egui::Sense::hover());
    let pieces = pieces(cx, e);
    let text = || pieces.iter().map(|p| p.text.as_str()).collect::<String>();
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, text()));
    if !ui.is_rect_visible(rect) {
        return response;
    }
    let painter = ui.painter_at(rect);
    let dots = painter.layout_no_wrap("…".to_owned(), theme::mono_small(), cx.palette.weak);
    let draw = |p: &Piece| {
        let background = shade(cx, p.activation / max.max(f32::MIN_POSITIVE));
        let quiet = if p.focus { cx.palette.text } else { cx.palette.weak };
        let color = if background == Color32::TRANSPARENT { quiet } else { ink_on(cx.palette.panel.blend(background)) };
        let format = TextFormat {
            font_id: theme::mono_small(),
            color,
            background,
            underline: if p.focus { egui::Stroke::new(1.5, cx.palette.accent) } else { egui::Stroke::NONE },
            ..Default::default()
        };
        let mut job = LayoutJob::single_section(p.text.clone(), format);
        job.wrap.max_width = f32::INFINITY;
        painter.layout_job(job)
    };
    let focus = pieces.iter().position(|p| p.focus).unwrap_or(0);
    let middle = (rect.min.x + 0.45 * rect.width()).floor();
    let put = |galley: Arc<egui::Galley>, x: f32| {
        painter.galley(pos2(x, rect.center().y - 0.5 * galley.size().y), galley, cx.palette.weak);
    };
    let mut x = middle;
    for (i, piece) in pieces.iter().enumerate().skip(focus) {
        let galley = draw(piece);
        let last = i + 1 == pieces.len();
        let room = rect.max.x - if last { 0.0 } else { dots.size().x };
        if x + galley.size().x > room && i > focus {
            put(dots.clone(), x);
            break;
        }
        let width = galley.size().x;
        put(galley, x);
        x += width;
    }
    let mut x = middle;
    for (i, piece) in pieces.iter().enumerate().take(focus).rev() {
        let galley = draw(piece);
        let room = rect.min.x + if i == 0 { 0.0 } else { dots.size().x };
        x -= galley.size().x;
        if x < room {
            put(dots.clone(), x + galley.size().x - dots.size().x);
            break;
        }
        put(galley, x);
    }
    response
}
