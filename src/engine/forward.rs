//! The forward pass of the canonical block. Shapes carry a leading batch axis: the residual stream is
//! [batch, pos, d_model].

use candle_core::{Device, Tensor};

use super::hooks::Hooks;
use super::kernels::attention::{self, Attend, mix};
use super::kernels::segments::{self, Past, Segment};
use super::kernels::{activation, math, norm, product, rotary, sum};
use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::model::Network;
use crate::model::config::{ModelConfig, NormPlacement, Parallel, Positions, QkNorm};
use crate::model::matrix::Matrix;
use crate::model::weights::{Attention, Linear, Mlp, Norm};
use crate::progress::Progress;

/// The parts that a backward pass treats as constants, so that the rest becomes linear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Freeze {
    /// The attention patterns.
    pub patterns: bool,
    /// The divisors of norms (those of q and k too).
    pub norms: bool,
    /// The MLP's gate: act(pre) of gated MLPs, act(pre)/pre of plain ones.
    pub gates: bool,
}

impl Freeze {
    /// Freezes everything that attribution graphs freeze.
    pub const ALL: Self = Self { patterns: true, norms: true, gates: true };

    /// Returns the names of the frozen parts, to be written on a result.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.patterns, "attention patterns"), (self.norms, "norm scales"), (self.gates, "MLP gates")];
        all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
    }
}

/// Rows of runs that resume in the middle of a sequence.
struct Resumed {
    segments: Vec<Segment>,
    /// Columns of a pattern: positions of the longest run.
    width: usize,
    /// Keys and values before the rows, of the layer that runs next.
    past: Option<Past>,
}

/// The tables and settings that a pass needs beside the weights.
pub struct Prepared {
    /// Rotary tables, one per distinct rotation; `tables[table_of[layer]]`.
    tables: Vec<rotary::Table>,
    table_of: Vec<Option<usize>>,
    attend: Vec<Attend>,
    freeze: Freeze,
    resumed: Option<Resumed>,
    /// Gives every query head a key and a value of its own: those that heads share are repeated before hooks see them.
    /// The divisor of a norm over several heads is then constant under differentiation.
    per_head_kv: bool,
}

impl Prepared {
    pub fn new(config: &ModelConfig, n: usize) -> Self {
        let mut distinct = Vec::new();
        let mut table_of = vec![None; config.n_layers];
        if let Positions::Rotary(layers) = &config.positions {
            for (slot, rotary) in table_of.iter_mut().zip(layers) {
                let Some(rotary) = rotary else { continue };
                let at = distinct.iter().position(|r| *r == rotary).unwrap_or_else(|| {
                    distinct.push(rotary);
                    distinct.len() - 1
                });
                *slot = Some(at);
            }
        }
        let slopes = match &config.positions {
            Positions::Alibi(slopes) => Some(slopes.clone()),
            _ => None,
        };
        let attend = (0..config.n_layers)
            .map(|l| Attend {
                scale: config.attn_scale[l],
                softcap: config.attn_softcap,
                window: config.window[l],
                slopes: slopes.clone(),
            })
            .collect();
        let tables = distinct.into_iter().map(|r| rotary::Table::new(r, 0, n)).collect();
        Self { tables, table_of, attend, freeze: Freeze::default(), resumed: None, per_head_kv: false }
    }

    /// Returns the same with parts held constant under differentiation.
    #[must_use]
    pub fn freezing(mut self, freeze: Freeze) -> Self {
        self.freeze = freeze;
        self
    }

    /// Returns the same with a key and a value of its own for every query head, and with norms over several heads
    /// frozen. A gradient then belongs to one head.
    #[must_use]
    pub fn per_head_kv(mut self, per_head_kv: bool) -> Self {
        self.per_head_kv = per_head_kv;
        self
    }

    /// Returns what rows of many runs need that lie one behind the other, made out of what all positions need.
    #[must_use]
    pub fn resume(&self, segments: Vec<Segment>) -> Self {
        let positions: Vec<usize> = segments.iter().flat_map(|s| s.start..s.end()).collect();
        let width = segments.iter().map(Segment::end).max().unwrap_or(0);
        Self {
            tables: self.tables.iter().map(|t| t.rows(&positions)).collect(),
            table_of: self.table_of.clone(),
            attend: self.attend.clone(),
            freeze: self.freeze,
            resumed: Some(Resumed { segments, width, past: None }),
            per_head_kv: self.per_head_kv,
        }
    }

