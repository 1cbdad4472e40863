//! Entropy of the prediction: layer × position.

use eframe::egui::{self, RichText};

use crate::analysis::entropy::{Entropies, EntropyOf, Unit};
use crate::app::look::theme;
use crate::app::view::{
    Area, Asking, Cached, Context, Table, View, ViewDef, Workspace, compared, layer_by_pos, numbers, position_labels,
    ready, scale,
};
use crate::app::widgets::choice;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, coloring};
use crate::gpu::{ColorMap, HeatData, NOTHING};
use crate::jobs::{AnySlot, Slot};

#[derive(Default)]
pub struct EntropyView {
    entropy: Slot<EntropyOf>,
    unit: Unit,
    data: Cached<(u64, Unit)>,
}

fn matrix(e: &Entropies, unit: Unit, d_vocab: usize) -> HeatData {
    let values = e.nats.iter().flatten().map(|v| v.map_or(NOTHING, |v| unit.of(v, d_vocab))).collect();
    HeatData::new(e.nats.len(), e.positions.len(), values)
}

fn told(v: f32, unit: Unit) -> String {
    match unit {
        Unit::Share => format!("{:.0} % of a uniform guess", 100.0 * v),
        _ => format!("{v:.2} {}", unit.name()),
    }
}

impl View for EntropyView {
    fn ask(&mut self, asking: &Asking<'_>) {
        let question = asking.state.subject().map(|subject| EntropyOf { subject, positions: Vec::new() });
        self.entropy.ask(&asking.state.pool, question, asking.seen);
    }

    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.entropy]
    }

    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !ready(ui, cx, &self.entropy) {
            return;
        }
        let (Some(entropy), Some(model)) = (self.entropy.get().cloned(), cx.state.model.clone()) else { return };
        self.unit = cx.settings(&VIEW);
        let (unit, d_vocab) = (self.unit, model.config.d_vocab);
        let data = self
            .data
            .get((entropy.stamp, unit), || compared(&entropy.value, false, true, |e| matrix(e, unit, d_vocab)));
        let (colors, low, high) = scale(cx, &entropy.value, &data, entropy.fresh, || {
            let colors = coloring(&cx.palette, ColorMap::Viridis, 0.0, data.max, false, entropy.fresh);
            (colors, "0, certain".to_owned(), told(data.max, unit))
        });
        ui.horizontal(|ui| {
            if let Some(u) = choice(ui, "in", unit, &Unit::ALL.map(|u| (u, u.name()))) {
                cx.set(&VIEW, &u);
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| colorbar(ui, &colors, &low, &high));
        });
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let differs = entropy.value.minus.is_some();
        let turns = cx.turns();
        let outcome = Heatmap {
            name: "entropy",
            axes: ("layer", "token"),
            turns: (None, Some(&turns)),
            data: &data,
            coloring: colors,
            row_label: &|r| r.to_string(),
            col_label: &|c| cx.token(c),
            row_label_width: 24.0,
            flip: true,
            square: false,
            least_row: 0.0,
            painted: None,
            pinned: (None, Some(p.pos)),
            hovered: (h.layer, h.pos),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| data.get(r, c).map(number)),
            tooltip: &|ui, r, c| {
                ui.label(format!("after layer {r}, {} ({c})", cx.token(c)));
                if let Some(v) = data.get(r, c) {
                    let text =
                        if differs { format!("{v:+.2} {} against the other run", unit.name()) } else { told(v, unit) };
                    ui.label(RichText::new(text).font(theme::title()));
                }
            },
        }
        .show(ui);
        layer_by_pos(cx, &outcome);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let d = self.data.last()?;
        let name = format!("entropy-{}", self.unit.name());
        let table = Table::grid(&name, ("layer", "pos"), d, numbers(d.rows), position_labels(cx, d.cols));
        Some(table.in_unit(self.unit.name()))
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "entropy",
    title: "Entropy",
    workspace: Workspace::Model,
    area: Area::TopRight,
    make: || Box::new(EntropyView::default()),
};
