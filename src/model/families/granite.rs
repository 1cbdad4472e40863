//! Granite: Llama with factors on the embedding, the scores, what the layers write, and the logits.

use serde_json::{Map, Value, json};

use super::{Family, Form, gated_rms, llama};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gguf_config::Keys;
use crate::model::options::Options;

pub const FAMILY: Family = Family {
    name: "granite",
    title: "Granite",
    config,
    names: llama::names,
    gguf: Some(Form { arch: "granite", when: |_| true, config: gguf, interleaved: true }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("granite", o)?;
    let logits = o.number_or("logits_scaling", 1.0)?;
    if logits <= 0.0 {
        return Err(o.bad("logits_scaling", format!("is {logits}")));
    }
    c.unembed_scale = logits.recip() as f32;
    c.embed_scale = o.number_or("embedding_multiplier", 1.0)? as f32;
    c.residual_scale = o.number_or("residual_multiplier", 1.0)? as f32;
    c.attn_scale = vec![o.number_or("attention_multiplier", 1.0)? as f32; c.n_layers];
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    // Under this key llama.cpp has whether the model knows positions at all.
    if k.flag("rope.scaling.finetuned")? == Some(false) {
        return Err(k.refuse("rope.scaling.finetuned", false));
    }
    let d_head = map["head_dim"].as_f64().unwrap_or(1.0);
    for (key, option) in [
        ("logit_scale", "logits_scaling"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("attention.scale", "attention_multiplier"),
    ] {
        map.insert(option.to_owned(), json!(k.float(key)?));
    }
    if map["attention_multiplier"].is_null() {
        map.insert("attention_multiplier".to_owned(), json!(d_head.sqrt().recip()));
    }
    Ok(map)
}
