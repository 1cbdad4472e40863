//! Reads `config.json`. Every option is used, or known to change nothing, or refused by name: an unknown option could
//! change the computation.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::config::{Activation, Rotary, RotaryScaling, RotaryStyle};
use crate::error::{Error, Result};

/// Options that do not change the forward pass.
const WITHOUT_EFFECT: &[&str] = &[
    "activation_dropout",
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "offset_alibi",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "unk_id",
    "head_dtype",
    "use_flash_attn",
    "tokenizer_type",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dropout",
    "dtype",
    "embd_pdrop",
    "embed_dropout",
    "embedding_dropout",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "init_std",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "layerdrop",
    "max_window_layers",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "reorder_and_upcast_attn",
    "resid_dropout",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "rope_interleaved",
    "slow_but_exact",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "_sliding_window_pattern",
    "cache_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attention_types",
    "seq_length",
];

/// A config that is being read. It remembers which options were asked for, so that the others can be refused.
pub struct Options<'a> {
    family: &'a str,
    map: &'a Map<String, Value>,
    used: RefCell<HashSet<String>>,
}

impl<'a> Options<'a> {
    pub fn new(family: &'a str, map: &'a Map<String, Value>) -> Self {
        let used = RefCell::new(HashSet::from(["model_type".to_owned()]));
        Self { family, map, used }
    }

    fn bad(&self, option: &str, what: impl Into<String>) -> Error {
        Error::BadOption { family: self.family.to_owned(), option: option.to_owned(), what: what.into() }
    }

    pub fn refuse(&self, option: &str, value: impl ToString) -> Error {
        Error::UnsupportedOption { family: self.family.to_owned(), option: option.to_owned(), value: value.to_string() }
    }

    /// Returns the option, unless it is absent or null.
    pub fn raw(&self, option: &str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(option.to_owned());
        self.map.get(option).filter(|v| !v.is_null())
    }

