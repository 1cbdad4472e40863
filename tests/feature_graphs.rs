//! Attribution graphs on features against circuit-tracer's numbers (`tests/feature-graphs`): two independent computations
//! agree with them to 1e-5.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use circuitscope::engine::edit::{Action, Direction, EditStack, FeatureChange, RunSide};
use circuitscope::engine::resolve::{Sources, resolve_stack};
use circuitscope::engine::{Edit, Hold, Site, SiteKind, Trace};
use circuitscope::features::dictionary::edit::changed;
use circuitscope::features::{DictionarySet, Store};
use circuitscope::graph::features::audit::{audit, direction_of};
use circuitscope::graph::features::intervene::{Amount, Change, Stage};
use circuitscope::graph::features::why::{Source, looks};
use circuitscope::graph::features::{
    FeatureGraph, Settings, Target, first_token_warning, trace_features, trace_in_parts,
};
use circuitscope::graph::file::GraphFile;
use circuitscope::graph::prune::prune;
use circuitscope::graph::{Graph, NodeKind};
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::fixture;
use serde_json::Value;

struct Case {
    name: String,
    folder: PathBuf,
    told: Value,
    arrays: HashMap<String, Tensor>,
    trace: Trace,
    set: DictionarySet,
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn cases() -> Vec<Case> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(fixture("feature-graphs"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    names.sort();
    assert_eq!(names.len(), 6);
    names
        .into_iter()
        .map(|folder| {
            let told = read(&folder.join("case.json"));
            let family = fixture("families").join(told["family"].as_str().unwrap());
            let model = Arc::new(Model::open(family.to_str().unwrap()).unwrap());
            let ids = told["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
            Case {
                name: told["name"].as_str().unwrap().to_owned(),
                arrays: candle_core::safetensors::load(folder.join("arrays.safetensors"), &Device::Cpu).unwrap(),
                trace: Trace::run(&model, ids, &Progress::new()).unwrap(),
                set: DictionarySet::open(folder.join("transcoders").to_str().unwrap(), &Progress::new()).unwrap(),
                told,
                folder,
            }
        })
        .collect()
}

impl Case {
    fn target(&self) -> Target {
        let settings = &self.told["settings"];
        match settings["targets"]["ids"].as_array() {
            Some(ids) => Target::Tokens(ids.iter().map(|i| i.as_u64().unwrap() as u32).collect()),
            None => Target::Top {
                most: settings["max_n_logits"].as_u64().unwrap() as usize,
                share: settings["desired_logit_prob"].as_f64().unwrap(),
            },
        }
    }

    fn graph(&self, settings: &Settings) -> FeatureGraph {
        let pos = self.trace.len() - 1;
        trace_features(&self.trace, &self.set, pos, &self.target(), settings, &Progress::new()).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.arrays[name].flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn dense(graph: &Graph) -> Vec<f32> {
    let n = graph.nodes.len();
    let mut all = vec![0f32; n * n];
    graph.triples().for_each(|(s, t, w)| all[t * n + s] = w);
    all
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn near(a: f64, b: &Value, within: f64, what: &str) {
    let b = b.as_f64().unwrap();
    assert!((a - b).abs() < within, "{what}: {a} is not {b}");
}

#[test]
fn graphs_equal_the_reference() {
    for case in cases() {
        let name = &case.name;
        let found = case.graph(&Settings::default());
        let told = case.told["active_features"].as_array().unwrap();
        assert_eq!(found.features.len(), told.len(), "{name}");
        for (f, t) in found.features.iter().zip(told) {
            assert_eq!([f.layer as u64, f.pos as u64, u64::from(f.feature)], [0, 1, 2].map(|i| t[i].as_u64().unwrap()));
            near(f64::from(f.activation), &t[3], 5e-5, name);
        }
        for (norms, told) in found.error_norms.iter().zip(case.told["error_norms"].as_array().unwrap()) {
            norms.iter().zip(told.as_array().unwrap()).for_each(|(n, t)| near(f64::from(*n), t, 3e-4, name));
        }
        for (e, t) in found.targets.iter().zip(case.told["targets"].as_array().unwrap()) {
            assert_eq!(e.id as u64, t["id"].as_u64().unwrap(), "{name}");
            near(e.weight, &t["weight"], 1e-5, name);
        }
        let edges = worst(&dense(&found.graph), &case.floats("adjacency"));
        assert!(edges < 5e-5, "{name}: edges differ by {edges}");
        let float = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let influence = worst(&float(&found.influence.values), &case.floats("node_influence"));
        assert!(influence < 1e-5, "{name}: influences differ by {influence}");
        // Nodes of equal influence, as those without any, may stand in any order.
        let (ours, theirs) = (found.influence.cumulative(), case.floats("cumulative_influence"));
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate().filter(|(i, _)| found.influence.values[*i] > 1e-6) {
            assert!((*a as f32 - b).abs() < 1e-4, "{name} node {i}: {a} {b}");
        }
        near(found.scores.replacement, &case.told["replacement_score"], 1e-5, name);
        near(found.scores.completeness, &case.told["completeness_score"], 1e-5, name);
        for (k, pruning) in case.told["prunings"].as_array().unwrap().iter().enumerate() {
            let share = |name: &str| pruning[name].as_f64().unwrap();
            let kept = prune(&found.graph, &found.influence, share("node_threshold"), share("edge_threshold")).unwrap();
            let mask = |name: String| -> Vec<u8> { case.arrays[&name].flatten_all().unwrap().to_vec1().unwrap() };
            let nodes: Vec<u8> = kept.nodes.iter().map(|k| u8::from(*k)).collect();
            assert_eq!(nodes, mask(format!("node_mask_{k}")), "{name}");
            let n = nodes.len();
            let mut edges = vec![0u8; n * n];
            let all: Vec<_> = found.graph.triples().collect();
            kept.links.iter().for_each(|at| edges[all[*at].1 * n + all[*at].0] = 1);
            let (wanted, differ) = (mask(format!("edge_mask_{k}")), |(a, b): (&u8, &u8)| a != b);
            let differ = edges.iter().zip(&wanted).filter(|(a, b)| differ((a, b))).count();
            assert_eq!(differ, 0, "{name}: {differ} edges are kept otherwise");
        }
    }
}

#[test]
fn limited_graphs_choose_the_same_features() {
    for case in cases() {
        for limited in case.told["limited"].as_array().unwrap() {
            let number = |name: &str| limited[name].as_u64().unwrap() as usize;
            let round = number("batch_size") * number("update_interval");
            let settings = Settings { most: Some(number("max_feature_nodes")), round, ..Settings::default() };
            let found = case.graph(&settings);
            let told: Vec<usize> =
                limited["selected_features"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as usize).collect();
            assert_eq!(found.selected, told, "{}", case.name);
            assert!(found.limited.is_some());
            near(found.scores.replacement, &limited["scores"][0], 1e-5, &case.name);
            near(found.scores.completeness, &limited["scores"][1], 1e-5, &case.name);
        }
    }
}

/// What is known on the way is handed out: what reaches the targets by itself, then each round; and who does not wait any
/// more has no more computed.
#[test]
fn graphs_come_in_parts() {
    for case in cases() {
        let (trace, pos, target) = (&case.trace, case.trace.len() - 1, case.target());
        let trace_with = |settings: &Settings, progress: &Progress, partial: &mut dyn FnMut(FeatureGraph)| {
            trace_in_parts(trace, &case.set, pos, &target, settings, progress, partial)
        };
        let (most, round) = (Some(30), 10);
        let settings = Settings { most, round, ..Settings::default() };
        let mut parts = Vec::new();
        let whole = trace_with(&settings, &Progress::new(), &mut |part| parts.push(part)).unwrap();
        assert_eq!(whole.selected, case.graph(&settings).selected, "{}", case.name);
        let sizes: Vec<usize> = parts.iter().map(|p| p.selected.len()).collect();
        assert_eq!(sizes[1..], [10, 20], "{}", case.name);
        assert!(parts[1..].iter().all(|p| p.selected.iter().all(|i| whole.selected.contains(i))));
        // The first links are those into the logits, and they are the whole graph's.
        let (first, all) = (&parts[0], case.graph(&Settings::default()));
        assert!(!first.selected.is_empty() && first.graph.triples().all(|(_, t, _)| first.direction(t).is_some()));
        for (i, f) in first.selected.iter().enumerate() {
            let (own, there) = (first.graph.nodes.len() - 1, all.graph.nodes.len() - 1);
            let link = |g: &Graph, source: usize, target: usize| {
                let l = g.into_node(target).iter().find(|l| l.source as usize == source);
                l.map(|l| l.weight)
            };
            assert_eq!(link(&first.graph, i, own), link(&all.graph, *f, there), "{}", case.name);
        }
        let progress = Progress::new();
        let mut count = 0;
        let stopped = trace_with(&settings, &progress, &mut |_| {
            count += 1;
            progress.cancel();
        });
        assert!(matches!(stopped, Err(circuitscope::Error::Cancelled)) && count == 1, "{}", case.name);
    }
}

/// A head reads nothing of the layers above it, so that nothing of them is read for it.
#[test]
fn a_head_needs_the_layers_below_it_alone() {
    let case = cases().into_iter().find(|c| c.name == "llama-plt-relu").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(case.folder.join("transcoders")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let layer = case.trace.model.config.n_layers - 1;
    std::fs::write(folder.path().join(format!("layer_{layer}.safetensors")), b"no numbers").unwrap();
    let set = DictionarySet::open(folder.path().to_str().unwrap(), &Progress::new()).unwrap();
    let score = |set: &DictionarySet| looks(&case.trace, set, (layer, 1), 4, Some(2), 1, &Progress::new()).unwrap();
    assert_eq!(score(&set).pairs, score(&case.set).pairs);
}

/// Where a prompt begins without the token that texts begin with, the features of its first word are left out in its place.
#[test]
fn a_prompt_without_its_first_token_is_warned_of() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-model");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(own.join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer_config.json"), br#"{"bos_token": "e"}"#).unwrap();
    let model = Model::open(folder.path().to_str().unwrap()).unwrap();
    let bos = model.single_token("e").unwrap();
    assert_eq!(first_token_warning(&model, &[bos, 5]), None);
    assert!(first_token_warning(&model, &[bos + 1, bos]).is_some_and(|text| text.contains("\"e\"")));
    // A model that names none knows no better beginning.
    assert_eq!(first_token_warning(&Model::open("text").unwrap(), &[5]), None);
}

#[test]
fn exported_graphs_equal_the_reference() {
    for case in cases() {
        let found = case.graph(&Settings::default());
        let kept = prune(&found.graph, &found.influence, 0.8, 0.98).unwrap();
        let file = found.file(&case.trace, &case.set, &kept, (0.8, 0.98)).unwrap().to_json();
        let told = read(&case.folder.join("graph.json"));
        let by_id = |doc: &Value| -> BTreeMap<(String, String), Value> {
            let text = |n: &Value, name: &str| n[name].as_str().unwrap().to_owned();
            let nodes = doc["nodes"].as_array().unwrap();
            nodes.iter().map(|n| ((text(n, "node_id"), text(n, "feature_type")), n.clone())).collect()
        };
        let (ours, theirs) = (by_id(&file), by_id(&told));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{}", case.name);
        for (id, node) in &theirs {
            for (field, value) in node.as_object().unwrap() {
                let own = &ours[id][field];
                match (value.as_f64(), field.as_str()) {
                    (Some(_), "influence" | "activation" | "token_prob") => {
                        near(own.as_f64().unwrap(), value, 1e-4, field);
                    }
                    // A model without a tokenizer calls its tokens by their ids.
                    (_, "clerp") => assert_eq!(own.as_str().unwrap().is_empty(), value.as_str().unwrap().is_empty()),
                    _ => assert_eq!(own, value, "{} {id:?} {field}", case.name),
                }
            }
        }
        // An error may share its id with a feature of layer 0.
        let links = |doc: &Value| -> BTreeMap<(String, String), Vec<f64>> {
            let mut all: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
            for link in doc["links"].as_array().unwrap() {
                let end = |name: &str| link[name].as_str().unwrap().to_owned();
                all.entry((end("source"), end("target"))).or_default().push(link["weight"].as_f64().unwrap());
            }
            all.values_mut().for_each(|w| w.sort_by(f64::total_cmp));
            all
        };
        let (ours, theirs) = (links(&file), links(&told));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{}", case.name);
        for (ends, weights) in theirs {
            ours[&ends].iter().zip(weights).for_each(|(a, b)| assert!((a - b).abs() < 5e-5, "{ends:?}: {a} {b}"));
        }
    }
}

#[test]
fn a_difference_is_the_difference_of_two_targets() {
    for case in cases().into_iter().take(3) {
        let pos = case.trace.len() - 1;
        let of = |target: Target| {
            trace_features(&case.trace, &case.set, pos, &target, &Settings::default(), &Progress::new()).unwrap()
        };
        let (a, b) = (case.trace.next[pos][0].id, case.trace.next[pos][1].id);
        let (both, apart) = (of(Target::Tokens(vec![a, b])), of(Target::Difference(a, b)));
        let row = |g: &FeatureGraph, from_last: usize| -> Vec<f32> {
            let n = g.graph.nodes.len();
            let all = dense(&g.graph);
            all[(n - from_last) * n..(n - from_last + 1) * n].to_vec()
        };
        let (one, two, difference) = (row(&both, 2), row(&both, 1), row(&apart, 1));
        for (i, d) in difference.iter().enumerate().take(difference.len() - 1) {
            assert!((one[i] - two[i] - d).abs() < 2e-5, "{}", case.name);
        }
        assert_eq!(apart.graph.count(NodeKind::Logit), 1);
        assert_eq!(apart.targets[0].id, case.trace.model.config.d_vocab);
    }
}

fn mode(told: &Value) -> Hold {
    let layers = |v: &Value| v.as_array().unwrap().iter().map(|l| l.as_u64().unwrap() as usize).collect();
    match told["mode"].as_str().unwrap() {
        "free" => Hold::Free,
        "frozen_attention" => Hold::Attention,
        "direct" => Hold::Direct,
        "part" => Hold::Part(layers(&told["constrained_layers"])),
        other => panic!("no mode {other}"),
    }
}

fn changes(told: &Value) -> Vec<Change> {
    let change = |c: &Value| {
        let number = |name: &str| c[name].as_u64().unwrap() as usize;
        let amount = Amount::To(c["value"].as_f64().unwrap() as f32);
        Change { layer: number("layer"), pos: number("position"), feature: number("feature") as u32, amount }
    };
    told["set"].as_array().unwrap().iter().map(change).collect()
}

#[test]
fn interventions_equal_the_reference() {
    for case in cases() {
        let stage = Stage::of(&case.trace, &case.set, 1, &Progress::new()).unwrap();
        for (i, told) in case.told["interventions"].as_array().unwrap().iter().enumerate() {
            for told_mode in told["modes"].as_array().unwrap() {
                let name = told_mode["mode"].as_str().unwrap();
                let what = format!("{} {i} {name}", case.name);
                let direct = name == "direct";
                let found = stage.run(&changes(told), &mode(told_mode), true, &Progress::new()).unwrap();
                let logits: Vec<f32> = (0..case.trace.len()).flat_map(|pos| found.logits(pos).unwrap()).collect();
                let logits = worst(&logits, &case.floats(&format!("intervention_{i}_{name}_logits")));
                assert!(logits < 1e-4, "{what}: logits differ by {logits}");
                let told = case.arrays[&format!("intervention_{i}_{name}_activations")].clone();
                let width = told.dim(2).unwrap();
                let dense: Vec<f32> = found
                    .activations
                    .iter()
                    .flat_map(|a| a.dense(width).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
                    .collect();
                let acts = worst(&dense, &told.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                assert!(acts < 1e-4, "{what}: activations differ by {acts}");
                if direct {
                    let pre: Vec<f32> = found
                        .pre_activations
                        .iter()
                        .flat_map(|p| {
                            let mut rows = p.to_vec2::<f32>().unwrap();
                            rows[0].fill(0.0);
                            rows.concat()
                        })
                        .collect();
                    let pre = worst(&pre, &case.floats(&format!("intervention_{i}_direct_preactivations")));
                    assert!(pre < 1e-4, "{what}: pre-activations differ by {pre}");
                }
            }
        }
    }
}

/// What a link says happens to its target when its source is taken away, and nothing else can answer.
#[test]
fn direct_effects_are_the_links() {
    for case in cases() {
        let found = case.graph(&Settings::default());
        let stage = Stage::of(&case.trace, &case.set, 1, &Progress::new()).unwrap();
        let explained = |node: usize| Ok(found.direction(node));
        let result = audit(&found.graph, &case.trace, &stage, 40, |_, _| true, explained, &Progress::new()).unwrap();
        assert_eq!(result.links.len(), 40, "{}", case.name);
        assert!(result.worst_direct < 1e-3, "{}: {}", case.name, result.worst_direct);
        assert!(result.correlation_held.is_some_and(|r| r > 0.2), "{}: {:?}", case.name, result.correlation_held);
        let sorted = result.links.windows(2).all(|w| w[0].weight.abs() >= w[1].weight.abs());
        assert!(sorted && result.all > 40);
        // A difference of two logits is read in its own direction, and its file says which that is.
        let ids: Vec<u32> = case.trace.next[found.pos].iter().take(2).map(|r| r.id).collect();
        let target = Target::Difference(ids[0], ids[1]);
        let (trace, progress) = (&case.trace, Progress::new());
        let found = trace_features(trace, &case.set, found.pos, &target, &Settings::default(), &progress).unwrap();
        let graph = &found.graph;
        let logit = |_: usize, target: usize| graph.nodes[target].kind == NodeKind::Logit;
        let explained = |node: usize| Ok(found.direction(node));
        let result = audit(graph, trace, &stage, 40, logit, explained, &progress).unwrap();
        assert!(!result.links.is_empty() && result.unread == 0 && result.worst_direct < 1e-3, "{}", case.name);
        let kept = prune(graph, &found.influence, 1.0, 1.0).unwrap();
        let file = found.file(trace, &case.set, &kept, (1.0, 1.0)).unwrap().to_json();
        let read = |told: Value| GraphFile::from_json(told, Path::new("g.json")).unwrap();
        let whole = read(file.clone());
        let again = |file: &GraphFile| {
            let logit = |_: usize, target: usize| file.graph.nodes[target].kind == NodeKind::Logit;
            let explained = |node: usize| direction_of(file, trace, node);
            audit(&file.graph, trace, &stage, 40, logit, explained, &progress).unwrap()
        };
        let read_back = again(&whole);
        assert_eq!((read_back.unread, read_back.links.len()), (0, result.links.len()), "{}", case.name);
        assert!(read_back.worst_direct < 1e-3 && read_back.doubt().is_none(), "{}", case.name);
        // Another's file does not say it.
        let mut bare = file;
        bare["metadata"]["info"].as_object_mut().unwrap().remove("directions");
        let result = again(&read(bare));
        assert!(result.links.is_empty() && result.unread > 0, "{}", case.name);
    }
}

/// A stack of edits does what an intervention does, whatever is held still; what edits cannot hold is refused.
#[test]
fn edits_of_the_stack_do_the_same() {
    let mut refused = BTreeMap::new();
    for case in cases() {
        let stage = Stage::of(&case.trace, &case.set, 1, &Progress::new()).unwrap();
        let model = &case.trace.model;
        for told in case.told["interventions"].as_array().unwrap() {
            let wanted = changes(told);
            let mut edits = Vec::new();
            for change in &wanted {
                let Amount::To(value) = change.amount else { panic!("cases set values") };
                let (dictionary, ..) = case.set.layer(change.layer, &model.config, &Progress::new()).unwrap();
                let spec = case.set.file(change.layer).unwrap().to_str().unwrap();
                let set = FeatureChange::Set(value);
                let own = changed(&dictionary, spec, change.feature as usize, set, &model.config).unwrap();
                edits.extend(own.into_iter().map(|e| e.at(change.pos)));
            }
            for told_mode in told["modes"].as_array().unwrap() {
                let hold = mode(told_mode);
                let expected = stage.run(&wanted, &hold, false, &Progress::new()).unwrap();
                let stack = EditStack { edits: edits.clone(), hold: hold.clone(), ..EditStack::default() };
                let store = Store::default();
                let sources = Sources::alone(&case.trace).with_dictionaries(&store);
                let ops = match resolve_stack(&stack, &sources) {
                    Ok(ops) => Arc::new(ops),
                    Err(e) => {
                        let text = e.to_string();
                        assert!(e.is_request() && text.contains("features intervene --mode"), "{text}");
                        *refused.entry((case.name.clone(), hold.name())).or_insert(0) += 1;
                        continue;
                    }
                };
                let run = Trace::run_edited(model, case.trace.ids.clone(), ops, &Progress::new()).unwrap();
                for pos in 0..run.len() {
                    let own: Vec<f32> = model
                        .network()
                        .unembed(&run.normalized(pos).unwrap())
                        .unwrap()
                        .flatten_all()
                        .unwrap()
                        .to_vec1()
                        .unwrap();
                    let gap = worst(&own, &expected.logits(pos).unwrap());
                    assert!(gap < 1e-4, "{} {hold:?} at {pos}: {gap}", case.name);
                }
            }
        }
    }
    // Norms behind attention and MLPs, and skip paths, are beyond edits; nothing else is.
    let refused: Vec<(&str, &str)> = refused.keys().map(|(case, mode)| (case.as_str(), *mode)).collect();
    let expected = [
        ("gemma2-plt-jumprelu-skip", "direct"),
        ("gemma2-plt-jumprelu-skip", "part"),
        ("gemma3-clt-jumprelu", "direct"),
        ("qwen3-plt-topk-skip", "direct"),
        ("qwen3-plt-topk-skip", "part"),
    ];
    assert_eq!(refused, expected);
}

/// What edits cannot hold still is computed all the same where nothing but features of the set is changed: held directly, a
/// feature that is taken away takes its link away.
#[test]
fn what_edits_cannot_hold_is_computed_for_features_alone() {
    use circuitscope::graph::features::effect::staged;
    for case in cases() {
        let (trace, found, progress) = (&case.trace, case.graph(&Settings::default()), Progress::new());
        let first = found.graph.nodes.len() - found.targets.len();
        let strongest = found.graph.into_node(first).iter().filter(|l| found.feature(l.source as usize).is_some());
        let link = *strongest.max_by(|a, b| a.weight.abs().total_cmp(&b.weight.abs())).unwrap();
        let edits = found.set(&[link.source as usize], |_| 0.0);
        let mut stack = EditStack { edits, hold: Hold::Direct, ..EditStack::default() };
        let effect = staged(&found, trace, &case.set, &stack, &progress).unwrap();
        assert!((effect.targets[0].happened + link.weight).abs() < 1e-3, "{}: {effect:?} {link:?}", case.name);
        let [before, after] = effect.next.unwrap();
        let top = &trace.next[trace.len() - 1][0];
        assert!(before[0].0 == top.id && (before[0].1 - top.prob).abs() < 1e-4 && before != after, "{}", case.name);
        stack.edits.push(Edit::new(Site::new(SiteKind::Z, 0), Action::Zero));
        let error = staged(&found, trace, &case.set, &stack, &progress).unwrap_err();
        assert!(error.is_request() && error.to_string().contains("switch the others off"), "{error}");
    }
}

/// Pairs, biases and position add up to the score that the model computes; and a pair is what is left of the score's change
/// when both of its features are taken away, beyond what each takes away alone.
#[test]
fn scores_are_sums_over_pairs() {
    let value = |trace: &Trace, (layer, head): (usize, usize), query: usize, key: usize| -> f32 {
        let scores = trace.value(Site::new(SiteKind::AttnScores, layer)).unwrap();
        scores.get(head).unwrap().get(query).unwrap().get(key).unwrap().to_scalar().unwrap()
    };
    let mut tried = 0;
    for case in cases() {
        let (trace, c) = (&case.trace, &case.trace.model.config);
        let (layer, last) = (c.n_layers - 1, trace.len() - 1);
        for head in 0..c.n_heads {
            for (query, key) in [(last, last - 1), (last - 1, 0), (2, 2)] {
                let found = looks(trace, &case.set, (layer, head), query, Some(key), 1, &Progress::new()).unwrap();
                let (own, others) = found.sums();
                let alone: f32 = found.query_alone.iter().chain(&found.key_alone).map(|(_, v)| v).sum();
                let sum = own + others + alone + found.biases + found.by_position;
                let size = found.pairs.iter().map(|p| p.value.abs()).sum::<f32>().max(1.0);
                assert!((sum - found.score).abs() < 1e-5 * size, "{} {head}: {sum} {}", case.name, found.score);
                // Gemma 2 caps its scores softly.
                if !case.name.starts_with("gemma2") {
                    let there = value(trace, (layer, head), query, key);
                    assert!((found.score - there).abs() < 1e-4, "{} {head}: {} {there}", case.name, found.score);
                }
                // The norms of queries and keys are not held in the run that is made here.
                if case.name.starts_with("qwen3") || case.name.starts_with("gemma") || query == key {
                    continue;
                }
                let Some(pair) = found.features().next().copied() else { continue };
                let run = |sources: &[(Source, usize)]| {
                    let mut edits = vec![Edit::new(Site::new(SiteKind::Ln1Scale, layer), Action::Copy(RunSide::Clean))];
                    for (source, pos) in sources {
                        let Source::Feature { layer: own, feature } = *source else { panic!("{source}") };
                        let (d, ..) = case.set.layer(own, c, &Progress::new()).unwrap();
                        let found = case.graph(&Settings::default());
                        let a = found
                            .features
                            .iter()
                            .find(|f| (f.layer, f.pos, f.feature) == (own, *pos, feature))
                            .unwrap();
                        let mut row = d.direction(feature as usize).unwrap();
                        let later = d.later.of(feature as usize).unwrap();
                        for more in later.iter().take(layer - own - 1) {
                            row.iter_mut().zip(more).for_each(|(r, m)| *r += m);
                        }
                        let action = Action::Add { direction: Direction::Vector(row), factor: -a.activation };
                        edits.push(Edit::new(Site::new(SiteKind::ResidPre, layer), action).at(*pos));
                    }
                    let stack = EditStack { edits, ..EditStack::default() };
                    let ops = Arc::new(resolve_stack(&stack, &Sources::alone(trace)).unwrap());
                    let run = Trace::run_edited(&trace.model, trace.ids.clone(), ops, &Progress::new()).unwrap();
                    value(&run, (layer, head), query, key)
                };
                let (q, k) = ((pair.query, query), (pair.key, key));
                let both = value(trace, (layer, head), query, key) - run(&[q]) - run(&[k]) + run(&[q, k]);
                assert!((both - pair.value).abs() < 1e-4, "{} {head} {pair:?}: {both}", case.name);
                tried += 1;
            }
        }
    }
    assert!(tried >= 6, "{tried} pairs were tried");
}

/// Sets that ship fit their models, are as good as their cards say, and go by names that hold on every machine.
#[test]
fn shipped_sets_are_good() {
    use circuitscope::features::dictionary::store::SETS;
    use circuitscope::features::trust::{check_all, check_set};
    assert!(!SETS.is_empty());
    for shipped in SETS {
        let model: Arc<Model> = Model::open(shipped.model).unwrap().into();
        let set = DictionarySet::open(shipped.name, &Progress::new()).unwrap();
        assert_eq!(set.name, shipped.name);
        let checked = check_set(&model, &set, &Progress::new()).unwrap();
        assert_eq!(checked.len(), model.config.n_layers);
        for layer in &checked {
            assert!(layer.explained_variance.unwrap() > 0.8 && layer.l0 < 25.0, "{layer:?}");
            assert!(layer.warnings.is_empty(), "{:?}", layer.warnings);
        }
        assert_eq!(check_all(&model, shipped.name, &Progress::new()).unwrap().len(), checked.len());
        let size: u64 = set.layers().map(|l| std::fs::metadata(set.file(l).unwrap()).unwrap().len()).sum();
        assert!(size <= 3_000_000, "{size}");
        let ids = model.encode("I am sure that she must", false).unwrap();
        let trace = Trace::run(&model, ids, &Progress::new()).unwrap();
        let (pos, settings) = (trace.len() - 1, Settings::default());
        let found = trace_features(&trace, &set, pos, &Target::default(), &settings, &Progress::new()).unwrap();
        assert!(found.scores.replacement > 0.9, "{}", found.scores.replacement);
        // Edits name its layers by the set's name, and find them.
        let (spec, sites) = &found.dictionaries[1];
        assert_eq!((spec.as_str(), sites.len()), (format!("{}/layer_1.safetensors", shipped.name).as_str(), 1));
        let edits = found.edits(found.selected.len() - 1, FeatureChange::Set(0.0));
        let (stack, store) = (EditStack { edits, ..EditStack::default() }, Store::default());
        resolve_stack(&stack, &Sources::alone(&trace).with_dictionaries(&store)).unwrap();
    }
}

#[test]
fn the_command_line_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let case = cases().remove(1);
    let family = fixture("families").join("gemma3");
    let (family, set) = (family.to_str().unwrap(), case.folder.join("transcoders"));
    let (set, ids) =
        (set.to_str().unwrap(), case.trace.ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    let (arrays, graph) = (path("a.safetensors"), path("g.json"));
    let base = ["-m", family, "--ids", &ids, "--dictionary", set];
    let doc =
        common::json(&[&["trace"], &base[..], &["--logit-prob", "0.8", "--arrays", &arrays, "-o", &graph]].concat());
    near(doc["replacement_score"].as_f64().unwrap(), &case.told["replacement_score"], 1e-5, "replacement");
    assert_eq!(doc["active_features"], case.told["counts"]["features"]);
    assert!(doc["limited"].is_null());
    let found = candle_core::safetensors::load(&arrays, &Device::Cpu).unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(worst(&flat(&found["adjacency"]), &case.floats("adjacency")) < 5e-5);
    assert!(worst(&flat(&found["node_influence"]), &case.floats("node_influence")) < 1e-5);
    assert_eq!(found["features"].dims(), [123, 3]);
    assert_eq!(found["activations"].dims(), [123]);
    // Named targets, a difference, limits.
    let two = common::json(&[&["trace"], &base[..], &["--target", "12", "--target", "172"]].concat());
    assert_eq!(two["targets"].as_array().unwrap().len(), 2);
    let one = common::json(
        &[&["trace"], &base[..], &["--target", "12", "--against", "172", "--max-features", "20"]].concat(),
    );
    assert_eq!(one["targets"][0]["token"], 256);
    assert!(one["limited"].as_str().unwrap().contains("20 most influential") && one["selected_features"] == 20);
    // Interventions.
    let told = &case.told["interventions"][0];
    let c = changes(told)[0];
    let change = format!("{}:{}:{}=0", c.layer, c.pos, c.feature);
    let free = common::json(&[&["features", "intervene"], &base[..], &["--set", &change, "--tokens", "5"]].concat());
    let last = case.trace.len() - 1;
    let logits = case.arrays["intervention_0_free_logits"].get(last).unwrap().to_vec1::<f32>().unwrap();
    for token in free["logits_after"].as_array().unwrap() {
        near(f64::from(logits[token["id"].as_u64().unwrap() as usize]), &token["logit"], 1e-4, "logit");
    }
    assert!(free["logits_after"].as_array().unwrap().iter().any(|t| t["id"] == 5));
    let scaled = format!("{}:{}:{}=0x", c.layer, c.pos, c.feature);
    let same = common::json(&[&["features", "intervene"], &base[..], &["--set", &scaled]].concat());
    assert_eq!(same["logits_after"][0], free["logits_after"][0]);
    for (wrong, code, says) in
        [("9:1:1=0", 2, "layer 9"), ("1:99:1=0", 2, "position 99"), ("1:1:999=0", 2, "feature 999")]
    {
        let args = [&["features", "intervene"], &base[..], &["--set", wrong]].concat();
        let said = common::sentence(&args, code);
        assert!(said.contains(says), "{said}");
    }
    // Why a head looks somewhere, in features: all parts together are the score.
    let doc = common::json(&[&["why"], &base[..], &["--head", "1.0", "--top", "3"]].concat());
    let told = &doc["features"];
    let sum: f64 = [
        "sum_of_feature_pairs",
        "sum_of_other_pairs",
        "sum_of_query_with_bias",
        "sum_of_key_with_bias",
        "biases",
        "by_position",
    ]
    .iter()
    .map(|part| told[*part].as_f64().unwrap())
    .sum();
    near(sum, &told["score"], 1e-3, "score");
    assert!(told["feature_pairs"].as_array().unwrap().len() <= 3 && told["all_pairs"].as_u64().unwrap() > 9);
    // Supernodes and the audit of the file.
    let grouped = path("grouped.json");
    let doc = common::json(&["graph", "group", &graph, "--groups", "3", "-o", &grouped]);
    let groups = doc["groups"].as_array().unwrap();
    assert!(!groups.is_empty() && doc["after"]["replacement_score"].is_number());
    let told = read(Path::new(&grouped));
    let large = groups.iter().filter(|g| g["nodes"].as_array().unwrap().len() > 1).count();
    assert_eq!(told["qParams"]["supernodes"].as_array().unwrap().len(), large);
    let doc = common::json(&["graph", "audit", &graph, "-m", family, "--links", "10"]);
    assert!(doc["worst_direct"].as_f64().unwrap() < 1e-3, "{doc}");
    assert!(doc["links_tested"].as_u64().unwrap() > 0);
    // A graph that says that it is another model's is said to be.
    let mut other = read(Path::new(&graph));
    other["metadata"]["scan"] = "another/model".into();
    let foreign = path("foreign.json");
    std::fs::write(&foreign, other.to_string()).unwrap();
    let doc = common::json(&["graph", "audit", &foreign, "-m", family, "--links", "1"]);
    let warned = |doc: &Value| doc["warnings"].to_string().contains("another/model");
    assert!(warned(&doc), "{}", doc["warnings"]);
}

/// What the check of a set says stands in every document that comes from it, and in the graph's file; that file can be
/// grouped by what features read and write, and audited between pinned nodes.
#[test]
fn the_check_of_a_set_stands_beside_what_comes_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let graph = path("g.json");
    let base = ["-m", "text", "-p", "I am sure that she must", "--dictionary", "text-transcoders"];
    let checked = |doc: &Value| {
        let all = doc["dictionaries"].as_array().unwrap_or_else(|| panic!("{doc}"));
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|d| d["explained_variance"].as_f64().unwrap() > 0.8 && d["l0"].is_number()), "{all:?}");
    };
    let whole = ["--node-threshold", "1", "--edge-threshold", "1"];
    let traced = common::json(&[&["trace"], &base[..], &["--max-logits", "2", "-o", &graph]].concat());
    checked(&traced);
    let told = read(Path::new(&graph));
    checked(&told["metadata"]["info"]);
    checked(&common::json(&[&["why"], &base[..], &["--head", "1.0"]].concat()));

    // Two features with one flag; a value below 0 is no option.
    let features: Vec<&Value> =
        traced["nodes"].as_array().unwrap().iter().filter(|n| n["feature"].is_number()).collect();
    let change = |n: &Value, value: &str| format!("{}:{}:{}={value}", n["layer"], n["pos"], n["feature"]);
    let (a, b) = (change(features[0], "-1"), change(features[1], "-0.5x"));
    let doc = common::json(&[&["features", "intervene"], &base[..], &["--set", &a, &b, "--top", "3"]].concat());
    checked(&doc);
    assert_eq!(doc["set"].as_array().unwrap().len(), 2);
    let apart =
        common::json(&[&["features", "intervene"], &base[..], &["--set", &a, "--set", &b, "--top", "3"]].concat());
    assert_eq!(doc["logits_after"], apart["logits_after"]);

    // Of a pruned file predictions leave out what was pruned away, and it is said.
    fn audit<'a>(file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["graph", "audit", file, "-m", "text"], more].concat()
    }
    let doc = common::json(&audit(&graph, &["--links", "4"]));
    checked(&doc);
    let said = |doc: &Value| doc["warnings"].to_string().contains("was pruned to 0.8");
    assert!(said(&doc) && doc["predicted_along"] == "the links of the file", "{}", doc["warnings"]);
    let all = path("all.json");
    common::json(&[&["trace"], &base[..], &["--max-logits", "2", "-o", &all], &whole].concat());
    let doc = common::json(&audit(&all, &["--links", "4"]));
    assert!(!said(&doc), "{}", doc["warnings"]);

    // Links between pinned nodes alone; with none pinned it is a mistake.
    let none = common::sentence(&audit(&graph, &["--pinned"]), 2);
    assert!(none.contains("pin the nodes of a path"), "{none}");
    let link = |l: &&Value| {
        let is_feature = |id: &Value| features.iter().any(|f| f["id"] == *id);
        is_feature(&l["source"]) && is_feature(&l["target"])
    };
    let link = told["links"].as_array().unwrap().iter().find(link).unwrap();
    let mut pinned = told.clone();
    pinned["qParams"]["pinnedIds"] = serde_json::json!([link["source"], link["target"]]);
    let file = path("pinned.json");
    std::fs::write(&file, pinned.to_string()).unwrap();
    let doc = common::json(&audit(&file, &["--pinned"]));
    let links = doc["links"].as_array().unwrap();
    assert_eq!(links.len(), 1, "{links:?}");
    assert_eq!((&links[0]["source"], &links[0]["target"]), (&link["source"], &link["target"]));

    // Groups compare what features read and write, of the set that the file names.
    let group = |file: &str, more: &[&str]| common::json(&[&["graph", "group", file, "--groups", "4"], more].concat());
    assert_eq!(group(&graph, &[])["dictionary"], "text-transcoders");
    let mut lost = told.clone();
    lost["metadata"]["info"]["dictionary"] = path("nowhere").into();
    std::fs::write(&file, lost.to_string()).unwrap();
    let alone = group(&file, &[]);
    assert!(
        alone["dictionary"].is_null() && alone["warnings"].to_string().contains("--dictionary"),
        "{}",
        alone["warnings"]
    );
    // What was pruned away before stays said.
    let grouped = path("grouped.json");
    group(&graph, &["-o", &grouped]);
    assert!(said(&common::json(&audit(&grouped, &["--links", "2"]))));
    let by_set = group(&file, &["--dictionary", "text-transcoders"]);
    assert_eq!(by_set["groups"], group(&graph, &[])["groups"]);
    assert_ne!(by_set["groups"], alone["groups"]);
    let wrong = common::sentence(&["graph", "group", &graph, "--dictionary", &path("nowhere")], 1);
    assert!(wrong.contains("nowhere"), "{wrong}");
}

/// A prompt as long as a model takes it: the links of the best features are still what really happens.
#[test]
fn five_hundred_tokens_are_traced() {
    let dir = tempfile::tempdir().unwrap();
    let llama = fixture("families/llama");
    for entry in std::fs::read_dir(&llama).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = dir.path().join("config.json");
    let told = std::fs::read_to_string(&config)
        .unwrap()
        .replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 512");
    std::fs::write(&config, told).unwrap();
    let model: Arc<Model> = Model::open(dir.path().to_str().unwrap()).unwrap().into();
    let ids: Vec<u32> = (0..512u32).map(|i| if i == 0 { 1 } else { 3 + i.wrapping_mul(2_654_435_761) % 250 }).collect();
    let quiet = Progress::new();
    let trace = Trace::run(&model, ids, &quiet).unwrap();
    let folder = fixture("feature-graphs/llama-plt-relu/transcoders");
    let set = DictionarySet::open(folder.to_str().unwrap(), &quiet).unwrap();
    let settings = Settings { most: Some(96), round: 64, ..Settings::default() };
    let target = Target::Top { most: 2, share: 0.99 };
    let found = trace_features(&trace, &set, 511, &target, &settings, &quiet).unwrap();
    assert_eq!(found.selected.len(), 96);
    assert!(found.features.len() > 5_000 && found.limited.is_some());
    let stage = Stage::of(&trace, &set, 1, &quiet).unwrap();
    let explained = |node: usize| Ok(found.direction(node));
    let checked = audit(&found.graph, &trace, &stage, 4, |_, _| true, explained, &quiet).unwrap();
    assert_eq!(checked.links.len(), 4);
    assert!(checked.worst_direct < 1e-3, "{}", checked.worst_direct);
}

/// SmolLM2 with thirty transcoders of 1,024 features: 70 MB, which lie in no repository. `CIRCUITSCOPE_REAL_GRAPH` names the
/// folder with `transcoders` and `ioi-full/summary.json`.
#[test]
#[ignore = "needs SmolLM2 and a set of 70 MB: CIRCUITSCOPE_REAL_GRAPH=FOLDER"]
fn a_real_graph_equals_the_reference() {
    let folder = PathBuf::from(std::env::var_os("CIRCUITSCOPE_REAL_GRAPH").expect("the folder is named"));
    let told = read(&folder.join("ioi-full/summary.json"));
    let ids = told["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
    let trace = Trace::run(&common::smollm2(), ids, &Progress::new()).unwrap();
    let set = DictionarySet::open(folder.join("transcoders").to_str().unwrap(), &Progress::new()).unwrap();
    let (pos, settings) = (trace.len() - 1, Settings::default());
    let found = trace_features(&trace, &set, pos, &Target::default(), &settings, &Progress::new()).unwrap();
    assert_eq!((found.features.len(), found.graph.nodes.len()), (6169, 6644));
    near(found.scores.replacement, &told["replacement_score"], 1e-5, "replacement");
    near(found.scores.completeness, &told["completeness_score"], 1e-5, "completeness");
    let kept = prune(&found.graph, &found.influence, 0.8, 0.98).unwrap();
    let nodes = kept.nodes.iter().filter(|k| **k).count();
    assert_eq!(nodes, told["pruned_nodes_0.8"].as_u64().unwrap() as usize);
    assert_eq!(kept.links.len(), told["pruned_edges_0.98"].as_u64().unwrap() as usize);
}

/// What an audit would say of a graph that is not of these features would be wrong: it is refused, or said.
#[test]
fn an_audit_of_the_wrong_graph_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let graphs = fixture("feature-graphs");
    let at = |part: &str| graphs.join(part).to_str().unwrap().to_owned();
    let family = fixture("families/llama").to_str().unwrap().to_owned();
    let (own, other) = (at("llama-plt-relu/transcoders"), at("llama3rope-plt-targets/transcoders"));
    let ids = ["-m", &family, "--ids", "1,57,130,9,201,57,88"];
    // Heads and MLPs are no features.
    let comp = path("comp.json");
    common::json(&[&["trace"], &ids[..], &["-o", &comp]].concat());
    let said = common::sentence(&["graph", "audit", &comp, "-m", &family, "--dictionary", &own], 2);
    assert!(said.contains("heads and MLPs") && said.contains("--dictionary"), "{said}");
    // Another set's features have other activations.
    let graph = path("g.json");
    let trace = |more: &[&str]| common::json(&[&["trace"], &ids[..], &["--dictionary", &own], more].concat());
    let whole = ["--node-threshold", "1", "--edge-threshold", "1"];
    let difference = ["--target", "id:17", "--against", "id:5"];
    trace(&[&difference[..], &whole, &["-o", &graph]].concat());
    let said = common::sentence(&["graph", "audit", &graph, "-m", &family, "--dictionary", &other], 2);
    assert!(said.contains("another activation") && said.contains("another set"), "{said}");
    // A difference is audited from its file, in the direction that the file says.
    let audit = |file: &str, more: &[&str]| {
        common::json(&[&["graph", "audit", file, "-m", &family, "--links", "40"], more].concat())
    };
    let doc = audit(&graph, &[]);
    assert!(doc["links_unread"] == 0 && doc["worst_direct"].as_f64().unwrap() < 1e-3, "{doc}");
    assert!(doc["links"].as_array().unwrap().iter().any(|l| l["target"] == "4_256_6"), "{doc}");
    // Links that are not what happens are doubted where the numbers stand.
    let mut told = read(Path::new(&graph));
    told["links"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|l| l["weight"] = (-l["weight"].as_f64().unwrap()).into());
    let turned = path("turned.json");
    std::fs::write(&turned, told.to_string()).unwrap();
    assert!(audit(&turned, &[])["warnings"].to_string().contains("none should be off"));
    // What predictions leave out is said: features that were not traced, and those whose activation is not told.
    let limited = path("limited.json");
    trace(&[&["--max-features", "20"], &whole[..], &["-o", &limited]].concat());
    assert!(audit(&limited, &[])["warnings"].to_string().contains("leaves out paths through the others"));
    let mut told = read(Path::new(&graph));
    told["nodes"].as_array_mut().unwrap().iter_mut().for_each(|n| n["activation"] = Value::Null);
    let silent = path("silent.json");
    std::fs::write(&silent, told.to_string()).unwrap();
    assert!(audit(&silent, &[])["warnings"].to_string().contains("does not say how active"));
    // Groups are written with their members pinned, as viewers need it; pinned members of groups are pinned.
    let grouped = path("grouped.json");
    let doc = common::json(&["graph", "group", &graph, "--groups", "3", "-o", &grouped]);
    let members = |g: &Value| g["nodes"].as_array().unwrap().len();
    let large = doc["groups"].as_array().unwrap().iter().filter(|g| members(g) > 1);
    let (count, pins) = large.fold((0, 0), |(n, pins), g| (n + 1, pins + members(g)));
    let told = read(Path::new(&grouped));
    assert_eq!(told["qParams"]["supernodes"].as_array().unwrap().len(), count);
    assert_eq!(told["qParams"]["pinnedIds"].as_array().unwrap().len(), pins);
    let doc = audit(&grouped, &["--pinned"]);
    assert!(!doc["links"].as_array().unwrap().is_empty(), "{doc}");
    // An audit is kept in the file, and comes back from it.
    let kept = path("audited.json");
    audit(&graph, &["-o", &kept]);
    let file = GraphFile::open(Path::new(&kept)).unwrap();
    let found = circuitscope::graph::features::audit::Audit::in_file(&file).unwrap();
    assert_eq!(found.links.len(), 40);
}

/// A direction in a file is one tensor, with one axis or two; a change that changes nothing is said to.
#[test]
fn directions_and_changes_of_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let family = fixture("families/llama").to_str().unwrap().to_owned();
    let own = fixture("feature-graphs/llama-plt-relu/transcoders").to_str().unwrap().to_owned();
    let base = ["-m", &family, "--ids", "1,57,130,9,201,57,88", "--dictionary", &own];
    let d = Model::open(&family).unwrap().config.d_model;
    let trace = |file: &str| [&["trace"], &base[..], &["--direction", file]].concat().join("\u{1f}");
    let args = |joined: &str| joined.split('\u{1f}').map(str::to_owned).collect::<Vec<_>>();
    let write = |name: &str, shape: &[usize], values: Vec<f32>| {
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let all: HashMap<&str, Tensor> = [("direction", tensor)].into();
        candle_core::safetensors::save(&all, path(name)).unwrap();
        path(name)
    };
    let values: Vec<f32> = (0..d).map(|i| (i as f32 * 0.37).sin()).collect();
    let (one, row) =
        (write("one.safetensors", &[d], values.clone()), write("row.safetensors", &[1, d], values.clone()));
    let run = |file: &str| {
        let all = args(&trace(file));
        common::json(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(run(&one)["replacement_score"], run(&row)["replacement_score"]);
    let refused = |file: &str, code: i32| {
        let all = args(&trace(file));
        common::sentence(&all.iter().map(String::as_str).collect::<Vec<_>>(), code)
    };
    let two = write("two.safetensors", &[2, d], [values.clone(), values.clone()].concat());
    let said = refused(&two, 2);
    assert!(said.contains("two.safetensors") && said.contains("one direction"), "{said}");
    let mut broken = values;
    broken[3] = f32::NAN;
    let said = refused(&write("nan.safetensors", &[d], broken), 1);
    assert!(said.contains("nan.safetensors") && said.contains("direction"), "{said}");
    // So many times nothing is nothing.
    let traced = common::json(&[&["trace"], &base[..]].concat());
    let active: Vec<&Value> =
        traced["nodes"].as_array().unwrap().iter().filter(|n| n["feature"].is_number() && n["pos"] == 3).collect();
    let idle = (0..).find(|f| !active.iter().any(|n| n["layer"] == 1 && n["feature"] == *f)).unwrap();
    let change = format!("1:3:{idle}=2x");
    let doc = common::json(&[&["features", "intervene"], &base[..], &["--set", &change]].concat());
    assert!(doc["warnings"].to_string().contains("changes nothing"), "{}", doc["warnings"]);
    // The shares of a score's pairs are of the score.
    let doc = common::json(&[&["why"], &base[..], &["--head", "1.0", "--top", "3"]].concat());
    let pair = &doc["features"]["pairs"][0];
    let share = pair["value"].as_f64().unwrap() / doc["features"]["score"].as_f64().unwrap();
    near(share, &pair["share"], 1e-4, "share");
    // One token alone: what to do is said.
    let said = common::sentence(&["trace", "-m", &family, "--ids", "1", "--dictionary", &own], 2);
    assert!(said.contains("--silent 0") && said.contains("--bos"), "{said}");
}
