//! Commands: the one way views change anything. A [`Command`] is something a user can name (menu,
//! palette, shortcut, tooltip all come from this list); an [`Action`] also carries data.

use std::path::PathBuf;

use eframe::egui::{Key, KeyboardShortcut, Modifiers};

use super::features::FeatureAction;
use super::model::ModelAction;
use super::selection::Hovered;
use super::shell::lessons::LessonAction;
use super::superposition::SuperpositionAction;
use super::training::TrainingAction;
use super::view::Workspace;
use crate::graph::marks::Marks;
use crate::session::Document;

/// Named commands without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Palette,
    OpenFile,
    OpenFolder,
    SaveSession,
    SaveSessionAs,
    NewSession,
    FocusPrompt,
    Cancel,
    RunAgain,
    ToggleTheme,
    PreviousToken,
    NextToken,
    LayerUp,
    LayerDown,
    PreviousHead,
    NextHead,
    LastToken,
    Messages,
    SwapPrompts,
    NextRun,
    ToggleEdits,
    ClearEdits,
    Generate,
    Trace,
    Collect,
    Undo,
    Redo,
    ClearDraft,
    ModelWorkspace,
    SuperpositionWorkspace,
    TrainingWorkspace,
    FeaturesWorkspace,
    Play,
    ResetLayout,
    Shortcuts,
    Quit,
}

impl Command {
    pub const ALL: [Self; 36] = [
        Self::Palette,
        Self::OpenFile,
        Self::OpenFolder,
        Self::SaveSession,
        Self::SaveSessionAs,
        Self::NewSession,
        Self::FocusPrompt,
        Self::Cancel,
        Self::RunAgain,
        Self::ToggleTheme,
        Self::PreviousToken,
        Self::NextToken,
        Self::LayerUp,
        Self::LayerDown,
        Self::PreviousHead,
        Self::NextHead,
        Self::LastToken,
        Self::Messages,
        Self::SwapPrompts,
        Self::NextRun,
        Self::ToggleEdits,
        Self::ClearEdits,
        Self::Generate,
        Self::Trace,
        Self::Collect,
        Self::Undo,
        Self::Redo,
        Self::ClearDraft,
        Self::ModelWorkspace,
        Self::SuperpositionWorkspace,
        Self::TrainingWorkspace,
        Self::FeaturesWorkspace,
        Self::Play,
        Self::ResetLayout,
        Self::Shortcuts,
        Self::Quit,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Palette => "Command palette",
            Self::OpenFile => "Open a model, a session, a graph, a circuit…",
            Self::OpenFolder => "Open model folder…",
            Self::SaveSession => "Save the session",
            Self::SaveSessionAs => "Save the session as…",
            Self::NewSession => "Begin a new session",
            Self::FocusPrompt => "Edit the prompt",
            Self::Cancel => "Cancel running jobs",
            Self::RunAgain => "Run the prompt again",
            Self::ToggleTheme => "Switch between dark and light",
            Self::PreviousToken => "Pin the token before",
            Self::NextToken => "Pin the token after",
            Self::LayerUp => "One layer up",
            Self::LayerDown => "One layer down",
            Self::PreviousHead => "Previous head",
            Self::NextHead => "Next head",
            Self::LastToken => "Pin the last token",
            Self::Messages => "Show messages",
            Self::SwapPrompts => "Swap the clean and the corrupted prompt",
            Self::NextRun => "Show the next run: clean, corrupted, edited, difference",
            Self::ToggleEdits => "Switch all edits off or on",
            Self::ClearEdits => "Remove all edits",
            Self::Generate => "Generate text without and with the edits",
            Self::Trace => "Show the graph of the pinned prediction",
            Self::Collect => "Put the pinned head or neuron into the circuit, or take it out",
            Self::Undo => "Undo the last change",
            Self::Redo => "Do again what was undone",
            Self::ClearDraft => "Empty the circuit",
            Self::ModelWorkspace => "Look into a model",
            Self::SuperpositionWorkspace => "Open the superposition lab",
            Self::TrainingWorkspace => "Grow a circuit from scratch",
            Self::FeaturesWorkspace => "Features: dictionaries, directions, examples",
            Self::Play => "Lab: train, pause, go on",
            Self::ResetLayout => "Reset the layout",
            Self::Shortcuts => "Keyboard shortcuts",
            Self::Quit => "Quit",
        }
    }

    pub fn shortcut(self) -> Option<KeyboardShortcut> {
        let plain = |key| KeyboardShortcut::new(Modifiers::NONE, key);
        let command = |key| KeyboardShortcut::new(Modifiers::COMMAND, key);
        Some(match self {
            Self::Palette => command(Key::K),
            Self::OpenFile => command(Key::O),
            Self::OpenFolder => KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::O),
            Self::SaveSession => command(Key::S),
            Self::SaveSessionAs => KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::S),
            Self::NewSession => command(Key::N),
            Self::FocusPrompt => command(Key::L),
            Self::Cancel => plain(Key::Escape),
            Self::RunAgain => plain(Key::F5),
            Self::ToggleTheme => command(Key::D),
            Self::PreviousToken => plain(Key::ArrowLeft),
            Self::NextToken => plain(Key::ArrowRight),
            Self::LayerUp => plain(Key::ArrowUp),
            Self::LayerDown => plain(Key::ArrowDown),
            Self::PreviousHead => plain(Key::OpenBracket),
            Self::NextHead => plain(Key::CloseBracket),
            Self::LastToken => plain(Key::End),
            Self::Shortcuts => plain(Key::F1),
            Self::Quit => command(Key::Q),
            Self::SwapPrompts => command(Key::T),
            Self::NextRun => plain(Key::R),
            Self::ToggleEdits => plain(Key::E),
            Self::Generate => command(Key::G),
            Self::Trace => plain(Key::G),
            Self::Collect => plain(Key::C),
            Self::Undo => command(Key::Z),
            Self::Redo => KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::Z),
            Self::ModelWorkspace => command(Key::Num1),
            Self::SuperpositionWorkspace => command(Key::Num2),
            Self::FeaturesWorkspace => command(Key::Num4),
            Self::TrainingWorkspace => command(Key::Num3),
            Self::Play => plain(Key::Space),
            Self::Messages | Self::ResetLayout | Self::ClearEdits | Self::ClearDraft => return None,
        })
    }

    /// Keys that the graph takes while it has the keyboard.
    pub fn yields_to_graph(self) -> bool {
        matches!(self, Self::PreviousToken | Self::NextToken | Self::LayerUp | Self::LayerDown | Self::Collect)
    }

    /// Plain keys, and undo, belong to a text field while one is being edited.
    pub fn yields_to_typing(self) -> bool {
        matches!(self, Self::Undo | Self::Redo)
            || self.shortcut().is_some_and(|s| s.modifiers.is_none() && ![Key::F1, Key::F5].contains(&s.logical_key))
    }
}

