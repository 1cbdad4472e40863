//! Neurons that are about several things.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText};

use super::{act, weak};
use crate::app::features::{Chosen, FeatureAction};
use crate::app::look::theme;
use crate::app::widgets::message;
use crate::features::labels::Unit;
use crate::features::page::Groups;

/// Neurons listed.
const LISTED: usize = 200;

pub struct NeuronList;

/// Sizes of the groups, the largest first, single examples together.
fn sizes(g: &Groups) -> String {
    let of: Vec<usize> = (0..g.count).map(|k| g.of.iter().filter(|x| **x == k).count()).collect();
    let single = of.iter().filter(|n| **n == 1).count();
    let mut text = of.iter().filter(|n| **n > 1).map(ToString::to_string).collect::<Vec<_>>().join(" + ");
    if single > 0 {
        text.push_str(&format!(" + {single} × 1"));
    }
    text.trim_start_matches(" + ").to_owned()
}

/// A label at the left of so much room.
fn cell(ui: &mut egui::Ui, width: f32, label: egui::Label) -> egui::Response {
    let left = egui::Layout::left_to_right(egui::Align::Center);
    ui.allocate_ui_with_layout(egui::vec2(width, 18.0), left, |ui| {
        ui.set_min_width(width);
        ui.add(label.truncate())
    })
    .inner
}

impl View for NeuronList {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.features;
        let Some(ranking) = s.ranking.value().cloned() else {
            let text = match s.neurons.error() {
                Some(e) => e.as_str(),
                None if s.ranking.error().is_some() => s.ranking.error().map_or("", String::as_str),
                None if s.ranking.is_running() => "grouping examples …",
                None if s.neurons.is_running() => "scanning …",
                None if cx.state.model.as_ref().is_some_and(|m| !m.config.has_mlp()) => "this model has no neurons",
                None => "scan the neurons of a layer at the left: arrows up and down choose the layer",
            };
            message(ui, text, s.neurons.error().or(s.ranking.error()).is_some());
            return;
        };
        let index = &ranking.index;
        let layer = index.about.layer_of_neurons().unwrap_or(0);
        let so_far = if index.about.is_complete() { "" } else { ", so far" };
        ui.label(weak(
            cx,
            format!(
                "layer {layer}{so_far}: neurons whose 20 strongest examples fall into the most groups of three or more, first"
            ),
        ));
        let splits = s.splits.value().map_or(&[][..], |splits| splits.as_slice());
        ui.horizontal(|ui| {
            cell(ui, 64.0, egui::Label::new(weak(cx, "neuron")));
            cell(ui, 110.0, egui::Label::new(weak(cx, "sizes of groups")));
            let left = ui.available_width();
            let words = if !splits.is_empty() { 0.5 * left } else { left };
            cell(ui, words, egui::Label::new(weak(cx, "a word of each of the larger")));
            if !splits.is_empty() {
                cell(ui, ui.available_width(), egui::Label::new(weak(cx, "feature of each")));
            }
        });
        let mut chosen = None;
        egui::ScrollArea::vertical().auto_shrink([false, false]).show_rows(
            ui,
            20.0,
            ranking.neurons.len().min(LISTED),
            |ui, rows| {
                for (n, g) in &ranking.neurons[rows] {
                    let here = s.desk.chosen == Some(Chosen::Neuron(layer, *n));
                    let Some(entry) = index.entries.get(*n) else { continue };
                    // A word of each of the larger groups.
                    let words: Vec<String> = (0..g.count.min(4))
                        .filter_map(|k| {
                            let i = g.of.iter().position(|x| *x == k)?;
                            let e = entry.top.get(i)?;
                            e.tokens.get(e.at()).map(|id| cx.text_of(*id))
                        })
                        .collect();
                    ui.horizontal(|ui| {
                        let text = RichText::new(format!("{layer}.{n}")).font(theme::mono_small());
                        if ui.add_sized([64.0, 18.0], egui::Button::selectable(here, text)).clicked() {
                            chosen = Some(Chosen::Neuron(layer, *n));
                        }
                        cell(ui, 110.0, egui::Label::new(weak(cx, sizes(g)))).on_hover_text("sizes of the groups");
                        let split = splits.iter().find(|(m, _)| m == n).map(|(_, split)| split);
                        let width = if !splits.is_empty() { 0.5 * ui.available_width() } else { ui.available_width() };
                        let label = s.labels.words(&Unit::Neuron(layer, *n)).map(|l| format!("{l}: "));
                        let words = label.unwrap_or_default() + &words.join(" | ");
                        cell(ui, width, egui::Label::new(RichText::new(words).font(theme::mono_small())));
                        if let Some(split) = split {
                            // The feature that stands most for each of the larger groups.
                            let names: Vec<String> = split
                                .iter()
                                .take(4)
                                .map(|list| list.first().map_or_else(|| "–".to_owned(), |(f, _)| f.to_string()))
                                .collect();
                            let text = RichText::new(names.join(" | ")).font(theme::mono_small());
                            ui.add(egui::Label::new(text.color(cx.palette.accent)).truncate()).on_hover_text(
                                "features of the dictionary that are active in one group of examples and not in the \
                                 others, as read on the few tokens of each example",
                            );
                        }
                    });
                }
            },
        );
        if let Some(c) = chosen {
            act(cx, FeatureAction::Choose(c));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let ranking = cx.state.features.ranking.value()?;
        Some(Table {
            name: "polysemantic".to_owned(),
            row_axis: "neuron",
            col_axis: "measure",
            rows: ranking.neurons.iter().map(|(n, _)| n.to_string()).collect(),
            cols: ["groups", "apart"].map(str::to_owned).to_vec(),
            values: ranking.neurons.iter().map(|(_, g)| vec![Some(g.count as f32), Some(g.apart)]).collect(),
            ..Table::default()
        })
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "polysemantic",
    title: "Polysemantic neurons",
    workspace: Workspace::Features,
    area: Area::Right,
    make: || Box::new(NeuronList),
};
