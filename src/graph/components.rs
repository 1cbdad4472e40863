//! The attribution graph of one prediction on the model's own components: tokens, attention heads and MLPs by position,
//! errors, logits ["Circuit Tracing", Ameisen et al. 2025, with components in the place of features].
//!
//! A transformer is nearly linear: only attention patterns, norm scales and MLP gates are not. These are held at their
//! values in the run. Then an edge is exact: the source's output along the linear path to the target, read in the direction
//! in which the target's output matters to the prediction (its gradient through everything above). Weights are in logits.
//! What arrives at a node adds up to what the node contributes, and what arrives at a logit to the logit.
//!
//! Where attention is followed ([`Attention::FirstOrder`]) heads are reached through queries and keys as well, and
//! gradients go through patterns: those edges are first-order effects, and only what arrives through values adds up.
//!
//! Every edge of the model is computed to find each node's influence, layer by layer from the top, and only the edges
//! between nodes that matter are kept. So pruning by any threshold up to the kept share is that of the whole graph.
//!
//! `sources` has what each component writes, [`super::readers`] how each reads, [`super::targets`] what is explained.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

use super::influence::Scores;
use super::neurons::Cache;
use super::part::{Part, kind, node_of};
use super::readers::{Attention, HeadReaders, Readers, logit_directions, mlp_directions};
use super::sources::{Source, Sources};
use super::targets::{Logits, Target};
use super::{Graph, Influence, Input, LinkList, Node, NodeKind};
use crate::analysis::plan::{Planned, cost_on_run};
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::progress::Progress;

/// How much of the whole graph is kept with its edges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keep {
    /// Components and errors at most.
    pub nodes: usize,
    /// Share of all influence that the kept nodes hold, where that many suffice.
    pub share: f64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { nodes: 6000, share: 0.995 }
    }
}

impl Keep {
    pub const ALL: Self = Self { nodes: usize::MAX, share: 1.0 };

    /// Enough for pruning to a share of the influence.
    pub fn for_threshold(threshold: f64) -> Self {
        if threshold > Self::default().share { Self::ALL } else { Self::default() }
    }
}

/// Edges that are kept at most: 3 GB while they are sorted.
pub(super) const MOST_EDGES: usize = 150_000_000;

/// Leading neurons that are listed of each MLP, and that an opened one is taken apart into.
pub const NEURONS: usize = 12;

/// A traced prediction.
pub struct Traced {
    pub target: Target,
    pub pos: usize,
    pub attention: Attention,
    pub graph: Arc<Graph>,
    /// Influence of the kept nodes in the whole graph, and what the others hold.
    pub influence: Influence,
    pub scores: Scores,
    /// By node of the graph.
    pub parts: Vec<Part>,
    /// Logits (or the difference) of the targets in the run, before a final soft cap.
    pub logits: Vec<f32>,
    /// Probabilities of the target tokens in the run; 1 for a difference.
    pub probabilities: Vec<f64>,
    /// For each kept MLP its neurons that contribute most, largest first: (neuron, contribution). All neurons together
    /// contribute what the MLP does (and the biases of its input).
    pub neurons: HashMap<Part, Vec<(usize, f32)>>,
    /// Nodes and edges of the whole graph.
    pub all_nodes: usize,
    pub all_edges: usize,
    pub seconds: f64,
    pub(super) sources: Sources,
    pub(super) readers: Readers,
    pub(super) targets: Logits,
    pub(super) cache: Cache,
}

