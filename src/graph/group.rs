//! Supernodes by themselves: features of a graph put together by what feeds them, what they feed, and where they stand,
//! until a few groups are left that can be read like a sentence.
//!
//! Groups are merged by average linkage [Sokal and Michener 1958], the most alike first, and never so that links between
//! groups would run in a circle: then a grouped graph is a graph like any other, with influence and scores of its own.
//! A link between groups is the sum of its members' links.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::file::GraphFile;
use super::influence::Scores;
use super::marks::pinned_ids;
use super::{Graph, Influence, Node, NodeKind};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Features that are grouped at most: every pair of them is compared.
const MOST: usize = 1500;

/// Groups that are left unless somebody says otherwise.
pub const GROUPS: usize = 9;

/// A supernode.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub label: String,
    /// Nodes of the graph, rising.
    pub nodes: Vec<usize>,
}

/// A grouped graph.
pub struct Grouped {
    pub groups: Vec<Group>,
    /// Groups, then errors, tokens and logits as they were.
    pub graph: Graph,
    pub before: Scores,
    pub after: Scores,
}

/// What a graph file's viewer calls supernodes: label and members.
pub fn supernodes(file: &GraphFile) -> Vec<Group> {
    let list = file.document.get("qParams").and_then(|q| q.get("supernodes")).and_then(Value::as_array);
    let place: HashMap<&str, usize> = file
        .graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, n)| n.kind == NodeKind::Component)
        .map(|(i, n)| (n.id.as_str(), i))
        .collect();
    let mut taken = BTreeSet::new();
    let group = |group: &Value| {
        let mut words = group.as_array()?.iter().filter_map(Value::as_str);
        let label = words.next()?.to_owned();
        let mut nodes: Vec<usize> =
            words.filter_map(|id| place.get(id).copied()).filter(|i| taken.insert(*i)).collect();
        nodes.sort_unstable();
        (!nodes.is_empty()).then_some(Group { label, nodes })
    };
    list.into_iter().flatten().filter_map(group).collect()
}

/// Writes groups of two and more into a graph file as its supernodes. Viewers show their members only if those are pinned.
pub fn write_supernodes(file: &mut GraphFile, groups: &[Group]) {
    let mut pinned = pinned_ids(file);
    let groups: Vec<&Group> = groups.iter().filter(|g| g.nodes.len() > 1).collect();
    pinned.extend(groups.iter().flat_map(|g| &g.nodes).map(|i| file.graph.nodes[*i].id.clone()));
    let id = |i: &usize| json!(file.graph.nodes[*i].id);
    let list: Vec<Value> = groups
        .iter()
        .map(|g| std::iter::once(json!(g.label)).chain(g.nodes.iter().map(id)).collect())
        .map(Value::Array)
        .collect();
    let q = file.document.entry("qParams").or_insert_with(|| json!({}));
    if let Value::Object(q) = q {
        q.insert("supernodes".to_owned(), Value::Array(list));
        q.insert("pinnedIds".to_owned(), json!(pinned));
    }
}

/// How active features are, by a feature's name: a node's id without its position.
#[derive(Clone, Debug, Default)]
pub struct Activity(HashMap<String, Vec<(usize, f32)>>);

impl Activity {
    /// Of (feature's name, position, activation).
    pub fn new(all: impl IntoIterator<Item = (String, usize, f32)>) -> Self {
        let mut by_name: HashMap<String, Vec<(usize, f32)>> = HashMap::new();
        for (name, pos, activation) in all {
            by_name.entry(name).or_default().push((pos, activation));
        }
        Self(by_name.into_iter().map(|(name, at)| (name, profile(at))).collect())
    }

    /// As far as a graph's nodes say.
    pub fn of(graph: &Graph) -> Self {
        let active = graph.nodes.iter().filter(|n| n.kind == NodeKind::Component);
        Self::new(active.filter_map(|n| Some((name(&n.id)?.to_owned(), n.pos, n.activation? as f32))))
    }

