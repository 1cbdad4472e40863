//! The same question has the same answer in the window and on the command line. Circuits: see `circuits`.

use crate::circuits::copying_pair;
use crate::common::json;
use crate::model::CLEAN;
use crate::window::{document, features, look, settle, window};
use circuitscope::analysis::head_scores::SCORES;
use circuitscope::analysis::patching::Ablation;
use circuitscope::app::model::ModelAction;
use circuitscope::app::view::Workspace;
use circuitscope::session::desk::{Intervention, PatchSettings, Pinned, Show, Source};
use serde_json::{Value, json};

const CORRUPT: &str = "The President of the first States and the President of the";

/// Numbers within a document are near to each other, and everything else is equal.
pub fn near(path: &str, a: &Value, b: &Value) {
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

/// The numbers of nested lists in one list.
fn flat(nested: &Value) -> Value {
    fn add(value: &Value, to: &mut Vec<Value>) {
        match value.as_array() {
            Some(list) => list.iter().for_each(|v| add(v, to)),
            None => to.push(value.clone()),
        }
    }
    let mut all = Vec::new();
    add(nested, &mut all);
    Value::Array(all)
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
    near("patch", &json!(sweep.values), &flat(&doc["raw"]));
    near("patch", &json!([sweep.clean, sweep.corrupted]), &json!([doc["clean"], doc["corrupt"]]));

    look(&mut h, "graph");
    let g = h.state().state.results.graph.fresh().unwrap().value.clone();
    let doc = json(&["trace", "-p", CLEAN, "--target", " United", "--against", " first"]);
    let theirs = json!([doc["replacement_score"], doc["completeness_score"]]);
    near("trace", &json!([g.scores.replacement, g.scores.completeness]), &theirs);
}

#[test]
fn window_and_command_line_ablate_and_attribute_alike() {
    let mut h = copying_pair();
    let answer = ["--answer", " United", "--wrong", " first"];
    for with in [Ablation::Zero, Ablation::Mean] {
        let settings = PatchSettings { intervention: Some(Intervention::Ablate(with)), ..PatchSettings::default() };
        h.state_mut().state.apply(ModelAction::Patch(settings), 0.0);
        look(&mut h, "patching");
        settle(&mut h);
        let sweep = h.state().state.results.sweep.fresh().unwrap().value.found.clone().unwrap();
        let args = ["ablate", "-p", CLEAN, "--site", "z", "--by", "layer,head", "--with", with.label()];
        let doc = json(&[&args[..], &answer].concat());
        near("ablate", &json!(sweep.values), &flat(&doc["values"]));
        near("ablate", &json!(sweep.baseline), &doc["baseline"]);
    }
    let settings = PatchSettings { source: Source::Approximate, ..PatchSettings::default() };
    h.state_mut().state.apply(ModelAction::Patch(settings), 0.0);
    look(&mut h, "patching");
    settle(&mut h);
    let mine = h.state().state.results.approximation.fresh().unwrap().value.normalised().unwrap();
    let args = ["attribute", "--clean", CLEAN, "--corrupt", CORRUPT, "--site", "z", "--by", "layer,head"];
    let doc = json(&[&args[..], &answer].concat());
    near("attribute", &json!(mine), &flat(&doc["nodes"]["z"]["values"]));
}

#[test]
fn window_and_command_line_find_the_same_features_and_directions() {
    let mut h = window(document(CLEAN));
    h.state_mut().enter(Workspace::Features);
    let dir = features(&mut h);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let features = &h.state().state.features;
    let acts = features.activations.value().unwrap().acts.clone();
    let strongest = |pos: usize| {
        let mut row: Vec<(u32, f32)> = acts.row(pos).collect();
        row.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        row.truncate(5);
        row
    };
    let listed = |(feature, activation): (u32, f32)| json!({"feature": feature, "activation": activation});
    let mine: Vec<Vec<Value>> = (0..acts.rows()).map(|p| strongest(p).into_iter().map(listed).collect()).collect();
    assert!(mine.iter().any(|row| !row.is_empty()));
    let doc = json(&["features", "encode", "--dictionary", &path("test"), "-p", CLEAN]);
    near("features", &json!(mine), &doc["top"]);

    let layer = |l: &circuitscope::features::direction::AtLayer| {
        json!([l.auc, l.accuracy, l.control_auc, l.control_accuracy, l.gap, l.typical_length])
    };
    let mine: Vec<Value> = features.desk.watched[0].concept.layers.iter().map(layer).collect();
    let doc = json(&["direction", "find", "--set", &path("of.tsv")]);
    let names = ["auc", "accuracy", "control_auc", "control_accuracy", "gap", "typical_length"];
    let theirs = doc["layers"].as_array().unwrap().iter();
    let theirs: Vec<Value> = theirs.map(|l| json!(names.map(|n| l[n].clone()))).collect();
    near("direction", &json!(mine), &json!(theirs));
}
