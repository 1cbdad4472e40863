//! The stack of edits, what it does to the prediction, and who steps in.

use crate::app::action::Load;
use crate::app::export::plate::is_plate;
use crate::app::model::ModelAction;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use std::sync::Arc;

use eframe::egui::{self, RichText};

use crate::analysis::backup::{Change, Component};
use crate::analysis::run::Run;
use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::model::views::patching::short_name;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::colorbar::share;
use crate::app::widgets::{bars, captioned, choice, explained_choice, line_with, token_text};
use crate::engine::edit::{Action as Do, Direction, Edit, Positions};
use crate::engine::site::Axis;
use crate::engine::{EditStack, Hold, RunSide, Site, SiteKind};
use crate::session::desk::{Focus, Show};

/// What an edit being put together does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Zero,
    Set,
    Scale,
    Mean,
    Copy,
    AddToken,
    AddDifference,
    KnockOut,
    Force,
}

const VERBS: [(Verb, &str); 9] = [
    (Verb::Zero, "zero"),
    (Verb::Mean, "mean"),
    (Verb::Set, "set to"),
    (Verb::Scale, "scale by"),
    (Verb::Copy, "copy from the other run"),
    (Verb::AddToken, "add answer's direction ×"),
    (Verb::AddDifference, "add clean − corrupted ×"),
    (Verb::KnockOut, "cut the edge"),
    (Verb::Force, "force the edge to"),
];

impl Verb {
    fn takes_value(self) -> bool {
        matches!(self, Self::Set | Self::Scale | Self::AddToken | Self::AddDifference | Self::Force)
    }

    fn fits(self, site: SiteKind) -> bool {
        let edge = matches!(site, SiteKind::Pattern | SiteKind::AttnScores);
        let stream = site.axes() == [Axis::Pos, Axis::Model];
        match self {
            Self::KnockOut => edge,
            Self::Force => site == SiteKind::Pattern,
            Self::Mean | Self::AddDifference => !edge,
            Self::AddToken => stream,
            _ => true,
        }
    }
}

/// Where in the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    All,
    Pinned,
    Prompt,
    Generated,
}

pub struct EditsView {
    site: SiteKind,
    verb: Verb,
    place: Where,
    all_heads: bool,
    coordinate: String,
    value: f32,
    reference: String,
}

impl Default for EditsView {
    fn default() -> Self {
        Self {
            site: SiteKind::Z,
            verb: Verb::Zero,
            place: Where::All,
            all_heads: false,
            coordinate: String::new(),
            value: 1.0,
            reference: String::new(),
        }
    }
}

impl View for EditsView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if cx.state.model.is_none() {
            crate::app::widgets::message(ui, "open a model to begin", false);
            return;
        }
        egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            if is_plate(ui.ctx()) {
                for words in cx.state.desk().stack.words() {
                    ui.label(RichText::new(words).font(theme::mono()));
                }
            } else {
                self.form(ui, cx);
                ui.add_space(theme::GRID);
                stack(ui, cx);
                self.files(ui, cx);
            }
            effect(ui, cx);
        });
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let changes: &[Change] = cx.state.results.backup.get().map_or(&[], |r| &r.value);
        if changes.is_empty() {
            // Without edits there is the stack itself: empty, or still being run.
            let rows: Vec<String> = cx.state.desk().stack.edits.iter().map(ToString::to_string).collect();
            let values =
                cx.state.desk().stack.edits.iter().map(|e| vec![Some(f32::from(u8::from(e.enabled)))]).collect();
            return Some(Table {
                name: "edits".to_owned(),
                row_axis: "edit",
                col_axis: "state",
                rows,
                cols: vec!["enabled".to_owned()],
                values,
                ..Table::default()
            });
        }
        Some(Table {
            name: "direct-attribution-change".to_owned(),
            row_axis: "component",
            col_axis: "run",
            rows: changes.iter().map(|c| c.component.to_string()).collect(),
            cols: vec!["before".to_owned(), "after".to_owned()],
            values: changes.iter().map(|c| vec![Some(c.before), Some(c.after)]).collect(),
            ..Table::default()
        })
    }
}

