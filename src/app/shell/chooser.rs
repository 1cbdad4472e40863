//! Where to open and where to save: a path that completes, over the folder that it names. The system's dialog stands
//! beside it; alone it would not do, since without a desktop portal it gives nothing, which looks like a cancellation.

use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use std::time::SystemTime;

use eframe::egui::{self, Key, Modifiers, RichText};

use super::helper;
use crate::app::action::Load;
use crate::app::look::theme::{self, Palette};
use crate::error::{Error, Result};
use crate::files::ago;
use crate::jobs::Pool;
use crate::jobs::slot::Slot;
use crate::memory;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use crate::session::file::{EXTENSION, is_session, is_session_text};

/// Rows of a folder that are drawn at most.
const MOST_ROWS: usize = 500;

/// What a path is wanted for.
#[derive(Clone)]
pub enum Purpose {
    Open(Load),
    /// These bytes are to be written.
    Save(Vec<u8>),
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Take(PathBuf),
    /// The system's dialog.
    Browse,
    Cancel,
}

/// A file or folder in a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    is_folder: bool,
    /// The folder is of a model or a dictionary, which is opened as a whole.
    is_whole: bool,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// What lies in a folder: folders first, each by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing(Vec<Entry>);

/// Reads a folder.
#[derive(Clone, PartialEq, Eq)]
struct ListingOf {
    folder: PathBuf,
}

impl Question for ListingOf {
    type Answer = Listing;
    const LABEL: &'static str = "reading a folder";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Listing)) -> Result<Listing> {
        let fail = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::request(format!("there is no folder {}", self.folder.display())),
            _ => Error::request(format!("{} cannot be read: {e}", self.folder.display())),
        };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(fail)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Links are followed: what counts is what is opened.
            let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
            let is_whole = meta.is_dir() && ["config.json", "cfg.json"].iter().any(|f| entry.path().join(f).exists());
            let (bytes, modified) = (meta.len(), meta.modified().ok());
            all.push(Entry { name, is_folder: meta.is_dir(), is_whole, bytes, modified });
        }
        all.sort_by_cached_key(|e| (!e.is_folder, e.name.to_lowercase()));
        Ok(Listing(all))
    }
}

/// The question where.
pub struct Chooser {
    pub purpose: Purpose,
    /// The path as it is typed.
    path: String,
    /// The name that is proposed for what is saved; it goes along from folder to folder.
    name: String,
    /// Folders and files used lately.
    recent: Vec<String>,
    listing: Slot<ListingOf>,
    /// The row that the arrow keys have chosen.
    at: Option<usize>,
    /// The file that is there already and would be replaced.
    replaces: Option<PathBuf>,
    /// The cursor is to be put behind the path.
    to_end: bool,
    begun: bool,
}

impl Chooser {
    /// Asks for a file to open, in the folder that was used last.
    pub fn open(what: Load, recent: Vec<String>) -> Self {
        let folder = recent.first().map_or_else(first_folder, PathBuf::from);
        Self::new(Purpose::Open(what), with_separator(&folder), recent)
    }

    /// Asks for a place for `bytes`, and proposes `name`.
    pub fn save(name: &str, bytes: Vec<u8>, recent: Vec<String>) -> Self {
        // A label may be part of it, and have anything in it.
        let name = name.replace(['/', '\\', ':', '\0'], "_");
        let folder = recent.first().map_or_else(first_folder, PathBuf::from);
        Self::new(Purpose::Save(bytes), folder.join(name).display().to_string(), recent)
    }

    fn new(purpose: Purpose, path: String, recent: Vec<String>) -> Self {
        let listing = Slot::default();
        let name = Path::new(&path).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        Self { purpose, path, name, recent, listing, at: None, replaces: None, to_end: true, begun: false }
    }

    fn is_saving(&self) -> bool {
        matches!(self.purpose, Purpose::Save(_))
    }

    /// The folder that the path names, and the beginning of a name in it.
    fn parts(&self) -> (PathBuf, String) {
        let path = expanded(&self.path);
        let text = path.display().to_string();
        if text.is_empty() || text.ends_with(['/', MAIN_SEPARATOR]) {
            return (path, String::new());
        }
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        (path.parent().map_or_else(PathBuf::new, Path::to_owned), name)
    }

