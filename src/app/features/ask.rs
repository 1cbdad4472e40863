//! What the feature views ask for, derived from what the user decided and what can be seen; and what follows from what
//! arrives.

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::features::views::{heatmap, map, monitor, neurons, page, training};
use crate::app::features::{Chosen, FeaturesState, Shown, Watch};
use crate::app::shell::notices::{Level, Notices};
use crate::app::view::{Seen, Workspace};
use crate::engine::Trace;
use crate::features::Dictionary;
use crate::features::dictionary::store::DictionaryOf;
use crate::features::feature_activations::{FeatureActivationsOf, FeatureAttributionOf, Order, ReadFrom};
use crate::features::heat::FeatureHeatOf;
use crate::features::labels::LabelsOf;
use crate::features::monitor::{Follow, MonitorOf};
use crate::features::page::FeaturePageOf;
use crate::features::polysemantic::{RankingOf, SplitsOf};
use crate::features::scan::Subject;
use crate::features::scan::index::LivingOf;
use crate::features::scan::question::{IndexFile, KeptScanOf, ScanOf, ScanOutcome};
use crate::features::train::elsewhere::CapturedPlacesOf;
use crate::features::train::kept::KeptActivationsOf;
use crate::features::train::shelf::TrainedDictionary;
use crate::features::writer::Writer;
use crate::jobs::Pool;
use crate::jobs::slot::Slot;
use crate::model::Model;
use crate::question::Question;

/// Asks a question; without one nothing is kept.
fn follow<Q: Question>(slot: &mut Slot<Q>, pool: &Pool, question: Option<Q>, seen: bool) {
    match question {
        Some(_) => slot.ask(pool, question, seen),
        None => slot.forget(),
    }
}

/// Asks a question after a job that is `near` enough to it has ended: a held key, or a text that is being generated, shows
/// some of its answers.
fn ask_slowly<Q: Question>(
    slot: &mut Slot<Q>,
    pool: &Pool,
    question: Option<Q>,
    seen: bool,
    near: impl Fn(&Q, &Q) -> bool,
) {
    let ends_first = seen && slot.is_running() && slot.wanted().zip(question.as_ref()).is_some_and(|(a, b)| near(a, b));
    if !ends_first {
        slot.ask(pool, question, seen);
    }
}

/// Forgets a slot whose question is about something that is gone.
fn keep_if<Q: Question>(slot: &mut Slot<Q>, holds: impl Fn(&Q) -> bool) {
    let mut questions = slot.wanted().into_iter().chain(slot.get().map(|a| &a.question));
    if !questions.all(holds) {
        slot.forget();
    }
}

impl FeaturesState {
    /// Asks for everything that is wanted now, and for nothing that cannot be seen. What was begun by a button goes on
    /// as long as it is about the model and the dictionary that are open.
    pub fn ask(&mut self, pool: &Pool, seen: &Seen, shown: &Shown) {
        let desk = &self.desk;
        let wanted = Some(desk.dictionary.clone()).filter(|spec| !spec.is_empty());
        let question =
            wanted.map(|spec| DictionaryOf { sites: desk.sites.get(&spec).copied(), spec, store: self.store.clone() });
        follow(&mut self.dictionary, pool, question, true);
        let Some(model) = &shown.model else { return };
        if !self.model.upgrade().is_some_and(|m| Arc::ptr_eq(&m, model)) {
            self.turn_to_model(model);
        }
        self.forget_others(model);
        self.ask_labels(pool, model);
        self.ask_index(pool, seen, model);
        let trace = shown.trace.as_ref().filter(|t| t.model == *model);
        self.ask_prompt(pool, seen, shown, trace);
        self.ask_page(pool, seen, model);
        self.ask_monitor(pool, seen, shown, trace);
        let captured = self.desk.captured.as_ref().map(|c| PathBuf::from(&c.0));
        let question = captured.map(|path| CapturedPlacesOf { model: model.clone(), path });
        follow(&mut self.captured, pool, question, seen.has(&training::VIEW));
        let measures = self.folders.keeps && seen.has(&training::VIEW) && self.kept_activations.wanted().is_none();
        if measures {
            let folder = self.folders.activations.clone();
            self.kept_activations.want(pool, Some(KeptActivationsOf { folder, remove: false }));
        }
    }