/// Everything that changes the document, a workspace or the window. Each workspace has its own.
#[derive(Clone, Debug)]
pub enum Action {
    Do(Command),
    Open(String),
    /// Opens a model, then asks this of it.
    OpenThen(String, Vec<ModelAction>),
    /// What the views of a model and a prompt ask for.
    Model(ModelAction),
    /// What the feature views ask for.
    Feature(FeatureAction),
    /// What the superposition lab is asked for.
    Superposition(SuperpositionAction),
    /// What circuits grown from scratch are asked for.
    Training(TrainingAction),
    Lesson(LessonAction),
    Undo,
    Redo,
    Hover(Hovered),
    /// Brings a view to the front.
    Show(&'static str),
    /// Changes to a workspace.
    Enter(Workspace),
    /// Puts a document back that was open before.
    Restore(Box<Document>),
    /// Asks the system for a file.
    Load(Load),
    /// Opens a session file.
    OpenSession(PathBuf),
    /// Saves the pruned graph with what was said about its nodes.
    SaveGraph(Marks),
    SaveCircuit,
    Save {
        name: String,
        extension: &'static str,
        bytes: Vec<u8>,
    },
    SavePicture {
        view: &'static str,
    },
    Copy(String),
    Say(String),
}

/// Files that are chosen in the system's dialog, or by their path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    ModelFile,
    ModelFolder,
    /// A graph or a circuit.
    Graph,
    /// A circuit to compare with.
    Compared,
    /// A stack of edits; by its path, where one is typed.
    Stack(Option<String>),
}

impl From<ModelAction> for Action {
    fn from(action: ModelAction) -> Self {
        Self::Model(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcuts_are_distinct() {
        let all: Vec<_> = Command::ALL.iter().filter_map(|c| c.shortcut()).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{a:?} twice");
        }
    }
}
