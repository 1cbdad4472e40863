//! What is computed from a scan of neurons: which are about several things, and which features split them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::app::features::Ranking;
use crate::app::features::UNRELATED;
use crate::error::Result;
use crate::features::Dictionary;
use crate::features::dashboard::{Groups, group_examples};
use crate::features::harvest::activations;
use crate::features::scan::index::{Example, Index};
use crate::model::Model;
use crate::progress::Progress;

/// How far each neuron's examples fall into unrelated groups, the furthest first.
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

/// Which features of a dictionary tell the groups of a neuron's examples apart: their mean activation at the group's
/// active tokens, less the largest mean in another group.
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
