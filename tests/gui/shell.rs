//! Opening, typing, keys, commands, cancelling.

use crate::common::fixture;
use crate::window::{PROMPT, document, drop_on, settle, until, window};
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command};
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::presets::Preset;
use circuitscope::app::superposition::SuperpositionAction;
use circuitscope::app::view::Workspace;
use circuitscope::model::builtin::BUILTINS;
use circuitscope::session::desk::Pinned;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use std::path::Path;
use std::sync::Arc;

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
    h.get_by_role_and_label(egui::accesskit::Role::MultilineTextInput, "Prompt").focus();
    h.run();
    h.get_by_role_and_label(egui::accesskit::Role::MultilineTextInput, "Prompt").type_text("The United");
    h.run();
    h.get_by_role_and_label(egui::accesskit::Role::MultilineTextInput, "Prompt").type_text(" States of");
    h.run();
    settle(&mut h);
    let run = h.state().state.run().unwrap().clone();
    assert_eq!(run.prompt, "The United States of");
    assert_eq!(run.texts.last().unwrap(), " of");
    assert_eq!(h.state().state.pinned().pos, run.trace.len() - 1);
}

/// Has every frame laid out twice, as egui does where something is first shown.
struct Twice;

impl egui::Plugin for Twice {
    fn debug_name(&self) -> &'static str {
        "twice"
    }

    fn on_begin_pass(&mut self, ui: &mut egui::Ui) {
        if ui.output(|o| o.num_completed_passes) == 0 {
            ui.ctx().request_discard("test");
        }
    }
}

/// The first pass of a frame has its events, the second has not: what is typed or clicked then counts, once.
#[test]
fn a_frame_that_is_laid_out_twice_loses_and_doubles_nothing() {
    let mut h = window(document(""));
    h.ctx.add_plugin(Twice);
    h.get_by_role_and_label(egui::accesskit::Role::MultilineTextInput, "Prompt").focus();
    h.run_steps(2);
    for text in ["The United", " States", " of"] {
        h.get_by_role_and_label(egui::accesskit::Role::MultilineTextInput, "Prompt").type_text(text);
        h.run_steps(2);
    }
    assert_eq!(h.state().state.desk().prompt, "The United States of");
    settle(&mut h);
    let light = h.state().state.document.look.light;
    h.get_by_label("☀").click();
    h.run_steps(2);
    assert_ne!(h.state().state.document.look.light, light);
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
    h.state_mut().state.apply(ModelAction::Pin(Pinned { pos: 1, ..p }), 0.0);
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
    let mut h = window(document(PROMPT));
    drop_on(&mut h, &fixture("families/llama"));
    assert_eq!(h.state().state.model.as_ref().unwrap().config.family, "llama");
    // A dictionary's folder is told from a model's.
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-features");
    drop_on(&mut h, &shipped);
    assert_eq!(h.state().state.features.dictionary().unwrap().path, shipped);
    assert_eq!(h.state().layout.workspace, Workspace::Features);
}

