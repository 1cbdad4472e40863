//! The session: kept by itself while one works, saved under a name, opened again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eframe::egui;

use super::files::{Message, read_dropped};
use super::notices::Level;
use crate::app::App;
use crate::app::view::Workspace;
use crate::error::Result;
use crate::jobs::slot::Slot;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use crate::session::Document;
use crate::session::file::{EXTENSION, Session, is_session};
use crate::session::kept::{self, Kept};
use crate::session::start::Start;
use crate::session::{moved, recent};

/// Seconds after a change until it is on the disk; changes that follow each other are written together.
const KEEP_SECONDS: f64 = 0.5;
/// Seconds until what could not be written is tried again.
const RETRY_SECONDS: f64 = 10.0;
/// Sessions of the user that are listed at most, and as many that were put aside.
const MOST_RECENT: usize = 6;

/// Writes a session to a file.
#[derive(Clone)]
struct Keep {
    path: PathBuf,
    session: Arc<Session>,
}

impl PartialEq for Keep {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && Arc::ptr_eq(&self.session, &other.session)
    }
}

impl Question for Keep {
    type Answer = ();
    const LABEL: &'static str = "keeping the session";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(())) -> Result<()> {
        self.session.save(&self.path)
    }
}

/// What the window knows of its session's files.
#[derive(Default)]
pub struct Keeping {
    /// Where the session is kept by itself: by a window, not by pictures and tests.
    kept: Option<Kept>,
    /// The file that the user opened or saved.
    pub file: Option<PathBuf>,
    /// The session as it was last written, and as the user's file has it.
    written: Option<Arc<Session>>,
    saved: Option<Arc<Session>>,
    /// What is on its way into the user's file.
    saving: Option<Arc<Session>>,
    /// When the first change was seen that is not written, seconds of the window's clock.
    changed: Option<f64>,
    /// The window's title as it stands.
    title: String,
    writing: Slot<Keep>,
}

impl Keeping {
    /// Whether it is the session that is on its way into a file.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }
}

/// Whether a file is neither a session nor a model, which a window begins with.
fn opens_beside(path: &Path) -> bool {
    let is_json = path.extension().is_some_and(|e| e == "json");
    !is_session(path) && (is_json || !matches!(read_dropped(path), Message::Open(_)))
}

/// What the command line asks for, apart from a file that opens beside it as if it were dropped on the window.
pub fn apart(args: &Start) -> (Start, Option<PathBuf>) {
    let dropped = args.file.clone().filter(|p| opens_beside(p));
    (Start { file: args.file.clone().filter(|_| dropped.is_none()), ..args.clone() }, dropped)
}

/// What a window opens on: a session, and what is said of it.
pub struct Opening {
    pub session: Session,
    /// A file that opens beside it, as if it were dropped on the window.
    pub dropped: Option<PathBuf>,
    pub kept: Option<Kept>,
    pub says: Vec<(Level, String)>,
}

impl Opening {
    /// Returns what the command line asks for, else what the window held when it was closed.
    ///
    /// # Errors
    /// A session or a stack of edits that was named and cannot be read.
    pub fn of(args: &Start) -> Result<Self> {
        let (args, dropped) = apart(args);
        let args = &args;
        let file = args.file.clone().filter(|p| is_session(p));
        let named = file.as_deref().map(Session::open).transpose()?;
        let mut says = Vec::new();
        let mut look_for = |mut s: Session| {
            let found = moved::found(&mut s.document, file.as_deref());
            says.extend(found.into_iter().map(|text| (Level::Info, text)));
            s
        };
        let named = named.map(|s| look_for(Session { file: file.clone(), ..s }));
        let asked = match named {
            Some(session) => Some(session),
            None if args.is_given() => Some(Session { file: None, document: args.document()? }),
            None => None,
        };
        // A window that only measures how long it takes to open keeps nothing.
        let mut kept = if args.time {
            None
        } else {
            Kept::take(&kept::folder()).map_err(|e| says.push((Level::Error, e.to_string()))).ok()
        };
        let before = kept.as_ref().and_then(|k| match k.load() {
            Ok(session) => session,
            Err(e) => {
                says.push((Level::Error, format!("{e}. It was put aside, and a new session begins.")));
                None
            }
        });
        let session = match (asked, before) {
            (None, Some(mut before)) => {
                let found = moved::found(&mut before.document, before.file.as_deref());
                says.extend(found.into_iter().map(|text| (Level::Info, text)));
                says.push((Level::Info, "The session is as you left it; Ctrl+N begins a new one.".to_owned()));
                return Ok(Self { session: before, dropped, kept, says });
            }
            (Some(asked), _) => asked,
            (None, None) => Session { file: None, document: args.document()? },
        };
        if let Some(Err(e)) = kept.as_ref().map(Kept::put_aside) {
            // What lies there must not be written over.
            kept = None;
            says.push((Level::Error, format!("{e}. This session is not kept by itself; save it with Ctrl+S.")));
        }
        Ok(Self { session, dropped, kept, says })
    }
}

