//! Attribution graphs: others' files, this program's own, and heads taken apart.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::Tensor;
use circuitscope::analysis::component::Component;
use circuitscope::analysis::direct_attribution::direct_attribution;
use circuitscope::analysis::head_scores::repeated_random;
use circuitscope::analysis::why_head::why_head;
use circuitscope::engine::gradient::gradients;
use circuitscope::engine::{Freeze, Site, SiteKind, Trace};
use circuitscope::graph::components::{Keep, Traced, trace_prediction};
use circuitscope::graph::file::GraphFile;
use circuitscope::graph::influence::Scores;
use circuitscope::graph::neurons::Opened;
use circuitscope::graph::part::Part;
use circuitscope::graph::readers::Attention;
use circuitscope::graph::targets::Target;
use circuitscope::graph::{Influence, Input, NodeKind, prune};
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::{families, fixture};
use serde_json::Value;

fn near(a: f64, b: f64, scale: f64, what: &str) {
    assert!((a - b).abs() <= 3e-4 * scale.max(1.0), "{what}: {a} is not {b} ({scale})");
}

fn runs() -> Vec<(String, Trace)> {
    let run = |(name, model): (String, Arc<Model>)| {
        let vocab = model.config.d_vocab as u32;
        let ids: Vec<u32> = (0..10).map(|i| (i * 29 + 3) % vocab).collect();
        (name, Trace::run(&model, ids, &Progress::new()).unwrap())
    };
    families().into_iter().map(run).collect()
}

fn traced(trace: &Trace, target: Target, keep: Keep) -> Traced {
    trace_prediction(trace, trace.len() - 1, target, Attention::Frozen, keep, &Progress::new()).unwrap()
}

#[test]
fn a_real_file_comes_back_as_it_was() {
    let path = fixture("graphs/meow-clt.json");
    let file = GraphFile::open(&path).unwrap();
    assert!(file.remarks.is_empty());
    let mut before: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut after = file.to_json();
    // The order of links means nothing, and 4 is 4.0.
    for doc in [&mut before, &mut after] {
        let links = doc["links"].as_array_mut().unwrap();
        links.sort_by_key(|l| (l["source"].as_str().unwrap().to_owned(), l["target"].as_str().unwrap().to_owned()));
        for link in links {
            link["weight"] = Value::from(link["weight"].as_f64().unwrap() as f32);
        }
    }
    assert_eq!(before, after);
}

#[test]
fn influence_pruning_and_scores_are_circuit_tracers() {
    let file = GraphFile::open(&fixture("graphs/meow-clt.json")).unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("graphs/pruned.json")).unwrap()).unwrap();
    let influence = Influence::of(&file.graph);
    for (node, value) in file.graph.nodes.iter().zip(&influence.values) {
        near(*value, expected["influence"][&node.id].as_f64().unwrap(), 0.01, &node.id);
    }
    let scores = Scores::of(&file.graph, &influence);
    near(scores.replacement, expected["replacement_score"].as_f64().unwrap(), 0.01, "replacement");
    near(scores.completeness, expected["completeness_score"].as_f64().unwrap(), 0.01, "completeness");
    for case in expected["pruned"].as_array().unwrap() {
        let t = (case["node_threshold"].as_f64().unwrap(), case["edge_threshold"].as_f64().unwrap());
        let kept = prune(&file.graph, &influence, t.0, t.1).unwrap();
        let pruned = file.pruned(&influence, &kept, t).unwrap();
        let nodes: BTreeSet<&str> = pruned.graph.nodes.iter().map(|n| n.id.as_str()).collect();
        let wanted: BTreeSet<&str> = case["nodes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        assert_eq!(nodes, wanted, "{t:?}");
        let id = |i: usize| pruned.graph.nodes[i].id.as_str();
        let links: BTreeSet<(&str, &str)> = pruned.graph.triples().map(|(s, t, _)| (id(s), id(t))).collect();
        let wanted: BTreeSet<(&str, &str)> = case["links"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| (l[0].as_str().unwrap(), l[1].as_str().unwrap()))
            .collect();
        assert_eq!(links, wanted, "{t:?}");
        // Its influence there is the cumulative share, null for logits.
        let written = pruned.to_json();
        for node in written["nodes"].as_array().unwrap() {
            assert_eq!(node["influence"].is_null(), node["feature_type"] == "logit");
        }
    }
}

