//! Turns residual rows into facts about the next token: probabilities, ranks, entropy, loss. The product with the
//! vocabulary is computed a slice at a time, so that the logits of all positions are never held together.

use candle_core::Tensor;
use rayon::prelude::*;

use super::forward::overflow;
use super::hooks::Hooks;
use super::kernels::math;
use crate::error::Result;
use crate::model::Network;
use crate::progress::Progress;

/// Rows that are unembedded together: enough for an efficient product.
const ROWS: usize = 64;
/// Logits that are held together where these are more rows, 40 MB: so few that a cancellation is quick.
const LOGITS: usize = 10 << 20;

/// Parts as equal as they go, of `n` rows with logits of `vocabulary` tokens.
pub(crate) fn rows_at_once(n: usize, vocabulary: usize) -> usize {
    let most = (LOGITS / vocabulary.max(1)).max(ROWS);
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

/// One token of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ranked {
    pub id: u32,
    pub logit: f32,
    pub prob: f32,
}

/// The summary of one row of logits.
#[derive(Clone, Debug)]
pub struct RowSummary {
    /// ln Σ e^logit
    pub log_sum: f32,
    /// Entropy of the distribution, nats.
    pub entropy: f32,
    /// The most probable tokens, best first.
    pub top: Vec<Ranked>,
    /// Logit and rank of each token that was asked for; rank 0 is the most probable token.
    pub asked: Vec<(f32, usize)>,
}

impl RowSummary {
    pub fn prob(&self, logit: f32) -> f32 {
        (logit - self.log_sum).exp()
    }
}

/// Summarises the logits of residual rows [n, d_model] (before the final norm): the `top` most probable tokens, and for
/// row r the tokens `asked(r)`. `hooks` see the final norm. `progress` is stepped once for each row; the caller announces
/// the steps.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub fn summarise(
    network: Network<'_>,
    resid: &Tensor,
    top: usize,
    asked: impl Fn(usize) -> Vec<u32> + Sync,
    hooks: &mut dyn Hooks,
    progress: &Progress,
) -> Result<Vec<RowSummary>> {
    let (n, _) = resid.dims2()?;
    let mut all = Vec::with_capacity(n);
    // The norm of all rows is computed at once, since hooks know a row by its place.
    let normalized = network.final_norm(&resid.unsqueeze(0)?, hooks)?.squeeze(0)?;
    let at_once = rows_at_once(n, network.config.d_vocab);
    for first in (0..n).step_by(at_once) {
        progress.check()?;
        let rows = at_once.min(n - first);
        let logits = network.unembed(&normalized.narrow(0, first, rows)?)?.flatten_all()?;
        let (storage, _) = logits.storage_and_layout();
        let summaries: Vec<RowSummary> = match &*storage {
            candle_core::Storage::Cpu(cpu) => {
                let values = cpu.as_slice::<f32>()?;
                let row = values.len() / rows;
                values.par_chunks_exact(row).enumerate().map(|(r, v)| row_summary(v, top, &asked(first + r))).collect()
            }
            _ => {
                let values = logits.to_vec1::<f32>()?;
                let row = values.len() / rows;
                values.chunks_exact(row).enumerate().map(|(r, v)| row_summary(v, top, &asked(first + r))).collect()
            }
        };
        if summaries.iter().any(|s| !s.log_sum.is_finite()) {
            return Err(overflow("a logit"));
        }
        all.extend(summaries);
        progress.step(rows as u64)?;
    }
    Ok(all)
}

