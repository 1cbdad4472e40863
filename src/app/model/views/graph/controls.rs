//! What the graph is of and how much of it is drawn: the row above it, and the menu of files.

use eframe::egui::{self, RichText};

use super::acts::labels_in;
use super::audit::audit_of;
use super::{GraphView, Grouping, Mode};
use crate::app::action::{Action, Load};
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::view::Context;
use crate::app::widgets::{captioned, choice};
use crate::features::dictionary::store::SETS;
use crate::graph::file::GraphFile;
use crate::graph::layout::Origin;
use crate::graph::marks::Marks;
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::session::desk::{GraphDirection, GraphTarget};

const ATTENTION: [(Attention, &str); 2] =
    [(Attention::Frozen, "held still"), (Attention::FirstOrder, "followed (first order)")];

impl GraphView {
    pub(super) fn controls(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let c = &cx.state.desk().graph;
        ui.horizontal_wrapped(|ui| {
            match &c.file {
                Some(path) => {
                    let name = path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
                    ui.label(RichText::new(name).font(theme::mono()).color(cx.palette.accent)).on_hover_text(path);
                    if ui.small_button("✕").on_hover_text("back to the prediction of this prompt").clicked() {
                        cx.push(ModelAction::CloseGraph);
                    }
                }
                None => of_what(ui, cx),
            }
            let weak = cx.palette.weak;
            let dragged = |ui: &mut egui::Ui, name: &str, value: &mut f64, hint: &str| -> bool {
                // A slider rounds what it is given and calls that a change; what the user moves is one.
                let shown = (*value * 1000.0).round() / 1000.0;
                let mut moved = shown;
                let slider = egui::Slider::new(&mut moved, 0.0..=1.0).fixed_decimals(3).show_value(true);
                let caption = RichText::new(name).font(theme::small()).color(weak);
                let response = captioned(ui, caption, 140.0 + 56.0, |ui| {
                    ui.spacing_mut().slider_width = 140.0;
                    ui.add(slider).on_hover_text(hint)
                });
                let changed = response.changed() && (moved - shown).abs() > 1e-9;
                if changed {
                    *value = moved;
                }
                changed
            };
            what_nodes_are(ui, cx);
            let found = cx.state.results.drawing.get().map(|d| d.thresholds);
            self.thresholds = c.cut.thresholds.or(found).unwrap_or_default();
            let nodes = dragged(
                ui,
                "nodes",
                &mut self.thresholds.0,
                "keep the most influential nodes that hold this share of all influence",
            );
            let links = dragged(
                ui,
                "links",
                &mut self.thresholds.1,
                "of the links between them keep the strongest that hold this share",
            );
            if nodes || links {
                cx.push(ModelAction::Thresholds(Some(self.thresholds)));
            }
            let readable =
                egui::Button::selectable(c.cut.thresholds.is_none(), RichText::new("readable").font(theme::small()));
            if ui
                .add(readable)
                .on_hover_text("the 40 most influential nodes, and the links that hold 90 % of what flows between them")
                .clicked()
            {
                cx.push(ModelAction::Thresholds(None));
            }
            let folds =
                egui::Button::selectable(self.folds_first, RichText::new("first token folded").font(theme::small()));
            if ui
                .add(folds)
                .on_hover_text(
                    "all that stands at the first position as one node: many models rest their attention there",
                )
                .clicked()
            {
                self.folds_first ^= true;
                self.changed();
            }
            if let Some(g) = choice(
                ui,
                "group",
                self.grouping,
                &[
                    (Grouping::None, "nothing"),
                    (Grouping::Component, "positions of a component"),
                    (Grouping::Role, "heads by role"),
                ],
            ) {
                self.grouping = g;
                self.changed();
            }
            if ui
                .selectable_label(self.mode == Mode::Tree, RichText::new("tree").font(theme::small()))
                .on_hover_text("a node's strongest inputs, level by level")
                .clicked()
            {
                self.mode = if self.mode == Mode::Tree { Mode::Graph } else { Mode::Tree };
            }
            self.group_button(ui, cx);
            ui.menu_button(RichText::new("file").font(theme::small()), |ui| self.file_menu(ui, cx));
            self.summary(ui, cx);
        });
    }

