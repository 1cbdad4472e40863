//! The window: state in one place, views that read it and send actions.

pub mod action;
pub mod bench;
pub mod export;
pub mod features;
pub mod look;
pub mod model;
pub mod selection;
pub mod shell;
pub mod state;
pub mod superposition;
pub mod training;
pub mod view;
pub mod widgets;

use std::sync::Arc;
use std::time::Instant;

use eframe::egui;

use self::action::Action;
use self::export::dialog::Export;
use self::export::plate::Press;
use self::features::FeatureAction;
use self::look::theme;
use self::look::theme::Palette;

use self::model::ModelAction;
use self::selection::Hovered;
use self::shell::bars::{Fits, Places, bar, feature_bars, model_bars, side_bars, strip_bar};
use self::shell::chooser::Chooser;
use self::shell::files::{Files, Message, read_dropped};
use self::shell::guide::Guide;
use self::shell::keys::OneFocusAFrame;
use self::shell::layout::Layout;
use self::shell::notices::Level;
use self::shell::palette::CommandPalette;
use self::shell::session::{Keeping, Opening};
use self::shell::strip::Strip;
use self::shell::topbar::TopBar;
use self::shell::{asking, lessons, status, welcome};
use self::state::State;
use self::view::{Context, Seen, Workspace};
use crate::cost::ASK_FROM;
use crate::error::{Error, Result, note};
use crate::gpu::adapter;
use crate::jobs::Pool;
use crate::session::desk::{CircuitSettings, GraphDirection};
use crate::session::file::is_session;
use crate::session::start::Start;
use crate::session::{Document, lesson, recent};

