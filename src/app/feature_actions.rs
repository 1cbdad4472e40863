//! What the feature views ask for, and how it is begun: scans, directions, doses, trainings, edits.

use std::path::Path;
use std::sync::Arc;

use super::features::{Chosen, FeatureAction, FeaturesState, Scanned, TrainAsk};
use super::kept_scans;
use super::notify::{Level, Notices};
use crate::engine::edit::{Action as Do, Direction, FeatureChange};
use crate::engine::{Edit, Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::concept::{ConceptSet, Pool};
use crate::features::dashboard::neuron_direction;
use crate::features::direction::{Concept, find};
use crate::features::feature_edit::{changed, steered};
use crate::features::feature_map::feature_map;
use crate::features::formats::saelens;
use crate::features::quality::ce_score;
use crate::features::rows::Rows;
use crate::features::scan::{Plan, Subject};
use crate::features::steering::{Watched, dose_response, strengths};
use crate::features::train::activations::Harvest;
use crate::features::train::{Origin, Trainer};
use crate::features::{Dictionary, Place, index_file};
use crate::jobs::Run;
use crate::model::Model;

/// Tokens of an example on either side.
const WINDOW: usize = 5;
/// Tokens of a row of text.
const CONTEXT: usize = 128;

impl FeaturesState {
    /// What a chosen thing writes; of a feature that writes to several layers, their sum.
    pub(super) fn direction(&self, chosen: Chosen, model: &Model) -> Result<Vec<f32>> {
        match chosen {
            Chosen::Feature(f) => self.opened()?.0.summed_direction(f as usize),
            Chosen::Neuron(layer, n) => neuron_direction(model, layer, n),
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                Ok(w.concept.at(w.layer)?.vector.clone())
            }
        }
    }

    /// The dictionary that is open, and the name by which edits find it.
    fn opened(&self) -> Result<(&Arc<Dictionary>, String)> {
        let d =
            self.dictionary.value.as_ref().ok_or_else(|| Error::request("no dictionary is open; open one first"))?;
        Ok((d, d.path.display().to_string()))
    }

    /// The edits that add what a chosen thing writes, `alpha` times.
    ///
    /// # Errors
    /// Without a dictionary, or one that writes no site.
    pub fn steer(&self, chosen: Chosen, alpha: f32, model: &Model) -> Result<Vec<Edit>> {
        let one = match chosen {
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                w.concept.steer(w.layer, alpha)?
            }
            Chosen::Feature(f) => {
                let (d, spec) = self.opened()?;
                return steered(d, &spec, f as usize, alpha, &model.config);
            }
            Chosen::Neuron(layer, _) => {
                let direction = Direction::Concept { name: self.name(chosen), vector: self.direction(chosen, model)? };
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
                let direction = w.concept.edit_direction(w.layer)?;
                Edit::new(w.concept.site(w.layer)?, Do::Project { direction })
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
                self.dictionary.start(&self.wake, move |p, _| {
                    // Edits that name it then find it read already.
                    crate::features::shared(&spec, p).map(|d| (*d).clone())
                });
            }
            FeatureAction::Order(order) => self.order = order,
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
                match self.kept.iter().position(|k| *k == f) {
                    Some(i) => drop(self.kept.remove(i)),
                    None => self.kept.push(f),
                }
                self.watch_version += 1;
            }
            FeatureAction::Scan(what, text, tokens) => self.scan(what, text, tokens, model()?)?,
            FeatureAction::OpenIndex(path) => {
                let model = model()?;
                let dictionary = self.dictionary.value.clone();
                self.index.start(&self.wake, move |_, _| {
                    let index = index_file::open(Path::new(&path))?;
                    if index.about.model != model.config.name {
                        return Err(Error::request(format!(
                            "the index was made with {}, not {}; open that model first",
                            index.about.model, model.config.name
                        )));
                    }
                    let site = dictionary.as_ref().and_then(|d| d.input).map(|p| p.to_string());
                    if site.is_some_and(|s| s != index.about.site) {
                        return Err(Error::request(format!(
                            "the index is of {}, where this dictionary does not read; open the one that was scanned",
                            index.about.site
                        )));
                    }
                    match dictionary {
                        Some(d) if d.d_sae != index.entries.len() => Err(Error::request(format!(
                            "the index has {} features, but {} has {}; open the dictionary that was scanned",
                            index.entries.len(),
                            d.name,
                            d.d_sae
                        ))),
                        _ => Ok(index),
                    }
                });
            }
            FeatureAction::StopScan => {
                self.index.stop();
                self.neurons.stop();
            }
            FeatureAction::Label(..) if !self.labels_known => {
                return Err(Error::request(
                    "the labels beside this dictionary could not be read, so none is written over them; mend labels.json first",
                ));
            }
            FeatureAction::Label(f, label) => {
                self.labels.set(f, label);
                self.watch_version += 1;
                if let Some(d) = &self.dictionary.value {
                    let (labels, path) = (self.labels.clone(), d.path.clone());
                    // One after the other: the newest must be the last.
                    let earlier = self.saving.take_task();
                    self.saving.start(&self.wake, move |_, _| {
                        if let Some(earlier) = earlier {
                            earlier.wait();
                        }
                        labels.save(&path)
                    });
                }
            }
            FeatureAction::Find(set, method, kind) => {
                let model = model()?;
                self.finding.start(&self.wake, move |progress, _| {
                    find(&model, &ConceptSet::open(&set)?, kind, Pool::Mean, method, progress)
                });
            }
            FeatureAction::OpenConcept(path) => {
                self.finding.start(&self.wake, move |_, _| Concept::open(Path::new(&path)));
            }
            FeatureAction::SaveConcept(i, path) => {
                if let Some(w) = self.watched.get(i) {
                    let concept = w.concept.clone();
                    self.saving.start(&self.wake, move |_, _| concept.save(Path::new(&path)));
                }
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
                self.watch_version += 1;
            }
            FeatureAction::Dose(towards, away) => self.dose(&towards, &away, &model()?, run)?,
            FeatureAction::Map => {
                let d = self.dictionary.value.clone().ok_or_else(|| Error::request("no dictionary is open"))?;
                let living = self.index.value.as_ref().map(|i| {
                    (0..i.entries.len() as u32).filter(|f| i.entries[*f as usize].active > 0).collect::<Vec<_>>()
                });
                self.map.start(&self.wake, move |p, _| feature_map(&d, living.as_deref(), p));
            }
            FeatureAction::Train(ask) => self.start_training(*ask, model()?)?,
            FeatureAction::StopTraining => self.training.stop(),
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
        };
        subject.place()?.check(&model.config)?;
        let slot = if what == Scanned::Features { &mut self.index } else { &mut self.neurons };
        let keep = self.keeps.then(|| self.place.clone());
        slot.start(&self.wake, move |progress, parts| {
            let texts = vec![text];
            let rows = Rows::cut(&model, &texts, CONTEXT, Some(tokens), progress)?;
            let plan = Plan {
                model: &model,
                subjects: vec![subject],
                rows: &rows,
                texts,
                context: CONTEXT,
                limit: Some(tokens),
                shard: (0, 1),
                window: WINDOW,
            };
            let file = keep.map(|folder| kept_scans::file(&folder, &plan)).transpose()?;
            let files = file.as_ref().map(std::slice::from_ref);
            let mut all = plan.run(files, progress, &mut |_, index| parts.send(index.clone()))?;
            all.pop().ok_or_else(|| Error::failed("the scan gave no index"))
        });
        Ok(())
    }

    fn dose(&mut self, towards: &[String], away: &[String], model: &Arc<Model>, run: Option<&Arc<Run>>) -> Result<()> {
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
        self.doses.start(&self.wake, move |progress, parts| {
            let alphas = strengths(most, 6);
            let rows = Rows::cut(&model, &["prose".to_owned()], 64, Some(192), progress)?;
            dose_response(&model, &ids, &edits, &alphas, &watched, &rows, progress, |d| parts.send(d))
        });
        Ok(())
    }

    fn start_training(&mut self, ask: TrainAsk, model: Arc<Model>) -> Result<()> {
        ask.settings.check()?;
        let place = Place::parse(&ask.site)?;
        place.check(&model.config)?;
        let name = format!("{}-{place}-{}", model.config.name, ask.settings.method.name());
        let name: String =
            name.chars().map(|c| if c.is_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect();
        // A folder of its own: labels and edits of an earlier dictionary go on meaning that one.
        let number = (1..).find(|n| !self.place.join(format!("{name}-{n}")).exists()).unwrap_or(0);
        let folder = self.place.join(format!("{name}-{number}"));
        self.train = ask.clone();
        self.training.start(&self.wake, move |progress, parts| {
            let rows = Rows::cut(&model, std::slice::from_ref(&ask.text), CONTEXT, Some(ask.tokens), progress)?;
            let every = rows.len().clamp(2, 20);
            let (trained, held) = rows.held_out(every);
            let harvest = Harvest {
                model: &model,
                rows: &trained,
                places: &[place],
                skip_first: true,
                keep: None,
                memory: 2 << 30,
            };
            let table = harvest.run(progress)?.remove(0);
            let origin =
                Origin { model_name: Some(model.config.name.clone()), input: Some(place), output: Some(place) };
            let mut trainer = Trainer::new(ask.settings.clone(), origin, table, None)?;
            let few = held.first(8);
            let mut judge = |t: &Trainer| {
                let d = t.dictionary("live")?;
                (!few.is_empty()).then(|| ce_score(&model, &d, &few, progress)).transpose()
            };
            trainer.run(None, progress, &mut judge, &mut |p| parts.send(p))?;
            let d = trainer.dictionary("trained")?;
            let about = serde_json::json!({"circuitscope": {"settings": ask.settings, "text": ask.text, "curve": trainer.curve}});
            saelens::save(&d, &folder, &about)?;
            Ok(folder)
        });
        Ok(())
    }
}
