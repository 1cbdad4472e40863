//! D* and D_i against sparsity, with the plateaus of regular figures.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, Color32, RichText};
use egui_plot::{HLine, Line, LineStyle, MarkerShape, Plot, Points, Text};

use super::ready;
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::plots::said_of_points;
use crate::superposition::geometry::{PLATEAUS, fraction};
use crate::superposition::{Setup, Snapshot};

#[derive(Default)]
pub struct Dimensionality;

/// Where an instance stands: log₁₀ 1/(1 − S), or its number where all are equally sparse.
fn positions(setup: &Setup) -> (Vec<f64>, bool) {
    let densities: Vec<f64> = setup.instances.iter().map(|i| f64::from(1.0 - i.sparsity)).collect();
    let differ = densities.iter().any(|d| (d - densities[0]).abs() > 1e-6);
    if differ {
        (densities.iter().map(|d| -d.log10()).collect(), true)
    } else {
        ((0..densities.len()).map(|k| k as f64 + 1.0).collect(), false)
    }
}

impl View for Dimensionality {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let (xs, log) = positions(&setup);
        let space = ui.available_size();
        let group = ui.scope_id().with("x");
        ui.label(
            RichText::new("D* = m / ‖W‖²_F: hidden dimensions for each feature")
                .font(theme::small())
                .color(cx.palette.weak),
        );
        plot("D*", &xs, log, group, 0.36 * space.y - 18.0).show(ui, |p| {
            lines(p, cx, &[1.0, 0.5]);
            let mut order: Vec<usize> = (0..xs.len()).collect();
            order.sort_by(|a, b| xs[*a].total_cmp(&xs[*b]));
            let points: Vec<[f64; 2]> =
                order.iter().map(|k| [xs[*k], f64::from(snapshot.measures[*k].d_star.min(1.5))]).collect();
            p.line(Line::new("D*", points.clone()).color(cx.palette.bar).width(1.5));
            p.points(Points::new("D*", points).color(cx.palette.bar).radius(3.0));
        });
        ui.label(
            RichText::new("D_i = ‖W_i‖² / Σ_j (Ŵ_i·W_j)²: the share of a dimension that each feature has")
                .font(theme::small())
                .color(cx.palette.weak),
        );
        let response = plot("D_i", &xs, log, group, ui.available_height()).show(ui, |p| {
            let levels: Vec<f32> = PLATEAUS.iter().map(|l| l.0).collect();
            lines(p, cx, &levels);
            for (k, x) in xs.iter().enumerate() {
                let chosen = cx.state.superposition.instance == k;
                let color = if chosen { cx.palette.accent } else { cx.palette.bar };
                let m = &snapshot.measures[k].interference;
                let points: Vec<[f64; 2]> = m
                    .dimensionality
                    .iter()
                    .zip(&m.norm)
                    .enumerate()
                    .filter(|(_, (_, n))| **n > 0.05)
                    .map(|(i, (d, _))| [x + spread(&xs, i), f64::from(*d)])
                    .collect();
                let name = cx.state.superposition.instance_label(k);
                p.points(Points::new(name, points).color(color).radius(1.8).shape(MarkerShape::Circle));
            }
        });
        if response.response.clicked()
            && let Some(at) = response.response.interact_pointer_pos()
        {
            let x = response.transform.value_from_position(at).x;
            let near = (0..xs.len()).min_by(|a, b| (xs[*a] - x).abs().total_cmp(&(xs[*b] - x).abs()));
            if let Some(k) = near {
                cx.actions.push(Action::Superposition(SuperpositionAction::Select(k)));
            }
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        Some(table(cx, setup, snapshot))
    }
}

fn table(cx: &Context<'_>, setup: &Setup, snapshot: &Snapshot) -> Table {
    let mut cols = vec!["D*".to_owned()];
    cols.extend(super::feature_labels(setup.features));
    let values = snapshot
        .measures
        .iter()
        .map(|m| std::iter::once(m.d_star).chain(m.interference.dimensionality.iter().copied()).map(Some).collect());
    Table {
        name: "dimensionality".to_owned(),
        row_axis: "model",
        col_axis: "feature",
        rows: (0..setup.instances.len()).map(|k| cx.state.superposition.instance_label(k)).collect(),
        cols,
        values: values.collect(),
        ..Table::default()
    }
}

/// A little to the side, so that equal values do not hide each other.
fn spread(xs: &[f64], i: usize) -> f64 {
    let step = if xs.len() > 1 { (xs[xs.len() - 1] - xs[0]).abs() / xs.len() as f64 } else { 0.2 };
    // Multiples of the golden ratio fill an interval evenly.
    ((i as f64 * 0.618_034).fract() - 0.5) * 0.5 * step
}

/// The range of the horizontal axis, with a margin.
fn range(xs: &[f64]) -> (f64, f64) {
    let (low, high) = xs.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
    let margin = 0.08 * (high - low).max(1.0);
    (low - margin, high + margin)
}

fn plot<'a>(name: &'a str, xs: &[f64], log: bool, group: egui::Id, height: f32) -> Plot<'a> {
    let (low, high) = range(xs);
    Plot::new(name)
        .height(height.max(40.0))
        .link_axis(group, [true, false])
        .show_grid([false, false])
        .default_x_bounds(low, high)
        .default_y_bounds(0.0, 1.12)
        .y_axis_min_width(28.0)
        .x_axis_label(if log { "1 / (1 − S), rarer to the right" } else { "model" })
        .x_axis_formatter(move |mark, _| {
            if log {
                format!("{:.3}", 10f64.powf(mark.value)).trim_end_matches(['0']).trim_end_matches('.').to_owned()
            } else {
                format!("{}", mark.value)
            }
        })
        .label_formatter(said_of_points(|name, _, y| format!("{name}\n{y:.3}")))
}

fn lines(p: &mut egui_plot::PlotUi<'_>, cx: &Context<'_>, levels: &[f32]) {
    let faint: Color32 = cx.palette.border;
    let bounds = p.plot_bounds();
    for (k, level) in levels.iter().enumerate() {
        // Left and right by turns: 2/5 and 3/8 lie close together.
        let left = k.is_multiple_of(2);
        let x = if left { bounds.min()[0] } else { bounds.max()[0] };
        let anchor = if left { egui::Align2::LEFT_BOTTOM } else { egui::Align2::RIGHT_BOTTOM };
        p.hline(HLine::new("", f64::from(*level)).color(faint).width(1.0).style(LineStyle::Solid).allow_hover(false));
        let text = RichText::new(fraction(*level)).font(theme::mono_small()).color(cx.palette.weak);
        let at = [x, f64::from(*level)].into();
        p.text(Text::new("", at, text).anchor(anchor).allow_hover(false));
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-dimensionality",
    title: "Dimensionality",
    workspace: Workspace::Superposition,
    area: Area::BottomLeft,
    make: || Box::new(Dimensionality),
};
