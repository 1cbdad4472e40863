//! Published config.json files, written from what is publicly known of them, open as they are. Their sizes are made
//! tiny, and the weights are small random numbers.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use circuitscope::engine::NoHooks;
use circuitscope::model::{Model, tensors_of};
use circuitscope::progress::Progress;
use common::fixture;
use serde_json::{Map, Value, json};

const LAYERS: usize = 4;

/// Makes the sizes of a config tiny and keeps everything else.
fn shrink(config: &mut Map<String, Value>) {
    let count = |config: &Map<String, Value>, keys: &[&str]| keys.iter().find_map(|k| config.get(*k)?.as_u64());
    let heads = count(config, &["num_attention_heads", "n_head", "n_heads", "num_heads"]);
    let kv = count(config, &["num_key_value_heads"]).map(|n| match n {
        1 => 1,
        n if Some(n) == heads => 4,
        _ => 2,
    });
    let sized = config.get("head_dim").is_some();
    for (key, value) in config.iter_mut() {
        match key.as_str() {
            "hidden_size" | "n_embd" | "n_embed" | "d_model" | "word_embed_proj_dim" => *value = json!(32),
            "num_attention_heads" | "n_head" | "n_heads" | "num_heads" => *value = json!(4),
            "num_key_value_heads" => *value = json!(kv),
            "head_dim" => *value = json!(8),
            "rotary_dim" => *value = json!(4),
            "intermediate_size" | "n_inner" | "ffn_dim" if !value.is_null() => *value = json!(48),
            "moe_intermediate_size" => *value = json!(16),
            "num_experts" | "num_local_experts" => *value = json!(4),
            "num_experts_per_tok" => *value = json!(2),
            "num_hidden_layers" | "n_layer" | "n_layers" | "num_layers" => *value = json!(LAYERS),
            "vocab_size" => *value = json!(64),
            "layer_types" | "no_rope_layers" | "attention_layers" => {
                value.as_array_mut().unwrap().truncate(LAYERS);
            }
            "attention_types" => value[0][1] = json!(LAYERS / 2),
            // Of 8 dimensions of a head, a half or three quarters turn.
            "partial_rotary_factor" => *value = json!(if value.as_f64().unwrap() > 0.5 { 0.75 } else { 0.5 }),
            _ => {}
        }
    }
    let share = config.get("partial_rotary_factor").and_then(Value::as_f64).unwrap_or(1.0);
    if let Some(scaling) = config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        for key in ["short_factor", "long_factor"] {
            if let Some(list) = scaling.get_mut(key).and_then(Value::as_array_mut) {
                list.truncate((8.0 * share) as usize / 2);
            }
        }
    }
    if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        // The sizes that it leaves to the class are given, or the test would need gigabytes.
        for key in ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"] {
            text.entry(key).or_insert(json!(0));
        }
        text.entry("vocab_size").or_insert(json!(64));
        if text["model_type"] == "gemma3_text" {
            text.entry("head_dim").or_insert(json!(8));
        }
        shrink(text);
    }
    assert!(!sized || config["head_dim"] == 8);
}

/// Writes small random numbers for every tensor that the config asks for.
fn write_weights(folder: &Path) {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensors: HashMap<String, candle_core::Tensor> = tensors_of(folder)
        .unwrap()
        .into_iter()
        .map(|(name, shape)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
            (name, candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap())
        })
        .collect();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

#[test]
fn published_configs_open_as_they_are() {
    let text = std::fs::read_to_string(fixture("configs/published.json")).unwrap();
    let configs: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(configs.len() >= 40);
    let mut failures = Vec::new();
    for (name, mut config) in configs {
        shrink(config.as_object_mut().unwrap());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        // What is not tiny after all is not written.
        match circuitscope::model::describe(folder.path()) {
            Ok(c) if c.n_layers == LAYERS && c.d_model == 32 && c.d_vocab == 64 => write_weights(folder.path()),
            Ok(c) => {
                failures.push(format!("{name}: has {} layers of width {}", c.n_layers, c.d_model));
                continue;
            }
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        }
        match Model::open(folder.path().to_str().unwrap()) {
            Err(e) => failures.push(format!("{name}: {e}")),
            Ok(model) => {
                if !model.warnings.is_empty() {
                    failures.push(format!("{name}: {:?}", model.warnings));
                }
                let network = model.network();
                let resid = network.forward(&[&[3, 1, 4, 1, 5]], &mut NoHooks, &Progress::new()).unwrap();
                let sum = resid.sum_all().unwrap().to_scalar::<f32>().unwrap();
                if !sum.is_finite() {
                    failures.push(format!("{name}: its residual stream is not finite"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
