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
    /// The tensors of all files, under their names in GGUF.
    pub entries: BTreeMap<String, Entry>,
    /// The file, or the parts of a split one in their order.
    files: Vec<File>,
}

struct Reader<'a> {
    path: &'a Path,
    input: BufReader<&'a File>,
    at: u64,
    len: u64,
}

impl Reader<'_> {
    fn malformed(&self, what: impl Into<String>) -> Error {
        malformed(self.path, what)
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        Error::Damaged { path: self.path.to_owned(), format: FORMAT, what: what.into() }
    }

    fn left(&self) -> u64 {
        self.len - self.at
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.left() < N as u64 {
            return Err(self.damaged(format!("it ends inside its header, at byte {}", self.len)));
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
            return Err(self.damaged(format!("a text of its header claims {n} bytes, more than the file holds")));
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
                if depth >= MAX_DEPTH {
                    return Err(
                        self.malformed(format!("a list of its header is nested deeper than {MAX_DEPTH} levels"))
                    );
                }
                // The longest lists of files that open are vocabularies and their merges.
                if n > 1 << 24 {
                    return Err(self.malformed(format!("a list of its header has {n} entries; 2^24 can be read")));
                }
                if n.saturating_mul(least) > self.left() {
                    return Err(
                        self.damaged(format!("a list of its header claims {n} entries, more than the file holds"))
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

    /// Reads the letters GGUF and the version.
    fn begin(&mut self) -> Result<()> {
        let magic = self.bytes::<4>().unwrap_or_default();
        if &magic != b"GGUF" {
            let what = match &magic {
                b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
                    "it is a GGML file of the time before GGUF; convert the original model with llama.cpp's converter"
                }
                b"FUGG" => "its bytes are in reverse order; convert it with gguf_convert_endian.py of llama.cpp",
                _ => return Err(self.malformed("it does not begin with the letters GGUF")),
            };
            return Err(self.unopenable(what));
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            // A version in the upper bytes: the file was written for processors of the other byte order.
            version if version & 0xffff == 0 && version != 0 => Err(self.unopenable(
                "it is big-endian, made for processors of the other byte order; convert it with gguf_convert_endian.py \
                 of llama.cpp",
            )),
            version => Err(self.unopenable(format!(
                "it has version {version} of the format, and versions 2 and 3 can be read; convert the model again with \
                 llama.cpp's converter"
            ))),
        }
    }

    fn unopenable(&self, what: impl Into<String>) -> Error {
        Error::Unopenable { path: self.path.to_owned(), what: what.into() }
    }

    /// Reads a tensor's name, shape (outermost axis first), type and offset.
    fn tensor(&mut self) -> Result<(String, Vec<u64>, Stored, u64)> {
        let name = self.string()?;
        let dims = self.u32()?;
        if dims > MAX_DIMS {
            return Err(self.malformed(format!("tensor `{name}` claims {dims} axes")));
        }
        let mut shape = (0..dims).map(|_| self.u64()).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let kind = self.u32()?;
        let offset = self.u64()?;
        let stored = Stored::from_ggml(kind).ok_or_else(|| {
            let read: Vec<&str> = Stored::ALL.iter().map(|(stored, _)| stored.name()).collect();
            self.unopenable(format!(
                "tensor `{name}` is stored as {}, which is not implemented; take the same model in one of the types that \
                 are: {}",
                Stored::unread_ggml(kind),
                read.join(", ")
            ))
        })?;
        Ok((name, shape, stored, offset))
    }

    /// Checks where the tensors lie: inside the file, aligned, and none in another.
    fn places(
        &self,
        infos: Vec<(String, Vec<u64>, Stored, u64)>,
        align: u64,
        file: usize,
    ) -> Result<BTreeMap<String, Entry>> {
        let data = self.at.next_multiple_of(align);
        let mut entries = BTreeMap::new();
        let mut ranges = Vec::new();
        for (name, shape, stored, offset) in infos {
            let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
            let bytes = count.and_then(|n| usize::try_from(n).ok()).and_then(|n| stored.bytes(n));
            let end = bytes.and_then(|b| data.checked_add(offset)?.checked_add(b as u64));
            let Some(end) = end.filter(|end| *end <= self.len) else {
                return Err(self.damaged(format!(
                    "tensor `{name}` of shape {shape:?} ends beyond the file, which seems cut short"
                )));
            };
            if !offset.is_multiple_of(align) {
                return Err(self.malformed(format!("tensor `{name}` lies at {offset}, no multiple of {align}")));
            }
            ranges.push((data + offset, end, name.clone()));
            let shape = shape.into_iter().map(|d| d as usize).collect();
            let entry = Entry::new(file, stored, shape, data + offset);
            if entries.insert(name.clone(), entry).is_some() {
                return Err(self.malformed(format!("it holds tensor `{name}` twice")));
            }
        }
        ranges.retain(|(from, end, _)| from < end);
        ranges.sort();
        match ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            Some(pair) => Err(self.malformed(format!("tensors `{}` and `{}` overlap", pair[0].2, pair[1].2))),
            None => Ok(entries),
        }
    }
}

/// One file of a model.
struct Part {
    file: File,
    metadata: BTreeMap<String, Value>,
    entries: BTreeMap<String, Entry>,
}

impl Part {
    /// Reads and checks the header; `nth` is the number of the file among the model's.
    fn open(path: &Path, nth: usize) -> Result<Self> {
        // A pipe would be waited for.
        if path.exists() && !path.is_file() {
            let what = "it is no file; name a file or a folder with a model".to_owned();
            return Err(Error::Unopenable { path: path.to_owned(), what });
        }
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let len = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let (metadata, entries) = {
            let mut r = Reader { path, input: BufReader::with_capacity(1 << 16, &file), at: 0, len };
            r.begin()?;
            let n_tensors = r.u64()?;
            let n_values = r.u64()?;
            let mut metadata = BTreeMap::new();
            for _ in 0..n_values {
                let key = r.string()?;
                let kind = r.u32()?;
                let value = r.value(kind, 0)?;
                if metadata.insert(key.clone(), value).is_some() {
                    return Err(r.malformed(format!("its metadata gives `{key}` twice")));
                }
            }
            let infos = (0..n_tensors).map(|_| r.tensor()).collect::<Result<Vec<_>>>()?;
            let align = match metadata.get("general.alignment") {
                None => 32,
                Some(Value::Int(n)) if (1..=1 << 20).contains(n) => *n as u64,
                Some(other) => return Err(r.malformed(format!("its alignment (general.alignment) is {other}"))),
            };
            let entries = r.places(infos, align, nth)?;
            (metadata, entries)
        };
        Ok(Self { file, metadata, entries })
    }

    /// The number of a split file, from 0, and how many there are.
    fn split(&self, path: &Path) -> Result<Option<(usize, usize)>> {
        let number = |key: &str| match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) if (0..=99_999).contains(n) => Ok(Some(*n as usize)),
            Some(other) => Err(malformed(path, format!("its metadata gives `{key}` as {other}"))),
        };
        match (number("split.no")?, number("split.count")?) {
            (_, None | Some(0 | 1)) => Ok(None),
            (Some(no), Some(count)) if no < count => Ok(Some((no, count))),
            (no, Some(count)) => {
                Err(malformed(path, format!("it is one of {count} parts, but does not say which (split.no = {no:?})")))
            }
        }
    }
}

