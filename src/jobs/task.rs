//! A piece of work on a thread of its own, with progress, cancellation, parts of the result on the way, and a panic
//! that becomes an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// What arrives from a task.
pub enum Event<T, P> {
    Part(P),
    Done(Result<T>),
}

/// Sends parts of a result, and wakes whoever waits.
pub struct Parts<'a, T, P> {
    sender: &'a Sender<Event<T, P>>,
    wake: &'a dyn Fn(),
}

impl<T, P> Parts<'_, T, P> {
    pub fn send(&self, part: P) {
        // Nobody may be waiting any more; the task is then cancelled as well.
        drop(self.sender.send(Event::Part(part)));
        (self.wake)();
    }
}

/// The handle. Dropping it cancels the work.
pub struct Task<T, P = ()> {
    progress: Progress,
    events: Receiver<Event<T, P>>,
}

impl<T: Send + 'static, P: Send + 'static> Task<T, P> {
    /// Starts; `wake` is called whenever there is something to receive.
    pub fn spawn(
        wake: impl Fn() + Send + 'static,
        work: impl FnOnce(&Progress, &Parts<'_, T, P>) -> Result<T> + Send + 'static,
    ) -> Self {
        let progress = Progress::new();
        let (sender, events) = channel();
        let watched = progress.clone();
        std::thread::spawn(move || {
            let parts = Parts { sender: &sender, wake: &wake };
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&watched, &parts))).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Err(Error::failed(format!("this failed inside the program ({text}); please report it")))
            });
            drop(sender.send(Event::Done(outcome)));
            wake();
        });
        Self { progress, events }
    }
}

impl<T, P> Task<T, P> {
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Waits for the end.
    pub fn wait(&self) {
        while let Ok(event) = self.events.recv() {
            if matches!(event, Event::Done(_)) {
                return;
            }
        }
    }

    pub fn poll(&self) -> Option<Event<T, P>> {
        self.events.try_recv().ok()
    }
}

impl<T, P> Drop for Task<T, P> {
    fn drop(&mut self) {
        self.progress.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T, P>(task: &Task<T, P>) -> Vec<Event<T, P>> {
        task.events.iter().collect()
    }

    #[test]
    fn parts_results_and_panics_arrive() {
        let task: Task<u32, u32> = Task::spawn(
            || {},
            |_, parts| {
                parts.send(1);
                Ok(2)
            },
        );
        let events = all(&task);
        assert!(matches!(events[..], [Event::Part(1), Event::Done(Ok(2))]));
        let task: Task<u32> = Task::spawn(|| {}, |_, _| panic!("broken"));
        match all(&task).pop() {
            Some(Event::Done(Err(e))) => assert!(e.to_string().contains("broken")),
            _ => panic!("a panic must become an error"),
        }
    }
}
