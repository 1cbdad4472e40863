//! Concepts and kept features over the tokens of the prompt.

use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace};

use eframe::egui::{self, RichText};

use super::{act, weak};
use crate::app::features::{FeatureAction, Watch};
use crate::app::look::theme;
use crate::app::widgets::colorbar::colorbar;
use crate::app::widgets::controls;
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging};
use crate::app::widgets::turns::Turns;
use crate::app::widgets::{captioned, choice, message, token_text};
use crate::features::monitor::{Follow, MonitorRow, Monitored};
use crate::gpu::HeatData;
use crate::gpu::heatmap::Coloring;

/// Height of a row where there is more room than that, in points.
const MOST_HIGH: f32 = 90.0;
/// Room for the tokens below the rows.
const COLUMN_NAMES: f32 = 60.0;

#[derive(Default)]
pub struct Monitor {
    data: Cached<(u64, bool)>,
    /// Shows what the inside reads beyond what the word itself says.
    beyond: bool,
}

/// Marks where an internal reading and the text diverge: read inside but not said, and said but not read.
const INSIDE: &str = "◆";
const SAID: &str = "◇";

/// The rows' values as they are shown, against the thresholds.
struct Reading<'a> {
    monitored: &'a Monitored,
    thresholds: Vec<Option<f32>>,
    /// Less what the word itself says.
    beyond: bool,
}

impl Reading<'_> {
    fn is_concept(&self, r: usize) -> bool {
        matches!(self.monitored.rows.get(r), Some(MonitorRow::Concept(..)))
    }

    fn threshold(&self, r: usize) -> f32 {
        self.thresholds.get(r).copied().flatten().unwrap_or(f32::INFINITY)
    }

    fn value(&self, r: usize, c: usize) -> Option<f32> {
        self.monitored.values.get(r).and_then(|row| row.get(c)).copied()
    }

    /// What the word by itself reads.
    fn word(&self, r: usize, c: usize) -> Option<f32> {
        self.monitored.word.get(r).and_then(Option::as_ref).and_then(|w| w.get(c)).copied()
    }

    fn at(&self, r: usize, c: usize) -> Option<f32> {
        let word = self.word(r, c).filter(|_| self.beyond);
        Some(self.value(r, c)? - word.unwrap_or(0.0))
    }

    /// The mark where the inside reads the concept and the word by itself does not, or the other way round.
    fn parted(&self, r: usize, c: usize) -> Option<&'static str> {
        let (inside, said) = (self.value(r, c)? > self.threshold(r), self.word(r, c)? > self.threshold(r));
        (inside != said).then_some(if inside { INSIDE } else { SAID })
    }

    fn cell_text(&self, r: usize, c: usize) -> Option<String> {
        let v = self.at(r, c)?;
        let above = self.value(r, c).is_some_and(|v| v > self.threshold(r));
        let mark = self.parted(r, c).or(above.then_some("•")).unwrap_or_default();
        Some(if v.abs() < 1.0 { format!("{mark} {v:.2}") } else { format!("{mark} {v:.1}") })
    }

    fn tooltip(&self, ui: &mut egui::Ui, title: &str, r: usize, c: usize) {
        let Some(v) = self.at(r, c) else { return };
        ui.label(RichText::new(title).font(theme::title()));
        if self.is_concept(r) {
            ui.monospace(format!("{v:+.3} (+0.5: mean of texts with it, −0.5: without)"));
            if let Some(w) = self.word(r, c) {
                ui.monospace(format!("{w:+.3} by the word itself"));
            }
            match self.parted(r, c) {
                Some(INSIDE) => {
                    ui.label(format!("{INSIDE} the model reads it here, the word does not say it"));
                }
                Some(_) => {
                    ui.label(format!("{SAID} the word says it, the model does not read it here"));
                }
                None => {}
            }
        } else {
            ui.monospace(format!("activation {v:.4}"));
        }
    }
}

