//! What the window opens and saves, away from the thread that draws.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui;

use super::chooser::{Choice, Chooser, Purpose};
use super::notices::Level;
use crate::app::App;
use crate::app::action::Load;
use crate::circuit::draft::Draft;
use crate::circuit::file::{CircuitFile, FORMAT};
use crate::engine::EditStack;
use crate::error::{Error, Result};
use crate::features::dictionary::formats;
use crate::features::train::elsewhere;
use crate::files::{self, LARGE, write_atomic};
use crate::graph::features::audit::Audit;
use crate::graph::layout::{Cut, Shown};
use crate::graph::marks::Marks;
use crate::jobs::slot::Slot;
use crate::lenses::open::{self as lenses, Kind};
use crate::progress::Progress;
use crate::question::{Lane, Question};
use crate::session::file::{Session, is_session, is_session_text};
use crate::session::{kept, moved, recent};

/// What has come of a file.
#[derive(Clone, Debug)]
pub enum Message {
    Nothing,
    Open(PathBuf),
    Say(Level, String),
    /// A picture, or else a text, for the clipboard, and what is said of it.
    CopyPicture(egui::ColorImage, &'static str),
    CopyText(String, &'static str),
    /// Bytes that want a place, under a proposed name.
    Save(String, Vec<u8>),
    /// The place chosen in the system's dialog.
    Chosen(PathBuf),
    /// A set of prompts.
    Prompts(PathBuf),
    Stack(PathBuf, EditStack),
    Graph(PathBuf),
    Dictionary(PathBuf),
    /// Activations that another program captured.
    Captured(PathBuf),
    Lens(PathBuf, Kind),
    /// The pages of heads over a text.
    HeadPages(PathBuf),
    /// A set of dictionaries, one for each layer.
    Set(PathBuf),
    /// A file with a direction.
    Direction(PathBuf),
    Circuit(PathBuf, Draft),
    /// A session, with its file, and what is said of files that it names.
    Session(Box<Session>, Vec<String>),
    /// A file was written.
    Saved(PathBuf),
    /// Models that lessons need and that are there.
    Models(HashMap<String, PathBuf>),
    /// A circuit's name, and the circuit to compare with.
    Compared(String, Draft),
    /// A direction that the graph is to explain.
    Explained(PathBuf),
}

type Work = dyn Fn() -> Message + Send + Sync;

/// Work with a file. Each piece is asked for once and is equal to itself alone.
#[derive(Clone)]
pub struct FileOf(Arc<Work>);

impl PartialEq for FileOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Question for FileOf {
    type Answer = Message;
    const LABEL: &'static str = "reading or writing a file";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Message)) -> Result<Message> {
        Ok((self.0)())
    }
}

/// Files that are being read and written.
#[derive(Default)]
pub struct Files(Vec<Slot<FileOf>>);

impl Files {
    /// What has come of files since this was last asked.
    pub fn poll(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        for slot in &mut self.0 {
            slot.poll();
            all.extend(slot.take_news().map(|m| (*m).clone()));
            all.extend(slot.take_error().map(|e| Message::Say(Level::Error, e)));
        }
        self.0.retain(Slot::is_running);
        all
    }
}

impl App {
    /// Works with a file; what comes of it arrives as a message.
    pub fn background(&mut self, work: impl Fn() -> Message + Send + Sync + 'static) {
        let mut slot = Slot::default();
        slot.want(&self.state.pool, Some(FileOf(Arc::new(work))));
        self.files.0.push(slot);
    }

    /// Asks for a file to open.
    pub fn load(&mut self, what: Load) {
        self.chooser = Some(Chooser::open(what, recent::load(recent::FOLDERS)));
    }

    /// Asks for a place for bytes, and proposes a name.
    pub fn save_as(&mut self, name: &str, bytes: Vec<u8>) {
        self.chooser = Some(Chooser::save(name, bytes, recent::load(recent::FOLDERS)));
    }

    /// The question where, and what follows from the answer.
    pub fn choosing(&mut self, ctx: &egui::Context) {
        let Some(chooser) = &mut self.chooser else { return };
        match chooser.ui(ctx, &self.state.pool) {
            None => {}
            Some(Choice::Cancel) => self.chooser = None,
            Some(Choice::Take(path)) => {
                if let Some(chooser) = self.chooser.take() {
                    self.take(chooser.purpose, path);
                }
            }
            Some(Choice::Browse) => {
                let purpose = chooser.purpose.clone();
                self.background(move || browse(&purpose));
            }
        }
    }

