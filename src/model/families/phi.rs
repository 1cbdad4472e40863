//! Phi 1, 1.5 and 2: attention and MLP side by side behind one norm, half of each head rotated.

use super::{Family, common_shape, layer_norm};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, Positions, RotaryStyle};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family { name: "phi", title: "Phi", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("phi", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    o.only("qk_layernorm", false)?;
    c.positions = Positions::Rotary(vec![o.rotary(c.d_head, RotaryStyle::Half, 0.5)?; c.n_layers]);
    c.parallel = Parallel::SharedNorm;
    c.activation = o.activation(&["hidden_act"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    Ok(c)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        ln2: None,
        qkv_bias: true,
        o: "self_attn.dense",
        o_bias: true,
        mlp: MlpNames::Plain { input: "mlp.fc1", output: "mlp.fc2" },
        mlp_bias: true,
        ln_final: "final_layernorm",
        unembed_bias: true,
        ..LLAMA
    })
}
