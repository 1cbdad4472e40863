//! Attribution graphs ["Circuit Tracing", Ameisen et al. 2025]: what led to one prediction, token by token.
//!
//! A circuit ([`crate::circuit`]) says which components matter to a task; an attribution graph says how one prediction came
//! about. Its nodes are tokens, components at a position, and logits; a link's weight is the linear effect of the source
//! on the target, so that the links into a node add up to what the node does. Links lead from tokens to logits only.
//!
//! Graphs are made here by [`components`] on the model's own heads and MLPs, or read by [`file`] from tools that use features
//! of cross-layer transcoders. Both are cut down by [`influence`] and [`prune`] and laid out by [`layout`].
//!
//! The adjacency matrix has targets as rows and sources as columns, as in circuit-tracer; it is kept sparse, by target.

pub mod components;
pub mod export;
pub mod features;
pub mod file;
pub mod group;
pub mod grouping;
pub mod influence;
pub mod layout;
pub mod marks;
pub mod neurons;
pub mod part;
pub mod prune;
pub mod readers;
mod sources;
pub mod targets;

/// Through which of a head's inputs a link enters it.
pub use crate::analysis::component::Part as Input;
pub use influence::Influence;
pub use prune::{Pruned, prune};

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// First positions whose features and errors are left out by default: what models keep there is unlike all else.
pub const SILENT: usize = 1;

/// What a node is to influence, pruning and scores. The order is that of circuit-tracer's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeKind {
    /// A feature, a neuron, or a component (head, MLP).
    Component,
    /// What the linear account of a layer leaves out at a position.
    Error,
    Token,
    Logit,
}

impl NodeKind {
    pub const ALL: [Self; 4] = [Self::Component, Self::Error, Self::Token, Self::Logit];

    pub fn label(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Error => "error",
            Self::Token => "token",
            Self::Logit => "logit",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its id in files.
    pub id: String,
    pub kind: NodeKind,
    /// Where it stands in the drawing: −1 for tokens, `n_layers` and more for logits.
    pub layer: i32,
    pub pos: usize,
    /// What people call it: `a23.h3`, a feature's description, a token.
    pub label: String,
    /// Probability of a logit, the weight with which influence starts; 0 for other nodes.
    pub prob: f64,
    /// The value that the file or the trace gives the node.
    pub activation: Option<f64>,
}

/// A directed acyclic graph, its links sorted by target.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub prompt_tokens: Vec<String>,
    pub nodes: Vec<Node>,
    /// `links[start[t]..start[t + 1]]` end in node t.
    start: Vec<usize>,
    pub links: Vec<Link>,
    /// By link through which input of a head it enters, the head's value for what is no head's; empty where attention
    /// was held still, so that there are no others.
    inputs: Vec<Input>,
    /// Nodes such that every link's target stands before its source.
    order: Vec<u32>,
    /// Where in `order` each level ends: no two nodes of a level are on one path.
    levels: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    pub source: u32,
    pub weight: f32,
}

/// Links while a graph is made: (source, target, weight), and by link the input through which it enters, or no inputs at
/// all.
type LinkList = (Vec<(u32, u32, f32)>, Vec<Input>);

/// Links that are gone through between two looks at whether somebody still waits.
const LOOK_EVERY: usize = 1 << 18;

