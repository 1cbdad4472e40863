//! One example: input, hidden layer, output of the selected model. The inputs can be drawn.

use crate::app::export::plate::is_plate;
use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText, vec2};

use super::{feature_labels, ready};
use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::SuperpositionAction;
use crate::app::widgets::colorbar::number;
use crate::superposition::Setup;
use crate::superposition::gradient::Parameters;
use crate::superposition::setup::Task;
use crate::superposition::toy::Frame;

#[derive(Default)]
pub struct Example;

fn parameters(setup: &Setup, frame: &Frame) -> Parameters {
    let mut values = frame.encoder.clone();
    if !setup.tied {
        values.extend(&frame.decoder);
    }
    values.extend(&frame.bias);
    Parameters { values, features: setup.features, hidden: setup.hidden, tied: setup.tied }
}

impl View for Example {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let k = cx.state.superposition.instance;
        let frame = &snapshot.frames[k];
        let mut x = cx.state.superposition.example.clone();
        x.resize(setup.features, 0.0);
        let signed = setup.task == Task::Absolute;
        let before = x.clone();
        ui.horizontal(|ui| {
            let label = cx.state.superposition.instance_label(k);
            ui.label(RichText::new(label).font(theme::small()).color(cx.palette.accent));
            let small = |t: &str| RichText::new(t).font(theme::small());
            if is_plate(ui.ctx()) {
                return;
            }
            if ui.button(small("one feature")).on_hover_text("the next feature alone").clicked() {
                let next = x.iter().position(|v| *v != 0.0).map_or(0, |i| (i + 1) % setup.features);
                x.fill(0.0);
                x[next] = 1.0;
            }
            if ui.button(small("two")).on_hover_text("two neighbours at once: where interference hurts").clicked() {
                let next = x.iter().position(|v| *v != 0.0).map_or(0, |i| (i + 1) % setup.features);
                x.fill(0.0);
                x[next] = 1.0;
                x[(next + 1) % setup.features] = 0.7;
            }
            if ui.button(small("none")).on_hover_text("no feature at all: the output is ReLU(b)").clicked() {
                x.fill(0.0);
            }
        });
        let (hidden, output) = parameters(&setup, frame).forward(&setup, &x);
        let target: Vec<f32> = if signed { x.iter().map(|v| v.abs()).collect() } else { x.clone() };
        let space = ui.available_size();
        let third = (space.x - 32.0) / 3.0;
        ui.horizontal_top(|ui| {
            let column = |ui: &mut egui::Ui, title: &str, help: &str, body: &mut dyn FnMut(&mut egui::Ui)| {
                ui.allocate_ui_with_layout(vec2(third, space.y), egui::Layout::top_down(egui::Align::Min), |ui| {
                    ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak)).on_hover_text(help);
                    egui::ScrollArea::vertical().id_salt(title).show(ui, body);
                });
            };
            // Narrow columns are headed by the formula alone.
            let headed = |name: &str, formula: &str| {
                if third < 130.0 { formula.to_owned() } else { format!("{name} {formula}") }
            };
            let help = "the input; drag a bar to set how active a feature is";
            column(ui, &headed("input", "x (drag)"), help, &mut |ui| {
                for (i, v) in x.iter_mut().enumerate() {
                    let range = if signed { -1.0..=1.0 } else { 0.0..=1.0 };
                    drag(ui, cx, i, v, range);
                }
            });
            let title = headed("hidden", if setup.hidden_relu { "h = ReLU(W x)" } else { "h = W x" });
            column(ui, &title, "the m hidden values that all features share", &mut |ui| {
                let max = hidden.iter().fold(1.0f32, |m, v| m.max(v.abs()));
                for (j, v) in hidden.iter().enumerate() {
                    level(ui, cx, &j.to_string(), *v, None, max);
                }
            });
            let formula = match (setup.output_relu, setup.tied) {
                (true, true) => "ReLU(Wᵀh+b)",
                (true, false) => "ReLU(Vh+b)",
                (false, true) => "Wᵀh + b",
                (false, false) => "Vh + b",
            };
            column(ui, &headed("output", formula), "the bar is the output, the line the target", &mut |ui| {
                for (i, (y, t)) in output.iter().zip(&target).enumerate() {
                    level(ui, cx, &i.to_string(), *y, Some(*t), 1.2);
                }
            });
        });
        if x != before {
            cx.actions.push(Action::Superposition(SuperpositionAction::Example(x)));
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        let frame = snapshot.frames.get(cx.state.superposition.instance)?;
        let mut x = cx.state.superposition.example.clone();
        x.resize(setup.features, 0.0);
        let (_, output) = parameters(setup, frame).forward(setup, &x);
        Some(Table {
            name: "example".to_owned(),
            row_axis: "feature",
            col_axis: "value",
            rows: feature_labels(setup.features),
            cols: vec!["input".to_owned(), "output".to_owned()],
            values: x.iter().zip(&output).map(|(x, y)| vec![Some(*x), Some(*y)]).collect(),
            ..Table::default()
        })
    }
}

