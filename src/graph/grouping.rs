//! Groups of a drawn graph as questions: to find them, and to say what they do to the scores.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::group::{Activity, Group, group, merged};
use super::influence::Scores;
use super::layout::{Drawing, Origin, Shown};
use super::marks::Marks;
use super::{Influence, NodeKind};
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// A supernode as documents keep it: its name and the ids of its members.
pub type Named = (String, Vec<String>);

/// Groups as nodes of a drawing; members that are not drawn are left out, and so are groups without any.
fn of_drawing(drawing: &Drawing, groups: &[Named]) -> Vec<Group> {
    let nodes = drawing.graph.nodes.iter().enumerate().filter(|(_, n)| n.kind == NodeKind::Component);
    let place: HashMap<&str, usize> = nodes.map(|(i, n)| (n.id.as_str(), i)).collect();
    let group = |(label, ids): &Named| {
        let mut nodes: Vec<usize> = ids.iter().filter_map(|id| place.get(id.as_str()).copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        (!nodes.is_empty()).then(|| Group { label: label.clone(), nodes })
    };
    groups.iter().filter_map(group).collect()
}

/// How alike what two nodes read and write is, from −1 to 1.
pub type Alike = HashMap<(usize, usize), f32>;

/// How alike what features read and write is: the mean of the cosines of their encoder and decoder rows. `features` are
/// nodes, each with its feature's layer and number; the set's layers are read one after the other.
///
/// # Errors
/// A layer or feature that the set does not have, or [`Error::Cancelled`].
pub fn cosines(set: &DictionarySet, features: &[(usize, (usize, u32))], progress: &Progress) -> Result<Alike> {
    let mut by_layer: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
    for (node, (layer, feature)) in features {
        by_layer.entry(*layer).or_default().push((*node, *feature));
    }
    let unit = |mut row: Vec<f32>| {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter_mut().for_each(|v| *v /= length);
        row
    };
    let mut rows: Vec<(usize, [Vec<f32>; 2])> = Vec::new();
    for (layer, features) in by_layer {
        progress.check()?;
        let dictionary = set.read(layer, progress)?;
        for (node, feature) in features {
            let (reads, writes) =
                (dictionary.reader(feature as usize)?, dictionary.summed_direction(feature as usize)?);
            rows.push((node, [unit(reads), unit(writes)]));
        }
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let mut all = HashMap::new();
    for (i, (a, x)) in rows.iter().enumerate() {
        progress.check()?;
        for (b, y) in &rows[..i] {
            let mean = 0.5 * (dot(&x[0], &y[0]) + dot(&x[1], &y[1]));
            all.insert((*a, *b), mean);
            all.insert((*b, *a), mean);
        }
    }
    Ok(all)
}

/// What is known of a drawn graph's features beyond it: when they are active, and how alike they are.
fn known(shown: &Shown, drawing: &Drawing, progress: &Progress) -> Result<(Activity, Alike)> {
    let Origin::Features { found, set, .. } = &shown.source else {
        return Ok((Activity::of(&shown.graph), Alike::new()));
    };
    // All active ones, not only those that are nodes.
    let activity = found.features.iter().map(|f| (format!("{}_{}", f.layer, f.feature), f.pos, f.activation));
    let nodes = drawing.graph.nodes.iter().enumerate().filter(|(_, n)| n.kind == NodeKind::Component);
    let feature = |id: &str| found.by_id(id).and_then(|n| found.feature(n)).map(|f| (f.layer, f.feature));
    let features: Vec<_> = nodes.filter_map(|(i, n)| Some((i, feature(&n.id)?))).collect();
    Ok((Activity::new(activity), cosines(set, &features, progress)?))
}

/// Groups that were found, with what the groups that were begun have beyond the drawing: that they stay together.
fn with_undrawn(mut found: Vec<Named>, drawing: &Drawing, begun: &[Named]) -> Vec<Named> {
    let nodes = drawing.graph.nodes.iter().filter(|n| n.kind == NodeKind::Component);
    let drawn: HashSet<&str> = nodes.map(|n| n.id.as_str()).collect();
    for (label, ids) in begun {
        let (here, rest): (Vec<&String>, Vec<&String>) = ids.iter().partition(|id| drawn.contains(id.as_str()));
        let same = |(_, members): &Named| here.first().is_some_and(|first| members.contains(first));
        match found.iter_mut().find(|g| same(g)) {
            Some((_, members)) => members.extend(rest.into_iter().cloned()),
            None => {
                let mut marks = Marks { groups: std::mem::take(&mut found), ..Marks::default() };
                marks.group(label, ids.clone());
                found = marks.groups;
            }
        }
    }
    found
}

/// Asks for the drawn features in a few groups. Groups that are there stay together.
#[derive(Clone, PartialEq)]
pub struct GroupsOf {
    pub shown: Arc<Shown>,
    pub drawing: Arc<Drawing>,
    pub begun: Vec<Named>,
    /// Groups at most.
    pub most: usize,
}

impl Question for GroupsOf {
    type Answer = Vec<Named>;
    const LABEL: &'static str = "grouping the graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Vec<Named>)) -> Result<Vec<Named>> {
        let graph = &self.drawing.graph;
        if !graph.nodes.iter().any(|n| n.kind == NodeKind::Component) {
            return Err(Error::request(
                "nothing stands between tokens and logits that could be grouped; keep more nodes",
            ));
        }
        let (activity, known) = known(&self.shown, &self.drawing, progress)?;
        let alike = |a: usize, b: usize| known.get(&(a, b)).copied().unwrap_or(0.0);
        let alike: Option<&dyn Fn(usize, usize) -> f32> = if known.is_empty() { None } else { Some(&alike) };
        let begun = of_drawing(&self.drawing, &self.begun);
        let found = group(graph, &begun, self.most, &activity, alike, progress)?;
        let id = |i: &usize| graph.nodes[*i].id.clone();
        let mut named: Vec<Named> = Vec::new();
        // A feature by itself is a node as it is.
        for g in found.groups.iter().filter(|g| g.nodes.len() > 1) {
            let taken = |label: &str| named.iter().any(|(n, _)| n == label);
            let mut label = g.label.clone();
            if taken(&label) {
                label = (2..).map(|i| format!("{} {i}", g.label)).find(|l| !taken(l)).unwrap_or_default();
            }
            named.push((label, g.nodes.iter().map(id).collect()));
        }
        Ok(with_undrawn(named, &self.drawing, &self.begun))
    }
}

/// Asks for the scores of a drawn graph as it is, and with its groups as nodes.
#[derive(Clone, PartialEq)]
pub struct GroupScoresOf {
    pub drawing: Arc<Drawing>,
    pub groups: Vec<Named>,
}

impl Question for GroupScoresOf {
    /// Before and after.
    type Answer = (Scores, Scores);
    const LABEL: &'static str = "scores of the grouped graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let graph = &self.drawing.graph;
        let before = Scores::of(graph, &Influence::of(graph));
        let grouped = merged(graph, &of_drawing(&self.drawing, &self.groups)).map_err(|_| {
            Error::request(
                "links between the groups run in a circle, so that the grouped graph has no scores; take a node out",
            )
        })?;
        Ok((before, Scores::of(&grouped, &Influence::of(&grouped))))
    }
}
