//! The training workspace's state: the small transformer that is trained, its losses, and the probes of it.

pub mod panel;
pub mod views;

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::shell::notices::{Level, Notices};
use crate::jobs::Pool;
use crate::jobs::slot::{AnySlot, Slot};
use crate::session::labs::TrainingDesk;
use crate::training::live::{Record, StoppedIn, TransformerTrainingOf};
use crate::training::run::Probe;
use crate::training::{StepReport, TASKS, Task, TrainOptions, by_name};

/// Everything that changes the training workspace.
#[derive(Clone, Debug)]
pub enum TrainingAction {
    /// Chooses the task, by its name.
    Choose(&'static str),
    /// Trains from the start, or goes on where the training was stopped.
    Start {
        fresh: bool,
    },
    Stop,
    Seed(u64),
    /// Sets the number of steps, or takes the recipe's.
    Steps(Option<usize>),
    /// Shows a probe of the past by its index, or the newest one.
    Scrub(Option<usize>),
    /// Shows the pattern of a head, by layer and head, large.
    Head(usize, usize),
}

impl TrainingAction {
    /// What it changes of what is decided, by which that is taken back.
    pub fn name(&self) -> String {
        match self {
            Self::Choose(task) => format!("choose {task}"),
            _ => "settings of the training".to_owned(),
        }
    }
}

pub struct TrainingState {
    pub task: &'static Task,
    pub seed: u64,
    pub steps: Option<usize>,
    run: Slot<TransformerTrainingOf>,
    /// Whether a training of this task and seed was stopped before the window was opened.
    stopped: Slot<StoppedIn>,
    /// The probe of the past that is shown; `None` follows the training.
    pub shown: Option<Arc<Probe>>,
    /// The head, by layer and head, whose pattern is shown large.
    pub head: (usize, usize),
    pub error: Option<String>,
    /// The folder in which each training has a folder of its own.
    pub place: PathBuf,
}

impl Default for TrainingState {
    fn default() -> Self {
        let TrainingDesk { task, seed, steps } = TrainingDesk::default();
        Self {
            task: by_name(&task).unwrap_or(&TASKS[0]),
            seed,
            steps,
            run: Slot::default(),
            stopped: Slot::default(),
            shown: None,
            head: (0, 0),
            error: None,
            place: crate::files::cache_folder().join("lab"),
        }
    }
}

impl TrainingState {
    /// Puts everything aside, a training with it, and leaves a workspace as at first. What is trained there has folders of
    /// its own: the training that was put aside may still write into its own.
    pub fn put_aside(&mut self) -> Self {
        let first = Self { place: self.place.join("lessons"), ..Self::default() };
        std::mem::replace(self, first)
    }

    /// What is decided.
    pub fn desk(&self) -> TrainingDesk {
        TrainingDesk { task: self.task.name.to_owned(), seed: self.seed, steps: self.steps }
    }

    /// Turns to what was decided elsewhere: in a session, or before a change that is taken back. A training of something
    /// else is stopped, and said to be.
    pub fn turn_to(&mut self, desk: &TrainingDesk, pool: &Pool, notices: &mut Notices) {
        let task = by_name(&desk.task).unwrap_or(self.task);
        if (task, desk.seed) != (self.task, self.seed) {
            if self.run.is_running() {
                let name = self.task.name;
                notices.push(Level::Info, format!("The training of {name} was stopped; it can go on from there."));
            }
            (self.task, self.seed) = (task, desk.seed);
            self.forget();
        }
        self.steps = desk.steps;
        self.look_for_stopped(pool);
    }

    /// Returns the folder of the training.
    pub fn folder(&self) -> PathBuf {
        self.place.join(format!("{}-seed-{}", self.task.name, self.seed))
    }

    pub fn is_running(&self) -> bool {
        self.run.is_running()
    }

    /// Returns true if a training of this task, seed and number of steps was stopped.
    pub fn can_go_on(&self) -> bool {
        match self.run.wanted() {
            Some(training) => self.run.is_stopped() && training.options.steps == self.steps,
            None => self.stopped.fresh().is_some_and(|answer| *answer.value),
        }
    }

