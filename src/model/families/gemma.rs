//! Gemma: Llama with gains stored as w − 1, a scaled embedding and GELU gates.

use super::{Family, gated_rms};
use crate::error::Result;
use crate::model::config::{Activation, ModelConfig};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family { name: "gemma", title: "Gemma", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    gemma_base("gemma", o)
}

/// Reads the options that the three generations share.
pub(super) fn gemma_base(family: &str, o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms(family, o)?;
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
    Ok(Names { gain_plus_one: true, ..LLAMA })
}
