//! `patch`, `ablate`, `attribute` and `generate` as a user meets them.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use common::{fixture, json, run, sentence};
use serde_json::Value;

/// The sentence of a request that was wrong.
fn refused(args: &[&str]) -> String {
    sentence(args, 2)
}

const CLEAN: &str = "The President of the United States and the President of the";
const CORRUPT: &str = "The President of the United people and the President of the";
/// Two tokens longer.
const LONGER: &str = "The President of the Roman States and the President of the";
const PAIR: [&str; 8] = ["--clean", CLEAN, "--corrupt", CORRUPT, "--answer", " United", "--wrong", " first"];

fn shape(v: &Value) -> Vec<usize> {
    match v.as_array() {
        Some(list) => std::iter::once(list.len()).chain(list.first().map(shape).unwrap_or_default()).collect(),
        None => Vec::new(),
    }
}

#[test]
fn patch_names_its_axes() {
    for (site, by, axes) in [
        ("resid_pre", "layer,pos", vec!["layer", "pos"]),
        ("attn_out", "layer", vec!["layer"]),
        ("z", "layer,head", vec!["layer", "head"]),
        ("k", "layer,head", vec!["layer", "kv_head"]),
        ("v", "layer,head,pos", vec!["layer", "kv_head", "pos"]),
        ("q", "layer,head,pos", vec!["layer", "head", "pos"]),
        ("pattern", "layer,head", vec!["layer", "head"]),
        ("pattern", "layer,head,pos", vec!["layer", "head", "pos"]),
    ] {
        let doc = json(&[&["patch", "--site", site, "--by", by], &PAIR[..]].concat());
        assert_eq!(doc["axes"], serde_json::json!(axes), "{site} {by}");
        let n = doc["corrupt_tokens"].as_array().unwrap().len();
        let size = |a: &str| match a {
            "layer" => 2,
            "pos" => n,
            _ => 4,
        };
        assert_eq!(shape(&doc["values"]), axes.iter().map(|a| size(a)).collect::<Vec<_>>());
        assert!(doc["logit_diff_clean"].is_number() && doc["logit_diff_corrupt"].is_number());
        assert_eq!(doc["model"]["name"], "induction");
    }
    let edges = json(&[&["patch", "--site", "pattern", "--by", "dest,src", "--head", "1.3"], &PAIR[..]].concat());
    assert_eq!(edges["axes"], serde_json::json!(["dest", "src"]));
}

#[test]
fn patching_everything_restores_the_clean_run() {
    let doc = json(&[&["patch", "--site", "resid_pre", "--by", "layer"], &PAIR[..]].concat());
    for v in doc["values"].as_array().unwrap() {
        // The two prompts differ little, so the scale magnifies rounding.
        assert!((v.as_f64().unwrap() - 1.0).abs() < 2e-3, "{v}");
    }
}

/// Positions that correspond are patched, the others stay; edges are left out with the reason.
#[test]
fn prompts_of_different_length() {
    let pair = ["--clean", CLEAN, "--corrupt", LONGER, "--answer", " United", "--wrong", " first"];
    let doc = json(&[&["patch", "--site", "resid_pre"], &pair[..]].concat());
    assert_eq!(shape(&doc["values"]), [2, 13]);
    let last = &doc["values"][1][12];
    assert!(last.as_f64().unwrap() != 0.0, "{last}");
    // For reading, what was not run ranks nowhere and is counted.
    let table = String::from_utf8(run(&[&["patch", "--site", "resid_pre"], &pair[..]].concat()).stdout).unwrap();
    assert!(!table.contains("NaN") && table.contains("without a counterpart"), "{table}");
    let nodes = json(&[&["attribute"], &pair[..]].concat());
    assert!(nodes["nodes"]["z"]["values"].is_array() && nodes["nodes"]["pattern"].is_null());
    assert!(nodes["left_out"]["pattern"].as_str().unwrap().contains("correspond one to one"));
}