    /// Returns the share that is done, and the seconds left.
    pub fn progress(&self) -> Option<(f32, Option<f64>)> {
        self.run.progress().map(|p| (p.fraction(), p.seconds_left()))
    }

    pub fn reports(&self) -> &[Arc<StepReport>] {
        self.run.value().map_or(&[], |r| &r.reports)
    }

    /// Returns the probes, by rising step.
    pub fn probes(&self) -> &[Arc<Probe>] {
        self.run.value().map_or(&[], |r| &r.probes)
    }

    /// Returns the probe on screen.
    pub fn probe(&self) -> Option<&Arc<Probe>> {
        self.shown.as_ref().or(self.probes().last())
    }

    /// Returns the step and folder of the newest checkpoint, at or before the shown probe, that opens as a model.
    pub fn checkpoint(&self) -> Option<(usize, PathBuf)> {
        let shown = self.probe()?.step;
        let before = self.probes().iter().rev().filter(|p| p.step <= shown);
        before.filter_map(|p| Some((p.step, p.folder.clone()?))).next()
    }

    /// Takes in what the training has reported. Returns true if anything has arrived.
    pub fn poll(&mut self, notices: &mut Notices) -> bool {
        let changed = self.run.poll() | self.stopped.poll();
        if self.run.take_news().is_some() {
            let text = format!("{} is trained; it lies in {}.", self.task.name, self.folder().display());
            notices.push(Level::Info, text);
        }
        if let Some(error) = self.run.take_error() {
            notices.push(Level::Error, error.clone());
            self.error = Some(error);
        }
        changed
    }

    pub fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.run, &mut self.stopped]
    }

    /// Shows a finished training that was made elsewhere.
    pub fn present(&mut self, task: &'static Task, reports: Vec<Arc<StepReport>>, probes: Vec<Arc<Probe>>) {
        self.forget();
        self.task = task;
        self.run.set(self.question(true, Arc::default()), Record { reports, probes });
    }

    fn forget(&mut self) {
        self.run.forget();
        self.stopped.forget();
        (self.shown, self.head, self.error) = (None, (0, 0), None);
    }

    fn question(&self, fresh: bool, known: Arc<Record>) -> TransformerTrainingOf {
        let options =
            TrainOptions { output: self.folder(), text: None, steps: self.steps, seed: self.seed, probes: true, fresh };
        TransformerTrainingOf { task: self.task, options, known }
    }

    fn start(&mut self, fresh: bool, pool: &Pool) {
        if fresh {
            self.forget();
        }
        self.error = None;
        let known = self.run.value().cloned().unwrap_or_default();
        // The same training may have failed or been stopped before.
        self.run.again();
        self.run.want(pool, Some(self.question(fresh, known)));
    }

    pub fn apply(&mut self, action: TrainingAction, pool: &Pool, notices: &mut Notices) {
        match action {
            TrainingAction::Choose(name) => {
                if let Some(task) = by_name(name).filter(|t| *t != self.task) {
                    (self.task, self.steps) = (task, None);
                    self.forget();
                }
            }
            TrainingAction::Start { fresh } => self.start(fresh, pool),
            TrainingAction::Stop => {
                if self.run.is_running() {
                    self.run.stop();
                    notices.push(Level::Info, "Stopped; the training can go on from here.");
                }
            }
            TrainingAction::Seed(seed) => {
                self.seed = seed;
                self.forget();
            }
            TrainingAction::Steps(steps) => self.steps = steps,
            TrainingAction::Scrub(k) => {
                let past = k.filter(|k| k + 1 < self.probes().len());
                self.shown = past.map(|k| self.probes()[k].clone());
            }
            TrainingAction::Head(layer, head) => self.head = (layer, head),
        }
        self.look_for_stopped(pool);
    }

    /// Asks whether there is a training to go on with.
    fn look_for_stopped(&mut self, pool: &Pool) {
        if self.run.wanted().is_none() {
            let steps = self.steps.unwrap_or(self.task.steps);
            self.stopped.want(pool, Some(StoppedIn { folder: self.folder(), seed: self.seed, steps }));
        }
    }

    /// Returns true if nothing is on its way.
    pub fn is_settled(&self) -> bool {
        !self.run.is_running() && !self.stopped.is_running()
    }
}
