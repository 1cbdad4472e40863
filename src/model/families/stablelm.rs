//! StableLM: Llama's layout with LayerNorm and a quarter of each head rotated.

use super::{Family, common_shape, layer_norm};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, Positions, RotaryStyle};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family { name: "stablelm", title: "StableLM", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("stablelm", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    o.only("qk_layernorm", false)?;
    c.positions = Positions::Rotary(vec![o.rotary(c.d_head, RotaryStyle::Half, 0.25)?; c.n_layers]);
    c.gated_mlp = true;
    c.activation = o.activation(&["hidden_act"], "silu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    if o.flag_or("use_parallel_residual", false)? {
        c.parallel = Parallel::SharedNorm;
    }
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let ln2 = if o.flag_or("use_parallel_residual", false)? { None } else { LLAMA.ln2 };
    Ok(Names { qkv_bias: o.flag_or("use_qkv_bias", false)?, ln2, ..LLAMA })
}
