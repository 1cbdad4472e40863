//! `lab train NAME`: trains a built-in lab model from its recipe and seed.

use std::io::IsTerminal;
use std::path::PathBuf;

use super::{emit, progress};
use crate::error::{Error, Result, note};
use crate::training::{TASKS, TrainOptions, by_name};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List what can be trained
    List,
    /// Train a model and write its folder; a stopped training resumes where it was
    Train {
        /// Which model: see `lab list`
        name: String,
        /// Folder to write (default: the model's name)
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Text file to train on instead of the text that ships with the program
        #[arg(long, value_name = "FILE")]
        text: Option<PathBuf>,
        /// Steps instead of the recipe's
        #[arg(long, value_name = "N")]
        steps: Option<usize>,
        /// Seed of the first weights and the examples
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Keep models of the way there under DIR/checkpoints, and report scores
        #[arg(long)]
        checkpoints: bool,
    },
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.action {
        Action::List => {
            let lines: Vec<String> = TASKS.iter().map(|t| format!("{}: {}", t.name, t.purpose)).collect();
            emit(&lines.join("\n"))
        }
        Action::Train { name, output, text, steps, seed, checkpoints } => {
            let task = by_name(name).ok_or_else(|| {
                let known: Vec<&str> = TASKS.iter().map(|t| t.name).collect();
                Error::request(format!("there is no lab model `{name}`; there are {}", known.join(", ")))
            })?;
            let output = output.clone().unwrap_or_else(|| PathBuf::from(name));
            let options = TrainOptions {
                output: output.clone(),
                text: text.clone(),
                steps: *steps,
                seed: *seed,
                probes: *checkpoints,
                fresh: false,
            };
            let (progress, bar) = progress("training");
            let quiet = std::io::stderr().is_terminal();
            (task.train)(&options, &progress, &mut |r| {
                if !quiet && (r.step.is_multiple_of(100) || r.probe.is_some()) {
                    let scores = r.probe.iter().flat_map(|s| &s.scores);
                    let all: Vec<String> = r.values.iter().chain(scores).map(|(n, v)| format!("{n} {v:.4}")).collect();
                    note(&format!("step {}: {}", r.step, all.join(", ")));
                }
            })?;
            drop(bar);
            let path = std::path::absolute(&output).unwrap_or(output);
            emit(&format!("{name} written; open it with --model {}", path.display()))
        }
    }
}
