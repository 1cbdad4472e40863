//! A set of edges: what a circuit is made of.
//!
//! The set is a matrix of bits, [receiver][sender], so that sets of a hundred thousand edges are copied, compared and cut
//! to what lies on a path from the embedding to the logits quickly: a search does so for every edge it tries.
//! An MLP may belong to a circuit with some of its neurons only; these are kept beside the bits, by layer.

use std::collections::{BTreeMap, BTreeSet};

use super::wiring::{Edge, Receiver, Wiring};
use crate::analysis::component::Component;

/// Edges of one wiring, a bit each; and of some MLPs which of their neurons the edges mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    pub wiring: Wiring,
    /// 64-bit words of a receiver's row.
    words: usize,
    /// [receiver][word]; bit s of a row is the edge from sender s.
    bits: Vec<u64>,
    /// By layer the neurons of an MLP that belong to the circuit, where not all of them do.
    neurons: BTreeMap<usize, BTreeSet<usize>>,
}

/// A set of senders, in the words that rows of [`Edges`] have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Senders(Vec<u64>);

impl Senders {
    pub fn contains(&self, sender: usize) -> bool {
        self.0[sender / 64] >> (sender % 64) & 1 == 1
    }

    pub fn insert(&mut self, sender: usize) {
        self.0[sender / 64] |= 1 << (sender % 64);
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        ones(&self.0)
    }
}

/// Positions of the set bits.
fn ones(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(i, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                64 * i + bit
            })
        })
    })
}

impl Edges {
    pub fn none(wiring: Wiring) -> Self {
        let words = wiring.n_senders().div_ceil(64);
        Self { wiring, words, bits: vec![0; wiring.n_receivers() * words], neurons: BTreeMap::new() }
    }

    pub fn all(wiring: Wiring) -> Self {
        Self::between(wiring, |_| true)
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

    /// The neurons of an MLP that belong to the circuit; `None` where all of them do.
    pub fn neurons(&self, layer: usize) -> Option<&BTreeSet<usize>> {
        self.neurons.get(&layer)
    }

    /// MLPs of which only some neurons belong to the circuit.
    pub fn limited(&self) -> impl Iterator<Item = (usize, &BTreeSet<usize>)> {
        self.neurons.iter().map(|(layer, set)| (*layer, set))
    }

    /// Only these neurons of an MLP belong to the circuit.
    pub fn limit(&mut self, layer: usize, neurons: BTreeSet<usize>) {
        self.neurons.insert(layer, neurons);
    }

    /// Takes one of the neurons of an MLP out of the circuit.
    pub fn remove_neuron(&mut self, layer: usize, neuron: usize) {
        let all = self.wiring.d_mlp;
        self.neurons.entry(layer).or_insert_with(|| (0..all).collect()).remove(&neuron);
    }

    /// The edges that touch a component, as a sender or a receiver.
    pub fn touching(&self, component: Component) -> Vec<Edge> {
        let w = self.wiring;
        let me = w.sender(component);
        self.iter().filter(|e| me == Some(e.sender) || w.receiver_at(e.receiver).component() == component).collect()
    }

    /// The edges of both, with the neurons of both.
    #[must_use]
    pub fn shared(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.bits.iter_mut().zip(&other.bits).for_each(|(a, b)| *a &= b);
        for (layer, set) in &other.neurons {
            let both = match out.neurons.get(layer) {
                Some(own) => own.intersection(set).copied().collect(),
                None => set.clone(),
            };
            out.neurons.insert(*layer, both);
        }
        out
    }

    fn words(&self, receiver: usize) -> &[u64] {
        &self.bits[receiver * self.words..(receiver + 1) * self.words]
    }

    fn word(&mut self, edge: Edge) -> &mut u64 {
        &mut self.bits[edge.receiver * self.words + edge.sender / 64]
    }

    pub fn contains(&self, edge: Edge) -> bool {
        self.reads_sender(edge.receiver, edge.sender)
    }

    pub fn insert(&mut self, edge: Edge) {
        *self.word(edge) |= 1 << (edge.sender % 64);
    }

    pub fn remove(&mut self, edge: Edge) {
        *self.word(edge) &= !(1 << (edge.sender % 64));
    }

    /// The senders that a receiver reads.
    pub fn row(&self, receiver: usize) -> impl Iterator<Item = usize> + '_ {
        ones(self.words(receiver))
    }

    /// Whether two sets give a receiver the same senders.
    pub fn same_row(&self, other: &Self, receiver: usize) -> bool {
        self.words(receiver) == other.words(receiver)
    }

    /// Whether a receiver reads any of these.
    pub fn reads_any(&self, receiver: usize, senders: &Senders) -> bool {
        self.words(receiver).iter().zip(&senders.0).any(|(a, b)| a & b != 0)
    }

    /// How many senders a receiver reads, and how many of these.
    pub fn counts(&self, receiver: usize, senders: &Senders) -> (usize, usize) {
        self.words(receiver)
            .iter()
            .zip(&senders.0)
            .fold((0, 0), |(all, some), (a, b)| (all + a.count_ones() as usize, some + (a & b).count_ones() as usize))
    }

    /// Senders that a receiver reads in one set only, with whether it is this one.
    pub fn flips<'a>(&'a self, other: &'a Self, receiver: usize) -> impl Iterator<Item = (usize, bool)> + 'a {
        let pairs = self.words(receiver).iter().zip(other.words(receiver));
        let changed: Vec<u64> = pairs.map(|(a, b)| a ^ b).collect();
        let found: Vec<usize> = ones(&changed).collect();
        found.into_iter().map(move |sender| (sender, self.contains(Edge { sender, receiver })))
    }

