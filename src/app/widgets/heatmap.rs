//! The heatmap widget: labels, zoom and pan, crosshair, cell texts, tooltip, copy; the cells themselves
//! are drawn by [`crate::gpu::heatmap`].

use std::sync::Arc;

use eframe::egui::text::{LayoutJob, TextWrapping};
use eframe::egui::{self, Galley, Pos2, Rect, Stroke, pos2, vec2};

use crate::app::export::plate::is_plate;
use crate::app::look::svg::paint_cells;
use crate::app::look::theme;
use crate::app::look::theme::Palette;
use crate::app::widgets::turns::Turns;
use crate::gpu::colormap::ink_on;
use crate::gpu::heatmap::{Coloring, HeatData, HeatmapCallback};
use crate::gpu::{ColorMap, NOTHING};

/// Where values to be copied wait for what they are of.
const COPIED: &str = "values of a heatmap to be copied";

/// The values that were asked to be copied in a view, once.
pub fn copied(ctx: &egui::Context) -> Option<String> {
    ctx.data_mut(|d| d.remove_temp(egui::Id::unique(COPIED)))
}

/// Label of a row or column.
pub type Label<'a> = &'a dyn Fn(usize) -> String;

/// A heatmap to be shown in the available space.
pub struct Heatmap<'a> {
    pub name: &'a str,
    pub data: &'a HeatData,
    /// What the colours are of, where it is not the values themselves.
    pub painted: Option<&'a HeatData>,
    pub coloring: Coloring,
    pub row_label: Label<'a>,
    pub col_label: Label<'a>,
    pub row_label_width: f32,
    /// What rows and columns are, in a word each; empty where the labels say it.
    pub axes: (&'a str, &'a str),
    /// Of rows and columns that are positions: whose words they are.
    pub turns: (Option<&'a Turns>, Option<&'a Turns>),
    /// Row 0 at the bottom, as layers are usually drawn.
    pub flip: bool,
    pub square: bool,
    /// Rows lower than this many points are not shown all at first: a list whose first rows matter begins with those,
    /// and scrolls. 0 to begin with the whole.
    pub least_row: f32,
    /// Pinned and pointed-at rows and columns.
    pub pinned: (Option<usize>, Option<usize>),
    pub hovered: (Option<usize>, Option<usize>),
    /// What to dim around.
    pub isolate: Isolate,
    /// Text inside a cell; where it does not fit, what comes before its first space, or else its beginning.
    pub cell_text: Option<&'a dyn Fn(usize, usize) -> Option<String>>,
    pub tooltip: &'a dyn Fn(&mut egui::Ui, usize, usize),
}

/// Dims everything but the pinned row or column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolate {
    #[default]
    Nothing,
    Row,
    Column,
}

/// What happened.
pub struct Outcome {
    pub hovered: Option<(usize, usize)>,
    pub clicked: Option<(usize, usize)>,
}

/// Colours for a magnitude from `low` to `high`.
pub fn sequential(palette: &Palette, low: f32, high: f32, fresh: bool) -> Coloring {
    coloring(palette, palette.sequential(), low, high, false, fresh)
}

/// Colours for a signed value, symmetric around zero.
pub fn diverging(palette: &Palette, max_abs: f32, fresh: bool) -> Coloring {
    let m = if max_abs > 0.0 { max_abs } else { 1.0 };
    coloring(palette, palette.diverging(), -m, m, true, fresh)
}

pub fn coloring(palette: &Palette, map: ColorMap, low: f32, high: f32, signed: bool, fresh: bool) -> Coloring {
    Coloring {
        map,
        low,
        high,
        signed,
        nan: palette.nan,
        gap: palette.panel,
        gap_width: 1.0,
        opacity: if fresh { 1.0 } else { 0.45 },
    }
}

/// The visible part, in cells.
#[derive(Clone, Copy, PartialEq)]
struct View {
    x: f32,
    y: f32,
    w: f32,
    h: f32,
    rows: usize,
    cols: usize,
}

impl View {
    fn whole(data: &HeatData) -> Self {
        Self { x: 0.0, y: 0.0, w: data.cols as f32, h: data.rows as f32, rows: data.rows, cols: data.cols }
    }

    /// The first rows, each at least `least` points high in a plot of that height.
    fn first(data: &HeatData, height: f32, least: f32) -> Self {
        let whole = Self::whole(data);
        if least > 0.0 { Self { h: (height / least).max(1.0).min(whole.h), ..whole } } else { whole }
    }

