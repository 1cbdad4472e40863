//! What the feature views show: the dictionary, what it says of the prompt, the index of examples, directions, and what
//! is being trained. Each piece of work runs on a thread of its own.

pub mod actions;
pub mod heat;
pub mod labels;
pub mod monitoring;
pub mod page;
pub mod panel;
pub mod polysemantic;
pub mod updates;
pub mod views;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use eframe::egui;

pub use super::pending::Pending;
use super::pending::Wake;
use crate::analysis::run::Run;
use crate::app::features::heat::Heat;
use crate::app::features::labels::Book;
use crate::app::features::monitoring::{Continued, Follow, Monitored};
pub use crate::app::features::page::Page;
use crate::app::features::polysemantic::Split;
use crate::engine::{Site, SiteKind};
use crate::features::dashboard::Groups;
use crate::features::dictionary::formats::saelens;
use crate::features::direction::concept::Pool;
use crate::features::direction::{Concept, Method};
use crate::features::feature_map::FeatureMap;
use crate::features::labels::{Label, Unit};
use crate::features::quality::Quality;
use crate::features::reading::{Order, Reading};
use crate::features::scan::index::Index;
use crate::features::steering::Dose;
use crate::features::train::recipe::Recipe;
use crate::features::train::{Point, Settings};
use crate::features::{Dictionary, Place, Sparse, Store};
use crate::features::{scan, train};
use crate::jobs::Task;
use crate::jobs::task::Event;
use crate::model::Model;

/// Similarity below which examples count as unrelated.
pub const UNRELATED: f32 = 0.12;

/// Tokens of a row of text that is scanned or trained on here.
pub const CONTEXT: usize = 128;

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

/// What a training in the window came to.
pub struct Trained {
    pub folder: PathBuf,
    /// On held-out text; unknown where there is none.
    pub quality: Option<Quality>,
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
    /// Puts the dictionary away.
    Close,
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
    /// Trains; with `true` the activations are kept for another training.
    Train(Box<Recipe>, bool),
    StopTraining,
    /// Takes away the activations that trainings kept.
    ForgetActivations,
}

pub struct FeaturesState {
    pub spec: String,
    /// Dictionaries that were opened, by which edits find theirs.
    pub store: Arc<Store>,
    pub dictionary: Pending<Dictionary>,
    /// Dictionaries whose sites were named here, and what their files say of them.
    pub unnamed: HashMap<String, (Option<Place>, Option<Place>)>,
    pub reading: Pending<Reading>,
    pub order: Order,
    /// What each active feature adds to the answer, once that is asked for.
    pub attribution: Pending<Sparse>,
    pub heat: Pending<Heat>,
    pub heat_key: Option<(u64, Order, u64)>,
    pub attribution_key: Option<(u64, Option<u32>, Option<u32>)>,
    pub asked: Asked,
    pub chosen: Option<Chosen>,
    pub page: Pending<Page>,
    /// Examples of the dictionary's features (while a first scan runs, those of the text so far), and of a layer's
    /// neurons.
    pub index: Pending<Index, Index>,
    pub neurons: Pending<Index, Index>,
    /// The same of a direction, and which.
    pub read_out: Pending<Index, Index>,
    pub read_out_of: Option<(Arc<Concept>, usize)>,
    /// Features that the index found active, and the index's stamp.
    pub living: (u64, usize),
    pub labels: Book,
    /// Neurons of the scanned layer, those whose examples fall apart most first.
    pub ranking: Pending<Ranking>,
    /// Of the first neurons of the ranking, the features that tell each group apart.
    pub splits: Pending<(), (usize, Split)>,
    /// Which ranking and dictionary those are of.
    pub split_key: Option<(u64, Arc<Dictionary>)>,
    /// An index from a file, before it is known whose it is.
    pub arriving: Pending<Index>,
    pub finding: Pending<Concept>,
    pub watched: Vec<Watch>,
    /// Directions of models that were open before: they come back with theirs.
    pub set_aside: Vec<Watch>,
    /// Features in the monitor, and the activation above which each marks a token.
    pub kept: Vec<(u32, f32)>,
    pub monitored: Pending<Monitored>,
    pub follow: Follow,
    pub continued: Continued,
    pub doses: Pending<Vec<Dose>, Dose>,
    /// What the doses are of.
    pub dosed: String,
    pub map: Pending<FeatureMap>,
    pub training: Pending<Trained, Point>,
    /// A training that was told to stop and still writes its checkpoint.
    pub stopping: Option<Task<Trained, Point>>,
    pub train: Recipe,
    /// What is to be done one after the other, each when all before it is there: by pictures and lessons.
    pub queue: VecDeque<FeatureAction>,
    /// Where trainings and labels are kept.
    pub place: PathBuf,
    /// Where scans are kept.
    pub scans: PathBuf,
    /// Where activations are kept.
    pub activations: PathBuf,
    /// How many bytes of them there are.
    pub kept_bytes: Pending<u64>,
    /// Whether scans and labels are kept and found again: in the window, not in pictures.
    pub keeps: bool,
    /// A scan of the dictionary that was made before.
    pub found: Pending<Option<Index>>,
    pub sought: Option<(Weak<Model>, Arc<Dictionary>)>,
    /// What the reading and the monitor were made from.
    pub read_key: Option<(Arc<Run>, Arc<Dictionary>)>,
    pub monitor_key: Option<(Arc<Run>, u64)>,
    /// The model that everything here is of.
    pub model: Weak<Model>,
    pub watch_version: u64,
    pub wake: Wake,
    /// What threads want said, beside their results.
    pub asides: (Sender<String>, Receiver<String>),
}

