//! W neuron by neuron: which features each hidden unit carries, and how many.

use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText, vec2};

use super::{feature_labels, ready};
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::choice;
use crate::app::widgets::colorbar::{colorbar, decimals, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging};
use crate::gpu::HeatData;
use crate::superposition::setup::Task;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Which {
    #[default]
    Encoder,
    Decoder,
}

#[derive(Default)]
pub struct Weights {
    which: Which,
    data: Cached<(usize, usize, usize, bool)>,
}

/// A feature counts for a neuron from this share of the neuron's largest weight on.
const CARRIED: f32 = 0.25;

/// Features that each hidden unit carries; [feature][hidden] in. Where inputs are never negative a unit behind a ReLU
/// answers to positive weights only: `signed` is false.
fn carried(rows: &[f32], hidden: usize, signed: bool) -> Vec<usize> {
    (0..hidden)
        .map(|j| {
            let column = rows.chunks(hidden).map(|r| if signed { r[j].abs() } else { r[j].max(0.0) });
            let max = column.clone().fold(0.0, f32::max);
            // A neuron that writes nothing carries nothing.
            if max < 0.1 { 0 } else { column.filter(|w| *w >= CARRIED * max).count() }
        })
        .collect()
}

impl View for Weights {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let k = cx.state.superposition.instance;
        let (m, frame) = (setup.hidden, &snapshot.frames[k]);
        if setup.tied {
            self.which = Which::Encoder;
        }
        let rows = if self.which == Which::Encoder { &frame.encoder } else { &frame.decoder };
        let key = (cx.state.superposition.generation, snapshot.step, k, self.which == Which::Encoder);
        let data = self.data.get(key, || {
            let values = (0..m).flat_map(|j| rows.chunks(m).map(move |r| r[j])).collect();
            HeatData::new(m, setup.features, values)
        });
        let carried = carried(rows, m, !setup.hidden_relu || setup.task == Task::Absolute);
        let many = carried.iter().filter(|c| **c > 1).count();
        let used = carried.iter().filter(|c| **c > 0).count();
        let colors = diverging(&cx.palette, data.max_abs(), true);
        ui.horizontal(|ui| {
            let label = cx.state.superposition.instance_label(k);
            ui.label(RichText::new(label).font(theme::small()).color(cx.palette.accent));
            if !setup.tied {
                let options = [(Which::Encoder, "input weights W"), (Which::Decoder, "output weights V")];
                if let Some(w) = choice(ui, "show", self.which, &options) {
                    self.which = w;
                }
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let max = number(data.max_abs());
                colorbar(ui, &colors, &format!("−{max}"), &max);
            });
        });
        let text = format!("{many} of {used} hidden units carry several features");
        ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak)).on_hover_text(format!(
            "polysemantic units: several weights of at least {CARRIED} of the unit's largest; only a ReLU on the hidden \
             layer makes single units mean something"
        ));
        ui.horizontal_top(|ui| {
            let size = ui.available_size();
            let outcome = ui
                .allocate_ui(vec2(size.x, size.y), |ui| {
                    Heatmap {
                        name: "hidden × feature",
                        axes: ("hidden unit", "feature"),
                        turns: (None, None),
                        data: &data,
                        coloring: colors,
                        row_label: &|r| format!("{r}: {}", carried.get(r).unwrap_or(&0)),
                        col_label: &|c| c.to_string(),
                        row_label_width: 40.0,
                        flip: false,
                        square: false,
                        least_row: 0.0,
                        painted: None,
                        pinned: (None, cx.state.superposition.feature),
                        hovered: (None, None),
                        isolate: Isolate::Nothing,
                        cell_text: Some(&|r, c| data.get(r, c).map(decimals)),
                        tooltip: &|ui, r, c| {
                            ui.label(RichText::new(format!("hidden unit {r}, feature {c}")).font(theme::title()));
                            if let Some(v) = data.get(r, c) {
                                ui.monospace(format!("weight {v:+.4}"));
                            }
                            ui.label(format!("this unit carries {} features", carried.get(r).unwrap_or(&0)));
                        },
                    }
                    .show(ui)
                })
                .inner;
            if let Some((_, c)) = outcome.clicked {
                let next = (cx.state.superposition.feature != Some(c)).then_some(c);
                cx.actions.push(Action::Superposition(SuperpositionAction::Feature(next)));
            }
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        let frame = snapshot.frames.get(cx.state.superposition.instance)?;
        let rows = if self.which == Which::Decoder { &frame.decoder } else { &frame.encoder };
        let m = setup.hidden;
        Some(Table {
            name: "weights".to_owned(),
            row_axis: "hidden",
            col_axis: "feature",
            rows: (0..m).map(|j| format!("hidden {j}")).collect(),
            cols: feature_labels(setup.features),
            values: (0..m).map(|j| rows.chunks(m).map(|r| Some(r[j])).collect()).collect(),
            ..Table::default()
        })
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-weights",
    title: "Neurons",
    workspace: Workspace::Superposition,
    area: Area::TopRight,
    make: || Box::new(Weights::default()),
};

#[cfg(test)]
mod tests {
    use super::carried;

    #[test]
    fn counts_features_of_a_unit() {
        // Unit 0 carries features 0 and 2, unit 1 feature 1, unit 2 nothing.
        let rows = [1.0, 0.1, 0.01, 0.1, -0.9, 0.0, -0.5, 0.0, 0.02];
        assert_eq!(carried(&rows, 3, true), [2, 1, 0]);
        assert_eq!(carried(&rows, 3, false)[0], 1);
    }
}
