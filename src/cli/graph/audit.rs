//! `graph audit`: what a graph predicts beside what really happens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::open;
use crate::cli::features::check_set;
use crate::cli::writable;
use crate::cli::{Job, ModelArgs, table, warn};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::graph::features::audit::{Audited, LINKS, audit, direction_of, ids_of, left_out};
use crate::graph::features::intervene::Stage;
use crate::graph::file::GraphFile;
use crate::graph::marks::pinned_ids;

#[derive(clap::Args, Debug)]
pub struct AuditArgs {
    /// The graph file (Neuronpedia / circuit-tracer JSON)
    #[arg(value_name = "GRAPH.json")]
    input: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// The set of transcoders that the graph is of (default: the one that the file names)
    #[arg(long, value_name = "DIR")]
    dictionary: Option<String>,
    /// Links that are put to the test, the strongest first
    #[arg(long, default_value_t = LINKS, value_name = "N")]
    links: usize,
    /// Only links between nodes that are pinned in the file, members of supernodes among them
    #[arg(long)]
    pinned: bool,
    /// First positions whose features are left alone (default: those of the graph, else 1)
    #[arg(long, value_name = "N")]
    silent: Option<usize>,
    /// Links to list
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    /// Where to write the graph with what was found of each link, under `metadata.audit`
    #[arg(short, long, value_name = "OUT.json", value_parser = writable)]
    output: Option<PathBuf>,
}

/// The nodes that are pinned in a file, two or more.
fn pinned(file: &GraphFile, path: &Path) -> Result<BTreeSet<String>> {
    let marked = pinned_ids(file);
    if marked.len() < 2 {
        return Err(Error::request(format!(
            "{} has no two nodes that are pinned; pin the nodes of a path in the window and save the graph, or leave out \
             --pinned",
            path.display()
        )));
    }
    Ok(marked)
}

pub fn execute(args: &AuditArgs) -> Result<()> {
    let mut file = open(&args.input)?;
    if file.is_of_components() {
        return Err(Error::request(format!(
            "{} is a graph of heads and MLPs, and links between features are put to the test; trace with --dictionary",
            args.input.display()
        )));
    }
    let metadata = file.document.get("metadata");
    let of = metadata.and_then(|m| m.get("scan")).and_then(Value::as_str).map(str::to_owned);
    let info = metadata.and_then(|m| m.get("info"));
    let told = info.and_then(|i| i.get("dictionary")).and_then(Value::as_str).map(str::to_owned);
    let silent = info.and_then(|i| i.get("silent_positions")).and_then(Value::as_u64);
    let silent = args.silent.or(silent.and_then(|n| n.try_into().ok())).unwrap_or(1);
    let spec = args.dictionary.clone().or(told).ok_or_else(|| {
        Error::request(format!(
            "{} does not name the set of transcoders that it is of; give it with --dictionary",
            args.input.display()
        ))
    })?;
    let pinned = if args.pinned { pinned(&file, &args.input)? } else { BTreeSet::new() };
    let job = Job::begin(&args.model, "auditing")?;
    let (model, progress) = (&job.model, &job.progress);
    if let Some(of) = of.filter(|of| !model.may_be_called(of)) {
        warn(&format!(
            "The graph is of the model {of:?}, the audit is made on {:?}; give the graph's own with -m if they are not one.",
            model.config.name
        ));
    }
    let ids = ids_of(&file.graph)?;
    let set = DictionarySet::open(&spec, progress)?;
    let checked = check_set(model, &set, progress)?;
    let trace = Trace::run(model, ids, progress)?;
    let stage = Stage::of(&trace, &set, silent, progress)?;
    let found = {
        let explained = |node: usize| direction_of(&file, &trace, node);
        let ids = file.graph.own_ids();
        let counts = |node: usize| !args.pinned || pinned.contains(ids[node].as_ref());
        audit(&file.graph, &trace, &stage, args.links, |s, t| counts(s) && counts(t), explained, progress)?
    };
    job.stop();
    if found.unread > 0 {
        warn(&format!(
            "{} links to logits that are no token's were not tested: the file does not say what they are; trace the prediction \
             here.",
            found.unread
        ));
    }
    left_out(&file).iter().chain(&found.doubt()).for_each(|said| warn(said));
    if let Some(path) = &args.output {
        found.write(&mut file, "the links of this file")?;
        file.save(path)?;
    }
    let fails = found.links.iter().filter(|l| l.fails).count();
    let mut worst: Vec<&Audited> = found.links.iter().collect();
    worst.sort_by(|a, b| (b.predicted - b.held).abs().total_cmp(&(a.predicted - a.held).abs()));
    let json = || {
        json!({
            "dictionary": spec, "dictionaries": checked, "pinned": args.pinned, "predicted_along": "the links of the file", "links": found.links, "links_tested": found.links.len(), "links_from_features": found.all, "links_unread": found.unread,
            "fails": fails, "correlation_held": found.correlation_held, "correlation_free": found.correlation_free,
            "worst_direct": found.worst_direct,
            "worst": worst.iter().take(args.top).map(|l| json!({"source": l.source, "target": l.target})).collect::<Vec<_>>(),
        })
    };
    let text = || {
        let row = |l: &&Audited| {
            let number = |v: f32| format!("{v:+.4}");
            let mark = if l.fails { "fails" } else { "" };
            vec![
                l.source.clone(),
                l.target.clone(),
                number(l.weight),
                number(l.predicted),
                number(l.held),
                number(l.free),
                mark.to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = worst.iter().take(args.top).map(row).collect();
        let known = |r: Option<f64>| r.map_or("cannot be said".to_owned(), |r| format!("{r:.3}"));
        format!(
            "{}\n\n{} of {} links from features were tested, the worst are listed; {fails} fail; correlation of what the graph \
             predicts along its own links and what happens {} with attention held still, {} freely; {:.2} s",
            table(&["source", "target", "weight", "predicted", "held", "free", ""], &rows),
            found.links.len(),
            found.all,
            known(found.correlation_held),
            known(found.correlation_free),
            job.stop(),
        )
    };
    job.finish(Some(&trace.ids), json, text)
}
