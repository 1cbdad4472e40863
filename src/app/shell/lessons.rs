//! Lessons in the window: the panel beside the views, the prepared states, the outline around what is spoken of.

use crate::app::model::ModelAction;
use std::collections::HashMap;
use std::path::PathBuf;

use eframe::egui::{self, RichText, vec2};

use crate::app::action::Action;
use crate::app::features::{Chosen, FeatureAction, FeaturesState, Scanned};
use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::state::State;
use crate::app::superposition::SuperpositionAction;
use crate::app::training::TrainingAction;
use crate::app::view;
use crate::app::view::Workspace;
use crate::engine::edit::{Action as Do, Edit};
use crate::engine::{EditStack, Site, SiteKind};
use crate::features::dictionary::store::{self, BUILTINS};
use crate::features::text;
use crate::model::builtin;
use crate::session::Document;
use crate::session::desk::{Focus, Show};
use crate::session::lesson::{Lesson, Prepared, Step, head, shipped};
use crate::superposition::{Recipe, presets};

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
}

/// A lesson under way.
struct Running {
    lesson: usize,
    step: usize,
    /// For each step the prediction that was made.
    predicted: HashMap<usize, usize>,
    /// What of the step's state waits for results.
    waiting: Option<Prepared>,
    /// Whether its dictionary was asked for: what is cancelled or fails is not asked for again.
    asked: bool,
    /// What was open before, to go back to.
    before: Before,
}

/// The document, and the superposition workspace's settings with the preset they belong to.
struct Before {
    document: Document,
    workspace: Workspace,
    superposition: (&'static str, Recipe),
}

impl Before {
    fn of(state: &State, workspace: Workspace) -> Self {
        Self {
            document: state.document.clone(),
            workspace,
            superposition: (state.superposition.preset, state.superposition.recipe.clone()),
        }
    }
}

#[derive(Default)]
pub struct Lessons {
    running: Option<Running>,
    /// Models that lessons need, as far as they were found; `None` until they have been looked for.
    pub found: Option<HashMap<String, PathBuf>>,
}

/// What a model that a lesson names is opened by: where it was found, or its name.
fn spec(found: Option<&HashMap<String, PathBuf>>, model: &str) -> String {
    found.and_then(|f| f.get(model)).map_or_else(|| model.to_owned(), |p| p.display().to_string())
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
    for (k, Step { highlight, state: s, .. }) in lesson.steps.iter().enumerate() {
        let say = |what: &str, name: &str| Err(format!("step {}: there is no {what} `{name}`", k + 1));
        let known = |n: &str| view::by_name(n).is_some();
        if let Some(n) = highlight.as_deref()
            && !known(n)
            && !crate::session::lesson::CONTROLS.contains(&n)
        {
            return say("view or control", n);
        }
        if let Some(n) = s.view.as_deref().filter(|n| !known(n)) {
            return say("view", n);
        }
        if let Some(n) = s.workspace.as_deref().filter(|n| workspace(n).is_none()) {
            return say("workspace", n);
        }
        if let Some(n) = s.preset.as_deref().filter(|n| presets::by_name(n).is_none()) {
            return say("preset", n);
        }
        if let Some(n) = s.lab.as_deref().filter(|n| crate::training::by_name(n).is_none()) {
            return say("lab model", n);
        }
        let dictionary = s.dictionary.as_deref();
        if let Some(n) = dictionary.filter(|n| BUILTINS.iter().all(|b| b.name != *n)) {
            return say("dictionary", n);
        }
        if dictionary.is_none() && (s.feature.is_some() || s.scan.is_some()) {
            return say("dictionary", "");
        }
        if let Some(n) = s.scan.as_deref().filter(|n| text::SHIPPED.iter().all(|(t, _)| t != n)) {
            return say("text", n);
        }
        if let Some(n) = s.show.as_deref().filter(|n| Show::ALL.iter().all(|x| x.label() != *n)) {
            return say("run", n);
        }
        if let Some(n) = s.model.as_deref()
            && builtin::by_name(n).is_none()
            && lesson.needs.as_deref() != Some(n)
        {
            return say("model", n);
        }
    }
    Ok(())
}

/// What has to happen for a step: actions on the state, and a view to bring to the front.
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

    /// Whether a lesson can be taken: the model that it needs is there.
    pub fn is_possible(&self, lesson: &Lesson) -> bool {
        let needs = lesson.needs.as_ref();
        needs.is_none_or(|n| self.found.as_ref().is_some_and(|f| f.contains_key(n)))
    }

