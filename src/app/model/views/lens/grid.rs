//! The heatmap of the lens view, and what can be chosen above and below it.

use std::collections::BTreeMap;

use eframe::egui::{self, RichText};

use super::reading::{self};
use super::settings::{LensSettings, Scope, Through};
use super::{LensView, Quantity, VIEW, fitting, matrix};
use crate::analysis::logit_lens::LensOf;
use crate::app::action::{Action, Load};
use crate::app::export::plate::is_plate;
use crate::app::look::theme;
use crate::app::view::{Context, compared, layer_by_pos, scale};
use crate::app::widgets::colorbar::{colorbar, number, share};
use crate::app::widgets::heatmap::{Heatmap, Isolate, coloring, diverging};
use crate::app::widgets::{choice, token_text};
use crate::gpu::heatmap::Coloring;
use crate::gpu::{ColorMap, HeatData, NOTHING};
use crate::jobs::slot::Answer;
use crate::lenses::faithful::Effect;

/// The difference of two matrices of one shape.
fn less(a: &HeatData, b: &HeatData) -> HeatData {
    let cell = |r: usize, c: usize| a.get(r, c).zip(b.get(r, c)).map_or(NOTHING, |(x, y)| x - y);
    let values = (0..a.rows).flat_map(|r| (0..a.cols).map(move |c| (r, c))).map(|(r, c)| cell(r, c)).collect();
    HeatData::new(a.rows, a.cols, values)
}

/// The quantities that the run has.
fn quantities(cx: &Context<'_>) -> Vec<(Quantity, &'static str)> {
    let run = cx.run();
    let mut options = vec![
        (Quantity::TopProbability, "top token's probability"),
        (Quantity::ActualProbability, "actual token's probability"),
        (Quantity::ActualRank, "actual token's rank"),
        (Quantity::Entropy, "entropy"),
    ];
    if run.as_ref().is_some_and(|r| r.answer.is_some()) {
        options.push((Quantity::AnswerProbability, "answer's probability"));
        options.push((Quantity::AnswerRank, "answer's rank"));
    }
    if run.as_ref().is_some_and(|r| r.answer.is_some() && r.wrong.is_some()) {
        options.push((Quantity::AnswerDifference, "logit difference"));
    }
    options
}

impl LensView {
    /// The line above everything: which lens, less which other, and what of it.
    pub(super) fn lenses(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, settings: &LensSettings) {
        let mut new = settings.clone();
        ui.horizontal_wrapped(|ui| {
            for kind in Through::ALL {
                let text = RichText::new(kind.name()).font(theme::small());
                if ui.selectable_label(settings.through == kind, text).on_hover_text(kind.help()).clicked() {
                    new.through = kind;
                    new.minus = new.minus.filter(|m| *m != kind);
                }
            }
            let mut others: Vec<(Option<Through>, &str)> = vec![(None, "–")];
            others.extend(Through::ALL.into_iter().filter(|k| *k != new.through).map(|k| (Some(k), k.name())));
            if let Some(minus) = choice(ui, "less", new.minus, &others) {
                new.minus = minus;
            }
            if let Some(scope) = choice(ui, "faithfulness of", new.faithful, &Scope::ALL) {
                new.faithful = scope;
            }
            if new.faithful != Scope::None {
                ui.checkbox(&mut new.swapped, RichText::new("swapped with the answer").font(theme::small()))
                    .on_hover_text("what comes of swapping the read token and the answer, instead of taking it out");
            }
            if ui
                .small_button("Open…")
                .on_hover_text("a Jacobian lens (.pt, .safetensors) or a tuned lens (params.pt)")
                .clicked()
            {
                cx.push(Action::Load(Load::Lens));
            }
            ui.toggle_value(&mut self.fits, RichText::new("fit").font(theme::small()))
                .on_hover_text("fit a Jacobian lens of this model on a text");
        });
        if let Some(why) = reading::unasked(cx.state, settings) {
            ui.label(RichText::new(why).font(theme::small()).color(cx.palette.weak));
        } else if let Some(error) = self.reading.faithful.error().filter(|_| settings.faithful != Scope::None) {
            ui.label(RichText::new(error).font(theme::small()).color(cx.palette.error));
        }
        if new != *settings {
            cx.set(&VIEW, &new);
        }
        if self.fits || self.reading.begun.is_some() {
            fitting::ui(ui, cx, &mut self.reading, &mut self.typed, &new);
        }
    }

