//! The circuit graph: what produced one prediction, tokens from left to right and layers from bottom to top.

mod acts;
mod canvas;
mod groups;
mod picture;
mod tree;

use crate::app::action::{Action, Load};
use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::shell::helper;
use crate::app::view::{Area, Asking, Context, Table, View, ViewDef, Workspace, here};
use std::collections::{BTreeMap, BTreeSet, HashSet};

use eframe::egui::{self, RichText, vec2};

use self::acts::Form;
pub use self::canvas::canvas_id;
use self::picture::{Item, Line, Picture, edge, member, mlp_id, pin_part, place_name, tell};
use crate::app::look::theme;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::{bars, captioned, choice, message, token_text};
use crate::circuit::Member;
use crate::engine::RunSide;
use crate::features::dictionary::store::SETS;
use crate::graph::Input;
use crate::graph::NodeKind;
use crate::graph::features::audit::Audit;
use crate::graph::features::effect::EffectOf;
use crate::graph::group::GROUPS;
use crate::graph::grouping::{GroupScoresOf, GroupsOf};
use crate::graph::layout::{Drawing, Origin, Shown};
use crate::graph::marks::Marks;
use crate::graph::part::Part;
use crate::graph::readers::Attention;
use crate::jobs::slot::{AnySlot, Slot};
use crate::session::desk::{Focus, GraphTarget, Show};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Graph,
    Tree,
}

/// How nodes are put together into supernodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Grouping {
    #[default]
    None,
    /// A component's nodes at all positions.
    Component,
    /// Heads by what their scores say they do.
    Role,
}

const ATTENTION: [(Attention, &str); 2] =
    [(Attention::Frozen, "held still"), (Attention::FirstOrder, "followed (first order)")];

pub struct GraphView {
    mode: Mode,
    grouping: Grouping,
    zoom: f32,
    pan: egui::Vec2,
    selected: Option<String>,
    /// What the document says about the nodes: pins, supernodes made by hand, names, hidden ones.
    marks: Marks,
    /// The node that is being dragged.
    dragged: Option<String>,
    /// Nodes of the tree that are open.
    open: HashSet<String>,
    renaming: Option<(String, String)>,
    version: u64,
    picture: Option<Picture>,
    /// What stands at the first position is drawn as one node.
    folds_first: bool,
    /// The thresholds while a slider is dragged.
    thresholds: (f64, f64),
    /// What the nodes' ids belong to: names and groups of one graph say nothing of another.
    source: Option<String>,
    /// The node under the last right click.
    menu: Option<String>,
    /// Labels of drawn features by id, as they stand on the features' pages.
    labels: BTreeMap<String, String>,
    /// What is to be done to features.
    form: Form,
    /// Groups at most.
    most: usize,
    groups: Slot<GroupsOf>,
    scores: Slot<GroupScoresOf>,
    effect: Slot<EffectOf>,
}

impl Default for GraphView {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            grouping: Grouping::default(),
            zoom: 1.0,
            pan: egui::Vec2::ZERO,
            selected: None,
            marks: Marks::default(),
            dragged: None,
            open: HashSet::new(),
            renaming: None,
            version: 0,
            picture: None,
            folds_first: true,
            thresholds: (0.0, 0.0),
            source: None,
            menu: None,
            labels: BTreeMap::new(),
            form: Form::default(),
            most: GROUPS,
            groups: Slot::default(),
            scores: Slot::default(),
            effect: Slot::default(),
        }
    }
}

