//! What the feature views show: the dictionary, what it says of the prompt, the index of examples, directions, and what
//! is being trained. Each piece of work runs on a thread of its own.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use eframe::egui;
use serde::{Deserialize, Serialize};

use super::feature_heat::{Heat, heat};
use super::feature_work::{Split, follow_on, rank, split};
use super::kept_scans;
use super::notify::{Level, Notices};
pub use super::pending::Pending;
use super::pending::Wake;
use crate::engine::{EditStack, SiteKind};
use crate::error::{Error, Result};
use crate::features::concept::Pool;
use crate::features::dashboard::{Effects, Groups, effects, group_examples, neighbours};
use crate::features::direction::{Concept, Method};
use crate::features::feature_map::FeatureMap;
use crate::features::index::Index;
use crate::features::labels::{Label, Labels};
use crate::features::reading::{Order, Reading, read};
use crate::features::scan::Subject;
use crate::features::steering::Dose;
use crate::features::train::{Point, Settings};
use crate::features::{Dictionary, Place, Sparse, index_file};
use crate::jobs::Run;
use crate::model::Model;

/// Neurons of a ranking whose groups are split by features.
const SPLIT_NEURONS: usize = 30;
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

/// Neurons in order of how far their strongest examples fall apart, and the index that has them.
pub struct Ranking {
    pub index: Arc<Index>,
    pub neurons: Vec<(usize, Groups)>,
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
    /// A direction, by its place in the list, at the layer that is chosen for it.
    Direction(usize),
}

/// Texts with and without a concept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examples {
    /// A shipped set or a file.
    Set(String),
    /// As they were typed, one a line.
    Typed { name: String, with: String, without: String },
}

/// How a direction is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    pub examples: Examples,
    pub method: Method,
    pub kind: SiteKind,
    pub pool: Pool,
}

/// What is trained in the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainAsk {
    pub site: String,
    /// What a transcoder learns to write.
    pub target: Option<String>,
    pub text: String,
    pub tokens: usize,
    pub settings: Settings,
}

#[derive(Clone, Debug)]
pub enum FeatureAction {
    Open(String),
    /// The site that the dictionary reads and writes, where its file does not say.
    Site(String),
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
    Find(Box<Search>),
    OpenConcept(String),
    SaveConcept(usize, String),
    Forget(usize),
    Layer(usize, usize),
    Threshold(usize, f32),
    /// The value above which a kept feature marks a token.
    KeptThreshold(u32, f32),
    /// Tokens to go towards and away from, and the text on which the cost is measured.
    Dose(Vec<String>, Vec<String>, String),
    Map,
    Train(Box<TrainAsk>),
    StopTraining,
}

