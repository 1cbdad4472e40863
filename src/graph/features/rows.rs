//! The rows of the adjacency matrix: for each target what every source adds to it. Targets go down the model together, in
//! batches from the top layer, each with the positions that it can reach; what is found is kept sparse.

use rayon::prelude::*;

use super::active::{Active, is_before_norm};
use super::linear::{Linear, Scratch, Span, each_row};
use crate::engine::SiteKind;
use crate::engine::kernels::with_values;
use crate::error::Result;
use crate::features::train::maths::{Matrix, product_alone};
use crate::progress::Progress;

/// Rows × positions of a batch in a stream of [`WIDTH`] numbers: enough for the products to be fast, few enough that a
/// cancellation is answered soon.
const BATCH: usize = 2048;
const WIDTH: usize = 576;
/// Numbers that a batch collects its edges in, at most.
const COLLECTED: usize = 16 << 20;

/// Rows × positions of a batch: a product of them with a weight takes as long in a wider stream as in others.
fn batch(d: usize) -> usize {
    (BATCH * WIDTH * WIDTH / (d * d).max(1)).clamp(128, BATCH)
}

/// A target on its way down: a feature, or a logit behind the last layer.
#[derive(Clone, Copy)]
pub(super) struct Seed<'a> {
    /// Where in the caller's list it stands.
    pub row: usize,
    /// The layer that it reads in; the number of layers for a logit.
    pub layer: usize,
    pub pos: usize,
    /// The direction of the stream that it reads, [d_model].
    pub reads: &'a [f32],
}

/// (source, weight) of a target, sources rising.
pub type Row = Vec<(u32, f32)>;

/// The rows of targets, in their order.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub(super) fn rows(
    linear: &Linear<'_>,
    active: &Active,
    mut seeds: Vec<Seed<'_>>,
    progress: &Progress,
) -> Result<Vec<Row>> {
    let sources = active.features.len() + (linear.blocks.len() + 1) * linear.n;
    // From the top layer, and such as can reach as much side by side.
    seeds.sort_by(|a, b| b.layer.cmp(&a.layer).then(b.pos.cmp(&a.pos)));
    let most = batch(linear.d);
    let mut batches: Vec<&[Seed<'_>]> = Vec::new();
    let mut rest = &seeds[..];
    while !rest.is_empty() {
        let (mut count, mut positions) = (0, 0);
        for seed in rest {
            let too_much = positions + seed.pos + 1 > most || (count + 1) * sources > COLLECTED;
            if count > 0 && too_much {
                break;
            }
            count += 1;
            positions += seed.pos + 1;
        }
        batches.push(&rest[..count]);
        rest = &rest[count..];
    }
    let layers = |batch: &&[Seed<'_>]| batch.first().map_or(0, |s| s.layer as u64);
    progress.expect(batches.iter().map(layers).sum());
    let mut out: Vec<Row> = vec![Row::new(); seeds.len()];
    let done: Vec<Vec<(usize, Row)>> = batches
        .par_iter()
        .map(|batch| Batch::new(linear, active, batch, sources).run(progress))
        .collect::<Result<_>>()?;
    for (row, entries) in done.into_iter().flatten() {
        out[row] = entries;
    }
    Ok(out)
}

/// Targets that go down together.
struct Batch<'a> {
    linear: &'a Linear<'a>,
    active: &'a Active,
    seeds: &'a [Seed<'a>],
    spans: Vec<Span>,
    /// Directions, [row][position][d_model]; those that have joined lie first.
    g: Vec<f32>,
    joined: usize,
    /// What was found, [row][source].
    found: Vec<f32>,
    sources: usize,
    scratch: Scratch,
}

