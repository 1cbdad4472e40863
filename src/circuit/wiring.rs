//! What can be connected to what: senders, receivers and the edges between them, numbered and named as in EAP-IG's
//! graphs [Hanna et al. 2024].
//!
//! Everything in a transformer writes to the residual stream by adding, so the stream that a component reads is the sum
//! of what all components before it wrote. Taken apart into that sum, each term is an edge from a sender to a receiver.
//!
//! Senders are the embedding, every head and every MLP. Receivers are every head's query, key and value input (a key and
//! a value input for each query head, also where heads share keys), every MLP's input, and the logits, whose input is the
//! residual stream before the final norm. A receiver reads every sender before it. With L layers of H heads there are
//! 1 + L(H + 1) senders and 1 + L(3H + 1) receivers; SmolLM2-135M (30 layers of 9 heads) has 123,211 edges.

use std::fmt;

use crate::analysis::component::{Component, Part};
use crate::error::{Error, Result};
use crate::model::config::{ModelConfig, Parallel};

/// What reads the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    Head { layer: usize, head: usize, part: Part },
    Mlp { layer: usize },
    Logits,
}

impl Receiver {
    /// The component whose input it is.
    pub fn component(self) -> Component {
        match self {
            Self::Head { layer, head, .. } => Component::Head { layer, head },
            Self::Mlp { layer } => Component::Mlp { layer },
            Self::Logits => Component::Logits,
        }
    }
}

/// What can be put into a circuit by name: a component, or one of an MLP's neurons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    Component(Component),
    Neuron { layer: usize, neuron: usize },
}

impl Member {
    /// By its name: a component's, or `m5.n17`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((layer, neuron)) = text.strip_prefix('m').and_then(|t| t.split_once(".n")) {
            return Some(Self::Neuron { layer: layer.parse().ok()?, neuron: neuron.parse().ok()? });
        }
        Component::parse(text).map(Self::Component)
    }

    /// The component that it is, or is part of.
    pub fn component(self) -> Component {
        match self {
            Self::Component(c) => c,
            Self::Neuron { layer, .. } => Component::Mlp { layer },
        }
    }
}

impl From<Component> for Member {
    fn from(c: Component) -> Self {
        Self::Component(c)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Component(c) => write!(f, "{c}"),
            Self::Neuron { layer, neuron } => write!(f, "m{layer}.n{neuron}"),
        }
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.component())?;
        match self {
            Self::Head { part, .. } => write!(f, "<{}>", part.letter()),
            _ => Ok(()),
        }
    }
}

/// A sender and a receiver, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    pub sender: usize,
    pub receiver: usize,
}

/// The numbering for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wiring {
    pub n_layers: usize,
    pub n_heads: usize,
    /// Neurons of an MLP; 0 without MLPs.
    pub d_mlp: usize,
    /// The MLP does not read its own layer's heads.
    parallel: bool,
}

