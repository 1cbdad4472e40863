//! `plan`: says what a command will need before it is run. Sizes and tokens are read, no weight of the model is. What goes
//! over texts or a prompt set, searches a circuit or traces features is planned by the command itself.

use clap::{CommandFactory as _, ValueEnum};
use serde_json::{Value, json};

use super::attribute::Method;
use super::output::document;
use super::submit::plan_of;
use super::sweep::{SiteArg, parse_axes};
use super::{Cli, ModelArgs, PromptArgs, emit, emit_json};
use crate::analysis::plan::{Planned, cost, longest};
use crate::cost::Cost;
use crate::error::Result;
use crate::memory::{self, available, needs};
use crate::model::Model;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The command that would be run
    #[arg(value_enum, required_unless_present = "work")]
    command: Option<Asked>,
    /// Work over texts or a prompt set, a search of a circuit, or a graph on features, as it would be run: `plan -- heads
    /// --over prose -m text -o heads.arrow`
    #[arg(last = true, value_name = "WORK", conflicts_with = "command")]
    work: Vec<String>,
    /// Where `patch` and `ablate` edit
    #[arg(long, value_enum, default_value_t = SiteArg::ResidPre)]
    site: SiteArg,
    /// The grid of `patch` and `ablate`, as they take it
    #[arg(long, value_name = "AXES")]
    by: Option<String>,
    /// The head whose edges `--by dest,src` edits
    #[arg(long, value_name = "LAYER.HEAD")]
    head: Option<String>,
    /// The approximation of `attribute`
    #[arg(long, value_enum, default_value_t = Method::Atp)]
    method: Method,
    /// Points of EAP-IG's path
    #[arg(long, default_value_t = crate::circuit::eap::STEPS as u32, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
}

/// `plan -m MODEL -p TEXT COMMAND …` as `plan -- COMMAND -m MODEL -p TEXT …`: what stands before a command belongs to it.
pub(super) fn as_work(words: &[String]) -> Option<Vec<String>> {
    /// Options of [`ModelArgs`] and [`PromptArgs`] that no value follows.
    const FLAGS: [&str; 3] = ["--json", "--bos", "--no-generation-prompt"];
    let (program, words) = words.split_first()?;
    let (plan, words) =
        words.split_first().filter(|(first, rest)| *first == "plan" && !rest.iter().any(|w| w == "--"))?;
    let is_value = |at: usize| {
        let before = at.checked_sub(1).map(|i| words[i].as_str());
        before.is_some_and(|w| w.starts_with('-') && !w.contains('=') && !FLAGS.contains(&w))
    };
    let commands = Cli::command();
    let at = (0..words.len()).find(|at| commands.find_subcommand(&words[*at]).is_some() && !is_value(*at))?;
    let (before, rest) = words.split_at(at);
    let (command, rest) = rest.split_first()?;
    // A subcommand of the command comes before its options.
    let below = commands.find_subcommand(command).filter(|c| c.has_subcommands());
    let (second, rest) = rest.split_at(usize::from(below.is_some() && !rest.is_empty()));
    let whole = [&[program.clone(), plan.clone(), "--".to_owned(), command.clone()], second, before, rest].concat();
    Some(whole)
}

/// The commands whose cost is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Asked {
    Run,
    Lens,
    Entropy,
    Dla,
    Heads,
    Patch,
    Ablate,
    Attribute,
    Trace,
}

impl Arguments {
    fn planned(&self, command: Asked) -> Result<Planned> {
        let sweep = |runs| -> Result<Planned> {
            let (site, by) =
                (self.site.kind(), parse_axes(self.site.kind(), self.by.as_deref(), self.head.as_deref())?);
            Ok(Planned::Sweep { site, by, runs })
        };
        Ok(match command {
            Asked::Run => Planned::Run,
            Asked::Lens | Asked::Entropy => Planned::Lens,
            Asked::Dla | Asked::Heads => Planned::Trace,
            Asked::Patch => sweep(2)?,
            Asked::Ablate => sweep(1)?,
            Asked::Attribute => match self.method {
                Method::Atp => Planned::Nodes { site: None },
                Method::Eap => Planned::Edges { steps: 1 },
                Method::EapIg => Planned::Edges { steps: self.steps as usize },
            },
            Asked::Trace => Planned::Graph,
        })
    }
}

/// Plans a work as it would be run.
fn execute_work(words: &[String], json: bool) -> Result<()> {
    let (model, cost, training) = plan_of(words)?;
    let (free, bytes) = (available(), cost.bytes().max(training.as_ref().map_or(0, Cost::bytes)));
    let seconds = cost.seconds + training.as_ref().map_or(0.0, |t| t.seconds);
    let fits = free.map(|free| memory::fits(bytes, free));
    // What goes in pieces is planned whole.
    let otherwise = (fits == Some(false)).then(|| {
        let room = if model.can_be_smaller() {
            "hold the weights as they are stored (--weights stored)"
        } else {
            "close other programs"
        };
        format!("It does not fit: {room}, or ask for less.")
    });
    if !json {
        let second = otherwise.map_or(String::new(), |what| format!("\n{what}"));
        return emit(&format!("{}{second}", needs(bytes, seconds)));
    }
    emit_json(document(
        &model,
        None,
        0.0,
        json!({
            "command": words.join(" "), "needs_bytes": bytes, "weights_bytes": cost.weights, "work_bytes": cost.work,
            "needs_seconds": seconds, "training_seconds": training.map(|t| t.seconds), "free_bytes": free, "fits": fits,
            "otherwise": otherwise,
        }),
    ))
}

pub fn execute(args: &Arguments) -> Result<()> {
    // Those who pass on words, as the Python module does, put one word where work stands.
    let alone = match &args.work[..] {
        [word] => Asked::from_str(word, false).ok(),
        _ => None,
    };
    let Some(command) = args.command.or(alone) else {
        return execute_work(&args.work, args.model.json || args.work.iter().any(|w| w == "--json"));
    };
    let planned = args.planned(command)?;
    let model = Model::outline(&args.model.spec()?, args.model.weights)?;
    let ids = args.prompt.required(&model)?;
    let needed = cost(&model, ids.len(), planned);
    let free = available();
    let fits = free.map(|free| memory::fits(needed.bytes(), free));
    let instead = match (free, fits) {
        (Some(free), Some(false)) => Some(instead(&model, planned, free.saturating_sub(memory::RESERVE), ids.len())),
        _ => None,
    };
    let otherwise = instead.as_ref().map_or(String::new(), |what| format!("\n{what}"));
    let text = format!("{}{otherwise}", needs(needed.bytes(), needed.seconds));
    if !args.model.json {
        return emit(&text);
    }
    let command = command.to_possible_value().map_or(Value::Null, |v| json!(v.get_name()));
    emit_json(document(
        &model,
        Some(&ids),
        0.0,
        json!({
            "command": command, "needs_bytes": needed.bytes(), "weights_bytes": needed.weights,
            "work_bytes": needed.work, "needs_seconds": needed.seconds, "free_bytes": free, "fits": fits,
            "otherwise": instead,
        }),
    ))
}

/// What happens where it does not fit.
fn instead(model: &Model, planned: Planned, free: u64, n: usize) -> String {
    match longest(model, planned, free, n) {
        0 => format!(
            "No prompt fits: the weights take {} as they are held and {} as stored; close other programs or take the \
             model in fewer bits.",
            memory::bytes(model.weight_bytes() as u64),
            memory::bytes(model.stored_bytes)
        ),
        most => format!("{most} of the {n} tokens would fit; shorten the prompt."),
    }
}
