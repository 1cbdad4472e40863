//! Feature activations and reconstructions, by SAELens' formulas (`sae_lens/saes`, version 6).

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use super::dictionary::{Activation, Dictionary, Normalisation};
use crate::engine::kernels::math::simd;
use crate::engine::kernels::with_values;
use crate::error::{Error, Result};
use crate::jobs::Progress;

/// Rows that are encoded at a time: enough for the matrix product, few enough that pre-activations stay small.
const STRIP: usize = 512;

/// Activations of many positions: of each row, the active features in ascending order, and how active they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sparse {
    /// Row r has the entries `starts[r]..starts[r + 1]`.
    pub starts: Vec<usize>,
    pub features: Vec<u32>,
    pub values: Vec<f32>,
}

impl Sparse {
    pub fn new() -> Self {
        Self { starts: vec![0], ..Self::default() }
    }

    /// What is positive in rows of `width` values, one behind the other.
    pub fn positive(values: &[f32], width: usize) -> Self {
        let mut all = Self::new();
        for row in values.chunks_exact(width.max(1)) {
            for (i, v) in row.iter().enumerate().filter(|(_, v)| **v > 0.0) {
                all.features.push(i as u32);
                all.values.push(*v);
            }
            all.starts.push(all.features.len());
        }
        all
    }

    pub fn rows(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// A row's active features and their activations.
    pub fn row(&self, r: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let span = match (self.starts.get(r), self.starts.get(r + 1)) {
            (Some(a), Some(b)) => *a..*b,
            _ => 0..0,
        };
        self.features[span.clone()].iter().copied().zip(self.values[span].iter().copied())
    }

    /// A feature's activation in a row.
    pub fn at(&self, r: usize, feature: u32) -> f32 {
        let (Some(a), Some(b)) = (self.starts.get(r), self.starts.get(r + 1)) else { return 0.0 };
        self.features[*a..*b].binary_search(&feature).map_or(0.0, |i| self.values[a + i])
    }

    pub fn append(&mut self, other: &Self) {
        let base = self.features.len();
        self.starts.extend(other.starts.iter().skip(1).map(|s| base + s));
        self.features.extend_from_slice(&other.features);
        self.values.extend_from_slice(&other.values);
    }

    /// All rows in full, [rows, d_sae].
    ///
    /// # Errors
    /// As making a tensor.
    pub fn dense(&self, d_sae: usize) -> Result<Tensor> {
        let mut all = vec![0f32; self.rows() * d_sae];
        for r in 0..self.rows() {
            for (f, v) in self.row(r) {
                all[r * d_sae + f as usize] = v;
            }
        }
        Ok(Tensor::from_vec(all, (self.rows(), d_sae), &Device::Cpu)?)
    }
}

/// What normalisation took out of each row: mean and scale, to be put back after decoding.
pub struct Undo {
    rows: Vec<(f32, f32)>,
}

/// SAELens divides by the standard deviation plus this.
const EPS: f32 = 1e-5;

impl Dictionary {
    /// The input as the encoder takes it: normalised, `b_dec` subtracted where the dictionary does so; [n, d_in].
    fn prepared(&self, x: &Tensor) -> Result<(Tensor, Undo)> {
        let (n, width) = x.dims2()?;
        if width != self.d_in {
            return Err(Error::request(format!(
                "the dictionary {} reads vectors [{}], but these are [{width}]",
                self.path.display(),
                self.d_in
            )));
        }
        if self.normalisation == Normalisation::None && !self.subtract_b_dec {
            return Ok((x.contiguous()?, Undo { rows: Vec::new() }));
        }
        let mut data = x.flatten_all()?.to_vec1::<f32>()?;
        let mut rows = Vec::new();
        for row in data.chunks_exact_mut(width) {
            match self.normalisation {
                Normalisation::None => {}
                Normalisation::Layer => {
                    let mean = row.iter().sum::<f32>() / width as f32;
                    row.iter_mut().for_each(|v| *v -= mean);
                    let variance = row.iter().map(|v| v * v).sum::<f32>() / (width.max(2) - 1) as f32;
                    let std = variance.sqrt();
                    row.iter_mut().for_each(|v| *v /= std + EPS);
                    rows.push((mean, std));
                }
                Normalisation::Length => {
                    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                    let scale = (width as f32).sqrt() / length.max(f32::MIN_POSITIVE);
                    row.iter_mut().for_each(|v| *v *= scale);
                    rows.push((0.0, scale.recip()));
                }
            }
            if self.subtract_b_dec {
                row.iter_mut().zip(&self.b_dec).for_each(|(v, b)| *v -= b);
            }
        }
        Ok((Tensor::from_vec(data, (n, width), x.device())?, Undo { rows }))
    }

