//! Matrix products on plain slices, and Adam.

use std::cmp::Ordering;
use std::ops::Range;

use rayon::prelude::*;

use crate::engine::kernels::filled;
use crate::engine::kernels::math::{self, simd};

/// A matrix in a slice, [rows, cols] row by row, perhaps read as its transpose.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// Distance of neighbouring rows.
    stride: usize,
    turned: bool,
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// If the slice has another length: a mistake in this crate, not in anyone's data.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "a matrix is as long as its shape says");
        Self { values, rows, cols, stride: cols, turned: false }
    }

    /// The columns from `from` on, `width` of them, of a matrix of `rows` rows of `cols`.
    ///
    /// # Panics
    /// As [`Self::new`], or where there are not so many columns.
    pub fn columns(values: &'a [f32], rows: usize, cols: usize, from: usize, width: usize) -> Self {
        assert!(values.len() == rows * cols && from + width <= cols, "columns lie inside their matrix");
        Self { values: &values[from.min(values.len())..], rows, cols: width, stride: cols, turned: false }
    }

    #[must_use]
    pub fn t(mut self) -> Self {
        self.turned = !self.turned;
        self
    }

    /// Rows, as they lie.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// A row, as it lies.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.stride..][..self.cols]
    }

    /// Rows and columns as read.
    fn shape(&self) -> (usize, usize) {
        if self.turned { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// Some of the columns, as read.
    fn some_columns(mut self, some: Range<usize>) -> Self {
        let (extent, apart) = if self.turned { (&mut self.rows, self.stride) } else { (&mut self.cols, 1) };
        assert!(some.end <= *extent, "columns lie inside their matrix");
        *extent = some.len();
        self.values = &self.values[(some.start * apart).min(self.values.len())..];
        self
    }

    /// Distance of neighbouring columns and rows, as read.
    fn strides(&self) -> (isize, isize) {
        let stride = self.stride as isize;
        if self.turned { (stride, 1) } else { (1, stride) }
    }
}

/// out = scale · a·b, [rows of a, columns of b], or added to what is there.
pub fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32, add: bool) {
    product_by(out, a, b, scale, add, rayon::current_num_threads());
}

/// a·b, [rows of a, columns of b].
pub fn product_of(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let ((m, k), (k2, n)) = (a.shape(), b.shape());
    assert_eq!(k, k2, "shapes of a product belong together");
    if k == 0 {
        return vec![0.0; m * n];
    }
    // SAFETY: the result has room for the product, which writes all of it.
    unsafe {
        filled(m * n, |out| multiply_on(rayon::current_num_threads(), out.as_mut_ptr().cast(), n, a, b, 1.0, false))
    }
}

/// out = a·b on this thread alone.
pub fn product_alone(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    product_by(out, a, b, 1.0, false, 1);
}

/// Adds a·b to the columns of `out` from `from` on, where a row of it has `cols`; on this thread alone.
pub fn add_to_columns(out: &mut [f32], cols: usize, from: usize, a: Matrix<'_>, b: Matrix<'_>) {
    let ((m, k), (k2, n)) = (a.shape(), b.shape());
    assert!(k == k2 && from + n <= cols && out.len() >= m * cols, "shapes of a product belong together");
    if m > 0 {
        // SAFETY: the columns lie inside the result, which is borrowed mutably, so that it overlaps neither operand.
        unsafe { multiply(out.as_mut_ptr().add(from), cols, a, b, 1.0, true) }
    }
}

fn product_by(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32, add: bool, threads: usize) {
    let ((m, k), (k2, n)) = (a.shape(), b.shape());
    assert!(k == k2 && out.len() == m * n, "shapes of a product belong together");
    // SAFETY: the result is as long as its shape, and borrowed mutably, so that it overlaps neither operand.
    unsafe { multiply_on(threads, out.as_mut_ptr(), n, a, b, scale, add) }
}

/// Rows or columns of a part are a multiple of this: whole tiles.
const ALIKE: usize = 48;
/// Multiplications from which on other threads help.
const SHARED: usize = 1 << 18;

