//! A run of a prompt, together with what the user asks about it; and the same run under edits.

use std::sync::{Arc, Weak};

use super::pair::Pair;
use super::plan::{Planned, cost};
use crate::cost::Cost;
use crate::engine::resolve::resolve_stack;
use crate::engine::{EditStack, Trace};
use crate::error::Result;
use crate::model::Model;
use crate::model::chat::{Conversation, Laid, lay_out};
use crate::progress::Progress;
use crate::question::Question;

/// A finished run of a prompt.
pub struct Run {
    pub prompt: String,
    pub trace: Arc<Trace>,
    /// Text of every token.
    pub texts: Vec<String>,
    /// The token to explain and the one to compare it with, where the texts given are single tokens.
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
    /// Why an answer that was given is not used.
    pub notes: Vec<String>,
    /// Of a conversation: for each token the index of the message whose words it is of, `None` for the template's. Empty for
    /// a plain prompt.
    pub turns: Vec<Option<usize>>,
}

crate::identity!(Run);

impl Run {
    /// Returns what is to be explained at a position of `shown`, a run of this prompt or of one that is compared with it: the
    /// answer and the wrong answer given, at the last position; without them, and elsewhere, the model's own favourite,
    /// the unedited one's, so that edits do not change the question.
    pub fn asked_at(&self, shown: &Trace, pos: usize) -> (Option<u32>, Option<u32>) {
        let favourites = if shown.len() == self.trace.len() { &self.trace } else { shown };
        let favourite = favourites.next.get(pos).and_then(|n| n.first()).map(|t| t.id);
        let last = pos + 1 == shown.len();
        let wrong = self.wrong.filter(|_| last && self.answer.is_some());
        (self.answer.filter(|_| last).or(favourite), wrong)
    }

    pub fn of(prompt: String, trace: Arc<Trace>, answer: Option<u32>, wrong: Option<u32>) -> Self {
        let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
        Self { prompt, trace, texts, answer, wrong, notes: Vec::new(), turns: Vec::new() }
    }
}

/// Returns the tokens of what is asked: a conversation's, else the ids given, else the prompt's.
///
/// # Errors
/// A prompt or a conversation that the model cannot read.
pub fn laid(model: &Model, prompt: &str, ids: Option<&[u32]>, conversation: Option<&Conversation>) -> Result<Laid> {
    if let Some(c) = conversation {
        return lay_out(model, &c.messages, c.ending, false);
    }
    let ids = ids.map_or_else(|| model.encode(prompt, false), |ids| Ok(ids.to_vec()))?;
    Ok(Laid { text: prompt.to_owned(), ids, turns: Vec::new() })
}

/// Asks for the run of a prompt.
#[derive(Clone)]
pub struct RunOf {
    pub model: Arc<Model>,
    pub prompt: String,
    /// Token ids that take the prompt's place.
    pub ids: Option<Vec<u32>>,
    /// A conversation that takes the prompt's place.
    pub conversation: Option<Conversation>,
    /// The token to explain, taken as given; empty for none.
    pub answer: String,
    /// The token to compare it with; empty for none.
    pub wrong: String,
    /// Runs of the model that may begin alike: what they begin with is taken from them. They change no answer, and are let go
    /// of where nobody else holds them.
    pub before: Vec<Weak<Trace>>,
}

impl PartialEq for RunOf {
    fn eq(&self, other: &Self) -> bool {
        let Self { model, prompt, ids, conversation, answer, wrong, before: _ } = self;
        (model, prompt, ids, conversation) == (&other.model, &other.prompt, &other.ids, &other.conversation)
            && (answer, wrong) == (&other.answer, &other.wrong)
    }
}

impl Question for RunOf {
    type Answer = Run;
    const LABEL: &'static str = "running the prompt";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Run)) -> Result<Run> {
        let model = &self.model;
        let Laid { text: prompt, ids, turns } =
            laid(model, &self.prompt, self.ids.as_deref(), self.conversation.as_ref())?;
        model.network().check(&ids)?;
        let mut notes = Vec::new();
        let mut single = |text: &str| {
            let known = (!text.is_empty()).then(|| model.single_token(text))?;
            known.map_err(|e| notes.push(e.to_string())).ok()
        };
        let (answer, wrong) = (single(&self.answer), single(&self.wrong));
        let before = self.before.iter().filter_map(Weak::upgrade).filter(|t| Arc::ptr_eq(&t.model, model));
        let before = before.max_by_key(|t| t.shares(&ids));
        let known = before.as_ref().map_or(0, |t| t.shares(&ids));
        progress.needs(|| {
            let [whole, known] = [ids.len(), known].map(|n| cost(model, n, Planned::Trace));
            Cost { seconds: whole.seconds - known.seconds, ..whole }
        })?;
        let trace = match before {
            Some(before) => Trace::run_after(&before, ids, progress)?,
            None => Trace::run(model, ids, progress)?,
        };
        let trace = Arc::new(trace);
        Ok(Run { notes, turns, ..Run::of(prompt, trace, answer, wrong) })
    }
}

/// Asks for the run under a stack of edits. Edits take their values from the unedited runs of the pair.
#[derive(Clone, PartialEq)]
pub struct EditedRunOf {
    pub pair: Pair,
    pub stack: Arc<EditStack>,
    /// The clean run, whose prompt and answers the edited one keeps.
    pub clean: Arc<Run>,
}

impl Question for EditedRunOf {
    type Answer = Run;
    const LABEL: &'static str = "running with edits";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Run)) -> Result<Run> {
        let pair = self.pair.clone().with_reference(&self.stack.reference, progress)?;
        let base = pair.run(self.stack.base)?;
        let ops = resolve_stack(&self.stack, &pair.sources(self.stack.base)?)?;
        let trace = Trace::run_edited(&pair.clean.model, base.ids.clone(), Arc::new(ops), progress)?;
        let Run { prompt, answer, wrong, .. } = &*self.clean;
        // The corrupted run's tokens are not the conversation's.
        let turns = if base.ids == self.clean.trace.ids { self.clean.turns.clone() } else { Vec::new() };
        Ok(Run { turns, ..Run::of(prompt.clone(), Arc::new(trace), *answer, *wrong) })
    }
}
