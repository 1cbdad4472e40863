//! Runs a model: named sites, hooks that watch and change them, the forward pass, edits, gradients, and what a run
//! leaves behind.

pub mod dictionaries;
pub mod edit;
pub mod editor;
pub mod experts;
pub mod forward;
pub mod frozen;
pub mod generate;
pub mod gradient;
pub mod hold;
pub mod hooks;
pub mod kernels;
pub mod logits;
pub mod pullback;
pub mod resolve;
pub mod resume;
pub mod site;
pub mod trace;

pub use edit::{Action, Edit, EditStack, RunSide};
pub use forward::Freeze;
pub use hold::Hold;
pub use hooks::{Capture, Hooks, NoHooks};
pub use site::{Axis, Site, SiteKind};
pub use trace::Trace;
