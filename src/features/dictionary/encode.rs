//! Feature activations and reconstructions, by SAELens' formulas (`sae_lens/saes`, version 6).

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use crate::engine::kernels::math::simd;
use crate::engine::kernels::with_values;
use crate::error::{Error, Result};
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::progress::Progress;

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

    /// Nothing, and not yet ready to take rows: for [`Self::clear`].
    pub(super) const fn empty() -> Self {
        Self { starts: Vec::new(), features: Vec::new(), values: Vec::new() }
    }

    /// No rows, in the memory that is there.
    pub(super) fn clear(&mut self) {
        self.starts.clear();
        self.starts.push(0);
        self.features.clear();
        self.values.clear();
    }

    pub(super) fn reserve(&mut self, rows: usize, entries: usize) {
        self.starts.reserve(rows);
        self.features.reserve(entries);
        self.values.reserve(entries);
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
                Normalisation::Centre => {
                    let mean = row.iter().sum::<f32>() / width as f32;
                    row.iter_mut().for_each(|v| *v -= mean);
                    rows.push((mean, 1.0));
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
    pub fn output_scales(&self, x: &Tensor) -> Result<Vec<f32>> {
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

    /// What each feature reads of every row of `x` [n, d_in], before the activation function: [n, d_sae].
    ///
    /// # Errors
    /// Rows of another width.
    pub fn pre_activations(&self, x: &Tensor) -> Result<Tensor> {
        let (x, _) = self.prepared(x)?;
        let bias = Tensor::new(self.b_enc.as_slice(), x.device())?;
        Ok(x.matmul(&self.w_enc)?.broadcast_add(&bias)?)
    }

    /// The `k` largest of each row as they are; of equal ones those of the lowest numbers.
    fn largest(&self, x: &Tensor, k: usize, progress: &Progress) -> Result<Sparse> {
        let mut out = Sparse::new();
        for from in (0..x.dim(0)?).step_by(STRIP) {
            progress.check()?;
            let strip = x.narrow(0, from, STRIP.min(x.dim(0)? - from))?;
            let bias = Tensor::new(self.b_enc.as_slice(), x.device())?;
            for row in strip.matmul(&self.w_enc)?.broadcast_add(&bias)?.to_vec2::<f32>()? {
                let mut order: Vec<u32> = (0..row.len() as u32).collect();
                let first = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
                order.select_nth_unstable_by(k.saturating_sub(1), first);
                order.truncate(k);
                order.sort_unstable();
                let kept = order.into_iter().map(|f| (f, row[f as usize])).filter(|(_, v)| *v != 0.0);
                kept.for_each(|(f, v)| {
                    out.features.push(f);
                    out.values.push(v);
                });
                out.starts.push(out.features.len());
            }
        }
        Ok(out)
    }

    fn encode_prepared(&self, x: &Tensor, progress: &Progress) -> Result<Sparse> {
        if let Activation::Largest { k } = self.activation {
            return self.largest(x, k, progress);
        }
        let norms = if self.rescale { Some(self.decoder_norms()?) } else { None };
        let w_enc = self.w_enc.contiguous()?;
        let mut out = Sparse::new();
        let mut encode = |x: &[f32], w: &[f32]| -> Result<()> {
            for strip in x.chunks(STRIP * self.d_in) {
                progress.check()?;
                out.append(&crate::features::dictionary::tiles::encode(
                    self,
                    norms.as_deref(),
                    strip,
                    w,
                    strip.len() / self.d_in,
                ));
            }
            Ok(())
        };
        with_values(x, |x| with_values(&w_enc, |w| encode(x, w)))???;
        Ok(out)
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