    pub fn apply(&mut self, action: LessonAction, state: &State, workspace: Workspace) -> Orders {
        let none = || Orders { actions: Vec::new(), workspace: None, view: None };
        match action {
            LessonAction::Begin(k) => {
                if shipped().get(k).is_none_or(|l| !self.is_possible(l)) {
                    return none();
                }
                // From one lesson to another, what was open before the first stays what is gone back to.
                let before = self.running.take().map_or_else(|| Before::of(state, workspace), |r| r.before);
                self.running = Some(Running {
                    lesson: k,
                    step: 0,
                    predicted: HashMap::new(),
                    waiting: None,
                    asked: false,
                    before,
                });
                self.enter(state)
            }
            LessonAction::Go(step) => {
                let Some((lesson, _)) = self.lesson() else { return none() };
                let step = step.min(lesson.steps.len() - 1);
                if let Some(r) = &mut self.running {
                    r.step = step;
                }
                self.enter(state)
            }
            LessonAction::Predict(choice) => {
                if let Some(r) = &mut self.running {
                    r.predicted.insert(r.step, choice);
                }
                none()
            }
            LessonAction::Close => {
                let Some(r) = self.running.take() else { return none() };
                let Before { document, workspace, superposition: (preset, recipe) } = r.before;
                let mut actions = Vec::new();
                if (preset, &recipe) != (state.superposition.preset, &state.superposition.recipe) {
                    actions.push(Action::Superposition(SuperpositionAction::Back(preset, Box::new(recipe))));
                }
                if document != state.document || state.opening.is_some() {
                    actions.push(Action::Restore(Box::new(document)));
                }
                Orders { actions, workspace: Some(workspace), view: None }
            }
        }
    }

    /// Orders for the current step; what needs results is kept for [`Lessons::late`].
    fn enter(&mut self, state: &State) -> Orders {
        let mut orders = Orders { actions: Vec::new(), workspace: None, view: None };
        let Some((lesson, r)) = self.lesson() else { return orders };
        let Some(step) = lesson.steps.get(r.step) else { return orders };
        let s = step.state.clone();
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
        let model = s.model.as_deref().map(|m| spec(self.found.as_ref(), m));
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
        let Some(run) = state.run().filter(|_| r.waiting.is_some() && state.rests()) else { return Vec::new() };
        let model = r.waiting.as_ref().and_then(|s| s.model.as_deref());
        if model.is_some_and(|m| spec(self.found.as_ref(), m) != state.desk().model) {
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
                let close = ui
                    .button("✕")
                    .on_hover_text("end the lesson, and go back to the model and prompt that were open before");
                close.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, "end the lesson"));
                if close.clicked() {
                    actions.push(Action::Lesson(LessonAction::Close));
                }
            });
        });
        dots(ui, palette, lesson.steps.len(), r.step, actions);
        let foot = 44.0;
        let height = ui.available_height() - foot;
        egui::ScrollArea::vertical().id_salt(r.step).max_height(height).auto_shrink([false, false]).show(ui, |ui| {
            ui.add_space(4.0);
            ui.label(RichText::new(&step.title).font(egui::FontId::new(17.0, theme::title().family)));
            ui.add_space(2.0);
            paragraphs(ui, &step.text);
            if let Some(q) = &step.question {
                ui.add_space(8.0);
                ui.label(RichText::new(&q.ask).font(theme::title()).color(palette.accent));
                ui.add_space(2.0);
                let made = r.predicted.get(&r.step);
                for (k, choice) in q.choices.iter().enumerate() {
                    let mark = match made {
                        Some(_) if k == q.right => "✔ ",
                        Some(m) if *m == k => "✘ ",
                        _ => "",
                    };
                    let color = match made {
                        Some(_) if k == q.right => palette.positive,
                        Some(m) if *m == k => palette.negative,
                        Some(_) => palette.weak,
                        None => palette.text,
                    };
                    let text = RichText::new(format!("{mark}{choice}")).font(reading()).color(color);
                    let button =
                        egui::Button::new(text).wrap().min_size(vec2(ui.available_width(), 26.0)).right_text("");
                    if ui.add_enabled(made.is_none(), button).clicked() {
                        actions.push(Action::Lesson(LessonAction::Predict(k)));
                    }
                }
                if made.is_some() {
                    ui.add_space(4.0);
                    paragraphs(ui, &q.reveal);
                }
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
            if back.clicked() {
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
            let needs = lesson.needs.as_deref().unwrap_or_default();
            let missing = format!("needs the model {needs}: run scripts/fetch-models, or open it, then start again");
            if response.on_disabled_hover_text(missing).clicked() {
                actions.push(Action::Lesson(LessonAction::Begin(k)));
                ui.close();
            }
            ui.add(egui::Label::new(RichText::new(&lesson.summary).font(theme::small()).color(palette.weak)).wrap());
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