/// Traces the prediction after position `pos`.
///
/// # Errors
/// An edited run, a position outside the prompt, a token outside the vocabulary, a prompt whose parts would not
/// fit in memory, or [`Error::Cancelled`].
pub fn trace_prediction(
    trace: &Trace,
    pos: usize,
    target: Target,
    attention: Attention,
    keep: Keep,
    progress: &Progress,
) -> Result<Traced> {
    let started = Instant::now();
    if pos >= trace.len() {
        return Err(Error::request(format!(
            "position {pos} is outside the prompt of {} tokens; positions count from 0",
            trace.len()
        )));
    }
    if !trace.edits().is_empty() {
        return Err(Error::request("a prediction is traced in a run without edits; switch them off"));
    }
    let n = pos + 1;
    progress.needs(|| cost_on_run(&trace.model, n, Planned::Graph))?;
    let logits = Logits::of(trace, pos, target)?;
    let readers = Readers::of(trace, n, &logits.summed()?, attention, progress)?;
    let sources = Sources::of(trace, n, progress)?;
    let sweep = Sweep { trace, sources: &sources, readers: &readers, logits: &logits, attention, n };
    let whole = sweep.influence(progress)?;
    if keep.nodes == usize::MAX && whole.edges > MOST_EDGES {
        return Err(Error::request(format!(
            "the whole graph of {n} positions has {} million edges; prune to a share of the influence up to {}, or trace an earlier position",
            whole.edges / 1_000_000,
            Keep::default().share
        )));
    }
    let kept = whole.choose(&sources, keep);
    let (graph, parts, places) = sweep.links(&kept, progress)?;
    let neurons = sweep.neurons(&kept)?;
    let mut values: Vec<f64> = Vec::with_capacity(parts.len());
    for part in &parts {
        values.push(match part {
            Part::Logit { .. } => 0.0,
            _ => places.get(part).map_or(0.0, |(p, s)| whole.values[*p][*s]),
        });
    }
    let total: f64 = whole.values.iter().flatten().sum();
    let rest = total - values.iter().sum::<f64>();
    Ok(Traced {
        target,
        pos,
        attention,
        influence: Influence::given(values, rest.max(0.0)),
        graph: Arc::new(graph),
        scores: whole.scores,
        parts,
        logits: logits.values.clone(),
        probabilities: logits.probabilities.clone(),
        neurons,
        all_nodes: n * sources.count() + logits.values.len(),
        all_edges: whole.edges,
        seconds: started.elapsed().as_secs_f64(),
        sources,
        readers,
        targets: logits,
        cache: Cache::default(),
    })
}

struct Sweep<'a> {
    trace: &'a Trace,
    sources: &'a Sources,
    readers: &'a Readers,
    logits: &'a Logits,
    attention: Attention,
    n: usize,
}

/// Influence of every node: [pos][source].
struct Whole {
    values: Vec<Vec<f64>>,
    scores: Scores,
    edges: usize,
}

/// Adds one target's edges to the influence of its sources.
struct Flow {
    values: Vec<Vec<f64>>,
    explained: f64,
    through: f64,
    edges: usize,
}

impl Flow {
    /// `edges` are (pos, source, |weight|) of one target through which `through` flows; `is_error` by source.
    fn pass(
        &mut self,
        through: f64,
        sum: f64,
        edges: impl Iterator<Item = (usize, usize, f32)>,
        is_error: impl Fn(usize) -> bool,
    ) {
        let factor = through / sum.max(1e-10);
        let mut errors = 0.0;
        for (pos, source, weight) in edges {
            let weight = f64::from(weight.abs());
            self.values[pos][source] += weight * factor;
            if is_error(source) {
                errors += weight;
            }
        }
        self.explained += (1.0 - errors / sum.max(1e-10)) * through;
        self.through += through;
    }
}

