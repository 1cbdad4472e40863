//! Products of few rows with many: memory decides how long they take, so that every weight is read once, in the order in
//! which it lies, and nothing is packed. What comes next is asked for while the rows before it are multiplied. Across, a
//! weight's values are summed along its rows, which pays where there are too few rows to lie side by side in a vector.
//!
//! Sums are indexed arrays of known size and steps do not check for overflow: so the compiler keeps the sums in registers,
//! which makes these loops three times as fast.
#![allow(clippy::needless_range_loop, reason = "iterators over the sums put them into memory")]

use pulp::{Simd, WithSimd};

use super::rows::{At, To};

/// Values of a line of memory.
const LINE: usize = 16;
/// Rows of a weight that are multiplied across together.
const WIDE: usize = 3;

/// Rows of x that are multiplied across together: so many times [`WIDE`] sums stay in registers.
const fn tall<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 7 } else { 4 }
}

/// Whether so many rows of x are faster across than side by side ([`super::packed`]): those that fill two tiles of many
/// registers, or one of few.
pub(super) fn is_across(m: usize) -> bool {
    struct Most;
    impl WithSimd for Most {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            if S::REGISTER_COUNT >= 32 { 2 * tall::<S>() } else { tall::<S>() }
        }
    }
    m <= pulp::Arch::new().dispatch(Most)
}

/// out [m, rows] (+)= x [m, cols] · wᵀ, for w [rows, cols].
///
/// # Safety
/// All of it lies inside the allocations.
pub(super) unsafe fn across(shape: [usize; 3], x: At, w: At, out: To) {
    pulp::Arch::new().dispatch(Across { shape, x, w, out });
}

/// Brings a line of memory near; an address outside does nothing.
#[inline(always)]
pub(super) fn ask_for(address: *const f32) {
    // SAFETY: the instruction reads nothing into the program, whatever the address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

struct Across {
    shape: [usize; 3],
    x: At,
    w: At,
    out: To,
}

impl WithSimd for Across {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [m, rows, _] = self.shape;
        let tall = tall::<S>();
        let mut row = 0;
        while row < rows {
            let n = if rows - row >= WIDE { WIDE } else { 1 };
            let (mut from, mut tiles) = (0, m.div_ceil(tall));
            while from < m {
                let some = (m - from).div_ceil(tiles);
                tiles -= 1;
                // SAFETY: rows row..row + n of w and from..from + some of x lie inside them, as `across` was promised.
                unsafe {
                    match (some, n) {
                        (1, WIDE) => self.tile::<S, 1, WIDE>(simd, from, row),
                        (2, WIDE) => self.tile::<S, 2, WIDE>(simd, from, row),
                        (3, WIDE) => self.tile::<S, 3, WIDE>(simd, from, row),
                        (4, WIDE) => self.tile::<S, 4, WIDE>(simd, from, row),
                        (5, WIDE) => self.tile::<S, 5, WIDE>(simd, from, row),
                        (6, WIDE) => self.tile::<S, 6, WIDE>(simd, from, row),
                        (_, WIDE) => self.tile::<S, 7, WIDE>(simd, from, row),
                        (1, _) => self.tile::<S, 1, 1>(simd, from, row),
                        (2, _) => self.tile::<S, 2, 1>(simd, from, row),
                        (3, _) => self.tile::<S, 3, 1>(simd, from, row),
                        (4, _) => self.tile::<S, 4, 1>(simd, from, row),
                        (5, _) => self.tile::<S, 5, 1>(simd, from, row),
                        (6, _) => self.tile::<S, 6, 1>(simd, from, row),
                        _ => self.tile::<S, 7, 1>(simd, from, row),
                    }
                }
                from += some;
            }
            row += n;
        }
    }
}

impl Across {
    /// The products of `M` rows of x from `from` on with `N` rows of w from `row` on.
    ///
    /// # Safety
    /// Those rows exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(&self, simd: S, from: usize, row: usize) {
        let cols = self.shape[2];
        let whole = cols / S::F32_LANES * S::F32_LANES;
        // SAFETY: columns below cols of rows that exist, as the caller promises; a vector is read where it is whole.
        unsafe {
            let x = self.x.first.add(from * self.x.apart);
            let w = self.w.first.add(row * self.w.apart);
            let (mut xs, mut ws) = ([x; M], [w; N]);
            for i in 0..M {
                xs[i] = x.add(i * self.x.apart);
            }
            for j in 0..N {
                ws[j] = w.add(j * self.w.apart);
            }
            let mut sums = [[simd.splat_f32s(0.0); N]; M];
            let mut col = 0usize;
            // The rows that come next are asked for in time, once: other rows of x find them near.
            let next = N.wrapping_mul(self.w.apart);
            while col < whole {
                if from == 0 && col.is_multiple_of(LINE) {
                    for j in 0..N {
                        ask_for(ws[j].wrapping_add(next.wrapping_add(col)));
                    }
                }
                let mut right = [simd.splat_f32s(0.0); N];
                for j in 0..N {
                    right[j] = ws[j].add(col).cast::<S::f32s>().read_unaligned();
                }
                for i in 0..M {
                    let left = xs[i].add(col).cast::<S::f32s>().read_unaligned();
                    for j in 0..N {
                        sums[i][j] = simd.mul_add_e_f32s(left, right[j], sums[i][j]);
                    }
                }
                col = col.wrapping_add(S::F32_LANES);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    let mut sum = simd.reduce_sum_f32s(*sum);
                    for col in whole..cols {
                        sum += *x.add(i * self.x.apart + col) * *w.add(j * self.w.apart + col);
                    }
                    let to = self.out.first.add((from + i) * self.out.apart + row + j);
                    *to = if self.out.add { *to + sum } else { sum };
                }
            }
        }
    }
}

