//! What speaks against a model stands in every document and on stderr; the trust report says it in numbers.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use circuitscope::cli::Cli;
use clap::CommandFactory;
use serde_json::{Value, json};

use common::{fixture, json as document, run};

fn write(path: &Path, text: &str) {
    circuitscope::files::write_atomic(path, text.as_bytes()).expect("it is written");
}

/// The built-in text model as a folder. `tokens` says which id each of its tokens gets.
fn text_model(folder: &Path, tokens: impl Fn(u64) -> u64) -> String {
    std::fs::create_dir_all(folder).expect("a folder");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/text-model");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(assets.join(name), folder.join(name)).expect("it is copied");
    }
    let text = std::fs::read_to_string(assets.join("tokenizer.json")).expect("it is there");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    for id in tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary").values_mut() {
        *id = json!(tokens(id.as_u64().expect("an id")));
    }
    write(&folder.join("tokenizer.json"), &tokenizer.to_string());
    folder.to_str().expect("UTF-8").to_owned()
}

/// Another model's tokenizer: the same tokens under other ids.
fn mixed_up(folder: &Path) -> String {
    text_model(folder, |id| if id == 0 { 0 } else { 1 + (id * 7 + 3) % 1023 })
}

fn warnings(doc: &Value) -> Vec<String> {
    serde_json::from_value(doc["warnings"].clone()).unwrap_or_else(|e| panic!("{e}: {doc}"))
}

/// The names of every subcommand that has `--json`.
fn with_json() -> BTreeSet<String> {
    fn walk(command: &clap::Command, path: &str, out: &mut BTreeSet<String>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            if sub.get_arguments().any(|a| a.get_id() == "json") {
                out.insert(path.trim().to_owned());
            }
            walk(sub, &path, out);
        }
    }
    let mut out = BTreeSet::new();
    walk(&Cli::command(), "", &mut out);
    out
}

