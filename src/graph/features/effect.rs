//! What a graph predicts of what it explains when features are given other values, beside what the edited run gives.
//!
//! A feature that is changed changes what its links lead to in proportion; features between answer as they do in the linear
//! model. What happens is read in the same directions.

use std::sync::Arc;

use super::FeatureGraph;
use super::audit::predicted;
use crate::engine::edit::{Action, FeatureChange, Positions};
use crate::engine::{Edit, EditStack, Trace};
use crate::error::Result;
use crate::graph::layout::{Origin, Shown};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// One thing that the graph explains.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub label: String,
    /// The change that the graph predicts, and the one that is there, in logits.
    pub predicted: f32,
    pub happened: f32,
}

/// What edits of features do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effect {
    pub targets: Vec<Told>,
    /// Changed features of which the graph says nothing: they were not active, are no nodes, or stand in a layer whose MLP
    /// is not held while others are.
    pub unknown: usize,
    /// Edits that are not of features of the graph, so that no prediction is made.
    pub others: usize,
}

/// A feature of a graph that an edit changes: its layer, position and number.
pub type Place = (usize, usize, u32);

/// The features that a stack's active edits change, with the changes, and how many edits are of something else. Of a
/// feature that writes at several layers the edit at its own layer counts.
pub fn changes(found: &FeatureGraph, stack: &EditStack) -> (Vec<(Place, FeatureChange)>, usize) {
    let (mut all, mut others) = (Vec::new(), 0);
    for edit in stack.active() {
        let Edit { site, positions, action: Action::Feature { dictionary, feature, change }, .. } = edit else {
            others += 1;
            continue;
        };
        let layer = found.dictionaries.iter().position(|(file, _)| file == dictionary);
        match (layer, positions) {
            (Some(layer), Positions::At(list)) if found.dictionaries[layer].1.contains(site) => {
                if found.dictionaries[layer].1.first() == Some(site) {
                    all.extend(list.iter().map(|pos| ((layer, *pos, *feature as u32), *change)));
                }
            }
            _ => others += 1,
        }
    }
    (all, others)
}

/// What a stack's edits of features do to what a graph explains.
///
/// # Errors
/// A run that is shorter than the graph.
pub fn effect(found: &FeatureGraph, clean: &Trace, edited: &Trace, stack: &EditStack) -> Result<Effect> {
    let (all, others) = changes(found, stack);
    let mut shares = Vec::new();
    let mut unknown = 0;
    for ((layer, pos, feature), change) in all {
        // Where MLPs are held still, changes in other layers do nothing.
        if stack.hold.holds_mlps() && !stack.hold.holds_mlp(layer) {
            unknown += 1;
            continue;
        }
        let node = found.node(layer, pos, feature);
        let activation = node.and_then(|n| found.feature(n)).map(|f| f.activation).filter(|a| *a != 0.0);
        match (node, activation, change) {
            (Some(node), _, FeatureChange::Scale(f)) => shares.push((node, f64::from(f) - 1.0)),
            (Some(node), Some(a), FeatureChange::Set(v)) => shares.push((node, f64::from(v) / f64::from(a) - 1.0)),
            _ => unknown += 1,
        }
    }
    let effects = predicted(&found.graph, &shares);
    let row = |trace: &Trace| -> Result<Vec<f32>> { Ok(trace.normalized(found.pos)?.flatten_all()?.to_vec1()?) };
    let (before, after) = (row(clean)?, row(edited)?);
    let first = found.graph.nodes.len() - found.targets.len();
    let told = |(i, e): (usize, &super::Explained)| Told {
        label: e.label.clone(),
        predicted: effects[first + i],
        happened: e.direction.iter().zip(after.iter().zip(&before)).map(|(d, (a, b))| d * (a - b)).sum(),
    };
    Ok(Effect { targets: found.targets.iter().enumerate().map(told).collect(), unknown, others })
}

/// Asks what a stack's edits do to what a graph explains.
#[derive(Clone, PartialEq)]
pub struct EffectOf {
    pub shown: Arc<Shown>,
    pub edited: Arc<Trace>,
    pub stack: Arc<EditStack>,
}

impl Question for EffectOf {
    type Answer = Effect;
    const LABEL: &'static str = "comparing with the graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Effect)) -> Result<Effect> {
        match &self.shown.source {
            Origin::Features { trace, found, .. } => effect(found, trace, &self.edited, &self.stack),
            Origin::Traced { .. } | Origin::File(_) => Ok(Effect::default()),
        }
    }
}
