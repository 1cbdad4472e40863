//! Beside the graph: what the picture shows, or what is known of one node.

use eframe::egui::{self, RichText};

use super::GraphView;
use super::picture::{Item, Line, edge, pin_part, place_name, tell};
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::view::Context;
use crate::app::widgets::bars::Bar;
use crate::app::widgets::{bars, token_text};
use crate::circuit::Member;
use crate::graph::layout::{Drawing, Origin, Shown};
use crate::graph::part::Part;
use crate::graph::{Input, NodeKind};
use crate::session::desk::Focus;

impl GraphView {
    /// What the picture shows, in words.
    pub(super) fn words(&mut self, ui: &mut egui::Ui, cx: &Context<'_>, shown: &Shown, d: &Drawing) {
        let count = |kind: NodeKind| d.graph.nodes.iter().filter(|n| n.kind == kind).count();
        ui.label(RichText::new(&shown.title).font(theme::title()).color(cx.palette.accent));
        let first = d.graph.nodes.iter().filter(|n| n.pos == 0 && n.kind == NodeKind::Component).count();
        let mut lines = vec![
            format!(
                "{} of {} nodes and {} of {} links: those that hold {:.0} % and {:.0} % of the influence on the prediction.",
                d.graph.nodes.len(),
                d.whole.0,
                d.graph.links.len(),
                d.whole.1,
                100.0 * d.thresholds.0,
                100.0 * d.thresholds.1
            ),
            format!(
                "{} parts of the model stand between the tokens below and the prediction above; each stands at its layer and position.",
                count(NodeKind::Component)
            ),
            match &shown.source {
                Origin::Traced { .. } => {
                    "Blue links raise what is predicted, red ones lower it; thick ones do so more."
                }
                Origin::Features { .. } | Origin::File(_) => {
                    "Blue links raise what they lead to, red ones lower it; thick ones do so more."
                }
            }
            .to_owned(),
        ];
        if self.folds_first && first > 1 {
            lines.push(format!("{first} nodes at the first position are folded into one."));
        }
        if let Some((_, most)) = self.picture.as_ref().and_then(|p| {
            let parts = p.items.iter().filter(|i| i.kind == NodeKind::Component);
            parts.map(|i| (i.influence, i)).max_by(|a, b| a.0.total_cmp(&b.0))
        }) {
            lines.push(format!("The most influential is {} ({}).", most.spoken(), place_name(cx, d, most)));
        }
        lines.push("Point at a node to see what it is, click to see where it comes from.".to_owned());
        for line in lines {
            ui.add(egui::Label::new(RichText::new(line).font(theme::small()).color(cx.palette.weak)).wrap());
            ui.add_space(theme::GRID);
        }
        self.worst_links(ui, cx, d);
    }

    /// What is known of one node, its strongest inputs and outputs.
    pub(super) fn details(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, id: &str) {
        ui.spacing_mut().item_spacing.y = 1.0;
        let Some(picture) = self.picture.take() else { return };
        if let Some(&i) = picture.by_id.get(id) {
            let item = &picture.items[i];
            ui.horizontal(|ui| {
                ui.label(RichText::new(item.spoken()).font(theme::title()).color(cx.palette.accent));
                ui.label(RichText::new(place_name(cx, d, item)).font(theme::mono()));
            });
            let value = item.value.map(|v| format!("{} {v:+.3} · ", shown.value_name())).unwrap_or_default();
            ui.label(
                RichText::new(format!("{value}influence {:.4}", item.influence))
                    .font(theme::small())
                    .color(cx.palette.weak),
            );
            self.page(ui, cx, d, item);
            ui.menu_button(RichText::new("do …").font(theme::small()), |ui| self.menu(ui, cx, d, item));
            neurons(ui, cx, shown, d, item);
            self.act(ui, cx, d, item);
            self.members(ui, cx, d, item);
            for (title, into) in [("from", true), ("to", false)] {
                ui.add_space(4.0);
                ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak));
                let own = |l: &&Line| if into { l.target == i } else { l.source == i };
                let links: Vec<&Line> = picture.links.iter().filter(own).take(14).collect();
                let max = links.first().map_or(1.0, |l| l.weight.abs());
                for link in links {
                    let other = &picture.items[if into { link.source } else { link.target }];
                    let through = match link.input {
                        Input::Value => String::new(),
                        input => format!("<{}> ", input.letter()),
                    };
                    let label =
                        format!("{through}{} {}", token_text::cut(&other.spoken(), 12), place_name(cx, d, other));
                    let b = Bar { label, value: link.weight, text: format!("{:+.3}", link.weight), strong: false };
                    let response = bars::bar(ui, &b, max, true, 104.0);
                    if response.hovered() {
                        tell(cx, d, other);
                    }
                    if let Some(edge) = edge(cx, d, &picture, link) {
                        let response = response.clone().on_hover_text("right click: this edge into the circuit");
                        if response.secondary_clicked() {
                            cx.push(ModelAction::AddEdge(edge));
                        }
                    }
                    if response.clicked() {
                        self.selected = Some(other.id.clone());
                        pin_part(cx, d, other);
                    }
                }
            }
        }
        self.picture = Some(picture);
    }
}

/// The neurons of an MLP's node that contribute most; a click shows what they promote.
fn neurons(ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
    let ([one], Origin::Traced { found, .. }) = (&item.members[..], &shown.source) else { return };
    let Some(part @ Part::Mlp { layer, pos }) = d.part(*one) else { return };
    let Some(list) = found.neurons.get(&part) else { return };
    egui::CollapsingHeader::new(RichText::new("neurons").font(theme::small())).id_salt("neurons").show(ui, |ui| {
        let max = list.first().map_or(1.0, |n| n.1.abs());
        for (neuron, value) in list {
            let b = Bar { label: neuron.to_string(), value: *value, text: format!("{value:+.3}"), strong: false };
            let hint = "activation times the target's gradient: its part of what the MLP contributes; click shows its tokens, right click puts it into the circuit";
            let response = bars::bar(ui, &b, max, true, 60.0).on_hover_text(hint);
            if response.clicked() {
                cx.pin(|p| (p.layer, p.neuron, p.focus) = (layer, Some(*neuron), Focus::Neuron));
                cx.hovered.pos = Some(pos);
            }
            if response.secondary_clicked() {
                cx.push(ModelAction::Collect(Member::Neuron { layer, neuron: *neuron }));
            }
        }
    });
}
