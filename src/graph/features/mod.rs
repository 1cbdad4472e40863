//! The attribution graph of one prediction on the features of transcoders ["Circuit Tracing", Ameisen et al. 2025]: which
//! features made which, from the tokens to the prediction.
//!
//! A set of transcoders stands in for the MLPs. With attention patterns, the divisors of norms and what the MLPs give held
//! still, what a feature writes reaches another's pre-activation along a linear path: that is the edge, exactly. What the
//! transcoders leave out is an error node of its layer and position. Definitions are circuit-tracer's.
//!
//! `linear` holds the run still, `active` finds the features and what they write, `rows` computes the edges;
//! [`intervene`] gives features other values, and [`audit`] compares what then happens with what a graph predicts.

mod active;
pub mod audit;
pub mod cost;
pub mod effect;
pub mod export;
pub mod intervene;
mod linear;
pub mod opened;
mod rows;
pub mod targets;
pub mod why;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

pub use active::Feature;
pub use targets::{Explained, Target};

use self::active::Active;
use self::cost::{PART, ROW, cost_of_rows, fitting, reached};
use self::linear::Linear;
use self::rows::{Row, Seed};
use super::influence::{LEAST, Scores};
use super::{Graph, Influence, Node, NodeKind, SILENT};
use crate::engine::edit::FeatureChange;
use crate::engine::{Action, Edit, Site, Trace};
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::features::labels::of_set;
use crate::memory::{available, trim};
use crate::model::Model;
use crate::model::tokenizer::Tokenizer;
use crate::progress::Progress;

/// Which of the active features are traced, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Features at most, the most influential ones; `None` for all where they fit.
    pub most: Option<usize>,
    /// Features that are chosen together, after which influence is taken again.
    pub round: usize,
    /// First positions whose features and errors are left out: what they hold is unlike all else.
    pub silent: usize,
}

impl Settings {
    /// # Errors
    /// Nothing is left of the positions up to `pos`.
    fn check(&self, pos: usize) -> Result<()> {
        if self.silent <= pos {
            return Ok(());
        }
        Err(Error::request(format!(
            "the first {} positions are left out, and none is left up to position {pos}, so that no feature is active; trace a \
             later position, put a first token before the prompt (--bos), or take them in (--silent 0)",
            self.silent
        )))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { most: None, round: 2048, silent: SILENT }
    }
}

crate::identity!(FeatureGraph);

/// A prediction traced to features.
pub struct FeatureGraph {
    /// All active ones, by (layer, position, feature).
    pub features: Vec<Feature>,
    /// Which of them are nodes, rising.
    pub selected: Vec<usize>,
    /// Features, errors by (layer, position), tokens, logits.
    pub graph: Arc<Graph>,
    pub influence: Influence,
    pub scores: Scores,
    pub targets: Vec<Explained>,
    /// Lengths of what the transcoders leave out, [layer][position].
    pub error_norms: Vec<Vec<f32>>,
    /// The position whose prediction is explained.
    pub pos: usize,
    pub n_layers: usize,
    pub silent: usize,
    /// Why not all active features are nodes, in a sentence.
    pub limited: Option<String>,
    /// Descriptions of features by (layer, feature).
    pub labels: BTreeMap<(usize, u32), String>,
    /// By layer: the file that its dictionary is read from, and the sites that its features write.
    pub dictionaries: Vec<(String, Vec<Site>)>,
    /// What speaks against the dictionaries, in sentences.
    pub warnings: Vec<String>,
    pub seconds: f64,
}

impl FeatureGraph {
    /// The feature that a node is.
    pub fn feature(&self, node: usize) -> Option<Feature> {
        self.selected.get(node).map(|i| self.features[*i])
    }

