//! A direction for a concept at every layer, from texts that have it and texts that lack it: difference of means
//! [Marks and Tegmark 2023], logistic regression, or the first principal component of paired differences [Zou et al.
//! 2023]. How well it tells held-out texts apart is measured beside the same procedure on random labels.

pub mod concept;
pub mod search;

use std::path::Path;

use candle_core::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::engine::edit::{Action, Direction as EditDirection, Edit};
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::features::dictionary::place::Place;
use crate::features::direction::concept::{ConceptSet, Held, Pool, held};
use crate::files::{LARGE, read_text, write_atomic};
use crate::model::Model;
use crate::progress::Progress;

/// How a direction is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    DifferenceOfMeans,
    LogisticRegression,
    PcaOfDifferences,
}

impl Method {
    pub const ALL: [Self; 3] = [Self::DifferenceOfMeans, Self::LogisticRegression, Self::PcaOfDifferences];

    pub fn name(self) -> &'static str {
        match self {
            Self::DifferenceOfMeans => "difference-of-means",
            Self::LogisticRegression => "logistic-regression",
            Self::PcaOfDifferences => "pca-of-differences",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// A direction at one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtLayer {
    pub layer: usize,
    /// Scaled so that adding it once moves a text as far as the two classes' means lie apart along it; [width].
    pub vector: Vec<f32>,
    /// Projections on the unit direction: halfway between the training classes' means.
    pub threshold: f32,
    /// Distance between the training classes' means along the unit direction.
    pub gap: f32,
    /// Mean squared length of what the site holds, rooted: what a strength is to be compared with.
    pub typical_length: f32,
    pub accuracy: f32,
    pub auc: f32,
    /// The same for directions fitted to random labels, mean over [`CONTROLS`].
    pub control_accuracy: f32,
    pub control_auc: f32,
}

crate::identity!(Concept);

/// A concept's directions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Concept {
    pub name: String,
    pub model: String,
    pub method: Method,
    pub pool: Pool,
    /// The site's hook, as in `hook_resid_post`.
    pub hook: String,
    pub train: usize,
    pub test: usize,
    pub layers: Vec<AtLayer>,
}

/// Directions fitted to random labels, as a control.
pub const CONTROLS: usize = 5;

impl Concept {
    /// The layer whose direction tells held-out texts apart best; the earliest of equals.
    pub fn best(&self) -> Option<&AtLayer> {
        self.layers.iter().reduce(|a, b| if b.auc > a.auc { b } else { a })
    }

    /// The layer that is asked for, or the best.
    ///
    /// # Errors
    /// A layer without a direction.
    pub fn layer(&self, asked: Option<usize>) -> Result<usize> {
        match asked {
            Some(l) => Ok(self.at(l)?.layer),
            None => Ok(self.best().ok_or_else(|| Error::request("the file holds no direction"))?.layer),
        }
    }

    /// What tells a layer's direction from those found in another way or place.
    pub fn title(&self, layer: usize) -> String {
        let pool = match self.pool {
            Pool::Mean => "means",
            Pool::Last => "last tokens",
        };
        format!("{}, {} of {pool}, at blocks.{layer}.{}", self.name, self.method.name(), self.hook)
    }

    /// Checks that the directions were found in this model.
    ///
    /// # Errors
    /// One sentence with both names.
    pub fn check(&self, model: &Model) -> Result<()> {
        if self.model == model.config.name {
            return Ok(());
        }
        Err(Error::request(format!(
            "{} was found in {}, not {}; find it in this model, or open that one",
            self.name, self.model, model.config.name
        )))
    }

    /// Takes the direction away at a layer.
    ///
    /// # Errors
    /// A layer without a direction.
    pub fn ablate(&self, layer: usize) -> Result<Edit> {
        Ok(Edit::new(self.site(layer)?, Action::Project { direction: self.edit_direction(layer)? }))
    }

    pub fn kind(&self) -> Option<SiteKind> {
        SiteKind::ALL.into_iter().find(|k| k.hook() == self.hook)
    }

    pub fn site(&self, layer: usize) -> Result<Site> {
        let kind = self.kind().ok_or_else(|| Error::request(format!("`{}` is not the name of a site", self.hook)))?;
        Ok(Site::new(kind, layer))
    }

