//! Which features of a set are active in a run, how each reads the stream and what it writes, and what they leave out.

use candle_core::Tensor;

use super::linear::Linear;
use crate::engine::kernels::with_values;
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::Normalisation;
use crate::features::dictionary::set::DictionarySet;
use crate::features::{Dictionary, Place};
use crate::memory::available;
use crate::progress::Progress;

/// A feature at a position where it is active.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feature {
    pub layer: usize,
    pub pos: usize,
    pub feature: u32,
    pub activation: f32,
}

/// Everything that writes at one layer's output, position after position.
#[derive(Default)]
pub(super) struct Writers {
    /// [writer][d_model], what it writes in this run.
    pub rows: Vec<f32>,
    /// By writer its node.
    pub node: Vec<u32>,
    /// Position p has the writers `starts[p]..starts[p + 1]`.
    pub starts: Vec<usize>,
}

/// A layer's transcoder in the run.
pub(super) struct Layer {
    pub input: Place,
    pub output: Place,
    /// [d_in, d_out].
    pub skip: Option<Tensor>,
    pub writers: Writers,
}

/// The features of a set in a run.
pub(super) struct Active {
    /// By (layer, position, feature).
    pub features: Vec<Feature>,
    /// By feature: the direction of the stream that it reads, [feature][d_model].
    pub reads: Vec<f32>,
    pub layers: Vec<Layer>,
    /// Lengths of what is left out, [layer][position].
    pub error_norms: Vec<Vec<f32>>,
    /// By layer: the file that its dictionary is read from, and the sites that it writes.
    pub dictionaries: Vec<(String, Vec<Site>)>,
    pub warnings: Vec<String>,
}

/// What one feature writes at one layer's output.
struct Write {
    pos: usize,
    node: u32,
    row: Vec<f32>,
}

impl Active {
    /// Those of the layers below `below`; `silent` is the number of first positions whose features and errors are left out.
    ///
    /// # Errors
    /// A set that does not fit the model, or [`Error::Cancelled`].
    pub fn of(
        linear: &Linear<'_>,
        set: &DictionarySet,
        below: usize,
        silent: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let (trace, n, d) = (linear.trace, linear.n, linear.d);
        let c = &trace.model.config;
        set.check(c)?;
        let mut features = Vec::new();
        let mut reads = Vec::new();
        let (mut layers, mut dictionaries) = (Vec::new(), Vec::new());
        let mut warnings = Vec::new();
        let mut written: Vec<Vec<Write>> = (0..c.n_layers).map(|_| Vec::new()).collect();
        // What stands in for each layer's output so far, [layer][pos · d].
        let mut stand_in: Vec<Vec<f32>> = vec![Vec::new(); c.n_layers];
        let mut held = 0;
        let below = below.min(c.n_layers);
        progress.expect(below as u64);
        for layer in 0..below {
            progress.check()?;
            let (dictionary, input, output) = set.layer(layer, c, progress)?;
            warnings.extend(dictionary.warnings.iter().cloned());
            let x = values(linear, input)?;
            let acts = dictionary.encode(&x, progress)?;
            let own = stand_in_of(&dictionary, &x)?;
            add(&mut stand_in[layer], &own);
            let mut active: Vec<u32> = (silent..n).flat_map(|p| acts.row(p).map(|(f, _)| f)).collect();
            active.sort_unstable();
            active.dedup();
            let place = |f: u32| active.binary_search(&f).unwrap_or(0);
            let cells = (silent..n).map(|p| acts.row(p).count()).sum::<usize>();
            held += bytes(cells, active.len(), d, 1 + dictionary.later.len());
            fits(held, layer, below, available())?;
            let readers = readers(&dictionary, &active)?;
            let later: Vec<Vec<Vec<f32>>> =
                active.iter().map(|f| dictionary.later.of(*f as usize)).collect::<Result<_>>()?;
            for pos in silent..n {
                for (feature, activation) in acts.row(pos).filter(|(_, a)| *a != 0.0) {
                    let (at, node) = (place(feature), features.len() as u32);
                    features.push(Feature { layer, pos, feature, activation });
                    let mut row = readers[at * d..(at + 1) * d].to_vec();
                    linear.read(input, &mut row, pos);
                    reads.extend(row);
                    let mut write = |layer: usize, row: &[f32]| -> Result<()> {
                        let into = written.get_mut(layer).ok_or_else(|| {
                            Error::request(format!("{} writes beyond the last layer", dictionary.path.display()))
                        })?;
                        let row: Vec<f32> = row.iter().map(|v| v * activation).collect();
                        let sum = &mut stand_in[layer];
                        sum.resize(n * d, 0.0);
                        sum[pos * d..(pos + 1) * d].iter_mut().zip(&row).for_each(|(s, v)| *s += v);
                        into.push(Write { pos, node, row });
                        Ok(())
                    };
                    write(layer, &dictionary.direction(feature as usize)?)?;
                    for (k, row) in later[at].iter().enumerate() {
                        write(layer + 1 + k, row)?;
                    }
                }
            }
            let sites = (0..=dictionary.later.len()).map(|k| Site::new(output.site.kind, layer + k)).collect();
            dictionaries.push((set.layer_spec(layer).unwrap_or_default(), sites));
            layers.push(Layer { input, output, skip: dictionary.skip.clone(), writers: Writers::default() });
            progress.step(1)?;
        }
        if u32::try_from(features.len() + c.n_layers * n).is_err() {
            return Err(Error::request("the graph has more nodes than can be numbered; trace an earlier position"));
        }
        let mut error_norms = Vec::new();
        warnings.sort();
        warnings.dedup();
        for (layer, mut all) in written.into_iter().enumerate().take(below) {
            progress.check()?;
            let output: Vec<f32> = values(linear, layers[layer].output)?.flatten_all()?.to_vec1()?;
            let mut norms = vec![0f32; n];
            for (pos, norm) in norms.iter_mut().enumerate().skip(silent) {
                let at = pos * d..(pos + 1) * d;
                let row: Vec<f32> = output[at.clone()].iter().zip(&stand_in[layer][at]).map(|(o, r)| o - r).collect();
                *norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                all.push(Write { pos, node: (features.len() + layer * n + pos) as u32, row });
            }
            error_norms.push(norms);
            all.sort_by_key(|w| (w.pos, w.node));
            let writers = &mut layers[layer].writers;
            writers.starts = (0..=n).map(|p| all.partition_point(|w| w.pos < p)).collect();
            for write in all {
                writers.node.push(write.node);
                writers.rows.extend(write.row);
            }
        }
        Ok(Self { features, reads, layers, error_norms, dictionaries, warnings })
    }

