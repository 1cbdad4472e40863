//! A training from text to a finished dictionary: what is harvested and held out, the steps, and what is judged and
//! written at the end. The window and the command line both train by this.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::activations::{Harvest, Keep};
use super::elsewhere::{self, Captured};
use super::{Method, Origin, Point, STATE, Settings, Trainer, card};
use crate::analysis::plan::{OverText, cost_over, training_cost};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::features::dictionary::formats::saelens;
use crate::features::quality::{Quality, ce_score, evaluate};
use crate::features::rows::{Cut, Rows};
use crate::features::{Dictionary, Place, text};
use crate::files::write_atomic;
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::progress::Progress;

/// Every so many-th row of a text is held out from training.
pub const HELD_OUT: usize = 20;
/// Held-out rows on which the CE-loss score is measured while it trains: enough to see where it is going.
const FEW: usize = 16;
/// Held-out tokens on which the finished dictionary's loss is measured.
const LOSS_TOKENS: usize = 8_192;

/// Rows to train on, and rows held out; of a text of few rows one is held out.
pub fn split(rows: Rows) -> (Rows, Rows) {
    let every = rows.len().clamp(2, HELD_OUT);
    rows.held_out(every)
}

/// Whether what [`split`] holds out of a text was held out of a dictionary's training: known where the dictionary was
/// trained here, on the same text cut in the same way.
pub fn held_out(dictionary: &Dictionary, model: &Model, text: &[String], cut: &Cut) -> Option<bool> {
    let metadata = dictionary.config.get("metadata")?;
    let about = metadata.get("circuitscope")?;
    let begun = !model.start(cut.bos).ok()?.is_empty();
    let same = metadata.get("model_name")? == &json!(model.config.name)
        && metadata.get("prepend_bos")? == &json!(begun)
        && about.get("text")? == &json!(text)
        && about.get("context")? == &json!(cut.context)
        && about.get("tokens")? == &json!(cut.limit);
    same.then_some(true)
}

/// What was made, and how good it is where that is known.
pub type Finished = (Dictionary, Option<Quality>);

/// All that decides a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What is taken apart.
    pub site: Place,
    /// What a transcoder learns to write; without it a sparse autoencoder is trained.
    pub target: Option<Place>,
    /// Files, folders and shipped texts.
    pub text: Vec<String>,
    /// Tokens of a row.
    pub context: usize,
    /// Tokens of the text that are used at most.
    pub tokens: Option<usize>,
    /// Whether each row begins with the model's beginning-of-sequence token, which some tokenizers add by themselves.
    #[serde(default)]
    pub bos: bool,
    /// Whether rows' first positions, outliers in many models, are trained on as well.
    pub include_first: bool,
    pub settings: Settings,
}

impl Recipe {
    pub fn places(&self) -> Vec<Place> {
        std::iter::once(self.site).chain(self.target).collect()
    }

    /// Numbers that are harvested at each position.
    pub fn width(&self, config: &ModelConfig) -> usize {
        self.places().iter().map(|p| p.width(config)).sum()
    }

    /// What training one dictionary costs, beside its activations.
    pub(super) fn cost_of_training(&self, config: &ModelConfig) -> Cost {
        // An autoencoder writes what it reads.
        let width = self.width(config) * if self.target.is_some() { 1 } else { 2 };
        training_cost(self.settings.steps, self.settings.batch, (width, self.settings.features))
    }

    /// What harvesting and then training so many dictionaries costs, in memory for as many activations at most.
    pub(super) fn cost(&self, model: &Model, dictionaries: usize, held: usize) -> Cost {
        // A text that cannot be read is refused when it is.
        let tokens = text::tokens(&self.text, self.tokens).unwrap_or(0);
        let harvested = cost_over(model, tokens, self.context, OverText::Harvest);
        let own = self.cost_of_training(&model.config).times(dictionaries);
        let held = held.min(4 * tokens * dictionaries * self.width(&model.config));
        harvested.then(Cost { work: own.work + held as u64, ..own })
    }

    /// How the text becomes rows.
    pub fn cut(&self) -> Cut {
        Cut { context: self.context, limit: self.tokens, bos: self.bos }
    }

