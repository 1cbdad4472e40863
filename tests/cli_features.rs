//! `features` and `direction` on the command line.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use circuitscope::features::labels::{Label, Labels, Unit, of_model};
use serde_json::Value;

fn run(args: &[&str]) -> (i32, String, String) {
    // Not by what whoever runs this has named.
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-data");
    let out = Command::new(env!("CARGO_BIN_EXE_circuitscope")).env("XDG_DATA_HOME", data).args(args).output().unwrap();
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
#[expect(clippy::too_many_lines, reason = "one way from its beginning to its end")]
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
    // A finished dictionary is not trained over.
    refused(&train, 2, "holds a finished dictionary");
    // The activations that were kept serve again; another text's are refused.
    let next = path("next");
    let train: Vec<&str> = train.iter().map(|a| if *a == sae { &next } else { *a }).collect();
    let again = json(&train);
    assert_eq!(again["positions"], doc["positions"]);
    std::fs::remove_dir_all(&next).unwrap();
    let other: Vec<&str> = train.iter().map(|a| if *a == "6000" { "5000" } else { a }).collect();
    refused(&other, 2, "choose another --keep");

    let eval = json(&["features", "eval", "--dictionary", &sae, "--text", "prose", "--tokens", "6000", "--json"]);
    assert_eq!(eval["held_out"], true);
    let other = json(&["features", "eval", "--dictionary", &sae, "--text", "prose", "--tokens", "4000", "--json"]);
    assert!(other["held_out"].is_null());
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
    let both = json(&["features", "merge", &path("a.arrow"), &path("b.arrow"), "-o", &path("both.arrow"), "--json"]);
    assert_eq!(both["about"]["positions"], whole["indexes"][0]["about"]["positions"]);
    // A part without any text is a part all the same, and the whole is complete with it.
    let parts: Vec<String> = (0..12).map(|i| path(&format!("part-{i}.arrow"))).collect();
    parts.iter().enumerate().for_each(|(i, p)| drop(scan(&format!("{i}/12"), p)));
    let mut merge = vec!["features", "merge", "--json", "-o"];
    let twelve = path("twelve.arrow");
    merge.push(&twelve);
    merge.extend(parts.iter().map(String::as_str));
    assert_eq!(json(&merge)["about"]["positions"], both["about"]["positions"]);
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

/// A transcoder reads an MLP's input and writes its output; what it learned is judged, encoded and indexed beside neurons
/// and a direction, all in one pass.
#[test]
fn a_transcoder_from_text_to_several_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let (transcoder, directions) = (path("transcoder"), path("direction.json"));
    let text = ["-m", "text", "--text", "mixed", "--tokens", "12000"];
    let mut train = vec!["features", "train", "--site", "blocks.1.mlp.hook_in", "--target", "blocks.1.hook_mlp_out"];
    train.extend([
        "--method",
        "batchtopk",
        "--features",
        "128",
        "-k",
        "12",
        "--steps",
        "300",
        "--batch",
        "256",
        "--rate",
        "0.003",
    ]);
    train.extend(["--warmup", "10", "--fall", "0.3", "-o", &transcoder, "--json"]);
    train.extend(text);
    let doc = json(&train);
    assert_eq!(doc["dictionary"]["input"], "blocks.1.mlp.hook_in");
    assert_eq!(doc["dictionary"]["output"], "blocks.1.hook_mlp_out");
    assert_eq!(doc["settings"]["warmup"], 10);
    let q = &doc["quality"];
    assert!(q["after_first"]["explained_variance"].as_f64().unwrap() > 0.1, "{q}");
    assert!(q["ce_score"].as_f64().unwrap() > 0.2, "{q}");
    let mut eval = vec!["features", "eval", "--dictionary", &transcoder, "--json"];
    eval.extend(text);
    let same = &json(&eval)["quality"]["after_first"]["explained_variance"];
    let gap = same.as_f64().unwrap() - q["after_first"]["explained_variance"].as_f64().unwrap();
    assert!(gap.abs() < 1e-3, "{gap}");
    let encoded =
        json(&["features", "encode", "--dictionary", &transcoder, "-m", "text", "-p", "the king of", "--json"]);
    assert!(encoded["top"].as_array().is_some_and(|top| !top.is_empty()), "{encoded}");

    let set: String = (0..16)
        .map(|i| format!("{}\t{} of {i}\n", i % 2, if i % 2 == 1 { "the King" } else { "a small house" }))
        .collect();
    circuitscope::files::write_atomic(Path::new(&path("set.tsv")), format!("label\ttext\n{set}").as_bytes()).unwrap();
    json(&["direction", "find", "-m", "text", "--set", &path("set.tsv"), "-o", &directions, "--json"]);
    let indexes = path("indexes");
    let direction = format!("{directions}@1");
    let mut scan =
        vec!["features", "dashboard", "--dictionary", &transcoder, "--neurons", "1", "--direction", &direction];
    scan.extend(["-o", &indexes, "--json"]);
    scan.extend(text);
    let made = json(&scan);
    let made = made["indexes"].as_array().unwrap();
    assert_eq!(made.iter().map(|i| i["features"].as_u64().unwrap()).collect::<Vec<_>>(), [128, 384, 1]);
    // Neurons are correlated with neurons under that name, and with the dictionary's features.
    let index = |k: usize| made[k]["output"].as_str().unwrap();
    let neuron = json(&["features", "show", index(1), "-m", "text", "--feature", "3", "--json"]);
    assert!(neuron["features"].as_array().unwrap().iter().all(|p| p[0].as_u64().unwrap() < 128), "{neuron}");
    assert!(!neuron["neurons"].as_array().unwrap().is_empty());
    assert_eq!(neuron["about"]["features_of"].as_str(), Some(transcoder.as_str()));
    // What the window called it: in the user's data, by the model's weights.
    #[cfg(target_os = "linux")]
    {
        let model = circuitscope::model::Model::open("text").unwrap();
        let file = of_model(&dir.path().join("circuitscope").join("features"), &model).unwrap();
        let mut labels = Labels::default();
        labels.set(Unit::Neuron(1, 3), Label { label: "endings".to_owned(), note: "seen twice".to_owned() });
        labels.save(&file).unwrap();
        let show = |more: &[&str]| {
            let mut show = Command::new(env!("CARGO_BIN_EXE_circuitscope"));
            show.env("XDG_DATA_HOME", dir.path()).args(["features", "show", index(1), "-m", "text", "--feature", "3"]);
            String::from_utf8(show.args(more).output().unwrap().stdout).unwrap()
        };
        assert!(show(&[]).contains("label: endings seen twice"));
        let page: Value = serde_json::from_str(&show(&["--json"])).unwrap();
        assert_eq!(page["label"]["label"], "endings");
        assert!(neuron["label"].is_null(), "{neuron}");
    }
    let page = json(&["features", "show", index(2), "-m", "text", "--json"]);
    assert!(page["act_max"].as_f64().unwrap() > 0.0 && !page["neurons"].as_array().unwrap().is_empty(), "{page}");
    assert!(page["load_seconds"].is_number() && page["model"].is_object(), "{page}");
    // The index of another dictionary is refused, even where it has as many features at the same site.
    refused(&["features", "show", index(0), "-m", "text", "--dictionary", "text-features"], 2, "another dictionary");

    let read = json(&["direction", "read", &directions, "-m", "text", "--text", "mixed", "--tokens", "600", "--json"]);
    let words = read["words"].as_array().unwrap();
    assert!(words.len() > 100 && words.iter().all(|w| w["value"].is_number() && w["word"].is_string()));
    let (code, out, _) = run(&["direction", "read", &directions, "-m", "text", "--text", "mixed", "--tokens", "600"]);
    assert!(code == 0 && out.contains("words"), "{out}");
    let ablated = json(&["direction", "steer", &directions, "-m", "text", "-p", "the king", "--ablate", "--json"]);
    let doses = ablated["doses"].as_array().unwrap();
    assert!(doses.len() == 2 && doses[0]["kl"].as_f64().unwrap() < 1e-6 && doses[1]["kl"].as_f64().unwrap() > 0.0);
    // The last of three positions alone.
    let some = |at: &str| {
        let args = ["direction", "steer", &directions, "-m", "text", "-p", "the king", "--alpha=2", "--positions", at];
        json(&[&args[..], &["--json"]].concat())["doses"][0]["kl"].as_f64().unwrap()
    };
    assert!(some("0") != some("all") && some("generated") < 1e-6);
    refused(&["direction", "steer", &directions, "-m", "text", "-p", "x", "--positions", "here"], 2, "no position");
    refused(&["direction", "read", &directions, "-p", "x"], 2, "was found in");
}

