//! The document: everything the user decided, and nothing that can be computed from it.
//!
//! | file | idea |
//! | --- | --- |
//! | [`desk`] | what is asked of one model: prompts, answers, pins, edits, circuit, settings |
//! | [`features`] | what is decided about its features: dictionary, directions, what is watched and trained |
//! | [`labs`] | what is decided in the workspaces that train small models |
//! | [`arrangement`] | where views stand |
//! | [`history`] | changes of the document with their names, to take back and to do again |
//! | [`file`] | session files |
//! | [`kept`] | sessions that are kept by themselves |
//! | [`start`] | how a window starts |
//! | [`lesson`] | guided tours |
//! | [`fetch`] | a lesson's model, from where it is published |
//! | [`moved`] | files that are no longer where a session names them |
//! | [`recent`] | models opened lately |
//! | [`code`] | what a desk asks, as Python for TransformerLens |

pub mod arrangement;
pub mod code;
pub mod desk;
pub mod features;
pub mod fetch;
pub mod file;
pub mod history;
pub mod kept;
pub mod labs;
pub mod lesson;
pub mod moved;
pub mod recent;
pub mod start;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use arrangement::Arrangement;
pub use desk::Desk;
use labs::Labs;

/// Everything the user decided. Each model has a desk of its own, known by the hash of its weights, so that nothing of one
/// model is ever applied to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The desk in use.
    pub desk: Desk,
    /// Desks of other models, by [`Desk::key`].
    pub parked: BTreeMap<String, Desk>,
    pub labs: Labs,
    pub look: Look,
}

/// How the window is set up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// Light, as for a projector or a paper, or dark.
    pub light: bool,
    /// The workspace that is shown, by its name.
    pub workspace: String,
    /// Where the views of a workspace stand, by its name, where the user has moved any.
    pub layouts: BTreeMap<String, Arrangement>,
    /// The view that fills the window.
    pub filled: Option<String>,
    /// The first cards were put away.
    pub welcomed: bool,
    /// The window's size, points; `None` for that of the screen.
    pub size: Option<[f32; 2]>,
    /// One view in large text, for a projector.
    pub presents: bool,
}

impl From<Desk> for Document {
    fn from(desk: Desk) -> Self {
        Self { desk, ..Self::default() }
    }
}

impl Document {
    /// Whether two documents hold the same work, however large the window is and whatever fills it.
    pub fn is_work_of(&self, other: &Self) -> bool {
        let work = |look: &Look| Look { size: None, filled: None, presents: false, welcomed: true, ..look.clone() };
        self.desk == other.desk
            && self.parked == other.parked
            && self.labs == other.labs
            && work(&self.look) == work(&other.look)
    }

    /// Turns to the desk of a model that was opened: its own if there is one, else a new one. A desk that has not been used
    /// with any model yet becomes this model's.
    pub fn turn_to(&mut self, spec: &str, hash: u64, new: impl FnOnce(&Desk) -> Desk) {
        if self.desk.hash.is_none() || self.desk.hash == Some(hash) {
            spec.clone_into(&mut self.desk.model);
            self.desk.hash = Some(hash);
            return;
        }
        let next = self.parked.remove(&desk::key(hash)).unwrap_or_else(|| new(&self.desk));
        let next = Desk { model: spec.to_owned(), hash: Some(hash), ..next };
        self.put(next);
    }

    /// Makes a desk the one in use; the one before is parked.
    pub fn put(&mut self, desk: Desk) {
        if let Some(hash) = desk.hash {
            self.parked.remove(&desk::key(hash));
        }
        let before = std::mem::replace(&mut self.desk, desk);
        if let Some(hash) = before.hash.filter(|h| Some(*h) != self.desk.hash) {
            self.parked.insert(desk::key(hash), before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_a_desk_of_its_own() {
        let desk = Desk { model: "a".to_owned(), prompt: "of a".to_owned(), ..Desk::default() };
        let mut d = Document::from(desk);
        d.turn_to("a", 1, |_| unreachable!("the first desk becomes the first model's"));
        d.desk.answer = " x".to_owned();
        d.turn_to("b", 2, |_| Desk { prompt: "of b".to_owned(), ..Desk::default() });
        assert_eq!((d.desk.prompt.as_str(), d.desk.answer.as_str(), d.parked.len()), ("of b", "", 1));
        d.turn_to("moved/a", 1, |_| unreachable!("it has been there"));
        assert_eq!((d.desk.prompt.as_str(), d.desk.answer.as_str()), ("of a", " x"));
        assert_eq!((d.desk.model.as_str(), d.parked.len()), ("moved/a", 1));
        let text = serde_json::to_string(&d).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), d);
    }
}