#[test]
fn ablate_gives_values_and_a_baseline() {
    let base = ["ablate", "-p", CLEAN, "--answer", " United", "--wrong", " first", "--site"];
    let doc = json(&[&base[..], &["z"]].concat());
    assert_eq!(doc["axes"], serde_json::json!(["layer", "head"]));
    assert_eq!(shape(&doc["values"]), [2, 4]);
    assert!(doc["baseline"].is_number());
    let layers = json(&[&base[..], &["attn_out", "--with", "mean"]].concat());
    assert_eq!((layers["axes"].clone(), shape(&layers["values"])), (serde_json::json!(["layer"]), vec![2]));
    assert!(layers["reference"].as_str().unwrap().contains("own positions"));
    let texts =
        json(&[&base[..], &["attn_out", "--with", "mean", "--reference", "and the", "--reference", "of a"]].concat());
    assert_ne!(texts["values"], layers["values"]);
    let resampled = json(&[&base[..], &["z", "--with", "resample", "--corrupt", CORRUPT]].concat());
    assert_eq!(resampled["baseline"], doc["baseline"]);
    let backup = json(&[&base[..], &["z", "--backup", "0.2"]].concat());
    assert_eq!(backup["backup"]["changes"].as_array().unwrap().len(), 8);
    assert!(refused(&[&base[..], &["z", "--backup", "0.9"]].concat()).contains("--backup 0.9"));
    let edges = json(&[&base[..], &["pattern", "--by", "dest,src", "--head", "1.3"]].concat());
    assert_eq!(edges["axes"], serde_json::json!(["dest", "src"]));
    let logit = json(&["ablate", "-p", CLEAN, "--answer", " United", "--site", "z"]);
    assert_eq!(logit["metric"], "logit");
}

#[test]
fn attribute_says_that_it_approximates() {
    let doc = json(&[&["attribute", "--method", "atp", "--audit", "--freeze", "norms"], &PAIR[..]].concat());
    assert_eq!(doc["approximation"], true);
    assert_eq!(doc["frozen"], serde_json::json!(["norm scales"]));
    // An attention-only model has no MLP to report.
    assert!(doc["nodes"]["mlp_out"].is_null() && doc["nodes"]["z"]["values"].is_array());
    assert!(doc["nodes"]["z"]["audit"]["correlation"].is_number());
}

#[test]
fn generate_under_a_saved_stack() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edits.json");
    let text = r#"{"edits": [{"site": "blocks.1.hook_attn_out", "action": "zero"}]}"#;
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let plain = json(&["generate", "-p", CLEAN, "--max", "5"]);
    let edited = json(&["generate", "-p", CLEAN, "--max", "5", "--edits", file]);
    assert_eq!(plain["generated"].as_array().unwrap().len(), 5);
    assert_ne!(plain["generated"], edited["generated"]);
    assert_eq!(edited["edits"].as_array().unwrap().len(), 1);
    let seeded = ["generate", "-p", CLEAN, "--max", "5", "--temperature", "1", "--seed", "7"];
    assert_eq!(json(&seeded)["generated"], json(&seeded)["generated"]);
    // What is printed for reading is the text itself.
    let out = run(&["generate", "-p", CLEAN, "--max", "5"]);
    assert!(String::from_utf8(out.stdout).unwrap().starts_with(CLEAN));
}

