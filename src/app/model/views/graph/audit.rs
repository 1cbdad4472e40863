//! What the audit found of the links that are drawn: which fail, and how far their predictions are off.

use eframe::egui::{self, RichText};

use super::GraphView;
use super::acts::title;
use std::sync::Arc;

use crate::app::look::theme;
use crate::app::state::State;
use crate::app::view::Context;
use crate::app::widgets::token_text;
use crate::graph::NodeKind;
use crate::graph::features::audit::{Audit, Audited};
use crate::graph::layout::Drawing;

/// Links of the audit that are listed.
const WORST: usize = 8;

/// What the audit found of the links that are drawn now; where none is asked for, what an opened file carries.
pub fn audit_of(state: &State) -> Option<&Arc<Audit>> {
    let results = &state.results;
    if !state.desk().graph.audit {
        return results.graph.value()?.audit.as_ref();
    }
    let (drawing, audit) = (results.drawing.get()?, results.audit.get()?);
    (audit.question.drawing == drawing.value).then_some(&audit.value)
}

/// What the audit that was asked for found of this very graph, to be saved with it.
pub fn audited(state: &State) -> Option<&Arc<Audit>> {
    let (drawing, audit) = (state.results.drawing.fresh()?, state.results.audit.fresh()?);
    (state.desk().graph.audit && audit.question.drawing == drawing.value).then_some(&audit.value)
}

impl GraphView {
    /// The links that fail the audit, and the others by how far the prediction is off.
    pub(super) fn worst_links(&mut self, ui: &mut egui::Ui, cx: &Context<'_>, d: &Drawing) {
        let Some(audit) = audit_of(cx.state) else { return };
        let mut worst: Vec<&Audited> = audit.links.iter().collect();
        worst.sort_by(|a, b| (b.predicted - b.held).abs().total_cmp(&(a.predicted - a.held).abs()));
        let name = |id: &str| match d.graph.nodes.iter().find(|n| n.id == id && n.kind != NodeKind::Error) {
            Some(n) => format!("{} @{}", token_text::cut(&self.name_of(d, n), 16), n.pos),
            None => id.to_owned(),
        };
        title(ui, cx, "links whose prediction is farthest off");
        let named: Vec<(&Audited, String)> =
            worst.into_iter().take(WORST).map(|l| (l, format!("{} → {}", name(&l.source), name(&l.target)))).collect();
        for (link, ends) in named {
            let mark = if link.fails { "✕ " } else { "" };
            let text = format!("{mark}{ends}");
            let color = if link.fails { cx.palette.warning } else { cx.palette.text };
            let hint = format!(
                "{} → {}: weight {:+.4}; taken away, the graph predicts {:+.4}; {:+.4} happens with attention held still, {:+.4} freely",
                link.source, link.target, link.weight, link.predicted, link.held, link.free
            );
            let row = ui.add(
                egui::Label::new(RichText::new(text).font(theme::mono_small()).color(color))
                    .sense(egui::Sense::click()),
            );
            if row.on_hover_text(&hint).clicked() {
                self.selected = Some(self.item_with(&link.source));
            }
            let told = format!("{:+.3} predicted, {:+.3} held, {:+.3} free", link.predicted, link.held, link.free);
            ui.label(RichText::new(told).font(theme::mono_small()).color(cx.palette.weak));
        }
    }
}
