//! Trainings that lie on a shelf, a folder of folders: one that was stopped is found again by what was asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Point;
use super::activations::Keep;
use super::elsewhere::Captured;
use super::recipe::{Recipe, Training};
use super::set::{Layers, Source, train_set};
use crate::error::{Error, Result};
use crate::features::dictionary::formats::{circuit_tracer, saelens};
use crate::features::quality::Quality;
use crate::files::{Claim, SMALL, file_name, read, write_atomic};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Bytes of activations up to which a training that keeps none has them in memory.
const IN_MEMORY: usize = 2 << 30;
/// Time between two looks at the curve.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks for a dictionary to be trained.
#[derive(Clone, PartialEq)]
pub struct DictionaryTrainingOf {
    pub model: Arc<Model>,
    pub recipe: Recipe,
    /// Below it the training has its folder.
    pub shelf: PathBuf,
    /// Where the activations are kept for another training.
    pub keep: Option<PathBuf>,
}

/// A training as far as it is.
#[derive(Clone, Debug, Default)]
pub struct DictionaryTraining {
    pub curve: Vec<Point>,
    /// Known at the end.
    pub trained: Option<TrainedDictionary>,
}

/// What a training came to.
#[derive(Clone, Debug)]
pub struct TrainedDictionary {
    pub folder: PathBuf,
    /// On held-out text; unknown where there is none.
    pub quality: Option<Quality>,
}

impl Question for DictionaryTrainingOf {
    type Answer = DictionaryTraining;

    const LABEL: &'static str = "training a dictionary";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(DictionaryTraining)) -> Result<DictionaryTraining> {
        if let Some(file) = self.recipe.captured(&self.model)? {
            return self.run_on(&file, progress, partial);
        }
        self.recipe.check(&self.model.config)?;
        progress.needs(|| self.recipe.cost(&self.model, 1, IN_MEMORY))?;
        let keep = self.keep.as_deref().map_or(Keep::Not(IN_MEMORY), Keep::Below);
        let mut training = self.recipe.begin(&self.model, keep, progress)?;
        let folder = training_folder(&self.shelf, &mut training)?;
        let mut so_far = DictionaryTraining { curve: training.trainer.curve.clone(), trained: None };
        partial(so_far.clone());
        let mut looked = Instant::now();
        let _claim = Claim::of(&folder)?;
        training.run(&self.model, &folder, progress, &mut |point| {
            so_far.curve.push(point);
            // Copying the whole curve at every point would cost more and more.
            if looked.elapsed() >= LOOK_EVERY {
                partial(so_far.clone());
                looked = Instant::now();
            }
        })?;
        let (_, quality) = training.finish(&self.model, &folder, progress)?;
        so_far.trained = Some(TrainedDictionary { folder, quality });
        Ok(so_far)
    }
}

impl DictionaryTrainingOf {
    /// Trains on activations that were captured elsewhere.
    fn run_on(
        &self,
        file: &Captured,
        progress: &Progress,
        partial: &mut dyn FnMut(DictionaryTraining),
    ) -> Result<DictionaryTraining> {
        let (recipe, model) = (&self.recipe, &self.model.config);
        let name = format!("{}-{}-{}-captured", model.name, recipe.site, recipe.settings.method.name());
        recipe.check_format()?;
        progress.needs(|| recipe.cost_of_training(model))?;
        let mut training = recipe.begin_on(file, progress)?;
        let folder =
            place_of(&self.shelf, &name, recipe, is_saved, |folder| training.trainer.resume(folder).map(drop))?;
        let _claim = Claim::of(&folder)?;
        let mut so_far = DictionaryTraining { curve: training.trainer.curve.clone(), trained: None };
        partial(so_far.clone());
        let mut looked = Instant::now();
        training.run(&folder, progress, &mut |point| {
            so_far.curve.push(point);
            if looked.elapsed() >= LOOK_EVERY {
                partial(so_far.clone());
                looked = Instant::now();
            }
        })?;
        so_far.trained = Some(TrainedDictionary { folder, quality: None });
        Ok(so_far)
    }
}

/// Whether a folder holds a finished dictionary.
fn is_saved(folder: &Path) -> bool {
    folder.join(saelens::CONFIG).is_file()
}

/// What a training's folder says was asked for.
const ASKED: &str = "asked.json";

