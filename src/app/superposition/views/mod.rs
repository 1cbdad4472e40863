//! The views of toy models in training.

crate::app::view::views![features, scene, phases, samples, loss, energy, dimensionality, gram, weights, example, norms];

use std::sync::Arc;

use eframe::egui::{self, Align2, Color32, Rect, pos2, vec2};

use crate::app::action::Action;
use crate::app::export::plate::is_plate;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::view::Context;
use crate::app::widgets::message;
use crate::gpu::ColorMap;
use crate::superposition::{Setup, Snapshot};

/// Returns the setup and the snapshot on screen. If there is none, shows why, or how to begin.
fn ready(ui: &mut egui::Ui, cx: &mut Context<'_>) -> Option<(Arc<Setup>, Arc<Snapshot>)> {
    let state = &cx.state.superposition;
    match (state.setup(), state.snapshot()) {
        (Some(s), Some(m)) => Some((s.clone(), m.clone())),
        _ => {
            match &state.error {
                Some(error) => message(ui, error, true),
                None => invitation(ui, cx),
            }
            None
        }
    }
}

/// Shows the one button to press while nothing has been trained.
fn invitation(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    // One of the views invites; the others say why they are empty.
    let (id, frame) = (egui::Id::unique("invitation"), ui.ctx().cumulative_pass_nr());
    let first = ui.data_mut(|d| d.get_temp_mut_or_default::<Option<u64>>(id).replace(frame)) != Some(frame);
    if !first {
        return message(ui, "nothing has been trained yet", false);
    }
    ui.vertical_centered(|ui| {
        ui.add_space((ui.available_height() / 2.0 - 40.0).max(0.0));
        let text = egui::RichText::new("▶  Watch superposition appear").font(theme::title());
        let button = egui::Button::new(text.color(cx.palette.base)).fill(cx.palette.accent).min_size(vec2(0.0, 32.0));
        if ui.add(button).clicked() {
            cx.actions.push(Action::Superposition(SuperpositionAction::Start));
        }
        ui.add_space(theme::GRID);
        let text = "trains toy models, in a few seconds; other figures are at the left";
        ui.label(egui::RichText::new(text).font(theme::small()).color(cx.palette.weak));
    });
}

/// A feature's colour: the more important ones brighter; equally important ones go round the map.
fn feature_color(cx: &Context<'_>, importance: &[f32], i: usize) -> Color32 {
    let n = importance.len().max(1);
    let t = i as f32 / n.saturating_sub(1).max(1) as f32;
    // The map's dark end would drown in a dark panel, its bright end on paper.
    if cx.palette.dark { ColorMap::Viridis.at(1.0 - 0.75 * t) } else { ColorMap::Viridis.at(0.8 * (1.0 - t)) }
}

/// The colour of Σ_j (Ŵ_i·W_j)²: quiet for a feature by itself, warm where others interfere with it.
fn interference_color(cx: &Context<'_>, superposition: f32) -> Color32 {
    let t = (superposition / 1.0).clamp(0.0, 1.0);
    let (a, b) = (cx.palette.bar, cx.palette.accent);
    let mix = |x: u8, y: u8| (f32::from(x) * (1.0 - t) + f32::from(y) * t) as u8;
    Color32::from_rgb(mix(a.r(), b.r()), mix(a.g(), b.g()), mix(a.b(), b.b()))
}

/// Points between small pictures.
const GAP: f32 = 8.0;

