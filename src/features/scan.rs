//! Runs a text through a model once and keeps, for every feature of a dictionary or neuron of a layer, where it was
//! most active, a sample of where it was active at all, and how active it was how often. The result does not depend on
//! the order in which rows come, so that shards of a text merge into what one run would have given.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::dictionary::Dictionary;
use super::encode::Sparse;
use super::harvest::{PASS, activations};
use super::place::Place;
use super::text::Rows;
use crate::engine::kernels::with_values;
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::jobs::Progress;
use crate::model::Model;

/// Examples kept of the most active rows.
pub const TOP: usize = 20;
/// Bins of the activation histogram.
pub const BINS: usize = 50;
/// Largest sample of active rows kept, for the quantile groups.
const SAMPLE: usize = 100;
/// Bytes that all examples of a site may take.
const MEMORY: usize = 1 << 30;
/// Tokens shown on either side of an example, at most.
const MOST_WINDOW: usize = 256;
/// Batches between two checkpoints.
const CHECKPOINT_EVERY: usize = 64;
/// Feature pairs whose correlations are summed, at most.
const MOST_PAIRS: usize = 64 << 20;

/// Whose activations are indexed.
#[derive(Clone, Debug)]
pub enum Subject {
    Features(Arc<Dictionary>),
    /// The neurons of a layer (`mlp.hook_post`), where positive.
    Neurons(usize),
}

impl Subject {
    pub fn place(&self) -> Result<Place> {
        match self {
            Self::Features(d) => Ok(d.places()?.0),
            Self::Neurons(layer) => Ok(Site::new(SiteKind::MlpPost, *layer).into()),
        }
    }

    pub fn count(&self, model: &Model) -> usize {
        match self {
            Self::Features(d) => d.d_sae,
            Self::Neurons(_) => model.config.d_mlp,
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Features(d) => d.path.display().to_string(),
            Self::Neurons(layer) => format!("neurons of layer {layer}"),
        }
    }

    /// Activations at rows of its place.
    ///
    /// # Errors
    /// As encoding.
    pub fn activations(&self, rows: &Tensor, progress: &Progress) -> Result<Sparse> {
        match self {
            Self::Features(d) => d.encode(rows, progress),
            Self::Neurons(_) => {
                let width = rows.dim(1)?;
                Ok(with_values(&rows.contiguous()?, |v| {
                    let mut s = Sparse::new();
                    for row in v.chunks_exact(width) {
                        for (i, v) in row.iter().enumerate().filter(|(_, v)| **v > 0.0) {
                            s.features.push(i as u32);
                            s.values.push(*v);
                        }
                        s.starts.push(s.features.len());
                    }
                    s
                })?)
            }
        }
    }
}

/// A place in the text where a feature was active.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The activation at `position`, the largest of its row.
    pub value: f32,
    /// Random, but a function of row and feature alone: the smallest keys make the sample.
    pub key: u32,
    pub row: u32,
    pub document: u32,
    pub position: u32,
    /// Position of the first token shown.
    pub start: u32,
    pub tokens: Vec<u32>,
    /// Of each token shown.
    pub activations: Vec<f32>,
}

impl Example {
    /// Where in the tokens shown the active one stands.
    pub fn at(&self) -> usize {
        self.position.saturating_sub(self.start) as usize
    }
}

/// How active a feature was: bins of equal width from zero, wide enough for the largest value.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// A power of two.
    pub width: f32,
    pub bins: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { width: 2f32.powi(-20), bins: vec![0; BINS] }
    }
}

impl Histogram {
    fn widen(&mut self) {
        for i in 0..BINS {
            let at = |i: usize| self.bins.get(i).copied().unwrap_or(0);
            self.bins[i] = at(2 * i).saturating_add(at(2 * i + 1));
        }
        self.width *= 2.0;
    }

    fn add(&mut self, value: f32) {
        while value >= self.width * BINS as f32 {
            self.widen();
        }
        self.bins[((value / self.width) as usize).min(BINS - 1)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.width < other.width {
            self.widen();
        }
        while other.width < self.width {
            other.widen();
        }
        self.bins.iter_mut().zip(&other.bins).for_each(|(a, b)| *a = a.saturating_add(*b));
    }
}

/// What is known of one feature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Positions where it was active.
    pub active: u64,
    pub sum: f64,
    pub max: f32,
    pub histogram: Histogram,
    /// The most active rows, the strongest first.
    pub top: Vec<Example>,
    /// A random sample of the rows where it was active, the strongest first.
    pub sample: Vec<Example>,
    /// Other features, and neurons of the same layer, by correlation over the first positions of the text.
    pub features: Vec<(u32, f32)>,
    pub neurons: Vec<(u32, f32)>,
}

