//! The document, everything computed from it, and the one place that changes them.

use std::mem::{replace, take};
use std::path::PathBuf;
use std::sync::Arc;

use super::action::Action;
use super::features::{Asked, FeaturesState, Shown};
use super::model::circuits::Ranked;
use super::model::results::Results;
use super::model::runs::Runs;
use super::model::trust::TrustState;
use super::model::{self, ModelAction};
use super::selection::Hovered;
use super::shell::lessons::Cover;
use super::shell::notices::{Level, Notices};
use super::superposition::SuperpositionState;
use super::training::TrainingState;
use super::view::{Seen, Workspace};
use super::widgets::names::spoken;
use crate::analysis::feature_geometry::Directions;
use crate::analysis::generation::GenerationOf;
use crate::analysis::patching::SweepOf;
use crate::circuit::search::SearchOf;
use crate::engine::generate::Generated;
use crate::error::Result;
use crate::features::monitor::Continued;
use crate::jobs::Pool;
use crate::jobs::slot::{AnySlot, Slot};
use crate::model::matrix::Held;
use crate::model::{Model, ModelOf, builtin};
use crate::session::desk::{Pinned, Show};
use crate::session::history::History;
use crate::session::labs::Labs;
use crate::session::start::PROMPT;
use crate::session::{Desk, Document, Look};

/// Pause after the last keystroke before the prompt runs.
const DEBOUNCE_SECONDS: f64 = 0.12;

/// Texts that are being typed.
#[derive(Default)]
pub struct Typing {
    /// Time of the last letter that has not been run yet.
    since: Option<f64>,
}

impl Typing {
    pub fn start(&mut self, now: f64) {
        self.since = Some(now);
    }

    pub fn is_pending(&self) -> bool {
        self.since.is_some()
    }

    /// Seconds until the texts are run.
    fn due(&self, now: f64) -> Option<f64> {
        self.since.map(|at| (DEBOUNCE_SECONDS - (now - at)).max(0.0))
    }
}

/// The application's state without its drawing.
pub struct State {
    pub document: Document,
    pub history: History,
    pub pool: Pool,
    /// What can be seen: only that is computed.
    pub seen: Seen,
    /// What a lesson keeps from being seen.
    pub cover: Cover,
    pub notices: Notices,
    /// Pointed at in this frame.
    pub hovered: Hovered,
    pub recent: Vec<String>,
    /// Session files to open again: those of the user, then those that were put aside; each with what it is called.
    pub sessions: Vec<(PathBuf, String)>,
    /// What is being opened in place of the desk's model.
    pub opening: Option<String>,
    /// What is asked of it once it is open.
    pub then: Vec<ModelAction>,
    pub opened: Slot<ModelOf>,
    /// The desk's model, once it is open.
    pub model: Option<Arc<Model>>,
    pub results: Results,
    /// What was checked of the model and the dictionary.
    pub trust: TrustState,
    pub runs: Runs,
    pub typing: Typing,
    /// How often it has been asked for what is wanted.
    round: u64,
    /// Searches and sweeps that were asked for before the runs were there.
    pub waiting: Vec<ModelAction>,
    /// A sweep that the user asked for: all of it, or some cells.
    pub confirmed: Option<SweepOf>,
    /// Text is to be generated as soon as the runs are there.
    pub generates: bool,
    /// The text that was asked for.
    pub generation: Option<GenerationOf>,
    /// The circuit search that was asked for.
    pub search: Option<SearchOf>,
    pub ranked: Option<Ranked>,
    /// The run that the pins were fitted into.
    pub pinned_in: Option<(Show, u64)>,
    pub superposition: SuperpositionState,
    pub training: TrainingState,
    /// What the document said of them last.
    labs: Labs,
    pub features: FeaturesState,
}

/// What is put aside while a lesson has the window: the document with its changes, its model, and everything that was
/// computed or trained or is on its way, in every workspace.
pub struct Aside {
    pub document: Document,
    history: History,
    opening: Option<String>,
    then: Vec<ModelAction>,
    opened: Slot<ModelOf>,
    results: Results,
    runs: Runs,
    typing: Typing,
    waiting: Vec<ModelAction>,
    confirmed: Option<SweepOf>,
    generates: bool,
    generation: Option<GenerationOf>,
    search: Option<SearchOf>,
    ranked: Option<Ranked>,
    pinned_in: Option<(Show, u64)>,
    superposition: SuperpositionState,
    /// Toy models were being trained; they rest meanwhile.
    trains: bool,
    training: TrainingState,
    features: FeaturesState,
}

