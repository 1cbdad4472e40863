//! What each sender of a circuit wrote to the residual stream in a run.

use candle_core::Tensor;
use rayon::prelude::*;

use super::wiring::Wiring;
use crate::engine::kernels::norm::normalize;
use crate::engine::{Site, SiteKind, Trace};
use crate::error::Result;
use crate::model::weights::Norm;

/// Rows from one position on, of every sender: `values[sender]` is [rows, d_model] row-major.
///
/// Where attention's output is normalised before it is added, a head's contribution is its part of the
/// sum times that norm's gain over its divisor in the run; biases belong to nobody.
#[derive(Clone, Debug)]
pub struct Contributions {
    pub values: Vec<Vec<f32>>,
    /// By layer what attention's biases add, [rows, d_model]; `None` where it has none.
    pub biases: Vec<Option<Vec<f32>>>,
}

impl Contributions {
    pub fn of(trace: &Trace, first: usize) -> Result<Self> {
        let c = &trace.model.config;
        let wiring = Wiring::new(c);
        let rows = trace.len() - first;
        let flat = |t: Tensor| -> Result<Vec<f32>> { Ok(t.narrow(0, first, rows)?.flatten_all()?.to_vec1()?) };
        let mut values = vec![flat(trace.get(SiteKind::ResidPre, 0)?)?];
        let mut biases = Vec::new();
        for layer in 0..c.n_layers {
            let z = trace.get(SiteKind::Z, layer)?.narrow(0, first, rows)?;
            let post = PostNorm::of(trace, layer, first)?;
            let heads: Vec<Vec<f32>> = (0..c.n_heads)
                .into_par_iter()
                .map(|head| {
                    let z = z.narrow(1, head, 1)?.squeeze(1)?.contiguous()?;
                    let raw = z.matmul(&output_weights(trace, layer, head)?)?;
                    let written = match &post {
                        Some(post) => post.apply(&raw, c.centres())?,
                        None => raw,
                    };
                    Ok(written.flatten_all()?.to_vec1()?)
                })
                .collect::<Result<_>>()?;
            values.extend(heads);
            biases.push(bias(trace, layer, post.as_ref(), rows)?);
            if c.has_mlp() {
                values.push(flat(trace.value(Site::new(SiteKind::MlpOut, layer))?)?);
            }
        }
        debug_assert_eq!(values.len(), wiring.n_senders());
        Ok(Self { values, biases })
    }

    /// Every row replaced by the mean over all rows of all runs.
    pub fn mean(runs: &[Self], rows: usize, d: usize) -> Vec<Vec<f32>> {
        let senders = runs.first().map_or(0, |r| r.values.len());
        (0..senders)
            .map(|s| {
                let mut sum = vec![0f64; d];
                let mut n = 0f64;
                for row in runs.iter().flat_map(|r| r.values[s].chunks_exact(d)) {
                    n += 1.0;
                    sum.iter_mut().zip(row).for_each(|(a, b)| *a += f64::from(*b));
                }
                let mean: Vec<f32> = sum.iter().map(|v| (v / n.max(1.0)) as f32).collect();
                mean.repeat(rows)
            })
            .collect()
    }

    /// self − other, by sender.
    pub fn minus(&self, other: &Self) -> Vec<Vec<f32>> {
        self.values.par_iter().zip(&other.values).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect()).collect()
    }
}

/// W_O of one head, [d_head, d_model].
pub(super) fn output_weights(trace: &Trace, layer: usize, head: usize) -> Result<Tensor> {
    let d_head = trace.model.config.d_head;
    Ok(trace.model.weights.blocks[layer].attn.o.weight.narrow(0, head * d_head, d_head)?)
}

/// What attention's output bias (and the offset of the norm behind it) adds, [rows, d_model].
fn bias(trace: &Trace, layer: usize, post: Option<&PostNorm>, rows: usize) -> Result<Option<Vec<f32>>> {
    let block = &trace.model.weights.blocks[layer];
    let d = trace.model.config.d_model;
    let own = match &block.attn.o.bias {
        Some(b) => {
            let b = b.reshape((1, d))?.broadcast_as((rows, d))?.contiguous()?;
            Some(match post {
                Some(post) => post.apply(&b, trace.model.config.centres())?,
                None => b,
            })
        }
        None => None,
    };
    let offset = block.ln1_post.as_ref().and_then(|n| n.bias.as_ref());
    let sum = match (own, offset) {
        (Some(own), Some(offset)) => Some(own.broadcast_add(offset)?),
        (None, Some(offset)) => Some(offset.reshape((1, d))?.broadcast_as((rows, d))?.contiguous()?),
        (own, None) => own,
    };
    Ok(sum.map(|s| s.flatten_all()?.to_vec1()).transpose()?)
}

/// The norm on attention's output with its divisors held at those of a run.
pub(super) struct PostNorm {
    gain: Tensor,
    /// [rows, 1]
    divisor: Tensor,
}

impl PostNorm {
    /// `None` where attention's output is added as it is.
    pub(super) fn of(trace: &Trace, layer: usize, first: usize) -> Result<Option<Self>> {
        let block = &trace.model.weights.blocks[layer];
        let Some(Norm { weight, .. }) = &block.ln1_post else { return Ok(None) };
        let c = &trace.model.config;
        let rows = trace.len() - first;
        let z = trace.get(SiteKind::Z, layer)?.narrow(0, first, rows)?.contiguous()?;
        let mut raw = z.reshape((rows, c.n_heads * c.d_head))?.matmul(&block.attn.o.weight)?;
        if let Some(b) = &block.attn.o.bias {
            raw = raw.broadcast_add(b)?;
        }
        Ok(Some(Self { gain: weight.clone(), divisor: normalize(&raw, c.norm, false)?.1 }))
    }

    /// The divisors of the same rows repeated for several runs.
    pub(super) fn repeated(&self, runs: usize) -> Result<Self> {
        let divisor = Tensor::cat(&vec![self.divisor.clone(); runs], 0)?;
        Ok(Self { gain: self.gain.clone(), divisor })
    }

    pub(super) fn apply(&self, raw: &Tensor, centres: bool) -> Result<Tensor> {
        let raw = if centres { raw.broadcast_sub(&raw.mean_keepdim(1)?)? } else { raw.clone() };
        Ok(raw.broadcast_div(&self.divisor)?.broadcast_mul(&self.gain)?)
    }
}

/// Human words for what is outside a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// Outputs of the corrupted run
    #[default]
    Resample,
    /// Mean outputs over a reference set
    Mean,
    /// Nothing
    Zero,
}

impl Outside {
    pub const ALL: [Self; 3] = [Self::Resample, Self::Mean, Self::Zero];

    pub fn label(self) -> &'static str {
        match self {
            Self::Resample => "resample",
            Self::Mean => "mean",
            Self::Zero => "zero",
        }
    }
}
