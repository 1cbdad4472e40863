//! `features merge`: as `merge`.

pub use crate::cli::merge::{Arguments, execute};
