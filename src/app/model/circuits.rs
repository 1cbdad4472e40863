//! Circuits and graphs in the window: what is asked of them, and what is saved.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

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
use crate::graph::layout::{AuditOf, DrawingOf, FeatureGraphOf, GraphFileOf, GraphOf, Origin, ShownOf};
use crate::graph::targets::Target;
use crate::session::desk::{GraphTarget, Show};

/// Prompts of a set that a circuit is tried on.
pub const SET_SIZE: usize = 8;

/// Scores of the edges that a search ranked, with the run it ranked them on: what is saved carries them as long as the
/// circuit comes from that search.
pub type Ranked = (Arc<Trace>, Arc<EdgeScores>);

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

    /// The graph of a file, or of the pinned prediction; then its picture.
    pub(super) fn ask_graph(&mut self, subject: Option<&Subject>) {
        let seen = self.seen.has(&views::graph::VIEW);
        let settings = &self.document.desk.graph;
        let question = match &settings.file {
            Some(path) => Some(ShownOf::File(GraphFileOf { path: PathBuf::from(path) })),
            // Only unedited runs are traced; the view says so.
            None => self.traced(subject).zip(self.graph_target()).map(|(trace, target)| {
                let (pos, attention) = (self.document.desk.pinned.pos, settings.attention);
                match &settings.set {
                    Some(spec) => {
                        let (spec, silent) = (spec.clone(), settings.silent());
                        ShownOf::Features(FeatureGraphOf { trace, pos, target, spec, silent })
                    }
                    None => ShownOf::Traced(GraphOf { trace, pos, target, attention }),
                }
            }),
        };
        let cut = settings.cut.clone();
        self.results.graph.ask(&self.pool, question, seen);
        let drawing = self.results.graph.fresh().map(|g| DrawingOf { shown: g.value.clone(), cut });
        self.results.drawing.ask(&self.pool, drawing, seen);
        let graph = self.results.graph.fresh().zip(self.results.drawing.fresh());
        let audit = graph.filter(|(g, _)| self.desk().graph.audit && matches!(g.value.source, Origin::Features { .. }));
        let audit = audit.map(|(g, d)| {
            let (shown, drawing) = (g.value.clone(), d.value.clone());
            let settings = &self.document.desk.graph;
            let marks = settings.marks.get(&shown.key(settings.file.as_deref())).unwrap_or(&shown.marks);
            let among = marks.marked();
            AuditOf { shown, drawing, among }
        });
        self.results.audit.ask(&self.pool, audit, seen);
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
        self.ranked = self.clean().map(|r| r.trace.clone()).zip(found.scores.clone());
        let draft = found.draft.clone();
        self.search = None;
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
        let searched = self.ranked.as_ref().filter(|(on, _)| *on == pair.clean).map(|s| &s.1);
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
