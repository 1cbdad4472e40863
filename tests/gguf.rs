//! GGUF files made here: the same model as a Hugging Face folder and as GGUF gives the same logits.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use circuitscope::engine::NoHooks;
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::gguf::{Value, file, llama_fixture, part};
use common::{fixture, worst};

fn logits(model: &Model) -> Vec<f32> {
    let network = model.network();
    let resid = network.forward(&[&[5, 9, 77, 5, 9]], &mut NoHooks, &Progress::new()).unwrap();
    let x = network.final_norm(&resid, &mut NoHooks).unwrap().squeeze(0).unwrap();
    network.unembed(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn open(folder: &tempfile::TempDir, bytes: &[u8]) -> circuitscope::Result<Model> {
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Model::open(path.to_str().unwrap())
}

#[test]
fn same_logits_as_the_folder() {
    let (metadata, tensors) = llama_fixture();
    let folder = tempfile::tempdir().unwrap();
    let gguf = open(&folder, &file(&metadata, &tensors)).unwrap();
    let hf = Model::open(fixture("families/llama").to_str().unwrap()).unwrap();
    assert!(worst(&logits(&gguf), &logits(&hf)) < 1e-5);
}

#[test]
fn a_sentencepiece_tokenizer_is_rebuilt() {
    let (mut metadata, tensors) = llama_fixture();
    // Pieces and scores: "▁ab" is reached over "ab", which beats "▁a".
    let mut pieces: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    pieces.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    pieces.truncate(250);
    let rest = ["▁", "a", "b", "ab", "▁a", "▁ab"];
    pieces.extend(rest.map(str::to_owned));
    let n = pieces.len();
    let mut scores = vec![0.0; n];
    scores[253] = -1.0;
    scores[254] = -3.0;
    scores[255] = -2.0;
    let mut kinds = vec![1; n];
    kinds[0] = 2;
    kinds[1] = 3;
    kinds[2] = 3;
    kinds[3..250].fill(6);
    metadata.extend([
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.tokens", Value::Texts(pieces)),
        ("tokenizer.ggml.scores", Value::F32s(scores)),
        ("tokenizer.ggml.token_type", Value::I32s(kinds)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let model = open(&folder, &file(&metadata, &tensors)).unwrap();
    assert_eq!(model.encode("ab", false).unwrap(), [1, 255]);
    assert_eq!(model.token_text(255), " ab");
    // Taken as given, whatever the tokenizer would put before a text.
    assert_eq!((model.single_token(" ab").unwrap(), model.single_token("ab").unwrap()), (255, 253));
    // A byte without a piece of its own: "c" is 0x63 = 99, piece 3 + 99.
    assert_eq!(model.encode("abc", false).unwrap(), [1, 255, 102]);
}

/// The sentence with which a file is refused.
fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = open(&folder, bytes).unwrap_err().to_string();
    assert!(!error.contains('\n') && !error.contains("get it again"), "{error}");
    error
}

#[test]
fn split_files_open_by_any_part() {
    let (metadata, mut tensors) = llama_fixture();
    let whole = tempfile::tempdir().unwrap();
    let wanted = logits(&open(&whole, &file(&metadata, &tensors)).unwrap());
    let third = tensors.split_off(20);
    let second = tensors.split_off(10);
    let folder = tempfile::tempdir().unwrap();
    let path = |nth: usize| folder.path().join(format!("llama-{nth:05}-of-00003.gguf"));
    // The metadata stands in the first part alone.
    std::fs::write(path(1), part(llama_fixture().0, 0, 3, &tensors)).unwrap();
    std::fs::write(path(2), part(Vec::new(), 1, 3, &second)).unwrap();
    std::fs::write(path(3), part(Vec::new(), 2, 3, &third)).unwrap();
    let by = |nth: usize| Model::open(path(nth).to_str().unwrap());
    for nth in 1..=3 {
        assert_eq!(logits(&by(nth).unwrap()), wanted, "part {nth}");
    }
    // A part under another part's number.
    std::fs::copy(path(3), path(2)).unwrap();
    let error = by(1).unwrap_err().to_string();
    assert!(error.contains("named as part 2 of 3"), "{error}");
    std::fs::remove_file(path(2)).unwrap();
    for nth in [1, 3] {
        let error = by(nth).unwrap_err().to_string();
        let said = format!("it is part {nth} of 3, and part 2 is missing; put llama-00002-of-00003.gguf");
        assert!(error.contains(&said), "{error}");
    }
    // A part under a name that does not lead to the others.
    let alone = folder.path().join("alone.gguf");
    std::fs::copy(path(3), &alone).unwrap();
    let error = Model::open(alone.to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains("it is part 3 of 3, and its name does not lead to the others"), "{error}");
    // The same tensor in two parts.
    std::fs::write(path(2), part(Vec::new(), 1, 3, &third)).unwrap();
    assert!(by(1).unwrap_err().to_string().contains("another part"));
}

#[test]
fn files_are_told_apart_by_what_they_are() {
    let (metadata, tensors) = llama_fixture();
    let good = file(&metadata, &tensors);
    let mut big = good.clone();
    big[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(refused(&big).contains("big-endian"));
    for (version, says) in [(1u32, "version 1"), (4, "version 4"), (9, "version 9")] {
        let mut other = good.clone();
        other[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(refused(&other).contains(says));
    }
    assert!(refused(b"lmgg\x01\0\0\0").contains("before GGUF"));
    let typed = |key: &'static str, value: &'static str| {
        let (mut metadata, tensors) = llama_fixture();
        metadata.retain(|(k, _)| *k != key);
        metadata.push((key, Value::Text(value)));
        refused(&file(&metadata, &tensors))
    };
    assert!(typed("general.architecture", "clip").contains("mmproj"));
    assert!(typed("general.type", "mmproj").contains("mmproj"));
    assert!(typed("general.type", "adapter").contains("adapter"));
    assert!(typed("general.type", "imatrix").contains("importance matrix"));
    assert!(refused(&file(&metadata, &[])).contains("vocabulary"));
}

/// Where the entry of a tensor's type stands in a file: behind its name, its number of axes and its shape.
fn type_at(bytes: &[u8], name: &str, axes: usize) -> usize {
    let at = bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    at + name.len() + 4 + 8 * axes
}

#[test]
fn types_that_are_not_read_are_named() {
    let (metadata, tensors) = llama_fixture();
    let good = file(&metadata, &tensors);
    let at = type_at(&good, "blk.0.attn_q.weight", 2);
    let names =
        [(16u32, "IQ2_XXS"), (19, "IQ1_S"), (21, "IQ3_S"), (26, "I32"), (40, "NVFP4"), (9, "Q8_1"), (77, "type 77")];
    for (kind, name) in names {
        let mut other = good.clone();
        other[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        let error = refused(&other);
        assert!(error.contains(&format!("`blk.0.attn_q.weight` is stored as {name}")), "{error}");
        assert!(error.contains("Q4_K") && error.contains("IQ4_NL") && error.contains("MXFP4"), "{error}");
    }
}

#[test]
fn places_and_options_that_contradict_themselves() {
    let (metadata, tensors) = llama_fixture();
    let good = file(&metadata, &tensors);
    let offset = type_at(&good, "blk.0.attn_q.weight", 2) + 4;
    let mut other = good.clone();
    other[offset..offset + 8].copy_from_slice(&0u64.to_le_bytes());
    assert!(refused(&other).contains("overlap"));
    let mut other = good;
    let was = u64::from_le_bytes(other[offset..offset + 8].try_into().unwrap());
    other[offset..offset + 8].copy_from_slice(&(was + 4).to_le_bytes());
    assert!(refused(&other).contains("no multiple of 32"));
    // An option of a wrong type is not taken as absent.
    let set = |key: &'static str, value: Value<'static>| {
        let (mut metadata, tensors) = llama_fixture();
        metadata.retain(|(k, _)| *k != key);
        metadata.push((key, value));
        let error = refused(&file(&metadata, &tensors));
        assert!(error.contains(key), "{error}");
    };
    set("general.alignment", Value::Text("32"));
    set("general.architecture", Value::U32(3));
    set("general.type", Value::U32(3));
    set("llama.rope.freq_base", Value::Text("500000"));
    set("llama.rope.freq_base", Value::Bool(true));
    set("llama.rope.scaling.type", Value::U32(1));
    set("llama.attention.key_length", Value::Text("16"));
    set("split.count", Value::Text("2"));
    let (mut metadata, tensors) = llama_fixture();
    metadata.push(("llama.block_count", Value::U32(3)));
    assert!(refused(&file(&metadata, &tensors)).contains("`llama.block_count` twice"));
}

#[test]
fn texts_end_where_the_metadata_says() {
    let (mut metadata, tensors) = llama_fixture();
    metadata.extend([
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eot_token_id", Value::U32(7)),
        ("tokenizer.ggml.eom_token_id", Value::U32(4000)),
    ]);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(open(&folder, &file(&metadata, &tensors)).unwrap().stops, [2, 7]);
}
