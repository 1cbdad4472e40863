//! The cells of a batch, [rows, features], in which something happens: a list of a few, or all of them where they are
//! many. Products over a list cost as much as it is long; over all cells they are dense matrix products.

use rayon::prelude::*;

use super::maths::{Matrix, add_scaled, dot, product};
use crate::engine::kernels::buffer;
use crate::engine::kernels::math::simd;

/// Above this share of all cells the dense products are faster.
const DENSE: f32 = 0.06;

/// Chosen cells and what x·W is in each, without bias.
pub enum Cells {
    List(List),
    All { rows: usize, features: usize, z: Vec<f32> },
}

/// Some cells, by row and by feature.
pub struct List {
    rows: usize,
    n_features: usize,
    /// Row r has the entries `starts[r]..starts[r + 1]`.
    starts: Vec<usize>,
    features: Vec<u32>,
    z: Vec<f32>,
    /// Feature f has the entries `order[by_feature[f]..by_feature[f + 1]]`, as (row, entry).
    by_feature: Vec<usize>,
    order: Vec<(u32, u32)>,
}

impl List {
    fn new(rows: Vec<Vec<(u32, f32)>>, n_features: usize) -> Self {
        let mut starts = vec![0];
        let mut by_feature = vec![0usize; n_features + 1];
        let (mut features, mut z) = (Vec::new(), Vec::new());
        for row in &rows {
            for (f, v) in row {
                features.push(*f);
                z.push(*v);
                by_feature[*f as usize + 1] += 1;
            }
            starts.push(features.len());
        }
        for f in 0..n_features {
            by_feature[f + 1] += by_feature[f];
        }
        let mut order = vec![(0, 0); features.len()];
        let mut next = by_feature.clone();
        for r in 0..rows.len() {
            for e in starts[r]..starts[r + 1] {
                let slot = &mut next[features[e] as usize];
                order[*slot] = (r as u32, e as u32);
                *slot += 1;
            }
        }
        Self { rows: rows.len(), n_features, starts, features, z, by_feature, order }
    }

    fn of_feature(&self, f: usize) -> &[(u32, u32)] {
        &self.order[self.by_feature[f]..self.by_feature[f + 1]]
    }
}

impl Cells {
    /// The cells that `chosen(feature, z)` names, out of `z` [rows, features].
    pub fn choose(z: Vec<f32>, features: usize, chosen: impl Fn(usize, f32) -> bool + Sync) -> Self {
        let rows = z.len() / features.max(1);
        // A few rows tell whether they are many.
        let sample = (rows / 16).max(1);
        let some: usize =
            (0..rows).step_by(sample).map(|r| (0..features).filter(|f| chosen(*f, z[r * features + f])).count()).sum();
        let seen = rows.div_ceil(sample).max(1) * features;
        if some as f32 > DENSE * seen as f32 {
            return Self::All { rows, features, z };
        }
        let lists = z
            .par_chunks(features)
            .map(|row| {
                row.iter().enumerate().filter(|(f, v)| chosen(*f, **v)).map(|(f, v)| (f as u32, *v)).collect::<Vec<_>>()
            })
            .collect();
        Self::list(lists, features)
    }

    pub fn list(rows: Vec<Vec<(u32, f32)>>, features: usize) -> Self {
        Self::List(List::new(rows, features))
    }

    /// A value for each cell from its feature and z.
    pub fn map(&self, make: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
        match self {
            Self::List(l) => l.features.par_iter().zip(&l.z).map(|(f, z)| make(*f as usize, *z)).collect(),
            Self::All { features, z, .. } => {
                let mut out = buffer(z.len());
                out.par_chunks_mut(*features).zip(z.par_chunks(*features)).for_each(|(out, z)| {
                    simd(|| out.iter_mut().zip(z).enumerate().for_each(|(f, (o, z))| *o = make(f, *z)));
                });
                out
            }
        }
    }

