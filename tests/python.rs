//! The module for Python, by the tests in tests/python/check.py, with this build of the program.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_module_keeps_its_promises() {
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check.py");
    let python = if cfg!(windows) { "python" } else { "python3" };
    let out = Command::new(python)
        // Nothing is left beside the sources.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CIRCUITSCOPE", env!("CARGO_BIN_EXE_circuitscope"))
        .arg(check)
        .output()
        .expect("Python 3 is needed (scripts/setup installs it)");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("Ran 10 tests"), "{said}");
}
