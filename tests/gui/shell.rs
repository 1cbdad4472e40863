//! Opening, typing, keys, commands, cancelling.

use crate::common::fixture;
use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::action::{Action, Command};
use circuitscope::app::model::ModelAction;
use circuitscope::app::view::Workspace;
use circuitscope::model::builtin::BUILTINS;
use eframe::egui;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn first_launch_shows_a_finished_analysis() {
    let h = window(document(BUILTINS[0].prompt));
    let r = &h.state().state.results;
    assert!(r.run.get().is_some() && r.lens.get().is_some() && r.thumbnails.get().is_some());
    assert!(r.attribution.get().is_some() && r.norms.get().is_some() && r.neurons.get().is_none());
    assert!(r.projection.get().is_none() && r.graph.get().is_none(), "what nobody sees is not computed");
    assert!(r.text_scores.get().is_some() && r.random_scores.get().is_some() && r.pattern.get().is_some());
    // The head that adds most to the answer is shown: the induction head of layer 1.
    assert_eq!(h.state().state.pinned().layer, 1);
    h.get_by_label("logit lens: 2 × 29");
}

#[test]
fn typing_a_prompt_gives_results_for_the_newest_one() {
    let mut h = window(document(""));
    assert!(h.state().state.run().is_none());
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "Prompt").focus();
    h.run();
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "Prompt").type_text("The United");
    h.run();
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "Prompt").type_text(" States of");
    h.run();
    settle(&mut h);
    let run = h.state().state.run().unwrap().clone();
    assert_eq!(run.prompt, "The United States of");
    assert_eq!(run.texts.last().unwrap(), " of");
    assert_eq!(h.state().state.pinned().pos, run.trace.len() - 1);
}

#[test]
fn a_bad_file_leaves_the_old_model_open() {
    let mut h = window(document(PROMPT));
    let before = h.state().state.model.clone().unwrap();
    h.state_mut().state.apply(Action::Open("no/such/file.gguf".to_owned()), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    let notice = state.notices.latest().unwrap();
    assert!(notice.text.contains("no/such/file.gguf") && notice.text.contains("still open"), "{}", notice.text);
    assert!(Arc::ptr_eq(state.model.as_ref().unwrap(), &before));
    assert!(state.results.lens.get().is_some());
    assert!(h.query_by_label_contains("logit lens: 2").is_some());
}

#[test]
fn a_bad_file_during_a_run_loses_nothing() {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(ModelAction::Prompt(PROMPT.repeat(12)), 0.0);
    h.state_mut().state.update(f64::INFINITY);
    h.state_mut().state.apply(Action::Open("no/such/file.gguf".to_owned()), 0.0);
    settle(&mut h);
    let r = &h.state().state.results;
    assert_eq!(h.state().state.run().unwrap().prompt, PROMPT.repeat(12));
    assert!(r.lens.get().is_some_and(|l| l.fresh) && r.random_scores.get().is_some());
    assert!(h.state().state.opening.is_none());
}

#[test]
fn a_chosen_head_stays_when_the_position_moves() {
    let mut h = window(document(PROMPT));
    let mut p = h.state().state.pinned();
    p.focus = circuitscope::session::desk::Focus::Head;
    h.state_mut().state.apply(ModelAction::Pin(p), 0.0);
    h.state_mut().state.apply(ModelAction::Pin(circuitscope::session::desk::Pinned { pos: 1, ..p }), 0.0);
    settle(&mut h);
    let now = h.state().state.pinned();
    assert_eq!((now.layer, now.head), (p.layer, p.head));
}

#[test]
fn a_good_file_replaces_the_model() {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(Action::Open(fixture("families/gpt2").display().to_string()), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.model.as_ref().unwrap().config.family, "gpt2");
    // It has no tokenizer, which the views say.
    assert!(state.results.run.error().unwrap().contains("no tokenizer"));
    assert!(h.query_all_by(|n| n.value().is_some_and(|v| v.contains("no tokenizer"))).next().is_some());
}

#[test]
fn dropping_a_folder_opens_it() {
    #[derive(Debug)]
    struct Dropped(std::path::PathBuf);
    impl egui::DroppedFile for Dropped {
        fn path(&self) -> &Path {
            &self.0
        }
        fn bytes(&self) -> Result<Vec<u8>, String> {
            Err("a folder".to_owned())
        }
    }
    let mut h = window(document(PROMPT));
    h.input_mut().dropped_files.push(Arc::new(Dropped(fixture("families/llama"))));
    h.step();
    settle(&mut h);
    assert_eq!(h.state().state.model.as_ref().unwrap().config.family, "llama");
    // A dictionary's folder is told from a model's.
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-features");
    h.input_mut().dropped_files.push(Arc::new(Dropped(shipped.clone())));
    h.step();
    settle(&mut h);
    assert_eq!(h.state().state.features.dictionary().unwrap().path, shipped);
    assert_eq!(h.state().layout.workspace, Workspace::Features);
}

#[test]
fn cancelling_stops_the_jobs_and_keeps_the_window() {
    let mut h = window(document(PROMPT));
    let model = h.state().state.model.clone().unwrap();
    h.state_mut().state.apply(ModelAction::Prompt(PROMPT.repeat(20)), 0.0);
    h.state_mut().state.update(f64::INFINITY);
    let started = std::time::Instant::now();
    h.state_mut().state.cancel();
    while h.state().state.pool.is_busy() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(started.elapsed() < Duration::from_millis(500));
    settle(&mut h);
    assert!(Arc::ptr_eq(h.state().state.model.as_ref().unwrap(), &model));
    // And it goes on working.
    h.state_mut().state.apply(ModelAction::Prompt("The United".to_owned()), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.run().unwrap().prompt, "The United");
}

#[test]
fn an_over_long_prompt_is_refused_with_the_limit() {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(ModelAction::Prompt("word ".repeat(600)), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.run.error().unwrap().contains("512"));
    h.state_mut().state.apply(ModelAction::Prompt(PROMPT.to_owned()), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.run.error().is_none());
}

#[test]
fn clicking_a_token_pins_it_everywhere() {
    let mut h = window(document(PROMPT));
    h.get_by_label("token 2 ·of").click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.pinned().pos, 2);
    assert_eq!(state.results.attribution.get().unwrap().pos, 2);
}