/// What was scanned; kept in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub model: String,
    pub subject: String,
    pub site: String,
    pub texts: Vec<String>,
    pub context: usize,
    /// Limit of tokens, where one was given.
    pub limit: Option<usize>,
    /// This part of how many, and those that are merged in.
    pub shards: Vec<usize>,
    pub of: usize,
    /// Batches of this shard done, and all of them.
    pub done: usize,
    pub batches: usize,
    /// Positions seen, each row's first left out.
    pub positions: u64,
    pub sample: usize,
    pub window: usize,
    /// Tells weights and texts apart that go by the same names.
    #[serde(default)]
    pub fingerprint: u64,
}

impl About {
    pub fn is_complete(&self) -> bool {
        self.done >= self.batches
    }
}

/// The index of one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    pub about: About,
    pub entries: Vec<Entry>,
}

/// What is scanned.
pub struct Plan<'a> {
    pub model: &'a Model,
    pub subject: Subject,
    pub rows: &'a Rows,
    pub texts: Vec<String>,
    pub context: usize,
    pub limit: Option<usize>,
    /// This part, counted from 0, of so many.
    pub shard: (usize, usize),
    /// Tokens shown on either side of an example.
    pub window: usize,
}

/// Mixes a number: neighbouring ones come out unrelated.
fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    h ^ (h >> 31)
}

/// The stronger first, then the earlier.
fn stronger(a: &Example, b: &Example) -> std::cmp::Ordering {
    b.value.total_cmp(&a.value).then(a.row.cmp(&b.row))
}

impl Entry {
    fn takes(&self, value: f32, row: u32, key: u32, sample: usize) -> (bool, bool) {
        let top =
            self.top.len() < TOP || self.top.last().is_some_and(|w| value > w.value || value == w.value && row < w.row);
        let sampled = self.sample.len() < sample
            || self.sample.iter().map(|e| (e.key, e.row)).max().is_some_and(|worst| (key, row) < worst);
        (top, sampled)
    }

    fn keep_top(&mut self, example: Example) {
        let at = self.top.partition_point(|e| stronger(e, &example).is_lt());
        self.top.insert(at, example);
        self.top.truncate(TOP);
    }

    fn keep_sample(&mut self, example: Example, sample: usize) {
        self.sample.push(example);
        if self.sample.len() > sample
            && let Some((worst, _)) = self.sample.iter().enumerate().max_by_key(|(_, e)| (e.key, e.row))
        {
            self.sample.swap_remove(worst);
        }
    }

    fn merge(&mut self, other: Self, sample: usize) {
        self.active = self.active.saturating_add(other.active);
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.histogram.merge(&other.histogram);
        for e in other.top {
            self.keep_top(e);
        }
        for e in other.sample {
            self.keep_sample(e, sample);
        }
        self.sample.sort_by(stronger);
        if self.features.is_empty() {
            self.features = other.features;
            self.neurons = other.neurons;
        }
    }

    pub fn mean(&self) -> f32 {
        (self.sum / self.active.max(1) as f64) as f32
    }

    /// Ten groups by strength, the weakest first, of at most `each` examples: group g holds activations from g/10 to
    /// (g + 1)/10 of the largest.
    pub fn quantile_groups(&self, each: usize) -> Vec<Vec<&Example>> {
        let mut groups = vec![Vec::new(); 10];
        for e in &self.sample {
            let g = ((e.value / self.max.max(f32::MIN_POSITIVE) * 10.0) as usize).min(9);
            if groups[g].len() < each {
                groups[g].push(e);
            }
        }
        groups
    }
}

/// Sums for correlations between a feature and others.
struct Pairs {
    n: f64,
    features: usize,
    others: usize,
    sum: Vec<f64>,
    squares: Vec<f64>,
    other_sum: Vec<f64>,
    other_squares: Vec<f64>,
    /// Σ a·b, [feature, other].
    products: Vec<f32>,
}

impl Pairs {
    fn new(features: usize, others: usize) -> Option<Self> {
        (others > 0 && features.checked_mul(others)? <= MOST_PAIRS).then(|| Self {
            n: 0.0,
            features,
            others,
            sum: vec![0.0; features],
            squares: vec![0.0; features],
            other_sum: vec![0.0; others],
            other_squares: vec![0.0; others],
            products: vec![0.0; features * others],
        })
    }

