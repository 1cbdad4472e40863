//! Lessons in the window: the panel beside the views, the prepared states, the outline around what is spoken of.

use crate::app::model::ModelAction;
use std::collections::HashMap;
use std::path::PathBuf;

use eframe::egui::{self, RichText, vec2};

use crate::app::action::{Action, Load};
use crate::app::features::{Chosen, FeatureAction, FeaturesState, Scanned};
use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::shell::layout::Layout;
use crate::app::shell::notices::{Level, Notices};
use crate::app::state::{Aside, State};
use crate::app::superposition::SuperpositionAction;
use crate::app::training::TrainingAction;
use crate::app::view;
use crate::app::view::Workspace;
use crate::engine::edit::{Action as Do, Edit};
use crate::engine::{EditStack, Site, SiteKind};
use crate::features::dictionary::store::{self, BUILTINS, SETS};
use crate::features::text;
use crate::jobs::Pool;
use crate::jobs::slot::Slot;
use crate::model::builtin;
use crate::session::desk::{Focus, Show};
use crate::session::fetch::FetchOf;
use crate::session::lesson::{
    ALL, CONTROLS, Fit, Lesson, Needs, Package, Prepared, Question, Step, head, models_folder, shipped,
};
use crate::superposition::presets;

/// What is said where a lesson is taken with other weights.
const ABOUT: &str = "numbers may differ a little from those in the text";
/// Tokens that a lesson's scan reads.
const TOKENS: usize = 50_000;

/// What a lesson can be asked for.
#[derive(Clone, Debug)]
pub enum LessonAction {
    /// Begins the lesson of this number in the list.
    Begin(usize),
    Go(usize),
    /// A prediction: the step's choice.
    Predict(usize),
    Close,
    /// Fetches the model that the lesson of this number needs, from where it is published.
    Fetch(usize),
}

/// A lesson under way.
struct Running {
    lesson: usize,
    step: usize,
    /// What the model that the lesson needs is opened by: the same one to its end.
    source: Option<String>,
    /// For each step the prediction that was made.
    predicted: HashMap<usize, usize>,
    /// What of the step's state waits for results.
    waiting: Option<Prepared>,
    /// Whether its dictionary was asked for: what is cancelled or fails is not asked for again.
    asked: bool,
}

impl Running {
    /// A prediction is to be made first.
    fn asks(&self, step: &Step) -> bool {
        step.question.is_some() && !self.predicted.contains_key(&self.step)
    }

    /// What the step names a model by, as something to open.
    fn spec(&self, lesson: &Lesson, model: &str) -> String {
        let needed = lesson.needs.as_ref().is_some_and(|n| n.name == model);
        self.source.clone().filter(|_| needed).unwrap_or_else(|| model.to_owned())
    }
}

/// What was open before a lesson, to go back to.
pub struct Before {
    pub state: Aside,
    pub layout: Layout,
    pub parked: Vec<Layout>,
}

/// What a lesson keeps from being seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    /// The inspector gives way to the lesson's text.
    pub inspector: bool,
    /// A question is asked: nothing is shown but these.
    shows: Option<&'static [String]>,
    /// Views about which something is asked later.
    covers: &'static [String],
    /// Toy models that are shown, where something is asked about the others later.
    pub models: Option<usize>,
}

impl Cover {
    /// What stands in the place of a view, or of the strip, that is not shown.
    pub fn hides(&self, name: &str) -> Option<&'static str> {
        let shown = |list: &[String]| list.iter().any(|v| v == name || v == ALL);
        if self.shows.is_some_and(|list| !shown(list)) {
            Some("Covered until you have chosen an answer.")
        } else if self.covers.iter().any(|v| v == name) {
            Some("Covered: a later step asks about it.")
        } else {
            None
        }
    }
}

/// The open model, as far as a lesson can be taken with it.
struct Open {
    spec: String,
    name: String,
    fit: Fit,
}

#[derive(Default)]
pub struct Lessons {
    running: Option<Running>,
    /// Models that lessons need, as far as they were found; `None` until they have been looked for.
    pub found: Option<HashMap<String, PathBuf>>,
    /// A model that is on its way.
    fetching: Slot<FetchOf>,
    /// The open model, by the name of what a lesson needs; and what it was made from.
    open: HashMap<String, Open>,
    opened: Option<(u64, String)>,
}