impl Monitor {
    /// What is read, and how it is shown; returns what was chosen.
    fn controls(&mut self, ui: &mut egui::Ui, cx: &Context<'_>, colors: &Coloring) -> Option<FeatureAction> {
        let mut change = None;
        ui.horizontal(|ui| {
            let options = [
                (Follow::Prompt, "the prompt"),
                (Follow::Generated, "prompt and continuation"),
                (Follow::Steered, "prompt and continuation with edits"),
            ];
            if let Some(f) = choice(ui, "read", cx.state.features.desk.follow, &options) {
                change = Some(FeatureAction::Follow(f));
            }
            controls(ui, |ui| {
                ui.checkbox(&mut self.beyond, "less the word itself").on_hover_text(
                    "takes away what the direction of the first layer reads: what stays is where inside and text diverge",
                );
            });
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                colorbar(ui, colors, "less", "more");
            });
        });
        change
    }
}

impl View for Monitor {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.features;
        if let Some(e) = s.monitored.error() {
            message(ui, e, true);
            return;
        }
        let Some(m) = s.monitored.get().cloned() else {
            let text = if s.monitored.is_running() {
                "reading the prompt …"
            } else if s.monitored.is_stopped() {
                "stopped; F5 reads the prompt again"
            } else {
                "find a direction at the left, or keep a feature from its page"
            };
            message(ui, text, false);
            return;
        };
        // As they are now: a threshold is moved without anything being run again.
        let thresholds: Vec<Option<f32>> = m.rows.iter().map(|row| s.threshold(row)).collect();
        let beyond = self.beyond;
        let reading = Reading { monitored: &m, thresholds, beyond };
        let names: Vec<String> = m.rows.iter().map(|row| s.row_name(row)).collect();
        let n = m.texts.len();
        // Features have scales of their own; each row is shown against its largest value after the first position.
        let largest: Vec<f32> = (0..m.values.len())
            .map(|r| {
                let own = (usize::from(n > 1)..n).filter_map(|c| reading.at(r, c)).fold(0f32, |a, v| a.max(v.abs()));
                if reading.is_concept(r) { own.max(1.0) } else { own.max(f32::MIN_POSITIVE) }
            })
            .collect();
        let data = self.data.get((m.stamp, beyond), || {
            let cell = |r: usize, c: usize| reading.at(r, c).map_or(crate::gpu::NOTHING, |v| v / largest[r]);
            let values =
                (0..m.values.len()).flat_map(|r| (0..n).map(move |c| (r, c))).map(|(r, c)| cell(r, c)).collect();
            HeatData::new(m.values.len(), n, values)
        });
        let colors = diverging(&cx.palette, 1.0, m.fresh && m.whole);
        let mut changes: Vec<FeatureAction> = Vec::new();
        changes.extend(self.controls(ui, cx, &colors));
        // Many rows' fields leave room for the rows.
        let high = 0.4 * ui.available_height();
        egui::ScrollArea::vertical().max_height(high).auto_shrink([false, true]).show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                for (r, row) in m.rows.iter().enumerate().take(m.values.len()) {
                    let Some(value) = reading.thresholds[r] else { continue };
                    let above = (1..n).filter(|c| m.values[r].get(*c).is_some_and(|v| *v > value)).count();
                    let apart =
                        |mark| format!(", {} {mark}", (1..n).filter(|c| reading.parted(r, *c) == Some(mark)).count());
                    let apart = if m.word[r].is_some() { apart(INSIDE) + &apart(SAID) } else { String::new() };
                    let counts = format!("{above} of {} tokens •{apart}", n.saturating_sub(1));
                    let change = |t: f32| match row {
                        MonitorRow::Feature(f) => Some(FeatureAction::KeptThreshold(*f, t)),
                        MonitorRow::Concept(concept, _) => {
                            let same = |w: &Watch| w.concept == *concept;
                            s.desk.watched.iter().position(same).map(|i| FeatureAction::Threshold(i, t))
                        }
                    };
                    changes.extend(threshold_field(ui, cx, &names[r], value, &counts).and_then(change));
                }
            });
        });
        changes.into_iter().for_each(|c| act(cx, c));
        let pos = cx.pinned().pos;
        let h = cx.state.hovered;
        let token = |c: usize| m.texts.get(c).map_or_else(String::new, |t| token_text::short(t, 12));
        // It is a strip: a few rows do not fill a large window.
        let height = ui.available_height().min(MOST_HIGH * m.values.len() as f32 + COLUMN_NAMES);
        // What was generated stands behind the prompt.
        let run = cx.run().filter(|r| m.texts.starts_with(&r.texts));
        let turns = run.map_or_else(Turns::default, |r| cx.turns_of(&r));
        let heatmap = Heatmap {
            name: "monitor",
            axes: ("", "token"),
            turns: (None, Some(&turns)),
            data: &data,
            coloring: colors,
            row_label: &|r| names.get(r).cloned().unwrap_or_default(),
            col_label: &|c| token(c),
            row_label_width: 170.0,
            flip: false,
            square: false,
            least_row: 0.0,
            painted: None,
            pinned: (None, Some(pos)),
            hovered: (None, h.pos),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| reading.cell_text(r, c)),
            tooltip: &|ui, r, c| {
                let title = format!("{} on {} ({c})", names[r], token(c));
                reading.tooltip(ui, &title, r, c);
            },
        };
        let outcome = ui.allocate_ui(egui::vec2(ui.available_width(), height), |ui| heatmap.show(ui)).inner;
        if let Some((_, c)) = outcome.hovered.filter(|(_, c)| *c < m.prompt) {
            cx.hovered.pos = Some(c);
        }
        if let Some((_, c)) = outcome.clicked.filter(|(_, c)| *c < m.prompt) {
            cx.pin(|p| p.pos = c);
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.features;
        let m = s.monitored.value()?;
        Some(Table {
            name: "monitor".to_owned(),
            row_axis: "concept",
            col_axis: "pos",
            rows: m.rows.iter().map(|row| s.row_name(row)).collect(),
            cols: m.texts.iter().enumerate().map(|(i, t)| format!("{i} {}", token_text::visible(t))).collect(),
            values: m.values.iter().map(|r| r.iter().map(|v| Some(*v)).collect()).collect(),
            ..Table::default()
        })
    }
}