/// Every command that prints documents, in an order in which each finds the files that it needs.
#[test]
#[allow(clippy::too_many_lines, reason = "one call of every command; the window has one more")]
fn every_document_carries_warnings() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let model = mixed_up(&dir.path().join("mixed-up"));
    let (sae, index, whole, circuit, graph, pruned, concept, session) = (
        at("sae"),
        at("index.arrow"),
        at("whole.arrow"),
        at("circuit.json"),
        at("graph.json"),
        at("pruned.json"),
        at("concept.safetensors"),
        at("a.scope"),
    );
    let (with, without) = (at("with.txt"), at("without.txt"));
    write(Path::new(&with), "The king.\nA queen.\nHis crown.\nThe throne.\nA prince.\nA duke.\n");
    write(Path::new(&without), "The dog.\nA cat.\nHis hat.\nThe house.\nA boat.\nA tree.\n");
    let p = ["-p", "When she came"];
    let pair = ["--clean", "a b", "--corrupt", "a c", "--answer", "a", "--wrong", "b"];
    let small = ["--text", "prose", "--tokens", "4000"];
    let (set, features, lens) = (at("set"), at("features.json"), at("lens.safetensors"));
    let parts = [at("lens-0.safetensors"), at("lens-1.safetensors")];
    let fit = ["--text", "prose", "--tokens", "16", "--skip", "4", "--limit", "2"];
    // Words behind a command are its own, so that the document is asked for before them.
    let submitted = |more: &[&'static str]| -> Vec<&str> {
        [&["--json"], more, &["jlens", "fit", "-m", &model, "-o", &lens], &fit[..]].concat()
    };
    let examples = at("examples.tsv");
    let lines = (0..12).map(|i| format!("1\tThe king number {i}\n0\tThe dog number {i}\n")).collect::<String>();
    write(Path::new(&examples), &format!("label\ttext\n{lines}"));
    // Every call, and whether it opens a model.
    #[cfg_attr(not(feature = "gui"), expect(unused_mut, reason = "the window's own come last"))]
    let mut calls: Vec<(&str, bool, Vec<&str>)> = vec![
        ("models", false, vec!["--found"]),
        ("check", true, vec![]),
        // Weights are not read, so that nothing can be said of their loss.
        ("plan", false, vec!["run", "-p", "When she came", "-m", &model]),
        ("run", true, p.to_vec()),
        ("lens", true, p.to_vec()),
        ("entropy", true, p.to_vec()),
        ("dla", true, [&p[..], &["--answer", "a"]].concat()),
        ("heads", true, p.to_vec()),
        ("patch", true, [&pair[..], &["--site", "z"]].concat()),
        ("ablate", true, [&p[..], &["--answer", "a", "--site", "z"]].concat()),
        ("attribute", true, [&["--method", "atp"], &pair[..]].concat()),
        ("circuit find", true, [&["--method", "eap", "--edges", "20", "-o", &circuit], &pair[..]].concat()),
        ("circuit eval", true, vec![&circuit]),
        ("generate", true, [&p[..], &["--max", "2"]].concat()),
        ("trace", true, [&p[..], &["-o", &graph]].concat()),
        ("why", true, [&p[..], &["--head", "1.0"]].concat()),
        ("graph info", false, vec![&graph]),
        ("graph prune", false, vec![&graph, "-o", &pruned]),
        ("session show", false, vec![&session]),
        (
            "features train",
            true,
            [
                &[
                    "--site",
                    "blocks.0.hook_resid_post",
                    "--features",
                    "64",
                    "-k",
                    "8",
                    "--steps",
                    "10",
                    "--batch",
                    "64",
                ],
                &small[..],
                &["-o", &sae],
            ]
            .concat(),
        ),
        ("features encode", true, [&["--dictionary", &sae], &p[..]].concat()),
        ("features eval", true, [&["--dictionary", &sae], &small[..]].concat()),
        ("features dashboard", true, [&["--dictionary", &sae, "-o", &index], &small[..]].concat()),
        ("features merge", false, vec![&index, "-o", &whole]),
        ("features show", true, vec![&index]),
        (
            "features steer",
            true,
            [&["--dictionary", &sae, "--feature", "1", "--reference-tokens", "64"], &p[..]].concat(),
        ),
        ("direction find", true, vec!["--with", &with, "--without", &without, "-o", &concept]),
        ("direction read", true, [&[concept.as_str()], &p[..]].concat()),
        ("direction steer", true, [&[concept.as_str(), "--reference-tokens", "64"], &p[..]].concat()),
        ("direction similar", false, vec![&concept, "--dictionary", &sae]),
        (
            "features train",
            true,
            [
                &["--layers", "all", "--method", "batchtopk", "--features", "16", "-k", "4", "--steps", "5"][..],
                &["--batch", "64", "-o", &set],
                &small[..],
            ]
            .concat(),
        ),
        ("trace", true, [&p[..], &["--dictionary", &set, "-o", &features]].concat()),
        ("features intervene", true, [&p[..], &["--dictionary", &set, "--set", "0:1:2=3"]].concat()),
        ("graph audit", true, vec![&features, "--dictionary", &set, "--links", "5"]),
        ("graph group", false, vec![&features, "-o", &pruned]),
        ("jlens fit", true, [&fit[..], &["--shard", "0/2", "-o", &parts[0]]].concat()),
        ("jlens fit", true, [&fit[..], &["--shard", "1/2", "-o", &parts[1]]].concat()),
        ("jlens merge", false, vec![&parts[0], &parts[1], "-o", &lens]),
        ("merge", false, vec![&parts[1], &parts[0], "-o", &lens]),
        ("guide", false, vec!["view-lens"]),
        ("submit slurm", false, submitted(&[])),
        ("submit kubernetes", false, submitted(&["--image", "lab/scope:1", "--claim", "data"])),
        ("submit parallel", false, submitted(&[])),
        ("jlens read", true, [&p[..], &["--lens", &lens]].concat()),
        ("jlens edit", true, [&p[..], &["--lens", &lens, "--layer", "0", "--steer", "a"]].concat()),
        ("probe fit", true, vec!["--set", &examples]),
        ("probe interchange", true, vec!["--set", &examples, "--answers", " a, the", "--layer", "1", "--pairs", "4"]),
        ("superposition", false, vec!["--preset", "list"]),
        ("bench", true, vec!["--repeat", "1"]),
    ];
    #[cfg(feature = "gui")]
    calls.push(("session run", true, vec![&session, "--view", "lens"]));
    let written = run(&["session", "new", "-m", &model, "-p", "a", "-o", &session]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let mut called = BTreeSet::new();
    for (name, opens, args) in &calls {
        called.insert((*name).to_owned());
        let mut all: Vec<&str> = name.split(' ').collect();
        all.extend(args);
        // A session names its model.
        if *opens && *name != "session run" {
            all.extend(["-m", &model]);
        }
        all.push("--json");
        let out = run(&all);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{all:?}: {err}");
        let doc: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{all:?}: {e}"));
        let said = warnings(&doc);
        for w in &said {
            assert!(err.contains(w) && w.ends_with('.') && !w.contains('\n'), "{name}: {w:?} in {err}");
        }
        let of_loss = said.iter().filter(|w| w.contains("nats a token")).count();
        assert_eq!(of_loss, usize::from(*opens), "{name}: {said:?}");
    }
    // A report is a file, and shares the options of a run.
    let all: BTreeSet<String> = with_json().into_iter().filter(|n| n != "session report").collect();
    assert_eq!(called, all);
}

#[test]
fn a_good_model_has_no_warnings() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = text_model(&dir.path().join("text"), |id| id);
    let out = run(&["run", "-m", &model, "-p", "a", "--json"]);
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert!(warnings(&serde_json::from_slice(&out.stdout).expect("a document")).is_empty());
    // An error stands alone on stderr, also of a model that has warnings.
    let bad = mixed_up(&dir.path().join("mixed-up"));
    common::sentence(&["run", "-m", &bad, "-p", "a", "--ids", "1"], 2);
    common::sentence(&["dla", "-m", &bad, "-p", "a", "--answer", "xyzzy"], 2);
}

