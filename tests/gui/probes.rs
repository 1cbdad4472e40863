//! The view of probes: texts from a file or typed, probes beside their controls, the interchange; what the command line
//! answers, undo, stopping.

use crate::alike::near;
use crate::common::json;
use crate::window::{labelled, look, settle, window};
use circuitscope::app::action::Command;
use circuitscope::app::export::commands::command;
use circuitscope::app::export::table::Table;
use circuitscope::app::features::views::probes::VIEW;
use circuitscope::app::model::ModelAction;
use circuitscope::app::{App, view};
use circuitscope::session::Desk;
use circuitscope::session::desk::Pinned;
use eframe::egui::accesskit::Role;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use serde_json::{Value, json as value};

fn table(h: &Harness<'static, App>) -> Option<Table> {
    let app = h.state();
    let palette = circuitscope::app::look::theme::Palette::of(&h.ctx);
    let (mut actions, mut hovered) = (Vec::new(), Default::default());
    let cx = view::Context { state: &app.state, palette, actions: &mut actions, hovered: &mut hovered };
    app.layout.pane(VIEW.name).unwrap().0.table(&cx)
}

fn type_into(h: &mut Harness<'static, App>, field: &str, text: &str) {
    h.get_by_label(field).focus();
    h.run();
    h.get_by_label(field).type_text(text);
    h.run();
}

pub fn choose(h: &mut Harness<'static, App>, label: &str, value: &str) {
    h.get_by_role_and_label(Role::ComboBox, label).click();
    h.run();
    h.get_by_label(value).click();
    h.run();
}

fn asked(h: &Harness<'static, App>) -> Value {
    h.state().state.desk().views.get(VIEW.name).cloned().unwrap_or_default()
}

fn desk() -> Desk {
    Desk { model: "text".to_owned(), prompt: "The king and the".to_owned(), ..Desk::default() }
}

#[test]
fn a_property_is_read_and_interchanged_as_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kinds.tsv");
    circuitscope::files::write_atomic(&path, labelled().as_bytes()).unwrap();
    let file = path.display().to_string();
    let mut h = window(desk());
    look(&mut h, VIEW.name);
    assert!(h.query_by_label_contains("fit probes on labelled texts").is_some() && table(&h).is_none());
    choose(&mut h, "texts", "a file");
    type_into(&mut h, "file of labelled texts", &file);
    choose(&mut h, "each text as", "its last token");
    choose(&mut h, "reads", "k coordinates");
    h.get_by_label("Fit").click();
    h.run();
    settle(&mut h);
    assert_eq!(asked(&h)["fit"]["texts"], value!({"set": file}));
    let line = command(&h.state().state, &VIEW).unwrap();
    assert!(line.starts_with("circuitscope probe fit -m text --set ") && line.ends_with("--json"), "{line}");
    // The numbers are the command's.
    let said = json(&["probe", "fit", "-m", "text", "--set", &file, "--pool", "last", "--k", "16"]);
    let mine = table(&h).unwrap();
    assert_eq!(mine.rows.len(), said["layers"].as_array().unwrap().len());
    for (row, layer) in mine.values.iter().zip(said["layers"].as_array().unwrap()) {
        let mut theirs = Vec::new();
        for curve in ["score", "shuffled_labels", "random_coordinates", "random_model"] {
            for by in ["accuracy", "auc"] {
                let interval = &layer[curve][format!("{by}_interval")];
                theirs.extend([layer[curve][by].clone(), interval[0].clone(), interval[1].clone()]);
            }
        }
        near("probe fit", &value!(row), &value!(theirs));
    }
    // The prompt ends in "the", behind which a thing or a person comes: the probe says of each layer how sure it is.
    let prompt = &mine.more[0];
    assert_eq!(
        (&*prompt.name, &prompt.cols[..]),
        ("probes-at-the-prompt", &["people".to_owned(), "things".to_owned()][..])
    );
    assert_eq!(prompt.rows, mine.rows);
    for row in &prompt.values {
        assert!((row.iter().flatten().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
    }
    assert!(h.query_by_label_contains("this prompt").is_some());
    assert!(mine.values[1][0].unwrap() > 0.9, "people and things can be told apart: {:?}", mine.values[1]);
    // What is read is interchanged at the pinned layer.
    let pinned = h.state().state.pinned();
    h.state_mut().state.apply(ModelAction::Pin(Pinned { layer: 1, ..pinned }), 0.0);
    settle(&mut h);
    type_into(&mut h, "answers of the classes", " was, of");
    h.get_by_label("Interchange").click();
    h.run();
    settle(&mut h);
    assert!(h.query_by_label_contains("its part of resid_post in layer 1 is put in at the last token").is_some());
    let said = json(&[
        "probe",
        "interchange",
        "-m",
        "text",
        "--set",
        &file,
        "--answers",
        " was, of",
        "--layer",
        "1",
        "--k",
        "16",
        "--pairs",
        "64",
    ]);
    let used = table(&h).unwrap().more.remove(0);
    assert!(used.rows.iter().any(|row| row == "the 16-sparse probe's directions"), "{:?}", used.rows);
    let found = &said["interchange"];
    let controls =
        ["shuffled_labels", "shuffled_probe", "random_model_untouched", "random_model", "random_model_probe"];
    let names = [&["base", "untouched", "whole", "das", "probe", "means"][..], &controls].concat();
    let mut theirs: Vec<Value> = names.iter().map(|n| found[n].clone()).collect();
    theirs.insert(6, found["random_subspaces"]["1"].clone());
    near("probe interchange", &value!(used.values.iter().map(|r| r[0]).collect::<Vec<_>>()), &value!(theirs));
    assert!(h.query_by_label_contains("It is used").is_some() && h.query_all_by_label_contains("DAS ").count() > 1);
    assert!(command(&h.state().state, &VIEW).unwrap().contains("&& circuitscope probe interchange -m text"));
    // What was asked is taken back and done again.
    let whole = asked(&h);
    let ctx = h.ctx.clone();
    for _ in 0..2 {
        h.state_mut().command(&ctx, Command::Undo);
        settle(&mut h);
    }
    assert!(asked(&h)["fit"].is_null() && table(&h).is_none(), "{}", asked(&h));
    for _ in 0..2 {
        h.state_mut().command(&ctx, Command::Redo);
        settle(&mut h);
    }
    assert_eq!(asked(&h), whole);
    assert_eq!(table(&h).unwrap().more.len(), 2);
}

#[test]
fn typed_texts_are_read_and_bad_ones_are_one_sentence() {
    let mut h = window(desk());
    look(&mut h, VIEW.name);
    choose(&mut h, "texts", "my own");
    type_into(&mut h, "labelled texts", "label\ttext\nonly\tone class");
    h.get_by_label("Fit").click();
    h.run();
    settle(&mut h);
    assert!(h.query_by_label_contains("single class").is_some());
    let fit = value!({"texts": {"typed": labelled()}, "layers": [1], "random": 4});
    h.state_mut().state.apply(ModelAction::View(VIEW.name, value!({"fit": fit, "by": "auc"})), 0.0);
    settle(&mut h);
    let read = table(&h).unwrap();
    assert_eq!(read.rows, ["1"]);
    assert!(h.query_by_label_contains("It can be read off the mean resid_post: AUC on 8 held-out texts").is_some());
    assert!(command(&h.state().state, &VIEW).is_none(), "typed texts lie in no file");
}

#[test]
fn a_fit_is_stopped_and_gone_on_with() {
    let mut h = window(desk());
    look(&mut h, VIEW.name);
    h.get_by_label("Fit").click();
    h.run_steps(3);
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::Cancel);
    h.run();
    assert!(h.query_all_by_label("Stop").count() == 0 && h.query_by_label("Fit").is_some());
    assert_eq!(asked(&h)["fit"]["texts"], value!({"set": "sentiment"}));
    let whole = h.state().state.model.as_ref().unwrap().config.n_layers;
    assert!(table(&h).is_none_or(|t| t.rows.len() < whole));
    h.get_by_label("Fit").click();
    h.run();
    settle(&mut h);
    assert_eq!(table(&h).unwrap().rows.len(), whole);
}

