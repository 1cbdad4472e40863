//! Lessons are walked through.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::features::Chosen;
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::notices::Level;
use circuitscope::app::superposition::SuperpositionAction;
use circuitscope::app::training::TrainingAction;
use circuitscope::app::view::Workspace;
use circuitscope::session::file::Session;
use circuitscope::session::lesson::{ALL, Step, find_model, shipped};
use circuitscope::superposition::Recipe;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use std::time::Duration;

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
fn what_a_lesson_does_to_the_model_is_done_after_the_prediction() {
    walk_through("What an attention head does");
}

#[test]
fn the_lesson_of_features_opens_what_it_speaks_of_and_puts_it_away() {
    walk_through("Features of a language model");
}

/// What is said of the lenses there is what they show.
#[test]
fn the_lesson_of_three_lenses_says_what_is_seen() {
    walk_through("Three lenses");
    let lesson = shipped().iter().find(|l| l.title == "Three lenses").unwrap();
    let mut h = window(document(PROMPT));
    begin(&mut h, "Three lenses");
    for (k, step) in lesson.steps.iter().enumerate() {
        settle(&mut h);
        settle(&mut h);
        for (view, settings) in &step.state.settings {
            assert_eq!(h.state().state.desk().views.get(view), Some(settings), "{}", step.title);
        }
        if let Some(q) = &step.question {
            h.get_by_label_contains(&q.choices[q.right]).click();
            h.run();
            settle(&mut h);
        }
        match k {
            0 => {
                let lens = h.state().state.results.lens.value().unwrap().now.clone();
                let reads = |layer: usize| {
                    let top = &lens.cell(layer, 4).unwrap().top[0];
                    (h.state().state.model.as_ref().unwrap().token_text(top.id), (100.0 * top.prob).round())
                };
                let seen = [(" were".to_owned(), 16.0), ("'".to_owned(), 14.0), (" were".to_owned(), 14.0)];
                assert_eq!([0, 1, 2].map(reads), seen);
            }
            1 => assert!(h.query_all_by_label_contains("Jacobian lens: 3 × 5").count() > 0),
            4 => assert!(h.query_by_label_contains("It is used").is_some()),
            _ => {}
        }
        if k + 1 < lesson.steps.len() {
            h.get_by_label("Next").click();
            h.run();
        }
    }
}

#[test]
fn the_lesson_of_feature_graphs_traces_to_the_set_that_ships() {
    walk_through("From a prediction to its features");
}

/// Begins the lesson of this title from the menu.
fn begin(h: &mut Harness<'static, App>, title: &str) {
    h.get_by_label("Lessons  ▾").click();
    h.run_steps(4);
    h.get_by_label_contains(title).click();
    h.run_steps(4);
}

/// How many predictions the strip shows.
fn predictions(h: &Harness<'static, App>) -> usize {
    h.query_all_by(|n| n.label().is_some_and(|l| l.starts_with("next ") && l.ends_with(" %"))).count()
}

/// What is on screen before a question of a step is answered does not answer it.
fn gives_nothing_away(h: &Harness<'static, App>, step: &Step) {
    let Some(q) = &step.question else { return };
    let shows = |name: &str| q.shows.iter().any(|v| v == name || v == ALL);
    let covers = h.query_all_by_label("Covered until you have chosen an answer.").count();
    assert_eq!(covers == 0, shows(ALL), "{}", step.title);
    let app = h.state();
    for view in app.layout.seen() {
        let later = step.state.covers.iter().any(|v| v == view);
        assert_eq!(app.state.cover.hides(view).is_none(), shows(view) && !later, "{}: {view}", step.title);
    }
    let strip = matches!(app.layout.workspace, Workspace::Model | Workspace::Features) && shows("strip");
    assert_eq!(predictions(h) > 0, strip, "{}", step.title);
    assert!(!app.state.desk().stack.is_active() && app.state.edited().is_none(), "{}", step.title);
}

