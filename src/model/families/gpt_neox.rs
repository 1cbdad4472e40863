//! GPT-NeoX and Pythia: attention and MLP side by side, a quarter of each head rotated.

use super::{Family, common_shape, layer_norm};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, Positions, RotaryStyle};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family { name: "gpt_neox", title: "GPT-NeoX, Pythia", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("gpt_neox", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    let share = o.number_or("rotary_pct", 0.25)?;
    let base = o.number_or("rotary_emb_base", 10_000.0)?;
    let mut rotary = o.rotary(c.d_head, RotaryStyle::Half, share)?;
    if o.raw("rope_parameters").is_none() && o.raw("rope_theta").is_none() {
        rotary.base = base;
    }
    c.positions = Positions::Rotary(vec![rotary; c.n_layers]);
    c.activation = o.activation(&["hidden_act"], "gelu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    if o.flag_or("use_parallel_residual", true)? {
        c.parallel = Parallel::OwnNorms;
    }
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", true)?;
    Ok(Names {
        prefixes: &["gpt_neox.", ""],
        embed: "embed_in",
        qkv: Qkv::PerHead("attention.query_key_value"),
        qkv_bias: bias,
        o: "attention.dense",
        o_bias: bias,
        mlp: MlpNames::Plain { input: "mlp.dense_h_to_4h", output: "mlp.dense_4h_to_h" },
        mlp_bias: true,
        ln_final: "final_layer_norm",
        unembed: "embed_out",
        ..LLAMA
    })
}
