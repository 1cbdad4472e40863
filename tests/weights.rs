//! Weights in other types than f32: 64 bits, 8 bits with scales, wrapped names, and LoRA adapters; each against the same
//! numbers in f32.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use circuitscope::engine::NoHooks;
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::{fixture, worst};
use serde_json::{Value, json};

/// A tensor: its type, shape and bytes.
type Raw = (&'static str, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Raw>;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn values(tensor: &Raw) -> Vec<f32> {
    tensor.2.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The tensors of the llama fixture, or of another family's.
fn tensors_of(family: &str) -> Tensors {
    let file = std::fs::read(fixture("families").join(family).join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let raw = |view: safetensors::tensor::TensorView<'_>| ("F32", view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, raw(view))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, (dtype, shape, bytes)) in tensors {
        let from = data.len();
        data.extend(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

/// A folder of a family's fixture with these tensors and options.
fn folder(at: &Path, family: &str, tensors: &Tensors, options: &[(&str, Value)]) {
    std::fs::create_dir_all(at).unwrap();
    let config = std::fs::read_to_string(fixture("families").join(family).join("config.json")).unwrap();
    let mut config: serde_json::Map<String, Value> = serde_json::from_str(&config).unwrap();
    config.extend(options.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    std::fs::write(at.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    write(&at.join("model.safetensors"), tensors);
}

fn logits(model: &Model) -> Vec<f32> {
    let network = model.network();
    let resid = network.forward(&[&[5, 9, 77, 5, 9]], &mut NoHooks, &Progress::new()).unwrap();
    let x = network.final_norm(&resid, &mut NoHooks).unwrap().squeeze(0).unwrap();
    network.unembed(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn open(at: &Path) -> circuitscope::Result<Model> {
    Model::open(at.to_str().unwrap())
}

fn opened(tensors: &Tensors, options: &[(&str, Value)]) -> circuitscope::Result<Model> {
    let temporary = tempfile::tempdir().unwrap();
    folder(temporary.path(), "llama", tensors, options);
    open(temporary.path())
}

/// All tensors with two axes but the embedding.
fn matrices(tensors: &Tensors) -> Vec<String> {
    let inner = tensors.iter().filter(|(name, t)| t.1.len() == 2 && name.contains("layers"));
    inner.map(|(name, _)| name.clone()).collect()
}

#[test]
fn sixty_four_bits() {
    let plain = tensors_of("llama");
    let mut wide = plain.clone();
    for tensor in wide.values_mut() {
        *tensor = ("F64", tensor.1.clone(), values(tensor).iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect());
    }
    let (wide, plain) = (opened(&wide, &[]).unwrap(), opened(&plain, &[]).unwrap());
    assert_eq!(logits(&wide), logits(&plain));
    assert!(wide.warnings.is_empty(), "{:?}", wide.warnings);
}

/// Every matrix in 8-bit whole numbers or floats, with scales of a shape; and the same product in f32.
fn eight_bits(
    dtype: &'static str,
    ending: &str,
    scales: impl Fn(usize, usize) -> (Vec<usize>, [usize; 2]),
) -> [Tensors; 2] {
    let mut small = tensors_of("llama");
    let mut plain = small.clone();
    for name in matrices(&small) {
        let [rows, cols] = small[&name].1[..] else { unreachable!() };
        let (shape, [down, across]) = scales(rows, cols);
        let n = shape.iter().product();
        let by: Vec<f32> = (0..n).map(|i| 0.01 * (1 + i % 7) as f32).collect();
        let codes: Vec<u8> =
            (0..rows * cols).map(|i| (i * 37 % 120) as u8 | if i % 3 == 0 { 0x80 } else { 0 }).collect();
        // OCP's E4M3: bias 7, subnormals of 2^-9; E5M2: the upper half of f16; I8: two's complement.
        let value = |code: u8| match dtype {
            "I8" => f32::from(code as i8),
            "F8_E5M2" => half::f16::from_bits(u16::from(code) << 8).to_f32(),
            _ => {
                let (e, m) = (i32::from(code >> 3 & 15), f32::from(code & 7));
                let v = if e == 0 { m / 512.0 } else { (1.0 + m / 8.0) * 2f32.powi(e - 7) };
                if code & 0x80 == 0 { v } else { -v }
            }
        };
        // Large exponents would drown the rest.
        let codes: Vec<u8> = if dtype == "I8" { codes } else { codes.iter().map(|c| c & 0xBF).collect() };
        let wide =
            (0..rows * cols).map(|i| value(codes[i]) * by[i / cols / down * cols.div_ceil(across) + i % cols / across]);
        plain.insert(name.clone(), ("F32", vec![rows, cols], bytes(&wide.collect::<Vec<_>>())));
        small.insert(name.clone(), (dtype, vec![rows, cols], codes));
        small.insert(format!("{name}{ending}"), ("F32", shape, bytes(&by)));
    }
    [small, plain]
}

#[test]
fn eight_bits_with_scales() {
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [24, 40]});
    let tensor = |_: usize, _: usize| (vec![], [usize::MAX, usize::MAX]);
    let channel = |rows: usize, _: usize| (vec![rows, 1], [1, usize::MAX]);
    let block = |rows: usize, cols: usize| (vec![rows.div_ceil(24), cols.div_ceil(40)], [24, 40]);
    let compressed = |format: &str| json!({"quant_method": "compressed-tensors", "format": format});
    let cases = [
        (
            "one scale",
            eight_bits("F8_E4M3", "_scale", tensor),
            json!({"quant_method": "modelopt", "quant_algo": "FP8"}),
        ),
        ("a scale for each row", eight_bits("F8_E4M3", "_scale", channel), compressed("float-quantized")),
        ("blocks", eight_bits("F8_E4M3", "_scale_inv", block), fp8.clone()),
        ("the other float", eight_bits("F8_E5M2", "_scale_inv", block), fp8),
        ("whole numbers", eight_bits("I8", "_scale", channel), compressed("int-quantized")),
    ];
    for (what, [small, plain], config) in cases {
        let small = opened(&small, &[("quantization_config", config)]).unwrap_or_else(|e| panic!("{what}: {e}"));
        let plain = opened(&plain, &[]).unwrap();
        let difference = worst(&logits(&small), &logits(&plain));
        assert!(difference < 1e-5, "{what}: {difference}");
        assert!(small.warnings.is_empty(), "{what}: {:?}", small.warnings);
    }
}

#[test]
fn what_is_not_read_is_named() {
    let refused = |tensors: &Tensors, options: &[(&str, Value)]| {
        let error = opened(tensors, options).unwrap_err().to_string();
        assert!(!error.contains("holds no tensor") && !error.contains('\n'), "{error}");
        error
    };
    let name = "model.layers.0.mlp.up_proj.weight";
    let with = |dtype: &'static str, size: usize| {
        let mut tensors = tensors_of("llama");
        let shape = tensors[name].1.clone();
        let n: usize = shape.iter().product();
        tensors.insert(name.to_owned(), (dtype, shape, vec![0; n * size]));
        tensors
    };
    for (dtype, size) in [("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1), ("F4", 1)] {
        let error = refused(&with(dtype, size), &[]);
        assert!(error.contains(name) && error.contains(dtype) && error.contains("F8_E4M3"), "{error}");
    }
    // Whole numbers without scales mean nothing.
    let error = refused(&with("I8", 1), &[]);
    assert!(error.contains(name) && error.contains("I8 without scales"), "{error}");
    // Packed weights have other names.
    let mut packed = with("I32", 4);
    let raw = packed.remove(name).unwrap();
    packed.insert(name.replace("weight", "qweight"), raw);
    let error = refused(&packed, &[]);
    assert!(error.contains("up_proj.qweight") && error.contains("I32"), "{error}");
    // Methods that are not read.
    for method in ["gptq", "awq", "bitsandbytes", "mxfp4"] {
        let config = ("quantization_config", json!({"quant_method": method}));
        assert!(refused(&tensors_of("llama"), &[config]).contains(method));
    }
    let config = ("quantization_config", json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}));
    assert!(refused(&tensors_of("llama"), &[config]).contains("pack-quantized"));
    // Scales that fit no blocks.
    let [mut small, _] = eight_bits("F8_E4M3", "_scale", |_, _| (vec![], [usize::MAX, usize::MAX]));
    small.insert(format!("{name}_scale"), ("F32", vec![7, 1], bytes(&[1.0; 7])));
    assert!(refused(&small, &[]).contains("up_proj.weight_scale"));
}

#[test]
fn wrapped_names_and_tensors_that_nothing_reads() {
    let plain = tensors_of("llama");
    let wanted = logits(&opened(&plain, &[]).unwrap());
    for wrapper in ["module.", "_orig_mod.", "module._orig_mod."] {
        let wrapped = plain.iter().map(|(name, t)| (format!("{wrapper}{name}"), t.clone())).collect();
        let model = opened(&wrapped, &[]).unwrap();
        assert_eq!(logits(&model), wanted, "{wrapper}");
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    }
    let mut more = plain.clone();
    let buffers =
        ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.attn.masked_bias", "model.position_ids"];
    for name in buffers {
        more.insert(name.to_owned(), ("F32", vec![2], bytes(&[0.0; 2])));
    }
    more.insert("model.layers.0.attn.bias".to_owned(), ("BOOL", vec![1, 1, 2, 2], vec![0; 4]));
    more.insert("model.layers.0.attention.bias".to_owned(), ("F32", vec![1, 1, 1, 2], bytes(&[0.0; 2])));
    assert!(opened(&more, &[]).unwrap().warnings.is_empty());
    more.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), ("F32", vec![64], bytes(&[1.0; 64])));
    let warnings = opened(&more, &[]).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("self_attn.q_proj.bias"), "{warnings:?}");
    more.insert("model.layers.9.mlp.up_proj.weight".to_owned(), ("I64", vec![1], vec![0; 8]));
    assert!(opened(&more, &[]).unwrap().warnings[0].starts_with("2 tensors"));
}

/// W + s · B · A by hand, row by row.
fn merged(w: &[f32], a: &[f32], b: &[f32], rank: usize, by: f32, turned: bool) -> Vec<f32> {
    let (input, output) = (a.len() / rank, b.len() / rank);
    let delta = |o: usize, i: usize| (0..rank).map(|k| b[o * rank + k] * a[k * input + i]).sum::<f32>() * by;
    let at = |n: usize| if turned { delta(n % output, n / output) } else { delta(n / input, n % input) };
    w.iter().enumerate().map(|(n, w)| w + at(n)).collect()
}

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31 + seed * 17) % 23) as f32 / 100.0 - 0.11).collect()
}

