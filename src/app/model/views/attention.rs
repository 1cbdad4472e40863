//! Attention: thumbnails of all heads, one head large.

use crate::app::view::{Area, Cached, Context, Table, View, ViewDef, Workspace, compared, position_labels, ready};
use eframe::egui::{self, Align2, Pos2, Rect, RichText, pos2, vec2};

use crate::analysis::head_scores::{HeadScores, SCORES, Score};
use crate::analysis::patterns::{PatternChoice, Thumbnails};
use crate::analysis::subject::Compared;
use crate::app::look::svg::paint_cells;
use crate::app::look::theme;
use crate::app::widgets::colorbar::{colorbar, number};
use crate::app::widgets::heatmap::{Heatmap, Isolate, diverging, sequential};
use crate::app::widgets::{bars, choice, explained_choice, message};
use crate::gpu::heatmap::HeatmapCallback;
use crate::gpu::{HeatData, NOTHING};
use crate::session::desk::{Focus, Show};

/// Order of the thumbnails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Sort {
    #[default]
    Layer,
    By(Score),
}

const SORTS: [(Sort, &str); 6] = [
    (Sort::Layer, "layer"),
    (Sort::By(Score::Previous), "previous token"),
    (Sort::By(Score::Duplicate), "duplicate token"),
    (Sort::By(Score::Induction), "induction"),
    (Sort::By(Score::Entropy), "entropy"),
    (Sort::By(Score::Distance), "distance"),
];

#[derive(Default)]
pub struct Attention {
    sort: Sort,
    /// Scores on random repeated tokens rather than on this text.
    random: bool,
    isolate: Isolate,
    /// The choices of the large pattern stand beside its name.
    beside: bool,
    atlas: Cached<(u64, u64, Sort, bool, usize, Option<ByLayer>)>,
    large: Cached<u64>,
}

/// How heads are arranged by layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByLayer {
    /// Layers from left to right, heads downwards.
    Across,
    /// Layers downwards, heads from left to right.
    Down,
}

/// The grid of thumbnails: which head stands where.
struct Grid {
    order: Vec<(usize, usize)>,
    columns: usize,
    by_layer: Option<ByLayer>,
}

impl Grid {
    fn rows(&self) -> usize {
        self.order.len().div_ceil(self.columns)
    }
}

/// With `across`, heads go down and layers across; else layer by layer in reading order, or the highest score first.
fn order(sort: Sort, across: bool, thumbs: &Thumbnails, scores: Option<&HeadScores>) -> Vec<(usize, usize)> {
    let (layers, heads) = (thumbs.n_layers, thumbs.n_heads);
    let mut list: Vec<(usize, usize)> =
        (0..layers * heads).map(|i| if across { (i % layers, i / layers) } else { (i / heads, i % heads) }).collect();
    if let (Sort::By(score), Some(s)) = (sort, scores) {
        list.sort_by(|a, b| s.get(score, b.0, b.1).total_cmp(&s.get(score, a.0, a.1)));
    }
    list
}

/// All thumbnails in one matrix, with a gap between them.
fn atlas(thumbs: &Thumbnails, grid: &Grid) -> HeatData {
    let (side, gap) = (thumbs.side, gap_of(thumbs.side));
    let pitch = side + gap;
    let (rows, cols) = (grid.rows() * pitch, grid.columns * pitch);
    let mut values = vec![NOTHING; rows * cols];
    for (i, (layer, head)) in grid.order.iter().enumerate() {
        let (y0, x0) = ((i / grid.columns) * pitch, (i % grid.columns) * pitch);
        let cells = thumbs.head(*layer, *head);
        for y in 0..side {
            // Nothing above the diagonal: no query looks ahead.
            for x in 0..=y {
                values[(y0 + y) * cols + x0 + x] = cells.get(y * side + x).copied().unwrap_or(NOTHING);
            }
        }
    }
    HeatData::new(rows, cols, values)
}

/// Room for the large pattern's tokens.
const ROW_LABELS: f32 = 68.0;
/// Room for the layers' and heads' numbers, and for the words that say which are which.
const GRID_TOP: f32 = 15.0;
const GRID_LEFT: f32 = 40.0;
/// Points of the large pattern's name, its choices and colours.
const HEAD_LINE: f32 = 340.0;
/// Thumbnails smaller than this say nothing.
const LEAST: f32 = 9.0;

