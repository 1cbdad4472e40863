//! The heatmap of features, put together away from the window: a hundred thousand features on a long prompt are many
//! millions of cells.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::features::Sparse;
use crate::features::reading::{Order, Reading};
use crate::gpu::HeatData;
use crate::progress::Progress;

/// Cells that are kept at most, 64 MB of them: over a hundred thousand features on a prompt of a hundred tokens.
const CELLS: usize = 1 << 24;

/// Features × tokens.
pub struct Heat {
    /// What it was made from.
    pub reading: Arc<Reading>,
    /// Of [`Order::Answer`].
    pub attribution: Option<Arc<Sparse>>,
    pub order: Order,
    /// The answer and the token against it that are attributed to.
    pub of: (Option<u32>, Option<u32>),
    /// The feature of each row.
    pub features: Vec<u32>,
    /// Features that are active; more than there are rows where cells are not enough.
    pub active: usize,
    /// Activations; under [`Order::Answer`] attributions.
    pub data: HeatData,
    /// Largest magnitude after the first position, whose activations are outliers in many models.
    pub largest: f32,
    /// Active features a position, and the share of the variance that they explain: means after the first position.
    pub l0: f32,
    pub explained: Option<f32>,
}

pub fn heat(
    reading: Arc<Reading>,
    order: Order,
    of: (Option<u32>, Option<u32>),
    attribution: Option<Arc<Sparse>>,
    progress: &Progress,
) -> Result<Heat> {
    let n = reading.acts.rows();
    let (features, active) = reading.leading(order, attribution.as_deref(), CELLS / n.max(1));
    progress.check()?;
    let shown = attribution.as_deref().unwrap_or(&reading.acts);
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
    let data = HeatData::new(features.len(), n, values);
    let from = usize::from(n > 1);
    let largest = (from..n).flat_map(|p| shown.row(p)).fold(0f32, |a, (_, v)| a.max(v.abs()));
    let after = (n - from).max(1) as f32;
    let l0 = reading.acts.starts.get(from).map_or(0.0, |s| (reading.acts.values.len() - s) as f32 / after);
    let explained = &reading.explained;
    let explained = (!explained.is_empty()).then(|| explained.iter().skip(from).sum::<f32>() / after);
    let largest = if largest > 0.0 { largest } else { data.max_abs() };
    Ok(Heat { reading, attribution, of, order, features, active, data, largest, l0, explained })
}
