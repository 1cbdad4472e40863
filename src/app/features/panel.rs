//! The left side of the feature views: the dictionary, the index of examples, directions.

use eframe::egui::{self, RichText, vec2};

use crate::app::action::Action;
use crate::app::features::views::layer_field;
use crate::app::features::{Chosen, FeatureAction, Scanned};
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::{choice, line_with};
use crate::engine::SiteKind;
use crate::features::dictionary::store::BUILTINS;
use crate::features::direction::Method;
use crate::features::direction::concept::{Pool, SHIPPED};
use crate::features::direction::search::{DirectionSearch, Examples};

/// Fields of the panel that are not part of the document.
#[derive(Clone, Debug)]
struct Fields {
    dictionary: String,
    text: String,
    tokens: usize,
    index: String,
    set: String,
    /// Two lists of texts instead of a set.
    typing: bool,
    name: String,
    with: String,
    without: String,
    method: Method,
    site: SiteKind,
    pool: Pool,
    concept: String,
    /// The site of a dictionary that does not say.
    place: String,
    target: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            dictionary: String::new(),
            text: "mixed".to_owned(),
            tokens: 50_000,
            index: String::new(),
            set: "sentiment".to_owned(),
            typing: false,
            name: String::new(),
            with: String::new(),
            without: String::new(),
            method: Method::DifferenceOfMeans,
            site: SiteKind::ResidPost,
            pool: Pool::Mean,
            concept: String::new(),
            place: String::new(),
            target: String::new(),
        }
    }
}

/// The choice of examples that are typed.
const TYPED: &str = "my own";

impl Fields {
    fn search(&self, examples: Examples) -> FeatureAction {
        let (method, kind, pool) = (self.method, self.site, self.pool);
        FeatureAction::Find(Box::new(DirectionSearch { examples, method, kind, pool }))
    }
}

pub fn ui(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let id = egui::Id::unique("feature fields");
    let mut fields = ui.data_mut(|d| d.get_temp::<Fields>(id)).unwrap_or_default();
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 4.0;
        dictionary(ui, cx, &mut fields);
        ui.separator();
        examples(ui, cx, &mut fields);
        ui.separator();
        directions(ui, cx, &mut fields);
    });
    ui.data_mut(|d| d.insert_temp(id, fields));
}

fn heading(ui: &mut egui::Ui, cx: &Context<'_>, text: &str) {
    ui.add_space(4.0);
    ui.label(RichText::new(text).font(theme::title()).color(cx.palette.weak));
}

fn weak(cx: &Context<'_>, text: impl Into<String>) -> RichText {
    RichText::new(text).font(theme::small()).color(cx.palette.weak)
}

/// A row that is laid out from the right, so that its last widget fills what is left: a row wider than its panel would
/// push the panel wider in every frame.
fn filled<R>(ui: &mut egui::Ui, contents: impl FnOnce(&mut egui::Ui) -> R) -> R {
    let size = vec2(ui.available_width(), ui.spacing().interact_size.y);
    ui.allocate_ui_with_layout(size, egui::Layout::right_to_left(egui::Align::Center), contents).inner
}

/// A path field with a button; true when it is to be opened.
fn field(ui: &mut egui::Ui, text: &mut String, name: &str, hint: &str, button: &str) -> bool {
    filled(ui, |ui| {
        let pressed = ui.button(button).clicked();
        let response = ui.add(egui::TextEdit::singleline(text).desired_width(f32::INFINITY).hint_text(hint));
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, name));
        let entered = response.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
        (pressed || entered) && !text.trim().is_empty()
    })
}

fn dictionary(ui: &mut egui::Ui, cx: &mut Context<'_>, fields: &mut Fields) {
    let s = &cx.state.features;
    heading(ui, cx, "Dictionary");
    match s.dictionary() {
        Some(d) => {
            let close = line_with(ui, RichText::new(&d.name).font(theme::body()), |ui| {
                ui.small_button("×").on_hover_text("puts the dictionary away").clicked()
            });
            if close {
                cx.push(Action::Feature(FeatureAction::Close));
            }
            ui.add(egui::Label::new(weak(cx, d.describe())).wrap());
            if let Some(model) = &cx.state.model
                && let Err(e) = d.check(&model.config)
            {
                ui.add(egui::Label::new(RichText::new(e.to_string()).color(cx.palette.error)).wrap());
            }
            for warning in cx.state.trust.of_dictionary() {
                ui.add(egui::Label::new(RichText::new(warning).font(theme::small()).color(cx.palette.warning)).wrap());
            }
            places(ui, cx, fields);
        }
        None if s.dictionary.is_running() => {
            ui.label(weak(cx, "reading …"));
        }
        None => {
            ui.add(egui::Label::new(weak(cx, "none is open")).wrap());
        }
    }
    if let Some(e) = s.dictionary.error().filter(|_| s.dictionary().is_none()) {
        ui.add(egui::Label::new(RichText::new(e).color(cx.palette.error)).wrap());
    }
    let here = cx.state.desk().model.as_str();
    for b in BUILTINS.iter().filter(|b| b.model == here) {
        if ui.button(b.name).on_hover_text(b.purpose).clicked() {
            cx.push(Action::Feature(FeatureAction::Open(b.name.to_owned())));
        }
    }
    let hint = "SAELens folder, params.npz, layer file";
    if field(ui, &mut fields.dictionary, "path of a dictionary", hint, "Open") {
        let path = fields.dictionary.trim().to_owned();
        cx.push(Action::Feature(FeatureAction::Open(path)));
    }
}

