//! The search for a circuit, as the window and the command line both run it.
//!
//! Two ideas compete. Edge attribution patching estimates by gradients what every edge is worth, all at once
//! ([`super::eap`]); the circuit is the best of the ranking, and since gradients are estimates, the borderline may be
//! measured again exactly ([`super::find::refine`]). ACDC [Conmy et al. 2023] goes through the edges from the output
//! backwards and removes each that the metric does not miss ([`super::acdc`]): exact, and slower.
//!
//! One metric serves for all of a search: edges are chosen by it, and the faithfulness of what was found is its share.
//! Over several prompts means count.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Edges;
use super::acdc::acdc;
use super::draft::Draft;
use super::eap::{EdgeScores, Path};
use super::find::{Runs, Step, edges_above, refine, removals, top_edges};
use super::trial::{AnsweredPair, Scale, mean_scores, trials};
use super::wiring::{Edge, Wiring};
use crate::analysis::metric::MetricKind;
use crate::analysis::patching::Ablation;
use crate::analysis::plan::{Planned, cost};
use crate::cost::Cost;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What stands outside a circuit unless somebody says otherwise: the corrupted run, whose activations are the model's own.
pub const OUTSIDE: Ablation = Ablation::Resample;

/// How edges are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search {
    /// The `edges` of largest |score|. `rescore` begins with more and measures exactly which can go.
    Scores { path: Path, edges: usize, rescore: bool },
    /// All edges whose |score| reaches a threshold.
    Above { path: Path, threshold: f32 },
    /// Edge by edge: an edge goes if that changes the metric by less than the threshold.
    Acdc { threshold: f32 },
}

impl Search {
    /// The metric of a search unless somebody says otherwise. ACDC's authors search by the KL divergence from the whole
    /// model; scores are those of the logit difference.
    pub fn metric(self) -> MetricKind {
        match self {
            Self::Acdc { .. } => MetricKind::Kl,
            Self::Scores { .. } | Self::Above { .. } => MetricKind::LogitDifference,
        }
    }
}

/// Removals of an edge that take as long as a pass over the prompt: they reach only what is left of the circuit above it.
const REMOVALS_A_PASS: usize = 10;

impl Search {
    /// Whether it can be done. `known` says that edges have their scores.
    ///
    /// # Errors
    /// A size of no edges, a path of no steps, or scores for ACDC, which has none.
    fn check(self, known: bool) -> Result<()> {
        match self {
            Self::Acdc { .. } if known => {
                Err(Error::request("acdc measures every edge and takes no scores; leave --scores out"))
            }
            Self::Acdc { .. } => Ok(()),
            Self::Scores { edges: 0, .. } => {
                Err(Error::request("a circuit of no edges explains nothing; ask for at least one"))
            }
            Self::Scores { path, .. } | Self::Above { path, .. } => path.check(),
        }
    }

    /// What a search takes on `pairs` pairs of prompts of up to `n` tokens. `known` says that edges have their scores.
    /// Removals are guessed from what they took on SmolLM2.
    ///
    /// # Errors
    /// What cannot be searched.
    pub fn cost(self, model: &Model, n: usize, pairs: usize, known: bool) -> Result<Cost> {
        self.check(known)?;
        Ok(self.reckoned(model, n, pairs, known))
    }

    fn reckoned(self, model: &Model, n: usize, pairs: usize, known: bool) -> Cost {
        let all = Wiring::new(&model.config).n_edges();
        let (path, removed) = match self {
            Self::Scores { path, edges, rescore: true } => (Some(path), removals(edges.min(all), all)),
            Self::Scores { path, .. } | Self::Above { path, .. } => (Some(path), 0),
            Self::Acdc { .. } => (None, all),
        };
        let tried = cost(model, n, Planned::Circuits { circuits: 1 + removed / REMOVALS_A_PASS });
        let scored = path.filter(|_| !known).map(|path| {
            let steps = if let Path::Integrated(steps) = path { steps } else { 1 };
            cost(model, n, Planned::Edges { steps })
        });
        let one = scored.map_or(tried, |scored| scored.then(tried));
        // The runs of all pairs are kept.
        Cost { work: one.work * pairs as u64, ..one.times(pairs) }
    }
}

/// Everything about a search but its prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchSettings {
    pub search: Search,
    /// What edges are chosen by and faithfulness is a share of.
    pub metric: MetricKind,
    /// What stands in for everything outside the circuit.
    pub outside: Ablation,
}

impl From<Search> for SearchSettings {
    /// A search with the metric and the ablation that are its default.
    fn from(search: Search) -> Self {
        Self { search, metric: search.metric(), outside: OUTSIDE }
    }
}

