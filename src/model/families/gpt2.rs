//! GPT-2: learned positions, LayerNorm, weights stored [input, output].

use super::{Family, layer_norm};
use crate::error::Result;
use crate::model::config::{ModelConfig, Positions, Shape};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family { name: "gpt2", title: "GPT-2", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let (d, heads) = (o.size("n_embd")?, o.size("n_head")?);
    let shape = Shape {
        n_layers: o.layers("n_layer")?,
        n_heads: heads,
        n_kv_heads: heads,
        d_model: d,
        d_head: d / heads,
        d_mlp: o.size_or("n_inner", 4 * d)?,
        d_vocab: o.size("vocab_size")?,
        n_ctx: o.size_of(&["n_positions", "n_ctx"])?.unwrap_or(1024),
    };
    let mut c = ModelConfig::plain("gpt2", shape, layer_norm(o, "layer_norm_epsilon")?);
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
    ln_final: "ln_f",
    conv1d: true,
    ..LLAMA
};

fn names(_: &Options) -> Result<Names> {
    Ok(GPT2)
}
