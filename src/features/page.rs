//! A feature page: what there is to know about one feature, neuron or direction. Where it is active, what it promotes and
//! suppresses, what it goes with. Defaults as in Neuronpedia and SAE-vis.

use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use serde_json::{Value as Json, json};

use crate::engine::kernels::product;
use crate::engine::logits::largest_indices;
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::features::polysemantic::{Split, UNRELATED, split};
use crate::features::scan::index::{Example, Index, SHOWN};
use crate::features::writer::Writer;
use crate::model::Model;
use crate::model::config::NormKind;
use crate::progress::Progress;
use crate::question::Question;

/// Tokens listed of those that are promoted and suppressed most.
pub const LISTED: usize = 10;
/// Examples of each quantile group.
pub const EACH: usize = 5;
/// Bins of the logit histogram.
const BINS: usize = 50;

/// A token and what a direction adds to its logit.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub id: u32,
    pub text: String,
    pub logit: f32,
}

/// What a direction in the residual stream does to the logits directly, the final norm's weight applied and its scale
/// left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    pub promoted: Vec<Effect>,
    pub suppressed: Vec<Effect>,
    /// Smallest and largest effect, and how many tokens lie in equal bins between.
    pub range: (f32, f32),
    pub histogram: Vec<usize>,
}

/// A direction's direct effect on the logits; `direction` [d_model].
///
/// # Errors
/// A direction of another width.
pub fn effects(model: &Model, direction: &[f32]) -> Result<Effects> {
    let c = &model.config;
    if direction.len() != c.d_model {
        return Err(Error::request(format!(
            "the direction has {} numbers, but the residual stream of {} has {}",
            direction.len(),
            c.name,
            c.d_model
        )));
    }
    let mut v = Tensor::new(direction, &Device::Cpu)?.unsqueeze(0)?;
    if matches!(c.norm, NormKind::Layer { .. }) {
        v = v.broadcast_sub(&v.mean_keepdim(D::Minus1)?)?;
    }
    if let Some(norm) = &model.weights.ln_final {
        v = v.broadcast_mul(&norm.weight)?;
    }
    let logits: Vec<f32> = product::apply(&v, &model.weights.unembed)?.flatten_all()?.to_vec1()?;
    let effect = |i: &usize| Effect { id: *i as u32, text: model.token_text(*i as u32), logit: logits[*i] };
    let negative: Vec<f32> = logits.iter().map(|l| -l).collect();
    let (low, high) = logits.iter().fold((f32::MAX, f32::MIN), |(a, b), l| (a.min(*l), b.max(*l)));
    let mut histogram = vec![0; BINS];
    for l in &logits {
        let bin = ((l - low) / (high - low).max(f32::MIN_POSITIVE) * BINS as f32) as usize;
        histogram[bin.min(BINS - 1)] += 1;
    }
    Ok(Effects {
        promoted: largest_indices(&logits, LISTED).iter().map(effect).collect(),
        suppressed: largest_indices(&negative, LISTED).iter().map(effect).collect(),
        range: (low, high),
        histogram,
    })
}

/// Features whose decoder rows point most nearly the same way as `direction`, itself left out: (feature, cosine).
///
/// # Errors
/// A direction of another width.
pub fn neighbours(dictionary: &Dictionary, direction: &[f32], itself: Option<usize>) -> Result<Vec<(usize, f32)>> {
    let v = Tensor::new(direction, dictionary.w_dec.device())?.unsqueeze(1)?;
    let dots: Vec<f32> = dictionary.w_dec.matmul(&v)?.flatten_all()?.to_vec1()?;
    let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
    let norms = dictionary.decoder_norms()?;
    let cosines: Vec<f32> = dots
        .iter()
        .zip(&norms)
        .enumerate()
        .map(|(i, (d, n))| if Some(i) == itself || n * length == 0.0 { f32::NEG_INFINITY } else { d / (n * length) })
        .collect();
    Ok(largest_indices(&cosines, LISTED).into_iter().map(|i| (i, cosines[i])).collect())
}

/// What a neuron writes, [d_model].
///
/// # Errors
/// A neuron that does not exist.
pub fn neuron_direction(model: &Model, layer: usize, neuron: usize) -> Result<Vec<f32>> {
    let mlp = model.weights.blocks.get(layer).and_then(|b| b.mlp.as_ref());
    match mlp {
        Some(mlp) if neuron < model.config.d_mlp => Ok(mlp.output.weight.input(neuron)?.to_vec1()?),
        _ => Err(Error::request(format!(
            "there is no neuron {neuron} in layer {layer}; {} has {} layers of {} neurons",
            model.config.name, model.config.n_layers, model.config.d_mlp
        ))),
    }
}

/// What something writes, looked at by itself.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// What it does to the logits, where it writes to the residual stream.
    pub effects: Option<Effects>,
    /// Features that write the same way: (feature, cosine).
    pub neighbours: Vec<(usize, f32)>,
}

