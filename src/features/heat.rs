//! Features × tokens as a matrix: a hundred thousand features on a long prompt are many millions of cells.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::features::feature_activations::{FeatureActivations, FeatureAttribution, Order};
use crate::progress::Progress;
use crate::question::Question;

/// Cells that are kept at most, 64 MB of them: over a hundred thousand features on a prompt of a hundred tokens.
const CELLS: usize = 1 << 24;

/// Features × tokens.
pub struct FeatureHeat {
    pub activations: Arc<FeatureActivations>,
    /// Of [`Order::Answer`].
    pub attribution: Option<Arc<FeatureAttribution>>,
    pub order: Order,
    /// The feature of each row.
    pub features: Vec<u32>,
    /// Features that are active; more than there are rows where cells are not enough.
    pub active: usize,
    /// Activations, or attributions under [`Order::Answer`]; [feature, pos], row by row.
    pub values: Arc<[f32]>,
    /// Smallest and largest value.
    pub range: (f32, f32),
    /// Largest magnitude after the first position, whose activations are outliers in many models.
    pub largest: f32,
    /// Active features a position, and the share of the variance that they explain: means after the first position.
    pub l0: f32,
    pub explained: Option<f32>,
}

impl FeatureHeat {
    /// Returns the number of tokens.
    pub fn tokens(&self) -> usize {
        self.activations.acts.rows()
    }
}

/// Asks for the matrix of a run's features in an order; [`Order::Answer`] goes by the attribution.
#[derive(Clone, PartialEq)]
pub struct FeatureHeatOf {
    pub activations: Arc<FeatureActivations>,
    pub order: Order,
    pub attribution: Option<Arc<FeatureAttribution>>,
}

impl Question for FeatureHeatOf {
    type Answer = FeatureHeat;

    const LABEL: &'static str = "drawing features";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(FeatureHeat)) -> Result<FeatureHeat> {
        heat(self, progress)
    }
}

/// Puts the matrix together.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub fn heat(asked: &FeatureHeatOf, progress: &Progress) -> Result<FeatureHeat> {
    let FeatureHeatOf { activations, order, attribution } = asked.clone();
    let acts = &activations.acts;
    let n = acts.rows();
    let shown = attribution.as_deref().map(|a| &a.values);
    let (features, active) = activations.leading(order, shown, CELLS / n.max(1));
    progress.check()?;
    let shown = shown.unwrap_or(acts);
    let place: HashMap<u32, usize> = features.iter().enumerate().map(|(i, f)| (*f, i)).collect();
    let mut values = vec![0f32; features.len() * n];
    for p in 0..n {
        progress.check()?;
        for (f, v) in shown.row(p) {
            if let Some(i) = place.get(&f) {
                values[i * n + p] = v;
            }
        }
    }
    let finite = values.iter().copied().filter(|v| v.is_finite());
    let range = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let range = if range.0 <= range.1 { range } else { (0.0, 1.0) };
    let from = usize::from(n > 1);
    let largest = (from..n).flat_map(|p| shown.row(p)).fold(0f32, |a, (_, v)| a.max(v.abs()));
    let largest = if largest > 0.0 { largest } else { range.0.abs().max(range.1.abs()) };
    let after = (n - from).max(1) as f32;
    let l0 = acts.starts.get(from).map_or(0.0, |s| (acts.values.len() - s) as f32 / after);
    let explained = &activations.explained;
    let explained = (!explained.is_empty()).then(|| explained.iter().skip(from).sum::<f32>() / after);
    let values = values.into();
    Ok(FeatureHeat { activations, attribution, order, features, active, values, range, largest, l0, explained })
}
