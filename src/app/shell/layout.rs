//! Dockable panels: which views stand where.

use eframe::egui::{self, RichText, WidgetText};
use egui_tiles::{
    Behavior, EditAction, Linear, LinearDir, SimplificationOptions, TabState, Tile, TileId, Tiles, Tree, UiResponse,
};

use super::arrange;
use crate::app::action::{Action, Command};
use crate::app::export::commands::snippet;
use crate::app::export::provenance::Provenance;
use crate::app::export::table::comments;
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::shell::guide;
use crate::app::shell::help::hint;
use crate::app::state::State;
use crate::app::view::{self, Area, Asking, Context, View, ViewDef, Workspace};
use crate::app::widgets::{heatmap, message};
use crate::jobs::slot::AnySlot;
use crate::session::Look;
use crate::session::arrangement::Arrangement;

/// A view with its transient state.
pub struct Pane {
    pub def: &'static ViewDef,
    view: Box<dyn View>,
}

impl Pane {
    pub fn new(def: &'static ViewDef) -> Self {
        Self { def, view: (def.make)() }
    }
}

pub struct Layout {
    pub workspace: Workspace,
    tree: Tree<Pane>,
    reveal: Vec<Reveal>,
    /// How the user has moved the views, as the document has it; `None` as they stand at first.
    arrangement: Option<Arrangement>,
    edited: Edited,
    /// The round of asking that the views' own questions are of.
    asked: u64,
    /// Hash of the model of which it was.
    model: Option<u64>,
    /// The view that fills the window, and where it stood in the last frame.
    filled: Option<(&'static str, egui::Rect)>,
    /// The view that the pointer was over last.
    pointed: Option<&'static str>,
    /// There is room for one view alone.
    alone: bool,
    /// Width in which the tabs stood.
    width: f32,
}

/// What the user does to a layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Edited {
    #[default]
    No,
    /// Another tab: where one looks.
    Looked,
    /// A view or a border was moved.
    Moved,
}

/// A tab that was asked for and may lie beyond the end of its bar.
#[derive(Clone, Copy)]
struct Reveal {
    view: &'static str,
    /// Points by which it stuck out in the last frame, to the right or (below zero) to the left.
    out: f32,
    /// Frames in which its bar is still moved: arrows come and go at its ends meanwhile.
    frames: u8,
}

impl Default for Layout {
    fn default() -> Self {
        Self::of(Workspace::Model)
    }
}

fn pane(tiles: &mut Tiles<Pane>, def: &'static ViewDef) -> TileId {
    tiles.insert_pane(Pane::new(def))
}

impl Layout {
    /// Where the views of a workspace stand at first.
    pub fn of(workspace: Workspace) -> Self {
        let mut tiles = Tiles::default();
        let t = &mut tiles;
        let tabs = |t: &mut Tiles<Pane>, area: Area| {
            let here = workspace.views().iter().filter(|v| v.area == area);
            let panes = here.map(|v| pane(t, v)).collect();
            t.insert_tab_tile(panes)
        };
        let split = |t: &mut Tiles<Pane>, dir, parts, share| t.insert_container(Linear::new_binary(dir, parts, share));
        let root = match workspace {
            Workspace::Model => {
                let (left, top) = (tabs(t, Area::Left), tabs(t, Area::TopRight));
                let low = [tabs(t, Area::Middle), tabs(t, Area::BottomRight)];
                let low = split(t, LinearDir::Horizontal, low, 0.5);
                let right = split(t, LinearDir::Vertical, [top, low], 0.56);
                split(t, LinearDir::Horizontal, [left, right], 0.38)
            }
            Workspace::Features => {
                let left = [tabs(t, Area::TopLeft), tabs(t, Area::BottomLeft)];
                let left = split(t, LinearDir::Vertical, left, 0.5);
                let right = tabs(t, Area::Right);
                split(t, LinearDir::Horizontal, [left, right], 0.52)
            }
            Workspace::Training => {
                let both = [tabs(t, Area::Left), tabs(t, Area::Right)];
                split(t, LinearDir::Horizontal, both, 0.5)
            }
            Workspace::Superposition => {
                let left = [tabs(t, Area::TopLeft), tabs(t, Area::BottomLeft)];
                let left = split(t, LinearDir::Vertical, left, 0.6);
                let right = [tabs(t, Area::TopRight), tabs(t, Area::BottomRight)];
                let right = split(t, LinearDir::Vertical, right, 0.6);
                split(t, LinearDir::Horizontal, [left, right], 0.58)
            }
        };
        Self::with(workspace, ("layout", workspace.title()), root, tiles)
    }

