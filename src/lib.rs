//! circuitscope: a native microscope for transformer language models.
//!
//! One package: this library, and one binary that is both the window and the headless command line.
//!
//! # Code map
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`model`] | WHAT a model is: config, families (one file each), weights from safetensors and GGUF, tokenizer |
//! | [`engine`] | HOW it runs: sites, hooks, the forward pass and its kernels, the trace a run leaves; edits, resume, gradients, generation |
//! | [`analysis`] | WHAT we ask: one file a question (logit lens, direct attribution, patching, attribution patching, …) |
//! | [`circuit`] | circuits: wiring, edge attribution, runs with edges cut, search, quality |
//! | [`graph`] | attribution graphs: influence, pruning, scores, interchange files |
//! | [`features`] | dictionaries of features (files, encoding, training, quality), scans of text for examples, directions of concepts, steering |
//! | [`superposition`] | toy models of superposition |
//! | [`training`] | transformers small enough to train while you watch |
//! | [`jobs`] | the model's threads, requests and answers, live trainings, progress, cancellation |
//! | [`session`] | the document: what was asked, edits included; lessons |
//! | [`cli`] | one file a subcommand |
//! | [`app`] | the window: state, commands, selection, theme; `views/` one file a view; `widgets/` |
//! | [`gpu`] | wgpu pipelines behind the widgets, colour maps, drawing without a window |
//!
//! Adding a family ([`model::families::FAMILIES`]), a view (`app::views::VIEWS`), a task for a small transformer
//! ([`training::TASKS`]), a dictionary format ([`features::formats::FORMATS`]), a figure of the superposition lab ([`superposition::presets::PRESETS`]), a built-in model ([`model::builtin::BUILTINS`]), a prompt set ([`circuit::prompt_set::SHIPPED`]) or a subcommand ([`cli::Command`]) is one
//! new file and one line in a registry, and a lesson is a new file in `assets/lessons`; tests, `--help` and the command palette iterate over the registries.
//!
//! # Invariants
//!
//! 1. `model`, `engine`, `analysis`, `circuit`, `graph`, `features`, `superposition`, `training`, `session` and `jobs` know no egui and no wgpu: the
//!    build without the feature `gui` holds them to it.
//! 2. The UI thread never computes on a model, never reads a file, never waits. It reads immutable `Arc`
//!    results and sends actions; [`app::state::State`] is the one place that mutates.
//! 3. Every long job shows progress and time left, can be cancelled between two layers or 64 rows of logits,
//!    and hands out partial results where they are worth looking at.
//! 4. A site has one definition, [`engine::site`]: its TransformerLens name, its axes, its shape.
//! 5. The same question asked in the window and on the command line runs the same function of [`analysis`].
//! 6. What is frozen or approximated is written on the result, and the exact value is a click away.
//! 7. Nothing that comes from a user, a file or a model can panic; errors say what, where and what to do.
//! 8. A resumed run equals a full run under the same edits, to rounding: `tests/edits.rs` compares them at every
//!    site of every family. Edits take their values from unedited runs.
//! 9. A circuit that was changed equals the same circuit run by itself, and the whole model's circuit the model:
//!    `tests/circuits.rs` compares them on every family.
//! 10. What leaves a node of an attribution graph adds up to what the node contributes, and an opened MLP's parts to the
//!     MLP: `tests/graphs.rs` holds both on every family, with attention held still and followed.
//! 11. A feature's edit adds (new − a)·W_dec and nothing else, activations equal SAELens', a scan in parts equals one
//!     scan, a resumed training the whole one: `tests/features.rs`.
//! 12. Names are the field's: `resid_pre`, `attn_out`, `pattern`, `z`, logit lens, direct logit attribution.
//!
//! # Deliberately absent
//!
//! Python, servers, the network (only `scripts/` download anything), pickled weights, and reduced precision
//! in computation: weights are dequantised to f32 once and every number on screen is computed from that.

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo, clippy::unimplemented)
)]

pub mod analysis;
#[cfg(feature = "gui")]
pub mod app;
pub mod circuit;
pub mod cli;
pub mod engine;
pub mod error;
pub mod features;
pub mod files;
#[cfg(feature = "gui")]
pub mod gpu;
pub mod graph;
pub mod hash;
pub mod jobs;
pub mod memory;
pub mod model;
pub mod progress;
pub mod question;
mod quiet;
pub mod session;
pub mod superposition;
pub mod table;
pub mod training;

pub use error::{Error, Result};

#[global_allocator]
static ALLOCATOR: memory::LargePages = memory::LargePages;
