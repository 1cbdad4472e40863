//! A set of edges: what a circuit is made of.

use super::wiring::{Edge, Wiring};

/// Edges of one wiring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    pub wiring: Wiring,
    /// [receiver][sender]
    member: Vec<bool>,
}

impl Edges {
    pub fn none(wiring: Wiring) -> Self {
        Self { wiring, member: vec![false; wiring.n_receivers() * wiring.n_senders()] }
    }

    pub fn all(wiring: Wiring) -> Self {
        let mut edges = Self::none(wiring);
        for receiver in 0..wiring.n_receivers() {
            for sender in 0..wiring.reads(receiver) {
                edges.insert(Edge { sender, receiver });
            }
        }
        edges
    }

    pub fn of(wiring: Wiring, edges: impl IntoIterator<Item = Edge>) -> Self {
        let mut set = Self::none(wiring);
        for edge in edges {
            set.insert(edge);
        }
        set
    }

    /// Every edge between kept components: what a circuit of nodes is.
    pub fn between(wiring: Wiring, keep: impl Fn(usize) -> bool) -> Self {
        let mut set = Self::none(wiring);
        for receiver in 0..wiring.n_receivers() {
            if wiring.sender_of(receiver).is_some_and(|s| !keep(s)) {
                continue;
            }
            for sender in (0..wiring.reads(receiver)).filter(|s| keep(*s)) {
                set.insert(Edge { sender, receiver });
            }
        }
        set
    }

    fn place(&self, edge: Edge) -> usize {
        edge.receiver * self.wiring.n_senders() + edge.sender
    }

    pub fn contains(&self, edge: Edge) -> bool {
        self.member[self.place(edge)]
    }

    pub fn insert(&mut self, edge: Edge) {
        let at = self.place(edge);
        self.member[at] = true;
    }

    pub fn remove(&mut self, edge: Edge) {
        let at = self.place(edge);
        self.member[at] = false;
    }

    /// For each sender whether a receiver reads it: `row(r)[s]`.
    pub fn row(&self, receiver: usize) -> &[bool] {
        let n = self.wiring.n_senders();
        &self.member[receiver * n..receiver * n + self.wiring.reads(receiver)]
    }

    pub fn iter(&self) -> impl Iterator<Item = Edge> + '_ {
        (0..self.wiring.n_receivers()).flat_map(move |receiver| {
            let row = self.row(receiver);
            (0..row.len()).filter(move |s| row[*s]).map(move |sender| Edge { sender, receiver })
        })
    }

    pub fn len(&self) -> usize {
        self.member.iter().filter(|m| **m).count()
    }

    pub fn is_empty(&self) -> bool {
        !self.member.iter().any(|m| *m)
    }

    /// All other edges.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut out = Self::all(self.wiring);
        for (o, m) in out.member.iter_mut().zip(&self.member) {
            *o &= !m;
        }
        out
    }

    /// Senders on a path from the embedding to the logits.
    pub fn connected(&self) -> Vec<bool> {
        let w = self.wiring;
        let mut reached = vec![false; w.n_senders()];
        reached[0] = true;
        for sender in 1..w.n_senders() {
            reached[sender] = w
                .receivers_of(sender)
                .iter()
                .any(|r| self.row(*r).iter().zip(&reached).any(|(member, reached)| *member && *reached));
        }
        // Backwards: what a useful component, or the logits, reads.
        let mut useful = vec![false; w.n_senders()];
        for receiver in (0..w.n_receivers()).rev() {
            if w.sender_of(receiver).is_none_or(|s| useful[s]) {
                for (sender, member) in self.row(receiver).iter().enumerate() {
                    useful[sender] |= *member;
                }
            }
        }
        reached.iter().zip(&useful).map(|(a, b)| *a && *b).collect()
    }

    /// Drops the edges that lie on no path from the embedding to the logits.
    pub fn prune(&mut self) {
        let keep = self.connected();
        let w = self.wiring;
        for receiver in 0..w.n_receivers() {
            let alive = w.sender_of(receiver).is_none_or(|s| keep[s]);
            for sender in 0..w.reads(receiver) {
                if !alive || !keep[sender] {
                    self.remove(Edge { sender, receiver });
                }
            }
        }
    }

    /// Components that an edge touches.
    pub fn components(&self) -> Vec<bool> {
        let mut touched = vec![false; self.wiring.n_senders()];
        for edge in self.iter() {
            touched[edge.sender] = true;
            if let Some(s) = self.wiring.sender_of(edge.receiver) {
                touched[s] = true;
            }
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{ModelConfig, NormKind, Shape};

    pub(crate) fn wiring() -> Wiring {
        let shape =
            Shape { n_layers: 2, n_heads: 2, n_kv_heads: 1, d_model: 4, d_head: 2, d_mlp: 8, d_vocab: 5, n_ctx: 8 };
        Wiring::new(&ModelConfig::plain("test", shape, NormKind::Rms { eps: 1e-5 }))
    }

    fn set(names: &[&str]) -> Edges {
        Edges::of(wiring(), names.iter().map(|n| wiring().parse(n).unwrap()))
    }

    fn names(edges: &Edges) -> Vec<String> {
        edges.iter().map(|e| edges.wiring.name(e)).collect()
    }

    #[test]
    fn pruning_keeps_paths_from_embedding_to_logits() {
        let mut edges = set(&[
            "embed->a0.h0<v>",
            "a0.h0->a1.h1<k>",
            "a1.h1->logits",
            // Leads nowhere; comes from nowhere; hangs on something that comes from nowhere.
            "embed->m0",
            "a0.h1->a1.h1<q>",
            "m1->logits",
        ]);
        edges.prune();
        assert_eq!(names(&edges), ["embed->a0.h0<v>", "a0.h0->a1.h1<k>", "a1.h1->logits"]);
        let mut all = Edges::all(wiring());
        let n = all.len();
        all.prune();
        assert_eq!((all.len(), n), (wiring().n_edges(), wiring().n_edges()));
    }

    #[test]
    fn complement_and_components() {
        let edges = set(&["embed->m0", "m0->logits"]);
        assert_eq!(edges.len() + edges.complement().len(), wiring().n_edges());
        assert!(edges.iter().all(|e| !edges.complement().contains(e)));
        let of = |c| wiring().sender(c).unwrap();
        use super::super::wiring::Component;
        let touched: Vec<usize> = edges.components().iter().enumerate().filter(|(_, t)| **t).map(|(i, _)| i).collect();
        assert_eq!(touched, [of(Component::Embed), of(Component::Mlp { layer: 0 })]);
        let between = Edges::between(wiring(), |s| touched.contains(&s));
        assert_eq!(names(&between), ["embed->m0", "embed->logits", "m0->logits"]);
    }
}