    /// Changes another value of each cell, given its feature, z and that value.
    pub fn map_with(&self, mut other: Vec<f32>, make: impl Fn(usize, f32, f32) -> f32 + Sync) -> Vec<f32> {
        match self {
            Self::List(l) => {
                let cells = other.par_iter_mut().zip(&l.features).zip(&l.z);
                cells.for_each(|((o, f), z)| *o = make(*f as usize, *z, *o));
            }
            Self::All { features, z, .. } => {
                other.par_chunks_mut(*features).zip(z.par_chunks(*features)).for_each(|(other, z)| {
                    simd(|| other.iter_mut().zip(z).enumerate().for_each(|(f, (o, z))| *o = make(f, *z, *o)));
                });
            }
        }
        other
    }

    /// out[row] += Σ values · w[feature], for w [features, d].
    pub fn times(&self, values: &[f32], w: &[f32], d: usize, out: &mut [f32]) {
        match self {
            Self::List(l) => out.par_chunks_mut(d).enumerate().for_each(|(r, row)| {
                simd(|| {
                    let span = l.starts[r]..l.starts[r + 1];
                    for (f, v) in l.features[span.clone()].iter().zip(&values[span]) {
                        let f = *f as usize;
                        if *v != 0.0 {
                            add_scaled(row, *v, &w[f * d..(f + 1) * d]);
                        }
                    }
                });
            }),
            Self::All { rows, features, .. } => {
                product(out, Matrix::new(values, *rows, *features), Matrix::new(w, *features, d), 1.0, true);
            }
        }
    }

    /// For each cell its row of `x` times its feature's row of `w`, both d wide, times `scale`.
    pub fn dots(&self, x: &[f32], w: &[f32], d: usize, scale: f32) -> Vec<f32> {
        match self {
            Self::List(l) => {
                let parts: Vec<Vec<f32>> = (0..l.rows)
                    .into_par_iter()
                    .map(|r| {
                        let row = &x[r * d..(r + 1) * d];
                        let features = &l.features[l.starts[r]..l.starts[r + 1]];
                        let one = |f: &u32| scale * dot(row, &w[*f as usize * d..(*f as usize + 1) * d]);
                        simd(|| features.iter().map(one).collect())
                    })
                    .collect();
                parts.concat()
            }
            Self::All { rows, features, .. } => {
                let mut out = buffer(rows * features);
                product(&mut out, Matrix::new(x, *rows, d), Matrix::new(w, *features, d).t(), scale, false);
                out
            }
        }
    }

    /// out[feature] += Σ weight · x[row], for x [rows, d] and out [features, d].
    pub fn gather(&self, weights: &[f32], x: &[f32], d: usize, out: &mut [f32]) {
        match self {
            Self::List(l) => out.par_chunks_mut(d).enumerate().for_each(|(f, row)| {
                simd(|| {
                    for (r, e) in l.of_feature(f) {
                        let (r, weight) = (*r as usize, weights[*e as usize]);
                        if weight != 0.0 {
                            add_scaled(row, weight, &x[r * d..(r + 1) * d]);
                        }
                    }
                });
            }),
            Self::All { rows, features, .. } => {
                product(out, Matrix::new(weights, *rows, *features).t(), Matrix::new(x, *rows, d), 1.0, true);
            }
        }
    }

    /// Σ of the cells' values, by feature.
    pub fn sums(&self, values: &[f32]) -> Vec<f32> {
        match self {
            Self::List(l) => {
                (0..l.n_features).map(|f| l.of_feature(f).iter().map(|(_, e)| values[*e as usize]).sum()).collect()
            }
            Self::All { rows, features, .. } => {
                let part = rows.div_ceil(4 * rayon::current_num_threads()).max(1);
                let parts: Vec<Vec<f32>> = values
                    .par_chunks(part * features)
                    .map(|rows| {
                        let mut out = vec![0f32; *features];
                        rows.chunks_exact(*features).for_each(|row| simd(|| add_scaled(&mut out, 1.0, row)));
                        out
                    })
                    .collect();
                // Added in order, so that the result does not depend on which thread was first.
                let mut out = vec![0f32; *features];
                parts.iter().for_each(|p| add_scaled(&mut out, 1.0, p));
                out
            }
        }
    }