/// Looks at what `writer` writes. Its neighbours are features of `dictionary` that write to comparable places.
///
/// # Errors
/// As [`Writer::direction`].
pub fn written(model: &Model, writer: &Writer, dictionary: Option<&Dictionary>) -> Result<Written> {
    let (direction, place) = (writer.direction(model)?, writer.place());
    let in_stream = place.is_none_or(|p| p.in_stream(Some(&model.config))) && direction.len() == model.config.d_model;
    let effects = if in_stream { Some(effects(model, &direction)?) } else { None };
    let comparable = |d: &&Dictionary| {
        d.d_out == direction.len() && d.output.zip(place).is_none_or(|(a, b)| a.comparable(b, Some(&model.config)))
    };
    let neighbours = match (dictionary.filter(comparable), writer) {
        // Features are compared by what they write to their own layer.
        (Some(d), Writer::Feature(own, f)) => neighbours(d, &own.direction(*f)?, Some(*f))?,
        (Some(d), _) => neighbours(d, &direction, None)?,
        (None, _) => Vec::new(),
    };
    Ok(Written { effects, neighbours })
}

/// What is known of a feature, neuron or direction beyond the index.
pub struct FeaturePage {
    pub written: Written,
    /// Groups of its strongest examples.
    pub groups: Option<Groups>,
    /// For each group of a neuron's examples the features that tell it from the others.
    pub split: Split,
}

/// Asks for a feature's, neuron's or direction's page.
#[derive(Clone, PartialEq)]
pub struct FeaturePageOf {
    pub model: Arc<Model>,
    pub writer: Writer,
    /// Whose features are its neighbours and split it.
    pub dictionary: Option<Arc<Dictionary>>,
    /// The index that has its examples, and its number there.
    pub examples: Option<(Arc<Index>, usize)>,
}

impl Question for FeaturePageOf {
    type Answer = FeaturePage;

    const LABEL: &'static str = "making a feature's page";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(FeaturePage)) -> Result<FeaturePage> {
        let (model, dictionary) = (&self.model, self.dictionary.as_deref());
        let written = written(model, &self.writer, dictionary)?;
        let entry = self.examples.as_ref().and_then(|(index, n)| index.entries.get(*n));
        let groups = entry.map(|e| group_examples(&e.top, UNRELATED));
        let split = match (dictionary, entry, &groups, &self.writer) {
            (Some(d), Some(e), Some(g), Writer::Neuron(..)) if d.check(&model.config).is_ok() => {
                split(model, d, &e.top, g, progress)?
            }
            _ => Vec::new(),
        };
        Ok(FeaturePage { written, groups, split })
    }
}

/// A feature's page in the JSON that Neuronpedia and Anthropic's viewers read.
///
/// # Errors
/// A feature that the index does not have.
pub fn neuronpedia(model: &Model, index: &Index, feature: usize, effects: Option<&Effects>) -> Result<Json> {
    let entry = index.entries.get(feature).ok_or_else(|| {
        Error::request(format!(
            "there is no feature {feature} in the index; its features go to {}",
            index.entries.len()
        ))
    })?;
    let example = |e: &Example| {
        let tokens: Vec<String> = e.tokens.iter().map(|id| model.token_text(*id)).collect();
        json!({"tokens": tokens, "tokens_acts_list": e.activations, "train_token_ind": e.at()})
    };
    let mut quantiles = vec![json!({
        "quantile_name": "Top activations", "examples": entry.top.iter().map(example).collect::<Vec<_>>(),
    })];
    for (g, group) in entry.quantile_groups(EACH).iter().enumerate().rev() {
        let name = format!("{:.3} - {:.3}", entry.max * g as f32 / 10.0, entry.max * (g + 1) as f32 / 10.0);
        let examples: Vec<Json> = group.iter().map(|e| example(e)).collect();
        quantiles.push(json!({"quantile_name": name, "examples": examples}));
    }
    let texts = |list: &[Effect]| list.iter().map(|e| e.text.clone()).collect::<Vec<_>>();
    let bins: Vec<f32> = (0..SHOWN).map(|i| entry.max * i as f32 / SHOWN as f32).collect();
    Ok(json!({
        "index": feature, "examples_quantiles": quantiles,
        "top_logits": effects.map(|e| texts(&e.promoted)).unwrap_or_default(),
        "bottom_logits": effects.map(|e| texts(&e.suppressed)).unwrap_or_default(),
        "act_min": entry.sample.iter().chain(&entry.top).map(|e| e.value).fold(f32::MAX, f32::min).min(entry.max),
        "act_max": entry.max, "activation_frequency": index.density(feature),
        "histogram": {"bins": bins, "values": entry.shown_bins()},
    }))
}

/// Whether a neuron's or feature's strongest examples fall into unrelated groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// For each example its group, the largest group first.
    pub of: Vec<usize>,
    pub count: usize,
    /// Mean similarity within groups less that between them; 0 for a single group.
    pub apart: f32,
}

