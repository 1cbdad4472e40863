//! Tables as Arrow IPC files (Feather version 2), which pandas, Polars, DuckDB and R read. The schema's metadata says in
//! JSON what a table is of. The footer's metadata `checksum` is over all that comes before the footer: `LENGTH HASH`, where
//! HASH ([`Hash`], in hexadecimal) takes the bytes in as little-endian words of eight, the last one filled up with zeros. A
//! file whose bytes are others is refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, ListArray, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::Output;
use crate::guard::guarded;
use crate::hash::Hash;

const CHECKSUM: &str = "checksum";
/// A file begins so, and with zeros up to its first message.
const MAGIC: &[u8] = b"ARROW1";
/// The most bytes before the first message: writers align it to eight bytes, or to a line of the cache.
const BEGINNING: u64 = 64;

/// A kind of table.
pub struct Kind {
    /// What it is called in messages.
    pub format: &'static str,
    /// Where the schema's metadata says what a table is of.
    pub metadata: &'static str,
}

impl Kind {
    fn malformed(&self, path: &Path, what: impl Into<String>) -> Error {
        Error::Malformed { path: path.to_owned(), format: self.format, what: what.into() }
    }

    fn damaged(&self, path: &Path, what: &str) -> Error {
        Error::Damaged { path: path.to_owned(), format: self.format, what: what.to_owned() }
    }
}

/// What lists hold: values, none of which is absent.
fn item(data: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data, false))
}

/// A column without absent values.
pub fn column(name: &str, data: DataType) -> Field {
    Field::new(name, data, false)
}

/// A column of lists.
pub fn list(name: &str, data: DataType) -> Field {
    column(name, DataType::List(item(data)))
}

/// Lists of these lengths, whose values stand one behind the other.
pub fn lists(values: ArrayRef, lengths: impl Iterator<Item = usize>) -> ArrayRef {
    Arc::new(ListArray::new(item(values.data_type().clone()), OffsetBuffer::from_lengths(lengths), values, None))
}

/// Hashes bytes as they pass.
#[derive(Default)]
struct Checksum {
    hash: Hash,
    length: u64,
    /// Bytes that make no whole word yet.
    rest: Vec<u8>,
}

impl Checksum {
    fn add(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if !self.rest.is_empty() {
            let (some, others) = bytes.split_at(bytes.len().min(8 - self.rest.len()));
            self.rest.extend(some);
            bytes = others;
            let Some(word) = self.rest.first_chunk::<8>() else { return };
            self.hash.add(u64::from_le_bytes(*word));
            self.rest.clear();
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.hash.add(u64::from_le_bytes(*word)));
        self.rest.extend(rest);
    }

    /// Of all bytes so far.
    fn text(&self) -> String {
        let mut word = [0u8; 8];
        word[..self.rest.len()].copy_from_slice(&self.rest);
        let mut hash = Hash(self.hash.0);
        if !self.rest.is_empty() {
            hash.add(u64::from_le_bytes(word));
        }
        format!("{} {:016x}", self.length, hash.0)
    }
}

