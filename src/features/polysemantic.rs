//! What is computed from a scan of neurons: which are about several things, and which features split them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::features::Dictionary;
use crate::features::harvest::activations;
use crate::features::page::{Groups, group_examples};
use crate::features::scan::index::{Example, Index};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Similarity below which examples count as unrelated.
pub const UNRELATED: f32 = 0.12;
/// Neurons of a ranking whose groups are split by features.
const SPLIT_NEURONS: usize = 30;

crate::identity!(Ranking);

/// Neurons in order of how far their strongest examples fall apart, and the index that has them.
pub struct Ranking {
    pub index: Arc<Index>,
    pub neurons: Vec<(usize, Groups)>,
}

/// Asks which neurons of an index are about several things.
#[derive(Clone, PartialEq)]
pub struct RankingOf {
    pub index: Arc<Index>,
}

impl Question for RankingOf {
    type Answer = Ranking;

    const LABEL: &'static str = "grouping examples";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Ranking)) -> Result<Ranking> {
        rank(&self.index, progress)
    }
}

/// Asks which features tell the groups of the first neurons' examples apart.
#[derive(Clone, PartialEq)]
pub struct SplitsOf {
    pub model: Arc<Model>,
    pub dictionary: Arc<Dictionary>,
    pub ranking: Arc<Ranking>,
}

impl Question for SplitsOf {
    /// By neuron.
    type Answer = Vec<(usize, Split)>;

    const LABEL: &'static str = "telling groups apart by features";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Ranking { index, neurons } = &*self.ranking;
        progress.expect(neurons.len().min(SPLIT_NEURONS) as u64);
        let mut all = Vec::new();
        for (n, groups) in neurons.iter().take(SPLIT_NEURONS) {
            if let Some(entry) = index.entries.get(*n) {
                all.push((*n, split(&self.model, &self.dictionary, &entry.top, groups, progress)?));
                partial(all.clone());
            }
            progress.step(1)?;
        }
        Ok(all)
    }
}

/// Ranks an index's neurons by how far their examples fall into unrelated groups, the furthest first.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub fn rank(index: &Arc<Index>, progress: &Progress) -> Result<Ranking> {
    progress.expect(index.entries.len() as u64);
    let mut all = Vec::new();
    for (n, e) in index.entries.iter().enumerate() {
        progress.step(1)?;
        if e.top.len() >= 8 {
            all.push((n, group_examples(&e.top, UNRELATED)));
        }
    }
    // Several groups of some size count, not many single examples.
    let sizes = |g: &Groups| (0..g.count).filter(|k| g.of.iter().filter(|x| *x == k).count() >= 3).count();
    all.sort_by(|a, b| sizes(&b.1).cmp(&sizes(&a.1)).then(b.1.apart.total_cmp(&a.1.apart)));
    Ok(Ranking { index: index.clone(), neurons: all })
}

/// For each group of a neuron's examples, the features that are most active in it and not in the others, and how much
/// more.
pub type Split = Vec<Vec<(u32, f32)>>;

/// Features kept of each group.
const SPLIT: usize = 4;

/// Finds the features of a dictionary that tell the groups of a neuron's examples apart, by their mean activation at the
/// group's active tokens, less the largest mean in another group.
///
/// # Errors
/// A dictionary that does not fit the model, and as running it.
pub fn split(
    model: &Model,
    dictionary: &Dictionary,
    examples: &[Example],
    groups: &Groups,
    progress: &Progress,
) -> Result<Split> {
    let (input, _) = dictionary.check(&model.config)?;
    let mut means: Vec<HashMap<u32, f32>> = vec![HashMap::new(); groups.count];
    for (e, g) in examples.iter().zip(&groups.of) {
        progress.check()?;
        let at = e.at();
        let x = activations(model, &[&e.tokens[..=at]], &[input], progress)?.remove(0);
        let size = groups.of.iter().filter(|x| *x == g).count() as f32;
        for (f, a) in dictionary.encode(&x.narrow(0, at, 1)?, progress)?.row(0) {
            *means[*g].entry(f).or_insert(0.0) += a / size;
        }
    }
    Ok((0..groups.count)
        .map(|g| {
            let other = |f: &u32| {
                (0..groups.count).filter(|o| *o != g).filter_map(|o| means[o].get(f)).copied().fold(0f32, f32::max)
            };
            let mut all: Vec<(u32, f32)> = means[g].iter().map(|(f, a)| (*f, a - other(f))).collect();
            all.retain(|(_, v)| *v > 0.0);
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(SPLIT);
            all
        })
        .collect())
}