impl Wiring {
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            d_mlp: if config.has_mlp() { config.d_mlp } else { 0 },
            parallel: config.parallel != Parallel::Sequential,
        }
    }

    pub fn has_mlp(&self) -> bool {
        self.d_mlp > 0
    }

    fn senders_a_layer(&self) -> usize {
        self.n_heads + usize::from(self.has_mlp())
    }

    fn receivers_a_layer(&self) -> usize {
        3 * self.n_heads + usize::from(self.has_mlp())
    }

    pub fn n_senders(&self) -> usize {
        1 + self.n_layers * self.senders_a_layer()
    }

    pub fn n_receivers(&self) -> usize {
        1 + self.n_layers * self.receivers_a_layer()
    }

    pub fn n_edges(&self) -> usize {
        (0..self.n_receivers()).map(|r| self.reads(r)).sum()
    }

    /// The logits' number among the receivers: the last.
    pub fn logits(&self) -> usize {
        self.n_receivers() - 1
    }

    pub fn sender(&self, component: Component) -> Option<usize> {
        let base = |layer: usize| 1 + layer * self.senders_a_layer();
        match component {
            Component::Embed => Some(0),
            Component::Head { layer, head } if layer < self.n_layers && head < self.n_heads => Some(base(layer) + head),
            Component::Mlp { layer } if layer < self.n_layers && self.has_mlp() => Some(base(layer) + self.n_heads),
            _ => None,
        }
    }

    pub fn receiver(&self, receiver: Receiver) -> Option<usize> {
        let base = |layer: usize| layer * self.receivers_a_layer();
        match receiver {
            Receiver::Head { layer, head, part } if layer < self.n_layers && head < self.n_heads => {
                Some(base(layer) + part as usize * self.n_heads + head)
            }
            Receiver::Mlp { layer } if layer < self.n_layers && self.has_mlp() => Some(base(layer) + 3 * self.n_heads),
            Receiver::Logits => Some(self.logits()),
            _ => None,
        }
    }

    pub fn sender_at(&self, sender: usize) -> Component {
        if sender == 0 {
            return Component::Embed;
        }
        let (layer, at) = ((sender - 1) / self.senders_a_layer(), (sender - 1) % self.senders_a_layer());
        if at < self.n_heads { Component::Head { layer, head: at } } else { Component::Mlp { layer } }
    }

    pub fn receiver_at(&self, receiver: usize) -> Receiver {
        if receiver >= self.logits() {
            return Receiver::Logits;
        }
        let (layer, at) = (receiver / self.receivers_a_layer(), receiver % self.receivers_a_layer());
        match at / self.n_heads {
            0 => Receiver::Head { layer, head: at, part: Part::Query },
            1 => Receiver::Head { layer, head: at - self.n_heads, part: Part::Key },
            2 => Receiver::Head { layer, head: at - 2 * self.n_heads, part: Part::Value },
            _ => Receiver::Mlp { layer },
        }
    }

    /// The sender that a receiver's component is; none for the logits.
    pub fn sender_of(&self, receiver: usize) -> Option<usize> {
        self.sender(self.receiver_at(receiver).component())
    }

    /// Whether the model has a member.
    pub fn has(&self, member: Member) -> bool {
        let inside = match member {
            Member::Component(_) => true,
            Member::Neuron { neuron, .. } => neuron < self.d_mlp,
        };
        inside && self.sender(member.component()).is_some()
    }

    /// The inputs of a sender; none of the embedding.
    pub fn receivers_of(&self, sender: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, step, n) = match self.sender_at(sender) {
            Component::Head { layer, head } => (layer * self.receivers_a_layer() + head, self.n_heads, 3),
            Component::Mlp { layer } => (layer * self.receivers_a_layer() + 3 * self.n_heads, 1, 1),
            Component::Embed | Component::Logits => (0, 1, 0),
        };
        (0..n).map(move |i| first + i * step)
    }

    /// Senders before a receiver: it reads those with smaller numbers.
    pub fn reads(&self, receiver: usize) -> usize {
        match self.receiver_at(receiver) {
            Receiver::Head { layer, .. } => 1 + layer * self.senders_a_layer(),
            Receiver::Mlp { layer } => {
                1 + layer * self.senders_a_layer() + if self.parallel { 0 } else { self.n_heads }
            }
            Receiver::Logits => self.n_senders(),
        }
    }

    pub fn name(&self, edge: Edge) -> String {
        format!("{}->{}", self.sender_at(edge.sender), self.receiver_at(edge.receiver))
    }

    /// An edge by its name, `a20.h0->a23.h3<q>`.
    ///
    /// # Errors
    /// One sentence naming what the model does not have.
    pub fn parse(&self, name: &str) -> Result<Edge> {
        let wrong = |what: String| Error::request(format!("`{name}` is no edge of this model: {what}"));
        let (from, to) = name
            .split_once("->")
            .ok_or_else(|| wrong("write SENDER->RECEIVER, as a20.h0->a23.h3<q> or m5->logits".to_owned()))?;
        let sender = Component::parse(from)
            .and_then(|c| self.sender(c))
            .ok_or_else(|| wrong(format!("nothing called `{from}` writes to the residual stream")))?;
        let (node, part) = match to.split_once('<') {
            Some((node, part)) => (node, part.strip_suffix('>')),
            None => (to, None),
        };
        let receiver = match (Component::parse(node), part) {
            (Some(Component::Head { layer, head }), Some(letter)) => Part::ALL
                .into_iter()
                .find(|p| letter.len() == 1 && letter.starts_with(p.letter()))
                .map(|part| Receiver::Head { layer, head, part }),
            (Some(Component::Mlp { layer }), None) => Some(Receiver::Mlp { layer }),
            (Some(Component::Logits), None) => Some(Receiver::Logits),
            _ => None,
        };
        let receiver = receiver
            .and_then(|r| self.receiver(r))
            .ok_or_else(|| wrong(format!("nothing called `{to}` reads the residual stream")))?;
        if sender >= self.reads(receiver) {
            return Err(wrong(format!("{from} comes after {to}")));
        }
        Ok(Edge { sender, receiver })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wiring(n_layers: usize, n_heads: usize, mlp: bool, parallel: bool) -> Wiring {
        Wiring { n_layers, n_heads, d_mlp: if mlp { 8 } else { 0 }, parallel }
    }

    #[test]
    fn smollm2_has_as_many_edges_as_eap_ig_counts() {
        assert_eq!(wiring(30, 9, true, false).n_edges(), 123_211);
    }

    #[test]
    fn numbers_and_names_go_there_and_back() {
        for w in [wiring(3, 2, true, false), wiring(2, 3, false, false), wiring(2, 2, true, true)] {
            for s in 0..w.n_senders() {
                assert_eq!(w.sender(w.sender_at(s)), Some(s));
                assert_eq!(Component::parse(&w.sender_at(s).to_string()), Some(w.sender_at(s)));
            }
            for receiver in 0..w.n_receivers() {
                assert_eq!(w.receiver(w.receiver_at(receiver)), Some(receiver));
                if let Some(s) = w.sender_of(receiver) {
                    assert!(w.receivers_of(s).any(|r| r == receiver) && s >= w.reads(receiver));
                }
                for sender in 0..w.reads(receiver) {
                    let edge = Edge { sender, receiver };
                    assert_eq!(w.parse(&w.name(edge)).ok(), Some(edge));
                }
            }
        }
        let w = wiring(3, 2, true, false);
        for (name, says) in [
            ("m5", "write SENDER"),
            ("m9->logits", "`m9`"),
            ("m0->a1.h0", "`a1.h0`"),
            ("m1->a1.h0<q>", "comes after"),
            ("a1.h0->m1<q>", "`m1<q>`"),
        ] {
            assert!(w.parse(name).err().is_some_and(|e| e.to_string().contains(says)), "{name}");
        }
        let neuron = Member::Neuron { layer: 1, neuron: 7 };
        assert_eq!((neuron.to_string().as_str(), Member::parse("m1.n7")), ("m1.n7", Some(neuron)));
        assert!(w.has(neuron) && !w.has(Member::Neuron { layer: 1, neuron: 8 }) && Member::parse("m1.h7").is_none());
        assert!(w.parse("a1.h0->m1").is_ok());
        assert!(wiring(3, 2, true, true).parse("a1.h0->m1").is_err());
    }
}
