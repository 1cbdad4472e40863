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
    // Also by a model without a tokenizer, on which nothing can be checked.
    let args = ["features", "encode", "-m", &model, "--ids", "5,6,7,8", "--dictionary", &text(old.path())];
    assert!(json(&args)["warnings"].to_string().contains("center_writing_weights"));
    // Norms that do not centre read the stream as it is.
    let llama = model_of("llama");
    let refused = open(&folder.join("sae")).check(&llama.config).unwrap_err().to_string();
    assert!(refused.contains("center_writing_weights") && refused.contains("do not centre"), "{refused}");
    // Scaled activations, and values without their biases.
    let sae = fs::read_to_string(folder.join("sae/cfg.json")).unwrap();
    let with = |from: &str, to: &str| {
        let mut told: serde_json::Value = serde_json::from_str(&sae).unwrap();
        told[from] = to.into();
        told
    };
    write(
        &old.path().join("cfg.json"),
        with("normalize_activations", "expected_average_only_in").to_string().as_bytes(),
    );
    assert!(open(old.path()).warnings[0].contains("expected_average_only_in"));
    let mut mixed = with("hook_name", "blocks.1.attn.hook_z");
    mixed["metadata"]["hook_name"] = "blocks.1.attn.hook_z".into();
    mixed["metadata"]["model_from_pretrained_kwargs"] = serde_json::json!({"fold_value_biases": true});
    mixed["model_from_pretrained_kwargs"] = serde_json::json!({"fold_value_biases": true});
    write(&old.path().join("cfg.json"), mixed.to_string().as_bytes());
    assert!(open(old.path()).warnings[0].contains("fold_value_biases"));
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
    // What goes into a submodule is another place than what comes out of it.
    for (submodule, io, place) in [
        ("mlp", "in", Some("blocks.1.mlp.hook_in")),
        ("mlp", "out", Some("blocks.1.mlp.hook_out")),
        ("resid_post", "in", Some("blocks.1.hook_resid_pre")),
        ("mlp", "in_and_out", None),
    ] {
        let told = serde_json::json!({
            "trainer": {"dict_class": "AutoEncoder", "submodule_name": submodule, "layer": 1}, "buffer": {"io": io},
        });
        write(&dir.path().join("config.json"), told.to_string().as_bytes());
        match (formats::open(dir.path(), &Progress::new()), place) {
            (Ok(d), Some(place)) => assert_eq!(d.input.unwrap().to_string(), place),
            (Err(e), None) => assert!(e.to_string().contains("in_and_out"), "{e}"),
            (found, _) => panic!("{submodule} {io}: {:?}", found.map(|d| d.input)),
        }
    }
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

fn model_of(family: &str) -> circuitscope::model::Model {
    circuitscope::model::Model::open(fixture("families").join(family).to_str().unwrap()).unwrap()
}

