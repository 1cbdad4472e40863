//! What a desk asks, as Python: a script for TransformerLens that computes the number which the program shows.
//!
//! A script is written out of what the desk says, with token ids in the place of texts, so that tokenizers cannot
//! disagree. Weights are loaded as they are, without folding or centring, so that activations are the program's. What
//! TransformerLens would compute otherwise is refused in one sentence: no script gives another number in silence.
//! `scripts/check-code` runs the scripts and compares.

mod edits;
mod places;
mod run;
mod script;
mod sweep;
#[cfg(test)]
mod tests;

pub use self::script::quoted;
use super::Desk;
use super::desk::{Pinned, Show};
use crate::analysis::direct_attribution::direct_attribution;
use crate::analysis::pair::Pair;
use crate::analysis::run::Run;
use crate::engine::{RunSide, Trace};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;

/// What can be written as code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Snippet {
    /// The next tokens and the loss.
    #[default]
    Run,
    /// The attention pattern that is pinned.
    Pattern,
    /// A patching sweep.
    Patching,
    /// An ablation sweep.
    Ablation,
    /// What each component adds to the answer.
    Attribution,
    /// The prediction after each layer.
    Lens,
}

impl Snippet {
    pub const ALL: [Self; 6] =
        [Self::Run, Self::Pattern, Self::Patching, Self::Ablation, Self::Attribution, Self::Lens];

    /// What a menu calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Run => "Next tokens",
            Self::Pattern => "Attention pattern",
            Self::Patching => "Activation patching",
            Self::Ablation => "Ablation",
            Self::Attribution => "Direct logit attribution",
            Self::Lens => "Logit lens",
        }
    }
}

/// The runs that the code is to repeat.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The clean run, with the answers that were given for it.
    pub clean: &'a Run,
    /// The runs of both prompts.
    pub pair: &'a Pair,
}

impl Facts<'_> {
    fn model(&self) -> &Model {
        &self.clean.trace.model
    }

    fn config(&self) -> &ModelConfig {
        &self.model().config
    }

    /// The run that the views show, or the run that its edits apply to.
    fn shown<'a>(&'a self, desk: &Desk) -> Result<Shown<'a>> {
        let edits = desk.stack.is_active();
        let compares = self.pair.corrupted.is_some();
        let plain = |side| Ok(Shown { trace: self.pair.run(side)?, side, edited: false });
        match desk.show {
            Show::Difference if edits || compares => Err(Error::request(
                "the difference of two runs is shown, which is not written as code; show one of the two runs and copy its code",
            )),
            Show::Edited if edits => {
                Ok(Shown { trace: self.pair.run(desk.stack.base)?, side: desk.stack.base, edited: true })
            }
            Show::Corrupted if compares => plain(RunSide::Corrupted),
            _ => plain(RunSide::Clean),
        }
    }
}

struct Shown<'a> {
    trace: &'a Trace,
    side: RunSide,
    edited: bool,
}

/// Pins what a window would pin when it opens on the desk: the end of the prompt, and the head that adds most to the
/// answer. What was chosen by hand stays.
///
/// # Errors
/// An answer outside the vocabulary.
pub fn settle(desk: &mut Desk, facts: Facts<'_>) -> Result<()> {
    let trace = facts.shown(desk).map_or(&*facts.clean.trace, |s| s.trace);
    let last = trace.len().saturating_sub(1);
    desk.pinned.pos = if desk.chose_pos { desk.pinned.pos.min(last) } else { last };
    if desk.chose_head || desk.found_head {
        return Ok(());
    }
    let (Some(answer), wrong) = facts.clean.asked_at(trace, desk.pinned.pos) else { return Ok(()) };
    let parts = direct_attribution(trace, desk.pinned.pos, answer, wrong)?;
    let all = parts.heads.iter().enumerate().flat_map(|(l, row)| row.iter().enumerate().map(move |(h, v)| (l, h, *v)));
    if let Some((layer, head, _)) = all.max_by(|x, y| x.2.total_cmp(&y.2)) {
        desk.found_head = true;
        desk.pinned = Pinned { layer, head: Some(head), all_heads: false, ..desk.pinned };
    }
    Ok(())
}

/// Writes what the desk asks as a Python script for TransformerLens. The script leaves its numbers in `result`.
///
/// # Errors
/// One sentence where TransformerLens cannot compute what the program shows.
pub fn python(desk: &Desk, what: Snippet, facts: Facts<'_>) -> Result<String> {
    if facts.config().family == "circuitscope_lab" {
        return Err(Error::request(format!(
            "TransformerLens cannot open `{}`, a model of this program's own family; open a model from Hugging Face to copy code",
            facts.config().name
        )));
    }
    match what {
        Snippet::Run => run::next_tokens(desk, facts),
        Snippet::Pattern => run::pattern(desk, facts),
        Snippet::Patching => sweep::patching(desk, facts),
        Snippet::Ablation => sweep::ablation(desk, facts),
        Snippet::Attribution => run::attribution(desk, facts),
        Snippet::Lens => run::lens(desk, facts),
    }
}