impl App {
    /// Begins to keep the session that the window was opened on.
    pub fn begin_keeping(&mut self, kept: Option<Kept>, file: Option<PathBuf>, says: Vec<(Level, String)>) {
        let saved = file.as_deref().and_then(|f| Session::open(f).ok()).map(Arc::new);
        self.keeping = Keeping { kept, file, saved, ..Keeping::default() };
        for (level, text) in says {
            self.state.notices.push(level, text);
        }
        let file = self.keeping.file.clone();
        self.list_sessions(file.as_deref());
    }

    /// Keeps the session in `folder` from now on, and returns the one that was kept there.
    ///
    /// # Errors
    /// A folder that cannot be written, or a session that cannot be read.
    pub fn keep_in(&mut self, folder: &Path) -> Result<Option<Session>> {
        let kept = Kept::take(folder)?;
        let before = kept.load()?;
        self.keeping = Keeping { kept: Some(kept), ..Keeping::default() };
        Ok(before)
    }

    /// Finds the sessions that can be opened again; one of the user's comes first once it was used.
    fn list_sessions(&mut self, used: Option<&Path>) {
        if self.keeping.kept.is_none() {
            return;
        }
        let mut own = recent::load(recent::SESSIONS);
        if let Some(path) = used.and_then(|p| std::path::absolute(p).ok()) {
            let path = path.display().to_string();
            own.retain(|p| *p != path);
            own.insert(0, path);
            own.truncate(MOST_RECENT);
            if let Err(e) = recent::save(recent::SESSIONS, &own) {
                self.state.notices.push(Level::Info, e.to_string());
            }
        }
        let own = own.into_iter().map(PathBuf::from).filter(|p| p.exists());
        let own = own.map(|p| (p.file_name().unwrap_or_default().to_string_lossy().into_owned(), p));
        let aside = kept::aside(&kept::folder()).into_iter().take(MOST_RECENT);
        let aside = aside.map(|p| (format!("put aside {}", kept::age(&p)), p));
        self.state.sessions = own.chain(aside).map(|(name, path)| (path, name)).collect();
    }

    /// The user's own document: what a lesson shows is not kept.
    fn own(&self) -> &Document {
        self.before.as_ref().map_or(&self.state.document, |before| &before.state.document)
    }

    fn session(&self) -> Session {
        Session { file: self.keeping.file.clone(), document: self.own().clone() }
    }

    fn is_written(&self) -> bool {
        let k = &self.keeping;
        k.written.as_ref().is_some_and(|w| w.document == *self.own() && w.file == k.file)
    }

    /// Writes what has changed, once it has rested for a moment.
    pub fn keep(&mut self, ctx: &egui::Context) {
        if self.keeping.kept.is_none() {
            return;
        }
        let now = self.now;
        self.keeping.writing.poll();
        if let Some(error) = self.keeping.writing.take_error() {
            self.state.notices.push(Level::Error, format!("The session could not be kept: {error}."));
            self.keeping.written = None;
            self.keeping.changed = Some(now + RETRY_SECONDS);
        }
        if self.is_written() {
            self.keeping.changed = None;
            return;
        }
        let due = *self.keeping.changed.get_or_insert(now) + KEEP_SECONDS;
        if now < due || self.keeping.writing.is_running() {
            ctx.request_repaint_after(Duration::from_secs_f64((due - now).max(0.05)));
            return;
        }
        let session = Arc::new(self.session());
        let k = &mut self.keeping;
        k.written = Some(session.clone());
        k.changed = None;
        let question = k.kept.as_ref().map(|kept| Keep { path: kept.path.clone(), session });
        k.writing.want(&self.state.pool, question);
    }

