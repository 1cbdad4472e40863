//! The window: what a user does and sees, and a picture of every view in both themes.
#![cfg(feature = "gui")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use circuitscope::analysis::audit::audit;
use circuitscope::analysis::component::Component;
use circuitscope::analysis::feature_geometry::Directions;
use circuitscope::analysis::metric::{Metric, MetricKind};
use circuitscope::analysis::patching::Ablation;
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::action::Command;
use circuitscope::app::features::Chosen;
use circuitscope::app::features::Examples;
use circuitscope::app::features::FeatureAction;
use circuitscope::app::features::Pending;
use circuitscope::app::features::Ranking;
use circuitscope::app::features::Scanned;
use circuitscope::app::features::Search;
use circuitscope::app::look::svg::paint_cells;
use circuitscope::app::model::circuits::CircuitSettings;
use circuitscope::app::model::circuits::GraphTarget;
use circuitscope::app::model::runs::PatchSettings;
use circuitscope::app::model::runs::Show;
use circuitscope::app::shell::layout::Layout;
use circuitscope::app::superposition::LabAction;
use circuitscope::app::training::ScratchAction;
use circuitscope::app::view;
use circuitscope::app::view::Workspace;
use circuitscope::circuit::cart::Cart;
use circuitscope::engine::edit::{Action as Do, Edit};
use circuitscope::engine::{EditStack, Site, SiteKind, Which};
use circuitscope::features::dashboard::Groups;
use circuitscope::features::dictionary::formats::saelens;
use circuitscope::features::dictionary::{Activation, Dictionary, Normalisation};
use circuitscope::features::direction::Method;
use circuitscope::features::direction::concept::Pool;
use circuitscope::features::labels::{Label, Labels, Unit, of_model};
use circuitscope::features::reading::Order;
use circuitscope::features::scan::Subject;
use circuitscope::features::scan::index::{About, Entry, Example, Index};
use circuitscope::features::scan::index_file;
use circuitscope::features::train::Point;
use circuitscope::gpu::heatmap::{Coloring, HeatmapCallback};
use circuitscope::gpu::offscreen::Offscreen;
use circuitscope::gpu::{ColorMap, HeatData};
use circuitscope::model::builtin::BUILTINS;
use circuitscope::progress::Progress;
use circuitscope::session::Document;
use circuitscope::session::lesson::shipped;
use circuitscope::superposition::phases::Grid;
use circuitscope::superposition::presets::by_name;
use circuitscope::superposition::recipe::Sweep;
use circuitscope::superposition::{Moment, Recipe, Toy};
use circuitscope::training::StepReport;
use circuitscope::training::addition::Fourier;
use circuitscope::training::course::Sight;
use common::fixture;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};

const PROMPT: &str = "The President of the United States and the President of the";

fn document(prompt: &str) -> Document {
    Document { model: "induction".to_owned(), prompt: prompt.to_owned(), ..Document::default() }
}

/// A window of the given size; without a renderer, since most flows need none.
fn window(document: Document) -> Harness<'static, App> {
    let mut h = Harness::builder()
        .with_size([1280.0, 800.0])
        .with_max_steps(60)
        .with_os(egui::os::OperatingSystem::Nix)
        .build_eframe(move |cc| App::new(&cc.egui_ctx, document, Vec::new()));
    settle(&mut h);
    h
}

/// Waits for all results, then draws them.
fn settle(h: &mut Harness<'static, App>) {
    let ctx = h.ctx.clone();
    h.state_mut().settle(&ctx, Duration::from_secs(120)).unwrap();
    h.run();
}

/// Something for the causal views to show: an edit, a sweep, a text.
fn causes(h: &mut Harness<'static, App>) {
    h.state_mut().state.apply(Action::Geometry(Directions::Embedding), 0.0);
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(2);
    let state = &mut h.state_mut().state;
    let settings = state.first_patching();
    state.apply(Action::Patch(settings), 0.0);
    state.apply(Action::ToggleEdit(Which::Clean, zero), 0.0);
    settle(h);
    let state = &mut h.state_mut().state;
    state.apply(Action::ShowRun(Show::Clean), 0.0);
    state.apply(Action::Sampling(Default::default(), 12), 0.0);
    state.apply(Action::Generate, 0.0);
    state.apply(Action::TraceGraph, 0.0);
    let settings = CircuitSettings { outside: Ablation::Mean, ..Default::default() };
    state.apply(Action::CircuitSettings(settings), 0.0);
    let nodes = ["a0.h2", "a1.h0", "a1.h1", "a1.h3"].map(str::to_owned).to_vec();
    state.apply(Action::SetCart(Cart { nodes, ..Default::default() }), 0.0);
    settle(h);
}

/// A small training of the lab, the same on every machine, that gives the named view something to show.
fn lab(h: &mut Harness<'static, App>, view: &str) {
    if view.starts_with("scratch-") {
        course(h);
    }
    let mut recipe = match view {
        "toy-scene" => Recipe::repeated(6, 3, 0.9, 1.0, 2),
        "toy-phases" => Recipe::phases(2, 1, Grid::new(5, 2)),
        "toy-samples" => (by_name("memorisation").unwrap().recipe)(),
        "toy-weights" => (by_name("privileged-basis").unwrap().recipe)(),
        v if v.starts_with("toy-") => (by_name("pentagon").unwrap().recipe)(),
        _ => return,
    };
    if let Sweep::Samples { values, .. } = &mut recipe.sweep {
        *values = vec![5, 20, 80];
        recipe.set_features(60);
    }
    recipe.steps = 600;
    recipe.optimiser.rate = 0.005;
    let setup = Arc::new(recipe.setup().unwrap());
    let mut toy = Toy::new(setup.clone()).unwrap();
    let mut moments = vec![Arc::new(Moment::of(&toy))];
    for _ in 0..6 {
        toy.run(100, &Progress::new()).unwrap();
        moments.push(Arc::new(Moment::of(&toy)));
    }
    h.state_mut().state.lab.present(recipe, setup, moments);
}

/// A dictionary of features for `induction`, the same on every machine, in a folder of its own.
fn dictionary() -> tempfile::TempDir {
    let (d, n) = (128, 40);
    let mut seed = 1u32;
    let mut draw = |scale: f32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        scale * ((seed >> 8) as f32 / (1 << 24) as f32 - 0.5)
    };
    let mut tensor = |rows: usize, cols: usize, scale: f32| {
        let values: Vec<f32> = (0..rows * cols).map(|_| draw(scale)).collect();
        candle_core::Tensor::from_vec(values, (rows, cols), &candle_core::Device::Cpu).unwrap()
    };
    let place = circuitscope::features::Place::parse("blocks.1.hook_resid_pre").unwrap();
    let dictionary = Dictionary {
        name: "test".to_owned(),
        path: Default::default(),
        format: "SAELens",
        d_in: d,
        d_sae: n,
        d_out: d,
        w_enc: tensor(d, n, 0.4),
        b_enc: vec![-0.6; n],
        w_dec: tensor(n, d, 0.3),
        later: Default::default(),
        b_dec: vec![0.0; d],
        activation: Activation::Relu,
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: false,
        input: Some(place),
        output: Some(place),
        model_name: Some("induction".to_owned()),
        config: serde_json::Value::Null,
    };
    let dir = tempfile::tempdir().unwrap();
    saelens::save(&dictionary, &dir.path().join("test"), &serde_json::json!({})).unwrap();
    dir
}

fn feature(h: &mut Harness<'static, App>, action: FeatureAction) {
    h.state_mut().state.apply(Action::Feature(action), 0.0);
    settle(h);
}

/// Something for the views of features to show.
fn features(h: &mut Harness<'static, App>) -> tempfile::TempDir {
    let dir = dictionary();
    let spec = dir.path().join("test").to_str().unwrap().to_owned();
    let set = dir.path().join("of.tsv");
    let rows: String =
        (0..8).map(|i| format!("{}\t{} of the\n", i % 2, if i % 2 == 0 { "house" } else { "king" })).collect();
    circuitscope::files::write_atomic(&set, format!("label\ttext\n{rows}").as_bytes()).unwrap();
    feature(h, FeatureAction::Open(spec));
    feature(h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 2_000));
    let find = FeatureAction::Find(Box::new(Search {
        examples: Examples::Set(set.to_str().unwrap().to_owned()),
        method: Method::DifferenceOfMeans,
        kind: SiteKind::ResidPost,
        pool: Pool::Mean,
    }));
    feature(h, find);
    let active = h.state().state.features.reading.value.as_ref().unwrap().leading(Default::default(), None, 1).0[0];
    feature(h, FeatureAction::Choose(Chosen::Feature(active)));
    feature(h, FeatureAction::Keep(active));
    feature(h, FeatureAction::Dose(vec![" the".to_owned()], vec![" a".to_owned()], "prose".to_owned()));
    feature(h, FeatureAction::Map);
    let state = &mut h.state_mut().state.features;
    state.training.parts = (0..20)
        .map(|i| {
            let t = i as f32 / 19.0;
            let score = (i % 5 == 4).then_some(0.9 * t);
            Point {
                step: 50 * i,
                mse: 90.0 - 70.0 * t,
                l0: 32.0,
                explained: 0.8 * t,
                dead: 0.1 * (1.0 - t),
                ce_score: score,
            }
        })
        .collect();
    let example = |i: u32, token: u32| Example {
        value: 3.0 - 0.1 * i as f32,
        key: i,
        row: i,
        document: 0,
        position: 1,
        start: 0,
        tokens: vec![300 + i, token, 400 + i],
        activations: vec![0.0, 3.0 - 0.1 * i as f32, 0.2],
    };
    let top: Vec<Example> = (0..10).map(|i| example(i, if i % 2 == 0 { 500 } else { 600 })).collect();
    let entry = Entry { active: 10, sum: 20.0, max: 3.0, top: top.clone(), sample: top, ..Default::default() };
    let about = About {
        model: "induction".to_owned(),
        subject: Subject::Neurons(0).name(),
        site: "blocks.0.mlp.hook_post".to_owned(),
        texts: vec!["prose".to_owned()],
        context: 64,
        limit: None,
        shards: vec![0],
        of: 1,
        done: 1,
        batches: 1,
        positions: 2000,
        sample: 10,
        window: 1,
        fingerprint: 0,
        top: 20,
        subject_hash: 0,
        features_of: None,
    };
    let neurons = Index { about, entries: vec![entry; 3] };
    let groups = Groups { of: (0..10).map(|i| i % 2).collect(), count: 2, apart: 0.7 };
    let neurons = Arc::new(neurons);
    state.neurons.value = Some(neurons.clone());
    state.ranking = Pending::there(Ranking { index: neurons, neurons: (0..3).map(|n| (n, groups.clone())).collect() });
    h.run();
    dir
}