    /// Indices of the entries that fit what is typed.
    fn fitting(&self, listing: &Listing, typed: &str) -> Vec<usize> {
        let begins = typed.to_lowercase();
        // A proposed name is no search.
        let searches = !self.is_saving() && !begins.is_empty();
        let fits = |e: &Entry| {
            let name = e.name.to_lowercase();
            let hidden = name.starts_with('.') && !begins.starts_with('.');
            let usable = e.is_folder || self.is_saving() || self.opens(&e.name);
            usable && !hidden && (!searches || name.contains(&begins))
        };
        (0..listing.0.len()).filter(|i| fits(&listing.0[*i])).collect()
    }

    fn opens(&self, name: &str) -> bool {
        let Purpose::Open(load) = &self.purpose else { return true };
        let extension = Path::new(name).extension().map(|e| e.to_string_lossy().to_lowercase());
        extension.is_some_and(|e| load.extensions().contains(&e.as_str()))
    }

    /// Follows what is typed, and says what the user has chosen.
    pub fn ui(&mut self, ctx: &egui::Context, pool: &Pool) -> Option<Choice> {
        let (folder, typed) = self.parts();
        self.listing.want(pool, Some(ListingOf { folder: folder.clone() }));
        self.listing.poll();
        let listing = self.listing.get().filter(|l| l.question.folder == folder).map(|l| l.value.clone());
        let rows = listing.as_ref().map_or_else(Vec::new, |l| self.fitting(l, &typed));
        let entries: Vec<Entry> =
            listing.map_or_else(Vec::new, |l| rows.iter().take(MOST_ROWS).map(|i| l.0[*i].clone()).collect());
        let mut choice = self.keys(ctx, &folder, &typed, &entries);
        let modal = egui::Modal::new(egui::Id::unique("chooser")).show(ctx, |ui| {
            helper::scrolled(ui, 720.0, |ui| {
                ui.heading(match &self.purpose {
                    Purpose::Open(load) => load.title(),
                    Purpose::Save(_) => "Save as",
                });
                self.field(ui);
                let height = (ctx.content_rect().height() - 260.0).clamp(120.0, 320.0);
                let beside = egui::Layout::left_to_right(egui::Align::Min);
                ui.allocate_ui_with_layout(egui::vec2(ui.available_width(), height), beside, |ui| {
                    ui.set_max_height(height);
                    self.places(ui, height);
                    ui.separator();
                    ui.vertical(|ui| choice = self.rows(ui, height, &folder, &entries).or(choice.take()));
                });
                ui.separator();
                choice = self.buttons(ui, &folder, &typed).or(choice.take());
            });
        });
        if modal.should_close() && choice.is_none() {
            choice = Some(Choice::Cancel);
        }
        choice
    }

    /// Completes, walks and takes, by keys that the field would have for itself.
    fn keys(&mut self, ctx: &egui::Context, folder: &Path, typed: &str, entries: &[Entry]) -> Option<Choice> {
        let pressed = |key| ctx.input_mut(|i| i.consume_key(Modifiers::NONE, key));
        if pressed(Key::Tab) {
            self.complete(folder, typed, entries);
        }
        if pressed(Key::ArrowDown) && !entries.is_empty() {
            self.at = Some(self.at.map_or(0, |k| (k + 1).min(entries.len() - 1)));
        }
        if pressed(Key::ArrowUp) {
            self.at = self.at.and_then(|k| k.checked_sub(1));
        }
        if !pressed(Key::Enter) {
            return None;
        }
        match self.at.and_then(|k| entries.get(k)) {
            Some(entry) => self.chosen(folder, entry),
            None => self.take(&expanded(&self.path)),
        }
    }

    /// Goes on with what all fitting names begin with.
    fn complete(&mut self, folder: &Path, typed: &str, entries: &[Entry]) {
        let begins = |e: &&Entry| e.name.to_lowercase().starts_with(&typed.to_lowercase());
        let all: Vec<&Entry> = entries.iter().filter(begins).collect();
        let Some(first) = all.first() else { return };
        let same = |a: &str, b: &str| a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
        let length = all.iter().map(|e| same(&e.name, &first.name)).min().unwrap_or(0);
        // Names that differ in the case of what is typed have nothing to go on with.
        if length < typed.chars().count() {
            return;
        }
        let name: String = first.name.chars().take(length).collect();
        let path = folder.join(name);
        let into = all.len() == 1 && first.is_folder;
        self.set(if into { with_separator(&path) } else { path.display().to_string() });
    }

