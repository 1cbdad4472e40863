//! What the graph view draws: nodes, hidden and grouped as the user wants them, and what they are in the model.

use std::collections::HashMap;
use std::ops::Range;

use super::{GraphView, Grouping};
use crate::analysis::component::Component;
use crate::analysis::head_scores::{HeadScores, SCORES};
use crate::app::view::Context;
use crate::app::widgets::names::spoken;
use crate::app::widgets::token_text;
use crate::app::widgets::turns::Turns;
use crate::circuit::{Edge, Member, Receiver};
use crate::graph::layout::{Drawing, Origin, Shown};
use crate::graph::part::Part;
use crate::graph::{Input, NodeKind};
use crate::session::desk::Focus;

/// A head whose score reaches this plays the role.
const ROLE: f32 = 0.4;

/// What is drawn as one node: a node of the graph, or several together.
pub struct Item {
    pub id: String,
    pub label: String,
    pub kind: NodeKind,
    pub members: Vec<usize>,
    pub place: (f32, f32),
    pub influence: f64,
    /// What [`Shown::value_name`] says, of a group only where the members' add up.
    pub value: Option<f64>,
}

impl Item {
    /// A token or a logit, which is drawn as its label.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, NodeKind::Token | NodeKind::Logit) && (self.members.len() == 1 || self.is_fold())
    }

    /// Tokens at neighbouring positions where nothing else stands.
    pub fn is_fold(&self) -> bool {
        self.id.starts_with(FOLD)
    }

    /// Its name on the screen: parts of the model are called as everywhere, tokens are what they are.
    pub fn spoken(&self) -> String {
        match self.kind {
            NodeKind::Component | NodeKind::Error => token_text::name(&spoken(&self.label)),
            NodeKind::Token | NodeKind::Logit => self.label.clone(),
        }
    }
}

/// What the ids of folded tokens begin with.
const FOLD: &str = "fold:";

/// A link between items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub source: usize,
    pub target: usize,
    pub weight: f32,
    /// Through which input of a head most of it goes.
    pub input: Input,
}

/// Items and links between them, made again when the graph or what is hidden and grouped changes.
pub struct Picture {
    pub stamp: u64,
    pub version: u64,
    /// The stamp of the scores that heads are grouped by.
    pub roles: u64,
    /// Whose words its tokens are of.
    pub turns: Turns,
    /// By position: left and right edge of its column. Thinking that is folded has one.
    pub columns: Vec<(f32, f32)>,
    pub items: Vec<Item>,
    /// Strongest first.
    pub links: Vec<Line>,
    pub by_id: HashMap<String, usize>,
    /// By the id of a component's or logit's node the item that stands for it.
    pub item_of: HashMap<String, usize>,
}

