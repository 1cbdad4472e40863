//! What the window does itself when it is asked: commands by key or name, and actions that are not the document's.

use crate::app::action::Load;
use crate::app::model::{ModelAction, views};
use eframe::egui;

use crate::analysis::component::Component;
use crate::app::App;
use crate::app::action::{Action, Command};
use crate::app::model::views::graph::audited;
use crate::app::shell::files::{graph_bytes, read_session};
use crate::app::shell::layout::Layout;
use crate::app::shell::lessons;
use crate::app::shell::notices::Level;
use crate::app::shell::presets::Preset;
use crate::app::superposition::SuperpositionAction;
use crate::app::view::Workspace;
use crate::circuit::Member;
use crate::engine::EditStack;
use crate::jobs::AnySlot;
use crate::session::Document;
use crate::session::arrangement::Arrangement;
use crate::session::desk::{Focus, Pinned};

impl App {
    pub fn act(&mut self, ctx: &egui::Context, action: Action) {
        match action {
            Action::Do(command) => self.command(ctx, command),
            Action::Show(kind) => self.show(kind),
            Action::Fill(view) => self.fill(view),
            Action::Welcomed => self.state.document.look.welcomed = true,
            Action::Guide(place) => self.guide.show(place),
            Action::GoOn => {
                let own = self.layout.slots();
                own.chain(self.state.results.slots()).filter(|s| s.is_stopped()).for_each(AnySlot::retry);
                self.state.ask();
            }
            Action::Enter(workspace) => self.enter(workspace),
            Action::Lesson(action) => self.lesson(action),
            Action::Copy(text) => {
                ctx.copy_text(text);
                self.state.notices.push(Level::Info, "Copied.");
            }
            Action::Save { name, extension, bytes } => {
                self.save_as(&format!("{name}.{extension}"), bytes);
            }
            Action::Export(view) => self.begin_export(view),
            Action::CopyCode(view) => self.copy_code(ctx, view),
            Action::Load(what) => self.load(what),
            Action::OpenSession(path) => self.background(move || read_session(&path)),
            Action::SaveGraph(marks) => {
                if let Some(shown) = self.state.results.graph.value().cloned() {
                    let cut = self.state.desk().graph.cut.clone();
                    let audit = audited(&self.state).cloned();
                    self.background(move || graph_bytes(&shown, &cut, &marks, audit.as_deref()));
                }
            }
            Action::SaveCircuit => match self.state.circuit_file() {
                Ok((name, bytes)) => self.save_as(&name, bytes),
                Err(e) => self.state.notices.push(Level::Error, e.to_string()),
            },
            other => {
                self.state.apply(other, self.now);
                ctx.request_repaint();
            }
        }
    }

