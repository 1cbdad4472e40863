//! What an attribution graph's nodes are in the model, and how they are called in drawings and files.
//!
//! [`super::Node`] is the same for all graphs, also for those of other tools; a [`Part`] says which head, MLP or token of
//! this model a node of a traced graph is.

use super::sources::Source;
use super::{Node, NodeKind};
use crate::engine::Trace;
use crate::model::config::ModelConfig;

/// What a node of the graph is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Token {
        pos: usize,
    },
    Head {
        layer: usize,
        head: usize,
        pos: usize,
    },
    Mlp {
        layer: usize,
        pos: usize,
    },
    /// One of an MLP's neurons, where it was taken apart.
    Neuron {
        layer: usize,
        neuron: usize,
        pos: usize,
    },
    Error {
        layer: usize,
        pos: usize,
    },
    Logit {
        token: u32,
        against: Option<u32>,
    },
}

impl Part {
    /// The part that a source is at a position.
    pub(super) fn of(source: Source, pos: usize) -> Self {
        match source {
            Source::Token => Part::Token { pos },
            Source::Head { layer, head } => Part::Head { layer, head, pos },
            Source::Mlp { layer } => Part::Mlp { layer, pos },
            Source::Error { layer } => Part::Error { layer, pos },
        }
    }
}

/// A part's node in the graph of a prediction after `n` tokens, without numbers.
pub(super) fn node_of(part: &Part, trace: &Trace, n: usize) -> Node {
    let model = &trace.model;
    let n_layers = model.config.n_layers;
    let (layer, pos, label) = match part {
        Part::Token { pos } => (-1, *pos, model.token_text(trace.ids[*pos])),
        Part::Head { layer, head, pos } => (*layer as i32, *pos, format!("a{layer}.h{head}")),
        Part::Mlp { layer, pos } => (*layer as i32, *pos, format!("m{layer}")),
        Part::Neuron { layer, neuron, pos } => (*layer as i32, *pos, format!("m{layer}.n{neuron}")),
        Part::Error { layer, pos } => (*layer as i32, *pos, format!("error {layer}")),
        Part::Logit { token, against } => {
            let text = model.token_text(*token);
            let label = against.map_or_else(|| text.clone(), |b| format!("{text} −{}", model.token_text(b)));
            (n_layers as i32 + 1, n - 1, label)
        }
    };
    let id = id(part, n_layers, model.config.n_heads, &trace.ids, n);
    Node { id, kind: kind(part), layer, pos, label, prob: 0.0, activation: None }
}

pub fn kind(part: &Part) -> NodeKind {
    match part {
        Part::Token { .. } => NodeKind::Token,
        Part::Head { .. } | Part::Mlp { .. } | Part::Neuron { .. } => NodeKind::Component,
        Part::Error { .. } => NodeKind::Error,
        Part::Logit { .. } => NodeKind::Logit,
    }
}

/// The id of an MLP's node.
pub fn mlp_id(config: &ModelConfig, layer: usize, pos: usize) -> String {
    id(&Part::Mlp { layer, pos }, config.n_layers, config.n_heads, &[], 0)
}

/// A node's id in the interchange format. Heads are features 0..n_heads of their layer, the MLP feature n_heads, its
/// neurons those behind; in layer 0 they are counted from n_layers + 1 on, clear of the ids of errors.
fn id(part: &Part, n_layers: usize, n_heads: usize, ids: &[u32], n: usize) -> String {
    let feature = |layer: usize, at: usize| if layer == 0 { at + n_layers + 1 } else { at };
    match part {
        Part::Token { pos } => format!("E_{}_{pos}", ids[*pos]),
        Part::Head { layer, head, pos } => format!("{layer}_{}_{pos}", feature(*layer, *head)),
        Part::Mlp { layer, pos } => format!("{layer}_{}_{pos}", feature(*layer, n_heads)),
        Part::Neuron { layer, neuron, pos } => format!("{layer}_{}_{pos}", feature(*layer, n_heads + 1 + neuron)),
        Part::Error { layer, pos } => format!("0_{layer}_{pos}"),
        Part::Logit { token, .. } => format!("{}_{token}_{}", n_layers + 1, n - 1),
    }
}
