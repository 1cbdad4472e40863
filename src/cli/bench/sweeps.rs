//! Times sweeps, searches and graphs, in multiples of one plain forward pass of the same prompt: a tool that runs the model
//! once for each cell pays one pass a cell.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::{plain_pass, prompt, time};
use crate::analysis::attribution_patching::attribution_patching;
use crate::analysis::metric::{Metric, MetricKind};
use crate::analysis::pair::Pair;
use crate::analysis::patching::{Ablation, patching};
use crate::analysis::sweep::{Axes, SITES, Sweep};
use crate::circuit::Wiring;
use crate::circuit::eap::{Path, STEPS, edge_scores};
use crate::circuit::find::{Runs, refine, top_edges};
use crate::circuit::trial::Trial;
use crate::engine::{Freeze, SiteKind, Trace};
use crate::error::Result;
use crate::graph::components::{Keep, trace_prediction};
use crate::graph::layout::{Cut, Drawing, Shown};
use crate::graph::prune::{EDGE_THRESHOLD, NODE_THRESHOLD, prune};
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::model::Model;
use crate::progress::Progress;

const CLEAN: &str = "When Mary and John went to the store, John gave a drink to";
const CORRUPT: &str = "When Mary and John went to the store, Mary gave a drink to";

/// Returns two prompts that differ in one token: texts where the model reads them, otherwise ids.
fn prompts(model: &Model) -> (Vec<u32>, Vec<u32>) {
    if let (Ok(clean), Ok(corrupt)) = (model.encode(CLEAN, false), model.encode(CORRUPT, false))
        && clean.len() == corrupt.len()
    {
        return (clean, corrupt);
    }
    let clean = prompt(model, 14);
    let mut corrupt = clean.clone();
    let at = 2 * clean.len() / 3;
    if let Some(id) = corrupt.get_mut(at) {
        *id = (*id + 1) % model.config.d_vocab as u32;
    }
    (clean, corrupt)
}

/// Runs all timings of sweeps on a model.
pub fn sweeps(model: &Arc<Model>, repeat: usize) -> Result<Value> {
    let progress = Progress::new();
    let (clean, corrupt) = prompts(model);
    let plain = time(repeat, || plain_pass(model, &corrupt, &progress))?;
    let run = |ids: Vec<u32>| Ok::<_, crate::Error>(Arc::new(Trace::run(model, ids, &progress)?));
    let tokens = corrupt.len();
    let pair = Pair::new(run(clean)?, run(corrupt)?);
    let token = |text: &str, otherwise: u32| model.single_token(text).unwrap_or(otherwise);
    let metric = MetricKind::LogitDifference.with(Some(token(" Mary", 0)), Some(token(" John", 1)))?;
    let mut list = Vec::new();
    for (site, by) in
        [(SiteKind::ResidPre, Axes::LayerPos), (SiteKind::Z, Axes::LayerHead), (SiteKind::Z, Axes::LayerHeadPos)]
    {
        let settings = patching(site, by, metric);
        let mut first = f64::NAN;
        let mut cells = (0, 0);
        let mut guess = f64::NAN;
        let mut bytes = 0;
        let seconds = time(repeat.min(3), || {
            let started = Instant::now();
            let mut seen = None;
            let sweep = Sweep::new(&pair, settings.clone(), &progress)?;
            (guess, bytes) = (sweep.estimate().seconds, sweep.estimate().bytes);
            let found = sweep.run(&progress, |_| {
                seen.get_or_insert_with(|| started.elapsed().as_secs_f64());
            })?;
            first = seen.unwrap_or_else(|| started.elapsed().as_secs_f64());
            cells = (found.values.len(), found.run);
            Ok(())
        })?;
        list.push(json!({"site": site.hook(), "by": by.name(), "cells": cells.0, "run": cells.1, "seconds": seconds,
            "forward_passes": seconds / plain, "first_cells_seconds": first, "estimated_seconds": guess,
            "working_memory_bytes": bytes}));
    }
    let atp = time(repeat.min(3), || {
        let found = attribution_patching(&pair, metric, &SITES, Freeze::default(), &progress)?;
        for site in SITES.into_iter().filter(|s| s.exists(&model.config)) {
            if let Some(by) = Axes::choices(site).first() {
                std::hint::black_box(found.grid(&pair, site, *by)?);
            }
        }
        Ok(())
    })?;
    list.push(json!({"method": "attribution patching, all sites", "seconds": atp, "forward_passes": atp / plain}));
    list.extend(circuits(&pair, metric, plain, repeat, &progress)?);
    Ok(json!({"tokens": tokens, "plain_forward_seconds": plain, "sweeps": list}))
}