impl Sweep<'_> {
    fn is_error(&self, source: usize) -> bool {
        matches!(self.sources.source(source), Source::Error { .. })
    }

    /// (pos, source) to the target logits, [target][source].
    fn logit_edges(&self) -> Result<Vec<Vec<f32>>> {
        let read = logit_directions(self.trace, &self.logits.directions, self.n - 1)?;
        let rows = self.sources.at(self.n - 1, self.trace.model.config.n_layers)?;
        let mut edges: Vec<Vec<f32>> = read.matmul(&rows.t()?)?.to_vec2()?;
        if self.sources.index(Source::Error { layer: self.trace.model.config.n_layers }) < self.sources.count() {
            edges.iter_mut().zip(&self.logits.constants).for_each(|(row, c)| row.push(*c));
        }
        Ok(edges)
    }

    /// Influence of all nodes, from the logits down.
    fn influence(&self, progress: &Progress) -> Result<Whole> {
        let (s, n) = (self.sources, self.n);
        let n_layers = self.trace.model.config.n_layers;
        let mut flow = Flow { values: vec![vec![0.0; s.count()]; n], explained: 0.0, through: 0.0, edges: 0 };
        for (row, weight) in self.logit_edges()?.iter().zip(&self.logits.weights) {
            let sum = row.iter().map(|v| f64::from(v.abs())).sum();
            flow.edges += row.len();
            let edges = row.iter().enumerate().map(|(source, w)| (n - 1, source, *w));
            flow.pass(*weight, sum, edges, |i| self.is_error(i));
        }
        progress.expect(n_layers as u64);
        for layer in (0..n_layers).rev() {
            progress.check()?;
            self.through_mlp(layer, &mut flow, progress)?;
            self.through_heads(layer, &mut flow, progress)?;
            progress.step(1)?;
        }
        // What flows through tokens and errors, which have no input, is explained or not by itself.
        let total = |error: bool| -> f64 {
            flow.values
                .iter()
                .map(|row| {
                    row.iter()
                        .enumerate()
                        .filter(|(i, _)| if error { self.is_error(*i) } else { *i == 0 })
                        .map(|(_, v)| v)
                        .sum::<f64>()
                })
                .sum()
        };
        let (tokens, errors) = (total(false), total(true));
        let scores = Scores {
            replacement: tokens / (tokens + errors),
            completeness: (flow.explained + tokens + errors) / (flow.through + tokens + errors),
        };
        Ok(Whole { values: flow.values, scores, edges: flow.edges })
    }

    fn through_mlp(&self, layer: usize, flow: &mut Flow, progress: &Progress) -> Result<()> {
        if !self.trace.model.config.has_mlp() {
            return Ok(());
        }
        let me = self.sources.index(Source::Mlp { layer });
        let directions = mlp_directions(self.trace, self.readers, layer, self.n)?;
        for pos in 0..self.n {
            progress.check()?;
            let (rows, index) = self.sources.before_mlp(pos, layer)?;
            flow.edges += index.len();
            let through = flow.values[pos][me];
            if through == 0.0 {
                continue;
            }
            let weights: Vec<f32> = rows.matmul(&directions.get(pos)?.unsqueeze(1)?)?.flatten_all()?.to_vec1()?;
            let sum = weights.iter().map(|v| f64::from(v.abs())).sum();
            let edges = index.iter().zip(&weights).map(|(source, w)| (pos, *source, *w));
            flow.pass(through, sum, edges, |i| self.is_error(i));
        }
        Ok(())
    }

    fn through_heads(&self, layer: usize, flow: &mut Flow, progress: &Progress) -> Result<()> {
        let (s, n) = (self.sources, self.n);
        let n_heads = self.trace.model.config.n_heads;
        let count = s.before(layer);
        flow.edges += n_heads * count * n * (n + 1) / 2;
        // The products of one layer are held at once: sources by destinations at or after them.
        let bytes = 2 * n_heads * count * n * n;
        let what = format!("tracing {n} positions");
        afford(bytes, &what, "trace an earlier position or shorten the prompt")?;
        // Destinations through which something flows; all others pass nothing on.
        let through = |dest: usize, head: usize| flow.values[dest][s.index(Source::Head { layer, head })];
        let active: Vec<(usize, usize, f64)> = (0..n)
            .flat_map(|dest| (0..n_heads).map(move |head| (dest, head)))
            .map(|(dest, head)| (dest, head, through(dest, head)))
            .filter(|t| t.2 > 0.0)
            .collect();
        if active.is_empty() {
            return Ok(());
        }
        let readers = HeadReaders::of(self.trace, self.readers, layer, n)?;
        // By source position: projections [sources, readers at or after it] and which readers those are.
        let products: Vec<(usize, Vec<f32>)> = (0..n)
            .into_par_iter()
            .map(|src| {
                // A layer of a long prompt takes seconds.
                progress.check()?;
                let from = active.partition_point(|t| t.0 < src);
                let pairs: Vec<(usize, usize)> = active[from..].iter().map(|t| (t.0, t.1)).collect();
                if pairs.is_empty() {
                    return Ok((from, Vec::new()));
                }
                let mut product = readers.read(src, &pairs, &s.at(src, layer)?, None)?;
                product.iter_mut().for_each(|v| *v = v.abs());
                Ok((from, product))
            })
            .collect::<Result<_>>()?;
        let mut sums = vec![0f64; active.len()];
        for (from, product) in &products {
            progress.check()?;
            for (sum, row) in sums[*from..].iter_mut().zip(product.chunks_exact(count)) {
                *sum += f64::from(row.iter().sum::<f32>());
            }
        }
        let is_error: Vec<bool> = (0..count).map(|i| self.is_error(i)).collect();
        let errors: f64 = flow.values[..n]
            .par_iter_mut()
            .zip(&products)
            .map(|(values, (from, product))| {
                let mut errors = 0.0;
                let mut gained = vec![0f32; count];
                for (i, row) in product.chunks_exact(count).enumerate() {
                    let factor = (active[from + i].2 / sums[from + i].max(1e-10)) as f32;
                    gained.iter_mut().zip(row).for_each(|(g, w)| *g += factor * w);
                }
                for ((value, gain), error) in values.iter_mut().zip(&gained).zip(&is_error) {
                    *value += f64::from(*gain);
                    if *error {
                        errors += f64::from(*gain);
                    }
                }
                errors
            })
            .sum();
        let all: f64 = active.iter().map(|t| t.2).sum();
        flow.explained += all - errors;
        flow.through += all;
        Ok(())
    }

    /// What each kept head and MLP of a layer contributes to the targets: the sum of all edges into it.
    fn contributions(
        &self,
        layer: usize,
        heads: &[(usize, usize)],
        readers: Option<&HeadReaders>,
        contributed: &mut HashMap<Part, f64>,
    ) -> Result<()> {
        let n = self.n;
        if let Some(readers) = readers {
            let stream = self.trace.get(SiteKind::ResidPre, layer)?.narrow(0, 0, n)?.contiguous()?;
            for ((dest, head), value) in heads.iter().zip(readers.contributions(heads, &stream)?) {
                contributed.insert(Part::Head { layer, head: *head, pos: *dest }, value);
            }
        }
        if self.trace.model.config.has_mlp() {
            let kind = if SiteKind::ResidMid.exists(&self.trace.model.config) {
                SiteKind::ResidMid
            } else {
                SiteKind::ResidPre
            };
            let stream = self.trace.get(kind, layer)?.narrow(0, 0, n)?;
            let values: Vec<f32> = (stream * mlp_directions(self.trace, self.readers, layer, n)?)?.sum(1)?.to_vec1()?;
            for (pos, value) in values.into_iter().enumerate() {
                contributed.insert(Part::Mlp { layer, pos }, f64::from(value));
            }
        }
        Ok(())
    }

    /// The leading neurons of every kept MLP: activation times the target's gradient at it.
    fn neurons(&self, kept: &[Vec<bool>]) -> Result<HashMap<Part, Vec<(usize, f32)>>> {
        let mut out = HashMap::new();
        for (layer, gradient) in self.readers.post.iter().enumerate() {
            let me = self.sources.index(Source::Mlp { layer });
            let post = self.trace.get(SiteKind::MlpPost, layer)?;
            for pos in (0..self.n).filter(|p| kept[*p][me]) {
                let values: Vec<f32> = (post.get(pos)? * gradient.get(pos)?)?.to_vec1()?;
                let mut ranked: Vec<(usize, f32)> = values.into_iter().enumerate().collect();
                let larger = |a: &(usize, f32), b: &(usize, f32)| b.1.abs().total_cmp(&a.1.abs());
                if ranked.len() > NEURONS {
                    ranked.select_nth_unstable_by(NEURONS, larger);
                    ranked.truncate(NEURONS);
                }
                ranked.sort_by(larger);
                out.insert(Part::Mlp { layer, pos }, ranked);
            }
        }
        Ok(out)
    }

    /// The graph of the kept nodes with the edges between them.
    #[expect(clippy::type_complexity, reason = "three lists that belong together, taken apart at once")]
    fn links(
        &self,
        kept: &[Vec<bool>],
        progress: &Progress,
    ) -> Result<(Graph, Vec<Part>, HashMap<Part, (usize, usize)>)> {
        let (s, n) = (self.sources, self.n);
        let model = &self.trace.model;
        let n_layers = model.config.n_layers;
        let mut parts = Vec::new();
        let mut node = vec![vec![u32::MAX; s.count()]; n];
        // Components, errors, tokens, logits: the order that other tools use.
        for class in [NodeKind::Component, NodeKind::Error, NodeKind::Token] {
            for source in 0..s.count() {
                for pos in 0..n {
                    let part = Part::of(s.source(source), pos);
                    if kind(&part) == class && kept[pos][source] {
                        node[pos][source] = parts.len() as u32;
                        parts.push(part);
                    }
                }
            }
        }
        let places = (0..n)
            .flat_map(|pos| (0..s.count()).map(move |source| (Part::of(s.source(source), pos), (pos, source))))
            .filter(|(_, (pos, source))| kept[*pos][*source])
            .collect();
        let first_logit = parts.len();
        parts.extend(self.logits.parts.iter().copied());
        let mut links: Vec<(u32, u32, f32)> = Vec::new();
        // By link, where attention is followed.
        let mut inputs: Vec<Input> = Vec::new();
        let mut contributed = HashMap::new();
        for (i, row) in self.logit_edges()?.iter().enumerate() {
            for (source, w) in row.iter().enumerate().filter(|(s, w)| node[n - 1][*s] != u32::MAX && **w != 0.0) {
                links.push((node[n - 1][source], (first_logit + i) as u32, *w));
            }
        }
        progress.expect(n_layers as u64);
        for layer in 0..n_layers {
            progress.check()?;
            if model.config.has_mlp() {
                let me = s.index(Source::Mlp { layer });
                let directions = mlp_directions(self.trace, self.readers, layer, n)?;
                for pos in (0..n).filter(|p| kept[*p][me]) {
                    progress.check()?;
                    let (rows, index) = s.before_mlp(pos, layer)?;
                    let weights: Vec<f32> =
                        rows.matmul(&directions.get(pos)?.unsqueeze(1)?)?.flatten_all()?.to_vec1()?;
                    let present = index.iter().zip(&weights).filter(|(s, w)| node[pos][**s] != u32::MAX && **w != 0.0);
                    links.extend(present.map(|(source, w)| (node[pos][*source], node[pos][me], *w)));
                }
            }
            let heads = |dest: usize| {
                (0..model.config.n_heads).filter(move |h| kept[dest][s.index(Source::Head { layer, head: *h })])
            };
            let targets: Vec<(usize, usize)> = (0..n).flat_map(|d| heads(d).map(move |h| (d, h))).collect();
            if targets.is_empty() {
                self.contributions(layer, &targets, None, &mut contributed)?;
                progress.step(1)?;
                continue;
            }
            let readers = HeadReaders::of(self.trace, self.readers, layer, n)?;
            self.contributions(layer, &targets, Some(&readers), &mut contributed)?;
            if self.attention == Attention::FirstOrder {
                inputs.resize(links.len(), Input::Value);
            }
            let found: Vec<LinkList> = (0..n)
                .into_par_iter()
                .map(|src| {
                    progress.check()?;
                    let from = targets.partition_point(|t| t.0 < src);
                    let present: Vec<u32> = (0..s.before(layer)).filter(|i| kept[src][*i]).map(|i| i as u32).collect();
                    if from == targets.len() || present.is_empty() {
                        return Ok((Vec::new(), Vec::new()));
                    }
                    let rows = s.at(src, layer)?;
                    let rows = rows.index_select(&Tensor::from_slice(&present, present.len(), rows.device())?, 0)?;
                    let mut entered = Vec::new();
                    let follows = self.attention == Attention::FirstOrder;
                    let product = readers.read(src, &targets[from..], &rows, follows.then_some(&mut entered))?;
                    let mut out = Vec::with_capacity(product.len());
                    for (row, (dest, head)) in product.chunks_exact(present.len()).zip(&targets[from..]) {
                        let target = node[*dest][s.index(Source::Head { layer, head: *head })];
                        out.extend(row.iter().zip(&present).map(|(v, i)| (node[src][*i as usize], target, *v)));
                    }
                    let mut kept = out.iter().map(|e| e.2 != 0.0);
                    entered.retain(|_| kept.next().unwrap_or(true));
                    out.retain(|e| e.2 != 0.0);
                    Ok((out, entered))
                })
                .collect::<Result<_>>()?;
            for (more, entered) in found {
                links.extend(more);
                inputs.extend(entered);
            }
            progress.step(1)?;
        }
        let node = |(i, p): (usize, &Part)| self.node(p, i.checked_sub(first_logit), contributed.get(p).copied());
        let nodes = parts.iter().enumerate().map(node).collect();
        let tokens = (0..n).map(|p| self.trace.token_text(p)).collect();
        let graph = if self.attention == Attention::FirstOrder {
            inputs.resize(links.len(), Input::Value);
            Graph::with_inputs(tokens, nodes, &links, &inputs)?
        } else {
            Graph::new(tokens, nodes, &links)?
        };
        Ok((graph, parts, places))
    }

    fn node(&self, part: &Part, logit: Option<usize>, contributed: Option<f64>) -> Node {
        Node {
            prob: logit.map_or(0.0, |i| self.logits.weights[i]),
            activation: logit.map_or(contributed, |i| Some(f64::from(self.logits.values[i]))),
            ..node_of(part, self.trace, self.n)
        }
    }
}

impl Whole {
    /// Tokens, and the most influential components and errors.
    fn choose(&self, sources: &Sources, keep: Keep) -> Vec<Vec<bool>> {
        let mut ranked: Vec<(usize, usize, f64)> = self
            .values
            .iter()
            .enumerate()
            .flat_map(|(pos, row)| row.iter().enumerate().map(move |(source, v)| (pos, source, *v)))
            .filter(|(_, source, v)| *source > 0 && *v > 0.0)
            .collect();
        ranked.sort_by(|a, b| b.2.total_cmp(&a.2));
        let total: f64 = self.values.iter().flatten().sum();
        let mut sum: f64 = self.values.iter().map(|row| row[0]).sum();
        let mut kept = vec![vec![false; sources.count()]; self.values.len()];
        kept.iter_mut().for_each(|row| row[0] = true);
        for (pos, source, value) in ranked.into_iter().take(keep.nodes) {
            kept[pos][source] = true;
            sum += value;
            if keep.share < 1.0 && sum >= keep.share * total {
                break;
            }
        }
        kept
    }
}