impl View for GraphView {
    fn ask(&mut self, asking: &Asking<'_>) {
        let (state, seen) = (asking.state, asking.seen);
        let (pool, results) = (&state.pool, &state.results);
        let drawing = results.drawing.fresh().map(|d| d.value.clone());
        // Groups are of the drawing that they were asked for at the button.
        if self.groups.wanted().is_some_and(|q| drawing.as_ref() != Some(&q.drawing)) {
            self.groups.forget();
        }
        let scores = self.scores_asked(drawing);
        self.scores.ask(pool, scores, seen);
        let edited = results.edited.fresh().filter(|e| e.question.stack == state.desk().stack);
        let edited = edited.map(|e| (e.value.trace.clone(), e.question.stack.clone()));
        let effect = results.graph.fresh().zip(edited).map(|(shown, (edited, stack))| {
            let shown = shown.value.clone();
            EffectOf { shown, edited, stack }
        });
        let effect = effect.filter(|e| matches!(e.shown.source, Origin::Features { .. }));
        self.effect.ask(pool, effect, seen);
    }

    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.groups, &mut self.scores, &mut self.effect]
    }

    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if is_plate(ui.ctx()) {
            self.summary(ui, cx);
        } else {
            self.controls(ui, cx);
        }
        let results = &cx.state.results;
        if cx.state.desk().graph.file.is_none() {
            let edited = cx.run().is_some_and(|r| !r.trace.edits().is_empty());
            if edited && cx.state.desk().graph.set.is_some() {
                let text = "the graph is of the run without the edits";
                ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
            } else if edited {
                ui.add_space(24.0);
                ui.vertical_centered(|ui| {
                    ui.label(RichText::new("A prediction is traced in a run without edits.").color(cx.palette.weak));
                    if ui.button("Show the clean run's graph").clicked() {
                        cx.push(ModelAction::Show(Show::Clean));
                    }
                });
                return;
            }
            if !here(ui, cx, &results.graph) {
                return;
            }
        } else if let Some(error) = results.graph.error() {
            message(ui, error, true);
            return;
        }
        let (Some(shown), Some(drawing)) = (results.graph.get().cloned(), results.drawing.get().cloned()) else {
            let text = results.drawing.error().map_or("laying the graph out …", String::as_str);
            message(ui, text, results.drawing.error().is_some());
            return;
        };
        self.belongs_to(cx, &shown.value);
        self.groups_arrived(cx);
        let labels = Self::labels_of(cx, &shown.value, &drawing.value);
        if labels != self.labels {
            self.labels = labels;
            self.changed();
        }
        if let Some(id) = ui.data_mut(|data| data.remove_temp::<String>(chosen_id())) {
            self.selected = Some(self.item_with(&id));
        }
        self.compose(cx, &drawing.value, drawing.stamp);
        let selected =
            self.selected.clone().filter(|id| self.picture.as_ref().is_some_and(|p| p.by_id.contains_key(id)));
        let available = ui.available_size();
        // Without a node that is chosen the side says what the picture shows, where there is room for words.
        let words = selected.is_none() && available.x > 760.0;
        let side = if (selected.is_some() || words) && self.mode == Mode::Graph {
            (available.x * 0.3).clamp(150.0, 250.0)
        } else {
            0.0
        };
        ui.horizontal_top(|ui| {
            let down = egui::Layout::top_down(egui::Align::Min);
            let size = vec2((available.x - side - 8.0).max(80.0), available.y);
            ui.allocate_ui_with_layout(size, down, |ui| match self.mode {
                Mode::Graph => self.canvas(ui, cx, &drawing.value, drawing.fresh && shown.fresh),
                Mode::Tree => self.tree(ui, cx),
            });
            if side > 0.0 {
                ui.vertical(|ui| {
                    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| match selected {
                        Some(id) => self.details(ui, cx, &shown.value, &drawing.value, &id),
                        None => self.words(ui, cx, &shown.value, &drawing.value),
                    });
                });
            }
        });
        self.rename(ui.ctx(), cx);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let drawing = cx.state.results.drawing.get()?;
        let d = &drawing.value;
        let rows = d.graph.nodes.iter().map(|n| format!("{} {} @{}", n.id, n.label, n.pos)).collect();
        let values = (0..d.graph.nodes.len())
            .map(|i| {
                let n = &d.graph.nodes[i];
                vec![Some(d.influence[i] as f32), Some(d.cumulative[i] as f32), n.activation.map(|a| a as f32)]
            })
            .collect();
        let name = |node: u32| d.graph.nodes[node as usize].id.clone();
        let links = Table {
            name: "graph-links".to_owned(),
            row_axis: "source → target",
            col_axis: "value",
            rows: d.strongest.iter().map(|l| format!("{} → {}", name(l.0), name(l.1))).collect(),
            cols: vec!["weight".to_owned()],
            values: d.strongest.iter().map(|l| vec![Some(l.2)]).collect(),
            ..Table::default()
        };
        Some(Table {
            name: "graph-nodes".to_owned(),
            row_axis: "node",
            col_axis: "value",
            rows,
            cols: ["influence", "cumulative", "contribution"].map(str::to_owned).to_vec(),
            values,
            more: vec![links],
            ..Table::default()
        })
    }
}

