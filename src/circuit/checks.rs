//! What circuits cannot be run on: prompts of different length, or prompts too long for the memory.

use super::ablated_run::AblatedRuns;
use super::wiring::Wiring;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::memory::afford;

/// Bytes that a prompt and a few circuits run on it take.
pub(super) fn bytes(wiring: Wiring, rows: usize, d: usize) -> usize {
    4 * (3 * wiring.n_senders() + wiring.n_receivers()) * rows * d
}

/// # Errors
/// A prompt too long for the memory that ablated runs may take.
pub(super) fn check_memory(wiring: Wiring, rows: usize, d: usize) -> Result<()> {
    afford(bytes(wiring, rows, d), &format!("running circuits on {rows} positions"), "shorten the prompt")
}

/// # Errors
/// Circuits on several prompts at once that would not fit in memory.
pub(super) fn check_together<'a>(prompts: impl Iterator<Item = &'a AblatedRuns> + Clone) -> Result<()> {
    let bytes: usize = prompts.clone().map(AblatedRuns::bytes).sum();
    afford(bytes, &format!("circuits on {} prompts at once", prompts.count()), "take fewer prompts")
}

/// # Errors
/// Prompts of different length: an edge carries a difference position by position.
pub fn check_lengths(clean: &Trace, corrupted: &Trace) -> Result<()> {
    if clean.len() == corrupted.len() {
        return Ok(());
    }
    Err(Error::request(format!(
        "the clean prompt has {} tokens and the corrupted one {}; edges are compared position by position, so give prompts of equal length",
        clean.len(),
        corrupted.len()
    )))
}