    /// Sets the keys and values before the resumed rows, for the layer that runs next.
    pub fn set_past(&mut self, past: Past) {
        if let Some(resumed) = &mut self.resumed {
            resumed.past = Some(past);
        }
    }

    pub fn attend(&self, layer: usize) -> &Attend {
        &self.attend[layer]
    }

    /// Returns the rotary table of a layer, where it has one.
    pub fn rotation(&self, layer: usize) -> Option<&rotary::Table> {
        self.table_of[layer].and_then(|i| self.tables.get(i))
    }
}

/// x · weight + bias for x [batch, pos, input].
pub(super) fn linear(x: &Tensor, layer: &Linear) -> Result<Tensor> {
    let (b, t, d) = x.dims3()?;
    let y = product::apply(&x.reshape((b * t, d))?, &layer.weight)?;
    let y = match &layer.bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let width = y.dim(1)?;
    Ok(y.reshape((b, t, width))?)
}

impl Network<'_> {
    /// The embedding of `ids` [batch, pos] (all rows as long as the first), positions included:
    /// [batch, pos, d_model].
    pub fn embed(&self, ids: &[&[u32]], hooks: &mut dyn Hooks) -> Result<Tensor> {
        self.embed_from(ids, 0, hooks)
    }

    /// As [`Self::embed`] for tokens whose first stands at position `start`.
    pub fn embed_from(&self, ids: &[&[u32]], start: usize, hooks: &mut dyn Hooks) -> Result<Tensor> {
        let (b, t) = (ids.len(), ids.first().map_or(0, |r| r.len()));
        let flat = ids.concat();
        let (mut x, scale) = match &self.weights.embed {
            Some(table) => (table.inputs(&flat)?, self.config.embed_scale),
            // The scale of the logits is in the one table that both use.
            None => (self.weights.unembed.outputs(&flat)?, self.config.embed_scale / self.config.unembed_scale),
        };
        if (scale - 1.0).abs() > f32::EPSILON {
            x = (x * f64::from(scale))?;
        }
        let mut x = x.reshape((b, t, self.config.d_model))?;
        if let Some(n) = &self.weights.embed_norm {
            x = norm::apply(&x, self.config.norm, n, false)?;
        }
        x = visit(hooks, Site::new(SiteKind::Embed, 0), x)?;
        if let Some(table) = &self.weights.pos_embed {
            x = x.broadcast_add(&table.narrow(0, start, t)?)?;
        }
        Ok(x)
    }

    /// One block: resid_pre to resid_post, both [batch, pos, d_model].
    pub fn block(&self, layer: usize, resid: Tensor, prepared: &Prepared, hooks: &mut dyn Hooks) -> Result<Tensor> {
        let block =
            self.weights.blocks.get(layer).ok_or_else(|| Error::failed(format!("the model has no layer {layer}")))?;
        let at = |kind| Site::new(kind, layer);
        let resid = visit(hooks, at(SiteKind::ResidPre), resid)?;
        let frozen = prepared.freeze.norms;
        let x1 =
            self.norm(&resid, block.ln1.as_ref(), at(SiteKind::Ln1Scale), at(SiteKind::Ln1Normalized), frozen, hooks)?;
        let attn_out = self.attention(layer, &x1, &block.attn, prepared, hooks)?;
        let attn_out = self.post_norm(attn_out, block.ln1_post.as_ref(), frozen || prepared.per_head_kv)?;
        let attn_out = visit(hooks, at(SiteKind::AttnOut), attn_out)?;
        let Some(mlp) = &block.mlp else {
            return finite(
                visit(hooks, at(SiteKind::ResidPost), sum::add(&resid, &attn_out)?)?,
                at(SiteKind::ResidPost),
            );
        };
        let (ln2_scale, ln2_normalized) = (at(SiteKind::Ln2Scale), at(SiteKind::Ln2Normalized));
        let (carried, x2) = match self.config.parallel {
            Parallel::Sequential => {
                let mid = self.stream_norm(sum::add(&resid, &attn_out)?, block.ln1_post.as_ref(), frozen)?;
                let mid = visit(hooks, at(SiteKind::ResidMid), mid)?;
                let x2 = self.norm(&mid, block.ln2.as_ref(), ln2_scale, ln2_normalized, frozen, hooks)?;
                (mid, x2)
            }
            Parallel::SharedNorm => (sum::add(&resid, &attn_out)?, x1),
            Parallel::OwnNorms => {
                let x2 = self.norm(&resid, block.ln2.as_ref(), ln2_scale, ln2_normalized, frozen, hooks)?;
                (sum::add(&resid, &attn_out)?, x2)
            }
        };
        let mlp_out = self.mlp(layer, &x2, mlp, prepared.freeze.gates, hooks)?;
        let mlp_out = visit(hooks, at(SiteKind::MlpResult), mlp_out)?;
        let mlp_out = self.post_norm(mlp_out, block.ln2_post.as_ref(), frozen)?;
        let mlp_out = visit(hooks, at(SiteKind::MlpOut), mlp_out)?;
        let out = self.stream_norm(sum::add(&carried, &mlp_out)?, block.ln2_post.as_ref(), frozen)?;
        finite(visit(hooks, at(SiteKind::ResidPost), out)?, at(SiteKind::ResidPost))
    }

    fn norm(
        &self,
        x: &Tensor,
        n: Option<&Norm>,
        scale: Site,
        normalized: Site,
        frozen: bool,
        hooks: &mut dyn Hooks,
    ) -> Result<Tensor> {
        let Some(n) = n else { return Ok(x.clone()) };
        if !hooks.wants(scale) && !hooks.wants(normalized) {
            return Ok(norm::apply(x, self.config.norm, n, frozen)?);
        }
        let (value, divisor) = norm::normalize(x, self.config.norm, frozen)?;
        let changed = visit(hooks, scale, divisor.clone())?;
        let value = if changed.id() == divisor.id() {
            value
        } else {
            value.broadcast_mul(&divisor)?.broadcast_div(&changed)?
        };
        let value = visit(hooks, normalized, value)?;
        Ok(norm::affine(&value, n)?)
    }

    pub(crate) fn post_norm(&self, x: Tensor, n: Option<&Norm>, frozen: bool) -> Result<Tensor> {
        match n {
            Some(n) if self.config.norms_outputs() => Ok(norm::apply(&x, self.config.norm, n, frozen)?),
            _ => Ok(x),
        }
    }

    /// Normalises the residual stream itself, where a model does so.
    fn stream_norm(&self, x: Tensor, n: Option<&Norm>, frozen: bool) -> Result<Tensor> {
        match n {
            Some(n) if self.config.norm_placement == NormPlacement::Stream => {
                Ok(norm::apply(&x, self.config.norm, n, frozen)?)
            }
            _ => Ok(x),
        }
    }

    fn attention(
        &self,
        layer: usize,
        x: &Tensor,
        weights: &Attention,
        prepared: &Prepared,
        hooks: &mut dyn Hooks,
    ) -> Result<Tensor> {
        let c = self.config;
        let at = |kind| Site::new(kind, layer);
        let (b, t, _) = x.dims3()?;
        let heads = |y: Tensor, n: usize| y.reshape((b, t, n, c.d_head));
        let shared = |y: Tensor| {
            let y = heads(y, c.n_kv_heads)?;
            if prepared.per_head_kv { attention::repeat(&y, c.n_heads) } else { Ok(y) }
        };
        let q = visit(hooks, at(SiteKind::Q), heads(linear(x, &weights.q)?, c.n_heads)?)?;
        let k = visit(hooks, at(SiteKind::K), shared(linear(x, &weights.k)?)?)?;
        let v = visit(hooks, at(SiteKind::V), shared(linear(x, &weights.v)?)?)?;
        let frozen = prepared.freeze.norms || (prepared.per_head_kv && c.qk_norm == QkNorm::FullWidth);
        let mut q = self.qk_norm(q, weights.q_norm.as_ref(), frozen)?;
        let mut k = self.qk_norm(k, weights.k_norm.as_ref(), frozen)?;
        if let Some(table) = prepared.rotation(layer) {
            (q, k) = (table.apply(&q)?, table.apply(&k)?);
        }
        // A layer that turns nothing has these sites as well, where other layers turn.
        if matches!(c.positions, Positions::Rotary(_)) {
            q = visit(hooks, at(SiteKind::RotQ), q)?;
            k = visit(hooks, at(SiteKind::RotK), k)?;
        }
        let attend = prepared.attend(layer);
        let (wants_scores, wants_pattern) = (hooks.wants(at(SiteKind::AttnScores)), hooks.wants(at(SiteKind::Pattern)));
        let z = if let Some(resumed) = &prepared.resumed {
            let past = resumed.past.as_ref().ok_or_else(|| Error::failed("a resumed run was given no past"))?;
            if wants_scores || wants_pattern {
                let scores = segments::scores(attend, &q, &k, past, &resumed.segments, resumed.width)?;
                let scores = visit(hooks, at(SiteKind::AttnScores), scores)?;
                let pattern =
                    visit(hooks, at(SiteKind::Pattern), segments::softmax(attend, &scores, &resumed.segments)?)?;
                segments::mix(&pattern, &v, past, &resumed.segments)?
            } else {
                segments::attend(attend, &q, &k, &v, past, &resumed.segments)?
            }
        } else if prepared.freeze.patterns {
            let pattern = attend.pattern(&q.detach(), &k.detach())?;
            mix(&visit(hooks, at(SiteKind::Pattern), pattern)?, &v)?
        } else if wants_scores || wants_pattern {
            let pattern = if wants_scores {
                let scores = visit(hooks, at(SiteKind::AttnScores), attend.scores(&q, &k)?)?;
                attend.softmax(&scores)?
            } else {
                attend.pattern(&q, &k)?
            };
            let pattern = visit(hooks, at(SiteKind::Pattern), pattern)?;
            mix(&pattern, &v)?
        } else {
            attend.attend(&q, &k, &v)?
        };
        let z = visit(hooks, at(SiteKind::Z), z)?;
        linear(&z.reshape((b, t, c.n_heads * c.d_head))?, &weights.o)
    }

    /// Normalises queries or keys [batch, pos, head, d_head] before they turn.
    pub(super) fn qk_norm(&self, x: Tensor, n: Option<&Norm>, frozen: bool) -> Result<Tensor> {
        let Some(n) = n else { return Ok(x) };
        let (b, t, h, d) = x.dims4()?;
        // Keys that are repeated for each query head have repeated gains.
        let repeated = |gain: &Tensor| attention::repeat(&gain.reshape((1, 1, gain.dim(0)? / d, d))?, h);
        Ok(match self.config.qk_norm {
            QkNorm::None => x,
            QkNorm::PerHead => norm::apply(&x, self.config.norm, n, frozen)?,
            QkNorm::OwnGains => {
                norm::normalize(&x, self.config.norm, frozen)?.0.broadcast_mul(&repeated(&n.weight)?)?
            }
            QkNorm::FullWidth => {
                // The mean of the squares of repeated keys is the same.
                let n = Norm { weight: repeated(&n.weight)?.flatten_all()?, bias: None };
                norm::apply(&x.reshape((b, t, h * d))?, self.config.norm, &n, frozen)?.reshape((b, t, h, d))?
            }
        })
    }

    /// z [1, rows, 1, d_head] of one head by itself: q, k and v [1, rows, 1, d_head] as they were projected, rows as
    /// `prepared` was resumed for, `past` that head's own. Where a norm over all heads' queries or keys couples
    /// them, `divisors` [rows, 1] of q and k say what it divides by.
    pub(crate) fn attend_head(
        &self,
        layer: usize,
        head: usize,
        [q, k, v]: [Tensor; 3],
        prepared: &Prepared,
        past: &Past,
        divisors: Option<&[Tensor; 2]>,
    ) -> Result<Tensor> {
        let c = self.config;
        let weights = &self
            .weights
            .blocks
            .get(layer)
            .ok_or_else(|| Error::failed(format!("the model has no layer {layer}")))?
            .attn;
        let normed = |x: Tensor, n: Option<&Norm>, head: usize, divisor: Option<&Tensor>| -> Result<Tensor> {
            let Some(n) = n else { return Ok(x) };
            if matches!(c.qk_norm, QkNorm::None | QkNorm::PerHead) {
                return self.qk_norm(x, Some(n), false);
            }
            let gain = n.weight.narrow(0, head * c.d_head, c.d_head)?;
            let rows = x.dim(1)?;
            let x = match divisor {
                Some(divisor) => x.broadcast_div(&divisor.reshape((1, rows, 1, 1))?)?,
                None => norm::normalize(&x, c.norm, false)?.0,
            };
            Ok(x.broadcast_mul(&gain)?)
        };
        let mut q = normed(q, weights.q_norm.as_ref(), head, divisors.map(|d| &d[0]))?;
        let mut k = normed(k, weights.k_norm.as_ref(), c.kv_head(head), divisors.map(|d| &d[1]))?;
        if let Some(table) = prepared.rotation(layer) {
            q = table.apply(&q)?;
            k = table.apply(&k)?;
        }
        let mut attend = prepared.attend(layer).clone();
        attend.slopes = attend.slopes.map(|s| vec![s[head]]);
        let resumed = prepared.resumed.as_ref().ok_or_else(|| Error::failed("a head by itself needs resumed rows"))?;
        Ok(segments::attend(&attend, &q, &k, &v, past, &resumed.segments)?)
    }

    pub(crate) fn mlp(
        &self,
        layer: usize,
        x: &Tensor,
        weights: &Mlp,
        frozen: bool,
        hooks: &mut dyn Hooks,
    ) -> Result<Tensor> {
        let at = |kind| Site::new(kind, layer);
        let act = self.config.activation;
        if let (Some(router), Some(gate), Some(experts)) = (&weights.router, &weights.gate, self.config.experts) {
            return self.mixture(layer, x, (weights, router, gate), experts, frozen, hooks);
        }
        let post = match &weights.gate {
            Some(gate) => {
                let pre = visit(hooks, at(SiteKind::MlpPre), linear(x, gate)?)?;
                let pre_linear = visit(hooks, at(SiteKind::MlpPreLinear), linear(x, &weights.input)?)?;
                activation::gated(&pre, &pre_linear, act, frozen)?
            }
            None => {
                let pre = visit(hooks, at(SiteKind::MlpPre), linear(x, &weights.input)?)?;
                activation::apply(&pre, act, frozen)?
            }
        };
        let post = visit(hooks, at(SiteKind::MlpPost), post)?;
        linear(&post, &weights.output)
    }

    /// The final norm of a residual stream [batch, pos, d_model].
    pub fn final_norm(&self, resid: &Tensor, hooks: &mut dyn Hooks) -> Result<Tensor> {
        self.final_norm_frozen(resid, false, hooks)
    }

    /// As [`Self::final_norm`], with its scale held constant under differentiation if `frozen`.
    pub fn final_norm_frozen(&self, resid: &Tensor, frozen: bool, hooks: &mut dyn Hooks) -> Result<Tensor> {
        let site = |kind| Site::new(kind, 0);
        self.norm(
            resid,
            self.weights.ln_final.as_ref(),
            site(SiteKind::LnFinalScale),
            site(SiteKind::LnFinalNormalized),
            frozen,
            hooks,
        )
    }

    /// Logits [.., d_vocab] of normalised rows [n, d_model].
    pub fn unembed(&self, normalized: &Tensor) -> Result<Tensor> {
        self.logits_by(normalized, &self.weights.unembed, self.weights.unembed_bias.as_ref())
    }

    /// The unembedding of a few tokens only: (columns [d_model, ids], their biases).
    pub fn unembed_columns(&self, ids: &[u32]) -> Result<(Matrix, Option<Tensor>)> {
        let wanted = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?;
        let columns = self.weights.unembed.gathered(ids)?;
        let bias = self.weights.unembed_bias.as_ref().map(|b| b.index_select(&wanted, 0)).transpose()?;
        Ok((columns, bias))
    }

    /// Logits [.., columns] of normalised rows by chosen columns of the unembedding.
    pub fn logits_by(&self, normalized: &Tensor, columns: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut logits = product::apply(normalized, columns)?;
        if let Some(bias) = bias {
            logits = logits.broadcast_add(bias)?;
        }
        if let Some(cap) = self.config.final_softcap.map(f64::from) {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(logits)
    }

    /// Runs all blocks on `ids` [batch, pos] and returns the last resid_post [batch, pos, d_model].
    ///
    /// # Errors
    /// An empty or over-long prompt, ids outside the vocabulary, or [`Error::Cancelled`].
    pub fn forward(&self, ids: &[&[u32]], hooks: &mut dyn Hooks, progress: &Progress) -> Result<Tensor> {
        let n = ids.first().map_or(0, |r| r.len());
        self.forward_prepared(ids, &Prepared::new(self.config, n), hooks, progress)
    }

    /// As [`Self::forward`], with tables and settings that the caller has prepared.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_prepared(
        &self,
        ids: &[&[u32]],
        prepared: &Prepared,
        hooks: &mut dyn Hooks,
        progress: &Progress,
    ) -> Result<Tensor> {
        for row in ids {
            self.check(row)?;
        }
        let n = ids.first().map_or(0, |r| r.len());
        if n == 0 {
            return Err(Error::EmptyPrompt);
        }
        if ids.iter().any(|r| r.len() != n) {
            return Err(Error::request("the prompts of one batch differ in length; give prompts of equal length"));
        }
        progress.expect(self.config.n_layers as u64);
        let mut resid = self.embed(ids, hooks)?;
        for layer in 0..self.config.n_layers {
            progress.check()?;
            resid = self.block(layer, resid, prepared, hooks)?;
            progress.step(1)?;
        }
        Ok(resid)
    }

    /// # Errors
    /// An empty or over-long prompt, or an id outside the vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if ids.len() > self.config.n_ctx {
            return Err(Error::PromptTooLong { tokens: ids.len(), limit: self.config.n_ctx });
        }
        match ids.iter().find(|id| **id as usize >= self.config.d_vocab) {
            Some(id) => Err(Error::TokenOutOfRange { id: *id, d_vocab: self.config.d_vocab }),
            None => Ok(()),
        }
    }
}

