//! Rebuilds a tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.
//!
//! A `gpt2` vocabulary is byte-level BPE, cut into words by the rule that `tokenizer.ggml.pre` names. A `llama`
//! vocabulary is SentencePiece BPE, whose merges follow from the scores as in transformers' `LlamaConverter`. Where a
//! file is silent, llama.cpp's defaults hold.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::gguf::{Gguf, Value};
use super::tokenizer::{Found, Tokenizer};
use super::tokenizer_names::{Rule, rule};
use super::tokenizer_parts;

/// The GGML token types that are matched as a whole, before the text is split.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The vocabulary as the file lists it.
struct Vocabulary<'a> {
    gguf: &'a Gguf,
    tokens: Vec<&'a str>,
    kinds: Vec<i64>,
}

/// What a kind of tokenizer gives.
struct Plan {
    spec: Json,
    /// Whether a beginning token is put first where the file does not say it.
    adds_bos: bool,
    /// The beginning, end and unknown tokens of a file that does not name them.
    defaults: [Option<u32>; 3],
    /// Of tokens that stand for several: those that follow the beginning token.
    then: Vec<u32>,
}

/// Finds the tokenizer of a file whose model has `d_vocab` tokens. Whatever is wrong with it, the model can still run on
/// token ids.
pub fn find(gguf: &Gguf, d_vocab: usize) -> Found {
    match read(gguf, d_vocab) {
        Ok(found) => found,
        Err(what) => Found::fault(what),
    }
}