    /// A dictionary is trained of one model only.
    fn turn_to_model(&mut self, model: &Arc<Model>) {
        self.model = Arc::downgrade(model);
        let other = self.training.wanted().is_some_and(|t| t.model != *model);
        if other || self.set_training.wanted().is_some_and(|t| t.model != *model) {
            self.stop_training();
        }
    }

    /// Forgets what was begun by a button for another model or dictionary.
    fn forget_others(&mut self, model: &Arc<Model>) {
        let dictionary = self.dictionary().cloned();
        let is_open = |d: &Arc<Dictionary>| dictionary.as_ref() == Some(d);
        keep_if(&mut self.index, |q| q.model == *model && matches!(&q.subject, Subject::Features(d) if is_open(d)));
        keep_if(&mut self.neurons, |q| q.model == *model);
        keep_if(&mut self.read_out, |q| q.model == *model);
        keep_if(&mut self.arriving, |q| q.model == *model);
        keep_if(&mut self.finding, |q| q.model == *model);
        keep_if(&mut self.map, |q| is_open(&q.dictionary));
        keep_if(&mut self.doses, |q| {
            let of_open = !matches!(&q.writer, Writer::Feature(d, _) if !is_open(d));
            q.trace.model == *model && of_open
        });
    }

    fn ask_labels(&mut self, pool: &Pool, model: &Arc<Model>) {
        let folder = self.folders.keeps.then(|| self.folders.shelf.clone());
        let dictionary = self.dictionary().cloned();
        let of_dictionary = dictionary.map(|dictionary| LabelsOf::Dictionary { dictionary, folder: folder.clone() });
        let of_model = LabelsOf::Model { model: model.clone(), folder };
        self.labels.ask(pool, of_dictionary, Some(of_model));
    }

    /// Asks for an earlier scan of the dictionary, and for what follows from the indexes.
    fn ask_index(&mut self, pool: &Pool, seen: &Seen, model: &Arc<Model>) {
        let dictionary = self.dictionary().cloned();
        let placed = dictionary.clone().filter(|d| self.folders.keeps && d.input.is_some());
        let folder = self.folders.scans.clone();
        let question = placed.map(|dictionary| KeptScanOf { model: model.clone(), dictionary, folder });
        follow(&mut self.found, pool, question, true);
        let question = self.index().cloned().map(|index| LivingOf { index });
        follow(&mut self.living, pool, question, seen.bars && seen.workspace == Workspace::Features);
        let listed = seen.has(&neurons::VIEW);
        let question = self.neurons.value().map(|s| RankingOf { index: s.index.clone() });
        follow(&mut self.ranking, pool, question, listed);
        let ranking = self.ranking.fresh().filter(|r| r.index.about.is_complete()).map(|r| r.value.clone());
        let fitting = dictionary.filter(|d| d.check(&model.config).is_ok());
        let question = fitting.zip(ranking).map(|(dictionary, ranking)| {
            let model = model.clone();
            SplitsOf { model, dictionary, ranking }
        });
        follow(&mut self.splits, pool, question, listed);
    }

    /// Asks what the dictionary says of the run that is shown.
    fn ask_prompt(&mut self, pool: &Pool, seen: &Seen, shown: &Shown, trace: Option<&Arc<Trace>>) {
        let drawn = seen.has(&heatmap::VIEW);
        let captured = self.desk.reads_captured().map(PathBuf::from);
        let from = match (captured, &shown.model) {
            (Some(path), Some(model)) => Some(ReadFrom::Captured(model.clone(), path)),
            _ => trace.cloned().map(ReadFrom::Run),
        };
        let Some((dictionary, from)) = self.dictionary().cloned().zip(from) else {
            self.activations.forget();
            self.attribution.forget();
            return self.heat.forget();
        };
        let question = FeatureActivationsOf { dictionary, from };
        self.activations.ask(pool, Some(question), drawn || seen.has(&map::VIEW) || shown.decoder);
        let activations = self.activations.fresh().map(|a| a.value.clone());
        let order = match self.desk.order.at(shown.asked.pos) {
            // These are of the prompt.
            Order::At(_) | Order::Answer if self.desk.reads_captured().is_some() => Order::Max,
            order => order,
        };
        let (answer, wrong) = (shown.asked.answer, shown.asked.wrong);
        let question = activations.clone().filter(|_| order == Order::Answer);
        let question = question.map(|activations| FeatureAttributionOf { activations, answer, wrong });
        self.attribution.ask(pool, question, drawn && order == Order::Answer);
        let attribution = self.attribution.fresh().map(|a| a.value.clone());
        // The one before stays, dimmed, until what it is made from is there.
        let ready = activations.filter(|_| order != Order::Answer || attribution.is_some());
        let question = ready.map(|activations| FeatureHeatOf { activations, order, attribution });
        ask_slowly(&mut self.heat, pool, question, drawn, |a, b| {
            a.activations == b.activations && a.attribution == b.attribution
        });
    }

