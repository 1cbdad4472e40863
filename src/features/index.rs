//! What a scan keeps of every feature: where it was most active, a sample of where it was active at all, and how active
//! it was how often. It does not depend on the order in which rows come, so that shards of a text merge into what one run
//! would have given.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Examples kept of the most active rows.
pub const TOP: usize = 20;
/// Bins of the activation histogram.
pub const BINS: usize = 50;

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

    pub(super) fn add(&mut self, value: f32) {
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

/// The stronger first, then the earlier.
fn stronger(a: &Example, b: &Example) -> std::cmp::Ordering {
    b.value.total_cmp(&a.value).then(a.row.cmp(&b.row))
}

impl Entry {
    pub(super) fn takes(&self, value: f32, row: u32, key: u32, sample: usize) -> (bool, bool) {
        let top =
            self.top.len() < TOP || self.top.last().is_some_and(|w| value > w.value || value == w.value && row < w.row);
        let sampled = self.sample.len() < sample
            || self.sample.iter().map(|e| (e.key, e.row)).max().is_some_and(|worst| (key, row) < worst);
        (top, sampled)
    }

    pub(super) fn keep_top(&mut self, example: Example) {
        let at = self.top.partition_point(|e| stronger(e, &example).is_lt());
        self.top.insert(at, example);
        self.top.truncate(TOP);
    }

    pub(super) fn keep_sample(&mut self, example: Example, sample: usize) {
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

impl Index {
    pub(super) fn sort(&mut self) {
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
}
