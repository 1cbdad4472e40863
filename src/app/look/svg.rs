//! A frame's shapes as SVG: text stays text, heatmaps become rectangles, everything scales.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use eframe::egui::{self, Color32, FontFamily, Pos2, Rect, Shape, Stroke, epaint};
use eframe::egui_wgpu::Callback;
use svg::Node as _;
use svg::node::element::{Circle, ClipPath, Element, Group, Line, Path, Rectangle, Text, Title};

use crate::app::look::fonts::STRONG;
use crate::gpu::heatmap::{Coloring, HeatData, HeatmapCallback};

/// A heatmap as it was handed to the graphics device.
#[derive(Clone)]
struct Drawn {
    rect: Rect,
    window: [f32; 4],
    data: HeatData,
    coloring: Coloring,
    /// What each cell says when it is pointed at, [row][col]; where pictures are looked at on a screen.
    said: Option<Arc<Vec<Vec<String>>>>,
}

/// Listens in on the heatmaps of a frame: a paint callback cannot be asked what it would draw.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Drawn>>>);

fn recorder_id() -> egui::Id {
    egui::Id::unique("svg recorder")
}

impl Recorder {
    /// Begins listening on this context.
    pub fn install(ctx: &egui::Context) -> Self {
        let recorder = Self::default();
        ctx.data_mut(|d| d.insert_temp(recorder_id(), recorder.clone()));
        recorder
    }

    fn push(&self, drawn: Drawn) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(drawn);
    }

    /// Forgets earlier frames.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whether the frame is being drawn as SVG, for which nothing that only a graphics device can draw exists.
pub fn is_recording(ui: &egui::Ui) -> bool {
    ui.data(|d| d.get_temp::<Recorder>(recorder_id())).is_some()
}

/// Draws a heatmap's cells, and tells a recorder if there is one. `say` gives what each cell says when it is pointed at.
pub fn paint_cells(
    ui: &egui::Ui,
    painter: &egui::Painter,
    callback: HeatmapCallback,
    say: impl FnOnce() -> Option<Vec<Vec<String>>>,
) {
    if let Some(recorder) = ui.data(|d| d.get_temp::<Recorder>(recorder_id())) {
        recorder.push(Drawn {
            rect: callback.rect,
            window: callback.window,
            data: callback.data.clone(),
            coloring: callback.coloring,
            said: say().map(Arc::new),
        });
    }
    painter.add(Callback::new_paint_callback(callback.rect, callback));
}

/// The document of a frame's shapes.
pub fn document(shapes: &[epaint::ClippedShape], recorder: &Recorder, size: egui::Vec2, base: Color32) -> String {
    let drawn = recorder.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut writer = Writer { drawn, group: Group::new(), clips: Vec::new(), open: None };
    for clipped in shapes {
        writer.clip(clipped.clip_rect);
        writer.shape(&clipped.shape);
    }
    writer.flush();
    let mut document = svg::Document::new()
        .set("viewBox", (0, 0, size.x as i32, size.y as i32))
        .set("width", size.x)
        .set("height", size.y)
        .add(rectangle(Rect::from_min_size(Pos2::ZERO, size)).set("fill", css(base)));
    for (i, clip) in writer.clips.iter().enumerate() {
        document = document.add(ClipPath::new().set("id", format!("c{i}")).add(rectangle(*clip)));
    }
    document.add(writer.group).to_string()
}

struct Writer {
    drawn: Vec<Drawn>,
    group: Group,
    clips: Vec<Rect>,
    /// Clip of the current group, and what it holds.
    open: Option<(usize, Group)>,
}

