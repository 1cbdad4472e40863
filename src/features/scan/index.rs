//! What a scan keeps of every feature: where it was most active, a sample of where it was active at all, and how active
//! it was how often. It does not depend on the order in which rows come, so that shards of a text merge into what one run
//! would have given.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::Question;
use crate::shard::{self, Shard};

/// Examples kept of the most active rows.
pub const TOP: usize = 20;
/// Bins of the activation histogram, of which at least half lie below the largest activation.
pub const BINS: usize = 100;
/// Bins of it that are shown.
pub const SHOWN: usize = 50;
/// Strengths by which the sample is divided: quarters of an octave below the largest, and all below those.
pub const STRATA: usize = 16;

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
        // There is no bin that is wide enough for infinity.
        let value = value.min(f32::MAX);
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
    /// A random sample of the rows where it was active, the strongest first: as many of each stratum of strength.
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
    #[serde(flatten)]
    pub shard: Shard,
    /// Batches of this shard done, and all of them.
    pub done: usize,
    pub batches: usize,
    /// Positions seen, each row's first left out.
    pub positions: u64,
    /// Rows sampled of each stratum of strength.
    pub sample: usize,
    /// Strongest rows kept.
    pub top: usize,
    pub window: usize,
    /// Tells the subject's weights apart from others of the same name.
    pub subject_hash: u64,
    /// The dictionary whose features are correlated with the subject's, where that is another.
    pub features_of: Option<String>,
}

impl About {
    /// Returns the layer whose neurons were scanned, if it was neurons.
    pub fn layer_of_neurons(&self) -> Option<usize> {
        self.subject.strip_prefix("neurons of layer ")?.parse().ok()
    }

    pub fn is_complete(&self) -> bool {
        self.done >= self.batches
    }
}

impl shard::About for About {
    const PROGRESS: &'static [&'static str] = &["done", "batches", "positions"];

    fn shard(&self) -> &Shard {
        &self.shard
    }

    fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn is_complete(&self) -> bool {
        self.is_complete()
    }
}

crate::identity!(Index);

/// The index of one subject.
#[derive(Clone, Debug)]
pub struct Index {
    pub about: About,
    pub entries: Vec<Entry>,
}

/// The stronger first, then the earlier.
fn stronger(a: &Example, b: &Example) -> std::cmp::Ordering {
    b.value.total_cmp(&a.value).then(a.row.cmp(&b.row))
}

/// The quarter of an octave that a strength lies in.
fn quarter(value: f32) -> i32 {
    (4.0 * value.max(f32::MIN_POSITIVE).log2()).floor() as i32
}

/// The examples with the smallest keys of each stratum, at most `each`. A stratum's keys do not depend on what became of
/// other rows, so that samples of parts make the sample of the whole.
fn thin(sample: &mut Vec<Example>, max: f32, each: usize) {
    let lowest = quarter(max) - STRATA as i32;
    let stratum = |e: &Example| quarter(e.value).max(lowest);
    sample.sort_by_key(|e| (stratum(e), e.key, e.row));
    let (mut last, mut kept) = (None, 0);
    sample.retain(|e| {
        let here = Some(stratum(e));
        kept = if here == last { kept + 1 } else { 1 };
        last = here;
        kept <= each
    });
}

impl Entry {
    /// Whether a row belongs to the strongest, and to the sample, as they are.
    pub(super) fn takes(&self, value: f32, row: u32, key: u32, about: &About) -> (bool, bool) {
        let top = self.top.len() < about.top
            || self.top.last().is_some_and(|w| value > w.value || value == w.value && row < w.row);
        let lowest = quarter(self.max) - STRATA as i32;
        let here = quarter(value).max(lowest);
        let same = self.sample.iter().filter(|e| quarter(e.value).max(lowest) == here);
        let smaller = same.filter(|e| (e.key, e.row) < (key, row)).count();
        (top, smaller < about.sample)
    }

    pub(super) fn keep_top(&mut self, example: Example, most: usize) {
        let at = self.top.partition_point(|e| stronger(e, &example).is_lt());
        self.top.insert(at, example);
        self.top.truncate(most);
    }

    pub(super) fn keep_sample(&mut self, example: Example, each: usize) {
        self.sample.push(example);
        // Thinned now and then, and at last by `sort`.
        if self.sample.len() > (each + each.div_ceil(2)) * (STRATA + 1) {
            thin(&mut self.sample, self.max, each);
        }
    }

    fn merge(&mut self, other: Self, about: &About) {
        self.active = self.active.saturating_add(other.active);
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.histogram.merge(&other.histogram);
        for e in other.top {
            self.keep_top(e, about.top);
        }
        self.sample.extend(other.sample);
        // The first shard alone has correlations.
        self.features.extend(other.features);
        self.neurons.extend(other.neurons);
    }

    pub fn mean(&self) -> f32 {
        (self.sum / self.active.max(1) as f64) as f32
    }

    /// The histogram as it is shown: [`SHOWN`] bins from zero to the largest activation. What is kept has bins of another
    /// width; each one's count is taken as spread evenly over it.
    pub fn shown_bins(&self) -> Vec<u64> {
        let (bins, width) = (self.bins(), self.histogram.width);
        let below = |x: f32| -> f64 {
            let at = x / width;
            let whole = (at as usize).min(bins.len());
            let part = bins.get(whole).map_or(0.0, |c| f64::from(at - whole as f32) * *c as f64);
            bins[..whole].iter().sum::<u64>() as f64 + part
        };
        let mut before = 0;
        let upto =
            |i: usize| if i == SHOWN { self.active } else { below(self.max * i as f32 / SHOWN as f32).round() as u64 };
        (1..=SHOWN)
            .map(|i| {
                let now = upto(i).max(before);
                now - std::mem::replace(&mut before, now)
            })
            .collect()
    }

