//! Heads over a text: a map and a table of all heads, and a page for the pinned one.

use std::path::Path;
use std::sync::Arc;

use eframe::egui::text::LayoutJob;
use eframe::egui::{self, RichText, TextFormat};
use serde::{Deserialize, Serialize};

use crate::app::export::plate::is_plate;
use crate::app::look::theme;
use crate::app::view::{Area, Asking, Cached, Context, Table, View, ViewDef, Workspace, here};
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, sequential};
use crate::app::widgets::{bars, captioned, choice, controls, message, ragged, token_text};
use crate::gpu::HeatData;
use crate::heads::index::{Example, HeadIndex, Measure};
use crate::heads::question::{HeadsOver, Source};
use crate::jobs::{AnySlot, Slot};
use crate::model::Model;
use crate::session::Desk;
use crate::session::desk::Focus;

/// Tokens of a row of text.
const CONTEXT: usize = 64;
/// Components named that feed a head.
const FEEDS: usize = 6;

/// What the view keeps in the document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct HeadsSettings {
    text: String,
    tokens: usize,
    /// The text is scanned.
    scans: bool,
    /// Pages that were written before; shown where no text is scanned.
    file: Option<String>,
    /// The number of each head that is drawn and sorted by.
    by: By,
    table: bool,
    /// The smallest stand first in the list.
    upwards: bool,
}

impl Default for HeadsSettings {
    fn default() -> Self {
        Self {
            text: "mixed".to_owned(),
            tokens: 50_000,
            scans: false,
            file: None,
            by: By::Induction,
            table: false,
            upwards: false,
        }
    }
}

/// A number of each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    Previous,
    Duplicate,
    Induction,
    First,
    Entropy,
    Distance,
    Copying,
    AntiCopying,
}

impl By {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Previous, "previous"),
        (Self::Duplicate, "duplicate"),
        (Self::Induction, "induction"),
        (Self::First, "first"),
        (Self::Entropy, "entropy"),
        (Self::Distance, "distance"),
        (Self::Copying, "copying"),
        (Self::AntiCopying, "anti-copying"),
    ];

    fn explain(self) -> &'static str {
        match self.measure() {
            Some(m) => m.explain(),
            None if self == Self::Copying => "share of tokens that it promotes when it attends to them, by its weights",
            None => "share of tokens that it suppresses when it attends to them, by its weights",
        }
    }

    /// What the number counts.
    fn unit(self) -> &'static str {
        match self {
            Self::Previous | Self::Duplicate | Self::Induction | Self::First => "of its attention",
            Self::Entropy => "nats",
            Self::Distance => "tokens",
            Self::Copying | Self::AntiCopying => "of all tokens",
        }
    }

    fn measure(self) -> Option<Measure> {
        Some(match self {
            Self::Previous => Measure::Previous,
            Self::Duplicate => Measure::Duplicate,
            Self::Induction => Measure::Induction,
            Self::First => Measure::First,
            Self::Entropy => Measure::Entropy,
            Self::Distance => Measure::Distance,
            Self::Copying | Self::AntiCopying => return None,
        })
    }

    fn of(self, index: &HeadIndex, layer: usize, head: usize) -> f32 {
        match self.measure() {
            Some(m) => index.mean(layer, head, m),
            None => index.entry(layer, head).map_or(f32::NAN, |e| match self {
                Self::Copying => e.copying,
                _ => e.anti_copying,
            }),
        }
    }
}

#[derive(Default)]
pub struct HeadsView {
    index: Slot<HeadsOver>,
    /// What is typed for the next scan.
    typed: Option<(String, usize)>,
    data: Cached<(u64, By)>,
}

impl View for HeadsView {
    fn ask(&mut self, asking: &Asking<'_>) {
        let settings: HeadsSettings = asking.settings(&VIEW);
        let state = asking.state;
        let folders = &state.features.folders;
        let source = |model: &Model| match (settings.scans, &settings.file) {
            (true, _) => Some(Source::Text {
                texts: vec![settings.text.trim().to_owned()],
                context: CONTEXT.min(model.config.n_ctx),
                limit: Some(settings.tokens),
                folder: folders.keeps.then(|| folders.heads.clone()),
            }),
            (false, file) => file.as_ref().map(|file| Source::File(file.into())),
        };
        let question = state.model.as_ref().and_then(|model| {
            let source = source(model)?;
            Some(HeadsOver { model: model.clone(), source })
        });
        // A scan goes on while the view is hidden: it is the user who began it and who stops it.
        self.index.want(&state.pool, question);
        if self.index.get().is_some_and(|a| Some(&a.question.model) != state.model.as_ref()) {
            self.index.forget();
        }
    }

