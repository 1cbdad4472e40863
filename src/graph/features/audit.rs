//! What a graph's links predict beside what really happens when their sources are taken away.
//!
//! Each source is ablated, once with attention held still and once freely. What the graph predicts of a target is the
//! sum over all its paths from the source: a link's weight times the share by which its source has changed, where features
//! between answer as they do in the linear model. A link fails where the target answers with another sign, or with more
//! than twice or less than half of what is predicted, patterns held.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::intervene::{Amount, Change, Stage};
use crate::engine::{Hold, Trace};
use crate::error::{Error, Result};
use crate::graph::file::{AUDIT, GraphFile};
use crate::graph::targets::mean_column;
use crate::graph::{Graph, NodeKind};
use crate::progress::Progress;

/// One link that was put to the test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audited {
    pub source: String,
    pub target: String,
    /// The link's own weight.
    #[serde(deserialize_with = "no_number")]
    pub weight: f32,
    /// What the graph predicts for the target when the source is taken away, along all paths.
    #[serde(deserialize_with = "no_number")]
    pub predicted: f32,
    /// What happens with attention patterns held still.
    #[serde(deserialize_with = "no_number")]
    pub held: f32,
    /// What happens with nothing held still.
    #[serde(deserialize_with = "no_number")]
    pub free: f32,
    /// What happens with all held still but direct effects: −weight, if the graph is this model's.
    #[serde(deserialize_with = "no_number")]
    pub direct: f32,
    pub fails: bool,
}

/// JSON writes what is no number as null.
fn no_number<'de, D: serde::Deserializer<'de>>(reader: D) -> std::result::Result<f32, D::Error> {
    Ok(Option::<f32>::deserialize(reader)?.unwrap_or(f32::NAN))
}

/// All links that were put to the test, the strongest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub links: Vec<Audited>,
    /// Pearson's correlation of predictions and what happens; `None` for fewer than two links or without variance.
    pub correlation_held: Option<f64>,
    pub correlation_free: Option<f64>,
    /// The largest difference of a direct effect from its link's weight.
    #[serde(deserialize_with = "no_number")]
    pub worst_direct: f32,
    /// Links from features that the graph has.
    pub all: usize,
    /// Links of them to what cannot be read off a run: logits of which a file does not say what they are.
    pub unread: usize,
}

/// A direct effect may be off by this share of the strongest link's weight: files round, and others' machines as well.
const ROUNDING: f32 = 0.1;

impl Audit {
    /// What speaks against the graph's being of this run and set, in a sentence: direct effects are exact by definition.
    pub fn doubt(&self) -> Option<String> {
        let strongest = self.links.iter().map(|l| l.weight.abs()).fold(0.0, f32::max);
        (self.worst_direct > ROUNDING * strongest).then(|| {
            format!(
                "With all else held still, links are off by up to {:.3}, where the strongest is {strongest:.3} and none should be \
                 off: the graph is of another set, model or prompt, or was made otherwise.",
                self.worst_direct
            )
        })
    }

    /// As a file of a graph carries it.
    pub fn in_file(file: &GraphFile) -> Option<Self> {
        let told = file.document.get("metadata")?.get(AUDIT)?;
        serde_json::from_value(told.clone()).ok()
    }

    /// Puts it into a graph's file. `along` says which links the predictions went along.
    pub fn write(&self, file: &mut GraphFile, along: &str) -> Result<()> {
        let mut told = serde_json::to_value(self).map_err(|e| Error::failed(e.to_string()))?;
        told["predicted_along"] = along.into();
        let metadata = file.document.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert(AUDIT.to_owned(), told);
        }
        Ok(())
    }
}

