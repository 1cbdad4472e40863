//! Whatever is wrong with a file or a request gives one clear sentence: no panic, no huge allocation.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::path::Path;

use circuitscope::Error;
use circuitscope::model::Model;
use common::fixture;
use common::gguf::{Value, file, llama_fixture};

/// Opens a folder that is the llama fixture after `change`.
fn changed(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("families/llama").join(name), folder.path().join(name)).unwrap();
    }
    change(folder.path());
    let error = Model::open(folder.path().to_str().unwrap()).expect_err("it must not open");
    sentence(&error)
}

/// The message, which must be one line that says something.
fn sentence(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() > 20, "{text}");
    println!("{text}");
    text
}

fn config(folder: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join("config.json");
    let mut map = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut map);
    std::fs::write(path, serde_json::to_string(&map).unwrap()).unwrap();
}

/// Rewrites the safetensors header.
fn header(folder: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut map = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    edit(&mut map);
    let text = serde_json::to_vec(&map).unwrap();
    let out = [&(text.len() as u64).to_le_bytes()[..], &text, &bytes[8 + n..]].concat();
    std::fs::write(path, out).unwrap();
}

#[test]
fn damaged_safetensors() {
    let weights = |f: &Path| f.join("model.safetensors");
    assert!(changed(|f| std::fs::write(weights(f), b"").unwrap()).contains("0 bytes"));
    let lie = u64::MAX.to_le_bytes();
    assert!(changed(|f| std::fs::write(weights(f), [&lie[..], b"{}"].concat()).unwrap()).contains("claims"));
    let cut = changed(|f| {
        let bytes = std::fs::read(weights(f)).unwrap();
        std::fs::write(weights(f), &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(cut.contains("cut short"), "{cut}");
    let shape = changed(|f| {
        header(f, |h| h["model.norm.weight"]["shape"] = serde_json::json!([u64::MAX, u64::MAX]));
    });
    assert!(shape.contains("model.norm.weight"), "{shape}");
    let missing = changed(|f| {
        header(f, |h| {
            let taken = h.remove("model.norm.weight").unwrap();
            h.insert("something.else".to_owned(), taken);
        });
    });
    assert!(missing.contains("model.norm.weight") && missing.contains("llama"), "{missing}");
    let wrong = changed(|f| {
        config(f, |c| {
            c.insert("intermediate_size".into(), 161.into());
        });
    });
    assert!(wrong.contains("[160, 64]") && wrong.contains("[161, 64]"), "{wrong}");
    let nan = changed(|f| {
        let mut bytes = std::fs::read(weights(f)).unwrap();
        let n = bytes.len();
        bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(weights(f), bytes).unwrap();
    });
    assert!(nan.contains("NaN"), "{nan}");
    assert!(changed(|f| std::fs::remove_file(weights(f)).unwrap()).contains(".safetensors"));
    let outside = changed(|f| {
        std::fs::remove_file(weights(f)).unwrap();
        let index = r#"{"weight_map": {"a": "../../secret.safetensors"}}"#;
        std::fs::write(f.join("model.safetensors.index.json"), index).unwrap();
    });
    assert!(outside.contains("not a file of this folder"), "{outside}");
}

/// What no tensor fills would be another's if all offsets were too large.
#[test]
fn holes_in_safetensors() {
    let moved = changed(|f| {
        header(f, |map| {
            for (_, info) in map.iter_mut().filter(|(name, _)| *name != "__metadata__") {
                let offsets = info["data_offsets"].as_array_mut().unwrap();
                offsets.iter_mut().for_each(|o| *o = (o.as_u64().unwrap() + 64).into());
            }
        });
        let path = f.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, [&bytes[..], &[0; 64]].concat()).unwrap();
    });
    assert!(moved.contains("bytes 0 to 64 of its data belong to no tensor"), "{moved}");
    let longer = changed(|f| {
        let path = f.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, [&bytes[..], &[0; 1000]].concat()).unwrap();
    });
    assert!(longer.contains("belong to no tensor"), "{longer}");
    assert!(changed(|f| header(f, |m| _ = m.insert("__metadata__".to_owned(), 5.into()))).contains("__metadata__"));
}

#[test]
fn a_norm_adds_little() {
    for eps in [-1e-6, 1e30, 0.2] {
        let text = changed(|f| config(f, |m| _ = m.insert("rms_norm_eps".to_owned(), eps.into())));
        assert!(text.contains("epsilon"), "{text}");
    }
}

#[test]
fn configs_that_cannot_be_used() {
    let set = |key: &'static str, value: serde_json::Value| {
        changed(move |f| {
            config(f, |c| {
                c.insert(key.into(), value);
            });
        })
    };
    assert!(set("model_type", "mamba".into()).contains("mamba"));
    assert!(set("kv_lora_rank", 512.into()).contains("kv_lora_rank"));
    assert!(set("hidden_act", "mystery".into()).contains("mystery"));
    assert!(set("num_hidden_layers", 0.into()).contains("num_hidden_layers"));
    assert!(set("num_hidden_layers", (1u64 << 60).into()).contains("num_hidden_layers"));
    assert!(set("num_attention_heads", "four".into()).contains("num_attention_heads"));
    let rope = serde_json::json!({"rope_type": "stretch", "factor": 4.0});
    assert!(set("rope_parameters", rope).contains("stretch"));
    assert!(changed(|f| std::fs::write(f.join("config.json"), "{").unwrap()).contains("config"));
    assert!(changed(|f| std::fs::remove_file(f.join("config.json")).unwrap()).contains("config.json"));
    assert!(set("num_hidden_layers", 5000.into()).contains("1024"));
    set("head_dim", 0.into());
    let nested = serde_json::json!({"full_attention": {"rope_theta": 1e4}});
    assert!(set("rope_parameters", nested).contains("rope_parameters"));
    let more = set("num_hidden_layers", 4.into());
    assert!(more.contains("model.layers.3."), "{more}");
}

