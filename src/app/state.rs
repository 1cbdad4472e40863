//! The document, what has been asked, and the one place that changes them.

use std::sync::Arc;

use super::features::{Asked, FeaturesState, Shown};
use super::selection::{Focus, Selection};
use crate::analysis::feature_geometry::Directions;
use crate::analysis::neurons::Statistic;
use crate::analysis::pair::Pair;
use crate::analysis::projection::Settings;
use crate::analysis::sweep::Found;
use crate::app::action::Action;
use crate::app::model::circuits::CircuitState;
pub use crate::app::model::results::{Result, Results, Slot};
use crate::app::model::runs::{PatchSettings, Show};
use crate::app::model::views::geometry;
use crate::app::shell::notices::{Level, Notices};
use crate::app::superposition::LabState;
use crate::app::training::ScratchState;
use crate::app::view::{Seen, Workspace};
use crate::engine::edit::Which;
use crate::engine::generate::Sampling;
use crate::features::monitor::Continued;
use crate::jobs::{Kind, Pool, Request, Worker};
use crate::model::Model;
use crate::session::Document;

/// Directions whose cosines are shown one by one.
const SHOWN: usize = 48;
/// Neurons shown at once.
pub const NEURONS: usize = 256;
/// Pause after the last keystroke before the prompt runs.
const DEBOUNCE_SECONDS: f64 = 0.12;

/// The application's state without its drawing.
pub struct State {
    pub document: Document,
    pub model: Option<Arc<Model>>,
    pub results: Results,
    pub selection: Selection,
    pub notices: Notices,
    pub worker: Worker,
    pub pool: Pool,
    /// What can be seen.
    pub seen: Seen,
    pub recent: Vec<String>,
    /// What is being opened.
    pub opening: Option<String>,
    pub statistic: Statistic,
    pub projection: Settings,
    /// Which run the views show.
    pub show: Show,
    pub patching: PatchSettings,
    /// Whether the patching view has been looked at: until then no sweep is run.
    pub wants_sweep: bool,
    /// Whether its approximation has been looked at.
    pub wants_approximation: bool,
    /// Both prompts' runs, kept until they change.
    pub pair: Option<Pair>,
    /// For each token of the corrupted prompt its counterpart in the clean one.
    pub counterparts: Vec<Option<usize>>,
    /// Cells that a restricted sweep adds to.
    pub known_cells: Option<Arc<Found>>,
    /// Reference texts that the last sweep was asked with.
    pub known_reference: Vec<String>,
    /// Text is to be generated as soon as the edited run is there.
    pub pending_generation: bool,
    /// The end of the shown run is pinned, and stays so while it grows.
    follows_end: bool,
    pub circuits: CircuitState,
    /// The directions that the feature geometry is of, once it has been looked at.
    pub geometry: Option<Directions>,
    pub lab: LabState,
    pub scratch: ScratchState,
    pub features: FeaturesState,
    /// How text is generated, and how much.
    pub sampling: (Sampling, usize),
    /// Nothing is on its way because the user stopped it.
    pub cancelled: bool,
    /// Until a head is chosen by hand, the one that adds most to the answer is shown.
    pub auto_head: bool,
    /// It has been chosen for this model.
    pub chose_head: bool,
    /// Time of the last edit of the prompt that has not been run yet.
    edited_at: Option<f64>,
}

impl State {
    pub fn new(
        document: Document,
        recent: Vec<String>,
        worker: Worker,
        pool: Pool,
        lab: LabState,
        scratch: ScratchState,
        features: FeaturesState,
    ) -> Self {
        let mut state = Self {
            model: None,
            results: Results::default(),
            selection: Selection::default(),
            notices: Notices::default(),
            worker,
            pool,
            seen: Seen { workspace: Workspace::Model, bars: true, views: Vec::new() },
            recent,
            opening: None,
            statistic: Statistic::MaxAbs,
            projection: Settings::default(),
            show: Show::default(),
            patching: PatchSettings::default(),
            wants_sweep: false,
            wants_approximation: false,
            pair: None,
            counterparts: Vec::new(),
            known_cells: None,
            known_reference: Vec::new(),
            pending_generation: false,
            follows_end: true,
            circuits: CircuitState::default(),
            geometry: None,
            lab,
            scratch,
            features,
            sampling: (Sampling::default(), 30),
            cancelled: false,
            auto_head: true,
            chose_head: false,
            edited_at: None,
            document,
        };
        if state.document.stack.is_active() {
            state.show = Show::Edited;
        }
        let spec = state.document.model.clone();
        state.open(spec);
        state
    }

    fn open(&mut self, spec: String) {
        self.opening = Some(spec.clone());
        self.worker.submit(Request::Open { spec });
    }

