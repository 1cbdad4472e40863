//! The part of the state that is about circuits: the traced graph, the cart, and what is asked of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::analysis::metric::MetricKind;
use crate::analysis::patching::Ablation;
use crate::app::action::Action;
use crate::app::shell::notices::Level;
use crate::app::state::Slot;
use crate::app::state::State;
use crate::circuit::cart::Cart;
use crate::circuit::eap::EdgeScores;
use crate::circuit::file::{CircuitFile, MEASURED, PromptPair};
use crate::circuit::quality::CircuitOf;
use crate::circuit::search::{OUTSIDE, Search, SearchOf, SearchSettings};
use crate::circuit::trial::AnsweredPair;
use crate::circuit::{Edge, Wiring};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::graph::layout::Cut;
use crate::graph::prune::{EDGE_THRESHOLD, NODE_THRESHOLD};
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::jobs::circuits::Searched;
use crate::jobs::{Kind, Request};

/// Which prediction the graph view traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GraphTarget {
    /// The answer against the wrong answer where both are given, else the answer, else the top logits.
    #[default]
    Auto,
    Top,
    Answer,
}

impl GraphTarget {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Auto, "answer − wrong"), (Self::Answer, "answer"), (Self::Top, "top logits")];
}

/// How circuits are tried.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitSettings {
    pub outside: Ablation,
    /// The prompt set that circuits are tried on as well.
    pub set: Option<String>,
    pub curve: bool,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self { outside: OUTSIDE, set: None, curve: false }
    }
}

/// Changes of the cart that can be taken back.
const UNDO: usize = 50;

/// Prompts of a set that a circuit is tried on.
pub const SET_SIZE: usize = 8;

pub struct CircuitState {
    /// Whether the graph view has been looked at: until then nothing is traced.
    pub wants_graph: bool,
    pub target: GraphTarget,
    pub attention: Attention,
    pub cut: Cut,
    /// The graph is of a file.
    pub file: Option<String>,
    pub settings: CircuitSettings,
    /// Carts as they were before they were changed, the last one last.
    pub undo: Vec<Cart>,
    /// Scores of the edges that the last search ranked, with the run it ranked them on: what is saved carries them as long
    /// as the circuit comes from that search.
    pub scores: Option<(Arc<Trace>, Arc<EdgeScores>)>,
    /// Another circuit to compare the cart with, and what it is called.
    pub compared: Option<(String, Cart)>,
}

impl Default for CircuitState {
    fn default() -> Self {
        Self {
            wants_graph: false,
            target: GraphTarget::default(),
            attention: Attention::default(),
            cut: Cut { thresholds: (NODE_THRESHOLD, EDGE_THRESHOLD), opened: BTreeSet::new() },
            undo: Vec::new(),
            scores: None,
            compared: None,
            file: None,
            settings: CircuitSettings::default(),
        }
    }
}

impl State {
    pub fn apply_circuit(&mut self, action: Action) {
        match action {
            Action::TraceGraph => {
                self.circuits.wants_graph = true;
                self.request_graph();
            }
            Action::GraphTarget(target) => {
                self.circuits.target = target;
                self.request_graph();
            }
            Action::GraphAttention(attention) => {
                self.circuits.attention = attention;
                self.request_graph();
            }
            Action::GraphThresholds(node, edge) => {
                self.circuits.cut.thresholds = (node, edge);
                self.request_drawing();
            }
            Action::CloseMlps if !self.circuits.cut.opened.is_empty() => {
                self.circuits.cut.opened.clear();
                self.request_drawing();
            }
            Action::OpenMlp(id) => {
                let opened = &mut self.circuits.cut.opened;
                if !opened.remove(&id) {
                    opened.insert(id);
                }
                self.request_drawing();
            }
            Action::OpenGraph(path) => {
                self.circuits.wants_graph = true;
                self.circuits.file = Some(path.clone());
                self.forget_graph();
                self.worker.submit(Request::OpenGraph { path: path.into() });
            }
            Action::CloseGraph => {
                self.circuits.file = None;
                self.forget_graph();
                self.request_graph();
            }
            Action::SetCart(cart) => {
                self.circuits.scores = None;
                self.set_cart(cart);
            }
            Action::UndoCart => {
                if let Some(cart) = self.circuits.undo.pop() {
                    self.circuits.scores = None;
                    self.show_cart(cart);
                }
            }
            Action::CompareCart(other) => {
                self.circuits.compared = other;
                self.request_quality();
            }
            Action::ToggleCart(member) => {
                if let Some(wiring) = self.wiring() {
                    let mut cart = self.document.cart.clone();
                    cart.toggle(member, wiring);
                    self.set_cart(cart);
                }
            }
            Action::AddCartEdge(edge) => {
                if let Some(wiring) = self.wiring() {
                    let mut cart = self.document.cart.clone();
                    cart.add_edge(edge, wiring);
                    self.set_cart(cart);
                }
            }
            Action::RemoveCartEdge(edge) => {
                if let Some(wiring) = self.wiring() {
                    let mut cart = self.document.cart.clone();
                    cart.remove_edge(edge, wiring);
                    self.set_cart(cart);
                }
            }
            Action::CircuitSettings(settings) => {
                self.circuits.settings = settings;
                self.request_quality();
            }
            Action::SearchCircuit(search) => self.request_search(search),
            _ => {}
        }
    }

