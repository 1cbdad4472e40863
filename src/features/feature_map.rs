//! Decoder directions in the plane: their two principal components, and t-SNE [van der Maaten 2014] from there on.

use std::sync::Arc;

use bhtsne::{Neighbor, tSNE};
use candle_core::Tensor;
use rayon::prelude::*;

use crate::engine::logits::largest_indices;
use crate::error::Result;
use crate::features::dictionary::Dictionary;
use crate::features::scan::index::Index;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Features on a map, at most; beyond, every so many-th is taken.
pub const MOST: usize = 8192;
/// Rounds of t-SNE, and how many are run before progress is told.
const EPOCHS: usize = 500;
const CHUNK: usize = 25;
const PERPLEXITY: f32 = 15.0;
/// Neighbours that draw on a feature: three times the perplexity, as is usual.
const NEIGHBOURS: usize = 45;
/// Rows whose neighbours are looked for at once.
const BLOCK: usize = 512;
/// Accuracy of the Barnes–Hut approximation.
const THETA: f32 = 0.5;

/// Where features lie.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureMap {
    pub features: Vec<u32>,
    /// Of how many these are every so many-th.
    pub of: usize,
    /// Along the two principal components of unit decoder rows.
    pub components: Vec<[f32; 2]>,
    /// By t-SNE, where it was run.
    pub neighbours: Vec<[f32; 2]>,
}

/// Asks where a dictionary's features lie: those that an index found active, or all.
#[derive(Clone, PartialEq)]
pub struct FeatureMapOf {
    pub dictionary: Arc<Dictionary>,
    pub index: Option<Arc<Index>>,
}

impl Question for FeatureMapOf {
    type Answer = FeatureMap;

    const LABEL: &'static str = "laying out the map";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(FeatureMap)) -> Result<FeatureMap> {
        let living: Option<Vec<u32>> = self.index.as_ref().map(|index| index.living().collect());
        feature_map(&self.dictionary, living.as_deref(), progress)
    }
}

/// Unit decoder rows of the chosen features, [n, d].
fn rows(dictionary: &Dictionary, chosen: &[u32]) -> Result<Tensor> {
    let index = Tensor::new(chosen, dictionary.w_dec.device())?;
    let rows = dictionary.w_dec.index_select(&index, 0)?;
    let norms = (rows.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-12)?;
    Ok(rows.broadcast_div(&norms)?)
}

/// The map of features, `wanted` or all.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub fn feature_map(dictionary: &Dictionary, wanted: Option<&[u32]>, progress: &Progress) -> Result<FeatureMap> {
    let all: Vec<u32> = match wanted {
        Some(w) => w.to_vec(),
        None => (0..dictionary.d_sae as u32).collect(),
    };
    let (of, every) = (all.len(), all.len().div_ceil(MOST).max(1));
    let features: Vec<u32> = all.into_iter().step_by(every).collect();
    progress.expect((features.len().div_ceil(BLOCK) + EPOCHS) as u64);
    let x = rows(dictionary, &features)?;
    let components = principal(&x)?;
    progress.check()?;
    let neighbours = if features.len() > NEIGHBOURS + 1 {
        // Begins from the components, small, as is usual: the global order is then theirs.
        let scale = components.iter().flatten().fold(0f32, |m, v| m.max(v.abs())).max(f32::MIN_POSITIVE);
        let start: Vec<f32> = components.iter().flatten().map(|v| v / scale * 1e-2).collect();
        tsne(&x, start, progress)?
    } else {
        components.clone()
    };
    Ok(FeatureMap { features, of, components, neighbours })
}

/// The nearest rows of each row, by distance; rows [n, d] are of length 1. A step of progress a block.
fn nearest(x: &Tensor, progress: &Progress) -> Result<Vec<Vec<Neighbor<f32>>>> {
    let n = x.dim(0)?;
    let columns = x.t()?.contiguous()?;
    let mut all = Vec::with_capacity(n);
    for from in (0..n).step_by(BLOCK) {
        let cosines: Vec<Vec<f32>> = x.narrow(0, from, BLOCK.min(n - from))?.matmul(&columns)?.to_vec2()?;
        all.par_extend(cosines.into_par_iter().enumerate().map(|(i, mut row)| {
            // Each has as many: what is no number is as far as can be.
            row.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = -1.0);
            row[from + i] = f32::NEG_INFINITY;
            let near = largest_indices(&row, NEIGHBOURS);
            near.into_iter().map(|k| Neighbor { index: k, distance: (2.0 - 2.0 * row[k]).max(0.0).sqrt() }).collect()
        }));
        progress.step(1)?;
    }
    Ok(all)
}

