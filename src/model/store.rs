//! The named tensors of a model's files: an index of where each one lies, and reading them, as they are stored or into
//! f32.
//!
//! Tensors are read in strips of rows, and checked, converted and transposed on all threads, so that memory beyond the
//! result stays at a few MB. Files are read at positions and not mapped into memory: a file that shrinks meanwhile is
//! then an error and not a crash, and memory that the system counts as this program's is all that it needs.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::changes::Change;
use super::dequantize::{Stored, decode};
use super::matrix::{Held, Rows, words_of};
use crate::error::{Error, Result, short};
use crate::memory::{self, afford, available};
use crate::progress::Progress;

/// The place of one tensor in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub file: usize,
    pub stored: Stored,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    pub offset: u64,
    /// GGUF stores the rows of q and k interleaved, for rotary pairs side by side. This is the number of heads whose
    /// rows are put back into halves.
    pub interleaved_heads: Option<usize>,
    /// What is done to the values, in this order.
    pub changes: Vec<Arc<Change>>,
    /// The row of the whole tensor that lies at `offset`.
    pub first_row: usize,
}

impl Entry {
    pub fn new(file: usize, stored: Stored, shape: Vec<usize>, offset: u64) -> Self {
        Self { file, stored, shape, offset, interleaved_heads: None, changes: Vec::new(), first_row: 0 }
    }
}

/// A tensor's name and shape.
pub type Named = (String, Vec<usize>);

/// The tensors of a model folder or file.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    family: String,
    files: Vec<File>,
    entries: BTreeMap<String, Entry>,
    device: Device,
    progress: Progress,
    warnings: Mutex<Vec<String>>,
    /// The tensors that a store without files was asked for; `None` for stores of files.
    imagined: Option<Mutex<Vec<Named>>>,
    /// Tensors whose type is not read, with its name.
    unread: BTreeMap<String, String>,
    /// The tensors that were asked for.
    used: Mutex<HashSet<String>>,
    /// How the rows of weight matrices are held.
    held: Held,
    /// Weight matrices are not read.
    hollow: bool,
}

/// Modules of larger models (of images and text) that hold a language model: none, and those of LLaVA and Gemma 3 as
/// they were saved at first and later, and Idefics 3.
const MODULES: [&str; 5] = ["", "language_model.", "model.language_model.", "model.text_model.", "text_model."];

/// Decoded bytes of a strip: large enough that reading is efficient, small enough for the second-level cache.
const STRIP_VALUES: usize = 128 * 1024;

impl Store {
    pub fn new(
        root: &Path,
        files: Vec<File>,
        entries: BTreeMap<String, Entry>,
        device: Device,
        progress: &Progress,
    ) -> Self {
        progress.expect(entries.values().map(|e| e.shape.iter().product::<usize>() as u64).sum());
        Self {
            root: root.to_owned(),
            family: String::new(),
            files,
            entries,
            device,
            progress: progress.clone(),
            warnings: Mutex::default(),
            imagined: None,
            unread: BTreeMap::new(),
            used: Mutex::default(),
            held: Held::F32,
            hollow: false,
        }
    }

    /// A store that holds every tensor that it is asked for, all of them zero, and remembers which those were.
    pub fn imagined(root: &Path) -> Self {
        let store = Self::new(root, Vec::new(), BTreeMap::new(), Device::Cpu, &Progress::new());
        Self { imagined: Some(Mutex::default()), hollow: true, ..store }
    }