    pub fn command(&mut self, ctx: &egui::Context, command: Command) {
        let mut pinned = self.state.pinned();
        let before = says(command).map(|_| self.state.desk().clone());
        let model = self.state.model.as_ref().map(|m| (m.config.n_layers, m.config.n_heads));
        let (layers, heads) = model.unwrap_or((1, 1));
        let len = self.state.run().map_or(1, |r| r.trace.len());
        match command {
            Command::Palette => self.palette.show(),
            Command::OpenFile => self.load(Load::ModelFile),
            Command::SaveSession => self.save_session(false),
            Command::SaveSessionAs => self.save_session(true),
            Command::NewSession => self.new_session(),
            Command::OpenFolder => self.load(Load::ModelFolder),
            Command::FocusPrompt => self.top.focus_prompt = true,
            Command::Back => self.back(ctx),
            Command::Cancel => {
                if self.state.works() {
                    self.layout.slots().for_each(AnySlot::stop);
                    self.parked.iter_mut().flat_map(Layout::slots).for_each(AnySlot::stop);
                    self.top.slots().into_iter().for_each(AnySlot::stop);
                    self.lessons.stop();
                    self.state.cancel();
                }
            }
            Command::RunAgain => {
                self.layout.slots().for_each(AnySlot::again);
                self.state.run_again();
            }
            Command::ToggleTheme => {
                let name = if self.state.document.look.light { "use the dark theme" } else { "use the light theme" };
                self.state.history.change(&mut self.state.document, name, self.now, |d| d.look.light ^= true);
                self.look(ctx);
            }
            Command::PreviousToken | Command::NextToken if self.layout.workspace == Workspace::Superposition => {
                self.scrub(command == Command::NextToken);
            }
            Command::PreviousToken => (pinned.pos, pinned.focus) = (pinned.pos.saturating_sub(1), Focus::Token),
            Command::NextToken => (pinned.pos, pinned.focus) = ((pinned.pos + 1).min(len - 1), Focus::Token),
            Command::LastToken => (pinned.pos, pinned.focus) = (len - 1, Focus::Token),
            Command::LayerUp => pinned.layer = (pinned.layer + 1).min(layers - 1),
            Command::LayerDown => pinned.layer = pinned.layer.saturating_sub(1),
            Command::PreviousHead | Command::NextHead => {
                let step = if command == Command::NextHead { 1 } else { heads - 1 };
                pinned.head = Some(pinned.head.map_or(0, |h| (h + step) % heads));
                (pinned.all_heads, pinned.focus) = (false, Focus::Head);
            }
            Command::Messages => self.state.notices.history_open ^= true,
            Command::SwapPrompts => {
                self.state.apply(ModelAction::SwapPrompts, self.now);
            }
            Command::NextRun => {
                let list = self.state.showable();
                let at = list.iter().position(|s| *s == self.state.desk().show).unwrap_or(0);
                self.state.apply(ModelAction::Show(list[(at + 1) % list.len()]), self.now);
            }
            Command::ToggleEdits => {
                let mut stack = (*self.state.desk().stack).clone();
                let on = stack.is_active();
                stack.edits.iter_mut().for_each(|e| e.enabled = !on);
                let name = if on { "switch all edits off" } else { "switch all edits on" };
                self.state.apply(ModelAction::Edits(name, stack), self.now);
            }
            Command::ClearEdits => {
                let stack = EditStack { edits: Vec::new(), ..(*self.state.desk().stack).clone() };
                self.state.apply(ModelAction::Edits("remove all edits", stack), self.now);
            }
            Command::Generate => {
                self.show(views::generation::VIEW.name);
                self.state.apply(ModelAction::Generate, self.now);
            }
            Command::Trace => {
                self.show(views::graph::VIEW.name);
            }
            Command::Collect => self.collect(pinned),
            Command::Undo => self.state.apply(Action::Undo, self.now),
            Command::Redo => self.state.apply(Action::Redo, self.now),
            Command::ClearDraft => {
                self.state.apply(ModelAction::Circuit("empty the circuit", Default::default()), self.now);
            }
            Command::Fill => self.layout.pointed().into_iter().for_each(|v| self.fill(v)),
            Command::Present => self.present(),
            Command::Arrange(preset) => self.arrange(preset),
            Command::History => self.history_open ^= true,
            Command::ResetLayout => self.put_up("reset the layout", None),
            Command::ModelWorkspace => self.enter(Workspace::Model),
            Command::SuperpositionWorkspace => self.enter(Workspace::Superposition),
            Command::TrainingWorkspace => self.enter(Workspace::Training),
            Command::FeaturesWorkspace => self.enter(Workspace::Features),
            Command::Play => self.play(),
            Command::Guide => self.guide.show(self.of_guide()),
            Command::Shortcuts => self.shortcuts_open ^= true,
            Command::Quit => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
        }
        if let Some((nothing, before)) = says(command).zip(before) {
            self.say_done(nothing, before != *self.state.desk());
        }
        if pinned != self.state.pinned() {
            self.state.apply(ModelAction::Pin(pinned), self.now);
        }
        ctx.request_repaint();
    }

    /// Says what a single key has changed, where that may not be seen: it may have been meant for a field.
    fn say_done(&mut self, nothing: &str, changed: bool) {
        let (mut changes, done) = self.state.history.changes();
        match changes.nth(done.wrapping_sub(1)).filter(|_| changed) {
            Some(name) => self.state.notices.done(name),
            None => self.state.notices.push(Level::Info, nothing),
        }
    }

    /// Fills the window with a view, or shows all again.
    fn fill(&mut self, view: &'static str) {
        let look = &mut self.state.document.look;
        look.filled = if look.filled.is_some() { None } else { Some(view.to_owned()) };
        look.presents &= look.filled.is_some();
    }

