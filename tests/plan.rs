//! What a command will need is said before it runs, without reading weights.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::sync::Arc;

use circuitscope::analysis::metric::Metric;
use circuitscope::analysis::pair::Pair;
use circuitscope::analysis::patching::patching;
use circuitscope::analysis::plan::{Planned, cost, longest};
use circuitscope::analysis::sweep::{Axes, Sweep};
use circuitscope::engine::{SiteKind, Trace};
use circuitscope::model::Model;
use circuitscope::model::matrix::Held;
use circuitscope::progress::Progress;
use common::{families, fixture, json};

#[test]
fn an_outline_has_the_sizes_of_the_model() {
    for (name, model) in families() {
        let spec = fixture("families").join(&name);
        let outline = Model::outline(spec.to_str().unwrap(), Held::F32).unwrap();
        assert_eq!((outline.n_params, outline.weight_bytes()), (model.n_params, model.weight_bytes()), "{name}");
        assert_eq!(outline.warnings, model.warnings, "{name}");
    }
    for file in ["llama-q4_k", "mixtral", "bloom"] {
        let spec = fixture(&format!("gguf/{file}.gguf"));
        let spec = spec.to_str().unwrap();
        let opened = Model::open_watched(spec, Held::Stored, &Progress::new()).unwrap();
        let outline = Model::outline(spec, Held::Stored).unwrap();
        assert_eq!((outline.n_params, outline.weight_bytes()), (opened.n_params, opened.weight_bytes()), "{file}");
    }
}

