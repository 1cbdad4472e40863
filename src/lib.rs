//! circuitscope: a native microscope for transformer language models.

pub mod analysis;
#[cfg(any())]
pub mod app;
pub mod cli;
pub mod engine;
pub mod error;
pub mod files;
pub mod jobs;
pub mod lab;
pub mod model;

pub use error::{Error, Result};
