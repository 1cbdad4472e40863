//! A model's tokenizer: text to token ids and back, and the text by which a token is shown.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::models::ModelWrapper;

use crate::error::{Error, Result};
use crate::guard::{Fault, Gate};

/// A model's tokenizer, with the exact bytes of every token.
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    /// bytes[id] of the tokens that the model has; empty for ids the tokenizer does not know.
    bytes: Vec<Vec<u8>>,
    /// The tokens that the model has no embedding for, with their bytes. A prompt that uses one is refused.
    beyond: BTreeMap<u32, Vec<u8>>,
    /// Tokens that stand for one byte of a character that has no piece of its own (`<0x41>`).
    fallback: HashSet<u32>,
    /// The tokens that the model's own tokenizer puts before a text, and those that it puts behind one.
    before: Vec<u32>,
    after: Vec<u32>,
    /// The beginning-of-sequence token, for `--bos`.
    bos: Option<u32>,
    gate: Gate,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.bytes.len()).field("before", &self.before).finish()
    }
}

/// The tokenizer that was found beside a model, or why there is none.
#[derive(Debug, Default)]
pub struct Found {
    pub tokenizer: Option<Tokenizer>,
    /// The token that it names as the end of a text.
    pub eos: Option<u32>,
    /// Why a tokenizer that is there cannot be used.
    pub fault: Option<String>,
    pub warnings: Vec<String>,
}

impl Found {
    pub fn fault(what: impl Into<String>) -> Self {
        Self { fault: Some(what.into()), ..Self::default() }
    }

    /// Says of tokens that the model has no embedding for that they belong to another model. Single added tokens do
    /// occur: Gemma 3's `<image_soft_token>`, a `<pad>` of fine-tuning.
    pub fn judge(mut self, d_vocab: usize, n_added: usize) -> Self {
        let beyond = self.tokenizer.as_ref().map_or(0, |t| t.beyond().count());
        if beyond > n_added {
            self.warnings.push(format!(
                "the tokenizer has {beyond} tokens more than the model's vocabulary of {d_vocab}; it may belong to \
                 another model, and a prompt that uses one of them is refused"
            ));
        }
        self
    }
}

/// How the pieces of a vocabulary are written, as the tokenizer describes itself.
struct Spelling {
    /// Pieces are bytes in GPT-2's alphabet.
    byte_level: bool,
    /// `<0x41>` stands for a byte.
    byte_fallback: bool,
    /// `▁` stands for a space.
    metaspace: bool,
}

impl Spelling {
    fn of(inner: &tokenizers::Tokenizer) -> Self {
        let value = |part: serde_json::Result<Value>| part.unwrap_or_default();
        let decoder = value(serde_json::to_value(inner.get_decoder()));
        let pre_tokenizer = value(serde_json::to_value(inner.get_pre_tokenizer()));
        let normalizer = value(serde_json::to_value(inner.get_normalizer()));
        let all = [&decoder, &pre_tokenizer, &normalizer];
        let named = |name: &str| all.iter().any(|part| any(part, &|step| step.get("type") == Some(&name.into())));
        let replaces = |part: &Value, from: &str, to: &str| {
            any(part, &|step| {
                step.get("type") == Some(&"Replace".into())
                    && step.pointer("/pattern/String") == Some(&from.into())
                    && step.get("content") == Some(&to.into())
            })
        };
        let of_model = match inner.get_model() {
            ModelWrapper::BPE(bpe) => bpe.byte_fallback,
            ModelWrapper::Unigram(unigram) => unigram.byte_fallback(),
            _ => false,
        };
        Self {
            byte_level: named("ByteLevel"),
            byte_fallback: of_model || named("ByteFallback"),
            metaspace: named("Metaspace")
                || replaces(&decoder, "▁", " ")
                || all.iter().any(|part| replaces(part, " ", "▁")),
        }
    }

    /// The byte that a piece stands for where no other piece does.
    fn fallback(&self, piece: &str) -> Option<u8> {
        let hex = piece.strip_prefix("<0x").and_then(|p| p.strip_suffix('>'));
        hex.filter(|h| self.byte_fallback && h.len() == 2).and_then(|h| u8::from_str_radix(h, 16).ok())
    }

