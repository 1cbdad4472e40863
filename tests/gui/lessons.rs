//! Lessons are walked through.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::features::Chosen;
use circuitscope::app::model::ModelAction;
use circuitscope::session::lesson::shipped;
use egui_kittest::kittest::Queryable as _;

#[test]
fn lessons_name_only_what_exists() {
    for lesson in shipped() {
        circuitscope::app::shell::lessons::check(lesson).unwrap_or_else(|e| panic!("{}: {e}", lesson.title));
    }
}

#[test]
fn a_lesson_is_walked_through_and_leaves_everything_as_it_was() {
    walk_through("Induction heads");
}

#[test]
fn the_lesson_of_features_opens_what_it_speaks_of_and_puts_it_away() {
    walk_through("Features of a language model");
}

fn walk_through(title: &str) {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(ModelAction::Answer(" United".to_owned()), 0.0);
    settle(&mut h);
    let before = h.state().state.document.clone();
    h.get_by_label("Lessons  ▾").click();
    h.run();
    h.get_by_label_contains(title).click();
    h.run();
    assert!(h.state().lessons.is_running());
    let lesson = shipped().iter().find(|l| l.title == title).unwrap();
    for (k, step) in lesson.steps.iter().enumerate() {
        // What a step asks for once the prompt has run is waited for as well.
        settle(&mut h);
        settle(&mut h);
        h.get_by_label(&step.title);
        let app = h.state();
        if let Some(prompt) = &step.state.prompt {
            assert_eq!(&app.state.desk().prompt, prompt);
        }
        if let Some((l, head)) = step.state.head.as_deref().and_then(circuitscope::session::lesson::head) {
            assert_eq!((app.state.pinned().layer, app.state.pinned().head), (l, Some(head)), "step {k}");
        }
        let features = &app.state.features;
        if let Some(name) = &step.state.dictionary {
            assert_eq!(features.dictionary().map(|d| &d.name), Some(name), "step {k}");
        }
        if let Some(f) = step.state.feature {
            assert_eq!(features.desk.chosen, Some(Chosen::Feature(f)), "step {k}");
        }
        if step.state.scan.is_some() {
            assert!(features.index().is_some_and(|i| i.about.is_complete()), "step {k}");
        }
        if step.state.zero_head.is_some() {
            assert!(app.state.desk().stack.is_active() && app.state.edited().is_some(), "step {k}");
        }
        if let Some(q) = &step.question {
            assert!(h.query_by_label_contains(&q.reveal[..20]).is_none());
            h.get_by_label_contains(&q.choices[0]).click();
            h.run();
            h.get_by_label_contains(&q.reveal[..20]);
        }
        let last = k + 1 == lesson.steps.len();
        h.get_by_label(if last { "Finish" } else { "Next" }).click();
        h.run();
    }
    settle(&mut h);
    assert!(!h.state().lessons.is_running());
    assert_eq!(h.state().state.document, before);
    assert!(h.state().state.features.desk.dictionary.is_empty() && h.state().state.features.dictionary().is_none());
}

#[test]
fn a_lesson_gives_the_lab_back_as_it_was_set() {
    let mut h = window(document(PROMPT));
    let superposition = &mut h.state_mut().state.superposition;
    superposition.recipe.features = 7;
    let before = (superposition.preset, superposition.recipe.clone());
    h.get_by_label("Lessons  ▾").click();
    h.run();
    h.get_by_label_contains("Superposition in ten minutes").click();
    h.run();
    for _ in 0..3 {
        h.get_by_label("Next").click();
        h.run_steps(4);
    }
    assert_ne!(h.state().state.superposition.recipe, before.1, "the lesson has settings of its own");
    h.get_by_label("end the lesson").click();
    h.run_steps(4);
    assert_eq!((h.state().state.superposition.preset, &h.state().state.superposition.recipe), (before.0, &before.1));
}
