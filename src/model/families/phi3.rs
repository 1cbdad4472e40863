//! Phi-3, 3.5 and 4: Llama with q, k, v in one weight, and gate and input in another.

use serde_json::{Map, Value, json};

use super::{Family, Form, gated_rms_unrotated, rotated};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "phi3",
    title: "Phi-3",
    config,
    names,
    gguf: Some(Form { arch: "phi3", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms_unrotated("phi3", o)?;
    o.only("attention_bias", false)?;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, Some(1.0))?);
    o.raw("original_max_position_embeddings");
    c.window = o.windows(c.n_layers, |_| true)?;
    Ok(c)
}

/// The window is written even where it is wider than the context.
fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(true)?;
    let window = k.int("attention.sliding_window")?.filter(|w| *w > 0);
    map.insert("sliding_window".to_owned(), json!(window));
    Ok(map)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        qkv: Qkv::Stacked("self_attn.qkv_proj"),
        mlp: MlpNames::StackedGate { both: "mlp.gate_up_proj", output: "mlp.down_proj" },
        ..LLAMA
    })
}