    pub fn at(&self, layer: usize) -> Result<&AtLayer> {
        self.layers.iter().find(|l| l.layer == layer).ok_or_else(|| {
            Error::request(format!(
                "{} has no direction at layer {layer}; layers go to {}",
                self.name,
                self.layers.len()
            ))
        })
    }

    /// The direction as edits know it.
    pub fn edit_direction(&self, layer: usize) -> Result<EditDirection> {
        let vector = self.at(layer)?.vector.clone();
        Ok(EditDirection::Concept { name: format!("{} (layer {layer})", self.name), vector })
    }

    /// Adds the direction `alpha` times at a layer.
    ///
    /// # Errors
    /// A layer without a direction.
    pub fn steer(&self, layer: usize, alpha: f32) -> Result<Edit> {
        let action = Action::Add { direction: self.edit_direction(layer)?, factor: alpha };
        Ok(Edit::new(self.site(layer)?, action))
    }

    /// Values of positions along the direction, less the threshold, in gaps: +½ is where texts with the concept are on
    /// average, −½ where those without. `rows` are the site's, [n, width].
    ///
    /// # Errors
    /// Rows of another width.
    pub fn read(&self, layer: usize, rows: &Tensor) -> Result<Vec<f32>> {
        let at = self.at(layer)?;
        let (_, width) = rows.dims2()?;
        if width != at.vector.len() {
            return Err(Error::request(format!(
                "the direction {} has {} numbers, but the site holds vectors [{width}]; it was found in {}",
                self.name,
                at.vector.len(),
                self.model
            )));
        }
        let v = Tensor::new(unit(&at.vector).as_slice(), rows.device())?.unsqueeze(1)?;
        let values: Vec<f32> = rows.contiguous()?.matmul(&v)?.flatten_all()?.to_vec1()?;
        Ok(values.into_iter().map(|p| (p - at.threshold) / at.gap.max(f32::MIN_POSITIVE)).collect())
    }

    /// Cosines with a dictionary's decoder rows: (feature, cosine), the largest magnitudes first.
    ///
    /// # Errors
    /// Another width, or places whose directions cannot be compared.
    pub fn similar(&self, layer: usize, dictionary: &Dictionary, count: usize) -> Result<Vec<(usize, f32)>> {
        let v = unit(&self.at(layer)?.vector);
        if v.len() != dictionary.d_out {
            return Err(Error::request(format!(
                "the direction has {} numbers, but the dictionary {} writes vectors [{}]",
                v.len(),
                dictionary.name,
                dictionary.d_out
            )));
        }
        let place = Place::from(self.site(layer)?);
        if let Some(output) = dictionary.output.filter(|o| !o.comparable(place, None)) {
            return Err(Error::request(format!(
                "the direction lies at {place}, but the dictionary {} writes {output}: cosines between them mean nothing",
                dictionary.name
            )));
        }
        let dots = dictionary.w_dec.matmul(&Tensor::new(v.as_slice(), dictionary.w_dec.device())?.unsqueeze(1)?)?;
        let dots: Vec<f32> = dots.flatten_all()?.to_vec1()?;
        let norms = dictionary.decoder_norms()?;
        let mut all: Vec<(usize, f32)> =
            dots.iter().zip(norms).map(|(d, n)| if n > 0.0 { d / n } else { 0.0 }).enumerate().collect();
        all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        all.truncate(count);
        Ok(all)
    }

    /// # Errors
    /// A file that is none.
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_text(path, LARGE)?;
        let concept: Self = serde_json::from_str(&text).map_err(|e| Error::Malformed {
            path: path.to_owned(),
            format: "direction",
            what: e.to_string(),
        })?;
        let wrong = concept.layers.iter().any(|l| l.vector.iter().any(|v| !v.is_finite()));
        if wrong || concept.layers.is_empty() {
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "direction",
                what: "it holds no direction, or values that are no numbers".to_owned(),
            });
        }
        Ok(concept)
    }

    /// The file's contents, as [`Self::open`] reads them.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::failed(e.to_string()))
    }

    /// # Errors
    /// As writing a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomic(path, &self.to_json()?)
    }
}

