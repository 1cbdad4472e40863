//! What adding a direction, or changing a feature, does to what the model says: dose and response, text with and
//! without, and what it costs elsewhere.

use std::sync::Arc;

use serde::Serialize;

use crate::engine::dictionaries::Dictionaries;
use crate::engine::edit::{Action, Positions};
use crate::engine::generate::{Continuation, Sampling, generate};
use crate::engine::resolve::{Op, Sources, resolve};
use crate::engine::{Edit, Trace};
use crate::error::{Error, Result};
use crate::features::Store;
use crate::features::rows::{Cut, Rows};
use crate::features::writer::Writer;
use crate::memory::afford;
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Strengths on either side of zero.
const STEPS: usize = 6;
/// Tokens of a row of the reference text, and of all.
const REFERENCE: (usize, usize) = (64, 192);

/// Tokens whose probabilities are watched: two sides of a scale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    pub towards: Vec<u32>,
    pub away: Vec<u32>,
}

impl Watched {
    /// Single tokens by their texts.
    ///
    /// # Errors
    /// A text that is not one token.
    pub fn parse(model: &Model, towards: &[String], away: &[String]) -> Result<Self> {
        let ids = |texts: &[String]| texts.iter().map(|t| model.single_token(t)).collect::<Result<Vec<u32>>>();
        Ok(Self { towards: ids(towards)?, away: ids(away)? })
    }
}

/// The model under one strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Dose {
    pub alpha: f32,
    /// Summed probabilities of the watched tokens after the prompt.
    pub towards: f32,
    pub away: f32,
    /// towards / (towards + away); like those, no number where no token is named.
    pub share: f32,
    /// How far the next-token distribution has moved, KL(base ‖ steered), nats.
    pub kl: f32,
    /// Mean loss over the reference text, nats.
    pub loss: Option<f32>,
}

/// Asks what adding a direction does to the next token of a run, at strengths from −`most` to `most`.
#[derive(Clone, PartialEq)]
pub struct DosesOf {
    pub trace: Arc<Trace>,
    pub writer: Writer,
    /// What the writer is called.
    pub name: String,
    pub most: f32,
    pub watched: Watched,
    /// The text on which the cost is measured.
    pub text: String,
    /// Where edits find their dictionaries.
    pub store: Arc<Store>,
}

impl Question for DosesOf {
    type Answer = Vec<Dose>;

    const LABEL: &'static str = "dose and response";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Vec<Dose>)) -> Result<Vec<Dose>> {
        let model = &self.trace.model;
        let base = self.writer.steer(1.0, model)?;
        let edits = |alpha: f32| {
            let mut edits = base.clone();
            for e in &mut edits {
                if let Action::Add { factor, .. } = &mut e.action {
                    *factor = alpha;
                }
            }
            Ok(edits)
        };
        let (alphas, mut all) = (strengths(self.most, STEPS), Vec::new());
        let text = std::slice::from_ref(&self.text);
        let rows = Rows::cut(model, text, &Cut::new(REFERENCE.0, Some(REFERENCE.1)), progress)?;
        let (ids, store) = (&self.trace.ids, &*self.store);
        dose_response(model, ids, &edits, store, &alphas, &self.watched, &rows, progress, |dose| {
            all.push(dose);
            partial(all.clone());
        })
    }
}

/// Strengths from −`most` to `most`, evenly, zero among them.
pub fn strengths(most: f32, steps: usize) -> Vec<f32> {
    let half = steps.max(1) as i32;
    (-half..=half).map(|i| most * i as f32 / half as f32).collect()
}

