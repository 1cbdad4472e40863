//! What a probe is compared with.

use candle_core::Tensor;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::engine::kernels::to_vec;
use crate::error::{Error, Result};
use crate::memory::available;
use crate::model::Model;
use crate::model::matrix::Matrix;
use crate::model::weights::Linear;
use crate::progress::Progress;

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

/// Numbers that one stream of random numbers draws: so many parts are drawn side by side.
const DRAWN: usize = 1 << 16;

/// A model of the same shape with random weights: each matrix, the embedding of positions among them, is drawn anew, normal
/// with its own mean and deviation; norms and biases stay.
///
/// # Errors
/// The memory does not hold a second model as f32, copying from the device failed, or [`Error::Cancelled`].
pub(super) fn random_model(model: &Model, seed: u64, progress: &Progress) -> Result<Model> {
    let bytes = 4 * model.weights.named().iter().map(|(_, w)| w.elem_count() as u64).sum::<u64>();
    fits(bytes, available())?;
    let mut weights = model.weights.clone();
    let mut number = 0;
    let mut anew = |t: &Tensor| -> Result<Tensor> {
        number += 1;
        drawn(&t.contiguous()?, seed, number, progress)
    };
    if let Some(embed) = &mut weights.embed {
        *embed = Matrix::from(anew(&embed.tensor()?)?);
    }
    if let Some(positions) = &mut weights.pos_embed {
        *positions = anew(positions)?;
    }
    weights.unembed = Matrix::from(anew(&weights.unembed.tensor()?)?);
    for block in &mut weights.blocks {
        let attn = &mut block.attn;
        let mut linears: Vec<&mut Linear> = vec![&mut attn.q, &mut attn.k, &mut attn.v, &mut attn.o];
        if let Some(mlp) = &mut block.mlp {
            linears.extend([&mut mlp.input, &mut mlp.output]);
            linears.extend(mlp.gate.as_mut());
            linears.extend(mlp.router.as_mut());
        }
        for linear in linears {
            linear.weight = Matrix::from(anew(&linear.weight.tensor()?)?);
        }
    }
    Ok(Model::in_memory(model.config.clone(), weights, None, &format!("{} with random weights", model.config.name)))
}

/// Refuses what the free memory does not hold.
fn fits(bytes: u64, free: Option<u64>) -> Result<()> {
    match free {
        Some(free) if bytes > free => Err(Error::request(format!(
            "the control with random weights holds a second model of {:.1} GB, and {:.1} GB of memory are free; close other \
             programs, or take a smaller model",
            bytes as f64 / 1e9,
            free as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// As many numbers as these, normal with their mean and deviation. `number` tells the weights of a model apart.
fn drawn(t: &Tensor, seed: u64, number: u64, progress: &Progress) -> Result<Tensor> {
    let mut values = to_vec(t)?;
    let n = values.len().max(1) as f64;
    let mean = values.par_iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let deviation = (values.par_iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
    values.par_chunks_mut(DRAWN).enumerate().try_for_each(|(part, values)| {
        progress.check()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number << 32 | part as u64);
        for v in values {
            // Box and Muller.
            let (a, b): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
            let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            *v = (mean + deviation * normal) as f32;
        }
        Ok::<(), Error>(())
    })?;
    Ok(Tensor::from_vec(values, t.shape().clone(), t.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_model_has_other_weights_of_the_same_spread() {
        let model = Model::open("text").unwrap();
        let other = random_model(&model, 3, &Progress::new()).unwrap();
        let same = random_model(&model, 3, &Progress::new()).unwrap();
        let matrices = |name: &str| ["W_", "experts"].iter().any(|w| name.contains(w));
        let mut drawn = Vec::new();
        for ((name, a), ((_, b), (_, c))) in
            model.weights.named().into_iter().zip(other.weights.named().into_iter().zip(same.weights.named()))
        {
            let (a, b, c) = (a.every(1).unwrap(), b.every(1).unwrap(), c.every(1).unwrap());
            assert_eq!(b, c, "{name}: the same seed draws the same");
            if !matrices(&name) {
                assert_eq!(a, b, "{name} stays");
                continue;
            }
            let spread = |v: &[f32]| (v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
            let (x, y) = (spread(&a), spread(&b));
            assert!(a != b && (x - y).abs() < 0.1 * x, "{name}: {x} against {y}");
            drawn.push(name);
        }
        let has = |part: &str| drawn.iter().any(|n| n.contains(part));
        assert!(has("W_E") && has("attn.W_Q") && has("mlp.W_out"), "{drawn:?}");
        assert_eq!(has("W_pos"), model.weights.pos_embed.is_some());
        assert!(fits(8, Some(8)).is_ok() && fits(9, None).is_ok());
        let error = fits(9_000_000_000, Some(2_000_000_000)).unwrap_err().to_string();
        assert!(error.contains("9.0 GB") && error.contains("2.0 GB"), "{error}");
    }

    /// A model that learns where a token stands is not left its positions.
    #[test]
    fn positions_are_drawn_as_well() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/gpt2");
        let model = Model::open(folder.to_str().unwrap()).unwrap();
        let other = random_model(&model, 0, &Progress::new()).unwrap();
        let positions = |m: &Model| to_vec(m.weights.pos_embed.as_ref().unwrap()).unwrap();
        assert_ne!(positions(&model), positions(&other));
        let cancelled = Progress::new();
        cancelled.cancel();
        assert!(matches!(random_model(&model, 0, &cancelled), Err(Error::Cancelled)));
    }
}