/// A training of a lab transformer as it might have been, the same on every machine.
fn course(h: &mut Harness<'static, App>) {
    let named = |n: &str, v: f32| (n.to_owned(), v);
    let waves = |t: f32| (1..=29).map(|k| if [5, 14, 22].contains(&k) { 0.3 * t } else { 0.01 }).collect();
    let look = |step: usize| {
        let t = step as f32 / 500.0;
        let row = |d: usize| {
            (0..6).map(move |s| {
                if s > d {
                    0.0
                } else if s + 1 == d {
                    t
                } else {
                    (1.0 - t) / d.max(1) as f32
                }
            })
        };
        Arc::new(Sight {
            step,
            scores: vec![named("right, held-out pairs", t * t), named("loss, held-out pairs", 5.0 - 4.9 * t)],
            tokens: ["b", "d", "k", "m", "p", "?"].map(str::to_owned).to_vec(),
            patterns: vec![vec![(0..6).flat_map(row).collect(); 2]; 2],
            fourier: Some(Fourier { embedding: waves(t), logits: waves(t) }),
            folder: None,
        })
    };
    let report = |step: usize| StepReport {
        step,
        values: vec![named("trained pairs", 4.0 * (-(step as f32) / 60.0).exp() + 1e-4)],
        sight: None,
    };
    let steps = |by: usize| (0..=500).step_by(by);
    h.state_mut().state.scratch.present("addition", steps(25).map(report).collect(), steps(50).map(look).collect());
}

#[test]
fn lessons_name_only_what_exists() {
    for lesson in shipped() {
        circuitscope::app::shell::lessons::check(lesson).unwrap_or_else(|e| panic!("{}: {e}", lesson.title));
    }
}

#[test]
fn a_lesson_is_walked_through_and_leaves_everything_as_it_was() {
    walk_through("Induction heads");
}

#[test]
fn the_lesson_of_features_opens_what_it_speaks_of_and_puts_it_away() {
    walk_through("Features of a language model");
}

fn walk_through(title: &str) {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(Action::SetAnswer(" United".to_owned()), 0.0);
    settle(&mut h);
    let before = h.state().state.document.clone();
    h.get_by_label("Lessons  ▾").click();
    h.run();
    h.get_by_label_contains(title).click();
    h.run();
    assert!(h.state().lessons.is_running());
    let lesson = shipped().iter().find(|l| l.title == title).unwrap();
    for (k, step) in lesson.steps.iter().enumerate() {
        // What a step asks for once the prompt has run is waited for as well.
        settle(&mut h);
        settle(&mut h);
        h.get_by_label(&step.title);
        let app = h.state();
        if let Some(prompt) = &step.state.prompt {
            assert_eq!(&app.state.document.prompt, prompt);
        }
        if let Some((l, head)) = step.state.head.as_deref().and_then(circuitscope::session::lesson::head) {
            assert_eq!(
                (app.state.selection.pinned.layer, app.state.selection.pinned.head),
                (l, Some(head)),
                "step {k}"
            );
        }
        let features = &app.state.features;
        if let Some(name) = &step.state.dictionary {
            assert_eq!(features.dictionary.value.as_ref().map(|d| &d.name), Some(name), "step {k}");
        }
        if let Some(f) = step.state.feature {
            assert_eq!(features.chosen, Some(Chosen::Feature(f)), "step {k}");
        }
        if step.state.scan.is_some() {
            assert!(features.index.value.as_ref().is_some_and(|i| i.about.is_complete()), "step {k}");
        }
        if step.state.zero_head.is_some() {
            assert!(app.state.document.stack.is_active() && app.state.edited().is_some(), "step {k}");
        }
        if let Some(q) = &step.question {
            assert!(h.query_by_label_contains(&q.reveal[..20]).is_none());
            h.get_by_label_contains(&q.choices[0]).click();
            h.run();
            h.get_by_label_contains(&q.reveal[..20]);
        }
        let last = k + 1 == lesson.steps.len();
        h.get_by_label(if last { "Finish" } else { "Next" }).click();
        h.run();
    }
    settle(&mut h);
    assert!(!h.state().lessons.is_running());
    assert_eq!(h.state().state.document, before);
    assert!(h.state().state.features.spec.is_empty() && h.state().state.features.dictionary.value.is_none());
}

#[test]
fn a_lesson_gives_the_lab_back_as_it_was_set() {
    let mut h = window(document(PROMPT));
    let lab = &mut h.state_mut().state.lab;
    lab.recipe.features = 7;
    let before = (lab.preset, lab.recipe.clone());
    h.get_by_label("Lessons  ▾").click();
    h.run();
    h.get_by_label_contains("Superposition in ten minutes").click();
    h.run();
    for _ in 0..3 {
        h.get_by_label("Next").click();
        h.run_steps(4);
    }
    assert_ne!(h.state().state.lab.recipe, before.1, "the lesson has settings of its own");
    h.get_by_label("end the lesson").click();
    h.run_steps(4);
    assert_eq!((h.state().state.lab.preset, &h.state().state.lab.recipe), (before.0, &before.1));
}

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

#[test]
fn the_lab_trains_at_the_press_of_a_button_and_goes_back_in_time() {
    let mut h = window(document(PROMPT));
    h.get_by_label("Superposition lab").click();
    h.run();
    assert_eq!(h.state().layout.workspace, Workspace::Superposition);
    // A short training, so that the test is.
    let recipe = Recipe { steps: 400, ..h.state().state.lab.recipe.clone() };
    h.state_mut().state.apply(Action::Lab(LabAction::Edit(Box::new(recipe))), 0.0);
    h.run();
    h.key_press(egui::Key::Space);
    h.run();
    settle(&mut h);
    let lab = &h.state().state.lab;
    assert_eq!(lab.moment().unwrap().step(), 400);
    assert_eq!(lab.moments[0].step(), 0);
    assert!(!lab.is_edited() && lab.moments.len() >= 2);
    // Back in time by the arrow keys, and to the newest again.
    h.key_press(egui::Key::ArrowLeft);
    h.run();
    let lab = &h.state().state.lab;
    assert!(lab.shown.is_some() && lab.moment().unwrap().step() < 400);
    h.get_by_label("now").click();
    h.run();
    assert_eq!(h.state().state.lab.moment().unwrap().step(), 400);
    // A model is selected by a click, and the window goes back to the transformer as it was left.
    h.get_all_by_label("instance density 0.51").next().unwrap().click();
    h.run();
    assert_eq!(h.state().state.lab.instance, 2);
    h.get_by_label("Model").click();
    h.run();
    assert_eq!(h.state().layout.workspace, Workspace::Model);
    assert!(h.query_by_label_contains("logit lens: 2").is_some());
}

#[test]
fn the_lab_pauses_steps_and_says_what_cannot_be_trained() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Superposition);
    let recipe = Recipe { steps: 1_000_000, ..h.state().state.lab.recipe.clone() };
    let state = &mut h.state_mut().state;
    state.apply(Action::Lab(LabAction::Edit(Box::new(recipe))), 0.0);
    state.apply(Action::Lab(LabAction::Start), 0.0);
    state.apply(Action::Lab(LabAction::Pause(true)), 0.0);
    settle(&mut h);
    assert!(h.state().state.lab.is_paused());
    let wait = |h: &mut Harness<'static, App>, until: usize| {
        for _ in 0..400 {
            h.state_mut().state.update(0.0);
            if h.state().state.lab.moment().is_some_and(|m| m.step() >= until) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("step {until} never came");
    };
    wait(&mut h, 0);
    h.run_steps(2);
    let before = h.state().state.lab.moment().unwrap().step();
    h.get_by_label("+1").click();
    h.run_steps(2);
    wait(&mut h, before + 1);
    let mut bad = h.state().state.lab.recipe.clone();
    bad.groups = Some((circuitscope::superposition::setup::Tie::Anticorrelated, 5));
    let state = &mut h.state_mut().state;
    state.apply(Action::Lab(LabAction::Edit(Box::new(bad))), 0.0);
    state.apply(Action::Lab(LabAction::Start), 0.0);
    let notice = h.state().state.notices.latest().unwrap();
    assert!(notice.text.contains("raise the sparsity"), "{}", notice.text);
}