/// Writes an adapter of a family's fixture beside it, and the merged model; returns both opened.
fn adapted(
    family: &str,
    modules: &[(&str, f32)],
    rank: usize,
    turned: bool,
    options: Value,
) -> [circuitscope::Result<Model>; 2] {
    let temporary = tempfile::tempdir().unwrap();
    let plain = tensors_of(family);
    let (mut whole, mut adapter) = (plain.clone(), Tensors::new());
    for (seed, (module, by)) in modules.iter().enumerate() {
        // The file may leave out the outer module's name, which the adapter writes.
        let name = plain.keys().find(|n| format!("{module}.weight").ends_with(n.as_str())).unwrap().clone();
        let &[rows, cols] = &plain[&name].1[..] else { unreachable!() };
        let (input, output) = if turned { (rows, cols) } else { (cols, rows) };
        let (a, b) = (numbers(rank * input, seed), numbers(output * rank, seed + 5));
        let w = merged(&values(&plain[&name]), &a, &b, rank, *by, turned);
        whole.insert(name, ("F32", vec![rows, cols], bytes(&w)));
        adapter.insert(format!("base_model.model.{module}.lora_A.weight"), ("F32", vec![rank, input], bytes(&a)));
        adapter.insert(format!("base_model.model.{module}.lora_B.weight"), ("F32", vec![output, rank], bytes(&b)));
    }
    let at = |name: &str| temporary.path().join(name);
    folder(&at("base"), family, &plain, &[]);
    folder(&at("merged"), family, &whole, &[]);
    std::fs::create_dir(at("adapter")).unwrap();
    write(&at("adapter").join("adapter_model.safetensors"), &adapter);
    let mut config = json!({"peft_type": "LORA", "base_model_name_or_path": "somebody/base", "r": rank, "lora_alpha": 16,
        "fan_in_fan_out": turned, "lora_dropout": 0.1, "bias": "none", "inference_mode": true, "use_dora": false});
    config.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    std::fs::write(at("adapter").join("adapter_config.json"), config.to_string()).unwrap();
    [open(&at("adapter")), open(&at("merged"))]
}

