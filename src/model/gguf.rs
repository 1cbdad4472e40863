//! Reads GGUF files: the header, the index of tensors, and the config that the metadata holds.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length is checked against the file before
//! memory is allocated for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::dequantize::Stored;
use super::store::Entry;
use crate::error::{Error, Result};

const FORMAT: &str = "GGUF";
const MAX_DEPTH: usize = 4;
const MAX_DIMS: u32 = 4;

/// The options of llama that are known here.
const OPTIONS: [&str; 14] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "context_length",
    "vocab_size",
    "attention.key_length",
    "attention.value_length",
    "rope.scaling.type",
    "rope.scaling.factor",
];

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

impl Value {
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(s) = self { Some(s) } else { None }
    }

    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(i) = self { Some(*i) } else { None }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            Self::Int(i) => Some(*i as f64),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }
}

/// A GGUF file's header.
pub struct Gguf {
    pub path: PathBuf,
    pub metadata: BTreeMap<String, Value>,
    pub entries: BTreeMap<String, Entry>,
    pub file: File,
}

struct Reader<'a> {
    path: &'a Path,
    input: BufReader<&'a File>,
    at: u64,
    len: u64,
}

impl Reader<'_> {
    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.to_owned(), format: FORMAT, what: what.into() }
    }

    fn left(&self) -> u64 {
        self.len - self.at
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.left() < N as u64 {
            return Err(self.malformed(format!("it ends inside its header, at byte {}", self.len)));
        }
        let mut b = [0u8; N];
        self.input.read_exact(&mut b).map_err(|e| Error::read(self.path, e))?;
        self.at += N as u64;
        Ok(b)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self) -> Result<String> {
        let n = self.u64()?;
        if n > self.left() {
            return Err(self.malformed(format!("a text of its header claims {n} bytes, more than the file holds")));
        }
        let mut b = vec![0u8; n as usize];
        self.input.read_exact(&mut b).map_err(|e| Error::read(self.path, e))?;
        self.at += n;
        // A vocabulary may hold pieces of characters, which are no valid text. Such bytes become replacement characters.
        Ok(String::from_utf8(b).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Int(self.bytes::<1>()?[0].into()),
            1 => Value::Int(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::Text(self.string()?),
            9 => {
                let inner = self.u32()?;
                let n = self.u64()?;
                let least = match inner {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    _ => 8,
                };
                if depth >= MAX_DEPTH || n.saturating_mul(least) > self.left() {
                    return Err(
                        self.malformed(format!("a list of its header claims {n} entries, more than the file holds"))
                    );
                }
                let mut list = Vec::new();
                for _ in 0..n {
                    list.push(self.value(inner, depth + 1)?);
                }
                Value::Array(list)
            }
            10 => {
                let v = self.u64()?;
                Value::Int(i64::try_from(v).map_err(|_| self.malformed("a number of its header is out of range"))?)
            }
            11 => Value::Int(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(self.malformed(format!("its header uses value type {other}, which does not exist"))),
        })
    }
}

