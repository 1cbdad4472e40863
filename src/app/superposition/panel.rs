//! The bars of the superposition workspace: figures and settings at the left, the controls of the training above.

use eframe::egui::{self, RichText, vec2};

use crate::app::action::Action;
use crate::app::look::theme;
use crate::app::superposition::{SPEEDS, SuperpositionAction};
use crate::app::view::Context;
use crate::app::widgets::colorbar::number;
use crate::superposition::Recipe;
use crate::superposition::presets::PRESETS;
use crate::superposition::recipe::Sweep;
use crate::superposition::setup::{OptimiserKind, Task, Tie, importance, sparsities};

/// Figures and settings.
pub fn settings(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let state = &cx.state.superposition;
    let started = state.trained.is_some();
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 3.0;
        heading(ui, cx, "Figures");
        for p in PRESETS {
            let selected = p.name == state.preset;
            let text = RichText::new(p.title).font(theme::body());
            // A long title takes two lines. Something at the right pushes it to the left.
            let button = egui::Button::selectable(selected && started, text).wrap().right_text("");
            let response = ui.add(button.min_size(vec2(ui.available_width(), 22.0)));
            if response.on_hover_text(p.source).clicked() {
                cx.actions.push(Action::Superposition(SuperpositionAction::Preset(p.name)));
                if let Some(view) = crate::app::view::by_name(p.view) {
                    cx.actions.push(Action::Show(view.name));
                }
            }
        }
        let preset = state.preset();
        ui.add_space(6.0);
        ui.add(egui::Label::new(RichText::new(preset.explain).font(theme::body())).wrap());
        ui.add(egui::Label::new(RichText::new(preset.source).font(theme::small()).color(cx.palette.weak)).wrap());
        ui.add_space(8.0);
        ui.separator();
        heading(ui, cx, "Settings");
        let mut recipe = state.recipe.clone();
        shapes(ui, cx, &mut recipe);
        sweep(ui, &mut recipe);
        importances(ui, cx, &mut recipe);
        network(ui, &mut recipe);
        optimiser(ui, &mut recipe);
        if recipe != state.recipe {
            cx.actions.push(Action::Superposition(SuperpositionAction::Edit(Box::new(recipe))));
        }
        ui.add_space(8.0);
        let edited = state.is_edited() || !started;
        let label = if started { "Train again" } else { "Train" };
        let text = RichText::new(label).font(theme::title());
        let text = if edited { text.color(cx.palette.base) } else { text };
        let mut button = egui::Button::new(text).min_size(vec2(ui.available_width(), 30.0));
        if edited {
            button = button.fill(cx.palette.accent);
        }
        if ui.add(button).on_hover_text("trains all models from the start, with these settings").clicked() {
            cx.actions.push(Action::Superposition(SuperpositionAction::Start));
        }
        ui.add_space(8.0);
    });
}

fn heading(ui: &mut egui::Ui, cx: &Context<'_>, text: &str) {
    ui.add_space(4.0);
    ui.label(RichText::new(text).font(theme::title()).color(cx.palette.weak));
}

/// A label and a control in one line.
fn line<R>(ui: &mut egui::Ui, label: &str, help: &str, add: impl FnOnce(&mut egui::Ui) -> R) -> R {
    ui.horizontal(|ui| {
        let (rect, response) = ui.allocate_exact_size(vec2(104.0, 20.0), egui::Sense::hover());
        response.on_hover_text(help);
        let color = ui.visuals().weak_text_color();
        ui.painter().text(rect.left_center(), egui::Align2::LEFT_CENTER, label, theme::small(), color);
        add(ui)
    })
    .inner
}

/// A slider with its number beside it.
fn slide(ui: &mut egui::Ui, name: &str, value: &mut f32, range: std::ops::RangeInclusive<f32>, log: bool) {
    let slider = egui::Slider::new(value, range.clone()).logarithmic(log).show_value(false);
    ui.add(slider).accessible_name(name);
    // A hundredth of itself for each point dragged.
    let speed = (value.abs() * 0.01).max(1e-5);
    let number = egui::DragValue::new(value).range(range).speed(speed).max_decimals(5);
    ui.add(number).accessible_name(format!("{name}, as a number"));
}