/// The run that the stack edits.
fn base_run(cx: &Context<'_>) -> Option<Arc<Run>> {
    match cx.state.desk().stack.base {
        RunSide::Clean => cx.state.clean(),
        RunSide::Corrupted => cx.state.corrupted(),
    }
    .cloned()
}

/// A position of the shown run in the run that the stack edits.
fn in_base(cx: &Context<'_>, pos: usize) -> Result<usize, String> {
    let state = cx.state;
    let edited = state.desk().stack.is_active() && matches!(state.desk().show, Show::Edited | Show::Difference);
    let shown = match state.desk().show {
        _ if edited => state.desk().stack.base,
        Show::Corrupted => RunSide::Corrupted,
        _ => RunSide::Clean,
    };
    if shown == state.desk().stack.base {
        return Ok(pos);
    }
    let there = state.pair().and_then(|p| p.alignment_from(shown).get(pos).copied().flatten());
    there.ok_or_else(|| format!("token {pos} has no counterpart in the {} prompt", state.desk().stack.base.name()))
}

impl EditsView {
    /// The edit that the form describes, of what is pinned.
    fn compose(&self, cx: &Context<'_>) -> Result<Edit, String> {
        let p = cx.pinned();
        let model = cx.state.model.as_ref().ok_or("no model is open")?;
        let head_axis = self.site.axes().iter().find(|a| matches!(a, Axis::Head | Axis::KvHead));
        let action = match self.verb {
            Verb::Zero => Do::Zero,
            Verb::Set => Do::Set(self.value),
            Verb::Scale => Do::Scale(self.value),
            Verb::Mean => Do::Mean,
            Verb::Copy => Do::Copy(cx.state.desk().stack.base.other()),
            Verb::AddToken => {
                let run = cx.state.clean().ok_or("type a prompt to begin")?;
                let favourite = run.trace.next.last().and_then(|n| n.first()).map(|t| t.id);
                let id = run.answer.or(favourite).ok_or("there is no answer token")?;
                Do::Add { direction: Direction::Token { id, minus: run.wrong }, factor: self.value }
            }
            Verb::AddDifference => Do::Add { direction: Direction::Difference, factor: self.value },
            Verb::KnockOut => Do::KnockOut,
            Verb::Force => Do::Force(self.value),
        };
        let layer = if self.site.layered() { p.layer } else { 0 };
        let mut edit = Edit::new(Site::new(self.site, layer), action);
        if let (Some(axis), false, Some(h)) = (head_axis, self.all_heads, p.head) {
            edit.head = Some(if *axis == Axis::KvHead { model.config.kv_head(h) } else { h });
        }
        edit.positions = match self.place {
            Where::All => Positions::All,
            Where::Pinned => Positions::At(vec![in_base(cx, p.pos)?]),
            Where::Prompt => Positions::Prompt,
            Where::Generated => Positions::Generated,
        };
        if edit.is_edge() && matches!(self.verb, Verb::KnockOut | Verb::Force) {
            let key = p.key.ok_or("an edge has two ends: pin a cell of the attention pattern first")?;
            edit.src = Some(in_base(cx, key)?);
        }
        let text = self.coordinate.trim();
        if !text.is_empty() && !edit.is_edge() {
            edit.coordinate = Some(text.parse().map_err(|_| format!("`{text}` is not the number of a coordinate"))?);
        }
        let len = base_run(cx).map_or(1, |r| r.trace.len());
        edit.check(&model.config, len).map_err(|e| e.to_string())?;
        Ok(edit)
    }

