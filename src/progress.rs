//! Progress and cancellation, shared between a computation and whoever watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};

/// A cheap handle that both sides clone. The computation calls [`Progress::step`], which is also
/// where a cancellation takes effect; the watcher reads [`Progress::fraction`].
#[derive(Clone, Debug)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cancelled: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    /// Of the total, what has not been asked for yet.
    reserved: AtomicU64,
    resting: AtomicBool,
    started: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                cancelled: AtomicBool::new(false),
                done: AtomicU64::new(0),
                total: AtomicU64::new(0),
                reserved: AtomicU64::new(0),
                resting: AtomicBool::new(false),
                started: Instant::now(),
            }),
        }
    }
}

impl Progress {
    pub fn new() -> Self {
        Self::default()
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

    /// Done and total units.
    pub fn counts(&self) -> (u64, u64) {
        (self.inner.done.load(Ordering::Relaxed), self.inner.total.load(Ordering::Relaxed))
    }

    /// Share of the work that is done, in [0, 1]; 0 while the total is unknown.
    pub fn fraction(&self) -> f32 {
        let (done, total) = self.counts();
        if total == 0 { 0.0 } else { (done as f64 / total as f64).clamp(0.0, 1.0) as f32 }
    }

    /// Seconds since the work was asked for.
    pub fn elapsed(&self) -> f64 {
        self.inner.started.elapsed().as_secs_f64()
    }

    /// Seconds left if the rest goes as fast as what is done; `None` while nothing is.
    pub fn seconds_left(&self) -> Option<f64> {
        let fraction = f64::from(self.fraction());
        (fraction > 0.0).then(|| self.elapsed() * (1.0 - fraction) / fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
