//! Sessions: kept by themselves, saved, opened again.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command};
use circuitscope::app::model::ModelAction;
use circuitscope::circuit::Member;
use circuitscope::engine::edit::{Action as Do, Edit};
use circuitscope::engine::{RunSide, Site, SiteKind};
use circuitscope::session::Document;
use circuitscope::session::file::Session;
use circuitscope::session::kept;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use std::path::Path;
use std::time::Duration;

/// Something of everything that a user decides.
fn work(h: &mut Harness<'static, App>) {
    let zero = Edit::new(Site::new(SiteKind::Z, 1), Do::Zero).head(2);
    for action in [
        ModelAction::Answer(" United".to_owned()),
        ModelAction::Toggle(RunSide::Clean, vec![zero]),
        ModelAction::Collect(Member::parse("1.2").unwrap()),
        ModelAction::Thresholds(0.5, 0.9),
    ] {
        h.state_mut().state.apply(action, 0.0);
    }
    settle(h);
}

/// Draws frames until something holds.
fn until(h: &mut Harness<'static, App>, holds: impl Fn(&App) -> bool) {
    for _ in 0..500 {
        h.step();
        if holds(h.state()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come to pass");
}

fn holds(path: &Path, document: &Document) -> bool {
    Session::open(path).is_ok_and(|s| s.document == *document)
}

#[test]
fn a_session_is_kept_by_itself_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(document(PROMPT));
    assert!(h.state_mut().keep_in(folder.path()).unwrap().is_none());
    work(&mut h);
    let kept = folder.path().join("window-0.scope");
    until(&mut h, |app| holds(&kept, &app.state.document));
    // Nothing that is only looked at is lost either, and what rests is not written again.
    let pinned = h.state().state.pinned();
    let pinned = circuitscope::session::desk::Pinned { pos: 1, ..pinned };
    h.state_mut().state.apply(ModelAction::Pin(pinned), 0.0);
    until(&mut h, |app| holds(&kept, &app.state.document));
    let written = std::fs::metadata(&kept).unwrap().modified().unwrap();
    (0..20).for_each(|_| h.step());
    assert_eq!(std::fs::metadata(&kept).unwrap().modified().unwrap(), written);
    let before = h.state().state.document.clone();
    // The program dies, without a word.
    drop(h);
    let session = Session::open(&kept).unwrap();
    let mut again = window(session.document.desk);
    assert_eq!(again.state_mut().keep_in(folder.path()).unwrap().unwrap().document, before);
    let state = &again.state().state;
    assert_eq!(*state.desk(), before.desk);
    assert!(state.results.edited.fresh().is_some());
}

#[test]
fn a_session_is_saved_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.scope");
    let mut h = window(document(PROMPT));
    h.state_mut().keep_in(folder.path()).unwrap();
    work(&mut h);
    let ctx = h.ctx.clone();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::S);
    h.run();
    h.get_by_label("Path to save to").focus();
    h.run();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.run();
    h.get_by_label("Path to save to").type_text(&path.display().to_string());
    h.run();
    h.get_by_label("Save").click();
    until(&mut h, |app| app.keeping.file.is_some());
    assert_eq!(h.state().title(), "mine – circuitscope");
    let first = h.state().state.document.clone();
    assert_eq!(Session::open(&path).unwrap().document, first);
    // Its file is behind until it is saved again, without a question.
    h.state_mut().state.apply(ModelAction::Answer(" States".to_owned()), 0.0);
    assert_eq!(h.state().title(), "mine • – circuitscope");
    h.state_mut().command(&ctx, Command::SaveSession);
    until(&mut h, |app| app.title() == "mine – circuitscope");
    let saved = h.state().state.document.clone();
    assert_ne!(saved.desk.answer, first.desk.answer);
    // A new session; the one before is put aside, and the saved one opens again with its model.
    h.state_mut().command(&ctx, Command::NewSession);
    settle(&mut h);
    assert!(h.state().state.desk().stack.edits.is_empty() && h.state().keeping.file.is_none());
    assert!(holds(&kept::aside(folder.path())[0], &saved));
    h.state_mut().state.apply(Action::Open("addition".to_owned()), 0.0);
    settle(&mut h);
    h.state_mut().act(&ctx, Action::OpenSession(path.clone()));
    until(&mut h, |app| app.keeping.file.as_deref() == Some(&path));
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.document, saved);
    assert_eq!(state.model.as_ref().unwrap().spec, "induction");
    assert!(state.results.edited.fresh().is_some());
    assert_eq!(kept::aside(folder.path()).len(), 2);
    // What is no session changes nothing, and says so.
    let bad = folder.path().join("bad.scope");
    circuitscope::files::write_atomic(&bad, b"{}").unwrap();
    h.state_mut().act(&ctx, Action::OpenSession(bad));
    until(&mut h, |app| app.state.notices.latest().is_some_and(|n| n.text.contains("not a usable session")));
    assert_eq!(h.state().state.document, saved);
}