/// Runs the prompt, and the reference text where there is one, under `edits(alpha)` for every strength. A response is
/// handed out as soon as it is there.
///
/// # Errors
/// As runs under edits, or [`Error::Cancelled`].
pub fn dose_response(
    model: &Arc<Model>,
    ids: &[u32],
    edits: &dyn Fn(f32) -> Result<Vec<Edit>>,
    dictionaries: &dyn Dictionaries,
    alphas: &[f32],
    watched: &Watched,
    reference: &Rows,
    progress: &Progress,
    mut each: impl FnMut(Dose),
) -> Result<Vec<Dose>> {
    if ids.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let bytes: usize = reference.lengths().map(|n| Trace::bytes_for(model, n)).sum();
    let what = format!("holding the runs of {} reference tokens", reference.tokens());
    afford(bytes, &what, "give fewer tokens")?;
    let base = Trace::run(model, ids.to_vec(), progress)?;
    let reference_runs = (0..reference.len())
        .map(|r| Trace::run(model, reference.row(r)?, progress).map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    let last = base.len() - 1;
    let plain = probabilities(&base, last)?;
    let mut all = Vec::with_capacity(alphas.len());
    for &alpha in alphas {
        let edits = edits(alpha)?;
        let run = |edits: &[Edit], base: &Trace| -> Result<Trace> {
            let ops = resolve_all(edits, base, dictionaries)?;
            Trace::run_edited(model, base.ids.clone(), Arc::new(ops), progress)
        };
        let p = probabilities(&run(&edits, &base)?, last)?;
        // Of no tokens there is no probability.
        let sum = |ids: &[u32]| match ids {
            [] => f32::NAN,
            _ => ids.iter().filter_map(|id| p.get(*id as usize)).sum::<f32>(),
        };
        let (towards, away) = (sum(&watched.towards), sum(&watched.away));
        let kl: f64 = plain
            .iter()
            .zip(&p)
            .filter(|(a, _)| **a > 0.0)
            .map(|(a, b)| f64::from(*a) * (f64::from(*a).ln() - f64::from(b.max(f32::MIN_POSITIVE)).ln()))
            .sum();
        // Positions of the prompt mean nothing in another text.
        let mut everywhere = edits.clone();
        everywhere.iter_mut().for_each(|e| e.positions = Positions::All);
        let mut losses: Vec<f32> = Vec::new();
        for r in &reference_runs {
            losses.extend(run(&everywhere, r)?.loss.iter().copied().flatten());
        }
        let dose = Dose {
            alpha,
            towards,
            away,
            share: if (towards + away).is_nan() { f32::NAN } else { towards / (towards + away).max(f32::MIN_POSITIVE) },
            kl: kl.max(0.0) as f32,
            loss: (!losses.is_empty()).then(|| losses.iter().sum::<f32>() / losses.len() as f32),
        };
        all.push(dose);
        each(dose);
    }
    Ok(all)
}

fn resolve_all(edits: &[Edit], base: &Trace, dictionaries: &dyn Dictionaries) -> Result<Vec<Op>> {
    let sources = Sources::alone(base).with_dictionaries(dictionaries);
    edits.iter().map(|e| resolve(e, &sources)).collect()
}

/// Probabilities of all next tokens after a position.
fn probabilities(trace: &Trace, pos: usize) -> Result<Vec<f32>> {
    let row = trace.normalized(pos)?;
    let mut p: Vec<f32> = trace.model.network().unembed(&row)?.flatten_all()?.to_vec1()?;
    let largest = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    p.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f32 = p.iter().sum();
    if !(sum.is_finite() && sum > 0.0) {
        return Err(Error::failed("the edited model gives no probabilities; choose a smaller strength"));
    }
    p.iter_mut().for_each(|v| *v /= sum);
    Ok(p)
}

/// Text that goes on from a prompt under edits.
///
/// # Errors
/// As [`generate`].
pub fn continued(
    model: &Arc<Model>,
    ids: &[u32],
    edits: &[Edit],
    dictionaries: &dyn Dictionaries,
    sampling: Sampling,
    limit: usize,
    progress: &Progress,
) -> Result<Continuation> {
    let ops = if edits.is_empty() {
        Vec::new()
    } else {
        resolve_all(edits, &Trace::run(model, ids.to_vec(), progress)?, dictionaries)?
    };
    generate(model, ids, &Arc::new(ops), sampling, limit, progress, |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_are_even_and_pass_zero() {
        assert_eq!(strengths(2.0, 2), [-2.0, -1.0, 0.0, 1.0, 2.0]);
    }
}