/// Nothing red is on screen.
fn all_is_well(h: &Harness<'static, App>, at: &str) {
    let state = &h.state().state;
    assert!(state.notices.latest().is_none_or(|n| n.level != Level::Error), "{at}: {:?}", state.notices.latest());
    let r = &state.results;
    let errors = [r.run.error(), r.edited.error(), r.graph.error(), r.lens.error(), r.attribution.error()];
    assert!(errors.iter().all(Option::is_none), "{at}: {errors:?}");
}

fn walk_through(title: &str) {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(ModelAction::Answer(" United".to_owned()), 0.0);
    settle(&mut h);
    let before = h.state().state.document.clone();
    begin(&mut h, title);
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
        let inspected = step.highlight.as_deref() == Some("inspector");
        assert_eq!(h.query_by_label("token id").is_some(), inspected, "step {k}");
        all_is_well(&h, &step.title);
        if let Some(q) = &step.question {
            gives_nothing_away(&h, step);
            let reveal: String = q.reveal.chars().take(20).collect();
            assert!(h.query_by_label_contains(&reveal).is_none());
            h.get_by_label_contains(&q.choices[0]).click();
            h.run();
            settle(&mut h);
            h.get_by_label_contains(&reveal);
            assert_eq!(h.query_all_by_label("Covered until you have chosen an answer.").count(), 0);
            assert!(predictions(&h) > 0, "step {k}");
        }
        if step.state.zero_head.is_some() {
            let state = &h.state().state;
            assert!(state.desk().stack.is_active() && state.edited().is_some(), "step {k}");
            all_is_well(&h, &step.title);
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
fn a_lesson_has_settings_of_its_own_and_puts_everything_back() {
    let mut h = window(document(PROMPT));
    let set = |h: &mut Harness<'static, App>, action: Action| h.state_mut().state.apply(action, 0.0);
    // A desk, a lab and a training as the user left them.
    set(&mut h, ModelAction::Thresholds(Some((0.37, 0.65))).into());
    let recipe = Recipe { steps: 300, ..h.state().state.superposition.recipe.clone() };
    set(&mut h, Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))));
    set(&mut h, Action::Superposition(SuperpositionAction::Start));
    set(&mut h, Action::Training(TrainingAction::Seed(5)));
    settle(&mut h);
    let own = |app: &App| {
        let (s, t) = (&app.state.superposition, &app.state.training);
        let step = s.snapshot().map(|m| m.step);
        (app.state.document.clone(), s.preset, s.recipe.clone(), step, s.instance, t.task.name, t.seed)
    };
    let before = own(h.state());
    let seen: Vec<_> = h.state().layout.seen().collect();
    assert_eq!(before.3, Some(300));
    let folder = tempfile::tempdir().unwrap();
    assert!(h.state_mut().keep_in(folder.path()).unwrap().is_none());
    // Long enough to be still at it when the next lesson begins.
    begin(&mut h, "Superposition in ten minutes");
    let lesson = shipped().iter().find(|l| l.title == "Superposition in ten minutes").unwrap();
    for step in &lesson.steps[..lesson.steps.len() - 2] {
        h.get_by_label(&step.title);
        assert!(h.query_all_by_label_contains("Covered").next().is_some() == step.question.is_some(), "{}", step.title);
        h.get_by_label("Next").click();
        h.run_steps(4);
    }
    let superposition = &h.state().state.superposition;
    assert_eq!(superposition.preset, "phase-diagram");
    assert!(superposition.is_running() && h.state().state.training.seed == 1);
    // What is kept meanwhile is the user's own.
    h.state_mut().keep_now();
    assert_eq!(Session::open(&folder.path().join("window-0.scope")).unwrap().document, before.0);
    // The next lesson has neither the first one's trainings nor the user's settings.
    begin(&mut h, "What an attention head does");
    let state = &h.state().state;
    assert!(!state.superposition.is_running() && state.superposition.trained.is_none());
    assert_ne!(state.desk().graph, before.0.desk.graph);
    settle(&mut h);
    all_is_well(&h, "the second lesson");
    h.get_by_label("end the lesson").click();
    h.run_steps(4);
    settle(&mut h);
    assert_eq!(own(h.state()), before);
    assert_eq!(h.state().layout.seen().collect::<Vec<_>>(), seen);
    assert!(!h.state().state.superposition.is_running());
    all_is_well(&h, "after the lessons");
    // The last change can be taken back as if there had been no lesson.
    h.state_mut().state.apply(Action::Undo, 0.0);
    assert_eq!(h.state().state.training.seed, 1);
}