    /// Writes what has changed at once: the window closes, or makes room for another session.
    pub fn keep_now(&mut self) {
        let Some(kept) = &self.keeping.kept else { return };
        let path = kept.path.clone();
        if self.keeping.writing.is_running() {
            // What is stopped here may not have been written.
            self.keeping.written = None;
            self.keeping.writing.finish();
        }
        if self.is_written() {
            return;
        }
        let session = Arc::new(self.session());
        match session.save(&path) {
            Ok(()) => self.keeping.written = Some(session),
            Err(e) => self.state.notices.push(Level::Error, format!("The session could not be kept: {e}.")),
        }
    }

    /// The window's title: the session's name, with a dot where its file is behind.
    pub fn title(&self) -> String {
        let Some(file) = &self.keeping.file else { return "circuitscope".to_owned() };
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let behind = self.keeping.saved.as_ref().is_none_or(|s| !s.document.is_work_of(self.own()));
        format!("{name}{} – circuitscope", if behind { " •" } else { "" })
    }

    /// Shows the title where it has changed.
    pub fn name_window(&mut self, ctx: &egui::Context) {
        let title = self.title();
        if self.keeping.title != title {
            self.keeping.title.clone_from(&title);
            ctx.send_viewport_cmd(egui::ViewportCommand::Title(title));
        }
    }

    /// Saves the session in its file, or asks for one.
    pub fn save_session(&mut self, elsewhere: bool) {
        if self.before.is_some() {
            self.state.notices.push(Level::Info, "Your session is saved as it was before the lesson.");
        }
        let session = Arc::new(Session { file: None, ..self.session() });
        self.keeping.saving = Some(session.clone());
        match self.keeping.file.clone().filter(|_| !elsewhere) {
            Some(path) => {
                self.background(move || match session.save(&path) {
                    Ok(()) => Message::Saved(path.clone()),
                    Err(e) => Message::Say(Level::Error, e.to_string()),
                });
            }
            None => match session.to_bytes() {
                Ok(bytes) => self.save_as(&format!("session.{EXTENSION}"), bytes),
                Err(e) => self.state.notices.push(Level::Error, e.to_string()),
            },
        }
    }

    /// A session was saved here: this is its file from now on.
    pub fn session_saved(&mut self, path: PathBuf) {
        self.list_sessions(Some(&path));
        self.keeping.file = Some(path);
        self.keeping.saved = self.keeping.saving.take();
    }

    /// Makes a session the one in use; the one before is put aside, so that nothing of it is lost.
    pub fn open_session(&mut self, session: Session) {
        self.keep_now();
        if let Some(Err(e)) = self.keeping.kept.as_ref().map(Kept::put_aside) {
            self.state.notices.push(Level::Error, e.to_string());
            return;
        }
        self.keeping.written = None;
        self.keeping.file = session.file;
        let mut document = session.document;
        // Who knows the program knows it in every session.
        document.look.welcomed |= self.state.document.look.welcomed;
        self.state.replace_document(document);
        self.keeping.saved = self.keeping.file.is_some().then(|| Arc::new(self.session()));
        let named = Workspace::ALL.into_iter().find(|w| w.name() == self.state.document.look.workspace);
        self.enter(named.unwrap_or(Workspace::Model));
        let file = self.keeping.file.clone();
        self.list_sessions(file.as_deref());
    }

    /// Begins a new session, as a first start would.
    pub fn new_session(&mut self) {
        match Start::default().document() {
            Ok(document) => {
                self.open_session(Session { file: None, document });
                let text = "A new session. The one before is in the model menu, under sessions.";
                self.state.notices.push(Level::Info, text);
            }
            Err(e) => self.state.notices.push(Level::Error, e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_session_and_no_model_opens_beside_one() {
        let at = |path: &str| opens_beside(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        assert!(
            at("tests/graphs/meow-clt.json") && at("assets/text-features") && at("assets/text-lens/lens.safetensors")
        );
        assert!(!at("assets/induction") && !at("tests/families/llama") && !at("mine.scope"));
        let args = |file: &str| Start {
            file: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)),
            time: true,
            ..Start::default()
        };
        let graph = Opening::of(&args("tests/graphs/meow-clt.json")).unwrap();
        assert!(graph.dropped.is_some_and(|p| p.ends_with("meow-clt.json")));
        let model = Opening::of(&args("tests/families/llama")).unwrap();
        assert!(model.dropped.is_none() && model.session.document.desk.model.ends_with("families/llama"));
    }
}
