//! `graph audit`: what a graph predicts beside what really happens.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::open;
use crate::cli::{Job, ModelArgs, table, warn};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::trust::check_set;
use crate::graph::features::audit::{Audited, LINKS, audit, column, ids_of};
use crate::graph::features::intervene::Stage;

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
    /// First positions whose features are left alone (default: those of the graph, else 1)
    #[arg(long, value_name = "N")]
    silent: Option<usize>,
    /// Links to list
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    /// Where to write the graph with what was found of each link, under `metadata.audit`
    #[arg(short, long, value_name = "OUT.json")]
    output: Option<PathBuf>,
}

/// Whether two names can be of one model: by their last parts, as folders and hubs have them.
fn same_model(a: &str, b: &str) -> bool {
    let own = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_lowercase();
    let (a, b) = (own(a), own(b));
    a == b || a.starts_with(&b) || b.starts_with(&a)
}

pub fn execute(args: &AuditArgs) -> Result<()> {
    let mut file = open(&args.input)?;
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
    let job = Job::begin(&args.model, "auditing")?;
    let (model, progress) = (&job.model, &job.progress);
    if let Some(of) = of.filter(|of| !same_model(of, &model.config.name)) {
        warn(&format!(
            "The graph is of the model {of:?}, the audit is made on {:?}; give the graph's own with -m if they are not one.",
            model.config.name
        ));
    }
    let ids = ids_of(&file.graph)?;
    let set = DictionarySet::open(&spec, progress)?;
    if model.tokenizer.is_some() {
        check_set(model, &set, progress)?.iter().flat_map(|c| &c.warnings).for_each(|w| warn(w));
    }
    let trace = Trace::run(model, ids, progress)?;
    let stage = Stage::of(&trace, &set, silent, progress)?;
    let found = {
        let explained = |node: usize| column(&trace, &file.graph.nodes[node]);
        audit(&file.graph, &trace, &stage, args.links, |_, _| true, explained, progress)?
    };
    job.stop();
    if found.unread > 0 {
        warn(&format!(
            "{} links to logits that are no token's were not tested: the file does not say what they are; the window tests them on \
             a graph that it traced itself.",
            found.unread
        ));
    }
    if let Some(path) = &args.output {
        let metadata = file.document.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("audit".to_owned(), json!(found));
        }
        file.save(path)?;
    }
    let fails = found.links.iter().filter(|l| l.fails).count();
    let mut worst: Vec<&Audited> = found.links.iter().collect();
    worst.sort_by(|a, b| (b.predicted - b.held).abs().total_cmp(&(a.predicted - a.held).abs()));
    let json = || {
        json!({
            "dictionary": spec, "links": found.links, "links_tested": found.links.len(), "links_from_features": found.all, "links_unread": found.unread,
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
             predicts and what happens {} with attention held still, {} freely; {:.2} s",
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
