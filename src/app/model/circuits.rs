//! Circuits and graphs in the window: what is asked of them, and what is saved.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::views;
use crate::analysis::metric::MetricKind;
use crate::analysis::subject::Subject;
use crate::app::shell::notices::Level;
use crate::app::state::State;
use crate::circuit::eap::EdgeScores;
use crate::circuit::file::{CircuitFile, MEASURED, PromptPair};
use crate::circuit::quality::CircuitOf;
use crate::circuit::search::{Search, SearchOf, SearchSettings, Searching};
use crate::circuit::trial::AnsweredPair;
use crate::circuit::{Edge, Wiring};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::labels::{SetLabelled, SetLabelsOf};
use crate::features::sets::SetOf;
use crate::graph::features;
use crate::graph::features::audit::ids_of;
use crate::graph::features::opened::Live;
use crate::graph::layout::{
    AuditOf, DrawingOf, FeatureGraphOf, GraphFileOf, GraphOf, OpenedOf, Origin, Shown, ShownOf,
};
use crate::graph::targets::Target;
use crate::model::Model;
use crate::session::desk::{GraphDirection, GraphTarget, Show};

/// Prompts of a set that a circuit is tried on.
pub const SET_SIZE: usize = 8;

/// Scores of the edges that a search ranked, with the run it ranked them on: what is saved carries them as long as the
/// circuit comes from that search.
pub type Ranked = (Weak<Trace>, Arc<EdgeScores>);

/// The tokens of a list with commas between them; the space before each is part of it, and `id:11` is the token 11.
///
/// # Errors
/// What is no single token.
pub fn tokens_of(model: &Model, text: &str) -> Result<Vec<u32>> {
    let one = |part: &str| match part.trim().strip_prefix("id:").and_then(|id| id.trim().parse().ok()) {
        Some(id) => model.network().check(&[id]).map(|()| id),
        None => model.single_token(part),
    };
    text.split(',').filter(|t| !t.trim().is_empty()).map(one).collect()
}

impl State {
    pub fn wiring(&self) -> Option<Wiring> {
        self.model.as_ref().map(|m| Wiring::new(&m.config))
    }

    /// What the graph view traces now.
    pub fn graph_target(&self) -> Option<Target> {
        let run = self.run()?;
        let clean = self.clean()?;
        let last = self.desk().pinned.pos + 1 == run.trace.len();
        Some(match (self.desk().graph.target, clean.answer.filter(|_| last), clean.wrong.filter(|_| last)) {
            (GraphTarget::Auto, Some(a), Some(b)) => Target::Difference(a, b),
            (GraphTarget::Auto | GraphTarget::Answer, Some(a), _) => Target::Token(a),
            _ => Target::Top,
        })
    }

    /// What is traced to the features of a set.
    fn features_target(&self) -> Option<Result<features::Target>> {
        let (model, settings) = (self.model.as_ref()?, &self.desk().graph);
        Some(match (settings.target, &settings.direction) {
            (GraphTarget::Tokens, _) => tokens_of(model, &settings.tokens).map(|ids| match ids.is_empty() {
                true => features::Target::default(),
                false => features::Target::Tokens(ids),
            }),
            (GraphTarget::Direction, Some(GraphDirection::File(path))) => Ok(features::Target::File(path.into())),
            (GraphTarget::Direction, Some(GraphDirection::Found { concept, layer })) => {
                features::Target::found(concept, *layer)
            }
            _ => Ok(match self.graph_target()? {
                Target::Top => features::Target::default(),
                Target::Token(id) => features::Target::Tokens(vec![id]),
                Target::Difference(a, b) => features::Target::Difference(a, b),
            }),
        })
    }

    /// The run whose prediction is traced: the one that is shown, if it is unedited. A graph on features stays that of the
    /// run that is edited while its features are changed.
    fn traced(&self, subject: Option<&Subject>) -> Option<Arc<Trace>> {
        let d = self.desk();
        let edited = d.stack.is_active() && matches!(d.show, Show::Edited | Show::Difference);
        if edited && d.graph.set.is_some() {
            return self.pair()?.run(d.stack.base).ok().cloned();
        }
        subject.map(|s| s.trace.clone()).filter(|t| t.edits().is_empty())
    }