    fn slots(&mut self) -> Vec<&mut dyn AnySlot> {
        vec![&mut self.index]
    }

    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(model) = cx.state.model.clone() else {
            message(ui, "open a model to begin", false);
            return;
        };
        let settings: HeadsSettings = cx.settings(&VIEW);
        let mut new = settings.clone();
        controls(ui, |ui| self.fields(ui, cx, &mut new));
        if let Some(error) = self.index.error() {
            message(ui, error, true);
        } else if let Some(answer) = self.index.get().cloned() {
            let index = (*answer.value).clone();
            choices(ui, &mut new);
            let pinned = cx.pinned();
            let height = ui.available_height();
            ui.columns_const(|[left, right]| {
                left.set_max_height(height);
                if new.table {
                    table(left, cx, &index, &mut new);
                } else {
                    self.map(left, cx, &index, answer.stamp, new.by, answer.fresh && answer.whole);
                }
                let head = pinned.head.unwrap_or(0);
                page(right, cx, &model, &index, pinned.layer.min(index.about.n_layers - 1), head);
            });
        } else if settings.scans || settings.file.is_some() {
            here(ui, cx, &self.index);
        } else {
            message(
                ui,
                "scan a text to make a page for every head: what it looks at, what it writes, what feeds it; or drop a file of \
                 pages here",
                false,
            );
        }
        if new != settings {
            cx.set(&VIEW, &new);
        }
    }

    fn table(&self, _: &Context<'_>) -> Option<Table> {
        let index = self.index.value()?;
        let a = &index.about;
        let heads: Vec<(usize, usize)> = (0..a.n_layers).flat_map(|l| (0..a.n_heads).map(move |h| (l, h))).collect();
        Some(Table {
            name: "heads-over-text".to_owned(),
            row_axis: "head",
            col_axis: "score",
            rows: heads.iter().map(|(l, h)| format!("{l}.{h}")).collect(),
            cols: By::ALL.map(|(_, name)| name.to_owned()).to_vec(),
            values: heads
                .iter()
                .map(|(l, h)| By::ALL.map(|(by, _)| Some(by.of(index, *l, *h)).filter(|v| v.is_finite())).to_vec())
                .collect(),
            ..Table::default()
        })
    }
}

fn choices(ui: &mut egui::Ui, new: &mut HeadsSettings) {
    ui.horizontal(|ui| {
        if let Some(by) = choice(ui, "by", new.by, &By::ALL) {
            new.by = by;
        }
        if !is_plate(ui.ctx()) {
            ui.toggle_value(&mut new.table, RichText::new("table").font(theme::small()))
                .on_hover_text("all heads as a list, sorted by this number");
        }
    });
}

impl HeadsView {
    /// The text, and the button.
    fn fields(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, new: &mut HeadsSettings) {
        let weak = cx.palette.weak;
        let small = move |t: String| RichText::new(t).font(theme::small()).color(weak);
        let (words, tokens) = self.typed.get_or_insert_with(|| (new.text.clone(), new.tokens));
        let mut goes = false;
        ui.horizontal_wrapped(|ui| {
            ui.add_enabled_ui(!self.index.is_running(), |ui| {
                captioned(ui, small("text".to_owned()), 90.0, |ui| {
                    ui.add(egui::TextEdit::singleline(words).desired_width(90.0))
                        .on_hover_text("a text file, a folder of them, or a shipped text: mixed, prose")
                        .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "text for heads"));
                });
                captioned(ui, small("tokens".to_owned()), 70.0, |ui| {
                    let field = egui::DragValue::new(tokens).range(100..=1_000_000_000).speed(500.0);
                    ui.add(field).accessible_name("Tokens for heads");
                });
            })
            .response
            .on_disabled_hover_text("stop the scan first");
            if self.index.is_running() {
                if ui.button("Stop").on_hover_text("it goes on from here when it is asked for again").clicked() {
                    (new.scans, new.file) = (false, None);
                }
                if let Some(p) = self.index.progress() {
                    let left = p.seconds_left().map_or(String::new(), |s| format!(", {s:.0} s left"));
                    ui.label(small(format!("{:.0} %{left}", 100.0 * p.fraction())));
                }
            } else {
                let text = RichText::new("Scan").color(cx.palette.base);
                if ui.add(egui::Button::new(text).fill(cx.palette.accent)).clicked() {
                    (new.scans, new.file, new.text, new.tokens) = (true, None, words.clone(), *tokens);
                    goes = true;
                }
            }
            if let Some(answer) = self.index.get() {
                let about = &answer.about;
                let file = match &answer.question.source {
                    Source::File(path) => path.file_name().map(|name| format!(" in {}", name.to_string_lossy())),
                    Source::Text { .. } => None,
                };
                let missing = match (about.is_complete(), about.shard.missing().len()) {
                    (false, _) if !self.index.is_running() => ", not done".to_owned(),
                    (true, n) if n > 0 => format!(", {n} of {} parts missing", about.shard.of),
                    _ => String::new(),
                };
                ui.label(small(format!("{} queries{}{missing}", about.queries, file.unwrap_or_default())));
            }
        });
        if goes {
            self.index.retry();
        }
    }

    fn map(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, index: &HeadIndex, stamp: u64, by: By, fresh: bool) {
        let a = &index.about;
        let data = self.data.get((stamp, by), || {
            let values = (0..a.n_layers).flat_map(|l| (0..a.n_heads).map(move |h| by.of(index, l, h))).collect();
            HeatData::new(a.n_layers, a.n_heads, values)
        });
        let colors = sequential(&cx.palette, 0.0, data.max.max(1e-6), fresh);
        colorbar(ui, &colors, "0", &format!("{} {}", number(data.max), by.unit()));
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let outcome = Heatmap {
            name: "heads over a text",
            axes: ("layer", "head"),
            turns: (None, None),
            data: &data,
            painted: None,
            coloring: colors,
            row_label: &|r| r.to_string(),
            col_label: &|c| c.to_string(),
            row_label_width: 24.0,
            flip: true,
            square: false,
            least_row: 0.0,
            pinned: (Some(p.layer), p.head),
            hovered: (h.head.map(|h| h.0), h.head.map(|h| h.1)),
            isolate: Isolate::Nothing,
            cell_text: None,
            tooltip: &|ui, r, c| {
                ui.label(RichText::new(format!("head {r}.{c}")).font(theme::title()));
                for (by, name) in By::ALL {
                    ui.monospace(format!("{name:<14} {:>8.4}", by.of(index, r, c)));
                }
            },
        }
        .show(ui);
        if let Some((layer, head)) = outcome.hovered {
            (cx.hovered.layer, cx.hovered.head) = (Some(layer), Some((layer, head)));
        }
        if let Some((layer, head)) = outcome.clicked {
            pin(cx, layer, head);
        }
    }
}

