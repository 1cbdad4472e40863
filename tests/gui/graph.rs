//! Attribution graphs.

use crate::circuits::copying_pair;
use crate::common::fixture;
use crate::window::{PROMPT, document, look, save_to, settle, until, window};
use circuitscope::analysis::component::Component;
use circuitscope::app::App;
use circuitscope::app::action::{Action, Command};
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::session::Desk;
use circuitscope::session::desk::GraphTarget;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use serde_json::Value;
use std::time::Duration;

#[test]
fn a_graph_follows_the_pinned_token_and_the_sliders() {
    let mut h = copying_pair();
    look(&mut h, "graph");
    settle(&mut h);
    let all = h.state().state.results.drawing.get().unwrap().graph.nodes.len();
    h.state_mut().state.apply(ModelAction::Thresholds(Some((0.4, 0.9))), 0.0);
    settle(&mut h);
    let fewer = h.state().state.results.drawing.get().unwrap().graph.nodes.len();
    assert!(fewer < all, "{fewer} {all}");
    let label = |h: &Harness<'static, App>| {
        let d = h.state().state.results.drawing.get().unwrap().value.clone();
        d.graph.nodes.iter().find(|n| n.kind == circuitscope::graph::NodeKind::Logit).unwrap().label.clone()
    };
    assert!(label(&h).contains("United") && label(&h).contains("first"));
    // On the screen the two tokens are apart, each with its own spaces.
    let svg = h.state_mut().plate("graph", egui::vec2(900.0, 600.0), true);
    assert!(svg.contains("·United − ·first"), "the target is drawn as two tokens");
    h.state_mut().state.apply(ModelAction::Graph(GraphTarget::Answer), 0.0);
    settle(&mut h);
    assert!(!label(&h).contains("first"));
    let pinned = h.state().state.pinned();
    h.state_mut().state.apply(ModelAction::Pin(circuitscope::session::desk::Pinned { pos: 3, ..pinned }), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.drawing.get().unwrap().graph.prompt_tokens.len(), 4);
}

#[test]
fn others_graphs_open_and_broken_ones_are_one_sentence() {
    let mut h = window(document(PROMPT));
    let path = fixture("graphs/meow-clt.json").display().to_string();
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(ModelAction::OpenGraph(path), 0.0);
    settle(&mut h);
    assert_eq!(h.state().state.results.graph.get().unwrap().graph.nodes.len(), 76);
    assert!(h.query_by_label_contains("attribution graph: ").is_some());
    h.state_mut().state.apply(ModelAction::OpenGraph("no/such/graph.json".to_owned()), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("no/such/graph.json").is_some());
    h.state_mut().state.apply(ModelAction::CloseGraph, 0.0);
    settle(&mut h);
    assert!(h.state().state.results.graph.get().is_some());
}

/// An answer that lies there without having been taken in is not the end: what follows from it is still to be asked.
#[test]
fn what_has_arrived_and_was_not_taken_in_is_not_settled() {
    let mut h = copying_pair();
    look(&mut h, "graph");
    settle(&mut h);
    let pinned = h.state().state.pinned();
    h.state_mut().state.apply(ModelAction::Pin(circuitscope::session::desk::Pinned { pos: 3, ..pinned }), 0.0);
    while h.state().state.pool.is_busy() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let state = &mut h.state_mut().state;
    assert!(state.results.graph.fresh().is_none() && !state.is_settled());
    settle(&mut h);
    let state = &mut h.state_mut().state;
    assert!(state.results.graph.fresh().is_some() && state.results.drawing.fresh().is_some() && state.is_settled());
}