    /// Returns a size by the first of several spellings.
    pub fn size_of(&self, options: &[&str]) -> Result<Option<usize>> {
        // All spellings count as read, since old configs hold several.
        for option in options {
            self.raw(option);
        }
        for option in options {
            if let Some(v) = self.raw(option) {
                let n = v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= 1 << 24);
                return n.map(Some).ok_or_else(|| self.bad(option, format!("is {v}, not a usable size")));
            }
        }
        Ok(None)
    }

    pub fn size(&self, option: &str) -> Result<usize> {
        match self.size_of(&[option])? {
            Some(0) => Err(self.bad(option, "is 0")),
            Some(n) => Ok(n),
            None => Err(self.bad(option, "is missing")),
        }
    }

    /// Returns a number of layers. It is limited, since lists with one entry for each layer are made from it.
    pub fn layers(&self, option: &str) -> Result<usize> {
        match self.size(option)? {
            n if n <= 1024 => Ok(n),
            n => Err(self.bad(option, format!("is {n}; models of at most 1024 layers can be opened"))),
        }
    }

    pub fn size_or(&self, option: &str, default: usize) -> Result<usize> {
        Ok(self.size_of(&[option])?.unwrap_or(default))
    }

    pub fn number(&self, option: &str) -> Result<Option<f64>> {
        match self.raw(option) {
            None => Ok(None),
            Some(v) => {
                let n = v.as_f64().filter(|n| n.is_finite());
                n.map(Some).ok_or_else(|| self.bad(option, format!("is {v}, not a number")))
            }
        }
    }

    pub fn number_or(&self, option: &str, default: f64) -> Result<f64> {
        Ok(self.number(option)?.unwrap_or(default))
    }

    pub fn flag_or(&self, option: &str, default: bool) -> Result<bool> {
        match self.raw(option) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(option, format!("is {v}, not true or false"))),
        }
    }

    pub fn text(&self, option: &str) -> Result<Option<&'a str>> {
        match self.raw(option) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.bad(option, format!("is {v}, not a text"))),
        }
    }

    /// Requires that an option has the only value that is implemented.
    pub fn only(&self, option: &str, implemented: impl Into<Value>) -> Result<()> {
        match self.raw(option) {
            Some(v) if *v != implemented.into() => Err(self.refuse(option, v)),
            _ => Ok(()),
        }
    }

    /// Returns the activation function, by the first of several spellings of the option.
    pub fn activation(&self, options: &[&str], default: &str) -> Result<Activation> {
        for option in options {
            self.raw(option);
        }
        for option in options {
            if let Some(name) = self.text(option)? {
                return Activation::by_name(name).ok_or_else(|| self.refuse(option, format!("\"{name}\"")));
            }
        }
        Activation::by_name(default).ok_or_else(|| self.refuse("activation", default))
    }

    /// Returns the rotary options of every layer: from `rope_parameters` in newer configs, from `rope_theta`,
    /// `rope_scaling` and `partial_rotary_factor` in older ones.
    pub fn rotary(&self, d_head: usize, style: RotaryStyle, default_share: f64) -> Result<Rotary> {
        let share = self.number_or("partial_rotary_factor", default_share)?;
        let base = self.number_or("rope_theta", 10_000.0)?;
        let scaling = self.raw("rope_scaling");
        match self.raw("rope_parameters") {
            Some(parameters) => self.rotary_from("rope_parameters", parameters, d_head, style, base, share),
            None => self.rotary_from(
                "rope_scaling",
                scaling.unwrap_or(&Value::Object(Map::new())),
                d_head,
                style,
                base,
                share,
            ),
        }
    }

    /// Reads one object that describes a rotation.
    pub fn rotary_from(
        &self,
        option: &str,
        value: &Value,
        d_head: usize,
        style: RotaryStyle,
        base: f64,
        share: f64,
    ) -> Result<Rotary> {
        let map = value.as_object().ok_or_else(|| self.bad(option, "is not an object"))?;
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let need = |key: &str| number(key).ok_or_else(|| self.bad(&format!("{option}.{key}"), "is missing"));
        let kind = map.get("rope_type").or_else(|| map.get("type")).and_then(Value::as_str).unwrap_or("default");
        let (scaling, uses): (_, &[&str]) = match kind {
            "default" => (RotaryScaling::None, &[]),
            "linear" => (RotaryScaling::Linear { factor: need("factor")? }, &["factor"]),
            "llama3" => (
                RotaryScaling::Llama3 {
                    factor: need("factor")?,
                    low: need("low_freq_factor")?,
                    high: need("high_freq_factor")?,
                    original: need("original_max_position_embeddings")?,
                },
                &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            ),
            other => return Err(self.refuse(&format!("{option}.rope_type"), format!("\"{other}\""))),
        };
        for (key, v) in map {
            let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor"].contains(&key.as_str());
            if !common && !uses.contains(&key.as_str()) && !v.is_null() {
                return Err(self.refuse(&format!("{option}.{key}"), v));
            }
        }
        let base = number("rope_theta").unwrap_or(base);
        let share = number("partial_rotary_factor").unwrap_or(share);
        let dims = (d_head as f64 * share) as usize;
        if dims == 0 || dims > d_head || !dims.is_multiple_of(2) || base <= 0.0 {
            return Err(self.bad(option, format!("rotates {dims} of {d_head} dimensions with base {base}")));
        }
        if let RotaryScaling::Linear { factor } | RotaryScaling::Llama3 { factor, .. } = scaling
            && factor <= 0.0
        {
            return Err(self.bad(&format!("{option}.factor"), format!("is {factor}")));
        }
        Ok(Rotary { dims, base, style, scaling })
    }

    /// Returns the sliding window of each layer: from `layer_types` where that is given, else from `default(layer)`.
    pub fn windows(&self, n_layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<Option<usize>>> {
        let window = self.size_of(&["sliding_window"])?;
        let enabled = self.flag_or("use_sliding_window", true)?;
        let window = window.filter(|_| enabled);
        if window == Some(0) {
            return Err(self.bad("sliding_window", "is 0"));
        }
        match self.raw("layer_types") {
            None => Ok((0..n_layers).map(|l| window.filter(|_| default(l))).collect()),
            Some(types) => {
                let list = types.as_array().filter(|l| l.len() == n_layers);
                let list = list.ok_or_else(|| self.bad("layer_types", format!("does not list {n_layers} layers")))?;
                list.iter()
                    .map(|t| match t.as_str() {
                        Some("full_attention") => Ok(None),
                        Some("sliding_attention") => window
                            .map(Some)
                            .ok_or_else(|| self.bad("sliding_window", "is missing, but layer_types asks for it")),
                        _ => Err(self.refuse("layer_types", t)),
                    })
                    .collect()
            }
        }
    }

    /// Refuses every option that was not asked for.
    pub fn finish(&self) -> Result<()> {
        let used = self.used.borrow();
        for (option, value) in self.map {
            if !used.contains(option) && !value.is_null() && !WITHOUT_EFFECT.contains(&option.as_str()) {
                return Err(self.refuse(option, value));
            }
        }
        Ok(())
    }
}
