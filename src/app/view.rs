//! What a view is: one file that ends in its own [`ViewDef`], and one line in the list of its workspace. A view reads the
//! state and sends actions.

use std::sync::Arc;

use eframe::egui;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use super::export::table::Table;
use super::selection::Hovered;
use super::state::State;
use super::widgets::colorbar::number;
use super::widgets::heatmap::{Outcome, diverging};
use super::widgets::turns::Turns;
use super::widgets::{message, token_text};
use crate::analysis::run::Run;
use crate::analysis::subject::Compared;
use crate::app::action::Action;
use crate::app::look::theme::{self, Palette};
use crate::gpu::HeatData;
use crate::gpu::heatmap::Coloring;
use crate::guide::{self, Page};
use crate::jobs::slot::{AnySlot, Slot};
use crate::question::Question;
use crate::session::desk::{Focus, Pinned};

/// What a view's own questions follow from.
pub struct Asking<'a> {
    pub state: &'a State,
    /// The view can be seen: what cannot be seen is not computed.
    pub seen: bool,
}

impl Asking<'_> {
    /// The settings that a view keeps for itself in the document.
    pub fn settings<T: DeserializeOwned + Default>(&self, view: &ViewDef) -> T {
        settings(self.state, view)
    }
}

/// The settings that a view keeps for itself; the first ones where there are none, or they are of another version.
fn settings<T: DeserializeOwned + Default>(state: &State, view: &ViewDef) -> T {
    let kept = state.desk().views.get(view.name);
    kept.and_then(|v| T::deserialize(v).ok()).unwrap_or_default()
}

/// What a view may read, and where it sends what it wants.
pub struct Context<'a> {
    pub state: &'a State,
    pub palette: Palette,
    pub actions: &'a mut Vec<Action>,
    /// What the pointer is over in this frame.
    pub hovered: &'a mut Hovered,
}

impl Context<'_> {
    pub fn pinned(&self) -> Pinned {
        self.state.pinned()
    }

    /// The settings that a view keeps for itself in the document.
    pub fn settings<T: DeserializeOwned + Default>(&self, view: &ViewDef) -> T {
        settings(self.state, view)
    }

    /// Changes them.
    pub fn set<T: Serialize>(&mut self, view: &ViewDef, settings: &T) {
        if let Ok(value) = serde_json::to_value(settings) {
            self.push(super::model::ModelAction::View(view.name, value));
        }
    }

    /// Asks for something.
    pub fn push(&mut self, action: impl Into<Action>) {
        self.actions.push(action.into());
    }

    pub fn pin(&mut self, change: impl FnOnce(&mut Pinned)) {
        let mut p = self.pinned();
        change(&mut p);
        if p != self.pinned() {
            self.push(super::model::ModelAction::Pin(p));
        }
    }

    pub fn run(&self) -> Option<Arc<Run>> {
        self.state.run().cloned()
    }

    /// Label of a position: its token.
    pub fn token(&self, pos: usize) -> String {
        self.state.run().and_then(|r| r.texts.get(pos)).map_or_else(String::new, |t| token_text::short(t, 12))
    }

    /// Whose words the positions of the run that is shown are of.
    pub fn turns(&self) -> Turns {
        self.state.run().map_or_else(Turns::default, |run| self.turns_of(run))
    }

    /// Those of another run of the same conversation.
    pub fn turns_of(&self, run: &Run) -> Turns {
        Turns::of(run, self.state.desk(), &self.palette)
    }

    pub fn text_of(&self, id: u32) -> String {
        let Some(model) = &self.state.model else { return id.to_string() };
        let bytes = model.tokenizer.as_ref().map_or(&[][..], |t| t.bytes(id));
        token_text::said(bytes, &model.token_text(id))
    }
}

/// A view's own, transient state and its drawing.
pub trait View {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>);

    /// The numbers on screen, for export; `None` while there are none.
    fn table(&self, cx: &Context<'_>) -> Option<Table>;

    /// Asks for what only this view shows, in slots of its own.
    fn ask(&mut self, _: &Asking<'_>) {}

    /// Those slots.
    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        Vec::new()
    }
}

