//! What the metadata of a GGUF file says about its model, as the options that its config.json would have. Keys are
//! llama.cpp's, `general.architecture` before them; a family's file says which it has beyond the common ones.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use super::gguf::{Gguf, Value};
use super::weights::{Gains, MlpNames, Names, Qkv};
use crate::error::{Error, Result, short};

/// Keys of an architecture that change nothing: facts that the tensors say as well, training, and hints for llama.cpp.
const WITHOUT_EFFECT: &[&str] = &[
    "vocab_size",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_log_multiplier",
    "attention.group_norm_groups",
    "attention.group_norm_epsilon",
    "pooling_type",
    "swin_norm",
    "leading_dense_block_count",
];

/// The metadata of one architecture. It remembers which keys were asked for.
pub struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
    used: RefCell<HashSet<String>>,
}

impl<'a> Keys<'a> {
    /// # Errors
    /// The file names no architecture.
    pub fn new(gguf: &'a Gguf) -> Result<Self> {
        let arch = gguf.text("general.architecture");
        let arch = arch.ok_or_else(|| gguf.malformed("it does not name its architecture"))?;
        Ok(Self { gguf, arch, used: RefCell::default() })
    }

    pub fn arch(&self) -> &str {
        self.arch
    }

    /// True where the file holds a tensor of this full name.
    pub fn has(&self, tensor: &str) -> bool {
        self.gguf.entries.contains_key(tensor)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(key.to_owned());
        self.gguf.metadata.get(&format!("{}.{key}", self.arch))
    }

    fn wrong(&self, key: &str, what: &str) -> Error {
        self.gguf.malformed(format!("its metadata gives `{}.{key}` as something else than {what}", self.arch))
    }

