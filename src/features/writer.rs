//! What writes a direction (a feature, a neuron, a concept that was found), and the edits that add it or take it out.

use std::sync::Arc;

use crate::engine::edit::{Action, Direction, Edit, FeatureChange};
use crate::engine::{Site, SiteKind};
use crate::error::Result;
use crate::features::dictionary::edit::{changed, steered};
use crate::features::direction::Concept;
use crate::features::page::neuron_direction;
use crate::features::{Dictionary, Place};
use crate::model::Model;

/// Something that writes a direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Writer {
    /// A dictionary's feature.
    Feature(Arc<Dictionary>, usize),
    /// A neuron: layer and number.
    Neuron(usize, usize),
    /// A concept's direction at a layer.
    Concept(Arc<Concept>, usize),
}

impl Writer {
    /// Returns what it writes, [width]; of a feature that writes to several layers, their sum. A cross-layer
    /// dictionary's is read from its file.
    ///
    /// # Errors
    /// A feature, neuron or layer that does not exist.
    pub fn direction(&self, model: &Model) -> Result<Vec<f32>> {
        match self {
            Self::Feature(d, f) => d.summed_direction(*f),
            Self::Neuron(layer, n) => neuron_direction(model, *layer, *n),
            Self::Concept(concept, layer) => Ok(concept.at(*layer)?.vector.clone()),
        }
    }

    /// Returns where it writes, if that is known.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Feature(d, _) => d.output,
            Self::Neuron(layer, _) => Some(Site::new(SiteKind::MlpOut, *layer).into()),
            Self::Concept(concept, layer) => concept.site(*layer).ok().map(Place::from),
        }
    }

    /// Returns the edits that add what it writes `alpha` times.
    ///
    /// # Errors
    /// A dictionary that does not fit the model or whose site cannot be edited, and as [`Self::direction`].
    pub fn steer(&self, alpha: f32, model: &Model) -> Result<Vec<Edit>> {
        Ok(match self {
            Self::Feature(d, f) => steered(d, &d.path.display().to_string(), *f, alpha, &model.config)?,
            Self::Neuron(layer, n) => {
                // Without its label: an edit of the same direction by another name would not give way to this one.
                let direction =
                    Direction::Concept { name: format!("neuron {layer}.{n}"), vector: self.direction(model)? };
                vec![Edit::new(Site::new(SiteKind::MlpOut, *layer), Action::Add { direction, factor: alpha })]
            }
            Self::Concept(concept, layer) => vec![concept.steer(*layer, alpha)?],
        })
    }

    /// Returns the edits that take it out where it is active.
    ///
    /// # Errors
    /// As [`Self::steer`].
    pub fn ablate(&self, model: &Model) -> Result<Vec<Edit>> {
        Ok(match self {
            Self::Feature(d, f) => {
                changed(d, &d.path.display().to_string(), *f, FeatureChange::Set(0.0), &model.config)?
            }
            Self::Neuron(layer, n) => {
                vec![Edit::new(Site::new(SiteKind::MlpPost, *layer), Action::Zero).coordinate(*n)]
            }
            Self::Concept(concept, layer) => vec![concept.ablate(*layer)?],
        })
    }
}
