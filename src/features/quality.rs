//! How good a dictionary is, on text that it was not trained on: sparsity, reconstruction, and what the model loses
//! when it has to work with the reconstruction [SAEBench; DEFINITIONS as in SAELens' evaluations].

use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::engine::kernels::with_values;
use crate::engine::logits::summarise;
use crate::engine::{Capture, Hooks, NoHooks, Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::features::dictionary::place::Place;
use crate::features::dictionary::set::DictionarySet;
use crate::features::harvest::{PASS, activations, run_to};
use crate::features::rows::Rows;
use crate::features::train::activations::Table;
use crate::model::Model;
use crate::progress::Progress;
use crate::table::table;

/// Sums over positions, from which the averages are made.
#[derive(Clone, Debug, Default)]
struct Sums {
    n: f64,
    active: f64,
    /// Σ‖y − ŷ‖², Σ‖y‖², Σ cosine.
    residual: f64,
    squares: f64,
    cosine: f64,
    mean: Vec<f64>,
}

impl Sums {
    fn add(&mut self, y: &[f32], recon: &[f32], active: usize) {
        self.mean.resize(y.len(), 0.0);
        let (mut residual, mut yy, mut rr, mut yr) = (0f64, 0f64, 0f64, 0f64);
        for ((y, r), m) in y.iter().zip(recon).zip(&mut self.mean) {
            let (y, r) = (f64::from(*y), f64::from(*r));
            residual += (y - r) * (y - r);
            yy += y * y;
            rr += r * r;
            yr += y * r;
            *m += y;
        }
        self.n += 1.0;
        self.active += active as f64;
        self.residual += residual;
        self.squares += yy;
        self.cosine += if yy > 0.0 && rr > 0.0 { yr / (yy * rr).sqrt() } else { 0.0 };
    }

    fn reconstruction(&self) -> Reconstruction {
        let n = self.n.max(1.0);
        let total = self.squares - self.mean.iter().map(|m| m * m / n).sum::<f64>();
        let d = self.mean.len().max(1) as f64;
        Reconstruction {
            positions: self.n as usize,
            l0: (self.active / n) as f32,
            explained_variance: if total > 0.0 { (1.0 - self.residual / total) as f32 } else { f32::NAN },
            mse: (self.residual / (n * d)) as f32,
            cosine: (self.cosine / n) as f32,
            mean_length: (self.squares / n).sqrt() as f32,
        }
    }
}

/// How well some positions are reconstructed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconstruction {
    pub positions: usize,
    /// Mean number of active features.
    pub l0: f32,
    /// 1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖².
    pub explained_variance: f32,
    /// Mean squared error of a coordinate.
    pub mse: f32,
    pub cosine: f32,
    /// Root mean squared length of what is reconstructed.
    pub mean_length: f32,
}

/// Length, in medians, from which a position counts as an outlier.
pub const OUTLIER: f32 = 4.0;

/// Bins of the density histogram, in powers of ten.
pub const DENSITY_FROM: f32 = -6.0;
pub const DENSITY_BINS: usize = 24;

/// A dictionary's quality.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    pub tokens: usize,
    /// Over all positions but each row's first.
    pub after_first: Reconstruction,
    /// The same without positions that are longer than [`OUTLIER`] times the median: some models have outliers at later
    /// positions too, and a few of them make up most of the variance.
    pub typical: Reconstruction,
    /// Over the first positions alone: outliers in many models, which would flatter or spoil the figure above.
    pub first: Reconstruction,
    /// Features that were active nowhere, as a share.
    pub dead: f32,
    /// Features by the logarithm (base 10) of the share of positions where they are active: [`DENSITY_BINS`] bins from
    /// [`DENSITY_FROM`] to 0; dead ones are in none.
    pub density: Vec<usize>,
    /// Loss of the model, nats: plain; with the reconstruction in place (after each row's first position); with
    /// nothing there.
    pub ce: f32,
    pub ce_reconstructed: f32,
    pub ce_ablated: f32,
    /// (CE_ablated − CE_reconstructed) / (CE_ablated − CE).
    pub ce_score: f32,
    /// Mean cosine of encoder columns and decoder rows, where they have the same width.
    pub encoder_decoder_cosine: Option<f32>,
    pub seconds: f64,
}