/// What arrives at the logits adds up to the logit (difference), what arrives at a component to what it
/// contributes, and a head's edge to the logits is its direct attribution.
#[test]
fn edges_add_up_on_every_family() {
    for (name, trace) in runs() {
        for target in [Target::Token(3), Target::Difference(5, 9), Target::Top] {
            let found = traced(&trace, target, Keep::ALL);
            let g = &found.graph;
            let ids: BTreeSet<&str> = g.nodes.iter().map(|n| n.id.as_str()).collect();
            // Only the interchange format itself lets an error share the id of a feature of layer 0.
            assert_eq!(ids.len(), g.nodes.len(), "{name}: two nodes of one id");
            for i in 0..g.nodes.len() {
                let (sum, size) = g
                    .into_node(i)
                    .iter()
                    .fold((0.0, 0.0), |(s, z), l| (s + f64::from(l.weight), z + f64::from(l.weight.abs())));
                match g.nodes[i].kind {
                    NodeKind::Logit | NodeKind::Component => {
                        near(sum, g.nodes[i].activation.unwrap(), size, &format!("{name} {}", g.nodes[i].id));
                    }
                    NodeKind::Error | NodeKind::Token => assert!(g.into_node(i).is_empty()),
                }
            }
            let Target::Difference(a, b) = target else { continue };
            if trace.model.config.final_softcap.is_none() {
                let logits = trace.model.network().unembed(&trace.normalized(trace.len() - 1).unwrap()).unwrap();
                let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
                near(f64::from(found.logits[0]), f64::from(logits[a as usize] - logits[b as usize]), 1.0, &name);
            }
            let direct = direct_attribution(&trace, trace.len() - 1, a, Some(b)).unwrap();
            let constants = trace.model.weights.blocks[0].attn.v.bias.is_some()
                || trace.model.weights.blocks[0].ln1.as_ref().is_some_and(|n| n.bias.is_some());
            let logit = g.nodes.iter().position(|n| n.kind == NodeKind::Logit).unwrap();
            for link in g.into_node(logit).iter().filter(|_| !constants) {
                if let Part::Head { layer, head, .. } = found.parts[link.source as usize] {
                    near(f64::from(link.weight), f64::from(direct.heads[layer][head]), 1.0, &name);
                }
            }
        }
    }
}

/// What leaves a node adds up to what the node contributes, and what leaves a token to its embedding's part of the
/// prediction's gradient: the chain rule, through values alone and through queries and keys as well.
#[test]
fn what_leaves_a_node_is_what_it_contributes() {
    for (name, trace) in runs() {
        let (last, target) = (trace.len() - 1, Target::Difference(5, 9));
        let network = trace.model.network();
        let columns = network.unembed_columns(&[5, 9]).unwrap().0.tensor().unwrap();
        let metric = |row: &Tensor| {
            let logits = row.matmul(&columns)?.flatten_all()?;
            Ok((logits.get(0)? - logits.get(1)?)?)
        };
        for attention in [Attention::Frozen, Attention::FirstOrder] {
            let found = trace_prediction(&trace, last, target, attention, Keep::ALL, &Progress::new()).unwrap();
            let g = &found.graph;
            assert_eq!(g.follows_attention(), attention == Attention::FirstOrder);
            let mut leaving = vec![(0f64, 0f64); g.nodes.len()];
            for (source, _, w) in g.triples() {
                leaving[source].0 += f64::from(w);
                leaving[source].1 += f64::from(w.abs());
            }
            let kinds = [SiteKind::ResidPre];
            let gradient = gradients(&trace, &kinds, attention.freeze(), last, metric, &Progress::new()).unwrap();
            let site = Site::new(SiteKind::ResidPre, 0);
            let parts = (gradient.get(site).unwrap() * trace.get(SiteKind::ResidPre, 0).unwrap()).unwrap();
            let parts: Vec<f32> = parts.sum(1).unwrap().to_vec1().unwrap();
            for (i, part) in found.parts.iter().enumerate() {
                let expected = match part {
                    Part::Token { pos } => f64::from(parts[*pos]),
                    Part::Head { .. } | Part::Mlp { .. } => g.nodes[i].activation.unwrap(),
                    _ => continue,
                };
                near(leaving[i].0, expected, leaving[i].1, &format!("{name} {attention:?} {}", g.nodes[i].id));
            }
        }
    }
}

