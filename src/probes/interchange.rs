//! Interchange: is what a probe reads what the model uses? [Geiger et al. 2021, 2024]
//!
//! Two texts of different classes, a base and a source. What a probe reads of the base, at one site and layer, takes over the
//! source's part in a subspace: h' = h_base + (h_source − h_base) B Bᵀ. If the subspace carries the property, the model then
//! answers as for the source. The share of pairs in which it does is the interchange accuracy. Where a probe reads the mean
//! over a text's tokens, each of these tokens gets the difference of the means, so that the base's mean becomes h'.
//!
//! The subspace is one that is given (a probe's directions, the difference of the classes' means), or is learned by
//! distributed alignment search (DAS): B is moved, kept orthonormal, so that the model answers as for the source on training
//! pairs. DAS can also learn what is not there [Arora et al. 2024]; so it stands beside the same search for labels that were
//! shuffled, the same on a model with random weights, and random subspaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::controls;
use super::fit::{Data, wilson};
use super::question::{self, DRAWS, Kind, site_name};
use super::set::{LabelledSet, Texts};
use crate::engine::forward::finite_values;
use crate::engine::{Hooks, NoHooks, Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::Place;
use crate::features::direction::Concept;
use crate::features::direction::concept::{Pool, begun, held_of};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Pairs of a step of the search, and the steps.
const BATCH: usize = 8;
const STEPS: usize = 60;
/// The length of the first step, in radians about; it falls to nothing.
const STEP: f32 = 0.3;

/// What is interchanged in which texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    pub texts: Texts,
    /// What the model answers for each class, as tokens in the classes' order.
    pub answers: Vec<String>,
    /// What is interchanged: a site of a layer, and which of a text's positions.
    pub site: SiteKind,
    pub layer: usize,
    pub pool: Pool,
    /// What the probe reads there.
    pub kind: Kind,
    /// Dimensions that the search learns.
    pub rank: usize,
    /// Pairs of held-out texts that are judged, and of training texts that are learned from.
    pub pairs: usize,
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        let question::Recipe { texts, site, kind, seed, .. } = question::Recipe::default();
        Self { texts, answers: Vec::new(), site, layer: 0, pool: Pool::Last, kind, rank: 1, pairs: 64, seed }
    }
}

/// Asks how far the model uses a property at a site of one layer.
#[derive(Clone, PartialEq)]
pub struct InterchangeOf {
    pub model: Arc<Model>,
    pub recipe: Recipe,
    /// A direction whose span is interchanged as well.
    pub direction: Option<Arc<Concept>>,
}

/// The share of held-out pairs in which the model answers as for the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interchange {
    /// The set's name and its classes.
    pub set: String,
    pub classes: Vec<String>,
    /// Where: the site's name, its layer, and the positions that stand for a text.
    pub site: String,
    pub layer: usize,
    pub pool: Pool,
    /// What the probe reads.
    pub kind: Kind,
    /// Pairs that were judged, and the different texts in them.
    pub pairs: usize,
    pub texts: usize,
    /// Without any change: how often the model answers as for the base, and as for the source.
    pub base: f32,
    pub untouched: f32,
    /// All that the source holds there.
    pub whole: f32,
    /// In the learned subspace; then in the span of the probe's directions, and of the classes' means.
    pub das: Option<f32>,
    pub probe: Option<f32>,
    pub means: Option<f32>,
    /// In the span of the direction that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<f32>,
    /// Controls: random subspaces of each number of dimensions that was interchanged, the mean of several draws; a search
    /// and a probe for shuffled labels; a model with random weights, without any change, and in the subspaces of a search and
    /// of a probe there for the same labels.
    pub random_subspaces: BTreeMap<usize, f32>,
    pub shuffled_labels: Option<f32>,
    pub shuffled_probe: Option<f32>,
    pub random_model_untouched: Option<f32>,
    pub random_model: Option<f32>,
    pub random_model_probe: Option<f32>,
}