    pub(super) fn file_menu(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if ui.button("Open a graph (JSON)…").clicked() {
            cx.push(Action::Load(Load::Graph));
        }
        if ui
            .button("Trace to the features of a set…")
            .on_hover_text(
                "a folder with one transcoder for every layer: circuit-tracer's, or any with a dictionary a layer",
            )
            .clicked()
        {
            cx.push(Action::Load(Load::Dictionary));
        }
        for b in SETS.iter().filter(|b| b.model == cx.state.desk().model) {
            if ui.button(format!("Trace to the features of {}", b.name)).on_hover_text(b.purpose).clicked() {
                cx.push(ModelAction::GraphSet(Some(b.name.to_owned())));
            }
        }
        labels_entry(ui, cx);
        let whole = cx.state.results.graph.get().is_some_and(|g| g.whole);
        let save = ui.add_enabled(whole, egui::Button::new("Save this graph (JSON)…"));
        if save.on_disabled_hover_text("it is still being traced").clicked() {
            // What a page says of a feature goes along, under what was said here.
            let names = self.labels.clone().into_iter().chain(self.marks.names.clone()).collect();
            cx.push(Action::SaveGraph(Marks { names, ..self.marks.clone() }));
        }
        let hidden = self.marks.hidden.len();
        if hidden > 0 && ui.button(format!("Show {hidden} hidden nodes")).clicked() {
            self.mark(cx, "show hidden nodes", |m| m.hidden.clear());
        }
        if !self.marks.groups.is_empty() && ui.button("Dissolve all groups made by hand").clicked() {
            self.mark(cx, "dissolve all groups", |m| m.groups.clear());
        }
        if !cx.state.desk().graph.cut.opened.is_empty() && ui.button("Put all MLPs together again").clicked() {
            cx.push(ModelAction::CloseMlps);
        }
        if ui.button("Whole graph in view").clicked() {
            (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO);
        }
    }

    pub(super) fn summary(&self, ui: &mut egui::Ui, cx: &Context<'_>) {
        summary(ui, cx, self.group_words());
    }
}

/// The way of a file's labels into the set.
fn labels_entry(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let results = &cx.state.results;
    let Some((shown, set)) = results.graph.fresh().zip(results.set.fresh()) else { return };
    // Heads and MLPs are no features.
    let live = cx.state.live_graph().is_some();
    let is_of = |file: &GraphFile| live || file.dictionary() == Some(set.question.spec.as_str());
    let is_of_set = matches!(&shown.value.source, Origin::File(file) if !file.is_of_components() && is_of(file));
    if !is_of_set || labels_in(&shown.value.graph).is_empty() {
        return;
    }
    let hint = "what it calls its features is written to the labels of the set, where a feature has none of your own";
    if ui.button(format!("Take its labels into {}", set.name)).on_hover_text(hint).clicked() {
        cx.push(ModelAction::TakeLabels);
    }
}