/// The path of another part of a split model: `NAME-00002-of-00003.gguf`.
fn part_path(path: &Path, no: usize, count: usize) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let rest = name.get(..name.len().checked_sub(5)?)?;
    let extension = name.get(rest.len()..)?;
    let (rest, total) = rest.rsplit_once("-of-")?;
    let (stem, nth) = rest.rsplit_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then_some(text.len()).filter(|n| *n > 0);
    let (width, _) = (number(nth)?, number(total)?);
    Some(path.with_file_name(format!("{stem}-{:0width$}-of-{count:0width$}{extension}", no + 1)))
}

fn malformed(path: &Path, what: impl Into<String>) -> Error {
    Error::Malformed { path: path.to_owned(), format: FORMAT, what: what.into() }
}

impl Gguf {
    /// Reads and checks the header, of all parts of a split model. It reads no tensor data.
    ///
    /// # Errors
    /// The file is damaged, or stored in a way that is not read.
    pub fn open(path: &Path) -> Result<Self> {
        let part = Part::open(path, 0)?;
        let mut gguf = match part.split(path)? {
            None => {
                Self { path: path.to_owned(), metadata: part.metadata, entries: part.entries, files: vec![part.file] }
            }
            Some((no, count)) => Self::join(path, no, count)?,
        };
        gguf.path = path.to_owned();
        Ok(gguf)
    }

