//! Work beside the window: progress, cancellation, and the thread that owns the model.

pub mod progress;

pub use progress::Progress;
