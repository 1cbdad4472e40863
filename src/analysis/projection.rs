//! Projects the residual stream to two dimensions, to see how it moves through the layers: principal component analysis
//! (PCA) of its rows at chosen layers and positions. The two directions along which the rows vary most become the axes.

use candle_core::Tensor;

use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::question::Question;
use std::sync::Arc;

/// The rows of the residual stream along two principal components.
#[derive(Clone, Debug)]
pub struct Projection {
    /// The layers whose resid_pre took part, ascending; n_layers stands for the final residual stream.
    pub layers: Vec<usize>,
    /// The first position that took part.
    pub first: usize,
    /// points[index into `layers`][pos − first] = coordinates along the two components.
    pub points: Vec<Vec<[f32; 2]>>,
    /// The share of the total variance that each component explains.
    pub explained: [f32; 2],
}

/// The rows that take part, and how they are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// First and last layer that take part; `n_layers` is the last block's output. Clamped to the model.
    pub layers: (usize, usize),
    /// First and last position that take part, clamped to the prompt.
    pub positions: (usize, usize),
    /// Leaves position 0 out of the fit. It is an outlier in many models (the attention sink) and would take a
    /// component for itself.
    pub skip_first: bool,
    /// Divides every row by its norm, so that the growth with depth does not dominate.
    pub normalise: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { layers: (0, usize::MAX), positions: (0, usize::MAX), skip_first: true, normalise: true }
    }
}

/// Runs the PCA of the residual stream at the chosen layers and positions.
///
/// # Errors
/// There are fewer than two points; [`Error::Cancelled`].
pub fn projection(trace: &Trace, settings: Settings, progress: &Progress) -> Result<Projection> {
    let n_layers = trace.model.config.n_layers;
    let last = settings.layers.1.min(n_layers);
    let layers: Vec<usize> = (settings.layers.0.min(last)..=last).collect();
    let end = settings.positions.1.min(trace.len() - 1);
    let first = settings.positions.0.min(end);
    let t = end - first + 1;
    let skip = usize::from(settings.skip_first && first == 0 && t > 2);
    let prepare = |x: Tensor| -> Result<Tensor> {
        if settings.normalise {
            let norm = (x.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-12)?;
            Ok(x.broadcast_div(&norm)?)
        } else {
            Ok(x)
        }
    };
    let all = layers.iter().map(|l| prepare(trace.resid(*l)?.narrow(0, first, t)?)).collect::<Result<Vec<_>>>()?;
    let fit = all.iter().map(|x| Ok(x.narrow(0, skip, t - skip)?)).collect::<Result<Vec<_>>>()?;
    let fit = Tensor::cat(&fit, 0)?;
    if fit.dim(0)? < 2 {
        return Err(Error::request("a projection needs at least two points; give a longer prompt or more layers"));
    }
    let mean = fit.mean_keepdim(0)?;
    let (components, explained) = principal(&fit.broadcast_sub(&mean)?, progress)?;
    let points = all
        .iter()
        .map(|x| {
            let y: Vec<Vec<f32>> = x.broadcast_sub(&mean)?.matmul(&components)?.to_vec2()?;
            Ok(y.into_iter().map(|r| [r[0], r[1]]).collect())
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Projection { layers, first, points, explained })
}

/// Returns the two first right singular vectors [d, 2] of centred rows [n, d], and their shares of the variance.
/// Computes them by subspace iteration with a few vectors (Halko, Martinsson, Tropp 2011, section 4.5).
fn principal(x: &Tensor, progress: &Progress) -> Result<(Tensor, [f32; 2])> {
    const VECTORS: usize = 6;
    const ROUNDS: usize = 24;
    let d = x.dim(1)?;
    let k = VECTORS.min(d);
    progress.expect(ROUNDS as u64);
    // The start is fixed, so that the picture is the same every time.
    let start: Vec<f64> = (0..d * k).map(|i| ((i as f64 * 12.9898).sin() * 43_758.547).fract()).collect();
    let mut q: Vec<Vec<f64>> = start.chunks(d).map(<[f64]>::to_vec).collect();
    orthonormalise(&mut q);
    let mut values = vec![0f64; k];
    for _ in 0..ROUNDS {
        let columns: Vec<f32> = (0..d).flat_map(|i| q.iter().map(move |v| v[i] as f32)).collect();
        let qt = Tensor::from_vec(columns, (d, k), x.device())?;
        let y: Vec<Vec<f32>> = x.t()?.matmul(&x.matmul(&qt)?)?.t()?.contiguous()?.to_vec2()?;
        for ((slot, row), value) in q.iter_mut().zip(&y).zip(&mut values) {
            *value = row.iter().zip(slot.iter()).map(|(a, b)| f64::from(*a) * b).sum();
            *slot = row.iter().map(|v| f64::from(*v)).collect();
        }
        orthonormalise(&mut q);
        progress.step(1)?;
    }
    let total = f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?).max(f64::MIN_POSITIVE);
    let second = q.get(1).cloned().unwrap_or_else(|| vec![0.0; d]);
    let mut first = q[0].clone();
    let mut second = second;
    // The sign of a component is arbitrary. It is fixed here, so that a picture is never mirrored.
    for v in [&mut first, &mut second] {
        let largest = v.iter().copied().fold(0f64, |m, x| if x.abs() > m.abs() { x } else { m });
        if largest < 0.0 {
            v.iter_mut().for_each(|x| *x = -*x);
        }
    }
    let columns: Vec<f32> = first.iter().zip(&second).flat_map(|(a, b)| [*a as f32, *b as f32]).collect();
    let share = |i: usize| (values.get(i).copied().unwrap_or(0.0) / total) as f32;
    Ok((Tensor::from_vec(columns, (d, 2), x.device())?, [share(0), share(1)]))
}