impl Interchange {
    /// What was interchanged, in words, the share, and whether it is a control; the model's own answers first. What is not
    /// known yet is left out.
    pub fn shares(&self) -> Vec<(String, f32, bool)> {
        let probe = match self.kind {
            Kind::Linear => "the linear probe's directions".to_owned(),
            Kind::Sparse(k) => format!("the {k}-sparse probe's directions"),
        };
        let known = |name: &str, share: Option<f32>, control| Some((name.to_owned(), share?, control));
        let random = self.random_subspaces.iter().map(|(n, share)| {
            let name = format!("control: random subspaces of {n} dimension{}", if *n == 1 { "" } else { "s" });
            Some((name, *share, true))
        });
        let own = [
            known("answers as for the base, unchanged", Some(self.base), false),
            known("answers as for the source, unchanged", Some(self.untouched), false),
            known(&format!("all of {}", self.site), Some(self.whole), false),
            known("DAS", self.das, false),
            known(&probe, self.probe, false),
            known("the classes' means", self.means, false),
            known("the direction", self.direction, false),
        ];
        let searched = [
            known("control: DAS for shuffled labels", self.shuffled_labels, true),
            known("control: the probe for shuffled labels", self.shuffled_probe, true),
            known("control: a model with random weights, unchanged", self.random_model_untouched, true),
            known("control: DAS in a model with random weights", self.random_model, true),
            known("control: the probe in a model with random weights", self.random_model_probe, true),
        ];
        own.into_iter().chain(random).chain(searched).flatten().collect()
    }

    /// Wilson's interval of 95 % of a share of the pairs. Pairs that share a text do not say as much as so many pairs of
    /// their own: there are taken to be no more of them than texts.
    pub fn interval(&self, share: f32) -> [f32; 2] {
        wilson(f64::from(share), self.pairs.min(self.texts))
    }
}

/// A pair of texts, by their numbers, and the class that the model should answer.
#[derive(Clone, Copy)]
struct Pair {
    base: usize,
    source: usize,
    wanted: usize,
}

/// Texts as ids with what a site holds of them.
struct Held<'a> {
    model: &'a Model,
    ids: Vec<Vec<u32>>,
    /// [texts, width] row by row.
    rows: Vec<f32>,
    answers: &'a [u32],
    site: Site,
    pool: Pool,
    width: usize,
}

/// Changes a site at the positions that stand for a text.
struct Put<'a> {
    site: Site,
    pool: Pool,
    /// What is added at each of them, [width].
    change: &'a Tensor,
}

impl Hooks for Put<'_> {
    fn wants(&self, site: Site) -> bool {
        site == self.site
    }

    fn visit(&mut self, _: Site, value: Tensor) -> Result<Tensor> {
        let n = value.dim(1)?;
        let first = self.pool.first(n);
        let one: Vec<usize> = [&[1, 1], &value.dims()[2..]].concat();
        let changed = value.narrow(1, first, n - first)?.broadcast_add(&self.change.reshape(one)?)?;
        if first == 0 {
            return Ok(changed);
        }
        Ok(Tensor::cat(&[&value.narrow(1, 0, first)?, &changed], 1)?)
    }
}

