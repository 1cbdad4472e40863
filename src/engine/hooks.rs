//! Hooks watch and change a forward pass while it runs.

use std::collections::{BTreeMap, HashMap, HashSet};

use candle_core::{Tensor, TensorId};
use globset::Glob;
use rayon::prelude::*;

use super::site::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;

/// Sees the value of every site that it wants, and may replace it. Values have a leading batch axis.
pub trait Hooks {
    /// Returns true for a site that [`Hooks::visit`] is to be called for. Some sites cost time or memory only when they
    /// are wanted.
    fn wants(&self, site: Site) -> bool;

    /// Returns the value that the pass goes on with: the given one, or another of the same shape.
    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor>;
}

/// A hook that wants no site.
pub struct NoHooks;

impl Hooks for NoHooks {
    fn wants(&self, _: Site) -> bool {
        false
    }

    fn visit(&mut self, _: Site, value: Tensor) -> Result<Tensor> {
        Ok(value)
    }
}

/// A hook that keeps the values of chosen sites.
#[derive(Clone, Default)]
pub struct Capture {
    wanted: HashSet<Site>,
    pub values: BTreeMap<Site, Tensor>,
}

impl Capture {
    pub fn sites(sites: impl IntoIterator<Item = Site>) -> Self {
        Self { wanted: sites.into_iter().collect(), values: BTreeMap::new() }
    }

    /// Wants every site of the given kinds that the model has.
    pub fn kinds(config: &ModelConfig, kinds: &[SiteKind]) -> Self {
        Self::sites(Site::all(config).into_iter().filter(|s| kinds.contains(&s.kind)))
    }

    pub fn everything(config: &ModelConfig) -> Self {
        Self::sites(Site::all(config))
    }

    /// Wants the sites that match TransformerLens names with `*` and `?`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] where a pattern matches no site of the model.
    pub fn globs(config: &ModelConfig, patterns: &[String]) -> Result<Self> {
        let all = Site::all(config);
        let mut wanted = HashSet::new();
        for pattern in patterns {
            let glob = Glob::new(pattern)
                .map_err(|e| Error::request(format!("`{pattern}` is not a usable pattern of site names: {e}")))?
                .compile_matcher();
            let before = wanted.len();
            let matches = |s: &&Site| glob.is_match(s.to_string()) || s.alias().is_some_and(|a| glob.is_match(a));
            wanted.extend(all.iter().filter(matches));
            if wanted.len() == before && !all.iter().any(|s| matches(&s)) {
                return Err(Error::request(format!(
                    "`{pattern}` matches no site of this model; sites are named like blocks.0.attn.hook_pattern or blocks.*.hook_resid_post"
                )));
            }
        }
        Ok(Self { wanted, values: BTreeMap::new() })
    }

    /// Returns the bytes that the wanted sites take for a prompt of `positions` tokens.
    pub fn bytes(&self, config: &ModelConfig, positions: usize) -> usize {
        self.wanted.iter().map(|s| 4 * s.shape(config, positions).iter().product::<usize>()).sum()
    }

    /// Puts what an earlier run has captured before what this one has, site by site. A tensor that both have under several
    /// names (a layer's resid_post is the next one's resid_pre) is made once.
    ///
    /// # Errors
    /// What `join` says, and a site that the earlier run does not have.
    pub fn follow(&mut self, before: &Self, join: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Sync) -> Result<()> {
        let mut names: Vec<(Site, Site)> = Vec::new();
        let mut first: HashMap<TensorId, Site> = HashMap::new();
        for (site, value) in &self.values {
            names.push((*site, *first.entry(value.id()).or_insert(*site)));
        }
        let parts: Vec<(Site, &Tensor)> = first.values().map(|site| (*site, &self.values[site])).collect();
        let whole = parts.into_par_iter().map(|(site, own)| {
            let there =
                before.values.get(&site).ok_or_else(|| Error::failed(format!("site {site} was not captured")))?;
            Ok((site, join(there, own)?))
        });
        let whole: HashMap<Site, Tensor> = whole.collect::<Result<_>>()?;
        self.values = names.into_iter().map(|(site, first)| (site, whole[&first].clone())).collect();
        Ok(())
    }

    /// Returns the value of a site, without its batch axis.
    pub fn get(&self, site: Site) -> Result<Tensor> {
        let value = self.values.get(&site).ok_or_else(|| Error::failed(format!("site {site} was not captured")))?;
        Ok(value.squeeze(0)?)
    }
}

impl Hooks for Capture {
    fn wants(&self, site: Site) -> bool {
        self.wanted.contains(&site)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        self.values.insert(site, value.clone());
        Ok(value)
    }
}

/// Two hooks in turn. The second one sees the value that the first one returned.
pub struct Chain<'a>(pub &'a mut dyn Hooks, pub &'a mut dyn Hooks);

impl Hooks for Chain<'_> {
    fn wants(&self, site: Site) -> bool {
        self.0.wants(site) || self.1.wants(site)
    }

    fn visit(&mut self, site: Site, value: Tensor) -> Result<Tensor> {
        let value = if self.0.wants(site) { self.0.visit(site, value)? } else { value };
        if self.1.wants(site) { self.1.visit(site, value) } else { Ok(value) }
    }
}
