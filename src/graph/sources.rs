//! A run taken apart for attribution: everything that writes to the residual stream, position by position, and how
//! each component reads it once attention patterns, norm scales and MLP gates are held still.
//!
//! What a component writes is split in two. The part that is linear in the residual stream belongs to the
//! component; the rest (biases, offsets of norms) belongs to an error node of its layer and position. So all
//! parts add up to the stream, and what arrives at a component adds up to what it writes.

use candle_core::Tensor;

use crate::engine::frozen::FrozenNorm;
use crate::engine::gradient::{Along, differentiate};
use crate::engine::kernels::activation;
use crate::engine::{Freeze, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::jobs::Progress;
use crate::model::config::Parallel;
use crate::model::weights::Norm;

/// Which row of [`Sources::at`] is whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Token,
    Head {
        layer: usize,
        head: usize,
    },
    Mlp {
        layer: usize,
    },
    /// What the linear account of a layer leaves out.
    Error {
        layer: usize,
    },
}

/// The parts of the stream at every position up to the target's.
pub struct Sources {
    n_heads: usize,
    mlp: bool,
    errors: bool,
    /// The final norm has an offset or the unembedding a bias: an error behind the last layer.
    offset: bool,
    parallel: bool,
    n_layers: usize,
    /// [pos][source][d_model], sources in the order of [`Self::index`].
    rows: Vec<Tensor>,
    /// What errors have written when the MLP of their layer reads: [layer] of [pos, d_model]. Empty without errors.
    early: Vec<Tensor>,
}

impl Sources {
    /// # Errors
    /// A prompt whose parts would not fit in memory.
    pub fn of(trace: &Trace, n: usize, progress: &Progress) -> Result<Self> {
        let c = &trace.model.config;
        let (d, n_heads, n_layers) = (c.d_model, c.n_heads, c.n_layers);
        let mlp = c.has_mlp();
        let errors = has_errors(trace);
        let mut sources = Self {
            n_heads,
            mlp,
            errors,
            offset: trace.model.weights.unembed_bias.is_some()
                || trace.model.weights.ln_final.as_ref().is_some_and(|n| n.bias.is_some()),
            parallel: c.parallel != Parallel::Sequential,
            n_layers,
            rows: Vec::new(),
            early: Vec::new(),
        };
        let bytes = 8 * sources.count() * n * d;
        if bytes > 8 << 30 {
            return Err(Error::request(format!(
                "taking {n} positions apart would need {:.0} GB of memory; trace an earlier position or shorten the prompt",
                bytes as f64 / 1e9
            )));
        }
        let first = |t: Tensor| -> Result<Tensor> { Ok(t.narrow(0, 0, n)?.contiguous()?) };
        // [source] of [pos, d]
        let mut parts = vec![first(trace.get(SiteKind::ResidPre, 0)?)?];
        progress.expect(n_layers as u64);
        for layer in 0..n_layers {
            progress.check()?;
            let block = &trace.model.weights.blocks[layer];
            let z = first(trace.get(SiteKind::Z, layer)?)?;
            // Attention weights sum to one, so that constants of the values come through as they are.
            let constant = value_constant(trace, layer)?;
            let mut written = Vec::new();
            for head in 0..n_heads {
                let mut own = z.narrow(1, head, 1)?.squeeze(1)?;
                if let Some(constant) = &constant {
                    let kv = c.kv_head(head);
                    own = own.broadcast_sub(&constant.narrow(0, kv * c.d_head, c.d_head)?)?;
                }
                let o = block.attn.o.weight.narrow(0, head * c.d_head, c.d_head)?;
                written.push(own.contiguous()?.matmul(&o)?);
            }
            let attn_out = first(trace.get(SiteKind::AttnOut, layer)?)?;
            if let Some(post) = &block.ln1_post {
                let mut raw = z.reshape((n, n_heads * c.d_head))?.matmul(&block.attn.o.weight)?;
                if let Some(b) = &block.attn.o.bias {
                    raw = raw.broadcast_add(b)?;
                }
                let frozen = FrozenNorm::of(&raw, Some(post), c)?;
                written = written.iter().map(|w| frozen.apply(w)).collect::<Result<_>>()?;
            }
            let mut error = if errors {
                let mut rest = attn_out;
                for w in &written {
                    rest = (rest - w)?;
                }
                sources.early.push(rest.clone());
                Some(rest)
            } else {
                None
            };
            parts.extend(written);
            if mlp {
                let out = first(trace.value(Site::new(SiteKind::MlpOut, layer))?)?;
                let linear = if errors { linear_mlp(trace, layer, n)? } else { out.clone() };
                if let Some(e) = error.take() {
                    error = Some(((e + out)? - &linear)?);
                }
                parts.push(linear);
            }
            parts.extend(error);
            progress.step(1)?;
        }
        // By position, so that what one position's readers see lies together.
        let all = Tensor::stack(&parts, 1)?;
        sources.rows = (0..n).map(|p| Ok(all.get(p)?.contiguous()?)).collect::<Result<_>>()?;
        Ok(sources)
    }

