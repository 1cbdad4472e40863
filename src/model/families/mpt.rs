//! MPT: ALiBi, LayerNorms without offset, no biases.

use serde_json::{Map, Value, json};

use super::{COMMON, Family, Form, Sizes, layer_norm, shape};
use crate::error::Result;
use crate::model::config::{Activation, ModelConfig, Positions};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "mpt",
    title: "MPT",
    config,
    names,
    gguf: Some(Form { arch: "mpt", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let empty = json!({});
    let attention = o.raw("attn_config").unwrap_or(&empty);
    let attention = attention.as_object().ok_or_else(|| o.bad("attn_config", "is not an object"))?;
    let attention = Options::new("mpt", attention);
    let sizes = Sizes {
        layers: &["n_layers", "num_hidden_layers"],
        heads: &["n_heads", "num_attention_heads"],
        d_model: &["d_model", "hidden_size"],
        d_mlp: &[],
        mlp_times: Some(o.size_or("expansion_ratio", 4)?),
        n_ctx: &["max_seq_len", "max_position_embeddings"],
        // Read below, where they belong to the attention.
        kv_heads: &[],
        ..COMMON
    };
    let mut c = ModelConfig::plain("mpt", shape(o, &sizes)?, layer_norm(o, "layer_norm_epsilon")?);
    attention.only("attn_type", "multihead_attention")?;
    for option in ["prefix_lm", "qk_ln", "clip_qkv", "attn_uses_sequence_id", "rope", "sliding_window_size"] {
        match attention.raw(option) {
            Some(v) if v.as_bool() != Some(false) && v.as_i64() != Some(-1) => {
                return Err(o.refuse(&format!("attn_config.{option}"), v));
            }
            _ => {}
        }
    }
    o.only("no_bias", true)?;
    // The norm's own precision is the only difference between the two.
    if let Some(norm) = o.text("norm_type")?.filter(|n| !["low_precision_layernorm", "layernorm"].contains(n)) {
        return Err(o.refuse("norm_type", norm));
    }
    o.raw("learned_pos_emb");
    if let Some(scale) = attention.number("softmax_scale")? {
        c.attn_scale.fill(scale as f32);
    }
    if !attention.flag_or("alibi", true)? {
        return Err(o.refuse("attn_config.alibi", false));
    }
    let bias_max = attention.number_or("alibi_bias_max", 8.0)?;
    o.finish_within(&attention)?;
    c.positions = Positions::Alibi(slopes(c.n_heads, bias_max));
    c.activation = Activation::Gelu;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    if let Some(scale) = o.raw("logit_scale") {
        c.unembed_scale = match scale.as_str() {
            Some("inv_sqrt_d_model") => (c.d_model as f32).sqrt().recip(),
            _ => o.number_or("logit_scale", 1.0)? as f32,
        };
    }
    Ok(c)
}

/// ALiBi's slopes as MPT has them: 2^(−max · i / n) for the next power of two n, every second one first where there are
/// fewer heads.
fn slopes(heads: usize, max: f64) -> Vec<f32> {
    let n = heads.next_power_of_two();
    let all =
        |from: usize, step: usize| (from..=n).step_by(step).map(move |i| 2f64.powf(-max * i as f64 / n as f64) as f32);
    if n == heads { all(1, 1).collect() } else { all(2, 2).chain(all(1, 2)).take(heads).collect() }
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.common()?;
    let (width, d) = (k.need("feed_forward_length")?, k.need("embedding_length")?);
    if width % d.max(1) != 0 {
        return Err(k.refuse("feed_forward_length", width));
    }
    map.insert("expansion_ratio".to_owned(), json!(width / d.max(1)));
    let clamp = k.float("attention.clamp_kqv")?.filter(|c| *c != 0.0);
    let max = k.float("attention.max_alibi_bias")?.unwrap_or(8.0);
    let attention = json!({"alibi": max > 0.0, "alibi_bias_max": max, "clip_qkv": clamp});
    map.insert("attn_config".to_owned(), attention);
    Ok(map)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        prefixes: &["transformer.", ""],
        embed: "wte",
        layers: "blocks",
        ln1: Some("norm_1"),
        ln2: Some("norm_2"),
        qkv: Qkv::Stacked("attn.Wqkv"),
        o: "attn.out_proj",
        mlp: MlpNames::Plain { input: "ffn.up_proj", output: "ffn.down_proj" },
        ln_final: Some("norm_f"),
        norm_bias: false,
        ..LLAMA
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_for_a_number_of_heads_that_is_no_power_of_two() {
        // n = 4, max 8: 2^-2, 2^-4, 2^-6, 2^-8; the second and fourth come first.
        let got = slopes(3, 8.0);
        for (got, want) in got.iter().zip([1.0 / 16.0, 1.0 / 256.0, 0.25]) {
            assert!((got - want).abs() < 1e-7);
        }
        assert_eq!(got.len(), 3);
    }
}
