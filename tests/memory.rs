//! With a limit on its memory the program does what fits, refuses the rest in one sentence, and is never ended by a signal.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::process::{Command, Output};

use common::fixture;

/// Runs the program with so many kilobytes of address space.
fn limited(kilobytes: u64, arguments: &[&str]) -> Output {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -v {kilobytes}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_circuitscope"));
    shell.args(arguments).output().unwrap()
}

/// The least address space, in kilobytes, in which a command does its work.
fn least(arguments: &[&str]) -> u64 {
    let (mut low, mut high) = (64 << 10, 64 << 20);
    assert!(limited(high, arguments).status.success());
    while low + (2 << 10) < high {
        let middle = u64::midpoint(low, high);
        if limited(middle, arguments).status.success() {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// A model of which a long prompt takes far more memory than its weights.
fn model(folder: &std::path::Path) -> String {
    for name in ["model.safetensors", "config.json"] {
        std::fs::copy(fixture("families/llama").join(name), folder.join(name)).unwrap();
    }
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let longer = text.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 4096");
    assert_ne!(text, longer);
    std::fs::write(path, longer).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn work_stays_within_a_limit_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let ids = |step: u32| (0..600).map(|i| (i * step % 250).to_string()).collect::<Vec<_>>().join(",");
    let (clean, corrupt) = (ids(7), ids(11));
    let graph = folder.path().join("graph.json");
    let pair = ["--clean-ids", &clean, "--corrupt-ids", &corrupt, "--answer", "5", "--wrong", "9", "--json"];
    let commands: [Vec<&str>; 5] = [
        vec!["run", "-m", &model, "--ids", &clean, "--json"],
        vec!["heads", "-m", &model, "--ids", &clean, "--json"],
        [&["attribute", "-m", &model, "--method", "atp"], &pair[..]].concat(),
        [&["patch", "-m", &model, "--site", "pattern", "--by", "layer,head"], &pair[..]].concat(),
        vec!["trace", "-m", &model, "--ids", &clean, "-o", graph.to_str().unwrap()],
    ];
    let small = least(&["models"]);
    let mut refused_before = 0;
    for command in &commands {
        let mut done = 0;
        for more in [30, 70, 120, 200, 350, 700, 2000] {
            let output = limited(small + (more << 10), command);
            let (said, code) = (String::from_utf8_lossy(&output.stderr), output.status.code());
            done += usize::from(code == Some(0));
            let refused = code == Some(1) && said.contains("memory") && said.lines().count() == 1;
            assert!(code == Some(0) || refused, "{} with {more} MB more: {code:?} {said}", command[0]);
            refused_before += usize::from(said.contains(" would need ") && said.contains(" are free; "));
        }
        assert!(done > 0, "{} never fits", command[0]);
    }
    assert!(refused_before > 0, "nothing was refused before it began");
}
