//! Memorisation: samples and features in the hidden layer, and the loss over the size of the data set.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText, Stroke, vec2};
use egui_plot::{Line, Plot, Points};

use super::features::REACH;
use super::{caption, ready, small_multiples};
use crate::app::look::theme;
use crate::app::widgets::message;
use crate::app::widgets::plots::said_of_points;
use crate::superposition::toy::Frame;
use crate::superposition::{Setup, Snapshot};

#[derive(Default)]
pub struct Samples;

fn sizes(setup: &Setup) -> Option<Vec<usize>> {
    setup.instances.iter().map(|i| i.samples).collect()
}

impl View for Samples {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some((setup, snapshot)) = ready(ui, cx) else { return };
        let Some(sizes) = sizes(&setup) else {
            message(
                ui,
                "these models see fresh inputs at every step; the memorisation preset trains on fixed sets",
                false,
            );
            return;
        };
        let space = ui.available_size();
        ui.allocate_ui(vec2(space.x, space.y * 0.62), |ui| {
            ui.horizontal(|ui| {
                for (text, color, help) in [
                    ("features", cx.palette.bar, "columns of W"),
                    ("samples", cx.palette.accent, "hidden vectors W x of the data set's first samples"),
                ] {
                    let (rect, _) = ui.allocate_exact_size(vec2(10.0, 10.0), egui::Sense::hover());
                    ui.painter().circle_filled(rect.center(), 4.0, color);
                    ui.label(RichText::new(text).font(theme::small())).on_hover_text(help);
                }
            });
            small_multiples(ui, cx, sizes.len(), 1.0, 18.0, |ui, cx, k, rect, _| {
                let frame = &snapshot.frames[k];
                let m = setup.hidden;
                let all = frame.encoder.chunks(m).map(|w| (w, cx.palette.bar));
                let hidden = snapshot.hidden.get(k).into_iter().flatten().map(|h| (h.as_slice(), cx.palette.accent));
                let longest = |it: &mut dyn Iterator<Item = &[f32]>| {
                    it.map(|v| v.iter().take(2).map(|x| x * x).sum::<f32>().sqrt()).fold(0.0, f32::max)
                };
                // Features and samples have scales of their own; each fills the picture.
                let reach = [
                    longest(&mut frame.encoder.chunks(m)).max(1e-3),
                    longest(&mut snapshot.hidden.get(k).into_iter().flatten().map(Vec::as_slice)).max(1e-3),
                ];
                let painter = ui.painter_at(rect);
                let unit = rect.width() / 2.0 / REACH;
                painter.circle_stroke(rect.center(), unit, Stroke::new(1.0, cx.palette.border));
                for (which, (v, color)) in all.map(|x| (0, x)).chain(hidden.map(|x| (1, x))) {
                    let y = v.get(1).copied().unwrap_or(0.0);
                    let tip = rect.center() + vec2(v[0], -y) * (unit / reach[which]);
                    if which == 0 {
                        painter.line_segment([rect.center(), tip], Stroke::new(1.0, color.gamma_multiply(0.6)));
                    } else {
                        painter.circle_filled(tip, 2.6, color);
                    }
                }
                caption(ui, rect, &[(cx.state.superposition.instance_label(k), cx.palette.weak)]);
            });
        });
        curve(ui, cx, &snapshot, &sizes);
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let (setup, snapshot) = (cx.state.superposition.setup()?, cx.state.superposition.snapshot()?);
        let sizes = sizes(setup)?;
        let frames = &snapshot.frames;
        Some(Table {
            name: "double-descent".to_owned(),
            row_axis: "samples",
            col_axis: "loss",
            rows: sizes.iter().map(ToString::to_string).collect(),
            cols: vec!["fresh inputs".to_owned(), "training set".to_owned()],
            values: frames.iter().map(|f| vec![Some(f.loss()), f.train_loss]).collect(),
            ..Table::default()
        })
    }
}

fn curve(ui: &mut egui::Ui, cx: &Context<'_>, snapshot: &Snapshot, sizes: &[usize]) {
    let frames = &snapshot.frames;
    let line = |value: &dyn Fn(usize) -> Option<f32>| -> Vec<[f64; 2]> {
        sizes.iter().enumerate().filter_map(|(k, s)| Some([(*s as f64).log10(), f64::from(value(k)?)])).collect()
    };
    let test = line(&|k| frames.get(k).map(Frame::loss));
    let train = line(&|k| frames.get(k).and_then(|f| f.train_loss));
    Plot::new("double descent")
        .show_grid([false, true])
        .x_axis_label("samples in the data set (logarithmic)")
        .y_axis_label("loss")
        .include_y(0.0)
        .y_axis_min_width(48.0)
        .legend(egui_plot::Legend::default().position(egui_plot::Corner::RightBottom))
        .x_axis_formatter(|mark, _| format!("{:.0}", 10f64.powf(mark.value)))
        .label_formatter(said_of_points(|name, x, y| format!("{name}\n{:.0} samples\nloss {y:.4}", 10f64.powf(x))))
        .show(ui, |p| {
            for (name, points, color) in
                [("fresh inputs", test, cx.palette.negative), ("training set", train, cx.palette.positive)]
            {
                p.line(Line::new(name, points.clone()).color(color).width(2.0));
                p.points(Points::new(name, points).color(color).radius(3.0));
            }
        });
}

pub const VIEW: ViewDef = ViewDef {
    name: "toy-samples",
    title: "Memorisation",
    workspace: Workspace::Superposition,
    area: Area::TopLeft,
    make: || Box::new(Samples),
};
