//! The same question has the same answer in the window and on the command line. Circuits: see `circuits`.

use crate::circuits::copying_pair;
use crate::common::json;
use crate::model::CLEAN;
use crate::window::look;
use circuitscope::analysis::head_scores::SCORES;
use circuitscope::app::model::ModelAction;
use circuitscope::session::desk::{Pinned, Show};
use serde_json::{Value, json};

const CORRUPT: &str = "The President of the first States and the President of the";

/// Numbers within a document are near to each other, and everything else is equal.
fn near(path: &str, a: &Value, b: &Value) {
    match (a, b) {
        (Value::Array(x), Value::Array(y)) => {
            assert_eq!(x.len(), y.len(), "{path}");
            x.iter().zip(y).enumerate().for_each(|(i, (x, y))| near(&format!("{path}[{i}]"), x, y));
        }
        (Value::Object(x), Value::Object(y)) => {
            assert!(x.keys().eq(y.keys()), "{path}");
            x.iter().for_each(|(k, x)| near(&format!("{path}.{k}"), x, &y[k]));
        }
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            assert!((x - y).abs() <= 1e-5 * (1.0 + x.abs()), "{path}: {x} in the window, {y} on the command line");
        }
        _ => assert_eq!(a, b, "{path}"),
    }
}

#[test]
fn window_and_command_line_answer_alike() {
    let mut h = copying_pair();
    h.state_mut().state.apply(ModelAction::Show(Show::Clean), 0.0);
    let pinned = h.state().state.pinned();
    let last = h.state().state.run().unwrap().trace.len() - 1;
    let pinned = Pinned { layer: 1, head: Some(3), pos: last, all_heads: false, ..pinned };
    h.state_mut().state.apply(ModelAction::Pin(pinned), 0.0);
    for view in ["lens", "attention", "attribution", "patching", "graph"] {
        look(&mut h, view);
    }
    // Each is looked at once more, so that all are of this moment.
    look(&mut h, "patching");
    let answer = ["--answer", " United", "--wrong", " first"];

    look(&mut h, "attribution");
    let a = h.state().state.results.attribution.fresh().unwrap().value.now.clone();
    let mine = json!({"heads": a.heads, "mlps": a.mlps, "embed": a.embed, "sum": a.sum(), "logit": a.logit});
    let doc = json(&[&["dla", "-p", CLEAN][..], &answer].concat());
    let theirs = json!({"heads": doc["parts"]["heads"], "mlps": doc["parts"]["mlps"], "embed": doc["parts"]["embed"],
        "sum": doc["sum"], "logit": doc["logit"]});
    near("dla", &mine, &theirs);

    look(&mut h, "lens");
    let lens = h.state().state.results.lens.fresh().unwrap().value.now.clone();
    let entropy: Vec<Vec<f32>> = lens.cells.iter().map(|r| r.iter().flatten().map(|c| c.entropy).collect()).collect();
    let difference: Vec<Vec<Option<f32>>> = lens
        .cells
        .iter()
        .map(|r| r.iter().flatten().map(|c| c.answer.and_then(|a| a.logit_difference)).collect())
        .collect();
    let doc = json(&[&["lens", "-p", CLEAN, "--pos", "all"][..], &answer].concat());
    near("lens", &json!([entropy, difference]), &json!([doc["entropy"], doc["logit_difference"]]));

    look(&mut h, "attention");
    let scores = h.state().state.results.text_scores.fresh().unwrap().value.now.clone();
    let doc = json(&["heads", "-p", CLEAN]);
    for score in SCORES {
        near(score.name(), &json!(scores.values[score as usize]), &doc["scores"][score.name()]["values"]);
    }

    let why = h.state().state.results.why.fresh().unwrap().value.0.clone();
    let mine = json!([why.key, why.attention, why.advantage, why.pattern]);
    let doc = json(&["why", "-p", CLEAN, "--head", "1.3"]);
    near("why", &mine, &json!([doc["key"], doc["attention"], doc["advantage"], doc["pattern"]]));

    look(&mut h, "patching");
    let sweep = h.state().state.results.sweep.fresh().unwrap().value.found.clone().unwrap();
    let doc = json(
        &[&["patch", "--clean", CLEAN, "--corrupt", CORRUPT, "--site", "z", "--by", "layer,head"][..], &answer]
            .concat(),
    );
    let theirs: Vec<Value> =
        doc["raw"].as_array().unwrap().iter().flat_map(|r| r.as_array().unwrap().clone()).collect();
    near("patch", &json!(sweep.values), &json!(theirs));
    near("patch", &json!([sweep.clean, sweep.corrupted]), &json!([doc["clean"], doc["corrupt"]]));

    look(&mut h, "graph");
    let g = h.state().state.results.graph.fresh().unwrap().value.clone();
    let doc = json(&["trace", "-p", CLEAN, "--target", " United", "--against", " first"]);
    let theirs = json!([doc["replacement_score"], doc["completeness_score"]]);
    near("trace", &json!([g.scores.replacement, g.scores.completeness]), &theirs);
}
