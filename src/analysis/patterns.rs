//! Attention patterns to look at: one head's pattern in full, and small pictures (thumbnails) of all heads.

use std::ops::Range;

use candle_core::Tensor;

use super::subject::{Compared, Subject};
use crate::engine::Trace;
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Question;

/// Cells along one side of a thumbnail. Longer patterns are pooled down to this size.
pub const THUMB: usize = 40;

/// Thumbnails of every head's pattern. A pooled cell keeps the largest of its values, so that a single strong cell
/// stays visible.
#[derive(Clone, Debug)]
pub struct Thumbnails {
    /// Cells along each side.
    pub side: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// [layer][head][dest][src], flat.
    pub values: Vec<f32>,
}

impl Thumbnails {
    /// Returns the cells of one head, [dest][src], flat.
    pub fn head(&self, layer: usize, head: usize) -> &[f32] {
        let n = self.side * self.side;
        let at = (layer * self.n_heads + head) * n;
        self.values.get(at..at + n).unwrap_or(&[])
    }
}

/// Computes the thumbnails of all heads. The positions of each range of `folded` share one row and one column.
pub fn thumbnails(trace: &Trace, folded: &[Range<usize>], progress: &Progress) -> Result<Thumbnails> {
    let c = &trace.model.config;
    let t = trace.len();
    let rows = rows_of(t, folded);
    let side = rows.last().map_or(0, |r| r + 1);
    progress.expect(c.n_layers as u64);
    let mut values = Vec::with_capacity(c.n_layers * c.n_heads * side * side);
    for layer in 0..c.n_layers {
        values.extend(trace.each_pattern(layer, |p| pool(p, &rows))?.into_iter().flatten());
        progress.step(1)?;
    }
    Ok(Thumbnails { side, n_layers: c.n_layers, n_heads: c.n_heads, values })
}

/// Returns the row of a thumbnail that each of `t` positions stands in.
fn rows_of(t: usize, folded: &[Range<usize>]) -> Vec<usize> {
    let joins = |pos: usize| folded.iter().any(|r| r.contains(&pos) && pos > r.start);
    let mut next = 0;
    let mut rows: Vec<usize> = Vec::with_capacity(t);
    for pos in 0..t {
        next += usize::from(pos > 0 && !joins(pos));
        rows.push(next);
    }
    let n = next + 1;
    let side = n.min(THUMB);
    rows.iter_mut().for_each(|r| *r = *r * side / n);
    rows
}

/// Returns the largest value of each block of a matrix; `rows` has the block of each of its rows and columns.
fn pool(values: &[f32], rows: &[usize]) -> Vec<f32> {
    let (t, side) = (rows.len(), rows.last().map_or(0, |r| r + 1));
    if t == side {
        return values.to_vec();
    }
    let mut out = vec![0f32; side * side];
    for i in 0..t {
        for j in 0..=i {
            let slot = &mut out[rows[i] * side + rows[j]];
            *slot = slot.max(values[i * t + j]);
        }
    }
    out
}

/// The pattern that is shown in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatternChoice {
    Head(usize, usize),
    /// The mean over the heads of a layer.
    LayerMean(usize),
    /// The mean over all heads.
    ModelMean,
}

/// Returns a pattern [dest][src], flat.
pub fn pattern(trace: &Trace, which: PatternChoice, progress: &Progress) -> Result<Vec<f32>> {
    let flat = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
    match which {
        PatternChoice::Head(layer, head) => flat(trace.head_pattern(layer, head)?),
        PatternChoice::LayerMean(layer) => flat(trace.mean_pattern(layer)?),
        PatternChoice::ModelMean => {
            let n = trace.model.config.n_layers;
            progress.expect(n as u64);
            let mut sum = trace.mean_pattern(0)?;
            for layer in 1..n {
                sum = (sum + trace.mean_pattern(layer)?)?;
                progress.step(1)?;
            }
            flat((sum / n as f64)?)
        }
    }
}

/// Asks for one pattern, [dest][src] flat.
#[derive(Clone, PartialEq)]
pub struct PatternOf {
    pub subject: Subject,
    pub which: PatternChoice,
}

impl Question for PatternOf {
    type Answer = Compared<Vec<f32>>;
    const LABEL: &'static str = "attention pattern";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        self.subject.ask(|trace| pattern(trace, self.which, progress))
    }
}

/// Asks for thumbnails of all heads.
#[derive(Clone, PartialEq)]
pub struct ThumbnailsOf {
    pub subject: Subject,
    /// Positions that are drawn as one.
    pub folded: Vec<Range<usize>>,
}

impl Question for ThumbnailsOf {
    type Answer = Compared<Thumbnails>;
    const LABEL: &'static str = "all attention patterns";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        self.subject.ask(|trace| thumbnails(trace, &self.folded, progress))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_keeps_the_hot_cell() {
        let t = 100;
        let mut p = vec![0f32; t * t];
        p[77 * t + 13] = 0.9;
        let pooled = pool(&p, &rows_of(t, &[]));
        assert_eq!(pooled[30 * 40 + 5], 0.9);
        assert_eq!(pooled.iter().filter(|v| **v > 0.0).count(), 1);
    }

    #[test]
    fn folded_positions_share_a_row() {
        assert_eq!(rows_of(5, std::slice::from_ref(&(1..4))), [0, 1, 1, 1, 2]);
        assert_eq!(rows_of(3, &[0..2, 2..9]), [0, 0, 1]);
        // What the last position sees of the folded ones is the most it sees of any of them.
        let p = [1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.1, 0.7, 0.2];
        assert_eq!(pool(&p, &rows_of(3, std::slice::from_ref(&(0..2)))), [1.0, 0.0, 0.7, 0.2]);
    }
}
