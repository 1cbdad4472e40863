//! The pullback of a run: takes cotangents of the stream after a block back to the stream before it, many at once.
//!
//! A cotangent says how much some number grows with each coordinate of the stream. Automatic differentiation carries one
//! at a time, or runs the model again for each; here what a block's derivative needs of the run is computed once, and a
//! whole batch of cotangents goes through every layer as one product. Only the positions from `start` on are carried:
//! an effect on a later position never passes through an earlier one.

mod mlp;
mod normed;

use candle_core::Tensor;

use self::mlp::MlpBack;
use self::normed::NormBack;
use super::forward::{Prepared, linear};
use super::hooks::Capture;
use super::kernels::attention_back::Attended;
use super::kernels::rotary::Table;
use super::kernels::{product, to_vec, with_values};
use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::model::Network;
use crate::model::config::{NormPlacement, Parallel, Positions, QkNorm};
use crate::model::weights::Norm;
use crate::progress::Progress;

/// The derivative of one block along a run.
struct BlockBack {
    ln1: Option<NormBack>,
    ln1_post: Option<NormBack>,
    ln2: Option<NormBack>,
    ln2_post: Option<NormBack>,
    q_norm: Option<NormBack>,
    k_norm: Option<NormBack>,
    /// Of the rows alone, turned the other way.
    rotation: Option<Table>,
    attended: Attended,
    mlp: Option<MlpBack>,
}

/// The derivatives of a run's blocks, at the positions from `start` on.
pub struct Pullback<'a> {
    network: Network<'a>,
    start: usize,
    rows: usize,
    first_layer: usize,
    blocks: Vec<BlockBack>,
    /// The stream after the last block, [pos, d_model].
    pub resid_final: Tensor,
}

impl<'a> Pullback<'a> {
    /// Runs the model on `ids` and keeps what the derivatives of the blocks from `first_layer` on need, for the positions
    /// `start..end`; those after it change nothing before.
    ///
    /// # Errors
    /// As [`Network::forward`], no position is left, or it would not fit in memory.
    pub fn along(
        network: Network<'a>,
        ids: &[u32],
        start: usize,
        end: usize,
        first_layer: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let ids = ids
            .get(..end)
            .filter(|_| start < end)
            .ok_or_else(|| Error::failed(format!("positions {start} to {end} are no part of {} tokens", ids.len())))?;
        network.check(ids)?;
        let config = network.config;
        let rows = end - start;
        let patterns = rows * end * config.n_heads * (1 + usize::from(config.attn_softcap.is_some()));
        let layer = 4 * (patterns + rows * (3 * config.d_mlp + 4 * config.d_model));
        let what = format!("the derivatives of a run of {end} tokens");
        afford((config.n_layers - first_layer) * layer, &what, "take shorter texts")?;
        let prepared = Prepared::new(config, end);
        let positions: Vec<usize> = (start..end).collect();
        let mut resid = network.embed(&[ids], &mut Capture::default())?;
        let mut blocks = Vec::new();
        for layer in 0..config.n_layers {
            progress.check()?;
            let mut seen = Capture::default();
            if layer >= first_layer {
                seen = Capture::sites(wanted(network, layer));
            }
            let before = resid.clone();
            resid = network.block(layer, resid, &prepared, &mut seen)?;
            if layer >= first_layer {
                blocks.push(BlockBack::new(network, layer, &before, &resid, &seen, &prepared, &positions)?);
            }
        }
        Ok(Self { network, start, rows: end - start, first_layer, blocks, resid_final: resid.squeeze(0)? })
    }

    /// The number of the model's layers.
    pub fn n_layers(&self) -> usize {
        self.network.config.n_layers
    }

    /// The number of positions that are carried.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes cotangents [n · rows, d_model] of the stream after block `layer` back to the stream before it.
    ///
    /// # Errors
    /// The layer lies below the first one that was kept.
    pub fn block(&self, layer: usize, g: Tensor) -> Result<Tensor> {
        let back = layer
            .checked_sub(self.first_layer)
            .and_then(|l| self.blocks.get(l))
            .ok_or_else(|| Error::failed(format!("the derivative of layer {layer} was not kept")))?;
        let weights = &self.network.weights.blocks[layer];
        let config = self.network.config;
        let Some((mlp, mlp_weights)) = back.mlp.as_ref().zip(weights.mlp.as_ref()) else {
            let x1 = self.attention(layer, back, g.clone())?;
            return through(back.ln1.as_ref(), &x1, Some(&g));
        };
        let stream = config.norm_placement == NormPlacement::Stream;
        let g = if stream { through(back.ln2_post.as_ref(), &g, None)? } else { g };
        let mlp_out = if stream { g.clone() } else { through(back.ln2_post.as_ref(), &g, None)? };
        let x2 = mlp.back(&mlp_out, mlp_weights, self.rows)?;
        match config.parallel {
            Parallel::Sequential => {
                let mid = through(back.ln2.as_ref(), &x2, Some(&g))?;
                let mid = if stream { through(back.ln1_post.as_ref(), &mid, None)? } else { mid };
                let x1 = self.attention(layer, back, mid.clone())?;
                through(back.ln1.as_ref(), &x1, Some(&mid))
            }
            Parallel::SharedNorm => {
                let x1 = (self.attention(layer, back, g.clone())? + x2)?;
                through(back.ln1.as_ref(), &x1, Some(&g))
            }
            Parallel::OwnNorms => {
                let carried = through(back.ln2.as_ref(), &x2, Some(&g))?;
                let x1 = self.attention(layer, back, g)?;
                through(back.ln1.as_ref(), &x1, Some(&carried))
            }
        }
    }