    /// # Errors
    /// Settings that cannot be, sites that the model lacks, or a dictionary that SAELens has no format for.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        self.check_format()?;
        self.places().iter().try_for_each(|p| p.check(config))
    }

    /// # Errors
    /// Settings that cannot be, or a dictionary that nobody has a format for.
    pub fn check_format(&self) -> Result<()> {
        self.settings.check()?;
        let method = self.settings.method;
        if self.target.is_none() && self.settings.skip {
            return Err(Error::request(
                "an autoencoder that passes its input on would have nothing left to learn; only transcoders have a skip path",
            ));
        }
        if self.target.is_some() && matches!(method, Method::TopK | Method::Gated) {
            return Err(Error::request(format!(
                "no format has a {} transcoder that is trained here; choose l1, batchtopk, matryoshka or jumprelu",
                method.name()
            )));
        }
        Ok(())
    }

    /// Whether the model can be run on what the dictionary makes: an MLP's input is read only.
    pub(super) fn has_loss(&self) -> bool {
        !self.target.unwrap_or(self.site).mlp_input
    }

    /// The captured activations that the recipe's text is, in place of words. What does not say whose they are is taken for
    /// the model's.
    ///
    /// # Errors
    /// They are another model's.
    pub fn captured(&self, model: &Model) -> Result<Option<Captured>> {
        let [path] = &self.text[..] else { return Ok(None) };
        if elsewhere::dropped(Path::new(path)).is_none() {
            return Ok(None);
        }
        Captured::open(Path::new(path))?.of(model).map(Some)
    }

    /// Harvests the activations, or takes those that were kept.
    ///
    /// # Errors
    /// As [`Self::check`], reading the text and running the model.
    pub fn begin(&self, model: &Model, keep: Keep<'_>, progress: &Progress) -> Result<Training> {
        self.check(&model.config)?;
        progress.reserve(self.settings.units(self.settings.steps));
        let (trained, held) = split(Rows::cut(model, &self.text, &self.cut(), progress)?);
        if self.has_loss() {
            // Judging takes as many passes at the end; the one that reads the activations was reserved with the text.
            progress.reserve(3 * held.reaching(LOSS_TOKENS).tokens() as u64);
        }
        let places = self.places();
        let started = Instant::now();
        let harvest = Harvest { model, rows: &trained, places: &places, skip_first: !self.include_first, keep };
        let mut tables = harvest.run(progress)?;
        let harvested = started.elapsed();
        let target = self.target.and_then(|_| tables.pop());
        let input = tables.pop().ok_or_else(|| Error::failed("nothing was harvested"))?;
        let origin = Origin {
            model_name: Some(model.config.name.clone()),
            input: Some(self.site),
            output: Some(self.target.unwrap_or(self.site)),
        };
        let positions = input.rows();
        let trainer = Trainer::new(self.settings.clone(), origin, input, target)?;
        Ok(Training { recipe: self.clone(), trainer, held, positions, harvested, judged: Duration::ZERO })
    }
}

/// A dictionary that was trained on activations alone.
pub struct TrainedOn {
    pub dictionary: Dictionary,
    /// The last step's figures.
    pub curve: Vec<Point>,
    /// Positions that were trained on.
    pub positions: usize,
    /// The step that it went on from.
    pub first: usize,
}

impl Recipe {
    /// A training on activations in a file, without the model. The recipe's text is not looked at, and nothing is held out.
    ///
    /// # Errors
    /// Settings that cannot be, or places that are not in the file.
    pub fn begin_on(&self, file: &Captured, progress: &Progress) -> Result<TrainingOn> {
        self.check_format()?;
        progress.reserve(self.settings.units(self.settings.steps));
        let input = file.table(self.site, !self.include_first)?;
        let target = self.target.map(|place| file.table(place, !self.include_first)).transpose()?;
        let origin = Origin {
            model_name: file.model.clone(),
            input: Some(self.site),
            output: Some(self.target.unwrap_or(self.site)),
        };
        let positions = input.rows();
        let trainer = Trainer::new(self.settings.clone(), origin, input, target)?;
        Ok(TrainingOn { trainer, positions, file: file.path().to_owned() })
    }
}

/// A training on activations in a file.
pub struct TrainingOn {
    pub trainer: Trainer,
    positions: usize,
    file: PathBuf,
}