/// Makes the columns orthonormal (Gram–Schmidt, done twice for accuracy).
fn orthonormalise(q: &mut [Vec<f64>]) {
    for i in 0..q.len() {
        for _ in 0..2 {
            for j in 0..i {
                let (done, rest) = q.split_at_mut(i);
                let overlap: f64 = done[j].iter().zip(&rest[0]).map(|(a, b)| a * b).sum();
                for (v, u) in rest[0].iter_mut().zip(&done[j]) {
                    *v -= overlap * u;
                }
            }
        }
        let norm = q[i].iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm > 1e-30 {
            q[i].iter_mut().for_each(|v| *v /= norm);
        }
    }
}

/// Asks for the projection of a run.
#[derive(Clone, PartialEq)]
pub struct ProjectionOf {
    pub trace: Arc<Trace>,
    pub settings: Settings,
}

impl Question for ProjectionOf {
    type Answer = Projection;
    const LABEL: &'static str = "projection";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        projection(&self.trace, self.settings, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn finds_the_long_axes() {
        // Points spread along axis 2 (variance 9), then axis 0 (variance 4), a little along axis 1.
        let mut rows = Vec::new();
        for i in 0..64 {
            let (a, b) = (i as f32 * 0.7, i as f32 * 1.3);
            rows.extend([2.0 * a.sin(), 0.1 * (a + b).cos(), 3.0 * b.cos()]);
        }
        let x = Tensor::from_vec(rows, (64, 3), &Device::Cpu).unwrap();
        let x = x.broadcast_sub(&x.mean_keepdim(0).unwrap()).unwrap();
        let (c, explained) = principal(&x, &Progress::new()).unwrap();
        let c: Vec<Vec<f32>> = c.to_vec2().unwrap();
        assert!(c[2][0].abs() > 0.98 && c[0][1].abs() > 0.98, "{c:?}");
        assert!(explained[0] > explained[1] && explained[0] + explained[1] > 0.99);
    }
}
