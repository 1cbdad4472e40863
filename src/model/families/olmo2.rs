//! OLMo 2: only the outputs of attention and MLP are normalised, and all of q and all of k together.

use super::{Family, Form, gated_rms};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement, QkNorm};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "olmo2",
    title: "OLMo 2",
    config,
    names,
    gguf: Some(Form { arch: "olmo2", when: |_| true, config: |k| k.rotated(false), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("olmo2", o)?;
    c.norm_placement = NormPlacement::Post;
    c.qk_norm = QkNorm::FullWidth;
    Ok(c)
}

pub(super) fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", false)?;
    Ok(Names {
        ln1: None,
        ln1_post: Some("post_attention_layernorm"),
        ln2: None,
        ln2_post: Some("post_feedforward_layernorm"),
        qkv_bias: bias,
        o_bias: bias,
        q_norm: Some("self_attn.q_norm"),
        k_norm: Some("self_attn.k_norm"),
        ..LLAMA
    })
}