/// What a file leaves out of predictions, in sentences: paths that were pruned away, features that were not traced, and those
/// whose activations it does not say.
pub fn left_out(file: &GraphFile) -> Vec<String> {
    let empty = Value::Null;
    let metadata = file.document.get("metadata").unwrap_or(&empty);
    let settings = metadata.get("pruning_settings").unwrap_or(metadata);
    let share = |name: &str| settings.get(name).and_then(Value::as_f64);
    let (nodes, links) = (share("node_threshold"), share("edge_threshold"));
    let pruned = [nodes, links].into_iter().flatten().any(|s| s < 1.0).then(|| {
        let told = |s: Option<f64>| s.map_or("an unknown share".to_owned(), |s| s.to_string());
        format!(
            "The file was pruned to {} of the nodes' influence and {} of the links' scores: what is predicted goes along the \
             links that it has, and leaves out paths that were pruned away; trace with --node-threshold 1 and \
             --edge-threshold 1 for all.",
            told(nodes),
            told(links)
        )
    });
    let limited = metadata.get("info").and_then(|i| i.get("limited")).and_then(Value::as_str);
    let limited = limited.map(|said| format!("{said} What is predicted leaves out paths through the others."));
    let g = &file.graph;
    let silent = (0..g.nodes.len()).filter(|n| feature_of(g, *n).is_some() && g.nodes[*n].activation.is_none()).count();
    let silent = (silent > 0).then(|| {
        format!("The file does not say how active {silent} of its features are: what is predicted leaves out paths through them.")
    });
    pruned.into_iter().chain(limited).chain(silent).collect()
}

/// A node of a graph as a feature: its layer, position and number.
pub fn feature_of(graph: &Graph, node: usize) -> Option<(usize, usize, u32)> {
    let n = &graph.nodes[node];
    if n.kind != NodeKind::Component {
        return None;
    }
    let mut parts = n.id.split('_');
    let (layer, feature, pos) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((layer, pos, feature))
}

/// The ids of the prompt that a graph is of, out of its tokens' nodes.
///
/// # Errors
/// A graph without a token at some position.
pub fn ids_of(graph: &Graph) -> Result<Vec<u32>> {
    let mut ids = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| n.kind == NodeKind::Token) {
        if let Some(id) = node.id.split('_').nth(1).and_then(|id| id.parse().ok()) {
            ids.insert(node.pos, id);
        }
    }
    let n = ids.keys().next_back().map_or(0, |p| p + 1);
    (0..n).map(|p| ids.get(&p).copied()).collect::<Option<Vec<u32>>>().filter(|l| !l.is_empty()).ok_or_else(|| {
        Error::request("the graph does not name a token at every position, so that its prompt cannot be run again")
    })
}

/// Links that are put to the test unless somebody says otherwise: each source takes three runs.
pub const LINKS: usize = 50;

/// The direction [d_model] behind the final norm that a logit of a file is read by: the one that the file names, as this
/// program does of what is no token, or the token's column beside the mean of all. `None` where neither is known.
///
/// # Errors
/// A damaged unembedding.
pub fn direction_of(file: &GraphFile, trace: &Trace, node: usize) -> Result<Option<Vec<f32>>> {
    let (c, logit) = (&trace.model.config, &file.graph.nodes[node]);
    if let Some(told) = file.direction(&logit.id) {
        return Ok(Some(told).filter(|d| d.len() == c.d_model));
    }
    let id = logit.id.split('_').nth(1).and_then(|id| id.parse::<usize>().ok());
    let Some(id) = id.filter(|id| *id < c.d_vocab) else { return Ok(None) };
    let own = trace.model.weights.unembed.output(id)?.flatten_all()?;
    Ok(Some((own - mean_column(trace)?)?.to_vec1()?))
}

/// # Errors
/// Most features of the graph have other activations in this run than the graph says.
pub(super) fn belongs(graph: &Graph, stage: &Stage<'_>) -> Result<()> {
    let (mut all, mut others) = (0, 0);
    for node in 0..graph.nodes.len() {
        let Some(((layer, pos, feature), told)) = feature_of(graph, node).zip(graph.nodes[node].activation) else {
            continue;
        };
        // Nothing is active where features are left out.
        if pos < stage.silent() {
            continue;
        }
        let own = f64::from(stage.activation(layer, pos, feature));
        all += 1;
        others += usize::from((told - own).abs() > 0.2 * told.abs().max(own.abs()));
    }
    if 2 * others <= all {
        return Ok(());
    }
    Err(Error::request(format!(
        "{others} of the graph's {all} features have another activation here than the graph says, so that it is of another set, \
         model or prompt; name those that it is of"
    )))
}