fn pin(cx: &mut Context<'_>, layer: usize, head: usize) {
    cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(head), false, Focus::Head));
}

/// Letters of a column of the list: its name, and the arrow behind it.
fn column(name: &str) -> usize {
    name.len().max(6) + 2
}

/// All heads, sorted by a number; a click on its name sorts, a second one turns the order.
fn table(ui: &mut egui::Ui, cx: &mut Context<'_>, index: &HeadIndex, new: &mut HeadsSettings) {
    let a = &index.about;
    let by = new.by;
    let mut heads: Vec<(usize, usize, f32)> = (0..a.n_layers)
        .flat_map(|l| (0..a.n_heads).map(move |h| (l, h)))
        .map(|(l, h)| (l, h, by.of(index, l, h)))
        .collect();
    heads.sort_by(|x, y| if new.upwards { x.2.total_cmp(&y.2) } else { y.2.total_cmp(&x.2) });
    let pinned = (cx.pinned().layer, cx.pinned().head);
    let height = ui.text_style_height(&egui::TextStyle::Monospace);
    egui::ScrollArea::both().id_salt("heads table").auto_shrink([false, false]).show(ui, |ui| {
        ui.style_mut().wrap_mode = Some(egui::TextWrapMode::Extend);
        ui.horizontal(|ui| {
            let inset = ui.spacing().button_padding.x;
            (ui.spacing_mut().item_spacing.x, ui.spacing_mut().button_padding.x) = (0.0, 0.0);
            ui.add_space(inset);
            ui.label(RichText::new(format!("{:<6}", "head")).font(theme::mono_small()).color(cx.palette.weak));
            for (one, name) in By::ALL {
                let arrow = match (one == by, new.upwards) {
                    (false, _) => "",
                    (true, false) => "↓",
                    (true, true) => "↑",
                };
                let text = format!("{:>width$}", format!("{name}{arrow}"), width = column(name));
                let color = if one == by { cx.palette.accent } else { cx.palette.weak };
                let button = egui::Button::new(RichText::new(text).font(theme::mono_small()).color(color)).frame(false);
                let sorts = ui.add(button).accessible_name(format!("sort by {name}"));
                if sorts.on_hover_text(one.explain()).clicked() {
                    (new.by, new.upwards) = (one, one == by && !new.upwards);
                }
            }
        });
        // Only the rows that can be seen are laid out.
        let clip = ui.clip_rect();
        for (layer, head, _) in heads {
            let top = ui.cursor().min.y;
            if top > clip.max.y || top + height < clip.min.y {
                ui.add_space(height + ui.spacing().item_spacing.y);
                continue;
            }
            let cell = |(by, name): (By, &str)| format!("{:>w$.3}", by.of(index, layer, head), w = column(name));
            let numbers: String = By::ALL.into_iter().map(cell).collect();
            let text = RichText::new(format!("{:<6}{numbers}", format!("{layer}.{head}"))).font(theme::mono_small());
            if ui.selectable_label(pinned == (layer, Some(head)), text).clicked() {
                pin(cx, layer, head);
            }
        }
    });
}