/// Shows why there is nothing to show; true if there is a result to go on with.
pub fn ready<Q: Question>(ui: &mut egui::Ui, cx: &mut Context<'_>, slot: &Slot<Q>) -> bool {
    if let Some(error) = cx.state.shown_error() {
        message(ui, error, true);
        return false;
    }
    here(ui, cx, slot)
}

/// As [`ready`] for what does not depend on the run that is shown.
pub fn here<Q: Question>(ui: &mut egui::Ui, cx: &mut Context<'_>, slot: &Slot<Q>) -> bool {
    if let Some(error) = slot.error().or(cx.state.results.run.error()) {
        message(ui, error, true);
        return false;
    }
    if slot.get().is_some() {
        cut_off(ui, cx, slot);
        return true;
    }
    let stopped = slot.is_stopped() || cx.state.results.run.is_stopped();
    let text = match &cx.state.model {
        None if cx.state.opened.is_running() => "opening the model …",
        None => "open a model to begin",
        Some(_) if cx.state.desk().is_blank() => "type a prompt to begin",
        Some(_) if cx.state.pool.asking().iter().any(|a| a.label == Q::LABEL) => "waits for your word, at the bottom",
        Some(_) if stopped => "cancelled; F5 runs the prompt again",
        Some(_) => "computing …",
    };
    message(ui, text, false);
    false
}

/// Says of an answer that was stopped before it was whole that it is cut off, and offers to go on.
pub fn cut_off<Q: Question>(ui: &mut egui::Ui, cx: &mut Context<'_>, slot: &Slot<Q>) {
    let cut = slot.is_stopped() && slot.get().is_some_and(|a| !a.whole || !a.fresh);
    if cut {
        ui.horizontal_wrapped(|ui| {
            let text = format!("{} was stopped: this is not all of it.", Q::LABEL);
            ui.label(egui::RichText::new(text).font(theme::small()).color(cx.palette.accent));
            if ui.small_button("Go on").clicked() {
                cx.push(Action::GoOn);
            }
        });
    }
}

/// A matrix that is rebuilt when its key changes.
pub struct Cached<K> {
    entry: Option<(K, HeatData)>,
}

impl<K> Default for Cached<K> {
    fn default() -> Self {
        Self { entry: None }
    }
}

impl<K: PartialEq> Cached<K> {
    pub fn get(&mut self, key: K, build: impl FnOnce() -> HeatData) -> HeatData {
        match &self.entry {
            Some((k, data)) if *k == key => data.clone(),
            _ => {
                let data = build();
                self.entry = Some((key, data.clone()));
                data
            }
        }
    }

    pub fn last(&self) -> Option<&HeatData> {
        self.entry.as_ref().map(|(_, d)| d)
    }
}

/// A matrix of one run, or the difference of two. `rows` and `cols` say which axes are positions: those are
/// matched through the alignment, and what has no counterpart is left out.
pub fn compared<T>(result: &Compared<T>, rows: bool, cols: bool, matrix: impl Fn(&T) -> HeatData) -> HeatData {
    let now = matrix(&result.now);
    let Some(minus) = result.minus.as_ref().map(matrix) else { return now };
    let through = |is_position: bool, i: usize| match is_position {
        true => result.alignment.get(i).copied().flatten(),
        false => Some(i),
    };
    let mut values = Vec::with_capacity(now.rows * now.cols);
    for r in 0..now.rows {
        let other = through(rows, r);
        for c in 0..now.cols {
            let there = other.zip(through(cols, c)).and_then(|(r, c)| minus.get(r, c));
            values.push(now.get(r, c).zip(there).map_or(crate::gpu::NOTHING, |(a, b)| a - b));
        }
    }
    HeatData::new(now.rows, now.cols, values)
}

/// The colour scale of a quantity, symmetric around zero where it is a difference; with its two ends as text.
pub fn scale<T>(
    cx: &Context<'_>,
    result: &Compared<T>,
    data: &HeatData,
    fresh: bool,
    own: impl FnOnce() -> (Coloring, String, String),
) -> (Coloring, String, String) {
    if result.minus.is_none() {
        return own();
    }
    let m = data.max_abs();
    (diverging(&cx.palette, m, fresh), number(-m), number(m))
}