    /// Marks features that have a cell with a value above zero; the number of such cells, and the sum of all values.
    pub fn active(&self, values: &[f32], fired: &mut [bool]) -> (usize, f32) {
        // Of each feature its cells above zero and their sum.
        let mut seen = vec![(0u32, 0f32); fired.len()];
        let add = |seen: &mut (u32, f32), v: f32| {
            seen.0 += u32::from(v > 0.0);
            seen.1 += v;
        };
        match self {
            Self::List(l) => l.features.iter().zip(values).for_each(|(f, v)| add(&mut seen[*f as usize], *v)),
            Self::All { rows, features, .. } => {
                let part = rows.div_ceil(rayon::current_num_threads()).max(1);
                let parts: Vec<Vec<(u32, f32)>> = values
                    .par_chunks(part * features)
                    .map(|rows| {
                        let mut out = vec![(0, 0.0); *features];
                        let row = |row: &[f32]| simd(|| out.iter_mut().zip(row).for_each(|(s, v)| add(s, *v)));
                        rows.chunks_exact(*features).for_each(row);
                        out
                    })
                    .collect();
                for part in parts {
                    seen.iter_mut().zip(part).for_each(|(s, p)| *s = (s.0 + p.0, s.1 + p.1));
                }
            }
        }
        fired.iter_mut().zip(&seen).for_each(|(f, s)| *f |= s.0 > 0);
        (seen.iter().map(|s| s.0 as usize).sum(), seen.iter().map(|s| s.1).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_all_cells_give_the_same() {
        let z = vec![2.0, -1.0, 1.0, -1.0, -1.0, -1.0, -3.0, -1.0, 4.0];
        let relu = |_: usize, z: f32| z.max(0.0);
        let positive: Vec<Vec<(u32, f32)>> =
            z.chunks(3).map(|r| (0..3).filter(|f| r[*f] > 0.0).map(|f| (f as u32, r[f])).collect()).collect();
        let list = Cells::list(positive, 3);
        let all = Cells::choose(z, 3, |_, z| z > 0.0);
        assert!(matches!(all, Cells::All { .. }), "a third of all cells is many");
        let w = [1.0, 0.0, 0.0, 1.0, 3.0, 3.0];
        let x = [1.0, 1.0, 5.0, 5.0, 2.0, 0.0];
        let run = |c: &Cells| {
            let a = c.map(relu);
            let mut recon = vec![0.0; 6];
            c.times(&a, &w, 2, &mut recon);
            let grads = c.map_with(c.dots(&x, &w, 2, 0.5), |_, z, g| if z > 0.0 { g } else { 0.0 });
            let mut gathered = vec![0.0; 6];
            c.gather(&grads, &x, 2, &mut gathered);
            let mut fired = vec![false; 3];
            let seen = c.active(&a, &mut fired);
            (recon, gathered, c.sums(&grads), fired, seen)
        };
        let (l, a) = (run(&list), run(&all));
        assert_eq!(l, a);
        assert_eq!(l.0, [5.0, 3.0, 0.0, 0.0, 12.0, 12.0]);
        // Row 0: ½(x·w0) = ½, ½(x·w2) = 3; row 2: ½(x·w2) = 3.
        assert_eq!(l.2, [0.5, 0.0, 6.0]);
        assert_eq!(l.1, [0.5, 0.5, 0.0, 0.0, 9.0, 3.0]);
        assert_eq!(l.3, [true, false, true]);
        assert_eq!(l.4, (3, 7.0));
    }
}