/// Summarises one row of logits.
pub fn row_summary(logits: &[f32], top: usize, asked: &[u32]) -> RowSummary {
    let (largest, sum, weighted) = math::simd(|| {
        let largest = math::max(logits);
        let (head, tail) = logits.as_chunks::<16>();
        let (mut sums, mut weights) = ([0f32; 16], [0f32; 16]);
        for chunk in head {
            for ((s, w), v) in sums.iter_mut().zip(&mut weights).zip(chunk) {
                let shifted = v - largest;
                let e = math::exp(shifted);
                *s += e;
                *w += e * shifted;
            }
        }
        let (mut sum, mut weighted) = (sums.iter().sum::<f32>(), weights.iter().sum::<f32>());
        for v in tail {
            let shifted = v - largest;
            let e = math::exp(shifted);
            sum += e;
            weighted += e * shifted;
        }
        (largest, sum, weighted)
    });
    let log_sum = largest + sum.ln();
    let top = largest_indices(logits, top)
        .into_iter()
        .map(|i| Ranked { id: i as u32, logit: logits[i], prob: (logits[i] - log_sum).exp() })
        .collect();
    let asked = asked
        .iter()
        .map(|&id| {
            let logit = logits.get(id as usize).copied().unwrap_or(f32::NAN);
            (logit, logits.iter().filter(|v| **v > logit).count())
        })
        .collect();
    // H = ln Σ − E[shifted]: the shift keeps both terms small.
    RowSummary { log_sum, entropy: (sum.ln() - weighted / sum).max(0.0), top, asked }
}

/// Values that are looked at together for something large.
const PART: usize = 256;

/// Returns the indices of the `k` largest values, largest first. Equal values are ordered by index.
pub fn largest_indices(values: &[f32], k: usize) -> Vec<usize> {
    let k = k.min(values.len());
    let mut best: Vec<usize> = Vec::with_capacity(k + 1);
    if k == 0 {
        return best;
    }
    let mut floor = f32::NEG_INFINITY;
    for (part, some) in values.chunks(PART).enumerate() {
        // Most parts hold nothing that is among the largest.
        if best.len() == k && math::simd(|| math::max(some)) <= floor {
            continue;
        }
        for (i, &v) in some.iter().enumerate() {
            if best.len() == k && v <= floor || v.is_nan() {
                continue;
            }
            let at = best.partition_point(|&b| values[b] >= v);
            best.insert(at, part * PART + i);
            best.truncate(k);
            if best.len() == k {
                floor = values[best[k - 1]];
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_by_hand() {
        // e^0 : e^ln2 : e^ln5 = 1 : 2 : 5
        let row = [0.0, 2f32.ln(), 5f32.ln()];
        let s = row_summary(&row, 2, &[0, 2]);
        assert!((s.log_sum - 8f32.ln()).abs() < 1e-6);
        assert_eq!(s.top.iter().map(|t| t.id).collect::<Vec<_>>(), [2, 1]);
        assert!((s.top[0].prob - 0.625).abs() < 1e-6);
        assert_eq!(s.asked.iter().map(|a| a.1).collect::<Vec<_>>(), [2, 0]);
        let p = [0.125f32, 0.25, 0.625];
        let entropy: f32 = p.iter().map(|p| -p * p.ln()).sum();
        assert!((s.entropy - entropy).abs() < 1e-5);
    }

    #[test]
    fn largest_with_ties_and_nan() {
        assert_eq!(largest_indices(&[1.0, f32::NAN, 3.0, 3.0, 2.0], 3), [2, 3, 4]);
        assert!(largest_indices(&[1.0], 0).is_empty());
        // Over several parts, of which some are passed over; ties at the border are taken from the left.
        let values: Vec<f32> =
            (0..3 * PART + 5).map(|i| if i % 200 == 7 { 9.0 } else { (i % 50) as f32 / 10.0 }).collect();
        assert_eq!(largest_indices(&values, 5), [7, 207, 407, 607, 49]);
        assert_eq!(largest_indices(&[vec![f32::NAN; 2 * PART], vec![1.0]].concat(), 2), [2 * PART]);
    }

    #[test]
    fn rows_are_taken_in_equal_parts() {
        assert_eq!([rows_at_once(512, 49_152), rows_at_once(128, 49_152), rows_at_once(1, 49_152)], [171, 128, 1]);
        assert_eq!([rows_at_once(512, 256_000), rows_at_once(0, 7), rows_at_once(9, 0)], [64, 1, 9]);
    }
}
