//! The phase diagram: every cell a model, coloured by what became of its last feature, with the closed form over it.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, Align2, Rect, RichText, Stroke, pos2, vec2};

use super::ready;
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::colorbar::number;
use crate::app::widgets::message;
use crate::superposition::phases::{Grid, Phase, expected, losses, margin, phase_of};
use crate::superposition::{Setup, Snapshot};

#[derive(Default)]
pub struct Phases;

/// Where theory's lines are looked for, for each cell.
const FINE: usize = 6;

fn color(cx: &Context<'_>, phase: Phase) -> egui::Color32 {
    match phase {
        Phase::Ignored => cx.palette.raised,
        Phase::Superposed => cx.palette.accent.gamma_multiply(0.85),
        Phase::Dedicated => cx.palette.bar,
    }
}

impl View for Phases {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let Some(grid) = cx.state.superposition.trained.as_ref().and_then(|(r, _)| r.grid().cloned()) else {
            message(ui, "these models form no phase diagram; choose one of its presets at the left", false);
            return;
        };
        let n = setup.features;
        let closed = cx.state.superposition.trained.as_ref().is_some_and(|(r, _)| r.has_closed_form());
        let best = best(&grid, &snapshot);
        let observed: Vec<Phase> = best.iter().map(|k| phase_of(&snapshot.measures[*k].interference)).collect();
        let (same, all) = agreement(&grid, n, &observed);
        ui.horizontal_wrapped(|ui| {
            for phase in Phase::ALL.into_iter().rev() {
                let (rect, _) = ui.allocate_exact_size(vec2(10.0, 10.0), egui::Sense::hover());
                ui.painter().rect_filled(rect, 2.0, color(cx, phase));
                ui.label(RichText::new(phase.label()).font(theme::small()))
                    .on_hover_text(format!("what became of feature {}", n - 1));
            }
            if !closed {
                return;
            }
            ui.separator();
            let text = format!("{same} of {all} as in theory");
            ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak))
                .on_hover_text("cells whose best and second best phase differ by at least a tenth of the loss");
        });
        let (outer, response) = ui.allocate_exact_size(ui.available_size(), egui::Sense::click());
        let name = format!("phase diagram: {} × {}", grid.importances.len(), grid.densities.len());
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, name.clone()));
        let plot = Rect::from_min_max(outer.min + vec2(52.0, 4.0), outer.max - vec2(8.0, 34.0));
        if plot.width() < 40.0 || plot.height() < 40.0 {
            return;
        }
        cells(ui, cx, &grid, &observed, plot);
        if closed {
            theory(ui, cx, &grid, n, plot);
        }
        axes(ui, cx, &grid, outer, plot);
        pointer(cx, &setup, &snapshot, &grid, (&best, &observed), &response, plot);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (recipe, _) = cx.state.superposition.trained.as_ref()?;
        let grid = recipe.grid()?;
        let snapshot = cx.state.superposition.snapshot()?;
        let code = |k: &usize| {
            let phase = phase_of(&snapshot.measures[*k].interference);
            Phase::ALL.iter().position(|p| *p == phase).map(|p| p as f32)
        };
        let best = best(grid, snapshot);
        Some(Table {
            name: "phases-0-ignored-1-superposed-2-dedicated".to_owned(),
            row_axis: "importance",
            col_axis: "density",
            rows: grid.importances.iter().map(|v| format!("{v:.4}")).collect(),
            cols: grid.densities.iter().map(|v| format!("{v:.4}")).collect(),
            values: best.chunks(grid.densities.len()).map(|r| r.iter().map(code).collect()).collect(),
            ..Table::default()
        })
    }
}

/// For each cell the model with the smallest loss.
fn best(grid: &Grid, snapshot: &Snapshot) -> Vec<usize> {
    let loss = |k: &usize| snapshot.measures.get(*k).map_or(f32::INFINITY, |m| m.loss);
    let finite = |k: &usize| if loss(k).is_finite() { loss(k) } else { f32::INFINITY };
    let tries = |cell: usize| cell * grid.tries..(cell + 1) * grid.tries;
    (0..grid.cells().min(snapshot.measures.len() / grid.tries))
        .filter_map(|cell| tries(cell).min_by(|a, b| finite(a).total_cmp(&finite(b))))
        .collect()
}

/// Cells away from a boundary that are as the closed form says, and all of those.
fn agreement(grid: &Grid, features: usize, observed: &[Phase]) -> (usize, usize) {
    let cells = grid.importances.iter().flat_map(|r| grid.densities.iter().map(move |p| (*r, *p)));
    let away = cells.zip(observed).filter(|((r, p), _)| margin(features, *p, *r) >= 0.1);
    away.fold((0, 0), |(same, all), ((r, p), o)| (same + usize::from(expected(features, p, r) == *o), all + 1))
}

/// Row 0, the least important, at the bottom; density falls to the right.
fn cells(ui: &egui::Ui, cx: &Context<'_>, grid: &Grid, observed: &[Phase], plot: Rect) {
    let (rows, cols) = (grid.importances.len(), grid.densities.len());
    let size = vec2(plot.width() / cols as f32, plot.height() / rows as f32);
    let painter = ui.painter();
    for (k, phase) in observed.iter().enumerate() {
        let (r, c) = (k / cols, k % cols);
        let min = pos2(plot.min.x + c as f32 * size.x, plot.max.y - (r + 1) as f32 * size.y);
        let gap = if size.x > 8.0 { 0.5 } else { 0.0 };
        let cell = Rect::from_min_size(min, size).shrink(gap);
        painter.rect_filled(cell, 0.0, color(cx, *phase));
        if cx.state.superposition.instance / grid.tries == k {
            painter.rect_stroke(cell, 0.0, Stroke::new(1.5, cx.palette.text), egui::StrokeKind::Inside);
        }
    }
}

