//! Finds the tokenizer of a model folder: `tokenizer.json`, or byte-level BPE as `vocab.json` and `merges.txt`; and
//! what `tokenizer_config.json` says about it, as transformers 5 reads it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::tokenizer::{Found, Tokenizer};
use super::tokenizer_parts::{self, byte_level, split};
use crate::error::short;
use crate::files::read_text;
use crate::typed::{Typed, typed};

/// A tokenizer of a quarter of a million tokens takes 33 MB.
const MAX_BYTES: u64 = 1 << 29;
/// `tokenizer_config.json` lists every added token.
const MAX_CONFIG: u64 = 1 << 26;

/// What is written about a tokenizer beside it.
struct Notes {
    /// `tokenizer_config.json`.
    config: Map<String, Value>,
    /// `special_tokens_map.json`, of older folders.
    special: Map<String, Value>,
    /// `config.json`.
    model: Map<String, Value>,
}

/// The keys under which special tokens are named.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Notes {
    fn read(folder: &Path, model: &Map<String, Value>, warnings: &mut Vec<String>) -> Self {
        let mut map = |name: &str| {
            let path = folder.join(name);
            if !path.exists() {
                return Map::new();
            }
            let read = read_text(&path, MAX_CONFIG).map_err(|e| e.to_string());
            read.and_then(|text| serde_json::from_str(&text).map_err(|e| format!("{name} is no JSON object ({e})")))
                .unwrap_or_else(|why| {
                    warnings.push(format!("{why}; special tokens may be missing"));
                    Map::new()
                })
        };
        let (config, special) = (map("tokenizer_config.json"), map("special_tokens_map.json"));
        Self { config, special, model: model.clone() }
    }

    /// The text of a special token.
    fn named(&self, key: &str) -> Result<Option<&str>, String> {
        let given = |of: &'_ Map<String, Value>| of.get(key).is_some_and(|v| !v.is_null());
        let of = if given(&self.config) { &self.config } else { &self.special };
        special(of.get(key), key)
    }

    /// An option of `tokenizer_config.json`.
    fn option<'a, T: Typed<'a>>(&'a self, key: &str) -> Result<Option<T>, String> {
        typed(self.config.get(key), key).map_err(|what| format!("in tokenizer_config.json {what}"))
    }

    fn model_type(&self) -> &str {
        self.model.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The added tokens that `tokenizer_config.json` lists, by id, then the special tokens that it names.
    fn added(&self) -> Result<Added, String> {
        let decoder: Option<&Map<String, Value>> = self.option("added_tokens_decoder")?;
        let mut listed = decoder.into_iter().flatten().map(listed).collect::<Result<Vec<_>, _>>()?;
        listed.sort_by_key(|(id, _)| *id);
        let mut named = Vec::new();
        for key in NAMED {
            named.extend(self.named(key)?);
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            match self.config.get(key) {
                Some(Value::Array(list)) => {
                    for token in list {
                        named.extend(special(Some(token), key)?);
                    }
                }
                Some(Value::Object(map)) => {
                    for token in map.values() {
                        named.extend(special(Some(token), key)?);
                    }
                }
                _ => drop(self.option::<&[Value]>(key)?),
            }
        }
        Ok(Added { listed, named: named.into_iter().map(|content| AddedToken::from(content, true)).collect() })
    }
}

/// Tokens beside a vocabulary: those that are listed with their ids, and special ones that are only named.
struct Added {
    listed: Vec<(u32, AddedToken)>,
    named: Vec<AddedToken>,
}

/// The text of a special token: as it is, or the content of an object.
pub(super) fn special<'a>(token: Option<&'a Value>, key: &str) -> Result<Option<&'a str>, String> {
    match token {
        Some(Value::Object(token)) => typed(token.get("content"), &format!("{key}.content")),
        token => typed(token, key),
    }
}

