//! How each component reads the residual stream on behalf of one prediction.
//!
//! Once norm scales and MLP gates are held still, a component's output is linear in the stream that it reads, and so is the
//! prediction in that output. Together they make a direction in the stream, [d_model] by component and position, taken
//! from gradients of the prediction through everything above. An edge is the product of this direction with what the
//! source wrote (`sources`).
//!
//! Attention patterns are held still as well, which makes every edge exact, or followed to first order: then heads also
//! read queries and keys, by the gradient at their scores, and what a source does to a pattern is an edge like any other
//! ["Tracing Attention Computation Through Feature Interactions", Kamath et al. 2025].

use candle_core::Tensor;

use crate::analysis::component::Part as Input;
use crate::engine::forward::Prepared;
use crate::engine::frozen::FrozenNorm;
use crate::engine::gradient::{Along, differentiate};
use crate::engine::kernels::norm::normalize;
use crate::engine::kernels::{activation, product};
use crate::engine::{Freeze, Site, SiteKind, Trace, experts};
use crate::error::{Error, Result};
use crate::model::config::{Parallel, QkNorm};
use crate::model::matrix::Matrix;
use crate::model::weights::Norm;
use crate::progress::Progress;

/// What is done about attention patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum Attention {
    /// Held still: every edge is exact, and heads are reached through their values only
    #[default]
    Frozen,
    /// Followed to first order: heads are reached through queries and keys as well
    FirstOrder,
}

impl Attention {
    /// What a graph's links are, in words.
    pub fn links(self) -> &'static str {
        match self {
            Self::Frozen => "exact linear effects",
            Self::FirstOrder => "first-order effects",
        }
    }

    /// What a graph of this kind holds constant.
    pub fn freeze(self) -> Freeze {
        Freeze { patterns: self == Self::Frozen, ..Freeze::ALL }
    }
}

/// Values of an MLP's gate, [pos, d_mlp]: act(pre) of gated MLPs (times the expert's share), act(pre)/pre of plain ones.
pub(super) fn gate(trace: &Trace, layer: usize, n: usize) -> Result<Tensor> {
    let c = &trace.model.config;
    let pre = trace.value(Site::new(SiteKind::MlpPre, layer))?.narrow(0, 0, n)?.contiguous()?;
    if let Some(experts) = c.experts {
        let probabilities = trace.value(Site::new(SiteKind::MlpRouter, layer))?.narrow(0, 0, n)?.contiguous()?;
        let shares = experts::by_neuron(&experts::shares(&probabilities, experts)?, c.d_mlp)?;
        return Ok(activation::apply(&pre, c.activation, false)?.mul(&shares)?);
    }
    if c.gated_mlp {
        return Ok(activation::apply(&pre, c.activation, false)?);
    }
    let post = trace.get(SiteKind::MlpPost, layer)?.narrow(0, 0, n)?;
    // Where the linear factor vanishes so does the product, and the gate is whatever one likes.
    let tiny = pre.abs()?.lt(1e-20)?.to_dtype(pre.dtype())?;
    Ok((post / (pre + (tiny * 1e-20)?)?)?)
}

pub(super) fn mlp_norm(trace: &Trace, layer: usize, n: usize) -> Result<FrozenNorm> {
    let c = &trace.model.config;
    let block = &trace.model.weights.blocks[layer];
    let (kind, norm) = match c.parallel {
        Parallel::Sequential => (SiteKind::ResidMid, &block.ln2),
        Parallel::SharedNorm => (SiteKind::ResidPre, &block.ln1),
        Parallel::OwnNorms => (SiteKind::ResidPre, &block.ln2),
    };
    FrozenNorm::of(&trace.get(kind, layer)?.narrow(0, 0, n)?.contiguous()?, norm.as_ref(), c)
}

