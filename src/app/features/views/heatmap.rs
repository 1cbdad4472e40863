//! Features × tokens of the prompt.

use std::path::Path;

use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace};

use eframe::egui::{self, RichText};

use super::{act, dictionary_open, weak};
use crate::app::features::{Chosen, FeatureAction, FeaturesState};
use crate::app::look::theme;
use crate::app::widgets::colorbar::number;
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging, sequential};
use crate::app::widgets::reach::{self, Reach, Reached, Reaching};
use crate::app::widgets::turns::Turns;
use crate::app::widgets::{choice, line_with, message, token_text};
use crate::features::feature_activations::Order;
use crate::features::heat::FeatureHeat;
use crate::features::labels::Unit;
use crate::gpu::HeatData;

/// Rows as high as their labels.
const ROW: f32 = 14.0;

#[derive(Default)]
pub struct Features {
    data: Cached<u64>,
    reaching: Reaching<u64>,
}

fn matrix(heat: &FeatureHeat) -> HeatData {
    HeatData::shared(heat.features.len(), heat.tokens(), heat.values.clone(), heat.range)
}

/// The order of the rows, and how well the dictionary does on this prompt.
fn controls(ui: &mut egui::Ui, cx: &mut Context<'_>, pos: usize, heat: Option<&FeatureHeat>) {
    let order = cx.state.features.desk.order.at(pos);
    ui.horizontal_wrapped(|ui| {
        if let Some((path, on)) = cx.state.features.desk.captured.clone() {
            let name = Path::new(&path).file_name().map_or_else(|| path.clone(), |n| n.to_string_lossy().into_owned());
            if let Some(on) = choice(ui, "read", on, &[(false, "the prompt"), (true, &name)]) {
                act(cx, FeatureAction::ReadCaptured(on));
            }
        }
        let options = [
            (Order::Max, "largest"),
            (Order::Mean, "mean"),
            (Order::At(pos), "at the pinned token"),
            (Order::Answer, "attribution to the answer"),
        ];
        // A file has no pinned token, and no answer.
        let captured = cx.state.features.desk.reads_captured().is_some();
        let options = if captured { &options[..2] } else { &options[..] };
        let order = if captured && order != Order::Mean { Order::Max } else { order };
        if let Some(o) = choice(ui, "first by", order, options) {
            act(cx, FeatureAction::Order(o));
        }
        if let Some(h) = heat {
            let explained = h.explained.map_or_else(|| "–".to_owned(), |e| format!("{e:.3}"));
            let help = match h.explained {
                Some(_) => "mean over the positions after the first",
                None if h.activations.from.trace().is_none() => "the file does not hold what the features are to give",
                None => "features of earlier layers write here as well, so that this layer alone explains nothing",
            };
            ui.label(weak(cx, format!("L0 {:.1}   explained variance {explained}", h.l0))).on_hover_text(help);
        }
    });
}

/// How many features there are rows of, and what their values are.
fn caption(cx: &Context<'_>, heat: &FeatureHeat) -> String {
    let shown = heat.features.len();
    let text = if heat.active > shown {
        format!("the first {shown} of {} active features", heat.active)
    } else {
        format!("{shown} active features")
    };
    match &heat.attribution {
        Some(a) => {
            let against = a.wrong.map_or(String::new(), |w| format!(" against {}", cx.text_of(w)));
            format!("{text}; to the logit of {}{against}, to first order", cx.text_of(a.answer))
        }
        None => text,
    }
}

/// What is said while there is no heatmap.
fn awaited(s: &FeaturesState) -> &'static str {
    if s.attribution.is_running() {
        "attributing the answer …"
    } else if s.activations.is_stopped() || s.heat.is_stopped() {
        "stopped; F5 reads them again"
    } else {
        "reading the features …"
    }
}

