//! What somebody says of nodes: pinned, hidden, named, put together; by a node's menu, or by hand.

use std::collections::BTreeSet;

use eframe::egui::{self, RichText, vec2};

use super::picture::{Item, member, mlp_id, own_label};
use super::{GraphView, Mode};
use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::shell::helper;
use crate::app::view::Context;
use crate::circuit::Member;
use crate::graph::layout::{Drawing, Shown};
use crate::graph::marks::Marks;
use crate::graph::{Node, NodeKind};

impl GraphView {
    /// Turns to the graph that is shown, and to what the document says about its nodes.
    pub(super) fn belongs_to(&mut self, cx: &mut Context<'_>, shown: &Shown) {
        let settings = &cx.state.desk().graph;
        let source = shown.key(settings.file.as_deref());
        let marks = settings.marks.get(&source).unwrap_or(&shown.marks);
        if self.marks != *marks {
            self.marks = marks.clone();
            self.changed();
        }
        if self.source.as_ref() == Some(&source) {
            return;
        }
        if self.source.is_some() {
            self.selected = None;
            self.open.clear();
            self.renaming = None;
            (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO);
            self.changed();
            cx.push(ModelAction::CloseMlps);
        }
        self.source = Some(source);
    }

    /// Says something about the nodes; `name` says what.
    pub(super) fn mark(&mut self, cx: &mut Context<'_>, name: impl Into<String>, change: impl FnOnce(&mut Marks)) {
        change(&mut self.marks);
        let source = self.source.clone().unwrap_or_default();
        cx.push(ModelAction::Mark(name.into(), source, self.marks.clone()));
        self.changed();
    }

    pub(super) fn hide(&mut self, cx: &mut Context<'_>, item: &Item) {
        self.mark(cx, format!("hide {}", item.label), |m| _ = m.hidden.insert(item.id.clone()));
        self.selected = None;
    }

    pub(super) fn pin(&mut self, cx: &mut Context<'_>, item: &Item) {
        if self.marks.pinned.contains(&item.id) {
            self.mark(cx, format!("unpin {}", item.label), |m| _ = m.pinned.remove(&item.id));
        } else {
            self.mark(cx, format!("pin {}", item.label), |m| _ = m.pinned.insert(item.id.clone()));
        }
    }

    /// The nodes that an item stands for: of a group made by hand also those that are not drawn now.
    pub(super) fn ids(&self, d: &Drawing, item: &Item) -> Vec<String> {
        let own = item.id.strip_prefix("group:").and_then(|n| self.marks.groups.iter().find(|(g, _)| g == n));
        let drawn = || {
            let ids = d.graph.own_ids();
            item.members.iter().map(|m| ids[*m].to_string()).collect()
        };
        own.map_or_else(drawn, |(_, ids)| ids.clone())
    }

    /// Puts two items into one group: into that of the second, if it is one made by hand.
    pub(super) fn join(&mut self, cx: &mut Context<'_>, d: &Drawing, a: &Item, b: &Item) {
        let existing = b.id.strip_prefix("group:").filter(|n| self.marks.groups.iter().any(|(g, _)| g == n));
        let name = existing.map_or_else(|| format!("{} + {}", b.label, a.label), str::to_owned);
        let ids = [self.ids(d, b), self.ids(d, a)].concat();
        let grows = existing.is_some();
        self.mark(cx, format!("group {} with {}", a.label, b.label), |m| {
            m.groups.retain(|(n, _)| !(grows && *n == name));
            m.group(&name, ids);
        });
        self.selected = Some(format!("group:{}", self.marks.groups.last().map_or("", |g| g.0.as_str())));
    }

