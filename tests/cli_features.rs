//! `features` and `direction` on the command line.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn run(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_circuitscope")).args(args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

fn json(args: &[&str]) -> Value {
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn refused(args: &[&str], code: i32, part: &str) {
    let (found, out, err) = run(args);
    assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {err}");
    assert!(err.contains(part) && err.trim_end().lines().count() == 1, "{args:?}: {err}");
}

fn fixture(name: &str) -> String {
    format!("{}/tests/dictionaries/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn encode_gives_what_saelens_gives() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    for name in ["standard", "topk", "gated", "transcoder-jumprelu"] {
        let e = candle_core::safetensors::load(
            Path::new(&fixture(name)).join("expected.safetensors"),
            &candle_core::Device::Cpu,
        )
        .unwrap();
        let x = path("x.safetensors");
        candle_core::safetensors::save(&std::collections::HashMap::from([("activations", e["x"].clone())]), &x)
            .unwrap();
        let out = path("out.safetensors");
        let doc =
            json(&["features", "encode", "--dictionary", &fixture(name), "--activations", &x, "-o", &out, "--json"]);
        assert_eq!(doc["dictionary"]["d_sae"], 40);
        let made = candle_core::safetensors::load(&out, &candle_core::Device::Cpu).unwrap();
        assert_eq!(made.len(), 2);
        for part in ["features", "reconstruction"] {
            let gap: f32 = (&made[part] - &e[part]).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            assert!(gap < 1e-4, "{name} {part}: {gap}");
        }
    }
    refused(&["features", "encode", "--dictionary", &fixture("standard"), "-p", "a b"], 2, "[16]");
    refused(&["features", "encode", "--dictionary", &fixture("standard")], 2, "nothing to encode");
    refused(&["features", "encode", "--dictionary", "/no/such"], 1, "/no/such");
    refused(&["features", "encode", "--dictionary", &fixture("standard"), "--site", "blocks.x"], 2, "blocks.x");
}

/// The whole way: train, judge, index in parts, merge, show, steer; stopped and gone on with where that is possible.
#[test]
fn a_dictionary_from_text_to_steering() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let (sae, keep) = (path("sae"), path("keep"));
    let train = [
        "features",
        "train",
        "--site",
        "blocks.0.hook_resid_post",
        "--text",
        "prose",
        "--tokens",
        "6000",
        "--features",
        "96",
        "-k",
        "8",
        "--steps",
        "60",
        "--batch",
        "256",
        "--keep",
        &keep,
        "-o",
        &sae,
        "--json",
    ];
    let doc = json(&train);
    assert_eq!(doc["dictionary"]["architecture"], "topk");
    assert_eq!(doc["dictionary"]["input"], "blocks.0.hook_resid_post");
    let q = &doc["quality"];
    assert!(q["after_first"]["l0"].as_f64().unwrap() <= 8.0);
    assert!(q["after_first"]["explained_variance"].as_f64().unwrap() > 0.1, "{q}");
    assert!(q["ce_score"].as_f64().unwrap() > 0.0);
    for file in ["cfg.json", "sae_weights.safetensors", "CARD.md"] {
        assert!(Path::new(&sae).join(file).is_file());
    }
    assert!(!Path::new(&sae).join("training-state.safetensors").exists());
    assert!(std::fs::read_to_string(Path::new(&sae).join("CARD.md")).unwrap().contains("explained variance"));
    // The activations that were kept serve again; another text's are refused.
    let again = json(&train);
    assert_eq!(again["positions"], doc["positions"]);
    let other: Vec<&str> = train.iter().map(|a| if *a == "6000" { "5000" } else { a }).collect();
    refused(&other, 2, "choose another --keep");

    let eval = json(&["features", "eval", "--dictionary", &sae, "--text", "prose", "--tokens", "6000", "--json"]);
    let same = eval["quality"]["after_first"]["explained_variance"].as_f64().unwrap();
    assert!((same - q["after_first"]["explained_variance"].as_f64().unwrap()).abs() < 1e-3);

    let scan = |shard: &str, out: &str| {
        json(&[
            "features",
            "dashboard",
            "--dictionary",
            &sae,
            "--text",
            "prose",
            "--tokens",
            "4000",
            "--shard",
            shard,
            "-o",
            out,
            "--json",
        ])
    };
    let whole = scan("0/1", &path("whole.arrow"));
    assert_eq!(whole["indexes"][0]["features"], 96);
    scan("0/2", &path("a.arrow"));
    scan("1/2", &path("b.arrow"));
    let (code, _, err) = run(&["features", "merge", &path("a.arrow"), &path("b.arrow"), "-o", &path("both.arrow")]);
    assert_eq!(code, 0, "{err}");
    let show = |index: &str, f: &str| {
        json(&["features", "show", &path(index), "--feature", f, "--dictionary", &sae, "--json"])
    };
    let densest = (0..96)
        .max_by_key(|f| (show("whole.arrow", &f.to_string())["activation_frequency"].as_f64().unwrap() * 1e6) as u64)
        .unwrap()
        .to_string();
    let (a, b) = (show("whole.arrow", &densest), show("both.arrow", &densest));
    assert_eq!(a["act_max"], b["act_max"]);
    assert_eq!(a["examples_quantiles"], b["examples_quantiles"]);
    assert_eq!(a["top_logits"].as_array().unwrap().len(), 10);
    let top = &a["examples_quantiles"][0];
    assert_eq!(top["quantile_name"], "Top activations");
    let example = &top["examples"][0];
    assert_eq!(example["tokens"].as_array().unwrap().len(), example["tokens_acts_list"].as_array().unwrap().len());
    let (code, text, _) = run(&["features", "show", &path("whole.arrow"), "--feature", &densest, "--dictionary", &sae]);
    assert!(code == 0 && text.contains("promotes") && text.contains("correlated features"), "{text}");
    refused(&["features", "show", &path("whole.arrow"), "--feature", "96"], 2, "0 to 95");
    refused(&["features", "dashboard", "--dictionary", &sae, "-o", &path("x.arrow"), "--shard", "2/2"], 2, "I/N");
    refused(&["features", "merge", &path("a.arrow"), &path("a.arrow"), "-o", &path("x.arrow")], 2, "twice");

    let steer = json(&[
        "features",
        "steer",
        "--dictionary",
        &sae,
        "--feature",
        &densest,
        "-p",
        "The house of the",
        "--alpha=-1,0,1",
        "--towards",
        " the",
        "--away",
        " a",
        "--reference",
        "prose",
        "--reference-tokens",
        "200",
        "--generate",
        "3",
        "--json",
    ]);
    let doses = steer["doses"].as_array().unwrap();
    assert_eq!(doses.len(), 3);
    assert!(doses[1]["kl"].as_f64().unwrap() < 1e-6, "no dose moves nothing");
    assert!(doses[2]["kl"].as_f64().unwrap() > 0.0);
    assert!(doses[0]["loss"].as_f64().unwrap() > 0.0);
    assert_eq!(steer["generated"].as_array().unwrap().len(), 2);
    refused(&["features", "steer", "--dictionary", &sae, "--feature", "96", "-p", "The"], 2, "0 to 95");
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x").to_str().unwrap().to_owned();
    let train = |more: &[&str]| {
        let mut args = vec!["features", "train", "--site", "blocks.0.hook_resid_post", "-o", &out, "--tokens", "1000"];
        args.extend(more);
        args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    };
    let refuse = |more: &[&str], part: &str| {
        let args = train(more);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 2, part);
    };
    refuse(&["--method", "magic"], "batchtopk");
    refuse(&["-k", "0"], "k = 0");
    refuse(&["--steps", "0"], "trains nothing");
    refuse(&["--rate", "nan"], "rate");
    refuse(&["--target", "blocks.0.hook_mlp_out", "--method", "topk"], "SAELens has no");
    refused(&["features", "train", "--site", "blocks.9.hook_resid_post", "-o", &out], 2, "layer 9");
    refused(&["features", "train", "--site", "blocks.0.attn.hook_pattern", "-o", &out], 2, "no vector");
    let empty = dir.path().join("empty.txt").to_str().unwrap().to_owned();
    circuitscope::files::write_atomic(Path::new(&empty), b"\n").unwrap();
    refuse(&["--text", &empty], "no text");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_direction_is_found_read_compared_and_steered_along() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let (set, file) = (path("set.tsv"), path("direction.json"));
    let rows: String = (0..24)
        .map(|i| {
            format!(
                "{}\t{}\n",
                i % 2,
                if i % 2 == 1 { format!("the King of {i}") } else { format!("a small house {i}") }
            )
        })
        .collect();
    circuitscope::files::write_atomic(Path::new(&set), format!("label\ttext\n{rows}").as_bytes()).unwrap();
    for method in ["difference-of-means", "logistic-regression", "pca-of-differences"] {
        let doc = json(&["direction", "find", "--set", &set, "--method", method, "-o", &file, "--json"]);
        let layers = doc["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        assert!(layers[0]["auc"].as_f64().unwrap() > 0.9, "{method}: {doc}");
        assert!(layers[0]["control_auc"].as_f64().unwrap() < 0.9);
    }
    let read = json(&["direction", "read", &file, "-p", "the King of the house", "--layer", "0", "--json"]);
    assert_eq!(read["values"].as_array().unwrap().len(), read["tokens"].as_array().unwrap().len());
    let steer = json(&[
        "direction",
        "steer",
        &file,
        "-p",
        "He saw the",
        "--layer",
        "1",
        "--alpha=-1,0,1",
        "--towards",
        " the",
        "--away",
        " a",
        "--json",
    ]);
    assert_eq!(steer["doses"].as_array().unwrap().len(), 3);
    refused(&["direction", "read", &file, "-p", "x", "--layer", "7"], 2, "layer 7");
    refused(&["direction", "find", "--set", &set, "--pool", "median"], 2, "median");
    refused(&["direction", "find", "--set", &set, "--site", "nowhere"], 2, "nowhere");
    refused(&["direction", "read", &set, "-p", "x"], 1, "set.tsv");
    let words =
        |name: &str, text: &str| circuitscope::files::write_atomic(Path::new(&path(name)), text.as_bytes()).unwrap();
    words("with.txt", "king\nqueen\nprince\ncrown\nthrone\n");
    words("without.txt", "dog\ntree\nstone\nriver\nhouse\n");
    let doc = json(&[
        "direction",
        "find",
        "--with",
        &path("with.txt"),
        "--without",
        &path("without.txt"),
        "--pool",
        "last",
        "--json",
    ]);
    assert_eq!((doc["train"].as_u64(), doc["test"].as_u64()), (Some(8), Some(2)));
}
