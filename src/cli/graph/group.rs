//! `graph group`: supernodes found by themselves.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::{number, open};
use crate::cli::{emit, emit_json, progress, table};
use crate::error::Result;
use crate::graph::Influence;
use crate::graph::group::{GROUPS, group, supernodes, write_supernodes};
use crate::graph::prune::prune;

#[derive(clap::Args, Debug)]
pub struct GroupArgs {
    /// The graph file (Neuronpedia / circuit-tracer JSON)
    #[arg(value_name = "GRAPH.json")]
    input: PathBuf,
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
    #[arg(short, long, value_name = "OUT.json")]
    output: Option<PathBuf>,
}

pub fn execute(args: &GroupArgs) -> Result<()> {
    let file = open(&args.input)?;
    let (progress, bar) = progress("grouping");
    let started = Instant::now();
    let influence = Influence::of(&file.graph);
    let thresholds = (args.node_threshold, args.edge_threshold);
    let kept = prune(&file.graph, &influence, thresholds.0, thresholds.1)?;
    let mut pruned = file.pruned(&influence, &kept, thresholds)?;
    let found = group(&pruned.graph, &supernodes(&pruned), args.groups, None, &progress)?;
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
            "title": file.title(), "prompt_tokens": g.prompt_tokens, "groups": groups, "links": between,
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
