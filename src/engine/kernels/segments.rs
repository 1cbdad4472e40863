//! Attention for runs that resume in the middle. The rows of many runs lie one behind the other in one tensor. The
//! earlier keys and values come from a past that all runs share.
//!
//! Rows of run i are `segments[i].rows`. The first of them stands at absolute position `segments[i].start`, and
//! positions before that are read from the past. A pattern of such rows is [1, head, row, src] with src counted
//! absolutely; it is zero (scores: −∞) beyond what a row sees.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::attention::{Attend, Product, Shared};
use super::{math, values};

/// Rows that belong to one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first row.
    pub first: usize,
    pub rows: usize,
    /// Absolute position of that row.
    pub start: usize,
}

impl Segment {
    /// Number of positions that its last row sees.
    pub fn end(&self) -> usize {
        self.start + self.rows
    }
}

/// Keys and values of one layer before the resumed rows, [past, kv_head, d_head] each (rotated keys).
#[derive(Clone, Debug)]
pub struct Past {
    pub keys: Tensor,
    pub values: Tensor,
}

/// Number of queries that are handled together.
const STRIP: usize = 64;

/// A piece of work: queries `first..first + n` of a segment, for one head.
#[derive(Clone, Copy)]
struct Piece {
    segment: Segment,
    head: usize,
    first: usize,
    n: usize,
}

fn pieces(segments: &[Segment], heads: usize) -> Vec<Piece> {
    segments
        .iter()
        .flat_map(|&segment| {
            (0..heads).flat_map(move |head| {
                (0..segment.rows).step_by(STRIP).map(move |first| Piece {
                    segment,
                    head,
                    first,
                    n: STRIP.min(segment.rows - first),
                })
            })
        })
        .collect()
}

/// Borrows the values of a contiguous f32 CPU tensor for as long as `f` runs.
fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> candle_core::Result<R>) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => f(values(cpu, layout)?),
        _ => candle_core::bail!("resumed attention runs on the CPU only"),
    }
}

/// Numbers of heads and widths of q and kv, checked against the past.
#[derive(Clone, Copy)]
struct Dims {
    heads: usize,
    kv: usize,
    d: usize,
}

impl Dims {
    /// Checks all sizes that the products below rely on. The unsafe code reads and writes by these sizes alone.
    fn of(heads: usize, k: &Tensor, past: &Past, segments: &[Segment]) -> candle_core::Result<Self> {
        let (batch, rows, kv, d) = k.dims4()?;
        let mut next = 0;
        for s in segments {
            if s.first != next || s.rows == 0 {
                candle_core::bail!("resumed runs must lie one behind the other");
            }
            next += s.rows;
        }
        if batch != 1 || next != rows || kv == 0 || !heads.is_multiple_of(kv) {
            candle_core::bail!("resumed attention over {rows} rows of {heads} heads, {kv} KV heads, {batch} batches");
        }
        let (length, past_kv, past_d) = past.keys.dims3()?;
        if (past_kv, past_d) != (kv, d) || past.values.dims() != past.keys.dims() {
            candle_core::bail!("the past's keys and values do not have the shape of the rows' own");
        }
        if segments.iter().any(|s| s.start > length || s.first + s.rows > rows) {
            candle_core::bail!("a resumed run starts beyond its past");
        }
        Ok(Self { heads, kv, d })
    }
}

struct Keys<'a> {
    past: &'a [f32],
    own: &'a [f32],
}

