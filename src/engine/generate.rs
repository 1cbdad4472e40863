//! Generates text under edits, one token at a time. Keys and values of earlier positions are cached, so that each step
//! computes one position only.

use std::sync::Arc;

use candle_core::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::editor::Editor;
use super::forward::Prepared;
use super::hooks::{Capture, Chain};
use super::kernels::segments::{Past, Segment};
use super::logits::{largest_indices, row_summary};
use super::resolve::Op;
use super::resume::bytes_per_row;
use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::model::Model;
use crate::model::config::Positions;
use crate::progress::Progress;

/// The rules by which the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 always takes the most probable token.
    pub temperature: f32,
    /// Only the k most probable tokens; 0 for all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks the settings.
    ///
    /// # Errors
    /// The settings leave no token to choose.
    pub fn check(&self) -> Result<()> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return Err(Error::request(format!(
                "a temperature of {} is not possible; give 0 or more",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::request(format!(
                "top-p {} is not possible; give more than 0 and at most 1",
                self.top_p
            )));
        }
        Ok(())
    }

    /// Chooses a token by one row of logits.
    fn choose(&self, logits: &[f32], random: &mut ChaCha8Rng) -> Result<usize> {
        let nothing =
            || Error::failed("the logits hold no number to choose a token by; an edit may have made them infinite");
        if self.temperature == 0.0 || self.top_k == 1 {
            return largest_indices(logits, 1).first().copied().filter(|i| logits[*i].is_finite()).ok_or_else(nothing);
        }
        let mut order: Vec<usize> = (0..logits.len()).filter(|i| !logits[*i].is_nan()).collect();
        let better = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if self.top_k > 0 && self.top_k < order.len() {
            order.select_nth_unstable_by(self.top_k, better);
            order.truncate(self.top_k);
        }
        order.sort_unstable_by(better);
        let top = order.first().map(|i| logits[*i]).filter(|l| l.is_finite()).ok_or_else(nothing)?;
        let mut weights: Vec<f64> =
            order.iter().map(|i| f64::from((logits[*i] - top) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let kept = weights.iter().position(|w| {
            reached += w / total;
            reached >= f64::from(self.top_p)
        });
        weights.truncate(kept.map_or(weights.len(), |k| k + 1));
        let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
        for (i, w) in order.iter().zip(&weights) {
            left -= w;
            if left <= 0.0 {
                return Ok(*i);
            }
        }
        Ok(order[weights.len() - 1])
    }
}

/// A generated token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generated {
    pub id: u32,
    /// Its probability in the (edited) model, before temperature and cut-offs.
    pub prob: f32,
}

/// Why a continuation came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// This token ends a text; it is the last one generated.
    End(u32),
    /// There are as many tokens as were asked for.
    Limit,
    /// The model reads no longer text.
    Context,
}

impl Stopped {
    /// Returns the reason in words, to stand behind "stopped".
    pub fn words(self, model: &Model) -> String {
        match self {
            Self::End(id) => format!("at the end token `{}`", model.token_text(id)),
            Self::Limit => "at the number of tokens asked for".to_owned(),
            Self::Context => format!("at the model's context of {} tokens", model.config.n_ctx),
        }
    }

    /// Returns the reason for a document.
    pub fn json(self, model: &Model) -> serde_json::Value {
        match self {
            Self::End(id) => serde_json::json!({"reason": "end", "id": id, "text": model.token_text(id)}),
            Self::Limit => serde_json::json!({"reason": "limit"}),
            Self::Context => serde_json::json!({"reason": "context"}),
        }
    }
}

/// A generated text and why it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    pub tokens: Vec<Generated>,
    pub stopped: Stopped,
}

