//! Computes the gradients of a metric with respect to every site, from one backward pass.
//!
//! At each site a zero is added that is a variable of its own (a probe). It does not change the run, and its gradient
//! is the gradient of the site. Weights are constants, so that the pass costs about as much as two plain ones.

use std::collections::{BTreeMap, HashSet};
use std::mem::take;

use candle_core::{Tensor, Var};

use super::forward::{Freeze, Prepared, all_finite};
use super::hooks::Hooks;
use super::site::{Site, SiteKind};
use super::trace::Trace;
use crate::error::{Error, Result};
use crate::memory::{afford, piece};
use crate::model::Network;
use crate::model::config::ModelConfig;
use crate::progress::Progress;

/// Gradients of one metric at chosen sites.
pub struct Gradients {
    values: BTreeMap<Site, Tensor>,
    /// The value of the metric.
    pub metric: f32,
    /// The parts that were held constant.
    pub frozen: Freeze,
}

impl Gradients {
    /// Returns the gradient at a site, in the shape of the site's value without the batch axis.
    ///
    /// # Errors
    /// The site was not asked for.
    pub fn get(&self, site: Site) -> Result<&Tensor> {
        self.values.get(&site).ok_or_else(|| Error::failed(format!("no gradient was computed at {site}")))
    }
}

/// The most memory, in bytes, that backward passes which go together take.
const TOGETHER: usize = 8 << 30;

/// Estimates the bytes that a pass over `n` tokens takes, with gradients at sites of these kinds. Where there is memory for
/// it every operation keeps its result; otherwise only the stream before each layer is kept, and each layer is computed
/// again on the way back (gradient checkpointing [Chen et al. 2016]).
pub fn bytes_for(config: &ModelConfig, n: usize, kinds: &[SiteKind], keep: &[SiteKind], freeze: Freeze) -> usize {
    needed(config, n, kinds, keep, freeze).0
}

/// Those bytes, and whether every operation keeps its result.
fn needed(config: &ModelConfig, n: usize, kinds: &[SiteKind], keep: &[SiteKind], freeze: Freeze) -> (usize, bool) {
    let layer = layer_bytes(config, n, kinds, freeze);
    let given = handed_back(config, n, kinds, keep);
    let whole = config.n_layers * layer + given;
    let keeps = whole <= piece(TOGETHER);
    (if keeps { whole } else { layer + given + 4 * config.n_layers * n * config.d_model }, keeps)
}

/// Bytes of the gradients and values of all layers that stay when the pass is over.
fn handed_back(config: &ModelConfig, n: usize, kinds: &[SiteKind], keep: &[SiteKind]) -> usize {
    let size = |kind: &SiteKind| match kind {
        // Each query head can have a key and a value of its own.
        SiteKind::K | SiteKind::V | SiteKind::RotK => n * config.n_heads * config.d_head,
        kind => Site::new(*kind, 0).shape(config, n).iter().product(),
    };
    4 * config.n_layers * kinds.iter().chain(keep).map(size).sum::<usize>()
}

fn layer_bytes(config: &ModelConfig, n: usize, kinds: &[SiteKind], freeze: Freeze) -> usize {
    // Each head keeps scores, mask, the steps of the softmax, their gradients, and what is on its way between them: as
    // measured. A probe of scores or patterns doubles two of them.
    let probed = kinds.iter().filter(|k| matches!(k, SiteKind::Pattern | SiteKind::AttnScores)).count();
    let maps = if freeze.patterns { 7 } else { 14 } + 2 * probed;
    let rows = 28 * config.d_model + 8 * config.d_mlp + 16 * config.n_heads * config.d_head;
    4 * n * (maps * config.n_heads * n + rows)
}

struct Probe<'a> {
    kinds: HashSet<SiteKind>,
    variables: BTreeMap<Site, Var>,
    /// Variables are added; otherwise the run is a plain one.
    tracks: bool,
    /// The kinds whose values are kept as well.
    keep: &'a [SiteKind],
    values: BTreeMap<Site, Tensor>,
    /// The value that replaces the embedding.
    embedding: Option<&'a Tensor>,
}

impl Hooks for Probe<'_> {
    fn wants(&self, site: Site) -> bool {
        let replaced = site.kind == SiteKind::Embed && self.embedding.is_some();
        replaced || self.kinds.contains(&site.kind) || self.keep.contains(&site.kind)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        let value = match self.embedding {
            Some(other) if site.kind == SiteKind::Embed => other.clone(),
            _ => value,
        };
        if self.keep.contains(&site.kind) {
            self.values.insert(site, value.detach());
        }
        if !self.tracks || !self.kinds.contains(&site.kind) {
            return Ok(value);
        }
        let variable = Var::zeros(value.shape(), value.dtype(), value.device())?;
        let probed = (value + variable.as_tensor())?;
        self.variables.insert(site, variable);
        Ok(probed)
    }
}