#[test]
fn a_training_rests_while_a_lesson_is_taken_and_goes_on_after_it() {
    let mut h = window(document(PROMPT));
    let recipe = Recipe { steps: 100_000_000, ..h.state().state.superposition.recipe.clone() };
    for action in [SuperpositionAction::Edit(Box::new(recipe)), SuperpositionAction::Start] {
        h.state_mut().state.apply(Action::Superposition(action), 0.0);
    }
    assert!(h.state().state.superposition.is_running());
    begin(&mut h, "What an attention head does");
    assert!(!h.state().state.superposition.is_running());
    h.get_by_label("end the lesson").click();
    h.run_steps(4);
    assert!(h.state().state.superposition.is_running());
}

#[test]
fn a_lesson_has_the_inspector_s_place() {
    let mut h = window(document(PROMPT));
    let right = |h: &Harness<'static, App>| {
        let panes = ["lens", "attention"].into_iter();
        panes.filter_map(|v| h.state().layout.pane(v)?.1).map(|r| r.max.x).fold(0.0, f32::max)
    };
    let (before, model) = (right(&h), h.state().state.model.clone());
    begin(&mut h, "Induction heads");
    settle(&mut h);
    // The model that is open serves the lesson too.
    assert!(model.is_some() && h.state().state.model == model);
    // One panel at the right, not two.
    assert!((right(&h) - before).abs() < 80.0, "{before} then {}", right(&h));
    h.get_by_label("end the lesson").click();
    h.run_steps(4);
    settle(&mut h);
    assert_eq!(right(&h), before);
}

#[test]
fn a_lesson_whose_model_is_missing_says_what_to_do() {
    let mut h = window(document(PROMPT));
    let lesson = shipped().iter().find(|l| l.needs.is_some()).unwrap();
    let needs = lesson.needs.as_ref().unwrap();
    h.state_mut().lessons.found = Some(Default::default());
    h.get_by_label("Lessons  ▾").click();
    h.run();
    h.get_by_label_contains(&format!("It needs the model {}", needs.name));
    h.get_by_label_contains("or fetch it");
    h.get_by_label("Fetch it (93 MB)");
    h.get_by_label("Open a model file…");
    h.get_by_label_contains(&lesson.title).click();
    h.run();
    assert!(!h.state().lessons.is_running());
}

/// With the model that `scripts/fetch-models` brings, where it is there.
#[test]
fn a_lesson_is_taken_with_its_model_under_any_name() {
    let lesson = shipped().iter().find(|l| l.needs.is_some()).unwrap();
    let needs = lesson.needs.as_ref().unwrap();
    let Some(fetched) = find_model(needs, &[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine.gguf");
    std::fs::hard_link(&fetched, &mine).or_else(|_| std::fs::copy(&fetched, &mine).map(drop)).unwrap();
    let mut h = window(document(PROMPT));
    h.state_mut().lessons.found = Some(Default::default());
    let spec = mine.display().to_string();
    h.state_mut().state.apply(Action::Open(spec.clone()), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.desk().model, spec);
    let model = h.state().state.model.clone();
    let before = h.state().state.document.clone();
    begin(&mut h, &lesson.title);
    assert!(h.state().lessons.is_running());
    settle(&mut h);
    gives_nothing_away(&h, &lesson.steps[0]);
    // The open model serves as it is, and is not read again.
    assert!(h.state().state.model == model && h.state().state.desk().model == spec);
    assert_eq!(Some(&h.state().state.desk().prompt), lesson.steps[0].state.prompt.as_ref());
    all_is_well(&h, "the first step");
    h.get_by_label("end the lesson").click();
    h.run_steps(4);
    let ctx = h.ctx.clone();
    h.state_mut().settle(&ctx, Duration::from_secs(120)).unwrap();
    assert_eq!(h.state().state.document, before);
}
