//! The views of a transformer in training.

crate::app::view::views![curves, patterns, fourier];

use std::sync::Arc;

use eframe::egui;

use crate::app::view::Context;
use crate::app::widgets::message;
use crate::training::run::Probe;

/// Returns the probe on screen. If there is none, shows a sentence that says why.
fn ready(ui: &mut egui::Ui, cx: &Context<'_>) -> Option<Arc<Probe>> {
    let s = &cx.state.training;
    if let Some(probe) = s.probe() {
        return Some(probe.clone());
    }
    match (&s.error, s.is_running()) {
        (Some(e), _) => message(ui, e, true),
        (None, true) => message(ui, "the first steps …", false),
        (None, false) => message(ui, "choose a model at the left and press Train", false),
    }
    None
}