/// Writes the raw products of a piece's queries with the keys `from..to` (absolute) to `dst`, rows of `stride`.
///
/// # Safety
/// `dst` must have room for n rows of `stride` ≥ to − from, which no other thread touches meanwhile.
unsafe fn products(
    dst: *mut f32,
    stride: usize,
    piece: Piece,
    dims: Dims,
    q: &[f32],
    keys: &Keys<'_>,
    from: usize,
    to: usize,
) {
    let Dims { heads, kv, d } = dims;
    let g = piece.head * kv / heads;
    let s = piece.segment;
    let queries = ((s.first + piece.first) * heads + piece.head) * d;
    let shape = Product { m: piece.n, n: 0, k: d, dst_row: stride, a_row: heads * d, b_row: 1, b_col: kv * d };
    let in_past = s.start.saturating_sub(from);
    // SAFETY: Dims::of checked that the segments lie inside q and the rows' keys, and starts inside the past.
    unsafe {
        if in_past > 0 {
            Product { n: in_past, ..shape }.run(
                dst,
                q.as_ptr().add(queries),
                keys.past.as_ptr().add((from * kv + g) * d),
            );
        }
        let own_from = from.max(s.start) - s.start;
        Product { n: to - s.start - own_from, ..shape }.run(
            dst.add(in_past),
            q.as_ptr().add(queries),
            keys.own.as_ptr().add(((s.first + own_from) * kv + g) * d),
        );
    }
}

/// Writes the z rows of a piece: weights [n, from..to] of `stride` times the values.
///
/// # Safety
/// `dst` is the start of z. No other thread may touch the piece's rows and head in it.
unsafe fn mixed(
    dst: *mut f32,
    weights: *const f32,
    stride: usize,
    piece: Piece,
    dims: Dims,
    values: &Keys<'_>,
    from: usize,
    to: usize,
) {
    let Dims { heads, kv, d } = dims;
    let g = piece.head * kv / heads;
    let s = piece.segment;
    let out = ((s.first + piece.first) * heads + piece.head) * d;
    let shape = Product { m: piece.n, n: d, k: 0, dst_row: heads * d, a_row: stride, b_row: kv * d, b_col: 1 };
    let in_past = s.start.saturating_sub(from);
    // SAFETY: as in `products`.
    unsafe {
        let own_from = from.max(s.start) - s.start;
        Product { k: to - s.start - own_from, ..shape }.run(
            dst.add(out),
            weights.add(in_past),
            values.own.as_ptr().add(((s.first + own_from) * kv + g) * d),
        );
        if in_past > 0 {
            Product { k: in_past, ..shape }.add(dst.add(out), weights, values.past.as_ptr().add((from * kv + g) * d));
        }
    }
}

/// Computes z [1, row, head, d_head] from q [1, row, head, d_head] and the rows' own k, v [1, row, kv_head, d_head].
pub fn attend(
    attend: &Attend,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: &Past,
    segments: &[Segment],
) -> candle_core::Result<Tensor> {
    let dims = Dims::of(q.dim(2)?, k, past, segments)?;
    if q.dims4()? != (1, k.dim(1)?, dims.heads, dims.d) || v.dims() != k.dims() {
        candle_core::bail!("q, k and v of resumed rows do not have one shape");
    }
    let op = Resumed { attend, v: v.contiguous()?, past, segments, dims };
    q.contiguous()?.apply_op2_no_bwd(&k.contiguous()?, &op)
}

struct Resumed<'a> {
    attend: &'a Attend,
    v: Tensor,
    past: &'a Past,
    segments: &'a [Segment],
    dims: Dims,
}

impl CustomOp2 for Resumed<'_> {
    fn name(&self) -> &'static str {
        "resumed attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, own) = (values(s1, l1)?, values(s2, l2)?);
        let mut out = vec![0.0; q.len()];
        let target = Shared(out.as_mut_ptr());
        with_values(&self.v, |v| {
            with_values(&self.past.keys, |past_keys| {
                with_values(&self.past.values, |past_values| {
                    let keys = Keys { past: past_keys, own };
                    let vals = Keys { past: past_values, own: v };
                    pieces(self.segments, self.dims.heads).into_par_iter().with_min_len(4).for_each_init(
                        Vec::new,
                        |scores: &mut Vec<f32>, piece| {
                            let target = &target;
                            let p = piece.segment.start + piece.first;
                            let to = p + piece.n;
                            let from = self.attend.visible(p).start;
                            let seen = to - from;
                            scores.clear();
                            scores.resize(piece.n * seen, 0.0);
                            // SAFETY: the scratch has n rows of `seen`; the piece's rows of z are its own.
                            unsafe {
                                products(scores.as_mut_ptr(), seen, piece, self.dims, q, &keys, from, to);
                            }
                            math::simd(|| {
                                for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                                    self.attend.shifted_pattern_row(row, piece.head, p + i, from);
                                }
                            });
                            // SAFETY: as above.
                            unsafe {
                                mixed(target.0, scores.as_ptr(), seen, piece, self.dims, &vals, from, to);
                            }
                        },
                    );
                    Ok(())
                })
            })
        })?;
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

