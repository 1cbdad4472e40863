//! Takes cotangents of attention's mix back to queries, keys and values, for many cotangents of one run at once.
//!
//! With P the pattern, S the scores and dz the cotangent of z at query i:
//!
//! ```text
//! dP[i, j] = dz[i] · v[j]          dS[i, j] = P[i, j] (dP[i, j] − dz[i] · z[i])
//! dq[i] = Σ_j dS[i, j] S' k[j]     dk[j] = Σ_i dS[i, j] S' q[i]     dv[j] = Σ_i P[i, j] dz[i]
//! ```
//!
//! S' is the derivative of a score by q · k: the scale, and that of a soft cap.

use candle_core::Result;
use gemm::Parallelism;
use rayon::prelude::*;

use super::attention::{Attend, Shared};
use super::filled;

/// Queries that are handled together, see [`super::attention`].
const STRIP: usize = 32;

/// What a run left in one layer's attention, of all `n` positions unless said otherwise; q and k as they are multiplied.
pub struct Attended {
    pub attend: Attend,
    /// [pos, head, d_head]
    pub q: Vec<f32>,
    /// [pos, kv_head, d_head]
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// [pos, head, d_head]
    pub z: Vec<f32>,
    /// [head, dest, src]
    pub pattern: Vec<f32>,
    /// The derivative of each score by q · k where it is not the scale alone; [head, dest, src].
    pub slope: Option<Vec<f32>>,
    pub heads: usize,
    pub kv_heads: usize,
    pub d_head: usize,
    pub n: usize,
}

/// dst [m, n] (+)= a [m, k] · b [k, n]; every matrix with the strides of its rows and columns.
#[derive(Clone, Copy)]
struct Strided {
    sizes: [usize; 3],
    dst_row: usize,
    a: [usize; 2],
    b: [usize; 2],
    add: bool,
}

