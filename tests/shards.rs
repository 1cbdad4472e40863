//! Works over texts in shards: killed and gone on with, merged in any order, they are the work in one piece; and the jobs that
//! `submit` prints do just that, whatever stands in the words.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use circuitscope::circuit::pair_values::PairValues;
use circuitscope::features::scan::index::Index;
use circuitscope::features::scan::index_file;
use circuitscope::heads::index_file as head_pages;
use circuitscope::lenses::JacobianLens;
use common::{json, sentence};
use serde::Deserialize;
use serde_json::{Value, json};

/// A folder, and paths in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Runs a command in three shards and merges them in another order.
    fn in_shards(&self, command: &[&str], output: &str) -> Value {
        let parts: Vec<String> = (0..3).map(|i| self.at(&format!("part-{i}"))).collect();
        for (i, part) in parts.iter().enumerate() {
            let shard = format!("{i}/3");
            let again = || json(&[command, &["--shard", &shard, "-o", part]].concat());
            again();
            // What is done is found done.
            let before = std::fs::read(part).unwrap();
            again();
            assert_eq!(std::fs::read(part).unwrap(), before, "{command:?}");
        }
        let at = |i: usize| parts[i].as_str();
        let merged = self.at(output);
        let lacking = sentence(&["merge", at(2), at(0), "-o", &merged], 2);
        assert!(lacking.contains("shard 1 of 3 is missing"), "{lacking}");
        let twice = sentence(&["merge", at(2), at(0), at(1), at(2), "-o", &merged], 2);
        assert!(twice.contains("shard 2 of 3 is there twice"), "{twice}");
        assert!(!Path::new(&merged).exists());
        let foreign = sentence(&[command, &["--shard", "0/4", "-o", at(1)]].concat(), 2);
        assert!(foreign.contains("of another work"), "{foreign}");
        json(&["merge", at(2), at(0), at(1), "-o", &merged])
    }
}

/// Everything of an index but which shards it was made of. Sums are added in another order.
fn same_index(a: &Index, b: &Index) {
    assert_eq!((a.about.positions, a.entries.len()), (b.about.positions, b.entries.len()));
    for (i, (a, b)) in a.entries.iter().zip(&b.entries).enumerate() {
        assert_eq!((a.active, a.max, &a.histogram, &a.top), (b.active, b.max, &b.histogram, &b.top), "feature {i}");
        assert_eq!((&a.sample, &a.features, &a.neurons), (&b.sample, &b.features, &b.neurons), "feature {i}");
        assert!((a.sum - b.sum).abs() <= 1e-12 * b.sum.abs(), "feature {i}: {} {}", a.sum, b.sum);
    }
}

