//! The page of what is chosen: what is known of a feature, neuron or direction beyond the index, and where the index has
//! it.

use std::sync::Arc;

use crate::app::features::Chosen;
use crate::app::features::FeaturesState;
use crate::app::features::UNRELATED;
use crate::app::features::polysemantic::split;
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dashboard::{Effects, Groups, effects, group_examples, neighbours, neuron_direction};
use crate::features::direction::Concept;
use crate::features::scan::Subject;
use crate::features::scan::index::Index;
use crate::features::{Dictionary, Place};
use crate::model::Model;

/// What is known of it beyond the index.
pub struct Page {
    pub chosen: Chosen,
    pub effects: Option<Effects>,
    /// Features that point the same way.
    pub neighbours: Vec<(usize, f32)>,
    /// Groups of its strongest examples.
    pub groups: Option<Groups>,
    /// For each group the features that are most active in it and not in the others, and how much more.
    pub split: Vec<Vec<(u32, f32)>>,
}

/// What writes a direction; a cross-layer dictionary's is read from its file, away from the window.
pub enum Writer {
    Feature(Arc<Dictionary>, usize),
    Neuron(Arc<Model>, usize, usize),
    Concept(Arc<Concept>, usize),
}

impl Writer {
    /// What it writes; of a feature that writes to several layers, their sum.
    pub fn direction(&self) -> Result<Vec<f32>> {
        match self {
            Self::Feature(d, f) => d.summed_direction(*f),
            Self::Neuron(model, layer, n) => neuron_direction(model, *layer, *n),
            Self::Concept(concept, layer) => Ok(concept.at(*layer)?.vector.clone()),
        }
    }
}

impl FeaturesState {
    pub fn writer(&self, chosen: Chosen, model: &Arc<Model>) -> Result<Writer> {
        Ok(match chosen {
            Chosen::Feature(f) => Writer::Feature(self.opened()?.0.clone(), f as usize),
            Chosen::Neuron(layer, n) => Writer::Neuron(model.clone(), layer, n),
            Chosen::Concept(i) => {
                let w = self.watched.get(i).ok_or_else(|| Error::request("the direction is gone"))?;
                Writer::Concept(w.concept.clone(), w.layer)
            }
        })
    }

    pub fn turn_to(&mut self, chosen: Chosen, model: &Arc<Model>) {
        let writer = self.writer(chosen, model);
        let (model, dictionary) = (model.clone(), self.dictionary.value.clone());
        let output = dictionary.as_ref().and_then(|d| d.output);
        let place = match chosen {
            Chosen::Neuron(layer, _) => Some(Place::from(Site::new(SiteKind::MlpOut, layer))),
            Chosen::Feature(_) => output,
            Chosen::Concept(i) => {
                let site = self.watched.get(i).and_then(|w| w.concept.site(w.layer).ok());
                site.map(Place::from)
            }
        };
        let in_stream = place.is_some_and(Place::in_stream);
        let comparable = output.zip(place).is_none_or(|(o, p)| o.comparable(p));
        let examples = self.entry(chosen).map(|e| e.top.clone());
        self.page.start(&self.wake, move |progress, _| {
            let direction = writer?.direction()?;
            let effects = if in_stream && direction.len() == model.config.d_model {
                Some(effects(&model, &direction)?)
            } else {
                None
            };
            let itself = match chosen {
                Chosen::Feature(f) => Some(f as usize),
                _ => None,
            };
            let fitting = dictionary.as_ref().filter(|d| comparable && d.d_out == direction.len());
            // Features are compared by what they write to their own layer.
            let near = match (fitting, itself) {
                (Some(d), Some(f)) => neighbours(d, &d.direction(f)?, itself)?,
                (Some(d), None) => neighbours(d, &direction, None)?,
                (None, _) => Vec::new(),
            };
            let groups = examples.as_ref().map(|e| group_examples(e, UNRELATED));
            let split = match (&dictionary, &examples, &groups, chosen) {
                (Some(d), Some(e), Some(g), Chosen::Neuron(..)) if d.check(&model.config).is_ok() => {
                    split(&model, d, e, g, progress)?
                }
                _ => Vec::new(),
            };
            Ok(Page { chosen, effects, neighbours: near, groups, split })
        });
    }

    /// What the index knows of a feature or neuron.
    pub fn entry(&self, chosen: Chosen) -> Option<&crate::features::scan::index::Entry> {
        match chosen {
            Chosen::Feature(f) => self.index.value.as_ref()?.entries.get(f as usize),
            Chosen::Neuron(layer, n) => {
                let index = self.neurons.value.as_ref()?;
                (index.about.subject == Subject::Neurons(layer).name()).then(|| index.entries.get(n)).flatten()
            }
            Chosen::Concept(i) => self.index_of(Chosen::Concept(i))?.entries.first(),
        }
    }

    pub fn index_of(&self, chosen: Chosen) -> Option<&Arc<Index>> {
        match chosen {
            Chosen::Feature(_) => self.index.value.as_ref(),
            Chosen::Neuron(..) => self.neurons.value.as_ref(),
            Chosen::Concept(i) => {
                let w = self.watched.get(i)?;
                let (concept, layer) = self.read_out_of.as_ref()?;
                (Arc::ptr_eq(concept, &w.concept) && *layer == w.layer)
                    .then_some(self.read_out.value.as_ref())
                    .flatten()
            }
        }
    }
}
