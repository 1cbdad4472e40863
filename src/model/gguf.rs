//! Reads GGUF files: the header and the index of tensors.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length is checked against the file before
//! memory is allocated for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::Device;

use super::dequantize::Stored;
use super::store::{Entry, Store};
use crate::error::{Error, Result};
use crate::progress::Progress;

const FORMAT: &str = "GGUF";
const MAX_DEPTH: usize = 4;
const MAX_DIMS: u32 = 4;

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

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }
}

/// What an option of the metadata may be read as.
pub trait Typed<'a>: Sized {
    const WHAT: &'static str;
    fn of(value: &'a Value) -> Option<Self>;
}

macro_rules! typed {
    ($type:ty, $what:literal, $of:path) => {
        impl<'a> Typed<'a> for $type {
            const WHAT: &'static str = $what;
            fn of(value: &'a Value) -> Option<Self> {
                $of(value)
            }
        }
    };
}

typed!(&'a str, "a text", Value::as_text);
typed!(i64, "a whole number", Value::as_int);
typed!(f64, "a number", Value::as_float);
typed!(bool, "true or false", Value::as_bool);
typed!(&'a [Value], "a list", Value::as_array);

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(i) => write!(f, "{i}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Text(s) if s.chars().count() > 60 => write!(f, "{:?}…", s.chars().take(60).collect::<String>()),
            Self::Text(s) => write!(f, "{s:?}"),
            Self::Array(list) => write!(f, "a list of {}", list.len()),
        }
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

    pub fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), format: FORMAT, what: what.into() }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_text)
    }

    /// Returns an option of the metadata, or `None` where it is absent.
    ///
    /// # Errors
    /// It has another type. The message is a part of a sentence.
    pub fn checked<'a, T: Typed<'a>>(&'a self, key: &str) -> std::result::Result<Option<T>, String> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        T::of(value).map(Some).ok_or_else(|| format!("its metadata gives `{key}` as {value}, which is not {}", T::WHAT))
    }

    /// As [`Self::checked`], with the whole sentence.
    ///
    /// # Errors
    /// The option has another type.
    pub fn get<'a, T: Typed<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        self.checked(key).map_err(|what| self.malformed(what))
    }

    /// Reads a tensor of `n` numbers that belongs to the config rather than to the weights.
    pub fn small(&self, name: &str, n: usize) -> Result<Vec<f64>> {
        let entries = self.entries.clone();
        let file = self.file.try_clone().map_err(|e| Error::read(&self.path, e))?;
        let store = Store::new(&self.path, vec![file], entries, Device::Cpu, &Progress::new());
        Ok(store.vector(name, n)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    }

    /// Returns the tensors, those of q and k marked whose rows are interleaved by head.
    pub fn tensors(&self, interleaved: Option<(usize, usize)>) -> Result<BTreeMap<String, Entry>> {
        let mut entries = self.entries.clone();
        let Some((heads, kv_heads)) = interleaved else { return Ok(entries) };
        for (name, entry) in &mut entries {
            let n = match name.rsplit('.').nth(1) {
                Some("attn_q") => heads,
                Some("attn_k") => kv_heads,
                _ => continue,
            };
            let rows = entry.shape.first().copied().unwrap_or(0);
            if n == 0 || !rows.is_multiple_of(2 * n) {
                return Err(self.malformed(format!("tensor `{name}` does not divide into its heads")));
            }
            entry.interleaved_heads = Some(n);
        }
        Ok(entries)
    }
}
