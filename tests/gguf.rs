//! GGUF files made here: the same model as a Hugging Face folder and as GGUF gives the same logits.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use circuitscope::engine::NoHooks;
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::gguf::{Value, file, llama_fixture};
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