    /// Puts another path into the field.
    pub fn set(&mut self, path: String) {
        (self.path, self.at, self.replaces, self.to_end) = (path, None, None, true);
    }

    /// Goes into a folder, or takes what was chosen.
    fn chosen(&mut self, folder: &Path, entry: &Entry) -> Option<Choice> {
        let path = folder.join(&entry.name);
        if entry.is_folder && !(entry.is_whole && self.wants_folder()) {
            self.go(&path);
            return None;
        }
        if self.is_saving() {
            // Another file's name is a proposal, not yet a decision to replace it.
            self.set(path.display().to_string());
            return None;
        }
        self.take(&path)
    }

    fn wants_folder(&self) -> bool {
        matches!(&self.purpose, Purpose::Open(load) if load.takes_folders())
    }

    /// Takes a path; asks before it replaces a file.
    fn take(&mut self, path: &Path) -> Option<Choice> {
        if path.is_dir() && !self.wants_folder() {
            self.go(path);
            return None;
        }
        if !self.is_saving() {
            return path.exists().then(|| Choice::Take(path.to_owned()));
        }
        let path = self.with_extension(path);
        if path.file_name().is_none() || !path.parent().is_some_and(Path::is_dir) {
            return None;
        }
        if path.exists() && self.replaces.as_ref() != Some(&path) {
            self.replaces = Some(path);
            return None;
        }
        Some(Choice::Take(path))
    }

    /// A session's name ends as sessions' do, by which they are known.
    fn with_extension(&self, path: &Path) -> PathBuf {
        let Purpose::Save(bytes) = &self.purpose else { return path.to_owned() };
        if is_session(path) || !is_session_text(bytes) {
            return path.to_owned();
        }
        // Behind whatever the name holds: "run.v2" has no kind either.
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{EXTENSION}"));
        PathBuf::from(name)
    }

    fn field(&mut self, ui: &mut egui::Ui) {
        let name = if self.is_saving() { "Path to save to" } else { "Path to open" };
        let before = self.path.clone();
        let field = egui::TextEdit::singleline(&mut self.path).desired_width(f32::INFINITY).font(theme::mono());
        // Tab completes here.
        let mut shown = field.lock_focus(true).show(ui);
        let response = shown.response.response.clone().accessible_name(name);
        if !std::mem::replace(&mut self.begun, true) {
            response.request_focus();
        }
        if std::mem::take(&mut self.to_end) {
            // Of a proposed file the name is chosen, so that typing replaces it and leaves the kind.
            let (end, stem) = (self.path.chars().count(), Path::new(&self.path).file_stem());
            let kind = Path::new(&self.path).extension().map_or(0, |e| e.to_string_lossy().chars().count() + 1);
            let stem = stem.filter(|_| self.is_saving()).map_or(0, |s| s.to_string_lossy().chars().count());
            let at = |k: usize| egui::text::CCursor::new(k);
            let last = if stem == 0 { end } else { end - kind };
            let range = egui::text::CCursorRange::two(at(last.saturating_sub(stem)), at(last));
            shown.state.cursor.set_char_range(Some(range));
            shown.state.store(ui.ctx(), response.id);
        }
        if before != self.path {
            (self.at, self.replaces) = (None, None);
        }
    }

    /// Folders to go to.
    fn places(&mut self, ui: &mut egui::Ui, height: f32) {
        let weak = Palette::of(ui.ctx()).weak;
        ui.allocate_ui_with_layout(egui::vec2(170.0, height), egui::Layout::top_down(egui::Align::Min), |ui| {
            let list = egui::ScrollArea::vertical().id_salt("places").max_height(height).auto_shrink(false);
            list.show(ui, |ui| {
                ui.label(RichText::new("Places").font(theme::small()).color(weak));
                let dirs = directories::UserDirs::new();
                let named = [
                    ("Home", dirs.as_ref().map(|d| d.home_dir().to_owned())),
                    ("Documents", dirs.as_ref().and_then(|d| d.document_dir().map(Path::to_owned))),
                    ("Downloads", dirs.as_ref().and_then(|d| d.download_dir().map(Path::to_owned))),
                    ("Working folder", std::env::current_dir().ok()),
                ];
                for (name, path) in named {
                    let Some(path) = path else { continue };
                    if ui.add(egui::Button::new(name).frame(false)).on_hover_text(path.display().to_string()).clicked()
                    {
                        self.go(&path);
                    }
                }
                if !self.recent.is_empty() {
                    ui.add_space(theme::GRID);
                    ui.label(RichText::new("Used lately").font(theme::small()).color(weak));
                }
                for place in self.recent.clone() {
                    let path = Path::new(&place);
                    let name = path.file_name().map_or_else(|| place.clone(), |n| n.to_string_lossy().into_owned());
                    let button = egui::Button::new(name).frame(false).truncate();
                    if ui.add(button).on_hover_text(&place).clicked() {
                        self.go(path);
                    }
                }
            });
        });
    }

