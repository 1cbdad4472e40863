//! A frozen norm: its divisor is held at the value that it has in a run. What remains of the norm is linear, so that it
//! can be applied to each part of a sum by itself.

use candle_core::Tensor;

use super::kernels::norm::normalize;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::weights::Norm;

/// A norm with the divisors of a run, as a linear map: centre the row, divide it by its divisor, multiply by the gain.
pub struct FrozenNorm {
    gain: Option<Tensor>,
    /// One divisor for each row; 1 where there is no norm.
    pub divisor: Vec<f32>,
    centres: bool,
}

impl FrozenNorm {
    /// Freezes the norm at the rows x [n, d_model].
    pub fn of(x: &Tensor, n: Option<&Norm>, config: &ModelConfig) -> Result<Self> {
        let Some(n) = n else {
            return Ok(Self { gain: None, divisor: vec![1.0; x.dim(0)?], centres: false });
        };
        let divisor = normalize(x, config.norm, false)?.1.flatten_all()?.to_vec1()?;
        Ok(Self { gain: Some(n.weight.clone()), divisor, centres: config.centres() })
    }

    /// Freezes the norm at one row, to be applied to any number of parts of it.
    #[must_use]
    pub fn row(&self, at: usize) -> Self {
        Self { gain: self.gain.clone(), divisor: vec![self.divisor[at]], centres: self.centres }
    }

    /// Takes directions [n, d] of the output back to directions of the input, without the division by the row's
    /// divisor.
    pub fn read(&self, directions: &Tensor) -> Result<Tensor> {
        let Some(gain) = &self.gain else { return Ok(directions.clone()) };
        let y = directions.broadcast_mul(gain)?;
        Ok(if self.centres { y.broadcast_sub(&y.mean_keepdim(1)?)? } else { y })
    }

    /// Applies the norm to rows of the stream, without its offset.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let Some(gain) = &self.gain else { return Ok(x.clone()) };
        let x = if self.centres { x.broadcast_sub(&x.mean_keepdim(1)?)? } else { x.clone() };
        let divisor = Tensor::from_slice(&self.divisor, (self.divisor.len(), 1), x.device())?;
        Ok(x.broadcast_div(&divisor)?.broadcast_mul(gain)?)
    }
}
