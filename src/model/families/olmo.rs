//! OLMo 1: Llama with LayerNorms that have neither gain nor offset.

use serde_json::{Map, Value};

use super::{Family, Form, gated_rms};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormKind};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{Gains, LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "olmo",
    title: "OLMo",
    config,
    names,
    gguf: Some(Form { arch: "olmo", when: |_| true, config: gguf, interleaved: true }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("olmo", o)?;
    c.norm = NormKind::Layer { eps: 1e-5 };
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    if let Some(clamp) = k.float("attention.clamp_kqv")?.filter(|c| *c != 0.0) {
        return Err(k.refuse("attention.clamp_kqv", clamp));
    }
    map.remove("layer_norm_eps");
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", false)?;
    Ok(Names { gains: Gains::None, qkv_bias: bias, o_bias: bias, ..LLAMA })
}