    /// Goes to a folder; a name to be saved goes along.
    fn go(&mut self, folder: &Path) {
        let path =
            if self.is_saving() { folder.join(&self.name).display().to_string() } else { with_separator(folder) };
        self.set(path);
    }

    fn rows(&mut self, ui: &mut egui::Ui, height: f32, folder: &Path, entries: &[Entry]) -> Option<Choice> {
        let palette = Palette::of(ui.ctx());
        let mut choice = None;
        egui::ScrollArea::vertical().id_salt("rows").max_height(height).auto_shrink(false).show(ui, |ui| {
            ui.set_min_width(ui.available_width());
            if let Some(error) = self.listing.error() {
                ui.label(RichText::new(format!("{error}.")).color(palette.error));
            } else if entries.is_empty() {
                let text = if self.listing.is_running() { "reading …" } else { "nothing here that fits" };
                ui.label(RichText::new(text).color(palette.weak));
            }
            if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty())
                && ui.add(egui::Button::new("↑ ..").frame(false)).on_hover_text(parent.display().to_string()).clicked()
            {
                self.go(parent);
            }
            for (k, entry) in entries.iter().enumerate() {
                let response = ui.scope(|ui| row(ui, entry, self.at == Some(k), palette)).inner;
                if self.at == Some(k) {
                    response.scroll_to_me(None);
                }
                if response.clicked() {
                    choice = self.chosen(folder, entry);
                }
            }
            if entries.len() == MOST_ROWS {
                ui.label(RichText::new(format!("the first {MOST_ROWS}; type to find others")).color(palette.weak));
            }
        });
        choice
    }

    fn buttons(&mut self, ui: &mut egui::Ui, folder: &Path, typed: &str) -> Option<Choice> {
        let palette = Palette::of(ui.ctx());
        let mut choice = None;
        if let Some(path) = &self.replaces {
            let said = std::fs::metadata(path).map_or_else(
                |_| String::new(),
                |m| {
                    let age = m.modified().map_or_else(|_| String::new(), |t| format!(", written {}", ago(t)));
                    format!(" ({}{age})", memory::bytes(m.len()))
                },
            );
            let text = format!("{} is there already{said}. Save again to replace it.", path.display());
            ui.add(egui::Label::new(RichText::new(text).color(palette.accent)).wrap());
        } else if self.is_saving() && !typed.is_empty() {
            let text = format!("into {}", folder.display());
            ui.add(egui::Label::new(RichText::new(text).font(theme::small()).color(palette.weak)).truncate());
        } else {
            let text = "Tab completes, ↑ ↓ choose, Enter opens";
            ui.label(RichText::new(text).font(theme::small()).color(palette.weak));
        }
        ui.horizontal(|ui| {
            let label = match (&self.purpose, &self.replaces) {
                (Purpose::Save(_), Some(_)) => "Replace it",
                (Purpose::Save(_), None) => "Save",
                (Purpose::Open(_), _) => "Open",
            };
            let usable = !typed.is_empty() || self.wants_folder();
            let go = ui.add_enabled(usable, egui::Button::new(label));
            if go.on_disabled_hover_text("type a path, or choose a file above").clicked() {
                choice = self.take(&expanded(&self.path));
            }
            if ui.button("System's dialog…").clicked() {
                choice = Some(Choice::Browse);
            }
            if ui.button("Cancel").clicked() {
                choice = Some(Choice::Cancel);
            }
        });
        choice
    }
}