impl GraphView {
    /// Makes the picture out of the drawing, what is hidden, and what is grouped.
    pub fn compose(&mut self, cx: &Context<'_>, shown: &Shown, d: &Drawing, stamp: u64) {
        let turns = turns(cx, d);
        let roles = self.roles.fresh().map_or(0, |r| r.stamp);
        let is_of_now = |p: &Picture| (p.stamp, p.version, p.roles, &p.turns) == (stamp, self.version, roles, &turns);
        if self.picture.as_ref().is_some_and(is_of_now) {
            return;
        }
        let adds_up = matches!(shown.source, Origin::Traced { .. });
        let ids = d.graph.own_ids();
        let squeezed = |x: f32| squeeze(d, turns.folded(), x);
        let mut items: Vec<Item> = Vec::new();
        let mut by_id: HashMap<String, usize> = HashMap::new();
        let mut item_of = vec![usize::MAX; d.graph.nodes.len()];
        let in_group: HashMap<&str, &str> = self
            .marks
            .groups
            .iter()
            .flat_map(|(name, ids)| ids.iter().map(move |id| (id.as_str(), name.as_str())))
            .collect();
        let first = d.graph.nodes.iter().filter(|n| n.pos == 0 && n.kind == NodeKind::Component).count();
        let folds = self.folds_first && first > 1 && d.graph.nodes.iter().any(|n| n.pos > 0);
        for (i, n) in d.graph.nodes.iter().enumerate() {
            let own_id: &str = &ids[i];
            if self.marks.hidden.contains(own_id) {
                continue;
            }
            let group = match in_group.get(own_id) {
                Some(name) => Some((*name).to_owned()),
                None if n.kind != NodeKind::Component => None,
                None if folds && n.pos == 0 => Some("first token".to_owned()),
                None => match self.grouping {
                    Grouping::None => None,
                    // An opened MLP's neurons are its own.
                    Grouping::Component => Some(match d.part(i) {
                        Some(Part::Neuron { layer, .. } | Part::Mlp { layer, .. }) => format!("m{layer}"),
                        _ => n.label.clone(),
                    }),
                    Grouping::Role => self.roles.fresh().and_then(|scores| role(&scores.value, d, i)),
                },
            };
            // Thinking is folded with all that stands above it, but for what is predicted there.
            let thought = turns.folded().iter().find(|f| f.contains(&n.pos) && n.kind != NodeKind::Logit);
            let group = group.filter(|_| thought.is_none());
            let fold = thought
                .map(|f| format!("{FOLD}thinking {}", f.start))
                .or_else(|| d.folds.iter().find(|f| f.contains(&n.pos)).map(|f| format!("{FOLD}{}", f.start)));
            let folded = fold.is_some() && group.is_none();
            let id = match (&group, fold) {
                (Some(g), _) => format!("group:{g}"),
                (None, Some(fold)) => fold,
                (None, None) => own_id.to_owned(),
            };
            if self.marks.hidden.contains(&id) {
                continue;
            }
            let at = *by_id.entry(id.clone()).or_insert_with(|| {
                let label = match (&group, self.marks.names.get(&id).or(self.labels.get(&id))) {
                    (_, Some(name)) => name.clone(),
                    (Some(g), None) => g.clone(),
                    (None, None) if folded => {
                        thought.and_then(|r| turns.fold(r.start)).map_or_else(|| "…".to_owned(), |f| f.0)
                    }
                    (None, None) => own_label(&n.label, n.kind, &n.id, d, n.pos),
                };
                let kind = if folded { NodeKind::Token } else { n.kind };
                items.push(Item {
                    id,
                    label,
                    kind,
                    members: Vec::new(),
                    place: (0.0, 0.0),
                    influence: 0.0,
                    value: None,
                });
                items.len() - 1
            });
            item_of[i] = at;
            let item = &mut items[at];
            item.members.push(i);
            item.influence += d.influence[i];
            item.value = match (item.members.len(), n.activation) {
                (1, own) => own,
                (_, Some(a)) if adds_up => Some(item.value.unwrap_or(0.0) + a),
                (_, None) if adds_up => item.value,
                _ => None,
            };
        }
        for item in &mut items {
            let (x, y) = middle(d, item);
            item.place = (squeezed(x), if item.is_fold() { 0.0 } else { y });
        }
        let links = links(d, &items, &item_of);
        let column = |pos: usize| {
            let own = pos..pos + 1;
            let whole = turns.folded().iter().find(|r| r.contains(&pos)).unwrap_or(&own);
            let last = whole.end.min(d.columns.len()) - 1;
            (squeezed(d.columns[whole.start].0), squeezed(d.columns[last].1))
        };
        let columns = (0..d.columns.len()).map(column).collect();
        let nodes = ids.iter().zip(&item_of);
        let item_of = nodes.filter(|(_, at)| **at != usize::MAX).map(|(id, at)| (id.to_string(), *at)).collect();
        self.picture =
            Some(Picture { stamp, version: self.version, roles, turns, columns, items, links, by_id, item_of });
    }
}

/// Where an item's members stand, those of more influence counting more. Divided in f64, so that a node by itself stands where
/// it was laid out, to the last bit.
fn middle(d: &Drawing, item: &Item) -> (f32, f32) {
    let weight = |m: &usize| d.influence[*m] + 1e-9;
    let all: f64 = item.members.iter().map(weight).sum();
    let mean = |of: fn(&(f32, f32)) -> f32| -> f32 {
        let sum: f64 = item.members.iter().map(|m| f64::from(of(&d.places[*m])) * weight(m)).sum();
        (sum / all) as f32
    };
    (mean(|p| p.0), mean(|p| p.1))
}

