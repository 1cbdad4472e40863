//! Gradients of a metric with respect to every site, from one backward pass.
//!
//! A zero is added at each site as a variable of its own, so that the value of the run does not change and
//! the variable's gradient is the site's. Weights are constants, so the pass costs about two plain ones.

use std::collections::{BTreeMap, HashSet};

use candle_core::{Tensor, Var};

use super::forward::Freeze;
use super::hooks::Hooks;
use super::site::{Site, SiteKind};
use super::trace::Trace;
use crate::error::{Error, Result};
use crate::jobs::Progress;
use crate::model::config::ModelConfig;

/// Gradients of one metric at chosen sites.
pub struct Gradients {
    values: BTreeMap<Site, Tensor>,
    /// The metric itself.
    pub metric: f32,
    /// What was held constant.
    pub frozen: Freeze,
}

impl Gradients {
    /// The gradient at a site, shaped as the site's value, without the batch axis.
    ///
    /// # Errors
    /// If it was not asked for.
    pub fn get(&self, site: Site) -> Result<&Tensor> {
        self.values.get(&site).ok_or_else(|| Error::failed(format!("no gradient was computed at {site}")))
    }
}

/// Most memory that a backward pass may take.
const MEMORY: usize = 8 << 30;

/// Bytes that the graph of a pass over `n` tokens holds, roughly: every operation keeps its result.
fn bytes_for(config: &ModelConfig, n: usize, kinds: &[SiteKind], freeze: Freeze) -> usize {
    // Scores, mask, softmax's steps and their gradients; the probe of the pattern doubles two of them.
    let maps = if freeze.patterns { 3 } else { 8 } + 2 * usize::from(kinds.contains(&SiteKind::Pattern));
    let rows = 24 * config.d_model + 8 * config.d_mlp + 16 * config.n_heads * config.d_head;
    4 * config.n_layers * n * (maps * config.n_heads * n + rows)
}

struct Probe {
    kinds: HashSet<SiteKind>,
    variables: BTreeMap<Site, Var>,
}

impl Hooks for Probe {
    fn wants(&self, site: Site) -> bool {
        self.kinds.contains(&site.kind)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        let variable = Var::zeros(value.shape(), value.dtype(), value.device())?;
        let probed = (value + variable.as_tensor())?;
        self.variables.insert(site, variable);
        Ok(probed)
    }
}

/// Differentiates `metric`, a scalar function of the normalised final residual row [1, d_model] at `pos`, along
/// the run that `trace` is, with respect to all sites of the given kinds.
///
/// # Errors
/// An edited run, a prompt whose graph would not fit in memory, a position outside the prompt, a metric that has no gradient, or [`Error::Cancelled`].
pub fn gradients(
    trace: &Trace,
    kinds: &[SiteKind],
    freeze: Freeze,
    pos: usize,
    metric: impl Fn(&Tensor) -> Result<Tensor>,
    progress: &Progress,
) -> Result<Gradients> {
    let network = trace.model.network();
    if pos >= trace.len() {
        return Err(Error::request(format!("position {pos} is outside the prompt of {} tokens", trace.len())));
    }
    if !trace.edits().is_empty() {
        return Err(Error::request("gradients are taken along a run without edits; switch them off"));
    }
    let bytes = bytes_for(network.config, trace.len(), kinds, freeze);
    if bytes > MEMORY {
        return Err(Error::request(format!(
            "gradients over {} tokens would need {:.0} GB of memory; shorten the prompt or freeze the attention patterns",
            trace.len(),
            bytes as f64 / 1e9
        )));
    }
    // The embedding is always a variable: without one nothing would be tracked.
    let wanted = kinds.iter().copied().chain([SiteKind::Embed]).collect();
    let mut probe = Probe { kinds: wanted, variables: BTreeMap::new() };
    // Half of the work is the way back, which cannot be watched.
    progress.expect(network.config.n_layers as u64);
    let value = {
        let resid = network.forward_frozen(&[&trace.ids], freeze, &mut probe, progress)?;
        let normalized = network.final_norm_frozen(&resid, freeze.norms, &mut probe)?;
        metric(&normalized.squeeze(0)?.narrow(0, pos, 1)?)?
    };
    progress.check()?;
    let store = value.backward()?;
    progress.step(network.config.n_layers as u64)?;
    let mut values = BTreeMap::new();
    for (site, variable) in probe.variables {
        let gradient = match store.get(variable.as_tensor()) {
            Some(g) => g.squeeze(0)?,
            // What nothing depends on, as the last layer's queries of other positions.
            None => variable.as_tensor().zeros_like()?.squeeze(0)?,
        };
        values.insert(site, gradient);
    }
    Ok(Gradients { values, metric: value.flatten_all()?.get(0)?.to_scalar()?, frozen: freeze })
}
