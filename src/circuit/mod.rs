//! Circuits: which components, connected by which edges, carry a prediction.
//!
//! A transformer's residual stream makes it a graph: the embedding, every head and every MLP write to the stream
//! (senders), and the heads' queries, keys and values, the MLPs and the logits read it (receivers). An edge says that a
//! receiver reads what a sender wrote. A circuit is a set of edges. It explains a prediction if the model predicts the
//! same when every other edge carries something else.
//!
//! In the order in which they build on each other:
//! - [`wiring`] numbers and names senders, receivers and edges; [`edges`] is a set of them.
//! - [`ablated_run`] runs the model with every edge outside a circuit ablated.
//! - [`eap`] scores all edges at once by gradients; [`find`] takes the best; [`acdc`] removes one edge after the other.
//! - [`trial`] is a prompt with a metric and its two ends; [`search`] finds a circuit, [`quality`] says how good one is.
//! - [`draft`](draft) is the circuit that a user collects, [`file`] a circuit on disk, [`prompt_set`] prompts to try it on,
//!   [`pair_values`] what was measured of each of them.

pub mod ablated_run;
pub mod acdc;
mod checks;
pub mod draft;
pub mod eap;
pub mod edges;
pub mod file;
pub mod find;
mod limit;
pub mod pair_values;
pub mod prompt_set;
pub mod quality;
pub mod search;
pub mod trial;
pub mod wiring;

pub use ablated_run::AblatedRuns;
pub use edges::Edges;
pub use wiring::{Edge, Member, Receiver, Wiring};