    /// What every row's reconstruction is multiplied by after decoding, [n]: 1 without normalisation.
    pub(super) fn output_scales(&self, x: &Tensor) -> Result<Vec<f32>> {
        let (_, undo) = self.prepared(x)?;
        if undo.rows.is_empty() || self.transcoder {
            return Ok(vec![1.0; x.dim(0)?]);
        }
        Ok(undo.rows.iter().map(|(_, scale)| *scale).collect())
    }

    /// The active features of every row of `x` [n, d_in].
    ///
    /// # Errors
    /// Rows of another width, or [`Error::Cancelled`].
    pub fn encode(&self, x: &Tensor, progress: &Progress) -> Result<Sparse> {
        let (x, _) = self.prepared(x)?;
        self.encode_prepared(&x, progress)
    }

    fn encode_prepared(&self, x: &Tensor, progress: &Progress) -> Result<Sparse> {
        let n = x.dim(0)?;
        let norms = if self.rescale { Some(self.decoder_norms()?) } else { None };
        let mut out = Sparse::new();
        let mut at = 0;
        while at < n {
            progress.check()?;
            let rows = STRIP.min(n - at);
            let pre = x.narrow(0, at, rows)?.matmul(&self.w_enc)?;
            let found = with_values(&pre, |pre| {
                let rows = pre.par_chunks(self.d_sae);
                rows.map_init(|| 0f32, |guess, row| simd(|| self.activate(row, norms.as_deref(), guess)))
                    .collect::<Vec<_>>()
            })?;
            for (features, values) in found {
                out.features.extend_from_slice(&features);
                out.values.extend_from_slice(&values);
                out.starts.push(out.features.len());
            }
            at += rows;
        }
        Ok(out)
    }

    /// One row of `x·W_enc` → the active features. `guess` is a value somewhat below where the k largest ended in the row
    /// before: most features lie far below it and need not be compared.
    #[inline(always)]
    fn activate(&self, row: &[f32], norms: Option<&[f32]>, guess: &mut f32) -> (Vec<u32>, Vec<f32>) {
        let (mut features, mut values) = (Vec::with_capacity(128), Vec::with_capacity(128));
        let scale = |j: usize| norms.map_or(1.0, |n| n[j]);
        let mut push = |j: usize, v: f32| {
            features.push(j as u32);
            values.push(v);
        };
        match &self.activation {
            Activation::Relu => positive(row, &self.b_enc, |j, v| push(j, v * scale(j))),
            Activation::JumpRelu { threshold } => positive(row, &self.b_enc, |j, v| {
                if v > threshold[j] {
                    push(j, v * scale(j));
                }
            }),
            Activation::Gated { r_mag, b_mag } => {
                for (j, (v, b)) in row.iter().zip(&self.b_enc).enumerate() {
                    if v + b > 0.0 {
                        let m = v * r_mag[j].exp() + b_mag[j];
                        if m > 0.0 {
                            push(j, m * scale(j));
                        }
                    }
                }
            }
            Activation::TopK { k } if norms.is_some() => {
                let pre: Vec<f32> =
                    row.iter().zip(&self.b_enc).enumerate().map(|(j, (v, b))| (v + b) * scale(j)).collect();
                largest(&pre, *k).into_iter().filter(|(_, v)| *v > 0.0).for_each(|(j, v)| push(j, v));
            }
            Activation::TopK { k } => {
                let (mut at, mut candidates) = (Vec::with_capacity(4 * k), Vec::with_capacity(4 * k));
                // A guess that is too high for this row finds too few: then it is lowered, at last to all positive
                // ones. `above` is called in one place, so that it is compiled into this function and with its wide
                // instructions.
                for least in [*guess, 0.5 * *guess, 0.0] {
                    at.clear();
                    candidates.clear();
                    above(row, &self.b_enc, least, |j, v| {
                        at.push(j);
                        candidates.push(v);
                    });
                    if candidates.len() >= *k || least == 0.0 {
                        break;
                    }
                }
                let chosen = largest(&candidates, *k);
                let border = chosen.iter().map(|(_, v)| *v).fold(f32::INFINITY, f32::min);
                let mean = chosen.iter().map(|(_, v)| *v).sum::<f32>() / chosen.len().max(1) as f32;
                // Below the border by a part of how far the chosen ones stand above it: in the tail of a normal
                // distribution that finds about twice as many as are wanted.
                let next = border - 0.75 * (mean - border);
                *guess = if chosen.len() == *k && next.is_finite() { next.max(0.0) } else { 0.0 };
                chosen.into_iter().for_each(|(i, v)| push(at[i], v));
            }
        }
        (features, values)
    }

