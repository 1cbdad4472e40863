//! What the view of probes keeps in the document: what was asked for last.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::app::state::State;
use crate::engine::SiteKind;
use crate::features::direction::Concept;
use crate::probes::fit::Score;
use crate::probes::interchange::{self, InterchangeOf};
use crate::probes::question::{ProbesOf, Recipe};

/// The number of a score that is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    #[default]
    Accuracy,
    Auc,
}

impl By {
    pub const ALL: [(Self, &'static str); 2] = [(Self::Accuracy, "accuracy"), (Self::Auc, "AUC")];

    /// The number and its interval.
    pub fn of(self, score: &Score) -> (f32, [f32; 2]) {
        match self {
            Self::Accuracy => (score.accuracy, score.accuracy_interval),
            Self::Auc => (score.auc, score.auc_interval),
        }
    }
}

/// An interchange, and the direction in the monitor whose span is interchanged as well, by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interchanged {
    pub recipe: interchange::Recipe,
    pub direction: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbesSettings {
    pub fit: Option<Recipe>,
    pub interchange: Option<Interchanged>,
    pub by: By,
}

/// Directions of the monitor that lie at a site.
pub fn directions(state: &State, site: SiteKind) -> impl Iterator<Item = &Arc<Concept>> {
    let watched = state.features.desk.watched.iter().map(|w| &w.concept);
    watched.filter(move |c| c.hook == site.hook())
}

impl ProbesSettings {
    /// The probes that are asked for.
    pub fn probes(&self, state: &State) -> Option<ProbesOf> {
        Some(ProbesOf { model: state.model.clone()?, recipe: self.fit.clone()? })
    }

    /// What is wrong where the direction that is to be interchanged is not there any more.
    pub fn lost(&self, state: &State) -> Option<String> {
        let Interchanged { recipe, direction } = self.interchange.as_ref()?;
        let name = direction.as_ref()?;
        let there = directions(state, recipe.site).any(|c| c.name == *name);
        (!there).then(|| format!("the direction {name} is gone; find or open it again, or interchange without it"))
    }

    /// The interchange that is asked for; none where its direction is gone.
    pub fn interchanges(&self, state: &State) -> Option<InterchangeOf> {
        let Interchanged { recipe, direction } = self.interchange.clone()?;
        let direction = match direction {
            Some(name) => Some(directions(state, recipe.site).find(|c| c.name == name).cloned()?),
            None => None,
        };
        Some(InterchangeOf { model: state.model.clone()?, recipe, direction })
    }
}
