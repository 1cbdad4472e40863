//! What can be known of an opened model without anybody's word: whether it predicts ordinary text as a working language
//! model does, whether its tokenizer gives a text back, and whether it wants the first token that its tokenizer puts.
//!
//! ```text
//! loss = mean −ln p(token | tokens before it), over 256 tokens of prose, its first one left out
//! ```
//!
//! A model that is read wrongly (transposed weights, other rotary positions, another model's tokenizer) still answers, and
//! every number is wrong. Its loss says so: it comes near ln(d_vocab), what knowing nothing costs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::NoHooks;
use crate::engine::logits::summarise;
use crate::error::Result;
use crate::files::{SMALL, cache_folder, read, read_text, write_atomic};
use crate::hash::Hash;
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// The text: English prose of the training sets' kind, ASCII.
pub const PROSE: &str = include_str!("../../assets/text/check.txt");
/// Letters beyond ASCII, signs, digits, code and spaces, which a tokenizer may lose.
const OTHER: &str = "Zoë's café: 3.14 × 10² = 314 €\n\tif (a != b) {\n\t\treturn \"東京\";  // 🙂\n\t}\n";
/// Tokens of the text that are looked at.
const TOKENS: usize = 256;
/// Vocabularies below this hold no prose: those of letters, or of numbers to add.
const SMALLEST: usize = 256;
/// Nats that the first token must save, on average over the text, to say that it belongs there.
const MATTERS: f64 = 0.25;

/// Of what is checked and how it is judged; to be raised where that changes, so that what is kept is not taken for it.
const EDITION: u32 = 1;

/// The loss above which no working language model lies, nats a token: 6 from 30,000 tokens on, else 0.6 · ln(d_vocab).
pub fn limit(d_vocab: usize) -> f64 {
    if d_vocab >= 30_000 { 6.0 } else { 0.6 * (d_vocab.max(1) as f64).ln() }
}

/// How well the text is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Predicted tokens.
    pub tokens: usize,
    pub nats_per_token: f64,
    pub bits_per_byte: f64,
    /// The loss that a working model stays under.
    pub limit: f64,
}

/// The token before a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstToken {
    /// The one that the tokenizer puts.
    pub puts: Option<u32>,
    /// The one that it names as the beginning of a sequence.
    pub names: Option<u32>,
    /// Those that `config.json` names.
    pub config: Vec<u32>,
    /// Nats a token with it and without; `None` where there is none to put.
    pub loss_with: Option<f64>,
    pub loss_without: Option<f64>,
    /// Whether the losses say that the tokenizer does right; `None` where they say nothing.
    pub agrees: Option<bool>,
}

/// What was checked of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// `None` where the model does not read prose.
    pub loss: Option<Loss>,
    /// Whether the tokens of the prose, and of other letters and signs, give the text back; `None` without a tokenizer.
    pub round_trip: Option<bool>,
    pub round_trip_other: Option<bool>,
    pub first: FirstToken,
    /// What was not checked and why, in sentences.
    pub remarks: Vec<String>,
    /// What speaks against the model, in sentences.
    pub warnings: Vec<String>,
}

/// Checks a model.
///
/// # Errors
/// A run that fails, and [`crate::Error::Cancelled`].
pub fn check(model: &Model, progress: &Progress) -> Result<Trust> {
    let mut trust = Trust {
        loss: None,
        round_trip: None,
        round_trip_other: None,
        first: FirstToken {
            puts: None,
            names: None,
            config: bos_of_config(model),
            loss_with: None,
            loss_without: None,
            agrees: None,
        },
        remarks: Vec::new(),
        warnings: Vec::new(),
    };
    let Some(tokenizer) = &model.tokenizer else {
        trust.remarks.push("The model has no tokenizer, so that its loss on text is not known.".to_owned());
        return Ok(trust);
    };
    trust.first.puts = tokenizer.start(false)?.first().copied();
    trust.first.names = tokenizer.bos_token();
    if model.config.d_vocab < SMALLEST {
        trust.remarks.push(format!(
            "The vocabulary of {} tokens holds no prose, so that the loss on it says nothing.",
            model.config.d_vocab
        ));
        return Ok(trust);
    }
    // Some tokenizers put a space before a text.
    let back = |text: &str| -> Result<bool> {
        let again = tokenizer.decode(&tokenizer.pieces(text)?);
        Ok(again == text || again.strip_prefix(' ') == Some(text))
    };
    let round_trip = back(PROSE)?;
    trust.round_trip = Some(round_trip);
    trust.round_trip_other = Some(back(OTHER)?);
    if !round_trip {
        trust.warnings.push(
            "The tokenizer does not give an English text back from its tokens: it lacks tokens, or is another model's."
                .to_owned(),
        );
    }
    losses(model, &mut trust, progress)?;
    judge(model, &mut trust);
    Ok(trust)
}