    /// The set that the graph is on. A graph of a file says itself of which it is.
    pub(super) fn ask_set(&mut self) {
        let settings = &self.document.desk.graph;
        let told = self.results.graph.get().and_then(|g| match &g.value.source {
            Origin::File(file) => file.dictionary().map(str::to_owned),
            Origin::Traced { .. } | Origin::Features { .. } => None,
        });
        let spec = if settings.file.is_some() { told.or(settings.set.clone()) } else { settings.set.clone() };
        let seen = self.seen.has(&views::graph::VIEW) || self.inspector_is_seen();
        match spec.zip(self.model.clone()) {
            Some((spec, model)) => self.results.set.ask(&self.pool, Some(SetOf { model, spec }), seen),
            None => self.results.set.forget(),
        }
    }

    /// What is asked of the graph: that of a file, or of the pinned prediction. Only unedited runs are traced; the view says
    /// so.
    ///
    /// # Errors
    /// Why nothing can be asked.
    fn graph_asked(&self, subject: Option<&Subject>) -> Result<Option<ShownOf>> {
        let (settings, pos) = (&self.desk().graph, self.desk().pinned.pos);
        if let Some(path) = &settings.file {
            return Ok(Some(ShownOf::File(GraphFileOf { path: PathBuf::from(path) })));
        }
        let Some(trace) = self.traced(subject) else { return Ok(None) };
        if settings.set.is_none() {
            let attention = settings.attention;
            return Ok(self.graph_target().map(|target| ShownOf::Traced(GraphOf { trace, pos, target, attention })));
        }
        if let Some(error) = self.results.set.error() {
            return Err(Error::request(error.clone()));
        }
        let (silent, most) = (settings.silent(), settings.most);
        let set = self.results.set.fresh().map(|s| s.value.clone());
        let target = self.features_target().transpose()?;
        Ok(set
            .zip(target)
            .map(|(set, target)| ShownOf::Features(FeatureGraphOf { trace, pos, target, set, silent, most })))
    }

    /// The graph, then its picture and what is asked of both.
    pub(super) fn ask_graph(&mut self, subject: Option<&Subject>) {
        let seen = self.seen.has(&views::graph::VIEW);
        let question = self.graph_asked(subject);
        match question {
            Ok(question) => self.results.graph.ask(&self.pool, question, seen),
            Err(e) => self.results.graph.refuse(&e.to_string()),
        }
        let cut = self.document.desk.graph.cut.clone();
        let drawing = self.results.graph.fresh().map(|g| DrawingOf { shown: g.value.clone(), cut });
        self.results.drawing.ask(&self.pool, drawing, seen);
        let opened = self.results.graph.fresh().map(|g| g.value.clone()).and_then(|shown| {
            let (trace, set) = self.of_file(&shown)?;
            Some(OpenedOf { shown, trace, set })
        });
        self.results.opened.ask(&self.pool, opened, seen);
        let audit = self.audit_asked();
        self.results.audit.ask(&self.pool, audit, seen);
        let writings = self.features.labels.writings();
        let on_features = self.results.graph.get().and_then(|g| match &g.value.source {
            Origin::Features { set, .. } => Some(SetLabelsOf { set: set.clone(), writings }),
            Origin::Traced { .. } | Origin::File(_) => None,
        });
        self.results.set_labels.ask(&self.pool, on_features, seen);
    }

    /// The links that are put to the test.
    fn audit_asked(&self) -> Option<AuditOf> {
        let (graph, drawing) = (self.results.graph.fresh()?, self.results.drawing.fresh()?);
        let settings = &self.desk().graph;
        let of_file = self.of_file(&graph.value);
        let on_features = matches!(graph.value.source, Origin::Features { .. });
        if !settings.audit || !graph.whole || !(on_features || of_file.is_some()) {
            return None;
        }
        let (shown, drawing) = (graph.value.clone(), drawing.value.clone());
        let marks = settings.marks.get(&shown.key(settings.file.as_deref())).unwrap_or(&shown.marks);
        let among = marks.marked();
        Some(AuditOf { shown, drawing, among, of_file })
    }

