//! The labels and notes of the feature views: read when a dictionary or model is opened, written as they are typed.

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::features::Chosen;
use crate::app::features::FeaturesState;
use crate::app::pending::Pending;
use crate::app::pending::Wake;
use crate::error::{Error, Result};
use crate::features::Dictionary;
use crate::features::dictionary::store;
use crate::features::labels::{self, Changes, Label, Labels, Unit};
use crate::model::Model;

/// What was read: the file, its labels, and what went wrong with writing the file before it.
type Read = (Option<PathBuf>, Labels, Option<String>);

/// Labels of one file.
#[derive(Default)]
struct Shelf {
    labels: Labels,
    /// Changed since the last writing began.
    changed: Changes,
    /// What is being written.
    sent: Changes,
    /// What could not be written: goes along with the next change.
    failed: Changes,
    reading: Pending<Read>,
    /// Where they are written, once they have been read; nowhere in pictures.
    file: Option<PathBuf>,
    /// Whether the file has been read, or is known to be none.
    known: bool,
    saving: Pending<Labels>,
    errors: Vec<String>,
}

/// What is said of labels that could not be written when the window closed, so that none is lost.
fn unsaved(error: &Error, changes: &Changes) -> String {
    let all: Vec<String> = changes.iter().map(|(unit, l)| format!("{unit}: {} {}", l.label, l.note)).collect();
    format!("{error}; not written are the labels {}", all.join(" | "))
}

impl Shelf {
    /// Reads another file, once what was changed in the one before is written.
    fn open(&mut self, wake: &Wake, file: impl FnOnce() -> Result<Option<PathBuf>> + Send + 'static) {
        let (earlier, before) = (self.saving.take_task(), self.file.take());
        let changed = self.unwritten();
        (self.labels, self.known) = (Labels::default(), false);
        self.reading.start(wake, move |_, _| {
            if let Some(earlier) = earlier {
                earlier.wait();
            }
            let lost = before.filter(|_| !changed.is_empty()).and_then(|path| Labels::amend(&path, &changed).err());
            let file = file()?;
            let labels = file.as_deref().map_or_else(|| Ok(Labels::default()), Labels::open)?;
            Ok((file, labels, lost.map(|e| e.to_string())))
        });
    }

    /// What is not being written yet, and what could not be.
    fn unwritten(&mut self) -> Changes {
        let mut all = std::mem::take(&mut self.failed);
        all.append(&mut self.changed);
        all
    }

    /// Takes in what was read and written, and writes what was changed; true if anything changed, and if labels did.
    fn update(&mut self, wake: &Wake) -> (bool, bool) {
        let (changed, there) = self.reading.update();
        if there && let Some(read) = self.reading.value.clone() {
            (self.file, self.labels) = (read.0.clone(), read.1.clone());
            self.errors.extend(read.2.clone());
            self.known = true;
        }
        let (wrote, written) = self.saving.update();
        if written && let Some(labels) = self.saving.value.clone() {
            self.labels = (*labels).clone();
            self.changed.iter().for_each(|(unit, label)| self.labels.set(unit.clone(), label.clone()));
            self.sent.clear();
        }
        if self.saving.error.is_some() {
            self.failed.append(&mut self.sent);
        }
        if !self.changed.is_empty() && !self.saving.is_running() {
            let changes = self.unwritten();
            if let Some(path) = self.file.clone() {
                self.sent.clone_from(&changes);
                self.saving.start(wake, move |_, _| Labels::amend(&path, &changes));
            }
        }
        (changed || wrote, there || written)
    }

    /// Writes what is not written yet before the program ends.
    fn flush(&mut self) {
        if let Some(task) = self.saving.take_task() {
            task.wait();
        }
        let changes = self.unwritten();
        if let Some(path) = self.file.as_deref().filter(|_| !changes.is_empty()) {
            // There is no window any more to say it in.
            if let Err(e) = Labels::amend(path, &changes) {
                eprintln!("circuitscope: {}", unsaved(&e, &changes));
            }
        }
    }

    fn set(&mut self, unit: Unit, label: Label) -> Result<()> {
        if !self.known {
            return Err(Error::request(match self.reading.is_running() {
                true => "the labels written before are still being read; try again in a moment",
                false => {
                    "the labels written before could not be read, so none is written over them; mend their file first"
                }
            }));
        }
        self.labels.set(unit.clone(), label.clone());
        self.changed.insert(unit, label);
        Ok(())
    }
}

/// Labels of the open dictionary's features, and of the open model's neurons and directions.
#[derive(Default)]
pub struct Book {
    dictionary: Shelf,
    model: Shelf,
}

impl Book {
    fn shelf(&self, unit: &Unit) -> &Shelf {
        if matches!(unit, Unit::Feature(_)) { &self.dictionary } else { &self.model }
    }

