//! Commands: the one way views change anything. A [`Command`] is something a user can name (menu,
//! palette, shortcut, tooltip all come from this list); an [`Action`] also carries data.

use std::path::PathBuf;

use eframe::egui::{Key, KeyboardShortcut, Modifiers};

use super::features::FeatureAction;
use super::model::ModelAction;
use super::selection::Hovered;
use super::shell::lessons::LessonAction;
use super::shell::presets::Preset;
use super::superposition::SuperpositionAction;
use super::training::TrainingAction;
use super::view::Workspace;
use crate::graph::marks::Marks;
use crate::guide::Place;
use crate::session::file::EXTENSION;

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
    Back,
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
    Fill,
    Present,
    Arrange(Preset),
    ResetLayout,
    History,
    Guide,
    Shortcuts,
    Quit,
}

impl Command {
    pub const ALL: [Self; 45] = [
        Self::Palette,
        Self::OpenFile,
        Self::OpenFolder,
        Self::SaveSession,
        Self::SaveSessionAs,
        Self::NewSession,
        Self::FocusPrompt,
        Self::Back,
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
        Self::Fill,
        Self::Present,
        Self::Arrange(Preset::Explore),
        Self::Arrange(Preset::Patch),
        Self::Arrange(Preset::Circuit),
        Self::Arrange(Preset::Graph),
        Self::ResetLayout,
        Self::History,
        Self::Guide,
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
            Self::Back => "Close what is on top; twice: stop what runs",
            Self::Cancel => "Stop what runs",
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
            Self::Fill => "Fill the window with one view, or show all again",
            Self::Present => "Present: one view in large text",
            Self::Arrange(preset) => preset.title(),
            Self::ResetLayout => "Reset the layout",
            Self::History => "Show the history of changes",
            Self::Guide => "Help: the guide to what is shown",
            Self::Shortcuts => "Help: keys and mouse",
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
            Self::Back => plain(Key::Escape),
            Self::RunAgain => plain(Key::F5),
            Self::ToggleTheme => command(Key::D),
            Self::PreviousToken => plain(Key::ArrowLeft),
            Self::NextToken => plain(Key::ArrowRight),
            Self::LayerUp => plain(Key::ArrowUp),
            Self::LayerDown => plain(Key::ArrowDown),
            Self::PreviousHead => plain(Key::OpenBracket),
            Self::NextHead => plain(Key::CloseBracket),
            Self::LastToken => plain(Key::End),
            Self::Guide => KeyboardShortcut::new(Modifiers::SHIFT, Key::F1),
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
            Self::Fill => plain(Key::F),
            Self::Present => plain(Key::P),
            Self::History => command(Key::H),
            Self::Messages
            | Self::Cancel
            | Self::ResetLayout
            | Self::Arrange(_)
            | Self::ClearEdits
            | Self::ClearDraft => return None,
        })
    }

    /// Where it stands on the help page.
    pub fn group(self) -> Group {
        match self {
            Self::OpenFile
            | Self::OpenFolder
            | Self::SaveSession
            | Self::SaveSessionAs
            | Self::NewSession
            | Self::Undo
            | Self::Redo
            | Self::History
            | Self::Quit => Group::Files,
            Self::PreviousToken
            | Self::NextToken
            | Self::LayerUp
            | Self::LayerDown
            | Self::PreviousHead
            | Self::NextHead
            | Self::LastToken => Group::Look,
            Self::FocusPrompt
            | Self::RunAgain
            | Self::SwapPrompts
            | Self::NextRun
            | Self::ToggleEdits
            | Self::ClearEdits
            | Self::Generate
            | Self::Trace
            | Self::Collect
            | Self::ClearDraft
            | Self::Play => Group::Ask,
            Self::Palette
            | Self::Back
            | Self::Cancel
            | Self::ToggleTheme
            | Self::Messages
            | Self::ModelWorkspace
            | Self::SuperpositionWorkspace
            | Self::TrainingWorkspace
            | Self::FeaturesWorkspace
            | Self::Fill
            | Self::Present
            | Self::Arrange(_)
            | Self::ResetLayout
            | Self::Guide
            | Self::Shortcuts => Group::Window,
        }
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

/// Parts of the help page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Look,
    Ask,
    Window,
    Files,
}

