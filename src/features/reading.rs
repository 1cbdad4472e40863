//! A dictionary over the tokens of a run: which features are active where, which come first, and what they add to the
//! answer.

use std::sync::Arc;

use super::dictionary::Dictionary;
use super::encode::Sparse;
use crate::engine::Trace;
use crate::error::Result;
use crate::jobs::Progress;

/// What decides which features come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Max,
    Mean,
    /// Activation at one position.
    At(usize),
    /// Direct effect on the answer's logit (difference) at the last position, by magnitude.
    Answer,
}

/// Features over a run's tokens.
pub struct Reading {
    pub dictionary: Arc<Dictionary>,
    pub trace: Arc<Trace>,
    pub acts: Sparse,
    /// Share of the variance that is reconstructed at each position, 1 − ‖y − ŷ‖²/‖y − ȳ‖².
    pub explained: Vec<f32>,
    /// What each active feature adds to the answer's logit (difference) through the residual stream directly, the
    /// final norm's scale held still: (feature, effect) at the last position. Nothing where there is no answer or the
    /// dictionary writes no vector of the stream.
    pub effects: Vec<(u32, f32)>,
}

/// Encodes what the run holds at the dictionary's place.
///
/// # Errors
/// A dictionary that does not fit the run's model.
pub fn read(
    dictionary: Arc<Dictionary>,
    trace: Arc<Trace>,
    answer: Option<u32>,
    wrong: Option<u32>,
    progress: &Progress,
) -> Result<Reading> {
    let model = &trace.model;
    let (input, output) = dictionary.check(&model.config)?;
    let x = input.rows(model, &trace.value(input.site)?)?;
    let (acts, recon) = dictionary.replacement(&x, progress)?;
    let y: Vec<Vec<f32>> = output.rows(model, &trace.value(output.site)?)?.to_vec2()?;
    let recon: Vec<Vec<f32>> = recon.to_vec2()?;
    let d = dictionary.d_out;
    let mut mean = vec![0f32; d];
    // The first position is an outlier in many models and would move the mean.
    let from = usize::from(y.len() > 1);
    for row in &y[from..] {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / (y.len() - from) as f32);
    }
    let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let explained =
        y.iter().zip(&recon).map(|(y, r)| 1.0 - square(y, r) / square(y, &mean).max(f32::MIN_POSITIVE)).collect();
    let mut effects = Vec::new();
    // What normalisation and rescaling make of an activation would have to be undone at each position.
    let plain = !dictionary.rescale && dictionary.normalisation == super::dictionary::Normalisation::None;
    if let Some(answer) = answer
        && output.in_stream()
        && plain
    {
        let last = trace.len() - 1;
        let scale: f32 = trace.final_scale()?.get(last)?.get(0)?.to_scalar()?;
        let column = |id: u32| -> Result<Vec<f32>> {
            Ok(model.weights.unembed.narrow(1, id as usize, 1)?.flatten_all()?.to_vec1()?)
        };
        let mut reads = column(answer)?;
        if let Some(wrong) = wrong {
            reads.iter_mut().zip(column(wrong)?).for_each(|(a, b)| *a -= b);
        }
        if let Some(norm) = &model.weights.ln_final {
            reads.iter_mut().zip(norm.weight.to_vec1::<f32>()?).for_each(|(r, w)| *r *= w);
        }
        if matches!(model.config.norm, crate::model::config::NormKind::Layer { .. }) {
            let mean = reads.iter().sum::<f32>() / d as f32;
            reads.iter_mut().for_each(|r| *r -= mean);
        }
        for (f, a) in acts.row(last) {
            let writes = dictionary.summed_direction(f as usize)?;
            let dot: f32 = writes.iter().zip(&reads).map(|(w, r)| w * r).sum();
            effects.push((f, a * dot / scale));
        }
    }
    Ok(Reading { dictionary, trace, acts, explained, effects })
}

impl Reading {
    /// The features that are active anywhere but in the first position, the leading ones first, at most `count`.
    pub fn leading(&self, order: Order, count: usize) -> Vec<u32> {
        let n = self.acts.rows();
        let from = usize::from(n > 1);
        let mut score: std::collections::HashMap<u32, f32> = std::collections::HashMap::new();
        for p in from..n {
            for (f, a) in self.acts.row(p) {
                let s = score.entry(f).or_insert(0.0);
                match order {
                    Order::Max => *s = s.max(a),
                    Order::Mean => *s += a,
                    Order::At(pos) if pos == p => *s = a,
                    Order::At(_) | Order::Answer => {}
                }
            }
        }
        match order {
            Order::At(0) => score.extend(self.acts.row(0)),
            Order::Answer => score.extend(self.effects.iter().map(|(f, e)| (*f, e.abs()))),
            _ => {}
        }
        let mut all: Vec<(u32, f32)> = score.into_iter().collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.into_iter().take(count).map(|(f, _)| f).collect()
    }
}