    /// What the features write, [rows, d_out], `b_dec` included, normalisation not undone.
    fn write(&self, acts: &Sparse) -> Result<Vec<f32>> {
        let norms = if self.rescale { Some(self.decoder_norms()?) } else { None };
        let (d, n) = (self.d_out, acts.rows());
        let mut out = vec![0f32; n * d];
        with_values(&self.w_dec, |w| {
            out.par_chunks_mut(d.max(1)).enumerate().for_each(|(r, row)| {
                row.copy_from_slice(&self.b_dec);
                for (f, v) in acts.row(r) {
                    let f = f as usize;
                    let v = norms.as_ref().map_or(v, |n| v / n[f].max(f32::MIN_POSITIVE));
                    simd(|| row.iter_mut().zip(&w[f * d..(f + 1) * d]).for_each(|(o, w)| *o += v * w));
                }
            });
        })?;
        Ok(out)
    }

    /// Features and reconstruction of every row of `x` [n, d_in]: the latter [n, d_out]. A transcoder's skip path is
    /// not part of it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn run(&self, x: &Tensor, progress: &Progress) -> Result<(Sparse, Tensor)> {
        let (prepared, undo) = self.prepared(x)?;
        let acts = self.encode_prepared(&prepared, progress)?;
        let mut out = self.write(&acts)?;
        // SAELens does not undo the normalisation of a transcoder's input on its output.
        if !self.transcoder {
            for (row, (mean, scale)) in out.chunks_exact_mut(self.d_out).zip(&undo.rows) {
                row.iter_mut().for_each(|v| *v = *v * scale + mean);
            }
        }
        let n = acts.rows();
        Ok((acts, Tensor::from_vec(out, (n, self.d_out), &Device::Cpu)?))
    }

    /// Reconstruction with the skip path, where there is one: what stands in for the original in a model.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn replacement(&self, x: &Tensor, progress: &Progress) -> Result<(Sparse, Tensor)> {
        let (acts, out) = self.run(x, progress)?;
        match &self.skip {
            Some(skip) => Ok((acts, (out + x.matmul(skip)?)?)),
            None => Ok((acts, out)),
        }
    }

    /// How a feature's reading and writing directions agree: cosine of encoder column and decoder row, [d_sae];
    /// nothing for a transcoder between sites of different width.
    ///
    /// # Errors
    /// As the product.
    pub fn encoder_decoder_cosine(&self) -> Result<Option<Vec<f32>>> {
        if self.d_in != self.d_out {
            return Ok(None);
        }
        let dot = (self.w_enc.t()?.contiguous()? * &self.w_dec)?.sum(D::Minus1)?;
        let lengths = (self.w_enc.sqr()?.sum(0)?.sqrt()? * self.w_dec.sqr()?.sum(1)?.sqrt()?)?;
        let (dot, lengths) = (dot.to_vec1::<f32>()?, lengths.to_vec1::<f32>()?);
        Ok(Some(dot.iter().zip(lengths).map(|(d, l)| if l > 0.0 { d / l } else { 0.0 }).collect()))
    }
}

