//! Models small enough to train while you watch. One file a model, one line in [`LABS`].

pub mod addition;
pub mod alphabetical;
pub mod course;
pub mod design;
pub mod induction;
pub mod optimiser;
pub mod schedule;
pub mod text;

use std::path::PathBuf;

use crate::error::Result;
use crate::progress::Progress;

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
    /// Whether the model is looked at on the way, and checkpoints are kept that can be opened.
    pub looks: bool,
    /// Leaves a checkpoint of an earlier, stopped training aside.
    pub fresh: bool,
}

/// One report of a running training.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    pub step: usize,
    /// Losses of this step, nats.
    pub values: Vec<course::Named>,
    /// A look at the model after this step, now and then.
    #[serde(skip)]
    pub sight: Option<std::sync::Arc<course::Sight>>,
}

/// Trains with the given options, reporting now and then.
pub type Train = fn(&TrainOptions, &Progress, &mut dyn FnMut(StepReport)) -> Result<()>;

/// A model that the lab can train.
pub struct Lab {
    pub name: &'static str,
    pub purpose: &'static str,
    /// What to look out for while it trains.
    pub watch: &'static str,
    /// The papers.
    pub source: &'static str,
    /// Steps of the recipe.
    pub steps: usize,
    /// About how long it takes.
    pub time: &'static str,
    pub train: Train,
}

/// Every lab model.
pub const LABS: &[Lab] = &[induction::LAB, alphabetical::LAB, addition::LAB, text::LAB];

pub fn by_name(name: &str) -> Option<&'static Lab> {
    LABS.iter().find(|l| l.name == name)
}

/// For tasks that make their own data.
fn no_text(options: &TrainOptions, name: &str) -> Result<()> {
    match &options.text {
        None => Ok(()),
        Some(_) => Err(crate::Error::request(format!("{name} makes its own data; leave --text out"))),
    }
}