fn shapes(ui: &mut egui::Ui, cx: &Context<'_>, r: &mut Recipe) {
    let mut n = r.features;
    line(ui, "features n", "how many features there are", |ui| {
        ui.add(egui::DragValue::new(&mut n).range(1..=2000).speed(0.2)).accessible_name("number of features");
    });
    if n != r.features {
        r.set_features(n);
    }
    line(ui, "hidden m", "dimensions that they share", |ui| {
        ui.add(egui::DragValue::new(&mut r.hidden).range(1..=400).speed(0.1)).accessible_name("hidden dimensions");
    });
    if r.features < r.hidden {
        ui.label(RichText::new("as many dimensions as features").font(theme::small()).color(cx.palette.weak));
    }
}

fn sweep(ui: &mut egui::Ui, r: &mut Recipe) {
    match &mut r.sweep {
        Sweep::Sparsity { values, repeat } => {
            let mut count = values.len();
            let mut least = values.last().map_or(0.05, |s| 1.0 - s);
            let before = (count, least);
            line(ui, "models", "one model, or a sweep from dense (density 1) to the density below", |ui| {
                ui.add(egui::DragValue::new(&mut count).range(1..=60).speed(0.1)).accessible_name("number of models");
                ui.label("×");
                ui.add(egui::DragValue::new(repeat).range(1..=100).speed(0.1))
                    .accessible_name("times each")
                    .on_hover_text("times that each is trained, from other first weights");
            });
            line(ui, "least density", "probability that a feature is active, 1 − S, in the sparsest model", |ui| {
                slide(ui, "least density", &mut least, 0.001..=1.0, true);
            });
            if before != (count, least) {
                let least = least.clamp(1e-4, 1.0);
                *values = if count == 1 { vec![1.0 - least] } else { sparsities(count, least) };
            }
        }
        Sweep::Samples { sparsity, values } => {
            line(ui, "sparsity", "probability that a feature is zero", |ui| {
                slide(ui, "sparsity", sparsity, 0.5..=0.999, false);
            });
            line(ui, "data sets", "sizes of the fixed data sets", |ui| {
                ui.label(format!("{} sizes, {} to {}", values.len(), values[0], values[values.len() - 1]));
            });
        }
        Sweep::Grid(grid) => {
            let mut side = grid.densities.len();
            line(ui, "grid", "cells a side: density across, importance upwards", |ui| {
                ui.add(egui::DragValue::new(&mut side).range(3..=40).speed(0.1)).accessible_name("cells a side");
                ui.label("cells a side");
            });
            line(ui, "models a cell", "the one with the smallest loss counts", |ui| {
                ui.add(egui::DragValue::new(&mut grid.tries).range(1..=10).speed(0.1)).accessible_name("models a cell");
            });
            if side != grid.densities.len() {
                *grid = crate::superposition::phases::Grid::new(side, grid.tries);
            }
        }
    }
}

/// The importance of each feature: a decay, or drawn by hand.
fn importances(ui: &mut egui::Ui, cx: &Context<'_>, r: &mut Recipe) {
    if r.grid().is_some() {
        return;
    }
    // What was drawn by hand may lie outside the slider; it is left alone until the slider is moved.
    let before = match r.importance.as_slice() {
        [a, b, ..] if *a > 0.0 => (b / a).clamp(0.3, 1.0),
        _ => 1.0,
    };
    let mut decay = before;
    line(ui, "importance", "I_i = F^i: the weight of each feature's error", |ui| {
        slide(ui, "importance decay", &mut decay, 0.3..=1.0, false);
    });
    if decay != before {
        r.importance = importance(r.features, decay);
    }
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 34.0), egui::Sense::click_and_drag());
    let response = response.on_hover_text("drag to draw each feature's importance by hand");
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Slider, true, "importance of each feature"));
    let n = r.importance.len().max(1);
    let top = r.importance.iter().copied().fold(1.0, f32::max);
    if let Some(at) = response.interact_pointer_pos().filter(|_| response.dragged() || response.clicked()) {
        let i = (((at.x - rect.min.x) / rect.width() * n as f32).max(0.0) as usize).min(n - 1);
        let v = ((rect.max.y - at.y) / rect.height()).clamp(0.0, 1.0) * top;
        if let Some(slot) = r.importance.get_mut(i) {
            *slot = v;
        }
    }
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 3.0, cx.palette.base);
    let pitch = rect.width() / n as f32;
    for (i, v) in r.importance.iter().enumerate() {
        let x = rect.min.x + i as f32 * pitch;
        let gap = if pitch > 4.0 { 1.0 } else { 0.0 };
        let y = rect.max.y - v / top * (rect.height() - 2.0);
        let bar = egui::Rect::from_min_max(egui::pos2(x + gap, y), egui::pos2(x + pitch, rect.max.y));
        painter.rect_filled(bar, 0.0, cx.palette.bar);
    }
}

