//! Fits a Jacobian lens.
//!
//! For each prompt the model runs once. Then every output coordinate is a cotangent, one at each position of V, and a batch
//! of them goes back through the layers together; what arrives behind a layer, averaged over V, is a batch of rows of J.
//! That is d_model / batch passes back, each of the cost of a pass of so many rows.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use rayon::prelude::*;

use super::sums::{Sums, SumsAbout, too_short};
use crate::analysis::plan::{OverText, cost_over};
use crate::engine::forward::finite_values;
use crate::engine::kernels::with_values;
use crate::engine::pullback::Pullback;
use crate::engine::resume::layer_weights;
use crate::error::{Error, Result};
use crate::features::rows::Rows;
use crate::files::can_be_saved_again;
use crate::interrupt;
use crate::model::Model;
use crate::model::Network;
use crate::progress::Progress;
use crate::shard::{Shard, check_goes_on, share};

/// Positions at each prompt's start that are left out by default: what the first tokens do is unlike all else.
pub const SKIP: usize = 16;
/// Tokens of a prompt by default.
pub const TOKENS: usize = 128;
/// Rows of cotangents that go back together: enough for the products to run at full speed.
const ROWS: usize = 1024;
/// Operations of a layer between two chances to cancel.
const OPERATIONS: usize = 8_000_000_000;
/// A fit is kept at least so often, after a prompt.
const KEEP: Duration = Duration::from_secs(10);

/// How a lens is fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The layers, sorted; all but the last where it is empty.
    pub layers: Vec<usize>,
    pub skip: usize,
    pub tokens: usize,
    /// The names of the texts, for the lens' file.
    pub texts: Vec<String>,
    /// This shard of the prompts, counted from 0, of how many.
    pub shard: (usize, usize),
}

/// Fits a lens on rows of text. Where `kept` is a file, a fit that was begun there goes on, and it is written there from time
/// to time and where it is stopped. `each` sees the sums after every prompt.
///
/// # Errors
/// Layers that the model lacks, text too short, a file of another fit; [`Error::Cancelled`].
pub fn fit(
    model: &Model,
    rows: &Rows,
    settings: &Settings,
    kept: Option<&Path>,
    progress: &Progress,
    each: &mut dyn FnMut(&Sums),
) -> Result<Sums> {
    let c = &model.config;
    let layers = layers_of(model, &settings.layers)?;
    if rows.lengths().all(|len| positions(len, settings.skip).is_none()) {
        return Err(too_short());
    }
    let _careful = kept.map(|_| interrupt::careful(progress));
    let fresh = Sums::new(SumsAbout {
        model: c.name.clone(),
        shard: Shard::new("jlens fit", model.fingerprint()?, rows.hash()?, settings.shard)?,
        d_model: c.d_model,
        layers,
        skip: settings.skip,
        tokens: settings.tokens,
        texts: settings.texts.clone(),
        total: rows.len(),
        next: 0,
        done: false,
        counts: [0, 0],
    });
    kept.map(can_be_saved_again).transpose()?;
    let mut sums = match kept.filter(|path| path.is_file()) {
        None => fresh,
        Some(path) => {
            let found = Sums::open(path)?;
            check_goes_on(path, &found.about, &fresh.about)?;
            found
        }
    };
    if sums.about.done {
        return Ok(sums);
    }
    let mine: Vec<usize> = share(settings.shard, rows.len()).collect();
    let lengths: Vec<usize> = rows.lengths().collect();
    let left = mine.iter().skip(sums.about.next).map(|i| lengths[*i]).sum();
    let fitted = OverText::Fit { layers: sums.about.layers.len() };
    progress.needs(|| cost_over(model, left, settings.tokens, fitted))?;
    let steps = |i: &usize| steps_of(model, lengths[*i], settings.skip, &sums.about.layers);
    progress.expect(mine.iter().map(steps).sum());
    progress.step(mine.iter().take(sums.about.next).map(steps).sum())?;
    let mut saved = Instant::now();
    let keep = |sums: &Sums| kept.map_or(Ok(()), |path| sums.save(path));
    while let Some(&row) = mine.get(sums.about.next) {
        let ids = rows.row(row)?;
        if positions(ids.len(), settings.skip).is_some() {
            // Of a prompt that is not done nothing is taken in.
            let found = match jacobian(model.network(), &ids, settings.skip, &sums.about.layers, progress) {
                Ok(found) => found,
                Err(e) => {
                    if matches!(e, Error::Cancelled) {
                        keep(&sums)?;
                    }
                    return Err(e);
                }
            };
            // The same halves in shards as in one run.
            let half = row % 2;
            // The first layer on the way back is the last.
            for (layer, j) in sums.about.layers.iter().zip(&found).rev() {
                finite_values(j, || format!("the Jacobian of layer {layer} on prompt {row}"))?;
            }
            for (layer, j) in sums.about.layers.iter().zip(found) {
                if let Some(sum) = sums.halves[half].get_mut(layer) {
                    sum.par_iter_mut().zip(&j).for_each(|(s, v)| *s += v);
                }
            }
            sums.about.counts[half] += 1;
        }
        sums.about.next += 1;
        if saved.elapsed() > KEEP {
            keep(&sums)?;
            saved = Instant::now();
        }
        each(&sums);
    }
    sums.about.done = true;
    keep(&sums)?;
    Ok(sums)
}

