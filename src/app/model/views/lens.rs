//! Logit lens: layer × position.

use crate::app::view::{
    Area, Cached, Context, Table, View, ViewDef, Workspace, compared, layer_by_pos, numbers, position_labels, ready,
    scale,
};
use eframe::egui::{self, RichText};

use crate::analysis::logit_lens::{Cell, Lens};
use crate::app::look::theme;
use crate::app::widgets::colorbar::share;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, coloring, diverging};
use crate::app::widgets::{choice, token_text};
use crate::gpu::{ColorMap, HeatData, NOTHING};

/// What the cells' colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Quantity {
    #[default]
    TopProbability,
    ActualProbability,
    ActualRank,
    Entropy,
    AnswerProbability,
    AnswerRank,
    AnswerDifference,
}

impl Quantity {
    fn unit(self) -> &'static str {
        match self {
            Self::Entropy => "nats",
            Self::AnswerDifference => "logits",
            Self::ActualRank | Self::AnswerRank => "−log10 of the rank, which begins at 1",
            Self::TopProbability | Self::ActualProbability | Self::AnswerProbability => "probability",
        }
    }

    /// Name of an export.
    fn name(self) -> &'static str {
        match self {
            Self::TopProbability => "logit-lens-top-probability",
            Self::ActualProbability => "logit-lens-actual-probability",
            Self::ActualRank => "logit-lens-minus-log10-actual-rank",
            Self::Entropy => "logit-lens-entropy",
            Self::AnswerProbability => "logit-lens-answer-probability",
            Self::AnswerRank => "logit-lens-minus-log10-answer-rank",
            Self::AnswerDifference => "logit-lens-logit-difference",
        }
    }
}

#[derive(Default)]
pub struct LensView {
    quantity: Quantity,
    data: Cached<(u64, Quantity)>,
}

fn value(cell: &Cell, quantity: Quantity) -> Option<f32> {
    match quantity {
        Quantity::TopProbability => cell.top.first().map(|t| t.prob),
        Quantity::ActualProbability => cell.actual_prob,
        // Ranks span orders of magnitude; 0 is the best.
        Quantity::ActualRank => cell.actual_rank.map(|r| -((r + 1) as f32).log10()),
        Quantity::Entropy => Some(cell.entropy),
        Quantity::AnswerProbability => cell.answer.map(|a| a.prob),
        Quantity::AnswerRank => cell.answer.map(|a| -((a.rank + 1) as f32).log10()),
        Quantity::AnswerDifference => cell.answer.and_then(|a| a.logit_difference),
    }
}

fn matrix(lens: &Lens, quantity: Quantity) -> HeatData {
    let n = lens.positions.len();
    let values = lens
        .cells
        .iter()
        .flat_map(|row| row.iter().map(|c| c.as_ref().and_then(|c| value(c, quantity)).unwrap_or(NOTHING)))
        .collect();
    HeatData::new(lens.n_layers, n, values)
}

impl View for LensView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let slot = &cx.state.results.lens;
        let Some(lens) = slot.get().cloned().filter(|_| slot.error().is_none()) else {
            ready(ui, cx, slot);
            return;
        };
        if !ready(ui, cx, slot) {
            return;
        }
        let run = cx.run();
        let mut options = vec![
            (Quantity::TopProbability, "top token's probability"),
            (Quantity::ActualProbability, "actual token's probability"),
            (Quantity::ActualRank, "actual token's rank"),
            (Quantity::Entropy, "entropy"),
        ];
        if run.as_ref().is_some_and(|r| r.answer.is_some()) {
            options.push((Quantity::AnswerProbability, "answer's probability"));
            options.push((Quantity::AnswerRank, "answer's rank"));
        }
        if run.as_ref().is_some_and(|r| r.answer.is_some() && r.wrong.is_some()) {
            options.push((Quantity::AnswerDifference, "logit difference"));
        }
        if !options.iter().any(|(q, _)| *q == self.quantity) {
            self.quantity = Quantity::default();
        }
        let quantity = self.quantity;
        let data =
            self.data.get((lens.stamp, quantity), || compared(&lens.value, false, true, |l| matrix(l, quantity)));
        let (colors, low, high) = scale(cx, &lens.value, &data, lens.fresh, || match quantity {
            Quantity::AnswerDifference => {
                let m = data.max_abs();
                (diverging(&cx.palette, m, lens.fresh), number(-m), number(m))
            }
            Quantity::ActualRank | Quantity::AnswerRank => {
                let worst = 10f32.powf(-data.min);
                let c = coloring(&cx.palette, ColorMap::Viridis, data.min.min(-1.0), 0.0, false, lens.fresh);
                (c, format!("rank {worst:.0}"), "1".to_owned())
            }
            Quantity::Entropy => {
                let c = coloring(&cx.palette, ColorMap::Viridis, 0.0, data.max, false, lens.fresh);
                (c, "0".to_owned(), format!("{:.1} nats", data.max))
            }
            _ => {
                let c = coloring(&cx.palette, ColorMap::Viridis, 0.0, 1.0, false, lens.fresh);
                (c, "0".to_owned(), "1".to_owned())
            }
        });
        ui.horizontal(|ui| {
            if let Some(q) = choice(ui, "colour", self.quantity, &options) {
                self.quantity = q;
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| colorbar(ui, &colors, &low, &high));
        });
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let top = |r: usize, c: usize| lens.value.cells.get(r).and_then(|row| row.get(c)).and_then(|c| c.as_ref());
        let turns = cx.turns();
        let outcome = Heatmap {
            name: "logit lens",
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
            cell_text: Some(&|r, c| {
                top(r, c).and_then(|c| c.top.first()).map(|t| token_text::short(&cx.text_of(t.id), 9))
            }),
            tooltip: &|ui, r, c| {
                ui.label(RichText::new(format!("layer {r}, after {} ({c})", cx.token(c))).font(theme::title()));
                if lens.value.minus.is_some()
                    && let Some(v) = data.get(r, c)
                {
                    ui.label(RichText::new(format!("difference {v:+.4}")).font(theme::title()));
                }
                if let Some(cell) = top(r, c) {
                    for t in &cell.top {
                        ui.monospace(format!("{:<14} {:>10}", cx.text_of(t.id), share(t.prob)));
                    }
                    if let Some(rank) = cell.actual_rank {
                        ui.label(format!("actual next token {}: rank {}", cx.token(c + 1), rank + 1));
                    }
                    if let Some(a) = &cell.answer {
                        ui.label(format!("answer: probability {}, rank {}", share(a.prob), a.rank + 1));
                    }
                    ui.label(format!("entropy {:.2} nats", cell.entropy));
                }
            },
        }
        .show(ui);
        layer_by_pos(cx, &outcome);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let d = self.data.last()?;
        let lens = cx.state.results.lens.value()?.clone();
        let top = |layer: usize, pos: usize| {
            let best = lens.now.cell(layer, pos).and_then(|c| c.top.first());
            best.map_or_else(String::new, |t| cx.state.model.as_ref().map_or_else(String::new, |m| m.token_text(t.id)))
        };
        let table =
            Table::grid(self.quantity.name(), ("layer", "pos"), d, numbers(d.rows), position_labels(cx, d.cols));
        Some(table.in_unit(self.quantity.unit()).with_texts(top))
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "lens",
    title: "Logit lens",
    workspace: Workspace::Model,
    area: Area::TopRight,
    help: "What the model would predict if the residual stream of a layer went straight to the output. Reading upwards shows when the answer appears.",
    formula: "softmax(unembed(ln_final(resid_post[l]))) [nostalgebraist 2020]",
    make: || Box::new(LensView::default()),
};
