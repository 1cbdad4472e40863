//! A training of toy models that someone watches. It can be paused, slowed down and taken step by step, and it hands
//! out snapshots a few dozen times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Setup, Snapshot, Toy};
use crate::error::Result;
use crate::identity;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Shortest time between two snapshots.
const INTERVAL: Duration = Duration::from_millis(33);
/// Largest share of the time that snapshots may take.
const OVERHEAD: f64 = 0.15;
/// Time that a block of steps should take. A command takes effect between two blocks.
const BLOCK: Duration = Duration::from_millis(20);
/// Time between two checks of a paused training for commands.
const IDLE: Duration = Duration::from_millis(10);
/// Most snapshots that are kept. When there are more, every second one is dropped.
const SNAPSHOTS: usize = 400;
/// Most bytes that the kept snapshots may take.
const MEMORY: usize = 256 << 20;

/// The controls of a live training. The training and whoever watches it share them.
#[derive(Debug, Default)]
pub struct Control {
    paused: AtomicBool,
    /// Steps to take although the training is paused.
    single: AtomicU64,
    /// Steps a second; 0 means as many as the machine can do.
    rate: AtomicU64,
}

identity!(Control);

impl Control {
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Takes `steps` steps although the training is paused.
    pub fn step(&self, steps: u64) {
        self.single.fetch_add(steps, Ordering::Relaxed);
    }

    /// Limits the training to `rate` steps a second; 0 removes the limit.
    pub fn limit(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }
}

/// Asks for a training of toy models. Each training has controls of its own, so no two are the same question.
#[derive(Clone, Debug, PartialEq)]
pub struct ToyTrainingOf {
    pub setup: Arc<Setup>,
    pub control: Arc<Control>,
}

impl Question for ToyTrainingOf {
    /// The kept snapshots, by rising step. The first and the newest are always among them.
    type Answer = Vec<Arc<Snapshot>>;

    const LABEL: &'static str = "training toy models";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let control = &*self.control;
        progress.expect(self.setup.steps as u64);
        let mut toy = Toy::new(self.setup.clone())?;
        let mut kept = Kept::default();
        // Measures the models, hands the result out, and returns the time that this took.
        let mut hand_out = |toy: &Toy| {
            let started = Instant::now();
            partial(kept.add(Snapshot::of(toy)));
            started.elapsed()
        };
        let mut cost = hand_out(&toy);
        let (mut handed_out, mut shown) = (Instant::now(), 0);
        // Measured steps a second, and steps that the limit allows but that have not been taken yet.
        let (mut speed, mut credit, mut last) = (1000.0f64, 0.0f64, Instant::now());
        while !toy.is_finished() {
            progress.check()?;
            let since = last.elapsed().as_secs_f64();
            last = Instant::now();
            let single = control.single.swap(0, Ordering::Relaxed) as usize;
            let mut steps = (speed * BLOCK.as_secs_f64()).max(1.0) as usize;
            if single > 0 {
                steps = single;
            } else if control.is_paused() {
                credit = 0.0;
                if shown != toy.step() {
                    shown = toy.step();
                    hand_out(&toy);
                }
                progress.rest(true);
                std::thread::sleep(IDLE);
                continue;
            } else {
                let limit = control.rate.load(Ordering::Relaxed);
                if limit > 0 {
                    credit = (credit + since * limit as f64).min(steps as f64);
                    if credit < 1.0 {
                        std::thread::sleep(IDLE.min(Duration::from_secs_f64(1.0 / limit as f64)));
                        continue;
                    }
                    steps = credit as usize;
                    credit -= steps as f64;
                }
            }
            progress.rest(false);
            let started = Instant::now();
            toy.run(steps, progress)?;
            let took = started.elapsed().as_secs_f64().max(1e-6);
            speed = 0.7 * speed + 0.3 * (steps as f64 / took);
            let wait = INTERVAL.max(cost.div_f64(OVERHEAD));
            if !toy.is_finished() && (single > 0 || handed_out.elapsed() >= wait) {
                cost = hand_out(&toy);
                (handed_out, shown) = (Instant::now(), toy.step());
            }
        }
        Ok(kept.add(Snapshot::of(&toy)))
    }
}

