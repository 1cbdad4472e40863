//! The workspace that looks into a transformer and a prompt.

pub mod answers;
pub mod circuits;
pub mod results;
pub mod runs;
pub mod views;
