//! The options that name a prompt set, and the pairs that it gives.

use crate::circuit::file::PromptPair;
use crate::circuit::prompt_set::PromptSet;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// The options of one pair of prompts, which a set stands in the place of.
pub const PAIR: [&str; 8] =
    ["clean", "clean_ids", "clean_chat", "corrupt", "corrupt_ids", "corrupt_chat", "answer", "wrong"];

/// Prompts out of a template.
#[derive(clap::Args, Clone, Debug)]
pub struct SetArgs {
    /// A prompt set, by name (see `circuit sets`) or as a .toml file
    #[arg(long, value_name = "NAME|FILE.toml", conflicts_with_all = PAIR)]
    pub set: Option<String>,
    /// Pairs to generate from the set
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub pairs: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
}

impl SetArgs {
    pub fn generate(&self, model: &Model) -> Result<Option<Vec<PromptPair>>> {
        let Some(name) = &self.set else { return Ok(None) };
        if self.pairs == 0 {
            return Err(Error::request("--pairs 0 leaves no prompt; give at least one"));
        }
        Ok(Some(PromptSet::open(name)?.generate(model, self.pairs, self.seed, &Progress::new())?.pairs))
    }
}
