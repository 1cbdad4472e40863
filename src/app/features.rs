//! What the feature views show: the dictionary, what it says of the prompt, the index of examples, directions, and what
//! is being trained. Each piece of work runs on a thread of its own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use eframe::egui;

use super::feature_work::{follow_on, rank, split};
use super::notify::{Level, Notices};
pub use super::pending::Pending;
use super::pending::Wake;
use crate::engine::edit::{Action as Do, Direction, FeatureChange};
use crate::engine::{Edit, EditStack, SiteKind};
use crate::error::{Error, Result};
use crate::features::concept::{ConceptSet, Pool};
use crate::features::dashboard::{Effects, Groups, effects, group_examples, neighbours, neuron_direction};
use crate::features::direction::{Concept, Method, find};
use crate::features::feature_map::{FeatureMap, feature_map};
use crate::features::formats::saelens;
use crate::features::labels::{Label, Labels};
use crate::features::quality::ce_score;
use crate::features::reading::{Order, Reading, read};
use crate::features::scan::{Index, Plan, Subject};
use crate::features::steering::{Dose, Watched, dose_response, strengths};
use crate::features::text::{Rows, documents};
use crate::features::train::activations::Harvest;
use crate::features::train::{Origin, Point, Settings, Trainer};
use crate::features::{Dictionary, Place, index_file};
use crate::jobs::Run;
use crate::model::Model;

/// Tokens of an example on either side.
const WINDOW: usize = 5;
/// Tokens of a row of text.
const CONTEXT: usize = 128;
/// Similarity below which examples count as unrelated.
pub const UNRELATED: f32 = 0.12;

/// What the dashboard is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chosen {
    Feature(u32),
    Neuron(usize, usize),
    /// A direction, by its place in the list.
    Concept(usize),
}

/// What is known of it beyond the index.
pub struct Page {
    pub chosen: Chosen,
    pub effects: Option<Effects>,
    /// Features that point the same way.
    pub neighbours: Vec<(usize, f32)>,
    /// Groups of its strongest examples.
    pub groups: Option<Groups>,
    /// For each group the features that are most active in it and not in the others, and how much more.
    pub split: Vec<Vec<(u32, f32)>>,
}

/// A direction in the list of the monitor.
pub struct Watch {
    pub concept: Arc<Concept>,
    pub layer: usize,
    /// Value above which a token is marked.
    pub threshold: f32,
}

/// What is monitored on each token: directions, then features.
pub struct Monitored {
    /// Text of every token: the prompt's, and those generated after it where they are read as well.
    pub texts: Vec<String>,
    /// Tokens of the prompt.
    pub prompt: usize,
    pub names: Vec<String>,
    /// [row][pos].
    pub values: Vec<Vec<f32>>,
    /// The same after the first layer, for directions: little more than what the word itself says.
    pub word: Vec<Option<Vec<f32>>>,
    pub thresholds: Vec<f32>,
}

/// What the monitor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Follow {
    #[default]
    Prompt,
    Generated,
    /// What was generated under the edits, as the edited model reads it.
    Steered,
}

/// Tokens generated after a prompt: without edits, and with them and the edits themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continued {
    pub plain: Vec<u32>,
    pub steered: Vec<u32>,
    pub stack: EditStack,
}

/// Which index a scan makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    Features,
    /// Neurons of this layer.
    Neurons(usize),
}

/// What is trained in the window.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainAsk {
    pub site: String,
    pub text: String,
    pub tokens: usize,
    pub settings: Settings,
}

#[derive(Clone, Debug)]
pub enum FeatureAction {
    Open(String),
    Order(Order),
    Choose(Chosen),
    /// Reads what was generated as well, without edits or with them, or the prompt alone.
    Follow(Follow),
    /// Keeps a feature in the monitor, or takes it out.
    Keep(u32),
    Scan(Scanned, String, usize),
    OpenIndex(String),
    StopScan,
    Label(u32, Label),
    Find(String, Method, SiteKind),
    OpenConcept(String),
    SaveConcept(usize, String),
    Forget(usize),
    Layer(usize, usize),
    Threshold(usize, f32),
    Dose(Vec<String>, Vec<String>),
    Map,
    Train(Box<TrainAsk>),
    StopTraining,
}