    pub fn read(&self, feature: usize, d: usize) -> &[f32] {
        &self.reads[feature * d..(feature + 1) * d]
    }
}

/// Bytes that a layer's active features take: what each reads and writes, by cell, and for a while by feature.
fn bytes(cells: usize, features: usize, d: usize, layers: usize) -> u64 {
    let row = 4 * d as u64;
    (cells as u64 * (1 + layers as u64) + features as u64 * layers as u64) * row
}

/// Refuses what will not fit before it is made: layers to come are taken to be as active as those before.
///
/// # Errors
/// One sentence with what is needed and what is free.
fn fits(held: u64, layer: usize, n_layers: usize, free: Option<u64>) -> Result<()> {
    let whole = held / (layer as u64 + 1) * n_layers as u64;
    // What the layers before hold is not free any more.
    let before = held / (layer as u64 + 1) * layer as u64;
    match free {
        Some(free) if whole > free.saturating_add(before) => Err(Error::request(format!(
            "what the active features read and write would take about {:.1} GB, and {:.1} GB are free; trace an earlier position, \
             or use a set with fewer active features",
            whole as f64 / 1e9,
            free.saturating_add(before) as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// What the run holds at a place, [n, width].
pub(super) fn values(linear: &Linear<'_>, place: Place) -> Result<Tensor> {
    let trace = linear.trace;
    let value = trace.value(Site::new(place.site.kind, place.layer()))?.narrow(0, 0, linear.n)?.contiguous()?;
    Ok(place.rows(&trace.model, &value)?.contiguous()?)
}

/// What stands in for the output apart from the features: the decoder's bias and the skip path, [n · d_out].
fn stand_in_of(dictionary: &Dictionary, x: &Tensor) -> Result<Vec<f32>> {
    let n = x.dim(0)?;
    let mut all: Vec<f32> = dictionary.b_dec.iter().copied().cycle().take(n * dictionary.d_out).collect();
    if let Some(skip) = &dictionary.skip {
        add(&mut all, &x.matmul(skip)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

fn add(sum: &mut Vec<f32>, more: &[f32]) {
    sum.resize(more.len().max(sum.len()), 0.0);
    sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
}

/// Encoder columns, [feature][d_in]; without their mean where the dictionary takes the mean out of what it reads.
fn readers(dictionary: &Dictionary, features: &[u32]) -> Result<Vec<f32>> {
    let (d, all) = (dictionary.d_in, dictionary.d_sae);
    let mut out = vec![0f32; features.len() * d];
    with_values(&dictionary.w_enc.contiguous()?, |w| {
        for (i, row) in w.chunks_exact(all).enumerate().take(d) {
            features.iter().enumerate().for_each(|(k, f)| out[k * d + i] = row[*f as usize]);
        }
    })?;
    if dictionary.normalisation == Normalisation::Centre {
        for row in out.chunks_exact_mut(d.max(1)) {
            let mean = row.iter().sum::<f32>() / d as f32;
            row.iter_mut().for_each(|v| *v -= mean);
        }
    }
    Ok(out)
}

/// Whether a norm stands between a place where transcoders write and the stream.
pub(super) fn is_before_norm(place: Place) -> bool {
    place.site.kind == SiteKind::MlpResult
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_made() {
        // 10 cells of 4 features, each read once and written at two layers: (10 · 3 + 4 · 2) rows of 8 numbers.
        assert_eq!(bytes(10, 4, 8, 2), 38 * 32);
        // Half of the layers hold 4 GB, so that all will hold 8.
        let gb = 1_000_000_000;
        assert!(fits(4 * gb, 1, 4, Some(6 * gb)).is_ok() && fits(4 * gb, 1, 4, None).is_ok());
        let error = fits(4 * gb, 1, 4, Some(5 * gb)).unwrap_err();
        assert!(error.is_request() && error.to_string().contains("about 8.0 GB, and 7.0 GB are free"), "{error}");
    }
}
