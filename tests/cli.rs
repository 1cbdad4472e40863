//! The command line as a user meets it: documents, exit statuses, one-sentence errors.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::process::{Command, Output};

use common::fixture;
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_circuitscope")).args(args).output().unwrap()
}

/// The one JSON document on stdout.
fn json(args: &[&str]) -> Value {
    let out = run(&[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

/// Exit status and the sentence on stderr; stdout must stay empty.
fn error(args: &[&str]) -> (i32, String) {
    let out = run(args);
    assert!(out.stdout.is_empty(), "{args:?}");
    (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
}

const PROMPT: &str = "The President of the United";

#[test]
fn run_gives_tokens_next_and_loss() {
    let doc = json(&["run", "-p", PROMPT, "--top", "3"]);
    assert_eq!(doc["model"]["name"], "induction");
    assert_eq!(doc["model"]["n_layers"], 2);
    assert_eq!(doc["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(doc["tokens"][4]["text"], " United");
    assert_eq!(doc["next"].as_array().unwrap().len(), 3);
    assert_eq!(doc["next"][0]["text"], " States");
    assert!(doc["loss"].as_f64().unwrap() > 0.0);
    assert!(doc["seconds"].is_number() && doc["load_seconds"].is_number());
    assert!(json(&["run", "--ids", "5"])["loss"].is_null());
    assert!(json(&["run", "-p", "- a list"])["loss"].is_number());
}

#[test]
fn captured_sites_are_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sites.safetensors");
    let file = path.to_str().unwrap();
    let doc = json(&[
        "run",
        "-p",
        PROMPT,
        "--capture",
        "blocks.*.hook_resid_post",
        "--capture",
        "blocks.1.attn.hook_pattern",
        "-o",
        file,
    ]);
    assert_eq!(doc["captured"].as_array().unwrap().len(), 3);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("blocks.0.hook_resid_post").unwrap().shape(), [5, 128]);
    let pattern = tensors.tensor("blocks.1.attn.hook_pattern").unwrap();
    assert_eq!(pattern.shape(), [4, 5, 5]);
    let rows: Vec<f32> = pattern.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(rows.chunks(5).all(|r| (r.iter().sum::<f32>() - 1.0).abs() < 1e-5));
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert!(metadata.metadata().as_ref().unwrap()["ids"].starts_with('['));

    let other = folder.path().join("none.safetensors");
    let (code, text) = error(&["run", "-p", PROMPT, "--capture", "blocks.7.*", "-o", other.to_str().unwrap()]);
    assert!(code == 2 && text.contains("blocks.7.*") && !other.exists(), "{text}");
    let (code, _) = error(&["run", "-p", PROMPT, "--capture", "hook_embed", "-o", "/no/such/folder/x.safetensors"]);
    assert_eq!(code, 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lens_and_dla_agree_with_the_run() {
    let doc = json(&["lens", "-p", PROMPT, "--answer", " States", "--wrong", " man"]);
    assert_eq!(doc["axes"], serde_json::json!(["layer", "pos"]));
    assert_eq!(doc["top1_text"][1][4], " States");
    assert_eq!(doc["answer_rank"][1][4], 0);
    let last = doc["logit_difference"][1][4].as_f64().unwrap();
    let dla = json(&["dla", "-p", PROMPT, "--answer", " States", "--wrong", " man"]);
    let sum = dla["sum"].as_f64().unwrap();
    assert!((sum - last).abs() < 1e-3, "{sum} against {last}");
    let p = &dla["parts"];
    let heads: f64 =
        p["heads"].as_array().unwrap().iter().flat_map(|r| r.as_array().unwrap()).map(|v| v.as_f64().unwrap()).sum();
    let parts = heads + p["embed"].as_f64().unwrap() + p["pos_embed"].as_f64().unwrap() + p["biases"].as_f64().unwrap();
    assert!((parts - sum).abs() < 1e-3);
    assert_eq!(json(&["lens", "-p", PROMPT, "--pos", "2"])["top1_id"][0].as_array().unwrap().len(), 1);
}

#[test]
fn head_scores_name_the_circuit() {
    let doc = json(&["heads"]);
    assert_eq!(doc["measure"], "diagonal");
    assert_eq!(doc["seed"], 0);
    let best = |score: &str, layer: usize| {
        doc["scores"][score]["values"][layer]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .fold(0.0, f64::max)
    };
    assert!(best("previous", 0) > 0.6 && best("induction", 1) > 0.6);
    assert_eq!(json(&["heads", "-p", PROMPT])["measure"], "detector");
}

#[test]
fn models_lists_the_default_first() {
    assert_eq!(json(&["models"])["models"][0]["name"], "induction");
    let text = String::from_utf8(run(&["models"]).stdout).unwrap();
    assert!(text.contains("CC0"));
}

#[test]
fn tables_are_readable() {
    for args in [
        &["run", "-p", PROMPT][..],
        &["lens", "-p", PROMPT, "--pos", "all"],
        &["dla", "-p", PROMPT, "--answer", " States"],
        &["heads"],
    ] {
        let out = run(args);
        assert!(out.status.success());
        assert!(String::from_utf8(out.stdout).unwrap().lines().count() > 3, "{args:?}");
    }
}

#[test]
fn ids_work_without_a_tokenizer() {
    let model = fixture("families/gpt2");
    let model = model.to_str().unwrap();
    let doc = json(&["run", "-m", model, "--ids", "1,2,3"]);
    assert_eq!(doc["tokens"][1]["text"], "2");
    let (code, text) = error(&["run", "-m", model, "-p", "words"]);
    assert!(code == 2 && text.contains("--ids"), "{text}");
    assert!(json(&["dla", "-m", model, "--ids", "1,2,3", "--answer", "7"])["sum"].is_number());
}

#[test]
fn wrong_requests_exit_with_2_and_one_sentence() {
    for (args, word) in [
        (&["run"][..], "prompt"),
        (&["run", "-p", ""], "empty"),
        (&["run", "--ids", "99999"], "99999"),
        (&["run", "-m", "nowhere.gguf", "-p", "a"], "nowhere.gguf"),
        (&["lens", "-p", PROMPT, "--pos", "77"], "77"),
        (&["dla", "-p", PROMPT, "--answer", " two words"], "not one token"),
        (&["heads", "--length", "1"], "--length"),
        (&["heads", "--length", "9223372036854775808"], "--length"),
        (&["run", "--ids", "x"], "--ids"),
        (&["run", "--ids", "5", "--bos"], "--bos"),
        (&["lab", "train", "induction", "--steps", "0"], "--steps"),
        (&["lab", "train", "nothing"], "induction"),
        (&["run", "-p", PROMPT, "-o", "x.safetensors"], "--capture"),
    ] {
        let (code, text) = error(args);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(word) && text.trim_end().lines().count() == 1, "{args:?}: {text}");
    }
    let long = "word ".repeat(600);
    let (code, text) = error(&["run", "-p", &long]);
    assert!(code == 2 && text.contains("512"), "{text}");
    assert_eq!(run(&["frobnicate"]).status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn invalid_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let bad = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let out = Command::new(env!("CARGO_BIN_EXE_circuitscope")).args(["run", "-p"]).arg(bad).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("UTF-8"));
}

#[test]
fn bench_reports_ratios() {
    let doc = json(&["bench", "--repeat", "1"]);
    assert!(doc["forward"][0]["share_of_gemm_peak"].is_number());
    assert!(doc["short_forward_over_stream"].is_number());
}

#[cfg(feature = "gui")]
#[test]
fn render_draws_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lens.png");
    let out = run(&["render", "--view", "lens", "-p", PROMPT, "--size", "400x300", "-o", path.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(&std::fs::read(&path).unwrap()[..4], b"\x89PNG");
    let path = folder.path().join("lens.svg");
    let out = run(&["render", "--view", "lens", "-p", PROMPT, "--size", "400x300", "-o", path.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(&path).unwrap();
    // Five positions of two layers, and the tokens as text.
    assert!(text.contains("<svg") && text.matches("<rect").count() > 10 && text.contains("·States"), "{text}");
    // A set is what a graph is traced to.
    let graph = folder.path().join("graph.svg");
    let drawn = |more: &[&str]| {
        let prompt = ["render", "--view", "graph", "-m", "text", "-p", "I am sure that she must", "-o"];
        let out = run(&[&prompt[..], &[graph.to_str().unwrap()], more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::read_to_string(&graph).unwrap()
    };
    let (features, components) = (drawn(&["--dictionary", "text-transcoders"]), drawn(&[]));
    assert!(components.contains("MLP 0") && features.contains("text-transcoders"), "{features}");
    let picture = path.to_str().unwrap();
    for (more, word) in
        [(["-p", ""], "empty"), (["--answer", " two words"], "not one token"), (["-m", "nowhere"], "nowhere")]
    {
        let (code, text) = error(&[&["render", "--view", "lens", "-o", picture], &more[..]].concat());
        assert!(code == 2 && text.contains(word), "{text}");
    }
    for args in [["--view", "nothing", "-o", "x.png"], ["--view", "lens", "-o", "x.gif"]] {
        let (code, _) = error(&[&["render"][..], &args].concat());
        assert_eq!(code, 2);
    }
}

/// A picture takes one reading of the weights, as every other command does.
#[cfg(target_os = "linux")]
#[test]
fn render_opens_the_model_once() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("families/gemma2").join(name), dir.path().join(name)).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let mut watch = inotify::Inotify::init().unwrap();
    watch.watches().add(&weights, inotify::WatchMask::OPEN).unwrap();
    let picture = dir.path().join("norms.png");
    let [model, picture] = [dir.path(), &picture].map(|p| p.to_str().unwrap());
    let out = run(&["render", "-m", model, "--ids", "1,2,3", "--view", "norms", "-o", picture]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(watch.read_events(&mut [0; 4096]).unwrap().count(), 1);
}

#[test]
fn sessions_are_written_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.scope");
    let path = path.to_str().unwrap();
    let out = run(&["session", "new", "-m", "induction", "-p", "The first of", "--answer", " the", "-o", path]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let document = json(&["session", "show", path]);
    assert_eq!((&document["desk"]["prompt"], &document["desk"]["answer"]), (&"The first of".into(), &" the".into()));
    let text = String::from_utf8(run(&["session", "show", path]).stdout).unwrap();
    assert!(text.contains("\"The first of\"") && text.contains("induction"), "{text}");
    // A picture of it; what is no session is one sentence.
    let picture = folder.path().join("a.svg");
    let out = run(&["render", path, "--view", "norms", "-o", picture.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // What can be dropped on the window opens beside the model that a window begins with.
    for (file, view, shows) in [
        ("graphs/meow-clt.json", "graph", "bark"),
        ("activations/transformer-lens.safetensors", "dictionary-training", "transformer-lens.safetensors"),
    ] {
        let (file, picture) = (fixture(file), picture.to_str().unwrap());
        let out = run(&["render", file.to_str().unwrap(), "--view", view, "-o", picture]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let drawn = std::fs::read_to_string(picture).unwrap();
        assert!(drawn.contains(shows), "{file:?} is not in the picture of {view}");
    }
    assert!(error(&["session", "show", "/none/b.scope"]).1.contains("cannot read"));
    assert!(error(&["lenss"]).1.contains("neither a subcommand nor a session file or another that is there"));
    assert_eq!(error(&[path, "-p", "x"]).0, 2);
    // A file that is no session is a model; one that is not there is no file.
    let (model, other) = (fixture("families/llama"), folder.path().join("b.scope"));
    let (model, other) = (model.to_str().unwrap(), other.to_str().unwrap());
    assert!(run(&["session", "new", model, "-o", other]).status.success());
    assert_eq!(json(&["session", "show", other])["desk"]["model"], model);
    assert_eq!(error(&["/none/b.gguf"]).0, 2);
}

#[test]
fn sessions_are_written_as_python() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.scope");
    let path = path.to_str().unwrap();
    let model = fixture("families/llama");
    let model = model.to_str().unwrap();
    let out = run(&["session", "new", "-m", model, "--ids", "5,9,23", "--answer", "50", "-o", path]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for what in ["run", "pattern", "ablation", "attribution", "lens"] {
        let out = run(&["session", "code", path, "--what", what]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.starts_with("# ") && text.contains("[[5, 9, 23]]"), "{text}");
    }
    let (status, text) = error(&["session", "code", path, "--what", "patching"]);
    assert!(status == 2 && text.contains("corrupted prompt"), "{text}");
}

#[test]
fn no_display_says_so() {
    let out = Command::new(env!("CARGO_BIN_EXE_circuitscope"))
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env_remove("WAYLAND_SOCKET")
        .output()
        .unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    if cfg!(all(feature = "gui", target_os = "linux")) {
        assert_eq!(out.status.code(), Some(1));
        assert!(text.contains("display") && text.trim_end().lines().count() == 1, "{text}");
    }
}

#[test]
fn superposition_keeps_the_contract() {
    let doc = json(&[
        "superposition",
        "--features",
        "5",
        "--hidden",
        "2",
        "--sparsity",
        "0,0.9",
        "--importance",
        "0.9",
        "--steps",
        "50",
        "--seed",
        "3",
    ]);
    let instances = doc["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2);
    for i in instances {
        assert!(i["sparsity"].is_number() && i["loss"].as_f64().unwrap() > 0.0 && i["d_star"].is_number());
        // W is [hidden][feature].
        assert_eq!(i["W"].as_array().unwrap().len(), 2);
        for list in [&i["W"][0], &i["b"], &i["norm"], &i["dimensionality"]] {
            assert_eq!(list.as_array().unwrap().len(), 5);
        }
    }
    assert_eq!(doc["setup"]["instances"][0]["importance"][1], 0.9f32 as f64);
    let preset = json(&["superposition", "--preset", "correlated", "--steps", "20"]);
    assert_eq!(preset["instances"].as_array().unwrap().len(), 10);
}

#[test]
fn impossible_toy_models_are_one_sentence() {
    for (args, part) in [
        (&["--features", "5", "--hidden", "2", "--sparsity", "1"][..], "below 1"),
        (&["--features", "0", "--hidden", "2", "--sparsity", "0.5"], "at least 1"),
        (&["--features", "99999999999", "--hidden", "99999999999", "--sparsity", "0.5"], "memory"),
        (&["--features", "5", "--hidden", "2", "--sparsity", "0.5", "--steps", "0"], "0 steps"),
        (&["--features", "5", "--hidden", "2", "--sparsity", "0.5", "--batch", "0"], "batch"),
        (&["--features", "5", "--hidden", "2", "--sparsity", "0.5", "--importance", "NaN"], "importance"),
        (&["--features", "4", "--hidden", "2", "--sparsity", "0.5", "--anticorrelated", "4"], "raise the sparsity"),
        (&["--features", "4", "--hidden", "2", "--sparsity", "0.5", "--correlated", "0"], "group"),
        (&["--preset", "nonsense"], "there are pentagon"),
    ] {
        let (status, text) = error(&[&["superposition"], args].concat());
        assert_eq!(status, 2, "{args:?}: {text}");
        assert!(text.contains(part) && text.trim().lines().count() == 1, "{args:?}: {text}");
    }
}
