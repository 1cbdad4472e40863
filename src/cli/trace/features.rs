//! `trace --dictionary`: the attribution graph on the features of a set.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Arguments, links};
use crate::cli::features::check_set;
use crate::cli::writable;
use crate::cli::{Job, table, warn};
use crate::cost::Cost;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::trust::{Checked, means};
use crate::files::write_atomic;
use crate::graph::NodeKind;
use crate::graph::features::cost::cost;
use crate::graph::features::{FeatureGraph, Settings, Target, first_token_warning, trace_features};
use crate::graph::prune::prune;
use crate::model::Model;
use crate::progress::Progress;

/// The options of a graph on features.
#[derive(clap::Args, Debug)]
pub struct FeatureArgs {
    /// Trace to the features of this set of transcoders, one for every layer: a circuit-tracer folder, or a folder with
    /// one dictionary a layer
    #[arg(long, value_name = "DIR", conflicts_with_all = ["attention", "neurons"])]
    pub dictionary: Option<String>,
    /// Features that are traced at most, the most influential ones (default: all where they fit)
    #[arg(long, value_name = "N", requires = "dictionary", conflicts_with_all = ["attention", "neurons"])]
    max_features: Option<usize>,
    /// Features that are chosen together, after which influence is taken again
    #[arg(long, value_name = "N", default_value_t = 2048, requires = "dictionary", conflicts_with_all = ["attention", "neurons"])]
    round: usize,
    /// First positions whose features and errors are left out
    #[arg(long, value_name = "N", default_value_t = 1, requires = "dictionary", conflicts_with_all = ["attention", "neurons"])]
    silent: usize,
    /// Explain a direction behind the final norm: a direction of `direction find`, or a safetensors file with one row
    #[arg(long, value_name = "FILE", requires = "dictionary", conflicts_with_all = ["target", "against", "attention", "neurons"])]
    direction: Option<PathBuf>,
    /// Logits that are explained at most, where no target is named
    #[arg(long, value_name = "N", default_value_t = crate::graph::targets::MOST, requires = "dictionary", conflicts_with_all = ["attention", "neurons"])]
    max_logits: usize,
    /// Probability that the explained logits hold together, where they suffice
    #[arg(long, value_name = "P", default_value_t = f64::from(crate::graph::targets::PROBABILITY), requires = "dictionary", conflicts_with_all = ["attention", "neurons"])]
    logit_prob: f64,
    /// Where to write `adjacency`, `node_influence`, `features` and `activations` in full
    #[arg(long, value_name = "F.safetensors", requires = "dictionary", conflicts_with_all = ["attention", "neurons"], value_parser = writable)]
    arrays: Option<PathBuf>,
}

impl FeatureArgs {
    fn check(&self) -> Result<()> {
        if !(self.logit_prob > 0.0 && self.logit_prob <= 1.0) {
            return Err(Error::request("--logit-prob is a share of the probability, above 0 and up to 1"));
        }
        if self.round == 0 {
            return Err(Error::request("--round takes features in each round, 1 or more"));
        }
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings { most: self.max_features, round: self.round, silent: self.silent }
    }

    /// What tracing the prediction after a position costs, in a prompt of so many tokens; one layer of the set is read.
    pub fn cost(&self, model: &Model, spec: &str, place: (usize, usize)) -> Result<Cost> {
        let progress = Progress::new();
        let set = DictionarySet::open(spec, &progress)?;
        set.check(&model.config)?;
        cost(model, &set.layer(0, &model.config, &progress)?.0, place, &self.settings())
    }
}

