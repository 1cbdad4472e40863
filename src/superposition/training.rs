//! All instances, step by step.

use std::sync::Arc;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gradient::{Parameters, Workspace};
use super::inputs::{LANES, Lanes, Random, Source};
use super::setup::{Instance, OptimiserKind, Setup};
use crate::error::Result;
use crate::progress::Progress;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPS: f32 = 1e-8;
/// Parts that a batch is always cut into, so that a result does not depend on the number of threads.
const PARTS: usize = 4;
/// From so many models on, one a thread keeps any usual machine busy.
const FEW: usize = 8;
/// Multiplications of a step from which its parts run in parallel.
const WORTH_SPLITTING: usize = 2_000_000;
/// Samples that a snapshot's loss is measured on; the same ones every time, so that curves are smooth.
const EVALUATED: usize = 2048;
/// Streams of the random numbers that are not training batches.
const INITIAL: u64 = 1 << 62;
const EVALUATION: u64 = 1 << 61;

/// One instance at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// W, [feature][hidden].
    pub encoder: Vec<f32>,
    /// V, [feature][hidden]; equal to W where weights are tied.
    pub decoder: Vec<f32>,
    /// b, [feature].
    pub bias: Vec<f32>,
    /// Expected importance-weighted squared error for each feature, on fresh inputs.
    pub feature_loss: Vec<f32>,
    /// The same on the fixed data set, summed over features, where there is one.
    pub train_loss: Option<f32>,
}

impl Frame {
    pub fn loss(&self) -> f32 {
        self.feature_loss.iter().sum()
    }
}

/// All instances at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub step: usize,
    pub frames: Vec<Frame>,
}

impl Snapshot {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let per = |f: &Frame| f.encoder.len() + f.decoder.len() + f.bias.len() + f.feature_loss.len();
        4 * self.frames.iter().map(per).sum::<usize>()
    }
}

struct Model {
    settings: Instance,
    parameters: Parameters,
    first: Vec<f32>,
    second: Vec<f32>,
    gradient: Vec<f32>,
    /// A fixed data set, where there is one.
    data: Vec<Vec<Lanes>>,
    /// One for each part of a batch.
    work: Vec<Workspace>,
    x: Vec<Vec<Lanes>>,
}

/// Models in training.
pub struct Toy {
    setup: Arc<Setup>,
    models: Vec<Model>,
    step: usize,
}

impl Toy {
    /// Weights drawn from a normal distribution of variance 2 / (n + m) [Glorot and Bengio 2010], biases zero.
    ///
    /// # Errors
    /// What [`Setup::check`] says.
    pub fn new(setup: Arc<Setup>) -> Result<Self> {
        setup.check()?;
        let split = !setup.instances.is_empty() && Self::splits(&setup);
        let models = setup
            .instances
            .iter()
            .map(|settings| {
                let mut parameters = Parameters::zeros(&setup);
                let weights = parameters.values.len() - setup.features;
                let std = (2.0 / (setup.features + setup.hidden) as f32).sqrt();
                let mut random = Random::new(settings.seed, INITIAL);
                for chunk in parameters.values[..weights].chunks_mut(LANES) {
                    chunk.iter_mut().zip(random.normal()).for_each(|(v, r)| *v = std * r);
                }
                let source = Source::new(&setup, settings);
                let data = settings.samples.map_or_else(Vec::new, |s| source.data_set(settings.seed, s));
                let size = parameters.values.len();
                let rooms = if split { PARTS } else { 1 };
                Model {
                    settings: settings.clone(),
                    parameters,
                    first: vec![0.0; size],
                    second: vec![0.0; size],
                    gradient: vec![0.0; size],
                    data,
                    work: (0..rooms).map(|_| Workspace::new(&setup)).collect(),
                    x: vec![vec![[0.0; LANES]; setup.features]; rooms],
                }
            })
            .collect();
        Ok(Self { setup, models, step: 0 })
    }

    /// Whether a single step is worth several threads: few and large models.
    fn splits(setup: &Setup) -> bool {
        // By the setup alone: sums of parts are rounded differently, and a seed must mean the same everywhere.
        let work = 5 * setup.features * setup.hidden * setup.batch;
        setup.instances.len() < FEW && work >= WORTH_SPLITTING
    }

    pub fn setup(&self) -> &Arc<Setup> {
        &self.setup
    }

    pub fn step(&self) -> usize {
        self.step
    }

    pub fn is_finished(&self) -> bool {
        self.step >= self.setup.steps
    }

