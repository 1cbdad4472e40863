//! A mixture of experts: a router gives every expert a probability, the most probable few compute a position, and their
//! outputs are added with the probabilities as weights [Shazeer et al. 2017].
//!
//! All experts together are one wide MLP whose neurons carry the router's weight: post = weight · act(pre) · pre_linear,
//! and zero for experts that a position does not use. So neurons, attribution and patching work as in any MLP. Only the
//! chosen experts are computed. The choice is held under differentiation; the probabilities are not, unless gates are
//! frozen.

use candle_core::{DType, Tensor};

use super::forward::visit;
use super::hooks::Hooks;
use super::kernels::{activation, product};
use super::site::{Site, SiteKind};
use crate::error::Result;
use crate::model::Network;
use crate::model::config::{Activation, Experts};
use crate::model::weights::{Linear, Mlp};

/// The probability of every expert, [rows, experts], for rows [rows, d_model].
pub fn probabilities(x: &Tensor, router: &Linear) -> Result<Tensor> {
    Ok(candle_nn::ops::softmax(&product::apply(x, &router.weight)?, 1)?)
}

/// What each expert's output is multiplied by, [rows, experts], out of the probabilities: zero for those not used.
pub fn shares(probabilities: &Tensor, experts: Experts) -> Result<Tensor> {
    let mut mask = Vec::with_capacity(probabilities.elem_count());
    for row in probabilities.detach().to_vec2::<f32>()? {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let mut used = vec![0f32; row.len()];
        for e in order.into_iter().take(experts.used) {
            used[e] = 1.0;
        }
        mask.extend(used);
    }
    let used = (probabilities * Tensor::from_vec(mask, probabilities.shape(), probabilities.device())?)?;
    if !experts.renormalise {
        return Ok(used);
    }
    // An edit may have set them all to zero.
    Ok(used.broadcast_div(&used.sum_keepdim(1)?.maximum(f32::MIN_POSITIVE)?)?)
}

/// The shares by neuron, [rows, d_mlp].
pub fn by_neuron(shares: &Tensor, d_mlp: usize) -> Result<Tensor> {
    let (rows, n) = shares.dims2()?;
    Ok(shares.reshape((rows, n, 1))?.broadcast_as((rows, n, d_mlp / n))?.reshape((rows, d_mlp))?)
}

/// One expert and the rows that use it.
struct Used {
    expert: usize,
    /// Indices of rows, u32.
    rows: Tensor,
    x: Tensor,
}

/// An MLP of experts at work on rows [rows, d_model].
struct Mixture<'a> {
    mlp: &'a Mlp,
    gate: &'a Linear,
    /// [rows, experts]
    shares: Tensor,
    width: usize,
    activation: Activation,
    frozen: bool,
}

impl Mixture<'_> {
    fn used(&self, x: &Tensor) -> Result<Vec<Used>> {
        let shares = self.shares.detach().to_vec2::<f32>()?;
        let count = shares.first().map_or(0, Vec::len);
        let mut out = Vec::new();
        for expert in 0..count {
            let rows: Vec<u32> = (0..shares.len()).filter(|r| shares[*r][expert] != 0.0).map(|r| r as u32).collect();
            if !rows.is_empty() {
                let rows = Tensor::new(rows, x.device())?;
                out.push(Used { expert, x: x.index_select(&rows, 0)?, rows });
            }
        }
        Ok(out)
    }

    /// The columns of an expert in a layer that reads the stream.
    fn read(&self, layer: &Linear, expert: usize, x: &Tensor) -> Result<Tensor> {
        Ok(product::apply(x, &layer.weight.narrow(1, expert * self.width, self.width)?)?)
    }

    /// What an expert writes for values of its neurons.
    fn write(&self, expert: usize, post: &Tensor) -> Result<Tensor> {
        Ok(product::apply(post, &self.mlp.output.weight.narrow(0, expert * self.width, self.width)?)?)
    }

    /// Values of all neurons [rows, d_mlp]: those of a layer for the experts that are used, zero for the others.
    fn spread(&self, layer: &Linear, used: &[Used]) -> Result<Tensor> {
        let (rows, count) = self.shares.dims2()?;
        let mut parts = vec![Tensor::zeros((rows, self.width), DType::F32, self.shares.device())?; count];
        for u in used {
            parts[u.expert] = parts[u.expert].index_add(&u.rows, &self.read(layer, u.expert, &u.x)?, 0)?;
        }
        Ok(Tensor::cat(&parts, 1)?)
    }

    /// The sum over the used experts, [rows, d_model], without ever holding all neurons.
    fn sum(&self, used: &[Used], d_model: usize) -> Result<Tensor> {
        let mut out = Tensor::zeros((self.shares.dim(0)?, d_model), DType::F32, self.shares.device())?;
        for u in used {
            let pre = self.read(self.gate, u.expert, &u.x)?;
            let post =
                activation::gated(&pre, &self.read(&self.mlp.input, u.expert, &u.x)?, self.activation, self.frozen)?;
            let share = self.shares.narrow(1, u.expert, 1)?.contiguous()?.index_select(&u.rows, 0)?;
            out = out.index_add(&u.rows, &self.write(u.expert, &post.broadcast_mul(&share)?)?, 0)?;
        }
        Ok(out)
    }
}