/// An entry of `added_tokens_decoder`; what it leaves out is as in transformers' class.
fn listed((id, token): (&String, &Value)) -> Result<(u32, AddedToken), String> {
    let damaged = |what: String| format!("added token `{}` of tokenizer_config.json is damaged: {what}", short(id));
    let number = id.parse().map_err(|_| damaged("it has no id".to_owned()))?;
    let content: Option<&str> = typed(token.get("content"), "content").map_err(damaged)?;
    let content = content.ok_or_else(|| damaged("it has no content".to_owned()))?;
    let flag = |key: &str| typed::<bool>(token.get(key), key).map_err(damaged);
    let special = flag("special")?.unwrap_or(false);
    let token = AddedToken::from(content, special)
        .single_word(flag("single_word")?.unwrap_or(false))
        .lstrip(flag("lstrip")?.unwrap_or(false))
        .rstrip(flag("rstrip")?.unwrap_or(false))
        .normalized(flag("normalized")?.unwrap_or(!special));
    Ok((number, token))
}

/// Finds the tokenizer of a folder whose `config.json` is `model` and whose model has `d_vocab` tokens. Whatever is wrong
/// with it, the model can still run on token ids.
pub fn find(folder: &Path, model: &Map<String, Value>, d_vocab: usize) -> Found {
    let mut warnings = Vec::new();
    let notes = Notes::read(folder, model, &mut warnings);
    let json = folder.join("tokenizer.json");
    let built = if json.exists() {
        read_text(&json, MAX_BYTES)
            .map_err(|e| e.to_string())
            .and_then(|text| tokenizer_parts::build(text.as_bytes()))
            .and_then(|inner| around(inner, &notes, d_vocab, &mut warnings))
    } else if folder.join("vocab.json").is_file() && folder.join("merges.txt").is_file() {
        vocab_and_merges(folder, &notes, d_vocab)
    } else {
        return match unread(folder) {
            Some(what) => Found { warnings, ..Found::fault(what) },
            None => Found { warnings, ..Found::default() },
        };
    };
    match built {
        Ok((tokenizer, eos, added)) => {
            if let [first, ..] = tokenizer.end() {
                warnings.push(format!(
                    "the tokenizer puts `{}` behind every text, so that the last position stands after the text's end",
                    tokenizer.text(*first)
                ));
            }
            Found { tokenizer: Some(tokenizer), eos, fault: None, warnings }.judge(d_vocab, added)
        }
        Err(what) => Found { warnings, ..Found::fault(what) },
    }
}

/// Says what is there in the place of a `tokenizer.json`, and how that is made.
fn unread(folder: &Path) -> Option<String> {
    let files = std::fs::read_dir(folder).ok()?;
    let names: Vec<String> = files.flatten().map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    let known = |n: &&String| {
        n.ends_with(".model")
            || n.ends_with(".tiktoken")
            || ["vocab.json", "vocab.txt", "merges.txt", "tekken.json"].contains(&n.as_str())
    };
    let found = names.iter().find(known)?;
    Some(format!(
        "the folder holds `{found}` but no tokenizer.json, which is made by \
         `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` of the Python package transformers"
    ))
}

/// A tokenizer, the end token that it names, and how many added tokens it has.
type Built = (Tokenizer, Option<u32>, usize);

/// Completes what `tokenizer.json` gives with what is written beside it. The tokens around a text are those of its own
/// post-processor; `add_bos_token` and `add_eos_token` are passed over where there is a tokenizer.json, as in
/// transformers 5.
fn around(
    mut inner: tokenizers::Tokenizer,
    notes: &Notes,
    d_vocab: usize,
    warnings: &mut Vec<String>,
) -> Result<Built, String> {
    let Added { listed, named } = notes.added()?;
    add(&mut inner, listed.into_iter().map(|(_, token)| token).chain(named))?;
    let inner = Arc::new(inner);
    let (before, after) = tokenizer_parts::around(&inner)?;
    let named = notes.named("bos_token")?.and_then(|token| inner.token_to_id(token));
    let bos = named.or_else(|| id(&notes.model, "bos_token_id"));
    if notes.option("add_bos_token")? == Some(true) && before.is_empty() && bos.is_some() {
        warnings.push(format!(
            "tokenizer_config.json asks for `{}` before every text, but tokenizer.json does not put it there and is \
             followed, as transformers 5 does; give --bos to put it first",
            notes.named("bos_token")?.unwrap_or("a token")
        ));
    }
    let added = inner.get_added_tokens_decoder().len();
    let eos = notes.named("eos_token")?.and_then(|token| inner.token_to_id(token));
    Ok((Tokenizer::new(inner, d_vocab).around(before, after).with_bos(bos), eos, added))
}

