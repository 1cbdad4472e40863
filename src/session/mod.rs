//! The saved document: what was asked, not what was on screen by accident.

pub mod lesson;
pub mod recent;
pub mod start;

use crate::circuit::cart::Cart;
use crate::engine::EditStack;
use crate::engine::resolve::Alignment;

/// A question: which model, which prompt, which prediction.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Document {
    pub model: String,
    pub prompt: String,
    /// Token ids that take the prompt's place; typing a prompt takes theirs.
    #[serde(default)]
    pub ids: Option<Vec<u32>>,
    /// Token to explain; empty for the model's own favourite.
    pub answer: String,
    /// Token to compare it with; may be empty.
    pub wrong: String,
    /// The prompt to compare with; empty for none.
    #[serde(default)]
    pub corrupted: String,
    /// For each token of the prompt its counterpart in the corrupted one, where the user has changed what was
    /// found.
    #[serde(default)]
    pub alignment: Option<Alignment>,
    /// What is changed while the model runs.
    #[serde(default)]
    pub stack: EditStack,
    /// The circuit that is being collected.
    #[serde(default)]
    pub cart: Cart,
}
