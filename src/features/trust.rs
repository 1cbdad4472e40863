//! Whether a dictionary fits the model that it is opened beside: how much of the activations on ordinary text it explains,
//! and with how many features. Another model's dictionary of the same width explains less than nothing.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::analysis::trust::PROSE;
use crate::error::{Result, short};
use crate::features::dictionary::formats::all_at;
use crate::features::dictionary::store::path_of;
use crate::features::quality::{Reconstruction, reconstruction, set_reconstruction};
use crate::features::rows::Rows;
use crate::features::{Activation, Dictionary, DictionarySet};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Tokens of the text.
const TOKENS: usize = 256;
/// How many times more or fewer features than promised are far: texts differ by less.
const FAR: f32 = 3.0;

/// A dictionary that explains more of the variance than this is of the model, whatever name its file gives.
const FITS: f32 = 0.5;

/// What was checked of one dictionary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    pub path: PathBuf,
    /// Where it reads and writes.
    pub input: String,
    pub output: String,
    pub layer: usize,
    pub positions: usize,
    /// Mean number of active features at a position.
    pub l0: f32,
    /// The number that its file promises.
    pub promised_l0: Option<f32>,
    /// 1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖²; `None` where it cannot be said of one dictionary alone.
    pub explained_variance: Option<f32>,
    /// What speaks against it, in sentences.
    pub warnings: Vec<String>,
}

/// Checks one dictionary on the shipped text.
///
/// # Errors
/// A dictionary that does not fit the model's shape, a model without a tokenizer, and runs.
pub fn check(model: &Model, dictionary: &Dictionary, progress: &Progress) -> Result<Checked> {
    let ids = ordinary(model, dictionary.wants_bos(model))?;
    let found = reconstruction(model, dictionary, &Rows::new([(ids, 0)]), progress)?;
    // Features of earlier layers write to the same place.
    checked(model, dictionary, found, !dictionary.shares_its_site())
}

/// The tokens of the shipped text that dictionaries are checked on.
fn ordinary(model: &Model, bos: bool) -> Result<Vec<u32>> {
    let start = model.start(bos)?;
    let mut ids: Vec<u32> = start.into_iter().chain(model.pieces(PROSE)?).collect();
    ids.truncate(TOKENS.min(model.config.n_ctx));
    Ok(ids)
}

/// What speaks against a dictionary that is not tried: what of its files is not honoured, and the name of another model.
pub fn said(model: &Model, dictionary: &Dictionary) -> Vec<String> {
    let other = dictionary.model_name.as_deref().filter(|name| !model.may_be_called(name));
    let other = other.map(|name| {
        format!(
            "The dictionary's file says that it was trained on {:?}, and the model here is {:?}.",
            short(name),
            model.config.name
        )
    });
    dictionary.warnings.iter().cloned().chain(other).collect()
}

/// What is said of a dictionary that explains less than nothing of what is reconstructed, `of`.
pub fn explains_nothing(dictionary: &Dictionary, found: &Reconstruction, of: &str) -> Option<String> {
    let ev = found.explained_variance;
    let model = dictionary.model_name.as_deref();
    (ev.is_nan() || ev < 0.0).then(|| {
        format!(
            "The dictionary {} explains {ev:.2} of the variance {of}, less than nothing: it was trained on {}.",
            dictionary.path.display(),
            model.map_or("another model or site, or is read wrongly".to_owned(), |m| format!(
                "{m}, perhaps with other normalisation, or is read wrongly"
            ))
        )
    })
}

/// What a reconstruction says of a dictionary; `alone` says whether it is one of all that writes there.
fn checked(model: &Model, dictionary: &Dictionary, found: Reconstruction, alone: bool) -> Result<Checked> {
    let (input, output) = dictionary.check(&model.config)?;
    let promised = promised_l0(dictionary);
    // A name says little where the activations are explained.
    let fits = alone && found.explained_variance > FITS;
    let mut warnings = if fits { dictionary.warnings.clone() } else { said(model, dictionary) };
    let name = dictionary.path.display();
    if alone {
        warnings.extend(explains_nothing(dictionary, &found, &format!("at {output} on ordinary English")));
    }
    if let Some(p) = promised.filter(|p| found.l0 > p * FAR || found.l0 < p / FAR) {
        warnings.push(format!(
            "Of the dictionary {name} {:.1} features are active at a position of ordinary English, where its file promises \
             {p:.0}.",
            found.l0
        ));
    }
    Ok(Checked {
        path: dictionary.path.clone(),
        input: input.to_string(),
        output: output.to_string(),
        layer: input.layer(),
        positions: found.positions,
        l0: found.l0,
        promised_l0: promised,
        explained_variance: alone.then_some(found.explained_variance).filter(|v| v.is_finite()),
        warnings,
    })
}