#[test]
fn adapters_open_on_their_base() {
    let same = |models: [circuitscope::Result<Model>; 2]| {
        let [adapter, merged] = models.map(Result::unwrap);
        let difference = worst(&logits(&adapter), &logits(&merged));
        assert!(difference < 1e-5, "{difference}");
        assert!(adapter.warnings.is_empty() && adapter.config.name == "adapter", "{:?}", adapter.warnings);
    };
    let q = "model.layers.0.self_attn.q_proj";
    let up = "model.layers.1.mlp.up_proj";
    // s = 16 / 4, 16 / √4; and an alpha of one module's own.
    same(adapted("llama", &[(q, 4.0), (up, 4.0)], 4, false, json!({})));
    same(adapted("llama", &[(q, 8.0), (up, 8.0)], 4, false, json!({"use_rslora": true})));
    same(adapted("llama", &[(q, 2.0), (up, 4.0)], 4, false, json!({"alpha_pattern": {"q_proj": 8}})));
    // GPT-2 stores [input, output], also where that is square.
    let [fused, square] = ["transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"];
    same(adapted("gpt2", &[(fused, 4.0), (square, 4.0)], 4, true, json!({})));
}

#[test]
fn adapters_that_are_not_read_say_so() {
    let q = [("model.layers.0.self_attn.q_proj", 4.0)];
    let refused = |options: Value, says: &str| {
        let [adapter, _] = adapted("llama", &q, 4, false, options);
        let error = adapter.unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    };
    refused(json!({"use_dora": true}), "use_dora");
    refused(json!({"peft_type": "IA3"}), "IA3");
    refused(json!({"init_lora_weights": "pissa_niter_4"}), "pissa");
    refused(json!({"trainable_token_indices": [1]}), "trainable_token_indices");
    refused(json!({"base_model_name_or_path": "somebody/elsewhere"}), "somebody/elsewhere");
    // Taken for absent they would mean another scale.
    refused(json!({"lora_alpha": "16"}), "`lora_alpha` is \"16\", not a number");
    refused(json!({"use_rslora": "false"}), "`use_rslora` is \"false\", not true or false");
    refused(json!({"alpha_pattern": {"q_proj": "8"}}), "`alpha_pattern` gives `q_proj`");
    let [adapter, _] = adapted("llama", &q, 4, false, json!({"never_heard_of": 3}));
    let warnings = adapter.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("never_heard_of"), "{warnings:?}");
}

