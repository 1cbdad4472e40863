//! The setup of a training: the models, their inputs and the optimiser, spelled out instance by instance.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The target that the output is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// The input x itself, with x_i in [0, 1].
    #[default]
    Reconstruct,
    /// |x|, with x_i in [−1, 1]: computation in superposition.
    Absolute,
}

/// How the features of a group depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tie {
    /// All features of the group are active, or none is. Their values are independent.
    Correlated,
    /// At most one feature of the group is active.
    Anticorrelated,
}

/// A group of neighbouring features, `start..start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub tie: Tie,
    pub start: usize,
    pub len: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimiserKind {
    /// Decoupled weight decay [Loshchilov and Hutter 2019].
    #[default]
    AdamW,
    /// Plain gradient descent.
    Sgd,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    pub kind: OptimiserKind,
    pub rate: f32,
    pub weight_decay: f32,
    /// If true, the rate falls to zero along half a cosine. Otherwise it is constant.
    pub cosine: bool,
}

impl Default for Optimiser {
    fn default() -> Self {
        Self { kind: OptimiserKind::AdamW, rate: 1e-3, weight_decay: 0.01, cosine: false }
    }
}

impl Optimiser {
    /// Returns the learning rate of a step, of `total` steps.
    pub fn rate_at(&self, step: usize, total: usize) -> f32 {
        if self.cosine {
            let t = (step as f32 / total.max(1) as f32).min(1.0);
            self.rate * 0.5 * (1.0 + (std::f32::consts::PI * t).cos())
        } else {
            self.rate
        }
    }
}

/// One toy model of those that are trained together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Probability that a feature is zero.
    pub sparsity: f32,
    /// Weight of each feature's error, [feature].
    pub importance: Vec<f32>,
    pub seed: u64,
    /// Number of samples of a fixed data set, of which every step sees all. With `None` every step sees fresh inputs.
    pub samples: Option<usize>,
}

/// Toy models that are trained together: h = act(W x) and x′ = act(Wᵀ h + b), or x′ = act(V h + b) if the decoder has
/// weights of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// n, the number of features.
    pub features: usize,
    /// m, the number of hidden dimensions.
    pub hidden: usize,
    /// The decoder is the transpose of the encoder.
    pub tied: bool,
    /// A ReLU on the hidden layer. It gives the layer a privileged basis.
    pub hidden_relu: bool,
    /// A ReLU on the output.
    pub output_relu: bool,
    pub task: Task,
    /// Inputs are scaled to length 1 [Henighan et al. 2023].
    pub unit_inputs: bool,
    pub groups: Vec<Group>,
    pub instances: Vec<Instance>,
    /// Number of fresh inputs a step.
    pub batch: usize,
    pub steps: usize,
    pub optimiser: Optimiser,
}

/// Most numbers that the models of a training may hold in memory.
const MOST_PARAMETERS: usize = 64_000_000;

/// Returns the importances I_i = decay^i, [feature].
pub fn importance(features: usize, decay: f32) -> Vec<f32> {
    (0..features).map(|i| decay.powi(i as i32)).collect()
}

/// Returns the seed of one part of something that has a single seed.
pub fn child_seed(seed: u64, part: u64) -> u64 {
    super::inputs::splitmix(seed ^ super::inputs::splitmix(part.wrapping_add(0x5EED)))
}

/// Returns the sparsities, 1 − density, of `count` densities from 1 down to `least`, evenly spaced on a logarithmic
/// scale.
pub fn sparsities(count: usize, least: f32) -> Vec<f32> {
    let last = count.saturating_sub(1).max(1) as f32;
    (0..count).map(|k| 1.0 - least.powf(k as f32 / last)).collect()
}

impl Setup {
    /// Returns a setup for tests, with one instance for each sparsity.
    #[cfg(test)]
    pub fn sweep(features: usize, hidden: usize, sparsities: &[f32], decay: f32, seed: u64) -> Self {
        let mut recipe = super::recipe::Recipe::sweep(features, hidden, sparsities, decay);
        recipe.seed = seed;
        recipe.setup().unwrap()
    }

