//! The command line. Every subcommand is one file with `Arguments` and `execute`, and one line in the list of commands
//! below.

use std::path::Path;
use std::path::PathBuf;

use clap::{Args, Parser};

use crate::analysis::trust;
use crate::error::{Error, Result};
use crate::model::chat::{self, Ending, Message};
use crate::model::matrix::Held;
use crate::model::{Model, builtin};
use crate::progress::Progress;
use crate::session::start::{ChatArgs, Start};

pub use crate::table::table;
pub use output::{Bar, Job, emit, emit_json, note, print, say_warnings, warn};

/// A native microscope for transformer language models. Without a subcommand it opens the window.
#[derive(Debug, Parser)]
#[command(name = "circuitscope", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub window: Start,
}

impl Cli {
    /// Reads the words that the program was called by.
    ///
    /// # Errors
    /// Words that are no command; help and version, which are to be printed.
    pub fn read() -> std::result::Result<Self, clap::Error> {
        Self::try_parse().or_else(|wrong| {
            let words: Option<Vec<String>> = std::env::args_os().map(|w| w.into_string().ok()).collect();
            let work = words.filter(|_| wrong.use_stderr()).and_then(|words| plan::as_work(&words));
            work.map_or(Err(wrong), Self::try_parse_from)
        })
    }
}

