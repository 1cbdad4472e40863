//! Progress and cancellation, shared between a computation and whoever watches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::cost::Cost;
use crate::error::{Error, Result};

/// Asks a person whether work that costs so much is to go on, and waits for the answer.
pub type Asker = Box<dyn Fn(Cost) -> Result<()> + Send + Sync>;

/// A cheap handle that both sides clone. The computation calls [`Progress::step`], which is also
/// where a cancellation takes effect; the watcher reads [`Progress::fraction`].
#[derive(Clone, Debug)]
pub struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    /// Shared with the handles of parts.
    cancelled: Arc<AtomicBool>,
    done: AtomicU64,
    total: AtomicU64,
    /// Of the total, what has not been asked for yet.
    reserved: AtomicU64,
    resting: AtomicBool,
    started: Instant,
    /// Milliseconds since then in which the work waited for a word.
    waited: AtomicU64,
    left: Mutex<Option<Left>>,
    asker: Option<Arc<Asker>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}

/// What was last said to be left.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// Seconds since the start at which it was said.
    at: f64,
    seconds: f64,
}

impl Left {
    /// Seconds in which most of the way to another estimate is gone.
    const SLOWNESS: f64 = 4.0;

    /// What is left at a later time, when it looks like `seconds`. Parts of a job are of unequal speed, so what it looks
    /// like jumps; what is said counts down, and turns to it slowly.
    fn next(self, at: f64, seconds: f64) -> Self {
        let passed = (at - self.at).max(0.0);
        let counted = (self.seconds - passed).max(0.0);
        let weight = 1.0 - (-passed / Self::SLOWNESS).exp();
        Self { at, seconds: counted + weight * (seconds - counted) }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::with(Arc::default(), None)
    }
}

impl Progress {
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for a part of the work, which counts for itself and is cancelled with the whole.
    pub fn part(&self) -> Self {
        Self::with(self.inner.cancelled.clone(), self.inner.asker.clone())
    }

    /// A handle for work that somebody watches who can be asked whether it is worth its cost.
    pub fn asking(asker: Asker) -> Self {
        Self::with(Arc::default(), Some(Arc::new(asker)))
    }