impl State {
    /// Puts everything aside, and goes on with the same model on a desk where nothing was decided yet. What is on its way
    /// goes on aside, but for toy models, which would take the machine from those that are watched.
    pub fn put_aside(&mut self) -> Aside {
        let (desk, look) = (&self.document.desk, &self.document.look);
        let desk = Desk {
            model: desk.model.clone(),
            hash: desk.hash,
            prompt: desk.prompt.clone(),
            conversation: desk.conversation.clone(),
            pinned: Pinned { head: Some(0), ..Pinned::default() },
            ..Desk::default()
        };
        let look = Look { light: look.light, workspace: look.workspace.clone(), ..Look::default() };
        let document = Document { desk, look, ..Document::default() };
        let opened = self.opened.share();
        let trains = self.superposition.is_running();
        self.superposition.rest(true);
        let aside = Aside {
            document: replace(&mut self.document, document),
            history: take(&mut self.history),
            opening: take(&mut self.opening),
            then: take(&mut self.then),
            opened: replace(&mut self.opened, opened),
            results: take(&mut self.results),
            runs: take(&mut self.runs),
            typing: take(&mut self.typing),
            waiting: take(&mut self.waiting),
            confirmed: take(&mut self.confirmed),
            generates: take(&mut self.generates),
            generation: take(&mut self.generation),
            search: take(&mut self.search),
            ranked: take(&mut self.ranked),
            pinned_in: take(&mut self.pinned_in),
            superposition: self.superposition.put_aside(),
            trains,
            training: self.training.put_aside(),
            features: self.features.put_aside(),
        };
        self.labs.clone_from(&self.document.labs);
        self.ask();
        aside
    }

    /// Puts back what was put aside; what has come in its place is let go of, and stops. The theme stays as it is now.
    pub fn put_back(&mut self, aside: Aside) {
        let (light, size) = (self.document.look.light, self.document.look.size);
        self.document = aside.document;
        (self.document.look.light, self.document.look.size) = (light, size);
        self.history = aside.history;
        (self.opening, self.then, self.opened) = (aside.opening, aside.then, aside.opened);
        (self.results, self.runs, self.typing, self.waiting) = (aside.results, aside.runs, aside.typing, aside.waiting);
        (self.confirmed, self.generates, self.generation) = (aside.confirmed, aside.generates, aside.generation);
        (self.search, self.ranked, self.pinned_in) = (aside.search, aside.ranked, aside.pinned_in);
        (self.superposition, self.training) = (aside.superposition, aside.training);
        self.labs.clone_from(&self.document.labs);
        if aside.trains {
            self.superposition.rest(false);
        }
        self.features.put_back(aside.features);
        self.ask();
    }

    pub fn new(document: Document, recent: Vec<String>, pool: Pool, features: FeaturesState) -> Self {
        let mut state = Self {
            document,
            history: History::default(),
            pool,
            seen: Seen { workspace: Workspace::Model, bars: true, views: Vec::new() },
            cover: Cover::default(),
            notices: Notices::default(),
            hovered: Hovered::default(),
            recent,
            sessions: Vec::new(),
            opening: None,
            then: Vec::new(),
            opened: Slot::default(),
            model: None,
            results: Results::default(),
            trust: TrustState::default(),
            runs: Runs::default(),
            typing: Typing::default(),
            round: 0,
            waiting: Vec::new(),
            confirmed: None,
            generates: false,
            generation: None,
            search: None,
            ranked: None,
            pinned_in: None,
            superposition: SuperpositionState::default(),
            training: TrainingState::default(),
            labs: Labs::default(),
            features,
        };
        state.document.desk.pinned.head.get_or_insert(0);
        state.ask();
        state
    }

    /// The desk in use: what is asked of the model that is open.
    pub fn desk(&self) -> &Desk {
        &self.document.desk
    }

    pub fn pinned(&self) -> Pinned {
        self.document.desk.pinned
    }

    /// Asks for everything that is wanted now. Runs after every action and every arrival.
    pub fn ask(&mut self) {
        self.pool.begin_round();
        self.round += 1;
        let (spec, held) = match &self.opening {
            Some(spec) => (spec.clone(), Held::Auto),
            None => (self.desk().model.clone(), self.desk().weights),
        };
        self.opened.want(&self.pool, Some(ModelOf { spec, held }));
        // Nothing of one desk is asked of another desk's model.
        let hash = self.desk().hash;
        let model = self.opened.value().cloned();
        self.model = model.filter(|m| hash.is_some() && m.fingerprint().ok() == hash);
        self.ask_model();
        if self.labs != self.document.labs {
            self.labs.clone_from(&self.document.labs);
            self.superposition.turn_to(&self.labs.superposition);
            self.training.turn_to(&self.labs.training, &self.pool, &mut self.notices);
        }
        if self.features.desk != self.document.desk.features {
            self.features.desk.clone_from(&self.document.desk.features);
        }
        let shown = self.shown_to_features();
        self.features.ask(&self.pool, &self.seen, &shown);
        let set = self.set_trusted();
        self.trust.ask(&self.pool, self.model.as_ref(), self.features.dictionary(), set);
    }