    fn with(
        workspace: Workspace,
        id: impl std::hash::Hash + std::fmt::Debug,
        root: TileId,
        tiles: Tiles<Pane>,
    ) -> Self {
        let tree = Tree::new(egui::Id::unique(id), root, tiles);
        Self {
            workspace,
            tree,
            reveal: Vec::new(),
            arrangement: None,
            edited: Edited::No,
            asked: 0,
            model: None,
            filled: None,
            pointed: None,
            alone: false,
            width: 0.0,
        }
    }

    /// The views of a workspace as the document has them. Views that it does not know yet stand beside others of their
    /// area.
    pub fn restored(workspace: Workspace, arrangement: &Arrangement) -> Self {
        let mut tiles = Tiles::default();
        let Some(root) = arrange::restored(&mut tiles, workspace, arrangement) else { return Self::of(workspace) };
        for def in workspace.views() {
            let is = |tile: &Tile<Pane>, fits: &dyn Fn(&ViewDef) -> bool| matches!(tile, Tile::Pane(p) if fits(p.def));
            if tiles.iter().any(|(_, t)| is(t, &|d| d.name == def.name)) {
                continue;
            }
            let beside = tiles.iter().find(|(_, t)| is(t, &|d| d.area == def.area)).map(|(id, _)| *id);
            let parent = beside.and_then(|id| tiles.parent_of(id));
            let pane = pane(&mut tiles, def);
            match parent.and_then(|id| tiles.get_mut(id)) {
                Some(Tile::Container(container)) => container.add_child(pane),
                _ => return Self::of(workspace),
            }
        }
        let mut layout = Self::with(workspace, ("layout", workspace.title()), root, tiles);
        layout.arrangement = Some(arrangement.clone());
        layout
    }

    /// The layout that a document asks for.
    pub fn wanted(workspace: Workspace, look: &Look) -> Self {
        look.layouts.get(workspace.name()).map_or_else(|| Self::of(workspace), |a| Self::restored(workspace, a))
    }

    /// True if the document asks for something else, because a change of it was taken back.
    pub fn differs_from(&self, look: &Look) -> bool {
        self.edited == Edited::No && self.arrangement.as_ref() != look.layouts.get(self.workspace.name())
    }

    /// What the user has done to the layout since this was last asked: the new arrangement, and whether views were moved
    /// or only looked at.
    pub fn take_edit(&mut self) -> Option<(Arrangement, bool)> {
        let edited = std::mem::take(&mut self.edited);
        if edited == Edited::No {
            return None;
        }
        let arrangement = self.tree.root().and_then(|root| arrange::saved(&self.tree.tiles, root));
        let moved = edited == Edited::Moved;
        let arrangement = arrangement.filter(|a| self.arrangement.as_ref() != Some(a))?;
        self.arrangement = Some(arrangement.clone());
        Some((arrangement, moved))
    }

    /// Asks for what views show that have answers of their own. `seen` is false for layouts that are not shown.
    pub fn ask(&mut self, state: &State, seen: bool) {
        if self.asked == state.round() {
            return;
        }
        self.asked = state.round();
        if self.model != state.desk().hash {
            self.model = state.desk().hash;
            self.slots().for_each(AnySlot::forget);
        }
        let active: Vec<_> = if seen { self.seen().collect() } else { Vec::new() };
        for (_, tile) in self.tree.tiles.iter_mut() {
            if let Tile::Pane(p) = tile {
                p.view.ask(&Asking { state, seen: active.contains(&p.def.name) });
            }
        }
    }

    /// Takes in what has arrived for views. Says whether anything has; views are then asked again.
    pub fn take_in(&mut self) -> bool {
        let mut arrived = false;
        for slot in self.slots() {
            arrived |= slot.poll();
        }
        if arrived {
            self.asked = u64::MAX;
        }
        arrived
    }