    /// Stops what runs and forgets what waits.
    pub fn cancel(&mut self) {
        self.features.stop();
        self.pending_generation = false;
        if self.worker.has(Kind::GraphFile) {
            self.circuits.file = None;
        }
        self.worker.cancel_all();
        self.opening = None;
        self.cancelled = true;
        self.notices.push(Level::Info, "Cancelled; F5 runs the prompt again.");
    }

    /// Asks for a run of the document's prompt.
    pub fn request_run(&mut self) {
        self.edited_at = None;
        self.cancelled = false;
        let Some(model) = self.model.clone() else { return };
        let d = &self.document;
        if self.results.random_scores.result.is_none() {
            self.worker.submit(Request::RandomScores { model: model.clone() });
        }
        if d.prompt.is_empty() {
            self.worker.cancel_run();
            let random = std::mem::take(&mut self.results.random_scores);
            self.results.clear(self.circuits.file.is_some());
            self.update_pair();
            self.results.random_scores = random;
            return;
        }
        let some = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
        self.worker.submit(Request::Run {
            model: model.clone(),
            prompt: d.prompt.clone(),
            ids: d.ids.clone(),
            answer: some(&d.answer),
            wrong: some(&d.wrong),
        });
        if d.corrupted.is_empty() {
            self.results.corrupted = Slot::default();
        } else {
            self.worker.submit(Request::RunCorrupted { model, prompt: d.corrupted.clone() });
        }
        self.results.outdate_run();
        if self.circuits.file.is_none() {
            self.worker.withdraw(|k| k == Kind::Drawing);
            self.results.graph.outdate();
            self.results.drawing.outdate();
        }
        self.update_pair();
    }

    fn request_analyses(&mut self) {
        let (Some(run), Some(subject)) = (self.clean().cloned(), self.subject()) else { return };
        self.request_pattern();
        self.request_attribution();
        self.worker.submit(Request::Thumbnails { subject: subject.clone() });
        self.worker.submit(Request::Lens { subject: subject.clone(), answer: run.answer, wrong: run.wrong });
        self.worker.submit(Request::Norms { subject: subject.clone() });
        self.request_neurons();
        self.worker.submit(Request::Projection { subject: subject.clone(), settings: self.projection });
        self.worker.submit(Request::TextScores { subject });
        self.request_graph();
        self.request_why();
        self.request_geometry();
    }

    /// Shows the wanted run: all analyses of it are asked for.
    pub fn refresh(&mut self) {
        if let Some(len) = self.run().map(|r| r.trace.len()) {
            let pinned = &mut self.selection.pinned;
            pinned.pos = if self.follows_end { len - 1 } else { pinned.pos.min(len - 1) };
            pinned.key = pinned.key.filter(|k| *k < len);
        }
        self.results.outdate_analyses();
        self.request_analyses();
    }

    fn request_pattern(&mut self) {
        if let Some(subject) = self.subject() {
            let which = self.selection.pinned.which();
            self.worker.submit(Request::Pattern { subject, which });
            self.results.pattern.outdate();
        }
    }

    /// What is to be explained at a position of the shown run: the user's answer at the last one. Without it, and
    /// elsewhere, the model's own favourite: the unedited one's, so that edits do not change the question.
    fn asked_at(&self, pos: usize) -> Asked {
        let none = Asked { pos, ..Asked::default() };
        let (Some(clean), Some(shown)) = (self.clean(), self.run()) else { return none };
        let favourites = if shown.trace.len() == clean.trace.len() { &clean.trace } else { &shown.trace };
        let favourite = favourites.next.get(pos).and_then(|n| n.first()).map(|t| t.id);
        let last = pos + 1 == shown.trace.len();
        let answer = clean.answer.filter(|_| last).or(favourite);
        Asked { pos, answer, wrong: clean.wrong.filter(|_| last && clean.answer.is_some()) }
    }

    /// What the feature views ask: the pinned position, and the answer at the end.
    fn asked(&self) -> Asked {
        let end = self.run().map_or(0, |r| r.trace.len().saturating_sub(1));
        Asked { pos: self.selection.pinned.pos, ..self.asked_at(end) }
    }

    fn request_attribution(&mut self) {
        let Some(subject) = self.subject() else { return };
        let Asked { pos, answer, wrong } = self.asked_at(self.selection.pinned.pos);
        if let Some(answer) = answer {
            self.worker.submit(Request::Attribution { subject, pos, answer, wrong });
            self.results.attribution.outdate();
        }
    }

    fn request_neurons(&mut self) {
        let Some(subject) = self.subject() else { return };
        if !subject.trace.model.config.has_mlp() {
            return;
        }
        let statistic = match self.statistic {
            Statistic::AtPosition(_) => Statistic::AtPosition(self.selection.pinned.pos),
            other => other,
        };
        let layer = self.selection.pinned.layer;
        self.worker.submit(Request::Neurons { subject, layer, statistic, limit: NEURONS });
        self.results.neurons.outdate();
    }

