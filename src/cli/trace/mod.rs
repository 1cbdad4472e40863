//! `trace`: traces one prediction back through the model and writes its attribution graph: on the model's own components,
//! or on the features of a set of transcoders.

mod features;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, table, warn};
use crate::analysis::plan::Planned;
use crate::cli::writable;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::graph::components::{Keep, Traced, trace_prediction};
use crate::graph::neurons::Opened;
use crate::graph::prune::{EDGE_THRESHOLD, NODE_THRESHOLD, prune};
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::graph::{Graph, NodeKind};
use crate::model::Model;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The position whose prediction is explained (default: the last)
    #[arg(long, value_name = "N")]
    pos: Option<usize>,
    /// The token to explain, or its id; with --dictionary repeatable (default: the most probable ones)
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    target: Vec<String>,
    /// Explain the target's logit minus this token's
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, requires = "target")]
    against: Option<String>,
    #[command(flatten)]
    features: features::FeatureArgs,
    /// Whether attention patterns are held still, or followed through queries and keys
    #[arg(long, value_enum, default_value_t)]
    attention: Attention,
    /// Take every kept MLP apart into this many of its neurons, and the rest
    #[arg(long, default_value_t = 0, value_name = "N")]
    neurons: usize,
    /// Share of the influence that the kept nodes hold
    #[arg(long, default_value_t = NODE_THRESHOLD, value_name = "X")]
    node_threshold: f64,
    /// Share of the links' scores that the kept links hold
    #[arg(long, default_value_t = EDGE_THRESHOLD, value_name = "Y")]
    edge_threshold: f64,
    /// Where to write the graph (Neuronpedia / circuit-tracer JSON)
    #[arg(short, long, value_name = "graph.json", value_parser = writable)]
    output: Option<PathBuf>,
    /// Nodes to list
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

/// The most links that the document lists, strongest first. The file has all of them.
const LINKS: usize = 1000;

/// The nodes that are shown, in this order.
fn nodes(opened: &Opened, order: &[usize]) -> Vec<Value> {
    order
        .iter()
        .map(|i| {
            let n = &opened.graph.nodes[*i];
            json!({"id": n.id, "name": n.label, "kind": n.kind.label(), "layer": n.layer, "pos": n.pos,
                "influence": opened.influence[*i], "cumulative": opened.cumulative[*i], "contribution": n.activation})
        })
        .collect()
}

fn targets(traced: &Traced) -> Vec<Value> {
    let g = &traced.graph;
    let first_logit = g.nodes.len() - traced.logits.len();
    // Sums over the graph that was kept before pruning: all of it with --node-threshold 1.
    (0..g.nodes.len())
        .filter(|i| g.nodes[*i].kind == NodeKind::Logit)
        .map(|i| {
            let sum: f64 = g.into_node(i).iter().map(|l| f64::from(l.weight)).sum();
            json!({"id": g.nodes[i].id, "text": g.nodes[i].label, "prob": traced.probabilities.get(i - first_logit), "weight": g.nodes[i].prob, "logit": g.nodes[i].activation, "sum_of_edges": sum})
        })
        .collect()
}

/// The strongest links, as many as the document lists.
fn links(graph: &Graph) -> Vec<Value> {
    let mut links: Vec<_> = graph.triples().enumerate().collect();
    links.sort_by(|a, b| b.1.2.abs().total_cmp(&a.1.2.abs()));
    links
        .into_iter()
        .take(LINKS)
        .map(|(at, (s, t, w))| json!({"source": graph.nodes[s].id, "target": graph.nodes[t].id, "weight": w, "input": graph.input(at).label()}))
        .collect()
}

/// A token by its text or its id; a number that is no single token is an id as well, which is said.
pub(super) fn token_or_id(model: &Model, text: &str) -> Result<u32> {
    model.single_token(text).or_else(|error| {
        let id = text.trim().parse().map_err(|_| error)?;
        model.network().check(&[id])?;
        warn(&format!(
            "{text:?} is no single token and is taken for the id of {:?}; id:{id} says so.",
            model.token_text(id)
        ));
        Ok(id)
    })
}

impl Arguments {
    /// The position whose prediction is explained, of a prompt of so many tokens.
    fn position(&self, len: usize) -> Result<usize> {
        let last = len.saturating_sub(1);
        match self.pos.unwrap_or(last) {
            pos if pos <= last => Ok(pos),
            pos => Err(Error::request(format!("--pos {pos} is not a position of this prompt; give 0 to {last}"))),
        }
    }

