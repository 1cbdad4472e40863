//! How much of the output flows through each node, and how well an explanation by components covers it, as circuit-tracer
//! defines both.
//!
//! Let Â be the matrix of |weights| with every target's row divided by its sum: the shares in which a node's input comes
//! from its sources. Influence starts at the logits with their probabilities w and flows backwards along these shares
//! over paths of every length: w(Â + Â² + …).
//!
//! Two scores say how far to trust a graph, each from 0 to 1. The replacement score is the part of the influence arriving
//! at inputs that comes from tokens rather than errors. The completeness score is the share of nodes' inputs that does not
//! come from errors, weighted by what flows through each node.

use std::convert::Infallible;

use super::{Graph, NodeKind};

/// Below this a row's sum counts as this, as in circuit-tracer.
pub(super) const LEAST: f64 = 1e-10;

/// w(Â + Â² + …) of every node, with Â the row-normalised |A| and w the logits' probabilities.
#[derive(Clone, Debug)]
pub struct Influence {
    /// By node.
    pub values: Vec<f64>,
    /// What nodes hold that the graph was cut down by; 0 for a whole graph.
    pub rest: f64,
    /// What each node's incoming |weights| sum to.
    row_sums: Vec<f64>,
}

impl Influence {
    pub fn of(graph: &Graph) -> Self {
        let Ok(influence) = Self::looking(graph, || Ok::<_, Infallible>(()));
        influence
    }

    /// As [`Self::of`]; `look` is called at every node, and its error ends it.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn looking<E>(graph: &Graph, look: impl Fn() -> Result<(), E>) -> Result<Self, E> {
        let n = graph.nodes.len();
        let mut values = vec![0f64; n];
        let mut row_sums = vec![0f64; n];
        for target in graph.order() {
            look()?;
            let target = *target as usize;
            let links = graph.into_node(target);
            let sum: f64 = links.iter().map(|l| f64::from(l.weight.abs())).sum();
            row_sums[target] = sum;
            // What flows through the target, its own probability included.
            let through = (values[target] + graph.nodes[target].prob) / sum.max(LEAST);
            if through > 0.0 {
                for link in links {
                    values[link.source as usize] += f64::from(link.weight.abs()) * through;
                }
            }
        }
        Ok(Self { values, rest: 0.0, row_sums })
    }

    /// Of a graph that is part of a larger one in which influence was computed; shares of rows are not known.
    pub fn given(values: Vec<f64>, rest: f64) -> Self {
        let row_sums = vec![0.0; values.len()];
        Self { values, rest, row_sums }
    }

    /// The share of all influence that the nodes of this graph hold: below 1 where it was cut down.
    pub fn held(&self) -> f64 {
        let total = self.total();
        if total > 0.0 { 1.0 - self.rest / total } else { 1.0 }
    }

    /// Everybody's influence together.
    pub fn total(&self) -> f64 {
        self.values.iter().sum::<f64>() + self.rest
    }

    /// Â of a link with this weight into `target`.
    pub fn share(&self, target: usize, weight: f32) -> f64 {
        f64::from(weight.abs()) / self.row_sums[target].max(LEAST)
    }

    /// Influence and the node's own probability: what flows through it.
    pub fn through(&self, graph: &Graph, node: usize) -> f64 {
        self.values[node] + graph.nodes[node].prob
    }

    /// For each node the share of all influence that it and the more influential ones hold together: small
    /// is important.
    pub fn cumulative(&self) -> Vec<f64> {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by(|a, b| self.values[*b].total_cmp(&self.values[*a]));
        let total = order.iter().map(|i| self.values[*i]).sum::<f64>() + self.rest;
        let mut out = vec![0.0; order.len()];
        let mut sum = 0.0;
        for i in order {
            sum += self.values[i];
            out[i] = if total > 0.0 { sum / total } else { 1.0 };
        }
        out
    }
}

/// How well a graph's components explain the output, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Influence that comes from tokens, of that which comes from tokens or errors.
    pub replacement: f64,
    /// Share of the nodes' input that does not come from errors, weighted by what flows through each node.
    pub completeness: f64,
}

impl Scores {
    pub fn of(graph: &Graph, influence: &Influence) -> Self {
        let Ok(scores) = Self::looking(graph, influence, || Ok::<_, Infallible>(()));
        scores
    }

    /// As [`Self::of`]; `look` is called at every node, and its error ends it.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn looking<E>(graph: &Graph, influence: &Influence, look: impl Fn() -> Result<(), E>) -> Result<Self, E> {
        let total = |kind: NodeKind| -> f64 {
            graph.nodes.iter().zip(&influence.values).filter(|(n, _)| n.kind == kind).map(|(_, v)| v).sum()
        };
        let (tokens, errors) = (total(NodeKind::Token), total(NodeKind::Error));
        let (mut explained, mut all) = (0.0, 0.0);
        for target in 0..graph.nodes.len() {
            look()?;
            let errors: f64 = graph
                .into_node(target)
                .iter()
                .filter(|l| graph.nodes[l.source as usize].kind == NodeKind::Error)
                .map(|l| influence.share(target, l.weight))
                .sum();
            let through = influence.through(graph, target);
            explained += (1.0 - errors) * through;
            all += through;
        }
        Ok(Self { replacement: tokens / (tokens + errors), completeness: explained / all })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::graph;
    use super::*;
    use NodeKind::{Component, Error, Logit, Token};

    /// Two components, an error, a token, a logit of probability 0.5:
    /// token →(3) c0, error →(−1) c0, token →(2) c1, c0 →(2) c1, c0 →(1) logit, c1 →(−3) logit.
    fn small() -> Graph {
        let links = [(3, 0, 3.0), (2, 0, -1.0), (3, 1, 2.0), (0, 1, 2.0), (0, 4, 1.0), (1, 4, -3.0)];
        graph(&[Component, Component, Error, Token, Logit], &[0.5], &links).unwrap()
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn influence_by_hand() {
        let i = Influence::of(&small());
        // logit: c0 1/4, c1 3/4 of 0.5. c1 passes on half to c0, half to the token.
        near(i.values[1], 0.375);
        near(i.values[0], 0.125 + 0.1875);
        // c0 passes 1/4 to the error, 3/4 to the token.
        near(i.values[2], 0.3125 / 4.0);
        near(i.values[3], 0.1875 + 0.3125 * 0.75);
        near(i.values[4], 0.0);
    }

    #[test]
    fn scores_by_hand() {
        let g = small();
        let s = Scores::of(&g, &Influence::of(&g));
        // token 0.421875, error 0.078125
        near(s.replacement, 0.421875 / 0.5);
        // Through: c0 0.3125 (a quarter of its input an error), c1 0.375, error 0.078125, token 0.421875,
        // logit 0.5; in all 1.6875.
        near(s.completeness, (1.6875 - 0.3125 * 0.25) / 1.6875);
    }

    #[test]
    fn cumulative_shares_count_from_the_top() {
        let c = Influence::of(&small()).cumulative();
        // In all 1.1875: token 0.421875, c1 0.375, c0 0.3125, error 0.078125, logit 0.
        near(c[3], 0.421875 / 1.1875);
        near(c[1], 0.796875 / 1.1875);
        near(c[0], 1.109375 / 1.1875);
        near(c[2], 1.0);
        near(c[4], 1.0);
    }
}
