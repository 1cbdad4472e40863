//! Probes and interchange through the command line, on a property that is there and one that is not.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use serde_json::json;

/// Sentences that end in one of two kinds of words; groups share a beginning.
fn texts(folder: &std::path::Path) -> String {
    let starts = [
        "They looked at the",
        "She was very fond of the",
        "It was the old",
        "He came with the",
        "We saw the",
        "This is the",
        "Nobody spoke of the",
        "At last there was the",
        "I had never seen the",
        "All of them knew the",
        "He wrote to the",
        "She sat by the",
        "Then came the",
        "You remember the",
        "They heard the",
        "It was not the",
    ];
    let kinds = [("people", ["king", "queen", "man", "woman"]), ("things", ["house", "door", "table", "road"])];
    let mut text = "label\tgroup\ttext\n".to_owned();
    for (g, start) in starts.iter().enumerate() {
        for (label, words) in kinds {
            for word in words {
                text.push_str(&format!("{label}\tg{g}\t{start} {word}\n"));
            }
        }
    }
    let path = folder.join("kinds.tsv");
    circuitscope::files::write_atomic(&path, text.as_bytes()).unwrap();
    path.display().to_string()
}

#[test]
fn a_property_is_read_beside_its_controls() {
    let folder = tempfile::tempdir().unwrap();
    let set = texts(folder.path());
    let out = folder.path().join("probes.json").display().to_string();
    let fit = ["probe", "fit", "-m", "text", "--set", &set, "--pool", "last"];
    let doc = common::json(&[&fit[..], &["-o", &out]].concat());
    assert_eq!((&doc["classes"], &doc["train"], &doc["test"]), (&json!(["people", "things"]), &json!(96), &json!(32)));
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    for layer in doc["layers"].as_array().unwrap() {
        let score = &layer["score"];
        assert!(number(&score["accuracy"]) > 0.95 && number(&score["auc"]) > 0.98, "{layer}");
        let interval = &score["accuracy_interval"];
        assert!(number(&interval[0]) <= number(&score["accuracy"]) && number(&interval[1]) <= 1.0);
        // Shuffled labels say nothing about held-out texts.
        assert!(number(&layer["shuffled_labels"]["accuracy"]) < 0.75, "{layer}");
        assert!(number(&layer["random_coordinates"]["auc"]) <= number(&score["auc"]) + 1e-6);
        assert!(layer["random_model"]["accuracy"].is_number());
    }
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(written["layers"][0]["probe"]["weights"].as_array().unwrap().len(), 2);
    // The same seed gives the same numbers; a sparse probe names its coordinates.
    assert_eq!(common::json(&fit)["layers"], doc["layers"]);
    let sparse = common::json(&[&fit[..], &["--k", "3"]].concat());
    assert_eq!(sparse["layers"][1]["coordinates"].as_array().unwrap().len(), 3);
    let error = common::sentence(&["probe", "fit", "-m", "text", "--set", &set, "--site", "nowhere"], 2);
    assert!(error.contains("nowhere"), "{error}");
}

