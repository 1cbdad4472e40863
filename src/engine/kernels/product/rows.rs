//! Products with stored rows: what is not f32 is decoded a panel at a time, by the thread that multiplies with it.

use std::cell::RefCell;
use std::ops::Range;

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use super::few;
use super::packed::Packed;
use crate::model::matrix::Rows;

/// Up to this many rows products with f32 are our own: packing the weight pays for more.
const FEW: usize = 128;

/// Whether the kernels here multiply, and not the library's, which is fast in every build.
pub(super) const OWN: bool = !cfg!(unoptimised);

/// Whether a product of so many rows along a weight's is one of few.
pub(super) fn is_few(m: usize) -> bool {
    m <= FEW && OWN
}

/// Stored rows of a panel, and about how many values of a row are decoded at a time, in whole blocks of every type: at most
/// 150 kB, for the second-level cache, and what few rows of x meet of them stays in the first.
const PANEL: usize = 48;
const DEPTH: usize = 640;
const BLOCK: usize = 256;

/// Columns and rows of a panel that is multiplied along its rows: whole blocks of every type. Few rows of x read wide
/// and low panels, which stay in the first-level cache.
const COLUMNS: usize = 256;
const HEIGHT: usize = 256;
const LOW: usize = 16;

/// Rows of a panel that is multiplied where it lies, and what its columns are a multiple of: whole tiles.
const TALL: usize = 64;
const ALIKE: usize = 48;

/// Multiplications from which on other threads help: waking them takes as long as some 100,000.
const SHARED: usize = 1 << 18;

/// Does the parts of a product of so many multiplications, on all threads where that pays.
fn parts(n: usize, multiplications: usize, one: impl Fn(usize) + Sync + Send) {
    if n == 1 || multiplications < SHARED {
        (0..n).for_each(one);
    } else {
        (0..n).into_par_iter().for_each(one);
    }
}

/// Memory to decode into.
#[derive(Default)]
struct Scratch {
    panel: Vec<f32>,
    row: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Values in memory: the first, and how far rows lie apart.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub first: *const f32,
    pub apart: usize,
}

/// Where results go: the first, how far rows lie apart, and whether they are added to what is there.
#[derive(Clone, Copy)]
pub(super) struct To {
    pub first: *mut f32,
    pub apart: usize,
    pub add: bool,
}

// SAFETY: the threads that share one write disjoint elements.
unsafe impl Sync for To {}

