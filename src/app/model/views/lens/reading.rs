//! What the lens view asks: the lenses themselves, what they read in the run, and what comes of it.

use std::sync::Arc;

use super::settings::{LensSettings, Scope, Through};
use crate::analysis::logit_lens::{Lens, LensOf};
use crate::analysis::subject::{Compared, Subject};
use crate::analysis::transport::Transport;
use crate::app::state::State;
use crate::app::view::Asking;
use crate::jobs::{AnySlot, Slot};
use crate::lenses::faithful::{FaithfulOf, Target};
use crate::lenses::question::{FitOf, LensFileOf, MergeOf};

/// The slots of the view.
#[derive(Default)]
pub struct Reading {
    pub jacobian: Slot<LensFileOf>,
    tuned: Slot<LensFileOf>,
    /// The fit that was begun by its button. It is no part of the document: taking changes back begins none.
    pub begun: Option<FitOf>,
    pub fit: Slot<FitOf>,
    /// Parts of a fit that are put together, begun by its button as well.
    pub merge: Slot<MergeOf>,
    /// What a fitted lens reads; the logit lens is among the results that other views share.
    through_jacobian: Slot<LensOf>,
    through_tuned: Slot<LensOf>,
    pub faithful: Slot<FaithfulOf>,
}

impl Reading {
    pub fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![
            &mut self.jacobian,
            &mut self.tuned,
            &mut self.fit,
            &mut self.merge,
            &mut self.through_jacobian,
            &mut self.through_tuned,
            &mut self.faithful,
        ]
    }

    pub fn ask(&mut self, asking: &Asking<'_>, settings: &LensSettings) {
        let (state, seen) = (asking.state, asking.seen);
        let pool = &state.pool;
        let Some(model) = state.model.clone() else {
            self.slots().into_iter().for_each(AnySlot::forget);
            return;
        };
        for kind in [Through::Jacobian, Through::Tuned] {
            let question = settings.source(kind, &model).map(|source| LensFileOf { model: model.clone(), source });
            let slot = if kind == Through::Jacobian { &mut self.jacobian } else { &mut self.tuned };
            slot.ask(pool, question, seen && settings.shows(kind));
        }
        // A fit goes on while the view is hidden: it is the user who began it and who stops it.
        self.begun = self.begun.take().filter(|q| q.model == model);
        self.fit.want(pool, self.begun.clone());
        let subject = state.subject();
        let (answer, wrong) = state.clean().map_or((None, None), |r| (r.answer, r.wrong));
        for kind in [Through::Jacobian, Through::Tuned] {
            let question = subject.as_ref().zip(self.lens(kind)).map(|(subject, lens)| LensOf {
                subject: subject.clone(),
                lens,
                positions: Vec::new(),
                answer,
                wrong,
            });
            let slot = if kind == Through::Jacobian { &mut self.through_jacobian } else { &mut self.through_tuned };
            slot.ask(pool, question, seen && settings.shows(kind));
        }
        let asked = subject.filter(|_| unasked(state, settings).is_none());
        let question = asked.and_then(|s| self.effects(state, settings, &s));
        self.faithful.ask(pool, question, seen && settings.faithful != Scope::None);
    }

    /// The lens of a kind, where it is there; that of the logit lens is none.
    pub fn lens(&self, kind: Through) -> Option<Option<Arc<Transport>>> {
        match kind {
            Through::Logit => Some(None),
            // One that is being fitted is read as far as it is.
            Through::Jacobian => {
                let fitted = self.fit.fresh().filter(|_| self.fit.is_running()).map(|f| f.lens.clone());
                fitted.or_else(|| self.jacobian.fresh().map(|a| a.value.as_ref().clone())).map(Some)
            }
            Through::Tuned => self.tuned.fresh().map(|a| Some(a.value.as_ref().clone())),
        }
    }

    /// True while a kind's lens is on its way.
    pub fn is_opening(&self, kind: Through) -> bool {
        match kind {
            Through::Logit => false,
            Through::Jacobian => self.jacobian.wanted().is_some() || self.fit.is_running(),
            Through::Tuned => self.tuned.wanted().is_some(),
        }
    }

    /// Why a kind's file cannot be read.
    pub fn error(&self, kind: Through) -> Option<&String> {
        match kind {
            Through::Logit => None,
            Through::Jacobian => self.jacobian.error(),
            Through::Tuned => self.tuned.error(),
        }
    }

    pub fn read<'a>(&'a self, state: &'a State, kind: Through) -> &'a Slot<LensOf> {
        match kind {
            Through::Logit => &state.results.lens,
            Through::Jacobian => &self.through_jacobian,
            Through::Tuned => &self.through_tuned,
        }
    }

    /// The question what comes of the cells that are asked for: each one's most probable token.
    fn effects(&self, state: &State, settings: &LensSettings, subject: &Subject) -> Option<FaithfulOf> {
        let read = self.read(state, settings.through).fresh().filter(|r| r.whole)?;
        let (pinned, lens): (_, &Lens) = (state.pinned(), &read.value.now);
        let wanted = |layer: usize, pos: usize| match settings.faithful {
            Scope::None => false,
            Scope::Layer => layer == pinned.layer,
            Scope::Token => pos == pinned.pos,
            Scope::All => true,
        };
        // Cells of late layers cost least and are looked at first.
        let targets = (0..lens.n_layers)
            .rev()
            .flat_map(|layer| lens.positions.iter().map(move |pos| (layer, *pos)))
            .filter(|(layer, pos)| wanted(*layer, *pos))
            .filter_map(|(layer, pos)| {
                let token = lens.cell(layer, pos)?.top.first()?.id;
                Some(Target { layer, pos, token })
            })
            .collect();
        let answer = state.clean().and_then(|r| r.answer);
        let swap = if settings.swapped { Some(answer?) } else { None };
        let trace = subject.trace.clone();
        Some(FaithfulOf { trace, lens: self.lens(settings.through)?, targets, swap })
    }
}

/// Why nothing is said of how faithful the lens is to what is shown, where that is asked for.
pub fn unasked(state: &State, settings: &LensSettings) -> Option<&'static str> {
    let subject = state.subject().filter(|_| settings.faithful != Scope::None)?;
    if subject.minus.is_some() {
        Some("A difference of runs has no faithfulness; R shows one run.")
    } else if !subject.trace.edits().is_empty() {
        Some("Faithfulness is that of a run without edits; R shows it.")
    } else if settings.swapped && state.clean().and_then(|r| r.answer).is_none() {
        Some("There is no answer to swap with; type one above.")
    } else {
        None
    }
}

/// The cell of a lens.
pub fn cell(lens: &Compared<Lens>, layer: usize, pos: usize) -> Option<&crate::analysis::logit_lens::Cell> {
    lens.now.cells.get(layer).and_then(|row| row.get(pos)).and_then(Option::as_ref)
}