/// Groups examples by the tokens that they are about: the active token and those around it, the nearer the heavier.
/// Agglomerative clustering (average linkage) of cosine similarities down to `least`.
pub fn group_examples(examples: &[Example], least: f32) -> Groups {
    let bags: Vec<Vec<(u32, f32)>> = examples.iter().map(bag).collect();
    let n = bags.len();
    let similarity: Vec<Vec<f32>> = (0..n).map(|i| (0..n).map(|j| cosine(&bags[i], &bags[j])).collect()).collect();
    let mut clusters: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
    let linkage = |a: &[usize], b: &[usize]| {
        let sum: f32 = a.iter().flat_map(|i| b.iter().map(move |j| (i, j))).map(|(i, j)| similarity[*i][*j]).sum();
        sum / (a.len() * b.len()) as f32
    };
    loop {
        let mut best = (f32::NEG_INFINITY, 0, 0);
        for i in 0..clusters.len() {
            for j in i + 1..clusters.len() {
                let s = linkage(&clusters[i], &clusters[j]);
                if s > best.0 {
                    best = (s, i, j);
                }
            }
        }
        if best.0 < least || clusters.len() < 2 {
            break;
        }
        let moved = clusters.swap_remove(best.2);
        clusters[best.1].extend(moved);
    }
    clusters.sort_by_key(|c| (std::cmp::Reverse(c.len()), c.iter().min().copied()));
    let mut of = vec![0; n];
    for (g, c) in clusters.iter().enumerate() {
        for i in c {
            of[*i] = g;
        }
    }
    let (mut within, mut between) = ((0f32, 0usize), (0f32, 0usize));
    for i in 0..n {
        for j in 0..i {
            let side = if of[i] == of[j] { &mut within } else { &mut between };
            side.0 += similarity[i][j];
            side.1 += 1;
        }
    }
    let mean = |(sum, n): (f32, usize)| if n > 0 { sum / n as f32 } else { 0.0 };
    let apart = if between.1 > 0 && within.1 > 0 { mean(within) - mean(between) } else { 0.0 };
    Groups { of, count: clusters.len(), apart }
}

/// Weights of an example's tokens, sorted by token: 1 for the active one, 1/(1 + distance) around it, shared among
/// repetitions.
fn bag(e: &Example) -> Vec<(u32, f32)> {
    const AROUND: usize = 3;
    let at = e.at();
    let mut bag: Vec<(u32, f32)> = Vec::new();
    for (i, id) in e.tokens.iter().enumerate() {
        let distance = i.abs_diff(at);
        if distance > AROUND {
            continue;
        }
        let weight = 1.0 / (1 + 2 * distance) as f32;
        match bag.iter_mut().find(|(t, _)| t == id) {
            Some(entry) => entry.1 += weight,
            None => bag.push((*id, weight)),
        }
    }
    bag.sort_by_key(|b| b.0);
    bag
}

fn cosine(a: &[(u32, f32)], b: &[(u32, f32)]) -> f32 {
    let dot: f32 = a.iter().filter_map(|(t, w)| b.binary_search_by_key(t, |x| x.0).ok().map(|i| w * b[i].1)).sum();
    let length = |v: &[(u32, f32)]| v.iter().map(|(_, w)| w * w).sum::<f32>().sqrt();
    dot / (length(a) * length(b)).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(token: u32, around: &[u32]) -> Example {
        let mut tokens = around.to_vec();
        tokens.insert(1, token);
        Example {
            value: 1.0,
            key: 0,
            row: 0,
            document: 0,
            position: 1,
            start: 0,
            activations: vec![0.0; tokens.len()],
            tokens,
        }
    }

    #[test]
    fn unrelated_examples_fall_apart() {
        let two = [about(5, &[1, 2]), about(5, &[3, 4]), about(9, &[6, 7]), about(9, &[8, 10]), about(5, &[11, 12])];
        let g = group_examples(&two, 0.3);
        assert_eq!((g.count, g.of.clone()), (2, vec![0, 0, 1, 1, 0]));
        assert!(g.apart > 0.5);
        let one = [about(5, &[1, 2]), about(5, &[1, 4])];
        assert_eq!(group_examples(&one, 0.3).count, 1);
        assert_eq!(group_examples(&[], 0.3).count, 0);
    }

    #[test]
    fn effects_list_what_the_unembedding_says() {
        let model = Model::open("induction").unwrap();
        let column: Vec<f32> = model.weights.unembed.output(77).unwrap().to_vec1().unwrap();
        let norm: Vec<f32> = model.weights.ln_final.as_ref().unwrap().weight.to_vec1().unwrap();
        let direction: Vec<f32> = column.iter().zip(&norm).map(|(c, n)| c / n).collect();
        let e = effects(&model, &direction).unwrap();
        assert_eq!(e.promoted[0].id, 77);
        assert!(e.suppressed[0].logit < 0.0);
        assert_eq!(e.histogram.iter().sum::<usize>(), model.config.d_vocab);
        assert!(effects(&model, &[1.0]).is_err());
        assert!(neuron_direction(&model, 0, 0).is_err(), "a model without MLPs has no neurons");
    }
}
