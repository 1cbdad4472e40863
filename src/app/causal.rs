//! The causal half of the state: which run is shown, what the patching view asks, and what follows from a change
//! of the prompts or of the stack of edits.

use std::sync::Arc;

use super::state::State;
use crate::analysis::alignment::inverse;
use crate::analysis::metric::{Metric, MetricKind};
use crate::analysis::pair::Pair;
use crate::analysis::patching::{Ablation, ablation, patching};
use crate::analysis::sweep::{By, Question};
use crate::engine::edit::Edit;
use crate::engine::generate::Sampling;
use crate::engine::{SiteKind, Which};
use crate::error::Result;
use crate::jobs::{Request, Run, Subject};

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

    pub fn corrupted(&self) -> Option<&Arc<Run>> {
        self.results.corrupted.get().map(|r| &*r.value).filter(|_| !self.document.corrupted.is_empty())
    }

    pub fn edited(&self) -> Option<&Arc<Run>> {
        self.results.edited.get().map(|r| &*r.value).filter(|_| self.document.stack.is_active())
    }

    /// The slot of the run that is shown; the clean one where the wanted one is not there.
    pub fn shown_slot(&self) -> &super::state::Slot<Arc<Run>> {
        match self.show {
            Show::Edited | Show::Difference if self.edited().is_some() => &self.results.edited,
            Show::Corrupted if self.corrupted().is_some() => &self.results.corrupted,
            _ => &self.results.run,
        }
    }

    /// Runs that can be shown now.
    pub fn showable(&self) -> Vec<Show> {
        let (corrupted, edited) = (self.corrupted().is_some(), self.edited().is_some());
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

    /// What the analyses look at.
    pub fn subject(&self) -> Option<Subject> {
        let run = self.run()?;
        let mut subject = Subject::one(run.trace.clone());
        if self.show == Show::Difference {
            let pair = self.pair()?;
            let (minus, alignment) = if self.edited().is_some() {
                let base = pair.run(self.document.stack.base).ok()?;
                (base.clone(), (0..base.len()).map(Some).collect())
            } else {
                (pair.corrupted.clone()?, pair.alignment)
            };
            subject.minus = Some(minus);
            subject.alignment = Arc::new(alignment);
        }
        Some(subject)
    }

    /// Both prompts' runs.
    pub fn pair(&self) -> Option<Pair> {
        let clean = self.clean()?.trace.clone();
        Some(match self.corrupted() {
            Some(c) => Pair::new(clean, c.trace.clone()).aligned(self.document.alignment.as_ref()),
            None => Pair::alone(clean),
        })
    }

    /// The metric of sweeps: with the answers given, else the clean run's two favourites.
    pub fn metric(&self, kind: MetricKind) -> Result<Metric> {
        let run = self.clean();
        let favourites =
            run.and_then(|r| r.trace.next.last()).map(|n| (n.first().map(|t| t.id), n.get(1).map(|t| t.id)));
        let (first, second) = favourites.unwrap_or_default();
        // The corrupted run's favourite is what the clean one is to be told apart from.
        let other = self.corrupted().and_then(|r| r.trace.next.last()).and_then(|n| n.first()).map(|t| t.id);
        let answer = run.and_then(|r| r.answer).or(first);
        let wrong = run
            .and_then(|r| r.wrong)
            .or(other.filter(|o| Some(*o) != answer))
            .or(second.filter(|s| Some(*s) != answer));
        kind.with(answer, wrong.or(first))
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

    /// Whether the settings need a corrupted prompt that is not there.
    pub fn lacks_corrupted(&self) -> bool {
        let needs =
            matches!(self.patching.intervention, Intervention::Patch | Intervention::Ablate(Ablation::Resample));
        needs && self.corrupted().is_none()
    }

    /// Asks for the edited run, if there is anything to edit.
    pub fn request_edited(&mut self) {
        self.results.edited.outdate();
        self.results.backup = super::state::Slot::default();
        self.results.generated = super::state::Slot::default();
        let (Some(pair), Some(like)) = (self.pair(), self.clean().cloned()) else { return };
        if !self.document.stack.is_active() {
            self.results.edited = super::state::Slot::default();
            if matches!(self.show, Show::Edited) {
                self.show = if self.document.stack.base == Which::Corrupted && self.corrupted().is_some() {
                    Show::Corrupted
                } else {
                    Show::Clean
                };
            }
            if self.show == Show::Difference && self.corrupted().is_none() {
                self.show = Show::Clean;
            }
            self.refresh();
            return;
        }
        if self.document.stack.base == Which::Corrupted && self.document.corrupted.is_empty() {
            self.results.edited.error = Some(
                "the edits are of the corrupted run, but there is no corrupted prompt; type one, or change the base"
                    .to_owned(),
            );
            return;
        }
        self.worker.submit(Request::RunEdited { pair, stack: self.document.stack.clone(), like });
    }

    /// Asks for the sweep that the settings describe, if anybody looks at it.
    pub fn request_sweep(&mut self, cells: Option<Vec<usize>>, confirmed: bool) {
        if !self.wants_sweep {
            return;
        }
        self.results.sweep.outdate();
        self.results.estimate = None;
        let Some(pair) = self.pair() else { return };
        if self.lacks_corrupted() {
            return;
        }
        match self.question() {
            Ok(question) => self.worker.submit(Request::Sweep { pair, question, cells, confirmed }),
            Err(e) => self.results.sweep.error = Some(e.to_string()),
        }
    }

    pub fn request_approximation(&mut self) {
        self.results.approximation.outdate();
        let Some(pair) = self.pair() else { return };
        let s = self.patching;
        match self.metric(s.metric) {
            Ok(metric) => self.worker.submit(Request::Approximation { pair, site: s.site, by: s.by, metric }),
            Err(e) => self.results.approximation.error = Some(e.to_string()),
        }
    }

    /// Components whose direct attribution rose under the edits.
    pub fn request_backup(&mut self) {
        let (Some(edited), Some(pair)) = (self.edited().cloned(), self.pair()) else { return };
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

    pub fn request_generation(&mut self, sampling: Sampling, limit: usize) {
        self.sampling = (sampling, limit);
        let Some(pair) = self.pair() else { return };
        let Ok(base) = pair.run(self.document.stack.base).or_else(|_| pair.run(Which::Clean)).cloned() else { return };
        let edited = self.edited().map(|r| r.trace.clone());
        self.results.generated.outdate();
        self.worker.submit(Request::Generate { base, edited, sampling, limit });
    }

    /// Adds an edit, or takes it away if it is there; the views then show the edited run.
    pub fn toggle_edit(&mut self, base: Which, edit: Edit) {
        let stack = &mut self.document.stack;
        if stack.base != base && stack.is_active() {
            self.notices.push(
                super::notify::Level::Info,
                format!(
                    "The edits now apply to the {} run; they were made for the {} one.",
                    base.name(),
                    base.other().name()
                ),
            );
        }
        stack.base = base;
        match stack.edits.iter().position(|e| Edit { enabled: true, ..e.clone() } == edit) {
            Some(at) => drop(stack.edits.remove(at)),
            None => stack.edits.push(edit),
        }
        if stack.is_active() && !matches!(self.show, Show::Difference) {
            self.show = Show::Edited;
        }
        self.request_edited();
    }

    /// Changes the counterpart of one token of the clean prompt; its old counterpart becomes free.
    pub fn align(&mut self, token: usize, counterpart: Option<usize>) {
        let Some(pair) = self.pair() else { return };
        let mut alignment = pair.alignment;
        for slot in &mut alignment {
            if counterpart.is_some() && *slot == counterpart {
                *slot = None;
            }
        }
        if let Some(slot) = alignment.get_mut(token) {
            *slot = counterpart;
        }
        self.document.alignment = Some(alignment);
        self.request_edited();
        self.refresh();
        self.request_sweep(None, false);
    }

    /// For each token of the corrupted prompt its counterpart in the clean one.
    pub fn counterparts(&self) -> Vec<Option<usize>> {
        match (self.pair(), self.corrupted()) {
            (Some(pair), Some(corrupted)) => inverse(&pair.alignment, corrupted.trace.len()),
            _ => Vec::new(),
        }
    }
}