    /// Shows one view in large text, or all as before.
    fn present(&mut self) {
        let view = self.layout.pointed();
        let look = &mut self.state.document.look;
        look.presents ^= true;
        look.filled = if look.presents { look.filled.take().or(view.map(str::to_owned)) } else { None };
    }

    /// Arranges the model's views for a kind of work.
    fn arrange(&mut self, preset: Preset) {
        self.enter(Workspace::Model);
        self.put_up(preset.title(), preset.arrangement());
    }

    /// Puts the views of the workspace up in another way.
    fn put_up(&mut self, name: &str, arrangement: Option<Arrangement>) {
        let workspace = self.layout.workspace.name();
        let state = &mut self.state;
        (state.document.look.filled, state.document.look.presents) = (None, false);
        let change = |d: &mut Document| match arrangement {
            Some(a) => drop(d.look.layouts.insert(workspace.to_owned(), a)),
            None => drop(d.look.layouts.remove(workspace)),
        };
        state.history.change(&mut state.document, name, self.now, change);
        self.layout = Layout::wanted(self.layout.workspace, &self.state.document.look);
    }

    /// Puts what is pinned into the circuit, or takes it out.
    fn collect(&mut self, pinned: Pinned) {
        let neuron = pinned.neuron.filter(|_| pinned.focus == Focus::Neuron);
        let member = match (neuron, pinned.head) {
            (Some(neuron), _) => Some(Member::Neuron { layer: pinned.layer, neuron }),
            (None, Some(head)) => Some(Component::Head { layer: pinned.layer, head }.into()),
            (None, None) => None,
        };
        if let Some(member) = member {
            self.state.apply(ModelAction::Collect(member), self.now);
        }
    }

    /// Goes on in a lesson. Each begins on a desk of its own, and what was open before the first comes back in between.
    fn lesson(&mut self, action: lessons::LessonAction) {
        if let lessons::LessonAction::Fetch(lesson) = action {
            return self.lessons.fetch(lesson, &self.state.pool);
        }
        let begins = self.lessons.begins(&action);
        if begins || matches!(action, lessons::LessonAction::Close) {
            self.leave_lesson();
        }
        if begins {
            let first = Layout::of(self.layout.workspace);
            self.before = Some(lessons::Before {
                state: self.state.put_aside(),
                layout: std::mem::replace(&mut self.layout, first),
                parked: std::mem::take(&mut self.parked),
            });
        }
        let orders = self.lessons.apply(action, &self.state);
        if let Some(w) = orders.workspace {
            self.enter(w);
        }
        if let Some(kind) = orders.view {
            self.show(kind);
        }
        for action in orders.actions {
            self.state.apply(action, self.now);
        }
    }

    /// Everything is as it was before the lesson; what it started stops.
    pub fn leave_lesson(&mut self) {
        let Some(before) = self.before.take() else { return };
        (self.layout, self.parked) = (before.layout, before.parked);
        self.state.put_back(before.state);
        self.lessons.apply(lessons::LessonAction::Close, &self.state);
    }

    /// Starts, pauses or goes on with the training of toy models.
    fn play(&mut self) {
        if self.layout.workspace != Workspace::Superposition {
            return;
        }
        let state = &self.state.superposition;
        let action = if state.is_running() {
            SuperpositionAction::Pause(true)
        } else if state.is_paused() {
            SuperpositionAction::Pause(false)
        } else {
            SuperpositionAction::Start
        };
        self.state.apply(Action::Superposition(action), self.now);
    }

    /// Shows the next kept snapshot of the toy models, or the one before.
    fn scrub(&mut self, on: bool) {
        let state = &self.state.superposition;
        let last = state.snapshots().len().saturating_sub(1);
        let at = state.shown_at().unwrap_or(last);
        let next = if on { at + 1 } else { at.saturating_sub(1) };
        let next = (next < last).then_some(next);
        self.state.apply(Action::Superposition(SuperpositionAction::Scrub(next)), self.now);
    }
}

/// What is said where a single key has changed nothing; of other keys what they do can be seen.
fn says(command: Command) -> Option<&'static str> {
    Some(match command {
        Command::Collect => "Nothing was collected: pin a head or a neuron first.",
        Command::ToggleEdits => "There are no edits to switch.",
        Command::ClearEdits => "There are no edits to remove.",
        Command::ClearDraft => "The circuit is empty already.",
        _ => return None,
    })
}