/// Small pictures of all instances side by side. `draw` gets each one's rectangle; a click selects. Of very many
/// only as many are drawn as are worth looking at.
fn small_multiples(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    count: usize,
    aspect: f32,
    caption: f32,
    mut draw: impl FnMut(&mut egui::Ui, &mut Context<'_>, usize, Rect, &egui::Response),
) {
    let space = ui.available_size();
    let most = 60.min(count);
    // As large as they can be without a scroll bar.
    let (columns, width) = (1..=most.max(1))
        .map(|c| {
            let rows = most.div_ceil(c) as f32;
            let by_width = (space.x - GAP * (c as f32 - 1.0)) / c as f32;
            let by_height = ((space.y - GAP * (rows - 1.0)) / rows - caption).max(8.0) * aspect;
            (c, by_width.min(by_height))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((1, space.x));
    let width = width.max(24.0);
    let height = width / aspect;
    let origin = ui.cursor().min;
    let rows = most.div_ceil(columns);
    let used = vec2(columns as f32 * (width + GAP) - GAP, rows as f32 * (height + caption + GAP) - GAP);
    let middle = ((space - used) / 2.0).max(vec2(0.0, 0.0));
    for k in 0..most {
        let (r, c) = (k / columns, k % columns);
        let min = origin + middle + vec2(c as f32 * (width + GAP), r as f32 * (height + caption + GAP));
        let whole = Rect::from_min_size(min, vec2(width, height + caption));
        let label = cx.state.superposition.instance_label(k);
        let response = ui.interact(whole, ui.scope_id().with(("instance", k)), egui::Sense::click());
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("instance {label}")));
        let rect = Rect::from_min_size(min, vec2(width, height));
        let selected = cx.state.superposition.instance == k;
        let stroke = if selected {
            egui::Stroke::new(1.5, cx.palette.accent)
        } else if response.hovered() {
            egui::Stroke::new(1.0, cx.palette.faint)
        } else {
            egui::Stroke::new(1.0, cx.palette.border)
        };
        ui.painter().rect(rect, 4.0, cx.palette.base, stroke, egui::StrokeKind::Inside);
        // What a lesson asks about is not seen yet.
        if cx.state.cover.models.is_some_and(|shown| k >= shown) {
            ui.painter().text(rect.center(), Align2::CENTER_CENTER, "?", theme::title(), cx.palette.weak);
            continue;
        }
        draw(ui, cx, k, rect.shrink(2.0), &response);
        if response.clicked() {
            cx.actions.push(Action::Superposition(SuperpositionAction::Select(k)));
        }
    }
    ui.allocate_space(space);
    if count > most {
        let at = pos2(origin.x + space.x, origin.y + space.y);
        let text = format!("{most} of {count} models");
        ui.painter().text(at, Align2::RIGHT_BOTTOM, text, theme::small(), cx.palette.weak);
    }
}

/// A caption of one or two lines under a small picture, cut to its width: of `density 0.05` the number stays.
fn caption(ui: &egui::Ui, rect: Rect, lines: &[(String, Color32)]) {
    let mut y = rect.max.y + 3.0;
    for (text, color) in lines {
        let galley = |t: &str| ui.painter().layout_no_wrap(t.to_owned(), theme::small(), *color);
        // What is cut would say little; the whole of it is said where it is pointed at.
        let fits = |t: &&str| galley(&as_long(t)).size().x <= rect.width() + GAP;
        if let Some(galley) = shorter(text).into_iter().find(fits).map(galley) {
            let x = rect.center().x - galley.size().x / 2.0;
            ui.painter().galley(pos2(x, y), galley, *color);
        }
        y += 14.0;
    }
}

/// A caption with its number as long as numbers of its kind are: small pictures beside each other are called alike.
fn as_long(text: &str) -> String {
    let long =
        |word: &str| if word.len() < 5 && word.parse::<f32>().is_ok() && word.contains('.') { 5 } else { word.len() };
    let words = text.split(' ').map(|w| format!("{w:0<n$}", n = long(w)));
    words.collect::<Vec<_>>().join(" ")
}

/// A caption in fewer and fewer letters: the whole, its parts from the longest on, and of a number with its unit the number.
fn shorter(text: &str) -> Vec<&str> {
    let mut all = vec![text];
    // A digit or two alone would not say what they count.
    let mut parts: Vec<&str> = text.split(" · ").filter(|p| p.len() > 2 && *p != text).collect();
    parts.sort_by_key(|p| std::cmp::Reverse(p.len()));
    all.extend(parts);
    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let numbers: Vec<&str> = text.split(' ').filter(number).collect();
    // Of two numbers one alone would not say which it is.
    if let ([one], false) = (&numbers[..], text.contains(" · ")) {
        all.push(one);
    }
    all
}

/// Which of several pictures a view shows.
fn all_or_one(ui: &mut egui::Ui, one: &mut bool) {
    if is_plate(ui.ctx()) {
        return;
    }
    for (value, text, help) in
        [(false, "all models", "small pictures of all models"), (true, "selected", "the selected model alone, large")]
    {
        let text = egui::RichText::new(text).font(theme::small());
        if ui.selectable_label(*one == value, text).on_hover_text(help).clicked() {
            *one = value;
        }
    }
}

/// A loss on a logarithmic axis; NaN, a training that ran away, stays NaN and is not drawn.
fn log10(loss: f32) -> f64 {
    if loss.is_finite() { f64::from(loss.max(1e-9)).log10() } else { f64::NAN }
}

fn feature_labels(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("feature {i}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{as_long, shorter};

    #[test]
    fn captions_get_shorter_part_by_part() {
        assert_eq!(shorter("0.012 · 2 antipodal pairs"), ["0.012 · 2 antipodal pairs", "2 antipodal pairs", "0.012"]);
        assert_eq!(shorter("density 0.05 · 1"), ["density 0.05 · 1", "density 0.05"]);
        assert_eq!(shorter("density 0.05"), ["density 0.05", "0.05"]);
        assert_eq!(
            [as_long("density 0.26"), as_long("density 0.050"), as_long("5 samples")],
            ["density 0.260", "density 0.050", "5 samples"]
        );
        assert_eq!(shorter("800 samples"), ["800 samples", "800"]);
        assert_eq!(shorter("density 0.050, I 0.30"), ["density 0.050, I 0.30"]);
    }
}
