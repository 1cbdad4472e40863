//! Lists the lessons in `assets/lessons` and the guide's pages in `assets/guide`, so that a new one is a new file and nothing
//! else, and says whether kernels are optimised.

#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    // A build for the compiler's errors and for tests alone leaves this crate's kernels slow. It multiplies and decodes
    // with other crates' then, which are optimised in every build.
    println!("cargo::rustc-check-cfg=cfg(unoptimised)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level == "0") {
        println!("cargo::rustc-cfg=unoptimised");
    }
    println!("cargo:rerun-if-changed=scripts/build.rs");
    list("lessons", "toml");
    list("guide", "md");
}

/// Writes a table of the files in a folder of `assets`: their names and texts, in the order of their names.
fn list(folder: &str, extension: &str) {
    let place = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("assets").join(folder);
    println!("cargo:rerun-if-changed={}", place.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&place)
        .expect("the folder is there")
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    let mut text =
        format!("/// Name and text of every file in `assets/{folder}`.\npub const FILES: &[(&str, &str)] = &[\n");
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(text, "    ({name:?}, include_str!({:?})),", file.display().to_string()).expect("a string grows");
    }
    text.push_str("];\n");
    let out = Path::new(&std::env::var("OUT_DIR").expect("cargo sets it")).join(format!("{folder}.rs"));
    std::fs::write(out, text).expect("OUT_DIR can be written");
}