    /// Takes `steps` steps, at most to the end.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; some instances are then further than others, and the training is of no more use.
    pub fn run(&mut self, steps: usize, progress: &Progress) -> Result<()> {
        let to = (self.step + steps).min(self.setup.steps);
        let (setup, from) = (&self.setup, self.step);
        self.models.par_iter_mut().try_for_each(|model| {
            let source = Source::new(setup, &model.settings);
            for step in from..to {
                model.train(setup, &source, step);
                progress.check()?;
            }
            Ok::<(), crate::Error>(())
        })?;
        self.step = to;
        progress.step((to - from) as u64)
    }

    /// Weights and losses as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.measured(EVALUATED)
    }

    /// A snapshot whose losses are measured on `samples` inputs.
    pub fn measured(&self, samples: usize) -> Snapshot {
        let frames = self.models.par_iter().map(|m| m.frame(&self.setup, samples)).collect();
        Snapshot { step: self.step, frames }
    }
}

// What runs under the widest instruction set of the machine. These are structures because a closure as large as a
// step would stay a function of its own, compiled for the oldest machine.

/// One part of a batch: drawn, and its errors and gradients summed.
struct Part<'a> {
    setup: &'a Setup,
    source: &'a Source<'a>,
    settings: &'a Instance,
    parameters: &'a Parameters,
    work: &'a mut Workspace,
    x: &'a mut [Lanes],
    random: Random,
    samples: usize,
    backward: bool,
}

impl NullaryFnOnce for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let mut left = self.samples;
        while left > 0 {
            let count = left.min(LANES);
            self.source.draw(&mut self.random, self.x);
            self.work.add(self.setup, self.parameters, &self.settings.importance, self.x, count, self.backward);
            left -= count;
        }
    }
}

/// A fixed data set, errors and gradients summed.
struct Set<'a> {
    setup: &'a Setup,
    settings: &'a Instance,
    parameters: &'a Parameters,
    work: &'a mut Workspace,
    data: &'a [Vec<Lanes>],
    backward: bool,
}

impl NullaryFnOnce for Set<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut left = self.settings.samples.unwrap_or(0);
        for chunk in self.data {
            let count = left.min(LANES);
            self.work.add(self.setup, self.parameters, &self.settings.importance, chunk, count, self.backward);
            left -= count;
        }
    }
}

impl Model {
    fn train(&mut self, setup: &Setup, source: &Source<'_>, step: usize) {
        let Self { settings, parameters, work, x, data, gradient, .. } = self;
        let (settings, parameters) = (&*settings, &*parameters);
        work.iter_mut().for_each(Workspace::clear);
        let arch = Arch::new();
        let part = |k: usize, work: &mut Workspace, x: &mut [Lanes]| {
            let random = Random::new(settings.seed, (step * PARTS + k) as u64);
            let samples = (k + 1) * setup.batch / PARTS - k * setup.batch / PARTS;
            arch.dispatch(Part { setup, source, settings, parameters, work, x, random, samples, backward: true });
        };
        if settings.samples.is_some() {
            arch.dispatch(Set { setup, settings, parameters, work: &mut work[0], data, backward: true });
        } else if work.len() == PARTS {
            work.par_iter_mut().zip(x.par_iter_mut()).enumerate().for_each(|(k, (work, x))| part(k, work, x));
            if let Some((first, rest)) = work.split_first_mut() {
                rest.iter().for_each(|w| first.join(w));
            }
        } else {
            for k in 0..PARTS {
                part(k, &mut work[0], &mut x[0]);
            }
        }
        work[0].gradient(gradient);
        let rate = setup.optimiser.rate_at(step, setup.steps);
        self.update(setup, rate, step + 1);
    }

    fn update(&mut self, setup: &Setup, rate: f32, step: usize) {
        let decay = 1.0 - rate * setup.optimiser.weight_decay;
        let values = &mut self.parameters.values;
        match setup.optimiser.kind {
            OptimiserKind::Sgd => {
                for (v, g) in values.iter_mut().zip(&self.gradient) {
                    *v = *v * decay - rate * g;
                }
            }
            OptimiserKind::AdamW => {
                let c1 = 1.0 / (1.0 - BETA1.powi(step.min(100_000) as i32));
                let c2 = 1.0 / (1.0 - BETA2.powi(step.min(100_000) as i32));
                let moments = self.first.iter_mut().zip(&mut self.second);
                for ((v, g), (first, second)) in values.iter_mut().zip(&self.gradient).zip(moments) {
                    *first = BETA1 * *first + (1.0 - BETA1) * g;
                    *second = BETA2 * *second + (1.0 - BETA2) * g * g;
                    *v = *v * decay - rate * (*first * c1) / ((*second * c2).sqrt() + EPS);
                }
            }
        }
    }

