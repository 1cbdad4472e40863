//! Heads over a text: parts add up to the whole, the file holds it, and the pages say what the patterns are.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::sync::Arc;

use circuitscope::analysis::head_scores::{Measure as Kind, Score, head_scores};
use circuitscope::engine::Trace;
use circuitscope::features::rows::{Cut, Rows};
use circuitscope::heads::index::{Example, HeadIndex, Measure};
use circuitscope::heads::index_file;
use circuitscope::heads::scan::Plan;
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use serde_json::json;

fn scan(model: &Arc<Model>, rows: &Rows, shard: (usize, usize)) -> HeadIndex {
    let plan = Plan { model, rows, texts: vec!["mixed".to_owned()], context: 32, limit: None, shard };
    plan.run(None, &Progress::new(), &mut |_| {}).unwrap()
}

/// One row of text has the scores of a run on it; examples are where its patterns say.
#[test]
fn a_row_is_scored_as_a_run() {
    let progress = Progress::new();
    for (name, model) in common::families() {
        let n = 14.min(model.config.n_ctx);
        // Tokens that repeat, so that there are duplicates and inductions.
        let ids: Vec<u32> = (0..n).map(|i| ((i * i) % 7 + 3) as u32).collect();
        let index = scan(&model, &Rows::new([(ids.clone(), 5)]), (0, 1));
        let trace = Trace::run(&model, ids.clone(), &progress).unwrap();
        let scores = head_scores(&trace, Kind::Detector, &progress).unwrap();
        for (layer, head) in (0..model.config.n_layers).flat_map(|l| (0..model.config.n_heads).map(move |h| (l, h))) {
            let pairs = [
                (Measure::Previous, Score::Previous),
                (Measure::Duplicate, Score::Duplicate),
                (Measure::Induction, Score::Induction),
                (Measure::Entropy, Score::Entropy),
                (Measure::Distance, Score::Distance),
            ];
            for (ours, theirs) in pairs {
                let (a, b) = (index.mean(layer, head, ours), scores.get(theirs, layer, head));
                assert!((a - b).abs() < 1e-4, "{name} {layer}.{head} {}: {a} against {b}", ours.name());
            }
            let pattern = trace.head_pattern(layer, head).unwrap().to_vec2::<f32>().unwrap();
            let first = pattern.iter().map(|row| row[0]).sum::<f32>() / n as f32;
            assert!((index.mean(layer, head, Measure::First) - first).abs() < 1e-4);
            let e = &index.entry(layer, head).unwrap().top[0];
            assert!((e.weight - pattern[e.query as usize][e.key as usize]).abs() < 1e-5);
            assert_eq!((e.query_token(), e.key_token()), (ids[e.query as usize], ids[e.key as usize]));
            assert!(e.key > 0 && e.document == 5 && e.promoted.len() == 5 && e.suppressed.len() == 5);
        }
    }
}

