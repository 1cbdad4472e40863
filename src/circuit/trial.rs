//! One prompt on which circuits are tried: its runs, what stands in for everything outside a circuit, and the metric
//! with its two ends.
//!
//! A circuit is judged by what the metric m does when only the circuit is left of the model. m by itself says little, so
//! it is placed between two ends: m(∅), with every edge ablated, and m(M), the whole model. Faithfulness is the share of
//! that distance which the circuit covers, (m(C) − m(∅)) / (m(M) − m(∅)): 0 is as good as nothing, 1 as good as the model
//! [Wang et al. 2022; MIB, Mueller et al. 2025]. Searching a circuit ([`super::search`]) and judging one
//! ([`super::quality`]) both use this one definition.

use std::sync::Arc;

use candle_core::Tensor;

use super::ablated_run::AblatedRuns;
use super::eap::{EdgeScores, Path, edge_scores};
use super::file::PromptPair;
use crate::analysis::contributions::Means;
use crate::analysis::metric::{Metric, MetricKind, Readout};
use crate::analysis::pair::Pair;
use crate::analysis::patching::Ablation;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// A pair of runs with the answer and the wrong answer that metrics are about.
#[derive(Clone, PartialEq)]
pub struct AnsweredPair {
    pub pair: Pair,
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
}

impl AnsweredPair {
    /// Runs both prompts of a pair, or the clean one alone where there is no corrupted one.
    ///
    /// # Errors
    /// As [`Trace::run`].
    pub fn run(prompts: &PromptPair, model: &Arc<Model>, progress: &Progress) -> Result<Self> {
        let corrupted = (!prompts.corrupt_ids.is_empty()).then(|| prompts.corrupt_ids.clone());
        let pair = Pair::of_prompts(model, prompts.clean_ids.clone(), corrupted, progress)?;
        Ok(Self { pair, answer: prompts.answer_id, wrong: prompts.wrong_id })
    }

    /// Makes it ready to try circuits on; `means` as [`Trial::new`] takes them.
    ///
    /// # Errors
    /// A metric that needs an answer which is not there; as [`Trial::new`].
    pub fn trial(&self, metric: MetricKind, outside: Ablation, means: Option<&Means>) -> Result<Trial<'_>> {
        Trial::new(&self.pair, metric.with(self.answer, self.wrong)?, outside, means)
    }
}

/// Means over all clean and corrupted runs of prompts that are tried together; none where no mean stands outside.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn means<'a>(
    prompts: impl IntoIterator<Item = &'a AnsweredPair>,
    outside: Ablation,
    progress: &Progress,
) -> Result<Option<Means>> {
    if outside != Ablation::Mean {
        return Ok(None);
    }
    let runs: Vec<Arc<Trace>> = prompts.into_iter().flat_map(|p| p.pair.traces()).collect();
    Means::of(&runs, progress).map(Some)
}

/// Makes prompts ready to try circuits on together.
///
/// # Errors
/// No prompts; as [`AnsweredPair::trial`]; [`Error::Cancelled`].
pub fn trials<'a>(
    prompts: &'a [AnsweredPair],
    metric: MetricKind,
    outside: Ablation,
    progress: &Progress,
) -> Result<Vec<Trial<'a>>> {
    if prompts.is_empty() {
        return Err(Error::request("there is no prompt to try circuits on; give a clean and a corrupted one"));
    }
    let means = means(prompts, outside, progress)?;
    prompts.iter().map(|p| p.trial(metric, outside, means.as_ref())).collect()
}

/// Scores every edge; over several prompts their mean.
///
/// # Errors
/// As [`edge_scores`].
pub fn mean_scores(trials: &[Trial<'_>], path: Path, progress: &Progress) -> Result<EdgeScores> {
    let scores = |t: &Trial<'_>| edge_scores(t.pair, t.readout.metric, path, progress);
    EdgeScores::mean(trials.iter().map(scores).collect::<Result<_>>()?)
}

/// The metric's two ends: with everything ablated, and the whole model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub empty: f32,
    pub full: f32,
}

impl Scale {
    /// (m(C) − m(∅)) / (m(M) − m(∅))
    pub fn faithfulness(self, value: f32) -> f32 {
        (value - self.empty) / (self.full - self.empty)
    }
}

/// A smaller distance between the metric's ends is rounding, and shares of it say nothing.
const LEAST: f32 = 1e-3;

/// One prompt on which circuits are tried.
pub struct Trial<'a> {
    pub pair: &'a Pair,
    pub ablated: AblatedRuns,
    pub readout: Readout<'a>,
    pub scale: Scale,
}

impl<'a> Trial<'a> {
    /// `means` is what stands outside with [`Ablation::Mean`]; the clean run's own where none are given.
    ///
    /// # Errors
    /// As [`AblatedRuns::new`]; a metric that is the same at both ends, so that nothing can be a share of their distance.
    pub fn new(pair: &'a Pair, metric: Metric, outside: Ablation, means: Option<&Means>) -> Result<Self> {
        let ablated = AblatedRuns::new(&pair.clean, pair.corrupted.as_deref(), outside, means)?;
        let readout = pair.readout(metric)?;
        let empty = readout.read(&ablated.empty()?.normalized, &Progress::new())?;
        let full = readout.of(&ablated.clean, ablated.clean.len() - 1)?;
        let empty = empty.first().copied().unwrap_or(f32::NAN);
        if !(full - empty).is_finite() || (full - empty).abs() < LEAST {
            return Err(Error::request(format!(
                "the metric is {full:.4} for the whole model and {empty:.4} without it, so there is nothing for a circuit to explain; choose another answer or corrupted prompt"
            )));
        }
        Ok(Self { pair, ablated, readout, scale: Scale { empty, full } })
    }

    /// Faithfulness of normalised final rows [n, d_model].
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn read(&self, rows: &Tensor, progress: &Progress) -> Result<Vec<f32>> {
        Ok(self.readout.read(rows, progress)?.into_iter().map(|v| self.scale.faithfulness(v)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faithfulness_is_a_share_of_the_distance() {
        let s = Scale { empty: -2.0, full: 2.0 };
        assert_eq!((s.faithfulness(-2.0), s.faithfulness(2.0), s.faithfulness(1.0)), (0.0, 1.0, 0.75));
    }
}
