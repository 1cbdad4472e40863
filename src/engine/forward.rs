//! The forward pass of the canonical block. Shapes carry a leading batch axis: the residual stream is
//! [batch, pos, d_model].

use candle_core::Tensor;

use super::hooks::Hooks;
use super::kernels::attention::{Attend, mix};
use super::kernels::{activation, norm, rotary};
use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::jobs::Progress;
use crate::model::config::{ModelConfig, NormPlacement, Parallel, Positions, QkNorm};
use crate::model::weights::{Attention, Linear, Mlp, Norm, Weights};

/// What a pass needs beyond the weights, for positions 0..n.
pub struct Prepared {
    /// Rotary tables, one per distinct rotation; `tables[table_of[layer]]`.
    tables: Vec<rotary::Table>,
    table_of: Vec<Option<usize>>,
    attend: Vec<Attend>,
}

impl Prepared {
    pub fn new(config: &ModelConfig, n: usize) -> Self {
        let mut distinct = Vec::new();
        let mut table_of = vec![None; config.n_layers];
        if let Positions::Rotary(layers) = &config.positions {
            for (slot, rotary) in table_of.iter_mut().zip(layers) {
                let at = distinct.iter().position(|r| *r == rotary).unwrap_or_else(|| {
                    distinct.push(rotary);
                    distinct.len() - 1
                });
                *slot = Some(at);
            }
        }
        let slopes = config.alibi_slopes();
        let attend = (0..config.n_layers)
            .map(|l| Attend {
                scale: config.attn_scale[l],
                softcap: config.attn_softcap,
                window: config.window[l],
                slopes: slopes.clone(),
            })
            .collect();
        Self { tables: distinct.into_iter().map(|r| rotary::Table::new(r, 0, n)).collect(), table_of, attend }
    }

    pub fn attend(&self, layer: usize) -> &Attend {
        &self.attend[layer]
    }
}

/// A config with its weights: everything a pass reads.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    pub config: &'a ModelConfig,
    pub weights: &'a Weights,
}

