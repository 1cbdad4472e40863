//! Sessions: kept by themselves, saved, opened again.

use crate::common::json;
use crate::window::{PROMPT, document, look, save_to, settle, until, window};
use circuitscope::analysis::patching::Ablation;
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command};
use circuitscope::app::export::commands::command;
use circuitscope::app::export::provenance::Provenance;
use circuitscope::app::model::ModelAction;
use circuitscope::app::superposition::SuperpositionAction;
use circuitscope::app::training::TrainingAction;
use circuitscope::circuit::Member;
use circuitscope::engine::edit::{Action as Do, Edit};
use circuitscope::engine::{RunSide, Site, SiteKind};
use circuitscope::session::Document;
use circuitscope::session::desk::{Intervention, PatchSettings, Show};
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
        ModelAction::Thresholds(Some((0.5, 0.9))),
    ] {
        h.state_mut().state.apply(action, 0.0);
    }
    settle(h);
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
    until(&mut h, "it is kept", |h| holds(&kept, &h.state().state.document));
    // Nothing that is only looked at is lost either, and what rests is not written again.
    let pinned = h.state().state.pinned();
    let pinned = circuitscope::session::desk::Pinned { pos: 1, layer: 1, ..pinned };
    h.state_mut().state.apply(ModelAction::Pin(pinned), 0.0);
    until(&mut h, "it is kept", |h| holds(&kept, &h.state().state.document));
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
    save_to(&mut h, &path);
    until(&mut h, "it is said", |h| h.state().keeping.file.is_some());
    assert_eq!(h.state().title(), "mine – circuitscope");
    let first = h.state().state.document.clone();
    assert_eq!(Session::open(&path).unwrap().document, first);
    // Its file is behind until it is saved again, without a question.
    h.state_mut().state.apply(ModelAction::Answer(" States".to_owned()), 0.0);
    assert_eq!(h.state().title(), "mine • – circuitscope");
    h.state_mut().command(&ctx, Command::SaveSession);
    until(&mut h, "it is said", |h| h.state().title() == "mine – circuitscope");
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
    until(&mut h, "it is said", |h| h.state().keeping.file.as_deref() == Some(&path));
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
    until(&mut h, "it is said", |h| {
        h.state().state.notices.latest().is_some_and(|n| n.text.contains("not a usable session"))
    });
    assert_eq!(h.state().state.document, saved);
}

/// Names the folder of [`the_one_that_is_killed`].
const FOLDER: &str = "CIRCUITSCOPE_KILLED_IN";

/// The program that is killed: it changes the answer in every frame, says so, and saves. Alone it does nothing.
#[test]
fn the_one_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    // The window's clock goes as fast as time does.
    let step = Duration::from_millis(20);
    let mut h = Harness::builder()
        .with_step_dt(step.as_secs_f32())
        .with_max_steps(60)
        .build_eframe(|cc| App::new(&cc.egui_ctx, document(PROMPT).into(), Vec::new()));
    settle(&mut h);
    h.state_mut().keep_in(folder).unwrap();
    h.state_mut().keeping.file = Some(folder.join("mine.scope"));
    let ctx = h.ctx.clone();
    for n in 0.. {
        h.state_mut().state.apply(ModelAction::Answer(format!(" {n}")), f64::from(n));
        circuitscope::cli::emit(&format!("\nedit {n}")).unwrap();
        if n % 5 == 0 {
            h.state_mut().command(&ctx, Command::SaveSession);
        }
        if n % 7 == 0 {
            let svg = h.state_mut().plate("lens", egui::vec2(480.0, 360.0), true);
            circuitscope::files::write_atomic(&folder.join("lens.svg"), svg.as_bytes()).unwrap();
        }
        h.step();
        std::thread::sleep(step);
    }
}

