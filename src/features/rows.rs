//! Text as rows of token ids, which never cross a document's border. The ids of a large text lie in a temporary file, so
//! that memory holds only where its rows are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::features::text::{Document, bytes, visit};
use crate::files::{scratch_file, scratch_folder};
use crate::hash::Hash;
use crate::model::Model;
use crate::model::store::read_exact_at;
use crate::progress::Progress;

/// Token ids kept in memory (64 MiB); those of a larger text go to a file.
const IN_MEMORY: usize = 16 << 20;

/// Bytes of a token, about, in most languages' text.
const BYTES: u64 = 4;
/// Tokens that are cut in the time of one that is run through a model, about.
const QUICKER: u64 = 64;

/// All ids of a text, one row behind the other.
#[derive(Debug)]
enum Ids {
    Memory(Vec<u32>),
    /// Without a name: it is gone when nobody has it open.
    File(File),
}

impl Ids {
    fn read(&self, row: Row, into: &mut Vec<u32>) -> Result<()> {
        let n = row.len as usize;
        match self {
            Self::Memory(ids) => into.extend_from_slice(&ids[row.start as usize..row.start as usize + n]),
            Self::File(file) => {
                let from = into.len();
                into.resize(from + n, 0);
                read_exact_at(file, bytemuck::cast_slice_mut(&mut into[from..]), 4 * row.start)
                    .map_err(|e| Error::read(scratch_folder(), e))?;
            }
        }
        Ok(())
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

/// Takes ids in, and to a file once there are too many.
struct IdWriter {
    memory: Vec<u32>,
    file: Option<BufWriter<File>>,
    most: usize,
}

impl IdWriter {
    fn push(&mut self, ids: &[u32]) -> Result<()> {
        let failed = |e| Error::write(scratch_folder(), e);
        if self.file.is_none() && self.memory.len() + ids.len() > self.most {
            let mut file = BufWriter::with_capacity(1 << 20, scratch_file()?);
            file.write_all(bytemuck::cast_slice(&self.memory)).map_err(failed)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytemuck::cast_slice(ids)).map_err(failed),
            None => {
                self.memory.extend_from_slice(ids);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Ids> {
        match self.file {
            Some(file) => {
                let file = file.into_inner().map_err(|e| Error::write(scratch_folder(), e.into_error()))?;
                Ok(Ids::File(file))
            }
            None => Ok(Ids::Memory(self.memory)),
        }
    }
}

/// How text becomes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of a row.
    pub context: usize,
    /// Tokens of the text that are used at most; nothing is read after them.
    pub limit: Option<usize>,
    /// Whether each row begins with the beginning-of-sequence token also where the tokenizer does not add it.
    pub bos: bool,
}

impl Cut {
    /// Rows that begin as the model's own texts do.
    pub fn new(context: usize, limit: Option<usize>) -> Self {
        Self { context, limit, bos: false }
    }
}

/// Where a row's ids lie, and its document's number.
#[derive(Clone, Copy, Debug)]
struct Row {
    start: u64,
    len: u32,
    document: u32,
}

/// Documents as rows of token ids. Parts of them share the ids.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    ids: Arc<Ids>,
    rows: Vec<Row>,
}

/// Rows of equal length, one behind the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    ids: Vec<u32>,
    /// Tokens of each row.
    pub len: usize,
}

impl Batch {
    /// The rows, as a forward pass takes them.
    pub fn rows(&self) -> Vec<&[u32]> {
        self.ids.chunks_exact(self.len).collect()
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl Rows {
    /// Rows as they are given, each with its document's number.
    pub fn new<R: AsRef<[u32]>>(rows: impl IntoIterator<Item = (R, u32)>) -> Self {
        let (mut ids, mut places) = (Vec::new(), Vec::new());
        for (row, document) in rows {
            let row = row.as_ref();
            places.push(Row { start: ids.len() as u64, len: row.len() as u32, document });
            ids.extend_from_slice(row);
        }
        Self { ids: Arc::new(Ids::Memory(ids)), rows: places }
    }

    /// Cuts texts into rows; shorter ends are kept from 2 tokens on. `specs` are as [`visit`] takes them. A pass of the
    /// text, at a step of progress a token, is reserved.
    ///
    /// # Errors
    /// As [`visit`] and the tokenizer, texts without two tokens in a row, or a cancelled job.
    pub fn cut(model: &Model, specs: &[String], cut: &Cut, progress: &Progress) -> Result<Self> {
        Self::cut_keeping(IN_MEMORY, model, specs, cut, progress)
    }

    fn cut_keeping(most: usize, model: &Model, specs: &[String], cut: &Cut, progress: &Progress) -> Result<Self> {
        let start = model.start(cut.bos)?;
        let context = cut.context.min(model.config.n_ctx);
        // Every row begins as the model's texts do, also those from the middle of one.
        let begun = start.len();
        if context < begun.max(1) + 1 {
            return Err(Error::request(format!(
                "a context of {context} tokens predicts nothing; give {} or more",
                begun.max(1) + 1
            )));
        }
        let limit = cut.limit.map_or(u64::MAX, |l| l as u64);
        let mut ids = IdWriter { memory: Vec::new(), file: None, most };
        let (mut rows, mut tokens, mut documents) = (Vec::new(), 0u64, 0u32);
        // Most of the work comes after this; how much is known then.
        let ahead = (bytes(specs)? / BYTES).min(limit);
        let (cutting, mut told) = (ahead / QUICKER, 0);
        progress.expect(cutting);
        progress.reserve(ahead);
        visit(specs, &mut |Document { text, continues }| {
            let now = (tokens / QUICKER).min(cutting);
            progress.step(now - std::mem::replace(&mut told, now))?;
            documents = documents.saturating_add(u32::from(!continues));
            for piece in model.pieces(&text)?.chunks(context - begun) {
                let room = usize::try_from(limit - tokens).unwrap_or(usize::MAX);
                // A single token makes no row.
                if room < begun.max(1) + 1 {
                    return Ok(ControlFlow::Break(()));
                }
                let piece = &piece[..piece.len().min(room - begun)];
                let len = begun + piece.len();
                if len < 2 {
                    continue;
                }
                rows.push(Row { start: tokens, len: len as u32, document: documents.saturating_sub(1) });
                ids.push(&start)?;
                ids.push(piece)?;
                tokens += len as u64;
            }
            Ok(if tokens >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        progress.step(cutting - told)?;
        if rows.is_empty() {
            return Err(Error::request("the text gives no two tokens in a row; give more of it"));
        }
        Ok(Self { ids: Arc::new(ids.finish()?), rows })
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|r| r.len as usize).sum()
    }

    /// Tokens of each row.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows.iter().map(|r| r.len as usize)
    }

    /// Rows from all over the text, of about so many tokens in all.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn sample(&self, tokens: usize) -> Result<Self> {
        let every = self.tokens().div_ceil(tokens.max(1)).max(1);
        let some = (0..self.len()).step_by(every).map(|i| Ok((self.row(i)?, self.document(i))));
        Ok(Self::new(some.collect::<Result<Vec<_>>>()?))
    }

    /// Positions of all rows, with or without the first of each.
    pub fn positions(&self, skip_first: bool) -> usize {
        self.lengths().map(|n| n - usize::from(skip_first).min(n)).sum()
    }

    /// The number of a row's document.
    pub fn document(&self, row: usize) -> u32 {
        self.rows.get(row).map_or(0, |r| r.document)
    }

    /// A row's ids.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub fn row(&self, row: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if let Some(row) = self.rows.get(row) {
            self.ids.read(*row, &mut ids)?;
        }
        Ok(ids)
    }

