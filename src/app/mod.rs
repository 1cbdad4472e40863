//! The window: state in one place, views that read it and send actions.

mod bars;
pub mod bench;
pub mod causal;
pub mod circuits;
pub mod command;
mod feature_actions;
mod feature_heat;
pub mod feature_labels;
pub mod feature_monitor;
mod feature_page;
mod feature_work;
pub mod features;
pub mod features_panel;
pub mod fonts;
pub mod inspector;
mod kept_scans;
pub mod lab;
pub mod lab_panel;
pub mod layout;
pub mod lessons;
pub mod notify;
pub mod palette;
pub mod pending;
pub mod picture;
pub mod results;
mod save;
pub mod scratch;
pub mod scratch_panel;
pub mod selection;
pub mod state;
pub mod statusbar;
pub mod strip;
pub mod svg;
pub mod theme;
pub mod topbar;
pub mod views;
pub mod widgets;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use eframe::egui;

use self::bars::{Places, bar, feature_bars, model_bars, side_bars};
use self::command::{Action, Command};
use self::lab::LabAction;
use self::layout::Layout;
use self::notify::Level;
use self::palette::CommandPalette;
use self::save::{Choice, Save};
use self::selection::{Focus, Hovered};
use self::state::State;
use self::strip::Strip;
use self::theme::Palette;
use self::topbar::TopBar;
use self::views::{Context, ViewKind, Workspace};
use crate::circuit::{Component, Member};
use crate::cli::WindowArgs;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::gpu::adapter;
use crate::graph::layout::{Cut, Shown};
use crate::graph::marks::Marks;
use crate::jobs::Worker;
use crate::model::builtin::{self, BUILTINS};
use crate::session::{Document, lesson, recent};

/// A prompt that most English models have an opinion on: indirect object identification.
pub const PROMPT: &str = "When Mary and John went to the store, John gave a drink to";

/// What the window opens on.
pub fn document(args: &WindowArgs) -> Result<Document> {
    let model = args.model.clone().map_or_else(builtin::default_name, Ok)?;
    let own = BUILTINS.iter().find(|b| b.name == model).map(|b| b.prompt);
    let ioi = args.prompt.is_none() && args.ids.is_none() && own.is_none();
    let stack = args.edits.as_deref().map(crate::cli::generate::read_stack).transpose()?.unwrap_or_default();
    Ok(Document {
        corrupted: args.corrupt.clone().unwrap_or_default(),
        alignment: None,
        stack,
        cart: Default::default(),
        // The ids are named where the prompt would stand.
        prompt: match &args.ids {
            Some(ids) => format!("{} token ids", ids.len()),
            None => args.prompt.clone().unwrap_or_else(|| own.unwrap_or(PROMPT).to_owned()),
        },
        ids: args.ids.clone(),
        answer: args.answer.clone().unwrap_or_else(|| if ioi { " Mary" } else { "" }.to_owned()),
        wrong: args.wrong.clone().unwrap_or_else(|| if ioi { " John" } else { "" }.to_owned()),
        model,
    })
}

/// Opens the window and stays until it is closed.
pub fn run(args: WindowArgs) -> Result<()> {
    let started = Instant::now();
    let document = document(&args)?;
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("circuitscope")
            .with_app_id("circuitscope")
            .with_inner_size([1440.0, 900.0])
            .with_min_inner_size([720.0, 480.0]),
        wgpu_options: egui_wgpu::WgpuConfiguration { wgpu_setup: adapter::setup().into(), ..Default::default() },
        ..Default::default()
    };
    let outcome = eframe::run_native(
        "circuitscope",
        options,
        Box::new(move |cc| {
            let adapter = cc.wgpu_render_state.as_ref().map_or_else(String::new, |state| {
                crate::gpu::install(state);
                state.adapter.get_info().name
            });
            let mut app = App::new(&cc.egui_ctx, document, recent::load());
            app.state.features.keeps = true;
            app.adapter = adapter;
            app.remembers = true;
            app.state.lab.turns = true;
            app.started = args.time.then_some(started);
            Ok(Box::new(app))
        }),
    );
    outcome.map_err(|e| match e {
        eframe::Error::Wgpu(e) => adapter::missing(&e.to_string()),
        eframe::Error::WinitEventLoop(_) => Error::failed(
            "no display to open a window on; set DISPLAY or WAYLAND_DISPLAY, or use a subcommand, which needs none",
        ),
        e => Error::failed(format!("the window could not be opened: {e}")),
    })
}

