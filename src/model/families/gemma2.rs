//! Gemma 2: norms before and after each half of the block, soft caps, every other layer windowed.

use super::Family;
use super::gemma::gemma_base;
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family { name: "gemma2", title: "Gemma 2", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gemma_base("gemma2", o)?;
    c.norm_placement = NormPlacement::Sandwich;
    c.attn_softcap = o.number("attn_logit_softcapping")?.map(|x| x as f32);
    c.final_softcap = o.number("final_logit_softcapping")?.map(|x| x as f32);
    let scalar = o.number_or("query_pre_attn_scalar", 256.0)?;
    c.attn_scale = vec![scalar.sqrt().recip() as f32; c.n_layers];
    c.window = o.windows(c.n_layers, |l| l.is_multiple_of(2))?;
    Ok(c)
}

pub(super) fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        gain_plus_one: true,
        ln1_post: Some("post_attention_layernorm"),
        ln2: Some("pre_feedforward_layernorm"),
        ln2_post: Some("post_feedforward_layernorm"),
        ..LLAMA
    })
}
