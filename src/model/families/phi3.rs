//! Phi-3: Llama with q, k, v in one weight, and gate and input in another.

use super::{Family, gated_rms};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family { name: "phi3", title: "Phi-3", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("phi3", o)?;
    o.only("attention_bias", false)?;
    // This option only serves long-context rotary scalings, which are refused by their own name.
    o.raw("original_max_position_embeddings");
    c.window = o.windows(c.n_layers, |_| true)?;
    Ok(c)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        qkv: Qkv::Stacked("self_attn.qkv_proj"),
        mlp: MlpNames::StackedGate { both: "mlp.gate_up_proj", output: "mlp.down_proj" },
        ..LLAMA
    })
}
