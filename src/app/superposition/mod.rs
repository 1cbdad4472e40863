//! The superposition workspace's state: the recipe that is edited, and the training of toy models that is shown.

pub mod panel;
pub mod views;

use std::sync::Arc;

use crate::app::shell::notices::{Level, Notices};
use crate::jobs::Pool;
use crate::jobs::slot::{AnySlot, Slot};
use crate::session::labs::ToyDesk;
use crate::superposition::live::{Control, ToyTrainingOf};
use crate::superposition::presets::{PRESETS, Preset, by_name};
use crate::superposition::recipe::Sweep;
use crate::superposition::{Recipe, Setup, Snapshot};

/// The speeds to choose from, in steps a second; 0 means all that the machine can do.
pub const SPEEDS: [(u64, &str); 5] =
    [(0, "full speed"), (3000, "3000 steps/s"), (1000, "1000 steps/s"), (300, "300 steps/s"), (50, "50 steps/s")];

/// Everything that changes the superposition workspace.
#[derive(Clone, Debug)]
pub enum SuperpositionAction {
    /// Takes the settings of a preset, by its name, and trains.
    Preset(&'static str),
    /// Changes the settings. The training that is shown stays.
    Edit(Box<Recipe>),
    /// Trains from the start.
    Start,
    Pause(bool),
    /// Pauses, and takes so many steps.
    Step(u64),
    /// Limits the training to so many steps a second; 0 removes the limit.
    Speed(u64),
    /// Shows a snapshot of the past by its index, or the newest one.
    Scrub(Option<usize>),
    /// Selects an instance.
    Select(usize),
    /// Selects a feature, or none.
    Feature(Option<usize>),
    /// Sets the inputs of the example.
    Example(Vec<f32>),
}

impl SuperpositionAction {
    /// What it changes of what is decided, by which that is taken back.
    pub fn name(&self) -> String {
        match self {
            Self::Preset(name) => {
                let title = by_name(name).map_or(*name, |p| p.title);
                format!("choose the figure {title}")
            }
            _ => "settings of the toy models".to_owned(),
        }
    }
}

pub struct SuperpositionState {
    pub preset: &'static str,
    pub recipe: Recipe,
    /// The recipe and setup of the training that is shown.
    pub trained: Option<(Recipe, Arc<Setup>)>,
    run: Slot<ToyTrainingOf>,
    /// Grows with every training, so that a picture of an earlier one is never taken for one of this.
    pub generation: usize,
    /// The snapshot of the past that is shown; `None` follows the training.
    pub shown: Option<Arc<Snapshot>>,
    /// The selected instance.
    pub instance: usize,
    /// The selected feature.
    pub feature: Option<usize>,
    /// The chosen limit in steps a second; 0 for none.
    pub speed: u64,
    /// The inputs of the example, [feature].
    pub example: Vec<f32>,
    pub error: Option<String>,
    /// The scene may turn by itself: in the window, not in pictures and tests.
    pub turns: bool,
}

impl Default for SuperpositionState {
    fn default() -> Self {
        let first = &PRESETS[0];
        Self {
            preset: first.name,
            recipe: (first.recipe)(),
            trained: None,
            run: Slot::default(),
            generation: 0,
            shown: None,
            instance: 0,
            feature: None,
            speed: 0,
            example: Vec::new(),
            error: None,
            turns: false,
        }
    }
}

impl SuperpositionState {
    /// Puts everything aside, trainings with it, and leaves a workspace as at first.
    pub fn put_aside(&mut self) -> Self {
        let first = Self { generation: self.generation, turns: self.turns, ..Self::default() };
        std::mem::replace(self, first)
    }

    /// Lets the training under way rest, or go on; what is shown of it stays.
    pub fn rest(&self, rests: bool) {
        if let Some(control) = self.control() {
            control.pause(rests);
        }
    }

    /// What is decided.
    pub fn desk(&self) -> ToyDesk {
        ToyDesk { figure: self.preset.to_owned(), recipe: self.recipe.clone() }
    }

    /// Turns to what was decided elsewhere: in a session, or before a change that is taken back. The training that is shown
    /// stays.
    pub fn turn_to(&mut self, desk: &ToyDesk) {
        self.preset = by_name(&desk.figure).unwrap_or(&PRESETS[0]).name;
        self.recipe.clone_from(&desk.recipe);
    }

    pub fn preset(&self) -> &'static Preset {
        by_name(self.preset).unwrap_or(&PRESETS[0])
    }

    /// Returns true if the recipe differs from the one that is shown.
    pub fn is_edited(&self) -> bool {
        self.trained.as_ref().is_some_and(|(r, _)| *r != self.recipe)
    }

    /// Returns the controls of the training under way, paused or not.
    fn control(&self) -> Option<&Control> {
        self.run.wanted().filter(|_| self.run.is_running()).map(|q| &*q.control)
    }

    pub fn is_running(&self) -> bool {
        self.control().is_some_and(|c| !c.is_paused())
    }

    pub fn is_paused(&self) -> bool {
        self.control().is_some_and(Control::is_paused)
    }

    /// Returns the share that is done, and the seconds left.
    pub fn progress(&self) -> Option<(f32, Option<f64>)> {
        self.run.progress().map(|p| (p.fraction(), p.seconds_left()))
    }

    pub fn setup(&self) -> Option<&Arc<Setup>> {
        self.trained.as_ref().map(|(_, s)| s)
    }