/// What would be read as a result and is none.
#[test]
fn what_would_mislead_is_refused_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let set = texts(folder.path());
    let fit = |set: &str, more: &[&str]| {
        let args = ["probe", "fit", "-m", "text", "--set", set, "--layers", "1"];
        [&args[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let refused = |args: &[String]| common::sentence(&args.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    let known = |args: &[String]| common::json(&args.iter().map(String::as_str).collect::<Vec<_>>());
    // The control would be the probe itself.
    for option in ["--random", "--k"] {
        let error = refused(&fit(&set, &[option, "128"]));
        assert!(error.contains(&format!("{option} 128")) && error.contains("128 coordinates"), "{error}");
    }
    // One answer for two classes.
    let swap = ["probe", "interchange", "-m", "text", "--set", &set, "--layer", "1", "--answers", " was, was"];
    assert!(common::sentence(&swap, 2).contains("answer for two classes"));
    // What stands behind a tab would be lost.
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        circuitscope::files::write_atomic(&path, text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let whole = std::fs::read_to_string(&set).unwrap();
    let tab = write("tab.tsv", &whole.replacen("at the king", "at the\tking", 1));
    let error = common::sentence(&["probe", "fit", "-m", "text", "--set", &tab], 1);
    assert!(error.contains("line 2") && error.contains("king"), "{error}");
    // A single token among sentences moves all of them, and a list of words is meant to be read so.
    let plain = known(&fit(&set, &[]));
    assert_eq!((&plain["warnings"], plain["held_out"].as_array().unwrap().len()), (&json!([]), 32));
    let mixed = known(&fit(&write("mixed.tsv", &format!("{whole}people\tg0\tThe\n")), &[]));
    assert!(mixed["warnings"][0].as_str().unwrap().contains("behind the word The"), "{mixed}");
    let words = whole.lines().map(|l| l.split(' ').next_back().unwrap()).skip(1);
    let words: Vec<String> = words.zip(whole.lines().skip(1)).map(|(w, l)| format!("{}\t{w}", &l[..6])).collect();
    let words = known(&fit(&write("words.tsv", &format!("label\ttext\n{}", words.join("\n"))), &[]));
    assert_eq!(words["warnings"], json!([]));
}

#[test]
fn what_is_read_is_interchanged() {
    let folder = tempfile::tempdir().unwrap();
    let set = texts(folder.path());
    let swap = ["probe", "interchange", "-m", "text", "--set", &set, "--layer", "1", "--pairs", "12"];
    let doc = common::json(&[&swap[..], &["--answers", " was, of"]].concat());
    let found = &doc["interchange"];
    let controls = ["shuffled_labels", "shuffled_probe", "random_model", "random_model_probe"];
    for name in ["base", "untouched", "whole", "das", "probe", "means"].into_iter().chain(controls) {
        assert!((0.0..=1.0).contains(&found[name].as_f64().unwrap()), "{name}: {found}");
    }
    assert!(found["texts"].as_u64().unwrap() <= 24 && found["kind"] == "linear", "{found}");
    // Of two answers one is the base's or the source's: the shares add up.
    let sum = found["base"].as_f64().unwrap() + found["untouched"].as_f64().unwrap();
    assert!((sum - 1.0).abs() < 1e-6, "{found}");
    let error = common::sentence(&[&swap[..], &["--answers", " was"]].concat(), 2);
    assert!(error.contains("people, things"), "{error}");
    // A probe of three classes spans two dimensions: it is compared with random ones of as many, the search with one.
    let royal = |line: &str| {
        if line.ends_with("king") || line.ends_with("queen") {
            line.replace("people", "royal")
        } else {
            line.to_owned()
        }
    };
    let three: Vec<String> = std::fs::read_to_string(&set).unwrap().lines().map(royal).collect();
    let path = folder.path().join("three.tsv");
    circuitscope::files::write_atomic(&path, three.join("\n").as_bytes()).unwrap();
    let path = path.display().to_string();
    let swap = ["probe", "interchange", "-m", "text", "--set", &path, "--layer", "1", "--pairs", "4", "--k", "6"];
    let doc = common::json(&[&swap[..], &["--answers", " was, of, in"]].concat());
    let random = doc["interchange"]["random_subspaces"].as_object().unwrap();
    assert_eq!(
        (random.keys().map(String::as_str).collect::<Vec<_>>(), &doc["interchange"]["kind"]),
        (vec!["1", "2"], &json!({"sparse": 6}))
    );
}

/// What the lesson "Three lenses" says of the set that ships for it.
#[test]
fn the_number_of_a_subject_is_read_and_used() {
    let doc = common::json(&["probe", "fit", "-m", "text", "--set", "number", "--pool", "last", "--layers", "1"]);
    let layers = doc["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &layers[0]["layer"]), (1, &json!(1)));
    let accuracy = |of: &str| layers[0][of]["accuracy"].as_f64().unwrap();
    assert!(accuracy("score") == 1.0 && accuracy("shuffled_labels") < 0.65, "{doc}");
    assert!((0.8..1.0).contains(&accuracy("random_model")), "{doc}");
    let doc = common::json(&[
        "probe",
        "interchange",
        "-m",
        "text",
        "--set",
        "number",
        "--answers",
        " were, was",
        "--layer",
        "1",
    ]);
    let share = |of: &str| doc["interchange"][of].as_f64().unwrap();
    assert!((0.8..1.0).contains(&share("probe")) && share("means") > 0.97 && share("das") > 0.97, "{doc}");
    let random = doc["interchange"]["random_subspaces"]["1"].as_f64().unwrap();
    assert!(random < 0.1 && share("random_model") > 0.8, "{doc}");
}

/// A direction from a file is interchanged as well; one of another site is refused.
#[test]
fn a_directions_span_is_interchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rows: String = circuitscope::probes::set::SHIPPED[3].1.replace("many\t", "1\t").replace("one\t", "0\t");
    circuitscope::files::write_atomic(&folder.path().join("set.tsv"), rows.as_bytes()).unwrap();
    let find = ["direction", "find", "-m", "text", "--set", &path("set.tsv"), "--pool", "last"];
    for (site, file) in [("resid_post", path("post.json")), ("mlp_out", path("mlp.json"))] {
        common::json(&[&find[..], &["--site", site, "-o", &file]].concat());
    }
    let swap = ["probe", "interchange", "-m", "text", "--set", "number", "--answers", " were, was", "--layer", "1"];
    let doc = common::json(&[&swap[..], &["--pairs", "20", "--direction", &path("post.json")]].concat());
    assert!(doc["interchange"]["direction"].as_f64().unwrap() > 0.8, "{doc}");
    let error = common::sentence(&[&swap[..], &["--direction", &path("mlp.json")]].concat(), 2);
    assert!(error.contains("hook_mlp_out") && error.contains("hook_resid_post"), "{error}");
    // At its own site it is taken, and what is interchanged is told; the whole of one block's MLP is not the whole stream.
    let mlp =
        common::json(&[&swap[..], &["--site", "mlp_out", "--pairs", "20", "--direction", &path("mlp.json")]].concat());
    let found = &mlp["interchange"];
    assert_eq!((&found["site"], &found["pool"], &found["layer"]), (&json!("mlp_out"), &json!("last"), &json!(1)));
    let share = |doc: &serde_json::Value, of: &str| doc["interchange"][of].as_f64().unwrap();
    assert!(found["direction"].is_number() && share(&mlp, "whole") < share(&doc, "whole"), "{mlp}");
    // A probe of the mean over a text's tokens is interchanged in all of them.
    let mean = common::json(&[&swap[..], &["--site", "resid_pre", "--pool", "mean", "--pairs", "20"]].concat());
    assert_eq!((&mean["interchange"]["site"], &mean["interchange"]["pool"]), (&json!("resid_pre"), &json!("mean")));
    let error = common::sentence(&[&swap[..], &["--site", "nowhere"]].concat(), 2);
    assert!(error.contains("nowhere") && error.contains("resid_mid"), "{error}");
    let error = common::sentence(&[&swap[..], &["--site", "q", "--rank", "999"]].concat(), 2);
    assert!(error.contains("blocks.1.attn.hook_q") && error.contains("1 to "), "{error}");
    let error = common::sentence(&[&swap[..], &["--site", "z", "--k", "129"]].concat(), 2);
    assert!(error.contains("128 coordinates") && error.contains("129"), "{error}");
    let error = common::sentence(&[&swap[..], &["--pool", "first"]].concat(), 2);
    assert!(error.contains("`first`") && error.contains("last or mean"), "{error}");
}