/// What threads beside the model's have done.
enum Message {
    Open(PathBuf),
    Say(Level, String),
    /// Bytes that want a place, under a proposed name.
    Save(String, Vec<u8>),
    /// The place chosen in the system's dialog.
    SaveTo(PathBuf),
    Stack(PathBuf, crate::engine::EditStack),
    Graph(PathBuf),
    Cart(PathBuf, crate::circuit::cart::Cart),
    /// Models that lessons need and that are there.
    Models(std::collections::HashMap<String, PathBuf>),
    /// A circuit's name, and the circuit that the cart is compared with.
    Compared(String, crate::circuit::cart::Cart),
}

pub struct App {
    pub state: State,
    pub layout: Layout,
    /// Layouts of the workspaces that are not shown.
    parked: Vec<Layout>,
    top: TopBar,
    strip: Strip,
    palette: CommandPalette,
    pub lessons: lessons::Lessons,
    /// Where the parts of the window are that a lesson may speak of.
    places: Places,
    save: Option<Save>,
    shortcuts_open: bool,
    pub adapter: String,
    messages: (Sender<Message>, Receiver<Message>),
    saved_recent: Vec<String>,
    /// Whether models opened are remembered for the next start: by a window, not by pictures and tests.
    remembers: bool,
    /// The window's clock, for actions applied outside a frame.
    now: f64,
    /// Draw the docked views alone, without the window's bars.
    pub bare: bool,
    /// Set while the time to the first picture is being measured.
    started: Option<Instant>,
    frames: u64,
}

impl App {
    pub fn new(ctx: &egui::Context, document: Document, recent: Vec<String>) -> Self {
        theme::install(ctx);
        let wake = ctx.clone();
        let worker = Worker::spawn(move || wake.request_repaint());
        let mut state = State::new(
            document,
            recent.clone(),
            worker,
            lab::LabState::new(ctx),
            scratch::ScratchState::new(ctx),
            features::FeaturesState::new(ctx),
        );
        state.selection.pinned.head = Some(0);
        Self {
            state,
            layout: Layout::default(),
            parked: Vec::new(),
            top: TopBar::default(),
            strip: Strip::default(),
            palette: CommandPalette::default(),
            lessons: lessons::Lessons::default(),
            places: Default::default(),
            save: None,
            shortcuts_open: false,
            adapter: String::new(),
            messages: channel(),
            saved_recent: recent,
            remembers: false,
            now: 0.0,
            bare: false,
            started: None,
            frames: 0,
        }
    }