impl GraphView {
    fn controls(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
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
                None => {
                    if let Some(t) = choice(ui, "of", c.target, &GraphTarget::ALL) {
                        cx.push(ModelAction::Graph(t));
                    }
                }
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

    fn file_menu(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
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
        if ui.button("Save this graph (JSON)…").clicked() {
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

    /// Turns to the graph that is shown, and to what the document says about its nodes.
    fn belongs_to(&mut self, cx: &mut Context<'_>, shown: &Shown) {
        let settings = &cx.state.desk().graph;
        let source = shown.key(settings.file.as_deref());
        let marks = settings.marks.get(&source).unwrap_or(&shown.marks);
        if self.marks != *marks {
            self.marks = marks.clone();
            self.changed();
        }
        if self.source.as_ref() == Some(&source) {
            return;
        }
        if self.source.is_some() {
            self.selected = None;
            self.open.clear();
            self.renaming = None;
            (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO);
            self.changed();
            cx.push(ModelAction::CloseMlps);
        }
        self.source = Some(source);
    }

    /// Says something about the nodes; `name` says what.
    fn mark(&mut self, cx: &mut Context<'_>, name: impl Into<String>, change: impl FnOnce(&mut Marks)) {
        change(&mut self.marks);
        let source = self.source.clone().unwrap_or_default();
        cx.push(ModelAction::Mark(name.into(), source, self.marks.clone()));
        self.changed();
    }

    fn hide(&mut self, cx: &mut Context<'_>, item: &Item) {
        self.mark(cx, format!("hide {}", item.label), |m| _ = m.hidden.insert(item.id.clone()));
        self.selected = None;
    }

    fn pin(&mut self, cx: &mut Context<'_>, item: &Item) {
        if self.marks.pinned.contains(&item.id) {
            self.mark(cx, format!("unpin {}", item.label), |m| _ = m.pinned.remove(&item.id));
        } else {
            self.mark(cx, format!("pin {}", item.label), |m| _ = m.pinned.insert(item.id.clone()));
        }
    }

    /// The nodes that an item stands for: of a group made by hand also those that are not drawn now.
    fn ids(&self, d: &Drawing, item: &Item) -> Vec<String> {
        let own = item.id.strip_prefix("group:").and_then(|n| self.marks.groups.iter().find(|(g, _)| g == n));
        let drawn = || item.members.iter().map(|m| d.graph.nodes[*m].id.clone()).collect();
        own.map_or_else(drawn, |(_, ids)| ids.clone())
    }

    /// Puts two items into one group: into that of the second, if it is one made by hand.
    fn join(&mut self, cx: &mut Context<'_>, d: &Drawing, a: &Item, b: &Item) {
        let existing = b.id.strip_prefix("group:").filter(|n| self.marks.groups.iter().any(|(g, _)| g == n));
        let name = existing.map_or_else(|| format!("{} + {}", b.label, a.label), str::to_owned);
        let ids = [self.ids(d, b), self.ids(d, a)].concat();
        let grows = existing.is_some();
        self.mark(cx, format!("group {} with {}", a.label, b.label), |m| {
            m.groups.retain(|(n, _)| !(grows && *n == name));
            m.group(&name, ids);
        });
        self.selected = Some(format!("group:{}", self.marks.groups.last().map_or("", |g| g.0.as_str())));
    }

    fn changed(&mut self) {
        self.version += 1;
    }

    /// What the picture shows, in words.
    fn words(&mut self, ui: &mut egui::Ui, cx: &Context<'_>, shown: &Shown, d: &Drawing) {
        let count = |kind: NodeKind| d.graph.nodes.iter().filter(|n| n.kind == kind).count();
        ui.label(RichText::new(&shown.title).font(theme::title()).color(cx.palette.accent));
        let first = d.graph.nodes.iter().filter(|n| n.pos == 0 && n.kind == NodeKind::Component).count();
        let mut lines = vec![
            format!(
                "{} of {} nodes and {} of {} links: those that hold {:.0} % and {:.0} % of the influence on the prediction.",
                d.graph.nodes.len(),
                d.whole.0,
                d.graph.links.len(),
                d.whole.1,
                100.0 * d.thresholds.0,
                100.0 * d.thresholds.1
            ),
            format!(
                "{} parts of the model stand between the tokens below and the prediction above; each stands at its layer and position.",
                count(NodeKind::Component)
            ),
            "Blue links raise what is predicted, red ones lower it; thick ones do so more.".to_owned(),
        ];
        if self.folds_first && first > 1 {
            lines.push(format!("{first} nodes at the first position are folded into one."));
        }
        if let Some((_, most)) = self.picture.as_ref().and_then(|p| {
            let parts = p.items.iter().filter(|i| i.kind == NodeKind::Component);
            parts.map(|i| (i.influence, i)).max_by(|a, b| a.0.total_cmp(&b.0))
        }) {
            lines.push(format!("The most influential is {} ({}).", most.spoken(), place_name(cx, d, most)));
        }
        lines.push("Point at a node to see what it is, click to see where it comes from.".to_owned());
        for line in lines {
            ui.add(egui::Label::new(RichText::new(line).font(theme::small()).color(cx.palette.weak)).wrap());
            ui.add_space(theme::GRID);
        }
        self.worst_links(ui, cx);
    }

    /// What is known of one node, its strongest inputs and outputs.
    fn details(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, id: &str) {
        ui.spacing_mut().item_spacing.y = 1.0;
        let Some(picture) = self.picture.take() else { return };
        if let Some(&i) = picture.by_id.get(id) {
            let item = &picture.items[i];
            ui.horizontal(|ui| {
                ui.label(RichText::new(item.spoken()).font(theme::title()).color(cx.palette.accent));
                ui.label(RichText::new(place_name(cx, d, item)).font(theme::mono()));
            });
            if let Some(c) = item.contribution {
                ui.label(
                    RichText::new(format!("contributes {c:+.3} · influence {:.4}", item.influence))
                        .font(theme::small())
                        .color(cx.palette.weak),
                );
            }
            self.page(ui, cx, d, item);
            ui.menu_button(RichText::new("do …").font(theme::small()), |ui| self.menu(ui, cx, d, item));
            neurons(ui, cx, shown, d, item);
            self.act(ui, cx, d, item);
            self.members(ui, cx, d, item);
            for (title, into) in [("from", true), ("to", false)] {
                ui.add_space(4.0);
                ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak));
                let own = |l: &&Line| if into { l.target == i } else { l.source == i };
                let links: Vec<&Line> = picture.links.iter().filter(own).take(14).collect();
                let max = links.first().map_or(1.0, |l| l.weight.abs());
                for link in links {
                    let other = &picture.items[if into { link.source } else { link.target }];
                    let through = match link.input {
                        Input::Value => String::new(),
                        input => format!("<{}> ", input.letter()),
                    };
                    let label =
                        format!("{through}{} {}", token_text::cut(&other.spoken(), 12), place_name(cx, d, other));
                    let b = Bar { label, value: link.weight, text: format!("{:+.3}", link.weight), strong: false };
                    let response = bars::bar(ui, &b, max, true, 104.0);
                    if response.hovered() {
                        tell(cx, d, other);
                    }
                    if let Some(edge) = edge(cx, d, &picture, link) {
                        let response = response.clone().on_hover_text("right click: this edge into the circuit");
                        if response.secondary_clicked() {
                            cx.push(ModelAction::AddEdge(edge));
                        }
                    }
                    if response.clicked() {
                        self.selected = Some(other.id.clone());
                        pin_part(cx, d, other);
                    }
                }
            }
        }
        self.picture = Some(picture);
    }

    fn menu(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        ui.label(RichText::new(&item.label).font(theme::title()));
        if let Some(member) = member(d, item) {
            let draft = &cx.state.desk().draft;
            let text = match member {
                _ if draft.contains(member) => "Take out of the circuit".to_owned(),
                // The MLP is there as a whole, and a neuron of it would stand for it.
                Member::Neuron { layer, .. } if draft.contains(member.component()) => {
                    format!("Leave only this neuron of m{layer} in the circuit")
                }
                _ => "Add to the circuit".to_owned(),
            };
            if ui.button(text).clicked() {
                cx.push(ModelAction::Collect(member));
            }
        }
        if let Some(id) = mlp_id(d, item) {
            let open = cx.state.desk().graph.cut.opened.contains(&id);
            let text = if open { "Put the MLP together again" } else { "Take apart into neurons" };
            if ui.button(text).clicked() {
                cx.push(ModelAction::OpenMlp(id));
            }
        }
        self.acts(ui, cx, d, item);
        let pinned = self.marks.pinned.contains(&item.id);
        if ui.button(if pinned { "Unpin" } else { "Pin" }).clicked() {
            self.pin(cx, item);
        }
        if ui.button("Hide").clicked() {
            self.hide(cx, item);
        }
        if ui.button("Rename …").clicked() {
            self.renaming = Some((item.id.clone(), item.label.clone()));
        }
        let others: Vec<&String> = self.marks.pinned.iter().filter(|id| **id != item.id).collect();
        if !others.is_empty() && ui.button(format!("Group with the {} pinned", others.len())).clicked() {
            let mut ids: BTreeSet<String> = self.ids(d, item).into_iter().collect();
            for pinned in others {
                match pinned.strip_prefix("group:") {
                    Some(name) => {
                        let group = self.marks.groups.iter().find(|(g, _)| g == name);
                        ids.extend(group.into_iter().flat_map(|(_, ids)| ids.clone()));
                    }
                    None => _ = ids.insert(pinned.clone()),
                }
            }
            if ids.len() > 1 {
                self.mark(cx, format!("group {} with the pinned", item.label), |m| {
                    m.group("group", ids.into_iter().collect());
                    m.pinned.clear();
                });
            }
        }
        if let Some(name) = item.id.strip_prefix("group:")
            && self.marks.groups.iter().any(|(n, _)| n == name)
            && ui.button("Dissolve this group").clicked()
        {
            self.mark(cx, format!("dissolve {name}"), |m| m.groups.retain(|(n, _)| n != name));
        }
        if ui.button("Tree of its inputs").clicked() {
            self.selected = Some(item.id.clone());
            self.mode = Mode::Tree;
        }
    }

    fn summary(&self, ui: &mut egui::Ui, cx: &Context<'_>) {
        summary(ui, cx, self.group_words());
    }

    /// What can be done to the features that an item stands for, in its menu.
    fn acts(&self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        let Some(shown) = cx.state.results.graph.value().cloned() else { return };
        let Origin::Features { found, .. } = &shown.source else { return };
        let nodes = self.features_of(found, d, item);
        if nodes.is_empty() {
            return;
        }
        let what = if nodes.len() > 1 { format!("its {} features", nodes.len()) } else { "it".to_owned() };
        for (text, factor) in [("Ablate", 0.0), ("Double", 2.0), ("Turn around", -1.0)] {
            let hint = "an edit of the stack; the edited run shows what happens";
            if ui.button(format!("{text} {what}")).on_hover_text(hint).clicked() {
                cx.push(ModelAction::Put(RunSide::Clean, found.set(&nodes, |a| factor * a)));
            }
        }
    }

    fn rename(&mut self, ctx: &egui::Context, cx: &mut Context<'_>) {
        let Some((id, mut name)) = self.renaming.take() else { return };
        let mut open = true;
        let mut done = false;
        helper::show(ctx, "Rename", &mut open, (vec2(260.0, 110.0), egui::Vec2::splat(0.5)), |ui| {
            let field = ui.text_edit_singleline(&mut name);
            field.request_focus();
            done = ui.button("OK").clicked() || ui.input(|i| i.key_pressed(egui::Key::Enter));
        });
        if done {
            self.mark(cx, format!("rename {id}"), |m| {
                if name.trim().is_empty() {
                    m.names.remove(&id);
                } else {
                    m.names.insert(id.clone(), name);
                }
            });
        } else if open {
            self.renaming = Some((id, name));
        }
    }
}

/// Where the id of a node lies that another view has chosen.
pub fn chosen_id() -> egui::Id {
    egui::Id::unique("graph's chosen node")
}

/// Whether the graph is on components or on the features of a set, and what can be asked of each.
fn what_nodes_are(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let c = &cx.state.desk().graph;
    if c.file.is_some() {
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
    let audits = egui::Button::selectable(c.audit, RichText::new("audit").font(theme::small()));
    let hint = "take the sources of the strongest links away, or of those between nodes that are pinned: links whose prediction fails are crossed out";
    if ui.add(audits).on_hover_text(hint).clicked() {
        cx.push(ModelAction::AuditLinks(!c.audit));
    }
}

/// The neurons of an MLP's node that contribute most; a click shows what they promote.
fn neurons(ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
    let ([one], Origin::Traced { found, .. }) = (&item.members[..], &shown.source) else { return };
    let Some(part @ Part::Mlp { layer, pos }) = d.part(*one) else { return };
    let Some(list) = found.neurons.get(&part) else { return };
    egui::CollapsingHeader::new(RichText::new("neurons").font(theme::small())).id_salt("neurons").show(ui, |ui| {
        let max = list.first().map_or(1.0, |n| n.1.abs());
        for (neuron, value) in list {
            let b = Bar { label: neuron.to_string(), value: *value, text: format!("{value:+.3}"), strong: false };
            let hint = "activation times the target's gradient: its part of what the MLP contributes; click shows its tokens, right click puts it into the circuit";
            let response = bars::bar(ui, &b, max, true, 60.0).on_hover_text(hint);
            if response.clicked() {
                cx.pin(|p| (p.layer, p.neuron, p.focus) = (layer, Some(*neuron), Focus::Neuron));
                cx.hovered.pos = Some(pos);
            }
            if response.secondary_clicked() {
                cx.push(ModelAction::Collect(Member::Neuron { layer, neuron: *neuron }));
            }
        }
    });
}

/// What the audit found of the links that are drawn now.
pub fn audit_of<'a>(cx: &'a Context<'_>) -> Option<&'a Audit> {
    let (drawing, audit) = (cx.state.results.drawing.get()?, cx.state.results.audit.get()?);
    (cx.state.desk().graph.audit && audit.question.drawing == drawing.value).then_some(&*audit.value)
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
    let held = shown.influence.held();
    if held < d.thresholds.0 {
        text += &format!(" · they hold {held:.3} of the influence, the rest was not kept");
    }
    if let Some(groups) = groups {
        text += &format!(" · {groups}");
    }
    if let Some(audit) = audit_of(cx) {
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

pub const VIEW: ViewDef = ViewDef {
    name: "graph",
    title: "Graph",
    workspace: Workspace::Model,
    area: Area::TopRight,
    make: || Box::new(GraphView::default()),
};
