//! Products of rows of x with rows of a weight. Some rows of x are laid side by side, value by value, so that each value of
//! the weight meets all of them in one vector: the weight is read as it lies, nothing of it is packed, and no vector is
//! summed across.
//!
//! Sums are indexed arrays of known size and steps do not check for overflow: so the compiler keeps the sums in registers.
#![allow(clippy::needless_range_loop, reason = "iterators over the sums put them into memory")]

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::few::ask_for;
use super::rows::{At, To};

/// Vectors of x that lie side by side, at most.
const VECTORS: usize = 2;
/// Values of a vector, at most.
const LANES: usize = 16;
/// Steps between two requests for memory: a line of it.
const LINE: usize = 16;
/// Columns that are laid side by side at a time: they stay in the first-level cache.
const COLUMNS: usize = 32;
/// Values from which on other threads help.
const SHARED: usize = 1 << 15;

/// Rows of x, [group of rows][column][row of the group]; the last group is filled up with zeros.
pub(super) struct Packed {
    values: Vec<f32>,
    rows: usize,
    width: usize,
    /// Rows of a group.
    side: usize,
}

struct Side;

impl WithSimd for Side {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        VECTORS * S::F32_LANES
    }
}

impl Packed {
    /// `x` is [rows, width].
    pub(super) fn new(x: &[f32], rows: usize, width: usize) -> Self {
        let side = pulp::Arch::new().dispatch(Side);
        let mut values = vec![0f32; rows.next_multiple_of(side) * width];
        let lay = |(x, to): (&[f32], &mut [f32])| {
            for (columns, to) in to.chunks_mut(COLUMNS * side).enumerate() {
                let from = columns * COLUMNS;
                let n = to.len() / side;
                for (i, row) in x.chunks_exact(width).enumerate() {
                    to.chunks_exact_mut(side).zip(&row[from..from + n]).for_each(|(to, v)| to[i] = *v);
                }
            }
        };
        let group = side * width;
        if rows * width < SHARED {
            x.chunks(group).zip(values.chunks_mut(group)).for_each(lay);
        } else {
            x.par_chunks(group).zip(values.par_chunks_mut(group)).for_each(lay);
        }
        Self { values, rows, width, side }
    }

    /// out [rows of x, n] (+)= columns `from`..`from + depth` of x · wᵀ, for w [n, depth].
    ///
    /// # Safety
    /// All of w and out lies inside their allocations, and those columns are there.
    pub(super) unsafe fn across(&self, from: usize, [n, depth]: [usize; 2], w: At, out: To) {
        pulp::Arch::new().dispatch(Across { x: self, from, n, depth, w, out });
    }
}

struct Across<'a> {
    x: &'a Packed,
    from: usize,
    n: usize,
    depth: usize,
    w: At,
    out: To,
}

impl WithSimd for Across<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Packed { values, rows, width, side } = self.x;
        let many = S::REGISTER_COUNT >= 32;
        for first in (0..*rows).step_by(*side) {
            let some = (rows - first).min(*side);
            // SAFETY: the group's columns from `from` on are inside, as `across` was promised. Sums stay in registers, 12 or
            // 24, and so do the addresses of 12 rows.
            unsafe {
                let x = values.as_ptr().add(first * width + self.from * side);
                match (some > S::F32_LANES, many) {
                    (true, false) => self.group::<S, 6, 2>(simd, x, first, some),
                    (false, false) => self.group::<S, 12, 1>(simd, x, first, some),
                    (true, true) => self.group::<S, 12, 2>(simd, x, first, some),
                    (false, true) => self.group::<S, 12, 1>(simd, x, first, some),
                }
            }
        }
    }
}

impl Across<'_> {
    /// The products of a group of rows of x with all rows of w, `M` at a time.
    ///
    /// # Safety
    /// x points at the group's columns; `some` rows from `first` on exist.
    #[inline(always)]
    unsafe fn group<S: Simd, const M: usize, const N: usize>(&self, simd: S, x: *const f32, first: usize, some: usize) {
        let mut row = 0;
        while row < self.n {
            let tall = M.min(self.n - row);
            // SAFETY: as the caller promises; rows row..row + tall of w exist.
            unsafe { self.tile::<S, M, N>(simd, x, (first, some), (row, tall)) }
            row += tall;
        }
    }

    /// The products of `some` rows of x from `first` on with `tall` rows of w, at most `M`, from `row` on.
    ///
    /// # Safety
    /// All of them exist, and x points at the columns of the first.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        mut x: *const f32,
        (first, some): (usize, usize),
        (row, tall): (usize, usize),
    ) {
        // SAFETY: columns below `depth` of rows that exist, as the caller promises.
        unsafe {
            // Where rows are missing the last one is taken again, and what comes out is left.
            let mut ws = [self.w.first; M];
            for i in 0..M {
                ws[i] = self.w.first.add((row + i.min(tall - 1)) * self.w.apart);
            }
            let mut sums = [[simd.splat_f32s(0.0); N]; M];
            let mut column = 0usize;
            // The rows that come next are asked for in time, once: the other groups find them near.
            let next = if first == 0 { M.wrapping_mul(self.w.apart) } else { 0 };
            while column < self.depth {
                if next > 0 {
                    for i in 0..M {
                        ask_for(ws[i].wrapping_add(next.wrapping_add(column)));
                    }
                }
                let end = self.depth.min(column.wrapping_add(LINE));
                while column < end {
                    let mut right = [simd.splat_f32s(0.0); N];
                    for j in 0..N {
                        right[j] = x.add(j.wrapping_mul(S::F32_LANES)).cast::<S::f32s>().read_unaligned();
                    }
                    for i in 0..M {
                        let left = simd.splat_f32s(*ws[i].add(column));
                        for j in 0..N {
                            sums[i][j] = simd.mul_add_e_f32s(left, right[j], sums[i][j]);
                        }
                    }
                    x = x.add(VECTORS * S::F32_LANES);
                    column = column.wrapping_add(1);
                }
            }
            let mut made = [[0f32; VECTORS * LANES]; M];
            for i in 0..M {
                for j in 0..N {
                    made[i].as_mut_ptr().add(j * S::F32_LANES).cast::<S::f32s>().write_unaligned(sums[i][j]);
                }
            }
            for lane in 0..some {
                let to = self.out.first.add((first + lane) * self.out.apart + row);
                for i in 0..tall {
                    let (to, sum) = (to.add(i), made[i][lane]);
                    *to = if self.out.add { *to + sum } else { sum };
                }
            }
        }
    }
}
