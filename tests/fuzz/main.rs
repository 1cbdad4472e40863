//! Files of others' making, spoilt at random: a few scripts in each run of the tests, and every script that once found a
//! fault (`corpus/TARGET/`). `CIRCUITSCOPE_FUZZ_SECONDS=60` goes on for a minute a target, each time elsewhere;
//! `scripts/fuzz` does it for all.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use targets::{TARGETS, Target, feed, feed_hostile, open_good};

/// Scripts of each target in an ordinary run.
const SCRIPTS: usize = 40;

/// Feeds a script; one that finds a fault is printed and kept.
fn tried(target: &Target, script: &[u8]) {
    if let Err(fault) = catch_unwind(AssertUnwindSafe(|| feed(target, script))) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target.name);
        let name = folder.join(format!("{:016x}", script.iter().fold(7u64, |h, b| h.wrapping_mul(31) ^ u64::from(*b))));
        std::fs::create_dir_all(&folder).expect("a folder for what was found");
        std::fs::write(&name, script).expect("room for what was found");
        eprintln!("this script broke the target {}: {}", target.name, name.display());
        std::panic::resume_unwind(fault);
    }
}

fn scripts(target: &Target) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    for entry in std::fs::read_dir(corpus).into_iter().flatten() {
        tried(target, &std::fs::read(entry.expect("a readable folder").path()).expect("a readable script"));
    }
    feed_hostile(target);
    let seconds: Option<u64> = std::env::var("CIRCUITSCOPE_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let mut random = ChaCha8Rng::seed_from_u64(if seconds.is_some() { now } else { 25 });
    let (started, mut n) = (Instant::now(), 0usize);
    let more = |n| seconds.map_or(n < SCRIPTS, |s| started.elapsed() < Duration::from_secs(s));
    while more(n) {
        let length = 1 + 8 * random.random_range(1..=4);
        let script: Vec<u8> = (0..length).map(|_| random.random()).collect();
        tried(target, &script);
        n += 1;
    }
    eprintln!("{}: {n} scripts in {:.0} s", target.name, started.elapsed().as_secs_f64());
}

macro_rules! targets {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            scripts(TARGETS.iter().find(|t| t.name == $name).expect("a target of this name"));
        })*

        #[test]
        fn good_files_open() {
            TARGETS.iter().for_each(open_good);
        }

        #[test]
        fn every_target_has_its_test() {
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), [$($name),*]);
        }
    };
}

targets! {
    gguf = "gguf", safetensors = "safetensors", config = "config", tokenizer = "tokenizer", dictionary = "dictionary",
    graph = "graph", circuit = "circuit", session = "session", edits = "edits", prompt_set = "prompt-set",
    examples = "examples", direction = "direction", labels = "labels", conversation = "conversation", template = "template", index = "index",
    captured = "captured", lens = "lens", tuned_lens = "tuned-lens", pickle = "pickle", npz = "npz",
    dictionary_set = "dictionary-set", shard = "shard",
}
