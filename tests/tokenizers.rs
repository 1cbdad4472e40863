//! Tokenizers of folders and GGUF files: the ids that transformers gives, and what happens where one cannot be built.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::path::{Path, PathBuf};

use circuitscope::Error;
use circuitscope::model::Model;
use circuitscope::model::gguf::Gguf;
use circuitscope::model::{tokenizer_folder, tokenizer_gguf};
use common::gguf::{Value, file, llama_fixture};
use common::{fixture, ids};
use serde_json::{Map, json};

fn document(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// `tests/tokenizers/make.py` writes the folders and asks transformers 5 for the ids.
#[test]
fn folders_as_transformers_reads_them() {
    let expected = document(&fixture("tokenizers/expected.json"));
    for (name, want) in expected.as_object().unwrap() {
        let folder = fixture("tokenizers").join(name);
        let config: Map<_, _> = document(&folder.join("config.json")).as_object().unwrap().clone();
        let found = tokenizer_folder::find(&folder, &config, 400);
        let tokenizer = found.tokenizer.unwrap_or_else(|| panic!("{name}: {:?}", found.fault));
        for case in want["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
        }
        assert_eq!(found.eos.map(u64::from), want["eos"].as_u64(), "{name}");
        assert_eq!(tokenizer.bos_token().map(u64::from), want["bos"].as_u64(), "{name}");
        // What is put behind a text, and what is asked for and not done, is said.
        let said = found.warnings.join(" ");
        assert_eq!(said.contains("behind every text"), ["json-around", "eos-files"].contains(&name.as_str()), "{said}");
        assert_eq!(said.contains("--bos"), name == "json-silent", "{said}");
    }
}

/// The texts with which files of `tests/gguf` were made, and the ids of the tokenizers that they were made from. One has
/// its vocabulary alone, beside them.
#[test]
fn gguf_files_as_transformers_reads_them() {
    let expected = document(&fixture("tokenizers/gguf.json"));
    for (name, cases) in expected.as_object().unwrap() {
        let own = fixture("tokenizers").join(name);
        let path = if own.is_file() { own } else { fixture("gguf").join(name) };
        let gguf = Gguf::open(&path).unwrap();
        let found = tokenizer_gguf::find(&gguf, gguf.entries["token_embd.weight"].shape[0]);
        assert!(found.fault.is_none() && found.warnings.is_empty(), "{:?} {:?}", found.fault, found.warnings);
        let tokenizer = found.tokenizer.unwrap();
        for case in cases.as_array().unwrap() {
            let text = case[0].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case[1]), "{name}: {text:?}");
        }
    }
}

/// The names in llama.cpp's table.
const NAMES: &str = "\
    default minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano deepseek-llm \
    deepseek-coder deepseek-v3 spark2_5 youtu falcon mpt starcoder gpt-2 phi-2 jina-es jina-de gigachat \
    jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jais-2 jina-v1-en jina-v2-code roberta-bpe refact command-r \
    qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2 olmo dbrx smaug-bpe poro-chat chatglm-bpe glm4 glm5 \
    viking jais tekken smollm codeshell bloom gpt3-finnish exaone exaone4 exaone-moe chameleon minerva-7b megrez \
    gpt-4o llama4 kanana2 talkie granite-embed-multi-97m tiny_aya cohere2moe superbpe trillion granite-docling \
    bailingmoe bailingmoe2 llada-moe seed-coder hunyuan hunyuan-dense hy_v4 joyai-llm kimi-k2 ufakzeka grok-2 \
    afmoe laguna minimax-m2 solar-open mellum2 gemma4 granite-embed-multi-311m sarvam-moe";

/// Those whose rule parts the digits of a number.
const DIGIT_BY_DIGIT: &str = "\
    deepseek-llm deepseek-coder starcoder refact command-r qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2 \
    megrez viking tekken smollm codeshell exaone exaone-moe chameleon minerva-7b bailingmoe bailingmoe2 \
    llada-moe seed-coder hunyuan ufakzeka grok-2 laguna solar-open mellum2 youtu spark2_5";