impl TrainingOn {
    /// Trains to the end and writes the dictionary; checkpoints lie in its folder.
    ///
    /// # Errors
    /// As [`Trainer::run`] and writing the folder.
    pub fn run(self, folder: &Path, progress: &Progress, report: &mut dyn FnMut(Point)) -> Result<TrainedOn> {
        let Self { mut trainer, positions, file } = self;
        let first = trainer.step;
        trainer.run(Some(folder), progress, &mut |_| Ok(None), report)?;
        trainer.save(folder)?;
        let name = folder.file_name().map_or_else(|| "dictionary".to_owned(), |n| n.to_string_lossy().into_owned());
        let dictionary = trainer.dictionary(&name)?;
        let about = json!({"circuitscope": {
            "settings": trainer.settings, "activations": file.display().to_string(), "positions": positions,
            "curve": trainer.curve,
        }});
        saelens::save(&dictionary, folder, &about)?;
        let state = folder.join(STATE);
        std::fs::remove_file(&state).map_err(|e| Error::write(&state, e))?;
        Ok(TrainedOn { dictionary, curve: trainer.curve, positions, first })
    }
}

/// A training whose activations are there.
pub struct Training {
    pub recipe: Recipe,
    pub trainer: Trainer,
    pub held: Rows,
    /// Positions that are trained on.
    pub positions: usize,
    /// Time that harvesting took.
    pub harvested: Duration,
    /// Time that judging took while it trained.
    pub judged: Duration,
}

impl Training {
    pub(super) fn is_judged(&self) -> bool {
        !self.held.is_empty() && self.recipe.has_loss()
    }