    /// Every answer that a view has of its own.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut dyn AnySlot> {
        self.tree
            .tiles
            .iter_mut()
            .filter_map(|(_, tile)| match tile {
                Tile::Pane(p) => Some(p.view.slots()),
                Tile::Container(_) => None,
            })
            .flatten()
    }

    /// One view alone, for pictures.
    pub fn single(view: &str) -> Self {
        let def = view::by_name(view).unwrap_or(Workspace::Model.views()[0]);
        let mut tiles = Tiles::default();
        let pane = pane(&mut tiles, def);
        let root = tiles.insert_tab_tile(vec![pane]);
        Self::with(def.workspace, "layout", root, tiles)
    }

    /// Every view of a workspace visible at once, for timings.
    pub fn everything(workspace: Workspace) -> Self {
        Self::side_by_side(workspace, workspace.views())
    }

    /// These views visible at once; they are of one workspace.
    pub fn only(views: &[&'static str]) -> Self {
        let defs: Vec<_> = views.iter().filter_map(|v| view::by_name(v)).collect();
        Self::side_by_side(defs.first().map_or(Workspace::Model, |d| d.workspace), &defs)
    }

    fn side_by_side(workspace: Workspace, views: &[&'static ViewDef]) -> Self {
        let mut tiles = Tiles::default();
        let panes: Vec<TileId> = views
            .iter()
            .map(|v| {
                let pane = pane(&mut tiles, v);
                tiles.insert_tab_tile(vec![pane])
            })
            .collect();
        let root = tiles.insert_grid_tile(panes);
        Self::with(workspace, "layout", root, tiles)
    }

    /// The views that can be seen: the active tabs, or the one that fills the window.
    pub fn seen(&self) -> impl Iterator<Item = &'static str> {
        let tabs = self.tree.active_tiles().into_iter().filter_map(|id| match self.tree.tiles.get(id) {
            Some(Tile::Pane(p)) => Some(p.def.name),
            _ => None,
        });
        let filled = self.filled.map(|f| f.0);
        filled.into_iter().chain(tabs.filter(move |_| filled.is_none()))
    }

    /// The view that the pointer was over last, else the first that can be seen.
    pub fn pointed(&self) -> Option<&'static str> {
        self.pointed.filter(|p| self.seen().any(|v| v == *p)).or_else(|| self.seen().next())
    }

    /// Lets a view of this layout fill the window; `None`, or one of another layout, shows all. Where there is room for one
    /// view alone, it is the one that was shown or pointed at last.
    pub fn fill(&mut self, view: Option<&str>, alone: bool) {
        self.alone = alone;
        let def = view.and_then(view::by_name).filter(|d| d.workspace == self.workspace);
        let last = || self.pointed.or_else(|| self.seen().next()).and_then(view::by_name);
        let def = def.or_else(|| if alone { last() } else { None });
        if self.filled.map(|f| f.0) != def.map(|d| d.name) {
            self.filled = def.map(|d| (d.name, egui::Rect::NOTHING));
        }
    }

    pub fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        // A narrower bar may hide the tab that is shown.
        let before = std::mem::replace(&mut self.width, ui.available_width());
        if self.width < before - 1.0 {
            let shown: Vec<_> = self.seen().collect();
            self.reveal = shown.into_iter().map(|view| Reveal { view, out: 0.0, frames: 4 }).collect();
        }
        let behavior = &mut Panels {
            cx,
            reveal: &mut self.reveal,
            edited: &mut self.edited,
            pointed: &mut self.pointed,
            alone: self.alone,
        };
        match &mut self.filled {
            Some((view, rect)) => {
                *rect = ui.max_rect();
                let panes = self.tree.tiles.iter_mut().filter_map(|(id, tile)| match tile {
                    Tile::Pane(p) => Some((*id, p)),
                    Tile::Container(_) => None,
                });
                for (id, pane) in panes.filter(|(_, p)| p.def.name == *view) {
                    behavior.filling(ui, id, pane);
                }
            }
            None => self.tree.ui(behavior, ui),
        }
        for r in &mut self.reveal {
            r.frames -= 1;
            ui.ctx().request_repaint();
        }
        self.reveal.retain(|r| r.frames > 0);
    }

    /// Brings a view to the front.
    pub fn show(&mut self, view: &'static str) {
        self.pointed = Some(view);
        self.tree.make_active(|_, tile| matches!(tile, Tile::Pane(p) if p.def.name == view));
        self.reveal.retain(|r| r.view != view);
        self.reveal.push(Reveal { view, out: 0.0, frames: 4 });
    }

    /// Draws one view where there is room, without its tab.
    pub fn alone(&mut self, view: &str, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        for (_, tile) in self.tree.tiles.iter_mut() {
            if let Tile::Pane(pane) = tile
                && pane.def.name == view
            {
                ui.push_id(view, |ui| pane.view.ui(ui, cx));
            }
        }
    }

    /// The view's numbers and its rectangle on screen.
    pub fn pane(&self, view: &str) -> Option<(&dyn View, Option<egui::Rect>)> {
        let filled = self.filled.filter(|f| f.0 == view).map(|f| f.1);
        self.tree.tiles.iter().find_map(|(id, tile)| match tile {
            Tile::Pane(p) if p.def.name == view => Some((p.view.as_ref(), filled.or(self.tree.tiles.rect(*id)))),
            _ => None,
        })
    }
}