/// What takes the place of a site's value.
enum Instead<'a> {
    Reconstruction(&'a Dictionary),
    Nothing,
}

/// Puts something else in a site's place, at all positions but each row's first.
struct Splice<'a> {
    model: &'a Model,
    input: Place,
    output: Place,
    instead: Instead<'a>,
    made: Option<Tensor>,
}

impl Hooks for Splice<'_> {
    fn wants(&self, site: Site) -> bool {
        site == self.input.site || site == self.output.site
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        if site == self.input.site
            && let Instead::Reconstruction(dictionary) = &self.instead
        {
            let x = self.input.rows(self.model, &value)?;
            self.made = Some(dictionary.replacement(&x, &Progress::new())?.1);
        }
        if site != self.output.site {
            return Ok(value);
        }
        let len = value.dim(1)?;
        let mut data = value.flatten_all()?.to_vec1::<f32>()?;
        let width = self.output.width(&self.model.config);
        let made = match (&self.made, &self.instead) {
            (Some(t), _) => Some(t.flatten_all()?.to_vec1::<f32>()?),
            (None, Instead::Nothing) => None,
            (None, Instead::Reconstruction(d)) => {
                return Err(Error::request(format!("{} reads {} after it writes {}", d.name, self.input, self.output)));
            }
        };
        for (r, row) in data.chunks_exact_mut(width).enumerate().filter(|(r, _)| r % len > 0) {
            match &made {
                Some(m) => row.copy_from_slice(&m[r * width..(r + 1) * width]),
                None => row.fill(0.0),
            }
        }
        Ok(Tensor::from_vec(data, value.shape().clone(), value.device())?)
    }
}

/// Sum of next-token losses of rows of equal length, nats, and their number.
fn loss(model: &Model, rows: &[&[u32]], hooks: &mut dyn Hooks, progress: &Progress) -> Result<(f64, usize)> {
    let last = model.config.n_layers - 1;
    let resid = run_to(model, rows, last, hooks, progress)?;
    let len = rows[0].len();
    let width = model.config.d_model;
    let resid = resid.narrow(1, 0, len - 1)?.contiguous()?.reshape((rows.len() * (len - 1), width))?;
    let asked = |r: usize| vec![rows[r / (len - 1)][r % (len - 1) + 1]];
    // The caller counts tokens.
    let quiet = Progress::new();
    let summary = summarise(model.network(), &resid, 0, asked, &mut NoHooks, &quiet)?;
    progress.check()?;
    let sum = summary.iter().filter_map(|r| r.asked.first().map(|(l, _)| f64::from(r.log_sum - l))).sum();
    Ok((sum, summary.len()))
}

impl Quality {
    /// The figures as a table.
    pub fn report(&self) -> String {
        let q = self;
        let of = |name: &str, r: &Reconstruction| {
            vec![
                name.to_owned(),
                r.positions.to_string(),
                format!("{:.1}", r.l0),
                format!("{:.4}", r.explained_variance),
                format!("{:.4}", r.mse),
                format!("{:.4}", r.cosine),
                format!("{:.2}", r.mean_length),
            ]
        };
        let header = ["positions", "n", "L0", "explained variance", "MSE", "cosine", "length"];
        let mut text = table(
            &header,
            &[of("after the first", &q.after_first), of("without outliers", &q.typical), of("the first", &q.first)],
        );
        text.push_str(&format!(
            "\n\nCE-loss score {:.4}: {:.4} nats plain, {:.4} reconstructed, {:.4} with nothing there\n{:.2} % of the features are dead on {} tokens",
            q.ce_score,
            q.ce,
            q.ce_reconstructed,
            q.ce_ablated,
            100.0 * q.dead,
            q.tokens
        ));
        if let Some(c) = q.encoder_decoder_cosine {
            text.push_str(&format!(" · mean encoder–decoder cosine {c:.3}"));
        }
        text.push_str(&format!(" · {:.1} s", q.seconds));
        text
    }
}

/// CE-loss score alone, on rows of text.
///
/// # Errors
/// As [`evaluate`].
pub fn ce_score(model: &Model, dictionary: &Dictionary, rows: &Rows, progress: &Progress) -> Result<f32> {
    let places = dictionary.check(&model.config)?;
    let (ce, reconstructed, ablated) = losses(model, dictionary, places, rows, progress, 0)?;
    Ok((ablated - reconstructed) / (ablated - ce))
}

