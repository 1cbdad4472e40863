//! A model's tokenizer: text to token ids and back, and the text by which a token is shown.

use std::path::Path;

use crate::error::{Error, Result};

/// A model's tokenizer, with the exact bytes of every token.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// bytes[id]; empty for ids the tokenizer does not know.
    bytes: Vec<Vec<u8>>,
    /// The token that the model's own tokenizer puts before a text, where it does so.
    bos: Option<u32>,
    /// The beginning-of-sequence token, for `--bos`.
    bos_id: Option<u32>,
    /// The token that ends a generated text.
    eos: Option<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.bytes.len()).field("bos", &self.bos).finish()
    }
}

impl Tokenizer {
    /// Wraps a tokenizer and checks that its ids fit `d_vocab`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where an id lies outside the vocabulary.
    pub fn new(
        inner: tokenizers::Tokenizer,
        d_vocab: usize,
        bos: Option<u32>,
        bos_id: Option<u32>,
        path: &Path,
    ) -> Result<Self> {
        let vocab = inner.get_vocab(true);
        let highest = vocab.values().copied().max().unwrap_or(0) as usize;
        if highest >= d_vocab {
            return Err(Error::Tokenizer {
                path: path.to_owned(),
                what: format!("it has token id {highest} but the model's vocabulary has {d_vocab}"),
            });
        }
        if let Some(id) = [bos, bos_id].into_iter().flatten().find(|id| *id as usize >= d_vocab) {
            return Err(Error::Tokenizer {
                path: path.to_owned(),
                what: format!("its beginning-of-sequence id {id} lies outside the vocabulary of {d_vocab}"),
            });
        }
        let byte_level =
            vocab.contains_key("Ġ") || !vocab.contains_key("▁") && vocab.keys().any(|k| k.starts_with('Ġ'));
        let added = inner.get_added_tokens_decoder();
        let table = byte_alphabet();
        let mut bytes = vec![Vec::new(); d_vocab];
        for (piece, id) in vocab {
            let slot = &mut bytes[id as usize];
            *slot = if added.contains_key(&id) {
                piece.into_bytes()
            } else if byte_level {
                let mut out = Vec::with_capacity(piece.len());
                for c in piece.chars() {
                    match table.iter().position(|t| *t == c) {
                        Some(b) => out.push(b as u8),
                        None => out.extend(c.to_string().as_bytes()),
                    }
                }
                out
            } else if let Some(hex) = piece.strip_prefix("<0x").and_then(|p| p.strip_suffix('>')) {
                u8::from_str_radix(hex, 16).map_or_else(|_| piece.clone().into_bytes(), |b| vec![b])
            } else {
                piece.replace('▁', " ").into_bytes()
            };
        }
        Ok(Self { inner, bytes, bos, bos_id, eos: None })
    }

    /// Sets the token that ends a generated text.
    #[must_use]
    pub fn with_eos(mut self, eos: Option<u32>) -> Self {
        self.eos = eos.filter(|id| (*id as usize) < self.bytes.len());
        self
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Returns the token ids of `text`. The beginning-of-sequence token comes first where the model's own tokenizer
    /// adds it, or `force_bos` asks for it.
    pub fn encode(&self, text: &str, force_bos: bool) -> Result<Vec<u32>> {
        Ok(self.start(force_bos)?.into_iter().chain(self.pieces(text)?).collect())
    }

    /// Returns the token that is put before a text: the one that the tokenizer adds, or the beginning-of-sequence token
    /// where that is asked for.
    pub fn start(&self, force_bos: bool) -> Result<Option<u32>> {
        if !force_bos {
            return Ok(self.bos);
        }
        self.bos_token().map(Some).ok_or_else(|| {
            Error::request(
                "--bos was given, but this model's tokenizer names no beginning-of-sequence token; leave it out",
            )
        })
    }

    /// Returns the beginning-of-sequence token, where the tokenizer names one.
    pub fn bos_token(&self) -> Option<u32> {
        self.bos_id.or(self.bos)
    }

    /// Returns the token ids of `text` alone.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false);
        let encoding = encoding.map_err(|e| Error::failed(format!("cannot split the text into tokens: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the id of `text`, which must be a single token exactly as it is given.
    pub fn single(&self, text: &str) -> Result<u32> {
        let ids = self
            .inner
            .encode(text, false)
            .map_err(|e| Error::failed(format!("cannot split the text into tokens: {e}")))?;
        if let [id] = ids.get_ids()
            && self.bytes(*id) == text.as_bytes()
        {
            return Ok(*id);
        }
        // Some tokenizers put a space before every text, but the token of exactly these bytes is meant.
        if let Some(id) = self.bytes.iter().position(|b| b == text.as_bytes()).filter(|_| !text.is_empty()) {
            return Ok(id as u32);
        }
        let pieces: Vec<String> = ids.get_ids().iter().map(|id| format!("`{}`", self.text(*id))).collect();
        let pieces = if pieces.is_empty() { "nothing".to_owned() } else { pieces.join(" ") };
        Err(Error::NotOneToken { text: text.to_owned(), pieces })
    }

    /// Returns the bytes that the token stands for; none for an unknown id.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
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
        let distinct: std::collections::HashSet<_> = table.iter().collect();
        assert_eq!(distinct.len(), 256);
    }
}
