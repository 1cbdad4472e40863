//! Runs a text through a model and counts what every head looks at. The patterns are seen while the run passes and never
//! kept.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::index::{About, Example, HeadIndex, Measure};
use super::{feeds, index_file, words};
use crate::analysis::plan::{OverText, cost_over};
use crate::engine::kernels::math::simd;
use crate::engine::kernels::{product, with_values};
use crate::engine::{Hooks, Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::harvest::{PASS, run_to};
use crate::features::rows::{Batch, Rows};
use crate::features::train::maths::{Matrix, dot, product_alone};
use crate::files::can_be_saved_again;
use crate::hash::Hash;
use crate::interrupt;
use crate::model::Model;
use crate::progress::Progress;
use crate::shard::{Shard, check_goes_on, share};

/// Tokens shown on either side of a query and a key.
const WINDOW: usize = 8;
/// Rows that are taken apart for what feeds the heads, about.
const SAMPLED: usize = 48;
/// A scan is written about so often. Each time the words of all new examples are found, which takes no more than one part in
/// so many of the time.
const KEEP: Duration = Duration::from_secs(60);
const KEEP_AT_LEAST: Duration = Duration::from_mins(10);
const SPENT: u32 = 60;

/// What is scanned.
pub struct Plan<'a> {
    pub model: &'a std::sync::Arc<Model>,
    pub rows: &'a Rows,
    pub texts: Vec<String>,
    pub context: usize,
    pub limit: Option<usize>,
    /// This shard, counted from 0, of how many.
    pub shard: (usize, usize),
}

