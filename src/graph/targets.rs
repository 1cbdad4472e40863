//! Which prediction an attribution graph explains: the logits it leads to, and how they are read.
//!
//! A logit by itself moves with all others, so the most probable tokens are each explained against the mean of all logits.
//! The sharper question is a difference of two logits: why this token and not that one. A target is a direction [d_model]
//! behind the final norm, and its weight is where influence starts.

use candle_core::Tensor;

use super::part::Part;
use crate::engine::Trace;
use crate::engine::kernels::product;
use crate::engine::logits::row_summary;
use crate::error::Result;

/// Which prediction is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Target {
    /// The most probable tokens that hold [`PROBABILITY`] together, at most [`MOST`], each against the mean of all.
    Top,
    Token(u32),
    /// The logit of one token minus that of another.
    Difference(u32, u32),
}

pub const PROBABILITY: f32 = 0.95;
pub const MOST: usize = 10;

/// The logits that are explained.
pub(super) struct Logits {
    /// [target, d_model], behind the final norm.
    pub directions: Tensor,
    pub weights: Vec<f64>,
    pub parts: Vec<Part>,
    pub values: Vec<f32>,
    pub probabilities: Vec<f64>,
    /// What the final norm's offset and the unembedding's bias add to each.
    pub constants: Vec<f32>,
}

/// The mean of all tokens' unembedding columns, [d_model].
pub(super) fn mean_column(trace: &Trace) -> Result<Tensor> {
    let unembed = &trace.model.weights.unembed;
    let (_, vocab) = unembed.dims();
    let equal = Tensor::full(1.0 / vocab as f32, (1, vocab), trace.resid_final.device())?;
    Ok(product::back(&equal, unembed)?.squeeze(0)?)
}

impl Logits {
    pub fn of(trace: &Trace, pos: usize, target: Target) -> Result<Self> {
        let network = trace.model.network();
        let unembed = &trace.model.weights.unembed;
        let row = trace.normalized(pos)?;
        let column = |id: u32| unembed.output(id as usize);
        // Tokens with what each is compared with, their directions, and their weights.
        type Explained = (Vec<(u32, Option<u32>)>, Vec<Tensor>, Vec<f64>);
        let (tokens, directions, weights): Explained = match target {
            Target::Top => {
                let mut sum = 0.0;
                let mut top = Vec::new();
                for r in trace.next[pos].iter().take(MOST) {
                    top.push((r.id, f64::from(r.prob)));
                    sum += r.prob;
                    if sum >= PROBABILITY {
                        break;
                    }
                }
                let mean = mean_column(trace)?;
                let directions = top.iter().map(|(id, _)| Ok((column(*id)? - &mean)?)).collect::<Result<_>>()?;
                (top.iter().map(|t| (t.0, None)).collect(), directions, top.iter().map(|t| t.1).collect())
            }
            Target::Token(id) => {
                network.check(&[id])?;
                (vec![(id, None)], vec![column(id)?], vec![1.0])
            }
            Target::Difference(a, b) => {
                network.check(&[a, b])?;
                (vec![(a, Some(b))], vec![(column(a)? - column(b)?)?], vec![1.0])
            }
        };
        let directions = Tensor::stack(&directions, 0)?;
        let all = network.unembed(&row)?.flatten_all()?.to_vec1::<f32>()?;
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let summary = row_summary(&all, 0, &ids);
        let probability = |(i, (_, against)): (usize, &(u32, Option<u32>))| match (against, summary.asked.get(i)) {
            (None, Some((logit, _))) => f64::from(summary.prob(*logit)),
            _ => 1.0,
        };
        let probabilities = tokens.iter().enumerate().map(probability).collect();
        let mut values: Vec<f32> = row.matmul(&directions.t()?)?.flatten_all()?.to_vec1()?;
        let weights_of = &trace.model.weights;
        let mut constants = match weights_of.ln_final.as_ref().and_then(|n| n.bias.as_ref()) {
            Some(offset) => directions.matmul(&offset.unsqueeze(1)?)?.flatten_all()?.to_vec1()?,
            None => vec![0f32; values.len()],
        };
        if let Some(bias) = &weights_of.unembed_bias {
            let at = |id: u32| -> Result<f32> { Ok(bias.get(id as usize)?.to_scalar()?) };
            let mean: f32 = bias.mean_all()?.to_scalar()?;
            for (i, (token, against)) in tokens.iter().enumerate() {
                let other = match (target, against) {
                    (Target::Top, _) => mean,
                    (_, Some(b)) => at(*b)?,
                    (_, None) => 0.0,
                };
                let own = at(*token)? - other;
                values[i] += own;
                constants[i] += own;
            }
        }
        let parts = tokens.into_iter().map(|(token, against)| Part::Logit { token, against }).collect();
        Ok(Self { directions, weights, parts, values, probabilities, constants })
    }

    /// Σ weight · direction: what components are read for.
    pub fn summed(&self) -> Result<Tensor> {
        let w: Vec<f32> = self.weights.iter().map(|w| *w as f32).collect();
        let w = Tensor::from_vec(w, (self.weights.len(), 1), self.directions.device())?;
        Ok(self.directions.broadcast_mul(&w)?.sum(0)?.contiguous()?)
    }
}