    /// Takes in what the model thread has finished, and starts what has waited long enough. True if
    /// anything changed.
    pub fn update(&mut self, now: f64) -> bool {
        let mut changed = false;
        while let Some(answer) = self.worker.poll() {
            changed = true;
            self.receive(answer);
        }
        changed |= self.lab.update(&mut self.notices);
        changed |= self.scratch.update(&mut self.notices);
        changed |= self.features.poll(&mut self.notices);
        let shown = self.shown_to_features();
        self.features.ask(&self.pool, &self.seen, &shown);
        changed |= self.features.follow_queue(&self.pool, &shown, &mut self.notices);
        if self.edited_at.is_some_and(|at| now - at >= DEBOUNCE_SECONDS) {
            self.request_run();
        }
        changed
    }

    /// What the questions of the feature views follow from.
    fn shown_to_features(&mut self) -> Shown {
        let base = match self.document.stack.base {
            Which::Clean => self.clean(),
            Which::Corrupted => self.corrupted(),
        };
        let generated = self.results.generated.get().filter(|g| g.fresh);
        let continued = generated.cloned().zip(base.cloned()).map(|(g, base)| {
            let ids = |list: &[crate::engine::generate::Generated]| list.iter().map(|t| t.id).collect();
            self.features.continued(g.stamp, || Continued {
                prompt: base.trace.ids.clone(),
                plain: ids(&g.base),
                steered: g.edited.as_deref().map(ids).unwrap_or_default(),
                stack: self.document.stack.clone(),
            })
        });
        Shown {
            model: self.model.clone(),
            trace: self.run().map(|r| r.trace.clone()),
            asked: self.asked(),
            continued,
            decoder: self.seen.has(&geometry::VIEW) && matches!(self.geometry, Some(Directions::Decoder(_))),
        }
    }

    /// Seconds until [`State::update`] has something to start.
    pub fn due(&self, now: f64) -> Option<f64> {
        self.edited_at.map(|at| (DEBOUNCE_SECONDS - (now - at)).max(0.0))
    }

    /// Applies an action that concerns the document, the selection or the model.
    pub fn apply(&mut self, action: Action, now: f64) {
        match action {
            Action::Open(spec) => self.open(spec),
            Action::SetPrompt(text) => {
                self.document.alignment = None;
                self.document.ids = None;
                self.edit(now, |d| &mut d.prompt, text);
            }
            Action::SetAnswer(text) => self.edit(now, |d| &mut d.answer, text),
            Action::SetWrong(text) => self.edit(now, |d| &mut d.wrong, text),
            Action::SetCorrupted(text) => {
                self.document.alignment = None;
                if text.is_empty() {
                    // There is nothing to run, so what depends on it is settled at once.
                    self.document.corrupted = text;
                    self.worker.withdraw(|k| k == Kind::RunCorrupted);
                    self.results.corrupted = Slot::default();
                    self.runs_are_there();
                    self.refresh();
                } else {
                    self.edit(now, |d| &mut d.corrupted, text);
                }
            }
            Action::Align(token, counterpart) => self.align(token, counterpart),
            Action::ShowRun(show) => {
                self.show = show;
                self.refresh();
            }
            Action::SetStack(stack) => {
                let was_active = self.document.stack.is_active();
                let mean_moves = stack.reference != self.document.stack.reference;
                self.document.stack = stack;
                if self.document.stack.is_active() && (!was_active || self.show == Show::Clean) {
                    self.show = if self.show == Show::Difference { Show::Difference } else { Show::Edited };
                }
                self.request_edited();
                if mean_moves {
                    self.request_sweep(None, false);
                }
            }
            Action::ToggleEdit(base, edit) => self.toggle_edits(base, vec![edit]),
            Action::PutEdits(base, edits) => self.put_edits(base, edits),
            Action::ToggleEditsTogether(base, edits) => self.toggle_edits(base, edits),
            Action::Patch(settings) => {
                self.wants_sweep = true;
                self.patching = settings;
                self.request_sweep(None, false);
                self.request_approximation();
            }
            Action::Sweep { cells } => self.request_sweep(cells, true),
            Action::Approximate => {
                self.wants_approximation = true;
                self.request_approximation();
            }
            Action::Sampling(sampling, limit) => self.sampling = (sampling, limit),
            Action::Generate => self.request_generation(),
            Action::Pin(new) => {
                // A head that was chosen stays, even if it is the one that was shown anyway.
                self.auto_head &= new.focus != Focus::Head;
                self.pin(new);
            }
            Action::Hover(hovered) => self.selection.hovered = hovered,
            Action::NeuronStatistic(statistic) => {
                self.statistic = statistic;
                self.request_neurons();
            }
            Action::Project(settings) => {
                self.projection = settings;
                if let Some(subject) = self.subject() {
                    self.worker.submit(Request::Projection { subject, settings });
                    self.results.projection.outdate();
                }
            }
            Action::Geometry(directions) => {
                self.geometry = Some(directions);
                self.request_geometry();
            }
            Action::Restore(document) => self.restore(*document),
            Action::Scratch(action) => self.scratch.apply(action),
            Action::Feature(action) => {
                let shown = self.shown_to_features();
                self.features.apply(action, &self.pool, &shown, &mut self.notices);
            }
            Action::Lab(action) => self.lab.apply(action, &mut self.notices),
            Action::Say(text) => self.notices.push(Level::Info, text),
            other => self.apply_circuit(other),
        }
    }

