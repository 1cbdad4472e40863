//! Training dictionaries: sparse autoencoders and transcoders on harvested activations.

pub mod activations;
mod card;
mod cells;
pub mod elsewhere;
pub mod harvest_file;
pub mod kept;
pub mod maths;
pub mod recipe;
mod row_kernels;
pub mod set;
pub mod settings;
pub mod shelf;
pub mod step;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use self::activations::Table;
use self::maths::{scale_all, unit};
use self::step::{FIRST_THRESHOLD, Params, Seen};
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::files::{LARGE, read, write_atomic};
use crate::interrupt;
use crate::memory::afford;
use crate::model::safetensors_file::pack;
use crate::progress::Progress;

pub use settings::{Method, Settings};

/// Rows from which mean and scale are estimated.
const SAMPLE: usize = 16_384;
/// Steps between two points of the curves.
pub const REPORT_EVERY: usize = 10;
/// Steps between two checkpoints.
const CHECKPOINT_EVERY: usize = 200;
/// The state of a training under way, in its folder.
pub const STATE: &str = "training-state.safetensors";

/// A point of the curves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: usize,
    /// In scaled units, where activations have a mean squared length of d.
    pub mse: f32,
    pub l0: f32,
    pub explained: f32,
    /// Share of the features that have been silent for as long as the settings say.
    pub dead: f32,
    /// CE-loss score on held-out text, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ce_score: Option<f32>,
    /// Explained variance on text that was held out, over all positions but each row's first; known at the end of a layer of
    /// a set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f32>,
}

/// Where the activations come from; written into the finished dictionary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub model_name: Option<String>,
    pub input: Option<Place>,
    pub output: Option<Place>,
}

/// A training under way.
pub struct Trainer {
    pub settings: Settings,
    pub origin: Origin,
    params: Params,
    input: Table,
    /// Nothing where input and target are the same.
    target: Option<Table>,
    /// Factors that bring inputs and targets to a mean squared length of d.
    scale: (f32, f32),
    /// Steps taken.
    pub step: usize,
    /// Positions seen since each feature last fired.
    silent: Vec<u64>,
    pub curve: Vec<Point>,
    shuffle: Shuffle,
}

