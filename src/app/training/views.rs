//! Views of a transformer in training: curves, patterns, spectra.

use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace};
use std::sync::Arc;

use eframe::egui::{self, Align2, Color32, Rect, RichText, pos2, vec2};
use egui_plot::{Corner, Legend, Line, PlotPoints, VLine};

use crate::app::action::Action;
use crate::app::look::svg::paint_cells;
use crate::app::look::theme;
use crate::app::training::ScratchAction;
use crate::app::widgets::colorbar::colorbar;
use crate::app::widgets::heatmap::Heatmap;
use crate::app::widgets::heatmap::Isolate;
use crate::app::widgets::heatmap::sequential;
use crate::app::widgets::message;
use crate::app::widgets::plots::over_steps;
use crate::gpu::heatmap::{Coloring, HeatmapCallback};
use crate::gpu::{HeatData, NOTHING};
use crate::training::addition::KEY;
use crate::training::course::{Named, Sight};

/// The look on screen, or a sentence where there is none.
fn ready(ui: &mut egui::Ui, cx: &Context<'_>) -> Option<Arc<Sight>> {
    let s = &cx.state.scratch;
    if let Some(sight) = s.sight() {
        return Some(sight.clone());
    }
    match (&s.error, s.is_running()) {
        (Some(e), _) => message(ui, e, true),
        (None, true) => message(ui, "the first steps …", false),
        (None, false) => message(ui, "choose a model at the left and press Train", false),
    }
    None
}

pub struct Curves;

/// Names of all series in the order of their first appearance.
fn names<'a>(all: impl Iterator<Item = &'a [Named]>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for (name, _) in all.flatten() {
        if !list.contains(name) {
            list.push(name.clone());
        }
    }
    list
}

fn colors(cx: &Context<'_>) -> [Color32; 4] {
    [cx.palette.positive, cx.palette.accent, cx.palette.negative, cx.palette.bar]
}