/// Measures the loss as the tokenizer begins a text, and the other way.
fn losses(model: &Model, trust: &mut Trust, progress: &Progress) -> Result<()> {
    let Some(tokenizer) = &model.tokenizer else { return Ok(()) };
    let mut ids = tokenizer.pieces(PROSE)?;
    ids.truncate(TOKENS.min(model.config.n_ctx.saturating_sub(1)));
    if ids.len() < 2 || model.network().check(&ids).is_err() {
        trust.remarks.push("The tokenizer gives no tokens for prose, so that the loss on it is not known.".to_owned());
        return Ok(());
    }
    let first = trust.first.puts.or(trust.first.names);
    progress.expect(ids.len() as u64 * if first.is_some() { 2 } else { 1 });
    trust.first.loss_without = Some(loss(model, &ids, 0, progress)?);
    if let Some(first) = first {
        let with: Vec<u32> = std::iter::once(first).chain(ids.iter().copied()).collect();
        trust.first.loss_with = Some(loss(model, &with, 1, progress)?);
    }
    let own = if trust.first.puts.is_some() { trust.first.loss_with } else { trust.first.loss_without };
    let bytes: usize = ids[1..].iter().map(|id| tokenizer.bytes(*id).len()).sum();
    trust.loss = own.map(|nats| Loss {
        tokens: ids.len() - 1,
        nats_per_token: nats,
        bits_per_byte: nats * (ids.len() - 1) as f64 / std::f64::consts::LN_2 / bytes.max(1) as f64,
        limit: limit(model.config.d_vocab),
    });
    Ok(())
}

/// Mean loss of the tokens behind `skip` + 1, nats: those that have a token of the text before them.
fn loss(model: &Model, ids: &[u32], skip: usize, progress: &Progress) -> Result<f64> {
    let network = model.network();
    let resid = network.forward(&[ids], &mut NoHooks, &Progress::new())?.squeeze(0)?;
    progress.check()?;
    let n = ids.len() - 1 - skip;
    let rows = resid.narrow(0, skip, n)?.contiguous()?;
    let summary = summarise(network, &rows, 0, |r| vec![ids[skip + r + 1]], &mut NoHooks, progress)?;
    let sum: f64 = summary.iter().filter_map(|r| r.asked.first().map(|(l, _)| f64::from(r.log_sum - l))).sum();
    Ok(sum / n as f64)
}

/// Says what speaks against the model.
fn judge(model: &Model, trust: &mut Trust) {
    let text = |id: u32| format!("{:?} ({id})", model.token_text(id));
    let first = &mut trust.first;
    if model.format == "built-in" {
        trust.remarks.push(
            "A built-in model is made for a task of its own, so that its loss on prose is not judged.".to_owned(),
        );
    } else if let Some(loss) = &trust.loss
        && loss.nats_per_token.is_nan() | (loss.nats_per_token > loss.limit)
    {
        trust.warnings.push(format!(
            "The loss on ordinary English is {:.2} nats a token, where a working language model of {} tokens stays under \
             {:.1}: the model is untrained, of another language, or read wrongly.",
            loss.nats_per_token, model.config.d_vocab, loss.limit
        ));
    }
    if let (Some(with), Some(without)) = (first.loss_with, first.loss_without)
        && with.min(without) <= limit(model.config.d_vocab)
    {
        let (own, other) = if first.puts.is_some() { (with, without) } else { (without, with) };
        first.agrees = Some(own <= other + MATTERS);
        if first.agrees == Some(false) {
            let id = first.puts.or(first.names).map(text).unwrap_or_default();
            let (does, should) = if first.puts.is_some() {
                (format!("The tokenizer puts {id} before a text"), "run on ids without it (--ids)")
            } else {
                (format!("The tokenizer puts nothing before a text, not {id} either"), "add it with --bos")
            };
            trust.warnings.push(format!(
                "{does}, where the model loses {own:.2} nats a token; otherwise it loses {other:.2}: {should}."
            ));
        }
    }
    if let Some(puts) = first.puts.filter(|id| !first.config.is_empty() && !first.config.contains(id)) {
        let config = first.config.iter().map(|id| text(*id)).collect::<Vec<_>>().join(" or ");
        trust.warnings.push(format!(
            "The tokenizer puts {} before a text, where config.json begins one with {config}: one of them is another \
             model's.",
            text(puts)
        ));
    }
}