fn row(ui: &mut egui::Ui, entry: &Entry, chosen: bool, palette: Palette) -> egui::Response {
    let name = if entry.is_folder { format!("{}{MAIN_SEPARATOR}", entry.name) } else { entry.name.clone() };
    let right = match (entry.is_whole, entry.is_folder) {
        (true, _) => "model or dictionary".to_owned(),
        (_, true) => String::new(),
        _ => {
            let age = entry.modified.map_or_else(String::new, ago);
            format!("{age}   {}", indicatif::DecimalBytes(entry.bytes))
        }
    };
    let right = RichText::new(right).font(theme::small()).color(palette.weak);
    let button = egui::Button::selectable(chosen, RichText::new(&name)).right_text(right).truncate();
    ui.add(button.min_size(egui::vec2(ui.available_width(), 22.0))).accessible_name(&name)
}

/// Where files of the user's are at first.
fn first_folder() -> PathBuf {
    let documents = directories::UserDirs::new().and_then(|d| d.document_dir().map(PathBuf::from));
    documents.filter(|d| d.is_dir()).or_else(|| std::env::current_dir().ok()).unwrap_or_default()
}

/// A whole path, with `~` for the user's own folder.
pub fn expanded(path: &str) -> PathBuf {
    let path = path.trim();
    // A whole path that was pasted behind another one is what is meant.
    let begins = ["//", "/~/"].iter().filter_map(|sign| path.rfind(sign)).max().map(|at| at + 1);
    let path = &path[begins.unwrap_or(0)..];
    let home = || directories::UserDirs::new().map(|d| d.home_dir().to_owned());
    let whole = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', MAIN_SEPARATOR]) => {
            home().map(|h| PathBuf::from(format!("{}{rest}", h.display())))
        }
        _ => None,
    };
    let whole = whole.unwrap_or_else(|| PathBuf::from(path));
    // A separator at the end says that what is in there is meant.
    let ends = path.ends_with(['/', MAIN_SEPARATOR]);
    let whole = std::path::absolute(&whole).unwrap_or(whole);
    if ends { PathBuf::from(with_separator(&whole)) } else { whole }
}

fn with_separator(folder: &Path) -> String {
    let text = folder.display().to_string();
    if text.ends_with(['/', MAIN_SEPARATOR]) { text } else { format!("{text}{MAIN_SEPARATOR}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooser(path: &Path) -> Chooser {
        Chooser::new(Purpose::Save(b"new".to_vec()), path.display().to_string(), Vec::new())
    }

    #[test]
    fn nothing_is_replaced_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there.json");
        crate::files::write_atomic(&there, b"old").unwrap();
        let mut c = chooser(&there);
        assert_eq!(c.take(&there), None);
        assert_eq!(c.replaces.as_deref(), Some(there.as_path()));
        assert_eq!(c.take(&there), Some(Choice::Take(there.clone())));
        let mut c = chooser(&there);
        let free = folder.path().join("free.json");
        assert_eq!(c.take(&free), Some(Choice::Take(free)));
        // Nor is a folder taken for a file, or a file put into none.
        assert_eq!(c.take(folder.path()), None);
        assert_eq!(c.take(&folder.path().join("no/such.json")), None);
    }

    #[test]
    fn names_are_completed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["graph-1.json", "graph-2.json", "other.json", "notes.txt", ".hidden.json"] {
            crate::files::write_atomic(&folder.path().join(name), b"{}").unwrap();
        }
        std::fs::create_dir(folder.path().join("models")).unwrap();
        let of = ListingOf { folder: folder.path().to_owned() };
        let listing = of.run(&Progress::default(), &mut |_| {}).unwrap();
        let mut c = Chooser::new(Purpose::Open(Load::Graph), String::new(), Vec::new());
        let rows = |c: &Chooser, typed: &str| -> Vec<Entry> {
            c.fitting(&listing, typed).into_iter().map(|i| listing.0[i].clone()).collect()
        };
        let names = |rows: &[Entry]| rows.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&rows(&c, "")), ["models", "graph-1.json", "graph-2.json", "other.json"]);
        assert_eq!(names(&rows(&c, "RAPH")), ["graph-1.json", "graph-2.json"]);
        let found = rows(&c, "gr");
        c.complete(folder.path(), "gr", &found);
        assert_eq!(c.path, folder.path().join("graph-").display().to_string());
        let found = rows(&c, "mo");
        c.complete(folder.path(), "mo", &found);
        assert_eq!(c.path, with_separator(&folder.path().join("models")));
    }
}
