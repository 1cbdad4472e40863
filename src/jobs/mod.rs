//! Work beside the window: progress, cancellation, and the thread that owns the model.

pub mod progress;
pub mod request;
pub mod worker;

pub use progress::Progress;
pub use request::{Answer, Kind, Payload, Request, Run};
pub use worker::{Status, Worker};
