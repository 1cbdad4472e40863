//! Norms of all features, coloured by how much the others interfere.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, Align2, Rect, RichText, pos2, vec2};

use super::{all_or_one, caption, feature_labels, interference_color, ready, small_multiples};
use crate::app::look::theme;
use crate::superposition::{Setup, Snapshot};

#[derive(Default)]
pub struct ToyNorms {
    one: bool,
}

impl View for ToyNorms {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let single = setup.instances.len() == 1 || setup.instances.len() > 60 || setup.features > 60;
        ui.horizontal(|ui| {
            if !single {
                all_or_one(ui, &mut self.one);
            }
            if single || self.one {
                let label = cx.state.superposition.instance_label(cx.state.superposition.instance);
                ui.label(RichText::new(label).font(theme::small()).color(cx.palette.accent));
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| legend(ui, cx));
        });
        if single || self.one {
            let (rect, response) = ui.allocate_exact_size(ui.available_size(), egui::Sense::hover());
            let k = cx.state.superposition.instance;
            bars(ui, cx, &setup, &snapshot, k, rect.shrink2(vec2(4.0, 6.0)), true, Some(&response));
        } else {
            small_multiples(ui, cx, setup.instances.len(), 1.25, 18.0, |ui, cx, k, rect, response| {
                bars(ui, cx, &setup, &snapshot, k, rect.shrink(3.0), false, response.hovered().then_some(response));
                caption(ui, rect, &[(cx.state.superposition.instance_label(k), cx.palette.weak)]);
            });
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        let m = &snapshot.measures.get(cx.state.superposition.instance)?.interference;
        let values = (0..setup.features)
            .map(|i| vec![Some(m.norm[i]), Some(m.superposition[i]), Some(m.dimensionality[i])])
            .collect();
        Some(Table {
            name: "norms".to_owned(),
            row_axis: "feature",
            col_axis: "measure",
            rows: feature_labels(setup.features),
            cols: ["norm", "superposition", "dimensionality"].map(str::to_owned).to_vec(),
            values,
            ..Table::default()
        })
    }
}

fn legend(ui: &mut egui::Ui, cx: &Context<'_>) {
    // Better none than one over the buttons beside it.
    if ui.available_width() < 200.0 {
        return;
    }
    let weak = |t: &str| RichText::new(t).font(theme::mono_small()).color(cx.palette.weak);
    ui.label(weak("≥ 1"));
    let (rect, response) = ui.allocate_exact_size(vec2(72.0, 8.0), egui::Sense::hover());
    response.on_hover_text("Σ_j≠i (Ŵ_i · W_j)²: how much other features interfere with this one");
    for i in 0..24 {
        let x = egui::lerp(rect.x_range(), i as f32 / 24.0);
        let part = Rect::from_min_size(pos2(x, rect.min.y), vec2(rect.width() / 24.0 + 0.5, rect.height()));
        ui.painter().rect_filled(part, 0.0, interference_color(cx, i as f32 / 23.0));
    }
    ui.label(weak("interference 0"));
}

fn bars(
    ui: &egui::Ui,
    cx: &Context<'_>,
    setup: &Setup,
    snapshot: &Snapshot,
    k: usize,
    rect: Rect,
    large: bool,
    response: Option<&egui::Response>,
) {
    let m = &snapshot.measures[k].interference;
    let n = setup.features;
    let painter = ui.painter_at(rect.expand(3.0));
    // One is a feature stored perfectly; room above for the larger norms of superposition.
    let top = m.norm.iter().copied().fold(1.25, f32::max).min(3.0);
    let left = if large { 26.0 } else { 0.0 };
    let foot = if large { 14.0 } else { 0.0 };
    let plot = Rect::from_min_max(rect.min + vec2(left, 0.0), rect.max - vec2(0.0, foot));
    let y = |v: f32| plot.max.y - (v / top).min(1.0) * plot.height();
    for level in [0.0, 1.0] {
        painter.hline(plot.x_range(), y(level), egui::Stroke::new(1.0, cx.palette.border));
        if large {
            let at = pos2(plot.min.x - 4.0, y(level));
            painter.text(at, Align2::RIGHT_CENTER, level, theme::mono_small(), cx.palette.weak);
        }
    }
    // Bars no wider than are comfortable to look at.
    let pitch = (plot.width() / n as f32).min(if large { 60.0 } else { f32::INFINITY });
    let gap = if pitch > 4.0 { 1.0 } else { 0.0 };
    for i in 0..n {
        let x = plot.min.x + i as f32 * pitch;
        let bar = Rect::from_min_max(pos2(x + gap / 2.0, y(m.norm[i])), pos2(x + pitch - gap / 2.0, plot.max.y));
        painter.rect_filled(bar, 0.0, interference_color(cx, m.superposition[i]));
        if large && pitch > 22.0 {
            let at = pos2(bar.center().x, plot.max.y + 2.0);
            painter.text(at, Align2::CENTER_TOP, i, theme::mono_small(), cx.palette.weak);
        }
    }
    if let Some(response) = response
        && let Some(at) = response.hover_pos()
        && plot.contains(at)
    {
        let i = (((at.x - plot.min.x) / pitch) as usize).min(n - 1);
        egui::Tooltip::for_widget(response).at_pointer().gap(14.0).show(|ui| {
            ui.label(RichText::new(format!("feature {i}")).font(theme::title()));
            ui.monospace(format!("norm ‖W_i‖        {:.3}", m.norm[i]));
            ui.monospace(format!("interference      {:.3}", m.superposition[i]));
            ui.monospace(format!("dimensionality D  {:.3}", m.dimensionality[i]));
            ui.monospace(format!("importance        {:.3}", setup.instances[k].importance[i]));
        });
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-norms",
    title: "Norms",
    workspace: Workspace::Superposition,
    area: Area::BottomRight,
    make: || Box::new(ToyNorms::default()),
};