/// An opened MLP is split exactly: neurons and the others together have its links, and a neuron is a node like any
/// other, whose inputs and outputs add up to what it contributes.
#[test]
fn opened_mlps_are_split_exactly() {
    for (name, trace) in runs().into_iter().filter(|(_, t)| t.model.config.has_mlp()) {
        for attention in [Attention::Frozen, Attention::FirstOrder] {
            let (last, target) = (trace.len() - 1, Target::Difference(5, 9));
            let found = trace_prediction(&trace, last, target, attention, Keep::ALL, &Progress::new()).unwrap();
            let pruned = prune(&found.graph, &found.influence, 1.0, 1.0).unwrap();
            let opens = |p: &Part| matches!(p, Part::Mlp { pos, .. } if *pos >= last - 1);
            let open = |leading| found.opened(&trace, &pruned, opens, leading, &Progress::new()).unwrap();
            let (closed, opened) = (open(0), open(4));
            assert!(closed.graph.nodes.len() < opened.graph.nodes.len(), "{name}");
            // Links by what they join, neurons counted as their MLP.
            let joined = |o: &Opened| {
                let whole = |i: usize| match o.parts[i] {
                    Part::Neuron { layer, pos, .. } => Part::Mlp { layer, pos },
                    other => other,
                };
                let mut sums: BTreeMap<(Part, Part), (f64, f64)> = BTreeMap::new();
                for (s, t, w) in o.graph.triples() {
                    let sum = sums.entry((whole(s), whole(t))).or_default();
                    *sum = (sum.0 + f64::from(w), sum.1 + f64::from(w.abs()));
                }
                sums
            };
            let (before, after) = (joined(&closed), joined(&opened));
            for (ends, (sum, _)) in &before {
                let (split, size) = after.get(ends).copied().unwrap_or_default();
                near(split, *sum, size, &format!("{name} {attention:?} {ends:?}"));
            }
            let kept: f64 = found.influence.values.iter().sum();
            for (i, part) in opened.parts.iter().enumerate() {
                let Part::Neuron { layer, pos, .. } = *part else { continue };
                let into: (f64, f64) = opened
                    .graph
                    .into_node(i)
                    .iter()
                    .fold((0.0, 0.0), |s, l| (s.0 + f64::from(l.weight), s.1 + f64::from(l.weight.abs())));
                let contribution = opened.graph.nodes[i].activation.unwrap();
                near(into.0, contribution, into.1, &format!("{name} into {}", opened.graph.nodes[i].label));
                let out: Vec<f64> = opened.graph.triples().filter(|t| t.0 == i).map(|t| f64::from(t.2)).collect();
                let size = out.iter().map(|w| w.abs()).sum();
                near(out.iter().sum(), contribution, size, &format!("{name} out of {}", opened.graph.nodes[i].label));
                assert!(opened.influence[i] >= 0.0 && opened.influence[i] <= kept, "{name} {layer} {pos}");
            }
            // Written and read again they are nodes of the file.
            let file = found.file(&trace, &opened, (1.0, 1.0));
            let again = GraphFile::from_json(file.to_json(), std::path::Path::new("g.json")).unwrap();
            assert_eq!(again.graph.nodes.len(), opened.graph.nodes.len(), "{name}");
            assert_eq!(again.graph.follows_attention(), attention == Attention::FirstOrder, "{name}");
        }
    }
}

/// A neuron's part of what its MLP contributes is its activation times the frozen gradient there, and the kept ones are
/// the largest.
#[test]
fn neurons_of_an_mlp_are_its_largest_parts() {
    for (name, trace) in runs().into_iter().filter(|(_, t)| t.model.config.has_mlp()) {
        let (last, target) = (trace.len() - 1, Target::Difference(5, 9));
        let found = traced(&trace, target, Keep::ALL);
        let network = trace.model.network();
        let columns = network.unembed_columns(&[5, 9]).unwrap().0.tensor().unwrap();
        let metric = |row: &Tensor| {
            let logits = row.matmul(&columns)?.flatten_all()?;
            Ok((logits.get(0)? - logits.get(1)?)?)
        };
        let g = gradients(&trace, &[SiteKind::MlpPost], Freeze::ALL, last, metric, &Progress::new()).unwrap();
        assert!(!found.neurons.is_empty(), "{name}");
        for (part, neurons) in &found.neurons {
            let Part::Mlp { layer, pos } = *part else { panic!("{name}: {part:?}") };
            let post = trace.get(SiteKind::MlpPost, layer).unwrap().get(pos).unwrap();
            let at = g.get(Site::new(SiteKind::MlpPost, layer)).unwrap().get(pos).unwrap();
            let values: Vec<f32> = (post * at).unwrap().to_vec1().unwrap();
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!((neurons[0].1.abs() - largest).abs() <= 1e-4 * largest.max(1.0), "{name}");
            for (neuron, value) in neurons {
                near(f64::from(*value), f64::from(values[*neuron]), f64::from(largest), &name);
            }
        }
    }
}