/// How every component reads the stream on behalf of one target: gradients of the target through everything
/// above it, with what [`Attention::freeze`] names held still.
pub struct Readers {
    /// At z, [layer] of [pos, head, d_head].
    pub z: Vec<Tensor>,
    /// At the MLP's neurons, [layer] of [pos, d_mlp].
    pub post: Vec<Tensor>,
    /// Where attention is followed: at the queries as they are projected, [layer] of [pos, head, d_head], and at the
    /// scores before a soft cap, [layer] of [head][dest][src].
    q: Vec<Tensor>,
    scores: Vec<Vec<f32>>,
}

impl Readers {
    /// Of the metric `direction` [d_model] · normalised final row at the last of `n` positions.
    pub fn of(trace: &Trace, n: usize, direction: &Tensor, attention: Attention, progress: &Progress) -> Result<Self> {
        let c = &trace.model.config;
        let follows = attention == Attention::FirstOrder;
        let mut kinds = vec![SiteKind::Z];
        if follows {
            kinds.extend([SiteKind::Q, SiteKind::AttnScores]);
        }
        if c.has_mlp() {
            kinds.push(SiteKind::MlpPost);
        }
        let along = Along {
            network: trace.model.network(),
            ids: &trace.ids[..n],
            embeddings: None,
            kinds: &kinds,
            keep: &[],
            freeze: attention.freeze(),
            per_head_kv: false,
            pos: n - 1,
        };
        let metric = |row: &Tensor| Ok(row.squeeze(0)?.mul(direction)?.sum_all()?);
        let passes = differentiate(&along, metric, progress)?;
        let of = |kind| -> Result<Vec<Tensor>> {
            (0..c.n_layers).map(|l| Ok(passes.gradient(Site::new(kind, l))?.squeeze(0)?)).collect()
        };
        let scores = if follows {
            (0..c.n_layers)
                .map(|l| before_cap(trace, l, n, passes.gradient(Site::new(SiteKind::AttnScores, l))?.squeeze(0)?))
                .collect::<Result<_>>()?
        } else {
            Vec::new()
        };
        Ok(Self {
            z: of(SiteKind::Z)?,
            post: if c.has_mlp() { of(SiteKind::MlpPost)? } else { Vec::new() },
            q: if follows { of(SiteKind::Q)? } else { Vec::new() },
            scores,
        })
    }
}

/// A gradient at scores [head, dest, src] as one at the scores before a soft cap.
fn before_cap(trace: &Trace, layer: usize, n: usize, gradient: Tensor) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
    if let Some(cap) = trace.model.config.attn_softcap {
        let scores = trace.value(Site::new(SiteKind::AttnScores, layer))?.narrow(1, 0, n)?.narrow(2, 0, n)?;
        let scores: Vec<f32> = scores.contiguous()?.flatten_all()?.to_vec1()?;
        for (v, s) in values.iter_mut().zip(scores) {
            *v = if s.is_finite() { *v * (1.0 - (s / cap).powi(2)) } else { 0.0 };
        }
    }
    Ok(values)
}

/// One layer's heads as readers of the stream.
pub struct HeadReaders {
    /// [pos, head, d_model]: what head h at a destination reads of any source position through its values, before the
    /// source's scale.
    values: Tensor,
    /// 1 / scale of ln1 by position.
    inverse_scale: Vec<f32>,
    /// [head][dest][src]
    pattern: Vec<f32>,
    n: usize,
    n_heads: usize,
    attention: Option<AttentionReaders>,
}

/// How a layer's heads read queries and keys, where attention is followed.
struct AttentionReaders {
    /// [pos, head, d_model]: what a head reads of its own position through its query, before the scale.
    queries: Tensor,
    /// [kv_head · d_head, d_model]: W_K behind the norm's gain.
    keys: Tensor,
    /// What k/q norms multiply keys by, [pos, kv_head, d_head]; `None` without them.
    key_factor: Option<Tensor>,
    /// True where those norms subtract a mean.
    centres: bool,
    /// Queries as attention uses them, times its scale, [pos, head, d_head].
    asking: Tensor,
    /// Gradient at the scores, [head][dest][src].
    scores: Vec<f32>,
    prepared: Prepared,
    layer: usize,
    kv_head: Vec<usize>,
    d_head: usize,
}

