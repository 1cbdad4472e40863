//! Toy models of superposition [Elhage et al. 2022]: many tiny autoencoders that are trained at once, with gradients
//! derived by hand, and what their geometry says.
//!
//! | file | idea |
//! | --- | --- |
//! | [`recipe`] | a training in the few numbers that a person sets |
//! | [`setup`] | the same spelled out: shapes, inputs, optimiser, one entry for each instance |
//! | [`inputs`] | sparse features: independent, correlated, anti-correlated, or a fixed data set |
//! | [`gradient`] | the loss of a model, and its gradient over a batch |
//! | [`toy`] | all models in training, step by step |
//! | [`snapshot`] | all models at one step, with what their geometry says |
//! | [`live`] | a training as a question, for whoever watches |
//! | [`geometry`] | norms, dimensionality, interference, and the shape that features form |
//! | [`phases`] | the closed-form phase diagram, and the phase that a trained model is in |
//! | [`presets`] | one preset for each figure of the papers |

pub mod geometry;
pub mod gradient;
pub mod inputs;
pub mod live;
pub mod phases;
pub mod presets;
pub mod recipe;
pub mod setup;
pub mod snapshot;
pub mod toy;

pub use recipe::Recipe;
pub use setup::Setup;
pub use snapshot::Snapshot;
pub use toy::Toy;