    #[cfg(test)]
    pub fn with_groups(mut self, tie: Tie, len: usize) -> Self {
        self.groups = (0..self.features / len.max(1)).map(|g| Group { tie, start: g * len, len }).collect();
        self
    }

    /// Returns the number of parameters of one instance: W, then V if weights are not tied, then b.
    pub fn parameters(&self) -> usize {
        self.features * self.hidden * if self.tied { 1 } else { 2 } + self.features
    }

    /// Checks that `models` of n × m weights fit the memory.
    ///
    /// # Errors
    /// Returns an error if they do not fit, or if one of the numbers is 0.
    pub fn fits(features: usize, hidden: usize, models: usize) -> Result<()> {
        let (n, m) = (features, hidden);
        if n == 0 || m == 0 {
            return Err(Error::request(format!(
                "{n} features in {m} hidden dimensions make no model; both must be at least 1"
            )));
        }
        if models == 0 {
            return Err(Error::request("no sparsity was given; give at least one"));
        }
        // The numbers held: weights, moments and sums of every model; inputs of the samples that are worked on at once;
        // and the m × m matrix from which the geometry is computed.
        let weights = n.checked_mul(m).and_then(|p| p.checked_mul(2)).and_then(|p| p.checked_mul(models));
        let inputs = n.checked_mul(48).and_then(|p| p.checked_mul(models));
        let square = m.checked_mul(m).and_then(|p| p.checked_mul(2));
        let total = [weights, inputs, square].into_iter().try_fold(0usize, |t, part| t.checked_add(part?));
        if total.is_none_or(|t| t > MOST_PARAMETERS) {
            return Err(Error::request(format!(
                "{models} models of {n} × {m} weights are too many for the memory; use fewer or smaller ones"
            )));
        }
        Ok(())
    }

    /// Checks that the models can be trained.
    ///
    /// # Errors
    /// Returns an error about the first value with which they cannot.
    pub fn check(&self) -> Result<()> {
        let n = self.features;
        let bad = |what: String| Err(Error::request(what));
        Self::fits(n, self.hidden, self.instances.len())?;
        if self.batch == 0 || self.batch > 1 << 20 {
            return bad(format!("a batch of {} is not possible; give 1 to 1048576", self.batch));
        }
        if self.steps == 0 {
            return bad("a training of 0 steps trains nothing; give a number above 0".to_owned());
        }
        let o = self.optimiser;
        if !(o.rate > 0.0 && o.rate.is_finite() && o.weight_decay >= 0.0 && o.weight_decay.is_finite()) {
            return bad(format!("learning rate {} and weight decay {} do not train", o.rate, o.weight_decay));
        }
        for i in &self.instances {
            if !(0.0..1.0).contains(&i.sparsity) {
                return bad(format!("sparsity {} is not a probability below 1", i.sparsity));
            }
            if i.importance.len() != n || i.importance.iter().any(|v| !(v.is_finite() && *v >= 0.0)) {
                return bad(format!("importance needs {n} finite numbers of at least 0"));
            }
            if i.samples == Some(0) {
                return bad("a data set of 0 samples trains nothing".to_owned());
            }
            if i.samples.is_some_and(|s| s.saturating_mul(n) > MOST_PARAMETERS) {
                return bad(format!("{} samples of {n} features do not fit the memory", i.samples.unwrap_or(0)));
            }
        }
        let mut taken = vec![false; n];
        for g in &self.groups {
            if g.len == 0 || g.start + g.len > n {
                return bad(format!("a group of features {}..{} lies outside 0..{n}", g.start, g.start + g.len));
            }
            for t in &mut taken[g.start..g.start + g.len] {
                if std::mem::replace(t, true) {
                    return bad("a feature is in two groups".to_owned());
                }
            }
            let densest = self.instances.iter().map(|i| 1.0 - i.sparsity).fold(0.0, f32::max);
            if g.tie == Tie::Anticorrelated && densest * g.len as f32 > 1.0 + 1e-6 {
                return bad(format!(
                    "{} features that are never active together cannot each be active with probability {densest:.2}; \
                     raise the sparsity to at least {:.2}",
                    g.len,
                    1.0 - 1.0 / g.len as f32
                ));
            }
        }
        Ok(())
    }
}