    /// The cosine of two nodes' activations over the positions: 1 where they are active together, 0 where never.
    fn together(&self, a: &Node, b: &Node) -> f32 {
        let of = |n: &Node| name(&n.id).and_then(|name| self.0.get(name));
        of(a).zip(of(b)).map_or(0.0, |(a, b)| cosine(a, b))
    }
}

/// A feature's name, which its nodes at all positions share.
fn name(id: &str) -> Option<&str> {
    id.rsplit_once('_').map(|(feature, _)| feature)
}

/// Puts the features of a graph into at most `most` groups, or as few as links without a circle allow; `begun` are groups
/// that stay together. `alike` compares what two nodes read and write, from −1 to 1.
///
/// # Errors
/// More features than can be compared, groups whose links run in a circle, or [`Error::Cancelled`].
pub fn group(
    graph: &Graph,
    begun: &[Group],
    most: usize,
    activity: &Activity,
    alike: Option<&dyn Fn(usize, usize) -> f32>,
    progress: &Progress,
) -> Result<Grouped> {
    let features: Vec<usize> = (0..graph.nodes.len()).filter(|i| graph.nodes[*i].kind == NodeKind::Component).collect();
    if features.len() > MOST {
        return Err(Error::request(format!(
            "{} features are too many to be grouped; prune the graph to a smaller share first, to {MOST} or fewer",
            features.len()
        )));
    }
    let influence = Influence::of(graph);
    let before = Scores::of(graph, &influence);
    let mut clusters = Clusters::new(graph, &features, begun, (&influence, activity), alike);
    progress.expect(clusters.members.len().saturating_sub(most) as u64);
    while clusters.members.len() - clusters.gone > most.max(1) {
        progress.check()?;
        if !clusters.merge_best() {
            break;
        }
        progress.step(1)?;
    }
    let groups = clusters.named(graph, &influence, begun);
    let merged = merged(graph, &groups)?;
    let after = Scores::of(&merged, &Influence::of(&merged));
    Ok(Grouped { groups, graph: merged, before, after })
}

/// A graph with each group as one node, the groups first.
///
/// # Errors
/// Links between groups run in a circle.
pub fn merged(graph: &Graph, groups: &[Group]) -> Result<Graph> {
    let mut place: Vec<Option<u32>> = vec![None; graph.nodes.len()];
    let mut nodes = Vec::new();
    for group in groups {
        let member = |f: &dyn Fn(&Node) -> f64| group.nodes.iter().map(|i| f(&graph.nodes[*i])).sum::<f64>();
        let n = group.nodes.len().max(1) as f64;
        group.nodes.iter().for_each(|i| place[*i] = Some(nodes.len() as u32));
        nodes.push(Node {
            id: format!("group_{}", nodes.len()),
            kind: NodeKind::Component,
            layer: (member(&|n| f64::from(n.layer)) / n).round() as i32,
            pos: (member(&|n| n.pos as f64) / n).round() as usize,
            label: group.label.clone(),
            prob: 0.0,
            activation: Some(member(&|n| n.activation.unwrap_or(0.0))),
        });
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        if place[i].is_none() {
            place[i] = Some(nodes.len() as u32);
            nodes.push(node.clone());
        }
    }
    let mut sums: HashMap<(u32, u32), f64> = HashMap::new();
    for (s, t, w) in graph.triples() {
        if let (Some(s), Some(t)) = (place[s], place[t])
            && s != t
        {
            *sums.entry((s, t)).or_default() += f64::from(w);
        }
    }
    let mut links: Vec<(u32, u32, f32)> = sums.into_iter().map(|((s, t), w)| (s, t, w as f32)).collect();
    links.sort_unstable_by_key(|l| (l.1, l.0));
    Graph::new(graph.prompt_tokens.clone(), nodes, &links)
}

/// Groups while they grow.
struct Clusters {
    /// Nodes of each; empty where it went into another.
    members: Vec<Vec<usize>>,
    gone: usize,
    /// How alike two are, on average over their members; [i][j].
    alike: Vec<Vec<f32>>,
    /// Which others each leads to.
    leads: Vec<BTreeSet<usize>>,
    /// Pairs that cannot be merged, as links would run in a circle.
    blocked: BTreeSet<(usize, usize)>,
}

