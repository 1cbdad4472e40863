//! StarCoder 2: LayerNorm, rotary halves, a plain GELU MLP, biases everywhere.

use super::{Family, common_shape, layer_norm};
use crate::error::Result;
use crate::model::config::{ModelConfig, Positions, RotaryStyle};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family { name: "starcoder2", title: "StarCoder 2", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("starcoder2", common_shape(o)?, layer_norm(o, "norm_epsilon")?);
    o.only("mlp_type", "default")?;
    o.only("norm_type", "layer_norm")?;
    c.positions = Positions::Rotary(vec![o.rotary(c.d_head, RotaryStyle::Half, 1.0)?; c.n_layers]);
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