    /// The feature's node that has an id.
    pub fn by_id(&self, id: &str) -> Option<usize> {
        let mut parts = id.split('_');
        let (layer, feature, pos) =
            (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        self.node(layer, pos, feature).filter(|_| parts.next().is_none())
    }

    /// The node of a feature at a position.
    pub fn node(&self, layer: usize, pos: usize, feature: u32) -> Option<usize> {
        let key = |f: &Feature| (f.layer, f.pos, f.feature);
        self.selected.binary_search_by_key(&(layer, pos, feature), |i| key(&self.features[*i])).ok()
    }

    /// The direction [d_model] behind the final norm that a target's node is read by; `None` for other nodes.
    pub fn direction(&self, node: usize) -> Option<Vec<f32>> {
        let target = node.checked_sub(self.graph.nodes.len() - self.targets.len())?;
        self.targets.get(target).map(|t| t.direction.clone())
    }

    /// The edits that change how active a feature's node is, one at each site that it writes.
    pub fn edits(&self, node: usize, change: FeatureChange) -> Vec<Edit> {
        self.feature(node).map_or_else(Vec::new, |f| self.edits_at((f.layer, f.pos, f.feature), change))
    }

    /// The same for a feature of the set that need not be a node: at a layer, a position, by its number.
    pub fn edits_at(&self, (layer, pos, feature): effect::Place, change: FeatureChange) -> Vec<Edit> {
        let Some((file, sites)) = self.dictionaries.get(layer) else { return Vec::new() };
        let action = || Action::Feature { dictionary: file.clone(), feature: feature as usize, change };
        sites.iter().map(|site| Edit::new(*site, action()).at(pos)).collect()
    }

    /// The edits that give nodes other values, of their own activations.
    pub fn set(&self, nodes: &[usize], value: impl Fn(f32) -> f32) -> Vec<Edit> {
        let one = |node: &usize| {
            let activation = self.feature(*node).map_or(0.0, |f| f.activation);
            self.edits(*node, FeatureChange::Set(value(activation)))
        };
        nodes.iter().flat_map(one).collect()
    }

    /// The edits that put features, by layer and number, in the place of nodes: the nodes are set to 0, and at each of
    /// their positions the others to the largest activation that is taken away there.
    pub fn swapped(&self, nodes: &[usize], others: &[(usize, u32)]) -> Vec<Edit> {
        let mut largest: BTreeMap<usize, f32> = BTreeMap::new();
        for f in nodes.iter().filter_map(|n| self.feature(*n)) {
            let own = largest.entry(f.pos).or_insert(f32::MIN);
            *own = own.max(f.activation);
        }
        let mut edits = self.set(nodes, |_| 0.0);
        for (pos, value) in largest {
            let there =
                |(layer, feature): &(usize, u32)| self.edits_at((*layer, pos, *feature), FeatureChange::Set(value));
            edits.extend(others.iter().flat_map(there));
        }
        edits
    }

    /// Positions of the run that are part of the graph.
    pub fn n(&self) -> usize {
        self.pos + 1
    }
}

/// Says so where a prompt does not begin with the token that the model's texts begin with: the features of its first token
/// are left out all the same.
pub fn first_token_warning(model: &Model, ids: &[u32]) -> Option<String> {
    let bos = model.tokenizer.as_ref().and_then(Tokenizer::bos_token).filter(|bos| ids.first() != Some(bos))?;
    Some(format!(
        "The prompt does not begin with {:?}, and the features of its first token are left out; --bos puts it first.",
        model.token_text(bos)
    ))
}

/// Traces the prediction after position `pos` to the features of a set.
///
/// # Errors
/// An edited run, a position outside the prompt, a set that does not fit the model, or [`Error::Cancelled`].
pub fn trace_features(
    trace: &Trace,
    set: &DictionarySet,
    pos: usize,
    target: &Target,
    settings: &Settings,
    progress: &Progress,
) -> Result<FeatureGraph> {
    trace_in_parts(trace, set, pos, target, settings, progress, &mut |_| ())
}

/// As [`trace_features`]; `partial` is handed what is known on the way, each time the whole graph so far: first the features
/// that reach the targets most strongly by themselves, then what each round has chosen.
///
/// # Errors
/// As [`trace_features`].
pub fn trace_in_parts(
    trace: &Trace,
    set: &DictionarySet,
    pos: usize,
    target: &Target,
    settings: &Settings,
    progress: &Progress,
    partial: &mut dyn FnMut(FeatureGraph),
) -> Result<FeatureGraph> {
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
    settings.check(pos)?;
    let n = pos + 1;
    let explained = targets::explained(trace, pos, target)?;
    let linear = Linear::of(trace, n, progress)?;
    let active = Active::of(&linear, set, linear.blocks.len(), settings.silent, progress)?;
    let room = || fitting(reached(&active.features, n), (n, linear.blocks.len()), settings, available());
    let (most, limited) = room().or_else(|_| {
        // What earlier work left behind is free as well.
        trim();
        room()
    })?;
    progress.needs(|| {
        let rows = active.features.iter().copied().zip(reached(&active.features, n)).collect::<Vec<_>>();
        cost_of_rows(&trace.model, &rows, most, n, settings)
    })?;
    let labels = of_set(set);
    let mut work = Work {
        linear: &linear,
        active: &active,
        explained: &explained,
        labels: &labels,
        silent: settings.silent,
        started,
        rows: vec![None; active.features.len()],
        logits: Vec::new(),
    };
    work.logits(progress)?;
    partial(work.found(work.first(), None, progress)?);
    let selected = match most {
        Some(most) => work.choose(most, settings.round.max(1), progress, partial)?,
        None => {
            let all: Vec<usize> = (0..active.features.len()).collect();
            work.compute(&all, progress)?;
            all
        }
    };
    work.found(selected, limited, progress)
}

/// Features that are drawn before any row of a feature is known, at most.
const FIRST: usize = 64;

/// Rows while they are computed.
struct Work<'a> {
    linear: &'a Linear<'a>,
    active: &'a Active,
    explained: &'a [Explained],
    labels: &'a BTreeMap<(usize, u32), String>,
    silent: usize,
    started: Instant,
    /// By feature.
    rows: Vec<Option<Row>>,
    /// By target.
    logits: Vec<Row>,
}

