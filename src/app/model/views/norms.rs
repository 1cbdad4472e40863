//! Residual norms: layer × position.

use crate::app::export::plate::is_plate;
use crate::app::view::{
    Area, Cached, Context, Table, View, ViewDef, Workspace, compared, layer_by_pos, numbers, position_labels, ready,
};
use eframe::egui::{self, RichText};

use crate::analysis::norms::Norms;
use crate::app::look::theme;
use crate::app::widgets::choice;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging, sequential};
use crate::app::widgets::reach::{self, Reach, Reaching};
use crate::gpu::HeatData;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Stream {
    #[default]
    Resid,
    Attn,
    Mlp,
}

pub struct NormsView {
    stream: Stream,
    /// Colour by the logarithm: sinks are a hundred times larger than the rest.
    log: bool,
    data: Cached<(u64, Stream, bool)>,
    reaching: Reaching<(u64, Stream, bool)>,
}

impl Default for NormsView {
    fn default() -> Self {
        Self { stream: Stream::default(), log: true, data: Cached::default(), reaching: Reaching::default() }
    }
}

impl View for NormsView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let slot = &cx.state.results.norms;
        if !ready(ui, cx, slot) {
            return;
        }
        let Some(norms) = slot.get().cloned() else { return };
        let mut options = vec![(Stream::Resid, "resid_post"), (Stream::Attn, "attn_out")];
        if norms.value.mlp_out.is_empty() {
            if self.stream == Stream::Mlp {
                self.stream = Stream::Resid;
            }
        } else {
            options.push((Stream::Mlp, "mlp_out"));
        }
        let stream = self.stream;
        let rows = |n: &Norms| match stream {
            Stream::Resid => n.resid_post.clone(),
            Stream::Attn => n.attn_out.clone(),
            Stream::Mlp => n.mlp_out.clone(),
        };
        // A difference has a sign, so no logarithm.
        let differs = norms.value.minus.is_some();
        let log = self.log && !differs;
        let shown = |v: f32| if log { v.max(1e-6).log10() } else { v };
        let data = self.data.get((norms.stamp, self.stream, log), || {
            compared(&norms.value, false, true, |n| {
                let rows = rows(n);
                let cols = rows.first().map_or(0, Vec::len);
                HeatData::new(rows.len(), cols, rows.iter().flatten().map(|v| shown(*v)).collect())
            })
        });
        let real = |v: f32| if log { 10f32.powf(v) } else { v };
        let low = if log { data.min } else { 0.0 };
        // A logarithm is a range of its own.
        let reach: Reach = if log { Reach::All } else { cx.settings::<Option<Reach>>(&VIEW).unwrap_or(Reach::All) };
        let reached = self.reaching.of((norms.stamp, stream, log), reach, &data);
        let (colors, low, high) = if differs {
            let colors = diverging(&cx.palette, reached.largest, norms.fresh);
            (colors, format!("−{}", reached.end), reached.end.clone())
        } else if log {
            (sequential(&cx.palette, low, data.max, norms.fresh), number(real(low)), number(real(data.max)))
        } else {
            (sequential(&cx.palette, 0.0, reached.largest, norms.fresh), "0".to_owned(), reached.end.clone())
        };
        ui.horizontal(|ui| {
            if let Some(s) = choice(ui, "of", self.stream, &options) {
                self.stream = s;
            }
            let text = RichText::new("log colour").font(theme::small());
            if !is_plate(ui.ctx()) {
                ui.toggle_value(&mut self.log, text);
            } else if self.log {
                ui.label(text.color(cx.palette.weak));
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if log {
                    colorbar(ui, &colors, &low, &high);
                } else if let Some(reach) = reach::bar(ui, &colors, (&low, &high), reach, true) {
                    cx.set(&VIEW, &reach);
                }
            });
        });
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let turns = cx.turns();
        let outcome = Heatmap {
            name: "norms",
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
            painted: reached.painted.as_ref(),
            pinned: (None, Some(p.pos)),
            hovered: (h.layer, h.pos),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| data.get(r, c).map(|v| number(real(v)))),
            tooltip: &|ui, r, c| {
                ui.label(format!("layer {r}, {} ({c})", cx.token(c)));
                if let Some(v) = data.get(r, c) {
                    ui.label(
                        RichText::new(if differs {
                            format!("norm {v:+.2} against the other run")
                        } else {
                            format!("norm {:.2}", real(v))
                        })
                        .font(theme::title()),
                    );
                }
            },
        }
        .show(ui);
        layer_by_pos(cx, &outcome);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let d = self.data.last()?;
        let name = match self.stream {
            Stream::Resid => "norm-resid_post",
            Stream::Attn => "norm-attn_out",
            Stream::Mlp => "norm-mlp_out",
        };
        // The colours may be of the logarithm; the numbers are the norms that the screen says.
        let differs = cx.state.results.norms.get().is_some_and(|n| n.value.minus.is_some());
        let mut table = Table::grid(name, ("layer", "pos"), d, numbers(d.rows), position_labels(cx, d.cols));
        if self.log && !differs {
            table.values.iter_mut().flatten().flatten().for_each(|v| *v = 10f32.powf(*v));
        }
        Some(table)
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "norms",
    title: "Residual norms",
    workspace: Workspace::Model,
    area: Area::TopRight,
    make: || Box::new(NormsView::default()),
};
