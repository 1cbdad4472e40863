//! `submit`: prints a ready job for a scheduler, which does a work over texts in shards and puts them together. It sends
//! nothing.

mod kubernetes;
mod parallel;
mod slurm;
mod words;

use std::path::Path;

use clap::{CommandFactory, Parser, Subcommand};
use serde_json::json;

use self::words::Options;
use super::set_args::SetArgs;
use super::{Cli, Command, ModelArgs, PromptArgs, emit, emit_json, parse_gigabytes};
use crate::analysis::plan::{OverText, Planned, cost, cost_over, training_cost};
use crate::circuit::file::PromptPair;
use crate::cost::{Cost, duration};
use crate::error::{Error, Result};
use crate::features::text;
use crate::memory;
use crate::model::Model;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    scheduler: Scheduler,
}

#[derive(Debug, Subcommand)]
enum Scheduler {
    /// A script that sends a job array and, after it, the merge: `circuitscope submit slurm COMMAND… | sh`
    Slurm(Slurm),
    /// An Indexed Job and the merge: `circuitscope submit kubernetes … COMMAND… | kubectl apply -f -`
    Kubernetes(Kubernetes),
    /// A script that runs the shards on this machine, or on others that share its files and that GNU parallel is told of, and the merge
    Parallel(Parallel),
}

/// What all schedulers need to know.
#[derive(clap::Args, Debug)]
struct Common {
    /// Shards of the work
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    shards: u32,
    /// What the job is called (default: circuitscope and the command)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Cores of a shard
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    cpus: u32,
    /// Gigabytes of memory of a shard (default: planned). With --minutes nothing is planned, so that neither the model nor
    /// the text has to be here
    #[arg(long, value_name = "GB", value_parser = parse_gigabytes)]
    memory: Option<f64>,
    /// Minutes of a shard at most (default: planned)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    minutes: Option<u32>,
    /// The program where the job runs (default: this one; in a container: circuitscope)
    #[arg(long, value_name = "PATH")]
    program: Option<String>,
    /// Print the job and what it was planned with as one JSON document
    #[arg(long)]
    json: bool,
    /// The command, as it would be run here: one that takes --shard, with its --output
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct Slurm {
    /// Partition to send it to
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Kubernetes {
    /// Container image that holds the program
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Claim of a volume that all shards can write; it holds the command's files
    #[arg(long, value_name = "NAME")]
    claim: String,
    /// Where the volume lies in the container, and the command is run
    #[arg(long, default_value = "/work", value_name = "PATH")]
    mount: String,
    /// Namespace of the jobs
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Parallel {
    /// Shards that run at the same time (default: as many as have their cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    #[command(flatten)]
    common: Common,
}

type Reckoning<'a> = dyn Fn(&Model) -> Result<Cost> + 'a;

/// A work whose cost is known beforehand; each command says it of itself.
pub struct Work<'a> {
    pub model: &'a ModelArgs,
    /// What all of it costs with a model, of which no weight has been read.
    cost: Box<Reckoning<'a>>,
    training: Option<Training>,
}

impl<'a> Work<'a> {
    pub fn new(model: &'a ModelArgs, cost: impl Fn(&Model) -> Result<Cost> + 'a) -> Self {
        Self { model, cost: Box::new(cost), training: None }
    }

    /// With what is trained on all that the shards have harvested.
    pub fn then(self, training: Training) -> Self {
        Self { training: Some(training), ..self }
    }

    /// Refused where `check` refuses it.
    pub fn checked(self, check: impl Fn() -> Result<()> + 'a) -> Self {
        let Self { model, cost, training } = self;
        let cost: Box<Reckoning<'a>> = Box::new(move |model| check().and_then(|()| cost(model)));
        Self { model, cost, training }
    }

    /// A work on one prompt.
    pub fn on_prompt(model: &'a ModelArgs, prompt: &'a PromptArgs, what: Planned) -> Self {
        Self::new(model, move |model| Ok(cost(model, prompt.required(model)?.len(), what)))
    }

    /// A work over texts, at most `limit` tokens of them, in rows of `row`.
    pub fn over_text(
        model: &'a ModelArgs,
        specs: &'a [String],
        (limit, row): (Option<usize>, usize),
        what: OverText,
    ) -> Self {
        Self::new(model, move |model| Ok(cost_over(model, text::tokens(specs, limit)?, row, what)))
    }

    /// A work on every pair of a prompt set, one after the other.
    pub fn over_pairs(model: &'a ModelArgs, set: &'a SetArgs, what: Planned) -> Self {
        Self::new(model, move |model| {
            let pairs = set.generate(model)?.unwrap_or_default();
            Ok(cost(model, longest(&pairs), what).times(pairs.len()))
        })
    }
}

/// Tokens of the longest prompt of some pairs.
pub fn longest(pairs: &[PromptPair]) -> usize {
    pairs.iter().map(|p| p.clean_ids.len().max(p.corrupt_ids.len())).max().unwrap_or(0)
}

/// A training of dictionaries, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// How many; those beyond the model's layers do not count.
    pub dictionaries: usize,
    pub features: usize,
    pub steps: usize,
    pub batch: usize,
    /// Bytes of activations that are held in memory.
    pub held: usize,
}

/// What is planned is guessed, so that a job is given more: of time, and of memory.
const TIME: f64 = 3.0;
const MEMORY: f64 = 1.25;
/// Minutes that a job is given at least: the model has to be read.
const LEAST_MINUTES: u32 = 10;
/// Bytes that a job is given at least.
const LEAST_MEMORY: f64 = 1e9;

/// A work in shards, ready to be written for a scheduler.
struct Plan {
    name: String,
    /// The command of every shard, but for the last words, which differ.
    shard: Vec<String>,
    /// The folder of the shards' files.
    folder: String,
    shards: u32,
    /// What is run after the last shard, in this order.
    after: Vec<Step>,
    cpus: u32,
    megabytes: u64,
    minutes: u32,
    /// Memory and time in words, and where they come from.
    note: String,
}

/// A command, and what it is given.
struct Step {
    words: Vec<String>,
    megabytes: u64,
    minutes: u32,
}

impl Plan {
    /// The folder of what the jobs say.
    fn logs(&self) -> String {
        self.folder.strip_suffix("shards").map_or_else(|| format!("{}.logs", self.folder), |f| format!("{f}logs"))
    }