#[test]
fn scans_in_shards_are_the_scan() {
    let place = Place::new();
    let command = ["features", "dashboard", "-m", "text", "--dictionary", "text-features", "--tokens", "9000"];
    let whole = json(&[&command[..], &["-o", &place.at("whole")]].concat());
    let merged = place.in_shards(&command, "merged");
    assert_eq!(merged["about"]["positions"], whole["indexes"][0]["about"]["positions"]);
    assert_eq!((&merged["missing"], &merged["about"]["shards"]), (&json!(0), &json!([0, 1, 2])));
    let open = |name: &str| index_file::open(Path::new(&place.at(name))).unwrap();
    same_index(&open("merged"), &open("whole"));
    // What is merged in part is merged on.
    json(&["merge", &place.at("part-2"), &place.at("part-0"), "--partial", "-o", &place.at("some")]);
    json(&["merge", &place.at("part-1"), &place.at("some"), "-o", &place.at("all")]);
    same_index(&open("all"), &open("whole"));
    // Of other works, and of no work.
    let at = place.at("other");
    let other = [&command[..6], &["--tokens", "8000", "--shard", "1/3", "-o", &at]].concat();
    json(&other);
    let error = sentence(&["merge", &place.at("part-0"), &place.at("other"), "-o", &place.at("x")], 2);
    assert!(
        error.contains("is of another work than") && error.contains("text_hash") || error.contains("limit"),
        "{error}"
    );
    let error = sentence(&["merge", "Cargo.toml", "-o", &place.at("x")], 2);
    assert!(error.contains("Cargo.toml is no shard"), "{error}");
    let mut bytes = std::fs::read(place.at("part-1")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(place.at("part-1"), bytes).unwrap();
    let parts = ["part-0", "part-1", "part-2"].map(|p| place.at(p));
    let error = sentence(&["merge", &parts[0], &parts[1], &parts[2], "-o", &place.at("x")], 1);
    assert!(error.contains("part-1") && error.contains("checksum"), "{error}");
}

/// Machines may have the same text in different places.
#[test]
fn shards_of_one_text_by_two_names_belong_together() {
    let place = Place::new();
    let text = "The cat sat on the mat and looked at the dog. ".repeat(100);
    for (shard, name) in ["here.txt", "there.txt"].into_iter().enumerate() {
        std::fs::write(place.at(name), &text).unwrap();
        let (over, part) = (place.at(name), format!("{shard}/2"));
        json(&["heads", "-m", "text", "--over", &over, "--shard", &part, "-o", &place.at(&shard.to_string())]);
    }
    json(&["merge", &place.at("0"), &place.at("1"), "-o", &place.at("both")]);
    // Another text by the same name does not.
    std::fs::write(place.at("there.txt"), text.replace("cat", "cow")).unwrap();
    let over = place.at("there.txt");
    json(&["heads", "-m", "text", "--over", &over, "--shard", "1/2", "-o", &place.at("other")]);
    sentence(&["merge", &place.at("0"), &place.at("other"), "-o", &place.at("wrong")], 2);
}

/// Jobs whose shards could not be run are refused before they are printed.
#[test]
fn jobs_that_cannot_run_are_refused() {
    let train = ["features", "train", "-m", "text", "--layers", "all", "-o", "set"];
    let eval = ["circuit", "eval", "-m", "text", "--set", "indirect-object", "-o", "means"];
    let (mean, apart) = (["--outside", "mean", "c.json"], ["--", "c.json"]);
    for (command, more, says) in [
        (&train[..], &["--keep", "kept"][..], "--keep"),
        (&train, &["--format", "saelens"], "--format"),
        (&eval, &mean, "pair by pair"),
        (&eval, &apart, "without `--`"),
    ] {
        let error = sentence(&[&["submit", "slurm"], command, more].concat(), 2);
        assert!(error.contains(says), "{error}");
    }
    for memory in ["-1", "0", "nan", "inf", "1e30"] {
        let told = format!("--memory={memory}");
        let error = sentence(&[&["submit", "slurm", &told], &train[..]].concat(), 2);
        assert!(error.contains("gigabytes"), "{error}");
    }
    // A name like an option is one of a file.
    let heads = ["submit", "slurm", "--", "heads", "-m", "text", "--over", "prose", "-o=-x"];
    let job = String::from_utf8(common::run(&heads).stdout).unwrap();
    assert!(job.contains("./-x.shards"), "{job}");
}

#[test]
fn heads_and_lenses_in_shards_are_those_of_one_run() {
    let place = Place::new();
    let command = ["heads", "-m", "text", "--over", "mixed", "--tokens", "5000", "--context", "32"];
    json(&[&command[..], &["-o", &place.at("whole")]].concat());
    place.in_shards(&command, "merged");
    let [a, b] = ["merged", "whole"].map(|name| head_pages::open(Path::new(&place.at(name))).unwrap());
    for (a, b) in a.entries.iter().zip(&b.entries) {
        assert_eq!((&a.top, a.copying, a.anti_copying), (&b.top, b.copying, b.anti_copying));
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-9 * y.abs().max(1.0));
        assert!(close(&a.sums, &b.sums) && close(&a.query_from, &b.query_from) && close(&a.key_from, &b.key_from));
    }
    let error = sentence(&["heads", "-m", "text", "-p", "a", "--shard", "1/2"], 2);
    assert!(error.contains("--over"), "{error}");

    let place = Place::new();
    let command = ["jlens", "fit", "-m", "text", "--text", "mixed", "--tokens", "24", "--limit", "9", "--skip", "4"];
    let whole = json(&[&command[..], &["-o", &place.at("whole.safetensors")]].concat());
    let merged = place.in_shards(&command, "merged.safetensors");
    assert_eq!(merged["n_prompts"], whole["n_prompts"]);
    let [a, b] =
        ["merged", "whole"].map(|n| JacobianLens::open(Path::new(&place.at(&format!("{n}.safetensors")))).unwrap());
    for (layer, j) in &b.layers {
        let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let size = flat(j).iter().fold(0f32, |m, v| m.max(v.abs()));
        // Sums of f32 in another order, over passes of other sizes.
        let worst = common::worst(&flat(&a.layers[layer]), &flat(j)) / size;
        assert!(worst <= 1e-3, "{layer}: {worst}");
        assert!((a.about.agreement[layer] - b.about.agreement[layer]).abs() < 1e-5, "the halves are the same prompts");
    }
}

