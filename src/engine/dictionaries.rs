//! The engine's view of dictionaries of features. Edits name dictionaries, but the engine does not open files: whoever
//! resolves edits hands over a [`Dictionaries`] that finds them (`features::store`).

use std::fmt::Debug;
use std::sync::Arc;

use super::edit::FeatureChange;
use super::site::Site;
use crate::error::{Error, Result};
use crate::model::Model;

/// Finds the dictionaries that edits name.
pub trait Dictionaries: Send + Sync {
    /// Returns what `feature` writes to `site`, [d_model].
    ///
    /// # Errors
    /// The dictionary cannot be opened, or does not have the feature.
    fn direction(&self, dictionary: &str, feature: usize, site: Site) -> Result<Vec<f32>>;

    /// Prepares the change of a feature's activation at `site`.
    ///
    /// # Errors
    /// As [`Self::direction`]; or the dictionary does not fit the model or the site.
    fn change(
        &self,
        dictionary: &str,
        feature: usize,
        change: FeatureChange,
        site: Site,
        model: &Model,
    ) -> Result<Arc<dyn FeatureRows>>;
}

/// A change of a feature's activation, ready to be applied to rows: each row gets `amount` times `writes`.
pub trait FeatureRows: Debug + Send + Sync {
    /// Returns the site that the feature reads, if that is not where it writes.
    fn reads_elsewhere(&self) -> Option<Site>;

    /// Returns what is added, [d_model].
    fn writes(&self) -> &[f32];

    /// Returns how often it is added, given a row of the site that the feature reads.
    fn amount(&self, row: &[f32]) -> f32;

    /// Whether the dictionary passes what it reads on by a path of its own, beside its features.
    fn passes_on(&self) -> bool;
}

/// Finds no dictionary. It serves edits that name none.
pub struct NoDictionaries;

fn none(dictionary: &str) -> Error {
    Error::request(format!("the edit names the dictionary {dictionary}, but edits of features cannot be made here"))
}

impl Dictionaries for NoDictionaries {
    fn direction(&self, dictionary: &str, _: usize, _: Site) -> Result<Vec<f32>> {
        Err(none(dictionary))
    }

    fn change(&self, dictionary: &str, _: usize, _: FeatureChange, _: Site, _: &Model) -> Result<Arc<dyn FeatureRows>> {
        Err(none(dictionary))
    }
}
