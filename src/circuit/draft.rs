//! The circuit draft: components and edges that a user collects, as a document keeps them.
//!
//! A circuit is rarely found at one stroke: a head is taken from a graph, a search adds edges, a doubtful one is taken out.
//! A draft is what lies on the table meanwhile. It keeps names rather than numbers, so that it survives without a model,
//! and becomes a set of [`Edges`] when it is tried.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::edges::Edges;
use super::wiring::{Edge, Member, Wiring};
use crate::analysis::component::Component;
use crate::error::{Error, Result};

/// A circuit in the making: of components, with every edge between them, or of edges one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// Names, as `a23.h3`, `m5`, or `m5.n17` for one of an MLP's neurons.
    pub nodes: Vec<String>,
    /// Names, as `a20.h0->a23.h3<q>`; used if `by_edges`.
    #[serde(default)]
    pub edges: Vec<String>,
    #[serde(default)]
    pub by_edges: bool,
    /// Where it came from, if it was found or opened.
    #[serde(default)]
    pub origin: String,
}

impl Draft {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && (self.edges.is_empty() || !self.by_edges)
    }

    pub fn contains(&self, member: impl Into<Member>) -> bool {
        let name = member.into().to_string();
        self.nodes.contains(&name)
    }

    /// The whole of a found circuit.
    pub fn of(edges: &Edges, origin: String) -> Self {
        let w = edges.wiring;
        let inner = edges.components().iter().filter(|s| *s > 0).collect::<Vec<_>>();
        let nodes = inner.into_iter().flat_map(|s| names(edges, w.sender_at(s))).collect();
        Self { nodes, edges: edges.iter().map(|e| w.name(e)).collect(), by_edges: true, origin }
    }

    /// Adds a member, or takes it away; a component with its edges. In a circuit of edges a new component is connected
    /// with all others. Adding a neuron of an MLP that is whole in the circuit leaves only this neuron of it.
    pub fn toggle(&mut self, member: impl Into<Member>, wiring: Wiring) {
        let member = member.into();
        self.edited();
        let name = member.to_string();
        let component = member.component();
        if let Some(at) = self.nodes.iter().position(|n| *n == name) {
            self.nodes.remove(at);
            let parts_left = self.parts_of(component).next().is_some();
            if !parts_left {
                let touches = |edge: &String| {
                    wiring.parse(edge).is_ok_and(|e| {
                        wiring.sender_at(e.sender) == component
                            || wiring.receiver_at(e.receiver).component() == component
                    })
                };
                self.edges.retain(|e| !touches(e));
            }
            return;
        }
        let Some(me) = wiring.sender(component) else { return };
        let known = self.parts_of(component).next().is_some();
        match member {
            // The whole stands for its parts, and the other way round.
            Member::Component(_) => self.nodes.retain(|n| Member::parse(n).is_none_or(|m| m.component() != component)),
            Member::Neuron { .. } => self.nodes.retain(|n| *n != component.to_string()),
        }
        if self.by_edges && !known {
            let mut others: Vec<usize> = self
                .nodes
                .iter()
                .filter_map(|n| wiring.sender(Member::parse(n)?.component()))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            others.push(0);
            let into = wiring.receivers_of(me).flat_map(|receiver| {
                others.iter().filter(move |s| **s < wiring.reads(receiver)).map(move |s| Edge { sender: *s, receiver })
            });
            let readers = others.iter().flat_map(|s| wiring.receivers_of(*s)).chain([wiring.logits()]);
            let out = readers.filter(|r| me < wiring.reads(*r)).map(|receiver| Edge { sender: me, receiver });
            let more: Vec<String> = into.chain(out).map(|e| wiring.name(e)).collect();
            self.edges.extend(more);
        }
        self.nodes.push(name);
    }

    /// Names of a component or of neurons of it that are in the draft.
    fn parts_of(&self, component: Component) -> impl Iterator<Item = &String> {
        self.nodes.iter().filter(move |n| Member::parse(n).is_some_and(|m| m.component() == component))
    }

    /// Turns a circuit of components into one of edges, the same circuit.
    fn spell_out(&mut self, wiring: Wiring) {
        if self.by_edges {
            return;
        }
        if let Ok(edges) = self.circuit(wiring) {
            self.edges = edges.iter().map(|e| wiring.name(e)).collect();
            self.by_edges = true;
        }
    }

    /// Takes an edge away.
    pub fn remove_edge(&mut self, edge: Edge, wiring: Wiring) {
        self.spell_out(wiring);
        self.edited();
        let name = wiring.name(edge);
        self.edges.retain(|e| *e != name);
    }

    /// Adds an edge with its ends.
    pub fn add_edge(&mut self, edge: Edge, wiring: Wiring) {
        self.spell_out(wiring);
        self.edited();
        let name = wiring.name(edge);
        if !self.edges.contains(&name) {
            self.edges.push(name);
        }
        for c in [wiring.sender_at(edge.sender), wiring.receiver_at(edge.receiver).component()] {
            let inner = !matches!(c, Component::Embed | Component::Logits);
            if inner && self.parts_of(c).next().is_none() {
                self.nodes.push(c.to_string());
            }
        }
    }

    /// What was found by a search is no longer that once a hand was laid on it.
    fn edited(&mut self) {
        const EDITED: &str = ", edited by hand";
        if !self.origin.is_empty() && !self.origin.ends_with(EDITED) {
            self.origin += EDITED;
        }
    }

    /// The circuit it stands for.
    ///
    /// # Errors
    /// A name that the model does not have.
    pub fn circuit(&self, wiring: Wiring) -> Result<Edges> {
        let mut members = Vec::new();
        for name in &self.nodes {
            members.push(Member::parse(name).filter(|m| wiring.has(*m)).ok_or_else(|| {
                Error::request(format!("the circuit's node `{name}` is not in this model; remove it"))
            })?);
        }
        let mut edges = if self.by_edges {
            Edges::of(wiring, self.edges.iter().map(|e| wiring.parse(e)).collect::<Result<Vec<_>>>()?)
        } else {
            let mut kept = vec![false; wiring.n_senders()];
            kept[0] = true;
            members.iter().filter_map(|m| wiring.sender(m.component())).for_each(|s| kept[s] = true);
            Edges::between(wiring, |s| kept[s])
        };
        limit(&mut edges, &members);
        Ok(edges)
    }
}

