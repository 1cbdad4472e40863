//! One feature's, neuron's or direction's page.

use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::model::views::graph;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, Align2, Rect, RichText, pos2, vec2};

use super::{act, example, weak};
use crate::app::action::Action;
use crate::app::features::{Chosen, FeatureAction};
use crate::app::look::theme;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::colorbar::number;
use crate::app::widgets::{bars, choice, message};
use crate::engine::edit::{Edit, Positions, RunSide};
use crate::features::labels::Unit;
use crate::features::page::{EACH, Effect, FeaturePage};
use crate::features::scan::index::Entry;
use crate::graph::features::opened::Live;

/// How edits are put into the stack.
type Make = fn(RunSide, Vec<Edit>) -> ModelAction;

#[derive(Default)]
pub struct Page {
    /// The field for what is to be shown.
    go: String,
    /// How strongly the chosen one is to be steered.
    alpha: Option<(Chosen, f32)>,
    at: Positions,
}

impl View for Page {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        self.find(ui, cx);
        let Some(chosen) = cx.state.features.desk.chosen else {
            let text = "click a feature in the heatmap, a point of the map, a neuron or a direction";
            message(ui, text, false);
            return;
        };
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new(cx.state.features.name(chosen)).font(theme::title()));
            if let Some(index) = cx.state.features.index_of(chosen)
                && let Some(e) = cx.state.features.entry(chosen)
            {
                let share = 100.0 * e.active as f32 / index.about.positions.max(1) as f32;
                let text = format!(
                    "active at {share:.3} % of positions · mean {} · largest {}",
                    number(e.mean()),
                    number(e.max)
                );
                ui.label(weak(cx, text));
            }
        });
        self.tools(ui, cx, chosen);
        in_graph(ui, cx, chosen);
        if let Some(unit) = cx.state.features.unit(chosen) {
            label(ui, cx, unit);
        }
        if let Some(e) = cx.state.features.page.error() {
            message(ui, e, true);
            return;
        }
        let page = cx.state.features.page(chosen).cloned();
        egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            let entry = cx.state.features.entry(chosen).cloned();
            if let Some(e) = &entry {
                let name = if matches!(chosen, Chosen::Concept(_)) { "read-out" } else { "activation" };
                histogram(ui, cx, name, 0.0, e.max, &e.shown_bins());
            }
            if let Some(p) = &page {
                logits(ui, cx, p);
            }
            match &entry {
                Some(e) => examples(ui, cx, chosen, e, page.as_deref()),
                None => {
                    ui.add_space(6.0);
                    let text = "scan a text at the left to see where this is active";
                    ui.add(egui::Label::new(weak(cx, text)).wrap());
                }
            }
            related(ui, cx, chosen, page.as_deref(), entry.as_ref());
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let chosen = cx.state.features.desk.chosen?;
        let e = cx.state.features.entry(chosen)?;
        let text =
            |e: &crate::features::scan::index::Example| e.tokens.iter().map(|id| cx.text_of(*id)).collect::<String>();
        Some(Table {
            name: cx.state.features.name(chosen),
            row_axis: "example",
            col_axis: "value",
            rows: e.top.iter().map(text).collect(),
            cols: ["activation", "row", "position"].map(str::to_owned).to_vec(),
            values: e.top.iter().map(|x| vec![Some(x.value), Some(x.row as f32), Some(x.position as f32)]).collect(),
            ..Table::default()
        })
    }
}