/// A set of transcoders from a harvest in shards is that of one run, byte for byte.
#[test]
fn trainings_on_harvested_shards_are_the_training() {
    let place = Place::new();
    let text = ["--text", "mixed", "--tokens", "3000", "--context", "32"];
    let train = ["features", "train", "-m", "text", "--layers", "0-1", "--features", "32", "--steps", "12", "-k", "4"];
    json(&[&train[..], &text, &["-o", &place.at("whole")]].concat());
    let merged = place.in_shards(&[&train[..], &text].concat(), "harvest");
    assert_eq!(merged["about"]["places"][1], "blocks.0.mlp.hook_out");
    let (harvest, set) = (place.at("harvest"), place.at("set"));
    let (first, other) = (place.at("part-1"), place.at("other"));
    let again = [&train[..], &["--activations", &harvest, "-o", &set]].concat();
    let doc = json(&again);
    assert_eq!((&doc["model"]["name"], &doc["positions"]), (&json!("text"), &merged["about"]["positions"]));
    for file in ["layer_0.safetensors", "layer_1.safetensors"] {
        // All but what the file says of its text, which a harvest brings along.
        let read = |set: &str| -> BTreeMap<String, Vec<u8>> {
            let bytes = std::fs::read(Path::new(&place.at(set)).join(file)).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            tensors.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec())).collect()
        };
        assert_eq!(read("set"), read("whole"), "{file}");
    }
    let part = [&train[..], &["--activations", &first, "-o", &other]].concat();
    let error = sentence(&part, 2);
    assert!(error.contains("is not the whole") && error.contains("shards 0, 2 of 3"), "{error}");
    // One site of it, without a model, and its judgement.
    let (site, target) = ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out");
    let one = ["features", "train", "--site", site, "--target", target, "--activations", &harvest, "--features", "48"];
    let doc = json(&[&one[..], &["--steps", "150", "--batch", "256", "-k", "6", "-o", &place.at("one")]].concat());
    assert_eq!((&doc["dictionary"]["output"], &doc["positions"]), (&json!(target), &merged["about"]["positions"]));
    let eval = json(&["features", "eval", "--dictionary", &place.at("one"), "--activations", &harvest]);
    let q = &eval["quality"]["all"];
    assert_eq!(q["positions"], merged["about"]["positions"]);
    assert!(q["explained_variance"].as_f64().unwrap() > 0.0, "{q}");
    let encoded = json(&["features", "encode", "--dictionary", &place.at("one"), "--activations", &harvest]);
    assert!((encoded["l0"].as_f64().unwrap() - q["l0"].as_f64().unwrap()).abs() < 1e-3);
    let error =
        sentence(&["features", "train", "--site", "blocks.3.mlp.hook_out", "--activations", &harvest, "-o", "/x"], 2);
    assert!(error.contains("holds nothing at blocks.3.mlp.hook_out"), "{error}");
}

/// A prompt set that small models can use.
const SET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prompts/people.toml");

