//! MLPs of a pruned graph taken apart into neurons.
//!
//! An MLP is one node, and often too coarse an answer. With its gate held still a neuron is linear, so it is a node like
//! any other: it reads the stream through its row of W_in and writes its row of W_out. What is opened is split exactly:
//! the leading neurons, and one node for all others, so that the links of these add up to those of the MLP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::components::{MOST_EDGES, Traced};
use super::part::{Part, node_of};
use super::readers::{HeadReaders, logit_directions, mlp_directions, neuron_directions};
use super::sources::{Source, linear_neurons, mlp_post};
use super::{Graph, Input, LinkList, Pruned};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A pruned graph with what its nodes are and how much flows through them.
#[derive(Clone, Debug)]
pub struct Opened {
    pub graph: Graph,
    /// By node.
    pub parts: Vec<Part>,
    pub influence: Vec<f64>,
    /// Share of all influence that a node and the more influential ones of the whole graph hold.
    pub cumulative: Vec<f64>,
}

/// An MLP at one position, taken apart.
struct Apart {
    /// The leading neurons, and what each contributes.
    neurons: Vec<(u32, f32)>,
    /// What the others and each neuron write, [1 + neurons, d_model].
    rows: Tensor,
    /// How they read the stream, [1 + neurons, d_model].
    directions: Tensor,
}

/// What does not depend on how a graph is pruned, kept while a slider is moved.
#[derive(Default)]
pub(super) struct Cache {
    /// By layer, position and how many neurons were asked for.
    apart: Mutex<HashMap<(usize, usize, usize), Arc<Apart>>>,
    /// By layer.
    heads: Mutex<HashMap<usize, Arc<HeadReaders>>>,
    mlps: Mutex<HashMap<usize, Tensor>>,
}

/// Prompts for which readers of whole layers are kept: at a thousand tokens they would take gigabytes.
const CACHED: usize = 256;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One MLP that is opened.
struct Mlp {
    layer: usize,
    pos: usize,
    /// The node of its other neurons.
    node: usize,
    /// Nodes of its neurons.
    neurons: Vec<usize>,
    apart: Arc<Apart>,
}

impl Mlp {
    fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::once(self.node).chain(self.neurons.iter().copied())
    }
}

/// Links while they are collected.
struct Links {
    ends: Vec<(u32, u32, f32)>,
    inputs: Vec<Input>,
    /// Weaker ones are left out.
    least: f32,
}

impl Links {
    fn add(&mut self, source: usize, target: usize, weight: f32, input: Input) {
        if weight.abs() >= self.least && weight != 0.0 {
            self.ends.push((source as u32, target as u32, weight));
            self.inputs.push(input);
        }
    }
}

impl Traced {
    /// What pruning keeps of the graph, with the MLPs that `opens` names taken apart into their `leading` neurons of
    /// largest contribution and the rest. Links of neurons are kept if they are as strong as the weakest that
    /// pruning kept.
    ///
    /// `trace` is the run that was traced.
    ///
    /// # Errors
    /// More links than memory has room for, or [`Error::Cancelled`].
    pub fn opened(
        &self,
        trace: &Trace,
        pruned: &Pruned,
        opens: impl Fn(&Part) -> bool,
        leading: usize,
        progress: &Progress,
    ) -> Result<Opened> {
        let (graph, old) = self.graph.pruned(pruned)?;
        let all = self.influence.cumulative();
        let mut opened = Opened {
            parts: old.iter().map(|i| self.parts[*i]).collect(),
            influence: old.iter().map(|i| self.influence.values[*i]).collect(),
            cumulative: old.iter().map(|i| all[*i]).collect(),
            graph,
        };
        let chosen: Vec<(usize, usize, usize)> = (0..opened.parts.len())
            .filter(|i| opens(&opened.parts[*i]))
            .filter_map(|i| match opened.parts[i] {
                Part::Mlp { layer, pos } => Some((layer, pos, i)),
                _ => None,
            })
            .collect();
        if chosen.is_empty() || leading == 0 {
            return Ok(opened);
        }
        self.afford(&opened, &chosen, leading.min(trace.model.config.d_mlp) + 1)?;
        let before: Vec<(usize, usize, f32)> = opened.graph.triples().collect();
        let mut mlps = Vec::new();
        for (layer, pos, node) in chosen {
            progress.check()?;
            mlps.push(self.take_apart(trace, layer, pos, node, leading, &mut opened)?);
        }
        let (ends, inputs) = self.links(trace, &opened, &before, &mlps, progress)?;
        let graph = std::mem::take(&mut opened.graph);
        let follows = graph.follows_attention();
        let inputs = if follows { inputs.as_slice() } else { &[] };
        opened.graph = Graph::with_inputs(graph.prompt_tokens, graph.nodes, &ends, inputs)?;
        self.flow(&mut opened, &mlps, &old);
        Ok(opened)
    }

