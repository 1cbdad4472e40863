//! Dictionaries, directions, scans, labels, training.

use crate::window::{PROMPT, dictionary, document, drop_on, feature, features, settle, window};
use candle_core::{DType, Device, Tensor};
use circuitscope::app::App;
use circuitscope::app::action::Action;
use circuitscope::app::features::{Chosen, FeatureAction, Scanned};
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::app::view::Workspace;
use circuitscope::engine::{Capture, RunSide, SiteKind};
use circuitscope::features::Place;
use circuitscope::features::dictionary::formats::saelens;
use circuitscope::features::direction::Method;
use circuitscope::features::direction::concept::Pool;
use circuitscope::features::direction::search::{DirectionSearch, Examples};
use circuitscope::features::feature_activations::Order;
use circuitscope::features::labels::{Label, Labels, Unit, of_model};
use circuitscope::features::scan::index_file;
use circuitscope::model::safetensors_file::pack;
use circuitscope::progress::Progress;
use circuitscope::session::Desk;
use circuitscope::session::desk::Pinned;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
    let reading = h.state().state.features.activations.value().cloned().unwrap();
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
    let stack = h.state().state.desk().stack.clone();
    assert_eq!(stack.edits.len(), 1);
    assert!(stack.edits[0].to_string().starts_with("ablate feature"), "{}", stack.edits[0]);
    // The edited run differs from the plain one by the feature's part alone.
    let edited = h.state().state.results.edited.get().unwrap().trace.clone();
    let plain = h.state().state.run().unwrap().trace.clone();
    assert!(!edited.edits().is_empty() || !plain.edits().is_empty());
    h.get_by_label("Steer").click();
    h.run();
    settle(&mut h);
    assert_eq!(h.state().state.desk().stack.edits.len(), 2);
    // Another strength takes the place of the one before; none is a strength as well.
    let factor = |h: &Harness<'static, App>| match &h.state().state.desk().stack.edits[1].action {
        circuitscope::engine::edit::Action::Add { factor, .. } => *factor,
        other => panic!("{other:?}"),
    };
    let before = factor(&h);
    let state = &h.state().state;
    let weaker = state.features.steer(Chosen::Feature(active), 0.5 * before, state.model.as_ref().unwrap()).unwrap();
    h.state_mut().state.apply(ModelAction::Put(RunSide::Clean, weaker), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.desk().stack.edits.len(), 2);
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
    feature(&mut h, FeatureAction::Find(Box::new(DirectionSearch { examples, method, kind, pool: Pool::Last })));
    let s = &h.state().state.features;
    let i = s.desk.watched.iter().position(|w| w.concept.name == "royal").unwrap();
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
    feature(&mut h, FeatureAction::Find(Box::new(DirectionSearch { examples, method, kind, pool: Pool::Mean })));
    assert!(h.state().state.notices.latest().unwrap().text.contains("at least four"));
    // Features by what they add to the answer.
    h.state_mut().layout = Layout::of(Workspace::Features);
    feature(&mut h, FeatureAction::Order(Order::Answer));
    let s = &h.state().state.features;
    assert!(s.attribution.value().is_some(), "{:?}", s.attribution.error());
    assert_eq!(s.heat.value().unwrap().order, Order::Answer);
    let (added, acts) = (s.attribution.value().unwrap(), s.activations.value().unwrap());
    assert_eq!(added.values.values.len(), acts.acts.values.len());
    // At the pinned token, wherever that goes.
    feature(&mut h, FeatureAction::Order(Order::At(0)));
    for pos in [1, 2] {
        let pinned = h.state().state.pinned();
        h.state_mut().state.apply(ModelAction::Pin(Pinned { pos, ..pinned }), 0.0);
        settle(&mut h);
        let heat = h.state().state.features.heat.value().cloned().unwrap();
        assert_eq!(heat.order, Order::At(pos));
        let acts = &heat.activations.acts;
        let strongest = acts.row(pos).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
        assert_eq!(heat.features[0], strongest);
    }
}