/// Every name of llama.cpp's table gives a tokenizer; these words tell the rules apart.
#[test]
fn names_of_pre_tokenizers() {
    let words = |pre: &'static str, text: &str| -> Vec<String> {
        let (mut metadata, tensors) = llama_fixture();
        // All bytes and no merges but one for each pair of digits: words end where a pair of digits is not merged.
        let alphabet = circuitscope::model::tokenizer::byte_alphabet();
        let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
        tokens.truncate(246);
        tokens.extend((0..10).map(|d| format!("{d}{d}")));
        let merges = (0..10).map(|d| format!("{d} {d}")).collect();
        metadata.extend([
            ("tokenizer.ggml.model", Value::Text("gpt2")),
            ("tokenizer.ggml.pre", Value::Text(pre)),
            ("tokenizer.ggml.tokens", Value::Texts(tokens)),
            ("tokenizer.ggml.merges", Value::Texts(merges)),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file(&metadata, &tensors)).unwrap();
        let found = tokenizer_gguf::find(&Gguf::open(&path).unwrap(), 256);
        let tokenizer = found.tokenizer.unwrap_or_else(|| panic!("{pre}: {:?}", found.fault));
        tokenizer.pieces(text).unwrap().iter().map(|id| tokenizer.text(*id)).collect()
    };
    for pre in NAMES.split(' ') {
        let eleven = words(pre, "11");
        let wanted = if DIGIT_BY_DIGIT.split(' ').any(|name| name == pre) { 2 } else { 1 };
        assert_eq!(eleven.len(), wanted, "{pre}: {eleven:?}");
    }
    // "333333" in threes is 33 3 | 33 3, in one 33 33 33; counted from the end, 4 digits are 3 | 333.
    let threes = |pre| words(pre, "3333").join(" ");
    assert_eq!(threes("gpt-2"), "33 33");
    assert_eq!(threes("llama-bpe"), "33 3 3");
    assert_eq!(threes("falcon"), "33 3 3");
    assert_eq!(threes("tiny_aya"), "3 33 3");
    assert_eq!(threes("afmoe"), "3 33 3");
    assert_eq!(threes("superbpe"), "3 33 3");
    assert_eq!(threes("deepseek-v3"), "33 3 3");
}

/// A folder with the llama fixture and these files, opened.
fn beside(files: &[(&str, &str)]) -> (tempfile::TempDir, circuitscope::Result<Model>) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("families/llama").join(name), folder.path().join(name)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let model = Model::open(folder.path().to_str().unwrap());
    (folder, model)
}

/// A tokenizer.json of three letters, after a change.
fn small(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut spec = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": {"a": 0, "b": 1, " ": 2}, "merges": []}
    });
    change(&mut spec);
    spec.to_string()
}