    /// The run and the set that a graph of a file is of: where the set that it names is open, or where it names none and one
    /// is, and the prompt on screen begins with its tokens. Whether its features are that set's, the audit looks first.
    pub fn of_file(&self, shown: &Shown) -> Option<(Arc<Trace>, Arc<DictionarySet>)> {
        let Origin::File(file) = &shown.source else { return None };
        let is_of = |spec: &str| file.dictionary().is_none_or(|told| told == spec) && !file.is_of_components();
        let set = self.results.set.fresh().filter(|s| is_of(&s.question.spec))?;
        let trace = &self.clean()?.trace;
        let ids = ids_of(&shown.graph).ok()?;
        (trace.edits().is_empty() && trace.ids.starts_with(&ids)).then(|| (trace.clone(), set.value.clone()))
    }

    /// The graph whose features can be changed, with its run and its set: one that was traced here, or one of a file whose run
    /// and set are here.
    pub fn live_graph(&self) -> Option<Live> {
        match &self.results.graph.value()?.source {
            Origin::Features { trace, found, set } => {
                Some(Live { trace: trace.clone(), found: found.clone(), set: set.clone() })
            }
            Origin::File(_) => {
                let opened = self.results.opened.fresh()?;
                let OpenedOf { trace, set, .. } = opened.question.clone();
                Some(Live { trace, found: opened.value.clone(), set })
            }
            Origin::Traced { .. } => None,
        }
    }

    /// Begins to write what a file's graph calls its features into the set.
    pub(super) fn take_labels(&mut self) {
        let set = self.results.set.fresh().map(|s| s.value.clone());
        let Some((set, graph)) = set.zip(self.results.graph.fresh().map(|g| g.value.graph.clone())) else { return };
        let labels = views::graph::labels_in(&graph);
        self.results.labelled.again();
        self.results.labelled.want(&self.pool, Some(SetLabelled { set, labels }));
    }

    /// Says how many labels were taken in, and has them read.
    pub(in crate::app) fn labels_taken_in(&mut self) {
        if let Some(error) = self.results.labelled.take_error() {
            self.notices.push(Level::Error, error);
        }
        let Some(written) = self.results.labelled.take_news() else { return };
        let name = self.results.labelled.wanted().map_or_else(String::new, |q| q.set.name.clone());
        self.notices
            .push(Level::Info, format!("{written} labels were taken into {name}; those that were there stand."));
        self.features.labels.read_again();
    }

    /// What cannot be opened leaves what was open: the error is said, and the set or file before it comes back.
    pub(in crate::app) fn graph_refused(&mut self) {
        let settings = &self.document.desk.graph;
        if settings.file.is_none() && settings.set.is_none() {
            return;
        }
        let Some(before) = self.results.graph.get().map(|g| &g.question) else { return };
        let same = match (before, &settings.file) {
            (ShownOf::File(q), Some(file)) => q.path == Path::new(file),
            (ShownOf::Features(q), None) => Some(&q.set.spec) == settings.set.as_ref(),
            (ShownOf::Traced(_), None) => settings.set.is_none(),
            _ => false,
        };
        if same {
            return;
        }
        let back = match before {
            ShownOf::File(q) => (None, Some(q.path.display().to_string())),
            ShownOf::Features(q) => (Some(q.set.spec.clone()), None),
            ShownOf::Traced(_) => (None, None),
        };
        let of_set = if settings.file.is_none() { self.results.set.take_error() } else { None };
        // A prediction that cannot be traced does not keep a file from being closed.
        let traces = settings.file.is_none() && back.1.is_some();
        let of_graph = if of_set.is_some() || traces { None } else { self.results.graph.take_error() };
        let Some(error) = of_set.or(of_graph) else { return };
        self.notices.push(Level::Error, error);
        let graph = &mut self.document.desk.graph;
        (graph.set, graph.file) = back;
    }