    pub(super) fn rename(&mut self, ctx: &egui::Context, cx: &mut Context<'_>) {
        let Some((id, mut name)) = self.renaming.take() else { return };
        let mut open = true;
        let mut done = false;
        helper::show(ctx, "Rename", &mut open, (vec2(260.0, 110.0), egui::Vec2::splat(0.5)), |ui| {
            let field = ui.text_edit_singleline(&mut name).accessible_name("Name of the node");
            field.request_focus();
            done = ui.button("OK").clicked() || ui.input(|i| i.key_pressed(egui::Key::Enter));
        });
        if done {
            self.mark(cx, format!("rename {id}"), |m| {
                if name.trim().is_empty() {
                    m.names.remove(&id);
                } else {
                    m.names.insert(id.clone(), name);
                }
            });
        } else if open {
            self.renaming = Some((id, name));
        }
    }

    pub(super) fn menu(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, item: &Item) {
        ui.label(RichText::new(&item.label).font(theme::title()));
        if let Some(member) = member(d, item) {
            let draft = &cx.state.desk().draft;
            let text = match member {
                _ if draft.contains(member) => "Take out of the circuit".to_owned(),
                // The MLP is there as a whole, and a neuron of it would stand for it.
                Member::Neuron { layer, .. } if draft.contains(member.component()) => {
                    format!("Leave only this neuron of m{layer} in the circuit")
                }
                _ => "Add to the circuit".to_owned(),
            };
            if ui.button(text).clicked() {
                cx.push(ModelAction::Collect(member));
            }
        }
        if let Some(id) = mlp_id(d, item) {
            let open = cx.state.desk().graph.cut.opened.contains(&id);
            let text = if open { "Put the MLP together again" } else { "Take apart into neurons" };
            if ui.button(text).clicked() {
                cx.push(ModelAction::OpenMlp(id));
            }
        }
        self.acts(ui, cx, d, item);
        let pinned = self.marks.pinned.contains(&item.id);
        if ui.button(if pinned { "Unpin" } else { "Pin" }).clicked() {
            self.pin(cx, item);
        }
        if ui.button("Hide").clicked() {
            self.hide(cx, item);
        }
        if ui.button("Rename …").clicked() {
            self.renaming = Some((item.id.clone(), item.label.clone()));
        }
        let others: Vec<&String> = self.marks.pinned.iter().filter(|id| **id != item.id).collect();
        if !others.is_empty() && ui.button(format!("Group with the {} pinned", others.len())).clicked() {
            let mut ids: BTreeSet<String> = self.ids(d, item).into_iter().collect();
            for pinned in others {
                match pinned.strip_prefix("group:") {
                    Some(name) => {
                        let group = self.marks.groups.iter().find(|(g, _)| g == name);
                        ids.extend(group.into_iter().flat_map(|(_, ids)| ids.clone()));
                    }
                    None => _ = ids.insert(pinned.clone()),
                }
            }
            if ids.len() > 1 {
                self.mark(cx, format!("group {} with the pinned", item.label), |m| {
                    m.group("group", ids.into_iter().collect());
                    m.pinned.clear();
                });
            }
        }
        if let Some(name) = item.id.strip_prefix("group:")
            && self.marks.groups.iter().any(|(n, _)| n == name)
            && ui.button("Dissolve this group").clicked()
        {
            self.mark(cx, format!("dissolve {name}"), |m| m.groups.retain(|(n, _)| n != name));
        }
        if ui.button("Tree of its inputs").clicked() {
            self.selected = Some(item.id.clone());
            self.mode = Mode::Tree;
        }
    }

    /// What a node of the drawing is called: as it was named here, on its feature's page, or in the graph.
    pub(super) fn name_of(&self, d: &Drawing, n: &Node) -> String {
        // An error's id can be that of a feature.
        let of_feature = n.kind != NodeKind::Error;
        let given = self.marks.names.get(&n.id).or(self.labels.get(&n.id)).filter(|_| of_feature).cloned();
        given.unwrap_or_else(|| own_label(&n.label, n.kind, &n.id, d, n.pos))
    }

    /// The id of what is drawn for a node: its group's, if it is in one.
    pub(super) fn item_with(&self, id: &str) -> String {
        let group = self.marks.groups.iter().find(|(_, ids)| ids.iter().any(|i| i == id));
        group.map_or_else(|| id.to_owned(), |(name, _)| format!("group:{name}"))
    }
}
