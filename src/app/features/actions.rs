//! What the feature views can be told, and what is begun by a button: scans, directions, doses, maps, trainings.

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::features::{CONTEXT, Chosen, FeatureAction, FeaturesState, Scanned, Shown};
use crate::app::shell::notices::{Level, Notices};
use crate::error::{Error, Result};
use crate::features::direction::search::{DirectionOf, DirectionSource};
use crate::features::feature_map::FeatureMapOf;
use crate::features::scan::Subject;
use crate::features::scan::question::{IndexFileOf, ScanOf};
use crate::features::steering::{DosesOf, Watched};
use crate::features::train::kept::KeptActivationsOf;
use crate::features::train::recipe::Recipe;
use crate::features::train::set::recipe_of;
use crate::features::train::shelf::{DictionaryTrainingOf, SetTrainingOf};
use crate::features::{Dictionary, Place};
use crate::jobs::Pool;
use crate::jobs::slot::Slot;
use crate::model::Model;
use crate::question::Question;

/// Begins what a button asks for; the same again if it was stopped or failed.
fn begin<Q: Question>(slot: &mut Slot<Q>, pool: &Pool, question: Q) {
    slot.want(pool, None);
    slot.want(pool, Some(question));
}

impl FeaturesState {
    pub fn apply(&mut self, action: FeatureAction, pool: &Pool, shown: &Shown, notices: &mut Notices) {
        if let Err(e) = self.act(action, pool, shown) {
            notices.push(Level::Error, e.to_string());
        }
    }

    /// Does what comes next of what waits, once all before it is there; true if something came.
    pub fn follow_queue(&mut self, pool: &Pool, shown: &Shown, notices: &mut Notices) -> bool {
        if shown.trace.is_none() || self.is_busy() {
            return false;
        }
        let next = self.queue.pop_front();
        let some = next.is_some();
        next.into_iter().for_each(|action| self.apply(action, pool, shown, notices));
        some
    }

    fn act(&mut self, action: FeatureAction, pool: &Pool, shown: &Shown) -> Result<()> {
        let model = || shown.model.clone().ok_or_else(|| Error::request("no model is open; open one first"));
        let desk = &mut self.desk;
        match action {
            FeatureAction::Open(spec) => self.open(spec),
            FeatureAction::Page(spec, feature) => {
                if desk.dictionary != spec {
                    self.open(spec);
                }
                // What was chosen of another dictionary goes when this one is there.
                self.queue.push_back(FeatureAction::Choose(Chosen::Feature(feature)));
            }
            FeatureAction::Close => {
                desk.dictionary.clear();
                desk.kept.clear();
                desk.chosen = desk.chosen.filter(|c| !matches!(c, Chosen::Feature(_)));
            }
            FeatureAction::Site(site, target) => self.place(&site, target.as_deref(), &*model()?)?,
            FeatureAction::Order(order) => desk.order = order,
            FeatureAction::Choose(chosen) => {
                desk.chosen = Some(chosen);
                if self.page.is_stopped() || self.page.error().is_some() {
                    self.page.again();
                }
            }
            FeatureAction::Follow(follow) => desk.follow = follow,
            FeatureAction::Keep(f) => match desk.kept.iter().position(|k| k.0 == f) {
                Some(i) => drop(desk.kept.remove(i)),
                None => desk.kept.push((f, 0.0)),
            },
            FeatureAction::Scan(what, text, tokens) => self.scan(pool, what, text, tokens, model()?)?,
            FeatureAction::OpenIndex(path) => {
                let directions = desk.watched.iter().map(|w| Subject::Direction(w.concept.clone(), w.layer));
                let mut subjects: Vec<Subject> = directions.collect();
                subjects.extend(self.dictionary().cloned().map(Subject::Features));
                begin(&mut self.arriving, pool, IndexFileOf { path: PathBuf::from(path), model: model()?, subjects });
            }
            FeatureAction::StopScan => {
                [&mut self.index, &mut self.neurons, &mut self.read_out].into_iter().for_each(Slot::stop);
            }
            FeatureAction::Label(unit, label) => self.labels.set(unit, label)?,
            FeatureAction::Find(search) => {
                let source = DirectionSource::Search(*search);
                begin(&mut self.finding, pool, DirectionOf { model: model()?, source });
            }
            FeatureAction::OpenConcept(path) => {
                let source = DirectionSource::File(PathBuf::from(path));
                begin(&mut self.finding, pool, DirectionOf { model: model()?, source });
            }
            FeatureAction::Forget(i) => {
                if i < desk.watched.len() {
                    desk.watched.remove(i);
                }
                desk.chosen = desk.chosen.filter(|c| !matches!(c, Chosen::Concept(_)));
            }
            FeatureAction::Layer(i, layer) => desk.watched.get_mut(i).into_iter().for_each(|w| w.layer = layer),
            FeatureAction::Threshold(i, v) => desk.watched.get_mut(i).into_iter().for_each(|w| w.threshold = v),
            FeatureAction::KeptThreshold(f, v) => {
                desk.kept.iter_mut().filter(|k| k.0 == f).for_each(|k| k.1 = v);
            }
            FeatureAction::Dose(towards, away, text) => self.dose(pool, &towards, &away, text, shown)?,
            FeatureAction::Map => {
                let (dictionary, index) = (self.open_dictionary()?, self.index().cloned());
                begin(&mut self.map, pool, FeatureMapOf { dictionary, index });
            }
            FeatureAction::Train(recipe, keep) => self.train(pool, *recipe, keep, model()?)?,
            FeatureAction::TrainSet(recipe) => self.train_set(pool, *recipe, model()?)?,
            FeatureAction::Capture(path) => desk.captured = Some((path, true)),
            FeatureAction::ReadCaptured(on) => desk.captured.iter_mut().for_each(|c| c.1 = on),
            FeatureAction::StopTraining => self.stop_training(),
            FeatureAction::ForgetActivations => {
                let folder = self.folders.activations.clone();
                self.kept_activations.again();
                begin(&mut self.kept_activations, pool, KeptActivationsOf { folder, remove: true });
            }
        }
        Ok(())
    }

