//! A probe and interchanges on SmolLM2-135M against TransformerLens 4.3: `tests/probes/smollm2.py`.

mod common;

use circuitscope::error::Error;
use circuitscope::features::direction::concept::Pool;
use circuitscope::probes::interchange::{self, InterchangeOf};
use circuitscope::probes::question::{Kind, ProbesOf, Recipe};
use circuitscope::probes::set::Texts;
use circuitscope::progress::Progress;
use circuitscope::question::Question;
use common::smollm2;

fn reference() -> serde_json::Value {
    serde_json::from_str(include_str!("probes/smollm2.json")).unwrap()
}

/// The texts of the reference with its split.
fn texts(doc: &serde_json::Value) -> Texts {
    let list = |name: &str| doc[name].as_array().unwrap().clone();
    let test: Vec<usize> = serde_json::from_value(doc["test"].clone()).unwrap();
    let mut out = "label\tsplit\ttext\n".to_owned();
    for (i, (text, label)) in list("texts").iter().zip(list("labels")).enumerate() {
        let split = if test.contains(&i) { "test" } else { "train" };
        let class = ["many", "one"][label.as_u64().unwrap() as usize];
        out.push_str(&format!("{class}\t{split}\t{}\n", text.as_str().unwrap()));
    }
    Texts::Typed(out)
}

#[test]
fn a_probe_is_transformer_lens() {
    let doc = reference();
    let model = smollm2();
    for (text, ids) in doc["texts"].as_array().unwrap().iter().zip(doc["ids"].as_array().unwrap()) {
        let theirs: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(model.encode(text.as_str().unwrap(), false).unwrap(), theirs);
    }
    let layer = doc["layer"].as_u64().unwrap() as usize;
    let recipe = Recipe { texts: texts(&doc), pool: Pool::Last, layers: vec![layer], ..Recipe::default() };
    let question = ProbesOf { model, recipe };
    let found = question.run(&Progress::new(), &mut |_| {}).unwrap();
    let score = found.layers[0].score;
    let number = |name: &str| doc[name].as_f64().unwrap() as f32;
    assert!((score.accuracy - number("accuracy")).abs() < 1e-6, "{score:?}");
    assert!((score.auc - number("auc")).abs() < 1e-2, "{score:?}");
    assert!(found.layers[0].shuffled_labels.accuracy < 0.8, "{:?}", found.layers[0].shuffled_labels);
    // The same coordinates are chosen for a sparse one.
    let ProbesOf { model, recipe } = question;
    let sparse = ProbesOf { model, recipe: Recipe { kind: Kind::Sparse(8), ..recipe } };
    let found = sparse.run(&Progress::new(), &mut |_| {}).unwrap();
    let (at, doc) = (&found.layers[0], &doc["sparse"]);
    let theirs: Vec<usize> = serde_json::from_value(doc["coordinates"].clone()).unwrap();
    assert_eq!(at.probe.coordinates, theirs);
    let number = |name: &str| doc[name].as_f64().unwrap() as f32;
    assert!((at.score.accuracy - number("accuracy")).abs() < 1e-6, "{:?}", at.score);
    assert!((at.score.auc - number("auc")).abs() < 1e-2, "{:?}", at.score);
}

#[test]
fn interchanges_are_transformer_lens() {
    let doc = reference();
    let recipe = interchange::Recipe {
        texts: texts(&doc),
        answers: vec![" were".to_owned(), " was".to_owned()],
        layer: doc["layer"].as_u64().unwrap() as usize,
        pairs: 10_000,
        ..interchange::Recipe::default()
    };
    let question = InterchangeOf { model: smollm2(), recipe, direction: None };
    // The searches take minutes and have no reference: what stands before them is enough.
    let (progress, mut known) = (Progress::new(), None);
    let ended = question.run(&progress, &mut |found| {
        if found.means.is_some() {
            known = Some(found);
            progress.cancel();
        }
    });
    assert!(matches!(ended, Err(Error::Cancelled)));
    let found = known.unwrap();
    assert_eq!(found.pairs as u64, doc["pairs"].as_u64().unwrap());
    let shares = [found.untouched, found.whole, found.probe.unwrap(), found.means.unwrap()];
    // An answer whose two logits are equal but for rounding may turn.
    let turned = 1.01 / found.pairs as f32;
    for (name, ours) in ["untouched", "whole", "probe", "means"].into_iter().zip(shares) {
        let theirs = doc["shares"][name].as_f64().unwrap() as f32;
        assert!((ours - theirs).abs() <= turned, "{name}: {ours} against {theirs}");
    }
}