/// The side of a thumbnail where a grid fills a space.
fn cell_of(space: egui::Vec2, columns: usize, rows: usize) -> f32 {
    let room = vec2(space.x - GRID_LEFT - 10.0, space.y - GRID_TOP - 4.0);
    (room.x / columns as f32).min(room.y / rows as f32)
}

/// The arrangement by layer whose thumbnails are the larger; none where they would be too small to be seen. Most models
/// have many more layers than heads.
fn by_layer(space: egui::Vec2, n_layers: usize, n_heads: usize) -> Option<ByLayer> {
    let (across, down) = (cell_of(space, n_layers, n_heads), cell_of(space, n_heads, n_layers));
    // Rows may be scrolled, columns not.
    let fits = |columns: usize| (space.x - GRID_LEFT - 10.0) / columns as f32 >= LEAST;
    match (fits(n_layers), fits(n_heads)) {
        (true, _) if across >= down || !fits(n_heads) => Some(ByLayer::Across),
        (_, true) if n_layers <= n_heads => Some(ByLayer::Down),
        (true, _) => Some(ByLayer::Across),
        _ => None,
    }
}

fn gap_of(side: usize) -> usize {
    (side / 7).max(1)
}

impl View for Attention {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let room = ui.available_size();
        let aside = room.x > room.y * 1.25 && room.x > 520.0;
        // Beside the large one's name there is room for its choices, or they stand with the others.
        self.beside = if aside { room.x * 0.56 } else { room.x } >= HEAD_LINE;
        self.controls(ui, cx);
        let results = &cx.state.results;
        if !ready(ui, cx, &results.thumbnails) {
            return;
        }
        let Some(thumbs) = results.thumbnails.get().cloned() else { return };
        let available = ui.available_size();
        if aside {
            let width = (available.x * 0.44).max(200.0);
            ui.horizontal_top(|ui| {
                let column = egui::Layout::top_down(egui::Align::Min);
                ui.allocate_ui_with_layout(vec2(width, available.y), column, |ui| {
                    self.overview(ui, cx, &thumbs.value, thumbs.stamp, thumbs.fresh);
                });
                ui.allocate_ui_with_layout(ui.available_size(), column, |ui| self.one(ui, cx));
            });
        } else {
            // By layer the grid needs just so much; sorted it can use all it gets.
            let limit = vec2(available.x, (available.y * 0.4).min(available.x / 1.3));
            let (layers, heads) = (thumbs.value.n_layers, thumbs.value.n_heads);
            let needed = by_layer(limit, layers, heads).filter(|_| self.sort == Sort::Layer).map(|by| {
                let (columns, rows) = if by == ByLayer::Across { (layers, heads) } else { (heads, layers) };
                GRID_TOP + 4.0 + (available.x - GRID_LEFT - 10.0) / columns as f32 * rows as f32
            });
            let height = needed.map_or(limit.y, |n| n.min(limit.y));
            ui.allocate_ui(vec2(available.x, height), |ui| {
                self.overview(ui, cx, &thumbs.value, thumbs.stamp, thumbs.fresh);
            });
            ui.add_space(theme::GRID);
            self.one(ui, cx);
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let data = self.large.last()?;
        let n = data.rows;
        let name = match cx.state.results.pattern.get()?.question.which {
            PatternChoice::Head(l, h) => format!("attention-{l}.{h}"),
            PatternChoice::LayerMean(l) => format!("attention-layer-{l}-mean"),
            PatternChoice::ModelMean => "attention-mean".to_owned(),
        };
        Some(Table::grid(&name, ("dest", "src"), data, position_labels(cx, n), position_labels(cx, n)))
    }
}

impl Attention {
    fn controls(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        ui.horizontal_wrapped(|ui| {
            if let Some(sort) = choice(ui, "sort", self.sort, &SORTS) {
                self.sort = sort;
            }
            if let Some(random) = choice(ui, "on", self.random, &[(false, "this text"), (true, "random repeat")]) {
                self.random = random;
            }
            if !self.beside {
                self.which(ui, cx);
            }
        });
    }

