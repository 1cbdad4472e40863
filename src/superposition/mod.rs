//! Toy models of superposition [Elhage et al. 2022]: many tiny autoencoders trained at once, with gradients
//! derived by hand, and what their geometry says.
//!
//! | file | idea |
//! | --- | --- |
//! | [`recipe`] | a training in the few numbers that a person sets |
//! | [`setup`] | the same spelled out: shapes, inputs, optimiser, one entry an instance |
//! | [`inputs`] | sparse features: independent, correlated, anti-correlated, or a fixed data set |
//! | [`gradient`] | the model's loss and its gradient over a batch |
//! | [`training`] | all instances step by step, snapshots |
//! | [`moment`] | a step of a live training, measured |
//! | [`geometry`] | norms, dimensionality, interference, and the shape an instance fell into |
//! | [`phases`] | the closed-form phase diagram, and the phase that a trained model is in |
//! | [`presets`] | one preset for each figure of the paper |

pub mod geometry;
pub mod gradient;
pub mod inputs;
pub mod moment;
pub mod phases;
pub mod presets;
pub mod recipe;
pub mod setup;
pub mod training;

pub use moment::Moment;
pub use recipe::Recipe;
pub use setup::Setup;
pub use training::{Snapshot, Toy};