    fn clamp(&mut self) {
        self.w = self.w.clamp(1.0_f32.min(self.cols as f32), self.cols as f32);
        self.h = self.h.clamp(1.0_f32.min(self.rows as f32), self.rows as f32);
        self.x = self.x.clamp(0.0, self.cols as f32 - self.w);
        self.y = self.y.clamp(0.0, self.rows as f32 - self.h);
    }
}

const LABEL_ROW: f32 = 14.0;
/// Cells up to which each says its number in a picture.
const MOST_SAID: usize = 20_000;
const COL_LABELS: f32 = 18.0;
const COL_LABELS_TURNED: f32 = 64.0;
/// Points of the band that tells whose turn a token is of.
const BAND: f32 = 2.0;

/// A second number of each cell, from −1 to 1; none where there is none.
pub type Second<'a> = &'a dyn Fn(usize, usize) -> Option<f32>;

impl Heatmap<'_> {
    pub fn show(self, ui: &mut egui::Ui) -> Outcome {
        self.show_with(ui, None)
    }

    /// As [`Self::show`], with a second number of each cell: a bar along its foot, as long as the number is large, in the
    /// colours of signs.
    pub fn show_with(self, ui: &mut egui::Ui, second: Option<Second<'_>>) -> Outcome {
        let (rows, cols) = (Axis::new(self.turns.0, self.data.rows), Axis::new(self.turns.1, self.data.cols));
        if rows.kept.is_none() && cols.kept.is_none() {
            return self.draw(ui, second);
        }
        let data = folded(ui, (self.name, "folded"), self.data, (&rows, &cols));
        let painted = self.painted.map(|p| folded(ui, (self.name, "folded paint"), p, (&rows, &cols)));
        let said = |r: usize, c: usize| rows.fold(r).or_else(|| cols.fold(c)).map(|f| f.1);
        let (of_rows, of_cols) = (rows.turns(), cols.turns());
        let cell_text = |r: usize, c: usize| self.cell_text.filter(|_| said(r, c).is_none())?(rows.of(r), cols.of(c));
        let there = |r: usize, c: usize| second.filter(|_| said(r, c).is_none())?(rows.of(r), cols.of(c));
        let outcome = Heatmap {
            data: &data,
            painted: painted.as_ref(),
            row_label: &|r| rows.fold(r).map_or_else(|| (self.row_label)(rows.of(r)), |f| f.0),
            col_label: &|c| cols.fold(c).map_or_else(|| (self.col_label)(cols.of(c)), |f| f.0),
            turns: (of_rows.as_ref(), of_cols.as_ref()),
            pinned: (rows.at(self.pinned.0), cols.at(self.pinned.1)),
            hovered: (rows.at(self.hovered.0), cols.at(self.hovered.1)),
            cell_text: self.cell_text.map(|_| &cell_text as &dyn Fn(usize, usize) -> Option<String>),
            tooltip: &|ui, r, c| match said(r, c) {
                Some(said) => _ = ui.label(said),
                None => (self.tooltip)(ui, rows.of(r), cols.of(c)),
            },
            ..self
        }
        .draw(ui, second.map(|_| &there as Second<'_>));
        let back = |(r, c): (usize, usize)| (rows.of(r), cols.of(c));
        Outcome { hovered: outcome.hovered.map(back), clicked: outcome.clicked.map(back) }
    }

    fn draw(self, ui: &mut egui::Ui, second: Option<Second<'_>>) -> Outcome {
        let palette = Palette::of(ui.ctx());
        let id = ui.make_persistent_id(self.name);
        let (outer, mut response) = ui.allocate_exact_size(ui.available_size(), egui::Sense::click_and_drag());
        let (rows, cols) = (self.data.rows, self.data.cols);
        response.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::Image, true, format!("{}: {rows} × {cols}", self.name))
        });
        let nothing = Outcome { hovered: None, clicked: None };
        if rows == 0 || cols == 0 || outer.width() < 24.0 || outer.height() < 24.0 {
            return nothing;
        }
        let first = View::first(self.data, outer.height() - COL_LABELS_TURNED, self.least_row);
        let kept = ui.data(|d| d.get_temp::<View>(id)).filter(|v| (v.rows, v.cols) == (rows, cols));
        let mut view = kept.unwrap_or(first);
        // Labels stand upright where the columns are wide enough, else they are turned.
        let names = AxisNames::of(&self, ui.painter(), outer, palette.weak);
        let inner_width = (outer.width() - names.left).max(8.0);
        let turned = inner_width / view.w < 34.0;
        let labels = if turned { COL_LABELS_TURNED.min(outer.height() * 0.25) } else { COL_LABELS };
        let mut plot = Rect::from_min_max(
            pos2(outer.min.x + names.left, outer.min.y),
            pos2(outer.max.x, (outer.max.y - labels).max(outer.min.y + 8.0)),
        );
        if self.square {
            let cell = (plot.width() / view.w).min(plot.height() / view.h);
            plot = Rect::from_min_size(plot.min, vec2(cell * view.w, cell * view.h));
        }
        self.navigate(ui, &response, plot, &mut view, first);
        ui.data_mut(|d| d.insert_temp(id, view));
        let at = Placement { plot, view, flip: self.flip };

        let painter = ui.painter_at(outer);
        let window =
            if self.flip { [view.x, rows as f32 - view.y, view.w, -view.h] } else { [view.x, view.y, view.w, view.h] };
        let cells = HeatmapCallback {
            widget: id.value(),
            data: self.painted.unwrap_or(self.data).clone(),
            rect: plot,
            window,
            coloring: self.coloring,
        };
        paint_cells(ui, &ui.painter_at(plot), cells, || is_plate(ui.ctx()).then(|| self.said()).flatten());
        self.labels(&painter, &palette, &at, turned);
        names.draw(&painter, outer, plot, palette.weak);
        self.cell_texts(&ui.painter_at(plot), &at);
        if let Some(second) = second {
            self.seconds(&ui.painter_at(plot), &palette, &at, second);
        }
        at.scroll_bars(&painter, &palette);
        let hovered = response.hover_pos().and_then(|p| at.cell_at(p, rows, cols));
        self.marks(&ui.painter_at(plot.expand(1.5)), &palette, &at, hovered);
        if let Some((r, c)) = hovered {
            let tooltip = self.tooltip;
            egui::Tooltip::for_widget(&response).at_pointer().gap(14.0).show(|ui| {
                // Near an edge a line would be broken between a name and its number.
                ui.style_mut().wrap_mode = Some(egui::TextWrapMode::Extend);
                tooltip(ui, r, c);
            });
        }
        if hovered.is_some() {
            response = response.on_hover_cursor(egui::CursorIcon::Crosshair);
        }
        let clicked = if response.clicked() { hovered } else { None };
        response.context_menu(|ui| {
            if ui.button("Copy values as CSV").clicked() {
                // What they are of is known where the view is.
                let text = csv(self.data, self.row_label, self.col_label);
                ui.data_mut(|d| d.insert_temp(egui::Id::unique(COPIED), text));
            }
            if ui.button("Show everything").on_hover_text("also by a double click").clicked() {
                ui.data_mut(|d| d.insert_temp(id, View::whole(self.data)));
            }
        });
        Outcome { hovered, clicked }
    }

    /// What each cell is and its number, for pictures that can be pointed at.
    fn said(&self) -> Option<Vec<Vec<String>>> {
        if self.data.rows * self.data.cols > MOST_SAID {
            return None;
        }
        let columns: Vec<String> = (0..self.data.cols).map(self.col_label).collect();
        let cell = |r: usize, row: &str, c: usize| {
            let text = self.cell_text.and_then(|t| t(r, c)).map_or_else(String::new, |t| format!(" {t}"));
            let value = self.data.get(r, c).map_or_else(|| "–".to_owned(), |v| v.to_string());
            format!("{row}, {}:{text} {value}", columns[c])
        };
        let row = |r: usize| {
            let name = (self.row_label)(r);
            (0..self.data.cols).map(|c| cell(r, &name, c)).collect()
        };
        Some((0..self.data.rows).map(row).collect())
    }

    fn navigate(&self, ui: &egui::Ui, response: &egui::Response, plot: Rect, view: &mut View, first: View) {
        if response.double_clicked() {
            let whole = View::whole(self.data);
            *view = if *view == whole { first } else { whole };
        }
        let per_pixel = vec2(view.w / plot.width(), view.h / plot.height());
        let sign = if self.flip { -1.0 } else { 1.0 };
        if let Some(pointer) = response.hover_pos() {
            let (zoom, scroll) = ui.input(|i| (i.zoom_delta(), i.smooth_scroll_delta()));
            if (zoom - 1.0).abs() > 1e-4 {
                let fx = ((pointer.x - plot.min.x) / plot.width()).clamp(0.0, 1.0);
                let fy = ((pointer.y - plot.min.y) / plot.height()).clamp(0.0, 1.0);
                let fy = if self.flip { 1.0 - fy } else { fy };
                let (w, h) = (view.w, view.h);
                view.w = (w / zoom).clamp(3.0_f32.min(w), self.data.cols as f32);
                view.h = (h / zoom).clamp(3.0_f32.min(h), self.data.rows as f32);
                view.x += (w - view.w) * fx;
                view.y += (h - view.h) * fy;
            } else if scroll != egui::Vec2::ZERO && (view.w < self.data.cols as f32 || view.h < self.data.rows as f32) {
                view.x -= scroll.x * per_pixel.x;
                view.y -= sign * scroll.y * per_pixel.y;
            }
        }
        if response.dragged() {
            let d = response.drag_delta();
            view.x -= d.x * per_pixel.x;
            view.y -= sign * d.y * per_pixel.y;
        }
        view.clamp();
    }

    fn labels(&self, painter: &egui::Painter, palette: &Palette, at: &Placement, turned: bool) {
        let color = |i: usize, pinned: Option<usize>, hovered: Option<usize>, turns: Option<&Turns>| {
            if pinned == Some(i) {
                palette.accent
            } else if hovered == Some(i) {
                palette.text
            } else {
                turns.map_or(palette.weak, |t| t.ink(i, palette))
            }
        };
        self.bands(painter, at);
        let important =
            |i: usize, pinned: Option<usize>, hovered: Option<usize>| pinned == Some(i) || hovered == Some(i);
        let (first, last) = (at.view.y.floor() as usize, ((at.view.y + at.view.h).ceil() as usize).min(self.data.rows));
        let step = (LABEL_ROW / (at.plot.height() / at.view.h)).ceil().max(1.0) as usize;
        let marked = [self.pinned.0, self.hovered.0];
        for r in first..last {
            let emphasised = important(r, self.pinned.0, self.hovered.0);
            let near = marked.iter().flatten().any(|m| r.abs_diff(*m) < step);
            if !(emphasised || r.is_multiple_of(step) && !near) {
                continue;
            }
            // Of a row that is hardly seen the label would lie on its neighbour's.
            if !emphasised && !at.plot.y_range().contains(at.row_center(r)) {
                continue;
            }
            // A first or last label half outside would be cut.
            let y = at.row_center(r).clamp(at.plot.min.y + 5.0, (at.plot.max.y - 5.0).max(at.plot.min.y + 5.0));
            let color = color(r, self.pinned.0, self.hovered.0, self.turns.0);
            let mut job = LayoutJob::simple_singleline((self.row_label)(r), theme::mono_small(), color);
            job.wrap = TextWrapping::truncate_at_width(self.row_label_width - 5.0);
            let galley = painter.layout_job(job);
            let corner = pos2(at.plot.min.x - 5.0 - galley.size().x, y - 0.5 * galley.size().y);
            painter.galley(corner, galley, color);
        }
        let (first, last) = (at.view.x.floor() as usize, ((at.view.x + at.view.w).ceil() as usize).min(self.data.cols));
        let cell = at.plot.width() / at.view.w;
        let under = if self.turns.1.is_some_and(Turns::are_there) { BAND } else { 0.0 };
        let step = (LABEL_ROW / cell).ceil().max(1.0) as usize;
        let marked = [self.pinned.1, self.hovered.1];
        for c in first..last {
            let emphasised = important(c, self.pinned.1, self.hovered.1);
            let near = marked.iter().flatten().any(|m| c.abs_diff(*m) < step);
            if !(emphasised || c.is_multiple_of(step) && !near) {
                continue;
            }
            let x = at.col_center(c);
            let color = color(c, self.pinned.1, self.hovered.1, self.turns.1);
            let text = (self.col_label)(c);
            let room =
                if turned { painter.clip_rect().max.y - at.plot.max.y - 4.0 - under } else { cell * step as f32 - 2.0 };
            let mut job = LayoutJob::simple_singleline(text, theme::mono_small(), color);
            job.wrap = TextWrapping::truncate_at_width(room.max(8.0));
            let galley = painter.layout_job(job);
            if turned {
                // Reads upwards, its end at the axis.
                let pos = pos2(x - galley.size().y / 2.0, at.plot.max.y + 4.0 + under + galley.size().x);
                let shape = egui::epaint::TextShape::new(pos, galley, color).with_angle(-std::f32::consts::FRAC_PI_2);
                painter.add(shape);
            } else {
                let clip = Rect::from_min_max(
                    pos2(x - cell / 2.0 + 1.0, at.plot.max.y),
                    pos2(x + cell / 2.0 - 1.0, painter.clip_rect().max.y),
                );
                let left = (x - galley.size().x / 2.0).max(clip.min.x);
                painter.with_clip_rect(clip).galley(pos2(left, at.plot.max.y + 3.0 + under), galley, color);
            }
        }
    }

    /// Whose turn the tokens of an axis are of, between their names and the cells.
    fn bands(&self, painter: &egui::Painter, at: &Placement) {
        let inside = |a: egui::Rangef, b: egui::Rangef| egui::Rangef::new(a.min.max(b.min), a.max.min(b.max));
        for r in 0..self.data.rows {
            let Some(color) = self.turns.0.and_then(|t| t.band(r)) else { continue };
            let y = inside(at.row_range(r), at.plot.y_range());
            if y.min < y.max {
                let x = egui::Rangef::new(at.plot.min.x - 1.5 - BAND, at.plot.min.x - 1.5);
                painter.rect_filled(Rect::from_x_y_ranges(x, y), 0.0, color);
            }
        }
        for c in 0..self.data.cols {
            let Some(color) = self.turns.1.and_then(|t| t.band(c)) else { continue };
            let x = inside(at.col_range(c), at.plot.x_range());
            if x.min < x.max {
                let y = egui::Rangef::new(at.plot.max.y + 1.5, at.plot.max.y + 1.5 + BAND);
                painter.rect_filled(Rect::from_x_y_ranges(x, y), 0.0, color);
            }
        }
    }

    fn cell_texts(&self, painter: &egui::Painter, at: &Placement) {
        let Some(text) = self.cell_text else { return };
        let cell = vec2(at.plot.width() / at.view.w, at.plot.height() / at.view.h);
        if cell.x < 12.0 || cell.y < 13.0 {
            return;
        }
        let narrow = cell.x < 34.0;
        let (x0, x1) = (at.view.x.floor() as usize, ((at.view.x + at.view.w).ceil() as usize).min(self.data.cols));
        let (y0, y1) = (at.view.y.floor() as usize, ((at.view.y + at.view.h).ceil() as usize).min(self.data.rows));
        let font = theme::mono_small();
        let c = &self.coloring;
        for r in y0..y1 {
            for col in x0..x1 {
                let painted = self.painted.unwrap_or(self.data);
                let (Some(value), Some(text)) = (painted.get(r, col), text(r, col)) else { continue };
                let t = (value - c.low) / (c.high - c.low).max(f32::MIN_POSITIVE);
                let ink = ink_on(c.map.at(t)).gamma_multiply(c.opacity.max(0.6));
                let rect =
                    Rect::from_center_size(pos2(at.col_center(col), at.row_center(r)), cell).shrink2(vec2(2.0, 0.0));
                let mut galley = painter.layout_no_wrap(text.clone(), font.clone(), ink);
                if galley.size().x > rect.width() {
                    // Half a number would be a wrong one.
                    match text.split_once(' ') {
                        Some((mark, _)) => galley = painter.layout_no_wrap(mark.to_owned(), font.clone(), ink),
                        None if narrow => continue,
                        None => {}
                    }
                }
                let left = (rect.center().x - galley.size().x / 2.0).max(rect.min.x);
                painter.with_clip_rect(rect).galley(pos2(left, rect.center().y - galley.size().y / 2.0), galley, ink);
            }
        }
    }

    /// The bars of the second numbers, where cells are large enough to hold one.
    fn seconds(&self, painter: &egui::Painter, palette: &Palette, at: &Placement, second: Second<'_>) {
        let cell = vec2(at.plot.width() / at.view.w, at.plot.height() / at.view.h);
        if cell.x < 6.0 || cell.y < 6.0 {
            return;
        }
        let height = (0.2 * cell.y).clamp(2.0, 5.0);
        let (x0, x1) = (at.view.x.floor() as usize, ((at.view.x + at.view.w).ceil() as usize).min(self.data.cols));
        let (y0, y1) = (at.view.y.floor() as usize, ((at.view.y + at.view.h).ceil() as usize).min(self.data.rows));
        for (r, c) in (y0..y1).flat_map(|r| (x0..x1).map(move |c| (r, c))) {
            let Some(value) = second(r, c) else { continue };
            let (x, foot) = (at.col_range(c), at.row_range(r).max - 1.0);
            let bed = Rect::from_x_y_ranges(x.min + 1.0..=x.max - 1.0, foot - height..=foot);
            painter.rect_filled(bed, 0.0, palette.panel.gamma_multiply(0.7));
            let color = if value < 0.0 { palette.negative } else { palette.positive };
            let width = (bed.width() * value.abs().min(1.0)).max(1.0);
            painter.rect_filled(Rect::from_min_size(bed.min, vec2(width, height)), 0.0, color);
        }
    }

    fn marks(&self, painter: &egui::Painter, palette: &Palette, at: &Placement, hovered: Option<(usize, usize)>) {
        let row = |r: usize| Rect::from_x_y_ranges(at.plot.x_range(), at.row_range(r));
        let col = |c: usize| Rect::from_x_y_ranges(at.col_range(c), at.plot.y_range());
        let shade = palette.panel.gamma_multiply(0.78);
        let (xs, ys) = (at.plot.x_range(), at.plot.y_range());
        if let (Isolate::Row, Some(r)) = (self.isolate, self.pinned.0) {
            let y = at.row_range(r);
            painter.rect_filled(Rect::from_x_y_ranges(xs, ys.min..=y.min), 0.0, shade);
            painter.rect_filled(Rect::from_x_y_ranges(xs, y.max..=ys.max), 0.0, shade);
        }
        if let (Isolate::Column, Some(c)) = (self.isolate, self.pinned.1) {
            let x = at.col_range(c);
            painter.rect_filled(Rect::from_x_y_ranges(xs.min..=x.min, ys), 0.0, shade);
            painter.rect_filled(Rect::from_x_y_ranges(x.max..=xs.max, ys), 0.0, shade);
        }
        let line = |alpha: f32| Stroke::new(1.0, palette.text.gamma_multiply(alpha));
        let kind = egui::StrokeKind::Outside;
        for (r, c) in [(self.hovered.0, self.hovered.1), (hovered.map(|h| h.0), hovered.map(|h| h.1))] {
            if let Some(r) = r.filter(|r| *r < self.data.rows) {
                painter.rect_stroke(row(r), 0.0, line(0.35), kind);
            }
            if let Some(c) = c.filter(|c| *c < self.data.cols) {
                painter.rect_stroke(col(c), 0.0, line(0.35), kind);
            }
        }
        let accent = Stroke::new(1.5, palette.accent);
        let (r, c) = (self.pinned.0.filter(|r| *r < self.data.rows), self.pinned.1.filter(|c| *c < self.data.cols));
        match (r, c) {
            (Some(r), Some(c)) => {
                let cell = Rect::from_x_y_ranges(at.col_range(c), at.row_range(r));
                painter.rect_stroke(row(r), 1.0, Stroke::new(1.0, palette.accent.gamma_multiply(0.7)), kind);
                painter.rect_stroke(col(c), 1.0, Stroke::new(1.0, palette.accent.gamma_multiply(0.7)), kind);
                painter.rect_stroke(cell, 1.0, Stroke::new(2.0, palette.accent), kind);
            }
            (Some(r), None) => {
                painter.rect_stroke(row(r), 1.0, accent, kind);
            }
            (None, Some(c)) => {
                painter.rect_stroke(col(c), 1.0, accent, kind);
            }
            (None, None) => {}
        }
    }
}

