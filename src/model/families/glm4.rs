//! GLM-4 (0414): norms before and after each half of the block, half of each head rotated by neighbouring dimensions.

use super::{Family, Form, gated_rms_unrotated, rotated};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement};
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family {
    name: "glm4",
    title: "GLM-4",
    config,
    names,
    gguf: Some(Form { arch: "glm4", when: |_| true, config: |k| k.rotated(true), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms_unrotated("glm4", o)?;
    c.norm_placement = NormPlacement::Sandwich;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Adjacent, Some(0.5))?);
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    Ok(Names {
        ln1_post: Some("post_self_attn_layernorm"),
        ln2_post: Some("post_mlp_layernorm"),
        qkv_bias: o.flag_or("attention_bias", false)?,
        mlp: MlpNames::StackedGate { both: "mlp.gate_up_proj", output: "mlp.down_proj" },
        ..LLAMA
    })
}
