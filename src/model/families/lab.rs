//! Models trained by this program's own lab: LayerNorm, rotary halves, biases on q and k, and no MLP
//! where `d_mlp` is 0.

use super::{Family, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::{ModelConfig, Shape};
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family { name: "circuitscope_lab", title: "circuitscope lab", config, names, gguf: None };

fn config(o: &Options) -> Result<ModelConfig> {
    let heads = o.size("num_attention_heads")?;
    let d = o.size("hidden_size")?;
    let shape = Shape {
        n_layers: o.layers(&["num_hidden_layers"])?,
        n_heads: heads,
        n_kv_heads: heads,
        d_model: d,
        d_head: d / heads,
        d_mlp: o.size_or("intermediate_size", 0)?,
        d_vocab: o.size("vocab_size")?,
        n_ctx: o.size("max_position_embeddings")?,
    };
    let mut c = ModelConfig::plain("circuitscope_lab", shape, layer_norm(o, "layer_norm_eps")?);
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, None)?);
    c.activation = o.activation(&["hidden_act"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    Ok(c)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        qkv_bias: true,
        mlp: MlpNames::Plain { input: "mlp.up_proj", output: "mlp.down_proj" },
        mlp_bias: true,
        ..LLAMA
    })
}
