//! Energy levels: the loss of every model, grouped by the shape that it fell into.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui;
use egui_plot::{HLine, MarkerShape, Plot, Points, Text};

use super::ready;
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::colorbar::number;
use crate::app::widgets::plots::said_of_points;
use crate::superposition::Snapshot;

#[derive(Default)]
pub struct Energy;

/// Shapes with the models that have them, the commonest first.
fn shapes(snapshot: &Snapshot) -> Vec<(String, Vec<usize>)> {
    let mut list: Vec<(String, Vec<usize>)> = Vec::new();
    for (k, m) in snapshot.measures.iter().enumerate() {
        let label = m.shape.label();
        match list.iter_mut().find(|(l, _)| *l == label) {
            Some((_, members)) => members.push(k),
            None => list.push((label, vec![k])),
        }
    }
    list.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    list
}

impl View for Energy {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        // Levels are those of one question: models of other sparsities have other losses anyway.
        let one = setup.instances.iter().all(|i| i.sparsity == setup.instances[0].sparsity);
        let shapes = shapes(&snapshot);
        let colors = [cx.palette.positive, cx.palette.negative, cx.palette.accent, cx.palette.bar];
        let losses: Vec<f64> = snapshot.measures.iter().map(|m| super::log10(m.loss)).collect();
        let label = |k: usize| cx.state.superposition.instance_label(k);
        let response = Plot::new("energy")
            .show_grid([false, false])
            .y_axis_min_width(56.0)
            .x_axis_label("model")
            .y_axis_label("loss (logarithmic)")
            .include_x(0.0)
            .include_x(snapshot.measures.len() as f64 * 1.02)
            .y_axis_formatter(|mark, _| number(10f64.powf(mark.value) as f32))
            .label_formatter(said_of_points(|name, x, y| {
                let model = label((x - 1.0).max(0.0) as usize);
                format!("{model}\n{name}\nloss {:.5}", 10f64.powf(y))
            }))
            .show(ui, |p| {
                for (s, (name, members)) in shapes.iter().enumerate() {
                    // Beyond the four commonest, quiet.
                    let color = colors.get(s).copied().unwrap_or(cx.palette.faint);
                    let points: Vec<[f64; 2]> = members.iter().map(|k| [*k as f64 + 1.0, losses[*k]]).collect();
                    p.points(Points::new(name, points).radius(3.5).shape(MarkerShape::Circle).color(color));
                    if one && members.len() > 1 && s < colors.len() {
                        let mean = members.iter().map(|k| losses[*k]).sum::<f64>() / members.len() as f64;
                        p.hline(HLine::new("", mean).color(color.gamma_multiply(0.5)).width(1.0).allow_hover(false));
                        let text = format!("{name} × {}", members.len());
                        let text = egui::RichText::new(text).font(theme::small()).color(color);
                        let at = [snapshot.measures.len() as f64, mean].into();
                        p.text(Text::new("", at, text).anchor(egui::Align2::RIGHT_BOTTOM).allow_hover(false));
                    }
                }
                let k = cx.state.superposition.instance;
                if let Some(y) = losses.get(k) {
                    let mark = vec![[k as f64 + 1.0, *y]];
                    let ring = Points::new("", mark).radius(6.0).filled(false).color(cx.palette.text);
                    p.points(ring.allow_hover(false));
                }
            });
        if response.response.clicked()
            && let Some(at) = response.response.interact_pointer_pos()
        {
            let x = response.transform.value_from_position(at).x;
            let k = (x - 1.0).round().clamp(0.0, losses.len().saturating_sub(1) as f64) as usize;
            cx.actions.push(Action::Superposition(SuperpositionAction::Select(k)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let snapshot = cx.state.superposition.snapshot()?;
        let rows = snapshot.measures.iter();
        Some(Table {
            name: "energy-levels".to_owned(),
            row_axis: "model",
            col_axis: "measure",
            rows: rows
                .clone()
                .enumerate()
                .map(|(k, m)| format!("{} ({})", cx.state.superposition.instance_label(k), m.shape.label()))
                .collect(),
            cols: vec!["loss".to_owned()],
            values: rows.map(|m| vec![Some(m.loss)]).collect(),
            ..Table::default()
        })
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-energy",
    title: "Energy levels",
    workspace: Workspace::Superposition,
    area: Area::BottomLeft,
    make: || Box::new(Energy),
};