/// Returns the stream [.., d_model] at a site if all of it is finite. Whatever a layer computes ends there, so that the
/// first place that is not tells where a run went wrong.
fn finite(resid: Tensor, site: Site) -> Result<Tensor> {
    all_finite(&resid, || site.to_string())?;
    Ok(resid)
}

/// # Errors
/// A number is NaN or infinite; `place` says in the sentence what it is of.
pub(super) fn all_finite(tensor: &Tensor, place: impl FnOnce() -> String) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        // The rows may be those of several runs, so that a row is no position.
        (candle_core::Storage::Cpu(cpu), Some((from, to))) => finite_values(&cpu.as_slice::<f32>()?[from..to], place),
        _ => Ok(()),
    }
}

/// # Errors
/// A number is NaN or infinite; `place` says in the sentence what it is of.
pub fn finite_values(values: &[f32], place: impl FnOnce() -> String) -> Result<()> {
    if math::all_finite(values) { Ok(()) } else { Err(overflow(&place())) }
}

/// The error for numbers that are too large to go on with; `place` is where they came first.
pub fn overflow(place: &str) -> Error {
    Error::failed(format!(
        "the run overflows: {place} is not finite; the weights, or an edit, are too large for 32-bit floats"
    ))
}

pub(super) fn visit(hooks: &mut dyn Hooks, site: Site, value: Tensor) -> Result<Tensor> {
    if !hooks.wants(site) {
        return Ok(value);
    }
    let shape = value.shape().clone();
    let value = hooks.visit(site, value)?;
    if *value.shape() != shape {
        return Err(Error::failed(format!("a hook replaced {site} {shape:?} by a value of shape {:?}", value.shape())));
    }
    Ok(value)
}
