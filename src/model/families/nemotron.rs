//! Nemotron: LayerNorm with gains stored as w − 1, a squared ReLU, half of each head rotated.

use super::{Family, Form, common_shape, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{Gains, LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family {
    name: "nemotron",
    title: "Nemotron",
    config,
    names,
    gguf: Some(Form { arch: "nemotron", when: |_| true, config: |k| k.rotated(true), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("nemotron", common_shape(o)?, layer_norm(o, "norm_eps")?);
    // Old configs name the share otherwise.
    let share = o.number_or("rope_percent", 0.5)?;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, Some(share))?);
    c.activation = o.activation(&["hidden_act"], "relu2")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let (attention, mlp) = (o.flag_or("attention_bias", false)?, o.flag_or("mlp_bias", false)?);
    Ok(Names {
        qkv_bias: attention,
        o_bias: attention,
        mlp: MlpNames::Plain { input: "mlp.up_proj", output: "mlp.down_proj" },
        mlp_bias: mlp,
        gains: Gains::LessOne,
        ..LLAMA
    })
}
