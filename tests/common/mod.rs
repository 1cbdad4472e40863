//! What several test files share.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod gguf;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use circuitscope::model::Model;

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// Where `scripts/fetch-models` puts the real model.
pub fn smollm2_path() -> PathBuf {
    let folder = std::env::var_os("CIRCUITSCOPE_MODELS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
                PathBuf::from,
            );
            cache.join("circuitscope/models")
        },
        PathBuf::from,
    );
    folder.join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The real model, opened once.
pub fn smollm2() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let path = smollm2_path();
            let spec = path.to_str().expect("a path in UTF-8");
            match Model::open(spec) {
                Ok(m) => Arc::new(m),
                Err(e) => panic!("{e}\nrun scripts/fetch-models first: it puts SmolLM2 there"),
            }
        })
        .clone()
}

/// A reference document.
pub fn oracle(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(fixture("oracles").join(name)).expect("the oracle is in the repository");
    serde_json::from_str(&text).expect("the oracle is JSON")
}

/// A value of the oracle whose key begins with `key` (the rest of a key explains it).
pub fn entry<'a>(doc: &'a serde_json::Value, key: &str) -> &'a serde_json::Value {
    let map = doc.as_object().expect("an object");
    map.get(key)
        .or_else(|| map.iter().find(|(k, _)| k.starts_with(key)).map(|(_, v)| v))
        .unwrap_or_else(|| panic!("no {key} in the oracle"))
}

pub fn grid(value: &serde_json::Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).expect("a grid of numbers")
}

pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

/// Largest |a − b|; lengths must agree.
pub fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}
