//! What is known of every head after a text.

use serde::{Deserialize, Serialize};

use crate::analysis::component::Component;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::shard::{self, Shard};

/// Examples that a head keeps.
pub const TOP: usize = 16;

/// What was scanned; kept in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub model: String,
    #[serde(flatten)]
    pub shard: Shard,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub has_mlp: bool,
    pub texts: Vec<String>,
    /// Tokens of a row at most.
    pub context: usize,
    /// Tokens of the text at most, where there is a limit.
    pub limit: Option<usize>,
    /// Batches of the shard done, and all of them.
    pub done: usize,
    pub batches: usize,
    /// Queries seen: all positions of all rows.
    pub queries: u64,
    /// Of so many rows one is taken apart for what feeds the heads.
    pub every: usize,
    /// Positions of those rows, each one's first left out.
    pub sampled: u64,
    /// Tokens shown on either side of a query and of a key.
    pub window: usize,
}

/// A place where a head looks hard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// How much it writes from there: the pattern's weight times the length of what it writes for the key alone.
    pub strength: f32,
    /// The pattern's weight.
    pub weight: f32,
    pub row: u32,
    pub document: u32,
    pub query: u32,
    pub key: u32,
    /// The tokens around the query, from position `query_start` on; then those around the key.
    pub query_start: u32,
    pub query_tokens: Vec<u32>,
    pub key_start: u32,
    pub key_tokens: Vec<u32>,
    /// Tokens whose logits what it writes raises and lowers most, directly and by itself, with that logit.
    pub promoted: Vec<(u32, f32)>,
    pub suppressed: Vec<(u32, f32)>,
    /// The value at the key, until the words are made of it.
    pub(super) value: Vec<f32>,
}

impl Example {
    pub fn query_token(&self) -> u32 {
        self.query_tokens.get((self.query - self.query_start) as usize).copied().unwrap_or(0)
    }

    pub fn key_token(&self) -> u32 {
        self.key_tokens.get((self.key - self.key_start) as usize).copied().unwrap_or(0)
    }
}

/// One head. Scores are sums over all queries; [`Entry::mean`] divides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// In the order of [`Measure::ALL`].
    pub sums: [f64; Measure::ALL.len()],
    /// The head's place by weights alone: the share of tokens that it promotes, and that it suppresses, when it attends to
    /// them ([`crate::analysis::ov_circuit`]).
    pub copying: f32,
    pub anti_copying: f32,
    /// The strongest, one a row, the first position as key left out.
    pub top: Vec<Example>,
    /// The share of the query, along itself, that each earlier component wrote, summed over the sampled positions, in the
    /// order of [`Component::writers`]; then of the key.
    pub query_from: Vec<f64>,
    pub key_from: Vec<f64>,
}

/// What is measured of each query's pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Previous,
    Duplicate,
    Induction,
    /// The share of attention on the first position.
    First,
    Entropy,
    Distance,
}

impl Measure {
    pub const ALL: [Self; 6] =
        [Self::Previous, Self::Duplicate, Self::Induction, Self::First, Self::Entropy, Self::Distance];

    pub fn name(self) -> &'static str {
        match self {
            Self::Previous => "previous",
            Self::Duplicate => "duplicate",
            Self::Induction => "induction",
            Self::First => "first",
            Self::Entropy => "entropy",
            Self::Distance => "distance",
        }
    }

    pub fn explain(self) -> &'static str {
        match self {
            Self::Previous => "share of attention on the token just before",
            Self::Duplicate => "share of attention on earlier copies of the same token",
            Self::Induction => "share of attention on what followed earlier copies of the same token",
            Self::First => "share of attention on the first position",
            Self::Entropy => "mean entropy of the attention pattern, nats",
            Self::Distance => "attention-weighted distance to the attended token, positions",
        }
    }
}

/// All heads, by layer and head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadIndex {
    pub about: About,
    pub entries: Vec<Entry>,
}