fn losses(
    model: &Model,
    dictionary: &Dictionary,
    (input, output): (Place, Place),
    rows: &Rows,
    progress: &Progress,
    units: u64,
) -> Result<(f32, f32, f32)> {
    if output.mlp_input {
        return Err(Error::request(format!(
            "what {output} holds can be read but not replaced; judge a dictionary that writes blocks.{}.hook_mlp_out",
            output.layer()
        )));
    }
    let (mut sums, mut n) = ([0f64; 3], 0);
    for batch in rows.batches(PASS) {
        let batch = rows.some(&batch)?;
        let some = batch.rows();
        let splice = |instead| Splice { model, input, output, instead, made: None };
        let plain = loss(model, &some, &mut NoHooks, progress)?;
        let with = loss(model, &some, &mut splice(Instead::Reconstruction(dictionary)), progress)?;
        let without = loss(model, &some, &mut splice(Instead::Nothing), progress)?;
        for (s, l) in sums.iter_mut().zip([plain, with, without]) {
            *s += l.0;
        }
        n += plain.1;
        progress.step(units * batch.tokens() as u64)?;
    }
    let mean = |s: f64| (s / n.max(1) as f64) as f32;
    Ok((mean(sums[0]), mean(sums[1]), mean(sums[2])))
}

/// What activations alone say of a dictionary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OnActivations {
    pub all: Reconstruction,
    /// Features that were active nowhere, as a share.
    pub dead: f32,
    pub seconds: f64,
}

/// Positions that are judged at a time.
const JUDGED: usize = 1024;

/// Judges a dictionary on activations [n, d_in], and what a transcoder should write there; without a text there is no loss
/// of the model's.
///
/// # Errors
/// Tables of other widths or lengths; [`Error::Cancelled`].
pub fn judge(
    dictionary: &Dictionary,
    input: &Table,
    target: Option<&Table>,
    progress: &Progress,
) -> Result<OnActivations> {
    let started = Instant::now();
    let (n, target) = (input.rows(), target.unwrap_or(input));
    if (input.width(), target.width(), target.rows()) != (dictionary.d_in, dictionary.d_out, n) {
        return Err(Error::request(format!(
            "{} reads vectors of {} numbers and writes {}; the activations are [{n}, {}] and [{}, {}]",
            dictionary.name,
            dictionary.d_in,
            dictionary.d_out,
            input.width(),
            target.rows(),
            target.width()
        )));
    }
    progress.expect(n as u64);
    let (mut sums, mut fired) = (Sums::default(), vec![false; dictionary.d_sae]);
    for from in (0..n).step_by(JUDGED) {
        let (x, y) = (input.tensor(from, from + JUDGED)?, target.tensor(from, from + JUDGED)?);
        let (acts, made) = dictionary.replacement(&x, progress)?;
        with_values(&y.contiguous()?, |y| {
            with_values(&made.contiguous()?, |r| {
                for (i, (y, r)) in y.chunks_exact(dictionary.d_out).zip(r.chunks_exact(dictionary.d_out)).enumerate() {
                    sums.add(y, r, acts.starts[i + 1] - acts.starts[i]);
                    acts.row(i).for_each(|(f, _)| fired[f as usize] = true);
                }
            })
        })??;
        progress.step(x.dim(0)? as u64)?;
    }
    let dead = fired.iter().filter(|f| !**f).count() as f32 / fired.len().max(1) as f32;
    Ok(OnActivations { all: sums.reconstruction(), dead, seconds: started.elapsed().as_secs_f64() })
}

