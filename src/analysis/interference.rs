//! Measures how directions share a space [Elhage et al. 2022, "Toy Models of Superposition"].
//!
//! Where there are more directions than dimensions, they overlap: reading one feature also reads a part of others. For
//! a direction W_i with unit vector Ŵ_i the measures are
//! - its norm ‖W_i‖: whether it is represented at all,
//! - its superposition Σ_{j≠i} (Ŵ_i · W_j)²: how much the others disturb it,
//! - its dimensionality ‖W_i‖² / Σ_j (Ŵ_i · W_j)²: the fraction of a dimension that it has.
//!
//! All functions take rows, [feature][hidden]: columns of a toy model's W, embedding rows, output vectors of neurons,
//! or decoder rows of a dictionary.

use serde::{Deserialize, Serialize};

/// Returns ‖W_i‖ for each row.
pub fn norms(rows: &[f32], hidden: usize) -> Vec<f32> {
    rows.chunks(hidden.max(1)).map(|r| dot(r, r).sqrt()).collect()
}

/// Returns the dot product of two rows.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns the product of decoder and encoder, [feature][feature] (W Wᵀ where both are W): entry (i, j) says how much
/// of feature j arrives at output i.
pub fn gram(decoder: &[f32], encoder: &[f32], hidden: usize) -> Vec<f32> {
    let m = hidden.max(1);
    decoder.chunks(m).flat_map(|d| encoder.chunks(m).map(move |e| dot(d, e))).collect()
}

/// The measures of every row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interference {
    /// ‖W_i‖
    pub norm: Vec<f32>,
    /// Σ_{j≠i} (Ŵ_i · W_j)²; 0 for a feature with a dimension of its own.
    pub superposition: Vec<f32>,
    /// D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)², the fraction of a dimension that feature i has; 0 for a row of zeros.
    pub dimensionality: Vec<f32>,
}

/// Measures every row against all rows. Σ_j (Ŵ_i · W_j)² is computed as Ŵ_iᵀ (Σ_j W_j W_jᵀ) Ŵ_i, which for n rows of m
/// numbers costs m² a row rather than n m.
pub fn interference(rows: &[f32], hidden: usize) -> Interference {
    let m = hidden.max(1);
    let norm = norms(rows, m);
    let mut moment = vec![0f64; m * m];
    for r in rows.chunks(m) {
        for (a, line) in r.iter().zip(moment.chunks_mut(m)) {
            for (b, sum) in r.iter().zip(line) {
                *sum += f64::from(a * b);
            }
        }
    }
    measured(rows, norm, &moment)
}

/// Measures rows whose norms are known, and the matrix of second moments Σ_j W_j W_jᵀ, [hidden][hidden].
pub fn measured(rows: &[f32], norm: Vec<f32>, moment: &[f64]) -> Interference {
    let m = moment.len().isqrt().max(1);
    let both = rows.chunks(m).zip(&norm).map(|(r, n)| {
        if *n <= f32::MIN_POSITIVE {
            return (0.0, 0.0);
        }
        let own = f64::from(*n) * f64::from(*n);
        let all: f64 = r
            .iter()
            .zip(moment.chunks(m))
            .map(|(a, line)| f64::from(*a) * r.iter().zip(line).map(|(b, s)| f64::from(*b) * s).sum::<f64>())
            .sum::<f64>()
            / own;
        ((all - own).max(0.0) as f32, (own / all.max(own)) as f32)
    });
    let (superposition, dimensionality) = both.unzip();
    Interference { norm, superposition, dimensionality }
}
