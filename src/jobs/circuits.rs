//! Names of what is asked about circuits.

pub use crate::circuit::quality::{CircuitOf as CircuitQuestion, Tried};
pub use crate::circuit::search::{FoundCircuit as Searched, Search};