#[test]
fn circuit_tracer_sets_honour_their_words() {
    let topk = copied(&fixture("feature-graphs/qwen3-plt-topk-skip/transcoders"));
    let qwen = model_of("qwen3");
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
    let gpt2 = model_of("gpt2");
    let (d, ..) = set(dir.path()).layer(1, &gpt2.config, &Progress::new()).unwrap();
    assert_eq!(gap(d.skip.as_ref().unwrap(), &skip), 0.0);
    let per_layer = fixture("feature-graphs/gemma2-plt-jumprelu-skip/transcoders");
    let stored = tensors(&per_layer.join("layer_1.safetensors"))["W_skip"].clone();
    let (d, ..) = set(&per_layer).layer(1, &model_of("gemma2").config, &Progress::new()).unwrap();
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
    let llama = model_of("llama");
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

/// A tensor of a shape.
fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn save(path: &Path, parts: &[(&str, Tensor)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let parts: HashMap<&str, Tensor> = parts.iter().cloned().collect();
    candle_core::safetensors::save(&parts, path).unwrap();
}

/// What a dictionary makes of one row: its active features, and what stands in for the output.
fn made(d: &Dictionary, x: &[f32]) -> (Vec<(u32, f32)>, Vec<f32>) {
    let (acts, out) = d.replacement(&tensor(x, &[1, x.len()]), &Progress::new()).unwrap();
    (acts.row(0).collect(), out.flatten_all().unwrap().to_vec1().unwrap())
}

fn is_near(found: &(Vec<(u32, f32)>, Vec<f32>), acts: &[(u32, f32)], out: &[f32]) {
    let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
    assert_eq!(found.0.len(), acts.len(), "{found:?}");
    assert!(found.0.iter().zip(acts).all(|(a, b)| a.0 == b.0 && near(a.1, b.1)), "{found:?}");
    assert!(found.1.iter().zip(out).all(|(a, b)| near(*a, *b)), "{found:?}");
}

/// A layer as Llama Scope keeps it; scales of 2 and 4 come of its average norms.
fn llama_scope(folder: &Path, layer: usize) {
    let hook = format!("blocks.{layer}.hook_resid_post");
    let told = serde_json::json!({
        "hook_point_in": hook, "hook_point_out": hook, "act_fn": "jumprelu", "jump_relu_threshold": 1.0,
        "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": true, "model_name": "tiny",
        "dataset_average_activation_norm": {"in": 0.5f64.sqrt(), "out": 0.125f64.sqrt()},
    });
    save(
        &folder.join("checkpoints/final.safetensors"),
        &[
            ("encoder.weight", tensor(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2])),
            ("encoder.bias", tensor(&[0.0, 0.0, -1.0], &[3])),
            ("decoder.weight", tensor(&[1.0, 0.0, 0.5, 0.0, 2.0, 0.0], &[2, 3])),
            ("decoder.bias", tensor(&[0.4, 0.0], &[2])),
        ],
    );
    write(&folder.join("hyperparams.json"), told.to_string().as_bytes());
}

#[test]
fn llama_scope_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    llama_scope(dir.path(), 1);
    let d = open(dir.path());
    assert_eq!((d.input.unwrap().to_string(), d.transcoder), ("blocks.1.hook_resid_post".to_owned(), false));
    // Scaled by √2 / √½ = 2 the input is (2, 0.6), and encoded 2, 0.6 and 1.6. Times the lengths of the decoder's rows 1, 2
    // and ½ the first two lie above the threshold of 1. They write (2, 1.2) + (0.4, 0), which is divided by √2 / √⅛ = 4.
    is_near(&made(&d, &[1.0, 0.3]), &[(0, 2.0), (1, 0.6)], &[0.6, 0.3]);
}

/// The layers of Gemma Scope 2's cross-layer transcoders, each with what it writes to both layers of a model.
fn gemma_cross(folder: &Path) {
    for (layer, rows) in [(0, [1.0f32, 0.0, 0.0, 2.0]), (1, [9.0, 9.0, 0.0, 3.0])] {
        save(
            &folder.join(format!("params_layer_{layer}.safetensors")),
            &[
                ("w_enc", tensor(&[1.0, 0.0], &[2, 1])),
                ("b_enc", tensor(&[-0.5], &[1])),
                // [feature][layer][d].
                ("w_dec", tensor(&rows, &[1, 2, 2])),
                ("b_dec", tensor(&[0.0, layer as f32], &[2])),
                ("threshold", tensor(&[0.25], &[1])),
            ],
        );
    }
    let hook = |l: usize, what: &str| format!("model.layers.{l}.{what}.output");
    let (norm, post) = ("pre_feedforward_layernorm", "post_feedforward_layernorm");
    let told = serde_json::json!({
        "hf_hook_point_in": [hook(0, norm), hook(1, norm)], "hf_hook_point_out": [hook(0, post), hook(1, post)],
        "model_name": "google/gemma-3-tiny",
    });
    write(&folder.join("config.json"), told.to_string().as_bytes());
}

