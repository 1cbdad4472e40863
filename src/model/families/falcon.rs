//! Falcon: attention and MLP side by side, one key and value for all heads or for groups of them; rotary halves or ALiBi.

use serde_json::{Map, Value, json};

use super::{COMMON, Family, Form, Sizes, layer_norm, rotated, shape};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, Positions, alibi_slopes};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "falcon",
    title: "Falcon",
    config,
    names,
    gguf: Some(Form { arch: "falcon", when: |_| true, config: gguf, interleaved: false }),
};

const SIZES: Sizes = Sizes {
    layers: &["num_hidden_layers", "n_layer"],
    heads: &["num_attention_heads", "n_head"],
    d_mlp: &["ffn_hidden_size", "intermediate_size"],
    mlp_times: Some(4),
    // Each kind of Falcon has its own number of keys and values, see below.
    kv_heads: &[],
    trained: Some(2048),
    ..COMMON
};

/// Keys and values for groups of heads, and two norms (40B and later).
fn grouped(o: &Options) -> Result<bool> {
    o.flag_or("new_decoder_architecture", false)
}

/// How attention and MLP share norms.
fn parallel(o: &Options) -> Result<Parallel> {
    let one = o.size_of(&["num_ln_in_parallel_attn"])? == Some(1);
    Ok(match (grouped(o)?, o.flag_or("parallel_attn", true)?) {
        (true, _) if !one => Parallel::OwnNorms,
        (false, false) => Parallel::Sequential,
        _ => Parallel::SharedNorm,
    })
}

fn config(o: &Options) -> Result<ModelConfig> {
    let mut shape = shape(o, &SIZES)?;
    let given = o.size_of(&["num_kv_heads", "n_head_kv", "num_key_value_heads"])?.unwrap_or(shape.n_heads);
    shape.n_kv_heads = match (grouped(o)?, o.flag_or("multi_query", true)?) {
        (true, _) => given,
        (false, true) => 1,
        (false, false) => shape.n_heads,
    };
    if shape.n_kv_heads == 0 || shape.n_heads % shape.n_kv_heads != 0 {
        return Err(o.refuse("num_kv_heads", format!("{} (for {} heads)", shape.n_kv_heads, shape.n_heads)));
    }
    let mut c = ModelConfig::plain("falcon", shape, layer_norm(o, "layer_norm_epsilon")?);
    c.positions = if o.flag_or("alibi", false)? {
        // Its bias is added before the scores are divided by the root of d_head.
        Positions::Alibi(alibi_slopes(c.n_heads).into_iter().map(|s| s * c.attn_scale[0]).collect())
    } else {
        rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, None)?)
    };
    c.parallel = parallel(o)?;
    c.activation = o.activation(&["activation"], "gelu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    let groups = k.int("attention.head_count_kv")?.unwrap_or(1);
    let (heads, two) = (k.need("attention.head_count")?, k.has("blk.0.attn_norm_2.weight"));
    map.insert("new_decoder_architecture".to_owned(), json!(two || 1 < groups && groups < heads));
    map.insert("num_ln_in_parallel_attn".to_owned(), json!(if two { 2 } else { 1 }));
    map.insert("num_kv_heads".to_owned(), json!(groups));
    map.insert("multi_query".to_owned(), json!(groups == 1));
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("bias", false)?;
    let (ln1, ln2) = match parallel(o)? {
        Parallel::OwnNorms => ("ln_attn", Some("ln_mlp")),
        Parallel::Sequential => ("input_layernorm", Some("post_attention_layernorm")),
        Parallel::SharedNorm => ("input_layernorm", None),
    };
    Ok(Names {
        prefixes: &["transformer.", ""],
        embed: "word_embeddings",
        layers: "h",
        ln1: Some(ln1),
        ln2,
        qkv: if grouped(o)? || !o.flag_or("multi_query", true)? {
            Qkv::Grouped("self_attention.query_key_value")
        } else {
            Qkv::Stacked("self_attention.query_key_value")
        },
        qkv_bias: bias,
        o: "self_attention.dense",
        o_bias: bias,
        mlp: MlpNames::Plain { input: "mlp.dense_h_to_4h", output: "mlp.dense_4h_to_h" },
        mlp_bias: bias,
        ln_final: Some("ln_f"),
        ..LLAMA
    })
}
