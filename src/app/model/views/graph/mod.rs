//! The circuit graph: what produced one prediction, tokens from left to right and layers from bottom to top.

mod acts;
mod audit;
mod canvas;
mod controls;
mod doubts;
mod groups;
mod marking;
mod picture;
mod side;
mod tree;

use std::collections::{BTreeMap, HashSet};

use eframe::egui::{self, RichText, vec2};

use self::acts::Form;
pub use self::acts::labels_in;
pub use self::audit::audited;
pub use self::canvas::canvas_id;
use self::doubts::doubts;
use self::picture::Picture;
use crate::analysis::head_scores::TextScoresOf;
use crate::analysis::subject::Subject;
use crate::app::export::plate::is_plate;
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Asking, Context, Table, View, ViewDef, Workspace, here};
use crate::app::widgets::message;
use crate::graph::features::effect::EffectOf;
use crate::graph::group::GROUPS;
use crate::graph::grouping::{GroupScoresOf, GroupsOf};
use crate::graph::layout::Origin;
use crate::graph::marks::Marks;
use crate::jobs::slot::{AnySlot, Slot};
use crate::session::desk::Show;

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
    /// What heads do on this text, by which they are grouped.
    roles: Slot<TextScoresOf>,
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
            roles: Slot::default(),
        }
    }
}

impl View for GraphView {
    fn ask(&mut self, asking: &Asking<'_>) {
        let (state, seen) = (asking.state, asking.seen);
        let (pool, results) = (&state.pool, &state.results);
        let drawing = results.drawing.fresh().map(|d| d.value.clone());
        // Groups are of the drawing that they were asked for at the button, and of the groups that were there then.
        let is_old = |q: &GroupsOf| drawing.as_ref() != Some(&q.drawing) || q.begun != self.marks.groups;
        if self.groups.wanted().is_some_and(is_old) {
            self.groups.forget();
        }
        let scores = self.scores_asked(drawing);
        self.scores.ask(pool, scores, seen);
        let edited = results.edited.fresh().filter(|e| e.question.stack == state.desk().stack);
        let edited = edited.map(|e| (Some(e.value.trace.clone()), e.question.stack.clone()));
        // What edits cannot hold still, the graph's own arithmetic can.
        let stack = &state.desk().stack;
        let refused = stack.is_active() && stack.hold.holds_mlps() && results.edited.error().is_some();
        let edited = edited.or_else(|| refused.then(|| (None, stack.clone())));
        let live = results.graph.fresh().filter(|g| g.whole).and_then(|_| state.live_graph());
        let effect = live.zip(edited).map(|(live, (edited, stack))| EffectOf { live, edited, stack });
        // The edited run is compared with the run that was edited.
        let is_of_graph =
            |e: &EffectOf| state.pair().is_some_and(|p| p.run(e.stack.base).is_ok_and(|t| *t == e.live.trace));
        let effect = effect.filter(is_of_graph);
        let roles = results.graph.fresh().and_then(|shown| match &shown.value.source {
            Origin::Traced { trace, .. } => Some(TextScoresOf { subject: Subject::one(trace.clone()) }),
            Origin::Features { .. } | Origin::File(_) => None,
        });
        self.roles.ask(pool, roles, seen && self.grouping == Grouping::Role);
        self.effect.ask(pool, effect, seen);
    }

    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.groups, &mut self.scores, &mut self.effect, &mut self.roles]
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
        doubts(ui, cx, &shown.value);
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
        self.compose(cx, &shown.value, &drawing.value, drawing.stamp);
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
        let (shown, drawing) = (cx.state.results.graph.value()?, cx.state.results.drawing.get()?);
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
            cols: ["influence", "cumulative", shown.value_name()].map(str::to_owned).to_vec(),
            values,
            more: vec![links],
            ..Table::default()
        })
    }
}

impl GraphView {
    fn changed(&mut self) {
        self.version += 1;
    }
}

/// Where the id of a node lies that another view has chosen.
pub fn chosen_id() -> egui::Id {
    egui::Id::unique("graph's chosen node")
}

pub const VIEW: ViewDef = ViewDef {
    name: "graph",
    title: "Graph",
    workspace: Workspace::Model,
    area: Area::TopRight,
    make: || Box::new(GraphView::default()),
};
