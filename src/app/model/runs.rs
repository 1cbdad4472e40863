//! Which runs there are, and which of them the views show.

use std::sync::Arc;

use crate::analysis::alignment::inverse;
use crate::analysis::metric::{Metric, MetricKind};
use crate::analysis::pair::Pair;
use crate::analysis::patching::{Ablation, SweepOf, ablation, patching};
use crate::analysis::run::{Run, RunOf};
use crate::analysis::subject::Subject;
use crate::app::state::State;
use crate::engine::RunSide;
use crate::error::Result;
use crate::jobs::slot::{Answer, Slot};
use crate::session::desk::{Intervention, Show};

/// Both prompts' runs, as far as they are those of the texts that stand there.
#[derive(Default)]
pub struct Runs {
    pub pair: Option<Pair>,
    /// For each token of the corrupted prompt its counterpart in the clean one.
    pub counterparts: Vec<Option<usize>>,
}

/// The run that the views show: its value, whether it is the wanted one, and a stamp that tells it from others.
pub struct ShownRun<'a> {
    pub run: &'a Arc<Run>,
    pub fresh: bool,
    pub stamp: (Show, u64),
}

/// A run that is there; one that failed leaves nothing of an older one to be taken for it.
fn there<Q: crate::question::Question<Answer = Run>>(slot: &Slot<Q>) -> Option<&Answer<Q>> {
    slot.get().filter(|_| slot.error().is_none())
}

impl State {
    /// The run that is shown: of the two of a difference, the one subtracted from.
    pub fn run(&self) -> Option<&Arc<Run>> {
        self.shown_run().map(|s| s.run)
    }

    pub fn clean(&self) -> Option<&Arc<Run>> {
        self.results.run.value()
    }

    /// The corrupted prompt's run, possibly of an older text while the newer one is on its way.
    pub fn corrupted(&self) -> Option<&Arc<Run>> {
        there(&self.results.corrupted).map(|a| &a.value).filter(|_| !self.desk().corrupted.is_empty())
    }

    /// The edited run, possibly under older edits while the newer ones are on their way.
    pub fn edited(&self) -> Option<&Arc<Run>> {
        there(&self.results.edited).map(|a| &a.value).filter(|_| self.desk().stack.is_active())
    }

    /// Which run is shown; the clean one while the wanted one is first being made.
    fn shown(&self) -> Show {
        let r = &self.results;
        let (edits, compares) = (self.desk().stack.is_active(), !self.desk().corrupted.is_empty());
        let edited = r.edited.get().is_some() || r.edited.error().is_some();
        let corrupted = r.corrupted.get().is_some() || r.corrupted.error().is_some();
        match self.desk().show {
            Show::Edited | Show::Difference if edits && edited => Show::Edited,
            Show::Corrupted if compares && corrupted => Show::Corrupted,
            // Without the other run there is no difference to show.
            Show::Difference if !edits && compares && r.corrupted.error().is_some() => Show::Corrupted,
            _ => Show::Clean,
        }
    }