impl Held<'_> {
    fn row(&self, text: usize) -> &[f32] {
        &self.rows[text * self.width..(text + 1) * self.width]
    }

    fn difference(&self, pair: &Pair) -> Vec<f32> {
        self.row(pair.source).iter().zip(self.row(pair.base)).map(|(s, b)| s - b).collect()
    }

    /// The logits of the answers after a text whose site is changed.
    fn logits(&self, text: usize, change: &Tensor, progress: &Progress) -> Result<Tensor> {
        let network = self.model.network();
        let mut put = Put { site: self.site, pool: self.pool, change };
        let ids = &self.ids[text];
        let quiet = Progress::new();
        progress.check()?;
        let out = network.forward(&[ids], &mut put, &quiet)?;
        let last = out.narrow(1, ids.len() - 1, 1)?;
        let row = network.final_norm(&last, &mut NoHooks)?.squeeze(0)?;
        let (columns, bias) = network.unembed_columns(self.answers)?;
        network.logits_by(&row.contiguous()?, &columns, bias.as_ref())
    }

    /// The share of pairs whose answer is the one wanted, each changed by its part in the subspace.
    fn accuracy(&self, pairs: &[Pair], basis: &[Vec<f32>], progress: &Progress) -> Result<f32> {
        self.accuracy_of(pairs, |difference| within(&difference, basis), progress)
    }

    /// The same for any part of a pair's difference.
    fn accuracy_of(
        &self,
        pairs: &[Pair],
        part: impl Fn(Vec<f32>) -> Vec<f32> + Sync,
        progress: &Progress,
    ) -> Result<f32> {
        let right = pairs
            .par_iter()
            .map(|pair| -> Result<bool> {
                let change = Tensor::from_vec(part(self.difference(pair)), self.width, &Device::Cpu)?;
                let logits: Vec<f32> = self.logits(pair.base, &change, progress)?.flatten_all()?.to_vec1()?;
                progress.step(1)?;
                Ok(best(&logits) == pair.wanted)
            })
            .collect::<Result<Vec<bool>>>()?;
        Ok(right.iter().filter(|r| **r).count() as f32 / pairs.len().max(1) as f32)
    }

    /// Searches a subspace in which interchanging gives the answers that are wanted.
    fn search(&self, pairs: &[Pair], rank: usize, seed: u64, progress: &Progress) -> Result<Vec<Vec<f32>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut basis = random_basis(self.width, rank, &mut rng);
        for step in 0..STEPS {
            let chosen: Vec<Pair> = (0..BATCH).map(|_| pairs[rng.random_range(0..pairs.len())]).collect();
            let slopes = chosen
                .par_iter()
                .map(|pair| {
                    let slope = self.slope(pair, &basis, progress)?;
                    progress.step(3)?;
                    Ok(slope)
                })
                .collect::<Result<Vec<Vec<f32>>>>()?;
            // The loss depends on B through B Bᵀ Δ, so that ∂/∂B = Δ (gᵀ B) + g (Δᵀ B).
            let mut gradient = vec![vec![0f32; self.width]; basis.len()];
            for (pair, g) in chosen.iter().zip(&slopes) {
                let delta = self.difference(pair);
                for (out, b) in gradient.iter_mut().zip(&basis) {
                    let (gb, db) = (dot(g, b), dot(&delta, b));
                    out.iter_mut().zip(delta.iter().zip(g)).for_each(|(o, (d, g))| *o += gb * d + db * g);
                }
            }
            // Along the sphere alone: what turns B within its own span changes nothing.
            for g in &mut gradient {
                *g = less(g, &within(g, &basis));
            }
            let length = gradient.iter().map(|g| dot(g, g)).sum::<f32>().sqrt();
            finite_values(&[length], || format!("the gradient of the subspace at step {step}"))?;
            if length < 1e-12 {
                continue;
            }
            let size = STEP * (1.0 - step as f32 / STEPS as f32) / length;
            for (b, g) in basis.iter_mut().zip(&gradient) {
                b.iter_mut().zip(g).for_each(|(b, g)| *b -= size * g);
            }
            basis = orthonormal(&basis);
        }
        Ok(basis)
    }

    /// The slope of the loss along the change of one pair, [width].
    fn slope(&self, pair: &Pair, basis: &[Vec<f32>], progress: &Progress) -> Result<Vec<f32>> {
        let change = within(&self.difference(pair), basis);
        let change = Var::from_tensor(&Tensor::from_vec(change, self.width, &Device::Cpu)?)?;
        let logits = self.logits(pair.base, change.as_tensor(), progress)?;
        let wanted = Tensor::new(&[pair.wanted as u32], &Device::Cpu)?;
        let loss = candle_nn::loss::cross_entropy(&logits, &wanted)?;
        let slopes = loss.backward()?;
        Ok(match slopes.get(change.as_tensor()) {
            Some(g) => {
                let g: Vec<f32> = g.flatten_all()?.to_vec1()?;
                finite_values(&g, || format!("the gradient at {}", self.site))?;
                g
            }
            None => vec![0.0; self.width],
        })
    }
}

