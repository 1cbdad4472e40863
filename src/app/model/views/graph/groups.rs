//! Groups: found at a button, changed by hand, drawn as nodes, and what they do to the scores.

use eframe::egui::{self, RichText};

use super::GraphView;
use super::acts::title;
use super::picture::Item;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::token_text;
use crate::graph::NodeKind;
use crate::graph::grouping::{GroupScoresOf, GroupsOf};
use crate::graph::layout::Drawing;

impl GraphView {
    /// The button that groups what is drawn, with how many groups are to be left.
    pub(super) fn group_button(&mut self, ui: &mut egui::Ui, cx: &Context<'_>) {
        let (Some(shown), Some(drawing)) = (cx.state.results.graph.fresh(), cx.state.results.drawing.fresh()) else {
            return;
        };
        if !drawing.graph.nodes.iter().any(|n| n.kind == NodeKind::Component) {
            return;
        }
        let hint = "put the drawn nodes into a few groups, by what feeds them, what they feed, where they stand and what they read and write; groups that are there stay together";
        let clicked = ui.small_button("Group").on_hover_text(hint).clicked();
        ui.add(egui::DragValue::new(&mut self.most).range(1..=99).suffix(" groups"))
            .accessible_name("Groups at most")
            .on_hover_text("groups at most");
        if clicked {
            let begun = self.marks.groups.clone();
            let (shown, drawing) = (shown.value.clone(), drawing.value.clone());
            self.groups.again();
            self.groups.want(&cx.state.pool, Some(GroupsOf { shown, drawing, begun, most: self.most }));
        }
    }

    /// Takes in groups that were found.
    pub(super) fn groups_arrived(&mut self, cx: &mut Context<'_>) {
        let Some(found) = self.groups.take_news() else { return };
        self.mark(cx, format!("group the graph in {}", found.len()), |m| m.groups = (*found).clone());
    }

    /// What groups do to the scores, in words.
    pub(super) fn group_words(&self) -> Option<String> {
        if let Some(error) = self.groups.error() {
            return Some(format!("groups: {error}"));
        }
        if self.marks.groups.is_empty() {
            return None;
        }
        if let Some(error) = self.scores.error() {
            return Some(format!("groups: {error}"));
        }
        let (before, after) = **self.scores.fresh().map(|s| &s.value)?;
        Some(format!(
            "{} groups: of what is drawn replacement {:.2} → {:.2}, completeness {:.2} → {:.2}",
            self.marks.groups.len(),
            before.replacement,
            after.replacement,
            before.completeness,
            after.completeness
        ))
    }

    pub(super) fn scores_asked(&self, drawing: Option<std::sync::Arc<Drawing>>) -> Option<GroupScoresOf> {
        let groups = self.marks.groups.clone();
        drawing.filter(|_| !groups.is_empty()).map(|drawing| GroupScoresOf { drawing, groups })
    }

    /// A group's members: each can be taken out, or moved into another group.
    pub(super) fn members(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        let Some(name) = item.id.strip_prefix("group:").map(str::to_owned) else { return };
        let Some((_, ids)) = self.marks.groups.iter().find(|(g, _)| *g == name).cloned() else { return };
        title(ui, cx, &format!("{} members", ids.len()));
        let others: Vec<String> = self.marks.groups.iter().map(|g| g.0.clone()).filter(|g| *g != name).collect();
        let own_ids = d.graph.own_ids();
        for id in ids {
            let node = own_ids.iter().position(|own| *own == id).map(|i| &d.graph.nodes[i]);
            let label = node.map_or_else(
                || format!("{id} (not drawn)"),
                |n| format!("{} {}@{}", token_text::cut(&self.name_of(d, n), 14), n.layer, n.pos),
            );
            ui.horizontal(|ui| {
                let out = ui.small_button("✕").on_hover_text("take it out of the group");
                out.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("take out {id}")));
                if out.clicked() {
                    self.mark(cx, format!("take {label} out of {name}"), |m| m.take_out(&id));
                }
                if !others.is_empty() {
                    ui.menu_button(RichText::new("→").font(theme::small()), |ui| {
                        for other in &others {
                            if ui.button(token_text::cut(other, 24)).clicked() {
                                self.mark(cx, format!("move {label} to {other}"), |m| m.put(&id, other));
                            }
                        }
                    })
                    .response
                    .on_hover_text("move it into another group");
                }
                ui.label(RichText::new(&label).font(theme::mono_small()));
            });
        }
    }
}
