//! Feature activations over the tokens of a run: which features of a dictionary are active where, which come first, and
//! what they add to the answer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::engine::gradient::gradients;
use crate::engine::kernels::math::simd;
use crate::engine::{Freeze, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::features::dictionary::encode::Sparse;
use crate::features::dictionary::place::Place;
use crate::features::train::elsewhere::Captured;
use crate::features::train::maths::dot;
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What decides which features come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Order {
    #[default]
    Max,
    Mean,
    /// Activation at one position.
    At(usize),
    /// Attribution to the answer's logit (difference), by the magnitude of its sum over positions.
    Answer,
}

impl Order {
    /// Returns the same order, at this position where it goes by one.
    pub fn at(self, pos: usize) -> Self {
        if matches!(self, Self::At(_)) { Self::At(pos) } else { self }
    }
}

crate::identity!(FeatureActivations, FeatureAttribution);

/// Positions of captured activations that are read.
const POSITIONS: usize = 2048;

/// What features are read from.
#[derive(Clone, PartialEq)]
pub enum ReadFrom {
    Run(Arc<Trace>),
    /// Activations that another program captured in a file, as this model's.
    Captured(Arc<Model>, PathBuf),
}

impl ReadFrom {
    pub fn trace(&self) -> Option<&Arc<Trace>> {
        match self {
            Self::Run(trace) => Some(trace),
            Self::Captured(..) => None,
        }
    }

    /// What the dictionary reads at each position, [pos, d_in], and what it is to give, [pos, d_out]: nothing where a file
    /// lacks that.
    fn rows(&self, dictionary: &Dictionary) -> Result<(Tensor, Option<Tensor>)> {
        match self {
            Self::Run(trace) => {
                let (input, output) = dictionary.check(&trace.model.config)?;
                let rows = |p: Place| p.rows(&trace.model, &trace.value(p.site)?);
                Ok((rows(input)?, Some(rows(output)?)))
            }
            Self::Captured(model, path) => {
                let file = Captured::open(path)?.of(model)?.first(POSITIONS);
                let (input, output) = dictionary.check(&model.config)?;
                let table = file.only(Some(input))?;
                let n = table.rows().min(POSITIONS);
                let x = table.tensor(0, n)?;
                let y = if output == input {
                    Some(x.clone())
                } else if file.places().contains(&output) {
                    Some(file.table(output, false)?.tensor(0, n)?)
                } else {
                    None
                };
                Ok((x, y))
            }
        }
    }
}

/// Features over the tokens of a run, or the positions of captured activations.
pub struct FeatureActivations {
    pub dictionary: Arc<Dictionary>,
    pub from: ReadFrom,
    pub acts: Sparse,
    /// Share of the variance that is reconstructed at each position, 1 − ‖y − ŷ‖²/‖y − ȳ‖²; nothing for a layer of a
    /// cross-layer transcoder, nor where a file does not hold it.
    pub explained: Vec<f32>,
}

/// Encodes what a run or a file holds at the dictionary's place.
///
/// # Errors
/// A dictionary that does not fit the model, or a file that lacks its place.
pub fn feature_activations(
    dictionary: Arc<Dictionary>,
    from: ReadFrom,
    progress: &Progress,
) -> Result<FeatureActivations> {
    let (x, y) = from.rows(&dictionary)?;
    let (acts, recon) = dictionary.replacement(&x, progress)?;
    let Some(y) = y else { return Ok(FeatureActivations { dictionary, from, acts, explained: Vec::new() }) };
    let y: Vec<Vec<f32>> = y.to_vec2()?;
    let recon: Vec<Vec<f32>> = recon.to_vec2()?;
    let d = dictionary.d_out;
    let mut mean = vec![0f32; d];
    // The first position is an outlier in many models and would move the mean.
    let first = usize::from(y.len() > 1);
    for row in &y[first..] {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / (y.len() - first) as f32);
    }
    let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    // Of a cross-layer transcoder's layer it says nothing: features of earlier layers write here as well.
    let explained = if dictionary.shares_its_site() {
        Vec::new()
    } else {
        y.iter().zip(&recon).map(|(y, r)| 1.0 - square(y, r) / square(y, &mean).max(f32::MIN_POSITIVE)).collect()
    };
    Ok(FeatureActivations { dictionary, from, acts, explained })
}

/// Asks for a dictionary's activations over a run or a file.
#[derive(Clone, PartialEq)]
pub struct FeatureActivationsOf {
    pub dictionary: Arc<Dictionary>,
    pub from: ReadFrom,
}

impl Question for FeatureActivationsOf {
    type Answer = FeatureActivations;

    const LABEL: &'static str = "reading features";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(FeatureActivations)) -> Result<FeatureActivations> {
        feature_activations(self.dictionary.clone(), self.from.clone(), progress)
    }
}

/// What each active feature adds to an answer's logit.
pub struct FeatureAttribution {
    pub answer: u32,
    /// The token whose logit is subtracted.
    pub wrong: Option<u32>,
    /// The features and positions are those of the activations.
    pub values: Sparse,
}

/// Asks what each active feature adds to the answer's logit, less the wrong one's.
#[derive(Clone, PartialEq)]
pub struct FeatureAttributionOf {
    pub activations: Arc<FeatureActivations>,
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
}

impl Question for FeatureAttributionOf {
    type Answer = FeatureAttribution;