/// Continues `ids` by at most `limit` tokens under edits. Stops at every token that ends the model's texts and at the end
/// of the context. Hands each token to `each` as soon as it is chosen.
///
/// # Errors
/// As a forward pass; impossible sampling settings; [`Error::Cancelled`] (tokens already handed out stay valid).
pub fn generate(
    model: &Arc<Model>,
    ids: &[u32],
    edits: &Arc<Vec<Op>>,
    sampling: Sampling,
    limit: usize,
    progress: &Progress,
    mut each: impl FnMut(Generated),
) -> Result<Continuation> {
    sampling.check()?;
    let network = model.network();
    network.check(ids)?;
    let config = network.config;
    let keys = 8 * config.n_layers * config.n_kv_heads * config.d_head;
    let what = format!("reading a prompt of {} tokens", ids.len());
    afford(ids.len() * (keys + bytes_per_row(config)), &what, "shorten the prompt")?;
    let room = config.n_ctx - ids.len();
    let mut stopped = if limit <= room { Stopped::Limit } else { Stopped::Context };
    let limit = limit.min(room);
    progress.expect(limit as u64);
    let rotary = matches!(config.positions, Positions::Rotary(_));
    let by_length = config.rotates_by_length();
    let key_site = if rotary { SiteKind::RotK } else { SiteKind::K };
    let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
    let prepared = Prepared::new(config, ids.len() + limit);
    let mut past: Vec<Past> = Vec::new();
    let mut out: Vec<Generated> = Vec::new();
    // The keys that attention uses, and the values, as edited.
    let captured = |capture: &mut Capture, layer: usize| -> Result<(Tensor, Tensor)> {
        let mut take = |kind| {
            let site = Site::new(kind, layer);
            let value = capture.get(site)?;
            capture.values.remove(&site);
            Ok::<_, Error>(value)
        };
        Ok((take(key_site)?, take(SiteKind::V)?))
    };
    while out.len() < limit {
        progress.check()?;
        let last = out.last().map(|g| [g.id]);
        let (fresh, start): (&[u32], usize) = match &last {
            None => (ids, 0),
            Some(one) => (one, ids.len() + out.len() - 1),
        };
        let rows = fresh.len();
        let mut editor = Editor::single(edits.clone(), start, rows);
        let mut capture = Capture::kinds(config, &[key_site, SiteKind::V]);
        let segment = Segment { first: 0, rows, start };
        let mut plan = match (start, by_length) {
            (0, _) => Prepared::new(config, rows),
            // Keys that are kept stay turned as they were, as in transformers.
            (_, true) => Prepared::new(config, start + rows).resume(vec![segment]),
            _ => prepared.resume(vec![segment]),
        };
        let mut resid = network.embed_from(&[fresh], start, &mut editor)?;
        for layer in 0..config.n_layers {
            progress.check()?;
            if start > 0 {
                plan.set_past(past[layer].clone());
            }
            resid = network.block(layer, resid, &plan, &mut Chain(&mut editor, &mut capture))?;
            let (keys, values) = captured(&mut capture, layer)?;
            match past.get_mut(layer) {
                Some(p) => {
                    p.keys = Tensor::cat(&[&p.keys, &keys], 0)?;
                    p.values = Tensor::cat(&[&p.values, &values], 0)?;
                }
                None => past.push(Past { keys: keys.contiguous()?, values: values.contiguous()? }),
            }
        }
        let row = resid.narrow(1, rows - 1, 1)?.contiguous()?;
        editor.place(0, Segment { first: 0, rows: 1, start: start + rows - 1 });
        let normalized = network.final_norm(&row, &mut editor)?.squeeze(0)?;
        let logits = network.unembed(&normalized)?.flatten_all()?.to_vec1::<f32>()?;
        let id = sampling.choose(&logits, &mut random)?;
        let prob = (logits[id] - row_summary(&logits, 0, &[]).log_sum).exp();
        let token = Generated { id: id as u32, prob };
        out.push(token);
        each(token);
        progress.step(1)?;
        if model.stops.contains(&token.id) {
            stopped = Stopped::End(token.id);
            break;
        }
    }
    Ok(Continuation { tokens: out, stopped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_offs_and_seed() {
        let logits = [1.0f32, 3.0, 2.0, f32::NEG_INFINITY];
        let draw = |s: Sampling| {
            let mut random = ChaCha8Rng::seed_from_u64(s.seed);
            (0..200).map(|_| s.choose(&logits, &mut random).unwrap()).collect::<Vec<_>>()
        };
        assert!(draw(Sampling::default()).iter().all(|i| *i == 1));
        let free = Sampling { temperature: 1.0, ..Sampling::default() };
        let drawn = draw(free);
        assert_eq!(drawn, draw(free));
        assert_ne!(drawn, draw(Sampling { seed: 1, ..free }));
        // p = e³/(e³+e²+e) = 0.665 for token 1, and never the impossible one.
        let share = drawn.iter().filter(|i| **i == 1).count() as f64 / 200.0;
        assert!((share - 0.665).abs() < 0.1, "{share}");
        assert!(drawn.contains(&0) && !drawn.contains(&3));
        assert!(!draw(Sampling { top_k: 2, ..free }).contains(&0));
        assert!(draw(Sampling { top_p: 0.6, ..free }).iter().all(|i| *i == 1));
        assert!(!draw(Sampling { top_p: 0.7, ..free }).contains(&0));
        assert!(Sampling { top_p: 0.0, ..free }.check().is_err());
        assert!(Sampling { temperature: f32::NAN, ..free }.check().is_err());
    }
}