    /// Neither the graph nor one that is on its way is wanted any more.
    fn forget_graph(&mut self) {
        self.worker.withdraw(|k| matches!(k, Kind::Graph | Kind::GraphFile | Kind::Drawing));
        self.results.graph = Slot::default();
        self.results.drawing = Slot::default();
    }

    pub fn wiring(&self) -> Option<Wiring> {
        self.model.as_ref().map(|m| Wiring::new(&m.config))
    }

    fn set_cart(&mut self, cart: Cart) {
        if cart != self.document.cart {
            if self.circuits.undo.len() == UNDO {
                self.circuits.undo.remove(0);
            }
            self.circuits.undo.push(self.document.cart.clone());
        }
        self.show_cart(cart);
    }

    fn show_cart(&mut self, cart: Cart) {
        self.document.cart = cart;
        self.results.searching.error = None;
        self.request_quality();
    }

    /// What the graph view traces now.
    pub fn graph_target(&self) -> Option<Target> {
        let run = self.run()?;
        let clean = self.clean()?;
        let last = self.selection.pinned.pos + 1 == run.trace.len();
        Some(match (self.circuits.target, clean.answer.filter(|_| last), clean.wrong.filter(|_| last)) {
            (GraphTarget::Auto, Some(a), Some(b)) => Target::Difference(a, b),
            (GraphTarget::Auto | GraphTarget::Answer, Some(a), _) => Target::Token(a),
            _ => Target::Top,
        })
    }

    /// Asks for the graph of the pinned prediction, if anybody looks at it.
    pub fn request_graph(&mut self) {
        if !self.circuits.wants_graph || self.circuits.file.is_some() {
            return;
        }
        let (Some(subject), Some(target)) = (self.subject(), self.graph_target()) else { return };
        self.worker.withdraw(|k| k == Kind::Drawing);
        self.results.graph.outdate();
        self.results.drawing.outdate();
        let pos = self.selection.pinned.pos;
        let attention = self.circuits.attention;
        self.worker.submit(Request::Graph { trace: subject.trace, pos, target, attention });
    }

    pub fn request_drawing(&mut self) {
        if let Some(shown) = self.results.graph.get().map(|r| r.value.clone()) {
            self.worker.submit(Request::Drawing { shown, cut: self.circuits.cut.clone() });
        }
    }

    /// Takes the pinned head apart.
    pub fn request_why(&mut self) {
        self.worker.withdraw(|k| k == Kind::Why);
        self.results.why.outdate();
        let pinned = self.selection.pinned;
        let asked = self.subject().zip(pinned.head.filter(|_| !pinned.all_heads));
        let plain = |t: &Trace| pinned.pos < t.len() && t.edits().is_empty();
        let Some((subject, head)) = asked.filter(|(s, _)| plain(&s.trace)) else {
            // What stood there is another run's.
            self.results.why = Slot::default();
            return;
        };
        let key = pinned.key.filter(|k| *k <= pinned.pos);
        self.worker.submit(Request::Why { trace: subject.trace, layer: pinned.layer, head, query: pinned.pos, key });
    }