/// Every pane in a tile.
fn panes_in(tiles: &Tiles<Pane>, id: TileId) -> Vec<&Pane> {
    match tiles.get(id) {
        Some(Tile::Pane(p)) => vec![p],
        Some(Tile::Container(c)) => c.children().flat_map(|id| panes_in(tiles, *id)).collect(),
        None => Vec::new(),
    }
}

struct Panels<'a, 'b> {
    cx: &'a mut Context<'b>,
    reveal: &'a mut Vec<Reveal>,
    edited: &'a mut Edited,
    pointed: &'a mut Option<&'static str>,
    alone: bool,
}

impl Panels<'_, '_> {
    /// A view that fills the window, under its title.
    fn filling(&mut self, ui: &mut egui::Ui, id: TileId, pane: &mut Pane) {
        let bar = egui::Frame::new().fill(self.cx.palette.header).inner_margin(egui::Margin::symmetric(8, 3));
        bar.show(ui, |ui| {
            ui.horizontal(|ui| {
                if self.alone {
                    self.others(ui, pane);
                } else {
                    ui.label(RichText::new(pane.def.title).font(theme::title()));
                }
                ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                    let keys = hint(ui.ctx(), Command::Fill);
                    if !self.alone && ui.button("show all views").on_hover_text(keys).clicked() {
                        self.cx.push(Action::Fill(pane.def.name));
                    }
                    self.tools(ui, pane);
                });
            });
        });
        let _ = self.pane_ui(ui, id, pane);
    }

    /// The title of the only view there is room for, with the others behind it.
    fn others(&mut self, ui: &mut egui::Ui, pane: &Pane) {
        let title = RichText::new(format!("{}  ▾", pane.def.title)).font(theme::title());
        let button = ui.add(egui::Button::new(title).truncate()).on_hover_text("the other views");
        egui::Popup::menu(&button).show(|ui| {
            egui::ScrollArea::vertical().min_scrolled_height(0.0).show(ui, |ui| {
                for def in pane.def.workspace.views() {
                    if ui.selectable_label(def.name == pane.def.name, def.title).clicked() {
                        self.cx.push(Action::Show(def.name));
                        ui.close();
                    }
                }
            });
        });
    }

    /// What the user wrote beside a view.
    fn note(&mut self, ui: &mut egui::Ui, def: &'static ViewDef) {
        let written = self.cx.state.desk().notes.get(def.name).cloned().unwrap_or_default();
        let color = if written.is_empty() { self.cx.palette.weak } else { self.cx.palette.accent };
        let button = egui::Button::new(RichText::new("✎").color(color)).small().frame(false);
        let said = if written.is_empty() { "write a note beside this view" } else { &written };
        let response = ui.add(button).on_hover_text(said);
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("note {}", def.name)));
        let popup = egui::Popup::from_toggle_button_response(&response);
        let popup = popup.close_behavior(egui::PopupCloseBehavior::CloseOnClickOutside).width(320.0);
        popup.show(|ui| {
            let mut text = written.clone();
            let hint = "A note: it is kept in the session and stands in its report";
            let field = egui::TextEdit::multiline(&mut text).hint_text(hint).desired_rows(4).desired_width(320.0);
            if ui.add(field).accessible_name(format!("note on {}", def.name)).changed() {
                self.cx.push(ModelAction::Note(def.name, text));
            }
        });
    }

    /// What can be done with a view: it is exported, commented and explained.
    fn tools(&mut self, ui: &mut egui::Ui, pane: &Pane) {
        let def = pane.def;
        if self.cx.state.cover.hides(def.name).is_some() {
            // What a lesson has not shown yet is not exported either.
            return;
        }
        ui.add_space(4.0);
        let save = ui.add(egui::Button::new("↓").small().frame(false)).on_hover_text(format!("export {}", def.title));
        save.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("export {}", def.name)));
        egui::Popup::menu(&save).show(|ui| {
            if ui.button("Export…").on_hover_text("pictures and numbers, with a preview").clicked() {
                self.cx.push(Action::Export(def.name));
            }
            if ui.button("Copy numbers").clicked() {
                let of = Provenance::of(self.cx.state, def);
                let action = pane.view.table(self.cx).map_or_else(
                    || Action::Say(format!("{} has no numbers yet.", def.title)),
                    |t| Action::Copy(t.csv(&of)),
                );
                self.cx.push(action);
            }
            if snippet(self.cx.state, def).is_some()
                && ui.button("Copy as code").on_hover_text("Python for TransformerLens with the same number").clicked()
            {
                self.cx.push(Action::CopyCode(def.name));
            }
        });
        self.note(ui, def);
        if let Some(action) = guide::mark(ui, def) {
            self.cx.push(action);
        }
    }
}

