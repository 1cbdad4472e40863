//! The circuit graph: what produced one prediction, tokens from left to right and layers from bottom to top.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use eframe::egui::{self, Align2, Color32, Pos2, Rect, RichText, Sense, Stroke, StrokeKind, pos2, vec2};

use super::{Context, Table, View, here};
use crate::analysis::head_scores::SCORES;
use crate::app::circuits::GraphTarget;
use crate::app::command::Action;
use crate::app::selection::Focus;
use crate::app::theme;
use crate::app::widgets::bars::{self, Bar};
use crate::app::widgets::{choice, message, token_text};
use crate::circuit::{self, Component, Edge, Receiver};
use crate::graph::NodeKind;
use crate::graph::components::Part;
use crate::graph::layout::{Drawing, Origin, Shown};

/// Links drawn while no node is chosen: the strongest; all others appear with their node.
const LINKS: usize = 600;

/// Labels of components drawn at once.
const LABELS: usize = 160;

/// Inputs that the tree shows of each node.
const INPUTS: usize = 5;

/// A head whose score reaches this plays the role.
const ROLE: f32 = 0.4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Graph,
    Tree,
}

/// How nodes are put together into supernodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Grouping {
    #[default]
    None,
    /// A component's nodes at all positions.
    Component,
    /// Heads by what their scores say they do.
    Role,
}

/// What is drawn as one node: a node of the graph, or several together.
struct Item {
    id: String,
    label: String,
    kind: NodeKind,
    members: Vec<usize>,
    place: (f32, f32),
    influence: f64,
    contribution: Option<f64>,
}

/// Items and links between them, made again when the graph or what is hidden and grouped changes.
struct Picture {
    stamp: u64,
    version: u64,
    items: Vec<Item>,
    /// (source, target, weight), strongest first.
    links: Vec<(usize, usize, f32)>,
    by_id: HashMap<String, usize>,
}

pub struct GraphView {
    mode: Mode,
    grouping: Grouping,
    zoom: f32,
    pan: egui::Vec2,
    selected: Option<String>,
    pinned: BTreeSet<String>,
    hidden: BTreeSet<String>,
    names: BTreeMap<String, String>,
    /// Supernodes made by hand: a name and the ids of its members.
    groups: Vec<(String, Vec<String>)>,
    /// Nodes of the tree that are open.
    open: HashSet<String>,
    renaming: Option<(String, String)>,
    version: u64,
    picture: Option<Picture>,
    /// The thresholds while a slider is dragged.
    thresholds: (f64, f64),
    /// What the nodes' ids belong to: names and groups of one graph say nothing of another.
    source: Option<String>,
    /// Groups made so far, so that no two share a name.
    made: usize,
    /// The node under the last right click.
    menu: Option<String>,
}

impl Default for GraphView {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            grouping: Grouping::default(),
            zoom: 1.0,
            pan: egui::Vec2::ZERO,
            selected: None,
            pinned: BTreeSet::new(),
            hidden: BTreeSet::new(),
            names: BTreeMap::new(),
            groups: Vec::new(),
            open: HashSet::new(),
            renaming: None,
            version: 0,
            picture: None,
            thresholds: (0.0, 0.0),
            source: None,
            made: 0,
            menu: None,
        }
    }
}

impl View for GraphView {
    fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if !cx.state.circuits.wants_graph {
            // The first look starts the first trace.
            cx.actions.push(Action::TraceGraph);
        }
        self.controls(ui, cx);
        let results = &cx.state.results;
        if cx.state.circuits.file.is_none() {
            if !here(ui, cx, &results.graph) {
                return;
            }
        } else if let Some(error) = &results.graph.error {
            message(ui, error, true);
            return;
        }
        let (Some(shown), Some(drawing)) = (results.graph.get().cloned(), results.drawing.get().cloned()) else {
            let text = results.drawing.error.as_deref().unwrap_or("laying the graph out …");
            message(ui, text, results.drawing.error.is_some());
            return;
        };
        self.belongs_to(&shown.value);
        self.compose(cx, &drawing.value, drawing.stamp);
        let selected =
            self.selected.clone().filter(|id| self.picture.as_ref().is_some_and(|p| p.by_id.contains_key(id)));
        let available = ui.available_size();
        let side =
            if selected.is_some() && self.mode == Mode::Graph { (available.x * 0.3).clamp(150.0, 250.0) } else { 0.0 };
        ui.horizontal_top(|ui| {
            let down = egui::Layout::top_down(egui::Align::Min);
            let size = vec2((available.x - side - 8.0).max(80.0), available.y);
            ui.allocate_ui_with_layout(size, down, |ui| match self.mode {
                Mode::Graph => self.canvas(ui, cx, &shown.value, &drawing.value, drawing.fresh && shown.fresh),
                Mode::Tree => self.tree(ui, cx, &shown.value),
            });
            if let Some(id) = selected.filter(|_| side > 0.0) {
                ui.vertical(|ui| {
                    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
                        self.details(ui, cx, &shown.value, &drawing.value, &id);
                    });
                });
            }
        });
        self.rename(ui.ctx());
    }

    fn table(&self, cx: &Context<'_>) -> Option<Table> {
        let drawing = cx.state.results.drawing.get()?;
        let d = &drawing.value;
        let rows = d.graph.nodes.iter().map(|n| format!("{} {} @{}", n.id, n.label, n.pos)).collect();
        let values = (0..d.graph.nodes.len())
            .map(|i| {
                let n = &d.graph.nodes[i];
                vec![Some(d.influence[i] as f32), Some(d.cumulative[i] as f32), n.activation.map(|a| a as f32)]
            })
            .collect();
        Some(Table {
            name: "graph-nodes".to_owned(),
            row_axis: "node",
            col_axis: "value",
            rows,
            cols: ["influence", "cumulative", "contribution"].map(str::to_owned).to_vec(),
            values,
        })
    }
}

