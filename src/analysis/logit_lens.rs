//! The logit lens: what the model would predict if it stopped after a layer [nostalgebraist 2020].
//!
//! Every layer adds to the same residual stream, and only the last one is unembedded. But the unembedding can be
//! applied to the stream after any layer, so that one sees the prediction grow from layer to layer:
//!
//! ```text
//! logits[l] = unembed(ln_final(resid_post[l]))
//! ```
//!
//! A fitted lens takes the stream to where the last layer leaves it first, see [`super::transport`].
//!
//! The answer is a grid, [layer][pos]: the top tokens, the entropy, and the rank and probability of chosen tokens.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Serialize;

use super::plan::cost_of_logits;
use super::subject::{Compared, Subject};
use super::transport::Transport;
use crate::engine::logits::{Ranked, summarise};
use crate::engine::{NoHooks, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::question::Question;

/// Number of tokens that each cell keeps, where no other was asked for.
pub const TOP: usize = 10;

/// The prediction after one layer at one position.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The most probable tokens, best first.
    pub top: Vec<Ranked>,
    /// Entropy of the prediction, in nats.
    pub entropy: f32,
    /// The answer in this prediction, where one was asked for.
    pub answer: Option<AnswerCell>,
    /// Rank and probability of the token that follows in the prompt, where one does.
    pub actual_rank: Option<usize>,
    pub actual_prob: Option<f32>,
}

/// The answer in one prediction.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AnswerCell {
    pub prob: f32,
    /// 0 is the most probable token.
    pub rank: usize,
    pub logit: f32,
    /// The answer's logit minus that of the wrong answer, where there is one.
    pub logit_difference: Option<f32>,
}

/// The predictions after every layer, at the positions that were asked for.
#[derive(Clone, Debug)]
pub struct Lens {
    /// The positions that were asked for, ascending.
    pub positions: Vec<usize>,
    pub n_layers: usize,
    /// cells[layer][index into `positions`]; `None` while not yet computed, and where the lens has no map for the layer.
    pub cells: Vec<Vec<Option<Cell>>>,
}

impl Lens {
    /// Returns the cell of a layer and a position of the prompt.
    pub fn cell(&self, layer: usize, pos: usize) -> Option<&Cell> {
        let at = self.positions.binary_search(&pos).ok()?;
        self.cells.get(layer)?.get(at)?.as_ref()
    }
}

/// Computes the lens at `positions` (all if empty), through the maps of `lens` where one is given. The last layers are
/// computed first, since a reader looks there first. `partial` is handed all cells that are known so far.
///
/// # Errors
/// A position lies outside the prompt; [`Error::Cancelled`].
pub fn logit_lens(
    trace: &Trace,
    lens: Option<&Transport>,
    positions: &[usize],
    answer: Option<u32>,
    wrong: Option<u32>,
    top: usize,
    progress: &Progress,
    mut partial: impl FnMut(&Lens),
) -> Result<Lens> {
    let n_layers = trace.model.config.n_layers;
    let mut positions = positions.to_vec();
    positions.sort_unstable();
    positions.dedup();
    if positions.is_empty() {
        positions = (0..trace.len()).collect();
    }
    if let Some(p) = positions.iter().find(|p| **p >= trace.len()) {
        return Err(Error::request(format!(
            "position {p} is outside the prompt of {} tokens; positions count from 0",
            trace.len()
        )));
    }
    let index: Vec<u32> = positions.iter().map(|p| *p as u32).collect();
    let index = Tensor::from_vec(index, positions.len(), trace.resid_final.device())?;
    let transport = lens;
    let mut lens = Lens { cells: vec![vec![None; positions.len()]; n_layers], n_layers, positions };
    let layers: Vec<usize> = (0..n_layers).filter(|l| transport.is_none_or(|t| t.reads(*l, n_layers))).collect();
    progress.expect((layers.len() * lens.positions.len()) as u64);
    let extra: Vec<u32> = answer.into_iter().chain(wrong).collect();
    // Layers are computed in groups that fill the unembedding's strip of rows.
    let group = (64 / lens.positions.len()).max(1);
    for layers in layers.rchunks(group) {
        let rows = layers
            .iter()
            .map(|l| {
                let rows = trace.get(SiteKind::ResidPost, *l)?.index_select(&index, 0)?;
                transport.map_or(Ok(rows.clone()), |t| t.apply(*l, n_layers, &rows))
            })
            .collect::<Result<Vec<_>>>()?;
        let per_layer = lens.positions.len();
        let asked = |r: usize| {
            let next = trace.ids.get(lens.positions[r % per_layer] + 1);
            extra.iter().copied().chain(next.copied()).collect()
        };
        let summaries = summarise(trace.model.network(), &Tensor::cat(&rows, 0)?, top, asked, &mut NoHooks, progress)?;
        for (r, s) in summaries.into_iter().enumerate() {
            let actual = s.asked.get(extra.len()).copied();
            let answer = answer.and(s.asked.first().copied()).map(|(logit, rank)| AnswerCell {
                prob: s.prob(logit),
                rank,
                logit,
                logit_difference: wrong.and(s.asked.get(1)).map(|(w, _)| logit - w),
            });
            lens.cells[layers[r / per_layer]][r % per_layer] = Some(Cell {
                answer,
                entropy: s.entropy,
                actual_rank: actual.map(|(_, rank)| rank),
                actual_prob: actual.map(|(logit, _)| s.prob(logit)),
                top: s.top,
            });
        }
        partial(&lens);
    }
    Ok(lens)
}

/// Asks for the lens of a run, or of two, at some positions (all if empty).
#[derive(Clone, PartialEq)]
pub struct LensOf {
    pub subject: Subject,
    /// The lens that is read through; none is the logit lens.
    pub lens: Option<Arc<Transport>>,
    pub positions: Vec<usize>,
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
}

impl Question for LensOf {
    type Answer = Compared<Lens>;
    const LABEL: &'static str = "logit lens";

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { subject, lens: through, positions, answer, wrong } = self;
        let trace = &subject.trace;
        let asked = if positions.is_empty() { trace.len() } else { positions.len() };
        let runs = 1 + usize::from(subject.minus.is_some());
        progress.needs(|| cost_of_logits(&trace.model, trace.model.config.n_layers * asked).times(runs))?;
        let lens = |trace: &Trace, positions: &[usize], partial: &mut dyn FnMut(&Lens)| {
            logit_lens(trace, through.as_deref(), positions, *answer, *wrong, TOP, progress, partial)
        };
        let Some(minus) = &subject.minus else {
            let now = lens(&subject.trace, positions, &mut |l| partial(Compared::alone(l.clone())))?;
            return Ok(Compared::alone(now));
        };
        let there: Vec<usize> = positions.iter().filter_map(|p| subject.alignment.get(*p).copied().flatten()).collect();
        // Positions that have no counterpart are compared with nothing; an empty list would mean all.
        let minus =
            if positions.is_empty() || !there.is_empty() { Some(lens(minus, &there, &mut |_| {})?) } else { None };
        let now = lens(&subject.trace, positions, &mut |_| {})?;
        Ok(Compared { now, minus, alignment: subject.alignment.clone() })
    }
}