impl Page {
    fn find(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.features;
        let count = s.dictionary().map_or(0, |d| d.d_sae);
        let config = cx.state.model.as_ref().map(|m| &m.config).filter(|c| c.has_mlp());
        let (layers, neurons) = config.map_or((0, 0), |c| (c.n_layers, c.d_mlp));
        if count == 0 && neurons == 0 || is_plate(ui.ctx()) {
            return;
        }
        ui.horizontal(|ui| {
            let field = egui::TextEdit::singleline(&mut self.go)
                .desired_width(f32::min(170.0, ui.available_width() - 72.0))
                .hint_text("number or label");
            let response =
                ui.add(field).on_hover_text("a feature's number, a neuron as layer.number, or a label's words");
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "what to show"));
            let wanted = self.go.trim().to_lowercase();
            let there = |unit: &Unit| match unit {
                Unit::Feature(f) => (*f as usize) < count,
                Unit::Neuron(layer, n) => *layer < layers && *n < neurons,
                Unit::Direction(_) => true,
            };
            let numbered = Some(Unit::from(wanted.clone())).filter(|u| !matches!(u, Unit::Direction(_)) && there(u));
            let labelled = s.labels.find(&wanted).filter(|u| there(u));
            let found = numbered.iter().chain(labelled).find_map(|u| s.chosen_by(u));
            let entered = response.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
            if (ui.button("Show").clicked() || entered)
                && let Some(chosen) = found
            {
                act(cx, FeatureAction::Choose(chosen));
            }
            if !wanted.is_empty() && found.is_none() {
                let features = (count > 0).then(|| format!("features go to {}", count - 1));
                let neurons = (neurons > 0).then(|| format!("neurons to {}.{}", layers - 1, neurons - 1));
                let ends: Vec<String> = features.into_iter().chain(neurons).collect();
                ui.label(weak(cx, format!("nothing is called so; {}", ends.join(", "))));
            }
        });
    }

    fn tools(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, chosen: Chosen) {
        let Some(model) = cx.state.model.clone().filter(|_| !is_plate(ui.ctx())) else { return };
        let most = match chosen {
            Chosen::Concept(_) => 3.0,
            _ => cx.state.features.entry(chosen).map_or(10.0, |e| 2.0 * e.max.max(0.05)),
        };
        let mut alpha = match self.alpha {
            Some((c, a)) if c == chosen => a.clamp(-most, most),
            _ => most / 2.0,
        };
        let pinned = Positions::At(vec![cx.pinned().pos]);
        if matches!(self.at, Positions::At(_)) {
            self.at.clone_from(&pinned);
        }
        ui.horizontal_wrapped(|ui| {
            let slider = egui::Slider::new(&mut alpha, -most..=most).text("α").fixed_decimals(2);
            ui.add(slider).accessible_name("strength").on_hover_text("how many times what it writes is added");
            let places = [Positions::All, Positions::Prompt, Positions::Generated, pinned.clone()];
            let names = ["all tokens", "the prompt", "what is generated", "the pinned token"];
            let options: Vec<(usize, &str)> = names.into_iter().enumerate().collect();
            let current = places.iter().position(|p| *p == self.at).unwrap_or(0);
            if let Some(at) = choice(ui, "at", current, &options).and_then(|k| places.get(k)) {
                self.at.clone_from(at);
            }
            let s = &cx.state.features;
            let steer = ui
                .button("Steer")
                .on_hover_text("adds an edit, or changes its strength; the edited run and the generation follow it");
            let ablate = ui
                .button("Ablate")
                .on_hover_text("adds an edit that takes it out where it is active; once more takes the edit away");
            let which = cx.state.desk().stack.base;
            let asked = match (steer.clicked(), ablate.clicked()) {
                (true, _) => Some(s.steer(chosen, alpha, &model).map(|e| (ModelAction::Put as Make, e))),
                (_, true) => Some(s.ablate(chosen, &model).map(|e| (ModelAction::Toggle as Make, e))),
                _ => None,
            };
            match asked {
                Some(Ok((make, mut edits))) => {
                    edits.iter_mut().for_each(|e| e.positions.clone_from(&self.at));
                    cx.push(make(which, edits));
                    cx.push(Action::Say("The edits have changed; see Edits and Generation.".to_owned()));
                }
                Some(Err(e)) => cx.push(Action::Say(e.to_string())),
                None => {}
            }
            if let Chosen::Feature(f) = chosen {
                let mut kept = s.desk.kept.iter().any(|k| k.0 == f);
                if ui.checkbox(&mut kept, "in the monitor").changed() {
                    act(cx, FeatureAction::Keep(f));
                }
            }
        });
        self.alpha = Some((chosen, alpha));
    }
}

/// The way back to the feature's nodes, where the graph that is traced is on the open dictionary's set.
fn in_graph(ui: &mut egui::Ui, cx: &mut Context<'_>, chosen: Chosen) {
    let Chosen::Feature(feature) = chosen else { return };
    let Some(Live { found, .. }) = cx.state.live_graph().filter(|_| !is_plate(ui.ctx())) else { return };
    let open = cx.state.features.opened_as();
    let Some(layer) = found.dictionaries.iter().position(|(file, _)| Some(file.as_str()) == open) else { return };
    let at: Vec<usize> = (0..found.n()).filter(|pos| found.node(layer, *pos, feature).is_some()).collect();
    if at.is_empty() {
        return;
    }
    ui.horizontal_wrapped(|ui| {
        ui.label(weak(cx, "in the graph at"));
        for pos in at {
            let button = ui.small_button(format!("{pos} {}", cx.token(pos)));
            let name = format!("show its node at {pos} in the graph");
            button.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &name));
            if button.clicked() {
                ui.data_mut(|d| d.insert_temp(graph::chosen_id(), format!("{layer}_{feature}_{pos}")));
                cx.push(Action::Show(graph::VIEW.name));
            }
        }
    });
}

