//! Circuits are collected, searched, tried and compared.

use crate::common::json;
use crate::model::CLEAN;
use crate::window::{document, settle, window};
use circuitscope::analysis::component::Component;
use circuitscope::app::App;
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::circuit::draft::Draft;
use circuitscope::circuit::eap::Path;
use circuitscope::circuit::search::Search;
use circuitscope::session::Desk;
use circuitscope::session::desk::CircuitSettings;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use serde_json::Value;
use std::collections::BTreeSet;

const CORRUPT: &str = "The President of the first States and the President of the";

/// A pair of equal length on which the model's answer changes.
pub fn copying_pair() -> Harness<'static, App> {
    let mut h = window(Desk { answer: " United".to_owned(), wrong: " first".to_owned(), ..document(CLEAN) });
    h.state_mut().state.apply(ModelAction::Corrupted(CORRUPT.to_owned()), 0.0);
    settle(&mut h);
    h
}

#[test]
fn a_circuit_is_collected_and_tried() {
    let mut h = copying_pair();
    // C takes the pinned head into the circuit, and out again.
    let state = &mut h.state_mut().state;
    let pinned = state.pinned();
    state.apply(ModelAction::Pin(circuitscope::session::desk::Pinned { layer: 1, head: Some(3), ..pinned }), 0.0);
    h.run();
    h.key_press(egui::Key::C);
    h.run();
    settle(&mut h);
    let head = Component::Head { layer: 1, head: 3 };
    assert!(h.state().state.desk().draft.contains(head));
    assert_eq!(h.state().state.results.tried.error(), None);
    let one = h.state().state.results.tried.get().unwrap().value.quality.faithfulness;
    for other in [0, 1, 2] {
        h.state_mut().state.apply(ModelAction::Collect(Component::Head { layer: 1, head: other }.into()), 0.0);
    }
    h.state_mut().state.apply(ModelAction::Collect(Component::Head { layer: 0, head: 2 }.into()), 0.0);
    settle(&mut h);
    let more = h.state().state.results.tried.get().unwrap().value.clone();
    assert!(more.done && more.quality.faithfulness > one, "{} {one}", more.quality.faithfulness);
    assert!(h.query_by_label_contains("circuit: 5 components").is_some(), "the status line tells");
    h.key_press(egui::Key::C);
    h.run();
    settle(&mut h);
    assert!(!h.state().state.desk().draft.contains(head));
    // What is saved opens again.
    let (name, bytes) = h.state().state.circuit_file().unwrap();
    let folder = tempfile::tempdir().unwrap();
    circuitscope::files::write_atomic(&folder.path().join(&name), &bytes).unwrap();
    let file = circuitscope::circuit::file::CircuitFile::open(&folder.path().join(&name)).unwrap();
    let edges = h.state().state.desk().draft.circuit(h.state().state.wiring().unwrap()).unwrap();
    assert_eq!(file.edges(edges.wiring).unwrap(), edges);
}

#[test]
fn a_search_fills_the_draft() {
    let mut h = copying_pair();
    let search = Search::Scores { path: Path::Integrated(3), edges: 30, rescore: true };
    h.state_mut().state.apply(ModelAction::Search(search), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert!(!state.desk().draft.edges.is_empty() && state.desk().draft.edges.len() <= 30);
    assert!(state.notices.latest().unwrap().text.contains("Found a circuit"));
    let q = state.results.tried.get().unwrap().quality.clone();
    assert!((q.faithfulness - 1.0).abs() < 0.5, "{}", q.faithfulness);
    // A set that this model cannot read is said, and nothing else is lost.
    let settings = CircuitSettings { set: Some("no-such-set".to_owned()), ..Default::default() };
    h.state_mut().state.apply(ModelAction::CircuitSettings(settings), 0.0);
    settle(&mut h);
    let tried = h.state().state.results.tried.get().unwrap().value.clone();
    assert!(tried.set_error.as_ref().unwrap().contains("no-such-set") && tried.quality.faithfulness == q.faithfulness);
}

/// What is asked for while a letter waits is asked of the text with that letter.
#[test]
fn a_search_waits_for_the_text_that_is_typed() {
    let mut h = copying_pair();
    let text = CLEAN.replace(" and ", " of ");
    h.state_mut().state.apply(ModelAction::Prompt(text), 0.0);
    let before = h.state().state.pair().unwrap().clean.ids.clone();
    let search = Search::Scores { path: Path::Integrated(3), edges: 30, rescore: false };
    h.state_mut().state.apply(ModelAction::Search(search), 0.0);
    assert!(h.state().state.search.is_none());
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.results.search.error(), None);
    assert!(!state.desk().draft.edges.is_empty());
    assert!(state.pair().unwrap().clean.ids != before);
}

