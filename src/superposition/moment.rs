//! One step of a training with everything that is shown of it.

use super::geometry::{Shape, dimensions_per_feature};
use super::training::{Snapshot, Toy};
use crate::analysis::interference::{Interference, interference};

/// Samples of a fixed data set whose hidden vectors are kept.
const SAMPLES: usize = 100;

/// What one instance's geometry says.
#[derive(Clone, Debug, PartialEq)]
pub struct Measures {
    pub interference: Interference,
    pub d_star: f32,
    pub shape: Shape,
    pub loss: f32,
}

/// All instances at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub snapshot: Snapshot,
    pub measures: Vec<Measures>,
    /// For each instance with a fixed data set the hidden vectors of its first samples, [sample][hidden].
    pub hidden: Vec<Vec<Vec<f32>>>,
}

impl Moment {
    pub fn of(toy: &Toy) -> Self {
        let snapshot = toy.snapshot();
        let m = toy.setup().hidden;
        let measures = snapshot
            .frames
            .iter()
            .map(|f| Measures {
                interference: interference(&f.encoder, m),
                d_star: dimensions_per_feature(&f.encoder, m),
                shape: Shape::of(&f.encoder, m),
                loss: f.loss(),
            })
            .collect();
        Self { snapshot, measures, hidden: toy.hidden_of_data(SAMPLES) }
    }

    pub fn step(&self) -> usize {
        self.snapshot.step
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let measured: usize = self.measures.iter().map(|m| 12 * m.interference.norm.len() + 64).sum();
        let hidden: usize = self.hidden.iter().flatten().map(|h| 4 * h.len() + 24).sum();
        self.snapshot.bytes() + measured + hidden
    }
}
