//! The window under test, and what several tests prepare in it.

use circuitscope::analysis::feature_geometry::Directions;
use circuitscope::analysis::patching::Ablation;
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::features::{Chosen, FeatureAction, Scanned};
use circuitscope::app::model::ModelAction;
use circuitscope::circuit::draft::Draft;
use circuitscope::engine::edit::{Action as Do, Edit};
use circuitscope::engine::{RunSide, Site, SiteKind};
use circuitscope::features::dictionary::formats::saelens;
use circuitscope::features::dictionary::{Activation, Dictionary, Normalisation};
use circuitscope::features::direction::Method;
use circuitscope::features::direction::concept::Pool;
use circuitscope::features::direction::search::{DirectionSearch, Examples};
use circuitscope::features::feature_activations::{ReadFrom, feature_activations};
use circuitscope::features::page::Groups;
use circuitscope::features::polysemantic::{Ranking, RankingOf};
use circuitscope::features::scan::Subject;
use circuitscope::features::scan::index::{About, Entry, Example, Index};
use circuitscope::features::scan::question::{ScanOf, ScanOutcome};
use circuitscope::features::train::Point;
use circuitscope::features::train::shelf::{DictionaryTraining, DictionaryTrainingOf};
use circuitscope::progress::Progress;
use circuitscope::session::Desk;
use circuitscope::session::desk::{CircuitSettings, Show};
use circuitscope::shard::Shard;
use circuitscope::superposition::phases::Grid;
use circuitscope::superposition::presets::by_name;
use circuitscope::superposition::recipe::Sweep;
use circuitscope::superposition::{Recipe, Snapshot, Toy};
use circuitscope::training::StepReport;
use circuitscope::training::addition::Fourier;
use circuitscope::training::run::Probe;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const PROMPT: &str = "The President of the United States and the President of the";

/// A desk for the small model that ships.
pub fn document(prompt: &str) -> Desk {
    Desk { model: "induction".to_owned(), prompt: prompt.to_owned(), ..Desk::default() }
}

/// A window of the given size; without a renderer, since most flows need none.
pub fn window(desk: Desk) -> Harness<'static, App> {
    let mut h = Harness::builder()
        .with_size([1280.0, 800.0])
        .with_max_steps(60)
        .with_os(egui::os::OperatingSystem::Nix)
        .build_eframe(move |cc| App::new(&cc.egui_ctx, desk.into(), Vec::new()));
    settle(&mut h);
    h
}

#[derive(Debug)]
struct Dropped(PathBuf);

impl egui::DroppedFile for Dropped {
    fn path(&self) -> &Path {
        &self.0
    }
    fn bytes(&self) -> Result<Vec<u8>, String> {
        Err("what is dropped is opened by its path".to_owned())
    }
}

/// Drops a file or folder on the window, and waits for what comes of it.
pub fn drop_on(h: &mut Harness<'static, App>, path: &Path) {
    h.input_mut().dropped_files.push(Arc::new(Dropped(path.to_owned())));
    h.step();
    settle(h);
}

/// Waits for all results and draws them, those too that views ask for when they are drawn.
pub fn settle(h: &mut Harness<'static, App>) {
    let ctx = h.ctx.clone();
    for _ in 0..20 {
        h.state_mut().settle(&ctx, Duration::from_secs(120)).unwrap();
        h.run();
        if h.state_mut().is_settled() {
            return;
        }
    }
    panic!("views ask for more and more");
}

