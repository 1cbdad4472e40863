//! Entropy of the prediction after every layer at every position: how undecided the model still is, by the logit lens.
//!
//! ```text
//! H[l][pos] = −Σ_t p(t) ln p(t),  p = softmax(unembed(ln_final(resid_post[l][pos])))
//! ```
//!
//! 0 means that one token is certain; ln(d_vocab) nats, that all are equally probable.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::logit_lens::{Lens, LensOf};
use super::subject::{Compared, Subject};
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Question;

/// In what an entropy is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    #[default]
    Nats,
    Bits,
    /// Of the greatest entropy that the vocabulary allows, in [0, 1].
    Share,
}

impl Unit {
    pub const ALL: [Self; 3] = [Self::Nats, Self::Bits, Self::Share];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Bits => "bits",
            Self::Share => "share",
        }
    }

    /// Converts an entropy in nats, over a vocabulary of `d_vocab` tokens.
    pub fn of(self, nats: f32, d_vocab: usize) -> f32 {
        match self {
            Self::Nats => nats,
            Self::Bits => nats / std::f32::consts::LN_2,
            // One token alone leaves no choice.
            Self::Share => nats / (d_vocab.max(2) as f32).ln(),
        }
    }
}

/// Entropies after every layer, at the positions that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Entropies {
    pub positions: Vec<usize>,
    /// [layer][index into `positions`], in nats; `None` while not yet computed.
    pub nats: Vec<Vec<Option<f32>>>,
}

impl From<&Lens> for Entropies {
    fn from(lens: &Lens) -> Self {
        let nats = lens.cells.iter().map(|row| row.iter().map(|c| c.as_ref().map(|c| c.entropy)).collect());
        Self { positions: lens.positions.clone(), nats: nats.collect() }
    }
}

impl From<Compared<Lens>> for Compared<Entropies> {
    fn from(lens: Compared<Lens>) -> Self {
        let (now, minus) = ((&lens.now).into(), lens.minus.as_ref().map(Into::into));
        Self { now, minus, alignment: lens.alignment }
    }
}

/// Asks for the entropies of a run, or of two, at some positions (all if empty).
#[derive(Clone, PartialEq)]
pub struct EntropyOf {
    pub subject: Subject,
    pub positions: Vec<usize>,
}

impl Question for EntropyOf {
    type Answer = Compared<Entropies>;
    const LABEL: &'static str = "entropy";

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { subject, positions } = self.clone();
        let lens = LensOf { subject, lens: None, positions, answer: None, wrong: None };
        Ok(lens.run(progress, &mut |part| partial(part.into()))?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Trace;
    use crate::model::Model;

    /// The last layer's is that of the model's own prediction, worked out here from its logits.
    #[test]
    fn after_the_last_layer_it_is_the_predictions_own() {
        let model = Arc::new(Model::open("induction").unwrap());
        let (ids, progress) = (model.encode("The President of the United", false).unwrap(), Progress::new());
        let trace = Arc::new(Trace::run(&model, ids, &progress).unwrap());
        let question = EntropyOf { subject: Subject::one(trace.clone()), positions: Vec::new() };
        let found = question.run(&progress, &mut |_| {}).unwrap();
        assert_eq!((found.nats.len(), found.nats[0].len()), (model.config.n_layers, trace.len()));
        for (pos, told) in found.nats.last().unwrap().iter().enumerate() {
            let logits = model.network().unembed(&trace.normalized(pos).unwrap()).unwrap();
            let logits = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let entropy: f64 = weights.iter().map(|w| -(w / sum) * (w / sum).ln()).sum();
            assert!((entropy - f64::from(told.unwrap())).abs() < 1e-4, "{pos}: {entropy} {told:?}");
        }
    }

    #[test]
    fn a_uniform_guess_of_eight_tokens_is_three_bits() {
        let nats = 8f32.ln();
        let told = Unit::ALL.map(|u| u.of(nats, 8));
        assert!(told.iter().zip([nats, 3.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{told:?}");
        assert_eq!(Unit::ALL.map(|u| u.of(0.0, 1)), [0.0; 3], "one token alone is certain");
    }
}