    /// Writes what was decided about features into the document.
    fn keep_features(&mut self, name: &str, now: f64) {
        let decided = &self.features.desk;
        if self.document.desk.features != *decided {
            self.history.change(&mut self.document, name, now, |d| d.desk.features.clone_from(decided));
        }
    }

    /// Writes what was decided in the other workspaces into the document.
    fn keep_labs(&mut self, name: &str, now: f64) {
        let decided = Labs { superposition: self.superposition.desk(), training: self.training.desk() };
        if self.document.labs != decided {
            self.labs.clone_from(&decided);
            self.history.change(&mut self.document, name, now, |d| d.labs = decided);
        }
    }

    /// Grows with every round of asking.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Stops what runs, in every workspace.
    pub fn cancel(&mut self) {
        self.features.stop();
        if self.document.desk.features != self.features.desk {
            self.document.desk.features.clone_from(&self.features.desk);
        }
        self.opened.stop();
        let labs = self.superposition.slots().into_iter().chain(self.training.slots());
        self.results.slots().into_iter().chain(labs).chain(self.trust.slots()).for_each(AnySlot::stop);
        self.open_no_more();
        (self.generates, self.confirmed, self.waiting) = (false, None, Vec::new());
        self.notices.push(Level::Info, "Cancelled; F5 runs the prompt again.");
        self.ask();
    }

    /// Runs the prompt again, and everything that follows from it.
    pub fn run_again(&mut self) {
        self.typing = Typing::default();
        self.results.runs().into_iter().for_each(AnySlot::again);
        // These do not follow from the run.
        let r = &mut self.results;
        let others: [&mut dyn AnySlot; 6] =
            [&mut r.random_scores, &mut r.geometry, &mut r.neuron_tokens, &mut r.set, &mut r.graph, &mut r.drawing];
        others.into_iter().for_each(AnySlot::retry);
        self.features.ask_again();
        if self.model.is_none() {
            self.opened.again();
        }
        self.ask();
    }

    /// What the feature views ask: the pinned position, and the answer at the end.
    fn asked(&self) -> Asked {
        let pos = self.pinned().pos;
        let (Some(clean), Some(shown)) = (self.clean(), self.run()) else { return Asked { pos, ..Asked::default() } };
        let (answer, wrong) = clean.asked_at(&shown.trace, shown.trace.len().saturating_sub(1));
        Asked { pos, answer, wrong }
    }

    /// What the questions of the feature views follow from.
    fn shown_to_features(&mut self) -> Shown {
        let generated = self.continued().map(|(base, g)| (base.clone(), g.clone()));
        let stamp = self.results.generated.get().map_or(0, |g| g.stamp);
        let stack = self.desk().stack.clone();
        let continued = generated.map(|(base, g)| {
            let ids = |list: &[Generated]| list.iter().map(|t| t.id).collect();
            self.features.continued(stamp, || Continued {
                prompt: base.ids.clone(),
                plain: ids(&g.base),
                steered: g.edited.as_deref().map(ids).unwrap_or_default(),
                stack,
            })
        });
        let geometry = self.seen.has(&model::views::geometry::VIEW);
        Shown {
            model: self.model.clone(),
            trace: self.run().map(|r| r.trace.clone()),
            asked: self.asked(),
            continued,
            decoder: geometry && matches!(self.desk().geometry, Directions::Decoder(_)),
        }
    }

