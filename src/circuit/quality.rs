//! How good a circuit is.
//!
//! A good circuit is faithful, complete and minimal [Wang et al. 2022]. Faithful: alone it does what the model does
//! (faithfulness near 1, see [`super::trial`]). Complete: nothing that matters is left outside, so its complement, all
//! other edges alone, does nothing (faithfulness near 0). Minimal: without any member it does worse; each member's worth
//! is the faithfulness that is lost without it.
//!
//! A ranking of edges is judged by the circuits of all sizes that it gives: the curve of faithfulness over the share of
//! edges, with the area under it (CPR) and the area between it and 1 (CMD) [MIB, Mueller et al. 2025].

use std::sync::Arc;
use std::time::Instant;

use super::draft::Draft;
use super::eap::{EdgeScores, Path, STEPS};
use super::edges::Edges;
use super::file::{Overlap, PromptPair};
use super::find::{Runs, top_edges};
use super::prompt_set::PromptSet;
use super::trial::{AnsweredPair, Scale, Trial, mean_scores, means, trials};
use super::wiring::{Edge, Member, Wiring};
use crate::analysis::component::Component;
use crate::analysis::metric::MetricKind;
use crate::analysis::patching::Ablation;
use crate::analysis::plan::{Planned, cost_on_run};
use crate::cost::Cost;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What can be said of a circuit, as means over the prompts it was tried on.
#[derive(Clone, Debug)]
pub struct Quality {
    pub faithfulness: f32,
    /// The complement's faithfulness: small if the circuit holds everything that matters.
    pub completeness: f32,
    /// (faithfulness, the metric's two ends) on each prompt.
    pub prompts: Vec<(f32, Scale)>,
    /// Loss of faithfulness without each component (of an MLP of which some neurons belong to the circuit, without each
    /// of these), and without each edge; largest first.
    pub members: Vec<(Member, f32)>,
    pub edges: Vec<(Edge, f32)>,
    /// Edges that lie on a path from the embedding to the logits.
    pub size: usize,
    pub seconds: f64,
}

