//! A weight matrix, held in memory as its file holds it. Whoever multiplies with it decodes a few rows at a time.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::changes::Change;
use super::dequantize::{Stored, decode};
use crate::error::{Error, Result};

/// How weights are held in memory. Every number is computed in f32 from either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Held {
    /// As f32 where that leaves half of the free memory free, else as stored.
    #[default]
    Auto,
    /// As the file holds them; each product decodes them again.
    Stored,
    /// Decoded once, into f32.
    F32,
}

impl Held {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Stored => "stored",
            Self::F32 => "f32",
        }
    }

    /// Decides what `Auto` means for weights that take `f32_bytes` as f32.
    #[must_use]
    pub fn decided(self, f32_bytes: u64, free: Option<u64>) -> Self {
        match self {
            Self::Auto if free.is_some_and(|free| f32_bytes > free / 2) => Self::Stored,
            Self::Auto => Self::F32,
            other => other,
        }
    }
}

/// Values from which on other threads help to decode.
const MANY: usize = 1 << 16;

/// A weight matrix [input, output].
#[derive(Clone, Debug)]
pub struct Matrix(Form);

/// The forms of a matrix.
#[derive(Clone, Debug)]
pub enum Form {
    /// [input, output]: weights in training, and those that were computed.
    Tensor(Tensor),
    Rows(Rows),
}

impl From<Tensor> for Matrix {
    fn from(tensor: Tensor) -> Self {
        Self(Form::Tensor(tensor))
    }
}

impl From<Rows> for Matrix {
    fn from(rows: Rows) -> Self {
        Self(Form::Rows(rows))
    }
}

impl Matrix {
    pub fn form(&self) -> &Form {
        &self.0
    }

    /// Returns the numbers of inputs and outputs.
    pub fn dims(&self) -> (usize, usize) {
        match &self.0 {
            Form::Tensor(t) => t.dims2().unwrap_or((0, 0)),
            Form::Rows(r) if r.by_output => (r.groups() * r.cols(), r.rows()),
            Form::Rows(r) => (r.rows(), r.groups() * r.cols()),
        }
    }

    pub fn elem_count(&self) -> usize {
        self.dims().0 * self.dims().1
    }

