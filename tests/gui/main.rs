//! The window: what a user does and sees, and a picture of every view in both themes.

#[path = "../common/mod.rs"]
mod common;

mod alike;
mod circuits;
mod document;
mod features;
mod graph;
mod lessons;
mod model;
mod session;
mod shell;
mod superposition;
mod talk;
mod training;
mod views;
mod window;
