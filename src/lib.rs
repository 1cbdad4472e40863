//! circuitscope: a native microscope for transformer language models.

pub mod analysis;
#[cfg(feature = "gui")]
pub mod app;
pub mod cli;
pub mod engine;
pub mod error;
pub mod files;
#[cfg(feature = "gui")]
pub mod gpu;
pub mod jobs;
pub mod lab;
pub mod memory;
pub mod model;
pub mod session;

pub use error::{Error, Result};

#[global_allocator]
static ALLOCATOR: memory::LargePages = memory::LargePages;
