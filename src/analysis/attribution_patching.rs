//! Attribution patching: estimates what activation patching would give, for all cells of all sites, from one backward
//! pass [Nanda 2023; Syed et al. 2023].
//!
//! Activation patching needs one run for each cell. Near the corrupted run the metric is about linear in an activation,
//! so the effect of putting the clean value in is about
//!
//! ```text
//! (clean − corrupted) · ∂metric/∂activation
//! ```
//!
//! with the gradient taken on the corrupted run. A cell's estimate is the sum over all numbers that the cell holds. It
//! is an approximation: [`super::audit`] compares it with exact patching.

use std::time::Instant;

use super::metric::Metric;
use super::pair::Pair;
use super::plan::{Planned, cost_on_run};
use super::sweep::{Axes, SweepResult, check_span};
use crate::engine::forward::finite_values;
use crate::engine::gradient::{Gradients, gradients};
use crate::engine::{Freeze, RunSide, Site, SiteKind};
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Lane;

/// The gradients at chosen sites, from which [`AttributionPatching::grid`] makes the estimates.
pub struct AttributionPatching {
    gradients: Gradients,
    pub metric: Metric,
    pub clean: f32,
    pub corrupted: f32,
    pub frozen: Freeze,
    pub seconds: f64,
}

/// Runs the backward pass on the corrupted run, for all `sites` that the model has.
///
/// # Errors
/// There is no corrupted prompt, the metric has no gradient, or it is the same for both prompts.
pub fn attribution_patching(
    pair: &Pair,
    metric: Metric,
    sites: &[SiteKind],
    freeze: Freeze,
    progress: &Progress,
) -> Result<AttributionPatching> {
    let started = Instant::now();
    let base = pair.run(RunSide::Corrupted)?;
    let readout = pair.readout(metric)?;
    let clean = readout.of(&pair.clean, pair.clean.len() - 1)?;
    let kinds: Vec<SiteKind> = sites.iter().copied().filter(|k| k.exists(&base.model.config)).collect();
    let gradients = gradients(base, &kinds, freeze, base.len() - 1, |row| readout.differentiable(row), progress)?;
    check_span(pair, metric)?;
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
    /// Returns the estimates on the grid that a patching sweep would have. Each value is the metric that the cell is
    /// expected to give, so that the values normalise as those of a sweep do.
    ///
    /// # Errors
    /// The site was not asked for, the site does not have these axes, or the pair has no corrupted run.
    pub fn grid(&self, pair: &Pair, site: SiteKind, by: Axes) -> Result<SweepResult> {
        let base = pair.run(RunSide::Corrupted)?;
        let settings = super::patching::patching(site, by, self.metric);
        settings.check(base)?;
        let axes = settings.axes(base);
        let sources = pair.sources(RunSide::Corrupted)?;
        let n = base.len();
        let layers: Vec<usize> = match by {
            Axes::DestSrc { layer, .. } => vec![layer],
            _ => (0..base.model.config.n_layers).collect(),
        };
        let mut values = Vec::with_capacity(axes.iter().map(|(_, n)| n).product());
        for layer in layers {
            let at = Site::new(site, layer);
            let gradient = self.gradients.get(at)?.flatten_all()?.to_vec1::<f32>()?;
            let difference = sources.difference(at)?;
            let product: Vec<f32> = gradient.iter().zip(&difference.values).map(|(g, d)| g * d).collect();
            finite_values(&product, || format!("the estimate at {at}"))?;
            if let Axes::DestSrc { head, .. } = by {
                values.extend(product.iter().skip(head * n * n).take(n * n).map(|v| self.corrupted + v));
                continue;
            }
            let effect = effects(&product, &at.shape(&base.model.config, n), site == SiteKind::Pattern);
            // A position without a counterpart is not patched.
            let aligned: Vec<usize> =
                (0..n).filter(|p| sources.alignment.get(*p).copied().flatten().is_some()).collect();
            let heads = effect.len() / n;
            let over = |h: usize| aligned.iter().map(|p| effect[h * n + p]).sum::<f64>();
            let is_aligned: Vec<bool> = sources.alignment.iter().map(Option::is_some).collect();
            let one = |h: usize, p: usize| {
                if is_aligned.get(p).copied().unwrap_or(false) { effect[h * n + p] } else { f64::NAN }
            };
            let cells: Vec<f64> = match by {
                Axes::Layer => vec![(0..heads).map(over).sum()],
                Axes::LayerHead => (0..heads).map(over).collect(),
                Axes::LayerPos => (0..n).map(|p| (0..heads).map(|h| one(h, p)).sum()).collect(),
                Axes::LayerHeadPos => {
                    (0..heads).flat_map(|h| (0..n).map(move |p| (h, p))).map(|(h, p)| one(h, p)).collect()
                }
                Axes::DestSrc { .. } => Vec::new(),
            };
            values.extend(cells.iter().map(|v| self.corrupted + *v as f32));
        }
        Ok(SweepResult {
            settings,
            axes,
            values,
            baseline: self.corrupted,
            clean: self.clean,
            corrupted: Some(self.corrupted),
            run: 0,
            skipped: 0,
            unaligned: 0,
            done: true,
            seconds: self.seconds,
        })
    }
}

/// Sums the product over all axes but head and (destination) position. Returns [head, pos], with one head for sites
/// that have none.
fn effects(product: &[f32], shape: &[usize], edge: bool) -> Vec<f64> {
    let total = |part: &[f32]| part.iter().map(|v| f64::from(*v)).sum::<f64>();
    match *shape {
        [_, _, sources] if edge => product.chunks_exact(sources).map(total).collect(),
        [n, heads, d] => {
            let mut out = vec![0.0; n * heads];
            for (i, part) in product.chunks_exact(d).enumerate() {
                out[(i % heads) * n + i / heads] = total(part);
            }
            out
        }
        [_, d] => product.chunks_exact(d).map(total).collect(),
        _ => Vec::new(),
    }
}

/// Asks for the estimates of one site's sweep.
#[derive(Clone, PartialEq)]
pub struct ApproximationOf {
    pub pair: Pair,
    pub site: SiteKind,
    pub by: Axes,
    pub metric: Metric,
}

impl crate::question::Question for ApproximationOf {
    type Answer = SweepResult;
    const LABEL: &'static str = "attribution patching";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(SweepResult)) -> Result<SweepResult> {
        let Self { pair, site, by, metric } = self;
        progress.needs(|| cost_on_run(&pair.clean.model, pair.clean.len(), Planned::Nodes { site: Some(*site) }))?;
        attribution_patching(pair, *metric, &[*site], Freeze::default(), progress)?.grid(pair, *site, *by)
    }
}
