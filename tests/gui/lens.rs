//! The lens view: three kinds of lens and their difference, a fit beside the window, faithfulness, edits from a cell; and
//! the pages of heads.

use crate::probes::choose;
use crate::window::{look, settle, window};
use circuitscope::analysis::logit_lens::logit_lens;
use circuitscope::app::App;
use circuitscope::app::export::{self, table::Table};
use circuitscope::app::model::ModelAction;
use circuitscope::app::view;
use circuitscope::engine::edit::{Action as Do, Direction, Edit};
use circuitscope::lenses::JacobianLens;
use circuitscope::lenses::faithful::{FaithfulOf, Target};
use circuitscope::lenses::fit::{Settings, fit};
use circuitscope::lenses::question::prompts;
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use circuitscope::question::Question;
use circuitscope::session::Desk;
use circuitscope::session::desk::Pinned;
use eframe::egui;
use eframe::egui::accesskit::Role;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use egui_kittest::{Harness, Node};
use serde_json::json;

const PROMPT: &str = "The king and the queen are coming to the";

fn desk() -> Desk {
    Desk { model: "text".to_owned(), prompt: PROMPT.to_owned(), ..Desk::default() }
}

/// The numbers of a view.
fn numbers(h: &Harness<'static, App>, name: &str) -> Vec<Vec<Option<f32>>> {
    table(h, name).values
}

fn table(h: &Harness<'static, App>, name: &str) -> Table {
    let app = h.state();
    let palette = circuitscope::app::look::theme::Palette::of(&h.ctx);
    let (mut actions, mut hovered) = (Vec::new(), Default::default());
    let cx = view::Context { state: &app.state, palette, actions: &mut actions, hovered: &mut hovered };
    app.layout.pane(name).unwrap().0.table(&cx).unwrap()
}

fn set(h: &mut Harness<'static, App>, settings: serde_json::Value) {
    h.state_mut().state.apply(ModelAction::View("lens", settings), 0.0);
    settle(h);
    // What follows from what has arrived.
    settle(h);
}

/// A lens in a file.
fn lens(folder: &std::path::Path) -> std::path::PathBuf {
    let model = Model::open("text").unwrap();
    let rows = prompts(&model, &["prose".to_owned()], 48, Some(4), &Progress::new()).unwrap();
    let settings = Settings { layers: Vec::new(), skip: 8, tokens: 48, texts: vec!["prose".to_owned()], shard: (0, 1) };
    let sums = fit(&model, &rows, &settings, None, &Progress::new(), &mut |_| {}).unwrap();
    let path = folder.join("own.safetensors");
    sums.lens().unwrap().save(&path).unwrap();
    path
}

#[test]
fn a_lens_is_read_and_taken_away_from_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = lens(folder.path());
    let file = path.display().to_string();
    let mut h = window(desk());
    look(&mut h, "lens");
    let logit = numbers(&h, "lens");
    set(&mut h, json!({"jacobian": file, "through": "jacobian"}));
    let jacobian = numbers(&h, "lens");
    // The numbers are those of the function that the command line calls.
    let trace = h.state().state.run().unwrap().trace.clone();
    let transport = JacobianLens::open(&path).unwrap().transport(&trace.model).unwrap();
    let read = logit_lens(&trace, Some(&transport), &[], None, None, 5, &Progress::new(), |_| {}).unwrap();
    for (layer, row) in jacobian.iter().enumerate() {
        for (pos, v) in row.iter().enumerate() {
            assert_eq!(*v, Some(read.cell(layer, pos).unwrap().top[0].prob));
        }
    }
    assert!(jacobian[0] != logit[0] && jacobian[2] == logit[2]);
    // The command that is copied reads the same, what ships included.
    let def = view::by_name("lens").unwrap();
    let command = |h: &Harness<'static, App>| export::commands::command(&h.state().state, def);
    let line = command(&h).unwrap();
    assert!(line.contains(" jlens read ") && line.contains(&file) && !line.contains("--faithful"), "{line}");
    set(&mut h, json!({"jacobian": file, "through": "jacobian", "faithful": "layer"}));
    assert!(command(&h).unwrap().contains(" --faithful"));
    set(&mut h, json!({"jacobian": file, "through": "jacobian", "minus": "logit"}));
    for ((d, a), b) in numbers(&h, "lens").iter().flatten().zip(jacobian.iter().flatten()).zip(logit.iter().flatten()) {
        assert!((d.unwrap() - (a.unwrap() - b.unwrap())).abs() < 1e-6);
    }
    assert_eq!(command(&h), None);
    set(&mut h, json!({"through": "jacobian"}));
    assert!(command(&h).unwrap().contains("--lens text-lens"));
    // What is swapped with is the prompt's answer, wherever the pin is.
    set(&mut h, json!({"through": "jacobian", "faithful": "token", "swapped": true}));
    assert_eq!(command(&h), None);
    // A click changes the lens.
    set(&mut h, json!({"jacobian": file, "through": "jacobian"}));
    h.get_by_label("logit lens").click();
    settle(&mut h);
    assert_eq!(numbers(&h, "lens"), logit);
    // A lens of another model is refused by name.
    h.state_mut()
        .state
        .apply(ModelAction::View("lens", json!({"tuned": "nowhere/params.pt", "through": "tuned"})), 0.0);
    settle(&mut h);
    assert!(h.query_all_by_label_contains("nowhere/params.pt").count() > 0);
}