    /// Returns the bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Form::Tensor(t) => 4 * t.elem_count(),
            Form::Rows(r) => r.bytes(),
        }
    }

    /// Returns a part of the inputs (axis 0) or outputs (axis 1), which shares its memory.
    ///
    /// # Errors
    /// It does not have that many.
    pub fn narrow(&self, axis: usize, from: usize, n: usize) -> Result<Self> {
        Ok(Self(match &self.0 {
            Form::Tensor(t) => Form::Tensor(t.narrow(axis, from, n)?.contiguous()?),
            Form::Rows(r) => Form::Rows(r.narrow((axis == 0) != r.by_output, from, n)?),
        }))
    }

    /// Returns these outputs in this order, as a matrix of its own.
    ///
    /// # Errors
    /// It has no such output.
    pub fn gathered(&self, outputs: &[u32]) -> Result<Self> {
        match &self.0 {
            Form::Rows(r) if r.by_output => Ok(r.gathered(outputs)?.into()),
            _ => Ok(self.outputs(outputs)?.t()?.contiguous()?.into()),
        }
    }

    /// Returns the weights of a few inputs, [ids, output].
    ///
    /// # Errors
    /// It has no such input.
    pub fn inputs(&self, ids: &[u32]) -> Result<Tensor> {
        match &self.0 {
            Form::Tensor(t) => Ok(t.index_select(&Tensor::from_slice(ids, ids.len(), t.device())?, 0)?),
            Form::Rows(r) => r.lines(ids, !r.by_output),
        }
    }

    /// Returns the weights of a few outputs, [ids, input].
    ///
    /// # Errors
    /// It has no such output.
    pub fn outputs(&self, ids: &[u32]) -> Result<Tensor> {
        match &self.0 {
            Form::Tensor(t) => {
                Ok(t.index_select(&Tensor::from_slice(ids, ids.len(), t.device())?, 1)?.t()?.contiguous()?)
            }
            Form::Rows(r) => r.lines(ids, r.by_output),
        }
    }

    /// Returns the weights of one input, [output].
    ///
    /// # Errors
    /// It has no such input.
    pub fn input(&self, id: usize) -> Result<Tensor> {
        Ok(self.inputs(&[id as u32])?.flatten_all()?)
    }

    /// Returns the weights of one output, [input].
    ///
    /// # Errors
    /// It has no such output.
    pub fn output(&self, id: usize) -> Result<Tensor> {
        Ok(self.outputs(&[id as u32])?.flatten_all()?)
    }

    /// Returns the whole of it, [input, output], decoded. Not to be asked of large ones.
    ///
    /// # Errors
    /// As copying.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.0 {
            Form::Tensor(t) => Ok(t.clone()),
            Form::Rows(r) if r.by_output => Ok(self.outputs(&ids(r.rows()))?.t()?.contiguous()?),
            Form::Rows(r) => self.inputs(&ids(r.rows())),
        }
    }

    /// Returns it with every weight multiplied.
    ///
    /// # Errors
    /// As copying.
    pub fn scaled(self, by: f32) -> Result<Self> {
        if (by - 1.0).abs() <= f32::EPSILON {
            return Ok(self);
        }
        Ok(Self(match self.0 {
            Form::Tensor(t) => Form::Tensor((t * f64::from(by))?),
            Form::Rows(mut rows) => {
                rows.scale *= by;
                Form::Rows(if rows.stored == Stored::F32 { rows.decoded()? } else { rows })
            }
        }))
    }

    /// Returns one weight in `step` of the matrix as it is read: [input, output], one input after the other.
    ///
    /// # Errors
    /// As copying.
    pub fn every(&self, step: usize) -> Result<Vec<f32>> {
        let (step, n) = (step.max(1), self.elem_count());
        match &self.0 {
            Form::Tensor(t) => Ok(t.flatten_all()?.to_vec1::<f32>()?.into_iter().step_by(step).collect()),
            Form::Rows(r) => {
                let outputs = self.dims().1;
                let at = |i: usize| -> f32 {
                    let (input, output) = (i / outputs, i % outputs);
                    let (row, along) = if r.by_output { (output, input) } else { (input, output) };
                    let (group, col) = (along / r.cols(), along % r.cols());
                    let mut value = [0f32];
                    r.decode(group, row..row + 1, col..col + 1, &mut value, &mut Vec::new());
                    value[0]
                };
                Ok((0..n.div_ceil(step)).into_par_iter().with_min_len(64).map(|i| at(i * step)).collect())
            }
        }
    }
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

/// Stored rows, or a part of them. Groups of rows lie one behind the other and stand side by side: what a row of one
/// group is followed by is the same row of the next.
#[derive(Clone)]
pub struct Rows {
    /// The bytes of all rows, aligned for f32.
    words: Arc<Vec<f32>>,
    stored: Stored,
    /// True where a row holds the weights of one output, false where of one input.
    by_output: bool,
    /// Values of a stored row.
    width: usize,
    /// Stored rows of a group.
    height: usize,
    /// Numbers of the rows in the tensor, for changes, where they are held in another order.
    order: Option<Arc<Vec<u32>>>,
    changes: Vec<Arc<Change>>,
    /// What every value is multiplied by, last.
    scale: f32,
    groups: Range<usize>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{} x {}]", self.stored.name(), self.rows.len(), self.groups.len() * self.cols.len())
    }
}

impl Rows {
    /// Takes the bytes of `height` rows of `width` values, aligned for f32. Without any, only the sizes are known.
    pub fn new(words: Vec<f32>, stored: Stored, [height, width]: [usize; 2], by_output: bool) -> Self {
        Self {
            words: Arc::new(words),
            stored,
            by_output,
            width,
            height,
            order: None,
            changes: Vec::new(),
            scale: 1.0,
            groups: 0..1,
            rows: 0..height,
            cols: 0..width,
        }
    }

    /// Sets what is done to the values when they are decoded.
    #[must_use]
    pub fn changed(mut self, changes: Vec<Arc<Change>>) -> Self {
        self.changes = changes;
        self
    }