/// One axis of which some positions are folded away.
struct Axis<'a> {
    turns: Option<&'a Turns>,
    /// The positions that are drawn; `None` for all.
    kept: Option<Vec<usize>>,
}

impl<'a> Axis<'a> {
    fn new(turns: Option<&'a Turns>, n: usize) -> Self {
        Self { turns, kept: turns.and_then(|t| t.kept(n)) }
    }

    /// The position that is drawn at a place.
    fn of(&self, place: usize) -> usize {
        self.kept.as_ref().map_or(place, |k| k.get(place).copied().unwrap_or(usize::MAX))
    }

    /// Where a position is drawn; of what is folded away, where the fold is.
    fn at(&self, pos: Option<usize>) -> Option<usize> {
        let Some(kept) = &self.kept else { return pos };
        let pos = pos?;
        kept.partition_point(|k| *k <= pos).checked_sub(1)
    }

    /// What is drawn at a place instead of a position.
    fn fold(&self, place: usize) -> Option<(String, String)> {
        self.kept.as_ref()?;
        self.turns?.fold(self.of(place))
    }

    fn len(&self, all: usize) -> usize {
        self.kept.as_ref().map_or(all, Vec::len)
    }

    /// Those of the positions that are drawn.
    fn turns(&self) -> Option<Turns> {
        let turns = self.turns?;
        Some(self.kept.as_ref().map_or_else(|| turns.clone(), |k| turns.only(k)))
    }
}