#[test]
fn first_launch_shows_a_finished_analysis() {
    let h = window(document(BUILTINS[0].prompt));
    let r = &h.state().state.results;
    assert!(r.run.get().is_some() && r.lens.get().is_some() && r.thumbnails.get().is_some());
    assert!(r.attribution.get().is_some() && r.norms.get().is_some() && r.projection.get().is_some());
    assert!(r.text_scores.get().is_some() && r.random_scores.get().is_some() && r.pattern.get().is_some());
    // The head that adds most to the answer is shown: the induction head of layer 1.
    assert_eq!(h.state().state.selection.pinned.layer, 1);
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
    assert_eq!(h.state().state.selection.pinned.pos, run.trace.len() - 1);
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
    h.state_mut().state.apply(Action::SetPrompt(PROMPT.repeat(12)), 0.0);
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
    let mut p = h.state().state.selection.pinned;
    p.focus = circuitscope::app::selection::Focus::Head;
    h.state_mut().state.apply(Action::Pin(p), 0.0);
    h.state_mut().state.apply(Action::Pin(circuitscope::app::selection::Pinned { pos: 1, ..p }), 0.0);
    settle(&mut h);
    let now = h.state().state.selection.pinned;
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
    assert!(state.results.run.error.as_ref().unwrap().contains("no tokenizer"));
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
    assert_eq!(h.state().state.features.dictionary.value.as_ref().unwrap().path, shipped);
    assert_eq!(h.state().layout.workspace, Workspace::Features);
}

#[test]
fn cancelling_stops_the_jobs_and_keeps_the_window() {
    let mut h = window(document(PROMPT));
    let model = h.state().state.model.clone().unwrap();
    h.state_mut().state.apply(Action::SetPrompt(PROMPT.repeat(20)), 0.0);
    h.state_mut().state.update(f64::INFINITY);
    let started = std::time::Instant::now();
    h.state_mut().state.worker.cancel_all();
    while h.state().state.worker.is_busy() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(started.elapsed() < Duration::from_millis(500));
    settle(&mut h);
    assert!(Arc::ptr_eq(h.state().state.model.as_ref().unwrap(), &model));
    // And it goes on working.
    h.state_mut().state.apply(Action::SetPrompt("The United".to_owned()), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.run().unwrap().prompt, "The United");
}

#[test]
fn an_over_long_prompt_is_refused_with_the_limit() {
    let mut h = window(document(PROMPT));
    h.state_mut().state.apply(Action::SetPrompt("word ".repeat(600)), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.run.error.as_ref().unwrap().contains("512"));
    h.state_mut().state.apply(Action::SetPrompt(PROMPT.to_owned()), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.run.error.is_none());
}

#[test]
fn clicking_a_token_pins_it_everywhere() {
    let mut h = window(document(PROMPT));
    h.get_by_label("token 2 ·of").click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.selection.pinned.pos, 2);
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
    assert!(!state.document.answer.is_empty());
    assert_eq!(state.run().unwrap().answer, Some(state.results.attribution.get().unwrap().answer));
}

#[test]
fn keys_move_the_selection() {
    let mut h = window(document(PROMPT));
    let last = h.state().state.selection.pinned.pos;
    h.key_press(egui::Key::ArrowLeft);
    h.run();
    assert_eq!(h.state().state.selection.pinned.pos, last - 1);
    h.key_press(egui::Key::ArrowDown);
    h.run();
    assert_eq!(h.state().state.selection.pinned.layer, 0);
    let head = h.state().state.selection.pinned.head.unwrap();
    h.key_press(egui::Key::CloseBracket);
    h.run();
    assert_eq!(h.state().state.selection.pinned.head, Some((head + 1) % 4));
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

#[test]
fn tiny_and_long_prompts_are_drawn() {
    let mut h = window(document("a"));
    assert_eq!(h.state().state.run().unwrap().trace.len(), 1);
    h.state_mut().layout = Layout::everything(Workspace::Model);
    h.run();
    let long: String = (0..480).map(|i| if i % 7 == 0 { " the" } else { " of" }).collect();
    h.state_mut().state.apply(Action::SetPrompt(long), 0.0);
    settle(&mut h);
    assert!(h.state().state.run().unwrap().trace.len() > 400);
}

#[test]
fn every_view_exports_its_numbers() {
    let mut h = window(document(PROMPT));
    causes(&mut h);
    let _dictionary = features(&mut h);
    for view in view::all() {
        lab(&mut h, view.name);
        h.state_mut().layout = Layout::single(view.name);
        h.run();
        let app = h.state();
        let palette = circuitscope::app::look::theme::Palette::of(&h.ctx);
        let (mut actions, mut hovered) = (Vec::new(), Default::default());
        let cx = view::Context {
            state: &app.state,
            palette,
            actions: &mut actions,
            hovered: &mut hovered,
        };
        let table =
            app.layout.pane(view.name).unwrap().0.table(&cx).unwrap_or_else(|| panic!("{} has no numbers", view.name));
        assert_eq!(table.values.len(), table.rows.len(), "{}", view.name);
        assert!(table.csv().lines().count() > table.rows.len(), "{}", view.name);
        let json: serde_json::Value = serde_json::from_str(&table.json()).unwrap();
        assert_eq!(json["axes"].as_array().unwrap().len(), 2);
    }
}

/// Draws with a software adapter and compares with the picture in `tests/snapshots`.
#[test]
fn every_view_looks_as_it_did() {
    let mut results = egui_kittest::SnapshotResults::new();
    for theme in [egui::Theme::Dark, egui::Theme::Light] {
        let mut h = Harness::builder()
            .with_size([640.0, 480.0])
            .with_max_steps(60)
            .with_theme(theme)
            .with_render_cursor(false)
            .with_os(egui::os::OperatingSystem::Nix)
            .wgpu()
            .build_eframe(|cc| {
                if let Some(state) = &cc.wgpu_render_state {
                    circuitscope::gpu::install(state);
                }
                App::new(&cc.egui_ctx, document(PROMPT), Vec::new())
            });
        // Times and machines differ between runs; a view alone shows neither.
        settle(&mut h);
        causes(&mut h);
        let _dictionary = features(&mut h);
        let name = if theme == egui::Theme::Dark { "dark" } else { "light" };
        for view in view::all() {
            lab(&mut h, view.name);
            h.state_mut().layout = Layout::single(view.name);
            h.state_mut().bare = true;
            h.run();
            results.add(h.try_snapshot(format!("{}-{name}", view.name)));
        }
        results.extend_harness(&mut h);
    }
}

/// Many rows on few pixels are taken together by their extremes; columns wide enough for pixels of their own are not.
#[test]
fn crowded_rows_leave_their_columns_apart() {
    let (rows, cols) = (20_000, 3);
    let values = (0..rows * cols).map(|i| if i % cols == 1 && i / cols == 10_150 { 1.0 } else { 0.0 }).collect();
    let data = HeatData::new(rows, cols, values);
    let ctx = egui::Context::default();
    let map = ColorMap::ALL[0];
    let picture = Offscreen::new()
        .unwrap()
        .render(&ctx, egui::vec2(90.0, 50.0), 1.0, 2, |ui| {
            let rect = egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(90.0, 50.0));
            let coloring = Coloring {
                map,
                low: 0.0,
                high: 1.0,
                signed: false,
                nan: egui::Color32::BLACK,
                gap: egui::Color32::BLACK,
                gap_width: 0.0,
                opacity: 1.0,
            };
            let cells = HeatmapCallback {
                widget: 1,
                data: data.clone(),
                rect,
                window: [0.0, 0.0, cols as f32, rows as f32],
                coloring,
            };
            paint_cells(ui, ui.painter(), cells);
        })
        .unwrap();
    let bright: Vec<(u32, u32)> = picture
        .enumerate_pixels()
        .filter(|(.., p)| p[0].abs_diff(map.at(1.0).r()) < 8)
        .map(|(x, y, _)| (x, y))
        .collect();
    assert!(!bright.is_empty(), "one cell of twenty thousand rows is seen");
    assert!(bright.iter().all(|(x, y)| (30..60).contains(x) && (24..=26).contains(y)), "{bright:?}");
    assert!((30..60).all(|x| bright.iter().any(|(b, _)| *b == x)), "{bright:?}");
}

const CLEAN: &str = "The President of the United States and the President of the";
const CORRUPTED: &str = "The President of the Roman States and the President of the";

/// A window with both prompts, once everything has been computed.
fn two_prompts() -> Harness<'static, App> {
    let mut h = window(document(CLEAN));
    h.state_mut().state.apply(Action::SetCorrupted(CORRUPTED.to_owned()), 0.0);
    settle(&mut h);
    h
}