impl Question for InterchangeOf {
    type Answer = Interchange;
    const LABEL: &'static str = "interchanging";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { model, recipe, direction } = self;
        let Recipe { texts, site, layer, pool, kind, rank, pairs, seed, .. } = recipe;
        let place = Site::new(*site, *layer);
        let set = texts.open(*seed)?;
        let answers = &self.check(&set)?;
        let classes = set.classes.len();
        let texts = begun(model, &set.plain())?;
        // Eleven judgements, three searches; a direction's, and those of random subspaces once it is known how many.
        let judged = 11 + usize::from(direction.is_some());
        progress.expect((judged * pairs + 3 * 3 * BATCH * STEPS) as u64);
        let hold = |model| hold(model, texts.clone(), (place, *pool), answers, progress);
        let own = hold(&**model)?;
        let width = own.width;
        let mut rng = ChaCha8Rng::seed_from_u64(*seed);
        let train = drawn(&set.labels, &set.test, false, *pairs, &mut rng)?;
        let test = drawn(&set.labels, &set.test, true, *pairs, &mut rng)?;
        let as_base: Vec<Pair> = test.iter().map(|p| Pair { wanted: set.labels[p.base], ..*p }).collect();
        let (name, class_names) = (set.name.clone(), set.classes.clone());
        let mut found = Interchange {
            set: name,
            classes: class_names,
            site: site_name(*site).to_owned(),
            layer: *layer,
            pool: *pool,
            kind: *kind,
            pairs: test.len(),
            texts: test.iter().flat_map(|p| [p.base, p.source]).collect::<BTreeSet<_>>().len(),
            ..Interchange::default()
        };
        found.base = own.accuracy(&as_base, &[], progress)?;
        found.untouched = own.accuracy(&test, &[], progress)?;
        found.whole = own.accuracy_of(&test, |difference| difference, progress)?;
        partial(found.clone());
        let probe_of = |held: &Held<'_>, labels: &[usize]| {
            let data = Data { rows: &held.rows, width, labels, test: &set.test, classes };
            orthonormal(&data.fit(kind.coordinates(&data)).directions(width))
        };
        let (probe, means) = (probe_of(&own, &set.labels), orthonormal(&means(&own, &set)));
        found.probe = Some(own.accuracy(&test, &probe, progress)?);
        found.means = Some(own.accuracy(&test, &means, progress)?);
        let mut ranks = BTreeSet::from([*rank, probe.len(), means.len()]);
        if let Some(concept) = direction {
            let vector = concept.at(*layer)?.vector.clone();
            found.direction = Some(own.accuracy(&test, &orthonormal(&[vector]), progress)?);
            ranks.insert(1);
        }
        // A subspace of no dimension changes nothing, and needs no control.
        ranks.remove(&0);
        progress.expect((ranks.len() * test.len()) as u64 * DRAWS);
        for rank in ranks {
            let mut sum = 0.0;
            for _ in 0..DRAWS {
                sum += own.accuracy(&test, &random_basis(width, rank, &mut rng), progress)?;
            }
            found.random_subspaces.insert(rank, sum / DRAWS as f32);
        }
        partial(found.clone());
        found.das = Some(own.accuracy(&test, &own.search(&train, *rank, *seed, progress)?, progress)?);
        partial(found.clone());
        let labels = controls::shuffled(&set.labels, &set.test, *seed);
        let shuffled =
            |pairs: &[Pair]| pairs.iter().map(|p| Pair { wanted: labels[p.source], ..*p }).collect::<Vec<_>>();
        let basis = own.search(&shuffled(&train), *rank, *seed, progress)?;
        found.shuffled_labels = Some(own.accuracy(&shuffled(&test), &basis, progress)?);
        found.shuffled_probe = Some(own.accuracy(&shuffled(&test), &probe_of(&own, &labels), progress)?);
        partial(found.clone());
        let other = controls::random_model(model, *seed, progress)?;
        let other = hold(&other)?;
        found.random_model_untouched = Some(other.accuracy(&test, &[], progress)?);
        let basis = other.search(&train, *rank, *seed, progress)?;
        found.random_model = Some(other.accuracy(&test, &basis, progress)?);
        found.random_model_probe = Some(other.accuracy(&test, &probe_of(&other, &set.labels), progress)?);
        Ok(found)
    }
}

impl InterchangeOf {
    /// The answers' ids.
    fn check(&self, set: &LabelledSet) -> Result<Vec<u32>> {
        let (c, recipe) = (&self.model.config, &self.recipe);
        if recipe.answers.len() != set.classes.len() {
            return Err(Error::request(format!(
                "the set {} has the classes {}; give one answer token for each, in this order",
                set.name,
                set.classes.join(", ")
            )));
        }
        let ids = recipe.answers.iter().map(|t| self.model.single_token(t)).collect::<Result<Vec<u32>>>()?;
        if let Some(i) = (1..ids.len()).find(|i| ids[..*i].contains(&ids[*i])) {
            return Err(Error::request(format!(
                "{:?} is the answer for two classes, so that it tells nothing about them; give each class its own",
                self.model.token_text(ids[i])
            )));
        }
        let place = Place::from(Site::new(recipe.site, recipe.layer));
        place.check(c)?;
        let width = place.width(c);
        recipe.kind.check()?;
        if let Kind::Sparse(k) = recipe.kind
            && k > width
        {
            return Err(Error::request(format!(
                "{place} has {width} coordinates, so that no probe reads {k}; give --k {width} or less"
            )));
        }
        if recipe.rank == 0 || recipe.rank > width || recipe.pairs == 0 {
            return Err(Error::request(format!(
                "a subspace of {place} has 1 to {width} dimensions, and at least one pair is judged"
            )));
        }
        if let Some(concept) = &self.direction {
            concept.check(&self.model)?;
            if concept.hook != recipe.site.hook() {
                return Err(Error::request(format!(
                    "the direction {} lies at {}, and {} is interchanged; find it there, or interchange its own site",
                    concept.name,
                    concept.hook,
                    recipe.site.hook()
                )));
            }
        }
        Ok(ids)
    }
}