/// The fields for label and note, kept as they are typed.
fn label(ui: &mut egui::Ui, cx: &mut Context<'_>, unit: Unit) {
    let labels = &cx.state.features.labels;
    let known = labels.of(&unit).cloned().unwrap_or_default();
    let mut label = known.clone();
    ui.add_enabled_ui(labels.is_known(&unit), |ui| {
        ui.horizontal(|ui| {
            for (text, name, width) in [(&mut label.label, "label", 140.0), (&mut label.note, "note", 260.0)] {
                let width = f32::min(width, ui.available_width());
                // The cursor does not go over to what is chosen next.
                let id = egui::Id::unique((name, unit.to_string()));
                ui.add(egui::TextEdit::singleline(text).id(id).desired_width(width).hint_text(name))
                    .on_disabled_hover_text("the labels written before have not been read")
                    .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, name));
            }
        });
    });
    if label != known {
        act(cx, FeatureAction::Label(unit, label));
    }
}

/// A histogram with a logarithmic height: rare large values are what a feature is about.
fn histogram(ui: &mut egui::Ui, cx: &Context<'_>, name: &str, low: f32, high: f32, counts: &[u64]) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width() - 4.0, 54.0), egui::Sense::hover());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, format!("histogram: {name}")));
    let painter = ui.painter_at(rect);
    let plot = Rect::from_min_max(rect.min + vec2(2.0, 14.0), rect.max - vec2(2.0, 14.0));
    painter.text(
        rect.left_top(),
        Align2::LEFT_TOP,
        format!("{name}, logarithmic counts"),
        theme::small(),
        cx.palette.weak,
    );
    painter.hline(plot.x_range(), plot.max.y, egui::Stroke::new(1.0, cx.palette.border));
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f32;
    let pitch = plot.width() / counts.len().max(1) as f32;
    for (k, c) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        let height = ((1.0 + *c as f32).ln() / (1.0 + most).ln() * plot.height()).max(1.0);
        let x = plot.min.x + k as f32 * pitch;
        let bar = Rect::from_min_max(pos2(x, plot.max.y - height), pos2(x + (pitch - 0.5).max(0.5), plot.max.y));
        painter.rect_filled(bar, 0.0, cx.palette.bar);
    }
    painter.text(pos2(plot.min.x, rect.max.y), Align2::LEFT_BOTTOM, number(low), theme::mono_small(), cx.palette.weak);
    painter.text(
        pos2(plot.max.x, rect.max.y),
        Align2::RIGHT_BOTTOM,
        number(high),
        theme::mono_small(),
        cx.palette.weak,
    );
    if let Some(at) = response.hover_pos().filter(|p| plot.x_range().contains(p.x)) {
        let k = (((at.x - plot.min.x) / pitch) as usize).min(counts.len().saturating_sub(1));
        let edge = |k: usize| low + (high - low) * k as f32 / counts.len() as f32;
        egui::Tooltip::for_widget(&response).at_pointer().gap(14.0).show(|ui| {
            ui.monospace(format!("{} to {}: {}", number(edge(k)), number(edge(k + 1)), counts[k]));
        });
    }
}

fn logits(ui: &mut egui::Ui, cx: &Context<'_>, page: &FeaturePage) {
    let Some(e) = &page.written.effects else { return };
    let counts: Vec<u64> = e.histogram.iter().map(|c| *c as u64).collect();
    histogram(ui, cx, "effect on the logits", e.range.0, e.range.1, &counts);
    let max = e.range.0.abs().max(e.range.1.abs());
    ui.columns(2, |columns| {
        for (ui, (title, list)) in columns.iter_mut().zip([("promotes", &e.promoted), ("suppresses", &e.suppressed)]) {
            ui.label(weak(cx, title));
            for Effect { id, logit, .. } in list {
                let label = cx.text_of(*id);
                let bar = Bar { label, value: *logit, text: format!("{logit:+.2}"), strong: false };
                bars::one_sided(ui, &bar, max, (0.35 * ui.available_width()).clamp(48.0, 90.0));
            }
        }
    });
}