/// Finds a concept's direction at every layer.
///
/// # Errors
/// As running the texts.
pub fn find(
    model: &Model,
    set: &ConceptSet,
    kind: SiteKind,
    pool: Pool,
    method: Method,
    progress: &Progress,
) -> Result<Concept> {
    fit(model, set, &held(model, set, kind, pool, progress)?, pool, method, progress)
}

/// Fits directions to what was held.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn fit(
    model: &Model,
    set: &ConceptSet,
    held: &Held,
    pool: Pool,
    method: Method,
    progress: &Progress,
) -> Result<Concept> {
    progress.expect(held.layers.len() as u64);
    let labels: Vec<bool> = set.examples.iter().map(|e| e.positive).collect();
    let test: Vec<bool> = set.examples.iter().map(|e| e.test).collect();
    let words: Vec<Vec<&str>> = set
        .examples
        .iter()
        .map(|e| {
            let mut words: Vec<&str> = e.text.split_whitespace().collect();
            words.sort_unstable();
            words
        })
        .collect();
    let controls: Vec<Vec<bool>> = (0..CONTROLS as u64).map(|seed| shuffled(&labels, &test, seed)).collect();
    let mut layers = Vec::with_capacity(held.layers.len());
    for (layer, values) in held.layers.iter().enumerate() {
        let (_, d) = values.dims2()?;
        let rows = values.flatten_all()?.to_vec1::<f32>()?;
        let data = Data { rows: &rows, d, test: &test, words: &words };
        let own = data.direction(method, &labels);
        let (mut control_accuracy, mut control_auc) = (0.0, 0.0);
        for labels in &controls {
            let control = data.direction(method, labels);
            let (accuracy, auc) = data.judge(&control, labels);
            control_accuracy += accuracy / CONTROLS as f32;
            control_auc += auc / CONTROLS as f32;
        }
        let (accuracy, auc) = data.judge(&own, &labels);
        let squares: f64 = rows.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        layers.push(AtLayer {
            layer,
            vector: own.unit.iter().map(|v| v * own.gap).collect(),
            threshold: own.threshold,
            gap: own.gap,
            typical_length: (squares / labels.len().max(1) as f64).sqrt() as f32,
            accuracy,
            auc,
            control_accuracy,
            control_auc,
        });
        progress.step(1)?;
    }
    Ok(Concept {
        name: set.name.clone(),
        model: model.config.name.clone(),
        method,
        pool,
        hook: held.kind.hook().to_owned(),
        train: test.iter().filter(|t| !**t).count(),
        test: test.iter().filter(|t| **t).count(),
        layers,
    })
}

/// Labels in another order, within the training texts and within the held-out ones.
fn shuffled(labels: &[bool], test: &[bool], seed: u64) -> Vec<bool> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = labels.to_vec();
    for side in [false, true] {
        let places: Vec<usize> = (0..labels.len()).filter(|i| test[*i] == side).collect();
        let mut values: Vec<bool> = places.iter().map(|i| labels[*i]).collect();
        values.shuffle(&mut rng);
        for (i, v) in places.into_iter().zip(values) {
            out[i] = v;
        }
    }
    out
}

struct Data<'a> {
    rows: &'a [f32],
    d: usize,
    test: &'a [bool],
    /// The words of each text, sorted.
    words: &'a [Vec<&'a str>],
}

/// Share of two texts' words that they have in common.
fn overlap(a: &[&str], b: &[&str]) -> f32 {
    let both = a.iter().filter(|w| b.binary_search(w).is_ok()).count() as f32;
    both / (a.len() + b.len()).max(1) as f32
}

struct Found {
    unit: Vec<f32>,
    threshold: f32,
    gap: f32,
}

fn unit(v: &[f32]) -> Vec<f32> {
    let length = v.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32;
    if length > 0.0 { v.iter().map(|x| x / length).collect() } else { v.to_vec() }
}

