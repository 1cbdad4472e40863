//! SmolLM2-135M against TransformerLens 4.3 and the transformers tokenizer.

mod common;

use circuitscope::analysis::direct_attribution::direct_attribution;
use circuitscope::analysis::head_scores::{Measure, Score, head_scores};
use circuitscope::analysis::logit_lens::logit_lens;
use circuitscope::analysis::norms::norms;
use circuitscope::engine::Trace;
use circuitscope::progress::Progress;
use common::{entry, grid, ids, oracle, smollm2, worst};

fn number(v: &serde_json::Value) -> f32 {
    v.as_f64().expect("a number") as f32
}

fn clean() -> Trace {
    let doc = oracle("smollm2-ioi.json");
    Trace::run(&smollm2(), ids(entry(&doc, "clean_ids")), &Progress::new()).unwrap()
}

#[test]
fn token_ids_are_identical() {
    let model = smollm2();
    for case in oracle("smollm2-tokens.json")["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let got = model.encode(text, false).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
        assert_eq!(model.tokenizer.as_ref().unwrap().decode(&got), text);
    }
}

#[test]
fn next_tokens_and_loss() {
    let doc = oracle("smollm2-ioi.json");
    let trace = clean();
    assert_eq!(trace.ids, smollm2().encode(doc["clean"].as_str().unwrap(), false).unwrap());
    let top = entry(&doc, "next_token_top10");
    let got = trace.next.last().unwrap();
    assert_eq!(got.iter().map(|t| t.id).collect::<Vec<_>>(), ids(&top["ids"]));
    let probs: Vec<f32> = got.iter().map(|t| t.prob).collect();
    assert!(worst(&probs, &serde_json::from_value::<Vec<f32>>(top["prob"].clone()).unwrap()) < 1e-3);
    assert!((trace.mean_loss().unwrap() - number(entry(&doc, "mean_next_token_loss"))).abs() < 1e-3);
}

#[test]
fn residual_norms() {
    let want = grid(entry(&oracle("smollm2-ioi.json"), "resid_post_norm"));
    let got = norms(&clean(), &Progress::new()).unwrap().resid_post;
    for (l, (g, w)) in got.iter().zip(&want).enumerate() {
        for (p, (g, w)) in g.iter().zip(w).enumerate() {
            assert!((g - w).abs() <= 0.005 * w, "layer {l}, position {p}: {g} against {w}");
        }
    }
}

#[test]
fn lens_at_the_last_position() {
    let doc = oracle("smollm2-ioi.json");
    let trace = clean();
    let (answer, wrong) = (doc["answer_id"].as_u64().unwrap() as u32, doc["wrong_id"].as_u64().unwrap() as u32);
    let last = trace.len() - 1;
    let lens = logit_lens(&trace, None, &[last], Some(answer), Some(wrong), 10, &Progress::new(), |_| {}).unwrap();
    for (layer, want) in entry(&doc, "logit_lens_last_pos").as_array().unwrap().iter().enumerate() {
        let cell = lens.cell(layer, last).unwrap();
        let a = cell.answer.unwrap();
        let top = cell.top[0];
        assert!((top.prob - number(&want["top1_prob"])).abs() < 1e-3, "layer {layer}: {top:?} {want}");
        assert_eq!(u64::from(top.id), want["top1_id"].as_u64().unwrap(), "layer {layer}");
        assert!((a.prob - number(&want["answer_prob"])).abs() < 1e-3);
        assert_eq!(a.rank as u64, want["answer_rank"].as_u64().unwrap(), "layer {layer}");
        if let Some(d) = want.as_object().unwrap().iter().find(|(k, _)| k.contains("diff")).map(|(_, v)| number(v)) {
            let got = a.logit_difference.unwrap();
            assert!((got - d).abs() <= 0.005 * d.abs().max(1.0), "layer {layer}: {got} against {d}");
        }
    }
}

#[test]
fn attention_patterns() {
    let doc = oracle("smollm2-ioi.json");
    let trace = clean();
    for (name, want) in entry(&doc, "attention_pattern").as_object().unwrap() {
        let (layer, head) = name.split_once('.').unwrap();
        let (layer, head) = (layer.parse().unwrap(), head.parse().unwrap());
        let want: Vec<f32> = grid(want).concat();
        let one: Vec<f32> = trace.head_pattern(layer, head).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let all: Vec<f32> = trace.pattern(layer).unwrap().get(head).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(worst(&one, &want) < 1e-3, "head {name}");
        assert!(worst(&all, &want) < 1e-3, "head {name}");
    }
}

#[test]
fn direct_attribution_adds_up() {
    let doc = oracle("smollm2-ioi.json");
    let (answer, wrong) = (doc["answer_id"].as_u64().unwrap() as u32, doc["wrong_id"].as_u64().unwrap() as u32);
    let trace = clean();
    let a = direct_attribution(&trace, trace.len() - 1, answer, Some(wrong)).unwrap();
    let want = number(entry(&doc, "logit_diff_clean"));
    assert!((a.sum() - want).abs() < 1e-3, "{} against {want}", a.sum());
    assert!((a.logit - want).abs() < 1e-3);
}

#[test]
fn stripe_scores_of_every_head() {
    let doc = oracle("smollm2-ioi.json");
    let trace = Trace::run(&smollm2(), ids(entry(&doc, "repeated_ids")), &Progress::new()).unwrap();
    let got = head_scores(&trace, Measure::Diagonal { n: trace.len() / 2 }, &Progress::new()).unwrap();
    let want = entry(&doc, "stripe_scores");
    for (score, key) in
        [(Score::Previous, "previous"), (Score::Duplicate, "duplicate"), (Score::Induction, "induction")]
    {
        assert!(worst(&got.values[score as usize].concat(), &grid(entry(want, key)).concat()) < 1e-3, "{key}");
    }
}
