//! Rebuilds a tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.
//!
//! A `gpt2` vocabulary is byte-level BPE, with a pre-tokenizer that `tokenizer.ggml.pre` names. A `llama` vocabulary is
//! SentencePiece BPE, whose merges follow from the scores as in transformers' `LlamaConverter`.

use serde_json::{Value as Json, json};

use super::gguf::{Gguf, Value};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// The GGML token types that are matched as a whole, before the text is split.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizers of Llama 3. A piece that is in the vocabulary is then taken whole, without merges.
const LLAMA3_NAMES: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];

/// Returns the tokenizer of the file, or `None` where it holds none.
pub fn tokenizer(gguf: &Gguf, d_vocab: usize) -> Result<Option<Tokenizer>> {
    let Some(model) = gguf.text("tokenizer.ggml.model") else { return Ok(None) };
    let wrong = |what: String| Error::Tokenizer { path: gguf.path.clone(), what };
    let list = |key: &str| gguf.metadata.get(key).and_then(Value::as_array);
    let tokens: Vec<&str> = list("tokenizer.ggml.tokens")
        .ok_or_else(|| wrong("it lists no tokens".to_owned()))?
        .iter()
        .map(|v| v.as_text().unwrap_or_default())
        .collect();
    if tokens.len() > d_vocab {
        return Err(wrong(format!("it has {} tokens but the model's vocabulary has {d_vocab}", tokens.len())));
    }
    let kinds: Vec<i64> = list("tokenizer.ggml.token_type").unwrap_or(&[]).iter().filter_map(Value::as_int).collect();
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(i, t)| ((*t).to_owned(), json!(i))).collect();
    let added: Vec<Json> = tokens
        .iter()
        .enumerate()
        .filter(|(i, _)| matches!(kinds.get(*i), Some(&(CONTROL | USER_DEFINED))))
        .map(|(i, t)| {
            json!({"id": i, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": kinds[i] == CONTROL})
        })
        .collect();
    let id = |key: &str| gguf.metadata.get(key).and_then(Value::as_int).and_then(|i| u32::try_from(i).ok());
    let flag = |key: &str| match gguf.metadata.get(key) {
        Some(Value::Bool(b)) => Some(*b),
        _ => None,
    };
    let spec = match model {
        "gpt2" => {
            let merges: Vec<&str> =
                list("tokenizer.ggml.merges").unwrap_or(&[]).iter().filter_map(Value::as_text).collect();
            let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("default");
            json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                "normalizer": null, "pre_tokenizer": pre_tokenizer(pre).ok_or_else(|| wrong(format!("its pre-tokenizer `{pre}` is not implemented")))?,
                "post_processor": null,
                "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                          "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                          "ignore_merges": LLAMA3_NAMES.contains(&pre), "vocab": vocab, "merges": merges}
            })
        }
        "llama" => {
            let scores: Vec<f64> =
                list("tokenizer.ggml.scores").unwrap_or(&[]).iter().filter_map(Value::as_float).collect();
            if scores.len() != tokens.len() {
                return Err(wrong(format!("it has {} tokens but {} scores", tokens.len(), scores.len())));
            }
            let merges = merges_from_scores(&tokens, &scores);
            let prefix = flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
            let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
            let normalizers =
                if prefix { vec![json!({"type": "Prepend", "prepend": "▁"}), replace] } else { vec![replace] };
            let unknown =
                id("tokenizer.ggml.unknown_token_id").and_then(|i| tokens.get(i as usize).copied()).unwrap_or("<unk>");
            json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                "normalizer": {"type": "Sequence", "normalizers": normalizers},
                "pre_tokenizer": null, "post_processor": null,
                "decoder": {"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
                "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                          "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                          "ignore_merges": false, "vocab": vocab, "merges": merges}
            })
        }
        other => return Err(wrong(format!("its kind `{other}` is not implemented (gpt2 and llama are)"))),
    };
    let text = serde_json::to_vec(&spec).map_err(|e| wrong(e.to_string()))?;
    let inner = tokenizers::Tokenizer::from_bytes(text)
        .map_err(|e| wrong(format!("its vocabulary and merges do not fit together ({e})")))?;
    let bos_id = id("tokenizer.ggml.bos_token_id");
    let adds = flag("tokenizer.ggml.add_bos_token").unwrap_or(model == "llama");
    let tokenizer = Tokenizer::new(inner, d_vocab, bos_id.filter(|_| adds), bos_id, &gguf.path)?;
    Ok(Some(tokenizer.with_eos(id("tokenizer.ggml.eos_token_id"))))
}

/// Returns the pre-tokenizer of a `tokenizer.ggml.pre` name, as `tokenizer.json` writes it.
fn pre_tokenizer(name: &str) -> Option<Json> {
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, byte_level(false)]})
    };
    Some(match name {
        "default" | "gpt-2" | "gpt2" | "olmo" => byte_level(true),
        "smollm" | "starcoder" | "codeshell" | "refact" | "command-r" => {
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]})
        }
        name if LLAMA3_NAMES.contains(&name) => split(LLAMA3_PATTERN),
        "qwen2" => split(&LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")),
        _ => return None,
    })
}

/// Returns every split of a piece into two known pieces. The best piece comes first; equal ones are ordered by the ids
/// of the halves.
fn merges_from_scores(tokens: &[&str], scores: &[f64]) -> Vec<[String; 2]> {
    let ids: std::collections::HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (*t, i)).collect();
    let mut merges = Vec::new();
    for (piece, score) in tokens.iter().zip(scores) {
        let mut local = Vec::new();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                local.push((*l, *r, left, right));
            }
        }
        local.sort_unstable();
        merges.extend(local.into_iter().map(|(_, _, l, r)| (*score, [l.to_owned(), r.to_owned()])));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    merges.into_iter().map(|(_, m)| m).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_follow_scores() {
        let merges = merges_from_scores(&["a", "b", "c", "ab", "abc"], &[0.0, 0.0, 0.0, -1.0, -2.0]);
        assert_eq!(merges, [["a".to_owned(), "b".to_owned()], ["ab".to_owned(), "c".to_owned()]]);
    }
}