    /// From attention's output, as it is added to the stream, to its input.
    fn attention(&self, layer: usize, back: &BlockBack, g: Tensor) -> Result<Tensor> {
        let c = self.network.config;
        let weights = &self.network.weights.blocks[layer].attn;
        let stream = c.norm_placement == NormPlacement::Stream;
        let g = if stream { g } else { through(back.ln1_post.as_ref(), &g, None)? };
        let z = product::back(&g, &weights.o.weight)?;
        let [q, k, v] = with_values(&z, |dz| back.attended.back(dz, self.start))??;
        let batch = z.dim(0)? / self.rows;
        let heads = |values: Vec<f32>, n: usize, norm: Option<&NormBack>| -> Result<Tensor> {
            let mut x = Tensor::from_vec(values, (batch, self.rows, n, c.d_head), z.device())?;
            if let Some(table) = &back.rotation {
                x = table.apply(&x)?;
            }
            through(norm, &x.reshape((batch * self.rows, n * c.d_head))?, None)
        };
        let q = heads(q, c.n_heads, back.q_norm.as_ref())?;
        let k = heads(k, c.n_kv_heads, back.k_norm.as_ref())?;
        let v = Tensor::from_vec(v, (batch * self.rows, c.n_kv_heads * c.d_head), z.device())?;
        Ok(product::back_sum([(&q, &weights.q.weight), (&k, &weights.k.weight), (&v, &weights.v.weight)])?)
    }
}

/// `add` + the pullback of a norm; where there is no norm, `add` + `g`.
fn through(norm: Option<&NormBack>, g: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
    match (norm, add) {
        (Some(norm), add) => norm.back(g, add),
        (None, Some(add)) => Ok((g + add)?),
        (None, None) => Ok(g.clone()),
    }
}

/// The sites that a block's derivative reads: no more, since what is not asked for need not be computed.
fn wanted(network: Network<'_>, layer: usize) -> Vec<Site> {
    let c = network.config;
    let rotary = matches!(c.positions, Positions::Rotary(_));
    let block = network.weights.blocks.get(layer);
    let behind = c.norm_placement != NormPlacement::Stream && block.is_some_and(|b| b.ln2_post.is_some());
    let stream = c.norm_placement == NormPlacement::Stream;
    let mut kinds = vec![SiteKind::V, SiteKind::Pattern, SiteKind::Z];
    let mut add = |when: bool, more: &[SiteKind]| kinds.extend(more.iter().filter(|_| when));
    add(!rotary || c.qk_norm != QkNorm::None, &[SiteKind::Q, SiteKind::K]);
    add(rotary, &[SiteKind::RotQ, SiteKind::RotK]);
    add(c.attn_softcap.is_some(), &[SiteKind::AttnScores]);
    add(stream, &[SiteKind::AttnOut, SiteKind::MlpOut]);
    add(true, &[SiteKind::MlpPre]);
    add(c.parallel == Parallel::Sequential, &[SiteKind::ResidMid]);
    add(c.gated_mlp, &[SiteKind::MlpPreLinear]);
    add(c.experts.is_some(), &[SiteKind::MlpRouter]);
    add(behind, &[SiteKind::MlpResult]);
    kinds.into_iter().filter(|kind| kind.exists(c)).map(|kind| Site::new(kind, layer)).collect()
}