    fn form(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let model = cx.state.model.clone();
        ui.horizontal_wrapped(|ui| {
            let sites: Vec<(SiteKind, &str)> = SiteKind::ALL
                .into_iter()
                .filter(|k| model.as_ref().is_none_or(|m| k.exists(&m.config)))
                .map(|k| (k, if k.layered() { short_name(k) } else { k.hook() }))
                .collect();
            let verbs: Vec<(Verb, &str)> = VERBS.into_iter().filter(|(v, _)| v.fits(self.site)).collect();
            if let Some(v) = choice(ui, "action", self.verb, &verbs) {
                self.verb = v;
            }
            if self.verb.takes_value() {
                ui.add(egui::DragValue::new(&mut self.value).speed(0.05)).on_hover_text("the number; drag or type");
            }
            if let Some(s) = choice(ui, "site", self.site, &sites) {
                self.site = s;
                if !self.verb.fits(s) {
                    self.verb = Verb::Zero;
                }
            }
            let places = [
                (Where::All, "all tokens"),
                (Where::Pinned, "the pinned token"),
                (Where::Prompt, "the prompt"),
                (Where::Generated, "generated tokens"),
            ];
            if let Some(w) = choice(ui, "on", self.place, &places) {
                self.place = w;
            }
            let has_heads = self.site.axes().iter().any(|a| matches!(a, Axis::Head | Axis::KvHead));
            if has_heads {
                ui.toggle_value(&mut self.all_heads, RichText::new("all heads").font(theme::small()));
            }
            if !matches!(self.site, SiteKind::Pattern | SiteKind::AttnScores) {
                let field = egui::TextEdit::singleline(&mut self.coordinate).hint_text("all").desired_width(36.0);
                let name = RichText::new("coordinate").font(theme::small()).color(cx.palette.weak);
                captioned(ui, name, 44.0, |ui| ui.add(field))
                    .accessible_name("Coordinate")
                    .on_hover_text("one neuron or dimension of the site's last axis; empty for all");
            }
            let composed = self.compose(cx);
            let name = composed.as_ref().map_or_else(Clone::clone, ToString::to_string);
            let add = ui.add_enabled(composed.is_ok(), egui::Button::new("Add"));
            let add = if composed.is_ok() { add.on_hover_text(&name) } else { add.on_disabled_hover_text(&name) };
            if let (true, Ok(edit)) = (add.clicked(), composed) {
                let mut stack = (*cx.state.desk().stack).clone();
                stack.edits.push(edit);
                cx.push(ModelAction::Edits("add an edit", stack));
            }
            ui.label(RichText::new(name).font(theme::mono_small()).color(cx.palette.weak));
        });
    }

    /// Saving and loading, and the texts that means are taken over.
    fn files(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        ui.horizontal_wrapped(|ui| {
            if ui.small_button("Save…").on_hover_text("the stack as JSON").clicked() {
                let text = serde_json::to_string_pretty(&*cx.state.desk().stack).unwrap_or_default();
                cx.push(Action::Save { name: "edits".to_owned(), extension: "json", bytes: text.into_bytes() });
            }
            if ui.small_button("Open…").on_hover_text("a stack saved before; a file can also be dropped on the window").clicked() {
                cx.push(Action::Load(Load::Stack));
            }
            let stack = &cx.state.desk().stack;
            if stack.edits.iter().any(|e| e.action == Do::Mean) {
                ui.label(RichText::new("means over").font(theme::small()).color(cx.palette.weak));
                let hint = "this run's tokens; or texts, one after ;";
                let field = egui::TextEdit::singleline(&mut self.reference).hint_text(hint).desired_width(180.0);
                let response = ui.add(field).accessible_name("Reference texts").on_hover_text(
                    "texts over whose positions the mean is taken, separated by semicolons; empty: the edited run's own positions",
                );
                if response.lost_focus() {
                    let reference: Vec<String> =
                        self.reference.split(';').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect();
                    if reference != stack.reference {
                        let stack = EditStack { reference, ..(**stack).clone() };
                        cx.push(ModelAction::Edits("texts for means", stack));
                    }
                }
            }
        });
    }
}

