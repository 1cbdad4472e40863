//! Transformers trained while one watches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::training::TrainingAction;
use circuitscope::app::view::Workspace;
use circuitscope::training::{Task, by_name};
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

/// A window in the training workspace whose trainings lie in `place`.
fn training(place: &std::path::Path, steps: usize) -> Harness<'static, App> {
    let mut h = window(document(PROMPT));
    h.state_mut().state.training.place = place.to_owned();
    h.get_by_label("Circuits from scratch").click();
    h.run();
    h.state_mut().state.apply(Action::Training(TrainingAction::Steps(Some(steps))), 0.0);
    h.run();
    h
}

fn probed(h: &Harness<'static, App>) -> Vec<usize> {
    h.state().state.training.probes().iter().map(|p| p.step).collect()
}

#[test]
fn a_transformer_is_trained_probed_and_opened_half_way() {
    let place = tempfile::tempdir().unwrap();
    let mut h = training(place.path(), 60);
    h.get_by_label("Train").click();
    h.run_steps(2);
    settle(&mut h);
    let s = &h.state().state.training;
    assert_eq!((s.task.name, s.error.as_deref()), ("alphabetical", None));
    assert_eq!(probed(&h), (0..=60).step_by(10).collect::<Vec<_>>());
    assert!(s.reports().last().unwrap().values[0].1 < s.reports()[0].values[0].1);
    // Back to the step that was kept, which opens as a model like any other.
    h.state_mut().state.apply(Action::Training(TrainingAction::Scrub(Some(5))), 0.0);
    h.run();
    assert_eq!(h.state().state.training.probe().unwrap().step, 50);
    h.get_by_label("Open the model of step 50").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().layout.workspace, Workspace::Model);
    let model = h.state().state.model.as_ref().unwrap();
    assert_eq!((model.config.n_layers, model.config.name.as_str()), (2, "step-000050"));
    assert_eq!(h.state().state.run().unwrap().prompt, "b d k p m s ?");
}

#[test]
fn escape_stops_a_training_which_goes_on_from_there() {
    let place = tempfile::tempdir().unwrap();
    let mut h = training(place.path(), 100);
    h.get_by_label("Train").click();
    h.run_steps(2);
    for _ in 0..4000 {
        h.state_mut().state.update(0.0);
        if probed(&h).len() > 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Once offers to stop, twice stops.
    for _ in 0..2 {
        h.key_press(egui::Key::Escape);
        h.run_steps(2);
    }
    assert!(!h.state().state.training.is_running());
    settle(&mut h);
    assert!(!h.state().state.pool.is_busy());
    let before = probed(&h);
    assert!(before.len() > 1 && *before.last().unwrap() < 100, "{before:?}");
    // Another window finds it as well, but not for another number of steps.
    let mut other = training(place.path(), 90);
    settle(&mut other);
    assert!(!other.state().state.training.can_go_on());
    other.state_mut().state.apply(Action::Training(TrainingAction::Steps(Some(100))), 0.0);
    settle(&mut other);
    assert!(other.state().state.training.can_go_on());
    h.get_by_label("Go on").click();
    h.run_steps(2);
    settle(&mut h);
    assert_eq!(probed(&h), (0..=100).step_by(10).collect::<Vec<_>>());
    assert!(h.state().state.training.reports().is_sorted_by(|a, b| a.step < b.step));
    assert!(!h.state().state.training.can_go_on());
}

/// The task `alphabetical`, whose training panics the first time.
static BREAKS_ONCE: Task = Task {
    name: "alphabetical",
    purpose: "",
    watch: "",
    source: "",
    steps: 10,
    time: "",
    train: |options, progress, report| {
        static BROKEN: AtomicBool = AtomicBool::new(false);
        assert!(BROKEN.swap(true, Ordering::Relaxed), "broken on purpose");
        (by_name("alphabetical").unwrap().train)(options, progress, report)
    },
};

#[test]
fn a_panic_is_an_error_and_the_same_training_can_be_started_again() {
    let place = tempfile::tempdir().unwrap();
    let mut h = training(place.path(), 10);
    h.state_mut().state.training.task = &BREAKS_ONCE;
    h.run();
    for breaks in [true, false] {
        h.get_by_label("Train").click();
        h.run_steps(2);
        settle(&mut h);
        let s = &h.state().state.training;
        assert!(!s.is_running() && s.error.as_ref().is_some_and(|e| e.contains("broken on purpose")) == breaks);
        assert_eq!(s.probe().map(|p| p.step), (!breaks).then_some(10));
    }
}