/// Puts the `most` strongest links from features to the test of those for which `chosen` is true. `explained` says in which
/// direction behind the final norm a logit's node is read.
///
/// # Errors
/// A graph of another set, model or prompt, or [`Error::Cancelled`].
pub fn audit(
    graph: &Graph,
    trace: &Trace,
    stage: &Stage<'_>,
    most: usize,
    chosen: impl Fn(usize, usize) -> bool,
    explained: impl Fn(usize) -> Result<Option<Vec<f32>>>,
    progress: &Progress,
) -> Result<Audit> {
    belongs(graph, stage)?;
    let mut directions: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    for (i, _) in graph.nodes.iter().enumerate().filter(|(_, n)| n.kind == NodeKind::Logit) {
        if let Some(direction) = explained(i)? {
            directions.insert(i, direction);
        }
    }
    let is_read = |node: &usize| feature_of(graph, *node).is_some() || directions.contains_key(node);
    let is_end = |node: usize| feature_of(graph, node).is_some() || graph.nodes[node].kind == NodeKind::Logit;
    let mut links: Vec<(usize, usize, f32)> =
        graph.triples().filter(|(s, t, _)| feature_of(graph, *s).is_some() && is_end(*t)).collect();
    let all = links.len();
    links.retain(|(_, t, _)| is_read(t));
    let unread = all - links.len();
    links.retain(|(s, t, _)| chosen(*s, *t));
    links.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()).then(a.0.cmp(&b.0)).then(a.1.cmp(&b.1)));
    links.truncate(most);
    let mut by_source: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    links.iter().enumerate().for_each(|(i, l)| by_source.entry(l.0).or_default().push(i));
    progress.expect(3 * by_source.len() as u64);
    let mut found: Vec<Option<Audited>> = vec![None; links.len()];
    for (source, own) in by_source {
        let Some((layer, pos, feature)) = feature_of(graph, source) else { continue };
        let (change, part) = (Change { layer, pos, feature, amount: Amount::To(0.0) }, progress.part());
        let runs = [Hold::Direct, Hold::Attention, Hold::Free]
            .iter()
            .map(|mode| {
                progress.step(1)?;
                stage.run(&[change], mode, true, &part)
            })
            .collect::<Result<Vec<_>>>()?;
        let told = predicted(graph, &[(source, -1.0)]);
        for i in own {
            let (_, target, weight) = links[i];
            let measured = runs
                .iter()
                .map(|run| match (feature_of(graph, target), directions.get(&target)) {
                    (Some((l, p, f)), _) => stage.difference(run, l, p, f, &part),
                    (None, Some(direction)) => logit_difference(trace, run, graph.nodes[target].pos, direction),
                    (None, None) => Ok(f32::NAN),
                })
                .collect::<Result<Vec<f32>>>()?;
            let [direct, held, free] = measured[..] else { continue };
            let p = told[target];
            let fails = fails(p, held, weight);
            let (source, target) = (graph.nodes[source].id.clone(), graph.nodes[target].id.clone());
            found[i] = Some(Audited { source, target, weight, predicted: p, held, free, direct, fails });
        }
    }
    let links: Vec<Audited> = found.into_iter().flatten().collect();
    let of = |f: fn(&Audited) -> f32| links.iter().map(|l| f64::from(f(l))).collect::<Vec<f64>>();
    let told = of(|l| l.predicted);
    Ok(Audit {
        correlation_held: correlation(&told, &of(|l| l.held)),
        correlation_free: correlation(&told, &of(|l| l.free)),
        worst_direct: links.iter().map(|l| (l.direct + l.weight).abs()).fold(0.0, f32::max),
        links,
        all,
        unread,
    })
}