    /// What is shown large: one head or a mean, and what of it is dimmed.
    fn which(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let p = cx.pinned();
        let average = if p.all_heads { 2 } else { u8::from(p.head.is_none()) };
        let averages = [(0, "off"), (1, "layer"), (2, "model")];
        let said = "one head, or the mean of a layer's heads or of all";
        if let Some(a) = explained_choice(ui, ("average", said), average, &averages) {
            cx.pin(|p| {
                p.all_heads = a == 2;
                p.head = if a == 0 { Some(p.head.unwrap_or(0)) } else { None };
            });
        }
        let options = [(Isolate::Nothing, "off"), (Isolate::Row, "row"), (Isolate::Column, "column")];
        let said = "dims everything but the pinned token's row, or the pinned key's column";
        if let Some(i) = explained_choice(ui, ("isolate", said), self.isolate, &options) {
            self.isolate = i;
        }
    }

    fn scores<'a>(&self, cx: &'a Context<'_>) -> Option<(&'a HeadScores, u64)> {
        let r = &cx.state.results;
        if self.random {
            r.random_scores.get().map(|s| (&*s.value, s.stamp))
        } else {
            r.text_scores.get().map(|s| (&s.value.now, s.stamp))
        }
    }

    fn overview(
        &mut self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        thumbs: &Compared<Thumbnails>,
        stamp: u64,
        fresh: bool,
    ) {
        let scores = self.scores(cx);
        let score_stamp = scores.map_or(0, |s| s.1);
        let available = ui.available_size();
        let by_layer = by_layer(available, thumbs.n_layers, thumbs.n_heads).filter(|_| self.sort == Sort::Layer);
        let order = order(self.sort, by_layer == Some(ByLayer::Across), thumbs, scores.map(|s| s.0));
        let columns = match by_layer {
            Some(ByLayer::Across) => thumbs.n_layers,
            Some(ByLayer::Down) => thumbs.n_heads,
            // As many as make the thumbnails largest.
            None => {
                let ideal = (order.len() as f32 * available.x / available.y.max(1.0)).sqrt().ceil() as usize;
                ideal.clamp(1, ((available.x / 18.0) as usize).max(1))
            }
        };
        let grid = Grid { order, columns, by_layer };
        let key = (stamp, score_stamp, self.sort, self.random, columns, by_layer);
        let differs = thumbs.minus.is_some();
        let straight = thumbs.alignment.iter().enumerate().all(|(i, a)| *a == Some(i));
        let n = cx.state.run().map_or(0, |r| r.trace.len());
        if differs
            && !(straight
                && thumbs.alignment.len() == n
                && thumbs.minus.as_ref().is_some_and(|m| m.side == thumbs.side))
        {
            message(
                ui,
                "the two prompts' tokens do not correspond one to one, so thumbnails cannot be subtracted; see one head large",
                false,
            );
            return;
        }
        let data = self.atlas.get(key, || compared(thumbs, false, false, |t| atlas(t, &grid)));
        let (top, left) = if by_layer.is_some() { (GRID_TOP, GRID_LEFT) } else { (0.0, 0.0) };
        let cell = (available.x - left - 10.0) / columns as f32;
        let cell = if grid.rows() as f32 * cell + top <= available.y {
            cell
        } else {
            cell.min(((available.y - top) / grid.rows() as f32).max(14.0))
        };
        egui::ScrollArea::vertical().id_salt("thumbnails").auto_shrink([false, false]).show(ui, |ui| {
            let size = vec2(left + cell * columns as f32, top + cell * grid.rows() as f32);
            let (outer, response) = ui.allocate_exact_size(size, egui::Sense::click());
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, "attention of all heads"));
            let rect = Rect::from_min_max(outer.min + vec2(left, top), outer.max);
            let own =
                if differs { diverging(&cx.palette, 1.0, fresh) } else { sequential(&cx.palette, 0.0, 1.0, fresh) };
            let coloring = crate::gpu::heatmap::Coloring { gap_width: 0.0, ..own };
            let cells = HeatmapCallback {
                widget: response.id.value(),
                window: [0.0, 0.0, data.cols as f32, data.rows as f32],
                data: data.clone(),
                rect,
                coloring,
            };
            paint_cells(ui, &ui.painter_at(rect), cells, || None);
            let place = |i: usize| {
                let min = rect.min + vec2((i % columns) as f32, (i / columns) as f32) * cell;
                let pad = cell * gap_of(thumbs.side) as f32 / (thumbs.side + gap_of(thumbs.side)) as f32;
                Rect::from_min_size(min, egui::Vec2::splat(cell - pad))
            };
            let painter = ui.painter_at(outer.expand(1.0));
            if by_layer.is_some() {
                layer_and_head_numbers(&painter, cx, &grid, outer.min, cell, place);
            }
            let p = cx.pinned();
            let kind = egui::StrokeKind::Outside;
            for (i, head) in grid.order.iter().enumerate() {
                if cx.state.hovered.head == Some(*head) {
                    painter.rect_stroke(place(i), 1.0, egui::Stroke::new(1.0, cx.palette.text), kind);
                }
                if !p.all_heads && p.layer == head.0 && (p.head.is_none() || p.head == Some(head.1)) {
                    painter.rect_stroke(place(i), 1.0, egui::Stroke::new(1.5, cx.palette.accent), kind);
                }
            }
            let under = response.hover_pos().filter(|at| rect.contains(*at)).and_then(|at| {
                let (x, y) = (((at.x - rect.min.x) / cell) as usize, ((at.y - rect.min.y) / cell) as usize);
                (x < columns).then(|| grid.order.get(y * columns + x).copied()).flatten()
            });
            if let Some((l, h)) = under {
                cx.hovered.head = Some((l, h));
                cx.hovered.layer = Some(l);
                egui::Tooltip::for_widget(&response).at_pointer().gap(14.0).show(|ui| {
                    ui.label(RichText::new(format!("head {l}.{h}")).font(theme::title()));
                    if let Some((s, _)) = self.scores(cx) {
                        for score in SCORES {
                            ui.monospace(format!("{:<10} {:>6.3}", score.name(), s.get(score, l, h)));
                        }
                    }
                });
                if response.clicked() {
                    cx.pin(|p| {
                        (p.layer, p.head, p.all_heads, p.focus) = (l, Some(h), false, Focus::Head);
                    });
                }
            }
        });
    }

    fn one(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let p = cx.pinned();
        let title = match p.which() {
            PatternChoice::Head(l, h) => format!("Head {l}.{h}"),
            PatternChoice::LayerMean(l) => format!("Layer {l}"),
            PatternChoice::ModelMean => "All heads".to_owned(),
        };
        ui.horizontal(|ui| {
            ui.label(RichText::new(title).font(theme::title()).color(cx.palette.accent));
            if self.beside {
                self.which(ui, cx);
            }
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if let Some(m) =
                    self.large.last().map(HeatData::max_abs).filter(|_| cx.state.desk().show == Show::Difference)
                {
                    colorbar(ui, &diverging(&cx.palette, m, true), &number(-m), &number(m));
                } else {
                    colorbar(ui, &sequential(&cx.palette, 0.0, 1.0, true), "0", "1");
                }
            });
        });
        let slot = &cx.state.results.pattern;
        let Some(result) = slot.get().cloned() else {
            message(ui, slot.error().map_or("computing …", String::as_str), slot.error().is_some());
            return;
        };
        let values = &*result.value;
        let n = values.len().isqrt();
        if n == 0 {
            return;
        }
        let data = self.large.get(result.stamp, || {
            compared(values, true, true, |values| {
                let n = values.len().isqrt();
                let masked = values.iter().enumerate().map(|(i, v)| if i % n > i / n { NOTHING } else { *v }).collect();
                HeatData::new(n, n, masked)
            })
        });
        let colors = if values.minus.is_some() {
            diverging(&cx.palette, data.max_abs(), result.fresh)
        } else {
            sequential(&cx.palette, 0.0, 1.0, result.fresh)
        };
        let available = ui.available_size();
        let aside = available.x > available.y + 150.0;
        let width = if aside { available.x.min(available.y + 40.0) } else { available.x };
        // A square as wide as the panel leaves room for the pinned row below, where the panel is tall.
        let square = (width - ROW_LABELS + 56.0).min(available.y);
        let below = !aside && available.y - square > 90.0;
        let height = if below { square } else { available.y };
        let turns = cx.turns();
        ui.horizontal_top(|ui| {
            let outcome = ui
                .allocate_ui(vec2(width, height), |ui| {
                    Heatmap {
                        name: "attention pattern",
                        axes: ("query", "key"),
                        turns: (Some(&turns), Some(&turns)),
                        data: &data,
                        coloring: colors,
                        row_label: &|r| cx.token(r),
                        col_label: &|c| cx.token(c),
                        row_label_width: ROW_LABELS,
                        flip: false,
                        square: true,
                        least_row: 0.0,
                        painted: None,
                        pinned: (Some(p.pos), p.key),
                        hovered: (cx.state.hovered.pos, None),
                        isolate: self.isolate,
                        cell_text: None,
                        tooltip: &|ui, r, c| {
                            ui.monospace(format!("{} ({r}) → {} ({c})", cx.token(r), cx.token(c)));
                            ui.label(
                                RichText::new(
                                    data.get(r, c).map_or("cannot look ahead".to_owned(), |v| format!("{v:.4}")),
                                )
                                .font(theme::title()),
                            );
                        },
                    }
                    .show(ui)
                })
                .inner;
            if let Some((r, _)) = outcome.hovered {
                cx.hovered.pos = Some(r);
            }
            if let Some((r, c)) = outcome.clicked {
                cx.pin(|p| {
                    (p.pos, p.key, p.focus) = (r, Some(c), Focus::Head);
                });
            }
            if aside {
                ui.vertical(|ui| row_readout(ui, cx, &data));
            }
        });
        if below {
            row_readout(ui, cx, &data);
        }
    }
}

