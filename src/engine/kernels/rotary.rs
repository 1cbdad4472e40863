//! Rotary positions: pairs of dimensions of q and k turn by an angle that grows with the position, so that q · k
//! depends on the distance of the two positions [Su et al. 2021, "RoFormer"].

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{fused, values};
use crate::model::rotary::{Rotary, RotaryStyle};

/// Cosines and sines for positions start..start + n, each [n, dims/2].
#[derive(Clone, Debug)]
pub struct Table {
    dims: usize,
    style: RotaryStyle,
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
}

impl Table {
    /// The table of a prompt's `n` tokens from position `start` on.
    pub fn new(rotary: &Rotary, start: usize, n: usize) -> Self {
        let frequencies = rotary.frequencies(start + n);
        // The angle is rounded to f32 before its sine is taken, as the reference implementations do.
        let angles = (start..start + n).flat_map(|p| frequencies.iter().map(move |f| p as f32 * *f as f32));
        let magnitude = rotary.magnitude as f32;
        let (sin, cos): (Vec<f32>, Vec<f32>) =
            angles.map(f32::sin_cos).map(|(sin, cos)| (sin * magnitude, cos * magnitude)).unzip();
        Self { dims: rotary.dims, style: rotary.style, cos: Arc::new(cos), sin: Arc::new(sin) }
    }

    /// Returns the table of rows at these positions, counted from the table's first one.
    #[must_use]
    pub fn rows(&self, positions: &[usize]) -> Self {
        let half = self.dims / 2;
        let gather =
            |v: &[f32]| Arc::new(positions.iter().flat_map(|p| &v[p * half..(p + 1) * half]).copied().collect());
        Self { dims: self.dims, style: self.style, cos: gather(&self.cos), sin: gather(&self.sin) }
    }

    /// Returns the table of the inverse rotation.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { sin: Arc::new(self.sin.iter().map(|s| -s).collect()), ..self.clone() }
    }

    /// Turns x [batch, pos, head, d_head].
    pub fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if fused(&[x]) { x.apply_op1_no_bwd(self) } else { self.composed(x) }
    }

    fn composed(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t, h, d) = x.dims4()?;
        let half = self.dims / 2;
        let table = |v: &[f32]| Tensor::from_slice(v, (1, t, 1, half), x.device());
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let turn = |x1: &Tensor, x2: &Tensor| -> candle_core::Result<(Tensor, Tensor)> {
            Ok((
                (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?,
                (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?,
            ))
        };
        let turned = match self.style {
            RotaryStyle::Half => {
                let (y1, y2) = turn(&x.narrow(3, 0, half)?, &x.narrow(3, half, half)?)?;
                Tensor::cat(&[y1, y2], D::Minus1)?
            }
            RotaryStyle::Adjacent => {
                let pairs = x.narrow(3, 0, self.dims)?.contiguous()?.reshape((b, t, h, half, 2))?;
                let part = |i| pairs.narrow(4, i, 1)?.squeeze(4);
                let (y1, y2) = turn(&part(0)?, &part(1)?)?;
                Tensor::stack(&[y1, y2], 4)?.reshape((b, t, h, self.dims))?
            }
        };
        if self.dims == d {
            return Ok(turned);
        }
        Tensor::cat(&[turned, x.narrow(3, self.dims, d - self.dims)?], D::Minus1)
    }
}

impl CustomOp1 for Table {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (_, t, h, d) = layout.shape().dims4()?;
        let half = self.dims / 2;
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(h * d).zip(x.par_chunks(h * d)).with_min_len(16).enumerate().for_each(|(row, (out, x))| {
            let at = (row % t) * half;
            let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
            out.copy_from_slice(x);
            for head in 0..h {
                let (x, out) = (&x[head * d..(head + 1) * d], &mut out[head * d..(head + 1) * d]);
                for i in 0..half {
                    let (a, b) = match self.style {
                        RotaryStyle::Half => (i, i + half),
                        RotaryStyle::Adjacent => (2 * i, 2 * i + 1),
                    };
                    out[a] = x[a] * cos[i] - x[b] * sin[i];
                    out[b] = x[b] * cos[i] + x[a] * sin[i];
                }
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn fused_equals_composed() {
        let x = Tensor::randn(0f32, 1f32, (2, 5, 3, 8), &Device::Cpu).unwrap();
        for style in [RotaryStyle::Half, RotaryStyle::Adjacent] {
            for dims in [4, 8] {
                let rotary = Rotary::plain(dims, 100.0, style);
                let table = Table::new(&rotary, 3, 5);
                let difference = (table.apply(&x).unwrap() - table.composed(&x).unwrap()).unwrap();
                let worst = difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(worst < 1e-6, "{style:?} {dims} {worst}");
                let back = (table.inverse().apply(&table.apply(&x).unwrap()).unwrap() - &x).unwrap();
                assert!(back.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
            }
        }
    }
}