/// One layer's transcoder in SAELens' format, a set whose harvest is kept, and what no format holds.
#[test]
fn sets_are_written_as_asked_and_their_harvest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let (one, set, again, keep) = (path("one"), path("set"), path("again"), path("keep"));
    fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let few =
            ["--text", "prose", "--tokens", "3000", "--features", "32", "-k", "4", "--steps", "4", "--batch", "64"];
        [&["features", "train", "-m", "text"], &few[..], more].concat()
    }
    let doc = json(&train(&["--layers", "1", "--format", "saelens", "-o", &one, "--json"]));
    assert_eq!(doc["dictionary"]["input"], "blocks.1.mlp.hook_in");
    assert_eq!(doc["dictionary"]["output"], "blocks.1.mlp.hook_out");
    assert!(Path::new(&one).join("cfg.json").is_file() && Path::new(&one).join("sae_weights.safetensors").is_file());
    refused(&train(&["--layers", "0-1", "--format", "saelens", "-o", &set]), 2, "--layers 0-1");
    refused(&train(&["--layers", "all", "--format", "saelens", "-o", &set]), 2, "name one layer");
    let site = ["--site", "blocks.1.hook_resid_post", "--format", "circuit-tracer", "-o", &set];
    refused(&train(&site), 2, "--layers");

    let doc = json(&train(&["--layers", "1-2", "--keep", &keep, "-o", &set, "--json"]));
    assert!(doc["warnings"].to_string().contains("layers 1 to 2 alone"), "{}", doc["warnings"]);
    let file = Path::new(&keep).join("harvest-1-2.safetensors");
    let same = json(&train(&["--layers", "1-2", "--keep", &keep, "--seed", "7", "-o", &again, "--json"]));
    assert_eq!(same["positions"], doc["positions"]);
    assert!(file.is_file());
    // What is kept is what is harvested without: the same set comes of it.
    let plain = path("plain");
    json(&train(&["--layers", "1-2", "-o", &plain, "--json"]));
    let layer = |folder: &str| std::fs::read(Path::new(folder).join("layer_2.safetensors")).unwrap();
    assert_eq!(layer(&plain), layer(&set));
    let other = ["--layers", "1-2", "--keep", &keep, "--context", "64", "-o", &path("other")].map(str::to_owned);
    refused(&train(&other.each_ref().map(String::as_str)), 2, "harvest-1-2.safetensors");
}

