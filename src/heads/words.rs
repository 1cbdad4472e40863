//! What heads write, in words: the tokens whose logits an example raises and lowers, and how much a head copies.

use rayon::prelude::*;

use candle_core::{Device, Tensor};

use super::index::{Example, HeadIndex};
use crate::analysis::ov_circuit::{Tried, direct_logits, ov_circuit};
use crate::engine::kernels::{product, with_values};
use crate::engine::logits::largest_indices;
use crate::error::Result;
use crate::model::Model;
use crate::progress::Progress;

/// Tokens named of each.
const WORDS: usize = 5;
/// Tokens of a text that take about as long as a head's copying.
const TOKENS: u64 = 40;
/// Rows that are unembedded together.
const ROWS: usize = 64;

/// Rows with as many of nothing behind them as make products of one shape: a row's numbers are then the same whatever others
/// stand beside it, in shards, after a stop, or in one run.
fn whole(rows: &Tensor) -> Result<Tensor> {
    let (n, width) = rows.dims2()?;
    let nothing = Tensor::zeros((n.next_multiple_of(ROWS) - n, width), rows.dtype(), rows.device())?;
    Ok(Tensor::cat(&[rows, &nothing], 0)?.contiguous()?)
}

/// Names the tokens of the examples that have none yet: what the head writes for the key alone, as
/// [`direct_logits`] reads it.
pub(super) fn fill(model: &Model, index: &mut HeadIndex, progress: &Progress) -> Result<()> {
    let c = &model.config;
    // The examples of a layer's heads together, so that the unembedding is read once for many.
    for (layer, heads) in index.entries.chunks_mut(c.n_heads).enumerate() {
        let w = &model.weights.blocks[layer].attn.o.weight;
        let (mut open, mut written) = (Vec::new(), Vec::new());
        for (head, entry) in heads.iter_mut().enumerate() {
            let own: Vec<&mut Example> = entry.top.iter_mut().filter(|e| !e.value.is_empty()).collect();
            if own.is_empty() {
                continue;
            }
            progress.check()?;
            let values: Vec<f32> =
                own.iter().flat_map(|e| e.value.iter().map(|v| v * e.weight).collect::<Vec<_>>()).collect();
            let values = whole(&Tensor::from_vec(values, (own.len(), c.d_head), &Device::Cpu)?)?;
            let all = product::apply(&values, &w.narrow(0, head * c.d_head, c.d_head)?)?;
            written.push(all.narrow(0, 0, own.len())?);
            open.extend(own);
        }
        if open.is_empty() {
            continue;
        }
        let written = Tensor::cat(&written, 0)?;
        for (part, some) in open.chunks_mut(ROWS).enumerate() {
            progress.check()?;
            let rows = whole(&written.narrow(0, part * ROWS, some.len())?)?;
            let logits = direct_logits(model, layer, &rows)?.contiguous()?;
            let width = logits.dim(1)?;
            with_values(&logits, |logits| {
                some.par_iter_mut().zip(logits.par_chunks_exact(width)).for_each(|(e, row)| {
                    let named = |order: Vec<usize>| order.into_iter().map(|t| (t as u32, row[t])).collect();
                    e.promoted = named(largest_indices(row, WORDS));
                    let turned: Vec<f32> = row.iter().map(|v| -v).collect();
                    e.suppressed = named(largest_indices(&turned, WORDS));
                    e.value = Vec::new();
                });
            })?;
        }
    }
    Ok(())
}

/// How much each head copies what it attends to, by its weights.
pub(super) fn copying(model: &Model, index: &mut HeadIndex, progress: &Progress) -> Result<()> {
    let heads = model.config.n_heads;
    let tried = Tried::of(model, &[])?;
    progress.expect(index.entries.len() as u64 * TOKENS);
    for (i, entry) in index.entries.iter_mut().enumerate() {
        let ov = ov_circuit(model, i / heads, i % heads, &tried, progress)?;
        (entry.copying, entry.anti_copying) = (ov.copying, ov.anti_copying);
        progress.step(TOKENS)?;
    }
    Ok(())
}
