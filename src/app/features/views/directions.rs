//! Directions layer by layer, and what steering does.

use crate::app::view::{Area, Context, Table, View, ViewDef, Workspace};
use eframe::egui::{self, RichText};
use egui_plot::{HLine, Line, Plot, PlotPoints, VLine};

use super::{act, weak};
use crate::app::features::{Chosen, FeatureAction};
use crate::app::look::theme;
use crate::app::widgets::plots::{axes, key, said_of_points};
use crate::app::widgets::{captioned, message, token_text};
use crate::features::steering::Dose;

/// Below this height there is no plot.
const FLATTEST: f32 = 60.0;

/// How high a plot with its key must be to stand above another.
const LEAST: f32 = 190.0;

pub struct Directions {
    towards: String,
    away: String,
    /// Text on which the cost is measured.
    reference: String,
    /// How high the fields of steering were drawn.
    fields: f32,
}

impl Default for Directions {
    fn default() -> Self {
        Self {
            towards: " good, great, happy".to_owned(),
            away: " bad, terrible, sad".to_owned(),
            reference: "prose".to_owned(),
            fields: 60.0,
        }
    }
}

/// Tokens between commas; the space before each is part of it.
pub(super) fn tokens(text: &str) -> Vec<String> {
    text.split(',').filter(|t| !t.trim().is_empty()).map(str::to_owned).collect()
}

impl View for Directions {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.features;
        if s.desk.watched.is_empty() && s.desk.chosen.is_none() {
            let text = if s.finding.is_running() {
                "reading the texts …"
            } else {
                "find a direction at the left: two sets of texts, one with the concept and one without"
            };
            message(ui, text, false);
            return;
        }
        let fields = if s.desk.chosen.is_some() { self.fields } else { 0.0 };
        let size = egui::vec2(ui.available_width(), (ui.available_height() - fields).max(0.0));
        let (found, dosed) = (!s.desk.watched.is_empty(), s.desk.chosen.is_some() && !doses(cx).is_empty());
        if found && dosed && size.y < 2.0 * LEAST && size.x > 420.0 {
            // Two plots on top of each other would be too flat to be read.
            ui.allocate_ui(size, |ui| {
                ui.columns_const(|[left, right]| {
                    layers(left, cx, size.y);
                    responses(right, cx, size.y);
                });
            });
            self.steering(ui, cx);
            return;
        }
        if found && size.y > FLATTEST {
            layers(ui, cx, if dosed { 0.5 * size.y } else { size.y });
        }
        self.steering(ui, cx);
        if dosed && ui.available_height() > FLATTEST {
            responses(ui, cx, ui.available_height());
        }
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let s = &cx.state.features;
        if let Some(doses) = s.doses.value() {
            let cell = |d: &Dose| vec![Some(d.towards), Some(d.away), Some(d.share), Some(d.kl), d.loss];
            return Some(Table {
                name: "dose-response".to_owned(),
                row_axis: "alpha",
                col_axis: "response",
                rows: doses.iter().map(|d| d.alpha.to_string()).collect(),
                cols: ["towards", "away", "share", "kl", "loss"].map(str::to_owned).to_vec(),
                values: doses.iter().map(cell).collect(),
                ..Table::default()
            });
        }
        let w = s.desk.watched.first()?;
        Some(Table {
            name: format!("{}-layers", w.concept.name),
            row_axis: "layer",
            col_axis: "measure",
            rows: w.concept.layers.iter().map(|l| l.layer.to_string()).collect(),
            cols: ["auc", "accuracy", "control_auc", "control_accuracy"].map(str::to_owned).to_vec(),
            values: w
                .concept
                .layers
                .iter()
                .map(|l| [l.auc, l.accuracy, l.control_auc, l.control_accuracy].map(Some).to_vec())
                .collect(),
            ..Table::default()
        })
    }
}

/// The doses tried, as far as they are.
fn doses<'a>(cx: &Context<'a>) -> &'a [Dose] {
    cx.state.features.doses.value().map_or(&[][..], |doses| doses.as_slice())
}