/// Returns where below `shelf` a training lies. That is the folder of a stopped one that was asked for in the same words
/// and saw the same activations, which then goes on; else a new one, so that labels and edits of an earlier dictionary go
/// on meaning that one.
///
/// # Errors
/// A folder that cannot be read or written, or a damaged checkpoint.
pub fn training_folder(shelf: &Path, training: &mut Training) -> Result<PathBuf> {
    let (ask, trainer) = (training.recipe.clone(), &mut training.trainer);
    let target = ask.target.as_ref().map_or(String::new(), |t| format!("-to-{t}"));
    let model = trainer.origin.model_name.clone().unwrap_or_default();
    let name = format!("{model}-{}{target}-{}", ask.site, ask.settings.method.name());
    place_of(shelf, &name, &ask, is_saved, |folder| trainer.resume(folder).map(|_| ()))
}

/// The folder below `shelf` of what was asked for in the same words, is not finished, and goes on; else a new one.
fn place_of<T: Serialize + DeserializeOwned + PartialEq>(
    shelf: &Path,
    name: &str,
    ask: &T,
    is_finished: impl Fn(&Path) -> bool,
    mut goes_on: impl FnMut(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let name = file_name(name);
    let asked = serde_json::to_vec(ask).map_err(|e| Error::failed(e.to_string()))?;
    for n in 1.. {
        let folder = shelf.join(format!("{name}-{n}"));
        let same = |a: Vec<u8>| serde_json::from_slice(&a).is_ok_and(|a: T| a == *ask);
        if !is_finished(&folder) && read(&folder.join(ASKED), SMALL).is_ok_and(same) {
            // What belongs to another text or model is left where it is.
            match goes_on(&folder) {
                Ok(()) => return Ok(folder),
                Err(e) if e.is_request() => {}
                Err(e) => return Err(e),
            }
        }
        if !folder.exists() {
            std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
            write_atomic(&folder.join(ASKED), &asked)?;
            return Ok(folder);
        }
    }
    Err(Error::failed("there is no name left for a training"))
}

/// Asks for a set to be trained: a transcoder for each layer's MLP. The recipe's sites are not looked at.
#[derive(Clone, PartialEq)]
pub struct SetTrainingOf {
    pub model: Arc<Model>,
    pub recipe: Recipe,
    /// Below it the set has its folder.
    pub shelf: PathBuf,
}

/// A set's training as far as it is.
#[derive(Clone, Debug, Default)]
pub struct SetTraining {
    /// Layers that are trained in all.
    pub layers: usize,
    /// By layer its curve, in the order in which they are trained. Layers that were finished before have none.
    pub curves: Vec<(usize, Vec<Point>)>,
    /// The folder that it lies in; known at the end.
    pub folder: Option<PathBuf>,
}

/// What a set's folder says was asked for, and of which weights.
#[derive(Serialize, Deserialize, PartialEq)]
struct SetAsked {
    recipe: Recipe,
    weights: String,
}

impl Question for SetTrainingOf {
    type Answer = SetTraining;

    const LABEL: &'static str = "training a set";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(SetTraining)) -> Result<SetTraining> {
        let (model, recipe) = (&self.model, &self.recipe);
        let name = format!("{}-transcoders-{}", model.config.name, recipe.settings.method.name());
        let ask = SetAsked { recipe: recipe.clone(), weights: format!("{:016x}", model.fingerprint()?) };
        let folder = place_of(&self.shelf, &name, &ask, circuit_tracer::is_set, |_| Ok(()))?;
        let _claim = Claim::of(&folder)?;
        let mut so_far = SetTraining { layers: model.config.n_layers, ..SetTraining::default() };
        partial(so_far.clone());
        let mut looked = Instant::now();
        let file = recipe.captured(model)?;
        if file.is_some() {
            let config = &model.config;
            progress.needs(|| recipe.cost_of_training(config).times(config.n_layers))?;
        }
        let source = match &file {
            Some(file) => Source::File(file, &model.config.name),
            None => Source::Text(model, IN_MEMORY),
        };
        train_set(&source, recipe, Layers::All, &folder, progress, &mut |layer, point| {
            match so_far.curves.last_mut().filter(|(l, _)| *l == layer) {
                Some((_, curve)) => match curve.last_mut().filter(|p| p.step == point.step) {
                    // It is judged now.
                    Some(last) => *last = point,
                    None => curve.push(point),
                },
                None => so_far.curves.push((layer, vec![point])),
            }
            if looked.elapsed() >= LOOK_EVERY {
                partial(so_far.clone());
                looked = Instant::now();
            }
        })?;
        so_far.folder = Some(folder);
        Ok(so_far)
    }
}