    const LABEL: &'static str = "attributing the answer to features";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(FeatureAttribution)) -> Result<FeatureAttribution> {
        let wrong = self.wrong;
        let answer = self.answer.ok_or_else(|| Error::request("there is no answer yet; type one at the top"))?;
        Ok(FeatureAttribution { answer, wrong, values: self.activations.attribution(answer, wrong, progress)? })
    }
}

impl FeatureActivations {
    /// A position's token; of captured activations nobody knows it, and its number stands for it.
    pub fn token(&self, pos: usize) -> String {
        self.from.trace().map_or_else(|| pos.to_string(), |trace| trace.token_text(pos))
    }

    /// What each feature adds to the answer's logit (difference) at the last position, to first order and along all
    /// paths: activation · (decoder row · gradient) at each position, attention and norms included [as in attribution
    /// patching, Nanda 2023; Marks et al. 2024]. The features and positions are those of `acts`.
    ///
    /// # Errors
    /// An edited run, a place whose value has no gradient, a prompt whose backward pass would not fit in memory, or
    /// [`Error::Cancelled`].
    pub fn attribution(&self, answer: u32, wrong: Option<u32>, progress: &Progress) -> Result<Sparse> {
        let trace = self.from.trace().ok_or_else(|| {
            Error::request(
                "captured activations lead to no answer; read the prompt, or order features by what is largest",
            )
        })?;
        let (model, d) = (&trace.model, &self.dictionary);
        let places = d.written_places()?;
        if let Some(place) = places.iter().find(|p| p.mlp_input) {
            return Err(Error::request(format!(
                "{place} is read, not written; features there add nothing by themselves"
            )));
        }
        let unembed = &model.weights.unembed;
        let column = |id: u32| unembed.outputs(&[id])?.t().map_err(Error::from);
        let reads = match wrong {
            Some(wrong) => (column(answer)? - column(wrong)?)?,
            None => column(answer)?,
        };
        let kinds: Vec<SiteKind> = places.iter().take(1).map(|p| p.site.kind).collect();
        let last = trace.len() - 1;
        let metric = |row: &Tensor| Ok(row.reshape((1, reads.dim(0)?))?.matmul(&reads)?);
        let found = gradients(trace, &kinds, Freeze::default(), last, metric, progress)?;
        let input = d.input.map_or(places[0], |p| p);
        let scales = d.output_scales(&input.rows(model, &trace.value(input.site)?)?)?;
        let at = places.iter().map(|p| Ok(p.rows(model, found.get(p.site)?)?.to_vec2()?));
        let gradients: Vec<Vec<Vec<f32>>> = at.collect::<Result<_>>()?;
        let norms = if d.rescale { Some(d.decoder_norms()?) } else { None };
        // Where each feature is active, feature by feature, so that its decoder rows are read once.
        let mut places: Vec<(u32, usize, usize)> = Vec::with_capacity(self.acts.values.len());
        for p in 0..=last {
            places.extend((self.acts.starts[p]..self.acts.starts[p + 1]).map(|i| (self.acts.features[i], p, i)));
        }
        places.sort_unstable();
        let of_feature: Vec<&[(u32, usize, usize)]> = places.chunk_by(|a, b| a.0 == b.0).collect();
        let slopes = |places: &&[(u32, usize, usize)]| -> Result<Vec<(usize, f32)>> {
            progress.check()?;
            let Some((f, ..)) = places.first() else { return Ok(Vec::new()) };
            let mut rows = vec![d.direction(*f as usize)?];
            rows.extend(d.later.of(*f as usize)?);
            let length = norms.as_ref().map_or(1.0, |n| n[*f as usize].max(f32::MIN_POSITIVE));
            let slope = |p: usize| rows.iter().zip(&gradients).map(|(w, g)| dot(w, &g[p])).sum::<f32>() / length;
            Ok(simd(|| places.iter().map(|(_, p, i)| (*i, scales[*p] * slope(*p))).collect()))
        };
        let slopes = of_feature.par_iter().map(slopes).collect::<Result<Vec<_>>>()?;
        let mut out = self.acts.clone();
        slopes.into_iter().flatten().for_each(|(i, s)| out.values[i] *= s);
        Ok(out)
    }

    /// The features that are active anywhere but in the first position, the leading ones first, at most `count`;
    /// `attribution` is what [`Order::Answer`] goes by. And how many there are.
    pub fn leading(&self, order: Order, attribution: Option<&Sparse>, count: usize) -> (Vec<u32>, usize) {
        let n = self.acts.rows();
        let from = usize::from(n > 1);
        let mut score: HashMap<u32, f32> = HashMap::new();
        for p in from..n {
            for (f, a) in self.acts.row(p) {
                let s = score.entry(f).or_insert(0.0);
                match order {
                    Order::Max => *s = s.max(a),
                    Order::Mean => *s += a,
                    Order::At(pos) if pos == p => *s = a,
                    Order::At(_) | Order::Answer => {}
                }
            }
        }
        match (order, attribution) {
            (Order::At(0), _) => score.extend(self.acts.row(0)),
            (Order::Answer, Some(all)) => {
                for (f, v) in (from..n).flat_map(|p| all.row(p)) {
                    *score.entry(f).or_insert(0.0) += v;
                }
            }
            _ => {}
        }
        let mut all: Vec<(u32, f32)> = score.into_iter().collect();
        let total = all.len();
        all.sort_unstable_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        (all.into_iter().take(count).map(|(f, _)| f).collect(), total)
    }
}
