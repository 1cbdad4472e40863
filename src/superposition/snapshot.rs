//! A snapshot of toy models in training: their weights and losses at one step, and what their geometry says.

use super::geometry::{Shape, dimensions_per_feature};
use super::toy::{EVALUATED, Frame, Toy};
use crate::analysis::interference::{Interference, interference};

/// Most samples of a fixed data set whose hidden vectors are kept.
const SAMPLES: usize = 100;

/// The measures of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Measures {
    pub interference: Interference,
    /// D* = m / ‖W‖²_F, hidden dimensions for each feature.
    pub d_star: f32,
    pub shape: Shape,
    pub loss: f32,
}

/// All models at one step of their training.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub step: usize,
    /// Weights and losses of each model.
    pub frames: Vec<Frame>,
    /// Measures of each model.
    pub measures: Vec<Measures>,
    /// Hidden vectors of the first samples of each model's fixed data set, [model][sample][hidden]. A model that sees
    /// fresh inputs has none.
    pub hidden: Vec<Vec<Vec<f32>>>,
}

impl Snapshot {
    pub fn of(toy: &Toy) -> Self {
        let frames = toy.frames(EVALUATED);
        let m = toy.setup().hidden;
        let measures = frames
            .iter()
            .map(|f| Measures {
                interference: interference(&f.encoder, m),
                d_star: dimensions_per_feature(&f.encoder, m),
                shape: Shape::of(&f.encoder, m),
                loss: f.loss(),
            })
            .collect();
        Self { step: toy.step(), frames, measures, hidden: toy.hidden_of_data(SAMPLES) }
    }

    /// Returns about how many bytes the snapshot takes.
    pub fn bytes(&self) -> usize {
        let weights = |f: &Frame| f.encoder.len() + f.decoder.len() + f.bias.len() + f.feature_loss.len();
        let frames = 4 * self.frames.iter().map(weights).sum::<usize>();
        let measures: usize = self.measures.iter().map(|m| 12 * m.interference.norm.len() + 64).sum();
        let hidden: usize = self.hidden.iter().flatten().map(|h| 4 * h.len() + 24).sum();
        frames + measures + hidden
    }
}
