//! The two pictures: what can be read at each layer, beside its controls; and what is used, at one.

use eframe::egui::{self, Color32, RichText};
use egui_plot::{FilledArea, HLine, Line, LineStyle, Plot, PlotPoints, Points, VLine};

use super::settings::By;
use crate::app::features::views::weak;
use crate::app::look::theme::{self, Palette};
use crate::app::view::Context;
use crate::app::widgets::bars::{Bar, bar};
use crate::app::widgets::plots::{axes, key, said_of_points};
use crate::features::direction::concept::Pool;
use crate::probes::fit::Score;
use crate::probes::interchange::Interchange;
use crate::probes::question::{AtLayer, Probes, Recipe, site_name};

/// Gives a layer's score of one curve.
type Get = fn(&AtLayer) -> &Score;

/// The curves: the probe, and what it is compared with.
pub const CURVES: [(&str, Get); 4] = [
    ("probe", |l| &l.score),
    ("shuffled labels", |l| &l.shuffled_labels),
    ("random coordinates", |l| &l.random_coordinates),
    ("random weights", |l| &l.random_model),
];

fn colors(palette: &Palette) -> [Color32; 4] {
    [palette.accent, palette.negative, palette.bar, palette.positive]
}

/// The scores by layer with their intervals.
pub fn read(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    (recipe, found): (&Recipe, &Probes),
    by: By,
    fresh: bool,
    height: f32,
) {
    let top = ui.cursor().top();
    let strength = if fresh { 1.0 } else { 0.5 };
    let colors = colors(&cx.palette).map(|c| c.gamma_multiply(strength));
    let tokens = match recipe.pool {
        Pool::Last => "the last token's",
        Pool::Mean => "the mean",
    };
    let (site, texts) = (site_name(recipe.site), found.test);
    let title = format!("It can be read off {tokens} {site}: {} on {texts} held-out texts of {}", name(by), found.set);
    let curves = CURVES.iter().zip(colors).map(|((name, _), color)| ((*name).to_owned(), color));
    key(ui, &title, curves, "shaded: 95 % intervals");
    let layers = &found.layers;
    let response = axes(Plot::new("probes by layer"), "layer", true)
        .height((height - (ui.cursor().top() - top) - ui.spacing().item_spacing.y).max(40.0))
        .show_grid([false, true])
        .allow_scroll(false)
        .label_formatter(said_of_points(|name, x, y| format!("{name}\nlayer {x:.0}\n{y:.4}")))
        .show(ui, |p| {
            p.set_plot_bounds_y(0.0..=1.03);
            let chance = if by == By::Auc { 0.5 } else { 1.0 / found.classes.len().max(1) as f64 };
            p.hline(HLine::new("", chance).color(cx.palette.faint).allow_hover(false));
            p.vline(VLine::new("", cx.pinned().layer as f64).color(cx.palette.faint).allow_hover(false));
            // The probe lies on top of its controls.
            for ((name, get), color) in CURVES.iter().zip(colors).rev() {
                let of = |l: &AtLayer| by.of(get(l));
                let xs: Vec<f64> = layers.iter().map(|l| l.layer as f64).collect();
                let ends = |k: usize| -> Vec<f64> { layers.iter().map(|l| f64::from(of(l).1[k])).collect() };
                let points: Vec<[f64; 2]> = xs.iter().zip(layers).map(|(x, l)| [*x, f64::from(of(l).0)]).collect();
                if let [x] = xs[..] {
                    let ends = vec![[x, ends(0)[0]], [x, ends(1)[0]]];
                    p.line(Line::new("", ends).color(color.gamma_multiply(0.5)).width(3.0).allow_hover(false));
                } else {
                    let area = FilledArea::new("", &xs, &ends(0), &ends(1)).fill_color(color.gamma_multiply(0.14));
                    p.add(area.allow_hover(false));
                }
                let probe = *name == CURVES[0].0;
                let line = Line::new(*name, PlotPoints::from(points.clone())).color(color);
                let style = if probe { LineStyle::Solid } else { LineStyle::dashed_dense() };
                p.line(line.width(if probe { 2.0 } else { 1.2 }).style(style));
                p.points(Points::new(*name, points).color(color).radius(if probe { 3.0 } else { 2.0 }));
            }
        });
    if response.response.clicked()
        && let Some(at) = response.response.interact_pointer_pos()
    {
        let layer = response.transform.value_from_position(at).x.round().max(0.0) as usize;
        if cx.state.model.as_ref().is_some_and(|m| layer < m.config.n_layers) {
            cx.pin(|p| p.layer = layer);
        }
    }
}

fn name(by: By) -> &'static str {
    By::ALL.iter().find(|(b, _)| *b == by).map_or("", |(_, n)| n)
}

/// What the probes say of the prompt: the probability of each class by layer.
pub fn said(ui: &mut egui::Ui, cx: &Context<'_>, classes: &[String], said: &[(usize, Vec<f32>)]) {
    const FIRST: &str = "this prompt";
    let width = classes.iter().map(|c| c.chars().count()).chain([FIRST.len()]).max().unwrap_or_default();
    let line = |name: &str, cells: &mut dyn Iterator<Item = String>| -> String {
        format!("{name:<width$}{}", cells.map(|cell| format!("{cell:>6}")).collect::<String>())
    };
    let text = |line: String, color: Color32| RichText::new(line).font(theme::mono_small()).color(color);
    egui::ScrollArea::horizontal().id_salt("probes at the prompt").show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        ui.style_mut().wrap_mode = Some(egui::TextWrapMode::Extend);
        let layers = line(FIRST, &mut said.iter().map(|(layer, _)| layer.to_string()));
        ui.label(text(layers, cx.palette.weak))
            .on_hover_text("layers, and the probability of each class that the probe gives");
        for (i, class) in classes.iter().enumerate() {
            let share = |(_, shares): &(usize, Vec<f32>)| shares.get(i).map_or_else(String::new, |p| format!("{p:.2}"));
            ui.label(text(line(class, &mut said.iter().map(share)), cx.palette.text));
        }
    });
}

/// The shares of pairs whose answer follows what was interchanged.
pub fn used(ui: &mut egui::Ui, cx: &Context<'_>, found: &Interchange) {
    let tokens = match found.pool {
        Pool::Last => "the last token",
        Pool::Mean => "every token but the first",
    };
    let title = format!(
        "It is used: share of {} held-out pairs of {} that answer as for the source once its part of {} in layer {} is put in \
         at {tokens}; the probe is fitted there",
        found.pairs, found.set, found.site, found.layer
    );
    ui.add(egui::Label::new(weak(cx, title)).wrap());
    egui::ScrollArea::vertical().id_salt("interchange").auto_shrink([false, false]).show(ui, |ui| {
        let mut controls = false;
        for (name, share, control) in found.shares() {
            if control && !std::mem::replace(&mut controls, true) {
                ui.separator();
            }
            let label = name.trim_start_matches("control: ").to_owned();
            let strong = name == "DAS";
            let width = (0.6 * ui.available_width()).clamp(80.0, 330.0);
            let one = Bar { label, value: share, text: format!("{share:.3}"), strong };
            let [low, high] = found.interval(share);
            let told =
                format!("{name}: 95 % from {low:.2} to {high:.2}, as of no more pairs than the {} texts", found.texts);
            bar(ui, &one, 1.0, false, width).on_hover_text(told);
        }
        if controls {
            ui.label(RichText::new("below the line: controls").font(theme::small()).color(cx.palette.weak));
        }
    });
}