pub struct FeaturesState {
    pub spec: String,
    pub dictionary: Pending<Dictionary>,
    pub reading: Pending<Reading>,
    pub order: Order,
    pub chosen: Option<Chosen>,
    pub page: Pending<Page>,
    /// Examples of the dictionary's features, and of a layer's neurons.
    pub index: Pending<Index>,
    pub neurons: Pending<Index>,
    pub labels: Labels,
    /// Labels as they lie beside the dictionary.
    written: Pending<Labels>,
    /// Neurons of the scanned layer, those whose examples fall apart most first.
    pub ranking: Pending<Vec<(usize, Groups)>>,
    pub finding: Pending<Concept>,
    pub watched: Vec<Watch>,
    pub kept: Vec<u32>,
    pub monitored: Pending<Monitored>,
    pub follow: Follow,
    continued: Continued,
    pub doses: Pending<Vec<Dose>, Dose>,
    /// What the doses are of.
    pub dosed: String,
    pub map: Pending<FeatureMap>,
    pub training: Pending<PathBuf, Point>,
    pub train: TrainAsk,
    saving: Pending<()>,
    /// What is to be done one after the other, each when all before it is there: by pictures and lessons.
    pub queue: VecDeque<FeatureAction>,
    /// Where trainings and indexes are kept.
    pub place: PathBuf,
    /// What the reading and the monitor were made from.
    read_key: Option<(Arc<Run>, Arc<Dictionary>)>,
    monitor_key: Option<(Arc<Run>, u64)>,
    /// The model that everything here is of.
    model: Weak<Model>,
    /// Whether the labels beside the dictionary have been read.
    labels_known: bool,
    watch_version: u64,
    wake: Wake,
}

