//! Probes at every layer, as a question.

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::controls;
use super::fit::{Data, Probe, Score};
use super::set::{LabelledSet, SHIPPED, Texts};
use crate::engine::{Axis, SiteKind};
use crate::error::{Error, Result, short};
use crate::features::direction::concept::{Pool, begun, carried, held_of};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Draws of each control.
pub const DRAWS: u64 = 5;

/// The kinds of sites that can be read, one a layer: each holds a vector at every position. A norm's scale is a single
/// number.
pub fn sites() -> impl Iterator<Item = SiteKind> {
    SiteKind::ALL
        .into_iter()
        .filter(|kind| kind.layered() && kind.axes().first() == Some(&Axis::Pos) && !kind.axes().contains(&Axis::One))
}

/// A site's name here: the last word of its hook, or the whole hook where several end in that word.
pub fn site_name(kind: SiteKind) -> &'static str {
    let alike = SiteKind::ALL.into_iter().filter(|k| k.layered() && k.short() == kind.short()).count();
    if alike == 1 { kind.short() } else { kind.hook() }
}

/// The site of this name.
///
/// # Errors
/// There is none that can be read.
pub fn site_by_name(name: &str) -> Result<SiteKind> {
    sites().find(|kind| site_name(*kind) == name || kind.hook() == name).ok_or_else(|| {
        let known: Vec<&str> = sites().map(site_name).collect();
        Error::request(format!("there is no site `{}` to read; choose one of {}", short(name), known.join(", ")))
    })
}

/// What a probe reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// All coordinates.
    #[default]
    Linear,
    /// So many coordinates, those that tell the classes apart most.
    Sparse(usize),
}

impl Kind {
    /// # Errors
    /// It reads nothing.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Sparse(0) => Err(Error::request("a probe reads at least one coordinate; give --k 1 or more")),
            _ => Ok(()),
        }
    }

    /// The coordinates that it reads of rows with their classes.
    pub(super) fn coordinates(self, data: &Data<'_>) -> Vec<usize> {
        match self {
            Self::Linear => (0..data.width).collect(),
            Self::Sparse(k) => data.telling(k.min(data.width)),
        }
    }
}

/// What is read off which texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    pub texts: Texts,
    pub site: SiteKind,
    pub pool: Pool,
    pub kind: Kind,
    /// Coordinates of the control with random ones, where the probe is linear.
    pub random: usize,
    /// The layers that are read; none for all.
    pub layers: Vec<usize>,
    /// Draws the split, where the texts do not say it, and the controls.
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            texts: Texts::Set(SHIPPED[0].0.to_owned()),
            site: SiteKind::ResidPost,
            pool: Pool::Mean,
            kind: Kind::Linear,
            random: 16,
            layers: Vec::new(),
            seed: 0,
        }
    }
}

impl Recipe {
    /// # Errors
    /// The control reads all that there is.
    fn check_control(&self, width: usize) -> Result<()> {
        let (name, k) = match self.kind {
            Kind::Linear => ("--random", self.random),
            Kind::Sparse(k) => ("--k", k),
        };
        if k < width {
            return Ok(());
        }
        Err(Error::request(format!(
            "{name} {k}: this site has {width} coordinates, so that the control with random ones would read all of them; give \
             fewer"
        )))
    }
}

/// Asks for probes of a property at a site of some layers, with their controls.
#[derive(Clone, PartialEq)]
pub struct ProbesOf {
    pub model: Arc<Model>,
    pub recipe: Recipe,
}

/// Probes, as far as they are fitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// The set's name and its classes.
    pub set: String,
    pub classes: Vec<String>,
    /// Texts that were fitted on, and that were held out.
    pub train: usize,
    pub test: usize,
    /// Which texts were held out, counted from 0.
    pub held_out: Vec<usize>,
    /// What a reader of the scores has to know, in sentences.
    pub warnings: Vec<String>,
    pub layers: Vec<AtLayer>,
}

impl Probes {
    /// The probe that tells held-out texts apart best; the earliest of equals.
    pub fn best(&self) -> Option<&AtLayer> {
        self.layers.iter().reduce(|a, b| if b.score.auc > a.score.auc { b } else { a })
    }
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
    type Answer = Probes;
    const LABEL: &'static str = "fitting probes";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { model, recipe } = self;
        let Recipe { texts, site, pool, kind, random, layers, seed } = recipe;
        kind.check()?;
        if *random == 0 {
            return Err(Error::request("the control reads at least one coordinate; give --random 1 or more"));
        }
        let set = texts.open(*seed)?;
        let mut layers = layers.clone();
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() {
            layers = (0..model.config.n_layers).collect();
        }
        let texts = begun(model, &set.plain())?;
        // Fits take most of the time: each of a layer's counts as some texts.
        let unit = (2 * texts.len()).div_ceil(layers.len()).max(1) as u64;
        progress.expect((layers.len() as u64) * (3 + 2 * DRAWS) * unit);
        let own = held_of(model, texts.clone(), (*site, &layers), *pool, progress)?;
        let other = controls::random_model(model, *seed, progress)?;
        let other = held_of(&other, texts, (*site, &layers), *pool, progress)?;
        let test = set.held_out();
        let mut found = Probes {
            set: set.name.clone(),
            classes: set.classes.clone(),
            train: set.len() - test,
            test,
            held_out: (0..set.len()).filter(|i| set.test[*i]).collect(),
            warnings: carried(model, &set.plain())?.into_iter().collect(),
            layers: Vec::new(),
        };
        for (layer, (mine, theirs)) in layers.into_iter().zip(own.layers.iter().zip(&other.layers)) {
            progress.check()?;
            let (_, width) = mine.dims2()?;
            recipe.check_control(width)?;
            let (mine, theirs) = (mine.flatten_all()?.to_vec1::<f32>()?, theirs.flatten_all()?.to_vec1::<f32>()?);
            let step = || progress.step(unit);
            found.layers.push(at_layer(layer, width, (&mine, &theirs), &set, recipe, &step)?);
            partial(found.clone());
            progress.step(unit)?;
        }
        Ok(found)
    }
}

