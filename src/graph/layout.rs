//! Graphs to be looked at: where they come from, how much of them is drawn, and where it stands.
//!
//! Tokens go from left to right and layers from bottom to top, as the model computes. Coordinates are in cells: x grows to
//! the right over positions, y grows upwards over layers. A position's column is as wide as its fullest layer needs.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use super::components::{Keep, Traced, trace_prediction};
use super::features::audit::{Audit, LINKS, audit, direction_of};
use super::features::intervene::Stage;
use super::features::opened::opened;
use super::features::{self, FeatureGraph};
use super::file::GraphFile;
use super::influence::Scores;
use super::marks::Marks;
use super::neurons::Opened;
use super::part::{Part, mlp_id};
use super::readers::Attention;
use super::targets::Target;
use super::{Graph, Influence, NodeKind, prune};
use crate::analysis::component::Component;
use crate::analysis::plan::{Planned, cost};
use crate::circuit::Member;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// A graph to be looked at: with its influence in the whole of which it may be a part.
pub struct Shown {
    pub title: String,
    pub graph: Arc<Graph>,
    pub influence: Influence,
    pub scores: Scores,
    /// What was left out or guessed when it was opened.
    pub remarks: Vec<String>,
    /// What a file says of its nodes.
    pub marks: Marks,
    /// The audit that a file carries.
    pub audit: Option<Arc<Audit>>,
    pub source: Origin,
}

/// Where a graph came from.
pub enum Origin {
    Traced {
        trace: Arc<Trace>,
        found: Box<Traced>,
    },
    /// To the features of a set.
    Features {
        trace: Arc<Trace>,
        found: Arc<FeatureGraph>,
        set: Arc<DictionarySet>,
    },
    File(Box<GraphFile>),
}

/// How much of a graph is drawn.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Cut {
    /// Shares of the influence that nodes and links hold; `None` for as many as can be read.
    pub thresholds: Option<(f64, f64)>,
    /// Ids of the MLPs that are taken apart.
    pub opened: BTreeSet<String>,
}

/// Nodes that can be read at a glance, besides tokens, logits and what stands at the first position.
const READABLE: usize = 40;
/// Share of the influence of the links between them.
const READABLE_LINKS: f64 = 0.9;

impl Cut {
    /// Returns the shares of the influence that the nodes and links of a graph hold at this cut.
    fn shares(&self, shown: &Shown) -> (f64, f64) {
        self.thresholds.unwrap_or_else(|| {
            let nodes = &shown.graph.nodes;
            let counts =
                |i: &usize| matches!(nodes[*i].kind, NodeKind::Component | NodeKind::Error) && nodes[*i].pos > 0;
            let mut shares = shown.influence.cumulative();
            shares = (0..nodes.len()).filter(counts).map(|i| shares[i]).collect();
            shares.sort_by(f64::total_cmp);
            (shares.get(READABLE - 1).copied().unwrap_or(1.0).min(1.0), READABLE_LINKS)
        })
    }
}

pub use super::components::NEURONS;

crate::identity!(Shown);
crate::identity!(Drawing);

impl Shown {
    /// A prediction that was traced.
    pub fn traced(trace: Arc<Trace>, found: Traced) -> Self {
        Self {
            title: format!("prediction after {:?} ({})", trace.token_text(found.pos), found.pos),
            influence: found.influence.clone(),
            scores: found.scores,
            remarks: Vec::new(),
            marks: Marks::default(),
            audit: None,
            graph: found.graph.clone(),
            source: Origin::Traced { trace, found: Box::new(found) },
        }
    }

    /// A prediction that was traced to features.
    pub fn features(trace: Arc<Trace>, found: FeatureGraph, set: Arc<DictionarySet>) -> Self {
        Self {
            title: format!("prediction after {:?} ({})", trace.token_text(found.pos), found.pos),
            influence: found.influence.clone(),
            scores: found.scores,
            remarks: found.warnings.iter().chain(&found.limited).cloned().collect(),
            marks: Marks::default(),
            audit: None,
            graph: found.graph.clone(),
            source: Origin::Features { trace, found: Arc::new(found), set },
        }
    }