impl View for Curves {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.scratch;
        let Some(sight) = ready(ui, cx) else { return };
        let group = ui.scope_id().with("steps");
        let space = ui.available_height();
        let weak = |t: &str| RichText::new(t).font(theme::small()).color(cx.palette.weak);
        ui.label(weak("loss, nats (logarithmic)"));
        let losses: Vec<(usize, &[Named])> = s.reports.iter().map(|r| (r.step, r.values.as_slice())).collect();
        // Losses that are measured beside the others belong to them.
        let is_loss = |name: &str| name.starts_with("loss");
        let scores: Vec<(usize, &[Named])> = s.sights.iter().map(|x| (x.step, x.scores.as_slice())).collect();
        let mut chosen = None;
        for (name, height, log) in [("loss", space * 0.5 - 30.0, true), ("scores", ui.available_height(), false)] {
            if !log {
                ui.label(weak("what it can do"));
            }
            let mut series: Vec<(String, Vec<[f64; 2]>)> = Vec::new();
            for (all, wanted) in [(&losses, log), (&scores, log)] {
                for n in names(all.iter().map(|x| x.1)) {
                    let mine = std::ptr::eq(all, &losses) || is_loss(&n);
                    if mine != wanted {
                        continue;
                    }
                    let value = |v: f32| f64::from(if log { v.max(1e-8).log10() } else { v });
                    let points = all
                        .iter()
                        .filter_map(|(step, values)| {
                            Some([*step as f64, value(values.iter().find(|(m, _)| *m == n)?.1)])
                        })
                        .collect();
                    series.push((n, points));
                }
            }
            let height = if log { height } else { ui.available_height() };
            let response = over_steps(name, if log { "" } else { "step" }, log)
                .height(height.max(60.0))
                .link_axis(group, [true, false])
                .include_x(0.0)
                .legend(Legend::default().position(if log { Corner::RightTop } else { Corner::LeftTop }))
                .show(ui, |p| {
                    if !log {
                        p.set_plot_bounds_y(-0.03..=1.05);
                    }
                    for (k, (n, points)) in series.into_iter().enumerate() {
                        let color = colors(cx)[k % 4];
                        p.line(Line::new(n, PlotPoints::from(points)).color(color).width(2.0));
                    }
                    if s.shown.is_some() {
                        p.vline(VLine::new("", sight.step as f64).color(cx.palette.faint).allow_hover(false));
                    }
                });
            if response.response.clicked() {
                chosen =
                    response.response.interact_pointer_pos().map(|at| response.transform.value_from_position(at).x);
            }
        }
        if let Some(x) = chosen {
            let far = |k: usize| (s.sights[k].step as f64 - x).abs();
            let near = (0..s.sights.len()).min_by(|a, b| far(*a).total_cmp(&far(*b)));
            cx.push(Action::Scratch(ScratchAction::Scrub(near)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.scratch;
        let mut cols = names(s.reports.iter().map(|r| r.values.as_slice()));
        let own = cols.len();
        cols.extend(names(s.sights.iter().map(|x| x.scores.as_slice())));
        let mut steps: Vec<usize> = s.reports.iter().map(|r| r.step).chain(s.sights.iter().map(|x| x.step)).collect();
        steps.sort_unstable();
        steps.dedup();
        if steps.is_empty() {
            return None;
        }
        let find = |values: Option<&[Named]>, name: &str| values?.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let values = steps
            .iter()
            .map(|step| {
                let r = s.reports.iter().find(|r| r.step == *step).map(|r| r.values.as_slice());
                let x = s.sights.iter().find(|x| x.step == *step).map(|x| x.scores.as_slice());
                cols.iter().enumerate().map(|(k, n)| find(if k < own { r } else { x }, n)).collect()
            })
            .collect();
        Some(Table {
            name: format!("{}-curves", s.lab),
            row_axis: "step",
            col_axis: "value",
            rows: steps.iter().map(ToString::to_string).collect(),
            cols,
            values,
        })
    }
}

#[derive(Default)]
pub struct Patterns {
    /// The look that the pictures are of.
    of: Option<Arc<Sight>>,
    small: Vec<((usize, usize), HeatData)>,
    large: Cached<(usize, usize, usize)>,
}

/// Lower triangle of a pattern; nothing above, where no query looks.
fn triangle(values: &[f32], n: usize) -> HeatData {
    let cells = (0..n * n).map(|i| if i % n <= i / n { values.get(i).copied().unwrap_or(NOTHING) } else { NOTHING });
    HeatData::new(n, n, cells.collect())
}

impl View for Patterns {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(sight) = ready(ui, cx) else { return };
        let n = sight.tokens.len();
        let heads: Vec<(usize, usize)> =
            sight.patterns.iter().enumerate().flat_map(|(l, hs)| (0..hs.len()).map(move |h| (l, h))).collect();
        let per_layer = sight.patterns.first().map_or(1, Vec::len).max(1);
        let layers = sight.patterns.len().max(1);
        let space = ui.available_size();
        let side = (space.x / per_layer as f32 - 10.0).min(space.y * 0.42 / layers as f32 - 18.0).clamp(30.0, 150.0);
        let colors = sequential(&cx.palette, 0.0, 1.0, true);
        let origin = ui.cursor().min;
        if self.of.as_ref().is_none_or(|o| !Arc::ptr_eq(o, &sight)) {
            (self.of, self.small, self.large) = (Some(sight.clone()), Vec::new(), Cached::default());
        }
        for (l, h) in heads {
            let key = (l, h);
            let data = match self.small.iter().find(|c| c.0 == key) {
                Some((_, d)) => d.clone(),
                None => {
                    let d = triangle(&sight.patterns[l][h], n);
                    self.small.push((key, d.clone()));
                    d
                }
            };
            // The last layer on top, as it reads from those below.
            let row = layers - 1 - l;
            let min = origin + vec2(h as f32 * (side + 10.0), row as f32 * (side + 18.0));
            let rect = Rect::from_min_size(min + vec2(0.0, 14.0), vec2(side, side));
            let response = ui.interact(rect, ui.scope_id().with(("head", l, h)), egui::Sense::click());
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("head {l}.{h}")));
            let chosen = cx.state.scratch.head == (l, h);
            let ink = if chosen { cx.palette.accent } else { cx.palette.weak };
            ui.painter().text(min, Align2::LEFT_TOP, format!("head {l}.{h}"), theme::small(), ink);
            let cells = HeatmapCallback {
                widget: response.id.value(),
                window: [0.0, 0.0, n as f32, n as f32],
                data,
                rect,
                coloring: Coloring { gap_width: 0.0, ..colors },
            };
            paint_cells(ui, &ui.painter_at(rect), cells);
            if chosen || response.hovered() {
                let stroke = egui::Stroke::new(1.5, ink);
                ui.painter().rect_stroke(rect, 1.0, stroke, egui::StrokeKind::Outside);
            }
            if response.clicked() {
                cx.push(Action::Scratch(ScratchAction::Head(l, h)));
            }
        }
        ui.allocate_space(vec2(space.x, layers as f32 * (side + 18.0) + 4.0));
        let (l, h) = cx.state.scratch.head;
        let Some(values) = sight.patterns.get(l).and_then(|hs| hs.get(h)) else { return };
        ui.horizontal(|ui| {
            ui.label(RichText::new(format!("Head {l}.{h}")).font(theme::title()).color(cx.palette.accent));
            ui.label(RichText::new("rows attend to columns").font(theme::small()).color(cx.palette.weak));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| colorbar(ui, &colors, "0", "1"));
        });
        let data = self.large.get((l, h, n), || triangle(values, n));
        let token = |i: usize| sight.tokens.get(i).cloned().unwrap_or_default();
        Heatmap {
            name: "pattern in training",
            data: &data,
            coloring: colors,
            row_label: &token,
            col_label: &token,
            row_label_width: 54.0,
            flip: false,
            square: true,
            least_row: 0.0,
            pinned: (None, None),
            hovered: (None, None),
            isolate: Isolate::Nothing,
            cell_text: Some(&|r, c| data.get(r, c).map(|v| format!("{v:.2}"))),
            tooltip: &|ui, r, c| {
                let Some(v) = data.get(r, c) else { return };
                ui.label(RichText::new(format!("{} ({r}) → {} ({c})", token(r), token(c))).font(theme::title()));
                ui.monospace(format!("attention {v:.4} at step {}", sight.step));
            },
        }
        .show(ui);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.scratch;
        let sight = s.sight()?;
        let n = sight.tokens.len();
        let data = triangle(sight.patterns.get(s.head.0)?.get(s.head.1)?, n);
        let labels: Vec<String> = sight.tokens.iter().enumerate().map(|(i, t)| format!("{i} {t}")).collect();
        let name = format!("pattern-{}.{}-step-{}", s.head.0, s.head.1, sight.step);
        Some(Table::grid(&name, ("dest", "src"), &data, labels.clone(), labels))
    }
}

