//! The labels and notes of the feature views: read when a dictionary or model is opened, written after every change.

use std::path::PathBuf;
use std::sync::Arc;

use super::features::{Chosen, FeaturesState};
use super::pending::{Pending, Wake};
use crate::error::{Error, Result};
use crate::features::Dictionary;
use crate::features::labels::{self, Label, Labels, Unit};
use crate::model::Model;

/// Labels of one file.
#[derive(Default)]
struct Shelf {
    labels: Labels,
    /// The file and what it holds, while it is read.
    reading: Pending<(Option<PathBuf>, Labels)>,
    /// Where they are written, once they have been read; nowhere in pictures.
    file: Option<PathBuf>,
    /// Whether the file has been read, or is known to be none.
    known: bool,
    saving: Pending<()>,
}

impl Shelf {
    /// Reads another file.
    fn open(&mut self, wake: &Wake, file: impl FnOnce() -> Result<Option<PathBuf>> + Send + 'static) {
        (self.labels, self.file, self.known) = (Labels::default(), None, false);
        self.reading.start(wake, move |_, _| {
            let file = file()?;
            let labels = file.as_deref().map_or_else(|| Ok(Labels::default()), Labels::open)?;
            Ok((file, labels))
        });
    }

    /// Takes in what was read; true if anything changed, and if labels did.
    fn update(&mut self) -> (bool, bool) {
        let saved = self.saving.update().0;
        let (changed, there) = self.reading.update();
        if there && let Some(read) = self.reading.value.clone() {
            (self.file, self.labels) = (*read).clone();
            self.known = true;
        }
        (changed || saved, there)
    }

    fn set(&mut self, unit: Unit, label: Label, wake: &Wake) -> Result<()> {
        if !self.known {
            return Err(Error::request(
                "the labels written before could not be read, so none is written over them; mend their file first",
            ));
        }
        self.labels.set(unit, label);
        if let Some(path) = self.file.clone() {
            let labels = self.labels.clone();
            // One after the other: the newest must be the last.
            let earlier = self.saving.take_task();
            self.saving.start(wake, move |_, _| {
                if let Some(earlier) = earlier {
                    earlier.wait();
                }
                labels.save(&path)
            });
        }
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

    pub(super) fn turn_to_dictionary(&mut self, dictionary: &Arc<Dictionary>, wake: &Wake) {
        let d = dictionary.clone();
        self.dictionary.open(wake, move || Ok(Some(labels::beside(&d.path))));
    }

    /// Without a folder they are kept until the window is closed.
    pub(super) fn turn_to_model(&mut self, model: &Arc<Model>, folder: Option<PathBuf>, wake: &Wake) {
        let model = model.clone();
        self.model.open(wake, move || folder.map(|f| labels::of_model(&f, &model)).transpose());
    }

    /// Takes in what was read and written; true if anything changed, and if labels did.
    pub(super) fn update(&mut self) -> (bool, bool) {
        let (d, m) = (self.dictionary.update(), self.model.update());
        (d.0 || m.0, d.1 || m.1)
    }

    /// What went wrong with a file, once each.
    pub(super) fn take_errors(&mut self) -> Vec<String> {
        let shelves = [&mut self.dictionary, &mut self.model];
        shelves.into_iter().flat_map(|s| [s.reading.error.take(), s.saving.error.take()]).flatten().collect()
    }

    pub(super) fn is_busy(&self) -> bool {
        [&self.dictionary, &self.model].iter().any(|s| s.reading.is_running() || s.saving.is_running())
    }

    /// Changes when labels have been read: what is being written then belongs to something else.
    pub fn stamp(&self) -> u64 {
        self.dictionary.reading.stamp + self.model.reading.stamp
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
    /// If the labels that are there could not be read.
    pub(super) fn set(&mut self, unit: Unit, label: Label, wake: &Wake) -> Result<()> {
        let shelf = if matches!(unit, Unit::Feature(_)) { &mut self.dictionary } else { &mut self.model };
        shelf.set(unit, label, wake)
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
