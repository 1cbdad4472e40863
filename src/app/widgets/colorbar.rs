//! The bar that says which colour means which number.

use eframe::egui::{self, Align2, pos2, vec2};

use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::gpu::heatmap::Coloring;

/// A number in few digits.
pub fn number(v: f32) -> String {
    let a = v.abs();
    if a == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&a) {
        format!("{v:.1e}")
    } else if a < 0.0995 {
        format!("{v:.4}")
    } else if a >= 100.0 {
        format!("{v:.0}")
    } else if a >= 10.0 {
        format!("{v:.1}")
    } else {
        format!("{v:.2}")
    }
}

/// A number among others of its kind: two decimals, and nothing below zero that is none.
pub fn decimals(v: f32) -> String {
    let text = format!("{v:.2}");
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

/// A probability in few digits: percent, and a power of ten where that would be all zeros.
pub fn share(p: f32) -> String {
    match p {
        p if p >= 0.0995 => format!("{:.0} %", p * 100.0),
        p if p >= 0.00995 => format!("{:.1} %", p * 100.0),
        p if p >= 0.000_995 => format!("{:.2} %", p * 100.0),
        p if p >= 0.000_009_95 => format!("{:.3} %", p * 100.0),
        p if p > 0.0 => format!("{:.0e} %", p * 100.0),
        _ => "0 %".to_owned(),
    }
}

/// Draws the bar in one line of the current layout.
pub fn colorbar(ui: &mut egui::Ui, coloring: &Coloring, low: &str, high: &str) {
    if let Some(bar) = draw(ui, coloring, low, high, egui::Sense::hover()) {
        bar.on_hover_text("which colour means which value");
    }
}

/// As [`colorbar`], for something to be clicked; none where there is no room.
pub fn draw(
    ui: &mut egui::Ui,
    coloring: &Coloring,
    low: &str,
    high: &str,
    sense: egui::Sense,
) -> Option<egui::Response> {
    let palette = Palette::of(ui.ctx());
    let galley = |text: &str| ui.painter().layout_no_wrap(text.to_owned(), theme::mono_small(), palette.weak);
    let (low, high) = (galley(low), galley(high));
    let numbers = low.size().x + high.size().x + 12.0;
    // A short bar is better than none.
    let width = (ui.available_width() - numbers).clamp(20.0, 72.0);
    let total = numbers + width;
    // Better none than one over the text beside it.
    if ui.available_width() < total {
        return None;
    }
    let (rect, response) = ui.allocate_exact_size(vec2(total, 14.0), sense);
    let bar = egui::Rect::from_min_size(pos2(rect.min.x + low.size().x + 6.0, rect.center().y - 4.0), vec2(width, 8.0));
    let mut mesh = egui::Mesh::default();
    let n = 32;
    for i in 0..=n {
        let t = i as f32 / n as f32;
        let x = egui::lerp(bar.x_range(), t);
        let color = coloring.map.at(t);
        mesh.colored_vertex(pos2(x, bar.min.y), color);
        mesh.colored_vertex(pos2(x, bar.max.y), color);
        if i > 0 {
            let k = 2 * i;
            mesh.add_triangle(k - 2, k - 1, k);
            mesh.add_triangle(k - 1, k, k + 1);
        }
    }
    let painter = ui.painter();
    painter.add(egui::Shape::mesh(mesh));
    let edge = if response.hovered() && sense.senses_click() { palette.text } else { palette.border };
    painter.rect_stroke(bar, 1.0, egui::Stroke::new(1.0, edge), egui::StrokeKind::Outside);
    painter.galley(pos2(rect.min.x, rect.center().y - low.size().y / 2.0), low, palette.weak);
    let at = Align2::LEFT_CENTER.anchor_size(pos2(bar.max.x + 6.0, rect.center().y), high.size());
    painter.galley(at.min, high, palette.weak);
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::{decimals, number, share};

    #[test]
    fn few_digits() {
        assert_eq!(
            [number(0.0), number(0.5), number(-12.34), number(1234.5), number(1e-6)],
            ["0", "0.50", "-12.3", "1234", "1.0e-6"]
        );
        assert_eq!([decimals(-0.0393), decimals(-0.004), decimals(12.345)], ["-0.04", "0.00", "12.35"]);
        assert_eq!(
            [share(0.4767), share(0.046), share(0.0012), share(3.8e-4), share(6.8e-6), share(0.0)],
            ["48 %", "4.6 %", "0.12 %", "0.038 %", "7e-4 %", "0 %"]
        );
    }
}
