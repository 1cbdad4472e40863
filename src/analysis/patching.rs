//! Activation patching and ablation: two ways to find out by experiment which parts of a run matter. Both are sweeps
//! ([`super::sweep`]) that try one edit at every cell of a grid.
//!
//! Activation patching [Vig et al. 2020; Meng et al. 2022; TransformerLens `patching.py`] runs the corrupted prompt,
//! puts the clean run's activation in at one cell, and measures how much of the clean metric comes back. It finds what
//! is *enough* to restore the answer.
//!
//! Ablation runs the clean prompt, removes the activation at one cell, and measures what the metric loses. It finds
//! what is *needed* for the answer.

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::pair::Pair;
use super::sweep::{Axes, Estimate, Sweep, SweepResult, SweepSettings};
use crate::engine::{Action, RunSide, SiteKind};
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Lane;
use std::sync::Arc;

/// The value that replaces an ablated activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ablation {
    #[default]
    Zero,
    /// The mean over all positions of the reference texts, or of the prompt itself where none are given.
    Mean,
    /// The value in the corrupted run.
    Resample,
}

impl Ablation {
    pub const ALL: [Self; 3] = [Self::Zero, Self::Mean, Self::Resample];

    pub fn label(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Mean => "mean",
            Self::Resample => "resample",
        }
    }

    pub fn action(self) -> Action {
        match self {
            Self::Zero => Action::Zero,
            Self::Mean => Action::Mean,
            Self::Resample => Action::Copy(RunSide::Corrupted),
        }
    }
}

/// Returns the sweep that copies the clean run's values into the corrupted run.
pub fn patching(site: SiteKind, by: Axes, metric: Metric) -> SweepSettings {
    SweepSettings { site, by, base: RunSide::Corrupted, action: Action::Copy(RunSide::Clean), metric }
}

/// Returns the sweep that removes values from the clean run.
pub fn ablation(site: SiteKind, by: Axes, with: Ablation, metric: Metric) -> SweepSettings {
    SweepSettings { site, by, base: RunSide::Clean, action: with.action(), metric }
}

/// A sweep that takes longer is asked about first, seconds.
pub const ASK_FROM: f64 = 6.0;

/// Asks for a sweep, with an estimate first.
#[derive(Clone)]
pub struct SweepOf {
    pub pair: Pair,
    /// Texts over whose positions means are taken.
    pub reference: Vec<String>,
    pub sweep: SweepSettings,
    /// Only these cells, by their index in the grid; `None` for all.
    pub cells: Option<Vec<usize>>,
    /// Cells of the same sweep that were run before: they stay and are not run again.
    pub known: Option<Arc<SweepResult>>,
    /// Runs it however long it takes. Otherwise a long sweep is only estimated.
    pub confirmed: bool,
}

impl SweepOf {
    /// True if both sweep the same, whichever cells of it.
    pub fn is_like(&self, other: &Self) -> bool {
        self.pair == other.pair && self.reference == other.reference && self.sweep == other.sweep
    }
}

impl PartialEq for SweepOf {
    fn eq(&self, other: &Self) -> bool {
        let known = |q: &Self| q.known.as_ref().map(Arc::as_ptr);
        self.is_like(other)
            && (self.confirmed, &self.cells) == (other.confirmed, &other.cells)
            && known(self) == known(other)
    }
}

/// A sweep's estimate, and what it has found so far.
#[derive(Clone, Debug)]
pub struct Swept {
    pub estimate: Estimate,
    /// `None` where the sweep waits to be confirmed.
    pub found: Option<Arc<SweepResult>>,
}

impl crate::question::Question for SweepOf {
    type Answer = Swept;
    const LABEL: &'static str = "patching sweep";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Swept)) -> Result<Swept> {
        let pair = self.pair.clone().with_reference(&self.reference, progress)?;
        let mut sweep = Sweep::new(&pair, self.sweep.clone(), progress)?;
        let is_known = |i: &usize| self.known.as_ref().and_then(|k| k.values.get(*i)).is_some_and(|v| v.is_finite());
        let total = self.known.as_ref().map_or(0, |k| k.values.len());
        let wanted = self.cells.clone().or_else(|| self.known.as_ref().map(|_| (0..total).collect()));
        if let Some(wanted) = wanted {
            sweep = sweep.only(&wanted.into_iter().filter(|i| !is_known(i)).collect::<Vec<_>>());
        }
        let estimate = sweep.estimate();
        if estimate.seconds > ASK_FROM && !self.confirmed {
            return Ok(Swept { estimate, found: None });
        }
        partial(Swept { estimate, found: self.known.clone() });
        let with_known = |found: SweepResult| Swept { estimate, found: Some(Arc::new(self.merged(found))) };
        let found = sweep.run(progress, |found| partial(with_known(found.clone())))?;
        Ok(with_known(found))
    }
}

impl SweepOf {
    /// A sweep's cells together with those that were run before.
    fn merged(&self, mut found: SweepResult) -> SweepResult {
        let Some(known) = &self.known else { return found };
        for (new, old) in found.values.iter_mut().zip(&known.values) {
            if new.is_nan() {
                *new = *old;
            }
        }
        found.skipped += known.skipped;
        if found.done {
            found.run += known.run;
        }
        found
    }
}
