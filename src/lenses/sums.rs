//! What a fit has summed up so far, of two halves of its prompts by themselves: so that it can be stopped and go on, parts
//! of it can be put together, and it can be seen how far the halves agree.
//!
//! Its file is safetensors: tensors `half.<0|1>.<layer>` [d_model out, d_model in] as f32, the sums of J over the prompts,
//! and in the header under `circuitscope` a JSON text of [`SumsAbout`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::JacobianLens;
use super::jacobian::About;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::progress::Progress;
use crate::shard::{self, Shard};

const FORMAT: &str = "part of a Jacobian lens";
const METADATA: &str = "circuitscope-fit";

/// What sums are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SumsAbout {
    pub model: String,
    #[serde(flatten)]
    pub shard: Shard,
    pub d_model: usize,
    pub layers: Vec<usize>,
    pub skip: usize,
    pub tokens: usize,
    pub texts: Vec<String>,
    /// The number of prompts, those of other shards included.
    pub total: usize,
    /// Prompts of the shard that were taken, those too short included; all of them where it is done.
    pub next: usize,
    pub done: bool,
    /// Prompts in each half.
    pub counts: [usize; 2],
}

impl shard::About for SumsAbout {
    const PROGRESS: &'static [&'static str] = &["next", "done", "counts"];

    fn shard(&self) -> &Shard {
        &self.shard
    }

    fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn is_complete(&self) -> bool {
        self.done
    }
}

/// Sums over the prompts of two halves.
#[derive(Clone, Debug)]
pub struct Sums {
    pub about: SumsAbout,
    /// By layer, [d_model out, d_model in] row by row.
    pub halves: [BTreeMap<usize, Vec<f32>>; 2],
}

/// No prompt has a position to fit on.
pub(super) fn too_short() -> Error {
    Error::request("no prompt is longer than the positions that are left out; give longer text, or a smaller --skip")
}

impl Sums {
    /// The sums of no prompt.
    pub fn new(about: SumsAbout) -> Self {
        let size = about.d_model * about.d_model;
        let zero = || about.layers.iter().map(|l| (*l, vec![0f32; size])).collect();
        Self { halves: [zero(), zero()], about }
    }

    pub fn prompts(&self) -> usize {
        self.about.counts.iter().sum()
    }

    /// By layer, how alike the two halves' lenses are: the cosine of their numbers. Empty until both have a prompt.
    pub fn agreement(&self) -> BTreeMap<usize, f32> {
        if self.about.counts.contains(&0) {
            return BTreeMap::new();
        }
        let [a, b] = &self.halves;
        let layers: Vec<usize> = self.about.layers.clone();
        layers
            .into_par_iter()
            .filter_map(|l| {
                let (a, b) = (a.get(&l)?, b.get(&l)?);
                let (mut aa, mut ab, mut bb) = (0f64, 0f64, 0f64);
                for (x, y) in a.iter().zip(b) {
                    let (x, y) = (f64::from(*x), f64::from(*y));
                    aa += x * x;
                    ab += x * y;
                    bb += y * y;
                }
                Some((l, (ab / (aa * bb).sqrt().max(f64::MIN_POSITIVE)) as f32))
            })
            .collect()
    }

    /// The lens of all prompts so far.
    ///
    /// # Errors
    /// There was none.
    pub fn lens(&self) -> Result<JacobianLens> {
        let n = self.prompts();
        if n == 0 {
            return Err(too_short());
        }
        let (d, a) = (self.about.d_model, &self.about);
        let layers = a
            .layers
            .iter()
            .filter_map(|l| Some((*l, self.halves[0].get(l)?, self.halves[1].get(l)?)))
            .map(|(l, x, y)| {
                let mean: Vec<f32> = x.par_iter().zip(y).map(|(x, y)| (x + y) / n as f32).collect();
                Ok((l, Tensor::from_vec(mean, (d, d), &Device::Cpu)?))
            })
            .collect::<Result<_>>()?;
        let about = About {
            model: Some(a.model.clone()),
            fingerprint: Some(a.shard.model_hash.clone()),
            n_prompts: n,
            skip: Some(a.skip),
            tokens: Some(a.tokens),
            texts: a.texts.clone(),
            agreement: self.agreement(),
            // Its weights say it.
            target: None,
        };
        Ok(JacobianLens { about, layers, d_model: d, path: None })
    }

