//! HOW a model runs: sites, hooks, the forward pass, and what it leaves behind.

pub mod forward;
pub mod hooks;
pub mod kernels;
pub mod logits;
pub mod site;
pub mod trace;

pub use forward::Network;
pub use hooks::{Capture, Hooks, NoHooks};
pub use site::{Site, SiteKind};
pub use trace::Trace;
