//! `features steer`: what changing a feature does.

use super::DictionaryArgs;
use crate::cli::steering::{self, SteerArgs};
use crate::cli::{ModelArgs, PromptArgs, progress};
use crate::engine::edit::{Action, Direction, FeatureChange};
use crate::engine::{Edit, SiteKind};
use crate::error::{Error, Result};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    dictionary: DictionaryArgs,
    /// The feature
    #[arg(long, value_name = "N")]
    feature: usize,
    /// Set the feature's activation to α, instead of adding its decoder row α times
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
    let (progress, bar) = progress("loading");
    let dictionary = args.dictionary.open(&progress)?;
    drop(bar);
    // Edits find it by its name, with the site that was given.
    crate::features::store::insert(&args.dictionary.dictionary, &dictionary)?;
    let model = std::sync::Arc::new(args.model.open()?);
    let (_, output) = dictionary.check(&model.config)?;
    let row = dictionary.direction(args.feature)?;
    if output.mlp_input || output.site.kind == SiteKind::Pattern {
        return Err(Error::request(format!("{output} cannot be edited; choose a dictionary that writes a site")));
    }
    let (spec, feature) = (args.dictionary.dictionary.clone(), args.feature);
    let change = |alpha: f32| -> Result<Edit> {
        let action = if args.set || args.scale {
            let change = if args.set { FeatureChange::Set(alpha) } else { FeatureChange::Scale(alpha) };
            Action::Feature { dictionary: spec.clone(), feature, change }
        } else {
            let name = format!("feature {feature} of {}", dictionary.name);
            Action::Add { direction: Direction::Concept { name, vector: row.clone() }, factor: alpha }
        };
        Ok(Edit::new(output.site, action))
    };
    steering::execute(&model, &args.model, &args.prompt, &args.steer, &format!("feature {feature}"), &change)
}
