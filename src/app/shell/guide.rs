//! The guide in a window of its own: a list of pages, a search, and the page that a `?` stands for.

use eframe::egui::{self, RichText};
use egui_commonmark::{CommonMarkCache, CommonMarkViewer};

use super::helper;
use crate::app::App;
use crate::app::action::Action;
use crate::app::look::theme::{self, Palette};
use crate::app::view::ViewDef;
use crate::guide::{self, Page, Place, Section};

/// What the window is called.
pub const TITLE: &str = "Guide";
/// Points of the window from which the list of pages stands beside the page.
const BROAD: f32 = 560.0;
/// Points of the list.
const LIST: f32 = 190.0;
/// Points of a line of text that is still read easily.
const COLUMN: f32 = 660.0;
/// Results of a search that are shown at most.
const MOST: usize = 40;

/// What is open of the guide.
pub struct Guide {
    pub open: bool,
    place: Place,
    /// Where one has been before, the newest last.
    past: Vec<Place>,
    query: String,
    /// The list is shown in the page's place, where there is no room beside it.
    lists: bool,
    /// The place is to be scrolled to.
    arrives: bool,
    cache: CommonMarkCache,
}

impl Default for Guide {
    fn default() -> Self {
        Self {
            open: false,
            place: Place::page(guide::CONTENTS),
            past: Vec::new(),
            query: String::new(),
            lists: false,
            arrives: false,
            cache: CommonMarkCache::default(),
        }
    }
}

impl Guide {
    /// Opens a page, and goes to its section.
    pub fn show(&mut self, place: Place) {
        if place.find().is_none() {
            return;
        }
        (self.open, self.lists, self.arrives) = (true, false, true);
        self.query.clear();
        if self.place != place {
            self.past.push(std::mem::replace(&mut self.place, place));
        }
    }

    /// The place that is read.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn ui(&mut self, ctx: &egui::Context) {
        let mut open = self.open;
        let mut follow = None;
        helper::show(ctx, TITLE, &mut open, (egui::vec2(900.0, 640.0), egui::vec2(0.5, 0.4)), |ui| {
            follow = self.contents(ui);
        });
        self.open &= open;
        if let Some(place) = follow {
            self.show(place);
        }
    }

    fn contents(&mut self, ui: &mut egui::Ui) -> Option<Place> {
        let palette = Palette::of(ui.ctx());
        let broad = ui.available_width() >= BROAD;
        let mut follow = None;
        ui.horizontal(|ui| {
            let back = ui.add_enabled(!self.past.is_empty(), egui::Button::new("←"));
            if back.on_hover_text("the page before").on_disabled_hover_text("there is no page before").clicked()
                && let Some(place) = self.past.pop()
            {
                (self.place, self.arrives, self.lists) = (place, true, false);
                self.query.clear();
            }
            if !broad {
                ui.toggle_value(&mut self.lists, "☰").on_hover_text("all pages");
            }
            let hint = "Search the guide";
            let field = egui::TextEdit::singleline(&mut self.query).hint_text(hint);
            ui.add(field.desired_width(ui.available_width().min(320.0))).accessible_name(hint);
        });
        ui.separator();
        let height = ui.available_height();
        let beside = egui::Layout::left_to_right(egui::Align::Min);
        ui.allocate_ui_with_layout(egui::vec2(ui.available_width(), height), beside, |ui| {
            if broad {
                ui.allocate_ui_with_layout(egui::vec2(LIST, height), egui::Layout::top_down(egui::Align::Min), |ui| {
                    follow = list(ui, palette, &self.place.page);
                });
                ui.separator();
            }
            ui.vertical(|ui| {
                let next = if !self.query.trim().is_empty() {
                    results(ui, palette, &self.query)
                } else if self.lists && !broad {
                    list(ui, palette, &self.place.page)
                } else {
                    self.page(ui, palette)
                };
                follow = next.or(follow.take());
            });
        });
        follow
    }

    /// The page. A link in it that leads to another place of the guide is followed.
    fn page(&mut self, ui: &mut egui::Ui, palette: Palette) -> Option<Place> {
        let (page, section) = self.place.find()?;
        for target in page.links() {
            if Place::of_link(page.name, target).is_some() {
                self.cache.add_link_hook(target);
            }
        }
        let arrives = std::mem::take(&mut self.arrives);
        let mut clicked = None;
        let mut area = egui::ScrollArea::vertical().id_salt(page.name).min_scrolled_height(0.0).auto_shrink(false);
        if arrives && section.is_none() {
            area = area.vertical_scroll_offset(0.0);
        }
        area.show(ui, |ui| {
            ui.set_max_width((ui.available_width() - 8.0).clamp(40.0, COLUMN));
            for part in &page.sections {
                let heading = heading(ui, palette, part);
                if arrives && section.is_some_and(|s| s.anchor == part.anchor) {
                    heading.scroll_to_me(Some(egui::Align::Min));
                }
                let body = guide::in_window(page.name, part.body);
                // Each part has widgets of its own.
                ui.push_id(&part.anchor, |ui| {
                    for (i, (is_code, text)) in guide::blocks(&body).into_iter().enumerate() {
                        ui.push_id(i, |ui| match is_code {
                            true => code(ui, palette, text),
                            false => {
                                CommonMarkViewer::new().show(ui, &mut self.cache, text);
                                // The next piece forgets which link was clicked.
                                let hooks = self.cache.link_hooks().iter();
                                clicked = clicked.take().or(hooks.filter(|h| *h.1).map(|h| h.0.clone()).next());
                            }
                        });
                    }
                });
                ui.add_space(theme::GRID);
            }
            ui.add_space(4.0 * theme::GRID);
        });
        self.cache.link_hooks_clear();
        clicked.and_then(|target| Place::of_link(page.name, &target))
    }
}