/// A graph that is looked at is cut as it can be read; only a slider that is moved cuts it otherwise.
#[test]
fn looking_at_a_graph_changes_nothing() {
    let mut h = window(document(PROMPT));
    h.state_mut().layout = Layout::single("graph");
    look(&mut h, "graph");
    settle(&mut h);
    let before = h.state().state.document.desk.clone();
    let undoable = h.state().state.history.undoable().map(str::to_owned);
    let found = h.state().state.results.drawing.get().unwrap().thresholds.0;
    assert!((found * 1000.0).fract() != 0.0, "{found} has no more digits than a slider shows");
    h.run_steps(4);
    assert!(h.state().state.document.desk == before && before.graph.cut.thresholds.is_none());
    assert_eq!(h.state().state.history.undoable().map(str::to_owned), undoable);
    assert!(h.state().state.results.drawing.fresh().is_some());
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
    look(&mut h, "graph");
    settle(&mut h);
    h.run();
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    // Tokens that are folded together are drawn as one.
    let n = d.graph.nodes.len() - d.folds.iter().map(|f| f.len() - 1).sum::<usize>();
    assert!(counted(&h).contains(&format!(" {n} nodes")) && !d.folds.is_empty(), "{}", counted(&h));
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
    // A group is a change like any other, and belongs to this prompt's graph.
    for (command, nodes) in [(Command::Undo, n), (Command::Redo, n - 1)] {
        let ctx = h.ctx.clone();
        h.state_mut().command(&ctx, command);
        settle(&mut h);
        h.run();
        assert!(counted(&h).contains(&format!(" {nodes} nodes")), "{}", counted(&h));
    }
    let prompt = h.state().state.desk().prompt.clone();
    for text in ["The Roman", &prompt] {
        h.state_mut().state.apply(ModelAction::Prompt(text.to_owned()), 0.0);
        settle(&mut h);
        h.run();
    }
    assert!(counted(&h).contains(&format!(" {} nodes", n - 1)), "{}", counted(&h));
    // The file has the group, and opened again the graph is drawn with it.
    h.get_by_label("file").click();
    h.run();
    h.get_by_label("Save this graph (JSON)…").click();
    until(&mut h, "a place is asked for", |h| h.query_by_label("Path to save to").is_some());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.json");
    save_to(&mut h, &path);
    until(&mut h, "the file is written", |_| path.exists());
    let file = circuitscope::graph::file::GraphFile::open(&path).unwrap();
    let marks = circuitscope::graph::marks::Marks::of(&file);
    assert_eq!((marks.groups.len(), marks.groups[0].1.len()), (1, 2));
    h.state_mut().state.apply(ModelAction::Thresholds(Some((1.0, 1.0))), 0.0);
    h.state_mut().state.apply(ModelAction::OpenGraph(path.display().to_string()), 0.0);
    settle(&mut h);
    h.run();
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let n = d.graph.nodes.len() - d.folds.iter().map(|f| f.len() - 1).sum::<usize>();
    assert!(counted(&h).contains(&format!(" {} nodes", n - 1)), "{}", counted(&h));
    // Another file of the same title has marks of its own.
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    value["qParams"] = Value::Null;
    let other = folder.path().join("h.json");
    circuitscope::files::write_atomic(&other, value.to_string().as_bytes()).unwrap();
    h.state_mut().state.apply(ModelAction::OpenGraph(other.display().to_string()), 0.0);
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
    look(&mut h, "graph");
    settle(&mut h);
    let before = h.state().state.pinned();
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
    let after = h.state().state.pinned();
    assert_eq!((after.layer, after.head, after.pos), (layer, Some(head), before.pos));
    h.key_press(egui::Key::C);
    h.run();
    let head = Component::Head { layer, head };
    assert!(h.state().state.desk().draft.contains(head));
    // Undone with the keyboard.
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::Z);
    h.run();
    assert!(h.state().state.desk().draft.is_empty());
}

#[test]
fn attention_is_followed_and_edges_say_through_what() {
    let mut h = copying_pair();
    h.state_mut().layout = Layout::single("graph");
    look(&mut h, "graph");
    settle(&mut h);
    assert!(h.query_by_label_contains("– – query").is_none());
    h.state_mut().state.apply(ModelAction::Attention(circuitscope::graph::readers::Attention::FirstOrder), 0.0);
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
    let mut h = window(Desk {
        model: folder,
        prompt: "ids".to_owned(),
        ids: Some(ids),
        answer: "7".to_owned(),
        wrong: "9".to_owned(),
        ..Desk::default()
    });
    h.state_mut().layout = Layout::single("graph");
    look(&mut h, "graph");
    h.state_mut().state.apply(ModelAction::Thresholds(Some((1.0, 1.0))), 0.0);
    settle(&mut h);
    let mlp = |h: &Harness<'static, App>| {
        let d = h.state().state.results.drawing.get().unwrap().value.clone();
        let node = d.parts.iter().position(|p| matches!(p, circuitscope::graph::part::Part::Mlp { .. }));
        (d.graph.nodes.len(), d.graph.nodes[node.unwrap()].id.clone())
    };
    let (closed, id) = mlp(&h);
    h.state_mut().state.apply(ModelAction::OpenMlp(id.clone()), 0.0);
    settle(&mut h);
    assert_eq!(mlp(&h).0, closed + circuitscope::graph::layout::NEURONS);
    h.state_mut().state.apply(ModelAction::OpenMlp(id), 0.0);
    settle(&mut h);
    assert_eq!(mlp(&h).0, closed);
    // C takes the pinned neuron.
    let pinned = h.state().state.pinned();
    let focus = circuitscope::session::desk::Focus::Neuron;
    h.state_mut().state.apply(
        ModelAction::Pin(circuitscope::session::desk::Pinned { layer: 1, neuron: Some(3), focus, ..pinned }),
        0.0,
    );
    h.run();
    h.key_press(egui::Key::C);
    h.run();
    assert_eq!(h.state().state.desk().draft.nodes, ["m1.n3"]);
}

/// A set of random transcoders for the built-in `text` model, as circuit-tracer keeps them.
const SEED: u64 = 4;

fn random_set(folder: &std::path::Path) -> usize {
    use candle_core::{Device, Tensor};
    let model = circuitscope::model::Model::open("text").unwrap();
    let (d, features) = (model.config.d_model, 24);
    // The same numbers in every run, by Box and Muller.
    let mut state = SEED;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f32 + 0.5) / (1u64 << 31) as f32
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    for layer in 0..model.config.n_layers {
        let mut random = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.3 * normal()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let parts = std::collections::HashMap::from([
            ("W_enc", random(&[features, d])),
            ("W_dec", random(&[features, d])),
            ("b_enc", random(&[features])),
            ("b_dec", random(&[d])),
        ]);
        candle_core::safetensors::save(&parts, folder.join(format!("layer_{layer}.safetensors"))).unwrap();
    }
    let config = "model_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n";
    circuitscope::files::write_atomic(&folder.join("config.yaml"), config.as_bytes()).unwrap();
    model.config.n_layers
}