/// One head's page.
fn page(ui: &mut egui::Ui, cx: &mut Context<'_>, model: &Arc<Model>, index: &HeadIndex, layer: usize, head: usize) {
    let Some(entry) = index.entry(layer, head) else { return };
    let weak = cx.palette.weak;
    let small = move |t: String| RichText::new(t).font(theme::small()).color(weak);
    egui::ScrollArea::vertical().id_salt("head page").auto_shrink([false, false]).show(ui, |ui| {
        ui.label(RichText::new(format!("Head {layer}.{head}")).font(theme::title()).color(cx.palette.accent));
        ui.horizontal_wrapped(|ui| {
            for (by, name) in By::ALL {
                let text = format!("{name} {:.3}", by.of(index, layer, head));
                // A score and its name stay together.
                let label = egui::Label::new(RichText::new(text).font(theme::mono_small())).extend();
                ui.add(label).on_hover_text(by.explain());
            }
        });
        for (name, of_key) in [("its query is fed by", false), ("its key is fed by", true)] {
            let list = index.feeds(&model.config, layer, head, of_key);
            ui.label(small(format!("{name} (mean share along it)")));
            let max = list.iter().map(|(_, s)| s.abs()).fold(0f32, f32::max);
            for (component, share) in list.into_iter().take(FEEDS) {
                let bar = bars::Bar {
                    label: component.to_string(),
                    value: share,
                    text: format!("{share:+.3}"),
                    strong: false,
                };
                let clicked = bars::bar(ui, &bar, max, true, 62.0).clicked();
                if let (true, crate::analysis::component::Component::Head { layer, head }) = (clicked, component) {
                    pin(cx, layer, head);
                }
            }
        }
        ui.add_space(theme::GRID);
        ui.label(small("where it looks hardest: query ← key, what it raises and lowers there".to_owned()));
        ragged(ui, |ui| {
            for example in &entry.top {
                draw(ui, cx, model, example);
            }
        });
    });
}

/// An example in two lines: the text with its query and its key, and the tokens that are raised and lowered.
fn draw(ui: &mut egui::Ui, cx: &Context<'_>, model: &Model, e: &Example) {
    let mut job = LayoutJob::default();
    let mut add = |text: String, color: egui::Color32| {
        job.append(&text, 0.0, TextFormat::simple(theme::mono_small(), color));
    };
    let said = |id: u32| token_text::short(&model.token_text(id), 16);
    let (weak, query, key) = (cx.palette.weak, cx.palette.accent, cx.palette.positive);
    // Where both are near they are one piece of text.
    let near = e.key >= e.query_start;
    if !near {
        for (i, id) in e.key_tokens.iter().enumerate() {
            add(said(*id), if e.key_start + i as u32 == e.key { key } else { weak });
        }
        add(" … ".to_owned(), weak);
    }
    for (i, id) in e.query_tokens.iter().enumerate() {
        let at = e.query_start + i as u32;
        let color = if at == e.query {
            query
        } else if near && at == e.key {
            key
        } else {
            weak
        };
        add(said(*id), color);
    }
    ui.add(egui::Label::new(job).wrap());
    let words = |list: &[(u32, f32)]| list.iter().map(|(id, _)| said(*id)).collect::<Vec<_>>().join(" ");
    let line = format!(
        "{:.2}  {} ← {}   + {}   − {}",
        e.weight,
        said(e.query_token()),
        said(e.key_token()),
        words(&e.promoted),
        words(&e.suppressed)
    );
    ui.add(egui::Label::new(RichText::new(line).font(theme::small()).color(weak)).truncate());
    ui.add_space(2.0);
}

/// The view's settings with a file of pages opened.
pub fn opened(desk: &Desk, path: &Path) -> serde_json::Value {
    let kept = desk.views.get(VIEW.name).and_then(|v| serde_json::from_value::<HeadsSettings>(v.clone()).ok());
    let settings = HeadsSettings { scans: false, file: Some(path.display().to_string()), ..kept.unwrap_or_default() };
    serde_json::to_value(settings).unwrap_or_default()
}

pub const VIEW: ViewDef = ViewDef {
    name: "heads",
    title: "Heads",
    workspace: Workspace::Model,
    area: Area::BottomRight,
    make: || Box::new(HeadsView::default()),
};