    /// The run that is shown, if it is there.
    pub fn shown_run(&self) -> Option<ShownRun<'_>> {
        fn of<Q: crate::question::Question<Answer = Run>>(slot: &Slot<Q>, show: Show) -> Option<ShownRun<'_>> {
            there(slot).map(|a| ShownRun { run: &a.value, fresh: a.fresh, stamp: (show, a.stamp) })
        }
        let r = &self.results;
        match self.shown() {
            Show::Edited => of(&r.edited, Show::Edited),
            Show::Corrupted => of(&r.corrupted, Show::Corrupted),
            _ => r.run.get().map(|a| ShownRun { run: &a.value, fresh: a.fresh, stamp: (Show::Clean, a.stamp) }),
        }
    }

    /// Why the run that is to be shown is not there.
    pub fn shown_error(&self) -> Option<&String> {
        let r = &self.results;
        match self.shown() {
            Show::Edited => r.edited.error(),
            Show::Corrupted => r.corrupted.error(),
            _ => r.run.error(),
        }
    }

    /// Runs that can be shown: those that are asked for.
    pub fn showable(&self) -> Vec<Show> {
        let (corrupted, edited) = (!self.desk().corrupted.is_empty(), self.desk().stack.is_active());
        let possible = |s: &Show| match s {
            Show::Clean => true,
            Show::Corrupted => corrupted,
            Show::Edited => edited,
            Show::Difference => corrupted || edited,
        };
        Show::ALL.into_iter().filter(possible).collect()
    }

    /// What the analyses look at: nothing while the run to be shown is on its way.
    pub fn subject(&self) -> Option<Subject> {
        let shown = self.shown_run().filter(|s| s.fresh)?;
        let mut subject = Subject::one(shown.run.trace.clone());
        if self.desk().show != Show::Difference {
            return Some(subject);
        }
        // Without both runs there is no difference, and nothing else is to be taken for one.
        let pair = self.pair()?;
        if let Some(edited) = self.edited() {
            let base = pair.run(self.desk().stack.base).ok()?.clone();
            if Arc::ptr_eq(&edited.trace, &subject.trace) && base.len() == edited.trace.len() {
                subject.alignment = Arc::new((0..base.len()).map(Some).collect());
                subject.minus = Some(base);
            }
        } else {
            subject.minus = Some(pair.corrupted.as_ref()?.clone());
            subject.alignment = Arc::new(pair.alignment.clone());
        }
        Some(subject)
    }

    /// Both prompts' runs, as far as they are those of the texts that stand there.
    pub fn pair(&self) -> Option<&Pair> {
        self.runs.pair.as_ref()
    }

    /// Whether the runs are there of the texts as they stand.
    pub(in crate::app) fn runs_stand(&self) -> bool {
        let corrupted = &self.results.corrupted;
        let paired = self.desk().corrupted.is_empty() || corrupted.fresh().is_some() || corrupted.error().is_some();
        !self.typing.is_pending() && self.results.run.fresh().is_some() && paired
    }

    /// Follows a change of the runs or of the alignment.
    pub(in crate::app) fn update_pair(&mut self) {
        let fresh = |slot: &Slot<RunOf>| slot.fresh().map(|r| r.value.trace.clone());
        let corrupted = fresh(&self.results.corrupted).filter(|_| !self.desk().corrupted.is_empty());
        let pair = fresh(&self.results.run).map(|clean| match corrupted {
            Some(c) => Pair::new(clean, c).aligned(self.desk().alignment.as_ref()),
            None => Pair::alone(clean),
        });
        let pair = pair.map(|p| p.with_dictionaries(self.features.store.clone()));
        if pair != self.runs.pair {
            self.runs.counterparts = match &pair {
                Some(Pair { corrupted: Some(c), alignment, .. }) => inverse(alignment, c.len()),
                _ => Vec::new(),
            };
            self.runs.pair = pair;
        }
    }

    /// The metric of sweeps: with the answers given, else the clean run's two favourites.
    pub fn metric(&self, kind: MetricKind) -> Result<Metric> {
        let given = self.clean().map_or((None, None), |run| (run.answer, run.wrong));
        let (answer, wrong) = self.pair().map_or(given, |pair| pair.answers(given.0, given.1));
        kind.with(answer, wrong)
    }

    /// What a sweep does at each cell: patching where there are two prompts, else zero ablation, if nothing was chosen.
    pub fn intervention(&self) -> Intervention {
        let alone = self.desk().corrupted.is_empty();
        let first = if alone { Intervention::Ablate(Ablation::Zero) } else { Intervention::Patch };
        self.desk().patching.intervention.unwrap_or(first)
    }

    /// The sweep that the settings describe, once the runs are there.
    ///
    /// # Errors
    /// A metric that needs an answer which is not there.
    pub fn sweep_wanted(&self) -> Result<Option<SweepOf>> {
        let pair = self.pair().cloned().filter(|p| !self.needs_corrupted() || p.corrupted.is_some());
        let Some(pair) = pair else { return Ok(None) };
        let s = self.desk().patching;
        let metric = self.metric(s.metric)?;
        let sweep = match self.intervention() {
            Intervention::Patch => patching(s.site, s.by, metric),
            Intervention::Ablate(with) => ablation(s.site, s.by, with, metric),
        };
        let reference = self.desk().stack.reference.clone();
        Ok(Some(SweepOf { pair, reference, sweep, cells: None, known: None, confirmed: false }))
    }

    /// Whether the settings need a corrupted prompt where none is asked for.
    pub fn lacks_corrupted(&self) -> bool {
        self.needs_corrupted() && self.desk().corrupted.is_empty()
    }

    /// Whether the settings compare with the corrupted prompt.
    pub fn needs_corrupted(&self) -> bool {
        matches!(self.intervention(), Intervention::Patch | Intervention::Ablate(Ablation::Resample))
    }

    /// The run that edits apply to.
    pub fn edit_base(&self) -> Option<&Arc<Run>> {
        match self.desk().stack.base {
            RunSide::Clean => self.clean(),
            RunSide::Corrupted => self.corrupted(),
        }
    }
}
