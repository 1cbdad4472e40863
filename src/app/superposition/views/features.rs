//! The columns of W as arrows, one small picture for each model.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, Align2, Rect, RichText, Stroke, vec2};

use super::{caption, feature_color, ready, small_multiples};
use crate::app::look::theme;
use crate::app::widgets::colorbar::number;
use crate::superposition::geometry::{Shape, fraction};
use crate::superposition::{Setup, Snapshot};

#[derive(Default)]
pub struct Features;

/// Half the side of the square that is shown, in weights.
pub const REACH: f32 = 1.55;

impl View for Features {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let lines = if setup.instances.len() > 30 { 1 } else { 2 };
        if setup.hidden > 2 {
            ui.label(
                RichText::new(format!(
                    "the first two of {} hidden dimensions; W for m = 3 turns in its own view, WᵀW shows any m",
                    setup.hidden
                ))
                .font(theme::small())
                .color(cx.palette.weak),
            );
        }
        small_multiples(ui, cx, setup.instances.len(), 1.0, 14.0 * lines as f32 + 4.0, |ui, cx, k, rect, response| {
            arrows(ui, cx, &setup, &snapshot, k, rect);
            let measures = &snapshot.measures[k];
            let title = cx.state.superposition.instance_label(k);
            let shape = format!("{} · {}", number(measures.loss), measures.shape.label());
            let strong = if cx.state.superposition.instance == k { cx.palette.accent } else { cx.palette.text };
            let mut text = vec![(title.clone(), strong), (shape.clone(), cx.palette.weak)];
            text.truncate(lines);
            caption(ui, rect, &text);
            if response.hovered() {
                tooltip(response, &setup, &snapshot, k, &title);
            }
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        let rows = snapshot.frames.get(cx.state.superposition.instance)?.encoder.chunks(setup.hidden);
        Some(Table {
            name: "W".to_owned(),
            row_axis: "feature",
            col_axis: "hidden",
            rows: super::feature_labels(setup.features),
            cols: (0..setup.hidden).map(|j| format!("hidden {j}")).collect(),
            values: rows.map(|r| r.iter().copied().map(Some).collect()).collect(),
            ..Table::default()
        })
    }
}

fn arrows(ui: &egui::Ui, cx: &Context<'_>, setup: &Setup, snapshot: &Snapshot, k: usize, rect: Rect) {
    let painter = ui.painter_at(rect);
    let frame = &snapshot.frames[k];
    let m = setup.hidden;
    let center = rect.center();
    let scale = rect.width() / 2.0 / REACH;
    let axis = Stroke::new(1.0, cx.palette.border);
    painter.hline(rect.x_range(), center.y, axis);
    if m > 1 {
        painter.vline(center.x, rect.y_range(), axis);
        painter.circle_stroke(center, scale, axis);
    }
    let importance = &setup.instances[k].importance;
    let large = rect.width() > 90.0;
    // The most important ones last, so that they lie on top.
    for i in (0..setup.features).rev() {
        let w = &frame.encoder[i * m..(i + 1) * m];
        let tip = center + vec2(w[0], -w.get(1).copied().unwrap_or(0.0)) * scale;
        let color = feature_color(cx, importance, i);
        let chosen = cx.state.superposition.feature == Some(i);
        let dim = cx.state.superposition.feature.is_some() && !chosen;
        let color = if dim { color.gamma_multiply(0.3) } else { color };
        let width = if chosen {
            3.0
        } else if large {
            2.0
        } else {
            1.4
        };
        painter.line_segment([center, tip], Stroke::new(width, color));
        let along = tip - center;
        let r = if large { 3.2 } else { 2.2 };
        if along.length() > 2.0 {
            painter.circle_filled(tip, r, color);
        }
        if large && setup.features <= 20 && along.length() > 14.0 {
            let at = tip + along.normalized() * 10.0;
            painter.text(at, Align2::CENTER_CENTER, i, theme::mono_small(), color);
        }
    }
}

fn tooltip(response: &egui::Response, setup: &Setup, snapshot: &Snapshot, k: usize, title: &str) {
    egui::Tooltip::for_widget(response).at_pointer().gap(14.0).show(|ui| {
        let (m, i) = (&snapshot.measures[k], &setup.instances[k]);
        ui.label(RichText::new(title).font(theme::title()));
        ui.label(m.shape.label());
        ui.monospace(format!("loss {:.5}   sparsity {:.4}   D* {:.3}", m.loss, i.sparsity, m.d_star));
        for f in 0..setup.features.min(8) {
            let (norm, d) = (m.interference.norm[f], m.interference.dimensionality[f]);
            ui.monospace(format!("feature {f}: ‖W‖ {norm:.3}, D {d:.3}"));
        }
        if let Shape::Polygon(5) = m.shape {
            ui.label(format!("a pentagon's features have D = {} each", fraction(0.4)));
        }
    });
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-features",
    title: "Features",
    workspace: Workspace::Superposition,
    area: Area::TopLeft,
    make: || Box::new(Features),
};