fn tsne(x: &Tensor, start: Vec<f32>, progress: &Progress) -> Result<Vec<[f32; 2]>> {
    let near = nearest(x, progress)?;
    // Distances are known; the points themselves are not asked for.
    let points = vec![(); near.len()];
    let mut at = start;
    let mut affinities = None;
    let mut done = 0;
    // In pieces, so that it can be stopped; how strongly neighbours are drawn together is found once.
    while done < EPOCHS {
        let mut t = tSNE::<f32, ()>::new(&points);
        t.perplexity(PERPLEXITY).epochs(CHUNK).initial_embedding(at);
        // Neighbours are drawn together more strongly in the first half.
        t.stop_lying_epoch(if 2 * done < EPOCHS { CHUNK } else { 0 });
        if let Some(a) = affinities.take() {
            t.with_affinities(a);
        }
        t.barnes_hut_with_neighbors(THETA, &near);
        affinities = t.affinities();
        at = t.embedding();
        done += CHUNK;
        progress.step(CHUNK as u64)?;
    }
    Ok(at.chunks_exact(2).map(|p| [p[0], p[1]]).collect())
}

/// The two principal components of rows [n, d], by power iteration on the covariance.
fn principal(x: &Tensor) -> Result<Vec<[f32; 2]>> {
    let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
    let d = x.dim(1)?;
    let covariance = centred.t()?.contiguous()?.matmul(&centred)?;
    let mut found: Vec<Tensor> = Vec::new();
    for k in 0..2 {
        let start: Vec<f32> = (0..d).map(|i| ((i * (k + 1)) as f32 * 0.7).cos()).collect();
        let mut v = Tensor::from_vec(start, (d, 1), x.device())?;
        for _ in 0..100 {
            v = covariance.matmul(&v)?;
            for f in &found {
                v = (&v - (f * (f * &v)?.sum_all()?.to_scalar::<f32>()? as f64)?)?;
            }
            let norm = v.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
            v = (v / f64::from(norm.max(f32::MIN_POSITIVE)))?;
        }
        found.push(v);
    }
    let basis = Tensor::cat(&found, 1)?;
    let points: Vec<Vec<f32>> = centred.matmul(&basis)?.to_vec2()?;
    Ok(points.into_iter().map(|p| [p[0], p[1]]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::dictionary::{Activation, Normalisation};
    use candle_core::Device;

    #[test]
    fn clusters_of_directions_lie_apart() {
        let (n, d) = (120, 12);
        // Three clusters around three axes.
        let rows: Vec<f32> = (0..n)
            .flat_map(|i| (0..d).map(move |j| if j == i % 3 { 1.0 } else { 0.05 * ((i * 7 + j * 13) as f32).sin() }))
            .collect();
        let t = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let dictionary = Dictionary {
            name: String::new(),
            path: Default::default(),
            format: "SAELens",
            d_in: d,
            d_sae: n,
            d_out: d,
            w_enc: t((d, n)),
            b_enc: vec![0.0; n],
            w_dec: Tensor::from_vec(rows, (n, d), &Device::Cpu).unwrap(),
            later: Default::default(),
            b_dec: vec![0.0; d],
            activation: Activation::Relu,
            subtract_b_dec: false,
            rescale: false,
            normalisation: Normalisation::None,
            skip: None,
            transcoder: false,
            input: None,
            output: None,
            model_name: None,
            config: serde_json::Value::Null,
            warnings: Vec::new(),
        };
        let map = feature_map(&dictionary, None, &Progress::new()).unwrap();
        assert_eq!(map.features.len(), n);
        for points in [&map.components, &map.neighbours] {
            // The nearest neighbour of a point is of its own cluster, for nearly all.
            let own = (0..n)
                .filter(|i| {
                    let far = |j: &usize| {
                        let (a, b) = (points[*i], points[*j]);
                        (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
                    };
                    let near = (0..n).filter(|j| j != i).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap();
                    near % 3 == i % 3
                })
                .count();
            assert!(own > 110, "{own} of {n}");
        }
        let stopped = Progress::new();
        stopped.cancel();
        assert!(feature_map(&dictionary, None, &stopped).is_err());
    }
}
