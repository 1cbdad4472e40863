//! Probes at every layer, as a question.

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::controls;
use super::fit::{Data, Probe, Score};
use super::set::LabelledSet;
use crate::engine::SiteKind;
use crate::error::{Error, Result};
use crate::features::direction::concept::{Pool, begun, held_of};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Draws of each control.
pub const DRAWS: u64 = 5;

/// What a probe reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// All coordinates.
    Linear,
    /// So many coordinates, those that tell the classes apart most.
    Sparse(usize),
}

/// Asks for probes of a property at a site of every layer, with their controls.
#[derive(Clone, PartialEq)]
pub struct ProbesOf {
    pub model: Arc<Model>,
    pub set: Arc<LabelledSet>,
    pub site: SiteKind,
    pub pool: Pool,
    pub kind: Kind,
    /// Coordinates of the control with random ones, where the probe is linear.
    pub random: usize,
    pub seed: u64,
}

/// A probe at one layer, with what it is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtLayer {
    pub layer: usize,
    pub probe: Probe,
    pub score: Score,
    /// The same on labels that were shuffled, the mean of several draws.
    pub shuffled_labels: Score,
    /// On coordinates drawn at random, the mean of several draws.
    pub random_coordinates: Score,
    /// On a model of the same shape with random weights.
    pub random_model: Score,
}

impl Question for ProbesOf {
    type Answer = Vec<AtLayer>;
    const LABEL: &'static str = "fitting probes";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { model, set, site, pool, kind, random, seed } = self;
        if matches!(kind, Kind::Sparse(0)) || *random == 0 {
            return Err(Error::request("a probe reads at least one coordinate; give --k and --random 1 or more"));
        }
        let texts = begun(model, &set.plain())?;
        let own = held_of(model, texts.clone(), *site, *pool, progress)?;
        let other = held_of(&controls::random_model(model, *seed)?, texts, *site, *pool, progress)?;
        progress.expect(own.layers.len() as u64);
        let mut found = Vec::new();
        for (layer, (mine, theirs)) in own.layers.iter().zip(&other.layers).enumerate() {
            progress.check()?;
            let (_, width) = mine.dims2()?;
            let (mine, theirs) = (mine.flatten_all()?.to_vec1::<f32>()?, theirs.flatten_all()?.to_vec1::<f32>()?);
            found.push(at_layer(layer, width, &mine, &theirs, set, *kind, *random, *seed));
            partial(found.clone());
            progress.step(1)?;
        }
        Ok(found)
    }
}

fn at_layer(
    layer: usize,
    width: usize,
    mine: &[f32],
    theirs: &[f32],
    set: &LabelledSet,
    kind: Kind,
    random: usize,
    seed: u64,
) -> AtLayer {
    let classes = set.classes.len();
    let data = Data { rows: mine, width, labels: &set.labels, test: &set.test, classes };
    let chosen = |data: &Data<'_>| match kind {
        Kind::Linear => (0..width).collect(),
        Kind::Sparse(k) => data.telling(k.min(width)),
    };
    let k = match kind {
        Kind::Linear => random.min(width),
        Kind::Sparse(k) => k.min(width),
    };
    let fitted = |data: &Data<'_>, coordinates| {
        let probe = data.fit(coordinates);
        (data.judge(&probe), probe)
    };
    let (score, probe) = fitted(&data, chosen(&data));
    let shuffled = |draw: u64| {
        let labels = controls::shuffled(&set.labels, &set.test, seed ^ (draw << 8));
        let data = Data { labels: &labels, ..data };
        fitted(&data, chosen(&data)).0
    };
    let drawn = |draw: u64| fitted(&data, controls::coordinates(width, k, seed ^ (draw << 16))).0;
    let all = |one: &(dyn Fn(u64) -> Score + Sync)| mean(&(0..DRAWS).into_par_iter().map(one).collect::<Vec<_>>());
    let other = Data { rows: theirs, ..data };
    AtLayer {
        layer,
        probe,
        score,
        shuffled_labels: all(&shuffled),
        random_coordinates: all(&drawn),
        random_model: fitted(&other, chosen(&other)).0,
    }
}

/// The mean of several scores, number by number.
fn mean(scores: &[Score]) -> Score {
    let n = scores.len().max(1) as f32;
    let of = |get: fn(&Score) -> f32| scores.iter().map(get).sum::<f32>() / n;
    Score {
        accuracy: of(|s| s.accuracy),
        accuracy_interval: [of(|s| s.accuracy_interval[0]), of(|s| s.accuracy_interval[1])],
        auc: of(|s| s.auc),
        auc_interval: [of(|s| s.auc_interval[0]), of(|s| s.auc_interval[1])],
    }
}
