//! What the user decided: each model's own desk, and changes that are taken back.

use crate::window::{PROMPT, dictionary, document, feature, look, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command};
use circuitscope::app::features::{Chosen, FeatureAction};
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::app::view::Workspace;
use circuitscope::circuit::Member;
use circuitscope::engine::edit::{Action as Do, Edit};
use circuitscope::engine::{RunSide, Site, SiteKind};
use circuitscope::session::Document;
use egui_kittest::Harness;
use std::sync::Arc;

fn zero(layer: usize, head: usize) -> Vec<Edit> {
    vec![Edit::new(Site::new(SiteKind::Z, layer), Do::Zero).head(head)]
}

fn apply(h: &mut Harness<'static, App>, action: impl Into<Action>) {
    // The window's clock stands still in tests: nothing is joined to the change before.
    let now = h.state().state.round() as f64 * 10.0;
    h.state_mut().state.apply(action, now);
    settle(h);
}

/// The document as it would be saved.
fn saved(h: &Harness<'static, App>) -> String {
    serde_json::to_string(&h.state().state.document.desk).unwrap()
}

#[test]
fn nothing_of_one_model_is_applied_to_another() {
    let mut h = window(document(PROMPT));
    let dir = dictionary();
    apply(&mut h, ModelAction::Answer(" United".to_owned()));
    apply(&mut h, ModelAction::Corrupted("The King of the United States and the King of the".to_owned()));
    apply(&mut h, ModelAction::Toggle(RunSide::Clean, zero(1, 2)));
    apply(&mut h, ModelAction::Collect(Member::parse("1.2").unwrap()));
    apply(&mut h, ModelAction::Thresholds(Some((0.5, 0.9))));
    feature(&mut h, FeatureAction::Open(dir.path().join("test").to_str().unwrap().to_owned()));
    feature(&mut h, FeatureAction::Keep(3));
    feature(&mut h, FeatureAction::Choose(Chosen::Feature(3)));
    let of_first = saved(&h);
    let (first, model) = (h.state().state.desk().clone(), h.state().state.model.clone().unwrap());

    apply(&mut h, Action::Open("alphabetical".to_owned()));
    let s = &h.state().state;
    assert_eq!(s.model.as_ref().unwrap().spec, "alphabetical");
    let d = s.desk();
    assert_eq!((d.model.as_str(), d.answer.as_str(), d.corrupted.as_str()), ("alphabetical", "", ""));
    assert!(d.stack.edits.is_empty() && d.draft.is_empty() && d.graph.cut.thresholds == first_thresholds());
    assert!(d.features.dictionary.is_empty() && d.features.kept.is_empty() && d.features.chosen.is_none());
    assert!(s.features.dictionary().is_none() && s.features.page.get().is_none());
    let r = &s.results;
    assert!(Arc::ptr_eq(&r.run.value().unwrap().trace.model, s.model.as_ref().unwrap()));
    assert!(r.corrupted.get().is_none() && r.edited.get().is_none() && r.tried.get().is_none());

    // Back: all is as it was left, and what was computed is computed again of this model.
    apply(&mut h, Action::Open("induction".to_owned()));
    let s = &h.state().state;
    assert_eq!(saved(&h), of_first);
    assert!(s.model.as_ref().unwrap().fingerprint().unwrap() == model.fingerprint().unwrap());
    assert!(s.results.edited.get().is_some() && s.features.dictionary().is_some());
    assert_eq!((s.features.desk.chosen, s.features.desk.kept.len()), (Some(Chosen::Feature(3)), 1));
    assert_eq!(*s.desk(), first);
}

fn first_thresholds() -> Option<(f64, f64)> {
    circuitscope::session::Desk::default().graph.cut.thresholds
}