/// out [m, rows] += x [m, cols] · wᵀ, for w [rows, cols], on this thread: columns of the result that threads take for
/// themselves are faster than what the library shares among them.
///
/// # Safety
/// All of it lies inside the allocations.
unsafe fn large([m, rows, cols]: [usize; 3], x: At, w: At, turned: bool, out: To) {
    let (w_cs, w_rs) = if turned { (w.apart as isize, 1) } else { (1, w.apart as isize) };
    let keep = f32::from(u8::from(out.add));
    // SAFETY: as the caller promises.
    unsafe {
        gemm(
            m,
            rows,
            cols,
            out.first,
            1,
            out.apart as isize,
            out.add,
            x.first,
            1,
            x.apart as isize,
            w.first,
            w_cs,
            w_rs,
            keep,
            1f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Columns of a result of `n` that a thread takes for itself.
fn own_columns(n: usize) -> usize {
    n.div_ceil(rayon::current_num_threads()).next_multiple_of(ALIKE).min(n)
}

/// Lets `use_panel` see a part of a group as f32.
fn with_panel(w: &Rows, group: usize, rows: Range<usize>, cols: Range<usize>, use_panel: impl FnOnce(At)) {
    if let Some((values, apart)) = w.plain(group) {
        return use_panel(At { first: values[rows.start * apart + cols.start..].as_ptr(), apart });
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let apart = cols.len();
        let n = rows.len() * apart;
        if scratch.panel.len() < n {
            scratch.panel.resize(n, 0.0);
        }
        w.decode(group, rows, cols, &mut scratch.panel[..n], &mut scratch.row);
        use_panel(At { first: scratch.panel.as_ptr(), apart });
    });
}

/// out [m, rows] (+)= x [m, cols] · wᵀ, summed over groups; x holds the groups' columns side by side.
///
/// # Safety
/// `out` has room for all of it, and holds values where they are added to.
pub(super) unsafe fn across(x: &[f32], m: usize, w: &Rows, out: *mut f32, add: bool, own: bool) {
    let (rows, cols, width) = (w.rows(), w.cols(), w.groups() * w.cols());
    if m == 0 || rows == 0 || width == 0 {
        if !add {
            // SAFETY: as the caller promises.
            unsafe { out.write_bytes(0, m * rows) };
        }
        return;
    }
    let out = To { first: out, apart: rows, add };
    let start = |group: usize, col: usize| At { first: x[group * cols + col..].as_ptr(), apart: width };
    if (!own || m > FEW) && w.plain(0).is_some() {
        let wide = own_columns(rows);
        parts(rows.div_ceil(wide), m * rows * width, |p| {
            let out = &out;
            let some = p * wide..rows.min((p + 1) * wide);
            for group in 0..w.groups() {
                // SAFETY: part p writes columns `some` of out alone, which is [m, rows].
                let to = To { first: unsafe { out.first.add(some.start) }, apart: rows, add: add || group > 0 };
                with_panel(w, group, some.clone(), 0..cols, |panel| {
                    // SAFETY: x is [m, width], the panel [some, cols].
                    unsafe { large([m, some.len(), cols], start(group, 0), panel, true, to) }
                });
            }
        });
        return;
    }
    let packed = (own && !few::is_across(m)).then(|| Packed::new(x, m, width));
    let depth = cols.div_ceil(cols.div_ceil(DEPTH)).next_multiple_of(BLOCK);
    parts(rows.div_ceil(PANEL), m * rows * width, |p| {
        let out = &out;
        let some = p * PANEL..rows.min((p + 1) * PANEL);
        for group in 0..w.groups() {
            for from in (0..cols).step_by(depth) {
                let part = from..cols.min(from + depth);
                let shape = [m, some.len(), part.len()];
                // SAFETY: panel p writes columns `some` of out alone, which is [m, rows].
                let to = unsafe { out.first.add(some.start) };
                let to = To { first: to, apart: rows, add: add || group > 0 || from > 0 };
                with_panel(w, group, some.clone(), part, |panel| {
                    let x = start(group, from);
                    // SAFETY: x is [m, width] from column `from` of the group on, the panel [some, part].
                    unsafe {
                        match &packed {
                            Some(packed) => packed.across(group * cols + from, [shape[1], shape[2]], panel, to),
                            None if own => few::across(shape, x, panel, to),
                            None => large(shape, x, panel, true, to),
                        }
                    }
                });
            }
        }
    });
}

/// out [m, cols] (+)= x [m, rows] · w, the groups' columns side by side.
///
/// # Safety
/// `out` has room for all of it, and holds values where they are added to.
pub(super) unsafe fn along(x: &[f32], m: usize, w: &Rows, out: *mut f32, add: bool, is_few: bool) {
    let (rows, cols, width) = (w.rows(), w.cols(), w.groups() * w.cols());
    if m == 0 || rows == 0 || width == 0 {
        if !add {
            // SAFETY: as the caller promises.
            unsafe { out.write_bytes(0, m * width) };
        }
        return;
    }
    let out = To { first: out, apart: width, add };
    let x = x.as_ptr().expose_provenance();
    let start = |row: usize| At { first: std::ptr::with_exposed_provenance::<f32>(x).wrapping_add(row), apart: rows };
    let (wide, height) = match (is_few, w.plain(0).is_some()) {
        // As many equal parts as keep all threads at work.
        (true, true) => {
            let threads = rayon::current_num_threads();
            let parts = threads * (w.groups() * cols).div_ceil(2 * COLUMNS * threads).div_ceil(w.groups());
            (cols.div_ceil(parts.max(1)).next_multiple_of(ALIKE), TALL)
        }
        (true, false) => (2 * COLUMNS, LOW),
        (false, true) => (own_columns(cols), rows),
        (false, false) => (COLUMNS, HEIGHT),
    };
    let wide = wide.min(cols);
    let chunks = cols.div_ceil(wide);
    parts(w.groups() * chunks, m * rows * width, |c| {
        let out = &out;
        let (group, from) = (c / chunks, c % chunks * wide);
        let part = from..cols.min(from + wide);
        // SAFETY: chunk c writes these columns of out alone, which is [m, width].
        let first = unsafe { out.first.add(group * cols + from) };
        for row in (0..rows).step_by(height) {
            let some = row..rows.min(row + height);
            let shape = [m, part.len(), some.len()];
            let to = To { first, apart: width, add: add || row > 0 };
            with_panel(w, group, some, part.clone(), |panel| {
                // SAFETY: x is [m, rows] from column `row` on, the panel [some, part].
                unsafe {
                    if !is_few {
                        large(shape, start(row), panel, false, to);
                    } else {
                        few::along(shape, start(row), panel, to);
                    }
                }
            });
        }
    });
}