fn network(ui: &mut egui::Ui, r: &mut Recipe) {
    line(ui, "output", "x′ = ReLU(Wᵀh + b), or without the ReLU: then superposition does not pay", |ui| {
        for (relu, text) in [(true, "ReLU"), (false, "linear")] {
            if ui.selectable_label(r.output_relu == relu, text).clicked() {
                r.output_relu = relu;
            }
        }
    });
    line(ui, "hidden layer", "a ReLU there makes single hidden units mean something", |ui| {
        for (relu, text) in [(false, "linear"), (true, "ReLU")] {
            if ui.selectable_label(r.hidden_relu == relu, text).clicked() {
                r.hidden_relu = relu;
            }
        }
    });
    line(ui, "weights", "the output reads through Wᵀ, or through weights of its own", |ui| {
        for (tied, text) in [(true, "tied"), (false, "untied")] {
            if ui.selectable_label(r.tied == tied, text).clicked() {
                r.tied = tied;
            }
        }
    });
    line(ui, "task", "reproduce x, or compute |x| of inputs in [−1, 1]", |ui| {
        for (task, text) in [(Task::Reconstruct, "x"), (Task::Absolute, "|x|")] {
            if ui.selectable_label(r.task == task, text).clicked() {
                r.task = task;
            }
        }
    });
    line(ui, "features come", "independently, all of a group together, or at most one of a group", |ui| {
        let current = r.groups.map(|g| g.0);
        for (tie, text) in [(None, "freely"), (Some(Tie::Correlated), "together"), (Some(Tie::Anticorrelated), "apart")]
        {
            if ui.selectable_label(current == tie, text).clicked() {
                r.groups = tie.map(|t| (t, r.groups.map_or(2, |g| g.1)));
            }
        }
    });
    if let Some((_, len)) = &mut r.groups {
        let n = r.features;
        line(ui, "group size", "features in each group", |ui| {
            ui.add(egui::DragValue::new(len).range(2..=n.max(2)).speed(0.1)).accessible_name("group size");
        });
    }
}

fn optimiser(ui: &mut egui::Ui, r: &mut Recipe) {
    let o = &mut r.optimiser;
    line(ui, "optimiser", "AdamW (β 0.9, 0.999), or plain gradient descent", |ui| {
        for (kind, text) in [(OptimiserKind::AdamW, "AdamW"), (OptimiserKind::Sgd, "SGD")] {
            if ui.selectable_label(o.kind == kind, text).clicked() {
                o.kind = kind;
                // A rate that suits the one does nothing, or explodes, in the other.
                o.rate = if kind == OptimiserKind::AdamW { 1e-3 } else { 0.1 };
            }
        }
        ui.toggle_value(&mut o.cosine, "cosine").on_hover_text("the rate falls to zero along half a cosine");
    });
    line(ui, "learning rate", "size of a step", |ui| {
        slide(ui, "learning rate", &mut o.rate, 1e-5..=1.0, true);
    });
    line(ui, "weight decay", "pull of all weights towards zero, times the learning rate", |ui| {
        slide(ui, "weight decay", &mut o.weight_decay, 0.0..=1.0, true);
    });
    line(ui, "batch", "fresh inputs a step", |ui| {
        ui.add(egui::DragValue::new(&mut r.batch).range(32..=8192).speed(8)).accessible_name("batch");
    });
    line(ui, "steps", "length of the training", |ui| {
        ui.add(egui::DragValue::new(&mut r.steps).range(100..=1_000_000).speed(50)).accessible_name("steps");
    });
    line(ui, "seed", "first weights and inputs follow from it", |ui| {
        ui.add(egui::DragValue::new(&mut r.seed).speed(0.05)).accessible_name("seed");
        if ui.button("next").on_hover_text("another seed").clicked() {
            r.seed = r.seed.wrapping_add(1);
        }
    });
}

