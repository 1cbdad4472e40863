//! The frequencies that a model of modular addition uses.

use eframe::egui::{self, Align2, Rect, RichText, pos2, vec2};

use super::ready;
use crate::app::look::theme;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use crate::app::widgets::message;
use crate::training::addition::KEY;

pub struct FourierView;

impl View for FourierView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(probe) = ready(ui, cx) else { return };
        let Some(f) = &probe.fourier else {
            message(ui, "only modular addition works with waves; train `addition` to see its key frequencies", false);
            return;
        };
        let keys = f.key_frequencies();
        let text = if keys.is_empty() {
            "no key frequencies yet: what is known is known by heart".to_owned()
        } else {
            let list: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let share: f32 = keys.iter().map(|k| f.logits[k - 1]).sum();
            format!("key frequencies {}: {:.0} % of the logits' variance", list.join(", "), 100.0 * share)
        };
        ui.label(RichText::new(text).font(theme::title()).color(cx.palette.accent))
            .on_hover_text(format!("a frequency is key from {:.0} % of the variance on", 100.0 * KEY));
        let half = ui.available_height() / 2.0 - 6.0;
        for (title, values, help) in [
            ("logits: share of variance in cos 2πk(a + b − c)/59", &f.logits, "the answer as a sum of waves"),
            ("embedding: share of variance in waves of frequency k", &f.embedding, "the numbers as waves"),
        ] {
            ui.allocate_ui(vec2(ui.available_width(), half), |ui| {
                ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak)).on_hover_text(help);
                spectrum(ui, cx, values, &keys);
            });
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let f = cx.state.training.probe()?.fourier.as_ref()?;
        Some(Table {
            name: "fourier".to_owned(),
            row_axis: "frequency",
            col_axis: "share of variance",
            rows: (1..=f.logits.len()).map(|k| k.to_string()).collect(),
            cols: vec!["logits".to_owned(), "embedding".to_owned()],
            values: f.logits.iter().zip(&f.embedding).map(|(a, b)| vec![Some(*a), Some(*b)]).collect(),
            ..Table::default()
        })
    }
}

/// Bars over frequencies; key ones in the accent.
fn spectrum(ui: &mut egui::Ui, cx: &Context<'_>, values: &[f32], keys: &[usize]) {
    let (rect, response) = ui.allocate_exact_size(ui.available_size(), egui::Sense::hover());
    let painter = ui.painter_at(rect);
    let plot = Rect::from_min_max(rect.min + vec2(40.0, 4.0), rect.max - vec2(4.0, 16.0));
    let top = values.iter().copied().fold(0.05, f32::max);
    let pitch = plot.width() / values.len().max(1) as f32;
    painter.hline(plot.x_range(), plot.max.y, egui::Stroke::new(1.0, cx.palette.border));
    for (y, v) in [(plot.min.y + 5.0, top), (plot.max.y - 5.0, 0.0)] {
        let text = format!("{:.0} %", 100.0 * v);
        painter.text(pos2(plot.min.x - 4.0, y), Align2::RIGHT_CENTER, text, theme::mono_small(), cx.palette.weak);
    }
    for (i, v) in values.iter().enumerate() {
        let key = keys.contains(&(i + 1));
        let x = plot.min.x + i as f32 * pitch;
        let bar = Rect::from_min_max(
            pos2(x + 1.0, plot.max.y - (v / top).clamp(0.0, 1.0) * plot.height()),
            pos2(x + pitch - 1.0, plot.max.y),
        );
        painter.rect_filled(bar, 1.0, if key { cx.palette.accent } else { cx.palette.bar });
        if key || pitch > 16.0 {
            let ink = if key { cx.palette.accent } else { cx.palette.weak };
            let at = pos2(bar.center().x, plot.max.y + 2.0);
            painter.text(at, Align2::CENTER_TOP, i + 1, theme::mono_small(), ink);
        }
    }
    if let Some(at) = response.hover_pos().filter(|p| plot.contains(*p)) {
        let i = (((at.x - plot.min.x) / pitch) as usize).min(values.len().saturating_sub(1));
        egui::Tooltip::for_widget(&response).at_pointer().gap(14.0).show(|ui| {
            ui.label(RichText::new(format!("frequency {}", i + 1)).font(theme::title()));
            ui.monospace(format!("{:.2} % of the variance", 100.0 * values[i]));
        });
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "scratch-fourier",
    title: "Fourier",
    workspace: Workspace::Training,
    area: Area::Right,
    make: || Box::new(FourierView),
};