/// Whether the dictionary of this name, which ships, is the one that is open.
fn is_open(features: &FeaturesState, name: &str) -> bool {
    let open = features.dictionary().and_then(|d| store::builtin(d));
    open.is_some_and(|b| b.name == name)
}

/// The parts of a step's state that name something, made ready.
fn workspace(name: &str) -> Option<Workspace> {
    match name {
        "model" => Some(Workspace::Model),
        "superposition" => Some(Workspace::Superposition),
        "scratch" => Some(Workspace::Training),
        "features" => Some(Workspace::Features),
        _ => None,
    }
}

/// What is wrong with the names in a lesson, if anything: for tests.
pub fn check(lesson: &Lesson) -> Result<(), String> {
    for (k, step) in lesson.steps.iter().enumerate() {
        check_step(lesson, step).map_err(|(what, name)| format!("step {}: there is no {what} `{name}`", k + 1))?;
    }
    Ok(())
}

/// A kind of thing, and the name of one that does not exist.
fn check_step<'a>(lesson: &Lesson, step: &'a Step) -> Result<(), (&'static str, &'a str)> {
    let s = &step.state;
    let view = |n: &str| view::by_name(n).is_some();
    let control = |n: &str| CONTROLS.contains(&n);
    let shows: Vec<&str> = step.question.iter().flat_map(|q| &q.shows).map(String::as_str).collect();
    let covers: Vec<&str> = s.covers.iter().map(String::as_str).collect();
    let bad = |list: &[&'a str], what: &'static str, known: &dyn Fn(&str) -> bool| {
        list.iter().find(|n| !known(n)).map_or(Ok(()), |n| Err((what, *n)))
    };
    bad(step.highlight.as_deref().as_slice(), "view or control", &|n| view(n) || control(n))?;
    bad(&shows, "view or strip", &|n| view(n) || n == "strip" || n == ALL)?;
    bad(&covers, "view", &view)?;
    bad(s.view.as_deref().as_slice(), "view", &view)?;
    let set: Vec<&str> = s.settings.keys().map(String::as_str).collect();
    bad(&set, "view", &view)?;
    bad(s.workspace.as_deref().as_slice(), "workspace", &|n| workspace(n).is_some())?;
    bad(s.preset.as_deref().as_slice(), "preset", &|n| presets::by_name(n).is_some())?;
    bad(s.lab.as_deref().as_slice(), "lab model", &|n| crate::training::by_name(n).is_some())?;
    let dictionary = s.dictionary.as_deref();
    bad(dictionary.as_slice(), "dictionary", &|n| BUILTINS.iter().any(|b| b.name == n))?;
    bad(s.set.as_deref().as_slice(), "set", &|n| SETS.iter().any(|b| b.name == n))?;
    if dictionary.is_none() && (s.feature.is_some() || s.scan.is_some()) {
        return Err(("dictionary", ""));
    }
    bad(s.scan.as_deref().as_slice(), "text", &|n| text::SHIPPED.iter().any(|(t, _)| *t == n))?;
    bad(s.show.as_deref().as_slice(), "run", &|n| Show::ALL.iter().any(|x| x.label() == n))?;
    let needed = |n: &str| lesson.needs.as_ref().is_some_and(|needs| needs.name == n);
    bad(s.model.as_deref().as_slice(), "model", &|n| builtin::by_name(n).is_some() || needed(n))
}

/// What has to happen for a step: actions on the state, and a view to bring to the front.
#[derive(Default)]
pub struct Orders {
    pub actions: Vec<Action>,
    pub workspace: Option<Workspace>,
    pub view: Option<&'static str>,
}

impl Lessons {
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn lesson(&self) -> Option<(&'static Lesson, &Running)> {
        let r = self.running.as_ref()?;
        Some((shipped().get(r.lesson)?, r))
    }

    /// The view or control that the current step speaks of.
    pub fn highlight(&self) -> Option<&'static str> {
        let (lesson, r) = self.lesson()?;
        lesson.steps.get(r.step)?.highlight.as_deref()
    }

    /// Notes for which lessons the open model will do.
    pub fn see(&mut self, state: &State) {
        let open = state.model.as_ref().zip(state.desk().hash);
        let opened = open.map(|(m, hash)| (hash, m.spec.clone()));
        if self.opened == opened {
            return;
        }
        self.opened = opened;
        self.open.clear();
        let Some((model, _)) = open else { return };
        for needs in shipped().iter().filter_map(|l| l.needs.as_ref()) {
            if let Some(fit) = needs.fit(model) {
                let open = Open { spec: model.spec.clone(), name: model.config.name.clone(), fit };
                self.open.insert(needs.name.clone(), open);
            }
        }
    }

    /// What the model that a lesson needs is opened by, and whether that is the open model with other weights.
    fn source(&self, needs: &Needs) -> Option<(String, bool)> {
        let open = self.open.get(&needs.name);
        let found = self.found.as_ref().and_then(|f| f.get(&needs.name));
        let named = found.is_some_and(|p| needs.is_called(p));
        match (open, found) {
            (Some(open), _) if open.fit == Fit::Same || !named => Some((open.spec.clone(), open.fit == Fit::Alike)),
            (_, found) => found.map(|p| (p.display().to_string(), false)),
        }
    }

    /// Whether a lesson can be taken: the model that it needs is there.
    pub fn is_possible(&self, lesson: &Lesson) -> bool {
        lesson.needs.as_ref().is_none_or(|n| self.source(n).is_some())
    }

    /// Whether the action begins a lesson.
    pub fn begins(&self, action: &LessonAction) -> bool {
        matches!(action, LessonAction::Begin(k) if shipped().get(*k).is_some_and(|l| self.is_possible(l)))
    }

    /// What is not to be seen now.
    pub fn cover(&self) -> Cover {
        let Some((lesson, r)) = self.lesson() else { return Cover::default() };
        let Some(step) = lesson.steps.get(r.step) else { return Cover::default() };
        Cover {
            inspector: step.highlight.as_deref() != Some("inspector"),
            shows: step.question.as_ref().filter(|_| r.asks(step)).map(|q| q.shows.as_slice()),
            covers: &step.state.covers,
            models: step.state.models,
        }
    }

    pub fn apply(&mut self, action: LessonAction, state: &State) -> Orders {
        match action {
            LessonAction::Begin(k) => {
                if !self.begins(&action) {
                    return Orders::default();
                }
                let needs = shipped().get(k).and_then(|l| l.needs.as_ref());
                self.running = Some(Running {
                    lesson: k,
                    step: 0,
                    source: needs.and_then(|n| Some(self.source(n)?.0)),
                    predicted: HashMap::new(),
                    waiting: None,
                    asked: false,
                });
                self.enter(state)
            }
            LessonAction::Go(step) => {
                let Some((lesson, _)) = self.lesson() else { return Orders::default() };
                let step = step.min(lesson.steps.len() - 1);
                if let Some(r) = &mut self.running {
                    r.step = step;
                }
                self.enter(state)
            }
            LessonAction::Predict(choice) => {
                self.predict(choice);
                Orders::default()
            }
            // The window's own.
            LessonAction::Fetch(_) => Orders::default(),
            LessonAction::Close => {
                self.running = None;
                Orders::default()
            }
        }
    }

    /// A prediction was made: what the step does to the model is done now.
    fn predict(&mut self, choice: usize) {
        let Some(step) = self.lesson().and_then(|(lesson, r)| lesson.steps.get(r.step)) else { return };
        let Some(r) = &mut self.running else { return };
        r.predicted.insert(r.step, choice);
        if step.state.zero_head.is_some() {
            let waiting = r.waiting.get_or_insert_default();
            waiting.zero_head.clone_from(&step.state.zero_head);
            waiting.show.clone_from(&step.state.show);
        }
    }

    /// Orders for the current step; what needs results is kept for [`Lessons::late`].
    fn enter(&mut self, state: &State) -> Orders {
        let mut orders = Orders::default();
        let Some((lesson, r)) = self.lesson() else { return orders };
        let Some(step) = lesson.steps.get(r.step) else { return orders };
        let mut s = step.state.clone();
        if r.asks(step) && s.zero_head.take().is_some() {
            s.show = Some(Show::Clean.label().to_owned());
        }
        let out = &mut orders.actions;
        orders.workspace = s.workspace.as_deref().and_then(workspace);
        orders.view = s.view.as_deref().and_then(view::by_name).map(|v| v.name);
        if let Some(p) = s.preset.as_deref().and_then(presets::by_name) {
            // Coming back to a step does not throw away what has been trained.
            let there = state.superposition.trained.as_ref().is_some_and(|(r, _)| *r == (p.recipe)());
            if !there {
                out.push(Action::Superposition(SuperpositionAction::Preset(p.name)));
            }
        }
        if let Some(k) = s.instance {
            out.push(Action::Superposition(SuperpositionAction::Select(k)));
        }
        if let Some(task) = s.lab.as_deref().and_then(crate::training::by_name) {
            out.push(Action::Training(TrainingAction::Choose(task.name)));
        }
        let mut asks: Vec<ModelAction> = Vec::new();
        if let Some(prompt) = &s.prompt {
            asks.push(ModelAction::Prompt(prompt.clone()));
            asks.push(ModelAction::Answer(s.answer.clone().unwrap_or_default()));
            asks.push(ModelAction::Wrong(s.wrong.clone().unwrap_or_default()));
            asks.push(ModelAction::Corrupted(s.corrupted.clone().unwrap_or_default()));
        } else {
            asks.extend(s.answer.clone().map(ModelAction::Answer));
            asks.extend(s.wrong.clone().map(ModelAction::Wrong));
            asks.extend(s.corrupted.clone().map(ModelAction::Corrupted));
        }
        if s.no_edits {
            asks.push(ModelAction::Edits("take the edits away", EditStack::default()));
        }
        let settings = s.settings.iter().filter_map(|(name, value)| Some((view::by_name(name)?.name, value.clone())));
        asks.extend(settings.map(|(name, value)| ModelAction::View(name, value)));
        if s.set.is_some() && s.set != state.desk().graph.set {
            asks.push(ModelAction::GraphSet(s.set.clone()));
        }
        let model = s.model.as_deref().map(|m| r.spec(lesson, m));
        match model.filter(|spec| state.desk().model != *spec) {
            Some(spec) => out.push(Action::OpenThen(spec, asks)),
            None => out.extend(asks.into_iter().map(Action::Model)),
        }
        if let Some(r) = &mut self.running {
            (r.waiting, r.asked) = (Some(s), false);
        }
        orders
    }

    /// What of the step's state can only be done once the prompt has run.
    pub fn late(&mut self, state: &State) -> Vec<Action> {
        let Some(r) = &mut self.running else { return Vec::new() };
        // What was put aside may still be at work, so it is not waited until nothing is.
        let stands = r.waiting.is_some() && state.opening.is_none() && state.runs_stand();
        let Some(run) = state.run().filter(|_| stands) else { return Vec::new() };
        let model = r.waiting.as_ref().and_then(|s| s.model.as_deref());
        let lesson = shipped().get(r.lesson);
        if model.zip(lesson).is_some_and(|(m, l)| r.spec(l, m) != state.desk().model) {
            // Its opening was cancelled, or failed.
            r.waiting = None;
            return Vec::new();
        }
        let features = &state.features;
        if let Some(name) = r.waiting.as_ref().and_then(|s| s.dictionary.as_ref()) {
            let arriving = features.dictionary.is_running();
            if !arriving && !is_open(features, name) && !std::mem::replace(&mut r.asked, true) {
                return vec![Action::Feature(FeatureAction::Open(name.clone()))];
            }
            // A scan made before is looked for.
            if arriving || features.found.is_running() {
                return Vec::new();
            }
        }
        let Some(s) = r.waiting.take() else { return Vec::new() };
        let config = &run.trace.model.config;
        let mut out: Vec<Action> = Vec::new();
        let exists = |(l, h): &(usize, usize)| *l < config.n_layers && *h < config.n_heads;
        if let Some((layer, h)) = s.zero_head.as_deref().and_then(head).filter(exists) {
            let edit = Edit::new(Site::new(SiteKind::Z, layer), Do::Zero).head(h);
            out.push(
                ModelAction::Edits("the lesson's edit", EditStack { edits: vec![edit], ..EditStack::default() }).into(),
            );
        }
        let mut p = state.pinned();
        if let Some((layer, h)) = s.head.as_deref().and_then(head).filter(exists) {
            (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(h), false, Focus::Head);
        }
        if let Some(layer) = s.layer.filter(|l| *l < config.n_layers) {
            p.layer = layer;
        }
        if let Some(pos) = s.pos {
            p.pos = pos.min(run.trace.len() - 1);
        }
        if let Some(n) = s.neuron.filter(|n| *n < config.d_mlp) {
            (p.neuron, p.focus) = (Some(n), Focus::Neuron);
        }
        if p != state.pinned() {
            out.push(ModelAction::Pin(p).into());
        }
        if s.dictionary.as_ref().is_some_and(|name| is_open(features, name))
            && let Some(d) = features.dictionary()
        {
            let feature = s.feature.filter(|f| (*f as usize) < d.d_sae);
            out.extend(feature.map(|f| Action::Feature(FeatureAction::Choose(Chosen::Feature(f)))));
            let whole = features.index().is_some_and(|i| i.about.is_complete());
            let scanned = whole || features.index.is_running();
            let scan = s.scan.filter(|_| !scanned);
            out.extend(scan.map(|t| Action::Feature(FeatureAction::Scan(Scanned::Features, t, TOKENS))));
        }
        if let Some(show) = s.show.as_deref().and_then(|n| Show::ALL.into_iter().find(|x| x.label() == n)) {
            out.push(ModelAction::Show(show).into());
        }
        out
    }

    /// The panel beside the views.
    pub fn ui(&self, ui: &mut egui::Ui, actions: &mut Vec<Action>) {
        let Some((lesson, r)) = self.lesson() else { return };
        let palette = Palette::of(ui.ctx());
        let Some(step) = lesson.steps.get(r.step) else { return };
        let go = |k: usize| Action::Lesson(LessonAction::Go(k));
        ui.add_space(6.0);
        ui.horizontal(|ui| {
            ui.label(RichText::new(&lesson.title).font(theme::title()).color(palette.weak));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let close = ui.button("✕").on_hover_text("end the lesson; everything is then as it was before");
                close.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, "end the lesson"));
                if close.clicked() {
                    actions.push(Action::Lesson(LessonAction::Close));
                }
            });
        });
        dots(ui, palette, lesson.steps.len(), r.step, actions);
        let alike = lesson.needs.as_ref().and_then(|n| self.open.get(&n.name)).filter(|o| o.fit == Fit::Alike);
        if let Some(open) = alike {
            let text = format!("With {}, other weights of the same shape: {ABOUT}.", open.name);
            ui.add(egui::Label::new(RichText::new(text).font(theme::small()).color(palette.weak)).wrap());
        }
        let foot = 44.0;
        let height = ui.available_height() - foot;
        egui::ScrollArea::vertical().id_salt(r.step).max_height(height).auto_shrink([false, false]).show(ui, |ui| {
            ui.add_space(4.0);
            ui.label(RichText::new(&step.title).font(egui::FontId::new(17.0, theme::title().family)));
            ui.add_space(2.0);
            paragraphs(ui, &step.text);
            if let Some(q) = &step.question {
                question(ui, palette, q, r.predicted.get(&r.step).copied(), actions);
            }
            if r.step + 1 == lesson.steps.len() {
                ui.add_space(12.0);
                ui.label(RichText::new("To read").font(theme::title()).color(palette.weak));
                for reference in &lesson.references {
                    ui.add(egui::Label::new(RichText::new(reference).font(theme::small()).color(palette.weak)).wrap());
                }
            }
            ui.add_space(8.0);
        });
        ui.separator();
        ui.horizontal(|ui| {
            let back = ui.add_enabled(r.step > 0, egui::Button::new("Back"));
            if back.on_disabled_hover_text("this is the first step").clicked() {
                actions.push(go(r.step - 1));
            }
            ui.label(
                RichText::new(format!("{} of {}", r.step + 1, lesson.steps.len()))
                    .font(theme::small())
                    .color(palette.weak),
            );
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let last = r.step + 1 == lesson.steps.len();
                let text = RichText::new(if last { "Finish" } else { "Next" }).font(theme::title()).color(palette.base);
                let button = egui::Button::new(text).fill(palette.accent).min_size(vec2(76.0, 26.0));
                if ui.add(button).clicked() {
                    actions.push(if last { Action::Lesson(LessonAction::Close) } else { go(r.step + 1) });
                }
            });
        });
    }

    /// Offers to fetch a model, and says how far that is.
    fn fetch_button(&self, ui: &mut egui::Ui, package: &Package, lesson: usize, actions: &mut Vec<Action>) {
        if let Some(progress) = self.fetching.progress() {
            ui.add(egui::ProgressBar::new(progress.fraction()).desired_width(120.0).desired_height(6.0));
            ui.label(RichText::new("fetching …").font(theme::small()));
            ui.ctx().request_repaint_after(std::time::Duration::from_millis(200));
            return;
        }
        let place = models_folder().unwrap_or_default();
        let help = format!(
            "runs `{}`, which needs Python with pip and the network, and puts the model into {}",
            FetchOf::says(package),
            place.display()
        );
        let text = format!("Fetch it ({} MB)", package.megabytes);
        // A menu's buttons have no frame; this one is none of its rows.
        if ui.add(egui::Button::new(text).small().frame(true)).on_hover_text(help).clicked() {
            actions.push(Action::Lesson(LessonAction::Fetch(lesson)));
        }
    }

    /// Offers the language model that lessons are taken with: to open it where it is here, else to fetch it.
    pub fn language_model(&self, ui: &mut egui::Ui, actions: &mut Vec<Action>) {
        let all = shipped().iter().enumerate();
        let mut needed = all.filter_map(|(k, l)| l.needs.as_ref().and_then(|n| Some((k, n, n.package.as_ref()?))));
        let Some((lesson, needs, package)) = needed.next() else { return };
        let here = self.found.as_ref().and_then(|f| f.get(&needs.name));
        match here {
            Some(path) => {
                let open = ui.button(format!("Open {}", needs.name)).on_hover_text(path.display().to_string());
                if open.clicked() {
                    actions.push(Action::Open(path.display().to_string()));
                    actions.push(Action::Welcomed);
                }
            }
            None => self.fetch_button(ui, package, lesson, actions),
        }
    }

    /// Begins to fetch the model that a lesson needs.
    pub fn fetch(&mut self, lesson: usize, pool: &Pool) {
        let needs = shipped().get(lesson).and_then(|l| l.needs.clone());
        let (Some(needs), Some(folder)) = (needs, models_folder()) else { return };
        let Some(package) = needs.package.clone() else { return };
        self.fetching.again();
        self.fetching.want(pool, Some(FetchOf { needs, package, folder, settings: Vec::new() }));
    }

    /// Takes in a model that was fetched.
    pub fn poll(&mut self, notices: &mut Notices) {
        self.fetching.poll();
        if let Some(path) = self.fetching.take_news() {
            notices.push(Level::Info, format!("The model is here: {}. Open it, or begin the lesson.", path.display()));
            self.found = None;
        }
        if let Some(error) = self.fetching.take_error() {
            notices.push(Level::Error, error);
        }
    }

    /// Stops fetching.
    pub fn stop(&mut self) {
        self.fetching.stop();
    }

    /// The list of lessons, for a menu.
    pub fn menu(&self, ui: &mut egui::Ui, actions: &mut Vec<Action>) {
        let palette = Palette::of(ui.ctx());
        ui.set_min_width(380.0);
        for (k, lesson) in shipped().iter().enumerate() {
            let possible = self.is_possible(lesson);
            let minutes = RichText::new(format!("{} min", lesson.minutes)).font(theme::small()).color(palette.weak);
            let title = RichText::new(&lesson.title).font(theme::title());
            let button = egui::Button::new(title).right_text(minutes);
            let response = ui.add_enabled_ui(possible, |ui| ui.add_sized([ui.available_width(), 24.0], button)).inner;
            if response.clicked() {
                actions.push(Action::Lesson(LessonAction::Begin(k)));
                ui.close();
            }
            let small = |ui: &mut egui::Ui, text: &str, color| {
                ui.add(
                    egui::Label::new(RichText::new(text).font(theme::small()).color(color))
                        .wrap()
                        .halign(egui::Align::LEFT),
                );
            };
            small(ui, &lesson.summary, palette.weak);
            if let Some(needs) = &lesson.needs {
                match self.source(needs) {
                    None => {
                        let text = format!("It needs the model {}, which is not here: {}", needs.name, needs.fetch);
                        let package = needs.package.as_ref();
                        let end = if package.is_some() { ", or fetch it." } else { "." };
                        small(ui, &format!("{text}{end}"), palette.text);
                        ui.horizontal(|ui| {
                            if ui.add(egui::Button::new("Open a model file…").small().frame(true)).clicked() {
                                actions.push(Action::Load(Load::ModelFile));
                                ui.close();
                            }
                            if let Some(package) = package {
                                self.fetch_button(ui, package, k, actions);
                            }
                        });
                    }
                    Some((spec, true)) => {
                        let name = self.open.get(&needs.name).map_or(spec, |o| o.name.clone());
                        let text =
                            format!("Uses the open model {name}, which has the shape of {}; {ABOUT}.", needs.name);
                        small(ui, &text, palette.text);
                    }
                    Some(_) => {}
                }
            }
            ui.add_space(4.0);
        }
    }
}

