//! The superposition lab's state: the recipe being edited, the training that runs, its moments.

pub mod panel;
pub mod views;

use std::sync::Arc;

use eframe::egui;

use crate::app::shell::notices::{Level, Notices};
use crate::error::Error;
use crate::jobs::training::{Report, Training};
use crate::superposition::presets::{PRESETS, Preset};
use crate::superposition::recipe::Sweep;
use crate::superposition::{Moment, Recipe, Setup};

/// Moments kept for scrubbing; of more than that every second one goes.
const MOMENTS: usize = 400;
/// Memory that they may take.
const MEMORY: usize = 256 << 20;

/// Speeds to choose from: steps a second, 0 for all the machine can do.
pub const SPEEDS: [(u64, &str); 5] =
    [(0, "full speed"), (3000, "3000 steps/s"), (1000, "1000 steps/s"), (300, "300 steps/s"), (50, "50 steps/s")];

/// What the lab can be asked for.
#[derive(Clone, Debug)]
pub enum LabAction {
    /// Takes the settings of a preset, by its name, and trains.
    Preset(&'static str),
    /// Goes back to the settings of a preset as they had been changed; the training that is shown stays.
    Back(&'static str, Box<Recipe>),
    /// Changes the settings; the training that is shown stays.
    Edit(Box<Recipe>),
    /// Trains from the start.
    Start,
    Pause(bool),
    Step(u64),
    Speed(u64),
    /// Shows a moment of the past, or follows the training.
    Scrub(Option<usize>),
    /// The instance that is looked at.
    Select(usize),
    /// The feature that is looked at.
    Feature(Option<usize>),
    /// The example's inputs.
    Example(Vec<f32>),
}

pub struct LabState {
    pub preset: &'static str,
    pub recipe: Recipe,
    /// What the moments were trained with.
    pub trained: Option<(Recipe, Arc<Setup>)>,
    training: Option<Training>,
    /// Grows with every training that begins: pictures of another one are not this one's.
    pub generation: usize,
    pub moments: Vec<Arc<Moment>>,
    /// The newest moment, which may not have been kept.
    newest: Option<Arc<Moment>>,
    /// Only every so-manieth moment that arrives is kept.
    stride: usize,
    arrived: usize,
    bytes: usize,
    pub shown: Option<usize>,
    pub instance: usize,
    pub feature: Option<usize>,
    pub speed: u64,
    pub example: Vec<f32>,
    pub error: Option<String>,
    /// Whether the scene may turn by itself: not in pictures and tests.
    pub turns: bool,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl LabState {
    pub fn new(ctx: &egui::Context) -> Self {
        let ctx = ctx.clone();
        let first = &PRESETS[0];
        Self {
            preset: first.name,
            recipe: (first.recipe)(),
            trained: None,
            training: None,
            generation: 0,
            moments: Vec::new(),
            newest: None,
            stride: 1,
            arrived: 0,
            bytes: 0,
            shown: None,
            instance: 0,
            feature: None,
            speed: 0,
            example: Vec::new(),
            error: None,
            turns: false,
            wake: Arc::new(move || ctx.request_repaint()),
        }
    }

    pub fn preset(&self) -> &'static Preset {
        crate::superposition::presets::by_name(self.preset).unwrap_or(&PRESETS[0])
    }

    /// The recipe differs from what is shown.
    pub fn is_edited(&self) -> bool {
        self.trained.as_ref().is_some_and(|(r, _)| *r != self.recipe)
    }

    pub fn is_running(&self) -> bool {
        self.training.as_ref().is_some_and(|t| !t.is_paused())
    }

    pub fn is_paused(&self) -> bool {
        self.training.as_ref().is_some_and(Training::is_paused)
    }

    /// Share that is done, and seconds left.
    pub fn progress(&self) -> Option<(f32, Option<f64>)> {
        self.training.as_ref().map(|t| (t.progress().fraction(), t.progress().seconds_left()))
    }

    pub fn setup(&self) -> Option<&Arc<Setup>> {
        self.trained.as_ref().map(|(_, s)| s)
    }

    /// The moment on screen.
    pub fn moment(&self) -> Option<&Arc<Moment>> {
        match self.shown {
            Some(k) => self.moments.get(k).or(self.newest.as_ref()),
            None => self.newest.as_ref(),
        }
    }

    /// Takes in what the training sent; true if anything changed.
    pub fn update(&mut self, notices: &mut Notices) -> bool {
        let Some(training) = &self.training else { return false };
        let mut reports = Vec::new();
        while let Some(report) = training.poll() {
            reports.push(report);
        }
        let changed = !reports.is_empty();
        for report in reports {
            match report {
                Report::Moment(m) => self.arrive(m),
                Report::Ended(outcome) => {
                    self.training = None;
                    // The last moment is always kept.
                    if let Some(last) = self.newest.clone()
                        && self.moments.last().is_none_or(|m| m.step() != last.step())
                    {
                        self.moments.push(last);
                    }
                    match outcome {
                        Ok(()) | Err(Error::Cancelled) => {}
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

    fn arrive(&mut self, moment: Arc<Moment>) {
        if self.arrived.is_multiple_of(self.stride) {
            self.bytes += moment.bytes();
            self.moments.push(moment.clone());
            while (self.moments.len() > MOMENTS || self.bytes > MEMORY) && self.moments.len() > 2 {
                let mut k = 0;
                let shown = self.shown.and_then(|s| self.moments.get(s)).map(|m| m.step());
                self.moments.retain(|_| {
                    k += 1;
                    k % 2 == 1
                });
                self.shown = shown.and_then(|s| self.moments.iter().rposition(|m| m.step() <= s));
                self.bytes = self.moments.iter().map(|m| m.bytes()).sum();
                self.stride *= 2;
            }
        }
        self.arrived += 1;
        self.newest = Some(moment);
    }

    fn start(&mut self, notices: &mut Notices) {
        let setup = match self.recipe.setup() {
            Ok(s) => Arc::new(s),
            Err(e) => {
                notices.push(Level::Error, e.to_string());
                self.error = Some(e.to_string());
                return;
            }
        };
        self.error = None;
        self.moments.clear();
        self.generation += 1;
        (self.newest, self.shown, self.stride, self.arrived, self.bytes) = (None, None, 1, 0, 0);
        self.instance = match &self.recipe.sweep {
            // The sparsest one shows most.
            Sweep::Sparsity { values, repeat } if *repeat == 1 => values.len() - 1,
            _ => 0,
        };
        self.feature = None;
        self.example = vec![0.0; setup.features];
        if let Some(first) = self.example.first_mut() {
            *first = 1.0;
        }
        self.trained = Some((self.recipe.clone(), setup.clone()));
        let wake = self.wake.clone();
        self.training = Some(Training::spawn(setup, false, self.speed, move || wake()));
    }

    /// Shows a training that was made elsewhere, without one that runs.
    pub fn present(&mut self, recipe: Recipe, setup: Arc<Setup>, moments: Vec<Arc<Moment>>) {
        self.training = None;
        self.generation += 1;
        self.newest = moments.last().cloned();
        (self.moments, self.shown) = (moments, None);
        self.instance = setup.instances.len().saturating_sub(1);
        self.example = vec![0.0; setup.features];
        self.example.iter_mut().take(2).for_each(|v| *v = 1.0);
        self.recipe = recipe.clone();
        self.trained = Some((recipe, setup));
    }

    pub fn apply(&mut self, action: LabAction, notices: &mut Notices) {
        match action {
            LabAction::Preset(name) => {
                if let Some(p) = crate::superposition::presets::by_name(name) {
                    self.preset = p.name;
                    self.recipe = (p.recipe)();
                    self.start(notices);
                }
            }
            LabAction::Back(preset, recipe) => (self.preset, self.recipe) = (preset, *recipe),
            LabAction::Edit(recipe) => self.recipe = *recipe,
            LabAction::Start => self.start(notices),
            LabAction::Pause(paused) => {
                if let Some(t) = &self.training {
                    t.pause(paused);
                }
                if !paused {
                    self.shown = None;
                }
            }
            LabAction::Step(n) => {
                if let Some(t) = &self.training {
                    t.pause(true);
                    t.step(n);
                }
                self.shown = None;
            }
            LabAction::Speed(rate) => {
                self.speed = rate;
                if let Some(t) = &self.training {
                    t.limit(rate);
                }
            }
            LabAction::Scrub(k) => self.shown = k.filter(|k| *k < self.moments.len()),
            LabAction::Select(i) => self.instance = i,
            LabAction::Feature(f) => self.feature = f,
            LabAction::Example(x) => self.example = x,
        }
        let count = self.setup().map_or(1, |s| s.instances.len());
        self.instance = self.instance.min(count.saturating_sub(1));
    }

    /// True while nothing is on its way.
    pub fn is_settled(&self) -> bool {
        !self.is_running()
    }

    /// What distinguishes an instance, in few letters.
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

/// A feature density as a label.
fn density(p: f32) -> String {
    if p >= 0.0995 { format!("density {p:.2}") } else { format!("density {p:.3}") }
}