fn css(c: Color32) -> String {
    let [r, g, b, _] = c.to_srgba_unmultiplied();
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn opacity(c: Color32) -> f32 {
    f32::from(c.a()) / 255.0
}

fn rectangle(r: Rect) -> Rectangle {
    Rectangle::new()
        .set("x", round(r.min.x))
        .set("y", round(r.min.y))
        .set("width", round(r.width()))
        .set("height", round(r.height()))
}

/// Two decimals are a hundredth of a point.
fn round(v: f32) -> f32 {
    (v * 100.0).round() / 100.0
}

fn stroked<T: Into<Element>>(element: T, stroke: Stroke) -> Element {
    let mut element: Element = element.into();
    if stroke.width > 0.0 && stroke.color != Color32::TRANSPARENT {
        element.assign("stroke", css(stroke.color));
        element.assign("stroke-width", stroke.width);
        element.assign("stroke-opacity", opacity(stroke.color));
    }
    element
}

fn filled(mut element: Element, fill: Color32) -> Element {
    if fill == Color32::TRANSPARENT {
        element.assign("fill", "none");
    } else {
        element.assign("fill", css(fill));
        element.assign("fill-opacity", opacity(fill));
    }
    element
}

impl Writer {
    fn clip(&mut self, rect: Rect) {
        let index = self.clips.iter().position(|c| *c == rect).unwrap_or_else(|| {
            self.clips.push(rect);
            self.clips.len() - 1
        });
        if self.open.as_ref().is_none_or(|(i, _)| *i != index) {
            self.flush();
            self.open = Some((index, Group::new().set("clip-path", format!("url(#c{index})"))));
        }
    }

    fn flush(&mut self) {
        if let Some((_, group)) = self.open.take() {
            self.group = std::mem::replace(&mut self.group, Group::new()).add(group);
        }
    }

    fn add(&mut self, element: impl Into<Element>) {
        if let Some((i, group)) = self.open.take() {
            self.open = Some((i, group.add(element.into())));
        }
    }

    fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Noop => {}
            Shape::Vec(list) => list.iter().for_each(|s| self.shape(s)),
            Shape::Circle(c) => {
                let element = Circle::new().set("cx", c.center.x).set("cy", c.center.y).set("r", c.radius);
                self.add(filled(stroked(element, c.stroke), c.fill));
            }
            Shape::LineSegment { points: [a, b], stroke } => {
                let element = Line::new().set("x1", a.x).set("y1", a.y).set("x2", b.x).set("y2", b.y);
                self.add(stroked(element, *stroke));
            }
            Shape::Rect(r) => {
                let mut element = rectangle(r.rect);
                if r.corner_radius.nw > 0 {
                    element = element.set("rx", r.corner_radius.nw);
                }
                self.add(filled(stroked(element, r.stroke), r.fill));
            }
            Shape::Path(p) => {
                let color = match &p.stroke.color {
                    epaint::ColorMode::Solid(c) => *c,
                    epaint::ColorMode::UV(f) => {
                        let bounds = Rect::from_points(&p.points);
                        f(bounds, bounds.center())
                    }
                };
                let element = Path::new().set("d", path(&p.points, p.closed));
                self.add(filled(stroked(element, Stroke::new(p.stroke.width, color)), p.fill));
            }
            Shape::Text(t) => self.text(t),
            Shape::Mesh(m) => self.mesh(m),
            Shape::Callback(c) => {
                if let Some(at) = self.drawn.iter().position(|d| d.rect == c.rect) {
                    let drawn = self.drawn.remove(at);
                    self.cells(&drawn);
                }
            }
            Shape::Ellipse(_) | Shape::Band(_) | Shape::QuadraticBezier(_) | Shape::CubicBezier(_) => {
                // No view draws these; what one might add later still shows its place.
                self.add(stroked(rectangle(shape.visual_bounding_rect()).set("fill", "none"), Stroke::NONE));
            }
        }
    }

    fn text(&mut self, t: &epaint::TextShape) {
        let format = t.galley.job.sections.first().map(|s| s.format.clone()).unwrap_or_default();
        let (family, weight) = match &format.font_id.family {
            FontFamily::Monospace => ("'JetBrains Mono', monospace", 400),
            FontFamily::Name(n) if &**n == STRONG => ("Inter, sans-serif", 600),
            _ => ("Inter, sans-serif", 400),
        };
        for placed in &t.galley.rows {
            let text: String = placed.row.glyphs.iter().map(|g| g.chr).collect();
            let Some(first) = placed.row.glyphs.first() else { continue };
            if text.trim().is_empty() {
                continue;
            }
            let own = placed.row.visuals.mesh.vertices.first().map_or(t.fallback_color, |v| v.color);
            let color =
                t.override_text_color.unwrap_or(if own == Color32::PLACEHOLDER { t.fallback_color } else { own });
            // Not the row's width: where a text follows others in a line, its first row begins with their length.
            let length = placed.row.glyphs.last().map_or(0.0, |l| l.pos.x + l.advance_width - first.pos.x);
            let (x, y) = (placed.pos.x + first.pos.x, placed.pos.y + first.pos.y);
            let mut element = Text::new(text)
                .set("x", round(t.pos.x + x))
                .set("y", round(t.pos.y + y))
                .set("font-family", family)
                .set("font-size", format.font_id.size)
                .set("font-weight", weight)
                .set("fill", css(color))
                .set("fill-opacity", opacity(color) * t.opacity_factor)
                .set("textLength", round(length))
                .set("xml:space", "preserve");
            if t.angle != 0.0 {
                let turn = format!("rotate({} {} {})", t.angle.to_degrees(), t.pos.x, t.pos.y);
                element = element.set("transform", turn);
            }
            self.add(element);
        }
    }

    /// Untextured meshes as triangles of their mean colour.
    fn mesh(&mut self, m: &epaint::Mesh) {
        if m.texture_id != egui::TextureId::default() {
            return;
        }
        for corners in m.indices.as_chunks::<3>().0 {
            let [a, b, c] = corners.map(|i| m.vertices.get(i as usize).copied().unwrap_or_default());
            let color = b.color.lerp_to_gamma(a.color.lerp_to_gamma(c.color, 0.5), 0.5);
            let element: Element = Path::new().set("d", path(&[a.pos, b.pos, c.pos], true)).into();
            self.add(filled(element, color));
        }
    }

    /// A heatmap as rectangles: one for each cell, or for each point where there are more cells than
    /// points, of the extreme value among them; equal neighbours join.
    fn cells(&mut self, d: &Drawn) {
        let [x0, y0, w, h] = d.window;
        let columns = (w.abs().ceil().min(d.rect.width()) as usize).max(1);
        let rows = (h.abs().ceil().min(d.rect.height()) as usize).max(1);
        let c = &d.coloring;
        let size = egui::vec2(d.rect.width() / columns as f32, d.rect.height() / rows as f32);
        let gap = if size.min_elem() >= 5.0 { c.gap_width } else { 0.0 };
        for r in 0..rows {
            let span = |i: usize, n: usize, from: f32, len: f32| {
                let (a, b) = (from + len * i as f32 / n as f32, from + len * (i + 1) as f32 / n as f32);
                let (a, b) = (a.min(b).max(0.0), a.max(b).max(0.0));
                ((a + 1e-3) as usize, ((b - 1e-3).ceil() as usize).max((a + 1e-3) as usize + 1))
            };
            let (ra, rb) = span(r, rows, y0, h);
            let mut run: Option<(usize, String)> = None;
            for col in 0..=columns {
                let color = (col < columns)
                    .then(|| {
                        let (ca, cb) = span(col, columns, x0, w);
                        let values =
                            (ra..rb).flat_map(|y| (ca..cb).map(move |x| (y, x))).filter_map(|(y, x)| d.data.get(y, x));
                        extreme(values, c.signed).map(|v| {
                            if v.is_nan() {
                                css(c.nan)
                            } else {
                                css(c.map.at((v - c.low) / (c.high - c.low).max(f32::MIN_POSITIVE)))
                            }
                        })
                    })
                    .flatten();
                // Cells that say something stay apart.
                let joins = gap == 0.0 && d.said.is_none();
                let continues = matches!((&run, &color), (Some((_, a)), Some(b)) if a == b && joins);
                if !continues {
                    if let Some((start, fill)) = run.take() {
                        let min = d.rect.min + egui::vec2(start as f32 * size.x, r as f32 * size.y);
                        let place =
                            Rect::from_min_size(min, egui::vec2((col - start) as f32 * size.x - gap, size.y - gap));
                        let cell = rectangle(place).set("fill", fill).set("opacity", c.opacity);
                        let (row, column) = (span(r, rows, y0, h).0, span(start, columns, x0, w).0);
                        match d.said.as_ref().and_then(|s| s.get(row)?.get(column)) {
                            Some(said) => self.add(cell.add(Title::new(said))),
                            None => self.add(cell),
                        }
                    }
                    run = color.map(|fill| (col, fill));
                }
            }
        }
    }
}