#[test]
fn typing_a_corrupted_prompt_gives_a_second_run_and_a_difference() {
    let mut h = window(document(CLEAN));
    h.get_by_label("vs.").click();
    h.run();
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "Corrupted prompt").type_text(CORRUPTED);
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.corrupted().unwrap().prompt, CORRUPTED);
    assert_eq!(state.showable(), [Show::Clean, Show::Corrupted, Show::Difference]);
    assert!(h.query_by_label_contains("other token 4").is_some());
    h.get_by_label("difference").click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.show, Show::Difference);
    let lens = state.results.lens.get().unwrap();
    assert!(lens.fresh && lens.value.minus.is_some());
    // Before the first differing token nothing differs.
    let same = |l: usize| {
        let (a, b) = (lens.value.now.cell(l, 2).unwrap(), lens.value.minus.as_ref().unwrap().cell(l, 2).unwrap());
        (a.entropy - b.entropy).abs() < 1e-4
    };
    assert!((0..2).all(same));
}

#[test]
fn clicking_a_cell_of_the_patching_view_edits_the_run() {
    let mut h = two_prompts();
    h.get_by_label("Patching").click();
    h.run();
    settle(&mut h);
    let sweep = h.state().state.results.sweep.get().unwrap().value.clone();
    assert!(sweep.done && sweep.values.len() == 8 && sweep.run == 8);
    // The bars at the side are the cells as well, strongest first.
    let values = sweep.normalised().unwrap();
    let strongest = (0..8).max_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs())).unwrap();
    let name = format!("{}.{} {:+.3}", strongest / 4, strongest % 4, values[strongest]);
    h.get_by_label(&name).click();
    h.run();
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.document.stack.edits, [sweep.question.edit(&sweep.cell(strongest))]);
    assert_eq!((state.document.stack.base, state.show), (Which::Corrupted, Show::Edited));
    // The edited run is the one the sweep measured.
    let edited = state.edited().unwrap();
    let Metric::LogitDifference { answer, wrong } = sweep.question.metric else {
        panic!("{:?}", sweep.question.metric)
    };
    let model = state.model.as_ref().unwrap();
    let row = edited.trace.normalized(edited.trace.len() - 1).unwrap();
    let logits = model.network().unembed(&row).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!((logits[answer as usize] - logits[wrong as usize] - sweep.values[strongest]).abs() < 1e-3);
    assert!(!state.results.backup.get().unwrap().value.is_empty());
    // Again: the edit leaves.
    h.get_by_label(&name).click();
    h.run();
    settle(&mut h);
    assert!(h.state().state.document.stack.edits.is_empty() && h.state().state.show != Show::Edited);
}

#[test]
fn edits_can_be_switched_moved_and_removed() {
    let mut h = two_prompts();
    let zero = |layer, head| Edit::new(Site::new(SiteKind::Z, layer), Do::Zero).head(head);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Clean, zero(0, 1)), 0.0);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Clean, zero(1, 2)), 0.0);
    h.state_mut().layout = Layout::single("edits");
    settle(&mut h);
    assert_eq!(h.state().state.show, Show::Edited);
    h.get_by_label("move edit down 0").click();
    h.run();
    assert_eq!(h.state().state.document.stack.edits, [zero(1, 2), zero(0, 1)]);
    h.get_by_label("edit 0").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.document.stack.active().count(), 1);
    // E switches all off, and the views go back to the plain run.
    h.key_press(egui::Key::E);
    h.run();
    settle(&mut h);
    assert_eq!((h.state().state.document.stack.active().count(), h.state().state.show), (0, Show::Clean));
    h.get_by_label("remove edit 1").click();
    h.run();
    assert_eq!(h.state().state.document.stack.edits.len(), 1);
    // A contradiction is refused in one sentence, and nothing else is lost.
    let same = zero(1, 2);
    let stack = EditStack { edits: vec![same.clone(), same], ..EditStack::default() };
    h.state_mut().state.apply(Action::SetStack(stack), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert!(state.results.edited.error.as_ref().unwrap().contains("contradict"));
    assert!(state.results.run.get().is_some() && state.results.run.error.is_none());
}

#[test]
fn text_is_generated_with_and_without_edits() {
    let mut h = two_prompts();
    let zero = Edit::new(Site::new(SiteKind::AttnOut, 1), Do::Zero);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Clean, zero), 0.0);
    settle(&mut h);
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::G);
    h.run();
    settle(&mut h);
    let texts = h.state().state.results.generated.get().unwrap().value.clone();
    assert!(texts.done && texts.base.len() == 30);
    assert_ne!(texts.base, *texts.edited.as_ref().unwrap());
}

#[test]
fn prompts_of_different_length_are_aligned_and_patterns_refused() {
    let mut h = window(document(CLEAN));
    h.state_mut().state.apply(Action::SetCorrupted(CORRUPTED.replace("Roman", "old Roman")), 0.0);
    settle(&mut h);
    let state = &mut h.state_mut().state;
    let counterparts = state.counterparts.clone();
    assert!(counterparts.iter().filter(|c| c.is_none()).count() >= 1, "{counterparts:?}");
    // Changed by hand.
    state.apply(Action::Align(1, None), 0.0);
    assert_eq!(state.counterparts[1], None);
    state.apply(Action::Align(1, Some(1)), 0.0);
    let settings = PatchSettings { site: SiteKind::Pattern, ..state.first_patching() };
    state.apply(Action::Patch(settings), 0.0);
    settle(&mut h);
    let error = h.state().state.results.sweep.error.clone().unwrap();
    assert!(error.contains("correspond one to one"), "{error}");
    h.state_mut().state.apply(Action::Patch(PatchSettings { site: SiteKind::Z, ..settings }), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.sweep.get().unwrap().value.done);
}

#[test]
fn the_approximation_is_audited_against_exact_runs() {
    let mut h = two_prompts();
    let settings = h.state().state.first_patching();
    h.state_mut().state.apply(Action::Patch(settings), 0.0);
    h.state_mut().state.apply(Action::Approximate, 0.0);
    settle(&mut h);
    let state = &h.state().state;
    let (exact, close) = (state.results.sweep.get().unwrap(), state.results.approximation.get().unwrap());
    assert_eq!(exact.value.question, close.value.question);
    let report = audit(&close.value.normalised().unwrap(), &exact.value.normalised().unwrap()).unwrap();
    assert_eq!(report.cells, 8);
    // Cells that are known stay known when some are asked for by themselves.
    let before = exact.value.values.clone();
    h.state_mut().state.apply(Action::Sweep { cells: Some(vec![3, 5]) }, 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.sweep.get().unwrap().value.values, before);
    // A rank has no gradient: the view says so instead of showing something else.
    h.state_mut().state.apply(Action::Patch(PatchSettings { metric: MetricKind::Rank, ..settings }), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.approximation.error.as_ref().unwrap().contains("no gradient"));
}

#[test]
fn failures_of_the_other_runs_are_said_and_mend() {
    let mut h = two_prompts();
    let settings = h.state().state.first_patching();
    h.state_mut().state.apply(Action::Patch(settings), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.sweep.get().unwrap().fresh);
    // A corrupted prompt that cannot be run: nothing of the old one is taken for it.
    h.state_mut().state.apply(Action::SetCorrupted("word ".repeat(600)), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert!(state.results.corrupted.error.as_ref().unwrap().contains("512") && state.corrupted().is_none());
    assert!(state.pair().unwrap().corrupted.is_none() && !state.results.sweep.get().unwrap().fresh);
    assert!(state.results.lens.get().unwrap().fresh);
    // Cleared while it is shown: back to the clean run.
    h.state_mut().state.apply(Action::ShowRun(Show::Corrupted), 0.0);
    h.state_mut().state.apply(Action::SetCorrupted(String::new()), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.show, Show::Clean);
    assert!(h.state().state.results.lens.get().unwrap().fresh);
    // Edits of another model: said where the edited run would be, and the clean one is a key away.
    let stack =
        EditStack { edits: vec![Edit::new(Site::new(SiteKind::Z, 23), Do::Zero).head(3)], ..EditStack::default() };
    h.state_mut().state.apply(Action::SetStack(stack), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.show, Show::Edited);
    assert!(state.shown_slot().error.as_ref().unwrap().contains("layer 23") && state.run().is_none());
    h.state_mut().state.apply(Action::ShowRun(Show::Clean), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.lens.get().unwrap().fresh && h.state().state.run().is_some());
}

/// What is shown as fresh always belongs to what the selector says.
#[test]
fn a_difference_follows_its_edits() {
    let mut h = two_prompts();
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(1);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Clean, zero.clone()), 0.0);
    h.state_mut().state.apply(Action::ShowRun(Show::Difference), 0.0);
    settle(&mut h);
    let entropy = |h: &Harness<'static, App>| {
        let lens = h.state().state.results.lens.get().unwrap();
        assert!(lens.fresh);
        lens.value.minus.as_ref().unwrap().cell(1, 5).unwrap().entropy
    };
    let with_edit = entropy(&h);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Clean, zero), 0.0);
    settle(&mut h);
    // Now it is clean − corrupted, and position 5 of the corrupted run is another.
    assert_eq!(h.state().state.show, Show::Difference);
    assert_ne!(with_edit, entropy(&h));
    // Edits of a corrupted run that cannot be made say so, and text asked for meanwhile is not waited for for ever.
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(2);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Corrupted, zero), 0.0);
    h.state_mut().state.apply(Action::SetCorrupted("word ".repeat(600)), 0.0);
    settle(&mut h);
    h.state_mut().state.apply(Action::Generate, 0.0);
    settle(&mut h);
    let r = &h.state().state.results;
    assert!(r.edited.error.as_ref().unwrap().contains("cannot be made"));
    assert!(r.generated.error.as_ref().unwrap().contains("cannot be made"));
}

