//! A run taken apart for attribution: everything that writes to the residual stream, [source][d_model] by position.
//! [`super::readers`] has the other half: how each component reads it.
//!
//! What a component writes is split in two. The part that is linear in the residual stream belongs to the component; the
//! rest (biases, offsets of norms) belongs to an error node of its layer and position. So all parts add up to the stream,
//! and what arrives at a component adds up to what it writes.

use candle_core::Tensor;

use super::readers::{gate, mlp_norm};
use crate::engine::frozen::FrozenNorm;
use crate::engine::kernels::product;
use crate::engine::{Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::model::config::Parallel;
use crate::model::weights::Norm;
use crate::progress::Progress;

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
        c.adds_up()?;
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
        let what = format!("taking {n} positions apart");
        afford(bytes, &what, "trace an earlier position or shorten the prompt")?;
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
                written.push(product::apply(&own, &o)?);
            }
            let attn_out = first(trace.get(SiteKind::AttnOut, layer)?)?;
            if let Some(frozen) = attn_post(trace, layer, n)? {
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

    /// One source at a position, [1, d_model].
    pub fn row(&self, pos: usize, index: usize) -> Result<Tensor> {
        Ok(self.rows[pos].narrow(0, index, 1)?)
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
        Some(offset) => Some(product::apply(&offset.unsqueeze(0)?, &block.attn.v.weight)?.squeeze(0)?),
        None => None,
    };
    Ok(match (through, &block.attn.v.bias) {
        (Some(a), Some(b)) => Some((a + b)?),
        (a, b) => a.or_else(|| b.clone()),
    })
}

/// What an MLP writes linearly in the stream, [pos, d_model].
fn linear_mlp(trace: &Trace, layer: usize, n: usize) -> Result<Tensor> {
    let Some(mlp) = &trace.model.weights.blocks[layer].mlp else { return Err(Error::failed("the model has no MLP")) };
    let out = product::apply(&linear_neurons(trace, layer, n)?, &mlp.output.weight)?;
    match mlp_post(trace, layer, n)? {
        Some(post) => post.apply(&out),
        None => Ok(out),
    }
}

/// What an MLP's neurons hold linearly in the stream, with the gates held still, [pos, d_mlp].
pub fn linear_neurons(trace: &Trace, layer: usize, n: usize) -> Result<Tensor> {
    let c = &trace.model.config;
    let Some(mlp) = &trace.model.weights.blocks[layer].mlp else { return Err(Error::failed("the model has no MLP")) };
    let kind = if c.parallel == Parallel::Sequential { SiteKind::ResidMid } else { SiteKind::ResidPre };
    let stream = trace.get(kind, layer)?.narrow(0, 0, n)?.contiguous()?;
    let x = mlp_norm(trace, layer, n)?.apply(&stream)?;
    Ok((product::apply(&x, &mlp.input.weight)? * gate(trace, layer, n)?)?)
}

/// The norm on attention's output, held at the run's scale; `None` where the output is added as it is.
pub fn attn_post(trace: &Trace, layer: usize, n: usize) -> Result<Option<FrozenNorm>> {
    let (c, block) = (&trace.model.config, &trace.model.weights.blocks[layer]);
    let Some(post) = &block.ln1_post else { return Ok(None) };
    let z = trace.get(SiteKind::Z, layer)?.narrow(0, 0, n)?.contiguous()?;
    let mut raw = product::apply(&z.reshape((n, c.n_heads * c.d_head))?, &block.attn.o.weight)?;
    if let Some(b) = &block.attn.o.bias {
        raw = raw.broadcast_add(b)?;
    }
    Ok(Some(FrozenNorm::of(&raw, Some(post), c)?))
}

/// The norm on an MLP's output, held at the run's scale; `None` where the output is added as it is.
pub fn mlp_post(trace: &Trace, layer: usize, n: usize) -> Result<Option<FrozenNorm>> {
    let block = &trace.model.weights.blocks[layer];
    let (Some(post), Some(mlp)) = (&block.ln2_post, &block.mlp) else { return Ok(None) };
    let mut raw = product::apply(&trace.get(SiteKind::MlpPost, layer)?.narrow(0, 0, n)?, &mlp.output.weight)?;
    if let Some(b) = &mlp.output.bias {
        raw = raw.broadcast_add(b)?;
    }
    Ok(Some(FrozenNorm::of(&raw, Some(post), &trace.model.config)?))
}