#[test]
fn parts_add_up_and_the_file_holds_it() {
    let model = Arc::new(Model::open("text").unwrap());
    let rows = Rows::cut(&model, &["mixed".to_owned()], &Cut::new(32, Some(6_000)), &Progress::new()).unwrap();
    let whole = scan(&model, &rows, (0, 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.arrow");
    let mut merged = scan(&model, &rows, (2, 3));
    for shard in [0, 1] {
        index_file::save(&scan(&model, &rows, (shard, 3)), &path).unwrap();
        merged.absorb(index_file::open(&path).unwrap()).unwrap();
    }
    assert_eq!((merged.about.queries, merged.about.sampled), (whole.about.queries, whole.about.sampled));
    for (a, b) in merged.entries.iter().zip(&whole.entries) {
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6 * y.abs().max(1.0));
        assert!(close(&a.sums, &b.sums) && close(&a.query_from, &b.query_from) && close(&a.key_from, &b.key_from));
        let places =
            |e: &circuitscope::heads::index::Entry| e.top.iter().map(|x| (x.row, x.query, x.key)).collect::<Vec<_>>();
        assert_eq!(places(a), places(b));
        assert_eq!(a.copying, b.copying);
    }
    assert!(merged.absorb(scan(&model, &rows, (1, 3))).unwrap_err().to_string().contains("twice"));
    // Stopped in the middle, and gone on with.
    let file = folder.path().join("stopped.arrow");
    let plan =
        Plan { model: &model, rows: &rows, texts: vec!["mixed".to_owned()], context: 32, limit: None, shard: (0, 1) };
    let progress = Progress::new();
    let stopped = std::thread::scope(|scope| {
        scope.spawn(|| {
            while progress.counts().0 < 700 {
                std::thread::yield_now();
            }
            progress.cancel();
        });
        plan.run(Some(&file), &progress, &mut |_| {})
    });
    assert!(matches!(stopped, Err(circuitscope::Error::Cancelled)));
    assert!(!index_file::open(&file).unwrap().about.is_complete());
    let resumed = plan.run(Some(&file), &Progress::new(), &mut |_| {}).unwrap();
    assert_eq!(resumed.about, whole.about);
    for (a, b) in resumed.entries.iter().zip(&whole.entries) {
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6 * y.abs().max(1.0));
        assert!(close(&a.sums, &b.sums) && close(&a.query_from, &b.query_from));
        // A pass over other rows beside it rounds otherwise.
        let place = |e: &Example| (e.row, e.query, e.key, e.query_tokens.clone(), e.key_tokens.clone());
        assert_eq!(a.top.iter().map(place).collect::<Vec<_>>(), b.top.iter().map(place).collect::<Vec<_>>());
        assert!(
            a.top.iter().zip(&b.top).all(|(x, y)| (x.strength - y.strength).abs() < 1e-4 * y.strength.abs().max(1.0))
        );
    }
    // Damaged files are refused.
    let bytes = std::fs::read(&file).unwrap();
    for cut in [bytes.len() / 3, bytes.len() - 9] {
        circuitscope::files::write_atomic(&path, &bytes[..cut]).unwrap();
        assert!(index_file::open(&path).is_err());
    }
    // The strongest examples of a previous-token head look one token back.
    let previous = (0..whole.entries.len()).max_by(|a, b| {
        let score = |i: &usize| whole.entries[*i].sums[Measure::Previous as usize];
        score(a).total_cmp(&score(b))
    });
    let entry = &whole.entries[previous.unwrap()];
    let back = entry.top.iter().filter(|e| e.query == e.key + 1).count();
    assert!(2 * back >= entry.top.len(), "{back} of {}", entry.top.len());
}

#[test]
fn the_command_line_makes_shows_and_merges_pages() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let over = ["heads", "-m", "text", "--over", "mixed", "--tokens", "2000", "--context", "32"];
    let whole = common::json(&[&over[..], &["-o", &at("whole.arrow")]].concat());
    assert!(whole["about"]["queries"].as_u64().unwrap() > 1900);
    assert_eq!(whole["scores"]["first"]["axes"], json!(["layer", "head"]));
    common::json(&[&over[..], &["-o", &at("a"), "--shard", "0/2"]].concat());
    common::json(&[&over[..], &["-o", &at("b"), "--shard", "1/2"]].concat());
    let merged = common::json(&["heads", "--merge", &at("a"), &at("b"), "-o", &at("merged.arrow")]);
    assert_eq!((&merged["missing"], &merged["about"]["queries"]), (&json!(0), &whole["about"]["queries"]));
    let error = common::sentence(&["heads", "--merge", &at("a"), "-o", &at("part.arrow")], 2);
    assert!(error.contains("shard 1 of 2 is missing"), "{error}");
    for (option, value) in [("--head", "1.0".to_owned()), ("--output", at("none.arrow"))] {
        let error = common::sentence(&["heads", "-m", "text", option, &value], 2);
        assert!(error.contains(option) && error.contains("--over"), "{error}");
    }
    // A conversation is no text to go over: it is not passed over in silence.
    for pages in [["--over", "mixed"], ["--pages", &at("whole.arrow")]] {
        let out = common::run(&[&["heads", "-m", "text", "--chat", "-"][..], &pages].concat());
        assert_eq!(out.status.code(), Some(2), "{pages:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("--chat"), "{pages:?}");
    }
    let page = |file: &str| common::json(&["heads", "-m", "text", "--pages", &at(file), "--head", "1.0"]);
    let (a, b) = (page("whole.arrow"), page("merged.arrow"));
    assert_eq!(a["examples"][0]["query"]["token"], b["examples"][0]["query"]["token"]);
    assert_eq!(a["examples"].as_array().unwrap().len(), 16);
    assert!(a["query_from"][0]["component"].is_string());
    let out = common::run(&["heads", "-m", "text", "--pages", &at("whole.arrow"), "--head", "2.1"]);
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("its query is fed by"));
    let error = common::sentence(&["heads", "-m", "text", "--pages", &at("whole.arrow"), "--head", "9.0"], 2);
    assert!(error.contains("9.0"), "{error}");
    let error = common::sentence(&["heads", "-m", "induction", "--pages", &at("whole.arrow")], 2);
    assert!(error.contains("text"), "{error}");
}