/// Sparse vectors of what feeds a node and what it feeds, of length 1.
fn profile(mut entries: Vec<(usize, f32)>) -> Vec<(usize, f32)> {
    entries.sort_unstable_by_key(|e| e.0);
    let length = entries.iter().map(|e| e.1 * e.1).sum::<f32>().sqrt();
    entries.iter_mut().for_each(|e| e.1 /= length.max(f32::MIN_POSITIVE));
    entries
}

fn cosine(a: &[(usize, f32)], b: &[(usize, f32)]) -> f32 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.0 == y.0 {
            sum += x.1 * y.1;
        }
        (i, j) = (i + usize::from(x.0 <= y.0), j + usize::from(y.0 <= x.0));
    }
    sum
}

impl Clusters {
    fn new(
        graph: &Graph,
        features: &[usize],
        begun: &[Group],
        (influence, activity): (&Influence, &Activity),
        more: Option<&dyn Fn(usize, usize) -> f32>,
    ) -> Self {
        // What feeds a node as shares of its input, what it feeds by how much flows there.
        let (mut fed, mut feeds) = (vec![Vec::new(); graph.nodes.len()], vec![Vec::new(); graph.nodes.len()]);
        for (s, t, w) in graph.triples() {
            let sign = w.signum();
            let share = influence.share(t, w) as f32;
            fed[t].push((s, sign * share));
            feeds[s].push((t, sign * share * influence.through(graph, t) as f32));
        }
        let (fed, feeds): (Vec<_>, Vec<_>) =
            (fed.into_iter().map(profile).collect(), feeds.into_iter().map(profile).collect());
        let similar = |a: usize, b: usize| -> f32 {
            let (x, y) = (&graph.nodes[a], &graph.nodes[b]);
            let near = |d: f32, scale: f32| (-d / scale).exp();
            let place = 0.5 * near((x.pos as f32 - y.pos as f32).abs(), 2.0)
                + 0.5 * near((x.layer - y.layer).abs() as f32, 4.0);
            let same = f32::from(u8::from(name(&x.id) == name(&y.id) || (!x.label.is_empty() && x.label == y.label)));
            let links = 0.5 * (cosine(&fed[a], &fed[b]) + cosine(&feeds[a], &feeds[b]));
            let known = 0.4 * links + 0.2 * activity.together(x, y) + 0.25 * place + 0.15 * same;
            more.map_or(known, |more| 0.6 * known + 0.4 * more(a, b))
        };
        let mut members: Vec<Vec<usize>> = begun.iter().map(|g| g.nodes.clone()).collect();
        let taken: BTreeSet<usize> = members.iter().flatten().copied().collect();
        members.extend(features.iter().filter(|i| !taken.contains(i)).map(|i| vec![*i]));
        let n = members.len();
        let mut alike = vec![vec![0f32; n]; n];
        for i in 0..n {
            for j in 0..i {
                let pairs = members[i].iter().flat_map(|a| members[j].iter().map(move |b| (*a, *b)));
                let sum: f32 = pairs.map(|(a, b)| similar(a, b)).sum();
                let mean = sum / (members[i].len() * members[j].len()) as f32;
                (alike[i][j], alike[j][i]) = (mean, mean);
            }
        }
        let of: HashMap<usize, usize> =
            members.iter().enumerate().flat_map(|(c, nodes)| nodes.iter().map(move |i| (*i, c))).collect();
        let mut leads = vec![BTreeSet::new(); n];
        for (s, t, _) in graph.triples() {
            if let (Some(s), Some(t)) = (of.get(&s), of.get(&t))
                && s != t
            {
                leads[*s].insert(*t);
            }
        }
        Self { members, gone: 0, alike, leads, blocked: BTreeSet::new() }
    }

