//! Activation patching and ablation: two ways to find out by experiment which parts of a run matter. Both are sweeps
//! ([`super::sweep`]) that try one edit at every cell of a grid.
//!
//! Activation patching [Vig et al. 2020; Meng et al. 2022; TransformerLens `patching.py`] runs the corrupted prompt,
//! puts the clean run's activation in at one cell, and measures how much of the clean metric comes back. It finds what
//! is *enough* to restore the answer.
//!
//! Ablation runs the clean prompt, removes the activation at one cell, and measures what the metric loses. It finds
//! what is *needed* for the answer.

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::sweep::{By, Question};
use crate::engine::{Action, SiteKind, Which};

/// The value that replaces an ablated activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ablation {
    #[default]
    Zero,
    /// The mean over all positions of the reference texts, or of the prompt itself where none are given.
    Mean,
    /// The value in the corrupted run.
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

/// Returns the sweep that copies the clean run's values into the corrupted run.
pub fn patching(site: SiteKind, by: By, metric: Metric) -> Question {
    Question { site, by, base: Which::Corrupted, action: Action::Copy(Which::Clean), metric }
}

/// Returns the sweep that removes values from the clean run.
pub fn ablation(site: SiteKind, by: By, with: Ablation, metric: Metric) -> Question {
    Question { site, by, base: Which::Clean, action: with.action(), metric }
}