impl HeadReaders {
    pub fn of(trace: &Trace, readers: &Readers, layer: usize, n: usize) -> Result<Self> {
        let c = &trace.model.config;
        let block = &trace.model.weights.blocks[layer];
        let stream = trace.get(SiteKind::ResidPre, layer)?.narrow(0, 0, n)?.contiguous()?;
        let frozen = FrozenNorm::of(&stream, block.ln1.as_ref(), c)?;
        // Gradients [pos, head, d_head] at a projection as directions [pos, head, d_model] in the stream.
        let through = |gradient: &Tensor, weights: &Matrix, group: &dyn Fn(usize) -> usize| -> Result<Tensor> {
            let mut directions = Vec::new();
            for head in 0..c.n_heads {
                let g = gradient.narrow(1, head, 1)?.squeeze(1)?.contiguous()?;
                let w = weights.narrow(1, group(head) * c.d_head, c.d_head)?;
                directions.push(frozen.read(&product::back(&g, &w)?)?);
            }
            Ok(Tensor::stack(&directions, 1)?)
        };
        let kv = |head| c.kv_head(head);
        let pattern = trace.pattern(layer)?.narrow(1, 0, n)?.narrow(2, 0, n)?.contiguous()?.flatten_all()?.to_vec1()?;
        let attention = match (readers.q.get(layer), readers.scores.get(layer)) {
            (Some(q), Some(scores)) => {
                let prepared = Prepared::new(c, n);
                let used = if SiteKind::RotQ.exists(c) { SiteKind::RotQ } else { SiteKind::Q };
                let asking = trace.get(used, layer)?.narrow(0, 0, n)?;
                Some(AttentionReaders {
                    queries: through(q, &block.attn.q.weight, &|head| head)?,
                    keys: frozen.read(&block.attn.k.weight.tensor()?.t()?.contiguous()?)?,
                    key_factor: key_factor(trace, layer, n)?,
                    centres: c.centres(),
                    asking: (asking * f64::from(prepared.attend(layer).scale))?,
                    scores: scores.clone(),
                    prepared,
                    layer,
                    kv_head: (0..c.n_heads).map(kv).collect(),
                    d_head: c.d_head,
                })
            }
            _ => None,
        };
        Ok(Self {
            values: through(&readers.z[layer], &block.attn.v.weight, &kv)?,
            inverse_scale: frozen.divisor.iter().map(|s| s.recip()).collect(),
            pattern,
            n,
            n_heads: c.n_heads,
            attention,
        })
    }

    fn rows(&self, all: &Tensor, pairs: &[(usize, usize)]) -> Result<Tensor> {
        let d = all.dim(2)?;
        let flat = all.reshape((self.n * self.n_heads, d))?;
        let rows: Vec<u32> = pairs.iter().map(|(dest, head)| (dest * self.n_heads + head) as u32).collect();
        Ok(flat.index_select(&Tensor::from_vec(rows, pairs.len(), flat.device())?, 0)?)
    }

    fn at(&self, head: usize, dest: usize, src: usize) -> usize {
        (head * self.n + dest) * self.n + src
    }

