//! What the feature views ask for, and how it is begun: scans, directions, doses, trainings, edits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::analysis::run::Run;
use crate::app::features::CONTEXT;
use crate::app::features::Chosen;
use crate::app::features::Examples;
use crate::app::features::FeatureAction;
use crate::app::features::FeaturesState;
use crate::app::features::Scanned;
use crate::app::features::Search;
use crate::app::features::Trained;
use crate::app::shell::notices::Level;
use crate::app::shell::notices::Notices;
use crate::engine::edit::{Action as Do, Direction, FeatureChange};
use crate::engine::{Edit, Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::edit::{changed, steered};
use crate::features::dictionary::formats::saelens;
use crate::features::direction::concept::ConceptSet;
use crate::features::direction::{Concept, find};
use crate::features::feature_map::feature_map;
use crate::features::rows::{Cut, Rows};
use crate::features::scan::index_file;
use crate::features::scan::{Plan, Subject};
use crate::features::steering::{Watched, dose_response, strengths};
use crate::features::train::activations::Keep;
use crate::features::train::kept;
use crate::features::train::recipe::{Recipe, Training};
use crate::features::{Dictionary, Place};
use crate::files::{file_name, write_atomic};
use crate::model::Model;

/// Tokens of an example on either side.
const WINDOW: usize = 5;
/// Bytes of activations up to which a training that keeps none has them in memory.
const IN_MEMORY: usize = 2 << 30;

impl FeaturesState {
    /// The dictionary that is open, and the name by which edits find it.
    pub fn opened(&self) -> Result<(&Arc<Dictionary>, String)> {
        let d =
            self.dictionary.value.as_ref().ok_or_else(|| Error::request("no dictionary is open; open one first"))?;
        Ok((d, d.path.display().to_string()))
    }

    /// The edits that add what a chosen thing writes, `alpha` times.
    ///
    /// # Errors
    /// Without a dictionary, or one that writes no site.
    pub fn steer(&self, chosen: Chosen, alpha: f32, model: &Arc<Model>) -> Result<Vec<Edit>> {
        let one = match chosen {
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                w.concept.steer(w.layer, alpha)?
            }
            Chosen::Feature(f) => {
                let (d, spec) = self.opened()?;
                return steered(d, &spec, f as usize, alpha, &model.config);
            }
            Chosen::Neuron(layer, n) => {
                // Without its label: an edit of the same direction by another name would not give way to this one.
                let (name, vector) = (format!("neuron {layer}.{n}"), self.writer(chosen, model)?.direction()?);
                let direction = Direction::Concept { name, vector };
                Edit::new(Site::new(SiteKind::MlpOut, layer), Do::Add { direction, factor: alpha })
            }
        };
        Ok(vec![one])
    }

    /// The edits that take a chosen thing out.
    ///
    /// # Errors
    /// As [`Self::steer`].
    pub fn ablate(&self, chosen: Chosen, model: &Model) -> Result<Vec<Edit>> {
        let one = match chosen {
            Chosen::Feature(f) => {
                let (d, spec) = self.opened()?;
                return changed(d, &spec, f as usize, FeatureChange::Set(0.0), &model.config);
            }
            Chosen::Neuron(layer, n) => Edit::new(Site::new(SiteKind::MlpPost, layer), Do::Zero).coordinate(n),
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                w.concept.ablate(w.layer)?
            }
        };
        Ok(vec![one])
    }

    pub fn apply(
        &mut self,
        action: FeatureAction,
        model: Option<&Arc<Model>>,
        run: Option<&Arc<Run>>,
        notices: &mut Notices,
    ) {
        if let Err(e) = self.act(action, model, run) {
            notices.push(Level::Error, e.to_string());
        }
    }

    fn act(&mut self, action: FeatureAction, model: Option<&Arc<Model>>, run: Option<&Arc<Run>>) -> Result<()> {
        let model = || model.cloned().ok_or_else(|| Error::request("no model is open; open one first"));
        match action {
            FeatureAction::Open(spec) => {
                self.spec.clone_from(&spec);
                let store = self.store.clone();
                // Edits that name it then find it read already.
                self.dictionary.start(&self.wake, move |p, _| store.open(&spec, p).map(|d| (*d).clone()));
            }
            FeatureAction::Close => self.close_dictionary(),
            FeatureAction::Site(site, target) => {
                let (d, spec) = self.opened().map(|(d, spec)| ((**d).clone(), spec))?;
                let mut d = d;
                // What was said here before gives way; what the file says does not.
                (d.input, d.output) = *self.unnamed.entry(spec.clone()).or_insert((d.input, d.output));
                let target = target.as_deref().map(Place::parse).transpose()?;
                let d = d.placed(Place::parse(&site)?, target)?;
                d.check(&model()?.config)?;
                self.store.insert(&spec, Arc::new(d.clone()))?;
                self.dictionary.start(&self.wake, move |_, _| Ok(d));
            }
            FeatureAction::Order(order) => (self.order, self.attribution_key) = (order, None),
            FeatureAction::Choose(chosen) => {
                self.chosen = Some(chosen);
                self.page.error = None;
                self.page.stop();
            }
            FeatureAction::Follow(follow) => {
                self.follow = follow;
                self.watch_version += 1;
            }
            FeatureAction::Keep(f) => {
                match self.kept.iter().position(|k| k.0 == f) {
                    Some(i) => drop(self.kept.remove(i)),
                    None => self.kept.push((f, 0.0)),
                }
                self.watch_version += 1;
            }
            FeatureAction::Scan(what, text, tokens) => self.scan(what, text, tokens, model()?)?,
            FeatureAction::OpenIndex(path) => {
                let model = model()?;
                self.arriving.start(&self.wake, move |_, _| {
                    let index = index_file::open(Path::new(&path))?;
                    if index.about.model != model.config.name {
                        return Err(Error::request(format!(
                            "the index was made with {}, not {}; open that model first",
                            index.about.model, model.config.name
                        )));
                    }
                    Ok(index)
                });
            }
            FeatureAction::StopScan => {
                self.index.stop();
                self.neurons.stop();
                self.read_out.stop();
            }
            FeatureAction::Label(unit, label) => {
                self.labels.set(unit, label)?;
                self.watch_version += 1;
            }
            FeatureAction::Find(search) => {
                let model = model()?;
                self.finding.start(&self.wake, move |progress, _| {
                    let Search { examples, method, kind, pool } = *search;
                    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
                    let set = match examples {
                        Examples::Set(spec) => ConceptSet::open(&spec)?,
                        Examples::Typed { name, with, without } => {
                            ConceptSet::from_lists(&name, &lines(&with), &lines(&without))?
                        }
                    };
                    find(&model, &set, kind, pool, method, progress)
                });
            }
            FeatureAction::OpenConcept(path) => {
                let model = model()?;
                self.finding.start(&self.wake, move |_, _| {
                    let concept = Concept::open(Path::new(&path))?;
                    concept.check(&model)?;
                    Ok(concept)
                });
            }
            FeatureAction::Forget(i) => {
                if i < self.watched.len() {
                    self.watched.remove(i);
                }
                if matches!(self.chosen, Some(Chosen::Concept(_))) {
                    self.chosen = None;
                    self.page.reset();
                }
                self.monitored.reset();
                self.watch_version += 1;
            }
            FeatureAction::Layer(i, layer) => {
                if let Some(w) = self.watched.get_mut(i) {
                    w.layer = layer;
                }
                if self.chosen == Some(Chosen::Concept(i)) {
                    self.page.reset();
                }
                self.watch_version += 1;
            }
            FeatureAction::Threshold(i, v) => {
                if let Some(w) = self.watched.get_mut(i) {
                    w.threshold = v;
                }
            }
            FeatureAction::KeptThreshold(f, v) => {
                if let Some(k) = self.kept.iter_mut().find(|k| k.0 == f) {
                    k.1 = v;
                }
            }
            FeatureAction::Dose(towards, away, text) => self.dose(&towards, &away, text, &model()?, run)?,
            FeatureAction::Map => {
                let d = self.dictionary.value.clone().ok_or_else(|| Error::request("no dictionary is open"))?;
                let living = self.index.value.as_ref().map(|i| {
                    (0..i.entries.len() as u32).filter(|f| i.entries[*f as usize].active > 0).collect::<Vec<_>>()
                });
                self.map.start(&self.wake, move |p, _| feature_map(&d, living.as_deref(), p));
            }
            FeatureAction::Train(ask, keep) => self.start_training(*ask, keep, model()?)?,
            FeatureAction::ForgetActivations => self.forget_activations(),
            FeatureAction::StopTraining => self.stop_training(),
        }
        Ok(())
    }

    fn scan(&mut self, what: Scanned, text: String, tokens: usize, model: Arc<Model>) -> Result<()> {
        let subject = match what {
            Scanned::Features => {
                let d = self.dictionary.value.clone().ok_or_else(|| Error::request("no dictionary is open"))?;
                Subject::Features(d)
            }
            Scanned::Neurons(layer) => Subject::Neurons(layer),
            Scanned::Direction(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                let (concept, layer) = (w.concept.clone(), w.layer);
                let same = |(c, l): &(Arc<Concept>, usize)| Arc::ptr_eq(c, &concept) && *l == layer;
                if !self.read_out_of.as_ref().is_some_and(same) {
                    self.read_out.reset();
                    self.read_out_of = Some((concept.clone(), layer));
                }
                Subject::Direction(concept, layer)
            }
        };
        subject.place()?.check(&model.config)?;
        // Neurons and directions are correlated with the features of the open dictionary.
        let companion = self.dictionary.value.clone().filter(|d| d.check(&model.config).is_ok());
        let slot = match what {
            Scanned::Features => &mut self.index,
            Scanned::Neurons(_) => &mut self.neurons,
            Scanned::Direction(_) => &mut self.read_out,
        };
        let keep = self.keeps.then(|| self.scans.clone());
        let bos = companion.as_ref().is_some_and(|d| d.wants_bos(&model));
        let asides = self.asides.0.clone();
        slot.start(&self.wake, move |progress, parts| {
            let texts = vec![text];
            let rows = Rows::cut(&model, &texts, &Cut { bos, ..Cut::new(CONTEXT, Some(tokens)) }, progress)?;
            let plan = Plan {
                model: &model,
                subjects: vec![subject],
                companion,
                rows: &rows,
                texts,
                context: CONTEXT,
                limit: Some(tokens),
                shard: (0, 1),
                window: WINDOW,
            };
            let file = keep.map(|folder| crate::features::scan::kept::file(&folder, &plan));
            let file = file.and_then(|f| {
                // Where none can be kept the scan is made all the same.
                let aside = |e: &Error| drop(asides.send(format!("This scan is not kept for another time: {e}.")));
                f.inspect_err(aside).ok()
            });
            let files = file.as_ref().map(std::slice::from_ref);
            let mut all = plan.run(files, progress, &mut |_, index| parts.send(index.clone()))?;
            all.pop().ok_or_else(|| Error::failed("the scan gave no index"))
        });
        Ok(())
    }

    fn dose(
        &mut self,
        towards: &[String],
        away: &[String],
        text: String,
        model: &Arc<Model>,
        run: Option<&Arc<Run>>,
    ) -> Result<()> {
        let chosen = self.chosen.ok_or_else(|| Error::request("nothing is chosen; choose a feature or direction"))?;
        let run = run.ok_or_else(|| Error::request("there is no run yet; type a prompt"))?;
        let watched = Watched::parse(model, towards, away)?;
        // A feature is driven as far as it ever was, a direction to twice the distance of its classes.
        let most = match chosen {
            Chosen::Concept(_) => 2.0,
            _ => self.entry(chosen).map_or(10.0, |e| e.max.max(0.1)),
        };
        let base = self.steer(chosen, 1.0, model)?;
        let edits = move |alpha: f32| {
            let mut edits = base.clone();
            for e in &mut edits {
                if let Do::Add { factor, .. } = &mut e.action {
                    *factor = alpha;
                }
            }
            Ok(edits)
        };
        self.doses.reset();
        self.dosed = self.name(chosen);
        let (model, ids) = (model.clone(), run.trace.ids.clone());
        let store = self.store.clone();
        self.doses.start(&self.wake, move |progress, parts| {
            let alphas = strengths(most, 6);
            let rows = Rows::cut(&model, &[text], &Cut::new(64, Some(192)), progress)?;
            dose_response(&model, &ids, &edits, &*store, &alphas, &watched, &rows, progress, |d| parts.send(d))
        });
        Ok(())
    }

    /// Finds out how many bytes of activations are kept; what is being taken away is measured when it is.
    pub fn measure_activations(&mut self) {
        if self.kept_bytes.is_running() {
            return;
        }
        let folder = self.activations.clone();
        self.kept_bytes.start(&self.wake, move |_, _| Ok(kept::bytes(&folder)));
    }

    fn forget_activations(&mut self) {
        let folder = self.activations.clone();
        self.kept_bytes.start(&self.wake, move |_, _| {
            kept::remove(&folder)?;
            Ok(kept::bytes(&folder))
        });
    }

    fn start_training(&mut self, recipe: Recipe, keep: bool, model: Arc<Model>) -> Result<()> {
        recipe.check(&model.config)?;
        self.train = recipe.clone();
        let activations = self.activations.clone();
        let shelf = self.place.clone();
        // One that is just being stopped still writes its checkpoint.
        let earlier = self.earlier_training();
        self.training.start(&self.wake, move |progress, parts| {
            if let Some(earlier) = earlier {
                earlier.wait();
            }
            let keep = if keep { Keep::Below(&activations) } else { Keep::Not(IN_MEMORY) };
            let mut training = recipe.begin(&model, keep, progress)?;
            let folder = training_folder(&shelf, &mut training)?;
            training.trainer.curve.iter().for_each(|p| parts.send(*p));
            training.run(&model, &folder, progress, &mut |p| parts.send(p))?;
            let (_, quality) = training.finish(&model, &folder, progress)?;
            Ok(Trained { folder, quality })
        });
        Ok(())
    }
}

