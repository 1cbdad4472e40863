//! A run as a linear model: with attention patterns, the divisors of all norms and what MLPs give held still, what is
//! left is linear in the stream. Directions go down it, from what is explained to what wrote it; changes go up.
//!
//! Rows of a batch lie one behind the other, each with the positions 0 to its own target's, [position][d_model].

use candle_core::Tensor;

use crate::engine::frozen::{FrozenNorm, RowNorm};
use crate::engine::kernels::math::simd;
use crate::engine::kernels::product;
use crate::engine::{SiteKind, Trace};
use crate::error::Result;
use crate::features::train::maths::{Matrix, add_to_columns};
use crate::features::{Place, View};
use crate::graph::readers::mlp_norm;
use crate::graph::sources::{attn_post, mlp_post};
use crate::model::config::Parallel;
use crate::progress::Progress;

/// Queries whose patterns are one factor of a product.
const QUERIES: usize = 64;

/// One block, held still.
pub(super) struct Held {
    ln1: RowNorm,
    ln1_post: Option<RowNorm>,
    /// The norm that the MLP reads through.
    pub mlp: RowNorm,
    pub mlp_post: Option<RowNorm>,
    /// [head][dest][src].
    pattern: Vec<f32>,
}

/// The first `n` positions of a run, held still.
pub(super) struct Linear<'a> {
    pub trace: &'a Trace,
    pub n: usize,
    pub d: usize,
    pub blocks: Vec<Held>,
    /// The final norm.
    pub last: RowNorm,
    kv_head: Vec<usize>,
}

/// Where one row of a batch lies, and the position of its target: it has that many positions and one more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub start: usize,
    pub pos: usize,
}

/// Memory that one layer after the other is worked on in.
#[derive(Default)]
pub(super) struct Scratch {
    written: Vec<f32>,
    z: Vec<f32>,
    v: Vec<f32>,
    back: Vec<f32>,
}

impl<'a> Linear<'a> {
    /// # Errors
    /// A model whose stream is no sum, patterns that would take too much memory, or [`crate::Error::Cancelled`].
    pub fn of(trace: &'a Trace, n: usize, progress: &Progress) -> Result<Self> {
        let c = &trace.model.config;
        c.adds_up()?;
        let first = |kind, layer| -> Result<_> { Ok(trace.get(kind, layer)?.narrow(0, 0, n)?.contiguous()?) };
        let rows = |norm: Option<FrozenNorm>| norm.map(|f| f.by_rows()).transpose();
        let blocks = (0..c.n_layers)
            .map(|layer| {
                progress.check()?;
                let block = &trace.model.weights.blocks[layer];
                let pattern = trace.pattern(layer)?.narrow(1, 0, n)?.narrow(2, 0, n)?.contiguous()?;
                Ok(Held {
                    ln1: FrozenNorm::of(&first(SiteKind::ResidPre, layer)?, block.ln1.as_ref(), c)?.by_rows()?,
                    ln1_post: rows(attn_post(trace, layer, n)?)?,
                    mlp: mlp_norm(trace, layer, n)?.by_rows()?,
                    mlp_post: rows(mlp_post(trace, layer, n)?)?,
                    pattern: pattern.flatten_all()?.to_vec1()?,
                })
            })
            .collect::<Result<_>>()?;
        let stream = trace.resid_final.narrow(0, 0, n)?.contiguous()?;
        Ok(Self {
            trace,
            n,
            d: c.d_model,
            blocks,
            last: FrozenNorm::of(&stream, trace.model.weights.ln_final.as_ref(), c)?.by_rows()?,
            kv_head: (0..c.n_heads).map(|h| c.kv_head(h)).collect(),
        })
    }

    /// Whether what is read at a place stands behind the layer's attention.
    pub fn behind_attention(&self, place: Place) -> bool {
        self.trace.model.config.parallel == Parallel::Sequential && place.site.kind != SiteKind::ResidPre
    }

    /// Takes a direction at a place that transcoders read back to one of the stream.
    pub fn read(&self, place: Place, row: &mut [f32], pos: usize) {
        let norm = &self.blocks[place.layer()].mlp;
        match place.view() {
            View::Normed => norm.read(row, pos),
            View::Quotient => norm.read_quotient(row, pos),
            View::Stream => {}
        }
    }

    /// Takes a direction of what a layer's attention reads back to one of the stream.
    pub fn read_attention(&self, layer: usize, row: &mut [f32], pos: usize) {
        self.blocks[layer].ln1.read(row, pos);
    }

    /// What a change of the stream is at a place that transcoders read.
    pub fn seen(&self, place: Place, row: &mut [f32], pos: usize) {
        let norm = &self.blocks[place.layer()].mlp;
        match place.view() {
            View::Normed => norm.apply(row, pos),
            View::Quotient => norm.quotient(row, pos),
            View::Stream => {}
        }
    }

