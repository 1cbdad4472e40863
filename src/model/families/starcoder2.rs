//! StarCoder 2: LayerNorm, rotary halves, a plain GELU MLP, biases everywhere.

use super::{Family, Form, common_shape, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family {
    name: "starcoder2",
    title: "StarCoder 2",
    config,
    names,
    gguf: Some(Form { arch: "starcoder2", when: |_| true, config: |k| k.rotated(false), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("starcoder2", common_shape(o)?, layer_norm(o, "norm_epsilon")?);
    o.only("mlp_type", "default")?;
    o.only("norm_type", "layer_norm")?;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, None)?);
    c.activation = o.activation(&["hidden_act"], "gelu_pytorch_tanh")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    c.window = o.windows(c.n_layers, |_| true)?;
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("use_bias", true)?;
    let mlp = MlpNames::Plain { input: "mlp.c_fc", output: "mlp.c_proj" };
    Ok(Names { qkv_bias: bias, o_bias: bias, mlp_bias: bias, mlp, ..LLAMA })
}