/// x · weight + bias for x [batch, pos, input].
fn linear(x: &Tensor, layer: &Linear) -> Result<Tensor> {
    let (b, t, d) = x.dims3()?;
    let y = x.reshape((b * t, d))?.matmul(&layer.weight)?;
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
        let (b, t) = (ids.len(), ids.first().map_or(0, |r| r.len()));
        let device = self.weights.unembed.device();
        let flat = Tensor::from_vec(ids.concat(), b * t, device)?;
        let mut x = match &self.weights.embed {
            Some(table) => table.index_select(&flat, 0)?,
            None => self.weights.unembed.index_select(&flat, 1)?.t()?.contiguous()?,
        };
        if (self.config.embed_scale - 1.0).abs() > f32::EPSILON {
            x = (x * f64::from(self.config.embed_scale))?;
        }
        let mut x = x.reshape((b, t, self.config.d_model))?;
        if let Some(n) = &self.weights.embed_norm {
            x = norm::apply(&x, self.config.norm, n)?;
        }
        x = visit(hooks, Site::new(SiteKind::Embed, 0), x)?;
        if let Some(table) = &self.weights.pos_embed {
            x = x.broadcast_add(&table.narrow(0, 0, t)?)?;
        }
        Ok(x)
    }

    /// One block: resid_pre to resid_post, both [batch, pos, d_model].
    pub fn block(&self, layer: usize, resid: Tensor, prepared: &Prepared, hooks: &mut dyn Hooks) -> Result<Tensor> {
        let block =
            self.weights.blocks.get(layer).ok_or_else(|| Error::failed(format!("the model has no layer {layer}")))?;
        let at = |kind| Site::new(kind, layer);
        let resid = visit(hooks, at(SiteKind::ResidPre), resid)?;
        let x1 = self.norm(&resid, block.ln1.as_ref(), at(SiteKind::Ln1Scale), at(SiteKind::Ln1Normalized), hooks)?;
        let attn_out = self.attention(layer, &x1, &block.attn, prepared, hooks)?;
        let attn_out = self.post_norm(attn_out, block.ln1_post.as_ref())?;
        let attn_out = visit(hooks, at(SiteKind::AttnOut), attn_out)?;
        let Some(mlp) = &block.mlp else {
            return visit(hooks, at(SiteKind::ResidPost), (resid + attn_out)?);
        };
        let (ln2_scale, ln2_normalized) = (at(SiteKind::Ln2Scale), at(SiteKind::Ln2Normalized));
        let (carried, x2) = match self.config.parallel {
            Parallel::Sequential => {
                let mid = visit(hooks, at(SiteKind::ResidMid), (resid + attn_out)?)?;
                let x2 = self.norm(&mid, block.ln2.as_ref(), ln2_scale, ln2_normalized, hooks)?;
                (mid, x2)
            }
            Parallel::SharedNorm => ((resid + attn_out)?, x1),
            Parallel::OwnNorms => {
                let x2 = self.norm(&resid, block.ln2.as_ref(), ln2_scale, ln2_normalized, hooks)?;
                ((resid + attn_out)?, x2)
            }
        };
        let mlp_out = self.mlp(layer, &x2, mlp, hooks)?;
        let mlp_out = self.post_norm(mlp_out, block.ln2_post.as_ref())?;
        let mlp_out = visit(hooks, at(SiteKind::MlpOut), mlp_out)?;
        visit(hooks, at(SiteKind::ResidPost), (carried + mlp_out)?)
    }

    fn norm(
        &self,
        x: &Tensor,
        n: Option<&Norm>,
        scale: Site,
        normalized: Site,
        hooks: &mut dyn Hooks,
    ) -> Result<Tensor> {
        let Some(n) = n else { return Ok(x.clone()) };
        if !hooks.wants(scale) && !hooks.wants(normalized) {
            return Ok(norm::apply(x, self.config.norm, n)?);
        }
        let (value, divisor) = norm::normalize(x, self.config.norm)?;
        let changed = visit(hooks, scale, divisor.clone())?;
        let value = if changed.id() == divisor.id() { value } else { (value * divisor)?.broadcast_div(&changed)? };
        let value = visit(hooks, normalized, value)?;
        Ok(norm::affine(&value, n)?)
    }

    fn post_norm(&self, x: Tensor, n: Option<&Norm>) -> Result<Tensor> {
        match n {
            Some(n) if self.config.norm_placement != NormPlacement::Pre => Ok(norm::apply(&x, self.config.norm, n)?),
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
        let q = visit(hooks, at(SiteKind::Q), heads(linear(x, &weights.q)?, c.n_heads)?)?;
        let k = visit(hooks, at(SiteKind::K), heads(linear(x, &weights.k)?, c.n_kv_heads)?)?;
        let v = visit(hooks, at(SiteKind::V), heads(linear(x, &weights.v)?, c.n_kv_heads)?)?;
        let (mut q, mut k) = (self.qk_norm(q, weights.q_norm.as_ref())?, self.qk_norm(k, weights.k_norm.as_ref())?);
        if let Some(table) = prepared.table_of[layer].and_then(|i| prepared.tables.get(i)) {
            q = visit(hooks, at(SiteKind::RotQ), table.apply(&q)?)?;
            k = visit(hooks, at(SiteKind::RotK), table.apply(&k)?)?;
        }
        let attend = prepared.attend(layer);
        let (wants_scores, wants_pattern) = (hooks.wants(at(SiteKind::AttnScores)), hooks.wants(at(SiteKind::Pattern)));
        let z = if wants_scores || wants_pattern {
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

    fn qk_norm(&self, x: Tensor, gain: Option<&Tensor>) -> Result<Tensor> {
        let Some(gain) = gain else { return Ok(x) };
        let (b, t, h, d) = x.dims4()?;
        let n = Norm { weight: gain.clone(), bias: None };
        Ok(match self.config.qk_norm {
            QkNorm::None => x,
            QkNorm::PerHead => norm::apply(&x, self.config.norm, &n)?,
            QkNorm::FullWidth => {
                norm::apply(&x.reshape((b, t, h * d))?, self.config.norm, &n)?.reshape((b, t, h, d))?
            }
        })
    }

    fn mlp(&self, layer: usize, x: &Tensor, weights: &Mlp, hooks: &mut dyn Hooks) -> Result<Tensor> {
        let at = |kind| Site::new(kind, layer);
        let act = self.config.activation;
        let post = match &weights.gate {
            Some(gate) => {
                let pre = visit(hooks, at(SiteKind::MlpPre), linear(x, gate)?)?;
                let pre_linear = visit(hooks, at(SiteKind::MlpPreLinear), linear(x, &weights.input)?)?;
                activation::gated(&pre, &pre_linear, act)?
            }
            None => {
                let pre = visit(hooks, at(SiteKind::MlpPre), linear(x, &weights.input)?)?;
                activation::apply(&pre, act)?
            }
        };
        let post = visit(hooks, at(SiteKind::MlpPost), post)?;
        linear(&post, &weights.output)
    }

    /// The final norm of a residual stream [batch, pos, d_model].
    pub fn final_norm(&self, resid: &Tensor, hooks: &mut dyn Hooks) -> Result<Tensor> {
        let site = |kind| Site::new(kind, 0);
        self.norm(
            resid,
            self.weights.ln_final.as_ref(),
            site(SiteKind::LnFinalScale),
            site(SiteKind::LnFinalNormalized),
            hooks,
        )
    }

    /// Logits [.., d_vocab] of normalised rows [n, d_model].
    pub fn unembed(&self, normalized: &Tensor) -> Result<Tensor> {
        let mut logits = normalized.matmul(&self.weights.unembed)?;
        if let Some(bias) = &self.weights.unembed_bias {
            logits = logits.broadcast_add(bias)?;
        }
        if let Some(cap) = self.config.final_softcap.map(f64::from) {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(logits)
    }

    /// All blocks: the last resid_post [batch, pos, d_model] of `ids` [batch, pos].
    ///
    /// # Errors
    /// An empty or over-long prompt, ids outside the vocabulary, or [`Error::Cancelled`].
    pub fn forward(&self, ids: &[&[u32]], hooks: &mut dyn Hooks, progress: &Progress) -> Result<Tensor> {
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
        let prepared = Prepared::new(self.config, n);
        progress.expect(self.config.n_layers as u64);
        let mut resid = self.embed(ids, hooks)?;
        for layer in 0..self.config.n_layers {
            progress.check()?;
            resid = self.block(layer, resid, &prepared, hooks)?;
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

fn visit(hooks: &mut dyn Hooks, site: Site, value: Tensor) -> Result<Tensor> {
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