/// Computes the scores [1, head, row, width] of resumed rows, −∞ where a row may not look.
pub fn scores(
    attend: &Attend,
    q: &Tensor,
    k: &Tensor,
    past: &Past,
    segments: &[Segment],
    width: usize,
) -> candle_core::Result<Tensor> {
    let dims = Dims::of(q.dim(2)?, k, past, segments)?;
    if q.dims4()? != (1, k.dim(1)?, dims.heads, dims.d) || segments.iter().any(|s| s.end() > width) {
        candle_core::bail!("a resumed run is longer than its pattern is wide");
    }
    q.contiguous()?.apply_op2_no_bwd(&k.contiguous()?, &ResumedScores { attend, past, segments, dims, width })
}

struct ResumedScores<'a> {
    attend: &'a Attend,
    past: &'a Past,
    segments: &'a [Segment],
    dims: Dims,
    width: usize,
}

impl CustomOp2 for ResumedScores<'_> {
    fn name(&self) -> &'static str {
        "resumed attention scores"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, own) = (values(s1, l1)?, values(s2, l2)?);
        let (_, rows, heads, _) = l1.shape().dims4()?;
        let width = self.width;
        let mut out = vec![f32::NEG_INFINITY; heads * rows * width];
        let target = Shared(out.as_mut_ptr());
        with_values(&self.past.keys, |past_keys| {
            let keys = Keys { past: past_keys, own };
            pieces(self.segments, heads).into_par_iter().for_each(|piece| {
                let target = &target;
                let p = piece.segment.start + piece.first;
                let to = p + piece.n;
                let at = (piece.head * rows + piece.segment.first + piece.first) * width;
                // SAFETY: the piece's rows of this head are its own.
                let block = unsafe {
                    let dst = target.0.add(at);
                    products(dst, width, piece, self.dims, q, &keys, 0, to);
                    std::slice::from_raw_parts_mut(dst, piece.n * width)
                };
                for (i, row) in block.chunks_exact_mut(width).enumerate() {
                    math::simd(|| self.attend.score_row(&mut row[..to], piece.head, p + i));
                    let visible = self.attend.visible(p + i);
                    row[..visible.start].fill(f32::NEG_INFINITY);
                    row[visible.end..].fill(f32::NEG_INFINITY);
                }
            });
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), Shape::from((1, heads, rows, width))))
    }
}

/// Computes the pattern of scores [1, head, row, width], which edits may have changed since [`scores`] made them.
/// Columns that a row may not see become zero, whatever stands there. A row of nothing but −∞ becomes zeros.
pub fn softmax(attend: &Attend, scores: &Tensor, segments: &[Segment]) -> candle_core::Result<Tensor> {
    scores.contiguous()?.apply_op1_no_bwd(&RowSoftmax { attend, segments })
}

struct RowSoftmax<'a> {
    attend: &'a Attend,
    segments: &'a [Segment],
}