impl FeaturesState {
    pub fn new(ctx: &egui::Context) -> Self {
        let ctx = ctx.clone();
        let place = directories::ProjectDirs::from("", "", "circuitscope")
            .map_or_else(|| std::env::temp_dir().join("circuitscope"), |d| d.cache_dir().to_owned())
            .join("features");
        Self {
            spec: String::new(),
            dictionary: Pending::default(),
            reading: Pending::default(),
            order: Order::default(),
            chosen: None,
            page: Pending::default(),
            index: Pending::default(),
            neurons: Pending::default(),
            labels: Labels::default(),
            written: Pending::default(),
            ranking: Pending::default(),
            finding: Pending::default(),
            watched: Vec::new(),
            kept: Vec::new(),
            monitored: Pending::default(),
            follow: Follow::default(),
            continued: Continued::default(),
            doses: Pending::default(),
            dosed: String::new(),
            map: Pending::default(),
            training: Pending::default(),
            train: TrainAsk {
                site: String::new(),
                text: "mixed".to_owned(),
                tokens: 100_000,
                settings: Settings { features: 1024, steps: 1000, ..Settings::default() },
            },
            saving: Pending::default(),
            queue: VecDeque::new(),
            place,
            read_key: None,
            monitor_key: None,
            model: Weak::new(),
            labels_known: false,
            watch_version: 0,
            wake: Arc::new(move || ctx.request_repaint()),
        }
    }

    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.is_busy()
    }

    fn is_busy(&self) -> bool {
        let busy = [
            self.dictionary.is_running(),
            self.reading.is_running(),
            self.page.is_running(),
            self.index.is_running(),
            self.neurons.is_running(),
            self.finding.is_running(),
            self.monitored.is_running(),
            self.doses.is_running(),
            self.map.is_running(),
            self.training.is_running(),
            self.saving.is_running(),
            self.written.is_running(),
            self.ranking.is_running(),
        ];
        busy.contains(&true)
    }

    /// What runs, for the status line: its name, share done, seconds left.
    pub fn running(&self) -> Option<(&'static str, f32, Option<f64>)> {
        let of = |name, p: Option<(f32, Option<f64>)>| p.map(|(f, s)| (name, f, s));
        of("training a dictionary", self.training.progress())
            .or(of("scanning text", self.index.progress()))
            .or(of("scanning text for neurons", self.neurons.progress()))
            .or(of("finding directions", self.finding.progress()))
            .or(of("dose and response", self.doses.progress()))
            .or(of("laying out the map", self.map.progress()))
            .or(of("reading the dictionary", self.dictionary.progress()))
    }

    /// Stops everything that takes long.
    pub fn cancel(&mut self) {
        self.training.stop();
        self.index.stop();
        self.neurons.stop();
        self.finding.stop();
        self.doses.stop();
        self.map.stop();
        self.dictionary.stop();
    }

    /// What another dictionary makes meaningless.
    fn forget_dictionary(&mut self) {
        self.map.reset();
        self.index.reset();
        self.page.reset();
        self.doses.reset();
        self.reading.reset();
    }

    /// What another model makes meaningless: everything but the dictionary itself, which may fit that one too.
    fn forget_model(&mut self) {
        self.forget_dictionary();
        self.neurons.reset();
        self.ranking.reset();
        self.monitored.reset();
        self.finding.stop();
        self.training.stop();
        self.watched.clear();
        self.chosen = None;
        (self.read_key, self.monitor_key) = (None, None);
        self.watch_version += 1;
    }

    fn is_concept_of(&self, model: &Model) -> bool {
        self.watched.iter().all(|w| w.concept.model == model.config.name)
    }

    /// Takes in what arrived and asks for what follows from the run; true if anything changed.
    pub fn update(
        &mut self,
        model: Option<&Arc<Model>>,
        run: Option<&Arc<Run>>,
        continued: Continued,
        notices: &mut Notices,
    ) -> bool {
        if self.continued != continued {
            self.continued = continued;
            self.watch_version += u64::from(self.follow != Follow::Prompt);
        }
        let (mut changed, opened) = self.dictionary.update();
        if opened && let Some(d) = self.dictionary.value.clone() {
            self.chosen = None;
            self.read_key = None;
            self.forget_dictionary();
            self.kept.clear();
            self.watch_version += 1;
            self.labels = Labels::default();
            self.labels_known = false;
            self.written.start(&self.wake, move |_, _| Labels::open(&d.path));
        }
        let (labels_changed, labels_there) = self.written.update();
        changed |= labels_changed;
        if labels_there && let Some(l) = &self.written.value {
            self.labels = (**l).clone();
            self.labels_known = true;
            self.watch_version += 1;
        }
        let mut note = |(c, done): (bool, bool)| {
            changed |= c;
            done
        };
        note(self.reading.update());
        note(self.page.update());
        let neurons = note(self.neurons.update());
        if neurons && let Some(index) = self.neurons.value.clone() {
            self.ranking.reset();
            self.ranking.start(&self.wake, move |p, _| rank(&index, p));
        }
        note(self.ranking.update());
        if note(self.index.update()) || neurons {
            self.page.reset();
            notices.push(Level::Info, "The text is scanned.");
        }
        note(self.monitored.update());
        note(self.saving.update());
        note(self.doses.update());
        note(self.map.update());
        if note(self.finding.update())
            && let Some(c) = self.finding.value.take()
        {
            let layer = c.best().map_or(0, |b| b.layer);
            notices.push(Level::Info, format!("{}: best at layer {layer}.", c.name));
            self.watched.push(Watch { concept: c, layer, threshold: 0.0 });
            self.watch_version += 1;
            self.chosen.get_or_insert(Chosen::Concept(self.watched.len() - 1));
        }
        if note(self.training.update())
            && let Some(folder) = self.training.value.clone()
        {
            notices.push(Level::Info, format!("The dictionary is trained; it lies in {}.", folder.display()));
            self.apply(FeatureAction::Open(folder.display().to_string()), model, run, notices);
        }
        for error in [
            self.dictionary.error.take_if(|_| self.dictionary.value.is_some()),
            self.written.error.take(),
            self.saving.error.take(),
            self.finding.error.take(),
            self.training.error.take(),
        ]
        .into_iter()
        .flatten()
        {
            notices.push(Level::Error, error);
        }
        if let Some(model) = model {
            if !self.model.upgrade().is_some_and(|m| Arc::ptr_eq(&m, model)) {
                self.model = Arc::downgrade(model);
                self.forget_model();
                changed = true;
            }
            if run.is_none() {
                (self.read_key, self.monitor_key) = (None, None);
                self.reading.reset();
                self.monitored.reset();
            }
            self.follow(model, run);
            if run.is_some()
                && !self.is_busy()
                && let Some(next) = self.queue.pop_front()
            {
                self.apply(next, Some(model), run, notices);
                changed = true;
            }
        }
        changed
    }

    /// Reads the run with the dictionary and the directions, and makes the page of what is chosen.
    fn follow(&mut self, model: &Arc<Model>, run: Option<&Arc<Run>>) {
        if let (Some(d), Some(run)) = (self.dictionary.value.clone(), run) {
            let same = |(r, k): &(Arc<Run>, Arc<Dictionary>)| Arc::ptr_eq(r, run) && Arc::ptr_eq(k, &d);
            if !self.read_key.as_ref().is_some_and(same) {
                self.read_key = Some((run.clone(), d.clone()));
                let (trace, answer, wrong) = (run.trace.clone(), run.answer, run.wrong);
                self.reading.start(&self.wake, move |p, _| read(d, trace, answer, wrong, p));
            }
        }
        if let Some(run) = run
            && self.is_concept_of(model)
        {
            let wanted = !self.watched.is_empty() || !self.kept.is_empty();
            let same = |(r, v): &(Arc<Run>, u64)| Arc::ptr_eq(r, run) && *v == self.watch_version;
            if wanted && !self.monitor_key.as_ref().is_some_and(same) {
                self.monitor_key = Some((run.clone(), self.watch_version));
                self.monitor(model, run);
            }
        }
        if let Some(chosen) = self.chosen
            && self.page.value.as_ref().is_none_or(|p| p.chosen != chosen)
            && !self.page.is_running()
            && self.page.error.is_none()
        {
            self.turn_to(chosen, model);
        }
    }

    fn monitor(&mut self, model: &Arc<Model>, run: &Arc<Run>) {
        let (model, trace) = (model.clone(), run.trace.clone());
        let watched: Vec<(Arc<Concept>, usize, f32)> =
            self.watched.iter().map(|w| (w.concept.clone(), w.layer, w.threshold)).collect();
        let kept = self.kept.clone();
        let dictionary = self.dictionary.value.clone();
        let labels = self.labels.clone();
        let (follow, continued) = (self.follow, self.continued.clone());
        self.monitored.start(&self.wake, move |progress, _| {
            let prompt = trace.len();
            let trace = follow_on(&model, trace, follow, &continued, progress)?;
            let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
            let (mut names, mut values, mut thresholds) = (Vec::new(), Vec::new(), Vec::new());
            let mut word = Vec::new();
            for (concept, layer, threshold) in watched {
                let read = |layer: usize| -> Result<Vec<f32>> {
                    let place = Place::from(concept.site(layer)?);
                    concept.read(layer, &place.rows(&model, &trace.value(place.site)?)?)
                };
                names.push(format!("{} · layer {layer}", concept.name));
                values.push(read(layer)?);
                word.push(Some(read(0)?));
                thresholds.push(threshold);
            }
            if let Some(d) = dictionary.filter(|_| !kept.is_empty()) {
                let (input, _) = d.check(&model.config)?;
                let acts = d.encode(&input.rows(&model, &trace.value(input.site)?)?, progress)?;
                for f in kept {
                    let label = labels.of(f).map_or(String::new(), |l| format!(" {}", l.label));
                    names.push(format!("feature {f}{label}"));
                    values.push((0..acts.rows()).map(|p| acts.at(p, f)).collect());
                    thresholds.push(0.0);
                    word.push(None);
                }
            }
            Ok(Monitored { texts, prompt, names, values, word, thresholds })
        });
    }

    /// What a chosen thing writes.
    fn direction(&self, chosen: Chosen, model: &Model) -> Result<Vec<f32>> {
        match chosen {
            Chosen::Feature(f) => {
                let d = self.dictionary.value.as_ref();
                d.ok_or_else(|| Error::request("no dictionary is open; open one first"))?.direction(f as usize)
            }
            Chosen::Neuron(layer, n) => neuron_direction(model, layer, n),
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                Ok(w.concept.at(w.layer)?.vector.clone())
            }
        }
    }

    fn turn_to(&mut self, chosen: Chosen, model: &Arc<Model>) {
        let direction = self.direction(chosen, model);
        let (model, dictionary) = (model.clone(), self.dictionary.value.clone());
        let in_stream = match chosen {
            Chosen::Neuron(..) => true,
            Chosen::Feature(_) => dictionary.as_ref().and_then(|d| d.output).is_some_and(Place::in_stream),
            Chosen::Concept(i) => {
                let site = self.watched.get(i).map(|w| w.concept.site(w.layer));
                site.is_some_and(|s| s.is_ok_and(|s| Place::from(s).in_stream()))
            }
        };
        let examples = self.entry(chosen).map(|e| e.top.clone());
        self.page.start(&self.wake, move |progress, _| {
            let direction = direction?;
            let effects = if in_stream && direction.len() == model.config.d_model {
                Some(effects(&model, &direction)?)
            } else {
                None
            };
            let itself = match chosen {
                Chosen::Feature(f) => Some(f as usize),
                _ => None,
            };
            let fitting = dictionary.as_ref().filter(|d| d.d_out == direction.len());
            let near = fitting.map_or(Ok(Vec::new()), |d| neighbours(d, &direction, itself))?;
            let groups = examples.as_ref().map(|e| group_examples(e, UNRELATED));
            let split = match (&dictionary, &examples, &groups, chosen) {
                (Some(d), Some(e), Some(g), Chosen::Neuron(..)) if d.check(&model.config).is_ok() => {
                    split(&model, d, e, g, progress)?
                }
                _ => Vec::new(),
            };
            Ok(Page { chosen, effects, neighbours: near, groups, split })
        });
    }

    /// What the index knows of a feature or neuron.
    pub fn entry(&self, chosen: Chosen) -> Option<&crate::features::scan::Entry> {
        match chosen {
            Chosen::Feature(f) => self.index.value.as_ref()?.entries.get(f as usize),
            Chosen::Neuron(layer, n) => {
                let index = self.neurons.value.as_ref()?;
                (index.about.subject == Subject::Neurons(layer).name()).then(|| index.entries.get(n)).flatten()
            }
            Chosen::Concept(_) => None,
        }
    }

    pub fn index_of(&self, chosen: Chosen) -> Option<&Arc<Index>> {
        match chosen {
            Chosen::Feature(_) => self.index.value.as_ref(),
            Chosen::Neuron(..) => self.neurons.value.as_ref(),
            Chosen::Concept(_) => None,
        }
    }

    /// Changes with every dictionary and when its labels have been read.
    pub fn labels_stamp(&self) -> u64 {
        self.dictionary.stamp + self.written.stamp
    }

    /// What a chosen thing is called.
    pub fn name(&self, chosen: Chosen) -> String {
        match chosen {
            Chosen::Feature(f) => match self.labels.of(f) {
                Some(l) if !l.label.is_empty() => format!("feature {f} · {}", l.label),
                _ => format!("feature {f}"),
            },
            Chosen::Neuron(l, n) => format!("neuron {l}.{n}"),
            Chosen::Concept(i) => self
                .watched
                .get(i)
                .map_or_else(|| "direction".to_owned(), |w| format!("{} at layer {}", w.concept.name, w.layer)),
        }
    }

    /// Where the open dictionary lies: what edits name it by.
    fn dictionary_path(&self) -> String {
        self.dictionary.value.as_ref().map_or_else(String::new, |d| d.path.display().to_string())
    }

    /// An edit that adds what a chosen thing writes, `alpha` times.
    ///
    /// # Errors
    /// Without a dictionary, or one that writes no site.
    pub fn steer(&self, chosen: Chosen, alpha: f32, model: &Model) -> Result<Edit> {
        let vector = self.direction(chosen, model)?;
        let site = match chosen {
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                return w.concept.steer(w.layer, alpha);
            }
            Chosen::Feature(_) => {
                let d = self.dictionary.value.as_ref().ok_or_else(|| Error::request("no dictionary is open"))?;
                d.check(&model.config)?.1.site
            }
            Chosen::Neuron(layer, _) => crate::engine::Site::new(SiteKind::MlpOut, layer),
        };
        let direction = match chosen {
            Chosen::Feature(f) => Direction::Feature { dictionary: self.dictionary_path(), feature: f as usize },
            _ => Direction::Concept { name: self.name(chosen), vector },
        };
        Ok(Edit::new(site, Do::Add { direction, factor: alpha }))
    }

    /// An edit that takes a chosen thing out.
    ///
    /// # Errors
    /// As [`Self::steer`].
    pub fn ablate(&self, chosen: Chosen, model: &Model) -> Result<Edit> {
        match chosen {
            Chosen::Feature(f) => {
                let d = self.dictionary.value.as_ref().ok_or_else(|| Error::request("no dictionary is open"))?;
                let action = Do::Feature {
                    dictionary: self.dictionary_path(),
                    feature: f as usize,
                    change: FeatureChange::Set(0.0),
                };
                Ok(Edit::new(d.check(&model.config)?.1.site, action))
            }
            Chosen::Neuron(layer, n) => {
                Ok(Edit::new(crate::engine::Site::new(SiteKind::MlpPost, layer), Do::Zero).coordinate(n))
            }
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                let direction = w.concept.edit_direction(w.layer)?;
                Ok(Edit::new(w.concept.site(w.layer)?, Do::Project { direction }))
            }
        }
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
        slot.start(&self.wake, move |progress, _| {
            let texts = vec![text];
            let rows = Rows::cut(&model, &documents(&texts)?, CONTEXT, Some(tokens), progress)?;
            let plan = Plan {
                model: &model,
                subject,
                rows: &rows,
                texts,
                context: CONTEXT,
                limit: Some(tokens),
                shard: (0, 1),
                window: WINDOW,
            };
            plan.run(None, progress)
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
        let edit = move |alpha: f32| {
            let mut e = base.clone();
            if let Do::Add { factor, .. } = &mut e.action {
                *factor = alpha;
            }
            Ok(e)
        };
        self.doses.reset();
        self.dosed = self.name(chosen);
        let (model, ids) = (model.clone(), run.trace.ids.clone());
        self.doses.start(&self.wake, move |progress, parts| {
            let alphas = strengths(most, 6);
            let reference = documents(&["prose".to_owned()])?;
            let rows = Rows::cut(&model, &reference[..1], 64, Some(192), progress)?;
            dose_response(&model, &ids, &edit, &alphas, &watched, &rows, progress, |d| parts.send(d))
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
            let rows = Rows::cut(&model, &documents(std::slice::from_ref(&ask.text))?, CONTEXT, Some(ask.tokens), progress)?;
            let every = rows.rows.len().clamp(2, 20);
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
            let few = Rows { rows: held.rows.iter().take(8).cloned().collect(), document: vec![0; 8] };
            let mut judge = |t: &Trainer| {
                let d = t.dictionary("live")?;
                (!few.rows.is_empty()).then(|| ce_score(&model, &d, &few, progress)).transpose()
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