    /// What a node's own number is: how much it contributes to what is explained, in logits, or how active a feature is.
    pub fn value_name(&self) -> &'static str {
        match self.source {
            Origin::Traced { .. } => "contribution",
            Origin::Features { .. } | Origin::File(_) => "activation",
        }
    }

    /// What names and groups of its nodes belong to: they say nothing of another graph's. `file` is where a graph of a file
    /// lies.
    pub fn key(&self, file: Option<&str>) -> String {
        match &self.source {
            // Nodes are the same whatever is asked of this prediction.
            Origin::Traced { trace, found } => format!("{:?}", &trace.ids[..=found.pos.min(trace.len() - 1)]),
            Origin::Features { trace, found, set } => {
                format!("{} {:?}", set.spec, &trace.ids[..=found.pos.min(trace.len() - 1)])
            }
            Origin::File(_) => file.unwrap_or_default().to_owned(),
        }
    }

    /// The graph of a file.
    pub fn opened(file: GraphFile) -> Self {
        let influence = Influence::of(&file.graph);
        Self {
            title: file.title(),
            scores: Scores::of(&file.graph, &influence),
            influence,
            remarks: file.remarks.clone(),
            marks: Marks::of(&file),
            audit: Audit::in_file(&file).map(Arc::new),
            graph: Arc::new(file.graph.clone()),
            source: Origin::File(Box::new(file)),
        }
    }

    /// What is kept at a cut: its graph, what its nodes are (of a traced graph), and their influence.
    fn kept(&self, cut: &Cut, progress: &Progress) -> Result<(Opened, bool)> {
        let shares = cut.shares(self);
        let pruned = prune(&self.graph, &self.influence, shares.0, shares.1)?;
        if let Origin::Traced { trace, found } = &self.source {
            let opens = |part: &Part| match *part {
                Part::Mlp { layer, pos } => cut.opened.contains(&mlp_id(&trace.model.config, layer, pos)),
                _ => false,
            };
            return Ok((found.opened(trace, &pruned, opens, NEURONS, progress)?, true));
        }
        let (graph, old) = self.graph.pruned(&pruned)?;
        let all = self.influence.cumulative();
        Ok((
            Opened {
                graph,
                parts: Vec::new(),
                influence: old.iter().map(|i| self.influence.values[*i]).collect(),
                cumulative: old.iter().map(|i| all[*i]).collect(),
            },
            false,
        ))
    }

    /// The graph as it is cut, as a file.
    ///
    /// # Errors
    /// Thresholds outside 0..=1.
    pub fn file(&self, cut: &Cut) -> Result<GraphFile> {
        let shares = cut.shares(self);
        match &self.source {
            Origin::Traced { trace, found } => Ok(found.file(trace, &self.kept(cut, &Progress::new())?.0, shares)),
            Origin::Features { trace, found, set } => {
                let kept = prune(&self.graph, &self.influence, shares.0, shares.1)?;
                found.file(trace, set, &kept, shares)
            }
            Origin::File(file) => {
                let kept = prune(&self.graph, &self.influence, shares.0, shares.1)?;
                file.pruned(&self.influence, &kept, shares)
            }
        }
    }
}

/// Width of a position where nothing stands, and of several such positions together.
const EMPTY: f32 = 0.35;
const FOLDED: f32 = 1.0;

/// A pruned graph laid out.
pub struct Drawing {
    pub graph: Graph,
    /// By node what it is in the model; empty for others' graphs.
    pub parts: Vec<Part>,
    /// (layer, position) of the MLPs that are taken apart.
    opened: BTreeSet<(usize, usize)>,
    /// By node of [`Self::graph`]: its influence, and its cumulative share.
    pub influence: Vec<f64>,
    pub cumulative: Vec<f64>,
    /// (source, target, weight) and the link's place in the graph, strongest first: so that whoever draws need not sort.
    pub strongest: Vec<(u32, u32, f32, u32)>,
    /// By node: (x, y).
    pub places: Vec<(f32, f32)>,
    /// By position: left and right edge of its column. Neighbours where nothing stands share one.
    pub columns: Vec<(f32, f32)>,
    /// Those neighbours: at each of these positions stands no more than a token of which no link is drawn.
    pub folds: Vec<Range<usize>>,
    /// Height of the drawing in layers: tokens at 0, logits at the top.
    pub height: f32,
    /// Nodes and links before pruning.
    pub whole: (usize, usize),
    /// Shares of the influence that nodes and links hold.
    pub thresholds: (f64, f64),
}

impl Drawing {
    /// What a node is in the model, if it is of this program's making.
    pub fn part(&self, node: usize) -> Option<Part> {
        self.parts.get(node).copied()
    }