/// Where a disk takes no more, one sentence says so, and what was there before is as it was. A limit on the size of files
/// stands in for the disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_earlier_results_intact() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let program = env!("CARGO_BIN_EXE_circuitscope");
    let limited = |blocks: u32, args: &[&str]| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let out = Command::new("sh").args(["-c", &script, program]).args(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let sae = path("sae");
    let train = |steps: &str| {
        let args =
            "features train -m text --site blocks.1.hook_resid_post --features 512 -k 8 --batch 128 --tokens 3000";
        let mut args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        args.extend(["--steps", steps, "-o", &sae].map(str::to_owned));
        args
    };
    // A checkpoint, as a kill would leave it: the first at step 200, then the disk is full.
    let (_, text) = limited(u32::MAX / 512, &["--version"]);
    assert!(text.is_empty(), "{text}");
    let ask = train("100000");
    let mut child = Command::new(program).args(&ask).stderr(Stdio::null()).spawn().unwrap();
    let state = Path::new(&sae).join("training-state.safetensors");
    while !state.is_file() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = std::fs::read(&state).unwrap();
    let listed = || std::fs::read_dir(&sae).unwrap().map(|e| e.unwrap().file_name()).collect::<BTreeSet<_>>();
    let files = listed();
    let refs: Vec<&str> = ask.iter().map(String::as_str).collect();
    let (code, message) = limited(64, &refs);
    assert_eq!(code, Some(1), "{message}");
    let last = message.lines().last().unwrap_or_default();
    assert!(last.contains("cannot write") && last.contains("training-state"), "{message}");
    assert_eq!(std::fs::read(&state).unwrap(), before);
    assert_eq!(listed(), files, "nothing half-written stays");

    let index = path("index.arrow");
    let scan =
        ["features", "dashboard", "-m", "text", "--dictionary", "text-features", "--tokens", "3000", "-o", &index];
    let (code, message) = limited(64, &scan);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.lines().last().unwrap_or_default().contains("cannot write"), "{message}");
    assert!(!Path::new(&index).exists());
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
    refuse(&["--target", "blocks.0.hook_mlp_out", "--method", "topk"], "no format has");
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
    // What heads hold is as wide as the stream, and another space.
    let heads = path("heads.json");
    json(&["direction", "find", "-m", "text", "--set", &set, "--site", "z", "-o", &heads, "--json"]);
    refused(&["direction", "similar", &heads, "--dictionary", "text-features"], 2, "mean nothing");
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
