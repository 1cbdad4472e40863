//! What is decided in the workspaces that train small models. It belongs to no model that is open.

use serde::{Deserialize, Serialize};

use crate::superposition::Recipe;
use crate::superposition::presets::{PRESETS, by_name};
use crate::training;

/// What is decided about toy models of superposition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToyDesk {
    /// The figure that the settings began with, by its name.
    pub figure: String,
    /// The training that is asked for next.
    pub recipe: Recipe,
}

impl Default for ToyDesk {
    fn default() -> Self {
        Self::of(PRESETS[0].name)
    }
}

impl ToyDesk {
    /// The settings of a figure; those of the first where there is none of this name.
    pub fn of(figure: &str) -> Self {
        let preset = by_name(figure).unwrap_or(&PRESETS[0]);
        Self { figure: preset.name.to_owned(), recipe: (preset.recipe)() }
    }
}

/// What is decided about small transformers that are trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingDesk {
    /// The task, by its name.
    pub task: String,
    pub seed: u64,
    /// Steps, where they are not the recipe's.
    pub steps: Option<usize>,
}

impl Default for TrainingDesk {
    fn default() -> Self {
        let first = training::by_name("alphabetical").unwrap_or(&training::TASKS[0]);
        Self { task: first.name.to_owned(), seed: 1, steps: None }
    }
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Labs {
    pub superposition: ToyDesk,
    pub training: TrainingDesk,
}
