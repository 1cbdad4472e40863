//! Arrangements of the model's views for a kind of work.

use crate::app::model::views::{activations, attention, attribution, circuit, edits, graph, lens, patching};
use crate::app::view::ViewDef;
use crate::session::arrangement::Arrangement;

/// What the views are arranged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Explore,
    Patch,
    Circuit,
    Graph,
}

impl Preset {
    pub const ALL: [Self; 4] = [Self::Explore, Self::Patch, Self::Circuit, Self::Graph];

    pub fn title(self) -> &'static str {
        match self {
            Self::Explore => "Layout: explore",
            Self::Patch => "Layout: patch",
            Self::Circuit => "Layout: circuit",
            Self::Graph => "Layout: graph",
        }
    }

    /// Where the views stand; those that are not named stand beside others of their area. `None` as they stand at first.
    pub fn arrangement(self) -> Option<Arrangement> {
        let tabs = |views: &[&ViewDef]| {
            let parts = views.iter().map(|v| Arrangement::View(v.name.to_owned())).collect();
            Arrangement::Tabs { parts, active: 0 }
        };
        let (heads, low) = (tabs(&[&attention::VIEW]), tabs(&[&activations::VIEW]));
        Some(match self {
            Self::Explore => return None,
            Self::Patch => {
                let left = vec![(0.68, tabs(&[&patching::VIEW, &lens::VIEW])), (0.32, low)];
                let right = vec![(0.5, heads), (0.5, tabs(&[&edits::VIEW, &attribution::VIEW]))];
                Arrangement::Row(vec![(0.62, Arrangement::Column(left)), (0.38, Arrangement::Column(right))])
            }
            Self::Circuit => {
                let left = tabs(&[&circuit::VIEW, &attribution::VIEW, &edits::VIEW]);
                let below = Arrangement::Row(vec![(0.5, heads), (0.5, low)]);
                let right = vec![(0.58, tabs(&[&patching::VIEW, &graph::VIEW])), (0.42, below)];
                Arrangement::Row(vec![(0.5, left), (0.5, Arrangement::Column(right))])
            }
            Self::Graph => {
                let right = vec![(0.4, heads), (0.35, tabs(&[&attribution::VIEW])), (0.25, low)];
                let left = tabs(&[&graph::VIEW, &lens::VIEW]);
                Arrangement::Row(vec![(0.7, left), (0.3, Arrangement::Column(right))])
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::shell::layout::Layout;
    use crate::app::view::Workspace;
    use crate::session::Look;

    #[test]
    fn presets_have_every_view_and_show_theirs() {
        let first = |p: Preset| match p {
            Preset::Explore => attention::VIEW.name,
            Preset::Patch => patching::VIEW.name,
            Preset::Circuit => circuit::VIEW.name,
            Preset::Graph => graph::VIEW.name,
        };
        for preset in Preset::ALL {
            let mut look = Look::default();
            look.layouts.extend(preset.arrangement().map(|a| (Workspace::Model.name().to_owned(), a)));
            let layout = Layout::wanted(Workspace::Model, &look);
            assert!(!layout.differs_from(&look), "{preset:?} was not taken up");
            for view in Workspace::Model.views() {
                assert!(layout.pane(view.name).is_some(), "{preset:?} lacks {}", view.name);
            }
            assert!(layout.seen().any(|v| v == first(preset)), "{preset:?}");
        }
    }
}
