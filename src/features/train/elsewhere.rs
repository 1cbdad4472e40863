//! Activations in files: harvested here, or captured by other programs. Read are
//!
//! - safetensors with tensors by TransformerLens' names of sites, [.., pos, width] (a head's numbers may be an axis of their
//!   own, as `hook_z` has it), as `circuitscope run --capture`, nnsight and TransformerLens scripts write them; or with one
//!   tensor [n, width] of whatever name;
//! - the folder that SAELens' `CacheActivationsRunner` writes: a Hugging Face dataset in Arrow files with a column
//!   [context, d_in] by its hook's name.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::DataType;
use candle_core::Device;
use serde_json::Value;

use super::activations::Table;
use super::harvest_file;
use crate::engine::Axis;
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::files::{SMALL, read_text, scratch_file, scratch_folder};
use crate::guard::guarded;
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::dequantize::Stored;
use crate::model::safetensors_file::{self, Index};
use crate::model::store::Store;
use crate::progress::Progress;
use crate::question::Question;
use crate::shard::{hex, whole};

const FORMAT: &str = "activations";
/// What a Hugging Face dataset on the disk says of its files.
const STATE: &str = "state.json";
/// What is wrong where a text has no second position.
const ALONE: &str = "its texts have one position each, which is a first one (--include-first keeps it)";
/// A column of token ids, beside the activations.
const TOKENS: &str = "token_ids";

/// Activations of one or more places.
pub struct Captured {
    path: PathBuf,
    /// Whose they are, where that is known, and a hash of its weights.
    pub model: Option<String>,
    pub model_hash: Option<String>,
    /// The model that they are taken for.
    config: Option<ModelConfig>,
    /// Positions that are read at most.
    most: usize,
    held: Held,
}

enum Held {
    Tensors(Index),
    /// The columns of a dataset, and its files.
    Columns(Vec<String>, Vec<PathBuf>),
}