const ROW: f32 = 17.0;
const LABEL: f32 = 22.0;
const VALUE: f32 = 38.0;

/// A bar from the left, or from the middle where values have a sign.
fn level(ui: &mut egui::Ui, cx: &Context<'_>, label: &str, value: f32, target: Option<f32>, max: f32) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), ROW), egui::Sense::hover());
    paint(ui, cx, rect, label, value, target, max, target.is_none());
    if let Some(t) = target {
        response.on_hover_text(format!("output {value:.4}, target {t:.4}"));
    }
}

fn drag(ui: &mut egui::Ui, cx: &Context<'_>, i: usize, value: &mut f32, range: std::ops::RangeInclusive<f32>) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), ROW), egui::Sense::click_and_drag());
    response.widget_info(|| egui::WidgetInfo::slider(true, f64::from(*value), format!("input {i}")));
    let signed = *range.start() < 0.0;
    if let Some(at) = response.interact_pointer_pos().filter(|_| response.dragged() || response.clicked()) {
        let track = track(rect);
        let t = ((at.x - track.min.x) / track.width()).clamp(0.0, 1.0);
        *value = egui::lerp(range, t);
        if value.abs() < 0.03 {
            *value = 0.0;
        }
    }
    if response.hovered() {
        ui.painter().rect_filled(rect, 3.0, cx.palette.hovered);
    }
    paint(ui, cx, rect, &i.to_string(), *value, None, 1.0, signed);
}

fn track(rect: egui::Rect) -> egui::Rect {
    egui::Rect::from_min_max(
        egui::pos2(rect.min.x + LABEL, rect.center().y - 4.0),
        egui::pos2((rect.max.x - VALUE).max(rect.min.x + LABEL + 4.0), rect.center().y + 4.0),
    )
}

fn paint(
    ui: &egui::Ui,
    cx: &Context<'_>,
    rect: egui::Rect,
    label: &str,
    value: f32,
    target: Option<f32>,
    max: f32,
    signed: bool,
) {
    let painter = ui.painter();
    let track = track(rect);
    let y = rect.center().y;
    let left = egui::Align2::LEFT_CENTER;
    painter.text(egui::pos2(rect.min.x + 2.0, y), left, label, theme::mono_small(), cx.palette.weak);
    painter.rect_filled(track, 2.0, cx.palette.raised);
    let x = |v: f32| {
        let t = if signed { 0.5 + 0.5 * v / max } else { v / max };
        egui::lerp(track.x_range(), t.clamp(0.0, 1.0))
    };
    let (a, b) = (x(0.0), x(value));
    let color = if signed { cx.palette.signed(value) } else { cx.palette.bar };
    painter.rect_filled(egui::Rect::from_x_y_ranges(a.min(b)..=a.max(b), track.y_range()), 2.0, color);
    if let Some(t) = target {
        let line = egui::Stroke::new(2.0, cx.palette.accent);
        painter.vline(x(t), egui::Rangef::new(track.min.y - 3.0, track.max.y + 3.0), line);
    }
    let right = egui::Align2::RIGHT_CENTER;
    painter.text(egui::pos2(rect.max.x - 2.0, y), right, number(value), theme::mono_small(), cx.palette.text);
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-example",
    title: "Example",
    workspace: Workspace::Superposition,
    area: Area::TopRight,
    make: || Box::new(Example),
};