/// Draws frames until something is seen, however slow the machine is.
pub fn until(h: &mut Harness<'static, App>, what: &str, mut seen: impl FnMut(&mut Harness<'static, App>) -> bool) {
    let started = Instant::now();
    loop {
        h.step();
        if seen(h) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it did not come to pass: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Brings a view to the front and waits for what it shows.
pub fn look(h: &mut Harness<'static, App>, view: &'static str) {
    h.state_mut().show(view);
    settle(h);
}

/// Something for the causal views to show: an edit, a sweep, a text.
pub fn causes(h: &mut Harness<'static, App>) {
    h.state_mut().state.apply(ModelAction::Geometry(Directions::Embedding), 0.0);
    let zero = Edit::new(Site::new(SiteKind::Z, 0), Do::Zero).head(2);
    let state = &mut h.state_mut().state;
    let settings = state.desk().patching;
    state.apply(ModelAction::Patch(settings), 0.0);
    state.apply(ModelAction::Toggle(RunSide::Clean, vec![zero]), 0.0);
    settle(h);
    let state = &mut h.state_mut().state;
    state.apply(ModelAction::Show(Show::Clean), 0.0);
    state.apply(ModelAction::Sampling(Default::default(), 12), 0.0);
    state.apply(ModelAction::Generate, 0.0);
    let settings = CircuitSettings { outside: Ablation::Mean, ..Default::default() };
    state.apply(ModelAction::CircuitSettings(settings), 0.0);
    let nodes = ["a0.h2", "a1.h0", "a1.h1", "a1.h3"].map(str::to_owned).to_vec();
    let heads = serde_json::json!({"text": "prose", "tokens": 1500, "scans": true, "by": "previous"});
    state.apply(ModelAction::View("heads", heads), 0.0);
    state.apply(ModelAction::Circuit("test", Draft { nodes, ..Default::default() }), 0.0);
    settle(h);
}

/// Labelled texts with a split of their own, as a file holds them; they differ in what comes last.
pub fn labelled() -> String {
    let starts =
        ["We saw the", "This is the", "At last there was the", "She sat by the", "He came with the", "All knew the"];
    let mut text = "label\tsplit\ttext\n".to_owned();
    for (i, start) in starts.iter().enumerate() {
        let side = if i < 4 { "train" } else { "test" };
        for (label, words) in [("people", ["king", "woman"]), ("things", ["house", "door"])] {
            words.iter().for_each(|word| text.push_str(&format!("{label}\t{side}\t{start} {word}\n")));
        }
    }
    text
}

/// Something for the view of probes to show.
pub fn probes(h: &mut Harness<'static, App>) {
    let texts = serde_json::json!({"typed": labelled()});
    let fit = serde_json::json!({"texts": texts, "pool": "last", "random": 4});
    let recipe = serde_json::json!({"texts": texts, "answers": [" was", " of"], "layer": 1, "pairs": 8});
    let settings = serde_json::json!({"fit": fit, "interchange": {"recipe": recipe}});
    h.state_mut().state.apply(ModelAction::View("probes", settings), 0.0);
    settle(h);
}

/// Shows a small training, the same on every machine, that gives the named view something to show.
pub fn training(h: &mut Harness<'static, App>, view: &str) {
    if view.starts_with("scratch-") {
        transformer(h);
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
    let mut snapshots = vec![Arc::new(Snapshot::of(&toy))];
    for _ in 0..6 {
        toy.run(100, &Progress::new()).unwrap();
        snapshots.push(Arc::new(Snapshot::of(&toy)));
    }
    h.state_mut().state.superposition.present(recipe, setup, snapshots);
}

/// A dictionary of features for `induction`, the same on every machine, in a folder of its own.
pub fn dictionary() -> tempfile::TempDir {
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
        warnings: Vec::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    saelens::save(&dictionary, &dir.path().join("test"), &serde_json::json!({})).unwrap();
    dir
}

pub fn feature(h: &mut Harness<'static, App>, action: FeatureAction) {
    h.state_mut().state.apply(Action::Feature(action), 0.0);
    settle(h);
}

/// Something for the views of features to show.
pub fn features(h: &mut Harness<'static, App>) -> tempfile::TempDir {
    let dir = dictionary();
    let spec = dir.path().join("test").to_str().unwrap().to_owned();
    let set = dir.path().join("of.tsv");
    let rows: String =
        (0..8).map(|i| format!("{}\t{} of the\n", i % 2, if i % 2 == 0 { "house" } else { "king" })).collect();
    circuitscope::files::write_atomic(&set, format!("label\ttext\n{rows}").as_bytes()).unwrap();
    feature(h, FeatureAction::Open(spec));
    feature(h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 2_000));
    let find = FeatureAction::Find(Box::new(DirectionSearch {
        examples: Examples::Set(set.to_str().unwrap().to_owned()),
        method: Method::DifferenceOfMeans,
        kind: SiteKind::ResidPost,
        pool: Pool::Mean,
    }));
    feature(h, find);
    let (opened, trace) = {
        let state = &h.state().state;
        (state.features.dictionary().unwrap().clone(), state.run().unwrap().trace.clone())
    };
    let read = feature_activations(opened, ReadFrom::Run(trace), &Progress::new()).unwrap();
    let active = read.leading(Default::default(), None, 1).0[0];
    feature(h, FeatureAction::Choose(Chosen::Feature(active)));
    feature(h, FeatureAction::Keep(active));
    feature(h, FeatureAction::Dose(vec![" the".to_owned()], vec![" a".to_owned()], "prose".to_owned()));
    feature(h, FeatureAction::Map);
    let model = h.state().state.model.clone().unwrap();
    let state = &mut h.state_mut().state.features;
    let curve = (0..20)
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
                held_out: None,
            }
        })
        .collect();
    let (recipe, shelf) = (state.desk.recipe.clone(), state.folders.shelf.clone());
    let question = DictionaryTrainingOf { model: model.clone(), recipe, shelf, keep: None };
    state.training.set(question, DictionaryTraining { curve, trained: None });
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
        shard: Shard::new("features dashboard", 0, 0, (0, 1)).unwrap(),
        done: 1,
        batches: 1,
        positions: 2000,
        sample: 10,
        window: 1,
        top: 20,
        subject_hash: 0,
        features_of: None,
    };
    let neurons = Index { about, entries: vec![entry; 3] };
    let groups = Groups { of: (0..10).map(|i| i % 2).collect(), count: 2, apart: 0.7 };
    let index = Arc::new(neurons);
    let question = ScanOf::of_index(model, Subject::Neurons(0), &index);
    state.neurons.set(question, ScanOutcome { index: index.clone(), unkept: None });
    let ranked = Ranking { index: index.clone(), neurons: (0..3).map(|n| (n, groups.clone())).collect() };
    state.ranking.set(RankingOf { index }, ranked);
    h.run();
    dir
}