impl Captured {
    /// Looks what a file or folder holds.
    ///
    /// # Errors
    /// It holds no activations, or a part of a harvest.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return dataset(path);
        }
        let index = safetensors_file::index(&[path.to_owned()])?;
        let about = harvest_file::about(path).ok();
        if let Some(about) = &about {
            whole(path, about)?;
        }
        let (model, model_hash) = about.map(|a| (a.model, a.shard.model_hash)).unzip();
        Ok(Self {
            path: path.to_owned(),
            model,
            model_hash,
            config: None,
            most: usize::MAX,
            held: Held::Tensors(index),
        })
    }

    /// Only so many positions are read, the first ones.
    pub fn first(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The same as a model's: what does not say whose it is is taken for that model's, as far as its vectors are as wide.
    ///
    /// # Errors
    /// They are another model's.
    pub fn of(self, model: &Model) -> Result<Self> {
        let (own, config) = (hex(model.fingerprint()?), &model.config);
        match (&self.model, &self.model_hash) {
            (Some(name), Some(hash)) if *hash != own => Err(Error::request(format!(
                "{} holds activations of {name}, and {} with other weights is open; open that model",
                self.path.display(),
                config.name
            ))),
            _ => Ok(Self { model: Some(config.name.clone()), config: Some(config.clone()), ..self }),
        }
    }

    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), format: FORMAT, what: what.into() }
    }

    fn names(&self) -> Vec<&String> {
        match &self.held {
            Held::Tensors(index) => index.entries.keys().collect(),
            Held::Columns(names, _) => names.iter().collect(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The places by whose names something is in it.
    pub fn places(&self) -> Vec<Place> {
        self.names().into_iter().filter_map(|name| Place::parse(name).ok()).collect()
    }

    /// The activations of a place. What has no site's name is any place's if it is alone. With `skip_first` the first
    /// position of each text is left out, where the shape shows which it is: [text, pos, width].
    ///
    /// # Errors
    /// It is not in it, or is of another shape.
    pub fn table(&self, place: Place, skip_first: bool) -> Result<Table> {
        let names = self.names();
        let named = names.iter().find(|name| Place::parse(name).is_ok_and(|p| p == place));
        let name = match (named, &names[..]) {
            (Some(name), _) => *name,
            (None, [only]) if Place::parse(only).is_err() => *only,
            _ => {
                if names.is_empty() {
                    let what = "no tensor in it is stored as floats (f16, bf16, f32 or f64)";
                    return Err(self.malformed(what));
                }
                let there: Vec<&str> = names.iter().map(|n| n.as_str()).take(4).collect();
                let more = names.len().saturating_sub(there.len());
                let more = if more > 0 { format!(" and {more} others") } else { String::new() };
                return Err(Error::request(format!(
                    "{} holds nothing at {place}; there are {}{more}",
                    self.path.display(),
                    there.join(", ")
                )));
            }
        };
        self.named(name, place, skip_first)
    }

    /// What a dictionary reads here: the only activations that there are, or else those of its place.
    ///
    /// # Errors
    /// They are of another place, or of several of which none is its own, or no place is known.
    pub fn only(&self, place: Option<Place>) -> Result<Table> {
        match (&self.names()[..], place) {
            ([name], _) => {
                let found = Place::parse(name).ok();
                if let Some((found, place)) = found.zip(place).filter(|(found, place)| found != place) {
                    return Err(Error::request(format!(
                        "{} holds activations at {found}, and the dictionary reads {place}; capture that site, or name \
                         {found} as the dictionary's (--site)",
                        self.path.display()
                    )));
                }
                self.named(name, found.or(place).unwrap_or_else(|| Place::mlp_input(0)), false)
            }
            (_, Some(place)) => self.table(place, false),
            (names, None) => Err(Error::request(format!(
                "{} holds {} sites, and the dictionary does not say which it reads; name it with --site",
                self.path.display(),
                names.len()
            ))),
        }
    }

    fn named(&self, name: &str, place: Place, skip_first: bool) -> Result<Table> {
        if !has_vectors(place) {
            return Err(Error::request(format!(
                "{place} has no vector at each position, so that no dictionary reads it; name another site"
            )));
        }
        let table = match &self.held {
            Held::Tensors(index) => self.tensor(index, name, place, skip_first)?,
            Held::Columns(_, files) => self.column(files, name, skip_first)?,
        };
        let width = self.config.as_ref().map_or(table.width(), |c| place.width(c));
        if table.width() != width {
            return Err(Error::request(format!(
                "{} holds vectors of {} numbers at {place}, where the model has {width}; it is another model's",
                self.path.display(),
                table.width()
            )));
        }
        Ok(table)
    }

    fn tensor(&self, index: &Index, name: &str, place: Place, skip_first: bool) -> Result<Table> {
        let entry = index.entries.get(name).ok_or_else(|| self.malformed(format!("it has no tensor `{name}`")))?;
        let shape = &entry.shape;
        // What stands behind the position is one vector; a matrix is taken as [n, width] whatever the site.
        let inner = if shape.len() == 2 { 1 } else { place.site.kind.axes().len().saturating_sub(1).max(1) };
        let (outer, inner) = shape.split_at(shape.len().saturating_sub(inner));
        let (n, d) = (outer.iter().product::<usize>(), inner.iter().product::<usize>());
        if n == 0 || d == 0 || outer.is_empty() || inner.is_empty() {
            return Err(self.malformed(format!("tensor `{name}` of shape {shape:?} holds no vector at each position")));
        }
        // The rows of a text, of which the first is left out; 0 where no text can be told from the next.
        let context = if skip_first && outer.len() > 1 { outer[outer.len() - 1] } else { 0 };
        if context == 1 {
            return Err(self.malformed(ALONE));
        }
        let n = n.min(self.most);
        let file = index.files.first().ok_or_else(|| self.malformed("it cannot be opened"))?;
        let file = file.try_clone().map_err(|e| Error::read(&self.path, e))?;
        if matches!(entry.stored, Stored::F32) {
            return Ok(Table::File { d, rows: n, context, file, offset: entry.offset, path: self.path.clone() });
        }
        let mut entry = entry.clone();
        entry.shape = vec![n, d];
        let entries = std::iter::once((name.to_owned(), entry)).collect();
        let store = Store::new(&self.path, vec![file], entries, Device::Cpu, &Progress::new());
        let mut values: Vec<f32> = store.matrix(name, n, d)?.flatten_all()?.to_vec1()?;
        if context > 0 {
            values = values.chunks_exact(context * d).flat_map(|text| &text[d..]).copied().collect();
        }
        Ok(Table::Memory { d, values })
    }

    /// A column of all files, one behind the other, in a file without a name.
    fn column(&self, files: &[PathBuf], name: &str, skip_first: bool) -> Result<Table> {
        let failed = |e| Error::write(scratch_folder(), e);
        let out = BufWriter::with_capacity(1 << 20, scratch_file()?);
        let mut into = Written { out, width: 0, rows: 0, skip_first };
        let most = self.most;
        for path in files {
            if into.rows >= most {
                break;
            }
            let malformed = |what: String| Error::Malformed { path: path.clone(), format: FORMAT, what };
            let (file, size) = sized(path)?;
            let column = name.to_owned();
            let read = guarded(size, move || vectors(file, &column, into, most));
            into = read.unwrap_or_else(|fault| Err(fault.to_string())).map_err(malformed)?;
        }
        let Written { out, width, rows, .. } = into;
        if rows == 0 {
            let alone = if skip_first { format!(", or {ALONE}") } else { String::new() };
            return Err(self.malformed(format!("column `{name}` is empty{alone}")));
        }
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        Ok(Table::File { d: width, rows, context: 0, file, offset: 0, path: self.path.clone() })
    }
}

/// Whether a place has a vector at each position: patterns and scores belong to two, and a scale is no vector.
fn has_vectors(place: Place) -> bool {
    let axes = place.site.kind.axes();
    axes.first() == Some(&Axis::Pos) && axes.last() != Some(&Axis::One)
}

/// Asks at which of a model's sites captured activations have vectors.
#[derive(Clone, PartialEq)]
pub struct CapturedPlacesOf {
    pub model: Arc<Model>,
    pub path: PathBuf,
}

impl Question for CapturedPlacesOf {
    type Answer = Vec<Place>;

    const LABEL: &'static str = "looking at captured activations";

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Vec<Place>)) -> Result<Vec<Place>> {
        let file = Captured::open(&self.path)?.of(&self.model)?;
        let there: Vec<Place> = file.places().into_iter().filter(|p| has_vectors(*p)).collect();
        let places: Vec<Place> = there.iter().copied().filter(|p| p.check(&self.model.config).is_ok()).collect();
        if places.is_empty() {
            return Err(Error::request(format!(
                "{} holds no vectors at sites that {} has; capture hook_resid_post, hook_z or an MLP's input and output",
                self.path.display(),
                self.model.config.name
            )));
        }
        Ok(places)
    }
}