/// Labels of neurons and directions are the model's: they are there whatever dictionary is open, and when it is opened
/// again.
#[test]
fn neurons_and_directions_are_named() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let kept = tempfile::tempdir().unwrap();
    let f = &mut h.state_mut().state.features.folders;
    (f.keeps, f.shelf, f.scans) = (true, kept.path().to_owned(), kept.path().join("scans"));
    let model = |h: &Harness<'static, App>| h.state().state.model.clone().unwrap();
    h.state_mut().state.apply(Action::Open("text".to_owned()), 0.0);
    settle(&mut h);
    let set = kept.path().join("of.tsv");
    let rows: String =
        (0..8).map(|i| format!("{}\t{} of the\n", i % 2, if i % 2 == 0 { "house" } else { "king" })).collect();
    circuitscope::files::write_atomic(&set, format!("label\ttext\n{rows}").as_bytes()).unwrap();
    let find = || {
        FeatureAction::Find(Box::new(DirectionSearch {
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
    h.state_mut().show("monitor");
    settle(&mut h);
    let s = &h.state().state.features;
    assert!(s.row_name(&s.monitored.value().unwrap().rows[0]).ends_with("kings"));
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
    let of_set = (0..s.desk.watched.len()).map(Chosen::Concept).find(|c| s.name(*c).starts_with("of at")).unwrap();
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
        assert_eq!(h.state().state.features.desk.chosen, Some(chosen), "{wanted}");
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
    h.state_mut().show("monitor");
    let kept: Vec<u32> = h.state().state.features.desk.kept.iter().map(|k| k.0).collect();
    for f in kept {
        feature(&mut h, FeatureAction::Keep(f));
    }
    while !h.state().state.features.desk.watched.is_empty() {
        feature(&mut h, FeatureAction::Forget(0));
    }
    assert!(h.state().state.features.monitored.value().is_none());
    for f in [3, 5] {
        feature(&mut h, FeatureAction::Keep(f));
        feature(&mut h, FeatureAction::KeptThreshold(f, f as f32));
    }
    feature(&mut h, FeatureAction::Keep(3));
    let s = &h.state().state.features;
    let m = s.monitored.value().cloned().unwrap();
    assert_eq!(m.rows.len(), 1);
    assert_eq!(s.threshold(&m.rows[0]), Some(5.0));

    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let neurons = s.index_of(Chosen::Neuron(0, 0)).unwrap();
    let mut index = (**s.index().unwrap()).clone();
    index_file::save(neurons, Path::new(&path("neurons.arrow"))).unwrap();
    index_file::save(&index, Path::new(&path("own.arrow"))).unwrap();
    index.about.subject_hash ^= 1;
    index_file::save(&index, Path::new(&path("other.arrow"))).unwrap();
    for name in ["own.arrow", "neurons.arrow"] {
        feature(&mut h, FeatureAction::OpenIndex(path(name)));
        let text = &h.state().state.notices.latest().unwrap().text;
        assert!(text.contains("Opened the index"), "{text}");
    }
    let before = h.state().state.features.index().cloned().unwrap();
    feature(&mut h, FeatureAction::OpenIndex(path("other.arrow")));
    assert!(h.state().state.notices.latest().unwrap().text.contains("open what was scanned"));
    assert!(Arc::ptr_eq(h.state().state.features.index().unwrap(), &before));
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
    assert!(s.open_sites() == (true, false) && s.activations.error().unwrap().contains("transformer.layer.0"));
    for site in ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"] {
        feature(&mut h, FeatureAction::Site(site.to_owned(), None));
        let s = &h.state().state.features;
        assert_eq!(s.dictionary().unwrap().input.unwrap().to_string(), site);
        assert!(s.activations.value().is_some() && s.open_sites() == (true, false));
    }
    feature(&mut h, FeatureAction::Site("blocks.9.hook_resid_post".to_owned(), None));
    let s = &h.state().state;
    assert!(s.notices.latest().unwrap().text.contains("layer"), "{}", s.notices.latest().unwrap().text);
    assert!(s.features.activations.value().is_some());
}

/// Damaged dictionaries and texts are one sentence; what was there before stays.
#[test]
fn a_bad_dictionary_leaves_the_old_one_open() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let _dir = features(&mut h);
    let before = h.state().state.features.dictionary().cloned().unwrap();
    let bad = tempfile::tempdir().unwrap();
    circuitscope::files::write_atomic(&bad.path().join("cfg.json"), b"{").unwrap();
    feature(&mut h, FeatureAction::Open(bad.path().to_str().unwrap().to_owned()));
    let s = &h.state().state;
    assert!(Arc::ptr_eq(s.features.dictionary().unwrap(), &before));
    assert!(s.notices.latest().unwrap().text.contains("cfg.json"));
    let index = s.features.index().cloned().unwrap();
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "/no/such/text".to_owned(), 1000));
    let s = &h.state().state.features;
    assert!(s.index.error().unwrap().contains("/no/such/text"));
    assert!(Arc::ptr_eq(s.index().unwrap(), &index));
}

