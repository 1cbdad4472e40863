//! The pages of all heads as an Arrow IPC file (Feather version 2), which pandas, Polars, DuckDB and R read. One row a
//! head, by layer and then head:
//!
//! | column | type | what |
//! | --- | --- | --- |
//! | `layer`, `head` | uint32 | |
//! | `previous`, `duplicate`, `induction` | float64 | mean share of a query's attention on the token before, on earlier copies of its token, on what followed those |
//! | `first` | float64 | mean share on the first position |
//! | `entropy`, `distance` | float64 | mean entropy of a pattern, nats; mean attention-weighted distance, positions |
//! | `copying`, `anti_copying` | float32 | by the weights alone: share of tokens that it promotes, suppresses, when it attends to them |
//! | `top` | list of struct | where it looked hardest, one a row of text, the strongest first |
//! | `query_from`, `key_from` | list of float64 | mean share of the query and of the key that each earlier component wrote: the embedding, then each layer's heads and its MLP |
//!
//! An example is {strength, weight: float32, row, document, query, key, query_start: uint32, query_tokens: list of uint32,
//! key_start: uint32, key_tokens: list of uint32, promoted, suppressed: list of struct {token: uint32, logit: float32}}.
//! The schema's metadata `circuitscope-heads` says in JSON what was scanned ([`About`]): means are over its `queries`, those
//! of `query_from` and `key_from` over its `sampled`; a file whose `done` is below its `batches` is a checkpoint.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type};
use arrow_array::{Array, ArrayRef, Float32Array, Float64Array, RecordBatch, StructArray, UInt32Array};
use arrow_schema::{DataType, Field, Fields};

use super::index::{About, Entry, Example, HeadIndex, Measure};
use crate::arrow_file::{self, Kind, column, list, lists};
use crate::error::{Error, Result};

pub const KIND: Kind = Kind { format: "head pages", metadata: "circuitscope-heads" };

fn word_fields() -> Fields {
    Fields::from(vec![column("token", DataType::UInt32), column("logit", DataType::Float32)])
}

fn example_fields() -> Fields {
    let whole = |n: &str| column(n, DataType::UInt32);
    Fields::from(vec![
        column("strength", DataType::Float32),
        column("weight", DataType::Float32),
        whole("row"),
        whole("document"),
        whole("query"),
        whole("key"),
        whole("query_start"),
        list("query_tokens", DataType::UInt32),
        whole("key_start"),
        list("key_tokens", DataType::UInt32),
        list("promoted", DataType::Struct(word_fields())),
        list("suppressed", DataType::Struct(word_fields())),
    ])
}

fn columns() -> Vec<Field> {
    let mut columns = vec![column("layer", DataType::UInt32), column("head", DataType::UInt32)];
    columns.extend(Measure::ALL.map(|m| column(m.name(), DataType::Float64)));
    columns.extend([
        column("copying", DataType::Float32),
        column("anti_copying", DataType::Float32),
        list("top", DataType::Struct(example_fields())),
        list("query_from", DataType::Float64),
        list("key_from", DataType::Float64),
    ]);
    columns
}

fn examples(entries: &[Entry]) -> ArrayRef {
    let all = || entries.iter().flat_map(|e| &e.top);
    let whole = |get: fn(&Example) -> u32| Arc::new(all().map(get).collect::<UInt32Array>()) as ArrayRef;
    let real = |get: fn(&Example) -> f32| Arc::new(all().map(get).collect::<Float32Array>()) as ArrayRef;
    let tokens = |get: fn(&Example) -> &Vec<u32>| {
        let values = Arc::new(all().flat_map(|e| get(e).iter().copied()).collect::<UInt32Array>());
        lists(values, all().map(|e| get(e).len()))
    };
    let words = |get: fn(&Example) -> &Vec<(u32, f32)>| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(all().flat_map(|e| get(e).iter().map(|w| w.0)).collect::<UInt32Array>()),
            Arc::new(all().flat_map(|e| get(e).iter().map(|w| w.1)).collect::<Float32Array>()),
        ];
        lists(Arc::new(StructArray::new(word_fields(), columns, None)), all().map(|e| get(e).len()))
    };
    let columns = vec![
        real(|e| e.strength),
        real(|e| e.weight),
        whole(|e| e.row),
        whole(|e| e.document),
        whole(|e| e.query),
        whole(|e| e.key),
        whole(|e| e.query_start),
        tokens(|e| &e.query_tokens),
        whole(|e| e.key_start),
        tokens(|e| &e.key_tokens),
        words(|e| &e.promoted),
        words(|e| &e.suppressed),
    ];
    lists(Arc::new(StructArray::new(example_fields(), columns, None)), entries.iter().map(|e| e.top.len()))
}

