//! What several test files share.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "every test file uses its own part, and reads what lies in the repository"
)]

pub mod gguf;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use circuitscope::model::Model;

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The tiny models of all families, by name.
pub fn families() -> Vec<(String, Arc<Model>)> {
    let read = std::fs::read_dir(fixture("families")).expect("the fixtures are in the repository");
    let mut folders: Vec<PathBuf> = read.map(|f| f.expect("a readable folder").path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
        .into_iter()
        .map(|folder| {
            let model = Model::open(folder.to_str().expect("a path in UTF-8")).expect("a fixture opens");
            (folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), Arc::new(model))
        })
        .collect()
}

/// Runs the program.
pub fn run(args: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope")).args(args).output().expect("the program starts")
}

/// The one document that `--json` prints.
pub fn json(args: &[&str]) -> serde_json::Value {
    let out = run(&[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

/// The sentence with which the program ends with this status; nothing else may be printed.
pub fn sentence(args: &[&str], code: i32) -> String {
    let out = run(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    assert!(out.stdout.is_empty() && text.trim().lines().count() == 1 && !text.contains("panicked"), "{text}");
    text
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
