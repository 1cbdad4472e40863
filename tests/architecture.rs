//! The floors of the house: which room may name which. Read from the sources, so that an arrow upwards cannot be built.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms of `src`, each with those it may name. A room stands below all that name it, so there is no circle.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("engine", &["model"]),
    ("analysis", &["engine", "model"]),
    ("circuit", &["analysis", "engine", "model"]),
    ("features", &["analysis", "engine", "model"]),
    ("heads", &["features", "analysis", "engine", "model"]),
    ("lenses", &["features", "analysis", "engine", "model"]),
    ("probes", &["features", "analysis", "engine", "model"]),
    ("graph", &["features", "circuit", "analysis", "engine", "model"]),
    ("superposition", &["analysis", "model"]),
    ("training", &["analysis", "engine", "model"]),
    ("session", &["features", "superposition", "training", "graph", "circuit", "analysis", "engine", "model"]),
    ("jobs", &[]),
    ("gpu", &[]),
    (
        "app",
        &[
            "jobs",
            "gpu",
            "session",
            "probes",
            "lenses",
            "heads",
            "features",
            "superposition",
            "training",
            "graph",
            "circuit",
            "analysis",
            "engine",
            "model",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "gpu",
            "session",
            "probes",
            "lenses",
            "heads",
            "features",
            "superposition",
            "training",
            "graph",
            "circuit",
            "analysis",
            "engine",
            "model",
        ],
    ),
];

/// Files that know no domain: everything may name them, and they name each other alone.
const GROUND: &[&str] = &[
    "arrow_file",
    "cost",
    "error",
    "Error",
    "Result",
    "files",
    "guard",
    "guide",
    "hash",
    "identity",
    "interrupt",
    "memory",
    "progress",
    "question",
    "shard",
    "shell",
    "table",
    "typed",
];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The names that stand behind `crate::` in a source, comments left out.
fn named(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| {
            let list = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or_default());
            let many = rest.starts_with('{');
            let word = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
            if many { list.split(',').map(word).collect() } else { vec![word(list)] }
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn rooms_name_only_what_lies_below() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 200, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if ["main", "lib"].contains(&room.as_str()) {
            continue;
        }
        let below: &[&str] = ROOMS.iter().find(|(name, _)| *name == room).map_or(&[], |(_, below)| *below);
        assert!(GROUND.contains(&&*room) || ROOMS.iter().any(|(n, _)| *n == room), "{room} has no place in the house");
        for name in named(&std::fs::read_to_string(&file).unwrap()) {
            if name != room && !GROUND.contains(&&*name) && !below.contains(&&*name) {
                wrong.push(format!("{} names {name}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that lead upwards:\n{}", wrong.join("\n"));
}

/// The table itself has no circle: every room is listed after those it names.
#[test]
fn the_floors_have_an_order() {
    for (i, (room, below)) in ROOMS.iter().enumerate() {
        for name in *below {
            let at = ROOMS.iter().position(|(n, _)| n == name);
            assert!(at.is_some_and(|at| at < i), "{room} names {name}, which is not below it");
        }
    }
}

/// What cannot be pressed says why.
#[test]
fn disabled_controls_give_their_reason() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/app"), &mut files);
    let (mut found, mut silent) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (i, _) in lines.iter().enumerate().filter(|(_, l)| l.contains(".add_enabled(")) {
            found += 1;
            if !lines[i..lines.len().min(i + 14)].iter().any(|l| l.contains("on_disabled_hover_text")) {
                silent.push(format!("{}:{}", file.display(), i + 1));
            }
        }
    }
    assert!(found > 10 && silent.is_empty(), "of {found}:\n{}", silent.join("\n"));
}

/// The files of the ground have an order too: each can be read after those that it names.
#[test]
fn the_ground_has_no_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = GROUND.iter().map(|name| (*name, src.join(format!("{name}.rs")))).filter(|(_, path)| path.is_file());
    let mut left: Vec<(&str, BTreeSet<String>)> =
        files.map(|(name, path)| (name, named(&std::fs::read_to_string(path).unwrap()))).collect();
    assert!(left.len() > 10, "the ground was not found");
    loop {
        let waits: BTreeSet<String> = left.iter().map(|(name, _)| (*name).to_owned()).collect();
        let before = left.len();
        left.retain(|(name, names)| names.iter().any(|n| n != name && waits.contains(n)));
        if left.len() == before {
            break;
        }
    }
    let names: Vec<&str> = left.iter().map(|(name, _)| *name).collect();
    assert!(names.is_empty(), "these name each other in a circle: {names:?}");
}