    /// Merges the two that are most alike and may be merged; false where there are none.
    fn merge_best(&mut self) -> bool {
        let n = self.members.len();
        let there: Vec<usize> = (0..n).filter(|i| !self.members[*i].is_empty()).collect();
        let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
        for (at, i) in there.iter().enumerate() {
            let free = there[..at].iter().filter(|j| !self.blocked.contains(&(**j, *i)));
            pairs.extend(free.map(|j| (self.alike[*i][*j], *j, *i)).max_by(|a, b| a.0.total_cmp(&b.0)));
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, a, b) in pairs {
            if self.path_around(a, b) || self.path_around(b, a) {
                self.blocked.insert((a, b));
                continue;
            }
            self.merge(a, b);
            return true;
        }
        // The best partner of each was blocked: others may be free.
        let all = there.len() * there.len().saturating_sub(1) / 2;
        if there.len() > 1 && self.blocked.len() < all { self.merge_best() } else { false }
    }

    /// Whether a path leads from one to another through a third.
    fn path_around(&self, from: usize, to: usize) -> bool {
        let mut seen = vec![false; self.members.len()];
        let mut next: Vec<usize> = self.leads[from].iter().copied().filter(|c| *c != to).collect();
        while let Some(c) = next.pop() {
            if c == to {
                return true;
            }
            if !std::mem::replace(&mut seen[c], true) {
                next.extend(&self.leads[c]);
            }
        }
        false
    }

    /// Puts the second into the first.
    fn merge(&mut self, a: usize, b: usize) {
        let (na, nb) = (self.members[a].len() as f32, self.members[b].len() as f32);
        for c in 0..self.members.len() {
            let mean = (na * self.alike[a][c] + nb * self.alike[b][c]) / (na + nb);
            (self.alike[a][c], self.alike[c][a]) = (mean, mean);
        }
        let moved = std::mem::take(&mut self.members[b]);
        self.members[a].extend(moved);
        let leads = std::mem::take(&mut self.leads[b]);
        self.leads[a].extend(leads);
        for c in &mut self.leads {
            if c.remove(&b) {
                c.insert(a);
            }
        }
        self.leads[a].remove(&a);
        self.blocked.retain(|(x, y)| ![*x, *y].contains(&a) && ![*x, *y].contains(&b));
        self.gone += 1;
    }

