//! Commands: the one way views change anything. A [`Command`] is something a user can name (menu,
//! palette, shortcut, tooltip all come from this list); an [`Action`] also carries data.

use eframe::egui::{Key, KeyboardShortcut, Modifiers};

use super::features::FeatureAction;
use super::selection::{Hovered, Pinned};
use crate::analysis::feature_geometry::Directions;
use crate::analysis::neurons::Statistic;
use crate::analysis::projection::Settings;
use crate::app::model::circuits::{CircuitSettings, GraphTarget};
use crate::app::model::runs::{PatchSettings, Show};
use crate::app::shell::lessons::LessonAction;
use crate::app::superposition::SuperpositionAction;
use crate::app::training::TrainingAction;
use crate::app::view::Workspace;
use crate::circuit::cart::Cart;
use crate::circuit::{Edge, Member};
use crate::engine::edit::Edit;
use crate::engine::generate::Sampling;
use crate::engine::{EditStack, Which};
use crate::graph::marks::Marks;
use crate::graph::readers::Attention;
use crate::jobs::circuits::Search;
use crate::session::Document;

/// Named commands without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Palette,
    OpenFile,
    OpenFolder,
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
    UndoCart,
    ClearCart,
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
    pub const ALL: [Self; 32] = [
        Self::Palette,
        Self::OpenFile,
        Self::OpenFolder,
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
        Self::UndoCart,
        Self::ClearCart,
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
            Self::OpenFile => "Open model file…",
            Self::OpenFolder => "Open model folder…",
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
            Self::UndoCart => "Undo the last change of the circuit",
            Self::ClearCart => "Empty the circuit",
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
            Self::UndoCart => command(Key::Z),
            Self::ModelWorkspace => command(Key::Num1),
            Self::SuperpositionWorkspace => command(Key::Num2),
            Self::FeaturesWorkspace => command(Key::Num4),
            Self::TrainingWorkspace => command(Key::Num3),
            Self::Play => plain(Key::Space),
            Self::Messages | Self::ResetLayout | Self::ClearEdits | Self::ClearCart => return None,
        })
    }

    /// Keys that the graph takes while it has the keyboard.
    pub fn yields_to_graph(self) -> bool {
        matches!(self, Self::PreviousToken | Self::NextToken | Self::LayerUp | Self::LayerDown | Self::Collect)
    }

    /// Plain keys, and undo, belong to a text field while one is being edited.
    pub fn yields_to_typing(self) -> bool {
        self == Self::UndoCart
            || self.shortcut().is_some_and(|s| s.modifiers.is_none() && ![Key::F1, Key::F5].contains(&s.logical_key))
    }
}

/// Everything that changes the document, the selection or the window.
#[derive(Clone, Debug)]
pub enum Action {
    Do(Command),
    Open(String),
    SetPrompt(String),
    SetAnswer(String),
    SetWrong(String),
    SetCorrupted(String),
    /// Token of the prompt and its counterpart in the corrupted one.
    Align(usize, Option<usize>),
    /// Which run the views show.
    ShowRun(Show),
    /// Replaces the stack of edits.
    SetStack(EditStack),
    /// Adds an edit of this run, or takes it away if it is there already.
    ToggleEdit(Which, Edit),
    /// The same for edits that belong together: in if any is missing or off, else out.
    ToggleEditsTogether(Which, Vec<Edit>),
    /// Adds edits, or gives those of the same direction and place their strength.
    PutEdits(Which, Vec<Edit>),
    /// What the patching view asks.
    Patch(PatchSettings),
    /// Runs a sweep that was held back for its length, or one restricted to some cells.
    Sweep {
        cells: Option<Vec<usize>>,
    },
    Approximate,
    /// The graph view was looked at.
    TraceGraph,
    GraphTarget(GraphTarget),
    /// Whether attention patterns are held still or followed.
    GraphAttention(Attention),
    /// Takes an MLP of the graph, by its id, apart into neurons, or puts it together again.
    OpenMlp(String),
    /// Puts all MLPs together again.
    CloseMlps,
    /// Shares of influence that the kept nodes and links hold.
    GraphThresholds(f64, f64),
    /// Asks the system for a graph file.
    LoadGraph,
    /// Opens a graph file.
    OpenGraph(String),
    /// Back from a file to the traced prediction.
    CloseGraph,
    /// Saves the pruned graph with what was said about its nodes.
    SaveGraph(Marks),
    SetCart(Cart),
    /// Takes the last change of the cart back.
    UndoCart,
    /// Asks the system for a circuit to compare the cart with.
    LoadCompared,
    /// A named circuit to compare the cart with, or none.
    CompareCart(Option<(String, Cart)>),
    /// Adds a component or a neuron to the cart, or takes it away.
    ToggleCart(Member),
    AddCartEdge(Edge),
    /// Takes an edge out of the cart.
    RemoveCartEdge(Edge),
    CircuitSettings(CircuitSettings),
    SearchCircuit(Search),
    SaveCart,
    /// Asks the system for a saved circuit.
    LoadCart,
    /// How text is generated, and how much.
    Sampling(Sampling, usize),
    Generate,
    /// Asks the system for a saved stack.
    LoadStack,
    /// Opens a saved stack.
    OpenStack(String),
    Pin(Pinned),
    Hover(Hovered),
    NeuronStatistic(Statistic),
    Project(Settings),
    /// Which directions the feature geometry is of.
    Geometry(Directions),
    Show(&'static str),
    /// Changes to a workspace.
    Enter(Workspace),
    /// What the superposition workspace is asked for.
    Superposition(SuperpositionAction),
    /// What the feature views are asked for.
    Feature(FeatureAction),
    /// What the training workspace is asked for.
    Training(TrainingAction),
    Lesson(LessonAction),
    /// Puts a document back that was open before.
    Restore(Box<Document>),
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