impl Plan<'_> {
    fn about(&self, batches: usize) -> Result<About> {
        let c = &self.model.config;
        Ok(About {
            model: c.name.clone(),
            shard: Shard::new("heads --over", self.model.fingerprint()?, self.rows.hash()?, self.shard)?,
            n_layers: c.n_layers,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            has_mlp: c.has_mlp(),
            texts: self.texts.clone(),
            context: self.context,
            limit: self.limit,
            done: 0,
            batches,
            queries: 0,
            every: self.rows.len().div_ceil(SAMPLED).max(1),
            sampled: 0,
            window: WINDOW,
        })
    }

    /// A number, in hexadecimal, that two scans share only where one goes on with the other.
    ///
    /// # Errors
    /// As reading the rows.
    pub fn identity(&self) -> Result<String> {
        let about = serde_json::to_vec(&self.about(self.rows.batches(PASS).len())?);
        let about = about.map_err(|e| Error::failed(e.to_string()))?;
        Ok(format!("{:016x}", Hash::default().all(about.iter().map(|b| u64::from(*b)))))
    }

    /// Scans what is left of the text. Where `file` is given, an unfinished scan there is gone on with, and it is written
    /// there from time to time and at the end. `look` sees the index on the way. A step of progress a token.
    ///
    /// # Errors
    /// A file of another scan, a full disk, or [`Error::Cancelled`].
    pub fn run(&self, file: Option<&Path>, progress: &Progress, look: &mut dyn FnMut(&HeadIndex)) -> Result<HeadIndex> {
        let _careful = file.map(|_| interrupt::careful(progress));
        let all = self.rows.batches(PASS);
        let batches = &all[share(self.shard, all.len())];
        let mut index = HeadIndex::new(self.about(batches.len())?);
        file.map(can_be_saved_again).transpose()?;
        if let Some(path) = file.filter(|p| p.is_file()) {
            let old = index_file::open(path)?;
            check_goes_on(path, &old.about, &index.about)?;
            index = old;
        }
        let lengths: Vec<usize> = self.rows.lengths().collect();
        let tokens = |b: &[usize]| b.iter().map(|i| lengths[*i] as u64).sum::<u64>();
        progress.expect(batches.iter().map(|b| tokens(b)).sum());
        let left: u64 = batches.iter().skip(index.about.done).map(|b| tokens(b)).sum();
        if left > 0 {
            progress.needs(|| cost_over(self.model, left as usize, self.context, OverText::Heads))?;
        }
        // First, so that nothing that is seen on the way lacks it.
        if index.entries.iter().all(|e| e.copying == 0.0 && e.anti_copying == 0.0) {
            words::copying(self.model, &mut index, progress)?;
        }
        progress.step(batches.iter().take(index.about.done).map(|b| tokens(b)).sum())?;
        let lengths_of = ValueLengths::of(self.model)?;
        let (mut kept, mut shown, mut wait) = (Instant::now(), Instant::now(), KEEP);
        while let Some(batch) = batches.get(index.about.done) {
            let entered = self.enter(&mut index, batch, &lengths_of, progress);
            let outcome = entered.and_then(|()| progress.step(tokens(batch)));
            let stopping = outcome.is_err();
            if let Some(path) = file.filter(|_| stopping || kept.elapsed() > wait) {
                let begun = Instant::now();
                words::fill(self.model, &mut index, &Progress::new())?;
                index_file::save(&index, path)?;
                kept = Instant::now();
                wait = (SPENT * begun.elapsed()).clamp(KEEP, KEEP_AT_LEAST);
                if stopping {
                    look(&index);
                }
            }
            outcome?;
            if shown.elapsed() > Duration::from_millis(700) {
                look(&index);
                shown = Instant::now();
            }
        }
        words::fill(self.model, &mut index, progress)?;
        if let Some(path) = file {
            index_file::save(&index, path)?;
        }
        Ok(index)
    }

    /// The counts of the whole text alone, without what the weights say of each head.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn count(&self, progress: &Progress) -> Result<HeadIndex> {
        let batches = self.rows.batches(PASS);
        let own = &batches[share(self.shard, batches.len())];
        let mut index = HeadIndex::new(self.about(own.len())?);
        let lengths = ValueLengths::of(self.model)?;
        for batch in own {
            self.enter(&mut index, batch, &lengths, progress)?;
        }
        Ok(index)
    }

    /// Enters a batch whole, or nothing of it.
    fn enter(&self, index: &mut HeadIndex, batch: &[usize], lengths: &ValueLengths, progress: &Progress) -> Result<()> {
        let some = self.rows.some(batch)?;
        let mut watch = Watch {
            lengths,
            some: &some,
            rows: batch,
            copies: some.rows().iter().map(|ids| Copies::of(ids)).collect(),
            values: None,
            found: Vec::new(),
            heads: (index.about.n_heads, index.about.n_kv_heads),
        };
        let last = self.model.config.n_layers - 1;
        run_to(self.model, &some.rows(), last, &mut watch, progress)?;
        let found = watch.found;
        let mut fed = Vec::new();
        for (row, ids) in batch.iter().zip(some.rows()) {
            if row % index.about.every == 0 && ids.len() > 1 {
                fed.push(feeds::of(self.model, ids, progress)?);
            }
        }
        let ids = some.rows();
        for (i, (sums, best)) in found.into_iter().enumerate() {
            let entry = &mut index.entries[i];
            entry.sums.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
            for b in best {
                let row = batch[b.row] as u32;
                if entry.takes(b.strength, row) {
                    let document = self.rows.document(batch[b.row]);
                    let ids = ids[b.row];
                    entry.keep(b.example(row, document, ids));
                }
            }
        }
        for fed in fed {
            index.about.sampled += fed.positions;
            for (entry, (query, key)) in index.entries.iter_mut().zip(fed.heads) {
                for (sums, more) in [(&mut entry.query_from, query), (&mut entry.key_from, key)] {
                    sums.iter_mut().zip(more).for_each(|(a, b)| *a += f64::from(b));
                }
            }
        }
        index.about.queries += some.tokens() as u64;
        index.about.done += 1;
        Ok(())
    }
}

