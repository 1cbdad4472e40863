//! A result on its way on a thread of its own, and the last one that arrived.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::jobs::task::{Event, Parts};
use crate::jobs::{Progress, Task};

/// Asks for another frame.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A result on its way, and the last one.
pub struct Pending<T, P = ()> {
    pub(super) task: Option<Task<T, P>>,
    pub value: Option<Arc<T>>,
    pub error: Option<String>,
    /// Parts of the result on its way.
    pub parts: Vec<P>,
    /// Changes with every new value.
    pub stamp: u64,
}

impl<T, P> Default for Pending<T, P> {
    fn default() -> Self {
        Self { task: None, value: None, error: None, parts: Vec::new(), stamp: 0 }
    }
}

impl<T, P> Pending<T, P> {
    /// One that is there.
    pub fn there(value: T) -> Self {
        Self { value: Some(Arc::new(value)), stamp: 1, ..Self::default() }
    }
}

impl<T: Send + 'static, P: Send + 'static> Pending<T, P> {
    pub(super) fn start(
        &mut self,
        wake: &Wake,
        work: impl FnOnce(&Progress, &Parts<'_, T, P>) -> Result<T> + Send + 'static,
    ) {
        let wake = wake.clone();
        (self.error, self.parts) = (None, Vec::new());
        self.task = Some(Task::spawn(move || wake(), work));
    }

    /// Takes in what has arrived: whether anything did, and whether the result is there.
    pub(super) fn update(&mut self) -> (bool, bool) {
        let (mut changed, mut done) = (false, false);
        while let Some(event) = self.task.as_ref().and_then(Task::poll) {
            changed = true;
            match event {
                Event::Part(p) => self.parts.push(p),
                Event::Done(outcome) => {
                    self.task = None;
                    match outcome {
                        Ok(v) => {
                            self.value = Some(Arc::new(v));
                            self.stamp += 1;
                            done = true;
                        }
                        Err(Error::Cancelled) => {}
                        Err(e) => self.error = Some(e.to_string()),
                    }
                }
            }
        }
        (changed, done)
    }

    pub fn is_running(&self) -> bool {
        self.task.is_some()
    }

    pub(super) fn take_task(&mut self) -> Option<Task<T, P>> {
        self.task.take()
    }

    /// Share that is done, and seconds left.
    pub fn progress(&self) -> Option<(f32, Option<f64>)> {
        self.task.as_ref().map(|t| (t.progress().fraction(), t.progress().seconds_left()))
    }

    pub(super) fn stop(&mut self) {
        self.task = None;
    }

    /// Nothing there and nothing on its way; stamps go on, so that no cache takes a later value for an earlier one.
    pub(super) fn reset(&mut self) {
        *self = Self { stamp: self.stamp + 1, ..Self::default() };
    }
}
