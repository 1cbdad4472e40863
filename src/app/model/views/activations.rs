//! Activations: neurons × tokens of one layer, or what every head writes.

use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace, compared, position_labels, ready};
use eframe::egui::{self, RichText};

use crate::analysis::neurons::Statistic;
use crate::app::look::theme;
use crate::app::widgets::choice;
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging, sequential};
use crate::app::widgets::reach::{self, Reaching};
use crate::gpu::HeatData;
use crate::session::desk::Focus;

/// Height of a neuron's row at first: as its label's.
const ROW: f32 = 14.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Neurons,
    Heads,
}

#[derive(Default)]
pub struct Activations {
    mode: Mode,
    neurons: Cached<u64>,
    heads: Cached<u64>,
    /// Their scales.
    reaching: [Reaching<u64>; 2],
}

impl View for Activations {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let has_mlp = cx.state.model.as_ref().is_none_or(|m| m.config.has_mlp());
        if !has_mlp {
            self.mode = Mode::Heads;
        }
        ui.horizontal_wrapped(|ui| {
            if has_mlp
                && let Some(m) =
                    choice(ui, "show", self.mode, &[(Mode::Neurons, "neurons"), (Mode::Heads, "head outputs")])
            {
                self.mode = m;
            }
            if self.mode == Mode::Neurons {
                Self::neuron_controls(ui, cx);
            } else {
                ui.label(
                    RichText::new("norm of what each head writes, ‖z · W_O‖")
                        .font(theme::small())
                        .color(cx.palette.weak),
                );
            }
        });
        match self.mode {
            Mode::Neurons => self.neurons(ui, cx),
            Mode::Heads => self.heads(ui, cx),
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        match self.mode {
            Mode::Neurons => {
                let n = cx.state.results.neurons.get().cloned()?;
                let d = self.neurons.last()?;
                let rows = n.value.order.iter().map(|i| format!("neuron {}.{i}", n.value.layer)).collect();
                Some(Table::grid("neurons", ("neuron", "pos"), d, rows, position_labels(cx, d.cols)))
            }
            Mode::Heads => {
                let d = self.heads.last()?;
                let heads = cx.state.model.as_ref()?.config.n_heads;
                let rows = (0..d.rows).map(|r| format!("head {}.{}", r / heads, r % heads)).collect();
                Some(Table::grid("head-norms", ("head", "pos"), d, rows, position_labels(cx, d.cols)))
            }
        }
    }
}

impl Activations {
    fn neuron_controls(ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let p = cx.pinned();
        let n_layers = cx.state.model.as_ref().map_or(1, |m| m.config.n_layers);
        let mut layer = p.layer;
        // A session's layer stays what it is while its model loads.
        let drag = egui::DragValue::new(&mut layer).range(0..=n_layers - 1).clamp_existing_to_range(false);
        let drag = drag.prefix("layer ").speed(0.1);
        if !is_plate(ui.ctx()) && ui.add(drag).on_hover_text("layer; drag, or click to type").changed() {
            cx.pin(|p| p.layer = layer);
        }
        let options = [
            (Statistic::MaxAbs, Statistic::MaxAbs.name()),
            (Statistic::MeanAbs, Statistic::MeanAbs.name()),
            (Statistic::Spread, Statistic::Spread.name()),
            (Statistic::AtPosition(0), Statistic::AtPosition(0).name()),
        ];
        let current = match cx.state.desk().statistic {
            Statistic::AtPosition(_) => Statistic::AtPosition(0),
            other => other,
        };
        if let Some(s) = choice(ui, "first by", current, &options) {
            cx.push(ModelAction::Neurons(s));
        }
    }

