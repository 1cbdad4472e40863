//! The cells of a batch, [rows, features], in which something happens: a list of a few, or all of them where they are
//! many. Products over a list cost as much as it is long; over all cells they are dense matrix products.

use std::ops::Range;

use rayon::prelude::*;

use super::maths::{Matrix, add_rows, add_scaled, dot, product};
use super::row_kernels::{Activate, Map, Merge, Per, Rectify, Slope};
use crate::engine::kernels::math::simd;

/// Above this share of all cells the dense products are faster.
const DENSE: f32 = 0.06;

/// Rows that one thread works on at a time: the same on every machine, and so are sums over them.
const PART: usize = 64;

/// What is seen of the activations of some positions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Cells above zero.
    pub active: usize,
    /// Sum of all.
    pub total: f32,
}

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

    fn activity(&self, values: &[f32], fired: &mut [bool]) -> Activity {
        self.features.iter().zip(values).for_each(|(f, v)| fired[*f as usize] |= *v > 0.0);
        Activity { active: values.iter().filter(|v| **v > 0.0).count(), total: values.iter().sum() }
    }

    /// Row r of [`Cells::times`].
    #[inline(always)]
    fn times(&self, r: usize, values: &[f32], w: &[f32], d: usize, out: &mut [f32]) {
        let span = self.starts[r]..self.starts[r + 1];
        let cells = self.features[span.clone()].iter().zip(&values[span]).filter(|(_, v)| **v != 0.0);
        add_rows(out, cells.map(|(f, v)| (*v, &w[*f as usize * d..][..d])));
    }

    /// Row r of [`Cells::dots`].
    #[inline(always)]
    fn dots(&self, r: usize, x: &[f32], w: &[f32], d: usize, scale: f32) -> Vec<f32> {
        let features = &self.features[self.starts[r]..self.starts[r + 1]];
        features.iter().map(|f| scale * dot(x, &w[*f as usize * d..][..d])).collect()
    }

    fn of_feature(&self, f: usize) -> &[(u32, u32)] {
        &self.order[self.by_feature[f]..self.by_feature[f + 1]]
    }
}

/// What [`Cells::slopes`] made, and its sums by feature.
pub struct Slopes {
    pub values: Vec<f32>,
    pub sums: Vec<f32>,
    pub beside: Vec<f32>,
}

/// Goes over parts of rows, [rows, features] each, and puts together what `row` sees of every row: cells above zero, their
/// sum, and the largest value of each feature so far, which it keeps.
fn seen<'a, T: Send>(
    parts: impl IndexedParallelIterator<Item = T>,
    n: usize,
    fired: &mut [bool],
    row: impl Fn(T, &mut [f32], &mut Activity) + Sync + 'a,
) -> Activity {
    let part = |rows: T| {
        let (mut seen, mut most) = (Activity::default(), vec![0f32; n]);
        row(rows, &mut most, &mut seen);
        (seen, most)
    };
    let parts: Vec<(Activity, Vec<f32>)> = parts.map(part).collect();
    let mut all = Activity::default();
    for (part, most) in parts {
        all.active += part.active;
        all.total += part.total;
        fired.iter_mut().zip(&most).for_each(|(f, m)| *f |= *m > 0.0);
    }
    all
}