/// The places of captured activations, where a path that may be a model's holds them.
pub fn dropped(path: &Path) -> Option<Vec<Place>> {
    let is_file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let places = (is_file || path.join(STATE).is_file()).then(|| Captured::open(path).ok())??.places();
    (!places.is_empty()).then_some(places)
}

fn sized(path: &Path) -> Result<(File, usize)> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let size = file.metadata().map_or(0, |m| m.len() as usize);
    Ok((file, size))
}

/// A Hugging Face dataset on the disk.
fn dataset(folder: &Path) -> Result<Captured> {
    let state = folder.join(STATE);
    let malformed = |what: String| Error::Malformed { path: folder.to_owned(), format: FORMAT, what };
    if !state.is_file() {
        return Err(malformed(format!("it has no {STATE}, which SAELens' cached activations have")));
    }
    let state: Value =
        serde_json::from_str(&read_text(&state, SMALL)?).map_err(|e| malformed(format!("{STATE}: {e}")))?;
    let names = state["_data_files"].as_array().map(|list| list.iter().map(|f| f["filename"].as_str()));
    let names: Option<Vec<&str>> = names.and_then(Iterator::collect);
    // A path could lead out of the folder.
    let plain = |n: &&str| Path::new(n).file_name().is_some_and(|f| f == *n);
    let Some(names) = names.filter(|names| !names.is_empty() && names.iter().all(plain)) else {
        return Err(malformed(format!("{STATE} names no files in `_data_files`")));
    };
    let files: Vec<PathBuf> = names.iter().map(|n| folder.join(n)).collect();
    let first = &files[0];
    let (file, size) = sized(first)?;
    let columns = guarded(size, move || {
        let reader = StreamReader::try_new(BufReader::new(file), None).ok()?;
        let is_matrix = |t: &DataType| matches!(inner(t), Some(t) if inner(t).is_some());
        let schema = reader.schema();
        let columns = schema.fields().iter().filter(|f| f.name() != TOKENS && is_matrix(f.data_type()));
        Some(columns.map(|f| f.name().clone()).collect::<Vec<_>>())
    });
    let columns = columns.ok().flatten().unwrap_or_default();
    if columns.is_empty() {
        let what = "it has no column of activations [context, d_in]".to_owned();
        return Err(Error::Malformed { path: first.clone(), format: FORMAT, what });
    }
    let held = Held::Columns(columns, files);
    Ok(Captured { path: folder.to_owned(), model: None, model_hash: None, config: None, most: usize::MAX, held })
}