impl Strided {
    /// # Safety
    /// All elements that the sizes and strides reach must lie inside the three buffers. No other thread may write those
    /// of the destination meanwhile.
    unsafe fn run(self, dst: *mut f32, a: *const f32, b: *const f32) {
        let [m, n, k] = self.sizes;
        let (keep, add) = if self.add { (1.0, true) } else { (0.0, false) };
        let [a_row, a_col] = self.a.map(|s| s as isize);
        let [b_row, b_col] = self.b.map(|s| s as isize);
        // SAFETY: the caller vouches for the buffers.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                dst,
                1,
                self.dst_row as isize,
                add,
                a,
                a_col,
                a_row,
                b,
                b_col,
                b_row,
                keep,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

impl Attended {
    /// Takes `dz` [batch, row, head, d_head] back to (dq [batch, row, head, d_head], dk, dv [batch, row, kv_head, d_head]).
    /// Rows are the positions from `start` to the last one; nothing is asked of those before.
    pub fn back(&self, dz: &[f32], start: usize) -> Result<[Vec<f32>; 3]> {
        let (h, kv, d) = (self.heads, self.kv_heads, self.d_head);
        let rows = self.n - start.min(self.n);
        let heads = kv > 0 && h.is_multiple_of(kv) && self.q.len() == self.n * h * d;
        let whole = heads
            && [&self.k, &self.v].iter().all(|x| x.len() == self.n * kv * d)
            && self.pattern.len() == h * self.n * self.n;
        if rows == 0 || !whole || !dz.len().is_multiple_of(rows * h * d) {
            candle_core::bail!("cotangents of {} values do not fit {rows} rows of {h} heads", dz.len())
        }
        let batch = dz.len() / (rows * h * d);
        let (mut dk, mut dv) = (vec![0f32; batch * rows * kv * d], vec![0f32; batch * rows * kv * d]);
        let keys = [&mut dk, &mut dv].map(|v| Shared(v.as_mut_ptr()));
        let task = |task: usize, dq: &Shared| {
            let (b, g) = (task / kv, task % kv);
            let mut scratch = vec![0f32; STRIP * self.n];
            for head in (0..h).filter(|head| head * kv / h == g) {
                for first in (0..rows).step_by(STRIP) {
                    let count = STRIP.min(rows - first);
                    self.strip(dz, start, [b, g, head], first..first + count, &mut scratch, [dq, &keys[0], &keys[1]]);
                }
            }
        };
        // SAFETY: every query of every head belongs to a strip, which writes it.
        let dq = unsafe {
            filled(dz.len(), |dq| {
                let dq = Shared(dq.as_mut_ptr().cast());
                (0..batch * kv).into_par_iter().for_each(|t| task(t, &dq));
            })
        };
        Ok([dq, dk, dv])
    }

    /// One head's queries `strip` (rows counted from `start`) of one cotangent.
    fn strip(
        &self,
        dz: &[f32],
        start: usize,
        [b, g, head]: [usize; 3],
        strip: std::ops::Range<usize>,
        scratch: &mut [f32],
        [dq, dk, dv]: [&Shared; 3],
    ) {
        let (h, kv, d, n) = (self.heads, self.kv_heads, self.d_head, self.n);
        let (rows, count) = (n - start, strip.len());
        let to = start + strip.end;
        let from = self.attend.visible(start + strip.start).start;
        let width = to - from;
        let own = ((b * rows + strip.start) * h + head) * d;
        let keys = (from * kv + g) * d;
        let scores = &mut scratch[..count * width];
        // SAFETY: q, k, v, z and dz have the shapes that `back` has checked; only this task writes the rows of batch b
        // that belong to KV head g and its query heads.
        unsafe {
            // dP
            Strided { sizes: [count, width, d], dst_row: width, a: [h * d, 1], b: [1, kv * d], add: false }.run(
                scores.as_mut_ptr(),
                dz.as_ptr().add(own),
                self.v.as_ptr().add(keys),
            );
        }
        // Keys before `start` take part in the softmax but are not asked for.
        let wanted = from.max(start);
        // SAFETY: as above.
        unsafe {
            Strided { sizes: [to - wanted, d, count], dst_row: kv * d, a: [1, n], b: [h * d, 1], add: true }.run(
                dv.0.add(((b * rows + wanted - start) * kv + g) * d),
                self.pattern.as_ptr().add((head * n + start + strip.start) * n + wanted),
                dz.as_ptr().add(own),
            );
        }
        super::math::simd(|| {
            for (i, row) in scores.chunks_exact_mut(width).enumerate() {
                let p = start + strip.start + i;
                let z = &self.z[(p * h + head) * d..][..d];
                let own = &dz[own + i * h * d..][..d];
                let along: f32 = own.iter().zip(z).map(|(a, b)| a * b).sum();
                let at = (head * n + p) * n + from;
                let pattern = &self.pattern[at..at + width];
                match &self.slope {
                    None => row.iter_mut().zip(pattern).for_each(|(s, w)| *s = w * (*s - along) * self.attend.scale),
                    Some(slope) => row
                        .iter_mut()
                        .zip(pattern.iter().zip(&slope[at..at + width]))
                        .for_each(|(s, (w, f))| *s = w * (*s - along) * f),
                }
            }
        });
        let scores = &*scores;
        // SAFETY: as above.
        unsafe {
            Strided { sizes: [count, d, width], dst_row: h * d, a: [width, 1], b: [kv * d, 1], add: false }.run(
                dq.0.add(own),
                scores.as_ptr(),
                self.k.as_ptr().add(keys),
            );
            Strided { sizes: [to - wanted, d, count], dst_row: kv * d, a: [1, width], b: [h * d, 1], add: true }.run(
                dk.0.add(((b * rows + wanted - start) * kv + g) * d),
                scores.as_ptr().add(wanted - from),
                self.q.as_ptr().add(((start + strip.start) * h + head) * d),
            );
        }
    }
}
