//! Llama 1–3, SmolLM and everything saved as `llama`: RMSNorm, rotary halves, gated SiLU.

use super::{Family, Form, gated_rms};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "llama",
    title: "Llama",
    config,
    names,
    gguf: Some(Form { arch: "llama", when: |_| true, config: |k| k.rotated(false), interleaved: true }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let c = gated_rms("llama", o)?;
    o.flag_or("attention_bias", false)?;
    o.flag_or("mlp_bias", false)?;
    Ok(c)
}

pub(super) fn names(o: &Options) -> Result<Names> {
    let attention = o.flag_or("attention_bias", false)?;
    Ok(Names { qkv_bias: attention, o_bias: attention, mlp_bias: o.flag_or("mlp_bias", false)?, ..LLAMA })
}
