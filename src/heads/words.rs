//! What heads write, in words: the tokens whose logits an example raises and lowers, and how much a head copies.

use rayon::prelude::*;

use candle_core::{Device, Tensor};

use super::index::HeadIndex;
use crate::analysis::ov_circuit::{direct_logits, ov_circuit};
use crate::engine::kernels::{product, with_values};
use crate::engine::logits::largest_indices;
use crate::error::Result;
use crate::model::Model;
use crate::progress::Progress;

/// Tokens named of each.
const WORDS: usize = 5;
/// Rows that are unembedded together.
const ROWS: usize = 64;

/// Names the tokens of the examples that have none yet: what the head writes for the key alone, as
/// [`direct_logits`] reads it.
pub(super) fn fill(model: &Model, index: &mut HeadIndex, progress: &Progress) -> Result<()> {
    let c = &model.config;
    for (i, entry) in index.entries.iter_mut().enumerate() {
        let mut open: Vec<&mut super::index::Example> = entry.top.iter_mut().filter(|e| !e.value.is_empty()).collect();
        if open.is_empty() {
            continue;
        }
        progress.check()?;
        let block = &model.weights.blocks[i / c.n_heads];
        let w = block.attn.o.weight.narrow(0, i % c.n_heads * c.d_head, c.d_head)?;
        for some in open.chunks_mut(ROWS) {
            let values: Vec<f32> =
                some.iter().flat_map(|e| e.value.iter().map(|v| v * e.weight).collect::<Vec<_>>()).collect();
            let values = Tensor::from_vec(values, (some.len(), c.d_head), &Device::Cpu)?;
            let written = product::apply(&values, &w)?;
            let logits = direct_logits(model, i / c.n_heads, &written)?.contiguous()?;
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
    for (i, entry) in index.entries.iter_mut().enumerate() {
        let ov = ov_circuit(model, i / heads, i % heads, &[], progress)?;
        (entry.copying, entry.anti_copying) = (ov.copying, ov.anti_copying);
    }
    Ok(())
}
