//! What can be chosen: features, neurons, directions. What they are called, what is known of them, and their edits.

use std::sync::Arc;

use crate::app::features::{Chosen, FeaturesState};
use crate::engine::Edit;
use crate::error::{Error, Result};
use crate::features::labels::Unit;
use crate::features::monitor::MonitorRow;
use crate::features::page::FeaturePage;
use crate::features::scan::Subject;
use crate::features::scan::index::{Entry, Index};
use crate::features::writer::Writer;
use crate::model::Model;

impl FeaturesState {
    /// Returns what labels know a chosen thing by.
    pub fn unit(&self, chosen: Chosen) -> Option<Unit> {
        Some(match chosen {
            Chosen::Feature(f) => Unit::Feature(f),
            Chosen::Neuron(layer, n) => Unit::Neuron(layer, n),
            Chosen::Concept(i) => {
                let w = self.desk.watched.get(i)?;
                Unit::Direction(w.concept.title(w.layer))
            }
        })
    }

    /// Returns what a unit's page is opened by; a direction's must be in the list.
    pub fn chosen_by(&self, unit: &Unit) -> Option<Chosen> {
        match unit {
            Unit::Feature(f) => Some(Chosen::Feature(*f)),
            Unit::Neuron(layer, n) => Some(Chosen::Neuron(*layer, *n)),
            Unit::Direction(_) => {
                let all = (0..self.desk.watched.len()).map(Chosen::Concept);
                all.into_iter().find(|c| self.unit(*c).as_ref() == Some(unit))
            }
        }
    }

    fn labelled(&self, what: String, unit: Option<Unit>) -> String {
        match unit.as_ref().and_then(|unit| self.labels.words(unit)) {
            Some(label) => format!("{what} · {label}"),
            None => what,
        }
    }

    /// Returns what a chosen thing is called: its label after what it is.
    pub fn name(&self, chosen: Chosen) -> String {
        let what = match chosen {
            Chosen::Feature(f) => format!("feature {f}"),
            Chosen::Neuron(l, n) => format!("neuron {l}.{n}"),
            Chosen::Concept(i) => match self.desk.watched.get(i) {
                Some(w) => format!("{} at layer {}", w.concept.name, w.layer),
                None => "direction".to_owned(),
            },
        };
        self.labelled(what, self.unit(chosen))
    }

    /// Returns what a row of the monitor is called.
    pub fn row_name(&self, row: &MonitorRow) -> String {
        match row {
            MonitorRow::Feature(f) => self.name(Chosen::Feature(*f)),
            MonitorRow::Concept(concept, layer) => self
                .labelled(format!("{} at layer {layer}", concept.name), Some(Unit::Direction(concept.title(*layer)))),
        }
    }

    /// Returns what is monitored: directions, then features of the open dictionary.
    pub fn monitor_rows(&self) -> Vec<MonitorRow> {
        let desk = &self.desk;
        let directions = desk.watched.iter().map(|w| MonitorRow::Concept(w.concept.clone(), w.layer));
        let features = desk.kept.iter().filter(|_| self.dictionary().is_some()).map(|k| MonitorRow::Feature(k.0));
        directions.chain(features).collect()
    }

    /// Returns the value above which a row marks a token, as it is now. `None` for what is not monitored any more.
    pub fn threshold(&self, row: &MonitorRow) -> Option<f32> {
        let desk = &self.desk;
        match row {
            MonitorRow::Concept(concept, _) => desk.watched.iter().find(|w| w.concept == *concept).map(|w| w.threshold),
            MonitorRow::Feature(f) => desk.kept.iter().find(|k| k.0 == *f).map(|k| k.1),
        }
    }

    /// Returns what writes the direction of a chosen thing.
    ///
    /// # Errors
    /// Without a dictionary, or for a direction that is not in the list any more.
    pub fn writer(&self, chosen: Chosen) -> Result<Writer> {
        Ok(match chosen {
            Chosen::Feature(f) => {
                let dictionary = self.dictionary().cloned();
                let none = || Error::request("no dictionary is open; open one first");
                Writer::Feature(dictionary.ok_or_else(none)?, f as usize)
            }
            Chosen::Neuron(layer, n) => Writer::Neuron(layer, n),
            Chosen::Concept(i) => {
                let w = self.desk.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                Writer::Concept(w.concept.clone(), w.layer)
            }
        })
    }

    /// Returns the edits that add what a chosen thing writes, `alpha` times.
    ///
    /// # Errors
    /// Without a dictionary, or one that writes no site.
    pub fn steer(&self, chosen: Chosen, alpha: f32, model: &Model) -> Result<Vec<Edit>> {
        self.writer(chosen)?.steer(alpha, model)
    }

    /// Returns the edits that take a chosen thing out.
    ///
    /// # Errors
    /// As [`Self::steer`].
    pub fn ablate(&self, chosen: Chosen, model: &Model) -> Result<Vec<Edit>> {
        self.writer(chosen)?.ablate(model)
    }

    /// Returns the page of a chosen thing, if it is there.
    pub fn page(&self, chosen: Chosen) -> Option<&Arc<FeaturePage>> {
        let writer = self.writer(chosen).ok()?;
        self.page.get().filter(|page| page.question.writer == writer).map(|page| &page.value)
    }

    /// Returns the index of the dictionary's features: while a first scan runs, of the text so far.
    pub fn index(&self) -> Option<&Arc<Index>> {
        let scanned = self.index.value().map(|s| &s.index);
        scanned.or_else(|| self.found.fresh()?.value.as_ref().as_ref())
    }

    /// Returns the index that may know a chosen thing.
    pub fn index_of(&self, chosen: Chosen) -> Option<&Arc<Index>> {
        match chosen {
            Chosen::Feature(_) => self.index(),
            Chosen::Neuron(..) => self.neurons.value().map(|s| &s.index),
            Chosen::Concept(i) => {
                let w = self.desk.watched.get(i)?;
                let subject = Subject::Direction(w.concept.clone(), w.layer);
                self.read_out.get().filter(|s| s.question.subject == subject).map(|s| &s.index)
            }
        }
    }

    /// Returns what the index knows of a chosen thing.
    pub fn entry(&self, chosen: Chosen) -> Option<&Entry> {
        let index = self.index_of(chosen)?;
        match chosen {
            Chosen::Feature(f) => index.entries.get(f as usize),
            Chosen::Neuron(layer, n) if index.about.layer_of_neurons() == Some(layer) => index.entries.get(n),
            Chosen::Neuron(..) => None,
            Chosen::Concept(_) => index.entries.first(),
        }
    }

    /// Returns which of its sites the open dictionary's file leaves open: where it reads, where a transcoder writes.
    pub fn open_sites(&self) -> (bool, bool) {
        self.dictionary.value().map_or((false, false), |opened| opened.of_file.open_sites())
    }
}
