//! `graph`: counts, scores, prunes, groups and tests attribution graph files, of this program or of others.

mod audit;
mod group;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Subcommand;
use serde_json::json;

use super::{emit, emit_json, table, warn};
use crate::cli::writable;
use crate::error::Result;
use crate::graph::file::GraphFile;
use crate::graph::influence::Scores;
use crate::graph::prune::{EDGE_THRESHOLD, NODE_THRESHOLD, prune};
use crate::graph::{Influence, NodeKind};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Counts, replacement and completeness scores, the most influential nodes
    Info(GraphArgs),
    /// Keep what carries most of the influence
    Prune(PruneArgs),
    /// Put features together into a few supernodes
    Group(group::GroupArgs),
    /// Take the sources of strong links away, and see whether what happens is what the graph predicts
    Audit(audit::AuditArgs),
}

#[derive(clap::Args, Debug)]
struct GraphArgs {
    /// The graph file (Neuronpedia / circuit-tracer JSON)
    #[arg(value_name = "IN.json")]
    input: PathBuf,
    /// Share of the influence that the kept nodes hold
    #[arg(long, default_value_t = NODE_THRESHOLD, value_name = "X")]
    node_threshold: f64,
    /// Share of the links' scores that the kept links hold
    #[arg(long, default_value_t = EDGE_THRESHOLD, value_name = "Y")]
    edge_threshold: f64,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
    /// Nodes to list
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
}

#[derive(clap::Args, Debug)]
struct PruneArgs {
    #[command(flatten)]
    graph: GraphArgs,
    /// Where to write the pruned copy
    #[arg(short, long, value_name = "OUT.json", value_parser = writable)]
    output: Option<PathBuf>,
}

/// Opens a graph file; what was guessed on reading it is warned of.
fn open(path: &Path) -> Result<GraphFile> {
    let file = GraphFile::open(path)?;
    for remark in &file.remarks {
        warn(&format!("{}: {remark}", path.display()));
    }
    Ok(file)
}

pub fn execute(args: &Arguments) -> Result<()> {
    let (args, output) = match &args.action {
        Action::Info(a) => (a, None),
        Action::Prune(a) => (&a.graph, Some(&a.output)),
        Action::Group(a) => return group::execute(a),
        Action::Audit(a) => return audit::execute(a),
    };
    let file = open(&args.input)?;
    let started = Instant::now();
    let influence = Influence::of(&file.graph);
    let scores = Scores::of(&file.graph, &influence);
    let thresholds = (args.node_threshold, args.edge_threshold);
    let kept = prune(&file.graph, &influence, thresholds.0, thresholds.1)?;
    let pruned = file.pruned(&influence, &kept, thresholds)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(Some(path)) = output {
        pruned.save(path)?;
    }
    let counts = |g: &crate::graph::Graph| {
        let by_kind: serde_json::Map<_, _> =
            NodeKind::ALL.iter().map(|k| (format!("{}s", k.label()), json!(g.count(*k)))).collect();
        json!({"nodes": g.nodes.len(), "links": g.links.len(), "by_kind": by_kind})
    };
    let cumulative = influence.cumulative();
    let nodes = &file.graph.nodes;
    let mut order: Vec<usize> = (0..nodes.len()).filter(|i| nodes[*i].kind != NodeKind::Logit).collect();
    order.sort_by(|a, b| influence.values[*b].total_cmp(&influence.values[*a]));
    if args.json {
        // The document of `prune` lists the kept nodes, that of `info` all.
        let reported = |i: &usize| output.is_none() || kept.nodes[*i];
        let list: Vec<_> = (0..nodes.len())
            .filter(reported)
            .map(|i| {
                json!({"id": nodes[i].id, "kind": nodes[i].kind.label(), "layer": nodes[i].layer, "pos": nodes[i].pos,
                    "label": nodes[i].label, "influence": influence.values[i], "cumulative": cumulative[i], "kept": kept.nodes[i]})
            })
            .collect();
        let mut doc = json!({
            "title": file.title(), "prompt_tokens": file.graph.prompt_tokens,
            // The graph knows its model by name only, and its tokens by their texts.
            "model": {"name": file.document.get("metadata").and_then(|m| m.get("scan"))},
            "tokens": file.graph.prompt_tokens.iter().map(|t| json!({"text": t})).collect::<Vec<_>>(),
            "counts": counts(&file.graph),
            "replacement_score": number(scores.replacement), "completeness_score": number(scores.completeness),
            "node_threshold": thresholds.0, "edge_threshold": thresholds.1,
            "pruned": counts(&pruned.graph), "remarks": file.remarks, "nodes": list, "seconds": seconds,
        });
        // A script looks for the counts at the top, so that they stand there too.
        if let (Some(doc), counts) = (doc.as_object_mut(), counts(&file.graph)) {
            doc.insert("n_nodes".to_owned(), counts["nodes"].clone());
            doc.insert("n_links".to_owned(), counts["links"].clone());
        }
        return emit_json(doc);
    }
    let mut lines = vec![vec!["all".to_owned()], vec!["kept".to_owned()]];
    for (row, g) in lines.iter_mut().zip([&file.graph, &pruned.graph]) {
        row.extend(NodeKind::ALL.map(|k| g.count(k).to_string()));
        row.push(g.links.len().to_string());
    }
    emit(&format!("{}\n", file.title()))?;
    emit(&table(&["", "components", "errors", "tokens", "logits", "links"], &lines))?;
    emit(&format!(
        "\nreplacement score {:.4}, completeness score {:.4}; kept at {} of node and {} of edge influence\n",
        scores.replacement, scores.completeness, thresholds.0, thresholds.1
    ))?;
    let rows: Vec<Vec<String>> = order
        .iter()
        .take(args.top)
        .map(|i| {
            let n = &nodes[*i];
            let label = if n.label.is_empty() { n.kind.label() } else { &n.label };
            vec![
                n.id.clone(),
                label.to_owned(),
                n.layer.to_string(),
                n.pos.to_string(),
                format!("{:.4}", influence.values[*i]),
                format!("{:.4}", cumulative[*i]),
            ]
        })
        .collect();
    emit(&table(&["node", "", "layer", "pos", "influence", "cumulative"], &rows))
}

/// Returns a score, or null where nothing has influence.
fn number(v: f64) -> serde_json::Value {
    if v.is_finite() { json!(v) } else { serde_json::Value::Null }
}
