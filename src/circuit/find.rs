//! Circuits out of edge scores.
//!
//! The plain way takes the edges of largest |score| and drops those on no path from the embedding to the logits. Scores are
//! gradients, though, and take no account of each other. The better way begins with a larger circuit than wanted and
//! measures exactly which of its edges can go, in rounds: remove what costs least faithfulness, measure the borderline
//! again, until the wanted size is reached. [`super::ablated_run`] makes a removal cheap enough.

use super::ablated_run::AblatedRun;
use super::checks::check_together;
use super::eap::EdgeScores;
use super::edges::Edges;
use super::trial::Trial;
use super::wiring::Edge;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The `n` edges of largest |score|, without those on no path from the embedding to the logits.
pub fn top_edges(scores: &EdgeScores, n: usize) -> Edges {
    let mut edges = Edges::of(scores.wiring, scores.top(n).into_iter().map(|(e, _)| e));
    edges.prune();
    edges
}

/// The edges whose |score| reaches a threshold, likewise.
pub fn edges_above(scores: &EdgeScores, threshold: f32) -> Edges {
    let reaching = scores.top(usize::MAX).into_iter().take_while(|(_, v)| v.abs() >= threshold);
    let mut edges = Edges::of(scores.wiring, reaching.map(|(e, _)| e));
    edges.prune();
    edges
}

/// How far a search is.
#[derive(Clone, Debug)]
pub struct Step {
    /// Edges that are left.
    pub edges: usize,
    /// NaN where it was not measured.
    pub faithfulness: f32,
}

/// How many times more edges than wanted a refinement begins with.
const BEGIN: usize = 4;

/// A round removes one of this many surplus edges before effects are measured again.
const SHARE: usize = 3;

/// Edges whose effect is measured again for each that a round removes.
const BORDER: usize = 2;

/// A circuit of at most `n` edges: beginning with the best of a larger circuit by score, it measures for each edge
/// exactly what its removal changes, takes away those that bring the metric least from the whole model's, and
/// measures again. A removal in a circuit is cheap (see [`super::ablated_run`]), which is what makes this possible. Over
/// several prompts their mean faithfulness counts. `on_step` is told how far it is.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn refine(
    trials: &[Trial<'_>],
    scores: &EdgeScores,
    n: usize,
    progress: &Progress,
    mut on_step: impl FnMut(&Step),
) -> Result<Edges> {
    if n == 0 {
        return Err(Error::request("a circuit of no edges explains nothing; ask for at least one"));
    }
    let begin = top_edges(scores, BEGIN.saturating_mul(n).min(scores.wiring.n_edges()));
    let mut runs = Runs::of(trials, &begin, progress)?;
    progress.expect(expected_removals(begin.len(), n) * trials.len() as u64);
    // Harm of each edge's removal when it was last measured: how much further from the whole model it gets.
    let mut ranked: Vec<(f32, Edge)> = runs.edges().iter().map(|e| (f32::NEG_INFINITY, e)).collect();
    loop {
        let now = runs.faithfulness(progress)?;
        let size = runs.edges().len();
        on_step(&Step { edges: size, faithfulness: now });
        if size <= n {
            return Ok(runs.edges().clone());
        }
        let count = round(size, n);
        ranked.retain(|(_, e)| runs.edges().contains(*e));
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // After the first round only the borderline is measured again: those that could go next.
        let known = ranked.first().is_some_and(|r| r.0.is_finite());
        let border = if known { (BORDER * count).min(ranked.len()) } else { ranked.len() };
        let edges: Vec<Edge> = ranked[..border].iter().map(|r| r.1).collect();
        let effects = runs.without_each(&edges, progress)?;
        for (entry, f) in ranked.iter_mut().zip(effects) {
            entry.0 = (1.0 - f).abs() - (1.0 - now).abs();
        }
        ranked[..border].sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // What each does little harm may do more together: a few at a time, and a group that costs more than its
        // members said stays for a later round.
        let count = count.min(border);
        let mut left = ranked[..border].iter().copied();
        let mut removed = 0;
        while removed < count {
            let group: Vec<(f32, Edge)> = left.by_ref().take((count / GROUPS).clamp(1, count - removed)).collect();
            if group.is_empty() {
                break;
            }
            let before = runs.faithfulness(progress)?;
            let mut fewer = runs.edges().clone();
            group.iter().for_each(|(_, e)| fewer.remove(*e));
            let next = runs.moved(&fewer, progress)?;
            let reached = next.faithfulness(progress)?;
            let expected: f32 = group.iter().map(|r| r.0.max(0.0)).sum();
            // Where too few would be left to choose from, the best of them goes whatever it costs.
            let spare = border - removed > count;
            if spare && (1.0 - reached).abs() > (1.0 - before).abs() + expected + SLACK {
                continue;
            }
            removed += group.len();
            runs = next;
        }
        if removed == 0 {
            let mut fewer = runs.edges().clone();
            fewer.remove(ranked[0].1);
            runs = runs.moved(&fewer, progress)?;
        }
    }
}

