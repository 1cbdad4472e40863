//! Features: directions that a model's activations are made of. Dictionaries of them (sparse autoencoders and
//! transcoders) are opened, trained, judged and searched for examples; single directions are found from two sets of
//! texts; both are tested by editing the model.

pub mod dictionary;
pub mod direction;
pub mod feature_activations;
pub mod feature_map;
pub mod harvest;
pub mod heat;
pub mod labels;
pub mod monitor;
pub mod page;
pub mod polysemantic;
pub mod quality;
pub mod rows;
pub mod scan;
pub mod sets;
pub mod steering;
pub mod text;
pub mod train;
pub mod trust;
pub mod words;
pub mod writer;

pub use dictionary::encode::Sparse;
pub use dictionary::place::{Place, View};
pub use dictionary::set::DictionarySet;
pub use dictionary::store::{Store, open};
pub use dictionary::{Activation, Dictionary};