struct Hashing<W> {
    inner: W,
    sum: Checksum,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.add(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn schema(kind: &Kind, columns: Vec<Field>, about: &impl Serialize) -> Result<Arc<Schema>> {
    let about = serde_json::to_string(about).map_err(|e| Error::failed(e.to_string()))?;
    Ok(Arc::new(Schema::new_with_metadata(columns, HashMap::from([(kind.metadata.to_owned(), about)]))))
}

/// Writes a table beside `path` and renames it into place; `batches` are its rows, each a list of all columns.
///
/// # Errors
/// A full disk or a folder that cannot be written; an earlier file then stands.
pub fn save(
    path: &Path,
    kind: &Kind,
    columns: Vec<Field>,
    about: &impl Serialize,
    batches: impl Iterator<Item = Vec<ArrayRef>>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::write(path, e);
    let packed = |e: ArrowError| match e {
        ArrowError::IoError(_, e) => failed(e),
        e => Error::failed(format!("the {} cannot be packed: {e}", kind.format)),
    };
    let schema = schema(kind, columns, about)?;
    let file = Hashing { inner: BufWriter::new(Output::create(path)?), sum: Checksum::default() };
    let mut writer = FileWriter::try_new(file, &schema).map_err(packed)?;
    for columns in batches {
        writer.write(&RecordBatch::try_new(schema.clone(), columns).map_err(packed)?).map_err(packed)?;
    }
    let checksum = writer.get_ref().sum.text();
    writer.write_metadata(CHECKSUM, checksum);
    writer.finish().map_err(packed)?;
    let file = writer.into_inner().map_err(packed)?;
    file.inner.into_inner().map_err(|e| failed(e.into_error()))?.finish()
}

/// Opens a table's stream of messages, and says what the table is of. Nothing of it is checked yet.
fn begin(path: &Path, kind: &Kind) -> Result<(String, StreamReader<BufReader<File>>, usize)> {
    let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
    let size = file.metadata().map_or(0, |m| m.len() as usize);
    let mut first = Vec::new();
    (&file).take(BEGINNING).read_to_end(&mut first).map_err(|e| Error::read(path, e))?;
    let message = first.strip_prefix(MAGIC).and_then(|rest| rest.iter().position(|b| *b != 0));
    let message = message.map_or(BEGINNING, |zeros| (MAGIC.len() + zeros) as u64);
    file.seek(std::io::SeekFrom::Start(message)).map_err(|e| Error::read(path, e))?;
    // The reader trusts what the file says.
    let reader =
        guarded(size, || StreamReader::try_new(BufReader::new(file), None)).ok().and_then(std::result::Result::ok);
    let reader = reader.ok_or_else(|| kind.malformed(path, "it is no complete Arrow file"))?;
    let about = reader.schema().metadata().get(kind.metadata).cloned();
    let about = about.ok_or_else(|| kind.malformed(path, "it does not say what was scanned"))?;
    Ok((about, reader, size))
}

/// Compares the bytes with the checksum.
fn check(path: &Path, kind: &Kind) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let size = file.metadata().map_or(0, |m| m.len() as usize);
    let footer = guarded(size, || FileReader::try_new(file, None)).ok().and_then(std::result::Result::ok);
    let footer = footer.ok_or_else(|| kind.malformed(path, "it is no complete Arrow file"))?;
    let Some(said) = footer.custom_metadata().get(CHECKSUM) else {
        return Err(
            kind.malformed(path, "it has no checksum: an earlier version of this program wrote it; make it again")
        );
    };
    let length = said.split_once(' ').and_then(|(n, _)| n.parse().ok()).unwrap_or(0u64);
    let mut bytes = BufReader::with_capacity(1 << 20, File::open(path).map_err(|e| Error::read(path, e))?.take(length));
    let (mut sum, mut some) = (Checksum::default(), vec![0u8; 1 << 20]);
    loop {
        match bytes.read(&mut some).map_err(|e| Error::read(path, e))? {
            0 => break,
            n => sum.add(&some[..n]),
        }
    }
    if sum.text() == *said {
        Ok(())
    } else {
        Err(kind.damaged(path, "its bytes do not have the checksum that it names"))
    }
}

fn parsed<A: DeserializeOwned>(path: &Path, kind: &Kind, about: &str) -> Result<A> {
    let old = |e| format!("another version of this program wrote it ({e}); scan the text again");
    serde_json::from_str(about).map_err(|e| kind.malformed(path, old(e)))
}

/// Whether a file is a table of this kind, sound or not.
pub fn is_one(path: &Path, kind: &Kind) -> bool {
    begin(path, kind).is_ok()
}

/// What a table is of, without reading it.
///
/// # Errors
/// A file that is none.
pub fn about<A: DeserializeOwned>(path: &Path, kind: &Kind) -> Result<A> {
    begin(path, kind).and_then(|(about, ..)| parsed(path, kind, &about))
}

/// Reads a table: `columns` are those that it must have, `read` takes each batch of its rows in and says in half a sentence
/// what is wrong with it.
///
/// # Errors
/// A file that is none, or a damaged one.
pub fn open<A, T>(
    path: &Path,
    kind: &'static Kind,
    columns: Vec<Field>,
    read: impl Fn(&A, &mut T, &RecordBatch) -> std::result::Result<(), String> + Send + 'static,
) -> Result<(A, T)>
where
    A: DeserializeOwned + Clone + Send + 'static,
    T: Default + Send + 'static,
{
    let (said, reader, size) = begin(path, kind)?;
    check(path, kind)?;
    let about: A = parsed(path, kind, &said)?;
    if reader.schema().fields() != Schema::new(columns).fields() {
        return Err(kind.malformed(path, format!("its columns are not those of {}", kind.format)));
    }
    // A file with a checksum can be made to lie as well: what makes the reader panic makes the file unusable.
    let of = about.clone();
    let rows = guarded(size, move || {
        let mut out = T::default();
        for batch in reader {
            read(&of, &mut out, &batch.map_err(|_| "a batch of its rows cannot be read".to_owned())?)?;
        }
        Ok(out)
    });
    let rows = rows.unwrap_or_else(|_| Err("its lengths contradict each other".to_owned()));
    Ok((about, rows.map_err(|what| kind.malformed(path, what))?))
}

#[cfg(test)]
mod tests {
    use arrow_array::UInt32Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt32Type;