/// A matrix without what is folded away, made again only where one of them has changed.
fn folded(ui: &egui::Ui, name: (&str, &str), data: &HeatData, (rows, cols): (&Axis<'_>, &Axis<'_>)) -> HeatData {
    type Kept = (u64, Option<Vec<usize>>, Option<Vec<usize>>);
    let id = ui.scope_id().with(name);
    let key: Kept = (data.id(), rows.kept.clone(), cols.kept.clone());
    if let Some((of, made)) = ui.data(|d| d.get_temp::<(Kept, HeatData)>(id))
        && of == key
    {
        return made;
    }
    let (n_rows, n_cols) = (rows.len(data.rows), cols.len(data.cols));
    let mut values = Vec::with_capacity(n_rows * n_cols);
    let hidden: Vec<bool> = (0..n_cols).map(|c| cols.fold(c).is_some()).collect();
    for r in 0..n_rows {
        let (row, whole) = (rows.of(r), rows.fold(r).is_none());
        let value = |c: usize| data.get(row, cols.of(c)).filter(|_| whole && !hidden[c]);
        values.extend((0..n_cols).map(|c| value(c).unwrap_or(NOTHING)));
    }
    let made = HeatData::new(n_rows, n_cols, values);
    ui.data_mut(|d| d.insert_temp(id, (key, made.clone())));
    made
}