    /// A position: active features, and what the others hold.
    fn add(&mut self, acts: &[(u32, f32)], others: &[(u32, f32)]) {
        self.n += 1.0;
        for (o, v) in others {
            self.other_sum[*o as usize] += f64::from(*v);
            self.other_squares[*o as usize] += f64::from(*v) * f64::from(*v);
        }
        for (f, a) in acts {
            let f = *f as usize;
            self.sum[f] += f64::from(*a);
            self.squares[f] += f64::from(*a) * f64::from(*a);
            let row = &mut self.products[f * self.others..(f + 1) * self.others];
            for (o, v) in others {
                row[*o as usize] += a * v;
            }
        }
    }

    /// The most correlated others of each feature.
    fn best(&self, count: usize, same: bool) -> Vec<Vec<(u32, f32)>> {
        let deviation = |sum: f64, squares: f64| (squares / self.n - (sum / self.n).powi(2)).max(0.0).sqrt();
        let others: Vec<f64> = (0..self.others).map(|o| deviation(self.other_sum[o], self.other_squares[o])).collect();
        (0..self.features)
            .map(|f| {
                let own = deviation(self.sum[f], self.squares[f]);
                let mut all: Vec<(u32, f32)> = (0..self.others)
                    .filter(|o| !(same && *o == f) && own * others[*o] > 0.0)
                    .map(|o| {
                        let both = f64::from(self.products[f * self.others + o]) / self.n;
                        let covariance = both - self.sum[f] * self.other_sum[o] / (self.n * self.n);
                        (o as u32, (covariance / (own * others[o])) as f32)
                    })
                    .filter(|(_, c)| c.is_finite())
                    .collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                all.truncate(count);
                all
            })
            .collect()
    }
}

/// Positions over which correlations are summed.
const CORRELATED: f64 = 16_384.0;
const CORRELATIONS: usize = 10;