impl Group {
    pub const ALL: [Self; 4] = [Self::Look, Self::Window, Self::Ask, Self::Files];

    pub fn title(self) -> &'static str {
        match self {
            Self::Look => "Look around",
            Self::Ask => "Ask and change",
            Self::Window => "The window",
            Self::Files => "Sessions, files, undo",
        }
    }
}

/// What the mouse does, and keys that are the toolkit's: group, what it does, how.
pub const GESTURES: &[(Group, &str, &str)] = &[
    (Group::Look, "Point: every view answers", "hover"),
    (Group::Look, "Pin a token, a head, a cell, a node", "click"),
    (Group::Look, "All of a heatmap, or its beginning", "double click"),
    (Group::Look, "The graph of what follows a token", "double click"),
    (Group::Look, "Copy numbers, show everything, correspond", "right click"),
    (Group::Look, "Zoom a heatmap or the graph", "Ctrl+wheel"),
    (Group::Look, "Move in it", "drag, wheel"),
    (Group::Ask, "A new line in the prompt", "Shift+Enter"),
    (Group::Ask, "Switch an edit on, from a patching cell", "click"),
    (Group::Window, "Fill the window with a view", "double click its tab"),
    (Group::Window, "Put a view elsewhere", "drag its tab"),
    (Group::Window, "Larger and smaller text", "Ctrl++  Ctrl+−  Ctrl+0"),
    (Group::Files, "Open what is dropped on the window", "drop"),
    (Group::Files, "Complete a path", "Tab"),
];

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
    /// The first cards are put away.
    Welcomed,
    /// Opens the guide at a place.
    Guide(Place),
    /// Takes up again what was stopped.
    GoOn,
    Undo,
    Redo,
    /// Goes to where so many changes are done.
    Jump(usize),
    Hover(Hovered),
    /// Brings a view to the front.
    Show(&'static str),
    /// Lets a view fill the window, or shows all again.
    Fill(&'static str),
    /// Changes to a workspace.
    Enter(Workspace),
    /// Asks for a file.
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
    /// Begins to export a view.
    Export(&'static str),
    /// Copies a view's numbers as the script that computes them.
    CopyCode(&'static str),
    Copy(String),
    Say(String),
}

/// Files that are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    ModelFile,
    ModelFolder,
    /// A graph or a circuit.
    Graph,
    /// A circuit to compare with.
    Compared,
    /// A stack of edits.
    Stack,
    /// A dictionary of features.
    Dictionary,
    /// A set of prompts.
    Prompts,
    /// A lens: Jacobian or tuned.
    Lens,
    /// A direction that a graph explains.
    Direction,
}

impl Load {
    /// What is asked.
    pub fn title(&self) -> &'static str {
        match self {
            Self::ModelFile => "Open a model, a session, a graph, a circuit",
            Self::ModelFolder => "Open a model folder",
            Self::Graph => "Open a graph or a circuit",
            Self::Compared => "A circuit to compare with",
            Self::Stack => "Open a stack of edits",
            Self::Dictionary => "Open a dictionary",
            Self::Prompts => "Open a set of prompts",
            Self::Lens => "Open a lens",
            Self::Direction => "A direction to explain",
        }
    }

    /// Endings of the files that can be it.
    pub fn extensions(&self) -> &'static [&'static str] {
        match self {
            Self::ModelFile => &["gguf", "safetensors", "npz", "pt", "json", EXTENSION],
            Self::ModelFolder => &[],
            Self::Graph | Self::Compared | Self::Stack => &["json"],
            Self::Dictionary => &["safetensors", "npz", "json"],
            Self::Prompts => &["toml"],
            Self::Lens => &["pt", "safetensors"],
            Self::Direction => &["json", "safetensors"],
        }
    }

    /// Whether a folder as a whole can be it.
    pub fn takes_folders(&self) -> bool {
        matches!(self, Self::ModelFile | Self::ModelFolder | Self::Dictionary | Self::Lens)
    }
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
