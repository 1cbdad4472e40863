//! GPT-2: learned positions, LayerNorm, weights stored [input, output].

use serde_json::{Map, Value};

use super::{Family, Form, Sizes, layer_norm, shape};
use crate::error::Result;
use crate::model::config::{ModelConfig, Positions};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "gpt2",
    title: "GPT-2",
    config,
    names,
    gguf: Some(Form { arch: "gpt2", when: |_| true, config: gguf, interleaved: false }),
};

/// The spellings of the GPT-2 lineage.
pub(super) const SIZES: Sizes = Sizes {
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    d_model: &["n_embd", "hidden_size"],
    d_mlp: &["n_inner"],
    n_ctx: &["n_positions", "n_ctx", "max_position_embeddings"],
    mlp_times: Some(4),
    trained: Some(1024),
    kv_heads: &[],
};

/// The lineage's name for the MLP's width.
pub(super) fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.common()?;
    let width = map.remove("intermediate_size").unwrap_or_default();
    map.insert("n_inner".to_owned(), width);
    Ok(map)
}

fn config(o: &Options) -> Result<ModelConfig> {
    gpt2("gpt2", o)
}

/// Reads the options that GPT-2 and GPT-BigCode share.
pub(super) fn gpt2(family: &str, o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain(family, shape(o, &SIZES)?, layer_norm(o, "layer_norm_epsilon")?);
    o.only("add_cross_attention", false)?;
    c.positions = Positions::Learned;
    c.activation = o.activation(&["activation_function"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    if !o.flag_or("scale_attn_weights", true)? {
        c.attn_scale.fill(1.0);
    }
    if o.flag_or("scale_attn_by_inverse_layer_idx", false)? {
        for (l, s) in c.attn_scale.iter_mut().enumerate() {
            *s /= (l + 1) as f32;
        }
    }
    Ok(c)
}

/// The names that the GPT-2 lineage shares.
pub(super) const GPT2: Names = Names {
    prefixes: &["transformer.", ""],
    embed: "wte",
    pos_embed: Some("wpe"),
    layers: "h",
    ln1: Some("ln_1"),
    ln2: Some("ln_2"),
    qkv: Qkv::Stacked("attn.c_attn"),
    qkv_bias: true,
    o: "attn.c_proj",
    o_bias: true,
    mlp: MlpNames::Plain { input: "mlp.c_fc", output: "mlp.c_proj" },
    mlp_bias: true,
    ln_final: Some("ln_f"),
    conv1d: true,
    ..LLAMA
};

fn names(_: &Options) -> Result<Names> {
    Ok(GPT2)
}