/// Fields for the sites that the dictionary's file does not name.
fn places(ui: &mut egui::Ui, cx: &mut Context<'_>, fields: &mut Fields) {
    let (reads, writes) = cx.state.features.open_sites();
    if !reads && !writes {
        return;
    }
    let mut done = false;
    if reads {
        done |= field(ui, &mut fields.place, "site of the dictionary", "reads blocks.5.hook_resid_post", "Use");
    }
    if writes {
        done |= field(ui, &mut fields.target, "site that it writes", "writes blocks.5.hook_mlp_out", "Use");
    }
    if done {
        let of_file = cx.state.features.dictionary().and_then(|d| d.input).map(|p| p.to_string());
        let site = if reads { fields.place.trim().to_owned() } else { of_file.unwrap_or_default() };
        let target = Some(fields.target.trim().to_owned()).filter(|t| writes && !t.is_empty());
        cx.push(Action::Feature(FeatureAction::Site(site, target)));
    }
}

fn examples(ui: &mut egui::Ui, cx: &mut Context<'_>, fields: &mut Fields) {
    let s = &cx.state.features;
    heading(ui, cx, "Examples");
    match s.index() {
        Some(i) => {
            let living = s.living.value().map_or(0, |count| **count);
            let so_far = if i.about.is_complete() { "" } else { " so far" };
            let text = format!(
                "{living} of {} features active on {} positions of {}{so_far}",
                i.entries.len(),
                i.about.positions,
                i.about.texts.join(", ")
            );
            ui.add(egui::Label::new(weak(cx, text)).wrap());
        }
        None => {
            let text = "scan a text to see what each feature is active on";
            ui.add(egui::Label::new(weak(cx, text)).wrap());
        }
    }
    if let Some(e) = s.index.error().or(s.neurons.error()).or(s.read_out.error()) {
        ui.add(egui::Label::new(RichText::new(e).color(cx.palette.error)).wrap());
    }
    filled(ui, |ui| {
        let tokens = egui::DragValue::new(&mut fields.tokens).range(1_000..=100_000_000).speed(1_000).suffix(" tokens");
        ui.add(tokens).accessible_name("tokens to scan");
        ui.add(egui::TextEdit::singleline(&mut fields.text).desired_width(f32::INFINITY))
            .on_hover_text("a text file, a folder of them, or a shipped text: mixed, prose")
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "text to scan"));
    });
    let running = s.index.is_running() || s.neurons.is_running() || s.read_out.is_running();
    ui.horizontal_wrapped(|ui| {
        if running {
            if ui.button("Stop").clicked() {
                cx.push(Action::Feature(FeatureAction::StopScan));
            }
            return;
        }
        let scan = |what| FeatureAction::Scan(what, fields.text.trim().to_owned(), fields.tokens);
        let there = s.dictionary().is_some();
        let scan_features = ui.add_enabled(there, egui::Button::new("Scan the features"));
        if scan_features.on_disabled_hover_text("no dictionary is open; open one above").clicked() {
            cx.push(Action::Feature(scan(Scanned::Features)));
        }
        let layer = cx.pinned().layer;
        if let Some(last) = cx.state.model.as_ref().filter(|m| m.config.has_mlp()).map(|m| m.config.n_layers - 1) {
            ui.end_row();
            if ui.button("Scan neurons").on_hover_text("of the pinned layer's MLP").clicked() {
                cx.push(Action::Feature(scan(Scanned::Neurons(layer))));
            }
            layer_field(ui, cx, last);
            ui.end_row();
        }
        if let Some(Chosen::Concept(i)) = s.desk.chosen
            && let Some(w) = s.desk.watched.get(i)
            && ui
                .button(format!("Scan for {}", w.concept.name))
                .on_hover_text("where in the text this direction's read-out is highest, for its page")
                .clicked()
        {
            cx.push(Action::Feature(scan(Scanned::Direction(i))));
        }
    });
    let hint = "index.arrow";
    if field(ui, &mut fields.index, "path of an index", hint, "Open") {
        cx.push(Action::Feature(FeatureAction::OpenIndex(fields.index.trim().to_owned())));
    }
}