impl Gguf {
    /// Reads and checks the header. It reads no tensor data.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let len = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let (metadata, entries) = {
            let mut r = Reader { path, input: BufReader::with_capacity(1 << 16, &file), at: 0, len };
            if &r.bytes::<4>()? != b"GGUF" {
                return Err(r.malformed("it does not begin with the letters GGUF"));
            }
            let version = r.u32()?;
            if !(2..=3).contains(&version) {
                return Err(r.malformed(format!("it has version {version}; versions 2 and 3 can be read")));
            }
            let n_tensors = r.u64()?;
            let n_values = r.u64()?;
            let mut metadata = BTreeMap::new();
            for _ in 0..n_values {
                let key = r.string()?;
                let kind = r.u32()?;
                let value = r.value(kind, 0)?;
                metadata.insert(key, value);
            }
            let mut entries = BTreeMap::new();
            for _ in 0..n_tensors {
                let name = r.string()?;
                let dims = r.u32()?;
                if dims > MAX_DIMS {
                    return Err(r.malformed(format!("tensor `{name}` claims {dims} axes")));
                }
                let mut shape = Vec::new();
                for _ in 0..dims {
                    shape.push(r.u64()?);
                }
                shape.reverse();
                let kind = r.u32()?;
                let stored = Stored::from_ggml(kind).ok_or_else(|| {
                    r.malformed(format!("tensor `{name}` is stored as GGML type {kind}, which is not implemented"))
                })?;
                let offset = r.u64()?;
                entries.insert(name, (shape, stored, offset));
            }
            let align = metadata.get("general.alignment").and_then(Value::as_int).unwrap_or(32);
            if !(1..=1 << 20).contains(&align) {
                return Err(r.malformed(format!("its alignment is {align}")));
            }
            let data = r.at.next_multiple_of(align as u64);
            let mut checked = BTreeMap::new();
            for (name, (shape, stored, offset)) in entries {
                let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
                let bytes = count.and_then(|n| usize::try_from(n).ok()).and_then(|n| stored.bytes(n));
                let end = bytes.and_then(|b| data.checked_add(offset)?.checked_add(b as u64));
                if end.is_none_or(|end| end > len) {
                    return Err(r.malformed(format!(
                        "tensor `{name}` of shape {shape:?} ends beyond the file, which seems cut short"
                    )));
                }
                checked.insert(
                    name,
                    Entry {
                        file: 0,
                        stored,
                        shape: shape.into_iter().map(|d| d as usize).collect(),
                        offset: data + offset,
                        interleaved_heads: None,
                    },
                );
            }
            (metadata, checked)
        };
        Ok(Self { path: path.to_owned(), metadata, entries, file })
    }

    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), format: FORMAT, what: what.into() }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_text)
    }

    /// Returns the config that the Hugging Face folder of the same model would have, and the tensors under their
    /// Hugging Face names.
    pub fn as_hugging_face(&self) -> Result<(Map<String, Json>, BTreeMap<String, Entry>)> {
        let arch =
            self.text("general.architecture").ok_or_else(|| self.malformed("it does not name its architecture"))?;
        if arch != "llama" {
            return Err(Error::UnknownFamily {
                path: self.path.clone(),
                family: arch.to_owned(),
                known: "llama in GGUF files, and every family as a Hugging Face folder".to_owned(),
            });
        }
        for (key, value) in &self.metadata {
            if let Some(option) = key.strip_prefix("llama.")
                && !OPTIONS.contains(&option)
            {
                return Err(refuse(key, format!("{value:?}")));
            }
        }
        let get = |key: &str| self.metadata.get(&format!("llama.{key}"));
        let int = |key: &str| get(key).and_then(Value::as_int);
        let need = |key: &str| int(key).ok_or_else(|| self.malformed(format!("its metadata lacks `llama.{key}`")));
        let heads = need("attention.head_count")?;
        let d_model = need("embedding_length")?;
        if heads < 1 || d_model < 1 {
            return Err(self.malformed("its metadata gives no heads or no width"));
        }
        let d_head = int("attention.key_length").unwrap_or(d_model / heads);
        let kv_heads = int("attention.head_count_kv").unwrap_or(heads);
        if let Some(v) = int("attention.value_length").filter(|v| *v != d_head) {
            return Err(refuse("llama.attention.value_length", v.to_string()));
        }
        if self.entries.contains_key("rope_freqs.weight") {
            return Err(refuse("rope_freqs.weight", "a table of rotary factors".to_owned()));
        }
        let d_vocab = self
            .entries
            .get("token_embd.weight")
            .ok_or_else(|| self.malformed("it holds no tensor `token_embd.weight`"))?;
        let d_vocab = match d_vocab.shape[..] {
            [rows, cols] if cols as i64 == d_model && (1..=1 << 24).contains(&rows) => rows,
            _ => return Err(self.malformed(format!("tensor `token_embd.weight` has shape {:?}", d_vocab.shape))),
        };
        // Where a head turns only a part of its dimensions, the file pairs them differently.
        if let Some(dims) = int("rope.dimension_count").filter(|n| *n != d_head) {
            return Err(refuse("llama.rope.dimension_count", format!("{dims} of {d_head}")));
        }
        let mut rope = json!({
            "rope_type": "default",
            "rope_theta": get("rope.freq_base").and_then(Value::as_float).unwrap_or(10_000.0),
        });
        match get("rope.scaling.type").and_then(Value::as_text) {
            None | Some("none") => {}
            Some("linear") => {
                rope["rope_type"] = json!("linear");
                rope["factor"] = json!(get("rope.scaling.factor").and_then(Value::as_float).unwrap_or(1.0));
            }
            Some(other) => return Err(refuse("llama.rope.scaling.type", other.to_owned())),
        }
        let config = json!({
            "model_type": "llama",
            "num_hidden_layers": need("block_count")?,
            "hidden_size": d_model,
            "intermediate_size": need("feed_forward_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": d_head,
            "vocab_size": d_vocab,
            "max_position_embeddings": need("context_length")?,
            "rms_norm_eps": get("attention.layer_norm_rms_epsilon").and_then(Value::as_float)
                .ok_or_else(|| self.malformed("its metadata lacks `llama.attention.layer_norm_rms_epsilon`"))?,
            "hidden_act": "silu",
            "attention_bias": self.entries.contains_key("blk.0.attn_q.bias"),
            "mlp_bias": self.entries.contains_key("blk.0.ffn_down.bias"),
            "tie_word_embeddings": !self.entries.contains_key("output.weight"),
            "rope_parameters": rope,
        });
        let Json::Object(config) = config else { return Err(self.malformed("its metadata is empty")) };
        Ok((config, self.hugging_face_entries(heads, kv_heads)?))
    }

    /// Returns the tensors under their Hugging Face names.
    fn hugging_face_entries(&self, heads: i64, kv_heads: i64) -> Result<BTreeMap<String, Entry>> {
        let mut entries = BTreeMap::new();
        for (name, entry) in &self.entries {
            let mut entry = entry.clone();
            let Some(new) = hugging_face_name(name) else {
                return Err(self.malformed(format!("it holds tensor `{name}`, which the llama family does not have")));
            };
            let interleaved = if new.contains("q_proj") {
                Some(heads)
            } else if new.contains("k_proj") {
                Some(kv_heads)
            } else {
                None
            };
            if let Some(n) = interleaved {
                let Some(&rows) = entry.shape.first() else {
                    return Err(self.malformed(format!("tensor `{name}` has no axes")));
                };
                let n = usize::try_from(n).ok().filter(|n| *n > 0 && rows.is_multiple_of(2 * n));
                let n = n.ok_or_else(|| self.malformed(format!("tensor `{name}` does not divide into its heads")))?;
                if entry.shape.len() == 2 {
                    entry.interleaved_heads = Some(n);
                } else {
                    return Err(refuse(name, "an interleaved bias".to_owned()));
                }
            }
            entries.insert(new, entry);
        }
        Ok(entries)
    }
}

/// The error for an option of llama that is not implemented.
fn refuse(option: &str, value: String) -> Error {
    Error::UnsupportedOption { family: "llama".to_owned(), option: option.to_owned(), value }
}

/// Returns the Hugging Face name of a tensor: `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`.
fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}
