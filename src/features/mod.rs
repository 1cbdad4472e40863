//! Features: directions that a model's activations are made of. Dictionaries of them (sparse autoencoders and
//! transcoders) are opened, trained, judged and searched for examples; single directions are found from two sets of
//! texts; both are tested by editing the model.

pub mod concept;
mod correlations;
pub mod dashboard;
pub mod dictionary;
pub mod direction;
pub mod encode;
pub mod feature_edit;
pub mod feature_map;
pub mod formats;
pub mod harvest;
pub mod index;
pub mod index_file;
pub mod labels;
pub mod later;
pub mod place;
pub mod quality;
pub mod reading;
pub mod rows;
pub mod scan;
pub mod steering;
pub mod store;
pub mod text;
mod tiles;
pub mod train;
pub mod words;

pub use dictionary::{Activation, Dictionary};
pub use encode::Sparse;
pub use place::Place;
pub use store::{open, shared};
