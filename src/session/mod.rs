//! The saved document: what was asked, not what was on screen by accident.

pub mod recent;

/// A question: which model, which prompt, which prediction.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Document {
    pub model: String,
    pub prompt: String,
    /// Token to explain; empty for the model's own favourite.
    pub answer: String,
    /// Token to compare it with; may be empty.
    pub wrong: String,
}
