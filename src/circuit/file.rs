//! Circuits on disk: one JSON document that says which model, which prompts, which edges.
//!
//! A document names edges as EAP-IG does (`a20.h0->a23.h3<q>`), each with its score, and the nodes that they touch. It
//! also says by which metric and against which ablation the circuit was found, since a circuit explains nothing without
//! them. A document that lists nodes alone means all edges between them, so one can be written by hand.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::draft::{Draft, names};
use super::edges::Edges;
use super::wiring::{Edge, Wiring};
use crate::analysis::component::Component;
use crate::analysis::metric::MetricKind;
use crate::analysis::patching::Ablation;
use crate::error::{Error, Result};
use crate::files::{LARGE, read, write_atomic};
use crate::model::Model;

pub const FORMAT: &str = "circuitscope circuit";

/// Follows the method of a circuit whose edges nothing ranked.
pub const MEASURED: &str = "; scores are losses of faithfulness";

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CircuitFile {
    pub format: String,
    pub version: u32,
    pub model: ModelFacts,
    pub prompts: Vec<PromptPair>,
    pub metric: MetricKind,
    /// What stands in for everything outside.
    pub outside: Ablation,
    /// How it was found, in words.
    pub method: String,
    pub nodes: Vec<NodeEntry>,
    pub edges: Vec<EdgeEntry>,
}

/// Enough of a model to open it again and to refuse another.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ModelFacts {
    pub name: String,
    pub family: String,
    /// What it was opened by.
    pub spec: String,
    pub n_layers: usize,
    pub n_heads: usize,
}

/// A clean and a corrupted prompt, as text where they came as text.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PromptPair {
    pub clean: String,
    pub corrupt: String,
    pub clean_ids: Vec<u32>,
    pub corrupt_ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_id: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct NodeEntry {
    pub name: String,
    /// Sum of the scores of the circuit's edges that leave it (that arrive, for the logits); of an MLP of which some
    /// neurons belong to the circuit each has an equal share.
    #[serde(default)]
    pub score: f32,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct EdgeEntry {
    /// `a20.h0->a23.h3<q>`
    pub name: String,
    #[serde(default)]
    pub score: f32,
}

impl CircuitFile {
    /// A circuit with what it was found on; `score` gives each edge's.
    pub fn new(
        model: &Model,
        prompts: Vec<PromptPair>,
        metric: MetricKind,
        outside: Ablation,
        method: String,
        edges: &Edges,
        score: impl Fn(Edge) -> f32,
    ) -> Self {
        let w = edges.wiring;
        let mut list: Vec<EdgeEntry> = edges.iter().map(|e| EdgeEntry { name: w.name(e), score: score(e) }).collect();
        list.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()));
        let mut by_sender = vec![0f32; w.n_senders()];
        let mut into_logits = 0f32;
        for edge in edges.iter() {
            by_sender[edge.sender] += score(edge);
            if edge.receiver == w.logits() {
                into_logits += score(edge);
            }
        }
        let touched = edges.components();
        let mut nodes: Vec<NodeEntry> = (0..w.n_senders())
            .filter(|s| touched.contains(*s))
            .flat_map(|s| {
                let named = names(edges, w.sender_at(s));
                let share = by_sender[s] / named.len().max(1) as f32;
                named.into_iter().map(move |name| NodeEntry { name, score: share })
            })
            .collect();
        if edges.iter().any(|e| e.receiver == w.logits()) {
            nodes.push(NodeEntry { name: Component::Logits.to_string(), score: into_logits });
        }
        Self {
            format: FORMAT.to_owned(),
            version: 1,
            model: ModelFacts {
                name: model.config.name.clone(),
                family: model.config.family.clone(),
                spec: model.spec.clone(),
                n_layers: model.config.n_layers,
                n_heads: model.config.n_heads,
            },
            prompts,
            metric,
            outside,
            method,
            nodes,
            edges: list,
        }
    }

    /// As a draft.
    pub fn draft(&self) -> Draft {
        let inner = |n: &&NodeEntry| !matches!(Component::parse(&n.name), Some(Component::Embed | Component::Logits));
        Draft {
            nodes: self.nodes.iter().filter(inner).map(|n| n.name.clone()).collect(),
            edges: self.edges.iter().map(|e| e.name.clone()).collect(),
            // Nothing at all is a circuit of no edges, not one of no nodes.
            by_edges: !self.edges.is_empty() || self.nodes.is_empty(),
            origin: self.method.clone(),
        }
    }

    /// # Errors
    /// A file that cannot be read or is no circuit.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read(path, LARGE)?;
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: "circuit", what };
        let file: Self = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if file.format != FORMAT {
            return Err(malformed(format!("its format is `{}`, not `{FORMAT}`", file.format)));
        }
        if file.version > 1 {
            return Err(malformed(format!("it is of version {}, which a newer program wrote", file.version)));
        }
        Ok(file)
    }

    /// # Errors
    /// A folder that is not there or has no room.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        write_atomic(path, &text)
    }

    /// The edges in a model's own numbering. A file that lists no edges is a circuit of nodes: all edges
    /// between them.
    ///
    /// # Errors
    /// A name that the model does not have.
    pub fn edges(&self, wiring: Wiring) -> Result<Edges> {
        if (self.model.n_layers, self.model.n_heads) != (wiring.n_layers, wiring.n_heads) {
            return Err(Error::request(format!(
                "the circuit is of {} with {} layers of {} heads, the model has {} of {}; open it with the model it was found in",
                self.model.name, self.model.n_layers, self.model.n_heads, wiring.n_layers, wiring.n_heads
            )));
        }
        self.draft().circuit(wiring)
    }
}

