//! The workspace of features: the dictionary, what it says of the prompt, the index of examples, directions, and what is
//! being trained. What the user decided lies on a desk; what is computed from it lies in slots.

pub mod actions;
pub mod ask;
pub mod labels;
pub mod panel;
pub mod units;
pub mod views;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::app::features::labels::LabelStore;
use crate::engine::Trace;
use crate::features::dictionary::store::DictionaryOf;
use crate::features::direction::search::{DirectionOf, DirectionSearch};
use crate::features::feature_activations::{FeatureActivationsOf, FeatureAttributionOf, Order};
use crate::features::feature_map::FeatureMapOf;
use crate::features::heat::FeatureHeatOf;
use crate::features::labels::{Label, Unit};
use crate::features::monitor::{Continued, Follow, MonitorOf};
use crate::features::page::FeaturePageOf;
use crate::features::polysemantic::{RankingOf, SplitsOf};
use crate::features::scan::index::LivingOf;
use crate::features::scan::question::{IndexFileOf, KeptScanOf, ScanOf};
use crate::features::steering::DosesOf;
use crate::features::train::elsewhere::CapturedPlacesOf;
use crate::features::train::kept::KeptActivationsOf;
use crate::features::train::recipe::Recipe;
use crate::features::train::shelf::{DictionaryTrainingOf, SetTrainingOf};
use crate::features::{Dictionary, Store, scan, train};
use crate::jobs::slot::{AnySlot, Slot};
use crate::model::Model;
use crate::progress::Progress;
pub use crate::session::features::{CONTEXT, Chosen, FeaturesDesk, Watch};

/// How long a window that is closed waits for a training to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which index a scan makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    Features,
    /// Neurons of this layer.
    Neurons(usize),
    /// A direction, by its place in the list, at the layer that is chosen for it.
    Direction(usize),
}

/// What is to be explained of the run that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Asked {
    /// The pinned position.
    pub pos: usize,
    /// The answer at the last position: the user's, or the unedited model's own favourite.
    pub answer: Option<u32>,
    pub wrong: Option<u32>,
}

/// What the window shows: the questions of this workspace follow from it.
#[derive(Clone, Default)]
pub struct Shown {
    pub model: Option<Arc<Model>>,
    /// The run that is shown.
    pub trace: Option<Arc<Trace>>,
    pub asked: Asked,
    /// What was generated after the prompt.
    pub continued: Option<Arc<Continued>>,
    /// The model's workspace shows the geometry of the dictionary's decoder.
    pub decoder: bool,
}

#[derive(Clone, Debug)]
pub enum FeatureAction {
    Open(String),
    /// Opens a dictionary, if it is not the open one, and shows the page of one of its features.
    Page(String, u32),
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
    Find(Box<DirectionSearch>),
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
    /// Trains a transcoder for each layer.
    TrainSet(Box<Recipe>),
    /// Captured activations take the place of the text that is trained on, and features can be read from them.
    Capture(String),
    /// Features are read from the captured activations, or from the prompt.
    ReadCaptured(bool),
    StopTraining,
    /// Takes away the activations that trainings kept.
    ForgetActivations,
}

/// Where things lie on disk.
#[derive(Clone)]
pub struct Folders {
    /// Scans and labels are kept and found again: in the window, not in pictures.
    pub keeps: bool,
    /// Trainings and labels.
    pub shelf: PathBuf,
    pub scans: PathBuf,
    pub activations: PathBuf,
    /// Lenses that were fitted in the window.
    pub lenses: PathBuf,
    /// Scans of heads.
    pub heads: PathBuf,
}

impl Default for Folders {
    fn default() -> Self {
        Self {
            keeps: false,
            shelf: crate::features::labels::folder(),
            scans: scan::kept::folder(),
            activations: train::kept::folder(),
            lenses: crate::lenses::question::folder(),
            heads: crate::heads::question::folder(),
        }
    }
}

impl FeatureAction {
    /// What is done to the document, by which it can be taken back.
    pub fn name(&self) -> String {
        let name = match self {
            Self::Open(_) => "open a dictionary",
            Self::Page(..) => "show a feature's page",
            Self::Close => "put the dictionary away",
            Self::Site(..) => "name the dictionary's sites",
            Self::Order(_) => "order the features",
            Self::Follow(_) => "follow another text",
            Self::Keep(f) => return format!("keep feature {f}"),
            Self::Forget(i) => return format!("forget direction {i}"),
            Self::Layer(..) => "read a direction at a layer",
            Self::Threshold(..) | Self::KeptThreshold(..) => "set a threshold",
            Self::Train(..) => "train a dictionary",
            Self::TrainSet(..) => "train a set",
            Self::Capture(_) => "open captured activations",
            Self::ReadCaptured(true) => "read captured activations",
            Self::ReadCaptured(false) => "read the prompt",
            _ => "look at features",
        };
        name.to_owned()
    }
}

