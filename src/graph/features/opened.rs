//! A graph of a file as one that was traced here: where the run and the set that it is of are at hand, its features can be
//! changed as those of a graph that this program has traced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::audit::{belongs, direction_of, feature_of};
use super::intervene::Stage;
use super::{Explained, Feature, FeatureGraph};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::labels::of_set;
use crate::graph::file::GraphFile;
use crate::graph::influence::Scores;
use crate::graph::{Graph, Influence, Node, NodeKind};
use crate::progress::Progress;

/// A graph on features with the run and the set that it is of.
#[derive(Clone, PartialEq)]
pub struct Live {
    pub trace: Arc<Trace>,
    pub found: Arc<FeatureGraph>,
    pub set: Arc<DictionarySet>,
}

/// Takes a graph of a file for one of this run and set. Activations are those of the run.
///
/// # Errors
/// Most of its features have other activations here than the file says, or [`Error::Cancelled`].
pub fn opened(file: &GraphFile, trace: &Trace, set: &DictionarySet, progress: &Progress) -> Result<FeatureGraph> {
    let started = Instant::now();
    let (old, c) = (&file.graph, &trace.model.config);
    let stage = Stage::of(trace, set, file.silent(), progress)?;
    belongs(old, &stage)?;
    let told = old.nodes.iter().any(|n| n.kind == NodeKind::Component && n.activation.is_some());
    if file.dictionary().is_none() && !told {
        return Err(Error::request(
            "the file names no set and no activations, so that it cannot be told whether its features are those of this one",
        ));
    }
    let feature = |node: usize| {
        let (layer, pos, feature) = feature_of(old, node)?;
        Some((Feature { layer, pos, feature, activation: stage.activation(layer, pos, feature) }, node))
    };
    let mut features: Vec<(Feature, usize)> = (0..old.nodes.len()).filter_map(feature).collect();
    features.sort_by_key(|(f, node)| (f.layer, f.pos, f.feature, *node));
    features.dedup_by_key(|(f, _)| (f.layer, f.pos, f.feature));
    let mut targets = Vec::new();
    for (i, n) in old.nodes.iter().enumerate().filter(|(_, n)| n.kind == NodeKind::Logit) {
        let Some(direction) = direction_of(file, trace, i)? else { continue };
        let id = n.id.split('_').nth(1).and_then(|id| id.parse().ok()).unwrap_or(c.d_vocab);
        let logit = n.activation.map(|a| a as f32);
        targets.push((i, Explained { label: n.label.clone(), id, weight: n.prob, logit, direction }));
    }
    // Features first, targets last, as a graph that is traced has them.
    let ends: BTreeSet<usize> = features.iter().map(|f| f.1).chain(targets.iter().map(|t| t.0)).collect();
    let others = (0..old.nodes.len()).filter(|i| !ends.contains(i));
    let order: Vec<usize> = features.iter().map(|f| f.1).chain(others).chain(targets.iter().map(|t| t.0)).collect();
    let mut place = vec![0u32; old.nodes.len()];
    order.iter().zip(0..).for_each(|(old, new)| place[*old] = new);
    let links: Vec<(u32, u32, f32)> = old.triples().map(|(s, t, w)| (place[s], place[t], w)).collect();
    let mut nodes: Vec<Node> = order.iter().map(|i| old.nodes[*i].clone()).collect();
    nodes.iter_mut().zip(&features).for_each(|(n, (f, _))| n.activation = Some(f64::from(f.activation)));
    let graph = Graph::large(old.prompt_tokens.clone(), nodes, &links, progress)?;
    let influence = Influence::looking(&graph, || progress.check())?;
    let scores = Scores::looking(&graph, &influence, || progress.check())?;
    let dictionaries = (0..c.n_layers)
        .map(|layer| Ok((set.layer_spec(layer).unwrap_or_default(), stage.written_sites(layer, progress)?)))
        .collect::<Result<_>>()?;
    Ok(FeatureGraph {
        selected: (0..features.len()).collect(),
        features: features.into_iter().map(|f| f.0).collect(),
        pos: targets.iter().map(|t| old.nodes[t.0].pos).max().unwrap_or(trace.len() - 1).min(trace.len() - 1),
        targets: targets.into_iter().map(|t| t.1).collect(),
        graph: Arc::new(graph),
        influence,
        scores,
        error_norms: Vec::new(),
        n_layers: c.n_layers,
        silent: file.silent(),
        limited: None,
        labels: of_set(set),
        dictionaries,
        warnings: Vec::new(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
