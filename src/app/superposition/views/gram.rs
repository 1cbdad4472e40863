//! WᵀW and b: what each input feature does to each output.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText};

use super::{all_or_one, caption, feature_labels, ready, small_multiples};
use crate::analysis::interference::gram;
use crate::app::action::Action;
use crate::app::look::svg::paint_cells;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::colorbar::{colorbar, decimals};
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging};
use crate::app::widgets::message;
use crate::gpu::heatmap::{Coloring, HeatmapCallback};
use crate::gpu::{HeatData, NOTHING};
use crate::superposition::{Setup, Snapshot};

#[derive(Default)]
pub struct Gram {
    one: bool,
    /// Step and instance of each matrix that is on screen.
    cells: Vec<((usize, usize), HeatData)>,
    generation: usize,
}

/// From this many features on, only the selected model is shown: its picture is as large as the panel.
const MANY: usize = 40;

/// Multiplications that a frame can spare.
const MOST: usize = 8_000_000;

/// Output features down, input features across, then a gap and b.
fn matrix(setup: &Setup, snapshot: &Snapshot, k: usize) -> HeatData {
    let (n, f) = (setup.features, &snapshot.frames[k]);
    let product = gram(&f.decoder, &f.encoder, setup.hidden);
    let values = product.chunks(n).zip(&f.bias).flat_map(|(row, b)| row.iter().copied().chain([NOTHING, *b])).collect();
    HeatData::new(n, n + 2, values)
}

impl Gram {
    /// The matrix of an instance; made once for each snapshot.
    fn data(&mut self, setup: &Setup, snapshot: &Snapshot, k: usize) -> HeatData {
        let key = (snapshot.step, k);
        if let Some((_, d)) = self.cells.iter().find(|c| c.0 == key) {
            return d.clone();
        }
        let d = matrix(setup, snapshot, k);
        self.cells.retain(|c| c.0.0 == key.0);
        self.cells.push((key, d.clone()));
        d
    }
}

impl View for Gram {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        if setup.features * setup.features * setup.hidden > MOST {
            let text = format!("WᵀW of {} features is more than can be drawn at every step", setup.features);
            message(ui, &text, false);
            return;
        }
        let generation = cx.state.superposition.generation;
        if self.generation != generation {
            self.cells.clear();
            self.generation = generation;
        }
        let colors = diverging(&cx.palette, 1.0, true);
        let many = setup.features > MANY || setup.instances.len() == 1 || setup.instances.len() > 60;
        ui.horizontal(|ui| {
            if !many {
                all_or_one(ui, &mut self.one);
            }
            let label = cx.state.superposition.instance_label(cx.state.superposition.instance);
            if many || self.one {
                ui.label(RichText::new(label).font(theme::small()).color(cx.palette.accent));
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| colorbar(ui, &colors, "−1", "1"));
        });
        if many || self.one {
            self.large(ui, cx, &setup, &snapshot, colors);
        } else {
            let aspect = (setup.features + 2) as f32 / setup.features as f32;
            small_multiples(ui, cx, setup.instances.len(), aspect, 18.0, |ui, cx, k, rect, response| {
                let data = self.data(&setup, &snapshot, k);
                let cells = HeatmapCallback {
                    widget: response.id.value(),
                    window: [0.0, 0.0, data.cols as f32, data.rows as f32],
                    data,
                    rect,
                    coloring: Coloring { gap_width: 0.0, ..colors },
                };
                paint_cells(ui, &ui.painter_at(rect), cells, || None);
                caption(ui, rect, &[(cx.state.superposition.instance_label(k), cx.palette.weak)]);
            });
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        let k = cx.state.superposition.instance;
        if setup.features * setup.features * setup.hidden > MOST {
            return None;
        }
        let data = matrix(setup, snapshot, k);
        let mut cols = feature_labels(setup.features);
        cols.push("b".to_owned());
        let mut table = Table::grid("WtW", ("output", "input"), &data, feature_labels(setup.features), cols);
        // On the screen a gap stands before the bias.
        table.values.iter_mut().for_each(|row| _ = row.remove(setup.features));
        Some(table)
    }
}

impl Gram {
    fn large(
        &mut self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        setup: &Setup,
        snapshot: &Snapshot,
        coloring: Coloring,
    ) {
        let k = cx.state.superposition.instance;
        let n = setup.features;
        let data = self.data(setup, snapshot, k);
        let outcome = Heatmap {
            name: "WᵀW",
            axes: ("output", "input"),
            turns: (None, None),
            data: &data,
            coloring,
            row_label: &|r| r.to_string(),
            col_label: &|c| match c {
                c if c < n => c.to_string(),
                c if c == n + 1 => "b".to_owned(),
                _ => String::new(),
            },
            row_label_width: 24.0,
            flip: false,
            square: true,
            least_row: 0.0,
            painted: None,
            pinned: (cx.state.superposition.feature, cx.state.superposition.feature),
            hovered: (None, None),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| data.get(r, c).map(decimals)),
            tooltip: &|ui, r, c| {
                let Some(v) = data.get(r, c) else { return };
                let (title, text) = if c == n + 1 {
                    (format!("b of output {r}"), "what is added before the ReLU")
                } else if r == c {
                    (format!("feature {r} on itself"), "1 where the feature is represented perfectly")
                } else {
                    (format!("input {c} on output {r}"), "interference: 0 where the two are orthogonal")
                };
                ui.label(RichText::new(title).font(theme::title()));
                ui.label(RichText::new(format!("{v:+.4}")).font(theme::mono()));
                ui.label(text);
            },
        }
        .show(ui);
        if let Some((r, _)) = outcome.clicked {
            let next = (cx.state.superposition.feature != Some(r)).then_some(r);
            cx.actions.push(Action::Superposition(SuperpositionAction::Feature(next)));
        }
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-gram",
    title: "WᵀW and b",
    workspace: Workspace::Superposition,
    area: Area::TopRight,
    make: || Box::new(Gram::default()),
};