    fn ask_page(&mut self, pool: &Pool, seen: &Seen, model: &Arc<Model>) {
        let question = self.desk.chosen.and_then(|chosen| {
            let number = match chosen {
                Chosen::Feature(f) => f as usize,
                Chosen::Neuron(_, n) => n,
                Chosen::Concept(_) => 0,
            };
            let index = self.index_of(chosen).filter(|_| self.entry(chosen).is_some()).cloned();
            Some(FeaturePageOf {
                model: model.clone(),
                writer: self.writer(chosen).ok()?,
                dictionary: self.dictionary().cloned(),
                examples: index.map(|index| (index, number)),
            })
        });
        follow(&mut self.page, pool, question, seen.has(&page::VIEW));
    }

    fn ask_monitor(&mut self, pool: &Pool, seen: &Seen, shown: &Shown, trace: Option<&Arc<Trace>>) {
        let desk = &self.desk;
        let rows = self.monitor_rows();
        let Some(trace) = trace.cloned().filter(|_| !rows.is_empty()) else { return self.monitored.forget() };
        let question = MonitorOf {
            continued: shown.continued.clone().filter(|c| desk.follow != Follow::Prompt && c.prompt == trace.ids),
            trace,
            rows,
            dictionary: self.dictionary().filter(|_| !desk.kept.is_empty()).cloned(),
            follow: desk.follow,
            store: self.store.clone(),
        };
        ask_slowly(&mut self.monitored, pool, Some(question), seen.has(&monitor::VIEW), |a, b| a.trace == b.trace);
    }

    /// Takes in what has arrived, and does what follows once. True if anything changed.
    pub fn poll(&mut self, notices: &mut Notices) -> bool {
        let (trained_before, stopping) = (self.training.is_running(), self.is_stopping());
        let set_before = self.set_training.is_running();
        let mut changed = false;
        for slot in self.slots() {
            changed |= slot.poll();
        }
        changed |= self.labels.poll();
        if let Some(opened) = self.dictionary.take_news() {
            let (desk, known) = (&mut self.desk, opened.dictionary.d_sae as u32);
            let changed = desk.read == desk.dictionary && desk.read_hash.is_some_and(|h| h != opened.hash);
            let of_before = !desk.kept.is_empty() || matches!(desk.chosen, Some(Chosen::Feature(_)));
            if changed && of_before {
                let text = format!(
                    "The dictionary {} is not the one that it was: its features are others, and those that were chosen and watched are let go of.",
                    desk.dictionary
                );
                notices.push(Level::Error, text);
            }
            if desk.read != desk.dictionary || changed {
                (desk.chosen, desk.kept) = (None, Vec::new());
                desk.read.clone_from(&desk.dictionary);
            }
            desk.read_hash = Some(opened.hash);
            // Sessions of before say no hash.
            desk.kept.retain(|k| k.0 < known);
            desk.chosen = desk.chosen.filter(|c| !matches!(c, Chosen::Feature(f) if *f >= known));
        }
        if let Some(old) = self.dictionary.get().map(|d| d.question.spec.clone())
            && let Some(error) = self.dictionary.take_error()
        {
            notices.push(Level::Error, error);
            self.desk.dictionary = old;
        }
        for scan in [&mut self.index, &mut self.neurons, &mut self.read_out] {
            if let Some(scanned) = scan.take_news() {
                notices.push(Level::Info, "The text is scanned.");
                if let Some(e) = &scanned.unkept {
                    notices.push(Level::Info, format!("This scan is not kept for another time: {e}."));
                }
            }
        }
        if let Some(file) = self.arriving.take_news() {
            self.take_index(&file, notices);
            self.arriving.forget();
        }
        if let Some(concept) = self.finding.take_news() {
            let layer = concept.best().map_or(0, |b| b.layer);
            notices.push(Level::Info, format!("{}: best at layer {layer}.", concept.name));
            self.desk.watched.push(Watch { concept, layer, threshold: 0.0 });
            self.desk.chosen.get_or_insert(Chosen::Concept(self.desk.watched.len() - 1));
            // The same may be looked for again.
            self.finding.forget();
        }
        let ended = trained_before && !self.training.is_running();
        if ended && !self.kept_activations.is_running() {
            self.kept_activations.again();
        }
        self.say_stopped_set(notices, set_before && !self.set_training.is_running() && stopping);
        // Another model may have been opened meanwhile: its curve would stand still without a word.
        let curve = self.training.value().map(|t| &t.curve);
        if let (Some(last), true) = (curve.and_then(|c| c.last()), ended && stopping)
            && let Some(of) = self.training.wanted().map(|t| t.model.config.name.clone())
        {
            let text = format!(
                "The training of a dictionary of {of} was stopped at step {}; asked for again with {of} open, it goes on there.",
                last.step
            );
            notices.push(Level::Info, text);
        }
        if let Some(trained) = self.training.take_news().and_then(|t| t.trained.clone()) {
            self.open_trained(&trained, notices);
        }
        let errors = [
            self.found.take_error(),
            self.splits.take_error(),
            self.arriving.take_error(),
            self.finding.take_error(),
            self.training.take_error(),
            self.set_training.take_error(),
            self.kept_activations.take_error(),
        ];
        for error in errors.into_iter().flatten().chain(self.labels.take_errors()) {
            notices.push(Level::Error, error);
        }
        changed
    }