/// Links between items, strongest first; `item_of` has each node's item (`usize::MAX` for one that is hidden).
fn links(d: &Drawing, items: &[Item], item_of: &[usize]) -> Vec<Line> {
    // Links of single nodes come as they are, in their order; those of groups are added up.
    let single: Vec<bool> = items.iter().map(|i| i.members.len() == 1).collect();
    let mut links: Vec<Line> = Vec::with_capacity(d.strongest.len());
    let mut sums: HashMap<(usize, usize), Line> = HashMap::new();
    for (source, target, weight, at) in &d.strongest {
        let (a, b) = (item_of[*source as usize], item_of[*target as usize]);
        if a == usize::MAX || b == usize::MAX || a == b {
            continue;
        }
        // The strongest comes first, and says through which input most of it goes.
        let line = Line { source: a, target: b, weight: *weight, input: d.graph.input(*at as usize) };
        if single[a] && single[b] {
            links.push(line);
        } else {
            sums.entry((a, b)).and_modify(|l| l.weight += weight).or_insert(line);
        }
    }
    if !sums.is_empty() {
        links.extend(sums.into_values());
        links.sort_by(|a, b| {
            b.weight.abs().total_cmp(&a.weight.abs()).then((a.source, a.target).cmp(&(b.source, b.target)))
        });
    }
    links
}

/// Whose words the graph's tokens are of, where they are those of the run that is shown.
fn turns(cx: &Context<'_>, d: &Drawing) -> Turns {
    let run = cx.run().filter(|r| r.texts.starts_with(&d.graph.prompt_tokens));
    run.map_or_else(Turns::default, |r| cx.turns_of(&r))
}

/// Where `x` of a drawing comes to lie when the columns of each range of positions are made one as wide as a cell.
fn squeeze(d: &Drawing, folded: &[Range<usize>], x: f32) -> f32 {
    let shift = folded.iter().filter_map(|r| {
        let (left, right) = (d.columns.get(r.start)?.0, d.columns.get(r.end - 1).or(d.columns.last())?.1);
        let (width, inside) = (right - left, (x - left).clamp(0.0, right - left));
        (width > 1.0).then(|| inside * (1.0 - 1.0 / width))
    });
    x - shift.sum::<f32>()
}