    /// Whether an MLP is taken apart.
    pub fn is_opened(&self, layer: usize, pos: usize) -> bool {
        self.opened.contains(&(layer, pos))
    }

    /// Prunes and lays out.
    ///
    /// # Errors
    /// Thresholds outside 0..=1, or [`crate::Error::Cancelled`].
    pub fn of(shown: &Shown, cut: &Cut, progress: &Progress) -> Result<Self> {
        let (Opened { graph, parts, influence, cumulative }, traced) = shown.kept(cut, progress)?;
        let link = |(at, (s, t, w)): (usize, (usize, usize, f32))| (s as u32, t as u32, w, at as u32);
        let mut strongest: Vec<(u32, u32, f32, u32)> = graph.triples().enumerate().map(link).collect();
        strongest.par_sort_unstable_by(|a, b| b.2.abs().total_cmp(&a.2.abs()).then((a.0, a.1).cmp(&(b.0, b.1))));
        progress.check()?;
        let positions = graph.nodes.iter().map(|n| n.pos + 1).max().unwrap_or(0).max(graph.prompt_tokens.len());
        let top = graph.nodes.iter().filter(|n| n.kind != NodeKind::Logit).map(|n| n.layer).max().unwrap_or(0).max(0);
        // Heads stand on their layer's line, what comes after attention half a line above.
        let level = |i: usize| -> f32 {
            let n = &graph.nodes[i];
            match n.kind {
                NodeKind::Token => 0.0,
                NodeKind::Logit => top as f32 + 2.5,
                NodeKind::Error => n.layer as f32 + 1.5,
                // In files this program's own nodes are known by their names.
                NodeKind::Component if !traced => {
                    let mlp = match Member::parse(n.label.trim_end_matches(" others")) {
                        Some(member) => matches!(member.component(), Component::Mlp { .. }),
                        None => false,
                    };
                    n.layer as f32 + if mlp { 1.5 } else { 1.0 }
                }
                NodeKind::Component => match parts[i] {
                    Part::Mlp { .. } | Part::Neuron { .. } => n.layer as f32 + 1.5,
                    _ => n.layer as f32 + 1.0,
                },
            }
        };
        let mut order: Vec<usize> = (0..graph.nodes.len()).collect();
        let key = |i: usize| {
            (
                (level(i) * 2.0) as i64,
                graph.nodes[i].pos,
                graph.nodes[i].kind,
                graph.nodes[i].id.len(),
                graph.nodes[i].id.clone(),
            )
        };
        order.sort_by_cached_key(|i| key(*i));
        // A column is as wide as its fullest cell.
        let cell = |i: usize| ((level(i) * 2.0) as i64, graph.nodes[i].pos);
        let mut width = vec![0usize; positions];
        for row in order.chunk_by(|a, b| cell(*a) == cell(*b)) {
            let pos = graph.nodes[row[0]].pos;
            width[pos] = width[pos].max(row.len());
        }
        for pos in unlinked(&graph, positions) {
            width[pos] = 0;
        }
        let mut columns = Vec::with_capacity(positions);
        let (mut folds, mut x) = (Vec::new(), 0.0);
        for run in width.chunk_by(|a, b| *a == 0 && *b == 0) {
            let from = columns.len();
            let w = match run {
                [0] => EMPTY,
                // A crowded cell is packed more closely.
                [w] => (*w as f32).powf(0.8) + 0.5,
                _ => {
                    folds.push(from..from + run.len());
                    FOLDED
                }
            };
            columns.extend(run.iter().map(|_| (x, x + w)));
            x += w;
        }
        let mut places = vec![(0.0, 0.0); graph.nodes.len()];
        for row in order.chunk_by(|a, b| cell(*a) == cell(*b)) {
            let (left, right) = columns[graph.nodes[row[0]].pos];
            for (i, node) in row.iter().enumerate() {
                let share = (i as f32 + 0.5) / row.len() as f32;
                places[*node] = (left + 0.15 + share * (right - left - 0.3), level(*node));
            }
        }
        Ok(Self {
            influence,
            cumulative,
            opened: parts
                .iter()
                .filter_map(|p| match *p {
                    Part::Neuron { layer, pos, .. } => Some((layer, pos)),
                    _ => None,
                })
                .collect(),
            parts,
            strongest,
            places,
            columns,
            folds,
            height: top as f32 + 3.0,
            whole: (shown.graph.nodes.len(), shown.graph.links.len()),
            thresholds: cut.shares(shown),
            graph,
        })
    }
}