/// Adds those tokens that are not added yet.
fn add(inner: &mut tokenizers::Tokenizer, tokens: impl Iterator<Item = AddedToken>) -> Result<(), String> {
    let known: std::collections::HashSet<String> =
        inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    let new: Vec<AddedToken> = tokens.filter(|t| !t.content.is_empty() && !known.contains(&t.content)).collect();
    inner.add_tokens(new).map(drop).map_err(|e| format!("its added tokens cannot be added ({e})"))
}

/// An id that `config.json` names.
fn id(map: &Map<String, Value>, key: &str) -> Option<u32> {
    map.get(key).and_then(Value::as_u64).and_then(|id| id.try_into().ok())
}

/// Builds the byte-level BPE of GPT-2's class, or of Qwen 2's, from its two files.
fn vocab_and_merges(folder: &Path, notes: &Notes, d_vocab: usize) -> Result<Built, String> {
    let class: Option<&str> = notes.option("tokenizer_class")?;
    let class = class.unwrap_or_default().trim_end_matches("Fast");
    let qwen = class == "Qwen2Tokenizer" || notes.model_type().starts_with("qwen") && class != "GPT2Tokenizer";
    if !["", "GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizer", "CodeGenTokenizer"].contains(&class) {
        return Err(format!(
            "the folder holds vocab.json and merges.txt of a `{class}` but no tokenizer.json, which is made by \
             `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` of the Python package transformers"
        ));
    }
    let read = |name: &str| read_text(&folder.join(name), MAX_BYTES).map_err(|e| e.to_string());
    let object = |name: &str| -> Result<Map<String, Value>, String> {
        serde_json::from_str(&read(name)?).map_err(|e| format!("{name} is no list of tokens ({e})"))
    };
    let mut vocab = object("vocab.json")?;
    let merges: Vec<Value> = read("merges.txt")?
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
        .map(|line| line.split_once(' ').map(|(a, b)| json!([a, b])).ok_or(line))
        .collect::<Result<_, _>>()
        .map_err(|line| format!("merges.txt has the line `{line}`, which is no pair"))?;
    let Added { listed, named } = notes.added()?;
    let own = if folder.join("added_tokens.json").is_file() { object("added_tokens.json")? } else { Map::new() };
    let mut added: Vec<AddedToken> = listed.iter().map(|(_, token)| token.clone()).collect();
    let ids = listed.iter().map(|(id, token)| (token.content.clone(), json!(id)));
    for (token, id) in ids.chain(own.iter().map(|(token, id)| (token.clone(), id.clone()))) {
        vocab.entry(token).or_insert(id);
    }
    added.extend(own.keys().map(|token| AddedToken::from(token.as_str(), false)));
    // The names that the class gives where nothing else is said; such a token is special only where the vocabulary
    // has it. OPT's published folders begin every text with its end-of-text token.
    let opt = notes.model_type() == "opt";
    let end = if opt { "</s>" } else { "<|endoftext|>" };
    let of_class = Some(AddedToken::from(end, true)).filter(|t| vocab.contains_key(&t.content));
    let pre_tokenizer = if qwen {
        split(&[tokenizer_parts::QWEN2])
    } else {
        byte_level(notes.option("add_prefix_space")?.unwrap_or(false), true)
    };
    let spec = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": if qwen { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": byte_level(false, true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": merges}
    });
    let text = serde_json::to_vec(&spec).map_err(|e| e.to_string())?;
    let mut inner = tokenizer_parts::build(&text)?;
    add(&mut inner, added.into_iter().chain(named).chain(of_class))?;
    let token = |key: &str| {
        let named = notes.named(key)?.or((!qwen || key != "bos_token").then_some(end));
        Ok::<_, String>(named.and_then(|token| inner.token_to_id(token)))
    };
    let bos = token("bos_token")?.or_else(|| id(&notes.model, "bos_token_id"));
    let adds = |key: &str, default: bool, id: Option<u32>| {
        let on = notes.option(key)?.unwrap_or(default);
        Ok::<_, String>(Vec::from_iter(id.filter(|_| on)))
    };
    let before = adds("add_bos_token", opt, bos)?;
    let eos = token("eos_token")?;
    let after = adds("add_eos_token", false, eos)?;
    let n = inner.get_added_tokens_decoder().len();
    Ok((Tokenizer::new(inner, d_vocab).around(before, after).with_bos(bos), eos, n))
}