fn read(gguf: &Gguf, d_vocab: usize) -> Result<Found, String> {
    let get = |key: &str| gguf.checked::<&str>(&format!("tokenizer.ggml.{key}"));
    let (model, pre) = match (get("model")?, get("pre")?) {
        (None, None) => return Ok(Found::default()),
        (model, pre) => (model.unwrap_or("gpt2"), pre),
    };
    let mut warnings = Vec::new();
    if ["none", "no_vocab"].contains(&model) {
        return Err(format!("the file holds no vocabulary (tokenizer.ggml.model = {model})"));
    }
    let kind = match model {
        "gpt2" | "gemma4" => byte_level,
        "llama" => sentence_piece,
        other => {
            return Err(format!(
                "its kind `{other}` is not implemented; gpt2 (byte-level BPE) and llama (SentencePiece) are"
            ));
        }
    };
    let vocabulary = Vocabulary::read(gguf)?;
    if pre.is_none() && model == "gpt2" {
        warnings.push(
            "the file does not say how its tokenizer cuts a text into words (tokenizer.ggml.pre); llama.cpp's default \
             is taken, and token ids may differ from the model's own"
                .to_owned(),
        );
    }
    let plan = kind(&vocabulary, if model == "gemma4" { "gemma4" } else { pre.unwrap_or("default") })?;
    let text = serde_json::to_vec(&plan.spec).map_err(|e| e.to_string())?;
    let inner = std::sync::Arc::new(tokenizer_parts::build(&text)?);
    tokenizer_parts::around(&inner)?;
    let ids = ["bos_token_id", "eos_token_id"].map(|key| vocabulary.id(key));
    let [bos, eos] = ids;
    let (bos, eos) = (bos?.or(plan.defaults[0]), eos?.or(plan.defaults[1]));
    let flag = |key: &str| gguf.checked::<bool>(&format!("tokenizer.ggml.{key}"));
    let adds_bos = flag("add_bos_token")?.unwrap_or(plan.adds_bos) || pre == Some("gemma4") || model == "gemma4";
    let adds_eos = flag("add_eos_token")?.unwrap_or(false);
    if adds_bos && bos.is_none() {
        warnings.push(
            "the tokenizer begins every text with a token that the file does not name (tokenizer.ggml.bos_token_id); \
             none is put there"
                .to_owned(),
        );
    }
    let before: Vec<u32> =
        bos.filter(|_| adds_bos).into_iter().chain(plan.then.into_iter().filter(|_| adds_bos)).collect();
    let after = Vec::from_iter(eos.filter(|_| adds_eos));
    let tokenizer = Tokenizer::new(inner, d_vocab).around(before, after).with_bos(bos);
    let added = vocabulary.kinds.iter().filter(|kind| [CONTROL, USER_DEFINED].contains(kind)).count();
    Ok(Found { tokenizer: Some(tokenizer), eos, fault: None, warnings }.judge(d_vocab, added))
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self, String> {
        let texts = |value: &'a Value| value.as_text().ok_or("tokenizer.ggml.tokens holds what is no text");
        let list = gguf.checked::<&[Value]>("tokenizer.ggml.tokens")?.ok_or("it lists no tokens")?;
        let tokens: Vec<&str> = list.iter().map(texts).collect::<Result<_, _>>()?;
        let kinds = match gguf.checked::<&[Value]>("tokenizer.ggml.token_type")? {
            None => Vec::new(),
            Some(list) => {
                let kinds: Option<Vec<i64>> = list.iter().map(Value::as_int).collect();
                kinds.ok_or("tokenizer.ggml.token_type holds what is no whole number")?
            }
        };
        Ok(Self { gguf, tokens, kinds })
    }

    /// The id that a key names.
    fn id(&self, key: &str) -> Result<Option<u32>, String> {
        let id = self.gguf.checked::<i64>(&format!("tokenizer.ggml.{key}"))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < self.tokens.len()))
    }

    fn position(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|t| *t == token).map(|id| id as u32)
    }

    /// Every piece with its id.
    fn pieces(&self) -> Map<String, Json> {
        let all = self.tokens.iter().enumerate().filter(|(_, piece)| !piece.is_empty());
        all.map(|(id, piece)| ((*piece).to_owned(), json!(id))).collect()
    }

    /// The tokens that are matched as a whole. `strips` says which take the spaces behind them along.
    fn added(&self, strips: impl Fn(&str) -> bool) -> Vec<Json> {
        let kind = |id: usize| self.kinds.get(id).copied();
        let whole =
            |id: &usize| matches!(kind(*id), Some(UNKNOWN | CONTROL | USER_DEFINED)) && !self.tokens[*id].is_empty();
        (0..self.tokens.len())
            .filter(whole)
            .map(|id| {
                let content = self.tokens[id];
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": strips(content),
                       "normalized": false, "special": kind(id) != Some(USER_DEFINED)})
            })
            .collect()
    }

    /// The pairs that `tokenizer.ggml.merges` lists. A piece may begin with a space, which does not part it.
    fn merges(&self) -> Result<Option<Vec<Json>>, String> {
        let Some(list) = self.gguf.checked::<&[Value]>("tokenizer.ggml.merges")? else { return Ok(None) };
        let pair = |value: &Value| {
            let text = value.as_text().ok_or("tokenizer.ggml.merges holds what is no text")?;
            let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let at = at.ok_or_else(|| format!("its merge `{text}` is no pair"))?;
            Ok::<_, String>(json!([text[..at], text[at + 1..]]))
        };
        list.iter().map(pair).collect::<Result<_, _>>().map(Some)
    }
}

/// BPE with listed merges, of bytes or (where the rule says so) of characters.
fn byte_level(vocabulary: &Vocabulary<'_>, pre: &str) -> Result<Plan, String> {
    let architecture = vocabulary.gguf.checked::<&str>("general.architecture")?.unwrap_or_default();
    let Rule { pre_tokenizer, normalizer, ignores_merges, adds_bos, spaces } =
        rule(pre, architecture).ok_or_else(|| format!("its pre-tokenizer `{pre}` is not implemented"))?;
    let merges = match vocabulary.merges()? {
        Some(merges) => merges,
        // Kimi K2's file lists none: a piece is made as early as it stands in the vocabulary.
        None if pre == "kimi-k2" => {
            let ranks: Vec<f64> = (0..vocabulary.tokens.len()).map(|id| -(id as f64)).collect();
            merges_from_scores(&vocabulary.tokens, &ranks).into_iter().map(|pair| json!(pair)).collect()
        }
        None => return Err("it lists no merges (tokenizer.ggml.merges)".to_owned()),
    };
    // GLM 4 begins with two tokens, of which the file names the first.
    let gmask = vocabulary.position("[gMASK]");
    let named = vocabulary.id("bos_token_id")?;
    let glm = ["chatglm-bpe", "glm4", "glm5"].contains(&pre) && gmask.is_some() && named == gmask;
    let then = Vec::from_iter(vocabulary.position("<sop>").filter(|_| glm));
    let unknown = vocabulary.id("unknown_token_id")?.map(|id| vocabulary.tokens[id as usize]).filter(|_| spaces);
    let decoder = if spaces { space_decoder() } else { tokenizer_parts::byte_level(true, true) };
    let spec = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added(|_| false),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": spaces, "byte_fallback": spaces,
                  "ignore_merges": ignores_merges, "vocab": vocabulary.pieces(), "merges": merges}
    });
    Ok(Plan { spec, adds_bos, defaults: [None; 3], then })
}