/// The value above which a row marks tokens, and how many it marks; says what it was changed to.
fn threshold_field(ui: &mut egui::Ui, cx: &Context<'_>, name: &str, value: f32, counts: &str) -> Option<f32> {
    let mut threshold = value;
    let size = |text: &str| ui.painter().layout_no_wrap(text.to_owned(), theme::small(), cx.palette.weak).size().x;
    let field = ui.spacing().interact_size.x.max(size("0000.00"));
    let width = field + ui.spacing().item_spacing.x + size(counts);
    captioned(ui, weak(cx, format!("{} above", token_text::cut(name, 30))), width, |ui| {
        let drag = egui::DragValue::new(&mut threshold).range(-1e6..=1e6).speed(0.02).fixed_decimals(2);
        ui.add(drag).on_hover_text(name).accessible_name(format!("threshold of {name}"));
        ui.add(egui::Label::new(weak(cx, counts)).extend()).on_hover_text(
            "• reads above the threshold · ◆ reads above it, though the word by itself (the direction of the first \
             layer) does not: inside and text diverge",
        );
    });
    (threshold != value && threshold.is_finite()).then_some(threshold)
}

pub const VIEW: ViewDef = ViewDef {
    name: "monitor",
    title: "Monitor",
    workspace: Workspace::Features,
    area: Area::TopLeft,
    make: || Box::new(Monitor::default()),
};
