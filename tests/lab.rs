//! The built-in model shows its circuit, and a stopped training resumes to the same model.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

use std::sync::Arc;

use circuitscope::Error;
use circuitscope::model::Model;
use circuitscope::model::builtin::BUILTINS;
use circuitscope::progress::Progress;
use circuitscope::training::induction::circuit_scores;
use circuitscope::training::{TASKS, TrainOptions};

#[test]
fn the_textbook_circuit_stands() {
    let model = Arc::new(Model::open("induction").unwrap());
    let s = circuit_scores(&model).unwrap();
    println!("{s:?}");
    assert!(s.previous.1 >= 0.6 && s.induction.1 >= 0.6, "{s:?}");
    assert!(s.induction_ablated <= s.induction.1 / 2.0, "{s:?}");
}

#[test]
fn every_builtin_opens_and_is_small() {
    for b in BUILTINS {
        let model = Model::open(b.name).unwrap();
        assert_eq!(model.n_params, b.n_params);
        assert!(model.weight_bytes() <= 8_000_000);
        assert!(model.encode(b.prompt, false).unwrap().len() > 3);
    }
}

#[test]
fn shipped_lab_models_do_what_their_cards_say() {
    use circuitscope::training::{addition, alphabetical};
    let model = Model::open("alphabetical").unwrap();
    for letters in 2..=7 {
        let right = alphabetical::accuracy(&model, letters, 500).unwrap();
        assert!(right >= 0.99, "{letters} letters: {right}");
    }
    // A circuit small enough to read: every head of the first layer is needed.
    for head in 0..2 {
        let without = circuitscope::training::run::without_head(&model, 0, head).unwrap();
        assert!(alphabetical::accuracy(&without, 6, 300).unwrap() < 0.9);
    }
    let model = Model::open("addition").unwrap();
    let right = addition::held_out_accuracy(&model, 1).unwrap();
    assert!(right >= 0.99, "held-out pairs: {right}");
    let waves = addition::fourier(&model).unwrap();
    let keys = waves.key_frequencies();
    let share: f32 = keys.iter().map(|k| waves.logits[k - 1]).sum();
    println!("key frequencies {keys:?}: {share}");
    assert!((1..=6).contains(&keys.len()) && share > 0.6, "{keys:?}: {share}");
}

#[test]
fn a_stopped_training_resumes_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    let words = ["the", "king", "and", "queen", "saw", "a", "white", "whale", "under", "stars"];
    let line: String = (0..4000).map(|i| words[(i * i + i / 7) % words.len()].to_owned() + " ").collect();
    std::fs::write(&text, line).unwrap();
    let options = |name: &str| TrainOptions {
        output: folder.path().join(name),
        text: Some(text.clone()),
        steps: Some(4),
        seed: 5,
        probes: false,
        fresh: false,
    };
    let train = TASKS[0].train;
    train(&options("whole"), &Progress::new(), &mut |_| {}).unwrap();
    // Stopped after its first steps, twice.
    for _ in 0..2 {
        let progress = Progress::new();
        let stop = progress.clone();
        let watcher = std::thread::spawn(move || {
            while stop.counts().0 < 1 && !stop.is_cancelled() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            stop.cancel();
        });
        let result = train(&options("parts"), &progress, &mut |_| {});
        watcher.join().unwrap();
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    }
    train(&options("parts"), &Progress::new(), &mut |_| {}).unwrap();
    let weights = |name: &str| std::fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert!(weights("whole") == weights("parts"), "the resumed training differs");
    assert!(std::fs::read_to_string(folder.path().join("parts/CARD.md")).unwrap().contains("seed 5"));
    // Another recipe in the same folder is refused only while a checkpoint of the first lies there.
    train(&TrainOptions { seed: 6, ..options("parts") }, &Progress::new(), &mut |_| {}).unwrap();
}