#[test]
fn a_lens_is_fitted_beside_the_window_and_its_cells_are_touched() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(desk());
    h.state_mut().state.features.folders.lenses = folder.path().to_owned();
    look(&mut h, "lens");
    set(&mut h, json!({"through": "jacobian", "text": "prose", "prompts": 3, "faithful": "all"}));
    h.get_by_label("fit").click();
    h.run();
    h.get_by_label("Fit").click();
    h.run();
    settle(&mut h);
    settle(&mut h);
    let kept = h.state().state.desk().views["lens"].clone();
    let path = std::path::PathBuf::from(kept["jacobian"].as_str().unwrap());
    assert_eq!(JacobianLens::open(&path).unwrap().about.n_prompts, 3);
    assert!(!folder.path().join(format!("{}.fit", path.display())).exists());
    settle(&mut h);
    assert_eq!(numbers(&h, "lens").len(), 3);
    // What comes of the cells is exported as well: the share is the real change over what the lens says.
    let more = table(&h, "lens").more;
    assert_eq!(
        more.iter().map(|t| &*t.name).collect::<Vec<_>>(),
        ["faithfulness", "what-comes-of-it", "what-the-lens-says"]
    );
    for (layer, pos) in [(0, 2), (1, 5)] {
        let [share, real, said] = [0, 1, 2].map(|k| more[k].values[layer][pos].unwrap());
        assert!((share - real / said).abs() < 1e-5 * share.abs().max(1.0) && more[1].values[2][pos].is_none());
    }
    assert!(h.query_by_label_contains("bar: faithfulness").is_some());
    // What is pinned is steered by a click, and undone by one.
    h.get_by_label("fit").click();
    h.run();
    let layer = h.state().state.pinned().layer;
    h.get_by_label("Edit").click();
    h.run();
    settle(&mut h);
    let stack = h.state().state.desk().stack.clone();
    assert!(
        matches!(stack.edits[..], [ref e] if e.site.layer == layer && matches!(e.action, Do::Steer { .. })),
        "{stack:?}"
    );
    assert!(h.state().state.edited().is_some());
    // Another strength changes the edit that stands there.
    h.get_by_role_and_label(Role::Slider, "α").increment_accesskit();
    h.run();
    settle(&mut h);
    let strong = h.state().state.desk().stack.clone();
    let factor = |stack: &circuitscope::engine::EditStack| match &stack.edits[..] {
        [e] => match &e.action {
            Do::Steer { factor, .. } => *factor,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert!(factor(&strong) > factor(&stack), "{strong:?}");
    // At no strength it stays, and goes on from there.
    let slider = |h: &mut Harness<'static, App>, up: bool| {
        let slider = h.get_by_role_and_label(Role::Slider, "α");
        if up {
            slider.increment_accesskit();
        } else {
            slider.decrement_accesskit();
        }
        h.run();
        settle(h);
    };
    let steps = (factor(&strong) / 0.05).round() as usize;
    for (steps, up, want) in [(steps, false, 0.0), (0, true, 0.0), (1, true, 0.05)] {
        (0..steps).for_each(|_| slider(&mut h, up));
        settle(&mut h);
        let now = factor(&h.state().state.desk().stack);
        assert!((now - want).abs() < 1e-6, "{now} where {want} belongs");
    }
    // Taking everything back begins no fit.
    while h.state().state.history.undoable().is_some() {
        let ctx = h.ctx.clone();
        h.state_mut().command(&ctx, circuitscope::app::action::Command::Undo);
        h.run();
        assert_eq!(h.query_all_by_label("Stop").count(), 0);
    }
    settle(&mut h);
    assert!(h.state().state.desk().stack.edits.is_empty());
}