    /// Names and shapes of the tensors that an imagined store was asked for.
    pub fn asked(&self) -> Vec<Named> {
        self.imagined.as_ref().map_or_else(Vec::new, |a| a.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Sets the tensors whose type is not read, to name it where one of them is needed.
    #[must_use]
    pub fn with_unread(mut self, unread: BTreeMap<String, String>) -> Self {
        self.unread = unread;
        self
    }

    /// Sets how weight matrices are held.
    ///
    /// # Errors
    /// They would not fit in memory.
    pub fn holding(mut self, held: Held) -> Result<Self> {
        let values: u64 = self.entries.values().map(|e| e.shape.iter().product::<usize>() as u64).sum();
        self.held = held.decided(4 * values, available());
        if !self.hollow {
            let name = self.root.file_name().unwrap_or(self.root.as_os_str());
            let what = format!("the weights of {}", short(&name.to_string_lossy()));
            let (bytes, instead) = match self.held {
                Held::Stored => (self.stored_bytes(), "take a file of fewer bits".to_owned()),
                _ => (4 * values, format!("as stored (--weights stored) it is {}", memory::bytes(self.stored_bytes()))),
            };
            afford(usize::try_from(bytes).unwrap_or(usize::MAX), &what, &instead)?;
        }
        Ok(self)
    }

    /// Leaves weight matrices out, and knows their sizes alone.
    #[must_use]
    pub fn hollow(mut self, hollow: bool) -> Self {
        self.hollow |= hollow;
        self
    }

    /// Returns the bytes of all tensors as they are stored.
    pub fn stored_bytes(&self) -> u64 {
        let bytes = |e: &Entry| e.stored.bytes(e.shape.iter().product()).unwrap_or(0) as u64;
        self.entries.values().map(bytes).sum()
    }

    /// Returns how weight matrices are held: never `Auto`.
    pub fn held(&self) -> Held {
        self.held
    }

    /// Sets the family's name, for error messages.
    pub fn for_family(mut self, family: &str) -> Self {
        family.clone_into(&mut self.family);
        self
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Returns the module in which the language model lies and the first of `prefixes` in it under which `name` exists.
    /// Models are saved with and without the outer module's name, and as a part of larger models.
    pub fn place<'a>(&self, prefixes: &[&'a str], name: &str) -> (&'static str, &'a str) {
        let within = |outer: &'static str| {
            prefixes.iter().copied().find(|p| self.contains(&format!("{outer}{p}{name}"))).map(|p| (outer, p))
        };
        MODULES.into_iter().find_map(within).unwrap_or(("", prefixes[0]))
    }

