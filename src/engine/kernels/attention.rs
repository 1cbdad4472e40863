//! Causal attention of each head: scores, pattern, and the mix of values.
//!
//! The fused forms work on one head and a strip of queries at a time, and touch only the keys that the strip can see. A
//! plain run never holds a [head, dest, src] tensor.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::{fused, math, values};

/// The settings that turn q · k into a pattern.
#[derive(Clone, Debug, Default)]
pub struct Attend {
    pub scale: f32,
    pub softcap: Option<f32>,
    /// A query at position p sees keys p − window + 1 ..= p.
    pub window: Option<usize>,
    /// ALiBi slope of each query head.
    pub slopes: Option<Vec<f32>>,
}

/// Number of queries that are handled together: enough rows for an efficient product, few enough to stay in the cache.
const STRIP: usize = 64;

impl Attend {
    /// Returns the keys that the query at absolute position p sees.
    pub(crate) fn visible(&self, p: usize) -> std::ops::Range<usize> {
        let from = self.window.map_or(0, |w| (p + 1).saturating_sub(w));
        from..p + 1
    }

    /// Turns raw products q · k of one query into scores, in place.
    #[inline(always)]
    pub(super) fn score_row(&self, row: &mut [f32], head: usize, p: usize) {
        for v in row.iter_mut() {
            *v *= self.scale;
        }
        if let Some(cap) = self.softcap {
            for v in row.iter_mut() {
                *v = cap * math::tanh(*v / cap);
            }
        }
        if let Some(slopes) = &self.slopes {
            let slope = slopes[head];
            for (j, v) in row.iter_mut().enumerate() {
                *v += slope * (j as f32 - p as f32);
            }
        }
    }

    #[inline(always)]
    fn pattern_row(&self, row: &mut [f32], head: usize, p: usize) {
        self.score_row(row, head, p);
        let seen = self.visible(p);
        math::softmax(&mut row[seen.clone()]);
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
    }

