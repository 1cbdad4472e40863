//! What is decided about the features of one model: its dictionary, directions, what is watched and trained.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::{Site, SiteKind};
use crate::features::dictionary::store::Sites;
use crate::features::direction::Concept;
use crate::features::feature_activations::Order;
use crate::features::monitor::Follow;
use crate::features::train::Settings;
use crate::features::train::recipe::Recipe;

/// Tokens of a row of text that is scanned or trained on here.
pub const CONTEXT: usize = 128;
/// What the page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Chosen {
    Feature(u32),
    Neuron(usize, usize),
    /// A direction, by its place in the list.
    Concept(usize),
}

/// A direction in the list of the monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    #[serde(with = "super::desk::shared")]
    pub concept: Arc<Concept>,
    pub layer: usize,
    /// Value above which a token is marked.
    pub threshold: f32,
}

/// What the user decided about the features of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeaturesDesk {
    /// Name or path of the dictionary that is wanted; empty for none.
    pub dictionary: String,
    /// Sites that were named for dictionaries whose files do not say.
    pub sites: BTreeMap<String, Sites>,
    pub order: Order,
    /// A file of captured activations, and whether features are read from it in the prompt's place.
    pub captured: Option<(String, bool)>,
    pub chosen: Option<Chosen>,
    /// Directions in the monitor.
    pub watched: Vec<Watch>,
    /// The dictionary that the chosen and the kept features are of.
    pub read: String,
    /// The hash of its weights; `None` until it has been opened.
    #[serde(with = "super::desk::hex")]
    pub read_hash: Option<u64>,
    /// Features in the monitor, and the activation above which each marks a token.
    pub kept: Vec<(u32, f32)>,
    pub follow: Follow,
    /// The training that was asked for last.
    pub recipe: Recipe,
}

impl FeaturesDesk {
    /// The file of captured activations that features are read from in the prompt's place.
    pub fn reads_captured(&self) -> Option<&str> {
        self.captured.as_ref().filter(|c| c.1).map(|c| c.0.as_str())
    }
}

impl Default for FeaturesDesk {
    fn default() -> Self {
        Self {
            dictionary: String::new(),
            sites: BTreeMap::new(),
            order: Order::default(),
            captured: None,
            chosen: None,
            watched: Vec::new(),
            read: String::new(),
            read_hash: None,
            kept: Vec::new(),
            follow: Follow::default(),
            recipe: Recipe {
                site: Site::new(SiteKind::ResidPost, 0).into(),
                target: None,
                text: vec!["mixed".to_owned()],
                context: CONTEXT,
                tokens: Some(100_000),
                bos: false,
                include_first: false,
                settings: Settings { features: 1024, steps: 1000, ..Settings::default() },
            },
        }
    }
}
