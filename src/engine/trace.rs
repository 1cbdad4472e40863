//! A trace: what a run leaves behind for the analyses. It keeps the residual stream, keys and queries, and the sites
//! that views read. Attention patterns are computed again from q and k for each layer or head, and never stored: at a
//! few thousand tokens they would outgrow everything else.

use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

use super::editor::Editor;
use super::forward::Prepared;
use super::hooks::{Capture, Chain, Hooks, NoHooks};
use super::kernels::segments::{Past, Segment};
use super::logits::{self, Ranked};
use super::resolve::Op;
use super::resume::bytes_per_row;
use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::config::Positions;
use crate::progress::Progress;

/// Number of tokens that the ranking of each position keeps.
pub const TOP: usize = 10;

/// One run of a model on one prompt. It is never changed, so that it can be shared.
pub struct Trace {
    pub model: Arc<Model>,
    pub ids: Vec<u32>,
    capture: Capture,
    /// The last block's output, [pos, d_model].
    pub resid_final: Tensor,
    /// The most probable next tokens after each position.
    pub next: Vec<Vec<Ranked>>,
    /// Surprise of each token given those before it, −ln p in nats; `None` for the first token.
    pub loss: Vec<Option<f32>>,
    /// Entropy of the prediction after each position, nats.
    pub entropy: Vec<f32>,
    pub seconds: f64,
    /// The edits that the run was made under; empty for a plain run.
    edits: Arc<Vec<Op>>,
}

crate::identity!(Trace);

/// The part of a prompt that another has to begin with for its values to be taken: one in so many.
const SHARED: usize = 4;

/// Bytes of a layer's patterns that are computed together; longer ones go head by head.
const TOGETHER: usize = if cfg!(test) { 1 << 10 } else { 256 << 20 };

impl Trace {
    /// The kinds that a trace keeps: those that views read, and those that a run can be resumed from.
    const KEPT: [SiteKind; 13] = [
        SiteKind::Embed,
        SiteKind::ResidPre,
        SiteKind::Q,
        SiteKind::K,
        SiteKind::V,
        SiteKind::RotQ,
        SiteKind::RotK,
        SiteKind::Z,
        SiteKind::AttnOut,
        SiteKind::ResidMid,
        SiteKind::MlpPost,
        SiteKind::MlpOut,
        SiteKind::ResidPost,
    ];

    fn capture_for(model: &Model) -> Capture {
        Capture::kinds(&model.config, &Self::KEPT)
    }

    /// Returns the bytes that a trace of `positions` tokens will take.
    pub fn bytes_for(model: &Model, positions: usize) -> usize {
        Self::capture_for(model).bytes(&model.config, positions)
    }

    /// Runs the model on `ids`.
    ///
    /// # Errors
    /// As [`crate::model::Network::forward`].
    pub fn run(model: &Arc<Model>, ids: Vec<u32>, progress: &Progress) -> Result<Self> {
        Self::run_edited(model, ids, Arc::default(), progress)
    }

    /// The number of first tokens of `ids` whose values a run of them can take from this one. None where this run is edited,
    /// where the rotation depends on the prompt's length and the lengths differ, or where these are few, since copying all
    /// values takes time and memory too. At least one token is left to compute.
    pub fn shares(&self, ids: &[u32]) -> usize {
        let by_length = self.model.config.rotates_by_length() && self.len() != ids.len();
        if !self.edits.is_empty() || by_length {
            return 0;
        }
        let alike = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        Some(alike.min(ids.len().saturating_sub(1))).filter(|shared| SHARED * shared >= ids.len()).unwrap_or(0)
    }