impl GraphView {
    fn controls(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let c = &cx.state.circuits;
        ui.horizontal_wrapped(|ui| {
            match &c.file {
                Some(path) => {
                    let name = path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
                    ui.label(RichText::new(name).font(theme::mono()).color(cx.palette.accent)).on_hover_text(path);
                    if ui.small_button("✕").on_hover_text("back to the prediction of this prompt").clicked() {
                        cx.actions.push(Action::CloseGraph);
                    }
                }
                None => {
                    if let Some(t) = choice(ui, "of", c.target, &GraphTarget::ALL) {
                        cx.actions.push(Action::GraphTarget(t));
                    }
                }
            }
            let dragged = |ui: &mut egui::Ui, name: &str, value: &mut f64, hint: &str| -> bool {
                ui.label(RichText::new(name).font(theme::small()).color(cx.palette.weak));
                let slider = egui::Slider::new(value, 0.0..=1.0).fixed_decimals(3).step_by(0.005).show_value(true);
                ui.spacing_mut().slider_width = 70.0;
                ui.add(slider).on_hover_text(hint).changed()
            };
            self.thresholds = c.thresholds;
            let nodes = dragged(ui, "nodes", &mut self.thresholds.0, "keep the most influential nodes that hold this share of all influence");
            let links = dragged(ui, "links", &mut self.thresholds.1, "of the links between them keep the strongest that hold this share");
            if nodes || links {
                cx.actions.push(Action::GraphThresholds(self.thresholds.0, self.thresholds.1));
            }
            if let Some(g) = choice(
                ui,
                "group",
                self.grouping,
                &[(Grouping::None, "nothing"), (Grouping::Component, "positions of a component"), (Grouping::Role, "heads by role")],
            ) {
                self.grouping = g;
                self.changed();
            }
            if ui.selectable_label(self.mode == Mode::Tree, RichText::new("tree").font(theme::small())).on_hover_text("a node's strongest inputs, level by level").clicked() {
                self.mode = if self.mode == Mode::Tree { Mode::Graph } else { Mode::Tree };
            }
            ui.menu_button(RichText::new("file").font(theme::small()), |ui| {
                if ui.button("Open a graph (JSON)…").clicked() {
                    cx.actions.push(Action::LoadGraph);
                }
                if ui.button("Save this graph (JSON)…").clicked() {
                    cx.actions.push(Action::SaveGraph);
                }
                if !self.hidden.is_empty() && ui.button(format!("Show {} hidden nodes", self.hidden.len())).clicked() {
                    self.hidden.clear();
                    self.changed();
                }
                if !self.groups.is_empty() && ui.button("Dissolve all groups made by hand").clicked() {
                    self.groups.clear();
                    self.changed();
                }
                if ui.button("Whole graph in view").clicked() {
                    (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO);
                }
            });
            let (Some(shown), Some(d)) = (cx.state.results.graph.get(), cx.state.results.drawing.get()) else { return };
            let mut text = format!(
                "{} of {} nodes · {} links · replacement {:.2} · completeness {:.2}",
                d.graph.nodes.len(),
                d.whole.0,
                d.graph.links.len(),
                shown.scores.replacement,
                shown.scores.completeness
            );
            let held = shown.influence.held();
            if held < c.thresholds.0 {
                text += &format!(" · they hold {held:.3} of the influence, the rest was not kept");
            }
            let hover = match &shown.value.source {
                Origin::Traced { found, .. } => format!(
                    "the whole graph has {} nodes and {} links, traced in {:.2} s with attention patterns, norm scales and MLP gates frozen; weights in logits",
                    found.all_nodes, found.all_edges, found.seconds
                ),
                Origin::File(_) if shown.remarks.is_empty() => "every link of the file was read".to_owned(),
                Origin::File(_) => shown.remarks.join("\n"),
            };
            ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak)).on_hover_text(hover);
        });
    }

    /// Forgets what was said about another graph's nodes.
    fn belongs_to(&mut self, shown: &Shown) {
        let source = match &shown.source {
            Origin::Traced { trace, found } => {
                format!("{} {:?}", trace.model.spec, &trace.ids[..=found.pos.min(trace.len() - 1)])
            }
            Origin::File(_) => format!("file {}", shown.title),
        };
        if self.source.as_ref() == Some(&source) {
            return;
        }
        if self.source.is_some() {
            self.selected = None;
            self.pinned.clear();
            self.hidden.clear();
            self.names.clear();
            self.groups.clear();
            self.open.clear();
            self.renaming = None;
            (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO);
            self.changed();
        }
        self.source = Some(source);
    }

    fn changed(&mut self) {
        self.version += 1;
    }

    /// Makes the picture out of the drawing, what is hidden, and what is grouped.
    fn compose(&mut self, cx: &Context<'_>, d: &Drawing, stamp: u64) {
        if self.picture.as_ref().is_some_and(|p| (p.stamp, p.version) == (stamp, self.version)) {
            return;
        }
        let mut items: Vec<Item> = Vec::new();
        let mut by_id: HashMap<String, usize> = HashMap::new();
        let mut item_of = vec![usize::MAX; d.graph.nodes.len()];
        let in_group: HashMap<&str, &str> =
            self.groups.iter().flat_map(|(name, ids)| ids.iter().map(move |id| (id.as_str(), name.as_str()))).collect();
        for (i, n) in d.graph.nodes.iter().enumerate() {
            if self.hidden.contains(&n.id) {
                continue;
            }
            let group = match in_group.get(n.id.as_str()) {
                Some(name) => Some((*name).to_owned()),
                None if n.kind != NodeKind::Component => None,
                None => match self.grouping {
                    Grouping::None => None,
                    Grouping::Component => Some(n.label.clone()),
                    Grouping::Role => role(cx, &n.label),
                },
            };
            let id = group.as_ref().map_or_else(|| n.id.clone(), |g| format!("group:{g}"));
            if self.hidden.contains(&id) {
                continue;
            }
            let at = *by_id.entry(id.clone()).or_insert_with(|| {
                let label = match (&group, self.names.get(&id)) {
                    (_, Some(name)) => name.clone(),
                    (Some(g), None) => g.clone(),
                    (None, None) => own_label(&n.label, n.kind, &n.id, d, n.pos),
                };
                let kind = n.kind;
                items.push(Item {
                    id,
                    label,
                    kind,
                    members: Vec::new(),
                    place: (0.0, 0.0),
                    influence: 0.0,
                    contribution: None,
                });
                items.len() - 1
            });
            item_of[i] = at;
            let item = &mut items[at];
            item.members.push(i);
            item.influence += d.influence[i];
            if let Some(a) = n.activation {
                *item.contribution.get_or_insert(0.0) += a;
            }
        }
        for item in &mut items {
            let weight: f64 = item.members.iter().map(|m| d.influence[*m] + 1e-9).sum();
            let mean = |f: fn(&(f32, f32)) -> f32| -> f32 {
                item.members.iter().map(|m| f64::from(f(&d.places[*m])) * (d.influence[*m] + 1e-9)).sum::<f64>() as f32
                    / weight as f32
            };
            item.place = (mean(|p| p.0), mean(|p| p.1));
        }
        let mut sums: HashMap<(usize, usize), f32> = HashMap::new();
        for (source, target, weight) in d.graph.triples() {
            let (a, b) = (item_of[source], item_of[target]);
            if a != usize::MAX && b != usize::MAX && a != b {
                *sums.entry((a, b)).or_default() += weight;
            }
        }
        let mut links: Vec<(usize, usize, f32)> = sums.into_iter().map(|((a, b), w)| (a, b, w)).collect();
        links.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()).then((a.0, a.1).cmp(&(b.0, b.1))));
        self.picture = Some(Picture { stamp, version: self.version, items, links, by_id });
    }

    fn canvas(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, fresh: bool) {
        let (rect, response) = ui.allocate_exact_size(ui.available_size(), Sense::click_and_drag());
        let Some(picture) = self.picture.take() else { return };
        response.widget_info(|| {
            let text = format!("attribution graph: {} nodes, {} links", picture.items.len(), picture.links.len());
            egui::WidgetInfo::labeled(egui::Role::Image, true, text)
        });
        self.navigate(ui, &response, rect);
        let inner = Rect::from_min_max(rect.min + vec2(30.0, 12.0), rect.max - vec2(8.0, 26.0));
        let width = d.columns.last().map_or(1.0, |c| c.1).max(0.1);
        let step = vec2(inner.width() / width, inner.height() / d.height.max(0.1)) * self.zoom;
        let origin = pos2(inner.left(), inner.bottom()) + self.pan;
        let at = |(x, y): (f32, f32)| pos2(origin.x + x * step.x, origin.y - y * step.y);
        let painter = ui.painter_at(rect);
        let fade = if fresh { 1.0 } else { 0.5 };
        let p = cx.palette;

        // Columns and layers.
        for (pos, (left, right)) in d.columns.iter().enumerate() {
            let x = at((*left, 0.0)).x..=at((*right, 0.0)).x;
            let band = Rect::from_x_y_ranges(*x.start()..=*x.end(), rect.y_range());
            if cx.pinned().pos == pos && cx.state.circuits.file.is_none() {
                painter.rect_filled(band, 0.0, p.header);
            }
            painter.vline(*x.end(), rect.y_range(), Stroke::new(1.0, p.border.gamma_multiply(0.6)));
        }
        let every = [1, 2, 5, 10, 20].into_iter().find(|n| *n as f32 * step.y >= 14.0).unwrap_or(50);
        for layer in (0..(d.height as usize).saturating_sub(2)).step_by(every) {
            let y = at((0.0, layer as f32 + 1.0)).y;
            if rect.y_range().contains(y) {
                painter.text(pos2(rect.left() + 22.0, y), Align2::RIGHT_CENTER, layer, theme::mono_small(), p.faint);
            }
        }

        let most = picture.items.iter().map(|i| i.influence).fold(1e-12, f64::max);
        let radius = |item: &Item| {
            let share = (item.influence / most).sqrt() as f32;
            let size = if item.kind == NodeKind::Logit { 6.0 } else { 2.5 + 7.5 * share };
            size * self.zoom.clamp(0.8, 1.6)
        };
        let pointer = response.hover_pos();
        let hovered = pointer.and_then(|m| {
            let distance = |i: &usize| (at(picture.items[*i].place) - m).length() - radius(&picture.items[*i]);
            (0..picture.items.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).filter(|i| distance(i) < 7.0)
        });
        let selected = self.selected.as_ref().and_then(|id| picture.by_id.get(id)).copied();
        let focus = hovered.or(selected);

        // What is lit: the focus' own links, and its strongest way up and down.
        let mut lit: HashSet<usize> = HashSet::new();
        let mut lit_links: Vec<(usize, usize, f32)> = Vec::new();
        if let Some(f) = focus {
            lit.insert(f);
            for link in picture.links.iter().filter(|l| l.0 == f || l.1 == f).take(60) {
                lit.extend([link.0, link.1]);
                lit_links.push(*link);
            }
            let (mut up, mut down) = (f, f);
            while let Some(link) =
                picture.links.iter().find(|l| l.0 == up && picture.items[l.1].place.1 > picture.items[up].place.1)
            {
                up = link.1;
                lit.insert(up);
                lit_links.push(*link);
            }
            while let Some(link) =
                picture.links.iter().find(|l| l.1 == down && picture.items[l.0].place.1 < picture.items[down].place.1)
            {
                down = link.0;
                lit.insert(down);
                lit_links.push(*link);
            }
        }
        let strongest = picture.links.first().map_or(1.0, |l| l.2.abs()).max(1e-12);
        let line = |link: &(usize, usize, f32), strength: f32| {
            let share = (link.2.abs() / strongest).sqrt();
            let color = p.signed(link.2).gamma_multiply((0.05 + 0.75 * share * share.sqrt()) * strength * fade);
            let width = (0.5 + 3.5 * share) * self.zoom.clamp(0.7, 1.5);
            painter.line_segment(
                [at(picture.items[link.0].place), at(picture.items[link.1].place)],
                Stroke::new(width, color),
            );
        };
        let quiet = if focus.is_some() { 0.22 } else { 1.0 };
        // The weak ones first, so that the strong ones lie on top.
        for link in picture.links[..picture.links.len().min(LINKS)].iter().rev() {
            line(link, quiet);
        }
        for link in lit_links.iter().rev() {
            line(link, 1.3);
        }

        for (i, item) in picture.items.iter().enumerate() {
            let center = at(item.place);
            if !rect.expand(20.0).contains(center)
                || matches!(item.kind, NodeKind::Token | NodeKind::Logit) && item.members.len() == 1
            {
                continue;
            }
            let strength = if focus.is_some() && !lit.contains(&i) { 0.35 } else { 1.0 } * fade;
            let color = match item.contribution {
                _ if item.kind == NodeKind::Error => p.faint,
                Some(c) => p.signed(c as f32),
                None => p.bar,
            };
            let ring = if Some(i) == selected {
                Stroke::new(2.0, p.accent)
            } else if self.pinned.contains(&item.id) || in_cart(cx, item) {
                Stroke::new(1.5, p.text)
            } else {
                Stroke::new(1.0, p.base)
            };
            mark(&painter, item, center, radius(item), color.gamma_multiply(strength), ring);
        }
        self.labels(&painter, rect, cx, &picture, &lit, focus.is_some(), at, radius, fade);

        if let Some(i) = hovered {
            let item = &picture.items[i];
            tell(cx, shown, d, item);
            response.clone().on_hover_ui_at_pointer(|ui| tooltip(ui, cx, d, item));
        }
        if response.clicked() {
            self.selected = hovered.map(|i| picture.items[i].id.clone());
            if let Some(i) = hovered {
                pin_part(cx, shown, d, &picture.items[i]);
            }
        }
        if response.secondary_clicked() {
            self.menu = hovered.map(|i| picture.items[i].id.clone());
            if self.menu.is_some() {
                self.selected.clone_from(&self.menu);
            }
        }
        let menu_for = self.menu.as_ref().and_then(|id| picture.by_id.get(id)).copied();
        response.context_menu(|ui| match menu_for {
            Some(i) => self.menu(ui, cx, shown, d, &picture.items[i]),
            None => {
                ui.weak("right-click a node");
            }
        });
        self.picture = Some(picture);
    }

    fn navigate(&mut self, ui: &egui::Ui, response: &egui::Response, rect: Rect) {
        if response.dragged() {
            self.pan += response.drag_delta();
        }
        if response.double_clicked() {
            (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO);
        }
        if let Some(pointer) = response.hover_pos() {
            let (scroll, pinch) = ui.input(|i| (i.smooth_scroll_delta().y, i.zoom_delta()));
            let factor = pinch * (scroll * 0.004).exp();
            let zoom = (self.zoom * factor).clamp(0.5, 30.0);
            let factor = zoom / self.zoom;
            if (factor - 1.0).abs() > 1e-4 {
                // What is under the pointer stays there.
                let origin = pos2(rect.left() + 30.0, rect.bottom() - 26.0);
                self.pan = (pointer - origin) - ((pointer - origin) - self.pan) * factor;
                self.zoom = zoom;
            }
        }
    }

    fn labels(
        &self,
        painter: &egui::Painter,
        rect: Rect,
        cx: &Context<'_>,
        picture: &Picture,
        lit: &HashSet<usize>,
        focused: bool,
        at: impl Fn((f32, f32)) -> Pos2,
        radius: impl Fn(&Item) -> f32,
        fade: f32,
    ) {
        let p = cx.palette;
        let mut order: Vec<usize> = (0..picture.items.len()).collect();
        order.sort_by(|a, b| {
            let rank = |i: &usize| {
                (
                    lit.contains(i),
                    picture.items[*i].kind == NodeKind::Token || picture.items[*i].kind == NodeKind::Logit,
                )
            };
            rank(b).cmp(&rank(a)).then(picture.items[*b].influence.total_cmp(&picture.items[*a].influence))
        });
        let mut taken: Vec<Rect> = Vec::new();
        let marks: Vec<Pos2> = picture.items.iter().map(|i| at(i.place)).collect();
        for i in order {
            let item = &picture.items[i];
            let end = matches!(item.kind, NodeKind::Token | NodeKind::Logit) && item.members.len() == 1;
            // Errors are marks; their place says which they are.
            if (taken.len() > LABELS || item.kind == NodeKind::Error && !lit.contains(&i)) && !end {
                continue;
            }
            let center = at(item.place);
            if !rect.contains(center) {
                continue;
            }
            let strength = if focused && !lit.contains(&i) { 0.4 } else { 1.0 } * fade;
            let color = if end { p.text } else { p.weak };
            let galley = painter.layout_no_wrap(
                token_text::short(&item.label, 16),
                theme::mono_small(),
                color.gamma_multiply(strength),
            );
            let size = galley.size();
            let beside = radius(item) + 4.0;
            let right = center + vec2(beside, -size.y / 2.0);
            // Beside the node where there is room, else below it.
            let corners = if end {
                [center - size / 2.0; 2]
            } else if right.x + size.x > rect.right() {
                [center - vec2(beside + size.x, size.y / 2.0), center + vec2(-size.x / 2.0, radius(item) + 1.0)]
            } else {
                [right, center + vec2(-size.x / 2.0, radius(item) + 1.0)]
            };
            let area_of = |corner: Pos2| Rect::from_min_size(corner, size).expand2(vec2(2.0, 0.0));
            let is_free = |corner: &Pos2| {
                let area = area_of(*corner);
                let covers = !end
                    && !lit.contains(&i)
                    && marks.iter().enumerate().any(|(j, m)| j != i && area.expand(2.0).contains(*m));
                !covers && !taken.iter().any(|t| t.intersects(area))
            };
            let Some(corner) = corners.into_iter().find(is_free) else {
                if end {
                    painter.circle_filled(center, 2.0, p.text.gamma_multiply(strength));
                }
                continue;
            };
            let area = area_of(corner);
            if end {
                painter.rect(
                    area.expand(2.0),
                    3.0,
                    p.raised,
                    Stroke::new(1.0, if lit.contains(&i) { p.accent } else { p.border }),
                    StrokeKind::Inside,
                );
            }
            painter.galley(corner, galley, color);
            taken.push(area);
        }
    }

    /// What is known of one node, its strongest inputs and outputs.
    fn details(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, id: &str) {
        ui.spacing_mut().item_spacing.y = 1.0;
        let Some(picture) = self.picture.take() else { return };
        if let Some(&i) = picture.by_id.get(id) {
            let item = &picture.items[i];
            ui.horizontal(|ui| {
                ui.label(RichText::new(&item.label).font(theme::title()).color(cx.palette.accent));
                ui.label(RichText::new(place_name(cx, d, item)).font(theme::mono()));
            });
            if let Some(c) = item.contribution {
                ui.label(
                    RichText::new(format!("contributes {c:+.3} · influence {:.4}", item.influence))
                        .font(theme::small())
                        .color(cx.palette.weak),
                );
            }
            ui.menu_button(RichText::new("do …").font(theme::small()), |ui| self.menu(ui, cx, shown, d, item));
            for (title, into) in [("from", true), ("to", false)] {
                ui.add_space(4.0);
                ui.label(RichText::new(title).font(theme::small()).color(cx.palette.weak));
                let links: Vec<&(usize, usize, f32)> =
                    picture.links.iter().filter(|l| if into { l.1 == i } else { l.0 == i }).take(14).collect();
                let max = links.first().map_or(1.0, |l| l.2.abs());
                for link in links {
                    let other = &picture.items[if into { link.0 } else { link.1 }];
                    let label = format!("{} {}", token_text::short(&other.label, 12), place_name(cx, d, other));
                    let b = Bar { label, value: link.2, text: format!("{:+.3}", link.2), strong: false };
                    let response = bars::bar(ui, &b, max, true, 104.0);
                    if response.hovered() {
                        tell(cx, shown, d, other);
                    }
                    let (from, to) = (&picture.items[link.0], &picture.items[link.1]);
                    if let Some(edge) = edge(cx, shown, d, from, to) {
                        let response = response.clone().on_hover_text("right click: this edge into the circuit");
                        if response.secondary_clicked() {
                            cx.actions.push(Action::AddCartEdge(edge));
                        }
                    }
                    if response.clicked() {
                        self.selected = Some(other.id.clone());
                        pin_part(cx, shown, d, other);
                    }
                }
            }
        }
        self.picture = Some(picture);
    }

    fn menu(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
        ui.label(RichText::new(&item.label).font(theme::title()));
        if let Some(component) = component(shown, d, item) {
            let text = if cx.state.document.cart.contains(component) {
                "Take out of the circuit"
            } else {
                "Add to the circuit"
            };
            if ui.button(text).clicked() {
                cx.actions.push(Action::ToggleCart(component));
            }
        }
        let pinned = self.pinned.contains(&item.id);
        if ui.button(if pinned { "Unpin" } else { "Pin" }).clicked() {
            if pinned {
                self.pinned.remove(&item.id)
            } else {
                self.pinned.insert(item.id.clone())
            };
        }
        if ui.button("Hide").clicked() {
            self.hidden.insert(item.id.clone());
            self.selected = None;
            self.changed();
        }
        if ui.button("Rename …").clicked() {
            self.renaming = Some((item.id.clone(), item.label.clone()));
        }
        let others = self.pinned.iter().filter(|id| **id != item.id).count();
        if others > 0 && ui.button(format!("Group with the {others} pinned")).clicked() {
            let mut ids: Vec<String> = item.members.iter().map(|m| d.graph.nodes[*m].id.clone()).collect();
            ids.extend(self.pinned.iter().filter(|id| !id.starts_with("group:")).cloned());
            ids.dedup();
            self.made += 1;
            self.groups.push((format!("group {}", self.made), ids));
            self.pinned.clear();
            self.changed();
        }
        if let Some(name) = item.id.strip_prefix("group:")
            && self.groups.iter().any(|(n, _)| n == name)
            && ui.button("Dissolve this group").clicked()
        {
            self.groups.retain(|(n, _)| n != name);
            self.changed();
        }
        if ui.button("Tree of its inputs").clicked() {
            self.selected = Some(item.id.clone());
            self.mode = Mode::Tree;
        }
    }

    fn rename(&mut self, ctx: &egui::Context) {
        let Some((id, mut name)) = self.renaming.take() else { return };
        let mut open = true;
        let mut done = false;
        egui::Window::new("Rename").open(&mut open).collapsible(false).resizable(false).show(ctx, |ui| {
            let field = ui.text_edit_singleline(&mut name);
            field.request_focus();
            done = ui.button("OK").clicked() || ui.input(|i| i.key_pressed(egui::Key::Enter));
        });
        if done {
            if name.trim().is_empty() {
                self.names.remove(&id)
            } else {
                self.names.insert(id, name)
            };
            self.changed();
        } else if open {
            self.renaming = Some((id, name));
        }
    }

    /// The strongest inputs of a node, theirs below, as far as they are opened.
    fn tree(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, shown: &Shown) {
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
            let mut rows: Vec<(usize, usize, Option<f32>, String)> =
                vec![(root, 0, None, picture.items[root].id.clone())];
            let mut toggled = None;
            while let Some((i, depth, weight, path)) = rows.pop() {
                let item = &picture.items[i];
                let inputs: Vec<&(usize, usize, f32)> =
                    picture.links.iter().filter(|l| l.1 == i).take(INPUTS).collect();
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
                        let weight = weight.map_or(String::new(), |w| format!("{w:+.3}  "));
                        let color = cx.palette.signed(if weight.starts_with('-') { -1.0 } else { 1.0 });
                        ui.label(RichText::new(weight).font(theme::mono()).color(color));
                        let name = ui.selectable_label(
                            self.selected.as_ref() == Some(&item.id),
                            RichText::new(token_text::visible(&item.label)).font(theme::title()),
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
                    tell(cx, shown, &drawing, item);
                }
                if response.1.clicked() {
                    self.selected = Some(item.id.clone());
                    pin_part(cx, shown, &drawing, item);
                }
                if open && depth < 12 {
                    for link in inputs.iter().rev() {
                        rows.push((link.0, depth + 1, Some(link.2), format!("{path}/{}", picture.items[link.0].id)));
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

/// What a head's scores on this text say it does.
fn role(cx: &Context<'_>, label: &str) -> Option<String> {
    if cx.state.circuits.file.is_some() {
        return None;
    }
    let Some(Component::Head { layer, head }) = Component::parse(label) else { return None };
    let scores = cx.state.results.text_scores.get()?;
    let (name, value) =
        SCORES[..3].iter().map(|s| (s.name(), scores.get(*s, layer, head))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (value >= ROLE).then(|| format!("{name} heads"))
}

fn own_label(label: &str, kind: NodeKind, id: &str, d: &Drawing, pos: usize) -> String {
    match kind {
        // Files call their tokens and logits in many words; the token itself is enough.
        NodeKind::Token => d.graph.prompt_tokens.get(pos).map_or_else(|| label.to_owned(), |t| token_text::visible(t)),
        NodeKind::Logit => {
            let inner = label.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(label, |(t, _)| t);
            token_text::visible(inner)
        }
        _ if label.is_empty() => id.to_owned(),
        _ => label.to_owned(),
    }
}

/// Where an item stands, in tokens.
fn place_name(cx: &Context<'_>, d: &Drawing, item: &Item) -> String {
    match item.members[..] {
        [one] => {
            let pos = d.graph.nodes[one].pos;
            let token = d.graph.prompt_tokens.get(pos).map_or_else(|| cx.token(pos), |t| token_text::short(t, 10));
            format!("@{pos} {token}")
        }
        _ => format!("{} nodes", item.members.len()),
    }
}

fn mark(painter: &egui::Painter, item: &Item, center: Pos2, r: f32, color: Color32, ring: Stroke) {
    let is_mlp = matches!(Component::parse(&item.label), Some(Component::Mlp { .. }));
    if item.members.len() > 1 {
        painter.rect(Rect::from_center_size(center, vec2(2.6 * r, 1.8 * r)), r * 0.9, color, ring, StrokeKind::Outside);
    } else if item.kind == NodeKind::Error {
        let points = [vec2(0.0, -r), vec2(r, 0.0), vec2(0.0, r), vec2(-r, 0.0)].map(|v| center + v);
        painter.add(egui::Shape::convex_polygon(points.to_vec(), color, ring));
    } else if is_mlp {
        painter.rect(Rect::from_center_size(center, vec2(1.8 * r, 1.8 * r)), 1.5, color, ring, StrokeKind::Outside);
    } else {
        painter.circle(center, r, color, ring);
    }
}

/// The component that an item is, if it is one of this model's.
fn component(shown: &Shown, d: &Drawing, item: &Item) -> Option<Component> {
    let mut all = item.members.iter().filter_map(|m| match shown.part(&d.graph.nodes[*m].id)? {
        Part::Head { layer, head, .. } => Some(Component::Head { layer, head }),
        Part::Mlp { layer, .. } => Some(Component::Mlp { layer }),
        _ => None,
    });
    let first = all.next()?;
    all.all(|c| c == first).then_some(first)
}

/// A link as an edge of the model: with patterns held still, heads are reached through their values.
fn edge(cx: &Context<'_>, shown: &Shown, d: &Drawing, from: &Item, to: &Item) -> Option<Edge> {
    let wiring = cx.state.wiring()?;
    let is = |item: &Item, kind: NodeKind| item.kind == kind && item.members.len() == 1;
    if !matches!(shown.source, Origin::Traced { .. }) {
        return None;
    }
    let sender = if is(from, NodeKind::Token) { Component::Embed } else { component(shown, d, from)? };
    let receiver = if is(to, NodeKind::Logit) {
        Receiver::Logits
    } else {
        match component(shown, d, to)? {
            Component::Head { layer, head } => Receiver::Head { layer, head, part: circuit::Part::Value },
            Component::Mlp { layer } => Receiver::Mlp { layer },
            Component::Embed | Component::Logits => return None,
        }
    };
    Some(Edge { sender: wiring.sender(sender)?, receiver: wiring.receiver(receiver)? })
}

fn in_cart(cx: &Context<'_>, item: &Item) -> bool {
    cx.state.circuits.file.is_none() && !cx.state.document.cart.is_empty() && {
        Component::parse(&item.label).is_some_and(|c| cx.state.document.cart.contains(c))
    }
}

/// Tells the other views what the pointer is over.
fn tell(cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
    let [one] = item.members[..] else { return };
    match shown.part(&d.graph.nodes[one].id) {
        Some(Part::Head { layer, head, pos }) => {
            (cx.hovered.head, cx.hovered.layer, cx.hovered.pos) = (Some((layer, head)), Some(layer), Some(pos));
        }
        Some(Part::Mlp { layer, pos } | Part::Error { layer, pos }) => {
            (cx.hovered.layer, cx.hovered.pos) = (Some(layer), Some(pos));
        }
        Some(Part::Token { pos }) => cx.hovered.pos = Some(pos),
        _ => {}
    }
}

/// A click on a head shows it everywhere; the traced position stays.
fn pin_part(cx: &mut Context<'_>, shown: &Shown, d: &Drawing, item: &Item) {
    if let Some(Component::Head { layer, head }) = component(shown, d, item) {
        cx.pin(|p| (p.layer, p.head, p.all_heads, p.focus) = (layer, Some(head), false, Focus::Head));
    }
}

fn tooltip(ui: &mut egui::Ui, cx: &Context<'_>, d: &Drawing, item: &Item) {
    ui.label(RichText::new(token_text::visible(&item.label)).font(theme::title()));
    ui.label(place_name(cx, d, item));
    if let Some(c) = item.contribution {
        ui.label(format!("contributes {c:+.4}"));
    }
    ui.label(format!("influence {:.4}", item.influence));
    if let [one] = item.members[..] {
        let cumulative = d.cumulative[one];
        ui.label(format!("with all more influential nodes {:.1} %", 100.0 * cumulative));
    }
    ui.label(RichText::new("click: its links · right click: more").font(theme::small()).color(cx.palette.weak));
}