/// Text asked for while the prompt is still running comes once it has run.
#[test]
fn generation_waits_for_the_run() {
    let mut h = window(document(CLEAN));
    h.state_mut().state.apply(Action::SetPrompt(format!("{CLEAN} United")), 0.0);
    h.state_mut().state.update(f64::INFINITY);
    h.state_mut().state.apply(Action::Sampling(Default::default(), 5), 0.0);
    h.state_mut().state.apply(Action::Generate, 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.generated.get().unwrap().value.base.len(), 5);
}

#[test]
fn the_end_stays_pinned_while_the_edited_prompt_grows() {
    let mut h = window(document(CLEAN));
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(1);
    h.state_mut().state.apply(Action::ToggleEdit(Which::Clean, zero), 0.0);
    settle(&mut h);
    h.state_mut().state.apply(Action::SetPrompt(format!("{CLEAN} United States")), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.selection.pinned.pos + 1, state.run().unwrap().trace.len());
    assert_eq!(state.edited().unwrap().trace.len(), state.clean().unwrap().trace.len());
    // A click is answered while a text is being written: it has a thread of its own.
    h.state_mut().state.apply(Action::Sampling(Default::default(), 400), 0.0);
    h.state_mut().state.apply(Action::Generate, 0.0);
    let pinned = h.state().state.selection.pinned;
    h.state_mut()
        .state
        .apply(Action::Pin(circuitscope::app::selection::Pinned { layer: 0, head: Some(3), ..pinned }), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.generated.get().unwrap().value.done);
}

/// A pair of equal length on which the model's answer changes.
fn copying_pair() -> Harness<'static, App> {
    let mut h = window(Document { answer: " United".to_owned(), wrong: " first".to_owned(), ..document(CLEAN) });
    let other = "The President of the first States and the President of the";
    h.state_mut().state.apply(Action::SetCorrupted(other.to_owned()), 0.0);
    settle(&mut h);
    h
}

#[test]
fn a_circuit_is_collected_and_tried() {
    let mut h = copying_pair();
    // C takes the pinned head into the circuit, and out again.
    let state = &mut h.state_mut().state;
    let pinned = state.selection.pinned;
    state.apply(Action::Pin(circuitscope::app::selection::Pinned { layer: 1, head: Some(3), ..pinned }), 0.0);
    h.run();
    h.key_press(egui::Key::C);
    h.run();
    settle(&mut h);
    let head = Component::Head { layer: 1, head: 3 };
    assert!(h.state().state.document.cart.contains(head));
    assert_eq!(h.state().state.results.tried.error, None);
    let one = h.state().state.results.tried.get().unwrap().value.quality.faithfulness;
    for other in [0, 1, 2] {
        h.state_mut().state.apply(Action::ToggleCart(Component::Head { layer: 1, head: other }.into()), 0.0);
    }
    h.state_mut().state.apply(Action::ToggleCart(Component::Head { layer: 0, head: 2 }.into()), 0.0);
    settle(&mut h);
    let more = h.state().state.results.tried.get().unwrap().value.clone();
    assert!(more.done && more.quality.faithfulness > one, "{} {one}", more.quality.faithfulness);
    assert!(h.query_by_label_contains("circuit: 5 components").is_some(), "the status line tells");
    h.key_press(egui::Key::C);
    h.run();
    settle(&mut h);
    assert!(!h.state().state.document.cart.contains(head));
    // What is saved opens again.
    let (name, bytes) = h.state().state.circuit_file().unwrap();
    let folder = tempfile::tempdir().unwrap();
    circuitscope::files::write_atomic(&folder.path().join(&name), &bytes).unwrap();
    let file = circuitscope::circuit::file::CircuitFile::open(&folder.path().join(&name)).unwrap();
    let edges = h.state().state.document.cart.circuit(h.state().state.wiring().unwrap()).unwrap();
    assert_eq!(file.edges(edges.wiring).unwrap(), edges);
}

#[test]
fn a_search_fills_the_cart() {
    let mut h = copying_pair();
    let search = circuitscope::jobs::circuits::Search::Scores { edges: 30, steps: 3, rescore: true };
    h.state_mut().state.apply(Action::SearchCircuit(search), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert!(!state.document.cart.edges.is_empty() && state.document.cart.edges.len() <= 30);
    assert!(state.notices.latest().unwrap().text.contains("Found a circuit"));
    let q = state.results.tried.get().unwrap().quality.clone();
    assert!((q.faithfulness - 1.0).abs() < 0.5, "{}", q.faithfulness);
    // A set that this model cannot read is said, and nothing else is lost.
    let settings = CircuitSettings { set: Some("no-such-set".to_owned()), ..Default::default() };
    h.state_mut().state.apply(Action::CircuitSettings(settings), 0.0);
    settle(&mut h);
    let tried = h.state().state.results.tried.get().unwrap().value.clone();
    assert!(tried.set_error.as_ref().unwrap().contains("no-such-set") && tried.quality.faithfulness == q.faithfulness);
}

#[test]
fn a_graph_follows_the_pinned_token_and_the_sliders() {
    let mut h = copying_pair();
    h.state_mut().state.apply(Action::TraceGraph, 0.0);
    settle(&mut h);
    let all = h.state().state.results.drawing.get().unwrap().graph.nodes.len();
    h.state_mut().state.apply(Action::GraphThresholds(0.4, 0.9), 0.0);
    settle(&mut h);
    let fewer = h.state().state.results.drawing.get().unwrap().graph.nodes.len();
    assert!(fewer < all, "{fewer} {all}");
    let label = |h: &Harness<'static, App>| {
        let d = h.state().state.results.drawing.get().unwrap().value.clone();
        d.graph.nodes.iter().find(|n| n.kind == circuitscope::graph::NodeKind::Logit).unwrap().label.clone()
    };
    assert!(label(&h).contains("United") && label(&h).contains("first"));
    h.state_mut().state.apply(Action::GraphTarget(GraphTarget::Answer), 0.0);
    settle(&mut h);
    assert!(!label(&h).contains("first"));
    let pinned = h.state().state.selection.pinned;
    h.state_mut().state.apply(Action::Pin(circuitscope::app::selection::Pinned { pos: 3, ..pinned }), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.drawing.get().unwrap().graph.prompt_tokens.len(), 4);
}

#[test]
fn others_graphs_open_and_broken_ones_are_one_sentence() {
    let mut h = window(document(PROMPT));
    let path = fixture("graphs/meow-clt.json").display().to_string();
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(Action::OpenGraph(path), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.graph.get().unwrap().graph.nodes.len(), 76);
    assert!(h.query_by_label_contains("attribution graph: ").is_some());
    h.state_mut().state.apply(Action::OpenGraph("no/such/graph.json".to_owned()), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("no/such/graph.json").is_some());
    h.state_mut().state.apply(Action::CloseGraph, 0.0);
    settle(&mut h);
    assert!(h.state().state.results.graph.get().is_some());
}

/// Where a node of the drawing stands in the window.
fn node_at(h: &Harness<'static, App>, label: &str, pos: usize) -> egui::Pos2 {
    let canvas = h.get_by_label_contains("attribution graph: ").rect();
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let at = d.graph.nodes.iter().position(|n| n.label == label && n.pos == pos).unwrap();
    let inner = egui::Rect::from_min_max(canvas.min + egui::vec2(30.0, 12.0), canvas.max - egui::vec2(8.0, 26.0));
    let (x, y) = d.places[at];
    let width = d.columns.last().unwrap().1;
    egui::pos2(inner.left() + x / width * inner.width(), inner.bottom() - y / d.height * inner.height())
}

fn counted(h: &Harness<'static, App>) -> String {
    h.get_by_label_contains("attribution graph: ").accesskit_node().label().unwrap_or_default()
}