pub struct FourierView;

impl View for FourierView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(sight) = ready(ui, cx) else { return };
        let Some(f) = &sight.fourier else {
            message(ui, "only modular addition works with waves; train `addition` to see its key frequencies", false);
            return;
        };
        let keys = f.key_frequencies();
        let text = if keys.is_empty() {
            "no key frequencies yet: what is known is known by heart".to_owned()
        } else {
            let list: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let share: f32 = keys.iter().map(|k| f.logits[k - 1]).sum();
            format!("key frequencies {}: {:.0} % of the logits' variance", list.join(", "), 100.0 * share)
        };
        ui.label(RichText::new(text).font(theme::title()).color(cx.palette.accent))
            .on_hover_text(format!("a frequency is key from {:.0} % of the variance on", 100.0 * KEY));
        let half = ui.available_height() / 2.0 - 6.0;
        for (title, values, help) in [
            ("logits: share of variance in cos 2πk(a + b − c)/59", &f.logits, "the answer as a sum of waves"),
            ("embedding: share of variance in waves of frequency k", &f.embedding, "the numbers as waves"),
        ] {
            ui.allocate_ui(vec2(ui.available_width(), half), |ui| {
                ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak)).on_hover_text(help);
                spectrum(ui, cx, values, &keys);
            });
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let f = cx.state.scratch.sight()?.fourier.as_ref()?;
        Some(Table {
            name: "fourier".to_owned(),
            row_axis: "frequency",
            col_axis: "share of variance",
            rows: (1..=f.logits.len()).map(|k| k.to_string()).collect(),
            cols: vec!["logits".to_owned(), "embedding".to_owned()],
            values: f.logits.iter().zip(&f.embedding).map(|(a, b)| vec![Some(*a), Some(*b)]).collect(),
        })
    }
}

