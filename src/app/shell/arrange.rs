//! Layouts to and from what is saved of them.

use egui_tiles::{Container, Grid, Linear, LinearDir, Tabs, Tile, TileId, Tiles};

use super::layout::Pane;
use crate::app::view::{self, Workspace};
use crate::session::arrangement::Arrangement;

/// Returns what is to be saved of a tile; of one that is gone, nothing.
pub fn saved(tiles: &Tiles<Pane>, id: TileId) -> Option<Arrangement> {
    let container = match tiles.get(id)? {
        Tile::Pane(p) => return Some(Arrangement::View(p.def.name.to_owned())),
        Tile::Container(c) => c,
    };
    let all = |ids: &[TileId]| ids.iter().filter_map(|id| saved(tiles, *id)).collect::<Vec<_>>();
    Some(match container {
        Container::Tabs(t) => {
            let active = t.active.and_then(|a| t.children.iter().position(|c| *c == a)).unwrap_or(0);
            Arrangement::Tabs { parts: all(&t.children), active }
        }
        Container::Linear(l) => {
            let share = |id: &TileId| (l.shares[*id] * 1e3).round() / 1e3;
            let parts = l.children.iter().filter_map(|id| Some((share(id), saved(tiles, *id)?))).collect();
            if l.dir == LinearDir::Horizontal { Arrangement::Row(parts) } else { Arrangement::Column(parts) }
        }
        Container::Grid(g) => Arrangement::Grid(all(&g.children().copied().collect::<Vec<_>>())),
    })
}

/// Puts tiles up as they were saved. A view of another workspace, or one that no longer exists, is left out.
pub fn restored(tiles: &mut Tiles<Pane>, workspace: Workspace, arrangement: &Arrangement) -> Option<TileId> {
    let container: Container = match arrangement {
        Arrangement::View(name) => {
            let def = view::by_name(name).filter(|v| v.workspace == workspace)?;
            return Some(tiles.insert_pane(Pane::new(def)));
        }
        Arrangement::Tabs { parts, active } => {
            let parts: Vec<_> = parts.iter().filter_map(|p| restored(tiles, workspace, p)).collect();
            let mut tabs = Tabs::new(parts);
            tabs.active = tabs.children.get(*active).or(tabs.children.first()).copied();
            tabs.into()
        }
        Arrangement::Row(parts) | Arrangement::Column(parts) => {
            let across = matches!(arrangement, Arrangement::Row(_));
            let dir = if across { LinearDir::Horizontal } else { LinearDir::Vertical };
            let parts: Vec<_> =
                parts.iter().filter_map(|(share, p)| Some((*share, restored(tiles, workspace, p)?))).collect();
            let mut linear = Linear::new(dir, parts.iter().map(|p| p.1).collect());
            parts.into_iter().for_each(|(share, id)| linear.shares.set_share(id, share));
            linear.into()
        }
        Arrangement::Grid(parts) => {
            Grid::new(parts.iter().filter_map(|p| restored(tiles, workspace, p)).collect()).into()
        }
    };
    Some(tiles.insert_new(Tile::Container(container)))
}