/// Declares the file, the variant for clap, the line of help and the dispatch of each subcommand, in the order of
/// `--help`. A line reads `file as Variant: "help"`, after a `#[cfg(…)]` where the subcommand is not always built.
macro_rules! commands {
    ($($(#[cfg($when:meta)])? $file:ident as $variant:ident: $help:literal,)+) => {
        $($(#[cfg($when)])? pub mod $file;)+

        /// Every subcommand with its arguments.
        #[derive(Debug, clap::Subcommand)]
        pub enum Command {
            $($(#[cfg($when)])? #[doc = $help] $variant(Box<$file::Arguments>),)+
        }

        impl Command {
            /// Runs the subcommand and prints what it found.
            pub fn execute(&self) -> $crate::error::Result<()> {
                match self {
                    $($(#[cfg($when)])? Self::$variant(arguments) => $file::execute(arguments),)+
                }
            }
        }
    };
}
use commands;

commands! {
    models as Models: "List the built-in models, and those found on this machine",
    check as Check: "Trust report of a model: loss on ordinary text, tokens, first token; and of a dictionary",
    plan as Plan: "What a command will need: memory and time, before it is run",
    run as Run: "Run a prompt: next tokens, loss, and any site of the forward pass as safetensors",
    lens as Lens: "Logit lens: what each layer would predict",
    jlens as Jlens: "Jacobian lens: fit one, read a prompt through it, steer along what it reads",
    entropy as Entropy: "Entropy of the prediction after each layer: how undecided the model still is",
    dla as Dla: "Direct logit attribution: each component's part of a logit (difference)",
    heads as Heads: "Head scores: previous token, duplicate token, induction, entropy, distance",
    patch as Patch: "Activation patching: how much of the answer each part of the clean run brings back",
    ablate as Ablate: "Ablation: what is lost when one part is removed",
    attribute as Attribute: "Gradient approximations of patching, for all cells at once",
    circuit as Circuit: "Find circuits, and say how good they are",
    generate as Generate: "Continue a prompt, with edits active",
    trace as Trace: "The attribution graph of one prediction",
    why as Why: "What makes a head attend where it does: query, key and value by component",
    graph as Graph: "Attribution graph files: counts, scores, pruning",
    #[cfg(feature = "gui")]
    render as Render: "Draw a view to PNG or SVG without a window",
    session as Session: "Session files: write one, show what one asks",
    features as Features: "Dictionaries of features: encode, train, judge",
    direction as Direction: "The direction of a concept: find, read, steer",
    probe as Probe: "What can be read off a model's activations, beside controls, and whether it is used",
    superposition as Superposition: "Train toy models of superposition",
    lab as Lab: "Train the built-in lab models",
    mcp as Mcp: "Serve the subcommands as tools to an assistant, by the Model Context Protocol",
    merge as Merge: "Put the shards of a work over texts together, in any order",
    submit as Submit: "Print a ready job for Slurm, Kubernetes or GNU parallel, which does a work in shards",
    bench as Bench: "Time this program on this machine",
    guide as Guide: "The guide: list its pages, print one, search",
}

// Helpers that several subcommands share.
mod attribute_edges;
mod circuit_over;
mod faithful;
mod heads_over;
mod output;
mod over_set;
mod set_args;
mod steering;
mod sweep;

/// The options that choose the model and the form of the output.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A .gguf file, a folder with config.json and *.safetensors, a built-in or found name (see `models`), or
    /// hf:ORG/NAME[@REVISION][:FILE], which is downloaded once
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How weights are held in memory: as the file stores them, as f32, or as f32 where that leaves half of the free
    /// memory free (auto). The numbers are the same to rounding
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub weights: Held,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    pub json: bool,
}

impl ModelArgs {
    /// Opens the model, the first built-in one where none was named, as [`open_model`] does.
    pub fn open(&self) -> Result<Model> {
        open_model(&self.spec()?, self.weights)
    }

    /// Returns what was named, the first built-in model where nothing was.
    pub fn spec(&self) -> Result<String> {
        self.model.clone().map_or_else(builtin::default_name, Ok)
    }
}

/// Opens a model and keeps what speaks against it as warnings.
pub fn open_model(spec: &str, held: Held) -> Result<Model> {
    let model = open_unchecked(spec, held)?;
    // What ships with the program was checked when it was made.
    if model.format != "built-in" {
        let (progress, bar) = progress("checking the model");
        let found = trust::known(&model, &progress);
        drop(bar);
        match found {
            Ok(found) => found.warnings.iter().for_each(|w| warn(w)),
            Err(e) => warn(&format!("The model could not be checked: {e}.")),
        }
    }
    Ok(model)
}

/// As [`open_model`], without the run on ordinary text.
pub fn open_unchecked(spec: &str, held: Held) -> Result<Model> {
    let (progress, bar) = progress("opening the model");
    let model = Model::open_watched(spec, held, &progress)?;
    drop(bar);
    model.warnings.iter().for_each(|w| warn(w));
    Ok(model)
}

/// The options that give the prompt.
#[derive(Args, Clone, Debug)]
pub struct PromptArgs {
    /// The prompt's text
    #[arg(short, long, value_name = "TEXT", conflicts_with = "ids", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// The prompt as token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub ids: Option<Vec<u32>>,
    /// Put the model's beginning-of-sequence token first
    #[arg(long, conflicts_with = "ids")]
    pub bos: bool,
}

impl PromptArgs {
    /// Returns the prompt's token ids, or `None` where no prompt was given. Ids that the model lacks are an error.
    pub fn optional(&self, model: &Model) -> Result<Option<Vec<u32>>> {
        let ids = match (&self.prompt, &self.ids, self.chat.read()?) {
            (Some(text), ..) => model.encode(text, self.bos)?,
            (None, Some(ids), _) => ids.clone(),
            (None, None, Some(talk)) => laid_out(model, &talk.messages, talk.ending, self.bos)?,
            (None, None, None) => return Ok(None),
        };
        model.network().check(&ids)?;
        Ok(Some(ids))
    }

    /// Returns the prompt's token ids. A missing prompt is an error.
    pub fn required(&self, model: &Model) -> Result<Vec<u32>> {
        self.optional(model)?
            .ok_or_else(|| Error::request("no prompt was given; add --prompt TEXT, --chat FILE or --ids 1,2,3"))
    }
}

/// Lays a conversation out as a prompt. The document says which token is of which message.
pub fn laid_out(model: &Model, messages: &[Message], ending: Ending, bos: bool) -> Result<Vec<u32>> {
    let laid = chat::lay_out(model, messages, ending, bos)?;
    output::remember_turns(&laid.ids, &laid.turns);
    Ok(laid.ids)
}

/// The path of a file that is written at the end: that its folder is missing is said before the work.
///
/// # Errors
/// There is no such folder.
pub fn writable(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    match path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => {
            let folder = folder.display();
            Err(Error::failed(format!("cannot write {}: there is no folder {folder}; make it first", path.display())))
        }
        None => Ok(path),
    }
}

/// Reads an amount of memory.
fn parse_gigabytes(text: &str) -> std::result::Result<f64, String> {
    const MOST: f64 = 1e6;
    let gb = text.parse().ok().filter(|gb| (0.0..=MOST).contains(gb));
    gb.ok_or_else(|| format!("a number of gigabytes from 0 to {MOST}"))
}

/// Reads `--pos`: a number from 0 to `len` - 1, or `all`. Without it the last position is meant where `default_last`
/// says so, otherwise all.
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

/// The option that does only a part of a work.
#[derive(Args, Clone, Debug)]
pub struct ShardArgs {
    /// Do only shard I of N, counted from 0. Its file says what it is of, and the same command goes on with it; put all of
    /// them together with `merge`
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    pub shard: Part,
}

/// A shard and how many there are, as in 0/4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part(pub usize, pub usize);

impl Part {
    /// The shard and how many there are. The folder of its file is made, since jobs may begin without one.
    pub fn begin(self, output: Option<&Path>) -> Result<(usize, usize)> {
        if let Some(folder) = output.and_then(Path::parent).filter(|_| self.1 > 1) {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        Ok((self.0, self.1))
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        let part = parts.filter(|(i, n)| i < n && *n <= crate::shard::MOST).map(|(i, n)| Self(i, n));
        part.ok_or_else(|| "give I/N with I from 0 to N − 1, as in 0/4, and N up to a million".to_owned())
    }
}

/// Makes a progress handle, and a bar on stderr that follows it where stderr is a terminal.
pub fn progress(label: &'static str) -> (Progress, Bar) {
    let progress = Progress::new();
    let bar = Bar::new(label, progress.clone());
    (progress, bar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guide as guide_pages;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_help_and_stands_in_the_guide() {
        let page = guide_pages::page(guide_pages::COMMANDS).unwrap();
        let command = Cli::command();
        let long = command.clone().render_long_help().to_string();
        for sub in command.get_subcommands() {
            let name = sub.get_name();
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && long.contains(&about), "--help says nothing of {name}");
            let section = page.section(name).unwrap_or_else(|| panic!("the guide says nothing of {name}"));
            let example = format!("circuitscope {name} ");
            assert!(section.body.contains(&example), "the guide has no example of {name}");
            // What has subcommands names all of them.
            for inner in sub.get_subcommands() {
                let code = format!("`{}`", inner.get_name());
                assert!(section.body.contains(&code), "the guide does not name {name} {}", inner.get_name());
            }
        }
    }

    /// What an option needs is not asked for by clap where that conflicts with something else that is given: such an option
    /// has to refuse the other as well, or it would be ignored in silence.
    #[test]
    fn options_without_what_they_need_are_refused() {
        let mut whole = Cli::command();
        whole.build();
        let mut commands = vec![&whole];
        let (mut seen, mut ignored) = (0, Vec::new());
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands());
            let groups: Vec<Vec<&clap::Id>> =
                command.get_groups().filter(|g| !(**g).clone().is_multiple()).map(|g| g.get_args().collect()).collect();
            let refuses = |a: &clap::Arg, b: &clap::Arg| {
                let says =
                    |a, b: &clap::Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
                let apart = groups.iter().any(|g| g.contains(&a.get_id()) && g.contains(&b.get_id()));
                says(a, b) || says(b, a) || apart
            };
            for option in command.get_arguments() {
                // clap tells it in no other way.
                let told = format!("{option:?}");
                let needs = told.split("requires: [").nth(1).and_then(|t| t.split(']').next()).unwrap_or_default();
                for needed in command.get_arguments().filter(|a| needs.contains(&format!("{:?}", a.get_id()))) {
                    seen += 1;
                    let others = command.get_arguments().filter(|a| a.get_id() != needed.get_id());
                    for other in others.filter(|a| a.get_id() != option.get_id() && refuses(a, needed)) {
                        if !refuses(option, other) {
                            ignored.push(format!(
                                "{}: {} beside {}, which excludes {}",
                                command.get_name(),
                                option.get_id(),
                                other.get_id(),
                                needed.get_id()
                            ));
                        }
                    }
                }
            }
        }
        assert!(seen > 20, "{seen}");
        assert!(ignored.is_empty(), "options that are ignored:\n{}", ignored.join("\n"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for sub in Cli::command().get_subcommands() {
            assert!(sub.get_about().is_some(), "{} says nothing of itself", sub.get_name());
        }
    }
}
