//! How directions share a space: norms, interference and dimensionality [Elhage et al. 2022, Toy models of superposition].
//! All functions take rows, [feature][hidden]: the columns of a toy model's W, embedding rows, neurons' output vectors
//! and dictionary decoders alike.

use serde::{Deserialize, Serialize};

/// ‖W_i‖ for each row.
pub fn norms(rows: &[f32], hidden: usize) -> Vec<f32> {
    rows.chunks(hidden.max(1)).map(|r| dot(r, r).sqrt()).collect()
}

/// The scalar product.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// W Wᵀ, [feature][feature]: how much of feature j arrives at output i is entry (i, j) of the decoder times the
/// encoder.
pub fn gram(decoder: &[f32], encoder: &[f32], hidden: usize) -> Vec<f32> {
    let m = hidden.max(1);
    decoder.chunks(m).flat_map(|d| encoder.chunks(m).map(move |e| dot(d, e))).collect()
}

/// Of each row, what the others do to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interference {
    /// ‖W_i‖
    pub norm: Vec<f32>,
    /// Σ_{j≠i} (Ŵ_i · W_j)²: 0 for a feature with a dimension of its own.
    pub superposition: Vec<f32>,
    /// D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)²: the fraction of a dimension that feature i has. 0 for a row of zeros.
    pub dimensionality: Vec<f32>,
}

/// The measures of every row, against all rows. Σ_j (Ŵ_i · W_j)² is Ŵ_iᵀ (Σ_j W_j W_jᵀ) Ŵ_i, which costs m² a row
/// rather than n m.
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

/// The measures, once the norms and the matrix of second moments, [hidden][hidden], are there.
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