pub struct FeaturesState {
    pub spec: String,
    pub dictionary: Pending<Dictionary>,
    pub reading: Pending<Reading>,
    pub order: Order,
    /// What each active feature adds to the answer, once that is asked for.
    pub attribution: Pending<Sparse>,
    pub heat: Pending<Heat>,
    heat_key: Option<(u64, Order, u64)>,
    attribution_key: Option<u64>,
    pub chosen: Option<Chosen>,
    pub page: Pending<Page>,
    /// Examples of the dictionary's features (while a first scan runs, those of the text so far), and of a layer's
    /// neurons.
    pub index: Pending<Index, Index>,
    pub neurons: Pending<Index, Index>,
    /// The same of a direction, and which.
    pub read_out: Pending<Index, Index>,
    pub(super) read_out_of: Option<(Arc<Concept>, usize)>,
    /// Features that the index found active, and the index's stamp.
    living: (u64, usize),
    pub labels: Labels,
    /// Labels as they lie beside the dictionary.
    pub(super) written: Pending<Labels>,
    /// Neurons of the scanned layer, those whose examples fall apart most first.
    pub ranking: Pending<Ranking>,
    /// Of the first neurons of the ranking, the features that tell each group apart.
    pub splits: Pending<(), (usize, Split)>,
    pub finding: Pending<Concept>,
    pub watched: Vec<Watch>,
    /// Features in the monitor, and the activation above which each marks a token.
    pub kept: Vec<(u32, f32)>,
    pub monitored: Pending<Monitored>,
    pub follow: Follow,
    pub(super) continued: Continued,
    pub doses: Pending<Vec<Dose>, Dose>,
    /// What the doses are of.
    pub dosed: String,
    pub map: Pending<FeatureMap>,
    pub training: Pending<PathBuf, Point>,
    pub train: TrainAsk,
    pub(super) saving: Pending<()>,
    /// What is to be done one after the other, each when all before it is there: by pictures and lessons.
    pub queue: VecDeque<FeatureAction>,
    /// Where trainings and indexes are kept.
    pub place: PathBuf,
    /// Whether scans are kept there and found again: in the window, not in pictures.
    pub keeps: bool,
    /// A scan of the dictionary that was made before.
    found: Pending<Option<Index>>,
    sought: Option<(Weak<Model>, Arc<Dictionary>)>,
    /// What the reading and the monitor were made from.
    read_key: Option<(Arc<Run>, Arc<Dictionary>)>,
    monitor_key: Option<(Arc<Run>, u64)>,
    /// The model that everything here is of.
    model: Weak<Model>,
    /// Whether the labels beside the dictionary have been read.
    pub(super) labels_known: bool,
    pub(super) watch_version: u64,
    pub(super) wake: Wake,
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
            attribution: Pending::default(),
            heat: Pending::default(),
            heat_key: None,
            attribution_key: None,
            chosen: None,
            page: Pending::default(),
            index: Pending::default(),
            neurons: Pending::default(),
            read_out: Pending::default(),
            read_out_of: None,
            living: (u64::MAX, 0),
            labels: Labels::default(),
            written: Pending::default(),
            ranking: Pending::default(),
            splits: Pending::default(),
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
                target: None,
                text: "mixed".to_owned(),
                tokens: 100_000,
                settings: Settings { features: 1024, steps: 1000, ..Settings::default() },
            },
            saving: Pending::default(),
            queue: VecDeque::new(),
            place,
            keeps: false,
            found: Pending::default(),
            sought: None,
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
            self.heat.is_running(),
            self.attribution.is_running(),
            self.read_out.is_running(),
            self.splits.is_running(),
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
            self.found.is_running(),
        ];
        busy.contains(&true)
    }

    /// What runs, for the status line: its name, share done, seconds left.
    pub fn running(&self) -> Option<(&'static str, f32, Option<f64>)> {
        let of = |name, p: Option<(f32, Option<f64>)>| p.map(|(f, s)| (name, f, s));
        of("training a dictionary", self.training.progress())
            .or(of("scanning text", self.index.progress()))
            .or(of("scanning text for neurons", self.neurons.progress()))
            .or(of("scanning text for a direction", self.read_out.progress()))
            .or(of("attributing the answer to features", self.attribution.progress()))
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
        self.read_out.stop();
        self.splits.stop();
        self.attribution.stop();
        self.finding.stop();
        self.doses.stop();
        self.map.stop();
        self.dictionary.stop();
    }

    /// What another dictionary makes meaningless.
    fn forget_dictionary(&mut self) {
        self.map.reset();
        self.index.reset();
        self.found.reset();
        self.page.reset();
        self.doses.reset();
        self.reading.reset();
        self.splits.reset();
        self.forget_reading();
    }

    /// What was made from a reading.
    fn forget_reading(&mut self) {
        self.attribution.reset();
        self.heat.reset();
        (self.heat_key, self.attribution_key) = (None, None);
    }

    /// What another model makes meaningless: everything but the dictionary itself, which may fit that one too.
    fn forget_model(&mut self) {
        self.forget_dictionary();
        self.neurons.reset();
        self.ranking.reset();
        self.read_out.reset();
        self.monitored.reset();
        self.finding.stop();
        self.training.stop();
        self.watched.clear();
        self.chosen = None;
        (self.read_key, self.monitor_key) = (None, None);
        self.watch_version += 1;
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
        if note(self.reading.update()) {
            self.forget_attribution();
        }
        note(self.attribution.update());
        note(self.heat.update());
        note(self.page.update());
        let neurons = note(self.neurons.update());
        let more_neurons = self.neurons.show_newest_part();
        if (neurons || more_neurons)
            && let Some(index) = self.neurons.value.clone()
        {
            // What was ranked before is shown until then.
            self.ranking.start(&self.wake, move |p, _| rank(&index, p));
            self.splits.reset();
        }
        if more_neurons && matches!(self.chosen, Some(Chosen::Neuron(..))) && !self.page.is_running() {
            self.page.reset();
        }
        if note(self.ranking.update())
            && let (Some(r), Some(d), Some(m)) =
                (self.ranking.value.clone(), self.dictionary.value.clone(), model.cloned())
            && r.index.about.is_complete()
            && d.check(&m.config).is_ok()
        {
            self.splits.start(&self.wake, move |p, parts| {
                r.neurons.iter().take(SPLIT_NEURONS).try_for_each(|(n, groups)| {
                    let Some(entry) = r.index.entries.get(*n) else { return Ok(()) };
                    parts.send((*n, split(&m, &d, &entry.top, groups, p)?));
                    Ok(())
                })
            });
        }
        note(self.splits.update());
        let read_out = note(self.read_out.update());
        self.read_out.show_newest_part();
        let scanned = note(self.index.update());
        self.index.show_newest_part();
        if self.living.0 != self.index.stamp {
            let count = self.index.value.as_ref().map_or(0, |i| i.entries.iter().filter(|e| e.active > 0).count());
            self.living = (self.index.stamp, count);
        }
        if note(self.found.update())
            && let Some(index) = self.found.value.take().and_then(Arc::into_inner).flatten()
            && self.index.value.is_none()
            && !self.index.is_running()
        {
            self.index.set(index);
            self.page.reset();
        }
        if scanned || neurons || read_out {
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
            self.found.error.take(),
            self.splits.error.take(),
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
                self.forget_reading();
                self.monitored.reset();
            }
            self.seek(model);
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

    /// Looks for a scan of the dictionary that was made before.
    fn seek(&mut self, model: &Arc<Model>) {
        let Some(d) = self.dictionary.value.clone().filter(|d| self.keeps && d.input.is_some()) else { return };
        let same = |(m, k): &(Weak<Model>, Arc<Dictionary>)| m.as_ptr() == Arc::as_ptr(model) && Arc::ptr_eq(k, &d);
        if self.sought.as_ref().is_some_and(same) {
            return;
        }
        self.sought = Some((Arc::downgrade(model), d.clone()));
        let (place, name) = (self.place.clone(), model.config.name.clone());
        self.found.start(&self.wake, move |_, _| {
            let newest = kept_scans::newest(&place, &name, &Subject::Features(d))?;
            newest.map(|p| index_file::open(&p)).transpose()
        });
    }

    /// Reads the run with the dictionary and the directions, and makes the page of what is chosen.
    fn follow(&mut self, model: &Arc<Model>, run: Option<&Arc<Run>>) {
        if let (Some(d), Some(run)) = (self.dictionary.value.clone(), run) {
            let same = |(r, k): &(Arc<Run>, Arc<Dictionary>)| Arc::ptr_eq(r, run) && Arc::ptr_eq(k, &d);
            if !self.read_key.as_ref().is_some_and(same) {
                self.read_key = Some((run.clone(), d.clone()));
                let trace = run.trace.clone();
                self.reading.start(&self.wake, move |p, _| read(d, trace, p));
            }
            self.draw(run);
        }
        if let Some(run) = run {
            let wanted = !self.watched.is_empty() || !self.kept.is_empty();
            let same_run = |(r, _): &(Arc<Run>, u64)| Arc::ptr_eq(r, run);
            let same = |k: &(Arc<Run>, u64)| same_run(k) && k.1 == self.watch_version;
            // While text is being generated, one reading ends before the next begins.
            let waits = self.monitored.is_running() && self.monitor_key.as_ref().is_some_and(same_run);
            if wanted && !waits && !self.monitor_key.as_ref().is_some_and(same) {
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

    /// What was attributed belongs to the reading before.
    fn forget_attribution(&mut self) {
        self.attribution.reset();
        self.attribution_key = None;
    }

    /// Whether the heatmap was made from this reading.
    pub fn heat_is_of(&self, reading: &Arc<Reading>) -> bool {
        self.heat_key.is_some_and(|(stamp, ..)| stamp == self.reading.stamp)
            && self.reading.value.as_ref().is_some_and(|r| Arc::ptr_eq(r, reading))
    }

    /// Asks for the heatmap, and for the attribution that it is to be ordered by.
    fn draw(&mut self, run: &Arc<Run>) {
        let Some(reading) = self.reading.value.clone().filter(|_| !self.reading.is_running()) else { return };
        let answers = self.order == Order::Answer;
        if answers && self.attribution_key != Some(self.reading.stamp) {
            self.attribution_key = Some(self.reading.stamp);
            // Without an answer of the user's the model's own favourite is explained.
            let favourite = || run.trace.next.last().and_then(|n| n.first()).map(|t| t.id);
            let (reading, answer, wrong) = (reading.clone(), run.answer.or_else(favourite), run.wrong);
            self.attribution.start(&self.wake, move |p, _| {
                let answer = answer.ok_or_else(|| Error::request("there is no answer yet; type one at the top"))?;
                reading.attribution(answer, wrong, p)
            });
        }
        let attribution = self.attribution.value.clone().filter(|_| answers);
        let key = (self.reading.stamp, self.order, attribution.as_ref().map_or(0, |_| self.attribution.stamp));
        // One picture is finished before the next is begun, so that a held key shows some of them.
        if self.heat_key == Some(key) || self.heat.is_running() || answers && attribution.is_none() {
            return;
        }
        self.heat_key = Some(key);
        let order = self.order;
        self.heat.start(&self.wake, move |p, _| heat(&reading, order, attribution.as_deref(), p));
    }

    /// Features that were active in the scanned text.
    pub fn living(&self) -> usize {
        self.living.1
    }

    fn monitor(&mut self, model: &Arc<Model>, run: &Arc<Run>) {
        let (model, trace) = (model.clone(), run.trace.clone());
        let watched: Vec<(Arc<Concept>, usize)> = self.watched.iter().map(|w| (w.concept.clone(), w.layer)).collect();
        let kept: Vec<u32> = self.kept.iter().map(|k| k.0).collect();
        let dictionary = self.dictionary.value.clone();
        let labels = self.labels.clone();
        let (follow, continued) = (self.follow, self.continued.clone());
        self.monitored.start(&self.wake, move |progress, _| {
            let prompt = trace.len();
            let trace = follow_on(&model, trace, follow, &continued, progress)?;
            let texts = (0..trace.len()).map(|p| trace.token_text(p)).collect();
            let (mut names, mut values) = (Vec::new(), Vec::new());
            let mut word = Vec::new();
            for (concept, layer) in watched {
                let read = |layer: usize| -> Result<Vec<f32>> {
                    let place = Place::from(concept.site(layer)?);
                    concept.read(layer, &place.rows(&model, &trace.value(place.site)?)?)
                };
                names.push(format!("{} · layer {layer}", concept.name));
                values.push(read(layer)?);
                word.push(Some(read(0)?));
            }
            if let Some(d) = dictionary.filter(|_| !kept.is_empty()) {
                let (input, _) = d.check(&model.config)?;
                let acts = d.encode(&input.rows(&model, &trace.value(input.site)?)?, progress)?;
                for f in kept {
                    let label = labels.of(f).map_or(String::new(), |l| format!(" {}", l.label));
                    names.push(format!("feature {f}{label}"));
                    values.push((0..acts.rows()).map(|p| acts.at(p, f)).collect());
                    word.push(None);
                }
            }
            Ok(Monitored { texts, prompt, names, values, word })
        });
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
            // Features are compared by what they write to their own layer.
            let near = match (fitting, itself) {
                (Some(d), Some(f)) => neighbours(d, &d.direction(f)?, itself)?,
                (Some(d), None) => neighbours(d, &direction, None)?,
                (None, _) => Vec::new(),
            };
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
    pub fn entry(&self, chosen: Chosen) -> Option<&crate::features::index::Entry> {
        match chosen {
            Chosen::Feature(f) => self.index.value.as_ref()?.entries.get(f as usize),
            Chosen::Neuron(layer, n) => {
                let index = self.neurons.value.as_ref()?;
                (index.about.subject == Subject::Neurons(layer).name()).then(|| index.entries.get(n)).flatten()
            }
            Chosen::Concept(i) => self.index_of(Chosen::Concept(i))?.entries.first(),
        }
    }

    pub fn index_of(&self, chosen: Chosen) -> Option<&Arc<Index>> {
        match chosen {
            Chosen::Feature(_) => self.index.value.as_ref(),
            Chosen::Neuron(..) => self.neurons.value.as_ref(),
            Chosen::Concept(i) => {
                let w = self.watched.get(i)?;
                let (concept, layer) = self.read_out_of.as_ref()?;
                (Arc::ptr_eq(concept, &w.concept) && *layer == w.layer)
                    .then_some(self.read_out.value.as_ref())
                    .flatten()
            }
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
}