/// A block of code, which a click copies.
fn code(ui: &mut egui::Ui, palette: Palette, text: &str) {
    let frame = egui::Frame::new().fill(palette.raised).corner_radius(3.0).inner_margin(theme::GRID);
    let block = frame.show(ui, |ui| {
        ui.set_min_width(ui.available_width());
        ui.add(egui::Label::new(RichText::new(text).font(theme::mono())).wrap().selectable(true));
    });
    let corner = egui::Rect::from_min_max(
        block.response.rect.right_top() - egui::vec2(46.0, 0.0),
        block.response.rect.right_top() + egui::vec2(0.0, 18.0),
    );
    let copy = egui::Button::new(RichText::new("copy").font(theme::small()).color(palette.weak)).frame(false);
    if ui.put(corner, copy).clicked() {
        ui.ctx().copy_text(text.to_owned());
    }
    ui.add_space(theme::GRID);
}

fn heading(ui: &mut egui::Ui, palette: Palette, part: &Section) -> egui::Response {
    let (size, color) = match part.level {
        1 => (19.0, palette.text),
        2 => (15.0, palette.accent),
        _ => (13.5, palette.text),
    };
    ui.add_space(if part.level == 1 { 2.0 } else { 2.0 * theme::GRID });
    let text = RichText::new(part.title.replace('`', "")).font(egui::FontId::new(size, theme::title().family));
    ui.add(egui::Label::new(text.color(color)).wrap())
}

/// All pages by their groups.
fn list(ui: &mut egui::Ui, palette: Palette, now: &str) -> Option<Place> {
    let mut follow = None;
    let mut entry = |ui: &mut egui::Ui, page: &'static Page, title: &str| {
        let button = egui::Button::selectable(page.name == now, RichText::new(title)).truncate();
        let wide = egui::vec2(ui.available_width(), 20.0);
        if ui.add(button.min_size(wide).right_text("")).clicked() {
            follow = Some(Place::page(page.name));
        }
    };
    egui::ScrollArea::vertical().id_salt("pages").min_scrolled_height(0.0).auto_shrink(false).show(ui, |ui| {
        if let Some(contents) = guide::page(guide::CONTENTS) {
            entry(ui, contents, "Contents");
        }
        for (group, pages) in guide::groups() {
            ui.add_space(theme::GRID);
            ui.label(RichText::new(group).font(theme::small()).color(palette.weak));
            for page in pages {
                entry(ui, page, page.title());
            }
        }
    });
    follow
}

/// What a search has found.
fn results(ui: &mut egui::Ui, palette: Palette, query: &str) -> Option<Place> {
    let hits = guide::search(query);
    let mut follow = None;
    egui::ScrollArea::vertical().id_salt("found").min_scrolled_height(0.0).auto_shrink(false).show(ui, |ui| {
        let text = match hits.len() {
            0 => "Nothing in the guide has all of these words.".to_owned(),
            1 => "1 place".to_owned(),
            n if n > MOST => format!("{n} places, the best {MOST}"),
            n => format!("{n} places"),
        };
        ui.label(RichText::new(text).font(theme::small()).color(palette.weak));
        for hit in hits.iter().take(MOST) {
            let title = if hit.section.level == 1 {
                hit.page.title().to_owned()
            } else {
                format!("{} · {}", hit.page.title(), hit.section.title.replace('`', ""))
            };
            if ui.link(RichText::new(title).font(theme::title())).clicked() {
                let anchor = (hit.section.level > 1).then(|| hit.section.anchor.clone());
                follow = Some(Place { page: hit.page.name.to_owned(), anchor });
            }
            ui.add(egui::Label::new(RichText::new(&hit.line).font(theme::small()).color(palette.weak)).truncate());
            ui.add_space(theme::GRID);
        }
    });
    follow
}

impl App {
    /// What the guide says of what fills the window, or of the workspace.
    pub(in crate::app) fn of_guide(&self) -> Place {
        let filled = self.state.document.look.filled.as_deref();
        filled.map_or_else(|| guide::of_workspace(self.layout.workspace.name()), guide::of_view)
    }
}

/// The `?` of a view: pointed at it says what the view shows and by which formula, pressed it opens the view's page.
pub fn mark(ui: &mut egui::Ui, def: &ViewDef) -> Option<Action> {
    let response = ui.add(egui::Button::new("?").small().frame(false));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("help {}", def.name)));
    let palette = Palette::of(ui.ctx());
    let response = response.on_hover_ui(|ui| {
        ui.set_max_width(360.0);
        ui.label(RichText::new(def.title).font(theme::title()));
        ui.label(def.help());
        ui.add_space(theme::GRID);
        ui.label(RichText::new(def.formula()).font(theme::mono_small()).color(palette.weak));
        ui.label(RichText::new("A click opens the guide.").font(theme::small()).color(palette.weak));
    });
    response.clicked().then(|| Action::Guide(guide::of_view(def.name)))
}