/// What a list holds.
fn inner(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

/// The values of lists, all of them, and the length of each list, if all have the same.
fn unlisted(column: &ArrayRef) -> std::result::Result<(usize, ArrayRef), String> {
    let same = |mut lengths: Box<dyn Iterator<Item = usize>>| -> std::result::Result<usize, String> {
        let first = lengths.next().unwrap_or(0);
        if lengths.all(|n| n == first) { Ok(first) } else { Err("its vectors differ in length".to_owned()) }
    };
    if column.null_count() > 0 {
        return Err("a vector is absent".to_owned());
    }
    match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let bounds = list.value_offsets().to_vec();
            let (from, to) = (bounds.first().copied().unwrap_or(0), bounds.last().copied().unwrap_or(0));
            let lengths = bounds.windows(2).map(|w| (w[1] - w[0]) as usize).collect::<Vec<_>>();
            Ok((same(Box::new(lengths.into_iter()))?, list.values().slice(from as usize, (to - from) as usize)))
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            let bounds = list.value_offsets().to_vec();
            let (from, to) = (bounds.first().copied().unwrap_or(0), bounds.last().copied().unwrap_or(0));
            let lengths = bounds.windows(2).map(|w| (w[1] - w[0]) as usize).collect::<Vec<_>>();
            Ok((same(Box::new(lengths.into_iter()))?, list.values().slice(from as usize, (to - from) as usize)))
        }
        DataType::FixedSizeList(_, n) => {
            let list = column.as_fixed_size_list();
            let n = usize::try_from(*n).unwrap_or(0);
            Ok((n, list.values().slice(list.offset() * n, list.len() * n)))
        }
        _ => Err("it is no list of vectors".to_owned()),
    }
}

fn numbers(values: &ArrayRef) -> std::result::Result<Vec<f32>, String> {
    if values.null_count() > 0 {
        return Err("a number is absent".to_owned());
    }
    match values.data_type() {
        DataType::Float32 => Ok(values.as_primitive::<Float32Type>().values().to_vec()),
        DataType::Float16 => Ok(values.as_primitive::<Float16Type>().values().iter().map(|v| v.to_f32()).collect()),
        DataType::Float64 => Ok(values.as_primitive::<Float64Type>().values().iter().map(|v| *v as f32).collect()),
        other => Err(format!("its numbers are stored as {other}; give float32, float16 or float64")),
    }
}

/// Where a column's vectors go, and how many there are.
struct Written {
    out: BufWriter<File>,
    width: usize,
    rows: usize,
    skip_first: bool,
}

impl Written {
    /// The vectors of texts of `context` positions each, in f32.
    fn add(&mut self, context: usize, d: usize, values: &[f32], name: &str) -> std::result::Result<(), String> {
        if d == 0 || (self.width != 0 && d != self.width) {
            return Err(format!("column `{name}` holds vectors of {d} numbers and of {}", self.width));
        }
        self.width = d;
        let skipped = if self.skip_first { d } else { 0 };
        for text in values.chunks(context.max(1) * d) {
            let kept = text.get(skipped..).unwrap_or_default();
            self.rows += kept.len() / d;
            self.out
                .write_all(bytemuck::cast_slice(kept))
                .map_err(|e| format!("its numbers cannot be written to {} ({e})", scratch_folder().display()))?;
        }
        Ok(())
    }
}

