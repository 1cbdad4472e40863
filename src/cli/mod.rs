//! The headless command line: one file a subcommand, one line each in [`Command`].

pub mod ablate;
pub mod attribute;
mod attribute_edges;
pub mod bench;
mod bench_features;
mod bench_lab;
mod bench_sweeps;
pub mod circuit;
pub mod direction;
pub mod dla;
pub mod features;
pub mod generate;
pub mod graph;
pub mod heads;
pub mod lab;
pub mod lens;
pub mod models;
mod output;
pub mod patch;
#[cfg(feature = "gui")]
pub mod render;
pub mod run;
mod steering;
pub mod superposition;
mod sweep;
pub mod trace;
pub mod why;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Result};
use crate::model::{Model, builtin};
use crate::progress::Progress;
use crate::session::start::Start;

pub use crate::table::table;
pub use output::{Bar, emit, note};

/// A native microscope for transformer language models. Without a subcommand it opens the window.
#[derive(Debug, Parser)]
#[command(name = "circuitscope", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub window: Start,
}

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the built-in models
    Models(models::Arguments),
    /// Run a prompt: next tokens, loss, and any site of the forward pass as safetensors
    Run(run::Arguments),
    /// Logit lens: what each layer would predict
    Lens(lens::Arguments),
    /// Direct logit attribution: each component's part of a logit (difference)
    Dla(dla::Arguments),
    /// Head scores: previous token, duplicate token, induction, entropy, distance
    Heads(heads::Arguments),
    /// Activation patching: how much of the answer each part of the clean run brings back
    Patch(patch::Arguments),
    /// Ablation: what is lost when one part is removed
    Ablate(ablate::Arguments),
    /// Gradient approximations of patching, for all cells at once
    Attribute(attribute::Arguments),
    /// Find circuits, and say how good they are
    Circuit(circuit::Arguments),
    /// Continue a prompt, with edits active
    Generate(generate::Arguments),
    /// The attribution graph of one prediction
    Trace(trace::Arguments),
    /// What makes a head attend where it does: query, key and value by component
    Why(why::Arguments),
    /// Attribution graph files: counts, scores, pruning
    Graph(graph::Arguments),
    /// Draw a view to PNG or SVG without a window
    #[cfg(feature = "gui")]
    Render(Box<render::Arguments>),
    /// Dictionaries of features: encode, train, judge
    Features(features::Arguments),
    /// The direction of a concept: find, read, steer
    Direction(direction::Arguments),
    /// Train toy models of superposition
    Superposition(superposition::Arguments),
    /// Train the built-in lab models
    Lab(lab::Arguments),
    /// Time this program on this machine
    Bench(bench::Arguments),
}

impl Command {
    pub fn execute(self) -> Result<()> {
        match self {
            Self::Models(a) => models::execute(&a),
            Self::Run(a) => run::execute(&a),
            Self::Lens(a) => lens::execute(&a),
            Self::Dla(a) => dla::execute(&a),
            Self::Heads(a) => heads::execute(&a),
            Self::Patch(a) => patch::execute(&a),
            Self::Ablate(a) => ablate::execute(&a),
            Self::Attribute(a) => attribute::execute(&a),
            Self::Circuit(a) => circuit::execute(&a),
            Self::Generate(a) => generate::execute(&a),
            Self::Trace(a) => trace::execute(&a),
            Self::Why(a) => why::execute(&a),
            Self::Graph(a) => graph::execute(&a),
            #[cfg(feature = "gui")]
            Self::Render(a) => render::execute(&a),
            Self::Features(a) => features::execute(&a),
            Self::Direction(a) => direction::execute(&a),
            Self::Superposition(a) => superposition::execute(&a),
            Self::Lab(a) => lab::execute(&a),
            Self::Bench(a) => bench::execute(&a),
        }
    }
}

/// Which model, and how to print.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A .gguf file, a folder with config.json and *.safetensors, or a built-in name (see `models`)
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    pub json: bool,
}

impl ModelArgs {
    pub fn open(&self) -> Result<Model> {
        Model::open(&self.model.clone().map_or_else(builtin::default_name, Ok)?)
    }
}

/// Which prompt.
#[derive(Args, Clone, Debug)]
pub struct PromptArgs {
    /// The prompt's text
    #[arg(short, long, value_name = "TEXT", conflicts_with = "ids", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// The prompt as token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub ids: Option<Vec<u32>>,
    /// Put the model's beginning-of-sequence token first
    #[arg(long, conflicts_with = "ids")]
    pub bos: bool,
}

impl PromptArgs {
    /// The prompt's token ids, if any prompt was given.
    pub fn optional(&self, model: &Model) -> Result<Option<Vec<u32>>> {
        let ids = match (&self.prompt, &self.ids) {
            (Some(text), _) => model.encode(text, self.bos)?,
            (None, Some(ids)) => ids.clone(),
            (None, None) => return Ok(None),
        };
        model.network().check(&ids)?;
        Ok(Some(ids))
    }

    pub fn required(&self, model: &Model) -> Result<Vec<u32>> {
        self.optional(model)?.ok_or_else(|| Error::request("no prompt was given; add --prompt TEXT or --ids 1,2,3"))
    }
}

/// Which position: a number or `all`.
pub fn positions(text: Option<&str>, len: usize, default_last: bool) -> Result<Vec<usize>> {
    match text {
        None if default_last => Ok(vec![len - 1]),
        None | Some("all") => Ok((0..len).collect()),
        Some(n) => match n.parse() {
            Ok(p) if p < len => Ok(vec![p]),
            _ => {
                Err(Error::request(format!("--pos {n} is not a position of this prompt; give 0 to {} or all", len - 1)))
            }
        },
    }
}

/// A progress handle with a bar on stderr where that is a terminal.
pub fn progress(label: &'static str) -> (Progress, Bar) {
    let progress = Progress::new();
    let bar = Bar::new(label, progress.clone());
    (progress, bar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for sub in Cli::command().get_subcommands() {
            assert!(sub.get_about().is_some(), "{} says nothing of itself", sub.get_name());
        }
    }
}