impl Data<'_> {
    fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.d..(i + 1) * self.d]
    }

    fn chosen(&self, test: bool) -> impl Iterator<Item = usize> + '_ {
        (0..self.test.len()).filter(move |i| self.test[*i] == test)
    }

    fn project(&self, i: usize, unit: &[f32]) -> f32 {
        self.row(i).iter().zip(unit).map(|(a, b)| a * b).sum()
    }

    fn means(&self, labels: &[bool]) -> (Vec<f32>, Vec<f32>) {
        let mut sums = [vec![0f64; self.d], vec![0f64; self.d]];
        let mut n = [0usize; 2];
        for i in self.chosen(false) {
            let side = usize::from(labels[i]);
            n[side] += 1;
            sums[side].iter_mut().zip(self.row(i)).for_each(|(s, v)| *s += f64::from(*v));
        }
        let [without, with] = sums;
        let mean = |s: Vec<f64>, n: usize| s.into_iter().map(|v| (v / n.max(1) as f64) as f32).collect::<Vec<f32>>();
        (mean(without, n[0]), mean(with, n[1]))
    }

    fn direction(&self, method: Method, labels: &[bool]) -> Found {
        let (without, with) = self.means(labels);
        let difference: Vec<f32> = with.iter().zip(&without).map(|(a, b)| a - b).collect();
        let v = match method {
            Method::DifferenceOfMeans => difference.clone(),
            Method::LogisticRegression => self.logistic(labels),
            Method::PcaOfDifferences => self.first_component(labels, &difference),
        };
        let unit = unit(&v);
        let along = |m: &[f32]| m.iter().zip(&unit).map(|(a, b)| a * b).sum::<f32>();
        let (low, high) = (along(&without), along(&with));
        Found { threshold: 0.5 * (low + high), gap: (high - low).max(f32::MIN_POSITIVE), unit }
    }

    /// Logistic regression on standardised coordinates with a ridge, by accelerated gradient descent; given back for
    /// the coordinates as they are.
    fn logistic(&self, labels: &[bool]) -> Vec<f32> {
        const ROUNDS: usize = 150;
        const RIDGE: f32 = 1e-2;
        let train: Vec<usize> = self.chosen(false).collect();
        let (n, d) = (train.len(), self.d);
        let (mut mean, mut deviation) = (vec![0f32; d], vec![0f32; d]);
        for i in &train {
            mean.iter_mut().zip(self.row(*i)).for_each(|(m, v)| *m += v / n as f32);
        }
        for i in &train {
            for ((s, v), m) in deviation.iter_mut().zip(self.row(*i)).zip(&mean) {
                *s += (v - m) * (v - m) / n as f32;
            }
        }
        deviation.iter_mut().for_each(|s| *s = s.sqrt().max(1e-6));
        // Divided by √d as well, so that rows have about length 1 and a step of 4 is safe.
        let root = (d as f32).sqrt();
        let x: Vec<f32> = train
            .iter()
            .flat_map(|i| self.row(*i).iter().zip(&mean).zip(&deviation).map(|((v, m), s)| (v - m) / (s * root)))
            .collect();
        let (mut w, mut ahead, mut bias) = (vec![0f32; d], vec![0f32; d], 0f32);
        for round in 0..ROUNDS {
            let mut g = vec![0f32; d];
            let mut gb = 0.0;
            for (row, i) in x.chunks_exact(d).zip(&train) {
                let z: f32 = row.iter().zip(&ahead).map(|(a, b)| a * b).sum::<f32>() + bias;
                let error = 1.0 / (1.0 + (-z).exp()) - f32::from(u8::from(labels[*i]));
                g.iter_mut().zip(row).for_each(|(g, x)| *g += error * x / n as f32);
                gb += error / n as f32;
            }
            let momentum = round as f32 / (round as f32 + 3.0);
            for ((w, a), g) in w.iter_mut().zip(&mut ahead).zip(&g) {
                let next = *a - 4.0 * (g + RIDGE / d as f32 * *a);
                *a = next + momentum * (next - *w);
                *w = next;
            }
            bias -= gb;
        }
        w.iter().zip(&deviation).map(|(w, s)| w / s).collect()
    }

    /// First principal component of differences between paired texts, uncentred, pointing like the difference of means.
    /// Each text with the concept is paired with the one without that shares most words with it: what differs is then
    /// the concept rather than the topic.
    fn first_component(&self, labels: &[bool], difference: &[f32]) -> Vec<f32> {
        let side = |want: bool| self.chosen(false).filter(|i| labels[*i] == want).collect::<Vec<_>>();
        let (with, mut without) = (side(true), side(false));
        let mut pairs: Vec<Vec<f32>> = Vec::new();
        for a in with {
            let alike = |b: &usize| overlap(&self.words[a], &self.words[*b]);
            let Some((at, _)) = without.iter().enumerate().max_by(|x, y| alike(x.1).total_cmp(&alike(y.1))) else {
                break;
            };
            let b = without.swap_remove(at);
            pairs.push(self.row(a).iter().zip(self.row(b)).map(|(a, b)| a - b).collect());
        }
        let mut v = unit(difference);
        // Power iteration; the start lies near the answer.
        for _ in 0..60 {
            let mut next = vec![0f32; self.d];
            for p in &pairs {
                let along: f32 = p.iter().zip(&v).map(|(a, b)| a * b).sum();
                next.iter_mut().zip(p).for_each(|(n, p)| *n += along * p);
            }
            v = unit(&next);
        }
        let agrees: f32 = v.iter().zip(difference).map(|(a, b)| a * b).sum();
        if agrees < 0.0 { v.iter().map(|x| -x).collect() } else { v }
    }

    /// Accuracy and area under the ROC curve on held-out texts.
    fn judge(&self, found: &Found, labels: &[bool]) -> (f32, f32) {
        let scores: Vec<(f32, bool)> = self.chosen(true).map(|i| (self.project(i, &found.unit), labels[i])).collect();
        let right = scores.iter().filter(|(s, l)| (*s > found.threshold) == *l).count();
        (right as f32 / scores.len().max(1) as f32, auc(&scores))
    }
}

