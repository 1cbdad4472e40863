//! Models small enough to train while you watch. One file a model, one line in [`LABS`].

pub mod induction;
pub mod optimiser;
pub mod schedule;
pub mod toy;

use std::path::PathBuf;

use crate::error::Result;
use crate::jobs::Progress;

/// What a training run is asked to do.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Folder to write the model to.
    pub output: PathBuf,
    /// Text to train on instead of the text that ships with the program.
    pub text: Option<PathBuf>,
    /// Steps instead of the recipe's.
    pub steps: Option<usize>,
    pub seed: u64,
}

/// One report of a running training.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    pub step: usize,
    /// Loss on repeated random tokens, where the next token is predictable; nats.
    pub loss_repeat: f32,
    /// Loss on text, once text is mixed in; nats.
    pub loss_text: Option<f32>,
}

/// Trains with the given options, reporting now and then.
pub type Train = fn(&TrainOptions, &Progress, &mut dyn FnMut(StepReport)) -> Result<()>;

/// A model that the lab can train.
pub struct Lab {
    pub name: &'static str,
    pub purpose: &'static str,
    pub train: Train,
}

/// Every lab model.
pub const LABS: &[Lab] = &[induction::LAB];

pub fn by_name(name: &str) -> Option<&'static Lab> {
    LABS.iter().find(|l| l.name == name)
}