    /// Trains to the end, with checkpoints in a folder.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run(
        &mut self,
        model: &Model,
        folder: &Path,
        progress: &Progress,
        report: &mut dyn FnMut(Point),
    ) -> Result<()> {
        let few = self.held.first(FEW);
        let (judges, judged) = (self.is_judged(), &mut self.judged);
        let mut judge = |t: &Trainer| {
            let begun = Instant::now();
            let score = judges.then(|| ce_score(model, &t.dictionary("live")?, &few, progress)).transpose();
            *judged += begun.elapsed();
            score
        };
        self.trainer.run(Some(folder), progress, &mut judge, report)?;
        // What comes now may fail.
        self.trainer.save(folder)
    }

    /// Judges what was trained, and writes it with its card; the checkpoint is then taken away. The quality is unknown
    /// where nothing was held out, or judging was cancelled.
    ///
    /// # Errors
    /// As running the model and writing the folder.
    pub fn finish(&self, model: &Model, folder: &Path, progress: &Progress) -> Result<Finished> {
        let name = folder.file_name().map_or_else(|| "dictionary".to_owned(), |n| n.to_string_lossy().into_owned());
        let (r, dictionary) = (&self.recipe, self.trainer.dictionary(&name)?);
        let judge = || evaluate(model, &dictionary, &self.held, LOSS_TOKENS, progress);
        let quality = match self.is_judged().then(judge).transpose() {
            // Whoever does not wait for the figures has the dictionary all the same.
            Err(Error::Cancelled) => None,
            other => other?,
        };
        let begun = model.start(r.bos).is_ok_and(|start| !start.is_empty());
        // SAELens cuts text by the first two.
        let about = json!({"context_size": r.context.min(model.config.n_ctx), "prepend_bos": begun, "circuitscope": {
            "settings": r.settings, "text": r.text, "context": r.context, "tokens": r.tokens, "positions": self.positions,
            "first_position": r.include_first, "quality": quality, "curve": self.trainer.curve,
        }});
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let card = card::card(self, &dictionary, quality.as_ref(), model);
        write_atomic(&folder.join("CARD.md"), card.as_bytes())?;
        // The configuration comes last: a folder that has one is finished.
        saelens::save(&dictionary, folder, &about)?;
        let state = folder.join(STATE);
        if state.is_file() {
            std::fs::remove_file(&state).map_err(|e| Error::write(&state, e))?;
        }
        Ok((dictionary, quality))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            site: Place::parse("blocks.0.mlp.hook_in").unwrap(),
            target: None,
            text: vec!["prose".to_owned()],
            context: 16,
            tokens: Some(200),
            bos: false,
            include_first: false,
            settings: Settings { features: 32, k: 4, steps: 10, batch: 64, ..Settings::default() },
        }
    }

    /// What is read at an MLP's input cannot be put back there, so that there is no loss to judge by; what was trained is
    /// written all the same, with the line that trains it again.
    #[test]
    fn a_site_that_is_only_read_is_trained_on_without_a_score() {
        let model = Model::open("text").unwrap();
        let (dir, progress) = (tempfile::tempdir().unwrap(), Progress::new());
        let folder = dir.path().join("inputs");
        let mut training = recipe().begin(&model, Keep::Not(1 << 30), &progress).unwrap();
        assert!(!training.held.is_empty() && training.positions > 100);
        training.run(&model, &folder, &progress, &mut |_| {}).unwrap();
        let (d, quality) = training.finish(&model, &folder, &progress).unwrap();
        assert!(quality.is_none() && d.name == "inputs");
        assert_eq!(crate::features::open(folder.to_str().unwrap(), &progress).unwrap().input, Some(recipe().site));
        let card = crate::files::read_text(&folder.join("CARD.md"), 1 << 20).unwrap();
        assert!(card.contains("--site blocks.0.mlp.hook_in --text prose --context 16"), "{card}");
    }

    /// Stopped while it is judged, a training is done all the same.
    #[test]
    fn a_training_outlives_its_judging() {
        let model = Model::open("text").unwrap();
        let (dir, progress) = (tempfile::tempdir().unwrap(), Progress::new());
        let site = Place::parse("blocks.0.hook_resid_post").unwrap();
        let mut training = Recipe { site, ..recipe() }.begin(&model, Keep::Not(1 << 30), &progress).unwrap();
        let mut done = progress.fraction();
        let mut rises = || std::mem::replace(&mut done, progress.fraction()) <= progress.fraction();
        training.run(&model, dir.path(), &progress, &mut |_| assert!(rises())).unwrap();
        let before = progress.counts().1;
        assert!(dir.path().join(STATE).is_file());
        let stopped = Progress::new();
        stopped.cancel();
        let (d, quality) = training.finish(&model, dir.path(), &stopped).unwrap();
        assert!(quality.is_none() && d.d_sae == 32 && !dir.path().join(STATE).is_file());
        let whole = training.finish(&model, dir.path(), &progress).unwrap().1.unwrap();
        assert!(whole.tokens > 0);
        let (done, total) = progress.counts();
        assert!(done == total && total <= before + before / 50, "{total} after {before}: judging was reckoned with");
    }

    /// What was trained up to then is kept.
    #[test]
    fn a_training_that_is_stopped_while_it_is_judged_goes_on() {
        let model = Model::open("text").unwrap();
        let (dir, progress) = (tempfile::tempdir().unwrap(), Progress::new());
        let recipe = Recipe { site: Place::parse("blocks.0.hook_resid_post").unwrap(), ..recipe() };
        let mut training = recipe.begin(&model, Keep::Not(1 << 30), &progress).unwrap();
        let mut judge = |_: &Trainer| {
            progress.cancel();
            progress.check().map(|()| None)
        };
        let stopped = training.trainer.run(Some(dir.path()), &progress, &mut judge, &mut |_| {});
        assert!(matches!(stopped, Err(Error::Cancelled)));
        let mut again = recipe.begin(&model, Keep::Not(1 << 30), &Progress::new()).unwrap();
        assert!(again.trainer.resume(dir.path()).unwrap() && again.trainer.step > 0);
    }

    #[test]
    fn what_was_held_out_is_known_of_the_same_text_only() {
        let model = Model::open("text").unwrap();
        let mut d = crate::features::open("text-features", &Progress::new()).unwrap();
        let text = ["mixed", "prose"].map(str::to_owned);
        let cut = Cut::new(128, Some(600_000));
        assert_eq!(held_out(&d, &model, &text, &cut), Some(true));
        assert_eq!(held_out(&d, &model, &text[1..], &cut), None);
        assert_eq!(held_out(&d, &model, &text, &Cut::new(64, Some(600_000))), None);
        d.config = json!({});
        assert_eq!(held_out(&d, &model, &text, &cut), None);
    }

    #[test]
    fn what_cannot_be_written_is_not_begun() {
        let model = Model::open("text").unwrap();
        let target = Some(Place::parse("blocks.0.hook_mlp_out").unwrap());
        let mut r = Recipe { target, ..recipe() };
        let error = r.check(&model.config).unwrap_err().to_string();
        assert!(error.contains("topk transcoder"), "{error}");
        r.settings.method = Method::L1;
        r.check(&model.config).unwrap();
        assert_eq!(r.width(&model.config), 2 * model.config.d_model);
    }
}