/// Means over a prompt set in shards have the bits of one run's, and are the means of the pairs.
#[test]
fn prompt_sets_in_shards_are_one_run() {
    for (command, of_one) in [
        (&["patch", "-m", "induction", "--set", SET, "--pairs", "5", "--site", "z"][..], "raw"),
        (&["attribute", "-m", "induction", "--set", SET, "--pairs", "5", "--method", "eap-ig"], "scores"),
        (&["attribute", "-m", "induction", "--set", SET, "--pairs", "5", "--site", "z"], "raw"),
    ] {
        let place = Place::new();
        let whole = json(&[command, &["-o", &place.at("whole")]].concat());
        let merged = place.in_shards(command, "merged");
        for field in [of_one, "values", "deviation", "clean", "corrupt", "pairs"] {
            assert_eq!(merged[field], whole[field], "{command:?} {field}");
        }
        let [a, b] = ["merged", "whole"].map(|n| PairValues::open(Path::new(&place.at(n))).unwrap());
        assert_eq!((&a.values, &a.ends), (&b.values, &b.ends));
        assert_eq!((b.ends.len(), whole["pairs"].as_u64()), (5, Some(5)));
        let cells = b.values.len() / 5;
        let mean = b.values.iter().step_by(cells).map(|v| f64::from(*v)).sum::<f64>() / 5.0;
        let mut first = &whole[of_one];
        while let Some(inner) = first.get(0) {
            first = inner;
        }
        assert!((first.as_f64().unwrap() - mean).abs() < 1e-5, "{command:?}");
    }
    // A circuit by scores of a set is that of the search which scores the set itself.
    let place = Place::new();
    let set = ["-m", "induction", "--set", SET, "--pairs", "4"];
    let scores = place.at("scores");
    json(&[&["attribute", "--method", "eap-ig", "-o", &scores][..], &set].concat());
    let find = [&["circuit", "find", "--edges", "20"][..], &set].concat();
    let (own, by) = (json(&find), json(&[&find[..], &["--scores", &scores]].concat()));
    let names = |doc: &Value| -> Vec<String> {
        doc["edges"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((names(&by), names(&by).is_empty()), (names(&own), false));
    assert_eq!(by["faithfulness"], own["faithfulness"]);
    assert!(by["method"].as_str().unwrap().contains("by scores over 4 pairs of "), "{}", by["method"]);
    let error = sentence(&[&find[..], &["--metric", "logit", "--scores", &scores]].concat(), 2);
    assert!(error.contains("name the same --metric"), "{error}");
    let error =
        sentence(&["patch", "-m", "induction", "--site", "z", "--clean", "a", "--corrupt", "b", "--shard", "0/2"], 2);
    assert!(error.contains("--set NAME"), "{error}");
}

/// A circuit judged on a prompt set in shards: the bits of one run, and the numbers of `circuit eval` on all pairs together.
#[test]
fn circuits_on_prompt_sets_in_shards_are_one_run() {
    let place = Place::new();
    let (circuit, scores) = (place.at("circuit.json"), place.at("scores"));
    let set = ["-m", "induction", "--set", SET];
    json(&[&["attribute", "--method", "eap-ig", "--pairs", "3", "-o", &scores][..], &set].concat());
    json(&[&["circuit", "find", "--edges", "20", "--pairs", "3", "-o", &circuit][..], &set].concat());
    fn eval<'a>(circuit: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        [&["circuit", "eval", circuit, "-m", "induction", "--set", SET][..], rest].concat()
    }
    let command = eval(&circuit, &["--pairs", "5", "--scores", &scores]);
    let whole = json(&[&command[..], &["-o", &place.at("whole")]].concat());
    let merged = place.in_shards(&command, "merged");
    let fields =
        ["faithfulness", "completeness", "curve", "whole", "without", "deviation", "pairs", "n_edges", "metric"];
    for field in fields {
        assert!(!whole[field].is_null(), "{field}");
        assert_eq!(merged[field], whole[field], "{field}");
    }
    let together = json(&eval(&circuit, &["--pairs", "5", "--no-curve"]));
    for field in ["faithfulness", "completeness"] {
        let [a, b] = [&whole, &together].map(|doc| doc[field].as_f64().unwrap());
        assert!((a - b).abs() < 1e-4, "{field}: {a} {b}");
    }
    assert_eq!((&whole["n_edges"], &whole["pairs"]), (&together["n_edges"], &json!(5)));
    let all = whole["curve"]["points"].as_array().unwrap().last().unwrap();
    assert!((all["faithfulness"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{all}");
    // Without a file the pairs are tried together; a mean over all of them stands outside no shard.
    let error = sentence(&eval(&circuit, &["--shard", "0/2"]), 2);
    assert!(error.contains("--output"), "{error}");
    let error = sentence(&eval(&circuit, &["--outside", "mean", "-o", &place.at("x")]), 2);
    assert!(error.contains("pair by pair"), "{error}");
    let job = common::run(&[&["submit", "slurm"][..], &command, &["-o", &place.at("x")]].concat());
    assert!(job.status.success() && String::from_utf8_lossy(&job.stdout).contains("circuit eval"));
}

/// A name with everything in it that a shell, Slurm's or parallel's own language could take for something else.
const ODD: &str = r#"it's "odd" $(false) {} `x` ; & *"#;

/// A program in a folder of its own, for the path.
fn stub(folder: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The scripts for Slurm and parallel, run with stand-ins that do what those do with their input, give what one run gives.
#[test]
fn printed_jobs_do_the_work() {
    let place = Place::new();
    let (bin, work) = (PathBuf::from(place.at("bin")), PathBuf::from(place.at(ODD)));
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&work).unwrap();
    stub(
        &bin,
        "sbatch",
        "#!/bin/sh\nlast=0\nfor a in \"$@\"; do case $a in --array=0-*) last=${a#--array=0-};; esac; echo \"$a\" >>../sent; done\n\
         cat >batch\nfor i in $(seq 0 $last); do SLURM_ARRAY_TASK_ID=$i sh batch >/dev/null || exit 1; done\necho '7;cluster'\n",
    );
    stub(
        &bin,
        "parallel",
        "#!/bin/sh\nfor last in \"$@\"; do :; done\nwhile read -r i; do sh -c \"$(printf %s \"$last\" | sed \"s/{}/$i/\")\" >/dev/null || exit 1; done\n",
    );
    let text = "The cat sat on the mat and looked at the dog. ".repeat(200);
    std::fs::write(work.join("a text's"), text).unwrap();
    let out = format!("{ODD}.arrow");
    let scan = [
        "features",
        "dashboard",
        "-m",
        "text",
        "--dictionary",
        "text-features",
        "--context",
        "32",
        "--text",
        "a text's",
    ];
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_circuitscope")).args(args).current_dir(&work).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    run(&[&scan[..], &["-o", "whole"]].concat());
    let whole = index_file::open(&work.join("whole")).unwrap();
    for scheduler in ["slurm", "parallel"] {
        let job =
            run(&[&["submit", scheduler, "--shards", "3", "--minutes", "7"][..], &scan, &["--output", &out]].concat());
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let sh = Command::new("sh").arg("-c").arg(&job).env("PATH", path).current_dir(&work).output().unwrap();
        assert!(sh.status.success(), "{job}\n{}", String::from_utf8_lossy(&sh.stderr));
        same_index(&index_file::open(&work.join(&out)).unwrap(), &whole);
        std::fs::remove_file(work.join(&out)).unwrap();
        std::fs::remove_dir_all(work.join(format!("{out}.shards"))).unwrap();
    }
    let sent = std::fs::read_to_string(place.at("sent")).unwrap();
    for option in
        ["--array=0-2", "--requeue", "--time=7", "--dependency=afterok:7", "--job-name=circuitscope features dashboard"]
    {
        assert!(sent.lines().any(|l| l == option), "{option} is not in\n{sent}");
    }
    // A training is two steps behind its harvest.
    let train =
        ["features", "train", "-m", "text", "--layers", "0", "--text", "mixed", "--features", "8", "-o", "my set"];
    let doc: Value = serde_json::from_str(&run(&[&["submit", "slurm", "--json"][..], &train].concat())).unwrap();
    let after = doc["after"].as_array().unwrap();
    assert_eq!((after.len(), &after[0][1], after[0].as_array().unwrap().len()), (2, &json!("merge"), 4 + 8));
    let last: Vec<&str> = after[1].as_array().unwrap().iter().skip(1).map(|w| w.as_str().unwrap()).collect();
    assert_eq!(
        last,
        [
            "features",
            "train",
            "-m",
            "text",
            "--layers",
            "0",
            "--features",
            "8",
            "-o",
            "my set",
            "--activations",
            "my set.shards/all"
        ]
    );
    for (command, says) in [
        (&["lens", "-p", "a"][..], "has no shards"),
        (&["heads", "-p", "a", "-o", "x"], "has no shards"),
        (&["heads", "--over", "mixed"], "add --output"),
        (&["heads", "--over", "mixed", "-o", "x", "--shard", "0/2"], "leave --shard out"),
        (&["heads", "--under", "mixed"], "the command is wrong"),
        (&["features", "dashboard", "--neurons", "0", "--neurons", "1", "-o", "x"], "send one for each"),
        (&["features", "train", "--layers", "0", "--activations", "x", "-o", "y"], "has no shards"),
    ] {
        let error = sentence(&[&["submit", "slurm"][..], command].concat(), 2);
        assert!(error.contains(says), "{error}");
    }
}

/// A shard whose time is over sends itself again; one that is cancelled, or fails, does not.
#[test]
fn a_slurm_job_whose_time_is_over_goes_on() {
    let place = Place::new();
    let bin = PathBuf::from(place.at("bin"));
    std::fs::create_dir(&bin).unwrap();
    stub(&bin, "scontrol", "#!/bin/sh\necho \"$@\" >>requeued\n");
    // Keeps the shards' script alone.
    stub(&bin, "sbatch", "#!/bin/sh\ncase \"$*\" in *--array*) cat >batch;; *) cat >/dev/null;; esac\necho 7\n");
    // Waits for the signal that it asks its shell for, and ends as the program does.
    let stopped = |signal: &str, status: i32| {
        let text = format!(
            "#!/bin/sh\ntrap 'exit {status}' TERM\nsleep 0.2\nkill -{signal} $PPID\nwhile :; do sleep 0.02; done\n"
        );
        stub(&bin, "program", &text);
    };
    let program = bin.join("program").display().to_string();
    let command = ["heads", "-m", "text", "--over", "mixed", "-o", "out"];
    let plan = ["submit", "slurm", "--memory", "1", "--minutes", "5", "--program", &program];
    let job = common::run(&[&plan[..], &command].concat());
    let job = String::from_utf8(job.stdout).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let sh = |args: &[&str]| {
        let mut sh = Command::new("sh");
        sh.args(args).env("PATH", &path).current_dir(place.0.path());
        sh.env("SLURM_ARRAY_JOB_ID", "7").env("SLURM_ARRAY_TASK_ID", "2");
        sh.output().unwrap()
    };
    let sent = sh(&["-c", &job]);
    assert!(sent.status.success(), "{job}\n{}", String::from_utf8_lossy(&sent.stderr));
    let requeued = || std::fs::read_to_string(place.at("requeued")).unwrap_or_default();
    for (signal, status, told) in [("TERM", 130, ""), ("USR1", 1, ""), ("USR1", 130, "requeue 7_2\n")] {
        stopped(signal, status);
        assert_eq!(sh(&["batch"]).status.code(), Some(status), "{job}");
        assert_eq!(requeued(), told, "{signal} {status}");
    }
    stub(&bin, "program", "#!/bin/sh\nexit 0\n");
    assert!(sh(&["batch"]).status.success() && requeued() == "requeue 7_2\n");
    // What is told need not be here; what is planned must.
    let missing = ["heads", "-m", "nowhere.gguf", "--over", "/nowhere.txt", "-o", "out"];
    assert!(common::run(&[&plan[..], &missing].concat()).status.success());
    let missing = ["heads", "-m", "text", "--over", "/nowhere.txt", "-o", "out"];
    assert!(sentence(&[&["submit", "slurm"][..], &missing].concat(), 1).contains("/nowhere.txt"));
}

/// What a Job may hold, as the OpenAPI description of batch/v1 has it, as far as it is used here: anything else is an error.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Job {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: JobSpec,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct JobSpec {
    #[serde(default)]
    completions: Option<i32>,
    #[serde(default)]
    parallelism: Option<i32>,
    #[serde(default)]
    completion_mode: Option<String>,
    #[serde(default)]
    backoff_limit_per_index: Option<i32>,
    #[serde(default)]
    max_failed_indexes: Option<i32>,
    #[serde(default)]
    backoff_limit: Option<i32>,
    #[serde(default)]
    active_deadline_seconds: Option<i64>,
    template: Template,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Template {
    spec: Pod,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Pod {
    restart_policy: String,
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
    volumes: Vec<Volume>,
    #[serde(default)]
    active_deadline_seconds: Option<i64>,
    #[serde(default)]
    termination_grace_period_seconds: Option<i64>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Container {
    name: String,
    image: String,
    command: Vec<String>,
    working_dir: String,
    env: Vec<Variable>,
    resources: Resources,
    volume_mounts: Vec<Mount>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Resources {
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: String,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Volume {
    name: String,
    persistent_volume_claim: Claim,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Claim {
    claim_name: String,
}

/// A word as a kubelet gives it to the container: `$$` is a dollar sign, `$(NAME)` a variable, and any other `$` itself.
fn expanded(word: &str, index: &str) -> String {
    let (mut out, mut rest) = (String::new(), word);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$(JOB_COMPLETION_INDEX)") {
            out.push_str(index);
            rest = after;
        } else {
            out.push('$');
            rest = rest.strip_prefix("$$").unwrap_or(&rest[1..]);
        }
    }
    out + rest
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[test]
fn kubernetes_manifests_are_sound() {
    let submit =
        ["submit", "kubernetes", "--shards", "4", "--image", "lab/scope:1", "--claim", "data", "--namespace", "nlp"];
    let jobs = |command: &[&str]| -> Vec<Job> {
        let out = common::run(&[&submit[..], command].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.split("\n---\n").map(|d| serde_saphyr::from_str(d).unwrap_or_else(|e| panic!("{e}\n{d}"))).collect()
    };
    let odd = format!("{ODD}: - # $$ $$(JOB_COMPLETION_INDEX) $a\n\"two\" lines");
    let all = jobs(&["heads", "-m", "text", "--over", "mixed", "--json", "-o", &odd]);
    let [work, merge] = &all[..] else { panic!("{} documents", all.len()) };
    assert_eq!((work.api_version.as_str(), work.kind.as_str()), ("batch/v1", "Job"));
    assert_eq!((work.metadata.name.as_str(), work.metadata.namespace.as_deref()), ("circuitscope-heads", Some("nlp")));
    let s = &work.spec;
    assert_eq!((s.completions, s.parallelism, s.completion_mode.as_deref()), (Some(4), Some(4), Some("Indexed")));
    assert_eq!((s.backoff_limit_per_index, s.max_failed_indexes), (Some(6), Some(0)));
    let pod = &s.template.spec;
    assert_eq!((pod.restart_policy.as_str(), pod.termination_grace_period_seconds), ("Never", Some(60)));
    assert!(pod.active_deadline_seconds.is_some_and(|s| s >= 600));
    let c = &pod.containers[0];
    let words: Vec<String> = c.command.iter().map(|w| expanded(w, "3")).collect();
    let part = format!("{odd}.shards/3");
    assert_eq!(words, ["circuitscope", "heads", "-m", "text", "--over", "mixed", "--shard", "3/4", "-o", &part]);
    assert!(
        c.resources.requests["memory"].ends_with("Mi")
            && c.resources.limits["memory"] == c.resources.requests["memory"]
    );
    assert_eq!(
        (c.image.as_str(), c.working_dir.as_str(), c.resources.requests["cpu"].as_str()),
        ("lab/scope:1", "/work", "4")
    );
    let threads = (c.env[0].name.as_str(), c.env[0].value.as_str(), c.env.len());
    assert_eq!(threads, ("RAYON_NUM_THREADS", "4", 1));
    assert_eq!((c.volume_mounts[0].name.as_str(), c.volume_mounts[0].mount_path.as_str()), ("work", "/work"));
    assert_eq!(
        (pod.volumes[0].name.as_str(), pod.volumes[0].persistent_volume_claim.claim_name.as_str()),
        ("work", "data")
    );
    let words: Vec<String> = merge.spec.template.spec.containers[0].command.iter().map(|w| expanded(w, "x")).collect();
    assert_eq!((words[1].as_str(), words[3].as_str(), words.len()), ("merge", odd.as_str(), 4 + 4));
    assert_eq!(
        (merge.metadata.name.as_str(), merge.spec.template.spec.restart_policy.as_str()),
        ("circuitscope-heads-merge", "OnFailure")
    );
    assert!(merge.spec.backoff_limit.is_some() && merge.spec.active_deadline_seconds.is_some());
    // The last of several steps runs behind the others.
    let all = jobs(&["features", "train", "-m", "text", "--layers", "0", "-o", "set"]);
    let pod = &all[1].spec.template.spec;
    assert_eq!((pod.init_containers.len(), pod.containers.len()), (1, 1));
    assert_eq!((pod.init_containers[0].name.as_str(), pod.containers[0].name.as_str()), ("step-1", "step-2"));
    assert_eq!((pod.init_containers[0].command[1].as_str(), pod.containers[0].command[2].as_str()), ("merge", "train"));
}

/// For `scripts/check-slurm`: two files named in CIRCUITSCOPE_INDEXES, with a colon between.
#[test]
#[ignore = "scripts/check-slurm runs it"]
fn two_indexes_hold_the_same() {
    let names = std::env::var("CIRCUITSCOPE_INDEXES").expect("CIRCUITSCOPE_INDEXES names two files");
    let (a, b) = names.split_once(':').expect("a colon between them");
    let open = |path: &str| index_file::open(Path::new(path)).unwrap();
    let (a, b) = (open(a), open(b));
    same_index(&a, &b);
    println!("{} features at {} positions: the same", a.entries.len(), a.about.positions);
}
