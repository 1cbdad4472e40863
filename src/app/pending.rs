//! A result on its way on a thread of its own, and the last one that arrived.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::jobs::Task;
use crate::jobs::task::{Event, Parts};
use crate::progress::Progress;

/// Asks for another frame.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A result on its way, and the last one.
pub struct Pending<T, P = ()> {
    pub task: Option<Task<T, P>>,
    pub value: Option<Arc<T>>,
    pub error: Option<String>,
    /// Parts of the result on its way.
    pub parts: Vec<P>,
    /// The value is a part: of what is on its way, or of what was stopped.
    is_part: bool,
    /// Changes with every new value.
    pub stamp: u64,
}

impl<T, P> Default for Pending<T, P> {
    fn default() -> Self {
        Self { task: None, value: None, error: None, parts: Vec::new(), is_part: false, stamp: 0 }
    }
}

impl<T, P> Pending<T, P> {
    /// One that is there.
    pub fn there(value: T) -> Self {
        Self { value: Some(Arc::new(value)), stamp: 1, ..Self::default() }
    }
}

impl<T: Send + Sync + 'static, P: Send + 'static> Pending<T, P> {
    pub fn start(&mut self, wake: &Wake, work: impl FnOnce(&Progress, &Parts<'_, T, P>) -> Result<T> + Send + 'static) {
        let wake = wake.clone();
        (self.error, self.parts) = (None, Vec::new());
        self.task = Some(Task::spawn(move || wake(), work));
    }

    /// Takes in what has arrived: whether anything did, and whether the result is there.
    pub fn update(&mut self) -> (bool, bool) {
        let (mut changed, mut done) = (false, false);
        while let Some(event) = self.task.as_ref().and_then(Task::poll) {
            changed = true;
            match event {
                Event::Part(p) => self.parts.push(p),
                Event::Done(outcome) => {
                    self.task = None;
                    match outcome {
                        Ok(v) => {
                            self.put(v, false);
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

    /// Where parts are of the result's kind: the newest becomes the value, unless a whole one is there. Whether it did.
    pub fn show_newest_part(&mut self) -> bool
    where
        P: Into<T>,
    {
        let Some(part) = self.parts.pop() else { return false };
        self.parts.clear();
        // A result that came behind its parts stays, and one from before until the next is whole: this may be stopped.
        // What failed leaves what it had.
        let shown = (self.is_running() || self.error.is_some()) && (self.value.is_none() || self.is_part);
        if shown {
            self.put(part.into(), true);
        }
        shown
    }

    /// A result that was found elsewhere.
    pub fn set(&mut self, value: T) {
        self.put(value, false);
    }

    fn put(&mut self, value: T, is_part: bool) {
        retire(self.value.replace(Arc::new(value)));
        self.is_part = is_part;
        self.stamp += 1;
    }

    pub fn is_running(&self) -> bool {
        self.task.is_some()
    }

    pub fn take_task(&mut self) -> Option<Task<T, P>> {
        self.task.take()
    }

    /// Share that is done, and seconds left.
    pub fn progress(&self) -> Option<(f32, Option<f64>)> {
        self.task.as_ref().map(|t| (t.progress().fraction(), t.progress().seconds_left()))
    }

    pub fn stop(&mut self) {
        self.task = None;
    }

    /// Nothing there and nothing on its way; stamps go on, so that no cache takes a later value for an earlier one.
    pub fn reset(&mut self) {
        retire(self.value.take());
        *self = Self { stamp: self.stamp + 1, ..Self::default() };
    }
}

/// Gives a value's memory back on another thread: an index of a hundred thousand features is millions of small lists.
fn retire<T: Send + Sync + 'static>(value: Option<Arc<T>>) {
    if let Some(value) = value {
        rayon::spawn(move || drop(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_shown_until_the_whole_is_there() {
        let wake: Wake = Arc::new(|| {});
        let mut p: Pending<u32, u32> = Pending::default();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        p.start(&wake, move |_, parts| {
            parts.send(1);
            parts.send(2);
            wait.recv().map_err(|_| Error::Cancelled)?;
            parts.send(3);
            Ok(4)
        });
        while p.parts.len() < 2 {
            p.update();
        }
        assert!(p.show_newest_part() && !p.show_newest_part(), "each part once");
        let shown = p.stamp;
        assert_eq!((p.value.as_deref(), shown > 0), (Some(&2), true));
        go.send(()).unwrap();
        while p.is_running() {
            p.update();
        }
        assert!(!p.show_newest_part(), "a part does not replace the whole");
        assert_eq!((p.value.as_deref(), p.stamp > shown), (Some(&4), true));
        // A second run that is stopped leaves the whole where it was.
        p.start(&wake, |_, parts| {
            parts.send(5);
            Err(Error::Cancelled)
        });
        while p.is_running() {
            p.update();
            assert!(!p.show_newest_part());
        }
        assert_eq!(p.value.as_deref(), Some(&4));
    }
}
