//! The pullback of a norm.

use std::mem::MaybeUninit;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::engine::kernels::{filled, math, norm, to_vec, with_values};
use crate::error::{Error, Result};
use crate::model::config::NormKind;

/// The derivative of x̂ · gain with x̂ = (x − mean) / s, at some rows: it takes g to (ĝ − x̂ (ĝ · x̂) / n) / s with
/// ĝ = g · gain, less its mean where the norm subtracts one. A row may hold several groups that are normalised by
/// themselves, as queries by head.
pub(super) struct NormBack {
    /// Coordinates of a group.
    width: usize,
    /// Of all groups of a row.
    gain: Vec<f32>,
    /// x̂ of all rows.
    hat: Vec<f32>,
    /// 1 / s of each group.
    inverse: Vec<f32>,
    centres: bool,
}

impl NormBack {
    /// Of rows x [rows, groups · width]. A gain of one group stands for all of them.
    pub(super) fn new(kind: NormKind, gain: &Tensor, x: &Tensor, width: usize) -> Result<Self> {
        let (rows, all) = x.dims2()?;
        let groups = all / width.max(1);
        let (hat, scale) = norm::normalize(&x.reshape((rows * groups, width))?, kind, false)?;
        let gain = to_vec(gain)?;
        let gain = if gain.len() == all { gain } else { gain.repeat(groups) };
        let inverse = to_vec(&scale)?.into_iter().map(f32::recip).collect();
        Ok(Self { width, gain, hat: to_vec(&hat)?, inverse, centres: matches!(kind, NormKind::Layer { .. }) })
    }

    /// Takes g [n · rows, groups · width] back, and adds `add`.
    pub(super) fn back(&self, g: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        let g = g.contiguous()?;
        if !g.elem_count().is_multiple_of(self.hat.len()) {
            return Err(Error::failed("cotangents do not fit the rows of a norm"));
        }
        if add.is_some_and(|add| add.dims() != g.dims()) {
            return Err(Error::failed("what is added to a norm's cotangents has another shape"));
        }
        let row = self.gain.len();
        let rows = self.hat.len() / row;
        let back = |g: &[f32], add: Option<&[f32]>| {
            let one = |r: usize, out: &mut [MaybeUninit<f32>]| {
                let span = r * row..(r + 1) * row;
                math::simd(|| self.row(r % rows, &g[span.clone()], add.map(|add| &add[span]), out));
            };
            // SAFETY: a norm's rows are whole, and each is written.
            unsafe {
                filled(g.len(), |out| {
                    out.par_chunks_exact_mut(row).with_min_len(8).enumerate().for_each(|(r, out)| one(r, out));
                })
            }
        };
        let out = match add.map(Tensor::contiguous).transpose()? {
            Some(add) => with_values(&g, |g| with_values(&add, |add| back(g, Some(add))))??,
            None => with_values(&g, |g| back(g, None))?,
        };
        Ok(Tensor::from_vec(out, g.shape().clone(), g.device())?)
    }

    #[inline(always)]
    fn row(&self, at: usize, g: &[f32], add: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
        let row = self.gain.len();
        let groups = row / self.width;
        let n = self.width as f32;
        for i in 0..groups {
            let span = i * self.width..(i + 1) * self.width;
            let (g, gain, hat) = (&g[span.clone()], &self.gain[span.clone()], &self.hat[at * row..][span.clone()]);
            let (along, mean) = sums(g, gain, hat);
            let (along, mean) = (along / n, if self.centres { mean / n } else { 0.0 });
            let inverse = self.inverse[at * groups + i];
            let value = |((g, w), h): ((&f32, &f32), &f32)| inverse * (g * w - mean - h * along);
            let values = g.iter().zip(gain).zip(hat).map(value);
            let out = out[span.clone()].iter_mut();
            match add {
                Some(add) => out.zip(&add[span]).zip(values).for_each(|((o, a), v)| _ = o.write(a + v)),
                None => out.zip(values).for_each(|(o, v)| _ = o.write(v)),
            }
        }
    }
}

/// Σ g · gain · x̂ and Σ g · gain, in sixteen lanes.
#[inline(always)]
fn sums(g: &[f32], gain: &[f32], hat: &[f32]) -> (f32, f32) {
    let (mut along, mut mean) = ([0f32; 16], [0f32; 16]);
    let (gs, g_rest) = g.as_chunks::<16>();
    let (ws, w_rest) = gain.as_chunks::<16>();
    let (hs, h_rest) = hat.as_chunks::<16>();
    for ((g, w), h) in gs.iter().zip(ws).zip(hs) {
        for i in 0..16 {
            let scaled = g[i] * w[i];
            along[i] += scaled * h[i];
            mean[i] += scaled;
        }
    }
    let (mut a, mut m) = (along.iter().sum::<f32>(), mean.iter().sum::<f32>());
    for ((g, w), h) in g_rest.iter().zip(w_rest).zip(h_rest) {
        a += g * w * h;
        m += g * w;
    }
    (a, m)
}