#[test]
fn cancelling_stops_the_jobs_and_keeps_the_window() {
    let mut h = window(document(PROMPT));
    let model = h.state().state.model.clone().unwrap();
    h.state_mut().state.apply(ModelAction::Prompt(PROMPT.repeat(20)), 0.0);
    h.state_mut().state.update(f64::INFINITY);
    h.state_mut().state.cancel();
    // How soon is measured by `bench --window`.
    until(&mut h, "the work stops", |h| !h.state().state.pool.is_busy());
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
        let own = Command::ALL.into_iter().filter(|c| !matches!(c, Command::Quit));
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

/// A key as the system sends it.
fn key(key: egui::Key, modifiers: egui::Modifiers) -> egui::Event {
    egui::Event::Key { key, physical_key: None, pressed: true, repeat: false, modifiers }
}

/// What a slow frame receives when somebody types these letters.
fn typed(text: &str) -> Vec<egui::Event> {
    let letter = |c: char| {
        let name = c.to_uppercase().to_string();
        let pressed = egui::Key::from_name(&name).map(|k| key(k, egui::Modifiers::NONE));
        pressed.into_iter().chain([egui::Event::Text(c.to_string())])
    };
    text.chars().flat_map(letter).collect()
}

/// All of them in one frame, and then as many frames as it takes.
fn in_one_frame(h: &mut Harness<'static, App>, events: Vec<egui::Event>) {
    h.input_mut().events.extend(events);
    h.step();
    h.run();
}

#[test]
fn keys_reach_the_field_that_was_focused_before_them_in_the_same_frame() {
    let mut h = window(document(PROMPT));
    let command = egui::Modifiers::COMMAND;
    let mut events = vec![key(egui::Key::L, command), key(egui::Key::A, command)];
    events.extend(typed("gce"));
    in_one_frame(&mut h, events);
    let desk = h.state().state.desk();
    assert_eq!(desk.prompt, "gce");
    assert!(desk.draft.is_empty() && desk.stack.edits.is_empty());
    assert!(!h.state().layout.seen().any(|v| v == "graph"));
    // A click that focuses a field.
    for name in ["Answer", "Wrong answer"] {
        let at = h.get_by_label(name).rect().center();
        let button = egui::PointerButton::Primary;
        let click = |pressed| egui::Event::PointerButton { pos: at, button, pressed, modifiers: egui::Modifiers::NONE };
        let mut events = vec![egui::Event::PointerMoved(at), click(true), click(false)];
        events.extend(typed("gc"));
        in_one_frame(&mut h, events);
    }
    let desk = h.state().state.desk();
    assert_eq!((desk.answer.as_str(), desk.wrong.as_str()), ("gc", "gc"));
    assert!(desk.draft.is_empty() && !h.state().layout.seen().any(|v| v == "graph"));
    // The palette opens, finds, and does, all at once.
    let mut events = vec![key(egui::Key::K, command)];
    events.extend(typed("light"));
    events.push(key(egui::Key::Enter, egui::Modifiers::NONE));
    in_one_frame(&mut h, events);
    assert!(h.state().state.document.look.light && h.state().state.desk().draft.is_empty());
    // Nothing has the keyboard: letters are commands again.
    let ctx = h.ctx.clone();
    ctx.memory_mut(|m| m.focused().into_iter().for_each(|id| m.surrender_focus(id)));
    in_one_frame(&mut h, typed("c"));
    assert!(!h.state().state.desk().draft.is_empty());
}

/// Keys without a modifier say what they did, with a way back.
#[test]
fn a_single_key_says_what_it_has_done_and_takes_it_back() {
    let mut h = window(document(PROMPT));
    // Messages fade: what they say is looked at in the next frames.
    let press = |h: &mut Harness<'static, App>, k: egui::Key| {
        h.key_press(k);
        h.step();
        h.step();
        h.state().state.notices.latest().map(|n| n.text.clone())
    };
    assert_eq!(press(&mut h, egui::Key::E).as_deref(), Some("There are no edits to switch."));
    let pinned = Pinned { layer: 1, head: Some(3), ..h.state().state.pinned() };
    h.state_mut().state.apply(ModelAction::Pin(pinned), 0.0);
    settle(&mut h);
    // The message has faded, so that nothing moves under the pointer.
    h.run_steps(20);
    assert_eq!(press(&mut h, egui::Key::C).as_deref(), Some("Done: collect 1.3."));
    assert_eq!(h.state().state.desk().draft.nodes, ["a1.h3"]);
    h.get_by_label("undo").click();
    h.step();
    h.step();
    assert!(h.state().state.desk().draft.nodes.is_empty());
    assert_eq!(h.state().state.notices.latest().unwrap().text, "Undone: collect 1.3.");
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::History);
    h.step();
    h.step();
    assert!(h.query_by_label("collect 1.3").is_some(), "the history calls heads as the screen does");
    assert!(h.query_by_label("undo").is_none(), "what was taken back is not offered again");
}