    /// Takes in what has arrived, and starts what has waited long enough. True if anything changed.
    pub fn update(&mut self, now: f64) -> bool {
        let mut changed = self.opened.poll();
        changed |= self.results.slots().into_iter().fold(false, |any, s| s.poll() | any);
        if let Some(model) = self.opened.take_news() {
            self.model_arrived(&model, now);
        } else if let Some(error) = self.opened.take_error() {
            let kept = if self.opened.value().is_some() { " The previous model is still open." } else { "" };
            self.open_no_more();
            self.notices.push(Level::Error, format!("{error}.{kept}"));
        } else if self.opened.is_stopped() && self.opening.is_some() {
            self.open_no_more();
            self.notices.push(Level::Info, "Opening was cancelled.");
        }
        changed |= self.trust.slots().into_iter().fold(false, |any, s| s.poll() | any);
        self.search_arrived(now);
        self.graph_refused();
        self.labels_taken_in();
        changed |= self.superposition.poll(&mut self.notices);
        changed |= self.training.poll(&mut self.notices);
        let watched = self.features.desk.watched.len();
        changed |= self.features.poll(&mut self.notices);
        self.set_trained(now);
        if self.features.desk.watched.len() > watched {
            self.keep_features("find a direction", now);
        }
        // What follows from opening a dictionary is part of opening it.
        self.document.desk.features.clone_from(&self.features.desk);
        if !self.features.queue.is_empty() {
            let shown = self.shown_to_features();
            changed |= self.features.follow_queue(&self.pool, &shown, &mut self.notices);
            self.keep_features("look at features", now);
        }
        if self.typing.due(now).is_some_and(|seconds| seconds <= 0.0) {
            self.typing = Typing::default();
            changed = true;
        }
        if changed {
            self.ask();
        }
        changed
    }

    /// A set that was trained here is what predictions of its model are traced to.
    fn set_trained(&mut self, now: f64) {
        let Some((folder, is_open)) = self.features.take_set() else { return };
        let folder = folder.display().to_string();
        let then = if is_open { ", and the graph is on its features" } else { "" };
        self.notices.push(Level::Info, format!("The set is trained; it lies in {folder}{then}."));
        if is_open {
            self.change("trace to the trained set", now, |d| (d.graph.set, d.graph.file) = (Some(folder), None));
        }
    }

    /// Seconds until [`State::update`] has something to start.
    pub fn due(&self, now: f64) -> Option<f64> {
        self.typing.due(now)
    }

    /// Opens a model; the one that is open already is read again.
    fn open(&mut self, spec: String, then: Vec<ModelAction>) {
        let holds = self.opened.get().is_some_and(|o| o.question.spec == spec);
        if holds || self.desk().model == spec {
            self.opened.again();
        }
        (self.opening, self.then) = (Some(spec), then);
    }

    /// No model is waited for any more, nor is anything to be done to it.
    fn open_no_more(&mut self) {
        (self.opening, self.then) = (None, Vec::new());
    }

    /// A model is open: its desk comes back, or it gets a new one.
    fn model_arrived(&mut self, model: &Arc<Model>, now: f64) {
        self.opening = None;
        let spec = model.spec.clone();
        self.recent.retain(|r| *r != spec);
        self.recent.insert(0, spec.clone());
        self.recent.truncate(12);
        let Ok(hash) = model.fingerprint() else { return };
        let config = &model.config;
        let (before, same) = (self.desk().hash, self.desk().model == spec);
        // A model has a prompt of its own, or reads on where the last one was asked.
        let own = builtin::by_name(&spec).map(|b| b.prompt.to_owned());
        let turn = |d: &mut Document| {
            d.turn_to(&spec, hash, |last| {
                let carried = Some(last.prompt.clone()).filter(|p| !p.is_empty() && last.ids.is_none());
                // A conversation is laid out anew, by the template of this model.
                let conversation = last.conversation.clone().filter(|_| own.is_none() && model.has_chat_template());
                let prompt = own.or(carried).unwrap_or_else(|| PROMPT.to_owned());
                Desk { prompt, conversation, ..Desk::default() }
            });
            let pinned = &mut d.desk.pinned;
            pinned.layer = pinned.layer.min(config.n_layers - 1);
            pinned.head = Some(pinned.head.filter(|h| *h < config.n_heads).unwrap_or(0));
        };
        if before.is_none() || before == Some(hash) {
            turn(&mut self.document);
        } else {
            self.history.change(&mut self.document, &format!("open {}", config.name), now, turn);
        }
        if before.is_some_and(|b| b != hash) {
            if same {
                let text = format!(
                    "The weights of {spec} are not those that this session was made with: its prompts, edits and circuit are put aside, and come back with the old weights."
                );
                self.notices.push(Level::Info, text);
            }
            self.forget_model();
        }
        // What is on its way for another model is let go of.
        self.ask();
        for action in take(&mut self.then) {
            self.apply_model(action, now);
        }
    }

    /// What was computed of a model says nothing of another one.
    fn forget_model(&mut self) {
        let keeps_graph = self.desk().graph.file.is_some();
        self.results.forget(keeps_graph);
        self.results.random_scores.forget();
        self.pinned_in = None;
        (self.confirmed, self.generation, self.search, self.ranked) = (None, None, None, None);
        self.waiting.clear();
    }

    /// The document may be about another model than before.
    fn desk_changed(&mut self, before: Option<u64>) {
        if before != self.desk().hash {
            self.open_no_more();
            self.forget_model();
        }
    }

