//! A training that someone watches: it runs on a thread of its own, can be paused, slowed and stepped, and sends what
//! it looks like a few dozen times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::progress::Progress;
use crate::superposition::{Moment, Setup, Toy};

/// Time between two moments that are sent, at least.
const INTERVAL: Duration = Duration::from_millis(33);
/// Share of the time that measuring and sending may take.
const OVERHEAD: f64 = 0.15;
/// Length of a block of steps that is aimed at; a command takes effect after one.
const BLOCK: Duration = Duration::from_millis(20);
/// Moments that may wait to be received: a window that is not drawn receives none.
const WAITING: usize = 4;
/// How often a paused training looks for commands.
const IDLE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Control {
    paused: AtomicBool,
    /// Steps to take although paused.
    single: AtomicU64,
    /// Steps a second; 0 for as many as the machine can do.
    rate: AtomicU64,
}

/// What arrives from the thread.
pub enum Report {
    Moment(Arc<Moment>),
    /// The training has ended, well or badly.
    Ended(Result<()>),
}

/// The handle of a running training. Dropping it stops the training.
pub struct Training {
    control: Arc<Control>,
    progress: Progress,
    reports: Receiver<Report>,
}

impl Training {
    /// Starts; `wake` is called whenever there is something to receive.
    pub fn spawn(setup: Arc<Setup>, paused: bool, rate: u64, wake: impl Fn() + Send + 'static) -> Self {
        let control = Arc::new(Control::default());
        control.paused.store(paused, Ordering::Relaxed);
        control.rate.store(rate, Ordering::Relaxed);
        let progress = Progress::new();
        let (sender, reports) = sync_channel(WAITING);
        let (theirs, watched) = (control.clone(), progress.clone());
        std::thread::spawn(move || {
            let outcome = run(setup, &theirs, &watched, &sender, &wake);
            // A handle that was dropped has nobody to tell.
            drop(sender.send(Report::Ended(outcome)));
            wake();
        });
        Self { control, progress, reports }
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn poll(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    pub fn is_paused(&self) -> bool {
        self.control.paused.load(Ordering::Relaxed)
    }

    pub fn pause(&self, paused: bool) {
        self.control.paused.store(paused, Ordering::Relaxed);
    }

    /// Takes a few steps although paused.
    pub fn step(&self, steps: u64) {
        self.control.single.fetch_add(steps, Ordering::Relaxed);
    }

    /// Steps a second; 0 for as many as the machine can do.
    pub fn limit(&self, rate: u64) {
        self.control.rate.store(rate, Ordering::Relaxed);
    }
}

impl Drop for Training {
    fn drop(&mut self) {
        self.progress.cancel();
    }
}

fn run(
    setup: Arc<Setup>,
    control: &Control,
    progress: &Progress,
    sender: &SyncSender<Report>,
    wake: &dyn Fn(),
) -> Result<()> {
    progress.expect(setup.steps as u64);
    let mut toy = Toy::new(setup)?;
    let send = |toy: &Toy| {
        let started = Instant::now();
        let moment = Report::Moment(Arc::new(Moment::of(toy)));
        // The last one waits for its turn; of the others those that find no room are left out.
        let delivered = if toy.is_finished() {
            wake();
            sender.send(moment).is_ok()
        } else {
            !matches!(sender.try_send(moment), Err(TrySendError::Disconnected(_)))
        };
        wake();
        (delivered, started.elapsed())
    };
    let (_, mut cost) = send(&toy);
    let mut sent = Instant::now();
    let mut shown = 0;
    // Steps a second as measured, and steps that the limit allows but that have not been taken.
    let (mut speed, mut credit, mut last) = (1000.0f64, 0.0f64, Instant::now());
    while !toy.is_finished() {
        progress.check()?;
        let since = last.elapsed().as_secs_f64();
        last = Instant::now();
        let single = control.single.swap(0, Ordering::Relaxed) as usize;
        let mut steps = (speed * BLOCK.as_secs_f64()).max(1.0) as usize;
        if single > 0 {
            steps = single;
        } else if control.paused.load(Ordering::Relaxed) {
            credit = 0.0;
            if shown != toy.step() {
                shown = toy.step();
                send(&toy);
            }
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
        let started = Instant::now();
        toy.run(steps, progress)?;
        let took = started.elapsed().as_secs_f64().max(1e-6);
        speed = 0.7 * speed + 0.3 * (steps as f64 / took);
        let wait = INTERVAL.max(cost.div_f64(OVERHEAD));
        if single > 0 || sent.elapsed() >= wait || toy.is_finished() {
            let (delivered, now) = send(&toy);
            if !delivered {
                return Ok(());
            }
            (cost, sent, shown) = (now, Instant::now(), toy.step());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(steps: usize) -> Arc<Setup> {
        let mut s = Setup::sweep(5, 2, &[0.9, 0.5], 0.9, 1);
        s.steps = steps;
        Arc::new(s)
    }

    /// Receives until the end, or until `enough`.
    fn receive(t: &Training, enough: impl Fn(&Moment) -> bool) -> Vec<Arc<Moment>> {
        let mut all = Vec::new();
        for _ in 0..4000 {
            match t.poll() {
                Some(Report::Moment(m)) => {
                    let last = enough(&m);
                    all.push(m);
                    if last {
                        return all;
                    }
                }
                Some(Report::Ended(outcome)) => {
                    outcome.unwrap();
                    return all;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("nothing more came");
    }

    #[test]
    fn a_watched_training_ends_where_an_unwatched_one_does() {
        let t = Training::spawn(setup(500), false, 0, || {});
        let all = receive(&t, |_| false);
        assert_eq!(all[0].step(), 0);
        let last = all.last().unwrap();
        assert_eq!(last.step(), 500);
        let mut toy = Toy::new(setup(500)).unwrap();
        toy.run(500, &Progress::new()).unwrap();
        assert_eq!(last.snapshot, toy.snapshot());
    }

    #[test]
    fn it_can_be_paused_and_stepped() {
        let t = Training::spawn(setup(500), true, 0, || {});
        receive(&t, |m| m.step() == 0);
        t.step(3);
        receive(&t, |m| m.step() == 3);
        t.step(2);
        receive(&t, |m| m.step() == 5);
        t.pause(false);
        assert_eq!(receive(&t, |m| m.step() == 500).last().unwrap().step(), 500);
    }

    #[test]
    fn a_bad_setup_is_an_answer() {
        let mut bad = Setup::sweep(5, 2, &[0.5], 1.0, 1);
        bad.features = 0;
        let t = Training::spawn(Arc::new(bad), false, 0, || {});
        for _ in 0..1000 {
            if let Some(Report::Ended(outcome)) = t.poll() {
                assert!(outcome.is_err());
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("it never ended");
    }
}
