//! Where the views of a workspace stand, as it is saved.

use serde::{Deserialize, Serialize};

/// A part of the window: a view, or parts beside, above or behind each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrangement {
    /// A view, by its name.
    View(String),
    /// Parts behind each other; `active` is the one that can be seen.
    Tabs {
        parts: Vec<Self>,
        active: usize,
    },
    /// Parts beside each other, with the share of the room that each has.
    Row(Vec<(f32, Self)>),
    /// Parts above each other, likewise.
    Column(Vec<(f32, Self)>),
    Grid(Vec<Self>),
}