/// The axes' names: that of the rows beside their labels, turned; that of the columns under the row labels.
struct AxisNames {
    rows: Option<Arc<Galley>>,
    cols: Option<Arc<Galley>>,
    /// Width of everything at the left of the plot.
    left: f32,
}

impl AxisNames {
    /// In the smallest plots there is room for the labels alone.
    const LEAST: egui::Vec2 = vec2(120.0, 100.0);
    const ROWS_WIDTH: f32 = 14.0;

    fn of(map: &Heatmap<'_>, painter: &egui::Painter, outer: Rect, color: egui::Color32) -> Self {
        let roomy = outer.width() >= Self::LEAST.x && outer.height() >= Self::LEAST.y;
        let name = |text: &str| {
            let text = Some(text.to_owned()).filter(|t| roomy && !t.is_empty());
            text.map(|t| painter.layout_no_wrap(t, theme::small(), color))
        };
        let (rows, cols) = (name(map.axes.0), name(map.axes.1));
        let labels = map.row_label_width + if rows.is_some() { Self::ROWS_WIDTH } else { 0.0 };
        let left = cols.as_ref().map_or(labels, |g| labels.max(g.size().x + 8.0));
        Self { rows, cols, left }
    }

    fn draw(&self, painter: &egui::Painter, outer: Rect, plot: Rect, color: egui::Color32) {
        if let Some(galley) = &self.rows {
            // Reads upwards, at the middle of the rows.
            let pos = pos2(outer.min.x, plot.center().y + galley.size().x / 2.0);
            let shape = egui::epaint::TextShape::new(pos, galley.clone(), color);
            painter.add(shape.with_angle(-std::f32::consts::FRAC_PI_2));
        }
        if let Some(galley) = &self.cols {
            painter.galley(pos2(plot.min.x - 5.0 - galley.size().x, plot.max.y + 3.0), galley.clone(), color);
        }
    }
}