/// The same request gives the same circuit and the same numbers in the window and on the command line.
#[test]
fn window_and_command_line_search_and_try_alike() {
    let mut h = copying_pair();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuit.json");
    let path = path.to_str().unwrap();
    let pair = ["--clean", CLEAN, "--corrupt", CORRUPT, "--answer", " United", "--wrong", " first", "-o", path];
    let eap_ig = Search::Scores { path: Path::Integrated(3), edges: 30, rescore: true };
    for (search, args) in [
        (eap_ig, &["--method", "eap-ig", "--steps", "3", "--edges", "30", "--rescore"][..]),
        (Search::Scores { path: Path::Clean, edges: 40, rescore: false }, &["--method", "eap", "--edges", "40"]),
        (Search::Acdc { threshold: 0.001 }, &["--method", "acdc", "--threshold", "0.001"]),
    ] {
        let found = json(&[&["circuit", "find"], args, &pair[..]].concat());
        h.state_mut().state.apply(ModelAction::Search(search), 0.0);
        settle(&mut h);
        let state = &h.state().state;
        let names = |edges: &mut dyn Iterator<Item = String>| edges.collect::<BTreeSet<String>>();
        let theirs = found["edges"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned());
        assert_eq!(names(&mut state.desk().draft.edges.iter().cloned()), names(&mut { theirs }), "{args:?}");
        // ACDC searches by the KL divergence and is judged by it, here as there.
        let metric = if matches!(search, Search::Acdc { .. }) { "KL to the clean run" } else { "logit difference" };
        let said = format!("faithfulness {:.3} of the {metric}", found["faithfulness"].as_f64().unwrap());
        assert!(
            state.notices.latest().unwrap().text.contains(&said),
            "{said}: {}",
            state.notices.latest().unwrap().text
        );
        let settings = CircuitSettings { curve: true, ..state.desk().circuit.clone() };
        h.state_mut().state.apply(ModelAction::CircuitSettings(settings), 0.0);
        settle(&mut h);
        let tried = h.state().state.results.tried.get().unwrap().value.clone();
        let theirs = json(&["circuit", "eval", path]);
        let near = |mine: f64, theirs: &Value| (mine - theirs.as_f64().unwrap()).abs() < 1e-5;
        assert!(near(f64::from(tried.quality.faithfulness), &theirs["faithfulness"]));
        assert!(near(f64::from(tried.quality.completeness), &theirs["completeness"]));
        assert!(near(tried.curve.as_ref().unwrap().cpr, &theirs["curve"]["cpr"]));
        assert_eq!(theirs["metric"], tried.question.metric.name());
    }
}

#[test]
fn two_circuits_are_compared() {
    let mut h = copying_pair();
    h.state_mut().layout = Layout::single("circuit");
    let draft = |nodes: &[&str]| Draft { nodes: nodes.iter().map(|n| (*n).to_owned()).collect(), ..Default::default() };
    h.state_mut().state.apply(ModelAction::Circuit("test", draft(&["a1.h3"])), 0.0);
    let other = Some(("the other".to_owned(), draft(&["a1.h3", "a1.h1"])));
    h.state_mut().state.apply(ModelAction::Compare(other), 0.0);
    settle(&mut h);
    h.run();
    let tried = h.state().state.results.tried.get().unwrap().value.clone();
    let c = tried.compared.clone().unwrap().unwrap();
    // Five edges of one head, all of them among the other's ten.
    assert_eq!((c.overlap.shared_edges, c.overlap.shared_nodes, c.other_edges), (5, 2, 9));
    assert!((c.shared_faithfulness - tried.quality.faithfulness).abs() < 1e-4);
    assert!(h.query_by_label_contains("compared with the other").is_some());
    // A circuit of another model is one sentence, and nothing else is lost.
    h.state_mut().state.apply(ModelAction::Compare(Some(("far".to_owned(), draft(&["a9.h9"])))), 0.0);
    settle(&mut h);
    let tried = h.state().state.results.tried.get().unwrap().value.clone();
    assert!(tried.compared.clone().unwrap().unwrap_err().contains("a9.h9"));
}