    /// Opens what was chosen, or writes it.
    fn take(&mut self, purpose: Purpose, path: PathBuf) {
        if self.remembers {
            let folder = path.parent().map(|p| p.display().to_string());
            self.background(move || folder.clone().map_or(Message::Nothing, remembered));
        }
        match purpose {
            Purpose::Save(bytes) => self.background(move || written(&path, &bytes)),
            Purpose::Open(what) => self.background(move || read(&what, &path)),
        }
    }
}

/// Asks the system's dialog, which has nothing to say both when it is cancelled and when the system has none.
fn browse(purpose: &Purpose) -> Message {
    let dialog = rfd::AsyncFileDialog::new();
    let handle = match purpose {
        Purpose::Save(_) => pollster::block_on(dialog.set_title("Save as").save_file()),
        Purpose::Open(Load::ModelFolder) => {
            pollster::block_on(dialog.set_title(Load::ModelFolder.title()).pick_folder())
        }
        Purpose::Open(load) => {
            let dialog = dialog.set_title(load.title()).add_filter("what can be opened", load.extensions());
            pollster::block_on(dialog.pick_file())
        }
    };
    handle.map_or_else(
        || Message::Say(Level::Info, "The system's dialog gave no file; a path can be typed here.".to_owned()),
        |h| Message::Chosen(h.path().to_owned()),
    )
}

/// Opens a file as what was asked for.
fn read(what: &Load, path: &Path) -> Message {
    match what {
        Load::ModelFile => read_dropped(path),
        Load::ModelFolder => Message::Open(path.to_owned()),
        Load::Graph => read_json(path),
        Load::Compared => read_compared(path),
        Load::Stack => read_stack(path),
        Load::Dictionary if formats::is_set(path) => Message::Set(path.to_owned()),
        Load::Dictionary => Message::Dictionary(path.to_owned()),
        Load::Prompts => Message::Prompts(path.to_owned()),
        // What is no lens is opened as one, and what is wrong with it is said there.
        Load::Lens => Message::Lens(path.to_owned(), lenses::kind(path).unwrap_or(Kind::Jacobian)),
        Load::Direction => Message::Explained(path.to_owned()),
    }
}

/// Notes the folder of a file for the next time one is asked for.
fn remembered(folder: String) -> Message {
    let mut list = recent::load(recent::FOLDERS);
    list.retain(|f| *f != folder);
    list.insert(0, folder);
    list.truncate(8);
    recent::save(recent::FOLDERS, &list).err().map_or(Message::Nothing, |e| Message::Say(Level::Info, e.to_string()))
}

fn read_stack(path: &Path) -> Message {
    match EditStack::open(path) {
        Ok(stack) => Message::Stack(path.to_owned(), stack),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

/// A file or folder that was opened or dropped on the window: a session, a graph, a circuit, a direction, a stack of
/// edits, a lens, pages of heads, a dictionary, or a model.
pub fn read_dropped(path: &Path) -> Message {
    if is_session(path) {
        return read_session(path);
    }
    let config = path.file_name().is_some_and(|n| n == "config.json" || n == "cfg.json");
    if path.extension().is_some_and(|e| e == "json") && !config {
        read_json(path)
    } else if let Some(kind) = lenses::kind(path) {
        Message::Lens(path.to_owned(), kind)
    } else if path.is_file() && crate::heads::index_file::about(path).is_ok() {
        Message::HeadPages(path.to_owned())
    } else if formats::is_set(path) {
        Message::Set(path.to_owned())
    } else if formats::is_dropped(path) {
        Message::Dictionary(path.to_owned())
    } else if elsewhere::dropped(path).is_some() {
        Message::Captured(path.to_owned())
    } else if path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pt")) {
        // Weights of models are no `.pt` here: why it is no lens either is said where lenses are.
        Message::Lens(path.to_owned(), Kind::Jacobian)
    } else {
        Message::Open(path.to_owned())
    }
}

/// A JSON file: a graph, a circuit, a direction, or a stack of edits.
fn read_json(path: &Path) -> Message {
    let bytes = match files::read(path, LARGE) {
        Ok(bytes) => bytes,
        Err(error) => return Message::Say(Level::Error, error.to_string()),
    };
    if is_session_text(&bytes) {
        return read_session(path);
    }
    match serde_json::from_slice::<serde_json::Value>(&bytes).ok() {
        Some(v) if v.get("nodes").is_some() && v.get("links").is_some() => Message::Graph(path.to_owned()),
        Some(v) if v.get("format").and_then(|f| f.as_str()) == Some(FORMAT) => match CircuitFile::open(path) {
            Ok(file) => Message::Circuit(path.to_owned(), file.draft()),
            Err(e) => Message::Say(Level::Error, e.to_string()),
        },
        Some(v) if v.get("layers").is_some() && v.get("hook").is_some() => Message::Direction(path.to_owned()),
        _ => read_stack(path),
    }
}

/// A session. One that was kept by itself says where the user's file is; any other file is the user's.
pub fn read_session(path: &Path) -> Message {
    match Session::open(path) {
        Ok(mut session) => {
            if !path.starts_with(kept::folder()) {
                session.file = Some(path.to_owned());
            }
            let says = moved::found(&mut session.document, session.file.as_deref());
            Message::Session(Box::new(session), says)
        }
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

/// A circuit to compare with.
fn read_compared(path: &Path) -> Message {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    match CircuitFile::open(path) {
        Ok(file) => Message::Compared(name, file.draft()),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

pub fn graph_bytes(shown: &Shown, cut: &Cut, marks: &Marks, audit: Option<&Audit>) -> Message {
    let text = shown.file(cut).and_then(|mut f| {
        marks.write(&mut f);
        if let Some(audit) = audit {
            audit.write(&mut f, "the links of the whole graph")?;
        }
        serde_json::to_vec(&f.to_json()).map_err(|e| Error::failed(e.to_string()))
    });
    match text {
        Ok(bytes) => Message::Save("graph.json".to_owned(), bytes),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

fn written(path: &Path, bytes: &[u8]) -> Message {
    match write_atomic(path, bytes) {
        Ok(()) => Message::Saved(path.to_owned()),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_activations_are_no_model() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/activations");
        for name in ["transformer-lens.safetensors", "sae-lens"] {
            assert!(
                matches!(read_dropped(&folder.join(name)), Message::Captured(_)),
                "{name} is taken for something else"
            );
        }
    }
}
