//! The causal half of the state: which run is shown, what the patching view asks, and what follows from a change
//! of the prompts or of the stack of edits.

use std::sync::Arc;

use crate::analysis::alignment::inverse;
use crate::analysis::metric::{Metric, MetricKind};
use crate::analysis::pair::Pair;
use crate::analysis::patching::{Ablation, ablation, patching};
use crate::analysis::sweep::{By, Found, Question};
use crate::app::shell::notices::Level;
use crate::app::state::Slot;
use crate::app::state::State;
use crate::engine::edit::{Action as Do, Edit};
use crate::engine::{SiteKind, Which};
use crate::error::Result;
use crate::jobs::{Kind, Request, Run, Subject};

/// Which run the views show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Show {
    #[default]
    Clean,
    Corrupted,
    Edited,
    /// Edited − base where there are edits, else clean − corrupted.
    Difference,
}

impl Show {
    pub const ALL: [Self; 4] = [Self::Clean, Self::Corrupted, Self::Edited, Self::Difference];

    pub fn label(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Corrupted => "corrupted",
            Self::Edited => "edited",
            Self::Difference => "difference",
        }
    }
}

/// What a sweep does at each cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intervention {
    Patch,
    Ablate(Ablation),
}

/// What the patching view asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PatchSettings {
    pub intervention: Intervention,
    pub site: SiteKind,
    pub by: By,
    pub metric: MetricKind,
}

impl Default for PatchSettings {
    fn default() -> Self {
        Self {
            intervention: Intervention::Patch,
            site: SiteKind::Z,
            by: By::LayerHead,
            metric: MetricKind::LogitDifference,
        }
    }
}

impl State {
    /// The run that is shown: of the two of a difference, the one subtracted from.
    pub fn run(&self) -> Option<&Arc<Run>> {
        self.shown_slot().get().map(|r| &*r.value)
    }

    pub fn clean(&self) -> Option<&Arc<Run>> {
        self.results.run.get().map(|r| &*r.value)
    }

    /// The corrupted prompt's run, possibly of an older text while the newer one is on its way.
    pub fn corrupted(&self) -> Option<&Arc<Run>> {
        self.results.corrupted.get().map(|r| &*r.value).filter(|_| !self.document.corrupted.is_empty())
    }

    /// The edited run, possibly under older edits while the newer ones are on their way.
    pub fn edited(&self) -> Option<&Arc<Run>> {
        self.results.edited.get().map(|r| &*r.value).filter(|_| self.document.stack.is_active())
    }

    /// The slot of the run that is shown; the clean one while the wanted one is first being made.
    pub fn shown_slot(&self) -> &Slot<Arc<Run>> {
        let r = &self.results;
        let edits = self.document.stack.is_active();
        let compares = !self.document.corrupted.is_empty();
        let there = |slot: &Slot<Arc<Run>>| slot.result.is_some() || slot.error.is_some();
        match self.show {
            Show::Edited | Show::Difference if edits && there(&r.edited) => &r.edited,
            Show::Corrupted if compares && there(&r.corrupted) => &r.corrupted,
            // Without the other run there is no difference to show.
            Show::Difference if !edits && compares && r.corrupted.error.is_some() => &r.corrupted,
            _ => &r.run,
        }
    }

    /// Runs that can be shown: those that are asked for.
    pub fn showable(&self) -> Vec<Show> {
        let (corrupted, edited) = (!self.document.corrupted.is_empty(), self.document.stack.is_active());
        Show::ALL
            .into_iter()
            .filter(|s| match s {
                Show::Clean => true,
                Show::Corrupted => corrupted,
                Show::Edited => edited,
                Show::Difference => corrupted || edited,
            })
            .collect()
    }

    /// Leaves a run that is no longer asked for.
    fn settle_show(&mut self) {
        let list = self.showable();
        if !list.contains(&self.show) {
            let corrupted = self.show == Show::Edited && self.document.stack.base == Which::Corrupted;
            self.show = if corrupted && list.contains(&Show::Corrupted) { Show::Corrupted } else { Show::Clean };
        }
    }