impl Plan<'_> {
    fn about(&self, batches: usize) -> Result<About> {
        let count = self.subject.count(self.model);
        let bytes = 2 * self.window * 8 + 64;
        Ok(About {
            model: self.model.config.name.clone(),
            subject: self.subject.name(),
            site: self.subject.place()?.to_string(),
            texts: self.texts.clone(),
            context: self.context,
            limit: self.limit,
            shards: vec![self.shard.0],
            of: self.shard.1,
            done: 0,
            batches,
            positions: 0,
            sample: SAMPLE.min((MEMORY / bytes / count.max(1)).saturating_sub(TOP)),
            window: self.window,
            fingerprint: self.fingerprint()?,
        })
    }

    /// A hash of the dictionary's reading part and of all token ids.
    fn fingerprint(&self) -> Result<u64> {
        let mut hash = 0xCBF2_9CE4_8422_2325u64;
        let mut add = |word: u64| hash = mix(hash ^ word).wrapping_mul(0x0000_0100_0000_01B3);
        if let Subject::Features(d) = &self.subject {
            with_values(&d.w_enc.contiguous()?, |w| w.iter().for_each(|v| add(u64::from(v.to_bits()))))?;
            d.b_enc.iter().for_each(|v| add(u64::from(v.to_bits())));
            if let super::Activation::JumpRelu { threshold } = &d.activation {
                threshold.iter().for_each(|v| add(u64::from(v.to_bits())));
            }
        }
        for row in &self.rows.rows {
            add(row.len() as u64);
            row.iter().for_each(|id| add(u64::from(*id)));
        }
        Ok(hash)
    }

    /// As [`Self::watch`], without anyone who looks on.
    ///
    /// # Errors
    /// As [`Self::watch`].
    pub fn run(&self, file: Option<&Path>, progress: &Progress) -> Result<Index> {
        self.watch(file, progress, &mut |_| {})
    }

    /// Scans the rest of the text, and calls `look` with the unfinished index early on and then each time that it has
    /// grown by half. With a `file` the index is written there now and then and at the end, and an
    /// unfinished one there is gone on with; without one it is only given back. A step of progress a token.
    ///
    /// # Errors
    /// A subject that does not fit the model, an index of another scan, a full disk (the last checkpoint stands), or
    /// [`Error::Cancelled`].
    pub fn watch(&self, file: Option<&Path>, progress: &Progress, look: &mut dyn FnMut(&Index)) -> Result<Index> {
        if let Subject::Features(d) = &self.subject {
            d.check(&self.model.config)?;
        }
        let place = self.subject.place()?;
        place.check(&self.model.config)?;
        let all = self.rows.batches(PASS);
        if self.window > MOST_WINDOW {
            return Err(Error::request(format!(
                "a window of {} tokens on either side is too wide; give at most {MOST_WINDOW}",
                self.window
            )));
        }
        let (shard, of) = self.shard;
        if of == 0 || shard >= of {
            return Err(Error::request(format!("there is no shard {shard} of {of}; shards go from 0")));
        }
        let batches: Vec<Vec<usize>> = all.into_iter().skip(shard).step_by(of).collect();
        let count = self.subject.count(self.model);
        let mut index = Index { about: self.about(batches.len())?, entries: vec![Entry::default(); count] };
        if let Some(path) = file.filter(|p| p.is_file()) {
            let old = super::index_file::open(path)?;
            let same = About { done: old.about.done, positions: old.about.positions, ..index.about.clone() };
            if old.about != same || old.entries.len() != count {
                return Err(Error::request(format!(
                    "{} is the index of another scan ({} on {}); name another file",
                    path.display(),
                    old.about.subject,
                    old.about.texts.join(", ")
                )));
            }
            index = old;
        }
        let tokens = |b: &[usize]| b.iter().map(|i| self.rows.rows[*i].len() as u64).sum::<u64>();
        progress.expect(batches.iter().map(|b| tokens(b)).sum());
        progress.step(batches.iter().take(index.about.done).map(|b| tokens(b)).sum())?;
        // Correlations are summed by a scan that begins at the beginning; one that goes on has those already.
        let fresh = index.about.done == 0;
        let layer = place.layer();
        let with_neurons = self.model.config.has_mlp() && matches!(self.subject, Subject::Features(_)) && fresh;
        let mut features = if fresh { Pairs::new(count, count) } else { None };
        let mut neurons = if with_neurons { Pairs::new(count, self.model.config.d_mlp) } else { None };
        let post = Place::from(Site::new(SiteKind::MlpPost, layer));
        let mut next_look = index.about.done + 1;
        while index.about.done < batches.len() {
            let batch = &batches[index.about.done];
            let rows = self.rows.some(batch);
            let places: Vec<Place> = if neurons.is_some() { vec![place, post] } else { vec![place] };
            let values = activations(self.model, &rows, &places, progress)?;
            let acts = self.subject.activations(&values[0], progress)?;
            if acts.values.iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite { name: "activations".to_owned() });
            }
            let len = rows[0].len();
            if let Some(pairs) = &mut features {
                for r in (0..acts.rows()).filter(|r| r % len > 0) {
                    let row: Vec<(u32, f32)> = acts.row(r).collect();
                    pairs.add(&row, &row);
                }
                if pairs.n >= CORRELATED || index.about.done + 1 == batches.len() {
                    let best = pairs.best(CORRELATIONS, true);
                    index.entries.iter_mut().zip(best).for_each(|(e, b)| e.features = b);
                    features = None;
                }
            }
            if let Some(pairs) = &mut neurons {
                let width = self.model.config.d_mlp;
                with_values(&values[1].contiguous()?, |v| {
                    for (r, row) in v.chunks_exact(width).enumerate().filter(|(r, _)| r % len > 0) {
                        let others: Vec<(u32, f32)> = row.iter().enumerate().map(|(i, v)| (i as u32, *v)).collect();
                        pairs.add(&acts.row(r).collect::<Vec<_>>(), &others);
                    }
                })?;
                if pairs.n >= CORRELATED || index.about.done + 1 == batches.len() {
                    let best = pairs.best(CORRELATIONS, false);
                    index.entries.iter_mut().zip(best).for_each(|(e, b)| e.neurons = b);
                    neurons = None;
                }
            }
            for (i, row) in batch.iter().enumerate() {
                self.take(&mut index, *row, &acts, i * len);
            }
            index.about.done += 1;
            let step = progress.step(tokens(batch));
            let last = index.about.done == batches.len();
            if let Some(path) = file
                && (last || step.is_err() || index.about.done.is_multiple_of(CHECKPOINT_EVERY))
                // A checkpoint before the correlations are known would lose them.
                && (last || features.is_none() && neurons.is_none())
            {
                index.sort();
                super::index_file::save(&index, path)?;
            }
            step?;
            if index.about.done >= next_look && !last {
                next_look = index.about.done + (index.about.done / 2).max(1);
                index.sort();
                look(&index);
            }
        }
        index.sort();
        Ok(index)
    }

    /// Enters a row whose positions begin at `from` in `acts`; its first position is left out.
    fn take(&self, index: &mut Index, row: usize, acts: &Sparse, from: usize) {
        let ids = &self.rows.rows[row];
        // Of each feature the largest value in the row, and where: sorted by feature, then strength.
        let mut seen: Vec<(u32, f32, u32)> = Vec::new();
        for p in 1..ids.len() {
            for (f, v) in acts.row(from + p) {
                let e = &mut index.entries[f as usize];
                e.active += 1;
                e.sum += f64::from(v);
                e.max = e.max.max(v);
                e.histogram.add(v);
                seen.push((f, v, p as u32));
            }
        }
        index.about.positions += ids.len() as u64 - 1;
        seen.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        seen.dedup_by_key(|s| s.0);
        let sample = index.about.sample;
        for (f, value, position) in seen {
            let key = (mix((row as u64) << 32 | u64::from(f)) >> 32) as u32;
            let e = &mut index.entries[f as usize];
            let (top, sampled) = e.takes(value, row as u32, key, sample);
            if !top && !sampled {
                continue;
            }
            let start = (position as usize).saturating_sub(self.window);
            let end = (position as usize + self.window + 1).min(ids.len());
            let example = Example {
                value,
                key,
                row: row as u32,
                document: self.rows.document.get(row).copied().unwrap_or(0),
                position,
                start: start as u32,
                tokens: ids[start..end].to_vec(),
                activations: (start..end).map(|p| acts.at(from + p, f)).collect(),
            };
            if top {
                e.keep_top(example.clone());
            }
            if sampled {
                e.keep_sample(example, sample);
            }
        }
    }
}