/// As [`multiply`], on so many threads: each takes rows or columns of the result for itself, which is faster than what the
/// library shares among them.
///
/// # Safety
/// As [`multiply`].
unsafe fn multiply_on(
    threads: usize,
    out: *mut f32,
    apart: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    add: bool,
) {
    let ((m, k), (_, n)) = (a.shape(), b.shape());
    if threads < 2 || m * n * k < SHARED {
        // SAFETY: as the caller promises.
        return unsafe { multiply(out, apart, a, b, scale, add) };
    }
    let across = n >= m;
    let long = m.max(n);
    let part = long.div_ceil(threads).next_multiple_of(ALIKE);
    let out = To(out);
    (0..long.div_ceil(part)).into_par_iter().for_each(|p| {
        let (out, some) = (&out, p * part..long.min((p + 1) * part));
        // SAFETY: the parts of the result are disjoint, and lie inside it.
        unsafe {
            if across {
                multiply(out.0.add(some.start), apart, a, b.some_columns(some), scale, add);
            } else {
                multiply(out.0.add(some.start * apart), apart, a.t().some_columns(some).t(), b, scale, add);
            }
        }
    });
}

/// Where a result goes.
struct To(*mut f32);

// SAFETY: the threads that share one write disjoint elements.
unsafe impl Sync for To {}

/// On this thread alone. Rows of the result lie `apart` from each other.
///
/// # Safety
/// `out` has room for the product, holds values where they are added to, and overlaps neither operand; the shapes belong
/// together.
unsafe fn multiply(out: *mut f32, apart: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32, add: bool) {
    let ((m, k), (_, n)) = (a.shape(), b.shape());
    if m == 0 || n == 0 {
        return;
    }
    let ((a_cs, a_rs), (b_cs, b_rs)) = (a.strides(), b.strides());
    // SAFETY: both operands are as long as their shapes (asserted where a `Matrix` is made), the strides stay inside them, and
    // of the result that is what the caller promises.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            apart as isize,
            add,
            a.values.as_ptr(),
            a_cs,
            a_rs,
            b.values.as_ptr(),
            b_cs,
            b_rs,
            f32::from(u8::from(add)),
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[inline(always)]
pub fn add_scaled(out: &mut [f32], scale: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o += scale * x);
}