impl HeadIndex {
    pub fn new(about: About) -> Self {
        let entry = |i: usize| {
            let writers = about.writers(i / about.n_heads.max(1));
            Entry { query_from: vec![0.0; writers], key_from: vec![0.0; writers], ..Entry::default() }
        };
        Self { entries: (0..about.n_layers * about.n_heads).map(entry).collect(), about }
    }

    pub fn entry(&self, layer: usize, head: usize) -> Option<&Entry> {
        if head >= self.about.n_heads { None } else { self.entries.get(layer * self.about.n_heads + head) }
    }

    /// A head's score, averaged over all queries.
    pub fn mean(&self, layer: usize, head: usize, measure: Measure) -> f32 {
        let sum = self.entry(layer, head).map_or(f64::NAN, |e| e.sums[measure as usize]);
        (sum / self.about.queries.max(1) as f64) as f32
    }

    /// What feeds a head's query, or its key, on average: components with their shares, the largest first.
    pub fn feeds(&self, config: &ModelConfig, layer: usize, head: usize, of_key: bool) -> Vec<(Component, f32)> {
        let Some(entry) = self.entry(layer, head) else { return Vec::new() };
        let sums = if of_key { &entry.key_from } else { &entry.query_from };
        let n = self.about.sampled.max(1) as f64;
        let mut list: Vec<(Component, f32)> =
            Component::writers(config, layer).into_iter().zip(sums).map(|(c, s)| (c, (s / n) as f32)).collect();
        list.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        list
    }

    /// # Errors
    /// The index is of another model, by its weights.
    pub fn check(&self, model: &Model) -> Result<()> {
        let (a, c) = (&self.about, &model.config);
        let shape = (a.n_layers, a.n_heads, a.n_kv_heads) == (c.n_layers, c.n_heads, c.n_kv_heads);
        if shape && a.shard.model_hash == shard::hex(model.fingerprint()?) {
            return Ok(());
        }
        let other = if a.model == c.name { "a model of this name with other weights" } else { &a.model };
        Err(Error::request(format!(
            "the head pages were made with {other}, and the model is {}; make them again",
            c.name
        )))
    }

    /// Takes another shard of the same scan in.
    ///
    /// # Errors
    /// Shards that are unfinished, of different scans, or given twice.
    pub fn absorb(&mut self, part: Self) -> Result<()> {
        shard::join(&mut self.about, &part.about)?;
        self.about.done += part.about.done;
        self.about.batches += part.about.batches;
        self.about.queries += part.about.queries;
        self.about.sampled += part.about.sampled;
        for (mine, theirs) in self.entries.iter_mut().zip(part.entries) {
            mine.sums.iter_mut().zip(theirs.sums).for_each(|(a, b)| *a += b);
            for (mine, theirs) in [(&mut mine.query_from, theirs.query_from), (&mut mine.key_from, theirs.key_from)] {
                mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
            }
            theirs.top.into_iter().for_each(|e| mine.keep(e));
        }
        Ok(())
    }
}

impl About {
    /// The number of components that write before a layer.
    pub fn writers(&self, layer: usize) -> usize {
        1 + layer * (self.n_heads + usize::from(self.has_mlp))
    }

    pub fn is_complete(&self) -> bool {
        self.done >= self.batches
    }
}

impl shard::About for About {
    const PROGRESS: &'static [&'static str] = &["done", "batches", "queries", "sampled"];

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

impl Entry {
    /// True where an example of this strength, in this row, is among the strongest.
    pub(super) fn takes(&self, strength: f32, row: u32) -> bool {
        self.top.len() < TOP
            || self.top.last().is_some_and(|w| strength > w.strength || strength == w.strength && row < w.row)
    }

    /// Keeps an example in its place: the stronger first, then the earlier.
    pub(super) fn keep(&mut self, example: Example) {
        let before =
            |e: &Example| e.strength > example.strength || e.strength == example.strength && e.row <= example.row;
        let at = self.top.partition_point(before);
        self.top.insert(at, example);
        self.top.truncate(TOP);
    }
}
