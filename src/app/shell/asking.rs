//! What costs much and waits for a word: what it needs, as `plan` says it, and whether it is to be done.

use eframe::egui::{self, RichText};

use crate::app::look::theme::Palette;
use crate::jobs::Pool;
use crate::memory::needs;

/// Draws what waits, above the line of state; `right` points at the right are taken.
pub fn ui(ctx: &egui::Context, pool: &Pool, right: f32) {
    let waits = pool.asking();
    if waits.is_empty() {
        return;
    }
    let palette = Palette::of(ctx);
    egui::Area::new(egui::Id::unique("asking"))
        .order(egui::Order::Foreground)
        .anchor(egui::Align2::CENTER_BOTTOM, [-right / 2.0, -36.0])
        .show(ctx, |ui| {
            for asking in waits {
                let stroke = egui::Stroke::new(1.0, palette.accent);
                egui::Frame::popup(ui.style()).stroke(stroke).show(ui, |ui| {
                    ui.set_max_width(640.0);
                    ui.horizontal(|ui| {
                        let text = format!("{}: {}.", asking.label, needs(asking.cost.work, asking.cost.seconds));
                        ui.add(
                            egui::Label::new(RichText::new(text).color(palette.text))
                                .wrap_mode(egui::TextWrapMode::Extend),
                        )
                        .on_hover_text(
                            "memory beyond the model's weights and time, as far as they can be told beforehand",
                        );
                        let go = egui::Button::new(RichText::new("Go on").color(palette.base)).fill(palette.accent);
                        if ui.add(go).clicked() {
                            pool.answer(&asking, true);
                        }
                        if ui.button("Not now").clicked() {
                            pool.answer(&asking, false);
                        }
                    });
                });
            }
        });
}