    /// What (dest, head) pairs, rising and none before `src`, read of rows [m, d_model] that were written at `src`:
    /// [pair][m]. `inputs`, where given, is told through which input most of each goes.
    pub fn read(
        &self,
        src: usize,
        pairs: &[(usize, usize)],
        rows: &Tensor,
        inputs: Option<&mut Vec<Input>>,
    ) -> Result<Vec<f32>> {
        let m = rows.dim(0)?;
        if pairs.is_empty() || m == 0 {
            return Ok(Vec::new());
        }
        let columns = rows.t()?;
        let mut sum: Vec<f32> = self.rows(&self.values, pairs)?.matmul(&columns)?.flatten_all()?.to_vec1()?;
        for (row, (dest, head)) in sum.chunks_exact_mut(m).zip(pairs) {
            let weight = self.pattern[self.at(*head, *dest, src)] * self.inverse_scale[src];
            row.iter_mut().for_each(|v| *v *= weight);
        }
        let mut most = inputs.map(|list| {
            let start = list.len();
            list.resize(start + sum.len(), Input::Value);
            (list, start, sum.clone())
        });
        let mut add = |at: usize, v: f32, input: Input| {
            sum[at] += v;
            if let Some((list, start, largest)) = &mut most
                && v.abs() > largest[at].abs()
            {
                largest[at] = v;
                list[*start + at] = input;
            }
        };
        let Some(attention) = &self.attention else { return Ok(sum) };
        let keys = attention.keys_of(src, rows, self.inverse_scale[src])?;
        for (kv, keys) in keys.iter().enumerate() {
            let reading: Vec<usize> = (0..pairs.len()).filter(|i| attention.kv_head[pairs[*i].1] == kv).collect();
            if reading.is_empty() {
                continue;
            }
            let asking: Vec<(usize, usize)> = reading.iter().map(|i| pairs[*i]).collect();
            let product = self.rows(&attention.asking, &asking)?.matmul(&keys.t()?)?;
            let product: Vec<f32> = product.flatten_all()?.to_vec1()?;
            for (i, row) in reading.iter().zip(product.chunks_exact(m)) {
                let (dest, head) = pairs[*i];
                let gradient = attention.scores[self.at(head, dest, src)];
                row.iter().enumerate().for_each(|(j, v)| add(i * m + j, v * gradient, Input::Key));
            }
        }
        let own = &pairs[..pairs.partition_point(|p| p.0 == src)];
        if !own.is_empty() {
            let product: Vec<f32> = self.rows(&attention.queries, own)?.matmul(&columns)?.flatten_all()?.to_vec1()?;
            product.iter().enumerate().for_each(|(at, v)| add(at, v * self.inverse_scale[src], Input::Query));
        }
        Ok(sum)
    }

    /// What (dest, head) pairs contribute by what they read through their values: [pair]. `stream` is what the
    /// layer reads, [pos, d_model].
    pub fn contributions(&self, pairs: &[(usize, usize)], stream: &Tensor) -> Result<Vec<f64>> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let products: Vec<Vec<f32>> = self.rows(&self.values, pairs)?.matmul(&stream.t()?)?.to_vec2()?;
        let of = |((dest, head), row): (&(usize, usize), Vec<f32>)| {
            let part =
                |src: usize| f64::from(row[src] * self.pattern[self.at(*head, *dest, src)] * self.inverse_scale[src]);
            (0..=*dest).map(part).sum()
        };
        Ok(pairs.iter().zip(products).map(of).collect())
    }
}

impl AttentionReaders {
    /// Rows [m, d_model] at a position as keys that attention would see, by KV head [m, d_head].
    fn keys_of(&self, src: usize, rows: &Tensor, inverse_scale: f32) -> Result<Vec<Tensor>> {
        let m = rows.dim(0)?;
        let kv = self.keys.dim(0)? / self.d_head;
        let mut keys = (rows.matmul(&self.keys.t()?)? * f64::from(inverse_scale))?.reshape((1, m, kv, self.d_head))?;
        if let Some(factor) = &self.key_factor {
            if self.centres {
                keys = keys.broadcast_sub(&keys.mean_keepdim(3)?)?;
            }
            keys = keys.broadcast_mul(&factor.narrow(0, src, 1)?.unsqueeze(0)?)?;
        }
        if let Some(table) = self.prepared.rotation(self.layer) {
            keys = table.rows(&vec![src; m]).apply(&keys.contiguous()?)?;
        }
        (0..kv).map(|h| Ok(keys.narrow(2, h, 1)?.reshape((m, self.d_head))?)).collect()
    }
}