/// Probability that a random positive scores above a random negative, ties counting half.
pub fn auc(scores: &[(f32, bool)]) -> f32 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut wins, mut below, mut positives) = (0f64, 0f64, 0f64);
    let mut at = 0;
    while at < sorted.len() {
        let end = at + sorted[at..].iter().take_while(|s| s.0 == sorted[at].0).count().max(1);
        let tied_positive = sorted[at..end].iter().filter(|s| s.1).count() as f64;
        let tied_negative = (end - at) as f64 - tied_positive;
        wins += tied_positive * (below + 0.5 * tied_negative);
        below += tied_negative;
        positives += tied_positive;
        at = end;
    }
    (wins / (positives * below).max(1.0)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn area_under_the_curve_by_hand() {
        assert_eq!(auc(&[(1.0, false), (2.0, true)]), 1.0);
        assert_eq!(auc(&[(2.0, false), (1.0, true)]), 0.0);
        assert_eq!(auc(&[(1.0, false), (1.0, true)]), 0.5);
        // Positives 3 and 1 against negatives 2 and 0: three of four pairs.
        assert_eq!(auc(&[(3.0, true), (1.0, true), (2.0, false), (0.0, false)]), 0.75);
    }

    #[test]
    fn every_method_finds_a_planted_direction() {
        let (n, d) = (200, 24);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut draw = || (0..6).map(|_| rng.random_range(-1.0..1.0f32)).sum::<f32>() / 2f32.sqrt();
        let planted: Vec<f32> = unit(&(0..d).map(|_| draw()).collect::<Vec<_>>());
        let labels: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
        let test: Vec<bool> = (0..n).map(|i| i % 5 == 0 || i % 5 == 1).collect();
        let rows: Vec<f32> = (0..n)
            .flat_map(|i| {
                let shift = if labels[i] { 3.0 } else { -3.0 };
                planted.iter().map(|p| shift * p + draw()).collect::<Vec<_>>()
            })
            .collect();
        let words = vec![Vec::new(); n];
        let data = Data { rows: &rows, d, test: &test, words: &words };
        for method in Method::ALL {
            let found = data.direction(method, &labels);
            let cosine: f32 = found.unit.iter().zip(&planted).map(|(a, b)| a * b).sum();
            let (accuracy, auc) = data.judge(&found, &labels);
            let least = if method == Method::LogisticRegression { 0.8 } else { 0.95 };
            assert!(cosine > least && accuracy > 0.97 && auc > 0.99, "{method:?}: {cosine} {accuracy} {auc}");
            let random = shuffled(&labels, &test, 3);
            assert!(data.judge(&data.direction(method, &random), &random).1 < 0.75, "{method:?}");
        }
    }
}