/// SentencePiece's BPE: the best-scored piece is merged first, and a character without a piece is spelt in bytes.
fn sentence_piece(vocabulary: &Vocabulary<'_>, _: &str) -> Result<Plan, String> {
    let gguf = vocabulary.gguf;
    let tokens = &vocabulary.tokens;
    let scores = gguf.checked::<&[Value]>("tokenizer.ggml.scores")?.unwrap_or(&[]);
    let scores: Option<Vec<f64>> = scores.iter().map(Value::as_float).collect();
    let scores = scores.ok_or("tokenizer.ggml.scores holds what is no number")?;
    if scores.len() < tokens.len() {
        return Err(format!("it has {} tokens but {} scores", tokens.len(), scores.len()));
    }
    let prefix = gguf.checked::<bool>("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = prefix.then(|| json!({"type": "Prepend", "prepend": "▁"}));
    let normalizers: Vec<Json> = prepend.into_iter().chain([replace]).collect();
    let unknown = vocabulary.id("unknown_token_id")?.unwrap_or(0);
    // Phi 3's special tokens take the spaces behind them along, all but the three it has from Llama.
    let name = gguf.checked::<&str>("general.name")?.unwrap_or_default().to_lowercase();
    let phi3 = gguf.checked::<&str>("general.architecture")? == Some("phi3")
        || name.contains("phi-3")
        || name.contains("phi3");
    let strips = |content: &str| phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&content);
    let spec = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added(strips),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null, "post_processor": null, "decoder": space_decoder(),
        "model": {"type": "BPE", "dropout": null, "unk_token": tokens.get(unknown as usize),
                  "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                  "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary.pieces(),
                  "merges": merges_from_scores(tokens, &scores)}
    });
    Ok(Plan { spec, adds_bos: true, defaults: [Some(1), Some(2), Some(0)], then: Vec::new() })
}

/// Pieces with `▁` for a space, and bytes as `<0x41>`.
fn space_decoder() -> Json {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]})
}

/// Returns every split of a piece into two known pieces. The best piece comes first; of equal ones that with the longer
/// left half, then with the longer right one, then in the order of their ids.
fn merges_from_scores(tokens: &[&str], scores: &[f64]) -> Vec<[String; 2]> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (*t, i)).collect();
    let mut merges = Vec::new();
    for (piece, score) in tokens.iter().zip(scores) {
        let length = piece.chars().count();
        let from = merges.len();
        for (nth, (at, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                merges.push((*score, nth, length - nth, (*l, *r), [left, right]));
            }
        }
        merges[from..].sort_unstable_by_key(|merge| merge.3);
    }
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then_with(|| (Reverse(a.1), Reverse(a.2)).cmp(&(Reverse(b.1), Reverse(b.2))))
    });
    merges.into_iter().map(|(_, _, _, _, pair)| pair.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_follow_scores() {
        let owned = |pairs: &[[&str; 2]]| pairs.iter().map(|p| p.map(str::to_owned)).collect::<Vec<_>>();
        let merges = merges_from_scores(&["a", "b", "c", "ab", "abc"], &[0.0, 0.0, 0.0, -1.0, -2.0]);
        assert_eq!(merges, owned(&[["a", "b"], ["ab", "c"]]));
        // Of two ways to the same piece the one with the longer left half comes first.
        let merges = merges_from_scores(&["a", "b", "bb", "ab", "abb"], &[0.0, 0.0, -2.0, -1.0, -3.0]);
        assert_eq!(merges, owned(&[["a", "b"], ["b", "b"], ["ab", "b"], ["a", "bb"]]));
    }
}