/// Opens the window and stays until it is closed.
pub fn run(args: Start) -> Result<()> {
    let started = Instant::now();
    let Opening { session, dropped, kept, says } = Opening::of(&args)?;
    let size = session.document.look.size.unwrap_or([1440.0, 900.0]);
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_icon(look::icon::icon().unwrap_or_default())
            .with_title("circuitscope")
            .with_app_id("circuitscope")
            .with_inner_size(size)
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
            let mut app = App::new(&cc.egui_ctx, session.document, recent::load(recent::MODELS));
            app.begin_keeping(kept, session.file, says);
            if let Some(path) = dropped {
                app.background(move || read_dropped(&path));
            }
            app.state.features.folders.keeps = true;
            app.adapter = adapter;
            app.remembers = true;
            app.state.pool.ask_from(ASK_FROM);
            app.welcomes = true;
            app.state.superposition.turns = true;
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

pub struct App {
    pub state: State,
    pub layout: Layout,
    /// Layouts of the workspaces that are not shown.
    parked: Vec<Layout>,
    top: TopBar,
    strip: Strip,
    palette: CommandPalette,
    pub lessons: lessons::Lessons,
    /// What was open before the lesson.
    before: Option<lessons::Before>,
    /// Where the parts of the window are that a lesson may speak of.
    places: Places,
    chooser: Option<Chooser>,
    shortcuts_open: bool,
    history_open: bool,
    pub guide: Guide,
    /// The first start is welcomed: by a window, not by pictures and tests.
    pub welcomes: bool,
    /// The size of text before it was made larger to present.
    before_presenting: Option<f32>,
    /// When Escape was pressed with nothing to close, seconds of the window's clock: once more stops what runs.
    stop_offered: Option<f64>,
    pub adapter: String,
    files: Files,
    /// The view that is being exported, and where pictures are drawn.
    export: Option<Export>,
    press: Option<Press>,
    /// The session's files.
    pub keeping: Keeping,
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
        ctx.add_plugin(OneFocusAFrame::default());
        let wake = ctx.clone();
        let pool = Pool::new(Arc::new(move || wake.request_repaint()));
        let state = State::new(document, recent.clone(), pool, features::FeaturesState::default());
        let named = Workspace::ALL.into_iter().find(|w| w.name() == state.document.look.workspace);
        let layout = Layout::wanted(named.unwrap_or(Workspace::Model), &state.document.look);
        Self {
            state,
            layout,
            parked: Vec::new(),
            top: TopBar::default(),
            strip: Strip::default(),
            palette: CommandPalette::default(),
            lessons: lessons::Lessons::default(),
            before: None,
            places: Default::default(),
            chooser: None,
            shortcuts_open: false,
            history_open: false,
            guide: Guide::default(),
            welcomes: false,
            before_presenting: None,
            stop_offered: None,
            adapter: String::new(),
            files: Files::default(),
            export: None,
            press: None,
            keeping: Keeping::default(),
            saved_recent: recent,
            remembers: false,
            now: 0.0,
            bare: false,
            started: None,
            frames: 0,
        }
    }

    /// Everything but drawing: answers that have arrived, files, keys.
    pub fn tick(&mut self, ctx: &egui::Context) {
        self.now = ctx.input(|i| i.time);
        self.look(ctx);
        self.magnify(ctx);
        if self.state.update(self.now) {
            ctx.request_repaint();
        }
        self.ask_views();
        self.lessons.poll(&mut self.state.notices);
        for action in self.lessons.late(&self.state) {
            self.state.apply(action, self.now);
        }
        self.find_models();
        if let Some(seconds) = self.state.due(self.now) {
            ctx.request_repaint_after(std::time::Duration::from_secs_f64(seconds + 0.01));
        }
        self.read_files(ctx);
        let dropped = ctx.input(|i| i.raw.dropped_files.first().map(|f| f.path().to_owned()));
        if let Some(path) = dropped {
            self.background(move || read_dropped(&path));
        }
        self.keys(ctx);
        if self.remembers {
            self.note_size(ctx);
        }
        self.keep(ctx);
        self.name_window(ctx);
        if self.remembers && self.state.recent != self.saved_recent {
            self.saved_recent.clone_from(&self.state.recent);
            // A model that was opened may be one that a lesson needs.
            self.lessons.found = None;
            let list = self.saved_recent.clone();
            self.background(move || {
                recent::save(recent::MODELS, &list)
                    .err()
                    .map_or(Message::Nothing, |e| Message::Say(Level::Info, e.to_string()))
            });
        }
    }

    /// Takes in what has come of files.
    fn read_files(&mut self, ctx: &egui::Context) {
        for message in self.files.poll() {
            match message {
                Message::CopyPicture(image, said) => {
                    ctx.copy_image(image);
                    self.state.notices.push(Level::Info, said);
                }
                Message::CopyText(text, said) => {
                    ctx.copy_text(text);
                    self.state.notices.push(Level::Info, said);
                }
                message => self.receive(message),
            }
        }
    }

    /// Opens a file as if it were dropped on the window, and waits for it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open_beside(&mut self, path: &std::path::Path) -> Result<()> {
        match read_dropped(path) {
            Message::Say(Level::Error, text) => Err(Error::failed(text)),
            message => {
                self.receive(message);
                Ok(())
            }
        }
    }

    /// Takes in what has come of a file.
    fn receive(&mut self, message: Message) {
        let opened = |path: &std::path::Path| format!("Opened {}.", path.display());
        match message {
            // Copied where the clipboard is at hand.
            Message::Nothing | Message::CopyPicture(..) | Message::CopyText(..) => {}
            Message::Open(path) => self.state.apply(Action::Open(path.display().to_string()), self.now),
            Message::Say(level, text) => self.state.notices.push(level, text),
            Message::Stack(path, stack) => {
                self.state.notices.push(Level::Info, opened(&path));
                self.state.apply(ModelAction::Edits("open a stack of edits", stack), self.now);
            }
            Message::Set(path) => {
                self.show(model::views::graph::VIEW.name);
                self.state.apply(ModelAction::GraphSet(Some(path.display().to_string())), self.now);
            }
            Message::Captured(path) => {
                self.show(features::views::training::VIEW.name);
                let action = FeatureAction::Capture(path.display().to_string());
                self.state.apply(Action::Feature(action), self.now);
            }
            Message::Dictionary(path) => {
                self.enter(Workspace::Features);
                let action = FeatureAction::Open(path.display().to_string());
                self.state.apply(Action::Feature(action), self.now);
            }
            Message::Lens(path, kind) => {
                let view = &model::views::lens::VIEW;
                self.show(view.name);
                let settings = model::views::lens::opened(self.state.desk(), &path, kind);
                self.state.apply(ModelAction::View(view.name, settings), self.now);
            }
            Message::HeadPages(path) => {
                let view = &model::views::heads::VIEW;
                self.show(view.name);
                let settings = model::views::heads::opened(self.state.desk(), &path);
                self.state.apply(ModelAction::View(view.name, settings), self.now);
            }
            Message::Direction(path) => {
                self.enter(Workspace::Features);
                let action = FeatureAction::OpenConcept(path.display().to_string());
                self.state.apply(Action::Feature(action), self.now);
            }
            Message::Graph(path) => {
                self.show(model::views::graph::VIEW.name);
                self.state.apply(ModelAction::OpenGraph(path.display().to_string()), self.now);
            }
            Message::Explained(path) => {
                self.show(model::views::graph::VIEW.name);
                let direction = GraphDirection::File(path.display().to_string());
                self.state.apply(ModelAction::GraphDirection(direction), self.now);
            }
            Message::Circuit(path, circuit) => {
                self.show(model::views::circuit::VIEW.name);
                self.state.notices.push(Level::Info, opened(&path));
                self.state.apply(ModelAction::Circuit("open a circuit", circuit), self.now);
            }
            Message::Compared(name, circuit) => {
                self.show(model::views::circuit::VIEW.name);
                self.state.apply(ModelAction::Compare(Some((name, circuit))), self.now);
            }
            Message::Session(session, says) => {
                says.into_iter().for_each(|text| self.state.notices.push(Level::Info, text));
                self.open_session(*session);
            }
            Message::Saved(path) => {
                self.state.notices.push(Level::Info, format!("Saved {}.", path.display()));
                if is_session(&path) && self.keeping.is_saving() {
                    self.session_saved(path);
                }
            }
            Message::Models(found) => self.lessons.found = Some(found),
            Message::Save(name, bytes) => self.save_as(&name, bytes),
            Message::Chosen(path) => {
                if let Some(chooser) = &mut self.chooser {
                    chooser.set(path.display().to_string());
                }
            }
            Message::Prompts(path) => {
                let set = Some(path.display().to_string());
                let settings = CircuitSettings { set, ..self.state.desk().circuit.clone() };
                self.state.apply(ModelAction::CircuitSettings(settings), self.now);
            }
        }
    }

    /// Asks for what views show by themselves, and takes in what has arrived for them.
    fn ask_views(&mut self) {
        self.layout.ask(&self.state, true);
        self.parked.iter_mut().for_each(|l| l.ask(&self.state, false));
        // What has arrived may lead to a view's next question.
        if self.layout.take_in() {
            self.layout.ask(&self.state, true);
        }
        for parked in &mut self.parked {
            parked.take_in();
        }
    }

    /// Notes what can be seen, and shows the theme of the document.
    fn look(&mut self, ctx: &egui::Context) {
        if self.layout.differs_from(&self.state.document.look) {
            self.layout = Layout::wanted(self.layout.workspace, &self.state.document.look);
        }
        // Where there is room for one view alone, it is the one that was looked at last.
        let alone = !self.bare && !Fits::of(ctx.content_rect().size()).views;
        self.layout.fill(self.state.document.look.filled.as_deref(), alone);
        self.lessons.see(&self.state);
        let cover = self.lessons.cover();
        if self.state.cover != cover {
            self.state.cover = cover;
            self.state.ask();
        }
        let views = self.layout.seen().collect();
        self.state.look_at(Seen { workspace: self.layout.workspace, bars: !self.bare, views });
        let theme = if self.state.document.look.light { egui::Theme::Light } else { egui::Theme::Dark };
        if ctx.theme() != theme {
            ctx.set_theme(theme);
        }
    }

    /// Notes the window's size, for the next start.
    fn note_size(&mut self, ctx: &egui::Context) {
        let (inner, screen) = ctx.input(|i| (i.viewport().inner_rect, i.viewport().monitor_size));
        if let (None, Some(screen)) = (self.state.document.look.size, screen) {
            // The first time it takes what a large screen has, and no more than a small one.
            let wanted = (screen * 0.85).max(egui::vec2(1440.0, 900.0)).min(screen);
            ctx.send_viewport_cmd(egui::ViewportCommand::InnerSize(wanted));
            self.state.document.look.size = Some((wanted * ctx.zoom_factor()).round().into());
            return;
        }
        let size = inner.map(|r| (r.size() * ctx.zoom_factor()).round());
        // While it is dragged it is not yet what it will be.
        if let Some(size) = size.filter(|_| !ctx.input(|i| i.pointer.any_down())) {
            self.state.document.look.size = Some(size.into());
        }
    }

    /// Text is larger while one presents, and as the user has it before and after.
    fn magnify(&mut self, ctx: &egui::Context) {
        match (self.state.document.look.presents, self.before_presenting) {
            (true, None) => {
                self.before_presenting = Some(ctx.zoom_factor());
                ctx.set_zoom_factor(1.45 * ctx.zoom_factor());
            }
            (false, Some(zoom)) => {
                self.before_presenting = None;
                ctx.set_zoom_factor(zoom);
            }
            _ => {}
        }
    }

    /// Draws one frame.
    pub fn draw(&mut self, ui: &mut egui::Ui) {
        let ctx = ui.ctx().clone();
        // It was made before a key of this frame has changed the theme: nothing is drawn half in the one and half in the other.
        ui.reset_style();
        let palette = Palette::of(&ctx);
        let mut actions = Vec::new();
        let mut hovered = Hovered::default();
        // Behind the panels: what none of them covers is not left see-through.
        ui.painter().rect_filled(ui.max_rect(), 0.0, palette.base);
        let lesson = self.bars_and_views(ui, palette, &mut actions, &mut hovered);
        self.outline(&ctx);
        self.palette.ui(&ctx, &self.state, &mut actions);
        self.help(&ctx);
        self.history(&ctx);
        self.guide.ui(&ctx);
        self.exporting(&ctx);
        self.choosing(&ctx);
        self.offer_to_stop(&ctx);
        // A lesson's buttons stay free.
        if self.state.notices.ui(&ctx, lesson, self.state.history.undoable()) {
            actions.push(Action::Undo);
        }
        asking::ui(&ctx, &self.state.pool, lesson);
        drop_hint(&ctx, palette);
        if hovered != self.state.hovered {
            actions.push(Action::Hover(hovered));
            ctx.request_repaint();
        }
        for action in actions {
            self.act(&ctx, action);
        }
        // While something is dragged the layout is not what it will be.
        if !ctx.input(|i| i.pointer.any_down())
            && let Some((arrangement, moved)) = self.layout.take_edit()
        {
            let name = self.layout.workspace.name().to_owned();
            let state = &mut self.state;
            if moved {
                let put = |d: &mut Document| drop(d.look.layouts.insert(name, arrangement));
                state.history.change(&mut state.document, "move the views", self.now, put);
            } else {
                state.document.look.layouts.insert(name, arrangement);
            }
        }
        self.frames += 1;
        if let Some(started) = self.started
            && (self.frames == 2 || self.state.run().is_some())
        {
            self.report_start(&ctx, started);
        }
    }

    /// The bars, as far as there is room for them, and the views. Returns the width of a lesson beside the views.
    fn bars_and_views(
        &mut self,
        ui: &mut egui::Ui,
        palette: Palette,
        actions: &mut Vec<Action>,
        hovered: &mut Hovered,
    ) -> f32 {
        let fits = Fits::of(ui.max_rect().size());
        let mut lesson = 0.0;
        let mut cx = Context { state: &self.state, palette, actions, hovered };
        let side = egui::Frame::new().fill(palette.panel).inner_margin(egui::Margin::symmetric(12, 4));
        let places = &mut self.places;
        let slim = egui::Frame::new().fill(palette.header).inner_margin(egui::Margin::symmetric(12, 2));
        let presents = self.state.document.look.presents;
        if !presents {
            let line = egui::Panel::top("top").frame(bar(palette.header)).exact_size(38.0).show_separator_line(false);
            line.show(ui, |ui| self.top.ui(ui, &mut cx, self.layout.workspace, &self.lessons));
        }
        if !presents && fits.status {
            let status = egui::Panel::bottom("status").frame(slim).exact_size(26.0).show(ui, |ui| {
                status::ui(ui, &mut cx, &self.adapter, self.layout.workspace);
            });
            places.insert("status", status.response.rect);
        }
        if self.lessons.is_running() && (presents || !fits.sides) {
            let panel = egui::Panel::bottom("lesson below").frame(side).default_size(200.0).size_range(100.0..=400.0);
            panel.show(ui, |ui| self.lessons.ui(ui, cx.actions));
        } else if self.lessons.is_running() {
            let panel = egui::Panel::right("lesson").frame(side).default_size(330.0).size_range(260.0..=520.0);
            lesson = panel.show(ui, |ui| self.lessons.ui(ui, cx.actions)).response.rect.width();
        }
        let roomy = ui.available_height() > 560.0;
        let new = self.welcomes && !self.state.document.look.welcomed;
        if new && roomy && !presents && !self.lessons.is_running() {
            welcome::ui(ui, &mut cx, &self.lessons, &mut self.top);
        }
        match self.layout.workspace {
            Workspace::Model | Workspace::Features if presents && fits.tokens => {
                strip_bar(&mut self.strip, ui, &mut cx, places);
            }
            _ if presents => {}
            Workspace::Model => model_bars((&mut self.top, &mut self.strip), ui, &mut cx, side, places, fits),
            Workspace::Superposition => {
                let (settings, transport) = (superposition::panel::settings, superposition::panel::transport);
                side_bars(ui, &mut cx, side, settings, transport, places, fits);
            }
            Workspace::Features => {
                feature_bars((&mut self.top, &mut self.strip), ui, &mut cx, side, places, fits);
            }
            Workspace::Training => {
                side_bars(ui, &mut cx, side, training::panel::settings, training::panel::transport, places, fits);
            }
        }
        let center = egui::Frame::new().fill(palette.base).inner_margin(egui::Margin::same(6));
        egui::CentralPanel::default().frame(center).show(ui, |ui| self.layout.ui(ui, &mut cx));
        lesson
    }

    /// `--time`: the first frame when the second begins, then the first results, then the end.
    fn report_start(&mut self, ctx: &egui::Context, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        if self.frames == 2 {
            note(&format!("first frame after {seconds:.3} s"));
        }
        if self.state.run().is_some() {
            note(&format!("first result after {seconds:.3} s"));
            self.started = None;
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
        }
        ctx.request_repaint();
    }

    /// Brings a view to the front, and its workspace with it.
    pub fn show(&mut self, view: &'static str) {
        let Some(def) = view::by_name(view) else { return };
        self.enter(def.workspace);
        if let Some(filled) = &mut self.state.document.look.filled {
            def.name.clone_into(filled);
        }
        self.layout.show(def.name);
    }

    /// Changes to a workspace; the layout of the one that is left is kept.
    pub fn enter(&mut self, workspace: Workspace) {
        if self.layout.workspace == workspace {
            return;
        }
        workspace.name().clone_into(&mut self.state.document.look.workspace);
        let parked = self.parked.iter().position(|l| l.workspace == workspace);
        let next =
            parked.map_or_else(|| Layout::wanted(workspace, &self.state.document.look), |k| self.parked.swap_remove(k));
        self.parked.push(std::mem::replace(&mut self.layout, next));
    }

    /// Looks for the models that lessons need, once.
    fn find_models(&mut self) {
        if self.lessons.found.is_some() {
            return;
        }
        self.lessons.found = Some(Default::default());
        let lately = self.state.recent.clone();
        self.background(move || {
            let needs = lesson::shipped().iter().filter_map(|l| l.needs.as_ref());
            Message::Models(needs.filter_map(|n| Some((n.name.clone(), lesson::find_model(n, &lately)?))).collect())
        });
    }

    /// The outline around what a lesson speaks of.
    fn outline(&self, ctx: &egui::Context) {
        let Some(name) = self.lessons.highlight() else { return };
        let view = view::by_name(name).and_then(|v| self.layout.pane(v.name)).and_then(|(_, rect)| rect);
        let Some(rect) = view.or(self.places.get(name).copied()) else { return };
        let painter = ctx.layer_painter(egui::LayerId::new(egui::Order::Middle, egui::Id::unique("lesson")));
        let stroke = egui::Stroke::new(2.0, Palette::of(ctx).accent);
        painter.rect_stroke(rect.expand(1.0), 4.0, stroke, egui::StrokeKind::Middle);
    }

    /// Works until all results are there. For pictures, tests and timings.
    pub fn settle(&mut self, ctx: &egui::Context, limit: std::time::Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            self.turn(ctx);
            if self.is_settled() {
                break;
            }
            if started.elapsed() > limit {
                return Err(Error::failed(format!("the results did not come within {} s", limit.as_secs())));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        ctx.request_repaint();
        Ok(())
    }

    /// Whether nothing is being computed. A view can ask for more when it is drawn.
    pub fn is_settled(&mut self) -> bool {
        self.state.is_settled() && self.layout.slots().all(|s| !s.is_running())
    }

    /// Works until something holds.
    fn until(&mut self, ctx: &egui::Context, mut holds: impl FnMut(&State) -> bool) {
        loop {
            self.turn(ctx);
            if holds(&self.state) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Takes in what has arrived and asks for what is wanted now, without a frame.
    fn turn(&mut self, ctx: &egui::Context) {
        self.look(ctx);
        self.read_files(ctx);
        // The debounce runs on the window's clock, which stands still here.
        self.state.update(f64::INFINITY);
        self.ask_views();
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
        "drop a model, a session, a dictionary, a graph or a circuit here to open it",
        theme::title(),
        palette.accent,
    );
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        self.tick(ctx);
    }

    fn on_exit(&mut self) {
        self.leave_lesson();
        self.state.features.finish();
        self.keep_now();
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        if self.bare { self.draw_view(ui) } else { self.draw(ui) }
    }
}
