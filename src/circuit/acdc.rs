//! ACDC, automatic circuit discovery [Conmy et al. 2023]: from the output backwards, an edge is dropped where that changes
//! the metric by less than a threshold.
//!
//! It begins with the whole model and visits receivers from the logits down, their senders from the last to the first. An
//! edge that is dropped carries the reference from then on, so each decision rests on those before it: exact and greedy,
//! where edge attribution estimates all edges independently. A larger threshold gives a smaller circuit.
//!
//! The original re-runs the model for every edge. Here an edge's removal reaches only what is left of the circuit above
//! it, and removals are tried in advance: the i-th variant of a batch lacks the first i candidates, which is what ACDC
//! would run next if every one before is dropped. Where one is kept, the rest of the batch is thrown away. The result is
//! the same as one edge at a time.

use super::ablated_run::{AblatedRun, AblatedRuns};
use super::checks::check_together;
use super::edges::Edges;
use super::wiring::Edge;
use crate::analysis::metric::{Metric, Readout};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How an edge search is going.
#[derive(Clone, Debug)]
pub struct Standing {
    pub tested: usize,
    pub kept: usize,
    /// Edges not yet decided or kept.
    pub left: usize,
    pub value: f32,
}

/// Drops, receiver by receiver from the logits down and sender by sender from the last, the edges without which
/// what is read (KL to the clean run by default, to be small) rises by less than `threshold`; over several prompts
/// their mean counts.
///
/// # Errors
/// No prompts, or [`Error::Cancelled`].
pub fn acdc(
    prompts: &[(&AblatedRuns, &Readout<'_>)],
    threshold: f32,
    progress: &Progress,
    mut on_receiver: impl FnMut(&Standing),
) -> Result<Edges> {
    if threshold.is_nan() || threshold < 0.0 {
        return Err(Error::request(format!(
            "the threshold is {threshold}; give a change of the metric that is not negative"
        )));
    }
    let Some((first, readout)) = prompts.first() else {
        return Err(Error::request("there is no prompt to search a circuit on; give a clean and a corrupted one"));
    };
    check_together(prompts.iter().map(|p| p.0))?;
    let (w, metric) = (first.wiring, readout.metric);
    let mut runs = prompts.iter().map(|(s, _)| s.run(&Edges::all(w), progress)).collect::<Result<Vec<AblatedRun>>>()?;
    let mut edges = runs[0].edges.clone();
    let mut value = mean(prompts.iter().zip(&runs).map(|((_, r), run)| r.read(&run.normalized, progress)), 1)?[0];
    let (mut tested, mut kept) = (0, 0);
    progress.expect(w.n_edges() as u64);
    let mut at_once = 16;
    for receiver in (0..w.n_receivers()).rev() {
        let mut candidates: Vec<Edge> = (0..w.reads(receiver)).rev().map(|sender| Edge { sender, receiver }).collect();
        let considered = candidates.len();
        // What nothing of the circuit reads any more went with its last reader.
        candidates.retain(|e| edges.contains(*e));
        let mut rest = candidates.as_slice();
        while !rest.is_empty() {
            progress.check()?;
            let chunk = &rest[..at_once.min(rest.len())];
            let mut without = edges.clone();
            let circuits: Vec<Edges> = chunk
                .iter()
                .map(|e| {
                    without.remove(*e);
                    without.clone()
                })
                .collect();
            let variants = |((ablated, readout), run): (&(&AblatedRuns, &Readout<'_>), &AblatedRun)| {
                readout.read(&ablated.trial_variants(run, &circuits, progress)?, progress)
            };
            let values = mean(prompts.iter().zip(&runs).map(variants), circuits.len())?;
            let mut dropped = 0;
            while dropped < chunk.len() && worsening(metric, value, values[dropped]) < threshold {
                value = values[dropped];
                dropped += 1;
            }
            tested += (dropped + 1).min(chunk.len());
            if dropped > 0 {
                let moved = |((ablated, _), run): (&(&AblatedRuns, &Readout<'_>), &AblatedRun)| {
                    ablated.moved(run, &circuits[dropped - 1], progress)
                };
                runs = prompts.iter().zip(&runs).map(moved).collect::<Result<_>>()?;
                edges = runs[0].edges.clone();
            }
            if dropped == chunk.len() {
                at_once = (at_once * 2).min(128);
                rest = &rest[dropped..];
            } else {
                kept += 1;
                at_once = (at_once / 2).max(4);
                rest = &rest[dropped + 1..];
            }
            // Pruning may have taken later candidates along.
            let gone = rest.iter().take_while(|e| !edges.contains(**e)).count();
            rest = &rest[gone..];
        }
        progress.step(considered as u64)?;
        on_receiver(&Standing { tested, kept, left: edges.len(), value });
    }
    Ok(edges)
}

/// How much worse a value is: more of a divergence, a change of anything else.
fn worsening(metric: Metric, before: f32, after: f32) -> f32 {
    if metric == Metric::Kl { after - before } else { (after - before).abs() }
}

/// The mean over prompts of what was read of `n` circuits on each.
fn mean(all: impl ExactSizeIterator<Item = Result<Vec<f32>>>, n: usize) -> Result<Vec<f32>> {
    let prompts = all.len() as f32;
    let mut sums = vec![0f32; n];
    for values in all {
        sums.iter_mut().zip(values?).for_each(|(s, v)| *s += v / prompts);
    }
    Ok(sums)
}