    /// Everything but drawing: answers of the model thread, files dropped, keys.
    pub fn tick(&mut self, ctx: &egui::Context) {
        self.now = ctx.input(|i| i.time);
        if self.state.update(self.now) {
            ctx.request_repaint();
        }
        for action in self.lessons.late(&self.state) {
            self.state.apply(action, self.now);
        }
        self.find_models(ctx);
        if let Some(seconds) = self.state.due(self.now) {
            ctx.request_repaint_after(std::time::Duration::from_secs_f64(seconds + 0.01));
        }
        while let Ok(message) = self.messages.1.try_recv() {
            match message {
                Message::Open(path) => self.state.apply(Action::Open(path.display().to_string()), self.now),
                Message::Say(level, text) => self.state.notices.push(level, text),
                Message::Stack(path, stack) => {
                    self.state.notices.push(Level::Info, format!("Opened {}.", path.display()));
                    self.state.apply(Action::SetStack(stack), self.now);
                }
                Message::Graph(path) => {
                    self.show(ViewKind::Graph);
                    self.state.apply(Action::OpenGraph(path.display().to_string()), self.now);
                }
                Message::Cart(path, cart) => {
                    self.show(ViewKind::Circuit);
                    self.state.notices.push(Level::Info, format!("Opened {}.", path.display()));
                    self.state.apply(Action::SetCart(cart), self.now);
                }
                Message::Compared(name, cart) => {
                    self.show(ViewKind::Circuit);
                    self.state.apply(Action::CompareCart(Some((name, cart))), self.now);
                }
                Message::Models(found) => self.lessons.found = Some(found),
                Message::Save(name, bytes) => self.save = Some(Save::new(&name, bytes)),
                Message::SaveTo(path) => {
                    if let Some(save) = &mut self.save {
                        save.path = path.display().to_string();
                    }
                }
            }
        }
        let dropped = ctx.input(|i| i.raw.dropped_files.clone());
        if let Some(path) = dropped
            .first()
            .map(|f| f.path().to_owned())
            .filter(|p| p.extension().is_some_and(|e| e == "json") && p.file_name().is_none_or(|n| n != "config.json"))
        {
            self.background(ctx, move || Some(read_json(&path)));
        } else if let Some(file) = dropped.first() {
            self.state.apply(Action::Open(file.path().display().to_string()), self.now);
        }
        self.keys(ctx);
        if self.remembers && self.state.recent != self.saved_recent {
            self.saved_recent.clone_from(&self.state.recent);
            // A model that was opened may be one that a lesson needs.
            self.lessons.found = None;
            let list = self.saved_recent.clone();
            self.background(ctx, move || recent::save(&list).err().map(|e| Message::Say(Level::Info, e.to_string())));
        }
    }

    fn keys(&mut self, ctx: &egui::Context) {
        if self.palette.open || self.save.is_some() {
            return;
        }
        let typing = ctx.text_edit_focused();
        // While the graph has the keyboard, arrows walk in it.
        let walking = ctx.memory(|m| m.has_focus(views::graph_canvas_id()));
        let mut pressed = Vec::new();
        // The more specific first: Ctrl+Shift+O is also a Ctrl+O.
        let mut commands = Command::ALL;
        commands.sort_by_key(|c| c.shortcut().is_none_or(|s| !s.modifiers.shift));
        for command in commands {
            let Some(shortcut) = command.shortcut() else { continue };
            // Escape closes a menu before it cancels anything.
            let menu = command == Command::Cancel && egui::Popup::is_any_open(ctx);
            // Space presses whatever has the keyboard.
            let elsewhere = command == Command::LabPlay
                && (self.layout.workspace != Workspace::Superposition || ctx.memory(|m| m.focused().is_some()));
            if menu || elsewhere || typing && command.yields_to_typing() || walking && command.yields_to_graph() {
                continue;
            }
            if ctx.input_mut(|i| i.consume_shortcut(&shortcut)) {
                pressed.push(command);
            }
        }
        for command in pressed {
            self.command(ctx, command);
        }
    }