/// What a head's scores on this text say it does.
fn role(scores: &HeadScores, d: &Drawing, node: usize) -> Option<String> {
    let Some(Part::Head { layer, head, .. }) = d.part(node) else { return None };
    let (name, value) =
        SCORES[..3].iter().map(|s| (s.name(), scores.get(*s, layer, head))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (value >= ROLE).then(|| format!("{name} heads"))
}

pub fn own_label(label: &str, kind: NodeKind, id: &str, d: &Drawing, pos: usize) -> String {
    match kind {
        // Files call their tokens and logits in many words; the token itself is enough.
        NodeKind::Token => d.graph.prompt_tokens.get(pos).map_or_else(|| label.to_owned(), |t| token_text::visible(t)),
        NodeKind::Logit => {
            let inner = label.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(label, |(t, _)| t);
            // Two tokens, the second of which is taken from the first.
            match inner.rsplit_once(" −").filter(|(a, _)| !a.is_empty()) {
                Some((a, b)) => format!("{} − {}", token_text::visible(a), token_text::visible(b)),
                None => token_text::visible(inner),
            }
        }
        _ if label.is_empty() => id.to_owned(),
        _ => label.to_owned(),
    }
}

/// Where an item stands, in tokens.
pub fn place_name(cx: &Context<'_>, d: &Drawing, item: &Item) -> String {
    match item.members[..] {
        [one] => {
            let pos = d.graph.nodes[one].pos;
            let token = d.graph.prompt_tokens.get(pos).map_or_else(|| cx.token(pos), |t| token_text::short(t, 10));
            format!("@{pos} {token}")
        }
        _ if item.is_fold() => {
            let is_token = |m: &&usize| d.graph.nodes[**m].kind == NodeKind::Token;
            let label = |m: &usize| own_label(&d.graph.nodes[*m].label, NodeKind::Token, "", d, d.graph.nodes[*m].pos);
            let all: Vec<String> = item.members.iter().filter(is_token).map(label).collect();
            let positions = || item.members.iter().map(|m| d.graph.nodes[*m].pos);
            let (from, to) = (positions().min().unwrap_or(0), positions().max().unwrap_or(0));
            let above = match item.members.len() - all.len() {
                0 => String::new(),
                n => format!(", and {n} nodes above them"),
            };
            format!("@{from} to {to}: {}{above}", token_text::cut(&all.join(" "), 120))
        }
        _ => format!("{} nodes", item.members.len()),
    }
}

/// What an item is in the model: a component at one position or at several, or a neuron.
pub fn member(d: &Drawing, item: &Item) -> Option<Member> {
    let mut all = item.members.iter().filter_map(|m| match d.part(*m)? {
        Part::Head { layer, head, .. } => Some(Component::Head { layer, head }.into()),
        // What is left of an opened MLP is nothing that a circuit can hold.
        Part::Mlp { layer, pos } if item.members.len() == 1 && d.is_opened(layer, pos) => None,
        Part::Mlp { layer, .. } => Some(Component::Mlp { layer }.into()),
        Part::Neuron { layer, neuron, .. } => Some(Member::Neuron { layer, neuron }),
        _ => None,
    });
    let first: Member = all.next()?;
    if all.clone().all(|c| c == first) {
        return Some(first);
    }
    // Neurons of one MLP together are that MLP.
    all.all(|c| c.component() == first.component()).then(|| first.component().into())
}

/// The id of the MLP that an item is or belongs to, which can be taken apart or put together again.
pub fn mlp_id(d: &Drawing, item: &Item) -> Option<String> {
    let [one] = item.members[..] else { return None };
    match d.part(one)? {
        Part::Mlp { .. } => Some(d.graph.nodes[one].id.clone()),
        Part::Neuron { layer, pos, .. } => {
            let whole = d.parts.iter().position(|p| *p == Part::Mlp { layer, pos })?;
            Some(d.graph.nodes[whole].id.clone())
        }
        _ => None,
    }
}

/// A link as an edge of the model; none of single neurons, which go into a circuit with all their edges.
pub fn edge(cx: &Context<'_>, d: &Drawing, picture: &Picture, link: &Line) -> Option<Edge> {
    let wiring = cx.state.wiring().filter(|_| !d.parts.is_empty())?;
    let is = |item: &Item, kind: NodeKind| item.kind == kind && item.members.len() == 1;
    let (from, to) = (&picture.items[link.source], &picture.items[link.target]);
    let whole = |item: &Item| match member(d, item)? {
        Member::Component(c) => Some(c),
        Member::Neuron { .. } => None,
    };
    let sender = if is(from, NodeKind::Token) { Component::Embed } else { whole(from)? };
    let receiver = if is(to, NodeKind::Logit) {
        Receiver::Logits
    } else {
        match whole(to)? {
            Component::Head { layer, head } => Receiver::Head { layer, head, part: link.input },
            Component::Mlp { layer } => Receiver::Mlp { layer },
            Component::Embed | Component::Logits => return None,
        }
    };
    Some(Edge { sender: wiring.sender(sender)?, receiver: wiring.receiver(receiver)? })
}

pub fn in_draft(cx: &Context<'_>, d: &Drawing, item: &Item) -> bool {
    let draft = &cx.state.desk().draft;
    !draft.is_empty() && member(d, item).is_some_and(|m| draft.contains(m))
}

/// Tells the other views what the pointer is over.
pub fn tell(cx: &mut Context<'_>, d: &Drawing, item: &Item) {
    let [one] = item.members[..] else { return };
    match d.part(one) {
        Some(Part::Head { layer, head, pos }) => {
            (cx.hovered.head, cx.hovered.layer, cx.hovered.pos) = (Some((layer, head)), Some(layer), Some(pos));
        }
        Some(Part::Mlp { layer, pos } | Part::Neuron { layer, pos, .. } | Part::Error { layer, pos }) => {
            (cx.hovered.layer, cx.hovered.pos) = (Some(layer), Some(pos));
        }
        Some(Part::Token { pos }) => cx.hovered.pos = Some(pos),
        _ => {}
    }
}

/// A click on a head or neuron shows it everywhere; the traced position stays.
pub fn pin_part(cx: &mut Context<'_>, d: &Drawing, item: &Item) {
    match member(d, item) {
        Some(Member::Component(Component::Head { layer, head })) => {
            cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(head), false, Focus::Head));
        }
        Some(Member::Neuron { layer, neuron }) => {
            cx.pin(|p| (p.layer, p.neuron, p.focus) = (layer, Some(neuron), Focus::Neuron));
        }
        _ => {}
    }
}