/// Where cells lie on screen.
struct Placement {
    plot: Rect,
    view: View,
    flip: bool,
}

impl Placement {
    /// Where the visible part lies in the whole, along each axis that shows a part.
    fn scroll_bars(&self, painter: &egui::Painter, palette: &Palette) {
        const WIDTH: f32 = 3.0;
        const LEAST: f32 = 12.0;
        let (v, plot) = (&self.view, self.plot);
        let part = |from: f32, size: f32, all: f32, range: egui::Rangef| {
            let length = (range.span() * size / all).max(LEAST).min(range.span());
            let start = range.min + (range.span() - length) * (from / (all - size)).clamp(0.0, 1.0);
            egui::Rangef::new(start, start + length)
        };
        let color = palette.text.gamma_multiply(0.45);
        if v.h < v.rows as f32 {
            let from = if self.flip { v.rows as f32 - v.h - v.y } else { v.y };
            let y = part(from, v.h, v.rows as f32, plot.y_range());
            let x = egui::Rangef::new(plot.max.x - WIDTH, plot.max.x);
            painter.rect_filled(Rect::from_x_y_ranges(x, y), WIDTH / 2.0, color);
        }
        if v.w < v.cols as f32 {
            let x = part(v.x, v.w, v.cols as f32, plot.x_range());
            let y = egui::Rangef::new(plot.max.y - WIDTH, plot.max.y);
            painter.rect_filled(Rect::from_x_y_ranges(x, y), WIDTH / 2.0, color);
        }
    }