impl Panels<'_, '_> {
    /// Points of a name's beginning that still say something.
    const LEAST_OF_A_NAME: f32 = 16.0;
}

impl Behavior<Pane> for Panels<'_, '_> {
    fn pane_ui(&mut self, ui: &mut egui::Ui, _: TileId, pane: &mut Pane) -> UiResponse {
        let frame = egui::Frame::new().fill(self.cx.palette.panel).inner_margin(egui::Margin::symmetric(8, 6));
        if ui.rect_contains_pointer(ui.max_rect()) {
            *self.pointed = Some(pane.def.name);
        }
        frame.show(ui, |ui| {
            ui.set_min_size(ui.available_size());
            ui.push_id(pane.def.name, |ui| match self.cx.state.cover.hides(pane.def.name) {
                Some(why) => message(ui, why, false),
                None => pane.view.ui(ui, self.cx),
            });
        });
        if let Some(values) = heatmap::copied(ui.ctx()) {
            let of = Provenance::of(self.cx.state, pane.def);
            self.cx.push(Action::Copy(comments(&of) + &values));
        }
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, pane: &Pane) -> WidgetText {
        RichText::new(pane.def.title).font(theme::title()).into()
    }

    fn tab_title_for_tile(&mut self, tiles: &Tiles<Pane>, id: TileId) -> WidgetText {
        // Panes that were put beside each other in one tab are called by their names.
        let names: Vec<&str> = panes_in(tiles, id).into_iter().map(|p| p.def.title).collect();
        RichText::new(names.join(" + ")).font(theme::title()).into()
    }

    /// As the library draws it, but for a name that does not fit: it is cut with an ellipsis, at whichever end of the bar.
    fn tab_ui(
        &mut self,
        tiles: &mut Tiles<Pane>,
        ui: &mut egui::Ui,
        id: egui::Id,
        tile_id: TileId,
        state: &TabState,
    ) -> egui::Response {
        let font = egui::TextStyle::Button.resolve(ui.style());
        let title = self.tab_title_for_tile(tiles, tile_id);
        let (text, color) = (title.text().to_owned(), self.tab_text_color(ui.visuals(), tiles, tile_id, state));
        let galley = |ui: &egui::Ui, mode, width| title.clone().into_galley(ui, Some(mode), width, font.clone());
        let margin = self.tab_title_spacing(ui.visuals());
        let whole = galley(ui, egui::TextWrapMode::Extend, f32::INFINITY);
        let whole_width = whole.size().x;
        let (_, rect) = ui.allocate_space(egui::vec2(whole_width + 2.0 * margin, ui.available_height()));
        let response = ui.interact(rect, id, egui::Sense::click_and_drag());
        let response = response.on_hover_cursor(self.tab_hover_cursor_icon());
        response.widget_info(|| egui::WidgetInfo::selected(egui::Role::Button, ui.is_enabled(), state.active, &text));
        if state.is_being_dragged {
            return self.on_tab_button(tiles, tile_id, response);
        }
        let inside = rect.intersect(ui.clip_rect());
        let room = inside.width() - 2.0 * margin;
        if room >= whole_width - 1.0 {
            let at = egui::Align2::LEFT_CENTER.align_size_within_rect(whole.size(), rect.shrink(margin)).min;
            ui.painter().galley(at, whole, color);
        } else if room > Self::LEAST_OF_A_NAME {
            let cut = galley(ui, egui::TextWrapMode::Truncate, room);
            let at = egui::pos2(inside.min.x + margin, inside.center().y - cut.size().y / 2.0);
            ui.painter().galley(at, cut, color);
        }
        let response = if room < whole_width - 1.0 { response.on_hover_text(text) } else { response };
        self.on_tab_button(tiles, tile_id, response)
    }

