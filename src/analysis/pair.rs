//! A pair of prompts whose runs are compared. The clean prompt gives the answer; the corrupted one differs from it in
//! the part that is investigated. A pair may also be one run alone.

use std::sync::Arc;

use super::alignment::{align, inverse};
use super::metric::{Metric, Readout};
use crate::engine::dictionaries::{Dictionaries, NoDictionaries};
use crate::engine::resolve::{Alignment, Sources};
use crate::engine::{EditStack, RunSide, Trace};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// A clean run, and the corrupted run that it is compared with, where there is one.
#[derive(Clone)]
pub struct Pair {
    pub clean: Arc<Trace>,
    pub corrupted: Option<Arc<Trace>>,
    /// For each position of the clean prompt, its counterpart in the corrupted one.
    pub alignment: Alignment,
    /// The runs over whose positions a mean is taken. Without any, the mean is taken over the edited run itself.
    pub reference: Arc<Vec<Arc<Trace>>>,
    /// Finds the dictionaries that edits of features name.
    pub dictionaries: Arc<dyn Dictionaries>,
}

impl PartialEq for Pair {
    /// Runs are compared by identity; where dictionaries are found makes no difference.
    fn eq(&self, other: &Self) -> bool {
        self.clean == other.clean
            && self.corrupted == other.corrupted
            && self.alignment == other.alignment
            && self.reference == other.reference
    }
}

impl Pair {
    pub fn alone(clean: Arc<Trace>) -> Self {
        Self {
            clean,
            corrupted: None,
            alignment: Vec::new(),
            reference: Arc::default(),
            dictionaries: Arc::new(NoDictionaries),
        }
    }

    pub fn new(clean: Arc<Trace>, corrupted: Arc<Trace>) -> Self {
        let alignment = align(&clean.ids, &corrupted.ids);
        Self { corrupted: Some(corrupted), alignment, ..Self::alone(clean) }
    }

    /// Returns the pair with the dictionaries that edits of features name.
    #[must_use]
    pub fn with_dictionaries(mut self, dictionaries: Arc<dyn Dictionaries>) -> Self {
        self.dictionaries = dictionaries;
        self
    }

    /// Runs both prompts, or the clean one alone. What both begin with is run once.
    ///
    /// # Errors
    /// As [`Trace::run`].
    pub fn of_prompts(
        model: &Arc<Model>,
        clean: Vec<u32>,
        corrupted: Option<Vec<u32>>,
        progress: &Progress,
    ) -> Result<Self> {
        let clean = Arc::new(Trace::run(model, clean, progress)?);
        let Some(corrupted) = corrupted else { return Ok(Self::alone(clean)) };
        let corrupted = Arc::new(Trace::run_after(&clean, corrupted, progress)?);
        Ok(Self::new(clean, corrupted))
    }

    /// Runs the prompts that a stack of edits needs, and its reference texts.
    ///
    /// # Errors
    /// The stack edits the corrupted run and there is no corrupted prompt; a run failed; [`Error::Cancelled`].
    pub fn for_stack(
        model: &Arc<Model>,
        stack: &EditStack,
        clean: Vec<u32>,
        corrupted: Option<Vec<u32>>,
        progress: &Progress,
    ) -> Result<Self> {
        if corrupted.is_none() && stack.base == RunSide::Corrupted {
            return Err(Error::request(
                "the stack edits the corrupted run of a pair; give the other prompt as well (--corrupt)",
            ));
        }
        Self::of_prompts(model, clean, corrupted, progress)?.with_reference(&stack.reference, progress)
    }

    /// Runs the texts over whose positions means are taken, and returns the pair with these runs.
    ///
    /// # Errors
    /// A run failed; [`Error::Cancelled`].
    pub fn with_reference(mut self, texts: &[String], progress: &Progress) -> Result<Self> {
        let model = &self.clean.model;
        let run = |text: &String| Ok(Arc::new(Trace::run(model, model.encode(text, false)?, progress)?));
        self.reference = Arc::new(texts.iter().map(run).collect::<Result<_>>()?);
        Ok(self)
    }

    /// Returns the pair with an alignment that the user made. An alignment that does not fit these prompts is ignored.
    #[must_use]
    pub fn aligned(mut self, alignment: Option<&Alignment>) -> Self {
        let other = self.corrupted.as_ref().map_or(0, |t| t.len());
        if let Some(a) = alignment
            && a.len() == self.clean.len()
            && a.iter().flatten().all(|p| *p < other)
        {
            self.alignment.clone_from(a);
        }
        self
    }

    /// Returns the clean run, and the corrupted one where there is one.
    pub fn traces(&self) -> Vec<Arc<Trace>> {
        std::iter::once(self.clean.clone()).chain(self.corrupted.clone()).collect()
    }

    /// The answer and the wrong answer of metrics at the last position, where not both are given: the answer is the token
    /// that the clean run finds most probable, the wrong answer the corrupted run's, or else the clean run's second.
    pub fn answers(&self, answer: Option<u32>, wrong: Option<u32>) -> (Option<u32>, Option<u32>) {
        let favourite = |run: &Trace, rank: usize| run.next.last().and_then(|n| n.get(rank)).map(|t| t.id);
        let first = favourite(&self.clean, 0);
        let answer = answer.or(first);
        let other = self.corrupted.as_deref().and_then(|run| favourite(run, 0));
        let differs = |id: &u32| Some(*id) != answer;
        let second = favourite(&self.clean, 1).filter(differs);
        (answer, wrong.or(other.filter(differs)).or(second).or(first))
    }

    /// Returns one of the two runs.
    ///
    /// # Errors
    /// The corrupted run is asked for and there is none.
    pub fn run(&self, which: RunSide) -> Result<&Arc<Trace>> {
        match which {
            RunSide::Clean => Ok(&self.clean),
            RunSide::Corrupted => self
                .corrupted
                .as_ref()
                .ok_or_else(|| Error::request("this needs a corrupted prompt to compare with; give one")),
        }
    }

    /// Returns the alignment from positions of `which` to positions of the other run.
    pub fn alignment_from(&self, which: RunSide) -> Alignment {
        match (which, &self.corrupted) {
            (RunSide::Corrupted, Some(corrupted)) => inverse(&self.alignment, corrupted.len()),
            _ => self.alignment.clone(),
        }
    }

    /// Returns the runs that edits of `base` take their values from.
    ///
    /// # Errors
    /// There is no such run.
    pub fn sources(&self, base: RunSide) -> Result<Sources<'_>> {
        let run = self.run(base)?;
        let sources = match self.run(base.other()) {
            Ok(other) => Sources::pair(run, base, other, self.alignment_from(base)),
            Err(_) => Sources::alone(run),
        };
        Ok(sources.with_reference(&self.reference).with_dictionaries(&*self.dictionaries))
    }

    /// Prepares a metric that compares with the clean run.
    ///
    /// # Errors
    /// A token lies outside the vocabulary.
    pub fn readout(&self, metric: Metric) -> Result<Readout<'_>> {
        Readout::new(metric, &self.clean, self.clean.len() - 1)
    }
}