    fn files(&self) -> Vec<String> {
        (0..self.shards).map(|i| format!("{}/{i}", self.folder)).collect()
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let own = || std::env::current_exe().ok().map(|p| p.display().to_string());
    let (job, plan, json) = match &args.scheduler {
        Scheduler::Slurm(a) => {
            let plan = plan(&a.common, own())?;
            (slurm::job(&plan, a.partition.as_deref())?, plan, a.common.json)
        }
        Scheduler::Kubernetes(a) => {
            let plan = plan(&a.common, None)?;
            (kubernetes::job(&plan, a), plan, a.common.json)
        }
        Scheduler::Parallel(a) => {
            let plan = plan(&a.common, own())?;
            (parallel::job(&plan, a.jobs), plan, a.common.json)
        }
    };
    if json {
        return emit_json(json!({
            "model": null, "job": job, "shards": plan.shards, "megabytes": plan.megabytes, "minutes": plan.minutes,
            "files": plan.files(), "after": plan.after.iter().map(|s| &s.words).collect::<Vec<_>>(), "seconds": 0.0, "load_seconds": 0.0,
        }));
    }
    emit(job.trim_end())
}

/// A command out of its words, or what is wrong with them.
fn read(words: &[String]) -> std::result::Result<Cli, String> {
    Cli::try_parse_from(std::iter::once("circuitscope").chain(words.iter().map(String::as_str))).map_err(|e| {
        let text = e.to_string();
        if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return format!("`{}` wants a subcommand or arguments", words.join(" "));
        }
        let first = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        first.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

fn parse(words: &[String]) -> Result<Cli> {
    read(words).map_err(|why| Error::request(format!("the command is wrong: {why}")))
}

/// # Errors
/// A job whose commands could not be run as they stand.
fn check(plan: &Plan) -> Result<()> {
    let last = ["--shard".to_owned(), format!("0/{}", plan.shards), "-o".to_owned(), format!("{}/0", plan.folder)];
    let shard: Vec<String> = plan.shard.iter().cloned().chain(last).collect();
    std::iter::once(&shard).chain(plan.after.iter().map(|s| &s.words)).try_for_each(|words| {
        // The first word is the program.
        read(&words[1..])
            .map(drop)
            .map_err(|why| Error::request(format!("the command cannot be run in shards: {why}; leave that out")))
    })
}

fn no_work(leaf: &str) -> Error {
    Error::request(format!(
        "`{leaf}` does no work over texts or a prompt set here, so that it has no shards; those that take --shard have"
    ))
}

/// The model that a work is done with, what the whole work needs, and the training behind it.
///
/// # Errors
/// Words that are no command, or a command that does no such work.
pub fn plan_of(words: &[String]) -> Result<(Model, Cost, Option<Cost>)> {
    let parsed = parse(words)?;
    let Some(work) = parsed.command.as_ref().and_then(|command| work(command).or_else(|| alone(command))) else {
        let leaf = Options::of(&Cli::command(), words).1;
        return Err(Error::request(format!("`{leaf}` is not planned: it needs little, or nobody knows how much")));
    };
    let (cost, training) = needed(&work)?;
    Ok((Model::outline(&work.model.spec()?, work.model.weights)?, cost, training))
}

fn plan(args: &Common, program: Option<String>) -> Result<Plan> {
    let words = &args.command;
    let parsed = parse(words)?;
    let whole = Cli::command();
    let (options, leaf) = Options::of(&whole, words);
    let work = parsed.command.as_ref().and_then(work);
    let (Some(work), true) = (work, options.knows("shard")) else {
        return Err(no_work(&leaf));
    };
    if options.value(words, "shard").is_some() {
        return Err(Error::request("leave --shard out: each job has its own"));
    }
    let subjects = ["dictionary", "neurons", "direction"].map(|id| options.values(words, id).len());
    if subjects.iter().sum::<usize>() > 1 {
        return Err(Error::request("a job indexes one dictionary, layer of neurons or direction; send one for each"));
    }
    let Some(output) = options.value(words, "output") else {
        return Err(Error::request("the command writes no file that shards could be merged into; add --output"));
    };
    if words.iter().any(|w| w == "--") {
        return Err(Error::request("a job adds its own options at the end; write the command without `--`"));
    }
    // A name like that would be taken for an option.
    let output = if output.starts_with('-') { format!("./{output}") } else { output };
    let program = args.program.clone().or(program).unwrap_or_else(|| "circuitscope".to_owned());
    let command = |words: Vec<String>| std::iter::once(program.clone()).chain(words).collect::<Vec<_>>();
    let folder = format!("{output}.shards");
    let shard = command(options.without(words, &["output", "json"]));
    let needs = Needs::of(args, &work)?;
    let (megabytes, minutes) = (needs.megabytes, needs.minutes);
    let merged = |words: Vec<String>| Step { words, megabytes, minutes: minutes.max(LEAST_MINUTES) };
    let mut after = Vec::new();
    let merge = |to: &str| {
        let files = (0..args.shards).map(|i| format!("{folder}/{i}"));
        command(["merge".to_owned(), "-o".to_owned(), to.to_owned()].into_iter().chain(files).collect())
    };
    // A shard of a training is a harvest, on which all is trained then.
    if options.knows("activations") {
        let harvest = format!("{folder}/all");
        after.push(merged(merge(&harvest)));
        let text = ["text", "context", "tokens", "bos", "include_first", "memory", "json"];
        let mut train = options.without(words, &text);
        train.extend(["--activations".to_owned(), harvest]);
        let (megabytes, minutes) = needs.training;
        after.push(Step { words: command(train), megabytes, minutes });
    } else {
        after.push(merged(merge(&output)));
    }
    let plan = Plan {
        name: args.name.clone().unwrap_or_else(|| format!("circuitscope {leaf}")),
        note: needs.note,
        shard,
        folder,
        shards: args.shards,
        after,
        cpus: args.cpus,
        megabytes,
        minutes,
    };
    check(&plan)?;
    Ok(plan)
}

/// What a shard is given, and the training behind all of them, in megabytes and minutes.
struct Needs {
    megabytes: u64,
    minutes: u32,
    training: (u64, u32),
    /// The same in words.
    note: String,
}

impl Needs {
    /// As it is told, else as it is planned.
    fn of(args: &Common, work: &Work<'_>) -> Result<Self> {
        if args.memory == Some(0.0) {
            return Err(Error::request("a shard runs in no 0 gigabytes; give --memory more"));
        }
        let told = args.memory.map(|gb| (gb.max(0.1) * 1e9 / (1 << 20) as f64).ceil() as u64);
        if let (Some(megabytes), Some(minutes)) = (told, args.minutes) {
            let note = "Memory and time as they were told; nothing was planned.".to_owned();
            return Ok(Self { megabytes, minutes, training: (megabytes, minutes), note });
        }
        let (cost, training) = needed(work)?;
        // What is planned is for all cores of this machine.
        let here = rayon::current_num_threads().max(1) as f64;
        let slower = here / f64::from(args.cpus).min(here);
        let minutes_of = |seconds: f64| (TIME * slower * seconds / 60.0).ceil().min(1e6) as u32 + LEAST_MINUTES;
        let megabytes_of = |cost: &Cost| {
            let planned = (cost.bytes() as f64 * MEMORY).max(LEAST_MEMORY);
            told.unwrap_or((planned / (1 << 20) as f64).ceil() as u64)
        };
        let after = training.as_ref().unwrap_or(&cost);
        Ok(Self {
            megabytes: megabytes_of(&cost),
            minutes: args.minutes.unwrap_or(minutes_of(cost.seconds / f64::from(args.shards))),
            training: (megabytes_of(after), minutes_of(after.seconds)),
            note: format!(
                "The plan: {} of memory a shard, and about {} on {} of this machine's cores for all {} together; a job gets \
                 {TIME} times its share of that and {LEAST_MINUTES} minutes.",
                memory::bytes(cost.bytes()),
                duration(slower * cost.seconds),
                f64::from(args.cpus).min(here),
                args.shards
            ),
        })
    }
}

fn work(command: &Command) -> Option<Work<'_>> {
    match command {
        Command::Features(a) => a.work(),
        Command::Heads(a) => a.work(),
        Command::Jlens(a) => a.work(),
        Command::Patch(a) => a.work(),
        Command::Attribute(a) => a.work(),
        Command::Circuit(a) => a.work(),
        Command::Trace(a) => a.work(),
        _ => None,
    }
}

/// A command on one prompt, or on one pair of them.
fn alone(command: &Command) -> Option<Work<'_>> {
    Some(match command {
        Command::Run(a) => a.alone(),
        Command::Lens(a) => a.alone(),
        Command::Entropy(a) => a.alone(),
        Command::Dla(a) => a.alone(),
        Command::Heads(a) => a.alone(),
        Command::Patch(a) => a.alone(),
        Command::Ablate(a) => a.alone(),
        Command::Attribute(a) => a.alone(),
        Command::Generate(a) => a.alone(),
        Command::Trace(a) => a.alone(),
        Command::Why(a) => a.alone(),
        _ => return None,
    })
}

/// What the whole work needs, and the training behind it.
fn needed(work: &Work<'_>) -> Result<(Cost, Option<Cost>)> {
    let model = Model::outline(&work.model.spec()?, work.model.weights)?;
    let training = work.training.map(|t| {
        let steps = t.dictionaries.min(model.config.n_layers) * t.steps;
        let own = training_cost(steps, t.batch, (2 * model.config.d_model, t.features));
        Cost { work: own.work + t.held as u64, ..own }
    });
    let cost = (work.cost)(&model)?;
    Ok((cost, training.map(|t| Cost { weights: cost.weights, ..t })))
}

/// Bytes of a file, or of the files of a folder; 64 MB for what goes by another name.
pub fn dictionary_bytes(spec: &str) -> usize {
    const OTHERS: u64 = 64 << 20;
    let path = Path::new(spec);
    let of = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    let bytes = if path.is_dir() {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| of(&e.path())).sum()
    } else {
        of(path)
    };
    (if bytes == 0 { OTHERS } else { bytes }) as usize
}
