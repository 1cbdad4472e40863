//! Activation patching and ablation, as sweeps.
//!
//! Activation patching [Vig et al. 2020; Meng et al. 2022; TransformerLens `patching.py`]: run the corrupted
//! prompt, put the clean run's activation in at one place, and see how much of the clean metric returns.
//! Ablation: run the clean prompt, remove one activation, and see what is lost.

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::sweep::{By, Question};
use crate::engine::{Action, SiteKind, Which};

/// What takes an ablated activation's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ablation {
    #[default]
    Zero,
    /// Its mean over the positions of the reference texts, or of the prompt itself where none are given.
    Mean,
    /// Its value in the corrupted run.
    Resample,
}

impl Ablation {
    pub const ALL: [Self; 3] = [Self::Zero, Self::Mean, Self::Resample];

    pub fn label(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Mean => "mean",
            Self::Resample => "resample",
        }
    }

    pub fn action(self) -> Action {
        match self {
            Self::Zero => Action::Zero,
            Self::Mean => Action::Mean,
            Self::Resample => Action::Copy(Which::Corrupted),
        }
    }
}

/// Clean into corrupted.
pub fn patching(site: SiteKind, by: By, metric: Metric) -> Question {
    Question { site, by, base: Which::Corrupted, action: Action::Copy(Which::Clean), metric }
}

/// Removal from the clean run.
pub fn ablation(site: SiteKind, by: By, with: Ablation, metric: Metric) -> Question {
    Question { site, by, base: Which::Clean, action: with.action(), metric }
}