/// Calls `each` with every v + b above zero.
#[inline(always)]
fn positive(row: &[f32], bias: &[f32], each: impl FnMut(usize, f32)) {
    above(row, bias, 0.0, each);
}

/// Calls `each` with every v + b above `least`. The comparisons of 32 neighbours go together and leave a bit each, of
/// which few are set: most features are silent.
#[inline(always)]
fn above(row: &[f32], bias: &[f32], least: f32, mut each: impl FnMut(usize, f32)) {
    const LANES: usize = u32::BITS as usize;
    let n = row.len().min(bias.len());
    let ((parts, rest), (biases, bias_rest)) = (row[..n].as_chunks::<LANES>(), bias[..n].as_chunks::<LANES>());
    for (part, (v, b)) in parts.iter().zip(biases).enumerate() {
        let mut set = 0u32;
        // By index: zipped iterators here are not turned into vector instructions.
        for i in 0..LANES {
            set |= u32::from(v[i] + b[i] > least) << i;
        }
        while set != 0 {
            let i = set.trailing_zeros() as usize;
            each(part * LANES + i, v[i] + b[i]);
            set &= set - 1;
        }
    }
    for (i, (v, b)) in rest.iter().zip(bias_rest).enumerate() {
        if v + b > least {
            each(n - rest.len() + i, v + b);
        }
    }
}

/// The k largest values with their indices, in ascending order of index; equal values at the border are taken from the
/// left.
pub(super) fn largest(values: &[f32], k: usize) -> Vec<(usize, f32)> {
    if k >= values.len() {
        return values.iter().copied().enumerate().collect();
    }
    if k == 0 {
        return Vec::new();
    }
    let mut scratch = values.to_vec();
    let (_, border, _) = scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let border = *border;
    let above = values.iter().filter(|v| v.total_cmp(&border).is_gt()).count();
    let mut ties = k - above;
    values
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, v)| match v.total_cmp(&border) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal if ties > 0 => {
                ties -= 1;
                true
            }
            _ => false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_and_ties() {
        assert_eq!(largest(&[1.0, 5.0, 3.0, 5.0, 2.0], 2), [(1, 5.0), (3, 5.0)]);
        assert_eq!(largest(&[2.0, 2.0, 2.0], 2), [(0, 2.0), (1, 2.0)]);
        assert_eq!(largest(&[1.0], 3), [(0, 1.0)]);
        assert!(largest(&[1.0, 2.0], 0).is_empty());
    }

    #[test]
    fn sparse_rows_read_back() {
        let mut s = Sparse::new();
        s.append(&Sparse { starts: vec![0, 2, 2], features: vec![1, 4], values: vec![0.5, 2.0] });
        s.append(&Sparse { starts: vec![0, 1], features: vec![0], values: vec![7.0] });
        assert_eq!(s.rows(), 3);
        assert_eq!(s.row(0).collect::<Vec<_>>(), [(1, 0.5), (4, 2.0)]);
        assert_eq!((s.at(0, 4), s.at(1, 4), s.at(2, 0), s.at(9, 0)), (2.0, 0.0, 7.0, 0.0));
        let dense: Vec<Vec<f32>> = s.dense(5).unwrap().to_vec2().unwrap();
        assert_eq!(dense[2], [7.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn positive_values_are_found_wherever_they_stand() {
        let row: Vec<f32> = (0..69).map(|i| if i % 15 == 1 || i == 68 { i as f32 } else { -1.0 }).collect();
        let mut found = Vec::new();
        positive(&row, &[0.0; 69], |j, v| found.push((j, v)));
        assert_eq!(found, [(1, 1.0), (16, 16.0), (31, 31.0), (46, 46.0), (61, 61.0), (68, 68.0)]);
    }
}
