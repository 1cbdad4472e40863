//! The loss over the training, and what the model can do.

use eframe::egui::{self, Color32, RichText};
use egui_plot::{Corner, Legend, Line, PlotPoints, VLine};

use super::ready;
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::training::TrainingAction;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use crate::app::widgets::plots::over_steps;
use crate::training::run::Named;

pub struct Curves;

/// Returns the names of all series, in the order in which they first appear.
fn names<'a>(all: impl Iterator<Item = &'a [Named]>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for (name, _) in all.flatten() {
        if !list.contains(name) {
            list.push(name.clone());
        }
    }
    list
}

fn colors(cx: &Context<'_>) -> [Color32; 4] {
    [cx.palette.positive, cx.palette.accent, cx.palette.negative, cx.palette.bar]
}

impl View for Curves {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.training;
        let Some(probe) = ready(ui, cx) else { return };
        let group = ui.scope_id().with("steps");
        let space = ui.available_height();
        let weak = |t: &str| RichText::new(t).font(theme::small()).color(cx.palette.weak);
        ui.label(weak("loss, nats (logarithmic)"));
        let losses: Vec<(usize, &[Named])> = s.reports().iter().map(|r| (r.step, r.values.as_slice())).collect();
        // Losses that are measured beside the others belong to them.
        let is_loss = |name: &str| name.starts_with("loss");
        let scores: Vec<(usize, &[Named])> = s.probes().iter().map(|x| (x.step, x.scores.as_slice())).collect();
        let mut chosen = None;
        for (name, height, log) in [("loss", space * 0.5 - 30.0, true), ("scores", ui.available_height(), false)] {
            if !log {
                ui.label(weak("what it can do"));
            }
            let mut series: Vec<(String, Vec<[f64; 2]>)> = Vec::new();
            for (all, wanted) in [(&losses, log), (&scores, log)] {
                for n in names(all.iter().map(|x| x.1)) {
                    let mine = std::ptr::eq(all, &losses) || is_loss(&n);
                    if mine != wanted {
                        continue;
                    }
                    let value = |v: f32| f64::from(if log { v.max(1e-8).log10() } else { v });
                    let points = all
                        .iter()
                        .filter_map(|(step, values)| {
                            Some([*step as f64, value(values.iter().find(|(m, _)| *m == n)?.1)])
                        })
                        .collect();
                    series.push((n, points));
                }
            }
            let height = if log { height } else { ui.available_height() };
            let response = over_steps(name, if log { "" } else { "step" }, log)
                .height(height.max(60.0))
                .link_axis(group, [true, false])
                .include_x(0.0)
                .legend(Legend::default().position(if log { Corner::RightTop } else { Corner::LeftTop }))
                .show(ui, |p| {
                    if !log {
                        p.set_plot_bounds_y(-0.03..=1.05);
                    }
                    for (k, (n, points)) in series.into_iter().enumerate() {
                        let color = colors(cx)[k % 4];
                        p.line(Line::new(n, PlotPoints::from(points)).color(color).width(2.0));
                    }
                    if s.shown.is_some() {
                        p.vline(VLine::new("", probe.step as f64).color(cx.palette.faint).allow_hover(false));
                    }
                });
            if response.response.clicked() {
                chosen =
                    response.response.interact_pointer_pos().map(|at| response.transform.value_from_position(at).x);
            }
        }
        if let Some(x) = chosen {
            let far = |k: usize| (s.probes()[k].step as f64 - x).abs();
            let near = (0..s.probes().len()).min_by(|a, b| far(*a).total_cmp(&far(*b)));
            cx.actions.push(Action::Training(TrainingAction::Scrub(near)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.training;
        let mut cols = names(s.reports().iter().map(|r| r.values.as_slice()));
        let own = cols.len();
        cols.extend(names(s.probes().iter().map(|x| x.scores.as_slice())));
        let mut steps: Vec<usize> =
            s.reports().iter().map(|r| r.step).chain(s.probes().iter().map(|x| x.step)).collect();
        steps.sort_unstable();
        steps.dedup();
        if steps.is_empty() {
            return None;
        }
        let find = |values: Option<&[Named]>, name: &str| values?.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let values = steps
            .iter()
            .map(|step| {
                let r = s.reports().iter().find(|r| r.step == *step).map(|r| r.values.as_slice());
                let x = s.probes().iter().find(|x| x.step == *step).map(|x| x.scores.as_slice());
                cols.iter().enumerate().map(|(k, n)| find(if k < own { r } else { x }, n)).collect()
            })
            .collect();
        Some(Table {
            name: format!("{}-curves", s.task.name),
            row_axis: "step",
            col_axis: "value",
            rows: steps.iter().map(ToString::to_string).collect(),
            cols,
            values,
            ..Table::default()
        })
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "scratch-curves",
    title: "Curves",
    workspace: Workspace::Training,
    area: Area::Left,
    make: || Box::new(Curves),
};