/// The largest value, or the one of largest size; NaN before all.
fn extreme(values: impl Iterator<Item = f32>, signed: bool) -> Option<f32> {
    values.reduce(|a, b| {
        let larger = if signed { b.abs() > a.abs() } else { b > a };
        if a.is_nan() || !(larger || b.is_nan()) { a } else { b }
    })
}

fn path(points: &[Pos2], closed: bool) -> String {
    let mut d = String::new();
    for (i, p) in points.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = write!(d, "{}{} {}", if i == 0 { "M" } else { "L" }, round(p.x), round(p.y));
    }
    if closed {
        d.push('Z');
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::ColorMap;

    #[test]
    fn extremes() {
        assert_eq!(extreme([1.0, -3.0, 2.0].into_iter(), false), Some(2.0));
        assert_eq!(extreme([1.0, -3.0, 2.0].into_iter(), true), Some(-3.0));
        assert!(extreme([1.0, f32::NAN].into_iter(), false).is_some_and(f32::is_nan));
        assert_eq!(extreme([].into_iter(), false), None);
    }

    #[test]
    fn a_heatmap_becomes_rectangles() {
        let rect = Rect::from_min_size(Pos2::ZERO, egui::vec2(40.0, 20.0));
        let coloring = Coloring {
            map: ColorMap::Viridis,
            low: 0.0,
            high: 1.0,
            signed: false,
            nan: Color32::RED,
            gap: Color32::BLACK,
            gap_width: 1.0,
            opacity: 1.0,
        };
        let data = HeatData::new(2, 2, vec![0.0, 1.0, f32::NAN, crate::gpu::NOTHING]);
        let recorder = Recorder::default();
        let said = Some(Arc::new(vec![vec!["a".to_owned(), "b & c".to_owned()], Vec::new()]));
        recorder.push(Drawn { rect, window: [0.0, 0.0, 2.0, 2.0], data, coloring, said });
        let callback = Shape::Callback(epaint::PaintCallback { rect, callback: Arc::new(()) });
        let shapes = [epaint::ClippedShape {
            clip_rect: rect,
            shape: callback,
            transform_after_tessellation: Default::default(),
        }];
        let text = document(&shapes, &recorder, rect.size(), Color32::BLACK);
        // Background, clip and three cells: the one that is not there is not drawn.
        assert_eq!(text.matches("<rect").count(), 5, "{text}");
        assert_eq!(text.matches("<title").count(), 2, "{text}");
        assert!(text.contains(&css(ColorMap::Viridis.at(1.0))) && text.contains("#ff0000"), "{text}");
    }
}
