//! What the views of a model and a prompt ask for. Each action that changes the document has a name, by which it is taken
//! back.

use crate::analysis::feature_geometry::Directions;
use crate::analysis::neurons::Statistic;
use crate::analysis::patching::SweepOf;
use crate::analysis::projection;
use crate::app::model::circuits::tokens_of;
use crate::app::model::talk::TalkAction;
use crate::app::shell::notices::Level;
use crate::app::state::State;
use crate::circuit::draft::Draft;
use crate::circuit::search::Search;
use crate::circuit::{Edge, Member};
use crate::engine::edit::{Action as Do, Edit};
use crate::engine::generate::Sampling;
use crate::engine::{EditStack, RunSide};
use crate::graph::SILENT;
use crate::graph::marks::Marks;
use crate::graph::readers::Attention;
use crate::model::matrix::Held;
use crate::session::Desk;
use crate::session::desk::{CircuitSettings, Focus, GraphDirection, GraphTarget, PatchSettings, Pinned, Show};

/// What can be asked for.
#[derive(Clone, Debug)]
pub enum ModelAction {
    Prompt(String),
    /// What the conversation editor asks for.
    Talk(TalkAction),
    Answer(String),
    Wrong(String),
    Corrupted(String),
    /// The corrupted prompt in the clean one's place, and the other way round.
    SwapPrompts,
    /// Token of the prompt and its counterpart in the corrupted one.
    Align(usize, Option<usize>),
    /// Which run the views show.
    Show(Show),
    /// Replaces the stack of edits; the text says what is done.
    Edits(&'static str, EditStack),
    /// Adds edits of this run that belong together, or takes them away if all are there already.
    Toggle(RunSide, Vec<Edit>),
    /// Adds edits, or gives those of the same direction or feature and place their strength.
    Put(RunSide, Vec<Edit>),
    /// What the patching view asks.
    Patch(PatchSettings),
    /// Runs a sweep that was held back for its length, or some of its cells.
    Sweep(Option<Vec<usize>>),
    Graph(GraphTarget),
    /// Whether attention patterns are held still or followed.
    Attention(Attention),
    /// Takes an MLP of the graph, by its id, apart into neurons, or puts it together again.
    OpenMlp(String),
    /// Puts all MLPs together again.
    CloseMlps,
    /// Shares of influence that the kept nodes and links hold; `None` for as many as can be read.
    Thresholds(Option<(f64, f64)>),
    /// What is said about a graph's nodes: what is done, what the graph is of, and all its marks then.
    Mark(String, String, Marks),
    /// Opens a graph file.
    OpenGraph(String),
    /// Back from a file to the traced prediction.
    CloseGraph,
    /// Whether drawn links between features are put to the test.
    AuditLinks(bool),
    /// Leaves the features and errors of so many first positions out.
    Silent(usize),
    /// Traces predictions to the features of a set, or to the model's own components.
    GraphSet(Option<String>),
    /// Explains these tokens, with commas between them.
    GraphTokens(String),
    GraphDirection(GraphDirection),
    /// Writes what a file's graph calls its features into the set.
    TakeLabels,
    /// Traces so many features at most, or all.
    MostFeatures(Option<usize>),
    /// Replaces the collected circuit; the text says what is done.
    Circuit(&'static str, Draft),
    /// Adds a component or a neuron to the circuit, or takes it away.
    Collect(Member),
    AddEdge(Edge),
    RemoveEdge(Edge),
    /// A named circuit to compare with, or none.
    Compare(Option<(String, Draft)>),
    CircuitSettings(CircuitSettings),
    Search(Search),
    Sampling(Sampling, usize),
    /// How the model's weights are held in memory.
    Weights(Held),
    Generate,
    Pin(Pinned),
    Neurons(Statistic),
    Project(projection::Settings),
    Geometry(Directions),
    /// Settings that a view keeps for itself, by the view's name.
    View(&'static str, serde_json::Value),
    /// What is written beside a view, by its name.
    Note(&'static str, String),
}

impl State {
    /// Changes the desk under a name.
    pub(in crate::app) fn change(&mut self, name: &str, now: f64, change: impl FnOnce(&mut Desk)) {
        self.history.change(&mut self.document, name, now, |d| change(&mut d.desk));
    }

    fn type_corrupted(&mut self, text: String, now: f64) {
        let is_empty = text.is_empty();
        let change = |d: &mut Desk| (d.alignment, d.corrupted) = (None, text);
        if is_empty {
            // There is nothing to run, so it counts at once.
            self.change("take the corrupted prompt away", now, change);
        } else {
            self.type_text("type the corrupted prompt", now, change);
        }
    }

    pub(in crate::app) fn apply_model(&mut self, action: ModelAction, now: f64) {
        if matches!(action, ModelAction::Sweep(_) | ModelAction::Search(_)) && !self.runs_stand() {
            self.waiting.push(action);
            return;
        }
        match action {
            ModelAction::Prompt(text) => {
                self.type_text("type the prompt", now, |d| {
                    d.ask_plainly();
                    d.prompt = text;
                });
            }
            ModelAction::Talk(action) => self.apply_talk(action, now),
            ModelAction::Answer(text) => self.type_text("type the answer", now, |d| d.answer = text),
            ModelAction::Wrong(text) => self.type_text("type the wrong answer", now, |d| d.wrong = text),
            ModelAction::Corrupted(text) => self.type_corrupted(text, now),
            ModelAction::SwapPrompts => self.change("swap the prompts", now, |d| {
                std::mem::swap(&mut d.prompt, &mut d.corrupted);
                std::mem::swap(&mut d.answer, &mut d.wrong);
                d.ask_plainly();
            }),
            ModelAction::Align(token, counterpart) => self.align(token, counterpart, now),
            ModelAction::Show(show) => self.change(&format!("show the {} run", show.label()), now, |d| d.show = show),
            ModelAction::Edits(name, stack) => self.change(name, now, |d| set_stack(d, stack)),
            ModelAction::Toggle(base, edits) => self.toggle_edits(base, edits, now),
            ModelAction::Put(base, edits) => self.put_edits(base, edits, now),
            ModelAction::Patch(settings) => self.change("patching settings", now, |d| d.patching = settings),
            ModelAction::Sweep(cells) => {
                // Cells that were run before stay; the sweep that is wanted now says of which sweep they are.
                let known = self.results.sweep.fresh().and_then(|s| s.found.clone());
                let plain = self.sweep_wanted().ok().flatten();
                self.confirmed = plain.map(|q| SweepOf { cells, known, confirmed: true, ..q });
            }
            ModelAction::Graph(target) => self.change("trace another target", now, |d| d.graph.target = target),
            ModelAction::Attention(attention) => {
                self.change("attention in the graph", now, |d| d.graph.attention = attention);
            }
            ModelAction::OpenMlp(id) => self.change("open or close an MLP", now, |d| {
                let opened = &mut d.graph.cut.opened;
                if !opened.remove(&id) {
                    opened.insert(id);
                }
            }),
            ModelAction::CloseMlps => self.change("close all MLPs", now, |d| d.graph.cut.opened.clear()),
            ModelAction::Thresholds(shares) => {
                self.change("prune the graph", now, |d| d.graph.cut.thresholds = shares);
            }
            ModelAction::Mark(name, of, marks) => self.change(&name, now, |d| _ = d.graph.marks.insert(of, marks)),
            ModelAction::Note(view, text) => self.change(&format!("note on {view}"), now, |d| {
                if text.is_empty() {
                    d.notes.remove(view);
                } else {
                    d.notes.insert(view.to_owned(), text);
                }
            }),
            ModelAction::OpenGraph(path) => self.change("open a graph", now, |d| d.graph.file = Some(path)),
            on @ (ModelAction::AuditLinks(_)
            | ModelAction::Silent(_)
            | ModelAction::GraphSet(_)
            | ModelAction::GraphTokens(_)
            | ModelAction::GraphDirection(_)
            | ModelAction::MostFeatures(_)) => self.graph_on_features(on, now),
            ModelAction::CloseGraph => self.change("close the graph's file", now, |d| d.graph.file = None),
            ModelAction::Circuit(name, draft) => self.change_circuit(name, now, |c, _| *c = draft),
            ModelAction::Collect(member) => {
                let verb = if self.desk().draft.contains(member) { "take out" } else { "collect" };
                let name = format!("{verb} {member}");
                self.change_circuit(&name, now, |draft, wiring| {
                    if let Some(wiring) = wiring {
                        draft.toggle(member, wiring);
                    }
                });
            }
            ModelAction::AddEdge(edge) => self.change_circuit(&self.name_edge("add", edge), now, |draft, wiring| {
                if let Some(wiring) = wiring {
                    draft.add_edge(edge, wiring);
                }
            }),
            ModelAction::RemoveEdge(edge) => {
                self.change_circuit(&self.name_edge("take out", edge), now, |draft, wiring| {
                    if let Some(wiring) = wiring {
                        draft.remove_edge(edge, wiring);
                    }
                });
            }
            ModelAction::Compare(other) => self.change("compare circuits", now, |d| d.compared = other),
            ModelAction::CircuitSettings(settings) => self.change("circuit settings", now, |d| d.circuit = settings),
            ModelAction::Search(search) => self.search(search),
            ModelAction::Weights(held) => self.change("hold the weights in another way", now, |d| d.weights = held),
            ModelAction::Sampling(sampling, limit) => {
                self.change("generation settings", now, |d| (d.sampling, d.limit.0) = (sampling, limit));
            }
            ModelAction::TakeLabels => self.take_labels(),
            ModelAction::Generate => self.generates = true,
            ModelAction::Pin(new) => self.pin(new),
            ModelAction::Neurons(statistic) => self.change("rank neurons", now, |d| d.statistic = statistic),
            ModelAction::Project(settings) => self.change("projection settings", now, |d| d.projection = settings),
            ModelAction::Geometry(of) => self.change("geometry's directions", now, |d| d.geometry = of),
            ModelAction::View(view, value) => self.change(&format!("settings of {view}"), now, |d| {
                d.views.insert(view.to_owned(), value);
            }),
        }
    }

    /// A change that the prompt's runs wait for until no letter has followed for a moment.
    pub(in crate::app) fn type_text(&mut self, name: &str, now: f64, change: impl FnOnce(&mut Desk)) {
        let before = self.document.desk.clone();
        self.change(name, now, change);
        if before != self.document.desk {
            self.typing.start(now);
        }
    }

    /// Pins are not among the changes that are taken back: they say where one looks.
    pub(in crate::app) fn pin(&mut self, new: Pinned) {
        let len = self.run().map(|r| r.trace.len());
        let d = &mut self.document.desk;
        // A head that was chosen stays, even if it is the one that was shown anyway.
        d.chose_head |= new.focus == Focus::Head || d.pinned.which() != new.which();
        d.pinned = new;
        if let Some(len) = len {
            d.chose_pos = new.pos + 1 < len;
        }
    }

    fn name_edge(&self, verb: &str, edge: Edge) -> String {
        let name = self.wiring().map_or_else(|| "an edge".to_owned(), |wiring| wiring.name(edge));
        format!("{verb} {name}")
    }

    fn change_circuit(
        &mut self,
        name: &str,
        now: f64,
        change: impl FnOnce(&mut Draft, Option<crate::circuit::Wiring>),
    ) {
        let wiring = self.wiring();
        let before = self.desk().draft.clone();
        self.change(name, now, |d| change(&mut d.draft, wiring));
        if before != self.desk().draft {
            self.ranked = None;
        }
    }

    /// Whether the graph is on the features of a set, what it explains, and whether its links are put to the test.
    fn graph_on_features(&mut self, action: ModelAction, now: f64) {
        match action {
            ModelAction::AuditLinks(on) => self.change("put links to the test", now, |d| d.graph.audit = on),
            ModelAction::Silent(n) => {
                let given = (n != SILENT).then_some(n);
                self.change("leave first positions out", now, |d| d.graph.silent = given);
            }
            ModelAction::GraphSet(set) => {
                let name = if set.is_some() { "trace to features" } else { "trace to components" };
                // The same one again is read again.
                if set.is_some() && set == self.desk().graph.set && self.desk().graph.file.is_none() {
                    self.results.set.again();
                }
                self.change(name, now, |d| (d.graph.set, d.graph.file) = (set, None));
            }
            ModelAction::GraphTokens(text) => {
                if let Some(Err(e)) = self.model.as_ref().map(|m| tokens_of(m, &text)) {
                    return self.notices.push(Level::Error, e.to_string());
                }
                self.change("explain other tokens", now, |d| {
                    (d.graph.target, d.graph.tokens) = (GraphTarget::Tokens, text);
                });
            }
            ModelAction::GraphDirection(direction) => self.change("explain a direction", now, |d| {
                (d.graph.target, d.graph.direction) = (GraphTarget::Direction, Some(direction));
            }),
            ModelAction::MostFeatures(most) => self.change("trace so many features", now, |d| d.graph.most = most),
            _ => {}
        }
    }

    /// Adds edits; one that adds the same direction, or changes the same feature, at the same place gives way. The views
    /// then show the edited run.
    fn put_edits(&mut self, base: RunSide, edits: Vec<Edit>, now: f64) {
        let same = |a: &Edit, b: &Edit| match (&a.action, &b.action) {
            (Do::Add { direction: x, .. }, Do::Add { direction: y, .. })
            | (Do::Steer { direction: x, .. }, Do::Steer { direction: y, .. }) => {
                x == y && Edit { enabled: true, action: b.action.clone(), ..a.clone() } == *b
            }
            (Do::Exchange { from: x, to: y, .. }, Do::Exchange { from: v, to: w, .. }) => {
                x == v && y == w && Edit { enabled: true, action: b.action.clone(), ..a.clone() } == *b
            }
            _ => a.changes_feature_of(b),
        };
        self.edit_stack("add", base, edits, now, |stack, edits| {
            for edit in edits {
                match stack.edits.iter_mut().find(|e| same(e, &edit)) {
                    Some(e) => *e = edit,
                    None => stack.edits.push(edit),
                }
            }
        });
    }

    /// Adds edits, or takes them away if all are there; the views then show the edited run.
    fn toggle_edits(&mut self, base: RunSide, edits: Vec<Edit>, now: f64) {
        let same = |a: &Edit, b: &Edit| Edit { enabled: true, ..a.clone() } == *b;
        let stack = &self.desk().stack;
        let there = edits.iter().all(|edit| stack.edits.iter().any(|e| e.enabled && same(e, edit)));
        let verb = if there { "remove" } else { "add" };
        self.edit_stack(verb, base, edits, now, |stack, edits| {
            if there {
                stack.edits.retain(|e| !edits.iter().any(|edit| same(e, edit)));
                return;
            }
            for edit in edits {
                match stack.edits.iter_mut().find(|e| same(e, &edit)) {
                    Some(e) => e.enabled = true,
                    None => stack.edits.push(edit),
                }
            }
        });
    }

    fn edit_stack(
        &mut self,
        verb: &str,
        base: RunSide,
        edits: Vec<Edit>,
        now: f64,
        change: impl FnOnce(&mut EditStack, Vec<Edit>),
    ) {
        let stack = &self.desk().stack;
        if stack.base != base && stack.is_active() {
            let text = format!(
                "The edits now apply to the {} run; they were made for the {} one.",
                base.name(),
                base.other().name()
            );
            self.notices.push(Level::Info, text);
        }
        let name = match &edits[..] {
            [one] => format!("{verb} {one}"),
            many => format!("{verb} {} edits", many.len()),
        };
        self.change(&name, now, |d| {
            let mut stack = (*d.stack).clone();
            change(&mut stack, edits);
            stack.base = base;
            d.stack = stack.into();
            if d.stack.is_active() && d.show != Show::Difference {
                d.show = Show::Edited;
            }
        });
    }

    /// Changes the counterpart of one token of the clean prompt; its old counterpart becomes free.
    fn align(&mut self, token: usize, counterpart: Option<usize>, now: f64) {
        let Some(pair) = self.pair() else { return };
        let mut alignment = pair.alignment.clone();
        for slot in &mut alignment {
            if counterpart.is_some() && *slot == counterpart {
                *slot = None;
            }
        }
        if let Some(slot) = alignment.get_mut(token) {
            *slot = counterpart;
        }
        self.change("align a token", now, |d| d.alignment = Some(alignment));
    }
}

/// Puts a stack in place of another one; the views show the edited run when there is one.
fn set_stack(desk: &mut Desk, stack: EditStack) {
    let was_active = desk.stack.is_active();
    desk.stack = stack.into();
    if desk.stack.is_active() && (!was_active || desk.show == Show::Clean) && desk.show != Show::Difference {
        desk.show = Show::Edited;
    }
}
