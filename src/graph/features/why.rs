//! Why a head looks at a position, in features: which pair of what stands at the query and what stands at the key makes
//! the attention score.
//!
//! With the divisors of norms held at their values in the run, a query and a key are each a sum over what was written to the
//! stream at their position: features, what the transcoders leave out, heads, the embedding. So their dot product is a sum
//! over pairs, and over the biases with each of the two ["Tracing Attention Computation Through Feature Interactions",
//! Kamath et al. 2025]. All parts together are the score, before a soft cap.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use super::active::{Active, Feature, is_before_norm};
use super::linear::Linear;
use crate::analysis::component::Component;
use crate::analysis::contributions::Contributions;
use crate::analysis::why_head::HeadReader;
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::labels::of_set;
use crate::features::train::maths::{Matrix, product_alone};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What wrote to the stream at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The embedding or a head.
    Component(Component),
    Feature {
        layer: usize,
        feature: u32,
    },
    /// What a layer's transcoder leaves out.
    Error {
        layer: usize,
    },
    /// What a layer's transcoder gives whatever is active: its bias and skip path. At a first position whose features are
    /// left out it is all that the MLP gives.
    Constant {
        layer: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Component(c) => c.fmt(f),
            Self::Feature { layer, feature } => write!(f, "{layer}:{feature}"),
            Self::Error { layer } => write!(f, "error {layer}"),
            Self::Constant { layer } => write!(f, "bias {layer}"),
        }
    }
}

/// What stands at the query and at the key, and their part of the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub query: Source,
    pub key: Source,
    pub value: f32,
}

/// One attention score, taken apart.
#[derive(Clone, Debug)]
pub struct Looks {
    pub layer: usize,
    pub head: usize,
    pub query: usize,
    pub key: usize,
    /// The pattern's weight.
    pub attention: f32,
    /// The score as it goes into the softmax, before a soft cap.
    pub score: f32,
    /// ALiBi's part.
    pub by_position: f32,
    /// The biases of query and key with each other.
    pub biases: f32,
    /// What stands at the query with the key's biases, and what stands at the key with the query's, the largest first.
    pub query_alone: Vec<(Source, f32)>,
    pub key_alone: Vec<(Source, f32)>,
    /// All pairs, the largest first. With the four above they add up to the score.
    pub pairs: Vec<Pair>,
    /// Descriptions of features by (layer, feature).
    pub labels: BTreeMap<(usize, u32), String>,
}

impl Looks {
    /// The sum of all pairs of two features, and of all other pairs.
    pub fn sums(&self) -> (f32, f32) {
        let is_feature = |s: Source| matches!(s, Source::Feature { .. });
        let (own, others): (Vec<&Pair>, Vec<&Pair>) =
            self.pairs.iter().partition(|p| is_feature(p.query) && is_feature(p.key));
        let sum = |list: Vec<&Pair>| list.iter().map(|p| f64::from(p.value)).sum::<f64>() as f32;
        (sum(own), sum(others))
    }

    /// The score and the parts that add up to it, in words.
    pub fn words(&self) -> String {
        let (own, others) = self.sums();
        let alone: f32 = self.query_alone.iter().chain(&self.key_alone).map(|(_, v)| v).sum();
        let position = match self.by_position {
            0.0 => String::new(),
            v => format!(", position {v:+.2}"),
        };
        format!(
            "score {:+.2} = pairs {own:+.2}, other pairs {others:+.2}, with biases {alone:+.2}, biases {:+.2}{position}",
            self.score, self.biases
        )
    }

    /// The share of the score that a pair is; of no score there is none.
    pub fn share(&self, pair: &Pair) -> Option<f32> {
        Some(pair.value / self.score).filter(|share| share.is_finite())
    }

    /// The pairs of two features.
    pub fn features(&self) -> impl Iterator<Item = &Pair> {
        let is_feature = |s: &Source| matches!(s, Source::Feature { .. });
        self.pairs.iter().filter(move |p| is_feature(&p.query) && is_feature(&p.key))
    }

    /// A source in words, with a feature's description.
    pub fn name(&self, source: Source) -> String {
        match source {
            Source::Feature { layer, feature } => match self.labels.get(&(layer, feature)) {
                Some(label) => format!("{source} {label}"),
                None => source.to_string(),
            },
            _ => source.to_string(),
        }
    }
}

