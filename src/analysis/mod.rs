//! WHAT we ask of a run: one file a question.

pub mod direct_attribution;
pub mod head_scores;
pub mod logit_lens;
pub mod neurons;
pub mod norms;
pub mod patterns;
pub mod projection;