/// Gain over divisor of the norm on keys, [pos, kv_head, d_head].
fn key_factor(trace: &Trace, layer: usize, n: usize) -> Result<Option<Tensor>> {
    let c = &trace.model.config;
    let Some(Norm { weight: gain, .. }) = &trace.model.weights.blocks[layer].attn.k_norm else { return Ok(None) };
    let raw = trace.get(SiteKind::K, layer)?.narrow(0, 0, n)?.contiguous()?;
    // The norm goes over one head's keys or over all of them.
    let (rows, width) = match c.qk_norm {
        QkNorm::FullWidth => (n, c.n_kv_heads * c.d_head),
        _ => (n * c.n_kv_heads, c.d_head),
    };
    let divisor = normalize(&raw.reshape((rows, width))?, c.norm, false)?.1;
    let (heads, d) = (c.n_kv_heads, c.d_head);
    let gain = match c.qk_norm {
        QkNorm::PerHead => gain.reshape((1, 1, d))?,
        _ => gain.reshape((1, heads, d))?,
    };
    let divisor = match c.qk_norm {
        QkNorm::FullWidth => divisor.reshape((n, 1, 1))?,
        _ => divisor.reshape((n, heads, 1))?,
    };
    Ok(Some(gain.broadcast_div(&divisor)?))
}

/// Reading directions of a layer's MLP, [pos, d_model], each for its own position.
pub fn mlp_directions(trace: &Trace, readers: &Readers, layer: usize, n: usize) -> Result<Tensor> {
    let frozen = mlp_norm(trace, layer, n)?;
    let Some(mlp) = &trace.model.weights.blocks[layer].mlp else { return Err(Error::failed("the model has no MLP")) };
    let through = product::back(&(&readers.post[layer] * gate(trace, layer, n)?)?, &mlp.input.weight)?;
    divide(&frozen.read(&through)?, &frozen.divisor)
}

/// Reading directions of some of an MLP's neurons at one position, [neuron, d_model].
pub fn neuron_directions(
    trace: &Trace,
    readers: &Readers,
    layer: usize,
    pos: usize,
    neurons: &[u32],
    n: usize,
) -> Result<Tensor> {
    let frozen = mlp_norm(trace, layer, n)?;
    let Some(mlp) = &trace.model.weights.blocks[layer].mlp else { return Err(Error::failed("the model has no MLP")) };
    let chosen = Tensor::from_slice(neurons, neurons.len(), trace.resid_final.device())?;
    let factor = (readers.post[layer].get(pos)? * gate(trace, layer, n)?.get(pos)?)?.index_select(&chosen, 0)?;
    let weights = mlp.input.weight.outputs(neurons)?;
    let through = weights.broadcast_mul(&factor.unsqueeze(1)?)?;
    divide(&frozen.read(&through)?, &vec![frozen.divisor[pos]; neurons.len()])
}

/// Reading directions of logits, [target, d_model], at a position, out of directions [target, d_model] behind the final
/// norm.
pub fn logit_directions(trace: &Trace, directions: &Tensor, pos: usize) -> Result<Tensor> {
    let c = &trace.model.config;
    let row = trace.resid_final.narrow(0, pos, 1)?.contiguous()?;
    let frozen = FrozenNorm::of(&row, trace.model.weights.ln_final.as_ref(), c)?;
    divide(&frozen.read(directions)?, &vec![frozen.divisor[0]; directions.dim(0)?])
}

fn divide(rows: &Tensor, by: &[f32]) -> Result<Tensor> {
    Ok(rows.broadcast_div(&Tensor::from_slice(by, (by.len(), 1), rows.device())?)?)
}
