//! What a graph predicts of what it explains when features are given other values, beside what the edited run gives.
//!
//! A feature that is changed changes what its links lead to in proportion; features between answer as they do in the linear
//! model. What happens is read in the same directions.

use std::sync::Arc;

use super::FeatureGraph;
use super::audit::predicted;
use super::intervene::{Amount, Change, Stage};
use super::opened::Live;
use crate::engine::edit::{Action, FeatureChange, Positions};
use crate::engine::{Edit, EditStack, Trace};
use crate::error::{Error, Result};
use crate::features::DictionarySet;
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
    /// The most probable next tokens with their probabilities, without the changes and with them, where no edited run says so.
    pub next: Option<[Vec<(u32, f32)>; 2]>,
}

/// Tokens of a prediction that are told.
const TOLD: usize = 4;

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
    compared(found, clean, edited.normalized(found.pos)?.flatten_all()?.to_vec1()?, stack)
}

/// The same without an edited run, which edits cannot make for every model and set: of a stack that changes nothing but features
/// of the graph's set.
///
/// # Errors
/// A stack with other edits, or [`Error::Cancelled`].
pub fn staged(
    found: &FeatureGraph,
    clean: &Trace,
    set: &DictionarySet,
    stack: &EditStack,
    progress: &Progress,
) -> Result<Effect> {
    let (all, others) = changes(found, stack);
    if others > 0 || all.is_empty() {
        return Err(Error::request(
            "only changes of the set's features can be computed without edits; switch the others off",
        ));
    }
    let change = |((layer, pos, feature), change)| match change {
        FeatureChange::Set(v) => Change { layer, pos, feature, amount: Amount::To(v) },
        FeatureChange::Scale(f) => Change { layer, pos, feature, amount: Amount::Times(f) },
    };
    let changes: Vec<Change> = all.into_iter().map(change).collect();
    let stage = Stage::of(clean, set, found.silent, progress)?;
    let changed = stage.run(&changes, &stack.hold, false, progress)?;
    let row = changed.normalized.narrow(0, found.pos, 1)?.flatten_all()?.to_vec1()?;
    let last = clean.len() - 1;
    let before: Vec<f32> = clean.model.network().unembed(&clean.normalized(last)?)?.flatten_all()?.to_vec1()?;
    let next = [before, changed.logits(last)?].map(|logits| probable(&logits));
    Ok(Effect { next: Some(next), ..compared(found, clean, row, stack)? })
}

/// The most probable tokens.
fn probable(logits: &[f32]) -> Vec<(u32, f32)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(TOLD);
    all.into_iter().map(|(id, l)| (id, (f64::from(l - top).exp() / total) as f32)).collect()
}

/// What the graph predicts beside what has become of the final norm's output [d_model].
fn compared(found: &FeatureGraph, clean: &Trace, after: Vec<f32>, stack: &EditStack) -> Result<Effect> {
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
    let before: Vec<f32> = clean.normalized(found.pos)?.flatten_all()?.to_vec1()?;
    let first = found.graph.nodes.len() - found.targets.len();
    let told = |(i, e): (usize, &super::Explained)| Told {
        label: e.label.clone(),
        predicted: effects[first + i],
        happened: e.direction.iter().zip(after.iter().zip(&before)).map(|(d, (a, b))| d * (a - b)).sum(),
    };
    Ok(Effect { targets: found.targets.iter().enumerate().map(told).collect(), unknown, others, next: None })
}

/// Asks what a stack's edits do to what a graph explains.
#[derive(Clone, PartialEq)]
pub struct EffectOf {
    pub live: Live,
    /// `None` where edits cannot make the run.
    pub edited: Option<Arc<Trace>>,
    pub stack: Arc<EditStack>,
}

impl Question for EffectOf {
    type Answer = Effect;
    const LABEL: &'static str = "comparing with the graph";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Effect)) -> Result<Effect> {
        let Live { trace, found, set } = &self.live;
        match &self.edited {
            Some(edited) => effect(found, trace, edited, &self.stack),
            None => staged(found, trace, set, &self.stack, progress),
        }
    }
}