fn hold<'a>(
    model: &'a Model,
    texts: Vec<(Vec<u32>, u32)>,
    (site, pool): (Site, Pool),
    answers: &'a [u32],
    progress: &Progress,
) -> Result<Held<'a>> {
    let ids = texts.iter().map(|(ids, _)| ids.clone()).collect();
    let held = held_of(model, texts, (site.kind, &[site.layer]), pool, progress)?;
    let rows = held.layers.first().ok_or_else(|| Error::failed("a layer was not run"))?;
    let width = rows.dim(1)?;
    let rows = rows.flatten_all()?.to_vec1()?;
    Ok(Held { model, ids, rows, answers, site, pool, width })
}

/// Texts of which every pair is looked at.
const FEW: usize = 1024;

/// Pairs of texts of different classes of one side, `count` of them or all that there are.
fn drawn(labels: &[usize], test: &[bool], side: bool, count: usize, rng: &mut ChaCha8Rng) -> Result<Vec<Pair>> {
    let places: Vec<usize> = (0..labels.len()).filter(|i| test[*i] == side).collect();
    let pair = |base: usize, source: usize| Pair { base, source, wanted: labels[source] };
    let mut pairs = Vec::new();
    if places.len() <= FEW {
        let all = places.iter().flat_map(|base| places.iter().map(move |source| (*base, *source)));
        pairs.extend(all.filter(|(b, s)| labels[*b] != labels[*s]).map(|(b, s)| pair(b, s)));
        if pairs.len() > count {
            pairs.shuffle(rng);
            pairs.truncate(count);
        }
    } else {
        for _ in 0..100 * count {
            if pairs.len() == count {
                break;
            }
            let mut one = || places[rng.random_range(0..places.len())];
            let (base, source) = (one(), one());
            if labels[base] != labels[source] {
                pairs.push(pair(base, source));
            }
        }
    }
    if pairs.is_empty() {
        return Err(Error::request("there are no two texts of different classes; give more of each class"));
    }
    Ok(pairs)
}

