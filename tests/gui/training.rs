//! Transformers trained while one watches.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::action::Action;
use circuitscope::app::training::ScratchAction;
use circuitscope::app::view::Workspace;
use egui_kittest::kittest::Queryable as _;

#[test]
fn a_transformer_is_trained_looked_at_and_opened_half_way() {
    let mut h = window(document(PROMPT));
    let place = tempfile::tempdir().unwrap();
    h.state_mut().state.scratch.place = place.path().to_owned();
    h.get_by_label("Circuits from scratch").click();
    h.run();
    h.state_mut().state.apply(Action::Scratch(ScratchAction::Steps(Some(60))), 0.0);
    h.run();
    h.get_by_label("Train").click();
    h.run_steps(2);
    settle(&mut h);
    let s = &h.state().state.scratch;
    assert_eq!((s.lab, s.error.as_deref()), ("alphabetical", None));
    assert_eq!(s.sights.first().unwrap().step, 0);
    assert_eq!(s.sight().unwrap().step, 60);
    assert!(s.reports.last().unwrap().values[0].1 < s.reports[0].values[0].1);
    // Back to the step that was kept, which opens as a model like any other.
    let k = s.sights.iter().position(|x| x.step == 50).unwrap();
    h.state_mut().state.apply(Action::Scratch(ScratchAction::Scrub(Some(k))), 0.0);
    h.run();
    h.get_by_label("Open the model of step 50").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().layout.workspace, Workspace::Model);
    let model = h.state().state.model.as_ref().unwrap();
    assert_eq!((model.config.n_layers, model.config.name.as_str()), (2, "step-000050"));
    assert_eq!(h.state().state.run().unwrap().prompt, "b d k p m s ?");
}
