//! Where a pruned graph's nodes stand when it is drawn: tokens from left to right, layers from bottom to top.
//! Coordinates are in cells: x grows to the right over positions, y grows upwards over layers.

use std::sync::Arc;

use super::components::{Part, Traced};
use super::file::GraphFile;
use super::influence::Scores;
use super::{Graph, Influence, NodeKind, prune};
use crate::engine::Trace;
use crate::error::Result;

/// A graph to be looked at: with its influence in the whole of which it may be a part.
pub struct Shown {
    pub title: String,
    pub graph: Arc<Graph>,
    pub influence: Influence,
    pub scores: Scores,
    /// What was left out or guessed when it was opened.
    pub remarks: Vec<String>,
    pub source: Origin,
}

/// Where a graph came from.
pub enum Origin {
    Traced { trace: Arc<Trace>, found: Box<Traced> },
    File(Box<GraphFile>),
}

impl Shown {
    /// What the components of a traced graph are in the model, by id; `None` for others' graphs.
    pub fn part(&self, id: &str) -> Option<Part> {
        let Origin::Traced { found, .. } = &self.source else { return None };
        let at = self.graph.nodes.iter().position(|n| n.id == id)?;
        found.parts.get(at).copied()
    }

    /// The pruned graph as a file.
    ///
    /// # Errors
    /// Thresholds outside 0..=1.
    pub fn file(&self, thresholds: (f64, f64)) -> Result<GraphFile> {
        let kept = prune(&self.graph, &self.influence, thresholds.0, thresholds.1)?;
        match &self.source {
            Origin::Traced { trace, found } => found.pruned_file(trace, &kept, thresholds),
            Origin::File(file) => file.pruned(&self.influence, &kept, thresholds),
        }
    }
}

/// A pruned graph laid out.
pub struct Drawing {
    pub graph: Graph,
    /// By node of [`Self::graph`]: its influence, and its cumulative share.
    pub influence: Vec<f64>,
    pub cumulative: Vec<f64>,
    /// By node: (x, y).
    pub places: Vec<(f32, f32)>,
    /// By position: left and right edge of its column.
    pub columns: Vec<(f32, f32)>,
    /// Height of the drawing in layers: tokens at 0, logits at the top.
    pub height: f32,
    /// Nodes and links before pruning.
    pub whole: (usize, usize),
}

impl Drawing {
    /// Prunes and lays out.
    ///
    /// # Errors
    /// Thresholds outside 0..=1.
    pub fn of(shown: &Shown, thresholds: (f64, f64)) -> Result<Self> {
        let kept = prune(&shown.graph, &shown.influence, thresholds.0, thresholds.1)?;
        let (graph, old) = shown.graph.pruned(&kept)?;
        let all = shown.influence.cumulative();
        let positions = graph.nodes.iter().map(|n| n.pos + 1).max().unwrap_or(0).max(graph.prompt_tokens.len());
        let top = graph.nodes.iter().filter(|n| n.kind != NodeKind::Logit).map(|n| n.layer).max().unwrap_or(0).max(0);
        // Heads stand on their layer's line, what comes after attention half a line above.
        let level = |i: usize| -> f32 {
            let n = &graph.nodes[i];
            match n.kind {
                NodeKind::Token => 0.0,
                NodeKind::Logit => top as f32 + 2.5,
                NodeKind::Error => n.layer as f32 + 1.5,
                NodeKind::Component if n.label.starts_with('m') && n.label[1..].parse::<u32>().is_ok() => {
                    n.layer as f32 + 1.5
                }
                NodeKind::Component => n.layer as f32 + 1.0,
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
        let mut width = vec![1usize; positions];
        for row in order.chunk_by(|a, b| cell(*a) == cell(*b)) {
            let pos = graph.nodes[row[0]].pos;
            width[pos] = width[pos].max(row.len());
        }
        let mut columns = Vec::with_capacity(positions);
        let mut x = 0.0;
        for w in width {
            // A crowded cell is packed more closely.
            let w = (w as f32).powf(0.8) + 0.5;
            columns.push((x, x + w));
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
            influence: old.iter().map(|i| shown.influence.values[*i]).collect(),
            cumulative: old.iter().map(|i| all[*i]).collect(),
            places,
            columns,
            height: top as f32 + 3.0,
            whole: (shown.graph.nodes.len(), shown.graph.links.len()),
            graph,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::graph;
    use super::*;
    use NodeKind::{Component, Logit, Token};

    #[test]
    fn everything_stands_inside_its_column() {
        let mut g = graph(
            &[Component, Component, Token, Logit],
            &[1.0],
            &[(2, 0, 1.0), (2, 1, 0.5), (0, 1, 2.0), (0, 3, 0.1), (1, 3, -3.0)],
        )
        .unwrap();
        for (i, layer) in [(0, 0), (1, 1), (2, -1), (3, 2)] {
            g.nodes[i].layer = layer;
        }
        let influence = Influence::of(&g);
        let scores = Scores::of(&g, &influence);
        let file = GraphFile::new(serde_json::Map::new(), Vec::new(), g.clone());
        let source = Origin::File(Box::new(file));
        let shown = Shown { title: String::new(), graph: Arc::new(g), influence, scores, remarks: Vec::new(), source };
        let d = Drawing::of(&shown, (1.0, 1.0)).unwrap();
        assert_eq!(d.graph.nodes.len(), 4);
        for (x, y) in &d.places {
            assert!(*x > d.columns[0].0 && *x < d.columns[0].1 && *y >= 0.0 && *y <= d.height);
        }
    }
}