/// out [m, cols] (+)= x [m, rows] · w, for w [rows, cols] and `shape` [m, cols, rows].
///
/// # Safety
/// All of it lies inside the allocations.
pub(super) unsafe fn along(shape: [usize; 3], x: At, w: At, out: To) {
    pulp::Arch::new().dispatch(Along { shape, x, w, out });
}

struct Along {
    shape: [usize; 3],
    x: At,
    w: At,
    out: To,
}

impl WithSimd for Along {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [m, cols, rows] = self.shape;
        let (tall, wide) = if S::REGISTER_COUNT >= 32 { (6, 4) } else { (4, 3) };
        let mut col = 0;
        while col + S::F32_LANES <= cols {
            let n = if col + wide * S::F32_LANES <= cols { wide } else { 1 };
            let (mut from, mut tiles) = (0, m.div_ceil(tall));
            while from < m {
                let some = (m - from).div_ceil(tiles);
                tiles -= 1;
                // SAFETY: n vectors from `col` on and rows from..from + some lie inside, as `along` was promised.
                unsafe {
                    match (some, n) {
                        (1, 4) => self.tile::<S, 1, 4>(simd, from, col, tiles),
                        (2, 4) => self.tile::<S, 2, 4>(simd, from, col, tiles),
                        (3, 4) => self.tile::<S, 3, 4>(simd, from, col, tiles),
                        (4, 4) => self.tile::<S, 4, 4>(simd, from, col, tiles),
                        (5, 4) => self.tile::<S, 5, 4>(simd, from, col, tiles),
                        (_, 4) => self.tile::<S, 6, 4>(simd, from, col, tiles),
                        (1, 3) => self.tile::<S, 1, 3>(simd, from, col, tiles),
                        (2, 3) => self.tile::<S, 2, 3>(simd, from, col, tiles),
                        (3, 3) => self.tile::<S, 3, 3>(simd, from, col, tiles),
                        (_, 3) => self.tile::<S, 4, 3>(simd, from, col, tiles),
                        (1, _) => self.tile::<S, 1, 1>(simd, from, col, tiles),
                        (2, _) => self.tile::<S, 2, 1>(simd, from, col, tiles),
                        (3, _) => self.tile::<S, 3, 1>(simd, from, col, tiles),
                        (4, _) => self.tile::<S, 4, 1>(simd, from, col, tiles),
                        (5, _) => self.tile::<S, 5, 1>(simd, from, col, tiles),
                        _ => self.tile::<S, 6, 1>(simd, from, col, tiles),
                    }
                }
                from += some;
            }
            col += n * S::F32_LANES;
        }
        for col in col..cols {
            for i in 0..m {
                // SAFETY: as above.
                unsafe {
                    let to = self.out.first.add(i * self.out.apart + col);
                    let mut sum = if self.out.add { *to } else { 0.0 };
                    for row in 0..rows {
                        sum += *self.x.first.add(i * self.x.apart + row) * *self.w.first.add(row * self.w.apart + col);
                    }
                    *to = sum;
                }
            }
        }
    }
}

impl Along {
    /// `M` rows of the result, `N` vectors of each; `tile` more tiles of these columns are to come.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(&self, simd: S, from: usize, col: usize, tile: usize) {
        // SAFETY: rows and columns that exist, as the caller promises.
        unsafe {
            let x = self.x.first.add(from * self.x.apart);
            let w = self.w.first.add(col);
            let out = self.out.first.add(from * self.out.apart + col);
            let mut sums = [[simd.splat_f32s(0.0); N]; M];
            if self.out.add {
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum = out.add(i * self.out.apart + j * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                    }
                }
            }
            let mut row = 0usize;
            let mut w = w;
            let mut xs = [x; M];
            for i in 0..M {
                xs[i] = x.add(i * self.x.apart);
            }
            // The last tile asks for the columns beside these, the others for the rows below.
            let next = if tile == 0 { N.wrapping_mul(S::F32_LANES) } else { self.shape[2].wrapping_mul(self.w.apart) };
            while row < self.shape[2] {
                ask_for(w.wrapping_add(next));
                let mut right = [simd.splat_f32s(0.0); N];
                for j in 0..N {
                    right[j] = w.add(j.wrapping_mul(S::F32_LANES)).cast::<S::f32s>().read_unaligned();
                }
                for i in 0..M {
                    let left = simd.splat_f32s(*xs[i].add(row));
                    for j in 0..N {
                        sums[i][j] = simd.mul_add_e_f32s(left, right[j], sums[i][j]);
                    }
                }
                w = w.wrapping_add(self.w.apart);
                row = row.wrapping_add(1);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    out.add(i * self.out.apart + j * S::F32_LANES).cast::<S::f32s>().write_unaligned(*sum);
                }
            }
        }
    }
}
