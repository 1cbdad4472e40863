//! The pullback of an MLP, plain, gated, or of experts.

use std::mem::MaybeUninit;

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::engine::experts;
use crate::engine::hooks::Capture;
use crate::engine::kernels::{activation, filled, math, product, to_vec, with_values};
use crate::engine::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::model::config::{Experts, ModelConfig};
use crate::model::matrix::Matrix;
use crate::model::weights::Mlp;

/// The derivatives of an MLP's neurons along a run.
pub(super) enum MlpBack {
    /// post = act(pre), or act(pre) · pre_linear.
    One(Neurons),
    Experts(ExpertsBack),
}

/// ∂post/∂pre and ∂post/∂pre_linear of every neuron; [rows, d_mlp].
pub(super) struct Neurons {
    by_pre: Vec<f32>,
    by_linear: Option<Vec<f32>>,
}

/// An MLP of experts. The choice of experts is held.
pub(super) struct ExpertsBack {
    experts: Experts,
    width: usize,
    /// [rows, experts]
    probabilities: Vec<Vec<f32>>,
    shares: Vec<Vec<f32>>,
    /// What the shares were divided by, of each row.
    sums: Vec<f32>,
    /// By expert: its rows, and its neurons there.
    used: Vec<(usize, Vec<usize>, Neurons, Vec<f32>)>,
}

impl MlpBack {
    pub(super) fn new(
        config: &ModelConfig,
        weights: &Mlp,
        seen: &Capture,
        layer: usize,
        start: usize,
        rows: usize,
    ) -> Result<Self> {
        let site =
            |kind| -> Result<Tensor> { Ok(seen.get(Site::new(kind, layer))?.narrow(0, start, rows)?.contiguous()?) };
        let pre = site(SiteKind::MlpPre)?;
        let linear = weights.gate.as_ref().map(|_| site(SiteKind::MlpPreLinear)).transpose()?;
        let (Some(experts), Some(linear)) = (config.experts, &linear) else {
            return Ok(Self::One(Neurons::new(config, &pre, linear.as_ref())?.0));
        };
        let probabilities = site(SiteKind::MlpRouter)?;
        let shares = experts::shares(&probabilities, experts)?.to_vec2::<f32>()?;
        let probabilities = probabilities.to_vec2::<f32>()?;
        let sums = probabilities
            .iter()
            .zip(&shares)
            .map(|(p, s)| {
                let used = p.iter().zip(s).filter(|(_, s)| **s != 0.0).map(|(p, _)| p).sum::<f32>();
                if experts.renormalise { used.max(f32::MIN_POSITIVE) } else { 1.0 }
            })
            .collect();
        let width = config.d_mlp / experts.count;
        let mut used = Vec::new();
        for e in 0..experts.count {
            let mine: Vec<usize> = (0..rows).filter(|r| shares[*r].get(e).is_some_and(|s| *s != 0.0)).collect();
            if mine.is_empty() {
                continue;
            }
            let index = Tensor::new(mine.iter().map(|r| *r as u32).collect::<Vec<_>>(), pre.device())?;
            let own = |x: &Tensor| -> Result<Tensor> {
                Ok(x.narrow(1, e * width, width)?.contiguous()?.index_select(&index, 0)?)
            };
            let (neurons, post) = Neurons::new(config, &own(&pre)?, Some(&own(linear)?))?;
            used.push((e, mine, neurons, post));
        }
        Ok(Self::Experts(ExpertsBack { experts, width, probabilities, shares, sums, used }))
    }

    /// From the MLP's output [n · rows, d_model] to its input.
    pub(super) fn back(&self, g: &Tensor, weights: &Mlp, rows: usize) -> Result<Tensor> {
        match self {
            Self::One(neurons) => {
                let post = product::back(g, &weights.output.weight)?;
                let (pre, linear) = neurons.back(&post)?;
                match (&weights.gate, linear) {
                    (Some(gate), Some(linear)) => {
                        Ok(product::back_sum([(&pre, &gate.weight), (&linear, &weights.input.weight)])?)
                    }
                    _ => Ok(product::back(&pre, &weights.input.weight)?),
                }
            }
            Self::Experts(back) => back.back(g, weights, rows),
        }
    }
}

