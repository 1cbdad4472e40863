//! What the graph view draws: nodes, hidden and grouped as the user wants them, and what they are in the model.

use std::collections::HashMap;

use super::{GraphView, Grouping};
use crate::analysis::head_scores::SCORES;
use crate::app::selection::Focus;
use crate::app::views::Context;
use crate::app::widgets::token_text;
use crate::circuit::{self, Component, Edge, Receiver};
use crate::graph::NodeKind;
use crate::graph::components::Part;
use crate::graph::layout::{Drawing, Origin, Shown};

/// A head whose score reaches this plays the role.
const ROLE: f32 = 0.4;

/// What is drawn as one node: a node of the graph, or several together.
pub(super) struct Item {
    pub id: String,
    pub label: String,
    pub kind: NodeKind,
    pub members: Vec<usize>,
    pub place: (f32, f32),
    pub influence: f64,
    pub contribution: Option<f64>,
}

/// Items and links between them, made again when the graph or what is hidden and grouped changes.
pub(super) struct Picture {
    pub stamp: u64,
    pub version: u64,
    pub items: Vec<Item>,
    /// (source, target, weight), strongest first.
    pub links: Vec<(usize, usize, f32)>,
    pub by_id: HashMap<String, usize>,
}

impl GraphView {
    /// Makes the picture out of the drawing, what is hidden, and what is grouped.
    pub(super) fn compose(&mut self, cx: &Context<'_>, d: &Drawing, stamp: u64) {
        if self.picture.as_ref().is_some_and(|p| (p.stamp, p.version) == (stamp, self.version)) {
            return;
        }
        let mut items: Vec<Item> = Vec::new();
        let mut by_id: HashMap<String, usize> = HashMap::new();
        let mut item_of = vec![usize::MAX; d.graph.nodes.len()];
        let in_group: HashMap<&str, &str> =
            self.groups.iter().flat_map(|(name, ids)| ids.iter().map(move |id| (id.as_str(), name.as_str()))).collect();
        for (i, n) in d.graph.nodes.iter().enumerate() {
            if self.hidden.contains(&n.id) {
                continue;
            }
            let group = match in_group.get(n.id.as_str()) {
                Some(name) => Some((*name).to_owned()),
                None if n.kind != NodeKind::Component => None,
                None => match self.grouping {
                    Grouping::None => None,
                    Grouping::Component => Some(n.label.clone()),
                    Grouping::Role => role(cx, &n.label),
                },
            };
            let id = group.as_ref().map_or_else(|| n.id.clone(), |g| format!("group:{g}"));
            if self.hidden.contains(&id) {
                continue;
            }
            let at = *by_id.entry(id.clone()).or_insert_with(|| {
                let label = match (&group, self.names.get(&id)) {
                    (_, Some(name)) => name.clone(),
                    (Some(g), None) => g.clone(),
                    (None, None) => own_label(&n.label, n.kind, &n.id, d, n.pos),
                };
                let kind = n.kind;
                items.push(Item {
                    id,
                    label,
                    kind,
                    members: Vec::new(),
                    place: (0.0, 0.0),
                    influence: 0.0,
                    contribution: None,
                });
                items.len() - 1
            });
            item_of[i] = at;
            let item = &mut items[at];
            item.members.push(i);
            item.influence += d.influence[i];
            if let Some(a) = n.activation {
                *item.contribution.get_or_insert(0.0) += a;
            }
        }
        for item in &mut items {
            let weight: f64 = item.members.iter().map(|m| d.influence[*m] + 1e-9).sum();
            let mean = |f: fn(&(f32, f32)) -> f32| -> f32 {
                item.members.iter().map(|m| f64::from(f(&d.places[*m])) * (d.influence[*m] + 1e-9)).sum::<f64>() as f32
                    / weight as f32
            };
            item.place = (mean(|p| p.0), mean(|p| p.1));
        }
        let mut sums: HashMap<(usize, usize), f32> = HashMap::new();
        for (source, target, weight) in d.graph.triples() {
            let (a, b) = (item_of[source], item_of[target]);
            if a != usize::MAX && b != usize::MAX && a != b {
                *sums.entry((a, b)).or_default() += weight;
            }
        }
        let mut links: Vec<(usize, usize, f32)> = sums.into_iter().map(|((a, b), w)| (a, b, w)).collect();
        links.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()).then((a.0, a.1).cmp(&(b.0, b.1))));
        self.picture = Some(Picture { stamp, version: self.version, items, links, by_id });
    }
}

