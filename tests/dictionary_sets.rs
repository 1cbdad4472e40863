//! Dictionaries as other tools keep them, and sets of them: one transcoder a layer.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use circuitscope::features::dictionary::{Activation, formats};
use circuitscope::features::{Dictionary, DictionarySet};
use circuitscope::progress::Progress;
use common::{fixture, json, sentence};

fn open(path: &Path) -> Dictionary {
    formats::open(path, &Progress::new()).unwrap()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn write(path: &Path, bytes: &[u8]) {
    circuitscope::files::write_atomic(path, bytes).unwrap();
}

/// A copy of a folder's files.
fn copied(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn sparsify_takes_the_largest_of_what_relu_leaves() {
    let folder = fixture("sets/sparsify");
    let d = open(&folder);
    assert_eq!((d.d_in, d.d_sae, d.d_out, &d.activation), (64, 96, 64, &Activation::TopK { k: 8 }));
    let raw = tensors(&folder.join("sae.safetensors"));
    let x = Tensor::randn(0f32, 1f32, (5, 64), &Device::Cpu).unwrap();
    let pre = x.broadcast_sub(&raw["b_dec"]).unwrap().matmul(&raw["encoder.weight"].t().unwrap()).unwrap();
    let pre: Vec<Vec<f32>> = pre.broadcast_add(&raw["encoder.bias"]).unwrap().to_vec2().unwrap();
    let acts: Vec<Vec<f32>> = d.encode(&x, &Progress::new()).unwrap().dense(96).unwrap().to_vec2().unwrap();
    for (pre, acts) in pre.iter().zip(&acts) {
        let mut sorted = pre.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for (p, a) in pre.iter().zip(acts) {
            let want = if *p >= sorted[7] { p.max(0.0) } else { 0.0 };
            assert!((want - a).abs() < 1e-5, "{want} {a}");
        }
    }
    // A folder named after its module says where it belongs.
    let dir = tempfile::tempdir().unwrap();
    let named = dir.path().join("layers.2.mlp");
    fs::create_dir(&named).unwrap();
    for file in ["cfg.json", "sae.safetensors"] {
        fs::copy(folder.join(file), named.join(file)).unwrap();
    }
    assert_eq!(open(&named).input.unwrap().to_string(), "blocks.2.mlp.hook_out");
}

#[test]
fn gemma_scope_2_says_where_it_belongs() {
    let folder = fixture("sets/gemma-scope-2");
    let inner = folder.join("transcoder_all/layer_1_width_16k_l0_small");
    let d = open(&inner);
    assert_eq!(d.input.unwrap().to_string(), "blocks.1.mlp.hook_in");
    assert_eq!(d.output.unwrap().to_string(), "blocks.1.hook_mlp_out");
    let dir = tempfile::tempdir().unwrap();
    let out = text(&dir.path().join("out.safetensors"));
    let model = text(&folder.join("model"));
    let encode = ["features", "encode", "-m", &model, "--ids", "5,6,7,8", "--dictionary", &text(&inner), "-o", &out];
    json(&encode);
    let (made, expected) = (tensors(Path::new(&out)), tensors(&folder.join("expected.safetensors")));
    for part in ["features", "reconstruction"] {
        let gap = gap(&made[part], &expected[part]);
        assert!(gap < 1e-5, "{part}: {gap}");
    }
    // The configuration is believed, not the words of the path.
    let other = dir.path().join("attn-research/sub/layer_1");
    fs::create_dir_all(&other).unwrap();
    fs::copy(inner.join("params.safetensors"), other.join("params.safetensors")).unwrap();
    let residual = br#"{"hf_hook_point_in": "model.layers.1.output", "hf_hook_point_out": "model.layers.1.output"}"#;
    write(&other.join("config.json"), residual);
    assert_eq!(open(&other).input.unwrap().to_string(), "blocks.1.hook_resid_post");
}

#[test]
fn a_stream_without_its_mean_is_encoded_so() {
    let folder = fixture("sets/centred");
    let dir = tempfile::tempdir().unwrap();
    let out = text(&dir.path().join("out.safetensors"));
    let (model, sae) = (text(&folder.join("model")), text(&folder.join("sae")));
    json(&["features", "encode", "-m", &model, "--ids", "5,6,7,8", "--dictionary", &sae, "-o", &out]);
    let expected = tensors(&folder.join("expected.safetensors"));
    assert!(gap(&tensors(Path::new(&out))["features"], &expected["features"]) < 1e-5);
    // A file of before there was such a field is asked about.
    let old = copied(&folder.join("sae"));
    let told = fs::read_to_string(old.path().join("cfg.json")).unwrap();
    let told = told.replace("model_from_pretrained_kwargs", "unknown").replace("6.5.0", "3.0.0");
    write(&old.path().join("cfg.json"), told.as_bytes());
    assert!(open(old.path()).warnings[0].contains("center_writing_weights"));
    // What is not honoured is said.
    let told = fs::read_to_string(folder.join("sae/cfg.json")).unwrap().replace("center_writing", "rotate_writing");
    write(&old.path().join("cfg.json"), told.as_bytes());
    assert!(open(old.path()).warnings[0].contains("`rotate_writing_weights` = true"));
}

#[test]
fn dictionary_learning_is_read_without_running_anything() {
    for name in ["learning-relu", "learning-topk", "learning-matryoshka"] {
        let folder = fixture("sets").join(name);
        let (d, e) = (open(&folder), tensors(&folder.join("expected.safetensors")));
        assert_eq!(d.input.unwrap().to_string(), "blocks.1.hook_resid_post");
        let (acts, out) = d.run(&e["x"], &Progress::new()).unwrap();
        assert!(gap(&acts.dense(24).unwrap(), &e["features"]) < 1e-5, "{name}");
        assert!(gap(&out, &e["reconstruction"]) < 1e-5, "{name}");
    }
    let evil = formats::open(&fixture("sets/learning-evil"), &Progress::new()).unwrap_err().to_string();
    assert!(evil.contains("system") && evil.contains("nothing in a file is run here"), "{evil}");
    let dir = copied(&fixture("sets/learning-relu"));
    let bytes = fs::read(dir.path().join("ae.pt")).unwrap();
    for len in [0, 40, bytes.len() / 2, bytes.len() - 30] {
        write(&dir.path().join("ae.pt"), &bytes[..len]);
        assert!(formats::open(dir.path(), &Progress::new()).is_err_and(|e| e.to_string().contains("ae.pt")));
    }
    write(&dir.path().join("ae.pt"), &bytes);
    write(&dir.path().join("config.json"), br#"{"trainer": {"dict_class": "Surprise"}}"#);
    let unknown = formats::open(dir.path(), &Progress::new()).unwrap_err().to_string();
    assert!(unknown.contains("Surprise") && unknown.contains("BatchTopKSAE"), "{unknown}");
}

fn set(path: &Path) -> DictionarySet {
    DictionarySet::open(path.to_str().unwrap(), &Progress::new()).unwrap()
}

fn config_of(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.yaml");
    let told = fs::read_to_string(&path).unwrap();
    assert!(told.contains(from), "{told}");
    write(&path, told.replace(from, to).as_bytes());
}

fn model(family: &str) -> circuitscope::model::Model {
    circuitscope::model::Model::open(fixture("families").join(family).to_str().unwrap()).unwrap()
}

#[test]
fn circuit_tracer_sets_honour_their_words() {
    let topk = copied(&fixture("feature-graphs/qwen3-plt-topk-skip/transcoders"));
    let qwen = model("qwen3");
    let layer = |path: &Path| set(path).layer(1, &qwen.config, &Progress::new()).map(|l| l.0);
    assert_eq!(layer(topk.path()).unwrap().activation, Activation::Largest { k: 5 });
    config_of(topk.path(), "activation: topk", "activation: relu");
    assert_eq!(layer(topk.path()).unwrap().activation, Activation::Relu);
    config_of(topk.path(), "activation: relu", "activation: softplus");
    assert!(layer(topk.path()).unwrap_err().to_string().contains("`softplus`"));
    config_of(topk.path(), "activation: softplus\nk: 5", "activation: topk");
    assert!(layer(topk.path()).unwrap_err().to_string().contains("does not say its k"));
    config_of(topk.path(), "activation: topk", "activation: jump_relu");
    assert!(layer(topk.path()).unwrap_err().to_string().contains("no threshold"));
}

#[test]
fn skips_of_cross_layer_sets_lie_the_other_way_round() {
    let dir = copied(&fixture("feature-graphs/gpt2-clt-relu/transcoders"));
    let file = dir.path().join("W_enc_1.safetensors");
    let mut parts = tensors(&file);
    let skip = Tensor::randn(0f32, 1f32, (64, 64), &Device::Cpu).unwrap();
    parts.insert("W_skip_1".to_owned(), skip.clone());
    candle_core::safetensors::save(&parts, &file).unwrap();
    let gpt2 = model("gpt2");
    let (d, ..) = set(dir.path()).layer(1, &gpt2.config, &Progress::new()).unwrap();
    assert_eq!(gap(d.skip.as_ref().unwrap(), &skip), 0.0);
    let per_layer = fixture("feature-graphs/gemma2-plt-jumprelu-skip/transcoders");
    let stored = tensors(&per_layer.join("layer_1.safetensors"))["W_skip"].clone();
    let (d, ..) = set(&per_layer).layer(1, &model("gemma2").config, &Progress::new()).unwrap();
    assert_eq!(gap(d.skip.as_ref().unwrap(), &stored.t().unwrap().contiguous().unwrap()), 0.0);
}

/// Runs the program with a hub's cache of its own.
fn with_cache(cache: &Path, args: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_circuitscope"));
    command.env("HF_HUB_CACHE", cache).args(args).output().unwrap()
}

#[test]
fn listed_files_are_found_in_the_hubs_cache() {
    let source = fixture("feature-graphs/llama-plt-relu/transcoders");
    let dir = tempfile::tempdir().unwrap();
    let (set, cache) = (dir.path().join("set"), dir.path().join("cache"));
    fs::create_dir(&set).unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = cache.join("models--org--name");
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    write(&repository.join("refs/main"), commit.as_bytes());
    let mut list = fs::read_to_string(source.join("config.yaml")).unwrap();
    list.push_str("transcoders:\n");
    for layer in 0..3 {
        fs::copy(source.join(format!("layer_{layer}.safetensors")), snapshot.join(format!("l{layer}.safetensors")))
            .unwrap();
        list.push_str(&format!("  - hf://org/name/l{layer}.safetensors?revision=main\n"));
    }
    write(&set.join("config.yaml"), list.as_bytes());
    let family = text(&fixture("families/llama"));
    let (set_text, ids) = (text(&set), "1,57,130,9,201,57,88");
    let trace = |set: &str| {
        let args = ["trace", "-m", &family, "--ids", ids, "--dictionary", set, "--json"];
        with_cache(&cache, &args)
    };
    let score = |out: std::process::Output| -> f64 {
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()["replacement_score"].as_f64().unwrap()
    };
    assert_eq!(score(trace(&set_text)), score(trace(&text(&source))));
    fs::remove_file(snapshot.join("l1.safetensors")).unwrap();
    let out = trace(&set_text);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("hub's cache") && said.contains("l1.safetensors"), "{said}");
}

#[test]
fn sets_that_do_not_fit_are_refused_in_one_sentence() {
    let source = fixture("feature-graphs/llama-plt-relu/transcoders");
    let family = text(&fixture("families/llama"));
    let refused = |folder: &Path, says: &[&str]| {
        let folder = text(folder);
        let args = ["trace", "-m", &family, "--ids", "1,57,130", "--dictionary", &folder];
        let out = common::run(&args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && out.stdout.is_empty(), "{said}");
        assert!(said.trim().lines().count() == 1 && says.iter().all(|s| said.contains(s)), "{said}");
    };
    let missing = copied(&source);
    fs::remove_file(missing.path().join("layer_1.safetensors")).unwrap();
    refused(missing.path(), &["no dictionary of layer 1", "3 layers"]);
    let more = copied(&source);
    fs::copy(source.join("layer_2.safetensors"), more.path().join("layer_3.safetensors")).unwrap();
    refused(more.path(), &["layer 3", "another model"]);
    let change = |name: &str, tensor: Tensor| {
        let dir = copied(&source);
        let file = dir.path().join("layer_1.safetensors");
        let mut parts = tensors(&file);
        parts.insert(name.to_owned(), tensor);
        candle_core::safetensors::save(&parts, &file).unwrap();
        dir
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let narrow = change("W_enc", zeros(&[40, 32]));
    refused(narrow.path(), &["[32]", "[64]"]);
    let nan = change("b_enc", Tensor::new(vec![f32::NAN; 40], &Device::Cpu).unwrap());
    refused(nan.path(), &["b_enc", "NaN"]);
    refused(&fixture("dictionaries/standard"), &["layer 0"]);
    refused(Path::new("/no/such"), &["/no/such"]);
    let sentence =
        sentence(&["trace", "-m", &family, "--ids", "1,2", "--dictionary", &text(&source), "--target", "999"], 2);
    assert!(sentence.contains("999"), "{sentence}");
}

/// SAELens folders side by side are a set.
#[test]
fn folders_of_any_format_make_a_set() {
    let source = fixture("feature-graphs/llama-plt-relu/transcoders");
    let llama = model("llama");
    let (whole, dir) = (set(&source), tempfile::tempdir().unwrap());
    for layer in 0..3 {
        let (mut d, ..) = whole.layer(layer, &llama.config, &Progress::new()).map(|l| ((*l.0).clone(), ())).unwrap();
        d.model_name = Some("llama".to_owned());
        let folder: PathBuf = dir.path().join(format!("layer_{layer}"));
        formats::saelens::save(&d, &folder, &serde_json::Value::Null).unwrap();
    }
    let other = set(dir.path());
    assert_eq!(other.len(), 3);
    let trace = |path: &Path| {
        let family = text(&fixture("families/llama"));
        json(&["trace", "-m", &family, "--ids", "1,57,130,9,201,57,88", "--dictionary", &text(path)])
    };
    assert_eq!(trace(&source)["replacement_score"], trace(dir.path())["replacement_score"]);
}