/// Killed at any moment, the program has lost at most the changes of two seconds, and no file is damaged. The
/// environment variable `CIRCUITSCOPE_KILLS` says how often it is killed.
#[test]
fn a_kill_loses_nothing() {
    let kills = std::env::var("CIRCUITSCOPE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut kept_once = 0;
    for kill in 0..kills {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "session::the_one_that_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut edits = lines.map_while(Result::ok).filter_map(|l| l.strip_prefix("edit ")?.parse::<u64>().ok());
        // At any moment of the first frames, and of a frame.
        let enough = 3 + (kill * 37) % 120;
        let mut last = edits.find(|n| *n >= enough).expect("it edits until it is killed");
        std::thread::sleep(Duration::from_millis(kill * 7 % 20));
        child.kill().unwrap();
        child.wait().unwrap();
        last = edits.last().unwrap_or(last);
        let [kept, mine] = ["window-0.scope", "mine.scope"].map(|name| folder.path().join(name));
        // Two seconds of the window's clock.
        let most = 100;
        if kept.exists() {
            let answer = Session::open(&kept).unwrap().document.desk.answer;
            let at: u64 = answer.trim().parse().unwrap_or(0);
            assert!(last - at <= most, "edit {at} of {last} was kept");
            kept_once += 1;
        } else {
            assert!(last <= most, "nothing was kept in {last} edits");
        }
        if mine.exists() {
            Session::open(&mine).unwrap();
        }
        if let Ok(svg) = std::fs::read_to_string(folder.path().join("lens.svg")) {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "half a picture");
        }
    }
    assert!(kept_once > 0, "no session was ever kept");
}

#[test]
fn a_session_runs_without_a_window_and_gives_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.scope");
    let mut h = window(document(PROMPT));
    work(&mut h);
    for (view, text) in [("lens", "what is <seen> here"), ("norms", "")] {
        h.state_mut().state.apply(ModelAction::Note(view, text.to_owned()), 0.0);
    }
    let views = ["lens", "attribution", "norms", "attention", "patching", "entropy"];
    Session { file: None, document: h.state().state.document.clone() }.save(&path).unwrap();
    let name = path.display().to_string();
    let args = ["session", "run", &name].into_iter().chain(views.iter().flat_map(|v| ["--view", v]));
    let run = json(&args.collect::<Vec<_>>());
    for view in views {
        look(&mut h, view);
        let def = circuitscope::app::view::by_name(view).unwrap();
        let of = Provenance::of(&h.state().state, def);
        let table = h.state_mut().table(view).unwrap_or_else(|| panic!("{view} has no numbers")).json(&of);
        let said = &run["results"][view];
        assert_eq!(
            (&said["rows"], &said["cols"], &said["texts"]),
            (&table["rows"], &table["cols"], &table["texts"]),
            "{view}"
        );
        let numbers = |t: &serde_json::Value| -> Vec<Option<f64>> {
            t["values"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|r| r.as_array().unwrap())
                .map(serde_json::Value::as_f64)
                .collect()
        };
        for (a, b) in numbers(said).into_iter().zip(numbers(&table)) {
            assert_eq!(a.is_some(), b.is_some(), "{view}");
            let (a, b) = (a.unwrap_or(0.0), b.unwrap_or(0.0));
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{view}: {a} without a window, {b} in one");
        }
    }
    assert_eq!(run["warnings"], serde_json::json!([]));
    // The report has what the session shows, and the notes.
    let report = folder.path().join("report.html");
    let out = crate::common::run(&["session", "report", &name, "-o", &report.display().to_string()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(html.contains("what is &lt;seen&gt; here") && html.matches("<svg").count() >= 4);
}

/// Runs a command line as a shell would.
#[cfg(unix)]
fn in_shell(line: &str, folder: &Path) -> std::process::Output {
    let line = line.replacen("circuitscope", env!("CARGO_BIN_EXE_circuitscope"), 1);
    std::process::Command::new("sh").args(["-c", &line]).current_dir(folder).output().unwrap()
}

#[cfg(unix)]
#[test]
fn the_commands_of_a_report_run_and_give_the_numbers_of_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = crate::circuits::copying_pair();
    h.state_mut().state.apply(ModelAction::Show(Show::Clean), 0.0);
    for intervention in [None, Some(Intervention::Ablate(Ablation::Resample))] {
        let settings = PatchSettings { intervention, ..h.state().state.desk().patching };
        h.state_mut().state.apply(ModelAction::Patch(settings), 0.0);
        for name in ["lens", "attribution", "norms", "attention", "entropy", "graph", "patching"] {
            look(&mut h, name);
            let def = circuitscope::app::view::by_name(name).unwrap();
            let line = command(&h.state().state, def).unwrap_or_else(|| panic!("{name} has no command"));
            let out = in_shell(&line, folder.path());
            assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
            let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            let table = h.state_mut().table(name).unwrap();
            let (number, first) = match name {
                "entropy" => (&said["values"][0][1], table.values[0][1]),
                "attribution" => (&said["parts"]["heads"][0][0], table.values[0][0]),
                "patching" if intervention.is_none() => (&said["values"][0][0], table.values[0][0]),
                _ => continue,
            };
            let (number, first) = (number.as_f64().unwrap(), f64::from(first.unwrap()));
            assert!((number - first).abs() < 1e-4, "{line}: {number}, in the window {first}");
        }
    }
    // Of another run than the clean one there is no such command.
    h.state_mut().state.apply(ModelAction::Show(Show::Corrupted), 0.0);
    look(&mut h, "lens");
    assert!(command(&h.state().state, &circuitscope::app::model::views::lens::VIEW).is_none());
}

