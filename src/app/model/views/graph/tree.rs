//! The strongest inputs of a node, theirs below: the graph for a lecture.

use eframe::egui::{self, RichText};

use super::GraphView;
use super::picture::{Line, pin_part, place_name, tell};
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::message;
use crate::graph::{Input, NodeKind};

/// Inputs that the tree shows of each node.
const INPUTS: usize = 5;

impl GraphView {
    /// The strongest inputs of a node, theirs below, as far as they are opened.
    pub fn tree(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let Some(picture) = self.picture.take() else { return };
        let Some(drawing) = cx.state.results.drawing.get().map(|r| r.value.clone()) else { return };
        let root = self
            .selected
            .as_ref()
            .and_then(|id| picture.by_id.get(id).copied())
            .or_else(|| picture.items.iter().position(|i| i.kind == NodeKind::Logit));
        if self.selected.is_some() && ui.small_button("from the logit").clicked() {
            self.selected = None;
        }
        egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            let Some(root) = root else {
                message(ui, "the graph has no logit to begin with; choose a node", false);
                return;
            };
            let mut rows: Vec<(usize, usize, Option<Line>, String)> =
                vec![(root, 0, None, picture.items[root].id.clone())];
            let mut toggled = None;
            while let Some((i, depth, link, path)) = rows.pop() {
                let item = &picture.items[i];
                let inputs: Vec<&Line> = picture.links.iter().filter(|l| l.target == i).take(INPUTS).collect();
                let open = (self.open.contains(&path) != (depth < 2)) && !inputs.is_empty();
                let response = ui
                    .horizontal(|ui| {
                        ui.add_space(22.0 * depth as f32);
                        let sign = if inputs.is_empty() {
                            "·"
                        } else if open {
                            "▾"
                        } else {
                            "▸"
                        };
                        let arrow = ui.add(egui::Button::new(sign).frame(false).small());
                        let weight = link.map_or(String::new(), |l| {
                            let through = if l.input == Input::Value { "" } else { l.input.label() };
                            format!("{:+.3} {through} ", l.weight)
                        });
                        let color = cx.palette.signed(link.map_or(1.0, |l| l.weight));
                        ui.label(RichText::new(weight).font(theme::mono()).color(color));
                        let name = ui.selectable_label(
                            self.selected.as_ref() == Some(&item.id),
                            RichText::new(item.spoken()).font(theme::title()),
                        );
                        ui.label(
                            RichText::new(place_name(cx, &drawing, item)).font(theme::mono()).color(cx.palette.weak),
                        );
                        (arrow.clicked(), name)
                    })
                    .inner;
                if response.0 {
                    toggled = Some(path.clone());
                }
                if response.1.hovered() {
                    tell(cx, &drawing, item);
                }
                if response.1.clicked() {
                    self.selected = Some(item.id.clone());
                    pin_part(cx, &drawing, item);
                }
                if open && depth < 12 {
                    for link in inputs.iter().rev() {
                        let path = format!("{path}/{}", picture.items[link.source].id);
                        rows.push((link.source, depth + 1, Some(**link), path));
                    }
                }
            }
            if let Some(path) = toggled
                && !self.open.remove(&path)
            {
                self.open.insert(path);
            }
        });
        self.picture = Some(picture);
    }
}