/// Opens a fixture of another family with some options set.
fn family(name: &str, options: &[(&str, serde_json::Value)]) -> circuitscope::Result<Model> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("families").join(name).join(file), folder.path().join(file)).unwrap();
    }
    config(folder.path(), |c| c.extend(options.iter().map(|(k, v)| ((*k).to_owned(), v.clone()))));
    Model::open(folder.path().to_str().unwrap())
}

#[test]
fn sizes_of_nothing_are_refused() {
    for (name, option) in [("mistral-sliding", "sliding_window"), ("gpt-neo", "window_size"), ("bloom", "n_layer")] {
        sentence(&family(name, &[(option, 0.into())]).unwrap_err());
    }
    sentence(&family("gpt2", &[("n_head", 1000.into())]).unwrap_err());
}

#[test]
fn options_of_published_checkpoints_are_known() {
    let no = serde_json::Value::Bool(false);
    let yes = serde_json::Value::Bool(true);
    family("gemma2", &[("hidden_act", "gelu_pytorch_tanh".into())]).unwrap();
    family("opt", &[("activation_dropout", 0.0.into())]).unwrap();
    family("qwen2", &[("use_mrope", no.clone())]).unwrap();
    family("gptj", &[("rotary", yes.clone()), ("scale_attn_weights", yes.clone())]).unwrap();
    let bloom = [
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "skip_bias_add",
        "skip_bias_add_qkv",
    ];
    family("bloom", &bloom.map(|o| (o, yes.clone()))).unwrap();
    sentence(&family("gptj", &[("rotary", no)]).unwrap_err());
    sentence(&family("qwen2", &[("use_mrope", yes)]).unwrap_err());
}

#[test]
fn a_saved_truncation_does_not_shorten_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/induction");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("tokenizer.json");
    let mut map: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    map["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    std::fs::write(&path, map.to_string()).unwrap();
    let model = Model::open(folder.path().to_str().unwrap()).unwrap();
    assert!(model.encode("one two three four five six seven", false).unwrap().len() > 6);
}