/// How well a direction tells held-out texts apart, by layer, in this height with its key.
fn layers(ui: &mut egui::Ui, cx: &mut Context<'_>, height: f32) {
    let s = &cx.state.features;
    let colors = [cx.palette.accent, cx.palette.positive, cx.palette.negative, cx.palette.bar];
    let top = ui.cursor().top();
    let names = s.desk.watched.iter().zip(colors.iter().cycle());
    let names = names.map(|(w, color)| (token_text::cut(&w.concept.name, 24), *color));
    key(ui, "AUC on held-out texts, by layer", names, "dotted: accuracy, dashed: random labels");
    let response = axes(Plot::new("auc by layer"), "layer", true)
        .height((height - (ui.cursor().top() - top) - ui.spacing().item_spacing.y).max(40.0))
        .show_grid([false, true])
        .allow_scroll(false)
        .label_formatter(said_of_points(|name, x, y| format!("{name}\nlayer {x:.0}\n{y:.4}")))
        .show(ui, |p| {
            p.set_plot_bounds_y(0.3..=1.03);
            p.hline(HLine::new("", 0.5).color(cx.palette.faint).allow_hover(false));
            for (k, w) in s.desk.watched.iter().enumerate() {
                let color = colors[k % colors.len()];
                let line = |get: fn(&crate::features::direction::AtLayer) -> f32| -> PlotPoints<'_> {
                    w.concept.layers.iter().map(|l| [l.layer as f64, f64::from(get(l))]).collect()
                };
                p.line(Line::new(w.concept.name.clone(), line(|l| l.auc)).color(color).width(2.0));
                let accuracy = Line::new(format!("{}, accuracy", w.concept.name), line(|l| l.accuracy));
                p.line(accuracy.color(color).width(1.0).style(egui_plot::LineStyle::dotted_dense()));
                let control = Line::new(format!("{}, random labels", w.concept.name), line(|l| l.control_auc));
                p.line(control.color(color).width(1.0).style(egui_plot::LineStyle::dashed_dense()));
                p.vline(VLine::new("", w.layer as f64).color(color.gamma_multiply(0.4)).allow_hover(false));
            }
        });
    if response.response.clicked()
        && let Some(at) = response.response.interact_pointer_pos()
    {
        let layer = response.transform.value_from_position(at).x.round().max(0.0) as usize;
        let i = match s.desk.chosen {
            Some(Chosen::Concept(i)) => i,
            _ => 0,
        };
        if s.desk.watched.get(i).is_some_and(|w| layer < w.concept.layers.len()) {
            act(cx, FeatureAction::Layer(i, layer));
        }
    }
}

impl Directions {
    /// The fields of steering.
    fn steering(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let s = &cx.state.features;
        let Some(chosen) = s.desk.chosen else { return };
        let fields = ui.horizontal_wrapped(|ui| {
            let name = s.name(chosen);
            let title = format!("Steering along {}", token_text::cut(&name, 30));
            ui.label(RichText::new(title).font(theme::small())).on_hover_text(name);
            let help_tokens = "tokens between commas; a space before a word belongs to it";
            let help_text = "the text whose loss tells what steering costs: a file, a folder, mixed or prose";
            for (value, caption, name, width, help) in [
                (&mut self.towards, "towards", "tokens towards", 120.0, help_tokens),
                (&mut self.away, "away from", "tokens away from", 120.0, help_tokens),
                (&mut self.reference, "cost on", "reference text", 70.0, help_text),
            ] {
                captioned(ui, weak(cx, caption), width, |ui| {
                    ui.add(egui::TextEdit::singleline(value).desired_width(width))
                        .on_hover_text(help)
                        .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, name));
                });
            }
            if s.doses.is_running() {
                ui.label(weak(cx, "running …"));
            } else if ui
                .button("Try doses")
                .on_hover_text("runs the prompt and a reference text at 13 strengths")
                .clicked()
            {
                act(
                    cx,
                    FeatureAction::Dose(tokens(&self.towards), tokens(&self.away), self.reference.trim().to_owned()),
                );
            }
        });
        let mut height = fields.response.rect.height();
        if let Some(e) = s.doses.error() {
            let error = ui.add(egui::Label::new(RichText::new(e).color(cx.palette.error)).wrap());
            height += error.rect.height() + ui.spacing().item_spacing.y;
        }
        self.fields = height + ui.spacing().item_spacing.y;
    }
}

/// What each dose does to the next token, and what it costs, in this height with its key.
fn responses(ui: &mut egui::Ui, cx: &Context<'_>, height: f32) {
    let doses = doses(cx);
    let top = ui.cursor().top();
    let colors =
        [("towards", cx.palette.positive), ("away from", cx.palette.negative), ("share of towards", cx.palette.accent)];
    let name = cx.state.features.doses.get().map_or("", |d| d.question.name.as_str());
    let title = format!("{}, probability of the next token", token_text::cut(name, 40));
    key(
        ui,
        &title,
        colors.map(|(name, color)| (name.to_owned(), color)),
        "dotted: loss on the text over that at α = 0, nats",
    );
    let zero = doses.iter().find(|d| d.alpha == 0.0).and_then(|d| d.loss);
    axes(Plot::new("doses"), "α", false)
        .height((height - (ui.cursor().top() - top) - ui.spacing().item_spacing.y).max(40.0))
        .show_grid([true, true])
        .allow_scroll(false)
        .label_formatter(said_of_points(|name, x, y| format!("{name}\nα {x:+.2}\n{y:.4}")))
        .show(ui, |p| {
            let line = |get: &dyn Fn(&Dose) -> Option<f32>| -> PlotPoints<'static> {
                let points = doses.iter().filter_map(|d| Some([f64::from(d.alpha), f64::from(get(d)?)]));
                points.filter(|p| p[1].is_finite()).collect()
            };
            let lines = [line(&|d| Some(d.towards)), line(&|d| Some(d.away)), line(&|d| Some(d.share))];
            for ((name, color), points) in colors.into_iter().zip(lines) {
                p.line(Line::new(name, points).color(color).width(2.0));
            }
            if let Some(zero) = zero {
                let cost = line(&|d| d.loss.map(|l| l - zero));
                let cost = Line::new("reference loss, nats", cost).color(cx.palette.weak).width(1.5);
                p.line(cost.style(egui_plot::LineStyle::dotted_dense()));
            }
        });
}

pub const VIEW: ViewDef = ViewDef {
    name: "directions",
    title: "Directions",
    workspace: Workspace::Features,
    area: Area::BottomLeft,
    make: || Box::new(Directions::default()),
};
