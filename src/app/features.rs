//! What the feature views show: the dictionary, what it says of the prompt, the index of examples, directions, and what
//! is being trained. Each piece of work runs on a thread of its own.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use eframe::egui;
use serde::{Deserialize, Serialize};

use super::feature_heat::{Heat, heat};
use super::feature_labels::Book;
use super::feature_monitor::{Continued, Follow, Monitored};
pub use super::feature_page::Page;
use super::feature_work::{Split, rank, split};
use super::kept_scans;
use super::notify::{Level, Notices};
pub use super::pending::Pending;
use super::pending::Wake;
use crate::engine::SiteKind;
use crate::error::{Error, Result};
use crate::features::concept::Pool;
use crate::features::dashboard::Groups;
use crate::features::direction::{Concept, Method};
use crate::features::feature_map::FeatureMap;
use crate::features::formats::saelens;
use crate::features::index::Index;
use crate::features::labels::{self, Label, Unit};
use crate::features::reading::{Order, Reading, read};
use crate::features::scan::Subject;
use crate::features::steering::Dose;
use crate::features::train::{Point, Settings};
use crate::features::{Dictionary, Place, Sparse, index_file};
use crate::jobs::task::Event;
use crate::jobs::{Run, Task};
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

/// What the window asks of the run that it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Asked {
    /// The pinned position.
    pub pos: usize,
    /// The answer at the last position: the user's, or the unedited model's own favourite.
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
}

#[derive(Clone, Debug)]
pub enum FeatureAction {
    Open(String),
    /// The sites that the dictionary reads and a transcoder writes, where its file does not say.
    Site(String, Option<String>),
    Order(Order),
    Choose(Chosen),
    /// Reads what was generated as well, without edits or with them, or the prompt alone.
    Follow(Follow),
    /// Keeps a feature in the monitor, or takes it out.
    Keep(u32),
    Scan(Scanned, String, usize),
    OpenIndex(String),
    StopScan,
    Label(Unit, Label),
    Find(Box<Search>),
    OpenConcept(String),
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
    /// Dictionaries whose sites were named here, and what their files say of them.
    pub(super) unnamed: HashMap<String, (Option<Place>, Option<Place>)>,
    pub reading: Pending<Reading>,
    pub order: Order,
    /// What each active feature adds to the answer, once that is asked for.
    pub attribution: Pending<Sparse>,
    pub heat: Pending<Heat>,
    heat_key: Option<(u64, Order, u64)>,
    pub(super) attribution_key: Option<(u64, Option<u32>, Option<u32>)>,
    asked: Asked,
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
    pub labels: Book,
    /// Neurons of the scanned layer, those whose examples fall apart most first.
    pub ranking: Pending<Ranking>,
    /// Of the first neurons of the ranking, the features that tell each group apart.
    pub splits: Pending<(), (usize, Split)>,
    /// Which ranking and dictionary those are of.
    split_key: Option<(u64, Arc<Dictionary>)>,
    /// An index from a file, before it is known whose it is.
    pub(super) arriving: Pending<Index>,
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
    /// A training that was told to stop and still writes its checkpoint.
    stopping: Option<Task<PathBuf, Point>>,
    pub train: TrainAsk,
    /// What is to be done one after the other, each when all before it is there: by pictures and lessons.
    pub queue: VecDeque<FeatureAction>,
    /// Where trainings and labels are kept.
    pub place: PathBuf,
    /// Where scans are kept.
    pub scans: PathBuf,
    /// Whether scans and labels are kept and found again: in the window, not in pictures.
    pub keeps: bool,
    /// A scan of the dictionary that was made before.
    found: Pending<Option<Index>>,
    sought: Option<(Weak<Model>, Arc<Dictionary>)>,
    /// What the reading and the monitor were made from.
    read_key: Option<(Arc<Run>, Arc<Dictionary>)>,
    monitor_key: Option<(Arc<Run>, u64)>,
    /// The model that everything here is of.
    model: Weak<Model>,
    pub(super) watch_version: u64,
    pub(super) wake: Wake,
}