impl<'a> Batch<'a> {
    fn new(linear: &'a Linear<'a>, active: &'a Active, seeds: &'a [Seed<'a>], sources: usize) -> Self {
        let mut start = 0;
        let spans = seeds
            .iter()
            .map(|s| {
                let span = Span { start, pos: s.pos };
                start += s.pos + 1;
                span
            })
            .collect();
        let found = vec![0f32; seeds.len() * sources];
        let (g, scratch) = (vec![0f32; start * linear.d], Scratch::default());
        Self { linear, active, seeds, spans, g, joined: 0, found, sources, scratch }
    }

    /// Lets the targets of a layer join.
    fn join(&mut self, layer: usize) {
        let d = self.linear.d;
        while let Some(seed) = self.seeds.get(self.joined).filter(|s| s.layer == layer) {
            let at = (self.spans[self.joined].start + seed.pos) * d;
            self.g[at..at + d].copy_from_slice(seed.reads);
            self.joined += 1;
        }
    }

    fn run(mut self, progress: &Progress) -> Result<Vec<(usize, Row)>> {
        let (linear, d) = (self.linear, self.linear.d);
        let top = self.seeds.first().map_or(0, |s| s.layer);
        self.join(linear.blocks.len());
        for layer in (0..linear.blocks.len().min(top + 1)).rev() {
            progress.check()?;
            let before = linear.behind_attention(self.active.layers[layer].input);
            let skipped = if self.joined > 0 { self.through_output(layer, progress)? } else { None };
            if before {
                self.add(skipped.as_deref());
                self.join(layer);
            }
            if self.joined > 0 {
                let spans = &self.spans[..self.joined];
                let end = spans.last().map_or(0, |s| (s.start + s.pos + 1) * d);
                linear.through_attention(layer, &mut self.g[..end], spans, &mut self.scratch, progress)?;
            }
            if !before {
                self.add(skipped.as_deref());
                self.join(layer);
            }
            progress.step(u64::from(layer < top))?;
        }
        self.through_tokens()?;
        let sources = self.sources;
        let row = |(seed, found): (&Seed<'_>, &[f32])| {
            let entries = found.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, v)| (i as u32, *v)).collect();
            (seed.row, entries)
        };
        Ok(self.seeds.iter().zip(self.found.chunks_exact(sources.max(1))).map(row).collect())
    }

    fn add(&mut self, more: Option<&[f32]>) {
        if let Some(more) = more {
            self.g.iter_mut().zip(more).for_each(|(g, m)| *g += m);
        }
    }

    /// Edges from all that writes at a layer's output; returns what comes back through the skip path.
    fn through_output(&mut self, layer: usize, progress: &Progress) -> Result<Option<Vec<f32>>> {
        let (linear, d, held) = (self.linear, self.linear.d, &self.active.layers[layer]);
        let spans = &self.spans[..self.joined];
        let end = spans.last().map_or(0, |s| (s.start + s.pos + 1) * d);
        let mut behind;
        let g = match &linear.blocks[layer].mlp_post {
            Some(post) if is_before_norm(held.output) => {
                behind = self.g[..end].to_vec();
                each_row(&mut behind, d, spans, |row, pos| post.read(row, pos));
                &behind[..]
            }
            _ => &self.g[..end],
        };
        let writers = &held.writers;
        let (mut rows, mut edges) = (Vec::new(), Vec::new());
        for pos in 0..linear.n {
            progress.check()?;
            let own = writers.starts[pos]..writers.starts[pos + 1];
            let reach: Vec<usize> = (0..spans.len()).filter(|r| spans[*r].pos >= pos).collect();
            if own.is_empty() || reach.is_empty() {
                continue;
            }
            rows.clear();
            reach.iter().for_each(|r| rows.extend_from_slice(&g[(spans[*r].start + pos) * d..][..d]));
            edges.resize(reach.len() * own.len(), 0.0);
            let written = Matrix::new(&writers.rows[own.start * d..own.end * d], own.len(), d);
            product_alone(&mut edges, Matrix::new(&rows, reach.len(), d), written.t());
            for (r, edges) in reach.iter().zip(edges.chunks_exact(own.len())) {
                let found = &mut self.found[r * self.sources..(r + 1) * self.sources];
                writers.node[own.clone()].iter().zip(edges).for_each(|(node, e)| found[*node as usize] += e);
            }
        }
        let Some(skip) = &held.skip else { return Ok(None) };
        let (d_in, count) = (skip.dim(0)?, end / d);
        let mut back = vec![0f32; count * d_in];
        with_values(&skip.contiguous()?, |w| {
            product_alone(&mut back, Matrix::new(g, count, d), Matrix::new(w, d_in, d).t());
        })?;
        each_row(&mut back, d_in, spans, |row, pos| linear.read(held.input, row, pos));
        Ok(Some(back))
    }

    fn through_tokens(&mut self) -> Result<()> {
        let (linear, d) = (self.linear, self.linear.d);
        let first = self.sources - linear.n;
        let embed = linear.trace.get(SiteKind::Embed, 0)?.narrow(0, 0, linear.n)?.contiguous()?;
        let (seeds, spans, g, found, sources) = (self.seeds, &self.spans, &self.g, &mut self.found, self.sources);
        with_values(&embed, |embed| {
            for (r, span) in spans.iter().enumerate().take(seeds.len()) {
                for pos in 0..=span.pos {
                    let row = &g[(span.start + pos) * d..][..d];
                    let dot: f32 = row.iter().zip(&embed[pos * d..][..d]).map(|(a, b)| a * b).sum();
                    found[r * sources + first + pos] = dot;
                }
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The products of a batch with a weight take as long whatever the stream's width, so that none is waited for long.
    #[test]
    fn batches_of_wide_streams_have_fewer_rows() {
        assert_eq!([64, 576, 1152, 2304, 16_384].map(batch), [2048, 2048, 512, 128, 128]);
    }
}