/// What a head's scores on this text say it does.
pub(super) fn role(cx: &Context<'_>, label: &str) -> Option<String> {
    if cx.state.circuits.file.is_some() {
        return None;
    }
    let Some(Component::Head { layer, head }) = Component::parse(label) else { return None };
    let scores = cx.state.results.text_scores.get()?;
    let (name, value) =
        SCORES[..3].iter().map(|s| (s.name(), scores.get(*s, layer, head))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (value >= ROLE).then(|| format!("{name} heads"))
}

pub(super) fn own_label(label: &str, kind: NodeKind, id: &str, d: &Drawing, pos: usize) -> String {
    match kind {
        // Files call their tokens and logits in many words; the token itself is enough.
        NodeKind::Token => d.graph.prompt_tokens.get(pos).map_or_else(|| label.to_owned(), |t| token_text::visible(t)),
        NodeKind::Logit => {
            let inner = label.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(label, |(t, _)| t);
            token_text::visible(inner)
        }
        _ if label.is_empty() => id.to_owned(),
        _ => label.to_owned(),
    }
}

/// Where an item stands, in tokens.
pub(super) fn place_name(cx: &Context<'_>, d: &Drawing, item: &Item) -> String {
    match item.members[..] {
        [one] => {
            let pos = d.graph.nodes[one].pos;
            let token = d.graph.prompt_tokens.get(pos).map_or_else(|| cx.token(pos), |t| token_text::short(t, 10));
            format!("@{pos} {token}")
        }
        _ => format!("{} nodes", item.members.len()),
    }
}

/// The component that an item is, if it is one of this model's.
pub(super) fn component(shown: &Shown, d: &Drawing, item: &Item) -> Option<Component> {
    let mut all = item.members.iter().filter_map(|m| match shown.part(&d.graph.nodes[*m].id)? {
        Part::Head { layer, head, .. } => Some(Component::Head { layer, head }),
        Part::Mlp { layer, .. } => Some(Component::Mlp { layer }),
        _ => None,
    });
    let first = all.next()?;
    all.all(|c| c == first).then_some(first)
}

/// A link as an edge of the model: with patterns held still, heads are reached through their values.
pub(super) fn edge(cx: &Context<'_>, shown: &Shown, d: &Drawing, from: &Item, to: &Item) -> Option<Edge> {
    let wiring = cx.state.wiring()?;
    let is = |item: &Item, kind: NodeKind| item.kind == kind && item.members.len() == 1;
    if !matches!(shown.source, Origin::Traced { .. }) {
        return None;
    }
    let sender = if is(from, NodeKind::Token) { Component::Embed } else { component(shown, d, from)? };
    let receiver = if is(to, NodeKind::Logit) {
        Receiver::Logits
    } else {
        match component(shown, d, to)? {
            Component::Head { layer, head } => Receiver::Head { layer, head, part: circuit::Part::Value },
            Component::Mlp { layer } => Receiver::Mlp { layer },
            Component::Embed | Component::Logits => return None,
        }
    };
    Some(Edge { sender: wiring.sender(sender)?, receiver: wiring.receiver(receiver)? })
}

pub(super) fn in_cart(cx: &Context<'_>, item: &Item) -> bool {
    cx.state.circuits.file.is_none() && !cx.state.document.cart.is_empty() && {
        Component::parse(&item.label).is_some_and(|c| cx.state.document.cart.contains(c))
    }
}

/// Tells the other views what the pointer is over.
pub(super) fn tell(cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
    let [one] = item.members[..] else { return };
    match shown.part(&d.graph.nodes[one].id) {
        Some(Part::Head { layer, head, pos }) => {
            (cx.hovered.head, cx.hovered.layer, cx.hovered.pos) = (Some((layer, head)), Some(layer), Some(pos));
        }
        Some(Part::Mlp { layer, pos } | Part::Error { layer, pos }) => {
            (cx.hovered.layer, cx.hovered.pos) = (Some(layer), Some(pos));
        }
        Some(Part::Token { pos }) => cx.hovered.pos = Some(pos),
        _ => {}
    }
}

/// A click on a head shows it everywhere; the traced position stays.
pub(super) fn pin_part(cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
    if let Some(Component::Head { layer, head }) = component(shown, d, item) {
        cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(head), false, Focus::Head));
    }
}
