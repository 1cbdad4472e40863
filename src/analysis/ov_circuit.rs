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
use crate::engine::frozen::FrozenNorm;
use crate::engine::hooks::NoHooks;
use crate::engine::kernels::{norm, product, with_values};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// Number of tokens of the vocabulary that are tried beside those of the prompt.
const SAMPLE: usize = 192;

/// Number of logits that are held at a time, about; 100 MB.
const LOGITS: usize = 25_000_000;

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

/// The logits [n, d_vocab] of what a head of a layer writes, rows [n, d_model], read by itself: the final norm divides each
/// row by its own scale and applies its gain. The offsets of the norm and of the unembedding are no part of it, since the head
/// did not write them, nor is the soft cap of the sum of all logits.
///
/// # Errors
/// There is no such layer.
pub fn direct_logits(model: &Model, layer: usize, written: &Tensor) -> Result<Tensor> {
    let (c, weights) = (&model.config, &model.weights);
    let block = weights.blocks.get(layer).ok_or_else(|| Error::request(format!("there is no layer {layer}")))?;
    let mut written = written.contiguous()?;
    // The gain of the norm on attention's output, where there is one. Its scale is left to the final norm.
    if let Some(post) = &block.ln1_post {
        if c.centres() {
            written = written.broadcast_sub(&written.mean_keepdim(1)?)?;
        }
        written = written.broadcast_mul(&post.weight)?;
    }
    let normalized = FrozenNorm::of(&written, weights.ln_final.as_ref(), c)?.apply(&written)?;
    Ok(product::apply(&normalized.contiguous()?, &weights.unembed)?)
}

/// The tokens that OV circuits are tried on: a prompt's, and an even sample of the vocabulary.
pub struct Tried {
    /// The prompt's first.
    ids: Vec<u32>,
    own: usize,
    /// As heads of layer 0 and those of later layers find each of them, [token, d_model].
    embedding: Tensor,
    effective: Tensor,
}

impl Tried {
    /// # Errors
    /// A token that the model lacks.
    pub fn of(model: &Model, prompt: &[u32]) -> Result<Self> {
        let c = &model.config;
        let mut ids: Vec<u32> = prompt.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let own = ids.len();
        let step = (c.d_vocab / SAMPLE).max(1);
        let sample: Vec<u32> = (0..c.d_vocab as u32).step_by(step).filter(|id| !ids.contains(id)).collect();
        ids.extend(sample);
        let network = model.network();
        let rows: Vec<&[u32]> = ids.iter().map(std::slice::from_ref).collect();
        let embedding = network.embed(&rows, &mut NoHooks)?;
        let effective = network.block(0, embedding.clone(), &Prepared::new(c, 1), &mut NoHooks)?;
        let flat = |x: Tensor| -> Result<Tensor> { Ok(x.squeeze(1)?.contiguous()?) };
        Ok(Self { ids, own, embedding: flat(embedding)?, effective: flat(effective)? })
    }
}