/// The runs along which is differentiated, and the sites.
#[derive(Clone, Copy)]
pub struct Along<'a> {
    pub network: Network<'a>,
    pub ids: &'a [u32],
    /// Token embeddings [run, pos, d_model] that replace those of the prompt.
    pub embeddings: Option<&'a Tensor>,
    pub kinds: &'a [SiteKind],
    /// The kinds whose values are kept as well.
    pub keep: &'a [SiteKind],
    pub freeze: Freeze,
    /// Gives every query head a key and a value of its own, see [`Prepared::per_head_kv`].
    pub per_head_kv: bool,
    pub pos: usize,
}

/// The gradients and values of several runs, each with the run's axis first.
pub struct Passes {
    pub gradients: BTreeMap<Site, Tensor>,
    pub values: BTreeMap<Site, Tensor>,
    /// The metric of each run.
    pub metrics: Vec<f32>,
}

impl Passes {
    pub fn gradient(&self, site: Site) -> Result<&Tensor> {
        self.gradients.get(&site).ok_or_else(|| Error::failed(format!("no gradient was computed at {site}")))
    }

    pub fn value(&self, site: Site) -> Result<&Tensor> {
        self.values.get(&site).ok_or_else(|| Error::failed(format!("no value was kept at {site}")))
    }
}

/// Returns the number of runs that fit a backward pass together.
pub fn runs_at_once(along: &Along<'_>) -> usize {
    let one = bytes_for(along.network.config, along.ids.len(), along.kinds, along.keep, along.freeze);
    (piece(TOGETHER) / one.max(1)).max(1)
}

/// A layer that the forward pass has behind it.
struct Passed {
    /// The stream before it, [run, pos, d_model].
    input: Var,
    /// What it made of that with its probes, where its operations are kept.
    kept: Option<(Tensor, BTreeMap<Site, Var>)>,
}

/// Differentiates `metric`, a scalar function of the normalised final residual row [1, d_model] at a position, along
/// each run, with respect to all sites of the given kinds.
///
/// # Errors
/// It would not fit in memory, a position lies outside the prompt, or the metric has no gradient; [`Error::Cancelled`],
/// between two layers.
pub fn differentiate(
    along: &Along<'_>,
    metric: impl Fn(&Tensor) -> Result<Tensor>,
    progress: &Progress,
) -> Result<Passes> {
    let Along { network, ids, .. } = *along;
    if along.pos >= ids.len() {
        return Err(Error::request(format!("position {} is outside the prompt of {} tokens", along.pos, ids.len())));
    }
    let runs = along.embeddings.map_or(Ok(1), |e| e.dim(0))?;
    let (one, keeps) = needed(network.config, ids.len(), along.kinds, along.keep, along.freeze);
    let what = format!("gradients over {} tokens", ids.len());
    let instead = match (along.freeze.patterns, along.kinds.len()) {
        (false, _) => "shorten the prompt or freeze the attention patterns",
        (true, 0..=1) => "shorten the prompt",
        (true, _) => "shorten the prompt or ask for fewer sites",
    };
    afford(runs * one, &what, instead)?;
    passes(along, runs, keeps, metric, progress)
}

/// Goes forward layer by layer and back again; with `keeps`, nothing is computed twice.
fn passes(
    along: &Along<'_>,
    runs: usize,
    keeps: bool,
    metric: impl Fn(&Tensor) -> Result<Tensor>,
    progress: &Progress,
) -> Result<Passes> {
    let Along { network, ids, freeze, .. } = *along;
    network.check(ids)?;
    let mut probe = Probe {
        kinds: along.kinds.iter().copied().filter(|k| *k != SiteKind::Embed).collect(),
        variables: BTreeMap::new(),
        tracks: keeps,
        keep: along.keep,
        values: BTreeMap::new(),
        embedding: along.embeddings,
    };
    let prepared = Prepared::new(network.config, ids.len()).freezing(freeze).per_head_kv(along.per_head_kv);
    progress.expect(2 * network.config.n_layers as u64);
    let mut passed = Vec::with_capacity(network.config.n_layers);
    let mut resid = network.embed(&vec![ids; runs], &mut probe)?;
    for layer in 0..network.config.n_layers {
        progress.check()?;
        let input = Var::from_tensor(&resid)?;
        let from = if keeps { input.as_tensor().clone() } else { resid };
        let out = network.block(layer, from, &prepared, &mut probe)?;
        resid = out.detach();
        passed.push(Passed { input, kept: keeps.then(|| (out, take(&mut probe.variables))) });
        progress.step(1)?;
    }
    probe.tracks = true;
    let last = Var::from_tensor(&resid)?;
    let normalized = network.final_norm_frozen(last.as_tensor(), freeze.norms, &mut probe)?.narrow(1, along.pos, 1)?;
    let values = (0..runs)
        .map(|r| metric(&normalized.get(r)?)?.flatten_all()?.get(0).map_err(Error::from))
        .collect::<Result<Vec<_>>>()?;
    let mut gradients = BTreeMap::new();
    let end = Tensor::stack(&values, 0)?.sum_all()?;
    let n = network.config.n_layers;
    let mut gradient =
        back(&end, take(&mut probe.variables), (&last, Site::new(SiteKind::ResidPost, n - 1)), &mut gradients)?;
    for (layer, Passed { input, kept }) in passed.into_iter().enumerate().rev() {
        progress.check()?;
        let (out, variables) = match kept {
            Some(kept) => kept,
            None => {
                let out = network.block(layer, input.as_tensor().clone(), &prepared, &mut probe)?;
                (out, take(&mut probe.variables))
            }
        };
        // Its derivative by the layer's output is the gradient there.
        let input = (&input, Site::new(SiteKind::ResidPre, layer));
        gradient = back(&(out * gradient)?.sum_all()?, variables, input, &mut gradients)?;
        progress.step(1)?;
    }
    gradients.insert(Site::new(SiteKind::Embed, 0), gradient);
    let metrics = values.iter().map(|v| Ok(v.to_scalar()?)).collect::<Result<_>>()?;
    Ok(Passes { gradients, values: probe.values, metrics })
}