    /// As [`Self::run`] of the same model. The first tokens that both prompts have in common are not computed again: by
    /// causality nothing that follows changes them. Equal to a whole run but for rounding.
    ///
    /// # Errors
    /// As [`crate::model::Network::forward`].
    pub fn run_after(before: &Self, ids: Vec<u32>, progress: &Progress) -> Result<Self> {
        let (model, shared) = (&before.model, before.shares(&ids));
        // The same prompt has the same values to the last digit: a pair that does not differ is known by that.
        if before.ids == ids && before.edits.is_empty() {
            progress.check()?;
            return Ok(before.again());
        }
        if shared == 0 {
            return Self::run(model, ids, progress);
        }
        let (started, network, rows) = (Instant::now(), model.network(), ids.len() - shared);
        network.check(&ids)?;
        // What is new is held by itself until it is put behind what was there.
        Self::afford_run(model, ids.len(), Self::bytes_for(model, rows))?;
        let mut capture = Self::capture_for(model);
        let segment = Segment { first: 0, rows, start: shared };
        let mut plan = Prepared::new(network.config, ids.len()).resume(vec![segment]);
        progress.expect((network.config.n_layers + rows + 1) as u64);
        let mut resid = network.embed_from(&[&ids[shared..]], shared, &mut capture)?;
        for layer in 0..network.config.n_layers {
            progress.check()?;
            plan.set_past(before.past(layer)?);
            resid = network.block(layer, resid, &plan, &mut capture)?;
            progress.step(1)?;
        }
        let resid_final = joined(&before.resid_final, 0, shared, &resid.squeeze(0)?)?;
        capture.follow(&before.capture, |there, own| joined(there, 1, shared, own))?;
        // The last token before says of the first new one how surprising it is.
        let first = shared - 1;
        let asked = |r: usize| ids.get(first + r + 1).copied().into_iter().collect();
        let last = resid_final.narrow(0, first, rows + 1)?.contiguous()?;
        let new = logits::summarise(network, &last, TOP, asked, &mut NoHooks, progress)?;
        let surprise = new.iter().filter_map(|r| r.asked.first().map(|(logit, _)| Some(r.log_sum - logit)));
        Ok(Self {
            model: model.clone(),
            loss: before.loss[..shared].iter().copied().chain(surprise).collect(),
            entropy: before.entropy[..first].iter().copied().chain(new.iter().map(|r| r.entropy)).collect(),
            next: before.next[..first].iter().cloned().chain(new.into_iter().map(|r| r.top)).collect(),
            capture,
            resid_final,
            ids,
            edits: Arc::default(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The same run; the values are shared.
    fn again(&self) -> Self {
        Self {
            model: self.model.clone(),
            ids: self.ids.clone(),
            capture: self.capture.clone(),
            resid_final: self.resid_final.clone(),
            next: self.next.clone(),
            loss: self.loss.clone(),
            entropy: self.entropy.clone(),
            seconds: self.seconds,
            edits: self.edits.clone(),
        }
    }

    /// Refuses a run of `n` tokens that would not fit in memory, with so many bytes more.
    fn afford_run(model: &Model, n: usize, more: usize) -> Result<()> {
        let logits = 4 * logits::rows_at_once(n, model.config.d_vocab) * model.config.d_vocab;
        let bytes = Self::bytes_for(model, n) + (n * bytes_per_row(&model.config)).max(logits);
        afford(bytes + more, &format!("keeping what a run of {n} tokens computes"), model.room())
    }

    /// Runs the model on `ids` under edits.
    ///
    /// # Errors
    /// As [`crate::model::Network::forward`].
    pub fn run_edited(model: &Arc<Model>, ids: Vec<u32>, edits: Arc<Vec<Op>>, progress: &Progress) -> Result<Self> {
        let started = Instant::now();
        let edges = edits.iter().any(|op| matches!(op.site.kind, SiteKind::Pattern | SiteKind::AttnScores));
        Self::afford_run(model, ids.len(), if edges { edited_maps(&model.config, ids.len()) } else { 0 })?;
        let mut capture = Self::capture_for(model);
        let network = model.network();
        // The forward pass counts one step for each layer, the logits one for each position.
        progress.expect(ids.len() as u64);
        let mut editor = Editor::single(edits.clone(), 0, ids.len());
        let resid_final = network.forward(&[&ids], &mut Chain(&mut editor, &mut capture), progress)?.squeeze(0)?;
        let asked = |r: usize| ids.get(r + 1).copied().into_iter().collect();
        let rows = logits::summarise(network, &resid_final, TOP, asked, &mut editor, progress)?;
        let mut loss = vec![None];
        loss.extend(rows.iter().filter_map(|r| r.asked.first().map(|(logit, _)| Some(r.log_sum - logit))));
        Ok(Self {
            model: model.clone(),
            capture,
            resid_final,
            loss,
            entropy: rows.iter().map(|r| r.entropy).collect(),
            next: rows.into_iter().map(|r| r.top).collect(),
            ids,
            edits,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the mean surprise over all tokens but the first, in nats (the loss); `None` for a single token.
    pub fn mean_loss(&self) -> Option<f32> {
        let known: Vec<f32> = self.loss.iter().copied().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f32>() / known.len() as f32)
    }

    /// Returns a site's value, without the batch axis.
    ///
    /// # Errors
    /// The trace does not keep this site.
    pub fn get(&self, kind: SiteKind, layer: usize) -> Result<Tensor> {
        self.capture.get(Site::new(kind, layer))
    }

    /// Returns the edits that the run was made under.
    pub fn edits(&self) -> &Arc<Vec<Op>> {
        &self.edits
    }

    /// Returns a site's value without the batch axis. Where the trace does not keep it, it is computed again from the
    /// residual stream.
    ///
    /// # Errors
    /// The model does not have this site.
    pub fn value(&self, site: Site) -> Result<Tensor> {
        if let Ok(value) = self.capture.get(site) {
            return Ok(value);
        }
        let c = &self.model.config;
        if !site.kind.exists(c) || site.layer >= c.n_layers {
            return Err(Error::request(format!("this model has no site {site}")));
        }
        if site.kind == SiteKind::Pattern && !self.edits_patterns(site.layer) {
            return self.pattern(site.layer);
        }
        let mut editor = Editor::single(self.edits.clone(), 0, self.len());
        let mut capture = Capture::sites([site]);
        let mut hooks = Chain(&mut editor, &mut capture);
        if site.kind.layered() {
            if matches!(site.kind, SiteKind::Pattern | SiteKind::AttnScores) {
                self.afford("the attention patterns", edited_maps(c, self.len()))?;
            }
            // The stored resid_pre has its edits already. An edit that adds would be applied twice, so that edits of
            // resid_pre are hidden from the second pass.
            let mut hooks = Without { site: Site::new(SiteKind::ResidPre, site.layer), inner: &mut hooks };
            let resid = self.get(SiteKind::ResidPre, site.layer)?.unsqueeze(0)?;
            self.model.network().block(site.layer, resid, &Prepared::new(c, self.len()), &mut hooks)?;
        } else {
            self.model.network().final_norm(&self.resid_final.unsqueeze(0)?, &mut hooks)?;
        }
        capture.get(site)
    }

    /// Returns the keys (as attention uses them) and values of a layer, for runs that resume from this one.
    pub fn past(&self, layer: usize) -> Result<Past> {
        let (_, k) = self.queries_and_keys(layer)?;
        Ok(Past { keys: k.squeeze(0)?, values: self.get(SiteKind::V, layer)? })
    }

    /// True where the run's patterns were edited in a layer.
    fn edits_patterns(&self, layer: usize) -> bool {
        self.edits
            .iter()
            .any(|op| op.site.layer == layer && matches!(op.site.kind, SiteKind::Pattern | SiteKind::AttnScores))
    }

    /// Refuses patterns that would not fit in memory.
    fn afford(&self, what: &str, bytes: usize) -> Result<()> {
        afford(bytes, &format!("{what} of {} tokens", self.len()), self.model.room())
    }

    /// Returns all attention patterns of a layer, [head, dest, src].
    ///
    /// # Errors
    /// They would take too much memory.
    pub fn pattern(&self, layer: usize) -> Result<Tensor> {
        if self.edits_patterns(layer) {
            return self.value(Site::new(SiteKind::Pattern, layer));
        }
        // The size counts twice, since readers copy the patterns.
        self.afford("the attention patterns", 8 * self.model.config.n_heads * self.len() * self.len())?;
        let (q, k) = self.queries_and_keys(layer)?;
        let prepared = Prepared::new(&self.model.config, 0);
        Ok(prepared.attend(layer).pattern(&q, &k)?.squeeze(0)?)
    }

    /// Shows each head's attention pattern, [dest, src] flat, and returns what `see` makes of them. Long ones are computed head
    /// by head, so that those of a layer are never held together.
    ///
    /// # Errors
    /// One would take too much memory.
    pub fn each_pattern<T: Send>(&self, layer: usize, see: impl Fn(&[f32]) -> T + Send + Sync) -> Result<Vec<T>> {
        let (heads, cells) = (self.model.config.n_heads, self.len() * self.len());
        if self.edits_patterns(layer) || 4 * heads * cells <= TOGETHER {
            let all: Vec<f32> = self.pattern(layer)?.flatten_all()?.to_vec1()?;
            return Ok(all.par_chunks(cells.max(1)).map(see).collect());
        }
        (0..heads).map(|h| Ok(see(&self.head_pattern(layer, h)?.flatten_all()?.to_vec1::<f32>()?))).collect()
    }

    /// Returns the mean over the heads' attention patterns, [dest, src].
    ///
    /// # Errors
    /// As [`Self::each_pattern`].
    pub fn mean_pattern(&self, layer: usize) -> Result<Tensor> {
        let heads = self.model.config.n_heads;
        if self.edits_patterns(layer) || 4 * heads * self.len() * self.len() <= TOGETHER {
            return Ok(self.pattern(layer)?.mean(0)?);
        }
        let mut sum = self.head_pattern(layer, 0)?;
        for head in 1..heads {
            sum = (sum + self.head_pattern(layer, head)?)?;
        }
        Ok((sum / heads as f64)?)
    }

    /// Returns one head's attention pattern, [dest, src].
    pub fn head_pattern(&self, layer: usize, head: usize) -> Result<Tensor> {
        let c = &self.model.config;
        if layer >= c.n_layers || head >= c.n_heads {
            return Err(Error::request(format!(
                "there is no head {layer}.{head}; layers go to {} and heads to {}",
                c.n_layers - 1,
                c.n_heads - 1
            )));
        }
        if self.edits_patterns(layer) {
            return Ok(self.pattern(layer)?.get(head)?.contiguous()?);
        }
        self.afford("an attention pattern", 8 * self.len() * self.len())?;
        let (q, k) = self.queries_and_keys(layer)?;
        let q = q.narrow(2, head, 1)?.contiguous()?;
        let k = k.narrow(2, c.kv_head(head), 1)?.contiguous()?;
        let mut attend = Prepared::new(c, 0).attend(layer).clone();
        attend.slopes = attend.slopes.map(|s| vec![s[head]]);
        Ok(attend.pattern(&q, &k)?.squeeze(0)?.squeeze(0)?)
    }

    /// Returns q and k as attention uses them, [1, pos, head, d_head] and [1, pos, kv_head, d_head].
    fn queries_and_keys(&self, layer: usize) -> Result<(Tensor, Tensor)> {
        let rotary = matches!(self.model.config.positions, Positions::Rotary(_));
        let (q, k) = if rotary { (SiteKind::RotQ, SiteKind::RotK) } else { (SiteKind::Q, SiteKind::K) };
        Ok((self.get(q, layer)?.unsqueeze(0)?, self.get(k, layer)?.unsqueeze(0)?))
    }

    /// Returns the residual stream before layer `layer`, or after the last one where `layer` is n_layers; [pos,
    /// d_model].
    pub fn resid(&self, layer: usize) -> Result<Tensor> {
        if layer == self.model.config.n_layers {
            Ok(self.resid_final.clone())
        } else {
            self.get(SiteKind::ResidPre, layer)
        }
    }

    /// Returns the final norm's divisor at each position, [pos, 1].
    pub fn final_scale(&self) -> Result<Tensor> {
        let site = Site::new(SiteKind::LnFinalScale, 0);
        self.value(site)
    }

    /// Returns the final residual row at `pos` after the final norm, [1, d_model]. The unembedding reads it.
    pub fn normalized(&self, pos: usize) -> Result<Tensor> {
        if pos >= self.len() {
            return Err(Error::request(format!(
                "position {pos} is outside the prompt of {} tokens; positions count from 0",
                self.len()
            )));
        }
        let mut editor = Editor::new(vec![self.edits.clone()]);
        editor.place(0, Segment { first: 0, rows: 1, start: pos });
        let row = self.resid_final.narrow(0, pos, 1)?.unsqueeze(0)?;
        Ok(self.model.network().final_norm(&row, &mut editor)?.squeeze(0)?)
    }

    /// Returns the text of the token at a position.
    pub fn token_text(&self, pos: usize) -> String {
        self.ids.get(pos).map_or_else(String::new, |id| self.model.token_text(*id))
    }
}

/// The first `shared` of one tensor along an axis, then all of the other.
fn joined(before: &Tensor, axis: usize, shared: usize, own: &Tensor) -> Result<Tensor> {
    Ok(Tensor::cat(&[&before.narrow(axis, 0, shared)?, own], axis)?)
}

/// A hook that hides one site from other hooks.
struct Without<'a> {
    site: Site,
    inner: &'a mut dyn Hooks,
}

impl Hooks for Without<'_> {
    fn wants(&self, site: Site) -> bool {
        site != self.site && self.inner.wants(site)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        self.inner.visit(site, value)
    }
}
/// Bytes of a layer's edited attention: scores, pattern and the copies that editing makes of them.
fn edited_maps(config: &ModelConfig, n: usize) -> usize {
    16 * config.n_heads * n * n
}