impl Neurons {
    /// Also returns post.
    fn new(config: &ModelConfig, pre: &Tensor, linear: Option<&Tensor>) -> Result<(Self, Vec<f32>)> {
        // The activation function is applied to each number by itself, so that one backward pass gives all slopes.
        let variable = Var::from_tensor(pre)?;
        let act = activation::apply(variable.as_tensor(), config.activation, false)?;
        let slopes = act.sum_all()?.backward()?;
        let slope = match slopes.get(variable.as_tensor()) {
            Some(slope) => slope.contiguous()?,
            None => pre.zeros_like()?,
        };
        let act = act.detach();
        Ok(match linear {
            Some(linear) => {
                let by_pre = to_vec(&(slope * linear)?)?;
                (Self { by_pre, by_linear: Some(to_vec(&act)?) }, to_vec(&(act * linear)?)?)
            }
            None => (Self { by_pre: to_vec(&slope)?, by_linear: None }, to_vec(&act)?),
        })
    }

    /// From post [n · rows, neurons] to pre and pre_linear.
    fn back(&self, post: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let by = |slopes: &[f32]| -> Result<Tensor> {
            let width = post.dim(1)?;
            if slopes.is_empty() || !post.elem_count().is_multiple_of(slopes.len()) {
                return Err(Error::failed("cotangents do not fit the rows of an MLP"));
            }
            let row = |r: usize, out: &mut [MaybeUninit<f32>], g: &[f32]| {
                let slopes = &slopes[r * width % slopes.len()..][..width];
                math::simd(|| out.iter_mut().zip(g.iter().zip(slopes)).for_each(|(o, (g, s))| _ = o.write(g * s)));
            };
            // SAFETY: an MLP's rows are whole, and each is written.
            let out = with_values(post, |g| unsafe {
                filled(g.len(), |out| {
                    let rows = out.par_chunks_exact_mut(width).zip(g.par_chunks_exact(width));
                    rows.with_min_len(8).enumerate().for_each(|(r, (out, g))| row(r, out, g));
                })
            })?;
            Ok(Tensor::from_vec(out, post.shape().clone(), post.device())?)
        };
        Ok((by(&self.by_pre)?, self.by_linear.as_deref().map(by).transpose()?))
    }
}

impl ExpertsBack {
    fn back(&self, g: &Tensor, weights: &Mlp, rows: usize) -> Result<Tensor> {
        let missing = || Error::failed("an MLP of experts has no router or no gate");
        let (router, gate) = (weights.router.as_ref().ok_or_else(missing)?, weights.gate.as_ref().ok_or_else(missing)?);
        let (all, d) = g.dims2()?;
        let batch = all / rows;
        let mut x = Tensor::zeros((all, d), g.dtype(), g.device())?;
        let mut by_share = vec![0f32; all * self.experts.count];
        for (e, mine, neurons, post) in &self.used {
            let index: Vec<u32> = (0..batch).flat_map(|b| mine.iter().map(move |r| (b * rows + r) as u32)).collect();
            let index = Tensor::new(index, g.device())?;
            let own = g.index_select(&index, 0)?;
            let own = product::back(&own, &weights.output.weight.narrow(0, e * self.width, self.width)?)?;
            let mut own = to_vec(&own)?;
            for (i, row) in own.chunks_exact_mut(self.width).enumerate() {
                let (b, r) = (i / mine.len(), i % mine.len());
                let post = &post[r * self.width..][..self.width];
                by_share[(b * rows + mine[r]) * self.experts.count + e] =
                    row.iter().zip(post).map(|(g, p)| g * p).sum();
                let share = self.shares[mine[r]][*e];
                row.iter_mut().for_each(|g| *g *= share);
            }
            let own = Tensor::from_vec(own, (batch * mine.len(), self.width), g.device())?;
            let (pre, linear) = neurons.back(&own)?;
            let linear = linear.ok_or_else(missing)?;
            let part = |m: &Matrix| m.narrow(1, e * self.width, self.width);
            let back = product::back_sum([(&pre, &part(&gate.weight)?), (&linear, &part(&weights.input.weight)?)])?;
            x = x.index_add(&index, &back, 0)?;
        }
        let logits = self.router(by_share, rows);
        let logits = Tensor::from_vec(logits, (all, self.experts.count), g.device())?;
        Ok((x + product::back(&logits, &router.weight)?)?)
    }

    /// From the experts' shares [n · rows, experts] to the router's logits.
    fn router(&self, mut g: Vec<f32>, rows: usize) -> Vec<f32> {
        for (i, g) in g.chunks_exact_mut(self.experts.count).enumerate() {
            let (p, s, sum) = (&self.probabilities[i % rows], &self.shares[i % rows], self.sums[i % rows]);
            if self.experts.renormalise {
                let along: f32 = g.iter().zip(s).map(|(g, s)| g * s).sum();
                for (g, s) in g.iter_mut().zip(s) {
                    *g = if *s == 0.0 { 0.0 } else { (*g - along) / sum };
                }
            }
            let along: f32 = g.iter().zip(p).map(|(g, p)| g * p).sum();
            g.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - along));
        }
        g
    }
}