/// `bos_token_id` of the folder's `config.json`: one, or several.
fn bos_of_config(model: &Model) -> Vec<u32> {
    let read = |path: &std::path::Path| {
        let config: serde_json::Value =
            serde_json::from_str(&read_text(&path.join("config.json"), SMALL).ok()?).ok()?;
        let id = |v: &serde_json::Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        match &config["bos_token_id"] {
            serde_json::Value::Array(list) => Some(list.iter().filter_map(id).collect()),
            one => id(one).map(|id| vec![id]),
        }
    };
    model.path.as_deref().and_then(read).unwrap_or_default()
}

/// Checks a model, once for ever: what was found is kept in the cache folder, by the model's weights and the tokens that its
/// tokenizer makes of the text.
///
/// # Errors
/// As [`check`].
pub fn known(model: &Model, progress: &Progress) -> Result<Trust> {
    if model.tokenizer.is_none() {
        return check(model, progress);
    }
    let mut key = Hash(model.fingerprint()?);
    let ids = model.tokenizer.as_ref().map(|t| t.encode(PROSE, false)).transpose()?.unwrap_or_default();
    let config = bos_of_config(model);
    key.all(ids.iter().chain(&config).map(|id| u64::from(*id)));
    let folder = cache_folder().join("checks");
    let path = folder.join(format!("{:016x}-{EDITION}.json", key.0));
    if let Some(trust) = read(&path, SMALL).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(trust);
    }
    let trust = check(model, progress)?;
    // Where nothing can be kept it is checked again the next time.
    if std::fs::create_dir_all(&folder).is_ok()
        && let Ok(bytes) = serde_json::to_vec(&trust)
    {
        let _ = write_atomic(&path, &bytes);
    }
    Ok(trust)
}

/// Asks what was checked of a model.
#[derive(Clone, PartialEq)]
pub struct TrustOf {
    pub model: Arc<Model>,
}

impl Question for TrustOf {
    type Answer = Trust;
    const LABEL: &'static str = "checking the model";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        known(&self.model, progress)
    }
}

impl Trust {
    /// The figures in one line.
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(loss) = &self.loss {
            parts.push(format!("{:.2} nats a token ({:.2} bits a byte)", loss.nats_per_token, loss.bits_per_byte));
        }
        match (self.round_trip, self.round_trip_other) {
            (Some(true), Some(true)) => parts.push("tokens give texts back".to_owned()),
            (Some(true), _) => parts.push("tokens give English back, not all signs".to_owned()),
            (Some(false), _) => parts.push("tokens do not give the text back".to_owned()),
            (None, _) => {}
        }
        match self.first.agrees {
            Some(true) => parts.push("first token right".to_owned()),
            Some(false) => parts.push("first token wrong".to_owned()),
            None => {}
        }
        if parts.is_empty() { "nothing could be checked".to_owned() } else { parts.join(" · ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_definition() {
        assert_eq!(limit(30_000), 6.0);
        assert_eq!(limit(256_000), 6.0);
        assert!((limit(1024) - 0.6 * 1024f64.ln()).abs() < 1e-12);
    }

    /// The loss, worked out here token by token from whole logits.
    #[test]
    fn the_loss_is_the_mean_over_predicted_tokens() {
        let model = Model::open("text").unwrap();
        let trust = check(&model, &Progress::new()).unwrap();
        let mut ids = model.pieces(PROSE).unwrap();
        ids.truncate(TOKENS.min(model.config.n_ctx - 1));
        let network = model.network();
        let resid = network.forward(&[&ids], &mut NoHooks, &Progress::new()).unwrap();
        let normalized = network.final_norm(&resid, &mut NoHooks).unwrap().squeeze(0).unwrap();
        let logits = network.unembed(&normalized).unwrap().to_vec2::<f32>().unwrap();
        let mut sum = 0f64;
        for (row, next) in logits.iter().zip(&ids[1..]) {
            let all: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            sum += all.ln() - f64::from(row[*next as usize]);
        }
        let mean = sum / (ids.len() - 1) as f64;
        let loss = trust.loss.unwrap();
        assert!((loss.nats_per_token - mean).abs() < 1e-4, "{loss:?} {mean}");
        let bytes = model.tokenizer.as_ref().unwrap().decode(&ids[1..]).len();
        assert!((loss.bits_per_byte - sum / 2f64.ln() / bytes as f64).abs() < 1e-4);
        assert!(trust.warnings.is_empty() && loss.nats_per_token < loss.limit, "{trust:?}");
    }
}
