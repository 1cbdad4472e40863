//! Files of others' making, spoilt at random: a few scripts in each run of the tests, and every script that once found a
//! fault (`__fuzz__/TARGET/corpus`). `scripts/fuzz` goes on for a minute a target; with cargo-bolero it is led by what the
//! scripts reach (libFuzzer).
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod targets;

use targets::{TARGETS, Target, feed, feed_hostile, open_good};

/// Scripts of each target in an ordinary run.
const SCRIPTS: usize = 40;
/// Bytes that a script is drawn from. It has up to 64: one for the seed, and eight for each change.
const DRAWN: usize = 128;

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).expect("a target of this name")
}

macro_rules! targets {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            let target = target($name);
            feed_hostile(target);
            bolero::check!(name = $name)
                .with_iterations(SCRIPTS)
                .with_max_len(DRAWN)
                .for_each(|script: &[u8]| feed(target, script));
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