    /// Without a folder, those of a dictionary that ships are kept until the window is closed.
    pub fn turn_to_dictionary(&mut self, dictionary: &Arc<Dictionary>, folder: Option<PathBuf>, wake: &Wake) {
        let d = dictionary.clone();
        let file = match folder {
            Some(folder) => Some(labels::of_dictionary(&folder, &d)),
            None => store::builtin(&d).is_none().then(|| labels::of_dictionary(&d.path, &d)),
        };
        self.dictionary.open(wake, move || Ok(file));
    }

    pub fn leave_dictionary(&mut self, wake: &Wake) {
        self.dictionary.open(wake, || Ok(None));
    }

    /// Without a folder they are kept until the window is closed.
    pub fn turn_to_model(&mut self, model: &Arc<Model>, folder: Option<PathBuf>, wake: &Wake) {
        let model = model.clone();
        self.model.open(wake, move || folder.map(|f| labels::of_model(&f, &model)).transpose());
    }

    /// Takes in what was read and written; true if anything changed, and if labels did.
    pub fn update(&mut self, wake: &Wake) -> (bool, bool) {
        let (d, m) = (self.dictionary.update(wake), self.model.update(wake));
        (d.0 || m.0, d.1 || m.1)
    }

    /// Writes what is not written yet before the program ends.
    pub fn flush(&mut self) {
        [&mut self.dictionary, &mut self.model].into_iter().for_each(Shelf::flush);
    }

    /// What went wrong with a file, once each.
    pub fn take_errors(&mut self) -> Vec<String> {
        let shelves = [&mut self.dictionary, &mut self.model].into_iter();
        shelves
            .flat_map(|s| {
                let of_tasks = [s.reading.error.take(), s.saving.error.take()].into_iter().flatten();
                of_tasks.chain(std::mem::take(&mut s.errors)).collect::<Vec<_>>()
            })
            .collect()
    }

    pub fn is_busy(&self) -> bool {
        let busy = |s: &&Shelf| s.reading.is_running() || s.saving.is_running() || !s.changed.is_empty();
        [&self.dictionary, &self.model].iter().any(busy)
    }

    /// Whether a unit's label can be written: until its file has been read none is.
    pub fn is_known(&self, unit: &Unit) -> bool {
        self.shelf(unit).known
    }

    pub fn of(&self, unit: &Unit) -> Option<&Label> {
        self.shelf(unit).labels.of(unit)
    }

    /// The label's words, where there are any.
    pub fn words(&self, unit: &Unit) -> Option<&str> {
        self.of(unit).map(|l| l.label.trim()).filter(|l| !l.is_empty())
    }

    /// Whether any of the dictionary's features has a label.
    pub fn has_features(&self) -> bool {
        !self.dictionary.labels.0.is_empty()
    }

    /// # Errors
    /// If the labels that are there have not been read.
    pub fn set(&mut self, unit: Unit, label: Label) -> Result<()> {
        let shelf = if matches!(unit, Unit::Feature(_)) { &mut self.dictionary } else { &mut self.model };
        shelf.set(unit, label)
    }

    /// Units whose label has these words, in small letters.
    pub fn find<'a>(&'a self, words: &'a str) -> impl Iterator<Item = &'a Unit> {
        self.dictionary.labels.find(words).chain(self.model.labels.find(words))
    }
}

impl FeaturesState {
    /// What labels know a chosen thing by.
    pub fn unit(&self, chosen: Chosen) -> Option<Unit> {
        Some(match chosen {
            Chosen::Feature(f) => Unit::Feature(f),
            Chosen::Neuron(layer, n) => Unit::Neuron(layer, n),
            Chosen::Concept(i) => {
                let w = self.watched.get(i)?;
                Unit::Direction(w.concept.title(w.layer))
            }
        })
    }

    /// What a unit's page is opened by; a direction's must be in the list.
    pub fn chosen_by(&self, unit: &Unit) -> Option<Chosen> {
        match unit {
            Unit::Feature(f) => Some(Chosen::Feature(*f)),
            Unit::Neuron(layer, n) => Some(Chosen::Neuron(*layer, *n)),
            Unit::Direction(_) => {
                (0..self.watched.len()).map(Chosen::Concept).find(|c| self.unit(*c).as_ref() == Some(unit))
            }
        }
    }

    /// What a chosen thing is called: its label after what it is.
    pub fn name(&self, chosen: Chosen) -> String {
        let what = match chosen {
            Chosen::Feature(f) => format!("feature {f}"),
            Chosen::Neuron(l, n) => format!("neuron {l}.{n}"),
            Chosen::Concept(i) => self
                .watched
                .get(i)
                .map_or_else(|| "direction".to_owned(), |w| format!("{} at layer {}", w.concept.name, w.layer)),
        };
        match self.unit(chosen).and_then(|unit| self.labels.words(&unit).map(str::to_owned)) {
            Some(label) => format!("{what} · {label}"),
            None => what,
        }
    }
}
