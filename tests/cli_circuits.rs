//! `trace`, `graph`, `why`, `circuit` and `attribute --method eap*` as a user meets them.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use common::{fixture, json, sentence};
use serde_json::Value;

const CLEAN: &str = "The President of the United States and the President of the";
const CORRUPT: &str = "The President of the first States and the President of the";
const PAIR: [&str; 8] = ["--clean", CLEAN, "--corrupt", CORRUPT, "--answer", " United", "--wrong", " first"];

#[test]
fn a_traced_graph_is_a_graph_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graph.json");
    let path = path.to_str().unwrap();
    let doc = json(&[
        "trace",
        "-p",
        CLEAN,
        "--target",
        " United",
        "--node-threshold",
        "1",
        "--edge-threshold",
        "1",
        "-o",
        path,
    ]);
    let target = &doc["targets"][0];
    let (sum, logit) = (target["sum_of_edges"].as_f64().unwrap(), target["logit"].as_f64().unwrap());
    assert!((sum - logit).abs() < 1e-3, "{sum} {logit}");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for node in file["nodes"].as_array().unwrap() {
        for field in [
            "node_id",
            "feature",
            "layer",
            "ctx_idx",
            "feature_type",
            "token_prob",
            "jsNodeId",
            "clerp",
            "influence",
            "activation",
        ] {
            assert!(node.get(field).is_some(), "{field}: {node}");
        }
        assert!(node["layer"].is_string());
    }
    assert_eq!(file["links"].as_array().unwrap().len() as u64, doc["counts"]["links"].as_u64().unwrap());
    let info = json(&["graph", "info", path]);
    assert_eq!(info["counts"]["by_kind"]["logits"], 1);
    let pruned = folder.path().join("pruned.json");
    let kept = json(&["graph", "prune", path, "--node-threshold", "0.5", "-o", pruned.to_str().unwrap()]);
    let file: Value = serde_json::from_slice(&std::fs::read(&pruned).unwrap()).unwrap();
    assert_eq!(file["nodes"].as_array().unwrap().len() as u64, kept["pruned"]["nodes"].as_u64().unwrap());
    assert_eq!(file["metadata"]["node_threshold"], 0.5);
}

#[test]
fn attention_is_followed_and_mlps_are_taken_apart() {
    let followed = json(&["trace", "-p", CLEAN, "--target", " United", "--attention", "first-order"]);
    assert!(!followed["frozen"].as_array().unwrap().contains(&"attention patterns".into()));
    let inputs: Vec<&str> = followed["links"].as_array().unwrap().iter().filter_map(|l| l["input"].as_str()).collect();
    assert!(inputs.contains(&"key") && inputs.contains(&"value"), "{inputs:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graph.json");
    let path = path.to_str().unwrap();
    let model = fixture("families/llama");
    let model = model.to_str().unwrap();
    let traced = json(&["trace", "-m", model, "--ids", "1,2,3,4,5", "--neurons", "3", "-o", path]);
    let neurons = |doc: &Value, name: &str| {
        let of = |n: &&Value| n[name].as_str().is_some_and(|l| l.contains(".n"));
        doc["nodes"].as_array().unwrap().iter().filter(of).count()
    };
    let mlps = traced["nodes"].as_array().unwrap().iter().filter(|n| n["name"].as_str().unwrap().contains("others"));
    let mlps = mlps.count();
    assert!(mlps > 0 && neurons(&traced, "name") == 3 * mlps);
    // The file has them, and a viewer's prune keeps the most influential.
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(neurons(&file, "clerp"), 3 * mlps);
    assert!(
        json(&["graph", "info", path, "--node-threshold", "1"])["counts"]["by_kind"]["components"].as_u64() > Some(0)
    );
    assert!(sentence(&["trace", "-p", CLEAN, "--attention", "none"], 2).contains("none"));
}

