//! The phase diagram of superposition, in closed form and as trained [Elhage et al. 2022, "Superposition as a phase
//! change"].
//!
//! A model has one feature too many for its dimensions: an extra feature of relative importance r beside one (n = 2, m
//! = 1) or two (n = 3, m = 2) of importance 1. It ignores the extra feature, gives it a dimension of its own, or stores
//! it in superposition. Which of these is best depends on r and on the feature density p, and it changes abruptly, as
//! the phase of a substance does.
//!
//! The closed form compares the expected losses of these solutions. V = p/3 − p²/4 is the variance of a feature, and
//! E[min(x, y)²] = 1/6 for two active features.
//!
//! - The extra feature is ignored, and its bias is its mean: r V.
//! - The extra feature has a dimension of its own: V for n = 2, where the other one is given up. For n = 3 the smaller
//!   of V and p²/3, where the two others are antipodal.
//! - The extra feature is antipodal to another: (1 + r) p²/6.

use serde::{Deserialize, Serialize};

use super::toy::Frame;
use crate::analysis::interference::{Interference, interference};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Ignored,
    Superposed,
    Dedicated,
}

impl Phase {
    pub const ALL: [Self; 3] = [Self::Ignored, Self::Superposed, Self::Dedicated];

    pub fn label(self) -> &'static str {
        match self {
            Self::Ignored => "not represented",
            Self::Superposed => "in superposition",
            Self::Dedicated => "a dimension of its own",
        }
    }
}

/// Returns the expected losses of the solutions, in the order of [`Phase::ALL`].
pub fn losses(features: usize, density: f32, importance: f32) -> [f32; 3] {
    let (p, r) = (density, importance);
    let variance = p / 3.0 - p * p / 4.0;
    let alone = if features == 2 { variance } else { variance.min(p * p / 3.0) };
    [r * variance, (1.0 + r) * p * p / 6.0, alone]
}

/// Returns the phase with the smallest expected loss.
pub fn expected(features: usize, density: f32, importance: f32) -> Phase {
    let l = losses(features, density, importance);
    let best = (0..3).min_by(|a, b| l[*a].total_cmp(&l[*b])).unwrap_or(0);
    Phase::ALL[best]
}

/// Returns by how much the second best phase is worse, as a share of its loss. It is small near a boundary.
pub fn margin(features: usize, density: f32, importance: f32) -> f32 {
    let mut l = losses(features, density, importance);
    l.sort_by(f32::total_cmp);
    (l[1] - l[0]) / l[1].max(f32::MIN_POSITIVE)
}

/// Returns the phase of the last feature of a trained model.
pub fn observed(frame: &Frame, hidden: usize) -> Phase {
    phase_of(&interference(&frame.encoder, hidden))
}

/// Returns the phase of the last feature, from measures of all.
pub fn phase_of(m: &Interference) -> Phase {
    match (m.norm.last(), m.superposition.last()) {
        (Some(norm), _) if *norm < 0.5 => Phase::Ignored,
        (_, Some(s)) if *s > 0.25 => Phase::Superposed,
        _ => Phase::Dedicated,
    }
}

/// A grid of models over feature density (columns) and relative importance of the last feature (rows). Both scales are
/// logarithmic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Falling, from 1 on.
    pub densities: Vec<f32>,
    /// Rising.
    pub importances: Vec<f32>,
    /// Number of models trained for each cell. The one with the smallest loss counts.
    pub tries: usize,
}

impl Grid {
    /// Returns a grid of `side` densities from 1 to 0.01 and as many importances from 0.1 to 10.
    pub fn new(side: usize, tries: usize) -> Self {
        let at = |k: usize| k as f32 / side.saturating_sub(1).max(1) as f32;
        Self {
            densities: (0..side).map(|k| 0.01f32.powf(at(k))).collect(),
            importances: (0..side).map(|k| 0.1 * 100f32.powf(at(k))).collect(),
            tries: tries.max(1),
        }
    }

    pub fn cells(&self) -> usize {
        self.densities.len() * self.importances.len()
    }