/// The number of active features that a dictionary's configuration or the name of its folder promises.
fn promised_l0(dictionary: &Dictionary) -> Option<f32> {
    if let Activation::TopK { k } | Activation::Largest { k } = dictionary.activation {
        return Some(k as f32);
    }
    let told = [Some(&dictionary.config), dictionary.config.get("metadata")].into_iter().flatten();
    let number = told.filter_map(|c| ["l0", "average_l0", "target_l0"].iter().find_map(|k| c.get(k)?.as_f64())).next();
    number.map(|n| n as f32).or_else(|| {
        dictionary.path.iter().rev().take(3).find_map(|part| {
            let (_, number) = part.to_str()?.split_once("average_l0_")?;
            let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
    })
}

/// Checks what a built-in name or a path means: one dictionary, or each layer's of a set. Layers are opened one after the other.
///
/// # Errors
/// As [`check`], and files that cannot be opened.
pub fn check_all(model: &Model, spec: &str, progress: &Progress) -> Result<Vec<Checked>> {
    let files = all_at(&path_of(spec)?)?;
    // A set for the whole model takes one run.
    if files.len() > 1
        && let Ok(set) = DictionarySet::open(spec, progress)
        && set.check(&model.config).is_ok()
    {
        return check_set(model, &set, progress);
    }
    progress.expect(files.len() as u64);
    files
        .iter()
        .map(|file| {
            let dictionary = crate::features::open(&file.to_string_lossy(), &Progress::new())?;
            let checked = check(model, &dictionary, progress)?;
            progress.step(1)?;
            Ok(checked)
        })
        .collect()
}

/// Checks a set in one run, by layer.
///
/// # Errors
/// As [`check`].
pub fn check_set(model: &Model, set: &DictionarySet, progress: &Progress) -> Result<Vec<Checked>> {
    let bos = set.layer(0, &model.config, progress)?.0.wants_bos(model);
    let ids = ordinary(model, bos)?;
    set_reconstruction(model, set, &ids, progress, |dictionary, found| checked(model, dictionary, found, true))
}

/// Asks what was checked of a dictionary that is open.
#[derive(Clone, PartialEq)]
pub struct DictionaryTrustOf {
    pub model: Arc<Model>,
    pub dictionary: Arc<Dictionary>,
}

impl Question for DictionaryTrustOf {
    type Answer = Checked;
    const LABEL: &'static str = "checking the dictionary";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        check(&self.model, &self.dictionary, progress)
    }
}

/// Asks what was checked of a set that is open, by layer.
#[derive(Clone, PartialEq)]
pub struct SetTrustOf {
    pub model: Arc<Model>,
    pub set: Arc<DictionarySet>,
}

impl Question for SetTrustOf {
    type Answer = Vec<Checked>;
    const LABEL: &'static str = "checking the set";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        check_set(&self.model, &self.set, progress)
    }
}

/// What a set's layers explain of the variance on ordinary text and how many features are active at a position, each the
/// mean of the layers; `None` where nothing was checked.
pub fn means(checked: &[Checked]) -> Option<(f32, f32)> {
    let explained: Vec<f32> = checked.iter().filter_map(|c| c.explained_variance).collect();
    let mean = |sum: f32, n: usize| sum / n as f32;
    let l0 = mean(checked.iter().map(|c| c.l0).sum(), checked.len());
    (!explained.is_empty()).then(|| (mean(explained.iter().sum(), explained.len()), l0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn promises_are_read_from_folders_and_configurations() {
        let open = |path: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dictionaries").join(path);
            crate::features::open(path.to_str().unwrap(), &Progress::new()).unwrap()
        };
        let of = |path: &str| promised_l0(&open(path));
        assert_eq!(of("gemma-scope/layer_1/width_40/average_l0_9_res"), Some(9.0));
        assert_eq!(of("standard"), None);
        let Activation::TopK { k } = open("topk").activation else { panic!("topk is one") };
        assert_eq!(of("topk"), Some(k as f32));
    }
}