    /// What the analyses look at.
    pub fn subject(&self) -> Option<Subject> {
        let run = self.run()?;
        let mut subject = Subject::one(run.trace.clone());
        if self.show == Show::Difference {
            // Without both runs there is no difference, and nothing else is to be taken for one.
            let pair = self.pair()?;
            if let Some(edited) = self.edited() {
                let base = pair.run(self.document.stack.base).ok()?.clone();
                if Arc::ptr_eq(&edited.trace, &subject.trace) && base.len() == edited.trace.len() {
                    subject.alignment = Arc::new((0..base.len()).map(Some).collect());
                    subject.minus = Some(base);
                }
            } else {
                let corrupted = pair.corrupted.as_ref()?;
                subject.minus = Some(corrupted.clone());
                subject.alignment = Arc::new(pair.alignment.clone());
            }
        }
        Some(subject)
    }

    /// Both prompts' runs, as far as they are those of the texts that stand there.
    pub fn pair(&self) -> Option<&Pair> {
        self.pair.as_ref()
    }

    /// Follows a change of the runs or of the alignment.
    pub fn update_pair(&mut self) {
        let fresh = |slot: &Slot<Arc<Run>>| slot.get().filter(|r| r.fresh).map(|r| r.value.trace.clone());
        let corrupted = fresh(&self.results.corrupted).filter(|_| !self.document.corrupted.is_empty());
        self.pair = fresh(&self.results.run).map(|clean| match corrupted {
            Some(c) => Pair::new(clean, c).aligned(self.document.alignment.as_ref()),
            None => Pair::alone(clean),
        });
        self.pair = self.pair.take().map(|p| p.with_dictionaries(self.features.store.clone()));
        self.counterparts = match &self.pair {
            Some(Pair { corrupted: Some(c), alignment, .. }) => inverse(alignment, c.len()),
            _ => Vec::new(),
        };
    }

    /// The metric of sweeps: with the answers given, else the clean run's two favourites.
    pub fn metric(&self, kind: MetricKind) -> Result<Metric> {
        let given = self.clean().map_or((None, None), |run| (run.answer, run.wrong));
        let (answer, wrong) = self.pair().map_or(given, |pair| pair.answers(given.0, given.1));
        kind.with(answer, wrong)
    }

    /// What the first look at the patching view asks: patching where there are two prompts, else zero ablation.
    pub fn first_patching(&self) -> PatchSettings {
        let alone = self.document.corrupted.is_empty();
        let intervention = if alone { Intervention::Ablate(Ablation::Zero) } else { Intervention::Patch };
        PatchSettings { intervention, ..self.patching }
    }

    /// The sweep that the settings describe.
    pub fn question(&self) -> Result<Question> {
        let s = self.patching;
        let metric = self.metric(s.metric)?;
        Ok(match s.intervention {
            Intervention::Patch => patching(s.site, s.by, metric),
            Intervention::Ablate(with) => ablation(s.site, s.by, with, metric),
        })
    }

    /// Whether the settings need a corrupted prompt where none is asked for.
    pub fn lacks_corrupted(&self) -> bool {
        self.needs_corrupted() && self.document.corrupted.is_empty()
    }

    /// Whether the settings compare with the corrupted prompt.
    pub fn needs_corrupted(&self) -> bool {
        matches!(self.patching.intervention, Intervention::Patch | Intervention::Ablate(Ablation::Resample))
    }

    /// Both runs are there, or it is known that one will not come: everything that depends on them is asked for.
    pub fn runs_are_there(&mut self) {
        self.update_pair();
        self.settle_show();
        self.request_edited();
        self.request_sweep(None, false);
        self.request_approximation();
        self.request_quality();
        if self.pending_generation && !self.document.stack.is_active() {
            self.request_generation();
        }
    }

