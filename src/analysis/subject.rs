//! What an analysis looks at: one run, or the difference of two whose positions are matched.

use std::sync::Arc;

use crate::engine::Trace;
use crate::engine::resolve::Alignment;
use crate::error::Result;

/// A run, or the difference of two.
#[derive(Clone, PartialEq)]
pub struct Subject {
    pub trace: Arc<Trace>,
    /// What is subtracted.
    pub minus: Option<Arc<Trace>>,
    /// From positions of `trace` to those of `minus`.
    pub alignment: Arc<Alignment>,
}

impl Subject {
    pub fn one(trace: Arc<Trace>) -> Self {
        Self { trace, minus: None, alignment: Arc::default() }
    }

    /// Asks the same of both runs.
    ///
    /// # Errors
    /// As the question.
    pub fn ask<T>(&self, mut question: impl FnMut(&Trace) -> Result<T>) -> Result<Compared<T>> {
        let minus = self.minus.as_deref().map(&mut question).transpose()?;
        Ok(Compared { now: question(&self.trace)?, minus, alignment: self.alignment.clone() })
    }
}

/// A result of one run, beside that of the run it is compared with.
#[derive(Clone, Debug)]
pub struct Compared<T> {
    pub now: T,
    pub minus: Option<T>,
    /// From positions of `now` to those of `minus`.
    pub alignment: Arc<Alignment>,
}

impl<T> Compared<T> {
    /// A result that is compared with nothing.
    pub fn alone(now: T) -> Self {
        Self { now, minus: None, alignment: Arc::default() }
    }
}

impl<T> std::ops::Deref for Compared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.now
    }
}
