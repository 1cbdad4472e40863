//! A slider over the moments of a training that were kept.

use eframe::egui::{self, vec2};

use crate::app::look::theme::Palette;

/// `steps` are those of the moments, rising; `at` is shown, of `end` steps in all; `past` if that is not the newest.
/// Gives the chosen moment, or `Some(None)` to follow the newest.
pub fn show(ui: &mut egui::Ui, steps: &[usize], at: usize, end: usize, past: bool) -> Option<Option<usize>> {
    let palette = Palette::of(ui.ctx());
    let size = vec2(ui.available_width(), 22.0);
    let (rect, response) = ui.allocate_exact_size(size, egui::Sense::click_and_drag());
    let total = end.max(1) as f32;
    let share = |step: usize| step as f32 / total;
    response.widget_info(|| egui::WidgetInfo::slider(steps.len() > 1, f64::from(share(at)), "time"));
    let track = egui::Rect::from_center_size(rect.center(), vec2((rect.width() - 16.0).max(1.0), 4.0));
    let painter = ui.painter();
    painter.rect_filled(track, 2.0, palette.raised);
    let x = |share: f32| egui::lerp(track.x_range(), share.clamp(0.0, 1.0));
    let newest = steps.last().map_or(0.0, |s| share(*s));
    painter.rect_filled(egui::Rect::from_x_y_ranges(track.min.x..=x(newest), track.y_range()), 2.0, palette.bar);
    if !steps.is_empty() {
        let color = if past { palette.accent } else { palette.text };
        painter.circle_filled(egui::pos2(x(share(at)), track.center().y), 6.0, color);
    }
    let response = response.on_hover_text("drag back through the training");
    let p = response.interact_pointer_pos().filter(|_| response.dragged() || response.clicked())?;
    if steps.len() < 2 {
        return None;
    }
    let step = (p.x - track.min.x) / track.width() * total;
    let far = |k: usize| (steps[k] as f32 - step).abs();
    let near = (0..steps.len()).min_by(|a, b| far(*a).total_cmp(&far(*b)));
    // At the end the newest is followed again.
    Some(near.filter(|k| k + 1 < steps.len()))
}
