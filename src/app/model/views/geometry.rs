//! Feature geometry: the toy models' measures on a real model's directions.

use crate::app::model::ModelAction;
use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace, here};
use std::sync::Arc;

use eframe::egui::{self, Align2, Rect, RichText, pos2, vec2};

use crate::analysis::feature_geometry::{BINS, Directions, FeatureGeometry};
use crate::app::action::Action;
use crate::app::features::{Chosen, FeatureAction};
use crate::app::look::theme;
use crate::app::widgets::choice;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging};
use crate::gpu::HeatData;

#[derive(Default)]
pub struct Geometry {
    cosines: Cached<u64>,
    /// Histograms of norms and dimensionalities, of the result with this stamp.
    bars: Option<(u64, [Bars; 2])>,
}

/// A histogram: low end, high end, counts.
type Bars = (f32, f32, Vec<u64>);

/// Counts in [`BINS`] bins between the smallest and the largest value.
fn histogram(values: &[f32]) -> Bars {
    let finite = values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = finite.clone().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if low >= high {
        return (low.min(0.0), low.max(1.0), vec![0; BINS]);
    }
    let mut counts = vec![0; BINS];
    for v in finite {
        let bin = ((v - low) / (high - low) * BINS as f32) as usize;
        counts[bin.min(BINS - 1)] += 1;
    }
    (low, high, counts)
}

impl View for Geometry {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let current = cx.state.desk().geometry;
        let layer = cx.pinned().layer;
        let mut options = vec![(Directions::Embedding, "token embeddings"), (Directions::Unembedding, "unembedding")];
        if cx.state.model.as_ref().is_some_and(|m| m.config.has_mlp()) {
            options.push((Directions::Neurons(layer), "the pinned layer's neurons"));
        }
        let decoder = cx.state.features.dictionary().map(|d| Directions::Decoder(Arc::as_ptr(d) as usize));
        options.extend(decoder.map(|d| (d, "the dictionary's decoder")));
        ui.horizontal(|ui| {
            let shown = match current {
                // Another dictionary was opened.
                Directions::Decoder(_) => decoder.unwrap_or(Directions::Embedding),
                // The pinned layer moved on.
                Directions::Neurons(_) => Directions::Neurons(layer),
                other => other,
            };
            if let Some(d) = choice(ui, "directions", shown, &options) {
                cx.push(ModelAction::Geometry(d));
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                colorbar(ui, &diverging(&cx.palette, 1.0, true), "−1", "1");
            });
        });
        if !here(ui, cx, &cx.state.results.geometry) {
            return;
        }
        let Some(result) = cx.state.results.geometry.get().cloned() else { return };
        let g = &*result.value;
        let sum: f32 = g.interference.dimensionality.iter().sum();
        let text = format!(
            "{} {} in {} dimensions; D adds up to {sum:.0}; cosines of size {:.3}, random ones {:.3}",
            g.count,
            g.directions.label(),
            g.hidden,
            g.rms_cosine,
            1.0 / (g.hidden as f32).sqrt()
        );
        ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak))
            .on_hover_text("root mean square of the cosines of pairs, over a sample of directions");
        if self.bars.as_ref().is_none_or(|b| b.0 != result.stamp) {
            self.bars =
                Some((result.stamp, [histogram(&g.interference.norm), histogram(&g.interference.dimensionality)]));
        }
        let space = ui.available_size();
        ui.horizontal_top(|ui| {
            ui.allocate_ui_with_layout(vec2(space.x * 0.45, space.y), egui::Layout::top_down(egui::Align::Min), |ui| {
                let Some((_, [norm, dimensionality])) = &self.bars else { return };
                let third = ui.available_height() / 3.0 - 4.0;
                bars(ui, cx, "norm ‖W_i‖", norm.0, norm.1, &norm.2, third);
                let help = "dimensionality D_i";
                bars(ui, cx, help, dimensionality.0, dimensionality.1, &dimensionality.2, third);
                bars(ui, cx, "cosine of pairs", -1.0, 1.0, &g.histogram, third);
            });
            self.matrix(ui, cx, g, result.stamp);
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let g = cx.state.results.geometry.get()?;
        let i = &g.value.interference;
        let values = (0..g.value.count)
            .map(|k| vec![Some(i.norm[k]), Some(i.superposition[k]), Some(i.dimensionality[k])])
            .collect();
        Some(Table {
            name: "feature-geometry".to_owned(),
            row_axis: "direction",
            col_axis: "measure",
            rows: (0..g.value.count).map(|k| name(cx, g.value.directions, k)).collect(),
            cols: ["norm", "superposition", "dimensionality"].map(str::to_owned).to_vec(),
            values,
            ..Table::default()
        })
    }
}