/// A scan lies in a file: opening the dictionary again finds it, and the same scan asked for again is there at once.
#[test]
fn scans_are_found_again() {
    let (dir, place) = (dictionary(), tempfile::tempdir().unwrap());
    let spec = dir.path().join("test").to_str().unwrap().to_owned();
    let open = || {
        let mut h = window(document(PROMPT));
        h.state_mut().enter(Workspace::Features);
        let s = &mut h.state_mut().state.features.folders;
        (s.shelf, s.scans, s.keeps) = (place.path().to_owned(), place.path().join("scans"), true);
        feature(&mut h, FeatureAction::Open(spec.clone()));
        h
    };
    let mut h = open();
    assert!(h.state().state.features.index().is_none());
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 2_000));
    let first = h.state().state.features.index().cloned().unwrap();
    let same = |h: &Harness<'static, App>| {
        let index = h.state().state.features.index().unwrap();
        assert_eq!((&index.about, &index.entries), (&first.about, &first.entries));
    };
    let files =
        || std::fs::read_dir(place.path().join("scans")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 1);
    let written = std::fs::metadata(&files()[0]).unwrap().modified().unwrap();
    let mut h = open();
    same(&h);
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 2_000));
    same(&h);
    assert_eq!(std::fs::metadata(&files()[0]).unwrap().modified().unwrap(), written);
    // Another amount of text is another scan, and the newest one is found from now on.
    feature(&mut h, FeatureAction::Scan(Scanned::Features, "prose".to_owned(), 3_000));
    assert_eq!(files().len(), 2);
    let h = open();
    assert_eq!(h.state().state.features.index().unwrap().about.limit, Some(3_000));
}

/// A session knows its dictionary by its weights: another one at its place is said to be another.
#[test]
fn a_dictionary_that_was_changed_is_said_to_be() {
    let dir = dictionary();
    let path = dir.path().join("test");
    let mut h = window(document(PROMPT));
    feature(&mut h, FeatureAction::Open(path.to_str().unwrap().to_owned()));
    feature(&mut h, FeatureAction::Keep(3));
    feature(&mut h, FeatureAction::Choose(Chosen::Feature(5)));
    let kept = h.state().state.document.clone();
    assert!(kept.desk.features.read_hash.is_some());
    let text = serde_json::to_string(&kept).unwrap();
    let kept: circuitscope::session::Document = serde_json::from_str(&text).unwrap();
    let reopen = || {
        let mut h = window(document(PROMPT));
        h.state_mut().state.replace_document(kept.clone());
        settle(&mut h);
        let s = &h.state().state;
        let said = s.notices.latest().is_some_and(|n| n.text.contains("is not the one that it was"));
        (said, s.desk().features.kept.len(), s.desk().features.chosen)
    };
    assert_eq!(reopen(), (false, 1, Some(Chosen::Feature(5))));
    let mut other = circuitscope::features::dictionary::store::open(path.to_str().unwrap(), &Progress::new()).unwrap();
    other.b_enc[0] += 1.0;
    saelens::save(&other, &path, &serde_json::json!({})).unwrap();
    assert_eq!(reopen(), (true, 0, None));
}