    /// Puts an index that was opened where it belongs. What is being scanned for the same place gives way.
    fn take_index(&mut self, file: &IndexFile, notices: &mut Notices) {
        let Some(model) = self.model.upgrade() else { return };
        let IndexFile { index, subject } = file;
        let slot = match subject {
            Subject::Features(_) => &mut self.index,
            Subject::Neurons(_) => &mut self.neurons,
            Subject::Direction(..) => &mut self.read_out,
        };
        slot.set(ScanOf::of_index(model, subject.clone(), index), ScanOutcome { index: index.clone(), unkept: None });
        let about = &index.about;
        notices.push(Level::Info, format!("Opened the index of {}: {} positions.", about.subject, about.positions));
    }

    /// Says that a set's training was stopped, if it was, and how it goes on.
    fn say_stopped_set(&self, notices: &mut Notices, stopped: bool) {
        let Some(of) = self.set_training.wanted().map(|t| &t.model.config.name).filter(|_| stopped) else { return };
        let layer = self.set_training.value().and_then(|t| t.curves.last()).map_or(0, |c| c.0);
        let text = format!(
            "The training of a set of {of} was stopped at layer {layer}; asked for again with {of} open, it goes on there."
        );
        notices.push(Level::Info, text);
    }

    /// The folder of a set that has just been trained, and whether it is of the model that is open.
    pub fn take_set(&mut self) -> Option<(PathBuf, bool)> {
        let folder = self.set_training.take_news()?.folder.clone()?;
        let model = self.model.upgrade();
        Some((folder, self.set_training.wanted().map(|t| &t.model) == model.as_ref()))
    }

    /// Opens a dictionary that was trained here, unless another model is open by now.
    fn open_trained(&mut self, trained: &TrainedDictionary, notices: &mut Notices) {
        let quality = trained.quality.as_ref().map_or(String::new(), |q| {
            let (r, dead) = (&q.after_first, 100.0 * q.dead);
            format!(
                ": explained variance {:.3} at L0 {:.1} on held-out text, {dead:.1} % dead",
                r.explained_variance, r.l0
            )
        });
        let folder = trained.folder.display().to_string();
        notices.push(Level::Info, format!("The dictionary is trained{quality}; it lies in {folder}."));
        let model = self.model.upgrade();
        if self.training.wanted().map(|t| &t.model) == model.as_ref() {
            self.open(folder);
        }
    }

    /// Opens a dictionary; the same one again is read again if its file has changed.
    pub(super) fn open(&mut self, spec: String) {
        if self.desk.dictionary == spec {
            self.dictionary.again();
        }
        self.desk.dictionary = spec;
    }
}