    fn n(&self) -> usize {
        self.pos + 1
    }

    /// Refuses what would give more links than memory has room for.
    fn afford(&self, opened: &Opened, chosen: &[(usize, usize, usize)], parts: usize) -> Result<()> {
        let mut at = vec![0usize; self.n()];
        chosen.iter().for_each(|c| at[c.1] += 1);
        let among: usize = at.iter().map(|m| m * m.saturating_sub(1) / 2).sum();
        let links = among.saturating_mul(parts * parts).saturating_add(chosen.len() * parts * opened.parts.len());
        if links <= MOST_EDGES {
            return Ok(());
        }
        Err(Error::request(format!(
            "taking {} MLPs apart into {} neurons each would give up to {} million links; ask for fewer neurons, or prune to a smaller share",
            chosen.len(),
            parts - 1,
            links / 1_000_000
        )))
    }

    /// An MLP's leading neurons and the others.
    fn apart(&self, trace: &Trace, layer: usize, pos: usize, leading: usize) -> Result<Arc<Apart>> {
        if let Some(known) = lock(&self.cache.apart).get(&(layer, pos, leading)) {
            return Ok(known.clone());
        }
        let n = self.n();
        let Some(weights) = &trace.model.weights.blocks[layer].mlp else {
            return Err(Error::failed("the model has no MLP"));
        };
        let linear = linear_neurons(trace, layer, n)?.get(pos)?;
        let contributions: Vec<f32> = (&linear * self.readers.post[layer].get(pos)?)?.to_vec1()?;
        let mut ranked: Vec<u32> = (0..contributions.len() as u32).collect();
        let size = |i: &u32| contributions[*i as usize].abs();
        ranked.sort_by(|a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
        ranked.truncate(leading);
        // What each neuron writes, and what is left for the others.
        let neurons = Tensor::from_slice(&ranked, ranked.len(), trace.resid_final.device())?;
        let mut rows = weights.output.weight.inputs(&ranked)?;
        rows = rows.broadcast_mul(&linear.index_select(&neurons, 0)?.unsqueeze(1)?)?;
        if let Some(post) = mlp_post(trace, layer, n)? {
            rows = post.row(pos).apply(&rows)?;
        }
        let whole = self.sources.row(pos, self.sources.index(Source::Mlp { layer }))?;
        let others = (whole - rows.sum_keepdim(0)?)?;
        let directions = neuron_directions(trace, &self.readers, layer, pos, &ranked, n)?;
        let other_directions = (self.mlp_directions(trace, layer)?.narrow(0, pos, 1)? - directions.sum_keepdim(0)?)?;
        let apart = Arc::new(Apart {
            neurons: ranked.into_iter().map(|i| (i, contributions[i as usize])).collect(),
            rows: Tensor::cat(&[others, rows], 0)?.contiguous()?,
            directions: Tensor::cat(&[other_directions, directions], 0)?.contiguous()?,
        });
        lock(&self.cache.apart).insert((layer, pos, leading), apart.clone());
        Ok(apart)
    }

    fn mlp_directions(&self, trace: &Trace, layer: usize) -> Result<Tensor> {
        if let Some(known) = lock(&self.cache.mlps).get(&layer) {
            return Ok(known.clone());
        }
        let made = mlp_directions(trace, &self.readers, layer, self.n())?;
        if self.n() <= CACHED {
            lock(&self.cache.mlps).insert(layer, made.clone());
        }
        Ok(made)
    }

    fn head_readers(&self, trace: &Trace, layer: usize) -> Result<Arc<HeadReaders>> {
        if let Some(known) = lock(&self.cache.heads).get(&layer) {
            return Ok(known.clone());
        }
        let made = Arc::new(HeadReaders::of(trace, &self.readers, layer, self.n())?);
        if self.n() <= CACHED {
            lock(&self.cache.heads).insert(layer, made.clone());
        }
        Ok(made)
    }

    /// Adds nodes for an MLP's leading neurons.
    fn take_apart(
        &self,
        trace: &Trace,
        layer: usize,
        pos: usize,
        node: usize,
        leading: usize,
        opened: &mut Opened,
    ) -> Result<Mlp> {
        let apart = self.apart(trace, layer, pos, leading)?;
        let mut nodes = Vec::new();
        let mut left = opened.graph.nodes[node].activation.unwrap_or(0.0);
        for (neuron, contribution) in &apart.neurons {
            let part = Part::Neuron { layer, neuron: *neuron as usize, pos };
            left -= f64::from(*contribution);
            nodes.push(opened.graph.nodes.len());
            let mut made = node_of(&part, trace, self.n());
            made.activation = Some(f64::from(*contribution));
            opened.graph.nodes.push(made);
            opened.parts.push(part);
            opened.influence.push(0.0);
            opened.cumulative.push(1.0);
        }
        let others = &mut opened.graph.nodes[node];
        others.activation = Some(left);
        others.label = format!("m{layer} others");
        Ok(Mlp { layer, pos, node, neurons: nodes, apart })
    }

    /// All links: those of the pruned graph that no opened MLP takes part in, and those of the opened ones anew.
    fn links(
        &self,
        trace: &Trace,
        opened: &Opened,
        before: &[(usize, usize, f32)],
        mlps: &[Mlp],
        progress: &Progress,
    ) -> Result<LinkList> {
        let n = self.n();
        let graph = &opened.graph;
        let is_opened: HashMap<usize, usize> = mlps.iter().enumerate().map(|(i, m)| (m.node, i)).collect();
        let mut out = Links {
            ends: Vec::new(),
            inputs: Vec::new(),
            least: before.iter().map(|l| l.2.abs()).reduce(f32::min).unwrap_or(0.0),
        };
        for (at, (s, t, w)) in before.iter().copied().enumerate() {
            if !is_opened.contains_key(&s) && !is_opened.contains_key(&t) {
                out.add(s, t, w, graph.input(at));
            }
        }
        // Into them, from everything that is not opened itself.
        for mlp in mlps {
            let (rows, index) = self.sources.before_mlp(mlp.pos, mlp.layer)?;
            let source_at: HashMap<Source, usize> =
                index.iter().enumerate().map(|(row, i)| (self.sources.source(*i), row)).collect();
            let weights: Vec<Vec<f32>> = mlp.apart.directions.matmul(&rows.t()?)?.to_vec2()?;
            for (node, part) in opened.parts.iter().enumerate().filter(|(i, _)| !is_opened.contains_key(i)) {
                let Some(row) = source_of(part, mlp.pos).and_then(|s| source_at.get(&s)) else { continue };
                for (target, weights) in mlp.nodes().zip(&weights) {
                    out.add(node, target, weights[*row], Input::Value);
                }
            }
        }
        // From them, to logits, MLPs and heads.
        let logits = logit_directions(trace, &self.targets.directions, n - 1)?;
        for mlp in mlps {
            progress.check()?;
            if mlp.pos + 1 == n {
                let weights: Vec<Vec<f32>> = logits.matmul(&mlp.apart.rows.t()?)?.to_vec2()?;
                let first = opened.parts.iter().position(|p| matches!(p, Part::Logit { .. })).unwrap_or(0);
                for (i, row) in weights.iter().enumerate() {
                    mlp.nodes().zip(row).for_each(|(source, w)| out.add(source, first + i, *w, Input::Value));
                }
            }
            for other in mlps.iter().filter(|o| o.pos == mlp.pos && o.layer > mlp.layer) {
                let weights: Vec<Vec<f32>> = other.apart.directions.matmul(&mlp.apart.rows.t()?)?.to_vec2()?;
                for (target, row) in other.nodes().zip(&weights) {
                    mlp.nodes().zip(row).for_each(|(source, w)| out.add(source, target, *w, Input::Value));
                }
            }
        }
        for layer in 0..trace.model.config.n_layers {
            progress.check()?;
            let below: Vec<&Mlp> = mlps.iter().filter(|m| m.layer < layer).collect();
            if below.is_empty() {
                continue;
            }
            let closed = |(i, p): (usize, &Part)| match *p {
                Part::Mlp { layer: l, pos } if l == layer && !is_opened.contains_key(&i) => Some((pos, i)),
                _ => None,
            };
            let readers: Vec<(usize, usize)> = opened.parts.iter().enumerate().filter_map(closed).collect();
            if !readers.is_empty() {
                let directions = self.mlp_directions(trace, layer)?;
                for (pos, target) in readers {
                    let direction = directions.get(pos)?.unsqueeze(1)?;
                    for mlp in below.iter().filter(|m| m.pos == pos) {
                        let weights: Vec<f32> = mlp.apart.rows.matmul(&direction)?.flatten_all()?.to_vec1()?;
                        mlp.nodes().zip(weights).for_each(|(source, w)| out.add(source, target, w, Input::Value));
                    }
                }
            }
            let mut heads: Vec<((usize, usize), usize)> = opened
                .parts
                .iter()
                .enumerate()
                .filter_map(|(i, p)| match *p {
                    Part::Head { layer: l, head, pos } if l == layer => Some(((pos, head), i)),
                    _ => None,
                })
                .collect();
            heads.sort_unstable();
            if heads.is_empty() {
                continue;
            }
            let readers = self.head_readers(trace, layer)?;
            for mlp in &below {
                let behind = &heads[heads.partition_point(|h| h.0.0 < mlp.pos)..];
                let pairs: Vec<(usize, usize)> = behind.iter().map(|h| h.0).collect();
                let mut inputs = Vec::new();
                let weights = readers.read(mlp.pos, &pairs, &mlp.apart.rows, Some(&mut inputs))?;
                let width = 1 + mlp.neurons.len();
                for (k, (w, input)) in weights.iter().zip(inputs).enumerate() {
                    let source = mlp.nodes().nth(k % width).unwrap_or(mlp.node);
                    out.add(source, behind[k / width].1, *w, input);
                }
            }
        }
        Ok((out.ends, out.inputs))
    }

    /// What flows through neurons and through the others of their MLP: of each target's input the share that is theirs.
    /// Sums of rows are those of the graph before pruning, which has nearly all of it.
    fn flow(&self, opened: &mut Opened, mlps: &[Mlp], old: &[usize]) {
        let sums: Vec<f64> = (0..opened.graph.nodes.len())
            .map(|i| match old.get(i) {
                Some(before) if !mlps.iter().any(|m| m.node == i) => {
                    self.graph.into_node(*before).iter().map(|l| f64::from(l.weight.abs())).sum()
                }
                _ => opened.graph.into_node(i).iter().map(|l| f64::from(l.weight.abs())).sum(),
            })
            .collect();
        let touched: Vec<usize> = mlps.iter().flat_map(Mlp::nodes).collect();
        let mut is_touched = vec![false; opened.graph.nodes.len()];
        for i in &touched {
            is_touched[*i] = true;
            opened.influence[*i] = 0.0;
        }
        for target in opened.graph.order().to_vec() {
            let target = target as usize;
            let through = (opened.influence[target] + opened.graph.nodes[target].prob) / sums[target].max(1e-10);
            for link in opened.graph.into_node(target) {
                if is_touched[link.source as usize] {
                    opened.influence[link.source as usize] += f64::from(link.weight.abs()) * through;
                }
            }
        }
        let mut ranked = self.influence.values.clone();
        ranked.sort_by(|a, b| b.total_cmp(a));
        let total = self.influence.total().max(1e-30);
        let mut above = vec![0.0];
        for v in &ranked {
            above.push(above[above.len() - 1] + v);
        }
        for i in touched {
            let own = opened.influence[i];
            let before = above[ranked.partition_point(|v| *v > own)];
            opened.cumulative[i] = ((before + own) / total).min(1.0);
        }
    }
}

/// The source that a part is at a position, if it writes there.
fn source_of(part: &Part, at: usize) -> Option<Source> {
    let (source, pos) = match *part {
        Part::Token { pos } => (Source::Token, pos),
        Part::Head { layer, head, pos } => (Source::Head { layer, head }, pos),
        Part::Mlp { layer, pos } => (Source::Mlp { layer }, pos),
        Part::Error { layer, pos } => (Source::Error { layer }, pos),
        Part::Neuron { .. } | Part::Logit { .. } => return None,
    };
    (pos == at).then_some(source)
}