    fn row_range(&self, r: usize) -> egui::Rangef {
        let h = self.plot.height() / self.view.h;
        let from_edge = (r as f32 - self.view.y) * h;
        let (a, b) = if self.flip {
            (self.plot.max.y - from_edge - h, self.plot.max.y - from_edge)
        } else {
            (self.plot.min.y + from_edge, self.plot.min.y + from_edge + h)
        };
        egui::Rangef::new(a, b)
    }

    fn col_range(&self, c: usize) -> egui::Rangef {
        let w = self.plot.width() / self.view.w;
        let a = self.plot.min.x + (c as f32 - self.view.x) * w;
        egui::Rangef::new(a, a + w)
    }

    fn row_center(&self, r: usize) -> f32 {
        self.row_range(r).center()
    }

    fn col_center(&self, c: usize) -> f32 {
        self.col_range(c).center()
    }

    fn cell_at(&self, p: Pos2, rows: usize, cols: usize) -> Option<(usize, usize)> {
        if !self.plot.contains(p) {
            return None;
        }
        let x = self.view.x + (p.x - self.plot.min.x) / self.plot.width() * self.view.w;
        let fy = (p.y - self.plot.min.y) / self.plot.height();
        let y = self.view.y + if self.flip { 1.0 - fy } else { fy } * self.view.h;
        let (r, c) = (y.max(0.0) as usize, x.max(0.0) as usize);
        (r < rows && c < cols).then_some((r, c))
    }
}

