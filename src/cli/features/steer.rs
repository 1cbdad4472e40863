//! `features steer`: changes a feature and prints what that does to the prediction.

use std::sync::Arc;

use super::DictionaryArgs;
use crate::cli::steering::{self, SteerArgs};
use crate::cli::{Job, ModelArgs, PromptArgs};
use crate::engine::Edit;
use crate::engine::edit::FeatureChange;
use crate::error::Result;
use crate::features::Store;
use crate::features::dictionary::edit::{changed, steered};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    dictionary: DictionaryArgs,
    /// The feature
    #[arg(long, value_name = "N")]
    feature: usize,
    /// Set the feature's activation to α, instead of adding what it writes α times
    #[arg(long)]
    set: bool,
    /// Ablate the feature where it is active: the response at α = 1 has all of it, at 0 none
    #[arg(long, conflicts_with = "set")]
    scale: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    steer: SteerArgs,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let mut job = Job::begin(&args.model, "steering")?;
    let model = job.model.clone();
    let dictionary = Arc::new(args.dictionary.open(&job.progress)?);
    super::check(&model, &dictionary);
    // The edits look the dictionary up by this name, and so find the one with the site that was given.
    let store = Store::default();
    store.insert(&args.dictionary.dictionary, dictionary.clone())?;
    let (spec, feature) = (&args.dictionary.dictionary, args.feature);
    let edits = |alpha: f32| -> Result<Vec<Edit>> {
        if args.set || args.scale {
            let change = if args.set { FeatureChange::Set(alpha) } else { FeatureChange::Scale(alpha) };
            return changed(&dictionary, spec, feature, change, &model.config);
        }
        steered(&dictionary, spec, feature, alpha, &model.config)
    };
    steering::execute(&mut job, &args.prompt, &args.steer, &format!("feature {feature}"), &edits, &store)
}