#[test]
fn cross_layer_sets_of_gemma_scope_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    gemma_cross(dir.path());
    let whole = set(dir.path());
    assert_eq!(whole.layers().collect::<Vec<_>>(), [0, 1]);
    let layer = |set: &DictionarySet, l: usize| set.read(l, &Progress::new()).unwrap();
    let (first, second) = (layer(&whole, 0), layer(&whole, 1));
    assert_eq!(first.input.unwrap().to_string(), "blocks.0.mlp.hook_in");
    assert_eq!(second.output.unwrap().to_string(), "blocks.1.hook_mlp_out");
    assert!(first.transcoder && second.shares_its_site());
    // 1 − ½ lies above ¼. The first layer's feature writes (1, 0) to its own and (0, 2) to the next; what stands before the
    // second's own layer is nobody's.
    is_near(&made(&first, &[1.0, 5.0]), &[(0, 0.5)], &[0.5, 0.0]);
    assert_eq!(first.later.of(0).unwrap(), [vec![0.0, 2.0]]);
    is_near(&made(&second, &[1.0, 5.0]), &[(0, 0.5)], &[0.0, 2.5]);
    assert!(second.later.is_empty());
    assert!(made(&first, &[0.7, 0.0]).0.is_empty());
    // The same by a list of circuit-tracer's.
    let listed = tempfile::tempdir().unwrap();
    let files: Vec<String> =
        (0..2).map(|l| format!("- {}\n", dir.path().join(format!("params_layer_{l}.safetensors")).display())).collect();
    let told = format!(
        "model_name: tiny\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: mlp.hook_in\n\
         feature_output_hook: hook_mlp_out\ntranscoders:\n{}",
        files.concat()
    );
    write(&listed.path().join("config.yaml"), told.as_bytes());
    let by_list = set(listed.path());
    assert_eq!(by_list.len(), 2);
    let own = layer(&by_list, 0);
    assert_eq!(own.output.unwrap().to_string(), "blocks.0.hook_mlp_out");
    assert_eq!(own.later.of(0).unwrap(), [vec![0.0, 2.0]]);
    is_near(&made(&layer(&by_list, 1), &[1.0, 5.0]), &[(0, 0.5)], &[0.0, 2.5]);
}

#[test]
fn a_transcoder_of_sparsify_with_a_skip_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("layers.1.mlp");
    save(
        &folder.join("sae.safetensors"),
        &[
            ("encoder.weight", tensor(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2])),
            ("encoder.bias", tensor(&[0.0, 0.0, -2.5], &[3])),
            ("W_dec", tensor(&[1.0, 1.0, 0.0, 3.0, 1.0, 0.0], &[3, 2])),
            ("b_dec", tensor(&[1.0, 0.0], &[2])),
            ("W_skip", tensor(&[0.0, 1.0, 2.0, 0.0], &[2, 2])),
        ],
    );
    write(
        &folder.join("cfg.json"),
        br#"{"activation": "topk", "k": 1, "num_latents": 3, "d_in": 2, "transcode": true, "skip_connection": true}"#,
    );
    let d = open(&folder);
    assert_eq!(d.input.unwrap().to_string(), "blocks.1.mlp.hook_in");
    assert_eq!(d.output.unwrap().to_string(), "blocks.1.mlp.hook_out");
    // Encoded 1, 2, ½: the second alone is kept, and writes (0, 6) + (1, 0); the skip adds W_skip x = (2, 2).
    is_near(&made(&d, &[1.0, 2.0]), &[(1, 2.0)], &[3.0, 8.0]);
}