/// The values with their labels.
pub fn csv(data: &HeatData, row_label: Label<'_>, col_label: Label<'_>) -> String {
    let quote = |s: String| {
        if s.contains([',', '"', '\n', '\r']) { format!("\"{}\"", s.replace('"', "\"\"")) } else { s }
    };
    let mut out = String::new();
    for c in 0..data.cols {
        out.push(',');
        out.push_str(&quote(col_label(c)));
    }
    for r in 0..data.rows {
        out.push('\n');
        out.push_str(&quote(row_label(r)));
        for c in 0..data.cols {
            out.push(',');
            if let Some(v) = data.get(r, c) {
                out.push_str(&v.to_string());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_begin_with_their_first_rows() {
        let data = HeatData::new(1000, 2, vec![0.0; 2000]);
        let v = View::first(&data, 140.0, 14.0);
        assert_eq!((v.y, v.h, v.w), (0.0, 10.0, 2.0));
        assert!(View::first(&data, 140.0, 0.0) == View::whole(&data));
        let few = HeatData::new(3, 2, vec![0.0; 6]);
        assert!(View::first(&few, 140.0, 14.0) == View::whole(&few));
    }

    #[test]
    fn cells_and_positions_agree() {
        let view = View { x: 0.0, y: 0.0, w: 4.0, h: 2.0, rows: 2, cols: 4 };
        let plot = Rect::from_min_size(pos2(10.0, 20.0), vec2(40.0, 20.0));
        for flip in [false, true] {
            let at = Placement { plot, view, flip };
            for r in 0..2 {
                for c in 0..4 {
                    assert_eq!(at.cell_at(pos2(at.col_center(c), at.row_center(r)), 2, 4), Some((r, c)));
                }
            }
        }
        let at = Placement { plot, view, flip: true };
        assert!(at.row_center(0) > at.row_center(1));
    }

    #[test]
    fn csv_quotes_labels() {
        let d = HeatData::new(1, 2, vec![1.5, NOTHING]);
        assert_eq!(csv(&d, &|_| "a,b".to_owned(), &|c| c.to_string()), ",0,1\n\"a,b\",1.5,");
    }
}