/// The positions at which there is nothing, or a token that nothing leads from.
fn unlinked(graph: &Graph, positions: usize) -> Vec<usize> {
    let mut empty = vec![true; positions];
    let mut leads = vec![false; graph.nodes.len()];
    graph.triples().for_each(|(source, ..)| leads[source] = true);
    for (node, leads) in graph.nodes.iter().zip(leads) {
        empty[node.pos] &= node.kind == NodeKind::Token && !leads;
    }
    (0..positions).filter(|pos| empty[*pos]).collect()
}

/// Asks for the attribution graph of the prediction after a position.
#[derive(Clone, PartialEq)]
pub struct GraphOf {
    pub trace: Arc<Trace>,
    pub pos: usize,
    pub target: Target,
    pub attention: Attention,
}

impl Question for GraphOf {
    type Answer = Shown;
    const LABEL: &'static str = "attribution graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Shown)) -> Result<Shown> {
        let keep = Keep::default();
        let found = trace_prediction(&self.trace, self.pos, self.target, self.attention, keep, progress)?;
        Ok(Shown::traced(self.trace.clone(), found))
    }
}

/// Asks for the attribution graph of a prediction on the features of a set.
#[derive(Clone, PartialEq)]
pub struct FeatureGraphOf {
    pub trace: Arc<Trace>,
    pub pos: usize,
    pub target: features::Target,
    pub set: Arc<DictionarySet>,
    /// First positions whose features and errors are left out.
    pub silent: usize,
    /// Features at most, the most influential ones; `None` for all where they fit.
    pub most: Option<usize>,
}

impl Question for FeatureGraphOf {
    type Answer = Shown;
    const LABEL: &'static str = "attribution graph on features";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Shown)) -> Result<Shown> {
        let Self { trace, pos, target, set, silent, most } = self;
        let settings = features::Settings { silent: *silent, most: *most, ..features::Settings::default() };
        let shown = |found| Shown::features(trace.clone(), found, set.clone());
        let found = features::trace_in_parts(trace, set, *pos, target, &settings, progress, &mut |found| {
            partial(shown(found));
        })?;
        Ok(shown(found))
    }
}

/// Asks for the graph of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFileOf {
    pub path: PathBuf,
}

impl Question for GraphFileOf {
    type Answer = Shown;
    const LABEL: &'static str = "opening a graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Shown)) -> Result<Shown> {
        GraphFile::open(&self.path).map(Shown::opened)
    }
}

/// Asks for a graph, traced or of a file.
#[derive(Clone, PartialEq)]
pub enum ShownOf {
    Traced(GraphOf),
    Features(FeatureGraphOf),
    File(GraphFileOf),
}

impl Question for ShownOf {
    type Answer = Shown;
    const LABEL: &'static str = GraphOf::LABEL;
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Shown)) -> Result<Shown> {
        match self {
            Self::Traced(question) => question.run(progress, partial),
            Self::Features(question) => question.run(progress, partial),
            Self::File(question) => question.run(progress, partial),
        }
    }
}

/// Asks for a graph pruned and laid out.
#[derive(Clone, PartialEq)]
pub struct DrawingOf {
    pub shown: Arc<Shown>,
    pub cut: Cut,
}

impl Question for DrawingOf {
    type Answer = Drawing;
    const LABEL: &'static str = "pruning the graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Drawing)) -> Result<Drawing> {
        Drawing::of(&self.shown, &self.cut, progress)
    }
}

/// Asks what really happens where the strongest drawn links between features predict something.
#[derive(Clone, PartialEq)]
pub struct AuditOf {
    pub shown: Arc<Shown>,
    pub drawing: Arc<Drawing>,
    /// Ids of the nodes whose links count, where some are marked; otherwise all do.
    pub among: BTreeSet<String>,
    /// For a graph of a file the run and the set that it is of.
    pub of_file: Option<(Arc<Trace>, Arc<DictionarySet>)>,
}