    /// A whole number; of a list with one entry for each layer, the entry that all of them have.
    pub fn int(&self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = match value.as_array() {
            None => value.as_int(),
            Some(list) => {
                let first = list.first().and_then(Value::as_int);
                if first.is_some() && list.iter().any(|v| v.as_int() != first) {
                    return Err(self.refuse(key, "(one number for each layer)"));
                }
                first
            }
        };
        one.map(Some).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    pub fn need(&self, key: &str) -> Result<i64> {
        self.int(key)?.ok_or_else(|| self.gguf.malformed(format!("its metadata lacks `{}.{key}`", self.arch)))
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_float().filter(|v| v.is_finite()).map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_text().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    /// The error for a key whose value is not implemented.
    pub fn refuse(&self, key: &str, value: impl ToString) -> Error {
        Error::UnsupportedOption {
            family: self.arch.to_owned(),
            option: format!("{}.{key}", self.arch),
            value: value.to_string(),
        }
    }

    /// The options that all families share: sizes, norm, tied embeddings.
    pub fn common(&self) -> Result<Map<String, Json>> {
        let (d, heads) = (self.need("embedding_length")?, self.need("attention.head_count")?);
        if d < 1 || heads < 1 {
            return Err(self.gguf.malformed("its metadata gives no heads or no width"));
        }
        let layers = self.need("block_count")?;
        if !(1..=1024).contains(&layers) {
            return Err(self.gguf.malformed(format!("its metadata gives {layers} layers; 1 to 1024 can be opened")));
        }
        if self.flag("attention.causal")? == Some(false) {
            return Err(self.refuse("attention.causal", false));
        }
        let d_head = self.int("attention.key_length")?.unwrap_or(d / heads);
        if let Some(other) = self.int("attention.value_length")?.filter(|v| *v != d_head) {
            return Err(self.refuse("attention.value_length", other));
        }
        let embed = self.gguf.entries.get("token_embd.weight");
        let embed = embed.ok_or_else(|| self.gguf.malformed("it holds no tensor `token_embd.weight`"))?;
        let d_vocab = match embed.shape[..] {
            [rows, cols] if cols as i64 == d && (1..=1 << 24).contains(&rows) => rows,
            _ => return Err(self.gguf.malformed(format!("tensor `token_embd.weight` has shape {:?}", embed.shape))),
        };
        let mut map = Map::new();
        let mut set = |key: &str, value: Json| {
            map.insert(key.to_owned(), value);
        };
        set("num_hidden_layers", json!(layers));
        set("hidden_size", json!(d));
        set("intermediate_size", json!(self.int("feed_forward_length")?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(self.int("attention.head_count_kv")?.unwrap_or(heads)));
        set("head_dim", json!(d_head));
        set("vocab_size", json!(d_vocab));
        set("max_position_embeddings", json!(self.need("context_length")?));
        set("tie_word_embeddings", json!(!self.has("output.weight")));
        set("rms_norm_eps", json!(self.float("attention.layer_norm_rms_epsilon")?));
        set("layer_norm_eps", json!(self.float("attention.layer_norm_epsilon")?));
        Ok(map)
    }

    /// [`Self::common`] and the rotation. `part` says that the family may turn only the first dimensions of a head.
    pub fn rotated(&self, part: bool) -> Result<Map<String, Json>> {
        let mut map = self.common()?;
        let d_head = map["head_dim"].as_i64().unwrap_or(1);
        let dims = self.int("rope.dimension_count")?.unwrap_or(d_head);
        if dims < 2 || dims > d_head || dims % 2 != 0 || (!part && dims != d_head) {
            return Err(self.refuse("rope.dimension_count", format!("{dims} of {d_head}")));
        }
        let mut rope = self.scaling(dims as usize / 2)?;
        rope.insert("rope_theta".to_owned(), json!(self.float("rope.freq_base")?.unwrap_or(10_000.0)));
        rope.insert("partial_rotary_factor".to_owned(), json!(dims as f64 / d_head as f64));
        map.insert("rope_parameters".to_owned(), Json::Object(rope));
        Ok(map)
    }

    /// Adds the windows to the options: of all layers but every `period`th, unless the file says which.
    pub fn windows(&self, map: &mut Map<String, Json>, window: Option<i64>, period: usize) -> Result<()> {
        let layers = map.get("num_hidden_layers").and_then(Json::as_u64).unwrap_or(0) as usize;
        let windowed: Vec<bool> = match self.get("attention.sliding_window_pattern") {
            None => (1..=layers).map(|l| !l.is_multiple_of(period)).collect(),
            Some(Value::Int(n)) if *n > 0 => (1..=layers).map(|l| !l.is_multiple_of(*n as usize)).collect(),
            Some(Value::Array(list)) if list.len() == layers => {
                let one = |v: &Value| match v {
                    Value::Bool(b) => Ok(*b),
                    other => other
                        .as_int()
                        .map(|i| i != 0)
                        .ok_or_else(|| self.wrong("attention.sliding_window_pattern", "true or false for each layer")),
                };
                list.iter().map(one).collect::<Result<_>>()?
            }
            Some(_) => return Err(self.wrong("attention.sliding_window_pattern", "a period or a list of all layers")),
        };
        let window = window.filter(|w| *w > 0);
        let kind = |windowed: &bool| if *windowed && window.is_some() { "sliding_attention" } else { "full_attention" };
        map.insert("layer_types".to_owned(), json!(windowed.iter().map(kind).collect::<Vec<_>>()));
        map.insert("sliding_window".to_owned(), json!(window));
        Ok(())
    }

    /// Adds the experts to the options. `renormalise` is what the family does where the file does not say it.
    pub fn experts(&self, map: &mut Map<String, Json>, renormalise: bool) -> Result<()> {
        for (key, usual) in [("expert_shared_count", 0), ("expert_group_count", 0), ("expert_gating_func", 1)] {
            if let Some(other) = self.int(key)?.filter(|n| *n != usual && *n != 0) {
                return Err(self.refuse(key, other));
            }
        }
        if let Some(scale) = self.float("expert_weights_scale")?.filter(|s| *s != 1.0 && *s != 0.0) {
            return Err(self.refuse("expert_weights_scale", scale));
        }
        let norm = self.flag("expert_weights_norm")?.unwrap_or(renormalise);
        map.insert("num_experts".to_owned(), json!(self.need("expert_count")?));
        map.insert("num_experts_per_tok".to_owned(), json!(self.need("expert_used_count")?));
        map.insert("norm_topk_prob".to_owned(), json!(norm));
        map.insert("moe_intermediate_size".to_owned(), json!(self.int("expert_feed_forward_length")?));
        Ok(())
    }

    /// How the rotation reaches a longer context, as `rope_parameters` says it.
    fn scaling(&self, pairs: usize) -> Result<Map<String, Json>> {
        let old = self.float("rope.scale_linear")?;
        let factor = self.float("rope.scaling.factor")?.or(old);
        let original = self.int("rope.scaling.original_context_length")?;
        let magnitude = self.float("rope.scaling.attn_factor")?;
        // A table divides the frequencies: one, or one up to the original length and one beyond it.
        if self.has("rope_factors_long.weight") || self.has("rope_freqs.weight") {
            match (self.text("rope.scaling.type")?, factor) {
                (None | Some("none"), None | Some(1.0)) | (Some("longrope"), _) => {}
                (kind, _) => {
                    return Err(
                        self.refuse("rope.scaling.type", format!("{} beside a table", kind.unwrap_or("linear")))
                    );
                }
            }
            let table = |name: &str| self.gguf.small(name, pairs);
            let (short, long) = if self.has("rope_freqs.weight") {
                (table("rope_freqs.weight")?, table("rope_freqs.weight")?)
            } else {
                (table("rope_factors_short.weight")?, table("rope_factors_long.weight")?)
            };
            return Ok(object(json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "original_max_position_embeddings": original.unwrap_or(self.need("context_length")?),
                "attention_factor": magnitude.unwrap_or(1.0),
            })));
        }
        let linear = || object(json!({"rope_type": "linear", "factor": factor.unwrap_or(1.0)}));
        match self.text("rope.scaling.type")? {
            None if factor.is_some_and(|f| f != 1.0) => Ok(linear()),
            None | Some("none") => Ok(object(json!({"rope_type": "default"}))),
            Some("linear") => Ok(linear()),
            Some("yarn") => {
                let mut rope = object(json!({
                    "rope_type": "yarn", "factor": factor.unwrap_or(1.0), "original_max_position_embeddings": original,
                }));
                // Under this key the converter writes the option of config.json.
                let given = self.float("rope.scaling.yarn_attn_factor")?;
                rope.insert("attention_factor".to_owned(), json!(given));
                if let Some(other) = magnitude.filter(|m| *m != 1.0) {
                    return Err(self.refuse("rope.scaling.attn_factor", other));
                }
                if let Some(other) = self.float("rope.scaling.yarn_ext_factor")?.filter(|f| *f != 1.0 && *f != -1.0) {
                    return Err(self.refuse("rope.scaling.yarn_ext_factor", other));
                }
                for (key, option) in
                    [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")]
                {
                    rope.insert(option.to_owned(), json!(self.float(key)?));
                }
                Ok(rope)
            }
            Some(other) => Err(self.refuse("rope.scaling.type", other)),
        }
    }

    /// The warnings about keys that nothing asked for.
    pub fn finish(&self) -> Vec<String> {
        let used = self.used.borrow();
        let prefix = format!("{}.", self.arch);
        let unknown: Vec<_> = self
            .gguf
            .metadata
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix))
            .filter(|key| !used.contains(*key) && !WITHOUT_EFFECT.contains(key))
            .map(|key| format!("`{}{}`", prefix, short(key)))
            .collect();
        if unknown.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "The file's {} not known and passed over; if that changes what the model computes, the numbers are wrong.",
            match &unknown[..] {
                [one] => format!("key {one} is"),
                many => format!("keys {} are", many.join(", ")),
            }
        )]
    }

    /// The names that the tensors of a family have in GGUF files: llama.cpp has one for each role.
    pub fn names(&self, family: &Names) -> Names {
        // Falcon's second norm is the one of attention.
        let (ln1, ln2) =
            if self.has("blk.0.attn_norm_2.weight") { ("attn_norm_2", "attn_norm") } else { ("attn_norm", "ffn_norm") };
        let bias = |names: &[&str]| names.iter().any(|n| self.has(&format!("blk.0.{n}.bias")));
        Names {
            prefixes: &[""],
            embed: "token_embd",
            pos_embed: family.pos_embed.map(|_| "position_embd"),
            pos_offset: 0,
            embed_norm: family.embed_norm.map(|_| "token_embd_norm"),
            layers: "blk",
            ln1: family.ln1.map(|_| ln1),
            ln1_post: family.ln1_post.map(|_| "post_attention_norm"),
            ln2: family.ln2.map(|_| ln2),
            ln2_post: family.ln2_post.map(|_| "post_ffw_norm"),
            qkv: if self.has("blk.0.attn_qkv.weight") {
                Qkv::Stacked("attn_qkv")
            } else {
                Qkv::Separate("attn_q", "attn_k", "attn_v")
            },
            qkv_bias: family.qkv_bias || bias(&["attn_q", "attn_qkv"]),
            o: "attn_output",
            o_bias: family.o_bias || bias(&["attn_output"]),
            q_norm: family.q_norm.map(|_| "attn_q_norm"),
            k_norm: family.k_norm.map(|_| "attn_k_norm"),
            mlp: match family.mlp {
                MlpNames::Plain { .. } => MlpNames::Plain { input: "ffn_up", output: "ffn_down" },
                MlpNames::StackedGate { .. } if !self.has("blk.0.ffn_gate.weight") => {
                    MlpNames::StackedGate { both: "ffn_up", output: "ffn_down" }
                }
                MlpNames::Gated { .. } | MlpNames::StackedGate { .. } => {
                    MlpNames::Gated { gate: "ffn_gate", input: "ffn_up", output: "ffn_down" }
                }
                // The first files of Mixtral hold a tensor for each expert.
                MlpNames::Experts { .. } if self.has("blk.0.ffn_gate.0.weight") => MlpNames::Experts {
                    router: "ffn_gate_inp",
                    gate: "ffn_gate.{e}",
                    input: "ffn_up.{e}",
                    output: "ffn_down.{e}",
                },
                MlpNames::Experts { .. } | MlpNames::StackedExperts { .. } => MlpNames::StackedExperts {
                    router: "ffn_gate_inp",
                    gate: "ffn_gate_exps",
                    input: "ffn_up_exps",
                    output: "ffn_down_exps",
                },
            },
            mlp_bias: family.mlp_bias || bias(&["ffn_up", "ffn_down"]),
            ln_final: family.ln_final.map(|_| "output_norm"),
            projection: None,
            unembed: "output",
            unembed_bias: family.unembed_bias || self.has("output.bias"),
            // The file holds the gains themselves.
            gains: if family.gains == Gains::None { Gains::None } else { Gains::Plain },
            norm_bias: family.norm_bias,
            conv1d: false,
        }
    }
}

fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}
