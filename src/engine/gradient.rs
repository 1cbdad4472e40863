//! Computes the gradients of a metric with respect to every site, from one backward pass.
//!
//! At each site a zero is added that is a variable of its own (a probe). It does not change the run, and its gradient
//! is the gradient of the site. Weights are constants, so that the pass costs about as much as two plain ones.

use std::collections::{BTreeMap, HashSet};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, Var};

use super::forward::{Freeze, Prepared};
use super::hooks::{Chain, Hooks};
use super::kernels;
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

/// Estimates the bytes that the graph of a pass over `n` tokens holds, with gradients at sites of these kinds. Every
/// operation keeps its result.
pub fn bytes_for(config: &ModelConfig, n: usize, kinds: &[SiteKind], freeze: Freeze) -> usize {
    // Each head keeps scores, mask, the steps of the softmax, their gradients, and what is on its way between them: as
    // measured. A probe of the pattern doubles two of them.
    let maps = if freeze.patterns { 7 } else { 14 } + 2 * usize::from(kinds.contains(&SiteKind::Pattern));
    let rows = 28 * config.d_model + 8 * config.d_mlp + 16 * config.n_heads * config.d_head;
    4 * config.n_layers * n * (maps * config.n_heads * n + rows)
}

struct Probe<'a> {
    kinds: HashSet<SiteKind>,
    variables: BTreeMap<Site, Var>,
    /// The kinds whose values are kept as well.
    keep: &'a [SiteKind],
    values: BTreeMap<Site, Tensor>,
    /// The value that replaces the embedding.
    embedding: Option<&'a Tensor>,
}

impl Hooks for Probe<'_> {
    fn wants(&self, site: Site) -> bool {
        self.kinds.contains(&site.kind) || self.keep.contains(&site.kind)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        let value = match self.embedding {
            Some(other) if site.kind == SiteKind::Embed => other.clone(),
            _ => value,
        };
        if self.keep.contains(&site.kind) {
            self.values.insert(site, value.detach());
        }
        if !self.kinds.contains(&site.kind) {
            return Ok(value);
        }
        let variable = Var::zeros(value.shape(), value.dtype(), value.device())?;
        let probed = (value + variable.as_tensor())?;
        self.variables.insert(site, variable);
        Ok(probed)
    }
}

/// Counts and cancels a backward pass, which candle itself runs to its end: an operation that changes nothing stands
/// wherever the residual stream is read or written, and is asked for its gradient on the way back.
struct Watch<'a>(&'a Progress);

impl Hooks for Watch<'_> {
    fn wants(&self, site: Site) -> bool {
        matches!(site.kind, SiteKind::ResidPre | SiteKind::AttnOut | SiteKind::ResidMid | SiteKind::MlpOut)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        let layers = u64::from(site.kind == SiteKind::ResidPre);
        Ok(value.contiguous()?.apply_op1(Step { progress: self.0.clone(), layers })?)
    }
}

struct Step {
    progress: Progress,
    /// The layers that the backward pass has behind it here and had not at the step before.
    layers: u64,
}

impl CustomOp1 for Step {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(kernels::values(storage, layout)?.to_vec()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.progress.step(self.layers).map_err(candle_core::Error::wrap)?;
        Ok(Some(gradient.clone()))
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
    (piece(TOGETHER) / bytes_for(along.network.config, along.ids.len(), along.kinds, along.freeze).max(1)).max(1)
}

/// Differentiates `metric`, a scalar function of the normalised final residual row [1, d_model] at a position, along
/// each run, with respect to all sites of the given kinds.
///
/// # Errors
/// The graph would not fit in memory, a position lies outside the prompt, or the metric has no gradient;
/// [`Error::Cancelled`].
pub fn differentiate(
    along: &Along<'_>,
    metric: impl Fn(&Tensor) -> Result<Tensor>,
    progress: &Progress,
) -> Result<Passes> {
    let Along { network, ids, freeze, .. } = *along;
    if along.pos >= ids.len() {
        return Err(Error::request(format!("position {} is outside the prompt of {} tokens", along.pos, ids.len())));
    }
    let runs = along.embeddings.map_or(Ok(1), |e| e.dim(0))?;
    let bytes = runs * bytes_for(network.config, ids.len(), along.kinds, freeze);
    let what = format!("gradients over {} tokens", ids.len());
    afford(bytes, &what, "shorten the prompt or freeze the attention patterns")?;
    // The embedding is always a variable: without one nothing would be tracked.
    let wanted = along.kinds.iter().copied().chain([SiteKind::Embed]).collect();
    let mut probe = Probe {
        kinds: wanted,
        variables: BTreeMap::new(),
        keep: along.keep,
        values: BTreeMap::new(),
        embedding: along.embeddings,
    };
    // Half of the work is the backward pass.
    progress.expect(network.config.n_layers as u64);
    let values = {
        let prepared = Prepared::new(network.config, ids.len()).freezing(freeze).per_head_kv(along.per_head_kv);
        let mut watch = Watch(progress);
        let mut hooks = Chain(&mut probe, &mut watch);
        let resid = network.forward_prepared(&vec![ids; runs], &prepared, &mut hooks, progress)?;
        let normalized = network.final_norm_frozen(&resid, freeze.norms, &mut probe)?.narrow(1, along.pos, 1)?;
        (0..runs)
            .map(|r| metric(&normalized.get(r)?)?.flatten_all()?.get(0).map_err(Error::from))
            .collect::<Result<Vec<_>>>()?
    };
    let backward = Tensor::stack(&values, 0)?.sum_all()?.backward();
    progress.check()?;
    let store = backward?;
    let mut gradients = BTreeMap::new();
    for (site, variable) in probe.variables {
        let gradient = match store.get(variable.as_tensor()) {
            Some(g) => g.clone(),
            // The metric does not depend on some sites, as on the last layer's queries at other positions.
            None => variable.as_tensor().zeros_like()?,
        };
        gradients.insert(site, gradient);
    }
    let metrics = values.iter().map(|v| Ok(v.to_scalar()?)).collect::<Result<_>>()?;
    Ok(Passes { gradients, values: probe.values, metrics })
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