#[test]
fn influence_of_the_whole_is_the_graphs_and_cutting_changes_no_pruning() {
    for (name, trace) in runs() {
        let whole = traced(&trace, Target::Top, Keep::ALL);
        let by_graph = Influence::of(&whole.graph);
        let total = by_graph.total();
        for (a, b) in whole.influence.values.iter().zip(&by_graph.values) {
            near(*a, *b, total, &name);
        }
        let scores = Scores::of(&whole.graph, &by_graph);
        near(whole.scores.completeness, scores.completeness, 1.0, &name);
        near(whole.scores.replacement, scores.replacement, 1.0, &name);
        // Kept to 90 %, it prunes to 80 % as the whole does.
        let cut = traced(&trace, Target::Top, Keep { nodes: usize::MAX, share: 0.9 });
        assert!(cut.graph.nodes.len() < whole.graph.nodes.len());
        let ids = |t: &Traced| -> BTreeSet<String> {
            let kept = prune(&t.graph, &t.influence, 0.8, 0.95).unwrap();
            (0..t.graph.nodes.len()).filter(|i| kept.nodes[*i]).map(|i| t.graph.nodes[i].id.clone()).collect()
        };
        assert_eq!(ids(&whole), ids(&cut), "{name}");
    }
}

/// The parts of a score add up to it, whatever the family's norms and rotations.
#[test]
fn a_heads_score_is_the_sum_of_its_parts() {
    for (name, trace) in runs() {
        let c = &trace.model.config;
        for (layer, head) in [(0, 0), (c.n_layers - 1, c.n_heads - 1)] {
            let why = why_head(&trace, layer, head, 7, Some(4), &Progress::new()).unwrap();
            let sum = |list: &[(Option<Component>, f32)]| list.iter().map(|s| f64::from(s.1)).sum::<f64>();
            let size = |list: &[(Option<Component>, f32)]| list.iter().map(|s| f64::from(s.1.abs())).sum::<f64>();
            let rest = f64::from(why.advantage - why.by_position);
            near(sum(&why.by_query), rest, size(&why.by_query), &name);
            near(sum(&why.by_key), rest, size(&why.by_key), &name);
            near(sum(&why.by_value), 1.0, size(&why.by_value), &name);
            if c.attn_softcap.is_some() {
                continue;
            }
            // Biases of q and k aside, nothing is left over: the components explain the score.
            let attn = &trace.model.weights.blocks[layer].attn;
            let norm_offset = trace.model.weights.blocks[layer].ln1.as_ref().is_some_and(|n| n.bias.is_some());
            let attention_bias = trace.model.weights.blocks[0].attn.o.bias.is_some();
            if attn.q.bias.is_none() && attn.k.bias.is_none() && !norm_offset && !attention_bias {
                let rest = why.by_query.iter().find(|s| s.0.is_none()).map_or(0.0, |s| s.1);
                near(f64::from(rest), 0.0, size(&why.by_query), &name);
            }
            let scores = trace.value(Site::new(SiteKind::AttnScores, layer)).unwrap();
            let row: Vec<f32> = scores.get(head).unwrap().get(7).unwrap().to_vec1().unwrap();
            let seen: Vec<f32> =
                row.iter().enumerate().filter(|(k, v)| *k != 4 && v.is_finite()).map(|r| *r.1).collect();
            let expected = row[4] - seen.iter().sum::<f32>() / seen.len() as f32;
            near(f64::from(why.advantage), f64::from(expected), 1.0, &format!("{name} advantage"));
        }
    }
}