impl Activity {
    fn add(&mut self, (active, total): (u32, f32)) {
        self.active += active as usize;
        self.total += total;
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

    /// A value for each cell from z and its feature's numbers.
    pub fn map(&self, per: Per<'_>, make: impl Fn(f32, [f32; 3]) -> f32 + Sync) -> Vec<f32> {
        match self {
            Self::List(l) => l.features.par_iter().zip(&l.z).map(|(f, z)| make(*z, of(per, *f))).collect(),
            Self::All { features: n, z, .. } => {
                let mut values = vec![0.0; z.len()];
                values.par_chunks_mut(PART * n).zip(z.par_chunks(PART * n)).for_each(|(out, z)| {
                    for (out, z) in out.chunks_exact_mut(*n).zip(z.chunks_exact(*n)) {
                        pulp::Arch::new().dispatch(Map { out, z, per, make: &make });
                    }
                });
                values
            }
        }
    }

    /// The values of some features' cells, 0 in all others.
    pub fn within(&self, values: &[f32], some: &Range<usize>) -> Vec<f32> {
        match self {
            Self::List(l) => {
                let keep = |(f, v): (&u32, &f32)| if some.contains(&(*f as usize)) { *v } else { 0.0 };
                l.features.iter().zip(values).map(keep).collect()
            }
            Self::All { features, .. } => {
                let keep = |(i, v): (usize, &f32)| if some.contains(&(i % features)) { *v } else { 0.0 };
                values.iter().enumerate().map(keep).collect()
            }
        }
    }

    /// What the cells hold: x·W, or what [`Self::rectify`] made of it.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::List(l) => &l.z,
            Self::All { z, .. } => z,
        }
    }

    /// Puts max(z + bias, 0) in z's place (another buffer would have to come and go through memory), and says what is seen
    /// of these activations; marks the features that have one above zero.
    pub fn rectify(&mut self, bias: &[f32], fired: &mut [bool]) -> Activity {
        match self {
            Self::List(l) => {
                l.z.iter_mut().zip(&l.features).for_each(|(z, f)| *z = (*z + bias[*f as usize]).max(0.0));
                l.activity(&l.z, fired)
            }
            Self::All { features, z, .. } => {
                let n = *features;
                seen(z.par_chunks_mut(PART * n), n, fired, |rows, most, seen| {
                    for values in rows.chunks_exact_mut(n) {
                        seen.add(pulp::Arch::new().dispatch(Rectify { values, bias, most }));
                    }
                })
            }
        }
    }

    /// As [`Self::map`], where no value is below zero, and as [`Self::rectify`] what is seen of them.
    pub fn activate(
        &self,
        per: Per<'_>,
        make: impl Fn(f32, [f32; 3]) -> f32 + Sync,
        fired: &mut [bool],
    ) -> (Vec<f32>, Activity) {
        match self {
            Self::List(l) => {
                let values = self.map(per, make);
                let seen = l.activity(&values, fired);
                (values, seen)
            }
            Self::All { features, z, .. } => {
                let (n, mut values) = (*features, vec![0.0; z.len()]);
                let parts = values.par_chunks_mut(PART * n).zip(z.par_chunks(PART * n));
                let seen = seen(parts, n, fired, |(out, z), most, seen| {
                    for (out, z) in out.chunks_exact_mut(n).zip(z.chunks_exact(n)) {
                        seen.add(pulp::Arch::new().dispatch(Activate { out, z, per, make: &make, most }));
                    }
                });
                (values, seen)
            }
        }
    }

    /// Changes another value of each cell, given z, that value and its feature's numbers. What is made is the new value, and
    /// something beside it; their sums come with it, by feature.
    pub fn slopes(
        &self,
        mut other: Vec<f32>,
        per: Per<'_>,
        make: impl Fn(f32, f32, [f32; 3]) -> (f32, f32) + Sync,
    ) -> Slopes {
        match self {
            Self::List(l) => {
                let mut beside = vec![0f32; other.len()];
                let cells = other.par_iter_mut().zip(&mut beside).zip(&l.features).zip(&l.z);
                cells.for_each(|(((o, b), f), z)| (*o, *b) = make(*z, *o, of(per, *f)));
                let (sums, beside) = (self.sums(&other), self.sums(&beside));
                Slopes { values: other, sums, beside }
            }
            Self::All { features: n, z, .. } => {
                let parts = other.par_chunks_mut(PART * n).zip(z.par_chunks(PART * n));
                let (sums, beside): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts
                    .map(|(other, z)| {
                        let (mut sums, mut beside) = (vec![0f32; *n], vec![0f32; *n]);
                        for (out, z) in other.chunks_exact_mut(*n).zip(z.chunks_exact(*n)) {
                            let sums = (&mut sums[..], &mut beside[..]);
                            pulp::Arch::new().dispatch(Slope { out, z, per, make: &make, sums });
                        }
                        (sums, beside)
                    })
                    .unzip();
                Slopes { values: other, sums: added(&sums, *n), beside: added(&beside, *n) }
            }
        }
    }

    /// Adds to `out` what is made of z, another value of each cell and its feature's numbers; the sums of what was added, by
    /// feature.
    pub fn merge(
        &self,
        out: &mut [f32],
        other: &[f32],
        per: Per<'_>,
        make: impl Fn(f32, f32, [f32; 3]) -> f32 + Sync,
    ) -> Vec<f32> {
        match self {
            Self::List(l) => {
                let cells = other.par_iter().zip(&l.features).zip(&l.z);
                let made: Vec<f32> = cells.map(|((x, f), z)| make(*z, *x, of(per, *f))).collect();
                add_scaled(out, 1.0, &made);
                self.sums(&made)
            }
            Self::All { features: n, z, .. } => {
                let parts = out.par_chunks_mut(PART * n).zip(other.par_chunks(PART * n)).zip(z.par_chunks(PART * n));
                let parts: Vec<Vec<f32>> = parts
                    .map(|((out, other), z)| {
                        let mut sums = vec![0f32; *n];
                        let rows = out.chunks_exact_mut(*n).zip(other.chunks_exact(*n)).zip(z.chunks_exact(*n));
                        for ((out, other), z) in rows {
                            pulp::Arch::new().dispatch(Merge { out, other, z, per, make: &make, sums: &mut sums });
                        }
                        sums
                    })
                    .collect();
                added(&parts, *n)
            }
        }
    }

    /// out[row] += Σ values · w[feature], for w [features, d].
    pub fn times(&self, values: &[f32], w: &[f32], d: usize, out: &mut [f32]) {
        match self {
            Self::List(l) => {
                out.par_chunks_mut(d).enumerate().for_each(|(r, row)| simd(|| l.times(r, values, w, d, row)));
            }
            Self::All { rows, features, .. } => {
                product(out, Matrix::new(values, *rows, *features), Matrix::new(w, *features, d), 1.0, true);
            }
        }
    }

    /// [`Self::times`], and then [`Self::dots`] of what `out` is: a row's features are read once for both.
    pub fn times_and_dots(&self, values: &[f32], w: &[f32], d: usize, out: &mut [f32], scale: f32) -> Vec<f32> {
        let Self::List(l) = self else {
            self.times(values, w, d, out);
            return self.dots(out, w, d, scale);
        };
        let both = |(r, row): (usize, &mut [f32])| {
            simd(|| {
                l.times(r, values, w, d, row);
                l.dots(r, row, w, d, scale)
            })
        };
        out.par_chunks_mut(d).enumerate().map(both).collect::<Vec<_>>().concat()
    }

    /// For each cell its row of `x` times its feature's row of `w`, both d wide, times `scale`.
    pub fn dots(&self, x: &[f32], w: &[f32], d: usize, scale: f32) -> Vec<f32> {
        match self {
            Self::List(l) => {
                let dots = |(r, row): (usize, &[f32])| simd(|| l.dots(r, row, w, d, scale));
                x.par_chunks(d).take(l.rows).enumerate().map(dots).collect::<Vec<_>>().concat()
            }
            Self::All { rows, features, .. } => {
                let mut out = vec![0.0; rows * features];
                product(&mut out, Matrix::new(x, *rows, d), Matrix::new(w, *features, d).t(), scale, false);
                out
            }
        }
    }

    /// out[feature] = scale · Σ weight · x[row], or added to what is there; for x [rows, d] and out [features, d].
    pub fn gather(&self, weights: &[f32], x: &[f32], d: usize, scale: f32, add: bool, out: &mut [f32]) {
        match self {
            Self::List(l) => out.par_chunks_mut(d).enumerate().for_each(|(f, row)| {
                simd(|| {
                    if !add {
                        row.fill(0.0);
                    }
                    let cells = l.of_feature(f).iter().map(|(r, e)| (*r, weights[*e as usize]));
                    let cells = cells.filter(|(_, weight)| *weight != 0.0);
                    add_rows(row, cells.map(|(r, weight)| (scale * weight, &x[r as usize * d..][..d])));
                });
            }),
            Self::All { rows, features, .. } => {
                product(out, Matrix::new(weights, *rows, *features).t(), Matrix::new(x, *rows, d), scale, add);
            }
        }
    }

    /// Σ of the cells' values, by feature.
    pub fn sums(&self, values: &[f32]) -> Vec<f32> {
        match self {
            Self::List(l) => {
                let sum = |f: usize| l.of_feature(f).iter().map(|(_, e)| values[*e as usize]).sum();
                (0..l.n_features).into_par_iter().with_min_len(256).map(sum).collect()
            }
            Self::All { features, .. } => {
                let parts: Vec<Vec<f32>> = values
                    .par_chunks(PART * features)
                    .map(|rows| {
                        let mut out = vec![0f32; *features];
                        rows.chunks_exact(*features).for_each(|row| simd(|| add_scaled(&mut out, 1.0, row)));
                        out
                    })
                    .collect();
                added(&parts, *features)
            }
        }
    }
}