    /// Takes in the sums of another shard of the same fit.
    ///
    /// # Errors
    /// A shard that is not done, is in it already, or is of another fit.
    pub fn absorb(&mut self, other: &Self) -> Result<()> {
        shard::join(&mut self.about, &other.about)?;
        for (mine, theirs) in self.halves.iter_mut().zip(&other.halves) {
            for (layer, mine) in mine {
                if let Some(theirs) = theirs.get(layer) {
                    mine.iter_mut().zip(theirs).for_each(|(x, y)| *x += y);
                }
            }
        }
        self.about.next += other.about.next;
        for (mine, theirs) in self.about.counts.iter_mut().zip(other.about.counts) {
            *mine += theirs;
        }
        Ok(())
    }

    /// Puts parts together. One may be large, so that only one is in memory beside the whole.
    ///
    /// # Errors
    /// No part, or as [`shard::in_order`] and [`Self::open`].
    pub fn merged(parts: &[PathBuf]) -> Result<Self> {
        let about = parts.iter().map(|p| Ok((p.clone(), Self::about(p)?))).collect::<Result<Vec<_>>>()?;
        let parts = shard::in_order(about, true)?;
        let (first, others) = parts.split_first().ok_or_else(|| Error::request("name the parts to merge"))?;
        let mut whole = Self::open(first)?;
        others.iter().try_for_each(|part| whole.absorb(&Self::open(part)?))?;
        Ok(whole)
    }

    /// Parts that are not in it.
    pub fn missing(&self) -> usize {
        self.about.shard.missing().len()
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let d = self.about.d_model;
        let mut tensors = Vec::new();
        for (half, layers) in self.halves.iter().enumerate() {
            for (layer, sum) in layers {
                tensors.push((format!("half.{half}.{layer}"), Tensor::from_slice(sum, (d, d), &Device::Cpu)?));
            }
        }
        let about = serde_json::to_string(&self.about).map_err(|e| Error::failed(e.to_string()))?;
        let tensors = tensors.iter().map(|(n, t)| (n.as_str(), t));
        write_atomic(path, &safetensors_file::pack(tensors, &[(METADATA, about)])?)
    }

    /// What sums are of, without reading them.
    ///
    /// # Errors
    /// A file that holds none.
    pub fn about(path: &Path) -> Result<SumsAbout> {
        let what = "it holds no sums; `jlens fit --shard` writes them".to_owned();
        safetensors_file::metadata(path)?
            .get(METADATA)
            .and_then(|t| serde_json::from_str(t).ok())
            .ok_or_else(|| Error::Malformed { path: path.to_owned(), format: FORMAT, what })
    }

    /// # Errors
    /// A file that is none, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let malformed = |what: &str| Error::Malformed { path: path.to_owned(), format: FORMAT, what: what.to_owned() };
        let index = safetensors_file::index(&[path.to_owned()])?;
        let about = Self::about(path)?;
        let shard = &about.shard;
        if about.layers.is_empty() || shard.shards.is_empty() || shard.shards.iter().any(|s| *s >= shard.of) {
            return Err(malformed("it holds no layer, or shards that there are not"));
        }
        let store = Store::new(path, index.files, index.entries, Device::Cpu, &Progress::new());
        let d = about.d_model;
        let half = |h: usize| -> Result<BTreeMap<usize, Vec<f32>>> {
            let one = |l: &usize| Ok((*l, store.matrix(&format!("half.{h}.{l}"), d, d)?.flatten_all()?.to_vec1()?));
            about.layers.iter().map(one).collect()
        };
        Ok(Self { halves: [half(0)?, half(1)?], about })
    }
}