/// Two tokens that are taken out one after the other are both gone: the second is freed of the first.
#[test]
fn tokens_are_taken_out_one_after_the_other() {
    let mut h = window(desk());
    look(&mut h, "lens");
    choose(&mut h, "do", "take it out");
    for nth in [0, 1] {
        if nth == 1 {
            let buttons = |h: &Harness<'static, App>| {
                h.query_all_by_role(Role::Button).map(|n| n.accesskit_node().id()).collect::<Vec<_>>()
            };
            let before = buttons(&h);
            h.get_by_role_and_label(Role::ComboBox, "reads").click();
            h.run();
            // The second of what has come.
            let is_new = |n: &Node<'_>| !before.contains(&n.accesskit_node().id());
            h.query_all_by_role(Role::Button).filter(is_new).nth(1).unwrap().click();
            h.run();
        }
        settle(&mut h);
        h.get_by_label("Edit").click();
        h.run();
        settle(&mut h);
    }
    let stack = h.state().state.desk().stack.clone();
    let [first, second] = &stack.edits[..] else { panic!("{stack:?}") };
    let vector = |e: &Edit| match &e.action {
        Do::Project { direction: Direction::Concept { vector, .. } } => vector.clone(),
        other => panic!("{other:?}"),
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let (a, b) = (vector(first), vector(second));
    assert!(dot(&a, &b).abs() < 1e-5 * (dot(&a, &a) * dot(&b, &b)).sqrt());
}

/// What a cell reads changes with an edit: its strength is that of what was edited, and what the clean run says of the lens is
/// not said of the edited one.
#[test]
fn what_was_swapped_is_swapped_on() {
    let mut h = window(Desk { answer: " was".to_owned(), ..desk() });
    look(&mut h, "lens");
    set(&mut h, json!({"faithful": "all"}));
    assert!(h.query_by_label_contains("bar: faithfulness").is_some());
    // The copied command swaps with the prompt's answer, wherever the pin is.
    set(&mut h, json!({"faithful": "token", "swapped": true}));
    let pinned = h.state().state.pinned();
    for pos in [1, pinned.pos] {
        h.state_mut().state.apply(ModelAction::Pin(Pinned { pos, ..pinned }), 0.0);
        settle(&mut h);
        let line = export::commands::command(&h.state().state, view::by_name("lens").unwrap()).unwrap();
        assert!(line.contains(" lens ") && line.contains("--answer ' was'"), "{line}");
        assert!(line.contains("--faithful --swap ' was'"), "{line}");
    }
    set(&mut h, json!({"faithful": "all"}));
    choose(&mut h, "do", "swap it with");
    settle(&mut h);
    h.get_by_label("Edit").click();
    h.run();
    settle(&mut h);
    let swap = |h: &Harness<'static, App>| match &h.state().state.desk().stack.edits[..] {
        [Edit { action: Do::Exchange { from, to, factor, .. }, .. }] => (from.clone(), to.clone(), *factor),
        other => panic!("{other:?}"),
    };
    let before = swap(&h);
    let note = "Faithfulness is that of a run without edits; R shows it.";
    assert!(h.state().state.edited().is_some());
    assert!(h.query_by_label(note).is_some());
    h.get_by_role_and_label(Role::Slider, "α").increment_accesskit();
    h.run();
    settle(&mut h);
    let after = swap(&h);
    assert!(after.2 > before.2 && (after.0, after.1) == (before.0, before.1));
    // Without an answer there is nothing to swap all cells with.
    let mut h = window(desk());
    look(&mut h, "lens");
    set(&mut h, json!({"faithful": "all", "swapped": true}));
    assert!(h.query_by_label_contains("There is no answer to swap with").is_some());
}

