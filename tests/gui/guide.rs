//! The guide: opened from every `?`, searched, read, walked through.

use crate::window::{PROMPT, document, settle, window};
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command};
use circuitscope::app::shell::guide::{Guide, TITLE};
use circuitscope::app::view::{self, Workspace};
use circuitscope::guide::{self, Place};
use circuitscope::session::Desk;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use std::collections::HashMap;

/// Every view and workspace that is registered has a page with what its `?` shows.
#[test]
fn every_view_and_workspace_has_a_page() {
    for def in view::all() {
        let (page, _) = guide::of_view(def.name).find().unwrap_or_else(|| panic!("{} has no page", def.name));
        assert!(def.help().len() > 40 && def.formula().len() > 8, "{} says too little", def.name);
        for section in ["why", "how-to-read-it", "formula", "pitfalls", "see-also"] {
            assert!(page.section(section).is_some_and(|s| s.body.len() > 20), "{}: {section}", page.name);
        }
        let ends = |c: char| page.summary().trim_end().ends_with(c);
        assert!(ends('.') || ends('?'), "{}: {}", page.name, page.summary());
    }
    for workspace in Workspace::ALL {
        let (page, _) =
            guide::of_workspace(workspace.name()).find().unwrap_or_else(|| panic!("{} has no page", workspace.name()));
        for def in workspace.views() {
            let link = format!("view-{}.md", def.name);
            let linked = page.links().chain(guide::page(guide::CONTENTS).unwrap().links()).any(|l| l == link);
            assert!(linked, "{} is linked from nowhere", def.name);
        }
    }
    // Pages of views that are gone.
    for page in guide::pages() {
        if let Some(name) = page.name.strip_prefix("view-") {
            assert!(view::by_name(name).is_some(), "{} is of no view", page.name);
        }
        if let Some(name) = page.name.strip_prefix("workspace-") {
            assert!(Workspace::ALL.iter().any(|w| w.name() == name), "{} is of no workspace", page.name);
        }
    }
}

#[test]
fn every_question_mark_opens_its_page() {
    let mut h = window(document(""));
    for def in view::all() {
        h.state_mut().show(def.name);
        h.run_steps(3);
        h.get_by_label(&format!("help {}", def.name)).click();
        h.run_steps(4);
        let app = h.state();
        assert!(app.guide.open && app.guide.place() == &guide::of_view(def.name), "{}", def.name);
        let title = guide::of_view(def.name).find().unwrap().0.title();
        let shown = h.query_all_by(|n| n.value().or(n.label()).is_some_and(|l| l == title)).count();
        assert!(shown > 0, "{title} is not on screen");
        h.key_press(egui::Key::Escape);
        h.run_steps(3);
        assert!(!h.state().guide.open);
    }
    // That of the window itself is the workspace's.
    for workspace in Workspace::ALL {
        h.state_mut().enter(workspace);
        h.run_steps(2);
        h.get_by_label("help").click();
        h.run_steps(3);
        assert_eq!(h.state().guide.place(), &guide::of_workspace(workspace.name()));
        h.key_press(egui::Key::Escape);
        h.run_steps(2);
    }
    // And by its key the page of the view that fills the window.
    h.state_mut().show("lens");
    let ctx = h.ctx.clone();
    h.state_mut().act(&ctx, Action::Fill("lens"));
    h.run_steps(3);
    h.key_press_modifiers(egui::Modifiers::SHIFT, egui::Key::F1);
    h.run_steps(3);
    assert_eq!(h.state().guide.place(), &guide::of_view("lens"));
    assert!(h.query_by_label("Keys and mouse").is_none());
}

/// From a view's `?` to a search, a result, a link, and back.
#[test]
fn the_guide_is_searched_and_its_links_are_followed() {
    let mut h = window(document(PROMPT));
    h.state_mut().show("patching");
    settle(&mut h);
    h.get_by_label("help patching").click();
    h.run_steps(4);
    let field = egui::accesskit::Role::TextInput;
    h.get_by_role_and_label(field, "Search the guide").focus();
    h.run_steps(2);
    h.get_by_role_and_label(field, "Search the guide").type_text("faithfulness zebra");
    h.run_steps(3);
    h.get_by_label_contains("Nothing in the guide has all of these words");
    for _ in 0..6 {
        h.key_press(egui::Key::Backspace);
        h.run_steps(1);
    }
    h.run_steps(3);
    assert!(h.query_by_label_contains("places").is_some() || h.query_by_label("1 place").is_some());
    // Keys that are typed here are not commands.
    assert!(h.state().state.desk().draft.nodes.is_empty());
    h.get_by_label("Circuit · Formula").click();
    h.run_steps(4);
    let place = h.state().guide.place().clone();
    assert_eq!(place, Place { page: "view-circuit".to_owned(), anchor: Some("formula".to_owned()) });
    // Its section is scrolled to, however far down.
    h.state_mut().guide.show(Place { page: "commands".to_owned(), anchor: Some("lab".to_owned()) });
    h.run_steps(40);
    let window = h.get_by_role_and_label(egui::accesskit::Role::Window, TITLE).rect();
    let heading = |h: &Harness<'static, App>, words: &str| h.get_by_label(words).rect();
    assert!(window.contains_rect(heading(&h, "lab")), "{:?} in {window:?}", heading(&h, "lab"));
    assert!(heading(&h, "models").max.y < window.min.y, "the beginning is above");
    // A link of the page.
    h.state_mut().guide.show(Place::page(guide::CONTENTS));
    h.run_steps(4);
    h.get_by_role_and_label(egui::accesskit::Role::Link, "First steps").click();
    h.run_steps(4);
    assert_eq!(h.state().guide.place(), &Place::page("first-steps"));
    // And back, one after the other.
    for expected in [guide::CONTENTS, "commands", "view-circuit", "view-patching"] {
        h.get_by_label("←").click();
        h.run_steps(3);
        assert_eq!(h.state().guide.place().page, expected);
    }
    // The list leads anywhere.
    let is_button = |n: &egui_kittest::Node<'_>| n.accesskit_node().role() == egui::accesskit::Role::Button;
    h.query_all_by_label_contains("How it is built").rfind(is_button).expect("a list of all pages").click_accesskit();
    h.run_steps(4);
    assert_eq!(h.state().guide.place().page, "building");
}

