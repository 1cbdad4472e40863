//! How a prompt goes on, without edits and with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::Trace;
use crate::engine::generate::{Generated, Sampling, Stopped, generate};
use crate::error::Result;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Continuations without and with edits.
#[derive(Clone, Debug, Default)]
pub struct Generations {
    pub base: Vec<Generated>,
    pub edited: Option<Vec<Generated>>,
    /// Why they end, where they have.
    pub base_stopped: Option<Stopped>,
    pub edited_stopped: Option<Stopped>,
    /// Both are as long as was asked for, or came to an end.
    pub done: bool,
}

/// Asks for continuations of a run and, where there is one, of the edited run.
#[derive(Clone, PartialEq)]
pub struct GenerationOf {
    pub base: Arc<Trace>,
    pub edited: Option<Arc<Trace>>,
    pub sampling: Sampling,
    /// Most tokens of each.
    pub limit: usize,
}

/// As often as anybody reads.
const INTERVAL: Duration = Duration::from_millis(40);

impl Question for GenerationOf {
    type Answer = Generations;
    const LABEL: &'static str = "generating";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Generations)) -> Result<Generations> {
        let mut so_far = Generations { edited: self.edited.as_ref().map(|_| Vec::new()), ..Generations::default() };
        let mut last = Instant::now();
        let mut report = |so_far: &Generations| {
            if last.elapsed() > INTERVAL {
                last = Instant::now();
                partial(so_far.clone());
            }
        };
        let (sampling, limit) = (self.sampling, self.limit);
        if let Some(edited) = &self.edited {
            let made = generate(&edited.model, &edited.ids, edited.edits(), sampling, limit, progress, |token| {
                so_far.edited.get_or_insert_default().push(token);
                report(&so_far);
            })?;
            so_far.edited_stopped = Some(made.stopped);
        }
        let base = &self.base;
        let made = generate(&base.model, &base.ids, base.edits(), sampling, limit, progress, |token| {
            so_far.base.push(token);
            report(&so_far);
        })?;
        so_far.base_stopped = Some(made.stopped);
        so_far.done = true;
        Ok(so_far)
    }
}