/// A feature's numbers.
fn of(per: Per<'_>, feature: u32) -> [f32; 3] {
    per.map(|p| p[feature as usize])
}

/// Added in order, so that the result does not depend on which thread was first.
fn added(parts: &[Vec<f32>], n: usize) -> Vec<f32> {
    let mut out = vec![0f32; n];
    parts.iter().for_each(|p| add_scaled(&mut out, 1.0, p));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_all_cells_give_the_same() {
        let z = vec![2.0, -1.0, 1.0, -1.0, -1.0, -1.0, -3.0, -1.0, 4.0];
        let (zeros, ones) = ([0f32; 3], [1f32; 3]);
        let relu = |z: f32, p: [f32; 3]| z.max(p[0]);
        let positive: Vec<Vec<(u32, f32)>> =
            z.chunks(3).map(|r| (0..3).filter(|f| r[*f] > 0.0).map(|f| (f as u32, r[f])).collect()).collect();
        let list = Cells::list(positive, 3);
        let all = Cells::choose(z, 3, |_, z| z > 0.0);
        assert!(matches!(all, Cells::All { .. }), "a third of all cells is many");
        let w = [1.0, 0.0, 0.0, 1.0, 3.0, 3.0];
        let x = [1.0, 1.0, 5.0, 5.0, 2.0, 0.0];
        let run = |mut c: Cells| {
            let mut fired = vec![false; 3];
            let (a, seen) = c.activate([&zeros, &ones, &ones], relu, &mut fired);
            assert_eq!(a, c.map([&zeros, &ones, &ones], relu));
            let mut again = vec![false; 3];
            assert_eq!((c.rectify(&[0.0; 3], &mut again), &again), (seen, &fired));
            assert_eq!(a, c.values());
            let mut recon = vec![0.0; 6];
            c.times(&a, &w, 2, &mut recon);
            let dots = c.dots(&x, &w, 2, 0.5);
            let Slopes { values: grads, sums, beside } =
                c.slopes(dots, [&zeros, &ones, &ones], |z, g, p| if z > p[0] { (g, p[1] * g) } else { (0.0, 0.0) });
            assert_eq!(sums, c.sums(&grads));
            assert_eq!(sums, beside);
            let mut twice = grads.clone();
            let again = c.merge(&mut twice, &grads, [&zeros, &ones, &ones], |_, g, p| p[1] * g);
            assert_eq!((again, twice), (sums.clone(), grads.iter().map(|g| 2.0 * g).collect()));
            // What was there before is written over, and added to after that.
            let mut gathered = vec![f32::NAN; 6];
            c.gather(&grads, &x, 2, 0.5, false, &mut gathered);
            c.gather(&grads, &x, 2, 0.5, true, &mut gathered);
            (recon, gathered, sums, fired, seen)
        };
        let (l, a) = (run(list), run(all));
        assert_eq!(l, a);
        assert_eq!(l.0, [5.0, 3.0, 0.0, 0.0, 12.0, 12.0]);
        // Row 0: ½(x·w0) = ½, ½(x·w2) = 3; row 2: ½(x·w2) = 3.
        assert_eq!(l.2, [0.5, 0.0, 6.0]);
        assert_eq!(l.1, [0.5, 0.5, 0.0, 0.0, 9.0, 3.0]);
        assert_eq!(l.3, [true, false, true]);
        assert_eq!(l.4, Activity { active: 3, total: 7.0 });
    }

    /// Over several parts of rows and a number of features that fills no vector.
    #[test]
    fn all_cells_of_many_rows_are_what_a_list_has() {
        let (rows, n, d) = (150, 37, 5);
        let wave = |k: f32| move |i: usize| (i as f32 * k).sin();
        let z: Vec<f32> = (0..rows * n).map(wave(0.7)).collect();
        let (bias, scale): (Vec<f32>, Vec<f32>) =
            ((0..n).map(wave(1.3)).collect(), (0..n).map(|f| 1.0 + 0.1 * f as f32).collect());
        let on = |f: usize, z: f32| z + bias[f] > 0.0;
        let entries = |r: usize| (0..n).map(move |f| (f, r * n + f));
        let chosen = |r: usize| entries(r).filter(|(f, i)| on(*f, z[*i])).map(|(f, i)| (f as u32, z[i])).collect();
        let list = Cells::list((0..rows).map(chosen).collect(), n);
        let all = Cells::choose(z.clone(), n, on);
        assert!(matches!(all, Cells::All { .. }));
        let (w, x): (Vec<f32>, Vec<f32>) =
            ((0..n * d).map(wave(0.3)).collect(), (0..rows * d).map(wave(0.9)).collect());
        let per = [&bias[..], &scale, &bias];
        let run = |mut c: Cells| {
            let mut fired = vec![false; n];
            let gate = |z: f32, [bias, scale, _]: [f32; 3]| ((z + bias) * scale).max(0.0);
            let (a, seen) = c.activate(per, gate, &mut fired);
            let slope = |z: f32, g: f32, [bias, scale, _]: [f32; 3]| {
                if z + bias > 0.0 { (g * scale, g * z) } else { (0.0, 0.0) }
            };
            let mut made = c.slopes(c.dots(&x, &w, d, 0.5), per, slope);
            let more = c.merge(&mut made.values, &a, per, |z, a, [bias, ..]| if z + bias > 0.0 { a + z } else { 0.0 });
            let (mut gathered, mut product) = (vec![0.0; n * d], vec![0.0; rows * d]);
            c.gather(&made.values, &x, d, 0.5, false, &mut gathered);
            c.times(&a, &w, d, &mut product);
            let mut again = vec![false; n];
            let rectified = c.rectify(&bias, &mut again);
            assert_eq!((fired.clone(), seen.active), (again, rectified.active));
            assert_eq!(seen.active, (0..rows * n).filter(|i| on(i % n, z[*i])).count());
            let total = vec![seen.total, rectified.total];
            [made.sums, made.beside, more, gathered, product, c.sums(c.values()), total]
        };
        for (k, (l, a)) in run(list).into_iter().zip(run(all)).enumerate() {
            let near = |(x, y): (&f32, &f32)| (x - y).abs() < 1e-4 * (1.0 + x.abs());
            assert!(l.len() == a.len() && l.iter().zip(&a).all(near), "{k}: {l:?} and {a:?}");
        }
    }
}