/// How long a window that is closed waits for a training to stop.
const PATIENCE: Duration = Duration::from_secs(10);

impl FeaturesState {
    pub fn new(ctx: &egui::Context) -> Self {
        let ctx = ctx.clone();
        Self {
            spec: String::new(),
            store: Arc::default(),
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
            set_aside: Vec::new(),
            kept: Vec::new(),
            monitored: Pending::default(),
            follow: Follow::default(),
            continued: Continued::default(),
            doses: Pending::default(),
            dosed: String::new(),
            map: Pending::default(),
            training: Pending::default(),
            stopping: None,
            train: Recipe {
                site: Site::new(SiteKind::ResidPost, 0).into(),
                target: None,
                text: vec!["mixed".to_owned()],
                context: CONTEXT,
                tokens: Some(100_000),
                bos: false,
                include_first: false,
                settings: Settings { features: 1024, steps: 1000, ..Settings::default() },
            },
            queue: VecDeque::new(),
            place: crate::features::labels::folder(),
            scans: scan::kept::folder(),
            activations: train::kept::folder(),
            kept_bytes: Pending::default(),
            keeps: false,
            found: Pending::default(),
            sought: None,
            read_key: None,
            monitor_key: None,
            model: Weak::new(),
            watch_version: 0,
            asides: channel(),
            wake: Arc::new(move || ctx.request_repaint()),
        }
    }

    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.is_busy()
    }

    pub fn is_busy(&self) -> bool {
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
            self.kept_bytes.is_running(),
            self.stopping.is_some(),
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

    pub fn stop_training(&mut self) {
        if let Some(task) = self.training.take_task() {
            task.progress().cancel();
            self.stopping = Some(task);
        }
    }

    /// The last training, to be waited for before another begins in the same folder.
    pub fn earlier_training(&mut self) -> Option<Task<Trained, Point>> {
        self.stop_training();
        self.stopping.take()
    }

    /// Writes what the window has not written yet, before it is gone; a training writes its checkpoint, or takes away the
    /// activations that it had not all of.
    pub fn finish(&mut self) {
        self.labels.flush();
        self.stop_training();
        let started = Instant::now();
        while let Some(task) = &self.stopping
            && started.elapsed() < PATIENCE
        {
            match task.poll() {
                Some(Event::Done(_)) => self.stopping = None,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
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
    pub fn forget_dictionary(&mut self) {
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

    /// Puts the dictionary away, with what was made of it. Edits that name it go on.
    pub fn close_dictionary(&mut self) {
        self.spec.clear();
        self.dictionary.reset();
        if matches!(self.chosen, Some(Chosen::Feature(_))) {
            self.chosen = None;
        }
        (self.read_key, self.sought) = (None, None);
        self.forget_dictionary();
        self.kept.clear();
        self.watch_version += 1;
        self.labels.leave_dictionary(&self.wake);
    }

    /// What was made from a reading.
    pub fn forget_reading(&mut self) {
        self.attribution.reset();
        self.heat.reset();
        (self.heat_key, self.attribution_key) = (None, None);
    }

    /// What another model makes meaningless: everything but the dictionary itself, which may fit that one too.
    pub fn forget_model(&mut self) {
        self.forget_dictionary();
        self.neurons.reset();
        self.ranking.reset();
        self.read_out.reset();
        self.arriving.reset();
        self.monitored.reset();
        self.finding.stop();
        self.stop_training();
        self.set_aside.append(&mut self.watched);
        self.chosen = None;
        (self.read_key, self.monitor_key) = (None, None);
        self.watch_version += 1;
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