    fn per_layer(&self) -> usize {
        self.n_heads + usize::from(self.mlp) + usize::from(self.errors)
    }

    /// Sources at one position.
    pub fn count(&self) -> usize {
        self.before(self.n_layers) + usize::from(self.offset)
    }

    pub fn source(&self, index: usize) -> Source {
        if index == 0 {
            return Source::Token;
        }
        if index >= self.before(self.n_layers) {
            return Source::Error { layer: self.n_layers };
        }
        let (layer, at) = ((index - 1) / self.per_layer(), (index - 1) % self.per_layer());
        if at < self.n_heads {
            Source::Head { layer, head: at }
        } else if self.mlp && at == self.n_heads {
            Source::Mlp { layer }
        } else {
            Source::Error { layer }
        }
    }

    pub fn index(&self, source: Source) -> usize {
        let base = |layer: usize| 1 + layer * self.per_layer();
        match source {
            Source::Token => 0,
            Source::Head { layer, head } => base(layer) + head,
            Source::Mlp { layer } => base(layer) + self.n_heads,
            Source::Error { layer } if layer == self.n_layers => base(layer),
            Source::Error { layer } => base(layer) + self.per_layer() - 1,
        }
    }

    /// Sources that stand before a layer's attention.
    pub fn before(&self, layer: usize) -> usize {
        1 + layer * self.per_layer()
    }

    /// [sources, d_model] at a position: those before a layer's attention.
    pub fn at(&self, pos: usize, before_layer: usize) -> Result<Tensor> {
        Ok(self.rows[pos].narrow(0, 0, self.before(before_layer))?)
    }

    /// What an MLP reads at a position, [sources, d_model], and the index of each row's source.
    pub fn before_mlp(&self, pos: usize, layer: usize) -> Result<(Tensor, Vec<usize>)> {
        let n = self.before(layer);
        let mut index: Vec<usize> = (0..n).collect();
        let mut rows = self.rows[pos].narrow(0, 0, n)?;
        if !self.parallel {
            index.extend(n..n + self.n_heads);
            rows = self.rows[pos].narrow(0, 0, n + self.n_heads)?;
            if self.errors {
                index.push(self.index(Source::Error { layer }));
                rows = Tensor::cat(&[rows, self.early[layer].narrow(0, pos, 1)?], 0)?;
            }
        }
        Ok((rows, index))
    }
}

/// Whether anything in the model writes what is not linear in the stream, once patterns, scales and gates are held.
fn has_errors(trace: &Trace) -> bool {
    let w = &trace.model.weights;
    let offset = |n: &Option<Norm>| n.as_ref().is_some_and(|n| n.bias.is_some());
    w.blocks.iter().any(|b| {
        offset(&b.ln1)
            || offset(&b.ln1_post)
            || offset(&b.ln2)
            || offset(&b.ln2_post)
            || b.attn.v.bias.is_some()
            || b.attn.o.bias.is_some()
            || b.mlp.as_ref().is_some_and(|m| m.input.bias.is_some() || m.output.bias.is_some())
    })
}

