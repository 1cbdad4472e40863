//! Small windows and large text: every view survives them, and helper windows stay inside.

use crate::window::{PROMPT, causes, document, features, settle, training, window};
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command, Load};
use circuitscope::app::view::{self, Workspace};
use circuitscope::guide::{self, Place};
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

/// No helper window, menu or dialog lies outside.
fn all_is_inside(h: &Harness<'static, App>, at: &str) {
    let screen = h.ctx.content_rect();
    let layers: Vec<_> = h.ctx.memory(|m| m.areas().visible_layer_ids().into_iter().collect());
    for layer in layers {
        if layer.order == egui::Order::Background {
            continue;
        }
        let Some(rect) = h.ctx.memory(|m| m.area_rect(layer.id)) else { continue };
        assert!(screen.expand(1.0).contains_rect(rect), "{at}: {rect:?} in {screen:?}");
    }
}

/// Every view of every workspace in a window of this size.
fn every_view(h: &mut Harness<'static, App>, what: &str) {
    for def in view::all() {
        training(h, def.name);
        h.state_mut().show(def.name);
        h.run_steps(4);
        let screen = h.ctx.content_rect();
        let pane = h.state().layout.pane(def.name).and_then(|(_, rect)| rect);
        let pane = pane.unwrap_or_else(|| panic!("{} has no place in {what}", def.name));
        assert!(pane.is_positive() && screen.expand(1.0).contains_rect(pane), "{what}: {} {pane:?}", def.name);
        all_is_inside(h, &format!("{what}: {}", def.name));
    }
}

#[test]
fn every_view_survives_a_tiny_window() {
    let mut h = window(document(PROMPT));
    causes(&mut h);
    let _dictionary = features(&mut h);
    h.set_size(egui::vec2(200.0, 120.0));
    h.run_steps(3);
    every_view(&mut h, "200 × 120");
    // The view alone, as it fills the window, and the lessons beside it.
    let ctx = h.ctx.clone();
    for def in view::all() {
        h.state_mut().act(&ctx, Action::Fill(def.name));
        h.run_steps(2);
        all_is_inside(&h, def.name);
        h.state_mut().act(&ctx, Action::Fill(def.name));
        h.run_steps(2);
    }
    for size in [[1.0, 1.0], [40.0, 30.0], [300.0, 60.0], [60.0, 500.0]] {
        h.set_size(size.into());
        for workspace in Workspace::ALL {
            h.state_mut().enter(workspace);
            h.run_steps(2);
        }
    }
    h.set_size(egui::vec2(1280.0, 800.0));
    h.run_steps(3);
    h.state_mut().show("lens");
    settle(&mut h);
    assert!(h.state().layout.pane("lens").unwrap().1.unwrap().width() > 200.0);
}

#[test]
fn every_view_survives_text_three_times_as_large() {
    let mut h = window(document(PROMPT));
    causes(&mut h);
    let _dictionary = features(&mut h);
    for _ in 0..20 {
        h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::Plus);
        h.run_steps(1);
    }
    h.run_steps(3);
    assert!(h.ctx.zoom_factor() >= 3.0, "Ctrl and + came to {}", h.ctx.zoom_factor());
    h.ctx.set_zoom_factor(3.0);
    // Points that a window of 1280 × 800 has then.
    h.set_size(egui::vec2(1280.0, 800.0) / 3.0);
    h.run_steps(3);
    every_view(&mut h, "zoom 3");
}

/// Helper windows stay inside a window that shrinks, and have their place and size again when it grows.
#[test]
fn helper_windows_come_back_to_their_size() {
    let mut h = window(document(PROMPT));
    let ctx = h.ctx.clone();
    let role = egui::accesskit::Role::Window;
    for (title, open) in [
        ("Guide", Action::Guide(Place::page(guide::CONTENTS))),
        ("Keys and mouse", Action::Do(Command::Shortcuts)),
        ("History of changes", Action::Do(Command::History)),
        ("Messages", Action::Do(Command::Messages)),
    ] {
        h.set_size(egui::vec2(1280.0, 800.0));
        h.run_steps(3);
        h.state_mut().act(&ctx, open);
        h.run_steps(4);
        let rect = |h: &Harness<'static, App>| h.get_by_role_and_label(role, title).rect();
        let before = rect(&h);
        assert!(before.width() > 250.0 && before.height() > 250.0, "{title}: {before:?}");
        for size in [[640.0, 400.0], [200.0, 120.0], [1000.0, 120.0]] {
            h.set_size(size.into());
            h.run_steps(4);
            let screen = h.ctx.content_rect();
            assert!(screen.expand(1.0).contains_rect(rect(&h)), "{title}: {:?} in {screen:?}", rect(&h));
            all_is_inside(&h, title);
        }
        h.set_size(egui::vec2(1280.0, 800.0));
        h.run_steps(4);
        let after = rect(&h);
        assert!(
            after.min.distance(before.min) < 2.0 && (after.size() - before.size()).length() < 2.0,
            "{title}: {before:?}, then {after:?}"
        );
        h.key_press(egui::Key::Escape);
        h.run_steps(4);
        assert!(h.query_by_role_and_label(role, title).is_none(), "{title} is closed by Escape");
    }
}

/// Dialogs fit as well: what is larger scrolls.
#[test]
fn dialogs_stay_inside_a_tiny_window() {
    let mut h = window(document(PROMPT));
    let ctx = h.ctx.clone();
    h.set_size(egui::vec2(200.0, 120.0));
    h.run_steps(3);
    for action in [
        Action::Load(Load::ModelFile),
        Action::Save { name: "numbers".to_owned(), extension: "csv", bytes: b"1".to_vec() },
        Action::Do(Command::Palette),
        Action::Export("lens"),
    ] {
        let at = format!("{action:?}");
        h.state_mut().act(&ctx, action);
        h.run_steps(6);
        all_is_inside(&h, &at);
        h.key_press(egui::Key::Escape);
        h.run_steps(4);
    }
}