    /// Bins of the histogram up to the largest activation.
    fn bins(&self) -> &[u64] {
        let last = self.histogram.bins.iter().rposition(|c| *c > 0).map_or(1, |i| i + 1);
        &self.histogram.bins[..last.min(self.histogram.bins.len())]
    }

    /// Ten groups by strength, the weakest first, of at most `each` examples drawn at random: group g holds activations
    /// from g/10 to (g + 1)/10 of the largest, the strongest of a group first.
    pub fn quantile_groups(&self, each: usize) -> Vec<Vec<&Example>> {
        let mut groups: Vec<Vec<&Example>> = vec![Vec::new(); 10];
        for e in self.sample.iter().chain(&self.top) {
            let g = ((e.value / self.max.max(f32::MIN_POSITIVE) * 10.0) as usize).min(9);
            if !groups[g].iter().any(|x| x.row == e.row) {
                groups[g].push(e);
            }
        }
        for g in &mut groups {
            g.sort_by_key(|e| (e.key, e.row));
            g.truncate(each);
            g.sort_by(|a, b| stronger(a, b));
        }
        groups
    }
}

impl Index {
    pub(super) fn sort(&mut self) {
        for e in &mut self.entries {
            thin(&mut e.sample, e.max, self.about.sample);
            e.sample.sort_by(stronger);
        }
    }

    /// Returns the features that were active anywhere.
    pub fn living(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().enumerate().filter(|(_, e)| e.active > 0).map(|(f, _)| f as u32)
    }

    /// Share of positions where a feature was active.
    pub fn density(&self, feature: usize) -> f32 {
        self.entries.get(feature).map_or(0.0, |e| e.active as f32 / self.about.positions.max(1) as f32)
    }

    /// Checks that the index was made with this model.
    ///
    /// # Errors
    /// One sentence with both names.
    pub fn check_model(&self, model: &Model) -> Result<()> {
        if self.about.model == model.config.name {
            return Ok(());
        }
        Err(Error::request(format!(
            "the index was made with {}, not {}; open that model first",
            self.about.model, model.config.name
        )))
    }

    /// Takes another shard of the same scan in.
    ///
    /// # Errors
    /// Shards that are unfinished, of different scans, or given twice.
    pub fn absorb(&mut self, part: Self) -> Result<()> {
        if self.entries.len() != part.entries.len() {
            return Err(Error::request("the shards count different features; merge those of one dictionary"));
        }
        shard::join(&mut self.about, &part.about)?;
        let add = |a: &mut usize, b: usize| *a = a.saturating_add(b);
        add(&mut self.about.done, part.about.done);
        add(&mut self.about.batches, part.about.batches);
        self.about.positions = self.about.positions.saturating_add(part.about.positions);
        for (e, o) in self.entries.iter_mut().zip(part.entries) {
            e.merge(o, &self.about);
        }
        self.sort();
        Ok(())
    }
}

/// Asks how many features of an index were active anywhere.
#[derive(Clone, PartialEq)]
pub struct LivingOf {
    pub index: Arc<Index>,
}

impl Question for LivingOf {
    type Answer = usize;

    const LABEL: &'static str = "counting features";

    fn run(&self, _: &Progress, _: &mut dyn FnMut(usize)) -> Result<usize> {
        Ok(self.index.living().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(row: u32, value: f32) -> Example {
        let key = row.wrapping_mul(2_654_435_761) >> 8;
        Example { value, key, row, document: 0, position: 1, start: 0, tokens: vec![0; 2], activations: vec![0.0; 2] }
    }

    #[test]
    fn fifty_bins_are_shown_and_nothing_is_lost() {
        let mut e = Entry::default();
        for v in (1..=1000).map(|i| i as f32 * 0.01) {
            e.histogram.add(v);
            (e.active, e.max) = (e.active + 1, v);
        }
        let bins = e.shown_bins();
        assert_eq!((bins.len(), bins.iter().sum::<u64>()), (SHOWN, 1000));
        assert!(bins.iter().all(|c| (18..=22).contains(c)), "{bins:?}");
        assert_eq!(Entry::default().shown_bins(), [0; SHOWN]);
        // What is no number that a bin could be for ends all the same.
        e.histogram.add(f32::INFINITY);
    }

    /// Strong activations are rare; there are examples of all strengths all the same, whatever the order of the rows.
    #[test]
    fn every_strength_is_sampled() {
        let rows: Vec<Example> = (0..20_000).map(|i| example(i, 10.0 * (-((i % 500) as f32) / 60.0).exp())).collect();
        let keep = |rows: &mut dyn Iterator<Item = &Example>| {
            let mut e = Entry::default();
            for x in rows {
                e.max = e.max.max(x.value);
                e.keep_sample(x.clone(), 8);
            }
            thin(&mut e.sample, e.max, 8);
            e.sample.sort_by(stronger);
            e
        };
        let (forth, back) = (keep(&mut rows.iter()), keep(&mut rows.iter().rev()));
        assert_eq!(forth.sample, back.sample);
        assert!(forth.sample.len() <= 8 * (STRATA + 1));
        let groups = forth.quantile_groups(5);
        assert!(groups.iter().all(|g| g.len() == 5), "{:?}", groups.iter().map(Vec::len).collect::<Vec<_>>());
        assert!(groups[3].iter().all(|e| e.value >= 3.0 && e.value < 4.0));
    }

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