/// Adds scaled rows to `out`, in the order in which they come: four at a time, so that `out` is read and written once for
/// them.
#[inline(always)]
pub fn add_rows<'a>(out: &mut [f32], mut rows: impl Iterator<Item = (f32, &'a [f32])>) {
    loop {
        match [rows.next(), rows.next(), rows.next(), rows.next()] {
            [Some((i, a)), Some((j, b)), Some((k, c)), Some((l, d))] => {
                for ((((o, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    *o = *o + i * a + j * b + k * c + l * d;
                }
            }
            some => return some.into_iter().flatten().for_each(|(scale, x)| add_scaled(out, scale, x)),
        }
    }
}

/// Numbers that one task works on.
const PART: usize = 1 << 14;

/// Σ of squares.
pub fn squares(values: &[f32]) -> f32 {
    let parts: Vec<f32> = values.par_chunks(PART).map(|c| simd(|| dot(c, c))).collect();
    parts.iter().sum()
}

/// Σ of squares in double precision.
pub fn squares_f64(values: &[f32]) -> f64 {
    const LANES: usize = 8;
    let of = |c: &[f32]| {
        let mut sums = [0f64; LANES];
        for x in c.chunks(LANES) {
            sums.iter_mut().zip(x).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
        }
        sums.iter().sum::<f64>()
    };
    let parts: Vec<f64> = values.par_chunks(PART).map(|c| simd(|| of(c))).collect();
    parts.iter().sum()
}

/// Multiplies all by a number.
pub fn scale_all(values: &mut [f32], scale: f32) {
    values.par_chunks_mut(PART).for_each(|c| simd(|| c.iter_mut().for_each(|v| *v *= scale)));
}

/// Whether all are numbers that are not infinite.
pub fn all_finite(values: &[f32]) -> bool {
    values.par_chunks(PART).all(math::all_finite)
}

/// Values of which one maximum is taken, to find those that may be among the largest.
const BLOCK: usize = 16;

/// A number that at least k values reach: the k-th largest of the maxima of blocks. Few more reach it where k is small beside
/// the values.
fn reached(values: &[f32], k: usize) -> f32 {
    if k == 0 || values.len() < 2 * BLOCK * k.min(values.len()) {
        return f32::NEG_INFINITY;
    }
    let (blocks, _) = values.as_chunks::<BLOCK>();
    let mut most: Vec<f32> =
        simd(|| blocks.iter().map(|b| b.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect());
    *most.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// The k largest values with their indices, in ascending order of index; equal values at the border are taken from the
/// left.
pub fn largest(values: &[f32], k: usize) -> Vec<(usize, f32)> {
    if k >= values.len() {
        return values.iter().copied().enumerate().collect();
    }
    if k == 0 {
        return Vec::new();
    }
    let floor = reached(values, k);
    // What is no number is not below it.
    let near =
        values.iter().copied().enumerate().filter(|(_, v)| !matches!(v.partial_cmp(&floor), Some(Ordering::Less)));
    let mut near: Vec<(usize, f32)> = near.collect();
    let mut scratch: Vec<f32> = near.iter().map(|(_, v)| *v).collect();
    let (above, border, _) = scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let mut ties = k - above.iter().filter(|v| v.total_cmp(border).is_gt()).count();
    near.retain(|(_, v)| match v.total_cmp(border) {
        Ordering::Greater => true,
        Ordering::Equal if ties > 0 => {
            ties -= 1;
            true
        }
        _ => false,
    });
    near
}

/// A parameter with Adam's moments [Kingma and Ba 2015].
#[derive(Clone, Debug, Default)]
pub struct Param {
    pub value: Vec<f32>,
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

pub const BETAS: (f32, f32) = (0.9, 0.999);
const EPS: f32 = 1e-8;

impl Param {
    pub fn new(value: Vec<f32>) -> Self {
        let n = value.len();
        Self { value, first: vec![0.0; n], second: vec![0.0; n] }
    }

    /// One value anew, without its moments.
    pub fn set(&mut self, i: usize, value: f32) {
        self.value[i] = value;
        (self.first[i], self.second[i]) = (0.0, 0.0);
    }

    /// One step; `step` counts from 1.
    pub fn update(&mut self, gradient: &[f32], rate: f32, step: usize) {
        let adam = Adam::new(rate, step);
        let parts = self.value.par_chunks_mut(PART).zip(self.first.par_chunks_mut(PART));
        parts.zip(self.second.par_chunks_mut(PART)).zip(gradient.par_chunks(PART)).for_each(|(((v, m), s), g)| {
            simd(|| adam.step(v, m, s, g, 0.0));
        });
    }

    /// One step of rows of `d` numbers that keep length 1: the part of the gradient along a row is dropped first.
    pub fn update_unit_rows(&mut self, gradient: &[f32], d: usize, rate: f32, step: usize) {
        let adam = Adam::new(rate, step);
        let rows = self.value.par_chunks_mut(d).zip(self.first.par_chunks_mut(d));
        rows.zip(self.second.par_chunks_mut(d)).zip(gradient.par_chunks(d)).for_each(|(((v, m), s), g)| {
            let along = simd(|| dot(g, v));
            simd(|| adam.step(v, m, s, g, along));
            unit(v);
        });
    }
}

/// Brings a row to length 1.
pub fn unit(row: &mut [f32]) {
    let length = simd(|| dot(row, row)).sqrt();
    if length > 0.0 {
        simd(|| row.iter_mut().for_each(|v| *v /= length));
    }
}

/// Adam's constants at a step.
#[derive(Clone, Copy)]
struct Adam {
    scale: f32,
    root: f32,
}

impl Adam {
    fn new(rate: f32, step: usize) -> Self {
        let (b1, b2) = BETAS;
        let (c1, c2) = (1.0 - b1.powi(step as i32), 1.0 - b2.powi(step as i32));
        Self { scale: rate / c1, root: c2.sqrt().recip() }
    }

    /// Values, both moments, gradient; so many times the values are taken from that.
    #[inline(always)]
    fn step(self, v: &mut [f32], m: &mut [f32], s: &mut [f32], g: &[f32], along: f32) {
        let (b1, b2) = BETAS;
        for (((v, m), s), g) in v.iter_mut().zip(m).zip(s).zip(g) {
            let g = g - along * *v;
            *m = b1 * *m + (1.0 - b1) * g;
            *s = b2 * *s + (1.0 - b2) * g * g;
            *v -= self.scale * *m / (s.sqrt() * self.root + EPS);
        }
    }
}

/// Σ over rows of `d` numbers, by column.
pub fn column_sums(values: &[f32], d: usize) -> Vec<f64> {
    const ROWS: usize = 64;
    let parts: Vec<Vec<f64>> = values
        .par_chunks(ROWS * d)
        .map(|rows| {
            let mut sums = vec![0f64; d];
            for row in rows.chunks_exact(d) {
                simd(|| sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v)));
            }
            sums
        })
        .collect();
    let mut all = vec![0f64; d];
    parts.iter().for_each(|part| all.iter_mut().zip(part).for_each(|(a, p)| *a += p));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn the_largest_and_ties() {
        assert_eq!(largest(&[1.0, 5.0, 3.0, 5.0, 2.0], 2), [(1, 5.0), (3, 5.0)]);
        assert_eq!(largest(&[2.0, 2.0, 2.0], 2), [(0, 2.0), (1, 2.0)]);
        assert_eq!(largest(&[1.0], 3), [(0, 1.0)]);
        assert!(largest(&[1.0, 2.0], 0).is_empty());
        // Few of many, with ties at the border, ends of blocks and zeros of both signs; and all of them sorted.
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for (n, levels) in [(640, 1000.0f32), (645, 12.0), (4096, 200.0), (31, 5.0), (700, 0.0)] {
            let mut values: Vec<f32> =
                (0..n).map(|_| (rng.random_range(-1.0..1.0f32) * levels).round() / 10.0).collect();
            values[n - 1] = 1e6;
            for k in [1, 2, 7, 19, 20, 21, 300.min(n - 1)] {
                let mut order: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
                order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                order.truncate(k);
                order.sort_by_key(|(i, _)| *i);
                assert_eq!(largest(&values, k), order, "{k} of {n}");
            }
        }
    }

    #[test]
    fn a_product_is_added_to_columns() {
        let (a, b, mut out) = ([1.0, 2.0], [3.0, 4.0], vec![1.0; 8]);
        add_to_columns(&mut out, 4, 1, Matrix::new(&a, 2, 1), Matrix::new(&b, 1, 2));
        assert_eq!(out, [1.0, 4.0, 5.0, 1.0, 1.0, 7.0, 9.0, 1.0]);
    }

    #[test]
    fn a_product_of_its_own() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 2.0, 1.0]);
        assert_eq!(product_of(Matrix::new(&a, 2, 2), Matrix::new(&b, 2, 2)), [5.0, 2.0, 11.0, 4.0]);
        assert_eq!(product_of(Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 2)), [0.0; 4]);
        assert!(product_of(Matrix::new(&[], 0, 2), Matrix::new(&b, 2, 2)).is_empty());
    }

    #[test]
    fn products_in_all_orientations() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let mut out = [0.0; 4];
        product(&mut out, Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2), 1.0, false);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
        product(&mut out, Matrix::new(&a, 3, 2).t(), Matrix::new(&b, 3, 2), 2.0, true);
        // aᵀ = [[1,3,5],[2,4,6]] for a read as 3×2; aᵀ·b = [[6,8],[8,10]].
        assert_eq!(out, [16.0, 21.0, 26.0, 31.0]);
        let mut out = [0.0; 9];
        product(&mut out, Matrix::new(&a, 3, 2), Matrix::new(&b, 3, 2).t(), 1.0, false);
        assert_eq!(out, [1.0, 2.0, 3.0, 3.0, 4.0, 7.0, 5.0, 6.0, 11.0]);
    }

    #[test]
    fn rows_are_added_in_order() {
        for n in 0..10 {
            let rows: Vec<Vec<f32>> = (0..n).map(|r| (0..7).map(|i| ((r * 7 + i) as f32).sin()).collect()).collect();
            let (mut out, mut want) = ([0.3f32; 7], [0.3f32; 7]);
            add_rows(&mut out, rows.iter().enumerate().map(|(i, r)| (0.1 + i as f32, &r[..])));
            rows.iter().enumerate().for_each(|(i, r)| add_scaled(&mut want, 0.1 + i as f32, r));
            assert_eq!(out, want, "{n} rows");
        }
    }

    #[test]
    fn adam_takes_steps_of_its_rate() {
        let mut p = Param::new(vec![1.0, -1.0]);
        p.update(&[0.5, -3.0], 0.1, 1);
        assert!((p.value[0] - 0.9).abs() < 1e-4 && (p.value[1] + 0.9).abs() < 1e-4);
        // A gradient along a row does nothing to one of length 1; across it, it turns the row.
        let mut p = Param::new(vec![1.0, 0.0, 0.6, 0.8]);
        p.update_unit_rows(&[2.0, 0.0, -0.8, 0.6], 2, 0.1, 1);
        assert_eq!(p.value[..2], [1.0, 0.0]);
        let length = (0.7f32 * 0.7 + 0.7 * 0.7).sqrt();
        assert!((p.value[2] - 0.7 / length).abs() < 1e-4 && (p.value[3] - 0.7 / length).abs() < 1e-4, "{:?}", p.value);
        assert_eq!(column_sums(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [9.0, 12.0]);
    }
}