    use super::*;
    use crate::files::{read, write_atomic};

    const NUMBERS: Kind = Kind { format: "a list of numbers", metadata: "numbers" };

    fn columns() -> Vec<Field> {
        vec![column("number", DataType::UInt32)]
    }

    fn numbers(path: &Path) -> Result<(String, Vec<u32>)> {
        open(path, &NUMBERS, columns(), |_: &String, out: &mut Vec<u32>, batch| {
            out.extend(batch.column(0).as_primitive::<UInt32Type>().values());
            Ok(())
        })
    }

    /// Words that fall on other bytes each time make one checksum.
    #[test]
    fn a_checksum_does_not_depend_on_how_bytes_come() {
        let bytes: Vec<u8> = (0..100u8).collect();
        let of = |size: usize| {
            let mut sum = Checksum::default();
            bytes.chunks(size).for_each(|some| sum.add(some));
            sum.text()
        };
        assert!([1, 3, 7, 8, 9, 64].iter().all(|size| of(*size) == of(100)));
        let mut by_hand = Hash::default();
        bytes[..96].chunks(8).for_each(|w| by_hand.add(u64::from_le_bytes(w.try_into().unwrap())));
        by_hand.add(u64::from_le_bytes([96, 97, 98, 99, 0, 0, 0, 0]));
        assert_eq!(of(100), format!("100 {:016x}", by_hand.0));
    }

    /// Wherever a bit of the rows or of what they are of is turned, the file is refused in one sentence.
    #[test]
    fn every_turned_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.arrow");
        let batch = |of: std::ops::Range<u32>| vec![Arc::new(of.collect::<UInt32Array>()) as ArrayRef];
        save(&path, &NUMBERS, columns(), &"of five", [batch(0..3), batch(3..5)].into_iter()).unwrap();
        assert_eq!(numbers(&path).unwrap(), ("of five".to_owned(), vec![0, 1, 2, 3, 4]));
        assert_eq!(about::<String>(&path, &NUMBERS).unwrap(), "of five");
        let whole = read(&path, 1 << 20).unwrap();
        // Readers of others find the rows by the footer.
        let other = FileReader::try_new(File::open(&path).unwrap(), None).unwrap();
        assert_eq!(other.map(|b| b.unwrap().num_rows()).sum::<usize>(), 5);
        let said = FileReader::try_new(File::open(&path).unwrap(), None).unwrap().custom_metadata()[CHECKSUM].clone();
        let covered: usize = said.split_once(' ').unwrap().0.parse().unwrap();
        assert!(covered > 300 && covered < whole.len());
        for at in 0..covered {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            write_atomic(&path, &bytes).unwrap();
            let error = numbers(&path).unwrap_err().to_string();
            assert!(error.contains("numbers.arrow") && error.len() <= 280, "byte {at}: {error}");
        }
        // What is cut off is no file.
        for end in [0, 7, covered, whole.len() - 9] {
            write_atomic(&path, &whole[..end]).unwrap();
            assert!(numbers(&path).unwrap_err().to_string().contains("no complete Arrow file"));
        }
    }
}