#[test]
fn a_view_is_exported_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let mut h = window(document(PROMPT));
    let ctx = h.ctx.clone();
    let forms: [(&str, &str, &[u8]); 6] = [
        ("PNG", "a.png", b"\x89PNG"),
        ("SVG", "a.svg", b"<svg"),
        ("PDF", "a.pdf", b"%PDF"),
        ("CSV", "a.csv", b"# program: circuitscope"),
        ("JSON", "a.json", b"{"),
        ("NumPy (.npz)", "a.npz", b"PK"),
    ];
    for (form, name, magic) in forms {
        let path = folder.path().join(name);
        h.state_mut().act(&ctx, Action::Export("lens"));
        h.run_steps(3);
        h.get_by_label(form).click();
        h.run_steps(3);
        h.get_by_label("Save…").click();
        until(&mut h, "a place is asked for", |h| h.query_by_label("Path to save to").is_some());
        h.run_steps(3);
        save_to(&mut h, &path);
        until(&mut h, "the file is written", |_| path.exists());
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(magic), "{form}: {:?}", &bytes[..bytes.len().min(30)]);
        settle(&mut h);
    }
}

/// What is set in the workspaces that train models is part of the session, and is taken back like everything else.
#[test]
fn settings_of_the_labs_are_in_the_session() {
    let mut h = window(document(PROMPT));
    let recipe = |steps| {
        let first = circuitscope::superposition::presets::by_name("pentagon").unwrap();
        circuitscope::superposition::Recipe { steps, ..(first.recipe)() }
    };
    let first = h.state().state.document.labs.clone();
    let state = &mut h.state_mut().state;
    state.apply(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe(123)))), 0.0);
    state.apply(Action::Training(TrainingAction::Choose("addition")), 10.0);
    state.apply(Action::Training(TrainingAction::Seed(7)), 20.0);
    let labs = |h: &Harness<'static, App>| {
        let s = &h.state().state;
        (s.superposition.recipe.steps, s.training.task.name, s.training.seed)
    };
    assert_eq!(labs(&h), (123, "addition", 7));
    let names: Vec<String> = h.state().state.history.changes().0.map(str::to_owned).collect();
    assert_eq!(names, ["settings of the toy models", "choose addition", "settings of the training"]);
    let (ctx, all) = (h.ctx.clone(), h.state().state.document.clone());
    let own = first.superposition.recipe.steps;
    for expected in [(123, "addition", 1), (123, "alphabetical", 1), (own, "alphabetical", 1)] {
        h.state_mut().command(&ctx, Command::Undo);
        settle(&mut h);
        assert_eq!(labs(&h), expected);
    }
    assert_eq!(h.state().state.document.labs, first);
    // Another window on the session's file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labs.scope");
    Session { file: None, document: all.clone() }.save(&path).unwrap();
    let mut again = window(document(PROMPT));
    again.state_mut().state.replace_document(Session::open(&path).unwrap().document);
    settle(&mut again);
    assert_eq!((labs(&again), again.state().state.document.labs == all.labs), ((123, "addition", 7), true));
    // A file of before says nothing of them, and one with another program's names opens with what is known.
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    value["document"]["labs"]["training"]["task"] = "no such task".into();
    value["document"]["labs"]["superposition"]["figure"] = "no such figure".into();
    circuitscope::files::write_atomic(&path, value.to_string().as_bytes()).unwrap();
    again.state_mut().state.replace_document(Session::open(&path).unwrap().document);
    settle(&mut again);
    assert_eq!(labs(&again), (123, "addition", 7));
    value["document"].as_object_mut().unwrap().remove("labs").unwrap();
    circuitscope::files::write_atomic(&path, value.to_string().as_bytes()).unwrap();
    assert_eq!(Session::open(&path).unwrap().document.labs, first);
}