impl Graph {
    /// Ids by node that tell all nodes apart. In files of other tools an error's id can also be that of a feature of layer 0.
    pub fn own_ids(&self) -> Vec<Cow<'_, str>> {
        let features: HashSet<&str> =
            self.nodes.iter().filter(|n| n.kind != NodeKind::Error).map(|n| n.id.as_str()).collect();
        let own = |n: &'_ Node| n.kind != NodeKind::Error || !features.contains(n.id.as_str());
        self.nodes.iter().map(|n| if own(n) { Cow::from(&n.id) } else { format!("error:{}", n.id).into() }).collect()
    }

    /// A graph from (source, target, weight) triples, which may come in any order.
    ///
    /// # Errors
    /// A cycle, more than 2³² nodes, or a link to a node that is not there.
    pub fn new(prompt_tokens: Vec<String>, nodes: Vec<Node>, links: &[(u32, u32, f32)]) -> Result<Self> {
        Self::with_inputs(prompt_tokens, nodes, links, &[])
    }

    /// As [`Self::new`], for so many links that somebody may not want to wait for them.
    ///
    /// # Errors
    /// As [`Self::new`], and [`Error::Cancelled`].
    pub fn large(
        prompt_tokens: Vec<String>,
        nodes: Vec<Node>,
        links: &[(u32, u32, f32)],
        progress: &Progress,
    ) -> Result<Self> {
        Self::made(prompt_tokens, nodes, links, &[], &|| progress.check())
    }

    /// As [`Self::new`], with the input through which each link enters; none at all where that is not known.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_inputs(
        prompt_tokens: Vec<String>,
        nodes: Vec<Node>,
        links: &[(u32, u32, f32)],
        inputs: &[Input],
    ) -> Result<Self> {
        Self::made(prompt_tokens, nodes, links, inputs, &|| Ok(()))
    }

    fn made(
        prompt_tokens: Vec<String>,
        nodes: Vec<Node>,
        links: &[(u32, u32, f32)],
        inputs: &[Input],
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let n = nodes.len();
        if u32::try_from(n).is_err() {
            return Err(Error::failed(format!("a graph of {n} nodes is too large")));
        }
        let mut start = vec![0usize; n + 1];
        for some in links.chunks(LOOK_EVERY) {
            check()?;
            if some.iter().any(|(s, t, _)| *s as usize >= n || *t as usize >= n) {
                return Err(Error::failed("a link names a node that the graph does not have"));
            }
            some.iter().for_each(|(_, target, _)| start[*target as usize + 1] += 1);
        }
        for i in 0..n {
            start[i + 1] += start[i];
        }
        let mut next = start.clone();
        let mut sorted = vec![Link { source: 0, weight: 0.0 }; links.len()];
        let mut sorted_inputs = vec![Input::Value; inputs.len()];
        for (i, (source, target, weight)) in links.iter().enumerate() {
            if i % LOOK_EVERY == 0 {
                check()?;
            }
            let at = &mut next[*target as usize];
            sorted[*at] = Link { source: *source, weight: *weight };
            if let (Some(slot), Some(input)) = (sorted_inputs.get_mut(*at), inputs.get(i)) {
                *slot = *input;
            }
            *at += 1;
        }
        let mut graph = Self {
            prompt_tokens,
            nodes,
            start,
            links: sorted,
            inputs: sorted_inputs,
            order: Vec::new(),
            levels: Vec::new(),
        };
        (graph.order, graph.levels) = graph.topological(check)?;
        Ok(graph)
    }

    /// The links that end in a node.
    pub fn into_node(&self, target: usize) -> &[Link] {
        &self.links[self.range(target)]
    }

    /// Indices into [`Self::links`] of those that end in a node.
    pub fn range(&self, target: usize) -> std::ops::Range<usize> {
        self.start[target]..self.start[target + 1]
    }

    /// Through which input of its target a link enters; the value's where attention was held still.
    pub fn input(&self, link: usize) -> Input {
        self.inputs.get(link).copied().unwrap_or(Input::Value)
    }

    /// Whether links enter through queries and keys as well.
    pub fn follows_attention(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// Nodes from the logits down: every link's target before its source.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The same in levels, which do not depend on those behind them.
    pub fn levels(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.levels.iter().copied());
        starts.zip(&self.levels).map(|(start, end)| &self.order[start..*end])
    }

    /// (source, target, weight) of all links, by target.
    pub fn triples(&self) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        (0..self.nodes.len()).flat_map(|t| self.into_node(t).iter().map(move |l| (l.source as usize, t, l.weight)))
    }

    pub fn count(&self, kind: NodeKind) -> usize {
        self.nodes.iter().filter(|n| n.kind == kind).count()
    }

    /// What pruning keeps, and which node of this graph each of its nodes was.
    ///
    /// # Errors
    /// Never for a result of pruning this graph.
    pub fn pruned(&self, pruned: &Pruned) -> Result<(Self, Vec<usize>)> {
        let kept: Vec<usize> = (0..self.nodes.len()).filter(|i| pruned.nodes[*i]).collect();
        let mut place = vec![u32::MAX; self.nodes.len()];
        for (new, old) in kept.iter().enumerate() {
            place[*old] = new as u32;
        }
        let mut target = 0;
        let mut links = Vec::with_capacity(pruned.links.len());
        for at in &pruned.links {
            while *at >= self.start[target + 1] {
                target += 1;
            }
            let link = self.links[*at];
            links.push((place[link.source as usize], place[target], link.weight));
        }
        let inputs: Vec<Input> = pruned.links.iter().filter_map(|at| self.inputs.get(*at)).copied().collect();
        let nodes = kept.iter().map(|i| self.nodes[*i].clone()).collect();
        Ok((Self::with_inputs(self.prompt_tokens.clone(), nodes, &links, &inputs)?, kept))
    }

    /// Kahn's algorithm, one level after the other; the nodes in order, and where each level ends.
    fn topological(&self, check: &dyn Fn() -> Result<()>) -> Result<(Vec<u32>, Vec<usize>)> {
        let n = self.nodes.len();
        // How many links still leave each node; those with none can be placed.
        let mut leaving = vec![0usize; n];
        for some in self.links.chunks(LOOK_EVERY) {
            check()?;
            some.iter().for_each(|link| leaving[link.source as usize] += 1);
        }
        let mut order: Vec<u32> = (0..n as u32).filter(|i| leaving[*i as usize] == 0).collect();
        let mut done = 0;
        let mut levels = Vec::new();
        while done < order.len() {
            let level = done..order.len();
            levels.push(level.end);
            for i in level {
                check()?;
                let target = order[i] as usize;
                for at in self.range(target) {
                    let source = self.links[at].source as usize;
                    leaving[source] -= 1;
                    if leaving[source] == 0 {
                        order.push(source as u32);
                    }
                }
            }
            done = levels[levels.len() - 1];
        }
        if order.len() == n {
            return Ok((order, levels));
        }
        let stuck = (0..n).find(|i| leaving[*i] > 0).map_or("", |i| self.nodes[i].id.as_str());
        Err(Error::failed(format!(
            "the links run in a circle through node `{stuck}`, so influence is not defined; an attribution graph leads from tokens to logits only"
        )))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A graph of `kinds`, with the logits' probabilities.
    pub(crate) fn graph(kinds: &[NodeKind], probs: &[f64], links: &[(u32, u32, f32)]) -> Result<Graph> {
        let mut probs = probs.iter();
        let nodes = kinds
            .iter()
            .enumerate()
            .map(|(i, kind)| Node {
                id: format!("n{i}"),
                kind: *kind,
                layer: 0,
                pos: 0,
                label: String::new(),
                prob: if *kind == NodeKind::Logit { probs.next().copied().unwrap_or(0.0) } else { 0.0 },
                activation: None,
            })
            .collect();
        Graph::new(Vec::new(), nodes, links)
    }

    #[test]
    fn a_circle_is_refused_by_name() {
        use NodeKind::{Component, Logit};
        let error = graph(&[Component, Component, Logit], &[1.0], &[(0, 1, 1.0), (1, 0, 1.0), (1, 2, 1.0)]);
        assert!(error.err().is_some_and(|e| e.to_string().contains("circle through node `n")));
        let fine = graph(&[Component, Component, Logit], &[1.0], &[(0, 1, 1.0), (1, 2, 1.0)]);
        let fine = fine.unwrap();
        assert_eq!(fine.order(), [2, 1, 0]);
        assert_eq!(fine.levels().map(<[u32]>::to_vec).collect::<Vec<_>>(), [[2], [1], [0]]);
    }

    /// Nobody waits for a graph, its influence or its scores once they are not wanted any more.
    #[test]
    fn what_is_cancelled_is_not_made_to_the_end() {
        use NodeKind::{Component, Logit};
        let whole = graph(&[Component, Logit], &[1.0], &[(0, 1, 1.0)]).unwrap();
        let progress = Progress::new();
        let make = || Graph::large(Vec::new(), whole.nodes.clone(), &[(0, 1, 1.0)], &progress);
        let influence = Influence::of(&whole);
        assert_eq!(make().unwrap().links, whole.links);
        assert_eq!(Influence::looking(&whole, || progress.check()).unwrap().values, influence.values);
        progress.cancel();
        let is_cancelled = |e: Option<Error>| matches!(e, Some(Error::Cancelled));
        assert!(is_cancelled(make().err()));
        assert!(is_cancelled(Influence::looking(&whole, || progress.check()).err()));
        assert!(is_cancelled(influence::Scores::looking(&whole, &influence, || progress.check()).err()));
    }
}