/// The list: switch, move, remove.
fn stack(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let old = cx.state.desk().stack.clone();
    let mut new = old.clone();
    ui.horizontal(|ui| {
        ui.label(RichText::new("edits of the").font(theme::small()).color(cx.palette.weak));
        for which in [RunSide::Clean, RunSide::Corrupted] {
            let possible = which == RunSide::Clean || !cx.state.desk().corrupted.is_empty();
            let text = RichText::new(format!("{} run", which.name())).font(theme::small());
            let button = ui.add_enabled(possible, egui::Button::selectable(new.base == which, text));
            if button.on_disabled_hover_text("type a corrupted prompt first").clicked() {
                Arc::make_mut(&mut new).base = which;
            }
        }
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            if !old.edits.is_empty() && ui.small_button("remove all").clicked() {
                cx.push(Action::Do(Command::ClearEdits));
            }
        });
    });
    if !old.edits.is_empty() {
        ui.horizontal(|ui| held_still(ui, cx));
    }
    if old.edits.is_empty() {
        let text = "No edits yet: add one above, or click a cell of the patching view.";
        ui.label(RichText::new(text).color(cx.palette.weak));
    }
    let n = old.edits.len();
    for (i, edit) in old.edits.iter().enumerate() {
        ui.horizontal(|ui| {
            let mut on = edit.enabled;
            let switch = ui.checkbox(&mut on, "");
            switch.widget_info(|| egui::WidgetInfo::selected(egui::Role::CheckBox, true, on, format!("edit {i}")));
            if switch.clicked() {
                Arc::make_mut(&mut new).edits[i].enabled = on;
            }
            let color = if edit.enabled { cx.palette.text } else { cx.palette.faint };
            let text = RichText::new(edit.to_string()).font(theme::mono()).color(color);
            line_with(ui, text, |ui| {
                let button = |ui: &mut egui::Ui, text: &str, name: &str, possible: bool| {
                    let b = ui.add_enabled(possible, egui::Button::new(text).small().frame(false));
                    let b = b.on_hover_text(name).on_disabled_hover_text("there is no edit to move it past");
                    b.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, possible, format!("{name} {i}")));
                    b.clicked()
                };
                if button(ui, "✕", "remove edit", true) {
                    Arc::make_mut(&mut new).edits.remove(i);
                } else if button(ui, "↓", "move edit down", i + 1 < n) {
                    Arc::make_mut(&mut new).edits.swap(i, i + 1);
                } else if button(ui, "↑", "move edit up", i > 0) {
                    Arc::make_mut(&mut new).edits.swap(i, i - 1);
                }
            });
        });
    }
    if new != old {
        cx.push(ModelAction::Edits("change the edits", Arc::unwrap_or_clone(new)));
    }
}

/// The layers of a list as in `0-5, 7`.
fn layers(text: &str) -> Option<Vec<usize>> {
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if from > to || to > 9999 {
            return None;
        }
        all.extend(from..=to);
    }
    (!all.is_empty()).then(|| all.into_iter().collect())
}

/// What is held at the unedited run's values while the edits act.
pub fn held_still(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Free,
        Attention,
        Direct,
        Part,
    }
    let stack = cx.state.desk().stack.clone();
    let kind = match &stack.hold {
        Hold::Free => Kind::Free,
        Hold::Attention => Kind::Attention,
        Hold::Direct => Kind::Direct,
        Hold::Part(_) => Kind::Part,
    };
    let all = [
        (Kind::Free, "nothing"),
        (Kind::Attention, "attention patterns"),
        (Kind::Direct, "all but direct effects"),
        (Kind::Part, "patterns, and MLPs of layers"),
    ];
    let said = "what keeps its values of the unedited run, at the prompt's positions";
    let mut new = explained_choice(ui, ("held still", said), kind, &all).map(|kind| match kind {
        Kind::Free => Hold::Free,
        Kind::Attention => Hold::Attention,
        Kind::Direct => Hold::Direct,
        Kind::Part => {
            let mut layers: Vec<usize> = stack.active().map(|e| e.site.layer).collect();
            layers.sort_unstable();
            layers.dedup();
            Hold::Part(if layers.is_empty() { vec![0] } else { layers })
        }
    });
    if let Hold::Part(now) = &stack.hold {
        let id = ui.scope_id().with("held layers");
        let told = || now.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut text = ui.data_mut(|d| d.get_temp::<String>(id)).unwrap_or_else(told);
        let field = ui.add(egui::TextEdit::singleline(&mut text).desired_width(90.0));
        let field = field.accessible_name("Layers whose MLPs are held").on_hover_text("as in 0-5, 7");
        if field.has_focus() {
            ui.data_mut(|d| d.insert_temp(id, text));
        } else {
            ui.data_mut(|d| d.remove::<String>(id));
            if field.lost_focus()
                && let Some(layers) = layers(&text)
            {
                new = Some(Hold::Part(layers));
            }
        }
    }
    if let Some(hold) = new.filter(|h| *h != stack.hold) {
        cx.push(ModelAction::Edits("what is held still", EditStack { hold, ..(*stack).clone() }));
    }
}