/// Parts in which a round removes what it chose.
const GROUPS: usize = 8;

/// Loss of faithfulness beyond the sum of its removals that a group is let pass with.
const SLACK: f32 = 0.002;

/// Removals that [`refine`] measures on a prompt to find `n` of `all` edges.
pub fn removals(n: usize, all: usize) -> usize {
    expected_removals(BEGIN.saturating_mul(n).min(all), n) as usize
}

/// Edges that a round removes.
fn round(size: usize, n: usize) -> usize {
    ((size - n) / SHARE).max(SHARE).min(size - n)
}

/// Removals that all rounds measure.
fn expected_removals(mut size: usize, n: usize) -> u64 {
    let mut sum = size;
    size -= if size > n { round(size, n) } else { 0 };
    while size > n {
        let count = round(size, n);
        sum += BORDER * count;
        size -= count;
    }
    sum as u64
}

/// One circuit run on every prompt.
pub struct Runs<'t, 'p> {
    trials: &'t [Trial<'p>],
    runs: Vec<AblatedRun>,
}

/// Circuits run on a prompt at a time: enough to fill its batches, few enough to keep their edge sets small.
const CHUNK: usize = 512;

impl<'t, 'p> Runs<'t, 'p> {
    /// # Errors
    /// No prompts; [`Error::Cancelled`].
    pub fn of(trials: &'t [Trial<'p>], edges: &Edges, progress: &Progress) -> Result<Self> {
        if trials.is_empty() {
            return Err(Error::request("there is no prompt to run a circuit on; give a clean and a corrupted one"));
        }
        check_together(trials.iter().map(|t| &t.ablated))?;
        let runs = trials.iter().map(|t| t.ablated.run(edges, progress)).collect::<Result<_>>()?;
        Ok(Self { trials, runs })
    }

    /// The same with other edges, at the cost of what changes.
    pub fn moved(&self, edges: &Edges, progress: &Progress) -> Result<Self> {
        let pairs = self.trials.iter().zip(&self.runs);
        let runs = pairs.map(|(t, run)| t.ablated.moved(run, edges, progress)).collect::<Result<_>>()?;
        Ok(Self { trials: self.trials, runs })
    }

    /// The circuit, pruned.
    pub fn edges(&self) -> &Edges {
        &self.runs[0].edges
    }

    /// Faithfulness on each prompt.
    pub fn by_prompt(&self, progress: &Progress) -> Result<Vec<f32>> {
        self.trials
            .iter()
            .zip(&self.runs)
            .map(|(t, run)| t.read(&run.normalized, progress))
            .map(|v| Ok(v?[0]))
            .collect()
    }

    /// Mean faithfulness.
    pub fn faithfulness(&self, progress: &Progress) -> Result<f32> {
        let all = self.by_prompt(progress)?;
        Ok(all.iter().sum::<f32>() / all.len() as f32)
    }

    /// Mean faithfulness of each of many circuits that differ little from this one.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn variants(&self, circuits: &[Edges], progress: &Progress) -> Result<Vec<f32>> {
        let mut sums = vec![0f32; circuits.len()];
        if circuits.is_empty() {
            return Ok(sums);
        }
        for (trial, run) in self.trials.iter().zip(&self.runs) {
            let rows = trial.ablated.variants(run, circuits, progress)?;
            for (sum, f) in sums.iter_mut().zip(trial.read(&rows, progress)?) {
                *sum += f / self.trials.len() as f32;
            }
        }
        Ok(sums)
    }

    /// Mean faithfulness without each edge by itself.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn without_each(&self, edges: &[Edge], progress: &Progress) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(edges.len());
        for chunk in edges.chunks(CHUNK) {
            let circuits: Vec<Edges> = chunk
                .iter()
                .map(|e| {
                    let mut without = self.edges().clone();
                    without.remove(*e);
                    without
                })
                .collect();
            out.extend(self.variants(&circuits, progress)?);
        }
        Ok(out)
    }
}
