//! Toy models of superposition.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::superposition::LabAction;
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
    let recipe = Recipe { steps: 400, ..h.state().state.lab.recipe.clone() };
    h.state_mut().state.apply(Action::Lab(LabAction::Edit(Box::new(recipe))), 0.0);
    h.run();
    h.key_press(egui::Key::Space);
    h.run();
    settle(&mut h);
    let lab = &h.state().state.lab;
    assert_eq!(lab.moment().unwrap().step(), 400);
    assert_eq!(lab.moments[0].step(), 0);
    assert!(!lab.is_edited() && lab.moments.len() >= 2);
    // Back in time by the arrow keys, and to the newest again.
    h.key_press(egui::Key::ArrowLeft);
    h.run();
    let lab = &h.state().state.lab;
    assert!(lab.shown.is_some() && lab.moment().unwrap().step() < 400);
    h.get_by_label("now").click();
    h.run();
    assert_eq!(h.state().state.lab.moment().unwrap().step(), 400);
    // A model is selected by a click, and the window goes back to the transformer as it was left.
    h.get_all_by_label("instance density 0.51").next().unwrap().click();
    h.run();
    assert_eq!(h.state().state.lab.instance, 2);
    h.get_by_label("Model").click();
    h.run();
    assert_eq!(h.state().layout.workspace, Workspace::Model);
    assert!(h.query_by_label_contains("logit lens: 2").is_some());
}

#[test]
fn the_lab_pauses_steps_and_says_what_cannot_be_trained() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Superposition);
    let recipe = Recipe { steps: 1_000_000, ..h.state().state.lab.recipe.clone() };
    let state = &mut h.state_mut().state;
    state.apply(Action::Lab(LabAction::Edit(Box::new(recipe))), 0.0);
    state.apply(Action::Lab(LabAction::Start), 0.0);
    state.apply(Action::Lab(LabAction::Pause(true)), 0.0);
    settle(&mut h);
    assert!(h.state().state.lab.is_paused());
    let wait = |h: &mut Harness<'static, App>, until: usize| {
        for _ in 0..400 {
            h.state_mut().state.update(0.0);
            if h.state().state.lab.moment().is_some_and(|m| m.step() >= until) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("step {until} never came");
    };
    wait(&mut h, 0);
    h.run_steps(2);
    let before = h.state().state.lab.moment().unwrap().step();
    h.get_by_label("+1").click();
    h.run_steps(2);
    wait(&mut h, before + 1);
    let mut bad = h.state().state.lab.recipe.clone();
    bad.groups = Some((circuitscope::superposition::setup::Tie::Anticorrelated, 5));
    let state = &mut h.state_mut().state;
    state.apply(Action::Lab(LabAction::Edit(Box::new(bad))), 0.0);
    state.apply(Action::Lab(LabAction::Start), 0.0);
    let notice = h.state().state.notices.latest().unwrap();
    assert!(notice.text.contains("raise the sparsity"), "{}", notice.text);
}