/// Writes a column's vectors batch by batch, until there are `most` or more: a cache of activations is larger than the memory.
fn vectors(file: File, name: &str, mut into: Written, most: usize) -> std::result::Result<Written, String> {
    let cut = |_| "it is no complete Arrow file".to_owned();
    let reader = StreamReader::try_new(BufReader::new(file), None).map_err(cut)?;
    for batch in reader {
        if into.rows >= most {
            break;
        }
        let batch: RecordBatch = batch.map_err(cut)?;
        let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
        let (context, rows) = unlisted(column)?;
        let (d, values) = unlisted(&rows)?;
        let values = numbers(&values)?;
        if !values.is_empty() {
            into.add(context, d, &values, name)?;
        }
    }
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/activations").join(name)
    }

    /// As `tests/activations/make.py` has them: row + pos/4 + i/16.
    fn expected(rows: usize) -> Vec<f32> {
        let all = (0..rows).flat_map(|r| (0..3).flat_map(move |p| (0..4).map(move |i| (r, p, i))));
        all.map(|(r, p, i)| r as f32 + p as f32 / 4.0 + i as f32 / 16.0).collect()
    }

    fn values(table: &Table) -> Vec<f32> {
        table.take(&(0..table.rows()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_others_captured_is_read() {
        let place = |name: &str| Place::parse(name).unwrap();
        let file = Captured::open(&fixture("sae-lens")).unwrap();
        assert_eq!((file.places(), file.model.as_deref()), (vec![place("blocks.1.hook_mlp_out")], None));
        let table = file.table(place("blocks.1.hook_mlp_out"), false).unwrap();
        assert_eq!((table.rows(), table.width(), values(&table)), (15, 4, expected(5)));
        // Of each text of three positions two are left.
        let later = |all: Vec<f32>| all.chunks(12).flat_map(|text| text[4..].to_vec()).collect::<Vec<_>>();
        let table = file.table(place("blocks.1.hook_mlp_out"), true).unwrap();
        assert_eq!((table.rows(), values(&table)), (10, later(expected(5))));
        assert_eq!(values(&file.only(None).unwrap()), expected(5));
        let file = Captured::open(&fixture("transformer-lens.safetensors")).unwrap();
        // Of halves, and with an axis of heads.
        for (name, width) in [("blocks.0.hook_resid_pre", 4), ("blocks.0.attn.hook_z", 4)] {
            let table = file.table(place(name), false).unwrap();
            assert_eq!((table.rows(), table.width(), values(&table)), (6, width, expected(2)), "{name}");
            let table = file.table(place(name), true).unwrap();
            assert_eq!((table.rows(), values(&table)), (4, later(expected(2))), "{name}");
        }
        let error = file.table(place("blocks.1.hook_resid_pre"), false).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("nothing at blocks.1.hook_resid_pre") && error.contains("blocks.0.attn.hook_z"),
            "{error}"
        );
        assert!(file.only(None).map(drop).unwrap_err().to_string().contains("--site"));
    }

    #[test]
    fn activations_of_another_site_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let save = |name: &str, shape: &[usize]| {
            let zeros = candle_core::Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            let bytes = safetensors_file::pack([(name, &zeros)], &[]).unwrap();
            crate::files::write_atomic(&path, &bytes).unwrap();
        };
        let only = |name: &str| Captured::open(&path).and_then(|f| f.only(Some(Place::parse(name).unwrap())));
        let error = |name: &str| only(name).map(drop).unwrap_err().to_string();
        save("blocks.0.hook_resid_pre", &[1, 5, 4]);
        assert_eq!(only("blocks.0.hook_resid_pre").unwrap().rows(), 5);
        let said = error("blocks.1.hook_resid_pre");
        assert!(
            said.contains("at blocks.0.hook_resid_pre") && said.contains("reads blocks.1.hook_resid_pre"),
            "{said}"
        );
        save("blocks.0.attn.hook_pattern", &[2, 5, 5]);
        let said = error("blocks.0.attn.hook_pattern");
        assert!(said.contains("no vector at each position"), "{said}");
        // A name of no site is of any.
        save("activations", &[5, 4]);
        assert_eq!(only("blocks.1.hook_resid_pre").unwrap().rows(), 5);
    }

    #[test]
    fn what_is_damaged_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| crate::files::write_atomic(&dir.path().join(name), bytes).unwrap();
        let error = || {
            let opened = Captured::open(dir.path());
            let read = opened.and_then(|f| f.only(None));
            read.map(drop).unwrap_err().to_string()
        };
        assert!(error().contains("no state.json"));
        write(STATE, b"{}");
        assert!(error().contains("names no files"));
        write(STATE, br#"{"_data_files": [{"filename": "../a.arrow"}]}"#);
        assert!(error().contains("names no files"));
        write(STATE, br#"{"_data_files": [{"filename": "a.arrow"}]}"#);
        assert!(error().contains("a.arrow"));
        let whole = crate::files::read(&fixture("sae-lens/data-00000-of-00002.arrow"), 1 << 20).unwrap();
        // Wherever it is cut or spoilt, there is a sentence or the numbers.
        for end in (0..whole.len()).step_by(97) {
            write("a.arrow", &whole[..end]);
            if let Err(e) = Captured::open(dir.path()).and_then(|f| f.only(None)) {
                assert!(e.to_string().len() <= 280);
            }
            let mut bytes = whole.clone();
            bytes[end] ^= 0x55;
            write("a.arrow", &bytes);
            if let Err(e) = Captured::open(dir.path()).and_then(|f| f.only(None)) {
                assert!(e.to_string().len() <= 280);
            }
        }
    }
}