/// Text that is read rather than glanced at.
fn reading() -> egui::FontId {
    egui::FontId::new(13.5, egui::FontFamily::Proportional)
}

fn paragraphs(ui: &mut egui::Ui, text: &str) {
    for p in text.split("\n\n") {
        let line = p.split_whitespace().collect::<Vec<_>>().join(" ");
        if !line.is_empty() {
            ui.add(egui::Label::new(RichText::new(line).font(reading()).line_height(Some(19.0))).wrap());
            ui.add_space(6.0);
        }
    }
}

/// A question with its choices; once one is chosen, what is right and why.
fn question(ui: &mut egui::Ui, palette: Palette, q: &Question, made: Option<usize>, actions: &mut Vec<Action>) {
    ui.add_space(8.0);
    ui.label(RichText::new(&q.ask).font(theme::title()).color(palette.accent));
    ui.add_space(2.0);
    for (k, choice) in q.choices.iter().enumerate() {
        let (mark, color) = match made {
            Some(_) if k == q.right => ("✔ ", palette.verdict(true)),
            Some(made) if made == k => ("✘ ", palette.verdict(false)),
            Some(_) => ("", palette.weak),
            None => ("", palette.text),
        };
        let text = RichText::new(format!("{mark}{choice}")).font(reading()).color(color);
        let button = egui::Button::new(text).wrap().min_size(vec2(ui.available_width(), 26.0)).right_text("");
        // Not disabled once it is answered, which would fade what is to be read.
        let sense = if made.is_none() { egui::Sense::click() } else { egui::Sense::hover() };
        if ui.add(button.sense(sense)).clicked() {
            actions.push(Action::Lesson(LessonAction::Predict(k)));
        }
    }
    if made.is_some() {
        ui.add_space(4.0);
        paragraphs(ui, &q.reveal);
    }
}

/// One dot a step; a click goes there.
fn dots(ui: &mut egui::Ui, palette: Palette, count: usize, at: usize, actions: &mut Vec<Action>) {
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for k in 0..count {
            let (rect, response) = ui.allocate_exact_size(vec2(14.0, 14.0), egui::Sense::click());
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("step {}", k + 1)));
            let color = match k {
                _ if k == at => palette.accent,
                _ if k < at => palette.weak,
                _ => palette.border,
            };
            ui.painter().circle_filled(rect.center(), 3.5, color);
            if response.clicked() {
                actions.push(Action::Lesson(LessonAction::Go(k)));
            }
        }
    });
}