impl Work<'_> {
    fn logits(&mut self, progress: &Progress) -> Result<()> {
        let (linear, pos) = (self.linear, self.linear.n - 1);
        let reads: Vec<Vec<f32>> = self
            .explained
            .iter()
            .map(|e| {
                let mut row = e.direction.clone();
                linear.last.read(&mut row, pos);
                row
            })
            .collect();
        let seed = |(row, reads): (usize, &'_ Vec<f32>)| (row, reads.as_slice().to_vec());
        let owned: Vec<(usize, Vec<f32>)> = reads.iter().enumerate().map(seed).collect();
        let seeds =
            owned.iter().map(|(row, reads)| Seed { row: *row, layer: linear.blocks.len(), pos, reads }).collect();
        self.logits = rows::rows(linear, self.active, seeds, progress)?;
        Ok(())
    }

    fn compute(&mut self, features: &[usize], progress: &Progress) -> Result<()> {
        let d = self.linear.d;
        let seeds = features
            .iter()
            .enumerate()
            .map(|(row, i)| {
                let f = self.active.features[*i];
                Seed { row, layer: f.layer, pos: f.pos, reads: self.active.read(*i, d) }
            })
            .collect();
        for (i, row) in features.iter().zip(rows::rows(self.linear, self.active, seeds, progress)?) {
            self.rows[*i] = Some(row);
        }
        Ok(())
    }

    /// The features that reach the targets most strongly by themselves, rising.
    fn first(&self) -> Vec<usize> {
        let influence = self.influence();
        let mut best: Vec<usize> = (0..influence.len()).filter(|i| influence[*i] > 0.0).collect();
        best.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
        best.truncate(FIRST);
        best.sort_unstable();
        best
    }

    /// The `most` most influential features, chosen in rounds: what was computed so far says who is next.
    fn choose(
        &mut self,
        most: usize,
        round: usize,
        progress: &Progress,
        partial: &mut dyn FnMut(FeatureGraph),
    ) -> Result<Vec<usize>> {
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < most {
            progress.check()?;
            let influence = self.influence();
            let mut left: Vec<usize> = (0..self.rows.len()).filter(|i| self.rows[*i].is_none()).collect();
            left.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
            left.truncate(round.min(most - chosen.len()));
            if left.is_empty() {
                break;
            }
            left.sort_unstable();
            chosen.extend(&left);
            chosen.sort_unstable();
            if chosen.len() < most {
                self.compute(&left, progress)?;
                partial(self.found(chosen.clone(), None, progress)?);
            } else {
                // Nobody is chosen by the last rows.
                self.compute_part(&left, &chosen, progress)?;
            }
        }
        Ok(chosen)
    }

    /// The rows of `features`, as far as they come from `chosen` ones or from what is no feature: so many at a time that
    /// whole rows take little memory.
    fn compute_part(&mut self, features: &[usize], chosen: &[usize], progress: &Progress) -> Result<()> {
        let mut is_kept = vec![false; self.active.features.len()];
        chosen.iter().for_each(|i| is_kept[*i] = true);
        let sources = self.active.features.len() + (self.linear.blocks.len() + 1) * self.linear.n;
        let some = (PART / ROW / sources.max(1) as u64).max(1) as usize;
        for part in features.chunks(some) {
            self.compute(part, progress)?;
            for i in part {
                if let Some(row) = &mut self.rows[*i] {
                    row.retain(|(source, _)| is_kept.get(*source as usize).is_none_or(|kept| *kept));
                    row.shrink_to_fit();
                }
            }
        }
        Ok(())
    }

    /// Influence of every feature by the rows that are there; others count as having no sources.
    fn influence(&self) -> Vec<f64> {
        let mut values = vec![0f64; self.active.features.len()];
        let pass = |row: &Row, through: f64, values: &mut Vec<f64>| {
            if through <= 0.0 {
                return;
            }
            let sum: f64 = row.iter().map(|(_, w)| f64::from(w.abs())).sum();
            let factor = through / sum.max(LEAST);
            for (source, w) in row {
                if let Some(value) = values.get_mut(*source as usize) {
                    *value += f64::from(w.abs()) * factor;
                }
            }
        };
        for (row, e) in self.logits.iter().zip(self.explained) {
            pass(row, e.weight, &mut values);
        }
        // Features come after all that they can reach.
        for (i, row) in self.rows.iter().enumerate().rev() {
            if let Some(row) = row {
                let through = values[i];
                pass(row, through, &mut values);
            }
        }
        values
    }

    /// What is known with these features as nodes, rising; `limited` says why they are not all.
    fn found(&self, selected: Vec<usize>, limited: Option<String>, progress: &Progress) -> Result<FeatureGraph> {
        let (linear, active) = (self.linear, self.active);
        let graph = self.graph(&selected, progress)?;
        let influence = Influence::looking(&graph, || progress.check())?;
        let scores = Scores::looking(&graph, &influence, || progress.check())?;
        Ok(FeatureGraph {
            selected,
            graph: Arc::new(graph),
            influence,
            scores,
            targets: self.explained.to_vec(),
            error_norms: active.error_norms.clone(),
            pos: linear.n - 1,
            n_layers: linear.blocks.len(),
            silent: self.silent,
            limited,
            labels: self.labels.clone(),
            dictionaries: active.dictionaries.clone(),
            warnings: active.warnings.clone(),
            features: active.features.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }

    /// The graph of the chosen features, all errors, tokens and logits.
    fn graph(&self, selected: &[usize], progress: &Progress) -> Result<Graph> {
        let (active, n) = (self.active, self.linear.n);
        let n_layers = self.linear.blocks.len();
        let all = active.features.len();
        let mut place = vec![u32::MAX; all + (n_layers + 1) * n];
        selected.iter().enumerate().for_each(|(new, old)| place[*old] = new as u32);
        (all..place.len()).enumerate().for_each(|(i, old)| place[old] = (selected.len() + i) as u32);
        let first_logit = selected.len() + (n_layers + 1) * n;
        let feature_rows = selected.iter().enumerate().filter_map(|(new, old)| Some((new, self.rows[*old].as_ref()?)));
        let logit_rows = self.logits.iter().enumerate().map(|(i, row)| (first_logit + i, row));
        let count: usize = self.logits.iter().chain(self.rows.iter().flatten()).map(Vec::len).sum();
        let mut links = Vec::with_capacity(if selected.len() == all { count } else { 0 });
        for (target, row) in feature_rows.chain(logit_rows) {
            progress.check()?;
            let kept = row.iter().filter(|(source, _)| place[*source as usize] != u32::MAX);
            links.extend(kept.map(|(source, w)| (place[*source as usize], target as u32, *w)));
        }
        let tokens = (0..n).map(|p| self.linear.trace.token_text(p)).collect();
        Graph::large(tokens, self.nodes(selected), &links, progress)
    }

    fn nodes(&self, selected: &[usize]) -> Vec<Node> {
        let (trace, n, explained, labels) = (self.linear.trace, self.linear.n, self.explained, self.labels);
        let n_layers = self.linear.blocks.len();
        let node = |id: String, kind, layer: usize, pos, label: String| Node {
            id,
            kind,
            layer: layer as i32,
            pos,
            label,
            prob: 0.0,
            activation: None,
        };
        let mut nodes = Vec::with_capacity(selected.len() + (n_layers + 1) * n + explained.len());
        for i in selected {
            let Feature { layer, pos, feature, activation } = self.active.features[*i];
            let id = format!("{layer}_{feature}_{pos}");
            let label = labels.get(&(layer, feature)).cloned().unwrap_or_else(|| format!("f{feature}"));
            let made = node(id, NodeKind::Component, layer, pos, label);
            nodes.push(Node { activation: Some(f64::from(activation)), ..made });
        }
        for layer in 0..n_layers {
            for pos in 0..n {
                nodes.push(node(format!("0_{layer}_{pos}"), NodeKind::Error, layer, pos, format!("error {layer}")));
            }
        }
        for pos in 0..n {
            let id = trace.ids[pos];
            let made = node(format!("E_{id}_{pos}"), NodeKind::Token, 0, pos, trace.token_text(pos));
            nodes.push(Node { layer: -1, ..made });
        }
        for e in explained {
            let id = format!("{}_{}_{}", n_layers + 1, e.id, n - 1);
            let made = node(id, NodeKind::Logit, n_layers + 1, n - 1, e.label.clone());
            nodes.push(Node { prob: e.weight, activation: e.logit.map(f64::from), ..made });
        }
        nodes
    }
}