    fn open_dictionary(&self) -> Result<Arc<Dictionary>> {
        self.dictionary().cloned().ok_or_else(|| Error::request("no dictionary is open; open one first"))
    }

    /// Names the sites of the open dictionary. What was said here before gives way; what its file says does not.
    fn place(&mut self, site: &str, target: Option<&str>, model: &Model) -> Result<()> {
        let opened = self.dictionary.get().ok_or_else(|| Error::request("no dictionary is open; open one first"))?;
        let sites = (Place::parse(site)?, target.map(Place::parse).transpose()?);
        (*opened.of_file).clone().placed(sites.0, sites.1)?.check(&model.config)?;
        self.desk.dictionary.clone_from(&opened.question.spec);
        self.desk.sites.insert(self.desk.dictionary.clone(), sites);
        Ok(())
    }

    fn scan(&mut self, pool: &Pool, what: Scanned, text: String, tokens: usize, model: Arc<Model>) -> Result<()> {
        let subject = match what {
            Scanned::Features => Subject::Features(self.open_dictionary()?),
            Scanned::Neurons(layer) => Subject::Neurons(layer),
            Scanned::Direction(i) => {
                let w = self.desk.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                Subject::Direction(w.concept.clone(), w.layer)
            }
        };
        subject.place()?.check(&model.config)?;
        let companion = self.dictionary().cloned().filter(|d| d.check(&model.config).is_ok());
        let found = what == Scanned::Features && self.found.fresh().is_some_and(|f| f.value.is_some());
        let slot = match what {
            Scanned::Features => &mut self.index,
            Scanned::Neurons(_) => &mut self.neurons,
            Scanned::Direction(_) => &mut self.read_out,
        };
        // A whole index is shown until the next is whole: this scan may be stopped.
        let other = |q: &ScanOf| matches!(what, Scanned::Direction(_)) && q.subject != subject;
        let parts = !found && slot.get().is_none_or(|a| !a.whole || other(&a.question));
        let folder = self.folders.keeps.then(|| self.folders.scans.clone());
        let (texts, context, limit) = (vec![text], CONTEXT, Some(tokens));
        begin(slot, pool, ScanOf { model, subject, companion, texts, context, limit, folder, parts });
        Ok(())
    }

    fn dose(&mut self, pool: &Pool, towards: &[String], away: &[String], text: String, shown: &Shown) -> Result<()> {
        let nothing = || Error::request("nothing is chosen; choose a feature or direction");
        let chosen = self.desk.chosen.ok_or_else(nothing)?;
        let trace = shown.trace.clone().ok_or_else(|| Error::request("there is no run yet; type a prompt"))?;
        // A feature is driven as far as it ever was, a direction to twice the distance of its classes.
        let most = match chosen {
            Chosen::Concept(_) => 2.0,
            _ => self.entry(chosen).map_or(10.0, |e| e.max.max(0.1)),
        };
        let question = DosesOf {
            watched: Watched::parse(&trace.model, towards, away)?,
            writer: self.writer(chosen)?,
            name: self.name(chosen),
            most,
            text,
            store: self.store.clone(),
            trace,
        };
        question.writer.steer(1.0, &question.trace.model)?;
        self.doses.forget();
        begin(&mut self.doses, pool, question);
        Ok(())
    }

    fn train(&mut self, pool: &Pool, recipe: Recipe, keep: bool, model: Arc<Model>) -> Result<()> {
        recipe.check(&model.config)?;
        self.desk.recipe = recipe.clone();
        let keep = keep.then(|| self.folders.activations.clone());
        // One that is just being stopped still writes its checkpoint; the slot waits for it.
        self.training.forget();
        self.set_training.forget();
        begin(
            &mut self.training,
            pool,
            DictionaryTrainingOf { model, recipe, shelf: self.folders.shelf.clone(), keep },
        );
        Ok(())
    }

    fn train_set(&mut self, pool: &Pool, recipe: Recipe, model: Arc<Model>) -> Result<()> {
        // As it is for the first layer: the others have sites of their own.
        let recipe = recipe_of(&recipe, 0)?;
        recipe.check(&model.config)?;
        self.desk.recipe = recipe.clone();
        self.training.forget();
        self.set_training.forget();
        begin(&mut self.set_training, pool, SetTrainingOf { model, recipe, shelf: self.folders.shelf.clone() });
        Ok(())
    }
}