    /// Returns the index of the instance that is try `k` of a cell.
    pub fn index(&self, row: usize, column: usize, k: usize) -> usize {
        (row * self.densities.len() + column) * self.tries + k
    }

    /// Returns the last feature's importance and the density of every model, cell by cell.
    pub fn models(&self) -> impl Iterator<Item = (f32, f32)> {
        let cell = |r: &f32| self.densities.iter().map(|p| (*r, *p)).collect::<Vec<_>>();
        self.importances.iter().flat_map(cell).flat_map(|c| std::iter::repeat_n(c, self.tries))
    }

    /// Returns the try with the smallest loss of each cell, row by row.
    pub fn best<'a>(&self, frames: &'a [Frame]) -> Vec<&'a Frame> {
        let loss = |f: &Frame| if f.loss().is_finite() { f.loss() } else { f32::INFINITY };
        frames.chunks(self.tries).filter_map(|c| c.iter().min_by(|a, b| loss(a).total_cmp(&loss(b)))).collect()
    }

    /// Compares trained models with the closed form, at the cells whose [`margin`] is at least `least`. Returns how
    /// many are in the expected phase, and how many cells there are.
    pub fn agreement(&self, features: usize, hidden: usize, frames: &[Frame], least: f32) -> (usize, usize) {
        let (mut same, mut all) = (0, 0);
        let mut best = self.best(frames).into_iter();
        for r in &self.importances {
            for p in &self.densities {
                let Some(frame) = best.next() else { continue };
                if margin(features, *p, *r) >= least {
                    all += 1;
                    same += usize::from(observed(frame, hidden) == expected(features, *p, *r));
                }
            }
        }
        (same, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the mean loss of W for independent features, by brute force over a grid of values.
    fn integrate(w: &[[f32; 1]; 2], b: [f32; 2], p: f32, r: f32) -> f32 {
        let n = 200;
        let mut total = 0.0;
        let loss = |x: [f32; 2]| {
            let h = w[0][0] * x[0] + w[1][0] * x[1];
            let e: Vec<f32> = (0..2).map(|i| (w[i][0] * h + b[i]).max(0.0) - x[i]).collect();
            e[0] * e[0] + r * e[1] * e[1]
        };
        let mid = |k: usize| (k as f32 + 0.5) / n as f32;
        for i in 0..n {
            let x = mid(i);
            total += p * (1.0 - p) * (loss([x, 0.0]) + loss([0.0, x])) / n as f32;
            for j in 0..n {
                total += p * p * loss([x, mid(j)]) / (n * n) as f32;
            }
        }
        total + (1.0 - p) * (1.0 - p) * loss([0.0, 0.0])
    }

    #[test]
    fn the_closed_form_is_the_integral() {
        for (p, r) in [(1.0, 0.5), (0.5, 0.7), (0.1, 3.0)] {
            let [ignored, superposed, dedicated] = losses(2, p, r);
            let close = |a: f32, b: f32| assert!((a - b).abs() < 2e-3 * b.max(0.01), "{a} against {b}");
            close(integrate(&[[1.0], [0.0]], [0.0, p / 2.0], p, r), ignored);
            close(integrate(&[[1.0], [-1.0]], [0.0, 0.0], p, r), superposed);
            close(integrate(&[[0.0], [1.0]], [p / 2.0, 0.0], p, r), dedicated);
        }
    }

    #[test]
    fn dense_and_unimportant_is_ignored() {
        assert_eq!(expected(2, 1.0, 0.5), Phase::Ignored);
        assert_eq!(expected(2, 1.0, 2.0), Phase::Dedicated);
        assert_eq!(expected(2, 0.05, 1.0), Phase::Superposed);
        assert_eq!(expected(3, 0.05, 9.0), Phase::Dedicated);
        let grid = Grid::new(5, 2);
        assert_eq!(grid.models().count(), 50);
        assert_eq!(grid.models().nth(grid.index(1, 4, 1)), Some((grid.importances[1], grid.densities[4])));
        assert!((grid.densities[4] - 0.01).abs() < 1e-6 && (grid.importances[4] - 10.0).abs() < 1e-4);
    }
}
