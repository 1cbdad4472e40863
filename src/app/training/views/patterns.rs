//! The attention patterns of all heads on the watched prompt.

use std::sync::Arc;

use eframe::egui::{self, Align2, Rect, RichText, vec2};

use super::ready;
use crate::app::action::Action;
use crate::app::look::svg::paint_cells;
use crate::app::look::theme;
use crate::app::training::TrainingAction;
use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace};
use crate::app::widgets::colorbar::colorbar;
use crate::app::widgets::heatmap::{Heatmap, Isolate, sequential};
use crate::gpu::heatmap::{Coloring, HeatmapCallback};
use crate::gpu::{HeatData, NOTHING};
use crate::training::run::Probe;

#[derive(Default)]
pub struct Patterns {
    /// The probe that the pictures are of.
    of: Option<Arc<Probe>>,
    small: Vec<((usize, usize), HeatData)>,
    large: Cached<(usize, usize, usize)>,
}

/// Points for the name above a small pattern and the gap below it.
const HEAD: f32 = 22.0;

/// Returns the lower triangle of a pattern. No query can attend to what comes after it.
fn triangle(values: &[f32], n: usize) -> HeatData {
    let cells = (0..n * n).map(|i| if i % n <= i / n { values.get(i).copied().unwrap_or(NOTHING) } else { NOTHING });
    HeatData::new(n, n, cells.collect())
}

impl View for Patterns {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(probe) = ready(ui, cx) else { return };
        let n = probe.tokens.len();
        let heads: Vec<(usize, usize)> =
            probe.patterns.iter().enumerate().flat_map(|(l, hs)| (0..hs.len()).map(move |h| (l, h))).collect();
        let per_layer = probe.patterns.first().map_or(1, Vec::len).max(1);
        let layers = probe.patterns.len().max(1);
        let space = ui.available_size();
        let side = (space.x / per_layer as f32 - 10.0).min(space.y * 0.42 / layers as f32 - HEAD).clamp(30.0, 150.0);
        let colors = sequential(&cx.palette, 0.0, 1.0, true);
        let origin = ui.cursor().min;
        if self.of.as_ref().is_none_or(|o| !Arc::ptr_eq(o, &probe)) {
            (self.of, self.small, self.large) = (Some(probe.clone()), Vec::new(), Cached::default());
        }
        for (l, h) in heads {
            let key = (l, h);
            let data = match self.small.iter().find(|c| c.0 == key) {
                Some((_, d)) => d.clone(),
                None => {
                    let d = triangle(&probe.patterns[l][h], n);
                    self.small.push((key, d.clone()));
                    d
                }
            };
            // The last layer on top, as it reads from those below.
            let row = layers - 1 - l;
            let min = origin + vec2(h as f32 * (side + 10.0), row as f32 * (side + HEAD));
            let rect = Rect::from_min_size(min + vec2(0.0, HEAD - 6.0), vec2(side, side));
            let response = ui.interact(rect, ui.scope_id().with(("head", l, h)), egui::Sense::click());
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("head {l}.{h}")));
            let chosen = cx.state.training.head == (l, h);
            let ink = if chosen { cx.palette.accent } else { cx.palette.weak };
            ui.painter().text(min, Align2::LEFT_TOP, format!("head {l}.{h}"), theme::small(), ink);
            let cells = HeatmapCallback {
                widget: response.id.value(),
                window: [0.0, 0.0, n as f32, n as f32],
                data,
                rect,
                coloring: Coloring { gap_width: 0.0, ..colors },
            };
            paint_cells(ui, &ui.painter_at(rect), cells, || None);
            if chosen || response.hovered() {
                let stroke = egui::Stroke::new(1.5, ink);
                ui.painter().rect_stroke(rect, 1.0, stroke, egui::StrokeKind::Outside);
            }
            if response.clicked() {
                cx.actions.push(Action::Training(TrainingAction::Head(l, h)));
            }
        }
        ui.allocate_space(vec2(space.x, layers as f32 * (side + HEAD) + 4.0));
        let (l, h) = cx.state.training.head;
        let Some(values) = probe.patterns.get(l).and_then(|hs| hs.get(h)) else { return };
        ui.horizontal(|ui| {
            ui.label(RichText::new(format!("Head {l}.{h}")).font(theme::title()).color(cx.palette.accent));
            ui.label(RichText::new("rows attend to columns").font(theme::small()).color(cx.palette.weak));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| colorbar(ui, &colors, "0", "1"));
        });
        let data = self.large.get((l, h, n), || triangle(values, n));
        let token = |i: usize| probe.tokens.get(i).cloned().unwrap_or_default();
        Heatmap {
            name: "pattern in training",
            axes: ("query", "key"),
            turns: (None, None),
            data: &data,
            coloring: colors,
            row_label: &token,
            col_label: &token,
            row_label_width: 54.0,
            flip: false,
            square: true,
            least_row: 0.0,
            painted: None,
            pinned: (None, None),
            hovered: (None, None),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| data.get(r, c).map(|v| format!("{v:.2}"))),
            tooltip: &|ui, r, c| {
                let Some(v) = data.get(r, c) else { return };
                ui.label(RichText::new(format!("{} ({r}) → {} ({c})", token(r), token(c))).font(theme::title()));
                ui.monospace(format!("attention {v:.4} at step {}", probe.step));
            },
        }
        .show(ui);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.training;
        let probe = s.probe()?;
        let n = probe.tokens.len();
        let data = triangle(probe.patterns.get(s.head.0)?.get(s.head.1)?, n);
        let labels: Vec<String> = probe.tokens.iter().enumerate().map(|(i, t)| format!("{i} {t}")).collect();
        let name = format!("pattern-{}.{}-step-{}", s.head.0, s.head.1, probe.step);
        Some(Table::grid(&name, ("dest", "src"), &data, labels.clone(), labels))
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "scratch-patterns",
    title: "Patterns",
    workspace: Workspace::Training,
    area: Area::Right,
    make: || Box::new(Patterns::default()),
};