    /// The bytes of a piece.
    fn bytes(&self, piece: String, added: bool, alphabet: &BTreeMap<char, u8>) -> Vec<u8> {
        if let Some(byte) = self.fallback(&piece) {
            return vec![byte];
        }
        if self.byte_level && !added {
            let mut out = Vec::with_capacity(piece.len());
            for c in piece.chars() {
                match alphabet.get(&c) {
                    Some(b) => out.push(*b),
                    None => out.extend(c.to_string().as_bytes()),
                }
            }
            return out;
        }
        if self.metaspace { piece.replace('▁', " ").into_bytes() } else { piece.into_bytes() }
    }
}

/// Whether a step of a pipeline, however deep in sequences it lies, is one of these.
fn any(part: &Value, is: &dyn Fn(&Value) -> bool) -> bool {
    match part {
        Value::Array(list) => list.iter().any(|v| any(v, is)),
        Value::Object(map) => is(part) || map.values().any(|v| any(v, is)),
        _ => false,
    }
}

/// The sentence for text that the library cannot split, or that makes it panic.
fn unsplit(what: &str) -> Error {
    Error::failed(format!("cannot split the text into tokens: {what}"))
}

impl Tokenizer {
    /// Wraps a tokenizer of a model with `d_vocab` tokens. It may know tokens that the model has not.
    pub fn new(inner: impl Into<Arc<tokenizers::Tokenizer>>, d_vocab: usize) -> Self {
        let inner = inner.into();
        let spelling = Spelling::of(&inner);
        let added = inner.get_added_tokens_decoder();
        let alphabet = byte_alphabet().into_iter().zip(0..=u8::MAX).collect();
        let mut bytes = vec![Vec::new(); d_vocab];
        let (mut beyond, mut fallback) = (BTreeMap::new(), HashSet::new());
        for (piece, id) in inner.get_vocab(true) {
            if spelling.fallback(&piece).is_some() {
                fallback.insert(id);
            }
            let of_piece = spelling.bytes(piece, added.contains_key(&id), &alphabet);
            match bytes.get_mut(id as usize) {
                Some(slot) => *slot = of_piece,
                None => drop(beyond.insert(id, of_piece)),
            }
        }
        Self { inner, bytes, beyond, fallback, before: Vec::new(), after: Vec::new(), bos: None, gate: Gate::default() }
    }

    /// Sets the tokens that stand before and behind every text.
    #[must_use]
    pub fn around(mut self, before: Vec<u32>, after: Vec<u32>) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// Sets the beginning-of-sequence token.
    #[must_use]
    pub fn with_bos(mut self, bos: Option<u32>) -> Self {
        self.bos = bos;
        self
    }

