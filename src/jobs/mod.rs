//! Work beside the window: progress, cancellation, and the thread that owns the model.

pub mod circuits;
pub mod kind;
pub mod pool;
pub mod request;
pub mod slot;
pub mod task;
pub mod worker;

pub use kind::{Kind, Lane};
pub use pool::{Pool, Wake};
pub use request::{Answer, Compared, Generations, Payload, Request, Run, Subject};
pub use task::Task;
pub use worker::{Status, Worker};
