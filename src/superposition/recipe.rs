//! The recipe of a training: the few numbers that a person sets. [`Recipe::setup`] spells it out, instance by instance.

use serde::{Deserialize, Serialize};

use super::phases::Grid;
use super::setup::{Group, Instance, Optimiser, Setup, Task, Tie, child_seed, importance, sparsities};
use crate::error::Result;

/// The quantity in which the instances differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sweep {
    /// Each sparsity, trained `repeat` times from different first weights.
    Sparsity { values: Vec<f32>, repeat: usize },
    /// The size of a fixed data set, at one sparsity.
    Samples { sparsity: f32, values: Vec<usize> },
    /// Feature density, and the relative importance of the last feature.
    Grid(Grid),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// n, the number of features.
    pub features: usize,
    /// m, the number of hidden dimensions.
    pub hidden: usize,
    pub sweep: Sweep,
    /// I_i, the weight of each feature's error, [feature]. A grid sets the last one.
    pub importance: Vec<f32>,
    pub tied: bool,
    pub hidden_relu: bool,
    pub output_relu: bool,
    pub task: Task,
    pub unit_inputs: bool,
    /// How features are tied, and the size of the groups that they form.
    pub groups: Option<(Tie, usize)>,
    pub batch: usize,
    pub steps: usize,
    pub optimiser: Optimiser,
    pub seed: u64,
}

impl Recipe {
    /// Returns a recipe with one instance for each sparsity. Feature i has importance `decay`^i, and everything else is
    /// as in the paper.
    pub fn sweep(features: usize, hidden: usize, sparsities: &[f32], decay: f32) -> Self {
        Self {
            features,
            hidden,
            sweep: Sweep::Sparsity { values: sparsities.to_vec(), repeat: 1 },
            importance: importance(features, decay),
            tied: true,
            hidden_relu: false,
            output_relu: true,
            task: Task::Reconstruct,
            unit_inputs: false,
            groups: None,
            batch: 1024,
            steps: 10_000,
            optimiser: Optimiser::default(),
            seed: 0,
        }
    }

    /// Returns a recipe of `count` feature densities from 1 down to `least`.
    pub fn falling(features: usize, hidden: usize, count: usize, least: f32, decay: f32) -> Self {
        Self::sweep(features, hidden, &sparsities(count, least), decay)
    }

    /// Returns a recipe of one sparsity, trained from `count` different first weights.
    pub fn repeated(features: usize, hidden: usize, sparsity: f32, decay: f32, count: usize) -> Self {
        let mut r = Self::sweep(features, hidden, &[sparsity], decay);
        r.sweep = Sweep::Sparsity { values: vec![sparsity], repeat: count };
        r
    }

    /// Returns the recipe of a phase diagram: hundreds of models, trained at a high learning rate that falls to zero.
    pub fn phases(features: usize, hidden: usize, grid: Grid) -> Self {
        let mut r = Self::sweep(features, hidden, &[], 1.0);
        r.sweep = Sweep::Grid(grid);
        (r.optimiser.rate, r.optimiser.cosine, r.steps) = (0.01, true, 1500);
        r
    }

    /// Returns the number of instances.
    pub fn instances(&self) -> usize {
        match &self.sweep {
            Sweep::Sparsity { values, repeat } => values.len().saturating_mul(*repeat),
            Sweep::Samples { values, .. } => values.len(),
            Sweep::Grid(g) => g.cells().saturating_mul(g.tries),
        }
    }

    /// Returns true if the closed form of [`super::phases`] holds for these models.
    pub fn has_closed_form(&self) -> bool {
        let shape = [(2, 1), (3, 2)].contains(&(self.features, self.hidden));
        let plain = self.tied && self.output_relu && !self.hidden_relu && !self.unit_inputs && self.groups.is_none();
        shape && plain && self.task == Task::Reconstruct && self.importance.iter().all(|i| *i == 1.0)
    }