/// Whether what happens is not what was predicted: another sign, no more than half or no less than twice as much. Where the
/// paths cancel, so that nothing is predicted, no more than half the link's own weight may happen.
fn fails(predicted: f32, held: f32, weight: f32) -> bool {
    if predicted == 0.0 {
        return held.is_nan() || held.abs() > 0.5 * weight.abs();
    }
    let ratio = held / predicted;
    !(ratio > 0.5 && ratio < 2.0)
}

/// What the graph predicts for every node when some are changed, each by a share of its activation: −1 takes it away.
pub fn predicted(graph: &Graph, changed: &[(usize, f64)]) -> Vec<f32> {
    let mut effect = vec![0f64; graph.nodes.len()];
    // By node the share of its activation by which it has changed.
    let mut share = vec![0f64; graph.nodes.len()];
    changed.iter().for_each(|(node, by)| share[*node] = *by);
    let given: BTreeSet<usize> = changed.iter().map(|c| c.0).collect();
    for node in graph.order().iter().rev().map(|n| *n as usize) {
        if given.contains(&node) {
            continue;
        }
        effect[node] = graph.into_node(node).iter().map(|l| f64::from(l.weight) * share[l.source as usize]).sum();
        if graph.nodes[node].kind == NodeKind::Component {
            let activation = graph.nodes[node].activation.filter(|a| *a != 0.0);
            share[node] = activation.map_or(0.0, |a| effect[node] / a);
        }
    }
    effect.into_iter().map(|v| v as f32).collect()
}

/// How much what is explained has changed.
fn logit_difference(trace: &Trace, changed: &super::intervene::Changed, pos: usize, direction: &[f32]) -> Result<f32> {
    let row = |t: candle_core::Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
    let (after, before) = (row(changed.normalized.narrow(0, pos, 1)?)?, row(trace.normalized(pos)?)?);
    Ok(after.iter().zip(&before).zip(direction).map(|((a, b), d)| (a - b) * d).sum())
}

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len() as f64;
    if a.len() < 2 {
        return None;
    }
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    let r = sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    r.is_finite().then_some(r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::graph;

    #[test]
    fn predictions_by_hand() {
        use NodeKind::{Component, Logit};
        // c0 →(2) c1, c0 →(1) logit, c1 →(−3) logit; c1 has the activation 4.
        let links = [(0, 1, 2.0), (0, 2, 1.0), (1, 2, -3.0)];
        let mut g = graph(&[Component, Component, Logit], &[1.0], &links).unwrap();
        g.nodes[1].activation = Some(4.0);
        // Without c0, c1 loses 2 of its 4, so that half of its −3 goes: −1 + 1.5.
        assert_eq!(predicted(&g, &[(0, -1.0)]), [0.0, -2.0, 0.5]);
        // Doubled while c1 is held where it is: its own link alone.
        assert_eq!(predicted(&g, &[(0, 1.0), (1, 0.0)]), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn links_fail_beyond_half_and_twice() {
        for (predicted, held, weight, expected) in [
            (-2.0, -1.5, 2.0, false),
            (-2.0, -3.9, 2.0, false),
            (-2.0, -1.0, 2.0, true),
            (-2.0, -4.0, 2.0, true),
            (-2.0, 2.0, 2.0, true),
            (-2.0, f32::NAN, 2.0, true),
            // Paths that cancel predict nothing, and nothing much happens.
            (0.0, 0.0, 2.0, false),
            (0.0, -0.9, 2.0, false),
            (0.0, 1.1, 2.0, true),
        ] {
            assert_eq!(fails(predicted, held, weight), expected, "{predicted} {held} {weight}");
        }
    }

    #[test]
    fn correlation_by_hand() {
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), Some(1.0));
        assert_eq!(correlation(&[1.0, 2.0], &[1.0, 1.0]), None);
        assert_eq!(correlation(&[1.0], &[1.0]), None);
        // Covariance 1, variances 2 and 2.
        let r = correlation(&[0.0, 1.0, 2.0], &[0.0, 2.0, 1.0]).unwrap();
        assert!((r - 0.5).abs() < 1e-12);
    }
}
