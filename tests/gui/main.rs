//! The window: what a user does and sees, and a picture of every view in both themes.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]
#![cfg(feature = "gui")]

#[path = "../common/mod.rs"]
mod common;

mod alike;
mod circuits;
mod document;
mod features;
mod graph;
mod guide;
mod lens;
mod lessons;
mod model;
mod probes;
mod session;
mod shell;
mod small;
mod soak;
mod superposition;
mod talk;
mod training;
mod views;
mod window;
