//! The geometry of features: how many dimensions each has, and which regular shape they form together [Elhage et al.
//! 2022].
//!
//! In a toy model the row W_i is the direction of feature i in the hidden layer. With more features than dimensions the
//! rows cannot all be orthogonal; in uniform superposition they become the corners of regular polytopes. All functions
//! take `rows`, [feature][hidden].

use serde::{Deserialize, Serialize};

use crate::analysis::interference::{dot, interference};

/// Returns D* = m / ‖W‖²_F, the hidden dimensions for each feature that is represented.
pub fn dimensions_per_feature(rows: &[f32], hidden: usize) -> f32 {
    hidden as f32 / dot(rows, rows).max(f32::MIN_POSITIVE)
}

/// The dimensionalities at which features gather in uniform superposition, with the polytope whose corners they form.
pub const PLATEAUS: &[(f32, &str)] = &[
    (1.0, "dimension of its own"),
    (0.75, "tetrahedron"),
    (2.0 / 3.0, "triangle"),
    (0.5, "antipodal pair"),
    (0.4, "pentagon"),
    (0.375, "square antiprism"),
];

/// The shape that an instance's features form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Some weights are not finite: the learning rate was too high.
    Diverged,
    /// No feature is represented.
    Nothing,
    /// So many features are represented, and all of them are orthogonal.
    Orthogonal(usize),
    /// Features form pairs of opposite directions, and the pairs are orthogonal. `short` much shorter ones lie between.
    AntipodalPairs { pairs: usize, short: usize },
    /// Features are the corners of a regular polygon.
    Polygon(usize),
    /// Any other shape. Counts the features near each of [`PLATEAUS`], and those near none.
    Mixed { near: Vec<usize>, between: usize },
}

/// A feature of at least this norm is represented.
pub const REPRESENTED: f32 = 0.3;
/// A represented feature is short if its norm is below this share of the median norm.
const SHORT: f32 = 0.75;
/// Largest error, in degrees, of the angles of a regular shape.
const TOLERANCE: f32 = 6.0;

impl Shape {
    /// Returns the shape of `rows`, [feature][hidden].
    pub fn of(rows: &[f32], hidden: usize) -> Self {
        if rows.iter().any(|v| !v.is_finite()) {
            return Self::Diverged;
        }
        let measures = interference(rows, hidden);
        let norm = &measures.norm;
        let shown: Vec<usize> = (0..norm.len()).filter(|i| norm[*i] >= REPRESENTED).collect();
        if shown.is_empty() {
            return Self::Nothing;
        }
        let row = |i: usize| &rows[i * hidden..(i + 1) * hidden];
        let angle =
            |i: usize, j: usize| (dot(row(i), row(j)) / (norm[i] * norm[j])).clamp(-1.0, 1.0).acos().to_degrees();
        let close = |a: f32, b: f32| (a - b).abs() <= TOLERANCE;
        let mut sorted: Vec<f32> = shown.iter().map(|i| norm[*i]).collect();
        sorted.sort_by(f32::total_cmp);
        let median = sorted[sorted.len() / 2];
        let (long, short): (Vec<usize>, Vec<usize>) = shown.iter().partition(|i| norm[**i] >= SHORT * median);
        if long.len() <= 64 {
            let all = |f: &dyn Fn(f32) -> bool| {
                long.iter().enumerate().all(|(k, i)| long[k + 1..].iter().all(|j| f(angle(*i, *j))))
            };
            if short.is_empty() && all(&|a| close(a, 90.0)) {
                return Self::Orthogonal(long.len());
            }
            let opposite = long.iter().filter(|i| long.iter().any(|j| j != *i && close(angle(**i, *j), 180.0))).count();
            if opposite == long.len() && long.len().is_multiple_of(2) && all(&|a| close(a, 90.0) || close(a, 180.0)) {
                return Self::AntipodalPairs { pairs: long.len() / 2, short: short.len() };
            }
            if hidden == 2 && short.is_empty() && long.len() >= 3 {
                let mut turns: Vec<f32> = long.iter().map(|i| row(*i)[1].atan2(row(*i)[0]).to_degrees()).collect();
                turns.sort_by(f32::total_cmp);
                let k = turns.len();
                let regular = (0..k).all(|i| {
                    let gap = if i + 1 < k { turns[i + 1] - turns[i] } else { turns[0] + 360.0 - turns[i] };
                    close(gap, 360.0 / k as f32)
                });
                if regular {
                    return Self::Polygon(k);
                }
            }
        }
        let mut near = vec![0; PLATEAUS.len()];
        let mut between = 0;
        for i in shown {
            let d = measures.dimensionality[i];
            match PLATEAUS.iter().position(|(p, _)| (p - d).abs() < 0.0125 + 0.02 * p) {
                Some(k) => near[k] += 1,
                None => between += 1,
            }
        }
        Self::Mixed { near, between }
    }

