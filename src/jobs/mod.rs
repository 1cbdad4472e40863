//! Work beside the window: progress, cancellation, and the thread that owns the model.

pub mod circuits;
pub mod course;
pub mod kind;
pub mod pool;
pub mod request;
pub mod slot;
pub mod training;
pub mod worker;

pub use kind::{Kind, Lane};
pub use pool::{Pool, Wake};
pub use request::{Answer, Compared, Generations, Payload, Request, Run, Subject};
pub use training::Training;
pub use worker::{Status, Worker};