/// Activations of other programs that are dropped on the window take the text's place in a training.
#[test]
fn captured_activations_are_trained_on_in_the_window() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("captured.safetensors");
    let path = file.to_str().unwrap();
    let mut h = window(document(PROMPT));
    let model = h.state().state.model.clone().unwrap();
    let ids = model.encode(&PROMPT.repeat(4), false).unwrap();
    let sites = ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.0.attn.hook_pattern"];
    let mut capture = Capture::globs(&model.config, &sites.map(str::to_owned)).unwrap();
    model.network().forward(&[&ids], &mut capture, &Progress::new()).unwrap();
    let tensors: Vec<(String, Tensor)> =
        capture.values.iter().map(|(s, t)| (s.to_string(), t.squeeze(0).unwrap().contiguous().unwrap())).collect();
    let packed = pack(tensors.iter().map(|(n, t)| (n.as_str(), t)), &[("generator", "elsewhere".to_owned())]).unwrap();
    std::fs::write(&file, packed).unwrap();
    let s = &mut h.state_mut().state.features;
    (s.folders.keeps, s.folders.shelf) = (true, place.path().join("shelf"));
    drop_on(&mut h, &file);
    h.run();
    assert!(h.query_all_by_label_contains("on captured activations").next().is_some());
    let s = &h.state().state.features;
    assert_eq!(s.desk.reads_captured(), Some(path));
    // The sites of the file that have a vector at each position, and no field of tokens.
    assert_eq!(s.captured.value().map(|p| p.len()), Some(2));
    assert!(h.query_by_label("tokens").is_none());
    let mut ask = s.desk.recipe.clone();
    ask.text = vec![path.to_owned()];
    ask.site = Place::parse("blocks.1.hook_resid_post").unwrap();
    (ask.settings.features, ask.settings.k, ask.settings.steps, ask.settings.batch) = (32, 4, 20, 32);
    feature(&mut h, FeatureAction::Train(Box::new(ask.clone()), false));
    let s = &h.state().state.features;
    let trained = s.training.value().unwrap();
    assert!(trained.curve.last().unwrap().step == 20 && trained.trained.as_ref().unwrap().quality.is_none());
    let d = s.dictionary().unwrap();
    assert_eq!((d.d_sae, d.input), (32, Some(ask.site)));
    assert_eq!(d.model_name.as_deref(), Some("induction"));
    // Its features are read from the file, and by a click from the prompt.
    h.state_mut().show("features");
    settle(&mut h);
    let read = |h: &Harness<'static, App>| h.state().state.features.activations.value().unwrap().clone();
    assert_eq!((read(&h).acts.rows(), read(&h).token(3)), (ids.len(), "3".to_owned()));
    assert!(!read(&h).explained.is_empty() && h.state().state.features.heat.value().is_some());
    // An order that is the prompt's own gives way.
    feature(&mut h, FeatureAction::Order(Order::Answer));
    let s = &h.state().state.features;
    assert!(s.heat.value().is_some_and(|heat| heat.order == Order::Max) && s.attribution.error().is_none());
    feature(&mut h, FeatureAction::Order(Order::Max));
    feature(&mut h, FeatureAction::ReadCaptured(false));
    assert_eq!(read(&h).acts.rows(), h.state().state.run().unwrap().trace.len());
    // What the file lacks, and vectors of another width, are refused by name.
    ask.site = Place::parse("blocks.0.hook_resid_post").unwrap();
    feature(&mut h, FeatureAction::Train(Box::new(ask.clone()), false));
    let said = h.state().state.notices.latest().unwrap().text.clone();
    assert!(said.contains("holds nothing at blocks.0.hook_resid_post"), "{said}");
    let narrow = Tensor::zeros((40, 5), DType::F32, &Device::Cpu).unwrap();
    let packed = pack([("blocks.0.hook_resid_post", &narrow)], &[]).unwrap();
    std::fs::write(&file, packed).unwrap();
    ask.settings.steps = 21;
    feature(&mut h, FeatureAction::Train(Box::new(ask), false));
    let said = h.state().state.notices.latest().unwrap().text.clone();
    assert!(said.contains("vectors of 5 numbers at blocks.0.hook_resid_post"), "{said}");
}