/// Runs a circuit, its complement, and the circuit without each member.
///
/// # Errors
/// No prompts; [`Error::Cancelled`].
pub fn quality(trials: &[Trial<'_>], circuit: &Edges, progress: &Progress) -> Result<Quality> {
    let started = Instant::now();
    let runs = Runs::of(trials, circuit, progress)?;
    let by_prompt = runs.by_prompt(progress)?;
    let faithfulness = by_prompt.iter().sum::<f32>() / by_prompt.len() as f32;
    let edges: Vec<Edge> = runs.edges().iter().collect();
    let w = circuit.wiring;
    let members: Vec<Member> = runs
        .edges()
        .components()
        .iter()
        .filter(|s| *s > 0)
        .flat_map(|s| match w.sender_at(s) {
            Component::Mlp { layer } if runs.edges().neurons(layer).is_some() => {
                let neurons = runs.edges().neurons(layer).into_iter().flatten();
                neurons.map(|neuron| Member::Neuron { layer, neuron: *neuron }).collect()
            }
            whole => vec![Member::Component(whole)],
        })
        .collect();
    progress.expect(((edges.len() + members.len()) * trials.len()) as u64);
    let completeness = Runs::of(trials, &circuit.complement(), progress)?.faithfulness(progress)?;
    let without: Vec<Edges> = members
        .iter()
        .map(|member| {
            let mut fewer = runs.edges().clone();
            match *member {
                Member::Neuron { layer, neuron } => fewer.remove_neuron(layer, neuron),
                Member::Component(c) => fewer.touching(c).into_iter().for_each(|e| fewer.remove(e)),
            }
            fewer
        })
        .collect();
    fn largest_first<T>(mut drops: Vec<(T, f32)>) -> Vec<(T, f32)> {
        drops.sort_by(|a, b| b.1.total_cmp(&a.1));
        drops
    }
    let drops = runs.variants(&without, progress)?;
    let members = members.into_iter().zip(drops).map(|(m, f)| (m, faithfulness - f)).collect();
    let drops = runs.without_each(&edges, progress)?;
    let size = edges.len();
    let edges = edges.into_iter().zip(drops).map(|(e, f)| (e, faithfulness - f)).collect();
    Ok(Quality {
        faithfulness,
        completeness,
        prompts: by_prompt.into_iter().zip(trials.iter().map(|t| t.scale)).collect(),
        members: largest_first(members),
        edges: largest_first(edges),
        size,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Two circuits side by side, on the same prompts.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub overlap: Overlap,
    /// Edges of the other.
    pub other_edges: usize,
    pub other_faithfulness: f32,
    /// Of what both have.
    pub shared_faithfulness: f32,
}

impl Comparison {
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn of(trials: &[Trial<'_>], a: &Edges, b: &Edges, progress: &Progress) -> Result<Self> {
        let faithfulness = |e: &Edges| Runs::of(trials, e, progress)?.faithfulness(progress);
        Ok(Self {
            overlap: Overlap::of(a, b),
            other_edges: b.len(),
            other_faithfulness: faithfulness(b)?,
            shared_faithfulness: faithfulness(&a.shared(b))?,
        })
    }
}

/// Shares of all edges at which the curve is taken [MIB].
pub const SIZES: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// Faithfulness of circuits of growing size.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// (share of all edges, edges left after pruning, faithfulness)
    pub points: Vec<(f64, usize, f32)>,
    /// Area under faithfulness.
    pub cpr: f64,
    /// Area between faithfulness and 1.
    pub cmd: f64,
}

/// The curve of the circuits that scores give.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn curve(
    trials: &[Trial<'_>],
    scores: &EdgeScores,
    progress: &Progress,
    mut on_point: impl FnMut(f64, f32),
) -> Result<Curve> {
    let n = scores.wiring.n_edges();
    let mut points = Vec::new();
    progress.expect(SIZES.len() as u64);
    for share in SIZES {
        let edges = top_edges(scores, ((share * n as f64).round() as usize).clamp(1, n));
        let runs = Runs::of(trials, &edges, progress)?;
        let f = runs.faithfulness(progress)?;
        on_point(share, f);
        points.push((share, runs.edges().len(), f));
        progress.step(1)?;
    }
    Ok(Curve::through(points))
}

impl Curve {
    /// The trapezoid rule over the shares.
    pub fn through(points: Vec<(f64, usize, f32)>) -> Self {
        let area = |f: &dyn Fn(f32) -> f64| -> f64 {
            points.windows(2).map(|w| (w[1].0 - w[0].0) * (f(w[0].2) + f(w[1].2)) / 2.0).sum()
        };
        let (cpr, cmd) = (area(&|v| f64::from(v)), area(&|v| f64::from((1.0 - v).abs())));
        Self { points, cpr, cmd }
    }
}

/// Asks how good a circuit is.
#[derive(Clone, PartialEq)]
pub struct CircuitOf {
    /// What it is tried on; several count by their mean.
    pub prompts: Vec<AnsweredPair>,
    pub draft: Draft,
    pub metric: MetricKind,
    /// What stands in for everything outside the circuit.
    pub outside: Ablation,
    /// A prompt set on whose prompts it is tried as well, each by itself, and how many of them.
    pub set: Option<(String, usize)>,
    /// Whether the curve over sizes is wanted, where there are corrupted prompts.
    pub curve: bool,
    /// The name of another circuit to compare it with, and that circuit.
    pub compared: Option<(String, Draft)>,
}

/// A circuit that was tried.
#[derive(Clone)]
pub struct Tried {
    pub question: CircuitOf,
    pub quality: Quality,
    /// The prompts of the set with the circuit's faithfulness on each; NaN where the model has nothing to explain.
    pub set: Vec<(PromptPair, f32)>,
    /// Why the set could not be used.
    pub set_error: Option<String>,
    pub curve: Option<Curve>,
    /// Why there is no curve.
    pub curve_error: Option<String>,
    /// How it stands to the other circuit, or why that cannot be said.
    pub compared: Option<std::result::Result<Comparison, String>>,
    /// Nothing is still to come.
    pub done: bool,
}

/// The metric by which a circuit is tried that was found by another. The KL divergence, by which ACDC searches, says
/// nothing of an answer: where all prompts have answers (`answered`), the logit difference takes its place.
pub fn metric_of_trial(found: MetricKind, answered: bool) -> MetricKind {
    match found {
        MetricKind::Kl if answered => MetricKind::LogitDifference,
        other => other,
    }
}

/// Turns an error into a sentence beside the rest of the answer. A cancellation stays one.
fn beside<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Err(Error::Cancelled) => Err(Error::Cancelled),
        other => Ok(other.map_err(|e| e.to_string())),
    }
}

/// Generates a set's prompts for a model and runs them.
fn set_runs(model: &Arc<Model>, name: &str, n: usize, progress: &Progress) -> Result<Vec<(PromptPair, AnsweredPair)>> {
    let prompts = PromptSet::open(name)?.generate(model, n, 0, progress)?.pairs;
    prompts.into_iter().map(|p| AnsweredPair::run(&p, model, progress).map(|runs| (p, runs))).collect()
}

impl CircuitOf {
    /// The circuit itself, the one it is compared with, each prompt of the set, and the sizes of a curve with their scores.
    fn cost(&self) -> Cost {
        let longest = self.prompts.iter().max_by_key(|p| p.pair.clean.len());
        let Some(AnsweredPair { pair, .. }) = longest else { return Cost::default() };
        let on_run = |what| cost_on_run(&pair.clean.model, pair.clean.len(), what);
        let tried = 1 + usize::from(self.compared.is_some()) + if self.curve { SIZES.len() } else { 0 };
        let own = on_run(Planned::Circuits { circuits: tried });
        let own = if self.curve { own.then(on_run(Planned::Edges { steps: STEPS })) } else { own };
        let set = self.set.as_ref().map_or(0, |(_, n)| *n);
        let set_runs = (2 * set * Trace::bytes_for(&pair.clean.model, pair.clean.len())) as u64;
        let over = on_run(Planned::Circuits { circuits: 2 }).times(set);
        own.times(self.prompts.len()).then(Cost { work: over.work + set_runs, ..over })
    }
}

impl Question for CircuitOf {
    type Answer = Tried;
    const LABEL: &'static str = "trying the circuit";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Tried)) -> Result<Tried> {
        progress.needs(|| self.cost())?;
        let trials = trials(&self.prompts, self.metric, self.outside, progress)?;
        let model = &self.prompts[0].pair.clean.model;
        let wiring = Wiring::new(&model.config);
        let circuit = self.draft.circuit(wiring)?;
        let mut out = Tried {
            question: self.clone(),
            quality: quality(&trials, &circuit, progress)?,
            set: Vec::new(),
            set_error: None,
            curve: None,
            curve_error: None,
            compared: None,
            done: false,
        };
        partial(out.clone());
        if let Some((_, other)) = &self.compared {
            let compared = |other: Edges| Comparison::of(&trials, &circuit, &other, progress);
            out.compared = Some(beside(other.circuit(wiring).and_then(compared))?);
            partial(out.clone());
        }
        if let Some((name, n)) = &self.set {
            match beside(set_runs(model, name, *n, progress))? {
                Ok(set) => {
                    let means = means(set.iter().map(|(_, runs)| runs), self.outside, progress)?;
                    for (prompt, runs) in &set {
                        let f = match runs.trial(self.metric, self.outside, means.as_ref()) {
                            Ok(trial) => Runs::of(&[trial], &circuit, progress)?.faithfulness(progress)?,
                            Err(e) if e.is_request() => f32::NAN,
                            Err(e) => return Err(e),
                        };
                        out.set.push((prompt.clone(), f));
                        partial(out.clone());
                    }
                }
                Err(e) => out.set_error = Some(e),
            }
        }
        if self.curve && self.prompts.iter().all(|p| p.pair.corrupted.is_some()) {
            let scores = mean_scores(&trials, Path::Integrated(STEPS), progress);
            match beside(scores.and_then(|scores| curve(&trials, &scores, progress, |_, _| {})))? {
                Ok(curve) => out.curve = Some(curve),
                Err(e) => out.curve_error = Some(e),
            }
        }
        out.done = true;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_by_hand() {
        // From 0 to 0.5 faithfulness rises from 0 to 1, from there to 1.5 at 1.
        let c = Curve::through(vec![(0.0, 0, 0.0), (0.5, 1, 1.0), (1.0, 2, 1.5)]);
        assert!((c.cpr - (0.25 + 0.625)).abs() < 1e-12);
        assert!((c.cmd - (0.25 + 0.125)).abs() < 1e-12);
    }
}
