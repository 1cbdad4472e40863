//! The questions that can be asked of a run. Each file holds one question: what it means, the function that answers it,
//! and the shapes of the answer.

pub mod alignment;
pub mod attribution_patching;
pub mod audit;
pub mod backup;
pub mod completion;
pub mod component;
pub mod contributions;
pub mod direct_attribution;
pub mod entropy;
pub mod feature_geometry;
pub mod generation;
pub mod head_scores;
pub mod interference;
pub mod logit_lens;
pub mod metric;
pub mod neurons;
pub mod norms;
pub mod ov_circuit;
pub mod pair;
pub mod patching;
pub mod patterns;
pub mod plan;
pub mod projection;
pub mod run;
pub mod subject;
pub mod sweep;
pub mod transport;
pub mod trust;
pub mod why_head;
