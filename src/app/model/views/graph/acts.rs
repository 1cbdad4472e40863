//! What can be done to the features that a node or a group stands for, and what comes of it. What is done are edits of the
//! stack; what comes of it stands beside what the graph predicts.

use eframe::egui::{self, RichText};

use super::GraphView;
use super::picture::Item;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::app::action::Action;
use crate::app::export::commands::intervention;
use crate::app::features::FeatureAction;
use crate::app::features::views::page;
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::model::views::edits;
use crate::app::view::Context;
use crate::app::widgets::colorbar::share;
use crate::app::widgets::token_text;
use crate::engine::edit::Edit;
use crate::engine::{RunSide, Trace};
use crate::features::labels::Unit;
use crate::graph::features::FeatureGraph;
use crate::graph::features::audit::feature_of;
use crate::graph::features::effect::changes;
use crate::graph::features::opened::Live;
use crate::graph::layout::{Drawing, Origin, Shown};
use crate::graph::{Graph, Node, NodeKind};

/// What is typed into the form.
pub struct Form {
    value: f32,
    times: f32,
    /// Features that take the place of others, as `LAYER:FEATURE`.
    others: String,
}

impl Default for Form {
    fn default() -> Self {
        Self { value: 1.0, times: 2.0, others: String::new() }
    }
}

/// Features of a list as in `5:431, 6:77`.
fn listed(text: &str) -> Option<Vec<(usize, u32)>> {
    let one = |part: &str| {
        let (layer, feature) = part.trim().split_once(':')?;
        Some((layer.trim().parse().ok()?, feature.trim().parse().ok()?))
    };
    text.split(',').filter(|p| !p.trim().is_empty()).map(one).collect()
}

impl GraphView {
    /// The nodes of a graph on features that an item stands for.
    pub(super) fn features_of(&self, found: &FeatureGraph, d: &Drawing, item: &Item) -> Vec<usize> {
        if item.kind != NodeKind::Component {
            return Vec::new();
        }
        self.ids(d, item).iter().filter_map(|id| found.by_id(id)).collect()
    }

