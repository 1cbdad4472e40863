//! Fitted lenses: what reads the stream after a layer as the model would go on with it.
//!
//! - [`jacobian`]: the Jacobian lens, the average effect of the stream after a layer on the stream after the last one; [`fit`]
//!   makes one, [`sums`] is what a fit that is not done keeps.
//! - [`faithful`]: whether the model goes on with what a lens reads, by changing it.
//! - [`tuned`]: tuned lenses that others trained.
//!
//! All of them become [`crate::analysis::transport::Transport`]s, through which [`crate::analysis::logit_lens`] reads.

pub mod edit;
pub mod faithful;
pub mod fit;
pub mod jacobian;
pub mod open;
pub mod question;
pub mod sums;
pub mod tuned;

pub use jacobian::JacobianLens;