    /// Asks for the edited run, if there is anything to edit.
    pub fn request_edited(&mut self) {
        let was = self.show;
        self.settle_show();
        self.worker.withdraw(|k| k == Kind::RunEdited || Kind::RunEdited.outdates(k));
        self.results.edited.outdate();
        self.results.backup.outdate();
        self.results.generated.outdate();
        if !self.document.stack.is_active() {
            self.results.edited = Slot::default();
            self.results.backup = Slot::default();
            // A difference is now another one.
            if was != self.show || was == Show::Difference {
                self.refresh();
            }
            return;
        }
        if self.document.stack.base == Which::Corrupted && self.document.corrupted.is_empty() {
            self.results.edited = Slot {
                result: None,
                error: Some(
                    "the edits are of the corrupted run, but there is no corrupted prompt; type one, or change the run that they edit"
                        .to_owned(),
                ),
            };
            return;
        }
        let (Some(pair), Some(like)) = (self.pair.clone(), self.clean().cloned()) else { return };
        if pair.run(self.document.stack.base).is_err() {
            // It is on its way, unless it has failed.
            if let Some(error) = self.results.corrupted.error.clone() {
                let error = Some(format!("the edits are of the corrupted run, which cannot be made: {error}"));
                self.results.edited = Slot { result: None, error };
                if self.pending_generation {
                    self.request_generation();
                }
            }
            return;
        }
        self.worker.submit(Request::RunEdited { pair, stack: self.document.stack.clone(), like });
    }

    /// Asks for the sweep that the settings describe, if anybody looks at it; `cells` only, where some are given.
    pub fn request_sweep(&mut self, cells: Option<Vec<usize>>, confirmed: bool) {
        if !self.wants_sweep {
            return;
        }
        self.worker.withdraw(|k| k == Kind::Sweep);
        let known = self.results.sweep.get().filter(|r| r.fresh).map(|r| r.value.clone());
        self.results.sweep.outdate();
        self.results.estimate = None;
        self.known_cells = None;
        let Some(pair) = self.pair.clone() else { return };
        if self.needs_corrupted() && pair.corrupted.is_none() {
            return;
        }
        match self.question() {
            Ok(question) => {
                // What was run exactly already stays, and is not run again.
                self.known_cells = known.filter(|k| {
                    confirmed && k.question == question && self.known_reference == self.document.stack.reference
                });
                self.known_reference.clone_from(&self.document.stack.reference);
                let is_known =
                    |i: &usize| self.known_cells.as_ref().and_then(|k| k.values.get(*i)).is_some_and(|v| v.is_finite());
                let total = self.known_cells.as_ref().map_or(0, |k| k.values.len());
                let wanted = cells.or_else(|| self.known_cells.as_ref().map(|_| (0..total).collect()));
                let cells = wanted.map(|list| list.into_iter().filter(|i| !is_known(i)).collect());
                let reference = self.document.stack.reference.clone();
                self.worker.submit(Request::Sweep { pair, reference, question, cells, confirmed });
            }
            Err(e) => self.results.sweep.error = Some(e.to_string()),
        }
    }

    /// A sweep's cells together with those that were run before.
    pub fn merged(&self, mut found: Found) -> Found {
        if let Some(known) = self.known_cells.as_ref().filter(|k| k.question == found.question) {
            for (new, old) in found.values.iter_mut().zip(&known.values) {
                if new.is_nan() {
                    *new = *old;
                }
            }
            found.skipped += known.skipped;
            if found.done {
                found.run += known.run;
            }
        }
        found
    }

    /// Asks for the gradient approximation, if anybody looks at it.
    pub fn request_approximation(&mut self) {
        if !self.wants_approximation {
            return;
        }
        self.worker.withdraw(|k| k == Kind::Approximation);
        self.results.approximation.outdate();
        let Some(pair) = self.pair.clone().filter(|p| p.corrupted.is_some()) else { return };
        let s = self.patching;
        match self.metric(s.metric) {
            Ok(metric) => self.worker.submit(Request::Approximation { pair, site: s.site, by: s.by, metric }),
            Err(e) => self.results.approximation.error = Some(e.to_string()),
        }
    }