    /// The features that are pinned, other than an item's own.
    fn pinned_features(&self, found: &FeatureGraph, own: &[usize]) -> Vec<(usize, u32)> {
        let mut all = Vec::new();
        for id in &self.marks.pinned {
            let ids = match id.strip_prefix("group:") {
                Some(name) => self.marks.groups.iter().find(|(g, _)| g == name).map_or(&[][..], |(_, ids)| ids),
                None => std::slice::from_ref(id),
            };
            let nodes = ids.iter().filter_map(|id| found.by_id(id)).filter(|n| !own.contains(n));
            all.extend(nodes.filter_map(|n| found.feature(n)).map(|f| (f.layer, f.feature)));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What can be done to the features that an item stands for, in its menu.
    pub(super) fn acts(&self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        let Some(Live { trace, found, .. }) = cx.state.live_graph() else { return };
        let nodes = self.features_of(&found, d, item);
        let Some(side) = side_of(cx, &trace).filter(|_| !nodes.is_empty()) else { return };
        let what = if nodes.len() > 1 { format!("its {} features", nodes.len()) } else { "it".to_owned() };
        for (text, factor) in [("Ablate", 0.0), ("Double", 2.0), ("Reverse", -1.0)] {
            let hint = "an edit of the stack; the edited run shows what happens";
            if ui.button(format!("{text} {what}")).on_hover_text(hint).clicked() {
                cx.push(ModelAction::Put(side, found.set(&nodes, |a| factor * a)));
            }
        }
    }

    /// The form, and what the edits do.
    pub(super) fn act(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        let Some(Live { trace, found, .. }) = cx.state.live_graph() else {
            self.why_not(ui, cx, item);
            return;
        };
        let (trace, found) = (&trace, &*found);
        let nodes = self.features_of(found, d, item);
        if nodes.is_empty() {
            return;
        }
        let Some(side) = side_of(cx, trace) else {
            let text = "This graph is of another prompt, so that nothing can be done to its features.";
            ui.add(egui::Label::new(RichText::new(text).font(theme::small()).color(cx.palette.weak)).wrap());
            return;
        };
        let count = if nodes.len() == 1 { "a feature".to_owned() } else { format!("{} features", nodes.len()) };
        title(ui, cx, &format!("what if … ({count})"));
        let mut put: Option<Vec<Edit>> = None;
        ui.horizontal_wrapped(|ui| {
            let button = |ui: &mut egui::Ui, text: &str, hint: &str| {
                ui.small_button(text).on_hover_text(format!("{hint}; an edit of the stack")).clicked()
            };
            if button(ui, "ablate", "set to 0") {
                put = Some(found.set(&nodes, |_| 0.0));
            }
            if button(ui, "set to", "each is given this activation") {
                put = Some(found.set(&nodes, |_| self.form.value));
            }
            ui.add(egui::DragValue::new(&mut self.form.value).speed(0.05))
                .accessible_name("Activation")
                .on_hover_text("the activation that is set");
            if button(ui, "scale by", "each is given its activation of this run, so many times") {
                put = Some(found.set(&nodes, |a| self.form.times * a));
            }
            ui.add(egui::DragValue::new(&mut self.form.times).speed(0.05))
                .accessible_name("Factor")
                .on_hover_text("the factor");
        });
        ui.horizontal_wrapped(|ui| {
            let pinned = self.pinned_features(found, &nodes);
            let typed = listed(&self.form.others);
            let others = match &typed {
                Some(list) if !list.is_empty() => list.clone(),
                _ => pinned.clone(),
            };
            let outside = others.iter().find(|(layer, _)| *layer >= found.n_layers);
            let possible = typed.is_some() && !others.is_empty() && outside.is_none();
            let hint = "the features are set to 0, and the others, at the same positions, to the largest activation taken away there";
            let swap = ui.add_enabled(possible, egui::Button::new("swap for").small()).on_hover_text(hint);
            let missing = "name features as LAYER:FEATURE, with commas between them, or pin nodes";
            if swap.on_disabled_hover_text(missing).clicked() {
                put = Some(found.swapped(&nodes, &others));
            }
            let hint = if pinned.is_empty() { "LAYER:FEATURE".to_owned() } else { format!("{} pinned", pinned.len()) };
            let field = egui::TextEdit::singleline(&mut self.form.others).hint_text(hint).desired_width(110.0);
            ui.add(field).accessible_name("Features in their place").on_hover_text(missing);
        });
        let own = if side == cx.state.desk().stack.base { own_edits(cx, found, &nodes) } else { Vec::new() };
        if !own.is_empty() && ui.small_button("leave as it was").on_hover_text("take these edits away").clicked() {
            let mut stack = (*cx.state.desk().stack).clone();
            stack.edits.retain(|e| !own.contains(e));
            cx.push(ModelAction::Edits("leave features as they were", stack));
        }
        if let Some(edits) = put {
            cx.push(ModelAction::Put(side, edits));
        }
        edits::held_still(ui, cx);
        if side == cx.state.desk().stack.base {
            self.outcome(ui, cx);
        }
    }

    /// Why nothing can be done to the features of a graph of a file.
    fn why_not(&self, ui: &mut egui::Ui, cx: &Context<'_>, item: &Item) {
        let Some(shown) = cx.state.results.graph.value() else { return };
        let is_feature = matches!(&shown.source, Origin::File(file) if !file.is_of_components());
        if !is_feature || item.kind != NodeKind::Component {
            return;
        }
        let opened = &cx.state.results.opened;
        let text = match opened.error() {
            Some(error) => format!("Its features cannot be changed: {error}."),
            None if opened.is_running() => "the file is compared with the run …".to_owned(),
            None => "Its features can be changed once the set that the file is of is open and its prompt is on screen."
                .to_owned(),
        };
        ui.add(egui::Label::new(RichText::new(text).font(theme::small()).color(cx.palette.weak)).wrap());
    }

    /// The way to a feature's page: its examples, what it promotes, its label.
    pub(super) fn page(&self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        let Some(shown) = cx.state.results.graph.value().cloned() else { return };
        let (file, feature) = match &shown.source {
            Origin::Features { found, .. } => {
                let [node] = self.features_of(found, d, item)[..] else { return };
                let Some(f) = found.feature(node) else { return };
                (found.dictionaries.get(f.layer).map(|(file, _)| file.clone()), f.feature)
            }
            Origin::File(of) => {
                // A file that names no set may be of another than the one that is open.
                let live = cx.state.live_graph().is_some();
                let is_of = |spec: &str| live || of.dictionary() == Some(spec);
                let set = cx.state.results.set.fresh().filter(|s| is_of(&s.question.spec));
                let [node] = item.members[..] else { return };
                let Some((set, (layer, _, feature))) = set.zip(feature_of(&d.graph, node)) else { return };
                (set.layer_spec(layer), feature)
            }
            Origin::Traced { .. } => return,
        };
        let hint = "its strongest examples in a text of yours, the tokens that it promotes, its label";
        if let Some(file) = file
            && ui.small_button("page").on_hover_text(hint).clicked()
        {
            cx.push(Action::Feature(FeatureAction::Page(file, feature)));
            cx.push(Action::Show(page::VIEW.name));
        }
    }

    /// Labels of drawn features by node's id, where they are others than when the graph was traced: as they stand on the open
    /// page's dictionary, and in the files of the set's other layers.
    pub(super) fn labels_of(cx: &Context<'_>, shown: &Shown, d: &Drawing) -> BTreeMap<String, String> {
        let (Origin::Features { found, set, .. }, labels) = (&shown.source, &cx.state.features.labels) else {
            return BTreeMap::new();
        };
        let open = cx.state.features.opened_as().filter(|_| labels.knows_features());
        let open = found.dictionaries.iter().position(|(file, _)| Some(file.as_str()) == open);
        let written = cx.state.results.set_labels.get().filter(|a| a.question.set == *set);
        let label = |n: &Node| {
            let f = found.feature(found.by_id(&n.id)?)?;
            let now = match written {
                _ if open == Some(f.layer) => labels.words(&Unit::Feature(f.feature)).map(str::to_owned),
                Some(all) => all.get(&(f.layer, f.feature)).cloned(),
                None => return None,
            };
            let now = now.unwrap_or_else(|| format!("f{}", f.feature));
            (now != n.label).then(|| (n.id.clone(), now))
        };
        d.graph.nodes.iter().filter(|n| n.kind == NodeKind::Component).filter_map(label).collect()
    }

    /// Before and after, what the graph predicts beside what happens, and how the prompt goes on.
    fn outcome(&self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !cx.state.desk().stack.is_active() {
            return;
        }
        ui.add_space(theme::GRID);
        let next = self.effect.fresh().and_then(|e| e.next.clone());
        if next.is_none() && !edits::beside(ui, cx) {
            return;
        }
        let weak = cx.palette.weak;
        let is_staged = next.is_some();
        for (name, tokens) in ["before", "after"].into_iter().zip(next.into_iter().flatten()) {
            let told = |(id, p): &(u32, f32)| format!("{} {}", token_text::short(&cx.text_of(*id), 10), share(*p));
            let told: Vec<String> = tokens.iter().map(told).collect();
            let text = format!("{name:<6} {}", told.join("  "));
            ui.add(egui::Label::new(RichText::new(text).font(theme::mono())).wrap());
        }
        if is_staged {
            let text =
                "computed with all of it held still; no text is generated under it, and no other edit goes with it";
            ui.add(egui::Label::new(RichText::new(text).font(theme::small()).color(weak)).wrap());
        }
        if let Some(effect) = self.effect.fresh().map(|e| e.value.clone()) {
            for told in effect.targets.iter().take(4) {
                let text = format!(
                    "{}: the graph predicts {:+.3}, {:+.3} happens",
                    token_text::short(&told.label, 14),
                    told.predicted,
                    told.happened
                );
                ui.label(RichText::new(text).font(theme::mono_small()).color(weak)).on_hover_text(
                    "change of a token's logit beside the mean of all, or of the difference that is explained; the prediction goes along all paths of the whole graph, with attention, norms and MLPs held still",
                );
            }
            if effect.unknown + effect.others > 0 {
                let text = format!(
                    "{} changed features are no nodes of the graph, and {} edits are of something else: of these it predicts nothing",
                    effect.unknown, effect.others
                );
                ui.add(egui::Label::new(RichText::new(text).font(theme::small()).color(cx.palette.warning)).wrap());
            }
        }
        ui.horizontal_wrapped(|ui| {
            if !is_staged
                && ui
                    .small_button("generate")
                    .on_hover_text("how the prompt goes on, with and without the edits")
                    .clicked()
            {
                cx.push(ModelAction::Generate);
            }
            if let Some(line) = intervention(cx.state)
                && ui.small_button("copy command").on_hover_text(&line).clicked()
            {
                ui.ctx().copy_text(line);
            }
        });
        if let Some(made) = cx.state.results.generated.fresh().map(|g| g.value.clone())
            && let Some(edited) = &made.edited
        {
            for (name, tokens) in [("without", &made.base), ("with", edited)] {
                let text: String = tokens.iter().map(|t| cx.text_of(t.id)).collect();
                let text = format!("{name}: {}", token_text::visible(&text));
                ui.add(egui::Label::new(RichText::new(text).font(theme::mono_small())).wrap());
            }
        }
    }
}

/// The run of the prompts on screen that a graph was traced on, which edits of its features belong to. `None` while another
/// prompt's graph is still there.
pub(super) fn side_of(cx: &Context<'_>, trace: &Arc<Trace>) -> Option<RunSide> {
    let pair = cx.state.pair()?;
    [RunSide::Clean, RunSide::Corrupted].into_iter().find(|side| pair.run(*side).is_ok_and(|run| run == trace))
}

/// The edits of the stack that change an item's features.
fn own_edits(cx: &Context<'_>, found: &FeatureGraph, nodes: &[usize]) -> Vec<Edit> {
    let stack = &cx.state.desk().stack;
    if changes(found, stack).0.is_empty() {
        return Vec::new();
    }
    let mine = found.set(nodes, |_| 0.0);
    let same = |e: &Edit| mine.iter().any(|m| e.changes_feature_of(m));
    stack.edits.iter().filter(|e| same(e)).cloned().collect()
}

/// What a graph of a file calls its features, by (layer, feature).
pub fn labels_in(graph: &Graph) -> BTreeMap<(usize, u32), String> {
    let label = |(node, n): (usize, &Node)| {
        let (layer, _, feature) = feature_of(graph, node)?;
        let label = n.label.trim();
        (!label.is_empty()).then(|| ((layer, feature), label.to_owned()))
    };
    graph.nodes.iter().enumerate().filter_map(label).collect()
}

pub(super) fn title(ui: &mut egui::Ui, cx: &Context<'_>, text: &str) {
    ui.add_space(theme::GRID);
    ui.label(RichText::new(text).font(theme::small()).color(cx.palette.accent));
}