/// Which prediction is traced.
fn of_what(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    // Without answers, or before the last token, what is asked for is not there: then say what is.
    let auto = match cx.state.graph_target() {
        Some(Target::Top) => "auto: top logits",
        Some(Target::Token(_)) => "auto: answer",
        Some(Target::Difference(..)) | None => "answer − wrong",
    };
    let graph = &cx.state.desk().graph;
    let further: &[(GraphTarget, &'static str)] = if graph.set.is_some() { &GraphTarget::ON_FEATURES } else { &[] };
    let name = |(t, name): &(GraphTarget, &'static str)| (*t, if *t == GraphTarget::Auto { auto } else { *name });
    let names: Vec<(GraphTarget, &str)> = GraphTarget::ALL.iter().chain(further).map(name).collect();
    let is_offered = names.iter().any(|(t, _)| *t == graph.target);
    let current = if is_offered { graph.target } else { GraphTarget::Top };
    if let Some(t) = choice(ui, "of", current, &names) {
        cx.push(ModelAction::Graph(t));
    }
    match current {
        GraphTarget::Tokens => which_tokens(ui, cx),
        GraphTarget::Direction => which_direction(ui, cx),
        GraphTarget::Auto | GraphTarget::Top | GraphTarget::Answer => {}
    }
}

/// The tokens that are explained; they count when the field is left.
fn which_tokens(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let id = egui::Id::unique("tokens that the graph explains");
    let own = cx.state.desk().graph.tokens.clone();
    let mut text = ui.data_mut(|d| d.get_temp::<String>(id)).unwrap_or_else(|| own.clone());
    let field = egui::TextEdit::singleline(&mut text).hint_text(" Paris, Rome").desired_width(120.0);
    let hint = "tokens with commas between them, each with its space before, or id:11; empty for the top logits";
    let response = ui.add(field.font(theme::mono_small())).accessible_name("Tokens to explain").on_hover_text(hint);
    if response.has_focus() {
        ui.data_mut(|d| d.insert_temp(id, text));
        return;
    }
    ui.data_mut(|d| d.remove_temp::<String>(id));
    if response.lost_focus() && text != own {
        cx.push(ModelAction::GraphTokens(text));
    }
}

/// The direction that is explained: one that was found or opened in the features' workspace, or a file's.
fn which_direction(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let name = match &cx.state.desk().graph.direction {
        Some(GraphDirection::File(path)) => path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned(),
        Some(GraphDirection::Found { concept, layer }) => format!("{}, layer {layer}", concept.name),
        None => "choose …".to_owned(),
    };
    let watched = cx.state.features.desk.watched.clone();
    let menu = ui.menu_button(RichText::new(&name).font(theme::small()), |ui| {
        for w in &watched {
            if ui.button(format!("{}, layer {}", w.concept.name, w.layer)).clicked() {
                let (concept, layer) = (w.concept.clone(), w.layer);
                cx.push(ModelAction::GraphDirection(GraphDirection::Found { concept, layer }));
            }
        }
        if ui.button("Of a file …").on_hover_text("of `direction find`, or a safetensors file with one row").clicked()
        {
            cx.push(Action::Load(Load::Direction));
        }
    });
    menu.response.on_hover_text("the direction behind the final norm that is explained");
}

/// Whether the graph is on components or on the features of a set, and what can be asked of each.
fn what_nodes_are(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let c = &cx.state.desk().graph;
    if c.file.is_some() {
        // Of a file's graph it is known where its set is open and its prompt is on screen.
        let shown = cx.state.results.graph.fresh().map(|g| g.value.clone());
        if shown.is_some_and(|shown| cx.state.of_file(&shown).is_some()) {
            audit_button(ui, cx);
        }
        return;
    }
    let Some(set) = &c.set else {
        if let Some(attention) = choice(ui, "attention", c.attention, &ATTENTION) {
            cx.push(ModelAction::Attention(attention));
        }
        return;
    };
    let name = set.rsplit(['/', '\\']).find(|p| !p.is_empty()).unwrap_or(set).to_owned();
    ui.label(RichText::new(format!("features of {name}")).font(theme::small()).color(cx.palette.accent))
        .on_hover_text(set);
    if ui.small_button("✕").on_hover_text("back to the model's own heads and MLPs").clicked() {
        cx.push(ModelAction::GraphSet(None));
    }
    let mut silent = c.silent();
    let caption = RichText::new("first left out").font(theme::small()).color(cx.palette.weak);
    let hint = "positions from the first on whose features and errors are left out: models keep things there that are unlike all \
                else; 4 is usual for chat models of Gemma 3";
    let changed = captioned(ui, caption, 36.0, |ui| {
        let number = egui::DragValue::new(&mut silent).range(0..=64).speed(0.05);
        ui.add(number).accessible_name("First positions left out").on_hover_text(hint).changed()
    });
    if changed {
        cx.push(ModelAction::Silent(silent));
    }
    let mut most = c.most.unwrap_or(0);
    let caption = RichText::new("features").font(theme::small()).color(cx.palette.weak);
    let hint = "features that are traced at most, the most influential ones; 0 for all where they fit";
    let changed = captioned(ui, caption, 48.0, |ui| {
        let number = egui::DragValue::new(&mut most).range(0..=1_000_000).speed(8.0);
        let number = number.custom_formatter(|v, _| if v < 1.0 { "all".to_owned() } else { format!("{v:.0}") });
        ui.add(number).accessible_name("Features at most").on_hover_text(hint).changed()
    });
    if changed {
        cx.push(ModelAction::MostFeatures((most > 0).then_some(most)));
    }
    audit_button(ui, cx);
}

/// Whether drawn links are put to the test.
fn audit_button(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let c = &cx.state.desk().graph;
    let audits = egui::Button::selectable(c.audit, RichText::new("audit").font(theme::small()));
    let hint = "take the sources of the strongest links away, or of those between nodes that are pinned: links whose prediction fails are crossed out";
    if ui.add(audits).on_hover_text(hint).clicked() {
        cx.push(ModelAction::AuditLinks(!c.audit));
    }
}

/// How much of which graph is shown; `groups` says what groups do to it.
fn summary(ui: &mut egui::Ui, cx: &Context<'_>, groups: Option<String>) {
    let (Some(shown), Some(d)) = (cx.state.results.graph.value(), cx.state.results.drawing.value()) else { return };
    let mut text = format!(
        "{} of {} nodes · {} links · replacement {:.2} · completeness {:.2}",
        d.graph.nodes.len(),
        d.whole.0,
        d.graph.links.len(),
        shown.scores.replacement,
        shown.scores.completeness
    );
    if cx.state.results.graph.get().is_some_and(|g| !g.whole) {
        text += " · still being traced";
    }
    if let Some(words) = cx.state.trust.set_words().filter(|_| !matches!(shown.source, Origin::Traced { .. })) {
        text += &format!(" · {words}");
    }
    let held = shown.influence.held();
    if held < d.thresholds.0 {
        text += &format!(" · they hold {held:.3} of the influence, the rest was not kept");
    }
    if let Some(groups) = groups {
        text += &format!(" · {groups}");
    }
    if let Some(audit) = audit_of(cx.state) {
        let fails = audit.links.iter().filter(|l| l.fails).count();
        let known = |r: Option<f64>| r.map_or("–".to_owned(), |r| format!("{r:.2}"));
        text += &format!(
            " · audit: {fails} of {} links fail, r {} held, {} free",
            audit.links.len(),
            known(audit.correlation_held),
            known(audit.correlation_free)
        );
    } else if cx.state.desk().graph.audit {
        let slot = &cx.state.results.audit;
        match slot.error() {
            Some(error) => text += &format!(" · audit: {error}"),
            None if slot.is_running() => text += " · audit: computing …",
            None => {}
        }
    }
    let hover = match &shown.source {
        Origin::Traced { found, .. } => format!(
            "the whole graph has {} nodes and {} links, traced in {:.2} s with {} frozen; weights in logits",
            found.all_nodes,
            found.all_edges,
            found.seconds,
            found.attention.freeze().names().join(", ")
        ),
        Origin::Features { found, .. } => {
            let told = format!(
                "the whole graph has {} nodes and {} links, traced in {:.2} s with attention patterns, norm scales and MLP outputs frozen; {} of {} active features; the first {} position(s) have no features",
                shown.graph.nodes.len(),
                shown.graph.links.len(),
                found.seconds,
                found.selected.len(),
                found.features.len(),
                found.silent
            );
            std::iter::once(&told).chain(&shown.remarks).cloned().collect::<Vec<_>>().join("\n")
        }
        Origin::File(_) if shown.remarks.is_empty() => "every link of the file was read".to_owned(),
        Origin::File(_) => shown.remarks.join("\n"),
    };
    // One line by itself rather than two with a break in the first.
    let width = ui.painter().layout_no_wrap(text.clone(), theme::small(), cx.palette.weak).size().x;
    if width > ui.available_width() {
        ui.end_row();
    }
    ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak)).on_hover_text(hover);
    if d.graph.follows_attention() {
        let legend = RichText::new("— value  – – query  ··· key").font(theme::mono_small()).color(cx.palette.weak);
        ui.add(egui::Label::new(legend).extend())
            .on_hover_text("through which input of a head a link enters; with attention followed, links are first-order effects: what a circuit really does is measured in the circuit view");
    }
}
