//! What surrounds the views of each workspace. Places of the bars are noted for lessons to point at.

use std::collections::HashMap;

use eframe::egui::{self, RichText};

use crate::app::features::panel;
use crate::app::shell::strip::Strip;
use crate::app::shell::topbar::TopBar;
use crate::app::shell::{inspector, strip, topbar};
use crate::app::view::Context;

/// Points of the window below which the inspector is folded away.
const NARROW: f32 = 900.0;

/// Which bars a window has room for: where there is little, the views go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fits {
    pub status: bool,
    pub tokens: bool,
    pub prompt: bool,
    pub sides: bool,
    /// More views than one.
    pub views: bool,
}

impl Fits {
    pub fn of(window: egui::Vec2) -> Self {
        let sides = window.x >= 460.0;
        let views = sides && window.y >= 280.0;
        Self { status: window.y >= 320.0, tokens: window.y >= 300.0, prompt: window.y >= 200.0, sides, views }
    }
}

/// A bar across the window.
pub fn bar(fill: egui::Color32) -> egui::Frame {
    egui::Frame::new().fill(fill).inner_margin(egui::Margin::symmetric(12, 6))
}

/// What surrounds the views of a model.
pub fn model_bars(
    (top, strip): (&mut TopBar, &mut Strip),
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    side: egui::Frame,
    places: &mut Places,
    fits: Fits,
) {
    tokens((top, strip), ui, cx, places, fits);
    // Where there is little room, or one view is to have all of it, the views go first.
    let folds = ui.available_width() < NARROW || cx.state.document.look.filled.is_some();
    if cx.state.cover.inspector || folds {
        // A lesson's text has its place.
        places.remove("inspector");
        return;
    }
    let width = (ui.available_width() * 0.22).clamp(220.0, 340.0);
    let panel = egui::Panel::right("inspector").frame(side).default_size(width).size_range(200.0..=520.0);
    let shown = panel.show(ui, |ui| inspector::ui(ui, cx));
    places.insert("inspector", shown.response.rect);
}

/// What surrounds the views of features: the prompt's tokens above, what is opened, scanned and found at the left.
pub fn feature_bars(
    (top, strip): (&mut TopBar, &mut Strip),
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    side: egui::Frame,
    places: &mut Places,
    fits: Fits,
) {
    tokens((top, strip), ui, cx, places, fits);
    if !fits.sides {
        places.remove("dictionary");
        return;
    }
    let panel = egui::Panel::left("features").frame(side).default_size(270.0).size_range(230.0..=460.0);
    let panel = panel.show_separator_line(false);
    places.insert("dictionary", panel.show(ui, |ui| panel::ui(ui, cx)).response.rect);
}

/// The prompt's tokens, and the other prompt where there is one.
fn tokens(
    (top, strip): (&mut TopBar, &mut Strip),
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    places: &mut Places,
    fits: Fits,
) {
    if !fits.prompt {
        places.retain(|place, _| !["prompt", "answer", "strip"].contains(place));
        return;
    }
    let palette = cx.palette;
    let slim = egui::Frame::new().fill(palette.header).inner_margin(egui::Margin::symmetric(12, 3));
    let line = egui::Panel::top("question").frame(slim).resizable(false).show_separator_line(false);
    line.show(ui, |ui| top.question(ui, cx));
    if top.is_comparing(cx) {
        let line = egui::Panel::top("compare").frame(slim).resizable(false).show_separator_line(false);
        line.show(ui, |ui| top.compare(ui, cx));
    }
    if fits.tokens {
        strip_bar(strip, ui, cx, places);
    } else {
        places.remove("strip");
    }
    for (name, id) in [("prompt", topbar::PROMPT_ID), ("answer", topbar::ANSWER_ID)] {
        if let Some(r) = ui.ctx().read_response(egui::Id::unique(id)) {
            places.insert(name, r.rect);
        }
    }
}

/// The tokens alone.
pub fn strip_bar(strip: &mut Strip, ui: &mut egui::Ui, cx: &mut Context<'_>, places: &mut Places) {
    let second = if cx.state.corrupted().is_some() { strip::SECOND_ROW } else { 0.0 };
    let tokens = egui::Panel::top("strip").frame(bar(cx.palette.base)).exact_size(56.0 + second);
    let shown = tokens.show_separator_line(false).show(ui, |ui| match cx.state.cover.hides("strip") {
        Some(why) => _ = ui.label(RichText::new(why).color(cx.palette.weak)),
        None => strip.ui(ui, cx),
    });
    places.insert("strip", shown.response.rect);
}

pub type Places = HashMap<&'static str, egui::Rect>;
type Bar = fn(&mut egui::Ui, &mut Context<'_>);

/// What surrounds the views of a lab: settings at the left, the way through time above.
pub fn side_bars(
    ui: &mut egui::Ui,
    cx: &mut Context<'_>,
    side: egui::Frame,
    settings: Bar,
    transport: Bar,
    places: &mut Places,
    fits: Fits,
) {
    if !fits.sides {
        places.retain(|place, _| !["settings", "transport"].contains(place));
        return;
    }
    let width = (0.33 * ui.available_width()).clamp(240.0, 300.0);
    let panel = egui::Panel::left("settings").frame(side).default_size(width).size_range(240.0..=460.0);
    places.insert("settings", panel.show(ui, |ui| settings(ui, cx)).response.rect);
    let panel = egui::Panel::top("transport").frame(bar(cx.palette.header)).exact_size(40.0);
    let shown = panel.show_separator_line(false).show(ui, |ui| transport(ui, cx));
    places.insert("transport", shown.response.rect);
}