    /// Draws one frame.
    pub fn draw(&mut self, ui: &mut egui::Ui) {
        let ctx = ui.ctx().clone();
        let palette = Palette::of(&ctx);
        let mut actions = Vec::new();
        let mut hovered = Hovered::default();
        // Behind the panels: what none of them covers is not left see-through.
        ui.painter().rect_filled(ui.max_rect(), 0.0, palette.base);
        {
            let mut cx = Context { state: &self.state, palette, actions: &mut actions, hovered: &mut hovered };
            egui::Panel::top("top")
                .frame(bar(palette.header))
                .exact_size(44.0)
                .show(ui, |ui| self.top.ui(ui, &mut cx, self.layout.workspace, &self.lessons));
            let side = egui::Frame::new().fill(palette.panel).inner_margin(egui::Margin::symmetric(12, 4));
            let places = &mut self.places;
            let slim = egui::Frame::new().fill(palette.header).inner_margin(egui::Margin::symmetric(12, 2));
            let status = egui::Panel::bottom("status").frame(slim).exact_size(26.0).show(ui, |ui| {
                statusbar::ui(ui, &mut cx, &self.adapter, self.layout.workspace);
            });
            places.insert("status", status.response.rect);
            if self.lessons.is_running() {
                let panel = egui::Panel::right("lesson").frame(side).default_size(330.0).size_range(260.0..=520.0);
                panel.show(ui, |ui| self.lessons.ui(ui, cx.actions));
            }
            match self.layout.workspace {
                Workspace::Model => model_bars(&mut self.top, &mut self.strip, ui, &mut cx, side, places),
                Workspace::Superposition => {
                    side_bars(ui, &mut cx, side, lab_panel::settings, lab_panel::transport, places);
                }
                Workspace::Features => {
                    feature_bars(&mut self.top, &mut self.strip, ui, &mut cx, side, places);
                }
                Workspace::Scratch => {
                    side_bars(ui, &mut cx, side, scratch_panel::settings, scratch_panel::transport, places);
                }
            }
            let center = egui::Frame::new().fill(palette.base).inner_margin(egui::Margin::same(6));
            egui::CentralPanel::default().frame(center).show(ui, |ui| self.layout.ui(ui, &mut cx));
        }
        self.outline(&ctx);
        self.palette.ui(&ctx, &mut actions);
        self.shortcuts(&ctx);
        self.saving(&ctx);
        self.state.notices.ui(&ctx);
        drop_hint(&ctx, palette);
        if hovered != self.state.selection.hovered {
            actions.push(Action::Hover(hovered));
            ctx.request_repaint();
        }
        for action in actions {
            self.act(&ctx, action);
        }
        self.frames += 1;
        if let Some(started) = self.started
            && (self.frames == 2 || self.state.run().is_some())
        {
            self.report_start(&ctx, started);
        }
    }

    /// `--time`: the first frame when the second begins, then the first results, then the end.
    fn report_start(&mut self, ctx: &egui::Context, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        if self.frames == 2 {
            eprintln!("first frame after {seconds:.3} s");
        }
        if self.state.run().is_some() {
            eprintln!("first result after {seconds:.3} s");
            self.started = None;
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
        }
        ctx.request_repaint();
    }