/// Everything that was written below a layer at one position: sources and rows [source][d_model].
struct Written {
    sources: Vec<Source>,
    rows: Vec<f32>,
}

impl Written {
    fn at(linear: &Linear<'_>, active: &Active, below: usize, pos: usize, progress: &Progress) -> Result<Self> {
        let (trace, d) = (linear.trace, linear.d);
        let writers = Component::writers(&trace.model.config, below);
        let contributions = Contributions::part(trace, pos..pos + 1, below, progress)?;
        let mut all: BTreeMap<Source, Vec<f32>> = BTreeMap::new();
        for (component, row) in writers.into_iter().zip(contributions.values) {
            let Component::Mlp { layer } = component else {
                all.insert(Source::Component(component), row);
                continue;
            };
            // What the MLP gave is what its features, its error and the constant rest give.
            let held = &active.layers[layer];
            let mut rest = row;
            let starts = &held.writers.starts;
            for writer in starts[pos]..starts[pos + 1] {
                let mut part = held.writers.rows[writer * d..(writer + 1) * d].to_vec();
                if let Some(post) = linear.blocks[layer].mlp_post.as_ref().filter(|_| is_before_norm(held.output)) {
                    post.apply(&mut part, pos);
                }
                rest.iter_mut().zip(&part).for_each(|(r, p)| *r -= p);
                let source = match active.features.get(held.writers.node[writer] as usize) {
                    Some(Feature { layer, feature, .. }) => Source::Feature { layer: *layer, feature: *feature },
                    None => Source::Error { layer },
                };
                let sum = all.entry(source).or_insert_with(|| vec![0.0; d]);
                sum.iter_mut().zip(&part).for_each(|(s, p)| *s += p);
            }
            all.insert(Source::Constant { layer }, rest);
        }
        let sources = all.keys().copied().collect();
        Ok(Self { sources, rows: all.into_values().flatten().collect() })
    }

    /// What each source is in the head's queries or keys, [source][d_head].
    fn through(
        &self,
        linear: &Linear<'_>,
        reader: &HeadReader<'_>,
        place: (usize, usize, SiteKind),
    ) -> Result<Vec<f32>> {
        let (layer, pos, kind) = place;
        let (d, width) = (linear.d, linear.trace.model.config.d_head);
        let mut directions = Vec::with_capacity(width * d);
        for at in 0..width {
            let mut one = vec![0f32; width];
            one[at] = 1.0;
            let direction =
                reader.read(&Tensor::from_vec(one, width, linear.trace.resid_final.device())?, pos, kind)?;
            let mut direction: Vec<f32> = direction.flatten_all()?.to_vec1()?;
            linear.read_attention(layer, &mut direction, pos);
            directions.extend(direction);
        }
        let mut out = vec![0f32; self.sources.len() * width];
        let (rows, directions) = (Matrix::new(&self.rows, self.sources.len(), d), Matrix::new(&directions, width, d));
        product_alone(&mut out, rows, directions.t());
        Ok(out)
    }
}