#[test]
fn nodes_are_grouped_by_dragging_and_the_groups_are_saved() {
    let mut h = copying_pair();
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(Action::TraceGraph, 0.0);
    settle(&mut h);
    h.run();
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let n = d.graph.nodes.len();
    assert!(counted(&h).contains(&format!(" {n} nodes")), "{}", counted(&h));
    let heads: Vec<(String, usize)> =
        d.graph.nodes.iter().filter(|n| n.layer == 1).map(|n| (n.label.clone(), n.pos)).collect();
    assert!(heads.len() > 1);
    let [from, onto] = [&heads[0], &heads[1]].map(|(label, pos)| node_at(&h, label, *pos));
    h.hover_at(from);
    h.run();
    h.drag_at(from);
    h.run();
    h.hover_at(from.lerp(onto, 0.5));
    h.run();
    h.hover_at(onto);
    h.run();
    h.drop_at(onto);
    h.run();
    assert!(counted(&h).contains(&format!(" {} nodes", n - 1)), "{}", counted(&h));
    // The file has the group, and opened again the graph is drawn with it.
    h.get_by_label("file").click();
    h.run();
    h.get_by_label("Save this graph (JSON)…").click();
    for _ in 0..100 {
        h.run();
        if h.query_by_label("Path to save to").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.json");
    let field = h.get_by_label("Path to save to");
    field.focus();
    h.run();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.run();
    h.get_by_label("Path to save to").type_text(&path.display().to_string());
    h.run();
    h.get_by_label("Save").click();
    for _ in 0..100 {
        h.run();
        if path.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let file = circuitscope::graph::file::GraphFile::open(&path).unwrap();
    let marks = circuitscope::graph::marks::Marks::of(&file);
    assert_eq!((marks.groups.len(), marks.groups[0].1.len()), (1, 2));
    h.state_mut().state.apply(Action::GraphThresholds(1.0, 1.0), 0.0);
    h.state_mut().state.apply(Action::OpenGraph(path.display().to_string()), 0.0);
    settle(&mut h);
    h.run();
    let n = h.state().state.results.drawing.get().unwrap().graph.nodes.len();
    assert!(counted(&h).contains(&format!(" {} nodes", n - 1)), "{}", counted(&h));
    // Another file of the same title has marks of its own.
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    value["qParams"] = serde_json::Value::Null;
    let other = folder.path().join("h.json");
    circuitscope::files::write_atomic(&other, value.to_string().as_bytes()).unwrap();
    h.state_mut().state.apply(Action::OpenGraph(other.display().to_string()), 0.0);
    settle(&mut h);
    h.run();
    assert!(counted(&h).contains(&format!(" {n} nodes")), "{}", counted(&h));
}

#[test]
fn a_key_shows_the_graph_of_the_pinned_prediction() {
    let mut h = window(document(PROMPT));
    assert!(h.query_by_label_contains("attribution graph: ").is_none());
    h.key_press(egui::Key::G);
    h.run();
    settle(&mut h);
    h.run();
    assert!(h.query_by_label_contains("attribution graph: ").is_some());
}

#[test]
fn the_graph_is_walked_with_the_keyboard() {
    let mut h = copying_pair();
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(Action::TraceGraph, 0.0);
    settle(&mut h);
    let before = h.state().state.selection.pinned;
    h.get_by_label_contains("attribution graph: ").focus();
    h.run();
    // Down to the logit, and from there along the strongest link into it, which is a head's; the pinned token stays.
    for _ in 0..2 {
        h.key_press(egui::Key::ArrowDown);
        h.run();
    }
    settle(&mut h);
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let logit = d.graph.nodes.iter().position(|n| n.kind == circuitscope::graph::NodeKind::Logit).unwrap();
    let strongest = d.graph.into_node(logit).iter().max_by(|a, b| a.weight.abs().total_cmp(&b.weight.abs())).unwrap();
    let circuitscope::graph::part::Part::Head { layer, head, .. } = d.parts[strongest.source as usize] else {
        panic!("{:?}", d.parts[strongest.source as usize]);
    };
    let after = h.state().state.selection.pinned;
    assert_eq!((after.layer, after.head, after.pos), (layer, Some(head), before.pos));
    h.key_press(egui::Key::C);
    h.run();
    let head = Component::Head { layer, head };
    assert!(h.state().state.document.cart.contains(head));
    // Undone with the keyboard.
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::Z);
    h.run();
    assert!(h.state().state.document.cart.is_empty());
}

#[test]
fn attention_is_followed_and_edges_say_through_what() {
    let mut h = copying_pair();
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(Action::TraceGraph, 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("– – query").is_none());
    h.state_mut().state.apply(Action::GraphAttention(circuitscope::graph::readers::Attention::FirstOrder), 0.0);
    settle(&mut h);
    h.run();
    assert!(h.query_by_label_contains("– – query").is_some());
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let keys = (0..d.graph.links.len()).filter(|l| d.graph.input(*l) == circuitscope::graph::Input::Key).count();
    assert!(keys > 0);
}

#[test]
fn an_mlp_opens_into_neurons_that_go_into_the_circuit() {
    let ids: Vec<u32> = (1..10).collect();
    let folder = fixture("families/llama").display().to_string();
    let mut h = window(Document {
        model: folder,
        prompt: "ids".to_owned(),
        ids: Some(ids),
        answer: "7".to_owned(),
        wrong: "9".to_owned(),
        ..Document::default()
    });
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(Action::TraceGraph, 0.0);
    h.state_mut().state.apply(Action::GraphThresholds(1.0, 1.0), 0.0);
    settle(&mut h);
    let mlp = |h: &Harness<'static, App>| {
        let d = h.state().state.results.drawing.get().unwrap().value.clone();
        let node = d.parts.iter().position(|p| matches!(p, circuitscope::graph::part::Part::Mlp { .. }));
        (d.graph.nodes.len(), d.graph.nodes[node.unwrap()].id.clone())
    };
    let (closed, id) = mlp(&h);
    h.state_mut().state.apply(Action::OpenMlp(id.clone()), 0.0);
    settle(&mut h);
    assert_eq!(mlp(&h).0, closed + circuitscope::graph::layout::NEURONS);
    h.state_mut().state.apply(Action::OpenMlp(id), 0.0);
    settle(&mut h);
    assert_eq!(mlp(&h).0, closed);
    // C takes the pinned neuron.
    let pinned = h.state().state.selection.pinned;
    let focus = circuitscope::app::selection::Focus::Neuron;
    h.state_mut()
        .state
        .apply(Action::Pin(circuitscope::app::selection::Pinned { layer: 1, neuron: Some(3), focus, ..pinned }), 0.0);
    h.run();
    h.key_press(egui::Key::C);
    h.run();
    assert_eq!(h.state().state.document.cart.nodes, ["m1.n3"]);
}

#[test]
fn two_circuits_are_compared() {
    let mut h = copying_pair();
    h.state_mut().layout = Layout::single("circuit");
    let cart = |nodes: &[&str]| Cart { nodes: nodes.iter().map(|n| (*n).to_owned()).collect(), ..Default::default() };
    h.state_mut().state.apply(Action::SetCart(cart(&["a1.h3"])), 0.0);
    let other = Some(("the other".to_owned(), cart(&["a1.h3", "a1.h1"])));
    h.state_mut().state.apply(Action::CompareCart(other), 0.0);
    settle(&mut h);
    h.run();
    let tried = h.state().state.results.tried.get().unwrap().value.clone();
    let c = tried.compared.clone().unwrap().unwrap();
    // Five edges of one head, all of them among the other's ten.
    assert_eq!((c.overlap.shared_edges, c.overlap.shared_nodes, c.other_edges), (5, 2, 9));
    assert!((c.shared_faithfulness - tried.quality.faithfulness).abs() < 1e-4);
    assert!(h.query_by_label_contains("compared with the other").is_some());
    // A circuit of another model is one sentence, and nothing else is lost.
    h.state_mut().state.apply(Action::CompareCart(Some(("far".to_owned(), cart(&["a9.h9"])))), 0.0);
    settle(&mut h);
    let tried = h.state().state.results.tried.get().unwrap().value.clone();
    assert!(tried.compared.clone().unwrap().unwrap_err().contains("a9.h9"));
}

/// A dictionary is opened by its path, its features are read on the prompt, and a click leads to the page, where a
/// feature is named, steered and ablated.
#[test]
fn features_are_opened_named_steered_and_ablated() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    h.run();
    let dir = dictionary();
    let folder = dir.path().join("test");
    let field = h.get_by_label("path of a dictionary");
    field.focus();
    h.run();
    h.get_by_label("path of a dictionary").type_text(folder.to_str().unwrap());
    h.run();
    h.get_all_by_label("Open").next().unwrap().click();
    h.run();
    settle(&mut h);
    let reading = h.state().state.features.reading.value.clone().unwrap();
    assert_eq!(reading.acts.rows(), h.state().state.run().unwrap().trace.len());
    let active = reading.leading(Default::default(), None, 1).0[0];
    feature(&mut h, FeatureAction::Choose(Chosen::Feature(active)));
    assert!(h.query_by_label_contains("promotes").is_some());
    h.get_by_label("label").focus();
    h.run();
    h.get_by_label("label").type_text("country");
    h.run();
    h.get_by_label("note").focus();
    h.run();
    settle(&mut h);
    assert_eq!(Labels::open(&folder.join("labels.json")).unwrap().of(&Unit::Feature(active)).unwrap().label, "country");
    h.get_by_label("Ablate").click();
    h.run();
    settle(&mut h);
    let stack = h.state().state.document.stack.clone();
    assert_eq!(stack.edits.len(), 1);
    assert!(stack.edits[0].to_string().starts_with("ablate feature"), "{}", stack.edits[0]);
    // The edited run differs from the plain one by the feature's part alone.
    let edited = h.state().state.results.edited.get().unwrap().trace.clone();
    let plain = h.state().state.run().unwrap().trace.clone();
    assert!(!edited.edits().is_empty() || !plain.edits().is_empty());
    h.get_by_label("Steer").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.document.stack.edits.len(), 2);
    // Another strength takes the place of the one before; none is a strength as well.
    let factor = |h: &Harness<'static, App>| match &h.state().state.document.stack.edits[1].action {
        circuitscope::engine::edit::Action::Add { factor, .. } => *factor,
        other => panic!("{other:?}"),
    };
    let before = factor(&h);
    let state = &h.state().state;
    let weaker = state.features.steer(Chosen::Feature(active), 0.5 * before, state.model.as_ref().unwrap()).unwrap();
    h.state_mut().state.apply(Action::PutEdits(Which::Clean, weaker), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.document.stack.edits.len(), 2);
    assert!(factor(&h) < before, "{} {before}", factor(&h));
}

