//! `attribute --method eap|eap-ig`: estimates a score for every edge, from gradients.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::attribute::{Arguments, Method};
use super::output::document;
use super::patch::corrupt_tokens;
use super::{emit, emit_json, progress, table};
use crate::analysis::sweep::check_span;
use crate::circuit::eap::{Path, edge_scores};
use crate::error::Result;

pub fn execute(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let (answer, wrong) = args.pair.tokens(&model)?;
    let metric = args.metric.with(answer, wrong)?;
    let (path, name) = match args.method {
        Method::EapIg => (Path::Integrated(args.steps), "eap-ig"),
        _ => (Path::Clean, "eap"),
    };
    let (progress, bar) = progress("attribute");
    let started = Instant::now();
    let pair = args.pair.runs(&model, &progress)?;
    let scores = edge_scores(&pair, metric, path, &progress)?;
    check_span(&pair, metric)?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    let w = scores.wiring;
    if args.model.json {
        // Receivers by row, the senders that each reads in order: every edge once, without 100,000 names.
        let senders: Vec<String> = (0..w.n_senders()).map(|s| w.sender_at(s).to_string()).collect();
        let receivers: Vec<String> = (0..w.n_receivers()).map(|r| w.receiver_at(r).to_string()).collect();
        let edges: Vec<Value> =
            scores.top(args.top.max(1000)).into_iter().map(|(e, v)| json!({"name": w.name(e), "score": v})).collect();
        let nodes: serde_json::Map<String, Value> =
            senders.iter().cloned().zip(scores.by_sender()).map(|(n, v)| (n, json!(v))).collect();
        let doc = json!({
            "method": name, "approximation": true, "metric": metric.kind().name(), "steps": scores.steps,
            "corrupt_tokens": corrupt_tokens(&pair), "n_edges": w.n_edges(),
            "axes": ["receiver", "sender"], "senders": senders, "receivers": receivers, "scores": scores.values,
            "edges": edges, "nodes": nodes, "score_seconds": scores.seconds,
        });
        return emit_json(document(&model, Some(&pair.clean.ids), seconds, doc));
    }
    let rows: Vec<Vec<String>> =
        scores.top(args.top).into_iter().map(|(e, v)| vec![w.name(e), format!("{v:+.4}")]).collect();
    emit(&format!(
        "{}\n\n{name} of {} edges in {:.2} s (an approximation): first-order change of the {} when an edge is corrupted",
        table(&["edge", "score"], &rows),
        w.n_edges(),
        scores.seconds,
        metric.kind().label()
    ))
}
