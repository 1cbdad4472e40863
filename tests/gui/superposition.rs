//! Toy models of superposition.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::superposition::SuperpositionAction;
use circuitscope::app::view::Workspace;
use circuitscope::superposition::Recipe;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use std::time::Duration;

#[test]
fn the_lab_trains_at_the_press_of_a_button_and_goes_back_in_time() {
    let mut h = window(document(PROMPT));
    h.get_by_label("Superposition lab").click();
    h.run();
    assert_eq!(h.state().layout.workspace, Workspace::Superposition);
    // A short training, so that the test is.
    let recipe = Recipe { steps: 400, ..h.state().state.superposition.recipe.clone() };
    h.state_mut().state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))), 0.0);
    h.run();
    h.key_press(egui::Key::Space);
    h.run();
    settle(&mut h);
    let state = &h.state().state.superposition;
    assert_eq!(state.snapshot().unwrap().step, 400);
    assert_eq!(state.snapshots()[0].step, 0);
    assert!(!state.is_edited() && state.snapshots().len() >= 2);
    // Back in time by the arrow keys, and to the newest again.
    h.key_press(egui::Key::ArrowLeft);
    h.run();
    let state = &h.state().state.superposition;
    assert!(state.shown.is_some() && state.snapshot().unwrap().step < 400);
    h.get_by_label("now").click();
    h.run();
    assert_eq!(h.state().state.superposition.snapshot().unwrap().step, 400);
    // A model is selected by a click, and the window goes back to the transformer as it was left.
    h.get_all_by_label("instance density 0.51").next().unwrap().click();
    h.run();
    assert_eq!(h.state().state.superposition.instance, 2);
    h.get_by_label("Model").click();
    h.run();
    assert_eq!(h.state().layout.workspace, Workspace::Model);
    assert!(h.query_by_label_contains("logit lens: 2").is_some());
}

#[test]
fn the_lab_pauses_steps_and_says_what_cannot_be_trained() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Superposition);
    let recipe = Recipe { steps: 1_000_000, ..h.state().state.superposition.recipe.clone() };
    let state = &mut h.state_mut().state;
    state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))), 0.0);
    state.apply(Action::Superposition(SuperpositionAction::Start), 0.0);
    state.apply(Action::Superposition(SuperpositionAction::Pause(true)), 0.0);
    settle(&mut h);
    assert!(h.state().state.superposition.is_paused());
    let wait = |h: &mut Harness<'static, App>, until: usize| {
        for _ in 0..12_000 {
            h.state_mut().state.update(0.0);
            if h.state().state.superposition.snapshot().is_some_and(|m| m.step >= until) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("step {until} never came");
    };
    wait(&mut h, 0);
    h.run_steps(2);
    let before = h.state().state.superposition.snapshot().unwrap().step;
    h.get_by_label("+1").click();
    h.run_steps(2);
    wait(&mut h, before + 1);
    let mut bad = h.state().state.superposition.recipe.clone();
    bad.groups = Some((circuitscope::superposition::setup::Tie::Anticorrelated, 5));
    let state = &mut h.state_mut().state;
    state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(bad))), 0.0);
    state.apply(Action::Superposition(SuperpositionAction::Start), 0.0);
    let notice = h.state().state.notices.latest().unwrap();
    assert!(notice.text.contains("raise the sparsity"), "{}", notice.text);
}

#[test]
fn escape_stops_a_training_paused_or_not() {
    for paused in [false, true] {
        let mut h = window(document(PROMPT));
        h.state_mut().enter(Workspace::Superposition);
        let recipe = Recipe { steps: 1_000_000, ..h.state().state.superposition.recipe.clone() };
        let state = &mut h.state_mut().state;
        state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))), 0.0);
        state.apply(Action::Superposition(SuperpositionAction::Start), 0.0);
        state.apply(Action::Superposition(SuperpositionAction::Pause(paused)), 0.0);
        for _ in 0..12_000 {
            h.state_mut().state.update(0.0);
            if h.state().state.superposition.snapshot().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if paused {
            // It rests: nothing is shown as running, and nothing waits for it.
            settle(&mut h);
            assert!(h.state().state.pool.running().is_empty());
        }
        // Once offers to stop, twice stops.
        for _ in 0..2 {
            h.key_press(egui::Key::Escape);
            h.run_steps(2);
        }
        settle(&mut h);
        let state = &h.state().state;
        assert!(!state.superposition.is_running() && !state.superposition.is_paused() && !state.pool.is_busy());
        assert!(state.superposition.snapshot().is_some());
    }
}