#[test]
fn predictions_are_traced_to_the_features_of_a_set() {
    use circuitscope::engine::RunSide;
    use circuitscope::engine::edit::FeatureChange;
    use circuitscope::graph::layout::Origin;
    let folder = tempfile::tempdir().unwrap();
    let layers = random_set(folder.path());
    let mut h = window(Desk { model: "text".to_owned(), prompt: "The old man sat on".to_owned(), ..Desk::default() });
    h.state_mut().layout = Layout::single("graph");
    let set = folder.path().display().to_string();
    h.state_mut().state.apply(ModelAction::GraphSet(Some(set.clone())), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("features of ").is_some());
    let shown = h.state().state.results.graph.get().unwrap().value.clone();
    let Origin::Features { found, .. } = &shown.source else { panic!("the graph is on features") };
    assert!(found.features.iter().all(|f| f.pos > 0 && f.layer < layers) && !found.features.is_empty());
    // What is drawn is what is in the file.
    let state = &h.state().state;
    let drawn = &state.results.drawing.get().unwrap().value.graph;
    let file = shown.file(&state.desk().graph.cut).unwrap().graph;
    let links = |g: &circuitscope::graph::Graph| -> std::collections::BTreeMap<(String, String), f32> {
        let ids = g.own_ids();
        g.triples().map(|(s, t, w)| ((ids[s].to_string(), ids[t].to_string()), w)).collect()
    };
    assert!(!drawn.links.is_empty());
    assert_eq!(links(&file), links(drawn), "links and weights");
    // Nodes that no link leads to or from are in neither, but for tokens.
    let nodes = |g: &circuitscope::graph::Graph| -> std::collections::BTreeSet<String> {
        let ids = g.own_ids();
        let ends: std::collections::BTreeSet<usize> = g.triples().flat_map(|(s, t, _)| [s, t]).collect();
        let counts = |i: &usize| ends.contains(i) || g.nodes[*i].kind == circuitscope::graph::NodeKind::Token;
        (0..g.nodes.len()).filter(counts).map(|i| ids[i].to_string()).collect()
    };
    assert_eq!(nodes(&file), nodes(drawn));
    assert!(drawn.nodes.len() >= file.nodes.len() && nodes(&file).len() >= file.nodes.len() - 1);
    h.state_mut().state.apply(ModelAction::AuditLinks(true), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("audit: ").is_some());
    // More first positions can be left out; the command says so, and undo brings them back.
    let on_two = |h: &Harness<'static, App>| {
        let shown = h.state().state.results.graph.get().unwrap().value.clone();
        let Origin::Features { found, .. } = &shown.source else { panic!("the graph is on features") };
        let def = circuitscope::app::view::by_name("graph").unwrap();
        let line = circuitscope::app::export::commands::command(&h.state().state, def).unwrap();
        (found.silent, found.features.iter().any(|f| f.pos == 1), line.contains("--silent 2"))
    };
    assert_eq!(on_two(&h), (1, true, false));
    h.state_mut().state.apply(ModelAction::Silent(2), 0.0);
    settle(&mut h);
    assert_eq!(on_two(&h), (2, false, true));
    h.state_mut().state.apply(ModelAction::Silent(1), 0.0);
    settle(&mut h);
    // A feature that is changed is an edit of the stack, at the position where it is active.
    let node = found.selected.len() - 1;
    let edits = found.edits(node, FeatureChange::Scale(0.0));
    assert_eq!(edits.len(), 1);
    h.state_mut().state.apply(ModelAction::Toggle(RunSide::Clean, edits), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!(state.desk().stack.edits.len(), 1);
    let edited = state.results.edited.fresh().expect("the edited run is there").value.trace.clone();
    let clean = state.clean().unwrap().trace.clone();
    let last = clean.len() - 1;
    assert_ne!(edited.next[last][0].logit, clean.next[last][0].logit);
    // A set that does not fit is one sentence, and the way back is there.
    std::fs::remove_file(folder.path().join("layer_0.safetensors")).unwrap();
    h.state_mut().state.apply(ModelAction::Edits("no edits", circuitscope::engine::EditStack::default()), 0.0);
    h.state_mut().state.apply(ModelAction::GraphSet(None), 0.0);
    settle(&mut h);
    h.state_mut().state.apply(ModelAction::GraphSet(Some(set)), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("no dictionary of layer 0").is_some());
    assert_eq!(h.state().state.desk().graph.set, None, "what was open stays open");
    assert!(h.state().state.results.graph.fresh().is_some());
}

