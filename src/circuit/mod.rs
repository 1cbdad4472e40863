//! Circuits: which components, connected by which edges, carry a prediction. Edges are scored ([`eap`]),
//! chosen ([`find`], [`acdc`]), and what they carry is tested ([`stage`], [`quality`]).

pub mod acdc;
pub mod cart;
mod checks;
pub mod eap;
pub mod edges;
pub mod file;
pub mod find;
mod limit;
pub mod prompt_set;
pub mod quality;
pub mod stage;
pub mod wiring;

pub use edges::Edges;
pub use stage::Stage;
pub use wiring::{Edge, Member, Receiver, Wiring};