/// Judges a dictionary on rows of text. The loss is measured on the first `loss_tokens` of them.
///
/// # Errors
/// A dictionary that does not fit the model, forward passes, or [`Error::Cancelled`].
pub fn evaluate(
    model: &Model,
    dictionary: &Dictionary,
    rows: &Rows,
    loss_tokens: usize,
    progress: &Progress,
) -> Result<Quality> {
    let started = Instant::now();
    if dictionary.shares_its_site() {
        return Err(Error::request(format!(
            "{} is one layer of a cross-layer transcoder: features of earlier layers write at its site as well, so that \
             its own reconstruction cannot be judged alone",
            dictionary.path.display()
        )));
    }
    let places @ (input, output) = dictionary.check(&model.config)?;
    let some = rows.reaching(loss_tokens);
    // Three passes for each token whose loss is measured.
    progress.expect((rows.tokens() + 3 * some.tokens()) as u64);
    let (mut after, mut typical, mut first) = (Sums::default(), Sums::default(), Sums::default());
    // Of the first pass: squared lengths differ little between texts, outliers a hundredfold.
    let mut median: Option<f32> = None;
    let mut fired = vec![0u64; dictionary.d_sae];
    for batch in rows.batches(PASS) {
        let these = rows.some(&batch)?;
        let len = these.len;
        let values = activations(model, &these.rows(), &[input, output], progress)?;
        let (acts, recon) = dictionary.replacement(&values[0], progress)?;
        let target = values[1].contiguous()?;
        let d = dictionary.d_out;
        let square = |y: &[f32]| y.iter().map(|v| v * v).sum::<f32>();
        with_values(&target, |y| {
            let border = OUTLIER
                * OUTLIER
                * *median.get_or_insert_with(|| {
                    let mut all: Vec<f32> =
                        y.chunks_exact(d).enumerate().filter(|(i, _)| i % len > 0).map(|(_, y)| square(y)).collect();
                    all.sort_by(f32::total_cmp);
                    all.get(all.len() / 2).copied().unwrap_or(f32::INFINITY)
                });
            with_values(&recon, |r| {
                for (i, (y, r)) in y.chunks_exact(d).zip(r.chunks_exact(d)).enumerate() {
                    let active = acts.starts[i + 1] - acts.starts[i];
                    if i % len == 0 {
                        first.add(y, r, active);
                        continue;
                    }
                    after.add(y, r, active);
                    if square(y) <= border {
                        typical.add(y, r, active);
                    }
                    acts.row(i).for_each(|(f, _)| fired[f as usize] += 1);
                }
            })
        })??;
        progress.step(these.tokens() as u64)?;
    }
    if after.n == 0.0 {
        return Err(Error::request("the text has no position after a first one; give longer text"));
    }
    let (ce, ce_reconstructed, ce_ablated) = losses(model, dictionary, places, &some, progress, 3)?;
    let mut density = vec![0usize; DENSITY_BINS];
    for n in fired.iter().filter(|n| **n > 0) {
        let log = (*n as f64 / after.n).log10() as f32;
        let bin = ((log - DENSITY_FROM) / -DENSITY_FROM * DENSITY_BINS as f32).max(0.0) as usize;
        density[bin.min(DENSITY_BINS - 1)] += 1;
    }
    let cosine = dictionary.encoder_decoder_cosine()?.map(|c| c.iter().sum::<f32>() / c.len() as f32);
    Ok(Quality {
        tokens: rows.tokens(),
        after_first: after.reconstruction(),
        typical: typical.reconstruction(),
        first: first.reconstruction(),
        dead: fired.iter().filter(|n| **n == 0).count() as f32 / fired.len() as f32,
        density,
        ce,
        ce_reconstructed,
        ce_ablated,
        ce_score: (ce_ablated - ce_reconstructed) / (ce_ablated - ce),
        encoder_decoder_cosine: cosine,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// How well a dictionary reconstructs rows of text, over all positions but each row's first.
///
/// # Errors
/// A dictionary that does not fit the model, and forward passes.
pub fn reconstruction(
    model: &Model,
    dictionary: &Dictionary,
    rows: &Rows,
    progress: &Progress,
) -> Result<Reconstruction> {
    let (input, output) = dictionary.check(&model.config)?;
    let mut sums = Sums::default();
    for batch in rows.batches(PASS) {
        progress.check()?;
        let batch = rows.some(&batch)?;
        let values = activations(model, &batch.rows(), &[input, output], progress)?;
        let (acts, recon) = dictionary.replacement(&values[0], progress)?;
        let (target, d) = (values[1].contiguous()?, dictionary.d_out);
        with_values(&target, |y| {
            with_values(&recon, |r| {
                for (i, (y, r)) in y.chunks_exact(d).zip(r.chunks_exact(d)).enumerate() {
                    if !i.is_multiple_of(batch.len) {
                        sums.add(y, r, acts.starts[i + 1] - acts.starts[i]);
                    }
                }
            })
        })??;
    }
    Ok(sums.reconstruction())
}

/// How well a set reconstructs each layer's output in one row of tokens, over all positions but the first: cross-layer
/// features count at every layer that they write. `each` takes what is found layer by layer; no layer's dictionary is held
/// while the next is read.
///
/// # Errors
/// A set that does not fit the model, and forward passes.
pub fn set_reconstruction<T>(
    model: &Model,
    set: &DictionarySet,
    ids: &[u32],
    progress: &Progress,
    mut each: impl FnMut(&Arc<Dictionary>, Reconstruction) -> Result<T>,
) -> Result<Vec<T>> {
    use SiteKind::{Ln2Normalized, MlpOut, MlpResult, ResidMid, ResidPre};
    let c = &model.config;
    set.check(c)?;
    let mut capture = Capture::kinds(c, &[Ln2Normalized, MlpOut, MlpResult, ResidMid, ResidPre]);
    run_to(model, &[ids], c.n_layers - 1, &mut capture, progress)?;
    let value = |place: Place| -> Result<Tensor> {
        let missing = || Error::request(format!("the run passes no {place}"));
        Ok(place.rows(model, capture.values.get(&place.site).ok_or_else(missing)?)?.contiguous()?)
    };
    // What earlier layers write to each.
    let mut earlier: Vec<Vec<f32>> = vec![Vec::new(); c.n_layers];
    let mut out = Vec::new();
    for layer in 0..c.n_layers {
        progress.check()?;
        let (dictionary, input, output) = set.layer(layer, c, progress)?;
        let d = dictionary.d_out;
        let (acts, recon) = dictionary.replacement(&value(input)?, progress)?;
        let mut recon: Vec<f32> = recon.flatten_all()?.to_vec1()?;
        recon.iter_mut().zip(&earlier[layer]).for_each(|(r, e)| *r += e);
        if !dictionary.later.is_empty() {
            let mut active = acts.features.clone();
            active.sort_unstable();
            active.dedup();
            for feature in active {
                let rows = dictionary.later.of(feature as usize)?;
                for (k, row) in rows.iter().enumerate().take(c.n_layers - layer - 1) {
                    let sum = &mut earlier[layer + 1 + k];
                    sum.resize(ids.len() * d, 0.0);
                    for (pos, sum) in sum.chunks_exact_mut(d).enumerate() {
                        let a = acts.at(pos, feature);
                        if a != 0.0 {
                            sum.iter_mut().zip(row).for_each(|(s, v)| *s += a * v);
                        }
                    }
                }
            }
        }
        let mut sums = Sums::default();
        with_values(&value(output)?, |y| {
            for (i, (y, r)) in y.chunks_exact(d).zip(recon.chunks_exact(d)).enumerate().skip(1) {
                sums.add(y, r, acts.starts[i + 1] - acts.starts[i]);
            }
        })?;
        out.push(each(&dictionary, sums.reconstruction())?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_hand() {
        let mut s = Sums::default();
        s.add(&[1.0, 0.0], &[1.0, 0.0], 2);
        s.add(&[-1.0, 2.0], &[-1.0, 1.0], 4);
        let r = s.reconstruction();
        // Residual 1; mean (0, 1), total 1 + 1 + 1 + 1 = 4.
        assert_eq!((r.l0, r.explained_variance, r.mse), (3.0, 0.75, 0.25));
        // cos((−1,2),(−1,1)) = 3/√10.
        assert!((r.cosine - (1.0 + 3.0 / 10f32.sqrt()) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn one_layer_of_a_large_set_is_held_at_a_time() {
        let model = Model::open("text").unwrap();
        let set = DictionarySet::open("text-transcoders", &Progress::new()).unwrap().as_large();
        let mut last: std::sync::Weak<Dictionary> = std::sync::Weak::new();
        let each = |dictionary: &Arc<Dictionary>, found: Reconstruction| {
            assert!(last.upgrade().is_none(), "the layer before {} is still held", dictionary.name);
            last = Arc::downgrade(dictionary);
            Ok(found.positions)
        };
        let ids: Vec<u32> = (5..25).collect();
        assert_eq!(set_reconstruction(&model, &set, &ids, &Progress::new(), each).unwrap(), [19; 3]);
    }
}
