//! A set that is open beside a model: opened once for all that asks about it.

use std::sync::Arc;

use crate::error::Result;
use crate::features::DictionarySet;
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Asks for a set of transcoders to be opened, one for every layer of a model.
#[derive(Clone, PartialEq)]
pub struct SetOf {
    pub model: Arc<Model>,
    /// Its folder, or the name of one that ships.
    pub spec: String,
}

impl Question for SetOf {
    type Answer = DictionarySet;
    const LABEL: &'static str = "opening the set";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(DictionarySet)) -> Result<DictionarySet> {
        let set = DictionarySet::open(&self.spec, progress)?;
        set.check(&self.model.config)?;
        Ok(set)
    }
}