/// `m1.n3` in a circuit's file is one of an MLP's neurons, and the others stay outside.
#[test]
fn a_circuit_may_hold_single_neurons() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuit.json");
    let path = path.to_str().unwrap();
    let model = fixture("families/llama");
    let model = model.to_str().unwrap();
    let ids = ["--clean-ids", "1,2,3,4,5", "--corrupt-ids", "1,2,3,4,9", "--answer", "7", "--wrong", "9"];
    json(&[&["circuit", "find", "-m", model, "--edges", "60", "-o", path], &ids[..]].concat());
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["edges"] = serde_json::json!([]);
    let nodes = |names: &[&str]| names.iter().map(|n| serde_json::json!({"name": n})).collect::<Vec<_>>();
    let mut try_out = |names: &[&str]| {
        file["nodes"] = nodes(names).into();
        std::fs::write(path, file.to_string()).unwrap();
        json(&["circuit", "eval", path, "-m", model, "--no-curve"])
    };
    let one = try_out(&["m1.n3", "m1.n5"]);
    let dropped: Vec<&str> =
        one["minimality"]["nodes"].as_array().unwrap().iter().filter_map(|n| n["name"].as_str()).collect();
    assert!(dropped.len() == 2 && dropped.contains(&"m1.n3") && dropped.contains(&"m1.n5"), "{dropped:?}");
    let whole = try_out(&["m1"]);
    assert_eq!(one["n_edges"], whole["n_edges"]);
    assert_ne!(one["faithfulness"], whole["faithfulness"]);
    file["nodes"] = nodes(&["m1.n99999"]).into();
    std::fs::write(path, file.to_string()).unwrap();
    assert!(sentence(&["circuit", "eval", path, "-m", model], 2).contains("m1.n99999"));
}

#[test]
fn graphs_that_are_none_are_refused() {
    assert!(sentence(&["graph", "info", "no/such/graph.json"], 1).contains("no/such/graph.json"));
    let config = fixture("families/gpt2/config.json");
    assert!(sentence(&["graph", "info", config.to_str().unwrap()], 1).contains("no list `nodes`"));
    let graph = fixture("graphs/meow-clt.json");
    assert!(sentence(&["graph", "prune", graph.to_str().unwrap(), "--node-threshold", "2"], 2).contains("from 0 to 1"));
    assert!(sentence(&["trace", "-p", CLEAN, "--pos", "99"], 2).contains("--pos 99"));
}

#[test]
fn a_circuit_is_found_saved_and_tried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuit.json");
    let path = path.to_str().unwrap();
    for method in [
        &["--method", "eap", "--edges", "40"][..],
        &["--method", "eap-ig", "--steps", "3", "--threshold", "0.0005"],
        &["--method", "eap-ig", "--edges", "20", "--rescore"],
        &["--method", "acdc", "--threshold", "0.001"],
    ] {
        let doc = json(&[&["circuit", "find", "-o", path], method, &PAIR[..]].concat());
        let n = doc["edges"].as_array().unwrap().len() as u64;
        assert_eq!(doc["n_edges"].as_u64(), Some(n), "{method:?}");
        assert!(n > 0 && doc["faithfulness"].is_number());
        let tried = json(&["circuit", "eval", path]);
        assert!(tried["completeness"].is_number() && tried["curve"]["points"].as_array().unwrap().len() == 10);
        assert_eq!(tried["minimality"]["edges"].as_array().unwrap().len() as u64, n);
        assert_eq!(tried["curve"]["points"][9]["faithfulness"].as_f64().map(|f| (f - 1.0).abs() < 1e-3), Some(true));
        // ACDC searches by another metric than it is tried by.
        if method[1] != "acdc" {
            let (a, b) = (doc["faithfulness"].as_f64().unwrap(), tried["faithfulness"].as_f64().unwrap());
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        for outside in ["zero", "mean"] {
            assert!(json(&["circuit", "eval", path, "--outside", outside, "--no-curve"])["faithfulness"].is_number());
        }
    }
    let same = json(&["circuit", "eval", path, "--compare", path, "--no-curve"]);
    assert_eq!(same["compared"]["edge_jaccard"], 1.0);
    // A circuit by hand: nodes alone stand for all edges between them.
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["edges"] = serde_json::json!([]);
    file["nodes"] = serde_json::json!([{"name": "a0.h2"}, {"name": "a1.h3"}, {"name": "embed"}, {"name": "logits"}]);
    std::fs::write(path, file.to_string()).unwrap();
    // embed to both heads' three inputs and to the logits, a0.h2 to a1.h3's three, both to the logits.
    assert_eq!(json(&["circuit", "eval", path, "--no-curve"])["n_edges"], 12);
}