impl Question for AuditOf {
    type Answer = Audit;
    const LABEL: &'static str = "putting links to the test";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Audit)) -> Result<Audit> {
        let (trace, set, silent) = match (&self.shown.source, &self.of_file) {
            (Origin::Features { trace, found, set }, _) => (trace, set, found.silent),
            (Origin::File(file), Some((trace, set))) => (trace, set, file.silent()),
            (Origin::Traced { .. }, _) => {
                return Err(Error::request("links between features are put to the test; this graph is on components"));
            }
            (Origin::File(_), None) => {
                return Err(Error::request(
                    "the set that a graph of a file names, or the run of its prompt, is not here; trace it here, or use \
                     `circuitscope graph audit`",
                ));
            }
        };
        // Every source of a link is changed in three modes.
        let links = LINKS.min(self.drawing.graph.links.len());
        progress.needs(|| cost(&trace.model, trace.len(), Planned::Run).times(3 * links))?;
        let stage = Stage::of(trace, set, silent, progress)?;
        // Links that are drawn are tested, but predictions go along all paths of the whole graph.
        let (graph, part) = (&self.shown.graph, &self.drawing.graph);
        let (ids, part_ids) = (graph.own_ids(), part.own_ids());
        let drawn: HashSet<(&str, &str)> =
            part.triples().map(|(s, t, _)| (part_ids[s].as_ref(), part_ids[t].as_ref())).collect();
        let counts = |node: usize| self.among.is_empty() || self.among.contains(ids[node].as_ref());
        let chosen = |s: usize, t: usize| drawn.contains(&(&ids[s], &ids[t])) && counts(s) && counts(t);
        let explained = |node: usize| match &self.shown.source {
            Origin::Features { found, .. } => Ok(found.direction(node)),
            Origin::File(file) => direction_of(file, trace, node),
            Origin::Traced { .. } => Ok(None),
        };
        audit(graph, trace, &stage, LINKS, chosen, explained, progress)
    }
}

/// Asks for a graph of a file as one of the run and the set that are here.
#[derive(Clone, PartialEq)]
pub struct OpenedOf {
    pub shown: Arc<Shown>,
    pub trace: Arc<Trace>,
    pub set: Arc<DictionarySet>,
}

impl Question for OpenedOf {
    type Answer = FeatureGraph;
    const LABEL: &'static str = "comparing the file with the run";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(FeatureGraph)) -> Result<FeatureGraph> {
        match &self.shown.source {
            Origin::File(file) => opened(file, &self.trace, &self.set, progress),
            Origin::Features { .. } | Origin::Traced { .. } => Err(Error::failed("the graph is of no file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::graph;
    use super::*;
    use NodeKind::{Component, Logit, Token};

    fn drawn(mut g: Graph, layers: &[i32]) -> Drawing {
        for (node, layer) in g.nodes.iter_mut().zip(layers) {
            node.layer = *layer;
        }
        let influence = Influence::of(&g);
        let scores = Scores::of(&g, &influence);
        let file = GraphFile::new(serde_json::Map::new(), Vec::new(), g.clone());
        let source = Origin::File(Box::new(file));
        let (graph, remarks, marks) = (Arc::new(g), Vec::new(), Marks::default());
        let shown = Shown { title: String::new(), graph, influence, scores, remarks, marks, audit: None, source };
        let cut = Cut { thresholds: Some((1.0, 1.0)), opened: BTreeSet::new() };
        Drawing::of(&shown, &cut, &Progress::new()).unwrap()
    }

    #[test]
    fn everything_stands_inside_its_column() {
        let g = graph(
            &[Component, Component, Token, Logit],
            &[1.0],
            &[(2, 0, 1.0), (2, 1, 0.5), (0, 1, 2.0), (0, 3, 0.1), (1, 3, -3.0)],
        )
        .unwrap();
        let d = drawn(g, &[0, 1, -1, 2]);
        assert_eq!(d.graph.nodes.len(), 4);
        for (x, y) in &d.places {
            assert!(*x > d.columns[0].0 && *x < d.columns[0].1 && *y >= 0.0 && *y <= d.height);
        }
    }

    /// Tokens at 0, 1 and 2 of which only the first leads anywhere, then a position with a component.
    #[test]
    fn positions_where_nothing_stands_are_one_narrow_column() {
        let mut g = graph(&[Component, Token, Token, Token, Logit], &[1.0], &[(1, 0, 1.0), (0, 4, 2.0)]).unwrap();
        for (i, pos) in [(0, 3), (1, 0), (2, 1), (3, 2), (4, 3)] {
            g.nodes[i].pos = pos;
        }
        let d = drawn(g, &[0, -1, -1, -1, 2]);
        assert_eq!(d.folds, vec![1..3]);
        assert_eq!(d.columns, [(0.0, 1.5), (1.5, 2.5), (1.5, 2.5), (2.5, 4.0)]);
    }
}
