//! Attribution graphs.

use crate::circuits::copying_pair;
use crate::common::fixture;
use crate::window::{PROMPT, document, look, save_to, settle, window};
use circuitscope::analysis::component::Component;
use circuitscope::app::App;
use circuitscope::app::action::Command;
use circuitscope::app::model::ModelAction;
use circuitscope::app::shell::layout::Layout;
use circuitscope::session::Desk;
use circuitscope::session::desk::GraphTarget;
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
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
    for _ in 0..100 {
        h.run();
        if h.query_by_label("Path to save to").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.json");
    save_to(&mut h, &path);
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
    h.state_mut().state.apply(ModelAction::Thresholds(Some((1.0, 1.0))), 0.0);
    h.state_mut().state.apply(ModelAction::OpenGraph(path.display().to_string()), 0.0);
    settle(&mut h);
    h.run();
    let d = h.state().state.results.drawing.get().unwrap().value.clone();
    let n = d.graph.nodes.len() - d.folds.iter().map(|f| f.len() - 1).sum::<usize>();
    assert!(counted(&h).contains(&format!(" {} nodes", n - 1)), "{}", counted(&h));
    // Another file of the same title has marks of its own.
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    value["qParams"] = serde_json::Value::Null;
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
fn random_set(folder: &std::path::Path) -> usize {
    use candle_core::{Device, Tensor};
    let model = circuitscope::model::Model::open("text").unwrap();
    let (d, features) = (model.config.d_model, 24);
    for layer in 0..model.config.n_layers {
        let random = |shape: &[usize]| Tensor::randn(0f32, 0.3f32, shape, &Device::Cpu).unwrap();
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
    assert!(file.nodes.iter().all(|n| drawn.nodes.iter().any(|m| m.id == n.id && m.kind == n.kind)));
    assert_eq!(file.links.len(), drawn.links.len());
    h.state_mut().state.apply(ModelAction::AuditLinks(true), 0.0);
    settle(&mut h);
    assert!(h.query_by_label_contains("audit: ").is_some());
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
}