/// A set that cannot be opened, or that does not fit in one of its layers, leaves the set and the graph that were there.
#[test]
fn a_bad_set_leaves_the_old_one_open() {
    let (mut h, folder) = on_features();
    let before = h.state().state.results.graph.get().unwrap().value.clone();
    let own = folder.path().display().to_string();
    let (empty, wide) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    random_set(wide.path());
    let odd = candle_core::Tensor::zeros((24, 7), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let none = candle_core::Tensor::zeros(24, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let width = candle_core::Tensor::zeros(7, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let parts = [("W_enc", odd.clone()), ("W_dec", odd), ("b_enc", none), ("b_dec", width)];
    let parts = std::collections::HashMap::from(parts);
    candle_core::safetensors::save(&parts, wide.path().join("layer_1.safetensors")).unwrap();
    for (bad, told) in [(&empty, "dictionar"), (&wide, "layer_1")] {
        let count = h.state().state.notices.errors().len();
        h.state_mut().state.apply(ModelAction::GraphSet(Some(bad.path().display().to_string())), 0.0);
        settle(&mut h);
        let state = &h.state().state;
        assert_eq!(state.desk().graph.set.as_deref(), Some(&own[..]), "{told}");
        let errors = state.notices.errors();
        assert!(errors.len() == count + 1 && errors.last().unwrap().contains(told), "{errors:?}");
        let after = state.results.graph.fresh().expect("the graph is there").value.clone();
        assert_eq!(after.graph.nodes.len(), before.graph.nodes.len());
    }
}

/// Of a set it is said beside the graph and in the trust line what it explains, and that another model's does not fit.
#[test]
fn what_a_set_explains_stands_beside_its_graph() {
    let (mut h, _folder) = on_features();
    let trust = &h.state().state.trust;
    assert_eq!(trust.set.fresh().expect("it was checked").len(), 3);
    assert!(trust.of_set().iter().all(|w| w.contains("less than nothing")) && trust.of_set().len() == 3);
    assert!(trust.warnings().len() >= 3, "in the trust line");
    assert!(h.query_all_by_label_contains("less than nothing").next().is_some(), "beside the graph");
    h.state_mut().state.apply(ModelAction::GraphSet(Some("text-transcoders".to_owned())), 0.0);
    settle(&mut h);
    h.run();
    let trust = &h.state().state.trust;
    assert_eq!(trust.of_set(), Vec::<String>::new());
    assert!(h.query_by_label_contains("the set explains 0.").is_some());
    // On the model's own components nothing of it is said.
    h.state_mut().state.apply(ModelAction::GraphSet(None), 0.0);
    settle(&mut h);
    h.run();
    assert!(h.state().state.trust.set.get().is_none() && h.query_by_label_contains("the set explains").is_none());
}

/// Several tokens, a direction, and the number of features are chosen in the window, kept with the document, taken back, and
/// given to the command line.
#[test]
fn targets_and_the_number_of_features_are_chosen() {
    use circuitscope::graph::features::Explained;
    use circuitscope::graph::layout::Origin;
    use circuitscope::session::desk::{GraphDirection, GraphSettings};
    let (mut h, folder) = on_features();
    let explained = |h: &Harness<'static, App>| -> Vec<Explained> {
        let shown = h.state().state.results.graph.fresh().unwrap().value.clone();
        let Origin::Features { found, .. } = &shown.source else { panic!("the graph is on features") };
        found.targets.clone()
    };
    let command = |h: &Harness<'static, App>| {
        let def = circuitscope::app::view::by_name("graph").unwrap();
        circuitscope::app::export::commands::command(&h.state().state, def)
    };
    let before = explained(&h).len();
    h.state_mut().state.apply(ModelAction::GraphTokens("id:7, id:300".to_owned()), 0.0);
    settle(&mut h);
    h.run();
    assert_eq!(explained(&h).iter().map(|e| e.id).collect::<Vec<_>>(), [7, 300]);
    let line = command(&h).unwrap();
    assert!(line.contains(" --target id:7 --target ' id:300'"), "{line}");
    h.get_by_label("Tokens to explain");
    // What is no token is said, and changes nothing.
    h.state_mut().state.apply(ModelAction::GraphTokens("no token at all of this".to_owned()), 0.0);
    settle(&mut h);
    let state = &h.state().state;
    assert_eq!((state.desk().graph.tokens.as_str(), state.notices.errors().len()), ("id:7, id:300", 1));
    // A direction of a file.
    let model = h.state().state.model.clone().unwrap();
    let row = candle_core::Tensor::ones((1, model.config.d_model), candle_core::DType::F32, &candle_core::Device::Cpu);
    let path = folder.path().join("direction.safetensors");
    candle_core::safetensors::save(&std::collections::HashMap::from([("row", row.unwrap())]), &path).unwrap();
    let direction = GraphDirection::File(path.display().to_string());
    h.state_mut().state.apply(ModelAction::GraphDirection(direction), 0.0);
    settle(&mut h);
    let one = explained(&h);
    assert_eq!((one.len(), one[0].label.as_str(), one[0].direction[3]), (1, "direction", 1.0));
    assert!(command(&h).unwrap().contains(" --direction "));
    h.state_mut().state.apply(ModelAction::MostFeatures(Some(5)), 0.0);
    settle(&mut h);
    let shown = h.state().state.results.graph.fresh().unwrap().value.clone();
    let Origin::Features { found, .. } = &shown.source else { panic!("the graph is on features") };
    assert!(found.selected.len() == 5 && command(&h).unwrap().contains(" --max-features 5"));
    let kept = serde_json::to_string(&h.state().state.desk().graph).unwrap();
    let back: GraphSettings = serde_json::from_str(&kept).unwrap();
    assert!(back == h.state().state.desk().graph && back.most == Some(5));
    let ctx = h.ctx.clone();
    for _ in 0..3 {
        h.state_mut().command(&ctx, Command::Undo);
        settle(&mut h);
    }
    let graph = &h.state().state.desk().graph;
    assert_eq!((graph.target, graph.most), (GraphTarget::Auto, None));
    assert_eq!(explained(&h).len(), before);
}

/// A file's graph whose set and prompt are here is put to the test as if it had been traced, its nodes lead to their pages,
/// and what it calls them is taken into the set's labels.
#[test]
fn a_graph_of_a_file_acts_where_its_set_is_open() {
    use circuitscope::features::labels::{Label, Labels, Unit};
    use circuitscope::graph::features::audit::feature_of;
    let (mut h, folder) = on_features();
    h.state_mut().state.apply(ModelAction::AuditLinks(true), 0.0);
    settle(&mut h);
    let traced = h.state().state.results.audit.fresh().unwrap().value.clone();
    let shown = h.state().state.results.graph.get().unwrap().value.clone();
    let mut file = shown.file(&h.state().state.desk().graph.cut).unwrap();
    let features: Vec<_> = (0..file.graph.nodes.len()).filter_map(|n| Some((n, feature_of(&file.graph, n)?))).collect();
    let ((a, (layer, _, number)), (b, (_, _, other))) = (features[0], *features.last().unwrap());
    let names = [(a, "the first"), (b, "another's")].map(|(n, name)| (file.graph.nodes[n].id.clone(), name.to_owned()));
    file.describe(&names.into());
    let path = folder.path().join("graph.json");
    file.save(&path).unwrap();
    // What the user calls a feature stands.
    let labels = |layer: usize| folder.path().join(format!("layer_{layer}.labels.json"));
    let top = features.last().unwrap().1.0;
    let mut own = Labels::default();
    own.set(Unit::Feature(other), Label { label: "mine".to_owned(), note: String::new() });
    own.save(&labels(top)).unwrap();
    h.state_mut().state.apply(ModelAction::Thresholds(Some((1.0, 1.0))), 0.0);
    h.state_mut().state.apply(ModelAction::OpenGraph(path.display().to_string()), 0.0);
    settle(&mut h);
    h.run();
    let audit = h.state().state.results.audit.fresh().expect("it is put to the test").value.clone();
    assert!(!audit.links.is_empty() && h.query_by_label_contains("audit: ").is_some());
    for link in &audit.links {
        let same = traced.links.iter().find(|l| (&l.source, &l.target) == (&link.source, &link.target));
        assert!(
            same.is_none_or(|l| (l.held - link.held).abs() < 1e-4 && (l.free - link.free).abs() < 1e-4),
            "{link:?}"
        );
    }
    h.state_mut().state.apply(ModelAction::TakeLabels, 0.0);
    settle(&mut h);
    let label = |layer: usize, feature: u32| {
        Labels::open(&labels(layer)).unwrap().of(&Unit::Feature(feature)).map(|l| l.label.clone())
    };
    assert_eq!(label(layer, number).as_deref(), Some("the first"));
    assert_eq!(label(top, other).as_deref(), Some("mine"));
    // Its features are changed as those of the graph that was traced, and what it predicts stands beside what happens.
    let live = h.state().state.live_graph().expect("its run and its set are here").found;
    let circuitscope::graph::layout::Origin::Features { found, .. } = &shown.source else { panic!("it was traced") };
    assert_eq!((&live.dictionaries, live.targets.len()), (&found.dictionaries, found.targets.len()));
    for f in &live.features {
        let own = found
            .node(f.layer, f.pos, f.feature)
            .and_then(|n| found.feature(n))
            .expect("a feature of the traced graph");
        assert!((own.activation - f.activation).abs() < 1e-5, "{f:?} {own:?}");
    }
    for (a, b) in live.targets.iter().zip(&found.targets) {
        assert!(a.id == b.id && a.direction.iter().zip(&b.direction).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    choose_feature(&mut h);
    h.get_by_label("ablate").click();
    h.run();
    settle(&mut h);
    h.run();
    assert_eq!(h.state().state.desk().stack.edits.len(), 1);
    assert!(h.query_all_by_label_contains("the graph predicts ").next().is_some());
    assert!(circuitscope::app::export::commands::intervention(&h.state().state).unwrap().contains(" --set "));
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::Undo);
    settle(&mut h);
    // What the audit found is kept in a file, and drawn when that is opened where nothing can be tested.
    h.state_mut().state.apply(ModelAction::AuditLinks(false), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("audit: ").is_none());
    let mut told = circuitscope::graph::file::GraphFile::open(&path).unwrap();
    audit.write(&mut told, "the links of the whole graph").unwrap();
    let audited = folder.path().join("audited.json");
    told.save(&audited).unwrap();
    h.state_mut().state.apply(ModelAction::OpenGraph(audited.display().to_string()), 0.0);
    settle(&mut h);
    h.run();
    let expected = format!("of {} links fail", audit.links.len());
    assert!(h.query_by_label_contains(&expected).is_some(), "{expected}");
    // Others' files name no set: the one that is open is taken, where their features are its.
    let mut bare: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    bare["metadata"].as_object_mut().unwrap().remove("info");
    let mut foreign = bare.clone();
    foreign["nodes"].as_array_mut().unwrap().iter_mut().filter(|n| n["activation"].is_number()).for_each(|n| {
        n["activation"] = (3.0 + 2.0 * n["activation"].as_f64().unwrap()).into();
    });
    for (name, told, lives) in [("bare.json", &bare, true), ("foreign.json", &foreign, false)] {
        let file = folder.path().join(name);
        circuitscope::files::write_atomic(&file, told.to_string().as_bytes()).unwrap();
        h.state_mut().state.apply(ModelAction::OpenGraph(file.display().to_string()), 0.0);
        settle(&mut h);
        h.run();
        assert_eq!(h.state().state.live_graph().is_some(), lives, "{name}");
    }
    assert!(h.state().state.results.opened.error().is_some_and(|e| e.contains("another activation")));
    h.state_mut().state.apply(ModelAction::OpenGraph(path.display().to_string()), 0.0);
    h.state_mut().state.apply(ModelAction::AuditLinks(true), 0.0);
    settle(&mut h);
    // Another prompt's run is not what the file is of.
    h.state_mut().state.apply(ModelAction::Prompt("A dog".to_owned()), 0.0);
    settle(&mut h);
    assert!(h.state().state.results.audit.fresh().is_none() && h.state().state.live_graph().is_none());
}

/// A window on the features of a random set, and its folder.
fn on_features() -> (Harness<'static, App>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    random_set(folder.path());
    let mut h = window(Desk { model: "text".to_owned(), prompt: "The old man sat on".to_owned(), ..Desk::default() });
    h.state_mut().layout = Layout::single("graph");
    h.state_mut().state.apply(ModelAction::GraphSet(Some(folder.path().display().to_string())), 0.0);
    settle(&mut h);
    h.run();
    (h, folder)
}

/// Chooses the drawn feature of the most influence and says which node of the whole graph it is.
fn choose_feature(h: &mut Harness<'static, App>) -> usize {
    use circuitscope::graph::NodeKind;
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let features = (0..d.graph.nodes.len()).filter(|i| d.graph.nodes[*i].kind == NodeKind::Component);
    let most = features.max_by(|a, b| d.influence[*a].total_cmp(&d.influence[*b])).unwrap();
    let node = &d.graph.nodes[most];
    let at = node_at(h, &node.label, node.pos);
    h.hover_at(at);
    h.run();
    h.drag_at(at);
    h.run();
    h.drop_at(at);
    h.run();
    h.state().state.live_graph().expect("the graph is on features").found.by_id(&node.id).unwrap()
}

/// What a click does to a feature is an edit of the stack, with the same result as the command line's intervention; the
/// graph stays, and what it predicts stands beside what happens.
#[test]
fn features_act_from_the_graph() {
    use circuitscope::engine::edit::{Action as Do, FeatureChange, Positions};
    use circuitscope::engine::{EditStack, Hold};
    use circuitscope::graph::features::intervene::{Amount, Change, Stage};
    use circuitscope::graph::layout::Origin;
    use circuitscope::progress::Progress;
    let (mut h, _folder) = on_features();
    choose_feature(&mut h);
    let shown = h.state().state.results.graph.get().unwrap().value.clone();
    let Origin::Features { found, trace, set } = &shown.source else { panic!("the graph is on features") };
    // Where nodes lie close together the click chooses the nearest.
    h.get_by_label("ablate").click();
    h.run();
    settle(&mut h);
    let edit = h.state().state.desk().stack.edits[0].clone();
    let Do::Feature { feature, .. } = edit.action else { panic!("{edit:?}") };
    let is_it = |n: &usize| {
        let f = found.feature(*n);
        f.is_some_and(|f| {
            f.layer == edit.site.layer && f.feature as usize == feature && edit.positions == Positions::At(vec![f.pos])
        })
    };
    let node = (0..found.graph.nodes.len()).find(is_it).expect("the edit is of a node");
    let f = found.feature(node).unwrap();
    let last = trace.len() - 1;
    let stage = Stage::of(trace, set, 1, &Progress::new()).unwrap();
    for (button, value) in [("ablate", 0.0), ("scale by", 2.0 * f.activation)] {
        h.get_by_label(button).click();
        h.run();
        settle(&mut h);
        for hold in [Hold::Free, Hold::Attention, Hold::Direct] {
            let state = &mut h.state_mut().state;
            let stack = EditStack { hold: hold.clone(), ..(*state.desk().stack).clone() };
            assert_eq!(stack.edits.len(), 1, "the second change takes the first one's place");
            let Do::Feature { change: FeatureChange::Set(set_to), .. } = stack.edits[0].action else { panic!() };
            assert_eq!(set_to, value);
            state.apply(ModelAction::Edits("what is held still", stack), 0.0);
            settle(&mut h);
            let edited = h.state().state.results.edited.fresh().expect("the edited run is there").value.trace.clone();
            let change = Change { layer: f.layer, pos: f.pos, feature: f.feature, amount: Amount::To(value) };
            let expected = stage.run(&[change], &hold, false, &Progress::new()).unwrap().logits(last).unwrap();
            let top = edited.next[last][0];
            let gap = (top.logit - expected[top.id as usize]).abs();
            let done = h.state().state.desk().stack.edits.clone();
            assert!(
                gap < 1e-3,
                "{button} {hold:?}: {gap}, {done:?} of {:?}",
                (f.layer, f.pos, f.feature, f.activation)
            );
        }
    }
    // The graph is still that of the run without edits, and its prediction of direct effects is what happens.
    assert!(h.query_by_label_contains("of the run without the edits").is_some());
    let line = circuitscope::app::export::commands::intervention(&h.state().state).unwrap();
    let told = format!("--set {}:{}:{}={} --mode direct", f.layer, f.pos, f.feature, 2.0 * f.activation);
    assert!(line.contains(&told), "{line}");
    h.get_by_label("copy command");
    let words = h.query_all_by_label_contains("the graph predicts ").next().unwrap().accesskit_node();
    let words = words.value().or_else(|| words.label()).unwrap_or_default();
    let (_, told) = words.split_once("the graph predicts ").unwrap_or_else(|| panic!("{words}"));
    let numbers: Vec<f32> = told.split([',', ' ']).filter_map(|n| n.parse().ok()).collect();
    let [predicted, happened] = numbers[..] else { panic!("{words}") };
    let links: f32 = found
        .graph
        .triples()
        .filter(|(s, t, _)| *s == node && *t == found.graph.nodes.len() - found.targets.len())
        .map(|(_, _, w)| w)
        .sum();
    assert!((happened - links).abs() < 5e-3, "doubling adds the link itself: {words} {links}");
    assert!(predicted.is_finite());
    // Another feature in its place, at its position and with its activation.
    h.get_by_label("Features in their place").focus();
    h.run();
    h.get_by_label("Features in their place").type_text("0:3");
    h.run();
    h.get_by_label("swap for").click();
    h.run();
    settle(&mut h);
    let stack = h.state().state.desk().stack.clone();
    let sets: Vec<(usize, f32)> = stack
        .active()
        .map(|e| match e.action {
            Do::Feature { feature, change: FeatureChange::Set(v), .. } => (feature, v),
            _ => panic!("{e}"),
        })
        .collect();
    assert_eq!(sets, [(f.feature as usize, 0.0), (3, f.activation)]);
    // How the prompt goes on under it; then all is as it was.
    h.get_by_label("generate").click();
    h.run();
    settle(&mut h);
    assert!(h.query_by_label_contains("without: ").is_some());
    let ctx = h.ctx.clone();
    h.state_mut().command(&ctx, Command::Undo);
    settle(&mut h);
    assert_eq!(h.state().state.desk().stack.edits.len(), 1);
    h.get_by_label("leave as it was").click();
    h.run();
    settle(&mut h);
    assert!(h.state().state.desk().stack.edits.is_empty());
}

/// Groups that a button finds are drawn as nodes, can be taken apart, act together, and are what the file has.
#[test]
fn a_feature_graph_is_grouped() {
    use circuitscope::graph::group::{merged, supernodes};
    use circuitscope::graph::layout::Origin;
    let (mut h, _folder) = on_features();
    // The picture alone folds the first position.
    h.get_by_label("first token folded").click();
    h.run();
    let before = counted(&h);
    h.get_by_label("Group").click();
    h.run();
    settle(&mut h);
    h.run();
    settle(&mut h);
    h.run();
    let after = counted(&h);
    assert_ne!(before, after);
    assert!(h.query_by_label_contains("groups: of what is drawn replacement").is_some());
    let state = &h.state().state;
    let marks = state.desk().graph.marks.values().next().unwrap().clone();
    assert!(!marks.groups.is_empty() && marks.groups.iter().all(|(_, ids)| ids.len() > 1));
    // What is drawn is what is in the file: its supernodes with the sums of their members' links, and all else.
    let shown = state.results.graph.get().unwrap().value.clone();
    let drawing = state.results.drawing.get().unwrap().value.clone();
    let mut file = shown.file(&state.desk().graph.cut).unwrap();
    marks.write(&mut file);
    let file = circuitscope::graph::file::GraphFile::from_json(file.to_json(), std::path::Path::new("g")).unwrap();
    let whole = merged(&file.graph, &supernodes(&file)).unwrap();
    let folded: usize = drawing.folds.iter().map(|f| f.len() - 1).sum();
    let expected = format!("attribution graph: {} nodes, {} links", whole.nodes.len() - folded, whole.links.len());
    assert_eq!(after, expected);
    let svg = h.state_mut().plate("graph", egui::vec2(1200.0, 900.0), true);
    assert!(svg.contains("groups: of what is drawn replacement"));
    // A group acts as its members do.
    let Origin::Features { found, .. } = &shown.source else { panic!("the graph is on features") };
    let (name, ids) = marks.groups.iter().max_by_key(|(_, ids)| ids.len()).unwrap();
    let nodes: Vec<usize> = ids.iter().filter_map(|id| found.by_id(id)).collect();
    assert_eq!(nodes.len(), ids.len());
    h.state_mut().state.apply(ModelAction::Put(circuitscope::engine::RunSide::Clean, found.set(&nodes, |_| 0.0)), 0.0);
    settle(&mut h);
    let edited = h.state().state.results.edited.fresh().unwrap().value.trace.clone();
    let clean = h.state().state.clean().unwrap().trace.clone();
    let last = clean.len() - 1;
    assert_ne!(edited.next[last][0].logit, clean.next[last][0].logit, "{name}");
    // Links are put to the test, and the worst are listed.
    h.state_mut().state.apply(ModelAction::AuditLinks(true), 0.0);
    settle(&mut h);
    h.run();
    assert!(h.query_by_label_contains("farthest off").is_some());
    // Of nodes that are pinned the links between them alone.
    let all = h.state().state.results.audit.get().unwrap().value.clone();
    let link = all.links.iter().find(|l| !l.target.starts_with("4_")).expect("a link between features was tested");
    let source = h.state().state.desk().graph.marks.keys().next().unwrap().clone();
    let pinned = [link.source.clone(), link.target.clone()].into();
    let pins = circuitscope::graph::marks::Marks { pinned, ..marks.clone() };
    h.state_mut().state.apply(ModelAction::Mark("pin".to_owned(), source, pins), 0.0);
    settle(&mut h);
    let few = h.state().state.results.audit.get().unwrap().value.clone();
    let tested: Vec<_> = few.links.iter().map(|l| (&l.source, &l.target)).collect();
    assert_eq!(tested, [(&link.source, &link.target)]);
    // Undone, the features stand alone again.
    let source = h.state().state.desk().graph.marks.keys().next().unwrap().clone();
    h.state_mut().state.apply(ModelAction::Mark("dissolve".to_owned(), source, Default::default()), 0.0);
    settle(&mut h);
    h.run();
    assert_eq!(counted(&h), before);
}

/// From a node to its feature's page and back; what is written there is what the node is called, here and in the file.
#[test]
fn a_node_leads_to_its_page_and_back() {
    use circuitscope::app::features::{Chosen, FeatureAction};
    use circuitscope::app::view::Workspace;
    use circuitscope::features::labels::{Label, Unit};
    use circuitscope::graph::layout::Origin;
    let (mut h, folder) = on_features();
    let node = choose_feature(&mut h);
    let shown = h.state().state.results.graph.get().unwrap().value.clone();
    let Origin::Features { found, .. } = &shown.source else { panic!("the graph is on features") };
    let f = found.feature(node).unwrap();
    h.get_by_label("page").click();
    h.run();
    settle(&mut h);
    settle(&mut h);
    let app = h.state();
    assert_eq!(app.layout.workspace, Workspace::Features);
    assert_eq!(app.state.features.desk.chosen, Some(Chosen::Feature(f.feature)));
    let file = format!("layer_{}.safetensors", f.layer);
    assert!(app.state.features.dictionary().unwrap().path.ends_with(&file));
    let label = Label { label: "the sitter".to_owned(), note: String::new() };
    h.state_mut().state.apply(Action::Feature(FeatureAction::Label(Unit::Feature(f.feature), label)), 0.0);
    settle(&mut h);
    h.get_by_label_contains("in the graph at");
    h.get_by_label(&format!("show its node at {} in the graph", f.pos)).click();
    h.run();
    settle(&mut h);
    h.run();
    assert_eq!(h.state().layout.workspace, Workspace::Model);
    assert!(h.query_all_by_label_contains("the sitter").next().is_some(), "the chosen node bears the label");
    // It stays when another layer's page is opened.
    let (next, _) = found.dictionaries[(f.layer + 1) % found.n_layers].clone();
    h.state_mut().state.apply(Action::Feature(FeatureAction::Page(next, 0)), 0.0);
    settle(&mut h);
    h.run();
    settle(&mut h);
    h.run();
    assert!(h.query_all_by_label_contains("the sitter").next().is_some(), "it does not leave with its page");
    // A graph that is traced again has it from the labels' file, and so has what is written of it.
    let written = folder.path().join(format!("layer_{}.labels.json", f.layer));
    assert!(written.is_file(), "{}", written.display());
    let set = h.state().state.desk().graph.set.clone();
    for set in [None, set] {
        h.state_mut().state.apply(ModelAction::GraphSet(set), 0.0);
        settle(&mut h);
    }
    let state = &h.state().state;
    let shown = state.results.graph.get().unwrap().value.clone();
    let file = shown.file(&state.desk().graph.cut).unwrap();
    let id = format!("{}_{}_{}", f.layer, f.feature, f.pos);
    assert_eq!(file.graph.nodes.iter().find(|n| n.id == id).unwrap().label, "the sitter");
}

/// A pinned cell of a head's pattern is told in pairs of features, where the graph is on a set.
#[test]
fn the_inspector_says_why_a_head_looks_there_in_features() {
    let (mut h, _folder) = on_features();
    h.state_mut().layout = Layout::default();
    let pinned = h.state().state.pinned();
    let cell = circuitscope::session::desk::Pinned {
        layer: 2,
        head: Some(1),
        all_heads: false,
        key: Some(1),
        focus: circuitscope::session::desk::Focus::Head,
        ..pinned
    };
    h.state_mut().state.apply(ModelAction::Pin(cell), 0.0);
    settle(&mut h);
    let looks = h.state().state.results.looks.fresh().expect("the head is taken apart").value.clone();
    assert_eq!((looks.layer, looks.head, looks.query, looks.key), (2, 1, pinned.pos, 1));
    let (own, others) = looks.sums();
    let alone: f32 = looks.query_alone.iter().chain(&looks.key_alone).map(|(_, v)| v).sum();
    assert!((own + others + alone + looks.biases - looks.score).abs() < 1e-3);
    assert!(h.query_by_label_contains("in features: score").is_some());
}
