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
//! below its `batches` is a checkpoint.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch, StructArray, UInt32Array, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Fields, Schema};

use crate::error::{Error, Result};
use crate::features::scan::index::{About, BINS, Entry, Example, Histogram, Index};
use crate::files::Output;
use crate::guard::guarded;

const FORMAT: &str = "feature index";
const METADATA: &str = "circuitscope";
/// Features of a record batch.
const BATCH: usize = 1024;

fn item(data: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data, false))
}

fn example_fields() -> Fields {
    let whole = |n: &str| Field::new(n, DataType::UInt32, false);
    Fields::from(vec![
        Field::new("value", DataType::Float32, false),
        whole("key"),
        whole("row"),
        whole("document"),
        whole("position"),
        whole("start"),
        Field::new("tokens", DataType::List(item(DataType::UInt32)), false),
        Field::new("activations", DataType::List(item(DataType::Float32)), false),
    ])
}

fn pair_fields() -> Fields {
    Fields::from(vec![
        Field::new("index", DataType::UInt32, false),
        Field::new("correlation", DataType::Float32, false),
    ])
}

fn schema(about: &About) -> Result<Schema> {
    let list = |n: &str, data: DataType| Field::new(n, DataType::List(item(data)), false);
    let fields = vec![
        Field::new("feature", DataType::UInt32, false),
        Field::new("active", DataType::UInt64, false),
        Field::new("sum", DataType::Float64, false),
        Field::new("max", DataType::Float32, false),
        Field::new("bin_width", DataType::Float32, false),
        list("histogram", DataType::UInt64),
        list("top", DataType::Struct(example_fields())),
        list("sample", DataType::Struct(example_fields())),
        list("features", DataType::Struct(pair_fields())),
        list("neurons", DataType::Struct(pair_fields())),
    ];
    let about = serde_json::to_string(about).map_err(|e| Error::failed(e.to_string()))?;
    Ok(Schema::new_with_metadata(fields, HashMap::from([(METADATA.to_owned(), about)])))
}

fn lists(values: ArrayRef, lengths: impl Iterator<Item = usize>) -> ArrayRef {
    Arc::new(ListArray::new(item(values.data_type().clone()), OffsetBuffer::from_lengths(lengths), values, None))
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

fn batch(schema: &Arc<Schema>, first: usize, entries: &[Entry]) -> Result<RecordBatch> {
    let bins = Arc::new(entries.iter().flat_map(|e| e.histogram.bins.iter().copied()).collect::<UInt64Array>());
    let columns: Vec<ArrayRef> = vec![
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
    ];
    RecordBatch::try_new(schema.clone(), columns).map_err(|e| Error::failed(format!("the index cannot be packed: {e}")))
}

/// Writes an index beside `path` and renames it into place.
///
/// # Errors
/// A full disk or a folder that cannot be written; an earlier file then stands.
pub fn save(index: &Index, path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::write(path, e);
    let packed = |e: arrow_schema::ArrowError| match e {
        arrow_schema::ArrowError::IoError(_, e) => failed(e),
        e => Error::failed(format!("the index cannot be packed: {e}")),
    };
    let file = Output::create(path)?;
    let schema = Arc::new(schema(&index.about)?);
    let mut writer = FileWriter::try_new(BufWriter::new(file), &schema).map_err(packed)?;
    for (i, entries) in index.entries.chunks(BATCH).enumerate() {
        writer.write(&batch(&schema, i * BATCH, entries)?).map_err(packed)?;
    }
    writer.finish().map_err(packed)?;
    let file = writer.into_inner().map_err(packed)?.into_inner().map_err(|e| failed(e.into_error()))?;
    file.finish()
}

/// What an index is of, without reading it.
///
/// # Errors
/// A file that is none.
pub fn about(path: &Path) -> Result<About> {
    begin(path).map(|(about, _)| about)
}

fn begin(path: &Path) -> Result<(About, FileReader<BufReader<File>>)> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    // The reader trusts what the footer says.
    let size = file.metadata().map_or(0, |m| m.len() as usize);
    let reader = guarded(size, || FileReader::try_new(BufReader::new(file), None));
    let reader = reader
        .ok()
        .and_then(std::result::Result::ok)
        .ok_or_else(|| malformed("it is no complete Arrow file".to_owned()))?;
    let schema = reader.schema();
    let Some(text) = schema.metadata().get(METADATA) else {
        return Err(malformed("it does not say what was scanned".to_owned()));
    };
    let about = serde_json::from_str(text)
        .map_err(|e| malformed(format!("another version of this program wrote it ({e}); scan the text again")))?;
    Ok((about, reader))
}

/// Reads an index.
///
/// # Errors
/// A file that is none, or a damaged one.
pub fn open(path: &Path) -> Result<Index> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
    let (about, reader) = begin(path)?;
    let expected = schema(&about)?;
    if reader.schema().fields() != &expected.fields {
        return Err(malformed("its columns are not those of a feature index".to_owned()));
    }
    // The reader trusts lengths inside the file; what makes it panic makes the file unusable.
    let (size, owned) = (std::fs::metadata(path).map_or(0, |m| m.len() as usize), path.to_owned());
    let entries = guarded(size, move || read(reader, &owned))
        .unwrap_or_else(|_| Err(malformed("its lengths contradict each other".to_owned())))?;
    let sound = |e: &Example| {
        e.start <= e.position && e.at() < e.tokens.len() && e.tokens.len() == e.activations.len() && e.value.is_finite()
    };
    if !entries.iter().all(|e| e.top.iter().chain(&e.sample).all(sound)) {
        return Err(malformed("an example does not hold the token that it is about".to_owned()));
    }
    if entries.is_empty() || about.shards.len() > about.of {
        return Err(malformed("it holds no feature, or more parts than there are".to_owned()));
    }
    Ok(Index { about, entries })
}

fn read(reader: FileReader<BufReader<File>>, path: &Path) -> Result<Vec<Entry>> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
    let mut entries = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|_| malformed("a batch of its rows cannot be read".to_owned()))?;
        let numbers = batch.column(0).as_primitive::<UInt32Type>();
        if (0..numbers.len()).any(|i| numbers.value(i) as usize != entries.len() + i) {
            return Err(malformed("its features are not in order".to_owned()));
        }
        // The schema was compared, so that every column has the type that is read here.
        let bins = batch.column(5).as_list::<i32>();
        let (top, sample) = (read_examples(batch.column(6)), read_examples(batch.column(7)));
        let (features, neurons) = (read_pairs(batch.column(8)), read_pairs(batch.column(9)));
        for (i, (((top, sample), features), neurons)) in
            top.into_iter().zip(sample).zip(features).zip(neurons).enumerate()
        {
            let mut bins = bins.value(i).as_primitive::<UInt64Type>().values().to_vec();
            bins.resize(BINS, 0);
            let width = batch.column(4).as_primitive::<Float32Type>().value(i);
            if !(width.is_finite() && width > 0.0) {
                return Err(malformed(format!("a histogram has bins {width} wide")));
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
    }
    Ok(entries)
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