    pub fn grid(&self) -> Option<&Grid> {
        match &self.sweep {
            Sweep::Grid(g) => Some(g),
            _ => None,
        }
    }

    /// Changes n. The importances of new features continue the series of the others, and groups keep their size.
    pub fn set_features(&mut self, features: usize) {
        let old = &self.importance;
        let decay = match old.as_slice() {
            [.., a, b] if *a > 0.0 => b / a,
            _ => 1.0,
        };
        let mut next = old.last().copied().unwrap_or(1.0 / decay.max(f32::MIN_POSITIVE));
        let mut list = old.clone();
        list.truncate(features);
        while list.len() < features {
            next *= decay;
            list.push(next);
        }
        (self.features, self.importance) = (features, list);
    }

    /// Returns the training, instance by instance.
    ///
    /// # Errors
    /// Returns an error about the first value with which no model can be trained.
    pub fn setup(&self) -> Result<Setup> {
        // Too large a recipe is refused before it takes memory.
        Setup::fits(self.features, self.hidden, self.instances())?;
        let one = |sparsity: f32, k: usize| Instance {
            sparsity,
            importance: self.importance.clone(),
            seed: child_seed(self.seed, k as u64),
            samples: None,
        };
        let mut instances = Vec::new();
        match &self.sweep {
            Sweep::Sparsity { values, repeat } => {
                for s in values {
                    for _ in 0..*repeat {
                        instances.push(one(*s, instances.len()));
                    }
                }
            }
            Sweep::Samples { sparsity, values } => {
                for samples in values {
                    instances.push(Instance { samples: Some(*samples), ..one(*sparsity, instances.len()) });
                }
            }
            Sweep::Grid(grid) => {
                for (importance, density) in grid.models() {
                    let mut i = one(1.0 - density, instances.len());
                    if let Some(last) = i.importance.last_mut() {
                        *last = importance;
                    }
                    instances.push(i);
                }
            }
        }
        if let Some((_, len)) = self.groups
            && !(1..=self.features).contains(&len)
        {
            return Err(crate::Error::request(format!(
                "a group of {len} features does not exist among {}; give 2 to {}",
                self.features, self.features
            )));
        }
        let groups = self.groups.map_or_else(Vec::new, |(tie, len)| {
            (0..self.features / len.max(1)).map(|g| Group { tie, start: g * len, len }).collect()
        });
        let setup = Setup {
            features: self.features,
            hidden: self.hidden,
            tied: self.tied,
            hidden_relu: self.hidden_relu,
            output_relu: self.output_relu,
            task: self.task,
            unit_inputs: self.unit_inputs,
            groups,
            instances,
            batch: self.batch,
            steps: self.steps,
            optimiser: self.optimiser,
        };
        setup.check()?;
        Ok(setup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_goes_on_as_it_began() {
        let mut r = Recipe::sweep(3, 2, &[0.5], 0.5);
        r.set_features(5);
        assert_eq!(r.importance, [1.0, 0.5, 0.25, 0.125, 0.0625]);
        r.set_features(2);
        assert_eq!(r.importance, [1.0, 0.5]);
        assert_eq!(r.setup().unwrap().instances[0].importance.len(), 2);
    }

    #[test]
    fn impossible_recipes_are_refused_before_they_cost_memory() {
        for (n, m, s) in [(0, 2, 0.5), (5, 0, 0.5), (1 << 40, 1 << 40, 0.5), (5, 2, 1.0), (5, 2, f32::NAN)] {
            let mut r = Recipe::sweep(5, 2, &[s], 1.0);
            (r.features, r.hidden) = (n, m);
            assert!(r.setup().is_err(), "{n} {m} {s}");
        }
        let mut r = Recipe::repeated(5, 2, 0.5, 1.0, usize::MAX);
        assert!(r.setup().is_err());
        r = Recipe::sweep(5, 2, &[0.5], 1.0);
        r.groups = Some((Tie::Anticorrelated, 5));
        assert!(r.setup().unwrap_err().to_string().contains("at least 0.80"));
    }
}