/// Shows a training of a small transformer as it might have been, the same on every machine.
pub fn transformer(h: &mut Harness<'static, App>) {
    let named = |n: &str, v: f32| (n.to_owned(), v);
    let waves = |t: f32| (1..=29).map(|k| if [5, 14, 22].contains(&k) { 0.3 * t } else { 0.01 }).collect();
    let probe = |step: usize| {
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
        Arc::new(Probe {
            step,
            scores: vec![named("right, held-out pairs", t * t), named("loss, held-out pairs", 5.0 - 4.9 * t)],
            tokens: ["b", "d", "k", "m", "p", "?"].map(str::to_owned).to_vec(),
            patterns: vec![vec![(0..6).flat_map(row).collect(); 2]; 2],
            fourier: Some(Fourier { embedding: waves(t), logits: waves(t) }),
            folder: None,
        })
    };
    let report = |step: usize| {
        let values = vec![named("trained pairs", 4.0 * (-(step as f32) / 60.0).exp() + 1e-4)];
        Arc::new(StepReport { step, values, probe: None })
    };
    let steps = |by: usize| (0..=500).step_by(by);
    let task = circuitscope::training::by_name("addition").unwrap();
    h.state_mut().state.training.present(task, steps(25).map(report).collect(), steps(50).map(probe).collect());
}

/// Types where to save, in the dialog that asks, and saves there.
pub fn save_to(h: &mut Harness<'static, App>, path: &Path) {
    h.get_by_label("Path to save to").focus();
    h.run();
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.run();
    h.get_by_label("Path to save to").type_text(&path.display().to_string());
    h.run();
    h.get_by_label("Save").click();
}
