//! MLP neurons: which ones fire on this prompt, and which tokens each of them promotes.
//!
//! A neuron has an activation at each position (hook_post) and one direction that it writes to the residual stream, its
//! row of W_out. Unembedded, that direction says which tokens the neuron makes more or less likely.

use candle_core::Tensor;

use super::subject::{Compared, Subject};
use crate::engine::kernels::product;
use crate::engine::logits::largest_indices;
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::Question;
use std::sync::Arc;

/// The quantity by which the neurons of a layer are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Statistic {
    /// Largest |activation| over the prompt.
    #[default]
    MaxAbs,
    /// Mean |activation|.
    MeanAbs,
    /// Standard deviation over positions: large where a neuron tells tokens apart.
    Spread,
    /// |activation| at the pinned position.
    AtPosition(usize),
}

impl Statistic {
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxAbs => "largest |activation|",
            Self::MeanAbs => "mean |activation|",
            Self::Spread => "spread over tokens",
            Self::AtPosition(_) => "|activation| at the pinned token",
        }
    }
}

/// The first neurons of a ranking, with their activations.
#[derive(Clone, Debug)]
pub struct Neurons {
    pub layer: usize,
    pub statistic: Statistic,
    /// Indices of the neurons, the largest first.
    pub order: Vec<usize>,
    /// Activations (hook_post), [neuron in `order`][pos].
    pub values: Vec<Vec<f32>>,
    /// Number of neurons in the layer.
    pub of: usize,
}

impl Neurons {
    /// Returns the activations of the same neurons in another run.
    ///
    /// # Errors
    /// The other model does not have these neurons.
    pub fn again(&self, trace: &Trace) -> Result<Self> {
        let post: Vec<Vec<f32>> = trace.get(SiteKind::MlpPost, self.layer)?.t()?.contiguous()?.to_vec2()?;
        let values = self.order.iter().filter_map(|i| post.get(*i).cloned()).collect();
        Ok(Self { values, ..self.clone() })
    }
}

/// Returns the first `limit` neurons of a layer's ranking.
///
/// # Errors
/// The model has no MLPs, or no such layer.
pub fn neurons(trace: &Trace, layer: usize, statistic: Statistic, limit: usize) -> Result<Neurons> {
    let c = &trace.model.config;
    if !c.has_mlp() {
        return Err(Error::request("this model has no MLP, so it has no neurons; look at its heads instead"));
    }
    if layer >= c.n_layers {
        return Err(Error::request(format!("there is no layer {layer}; layers go to {}", c.n_layers - 1)));
    }
    // Laid out as [d_mlp][pos], so that the values of one neuron lie together.
    let post: Vec<Vec<f32>> = trace.get(SiteKind::MlpPost, layer)?.t()?.contiguous()?.to_vec2()?;
    let n = trace.len() as f32;
    let score = |v: &Vec<f32>| match statistic {
        Statistic::MaxAbs => v.iter().fold(0f32, |m, x| m.max(x.abs())),
        Statistic::MeanAbs => v.iter().map(|x| x.abs()).sum::<f32>() / n,
        Statistic::Spread => {
            let mean = v.iter().sum::<f32>() / n;
            (v.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt()
        }
        Statistic::AtPosition(p) => v.get(p).copied().unwrap_or(0.0).abs(),
    };
    let scores: Vec<f32> = post.iter().map(score).collect();
    let order = largest_indices(&scores, limit.min(scores.len()));
    let values = order.iter().map(|i| post[*i].clone()).collect();
    Ok(Neurons { layer, statistic, order, values, of: c.d_mlp })
}

/// The tokens whose logits a neuron's output direction raises and lowers most: W_out · (gain of the final norm) · W_U.
#[derive(Clone, Debug)]
pub struct NeuronTokens {
    pub layer: usize,
    pub neuron: usize,
    /// Raised tokens as (token, logit for each unit of activation), largest first.
    pub promoted: Vec<(u32, f32)>,
    /// Lowered tokens in the same form, most negative first.
    pub suppressed: Vec<(u32, f32)>,
}

/// Returns the `k` tokens that a neuron promotes most and the `k` that it suppresses most.
pub fn neuron_tokens(model: &Model, layer: usize, neuron: usize, k: usize) -> Result<NeuronTokens> {
    let mlp = model.weights.blocks.get(layer).and_then(|b| b.mlp.as_ref());
    let mlp = mlp.ok_or_else(|| Error::request(format!("layer {layer} has no MLP")))?;
    if neuron >= model.config.d_mlp {
        return Err(Error::request(format!("there is no neuron {neuron}; a layer has {}", model.config.d_mlp)));
    }
    let row = mlp.output.weight.input(neuron)?;
    let logits = logits_of_direction(model, &row)?;
    let negated: Vec<f32> = logits.iter().map(|v| -v).collect();
    let pick = |of: &[f32]| largest_indices(of, k).into_iter().map(|i| (i as u32, logits[i])).collect();
    Ok(NeuronTokens { layer, neuron, promoted: pick(&logits), suppressed: pick(&negated) })
}

/// Returns the effect of a residual direction [d_model] on every logit [d_vocab], without the final norm's scale.
pub fn logits_of_direction(model: &Model, direction: &Tensor) -> Result<Vec<f32>> {
    let mut d = direction.clone();
    if let Some(n) = &model.weights.ln_final {
        if model.config.centres() {
            d = d.broadcast_sub(&d.mean_keepdim(0)?)?;
        }
        d = (d * &n.weight)?;
    }
    Ok(product::apply(&d.unsqueeze(0)?, &model.weights.unembed)?.flatten_all()?.to_vec1()?)
}

/// Asks for the `limit` leading neurons of a layer in a run, and for the same neurons in the run it is compared with.
#[derive(Clone, PartialEq)]
pub struct NeuronsOf {
    pub subject: Subject,
    pub layer: usize,
    pub statistic: Statistic,
    pub limit: usize,
}

impl Question for NeuronsOf {
    type Answer = Compared<Neurons>;
    const LABEL: &'static str = "neurons";

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { subject, layer, statistic, limit } = self;
        let now = neurons(&subject.trace, *layer, *statistic, *limit)?;
        let minus = subject.minus.as_deref().map(|trace| now.again(trace)).transpose()?;
        Ok(Compared { now, minus, alignment: subject.alignment.clone() })
    }
}

/// Asks for the tokens that a neuron promotes and suppresses.
#[derive(Clone, PartialEq)]
pub struct NeuronTokensOf {
    pub model: Arc<Model>,
    pub layer: usize,
    pub neuron: usize,
    /// Tokens of each.
    pub count: usize,
}

impl Question for NeuronTokensOf {
    type Answer = NeuronTokens;
    const LABEL: &'static str = "neuron's tokens";

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        neuron_tokens(&self.model, self.layer, self.neuron, self.count)
    }
}