#[test]
fn damaged_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        sentence(&Model::open(path.to_str().unwrap()).expect_err("it must not open"))
    };
    let (metadata, tensors) = llama_fixture();
    let good = file(&metadata, &tensors);
    assert!(refused(b"").contains("GGUF"));
    assert!(refused(b"GGML....").contains("GGUF"));
    // Cut anywhere, it must be refused and never crash.
    for n in (0..good.len().min(6000)).step_by(37).chain([good.len() / 2, good.len() - 32]) {
        refused(&good[..n]);
    }
    // A text, a list and a tensor count that claim more than the file.
    let mut lie = good.clone();
    lie[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refused(&lie).contains("claims"));
    let mut lie = good.clone();
    lie[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&lie);
    let mut version = good.clone();
    version[4] = 9;
    assert!(refused(&version).contains("version 9"));

    let without = |name: &str| {
        let (metadata, mut tensors) = llama_fixture();
        tensors.retain(|t| t.name != name);
        refused(&file(&metadata, &tensors))
    };
    assert!(without("blk.1.ffn_up.weight").contains("blk.1.ffn_up.weight"));
    assert!(without("token_embd.weight").contains("token_embd.weight"));
    let (mut metadata, tensors) = llama_fixture();
    metadata[0].1 = Value::Text("mamba");
    assert!(refused(&file(&metadata, &tensors)).contains("mamba"));
    let (mut metadata, tensors) = llama_fixture();
    metadata.push(("llama.expert_count", Value::U32(8)));
    assert!(refused(&file(&metadata, &tensors)).contains("expert_used_count"));
    let (mut metadata, tensors) = llama_fixture();
    metadata[5].1 = Value::U32(7);
    refused(&file(&metadata, &tensors));
    // Shapes that hold no bytes but claim a size, and tensors without axes.
    for (name, shape) in [("token_embd.weight", vec![1 << 34, 0]), ("blk.0.attn_q.weight", vec![])] {
        let (metadata, mut tensors) = llama_fixture();
        let tensor = tensors.iter_mut().find(|t| t.name == name).unwrap();
        (tensor.shape, tensor.values) = (shape.clone(), vec![0.0; shape.iter().product()]);
        refused(&file(&metadata, &tensors));
    }
}

#[test]
fn every_byte_of_a_header_may_be_wrong() {
    // Flipping any byte of the header must give an error or a model, never a crash.
    let (metadata, tensors) = llama_fixture();
    let good = file(&metadata, &tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for at in (0..2400).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        std::fs::write(&path, &bad).unwrap();
        drop(Model::open(path.to_str().unwrap()));
    }
}

#[test]
fn requests_that_cannot_be_met() {
    let nowhere = Model::open("no/such/model").unwrap_err();
    assert!(nowhere.is_request() && sentence(&nowhere).contains("induction"));
    let model = Model::open(fixture("families/llama").to_str().unwrap()).unwrap();
    assert!(matches!(model.encode("text", false), Err(Error::NoTokenizer)));
    let check = |ids: &[u32]| sentence(&model.network().check(ids).unwrap_err());
    check(&[]);
    assert!(check(&[0; 129]).contains("129"));
    assert!(check(&[256]).contains("256"));
}

/// A config within a config follows the same rule, and a file's word is no number of layers.
#[test]
fn objects_within_and_numbers_without_end() {
    let attention = |key: &str, value: serde_json::Value| {
        let text = std::fs::read_to_string(fixture("families/mpt/config.json")).unwrap();
        let mut attention = serde_json::from_str::<serde_json::Value>(&text).unwrap()["attn_config"].clone();
        attention[key] = value;
        family("mpt", &[("attn_config", attention)])
    };
    let warned = attention("quantum", 1.into()).unwrap().warnings;
    assert!(warned.len() == 1 && warned[0].contains("`quantum`"), "{warned:?}");
    assert!(sentence(&attention("clip_qkv", 6.into()).unwrap_err()).contains("attn_config.clip_qkv"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let (mut metadata, tensors) = llama_fixture();
    for (key, value) in &mut metadata {
        if key.ends_with("block_count") {
            *value = Value::U32(u32::MAX);
        }
    }
    std::fs::write(&path, file(&metadata, &tensors)).unwrap();
    let error = Model::open(path.to_str().unwrap()).unwrap_err();
    assert!(sentence(&error).contains("4294967295 layers"), "{error}");
}