    /// Opens all parts of a split model by one of them. The first holds the metadata of all.
    fn join(path: &Path, no: usize, count: usize) -> Result<Self> {
        let mut all: Option<Self> = None;
        for nth in 0..count {
            let at = if nth == no { Some(path.to_owned()) } else { part_path(path, nth, count) };
            let at = at.ok_or_else(|| Error::Unopenable {
                path: path.to_owned(),
                what: format!(
                    "it is part {} of {count}, and its name does not lead to the others; name the parts \
                     NAME-00001-of-{count:05}.gguf and so on, in one folder",
                    no + 1
                ),
            })?;
            if !at.is_file() {
                return Err(Error::Unopenable {
                    path: path.to_owned(),
                    what: format!(
                        "it is part {} of {count}, and part {} is missing; put {} into the same folder",
                        no + 1,
                        nth + 1,
                        at.file_name().unwrap_or_default().to_string_lossy()
                    ),
                });
            }
            let part = Part::open(&at, nth)?;
            if part.split(&at)? != Some((nth, count)) {
                return Err(malformed(&at, format!("it is named as part {} of {count}, but says otherwise", nth + 1)));
            }
            match &mut all {
                None => {
                    let (metadata, entries, files) = (part.metadata, part.entries, vec![part.file]);
                    all = Some(Self { path: at, metadata, entries, files });
                }
                Some(all) => {
                    for (name, entry) in part.entries {
                        if all.entries.contains_key(&name) {
                            return Err(malformed(&at, format!("tensor `{name}` lies in another part as well")));
                        }
                        all.entries.insert(name, entry);
                    }
                    all.files.push(part.file);
                }
            }
        }
        all.ok_or_else(|| malformed(path, "it has no parts"))
    }

    /// Tells files apart that are GGUF but no language model.
    ///
    /// # Errors
    /// It is one of them; the message says which.
    pub fn is_language_model(&self) -> Result<()> {
        let architecture = self.get::<&str>("general.architecture")?;
        let what = match self.get::<&str>("general.type")? {
            Some("mmproj") => "it holds the part of a model that reads pictures or sound (mmproj)",
            _ if architecture == Some("clip") => "it holds the part of a model that reads pictures or sound (mmproj)",
            Some("adapter") => "it holds an adapter, a change to the weights of another model",
            Some("imatrix") => "it holds an importance matrix, which is used to store weights in few bits",
            _ if architecture == Some("imatrix") => {
                "it holds an importance matrix, which is used to store weights in few bits"
            }
            _ if self.entries.is_empty() => "it holds a vocabulary and no weights",
            _ => return Ok(()),
        };
        Err(Error::Unopenable {
            path: self.path.clone(),
            what: format!("{what}, not a language model; open the model's own .gguf file instead"),
        })
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

    /// Returns the open files, for a store of their tensors.
    pub fn files(&self) -> Result<Vec<File>> {
        self.files.iter().map(|file| file.try_clone().map_err(|e| Error::read(&self.path, e))).collect()
    }

    /// Reads a tensor of `n` numbers that belongs to the config rather than to the weights.
    pub fn small(&self, name: &str, n: usize) -> Result<Vec<f64>> {
        let entries = self.entries.clone();
        let store = Store::new(&self.path, self.files()?, entries, Device::Cpu, &Progress::new());
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