    /// Returns the shape in words.
    pub fn label(&self) -> String {
        let plural = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
        match self {
            Self::Diverged => "diverged".to_owned(),
            Self::Nothing => "nothing represented".to_owned(),
            Self::Orthogonal(1) => "1 feature alone".to_owned(),
            Self::Orthogonal(n) => format!("{n} orthogonal features"),
            Self::AntipodalPairs { pairs, short: 0 } => plural(*pairs, "antipodal pair"),
            Self::AntipodalPairs { pairs, short } => {
                format!("{}, {short} short", plural(*pairs, "antipodal pair"))
            }
            Self::Polygon(3) => "triangle".to_owned(),
            Self::Polygon(4) => "square".to_owned(),
            Self::Polygon(5) => "pentagon".to_owned(),
            Self::Polygon(6) => "hexagon".to_owned(),
            Self::Polygon(n) => format!("regular {n}-gon"),
            Self::Mixed { near, between } => {
                let mut parts: Vec<String> = near
                    .iter()
                    .zip(PLATEAUS)
                    .filter(|(n, _)| **n > 0)
                    .map(|(n, (d, _))| format!("{n} at D {}", fraction(*d)))
                    .collect();
                if *between > 0 {
                    parts.push(format!("{between} between"));
                }
                parts.join(", ")
            }
        }
    }
}

/// Returns the plateau next to `d` as the fraction that the paper writes.
pub fn fraction(d: f32) -> &'static str {
    const NAMES: [(f32, &str); 6] =
        [(1.0, "1"), (0.75, "3/4"), (2.0 / 3.0, "2/3"), (0.5, "1/2"), (0.4, "2/5"), (0.375, "3/8")];
    NAMES.iter().min_by(|a, b| (a.0 - d).abs().total_cmp(&(b.0 - d).abs())).map_or("", |n| n.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(k: usize, norm: f32) -> Vec<f32> {
        (0..k)
            .flat_map(|i| {
                let a = i as f32 * std::f32::consts::TAU / k as f32 + 0.3;
                [norm * a.cos(), norm * a.sin()]
            })
            .collect()
    }

    #[test]
    fn regular_figures_have_the_papers_dimensionalities() {
        for (k, d) in [(2, 0.5), (3, 2.0 / 3.0), (4, 0.5), (5, 0.4)] {
            let m = interference(&ring(k, 1.1), 2);
            assert!(m.dimensionality.iter().all(|v| (v - d).abs() < 1e-5), "{k}: {:?}", m.dimensionality);
        }
        let tetrahedron = [1., 1., 1., 1., -1., -1., -1., 1., -1., -1., -1., 1.];
        assert!(interference(&tetrahedron, 3).dimensionality.iter().all(|v| (v - 0.75).abs() < 1e-6));
        // A square antiprism of equal norms: eight vectors that fill three dimensions evenly.
        assert!((dimensions_per_feature(&ring(5, 1.0), 2) - 0.4).abs() < 1e-6);
    }

    #[test]
    fn shapes_are_named() {
        assert_eq!(Shape::of(&ring(5, 1.13), 2), Shape::Polygon(5));
        assert_eq!(Shape::of(&ring(4, 1.0), 2), Shape::AntipodalPairs { pairs: 2, short: 0 });
        let mut five = ring(4, 1.0);
        five.extend([0.3, 0.3]);
        assert_eq!(Shape::of(&five, 2), Shape::AntipodalPairs { pairs: 2, short: 1 });
        assert_eq!(Shape::of(&[1.0, 0.0, 0.01, 1.0, 0.0, 0.1, 0.0, 0.0], 2), Shape::Orthogonal(2));
        assert_eq!(Shape::of(&[0.0; 4], 2), Shape::Nothing);
        assert_eq!(Shape::of(&[0.0, f32::NAN], 2), Shape::Diverged);
        let mut bent = ring(5, 1.0);
        (bent[0], bent[1]) = (0.0, 1.0);
        assert!(matches!(Shape::of(&bent, 2), Shape::Mixed { .. }));
        for s in [Shape::of(&bent, 2), Shape::Orthogonal(2), Shape::Nothing] {
            assert!(!s.label().is_empty());
        }
    }

    #[test]
    fn interference_by_hand() {
        // W_0 = (2, 0), W_1 = (1, 1): Ŵ_0·W_1 = 1, Ŵ_1·W_0 = √2.
        let m = interference(&[2.0, 0.0, 1.0, 1.0], 2);
        assert!((m.superposition[0] - 1.0).abs() < 1e-6);
        assert!((m.superposition[1] - 2.0).abs() < 1e-6);
        assert!((m.dimensionality[0] - 0.8).abs() < 1e-6 && (m.dimensionality[1] - 0.5).abs() < 1e-6);
        assert_eq!(
            crate::analysis::interference::gram(&[2.0, 0.0, 1.0, 1.0], &[2.0, 0.0, 1.0, 1.0], 2),
            [4.0, 2.0, 2.0, 2.0]
        );
    }
}