    /// What a graph on features costs.
    pub fn work(&self) -> Option<Work<'_>> {
        let spec = self.features.dictionary.as_deref()?;
        Some(Work::new(&self.model, move |model| {
            let len = self.prompt.required(model)?.len();
            self.features.cost(model, spec, (len, self.position(len)?))
        }))
    }

    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::on_prompt(&self.model, &self.prompt, Planned::Graph)
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "trace")?;
    let (model, progress) = (&job.model, &job.progress);
    let ids = args.prompt.required(model)?;
    let pos = args.position(ids.len())?;
    let token = |t: &str| token_or_id(model, t);
    let explained = args.target.iter().map(|t| token(t)).collect::<Result<Vec<u32>>>()?;
    let against = args.against.as_deref().map(token).transpose()?;
    if let Some(set) = &args.features.dictionary {
        return features::execute(args, &job, set, (ids, pos), (explained, against));
    }
    if explained.len() > 1 {
        return Err(Error::request("a graph on components explains one target; name one, or add --dictionary"));
    }
    let target = match (explained.first().copied(), against) {
        (Some(a), Some(b)) => Target::Difference(a, b),
        (Some(a), None) => Target::Token(a),
        _ => Target::Top,
    };
    let trace = Trace::run(model, ids, progress)?;
    let keep = Keep::for_threshold(args.node_threshold);
    let traced = trace_prediction(&trace, pos, target, args.attention, keep, progress)?;
    let pruning = Instant::now();
    let kept = prune(&traced.graph, &traced.influence, args.node_threshold, args.edge_threshold)?;
    let prune_seconds = pruning.elapsed().as_secs_f64();
    let opened = traced.opened(&trace, &kept, |_| true, args.neurons, progress)?;
    let file = traced.file(&trace, &opened, (args.node_threshold, args.edge_threshold));
    if let Some(path) = &args.output {
        file.save(path)?;
    }
    let seconds = job.stop();
    if traced.influence.held() < args.node_threshold {
        warn(&format!(
            "The {} most influential nodes hold {:.3} of the influence, so that the threshold of {} keeps them all.",
            traced.graph.nodes.len(),
            traced.influence.held(),
            args.node_threshold
        ));
    }
    let g = &traced.graph;
    let shown = &opened.graph;
    let mut order: Vec<usize> = (0..shown.nodes.len()).filter(|i| shown.nodes[*i].kind != NodeKind::Logit).collect();
    order.sort_by(|a, b| opened.influence[*b].total_cmp(&opened.influence[*a]));
    let json = || {
        json!({
            "pos": pos, "targets": targets(&traced),
            "counts": {"nodes": file.graph.nodes.len(), "links": file.graph.links.len(), "all_nodes": traced.all_nodes, "all_links": traced.all_edges},
            "node_threshold": args.node_threshold, "edge_threshold": args.edge_threshold,
            "replacement_score": traced.scores.replacement, "completeness_score": traced.scores.completeness,
            "frozen": traced.attention.freeze().names(), "link_kind": traced.attention.links(),
            "links": links(shown),
            "nodes": nodes(&opened, &order), "trace_seconds": traced.seconds, "prune_seconds": prune_seconds, "held_share": traced.influence.held(),
        })
    };
    let text = || {
        let row = |i: &usize| {
            let n = &shown.nodes[*i];
            vec![
                format!("{:?}", n.label).trim_matches('"').to_owned(),
                format!("{} {:?}", n.pos, g.prompt_tokens[n.pos]),
                n.activation.map_or(String::new(), |a| format!("{a:+.3}")),
                format!("{:.4}", opened.influence[*i]),
                format!("{:.4}", opened.cumulative[*i]),
            ]
        };
        let rows: Vec<Vec<String>> = order.iter().take(args.top).map(row).collect();
        let logits = g.nodes.iter().filter(|n| n.kind == NodeKind::Logit);
        let targets: Vec<String> = logits
            .map(|n| format!("{:?} {:+.3} (weight {:.3})", n.label, n.activation.unwrap_or(f64::NAN), n.prob))
            .collect();
        format!(
            "{}\n\nprediction after position {pos}: {}\nkept {} of {} nodes and {} of {} links; replacement score {:.4}, completeness score {:.4}; links are {}, {} frozen; {:.2} s",
            table(&["node", "at", "contributes", "influence", "cumulative"], &rows),
            targets.join(", "),
            file.graph.nodes.len(),
            traced.all_nodes,
            file.graph.links.len(),
            traced.all_edges,
            traced.scores.replacement,
            traced.scores.completeness,
            traced.attention.links(),
            traced.attention.freeze().names().join(", "),
            seconds,
        )
    };
    job.finish(Some(&trace.ids), json, text)
}