/// Times edge scores, a search and a trace in plain passes, and the pruning of a 64-token graph in seconds.
fn circuits(pair: &Pair, metric: Metric, plain: f64, repeat: usize, progress: &Progress) -> Result<Vec<Value>> {
    let mut list = Vec::new();
    let mut add = |method: String, seconds: f64| {
        list.push(json!({"method": method, "seconds": seconds, "forward_passes": seconds / plain}));
    };
    let edges = Wiring::new(&pair.clean.model.config).n_edges();
    for (name, path) in [("EAP", Path::Clean), ("EAP-IG, 5 steps", Path::Integrated(STEPS))] {
        // Both runs of the prompts are part of the cost.
        let seconds = time(repeat.min(3), || {
            let run = |t: &Trace| Ok::<_, crate::Error>(Arc::new(Trace::run(&t.model, t.ids.clone(), progress)?));
            let corrupted = pair.run(crate::engine::RunSide::Corrupted)?;
            let fresh = Pair::new(run(&pair.clean)?, run(corrupted)?);
            std::hint::black_box(edge_scores(&fresh, metric, path, progress)?);
            Ok(())
        })?;
        add(format!("{name} of {edges} edges with both runs"), seconds);
    }
    if let Ok(trial) = Trial::new(pair, metric, Ablation::Resample, None) {
        let scores = edge_scores(pair, metric, Path::Integrated(STEPS), progress)?;
        let trials = [trial];
        let seconds = time(1, || {
            std::hint::black_box(refine(&trials, &scores, 500, progress, |_| {})?);
            Ok(())
        })?;
        add("exact re-scoring to 500 edges".to_owned(), seconds);
        let circuit = top_edges(&scores, 500);
        let seconds = time(repeat.min(3), || {
            std::hint::black_box(Runs::of(&trials, &circuit, progress)?.faithfulness(progress)?);
            Ok(())
        })?;
        add("faithfulness of a circuit of 500 edges".to_owned(), seconds);
    }
    let target = Target::Top;
    let last = pair.clean.len() - 1;
    let seconds = time(repeat.min(3), || {
        std::hint::black_box(trace_prediction(
            &pair.clean,
            last,
            target,
            Attention::Frozen,
            Keep::default(),
            progress,
        )?);
        Ok(())
    })?;
    add("attribution graph".to_owned(), seconds);
    let model = &pair.clean.model;
    let long = Trace::run(model, prompt(model, 64.min(model.config.n_ctx)), progress)?;
    let traced = trace_prediction(&long, long.len() - 1, target, Attention::Frozen, Keep::default(), progress)?;
    let (nodes, edges) = (traced.all_nodes, traced.all_edges);
    add(format!("attribution graph of {} tokens, {nodes} nodes, {edges} edges", long.len()), traced.seconds);
    for threshold in [NODE_THRESHOLD, 0.9, 0.95] {
        let seconds = time(5, || {
            std::hint::black_box(prune(&traced.graph, &traced.influence, threshold, EDGE_THRESHOLD)?);
            Ok(())
        })?;
        add(format!("its prune to {threshold}"), seconds);
    }
    // A slider of the window sets off all of this: the graph is pruned and laid out.
    let shown = Shown::traced(Arc::new(long), traced);
    for threshold in [NODE_THRESHOLD, 0.9] {
        let cut = Cut { thresholds: Some((threshold, EDGE_THRESHOLD)), opened: Default::default() };
        let mut size = (0, 0);
        let seconds = time(5, || {
            let drawing = Drawing::of(&shown, &cut, progress)?;
            size = (drawing.graph.nodes.len(), drawing.graph.links.len());
            Ok(())
        })?;
        add(format!("its drawing at {threshold}, {} nodes, {} links", size.0, size.1), seconds);
    }
    Ok(list)
}

/// Returns one line of text for each sweep.
pub fn lines(sweeps: &Value) -> String {
    let list = sweeps["sweeps"].as_array().cloned().unwrap_or_default();
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    list.iter()
        .map(|s| {
            let what = match (s["method"].as_str(), s["site"].as_str(), s["by"].as_str()) {
                (Some(method), ..) => method.to_owned(),
                (_, Some(site), Some(by)) => format!("patching {site} by {by}, {} cells", s["cells"]),
                _ => String::new(),
            };
            let first = s["first_cells_seconds"]
                .as_f64()
                .map_or(String::new(), |f| format!(", first cells after {:.0} ms", f * 1e3));
            format!(
                "\n{what}: {:.3} s = {:.1} plain passes{first}",
                number(&s["seconds"]),
                number(&s["forward_passes"])
            )
        })
        .collect()
}
