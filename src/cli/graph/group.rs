//! `graph group`: supernodes found by themselves.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::{number, open};
use crate::cli::writable;
use crate::cli::{emit, emit_json, progress, table, warn};
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::graph::Influence;
use crate::graph::features::audit::feature_of;
use crate::graph::file::GraphFile;
use crate::graph::group::{Activity, GROUPS, group, supernodes, write_supernodes};
use crate::graph::grouping::{Alike, cosines};
use crate::graph::prune::prune;
use crate::progress::Progress;

#[derive(clap::Args, Debug)]
pub struct GroupArgs {
    /// The graph file (Neuronpedia / circuit-tracer JSON)
    #[arg(value_name = "GRAPH.json")]
    input: PathBuf,
    /// The set of transcoders that the graph is of, so that what features read and write is compared (default: the one that
    /// the file names, where it is there)
    #[arg(long, value_name = "DIR")]
    dictionary: Option<String>,
    /// Share of the influence that the grouped nodes hold; below 1 the graph is pruned first
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    node_threshold: f64,
    /// Share of the links' scores that the links between them hold
    #[arg(long, default_value_t = 1.0, value_name = "Y")]
    edge_threshold: f64,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
    /// Groups at most
    #[arg(long, default_value_t = GROUPS, value_name = "N")]
    groups: usize,
    /// Where to write the pruned graph with its supernodes
    #[arg(short, long, value_name = "OUT.json", value_parser = writable)]
    output: Option<PathBuf>,
}

/// What opens the set, and how alike what features read and write is; nothing where no set is named, or the one that the
/// file names is not there.
fn alike(args: &GroupArgs, file: &GraphFile, progress: &Progress) -> Result<Option<(String, Alike)>> {
    let info = file.document.get("metadata").and_then(|m| m.get("info"));
    let told = info.and_then(|i| i.get("dictionary")).and_then(Value::as_str);
    let Some(spec) = args.dictionary.as_deref().or(told) else { return Ok(None) };
    let nodes = 0..file.graph.nodes.len();
    let features: Vec<_> =
        nodes.filter_map(|i| feature_of(&file.graph, i).map(|(layer, _, feature)| (i, (layer, feature)))).collect();
    let found = DictionarySet::open(spec, progress).and_then(|set| cosines(&set, &features, progress));
    match found {
        Ok(all) => Ok(Some((spec.to_owned(), all))),
        Err(e) if args.dictionary.is_some() || matches!(e, Error::Cancelled) => Err(e),
        Err(e) => {
            warn(&format!(
                "What features read and write is not compared, as the set that the file names cannot be read: {e}; name it with \
                 --dictionary."
            ));
            Ok(None)
        }
    }
}

pub fn execute(args: &GroupArgs) -> Result<()> {
    let file = open(&args.input)?;
    let (progress, bar) = progress("grouping");
    let started = Instant::now();
    let influence = Influence::of(&file.graph);
    let thresholds = (args.node_threshold, args.edge_threshold);
    let kept = prune(&file.graph, &influence, thresholds.0, thresholds.1)?;
    let mut pruned = file.pruned(&influence, &kept, thresholds)?;
    let compared = alike(args, &pruned, &progress)?;
    let known = |a: usize, b: usize| compared.as_ref().and_then(|(_, all)| all.get(&(a, b))).copied().unwrap_or(0.0);
    let more: Option<&dyn Fn(usize, usize) -> f32> = if compared.is_some() { Some(&known) } else { None };
    // The whole file knows of more positions than what is left of it.
    let activity = Activity::of(&file.graph);
    let found = group(&pruned.graph, &supernodes(&pruned), args.groups, &activity, more, &progress)?;
    write_supernodes(&mut pruned, &found.groups);
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if let Some(path) = &args.output {
        pruned.save(path)?;
    }
    let g = &pruned.graph;
    let id = |i: &usize| g.nodes[*i].id.clone();
    if args.json {
        let groups: Vec<_> = found
            .groups
            .iter()
            .map(|group| json!({"label": group.label, "nodes": group.nodes.iter().map(id).collect::<Vec<_>>()}))
            .collect();
        let between: Vec<_> = found
            .graph
            .triples()
            .map(|(s, t, w)| json!({"source": found.graph.nodes[s].id, "target": found.graph.nodes[t].id, "weight": w}))
            .collect();
        return emit_json(json!({
            "title": file.title(), "prompt_tokens": g.prompt_tokens, "dictionary": compared.as_ref().map(|c| &c.0), "groups": groups, "links": between,
            "model": {"name": file.document.get("metadata").and_then(|m| m.get("scan"))},
            "tokens": g.prompt_tokens.iter().map(|t| json!({"text": t})).collect::<Vec<_>>(),
            "before": {"replacement_score": number(found.before.replacement), "completeness_score": number(found.before.completeness)},
            "after": {"replacement_score": number(found.after.replacement), "completeness_score": number(found.after.completeness)},
            "node_threshold": thresholds.0, "edge_threshold": thresholds.1, "seconds": seconds,
        }));
    }
    let rows: Vec<Vec<String>> = found
        .groups
        .iter()
        .map(|group| {
            let some: Vec<String> = group.nodes.iter().take(4).map(id).collect();
            let more = if group.nodes.len() > 4 { " …" } else { "" };
            vec![group.label.clone(), group.nodes.len().to_string(), format!("{}{more}", some.join(" "))]
        })
        .collect();
    emit(&format!(
        "{}\n\nreplacement score {:.4}, grouped {:.4}; completeness score {:.4}, grouped {:.4}; {seconds:.2} s",
        table(&["group", "features", ""], &rows),
        found.before.replacement,
        found.after.replacement,
        found.before.completeness,
        found.after.completeness,
    ))
}