    /// The prompts on screen, for circuits to be tried on.
    fn circuit_prompts(&self) -> Option<Vec<AnsweredPair>> {
        let (pair, run) = (self.pair()?.clone(), self.clean()?);
        let (answer, wrong) = pair.answers(run.answer, run.wrong);
        Some(vec![AnsweredPair { pair, answer, wrong }])
    }

    fn circuit_asked(&self) -> Option<CircuitOf> {
        let d = self.desk();
        Some(CircuitOf {
            prompts: self.circuit_prompts()?,
            draft: d.draft.clone(),
            metric: MetricKind::LogitDifference,
            outside: d.circuit.outside,
            set: d.circuit.set.clone().map(|name| (name, SET_SIZE)),
            curve: d.circuit.curve,
            compared: d.compared.clone(),
        })
    }

    /// How good the circuit is that is being collected, and a search that was asked for.
    pub(super) fn ask_circuit(&mut self) {
        // A search is of the runs that it was begun on.
        let prompts = self.circuit_prompts();
        self.search = self.search.take().filter(|s| prompts.as_ref() == Some(&s.prompts));
        self.results.search.want(&self.pool, self.search.clone());
        if self.desk().draft.is_empty() {
            self.results.tried.forget();
            return;
        }
        // The status line shows it as well.
        let seen = self.seen.bars || self.seen.has(&views::circuit::VIEW);
        let question = self.circuit_asked();
        self.results.tried.ask(&self.pool, question, seen);
    }

    /// Takes in a circuit that was found.
    pub(in crate::app) fn search_arrived(&mut self, now: f64) {
        let Some(answer) = self.results.search.take_news() else { return };
        let Searching::Found(found) = &*answer else { return };
        self.notices.push(
            Level::Info,
            format!(
                "Found a circuit of {} components and {} edges in {:.1} s; faithfulness {:.3} of the {}.",
                found.draft.nodes.len(),
                found.draft.edges.len(),
                found.seconds,
                found.faithfulness,
                found.metric.label()
            ),
        );
        self.ranked = self.clean().map(|r| Arc::downgrade(&r.trace)).zip(found.scores.clone());
        let draft = found.draft.clone();
        self.search = None;
        // The answer holds the runs that it is of.
        self.results.search.forget();
        self.change("find a circuit", now, |d| d.draft = draft);
    }

    /// Begins a search.
    pub(super) fn search(&mut self, search: Search) {
        let settings = SearchSettings { outside: self.desk().circuit.outside, ..search.into() };
        self.search = self.circuit_prompts().map(|prompts| SearchOf { prompts, settings });
        self.results.search.again();
    }

    /// The collected circuit as a file's name and bytes.
    ///
    /// # Errors
    /// No model, no prompt, or an empty circuit.
    pub fn circuit_file(&self) -> Result<(String, Vec<u8>)> {
        let (Some(model), Some(pair)) = (&self.model, self.pair()) else {
            return Err(Error::request("a circuit is saved with its prompts; run them first"));
        };
        let d = self.desk();
        let edges = d.draft.circuit(Wiring::new(&model.config))?;
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
        let mut origin = d.draft.origin.replace(MEASURED, "");
        if origin.is_empty() {
            "collected by hand".clone_into(&mut origin);
        }
        // Scores are the search's where it ranked every edge, else what was measured of each edge here.
        let drops: HashMap<Edge, f32> = match self.results.tried.fresh() {
            Some(t) => t.quality.edges.iter().copied().collect(),
            None => HashMap::new(),
        };
        let searched = self.ranked.as_ref().filter(|(on, _)| on.upgrade().as_ref() == Some(&pair.clean)).map(|s| &s.1);
        if searched.is_none() && !drops.is_empty() {
            origin += MEASURED;
        }
        let score = |edge: Edge| match searched {
            Some(scores) => scores.get(edge),
            None => drops.get(&edge).copied().unwrap_or(0.0),
        };
        let kind = MetricKind::LogitDifference;
        let file = CircuitFile::new(model, vec![prompt], kind, d.circuit.outside, origin, &edges, score);
        let bytes = serde_json::to_vec_pretty(&file).map_err(|e| Error::failed(e.to_string()))?;
        Ok(("circuit.json".to_owned(), bytes))
    }
}