    /// The groups, those that flow the most first, named after their leading member.
    fn named(self, graph: &Graph, influence: &Influence, begun: &[Group]) -> Vec<Group> {
        let held = |nodes: &[usize]| nodes.iter().map(|i| influence.values[*i]).sum::<f64>();
        let mut groups: Vec<Group> = Vec::new();
        for mut nodes in self.members.into_iter().filter(|m| !m.is_empty()) {
            nodes.sort_unstable();
            let first = nodes.iter().copied().max_by(|a, b| influence.values[*a].total_cmp(&influence.values[*b]));
            let own = begun.iter().find(|g| g.nodes.iter().any(|i| nodes.contains(i))).map(|g| g.label.clone());
            let label = own.unwrap_or_else(|| {
                let Some(node) = first.map(|i| &graph.nodes[i]) else { return String::new() };
                let name = if node.label.is_empty() { node.id.clone() } else { node.label.clone() };
                let more = nodes.len() - 1;
                if more == 0 { name } else { format!("{name} +{more}") }
            });
            groups.push(Group { label, nodes });
        }
        groups.sort_by(|a, b| held(&b.nodes).total_cmp(&held(&a.nodes)));
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::graph;
    use super::*;

    /// Two tokens, each feeding two features of its own, which feed the logit.
    fn pairs() -> Graph {
        use NodeKind::{Component, Logit, Token};
        let links =
            [(4, 0, 1.0), (4, 1, 1.0), (5, 2, 1.0), (5, 3, -1.0), (0, 6, 1.0), (1, 6, 1.0), (2, 6, -1.0), (3, 6, -1.0)];
        let mut g = graph(&[Component, Component, Component, Component, Token, Token, Logit], &[1.0], &links).unwrap();
        for (i, node) in g.nodes.iter_mut().enumerate() {
            node.id = format!("{i}_{i}_0");
        }
        g
    }

    #[test]
    fn what_is_fed_alike_comes_together() {
        let g = pairs();
        let found = group(&g, &[], 3, &Activity::of(&g), None, &Progress::new()).unwrap();
        let sets: Vec<&[usize]> = found.groups.iter().map(|g| &g.nodes[..]).collect();
        assert!(sets.contains(&&[0, 1][..]), "{sets:?}");
        // A chain of two: nothing is lost of the influence, and the scores stay.
        assert_eq!(found.before, found.after);
        assert_eq!(found.graph.nodes.len(), 3 + 3);
    }

    #[test]
    fn what_is_active_together_comes_together() {
        use NodeKind::{Component, Logit, Token};
        // Four features at one place, fed and feeding alike, so that nothing tells them apart but when they are active.
        let links = [(4, 0), (4, 1), (4, 2), (4, 3), (0, 5), (1, 5), (2, 5), (3, 5)].map(|(s, t)| (s, t, 1.0));
        let mut g = graph(&[Component, Component, Component, Component, Token, Logit], &[1.0], &links).unwrap();
        for (i, node) in g.nodes.iter_mut().enumerate() {
            (node.id, node.activation) = (format!("0_{i}_0"), Some(1.0));
        }
        // 0 and 2 at the first two positions, 1 and 3 at the first and the third.
        let at = |f: usize, pos: usize, a: f32| (format!("0_{f}"), pos, a);
        let active = [
            at(0, 0, 1.0),
            at(0, 1, 3.0),
            at(2, 0, 1.0),
            at(2, 1, 3.0),
            at(1, 0, 1.0),
            at(1, 2, 3.0),
            at(3, 0, 2.0),
            at(3, 2, 6.0),
        ];
        let activity = Activity::new(active);
        let together = |a: usize, b: usize| activity.together(&g.nodes[a], &g.nodes[b]);
        // (1·1) / (√10 · √10), and twice the same is the same.
        assert!((together(0, 1) - 0.1).abs() < 1e-6 && (together(1, 3) - 1.0).abs() < 1e-6);
        let found = group(&g, &[], 2, &activity, None, &Progress::new()).unwrap();
        let mut sets: Vec<Vec<usize>> = found.groups.iter().map(|g| g.nodes.clone()).collect();
        sets.sort();
        assert_eq!(sets, [vec![0, 2], vec![1, 3]]);
        // Of a file's nodes the same is read as far as they are there.
        let mut file = g.clone();
        let mut more = g.nodes[1].clone();
        (more.id, more.pos, more.activation) = ("0_1_2".to_owned(), 2, Some(2.0));
        file.nodes.push(more);
        let of_file = Activity::of(&file);
        assert!((of_file.together(&g.nodes[0], &g.nodes[1]) - 1.0 / 5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn groups_that_were_begun_stay_together() {
        let begun = [Group { label: "mine".to_owned(), nodes: vec![0, 2] }];
        let found = group(&pairs(), &begun, 2, &Activity::default(), None, &Progress::new()).unwrap();
        let mine = found.groups.iter().find(|g| g.label == "mine").unwrap();
        assert!(mine.nodes.contains(&0) && mine.nodes.contains(&2));
        assert_eq!(found.groups.iter().map(|g| g.nodes.len()).sum::<usize>(), 4);
    }

    #[test]
    fn no_circle_is_made() {
        use NodeKind::{Component, Logit, Token};
        // c0 → c1 → c2 with c0 and c2 alike: they cannot be one without c1.
        let links = [(3, 0, 1.0), (3, 2, 1.0), (0, 1, 1.0), (1, 2, 1.0), (2, 4, 1.0), (0, 4, 1.0)];
        let g = graph(&[Component, Component, Component, Token, Logit], &[1.0], &links).unwrap();
        let alike = |a: usize, b: usize| if (a, b) == (0, 2) || (a, b) == (2, 0) { 1.0 } else { -1.0 };
        let found = group(&g, &[], 2, &Activity::default(), Some(&alike), &Progress::new()).unwrap();
        assert_eq!(found.groups.len(), 2);
        assert!(!found.groups.iter().any(|g| g.nodes == [0, 2]));
        assert!(merged(&g, &[Group { label: String::new(), nodes: vec![0, 2] }]).is_err());
    }
}