impl Trainer {
    /// Begins on harvested activations: `target` is what a transcoder learns to write.
    ///
    /// # Errors
    /// Impossible settings, or tables that do not belong together.
    pub fn new(settings: Settings, origin: Origin, input: Table, target: Option<Table>) -> Result<Self> {
        settings.check()?;
        let n = input.rows();
        if n == 0 {
            return Err(Error::request("there are no activations to train on; give more text"));
        }
        if let Some(t) = &target
            && t.rows() != n
        {
            return Err(Error::request(format!(
                "there are {n} inputs but {} targets; harvest both from the same text",
                t.rows()
            )));
        }
        let width = input.width() + target.as_ref().map_or(input.width(), Table::width);
        // Values, two moments and a gradient of each weight.
        let bytes = settings.features.saturating_mul(width).saturating_mul(16);
        afford(bytes, &format!("training {} features of this width", settings.features), "give fewer")?;
        let shuffle = Shuffle::new(n, settings.seed);
        let sample: Vec<usize> = (0..SAMPLE.min(n)).map(|i| shuffle.at(i)).collect();
        let (mean_in, scale_in) = statistics(&input.take(&sample)?, input.width());
        let (mean_out, scale_out) = match &target {
            Some(t) => statistics(&t.take(&sample)?, t.width()),
            None => (mean_in, scale_in),
        };
        let mean: Vec<f32> = mean_out.iter().map(|m| m * scale_out).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let mut normal = || {
            let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random());
            ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
        };
        let d_out = target.as_ref().map_or(input.width(), Table::width);
        let params = Params::new(&settings, input.width(), d_out, target.is_none(), &mean, &mut normal);
        let silent = vec![0; settings.features];
        Ok(Self {
            settings,
            origin,
            params,
            input,
            target,
            scale: (scale_in, scale_out),
            step: 0,
            silent,
            curve: Vec::new(),
            shuffle,
        })
    }

    /// One step; a point of the curves now and then.
    ///
    /// # Errors
    /// Activations that cannot be read, or a loss that is no number any more.
    pub fn advance(&mut self) -> Result<Option<Point>> {
        let s = &self.settings;
        // Another order each time round.
        let rows: Vec<usize> = (0..s.batch).map(|i| self.shuffle.at(self.step * s.batch + i)).collect();
        let mut x = self.input.take(&rows)?;
        scale_all(&mut x, self.scale.0);
        let mut target = self.target.as_ref().map(|t| t.take(&rows)).transpose()?;
        if let Some(y) = &mut target {
            scale_all(y, self.scale.1);
        }
        // An autoencoder writes what it reads.
        let y = target.as_ref().unwrap_or(&x);
        let dead: Vec<bool> = self.silent.iter().map(|n| *n > s.dead_after as u64).collect();
        let penalty = s.sparsity_at(self.step);
        let g = self.params.gradients(s, penalty, &x, y, &dead);
        if !g.seen.loss.is_finite() {
            return Err(Error::failed(format!(
                "the training diverged at step {}; lower the learning rate of {}",
                self.step, s.rate
            )));
        }
        for (n, fired) in self.silent.iter_mut().zip(&g.fired) {
            *n = if *fired { 0 } else { *n + s.batch as u64 };
        }
        let seen = g.seen;
        let revive = s.resample > 0 && !s.method.counts() && self.step > 0 && self.step.is_multiple_of(s.resample);
        let error = if revive && self.step < s.steps * 3 / 4 { g.error.clone() } else { Vec::new() };
        let rate = s.rate_at(self.step);
        self.step += 1;
        self.params.update(&g, rate, self.step);
        if !error.is_empty() {
            self.resample(&x, &error, &dead);
        }
        let last = self.step == self.settings.steps;
        Ok((self.step == 1 || last || self.step.is_multiple_of(REPORT_EVERY)).then(|| self.point(seen)))
    }

    fn point(&mut self, seen: Seen) -> Point {
        let dead = self.silent.iter().filter(|n| **n > self.settings.dead_after as u64).count();
        let point = Point {
            step: self.step,
            mse: seen.mse,
            l0: seen.l0,
            explained: seen.explained,
            dead: dead as f32 / self.silent.len() as f32,
            ce_score: None,
            held_out: None,
        };
        self.curve.push(point);
        point
    }

    /// Dead features take up inputs that are reconstructed badly, drawn by their squared loss [Bricken et al. 2023].
    fn resample(&mut self, x: &[f32], error: &[f32], dead: &[bool]) {
        let (d_in, d_out, n) = (self.params.d_in, self.params.d_out, self.params.features);
        let weights: Vec<f64> = error
            .chunks_exact(d_out)
            .map(|e| {
                let loss: f64 = e.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
                loss * loss
            })
            .collect();
        let total: f64 = weights.iter().sum();
        let alive = dead.iter().filter(|d| !**d).count().max(1);
        let length = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
        let mean: f32 = (0..n)
            .filter(|f| !dead[*f])
            .map(|f| length(&self.params.w_enc.value[f * d_in..(f + 1) * d_in]))
            .sum::<f32>()
            / alive as f32;
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(self.step as u64 + 1);
        for f in (0..n).filter(|f| dead[*f]) {
            let mut left = rng.random::<f64>() * total;
            let row = weights
                .iter()
                .position(|w| {
                    left -= w;
                    left <= 0.0
                })
                .unwrap_or(0);
            let mut wrong: Vec<f32> = error[row * d_out..(row + 1) * d_out].iter().map(|v| -v).collect();
            unit(&mut wrong);
            let mut reader: Vec<f32> = x[row * d_in..(row + 1) * d_in].to_vec();
            if self.params.same {
                reader.clone_from(&wrong);
            }
            unit(&mut reader);
            reader.iter_mut().for_each(|v| *v *= 0.2 * mean);
            let p = &mut self.params;
            for (param, values, d) in [(&mut p.w_enc, &reader, d_in), (&mut p.w_dec, &wrong, d_out)] {
                let span = f * d..(f + 1) * d;
                param.value[span.clone()].copy_from_slice(values);
                param.first[span.clone()].fill(0.0);
                param.second[span].fill(0.0);
            }
            p.b_enc.set(f, 0.0);
            // What silenced it is not kept: thresholds and magnitudes begin as they did.
            if let Some(t) = &mut p.log_threshold {
                t.set(f, FIRST_THRESHOLD.ln());
            }
            if let Some((r, b)) = &mut p.magnitude {
                r.set(f, 0.0);
                b.set(f, 0.0);
            }
            self.silent[f] = 0;
        }
    }

    /// The dictionary as it is now, reading and writing the model's own activations: decoder rows have length 1.
    ///
    /// # Errors
    /// As making tensors.
    pub fn dictionary(&self, name: &str) -> Result<Dictionary> {
        let p = &self.params;
        let (s_in, s_out) = self.scale;
        let scaled = |v: &[f32], s: f32| v.iter().map(|x| x * s).collect::<Vec<f32>>();
        let w_enc = Tensor::from_vec(scaled(&p.w_enc.value, s_in / s_out), (p.features, p.d_in), &Device::Cpu)?;
        let activation = match (&p.log_threshold, &p.magnitude, self.settings.method) {
            (Some(t), ..) => Activation::JumpRelu { threshold: t.value.iter().map(|v| v.exp() / s_out).collect() },
            (_, Some((r, b)), _) => {
                Activation::Gated { r_mag: r.value.clone(), b_mag: scaled(&b.value, s_out.recip()) }
            }
            (.., Method::TopK) => Activation::TopK { k: self.settings.k },
            (.., Method::BatchTopK | Method::Matryoshka) => {
                Activation::JumpRelu { threshold: vec![p.threshold / s_out; p.features] }
            }
            _ => Activation::Relu,
        };
        // Read as the model's own, written as the model's own.
        let skip = p.w_skip.as_ref().map(|s| scaled(&s.value, s_in / s_out));
        let skip = skip.map(|s| Tensor::from_vec(s, (p.d_in, p.d_out), &Device::Cpu)).transpose()?;
        Ok(Dictionary {
            name: name.to_owned(),
            path: PathBuf::from(name),
            format: "SAELens",
            d_in: p.d_in,
            d_sae: p.features,
            d_out: p.d_out,
            w_enc: w_enc.t()?.contiguous()?,
            b_enc: scaled(&p.b_enc.value, s_out.recip()),
            w_dec: Tensor::from_vec(p.w_dec.value.clone(), (p.features, p.d_out), &Device::Cpu)?,
            later: Default::default(),
            b_dec: scaled(&p.b_dec.value, s_out.recip()),
            activation,
            subtract_b_dec: p.same,
            rescale: false,
            normalisation: Normalisation::None,
            skip,
            transcoder: !p.same,
            input: self.origin.input,
            output: if p.same { self.origin.input } else { self.origin.output },
            model_name: self.origin.model_name.clone(),
            config: serde_json::Value::Null,
            warnings: Vec::new(),
        })
    }

    /// Floating-point operations of one step's dense matrix products, as a dense training of the same shape would do
    /// them: encoder forward, decoder forward, and the three products of the backward pass; a gate's own reconstruction
    /// and the way back from it are two more.
    pub fn dense_operations(&self) -> f64 {
        let (n, b) = (self.params.features as f64, self.settings.batch as f64);
        let (i, o) = (self.params.d_in as f64, self.params.d_out as f64);
        let decoders = self.settings.method.dense_products() - 2;
        2.0 * b * n * (2.0 * i + decoders as f64 * o)
    }

    /// Writes a checkpoint.
    ///
    /// # Errors
    /// A folder that cannot be written; an earlier checkpoint then stands.
    pub fn save(&mut self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let about = Kept {
            settings: self.settings.clone(),
            origin: self.origin.clone(),
            step: self.step,
            scale: self.scale,
            rows: self.input.rows(),
            threshold: self.params.threshold,
            curve: self.curve.clone(),
        };
        let about = serde_json::to_string(&about).map_err(|e| Error::failed(e.to_string()))?;
        let silent: Vec<u32> = self.silent.iter().map(|n| (*n).min(u64::from(u32::MAX)) as u32).collect();
        let mut tensors = vec![("silent".to_owned(), Tensor::new(silent, &Device::Cpu)?)];
        for (name, p) in self.params.named() {
            for (part, values) in [("value", &p.value), ("first", &p.first), ("second", &p.second)] {
                tensors.push((format!("{name}.{part}"), Tensor::new(values.as_slice(), &Device::Cpu)?));
            }
        }
        let bytes = pack(tensors.iter().map(|(n, t)| (n.as_str(), t)), &[("training", about)])?;
        write_atomic(&folder.join(STATE), &bytes)
    }

    /// Takes up the checkpoint in a folder, if there is one; says whether.
    ///
    /// # Errors
    /// A damaged checkpoint, or one of other settings.
    pub fn resume(&mut self, folder: &Path) -> Result<bool> {
        let path = folder.join(STATE);
        if !path.exists() {
            return Ok(false);
        }
        // Three numbers for each parameter, and the curve.
        let held: usize = self.params.named().iter().map(|(_, p)| 12 * p.value.len()).sum();
        let bytes = read(&path, held as u64 + LARGE)?;
        let malformed = |what: String| Error::Malformed { path: path.clone(), format: "checkpoint", what };
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| malformed(e.to_string()))?;
        let kept: Kept = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get("training"))
            .and_then(|t| serde_json::from_str(t).ok())
            .ok_or_else(|| malformed("it holds no training".to_owned()))?;
        if kept.step > kept.settings.steps {
            return Err(malformed(format!("it is at step {} of {}", kept.step, kept.settings.steps)));
        }
        let same_data = kept.rows == self.input.rows() && kept.scale == self.scale;
        if kept.settings != self.settings || kept.origin != self.origin || !same_data {
            return Err(Error::request(format!(
                "{} belongs to a training with other settings or another text; use the same, or another --output",
                path.display()
            )));
        }
        let tensors =
            candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| malformed(e.to_string()))?;
        let get = |name: &str, n: usize| -> Result<Vec<f32>> {
            let t = tensors.get(name).filter(|t| t.elem_count() == n);
            Ok(t.ok_or_else(|| malformed(format!("it holds no `{name}` of {n} values")))?.to_vec1()?)
        };
        // All of it is read before any of it is taken.
        let mut found = Vec::new();
        for (name, p) in self.params.named() {
            let n = p.value.len();
            let part = |what: &str| get(&format!("{name}.{what}"), n);
            found.push((part("value")?, part("first")?, part("second")?));
        }
        let silent = tensors.get("silent").ok_or_else(|| malformed("it holds no `silent`".to_owned()))?;
        let silent = silent.to_vec1::<u32>()?;
        for ((_, p), (value, first, second)) in self.params.named().into_iter().zip(found) {
            (p.value, p.first, p.second) = (value, first, second);
        }
        self.silent = silent.into_iter().map(u64::from).collect();
        self.silent.resize(self.settings.features, 0);
        self.step = kept.step;
        self.scale = kept.scale;
        self.params.threshold = kept.threshold;
        self.curve = kept.curve;
        Ok(true)
    }

    /// Trains to the end, reporting points of the curves; checkpoints lie in `folder`, if one is given, also when the
    /// training is cancelled. `judge` gives the CE-loss score of a dictionary, now and then.
    ///
    /// # Errors
    /// As [`Self::advance`] and [`Self::save`].
    pub fn run(
        &mut self,
        folder: Option<&Path>,
        progress: &Progress,
        judge: &mut dyn FnMut(&Self) -> Result<Option<f32>>,
        report: &mut dyn FnMut(Point),
    ) -> Result<()> {
        let _careful = folder.map(|_| interrupt::careful(progress));
        progress.expect(self.settings.units(self.settings.steps));
        progress.step(self.settings.units(self.step))?;
        let look = (self.settings.steps / 10).max(1);
        while self.step < self.settings.steps {
            if let Some(mut point) = self.advance()? {
                if self.step.is_multiple_of(look) || self.step == self.settings.steps {
                    point.ce_score = match judge(self) {
                        // What was trained is kept all the same, below.
                        Err(Error::Cancelled) => None,
                        score => score?,
                    };
                    if let Some(last) = self.curve.last_mut() {
                        last.ce_score = point.ce_score;
                    }
                }
                report(point);
            }
            let cancelled = progress.step(self.settings.units(1));
            if let Some(folder) = folder
                && (self.step.is_multiple_of(CHECKPOINT_EVERY) || cancelled.is_err())
            {
                self.save(folder)?;
            }
            cancelled?;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    settings: Settings,
    origin: Origin,
    step: usize,
    scale: (f32, f32),
    #[serde(default)]
    rows: usize,
    threshold: f32,
    curve: Vec<Point>,
}

/// Mean, and the factor that brings the mean squared length to d.
fn statistics(values: &[f32], d: usize) -> (Vec<f32>, f32) {
    let rows = (values.len() / d.max(1)).max(1);
    let mut mean = vec![0f64; d];
    let mut squares = 0f64;
    for row in values.chunks_exact(d) {
        for (m, v) in mean.iter_mut().zip(row) {
            *m += f64::from(*v);
            squares += f64::from(*v) * f64::from(*v);
        }
    }
    let mean = mean.into_iter().map(|m| (m / rows as f64) as f32).collect();
    let length = (squares / rows as f64).max(f64::MIN_POSITIVE);
    (mean, ((d as f64) / length).sqrt() as f32)
}

/// A random order of 0..n that needs no memory, another one each time round: a Feistel network over the next power of
/// four, walked until it lands inside.
struct Shuffle {
    n: usize,
    half: u32,
    keys: [u64; 4],
}

impl Shuffle {
    fn new(n: usize, seed: u64) -> Self {
        let bits = usize::BITS - n.saturating_sub(1).max(1).leading_zeros();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(0x5u64);
        Self { n, half: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.random()) }
    }

    /// The i-th row, counting on over as many rounds as there are.
    fn at(&self, i: usize) -> usize {
        let (round, mut x) = ((i / self.n) as u64, (i % self.n) as u64);
        loop {
            x = self.turn(x, round);
            if (x as usize) < self.n {
                return x as usize;
            }
        }
    }

    fn turn(&self, x: u64, round: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for key in self.keys {
            let mut h = right ^ key.wrapping_add(round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (left, right) = (right, left ^ ((h ^ (h >> 31)) & mask));
        }
        (left << self.half) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_visits_every_row_once_in_another_order() {
        for n in [1, 2, 3, 10, 257] {
            let s = Shuffle::new(n, 3);
            let round = |r: usize| (0..n).map(|i| s.at(r * n + i)).collect::<Vec<_>>();
            let (mut a, b) = (round(0), round(1));
            if n > 9 {
                assert_ne!(a, b);
                assert_ne!(a, (0..n).collect::<Vec<_>>());
            }
            a.sort_unstable();
            assert_eq!(a, (0..n).collect::<Vec<_>>());
        }
    }
}
