//! circuitscope: a native microscope for transformer language models.
//!
//! One package: this library, and one binary that is both the window and the headless command line.
//!
//! # Code map
//!
//! From the ground up. A room names rooms below it only; `tests/architecture.rs` reads the sources and holds it to that.
//!
//! | room | what it answers |
//! | --- | --- |
//! | [`cost`], [`error`], [`files`], [`guard`], [`interrupt`], [`progress`], [`question`], … | the ground: errors, atomic files, bounds on libraries, signals, what work costs, progress and cancelling, what a question is |
//! | [`model`] | WHAT a model is: config, families (one file each), weights from safetensors and GGUF, tokenizer |
//! | [`engine`] | HOW it runs: sites, hooks, the forward pass and its kernels, the trace a run leaves; edits, resume, gradients, generation |
//! | [`analysis`] | WHAT we ask: one file a question (logit lens, direct attribution, patching, attribution patching, …) |
//! | [`circuit`] | circuits: wiring, edge attribution, runs with edges cut, search, quality |
//! | [`features`] | dictionaries of features (files, sets, encoding, training, quality), scans of text for examples, directions of concepts, steering |
//! | [`heads`] | attention heads over a text: scores, strongest examples, what feeds them |
//! | [`lenses`] | lenses that are fitted: Jacobian and tuned lenses, their files, fitting, edits along what they read |
//! | [`probes`] | probes with controls, and interchange: what can be read off a model, and whether it is used |
//! | [`graph`] | attribution graphs on components and on features: influence, pruning, scores, groups, audits, layout, interchange files |
//! | [`superposition`] | toy models of superposition |
//! | [`training`] | transformers small enough to train while you watch |
//! | [`session`] | the document: a desk for each model, the layout, changes that can be taken back; lessons |
//! | [`jobs`] | threads beside the window, and slots that hold the newest answer to a question; knows no analysis |
//! | [`gpu`] | wgpu pipelines behind the widgets, colour maps, drawing without a window |
//! | [`app`] | the window: a folder a workspace with its actions, panel and `views/`; `shell`, `look` and `widgets` around them |
//! | [`cli`] | one file a subcommand |
//!
//! # How an answer comes
//!
//! What can be asked is a type that implements [`question::Question`]. It stands beside the function that answers it and
//! carries everything that its answer depends on. The command line runs it; the window holds a [`jobs::Slot`] for it and
//! says in every round what is wanted now, from the document, the selection and the views that can be seen. A slot starts
//! what is not known, drops what nobody wants any more, and keeps the old answer, marked as old, until the new one is there.
//! What costs much says so ([`progress::Progress::needs`]) and waits there until the user agrees.
//!
//! # Adding something
//!
//! | what | new file | line |
//! | --- | --- | --- |
//! | a question | `analysis/NAME.rs` | `analysis/mod.rs` |
//! | a view, which ends in its own `VIEW` | `app/WORKSPACE/views/NAME.rs`, `assets/guide/view-NAME.md` | `views![…]` in that folder's `mod.rs`, `assets/guide/README.md` |
//! | a subcommand | `cli/NAME.rs` | `commands!` in `cli/mod.rs`, and a section of `assets/guide/commands.md` |
//! | a family of models | `model/families/NAME.rs` | [`model::families::FAMILIES`] |
//! | a dictionary format | `features/dictionary/formats/NAME.rs` | [`features::dictionary::formats::FORMATS`] |
//! | a task for a small transformer | `training/NAME.rs` | [`training::TASKS`] |
//! | a figure of the superposition lab | | [`superposition::presets::PRESETS`] |
//! | a built-in model | `assets/NAME` | [`model::builtin::BUILTINS`] |
//! | a prompt set | `assets/prompts/NAME.toml` | [`circuit::prompt_set::SHIPPED`] |
//! | a lesson | `assets/lessons/NAME.toml` | |
//! | a page of the guide | `assets/guide/NAME.md` | `assets/guide/README.md` |
//!
//! Tests, `--help`, the tools of `mcp`, the Python module and the command palette go through the registries.
//!
//! # Invariants
//!
//! 1. `model`, `engine`, `analysis`, `circuit`, `graph`, `features`, `heads`, `lenses`, `probes`, `superposition`,
//!    `training`, `session` and `jobs` know no egui and no wgpu: the build without the feature `gui` holds them to it.
//! 2. The UI thread never computes on a model, never reads a file, never waits. It reads immutable `Arc` results and sends
//!    actions. What the user decided lies in the [`session::Document`]; nothing of one model is applied to another.
//! 3. Every long job shows progress and time left, can be cancelled between two layers or 64 rows of logits,
//!    and hands out partial results where they are worth looking at. A panic in it is one sentence in its slot.
//! 4. A site has one definition, [`engine::site`]: its TransformerLens name, its axes, its shape.
//! 5. The same question asked in the window and on the command line asks the same [`question::Question`] or runs the
//!    same function.
//! 6. What is frozen or approximated is written on the result, and the exact value is a click away.
//! 7. Nothing that comes from a user, a file or a model can panic; errors say what, where and what to do, in one line. Files
//!    are read with a limit ([`files`]), libraries that trust them run in [`guard`], and `tests/fuzz` spoils them.
//! 8. A resumed run equals a full run under the same edits, to rounding: `tests/edits.rs` compares them at every
//!    site of every family. Edits take their values from unedited runs.
//! 9. A circuit that was changed equals the same circuit run by itself, and the whole model's circuit the model:
//!    `tests/circuits.rs` compares them on every family.
//! 10. What leaves a node of an attribution graph adds up to what the node contributes, and an opened MLP's parts to the
//!     MLP: `tests/graphs.rs` holds both on every family, with attention held still and followed.
//!     A graph on features has circuit-tracer's edges, scores and interventions: `tests/feature_graphs.rs`.
//! 11. A feature's edit adds (new − a)·W_dec and nothing else, activations equal SAELens', a scan in parts equals one
//!     scan, a resumed training the whole one: `tests/features.rs`.
//! 12. What goes back through a block as a batch of cotangents is what differentiation gives, on every family; a fit that
//!     was stopped goes on bit for bit: `tests/lenses.rs`. Parts of a scan of heads add up to the whole: `tests/heads.rs`.
//! 13. Names are the field's: `resid_pre`, `attn_out`, `pattern`, `z`, logit lens, direct logit attribution.
//!
//! # Deliberately absent
//!
//! Python, servers, the network but for models that are asked for by `hf:…` ([`model::hub`]), pickles that run anything
//! ([`model::torch_file`] reads tensors out of those that need not), and reduced precision in computation: weights may lie
//! in memory as they are stored, and every number is computed in f32.

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo, clippy::unimplemented)
)]

pub mod analysis;
#[cfg(feature = "gui")]
pub mod app;
pub mod arrow_file;
pub mod circuit;
pub mod cli;
pub mod cost;
pub mod engine;
pub mod error;
pub mod features;
pub mod files;
#[cfg(feature = "gui")]
pub mod gpu;
pub mod graph;
pub mod guard;
pub mod guide;
pub mod hash;
pub mod heads;
pub mod interrupt;
pub mod jobs;
pub mod lenses;
pub mod memory;
pub mod model;
pub mod probes;
pub mod progress;
pub mod question;
pub mod session;
pub mod shard;
pub mod shell;
pub mod superposition;
pub mod table;
pub mod training;
pub mod typed;

pub use error::{Error, Result};

#[global_allocator]
static ALLOCATOR: memory::LargePages = memory::LargePages;