#[test]
fn pickles_are_never_opened() {
    let temporary = tempfile::tempdir().unwrap();
    folder(temporary.path(), "llama", &tensors_of("llama"), &[]);
    std::fs::rename(temporary.path().join("model.safetensors"), temporary.path().join("pytorch_model.bin")).unwrap();
    let error = open(temporary.path()).unwrap_err().to_string();
    assert!(
        error.contains("pickle") && error.contains("pytorch_model.bin") && error.contains("save_pretrained"),
        "{error}"
    );
}

#[test]
fn texts_end_at_every_token_that_a_file_names() {
    let temporary = tempfile::tempdir().unwrap();
    let stops = |config: Value, generation: Option<Value>| {
        folder(temporary.path(), "llama", &tensors_of("llama"), &[("eos_token_id", config)]);
        let path = temporary.path().join("generation_config.json");
        match generation {
            Some(map) => std::fs::write(path, map.to_string()).unwrap(),
            None => drop(std::fs::remove_file(path)),
        }
        let model = open(temporary.path()).unwrap();
        (model.stops, model.warnings)
    };
    assert_eq!(stops(json!(2), None).0, [2]);
    assert_eq!(stops(json!([7, 2]), None).0, [2, 7]);
    assert_eq!(stops(json!(2), Some(json!({"eos_token_id": [3, 2]}))).0, [2, 3]);
    assert_eq!(stops(Value::Null, Some(json!({"eos_token_id": 9}))).0, [9]);
    // Ids that the model has not are no tokens of it.
    assert_eq!(stops(json!([2, 4000]), None).0, [2]);
    let (ids, warnings) = stops(json!("</s>"), None);
    assert!(ids.is_empty() && warnings.iter().any(|w| w.contains("eos_token_id")), "{warnings:?}");
}

#[test]
fn generation_says_why_it_stopped() {
    use circuitscope::engine::generate::{Sampling, Stopped, generate};
    let mut model = opened(&tensors_of("llama"), &[("eos_token_id", Value::Null)]).unwrap();
    let run = |model: Model, ids: &[u32], limit: usize| {
        let model = std::sync::Arc::new(model);
        generate(&model, ids, &std::sync::Arc::default(), Sampling::default(), limit, &Progress::new(), |_| {}).unwrap()
    };
    let again = || opened(&tensors_of("llama"), &[("eos_token_id", Value::Null)]).unwrap();
    let free = run(again(), &[5, 9, 77], 6);
    assert_eq!((free.tokens.len(), free.stopped), (6, Stopped::Limit));
    let long = vec![5; 126];
    assert_eq!(run(again(), &long, 9).stopped, Stopped::Context);
    // The second token ends the text, in a list with one that never comes.
    let second = free.tokens[1].id;
    model.stops = vec![255, second];
    let first = free.tokens.iter().position(|t| t.id == second).unwrap();
    let ended = run(model, &[5, 9, 77], 6);
    assert_eq!((ended.tokens.len(), ended.stopped), (first + 1, Stopped::End(second)));
}