impl View for Features {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !dictionary_open(ui, cx) {
            return;
        }
        let s = &cx.state.features;
        let pos = cx.pinned().pos;
        let heat = s.heat.get().cloned();
        controls(ui, cx, pos, heat.as_deref());
        if let Some(e) = s.activations.error().or(s.heat.error()).or(s.attribution.error()) {
            message(ui, e, true);
            return;
        }
        let Some(heat) = heat else {
            message(ui, awaited(s), false);
            return;
        };
        // What is on its way may be about other tokens: until it is there, these are shown with theirs.
        let r = &heat.activations;
        let n = heat.tokens();
        let is_of_now = s.activations.value() == Some(r) && r.from.trace().is_some();
        let chosen = &heat.features;
        if chosen.is_empty() {
            message(ui, "no feature is active after the first position", false);
            return;
        }
        let (signed, max) = (heat.order == Order::Answer, heat.largest);
        let fresh = heat.fresh;
        let data = self.data.get(heat.stamp, || matrix(&heat));
        let reach = cx.settings::<Option<Reach>>(&VIEW).unwrap_or(Reach::All);
        // The rows that are shown are the largest of what was computed; so is the scale, until another is asked for.
        let reached = match reach {
            Reach::All => Reached { painted: None, largest: max, end: number(max) },
            _ => self.reaching.of(heat.stamp, reach, &data).clone(),
        };
        let (largest, end) = (reached.largest, &reached.end);
        let colors =
            if signed { diverging(&cx.palette, largest, fresh) } else { sequential(&cx.palette, 0.0, largest, fresh) };
        let chosen_reach = line_with(ui, weak(cx, caption(cx, &heat)), |ui| {
            let low = if signed { format!("−{end}") } else { "0".to_owned() };
            reach::bar(ui, &colors, (&low, end), reach, true)
        });
        if let Some(reach) = chosen_reach {
            cx.set(&VIEW, &reach);
        }
        let row = match s.desk.chosen {
            Some(Chosen::Feature(f)) => chosen.iter().position(|c| *c == f),
            _ => None,
        };
        let h = cx.state.hovered;
        let token = |c: usize| token_text::short(&r.token(c), 12);
        let labelled = |f: u32| {
            let words = s.labels.words(&Unit::Feature(f))?;
            Some(format!("{f} {words}"))
        };
        let turns = if is_of_now { cx.turns() } else { Turns::default() };
        let outcome = Heatmap {
            name: "features",
            axes: ("feature", if r.from.trace().is_some() { "token" } else { "position" }),
            turns: (None, Some(&turns)),
            data: &data,
            coloring: colors,
            row_label: &|i| chosen.get(i).map_or_else(String::new, |f| labelled(*f).unwrap_or_else(|| f.to_string())),
            col_label: &|c| token(c),
            row_label_width: if s.labels.has_features() { 130.0 } else { 46.0 },
            flip: false,
            square: false,
            least_row: ROW,
            painted: reached.painted.as_ref(),
            pinned: (row, Some(pos).filter(|p| is_of_now && *p < n)),
            hovered: (None, h.pos.filter(|p| is_of_now && *p < n)),
            isolate: Isolate::Nothing,
            cell_text: None,
            tooltip: &|ui, i, c| {
                let Some(f) = chosen.get(i) else { return };
                ui.label(RichText::new(s.name(Chosen::Feature(*f))).font(theme::title()));
                ui.monospace(format!("activation {:.4} on {} ({c})", r.acts.at(c, *f), token(c)));
                if let Some(a) = &heat.attribution {
                    ui.monospace(format!("{:+.4} to the answer's logit, to first order", a.values.at(c, *f)));
                    let all: f32 = (1..n).map(|p| a.values.at(p, *f)).sum();
                    ui.monospace(format!("{all:+.4} over all positions after the first"));
                }
                if let Some(index) = s.index() {
                    ui.label(weak(
                        cx,
                        format!("active at {:.3} % of the scanned text", 100.0 * index.density(*f as usize)),
                    ));
                }
            },
        }
        .show(ui);
        if let Some((_, c)) = outcome.hovered.filter(|_| is_of_now) {
            cx.hovered.pos = Some(c);
        }
        if let Some((i, c)) = outcome.clicked
            && let Some(f) = chosen.get(i).copied()
        {
            if is_of_now {
                cx.pin(|p| p.pos = c);
            }
            act(cx, FeatureAction::Choose(Chosen::Feature(f)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let h = cx.state.features.heat.value()?;
        let rows = h.features.iter().map(|f| format!("feature {f}")).collect();
        let tokens = (0..h.tokens()).map(|c| match h.activations.from.trace() {
            Some(trace) => format!("{c} {}", token_text::visible(&trace.token_text(c))),
            None => c.to_string(),
        });
        let name = if h.order == Order::Answer { "feature-attribution" } else { "features" };
        Some(Table::grid(name, ("feature", "pos"), &matrix(h), rows, tokens.collect()))
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "features",
    title: "Features",
    workspace: Workspace::Features,
    area: Area::TopLeft,
    make: || Box::new(Features::default()),
};
