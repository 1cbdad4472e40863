//! The index of a scan as an Arrow IPC file (Feather version 2), which pandas, Polars, DuckDB and R read. One row a
//! feature:
//!
//! | column | type | what |
//! | --- | --- | --- |
//! | `feature` | uint32 | |
//! | `active` | uint64 | positions where it was active, each row's first left out |
//! | `sum`, `max` | float64, float32 | of its activations |
//! | `bin_width`, `histogram` | float32, list of uint64 | activations in bins of that width from zero |
//! | `top`, `sample` | list of struct | rows of text where it was most active; a random sample of each strength |
//! | `features`, `neurons` | list of struct {index: uint32, correlation: float32} | the most correlated features of its dictionary (or of the metadata's `features_of`) and neurons of its layer |
//!
//! An example is {value: float32, key, row, document, position, start: uint32, tokens: list of uint32, activations: list
//! of float32}. The schema's metadata `circuitscope` says in JSON what was scanned ([`About`]); a file whose `done` is
//! below its `batches` is a checkpoint. [`arrow_file`] says how a damaged one is told.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Float32Array, Float64Array, RecordBatch, StructArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Fields};

use crate::arrow_file::{self, Kind, column, list, lists};
use crate::error::{Error, Result};
use crate::features::scan::index::{About, BINS, Entry, Example, Histogram, Index};

pub const KIND: Kind = Kind { format: "a feature index", metadata: "circuitscope" };
/// Features of a record batch.
const BATCH: usize = 1024;

fn example_fields() -> Fields {
    let whole = |n: &str| column(n, DataType::UInt32);
    Fields::from(vec![
        column("value", DataType::Float32),
        whole("key"),
        whole("row"),
        whole("document"),
        whole("position"),
        whole("start"),
        list("tokens", DataType::UInt32),
        list("activations", DataType::Float32),
    ])
}

fn pair_fields() -> Fields {
    Fields::from(vec![column("index", DataType::UInt32), column("correlation", DataType::Float32)])
}

fn columns() -> Vec<Field> {
    vec![
        column("feature", DataType::UInt32),
        column("active", DataType::UInt64),
        column("sum", DataType::Float64),
        column("max", DataType::Float32),
        column("bin_width", DataType::Float32),
        list("histogram", DataType::UInt64),
        list("top", DataType::Struct(example_fields())),
        list("sample", DataType::Struct(example_fields())),
        list("features", DataType::Struct(pair_fields())),
        list("neurons", DataType::Struct(pair_fields())),
    ]
}

fn examples<'a>(lists_of: impl Iterator<Item = &'a [Example]> + Clone) -> ArrayRef {
    let all = || lists_of.clone().flatten();
    let whole = |get: fn(&Example) -> u32| Arc::new(all().map(get).collect::<UInt32Array>()) as ArrayRef;
    let tokens = Arc::new(all().flat_map(|e| e.tokens.iter().copied()).collect::<UInt32Array>()) as ArrayRef;
    let activations = Arc::new(all().flat_map(|e| e.activations.iter().copied()).collect::<Float32Array>()) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all().map(|e| e.value).collect::<Float32Array>()),
        whole(|e| e.key),
        whole(|e| e.row),
        whole(|e| e.document),
        whole(|e| e.position),
        whole(|e| e.start),
        lists(tokens, all().map(|e| e.tokens.len())),
        lists(activations, all().map(|e| e.activations.len())),
    ];
    let values = StructArray::new(example_fields(), columns, None);
    lists(Arc::new(values), lists_of.map(<[Example]>::len))
}

fn pairs<'a>(lists_of: impl Iterator<Item = &'a [(u32, f32)]> + Clone) -> ArrayRef {
    let all = || lists_of.clone().flatten();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all().map(|p| p.0).collect::<UInt32Array>()),
        Arc::new(all().map(|p| p.1).collect::<Float32Array>()),
    ];
    let values = StructArray::new(pair_fields(), columns, None);
    lists(Arc::new(values), lists_of.map(<[(u32, f32)]>::len))
}

fn batch(first: usize, entries: &[Entry]) -> Vec<ArrayRef> {
    let bins = Arc::new(entries.iter().flat_map(|e| e.histogram.bins.iter().copied()).collect::<UInt64Array>());
    vec![
        Arc::new((0..entries.len()).map(|i| (first + i) as u32).collect::<UInt32Array>()),
        Arc::new(entries.iter().map(|e| e.active).collect::<UInt64Array>()),
        Arc::new(entries.iter().map(|e| e.sum).collect::<Float64Array>()),
        Arc::new(entries.iter().map(|e| e.max).collect::<Float32Array>()),
        Arc::new(entries.iter().map(|e| e.histogram.width).collect::<Float32Array>()),
        lists(bins, entries.iter().map(|e| e.histogram.bins.len())),
        examples(entries.iter().map(|e| &e.top[..])),
        examples(entries.iter().map(|e| &e.sample[..])),
        pairs(entries.iter().map(|e| &e.features[..])),
        pairs(entries.iter().map(|e| &e.neurons[..])),
    ]
}