/// On the model that was trained to do induction, tracing the repeated token with attention followed finds the
/// previous-token head that makes the induction head's keys, K-composition, in one go; with attention held still it
/// leads to the induction head, and taking that apart to the other.
#[test]
fn tracing_finds_the_induction_circuit() {
    let model = Arc::new(Model::open("induction").unwrap());
    // Thirty random tokens, and the first fifteen of them again.
    let ids: Vec<u32> = repeated_random(model.config.d_vocab, 30, 0)[..45].to_vec();
    let trace = Trace::run(&model, ids.clone(), &Progress::new()).unwrap();
    let last = ids.len() - 1;
    // The token that followed before is what comes next.
    assert_eq!(trace.next[last][0].id, ids[15]);
    // Followed: of the 95 % of all nodes, pruned as usual, the strongest edge between two heads is the one.
    let follow = Attention::FirstOrder;
    let found = trace_prediction(&trace, last, Target::Token(ids[15]), follow, Keep::default(), &Progress::new());
    let found = found.unwrap();
    let pruned = prune(&found.graph, &found.influence, 0.8, 0.98).unwrap();
    let (graph, old) = found.graph.pruned(&pruned).unwrap();
    let is_head = |i: usize| matches!(found.parts[old[i]], Part::Head { .. });
    let (at, (source, target, _)) = graph
        .triples()
        .enumerate()
        .filter(|(_, (s, t, _))| is_head(*s) && is_head(*t))
        .max_by(|a, b| a.1.2.abs().total_cmp(&b.1.2.abs()))
        .unwrap();
    assert_eq!(found.parts[old[source]], Part::Head { layer: 0, head: 2, pos: 15 }, "the previous-token head");
    assert!(matches!(found.parts[old[target]], Part::Head { layer: 1, pos, .. } if pos == last));
    assert_eq!(graph.input(at), Input::Key);

    let found = traced(&trace, Target::Token(ids[15]), Keep::ALL);
    let of = |i: usize| match found.parts[i] {
        Part::Head { layer, head, pos } => Some((layer, head, pos)),
        _ => None,
    };
    let strongest = (0..found.parts.len())
        .filter(|i| of(*i).is_some())
        .max_by(|a, b| found.influence.values[*a].total_cmp(&found.influence.values[*b]))
        .unwrap();
    let (layer, head, pos) = of(strongest).unwrap();
    assert_eq!((layer, pos), (1, last));
    // It reads the embedding of the token that follows the earlier occurrence.
    let source =
        found.graph.into_node(strongest).iter().max_by(|a, b| a.weight.abs().total_cmp(&b.weight.abs())).unwrap();
    assert_eq!(found.graph.nodes[source.source as usize].pos, 15);
    let why = why_head(&trace, layer, head, pos, None, &Progress::new()).unwrap();
    assert_eq!(why.key, 15);
    assert_eq!(why.by_key[0].0, Some(Component::Head { layer: 0, head: 2 }), "the previous-token head");
}

#[test]
fn bad_graphs_are_one_sentence_and_large_ones_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.json");
    let node = |id: &str, kind: &str, layer: &str| {
        format!(r#"{{"node_id":"{id}","feature_type":"{kind}","layer":"{layer}","ctx_idx":0,"token_prob":0.5}}"#)
    };
    let doc = |nodes: &[String], links: &str| {
        format!(r#"{{"metadata":{{}},"nodes":[{}],"links":[{links}]}}"#, nodes.join(","))
    };
    let two = [node("a", "cross layer transcoder", "0"), node("b", "cross layer transcoder", "1")];
    for (text, says) in [
        (doc(&two, r#"{"source":"a","target":"b","weight":1},{"source":"b","target":"a","weight":1}"#), "circle"),
        (doc(&two, r#"{"source":"a","target":"b","weight":NaN}"#), "NaN"),
        (doc(&two, r#"{"source":"a","target":"b","weight":1e300}"#), "no weight"),
        ("{".to_owned(), "not JSON"),
        (doc(&[node("L", "logit", "2").replace("0.5", "1e300")], ""), "the probability"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = GraphFile::open(&path).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    // 100,000 nodes in a chain of layers, each reading three below.
    let n = 100_000;
    let mut nodes: Vec<String> =
        (0..n).map(|i| node(&format!("f{i}"), "cross layer transcoder", &(i / 1000).to_string())).collect();
    nodes.push(node("L", "logit", "200"));
    let mut links: Vec<String> = (1000..n)
        .flat_map(|i| {
            [1000, 999, 998]
                .map(|d| format!(r#"{{"source":"f{}","target":"f{i}","weight":{}}}"#, i - d, (i % 7) as f64 - 2.5))
        })
        .collect();
    links.extend((n - 1000..n).map(|i| format!(r#"{{"source":"f{i}","target":"L","weight":1}}"#)));
    std::fs::write(&path, doc(&nodes, &links.join(","))).unwrap();
    let file = GraphFile::open(&path).unwrap();
    let influence = Influence::of(&file.graph);
    let kept = prune(&file.graph, &influence, 0.8, 0.98).unwrap();
    assert!(file.graph.nodes.len() == n + 1 && kept.links.len() < file.graph.links.len());
}
