//! The parts that tokenizers are built of, as `tokenizer.json` describes them; and building one from such a description
//! without trusting it.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;

use crate::guard::{Fault, guarded};

/// The rule by which Qwen 2's tokenizer cuts a text into words.
pub const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's bytes as characters, with (`regex`) or without its rule that cuts a text into words.
pub fn byte_level(add_prefix_space: bool, regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": regex})
}

/// A cut before and behind every match.
pub fn isolated(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// One step after the other.
pub fn sequence(steps: impl IntoIterator<Item = Value>) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps.into_iter().collect::<Vec<_>>()})
}

/// Cuts at every match of each pattern in turn, then spells bytes as characters.
pub fn split(patterns: &[&str]) -> Value {
    sequence(patterns.iter().map(|p| isolated(p)).chain([byte_level(false, false)]))
}

/// The parts of a `tokenizer.json` that are small; the vocabulary is passed over.
#[derive(Deserialize)]
struct Outline {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Option<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Builds a tokenizer from its description; a saved truncation or padding, which belongs to a training run, is dropped.
///
/// # Errors
/// What is wrong with it, as a part of a sentence.
pub fn build(text: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let outline: Outline = serde_json::from_slice(text).map_err(|e| format!("its description is damaged ({e})"))?;
    if let Some(normalizer) = &outline.normalizer {
        check_precompiled(normalizer)?;
    }
    let owned = text.to_owned();
    let built = guarded(text.len(), move || tokenizers::Tokenizer::from_bytes(owned));
    let mut inner = match built {
        Ok(Ok(inner)) => inner,
        Ok(Err(e)) => return Err(unknown_step(outline).unwrap_or_else(|| one_line(&e.to_string()))),
        Err(fault) => return Err(unknown_step(outline).unwrap_or_else(|| fault.to_string())),
    };
    inner.with_truncation(None).map_err(|e| one_line(&e.to_string()))?;
    inner.with_padding(None);
    Ok(inner)
}

/// An error of the library, which may show whole lines of the file.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("it cannot be built ({})", line.trim())
}

/// Returns the tokens that a tokenizer puts before and behind a text.
///
/// # Errors
/// The tokenizer fails on plain texts.
pub fn around(inner: &Arc<tokenizers::Tokenizer>) -> Result<(Vec<u32>, Vec<u32>), String> {
    let ids = |text: &str, special: bool| {
        let (inner, owned) = (inner.clone(), text.to_owned());
        let encoding = guarded(text.len(), move || inner.encode_fast(owned, special)).map_err(|fault| match fault {
            Fault::Panic => format!("it fails on the text `{text}`"),
            fault => format!("on the text `{text}` {fault}"),
        })?;
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| one_line(&e.to_string()))
    };
    // A vocabulary may lack a letter, so that several are tried.
    for text in ["a b", "the", "1", "A"] {
        let (with, without) = (ids(text, true)?, ids(text, false)?);
        if without.is_empty() {
            continue;
        }
        if let Some(at) = with.windows(without.len()).position(|w| w == without) {
            return Ok((with[..at].to_vec(), with[at + without.len()..].to_vec()));
        }
    }
    Ok((ids("", true)?, Vec::new()))
}

/// A precompiled normaliser begins with the size of its tables, for which memory is taken before it is compared with
/// what there is.
fn check_precompiled(part: &Value) -> Result<(), String> {
    match part {
        Value::Array(list) => list.iter().try_for_each(check_precompiled),
        Value::Object(map) => {
            if let Some(Value::String(base64)) = map.get("precompiled_charsmap") {
                let size = base64.get(..6).and_then(four_bytes);
                let bytes = base64.trim_end_matches('=').len() * 3 / 4;
                if size.is_none_or(|n| n as usize > bytes.saturating_sub(4)) {
                    return Err("its normalizer `Precompiled` is damaged".to_owned());
                }
            }
            map.values().try_for_each(check_precompiled)
        }
        _ => Ok(()),
    }
}

/// The number in the first four bytes of base64 text, least byte first.
fn four_bytes(six: &str) -> Option<u32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let bits = six.bytes().try_fold(0u64, |bits, c| Some(bits << 6 | u64::from(digit(c)?)))?;
    Some(((bits >> 4) as u32).swap_bytes())
}

/// Names the step that the library does not know, or that is damaged.
fn unknown_step(outline: Outline) -> Option<String> {
    fn is<T: serde::de::DeserializeOwned>(part: &Value) -> bool {
        let owned = part.clone();
        guarded(0, move || serde_json::from_value::<T>(owned).is_ok()).unwrap_or(false)
    }
    type Check = fn(&Value) -> bool;
    let parts: [(&str, Option<Value>, Check); 4] = [
        ("normalizer", outline.normalizer, is::<NormalizerWrapper>),
        ("pre-tokenizer", outline.pre_tokenizer, is::<PreTokenizerWrapper>),
        ("post-processor", outline.post_processor, is::<PostProcessorWrapper>),
        ("decoder", outline.decoder, is::<DecoderWrapper>),
    ];
    for (what, part, known) in parts {
        if let Some(step) = part.as_ref().and_then(|part| unknown(part, known)) {
            let kind = step.get("type").and_then(Value::as_str).unwrap_or("without a type");
            let kind: String = kind.chars().take(60).collect();
            return Some(format!("its {what} `{kind}` is not known or damaged"));
        }
    }
    let kind = outline.model.and_then(|m| m.kind)?;
    let known = ["BPE", "WordPiece", "WordLevel", "Unigram"].contains(&kind.as_str());
    (!known).then(|| format!("its model `{}` is not known", kind.chars().take(60).collect::<String>()))
}

/// The innermost step that `known` does not know.
fn unknown(part: &Value, known: fn(&Value) -> bool) -> Option<&Value> {
    if part.is_null() || known(part) {
        return None;
    }
    let steps = ["normalizers", "pretokenizers", "processors", "decoders"].iter().find_map(|k| part.get(k)?.as_array());
    steps.into_iter().flatten().find_map(|step| unknown(step, known)).or(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_begins_a_precompiled_map() {
        // Python: base64.b64encode((66560).to_bytes(4, "little") + b"\0") = b'AAQBAAA='
        assert_eq!(four_bytes("AAQBAA"), Some(66_560));
        assert_eq!(four_bytes("/////w"), Some(u32::MAX));
        assert_eq!(four_bytes("A Q AA"), None);
        let map = |text: &str| json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": text}]});
        assert!(check_precompiled(&map("/////w==")).is_err() && check_precompiled(&map("")).is_err());
        // One entry of four bytes, and none of the table that follows.
        assert!(check_precompiled(&map("BAAAAAAAAAA=")).is_ok());
    }

    #[test]
    fn an_unknown_step_is_named() {
        let spec = json!({"version": "1.0", "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "FutureSplit"}]},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
        let error = build(spec.to_string().as_bytes()).err().unwrap_or_default();
        assert!(error.contains("pre-tokenizer `FutureSplit`"), "{error}");
    }
}
