//! What the window does itself when it is asked: commands by key or name, and actions that are not the document's.

use std::path::PathBuf;

use eframe::egui;

use crate::analysis::component::Component;
use crate::app::App;
use crate::app::action::Action;
use crate::app::action::Command;
use crate::app::model::views;
use crate::app::selection::Focus;
use crate::app::shell::files::graph_bytes;
use crate::app::shell::files::read_compared;
use crate::app::shell::files::read_json;
use crate::app::shell::files::read_stack;
use crate::app::shell::layout::Layout;
use crate::app::shell::lessons;
use crate::app::shell::notices::Level;
use crate::app::shell::save::Save;
use crate::app::superposition::SuperpositionAction;
use crate::app::view::Workspace;
use crate::circuit::Member;

impl App {
    pub fn act(&mut self, ctx: &egui::Context, action: Action) {
        match action {
            Action::Do(command) => self.command(ctx, command),
            Action::Show(kind) => self.show(kind),
            Action::Enter(workspace) => self.enter(workspace),
            Action::Lesson(action) => self.lesson(action),
            Action::Copy(text) => {
                ctx.copy_text(text);
                self.state.notices.push(Level::Info, "Copied.");
            }
            Action::Save { name, extension, bytes } => {
                self.save = Some(Save::new(&format!("{name}.{extension}"), bytes));
            }
            Action::SavePicture { view } => self.save_picture(ctx, view),
            Action::OpenStack(path) => self.open_stack(ctx, PathBuf::from(path)),
            Action::LoadStack => {
                let dialog = rfd::AsyncFileDialog::new().set_title("Open a stack of edits");
                self.background(ctx, move || {
                    pollster::block_on(dialog.add_filter("edits", &["json"]).pick_file()).map(|h| read_stack(h.path()))
                });
            }
            Action::LoadGraph | Action::LoadCart => {
                let dialog = rfd::AsyncFileDialog::new().set_title("Open a graph or a circuit");
                self.background(ctx, move || {
                    pollster::block_on(dialog.add_filter("graphs and circuits", &["json"]).pick_file())
                        .map(|h| read_json(h.path()))
                });
            }
            Action::LoadCompared => {
                let dialog = rfd::AsyncFileDialog::new().set_title("A circuit to compare with");
                self.background(ctx, move || {
                    pollster::block_on(dialog.add_filter("circuits", &["json"]).pick_file())
                        .map(|h| read_compared(h.path()))
                });
            }
            Action::SaveGraph(marks) => {
                if let Some(shown) = self.state.results.graph.get().map(|r| r.value.clone()) {
                    let cut = self.state.circuits.cut.clone();
                    self.background(ctx, move || Some(graph_bytes(&shown, &cut, &marks)));
                }
            }
            Action::SaveCart => match self.state.circuit_file() {
                Ok((name, bytes)) => self.save = Some(Save::new(&name, bytes)),
                Err(e) => self.state.notices.push(Level::Error, e.to_string()),
            },
            other => {
                self.state.apply(other, self.now);
                ctx.request_repaint();
            }
        }
    }

    pub fn command(&mut self, ctx: &egui::Context, command: Command) {
        let mut pinned = self.state.selection.pinned;
        let model = self.state.model.as_ref().map(|m| (m.config.n_layers, m.config.n_heads));
        let (layers, heads) = model.unwrap_or((1, 1));
        let len = self.state.run().map_or(1, |r| r.trace.len());
        match command {
            Command::Palette => self.palette.show(),
            Command::OpenFile => self.pick(ctx, false),
            Command::OpenFolder => self.pick(ctx, true),
            Command::FocusPrompt => self.top.focus_prompt = true,
            Command::Cancel => {
                let busy = self.state.worker.is_busy() || self.state.pool.is_busy();
                let paused = self.state.superposition.is_paused();
                if busy || paused || self.state.features.running().is_some() {
                    self.state.cancel();
                }
            }
            Command::RunAgain => self.state.request_run(),
            Command::ToggleTheme => {
                let next = if ctx.theme() == egui::Theme::Dark { egui::Theme::Light } else { egui::Theme::Dark };
                ctx.set_theme(next);
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
                let d = &mut self.state.document;
                std::mem::swap(&mut d.prompt, &mut d.corrupted);
                std::mem::swap(&mut d.answer, &mut d.wrong);
                (d.alignment, d.ids) = (None, None);
                self.state.request_run();
            }
            Command::NextRun => {
                let list = self.state.showable();
                let at = list.iter().position(|s| *s == self.state.show).unwrap_or(0);
                self.state.apply(Action::ShowRun(list[(at + 1) % list.len()]), self.now);
            }
            Command::ToggleEdits => {
                let mut stack = self.state.document.stack.clone();
                let on = stack.is_active();
                stack.edits.iter_mut().for_each(|e| e.enabled = !on);
                self.state.apply(Action::SetStack(stack), self.now);
            }
            Command::ClearEdits => {
                let stack = crate::engine::EditStack { edits: Vec::new(), ..self.state.document.stack.clone() };
                self.state.apply(Action::SetStack(stack), self.now);
            }
            Command::Generate => {
                self.show(views::generation::VIEW.name);
                self.state.apply(Action::Generate, self.now);
            }
            Command::Trace => {
                self.show(views::graph::VIEW.name);
                if !self.state.circuits.wants_graph {
                    self.state.apply(Action::TraceGraph, self.now);
                }
            }
            Command::Collect => {
                let neuron = pinned.neuron.filter(|_| pinned.focus == Focus::Neuron);
                let member = match (neuron, pinned.head) {
                    (Some(neuron), _) => Some(Member::Neuron { layer: pinned.layer, neuron }),
                    (None, Some(head)) => Some(Component::Head { layer: pinned.layer, head }.into()),
                    (None, None) => None,
                };
                if let Some(member) = member {
                    self.state.apply(Action::ToggleCart(member), self.now);
                }
            }
            Command::UndoCart => self.state.apply(Action::UndoCart, self.now),
            Command::ClearCart => self.state.apply(Action::SetCart(Default::default()), self.now),
            Command::ResetLayout => self.layout = Layout::of(self.layout.workspace),
            Command::ModelWorkspace => self.enter(Workspace::Model),
            Command::SuperpositionWorkspace => self.enter(Workspace::Superposition),
            Command::TrainingWorkspace => self.enter(Workspace::Training),
            Command::FeaturesWorkspace => self.enter(Workspace::Features),
            Command::Play => self.play(),
            Command::Shortcuts => self.shortcuts_open ^= true,
            Command::Quit => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
        }
        if pinned != self.state.selection.pinned {
            self.state.apply(Action::Pin(pinned), self.now);
        }
        ctx.request_repaint();
    }

    /// Goes on in a lesson.
    fn lesson(&mut self, action: lessons::LessonAction) {
        let orders = self.lessons.apply(action, &self.state, self.layout.workspace);
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
