//! The OV circuit of a head: which tokens it promotes when it attends to a token, on any prompt
//! ["A Mathematical Framework for Transformer Circuits", Elhage et al. 2021].
//!
//! A head's pattern (its QK circuit) says where it looks. Its OV circuit says what it writes when it looks there: W_U ·
//! W_O · W_V · (the attended token). It depends on the weights alone. A head that promotes the token that it attends to
//! is a copying head; one that suppresses it copies negatively.
//!
//! The attended token enters as the first layer leaves it when it stands alone in the prompt, since later heads find it
//! in that form ("effective embedding", as in Wang et al. 2022 and Hanna et al. 2023). Heads of layer 0 read the
//! embedding itself.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::engine::forward::Prepared;
use crate::engine::hooks::NoHooks;
use crate::engine::kernels::{norm, product};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// Number of tokens of the vocabulary that are tried beside those of the prompt.
const SAMPLE: usize = 192;

/// Number of rows that are unembedded together.
const ROWS: usize = 64;

/// A token counts as copied if it is among this many tokens that are promoted most.
const COPIED: usize = 5;

#[derive(Clone, Debug)]
pub struct OvCircuit {
    pub layer: usize,
    pub head: usize,
    /// Share of the tried tokens that are among the five tokens that the head promotes most when it attends to them;
    /// then the share among the five that it suppresses most.
    pub copying: f32,
    pub anti_copying: f32,
    /// Number of tokens that were tried.
    pub tried: usize,
    /// The largest logit for each token of the prompt, as (attended token, promoted token, logit).
    pub pairs: Vec<(u32, u32, f32)>,
}

/// Tries the OV circuit of a head on the prompt's tokens and on an even sample of the vocabulary.
///
/// # Errors
/// The model has no such head; [`Error::Cancelled`].
pub fn ov_circuit(model: &Model, layer: usize, head: usize, prompt: &[u32], progress: &Progress) -> Result<OvCircuit> {
    let c = &model.config;
    if layer >= c.n_layers || head >= c.n_heads {
        return Err(Error::request(format!("there is no head {layer}.{head} in this model")));
    }
    let mut ids: Vec<u32> = prompt.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let own = ids.len();
    let step = (c.d_vocab / SAMPLE).max(1);
    let sample: Vec<u32> = (0..c.d_vocab as u32).step_by(step).filter(|id| !ids.contains(id)).collect();
    ids.extend(sample);
    let network = model.network();
    let rows: Vec<&[u32]> = ids.iter().map(std::slice::from_ref).collect();
    let mut x = network.embed(&rows, &mut NoHooks)?;
    if layer > 0 {
        x = network.block(0, x, &Prepared::new(c, 1), &mut NoHooks)?;
    }
    let block = &model.weights.blocks[layer];
    let x = x.squeeze(1)?;
    let x = match &block.ln1 {
        Some(n) => norm::apply(&x.contiguous()?, c.norm, n, false)?,
        None => x,
    };
    let (kv, d) = (c.kv_head(head), c.d_head);
    let mut v = product::apply(&x, &block.attn.v.weight.narrow(1, kv * d, d)?)?;
    if let Some(b) = &block.attn.v.bias {
        v = v.broadcast_add(&b.narrow(0, kv * d, d)?)?;
    }
    let mut written = product::apply(&v, &block.attn.o.weight.narrow(0, head * d, d)?)?;
    // The gain of the norm on attention's output, where there is one. Its scale is left to the final norm.
    if let Some(post) = &block.ln1_post {
        if c.centres() {
            written = written.broadcast_sub(&written.mean_keepdim(1)?)?;
        }
        written = written.broadcast_mul(&post.weight)?;
    }
    let normalized: Tensor = network.final_norm(&written.unsqueeze(1)?, &mut NoHooks)?.squeeze(1)?;
    let mut found: Vec<(bool, bool, u32, f32)> = Vec::with_capacity(ids.len());
    for first in (0..ids.len()).step_by(ROWS) {
        progress.check()?;
        let rows = normalized.narrow(0, first, ROWS.min(ids.len() - first))?.contiguous()?;
        let logits = network.unembed(&rows)?;
        let width = logits.dim(1)?;
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        let read = |(row, id): (&[f32], &u32)| {
            let me = row[*id as usize];
            let above = row.iter().filter(|v| **v > me).count();
            let below = row.iter().filter(|v| **v < me).count();
            let largest = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let (top, logit) = largest.map_or((0, 0.0), |(i, v)| (i as u32, *v));
            (above < COPIED, below < COPIED, top, logit)
        };
        let part: Vec<_> = values.par_chunks_exact(width).zip(&ids[first..]).map(read).collect();
        found.extend(part);
    }
    let share = |f: fn(&(bool, bool, u32, f32)) -> bool| {
        found.iter().filter(|r| f(r)).count() as f32 / found.len().max(1) as f32
    };
    let mut pairs: Vec<(u32, u32, f32)> = ids.iter().zip(&found).take(own).map(|(id, r)| (*id, r.2, r.3)).collect();
    pairs.sort_by(|a, b| b.2.total_cmp(&a.2));
    Ok(OvCircuit { layer, head, copying: share(|r| r.0), anti_copying: share(|r| r.1), tried: ids.len(), pairs })
}
