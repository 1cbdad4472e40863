//! The circuit cart: components and edges that a user collects, as a document keeps them.

use serde::{Deserialize, Serialize};

use super::edges::Edges;
use super::wiring::{Component, Edge, Wiring};
use crate::error::Result;

/// A circuit in the making: of components, with every edge between them, or of edges one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cart {
    /// Names, as `a23.h3`.
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

impl Cart {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && (self.edges.is_empty() || !self.by_edges)
    }

    pub fn contains(&self, component: Component) -> bool {
        let name = component.to_string();
        self.nodes.contains(&name)
    }

    /// The whole of a found circuit.
    pub fn of(edges: &Edges, origin: String) -> Self {
        let w = edges.wiring;
        let nodes = edges.components().iter().filter(|s| *s > 0).map(|s| w.sender_at(s).to_string()).collect();
        Self { nodes, edges: edges.iter().map(|e| w.name(e)).collect(), by_edges: true, origin }
    }

    /// Adds a component, or takes it away with its edges. In a circuit of edges a new component is connected
    /// with all others.
    pub fn toggle(&mut self, component: Component, wiring: Wiring) {
        self.edited();
        let name = component.to_string();
        if let Some(at) = self.nodes.iter().position(|n| *n == name) {
            self.nodes.remove(at);
            let touches = |edge: &String| {
                wiring.parse(edge).is_ok_and(|e| {
                    wiring.sender_at(e.sender) == component || wiring.receiver_at(e.receiver).component() == component
                })
            };
            self.edges.retain(|e| !touches(e));
            return;
        }
        let Some(me) = wiring.sender(component) else { return };
        if self.by_edges {
            let mut others: Vec<usize> =
                self.nodes.iter().filter_map(|n| wiring.sender(Component::parse(n)?)).collect();
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
            if !matches!(c, Component::Embed | Component::Logits) && !self.contains(c) {
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
        if self.by_edges {
            let edges = self.edges.iter().map(|e| wiring.parse(e)).collect::<Result<Vec<_>>>()?;
            return Ok(Edges::of(wiring, edges));
        }
        let mut kept = vec![false; wiring.n_senders()];
        kept[0] = true;
        for name in &self.nodes {
            let sender = Component::parse(name).and_then(|c| wiring.sender(c)).ok_or_else(|| {
                crate::error::Error::request(format!("the cart's `{name}` is not in this model; remove it"))
            })?;
            kept[sender] = true;
        }
        Ok(Edges::between(wiring, |s| kept[s]))
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
        let mut cart = Cart::default();
        cart.toggle(head, w);
        assert!(cart.contains(head) && cart.edges.is_empty());
        // Embedding to its three inputs and to the logits, and from it to the logits.
        assert_eq!(cart.circuit(w).unwrap().len(), 5);
        // An edge of a circuit of components: the circuit stays, spelled out, without it or with it.
        let key = w.parse("embed->a1.h0<k>").unwrap();
        cart.remove_edge(key, w);
        assert_eq!((cart.circuit(w).unwrap().len(), cart.by_edges), (4, true));
        cart.add_edge(w.parse("a0.h1->a1.h0<k>").unwrap(), w);
        assert_eq!((cart.nodes.clone(), cart.edges.len()), (vec!["a1.h0".to_owned(), "a0.h1".to_owned()], 5));
        cart.toggle(Component::Mlp { layer: 1 }, w);
        // The MLP reads the embedding and both heads, and the logits read it.
        assert_eq!(cart.edges.len(), 5 + 4);
        cart.toggle(head, w);
        assert_eq!(cart.nodes, ["a0.h1", "m1"]);
        assert!(cart.edges.iter().all(|e| !e.contains("a1.h0")));
        // Without its last edge it is empty, not everything.
        let mut one = Cart::of(&Edges::of(w, [key]), "EAP".to_owned());
        one.remove_edge(key, w);
        assert!(one.circuit(w).unwrap().is_empty() && one.origin == "EAP, edited by hand");
        cart.by_edges = false;
        cart.nodes.push("a9.h9".to_owned());
        cart.edges.clear();
        assert!(cart.circuit(w).is_err_and(|e| e.to_string().contains("a9.h9")));
    }
}