    pub fn no_senders(&self) -> Senders {
        Senders(vec![0; self.words])
    }

    pub fn iter(&self) -> impl Iterator<Item = Edge> + '_ {
        (0..self.wiring.n_receivers())
            .flat_map(|receiver| self.row(receiver).map(move |sender| Edge { sender, receiver }))
    }

    pub fn len(&self) -> usize {
        self.bits.iter().map(|w| w.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|w| *w == 0)
    }

    /// All other edges. Of an MLP of which some neurons belong to the circuit the others remain, with all their edges.
    #[must_use]
    pub fn complement(&self) -> Self {
        let w = self.wiring;
        let mut out = Self::all(w);
        out.bits.iter_mut().zip(&self.bits).for_each(|(o, b)| *o &= !b);
        for (layer, inside) in self.limited() {
            let mlp = Component::Mlp { layer };
            let (Some(me), Some(receiver)) = (w.sender(mlp), w.receiver(Receiver::Mlp { layer })) else { continue };
            // A circuit that does not touch the MLP has none of its neurons.
            if self.row(receiver).next().is_none() && (0..w.n_receivers()).all(|r| !self.reads_sender(r, me)) {
                continue;
            }
            let into = (0..w.reads(receiver)).map(|sender| Edge { sender, receiver });
            let out_of =
                (0..w.n_receivers()).filter(|r| me < w.reads(*r)).map(|receiver| Edge { sender: me, receiver });
            for edge in into.chain(out_of).collect::<Vec<_>>() {
                // Edges from and to other limited MLPs come back for their other neurons too.
                out.insert(edge);
            }
            out.limit(layer, (0..w.d_mlp).filter(|n| !inside.contains(n)).collect());
        }
        out
    }

    fn reads_sender(&self, receiver: usize, sender: usize) -> bool {
        self.words(receiver)[sender / 64] >> (sender % 64) & 1 == 1
    }

    /// Senders on a path from the embedding to the logits.
    pub fn connected(&self) -> Senders {
        let w = self.wiring;
        let mut reached = self.no_senders();
        reached.insert(0);
        for sender in 1..w.n_senders() {
            if w.receivers_of(sender).any(|r| self.reads_any(r, &reached)) {
                reached.insert(sender);
            }
        }
        // Backwards: what a useful component, or the logits, reads.
        let mut useful = self.no_senders();
        for receiver in (0..w.n_receivers()).rev() {
            if w.sender_of(receiver).is_none_or(|s| useful.contains(s)) {
                useful.0.iter_mut().zip(self.words(receiver)).for_each(|(u, w)| *u |= w);
            }
        }
        reached.0.iter_mut().zip(&useful.0).for_each(|(r, u)| *r &= u);
        reached
    }

    /// Drops the edges that lie on no path from the embedding to the logits; returns the senders that do.
    pub fn prune(&mut self) -> Senders {
        let keep = self.connected();
        let w = self.wiring;
        for receiver in 0..w.n_receivers() {
            let alive = w.sender_of(receiver).is_none_or(|s| keep.contains(s));
            let row = &mut self.bits[receiver * self.words..(receiver + 1) * self.words];
            row.iter_mut().zip(&keep.0).for_each(|(r, k)| *r &= if alive { *k } else { 0 });
        }
        self.neurons.retain(|layer, _| w.sender(Component::Mlp { layer: *layer }).is_some_and(|s| keep.contains(s)));
        keep
    }

    /// Components that an edge touches.
    pub fn components(&self) -> Senders {
        let mut touched = self.no_senders();
        for edge in self.iter() {
            touched.insert(edge.sender);
            if let Some(s) = self.wiring.sender_of(edge.receiver) {
                touched.insert(s);
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
        let touched: Vec<usize> = edges.components().iter().collect();
        assert_eq!(touched, [of(Component::Embed), of(Component::Mlp { layer: 0 })]);
        let between = Edges::between(wiring(), |s| touched.contains(&s));
        assert_eq!(names(&between), ["embed->m0", "embed->logits", "m0->logits"]);
        assert_eq!(edges.touching(Component::Mlp { layer: 0 }).len(), 2);
    }

    #[test]
    fn of_a_limited_mlp_the_other_neurons_remain() {
        let mut edges = set(&["embed->m0", "m0->logits", "embed->logits"]);
        edges.limit(0, BTreeSet::from([2, 5]));
        let others = edges.complement();
        // The other six neurons read and are read by everything again; the embedding's own edge stays out.
        assert!(others.contains(wiring().parse("embed->m0").unwrap()));
        assert!(others.contains(wiring().parse("m0->logits").unwrap()));
        assert!(!others.contains(wiring().parse("embed->logits").unwrap()));
        assert_eq!(others.neurons(0), Some(&BTreeSet::from([0, 1, 3, 4, 6, 7])));
        let mut fewer = set(&["embed->m0", "m0->logits"]);
        fewer.remove_neuron(0, 5);
        assert_eq!(fewer.neurons(0).map(BTreeSet::len), Some(7));
        assert_eq!(edges.shared(&fewer).neurons(0), Some(&BTreeSet::from([2])));
        assert_eq!(edges.shared(&fewer).len(), 2);
        // An MLP that no path goes through has no neurons to speak of.
        let mut cut = set(&["embed->logits", "embed->m1"]);
        cut.limit(1, BTreeSet::from([1]));
        cut.prune();
        assert!(cut.neurons(1).is_none());
    }
}
