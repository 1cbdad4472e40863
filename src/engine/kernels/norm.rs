//! RMSNorm and LayerNorm over the last axis.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{fused, math, to_vec, values};
use crate::model::config::NormKind;
use crate::model::weights::Norm;

/// Returns x normalised over its last axis, times the gain, plus the offset. With `frozen`, the divisor is a constant
/// under differentiation.
pub fn apply(x: &Tensor, kind: NormKind, norm: &Norm, frozen: bool) -> candle_core::Result<Tensor> {
    let mut parameters = vec![x, &norm.weight];
    parameters.extend(&norm.bias);
    if fused(&parameters) {
        let weight = to_vec(&norm.weight)?;
        let bias = norm.bias.as_ref().map(to_vec).transpose()?;
        return x.apply_op1_no_bwd(&Fused { kind, weight, bias });
    }
    let (normalized, _) = composed(x, kind, frozen)?;
    affine(&normalized, norm)
}

/// Returns (x / scale, scale): x without the norm's gain and offset (centred first for LayerNorm), and the divisor,
/// [.., 1].
pub fn normalize(x: &Tensor, kind: NormKind, frozen: bool) -> candle_core::Result<(Tensor, Tensor)> {
    if fused(&[x]) {
        let plain = Fused { kind, weight: vec![1.0; x.dim(D::Minus1)?], bias: None };
        return Ok((x.apply_op1_no_bwd(&plain)?, x.apply_op1_no_bwd(&Scale(kind))?));
    }
    composed(x, kind, frozen)
}

fn composed(x: &Tensor, kind: NormKind, frozen: bool) -> candle_core::Result<(Tensor, Tensor)> {
    let (x, eps) = match kind {
        NormKind::Rms { eps } => (x.clone(), eps),
        NormKind::Layer { eps } => (x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?, eps),
    };
    let source = if frozen { x.detach() } else { x.clone() };
    let scale = (source.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    Ok((x.broadcast_div(&scale)?, scale))
}

/// Returns normalized · gain + offset.
pub fn affine(normalized: &Tensor, norm: &Norm) -> candle_core::Result<Tensor> {
    let y = normalized.broadcast_mul(&norm.weight)?;
    match &norm.bias {
        Some(b) => y.broadcast_add(b),
        None => Ok(y),
    }
}

struct Fused {
    kind: NormKind,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let d = self.weight.len();
        let mut out = vec![0.0; x.len()];
        let rows_at_once = (16_384 / d.max(1)).max(1);
        out.par_chunks_mut(rows_at_once * d).zip(x.par_chunks(rows_at_once * d)).for_each(|(out, x)| {
            math::simd(|| {
                for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    self.row(x, out);
                }
            });
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

impl Fused {
    #[inline(always)]
    fn row(&self, x: &[f32], out: &mut [f32]) {
        let (mean, scale) = mean_and_scale(x, self.kind);
        let factor = 1.0 / scale;
        for ((o, v), w) in out.iter_mut().zip(x).zip(&self.weight) {
            *o = (v - mean) * factor * w;
        }
        if let Some(bias) = &self.bias {
            for (o, b) in out.iter_mut().zip(bias) {
                *o += b;
            }
        }
    }
}

/// Returns the number that is subtracted from a row, and its divisor.
#[inline(always)]
fn mean_and_scale(x: &[f32], kind: NormKind) -> (f32, f32) {
    let n = x.len() as f32;
    let (mean, eps) = match kind {
        NormKind::Rms { eps } => (0.0, eps),
        NormKind::Layer { eps } => (sum(x, |v| v) / n, eps),
    };
    let square = sum(x, |v| (v - mean) * (v - mean)) / n;
    (mean, (square + eps).sqrt())
}

/// Returns the divisor of every row, [.., 1].
struct Scale(NormKind);

impl CustomOp1 for Scale {
    fn name(&self) -> &'static str {
        "norm scale"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut dims = layout.dims().to_vec();
        let d = dims.pop().unwrap_or(1).max(1);
        dims.push(1);
        let out = x.par_chunks(d).with_min_len(16).map(|row| math::simd(|| mean_and_scale(row, self.0).1)).collect();
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

/// Sums f(v) in sixteen lanes. That is SIMD, and rounds less than one running sum.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (head, tail) = x.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in head {
        for (s, v) in lanes.iter_mut().zip(chunk) {
            *s += f(*v);
        }
    }
    lanes.iter().sum::<f32>() + tail.iter().map(|v| f(*v)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn fused_equals_composed() {
        let x = Tensor::randn(1f32, 2f32, (3, 5, 37), &Device::Cpu).unwrap();
        let weight = Tensor::randn(0f32, 1f32, 37, &Device::Cpu).unwrap();
        let bias = Tensor::randn(0f32, 1f32, 37, &Device::Cpu).unwrap();
        for (kind, bias) in [(NormKind::Rms { eps: 1e-5 }, None), (NormKind::Layer { eps: 1e-5 }, Some(bias))] {
            let norm = Norm { weight: weight.clone(), bias };
            let a = apply(&x, kind, &norm, false).unwrap();
            let (plain, scale) = composed(&x, kind, false).unwrap();
            let b = affine(&plain, &norm).unwrap();
            let worst =
                |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst(&a, &b) < 1e-5);
            let (fused_plain, fused_scale) = normalize(&x, kind, false).unwrap();
            assert!(worst(&plain, &fused_plain) < 1e-5 && worst(&scale, &fused_scale) < 1e-5);
        }
    }
}