    /// Components whose direct attribution rose under the edits.
    pub fn request_backup(&mut self) {
        let (Some(edited), Some(pair)) = (self.edited().cloned(), &self.pair) else { return };
        let Ok(before) = pair.run(self.document.stack.base).cloned() else { return };
        let Ok(metric) = self.metric(MetricKind::LogitDifference).or_else(|_| self.metric(MetricKind::Logit)) else {
            return;
        };
        if let [answer, rest @ ..] = &metric.tokens()[..] {
            let pos = edited.trace.len() - 1;
            let (after, wrong) = (edited.trace.clone(), rest.first().copied());
            self.worker.submit(Request::Backup { before, after, pos, answer: *answer, wrong });
        }
    }

    /// Asks for continuations; once the edited run is there, if it is still on its way.
    pub fn request_generation(&mut self) {
        self.pending_generation = false;
        let base = match &self.pair {
            Some(pair) if self.document.stack.is_active() => pair.run(self.document.stack.base).ok().cloned(),
            Some(pair) => Some(pair.clean.clone()),
            None => None,
        };
        let edited = self.results.edited.get().filter(|r| r.fresh).map(|r| r.value.trace.clone());
        let waits = self.document.stack.is_active() && edited.is_none();
        self.results.generated.outdate();
        let (sampling, limit) = self.sampling;
        match base {
            Some(base) if !waits => self.worker.submit(Request::Generate { base, edited, sampling, limit }),
            _ if self.results.edited.error.is_some() => {
                self.results.generated.error.clone_from(&self.results.edited.error);
            }
            _ => self.pending_generation = true,
        }
    }

    /// Adds edits; one that adds the same direction at the same place with another strength gives way. The views then
    /// show the edited run.
    pub fn put_edits(&mut self, base: Which, edits: Vec<Edit>) {
        let same = |a: &Edit, b: &Edit| match (&a.action, &b.action) {
            (Do::Add { direction: x, .. }, Do::Add { direction: y, .. }) => {
                x == y && Edit { enabled: true, action: b.action.clone(), ..a.clone() } == *b
            }
            _ => false,
        };
        let stack = &mut self.document.stack;
        let mut new = Vec::new();
        for edit in edits {
            match stack.edits.iter_mut().find(|e| same(e, &edit)) {
                Some(e) => *e = edit,
                None => new.push(edit),
            }
        }
        self.add_edits(base, new);
    }

    /// Adds edits, or takes them away if all are there; the views then show the edited run.
    pub fn toggle_edits(&mut self, base: Which, edits: Vec<Edit>) {
        let stack = &mut self.document.stack;
        let same = |a: &Edit, b: &Edit| Edit { enabled: true, ..a.clone() } == *b;
        let there = edits.iter().all(|edit| stack.edits.iter().any(|e| e.enabled && same(e, edit)));
        let mut new = Vec::new();
        if there {
            stack.edits.retain(|e| !edits.iter().any(|edit| same(e, edit)));
        } else {
            for edit in edits {
                match stack.edits.iter_mut().find(|e| same(e, &edit)) {
                    Some(e) => e.enabled = true,
                    None => new.push(edit),
                }
            }
        }
        self.add_edits(base, new);
    }

    /// The stack with some more, for a run.
    fn add_edits(&mut self, base: Which, new: Vec<Edit>) {
        let stack = &mut self.document.stack;
        if stack.base != base && stack.is_active() {
            let text = format!(
                "The edits now apply to the {} run; they were made for the {} one.",
                base.name(),
                base.other().name()
            );
            self.notices.push(Level::Info, text);
        }
        stack.base = base;
        stack.edits.extend(new);
        if stack.is_active() && self.show != Show::Difference {
            self.show = Show::Edited;
        }
        self.request_edited();
    }

    /// Changes the counterpart of one token of the clean prompt; its old counterpart becomes free.
    pub fn align(&mut self, token: usize, counterpart: Option<usize>) {
        let Some(pair) = &self.pair else { return };
        let mut alignment = pair.alignment.clone();
        for slot in &mut alignment {
            if counterpart.is_some() && *slot == counterpart {
                *slot = None;
            }
        }
        if let Some(slot) = alignment.get_mut(token) {
            *slot = counterpart;
        }
        self.document.alignment = Some(alignment);
        self.runs_are_there();
        self.refresh();
    }
}
