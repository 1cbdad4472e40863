//! What speaks against a graph as it stands: where the prompt begins, and what was found of the set that it is on.

use eframe::egui::{self, RichText};

use super::audit::audit_of;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::graph::features::audit::left_out;
use crate::graph::features::first_token_warning;
use crate::graph::layout::{Origin, Shown};

/// Says it above the picture.
pub fn doubts(ui: &mut egui::Ui, cx: &Context<'_>, shown: &Shown) {
    let begins = match &shown.source {
        Origin::Features { trace, found, .. } if found.silent > 0 => first_token_warning(&trace.model, &trace.ids),
        _ => None,
    };
    let of_set = match &shown.source {
        Origin::Traced { .. } => Vec::new(),
        Origin::Features { .. } | Origin::File(_) => cx.state.trust.of_set(),
    };
    let audited = audit_of(cx.state).and_then(|a| a.doubt());
    let left_out = match &shown.source {
        Origin::File(file) if cx.state.desk().graph.audit || cx.state.live_graph().is_some() => left_out(file),
        _ => Vec::new(),
    };
    let all: Vec<String> = begins.into_iter().chain(of_set).chain(left_out).chain(audited).collect();
    if all.is_empty() {
        return;
    }
    // One line: the picture needs the room.
    let line = RichText::new(format!("⚠ {}", all.join(" "))).font(theme::small()).color(cx.palette.warning);
    ui.add(egui::Label::new(line).truncate()).on_hover_text(all.join("\n"));
}
