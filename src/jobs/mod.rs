//! Work beside the window: a pool of threads, and slots that hold the newest answer to a question. Knows no analysis.

pub mod pool;
pub mod slot;

pub use pool::{Pool, Wake};
pub use slot::{Answer, AnySlot, Slot};