    /// Parts the rows into groups that stand side by side.
    #[must_use]
    pub fn grouped(mut self, groups: usize) -> Self {
        self.height /= groups.max(1);
        self.groups = 0..groups;
        self.rows = 0..self.height;
        self
    }

    /// Returns the named rows in this order; their bytes are copied.
    ///
    /// # Errors
    /// There is no such row.
    pub fn gathered(&self, order: &[u32]) -> Result<Self> {
        self.check(order, self.rows())?;
        let size = self.row_bytes();
        let mut words = if self.is_hollow() { Vec::new() } else { words_of(size * order.len()) };
        for (to, from) in bytemuck::cast_slice_mut::<f32, u8>(&mut words).chunks_exact_mut(size.max(1)).zip(order) {
            let at = (self.rows.start + *from as usize) * size;
            to.copy_from_slice(&self.all()[at..at + size]);
        }
        let numbers = order.iter().map(|row| self.number(self.rows.start + *row as usize) as u32).collect();
        Ok(Self {
            words: Arc::new(words),
            height: order.len(),
            rows: 0..order.len(),
            order: Some(Arc::new(numbers)),
            ..self.clone()
        })
    }

    /// Puts matrices of the same shape one behind the other.
    ///
    /// # Errors
    /// There is none.
    pub fn stacked(parts: &[Self]) -> Result<Self> {
        let first = parts.first().ok_or_else(|| Error::failed("there is nothing to stack"))?;
        // Changes belong to one part, so that parts with changes are decoded.
        let plain = |p: &Self| p.stored == first.stored && p.changes.is_empty();
        if !parts.iter().all(plain) {
            return Self::stacked(&parts.iter().map(Self::decoded).collect::<Result<Vec<_>>>()?);
        }
        let size = first.row_bytes() * first.height;
        let hollow = parts.iter().any(Self::is_hollow);
        let mut words = if hollow { Vec::new() } else { words_of(size * parts.len()) };
        for (to, part) in bytemuck::cast_slice_mut::<f32, u8>(&mut words).chunks_exact_mut(size.max(1)).zip(parts) {
            to.copy_from_slice(&part.all()[..size]);
        }
        let height = first.height * parts.len();
        Ok(Self::new(words, first.stored, [height, first.width], first.by_output))
    }

    /// Returns the same as f32.
    ///
    /// # Errors
    /// As copying.
    pub fn decoded(&self) -> Result<Self> {
        let (rows, cols) = (self.rows(), self.cols());
        let mut words = if self.is_hollow() { Vec::new() } else { vec![0f32; self.groups() * rows * cols] };
        words.par_chunks_mut(cols.max(1)).enumerate().for_each(|(i, out)| {
            self.decode(i / rows, i % rows..i % rows + 1, 0..cols, out, &mut Vec::new());
        });
        let height = self.groups() * rows;
        Ok(Self::new(words, Stored::F32, [height, cols], self.by_output).grouped(self.groups()))
    }

    pub fn is_hollow(&self) -> bool {
        self.words.is_empty()
    }

    fn row_bytes(&self) -> usize {
        self.stored.bytes(self.width).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        let (block, size) = self.stored.block();
        self.groups() * self.rows() * self.cols().div_ceil(block) * size
    }

