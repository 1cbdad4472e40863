//! Directions as questions: found from two sets of texts, or read from a file.

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::SiteKind;
use crate::error::Result;
use crate::features::direction::concept::{ConceptSet, Pool};
use crate::features::direction::{Concept, Method, find};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Texts with and without a concept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examples {
    /// A shipped set or a file.
    Set(String),
    /// As they were typed, one a line.
    Typed { name: String, with: String, without: String },
}

impl Examples {
    /// Reads the texts.
    ///
    /// # Errors
    /// A file that is none, or too few texts.
    pub fn open(&self) -> Result<ConceptSet> {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        match self {
            Self::Set(spec) => ConceptSet::open(spec),
            Self::Typed { name, with, without } => ConceptSet::from_lists(name, &lines(with), &lines(without)),
        }
    }
}

/// How a direction is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionSearch {
    pub examples: Examples,
    pub method: Method,
    pub kind: SiteKind,
    pub pool: Pool,
}

/// Where a direction comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectionSource {
    Search(DirectionSearch),
    File(PathBuf),
}

/// Asks for a direction of a model.
#[derive(Clone, PartialEq)]
pub struct DirectionOf {
    pub model: Arc<Model>,
    pub source: DirectionSource,
}

impl Question for DirectionOf {
    type Answer = Concept;

    const LABEL: &'static str = "finding directions";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Concept)) -> Result<Concept> {
        match &self.source {
            DirectionSource::Search(s) => find(&self.model, &s.examples.open()?, s.kind, s.pool, s.method, progress),
            DirectionSource::File(path) => {
                let concept = Concept::open(path)?;
                concept.check(&self.model)?;
                Ok(concept)
            }
        }
    }
}