/// The layers that a lens is fitted for, sorted; all but the last by default.
///
/// # Errors
/// Layers that the model lacks, or the last one, whose lens is the identity.
pub fn layers_of(model: &Model, asked: &[usize]) -> Result<Vec<usize>> {
    let n = model.config.n_layers;
    if n < 2 {
        return Err(Error::request(format!(
            "{} has a single layer, and the last layer needs no lens; choose a deeper model",
            model.config.name
        )));
    }
    if let Some(bad) = asked.iter().find(|l| **l >= n - 1) {
        return Err(Error::request(format!(
            "a lens cannot be fitted for layer {bad}; give layers from 0 to {}: the last one is read as it is",
            n - 2
        )));
    }
    let mut layers = if asked.is_empty() { (0..n - 1).collect() } else { asked.to_vec() };
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// The positions V of a prompt: all but the first `skip` and the last.
fn positions(len: usize, skip: usize) -> Option<(usize, usize)> {
    (len > skip.saturating_add(1)).then(|| (skip, len - 1))
}

/// Cotangents that go back together.
pub fn batch(network: Network<'_>, rows: usize) -> usize {
    let c = network.config;
    let most = (OPERATIONS / (2 * layer_weights(c)).max(1)).min(ROWS);
    (most / rows.max(1)).clamp(1, c.d_model)
}

/// Steps of progress of one prompt: layers that a batch goes back through.
fn steps_of(model: &Model, len: usize, skip: usize, layers: &[usize]) -> u64 {
    let Some((start, end)) = positions(len, skip) else { return 0 };
    let deep = model.config.n_layers - layers.first().copied().unwrap_or(0) - 1;
    (model.config.d_model.div_ceil(batch(model.network(), end - start)) * deep) as u64
}

/// J of one prompt at each of `layers` (sorted), [d_model out, d_model in] row by row.
///
/// # Errors
/// A prompt of no more than `skip` + 1 tokens; as a run of the model; [`Error::Cancelled`].
pub fn jacobian(
    network: Network<'_>,
    ids: &[u32],
    skip: usize,
    layers: &[usize],
    progress: &Progress,
) -> Result<Vec<Vec<f32>>> {
    jacobian_rows(network, ids, skip, layers, 0..network.config.d_model, progress)
}

/// Some rows of J at each of `layers` (sorted), [rows, d_model in] row by row.
///
/// # Errors
/// As [`jacobian`].
pub fn jacobian_rows(
    network: Network<'_>,
    ids: &[u32],
    skip: usize,
    layers: &[usize],
    wanted: Range<usize>,
    progress: &Progress,
) -> Result<Vec<Vec<f32>>> {
    let (start, end) = positions(ids.len(), skip).ok_or_else(|| {
        Error::request(format!("a prompt of {} tokens has none after the first {skip} and before the last", ids.len()))
    })?;
    let c = network.config;
    let Some(&lowest) = layers.first() else { return Ok(Vec::new()) };
    let rows = end - start;
    let back = Pullback::along(network, ids, start, end, lowest + 1, progress)?;
    let size = batch(network, rows);
    let firsts: Vec<usize> = wanted.clone().step_by(size).collect();
    // Batches go back side by side: what of a batch's work is no product, and too small to be split, takes all cores so.
    let parts = firsts
        .par_iter()
        .with_max_len(1)
        .map(|first| together(&back, layers, *first..(first + size).min(wanted.end), progress))
        .collect::<Result<Vec<_>>>()?;
    let mut found = vec![Vec::with_capacity(wanted.len() * c.d_model); layers.len()];
    for part in parts {
        found.iter_mut().zip(part).for_each(|(all, some)| all.extend(some));
    }
    Ok(found)
}

/// The rows of J whose cotangents go back together, at each of `layers`, [rows, d_model in] row by row.
fn together(back: &Pullback<'_>, layers: &[usize], wanted: Range<usize>, progress: &Progress) -> Result<Vec<Vec<f32>>> {
    let (rows, lowest) = (back.rows(), layers.first().copied().unwrap_or(0));
    let (_, d) = back.resid_final.dims2()?;
    let count = wanted.len();
    let mut found = vec![vec![0f32; count * d]; layers.len()];
    let mut seeds = vec![0f32; count * rows * d];
    for (i, seed) in seeds.chunks_exact_mut(d).enumerate() {
        seed[wanted.start + i / rows] = 1.0;
    }
    let mut g = Tensor::from_vec(seeds, (count * rows, d), &candle_core::Device::Cpu)?;
    for layer in (lowest..back.n_layers()).rev() {
        if let Ok(at) = layers.binary_search(&layer) {
            with_values(&g.contiguous()?, |g| mean(g, rows, d, &mut found[at]))?;
        }
        if layer > lowest {
            g = back.block(layer, g)?;
            progress.step(1)?;
        }
    }
    Ok(found)
}

/// The means of each `rows` rows of g [n · rows, d], into target [n, d].
fn mean(g: &[f32], rows: usize, d: usize, target: &mut [f32]) {
    target.par_chunks_exact_mut(d).zip(g.par_chunks_exact(rows * d)).for_each(|(target, g)| {
        for row in g.chunks_exact(d) {
            target.iter_mut().zip(row).for_each(|(t, v)| *t += v);
        }
        target.iter_mut().for_each(|t| *t /= rows as f32);
    });
}