/// Where neurons of an MLP are named and the MLP itself is not, only they belong to the circuit.
fn limit(edges: &mut Edges, members: &[Member]) {
    let mut neurons: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for member in members {
        if let Member::Neuron { layer, neuron } = *member
            && !members.contains(&Member::Component(Component::Mlp { layer }))
        {
            neurons.entry(layer).or_default().insert(neuron);
        }
    }
    neurons.into_iter().for_each(|(layer, set)| edges.limit(layer, set));
}

/// Names of a component in a circuit: its own, or those of its neurons.
pub(super) fn names(edges: &Edges, component: Component) -> Vec<String> {
    match component {
        Component::Mlp { layer } if edges.neurons(layer).is_some() => {
            let neurons = edges.neurons(layer).into_iter().flatten();
            neurons.map(|neuron| Member::Neuron { layer, neuron: *neuron }.to_string()).collect()
        }
        whole => vec![whole.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{ModelConfig, NormKind, Shape};

    fn wiring() -> Wiring {
        let shape =
            Shape { n_layers: 2, n_heads: 2, n_kv_heads: 2, d_model: 4, d_head: 2, d_mlp: 8, d_vocab: 5, n_ctx: 8 };
        Wiring::new(&ModelConfig::plain("test", shape, NormKind::Rms { eps: 1e-5 }))
    }

    #[test]
    fn components_come_and_go_with_their_edges() {
        let w = wiring();
        let head = Component::Head { layer: 1, head: 0 };
        let mut draft = Draft::default();
        draft.toggle(head, w);
        assert!(draft.contains(head) && draft.edges.is_empty());
        // Embedding to its three inputs and to the logits, and from it to the logits.
        assert_eq!(draft.circuit(w).unwrap().len(), 5);
        // An edge of a circuit of components: the circuit stays, spelled out, without it or with it.
        let key = w.parse("embed->a1.h0<k>").unwrap();
        draft.remove_edge(key, w);
        assert_eq!((draft.circuit(w).unwrap().len(), draft.by_edges), (4, true));
        draft.add_edge(w.parse("a0.h1->a1.h0<k>").unwrap(), w);
        assert_eq!((draft.nodes.clone(), draft.edges.len()), (vec!["a1.h0".to_owned(), "a0.h1".to_owned()], 5));
        draft.toggle(Component::Mlp { layer: 1 }, w);
        // The MLP reads the embedding and both heads, and the logits read it.
        assert_eq!(draft.edges.len(), 5 + 4);
        draft.toggle(head, w);
        assert_eq!(draft.nodes, ["a0.h1", "m1"]);
        assert!(draft.edges.iter().all(|e| !e.contains("a1.h0")));
        // Without its last edge it is empty, not everything.
        let mut one = Draft::of(&Edges::of(w, [key]), "EAP".to_owned());
        one.remove_edge(key, w);
        assert!(one.circuit(w).unwrap().is_empty() && one.origin == "EAP, edited by hand");
        // Neurons: the first brings its MLP's edges, the last takes them along; the whole stands for its parts.
        let neuron = |neuron| Member::Neuron { layer: 1, neuron };
        draft.toggle(Component::Mlp { layer: 1 }, w);
        let before = draft.edges.len();
        draft.toggle(neuron(3), w);
        draft.toggle(neuron(4), w);
        let circuit = draft.circuit(w).unwrap();
        assert_eq!(circuit.neurons(1), Some(&BTreeSet::from([3, 4])));
        assert!(circuit.contains(w.parse("m1->logits").unwrap()) && draft.edges.len() == before + 3);
        assert_eq!(Draft::of(&circuit, String::new()).circuit(w).unwrap(), circuit);
        draft.toggle(neuron(3), w);
        assert_eq!(
            (draft.nodes.clone(), draft.edges.len()),
            (vec!["a0.h1".to_owned(), "m1.n4".to_owned()], before + 3)
        );
        draft.toggle(Component::Mlp { layer: 1 }, w);
        assert!(draft.circuit(w).unwrap().neurons(1).is_none() && draft.edges.len() == before + 3);
        draft.toggle(neuron(5), w);
        assert_eq!(draft.nodes, ["a0.h1", "m1.n5"]);
        draft.toggle(neuron(5), w);
        assert!(draft.edges.iter().all(|e| !e.contains("m1")));
        draft.nodes.push("m1.n99".to_owned());
        assert!(draft.circuit(w).is_err_and(|e| e.to_string().contains("m1.n99")));
        draft.nodes.pop();
        draft.by_edges = false;
        draft.nodes.push("a9.h9".to_owned());
        draft.edges.clear();
        assert!(draft.circuit(w).is_err_and(|e| e.to_string().contains("a9.h9")));
    }
}