    fn entry(&self, name: &str, expected: &[usize]) -> Result<Entry> {
        if let Some(asked) = &self.imagined {
            asked.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), expected.to_vec()));
            let shape = expected.to_vec();
            return Ok(Entry::new(0, Stored::F32, shape, 0));
        }
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        if entry.shape != expected {
            return Err(Error::WrongShape {
                name: name.to_owned(),
                found: entry.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(entry.clone())
    }

    /// The error for a tensor that is not there, or not in a way that can be read.
    fn missing(&self, name: &str) -> Error {
        // A weight in few bits is several tensors, with other ends of the name.
        let stem = name.strip_suffix("weight").unwrap_or(name);
        let packed = || self.unread.iter().find(|(other, _)| stem.ends_with('.') && other.starts_with(stem));
        let unread = self.unread.get_key_value(name).or_else(packed);
        match unread {
            Some((other, dtype)) => {
                let read: Vec<&str> =
                    Stored::DTYPES.iter().map(|(_, name)| *name).filter(|name| *name != "I8").collect();
                Error::Unopenable {
                    path: self.root.clone(),
                    what: format!(
                        "tensor `{}` is stored as {dtype}, which is not implemented; take the same model in one of the \
                         types that are: {}, and I8 with scales",
                        short(other),
                        read.join(", ")
                    ),
                }
            }
            None => {
                Error::MissingTensor { path: self.root.clone(), name: name.to_owned(), family: self.family.clone() }
            }
        }
    }

    /// The warning about tensors that no weight used, where there are any.
    pub fn unused(&self) -> Option<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<&String> = self
            .entries
            .iter()
            .filter(|(name, entry)| !used.contains(*name) && !is_harmless(name, entry))
            .map(|(name, _)| name)
            .chain(self.unread.keys().filter(|name| !is_buffer(name) && !is_mask(name)))
            .collect();
        let of = |n: usize| {
            if n == 1 { "One tensor of the file is".to_owned() } else { format!("{n} tensors of the files are") }
        };
        let first = left.first()?;
        Some(format!(
            "{} used by no weight of the model ({}{}); if the model needs {}, the numbers are wrong.",
            of(left.len()),
            format_args!("`{}`", short(first)),
            if left.len() > 1 { " and others" } else { "" },
            if left.len() > 1 { "them" } else { "it" },
        ))
    }

    /// Reads a vector [n].
    pub fn vector(&self, name: &str, n: usize) -> Result<Tensor> {
        let entry = self.entry(name, &[n])?;
        // Interleaving is by rows.
        let (rows, cols) = if entry.interleaved_heads.is_some() { (n, 1) } else { (1, n) };
        let values = self.read_rows(name, &entry, rows, cols, false)?;
        Ok(Tensor::from_vec(values, n, &self.device)?)
    }

    /// Reads a tensor without axes as a vector [1].
    pub fn scalar(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name, &[])?;
        Ok(Tensor::from_vec(self.read_rows(name, &entry, 1, 1, false)?, 1, &self.device)?)
    }

    /// Reads a matrix as it is stored, [rows, cols].
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Tensor> {
        let entry = self.entry(name, &[rows, cols])?;
        let values = self.read_rows(name, &entry, rows, cols, false)?;
        Ok(Tensor::from_vec(values, (rows, cols), &self.device)?)
    }

    /// Reads a weight matrix of `rows` rows of `cols` values to hold it: as it is stored, or as f32. `by_output` says
    /// that a row belongs to an output.
    pub fn rows(&self, name: &str, rows: usize, cols: usize, by_output: bool) -> Result<Rows> {
        let entry = self.entry(name, &[rows, cols])?;
        self.held_rows(name, &entry, rows, cols, by_output)
    }

    /// Reads the matrices of `count` experts, `rows` rows of `cols` values each, one behind the other.
    pub fn experts(&self, name: &str, [count, rows, cols]: [usize; 3]) -> Result<Rows> {
        let entry = self.entry(name, &[count, rows, cols])?;
        self.no_changes(name, &entry)?;
        self.held_rows(name, &entry, count * rows, cols, true)
    }

    fn held_rows(&self, name: &str, entry: &Entry, rows: usize, cols: usize, by_output: bool) -> Result<Rows> {
        if self.hollow {
            self.row_bytes(name, entry, cols)?;
            let stored = if self.held == Held::Stored { entry.stored } else { Stored::F32 };
            return Ok(Rows::new(Vec::new(), stored, [rows, cols], by_output));
        }
        if self.held != Held::Stored || entry.stored == Stored::F32 {
            let values = self.read_rows(name, entry, rows, cols, false)?;
            return Ok(Rows::new(values, Stored::F32, [rows, cols], by_output));
        }
        let row_bytes = self.row_bytes(name, entry, cols)?;
        let mut words = words_of(rows * row_bytes);
        let strip = strip(rows, cols);
        let bytes = &mut bytemuck::cast_slice_mut::<f32, u8>(&mut words)[..rows * row_bytes];
        bytes.par_chunks_mut((strip * row_bytes).max(1)).enumerate().try_for_each(|(s, bytes)| -> Result<()> {
            let (first, n) = (s * strip, bytes.len() / row_bytes);
            self.read_strip(entry, first..first + n, rows, bytes)?;
            let mut values = vec![0f32; n * cols];
            decode(entry.stored, bytes, &mut values);
            self.finite(name, &values)?;
            self.progress.step((n * cols) as u64)
        })?;
        Ok(Rows::new(words, entry.stored, [rows, cols], by_output).changed(entry.changes.clone()))
    }

    /// True where two tensors of one shape hold other numbers. They are compared in pieces.
    pub fn differ(&self, a: &str, b: &str, shape: &[usize]) -> Result<bool> {
        let cols: usize = shape[1..].iter().product();
        let rows = (STRIP_VALUES * 16 / cols.max(1)).clamp(1, shape[0].max(1));
        for from in (0..shape[0]).step_by(rows) {
            let n = rows.min(shape[0] - from);
            if self.leading(a, shape, from, n)? != self.leading(b, shape, from, n)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes what a reader of the model's numbers has to know.
    pub fn warn(&self, sentence: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Reads `count` slices of a tensor's outermost axis, one behind the other.
    pub fn leading(&self, name: &str, shape: &[usize], from: usize, count: usize) -> Result<Vec<f32>> {
        let entry = self.entry(name, shape)?;
        let cols: usize = shape[1..].iter().product();
        if from.checked_add(count).is_none_or(|end| end > shape[0]) {
            return Err(Error::request(format!("`{name}` has {} rows, not a {}th", shape[0], from + count)));
        }
        let bytes = entry.stored.bytes(cols).unwrap_or(0);
        self.no_changes(name, &entry)?;
        let entry = Entry { offset: entry.offset + (from * bytes) as u64, first_row: from, ..entry };
        self.read_rows(name, &entry, count, cols, false)
    }

    /// Reads the weight of a linear layer, which is stored as [output, input], and returns it as [input, output].
    pub fn linear(&self, name: &str, input: usize, output: usize) -> Result<Tensor> {
        let entry = self.entry(name, &[output, input])?;
        let values = self.read_rows(name, &entry, output, input, true)?;
        Ok(Tensor::from_vec(values, (input, output), &self.device)?)
    }

    /// # Errors
    /// A tensor of more than two axes has changes.
    fn no_changes(&self, name: &str, entry: &Entry) -> Result<()> {
        if entry.shape.len() > 2 && !entry.changes.is_empty() {
            let axes = entry.shape.len();
            return Err(Error::failed(format!("`{name}` has scales or an adapter on {axes} axes; two are read")));
        }
        Ok(())
    }

    fn row_bytes(&self, name: &str, entry: &Entry, cols: usize) -> Result<usize> {
        entry.stored.bytes(cols).ok_or_else(|| Error::Malformed {
            path: self.root.clone(),
            format: "tensor",
            what: format!("`{name}` has rows of {cols} values, not a whole number of {} blocks", entry.stored.name()),
        })
    }

    /// Reads the bytes of some of a tensor's `rows` rows, in the order in which rows are held.
    fn read_strip(&self, entry: &Entry, some: Range<usize>, rows: usize, bytes: &mut [u8]) -> Result<()> {
        let file = &self.files[entry.file];
        let row_bytes = bytes.len() / some.len().max(1);
        let Some(heads) = entry.interleaved_heads else {
            return self.read_at(file, bytes, entry.offset + (some.start * row_bytes) as u64);
        };
        for (row, slot) in some.zip(bytes.chunks_exact_mut(row_bytes.max(1))) {
            let at = interleaved_row(row, rows / heads);
            self.read_at(file, slot, entry.offset + (at * row_bytes) as u64)?;
        }
        Ok(())
    }

    fn read_rows(&self, name: &str, entry: &Entry, rows: usize, cols: usize, transpose: bool) -> Result<Vec<f32>> {
        let row_bytes = self.row_bytes(name, entry, cols)?;
        let mut out = vec![0f32; rows * cols];
        if self.imagined.is_some() {
            return Ok(out);
        }
        let target = Target(out.as_mut_ptr());
        let strip = strip(rows, cols);
        (0..rows.div_ceil(strip)).into_par_iter().try_for_each(|s| -> Result<()> {
            let first = s * strip;
            let n = strip.min(rows - first);
            let mut bytes = vec![0u8; n * row_bytes];
            self.read_strip(entry, first..first + n, rows, &mut bytes)?;
            let mut values = vec![0f32; n * cols];
            decode(entry.stored, &bytes, &mut values);
            for change in &entry.changes {
                change.apply(entry.first_row + first, cols, &mut values);
            }
            self.finite(name, &values)?;
            let target = &target;
            if transpose {
                for c in 0..cols {
                    for r in 0..n {
                        // SAFETY: column `first + r` of the result belongs to this strip alone, and
                        // c < cols, first + r < rows keep the index below rows * cols.
                        unsafe { *target.0.add(c * rows + first + r) = values[r * cols + c] };
                    }
                }
            } else {
                // SAFETY: rows first..first + n belong to this strip alone and lie inside the result.
                unsafe {
                    std::ptr::copy_nonoverlapping(values.as_ptr(), target.0.add(first * cols), n * cols);
                }
            }
            self.progress.step((n * cols) as u64)
        })?;
        Ok(out)
    }

    /// # Errors
    /// A value is NaN or infinite.
    fn finite(&self, name: &str, values: &[f32]) -> Result<()> {
        // 0 · v is 0 for every value but NaN and infinity, so that the sum finds those.
        if values.iter().map(|v| v * 0.0).sum::<f32>() != 0.0 {
            return Err(Error::NotFinite { path: Some(self.root.clone()), name: name.to_owned() });
        }
        Ok(())
    }

    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(file, bytes, offset).map_err(|source| Error::read(&self.root, source))
    }
}

/// The rows of a strip: 16 or more, so that each transposed write fills a cache line.
fn strip(rows: usize, cols: usize) -> usize {
    (STRIP_VALUES / cols.max(1)).clamp(16, 4096).min(rows.max(1))
}

/// Whether a tensor is a buffer that old exports hold: a table or a mask that is computed here.
fn is_buffer(name: &str) -> bool {
    const ENDS: [&str; 8] = [
        "rotary_emb.inv_freq",
        "rotary_pos_emb.inv_freq",
        "masked_bias",
        "position_ids",
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
        "num_batches_tracked",
        "embed_positions.weights",
    ];
    ENDS.iter().any(|end| name.ends_with(end))
}

/// Whether a tensor is called like the causal mask of old exports. A bias has one axis, a mask four.
fn is_mask(name: &str) -> bool {
    name.ends_with("attn.bias") || name.ends_with("attention.bias")
}

/// Whether a tensor that no weight uses says nothing: a buffer, a causal mask, the scales of activations in 8 bits, or
/// the unembedding of a model that has it tied (of which is said elsewhere where it differs).
fn is_harmless(name: &str, entry: &Entry) -> bool {
    let mask = is_mask(name) && entry.shape.len() != 1;
    let activations = ["input_scale", "k_scale", "v_scale", "output_scale", "activation_scale"];
    let tables = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
    is_buffer(name)
        || mask
        || activations.iter().any(|end| name.ends_with(end))
        || tables.contains(&name)
        || name == "output.weight"
        || ["lm_head.weight", "embed_out.weight"].iter().any(|n| name == *n || name.ends_with(&format!(".{n}")))
}

/// Returns where row `r` of a q or k weight in halves order lies in GGUF's interleaved order. Row (head, half s, index
/// j) is stored at (head, j, s).
fn interleaved_row(r: usize, d_head: usize) -> usize {
    let (head, within) = (r / d_head, r % d_head);
    let (s, j) = (within / (d_head / 2), within % (d_head / 2));
    head * d_head + 2 * j + s
}

struct Target(*mut f32);
// SAFETY: the strips that share this pointer write disjoint elements (see `read_rows`).
unsafe impl Sync for Target {}

#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let n = file.seek_read(bytes, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_of_one_head_of_four() {
        // Halves order is (a0 a1 b0 b1); GGUF stores the pairs side by side: a0 b0 a1 b1.
        assert_eq!((0..4).map(|r| interleaved_row(r, 4)).collect::<Vec<_>>(), [0, 2, 1, 3]);
        assert_eq!(interleaved_row(5, 4), 4 + 2);
    }
}