/// Hovering and clicking in a grid of layers and positions.
pub fn layer_by_pos(cx: &mut Context<'_>, outcome: &Outcome) {
    if let Some((layer, pos)) = outcome.hovered {
        (cx.hovered.layer, cx.hovered.pos) = (Some(layer), Some(pos));
    }
    if let Some((layer, pos)) = outcome.clicked {
        cx.pin(|p| (p.pos, p.layer, p.focus) = (pos, layer, Focus::Token));
    }
}

pub fn position_labels(cx: &Context<'_>, n: usize) -> Vec<String> {
    (0..n).map(|p| format!("{p} {}", cx.token(p))).collect()
}

pub fn numbers(n: usize) -> Vec<String> {
    (0..n).map(|i| i.to_string()).collect()
}

/// Groups of views that are looked at together, with bars of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workspace {
    /// A transformer and a prompt.
    Model,
    /// Toy models of superposition.
    Superposition,
    /// Transformers trained until their circuits appear.
    Training,
    /// Dictionaries of features, directions of concepts.
    Features,
}

impl Workspace {
    pub const ALL: [Self; 4] = [Self::Model, Self::Features, Self::Superposition, Self::Training];

    /// Name in documents and lessons.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Superposition => "superposition",
            Self::Training => "scratch",
            Self::Features => "features",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Model => "Model",
            Self::Superposition => "Superposition lab",
            Self::Training => "Circuits from scratch",
            Self::Features => "Features",
        }
    }

    /// The title where there is little room.
    pub fn short(self) -> &'static str {
        match self {
            Self::Superposition => "Superposition",
            Self::Training => "Scratch",
            other => other.title(),
        }
    }

    pub fn help(self) -> &'static str {
        match self {
            Self::Model => "look into a transformer that reads a prompt",
            Self::Superposition => "train toy models and watch superposition appear",
            Self::Features => "see which features fire, what they mean, and what happens without them",
            Self::Training => "train a small transformer and watch its circuit grow",
        }
    }
}

/// Where a view stands at first. Each workspace has some of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    Left,
    TopLeft,
    BottomLeft,
    Middle,
    Right,
    TopRight,
    BottomRight,
}

/// What a view is, for menus, tabs, `render` and tests. It is known by its name, by which its page of the guide is found.
pub struct ViewDef {
    /// Name on the command line.
    pub name: &'static str,
    pub title: &'static str,
    pub workspace: Workspace,
    pub area: Area,
    pub make: fn() -> Box<dyn View>,
}

impl ViewDef {
    /// Its page of the guide.
    fn page(&self) -> Option<&'static Page> {
        guide::of_view(self.name).find().map(|(page, _)| page)
    }

    /// What it shows, in a few sentences.
    pub fn help(&self) -> String {
        self.page().map_or_else(String::new, Page::summary)
    }

    /// Formula and source.
    pub fn formula(&self) -> String {
        self.page().map_or_else(String::new, Page::formula)
    }
}

/// Declares the files of a workspace's views and lists them, in the order of tabs and menus.
macro_rules! views {
    ($($file:ident),+ $(,)?) => {
        $(pub mod $file;)+

        pub const VIEWS: &[&$crate::app::view::ViewDef] = &[$(&$file::VIEW),+];
    };
}
pub(in crate::app) use views;

impl Workspace {
    /// Its views.
    pub fn views(self) -> &'static [&'static ViewDef] {
        match self {
            Self::Model => super::model::views::VIEWS,
            Self::Features => super::features::views::VIEWS,
            Self::Superposition => super::superposition::views::VIEWS,
            Self::Training => super::training::views::VIEWS,
        }
    }
}

/// What can be seen: only that is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub workspace: Workspace,
    /// The workspace's bars stand around the views; not in pictures of one view.
    pub bars: bool,
    pub views: Vec<&'static str>,
}

impl Seen {
    /// Whether a view can be seen.
    pub fn has(&self, view: &ViewDef) -> bool {
        self.views.contains(&view.name)
    }
}

/// Every view.
pub fn all() -> impl Iterator<Item = &'static ViewDef> {
    Workspace::ALL.into_iter().flat_map(|w| w.views().iter().copied())
}

/// The view with a name of the command line.
pub fn by_name(name: &str) -> Option<&'static ViewDef> {
    all().find(|v| v.name == name)
}