/// What a sweep says of itself, once its cells are known, is no more than what was planned.
#[test]
fn a_plan_covers_what_a_sweep_needs() {
    let metric = Metric::LogitDifference { answer: 3, wrong: 5 };
    for (name, model) in families().into_iter().step_by(5) {
        let ids: Vec<u32> = (0..11).map(|i| (i * 31 + 7) % model.config.d_vocab as u32).collect();
        let other: Vec<u32> = ids.iter().map(|id| (id + 1) % model.config.d_vocab as u32).collect();
        let run = |ids| Arc::new(Trace::run(&model, ids, &Progress::new()).unwrap());
        let pair = Pair::new(run(ids), run(other));
        for (site, by) in [(SiteKind::ResidPre, Axes::LayerPos), (SiteKind::Z, Axes::LayerHeadPos)] {
            let sweep = Sweep::new(&pair, patching(site, by, metric), &Progress::new()).unwrap().estimate();
            let planned = cost(&model, 11, Planned::Sweep { site, by, runs: 2 });
            assert!(planned.work >= sweep.bytes as u64 && planned.seconds >= sweep.seconds, "{name}: {planned:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_said_with_what_would() {
    let (_, model) = families().swap_remove(0);
    let what = Planned::Edges { steps: 5 };
    let of = |n| cost(&model, n, what).bytes();
    assert!(of(5) < of(6));
    assert_eq!(longest(&model, what, of(5), 40), 5);
    assert_eq!(longest(&model, what, of(6) - 1, 40), 5);
    assert_eq!(longest(&model, what, 0, 40), 0);
    assert_eq!(longest(&model, what, u64::MAX, 40), 40);
}

#[test]
fn the_command_says_memory_and_time() {
    let model = fixture("gguf/llama-q4_k.gguf");
    let model = model.to_str().unwrap();
    let ask = |rest: &[&str]| json(&[&["plan", "-m", model, "--ids", "1,2,3,4"], rest].concat());
    let run = ask(&["run"]);
    let decoded = Model::open_watched(model, Held::F32, &Progress::new()).unwrap().weight_bytes();
    assert_eq!((run["weights_bytes"].as_u64().unwrap() as usize, &run["weights"]), (decoded, &"f32".into()));
    assert_eq!(run["fits"], true);
    assert!(run["otherwise"].is_null() && run["tokens"].as_array().unwrap().len() == 4);
    let bytes = |doc: &serde_json::Value| {
        let of = |key: &str| doc[key].as_u64().unwrap();
        assert_eq!(of("needs_bytes"), of("weights_bytes") + of("work_bytes"));
        of("needs_bytes")
    };
    let patch = ask(&["patch", "--site", "z", "--by", "layer,head,pos"]);
    assert!(bytes(&patch) > bytes(&run) && patch["needs_seconds"].as_f64() > run["needs_seconds"].as_f64());
    let stored = ask(&["run", "--weights", "stored"]);
    assert!(bytes(&stored) < bytes(&run));
    let text = String::from_utf8(common::run(&["plan", "-m", model, "--ids", "1,2", "trace"]).stdout).unwrap();
    assert!(text.starts_with("needs ") && text.contains(" s; ") && text.contains("are free"), "{text}");
    common::sentence(&["plan", "-m", model, "--ids", "1,2", "patch", "--by", "head"], 2);
}

#[test]
fn work_over_texts_is_planned_whole() {
    let ask = |tokens: &str, rest: &[&str]| {
        let heads = ["plan", "--", "heads", "--over", "mixed", "-m", "text", "-o", "pages.arrow", "--tokens", tokens];
        json(&[&heads, rest].concat())
    };
    let seconds = |doc: &serde_json::Value| doc["needs_seconds"].as_f64().unwrap();
    let (few, many) = (ask("2000", &[]), ask("200000", &[]));
    assert!(seconds(&many) > 50.0 * seconds(&few) && seconds(&few) > 0.0);
    assert!(few["training_seconds"].is_null() && few["needs_bytes"].as_u64() > few["weights_bytes"].as_u64());
    let train = ["features", "train", "--layers", "all", "-m", "text", "--text", "mixed", "-o", "set"];
    let train = json(&[&["plan", "--"][..], &train].concat());
    assert!(train["training_seconds"].as_f64().unwrap() > 0.0);
    let refused = common::sentence(&["plan", "--", "models"], 2);
    assert!(refused.contains("`models` is not planned"), "{refused}");
}

/// Every command on a prompt is planned as it would be run, as it is by its name and the prompt.
#[test]
fn commands_on_a_prompt_are_planned_as_they_would_be_run() {
    let bytes = |words: &[&str]| json(&[&["plan"], words].concat())["needs_bytes"].as_u64().unwrap();
    let on = ["-m", "induction", "-p", "a b c a b"];
    for command in ["run", "lens", "entropy", "dla", "heads", "trace"] {
        let more: &[&str] = if command == "dla" { &["--answer", "c"] } else { &[] };
        let whole = [&["--", command][..], &on, more].concat();
        assert_eq!(bytes(&whole), bytes(&[&on[..], &[command]].concat()), "{command}");
    }
    let pair = ["-m", "induction", "--clean", "a b c a b", "--corrupt", "a b c a c"];
    for command in [&["patch", "--site", "z"][..], &["attribute", "--method", "eap"]] {
        assert_eq!(bytes(&[&["--"], command, &pair].concat()), bytes(&[&on[..], command].concat()), "{command:?}");
    }
    let generated = |max: &str| bytes(&[&["--", "generate"][..], &on, &["--max", max]].concat());
    assert!(generated("200") > generated("2"));
    // The model and the prompt may stand before any command.
    assert_eq!(bytes(&[&on[..], &["generate", "--max", "200"]].concat()), generated("200"));
    let (model, prompts) = pair.split_at(2);
    let after = [&["--", "patch", "--site", "z"][..], &pair].concat();
    assert_eq!(bytes(&[model, &["patch", "--site", "z"], prompts].concat()), bytes(&after));
    let search = [&["find", "--edges", "20", "--answer", "a", "--wrong", "b"][..], prompts].concat();
    let after = [&["--", "circuit"][..], &search, model].concat();
    assert_eq!(bytes(&[model, &["circuit"], &search].concat()), bytes(&after));
    let wrong = common::sentence(&["plan", "-m", "induction", "-p", "a", "generate", "--mux", "2"], 2);
    assert!(wrong.contains("--mux"), "{wrong}");
    assert!(bytes(&[&["--", "why"][..], &on, &["--head", "1.0"]].concat()) > 0);
    assert!(bytes(&[&["--", "ablate", "--site", "z"][..], &on].concat()) > 0);
}

#[test]
fn circuits_and_graphs_on_features_are_planned_as_they_would_be_run() {
    let ask = |words: &[&str]| json(&[&["plan", "--"][..], words].concat());
    let of = |doc: &serde_json::Value, key: &str| doc[key].as_f64().unwrap();
    let pair = ["-m", "induction", "--clean", "a b c a b", "--corrupt", "a b c a c"];
    let find = |rest: &[&str]| ask(&[&["circuit", "find"][..], &pair, rest].concat());
    // Speeds are measured by each command: what is compared lies far apart.
    let eap = |rest: &[&str]| find(&[&["--method", "eap", "--edges", "100"], rest].concat());
    let (plain, rescored) = (eap(&[]), eap(&["--rescore"]));
    assert!(of(&rescored, "needs_seconds") > 1.2 * of(&plain, "needs_seconds"));
    assert!(of(&find(&["--edges", "5", "--steps", "200"]), "needs_seconds") > 5.0 * of(&plain, "needs_seconds"));
    // Every pair is run and kept.
    let set = |n: &str| {
        let pairs = ["-m", "addition", "--set", "addition", "--pairs", n, "--edges", "5", "--method", "eap"];
        ask(&[&["circuit", "find"][..], &pairs].concat())
    };
    assert_eq!(of(&set("6"), "work_bytes"), 2.0 * of(&set("3"), "work_bytes"));
    // What cannot be run is refused with the sentence of the command.
    let wrong = common::sentence(&[&["plan", "--", "circuit", "find"][..], &pair].concat(), 2);
    assert!(wrong.contains("how large a circuit?"), "{wrong}");

    let trace = |text: &str, rest: &[&str]| {
        ask(&[&["trace", "-m", "text", "--dictionary", "text-transcoders", "-p", text][..], rest].concat())
    };
    let (short, long) = (trace("The king", &[]), trace("The king and the queen were glad to see each other", &[]));
    assert!(of(&long, "needs_seconds") > of(&short, "needs_seconds"));
    let first = trace("The king and the queen were glad to see each other", &["--pos", "2"]);
    assert!(of(&first, "work_bytes") < of(&long, "work_bytes"));
    let wrong = common::sentence(
        &["plan", "--", "trace", "-m", "induction", "--dictionary", "text-transcoders", "-p", "a b"],
        2,
    );
    assert!(wrong.contains("layer"), "{wrong}");
}