#[test]
fn every_change_is_taken_back_by_its_name_and_done_again() {
    let mut h = window(document(PROMPT));
    let mut states = vec![saved(&h)];
    let steps: [(Action, &str); 6] = [
        (ModelAction::Prompt("The United States".to_owned()).into(), "prompt"),
        (ModelAction::Toggle(RunSide::Clean, zero(1, 3)).into(), "add zero"),
        (ModelAction::Collect(Member::parse("1.3").unwrap()).into(), "collect a1.h3"),
        (ModelAction::Thresholds(Some((0.5, 0.9))).into(), "prune the graph"),
        (ModelAction::Answer(" of".to_owned()).into(), "answer"),
        (Action::Open("addition".to_owned()), "open"),
    ];
    for (action, name) in steps {
        apply(&mut h, action);
        let named = h.state().state.history.undoable().unwrap();
        assert!(named.contains(name), "`{named}` does not say `{name}`");
        states.push(saved(&h));
    }
    let ctx = h.ctx.clone();
    let last = states.len() - 1;
    for expected in states[..last].iter().rev() {
        h.state_mut().command(&ctx, Command::Undo);
        settle(&mut h);
        assert_eq!(without_pins(&saved(&h)), without_pins(expected));
        let s = &h.state().state;
        // What is shown follows: the model, the run, and the edited run where there is an edit.
        assert_eq!(s.model.as_ref().unwrap().spec, s.desk().model);
        assert_eq!(s.run().unwrap().trace.model.spec, s.desk().model);
        assert_eq!(s.results.edited.fresh().is_some(), s.desk().stack.is_active());
    }
    assert!(h.state().state.history.undoable().is_none());
    for expected in &states[1..] {
        h.state_mut().command(&ctx, Command::Redo);
        settle(&mut h);
        assert_eq!(without_pins(&saved(&h)), without_pins(expected));
    }
}

/// Where one looks is not taken back.
fn without_pins(desk: &str) -> serde_json::Value {
    let mut v: serde_json::Value = serde_json::from_str(desk).unwrap();
    let pins = ["pinned", "chose_head", "found_head", "chose_pos"];
    v.as_object_mut().unwrap().retain(|k, _| !pins.contains(&k.as_str()));
    v
}

#[test]
fn the_layout_and_the_theme_are_in_the_document() {
    let mut h = window(document(PROMPT));
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::ToggleTheme);
    h.state_mut().enter(Workspace::Features);
    look(&mut h, "monitor");
    let text = serde_json::to_string(&h.state().state.document).unwrap();
    let again: Document = serde_json::from_str(&text).unwrap();
    assert_eq!(again, h.state().state.document);
    assert!(again.look.light && again.look.workspace == Workspace::Features.name());
}

/// With one view alone its own questions are asked, those of the inspector and of the list of heads, and no others.
#[test]
fn only_what_is_seen_is_asked() {
    let mut h = window(document(PROMPT));
    let asked = |h: &mut Harness<'static, App>, view: &'static str| {
        h.state_mut().layout = Layout::single(view);
        // Nothing of the prompt before is kept.
        let n = h.state().state.round();
        apply(h, ModelAction::Prompt(format!("The United States of {n}")));
        let r = &h.state().state.results;
        [
            r.pattern.get().is_some(),
            r.lens.get().is_some(),
            r.norms.get().is_some(),
            r.projection.get().is_some(),
            r.graph.get().is_some(),
            r.sweep.get().is_some() || r.approximation.get().is_some(),
            r.geometry.get().is_some(),
        ]
    };
    // The inspector shows the pinned head's pattern and the norms.
    let only = |i: usize| std::array::from_fn(|k| k == i || k == 0 || k == 2);
    let views = ["attention", "lens", "norms", "projection", "graph"];
    for (i, view) in views.into_iter().enumerate() {
        assert_eq!(asked(&mut h, view), only(i), "{view}");
    }
    assert_eq!(asked(&mut h, "generation"), only(0));
    // What was not computed while it was hidden is, as soon as it is seen.
    h.state_mut().layout = Layout::single("lens");
    settle(&mut h);
    assert!(h.state().state.results.lens.fresh().is_some_and(|l| l.whole));
}
