//! `session`: session files from the command line.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::output::print;
use super::{emit, progress, table};
use crate::analysis::pair::Pair;
use crate::analysis::run::RunOf;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::question::Question;
use crate::session::code::{Facts, Snippet, python, settle};
use crate::session::file::Session;
use crate::session::start::Start;
use crate::session::{Desk, desk::key};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a session that the window opens on
    New(Box<New>),
    /// What a session asks
    Show(Show),
    /// What a session asks, as Python for TransformerLens
    Code(Code),
}

#[derive(clap::Args, Debug)]
struct New {
    #[command(flatten)]
    what: Start,
    /// Where to write the session
    #[arg(short, long, value_name = "FILE.scope")]
    output: PathBuf,
}

#[derive(clap::Args, Debug)]
struct Show {
    /// The session file
    #[arg(value_name = "FILE.scope")]
    file: PathBuf,
    /// Print the document as JSON on stdout and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Code {
    /// The session file
    #[arg(value_name = "FILE.scope")]
    file: PathBuf,
    /// Which of its numbers the script computes
    #[arg(long, value_enum, default_value_t)]
    what: Snippet,
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.command {
        Command::New(a) => {
            Session { file: None, document: a.what.document()? }.save(&a.output)?;
            emit(&a.output.display().to_string())
        }
        Command::Show(a) => show(a),
        Command::Code(a) => code(a),
    }
}

fn show(args: &Show) -> Result<()> {
    let document = Session::open(&args.file)?.document;
    if args.json {
        return emit(&json!(document).to_string());
    }
    let mut text = describe(&document.desk);
    if !document.parked.is_empty() {
        text += &format!(
            "\n\nOther models:\n{}",
            table(&["model", "weights", "prompt"], &document.parked.values().map(line).collect::<Vec<_>>())
        );
    }
    emit(&text)
}

/// Runs what the session's desk asks, so that answers and alignments are those that a window would find, and prints it as
/// Python.
fn code(args: &Code) -> Result<()> {
    let mut desk = Session::open(&args.file)?.document.desk;
    let model = Arc::new(Model::open(&desk.model)?);
    let (progress, bar) = progress("running");
    let run = |prompt: &str, ids: Option<Vec<u32>>, answer: &str, wrong: &str| {
        let [prompt, answer, wrong] = [prompt, answer, wrong].map(str::to_owned);
        RunOf { model: model.clone(), prompt, ids, answer, wrong }.run(&progress, &mut |_| {})
    };
    let clean = run(&desk.prompt, desk.ids.clone(), &desk.answer, &desk.wrong)?;
    if let Some(what) = clean.notes.first() {
        return Err(Error::request(what));
    }
    let pair = if desk.corrupted.is_empty() {
        Pair::alone(clean.trace.clone())
    } else {
        let corrupted = run(&desk.corrupted, None, "", "")?.trace;
        Pair::new(clean.trace.clone(), corrupted).aligned(desk.alignment.as_ref())
    };
    drop(bar);
    let facts = Facts { clean: &clean, pair: &pair };
    settle(&mut desk, facts)?;
    print(&python(&desk, args.what, facts)?)
}

/// Returns one line of a list of desks.
fn line(desk: &Desk) -> Vec<String> {
    vec![desk.model.clone(), desk.hash.map_or_else(|| "not opened yet".to_owned(), key), format!("{:?}", desk.prompt)]
}

/// Returns what a desk asks, without what was left as it is.
fn describe(desk: &Desk) -> String {
    let quoted = |text: &str| if text.is_empty() { String::new() } else { format!("{text:?}") };
    let mut rows = vec![
        ("model", desk.model.clone()),
        ("weights", desk.hash.map_or_else(|| "not opened yet".to_owned(), key)),
        ("prompt", quoted(&desk.prompt)),
        ("corrupted prompt", quoted(&desk.corrupted)),
        ("answer", quoted(&desk.answer)),
        ("wrong answer", quoted(&desk.wrong)),
        ("run shown", desk.show.label().to_owned()),
        ("dictionary", desk.features.dictionary.clone()),
        ("graph of a file", desk.graph.file.clone().unwrap_or_default()),
    ];
    let draft = &desk.draft;
    if !draft.nodes.is_empty() {
        rows.push(("circuit", format!("{} components, {} edges", draft.nodes.len(), draft.edges.len())));
    }
    for edit in &desk.stack.edits {
        rows.push(("edit", format!("{edit}{}", if edit.enabled { "" } else { " (off)" })));
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| vec![k.to_owned(), v]).collect();
    table(&["", ""], &rows)
}