#[test]
fn the_report_tells_a_working_model_from_a_mixed_up_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = document(&["check", "-m", &text_model(&dir.path().join("text"), |id| id)]);
    let bad = document(&["check", "-m", &mixed_up(&dir.path().join("mixed-up"))]);
    let number = |doc: &Value, key: &str| doc[key].as_f64().unwrap_or_else(|| panic!("no {key}: {doc}"));
    let limit = 0.6 * 1024f64.ln();
    for doc in [&good, &bad] {
        assert!((number(doc, "loss_limit") - limit).abs() < 1e-9);
        assert_eq!(doc["loss_tokens"], 254, "a context of 256 holds 255 tokens and a first one");
        assert_eq!(doc["round_trip"], json!({"prose": true, "other": true}));
        assert!(doc["first_token"]["puts"].is_null());
    }
    // The loss that the run itself gives for the same text.
    assert!(number(&good, "loss") < limit && number(&bad, "loss") > limit);
    assert!(warnings(&good).is_empty(), "{good}");
    let said = warnings(&bad);
    assert!(said.len() == 1 && said[0].contains("1024 tokens stays under 4.2"), "{said:?}");
}

/// A tokenizer that puts a first token that the config does not know, and one that the model does not want.
#[test]
fn first_tokens_that_disagree_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = text_model(&dir.path().join("text"), |id| id);
    let set = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = Path::new(&model).join(file);
        let mut value: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).expect("it is read")).expect("JSON");
        change(&mut value);
        write(&path, &value.to_string());
    };
    // It puts the token " the" before every text.
    let the = document(&["run", "-m", &model, "-p", " the"])["tokens"][0].clone();
    set("tokenizer.json", &|t| {
        t["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "the", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"the": {"id": "the", "ids": [the["id"]], "tokens": [" the"]}}});
    });
    let doc = document(&["check", "-m", &model]);
    assert_eq!(doc["first_token"]["puts"], the);
    assert_eq!(doc["first_token"]["config"], json!([]));
    assert!(warnings(&doc).is_empty(), "one token in 256 costs little: {doc}");
    set("config.json", &|c| c["bos_token_id"] = json!(0));
    let doc = document(&["check", "-m", &model]);
    let said = warnings(&doc);
    assert!(said.len() == 1 && said[0].contains("config.json begins one with \"<|endoftext|>\" (0)"), "{said:?}");
    // The same stands in every other document.
    assert_eq!(warnings(&document(&["run", "-m", &model, "-p", "a"])), said);
    set("config.json", &|c| c["bos_token_id"] = json!([0, the["id"]]));
    assert!(warnings(&document(&["run", "-m", &model, "-p", "a"])).is_empty());
}

#[test]
fn models_without_prose_are_not_judged() {
    let doc = document(&["check", "-m", "addition"]);
    assert!(doc["loss"].is_null() && warnings(&doc).is_empty(), "{doc}");
    assert!(doc["remarks"][0].as_str().is_some_and(|r| r.contains("holds no prose")));
    let doc = document(&["check", "-m", fixture("families/llama").to_str().expect("UTF-8")]);
    assert!(doc["loss"].is_null() && warnings(&doc).is_empty(), "{doc}");
    // A built-in one of another task is measured, and not blamed.
    let doc = document(&["check", "-m", "induction"]);
    assert!(doc["loss"].as_f64() > doc["loss_limit"].as_f64() && warnings(&doc).is_empty(), "{doc}");
}

#[test]
fn dictionaries_are_checked_beside_their_model() {
    let doc = document(&["check", "-m", "text", "--dictionary", "text-features"]);
    let d = &doc["dictionaries"][0];
    assert!(d["explained_variance"].as_f64() > Some(0.7) && d["l0"].as_f64() > Some(10.0), "{d}");
    assert_eq!((&d["promised_l0"], &d["positions"]), (&json!(24.0), &json!(255)));
    assert!(warnings(&doc).is_empty());
    // The same dictionary on a model whose tokens are mixed up, and at another layer, explains less.
    let dir = tempfile::tempdir().expect("a folder");
    let bad = mixed_up(&dir.path().join("mixed-up"));
    let other = document(&["check", "-m", &bad, "--dictionary", "text-features"]);
    assert!(other["dictionaries"][0]["explained_variance"].as_f64() < d["explained_variance"].as_f64());
    // What speaks against it stands beside every number that comes from it.
    let speaks = |doc: &Value| warnings(doc).iter().filter(|w| w.contains("ictionary")).count();
    let out = dir.path().join("f.safetensors");
    let encode = ["features", "encode", "-p", "a", "--dictionary", "text-features", "-o", out.to_str().unwrap(), "-m"];
    let said = document(&[&encode[..], &[&bad]].concat());
    assert_eq!(speaks(&said), speaks(&other), "{said} {other}");
    assert!(warnings(&document(&[&encode[..], &["text"]].concat())).is_empty());
}