/// How much two circuits share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlap {
    pub shared_edges: usize,
    pub shared_nodes: usize,
    /// |A ∩ B| / |A ∪ B| of edges and of nodes.
    pub edge_jaccard: f64,
    pub node_jaccard: f64,
}

impl Overlap {
    pub fn of(a: &Edges, b: &Edges) -> Self {
        let ratio = |both: usize, a: usize, b: usize| {
            let union = a + b - both;
            if union == 0 { 1.0 } else { both as f64 / union as f64 }
        };
        // An edge of an MLP of which they hold different neurons is two edges.
        let both = a.shared(b);
        let w = a.wiring;
        let apart = |c: Component| match c {
            Component::Mlp { layer } => both.neurons(layer).is_some_and(BTreeSet::is_empty),
            _ => false,
        };
        let ends = |e: &Edge| apart(w.sender_at(e.sender)) || apart(w.receiver_at(e.receiver).component());
        let shared_edges = both.iter().filter(|e| !ends(e)).count();
        let members = |edges: &Edges| -> BTreeSet<String> {
            edges.components().iter().flat_map(|s| names(edges, w.sender_at(s))).collect()
        };
        let (na, nb) = (members(a), members(b));
        let shared_nodes = na.intersection(&nb).count();
        Self {
            shared_edges,
            shared_nodes,
            edge_jaccard: ratio(shared_edges, a.len(), b.len()),
            node_jaccard: ratio(shared_nodes, na.len(), nb.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{ModelConfig, NormKind, Shape};

    #[test]
    fn circuits_of_different_neurons_share_no_edge_of_theirs() {
        let shape =
            Shape { n_layers: 1, n_heads: 1, n_kv_heads: 1, d_model: 4, d_head: 2, d_mlp: 8, d_vocab: 5, n_ctx: 8 };
        let w = Wiring::new(&ModelConfig::plain("test", shape, NormKind::Rms { eps: 1e-5 }));
        let of = |nodes: &[&str]| {
            let nodes = nodes.iter().map(|n| (*n).to_owned()).collect();
            Draft { nodes, ..Draft::default() }.circuit(w).unwrap()
        };
        // Embedding to the MLP and to the logits, and from the MLP to the logits; nodes besides: the embedding.
        let o = Overlap::of(&of(&["m0.n1"]), &of(&["m0.n2"]));
        assert_eq!((o.shared_edges, o.shared_nodes), (1, 1));
        let o = Overlap::of(&of(&["m0.n1"]), &of(&["m0.n1", "m0.n2"]));
        assert_eq!((o.shared_edges, o.shared_nodes, o.edge_jaccard), (3, 2, 1.0));
        // A neuron is part of its MLP.
        assert_eq!(Overlap::of(&of(&["m0"]), &of(&["m0.n2"])).shared_edges, 3);
    }
}