/// Takes one attention score of a head apart into pairs; without a key, that of the key that it attends to most.
///
/// # Errors
/// A head or position that does not exist, an edited run, a set that does not fit the model, or [`Error::Cancelled`].
pub fn looks(
    trace: &Trace,
    set: &DictionarySet,
    (layer, head): (usize, usize),
    query: usize,
    key: Option<usize>,
    silent: usize,
    progress: &Progress,
) -> Result<Looks> {
    if query >= trace.len() || key.is_some_and(|k| k > query) {
        return Err(Error::request(format!(
            "a query at {query} with the key {} is not in this prompt of {} tokens; keys do not come after their query",
            key.unwrap_or(query),
            trace.len()
        )));
    }
    if !trace.edits().is_empty() {
        return Err(Error::request("a head is taken apart in a run without edits; switch them off"));
    }
    let n = query + 1;
    let pattern: Vec<f32> = trace.head_pattern(layer, head)?.get(query)?.narrow(0, 0, n)?.to_vec1()?;
    let strongest = (0..n).max_by(|a, b| pattern[*a].total_cmp(&pattern[*b])).unwrap_or(0);
    let key = key.unwrap_or(strongest);
    let linear = Linear::of(trace, n, progress)?;
    // What stands above the head is nothing that it reads.
    let active = Active::of(&linear, set, layer, silent, progress)?;
    let reader = HeadReader::of(trace, layer, head, n);
    let (scale, width) = (reader.scale(), trace.model.config.d_head);
    let flat = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
    let (q, k) = (flat(reader.query(query)?)?, flat(reader.keys(n)?.get(key)?)?);
    let at_query = Written::at(&linear, &active, layer, query, progress)?;
    let at_key = Written::at(&linear, &active, layer, key, progress)?;
    let queries = at_query.through(&linear, &reader, (layer, query, SiteKind::Q))?;
    let keys = at_key.through(&linear, &reader, (layer, key, SiteKind::K))?;
    // What no source writes: biases of the norm and of the projections.
    let rest = |whole: &[f32], parts: &[f32]| -> Vec<f32> {
        let mut rest: Vec<f64> = whole.iter().map(|v| f64::from(*v)).collect();
        for row in parts.chunks_exact(width) {
            rest.iter_mut().zip(row).for_each(|(r, v)| *r -= f64::from(*v));
        }
        rest.into_iter().map(|v| v as f32).collect()
    };
    let (q_bias, k_bias) = (rest(&q, &queries), rest(&k, &keys));
    let dot = |a: &[f32], b: &[f32]| scale * a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let alone = |written: &Written, rows: &[f32], bias: &[f32]| {
        let each = written.sources.iter().zip(rows.chunks_exact(width));
        let mut all: Vec<(Source, f32)> = each.map(|(s, row)| (*s, dot(row, bias))).collect();
        all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        all
    };
    let mut pairs = Vec::with_capacity(at_query.sources.len() * at_key.sources.len());
    for (query, x) in at_query.sources.iter().zip(queries.chunks_exact(width)) {
        progress.check()?;
        for (key, y) in at_key.sources.iter().zip(keys.chunks_exact(width)) {
            pairs.push(Pair { query: *query, key: *key, value: dot(x, y) });
        }
    }
    pairs.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
    let by_position = reader.slope() * (key as f32 - query as f32);
    Ok(Looks {
        layer,
        head,
        query,
        key,
        attention: pattern[key],
        score: dot(&q, &k) + by_position,
        by_position,
        biases: dot(&q_bias, &k_bias),
        query_alone: alone(&at_query, &queries, &k_bias),
        key_alone: alone(&at_key, &keys, &q_bias),
        pairs,
        labels: of_set(set),
    })
}

/// Asks why a head looks at a position, in the features of a set.
#[derive(Clone, PartialEq)]
pub struct LooksOf {
    pub trace: Arc<Trace>,
    pub set: Arc<DictionarySet>,
    pub layer: usize,
    pub head: usize,
    pub query: usize,
    pub key: Option<usize>,
    /// First positions whose features are left out.
    pub silent: usize,
}

impl Question for LooksOf {
    type Answer = Looks;
    const LABEL: &'static str = "taking a head apart into features";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Looks)) -> Result<Looks> {
        looks(&self.trace, &self.set, (self.layer, self.head), self.query, self.key, self.silent, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where positions have a part of the score, as in ALiBi, it stands among the parts.
    #[test]
    fn the_parts_that_are_told_add_up() {
        let feature = |feature| Source::Feature { layer: 0, feature };
        let pair = |query, key, value| Pair { query, key, value };
        let looks = Looks {
            layer: 1,
            head: 0,
            query: 3,
            key: 1,
            attention: 0.5,
            score: 2.0,
            by_position: -0.5,
            biases: 0.25,
            query_alone: vec![(feature(1), 0.5)],
            key_alone: vec![(feature(2), -0.25)],
            pairs: vec![pair(feature(1), feature(2), 1.25), pair(feature(1), Source::Error { layer: 0 }, 0.75)],
            labels: BTreeMap::new(),
        };
        let words = looks.words();
        let told: Vec<f32> = words.split([' ', ',']).filter_map(|w| w.parse().ok()).collect();
        let (score, parts) = told.split_first().unwrap();
        assert_eq!((*score, parts.iter().sum::<f32>(), parts.len()), (2.0, 2.0, 5), "{words}");
        assert!(!Looks { by_position: 0.0, ..looks }.words().contains("position"));
    }
}