/// A text that was changed under its name is fitted again, and its lens is read.
#[test]
fn a_changed_text_is_fitted_again() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("own.txt");
    let write = |words: &str| circuitscope::files::write_atomic(&text, words.repeat(40).as_bytes()).unwrap();
    write("The king and the queen are coming to the house. ");
    let mut h = window(desk());
    h.state_mut().state.features.folders.lenses = folder.path().join("lenses");
    look(&mut h, "lens");
    set(&mut h, json!({"through": "jacobian", "text": text.display().to_string(), "prompts": 2}));
    h.get_by_label("fit").click();
    h.run();
    let mut read = Vec::new();
    for words in [None, Some("She said that there was no bread in the old town. "), None] {
        words.into_iter().for_each(write);
        h.get_by_label("Fit").click();
        h.run();
        settle(&mut h);
        settle(&mut h);
        assert_eq!(h.query_all_by_label("Stop").count(), 0);
        let kept = h.state().state.desk().views["lens"]["jacobian"].as_str().unwrap().to_owned();
        assert!(std::path::Path::new(&kept).is_file());
        read.push((kept, numbers(&h, "lens")));
    }
    assert!(read[0] != read[1] && read[0].0 != read[1].0, "another text is another lens");
    assert_eq!(read[1], read[2]);
}

/// Parts that were fitted elsewhere are put together; what does not fit is said.
#[test]
fn parts_are_merged_in_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    let model = Model::open("text").unwrap();
    let rows = prompts(&model, &["prose".to_owned()], 48, Some(4), &Progress::new()).unwrap();
    let settings = |shard| Settings { layers: Vec::new(), skip: 8, tokens: 48, texts: vec!["prose".to_owned()], shard };
    for i in 0..2 {
        let part = fit(&model, &rows, &settings((i, 2)), None, &Progress::new(), &mut |_| {}).unwrap();
        part.save(&parts.join(format!("{i}.safetensors"))).unwrap();
    }
    let mut h = window(desk());
    h.state_mut().state.features.folders.lenses = folder.path().join("lenses");
    look(&mut h, "lens");
    h.get_by_label("fit").click();
    h.run();
    let merge = |h: &mut Harness<'static, App>, path: &std::path::Path| {
        h.get_by_label("folder of parts").focus();
        h.run();
        h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
        h.run();
        h.get_by_label("folder of parts").type_text(&path.display().to_string());
        h.run();
        h.get_by_label("Merge").click();
        h.run();
        settle(h);
        settle(h);
    };
    merge(&mut h, folder.path());
    assert!(h.query_by_label_contains("holds no part of a fit").is_some());
    // What is no part is left out, and said.
    circuitscope::files::write_atomic(&parts.join("notes.txt"), b"fitted on Tuesday").unwrap();
    merge(&mut h, &parts);
    assert!(h.query_all_by_label_contains("1 other files of the folder are left out").count() > 0);
    let merged = h.state().state.desk().views["lens"]["jacobian"].as_str().unwrap().to_owned();
    let whole = fit(&model, &rows, &settings((0, 1)), None, &Progress::new(), &mut |_| {}).unwrap().lens().unwrap();
    let merged = JacobianLens::open(std::path::Path::new(&merged)).unwrap();
    assert_eq!(merged.about.n_prompts, whole.about.n_prompts);
    for (layer, j) in &whole.layers {
        let difference = (j - &merged.layers[layer]).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 2e-3);
    }
}

/// To first order the lens of one prompt says what comes of a small change; and what comes of a change is what a full run
/// under the same edit gives.
#[test]
fn faithfulness_is_that_of_a_full_run() {
    use circuitscope::analysis::transport::token_vector;
    use circuitscope::engine::edit::{Direction, Edit};
    use circuitscope::engine::resolve::{Sources, resolve};
    use circuitscope::engine::{Site, SiteKind, Trace};
    use std::sync::Arc;
    let model = Arc::new(Model::open("text").unwrap());
    let ids = model.encode(PROMPT, false).unwrap();
    let trace = Arc::new(Trace::run(&model, ids, &Progress::new()).unwrap());
    let targets: Vec<Target> = (0..3)
        .flat_map(|layer| (0..trace.len()).map(move |pos| Target { layer, pos, token: 40 + pos as u32 }))
        .collect();
    for swap in [None, Some(9)] {
        let question = FaithfulOf { trace: trace.clone(), lens: None, targets: targets.clone(), swap };
        let found = question.run(&Progress::new(), &mut |_| {}).unwrap();
        // The last layer is what comes out, and is not asked.
        assert_eq!(found.len(), 2 * trace.len());
        for effect in found.iter().step_by(5) {
            let Target { layer, pos, token } = effect.target;
            let v = |t| token_vector(&model, None, layer, t).unwrap();
            let direction = |t| Direction::Concept { name: String::new(), vector: v(t) };
            let action = match swap {
                None => Do::Project { direction: direction(token) },
                Some(t) => Do::Exchange { from: direction(token), to: direction(t), factor: 1.0, clamped: false },
            };
            let edit = Edit::new(Site::new(SiteKind::ResidPost, layer), action).at(pos);
            let op = resolve(&edit, &Sources::alone(&trace)).unwrap();
            let full = Trace::run_edited(&model, trace.ids.clone(), Arc::new(vec![op]), &Progress::new()).unwrap();
            let change = (&full.resid_final - &trace.resid_final).unwrap().sum(0).unwrap().to_vec1::<f32>().unwrap();
            let mut along = v(token);
            if let Some(t) = swap {
                along.iter_mut().zip(v(t)).for_each(|(a, b)| *a -= b);
            }
            let real: f32 = change.iter().zip(&along).map(|(a, b)| a * b).sum();
            assert!((real - effect.real).abs() < 2e-3 * real.abs().max(1.0), "{effect:?} against {real}");
        }
    }
}

