//! Attribution patching [Nanda 2023; Syed et al. 2023]: a first-order estimate of what activation patching
//! would give, for all cells of all sites from one backward pass: (clean − corrupted) · ∂metric/∂activation on
//! the corrupted run, summed over what a cell holds. An approximation, to be checked against exact patching
//! (see [`super::audit`]).

use std::time::Instant;

use super::metric::Metric;
use super::pair::Pair;
use super::sweep::{By, Found, SITES};
use crate::engine::gradient::{Gradients, gradients};
use crate::engine::{Freeze, Site, SiteKind, Which};
use crate::error::Result;
use crate::jobs::Progress;

/// The estimates at every site that a sweep can patch.
pub struct AttributionPatching {
    gradients: Gradients,
    pub metric: Metric,
    pub clean: f32,
    pub corrupted: f32,
    pub frozen: Freeze,
    pub seconds: f64,
}

/// Runs the backward pass.
///
/// # Errors
/// No corrupted prompt, or a metric without gradient.
pub fn attribution_patching(
    pair: &Pair,
    metric: Metric,
    freeze: Freeze,
    progress: &Progress,
) -> Result<AttributionPatching> {
    let started = Instant::now();
    let base = pair.run(Which::Corrupted)?;
    let readout = pair.readout(metric)?;
    let clean = readout.of(&pair.clean, pair.clean.len() - 1)?;
    let kinds: Vec<SiteKind> = SITES.into_iter().filter(|k| k.exists(&base.model.config)).collect();
    let gradients = gradients(base, &kinds, freeze, base.len() - 1, |row| readout.differentiable(row), progress)?;
    let corrupted = gradients.metric;
    Ok(AttributionPatching {
        gradients,
        metric,
        clean,
        corrupted,
        frozen: freeze,
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl AttributionPatching {
    /// The estimates on the grid of a patching question, as the metric each cell is expected to give; they
    /// normalise like a sweep's.
    ///
    /// # Errors
    /// A question about another run or metric, or axes the site does not have.
    pub fn grid(&self, pair: &Pair, site: SiteKind, by: By) -> Result<Found> {
        let base = pair.run(Which::Corrupted)?;
        let question = super::patching::patching(site, by, self.metric);
        question.check(base)?;
        let axes = question.axes(base);
        let sources = pair.sources(Which::Corrupted)?;
        let n = base.len();
        let layers: Vec<usize> = match by {
            By::DestSrc { layer, .. } => vec![layer],
            _ => (0..base.model.config.n_layers).collect(),
        };
        let mut values = Vec::with_capacity(axes.iter().map(|(_, n)| n).product());
        for layer in layers {
            let at = Site::new(site, layer);
            let gradient = self.gradients.get(at)?.flatten_all()?.to_vec1::<f32>()?;
            let difference = sources.difference(at)?;
            let product: Vec<f32> = gradient
                .iter()
                .zip(&difference.values)
                // A position without a counterpart is not patched. (Scores of −∞ never get here.)
                .map(|(g, d)| g * d)
                .collect();
            let aligned = |p: usize| sources.alignment.get(p).copied().flatten().is_some();
            let shape = at.shape(&base.model.config, n);
            let sum = |keep: &dyn Fn(usize, usize, usize) -> bool| -> f32 {
                let (b, c) = (shape[1], shape.get(2).copied().unwrap_or(1));
                product
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| keep(i / (b * c), (i / c) % b, i % c))
                    .map(|(_, v)| f64::from(*v))
                    .sum::<f64>() as f32
            };
            let edge = site == SiteKind::Pattern;
            let position = |a: usize, b: usize| if edge { b } else { a };
            let head_of = |a: usize, b: usize| if edge { a } else { b };
            let heads = if edge { shape[0] } else { shape[1] };
            let estimate = |v: f32| self.corrupted + v;
            match by {
                By::Layer => values.push(estimate(sum(&|a, _, _| aligned(a)))),
                By::LayerPos => values.extend((0..n).map(|p| estimate(sum(&|a, _, _| a == p && aligned(a))))),
                By::LayerHead => values.extend(
                    (0..heads).map(|h| estimate(sum(&|a, b, _| head_of(a, b) == h && aligned(position(a, b))))),
                ),
                By::LayerHeadPos => {
                    for h in 0..heads {
                        values.extend((0..n).map(|p| {
                            estimate(sum(&|a, b, _| head_of(a, b) == h && position(a, b) == p && aligned(p)))
                        }));
                    }
                }
                By::DestSrc { head, .. } => {
                    values.extend(product.iter().skip(head * n * n).take(n * n).map(|v| estimate(*v)))
                }
            }
        }
        Ok(Found {
            question,
            axes,
            values,
            baseline: self.corrupted,
            clean: self.clean,
            corrupted: Some(self.corrupted),
            run: 0,
            skipped: 0,
            done: true,
            seconds: self.seconds,
        })
    }
}