/// Tries the OV circuit of a head.
///
/// # Errors
/// The model has no such head; [`Error::Cancelled`].
pub fn ov_circuit(model: &Model, layer: usize, head: usize, tried: &Tried, progress: &Progress) -> Result<OvCircuit> {
    let c = &model.config;
    if layer >= c.n_layers || head >= c.n_heads {
        return Err(Error::request(format!("there is no head {layer}.{head} in this model")));
    }
    let Tried { ids, own, .. } = tried;
    let block = &model.weights.blocks[layer];
    let x = if layer == 0 { &tried.embedding } else { &tried.effective };
    let x = match &block.ln1 {
        Some(n) => norm::apply(x, c.norm, n, false)?,
        None => x.clone(),
    };
    let (kv, d) = (c.kv_head(head), c.d_head);
    let mut v = product::apply(&x, &block.attn.v.weight.narrow(1, kv * d, d)?)?;
    if let Some(b) = &block.attn.v.bias {
        v = v.broadcast_add(&b.narrow(0, kv * d, d)?)?;
    }
    let written = product::apply(&v, &block.attn.o.weight.narrow(0, head * d, d)?)?;
    let mut found: Vec<(bool, bool, u32, f32)> = Vec::with_capacity(ids.len());
    let rows = (LOGITS / c.d_vocab.max(1)).max(1);
    for first in (0..ids.len()).step_by(rows) {
        progress.check()?;
        let rows = written.narrow(0, first, rows.min(ids.len() - first))?;
        let logits = direct_logits(model, layer, &rows)?.contiguous()?;
        let width = logits.dim(1)?;
        let read = |(row, id): (&[f32], &u32)| {
            let me = row[*id as usize];
            let above = row.iter().filter(|v| **v > me).count();
            let below = row.iter().filter(|v| **v < me).count();
            let largest = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let (top, logit) = largest.map_or((0, 0.0), |(i, v)| (i as u32, *v));
            (above < COPIED, below < COPIED, top, logit)
        };
        let part =
            with_values(&logits, |all| all.par_chunks_exact(width).zip(&ids[first..]).map(read).collect::<Vec<_>>());
        found.extend(part?);
    }
    let share = |f: fn(&(bool, bool, u32, f32)) -> bool| {
        found.iter().filter(|r| f(r)).count() as f32 / found.len().max(1) as f32
    };
    let mut pairs: Vec<(u32, u32, f32)> = ids.iter().zip(&found).take(*own).map(|(id, r)| (*id, r.2, r.3)).collect();
    pairs.sort_by(|a, b| b.2.total_cmp(&a.2));
    Ok(OvCircuit { layer, head, copying: share(|r| r.0), anti_copying: share(|r| r.1), tried: ids.len(), pairs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// By hand in a model with LayerNorm: the centred row over its deviation, times the gain, by the unembedding; and
    /// offsets, however large, change neither that nor what is copied.
    #[test]
    fn offsets_are_not_what_a_head_wrote() {
        let folder = format!("{}/tests/families/gpt2", env!("CARGO_MANIFEST_DIR"));
        let mut model = Model::open(&folder).unwrap();
        let (d, vocab) = (model.config.d_model, model.config.d_vocab);
        let row: Vec<f32> = (0..d).map(|i| ((7 * i) % 11) as f32 - 4.0).collect();
        let written = Tensor::from_slice(&row, (1, d), &Device::Cpu).unwrap();
        let read = |model: &Model| -> Vec<f32> {
            direct_logits(model, 1, &written).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let found = read(&model);
        let mean = row.iter().sum::<f32>() / d as f32;
        let deviation = (row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / d as f32).sqrt();
        let gain: Vec<f32> = model.weights.ln_final.as_ref().unwrap().weight.to_vec1().unwrap();
        let unembed: Vec<Vec<f32>> = model.weights.unembed.tensor().unwrap().to_vec2().unwrap();
        for (token, logit) in found.iter().enumerate() {
            let want: f32 = (0..d).map(|i| (row[i] - mean) / deviation * gain[i] * unembed[i][token]).sum();
            assert!((logit - want).abs() < 1e-3 * want.abs().max(1.0), "{token}: {logit} against {want}");
        }
        let progress = Progress::new();
        let before = ov_circuit(&model, 1, 0, &Tried::of(&model, &[3, 5]).unwrap(), &progress).unwrap();
        let constant = |n: usize| Tensor::from_vec((0..n).map(|i| 50.0 * i as f32).collect(), n, &Device::Cpu).unwrap();
        model.weights.ln_final.as_mut().unwrap().bias = Some(constant(d));
        model.weights.unembed_bias = Some(constant(vocab));
        assert_eq!(read(&model), found);
        let after = ov_circuit(&model, 1, 0, &Tried::of(&model, &[3, 5]).unwrap(), &progress).unwrap();
        assert_eq!((before.copying, before.pairs), (after.copying, after.pairs));
    }
}