#[test]
fn clicking_a_next_token_explains_it() {
    let mut h = window(document(PROMPT));
    h.get_all_by_role(egui::accesskit::Role::Button)
        .find(|n| n.accesskit_node().label().is_some_and(|l| l.starts_with("next ")))
        .unwrap()
        .click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert!(!state.desk().answer.is_empty());
    assert_eq!(state.run().unwrap().answer, Some(state.results.attribution.get().unwrap().answer));
}

#[test]
fn keys_move_the_selection() {
    let mut h = window(document(PROMPT));
    let last = h.state().state.pinned().pos;
    h.key_press(egui::Key::ArrowLeft);
    h.run();
    assert_eq!(h.state().state.pinned().pos, last - 1);
    h.key_press(egui::Key::ArrowDown);
    h.run();
    assert_eq!(h.state().state.pinned().layer, 0);
    let head = h.state().state.pinned().head.unwrap();
    h.key_press(egui::Key::CloseBracket);
    h.run();
    assert_eq!(h.state().state.pinned().head, Some((head + 1) % 4));
    settle(&mut h);
}

#[test]
fn the_palette_runs_commands_by_name() {
    let mut h = window(document(PROMPT));
    let before = h.ctx.theme();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::K);
    h.run();
    h.get_by_label("Type a command").type_text("dark and light");
    h.run();
    h.key_press(egui::Key::Enter);
    h.run();
    assert_ne!(h.ctx.theme(), before);
    assert!(h.query_by_label("Type a command").is_none());
}

#[test]
fn every_command_can_be_done_at_any_time() {
    for document in [document(PROMPT), document("")] {
        let mut h = window(document);
        // Dialogs and the end of the program belong to the system.
        let own =
            Command::ALL.into_iter().filter(|c| !matches!(c, Command::OpenFile | Command::OpenFolder | Command::Quit));
        for command in own {
            if let Some(s) = command.shortcut() {
                h.key_press_modifiers(s.modifiers, s.logical_key);
                h.run();
            }
            h.key_press(egui::Key::Escape);
            h.run();
        }
        settle(&mut h);
    }
}
