//! Circuits grown from scratch: the lab transformer that is trained, its curves, and what it looked like on the way.

pub mod panel;
pub mod views;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use eframe::egui;

use crate::app::shell::notices::{Level, Notices};
use crate::error::Error;
use crate::jobs::course::{CourseRun, Report};
use crate::training::course::{STATE, Sight};
use crate::training::{LABS, Lab, StepReport, TrainOptions, by_name};

/// What can be asked for.
#[derive(Clone, Debug)]
pub enum ScratchAction {
    /// Which model is to be trained.
    Choose(&'static str),
    /// Trains from the start, or goes on where it was stopped.
    Start {
        fresh: bool,
    },
    Stop,
    Seed(u64),
    /// Steps instead of the recipe's.
    Steps(Option<usize>),
    /// Shows a look of the past, or follows the training.
    Scrub(Option<usize>),
    /// The head whose pattern is shown large.
    Head(usize, usize),
}

/// A folder, and whether a training lies there that was stopped.
type Found = (PathBuf, bool);

pub struct ScratchState {
    pub lab: &'static str,
    pub seed: u64,
    pub steps: Option<usize>,
    run: Option<CourseRun>,
    pub reports: Vec<StepReport>,
    pub sights: Vec<Arc<Sight>>,
    pub shown: Option<usize>,
    pub head: (usize, usize),
    pub error: Option<String>,
    /// A training of this model and seed was stopped and can go on.
    pub stopped: bool,
    /// Whether folders hold such a training, as a thread has found.
    looks: (Sender<Found>, Receiver<Found>),
    /// Where trainings are kept.
    pub place: PathBuf,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl ScratchState {
    pub fn new(ctx: &egui::Context) -> Self {
        let ctx = ctx.clone();
        let place = crate::files::cache_folder().join("lab");
        Self {
            lab: "alphabetical",
            seed: 1,
            steps: None,
            run: None,
            reports: Vec::new(),
            sights: Vec::new(),
            shown: None,
            head: (0, 0),
            error: None,
            stopped: false,
            looks: channel(),
            place,
            wake: Arc::new(move || ctx.request_repaint()),
        }
    }

    pub fn lab(&self) -> &'static Lab {
        by_name(self.lab).unwrap_or(&LABS[0])
    }

    /// The folder of the training.
    pub fn folder(&self) -> PathBuf {
        self.place.join(format!("{}-seed-{}", self.lab, self.seed))
    }

    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Share that is done, and seconds left.
    pub fn progress(&self) -> Option<(f32, Option<f64>)> {
        self.run.as_ref().map(|r| (r.progress().fraction(), r.progress().seconds_left()))
    }

    pub fn sight(&self) -> Option<&Arc<Sight>> {
        self.shown.and_then(|k| self.sights.get(k)).or(self.sights.last())
    }

    /// The newest look at or before the shown one that can be opened as a model.
    pub fn checkpoint(&self) -> Option<(usize, PathBuf)> {
        let upto = self.shown.map_or(self.sights.len(), |k| k + 1).min(self.sights.len());
        self.sights[..upto].iter().rev().find_map(|s| s.folder.clone().map(|f| (s.step, f)))
    }

    /// Looks on a thread for a training of this model and seed that was stopped.
    fn look_for_checkpoint(&self) {
        let (sender, folder, wake) = (self.looks.0.clone(), self.folder(), self.wake.clone());
        std::thread::spawn(move || {
            let there = folder.join(STATE).is_file();
            // The window may have been closed meanwhile; then nobody wants to know.
            drop(sender.send((folder, there)));
            wake();
        });
    }

    /// Takes in what the training sent; true if anything changed.
    pub fn update(&mut self, notices: &mut Notices) -> bool {
        while let Ok((folder, there)) = self.looks.1.try_recv() {
            if folder == self.folder() && self.run.is_none() {
                self.stopped = there;
            }
        }
        let Some(run) = &self.run else { return false };
        let mut reports = Vec::new();
        while let Some(r) = run.poll() {
            reports.push(r);
        }
        let changed = !reports.is_empty();
        for report in reports {
            match report {
                Report::Step(r) => {
                    // One that begins anew replaces what was shown of the one before.
                    self.reports.retain(|x| x.step < r.step);
                    if let Some(sight) = &r.sight {
                        self.sights.push(sight.clone());
                    }
                    if !r.values.is_empty() {
                        self.reports.push(StepReport { sight: None, ..r });
                    }
                }
                Report::Ended(outcome) => {
                    self.run = None;
                    self.stopped = matches!(outcome, Err(Error::Cancelled));
                    match outcome {
                        Ok(()) => {
                            let text = format!("{} is trained; it lies in {}.", self.lab, self.folder().display());
                            notices.push(Level::Info, text);
                        }
                        Err(Error::Cancelled) => {
                            notices.push(Level::Info, "Stopped; the training can go on from here.");
                        }
                        Err(e) => {
                            notices.push(Level::Error, e.to_string());
                            self.error = Some(e.to_string());
                        }
                    }
                }
            }
        }
        changed
    }

    /// Shows a training that was made elsewhere.
    pub fn present(&mut self, lab: &'static str, reports: Vec<StepReport>, sights: Vec<Arc<Sight>>) {
        self.forget();
        (self.lab, self.reports, self.sights) = (lab, reports, sights);
    }

    fn forget(&mut self) {
        self.run = None;
        (self.reports, self.sights) = (Vec::new(), Vec::new());
        (self.shown, self.head, self.error, self.stopped) = (None, (0, 0), None, false);
    }

    fn start(&mut self, fresh: bool) {
        let options =
            TrainOptions { output: self.folder(), text: None, steps: self.steps, seed: self.seed, looks: true, fresh };
        if fresh {
            self.forget();
        }
        self.error = None;
        let wake = self.wake.clone();
        self.run = Some(CourseRun::spawn(self.lab(), options, move || wake()));
    }

    pub fn apply(&mut self, action: ScratchAction) {
        match action {
            ScratchAction::Choose(name) => {
                if let Some(lab) = by_name(name)
                    && self.lab != lab.name
                {
                    self.lab = lab.name;
                    self.steps = None;
                    self.forget();
                    self.look_for_checkpoint();
                }
            }
            ScratchAction::Start { fresh } => self.start(fresh),
            ScratchAction::Stop => {
                if let Some(run) = &self.run {
                    run.stop();
                }
            }
            ScratchAction::Seed(seed) => {
                self.seed = seed;
                self.forget();
                self.look_for_checkpoint();
            }
            ScratchAction::Steps(steps) => {
                // A checkpoint goes on only to the end that it was made for.
                (self.steps, self.stopped) = (steps, false);
            }
            ScratchAction::Scrub(k) => self.shown = k.filter(|k| k + 1 < self.sights.len()),
            ScratchAction::Head(l, h) => self.head = (l, h),
        }
    }

    /// True while nothing is on its way.
    pub fn is_settled(&self) -> bool {
        self.run.is_none()
    }
}