/// Typed lists give a direction; its page has examples once a text is scanned for it.
#[test]
fn a_typed_direction_gets_a_page() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let _dir = features(&mut h);
    let examples = Examples::Typed {
        name: "royal".to_owned(),
        with: "king\nqueen\nprince\ncrown\n".to_owned(),
        without: "dog\ntree\nstone\nriver\n".to_owned(),
    };
    let (method, kind) = (Method::DifferenceOfMeans, SiteKind::ResidPost);
    feature(&mut h, FeatureAction::Find(Box::new(Search { examples, method, kind, pool: Pool::Last })));
    let s = &h.state().state.features;
    let i = s.watched.iter().position(|w| w.concept.name == "royal").unwrap();
    feature(&mut h, FeatureAction::Choose(Chosen::Concept(i)));
    assert!(h.state().state.features.entry(Chosen::Concept(i)).is_none());
    feature(&mut h, FeatureAction::Scan(Scanned::Direction(i), "prose".to_owned(), 2_000));
    let s = &h.state().state.features;
    let entry = s.entry(Chosen::Concept(i)).unwrap();
    assert!(entry.active > 0 && !entry.top.is_empty() && !entry.features.is_empty());
    h.state_mut().layout = Layout::single("dashboard");
    h.run();
    assert!(h.query_by_label_contains("strongest examples").is_some());
    // Too few texts are one sentence.
    let examples = Examples::Typed { name: "x".to_owned(), with: "a\nb".to_owned(), without: "c".to_owned() };
    feature(&mut h, FeatureAction::Find(Box::new(Search { examples, method, kind, pool: Pool::Mean })));
    assert!(h.state().state.notices.latest().unwrap().text.contains("at least four"));
    // Features by what they add to the answer.
    feature(&mut h, FeatureAction::Order(Order::Answer));
    let s = &h.state().state.features;
    assert!(s.attribution.value.is_some(), "{:?}", s.attribution.error);
    assert_eq!(s.heat.value.as_ref().unwrap().order, Order::Answer);
    assert_eq!(s.attribution.value.as_ref().unwrap().values.len(), s.reading.value.as_ref().unwrap().acts.values.len());
    // At the pinned token, wherever that goes.
    feature(&mut h, FeatureAction::Order(Order::At(0)));
    for pos in [1, 2] {
        h.state_mut().state.selection.pinned.pos = pos;
        settle(&mut h);
        let heat = h.state().state.features.heat.value.clone().unwrap();
        assert_eq!(heat.order, Order::At(pos));
        let acts = &heat.reading.acts;
        let strongest = acts.row(pos).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
        assert_eq!(heat.features[0], strongest);
    }
}

/// Of tabs that do not all fit, the one that a command shows is moved into sight.
#[test]
fn a_view_that_is_shown_has_its_tab_in_sight() {
    let mut h = window(document(PROMPT));
    h.set_size(egui::vec2(1000.0, 640.0));
    h.run();
    let places = |h: &Harness<'static, App>, shown: &'static str| {
        let pane = h.state().layout.pane(shown).unwrap().1.unwrap();
        (pane.x_range(), h.get_by_label("Generation").rect().x_range())
    };
    let (pane, tab) = places(&h, "activations");
    assert!(tab.max > pane.max, "{tab:?} in {pane:?}");
    h.state_mut().show("generation");
    h.run_steps(6);
    let (pane, tab) = places(&h, "generation");
    assert!(tab.min >= pane.min && tab.max <= pane.max, "{tab:?} in {pane:?}");
}

/// Rows of fields are broken where they are full: none lies outside its panel.
#[test]
fn fields_stay_inside_their_panel() {
    let mut h = window(document(PROMPT));
    h.state_mut().show("dictionary-training");
    let _dir = features(&mut h);
    use egui::accesskit::Role;
    for (kind, role, fields) in [
        ("dictionary-training", Role::SpinButton, &["features", "k", "steps", "tokens"][..]),
        ("dictionary-training", Role::TextInput, &["text to train on"]),
        ("directions", Role::TextInput, &["tokens towards", "tokens away from", "reference text"]),
        ("directions", Role::Button, &["Try doses"]),
    ] {
        h.state_mut().show(kind);
        h.run();
        let pane = h.state().layout.pane(kind).unwrap().1.unwrap();
        for field in fields {
            let rect = h.get_by_role_and_label(role, field).rect();
            assert!(pane.contains_rect(rect), "{field}: {rect:?} in {pane:?}");
        }
    }
}

/// Labels of neurons and directions are the model's: they are there whatever dictionary is open, and when it is opened
/// again.
#[test]
fn neurons_and_directions_are_named() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let kept = tempfile::tempdir().unwrap();
    let f = &mut h.state_mut().state.features;
    (f.keeps, f.place, f.scans) = (true, kept.path().to_owned(), kept.path().join("scans"));
    let model = |h: &Harness<'static, App>| h.state().state.model.clone().unwrap();
    h.state_mut().state.apply(Action::Open("text".to_owned()), 0.0);
    settle(&mut h);
    let set = kept.path().join("of.tsv");
    let rows: String =
        (0..8).map(|i| format!("{}\t{} of the\n", i % 2, if i % 2 == 0 { "house" } else { "king" })).collect();
    circuitscope::files::write_atomic(&set, format!("label\ttext\n{rows}").as_bytes()).unwrap();
    let find = || {
        FeatureAction::Find(Box::new(Search {
            examples: Examples::Set(set.to_str().unwrap().to_owned()),
            method: Method::DifferenceOfMeans,
            kind: SiteKind::ResidPost,
            pool: Pool::Mean,
        }))
    };
    feature(&mut h, find());
    feature(&mut h, FeatureAction::Layer(0, 1));
    for (chosen, words, note) in [(Chosen::Neuron(1, 3), "endings", "also numbers"), (Chosen::Concept(0), "kings", "")]
    {
        feature(&mut h, FeatureAction::Choose(chosen));
        h.run();
        for (field, text) in [("label", words), ("note", note)] {
            h.get_by_label(field).focus();
            h.run();
            h.get_by_label(field).type_text(text);
            h.run();
        }
        h.get_by_label("what to show").focus();
        h.run();
        settle(&mut h);
        let s = &h.state().state.features;
        assert!(s.name(chosen).ends_with(&format!(" · {words}")), "{}", s.name(chosen));
    }
    let file = of_model(kept.path(), &model(&h)).unwrap();
    let written = Labels::open(&file).unwrap();
    let endings = Label { label: "endings".to_owned(), note: "also numbers".to_owned() };
    assert_eq!((written.0.len(), written.of(&Unit::Neuron(1, 3))), (2, Some(&endings)));
    // The monitor has the direction by its name.
    assert!(h.state().state.features.monitored.value.as_ref().unwrap().names[0].ends_with("kings"));
    // What another window has written meanwhile stays.
    let name = |label: &str| Label { label: label.to_owned(), note: String::new() };
    let mut others = written.clone();
    others.set(Unit::Neuron(0, 7), name("of another window"));
    others.save(&file).unwrap();
    // Another model has none of them; what was named just before it was opened is not lost.
    let last = FeatureAction::Label(Unit::Neuron(0, 8), name("at the last moment"));
    h.state_mut().state.apply(Action::Feature(last), 0.0);
    h.state_mut().state.apply(Action::Open("induction".to_owned()), 0.0);
    settle(&mut h);
    let written = Labels::open(&file).unwrap();
    let words = |n: usize| written.of(&Unit::Neuron(0, n)).map(|l| l.label.as_str());
    assert_eq!((words(7), words(8)), (Some("of another window"), Some("at the last moment")));
    assert_eq!(h.state().state.features.name(Chosen::Neuron(1, 3)), "neuron 1.3");
    h.state_mut().state.apply(Action::Open("text".to_owned()), 0.0);
    settle(&mut h);
    feature(&mut h, FeatureAction::Open("text-features".to_owned()));
    feature(&mut h, find());
    let s = &h.state().state.features;
    let of_set = (0..s.watched.len()).map(Chosen::Concept).find(|c| s.name(*c).starts_with("of at")).unwrap();
    assert_eq!(s.name(Chosen::Neuron(1, 3)), "neuron 1.3 · endings");
    let Chosen::Concept(i) = of_set else { return };
    feature(&mut h, FeatureAction::Layer(i, 1));
    assert!(h.state().state.features.name(of_set).ends_with(" · kings"));
    // A page is found by its label, and by layer and number.
    for (wanted, chosen) in [("endin", Chosen::Neuron(1, 3)), ("0.5", Chosen::Neuron(0, 5)), ("king", of_set)] {
        h.get_by_label("what to show").focus();
        h.run();
        h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
        h.get_by_label("what to show").type_text(wanted);
        h.run();
        h.get_by_label("Show").click();
        h.run();
        settle(&mut h);
        assert_eq!(h.state().state.features.chosen, Some(chosen), "{wanted}");
    }
    // A damaged file is told, and not written over.
    circuitscope::files::write_atomic(&file, b"{").unwrap();
    h.state_mut().state.apply(Action::Open("text".to_owned()), 0.0);
    settle(&mut h);
    feature(&mut h, FeatureAction::Label(Unit::Neuron(0, 0), name("lost")));
    assert!(h.state().state.notices.latest().unwrap().text.contains("could not be read"));
    assert_eq!(std::fs::read(&file).unwrap(), b"{");
}