#[test]
fn thresholds_that_training_found_are_read_of_batch_topk() {
    let dir = tempfile::tempdir().unwrap();
    let (enc, dec) =
        (tensor(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0], &[2, 3]), tensor(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2]));
    let parts = |more: (&'static str, Tensor)| {
        let (b_enc, b_dec) = (tensor(&[0.0; 3], &[3]), tensor(&[0.5, 0.0], &[2]));
        [("W_enc", enc.clone()), ("W_dec", dec.clone()), ("b_enc", b_enc), ("b_dec", b_dec), more]
    };
    let folder = |name: &str, architecture: &str, more: (&'static str, Tensor)| {
        let folder = dir.path().join(name);
        save(&folder.join("sae_weights.safetensors"), &parts(more));
        let told = serde_json::json!({
            "architecture": architecture, "d_in": 2, "d_sae": 3, "apply_b_dec_to_input": true, "k": 2,
            "metadata": {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.5.0"},
        });
        write(&folder.join("cfg.json"), told.to_string().as_bytes());
        folder
    };
    let one = folder("batch", "batchtopk", ("topk_threshold", tensor(&[1.0], &[])));
    let each = folder("nested", "matryoshka_batchtopk", ("threshold", tensor(&[1.0, 0.25, 2.5], &[3])));
    // x − b_dec = (1½, ½), encoded 1½, ½, 2.
    is_near(&made(&open(&one), &[2.0, 0.5]), &[(0, 1.5), (2, 2.0)], &[4.0, 2.0]);
    is_near(&made(&open(&each), &[2.0, 0.5]), &[(0, 1.5), (1, 0.5)], &[2.0, 0.5]);

    // Where activations count times the lengths of their rows, 1, 1 and √2, so does the threshold: of 1½, ½ and 2√2 the last
    // alone lies above 2½.
    let scaled = folder("scaled", "batchtopk", ("topk_threshold", tensor(&[2.5], &[])));
    let told = fs::read_to_string(scaled.join("cfg.json")).unwrap();
    write(
        &scaled.join("cfg.json"),
        told.replace("\"k\":2", "\"k\":2,\"rescale_acts_by_decoder_norm\":true").as_bytes(),
    );
    let d = open(&scaled);
    assert!(d.rescale);
    is_near(&made(&d, &[2.0, 0.5]), &[(2, 8f32.sqrt())], &[2.5, 2.0]);

    // dictionary_learning's, in torch's own file.
    use circuitscope::model::torch_file::{Written, save as save_torch};
    let learned = dir.path().join("learned");
    fs::create_dir(&learned).unwrap();
    let all = [
        ("encoder.weight", enc.t().unwrap().contiguous().unwrap()),
        ("encoder.bias", tensor(&[0.0; 3], &[3])),
        ("decoder.weight", dec.t().unwrap().contiguous().unwrap()),
        ("b_dec", tensor(&[0.5, 0.0], &[2])),
        ("threshold", tensor(&[1.0], &[])),
    ];
    let named = all.iter().map(|(name, t)| (Written::Text((*name).to_owned()), Written::Tensor(t))).collect();
    save_torch(&learned.join("ae.pt"), &Written::Dictionary(named)).unwrap();
    let told =
        br#"{"trainer": {"dict_class": "BatchTopKSAE", "k": 2, "layer": 1, "submodule_name": "resid_post_layer_1"}}"#;
    write(&learned.join("config.json"), told);
    is_near(&made(&open(&learned), &[2.0, 0.5]), &[(0, 1.5), (2, 2.0)], &[4.0, 2.0]);
}