#[test]
fn escape_closes_what_is_on_top_and_stops_only_when_it_is_pressed_twice() {
    let mut h = window(document(PROMPT));
    let escape = |h: &mut Harness<'static, App>| {
        h.key_press(egui::Key::Escape);
        h.run_steps(2);
    };
    h.state_mut().show("graph");
    h.key_press(egui::Key::F1);
    h.run_steps(2);
    assert!(h.query_by_label("Keys and mouse").is_some());
    h.key_press(egui::Key::F);
    h.run_steps(2);
    assert_eq!(h.state().layout.seen().collect::<Vec<_>>(), ["graph"]);
    // A training that is paused can be stopped at any time.
    for action in [SuperpositionAction::Start, SuperpositionAction::Pause(true)] {
        h.state_mut().state.apply(Action::Superposition(action), 0.0);
    }
    escape(&mut h);
    assert!(h.query_by_label("Keys and mouse").is_none() && h.state().layout.seen().count() == 1);
    escape(&mut h);
    assert!(h.state().layout.seen().count() > 3 && h.state().state.works());
    escape(&mut h);
    assert!(h.state().state.works() && h.query_by_label_contains("Escape again stops").is_some());
    escape(&mut h);
    assert!(h.state().state.notices.latest().unwrap().text.contains("Cancelled"));
    settle(&mut h);
}

#[test]
fn a_tab_fills_the_window_and_views_are_arranged() {
    let mut h = window(document(PROMPT));
    let seen = |h: &Harness<'static, App>| h.state().layout.seen().collect::<std::collections::BTreeSet<_>>();
    let before = seen(&h);
    let at = h.get_by_label("Lenses").rect().center();
    let button = egui::PointerButton::Primary;
    let click = |pressed| egui::Event::PointerButton { pos: at, button, pressed, modifiers: egui::Modifiers::NONE };
    h.input_mut().events.push(egui::Event::PointerMoved(at));
    h.input_mut().events.extend([true, false, true, false].map(click));
    h.step();
    h.run_steps(3);
    assert_eq!(h.state().layout.seen().collect::<Vec<_>>(), ["lens"]);
    // Another view that is shown takes its place.
    h.state_mut().show("patching");
    h.run_steps(2);
    assert_eq!(h.state().layout.seen().collect::<Vec<_>>(), ["patching"]);
    h.get_by_label("show all views").click();
    h.run_steps(3);
    assert_ne!(h.state().layout.seen().count(), 1);
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::Arrange(Preset::Graph));
    settle(&mut h);
    assert!(h.state().layout.seen().any(|v| v == "graph"));
    h.state_mut().command(&ctx, Command::Undo);
    settle(&mut h);
    h.state_mut().show("lens");
    h.run_steps(2);
    assert_eq!(seen(&h), before);
    // One view in large text, and back.
    let zoom = h.ctx.zoom_factor();
    h.state_mut().command(&ctx, Command::Present);
    h.run_steps(3);
    assert!(h.state().layout.seen().count() == 1 && h.ctx.zoom_factor() > 1.3 * zoom);
    h.state_mut().command(&ctx, Command::Present);
    h.run_steps(3);
    assert!(h.state().layout.seen().count() > 3 && (h.ctx.zoom_factor() - zoom).abs() < 1e-6);
}

#[test]
fn the_palette_finds_heads_tokens_and_models() {
    let mut h = window(document(PROMPT));
    let find = |h: &mut Harness<'static, App>, text: &str| {
        h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::K);
        h.run();
        h.get_by_label("Type a command").type_text(text);
        h.run();
        h.key_press(egui::Key::Enter);
        h.run();
        settle(h);
    };
    find(&mut h, "0.3");
    let p = h.state().state.pinned();
    assert_eq!((p.layer, p.head), (0, Some(3)));
    find(&mut h, "a1.h2");
    let p = h.state().state.pinned();
    assert_eq!((p.layer, p.head), (1, Some(2)));
    find(&mut h, "United");
    assert_eq!(h.state().state.run().unwrap().texts[h.state().state.pinned().pos], " United");
    find(&mut h, "open addition");
    assert_eq!(h.state().state.model.as_ref().unwrap().config.name, "addition");
}

#[test]
fn an_answer_is_completed_from_the_vocabulary() {
    let mut h = window(document(PROMPT));
    h.get_by_label("Answer").focus();
    h.run();
    h.get_by_label("Answer").type_text("unit");
    until(&mut h, "the token is offered", |h| h.query_by_label("token ·United").is_some());
    // A list that is made anew in the moment of the click takes none: then it is asked for and clicked again.
    until(&mut h, "the token is taken", |h| {
        if h.state().state.desk().answer == " United" {
            return true;
        }
        match h.query_by_label("token ·United") {
            Some(token) => token.click_accesskit(),
            None => h.get_by_label("Answer").focus(),
        }
        false
    });
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.desk().answer, " United");
    assert!(state.run().unwrap().answer.is_some());
}