#[test]
fn wrong_requests_are_one_sentence() {
    let patch = |site: &'static str| [&["patch", "--site", site], &PAIR[..]].concat();
    assert!(
        refused(&["patch", "--site", "z", "--clean", CLEAN, "--metric", "kl"]).contains("corrupt prompt is missing")
    );
    assert!(refused(&["patch", "--site", "z", "--clean", CLEAN, "--corrupt", CORRUPT]).contains("answer"));
    let long = ["patch", "--site", "z", "--clean", CLEAN, "--corrupt", CORRUPT, "--answer", " United States"];
    assert!(refused(&long).contains("not one token"));
    assert!(refused(&[&patch("z")[..], &["--by", "dest,src"]].concat()).contains("layer,head"));
    assert!(refused(&[&patch("pattern")[..], &["--by", "dest,src"]].concat()).contains("--head"));
    assert!(refused(&[&patch("pattern")[..], &["--by", "dest,src", "--head", "7.1"]].concat()).contains("7.1"));
    assert!(refused(&patch("mlp_out")).contains("mlp_out"));
    let same =
        ["patch", "--site", "z", "--clean", CLEAN, "--corrupt", CLEAN, "--answer", " United", "--wrong", " first"];
    assert!(refused(&same).contains("no scale"));
    let unequal = [
        "patch",
        "--site",
        "pattern",
        "--clean",
        CLEAN,
        "--corrupt",
        LONGER,
        "--answer",
        " United",
        "--wrong",
        " first",
    ];
    assert!(refused(&unequal).contains("correspond one to one"));
    let ablate = ["ablate", "-p", CLEAN, "--answer", " United", "--site"];
    assert!(refused(&[&ablate[..], &["z", "--with", "resample"]].concat()).contains("--corrupt"));
    assert!(refused(&[&ablate[..], &["pattern", "--with", "mean"]].concat()).contains("mean"));
    assert!(refused(&[&["attribute", "--metric", "rank"], &PAIR[..]].concat()).contains("no gradient"));
    // Between equal prompts there is nothing to attribute, by whatever method.
    let same = ["--clean", CLEAN, "--corrupt", CLEAN, "--answer", " United", "--wrong", " first"];
    let patch = refused(&[&["patch", "--site", "z"], &same[..]].concat());
    assert!(patch.contains("have the same logit difference"), "{patch}");
    for method in ["atp", "eap", "eap-ig"] {
        assert_eq!(refused(&[&["attribute", "--method", method], &same[..]].concat()), patch);
    }
    assert!(refused(&["generate", "-p", CLEAN, "--temperature", "-1"]).contains("temperature"));
}

#[test]
fn wrong_stacks_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edits.json");
    for (stack, word) in [
        ("{", "not a stack"),
        (r#"{"edits": [{"site": "blocks.1.hook_nothing", "action": "zero"}]}"#, "hook_nothing"),
        (r#"{"edits": [{"site": "blocks.9.attn.hook_z", "action": "zero"}]}"#, "layer 9"),
        (r#"{"edits": [{"site": "blocks.1.attn.hook_z", "head": 4, "action": "zero"}]}"#, "head 4"),
        (
            r#"{"edits": [{"site": "blocks.1.attn.hook_z", "positions": {"at": [99]}, "action": "zero"}]}"#,
            "position 99",
        ),
        (r#"{"edits": [{"site": "blocks.1.hook_mlp_out", "action": "zero"}]}"#, "no site"),
        (r#"{"edits": [{"site": "blocks.1.attn.hook_z", "action": {"copy": "corrupted"}}]}"#, "other prompt"),
        (
            r#"{"edits": [{"site": "blocks.1.attn.hook_z", "action": "zero"}, {"site": "blocks.1.attn.hook_z", "head": 1, "action": "mean"}]}"#,
            "contradict",
        ),
        (r#"{"base": "corrupted", "edits": [{"site": "blocks.1.attn.hook_z", "action": "zero"}]}"#, "--corrupt"),
    ] {
        std::fs::write(&path, stack).unwrap();
        let text = refused(&["generate", "-p", CLEAN, "--max", "1", "--edits", path.to_str().unwrap()]);
        assert!(text.contains(word), "{stack}: {text}");
    }
}

/// Models without a tokenizer are asked by ids, and every family can be patched and ablated.
#[test]
fn every_family_by_ids() {
    for folder in std::fs::read_dir(fixture("families")).unwrap() {
        let folder = folder.unwrap().path();
        let model = folder.to_str().unwrap();
        let base = ["-m", model, "--clean-ids", "5,9,2,7,3", "--corrupt-ids", "5,9,8,7,3", "--metric", "kl"];
        let doc = json(&[&["patch", "--site", "z"], &base[..]].concat());
        assert!(doc["values"].as_array().is_some_and(|v| !v.is_empty()), "{model}");
    }
}

#[cfg(feature = "gui")]
#[test]
fn causal_views_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("p.svg");
    let args = ["render", "--view", "patching", "-p", CLEAN, "--corrupt", CORRUPT, "--site", "resid_pre", "-o"];
    assert!(run(&[&args[..], &[out.to_str().unwrap()]].concat()).status.success());
    assert!(std::fs::read_to_string(&out).unwrap().contains("Patching"));
    let args = ["render", "--view", "lens", "-p", CLEAN, "--show", "difference", "-o", out.to_str().unwrap()];
    assert!(refused(&args).contains("--corrupt"));
}