pub fn execute(
    args: &Arguments,
    job: &Job,
    spec: &str,
    (ids, pos): (Vec<u32>, usize),
    (tokens, against): (Vec<u32>, Option<u32>),
) -> Result<()> {
    let (model, progress, own) = (&job.model, &job.progress, &args.features);
    own.check()?;
    let set = DictionarySet::open(spec, progress)?;
    set.check(&model.config)?;
    let target = match (&own.direction, &tokens[..], against) {
        (Some(path), ..) => Target::File(path.clone()),
        (None, [], _) => Target::Top { most: own.max_logits, share: own.logit_prob },
        (None, [one], Some(other)) => Target::Difference(*one, other),
        (None, _, Some(_)) => return Err(Error::request("--against compares with one --target; name one")),
        (None, all, None) => Target::Tokens(all.to_vec()),
    };
    let checked = check_set(model, &set, progress)?;
    first_token_warning(model, &ids).iter().for_each(|w| warn(w));
    let trace = Trace::run(model, ids, progress)?;
    let found = trace_features(&trace, &set, pos, &target, &own.settings(), progress)?;
    let pruning = Instant::now();
    let thresholds = (args.node_threshold, args.edge_threshold);
    let kept = prune(&found.graph, &found.influence, thresholds.0, thresholds.1)?;
    let mut file = found.file(&trace, &set, &kept, thresholds)?;
    if let Some(Value::Object(info)) = file.document.get_mut("metadata").and_then(|m| m.get_mut("info")) {
        info.insert("dictionaries".to_owned(), json!(checked));
    }
    let prune_seconds = pruning.elapsed().as_secs_f64();
    if let Some(path) = &args.output {
        file.save(path)?;
    }
    if let Some(path) = &own.arrays {
        write_atomic(path, &found.arrays()?)?;
    }
    job.stop();
    found.warnings.iter().chain(&found.limited).for_each(|w| warn(w));
    let cumulative = found.influence.cumulative();
    let g = &found.graph;
    let mut order: Vec<usize> =
        (0..g.nodes.len()).filter(|i| kept.nodes[*i] && g.nodes[*i].kind != NodeKind::Logit).collect();
    order.sort_by(|a, b| found.influence.values[*b].total_cmp(&found.influence.values[*a]));
    let node = |i: &usize| {
        let n = &g.nodes[*i];
        let feature = found.feature(*i).map(|f| f.feature);
        json!({"id": n.id, "name": n.label, "kind": n.kind.label(), "layer": n.layer, "pos": n.pos, "feature": feature,
            "influence": found.influence.values[*i], "cumulative": cumulative[*i], "activation": n.activation})
    };
    let json = || {
        json!({
            "pos": pos, "targets": targets(&found),
            "counts": {"nodes": file.graph.nodes.len(), "links": file.graph.links.len(), "all_nodes": g.nodes.len(), "all_links": g.links.len()},
            "active_features": found.features.len(), "selected_features": found.selected.len(), "limited": found.limited,
            "silent_positions": found.silent, "node_threshold": thresholds.0, "edge_threshold": thresholds.1,
            "replacement_score": found.scores.replacement, "completeness_score": found.scores.completeness,
            "frozen": ["attention patterns", "norm scales", "MLP outputs"], "link_kind": "exact linear effects",
            "dictionary": spec, "dictionaries": checked, "links": links(&file.graph),
            "nodes": order.iter().map(node).collect::<Vec<_>>(),
            "trace_seconds": found.seconds, "prune_seconds": prune_seconds,
        })
    };
    let text = || {
        let row = |i: &usize| {
            let n = &g.nodes[*i];
            let layer = if n.layer < 0 { String::new() } else { n.layer.to_string() };
            vec![
                format!("{:?}", n.label).trim_matches('"').to_owned(),
                layer,
                format!("{} {:?}", n.pos, g.prompt_tokens[n.pos]),
                n.activation.map_or(String::new(), |a| format!("{a:+.3}")),
                format!("{:.4}", found.influence.values[*i]),
                format!("{:.4}", cumulative[*i]),
            ]
        };
        let rows: Vec<Vec<String>> = order.iter().take(args.top).map(row).collect();
        let targets: Vec<String> =
            found.targets.iter().map(|e| format!("{:?} (weight {:.3})", e.label, e.weight)).collect();
        format!(
            "{}\n\nprediction after position {pos}: {}\n{} of {} active features; kept {} of {} nodes and {} of {} links; \
             replacement score {:.4}, completeness score {:.4}; links are exact linear effects, attention patterns, norm \
             scales, MLP outputs frozen; {:.2} s{}",
            table(&["node", "layer", "at", "activation", "influence", "cumulative"], &rows),
            targets.join(", "),
            found.selected.len(),
            found.features.len(),
            file.graph.nodes.len(),
            g.nodes.len(),
            file.graph.links.len(),
            g.links.len(),
            found.scores.replacement,
            found.scores.completeness,
            found.seconds,
            said(&checked),
        )
    };
    job.finish(Some(&trace.ids), json, text)
}

/// What the set explains on ordinary text, as a line.
fn said(checked: &[Checked]) -> String {
    let Some((mean, l0)) = means(checked) else { return String::new() };
    format!("\nthe set explains {mean:.3} of the variance on ordinary text, with {l0:.1} features active a position")
}

fn targets(found: &FeatureGraph) -> Vec<Value> {
    let g = &found.graph;
    let first = g.nodes.len() - found.targets.len();
    let target = |(i, e): (usize, &crate::graph::features::Explained)| {
        let sum: f64 = g.into_node(first + i).iter().map(|l| f64::from(l.weight)).sum();
        json!({"id": g.nodes[first + i].id, "token": e.id, "text": e.label, "prob": e.weight, "weight": e.weight, "logit": e.logit, "sum_of_edges": sum})
    };
    found.targets.iter().enumerate().map(target).collect()
}