/// A circuit that was found.
#[derive(Clone, Debug)]
pub struct FoundCircuit {
    pub edges: Edges,
    /// The same to be worked on, with where it came from.
    pub draft: Draft,
    /// What ranked its edges; none for ACDC, which ranks nothing.
    pub scores: Option<Arc<EdgeScores>>,
    /// Without scores, what faithfulness loses without each edge.
    pub losses: HashMap<Edge, f32>,
    /// The metric that it was searched by.
    pub metric: MetricKind,
    /// Share of the metric's distance that it covers; the mean over the prompts.
    pub faithfulness: f32,
    /// The metric's two ends on the first prompt.
    pub scale: Scale,
    pub seconds: f64,
}

impl FoundCircuit {
    /// The score of one of its edges, or its loss where nothing ranked it.
    pub fn score(&self, edge: Edge) -> f32 {
        match &self.scores {
            Some(scores) => scores.get(edge),
            None => self.losses.get(&edge).copied().unwrap_or(0.0),
        }
    }
}

/// Searches a circuit; `on_step` is told how far it is.
///
/// # Errors
/// No prompts, prompts that cannot be compared, a metric that their answers do not give, a size of no edges, a threshold
/// below zero, or [`Error::Cancelled`].
pub fn search(
    prompts: &[AnsweredPair],
    settings: SearchSettings,
    progress: &Progress,
    on_step: &mut dyn FnMut(&Step),
) -> Result<FoundCircuit> {
    search_by(None, prompts, settings, progress, on_step)
}

/// As [`search`], by scores that are known already.
///
/// # Errors
/// As there; ACDC, which has no scores.
pub fn search_by(
    known: Option<Arc<EdgeScores>>,
    prompts: &[AnsweredPair],
    settings: SearchSettings,
    progress: &Progress,
    on_step: &mut dyn FnMut(&Step),
) -> Result<FoundCircuit> {
    let started = Instant::now();
    settings.search.check(known.is_some())?;
    if let Some(first) = prompts.first() {
        let longest = prompts.iter().map(|p| p.pair.clean.len()).max().unwrap_or(0);
        let model = &first.pair.clean.model;
        progress.needs(|| {
            let whole = settings.search.reckoned(model, longest, prompts.len(), known.is_some());
            // The runs are there.
            let held = (prompts.len() * 2 * Trace::bytes_for(model, longest)) as u64;
            Cost { work: whole.work.saturating_sub(held), ..whole }
        })?;
    }
    let trials = trials(prompts, settings.metric, settings.outside, progress)?;
    let scored = |path| match &known {
        Some(scores) => Ok::<_, Error>(scores.clone()),
        None => Ok(Arc::new(mean_scores(&trials, path, progress)?)),
    };
    let (edges, origin, scores) = match settings.search {
        Search::Scores { path, edges: n, rescore: true } => {
            let scores = scored(path)?;
            let edges = refine(&trials, &scores, n, progress, on_step)?;
            (edges, format!("{path}, re-scored exactly to {n} edges"), Some(scores))
        }
        Search::Scores { path, edges: n, rescore: false } => {
            let scores = scored(path)?;
            (top_edges(&scores, n), format!("{path}, top {n} edges"), Some(scores))
        }
        Search::Above { path, threshold } => {
            let scores = scored(path)?;
            (edges_above(&scores, threshold), format!("{path}, |score| ≥ {threshold}"), Some(scores))
        }
        Search::Acdc { threshold } => {
            let on: Vec<_> = trials.iter().map(|t| (&t.ablated, &t.readout)).collect();
            let edges = acdc(&on, threshold, progress, |s| {
                on_step(&Step { edges: s.left, faithfulness: f32::NAN });
            })?;
            (edges, format!("ACDC, threshold {threshold}"), None)
        }
    };
    let runs = Runs::of(&trials, &edges, progress)?;
    let faithfulness = runs.faithfulness(progress)?;
    let mut losses = HashMap::new();
    if scores.is_none() {
        let list: Vec<Edge> = runs.edges().iter().collect();
        let without = runs.without_each(&list, progress)?;
        losses.extend(list.into_iter().zip(without).map(|(e, f)| (e, faithfulness - f)));
    }
    Ok(FoundCircuit {
        draft: Draft::of(&edges, origin),
        edges,
        scores,
        losses,
        metric: settings.metric,
        faithfulness,
        scale: trials[0].scale,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Asks for a circuit.
#[derive(Clone, PartialEq)]
pub struct SearchOf {
    pub prompts: Vec<AnsweredPair>,
    pub settings: SearchSettings,
}

/// How far a search is, and at the end what it found.
#[derive(Clone, Debug)]
pub enum Searching {
    Step(Step),
    Found(Box<FoundCircuit>),
}

impl Question for SearchOf {
    type Answer = Searching;
    const LABEL: &'static str = "searching a circuit";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Searching)) -> Result<Searching> {
        let on_step = &mut |step: &Step| partial(Searching::Step(step.clone()));
        search(&self.prompts, self.settings, progress, on_step).map(|found| Searching::Found(Box::new(found)))
    }
}