/// Writes an index beside `path` and renames it into place.
///
/// # Errors
/// A full disk or a folder that cannot be written; an earlier file then stands.
pub fn save(index: &Index, path: &Path) -> Result<()> {
    let batches = index.entries.chunks(BATCH).enumerate().map(|(i, entries)| batch(i * BATCH, entries));
    arrow_file::save(path, &KIND, columns(), &index.about, batches)
}

/// What an index is of, without reading it.
///
/// # Errors
/// A file that is none.
pub fn about(path: &Path) -> Result<About> {
    arrow_file::about(path, &KIND)
}

/// Reads an index.
///
/// # Errors
/// A file that is none, or a damaged one.
pub fn open(path: &Path) -> Result<Index> {
    let malformed = |what: &str| Error::Malformed { path: path.to_owned(), format: KIND.format, what: what.to_owned() };
    let (about, entries): (About, Vec<Entry>) =
        arrow_file::open(path, &KIND, columns(), |_: &About, out, b| read(out, b))?;
    let sound = |e: &Example| {
        e.start <= e.position && e.at() < e.tokens.len() && e.tokens.len() == e.activations.len() && e.value.is_finite()
    };
    if !entries.iter().all(|e| e.top.iter().chain(&e.sample).all(sound)) {
        return Err(malformed("an example does not hold the token that it is about"));
    }
    if entries.is_empty() || about.shard.shards.len() > about.shard.of {
        return Err(malformed("it holds no feature, or more shards than there are"));
    }
    Ok(Index { about, entries })
}

/// Takes a batch in; says what is wrong with it.
fn read(entries: &mut Vec<Entry>, batch: &RecordBatch) -> std::result::Result<(), String> {
    let numbers = batch.column(0).as_primitive::<UInt32Type>();
    let before = entries.len();
    if (0..numbers.len()).any(|i| numbers.value(i) as usize != before + i) {
        return Err("its features are not in order".to_owned());
    }
    // The columns were compared, so that every one has the type that is read here.
    let bins = batch.column(5).as_list::<i32>();
    let (top, sample) = (read_examples(batch.column(6)), read_examples(batch.column(7)));
    let (features, neurons) = (read_pairs(batch.column(8)), read_pairs(batch.column(9)));
    for (i, (((top, sample), features), neurons)) in top.into_iter().zip(sample).zip(features).zip(neurons).enumerate()
    {
        let mut bins = bins.value(i).as_primitive::<UInt64Type>().values().to_vec();
        bins.resize(BINS, 0);
        let width = batch.column(4).as_primitive::<Float32Type>().value(i);
        if !(width.is_finite() && width > 0.0) {
            return Err(format!("a histogram has bins {width} wide"));
        }
        entries.push(Entry {
            active: batch.column(1).as_primitive::<UInt64Type>().value(i),
            sum: batch.column(2).as_primitive::<Float64Type>().value(i),
            max: batch.column(3).as_primitive::<Float32Type>().value(i),
            histogram: Histogram { width, bins },
            top,
            sample,
            features,
            neurons,
        });
    }
    Ok(())
}

fn read_examples(column: &ArrayRef) -> Vec<Vec<Example>> {
    let list = column.as_list::<i32>();
    (0..list.len())
        .map(|i| {
            let one = list.value(i);
            let s = one.as_struct();
            let whole = |c: usize| s.column(c).as_primitive::<UInt32Type>();
            let (tokens, activations) = (s.column(6).as_list::<i32>(), s.column(7).as_list::<i32>());
            (0..s.len())
                .map(|j| Example {
                    value: s.column(0).as_primitive::<Float32Type>().value(j),
                    key: whole(1).value(j),
                    row: whole(2).value(j),
                    document: whole(3).value(j),
                    position: whole(4).value(j),
                    start: whole(5).value(j),
                    tokens: tokens.value(j).as_primitive::<UInt32Type>().values().to_vec(),
                    activations: activations.value(j).as_primitive::<Float32Type>().values().to_vec(),
                })
                .collect()
        })
        .collect()
}

fn read_pairs(column: &ArrayRef) -> Vec<Vec<(u32, f32)>> {
    let list = column.as_list::<i32>();
    (0..list.len())
        .map(|i| {
            let one = list.value(i);
            let s = one.as_struct();
            let (index, value) = (s.column(0).as_primitive::<UInt32Type>(), s.column(1).as_primitive::<Float32Type>());
            index.values().iter().copied().zip(value.values().iter().copied()).collect()
        })
        .collect()
}
