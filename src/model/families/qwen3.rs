//! Qwen 3: Llama with each head's q and k normalised.

use super::qwen2::qwen_windows;
use super::{Family, Form, gated_rms};
use crate::error::Result;
use crate::model::config::{ModelConfig, QkNorm};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "qwen3",
    title: "Qwen 3",
    config,
    names,
    gguf: Some(Form { arch: "qwen3", when: |_| true, config: |k| k.rotated(false), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("qwen3", o)?;
    c.qk_norm = QkNorm::PerHead;
    c.window = qwen_windows(o, c.n_layers)?;
    Ok(c)
}

pub(super) fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", false)?;
    let (q_norm, k_norm) = (Some("self_attn.q_norm"), Some("self_attn.k_norm"));
    Ok(Names { qkv_bias: bias, o_bias: bias, q_norm, k_norm, ..LLAMA })
}