/// What the edits do to the last prediction.
fn effect(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let results = &cx.state.results;
    if let Some(error) = results.edited.error() {
        ui.add_space(theme::GRID);
        ui.label(RichText::new(error).color(cx.palette.error));
        return;
    }
    let Some(edited) = cx.state.edited().cloned() else { return };
    let Some(base) = base_run(cx) else { return };
    ui.add_space(theme::GRID * 2.0);
    ui.label(RichText::new("What they do").font(theme::title()).color(cx.palette.accent));
    rows(ui, cx, &base, &edited);
    let Some(changes) = results.backup.get().cloned() else { return };
    rises(ui, cx, &changes.value);
}

/// The prediction before and after; false where there is no edited run yet, of which it says why.
pub fn beside(ui: &mut egui::Ui, cx: &Context<'_>) -> bool {
    if let Some(error) = cx.state.results.edited.error() {
        ui.add(egui::Label::new(RichText::new(error).color(cx.palette.error)).wrap());
        return false;
    }
    let (Some(base), Some(edited)) = (base_run(cx), cx.state.edited().cloned()) else { return false };
    rows(ui, cx, &base, &edited);
    true
}

fn rows(ui: &mut egui::Ui, cx: &Context<'_>, base: &Run, edited: &Run) {
    for (name, run) in [("before", base), ("after", edited)] {
        ui.horizontal_wrapped(|ui| {
            ui.spacing_mut().item_spacing.x = 12.0;
            ui.label(RichText::new(format!("{name:<6}")).font(theme::mono()).color(cx.palette.weak));
            for t in run.trace.next.last().into_iter().flatten().take(4) {
                // A token and its share stay together where the line breaks.
                let text = format!("{} {}", token_text::short(&cx.text_of(t.id), 10), share(t.prob));
                ui.add(egui::Label::new(RichText::new(text).font(theme::mono())).extend());
            }
        });
    }
}

/// Which components' direct attribution rises and falls the most.
fn rises(ui: &mut egui::Ui, cx: &mut Context<'_>, changes: &[Change]) {
    let sum = |f: fn(&Change) -> f32| changes.iter().map(f).sum::<f32>();
    ui.add_space(theme::GRID);
    let text = format!(
        "direct attribution of the answer: {:+.2} → {:+.2} over all heads and MLPs; largest rises (backup) and falls:",
        sum(|c| c.before),
        sum(|c| c.after)
    );
    ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak))
        .on_hover_text("each run's final norm is frozen at its own scale");
    let list = changes;
    let shown = list
        .iter()
        .take(8)
        .filter(|c| c.rise() > 0.0)
        .chain(list.iter().rev().take(6).rev().filter(|c| c.rise() < 0.0));
    let max = list.iter().map(|c| c.rise().abs()).fold(0f32, f32::max);
    for c in shown {
        let bar =
            Bar { label: c.component.to_string(), value: c.rise(), text: format!("{:+.2}", c.rise()), strong: false };
        let help = format!("direct attribution {:+.4} → {:+.4}", c.before, c.after);
        if bars::bar(ui, &bar, max, true, 62.0).on_hover_text(help).clicked()
            && let Component::Head { layer, head } = c.component
        {
            cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(head), false, Focus::Head));
        }
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "edits",
    title: "Edits",
    workspace: Workspace::Model,
    area: Area::Middle,
    make: || Box::new(EditsView::default()),
};