/// What tells a layer is read alone, so that a large set opens at once; weights are read when it is their layer's turn.
#[test]
fn sets_open_without_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let hook = |layer: usize| format!(r#"{{"metadata": {{"hook_name": "blocks.{layer}.mlp.hook_in"}}}}"#);
    for layer in 0..3 {
        let scope = format!("gemma-scope-2b-pt-transcoders/layer_{layer}/width_16k/average_l0_9/params.npz");
        let lens = format!("lens/blocks.{layer}");
        let learned = format!("learned/trainer_{layer}");
        let module = format!("sparsify/layers.{layer}.mlp");
        let llama = format!("llama/l{layer}");
        let trainer = format!(r#"{{"trainer": {{"layer": {layer}, "submodule_name": "mlp_out"}}}}"#);
        let point = format!(r#"{{"hook_point_in": "blocks.{layer}.hook_resid_post"}}"#);
        for (file, bytes) in [
            (at(&scope), "no weights"),
            (at(&lens).join("sae_weights.safetensors"), "no weights"),
            (at(&lens).join("cfg.json"), hook(layer).as_str()),
            (at(&learned).join("ae.pt"), "no weights"),
            (at(&learned).join("config.json"), trainer.as_str()),
            (at(&module).join("sae.safetensors"), "no weights"),
            (at(&module).join("cfg.json"), "{}"),
            (at(&llama).join("checkpoints/final.safetensors"), "no weights"),
            (at(&llama).join("hyperparams.json"), point.as_str()),
        ] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            write(&file, bytes.as_bytes());
        }
    }
    for name in ["gemma-scope-2b-pt-transcoders", "lens", "learned", "sparsify", "llama"] {
        let found = set(&at(name));
        assert_eq!(found.layers().collect::<Vec<_>>(), [0, 1, 2], "{name}");
        assert!(found.read(1, &Progress::new()).is_err(), "{name}");
    }
}

/// circuit-tracer's jump has no ReLU behind it: below 0 a threshold lets negative ones through.
#[test]
fn a_threshold_below_zero_keeps_what_lies_above_it() {
    let dir = copied(&fixture("feature-graphs/gemma2-plt-jumprelu-skip/transcoders"));
    let file = dir.path().join("layer_1.safetensors");
    let mut parts = tensors(&file);
    let threshold = Tensor::full(-0.5f32, parts["b_enc"].dims(), &Device::Cpu).unwrap();
    parts.insert("activation_function.threshold".to_owned(), threshold);
    candle_core::safetensors::save(&parts, &file).unwrap();
    let gemma = model_of("gemma2");
    let (d, ..) = set(dir.path()).layer(1, &gemma.config, &Progress::new()).unwrap();
    assert!(matches!(d.activation, Activation::Jump { .. }));
    let x = Tensor::randn(0f32, 1f32, (6, d.d_in), &Device::Cpu).unwrap();
    let pre: Vec<Vec<f32>> = d.pre_activations(&x).unwrap().to_vec2().unwrap();
    let acts: Vec<Vec<f32>> = d.encode(&x, &Progress::new()).unwrap().dense(d.d_sae).unwrap().to_vec2().unwrap();
    let mut negative = 0;
    for (z, a) in pre.iter().flatten().zip(acts.iter().flatten()) {
        let want = if *z > -0.5 { *z } else { 0.0 };
        assert!((want - a).abs() < 1e-4 || (z + 0.5).abs() < 1e-4, "{z} {a}");
        negative += usize::from(*a < 0.0);
    }
    assert!(negative > 0);
    // An edit of the feature knows the same activation.
    use circuitscope::engine::dictionaries::FeatureRows;
    use circuitscope::engine::edit::FeatureChange;
    use circuitscope::features::dictionary::edit::FeatureEdit;
    let (row, feature) =
        acts.iter().enumerate().find_map(|(r, a)| a.iter().position(|v| *v < 0.0).map(|f| (r, f))).unwrap();
    let site = d.output.unwrap().site;
    let edit = FeatureEdit::new(d.clone(), feature, FeatureChange::Set(0.0), site, &gemma).unwrap();
    let x: Vec<Vec<f32>> = x.to_vec2().unwrap();
    assert!((edit.amount(&x[row]) + acts[row][feature]).abs() < 1e-4);
    // Where no threshold lies below 0 it is the function that it was.
    let (d, ..) = set(dir.path()).layer(0, &gemma.config, &Progress::new()).unwrap();
    assert!(matches!(d.activation, Activation::JumpRelu { .. }));
}

/// What SAELens calls `hook_normalized` is a LayerNorm's whole output, unless its weights were folded away.
#[test]
fn a_layer_norm_is_read_with_its_weight_where_it_was_trained_so() {
    use circuitscope::features::Place;
    let (gpt2, llama) = (model_of("gpt2"), model_of("llama"));
    let dir = tempfile::tempdir().unwrap();
    let source = set(&fixture("feature-graphs/gpt2-clt-relu/transcoders")).read(2, &Progress::new()).unwrap();
    let saved = |hook: &str| {
        let mut d = Dictionary { later: Default::default(), ..(*source).clone() };
        (d.input, d.output) = (Some(Place::parse(hook).unwrap()), Some(Place::parse("blocks.1.hook_mlp_out").unwrap()));
        formats::saelens::save(&d, dir.path(), &serde_json::Value::Null).unwrap();
    };
    saved("blocks.1.ln2.hook_normalized");
    let read = |model: &circuitscope::model::Model| {
        open(dir.path()).check(&model.config).map(|(input, _)| input.to_string()).map_err(|e| e.to_string())
    };
    let told = |change: &dyn Fn(&mut serde_json::Value)| {
        let path = dir.path().join("cfg.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config["metadata"]);
        write(&path, config.to_string().as_bytes());
    };
    let (quotient, whole) = ("blocks.1.ln2.hook_normalized", "blocks.1.mlp.hook_in");
    // What is written here says that the weight is not in it.
    assert_eq!(read(&gpt2).unwrap(), quotient);
    told(&|m| m["model_from_pretrained_kwargs"] = serde_json::json!({"center_writing_weights": false}));
    assert_eq!(read(&gpt2).unwrap(), whole);
    assert_eq!(read(&llama).unwrap(), quotient, "RMSNorm's weight stands behind the hook");
    told(&|m| m["model_from_pretrained_kwargs"] = serde_json::json!({"fold_ln": true}));
    assert_eq!(read(&gpt2).unwrap(), quotient);
    // Of before it was said: everything was folded, but by this program nothing was there to be.
    told(&|m| _ = m.as_object_mut().unwrap().remove("model_from_pretrained_kwargs"));
    assert_eq!(read(&gpt2).unwrap(), quotient);
    told(&|m| _ = m.as_object_mut().unwrap().remove("generator"));
    assert_eq!(read(&gpt2).unwrap(), whole);
    told(&|m| m["sae_lens_version"] = "3.12.0".into());
    assert_eq!(read(&gpt2).unwrap(), quotient);
    // Of the norm before attention there is no site with its weight.
    saved("blocks.1.ln1.hook_normalized");
    told(&|m| m["model_from_pretrained_kwargs"] = serde_json::json!({}));
    let error = read(&gpt2).unwrap_err();
    assert!(error.contains("LayerNorm's weight and bias"), "{error}");
}

/// What a file says of itself and nobody honours is refused by name.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refused = |path: &Path| formats::open(path, &Progress::new()).unwrap_err().to_string();
    let signed = copied(&fixture("sets/sparsify"));
    let told = fs::read_to_string(signed.path().join("cfg.json")).unwrap();
    write(&signed.path().join("cfg.json"), told.replacen('{', "{\"signed\": true, ", 1).as_bytes());
    assert!(refused(signed.path()).contains("signed"));
    let dir = tempfile::tempdir().unwrap();
    llama_scope(dir.path(), 1);
    let told = fs::read_to_string(dir.path().join("hyperparams.json")).unwrap();
    write(&dir.path().join("hyperparams.json"), told.replacen('{', "{\"use_glu_encoder\": true, ", 1).as_bytes());
    assert!(refused(dir.path()).contains("use_glu_encoder"));
    // A hook that is none, with the file and the field that name it.
    let set = copied(&fixture("feature-graphs/llama-plt-relu/transcoders"));
    config_of(set.path(), "mlp.hook_in", "hook_mlp_in");
    let said = refused(&set.path().join("layer_0.safetensors"));
    assert!(
        said.contains("config.yaml") && said.contains("feature_input_hook") && said.contains("hook_mlp_in"),
        "{said}"
    );
}

/// A set that names another model is said to.
#[test]
fn another_models_set_is_told() {
    let family = text(&fixture("families/llama"));
    let trace = |set: &str| {
        let set = text(&fixture("feature-graphs").join(set).join("transcoders"));
        json(&["trace", "-m", &family, "--ids", "1,57,130,9", "--dictionary", &set])["warnings"].to_string()
    };
    let said = trace("llama3rope-plt-targets");
    assert!(said.contains("llama-rope-llama3") && said.contains("\\\"llama\\\""), "{said}");
    assert_eq!(trace("llama-plt-relu"), "[]");
}

/// Where files do not say their site, it is found in the hub's cache, and by the name of a transformers module.
#[test]
fn places_are_found_in_the_cache_and_by_module() {
    let dir = tempfile::tempdir().unwrap();
    let cached =
        dir.path().join("models--google--gemma-scope-2b-pt-res/snapshots/0123abc/layer_1/width_16k/average_l0_9");
    fs::create_dir_all(&cached).unwrap();
    fs::copy(
        fixture("dictionaries/gemma-scope/layer_1/width_40/average_l0_9_res/params.npz"),
        cached.join("params.npz"),
    )
    .unwrap();
    assert_eq!(open(&cached).input.unwrap().to_string(), "blocks.1.hook_resid_post");
    let folder = fixture("sets/centred/sae");
    let named = copied(&folder);
    let mut told: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("cfg.json")).unwrap()).unwrap();
    let module = "model.layers.1.pre_feedforward_layernorm.output";
    for part in ["hook_name", "hook_point"] {
        told.as_object_mut().unwrap().remove(part);
        told["metadata"].as_object_mut().map(|m| m.remove(part));
    }
    told["hook_name"] = "blocks.1.hook_mlp_in".into();
    told["hf_hook_name"] = module.into();
    told["model_from_pretrained_kwargs"] = serde_json::Value::Null;
    told["metadata"]["model_from_pretrained_kwargs"] = serde_json::Value::Null;
    write(&named.path().join("cfg.json"), told.to_string().as_bytes());
    assert_eq!(open(named.path()).input.unwrap().to_string(), "blocks.1.mlp.hook_in");
}