/// A copy is made beside the window; what is drawn again while a dialog is open is of one model, with its numbers.
#[test]
fn an_export_stays_of_one_model_while_another_one_opens() {
    let mut h = window(document(PROMPT));
    h.state_mut().begin_export("lens");
    h.run_steps(2);
    h.state_mut().state.apply(Action::Open("addition".to_owned()), 0.0);
    settle(&mut h);
    h.get_by_label("dark").click();
    h.run_steps(3);
    assert!(h.query_all_by_label_contains("addition").count() > 1, "the caption is of what is drawn");
    h.get_by_label("CSV").click();
    h.run_steps(3);
    h.get_by_label("Copy").click();
    until(&mut h, "it is said", |h| {
        h.state().state.notices.latest().is_some_and(|n| n.text.starts_with("Copied the numbers"))
    });
    let text = h.output().platform_output.commands.iter().find_map(|c| match c {
        egui::OutputCommand::CopyText(text) => Some(text.clone()),
        _ => None,
    });
    let text = text.expect("the numbers are on the clipboard");
    assert!(text.contains("addition") && !text.contains("induction"), "{text}");
    h.state_mut().begin_export("lens");
    h.run_steps(2);
    h.get_by_label("Copy").click();
    until(&mut h, "it is said", |h| {
        h.state().state.notices.latest().is_some_and(|n| n.text.starts_with("Copied the picture"))
    });
}

/// Escape while a session's model opens stops that, and loses nothing of the session.
#[test]
fn escape_while_a_session_opens_is_safe() {
    let mut h = window(document(PROMPT));
    let other = Document::from(circuitscope::session::Desk {
        model: "text".to_owned(),
        prompt: "The king and the queen".to_owned(),
        answer: " of".to_owned(),
        ..Default::default()
    });
    let ctx = h.ctx.clone();
    for _ in 0..3 {
        h.state_mut().state.replace_document(other.clone());
        h.state_mut().command(&ctx, Command::Cancel);
        h.run_steps(3);
        let d = &h.state().state.document.desk;
        assert_eq!((&d.model, &d.prompt, &d.answer), (&other.desk.model, &other.desk.prompt, &other.desk.answer));
        assert!(h.state().state.model.as_ref().is_none_or(|m| m.spec == "text"), "nothing of the other model is shown");
        h.state_mut().command(&ctx, Command::RunAgain);
        settle(&mut h);
        let state = &h.state().state;
        assert_eq!(state.model.as_ref().unwrap().spec, "text");
        assert_eq!(state.run().unwrap().prompt, other.desk.prompt);
        h.state_mut().state.apply(Action::Open("induction".to_owned()), 0.0);
        settle(&mut h);
    }
}
