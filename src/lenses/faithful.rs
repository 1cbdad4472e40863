//! Is what a lens reads what the model goes on with? A lens reads a token after a layer; if the model uses that, then taking
//! the token's direction out there changes what comes out, by as much as the lens says.
//!
//! To first order the lens says it itself. With v the token's direction at layer l, a change δ of the stream at one position
//! changes W_U[token] · h_final, summed over that position and all later ones, by v · δ. Taken out, δ = −(h · v̂) v̂, and so
//! what the lens says is −h · v. The run is then resumed with the change, and what really comes of the same sum stands beside
//! it; their quotient is the cell's faithfulness: 1 where it does as the lens says, 0 where nothing comes of it, below 0
//! where it does the opposite. A swap of two tokens' coordinates is judged by the sum's difference of the two tokens.

use std::sync::Arc;

use candle_core::Tensor;

use crate::analysis::transport::{Transport, token_vector};
use crate::engine::edit::{Action, Direction, Edit};
use crate::engine::forward::Prepared;
use crate::engine::kernels::with_values;
use crate::engine::resolve::{Sources, resolve};
use crate::engine::resume::{Variant, resume_streams, rows_at_once};
use crate::engine::{Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What is read in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub layer: usize,
    pub pos: usize,
    pub token: u32,
}

/// What came of a cell's change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    pub target: Target,
    /// The change of W_U[token] · h_final, summed from the position on, that the lens says; of the two tokens' difference
    /// where they are swapped.
    pub said: f32,
    /// The same as it really is.
    pub real: f32,
}

impl Effect {
    /// What `said` and `real` are measured in.
    pub const UNIT: &str = "unembedding · stream, before the final norm, summed over positions";

    /// Real over said; nothing where the lens says nothing.
    pub fn faithfulness(&self) -> Option<f32> {
        (self.said.abs() > 1e-6).then(|| self.real / self.said)
    }
}

/// Asks of cells of a lens what comes of taking the read token out, or of swapping it.
#[derive(Clone, PartialEq)]
pub struct FaithfulOf {
    pub trace: Arc<Trace>,
    /// None is the logit lens.
    pub lens: Option<Arc<Transport>>,
    /// Those that are looked at first come first.
    pub targets: Vec<Target>,
    /// The token that each is swapped with; taken out without.
    pub swap: Option<u32>,
}

impl Question for FaithfulOf {
    type Answer = Vec<Effect>;
    const LABEL: &'static str = "what comes of the lens";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { trace, lens, targets, swap } = self;
        if !trace.edits().is_empty() {
            return Err(Error::request("what comes of a lens is asked of a run without edits; switch them off"));
        }
        // The last layer is not run on from: what is read there is what comes out.
        let n_layers = trace.model.config.n_layers;
        let inner: Vec<&Target> = targets
            .iter()
            .filter(|t| t.layer + 1 < n_layers && t.pos < trace.len() && Some(t.token) != *swap)
            .collect();
        let cost = |t: &Target| ((trace.len() - t.pos) * (n_layers - 1 - t.layer)) as u64;
        progress.expect(inner.iter().map(|t| cost(t)).sum());
        let prepared = Prepared::new(&trace.model.config, trace.len());
        let most = rows_at_once(&trace.model.config, trace.len(), false);
        let mut found = Vec::new();
        let mut rest = &inner[..];
        while !rest.is_empty() {
            let mut rows = 0;
            let take = rest.iter().take_while(|t| {
                rows += trace.len() - t.pos;
                rows <= most
            });
            let (now, later) = rest.split_at(take.count().max(1));
            found.extend(effects(trace, lens.as_deref(), now, *swap, &prepared, progress)?);
            partial(found.clone());
            rest = later;
        }
        Ok(found)
    }
}

/// A cell's change, and the direction of the sum by which it is judged.
struct Changed {
    variant: Variant,
    said: f32,
    /// W_U[token], less that of the other token where the two are swapped.
    along: Vec<f32>,
}

fn changed(trace: &Trace, lens: Option<&Transport>, target: &Target, swap: Option<u32>) -> Result<Option<Changed>> {
    let model = &trace.model;
    let vector = |token| token_vector(model, lens, target.layer, token);
    let column = |token| token_vector(model, None, target.layer, token);
    let h: Vec<f32> = trace.get(SiteKind::ResidPost, target.layer)?.get(target.pos)?.to_vec1()?;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let concept = |vector: &[f32]| Direction::Concept { name: "lens".to_owned(), vector: vector.to_vec() };
    let v = vector(target.token)?;
    let (action, reads, along) = match swap {
        None => (Action::Project { direction: concept(&v) }, v, column(target.token)?),
        Some(other) => {
            let w = vector(other)?;
            let action = Action::Exchange { from: concept(&v), to: concept(&w), factor: 1.0, clamped: false };
            let less = |a: Vec<f32>, b: &[f32]| a.into_iter().zip(b).map(|(x, y)| x - y).collect::<Vec<f32>>();
            (action, less(v, &w), less(column(target.token)?, &column(other)?))
        }
    };
    // The stream after a layer is that before the next, so that the run resumes there.
    let edit = Edit::new(Site::new(SiteKind::ResidPre, target.layer + 1), action).at(target.pos);
    let op = match resolve(&edit, &Sources::alone(trace)) {
        Ok(op) => op,
        // The two tokens are read along one direction: there is nothing to swap.
        Err(e) if swap.is_some() && e.is_request() => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut there = h.clone();
    crate::engine::editor::change_row(&mut there, &op, target.pos, None);
    let said = dot(&reads, &there) - dot(&reads, &h);
    Ok(Variant::new(vec![op], trace).map(|variant| Changed { variant, said, along }))
}

fn effects(
    trace: &Trace,
    lens: Option<&Transport>,
    targets: &[&Target],
    swap: Option<u32>,
    prepared: &Prepared,
    progress: &Progress,
) -> Result<Vec<Effect>> {
    let mut cells = Vec::new();
    for target in targets {
        progress.check()?;
        if let Some(c) = changed(trace, lens, target, swap)? {
            cells.push((**target, c));
        }
    }
    let variants: Vec<Variant> = cells.iter().map(|(_, c)| c.variant.clone()).collect();
    if variants.is_empty() {
        return Ok(Vec::new());
    }
    let streams = resume_streams(trace, prepared, &variants, progress)?;
    let before = trace.resid(trace.model.config.n_layers)?;
    cells
        .into_iter()
        .zip(streams)
        .map(|((target, c), after)| {
            let rows = trace.len() - target.pos;
            let change: Tensor = (after.contiguous()? - before.narrow(0, target.pos, rows)?)?.sum(0)?;
            let real = with_values(&change.contiguous()?, |d| {
                d.iter().zip(&c.along).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>() as f32
            })?;
            Ok(Effect { target, said: c.said, real })
        })
        .collect()
}
