//! Gemma 2: norms before and after each half of the block, soft caps, every other layer windowed.

use serde_json::{Map, Value, json};

use super::gemma::gemma_base;
use super::{Family, Form, rotated};
use crate::error::{Error, Result};
use crate::model::config::{ModelConfig, NormPlacement};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{Gains, LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "gemma2",
    title: "Gemma 2",
    config,
    names,
    gguf: Some(Form { arch: "gemma2", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gemma_base("gemma2", o)?;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, None)?);
    c.norm_placement = NormPlacement::Sandwich;
    c.attn_softcap = o.number("attn_logit_softcapping")?.map(|x| x as f32);
    c.final_softcap = o.number("final_logit_softcapping")?.map(|x| x as f32);
    let scalar = o.number_or("query_pre_attn_scalar", 256.0)?;
    c.attn_scale = vec![scalar.sqrt().recip() as f32; c.n_layers];
    c.window = o.windows(c.n_layers, |l| l.is_multiple_of(2))?;
    Ok(c)
}

/// Soft caps, window and score scale have keys, but for one: the model of 46 layers scales by the width of a head's
/// share of the stream. Which layers are windowed belongs to the architecture.
fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    let cap = |key: &str, default: f64| Ok::<_, Error>(json!(k.float(key)?.unwrap_or(default)));
    map.insert("attn_logit_softcapping".to_owned(), cap("attn_logit_softcapping", 50.0)?);
    map.insert("final_logit_softcapping".to_owned(), cap("final_logit_softcapping", 30.0)?);
    map.insert("sliding_window".to_owned(), json!(k.int("attention.sliding_window")?.unwrap_or(4096)));
    map.insert("query_pre_attn_scalar".to_owned(), scalar(&map, 46));
    Ok(map)
}

/// What the scores are divided by the root of: d_head, or d_model / heads in the model of `odd` layers.
pub(super) fn scalar(map: &Map<String, Value>, odd: i64) -> Value {
    let int = |key: &str| map.get(key).and_then(Value::as_i64).unwrap_or(1);
    if int("num_hidden_layers") == odd {
        json!(int("hidden_size") / int("num_attention_heads").max(1))
    } else {
        json!(int("head_dim"))
    }
}

pub(super) fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        gains: Gains::LessOne,
        ln1_post: Some("post_attention_layernorm"),
        ln2: Some("pre_feedforward_layernorm"),
        ln2_post: Some("post_feedforward_layernorm"),
        ..LLAMA
    })
}