/// Adds the gradients of a scalar at some probes; returns that at the stream which it was computed from. From the metric
/// backwards, the first that is not finite is an error.
fn back(
    end: &Tensor,
    probes: BTreeMap<Site, Var>,
    (stream, at): (&Var, Site),
    gradients: &mut BTreeMap<Site, Tensor>,
) -> Result<Tensor> {
    let store = end.backward()?;
    // The metric does not depend on some sites, as on the last layer's queries at other positions.
    let of = |variable: &Var, site: Site| match store.get(variable.as_tensor()) {
        Some(gradient) => {
            let gradient = gradient.detach().contiguous()?;
            all_finite(&gradient, || format!("the gradient at {site}"))?;
            Ok::<_, Error>(gradient)
        }
        None => Ok(variable.as_tensor().zeros_like()?),
    };
    for (site, variable) in &probes {
        gradients.insert(*site, of(variable, *site)?);
    }
    of(stream, at)
}

/// Differentiates `metric`, a scalar function of the normalised final residual row [1, d_model] at `pos`, along
/// the run that `trace` is, with respect to all sites of the given kinds.
///
/// # Errors
/// The run is an edited one; as [`differentiate`].
pub fn gradients(
    trace: &Trace,
    kinds: &[SiteKind],
    freeze: Freeze,
    pos: usize,
    metric: impl Fn(&Tensor) -> Result<Tensor>,
    progress: &Progress,
) -> Result<Gradients> {
    if !trace.edits().is_empty() {
        return Err(Error::request("gradients are taken along a run without edits; switch them off"));
    }
    let along = Along {
        network: trace.model.network(),
        ids: &trace.ids,
        embeddings: None,
        kinds,
        keep: &[],
        freeze,
        per_head_kv: false,
        pos,
    };
    let passes = differentiate(&along, metric, progress)?;
    let values = passes.gradients.into_iter().map(|(s, g)| Ok((s, g.squeeze(0)?))).collect::<Result<_>>()?;
    Ok(Gradients { values, metric: passes.metrics.first().copied().unwrap_or(f32::NAN), frozen: freeze })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Model;

    /// Layers that are computed again on the way back give the gradients of layers that were kept.
    #[test]
    fn nothing_changes_where_little_is_kept() {
        let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families");
        for name in ["llama", "gpt2", "gemma3", "bloom", "gptj", "mixtral"] {
            let model = Model::open(families.join(name).to_str().expect("a path in UTF-8")).expect("a fixture opens");
            let ids: Vec<u32> = (0..9).map(|i| (i * 31 + 7) % model.config.d_vocab as u32).collect();
            let along = Along {
                network: model.network(),
                ids: &ids,
                embeddings: None,
                kinds: &[SiteKind::Pattern, SiteKind::Z, SiteKind::MlpOut, SiteKind::ResidPre],
                keep: &[SiteKind::ResidPre],
                freeze: Freeze::default(),
                per_head_kv: true,
                pos: 7,
            };
            let of = |keeps: bool| {
                passes(&along, 1, keeps, |row| Ok(row.narrow(1, 0, 3)?.sqr()?.sum_all()?), &Progress::new())
                    .expect("it has a gradient")
            };
            let (kept, again) = (of(true), of(false));
            assert!((kept.metrics[0] - again.metrics[0]).abs() <= 1e-5 * kept.metrics[0].abs(), "{name}");
            assert_eq!(kept.values.len(), again.values.len(), "{name}");
            assert!(kept.gradients.len() > 3 * model.config.n_layers, "{name}");
            for (site, gradient) in &kept.gradients {
                let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let (a, b) = (flat(gradient), flat(&again.gradients[site]));
                let most = a.iter().map(|x| x.abs()).fold(1e-6, f32::max);
                let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(a.len() == b.len() && worst <= 2e-5 * most, "{name} {site}: {worst} of {most}");
            }
            let (embed, first) = (Site::new(SiteKind::Embed, 0), Site::new(SiteKind::ResidPre, 0));
            let sum = |site| kept.gradients[&site].abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(sum(embed) > 0.0 && sum(embed) == sum(first), "{name}");
        }
    }
}