    /// Takes directions `g` of what stands behind a layer's attention back through it, and adds what they are before it.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`].
    pub fn through_attention(
        &self,
        layer: usize,
        g: &mut [f32],
        spans: &[Span],
        scratch: &mut Scratch,
        progress: &Progress,
    ) -> Result<()> {
        let (c, d) = (&self.trace.model.config, self.d);
        let (block, weights) = (&self.blocks[layer], &self.trace.model.weights.blocks[layer].attn);
        let (rows, out, kv) = (g.len() / d, c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
        let Scratch { written, z, v, back } = scratch;
        match &block.ln1_post {
            Some(post) => {
                written.clear();
                written.extend_from_slice(g);
                each_row(written, d, spans, |row, pos| post.read(row, pos));
                product::back_into(written, &weights.o.weight, z)?;
            }
            None => product::back_into(g, &weights.o.weight, z)?,
        }
        v.clear();
        v.resize(rows * kv, 0.0);
        for span in spans {
            progress.check()?;
            let len = span.pos + 1;
            let (from, to) = (&z[span.start * out..][..len * out], &mut v[span.start * kv..][..len * kv]);
            self.mix(block, from, to, len, out, kv);
        }
        progress.check()?;
        product::back_into(v, &weights.v.weight, back)?;
        for span in spans {
            let own = span.start * d..(span.start + span.pos + 1) * d;
            let rows = g[own.clone()].chunks_exact_mut(d).zip(back[own].chunks_exact_mut(d));
            for (pos, (g, row)) in rows.enumerate() {
                block.ln1.read(row, pos);
                simd(|| g.iter_mut().zip(row).for_each(|(g, b)| *g += *b));
            }
        }
        Ok(())
    }

    /// Rows of a width through a product with a weight.
    fn products(
        &self,
        rows: Vec<f32>,
        width: usize,
        by: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Vec<f32>> {
        let n = rows.len() / width.max(1);
        Ok(by(&Tensor::from_vec(rows, (n, width), self.trace.resid_final.device())?)?.flatten_all()?.to_vec1()?)
    }

    /// Takes directions of heads' outputs [pos][head][d_head] to directions of values [pos][kv_head][d_head].
    fn mix(&self, block: &Held, z: &[f32], v: &mut [f32], len: usize, out: usize, kv: usize) {
        let (n, width) = (self.n, self.trace.model.config.d_head);
        for (head, group) in self.kv_head.iter().enumerate() {
            // A query sees no later key, so that some queries at a time meet fewer keys.
            for from in (0..len).step_by(QUERIES) {
                let to = (from + QUERIES).min(len);
                let pattern = &block.pattern[(head * n + from) * n..(head * n + to) * n];
                let seen = Matrix::columns(pattern, to - from, n, 0, to).t();
                let read = Matrix::columns(&z[from * out..to * out], to - from, out, head * width, width);
                add_to_columns(&mut v[..to * kv], kv, group * width, seen, read);
            }
        }
    }

    /// Takes a change of the stream [n, d_model] through a layer's attention: what it adds.
    pub fn attended(&self, layer: usize, change: &[f32]) -> Result<Vec<f32>> {
        let (c, d, n) = (&self.trace.model.config, self.d, self.n);
        let (block, weights) = (&self.blocks[layer], &self.trace.model.weights.blocks[layer].attn);
        let (out, kv, width) = (c.n_heads * c.d_head, c.n_kv_heads * c.d_head, c.d_head);
        let mut x = change.to_vec();
        x.chunks_exact_mut(d).enumerate().for_each(|(pos, row)| block.ln1.apply(row, pos));
        let mut z = vec![0f32; n * out];
        let v = self.products(x, d, |x| product::apply(x, &weights.v.weight))?;
        for (head, group) in self.kv_head.iter().enumerate() {
            let pattern = Matrix::new(&block.pattern[head * n * n..(head + 1) * n * n], n, n);
            add_to_columns(&mut z, out, head * width, pattern, Matrix::columns(&v, n, kv, group * width, width));
        }
        let mut added = self.products(z, out, |x| product::apply(x, &weights.o.weight))?;
        if let Some(post) = &block.ln1_post {
            added.chunks_exact_mut(d).enumerate().for_each(|(pos, row)| post.apply(row, pos));
        }
        Ok(added)
    }
}

/// Every row of a batch with its position.
pub(super) fn each_row(rows: &mut [f32], d: usize, spans: &[Span], change: impl Fn(&mut [f32], usize)) {
    for span in spans {
        let own = &mut rows[span.start * d..(span.start + span.pos + 1) * d];
        own.chunks_exact_mut(d).enumerate().for_each(|(pos, row)| change(row, pos));
    }
}
