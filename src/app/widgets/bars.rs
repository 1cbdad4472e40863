//! A list of labelled bars: signed values around a middle line, or one sign's from the left.

use eframe::egui::text::{LayoutJob, TextWrapping};
use eframe::egui::{self, Align2, pos2, vec2};

use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::view::Context;
use crate::app::widgets::names::spoken;

pub struct Bar {
    pub label: String,
    pub value: f32,
    /// The number as shown at the right.
    pub text: String,
    pub strong: bool,
}

/// Draws a bar of a list whose values are all of one sign, from the left and in that sign's colour.
pub fn one_sided(ui: &mut egui::Ui, bar: &Bar, max: f32, label_width: f32) -> egui::Response {
    let palette = Palette::of(ui.ctx());
    draw(ui, bar, max, false, palette.signed(bar.value), palette.text, label_width)
}

/// Draws one bar across the available width; `max` is the length of a full one.
pub fn bar(ui: &mut egui::Ui, bar: &Bar, max: f32, signed: bool, label_width: f32) -> egui::Response {
    let palette = Palette::of(ui.ctx());
    let color = if signed { palette.signed(bar.value) } else { palette.bar };
    draw(ui, bar, max, signed, color, palette.text, label_width)
}

/// Draws how much a position attends to each, of its row of a pattern: the strongest `count`, from the left. Thinking that
/// is folded has one bar, as long as those of its tokens together. Returns the position that was clicked.
pub fn attended(
    ui: &mut egui::Ui,
    cx: &Context<'_>,
    row: &[f32],
    strong: Option<usize>,
    count: usize,
    label_width: f32,
) -> Option<usize> {
    let (palette, turns) = (cx.palette, cx.turns());
    let mut clicked = None;
    for (pos, value) in turns.strongest(row).into_iter().take(count) {
        let fold = turns.fold(pos);
        let label = fold.as_ref().map_or_else(|| format!("{pos} {}", cx.token(pos)), |f| f.0.clone());
        let bar = Bar { label, value, text: format!("{value:.2}"), strong: strong == Some(pos) && fold.is_none() };
        let ink = if turns.is_template(pos) || fold.is_some() { palette.weak } else { palette.text };
        let response = draw(ui, &bar, 1.0, false, palette.bar, ink, label_width);
        turns.mark(ui.painter(), response.rect, pos);
        if response.clicked() {
            clicked = Some(pos);
        }
        if let Some((_, said)) = fold {
            response.on_hover_text(said);
        }
    }
    clicked
}

/// `ink` is the label's colour where it is not strong.
fn draw(
    ui: &mut egui::Ui,
    bar: &Bar,
    max: f32,
    signed: bool,
    fill: egui::Color32,
    ink: egui::Color32,
    label_width: f32,
) -> egui::Response {
    let palette = Palette::of(ui.ctx());
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 17.0), egui::Sense::click());
    response.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::Button, true, format!("{} {}", spoken(&bar.label), bar.text))
    });
    if !ui.is_rect_visible(rect) {
        return response;
    }
    let painter = ui.painter_at(rect);
    if response.hovered() || response.has_focus() {
        painter.rect_filled(rect, 3.0, palette.hovered);
    }
    let color = if bar.strong { palette.accent } else { ink };
    let value_width = 60.0;
    let mut job = LayoutJob::simple_singleline(spoken(&bar.label), theme::mono(), color);
    job.wrap = TextWrapping::truncate_at_width(label_width - 4.0);
    let label = painter.layout_job(job);
    painter.galley(pos2(rect.min.x + 4.0, rect.center().y - 0.5 * label.size().y), label, color);
    let track = egui::Rect::from_min_max(
        pos2(rect.min.x + label_width + 4.0, rect.center().y - 4.0),
        pos2((rect.max.x - value_width).max(rect.min.x + label_width + 5.0), rect.center().y + 4.0),
    );
    if track.width() > 8.0 {
        fill_track(&painter, &palette, bar, max, signed, fill, track);
    }
    painter.text(pos2(rect.max.x - 4.0, rect.center().y), Align2::RIGHT_CENTER, &bar.text, theme::mono(), color);
    response
}

fn fill_track(
    painter: &egui::Painter,
    palette: &Palette,
    bar: &Bar,
    max: f32,
    signed: bool,
    fill: egui::Color32,
    track: egui::Rect,
) {
    painter.rect_filled(track, 2.0, palette.raised);
    let share = if max > 0.0 && bar.value.is_finite() { (bar.value / max).clamp(-1.0, 1.0) } else { 0.0 };
    let filled = if signed {
        let middle = track.center().x;
        let end = middle + share * track.width() / 2.0;
        painter.vline(middle, track.y_range(), egui::Stroke::new(1.0, palette.faint));
        egui::Rect::from_x_y_ranges(middle.min(end)..=middle.max(end), track.y_range())
    } else {
        egui::Rect::from_x_y_ranges(track.min.x..=track.min.x + share.abs() * track.width(), track.y_range())
    };
    painter.rect_filled(filled, 2.0, fill);
}