/// The probe that is interchanged is the one of the site, the tokens and the coordinates that are read.
#[test]
fn what_is_read_is_what_is_interchanged() {
    let mut h = window(desk());
    look(&mut h, VIEW.name);
    choose(&mut h, "texts", "number");
    choose(&mut h, "at", "z");
    choose(&mut h, "tokens", "all but the first");
    type_into(&mut h, "answers of the classes", " were, was");
    let pinned = h.state().state.pinned();
    h.state_mut().state.apply(ModelAction::Pin(Pinned { layer: 1, ..pinned }), 0.0);
    h.get_by_label("Interchange").click();
    h.run();
    settle(&mut h);
    let recipe = &asked(&h)["interchange"]["recipe"];
    assert_eq!((&recipe["site"], &recipe["pool"]), (&value!("Z"), &value!("mean")));
    assert!(h.query_by_label_contains("its part of z in layer").is_some());
    assert!(h.query_by_label_contains("at every token but the first").is_some());
    let line = command(&h.state().state, &VIEW).unwrap();
    assert!(line.contains("--site z --pool mean --layer 1 "), "{line}");
    let swap = ["probe", "interchange", "-m", "text", "--set", "number", "--answers", " were, was", "--layer", "1"];
    let found = &json(&[&swap[..], &["--site", "z", "--pool", "mean"]].concat())["interchange"];
    let used = table(&h).unwrap();
    assert_eq!(used.name, "interchange-number-mean-z-layer-1");
    let row = |name: &str| used.rows.iter().position(|r| r == name).map(|r| used.values[r][0]).unwrap();
    for (row, theirs) in
        [(row("all of z"), "whole"), (row("DAS"), "das"), (row("the linear probe's directions"), "probe")]
    {
        near("probe interchange", &value!(row), &found[theirs]);
    }
    // What was chosen stays when the document is opened again, and when the other number is looked at.
    let desk = h.state().state.desk().clone();
    let mut h = window(desk);
    look(&mut h, VIEW.name);
    settle(&mut h);
    h.get_by_label("Interchange").click();
    h.run();
    settle(&mut h);
    let again = &asked(&h)["interchange"]["recipe"];
    assert_eq!(
        (&again["site"], &again["pool"], &again["texts"]),
        (&value!("Z"), &value!("mean"), &value!({"set": "number"}))
    );
}