    /// Returns the tokens that the model has no embedding for.
    pub fn beyond(&self) -> impl Iterator<Item = u32> + '_ {
        self.beyond.keys().copied()
    }

    /// Returns the id of a piece of the vocabulary, as it is written there.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// Returns the token ids of `text`, with the tokens that the model's own tokenizer puts before and behind it, or that
    /// `force_bos` asks for.
    pub fn encode(&self, text: &str, force_bos: bool) -> Result<Vec<u32>> {
        let mut ids = self.start(force_bos)?;
        ids.extend(self.pieces(text)?);
        ids.extend(&self.after);
        Ok(ids)
    }

    /// Returns the tokens that are put before a text: those that the tokenizer adds, and the beginning-of-sequence token
    /// where that is asked for.
    pub fn start(&self, force_bos: bool) -> Result<Vec<u32>> {
        if !force_bos {
            return Ok(self.before.clone());
        }
        let bos = self.bos_token().ok_or_else(|| {
            Error::request(
                "--bos was given, but this model's tokenizer names no beginning-of-sequence token; leave it out",
            )
        })?;
        Ok(if self.before.contains(&bos) { self.before.clone() } else { vec![bos] })
    }

    /// Returns the tokens that the tokenizer puts behind a text.
    pub fn end(&self) -> &[u32] {
        &self.after
    }

    /// Returns the beginning-of-sequence token, where the tokenizer names one.
    pub fn bos_token(&self) -> Option<u32> {
        self.bos.or(self.before.first().copied())
    }

    /// Returns the token ids of `text` alone.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        self.guarded(text, |inner, text| Ok(inner.encode_fast(text, false)?.get_ids().to_vec()))
    }

    /// Returns the tokens of `text` alone, each with the bytes of the text that it is of.
    pub fn pieces_at(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        self.guarded(text, |inner, text| {
            let encoding = inner.encode(text, false)?;
            let offsets = encoding.get_offsets().iter().map(|(from, to)| *from..*to);
            Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
        })
    }

    /// Splits a text by a library that trusts the tokenizer's file.
    fn guarded<R: Send + 'static>(
        &self,
        text: &str,
        split: impl Fn(&tokenizers::Tokenizer, &str) -> tokenizers::Result<R> + Send + 'static,
    ) -> Result<R> {
        let (inner, owned) = (self.inner.clone(), text.to_owned());
        match self.gate.guarded(None, text.len(), move || split(&inner, &owned)) {
            Ok(result) => result.map_err(|e| unsplit(&e.to_string())),
            Err(Fault::Panic) => Err(unsplit("its tokenizer is damaged or does not know this text")),
            Err(fault) => Err(unsplit(&format!("its tokenizer goes wrong on it, since {fault}"))),
        }
    }

    /// Returns the id of `text`, which must be a single token exactly as it is given.
    pub fn single(&self, text: &str) -> Result<u32> {
        let ids = self.pieces(text)?;
        let exact = |id: u32| self.bytes(id) == text.as_bytes();
        let split = match ids[..] {
            [id] if exact(id) => Some(id),
            _ => None,
        };
        // Some tokenizers put a space before every text, but the token of exactly these bytes is meant; of several, the
        // piece and not the byte that stands in where there is no piece.
        let known = || (0..self.bytes.len() as u32).chain(self.beyond.keys().copied()).filter(|id| exact(*id));
        let piece = split.filter(|id| !self.fallback.contains(id));
        let piece = piece.or_else(|| known().find(|id| !self.fallback.contains(id)));
        match piece.or(split).or_else(|| known().next()).filter(|_| !text.is_empty()) {
            Some(id) if (id as usize) < self.bytes.len() => Ok(id),
            Some(id) => Err(Error::TokenOutOfRange { id, d_vocab: self.bytes.len() }),
            None => {
                let pieces: Vec<String> = ids.iter().map(|id| format!("`{}`", self.text(*id))).collect();
                let pieces = if pieces.is_empty() { "nothing".to_owned() } else { pieces.join(" ") };
                Err(Error::NotOneToken { text: text.to_owned(), pieces })
            }
        }
    }

    /// Returns the bytes that the token stands for; none for an unknown id.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).or_else(|| self.beyond.get(&id)).map_or(&[], Vec::as_slice)
    }

    /// Returns the token's text. Bytes that are no UTF-8 by themselves (pieces of a character) are written as `\xE6`,
    /// so that no two tokens look alike.
    pub fn text(&self, id: u32) -> String {
        let mut out = String::new();
        for chunk in self.bytes(id).utf8_chunks() {
            out.push_str(chunk.valid());
            for b in chunk.invalid() {
                out.push_str(&format!("\\x{b:02X}"));
            }
        }
        out
    }

    /// Returns the text of a sequence. Bytes of neighbouring tokens join into characters again.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.bytes(*id).iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Returns GPT-2's reversible map from bytes to printable characters: entry b is the character of byte b.
pub fn byte_alphabet() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let code = if printable(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap_or('\u{fffd}')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_gpt2s() {
        let table = byte_alphabet();
        assert_eq!(table[b' ' as usize], 'Ġ');
        assert_eq!(table[b'\n' as usize], 'Ċ');
        assert_eq!(table[b'A' as usize], 'A');
        let distinct: HashSet<_> = table.iter().collect();
        assert_eq!(distinct.len(), 256);
    }
}
