//! A norm held still: what it divides by is that of a run, so that the rest of it is linear.

use candle_core::Tensor;

use super::kernels::norm::normalize;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::weights::Norm;

/// A norm with its scale held at a run's, as a linear map: centre, divide by the row's scale, times the gain.
pub struct FrozenNorm {
    gain: Option<Tensor>,
    /// By row; 1 where there is no norm.
    pub divisor: Vec<f32>,
    centres: bool,
}

impl FrozenNorm {
    /// That of rows x [n, d_model].
    pub fn of(x: &Tensor, n: Option<&Norm>, config: &ModelConfig) -> Result<Self> {
        let Some(n) = n else {
            return Ok(Self { gain: None, divisor: vec![1.0; x.dim(0)?], centres: false });
        };
        let divisor = normalize(x, config.norm, false)?.1.flatten_all()?.to_vec1()?;
        Ok(Self { gain: Some(n.weight.clone()), divisor, centres: config.centres() })
    }

    /// That of one row, for any number of parts of it.
    #[must_use]
    pub fn row(&self, at: usize) -> Self {
        Self { gain: self.gain.clone(), divisor: vec![self.divisor[at]], centres: self.centres }
    }

    /// Directions [n, d] of the output as directions of the input, without the division by the row's scale.
    pub fn read(&self, directions: &Tensor) -> Result<Tensor> {
        let Some(gain) = &self.gain else { return Ok(directions.clone()) };
        let y = directions.broadcast_mul(gain)?;
        Ok(if self.centres { y.broadcast_sub(&y.mean_keepdim(1)?)? } else { y })
    }

    /// Rows of a stream as the norm passes them on, without its offset.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let Some(gain) = &self.gain else { return Ok(x.clone()) };
        let x = if self.centres { x.broadcast_sub(&x.mean_keepdim(1)?)? } else { x.clone() };
        let divisor = Tensor::from_slice(&self.divisor, (self.divisor.len(), 1), x.device())?;
        Ok(x.broadcast_div(&divisor)?.broadcast_mul(gain)?)
    }
}
