//! What a probe is compared with.

use candle_core::Tensor;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::kernels::to_vec;
use crate::error::Result;
use crate::model::Model;
use crate::model::matrix::Matrix;
use crate::model::weights::Linear;

/// Labels shuffled within the training and within the held-out texts.
pub(super) fn shuffled(labels: &[usize], test: &[bool], seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = labels.to_vec();
    for side in [false, true] {
        let places: Vec<usize> = (0..labels.len()).filter(|i| test[*i] == side).collect();
        let mut values: Vec<usize> = places.iter().map(|i| labels[*i]).collect();
        values.shuffle(&mut rng);
        places.into_iter().zip(values).for_each(|(i, v)| out[i] = v);
    }
    out
}

/// `k` of `width` coordinates at random, sorted.
pub(super) fn coordinates(width: usize, k: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..width).collect();
    all.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    all.truncate(k.max(1));
    all.sort_unstable();
    all
}

/// A model of the same shape with random weights: each matrix is drawn anew, normal with its own mean and deviation; norms
/// and biases stay.
///
/// # Errors
/// Copying from the device failed.
pub(super) fn random_model(model: &Model, seed: u64) -> Result<Model> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = model.weights.clone();
    let mut anew = |m: &mut Matrix| -> Result<()> {
        let t = m.tensor()?.contiguous()?;
        let values = to_vec(&t)?;
        let n = values.len().max(1) as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let deviation = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let mut normal = || {
            // Box and Muller.
            let (a, b): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
            (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
        };
        let drawn: Vec<f32> = (0..values.len()).map(|_| (mean + deviation * normal()) as f32).collect();
        *m = Matrix::from(Tensor::from_vec(drawn, t.shape().clone(), t.device())?);
        Ok(())
    };
    if let Some(embed) = &mut weights.embed {
        anew(embed)?;
    }
    anew(&mut weights.unembed)?;
    for block in &mut weights.blocks {
        let attn = &mut block.attn;
        let mut linears: Vec<&mut Linear> = vec![&mut attn.q, &mut attn.k, &mut attn.v, &mut attn.o];
        if let Some(mlp) = &mut block.mlp {
            linears.extend([&mut mlp.input, &mut mlp.output]);
            linears.extend(mlp.gate.as_mut());
            linears.extend(mlp.router.as_mut());
        }
        linears.into_iter().try_for_each(|l| anew(&mut l.weight))?;
    }
    Ok(Model::in_memory(model.config.clone(), weights, None, &format!("{} with random weights", model.config.name)))
}