#[test]
fn wrong_circuits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuit.json");
    let path = path.to_str().unwrap();
    json(&[&["circuit", "find", "--method", "eap", "--edges", "10", "-o", path], &PAIR[..]].concat());
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut wrong = file.clone();
    wrong["edges"][0]["name"] = "a9.h9->logits".into();
    std::fs::write(path, wrong.to_string()).unwrap();
    assert!(sentence(&["circuit", "eval", path], 2).contains("a9.h9"));
    let mut wrong = file;
    wrong["model"]["n_layers"] = 7.into();
    std::fs::write(path, wrong.to_string()).unwrap();
    assert!(sentence(&["circuit", "eval", path], 2).contains("7 layers"));
    assert!(sentence(&[&["circuit", "find", "--method", "eap"], &PAIR[..]].concat(), 2).contains("--edges"));
    let none = [&["circuit", "find", "--method", "eap", "--edges", "0"], &PAIR[..]].concat();
    assert!(sentence(&none, 2).contains("at least one"));
    let longer = [
        "--clean",
        CLEAN,
        "--corrupt",
        "The first President of the United people and the President of the",
        "--answer",
        " United",
        "--wrong",
        " first",
    ];
    assert!(
        sentence(&[&["circuit", "find", "--method", "eap", "--edges", "5"], &longer[..]].concat(), 2)
            .contains("equal length")
    );
    assert!(sentence(&["circuit", "find", "--set", "no-such-set", "--edges", "5"], 2).contains("indirect-object"));
}

#[test]
fn a_set_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let text = "title = \"mine\"\nclean = \"{name1} saw {name2}. Then {name1} saw\"\ncorrupt = \"{name1} saw {name3}. Then {name1} saw\"\nanswer = \" {name2}\"\nwrong = \" {name3}\"\n[lists]\nname = [\"men\", \"women\", \"people\", \"children\", \"others\"]\n";
    std::fs::write(&path, text).unwrap();
    let doc =
        json(&["circuit", "find", "--set", path.to_str().unwrap(), "--pairs", "3", "--method", "eap", "--edges", "60"]);
    assert!(doc["faithfulness"].is_number());
    let again =
        json(&["circuit", "find", "--set", path.to_str().unwrap(), "--pairs", "3", "--method", "eap", "--edges", "60"]);
    assert_eq!(doc["edges"], again["edges"], "the draw is the seed's");
}

#[test]
fn edge_scores_and_heads_taken_apart() {
    for method in ["eap", "eap-ig"] {
        let doc = json(&[&["attribute", "--method", method], &PAIR[..]].concat());
        let (senders, receivers) = (doc["senders"].as_array().unwrap(), doc["receivers"].as_array().unwrap());
        let scores = doc["scores"].as_array().unwrap();
        assert_eq!(scores.len(), receivers.len());
        assert_eq!(scores.last().unwrap().as_array().unwrap().len(), senders.len(), "the logits read everybody");
        let all: usize = scores.iter().map(|r| r.as_array().unwrap().len()).sum();
        assert_eq!(doc["n_edges"].as_u64(), Some(all as u64));
        assert!(doc["edges"][0]["name"].as_str().unwrap().contains("->"));
    }
    assert!(sentence(&[&["attribute", "--method", "eap", "--audit"], &PAIR[..]].concat(), 2).contains("--method atp"));
    let doc = json(&["why", "-p", CLEAN, "--head", "a1.h3"]);
    let sum: f64 = doc["by_value"].as_array().unwrap().iter().map(|v| v["value"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-3);
    assert!(sentence(&["why", "-p", CLEAN, "--head", "x"], 2).contains("LAYER.HEAD"));
    assert!(sentence(&["why", "-p", CLEAN, "--head", "9.9"], 2).contains("9.9"));
}
