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

    /// Takes the norm out of tensors, for whoever works on single rows.
    pub fn by_rows(&self) -> Result<RowNorm> {
        let gain = self.gain.as_ref().map(Tensor::to_vec1).transpose()?;
        Ok(RowNorm { gain, inverse: self.divisor.iter().map(|d| d.recip()).collect(), centres: self.centres })
    }

    /// Applies the norm to rows of the stream, without its offset.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let Some(gain) = &self.gain else { return Ok(x.clone()) };
        let x = if self.centres { x.broadcast_sub(&x.mean_keepdim(1)?)? } else { x.clone() };
        let divisor = Tensor::from_slice(&self.divisor, (self.divisor.len(), 1), x.device())?;
        Ok(x.broadcast_div(&divisor)?.broadcast_mul(gain)?)
    }
}

/// A [`FrozenNorm`] for single rows in place.
#[derive(Clone, Debug)]
pub struct RowNorm {
    gain: Option<Vec<f32>>,
    /// 1 / divisor of each row of the run.
    inverse: Vec<f32>,
    centres: bool,
}

impl RowNorm {
    fn centre(row: &mut [f32]) {
        let mean = row.iter().sum::<f32>() / row.len().max(1) as f32;
        row.iter_mut().for_each(|v| *v -= mean);
    }

    /// Takes a direction of the output at a position of the run back to one of the input.
    pub fn read(&self, row: &mut [f32], pos: usize) {
        // Without a norm nothing was divided either.
        let Some(gain) = &self.gain else { return };
        let inverse = self.inverse[pos];
        row.iter_mut().zip(gain).for_each(|(v, g)| *v *= g * inverse);
        if self.centres {
            Self::centre(row);
        }
    }

    /// As [`Self::read`] for a direction of the quotient alone, before the gain.
    pub fn read_quotient(&self, row: &mut [f32], pos: usize) {
        if self.gain.is_none() {
            return;
        }
        let inverse = self.inverse[pos];
        row.iter_mut().for_each(|v| *v *= inverse);
        if self.centres {
            Self::centre(row);
        }
    }

    /// Applies the norm to a row of the stream at a position of the run, without its offset.
    pub fn apply(&self, row: &mut [f32], pos: usize) {
        self.quotient(row, pos);
        if let Some(gain) = &self.gain {
            row.iter_mut().zip(gain).for_each(|(v, g)| *v *= g);
        }
    }

    /// As [`Self::apply`], without the gain.
    pub fn quotient(&self, row: &mut [f32], pos: usize) {
        if self.gain.is_none() {
            return;
        }
        if self.centres {
            Self::centre(row);
        }
        let inverse = self.inverse[pos];
        row.iter_mut().for_each(|v| *v *= inverse);
    }
}
