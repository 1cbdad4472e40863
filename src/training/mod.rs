//! Transformers small enough to train while you watch. Each is trained for one task: a file of its own, and one line in
//! [`TASKS`].
//!
//! | file | idea |
//! | --- | --- |
//! | [`induction`], [`alphabetical`], [`addition`], [`text`] | the tasks: data, design, learning rate, scores |
//! | [`design`] | the shape of a model: its variables, its weights, its files |
//! | [`run`] | the training itself, step by step, with checkpoints and probes |
//! | [`live`] | the same as a question, for whoever watches |
//! | [`optimiser`], [`schedule`] | AdamW with a state that can be saved, and learning rates |

pub mod addition;
pub mod alphabetical;
pub mod design;
pub mod induction;
pub mod live;
pub mod optimiser;
pub mod run;
pub mod schedule;
pub mod text;

use std::path::PathBuf;
use std::sync::Arc;

use self::run::{Named, Probe};
use crate::error::{Error, Result};
use crate::identity;
use crate::progress::Progress;

/// The options of a training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// The folder that the model is written to.
    pub output: PathBuf,
    /// A text file to train on instead of the text that ships with the program.
    pub text: Option<PathBuf>,
    /// The number of steps, if it is not the recipe's.
    pub steps: Option<usize>,
    pub seed: u64,
    /// Takes probes on the way, and keeps checkpoints that can be opened as models.
    pub probes: bool,
    /// Starts from the beginning, even if a training was stopped in this folder.
    pub fresh: bool,
}

/// What a training reports of one step.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    pub step: usize,
    /// The losses of this step, in nats.
    pub values: Vec<Named>,
    /// A probe of the model after this step. Most steps have none.
    #[serde(skip)]
    pub probe: Option<Arc<Probe>>,
}

/// Trains with the given options, and reports on the way.
pub type Train = fn(&TrainOptions, &Progress, &mut dyn FnMut(StepReport)) -> Result<()>;

/// A task that a small transformer is trained for.
pub struct Task {
    pub name: &'static str,
    /// One sentence on the model and what it learns.
    pub purpose: &'static str,
    /// A paragraph on what to look out for while it trains.
    pub watch: &'static str,
    /// The papers.
    pub source: &'static str,
    /// Steps of the recipe.
    pub steps: usize,
    /// About how long the training takes, in words.
    pub time: &'static str,
    pub train: Train,
}

identity!(Task);

/// Every task.
pub static TASKS: &[Task] = &[induction::TASK, alphabetical::TASK, addition::TASK, text::TASK];

pub fn by_name(name: &str) -> Option<&'static Task> {
    TASKS.iter().find(|t| t.name == name)
}

/// Refuses a text for a task that makes its own data.
fn no_text(options: &TrainOptions, name: &str) -> Result<()> {
    match &options.text {
        None => Ok(()),
        Some(_) => Err(Error::request(format!("{name} makes its own data; leave --text out"))),
    }
}