/// Every page can be drawn, and a place that is not there opens nothing.
#[test]
fn every_page_is_drawn() {
    let mut h = window(document(""));
    for page in guide::pages() {
        h.state_mut().guide.show(Place::page(page.name));
        h.run_steps(3);
        let title = page.title();
        assert!(h.query_all_by(|n| n.value().or(n.label()).is_some_and(|l| l == title)).count() > 0, "{title}");
    }
    let before = h.state().guide.place().clone();
    h.state_mut().guide.show(Place::page("no-such-page"));
    assert_eq!(h.state().guide.place(), &before);
}

/// The palette finds pages.
#[test]
fn the_palette_finds_pages() {
    let mut h = window(document(""));
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::Palette);
    h.run_steps(3);
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "Type a command").type_text("guide: words");
    h.run_steps(3);
    h.key_press(egui::Key::Enter);
    h.run_steps(3);
    assert!(h.state().guide.open && h.state().guide.place().page == "words");
}

/// A first start: the story in a line, a lesson, the guide, a model to fetch or to open.
#[test]
fn a_first_start_says_what_is_shown_and_how_to_go_on() {
    let builtin = &circuitscope::model::builtin::BUILTINS[0];
    let mut h = window(document(builtin.prompt));
    h.state_mut().welcomes = true;
    h.state_mut().lessons.found = Some(HashMap::new());
    h.run_steps(4);
    h.get_by_label_contains(builtin.story);
    h.get_by_label("Fetch it (93 MB)");
    h.get_by_label("First steps").click();
    h.run_steps(4);
    assert!(h.state().guide.open && h.state().guide.place().page == "first-steps");
    h.key_press(egui::Key::Escape);
    h.run_steps(3);
    // Once the model is there it is opened from here; this small one stands for it.
    let there = crate::common::fixture("families/gpt2");
    let needs = circuitscope::session::lesson::shipped().iter().find_map(|l| l.needs.as_ref()).unwrap();
    h.state_mut().lessons.found = Some(HashMap::from([(needs.name.clone(), there.clone())]));
    h.run_steps(3);
    h.get_by_label(&format!("Open {}", needs.name)).click();
    h.run_steps(2);
    settle(&mut h);
    assert_eq!(h.state().state.desk().model, there.display().to_string());
    assert!(h.state().state.document.look.welcomed && h.query_by_label("First steps").is_none());
}

/// What is told of each built-in model is what it does.
#[test]
fn the_stories_of_built_in_models_are_true() {
    for (name, says) in [("induction", "il"), ("alphabetical", "no"), ("addition", "3")] {
        let builtin = circuitscope::model::builtin::by_name(name).unwrap();
        assert!(builtin.story.contains(says), "{}", builtin.story);
        let desk = Desk { model: name.to_owned(), prompt: builtin.prompt.to_owned(), ..Desk::default() };
        let h = window(desk);
        let state = &h.state().state;
        let run = state.run().unwrap();
        let top = run.trace.next.last().unwrap()[0].id;
        assert_eq!(state.model.as_ref().unwrap().token_text(top).trim(), says, "{name}");
        if name == "induction" {
            // The head of layer 1 that adds most is shown: it looks from the last token at the one behind the first "Qu".
            let pinned = state.pinned();
            let first = run.texts.iter().position(|t| t == "u").unwrap();
            assert_eq!((run.texts[first + 1].as_str(), run.texts.last().unwrap().as_str()), ("il", "u"));
            assert_eq!((pinned.layer, pinned.head), (1, Some(3)));
            let pattern = run.trace.pattern(1).unwrap().to_vec3::<f32>().unwrap();
            let row = pattern[3].last().unwrap();
            let most = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            assert_eq!(most, first + 1);
        }
    }
}

/// The guide in both themes, as it was.
#[test]
fn the_guide_looks_as_it_did() {
    let mut results = egui_kittest::SnapshotResults::new();
    for theme in [egui::Theme::Dark, egui::Theme::Light] {
        let name = if theme == egui::Theme::Dark { "dark" } else { "light" };
        let mut guide = Guide::default();
        for (page, width) in [("view-patching", 900.0), ("command-line", 420.0)] {
            guide.show(Place::page(page));
            let mut h = Harness::builder()
                .with_size([width, 640.0])
                .with_max_steps(60)
                .with_theme(theme)
                .with_render_cursor(false)
                .with_os(egui::os::OperatingSystem::Nix)
                .wgpu()
                .build_ui_state(
                    |ui, (guide, begun): &mut (Guide, bool)| {
                        // Fonts are there from the frame after.
                        match std::mem::replace(begun, true) {
                            false => circuitscope::app::look::theme::install(ui.ctx()),
                            true => guide.ui(ui.ctx()),
                        }
                    },
                    (std::mem::take(&mut guide), false),
                );
            h.run_steps(8);
            results.add(h.try_snapshot(format!("guide-{page}-{name}")));
            results.extend_harness(&mut h);
        }
    }
}
