//! Loss over the training, and what each feature adds to it.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText, vec2};
use egui_plot::{Line, PlotPoints, VLine};

use super::ready;
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::bars::{Bar, bar};
use crate::app::widgets::colorbar::number;
use crate::app::widgets::plots::{over_steps, said_of_points};
use crate::gpu::ColorMap;

#[derive(Default)]
pub struct Loss;

/// Curves of more models than this would be a grey cloud.
const CURVES: usize = 64;
/// Points of a curve.
const POINTS: usize = 120;

impl View for Loss {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let space = ui.available_size();
        let beside = space.x > 460.0;
        let state = &cx.state.superposition;
        let snapshots = state.snapshots();
        let count = setup.instances.len();
        let width = if beside { space.x * 0.62 } else { space.x };
        let every = snapshots.len().div_ceil(POINTS).max(1);
        let picked: Vec<usize> = (0..snapshots.len()).step_by(every).chain(snapshots.len().checked_sub(1)).collect();
        ui.horizontal_top(|ui| {
            ui.allocate_ui(vec2(width, space.y), |ui| {
                let chosen = state.instance;
                let response = over_steps("loss", "step", true)
                    .show_grid([false, false])
                    .y_axis_min_width(60.0)
                    .y_axis_label("loss (logarithmic)")
                    .label_formatter(said_of_points(|name, x, y| {
                        format!("{name}\nstep {x:.0}\nloss {:.5}", 10f64.powf(y))
                    }))
                    .show(ui, |p| {
                        let shown = count.min(CURVES);
                        let order = (0..shown).filter(|k| *k != chosen).chain(Some(chosen));
                        for k in order {
                            let points: PlotPoints<'_> = picked
                                .iter()
                                .map(|i| {
                                    let m = &snapshots[*i];
                                    let loss = m.measures.get(k).map_or(f32::NAN, |m| m.loss);
                                    [m.step as f64, super::log10(loss)]
                                })
                                .collect();
                            let t = k as f32 / shown.saturating_sub(1).max(1) as f32;
                            let color = if cx.palette.dark {
                                ColorMap::Viridis.at(0.2 + 0.8 * t)
                            } else {
                                ColorMap::Viridis.at(0.85 * t)
                            };
                            let (color, width) =
                                if k == chosen { (cx.palette.accent, 2.5) } else { (color.gamma_multiply(0.8), 1.2) };
                            p.line(Line::new(state.instance_label(k), points).color(color).width(width));
                        }
                        if state.shown.is_some() {
                            let line = VLine::new("", snapshot.step as f64).color(cx.palette.faint).allow_hover(false);
                            p.vline(line);
                        }
                    });
                // A click goes to that step.
                if response.response.clicked()
                    && let Some(at) = response.response.interact_pointer_pos()
                {
                    let x = response.transform.value_from_position(at).x;
                    let near = (0..snapshots.len()).min_by(|a, b| {
                        let far = |k: usize| (snapshots[k].step as f64 - x).abs();
                        far(*a).total_cmp(&far(*b))
                    });
                    cx.actions.push(Action::Superposition(SuperpositionAction::Scrub(near)));
                }
            });
            if beside {
                ui.vertical(|ui| {
                    let k = cx.state.superposition.instance;
                    ui.label(
                        RichText::new(format!("{}, by feature", cx.state.superposition.instance_label(k)))
                            .font(theme::small())
                            .color(cx.palette.accent),
                    )
                    .on_hover_text("I_i (x_i − x′_i)², mean over fresh inputs; an ignored feature costs its variance");
                    let losses = &snapshot.frames[k].feature_loss;
                    let max = losses.iter().copied().fold(0.0, f32::max);
                    egui::ScrollArea::vertical().show_rows(ui, 17.0, losses.len(), |ui, rows| {
                        for i in rows {
                            let strong = cx.state.superposition.feature == Some(i);
                            let b = Bar { label: i.to_string(), value: losses[i], text: number(losses[i]), strong };
                            if bar(ui, &b, max, false, 26.0).clicked() {
                                let next = (!strong).then_some(i);
                                cx.actions.push(Action::Superposition(SuperpositionAction::Feature(next)));
                            }
                        }
                    });
                });
            }
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let state = &cx.state.superposition;
        let setup = state.setup()?;
        let snapshots = state.snapshots();
        if snapshots.is_empty() {
            return None;
        }
        Some(Table {
            name: "loss".to_owned(),
            row_axis: "step",
            col_axis: "model",
            rows: snapshots.iter().map(|s| s.step.to_string()).collect(),
            cols: (0..setup.instances.len()).map(|k| state.instance_label(k)).collect(),
            values: snapshots.iter().map(|s| s.measures.iter().map(|m| Some(m.loss)).collect()).collect(),
            ..Table::default()
        })
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-loss",
    title: "Loss",
    workspace: Workspace::Superposition,
    area: Area::BottomLeft,
    make: || Box::new(Loss),
};