    /// Computes z [batch, dest, head, d_head] from q [batch, dest, head, d_head] and k, v [batch, src, kv_head,
    /// d_head]. Queries are the last positions of the sequence.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
        if fused(&[q, k, v]) {
            let values = v.clone();
            return q.apply_op2_no_bwd(k, &FusedAttend { attend: self, v: values });
        }
        mix(&self.pattern(q, k)?, v)
    }

    /// Computes the pattern [batch, head, dest, src].
    pub fn pattern(&self, q: &Tensor, k: &Tensor) -> candle_core::Result<Tensor> {
        if fused(&[q, k]) {
            return q.apply_op2_no_bwd(k, &FusedScores { attend: self, softmax: true });
        }
        candle_nn::ops::softmax(&self.composed_scores(q, k)?, D::Minus1)
    }

    /// Computes the scores [batch, head, dest, src], after scale, cap and bias; −∞ where a query may not look.
    pub fn scores(&self, q: &Tensor, k: &Tensor) -> candle_core::Result<Tensor> {
        if fused(&[q, k]) {
            return q.apply_op2_no_bwd(k, &FusedScores { attend: self, softmax: false });
        }
        self.composed_scores(q, k)
    }

    /// Computes the pattern of scores [batch, head, dest, src] from [`Attend::scores`], which edits may have changed.
    pub fn softmax(&self, scores: &Tensor) -> candle_core::Result<Tensor> {
        if fused(&[scores]) {
            return scores.apply_op1_no_bwd(&FusedSoftmax(self));
        }
        candle_nn::ops::softmax(scores, D::Minus1)
    }

    fn composed_scores(&self, q: &Tensor, k: &Tensor) -> candle_core::Result<Tensor> {
        let (_, t, heads, _) = q.dims4()?;
        let s = k.dim(1)?;
        let q = q.transpose(1, 2)?.contiguous()?;
        let k = repeat(k, heads)?.transpose(1, 2)?.transpose(2, 3)?.contiguous()?;
        let mut scores = (q.matmul(&k)? * f64::from(self.scale))?;
        if let Some(cap) = self.softcap {
            let cap = f64::from(cap);
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        if let Some(slopes) = &self.slopes {
            let bias: Vec<f32> = slopes
                .iter()
                .flat_map(|m| (0..t).flat_map(move |i| (0..s).map(move |j| m * (j as f32 - (s - t + i) as f32))))
                .collect();
            scores = scores.broadcast_add(&Tensor::from_vec(bias, (1, heads, t, s), q.device())?)?;
        }
        let mask: Vec<f32> = (0..t)
            .flat_map(|i| {
                let seen = self.visible(s - t + i);
                (0..s).map(move |j| if seen.contains(&j) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        scores.broadcast_add(&Tensor::from_vec(mask, (1, 1, t, s), q.device())?.to_dtype(DType::F32)?)
    }
}

/// Repeats every KV head of k or v for the query heads that read it.
pub fn repeat(x: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (b, s, kv, d) = x.dims4()?;
    if kv == heads {
        return Ok(x.clone());
    }
    x.unsqueeze(3)?.broadcast_as((b, s, kv, heads / kv, d))?.contiguous()?.reshape((b, s, heads, d))
}

/// Computes z [batch, dest, head, d_head] from pattern [batch, head, dest, src] and v [batch, src, kv_head, d_head].
pub fn mix(pattern: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    if fused(&[pattern, v]) {
        return pattern.apply_op2_no_bwd(v, &FusedMix);
    }
    let v = repeat(v, pattern.dim(1)?)?.transpose(1, 2)?.contiguous()?;
    pattern.matmul(&v)?.transpose(1, 2)?.contiguous()
}

/// The product dst [m, n] = a [m, k] · b [k, n], with the given strides.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dst_row: usize,
    pub a_row: usize,
    pub b_row: usize,
    pub b_col: usize,
}

impl Product {
    /// # Safety
    /// All elements that the sizes and strides reach must lie inside the three buffers. No other thread may write those
    /// of the destination meanwhile.
    pub unsafe fn run(self, dst: *mut f32, a: *const f32, b: *const f32) {
        // SAFETY: the caller vouches for the buffers.
        unsafe { self.gemm(dst, a, b, false) }
    }

    /// Adds the product to the values in the destination.
    ///
    /// # Safety
    /// As [`Self::run`]; the destination must hold values.
    pub unsafe fn add(self, dst: *mut f32, a: *const f32, b: *const f32) {
        // SAFETY: the caller vouches for the buffers.
        unsafe { self.gemm(dst, a, b, true) }
    }

    unsafe fn gemm(self, dst: *mut f32, a: *const f32, b: *const f32, keep: bool) {
        // SAFETY: the caller vouches for the buffers.
        unsafe {
            gemm::gemm(
                self.m,
                self.n,
                self.k,
                dst,
                1,
                self.dst_row as isize,
                keep,
                a,
                1,
                self.a_row as isize,
                b,
                self.b_col as isize,
                self.b_row as isize,
                if keep { 1.0 } else { 0.0 },
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// A pointer into a buffer whose parts are written by different threads.
pub(super) struct Shared(pub *mut f32);
// SAFETY: every user writes only the (batch, head, strip) block it was handed.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Calls `f(batch, head, first query, queries)` for every block, on all threads.
fn blocks(b: usize, heads: usize, t: usize, f: impl Fn(usize, usize, usize, usize) + Sync) {
    let strips = t.div_ceil(STRIP);
    (0..b * heads * strips).into_par_iter().for_each(|i| {
        let (strip, bh) = (i % strips, i / strips);
        let first = strip * STRIP;
        f(bh / heads, bh % heads, first, STRIP.min(t - first));
    });
}

fn check_lengths(t: usize, s: usize) -> candle_core::Result<usize> {
    match s.checked_sub(t) {
        Some(offset) => Ok(offset),
        None => candle_core::bail!("attention over {s} keys cannot serve {t} queries"),
    }
}

struct FusedAttend<'a> {
    attend: &'a Attend,
    v: Tensor,
}

impl CustomOp2 for FusedAttend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k) = (values(s1, l1)?, values(s2, l2)?);
        let (v_storage, v_layout) = self.v.storage_and_layout();
        let candle_core::Storage::Cpu(v_storage) = &*v_storage else {
            candle_core::bail!("attention's values are not on the CPU")
        };
        let v = values(v_storage, v_layout)?;
        let (b, t, heads, d) = l1.shape().dims4()?;
        let (_, s, kv, _) = l2.shape().dims4()?;
        let offset = check_lengths(t, s)?;
        let mut out = vec![0.0; q.len()];
        let target = Shared(out.as_mut_ptr());
        blocks(b, heads, t, |bi, h, first, n| {
            let target = &target;
            let g = h * kv / heads;
            // No query of this strip sees beyond the last one, or before the window of the first one.
            let to = offset + first + n;
            let from = self.attend.visible(offset + first).start;
            let seen = to - from;
            let mut scores = vec![0.0; n * seen];
            let keys = ((bi * s + from) * kv + g) * d;
            let queries = ((bi * t + first) * heads + h) * d;
            // SAFETY: q, k, v have the shapes above; rows first..first + n of head h of the result belong
            // to this block alone.
            unsafe {
                Product { m: n, n: seen, k: d, dst_row: seen, a_row: heads * d, b_row: 1, b_col: kv * d }.run(
                    scores.as_mut_ptr(),
                    q.as_ptr().add(queries),
                    k.as_ptr().add(keys),
                );
            }
            math::simd(|| {
                for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                    let p = offset + first + i;
                    self.attend.shifted_pattern_row(row, h, p, from);
                }
            });
            // SAFETY: as above.
            unsafe {
                Product { m: n, n: d, k: seen, dst_row: heads * d, a_row: seen, b_row: kv * d, b_col: 1 }.run(
                    target.0.add(queries),
                    scores.as_ptr(),
                    v.as_ptr().add(keys),
                );
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

impl Attend {
    /// [`Self::pattern_row`] for a row whose first element is key `from`.
    #[inline(always)]
    pub(super) fn shifted_pattern_row(&self, row: &mut [f32], head: usize, p: usize, from: usize) {
        self.score_row(row, head, p - from);
        let seen = self.visible(p);
        let (a, b) = (seen.start - from, seen.end - from);
        math::softmax(&mut row[a..b]);
        row[..a].fill(0.0);
        row[b..].fill(0.0);
    }
}

struct FusedScores<'a> {
    attend: &'a Attend,
    softmax: bool,
}

impl CustomOp2 for FusedScores<'_> {
    fn name(&self) -> &'static str {
        "attention scores"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k) = (values(s1, l1)?, values(s2, l2)?);
        let (b, t, heads, d) = l1.shape().dims4()?;
        let (_, s, kv, _) = l2.shape().dims4()?;
        let offset = check_lengths(t, s)?;
        let mut out = vec![0.0; b * heads * t * s];
        let target = Shared(out.as_mut_ptr());
        blocks(b, heads, t, |bi, h, first, n| {
            let target = &target;
            let g = h * kv / heads;
            let seen = offset + first + n;
            let at = ((bi * heads + h) * t + first) * s;
            // SAFETY: rows first..first + n of (batch, head) of the result belong to this block alone.
            let rows = unsafe {
                let dst = target.0.add(at);
                Product { m: n, n: seen, k: d, dst_row: s, a_row: heads * d, b_row: 1, b_col: kv * d }.run(
                    dst,
                    q.as_ptr().add(((bi * t + first) * heads + h) * d),
                    k.as_ptr().add((bi * s * kv + g) * d),
                );
                std::slice::from_raw_parts_mut(dst, n * s)
            };
            math::simd(|| {
                for (i, row) in rows.chunks_exact_mut(s).enumerate() {
                    let p = offset + first + i;
                    // The product has not written the columns beyond the strip's last query.
                    let (live, beyond) = row.split_at_mut(seen);
                    beyond.fill(if self.softmax { 0.0 } else { f32::NEG_INFINITY });
                    if self.softmax {
                        self.attend.pattern_row(live, h, p);
                    } else {
                        self.attend.score_row(live, h, p);
                        let visible = self.attend.visible(p);
                        live[..visible.start].fill(f32::NEG_INFINITY);
                        live[visible.end..].fill(f32::NEG_INFINITY);
                    }
                }
            });
        });
        Ok((CpuStorage::F32(out), Shape::from((b, heads, t, s))))
    }
}

struct FusedSoftmax<'a>(&'a Attend);

impl CustomOp1 for FusedSoftmax<'_> {
    fn name(&self) -> &'static str {
        "attention softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let scores = values(storage, layout)?;
        let (_, _, t, s) = layout.shape().dims4()?;
        let offset = check_lengths(t, s)?;
        let mut out = vec![0.0; scores.len()];
        out.par_chunks_exact_mut(s).zip(scores.par_chunks_exact(s)).with_min_len(16).enumerate().for_each(
            |(i, (out, row))| {
                // Columns that may not be seen stay at zero; their scores were −∞.
                let seen = self.0.visible(offset + i % t);
                out[..seen.start].fill(0.0);
                out[seen.end..].fill(0.0);
                out[seen.clone()].copy_from_slice(&row[seen.clone()]);
                math::simd(|| math::softmax(&mut out[seen]));
            },
        );
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct FusedMix;

impl CustomOp2 for FusedMix {
    fn name(&self) -> &'static str {
        "attention mix"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (pattern, v) = (values(s1, l1)?, values(s2, l2)?);
        let (b, heads, t, s) = l1.shape().dims4()?;
        let (_, _, kv, d) = l2.shape().dims4()?;
        let mut out = vec![0.0; b * t * heads * d];
        let target = Shared(out.as_mut_ptr());
        blocks(b, heads, t, |bi, h, first, n| {
            let target = &target;
            let g = h * kv / heads;
            // SAFETY: rows first..first + n of head h of the result belong to this block alone.
            unsafe {
                Product { m: n, n: d, k: s, dst_row: heads * d, a_row: s, b_row: kv * d, b_col: 1 }.run(
                    target.0.add(((bi * t + first) * heads + h) * d),
                    pattern.as_ptr().add(((bi * heads + h) * t + first) * s),
                    v.as_ptr().add((bi * s * kv + g) * d),
                );
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((b, t, heads, d))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn random(shape: (usize, usize, usize, usize)) -> Tensor {
        Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn fused_equals_composed() {
        // 70 queries cross a strip border; 75 keys leave 5 positions of past.
        let (q, k, v) = (random((2, 70, 6, 8)), random((2, 75, 3, 8)), random((2, 75, 3, 8)));
        let plain = Attend { scale: 0.35, ..Attend::default() };
        let variants = [
            plain.clone(),
            Attend { softcap: Some(1.5), ..plain.clone() },
            Attend { window: Some(9), ..plain.clone() },
            Attend { slopes: Some(vec![0.5, 0.25, 0.1, 0.05, 0.02, 0.01]), ..plain },
        ];
        for attend in variants {
            let composed = candle_nn::ops::softmax(&attend.composed_scores(&q, &k).unwrap(), D::Minus1).unwrap();
            let pattern = attend.pattern(&q, &k).unwrap();
            assert!(worst(&pattern, &composed) < 1e-6, "{attend:?}");
            let scores = attend.scores(&q, &k).unwrap();
            let from_scores = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
            assert!(worst(&from_scores, &composed) < 1e-6, "{attend:?}");
            assert!(worst(&attend.softmax(&scores).unwrap(), &composed) < 1e-6, "{attend:?}");
            let long_v = repeat(&v, 6).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
            let z = composed.matmul(&long_v).unwrap().transpose(1, 2).unwrap();
            assert!(worst(&attend.attend(&q, &k, &v).unwrap(), &z) < 1e-5, "{attend:?}");
            assert!(worst(&mix(&pattern, &v).unwrap(), &z) < 1e-5, "{attend:?}");
        }
    }
}