/// A training is started from the window, stops when it is told to, and a finished one is opened.
#[test]
fn a_dictionary_is_trained_in_the_window() {
    let mut h = window(document(PROMPT));
    h.state_mut().enter(Workspace::Features);
    let place = tempfile::tempdir().unwrap();
    let activations = tempfile::tempdir().unwrap();
    h.state_mut().show("dictionary-training");
    let s = &mut h.state_mut().state.features;
    let (folders, kept) = (&mut s.folders, activations.path().to_owned());
    (folders.keeps, folders.shelf, folders.activations) = (true, place.path().to_owned(), kept);
    folders.scans = activations.path().join("scans");
    let mut ask = s.desk.recipe.clone();
    ask.tokens = Some(2_000);
    (ask.settings.features, ask.settings.k, ask.settings.steps, ask.settings.batch) = (64, 8, 30, 128);
    feature(&mut h, FeatureAction::Train(Box::new(ask.clone()), true));
    let s = &h.state().state.features;
    let d = s.dictionary().unwrap();
    assert_eq!((d.d_sae, d.activation.name()), (64, "topk"));
    let curve = &s.training.value().unwrap().curve;
    assert!(curve.len() >= 4 && curve.last().unwrap().step == 30 && curve.last().unwrap().ce_score.is_some());
    assert!(s.activations.value().is_some());
    // The activations of 1,900 tokens without rows' first, in the one folder that the next training takes them from.
    let kept = || {
        let folders: Vec<_> = std::fs::read_dir(activations.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(folders.len(), 1);
        std::fs::metadata(folders[0].join("input.safetensors")).unwrap()
    };
    let first_kept = kept();
    assert_eq!(s.kept_activations.value().map(|n| **n), Some(first_kept.len()));
    assert!(first_kept.len() > 4 * 64 * 1_500);
    // One that would take long stops at once, and goes on where it was when the same is asked for again.
    ask.settings.steps = 1_000_000;
    h.state_mut().state.apply(Action::Feature(FeatureAction::Train(Box::new(ask), true)), 0.0);
    h.run_steps(2);
    assert!(h.state().state.features.training.is_running());
    let folders = || std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().path()).collect::<BTreeSet<_>>();
    let wait_for = |h: &mut Harness<'static, App>, points: usize| {
        let started = std::time::Instant::now();
        let length = |h: &Harness<'static, App>| h.state().state.features.training.value().map_or(0, |t| t.curve.len());
        while length(h) < points {
            assert!(h.state().state.features.training.is_running() && started.elapsed().as_secs() < 120);
            std::thread::sleep(Duration::from_millis(20));
            h.run_steps(1);
        }
    };
    wait_for(&mut h, 4);
    let first = folders();
    assert_eq!(first.len(), 2, "the finished one and this");
    h.state_mut().state.apply(Action::Feature(FeatureAction::StopTraining), 0.0);
    assert!(!h.state().state.features.is_training());
    // At once: the new one waits for the checkpoint of the old.
    let again = h.state().state.features.desk.recipe.clone();
    h.state_mut().state.apply(Action::Feature(FeatureAction::Train(Box::new(again), true)), 0.0);
    wait_for(&mut h, 5);
    assert_eq!(folders(), first, "it goes on where it was");
    let state = first.iter().filter(|f| f.join("training-state.safetensors").is_file());
    assert_eq!(state.count(), 1);
    // The curve begins where it began before.
    assert_eq!(h.state().state.features.training.value().unwrap().curve[0].step, 1);
    // Another model stops it, and says so.
    h.state_mut().state.apply(Action::Open("alphabetical".to_owned()), 0.0);
    settle(&mut h);
    assert!(!h.state().state.features.is_busy());
    let said = h.query_by_label_contains("The training of a dictionary of induction was stopped at step ");
    assert!(said.is_some(), "the curve stands still without a word");
    h.state_mut().state.apply(Action::Open("induction".to_owned()), 0.0);
    settle(&mut h);
    assert_eq!(kept().modified().unwrap(), first_kept.modified().unwrap(), "harvested once");
    feature(&mut h, FeatureAction::ForgetActivations);
    assert_eq!(std::fs::read_dir(activations.path()).unwrap().count(), 0);
    assert_eq!(h.state().state.features.kept_activations.value().map(|n| **n), Some(0));
}

