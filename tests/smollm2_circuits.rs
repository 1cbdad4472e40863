//! Circuits of a real model on the oracle's pair of prompts, against the numbers of EAP-IG's own code.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::sync::Arc;

use circuitscope::analysis::component::Component;
use circuitscope::analysis::metric::Metric;
use circuitscope::analysis::pair::Pair;
use circuitscope::analysis::patching::Ablation;
use circuitscope::circuit::eap::{EdgeScores, Path, edge_scores};
use circuitscope::circuit::find::{Runs, refine, top_edges};
use circuitscope::circuit::trial::Trial;
use circuitscope::engine::Trace;
use circuitscope::progress::Progress;
use common::{oracle, smollm2};

fn pair() -> (Pair, Metric) {
    let doc = oracle("smollm2-ioi.json");
    let ids = |key: &str| doc[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let run = |ids| Arc::new(Trace::run(&smollm2(), ids, &Progress::new()).unwrap());
    let id = |key: &str| doc[key].as_u64().unwrap() as u32;
    let metric = Metric::LogitDifference { answer: id("answer_id"), wrong: id("wrong_id") };
    (Pair::new(run(ids("clean_ids")), run(ids("corrupt_ids"))), metric)
}

fn faithfulness(trial: &[Trial<'_>], scores: &EdgeScores, n: usize) -> f32 {
    let progress = Progress::new();
    Runs::of(trial, &top_edges(scores, n), &progress).unwrap().faithfulness(&progress).unwrap()
}

#[test]
fn faithfulness_of_eap_and_eap_ig_is_their_authors() {
    let (pair, metric) = pair();
    let trial = [Trial::new(&pair, metric, Ablation::Resample, None).unwrap()];
    let eap = edge_scores(&pair, metric, Path::Clean, &Progress::new()).unwrap();
    let ig = edge_scores(&pair, metric, Path::Integrated(5), &Progress::new()).unwrap();
    for (scores, n, expected) in [
        (&eap, 200, 0.36),
        (&eap, 1000, 0.77),
        (&eap, 5000, 0.86),
        (&ig, 200, 0.59),
        (&ig, 1000, 0.92),
        (&ig, 5000, 0.94),
    ] {
        let f = faithfulness(&trial, scores, n);
        assert!((f - expected).abs() < 0.006, "{n} edges after {} steps: {f} against {expected}", scores.steps);
    }
    // Exact patching's top eight.
    let heads = [(23, 3), (29, 1), (24, 4), (20, 0), (29, 0), (17, 4), (19, 2), (23, 0)];
    let inside = top_edges(&eap, 200).components();
    let found = heads
        .into_iter()
        .filter(|(layer, head)| {
            let sender = eap.wiring.sender(Component::Head { layer: *layer, head: *head });
            sender.is_some_and(|s| inside.contains(s))
        })
        .count();
    assert!(found >= 6, "{found} of 8");
    // Re-scored exactly, 200 edges do more than the authors' code does with 5,000.
    let edges = refine(&trial, &ig, 200, &Progress::new(), |_| {}).unwrap();
    let progress = Progress::new();
    let f = Runs::of(&trial, &edges, &progress).unwrap().faithfulness(&progress).unwrap();
    assert!(edges.len() <= 200 && (0.9..=1.1).contains(&f), "{} edges: {f}", edges.len());
}