    /// A document that was made before its model was there, when it is the one that is open.
    fn known(&self, mut document: Document) -> Document {
        if document.desk.hash.is_none() && document.desk.model == self.desk().model {
            document.desk.hash = self.desk().hash;
        }
        document
    }

    /// Turns to another session, which has changes of its own.
    pub fn replace_document(&mut self, document: Document) {
        let before = self.desk().hash;
        self.document = self.known(document);
        self.history = History::default();
        self.open_no_more();
        self.desk_changed(before);
        self.ask();
    }

    /// Takes the last change back, or does it again.
    pub fn travel(&mut self, back: bool) {
        let before = self.desk().hash;
        let name = if back { self.history.undo(&mut self.document) } else { self.history.redo(&mut self.document) };
        let text = match (name, back) {
            (Some(name), true) => format!("Undone: {}.", spoken(&name)),
            (Some(name), false) => format!("Done again: {}.", spoken(&name)),
            (None, true) => "There is nothing to undo.".to_owned(),
            (None, false) => "There is nothing to do again.".to_owned(),
        };
        self.notices.push(Level::Info, text);
        self.desk_changed(before);
    }

    /// Applies an action that concerns the document or a workspace, and asks for what follows.
    pub fn apply(&mut self, action: impl Into<Action>, now: f64) {
        match action.into() {
            Action::Open(spec) => self.open(spec, Vec::new()),
            Action::OpenThen(spec, then) => self.open(spec, then),
            Action::Model(action) => self.apply_model(action, now),
            Action::Hover(hovered) => {
                self.hovered = hovered;
                return;
            }
            Action::Undo => self.travel(true),
            Action::Redo => self.travel(false),
            Action::Jump(done) => {
                let before = self.desk().hash;
                self.history.jump(&mut self.document, done);
                self.desk_changed(before);
            }
            Action::Training(action) => {
                let name = action.name();
                self.training.apply(action, &self.pool, &mut self.notices);
                self.keep_labs(&name, now);
            }
            Action::Feature(action) => {
                let shown = self.shown_to_features();
                let (name, looks) = (action.name(), matches!(action, super::features::FeatureAction::Choose(_)));
                self.features.apply(action, &self.pool, &shown, &mut self.notices);
                if looks {
                    // Where one looks is not what one decides.
                    self.document.desk.features.chosen = self.features.desk.chosen;
                }
                self.keep_features(&name, now);
            }
            Action::Superposition(action) => {
                let name = action.name();
                self.superposition.apply(action, &self.pool, &mut self.notices);
                self.keep_labs(&name, now);
            }
            Action::Say(text) => self.notices.push(Level::Info, text),
            // The window's own.
            Action::Do(_)
            | Action::Show(_)
            | Action::Fill(_)
            | Action::GoOn
            | Action::Welcomed
            | Action::Guide(_)
            | Action::Enter(_)
            | Action::Lesson(_)
            | Action::Load(_)
            | Action::OpenSession(_)
            | Action::SaveGraph(_)
            | Action::SaveCircuit
            | Action::Save { .. }
            | Action::Export(_)
            | Action::CopyCode(_)
            | Action::Copy(_) => {}
        }
        self.ask();
    }

    /// True while there is something that [`Self::cancel`] stops, be it a training that is paused.
    pub fn works(&self) -> bool {
        !self.rests() || self.superposition.is_paused() || !self.pool.asking().is_empty()
    }

    /// Nothing of the model is asked for or on its way.
    pub fn rests(&self) -> bool {
        !self.typing.is_pending() && !self.pool.is_busy() && self.opening.is_none()
    }

    /// True while nothing is asked for, waits, is on its way, or has arrived without having been taken in: what has arrived
    /// may ask for more.
    pub fn is_settled(&mut self) -> bool {
        let taken_in = !self.opened.is_running()
            && self.results.slots().iter().all(|s| !s.is_running())
            && self.trust.slots().iter().all(|s| !s.is_running());
        taken_in
            && self.rests()
            && self.superposition.is_settled()
            && self.training.is_settled()
            && self.features.is_settled()
    }

    /// Looks at other views: what they show is asked for.
    pub fn look_at(&mut self, seen: Seen) {
        if self.seen != seen {
            self.seen = seen;
            self.ask();
        }
    }

    /// What an action needs that only a model can give.
    ///
    /// # Errors
    /// No model is open.
    pub fn need_model(&self) -> Result<&Arc<Model>> {
        self.model.as_ref().ok_or_else(|| crate::Error::request("no model is open; open one first"))
    }
}