impl CustomOp1 for RowSoftmax<'_> {
    fn name(&self) -> &'static str {
        "row softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut out = values(storage, layout)?.to_vec();
        let (_, _, rows, width) = layout.shape().dims4()?;
        let positions: Vec<usize> = self.segments.iter().flat_map(|s| s.start..s.end()).collect();
        if positions.len() != rows || positions.iter().any(|p| *p >= width) {
            candle_core::bail!("scores of {rows} rows do not belong to {} resumed positions", positions.len());
        }
        out.par_chunks_exact_mut(width).with_min_len(16).enumerate().for_each(|(i, row)| {
            let seen = self.attend.visible(positions[i % rows]);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            math::simd(|| math::softmax(&mut row[seen]));
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Computes z [1, row, head, d_head] from a pattern [1, head, row, width] and the rows' own v.
pub fn mix(pattern: &Tensor, v: &Tensor, past: &Past, segments: &[Segment]) -> candle_core::Result<Tensor> {
    let dims = Dims::of(pattern.dim(1)?, v, past, segments)?;
    let (batch, _, rows, width) = pattern.dims4()?;
    if batch != 1 || rows != v.dim(1)? || segments.iter().any(|s| s.end() > width) {
        candle_core::bail!("a pattern of {rows} rows and {width} columns does not belong to the resumed rows");
    }
    pattern.contiguous()?.apply_op2_no_bwd(&v.contiguous()?, &ResumedMix { past, segments, dims })
}

struct ResumedMix<'a> {
    past: &'a Past,
    segments: &'a [Segment],
    dims: Dims,
}

impl CustomOp2 for ResumedMix<'_> {
    fn name(&self) -> &'static str {
        "resumed attention mix"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (pattern, own) = (values(s1, l1)?, values(s2, l2)?);
        let (_, heads, rows, width) = l1.shape().dims4()?;
        let d = self.dims.d;
        let mut out = vec![0.0; rows * heads * d];
        let target = Shared(out.as_mut_ptr());
        with_values(&self.past.values, |past_values| {
            let vals = Keys { past: past_values, own };
            pieces(self.segments, heads).into_par_iter().for_each(|piece| {
                let target = &target;
                let to = piece.segment.start + piece.first + piece.n;
                let at = (piece.head * rows + piece.segment.first + piece.first) * width;
                // SAFETY: the piece's rows of z are its own; the pattern has `width` columns a row.
                unsafe {
                    mixed(target.0, pattern.as_ptr().add(at), width, piece, self.dims, &vals, 0, to);
                }
            });
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), Shape::from((1, rows, heads, d))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    }

    /// Two runs over the same 80 positions, resumed at 3 and at 77, against full attention.
    #[test]
    fn resumed_equals_full() {
        let n = 80;
        let random = |h: usize| Tensor::randn(0f32, 1f32, (1, n, h, 8), &Device::Cpu).unwrap();
        let (q, k, v) = (random(6), random(3), random(3));
        let past = Past { keys: k.squeeze(0).unwrap(), values: v.squeeze(0).unwrap() };
        let segments = [Segment { first: 0, rows: 77, start: 3 }, Segment { first: 77, rows: 3, start: 77 }];
        let rows = |x: &Tensor| {
            Tensor::cat(&[x.narrow(1, 3, 77).unwrap(), x.narrow(1, 77, 3).unwrap()], 1).unwrap().contiguous().unwrap()
        };
        for attend_options in [
            Attend { scale: 0.35, ..Attend::default() },
            Attend { scale: 0.35, window: Some(9), softcap: Some(2.0), ..Attend::default() },
            Attend { scale: 0.3, slopes: Some(vec![0.5, 0.25, 0.1, 0.05, 0.02, 0.01]), ..Attend::default() },
        ] {
            let want = rows(&attend_options.attend(&q, &k, &v).unwrap());
            let (rq, rk, rv) = (rows(&q), rows(&k), rows(&v));
            let got = attend(&attend_options, &rq, &rk, &rv, &past, &segments).unwrap();
            assert!(worst(&got, &want) < 1e-5);
            let s = scores(&attend_options, &rq, &rk, &past, &segments, n).unwrap();
            let p = softmax(&attend_options, &s, &segments).unwrap();
            let full = attend_options.pattern(&q, &k).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
            let full = rows(&full).transpose(1, 2).unwrap();
            assert!(worst(&p, &full) < 1e-6);
            assert!(worst(&mix(&p, &rv, &past, &segments).unwrap(), &want) < 1e-5);
        }
    }
}