    fn frame(&self, setup: &Setup, samples: usize) -> Frame {
        let (settings, parameters) = (&self.settings, &self.parameters);
        let mut work = Workspace::new(setup);
        let mut x = vec![[0.0; LANES]; setup.features];
        let source = &Source::new(setup, settings);
        // The same inputs for all, so that losses of models with one sparsity can be compared.
        let random = Random::new(0, EVALUATION);
        let arch = Arch::new();
        let (w, x) = (&mut work, &mut x[..]);
        arch.dispatch(Part { setup, source, settings, parameters, work: w, x, random, samples, backward: false });
        let feature_loss = work.losses(&settings.importance);
        let train_loss = settings.samples.map(|_| {
            work.clear();
            let data = &self.data;
            arch.dispatch(Set { setup, settings, parameters, work: &mut work, data, backward: false });
            work.losses(&settings.importance).iter().sum()
        });
        let p = parameters;
        Frame {
            encoder: p.encoder().to_vec(),
            decoder: p.decoder().to_vec(),
            bias: p.bias().to_vec(),
            feature_loss,
            train_loss,
        }
    }

    /// Hidden vectors of the first `limit` samples of the data set, [sample][hidden].
    fn hidden_of_data(&self, setup: &Setup, limit: usize) -> Vec<Vec<f32>> {
        let samples = self.settings.samples.unwrap_or(0).min(limit);
        (0..samples)
            .map(|s| {
                let x: Vec<f32> = self.data[s / LANES].iter().map(|f| f[s % LANES]).collect();
                self.parameters.forward(setup, &x).0
            })
            .collect()
    }
}

impl Toy {
    /// For each instance with a fixed data set: hidden vectors of its first `limit` samples.
    pub fn hidden_of_data(&self, limit: usize) -> Vec<Vec<Vec<f32>>> {
        self.models.iter().map(|m| m.hidden_of_data(&self.setup, limit)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(setup: &Setup, blocks: &[usize]) -> Snapshot {
        let mut toy = Toy::new(Arc::new(setup.clone())).unwrap();
        for b in blocks {
            toy.run(*b, &Progress::new()).unwrap();
        }
        toy.snapshot()
    }

    #[test]
    fn pauses_and_threads_do_not_change_the_result() {
        let mut setup = Setup::sweep(5, 2, &[0.9, 0.5], 0.9, 3);
        setup.steps = 60;
        let whole = trained(&setup, &[60]);
        assert_eq!(whole, trained(&setup, &[1, 19, 40]));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(whole, pool.install(|| trained(&setup, &[60])));
        assert!(whole.frames[0] != whole.frames[1]);
    }

    #[test]
    fn a_large_model_is_the_same_on_any_number_of_threads() {
        let mut setup = Setup::sweep(64, 12, &[0.9], 1.0, 3);
        setup.steps = 5;
        setup.batch = 1000;
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let one = pool(1).install(|| trained(&setup, &[5]));
        let four = pool(4).install(|| trained(&setup, &[5]));
        assert_eq!(one, four);
    }

    #[test]
    fn first_adam_step_is_the_rate_against_the_gradient() {
        let mut setup = Setup::sweep(2, 1, &[0.2], 1.0, 1);
        setup.steps = 1;
        let before = Toy::new(Arc::new(setup.clone())).unwrap().snapshot();
        let after = trained(&setup, &[1]);
        for (a, b) in before.frames[0].encoder.iter().zip(&after.frames[0].encoder) {
            let moved = (b - a * (1.0 - 1e-5)).abs();
            assert!((moved - 1e-3).abs() < 1e-5, "{moved}");
        }
    }

    #[test]
    fn a_fixed_data_set_can_be_memorised() {
        let mut setup = Setup::sweep(40, 2, &[0.9], 1.0, 1);
        setup.unit_inputs = true;
        setup.instances[0].samples = Some(3);
        setup.steps = 3000;
        let f = &trained(&setup, &[3000]).frames[0];
        assert!(f.train_loss.unwrap() < 0.02 && f.loss() > 0.3, "{:?} {}", f.train_loss, f.loss());
    }

    #[test]
    fn training_can_be_stopped() {
        let progress = Progress::new();
        progress.cancel();
        let mut toy = Toy::new(Arc::new(Setup::sweep(5, 2, &[0.9], 1.0, 3))).unwrap();
        assert!(matches!(toy.run(100, &progress), Err(crate::Error::Cancelled)));
    }
}