#[test]
fn heads_have_pages() {
    let mut h = window(desk());
    look(&mut h, "heads");
    h.state_mut().state.apply(
        ModelAction::View("heads", json!({"text": "prose", "tokens": 1000, "scans": true, "by": "previous"})),
        0.0,
    );
    settle(&mut h);
    let values = numbers(&h, "heads");
    let model = h.state().state.model.clone().unwrap();
    assert_eq!((values.len(), values[0].len()), (model.config.n_layers * model.config.n_heads, 8));
    assert!(h.query_all_by_label_contains("its query is fed by").count() > 0);
    h.get_by_label("table").click();
    settle(&mut h);
    assert!(h.query_all_by_label_contains("1.0 ").count() > 0);
    // A click on a name sorts by it, a second one turns the order.
    let first = |h: &Harness<'static, App>| {
        let rows = h.query_all_by_role(Role::Button).filter_map(|n| n.accesskit_node().label());
        rows.into_iter().find(|l| l.split_whitespace().count() == 9 && l.contains('.')).unwrap()
    };
    let number = |row: &str, column: usize| row.split_whitespace().nth(1 + column).unwrap().parse::<f32>().unwrap();
    let of = |column: usize| values.iter().map(move |row| row[column].unwrap());
    for (name, column, largest) in [("entropy", 4, true), ("entropy", 4, false), ("anti-copying", 7, true)] {
        // The column may lie beyond the list's edge, where no pointer reaches it.
        h.get_by_label(&format!("sort by {name}")).click_accesskit();
        settle(&mut h);
        let best = if largest { of(column).fold(f32::MIN, f32::max) } else { of(column).fold(f32::MAX, f32::min) };
        let row = first(&h);
        assert!((number(&row, column) - best).abs() < 1e-3, "{name}: {row} where {best} belongs");
    }
}

/// Pages that the command line wrote open in the window; those of other weights are refused.
#[test]
fn head_pages_are_dropped_on_the_window() {
    use circuitscope::app::shell::files::{Message, read_dropped};
    use circuitscope::features::rows::{Cut, Rows};
    use circuitscope::heads::index_file;
    use circuitscope::heads::scan::Plan;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages.arrow");
    let model = std::sync::Arc::new(Model::open("text").unwrap());
    let rows = Rows::cut(&model, &["prose".to_owned()], &Cut::new(32, Some(600)), &Progress::new()).unwrap();
    let texts = vec!["prose".to_owned()];
    let plan = Plan { model: &model, rows: &rows, texts, context: 32, limit: None, shard: (0, 1) };
    let index = plan.run(Some(&path), &Progress::new(), &mut |_| {}).unwrap();
    assert!(matches!(read_dropped(&path), Message::HeadPages(p) if p == path));
    let mut h = window(desk());
    look(&mut h, "heads");
    let settings = circuitscope::app::model::views::heads::opened(h.state().state.desk(), &path);
    h.state_mut().state.apply(ModelAction::View("heads", settings), 0.0);
    settle(&mut h);
    let shown = numbers(&h, "heads");
    assert_eq!(
        shown[5][0],
        Some(index.mean(
            5 / index.about.n_heads,
            5 % index.about.n_heads,
            circuitscope::heads::index::Measure::Previous
        ))
    );
    assert!(h.query_all_by_label_contains("queries in pages.arrow").count() > 0);
    let mut other = index;
    other.about.shard.model_hash = "0".repeat(16);
    index_file::save(&other, &path).unwrap();
    let error = index_file::open(&path).unwrap().check(&model).unwrap_err().to_string();
    assert!(error.contains("other weights"), "{error}");
}