#[test]
fn files_are_chosen_in_the_window_and_never_replaced_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(document(PROMPT));
    let ctx = h.ctx.clone();
    h.state_mut().state.apply(ModelAction::Collect(circuitscope::circuit::Member::parse("1.2").unwrap()), 0.0);
    settle(&mut h);
    let path = folder.path().join("circuit.json");
    h.state_mut().act(&ctx, Action::SaveCircuit);
    h.run();
    // The field has the keyboard at once.
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.event(egui::Event::Text(path.display().to_string()));
    h.key_press(egui::Key::Enter);
    h.run();
    settle(&mut h);
    let text = &h.state().state.notices.latest().unwrap().text;
    assert!(path.exists() && text.contains(&path.display().to_string()), "{text}");
    // Again: it asks, and is told by a second Enter.
    circuitscope::files::write_atomic(&path, b"another").unwrap();
    h.state_mut().act(&ctx, Action::SaveCircuit);
    h.run();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.event(egui::Event::Text(path.display().to_string()));
    h.key_press(egui::Key::Enter);
    h.run();
    assert!(h.query_by_label_contains("is there already").is_some());
    assert_eq!(std::fs::read(&path).unwrap(), b"another");
    h.get_by_label("Replace it").click();
    h.run();
    settle(&mut h);
    assert_ne!(std::fs::read(&path).unwrap(), b"another");
    // And opened again, by walking to it. Others stand below it, each as far to the left.
    for name in ["d.json", "e.json"] {
        circuitscope::files::write_atomic(&folder.path().join(name), b"{}").unwrap();
    }
    h.state_mut().state.apply(ModelAction::Circuit("empty the circuit", Default::default()), 0.0);
    h.state_mut().act(&ctx, Action::Load(circuitscope::app::action::Load::Graph));
    h.run();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.event(egui::Event::Text(format!("{}/", folder.path().display())));
    until(&mut h, "the folder is listed", |h| h.query_by_label("circuit.json").is_some());
    let rows = ["circuit.json", "d.json", "e.json"].map(|name| h.get_by_label(name).rect().x_range());
    assert!(rows.iter().all(|r| *r == rows[0]), "{rows:?}");
    h.key_press(egui::Key::ArrowDown);
    h.key_press(egui::Key::Enter);
    h.run();
    settle(&mut h);
    assert!(!h.state().state.desk().draft.is_empty());
}

#[test]
fn one_goes_back_in_the_history_at_a_click() {
    let mut h = window(document(PROMPT));
    for (text, at) in [(" United", 10.0), (" States", 20.0)] {
        h.state_mut().state.apply(ModelAction::Answer(text.to_owned()), at);
    }
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::ToggleTheme);
    h.state_mut().command(&ctx, Command::History);
    h.run();
    h.get_by_label("as it was at first").click();
    h.run();
    let state = &h.state().state;
    assert!(state.desk().answer.is_empty() && !state.document.look.light);
    h.get_by_label("use the light theme").click();
    h.run();
    let state = &h.state().state;
    assert!(state.desk().answer == " States" && state.document.look.light);
}

/// In the smallest window the bars' buttons and words lie beside each other.
#[test]
fn nothing_lies_over_anything_in_a_small_window() {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(ModelAction::Corrupted(PROMPT.replace("United", "Roman")), 0.0);
    settle(&mut h);
    h.set_size(egui::vec2(720.0, 480.0));
    h.run_steps(4);
    use egui::accesskit::Role;
    let all = [Role::Button, Role::Label].into_iter().flat_map(|role| h.get_all_by_role(role));
    let bars = all.map(|n| (n.rect(), n.accesskit_node().label().or(n.accesskit_node().value())));
    // The two bars and the line of the corrupted prompt; below them rows scroll.
    let bars: Vec<_> = bars.filter(|(r, _)| r.max.y < 130.0 && r.is_positive()).collect();
    assert!(bars.len() > 8, "{bars:?}");
    for (i, (a, name)) in bars.iter().enumerate() {
        assert!(a.max.x <= 720.0, "{name:?} reaches out of the window: {a:?}");
        for (b, other) in &bars[i + 1..] {
            assert!(!a.shrink(1.0).intersects(b.shrink(1.0)), "{name:?} {a:?} lies over {other:?} {b:?}");
        }
    }
}