    pub(super) fn grid(
        &mut self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        settings: &LensSettings,
        lens: &Answer<LensOf>,
        minus: Option<&Answer<LensOf>>,
    ) {
        let options = quantities(cx);
        if !options.iter().any(|(q, _)| *q == self.quantity) {
            self.quantity = Quantity::default();
        }
        let quantity = self.quantity;
        let key = (lens.stamp, minus.map(|m| m.stamp), quantity, settings.through, settings.minus);
        let data = self.data.get(key, || {
            let of = |l: &Answer<LensOf>| compared(&l.value, false, true, |l| matrix(l, quantity));
            minus.map_or_else(|| of(lens), |m| less(&of(lens), &of(m)))
        });
        let fresh = lens.fresh && minus.is_none_or(|m| m.fresh);
        let (colors, low, high) = match minus {
            Some(_) => {
                let m = data.max_abs();
                (diverging(&cx.palette, m, fresh), number(-m), number(m))
            }
            None => scale(cx, &lens.value, &data, lens.fresh, || own_scale(cx, quantity, &data, lens.fresh)),
        };
        ui.horizontal(|ui| {
            if let Some(q) = choice(ui, "colour", self.quantity, &options) {
                self.quantity = q;
            }
            if settings.faithful != Scope::None && reading::unasked(cx.state, settings).is_none() {
                ui.label(RichText::new("bar: faithfulness, full at 1").font(theme::small()).color(cx.palette.weak))
                    .on_hover_text(
                        "what really comes of the change over what the lens says will come of it; in the other colour where \
                         the opposite comes of it",
                    );
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| colorbar(ui, &colors, &low, &high));
        });
        let foot = if is_plate(ui.ctx()) { 0.0 } else { 2.4 * ui.spacing().interact_size.y };
        let size = egui::vec2(ui.available_width(), (ui.available_height() - foot).max(40.0));
        ui.allocate_ui(size, |ui| self.heatmap(ui, cx, settings, (lens, minus), &data, colors));
        if !is_plate(ui.ctx()) {
            let p = cx.pinned();
            let through = self.reading.lens(settings.through).flatten();
            let cell = reading::cell(&lens.value, p.layer, p.pos);
            self.touch.ui(ui, cx, settings, through.as_ref(), cell);
        }
    }

    fn heatmap(
        &self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        settings: &LensSettings,
        (lens, minus): (&Answer<LensOf>, Option<&Answer<LensOf>>),
        data: &HeatData,
        colors: Coloring,
    ) {
        let (p, h) = (cx.pinned(), cx.state.hovered);
        let top = |r: usize, c: usize| reading::cell(&lens.value, r, c);
        let found = self.reading.faithful.fresh().filter(|_| settings.faithful != Scope::None);
        let effects: BTreeMap<(usize, usize), Effect> =
            found.iter().flat_map(|f| f.iter()).map(|e| ((e.target.layer, e.target.pos), *e)).collect();
        let second = |r: usize, c: usize| effects.get(&(r, c)).and_then(Effect::faithfulness);
        let turns = cx.turns();
        let outcome = Heatmap {
            name: settings.through.name(),
            axes: ("layer", "token"),
            turns: (None, Some(&turns)),
            data,
            coloring: colors,
            row_label: &|r| r.to_string(),
            col_label: &|c| cx.token(c),
            row_label_width: 24.0,
            flip: true,
            square: false,
            least_row: 0.0,
            painted: None,
            pinned: (Some(p.layer), Some(p.pos)),
            hovered: (h.layer, h.pos),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| {
                top(r, c).and_then(|c| c.top.first()).map(|t| token_text::short(&cx.text_of(t.id), 9))
            }),
            tooltip: &|ui, r, c| {
                ui.label(RichText::new(format!("layer {r}, after {} ({c})", cx.token(c))).font(theme::title()));
                if (lens.value.minus.is_some() || minus.is_some())
                    && let Some(v) = data.get(r, c)
                {
                    ui.label(RichText::new(format!("difference {v:+.4}")).font(theme::title()));
                }
                if let Some(cell) = top(r, c) {
                    for t in &cell.top {
                        ui.monospace(format!("{:<14} {:>10}", cx.text_of(t.id), share(t.prob)));
                    }
                    if let Some(rank) = cell.actual_rank {
                        ui.label(format!("actual next token {}: rank {}", cx.token(c + 1), rank + 1));
                    }
                    if let Some(a) = &cell.answer {
                        ui.label(format!("answer: probability {}, rank {}", share(a.prob), a.rank + 1));
                    }
                    ui.label(format!("entropy {:.2} nats", cell.entropy));
                }
                if let Some(other) = minus.and_then(|m| reading::cell(&m.value, r, c)) {
                    let words: Vec<String> = other.top.iter().take(5).map(|t| cx.text_of(t.id)).collect();
                    let kind = settings.minus.map_or("", Through::name);
                    ui.label(format!("{kind}: {}", words.join(" ")));
                }
                if let Some(e) = effects.get(&(r, c)) {
                    let share = e.faithfulness().map_or("–".to_owned(), |f| format!("{f:.2}"));
                    ui.label(format!(
                        "what comes of it: {:+.2}, the lens says {:+.2}: faithful {share}",
                        e.real, e.said
                    ));
                    ui.weak(format!("({})", Effect::UNIT));
                }
            },
        }
        .show_with(ui, (!effects.is_empty()).then_some(&second));
        layer_by_pos(cx, &outcome);
    }
}

/// The colours of a quantity that is no difference, and the ends of their scale.
fn own_scale(cx: &Context<'_>, quantity: Quantity, data: &HeatData, fresh: bool) -> (Coloring, String, String) {
    match quantity {
        Quantity::AnswerDifference => {
            let m = data.max_abs();
            (diverging(&cx.palette, m, fresh), number(-m), number(m))
        }
        Quantity::ActualRank | Quantity::AnswerRank => {
            let worst = 10f32.powf(-data.min);
            let c = coloring(&cx.palette, ColorMap::Viridis, data.min.min(-1.0), 0.0, false, fresh);
            (c, format!("rank {worst:.0}"), "1".to_owned())
        }
        Quantity::Entropy => {
            let c = coloring(&cx.palette, ColorMap::Viridis, 0.0, data.max, false, fresh);
            (c, "0".to_owned(), format!("{:.1} nats", data.max))
        }
        _ => {
            let c = coloring(&cx.palette, ColorMap::Viridis, 0.0, 1.0, false, fresh);
            (c, "0".to_owned(), "1".to_owned())
        }
    }
}
