//! Features × tokens of the prompt.

use std::collections::HashMap;

use eframe::egui::{self, RichText};

use super::{act, dictionary_open, weak};
use crate::app::features::{Chosen, FeatureAction};
use crate::app::theme;
use crate::app::views::{Cached, Context, Table, View, message, position_labels};
use crate::app::widgets::choice;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, sequential};
use crate::features::reading::Order;
use crate::gpu::HeatData;

/// Cells that are kept at most, 64 MB of them: over a hundred thousand features on a prompt of a hundred tokens.
const CELLS: usize = 1 << 24;
/// Rows as high as their labels.
const ROW: f32 = 14.0;

#[derive(Default)]
pub struct FeatureHeat {
    data: Cached<(u64, Order)>,
    order: Vec<u32>,
}

impl View for FeatureHeat {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !dictionary_open(ui, cx) {
            return;
        }
        let s = &cx.state.features;
        let pos = cx.pinned().pos;
        let order = match s.order {
            Order::At(_) => Order::At(pos),
            other => other,
        };
        ui.horizontal_wrapped(|ui| {
            let options = [
                (Order::Max, "largest"),
                (Order::Mean, "mean"),
                (Order::At(pos), "at the pinned token"),
                (Order::Answer, "effect on the answer"),
            ];
            if let Some(o) = choice(ui, "first by", order, &options) {
                act(cx, FeatureAction::Order(o));
            }
            if let Some(r) = &s.reading.value {
                let n = r.acts.rows();
                let l0 = if n > 1 { (r.acts.values.len() - r.acts.starts[1]) as f32 / (n - 1) as f32 } else { 0.0 };
                let mean = r.explained.iter().skip(1).sum::<f32>() / (n.max(2) - 1) as f32;
                ui.label(weak(cx, format!("L0 {l0:.1}   explained variance {mean:.3}")))
                    .on_hover_text("mean over the positions after the first");
            }
        });
        if let Some(e) = &s.reading.error {
            message(ui, e, true);
            return;
        }
        let Some(r) = s.reading.value.clone() else {
            message(ui, "reading the prompt …", false);
            return;
        };
        let n = r.acts.rows();
        if self.data.entry.as_ref().is_none_or(|(k, _)| *k != (s.reading.stamp, order)) {
            self.order = r.leading(order, CELLS / n.max(1));
        }
        let chosen = &self.order;
        let data = self.data.get((s.reading.stamp, order), || {
            let place: HashMap<u32, usize> = chosen.iter().enumerate().map(|(i, f)| (*f, i)).collect();
            let mut values = vec![0f32; chosen.len() * n];
            for p in 0..n {
                for (f, v) in r.acts.row(p) {
                    if let Some(i) = place.get(&f) {
                        values[i * n + p] = v;
                    }
                }
            }
            HeatData::new(chosen.len(), n, values)
        });
        if chosen.is_empty() {
            message(ui, "no feature is active on this prompt after its first token", false);
            return;
        }
        // The first position's activations, an outlier in many models, do not set the scale.
        let max = (1..n).flat_map(|p| r.acts.row(p).map(|(_, v)| v)).fold(0f32, f32::max);
        let max = if max > 0.0 { max } else { data.max };
        let colors = sequential(&cx.palette, 0.0, max, !s.reading.is_running());
        ui.horizontal(|ui| {
            ui.label(weak(cx, format!("{} features", chosen.len())));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                colorbar(ui, &colors, "0", &number(max));
            });
        });
        let row = match s.chosen {
            Some(Chosen::Feature(f)) => chosen.iter().position(|c| *c == f),
            _ => None,
        };
        let h = cx.state.selection.hovered;
        let outcome = Heatmap {
            name: "features",
            data: &data,
            coloring: colors,
            row_label: &|i| chosen.get(i).map_or_else(String::new, ToString::to_string),
            col_label: &|c| cx.token(c),
            row_label_width: 46.0,
            flip: false,
            square: false,
            least_row: ROW,
            pinned: (row, Some(pos)),
            hovered: (None, h.pos),
            isolate: Isolate::Nothing,
            cell_text: None,
            tooltip: &|ui, i, c| {
                let Some(f) = chosen.get(i) else { return };
                ui.label(RichText::new(s.name(Chosen::Feature(*f))).font(theme::title()));
                ui.monospace(format!("{:.4} on {} ({c})", r.acts.at(c, *f), cx.token(c)));
                if let Some((_, e)) = r.effects.iter().find(|(g, _)| g == f) {
                    ui.monospace(format!("{e:+.4} to the answer's logit, directly"));
                }
                if let Some(index) = &s.index.value {
                    ui.label(weak(
                        cx,
                        format!("active at {:.3} % of the scanned text", 100.0 * index.density(*f as usize)),
                    ));
                }
            },
        }
        .show(ui);
        if let Some((_, c)) = outcome.hovered {
            cx.hovered.pos = Some(c);
        }
        if let Some((i, c)) = outcome.clicked
            && let Some(f) = chosen.get(i).copied()
        {
            cx.pin(|p| p.pos = c);
            act(cx, FeatureAction::Choose(Chosen::Feature(f)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let d = self.data.last()?;
        let rows = self.order.iter().map(|f| format!("feature {f}")).collect();
        Some(Table::grid("features", ("feature", "pos"), d, rows, position_labels(cx, d.cols)))
    }
}