impl BlockBack {
    fn new(
        network: Network<'_>,
        layer: usize,
        before: &Tensor,
        after: &Tensor,
        seen: &Capture,
        prepared: &Prepared,
        positions: &[usize],
    ) -> Result<Self> {
        let c = network.config;
        let weights = network
            .weights
            .blocks
            .get(layer)
            .ok_or_else(|| Error::failed(format!("the model has no layer {layer}")))?;
        let site = |kind| seen.get(Site::new(kind, layer));
        let (start, rows) = (positions[0], positions.len());
        let kept = |x: &Tensor| -> Result<Tensor> { Ok(x.narrow(0, start, rows)?.contiguous()?) };
        let norm = |n: Option<&Norm>, x: &Tensor| -> Result<Option<NormBack>> {
            n.map(|n| NormBack::new(c.norm, &n.weight, &kept(x)?, x.dim(1)?)).transpose()
        };
        let before = before.squeeze(0)?;
        let post = matches!(c.norm_placement, NormPlacement::Post | NormPlacement::Sandwich);
        let stream = c.norm_placement == NormPlacement::Stream;
        let z = site(SiteKind::Z)?;
        // What the norms behind attention and MLP read: their own outputs, or the stream with these added.
        let n = before.dim(0)?;
        let raw_attn = || -> Result<Tensor> {
            Ok(linear(&z.reshape((1, n, c.n_heads * c.d_head))?, &weights.attn.o)?.squeeze(0)?)
        };
        let ln1_post = match &weights.ln1_post {
            Some(_) if post => norm(weights.ln1_post.as_ref(), &raw_attn()?)?,
            Some(_) if stream => norm(weights.ln1_post.as_ref(), &(&before + site(SiteKind::AttnOut)?)?)?,
            _ => None,
        };
        let mid = match c.parallel {
            Parallel::Sequential if weights.mlp.is_some() => site(SiteKind::ResidMid)?,
            _ => before.clone(),
        };
        let mlp = weights.mlp.as_ref().map(|m| MlpBack::new(c, m, seen, layer, start, rows)).transpose()?;
        let ln2_post = match (&weights.ln2_post, &weights.mlp) {
            (Some(_), Some(_)) if post => norm(weights.ln2_post.as_ref(), &site(SiteKind::MlpResult)?)?,
            (Some(_), Some(_)) if stream => norm(weights.ln2_post.as_ref(), &(&mid + site(SiteKind::MlpOut)?)?)?,
            _ => None,
        };
        debug_assert_eq!(after.dim(1)?, n);
        let shared = c.parallel == Parallel::SharedNorm;
        let own = |x: SiteKind, n: Option<&Norm>| -> Result<Option<NormBack>> {
            let Some(n) = n.filter(|_| c.qk_norm != QkNorm::None) else { return Ok(None) };
            let x = kept(&site(x)?)?.flatten_from(1)?;
            let group = if c.qk_norm == QkNorm::FullWidth { x.dim(1)? } else { c.d_head };
            NormBack::new(c.norm, &n.weight, &x, group).map(Some)
        };
        Ok(Self {
            ln1: norm(weights.ln1.as_ref(), &before)?,
            ln1_post,
            ln2: if shared { None } else { norm(weights.ln2.as_ref(), &mid)? },
            ln2_post,
            q_norm: own(SiteKind::Q, weights.attn.q_norm.as_ref())?,
            k_norm: own(SiteKind::K, weights.attn.k_norm.as_ref())?,
            rotation: prepared.rotation(layer).map(|t| t.rows(positions).inverse()),
            attended: attended(network, layer, seen, prepared, &z)?,
            mlp,
        })
    }
}

/// What attention left in one layer.
fn attended(network: Network<'_>, layer: usize, seen: &Capture, prepared: &Prepared, z: &Tensor) -> Result<Attended> {
    let c = network.config;
    let site = |kind| seen.get(Site::new(kind, layer));
    let weights = &network.weights.blocks[layer].attn;
    let (q, k) = if matches!(c.positions, Positions::Rotary(_)) {
        (site(SiteKind::RotQ)?, site(SiteKind::RotK)?)
    } else {
        let normed = |kind, n: Option<&Norm>| -> Result<Tensor> {
            Ok(network.qk_norm(site(kind)?.unsqueeze(0)?, n, false)?.squeeze(0)?)
        };
        (normed(SiteKind::Q, weights.q_norm.as_ref())?, normed(SiteKind::K, weights.k_norm.as_ref())?)
    };
    let attend = prepared.attend(layer).clone();
    let n = z.dim(0)?;
    let slope = match attend.softcap {
        None => None,
        Some(cap) => {
            let mut scores = to_vec(&site(SiteKind::AttnScores)?)?;
            for (i, s) in scores.iter_mut().enumerate() {
                let (head, dest, src) = (i / (n * n), i / n % n, i % n);
                let bias = attend.slopes.as_ref().map_or(0.0, |m| m[head] * (src as f32 - dest as f32));
                // A key that may not be seen has the score −∞ and the weight 0.
                let turned = if s.is_finite() { (*s - bias) / cap } else { 1.0 };
                *s = attend.scale * (1.0 - turned * turned);
            }
            Some(scores)
        }
    };
    Ok(Attended {
        q: to_vec(&q)?,
        k: to_vec(&k)?,
        v: to_vec(&site(SiteKind::V)?)?,
        z: to_vec(z)?,
        pattern: to_vec(&site(SiteKind::Pattern)?)?,
        slope,
        attend,
        heads: c.n_heads,
        kv_heads: c.n_kv_heads,
        d_head: c.d_head,
        n,
    })
}
