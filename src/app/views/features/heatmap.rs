//! Features × tokens of the prompt.

use eframe::egui::{self, RichText};

use super::{act, dictionary_open, weak};
use crate::app::features::{Chosen, FeatureAction};
use crate::app::theme;
use crate::app::views::{Context, Table, View, message, position_labels};
use crate::app::widgets::choice;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging, sequential};
use crate::features::reading::Order;

/// Rows as high as their labels.
const ROW: f32 = 14.0;

pub struct FeatureHeat;

impl View for FeatureHeat {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !dictionary_open(ui, cx) {
            return;
        }
        let s = &cx.state.features;
        let pos = cx.pinned().pos;
        let order = match s.order {
            Order::At(_) => Order::At(pos),
            other => other,
        };
        let heat = s.heat.value.clone();
        ui.horizontal_wrapped(|ui| {
            let options = [
                (Order::Max, "largest"),
                (Order::Mean, "mean"),
                (Order::At(pos), "at the pinned token"),
                (Order::Answer, "attribution to the answer"),
            ];
            if let Some(o) = choice(ui, "first by", order, &options) {
                act(cx, FeatureAction::Order(o));
            }
            if let Some(h) = &heat {
                let explained = h.explained.map_or_else(|| "–".to_owned(), |e| format!("{e:.3}"));
                let help = match h.explained {
                    Some(_) => "mean over the positions after the first",
                    None => "features of earlier layers write here as well, so that this layer alone explains nothing",
                };
                ui.label(weak(cx, format!("L0 {:.1}   explained variance {explained}", h.l0))).on_hover_text(help);
            }
        });
        let error = s.reading.error.as_ref().or(s.heat.error.as_ref());
        if let Some(e) = error.or(s.attribution.error.as_ref().filter(|_| order == Order::Answer)) {
            message(ui, e, true);
            return;
        }
        let (Some(r), Some(heat)) = (s.reading.value.clone(), heat) else {
            message(ui, "reading the prompt …", false);
            return;
        };
        let n = r.acts.rows();
        // What was made from another run does not belong to these tokens.
        if heat.data.cols != n || !s.heat_is_of(&r) {
            message(ui, "reading the prompt …", false);
            return;
        }
        let chosen = &heat.features;
        if chosen.is_empty() {
            message(ui, "no feature is active on this prompt after its first token", false);
            return;
        }
        let (signed, max) = (heat.order == Order::Answer, heat.largest);
        let fresh = !s.reading.is_running() && !s.heat.is_running() && heat.order == order;
        let colors = if signed { diverging(&cx.palette, max, fresh) } else { sequential(&cx.palette, 0.0, max, fresh) };
        ui.horizontal(|ui| {
            let text = if heat.active > chosen.len() {
                format!("the first {} of {} active features", chosen.len(), heat.active)
            } else {
                format!("{} active features", chosen.len())
            };
            ui.label(weak(cx, text));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let low = if signed { format!("−{}", number(max)) } else { "0".to_owned() };
                colorbar(ui, &colors, &low, &number(max));
            });
        });
        let row = match s.chosen {
            Some(Chosen::Feature(f)) => chosen.iter().position(|c| *c == f),
            _ => None,
        };
        let h = cx.state.selection.hovered;
        let outcome = Heatmap {
            name: "features",
            data: &heat.data,
            coloring: colors,
            row_label: &|i| chosen.get(i).map_or_else(String::new, ToString::to_string),
            col_label: &|c| cx.token(c),
            row_label_width: 46.0,
            flip: false,
            square: false,
            least_row: ROW,
            pinned: (row, Some(pos)),
            hovered: (None, h.pos),
            isolate: Isolate::Nothing,
            cell_text: None,
            tooltip: &|ui, i, c| {
                let Some(f) = chosen.get(i) else { return };
                ui.label(RichText::new(s.name(Chosen::Feature(*f))).font(theme::title()));
                ui.monospace(format!("{:.4} on {} ({c})", r.acts.at(c, *f), cx.token(c)));
                if let Some(a) = s.attribution.value.as_ref().filter(|_| signed) {
                    ui.monospace(format!("{:+.4} to the answer's logit, to first order", a.at(c, *f)));
                    let all: f32 = (1..n).map(|p| a.at(p, *f)).sum();
                    ui.monospace(format!("{all:+.4} over all positions after the first"));
                }
                if let Some(index) = &s.index.value {
                    ui.label(weak(
                        cx,
                        format!("active at {:.3} % of the scanned text", 100.0 * index.density(*f as usize)),
                    ));
                }
            },
        }
        .show(ui);
        if let Some((_, c)) = outcome.hovered {
            cx.hovered.pos = Some(c);
        }
        if let Some((i, c)) = outcome.clicked
            && let Some(f) = chosen.get(i).copied()
        {
            cx.pin(|p| p.pos = c);
            act(cx, FeatureAction::Choose(Chosen::Feature(f)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let h = cx.state.features.heat.value.as_ref()?;
        let rows = h.features.iter().map(|f| format!("feature {f}")).collect();
        Some(Table::grid("features", ("feature", "pos"), &h.data, rows, position_labels(cx, h.data.cols)))
    }
}
