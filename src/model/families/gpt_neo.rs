//! GPT-Neo: GPT-2 with every other layer windowed and unscaled attention scores.

use serde_json::Value;

use super::gpt2::GPT2;
use super::{COMMON, Family, Sizes, layer_norm, shape};
use crate::error::Result;
use crate::model::config::{ModelConfig, Positions};
use crate::model::options::Options;
use crate::model::weights::{Names, Qkv};

pub const FAMILY: Family = Family { name: "gpt_neo", title: "GPT-Neo", config, names, gguf: None };

fn config(o: &Options) -> Result<ModelConfig> {
    let sizes = Sizes {
        layers: &["num_layers", "num_hidden_layers"],
        heads: &["num_heads", "num_attention_heads"],
        mlp_times: Some(4),
        kv_heads: &[],
        ..COMMON
    };
    let shape = shape(o, &sizes)?;
    let n_layers = shape.n_layers;
    let mut c = ModelConfig::plain("gpt_neo", shape, layer_norm(o, "layer_norm_epsilon")?);
    c.positions = Positions::Learned;
    c.activation = o.activation(&["activation_function"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    c.attn_scale.fill(1.0);
    let window = o.size_or("window_size", 256)?;
    if window == 0 {
        return Err(o.refuse("window_size", 0));
    }
    c.window = layer_kinds(o, n_layers)?.into_iter().map(|local| local.then_some(window)).collect();
    Ok(c)
}

/// Returns true for each local layer: from `attention_layers`, or from `attention_types` [[[kinds…], repeats], …].
fn layer_kinds<'a>(o: &Options<'a>, n_layers: usize) -> Result<Vec<bool>> {
    let texts = |list: &'a Value| list.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
    let (layers, types) = (o.raw("attention_layers"), o.raw("attention_types"));
    let mut kinds = Vec::new();
    if let Some(list) = layers {
        kinds = texts(list).ok_or_else(|| o.bad("attention_layers", "is not a list of texts"))?;
    } else if let Some(types) = types {
        let bad = || o.bad("attention_types", "is not a list of [[kinds…], repeats]");
        for entry in types.as_array().ok_or_else(bad)? {
            let cycle = texts(&entry[0]).ok_or_else(bad)?;
            let repeats = entry[1].as_u64().ok_or_else(bad)?.min(n_layers as u64);
            for _ in 0..repeats {
                if kinds.len() <= n_layers {
                    kinds.extend(&cycle);
                }
            }
        }
    } else {
        kinds.extend((0..n_layers).map(|l| if l % 2 == 0 { "global" } else { "local" }));
    }
    if kinds.len() != n_layers || kinds.iter().any(|k| !["global", "local"].contains(k)) {
        return Err(o.refuse("attention_layers", format!("{kinds:?}")));
    }
    Ok(kinds.into_iter().map(|k| k == "local").collect())
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        qkv: Qkv::Separate("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        qkv_bias: false,
        o: "attn.attention.out_proj",
        conv1d: false,
        ..GPT2
    })
}