/// Bars over frequencies; key ones in the accent.
fn spectrum(ui: &mut egui::Ui, cx: &Context<'_>, values: &[f32], keys: &[usize]) {
    let (rect, response) = ui.allocate_exact_size(ui.available_size(), egui::Sense::hover());
    let painter = ui.painter_at(rect);
    let plot = Rect::from_min_max(rect.min + vec2(40.0, 4.0), rect.max - vec2(4.0, 16.0));
    let top = values.iter().copied().fold(0.05, f32::max);
    let pitch = plot.width() / values.len().max(1) as f32;
    painter.hline(plot.x_range(), plot.max.y, egui::Stroke::new(1.0, cx.palette.border));
    for (y, v) in [(plot.min.y + 5.0, top), (plot.max.y - 5.0, 0.0)] {
        let text = format!("{:.0} %", 100.0 * v);
        painter.text(pos2(plot.min.x - 4.0, y), Align2::RIGHT_CENTER, text, theme::mono_small(), cx.palette.weak);
    }
    for (i, v) in values.iter().enumerate() {
        let key = keys.contains(&(i + 1));
        let x = plot.min.x + i as f32 * pitch;
        let bar = Rect::from_min_max(
            pos2(x + 1.0, plot.max.y - (v / top).clamp(0.0, 1.0) * plot.height()),
            pos2(x + pitch - 1.0, plot.max.y),
        );
        painter.rect_filled(bar, 1.0, if key { cx.palette.accent } else { cx.palette.bar });
        if key || pitch > 16.0 {
            let ink = if key { cx.palette.accent } else { cx.palette.weak };
            let at = pos2(bar.center().x, plot.max.y + 2.0);
            painter.text(at, Align2::CENTER_TOP, i + 1, theme::mono_small(), ink);
        }
    }
    if let Some(at) = response.hover_pos().filter(|p| plot.contains(*p)) {
        let i = (((at.x - plot.min.x) / pitch) as usize).min(values.len().saturating_sub(1));
        egui::Tooltip::for_widget(&response).at_pointer().gap(14.0).show(|ui| {
            ui.label(RichText::new(format!("frequency {}", i + 1)).font(theme::title()));
            ui.monospace(format!("{:.2} % of the variance", 100.0 * values[i]));
        });
    }
}

pub const CURVES: ViewDef = ViewDef {
    name: "scratch-curves",
    title: "Curves",
    workspace: Workspace::Scratch,
    area: Area::Left,
    help: "The loss over the training, and what the model can do by then. A circuit appears where both bend. Click to go to a step.",
    formula: "cross-entropy of the predicted tokens, nats; scores as their labels say",
    make: || Box::new(Curves),
};

pub const PATTERNS: ViewDef = ViewDef {
    name: "scratch-patterns",
    title: "Patterns",
    workspace: Workspace::Scratch,
    area: Area::Right,
    help: "The attention patterns of all heads on one watched prompt, as the model learns. Click a head to see it large.",
    formula: "softmax(q · k / √d_head), blocks.L.attn.hook_pattern [head, dest, src]",
    make: || Box::new(Patterns::default()),
};

pub const FOURIER: ViewDef = ViewDef {
    name: "scratch-fourier",
    title: "Fourier",
    workspace: Workspace::Scratch,
    area: Area::Right,
    help: "Which frequencies the model of modular addition uses. Memorised answers have none; the rule uses a few key frequencies, which are marked.",
    formula: "shares of variance: embeddings in cos, sin 2πkn/p; logits in cos 2πk(a + b − c)/p [Nanda et al. 2023]",
    make: || Box::new(FourierView),
};

pub const VIEWS: &[&ViewDef] = &[&CURVES, &PATTERNS, &FOURIER];