/// What values hold whatever the stream is: the norm's offset through W_V, and the bias; [kv_heads · d_head].
fn value_constant(trace: &Trace, layer: usize) -> Result<Option<Tensor>> {
    let block = &trace.model.weights.blocks[layer];
    let through = match block.ln1.as_ref().and_then(|n| n.bias.as_ref()) {
        Some(offset) => Some(offset.unsqueeze(0)?.matmul(&block.attn.v.weight)?.squeeze(0)?),
        None => None,
    };
    Ok(match (through, &block.attn.v.bias) {
        (Some(a), Some(b)) => Some((a + b)?),
        (a, b) => a.or_else(|| b.clone()),
    })
}

/// Values of an MLP's gate, [pos, d_mlp]: act(pre) of gated MLPs, act(pre)/pre of plain ones.
fn gate(trace: &Trace, layer: usize, n: usize) -> Result<Tensor> {
    let c = &trace.model.config;
    let pre = trace.value(Site::new(SiteKind::MlpPre, layer))?.narrow(0, 0, n)?.contiguous()?;
    if c.gated_mlp {
        return Ok(activation::apply(&pre, c.activation, false)?);
    }
    let post = trace.get(SiteKind::MlpPost, layer)?.narrow(0, 0, n)?;
    // Where the linear factor vanishes so does the product, and the gate is whatever one likes.
    let tiny = pre.abs()?.lt(1e-20)?.to_dtype(pre.dtype())?;
    Ok((post / (pre + (tiny * 1e-20)?)?)?)
}

fn mlp_norm(trace: &Trace, layer: usize, n: usize) -> Result<FrozenNorm> {
    let c = &trace.model.config;
    let block = &trace.model.weights.blocks[layer];
    let (kind, norm) = match c.parallel {
        Parallel::Sequential => (SiteKind::ResidMid, &block.ln2),
        Parallel::SharedNorm => (SiteKind::ResidPre, &block.ln1),
        Parallel::OwnNorms => (SiteKind::ResidPre, &block.ln2),
    };
    FrozenNorm::of(&trace.get(kind, layer)?.narrow(0, 0, n)?.contiguous()?, norm.as_ref(), c)
}

/// What an MLP writes linearly in the stream, [pos, d_model].
fn linear_mlp(trace: &Trace, layer: usize, n: usize) -> Result<Tensor> {
    let c = &trace.model.config;
    let block = &trace.model.weights.blocks[layer];
    let Some(mlp) = &block.mlp else { return Err(Error::failed("the model has no MLP")) };
    let kind = if c.parallel == Parallel::Sequential { SiteKind::ResidMid } else { SiteKind::ResidPre };
    let stream = trace.get(kind, layer)?.narrow(0, 0, n)?.contiguous()?;
    let x = mlp_norm(trace, layer, n)?.apply(&stream)?;
    let out = (x.matmul(&mlp.input.weight)? * gate(trace, layer, n)?)?.matmul(&mlp.output.weight)?;
    let Some(post) = &block.ln2_post else { return Ok(out) };
    let mut raw = trace.get(SiteKind::MlpPost, layer)?.narrow(0, 0, n)?.contiguous()?.matmul(&mlp.output.weight)?;
    if let Some(b) = &mlp.output.bias {
        raw = raw.broadcast_add(b)?;
    }
    FrozenNorm::of(&raw, Some(post), c)?.apply(&out)
}

/// How every component reads the stream on behalf of one target: gradients of the target through everything
/// above it, with patterns, scales and gates frozen.
pub struct Readers {
    /// At z, [layer] of [pos, head, d_head].
    pub z: Vec<Tensor>,
    /// At the MLP's neurons, [layer] of [pos, d_mlp].
    pub post: Vec<Tensor>,
}