    fn all(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// The number of a held row in its tensor.
    fn number(&self, held: usize) -> usize {
        self.order.as_ref().map_or(held, |order| order[held] as usize)
    }

    pub fn stored(&self) -> Stored {
        self.stored
    }

    pub fn by_output(&self) -> bool {
        self.by_output
    }

    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Rows of a group.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Values of a row of one group.
    pub fn cols(&self) -> usize {
        self.cols.len()
    }

    /// Shows the values of a group where they are held as f32: the first row, and how far rows lie apart.
    pub fn plain(&self, group: usize) -> Option<(&[f32], usize)> {
        let plain = self.stored == Stored::F32 && self.changes.is_empty() && self.scale.to_bits() == 1f32.to_bits();
        let first = (self.groups.start + group) * self.height + self.rows.start;
        plain.then(|| (&self.words[first * self.width + self.cols.start..], self.width))
    }

    /// Decodes a part of a group into `out` [rows, cols]. `scratch` is memory to work in.
    pub fn decode(
        &self,
        group: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let (block, size) = self.stored.block();
        let (from, to) = (self.cols.start + cols.start, self.cols.start + cols.end);
        // Changes see whole rows, and blocks are decoded whole.
        let (low, high) = match self.changes.as_slice() {
            [] => (from / block * block, to.next_multiple_of(block)),
            _ => (0, self.width),
        };
        let whole = (low, high) == (from, to);
        for (row, out) in rows.zip(out.chunks_exact_mut((to - from).max(1))) {
            let held = (self.groups.start + group) * self.height + self.rows.start + row;
            let at = held * self.row_bytes() + low / block * size;
            let bytes = &self.all()[at..at + (high - low) / block * size];
            if whole && self.changes.is_empty() {
                decode(self.stored, bytes, out);
            } else {
                scratch.resize(high - low, 0.0);
                decode(self.stored, bytes, scratch);
                for change in &self.changes {
                    change.apply(self.number(held), self.width, scratch);
                }
                out.copy_from_slice(&scratch[from - low..to - low]);
            }
            if self.scale.to_bits() != 1f32.to_bits() {
                out.iter_mut().for_each(|v| *v *= self.scale);
            }
        }
    }

    /// Returns some of the rows, or of what stands across them.
    fn narrow(&self, rows: bool, from: usize, n: usize) -> Result<Self> {
        let length = if rows { self.rows() } else { self.groups() * self.cols() };
        if from.checked_add(n).is_none_or(|end| end > length) {
            return Err(Error::failed(format!("a weight has {length} columns, not {}", from + n)));
        }
        let mut part = self.clone();
        if rows {
            part.rows = self.rows.start + from..self.rows.start + from + n;
            return Ok(part);
        }
        let cols = self.cols();
        let (group, within) = (from / cols.max(1), from % cols.max(1));
        if within + n <= cols {
            part.groups = self.groups.start + group..self.groups.start + group + 1;
            part.cols = self.cols.start + within..self.cols.start + within + n;
        } else if within == 0 && n.is_multiple_of(cols) {
            part.groups = self.groups.start + group..self.groups.start + group + n / cols;
        } else {
            return Err(Error::failed("a part of a weight lies across the bounds of its groups"));
        }
        Ok(part)
    }

    fn check(&self, ids: &[u32], most: usize) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= most) {
            Some(id) => Err(Error::failed(format!("a weight of {most} columns has none of number {id}"))),
            None => Ok(()),
        }
    }

    /// Returns whole rows [ids, all groups' cols], or what stands across them [ids, rows].
    fn lines(&self, ids: &[u32], rows: bool) -> Result<Tensor> {
        let (count, length) = (self.rows(), self.groups() * self.cols());
        self.check(ids, if rows { count } else { length })?;
        let width = if rows { length } else { count };
        let mut out = vec![0f32; ids.len() * width];
        let cols = self.cols();
        if rows {
            out.par_chunks_mut(length.max(1)).zip(ids).with_min_len(MANY / length.max(1)).for_each(|(out, id)| {
                let (row, mut scratch) = (*id as usize, Vec::new());
                for (group, out) in out.chunks_exact_mut(cols.max(1)).enumerate() {
                    self.decode(group, row..row + 1, 0..cols, out, &mut scratch);
                }
            });
        } else {
            out.par_chunks_mut(width.max(1)).zip(ids).with_min_len(MANY / width.max(1)).for_each(|(out, id)| {
                let (group, col) = (*id as usize / cols, *id as usize % cols);
                self.decode(group, 0..count, col..col + 1, out, &mut Vec::new());
            });
        }
        Ok(Tensor::from_vec(out, (ids.len(), width), &Device::Cpu)?)
    }
}

/// Returns memory for this many bytes, aligned for f32.
pub fn words_of(bytes: usize) -> Vec<f32> {
    vec![0f32; bytes.div_ceil(4)]
}