    /// Returns the kept snapshots of the training, by rising step. The newest is at the end.
    pub fn snapshots(&self) -> &[Arc<Snapshot>] {
        self.run.value().map_or(&[], |s| s.as_slice())
    }

    /// Returns the snapshot on screen.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.shown.as_ref().or(self.snapshots().last())
    }

    /// Returns the index of the snapshot of the past that is shown. If it is no longer kept, this is the one before it.
    pub fn shown_at(&self) -> Option<usize> {
        let shown = self.shown.as_ref()?;
        self.snapshots().partition_point(|s| s.step <= shown.step).checked_sub(1)
    }

    /// Takes in what the training has handed out. Returns true if anything has arrived.
    pub fn poll(&mut self, notices: &mut Notices) -> bool {
        let changed = self.run.poll();
        if let Some(error) = self.run.take_error() {
            self.fail(error, notices);
        }
        changed
    }

    pub fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.run]
    }

    fn fail(&mut self, error: String, notices: &mut Notices) {
        notices.push(Level::Error, error.clone());
        self.error = Some(error);
    }

    fn start(&mut self, pool: &Pool, notices: &mut Notices) {
        let setup = match self.recipe.setup() {
            Ok(setup) => Arc::new(setup),
            Err(e) => return self.fail(e.to_string(), notices),
        };
        self.reset(self.recipe.clone(), setup.clone());
        self.instance = match &self.recipe.sweep {
            // The sparsest instance shows most.
            Sweep::Sparsity { values, repeat } if *repeat == 1 => values.len() - 1,
            _ => 0,
        };
        self.feature = None;
        self.example.iter_mut().take(1).for_each(|v| *v = 1.0);
        let control = Arc::new(Control::default());
        control.limit(self.speed);
        self.run.want(pool, Some(ToyTrainingOf { setup, control }));
    }

    /// Forgets the training that is shown, to show one of `recipe` next.
    fn reset(&mut self, recipe: Recipe, setup: Arc<Setup>) {
        self.run.forget();
        self.generation += 1;
        (self.shown, self.error) = (None, None);
        self.example = vec![0.0; setup.features];
        self.trained = Some((recipe, setup));
    }

    /// Shows a finished training that was made elsewhere.
    pub fn present(&mut self, recipe: Recipe, setup: Arc<Setup>, snapshots: Vec<Arc<Snapshot>>) {
        self.reset(recipe.clone(), setup.clone());
        self.instance = setup.instances.len().saturating_sub(1);
        self.example.iter_mut().take(2).for_each(|v| *v = 1.0);
        self.recipe = recipe;
        self.run.set(ToyTrainingOf { setup, control: Arc::default() }, snapshots);
    }

    pub fn apply(&mut self, action: SuperpositionAction, pool: &Pool, notices: &mut Notices) {
        match action {
            SuperpositionAction::Preset(name) => {
                if let Some(p) = by_name(name) {
                    self.preset = p.name;
                    self.recipe = (p.recipe)();
                    self.start(pool, notices);
                }
            }
            SuperpositionAction::Edit(recipe) => self.recipe = *recipe,
            SuperpositionAction::Start => self.start(pool, notices),
            SuperpositionAction::Pause(paused) => {
                if let Some(control) = self.control() {
                    control.pause(paused);
                }
                if !paused {
                    self.shown = None;
                }
            }
            SuperpositionAction::Step(steps) => {
                if let Some(control) = self.control() {
                    control.pause(true);
                    control.step(steps);
                }
                self.shown = None;
            }
            SuperpositionAction::Speed(rate) => {
                self.speed = rate;
                if let Some(control) = self.control() {
                    control.limit(rate);
                }
            }
            SuperpositionAction::Scrub(k) => self.shown = k.and_then(|k| self.snapshots().get(k)).cloned(),
            SuperpositionAction::Select(i) => self.instance = i,
            SuperpositionAction::Feature(f) => self.feature = f,
            SuperpositionAction::Example(x) => self.example = x,
        }
        let count = self.setup().map_or(1, |s| s.instances.len());
        self.instance = self.instance.min(count.saturating_sub(1));
    }

    /// Returns true if nothing is on its way. A paused training is at rest.
    pub fn is_settled(&self) -> bool {
        !self.is_running()
    }

    /// Returns in few letters what distinguishes an instance from the others.
    pub fn instance_label(&self, k: usize) -> String {
        let Some((recipe, setup)) = &self.trained else { return String::new() };
        let Some(i) = setup.instances.get(k) else { return String::new() };
        match &recipe.sweep {
            Sweep::Samples { .. } => format!("{} samples", i.samples.unwrap_or(0)),
            Sweep::Grid(_) => {
                format!("density {:.3}, I {:.2}", 1.0 - i.sparsity, i.importance.last().unwrap_or(&1.0))
            }
            Sweep::Sparsity { values, repeat } if values.len() == 1 && *repeat > 1 => format!("try {}", k + 1),
            Sweep::Sparsity { repeat, .. } if *repeat > 1 => {
                format!("{} · {}", density(1.0 - i.sparsity), k % repeat + 1)
            }
            Sweep::Sparsity { .. } => density(1.0 - i.sparsity),
        }
    }
}

/// Returns a feature density as a label.
fn density(p: f32) -> String {
    if p >= 0.0995 { format!("density {p:.2}") } else { format!("density {p:.3}") }
}