/// A row for each direction that is watched.
fn watched_directions(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let s = &cx.state.features;
    for (i, w) in s.desk.watched.iter().enumerate() {
        filled(ui, |ui| {
            if ui.small_button("×").on_hover_text(format!("forget {}", w.concept.name)).clicked() {
                cx.push(Action::Feature(FeatureAction::Forget(i)));
            }
            let save = ui.small_button("↓").on_hover_text(format!("save {} as a file", w.concept.name));
            if save.clicked() {
                match w.concept.to_json() {
                    Ok(bytes) => {
                        cx.push(Action::Save { name: w.concept.name.clone(), extension: "json", bytes });
                    }
                    Err(e) => cx.push(Action::Say(e.to_string())),
                }
            }
            let mut layer = w.layer;
            let last = w.concept.layers.len().saturating_sub(1);
            let drag = egui::DragValue::new(&mut layer).range(0..=last).prefix("layer ").speed(0.1);
            ui.add(drag).accessible_name(format!("layer of {}", w.concept.name));
            if layer != w.layer {
                cx.push(Action::Feature(FeatureAction::Layer(i, layer)));
            }
            let chosen = s.desk.chosen == Some(Chosen::Concept(i));
            let (auc, accuracy) = w.concept.at(w.layer).map_or((f32::NAN, f32::NAN), |l| (l.auc, l.accuracy));
            let button = egui::Button::selectable(chosen, &w.concept.name).truncate();
            let help = format!(
                "{}, {} texts held out; AUC {auc:.3}, accuracy {accuracy:.3} at layer {}",
                w.concept.method.name(),
                w.concept.test,
                w.layer
            );
            let line = egui::Layout::left_to_right(egui::Align::Center);
            if ui.with_layout(line, |ui| ui.add(button)).inner.on_hover_text(help).clicked() {
                cx.push(Action::Feature(FeatureAction::Choose(Chosen::Concept(i))));
            }
        });
    }
}

fn directions(ui: &mut egui::Ui, cx: &mut Context<'_>, fields: &mut Fields) {
    let s = &cx.state.features;
    heading(ui, cx, "Directions");
    watched_directions(ui, cx);
    ui.horizontal(|ui| {
        let mut options: Vec<(&str, &str)> = SHIPPED.iter().map(|(n, _)| (*n, *n)).collect();
        options.push((TYPED, TYPED));
        let current = SHIPPED.iter().map(|(n, _)| *n).find(|n| *n == fields.set).unwrap_or(SHIPPED[0].0);
        if let Some(set) = choice(ui, "examples", if fields.typing { TYPED } else { current }, &options) {
            fields.typing = set == TYPED;
            if !fields.typing {
                set.clone_into(&mut fields.set);
            }
        }
    });
    if fields.typing {
        let wide = f32::INFINITY;
        ui.add(egui::TextEdit::singleline(&mut fields.name).desired_width(wide).hint_text("name of the concept"))
            .accessible_name("name of the concept");
        for (text, hint) in [
            (&mut fields.with, "texts or words with it, one a line, four or more"),
            (&mut fields.without, "texts or words without it, one a line"),
        ] {
            let edit = egui::TextEdit::multiline(text).desired_width(wide).desired_rows(3).hint_text(hint);
            ui.add(edit).accessible_name(hint);
        }
    }
    ui.horizontal(|ui| {
        let options = Method::ALL.map(|m| (m, m.name()));
        if let Some(m) = choice(ui, "by", fields.method, &options) {
            fields.method = m;
        }
    });
    ui.horizontal(|ui| {
        let options = [(Pool::Mean, "the mean of its tokens"), (Pool::Last, "its last token")];
        if let Some(p) = choice(ui, "a text is", fields.pool, &options) {
            fields.pool = p;
        }
    });
    ui.horizontal(|ui| {
        let sites =
            [(SiteKind::ResidPost, "resid_post"), (SiteKind::MlpOut, "mlp_out"), (SiteKind::AttnOut, "attn_out")];
        let has_mlp = cx.state.model.as_ref().is_none_or(|m| m.config.has_mlp());
        let sites: Vec<_> = sites.into_iter().filter(|(k, _)| has_mlp || *k != SiteKind::MlpOut).collect();
        if let Some(k) = choice(ui, "site", fields.site, &sites) {
            fields.site = k;
        }
        let running = s.finding.is_running();
        let find = ui.add_enabled(!running && cx.state.model.is_some(), egui::Button::new("Find"));
        let why = if running { "a direction is being looked for" } else { "no model is open" };
        if find.on_disabled_hover_text(why).clicked() {
            let examples = if fields.typing {
                let (with, without) = (fields.with.clone(), fields.without.clone());
                // Two that nobody named are not to share a name, by which labels know them.
                let first =
                    |text: &str| text.trim().lines().next().unwrap_or_default().chars().take(16).collect::<String>();
                let name = match fields.name.trim() {
                    "" => format!("{} / {}", first(&with), first(&without)),
                    name => name.to_owned(),
                };
                Examples::Typed { name, with, without }
            } else {
                Examples::Set(fields.set.clone())
            };
            cx.push(Action::Feature(fields.search(examples)));
        }
    });
    if field(ui, &mut fields.concept, "path of a set or direction", "set.tsv, or direction.json", "Open") {
        let path = fields.concept.trim().to_owned();
        let action =
            if path.ends_with(".json") { FeatureAction::OpenConcept(path) } else { fields.search(Examples::Set(path)) };
        cx.push(Action::Feature(action));
    }
}
