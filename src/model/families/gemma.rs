//! Gemma: Llama with gains stored as w − 1, a scaled embedding and GELU gates.

use super::{Family, Form, gated_rms_unrotated, rotated};
use crate::error::Result;
use crate::model::config::{Activation, ModelConfig};
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{Gains, LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "gemma",
    title: "Gemma",
    config,
    names,
    gguf: Some(Form { arch: "gemma", when: |_| true, config: |k| k.rotated(false), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gemma_base("gemma", o)?;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, None)?);
    Ok(c)
}

/// Reads the options that the three generations share, but for the rotation.
pub(super) fn gemma_base(family: &str, o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms_unrotated(family, o)?;
    o.only("attention_bias", false)?;
    o.only("use_bidirectional_attention", false)?;
    // The first Gemma configs say `gelu` but mean the tanh form.
    c.activation = match o.activation(&["hidden_activation", "hidden_act"], "gelu_pytorch_tanh")? {
        Activation::Gelu => Activation::GeluTanh,
        other => other,
    };
    c.embed_scale = (c.d_model as f32).sqrt();
    Ok(c)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names { gains: Gains::LessOne, ..LLAMA })
}
