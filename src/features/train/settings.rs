//! How a dictionary is trained.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What makes activations sparse while training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// ReLU with an L1 penalty [Bricken et al. 2023].
    L1,
    /// The k largest of a position [Gao et al. 2024].
    TopK,
    /// The k · batch largest of a batch; afterwards one threshold for all [Bussmann et al. 2024].
    BatchTopK,
    /// BatchTopK whose first features must do by themselves: the mean loss of several reconstructions, each by more features
    /// than the one before [Bussmann et al. 2025].
    Matryoshka,
    /// A learned threshold each, with an L0 penalty through straight-through estimators [Rajamanoharan et al. 2024b].
    JumpRelu,
    /// A gate with an L1 penalty, and a magnitude without [Rajamanoharan et al. 2024a].
    Gated,
}

impl Method {
    pub const ALL: [Self; 6] = [Self::L1, Self::TopK, Self::BatchTopK, Self::Matryoshka, Self::JumpRelu, Self::Gated];

    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::TopK => "topk",
            Self::BatchTopK => "batchtopk",
            Self::Matryoshka => "matryoshka",
            Self::JumpRelu => "jumprelu",
            Self::Gated => "gated",
        }
    }

    pub fn explain(self) -> &'static str {
        match self {
            Self::L1 => "ReLU with an L1 penalty",
            Self::TopK => "the k largest at each position",
            Self::BatchTopK => "k a position on average, the largest of the batch",
            Self::Matryoshka => "batchtopk, and the first features reconstruct by themselves as well",
            Self::JumpRelu => "a learned threshold each, L0 penalty",
            Self::Gated => "gate and magnitude apart, L1 penalty on the gate",
        }
    }

    /// Whether k says how many features are active; else the penalty's weight does.
    pub fn counts(self) -> bool {
        matches!(self, Self::TopK | Self::BatchTopK | Self::Matryoshka)
    }

    /// Whether what is active is chosen among the positions of a whole batch.
    pub fn by_batch(self) -> bool {
        matches!(self, Self::BatchTopK | Self::Matryoshka)
    }

    /// Dense products of a step over all cells.
    pub fn dense_products(self) -> usize {
        if self == Self::Gated { 7 } else { 5 }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// Settings of a training. Activations are scaled to a mean length of √d before anything else, so that rates and
/// penalties mean the same at every site; the finished dictionary reads the model's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub method: Method,
    pub features: usize,
    /// Active features a position, for the methods that count them.
    pub k: usize,
    /// Weight of the sparsity penalty, for the others.
    pub sparsity: f32,
    pub steps: usize,
    pub batch: usize,
    pub rate: f32,
    /// Steps over which the learning rate rises.
    pub warmup: usize,
    /// Share of the steps, at the end, over which the learning rate falls to zero.
    pub fall: f32,
    /// Share of the steps over which the penalty rises.
    pub sparsity_warmup: f32,
    /// A feature counts as dead that has been silent for so many positions.
    pub dead_after: usize,
    /// Steps between two resamplings of dead features (0 for none), for methods with a penalty.
    pub resample: usize,
    /// Weight of the auxiliary loss by which dead features learn from what is left over, for methods that count.
    pub auxiliary: f32,
    /// Matryoshka: how many first features each reconstruction has, rising; empty for a sixteenth, an eighth, a quarter, a
    /// half and all.
    #[serde(default)]
    pub nested: Vec<usize>,
    /// A transcoder passes its input on by a matrix of its own, beside its features [Paulo et al. 2025].
    #[serde(default)]
    pub skip: bool,
    /// JumpReLU: width of the window in which a threshold feels its cells, in units of scaled activations.
    pub bandwidth: f32,
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::TopK,
            features: 4096,
            k: 32,
            sparsity: 3.0,
            steps: 2_000,
            batch: 2048,
            rate: 5e-4,
            warmup: 100,
            fall: 0.2,
            sparsity_warmup: 0.1,
            dead_after: 500_000,
            resample: 500,
            auxiliary: 1.0 / 32.0,
            nested: Vec::new(),
            skip: false,
            bandwidth: 0.1,
            seed: 1,
        }
    }
}

impl Settings {
    /// # Errors
    /// One sentence naming the setting that cannot be.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::request(what));
        if self.features == 0 || self.batch == 0 || self.steps == 0 {
            return wrong(format!(
                "a training of {} features in {} steps of {} positions trains nothing; give numbers above 0",
                self.features, self.steps, self.batch
            ));
        }
        if self.features.saturating_mul(self.batch) > 1 << 32 {
            return wrong(format!(
                "{} features times {} positions a step need {:.0} GB of memory; make one of them smaller",
                self.features,
                self.batch,
                (self.features as f64 * self.batch as f64 * 8.0) / 1e9
            ));
        }
        if self.method.counts() && (self.k == 0 || self.k > self.features) {
            return wrong(format!(
                "k = {} of {} features is not possible; give 1 to {}",
                self.k, self.features, self.features
            ));
        }
        let rising = self.nested.windows(2).all(|w| w[0] < w[1]);
        if !rising || self.nested.iter().any(|n| *n == 0 || *n > self.features) {
            return wrong(format!(
                "nested reconstructions of {:?} features are not possible; give rising numbers up to {}",
                self.nested, self.features
            ));
        }
        for (name, v) in [
            ("rate", self.rate),
            ("sparsity", self.sparsity),
            ("auxiliary", self.auxiliary),
            ("bandwidth", self.bandwidth),
        ] {
            if !v.is_finite() || v < 0.0 {
                return wrong(format!("a {name} of {v} is not possible; give a number that is not negative"));
            }
        }
        for (name, v) in [("fall", self.fall), ("sparsity_warmup", self.sparsity_warmup)] {
            if !(0.0..=1.0).contains(&v) {
                return wrong(format!("{name} {v} is not a share; give 0 to 1"));
            }
        }
        Ok(())
    }

    /// How many first features each reconstruction of a step has; the last has all.
    pub fn prefixes(&self) -> Vec<usize> {
        if self.method != Method::Matryoshka {
            return vec![self.features];
        }
        let shares = || [16, 8, 4, 2].iter().map(|s| (self.features / s).max(1)).collect();
        let mut all: Vec<usize> = if self.nested.is_empty() { shares() } else { self.nested.clone() };
        all.push(self.features);
        all.dedup();
        all
    }

    /// Units of progress of some steps: a position of a step costs about an eighth of what harvesting it did.
    pub fn units(&self, steps: usize) -> u64 {
        (steps * (self.batch / 8).max(1)) as u64
    }

    /// Learning rate of a step, counted from 0.
    pub fn rate_at(&self, step: usize) -> f32 {
        let up = ((step + 1) as f32 / self.warmup.max(1) as f32).min(1.0);
        let left = self.steps.saturating_sub(step) as f32 / (self.fall * self.steps as f32).max(1.0);
        self.rate * up * left.min(1.0)
    }

    /// Weight of the penalty at a step.
    pub fn sparsity_at(&self, step: usize) -> f32 {
        self.sparsity * ((step + 1) as f32 / (self.sparsity_warmup * self.steps as f32).max(1.0)).min(1.0)
    }
}