/// Draws where the closed form's phase changes.
fn theory(ui: &egui::Ui, cx: &Context<'_>, grid: &Grid, features: usize, plot: Rect) {
    let (rows, cols) = (grid.importances.len() * FINE, grid.densities.len() * FINE);
    // Cells' values stand at their middles; the scales go on by half a cell.
    let scale = |list: &[f32], t: f32| {
        let (first, last) = (list[0].ln(), list[list.len() - 1].ln());
        let step = (last - first) / (list.len() - 1).max(1) as f32;
        (first + (t - 0.5) * step).exp()
    };
    let phase = |r: usize, c: usize| {
        let density = scale(&grid.densities, (c as f32 + 0.5) / FINE as f32).min(1.0);
        expected(features, density, scale(&grid.importances, (r as f32 + 0.5) / FINE as f32))
    };
    let at = |r: usize, c: usize| {
        pos2(plot.min.x + c as f32 / cols as f32 * plot.width(), plot.max.y - r as f32 / rows as f32 * plot.height())
    };
    let stroke = Stroke::new(2.0, cx.palette.text);
    let all: Vec<Vec<Phase>> = (0..rows).map(|r| (0..cols).map(|c| phase(r, c)).collect()).collect();
    for r in 0..rows {
        for c in 0..cols {
            if c + 1 < cols && all[r][c] != all[r][c + 1] {
                ui.painter().line_segment([at(r, c + 1), at(r + 1, c + 1)], stroke);
            }
            if r + 1 < rows && all[r][c] != all[r + 1][c] {
                ui.painter().line_segment([at(r + 1, c), at(r + 1, c + 1)], stroke);
            }
        }
    }
}

fn axes(ui: &egui::Ui, cx: &Context<'_>, grid: &Grid, outer: Rect, plot: Rect) {
    let painter = ui.painter();
    let (rows, cols) = (grid.importances.len(), grid.densities.len());
    let weak = cx.palette.weak;
    for c in [0, cols / 2, cols - 1] {
        let x = plot.min.x + (c as f32 + 0.5) / cols as f32 * plot.width();
        let text = number(grid.densities[c]);
        painter.text(pos2(x, plot.max.y + 3.0), Align2::CENTER_TOP, text, theme::mono_small(), weak);
    }
    for r in [0, rows / 2, rows - 1] {
        let y = plot.max.y - (r as f32 + 0.5) / rows as f32 * plot.height();
        let text = number(grid.importances[r]);
        painter.text(pos2(plot.min.x - 4.0, y), Align2::RIGHT_CENTER, text, theme::mono_small(), weak);
    }
    let below = pos2(plot.center().x, outer.max.y);
    painter.text(below, Align2::CENTER_BOTTOM, "feature density, rarer to the right", theme::small(), weak);
    let galley = painter.layout_no_wrap("relative importance".to_owned(), theme::small(), weak);
    let start = pos2(outer.min.x, plot.center().y + galley.size().x / 2.0);
    let text = egui::epaint::TextShape::new(start, galley, weak).with_angle(-std::f32::consts::FRAC_PI_2);
    painter.add(text);
}

fn pointer(
    cx: &mut Context<'_>,
    setup: &Setup,
    snapshot: &Snapshot,
    grid: &Grid,
    (best, observed): (&[usize], &[Phase]),
    response: &egui::Response,
    plot: Rect,
) {
    let (rows, cols) = (grid.importances.len(), grid.densities.len());
    let Some(at) = response.hover_pos().filter(|p| plot.contains(*p)) else { return };
    let c = (((at.x - plot.min.x) / plot.width() * cols as f32) as usize).min(cols - 1);
    let r = (((plot.max.y - at.y) / plot.height() * rows as f32) as usize).min(rows - 1);
    let (Some(k), Some(phase)) = (best.get(r * cols + c), observed.get(r * cols + c)) else { return };
    let (p, i) = (grid.densities[c], grid.importances[r]);
    egui::Tooltip::for_widget(response).at_pointer().gap(14.0).show(|ui| {
        ui.label(RichText::new(phase.label()).font(theme::title()));
        ui.monospace(format!("density {p:.3}   importance {i:.3}"));
        ui.monospace(format!("loss {:.5}, the best of {} models", snapshot.measures[*k].loss, grid.tries));
        if cx.state.superposition.trained.as_ref().is_some_and(|(r, _)| r.has_closed_form()) {
            ui.label("theory's losses:");
            for (phase, loss) in Phase::ALL.iter().zip(losses(setup.features, p, i)) {
                ui.monospace(format!("  {:<23} {loss:.5}", phase.label()));
            }
        }
    });
    if response.clicked() {
        cx.actions.push(Action::Superposition(SuperpositionAction::Select(*k)));
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-phases",
    title: "Phase diagram",
    workspace: Workspace::Superposition,
    area: Area::TopLeft,
    make: || Box::new(Phases),
};