    /// The directions themselves belong to the model; which cosines are shown depends on the prompt.
    pub fn request_geometry(&mut self) {
        let (Some(directions), Some(model)) = (self.geometry, self.model.clone()) else { return };
        let chosen: Vec<usize> = match directions {
            Directions::Neurons(layer) => match self.results.neurons.get() {
                Some(n) if n.value.now.layer == layer => n.value.now.order.iter().copied().take(SHOWN).collect(),
                _ => (0..SHOWN).collect(),
            },
            Directions::Decoder(_) => match self.features.activations.value() {
                Some(r) => r.leading(Default::default(), None, SHOWN).0.into_iter().map(|f| f as usize).collect(),
                None => (0..SHOWN).collect(),
            },
            Directions::Embedding | Directions::Unembedding => {
                let mut ids: Vec<usize> = Vec::new();
                for id in self.run().map_or(&[][..], |r| &r.trace.ids) {
                    if !ids.contains(&(*id as usize)) && ids.len() < SHOWN {
                        ids.push(*id as usize);
                    }
                }
                ids
            }
        };
        // What does not depend on the prompt is computed once.
        let known = self.results.geometry.get().map(|g| g.value.clone()).filter(|g| g.directions == directions);
        self.worker.submit(Request::Geometry {
            model,
            directions,
            chosen,
            known,
            dictionary: self.features.dictionary().cloned(),
        });
        self.results.geometry.outdate();
    }

    /// Shows another document, with its model.
    fn restore(&mut self, document: Document) {
        let model = document.model.clone();
        let other = model != self.document.model;
        self.document = document;
        self.show = if self.document.stack.is_active() { Show::Edited } else { Show::Clean };
        if other {
            self.open(model);
        } else {
            self.request_run();
        }
    }

    /// Nothing of the model is asked for or on its way.
    pub fn rests(&self) -> bool {
        self.edited_at.is_none() && !self.worker.is_busy() && self.opening.is_none()
    }

    /// From now on the shown head is the user's choice.
    pub fn keep_head(&mut self) {
        self.auto_head = false;
    }

    fn edit(&mut self, now: f64, field: fn(&mut Document) -> &mut String, text: String) {
        let field = field(&mut self.document);
        if *field != text {
            *field = text;
            self.edited_at = Some(now);
        }
    }

    pub fn pin(&mut self, new: super::selection::Pinned) {
        let old = self.selection.pinned;
        self.selection.pinned = new;
        if let Some(len) = self.run().map(|r| r.trace.len()) {
            self.follows_end = new.pos + 1 >= len;
        }
        if old.which() != new.which() {
            self.auto_head = false;
        }
        if old.which() != new.which() {
            self.request_pattern();
        }
        if old.pos != new.pos {
            self.request_attribution();
            self.request_graph();
        }
        if (old.layer, old.head, old.pos, old.key) != (new.layer, new.head, new.pos, new.key) {
            self.request_why();
        }
        if old.layer != new.layer || old.pos != new.pos && matches!(self.statistic, Statistic::AtPosition(_)) {
            self.request_neurons();
        }
        if new.focus == Focus::Neuron
            && let (Some(model), Some(neuron)) = (&self.model, new.neuron)
            && (old.neuron != new.neuron || old.layer != new.layer)
        {
            self.worker.submit(Request::NeuronTokens { model: model.clone(), layer: new.layer, neuron });
            self.results.neuron_tokens.outdate();
        }
    }

    /// True while nothing is asked for, waits or is on its way.
    pub fn is_settled(&self) -> bool {
        self.edited_at.is_none()
            && !self.worker.is_busy()
            && !self.pool.is_busy()
            && self.lab.is_settled()
            && self.scratch.is_settled()
            && self.features.is_settled()
    }
}