#[test]
fn a_tokenizer_that_cannot_be_built_leaves_the_ids() {
    let cut = |text: String, at: &str, more: usize| {
        let end = text.find(at).unwrap() + more;
        text[..end].to_owned()
    };
    let induction = std::fs::read_to_string(fixture("../assets/induction/tokenizer.json")).unwrap();
    let cases = [
        (
            "an unknown step",
            small(|s| s["pre_tokenizer"] = json!({"type": "FutureSplit"})),
            "pre-tokenizer `FutureSplit`",
        ),
        ("an unknown model", small(|s| s["model"]["type"] = json!("Future")), "`Future`"),
        ("an empty object", "{}".to_owned(), "built"),
        ("no JSON", "nothing".to_owned(), "damaged"),
        ("cut in its decoder", cut(induction, "\"decoder\"", 30), "damaged"),
        ("chunks of nothing", small(|s| s["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0})), "fails"),
        (
            "an empty map",
            small(|s| s["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": ""})),
            "`Precompiled`",
        ),
        (
            "a map that claims 8 GB",
            small(|s| s["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
            "`Precompiled`",
        ),
        ("a merge of nothing known", small(|s| s["model"]["merges"] = json!([["x", "y"]])), "built"),
    ];
    for (what, tokenizer, says) in cases {
        let (_folder, model) = beside(&[("tokenizer.json", &tokenizer)]);
        let model = model.unwrap_or_else(|e| panic!("{what}: {e}"));
        let [warning] = &model.warnings[..] else { panic!("{what}: {:?}", model.warnings) };
        assert!(warning.contains(says) && !warning.contains('\n'), "{what}: {warning}");
        let error = model.encode("a b", false).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }) && error.to_string().contains(says), "{what}: {error}");
        assert_eq!((model.token_text(5), model.single_token("5").unwrap()), ("5".to_owned(), 5));
    }
}

#[test]
fn what_stands_in_the_place_of_a_tokenizer_is_named() {
    for (name, text) in [("tokenizer.model", "x"), ("vocab.json", "{}"), ("qwen.tiktoken", "x"), ("tekken.json", "{}")]
    {
        let (_folder, model) = beside(&[(name, text)]);
        let error = model.unwrap().encode("a", false).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("save_pretrained"), "{error}");
    }
    let (_folder, model) = beside(&[]);
    let model = model.unwrap();
    assert!(matches!(model.encode("a", false), Err(Error::NoTokenizer)) && model.warnings.is_empty());
    let files = [
        ("vocab.json", "{}"),
        ("merges.txt", ""),
        ("tokenizer_config.json", r#"{"tokenizer_class": "CLIPTokenizer"}"#),
    ];
    let (_folder, model) = beside(&files);
    let error = model.unwrap().encode("a", false).unwrap_err().to_string();
    assert!(error.contains("CLIPTokenizer"), "{error}");
    let (_folder, model) = beside(&[("vocab.json", r#"{"a": 0}"#), ("merges.txt", "#version: 0.2\nalone\n")]);
    let error = model.unwrap().encode("a", false).unwrap_err().to_string();
    assert!(error.contains("`alone`"), "{error}");
}

#[test]
fn tokens_without_an_embedding_are_refused_only_where_they_are_used() {
    let soft = |s: &mut serde_json::Value| {
        s["model"]["vocab"] = (0..256).map(|i| (format!("t{i}"), json!(i))).collect::<Map<_, _>>().into();
        s["added_tokens"] = json!([{"id": 256, "content": "<soft>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}]);
        s["model"]["type"] = json!("WordLevel");
        s["model"]["unk_token"] = json!("t0");
        s["pre_tokenizer"] = json!({"type": "WhitespaceSplit"});
    };
    let (_folder, model) = beside(&[("tokenizer.json", &small(soft))]);
    let model = model.unwrap();
    assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    assert_eq!(model.encode("t5 t6", false).unwrap(), [5, 6]);
    let beyond = model.encode("t5 <soft>", false).unwrap();
    assert_eq!(beyond, [5, 256]);
    assert!(matches!(model.network().check(&beyond), Err(Error::TokenOutOfRange { id: 256, .. })));
    assert!(matches!(model.single_token("<soft>"), Err(Error::TokenOutOfRange { id: 256, .. })));
    assert_eq!(model.token_text(256), "<soft>");
    // Another model's vocabulary is more than a token too large.
    let large = |s: &mut serde_json::Value| {
        soft(s);
        s["model"]["vocab"] = (0..300).map(|i| (format!("t{i}"), json!(i))).collect::<Map<_, _>>().into();
        s["added_tokens"] = json!([]);
    };
    let (_folder, model) = beside(&[("tokenizer.json", &small(large))]);
    let warnings = model.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("44 tokens more"), "{warnings:?}");
}

/// What a piece stands for follows from the tokenizer's description, not from its letters.
#[test]
fn pieces_are_spelt_as_the_tokenizer_says() {
    // A SentencePiece vocabulary with the letter Ġ, bytes, and a piece that a byte stands for as well.
    let metaspace = small(|s| {
        s["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        s["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]});
        s["model"]["byte_fallback"] = json!(true);
        s["model"]["vocab"] = json!({"<0x09>": 0, "<0x41>": 1, "Ġ": 2, "é": 3, "▁": 4, "A": 5, "▁é": 6});
        s["model"]["merges"] = json!([["▁", "é"]]);
    });
    let (_folder, model) = beside(&[("tokenizer.json", &metaspace)]);
    let model = model.unwrap();
    let texts: Vec<String> = (0..7).map(|id| model.token_text(id)).collect();
    assert_eq!(texts, ["\t", "A", "Ġ", "é", " ", "A", " é"]);
    assert_eq!(model.single_token("A").unwrap(), 5);
    assert_eq!(model.single_token(" é").unwrap(), 6);
    // No piece is a tab, so that its byte is the token.
    assert_eq!(model.single_token("\t").unwrap(), 0);
    assert_eq!(model.pieces("A é\t").unwrap(), [5, 6, 0]);
    // Byte-level without a space: Ċ is a line break, and <0x41> is six letters.
    let bytes = small(|s| {
        s["pre_tokenizer"] =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        s["model"]["vocab"] = json!({"Ċ": 0, "Ã": 1, "©": 2, "é": 3, "<0x41>": 4, "Ã©": 5});
        s["model"]["merges"] = json!([["Ã", "©"]]);
    });
    let (_folder, model) = beside(&[("tokenizer.json", &bytes)]);
    let model = model.unwrap();
    let texts: Vec<String> = (0..6).map(|id| model.token_text(id)).collect();
    assert_eq!(texts, ["\n", "\\xC3", "\\xA9", "\\xE9", "<0x41>", "é"]);
    assert_eq!(model.pieces("é\n").unwrap(), [5, 0]);
    // Neither: a piece is its own text.
    let words = small(|s| s["model"]["vocab"] = json!({"Ġa": 0, "▁": 1, "<0x41>": 2}));
    let (_folder, model) = beside(&[("tokenizer.json", &words)]);
    let model = model.unwrap();
    assert_eq!((0..3).map(|id| model.token_text(id)).collect::<Vec<_>>(), ["Ġa", "▁", "<0x41>"]);
}

/// A GGUF file with this tokenizer metadata, opened.
fn gguf_with(more: Vec<(&'static str, Value<'static>)>) -> Model {
    let (mut metadata, tensors) = llama_fixture();
    metadata.extend(more);
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("m.gguf");
    std::fs::write(&path, file(&metadata, &tensors)).unwrap();
    Model::open(path.to_str().unwrap()).unwrap()
}

fn letters() -> Value<'static> {
    Value::Texts(["<s>", "</s>", "a", "b", "ab"].map(str::to_owned).to_vec())
}

#[test]
fn beginning_tokens_of_gguf_files() {
    let begin = |pre: &'static str, more: Vec<(&'static str, Value<'static>)>| {
        let base = vec![
            ("tokenizer.ggml.model", Value::Text("gpt2")),
            ("tokenizer.ggml.pre", Value::Text(pre)),
            ("tokenizer.ggml.tokens", letters()),
            ("tokenizer.ggml.token_type", Value::I32s(vec![3, 3, 1, 1, 1])),
            ("tokenizer.ggml.merges", Value::Texts(vec!["a b".to_owned()])),
        ];
        let model = gguf_with(base.into_iter().chain(more).collect());
        (model.encode("ab", false).unwrap(), model.warnings)
    };
    let bos = || ("tokenizer.ggml.bos_token_id", Value::U32(0));
    let add = |yes| ("tokenizer.ggml.add_bos_token", Value::Bool(yes));
    // Silent files: Llama 3's rule and Tekken's begin with a token, GPT-2's does not, though one is named.
    assert_eq!(begin("llama-bpe", vec![bos()]).0, [0, 4]);
    assert_eq!(begin("tekken", vec![bos()]).0, [0, 4]);
    assert_eq!(begin("gpt-2", vec![bos()]).0, [4]);
    // What the file says decides.
    assert_eq!(begin("llama-bpe", vec![bos(), add(false)]).0, [4]);
    assert_eq!(begin("gpt-2", vec![bos(), add(true)]).0, [0, 4]);
    let (ids, warnings) = begin("gpt-2", vec![add(true)]);
    assert!(ids == [4] && warnings.iter().any(|w| w.contains("bos_token_id")), "{warnings:?}");
    let eos = vec![("tokenizer.ggml.eos_token_id", Value::U32(1)), ("tokenizer.ggml.add_eos_token", Value::Bool(true))];
    assert_eq!(begin("gpt-2", eos).0, [4, 1]);
    // GLM 4 begins with two tokens, of which the file names the first.
    let glm = Value::Texts(["[gMASK]", "<sop>", "a", "b", "ab"].map(str::to_owned).to_vec());
    let model = gguf_with(vec![
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("glm4")),
        ("tokenizer.ggml.tokens", glm),
        ("tokenizer.ggml.token_type", Value::I32s(vec![3, 3, 1, 1, 1])),
        ("tokenizer.ggml.merges", Value::Texts(vec!["a b".to_owned()])),
        bos(),
        add(true),
    ]);
    assert_eq!(model.encode("ab", false).unwrap(), [0, 1, 4]);
}

#[test]
fn gguf_tokenizers_that_cannot_be_built_leave_the_ids() {
    let refused = |more: Vec<(&'static str, Value<'static>)>, says: &str| {
        let model = gguf_with(more);
        let error = model.encode("ab", false).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(model.warnings.len() == 1 && model.warnings[0].contains(says), "{:?}", model.warnings);
    };
    let model = |name: &'static str| ("tokenizer.ggml.model", Value::Text(name));
    for kind in ["bert", "t5", "rwkv", "none", "plamo2"] {
        refused(vec![model(kind), ("tokenizer.ggml.tokens", letters())], kind);
    }
    let merges = || ("tokenizer.ggml.merges", Value::Texts(vec!["a b".to_owned()]));
    let pre = |name: &'static str| ("tokenizer.ggml.pre", Value::Text(name));
    refused(
        vec![model("gpt2"), pre("never-heard-of"), ("tokenizer.ggml.tokens", letters()), merges()],
        "never-heard-of",
    );
    refused(vec![model("gpt2"), pre("gpt-2"), ("tokenizer.ggml.tokens", letters())], "merges");
    refused(vec![model("gpt2"), pre("gpt-2"), merges()], "no tokens");
    refused(vec![model("llama"), ("tokenizer.ggml.tokens", letters())], "0 scores");
    // A wrong type is not taken as absent.
    let wrong = ("tokenizer.ggml.add_bos_token", Value::Text("true"));
    refused(vec![model("gpt2"), pre("gpt-2"), ("tokenizer.ggml.tokens", letters()), merges(), wrong], "add_bos_token");
    let wrong = ("tokenizer.ggml.pre", Value::U32(3));
    refused(vec![model("gpt2"), wrong, ("tokenizer.ggml.tokens", letters()), merges()], "tokenizer.ggml.pre");
}