/// What a direction stands for.
fn name(cx: &Context<'_>, directions: Directions, k: usize) -> String {
    match directions {
        Directions::Neurons(_) | Directions::Decoder(_) => k.to_string(),
        _ => cx.text_of(k as u32),
    }
}

impl Geometry {
    fn matrix(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, g: &FeatureGeometry, stamp: u64) {
        let n = g.chosen.len();
        if n == 0 {
            return;
        }
        let data = self.cosines.get(stamp, || HeatData::new(n, n, g.cosines.clone()));
        let label = |i: usize| name(cx, g.directions, g.chosen[i]);
        let kind = match g.directions {
            Directions::Neurons(_) => "neuron",
            Directions::Decoder(_) => "feature",
            Directions::Embedding | Directions::Unembedding => "token",
        };
        let outcome = Heatmap {
            name: "cosines",
            axes: (kind, kind),
            turns: (None, None),
            data: &data,
            coloring: diverging(&cx.palette, 1.0, cx.state.results.geometry.get().is_some_and(|r| r.fresh)),
            row_label: &label,
            col_label: &label,
            row_label_width: 68.0,
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
                ui.label(RichText::new(format!("{} · {}", label(r), label(c))).font(theme::title()));
                ui.monospace(format!("cosine {v:+.4}"));
                let i = &g.interference;
                let k = g.chosen[r];
                ui.monospace(format!("{}: norm {:.3}, D {:.4}", label(r), i.norm[k], i.dimensionality[k]));
            },
        }
        .show(ui);
        if let Some((r, _)) = outcome.clicked
            && let Directions::Decoder(_) = g.directions
        {
            let feature = Chosen::Feature(g.chosen[r] as u32);
            cx.push(Action::Feature(FeatureAction::Choose(feature)));
        }
        if let Some((r, _)) = outcome.clicked
            && let Directions::Neurons(layer) = g.directions
        {
            let neuron = g.chosen[r];
            cx.pin(|p| (p.layer, p.neuron, p.focus) = (layer, Some(neuron), crate::session::desk::Focus::Neuron));
        }
    }
}

/// One histogram with its two ends.
fn bars(ui: &mut egui::Ui, cx: &Context<'_>, title: &str, low: f32, high: f32, counts: &[u64], height: f32) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width() - 6.0, height), egui::Sense::hover());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, format!("histogram: {title}")));
    let painter = ui.painter_at(rect);
    let weak = cx.palette.weak;
    painter.text(rect.left_top(), Align2::LEFT_TOP, title, theme::small(), weak);
    let plot = Rect::from_min_max(rect.min + vec2(2.0, 16.0), rect.max - vec2(2.0, 15.0));
    if plot.height() < 8.0 {
        return;
    }
    painter.hline(plot.x_range(), plot.max.y, egui::Stroke::new(1.0, cx.palette.border));
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f32;
    let pitch = plot.width() / counts.len().max(1) as f32;
    for (k, c) in counts.iter().enumerate() {
        let x = plot.min.x + k as f32 * pitch;
        let y = plot.max.y - *c as f32 / most * plot.height();
        let bar = Rect::from_min_max(pos2(x, y), pos2(x + (pitch - 0.5).max(0.5), plot.max.y));
        painter.rect_filled(bar, 0.0, cx.palette.bar);
    }
    painter.text(pos2(plot.min.x, rect.max.y), Align2::LEFT_BOTTOM, number(low), theme::mono_small(), weak);
    painter.text(pos2(plot.max.x, rect.max.y), Align2::RIGHT_BOTTOM, number(high), theme::mono_small(), weak);
    if let Some(at) = response.hover_pos().filter(|p| plot.contains(*p)) {
        let k = (((at.x - plot.min.x) / pitch) as usize).min(counts.len().saturating_sub(1));
        let edge = |k: usize| low + (high - low) * k as f32 / counts.len() as f32;
        egui::Tooltip::for_widget(&response).at_pointer().gap(14.0).show(|ui| {
            ui.monospace(format!("{} to {}: {}", number(edge(k)), number(edge(k + 1)), counts[k]));
        });
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "geometry",
    title: "Feature geometry",
    workspace: Workspace::Model,
    area: Area::BottomRight,
    make: || Box::new(Geometry::default()),
};
