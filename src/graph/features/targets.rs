//! What a feature graph explains: logits, each read against the mean of all, or directions behind the final norm as they
//! are given.

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::engine::Trace;
use crate::error::{Error, Result, short};
use crate::features::direction::Concept;
use crate::graph::targets::mean_column;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::progress::Progress;

/// Which prediction is explained.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The most probable tokens, at most `most`, until they hold `share` together.
    Top {
        most: usize,
        share: f64,
    },
    Tokens(Vec<u32>),
    /// The logit of one token minus that of another.
    Difference(u32, u32),
    /// A direction [d_model] behind the final norm.
    Direction {
        label: String,
        direction: Vec<f32>,
    },
    /// Such a direction in a file: one of `direction find`, at the layer where it is best, or a safetensors file with one
    /// row.
    File(PathBuf),
}

impl Default for Target {
    fn default() -> Self {
        Self::Top { most: super::super::targets::MOST, share: f64::from(super::super::targets::PROBABILITY) }
    }
}

impl Target {
    /// A direction that was found, at a layer of it.
    ///
    /// # Errors
    /// A layer that it lacks.
    pub fn found(concept: &Concept, layer: usize) -> Result<Self> {
        Ok(Self::Direction { label: concept.title(layer), direction: concept.at(layer)?.vector.clone() })
    }

    /// The direction of a file.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not hold just one direction, [d_model] or [1, d_model].
    fn read(path: &Path) -> Result<Self> {
        if path.extension().is_none_or(|e| e != "safetensors") {
            let concept = Concept::open(path)?;
            return Self::found(&concept, concept.layer(None)?);
        }
        let index = safetensors_file::index(&[path.to_owned()])?;
        let all: Vec<(&String, &[usize])> = index.entries.iter().map(|(name, e)| (name, e.shape.as_slice())).collect();
        let (name, n) = match all[..] {
            [(name, &[n] | &[1, n])] => (name.clone(), n),
            _ => {
                return Err(Error::request(format!(
                    "{} holds {}, where one direction belongs, a tensor [d_model] or [1, d_model]",
                    path.display(),
                    match all[..] {
                        [(name, shape)] => format!("`{}` of shape {shape:?}", short(name)),
                        _ => format!("{} tensors", all.len()),
                    }
                )));
            }
        };
        let store = Store::new(path, index.files, index.entries, Device::Cpu, &Progress::new());
        let is_row = store.entries().get(&name).is_some_and(|e| e.shape.len() == 2);
        let read = if is_row { store.matrix(&name, 1, n)?.flatten_all()? } else { store.vector(&name, n)? };
        let label = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Ok(Self::Direction { label, direction: read.to_vec1()? })
    }
}

/// One target.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    pub label: String,
    /// The token; the vocabulary's size and more for what is no token.
    pub id: usize,
    /// Where influence starts: the token's probability in the run.
    pub weight: f64,
    /// The token's logit in the run, before a soft cap.
    pub logit: Option<f32>,
    /// [d_model] behind the final norm.
    pub direction: Vec<f32>,
}

/// The targets of a prediction after position `pos`.
///
/// # Errors
/// A token outside the vocabulary, a file that holds no direction, one of another width, or no target at all.
pub(super) fn explained(trace: &Trace, pos: usize, target: &Target) -> Result<Vec<Explained>> {
    let network = trace.model.network();
    let c = &trace.model.config;
    let row = trace.normalized(pos)?;
    let logits: Vec<f32> = network.unembed(&row)?.flatten_all()?.to_vec1()?;
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    let probability = |id: u32| f64::from(logits[id as usize] - top).exp() / total;
    let column = |id: u32| -> Result<Vec<f32>> {
        Ok(trace.model.weights.unembed.output(id as usize)?.flatten_all()?.to_vec1()?)
    };
    let minus = |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    let tokens = |ids: &[u32]| -> Result<Vec<Explained>> {
        network.check(ids)?;
        let mean: Vec<f32> = mean_column(trace)?.to_vec1()?;
        ids.iter()
            .map(|id| {
                Ok(Explained {
                    label: trace.model.token_text(*id),
                    id: *id as usize,
                    weight: probability(*id),
                    logit: logits.get(*id as usize).copied(),
                    direction: minus(&column(*id)?, &mean),
                })
            })
            .collect()
    };
    match target {
        Target::Top { most, share } => {
            if *most == 0 || share.is_nan() || *share <= 0.0 {
                return Err(Error::request("no target is left; ask for one logit or more and a share above 0"));
            }
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
            let mut sum = 0.0;
            let mut ids = Vec::new();
            for id in order.into_iter().take(*most) {
                ids.push(id);
                sum += probability(id);
                if sum >= *share {
                    break;
                }
            }
            tokens(&ids)
        }
        Target::Tokens(ids) => {
            let mut once = ids.clone();
            once.sort_unstable();
            once.dedup();
            if once.len() < ids.len() || ids.is_empty() {
                return Err(Error::request("a target is named twice, or none is; name each token once"));
            }
            tokens(ids)
        }
        Target::Difference(a, b) => {
            network.check(&[*a, *b])?;
            let text = |id: &u32| trace.model.token_text(*id);
            Ok(vec![Explained {
                label: format!("{} −{}", text(a), text(b)),
                id: c.d_vocab,
                weight: 1.0,
                logit: Some(logits[*a as usize] - logits[*b as usize]),
                direction: minus(&column(*a)?, &column(*b)?),
            }])
        }
        Target::File(path) => explained(trace, pos, &Target::read(path)?),
        Target::Direction { label, direction } => {
            if direction.len() != c.d_model {
                return Err(Error::request(format!(
                    "the direction has {} numbers, but {} has a stream of {}",
                    direction.len(),
                    c.name,
                    c.d_model
                )));
            }
            let (label, direction) = (label.clone(), direction.clone());
            Ok(vec![Explained { label, id: c.d_vocab, weight: 1.0, logit: None, direction }])
        }
    }
}