/// A set is trained layer by layer, with curves of each, and is then what predictions are traced to.
#[test]
fn a_set_is_trained_in_the_window() {
    use circuitscope::features::train::Method;
    let mut h = window(Desk { model: "text".to_owned(), prompt: "The old man sat on".to_owned(), ..Desk::default() });
    h.state_mut().enter(Workspace::Features);
    let place = tempfile::tempdir().unwrap();
    h.state_mut().show("dictionary-training");
    let s = &mut h.state_mut().state.features;
    s.folders.shelf = place.path().to_owned();
    let mut ask = s.desk.recipe.clone();
    (ask.text, ask.context, ask.tokens) = (vec!["prose".to_owned()], 32, Some(1_500));
    ask.settings.method = Method::BatchTopK;
    (ask.settings.features, ask.settings.k, ask.settings.steps, ask.settings.batch) = (32, 4, 12, 64);
    feature(&mut h, FeatureAction::TrainSet(Box::new(ask)));
    h.run();
    let state = &h.state().state;
    let set = state.features.set_training.value().unwrap();
    let trained: Vec<(usize, usize)> = set.curves.iter().map(|(l, curve)| (*l, curve.last().unwrap().step)).collect();
    assert_eq!((trained, set.layers), (vec![(0, 12), (1, 12), (2, 12)], 3));
    let folder = set.folder.clone().unwrap();
    assert!(folder.starts_with(place.path()) && folder.join("layer_2.safetensors").is_file());
    assert!(h.query_by_label_contains("trained layer 3 of 3").is_some());
    let hints = ["layer 0: ", "layer 1: ", "layer 2: "].map(|name| h.query_by_label_contains(name).is_some());
    assert_eq!(hints, [true; 3]);
    // Its graph is the next that is looked at.
    assert_eq!(state.desk().graph.set.as_deref(), folder.to_str());
    h.state_mut().enter(Workspace::Model);
    h.state_mut().layout = Layout::single("graph");
    settle(&mut h);
    let state = &h.state().state;
    let shown = state.results.graph.fresh().expect("it is traced").value.clone();
    let circuitscope::graph::layout::Origin::Features { found, .. } = &shown.source else { panic!("on features") };
    assert!(!found.features.is_empty() && found.features.iter().all(|f| f.feature < 32));
}

/// What no view shows is not computed, and nothing goes on after Escape.
#[test]
fn only_what_is_seen_is_asked_and_everything_stops() {
    let mut h = window(document(PROMPT));
    h.state_mut().layout = Layout::single("dictionary-training");
    let dir = dictionary();
    feature(&mut h, FeatureAction::Open(dir.path().join("test").to_str().unwrap().to_owned()));
    feature(&mut h, FeatureAction::Choose(Chosen::Feature(3)));
    feature(&mut h, FeatureAction::Keep(3));
    let asked = |h: &Harness<'static, App>| {
        let s = &h.state().state.features;
        let (page, monitor) = (s.page.value().is_some(), s.monitored.value().is_some());
        [s.activations.value().is_some(), s.heat.value().is_some(), page, monitor]
    };
    assert_eq!(asked(&h), [false; 4]);
    for (view, expected) in [
        ("feature-map", [true, false, false, false]),
        ("features", [true, true, false, false]),
        ("dashboard", [true, true, true, false]),
        ("monitor", [true, true, true, true]),
    ] {
        h.state_mut().layout = Layout::single(view);
        settle(&mut h);
        assert_eq!(asked(&h), expected, "{view}");
    }
    // Of another prompt nothing is kept that nobody looks at.
    h.state_mut().state.apply(ModelAction::Prompt("another prompt".to_owned()), 0.0);
    settle(&mut h);
    assert_eq!(asked(&h), [false, false, true, true]);
    let place = tempfile::tempdir().unwrap();
    let s = &mut h.state_mut().state.features;
    s.folders.shelf = place.path().to_owned();
    let mut recipe = s.desk.recipe.clone();
    (recipe.tokens, recipe.settings.features, recipe.settings.steps) = (Some(2_000), 64, 1_000_000);
    h.state_mut().state.apply(Action::Feature(FeatureAction::Train(Box::new(recipe), false)), 0.0);
    let scan = FeatureAction::Scan(Scanned::Features, "mixed".to_owned(), 10_000_000);
    h.state_mut().state.apply(Action::Feature(scan), 0.0);
    h.run_steps(2);
    assert!(h.state().state.features.is_training() && h.state().state.features.index.is_running());
    h.state_mut().state.cancel();
    settle(&mut h);
    assert!(h.state().state.pool.running().is_empty() && !h.state().state.features.is_busy());
}
