//! `session`: session files from the command line.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::output::print;
use super::{emit, emit_json, open_model, progress, table};
use crate::analysis::pair::Pair;
use crate::analysis::run::RunOf;
use crate::cli::writable;
use crate::error::{Error, Result};
use crate::model::chat::Conversation;
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
    /// The results of a session again, as one JSON document
    #[cfg(feature = "gui")]
    Run(Run),
    /// A session's views as one HTML file
    #[cfg(feature = "gui")]
    Report(Report),
}

/// The views of a session, and how long they may take.
#[cfg(feature = "gui")]
#[derive(clap::Args, Debug)]
struct Run {
    /// The session file
    #[arg(value_name = "FILE.scope")]
    file: PathBuf,
    /// A view, by the name that `render` knows it by; repeatable (default: those that the session shows)
    #[arg(long = "view", value_name = "NAME")]
    views: Vec<String>,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
    /// Longest time for the results of a workspace, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
}

#[cfg(feature = "gui")]
#[derive(clap::Args, Debug)]
struct Report {
    #[command(flatten)]
    run: Run,
    /// Where to write the report
    #[arg(short, long, value_name = "OUT.html", value_parser = writable)]
    output: PathBuf,
}

#[derive(clap::Args, Debug)]
struct New {
    #[command(flatten)]
    what: Start,
    /// Where to write the session
    #[arg(short, long, value_name = "FILE.scope", value_parser = writable)]
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
        #[cfg(feature = "gui")]
        Command::Run(a) => run(a),
        #[cfg(feature = "gui")]
        Command::Report(a) => report(a),
    }
}

fn show(args: &Show) -> Result<()> {
    let document = Session::open(&args.file)?.document;
    if args.json {
        return emit_json(json!(document));
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

/// The document of a session, and the views that are wanted of it.
#[cfg(feature = "gui")]
fn wanted(args: &Run) -> Result<(crate::session::Document, Vec<&'static str>)> {
    let mut document = Session::open(&args.file)?.document;
    for text in crate::session::moved::found(&mut document, Some(&args.file)) {
        super::warn(&text);
    }
    let named = |name: &String| {
        let found = crate::app::view::by_name(name).map(|v| v.name);
        found.ok_or_else(|| Error::request(format!("there is no view {name}; `circuitscope render --help` lists them")))
    };
    let views = args.views.iter().map(named).collect::<Result<Vec<_>>>()?;
    let views = if views.is_empty() { crate::app::export::report::shown(&document) } else { views };
    Ok((document, views))
}

/// Prints the numbers of a session's views.
#[cfg(feature = "gui")]
fn run(args: &Run) -> Result<()> {
    use crate::app::export::provenance::Provenance;
    use crate::app::export::report::each_view;
    let started = std::time::Instant::now();
    let (document, views) = wanted(args)?;
    let mut results = serde_json::Map::new();
    let limit = std::time::Duration::from_secs(args.limit);
    let app = each_view(document, &views, limit, |app, def| {
        let of = Provenance::of(&app.state, def);
        results.insert(def.name.to_owned(), app.table(def.name).map_or(serde_json::Value::Null, |t| t.json(&of)));
    })?;
    if !args.json {
        let size = |v: &serde_json::Value, axis: &str| v[axis].as_array().map_or(0, Vec::len).to_string();
        let row = |(view, v): (&String, &serde_json::Value)| {
            let name = v["name"].as_str().unwrap_or("no numbers").to_owned();
            vec![view.clone(), name, format!("{} × {}", size(v, "rows"), size(v, "cols"))]
        };
        let rows: Vec<_> = results.iter().map(row).collect();
        return emit(&(table(&["view", "numbers", "rows × columns"], &rows) + "\n\n--json prints them."));
    }
    let Some(model) = app.state.model.clone() else { return Err(Error::failed("the model could not be opened")) };
    let ids = app.state.clean().map(|r| r.trace.ids.clone());
    let next = app.state.run().and_then(|r| r.trace.next.last()).map(|list| {
        let one = |t: &crate::engine::logits::Ranked| json!({"id": t.id, "text": model.token_text(t.id), "prob": t.prob, "logit": t.logit});
        list.iter().map(one).collect::<Vec<_>>()
    });
    app.state.notices.errors().iter().chain(&app.state.trust.warnings()).for_each(|w| super::warn(w));
    let seconds = started.elapsed().as_secs_f64() - model.load_seconds;
    let rest = json!({"next": next, "results": results});
    emit_json(super::output::document(&model, ids.as_deref(), seconds, rest))
}

/// Writes a session's views as one HTML file.
#[cfg(feature = "gui")]
fn report(args: &Report) -> Result<()> {
    let (document, views) = wanted(&args.run)?;
    let title = args.run.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let limit = std::time::Duration::from_secs(args.run.limit);
    let html = crate::app::export::report::html(document, &title, &views, limit)?;
    crate::files::write_atomic(&args.output, html.as_bytes())?;
    let output = args.output.display().to_string();
    if args.run.json { emit_json(json!({"output": output, "views": views})) } else { emit(&output) }
}

/// Runs what the session's desk asks, so that answers and alignments are those that a window would find, and prints it as
/// Python.
fn code(args: &Code) -> Result<()> {
    let mut desk = Session::open(&args.file)?.document.desk;
    let model = Arc::new(open_model(&desk.model, desk.weights)?);
    let (progress, bar) = progress("running");
    let run = |prompt: &str, ids: Option<Vec<u32>>, conversation: Option<Conversation>, answer: &str, wrong: &str| {
        let [prompt, answer, wrong] = [prompt, answer, wrong].map(str::to_owned);
        RunOf { model: model.clone(), prompt, ids, conversation, answer, wrong, before: Vec::new() }
            .run(&progress, &mut |_| {})
    };
    let clean = run(&desk.prompt, desk.ids.clone(), desk.conversation.clone(), &desk.answer, &desk.wrong)?;
    if let Some(what) = clean.notes.first() {
        return Err(Error::request(what));
    }
    let pair = if desk.corrupted.is_empty() {
        Pair::alone(clean.trace.clone())
    } else {
        let corrupted = run(&desk.corrupted, None, None, "", "")?.trace;
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
        (
            "conversation",
            desk.conversation.as_ref().map_or_else(String::new, |c| format!("{} messages", c.messages.len())),
        ),
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
    if !desk.stack.hold.is_free() {
        rows.push(("held still", desk.stack.hold.frozen().join(", ")));
    }
    for edit in &desk.stack.edits {
        rows.push(("edit", format!("{edit}{}", if edit.enabled { "" } else { " (off)" })));
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| vec![k.to_owned(), v]).collect();
    table(&["", ""], &rows)
}
