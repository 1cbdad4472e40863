//! The part of a model that a forward pass reads.

use super::config::ModelConfig;
use super::weights::Weights;

/// A config with its weights. [`crate::engine`] says how it runs.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    pub config: &'a ModelConfig,
    pub weights: &'a Weights,
}