fn examples(ui: &mut egui::Ui, cx: &mut Context<'_>, chosen: Chosen, e: &Entry, page: Option<&FeaturePage>) {
    let groups = page.and_then(|p| p.groups.as_ref()).filter(|g| g.count > 1 && g.of.len() == e.top.len());
    let line = |ui: &mut egui::Ui, x: &crate::features::scan::index::Example| {
        ui.horizontal(|ui| {
            ui.add_sized([52.0, 14.0], egui::Label::new(RichText::new(number(x.value)).font(theme::mono_small())));
            example(ui, cx, x, e.max)
                .on_hover_text(format!("row {}, document {}, position {}", x.row, x.document, x.position));
        });
    };
    ui.add_space(6.0);
    match groups {
        Some(g) if matches!(chosen, Chosen::Neuron(..)) => {
            ui.label(weak(cx, format!("strongest examples, in {} groups of unlike words", g.count)));
            for k in 0..g.count {
                let split = page.and_then(|p| p.split.get(k)).map(Vec::as_slice).unwrap_or_default();
                let names: Vec<String> = split
                    .iter()
                    .map(|(f, v)| format!("{} (+{v:.1})", cx.state.features.name(Chosen::Feature(*f))))
                    .collect();
                let text = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
                ui.label(RichText::new(format!("group {}{text}", k + 1)).font(theme::small()).color(cx.palette.accent));
                for (x, _) in e.top.iter().zip(&g.of).filter(|(_, of)| **of == k) {
                    line(ui, x);
                }
            }
        }
        _ => {
            ui.label(weak(cx, "strongest examples"));
            e.top.iter().for_each(|x| line(ui, x));
        }
    }
    for (g, group) in e.quantile_groups(EACH).iter().enumerate().rev().filter(|(_, g)| !g.is_empty()) {
        let (low, high) = (e.max * g as f32 / 10.0, e.max * (g + 1) as f32 / 10.0);
        ui.add_space(3.0);
        ui.label(weak(cx, format!("{} to {}", number(low), number(high))));
        group.iter().for_each(|x| line(ui, x));
    }
    if e.active == 0 {
        ui.label(weak(cx, "never active in the scanned text"));
    }
}

fn related(ui: &mut egui::Ui, cx: &mut Context<'_>, about: Chosen, page: Option<&FeaturePage>, entry: Option<&Entry>) {
    let mut chosen = None;
    let mut list = |ui: &mut egui::Ui, title: &str, items: Vec<(Chosen, f32)>| {
        if items.is_empty() {
            return;
        }
        ui.add_space(6.0);
        ui.label(weak(cx, title));
        ui.horizontal_wrapped(|ui| {
            for (c, v) in items {
                let text = RichText::new(format!("{} {v:.2}", cx.state.features.name(c))).font(theme::small());
                if ui.small_button(text).clicked() {
                    chosen = Some(c);
                }
            }
        });
    };
    let feature = |(f, v): &(u32, f32)| (Chosen::Feature(*f), *v);
    if let Some(p) = page {
        let near = p.written.neighbours.iter().map(|(f, v)| (Chosen::Feature(*f as u32), *v)).collect();
        list(ui, "features that write the same way (cosine)", near);
    }
    if let Some(e) = entry {
        // Those of another dictionary than the open one would be opened under its numbers.
        let open = cx.state.features.dictionary();
        let of = cx.state.features.index_of(about).and_then(|i| i.about.features_of.clone());
        if of.is_none() || of == open.map(|d| d.path.display().to_string()) {
            list(ui, "features that are active together (correlation)", e.features.iter().map(feature).collect());
        }
        let layer = match about {
            Chosen::Feature(_) => open.and_then(|d| d.input).map_or(0, crate::features::Place::layer),
            Chosen::Neuron(layer, _) => layer,
            Chosen::Concept(i) => cx.state.features.desk.watched.get(i).map_or(0, |w| w.layer),
        };
        let neurons = e.neurons.iter().map(|(n, v)| (Chosen::Neuron(layer, *n as usize), *v)).collect();
        list(ui, "neurons that are active together (correlation)", neurons);
    }
    if let Some(c) = chosen {
        act(cx, FeatureAction::Choose(c));
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "dashboard",
    title: "Dashboard",
    workspace: Workspace::Features,
    area: Area::Right,
    make: || Box::new(Page::default()),
};