#[derive(Default)]
pub struct FeaturesState {
    /// What the document says of this model's features: read from it before anything is asked, and written back to it
    /// after every action and arrival.
    pub desk: FeaturesDesk,
    pub folders: Folders,
    /// Dictionaries that were opened, by which edits find theirs.
    pub store: Arc<Store>,
    pub labels: LabelStore,
    /// What is to be done one after the other, each when all before it is there: by pictures and lessons.
    pub queue: VecDeque<FeatureAction>,
    /// The model that everything here is of.
    model: Weak<Model>,
    /// What was generated last, and the stamp of that result.
    continued: Option<(u64, Arc<Continued>)>,
    pub dictionary: Slot<DictionaryOf>,
    pub activations: Slot<FeatureActivationsOf>,
    pub attribution: Slot<FeatureAttributionOf>,
    pub heat: Slot<FeatureHeatOf>,
    pub page: Slot<FeaturePageOf>,
    /// Examples of the dictionary's features, of a layer's neurons, and of a direction.
    pub index: Slot<ScanOf>,
    pub neurons: Slot<ScanOf>,
    pub read_out: Slot<ScanOf>,
    /// A scan of the dictionary that was made before.
    pub found: Slot<KeptScanOf>,
    /// Features that the index found active.
    pub living: Slot<LivingOf>,
    /// An index from a file, before it is known whose it is.
    pub arriving: Slot<IndexFileOf>,
    /// Neurons of the scanned layer, those whose examples fall apart most first.
    pub ranking: Slot<RankingOf>,
    pub splits: Slot<SplitsOf>,
    pub finding: Slot<DirectionOf>,
    pub monitored: Slot<MonitorOf>,
    pub doses: Slot<DosesOf>,
    pub map: Slot<FeatureMapOf>,
    pub training: Slot<DictionaryTrainingOf>,
    /// Of a set for all layers.
    pub set_training: Slot<SetTrainingOf>,
    /// How many bytes of activations are kept.
    pub kept_activations: Slot<KeptActivationsOf>,
    /// The sites of captured activations.
    pub captured: Slot<CapturedPlacesOf>,
}

/// Lists all slots, shared or mutable.
macro_rules! slots {
    ($self:ident, $($reference:tt)+) => {
        vec![
            $($reference)+ $self.dictionary,
            $($reference)+ $self.activations,
            $($reference)+ $self.attribution,
            $($reference)+ $self.heat,
            $($reference)+ $self.page,
            $($reference)+ $self.index,
            $($reference)+ $self.neurons,
            $($reference)+ $self.read_out,
            $($reference)+ $self.found,
            $($reference)+ $self.living,
            $($reference)+ $self.arriving,
            $($reference)+ $self.ranking,
            $($reference)+ $self.splits,
            $($reference)+ $self.finding,
            $($reference)+ $self.monitored,
            $($reference)+ $self.doses,
            $($reference)+ $self.map,
            $($reference)+ $self.training,
            $($reference)+ $self.set_training,
            $($reference)+ $self.kept_activations,
            $($reference)+ $self.captured,
        ]
    };
}

impl FeaturesState {
    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        slots!(self, &mut)
    }

    /// Puts everything aside and leaves a workspace in which nothing is open. Dictionaries that are known and labels serve
    /// both: labels are of files, not of a session.
    pub fn put_aside(&mut self) -> Self {
        let empty = Self {
            folders: self.folders.clone(),
            store: self.store.clone(),
            labels: std::mem::take(&mut self.labels),
            ..Self::default()
        };
        std::mem::replace(self, empty)
    }

    /// Puts back what was put aside.
    pub fn put_back(&mut self, aside: Self) {
        let labels = std::mem::take(&mut self.labels);
        *self = Self { labels, ..aside };
    }

    /// True while something is asked for, or labels are not written yet.
    pub fn is_busy(&self) -> bool {
        let all: Vec<&dyn AnySlot> = slots!(self, &);
        all.iter().any(|s| s.is_running()) || self.labels.is_busy()
    }

    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.is_busy()
    }

    /// Returns the dictionary that is open.
    pub fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        self.dictionary.value().map(|opened| &opened.dictionary)
    }

    /// Returns the name or path by which it was opened.
    pub fn opened_as(&self) -> Option<&str> {
        self.dictionary.get().map(|opened| opened.question.spec.as_str())
    }

    /// Returns what was generated last; `make` is called when its stamp is another than before.
    pub fn continued(&mut self, stamp: u64, make: impl FnOnce() -> Continued) -> Arc<Continued> {
        match &self.continued {
            Some((of, continued)) if *of == stamp => continued.clone(),
            _ => self.continued.insert((stamp, Arc::new(make()))).1.clone(),
        }
    }

    pub fn is_training(&self) -> bool {
        self.trainings().any(|p| !p.is_cancelled())
    }

    /// How far the trainings under way are.
    fn trainings(&self) -> impl Iterator<Item = &Progress> {
        self.training.progress().into_iter().chain(self.set_training.progress())
    }

    /// True while a training that was told to stop still writes its checkpoint.
    pub fn is_stopping(&self) -> bool {
        self.trainings().any(Progress::is_cancelled)
    }

    /// Tells the training to stop. Its end is waited for: it may be done all the same.
    pub fn stop_training(&mut self) {
        self.trainings().for_each(Progress::cancel);
    }

    /// Stops everything.
    pub fn stop(&mut self) {
        self.stop_training();
        if self.attribution.is_running() {
            self.desk.order = Order::Max;
        }
        // The training was told to; it still says how it ended.
        let trainings = (std::mem::take(&mut self.training), std::mem::take(&mut self.set_training));
        self.slots().into_iter().for_each(AnySlot::stop);
        (self.training, self.set_training) = trainings;
    }

    /// Asks again for what was stopped or failed, except for what was begun by a button.
    pub fn ask_again(&mut self) {
        if self.dictionary.is_stopped() {
            self.dictionary.again();
        }
        let derived: [&mut dyn AnySlot; 8] = [
            &mut self.activations,
            &mut self.heat,
            &mut self.page,
            &mut self.found,
            &mut self.living,
            &mut self.ranking,
            &mut self.splits,
            &mut self.monitored,
        ];
        derived.into_iter().for_each(AnySlot::again);
    }

    /// Writes what is not written yet, before the window is gone; a training writes its checkpoint, or takes away the
    /// activations that it had not all of.
    pub fn finish(&mut self) {
        self.labels.finish();
        self.stop_training();
        let started = Instant::now();
        while self.trainings().next().is_some() && started.elapsed() < PATIENCE {
            if !(self.training.poll() | self.set_training.poll()) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