/// For the length of what a head writes for a value v: the matrix W_O W_Oᵀ of each head, [d_head, d_head], so that the
/// square of the length is vᵀ (W_O W_Oᵀ) v.
struct ValueLengths {
    /// By layer and head.
    grams: Vec<Vec<f32>>,
    d_head: usize,
}

impl ValueLengths {
    fn of(model: &Model) -> Result<Self> {
        let c = &model.config;
        let mut grams = Vec::new();
        for block in &model.weights.blocks {
            for head in 0..c.n_heads {
                let w = block.attn.o.weight.narrow(0, head * c.d_head, c.d_head)?;
                let rows = product::apply(&Tensor::eye(c.d_head, DType::F32, &Device::Cpu)?, &w)?;
                grams.push(product::back(&rows, &w)?.flatten_all()?.to_vec1()?);
            }
        }
        Ok(Self { grams, d_head: c.d_head })
    }

    /// The lengths for rows of values [rows, d_head].
    fn of_rows(&self, head: usize, rows: Matrix<'_>) -> Vec<f32> {
        let (d, n) = (self.d_head, rows.n_rows());
        let mut through = vec![0f32; n * d];
        product_alone(&mut through, rows, Matrix::new(&self.grams[head], d, d));
        let length = |(i, t)| simd(|| dot(t, rows.row(i))).max(0.0).sqrt();
        through.chunks_exact(d).enumerate().map(length).collect()
    }
}

/// For each query of a row, the earlier positions that hold its token, and those that followed one of them.
struct Copies {
    duplicate: Vec<Vec<usize>>,
    induction: Vec<Vec<usize>>,
}

impl Copies {
    fn of(ids: &[u32]) -> Self {
        let duplicate: Vec<Vec<usize>> =
            (0..ids.len()).map(|i| (0..i).filter(|j| ids[*j] == ids[i]).collect()).collect();
        let induction = duplicate.iter().map(|list| list.iter().map(|j| j + 1).collect()).collect();
        Self { duplicate, induction }
    }
}

/// The strongest place of a head in one row.
struct Best {
    row: usize,
    strength: f32,
    weight: f32,
    query: usize,
    key: usize,
    value: Vec<f32>,
}

impl Best {
    fn example(self, row: u32, document: u32, ids: &[u32]) -> Example {
        let around = |p: usize| {
            let (from, to) = (p.saturating_sub(WINDOW), (p + WINDOW + 1).min(ids.len()));
            (from as u32, ids[from..to].to_vec())
        };
        let (query_start, query_tokens) = around(self.query);
        let (key_start, key_tokens) = around(self.key);
        Example {
            strength: self.strength,
            weight: self.weight,
            row,
            document,
            query: self.query as u32,
            key: self.key as u32,
            query_start,
            query_tokens,
            key_start,
            key_tokens,
            promoted: Vec::new(),
            suppressed: Vec::new(),
            value: self.value,
        }
    }
}

/// Sums of one head, and its strongest place in each row.
type Found = ([f64; Measure::ALL.len()], Vec<Best>);

/// Sees values and patterns pass.
struct Watch<'a> {
    lengths: &'a ValueLengths,
    some: &'a Batch,
    rows: &'a [usize],
    copies: Vec<Copies>,
    /// Of the layer that runs, [row, pos, kv_head, d_head].
    values: Option<Vec<f32>>,
    /// By layer and head.
    found: Vec<Found>,
    heads: (usize, usize),
}

