//! The columns of W in three dimensions, turning.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, Align2, RichText, vec2};
use eframe::egui_wgpu::Callback;

use super::{feature_color, ready};
use crate::app::look::{svg, theme};
use crate::app::widgets::message;
use crate::gpu::scene::{Camera, Capsule, SceneCallback, sorted};
use crate::superposition::{Setup, Snapshot};

pub struct SceneView {
    yaw: f32,
    pitch: f32,
    zoom: f32,
    turning: bool,
}

impl Default for SceneView {
    fn default() -> Self {
        Self { yaw: 0.6, pitch: 0.35, zoom: 1.0, turning: true }
    }
}

/// Radians a second.
const SPEED: f32 = 0.35;
/// Half of what is shown, in weights.
const REACH: f32 = 1.7;
/// Arrows of more features than this cannot be told apart.
const MOST: usize = 400;

impl View for SceneView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        if setup.hidden < 3 {
            message(ui, "a scene needs three hidden dimensions; two are drawn in the Features view", false);
            return;
        }
        ui.horizontal(|ui| {
            let small = |t: &str| RichText::new(t).font(theme::small());
            ui.toggle_value(&mut self.turning, small("turn")).on_hover_text("turn the scene slowly");
            let k = cx.state.superposition.instance;
            ui.label(small(&cx.state.superposition.instance_label(k)).color(cx.palette.accent));
            ui.label(small(&snapshot.measures[k].shape.label()).color(cx.palette.weak));
            if setup.hidden > 3 {
                let text = format!("the first three of {} hidden dimensions", setup.hidden);
                ui.label(small(&text).color(cx.palette.weak));
            }
        });
        let (rect, response) = ui.allocate_exact_size(ui.available_size(), egui::Sense::click_and_drag());
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, "features in three dimensions"));
        if response.dragged() {
            let by = response.drag_delta();
            self.yaw += by.x * 0.01;
            self.pitch = (self.pitch + by.y * 0.01).clamp(-1.5, 1.5);
            self.turning = false;
        }
        if response.hovered() {
            self.zoom = (self.zoom * (ui.input(|i| i.smooth_scroll_delta().y) * 0.003).exp()).clamp(0.3, 4.0);
        }
        if response.double_clicked() {
            *self = Self { turning: self.turning, ..Self::default() };
        }
        if self.turning {
            // A picture without a clock stands still.
            self.yaw += SPEED * ui.input(|i| i.stable_dt.min(0.1)) * f32::from(u8::from(cx.state.superposition.turns));
            if cx.state.superposition.turns {
                ui.ctx().request_repaint();
            }
        }
        let scale = rect.width().min(rect.height()) / 2.0 / REACH * self.zoom;
        let camera = Camera { yaw: self.yaw, pitch: self.pitch, scale };
        let labels = capsules(cx, &setup, &snapshot, camera, rect.size() / 2.0);
        let capsules = sorted(labels.0);
        if svg::is_recording(ui) {
            for c in capsules.iter() {
                let at = |p: [f32; 3]| rect.min + vec2(p[0], p[1]);
                let stroke = egui::Stroke::new(2.0 * c.a[2].max(c.b[2]), c.color);
                ui.painter().line_segment([at(c.a), at(c.b)], stroke);
            }
        } else {
            let widget = response.id.value();
            ui.painter_at(rect).add(Callback::new_paint_callback(rect, SceneCallback { widget, capsules, rect }));
        }
        if setup.features <= 40 {
            for (i, at, color) in labels.1 {
                ui.painter_at(rect).text(rect.min + at, Align2::CENTER_CENTER, i, theme::mono_small(), color);
            }
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        super::features::Features.table(cx)
    }
}

type Labels = Vec<(usize, egui::Vec2, egui::Color32)>;

fn capsules(
    cx: &Context<'_>,
    setup: &Setup,
    snapshot: &Snapshot,
    camera: Camera,
    center: egui::Vec2,
) -> (Vec<Capsule>, Labels) {
    let m = setup.hidden;
    let k = cx.state.superposition.instance;
    let frame = &snapshot.frames[k];
    let importance = &setup.instances[k].importance;
    let mut list = Vec::new();
    let mut labels = Vec::new();
    let mut line = |from: [f32; 3], to: [f32; 3], radius: (f32, f32), color: egui::Color32| {
        let ((a, da), (b, db)) = (camera.project(from), camera.project(to));
        let depth = (da + db) / 2.0;
        // Farther is fainter.
        let fade = (1.0 - 0.22 * (depth + 1.0)).clamp(0.35, 1.0);
        let r = |radius: f32, depth: f32| radius * Camera::magnification(depth);
        let (a, b) = (center + a, center + b);
        list.push(Capsule {
            a: [a.x, a.y, r(radius.0, da)],
            b: [b.x, b.y, r(radius.1, db)],
            color: color.gamma_multiply(fade),
            depth,
        });
    };
    // The unit sphere's three great circles.
    let steps = 48;
    for plane in 0..3 {
        let at = |t: usize| {
            let (s, c) = (t as f32 / steps as f32 * std::f32::consts::TAU).sin_cos();
            let mut p = [0.0; 3];
            (p[plane], p[(plane + 1) % 3]) = (c, s);
            p
        };
        for t in 0..steps {
            line(at(t), at(t + 1), (0.7, 0.7), cx.palette.faint.gamma_multiply(0.6));
        }
    }
    for i in 0..setup.features.min(MOST) {
        let w = &frame.encoder[i * m..i * m + 3];
        let tip = [w[0], w[1], w[2]];
        let length = tip.iter().map(|v| v * v).sum::<f32>().sqrt();
        let color = feature_color(cx, importance, i);
        let dim = cx.state.superposition.feature.is_some_and(|f| f != i);
        let color = if dim { color.gamma_multiply(0.25) } else { color };
        let part = |t: f32| [tip[0] * t, tip[1] * t, tip[2] * t];
        line([0.0; 3], tip, (2.4, 2.4), color);
        if length > 0.1 {
            line(tip, tip, (6.0, 6.0), color);
            let (at, _) = camera.project(part(1.0 + 0.14 / length));
            labels.push((i, center + at, color));
        }
    }
    (list, labels)
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-scene",
    title: "Features in 3-D",
    workspace: Workspace::Superposition,
    area: Area::TopLeft,
    make: || Box::new(SceneView::default()),
};