impl FeaturesState {
    pub fn new(ctx: &egui::Context) -> Self {
        let ctx = ctx.clone();
        Self {
            spec: String::new(),
            dictionary: Pending::default(),
            unnamed: HashMap::new(),
            reading: Pending::default(),
            order: Order::default(),
            attribution: Pending::default(),
            heat: Pending::default(),
            heat_key: None,
            attribution_key: None,
            asked: Asked::default(),
            chosen: None,
            page: Pending::default(),
            index: Pending::default(),
            neurons: Pending::default(),
            read_out: Pending::default(),
            read_out_of: None,
            living: (u64::MAX, 0),
            labels: Book::default(),
            ranking: Pending::default(),
            splits: Pending::default(),
            split_key: None,
            arriving: Pending::default(),
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
            stopping: None,
            train: TrainAsk {
                site: String::new(),
                target: None,
                text: "mixed".to_owned(),
                tokens: 100_000,
                settings: Settings { features: 1024, steps: 1000, ..Settings::default() },
            },
            queue: VecDeque::new(),
            place: labels::folder(),
            scans: kept_scans::folder(),
            keeps: false,
            found: Pending::default(),
            sought: None,
            read_key: None,
            monitor_key: None,
            model: Weak::new(),
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
            self.labels.is_busy(),
            self.ranking.is_running(),
            self.found.is_running(),
            self.arriving.is_running(),
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
            .or(of("reading an index", self.arriving.progress()))
            .or(of("grouping examples", self.ranking.progress()))
            .or(of("telling groups apart by features", self.splits.progress()))
            .or(of("reading the monitor's run", self.monitored.progress()))
    }

    pub(super) fn stop_training(&mut self) {
        if let Some(task) = self.training.take_task() {
            task.progress().cancel();
            self.stopping = Some(task);
        }
    }

    /// The last training, to be waited for before another begins in the same folder.
    pub(super) fn earlier_training(&mut self) -> Option<Task<PathBuf, Point>> {
        self.stop_training();
        self.stopping.take()
    }

    /// Stops everything that takes long.
    pub fn cancel(&mut self) {
        self.stop_training();
        self.index.stop();
        self.neurons.stop();
        self.read_out.stop();
        self.splits.stop();
        if self.attribution.is_running() {
            // Asked for again it would begin at once.
            self.attribution.stop();
            (self.order, self.attribution_key) = (Order::Max, None);
        }
        self.arriving.stop();
        self.ranking.stop();
        self.monitored.stop();
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
        self.split_key = None;
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
        self.arriving.reset();
        self.monitored.reset();
        self.finding.stop();
        self.stop_training();
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
        asked: Asked,
        continued: Continued,
        notices: &mut Notices,
    ) -> bool {
        self.asked = asked;
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
            self.labels.turn_to_dictionary(&d, &self.wake);
        }
        let (labels_changed, labels_there) = self.labels.update();
        changed |= labels_changed;
        self.watch_version += u64::from(labels_there);
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
        }
        if more_neurons && matches!(self.chosen, Some(Chosen::Neuron(..))) && !self.page.is_running() {
            self.page.reset();
        }
        note(self.ranking.update());
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
        if note(self.arriving.update())
            && let Some(index) = self.arriving.value.take().and_then(Arc::into_inner)
        {
            match self.shelve(index) {
                Ok(what) => notices.push(Level::Info, what),
                Err(e) => notices.push(Level::Error, e.to_string()),
            }
        }
        note(self.monitored.update());
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
        let stopped = self.stopping.as_ref().and_then(Task::poll);
        let mut trained = note(self.training.update()).then(|| self.training.value.clone()).flatten();
        if let Some(Event::Done(outcome)) = stopped {
            self.stopping = None;
            match outcome {
                // It was done when it was told to stop.
                Ok(folder) => trained = trained.or(Some(Arc::new(folder))),
                Err(Error::Cancelled) => {}
                Err(e) => notices.push(Level::Error, e.to_string()),
            }
        }
        if let Some(folder) = trained {
            notices.push(Level::Info, format!("The dictionary is trained; it lies in {}.", folder.display()));
            self.apply(FeatureAction::Open(folder.display().to_string()), model, run, notices);
        }
        for error in [
            self.dictionary.error.take_if(|_| self.dictionary.value.is_some()),
            self.found.error.take(),
            self.splits.error.take(),
            self.ranking.error.take(),
            self.arriving.error.take(),
            self.finding.error.take(),
            self.training.error.take(),
        ]
        .into_iter()
        .flatten()
        .chain(self.labels.take_errors())
        {
            notices.push(Level::Error, error);
        }
        if let Some(model) = model {
            if !self.model.upgrade().is_some_and(|m| Arc::ptr_eq(&m, model)) {
                self.model = Arc::downgrade(model);
                self.forget_model();
                let folder = self.keeps.then(|| self.place.clone());
                self.labels.turn_to_model(model, folder, &self.wake);
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

    /// Puts an index that was opened where it belongs: to neurons, to a direction in the list, to the dictionary.
    fn shelve(&mut self, index: Index) -> Result<String> {
        let what = format!("Opened the index of {}: {} positions.", index.about.subject, index.about.positions);
        let of = index.about.subject_hash;
        let is_of = |w: &Watch| Subject::Direction(w.concept.clone(), w.layer).hash().is_ok_and(|hash| hash == of);
        // What is being scanned for the same place gives way.
        if index.about.is_of_neurons() {
            self.neurons.stop();
            self.neurons.set(index);
            if let Some(index) = self.neurons.value.clone() {
                self.ranking.start(&self.wake, move |p, _| rank(&index, p));
            }
        } else if let Some(w) = self.watched.iter().find(|w| is_of(w)) {
            self.read_out_of = Some((w.concept.clone(), w.layer));
            self.read_out.stop();
            self.read_out.set(index);
        } else {
            // Without a dictionary its examples are looked at by number.
            if let Some(d) = self.dictionary.value.clone()
                && (Subject::Features(d.clone()).hash()? != of
                    || d.input.is_some_and(|p| p.to_string() != index.about.site))
            {
                return Err(Error::request(format!(
                    "the index is of {}, {} features at {}, and neither of {} nor of a direction in the list; open what was scanned first",
                    index.about.subject,
                    index.entries.len(),
                    index.about.site,
                    d.name
                )));
            }
            self.index.stop();
            self.index.set(index);
        }
        self.page.reset();
        Ok(what)
    }

    /// Looks for a scan of the dictionary that was made before.
    fn seek(&mut self, model: &Arc<Model>) {
        let Some(d) = self.dictionary.value.clone().filter(|d| self.keeps && d.input.is_some()) else { return };
        let same = |(m, k): &(Weak<Model>, Arc<Dictionary>)| m.as_ptr() == Arc::as_ptr(model) && Arc::ptr_eq(k, &d);
        if self.sought.as_ref().is_some_and(same) {
            return;
        }
        self.sought = Some((Arc::downgrade(model), d.clone()));
        let (place, model) = (self.scans.clone(), model.clone());
        self.found.start(&self.wake, move |_, _| {
            let newest = kept_scans::newest(&place, &model, &Subject::Features(d))?;
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
            self.draw();
        }
        if let Some(run) = run {
            let wanted = !self.watched.is_empty() || !self.kept.is_empty();
            if !wanted && (self.monitored.value.is_some() || self.monitored.is_running()) {
                self.monitored.reset();
                self.monitor_key = None;
            }
            let same_run = |(r, _): &(Arc<Run>, u64)| Arc::ptr_eq(r, run);
            let same = |k: &(Arc<Run>, u64)| same_run(k) && k.1 == self.watch_version;
            // While text is being generated, one reading ends before the next begins.
            let waits = self.monitored.is_running() && self.monitor_key.as_ref().is_some_and(same_run);
            if wanted && !waits && !self.monitor_key.as_ref().is_some_and(same) {
                self.monitor_key = Some((run.clone(), self.watch_version));
                self.monitor(model, run);
            }
        }
        self.tell_apart(model);
        if let Some(chosen) = self.chosen
            && self.page.value.as_ref().is_none_or(|p| p.chosen != chosen)
            && !self.page.is_running()
            && self.page.error.is_none()
        {
            self.turn_to(chosen, model);
        }
    }

    /// Asks for the features that tell the groups of the first neurons' examples apart.
    fn tell_apart(&mut self, model: &Arc<Model>) {
        let (Some(r), Some(d)) = (self.ranking.value.clone(), self.dictionary.value.clone()) else { return };
        let same = |(stamp, k): &(u64, Arc<Dictionary>)| *stamp == self.ranking.stamp && Arc::ptr_eq(k, &d);
        if self.ranking.is_running() || self.split_key.as_ref().is_some_and(same) {
            return;
        }
        self.split_key = Some((self.ranking.stamp, d.clone()));
        self.splits.reset();
        if !r.index.about.is_complete() || d.check(&model.config).is_err() {
            return;
        }
        let model = model.clone();
        self.splits.start(&self.wake, move |p, parts| {
            p.expect(r.neurons.len().min(SPLIT_NEURONS) as u64);
            r.neurons.iter().take(SPLIT_NEURONS).try_for_each(|(n, groups)| {
                let Some(entry) = r.index.entries.get(*n) else { return Ok(()) };
                parts.send((*n, split(&model, &d, &entry.top, groups, p)?));
                p.step(1)
            })
        });
    }

    /// What was attributed belongs to the reading before.
    fn forget_attribution(&mut self) {
        self.attribution.reset();
        self.attribution_key = None;
    }

    /// The order that is asked for, at the position that is pinned now.
    pub fn order(&self) -> Order {
        match self.order {
            Order::At(_) => Order::At(self.asked.pos),
            other => other,
        }
    }

    /// The answer and the token against it that the heatmap is ordered by.
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// Asks for the heatmap, and for the attribution that it is to be ordered by.
    fn draw(&mut self) {
        let Some(reading) = self.reading.value.clone().filter(|_| !self.reading.is_running()) else { return };
        let (order, Asked { answer, wrong, .. }) = (self.order(), self.asked);
        let answers = order == Order::Answer;
        let of = (self.reading.stamp, answer, wrong);
        if answers && self.attribution_key != Some(of) {
            self.attribution_key = Some(of);
            self.attribution.reset();
            let reading = reading.clone();
            self.attribution.start(&self.wake, move |p, _| {
                let answer = answer.ok_or_else(|| Error::request("there is no answer yet; type one at the top"))?;
                reading.attribution(answer, wrong, p)
            });
        }
        let attribution = self.attribution.value.clone().filter(|_| answers && !self.attribution.is_running());
        let key = (self.reading.stamp, order, attribution.as_ref().map_or(0, |_| self.attribution.stamp));
        // One picture is finished before the next is begun, so that a held key shows some of them.
        if self.heat_key == Some(key) || self.heat.is_running() || answers && attribution.is_none() {
            return;
        }
        self.heat_key = Some(key);
        self.heat.start(&self.wake, move |p, _| heat(reading, order, (answer, wrong), attribution, p));
    }

    /// Which of its sites the open dictionary's file leaves open: where it reads, where a transcoder writes.
    pub fn open_sites(&self) -> (bool, bool) {
        let Some(d) = &self.dictionary.value else { return (false, false) };
        let told = self.unnamed.get(&d.path.display().to_string()).copied().unwrap_or((d.input, d.output));
        // Files of some formats do not say whether they are transcoders.
        let writes = d.transcoder || d.format != saelens::NAME && told == (None, None);
        (told.0.is_none(), writes && told.1.is_none())
    }

    /// Features that were active in the scanned text.
    pub fn living(&self) -> usize {
        self.living.1
    }
}