/// The numbers of layers and heads along the grid, with the words that say which are which; `place` is where a thumbnail
/// is.
fn layer_and_head_numbers(
    painter: &egui::Painter,
    cx: &Context<'_>,
    grid: &Grid,
    corner: Pos2,
    cell: f32,
    place: impl Fn(usize) -> Rect,
) {
    let (color, numbers) = (cx.palette.weak, theme::mono_small());
    let (columns, rows) = if grid.by_layer == Some(ByLayer::Across) { ("layer", "head") } else { ("head", "layer") };
    painter.text(pos2(corner.x + GRID_LEFT - 6.0, corner.y), Align2::RIGHT_TOP, columns, theme::small(), color);
    let step = (22.0 / cell).ceil() as usize;
    for c in (0..grid.columns).step_by(step.max(1)) {
        painter.text(pos2(place(c).center().x, corner.y), Align2::CENTER_TOP, c, numbers.clone(), color);
    }
    let step = ((14.0 / cell).ceil() as usize).max(1);
    for r in (0..grid.rows()).step_by(step) {
        let at = pos2(corner.x + GRID_LEFT - 6.0, place(r * grid.columns).center().y);
        painter.text(at, Align2::RIGHT_CENTER, r, numbers.clone(), color);
    }
    let word = painter.layout_no_wrap(rows.to_owned(), theme::small(), color);
    let middle = corner.y + GRID_TOP + 0.5 * cell * grid.rows() as f32;
    let at = pos2(corner.x, middle + 0.5 * word.size().x);
    painter.add(egui::epaint::TextShape::new(at, word, color).with_angle(-std::f32::consts::FRAC_PI_2));
}

/// The pinned row as bars, strongest first.
fn row_readout(ui: &mut egui::Ui, cx: &mut Context<'_>, data: &HeatData) {
    let p = cx.pinned();
    ui.label(
        RichText::new(format!("{} ({}) looks at", cx.token(p.pos), p.pos)).font(theme::small()).color(cx.palette.weak),
    );
    let row: Vec<f32> = (0..data.cols).map(|c| data.get(p.pos, c).unwrap_or(f32::NAN)).collect();
    let count = (ui.available_height() / 22.0) as usize;
    if let Some(key) = bars::attended(ui, cx, &row, p.key, count, 76.0) {
        cx.pin(|p| p.key = Some(key));
    }
}

pub const VIEW: ViewDef = ViewDef {
    name: "attention",
    title: "Attention",
    workspace: Workspace::Model,
    area: Area::Left,
    make: || Box::new(Attention::default()),
};