impl Network<'_> {
    /// The output of an MLP of experts for x [batch, pos, d_model]. With `frozen`, act(pre) and the shares are constant
    /// under differentiation.
    pub(super) fn mixture(
        &self,
        layer: usize,
        x: &Tensor,
        (mlp, router, gate): (&Mlp, &Linear, &Linear),
        experts: Experts,
        frozen: bool,
        hooks: &mut dyn Hooks,
    ) -> Result<Tensor> {
        let at = |kind| Site::new(kind, layer);
        let (b, t, d) = x.dims3()?;
        let (m, count) = (self.config.d_mlp, experts.count);
        let rows = x.reshape((b * t, d))?;
        let probabilities = probabilities(&rows, router)?.reshape((b, t, count))?;
        let probabilities = visit(hooks, at(SiteKind::MlpRouter), probabilities)?.reshape((b * t, count))?;
        let shares = shares(&probabilities, experts)?;
        let shares = if frozen { shares.detach() } else { shares };
        let width = m / count;
        let mixture = Mixture { mlp, gate, shares, width, activation: self.config.activation, frozen };
        let used = mixture.used(&rows)?;
        let sites = [SiteKind::MlpPre, SiteKind::MlpPreLinear, SiteKind::MlpPost, SiteKind::MlpExperts];
        if !sites.iter().any(|kind| hooks.wants(at(*kind))) {
            return Ok(mixture.sum(&used, d)?.reshape((b, t, d))?);
        }
        let wide = |y: Tensor| y.reshape((b, t, m));
        let pre = visit(hooks, at(SiteKind::MlpPre), wide(mixture.spread(gate, &used)?)?)?;
        let linear = visit(hooks, at(SiteKind::MlpPreLinear), wide(mixture.spread(&mlp.input, &used)?)?)?;
        let post = activation::gated(&pre, &linear, self.config.activation, frozen)?;
        let post = (post * wide(by_neuron(&mixture.shares, m)?)?)?;
        let before = post.id();
        let post = visit(hooks, at(SiteKind::MlpPost), post)?;
        // A hook may have given values to neurons of experts that are not used.
        let changed = post.id() != before;
        let post = post.reshape((b * t, m))?;
        if !changed && !hooks.wants(at(SiteKind::MlpExperts)) {
            let mut out = Tensor::zeros((b * t, d), DType::F32, x.device())?;
            for u in &used {
                let own = post.narrow(1, u.expert * width, width)?.contiguous()?.index_select(&u.rows, 0)?;
                out = out.index_add(&u.rows, &mixture.write(u.expert, &own)?, 0)?;
            }
            return Ok(out.reshape((b, t, d))?);
        }
        if !hooks.wants(at(SiteKind::MlpExperts)) {
            return Ok(product::apply(&post, &mlp.output.weight)?.reshape((b, t, d))?);
        }
        let each = (0..count)
            .map(|e| mixture.write(e, &post.narrow(1, e * width, width)?.contiguous()?))
            .collect::<Result<Vec<_>>>()?;
        let each = Tensor::stack(&each, 1)?.reshape((b, t, count, d))?;
        Ok(visit(hooks, at(SiteKind::MlpExperts), each)?.sum(2)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NoHooks;
    use crate::model::config::{ModelConfig, NormKind, Shape};
    use crate::model::weights::Weights;
    use candle_core::{Device, Var};

    fn linear(rows: usize, cols: usize) -> Linear {
        Linear { weight: Tensor::randn(0f32, 1f32, (rows, cols), &Device::Cpu).unwrap().into(), bias: None }
    }

    /// The gradient at the input is that of finite differences, and what is written is the sum over the chosen experts.
    #[test]
    fn a_mixture_is_differentiated() {
        let shape =
            Shape { n_layers: 1, n_heads: 1, n_kv_heads: 1, d_model: 6, d_head: 6, d_mlp: 20, d_vocab: 2, n_ctx: 8 };
        for renormalise in [false, true] {
            let experts = Experts { count: 4, used: 2, renormalise };
            let mut config = ModelConfig::plain("test", shape, NormKind::Rms { eps: 1e-5 });
            config.experts = Some(experts);
            let (router, gate) = (linear(6, 4), linear(6, 20));
            let mlp = Mlp { router: None, gate: None, input: linear(6, 20), output: linear(20, 6) };
            let unembed = Tensor::zeros((6, 2), DType::F32, &Device::Cpu).unwrap().into();
            let weights = Weights {
                embed: None,
                pos_embed: None,
                embed_norm: None,
                blocks: Vec::new(),
                ln_final: None,
                unembed,
                unembed_bias: None,
            };
            let network = Network { config: &config, weights: &weights };
            let x = Tensor::randn(0f32, 1f32, (1, 3, 6), &Device::Cpu).unwrap();
            let along = Tensor::randn(0f32, 1f32, (1, 3, 6), &Device::Cpu).unwrap();
            let value = |x: &Tensor| -> Tensor {
                let y = network.mixture(0, x, (&mlp, &router, &gate), experts, false, &mut NoHooks).unwrap();
                (y * &along).unwrap().sum_all().unwrap()
            };
            let var = Var::from_tensor(&x).unwrap();
            let gradient = value(var.as_tensor()).backward().unwrap().get(var.as_tensor()).unwrap().clone();
            let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let flat = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..18 {
                let at = |step: f32| -> f32 {
                    let mut moved = flat.clone();
                    moved[i] += step;
                    value(&Tensor::from_vec(moved, (1, 3, 6), &Device::Cpu).unwrap()).to_scalar().unwrap()
                };
                let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!(
                    (gradient[i] - slope).abs() < 0.02 * slope.abs().max(1.0),
                    "{i}: {} against {slope}",
                    gradient[i]
                );
            }
        }
    }
}