impl Hooks for Watch<'_> {
    fn wants(&self, site: Site) -> bool {
        matches!(site.kind, SiteKind::V | SiteKind::Pattern)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        if site.kind == SiteKind::V {
            self.values = Some(with_values(&value.contiguous()?, <[f32]>::to_vec)?);
            return Ok(value);
        }
        let values = self.values.take().ok_or_else(|| Error::failed("a layer gave no values"))?;
        let (heads, kv_heads) = self.heads;
        let (n, d) = (self.some.len, self.lengths.d_head);
        let found: Vec<Found> = with_values(&value.contiguous()?, |pattern| {
            (0..heads)
                .into_par_iter()
                .map(|head| {
                    let (mut sums, mut best) = ([0f64; Measure::ALL.len()], Vec::new());
                    let kv = head * kv_heads / heads;
                    let own = Matrix::columns(&values, self.rows.len() * n, kv_heads * d, kv * d, d);
                    let lengths = self.lengths.of_rows(site.layer * heads + head, own);
                    for row in 0..self.rows.len() {
                        let own = &pattern[(row * heads + head) * n * n..][..n * n];
                        let v = |p: usize| &values[((row * n + p) * kv_heads + kv) * d..][..d];
                        let place = count(own, &self.copies[row], &lengths[row * n..][..n], &mut sums);
                        if let Some((strength, query, key)) = place {
                            let weight = own[query * n + key];
                            best.push(Best { row, strength, weight, query, key, value: v(key).to_vec() });
                        }
                    }
                    (sums, best)
                })
                .collect()
        })?;
        self.found.extend(found);
        Ok(value)
    }
}

/// Adds a pattern [dest, src] of one row to the sums; returns where weight times `lengths` is largest, the first key left
/// out.
fn count(
    pattern: &[f32],
    copies: &Copies,
    lengths: &[f32],
    sums: &mut [f64; Measure::ALL.len()],
) -> Option<(f32, usize, usize)> {
    let n = lengths.len();
    let mut place: Option<(f32, usize, usize)> = None;
    for i in 0..n {
        let row = &pattern[i * n..][..=i];
        let at = |list: &[usize]| list.iter().filter_map(|j| row.get(*j)).sum::<f32>();
        let previous = if i > 0 { row[i - 1] } else { 0.0 };
        let (mut entropy, mut distance) = (0f32, 0f32);
        for (j, a) in row.iter().enumerate() {
            if *a > 0.0 {
                entropy -= a * a.ln();
                distance += a * (i - j) as f32;
            }
            if j > 0 {
                let strength = a * lengths[j];
                if place.is_none_or(|(best, ..)| strength > best) {
                    place = Some((strength, i, j));
                }
            }
        }
        let new = [previous, at(&copies.duplicate[i]), at(&copies.induction[i]), row[0], entropy, distance];
        sums.iter_mut().zip(new).for_each(|(s, v)| *s += f64::from(v));
    }
    place
}

#[cfg(test)]
mod tests {
    use super::super::index::Entry;
    use super::*;

    #[test]
    fn a_pattern_by_hand() {
        // Tokens a b a, as in the detector's own test: query 2 gives 0.5 to the earlier a, 0.25 to b, which followed it.
        let pattern = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.25, 0.25];
        let mut sums = [0f64; 6];
        let place = count(&pattern, &Copies::of(&[1, 2, 1]), &[9.0, 1.0, 2.0], &mut sums);
        let entropy = f64::from(-(0.5 * 0.5f32.ln() + 2.0 * 0.25 * 0.25f32.ln()));
        for (got, want) in sums.iter().zip([1.25, 0.5, 0.25, 2.5, entropy, 1.0 + 0.5 * 2.0 + 0.25]) {
            assert!((got - want).abs() < 1e-6, "{sums:?}");
        }
        // 0.25 × 2 at key 2 beats 0.25 × 1 at key 1; key 0 does not count.
        assert_eq!(place, Some((0.5, 2, 2)));
    }

    #[test]
    fn examples_stay_sorted() {
        let mut e = Entry::default();
        for row in 0..40u32 {
            let strength = ((row * 7) % 40) as f32;
            if e.takes(strength, row) {
                e.keep(Example { strength, row, ..Example::default() });
            }
        }
        let got: Vec<f32> = e.top.iter().map(|e| e.strength).collect();
        assert_eq!(got, (24..40).rev().map(|v| v as f32).collect::<Vec<_>>());
    }
}
