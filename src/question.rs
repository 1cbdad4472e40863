//! What is asked of the program, as a type. A question carries everything that its answer depends on; it stands beside
//! the function that answers it, and the window and the command line both ask it.

use crate::error::Result;
use crate::progress::Progress;

/// A question. Two that are equal have the same answer, so that a result is known to be out of date by comparing its
/// question with the one that is wanted now. What a question holds by [`std::sync::Arc`] (models, runs, dictionaries) is
/// compared by identity, see [`crate::identity`].
pub trait Question: Clone + PartialEq + Send + 'static {
    type Answer: Send + Sync + 'static;

    /// What the status line says while it runs.
    const LABEL: &'static str;
    const LANE: Lane = Lane::Quick;

    /// Answers the question; `partial` is handed what is known on the way, each time the whole answer so far.
    ///
    /// # Errors
    /// What the question says of itself, and [`crate::Error::Cancelled`].
    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer>;
}

/// Where a question runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// One after the other, the most urgent first: what a click or a keystroke asks for.
    Quick,
    /// On a thread of its own, so that clicks do not wait for it: sweeps, graphs, searches, scans, trainings, files.
    Long,
}

/// Says that two values of a type are the same only where they are one: for what is shared by [`std::sync::Arc`] and too
/// large to be compared.
#[macro_export]
macro_rules! identity {
    ($($kind:ty),+ $(,)?) => {
        $(impl PartialEq for $kind {
            fn eq(&self, other: &Self) -> bool {
                std::ptr::eq(self, other)
            }
        })+
    };
}