/// Play, pause, step, speed, and the way back through time.
pub fn transport(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let state = &cx.state.superposition;
    ui.horizontal_centered(|ui| {
        let running = state.is_running();
        let (text, help, action) = match (running, state.is_paused(), state.trained.is_some()) {
            (true, ..) => ("❚❚", "pause (Space)", SuperpositionAction::Pause(true)),
            (false, true, _) => ("▶", "go on (Space)", SuperpositionAction::Pause(false)),
            (false, false, true) => ("⟲", "train again from the start (Space)", SuperpositionAction::Start),
            (false, false, false) => ("▶", "train (Space)", SuperpositionAction::Start),
        };
        let play = egui::Button::new(RichText::new(text).size(13.0)).min_size(vec2(34.0, 26.0));
        let response = ui.add(play).on_hover_text(help);
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, help));
        if response.clicked() {
            cx.actions.push(Action::Superposition(action));
        }
        let live = running || state.is_paused();
        for (n, text) in [(1, "+1"), (100, "+100")] {
            let response = ui.add_enabled(live, egui::Button::new(text)).on_hover_text("pause, and take so many steps");
            let why = if state.trained.is_some() { "the training has ended" } else { "no training is under way" };
            if response.on_disabled_hover_text(why).clicked() {
                cx.actions.push(Action::Superposition(SuperpositionAction::Step(n)));
            }
        }
        // In a narrow window what stands there at the right needs the room.
        let roomy = ui.available_width() > 380.0;
        if roomy {
            speeds(ui, cx);
        }
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let text = match (state.snapshot(), state.setup()) {
                (Some(m), Some(s)) if roomy => {
                    let loss = m.measures.get(state.instance).map_or(String::new(), |x| number(x.loss));
                    format!("step {} of {}   loss {loss}", m.step, s.steps)
                }
                (Some(m), _) => format!("step {}", m.step),
                _ => "not trained yet".to_owned(),
            };
            ui.label(RichText::new(text).font(theme::mono()))
                .on_hover_text("loss of the selected model on fresh inputs");
            if state.shown.is_some() && ui.button("now").on_hover_text("back to the newest step").clicked() {
                cx.actions.push(Action::Superposition(SuperpositionAction::Scrub(None)));
            }
            scrubber(ui, cx);
        });
    });
}

/// How fast the training goes.
fn speeds(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let state = &cx.state.superposition;
    let name = SPEEDS.iter().find(|s| s.0 == state.speed).map_or("full speed", |s| s.1);
    let speed = egui::ComboBox::from_id_salt("speed").width(112.0).selected_text(name).show_ui(ui, |ui| {
        for (rate, text) in SPEEDS {
            if ui.selectable_label(state.speed == rate, text).clicked() {
                cx.actions.push(Action::Superposition(SuperpositionAction::Speed(rate)));
            }
        }
    });
    speed.response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::ComboBox, true, "speed"));
}

/// The way back through time.
fn scrubber(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let state = &cx.state.superposition;
    let steps: Vec<usize> = state.snapshots().iter().map(|m| m.step).collect();
    let end = state.setup().map_or(1, |s| s.steps);
    let at = state.snapshot().map_or(0, |m| m.step);
    if let Some(k) = crate::app::widgets::scrubber::show(ui, &steps, at, end, state.shown.is_some()) {
        cx.actions.push(Action::Superposition(SuperpositionAction::Scrub(k)));
    }
}