/// The snapshots that are kept of a training. They are thinned out as it goes on.
#[derive(Default)]
struct Kept {
    snapshots: Vec<Arc<Snapshot>>,
    bytes: usize,
    /// How often they were halved. Of 2^halved snapshots one is kept.
    halved: u32,
    /// Snapshots that were taken, kept or not.
    taken: usize,
}

impl Kept {
    /// Takes a snapshot in. Returns the kept ones, with this one at the end.
    fn add(&mut self, snapshot: Snapshot) -> Vec<Arc<Snapshot>> {
        let snapshot = Arc::new(snapshot);
        if self.taken.is_multiple_of(1 << self.halved) {
            self.bytes += snapshot.bytes();
            self.snapshots.push(snapshot.clone());
        }
        self.taken += 1;
        while (self.snapshots.len() > SNAPSHOTS || self.bytes > MEMORY) && self.snapshots.len() > 2 {
            self.snapshots = self.snapshots.drain(..).step_by(2).collect();
            self.bytes = self.snapshots.iter().map(|s| s.bytes()).sum();
            self.halved += 1;
        }
        let mut all = self.snapshots.clone();
        if all.last().is_none_or(|s| s.step != snapshot.step) {
            all.push(snapshot);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::superposition::toy::EVALUATED;

    fn training(steps: usize, paused: bool) -> ToyTrainingOf {
        let mut setup = Setup::sweep(5, 2, &[0.9, 0.5], 0.9, 1);
        setup.steps = steps;
        let control = Control::default();
        control.pause(paused);
        ToyTrainingOf { setup: Arc::new(setup), control: Arc::new(control) }
    }

    #[test]
    fn a_watched_training_ends_where_an_unwatched_one_does() {
        let training = training(500, false);
        let mut parts = Vec::new();
        let end = training.run(&Progress::new(), &mut |part| parts.push(part)).unwrap();
        assert_eq!((parts[0][0].step, end[0].step), (0, 0));
        assert!(parts.iter().all(|p| p.is_sorted_by_key(|s| s.step)));
        let last = end.last().unwrap();
        assert_eq!(last.step, 500);
        let mut toy = Toy::new(training.setup.clone()).unwrap();
        toy.run(500, &Progress::new()).unwrap();
        assert_eq!(last.frames, toy.frames(EVALUATED));
    }

    #[test]
    fn it_can_be_paused_stepped_and_stopped() {
        let training = training(500, true);
        let (control, progress) = (training.control.clone(), Progress::new());
        let watched = progress.clone();
        let mut steps = Vec::new();
        let end = training.run(&progress, &mut |snapshots| {
            let step = snapshots.last().unwrap().step;
            steps.push(step);
            match step {
                0 => control.step(3),
                3 => control.step(2),
                _ => watched.cancel(),
            }
        });
        assert!(matches!(end, Err(Error::Cancelled)));
        assert_eq!(steps, [0, 3, 5]);
    }

    #[test]
    fn a_paused_training_rests() {
        let training = training(500, true);
        let (control, progress) = (training.control.clone(), Progress::new());
        let watched = progress.clone();
        let end = std::thread::spawn(move || training.run(&progress, &mut |_| {}));
        while !watched.is_resting() {
            std::thread::sleep(IDLE);
        }
        control.pause(false);
        assert_eq!(end.join().unwrap().unwrap().last().unwrap().step, 500);
        assert!(!watched.is_resting());
    }

    #[test]
    fn snapshots_are_thinned_out_and_the_newest_stays() {
        let toy = Toy::new(training(1, false).setup).unwrap();
        let first = Snapshot::of(&toy);
        let mut kept = Kept::default();
        for step in 0..5000 {
            let all = kept.add(Snapshot { step, ..first.clone() });
            assert!(all.len() <= SNAPSHOTS + 1 && all[0].step == 0);
            assert!(all.last().unwrap().step == step && all.is_sorted_by_key(|s| s.step));
        }
        assert!(kept.snapshots.len() > SNAPSHOTS / 2);
    }

    #[test]
    fn a_bad_setup_is_an_error() {
        let mut bad = Setup::sweep(5, 2, &[0.5], 1.0, 1);
        bad.features = 0;
        let training = ToyTrainingOf { setup: Arc::new(bad), control: Arc::default() };
        assert!(training.run(&Progress::new(), &mut |_| {}).is_err());
    }
}