/// What the monitor shows goes with what it is asked for, and keeps its thresholds; an index finds its place.
#[test]
fn the_monitor_forgets_and_indexes_find_their_place() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let dir = features(&mut h);
    let kept: Vec<u32> = h.state().state.features.kept.iter().map(|k| k.0).collect();
    for f in kept {
        feature(&mut h, FeatureAction::Keep(f));
    }
    while !h.state().state.features.watched.is_empty() {
        feature(&mut h, FeatureAction::Forget(0));
    }
    assert!(h.state().state.features.monitored.value.is_none());
    for f in [3, 5] {
        feature(&mut h, FeatureAction::Keep(f));
        feature(&mut h, FeatureAction::KeptThreshold(f, f as f32));
    }
    feature(&mut h, FeatureAction::Keep(3));
    let s = &h.state().state.features;
    let m = s.monitored.value.clone().unwrap();
    assert_eq!(m.names.len(), 1);
    assert_eq!(s.threshold(&m.rows[0]), Some(5.0));

    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (mut index, neurons) = ((*s.index.value.clone().unwrap()).clone(), s.neurons.value.clone().unwrap());
    index_file::save(&neurons, Path::new(&path("neurons.arrow"))).unwrap();
    index_file::save(&index, Path::new(&path("own.arrow"))).unwrap();
    index.about.subject_hash ^= 1;
    index_file::save(&index, Path::new(&path("other.arrow"))).unwrap();
    for name in ["own.arrow", "neurons.arrow"] {
        feature(&mut h, FeatureAction::OpenIndex(path(name)));
        let text = &h.state().state.notices.latest().unwrap().text;
        assert!(text.contains("Opened the index"), "{text}");
    }
    let before = h.state().state.features.index.value.clone().unwrap();
    feature(&mut h, FeatureAction::OpenIndex(path("other.arrow")));
    assert!(h.state().state.notices.latest().unwrap().text.contains("open what was scanned"));
    assert!(Arc::ptr_eq(h.state().state.features.index.value.as_ref().unwrap(), &before));
}

/// A dictionary whose file names no site takes the one that is given, and another one after that.
#[test]
fn a_dictionary_without_a_site_is_placed() {
    let dir = dictionary();
    let folder = dir.path().join("test");
    let text = std::fs::read_to_string(folder.join("cfg.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["metadata"]["hook_name"] = "transformer.layer.0".into();
    circuitscope::files::write_atomic(&folder.join("cfg.json"), config.to_string().as_bytes()).unwrap();
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    feature(&mut h, FeatureAction::Open(folder.to_str().unwrap().to_owned()));
    let s = &h.state().state.features;
    assert!(s.open_sites() == (true, false) && s.reading.error.as_ref().unwrap().contains("transformer.layer.0"));
    for site in ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"] {
        feature(&mut h, FeatureAction::Site(site.to_owned(), None));
        let s = &h.state().state.features;
        assert_eq!(s.dictionary.value.as_ref().unwrap().input.unwrap().to_string(), site);
        assert!(s.reading.value.is_some() && s.open_sites() == (true, false));
    }
    feature(&mut h, FeatureAction::Site("blocks.9.hook_resid_post".to_owned(), None));
    let s = &h.state().state;
    assert!(s.notices.latest().unwrap().text.contains("layer"), "{}", s.notices.latest().unwrap().text);
    assert!(s.features.reading.value.is_some());
}

/// Damaged dictionaries and texts are one sentence; what was there before stays.
#[test]
fn a_bad_dictionary_leaves_the_old_one_open() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let _dir = features(&mut h);
    let before = h.state().state.features.dictionary.value.clone().unwrap();
    let bad = tempfile::tempdir().unwrap();
    circuitscope::files::write_atomic(&bad.path().join("cfg.json"), b"{").unwrap();
    feature(&mut h, FeatureAction::Open(bad.path().to_str().unwrap().to_owned()));
    let s = &h.state().state;
    assert!(Arc::ptr_eq(s.features.dictionary.value.as_ref().unwrap(), &before));
    assert!(s.notices.latest().unwrap().text.contains("cfg.json"));
    let index = s.features.index.value.clone().unwrap();
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "/no/such/text".to_owned(), 1000));
    let s = &h.state().state.features;
    assert!(s.index.error.as_ref().unwrap().contains("/no/such/text"));
    assert!(Arc::ptr_eq(s.index.value.as_ref().unwrap(), &index));
}

/// A scan lies in a file: opening the dictionary again finds it, and the same scan asked for again is there at once.
#[test]
fn scans_are_found_again() {
    let (dir, place) = (dictionary(), tempfile::tempdir().unwrap());
    let spec = dir.path().join("test").to_str().unwrap().to_owned();
    let open = || {
        let mut h = window(document(PROMPT));
        h.state_mut().enter(Workspace::Features);
        let s = &mut h.state_mut().state.features;
        (s.place, s.scans, s.keeps) = (place.path().to_owned(), place.path().join("scans"), true);
        feature(&mut h, FeatureAction::Open(spec.clone()));
        h
    };
    let mut h = open();
    assert!(h.state().state.features.index.value.is_none());
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 2_000));
    let first = h.state().state.features.index.value.clone().unwrap();
    let files =
        || std::fs::read_dir(place.path().join("scans")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 1);
    let written = std::fs::metadata(&files()[0]).unwrap().modified().unwrap();
    let mut h = open();
    assert_eq!(h.state().state.features.index.value.as_ref(), Some(&first));
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 2_000));
    assert_eq!(h.state().state.features.index.value.as_ref(), Some(&first));
    assert_eq!(std::fs::metadata(&files()[0]).unwrap().modified().unwrap(), written);
    // Another amount of text is another scan, and the newest one is found from now on.
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 3_000));
    assert_eq!(files().len(), 2);
    let s = &open().state().state.features.index.value.clone().unwrap();
    assert_eq!(s.about.limit, Some(3_000));
}

/// A training is started from the window, stops when it is told to, and a finished one is opened.
#[test]
fn a_dictionary_is_trained_in_the_window() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let place = tempfile::tempdir().unwrap();
    let activations = tempfile::tempdir().unwrap();
    let s = &mut h.state_mut().state.features;
    (s.place, s.activations) = (place.path().to_owned(), activations.path().to_owned());
    let mut ask = s.train.clone();
    ask.tokens = Some(2_000);
    (ask.settings.features, ask.settings.k, ask.settings.steps, ask.settings.batch) = (64, 8, 30, 128);
    feature(&mut h, FeatureAction::Train(Box::new(ask.clone()), true));
    let s = &h.state().state.features;
    let d = s.dictionary.value.as_ref().unwrap();
    assert_eq!((d.d_sae, d.activation.name()), (64, "topk"));
    assert!(s.training.parts.len() >= 4 && s.training.parts.last().unwrap().step == 30);
    assert!(s.training.parts.last().unwrap().ce_score.is_some());
    assert!(s.reading.value.is_some());
    // The activations of 1,900 tokens without rows' first, in the one folder that the next training takes them from.
    let kept = || {
        let folders: Vec<_> = std::fs::read_dir(activations.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(folders.len(), 1);
        std::fs::metadata(folders[0].join("input.safetensors")).unwrap()
    };
    let first_kept = kept();
    assert_eq!(s.kept_bytes.value.as_deref(), Some(&first_kept.len()));
    assert!(first_kept.len() > 4 * 64 * 1_500);
    // One that would take long stops at once, and goes on where it was when the same is asked for again.
    ask.settings.steps = 1_000_000;
    h.state_mut().state.apply(Action::Feature(FeatureAction::Train(Box::new(ask), true)), 0.0);
    h.run_steps(2);
    assert!(h.state().state.features.training.is_running());
    let folders = || std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().path()).collect::<BTreeSet<_>>();
    let wait_for = |h: &mut Harness<'static, App>, points: usize| {
        let started = std::time::Instant::now();
        while h.state().state.features.training.parts.len() < points {
            assert!(h.state().state.features.training.is_running() && started.elapsed().as_secs() < 120);
            std::thread::sleep(Duration::from_millis(20));
            h.run_steps(1);
        }
    };
    wait_for(&mut h, 4);
    let first = folders();
    assert_eq!(first.len(), 2, "the finished one and this");
    h.state_mut().state.apply(Action::Feature(FeatureAction::StopTraining), 0.0);
    assert!(!h.state().state.features.training.is_running());
    // At once: the new one waits for the checkpoint of the old.
    let again = h.state().state.features.train.clone();
    h.state_mut().state.apply(Action::Feature(FeatureAction::Train(Box::new(again), true)), 0.0);
    wait_for(&mut h, 5);
    assert_eq!(folders(), first, "it goes on where it was");
    let state = first.iter().filter(|f| f.join("training-state.safetensors").is_file());
    assert_eq!(state.count(), 1);
    // The curve begins where it began before.
    assert_eq!(h.state().state.features.training.parts[0].step, 1);
    h.state_mut().state.apply(Action::Feature(FeatureAction::StopTraining), 0.0);
    assert_eq!(kept().modified().unwrap(), first_kept.modified().unwrap(), "harvested once");
    feature(&mut h, FeatureAction::ForgetActivations);
    assert_eq!(std::fs::read_dir(activations.path()).unwrap().count(), 0);
    assert_eq!(h.state().state.features.kept_bytes.value.as_deref(), Some(&0));
}