    fn act(&mut self, ctx: &egui::Context, action: Action) {
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

    fn command(&mut self, ctx: &egui::Context, command: Command) {
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
                if self.state.worker.is_busy() || self.state.features.running().is_some() {
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
                self.show(ViewKind::Generation);
                self.state.apply(Action::Generate, self.now);
            }
            Command::Trace => {
                self.show(ViewKind::Graph);
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
            Command::LabWorkspace => self.enter(Workspace::Superposition),
            Command::ScratchWorkspace => self.enter(Workspace::Scratch),
            Command::FeaturesWorkspace => self.enter(Workspace::Features),
            Command::LabPlay => self.play(),
            Command::Shortcuts => self.shortcuts_open ^= true,
            Command::Quit => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
        }
        if pinned != self.state.selection.pinned {
            self.state.apply(Action::Pin(pinned), self.now);
        }
        ctx.request_repaint();
    }

    /// Brings a view to the front, and its workspace with it.
    pub fn show(&mut self, kind: ViewKind) {
        self.enter(kind.def().workspace);
        self.layout.show(kind);
    }

    /// Changes to a workspace; the layout of the one that is left is kept.
    pub fn enter(&mut self, workspace: Workspace) {
        if self.layout.workspace == workspace {
            return;
        }
        let parked = self.parked.iter().position(|l| l.workspace == workspace);
        let next = parked.map_or_else(|| Layout::of(workspace), |k| self.parked.swap_remove(k));
        self.parked.push(std::mem::replace(&mut self.layout, next));
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

    /// Looks for the models that lessons need, once.
    fn find_models(&mut self, ctx: &egui::Context) {
        if self.lessons.found.is_some() {
            return;
        }
        self.lessons.found = Some(Default::default());
        self.background(ctx, || {
            let needs = lesson::shipped().iter().filter_map(|l| l.needs.clone());
            Some(Message::Models(needs.filter_map(|n| Some((n.clone(), lesson::find_model(&n)?))).collect()))
        });
    }

    /// The outline around what a lesson speaks of.
    fn outline(&self, ctx: &egui::Context) {
        let Some(name) = self.lessons.highlight() else { return };
        let view = views::by_name(name).and_then(|v| self.layout.pane(v.kind)).and_then(|(_, rect)| rect);
        let Some(rect) = view.or(self.places.get(name).copied()) else { return };
        let painter = ctx.layer_painter(egui::LayerId::new(egui::Order::Middle, egui::Id::unique("lesson")));
        let stroke = egui::Stroke::new(2.0, Palette::of(ctx).accent);
        painter.rect_stroke(rect.expand(1.0), 4.0, stroke, egui::StrokeKind::Middle);
    }

    /// Starts, pauses or goes on with the lab's training.
    fn play(&mut self) {
        if self.layout.workspace != Workspace::Superposition {
            return;
        }
        let lab = &self.state.lab;
        let action = if lab.is_running() {
            LabAction::Pause(true)
        } else if lab.is_paused() {
            LabAction::Pause(false)
        } else {
            LabAction::Start
        };
        self.state.apply(Action::Lab(action), self.now);
    }

    /// One kept moment of the lab's training on or back.
    fn scrub(&mut self, on: bool) {
        let lab = &self.state.lab;
        let last = lab.moments.len().saturating_sub(1);
        let at = lab.shown.unwrap_or(last);
        let next = if on { at + 1 } else { at.saturating_sub(1) };
        let next = (next < last).then_some(next);
        self.state.apply(Action::Lab(LabAction::Scrub(next)), self.now);
    }

    /// Runs something slow on a thread of its own; what it says comes back as a message.
    fn background(&self, ctx: &egui::Context, work: impl FnOnce() -> Option<Message> + Send + 'static) {
        let (sender, ctx) = (self.messages.0.clone(), ctx.clone());
        std::thread::spawn(move || {
            if let Some(message) = work() {
                // The window may have been closed meanwhile; then there is nobody to tell.
                drop(sender.send(message));
                ctx.request_repaint();
            }
        });
    }

    fn pick(&self, ctx: &egui::Context, folder: bool) {
        let dialog = rfd::AsyncFileDialog::new().set_title("Open a model");
        self.background(ctx, move || {
            let handle = if folder {
                pollster::block_on(dialog.pick_folder())
            } else {
                pollster::block_on(dialog.add_filter("models", &["gguf", "safetensors", "json"]).pick_file())
            };
            // The dialog gives nothing both when it is cancelled and when the system has none.
            Some(handle.map_or_else(
                || {
                    Message::Say(
                        Level::Info,
                        "No file was chosen; a path can also be typed in the model menu, or dropped on the window."
                            .to_owned(),
                    )
                },
                |h| Message::Open(h.path().to_owned()),
            ))
        });
    }

    fn open_stack(&self, ctx: &egui::Context, path: PathBuf) {
        self.background(ctx, move || Some(read_stack(&path)));
    }

    /// The question where to save, and what follows from the answer.
    fn saving(&mut self, ctx: &egui::Context) {
        let Some(choice) = self.save.as_mut().and_then(|s| s.ui(ctx)) else { return };
        match choice {
            Choice::Cancel => self.save = None,
            Choice::Write(path) => {
                if let Some(save) = self.save.take() {
                    self.background(ctx, move || Some(written(&path, &save.bytes)));
                }
            }
            Choice::Browse => {
                let dialog = rfd::AsyncFileDialog::new().set_title("Save as");
                self.background(ctx, move || {
                    pollster::block_on(dialog.save_file()).map(|h| Message::SaveTo(h.path().to_owned()))
                });
            }
        }
    }

    fn save_picture(&self, ctx: &egui::Context, view: ViewKind) {
        let rect = self.layout.pane(view).and_then(|(_, rect)| rect);
        let (sender, wake) = (self.messages.0.clone(), ctx.clone());
        let ppp = ctx.pixels_per_point();
        ctx.request_screenshot(move |image| {
            std::thread::spawn(move || {
                let message = match picture::encode(&image, rect, ppp) {
                    Ok(bytes) => Message::Save(format!("{}.png", view.def().name), bytes),
                    Err(e) => Message::Say(Level::Error, e.to_string()),
                };
                // The window may have been closed meanwhile; then there is nobody to ask.
                drop(sender.send(message));
                wake.request_repaint();
            });
        });
    }

    fn shortcuts(&mut self, ctx: &egui::Context) {
        egui::Window::new("Keyboard shortcuts").open(&mut self.shortcuts_open).resizable(false).show(ctx, |ui| {
            egui::Grid::new("shortcuts").num_columns(2).spacing([24.0, 4.0]).show(ui, |ui| {
                for command in Command::ALL {
                    if let Some(s) = command.shortcut() {
                        ui.label(command.title());
                        ui.monospace(ui.ctx().format_shortcut(&s));
                        ui.end_row();
                    }
                }
            });
            ui.separator();
            ui.weak("In heatmaps: Ctrl and wheel zoom, drag or wheel moves, double click shows everything.");
        });
    }

    /// Works until all results are there. For pictures, tests and timings.
    pub fn settle(&mut self, ctx: &egui::Context, limit: std::time::Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            // The debounce runs on the window's clock, which stands still here.
            self.state.update(f64::INFINITY);
            if self.state.is_settled() {
                self.state.update(f64::INFINITY);
                if self.state.is_settled() {
                    ctx.request_repaint();
                    return Ok(());
                }
            }
            if started.elapsed() > limit {
                return Err(Error::failed(format!("the results did not come within {} s", limit.as_secs())));
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

fn read_stack(path: &std::path::Path) -> Message {
    match crate::cli::generate::read_stack(path) {
        Ok(stack) => Message::Stack(path.to_owned(), stack),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

/// A dropped or chosen JSON file: a graph, a circuit, or a stack of edits.
fn read_json(path: &std::path::Path) -> Message {
    use crate::circuit::file::{CircuitFile, FORMAT};
    let value = std::fs::read(path).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    match value {
        Some(v) if v.get("nodes").is_some() && v.get("links").is_some() => Message::Graph(path.to_owned()),
        Some(v) if v.get("format").and_then(|f| f.as_str()) == Some(FORMAT) => match CircuitFile::open(path) {
            Ok(file) => Message::Cart(path.to_owned(), file.cart()),
            Err(e) => Message::Say(Level::Error, e.to_string()),
        },
        _ => read_stack(path),
    }
}

/// A circuit to compare with.
fn read_compared(path: &std::path::Path) -> Message {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    match crate::circuit::file::CircuitFile::open(path) {
        Ok(file) => Message::Compared(name, file.cart()),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

fn graph_bytes(shown: &Shown, cut: &Cut, marks: &Marks) -> Message {
    let text = shown.file(cut).and_then(|mut f| {
        marks.write(&mut f);
        serde_json::to_vec(&f.to_json()).map_err(|e| Error::failed(e.to_string()))
    });
    match text {
        Ok(bytes) => Message::Save("graph.json".to_owned(), bytes),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

fn written(path: &std::path::Path, bytes: &[u8]) -> Message {
    match write_atomic(path, bytes) {
        Ok(()) => Message::Say(Level::Info, format!("Saved {}.", path.display())),
        Err(e) => Message::Say(Level::Error, e.to_string()),
    }
}

fn drop_hint(ctx: &egui::Context, palette: Palette) {
    if ctx.input(|i| i.raw.hovered_files.is_empty()) {
        return;
    }
    let painter = ctx.layer_painter(egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("drop")));
    let rect = ctx.content_rect();
    painter.rect_filled(rect, 0.0, palette.base.gamma_multiply(0.85));
    painter.text(
        rect.center(),
        egui::Align2::CENTER_CENTER,
        "drop a model here to open it",
        theme::title(),
        palette.accent,
    );
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        self.tick(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        if self.bare { self.draw_view(ui) } else { self.draw(ui) }
    }
}