/// What a training's folder says was asked for.
const ASKED: &str = "asked.json";

/// Where a training lies: in the folder of a stopped one that was asked for in the same words and saw the same
/// activations, which then goes on; else in a new one, so that labels and edits of an earlier dictionary go on meaning that
/// one.
fn training_folder(shelf: &Path, training: &mut Training) -> Result<PathBuf> {
    let (ask, trainer) = (training.recipe.clone(), &mut training.trainer);
    let target = ask.target.as_ref().map_or(String::new(), |t| format!("-to-{t}"));
    let model = trainer.origin.model_name.clone().unwrap_or_default();
    let name = format!("{model}-{}{target}-{}", ask.site, ask.settings.method.name());
    let name = file_name(&name);
    let asked = serde_json::to_vec(&ask).map_err(|e| Error::failed(e.to_string()))?;
    for n in 1.. {
        let folder = shelf.join(format!("{name}-{n}"));
        let unfinished = !folder.join(saelens::CONFIG).is_file();
        if unfinished
            && std::fs::read(folder.join(ASKED))
                .is_ok_and(|a| serde_json::from_slice(&a).is_ok_and(|a: Recipe| a == ask))
        {
            // What belongs to another text or model is left where it is.
            match trainer.resume(&folder) {
                Ok(_) => return Ok(folder),
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