    /// The prompts on screen, for circuits to be tried on.
    fn circuit_prompts(&self) -> Option<Vec<AnsweredPair>> {
        let (pair, run) = (self.pair()?.clone(), self.clean()?);
        let (answer, wrong) = pair.answers(run.answer, run.wrong);
        Some(vec![AnsweredPair { pair, answer, wrong }])
    }

    /// Tries the cart's circuit, if there is one.
    pub fn request_quality(&mut self) {
        self.worker.withdraw(|k| k == Kind::Quality);
        self.results.tried.outdate();
        if self.document.cart.is_empty() {
            self.results.tried = Slot::default();
            return;
        }
        let (Some(pair), Some(prompts)) = (self.pair().cloned(), self.circuit_prompts()) else { return };
        let s = self.circuits.settings.clone();
        let question = CircuitOf {
            prompts,
            cart: self.document.cart.clone(),
            metric: MetricKind::LogitDifference,
            outside: s.outside,
            set: s.set.map(|name| (name, SET_SIZE)),
            curve: s.curve,
            compared: self.circuits.compared.clone(),
        };
        self.worker.submit(Request::Quality { pair, question });
    }

    fn request_search(&mut self, search: Search) {
        self.results.searching = Slot::default();
        let (Some(pair), Some(prompts)) = (self.pair().cloned(), self.circuit_prompts()) else { return };
        let settings = SearchSettings { outside: self.circuits.settings.outside, ..search.into() };
        self.worker.submit(Request::Search { pair, question: SearchOf { prompts, settings } });
    }

    pub fn searched(&mut self, found: Searched) {
        self.results.searching = Slot::default();
        self.notices.push(
            Level::Info,
            format!(
                "Found a circuit of {} components and {} edges in {:.1} s; faithfulness {:.3} of the {}.",
                found.cart.nodes.len(),
                found.cart.edges.len(),
                found.seconds,
                found.faithfulness,
                found.metric.label()
            ),
        );
        self.circuits.scores = self.clean().map(|r| r.trace.clone()).zip(found.scores);
        self.set_cart(found.cart);
    }

    /// The cart as a file's name and bytes.
    ///
    /// # Errors
    /// No model, no prompt, or an empty cart.
    pub fn circuit_file(&self) -> Result<(String, Vec<u8>)> {
        let (Some(model), Some(pair)) = (&self.model, self.pair()) else {
            return Err(Error::request("a circuit is saved with its prompts; run them first"));
        };
        let d = &self.document;
        let edges = d.cart.circuit(Wiring::new(&model.config))?;
        let metric = self.metric(MetricKind::LogitDifference)?;
        let [answer_id, wrong_id] = match metric.tokens()[..] {
            [a, b] => [Some(a), Some(b)],
            _ => [None, None],
        };
        let text = |id: Option<u32>| id.map(|id| model.token_text(id));
        let prompt = PromptPair {
            clean: d.prompt.clone(),
            corrupt: d.corrupted.clone(),
            clean_ids: pair.clean.ids.clone(),
            corrupt_ids: pair.corrupted.as_ref().map(|t| t.ids.clone()).unwrap_or_default(),
            answer: text(answer_id),
            wrong: text(wrong_id),
            answer_id,
            wrong_id,
        };
        let mut origin = d.cart.origin.replace(MEASURED, "");
        if origin.is_empty() {
            "collected by hand".clone_into(&mut origin);
        }
        // Scores are the search's where it ranked every edge, else what was measured of each edge here.
        let drops: HashMap<Edge, f32> = match self.results.tried.get() {
            Some(t) if t.fresh => t.value.quality.edges.iter().copied().collect(),
            _ => HashMap::new(),
        };
        let searched = self.circuits.scores.as_ref().filter(|(on, _)| Arc::ptr_eq(on, &pair.clean)).map(|s| &s.1);
        if searched.is_none() && !drops.is_empty() {
            origin += MEASURED;
        }
        let score = |edge: Edge| match searched {
            Some(scores) => scores.get(edge),
            None => drops.get(&edge).copied().unwrap_or(0.0),
        };
        let outside = self.circuits.settings.outside;
        let kind = MetricKind::LogitDifference;
        let file = CircuitFile::new(model, vec![prompt], kind, outside, origin, &edges, score);
        let bytes = serde_json::to_vec_pretty(&file).map_err(|e| Error::failed(e.to_string()))?;
        Ok(("circuit.json".to_owned(), bytes))
    }
}