    /// Calls `each` with every row's ids.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn each(&self, mut each: impl FnMut(&[u32])) -> Result<()> {
        let mut ids = Vec::new();
        for row in &self.rows {
            ids.clear();
            self.ids.read(*row, &mut ids)?;
            each(&ids);
        }
        Ok(())
    }

    /// A hash of all ids, and of where each row ends.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn hash(&self) -> Result<u64> {
        let mut hash = Hash::default();
        self.each(|row| {
            hash.add(row.len() as u64);
            row.iter().for_each(|id| hash.add(u64::from(*id)));
        })?;
        Ok(hash.0)
    }

    /// Every `n`-th row held out: (to train on, held out).
    pub fn held_out(self, n: usize) -> (Self, Self) {
        let held = |i: usize| i % n == n - 1;
        let part = |wanted: bool| {
            let rows = self.rows.iter().enumerate().filter(|(i, _)| held(*i) == wanted).map(|(_, r)| *r).collect();
            Self { ids: self.ids.clone(), rows }
        };
        (part(false), part(true))
    }

    /// The first rows: `n` of them, or all where there are fewer.
    pub fn first(&self, n: usize) -> Self {
        Self { ids: self.ids.clone(), rows: self.rows.iter().take(n).copied().collect() }
    }

    /// The first rows that together reach `tokens`.
    pub fn reaching(&self, tokens: usize) -> Self {
        let mut seen = 0;
        let enough = self.lengths().take_while(|n| {
            let more = seen < tokens;
            seen += n;
            more
        });
        self.first(enough.count())
    }

    /// Rows of equal length together, at most `tokens` of them or one row: what one forward pass takes. Full rows come
    /// first, in their order.
    pub fn batches(&self, tokens: usize) -> Vec<Vec<usize>> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, len) in self.lengths().enumerate() {
            by_length.entry(len).or_default().push(i);
        }
        let part = |(len, rows): (usize, Vec<usize>)| {
            rows.chunks((tokens / len.max(1)).max(1)).map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        by_length.into_iter().rev().flat_map(part).collect()
    }

    /// The rows of a batch, all of one length.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn some(&self, batch: &[usize]) -> Result<Batch> {
        let mut ids = Vec::new();
        for row in batch.iter().filter_map(|i| self.rows.get(*i)) {
            self.ids.read(*row, &mut ids)?;
        }
        Ok(Batch { len: (ids.len() / batch.len().max(1)).max(1), ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_rows_of_equal_length() {
        let rows = Rows::new([4, 4, 4, 2, 4].iter().enumerate().map(|(i, n)| (vec![i as u32; *n], 7)));
        assert_eq!(rows.batches(8), [vec![0, 1], vec![2, 4], vec![3]]);
        let batch = rows.some(&[2, 4]).unwrap();
        assert_eq!((batch.len, batch.tokens(), batch.rows()), (4, 8, vec![&[2; 4][..], &[4; 4]]));
        assert_eq!((rows.positions(false), rows.positions(true)), (18, 13));
        assert_eq!((rows.reaching(5).len(), rows.reaching(8).len(), rows.reaching(999).len()), (2, 2, 5));
        let (trained, held) = rows.held_out(2);
        assert_eq!((trained.len(), held.len()), (3, 2));
        assert_eq!((held.row(1).unwrap(), held.document(1)), (vec![3, 3], 7));
    }

    #[test]
    fn a_file_holds_what_memory_does() {
        let model = Model::open("text").unwrap();
        let cut = |most| {
            let progress = Progress::new();
            let rows = Rows::cut_keeping(most, &model, &["mixed".to_owned()], &Cut::new(32, Some(5_000)), &progress);
            // All that was expected of cutting is done; a pass of the text lies ahead.
            assert_eq!(progress.counts(), (5_000 / QUICKER, 5_000 / QUICKER + 5_000));
            rows
        };
        let (memory, file) = (cut(IN_MEMORY).unwrap(), cut(1_000).unwrap());
        assert!(matches!((&*memory.ids, &*file.ids), (Ids::Memory(_), Ids::File(_))));
        assert_eq!((memory.len(), memory.tokens()), (file.len(), 5_000));
        for i in 0..memory.len() {
            assert_eq!((memory.row(i).unwrap(), memory.document(i)), (file.row(i).unwrap(), file.document(i)));
        }
        let batch = &memory.batches(128)[3];
        assert_eq!(memory.some(batch).unwrap(), file.some(batch).unwrap());
    }
}