impl Index {
    fn sort(&mut self) {
        for e in &mut self.entries {
            e.sample.sort_by(stronger);
        }
    }

    /// Share of positions where a feature was active.
    pub fn density(&self, feature: usize) -> f32 {
        self.entries.get(feature).map_or(0.0, |e| e.active as f32 / self.about.positions.max(1) as f32)
    }

    /// Puts the parts of a scan together.
    ///
    /// # Errors
    /// Parts that are unfinished, of different scans, or given twice.
    pub fn merge(parts: Vec<Self>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().ok_or_else(|| Error::request("there is nothing to merge; name the parts"))?;
        let unfinished = |a: &About| {
            Error::request(format!("shard {:?} of {} is unfinished; scan it to the end first", a.shards, a.of))
        };
        if !whole.about.is_complete() {
            return Err(unfinished(&whole.about));
        }
        for part in parts {
            let (a, b) = (&whole.about, &part.about);
            if !b.is_complete() {
                return Err(unfinished(b));
            }
            let of = |x: &About| (x.context, x.limit, x.of, x.sample, x.window, x.fingerprint);
            let alike = (&a.model, &a.subject, &a.texts, of(a)) == (&b.model, &b.subject, &b.texts, of(b));
            if !alike || whole.entries.len() != part.entries.len() {
                return Err(Error::request(
                    "the parts belong to different scans; merge those of one text and dictionary",
                ));
            }
            if let Some(twice) = b.shards.iter().find(|s| a.shards.contains(s)) {
                return Err(Error::request(format!("shard {twice} of {} is there twice", a.of)));
            }
            whole.about.shards.extend(&part.about.shards);
            whole.about.shards.sort_unstable();
            let add = |a: &mut usize, b: usize| *a = a.saturating_add(b);
            add(&mut whole.about.done, part.about.done);
            add(&mut whole.about.batches, part.about.batches);
            whole.about.positions = whole.about.positions.saturating_add(part.about.positions);
            let sample = whole.about.sample;
            for (e, o) in whole.entries.iter_mut().zip(part.entries) {
                e.merge(o, sample);
            }
        }
        whole.sort();
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_widen_and_merge() {
        let mut a = Histogram::default();
        for v in [0.1, 0.2, 5.0] {
            a.add(v);
        }
        assert_eq!(a.bins.iter().sum::<u64>(), 3);
        assert!(a.width * BINS as f32 > 5.0 && a.width * BINS as f32 <= 10.0);
        let mut b = Histogram::default();
        b.add(100.0);
        let mut both = a.clone();
        both.merge(&b);
        b.merge(&a);
        assert_eq!(both, b);
        assert_eq!(both.bins.iter().sum::<u64>(), 4);
        let mut direct = Histogram::default();
        [0.1, 0.2, 5.0, 100.0].into_iter().for_each(|v| direct.add(v));
        assert_eq!(direct, both);
    }

    #[test]
    fn correlations_by_hand() {
        let mut p = Pairs::new(2, 2).unwrap();
        // Feature 0 and other 0 rise together, other 1 is the other way round.
        p.add(&[(0, 1.0)], &[(0, 2.0)]);
        p.add(&[], &[(1, 3.0)]);
        let best = p.best(2, false);
        assert_eq!(best[0].len(), 2);
        assert!((best[0][0].1 - 1.0).abs() < 1e-6 && (best[0][1].1 + 1.0).abs() < 1e-6);
        assert!(best[1].is_empty(), "a feature that is never active correlates with nothing");
    }
}