/// The means of the classes' training texts less the mean of all.
fn means(held: &Held<'_>, set: &LabelledSet) -> Vec<Vec<f32>> {
    let classes = set.classes.len();
    let (mut sums, mut counts) = (vec![vec![0f32; held.width]; classes], vec![0f32; classes]);
    for i in (0..set.len()).filter(|i| !set.test[*i]) {
        sums[set.labels[i]].iter_mut().zip(held.row(i)).for_each(|(s, v)| *s += v);
        counts[set.labels[i]] += 1.0;
    }
    sums.iter_mut().zip(&counts).for_each(|(s, n)| s.iter_mut().for_each(|v| *v /= n.max(1.0)));
    let mut mean = vec![0f32; held.width];
    sums.iter().for_each(|s| mean.iter_mut().zip(s).for_each(|(m, v)| *m += v / classes as f32));
    sums.iter().map(|s| less(s, &mean)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn less(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(x, y)| x - y).collect()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
}

/// The part of a vector within the span of an orthonormal basis.
fn within(v: &[f32], basis: &[Vec<f32>]) -> Vec<f32> {
    let mut out = vec![0f32; v.len()];
    for b in basis {
        let along = dot(v, b);
        out.iter_mut().zip(b).for_each(|(o, b)| *o += along * b);
    }
    out
}

/// An orthonormal basis of the span; what lies in the span of those before is left out.
fn orthonormal(vectors: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut basis: Vec<Vec<f32>> = Vec::new();
    for v in vectors {
        let before = dot(v, v).sqrt();
        let mut free = v.clone();
        // Twice is enough for what rounding leaves.
        for _ in 0..2 {
            free = less(&free, &within(&free, &basis));
        }
        let after = dot(&free, &free).sqrt();
        if after > 1e-5 * before && after > 0.0 {
            free.iter_mut().for_each(|x| *x /= after);
            basis.push(free);
        }
    }
    basis
}

fn random_basis(d: usize, rank: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let mut one = || (0..d).map(|_| (0..6).map(|_| rng.random_range(-1.0..1.0f32)).sum()).collect::<Vec<f32>>();
    orthonormal(&(0..rank).map(|_| one()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::question::sites;
    use super::*;
    use crate::engine::Trace;
    use crate::engine::hooks::{Capture, Chain};
    use candle_core::DType;

    /// The stream behind the last layer of a model of two, at each text's last token.
    const LAST: (Site, Pool) = (Site { layer: 1, kind: SiteKind::ResidPost }, Pool::Last);

    fn held<'a>(model: &'a Model, answers: &'a [u32]) -> Held<'a> {
        let texts = ["The king and the", "A dog was in the", "She said that the", "Of the old house the"];
        let texts = texts.iter().map(|t| (model.encode(t, false).unwrap(), 0)).collect();
        hold(model, texts, LAST, answers, &Progress::new()).unwrap()
    }

    #[test]
    fn pairs_are_of_different_classes() {
        let (labels, test) = ([0, 0, 1, 2, 1, 0], [true, true, true, true, false, false]);
        let pairs = |side, count| {
            let found = drawn(&labels, &test, side, count, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
            found.into_iter().map(|p| (p.base, p.source, p.wanted)).collect::<Vec<_>>()
        };
        // 0 and 1 with 2 and 3, 2 with 3; both ways.
        let all = pairs(true, 100);
        assert_eq!(all.len(), 10);
        assert!(all.contains(&(0, 3, 2)) && all.contains(&(3, 0, 0)) && !all.contains(&(0, 1, 0)));
        assert_eq!(pairs(false, 9), [(4, 5, 0), (5, 4, 1)]);
        let some = pairs(true, 4);
        assert!(some.len() == 4 && some.iter().all(|p| all.contains(p)));
        assert!(drawn(&[0, 0], &[true, true], true, 3, &mut ChaCha8Rng::seed_from_u64(1)).is_err());
    }

    /// In the whole space the base's last stream is the source's; in none it stays; and the slope is that of finite
    /// differences.
    #[test]
    fn a_stream_is_interchanged() {
        let model = Arc::new(Model::open("text").unwrap());
        let answers = [50, 90, 130];
        let held = held(&model, &answers);
        let (d, progress) = (held.width, Progress::new());
        let pair = Pair { base: 0, source: 1, wanted: 2 };
        let unit = |i: usize| (0..d).map(|j| f32::from(u8::from(i == j))).collect::<Vec<f32>>();
        let all: Vec<Vec<f32>> = (0..d).map(unit).collect();
        let logits = |basis: &[Vec<f32>]| -> Vec<f32> {
            let change = Tensor::from_vec(within(&held.difference(&pair), basis), d, &Device::Cpu).unwrap();
            held.logits(0, &change, &progress).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let trace = Trace::run(&model, held.ids[0].clone(), &progress).unwrap();
        let plain: Vec<f32> = {
            let (columns, bias) = model.network().unembed_columns(&answers).unwrap();
            let row = trace.normalized(trace.len() - 1).unwrap();
            model.network().logits_by(&row, &columns, bias.as_ref()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-3);
        assert!(close(&logits(&[]), &plain) && !close(&logits(&all), &plain));
        // After the last layer that is changed only the last position's own stream counts in a model of two more steps: here
        // the whole space puts the source's row in, whatever the base was.
        let put = Tensor::from_vec(less(held.row(1), held.row(0)), d, &Device::Cpu).unwrap();
        let same: Vec<f32> = held.logits(0, &put, &progress).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(close(&logits(&all), &same));
        let basis = random_basis(d, 3, &mut ChaCha8Rng::seed_from_u64(1));
        for (i, a) in basis.iter().enumerate() {
            for (j, b) in basis.iter().enumerate() {
                assert!((dot(a, b) - f32::from(u8::from(i == j))).abs() < 1e-5);
            }
        }
        let slope = held.slope(&pair, &basis, &progress).unwrap();
        let loss = |step: f32, along: &[f32]| -> f32 {
            let mut change = within(&held.difference(&pair), &basis);
            change.iter_mut().zip(along).for_each(|(c, a)| *c += step * a);
            let change = Tensor::from_vec(change, d, &Device::Cpu).unwrap();
            let l: Vec<f32> = held.logits(0, &change, &progress).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            l.iter().map(|v| (v - l[2]).exp()).sum::<f32>().ln()
        };
        for along in &basis {
            let e = 1e-2;
            let finite = (loss(e, along) - loss(-e, along)) / (2.0 * e);
            assert!((finite - dot(&slope, along)).abs() < 2e-3 + 0.02 * finite.abs(), "{finite}");
        }
    }

    /// At every site, and for both ways in which a probe reads a text: what it reads of the base becomes the source's within
    /// the subspace and stays what it was beside it; and the slope is that of finite differences.
    #[test]
    fn every_site_is_interchanged() {
        for family in ["llama", "gpt2", "mixtral"] {
            let model = Model::open(&format!("{}/tests/families/{family}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let (answers, progress) = ([50, 90, 130], Progress::new());
            let texts: Vec<(Vec<u32>, u32)> = vec![(vec![3, 17, 40, 8], 0), (vec![5, 21, 9], 0), (vec![6], 0)];
            for (kind, pool) in sites().flat_map(|kind| [(kind, Pool::Last), (kind, Pool::Mean)]) {
                if !kind.exists(&model.config) {
                    continue;
                }
                let site = Site::new(kind, 0);
                let held = hold(&model, texts.clone(), (site, pool), &answers, &progress).unwrap();
                let basis = random_basis(held.width, 3.min(held.width), &mut ChaCha8Rng::seed_from_u64(4));
                for (base, source) in [(0, 1), (2, 0)] {
                    let pair = Pair { base, source, wanted: 1 };
                    let part = within(&held.difference(&pair), &basis);
                    let change = Tensor::from_vec(part.clone(), held.width, &Device::Cpu).unwrap();
                    let (mut put, mut kept) = (Put { site, pool, change: &change }, Capture::sites([site]));
                    model.network().forward(&[&held.ids[base]], &mut Chain(&mut put, &mut kept), &progress).unwrap();
                    let rows: Vec<f32> = kept.values[&site].flatten_all().unwrap().to_vec1().unwrap();
                    let n = held.ids[base].len();
                    let mine = &rows[pool.first(n) * held.width..];
                    for (i, (was, part)) in held.row(base).iter().zip(&part).enumerate() {
                        let sum: f32 = mine.iter().skip(i).step_by(held.width).sum();
                        let now = sum / (n - pool.first(n)) as f32;
                        assert!((now - was - part).abs() < 1e-4 * (1.0 + now.abs()), "{family} {site} {pool:?}");
                    }
                }
                // Which experts are chosen jumps.
                if family == "mixtral" {
                    continue;
                }
                let pair = Pair { base: 0, source: 1, wanted: 2 };
                let slope = held.slope(&pair, &basis, &progress).unwrap();
                let loss = |step: f32, along: &[f32]| -> f32 {
                    let mut change = within(&held.difference(&pair), &basis);
                    change.iter_mut().zip(along).for_each(|(c, a)| *c += step * a);
                    let change = Tensor::from_vec(change, held.width, &Device::Cpu).unwrap();
                    let l: Vec<f32> =
                        held.logits(0, &change, &progress).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                    l.iter().map(|v| (v - l[2]).exp()).sum::<f32>().ln()
                };
                // A hundredth of what stands there, and half of that, so that the curvature falls out.
                let e = 1e-2 * dot(held.row(0), held.row(0)).sqrt().max(1e-2);
                let over = |e: f32| (loss(e, &basis[0]) - loss(-e, &basis[0])) / (2.0 * e);
                let finite = (4.0 * over(0.5 * e) - over(e)) / 3.0;
                let exact = dot(&slope, &basis[0]);
                assert!(
                    (finite - exact).abs() < 2e-4 + 0.03 * finite.abs(),
                    "{family} {site} {pool:?}: {finite} {exact}"
                );
            }
        }
    }

    /// In a model whose blocks write nothing, the stream of a text of one token is its embedding, and four answers are read
    /// along two directions, b₁u₁ + b₂u₂ for the signs b of each class. All other coordinates are noise that no answer
    /// reads. So interchanging the plane of u₁ and u₂ answers as for the source, a single direction cannot, and the search
    /// must find that plane.
    #[test]
    fn the_search_finds_a_planted_plane() {
        let folder = format!("{}/tests/families/llama", env!("CARGO_MANIFEST_DIR"));
        let mut model = Model::open(&folder).unwrap();
        let (d, vocab) = (model.config.d_model, model.config.d_vocab);
        let tensor = |v: Vec<f32>, shape: (usize, usize)| Tensor::from_vec(v, shape, &Device::Cpu).unwrap();
        let half = 0.5f32.sqrt();
        let mut planted = vec![vec![0f32; d]; 2];
        (planted[0][3], planted[0][10], planted[1][7], planted[1][20]) = (half, half, half, -half);
        let signs =
            |class: usize| [if class & 1 == 0 { 1.0f32 } else { -1.0 }, if class & 2 == 0 { 1.0 } else { -1.0 }];
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut stream = Vec::new();
        for token in 0..vocab {
            let noise: Vec<f32> = (0..d).map(|_| rng.random_range(-0.5..0.5)).collect();
            let noise = less(&noise, &within(&noise, &planted));
            let [a, b] = signs(token % 4);
            let along = planted[0].iter().zip(&planted[1]).map(|(u, v)| a * u + b * v);
            stream.extend(noise.iter().zip(along).map(|(n, x)| n + x));
        }
        let mut unembed = vec![0f32; d * vocab];
        for class in 0..4 {
            let [a, b] = signs(class);
            (0..d).for_each(|i| unembed[i * vocab + class] = 3.0 * (a * planted[0][i] + b * planted[1][i]));
        }
        model.weights.embed = Some(tensor(stream, (vocab, d)).into());
        model.weights.unembed = tensor(unembed, (d, vocab)).into();
        let norm = model.weights.ln_final.as_mut().unwrap();
        norm.weight = Tensor::ones(d, DType::F32, &Device::Cpu).unwrap();
        for block in &mut model.weights.blocks {
            let output = &mut block.mlp.as_mut().unwrap().output;
            for linear in [&mut block.attn.o, output] {
                let shape = linear.weight.tensor().unwrap().dims2().unwrap();
                linear.weight = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap().into();
            }
        }
        let (answers, progress) = ([0, 1, 2, 3], Progress::new());
        let texts = (0..40).map(|token| (vec![token], token)).collect();
        let held = hold(&model, texts, LAST, &answers, &progress).unwrap();
        let labels: Vec<usize> = (0..40).map(|token| token % 4).collect();
        let pairs = drawn(&labels, &[false; 40], false, 200, &mut rng).unwrap();
        let share = |basis: &[Vec<f32>]| held.accuracy(&pairs, basis, &progress).unwrap();
        assert_eq!((share(&planted), share(&[])), (1.0, 0.0));
        let found = held.search(&pairs, 2, 5, &progress).unwrap();
        // How much of the planted plane lies in the found one: 2 where they are the same.
        let inside: f32 = planted.iter().map(|u| within(u, &found)).map(|v| dot(&v, &v)).sum();
        assert!(inside > 1.9 && share(&found) > 0.98, "{inside}, {}", share(&found));
        let line = held.search(&pairs, 1, 5, &progress).unwrap();
        assert!(share(&line) < 0.8, "{}", share(&line));
        assert!(share(&random_basis(d, 2, &mut rng)) < 0.2);
    }

    /// Pairs that share few texts say no more than so many texts.
    #[test]
    fn an_interval_counts_texts() {
        let found = Interchange { pairs: 64, texts: 10, ..Interchange::default() };
        let same = |a: [f32; 2], b: [f32; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(same(found.interval(0.8), wilson(0.8, 10)) && !same(wilson(0.8, 10), wilson(0.8, 64)));
        assert!(same(Interchange { texts: 100, ..found }.interval(0.75), wilson(0.75, 64)));
    }

    /// The search finds a subspace that does more than a random one on the pairs that it learns from.
    #[test]
    fn the_search_learns() {
        let model = Arc::new(Model::open("text").unwrap());
        let answers = [50, 90];
        let held = held(&model, &answers);
        let progress = Progress::new();
        // What the model answers for each text is its class, so that interchanging the whole stream is right everywhere.
        let zero = Tensor::zeros(held.width, DType::F32, &Device::Cpu).unwrap();
        let class = |t: usize| {
            let l: Vec<f32> = held.logits(t, &zero, &progress).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            best(&l)
        };
        // Wanted is always the other answer than the base's own.
        let pairs: Vec<Pair> = [(0, 1), (1, 2), (2, 3), (3, 0)]
            .map(|(base, source)| Pair { base, source, wanted: 1 - class(base) })
            .to_vec();
        let loss = |basis: &[Vec<f32>]| -> f32 {
            pairs
                .iter()
                .map(|p| {
                    let change = within(&held.difference(p), basis);
                    let change = Tensor::from_vec(change, held.width, &Device::Cpu).unwrap();
                    let l: Vec<f32> =
                        held.logits(p.base, &change, &progress).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                    l.iter().map(|v| (v - l[p.wanted]).exp()).sum::<f32>().ln()
                })
                .sum()
        };
        let learned = held.search(&pairs, 2, 7, &progress).unwrap();
        let random = random_basis(held.width, 2, &mut ChaCha8Rng::seed_from_u64(7));
        assert!(loss(&learned) < loss(&random) - 0.05, "{} against {}", loss(&learned), loss(&random));
    }
}
