//! Takes the residual stream of a run apart into what each component wrote to it.
//!
//! The residual stream is a sum: embedding, heads, MLPs and biases each add a vector of d_model numbers at each
//! position. A circuit's edge carries the sender's part of that sum, so circuits and edge scores begin here.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::engine::kernels::norm::normalize;
use crate::engine::kernels::product;
use crate::engine::{Site, SiteKind, Trace};
use crate::error::Result;
use crate::memory::afford;
use crate::model::config::ModelConfig;
use crate::model::matrix::Matrix;
use crate::model::weights::Norm;
use crate::progress::Progress;

/// What each sender wrote, from one position on: `values[sender]` is [rows, d_model], row-major.
///
/// Some models normalise attention's output before it is added. There a head's contribution is its part of the sum,
/// times the gain of that norm, over the norm's divisor in the run. Biases belong to no sender.
#[derive(Clone, Debug)]
pub struct Contributions {
    pub values: Vec<Vec<f32>>,
    /// What attention's biases add, one [rows, d_model] a layer; `None` where a layer has none.
    pub biases: Vec<Option<Vec<f32>>>,
}

impl Contributions {
    pub fn of(trace: &Trace, first: usize) -> Result<Self> {
        Self::part(trace, first..trace.len(), trace.model.config.n_layers, &Progress::new())
    }

    /// Returns the contributions at some positions, of the embedding and the first `layers` layers only.
    ///
    /// # Errors
    /// The values would not fit in memory; [`Error::Cancelled`], between two layers.
    pub fn part(trace: &Trace, positions: Range<usize>, layers: usize, progress: &Progress) -> Result<Self> {
        let c = &trace.model.config;
        c.adds_up()?;
        let (first, rows) = (positions.start, positions.len());
        let what = format!("what every component writes at {rows} positions");
        afford(Self::bytes(c, rows, layers), &what, "shorten the prompt")?;
        let flat = |t: Tensor| -> Result<Vec<f32>> { Ok(t.narrow(0, first, rows)?.flatten_all()?.to_vec1()?) };
        let mut values = vec![flat(trace.get(SiteKind::ResidPre, 0)?)?];
        let mut biases = Vec::new();
        for layer in 0..layers {
            progress.check()?;
            let z = trace.get(SiteKind::Z, layer)?.narrow(0, first, rows)?;
            let post = PostNorm::at(trace, layer, first, rows)?;
            let heads: Vec<Vec<f32>> = (0..c.n_heads)
                .into_par_iter()
                .map(|head| {
                    let z = z.narrow(1, head, 1)?.squeeze(1)?.contiguous()?;
                    let raw = product::apply(&z, &output_weights(trace, layer, head)?)?;
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
        Ok(Self { values, biases })
    }

    /// The bytes that they take at so many positions.
    pub fn bytes(config: &ModelConfig, rows: usize, layers: usize) -> usize {
        4 * (2 + layers * (config.n_heads + 1)) * rows * config.d_model
    }

    /// Returns self − other for each sender.
    pub fn minus(&self, other: &Self) -> Vec<Vec<f32>> {
        self.values.par_iter().zip(&other.values).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect()).collect()
    }
}

/// Mean contributions, over all rows of some runs.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// What a sender writes on average, one [d_model] a sender.
    pub values: Vec<Vec<f32>>,
    /// Mean activations of the MLP's neurons, one [d_mlp] a layer; empty without MLPs.
    pub neurons: Vec<Vec<f32>>,
}

impl Means {
    /// Returns the means over all rows of `runs`. One run at a time is taken apart, to save memory.
    ///
    /// # Errors
    /// As [`Contributions::part`].
    pub fn of(runs: &[Arc<Trace>], progress: &Progress) -> Result<Self> {
        let mut sums: [Vec<Vec<f64>>; 2] = Default::default();
        let mut n = 0;
        for run in runs {
            let c = &run.model.config;
            let own = Contributions::part(run, 0..run.len(), c.n_layers, progress)?;
            let layers = if c.has_mlp() { c.n_layers } else { 0 };
            let neurons = (0..layers)
                .map(|l| Ok(run.get(SiteKind::MlpPost, l)?.flatten_all()?.to_vec1()?))
                .collect::<Result<Vec<Vec<f32>>>>()?;
            for (of, values, width) in [(0, &own.values, c.d_model), (1, &neurons, c.d_mlp)] {
                let sums: &mut Vec<Vec<f64>> = &mut sums[of];
                sums.resize(values.len(), vec![0f64; width]);
                for (sum, values) in sums.iter_mut().zip(values) {
                    for row in values.chunks_exact(width) {
                        sum.iter_mut().zip(row).for_each(|(a, b)| *a += f64::from(*b));
                    }
                }
            }
            n += run.len();
        }
        let mean = |sums: Vec<Vec<f64>>| -> Vec<Vec<f32>> {
            sums.into_iter().map(|sum| sum.into_iter().map(|v| (v / n.max(1) as f64) as f32).collect()).collect()
        };
        let [values, neurons] = sums;
        Ok(Self { values: mean(values), neurons: mean(neurons) })
    }
}

/// Returns W_O of one head, [d_head, d_model].
pub fn output_weights(trace: &Trace, layer: usize, head: usize) -> Result<Matrix> {
    let d_head = trace.model.config.d_head;
    trace.model.weights.blocks[layer].attn.o.weight.narrow(0, head * d_head, d_head)
}

/// Returns what attention's output bias (and the offset of the norm behind it) adds, [rows, d_model].
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

/// The norm on attention's output, with its divisors frozen at those of a run.
pub struct PostNorm {
    gain: Tensor,
    /// [rows, 1]
    divisor: Tensor,
}

impl PostNorm {
    /// Returns the frozen norm, or `None` where attention's output is added as it is.
    pub fn of(trace: &Trace, layer: usize, first: usize) -> Result<Option<Self>> {
        Self::at(trace, layer, first, trace.len() - first)
    }

    fn at(trace: &Trace, layer: usize, first: usize, rows: usize) -> Result<Option<Self>> {
        let block = &trace.model.weights.blocks[layer];
        let Some(Norm { weight, .. }) = &block.ln1_post else { return Ok(None) };
        let c = &trace.model.config;
        let z = trace.get(SiteKind::Z, layer)?.narrow(0, first, rows)?.contiguous()?;
        let mut raw = product::apply(&z.reshape((rows, c.n_heads * c.d_head))?, &block.attn.o.weight)?;
        if let Some(b) = &block.attn.o.bias {
            raw = raw.broadcast_add(b)?;
        }
        Ok(Some(Self { gain: weight.clone(), divisor: normalize(&raw, c.norm, false)?.1 }))
    }

    /// Returns the norm with its divisors repeated, for several runs of the same rows.
    pub fn repeated(&self, runs: usize) -> Result<Self> {
        let divisor = Tensor::cat(&vec![self.divisor.clone(); runs], 0)?;
        Ok(Self { gain: self.gain.clone(), divisor })
    }

    pub fn apply(&self, raw: &Tensor, centres: bool) -> Result<Tensor> {
        let raw = if centres { raw.broadcast_sub(&raw.mean_keepdim(1)?)? } else { raw.clone() };
        Ok(raw.broadcast_div(&self.divisor)?.broadcast_mul(&self.gain)?)
    }
}
