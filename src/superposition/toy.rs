//! Toy models in training. All of them take their steps together, each on batches of its own.

use std::sync::Arc;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use super::gradient::{Parameters, Workspace};
use super::inputs::{LANES, Lanes, Random, Source};
use super::setup::{Instance, OptimiserKind, Setup};
use crate::error::Result;
use crate::progress::Progress;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPS: f32 = 1e-8;
/// Number of parts of a batch. It is fixed, so that a result does not depend on the number of threads.
const PARTS: usize = 4;
/// Fewer models than this are few: one thread for each would leave cores idle.
const FEW: usize = 8;
/// A step of at least so many multiplications is large enough to run its parts in parallel.
const WORTH_SPLITTING: usize = 2_000_000;
/// Number of inputs on which a snapshot's loss is measured. They are the same ones every time, so that curves are
/// smooth.
pub const EVALUATED: usize = 2048;
/// Streams of random numbers for first weights and for measuring; all others are training batches.
const INITIAL: u64 = 1 << 62;
const EVALUATION: u64 = 1 << 61;

/// The weights and losses of one model at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// W, [feature][hidden].
    pub encoder: Vec<f32>,
    /// V, [feature][hidden]; equal to W when weights are tied.
    pub decoder: Vec<f32>,
    /// b, [feature].
    pub bias: Vec<f32>,
    /// Mean importance-weighted squared error of each feature on fresh inputs, [feature].
    pub feature_loss: Vec<f32>,
    /// The same on the fixed data set, summed over features. A model that sees fresh inputs has none.
    pub train_loss: Option<f32>,
}

impl Frame {
    /// Returns the loss on fresh inputs, summed over features.
    pub fn loss(&self) -> f32 {
        self.feature_loss.iter().sum()
    }
}

/// One toy model in training.
struct Model {
    settings: Instance,
    parameters: Parameters,
    first: Vec<f32>,
    second: Vec<f32>,
    gradient: Vec<f32>,
    /// The step after which the weights were not finite.
    diverged: Option<usize>,
    /// The fixed data set; empty for a model that sees fresh inputs.
    data: Vec<Vec<Lanes>>,
    /// A workspace for each part of a batch; a single one when parts run one after the other.
    work: Vec<Workspace>,
    x: Vec<Vec<Lanes>>,
}

/// Toy models in training.
pub struct Toy {
    setup: Arc<Setup>,
    models: Vec<Model>,
    step: usize,
}

impl Toy {
    /// Draws first weights from a normal distribution of variance 2 / (n + m) [Glorot and Bengio 2010]. Biases are
    /// zero.
    ///
    /// # Errors
    /// Returns the error of [`Setup::check`].
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
                    diverged: None,
                    data,
                    work: (0..rooms).map(|_| Workspace::new(&setup)).collect(),
                    x: vec![vec![[0.0; LANES]; setup.features]; rooms],
                }
            })
            .collect();
        Ok(Self { setup, models, step: 0 })
    }

    /// Returns true if one step is worth several threads: when models are few and large.
    fn splits(setup: &Setup) -> bool {
        // The setup alone decides: sums of parts are rounded differently, and a seed must give the same result on every
        // machine.
        let work = 5 * setup.features * setup.hidden * setup.batch;
        setup.instances.len() < FEW && work >= WORTH_SPLITTING
    }

    pub fn setup(&self) -> &Arc<Setup> {
        &self.setup
    }

    pub fn step(&self) -> usize {
        self.step
    }

    /// The model that diverged first, and the step after which its weights were not finite.
    pub fn diverged(&self) -> Option<(usize, usize)> {
        let steps = self.models.iter().enumerate().filter_map(|(k, m)| Some((k, m.diverged?)));
        steps.min_by_key(|(k, step)| (*step, *k))
    }

    pub fn is_finished(&self) -> bool {
        self.step >= self.setup.steps
    }

    /// Takes `steps` steps, but stops at the end of the training.
    ///
    /// # Errors
    /// Returns [`crate::Error::Cancelled`]. Some models are then further than others: the training cannot go on.
    pub fn run(&mut self, steps: usize, progress: &Progress) -> Result<()> {
        let to = (self.step + steps).min(self.setup.steps);
        let (setup, from) = (&self.setup, self.step);
        self.models.par_iter_mut().try_for_each(|model| {
            let source = Source::new(setup, &model.settings);
            for step in from..to {
                model.train(setup, &source, step);
                if model.diverged.is_none() && model.parameters.values.iter().any(|v| !v.is_finite()) {
                    model.diverged = Some(step + 1);
                }
                progress.check()?;
            }
            Ok::<(), crate::Error>(())
        })?;
        self.step = to;
        progress.step((to - from) as u64)
    }

    /// Returns the weights of all models, with their losses on `samples` inputs.
    pub fn frames(&self, samples: usize) -> Vec<Frame> {
        self.models.par_iter().map(|m| m.frame(&self.setup, samples)).collect()
    }

    /// Returns the hidden vectors of the first `limit` samples of each model's fixed data set, [model][sample][hidden].
    pub fn hidden_of_data(&self, limit: usize) -> Vec<Vec<Vec<f32>>> {
        self.models.iter().map(|m| m.hidden_of_data(&self.setup, limit)).collect()
    }
}

// `Part` and `Set` run with the widest instructions of the machine. They are structures because the compiler keeps a
// closure of this size as a function of its own, and compiles that for the oldest machine.

/// Draws one part of a batch, and sums its errors and gradients.
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

/// Sums errors and gradients over a fixed data set.
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
        // All models see the same inputs, so that losses of models with one sparsity can be compared.
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

    /// Returns the hidden vectors of the first `limit` samples of the data set, [sample][hidden].
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

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(setup: &Setup, blocks: &[usize]) -> Vec<Frame> {
        let mut toy = Toy::new(Arc::new(setup.clone())).unwrap();
        for b in blocks {
            toy.run(*b, &Progress::new()).unwrap();
        }
        toy.frames(EVALUATED)
    }

    #[test]
    fn pauses_and_threads_do_not_change_the_result() {
        let mut setup = Setup::sweep(5, 2, &[0.9, 0.5], 0.9, 3);
        setup.steps = 60;
        let whole = trained(&setup, &[60]);
        assert_eq!(whole, trained(&setup, &[1, 19, 40]));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(whole, pool.install(|| trained(&setup, &[60])));
        assert!(whole[0] != whole[1]);
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
        let before = Toy::new(Arc::new(setup.clone())).unwrap().frames(EVALUATED);
        let after = trained(&setup, &[1]);
        for (a, b) in before[0].encoder.iter().zip(&after[0].encoder) {
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
        let f = &trained(&setup, &[3000])[0];
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