    fn with(cancelled: Arc<AtomicBool>, asker: Option<Arc<Asker>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                cancelled,
                done: AtomicU64::new(0),
                total: AtomicU64::new(0),
                reserved: AtomicU64::new(0),
                resting: AtomicBool::new(false),
                started: Instant::now(),
                waited: AtomicU64::new(0),
                left: Mutex::new(None),
                asker,
            }),
        }
    }

    /// Adds `units` to the work that is known to lie ahead.
    pub fn expect(&self, units: u64) {
        let taken = |reserved: u64| Some(reserved.saturating_sub(units));
        let reserved = self.inner.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).unwrap_or(0);
        self.inner.total.fetch_add(units.saturating_sub(reserved), Ordering::Relaxed);
    }

    /// Adds `units` that later calls of [`Self::expect`] will ask for, about: what is expected then is part of it, and the
    /// share that is done does not fall.
    pub fn reserve(&self, units: u64) {
        self.inner.reserved.fetch_add(units, Ordering::Relaxed);
        self.inner.total.fetch_add(units, Ordering::Relaxed);
    }

    /// Marks `units` as done.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the watcher has cancelled meanwhile.
    pub fn step(&self, units: u64) -> Result<()> {
        self.inner.done.fetch_add(units, Ordering::Relaxed);
        self.check()
    }

    /// # Errors
    /// [`Error::Cancelled`] if the watcher has cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Relaxed)
    }

    /// Says whether the computation waits for its user, as a paused training does. Nobody waits for its end then.
    pub fn rest(&self, resting: bool) {
        self.inner.resting.store(resting, Ordering::Relaxed);
    }

    pub fn is_resting(&self) -> bool {
        self.inner.resting.load(Ordering::Relaxed)
    }

    /// Says what the work that lies ahead costs. Where that is much and somebody can be asked, it waits for the answer; to be
    /// said once, before the work and as soon as its cost is known.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if it is not wanted at that price.
    pub fn needs(&self, cost: impl FnOnce() -> Cost) -> Result<()> {
        let Some(asker) = &self.inner.asker else { return Ok(()) };
        let (cost, asked) = (cost(), Instant::now());
        asker(cost)?;
        self.inner.waited.fetch_add(asked.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.check()
    }

    /// Done and total units.
    pub fn counts(&self) -> (u64, u64) {
        (self.inner.done.load(Ordering::Relaxed), self.inner.total.load(Ordering::Relaxed))
    }

    /// Share of the work that is done, in [0, 1]; 0 while the total is unknown.
    pub fn fraction(&self) -> f32 {
        let (done, total) = self.counts();
        if total == 0 { 0.0 } else { (done as f64 / total as f64).clamp(0.0, 1.0) as f32 }
    }

    /// Seconds since the work was asked for, without those in which it waited for a word.
    pub fn elapsed(&self) -> f64 {
        self.inner.started.elapsed().as_secs_f64() - self.inner.waited.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Seconds left if the rest goes about as fast as what is done; `None` while that is too little to tell.
    pub fn seconds_left(&self) -> Option<f64> {
        /// Seconds and share from which on there is something to go by.
        const LEAST: (f64, f64) = (0.5, 0.01);
        let (at, fraction) = (self.elapsed(), f64::from(self.fraction()));
        if at < LEAST.0 || fraction < LEAST.1 {
            return None;
        }
        let seconds = at * (1.0 - fraction) / fraction;
        let mut left = self.inner.left.lock().unwrap_or_else(PoisonError::into_inner);
        let said = left.map_or(Left { at, seconds }, |l| l.next(at, seconds));
        *left = Some(said);
        Some(said.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_counts_down_and_does_not_jump() {
        // A job whose parts look like 5, 34 and 8 seconds, asked ten times a second.
        let mut left = Left { at: 1.0, seconds: 5.0 };
        let mut most = 0f64;
        for tick in 11..100 {
            let at = f64::from(tick) * 0.1;
            let looks = if at < 2.0 {
                5.0
            } else if at < 4.0 {
                34.0
            } else {
                8.0
            };
            let next = left.next(at, looks);
            most = most.max((next.seconds - left.seconds).abs());
            left = next;
        }
        assert!(most < 1.0, "{most}");
        // Where it looks as it is, it is said as it is.
        let mut left = Left { at: 0.0, seconds: 10.0 };
        for tick in 1..=50 {
            let at = f64::from(tick) * 0.1;
            left = left.next(at, 10.0 - at);
        }
        assert!((left.seconds - 5.0).abs() < 1e-9);
        // After long enough nothing is left of a wrong first guess.
        assert!((Left { at: 0.0, seconds: 900.0 }.next(60.0, 20.0).seconds - 20.0).abs() < 1e-3);
        assert_eq!(Progress::new().seconds_left(), None);
    }

    #[test]
    fn fraction_and_cancel() {
        let progress = Progress::new();
        assert_eq!(progress.fraction(), 0.0);
        progress.expect(4);
        progress.step(1).unwrap();
        assert_eq!(progress.fraction(), 0.25);
        progress.reserve(6);
        assert_eq!(progress.fraction(), 0.1);
        progress.expect(4);
        assert_eq!(progress.counts(), (1, 10));
        progress.expect(5);
        assert_eq!(progress.counts(), (1, 13));
        progress.clone().cancel();
        assert!(matches!(progress.step(1), Err(Error::Cancelled)));
    }

    #[test]
    fn a_part_is_cancelled_with_the_whole() {
        let whole = Progress::new();
        let part = whole.part();
        part.expect(3);
        assert!(part.step(1).is_ok() && whole.counts() == (0, 0));
        whole.cancel();
        assert!(matches!(part.step(1), Err(Error::Cancelled)));
    }
}