fn batch(index: &HeadIndex) -> Vec<ArrayRef> {
    let (about, entries) = (&index.about, &index.entries);
    let place = |i: usize| (i / about.n_heads, i % about.n_heads);
    let (queries, sampled) = (about.queries.max(1) as f64, about.sampled.max(1) as f64);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new((0..entries.len()).map(|i| place(i).0 as u32).collect::<UInt32Array>()),
        Arc::new((0..entries.len()).map(|i| place(i).1 as u32).collect::<UInt32Array>()),
    ];
    for m in Measure::ALL {
        columns.push(Arc::new(entries.iter().map(|e| e.sums[m as usize] / queries).collect::<Float64Array>()));
    }
    let means = |get: fn(&Entry) -> &Vec<f64>| {
        let values = entries.iter().flat_map(|e| get(e).iter().map(|s| s / sampled)).collect::<Float64Array>();
        lists(Arc::new(values), entries.iter().map(|e| get(e).len()))
    };
    columns.extend([
        Arc::new(entries.iter().map(|e| e.copying).collect::<Float32Array>()) as ArrayRef,
        Arc::new(entries.iter().map(|e| e.anti_copying).collect::<Float32Array>()),
        examples(entries),
        means(|e| &e.query_from),
        means(|e| &e.key_from),
    ]);
    columns
}

/// Writes the pages beside `path` and renames them into place.
///
/// # Errors
/// A full disk or a folder that cannot be written; an earlier file then stands.
pub fn save(index: &HeadIndex, path: &Path) -> Result<()> {
    arrow_file::save(path, &KIND, columns(), &index.about, std::iter::once(batch(index)))
}

/// What pages are of, without reading them.
///
/// # Errors
/// A file that is none.
pub fn about(path: &Path) -> Result<About> {
    arrow_file::about(path, &KIND)
}

/// Reads head pages.
///
/// # Errors
/// A file that is none, or a damaged one.
pub fn open(path: &Path) -> Result<HeadIndex> {
    let (about, entries): (About, Vec<Entry>) = arrow_file::open(path, &KIND, columns(), read)?;
    let sound = |e: &Example| {
        let inside = |at: u32, start: u32, n: usize| start <= at && ((at - start) as usize) < n;
        inside(e.query, e.query_start, e.query_tokens.len()) && inside(e.key, e.key_start, e.key_tokens.len())
    };
    let fed = |(i, e): (usize, &Entry)| {
        let n = about.writers(i / about.n_heads.max(1));
        e.query_from.len() == n && e.key_from.len() == n
    };
    let whole = entries.len() == about.n_layers * about.n_heads
        && !entries.is_empty()
        && about.shard.shards.len() <= about.shard.of;
    if !whole || !entries.iter().flat_map(|e| &e.top).all(sound) || !entries.iter().enumerate().all(fed) {
        let what = "its heads or their examples are not whole".to_owned();
        return Err(Error::Malformed { path: path.to_owned(), format: KIND.format, what });
    }
    Ok(HeadIndex { about, entries })
}

/// Takes a batch in; says what is wrong with it.
fn read(about: &About, entries: &mut Vec<Entry>, batch: &RecordBatch) -> std::result::Result<(), String> {
    let (queries, sampled) = (about.queries.max(1) as f64, about.sampled.max(1) as f64);
    // The columns were compared, so that every one has the type that is read here.
    let whole = |c: usize, i: usize| batch.column(c).as_primitive::<UInt32Type>().value(i) as usize;
    let after = 2 + Measure::ALL.len();
    let top = batch.column(after + 2).as_list::<i32>();
    let numbers = |c: usize, i: usize| -> Vec<f64> {
        let one = batch.column(c).as_list::<i32>().value(i);
        one.as_primitive::<Float64Type>().values().iter().map(|v| v * sampled).collect()
    };
    for i in 0..batch.num_rows() {
        if whole(0, i) * about.n_heads + whole(1, i) != entries.len() {
            return Err("its heads are not in order".to_owned());
        }
        let real = |c: usize| batch.column(c).as_primitive::<Float32Type>().value(i);
        let mut sums = [0f64; Measure::ALL.len()];
        for (m, sum) in sums.iter_mut().enumerate() {
            *sum = batch.column(2 + m).as_primitive::<Float64Type>().value(i) * queries;
        }
        entries.push(Entry {
            sums,
            copying: real(after),
            anti_copying: real(after + 1),
            top: read_examples(&top.value(i)),
            query_from: numbers(after + 3, i),
            key_from: numbers(after + 4, i),
        });
    }
    Ok(())
}

fn read_examples(column: &ArrayRef) -> Vec<Example> {
    let s = column.as_struct();
    let whole = |c: usize, j: usize| s.column(c).as_primitive::<UInt32Type>().value(j);
    let real = |c: usize, j: usize| s.column(c).as_primitive::<Float32Type>().value(j);
    let tokens = |c: usize, j: usize| -> Vec<u32> {
        s.column(c).as_list::<i32>().value(j).as_primitive::<UInt32Type>().values().to_vec()
    };
    let words = |c: usize, j: usize| -> Vec<(u32, f32)> {
        let one = s.column(c).as_list::<i32>().value(j);
        let one = one.as_struct();
        let (token, logit) = (one.column(0).as_primitive::<UInt32Type>(), one.column(1).as_primitive::<Float32Type>());
        token.values().iter().copied().zip(logit.values().iter().copied()).collect()
    };
    (0..s.len())
        .map(|j| Example {
            strength: real(0, j),
            weight: real(1, j),
            row: whole(2, j),
            document: whole(3, j),
            query: whole(4, j),
            key: whole(5, j),
            query_start: whole(6, j),
            query_tokens: tokens(7, j),
            key_start: whole(8, j),
            key_tokens: tokens(9, j),
            promoted: words(10, j),
            suppressed: words(11, j),
            value: Vec::new(),
        })
        .collect()
}