    fn top_bar_right_ui(
        &mut self,
        tiles: &Tiles<Pane>,
        ui: &mut egui::Ui,
        _: TileId,
        tabs: &egui_tiles::Tabs,
        offset: &mut f32,
    ) {
        let active = tabs.active.and_then(|id| match tiles.get(id) {
            Some(Tile::Pane(p)) => Some(p),
            _ => None,
        });
        let Some(pane) = active else { return };
        if let Some(r) = self.reveal.iter_mut().find(|r| r.view == pane.def.name) {
            *offset += std::mem::take(&mut r.out);
        }
        self.tools(ui, pane);
    }

    fn on_tab_button(&mut self, tiles: &mut Tiles<Pane>, id: TileId, response: egui::Response) -> egui::Response {
        let Some(Tile::Pane(pane)) = tiles.get(id) else { return response };
        let view = pane.def.name;
        if let Some(r) = self.reveal.iter_mut().find(|r| r.view == view) {
            // What can be clicked is what is inside the bar.
            let (whole, inside) = (response.rect, response.interact_rect);
            r.out = (whole.max.x - inside.max.x).max(0.0) - (inside.min.x - whole.min.x).max(0.0);
        }
        if response.double_clicked() {
            self.cx.push(Action::Fill(view));
        }
        response.context_menu(|ui| {
            if ui.button("Fill the window").on_hover_text("also by a double click, or F").clicked() {
                self.cx.push(Action::Fill(view));
                ui.close();
            }
            if ui.button(Command::ResetLayout.title()).clicked() {
                self.cx.push(Action::Do(Command::ResetLayout));
                ui.close();
            }
        });
        response
    }

    fn on_edit(&mut self, edit: EditAction) {
        match edit {
            EditAction::TileResized | EditAction::TileDropped => *self.edited = Edited::Moved,
            EditAction::TabSelected if *self.edited == Edited::No => *self.edited = Edited::Looked,
            EditAction::TabSelected | EditAction::TileDragged => {}
        }
    }

    fn tab_bar_height(&self, _: &egui::Style) -> f32 {
        28.0
    }

    fn gap_width(&self, _: &egui::Style) -> f32 {
        6.0
    }

    fn min_size(&self) -> f32 {
        120.0
    }

    fn simplification_options(&self) -> SimplificationOptions {
        SimplificationOptions { all_panes_must_have_tabs: true, ..SimplificationOptions::default() }
    }

    fn tab_bar_color(&self, _: &egui::Visuals) -> egui::Color32 {
        self.cx.palette.header
    }

    fn tab_bg_color(&self, _: &egui::Visuals, _: &Tiles<Pane>, _: TileId, _: &TabState) -> egui::Color32 {
        self.cx.palette.header
    }

    fn tab_outline_stroke(&self, _: &egui::Visuals, _: &Tiles<Pane>, _: TileId, _: &TabState) -> egui::Stroke {
        egui::Stroke::NONE
    }

    fn tab_bar_hline_stroke(&self, _: &egui::Visuals) -> egui::Stroke {
        egui::Stroke::new(1.0, self.cx.palette.border)
    }

    fn tab_text_color(&self, _: &egui::Visuals, _: &Tiles<Pane>, _: TileId, state: &TabState) -> egui::Color32 {
        if state.active { self.cx.palette.text } else { self.cx.palette.weak }
    }
}