/// Asks what fitted probes say of one text: the probability of each class, layer by layer.
#[derive(Clone, PartialEq)]
pub struct SaidOf {
    pub probes: ProbesOf,
    pub found: Arc<Probes>,
    /// The text, as the model reads it.
    pub ids: Vec<u32>,
}

/// By layer, the probability of each class in the set's order.
pub type Said = Vec<(usize, Vec<f32>)>;

impl Question for SaidOf {
    type Answer = Said;
    const LABEL: &'static str = "asking the probes";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { probes: ProbesOf { model, recipe }, found, ids } = self;
        let layers: Vec<usize> = found.layers.iter().map(|l| l.layer).collect();
        // Pooled as the texts that they were fitted on.
        let held = held_of(model, vec![(ids.clone(), 0)], (recipe.site, &layers), recipe.pool, progress)?;
        let one = |(l, row): (&AtLayer, &candle_core::Tensor)| {
            let logits = l.probe.logits(&row.flatten_all()?.to_vec1::<f32>()?);
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let shares: Vec<f32> = logits.iter().map(|v| (v - largest).exp()).collect();
            let sum: f32 = shares.iter().sum();
            Ok((l.layer, shares.into_iter().map(|v| v / sum).collect()))
        };
        found.layers.iter().zip(&held.layers).map(one).collect()
    }
}

/// The probe of one layer beside its controls; `step` is told of each fit but the last.
fn at_layer(
    layer: usize,
    width: usize,
    (mine, theirs): (&[f32], &[f32]),
    set: &LabelledSet,
    recipe: &Recipe,
    step: &(dyn Fn() -> Result<()> + Sync),
) -> Result<AtLayer> {
    let Recipe { kind, random, seed, .. } = *recipe;
    let classes = set.classes.len();
    let data = Data { rows: mine, width, labels: &set.labels, test: &set.test, classes };
    let chosen = |data: &Data<'_>| kind.coordinates(data);
    let k = match kind {
        Kind::Linear => random,
        Kind::Sparse(k) => k,
    };
    let fitted = |data: &Data<'_>, coordinates| -> Result<(Score, Probe)> {
        let probe = data.fit(coordinates);
        step()?;
        Ok((data.judge(&probe), probe))
    };
    let (score, probe) = fitted(&data, chosen(&data))?;
    let shuffled = |draw: u64| {
        let labels = controls::shuffled(&set.labels, &set.test, seed ^ (draw << 8));
        let data = Data { labels: &labels, ..data };
        Ok(fitted(&data, chosen(&data))?.0)
    };
    let drawn = |draw: u64| Ok(fitted(&data, controls::coordinates(width, k, seed ^ (draw << 16)))?.0);
    let all = |one: &(dyn Fn(u64) -> Result<Score> + Sync)| -> Result<Score> {
        Ok(mean(&(0..DRAWS).into_par_iter().map(one).collect::<Result<Vec<_>>>()?))
    };
    let other = Data { rows: theirs, ..data };
    Ok(AtLayer {
        layer,
        probe,
        score,
        shuffled_labels: all(&shuffled)?,
        random_coordinates: all(&drawn)?,
        random_model: fitted(&other, chosen(&other))?.0,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every site that can be read has a name of its own, and a model's are read as they lie: one vector a text.
    #[test]
    fn every_site_is_read_by_its_name() {
        let all: Vec<SiteKind> = sites().collect();
        assert!(all.len() > 15 && all.contains(&SiteKind::Q) && all.contains(&SiteKind::Ln2Normalized), "{all:?}");
        assert!(
            !all.contains(&SiteKind::Pattern) && !all.contains(&SiteKind::Ln1Scale) && !all.contains(&SiteKind::Embed)
        );
        for kind in all {
            assert_eq!(site_by_name(site_name(kind)).unwrap(), kind);
        }
        let error = site_by_name("pattern").unwrap_err().to_string();
        assert!(error.contains("resid_post") && error.contains("ln1.hook_normalized"), "{error}");
        for family in ["mixtral", "gpt2"] {
            let folder = format!("{}/tests/families/{family}", env!("CARGO_MANIFEST_DIR"));
            let model = Model::open(&folder).unwrap();
            for kind in sites().filter(|kind| kind.exists(&model.config)) {
                let texts = vec![(vec![3, 5, 8], 0), (vec![4], 0)];
                let held = held_of(&model, texts, (kind, &[1]), Pool::Last, &Progress::new()).unwrap();
                assert_eq!(held.layers[0].dims()[0], 2, "{family}: {kind:?}");
            }
        }
    }
}