impl Readers {
    /// Of the metric `direction` [d_model] · normalised final row at the last of `n` positions.
    pub fn of(trace: &Trace, n: usize, direction: &Tensor, progress: &Progress) -> Result<Self> {
        let c = &trace.model.config;
        let mut kinds = vec![SiteKind::Z];
        if c.has_mlp() {
            kinds.push(SiteKind::MlpPost);
        }
        let along = Along {
            network: trace.model.network(),
            ids: &trace.ids[..n],
            embeddings: None,
            kinds: &kinds,
            keep: &[],
            freeze: Freeze::ALL,
            heads_apart: false,
            pos: n - 1,
        };
        let metric = |row: &Tensor| Ok(row.squeeze(0)?.mul(direction)?.sum_all()?);
        let passes = differentiate(&along, metric, progress)?;
        let of = |kind| -> Result<Vec<Tensor>> {
            (0..c.n_layers).map(|l| Ok(passes.gradient(Site::new(kind, l))?.squeeze(0)?)).collect()
        };
        Ok(Self { z: of(SiteKind::Z)?, post: if c.has_mlp() { of(SiteKind::MlpPost)? } else { Vec::new() } })
    }
}

/// One layer's heads as readers of the stream.
pub struct HeadReaders {
    /// [pos, head, d_model]: what head h at a destination reads of any source position, before the source's scale.
    directions: Tensor,
    /// 1 / scale of ln1 by position.
    inverse_scale: Vec<f32>,
    /// [head][dest][src]
    pattern: Vec<f32>,
    n: usize,
    n_heads: usize,
}

impl HeadReaders {
    pub fn of(trace: &Trace, readers: &Readers, layer: usize, n: usize) -> Result<Self> {
        let c = &trace.model.config;
        let block = &trace.model.weights.blocks[layer];
        let stream = trace.get(SiteKind::ResidPre, layer)?.narrow(0, 0, n)?.contiguous()?;
        let frozen = FrozenNorm::of(&stream, block.ln1.as_ref(), c)?;
        let mut directions = Vec::new();
        for head in 0..c.n_heads {
            let g = readers.z[layer].narrow(1, head, 1)?.squeeze(1)?.contiguous()?;
            let v = block.attn.v.weight.narrow(1, c.kv_head(head) * c.d_head, c.d_head)?.contiguous()?;
            directions.push(frozen.read(&g.matmul(&v.t()?)?)?);
        }
        let pattern = trace.pattern(layer)?.narrow(1, 0, n)?.narrow(2, 0, n)?.contiguous()?.flatten_all()?.to_vec1()?;
        Ok(Self {
            directions: Tensor::stack(&directions, 1)?,
            inverse_scale: frozen.divisor.iter().map(|s| s.recip()).collect(),
            pattern,
            n,
            n_heads: c.n_heads,
        })
    }

    /// Reading directions of (dest, head) pairs, [pairs, d_model].
    pub fn directions(&self, pairs: &[(usize, usize)]) -> Result<Tensor> {
        let d = self.directions.dim(2)?;
        let flat = self.directions.reshape((self.n * self.n_heads, d))?;
        let rows: Vec<u32> = pairs.iter().map(|(dest, head)| (dest * self.n_heads + head) as u32).collect();
        Ok(flat.index_select(&Tensor::from_vec(rows, pairs.len(), flat.device())?, 0)?)
    }

    /// What a source's projection on a reading direction is multiplied with.
    pub fn weight(&self, head: usize, dest: usize, src: usize) -> f32 {
        self.pattern[(head * self.n + dest) * self.n + src] * self.inverse_scale[src]
    }
}

/// Reading directions of a layer's MLP, [pos, d_model], each for its own position.
pub fn mlp_directions(trace: &Trace, readers: &Readers, layer: usize, n: usize) -> Result<Tensor> {
    let frozen = mlp_norm(trace, layer, n)?;
    let Some(mlp) = &trace.model.weights.blocks[layer].mlp else { return Err(Error::failed("the model has no MLP")) };
    let through = (&readers.post[layer] * gate(trace, layer, n)?)?.matmul(&mlp.input.weight.t()?)?;
    divide(&frozen.read(&through)?, &frozen.divisor)
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
