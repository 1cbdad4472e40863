//! Compares an approximation with the exact values of the same cells, so that it is known how far it can be trusted.

use crate::error::{Error, Result};

/// Measures of how well an approximation agrees with the exact values of the same cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// Number of cells compared: those known on both sides, except cells that are exactly zero on both (causality makes
    /// them zero, so that they prove nothing).
    pub cells: usize,
    /// Pearson's correlation; NaN where one side does not vary.
    pub correlation: f64,
    /// Spearman's rank correlation of the sizes |value|.
    pub rank_correlation: f64,
    /// Largest |approximate − exact|; `mean` is the mean of it.
    pub worst: f64,
    pub mean: f64,
    /// All compared cells as (index, approximate, exact), the largest |approximate − exact| first.
    pub disagreements: Vec<(usize, f32, f32)>,
}

/// Compares normalised values of two grids. Cells where the exact side is NaN (not run) are left out.
///
/// # Errors
/// The two grids differ in length.
pub fn audit(approximate: &[f32], exact: &[f32]) -> Result<Audit> {
    if approximate.len() != exact.len() {
        return Err(Error::failed(format!("{} estimates for {} cells", approximate.len(), exact.len())));
    }
    let mut cells: Vec<(usize, f32, f32)> = approximate
        .iter()
        .zip(exact)
        .enumerate()
        .filter(|(_, (a, e))| a.is_finite() && e.is_finite() && (**a != 0.0 || **e != 0.0))
        .map(|(i, (a, e))| (i, *a, *e))
        .collect();
    let column = |f: &dyn Fn(&(usize, f32, f32)) -> f32| cells.iter().map(|c| f64::from(f(c))).collect::<Vec<f64>>();
    let (a, e) = (column(&|c| c.1), column(&|c| c.2));
    let ranks = |v: &[f64]| {
        let mut order: Vec<usize> = (0..v.len()).collect();
        order.sort_by(|x, y| v[*x].abs().total_cmp(&v[*y].abs()));
        let mut ranks = vec![0.0; v.len()];
        // Equal values share the mean of their ranks, as Spearman's coefficient requires.
        let mut i = 0;
        while i < order.len() {
            let mut j = i;
            while j + 1 < order.len() && v[order[j + 1]].abs() == v[order[i]].abs() {
                j += 1;
            }
            for k in i..=j {
                ranks[order[k]] = (i + j) as f64 / 2.0;
            }
            i = j + 1;
        }
        ranks
    };
    let correlation = pearson(&a, &e);
    let rank_correlation = pearson(&ranks(&a), &ranks(&e));
    let gaps: Vec<f64> = a.iter().zip(&e).map(|(a, e)| (a - e).abs()).collect();
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    let mean = if gaps.is_empty() { 0.0 } else { gaps.iter().sum::<f64>() / gaps.len() as f64 };
    cells.sort_by(|x, y| (y.1 - y.2).abs().total_cmp(&(x.1 - x.2).abs()));
    Ok(Audit { cells: cells.len(), correlation, rank_correlation, worst, mean, disagreements: cells })
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_by_hand() {
        // Exact is twice the estimate but for one sign: worst gap at cell 2.
        let a = audit(&[1.0, 2.0, 3.0, 0.0], &[2.0, 4.0, -6.0, 0.0]).unwrap();
        assert_eq!(a.cells, 3);
        assert_eq!(a.disagreements[0], (2, 3.0, -6.0));
        assert!((a.worst - 9.0).abs() < 1e-9 && (a.mean - 4.0).abs() < 1e-9);
        // The last cell is zero on both sides and does not count. Means 2 and 0: Σ = −1·2 + 0·4 − 1·6 = −8;
        // Σa² = 2; Σe² = 56.
        assert!((a.correlation + 8.0 / (2.0f64 * 56.0).sqrt()).abs() < 1e-9, "{}", a.correlation);
        assert!((a.rank_correlation - 1.0).abs() < 1e-9);
        assert_eq!(audit(&[1.0, 2.0], &[f32::NAN, 2.0]).unwrap().cells, 1);
        assert!(audit(&[1.0], &[1.0, 2.0]).is_err());
    }
}