    fn neurons(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let slot = &cx.state.results.neurons;
        if !ready(ui, cx, slot) {
            return;
        }
        let Some(result) = slot.get().cloned() else { return };
        let n = &*result.value;
        let data = self.neurons.get(result.stamp, || {
            compared(n, false, true, |n| {
                HeatData::new(n.values.len(), n.values.first().map_or(0, Vec::len), n.values.concat())
            })
        });
        let reached = self.reaching[0].of(result.stamp, cx.settings(&VIEW), &data);
        let colors = diverging(&cx.palette, reached.largest, result.fresh);
        ui.horizontal(|ui| {
            let text = format!("{} of {} neurons of layer {}", n.order.len(), n.of, n.layer);
            ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let ends = (&*format!("−{}", reached.end), &*reached.end);
                if let Some(reach) = reach::bar(ui, &colors, ends, cx.settings(&VIEW), true) {
                    cx.set(&VIEW, &reach);
                }
            });
        });
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let row = p.neuron.filter(|_| p.layer == n.layer).and_then(|i| n.order.iter().position(|o| *o == i));
        let turns = cx.turns();
        let outcome = Heatmap {
            name: "neurons",
            axes: ("neuron", "token"),
            turns: (None, Some(&turns)),
            data: &data,
            coloring: colors,
            row_label: &|r| n.order.get(r).map_or_else(String::new, ToString::to_string),
            col_label: &|c| cx.token(c),
            row_label_width: 40.0,
            flip: false,
            square: false,
            least_row: ROW,
            painted: reached.painted.as_ref(),
            pinned: (row, Some(p.pos)),
            hovered: (None, h.pos),
            isolate: Isolate::Nothing,
            cell_text: None,
            tooltip: &|ui, r, c| {
                ui.label(format!(
                    "neuron {}.{} on {} ({c})",
                    n.layer,
                    n.order.get(r).copied().unwrap_or(0),
                    cx.token(c)
                ));
                if let Some(v) = data.get(r, c) {
                    ui.label(RichText::new(format!("{v:+.4}")).font(theme::title()));
                }
            },
        }
        .show(ui);
        if let Some((_, c)) = outcome.hovered {
            cx.hovered.pos = Some(c);
        }
        if let Some((r, c)) = outcome.clicked {
            let neuron = n.order.get(r).copied();
            cx.pin(|p| {
                (p.pos, p.layer, p.neuron, p.focus) = (c, n.layer, neuron, Focus::Neuron);
            });
        }
    }

    fn heads(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let slot = &cx.state.results.norms;
        if !ready(ui, cx, slot) {
            return;
        }
        let Some(result) = slot.get().cloned() else { return };
        let heads = cx.state.model.as_ref().map_or(1, |m| m.config.n_heads);
        let data = self.heads.get(result.stamp, || {
            compared(&result.value, false, true, |n| {
                HeatData::new(n.heads.len(), n.heads.first().map_or(0, Vec::len), n.heads.concat())
            })
        });
        let reached = self.reaching[1].of(result.stamp, cx.settings(&VIEW), &data);
        let (colors, low) = if result.value.minus.is_some() {
            (diverging(&cx.palette, reached.largest, result.fresh), format!("−{}", reached.end))
        } else {
            (sequential(&cx.palette, 0.0, reached.largest, result.fresh), "0".to_owned())
        };
        ui.horizontal(|ui| {
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if let Some(reach) = reach::bar(ui, &colors, (&low, &reached.end), cx.settings(&VIEW), true) {
                    cx.set(&VIEW, &reach);
                }
            });
        });
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let turns = cx.turns();
        let outcome = Heatmap {
            name: "head outputs",
            axes: ("head", "token"),
            turns: (None, Some(&turns)),
            data: &data,
            coloring: colors,
            row_label: &|r| format!("{}.{}", r / heads, r % heads),
            col_label: &|c| cx.token(c),
            row_label_width: 40.0,
            flip: true,
            square: false,
            least_row: 0.0,
            painted: reached.painted.as_ref(),
            pinned: (p.head.map(|hd| p.layer * heads + hd), Some(p.pos)),
            hovered: (h.head.map(|(l, hd)| l * heads + hd), h.pos),
            isolate: Isolate::Nothing,
            cell_text: None,
            tooltip: &|ui, r, c| {
                ui.label(format!("head {}.{} at {} ({c})", r / heads, r % heads, cx.token(c)));
                if let Some(v) = data.get(r, c) {
                    ui.label(RichText::new(format!("norm {v:.4}")).font(theme::title()));
                }
            },
        }
        .show(ui);
        if let Some((r, c)) = outcome.hovered {
            cx.hovered.pos = Some(c);
            cx.hovered.head = Some((r / heads, r % heads));
        }
        if let Some((r, c)) = outcome.clicked {
            cx.pin(|p| {
                (p.pos, p.layer, p.head, p.all_heads, p.focus) = (c, r / heads, Some(r % heads), false, Focus::Head);
            });
        }
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "activations",
    title: "Activations",
    workspace: Workspace::Model,
    area: Area::BottomRight,
    make: || Box::new(Activations::default()),
};
