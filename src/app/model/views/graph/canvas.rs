//! The drawing itself: zoomed and moved, with what the pointer is over lit up.

use crate::app::model::ModelAction;
use std::collections::HashSet;

use eframe::egui::{self, Align2, Color32, Pos2, Rect, RichText, Sense, Stroke, StrokeKind, pos2, vec2};

use super::GraphView;
use super::picture::{Item, Line, Picture, in_draft, member, mlp_id, pin_part, place_name, tell};
use crate::analysis::component::Component;
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::token_text;
use crate::circuit::Member;
use crate::graph::features::why::Source;
use crate::graph::layout::Drawing;
use crate::graph::{Input, NodeKind};

/// Links drawn while no node is chosen: the strongest; all others appear with their node.
const LINKS: usize = 600;

/// Pairs of features of the pinned head's score that are drawn where both stand in the picture.
const PAIRS: usize = 24;

/// Labels of components drawn at once.
const LABELS: usize = 160;

/// The canvas' id: while it has the keyboard, arrows walk along links.
pub fn canvas_id() -> egui::Id {
    egui::Id::unique("graph canvas")
}

impl GraphView {
    pub fn canvas(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, d: &Drawing, fresh: bool) {
        let (rect, _) = ui.allocate_exact_size(ui.available_size(), Sense::hover());
        let response = ui.interact(rect, canvas_id(), Sense::click_and_drag());
        let Some(picture) = self.picture.take() else { return };
        response.widget_info(|| {
            let text = format!("attribution graph: {} nodes, {} links", picture.items.len(), picture.links.len());
            egui::WidgetInfo::labeled(egui::Role::Image, true, text)
        });
        // A drag that begins on a node moves the node, any other the graph.
        if !response.dragged() && !response.drag_stopped() {
            self.dragged = None;
        }
        self.navigate(ui, &response, rect);
        let inner = Rect::from_min_max(rect.min + vec2(30.0, 12.0), rect.max - vec2(8.0, 26.0));
        let width = picture.columns.last().map_or(1.0, |c| c.1).max(0.1);
        let step = vec2(inner.width() / width, inner.height() / d.height.max(0.1)) * self.zoom;
        let origin = pos2(inner.left(), inner.bottom()) + self.pan;
        let at = |(x, y): (f32, f32)| pos2(origin.x + x * step.x, origin.y - y * step.y);
        let painter = ui.painter_at(rect);
        let fade = if fresh { 1.0 } else { 0.5 };
        let p = cx.palette;

        columns_and_layers(&painter, rect, cx, d, &picture, step.y, at);

        let most = picture.items.iter().map(|i| i.influence).fold(1e-12, f64::max);
        let scale = self.zoom.clamp(0.8, 1.6);
        let radius = |item: &Item| {
            let share = (item.influence / most).sqrt() as f32;
            let size = if item.kind == NodeKind::Logit { 6.0 } else { 2.5 + 7.5 * share };
            size * scale
        };
        // While a node is dragged, where it is.
        let pointer = response.interact_pointer_pos().filter(|_| self.dragged.is_some()).or(response.hover_pos());
        let hovered = pointer.and_then(|m| {
            let distance = |i: &usize| (at(picture.items[*i].place) - m).length() - radius(&picture.items[*i]);
            (0..picture.items.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).filter(|i| distance(i) < 7.0)
        });
        if response.drag_started() {
            let origin = ui.input(|i| i.pointer.press_origin());
            let under = origin.and_then(|o| {
                (0..picture.items.len()).find(|i| {
                    let item = &picture.items[*i];
                    item.kind == NodeKind::Component && (at(item.place) - o).length() < radius(item) + 4.0
                })
            });
            self.dragged = under.map(|i| picture.items[i].id.clone());
        }
        let dragged = self.dragged.as_ref().and_then(|id| picture.by_id.get(id)).copied();
        let onto = hovered.filter(|h| Some(*h) != dragged && picture.items[*h].kind == NodeKind::Component);
        if response.drag_stopped()
            && let (Some(from), Some(onto)) = (dragged, onto)
        {
            self.join(cx, d, &picture.items[from], &picture.items[onto]);
        }
        if response.has_focus() {
            self.keys(ui, cx, d, &picture);
        }
        let selected = self.selected.as_ref().and_then(|id| picture.by_id.get(id)).copied();
        let focus = hovered.or(selected);

        let (lit, lit_links) = focus.map(|f| lit_by(&picture, f)).unwrap_or_default();
        self.links(&painter, cx, &picture, &lit_links, focus.is_some(), at, fade);

        for (i, item) in picture.items.iter().enumerate() {
            let center = at(item.place);
            if !rect.expand(20.0).contains(center) || item.is_end() {
                continue;
            }
            let strength = if focus.is_some() && !lit.contains(&i) { 0.35 } else { 1.0 } * fade;
            let color = match item.value {
                _ if item.kind == NodeKind::Error => p.faint,
                Some(c) => p.signed(c as f32),
                None => p.bar,
            };
            let ring = if Some(i) == selected {
                Stroke::new(2.0, p.accent)
            } else if self.marks.pinned.contains(&item.id) || in_draft(cx, d, item) {
                Stroke::new(1.5, p.text)
            } else {
                Stroke::new(1.0, p.base)
            };
            mark(&painter, d, item, center, radius(item), color.gamma_multiply(strength), ring);
        }
        self.labels(&painter, rect, cx, d, &picture, &lit, focus.is_some(), at, radius, fade);

        if let (Some(i), Some(pointer)) = (dragged, pointer) {
            let goal = onto.map(|o| &picture.items[o]);
            dragged_node(&painter, cx, &picture.items[i], pointer, goal, at, radius);
        } else if let Some(i) = hovered {
            let item = &picture.items[i];
            tell(cx, d, item);
            response.clone().on_hover_ui_at_pointer(|ui| tooltip(ui, cx, d, item));
        }
        self.clicks(cx, d, &picture, &response, hovered, selected);
        self.picture = Some(picture);
    }

    /// A click chooses a node, a double click takes an MLP apart or shows the whole graph again, a right click opens the
    /// menu.
    fn clicks(
        &mut self,
        cx: &mut Context<'_>,
        d: &Drawing,
        picture: &Picture,
        response: &egui::Response,
        hovered: Option<usize>,
        selected: Option<usize>,
    ) {
        // By the pointer: Enter, which egui counts as a click, is a key here.
        if response.double_clicked() {
            // The first click chose the node, and made room for what is told of it: the pointer is elsewhere by now.
            match selected {
                Some(i) => {
                    if let Some(id) = mlp_id(d, &picture.items[i]) {
                        cx.push(ModelAction::OpenMlp(id));
                    }
                }
                None => (self.zoom, self.pan) = (1.0, egui::Vec2::ZERO),
            }
        } else if response.clicked_by(egui::PointerButton::Primary) {
            response.request_focus();
            self.selected = hovered.map(|i| picture.items[i].id.clone());
            if let Some(i) = hovered {
                pin_part(cx, d, &picture.items[i]);
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
            Some(i) => self.menu(ui, cx, d, &picture.items[i]),
            None => {
                ui.weak("right-click a node");
            }
        });
    }

    /// Arrows walk: up and down along the strongest link, left and right to the neighbour. Enter takes an MLP apart, P
    /// pins, H hides, C puts into the circuit.
    fn keys(&mut self, ui: &egui::Ui, cx: &mut Context<'_>, d: &Drawing, picture: &Picture) {
        let filter = egui::EventFilter { horizontal_arrows: true, vertical_arrows: true, ..Default::default() };
        ui.memory_mut(|m| m.set_focus_lock_filter(canvas_id(), filter));
        let pressed = |key| ui.input_mut(|i| i.consume_key(egui::Modifiers::NONE, key));
        let logit = || picture.items.iter().position(|i| i.kind == NodeKind::Logit);
        let selected = self.selected.as_ref().and_then(|id| picture.by_id.get(id)).copied();
        let Some(here) = selected.or_else(logit) else { return };
        let place = picture.items[here].place;
        let beside = |sign: f32| {
            let ahead = |i: &usize| {
                let p = picture.items[*i].place;
                (p.1 - place.1).abs() < 0.6 && (p.0 - place.0) * sign > 0.0
            };
            let distance = |i: usize| (picture.items[i].place.0 - place.0).abs();
            (0..picture.items.len()).filter(ahead).min_by(|a, b| distance(*a).total_cmp(&distance(*b)))
        };
        let next = if pressed(egui::Key::ArrowUp) {
            picture.links.iter().find(|l| l.source == here).map(|l| l.target)
        } else if pressed(egui::Key::ArrowDown) {
            // With nothing chosen yet the walk begins at the logit itself.
            if selected.is_none() {
                Some(here)
            } else {
                picture.links.iter().find(|l| l.target == here).map(|l| l.source)
            }
        } else if pressed(egui::Key::ArrowLeft) {
            beside(-1.0)
        } else if pressed(egui::Key::ArrowRight) {
            beside(1.0)
        } else {
            None
        };
        if let Some(next) = next {
            self.selected = Some(picture.items[next].id.clone());
            pin_part(cx, d, &picture.items[next]);
        }
        let item = &picture.items[here];
        if pressed(egui::Key::Enter)
            && let Some(id) = mlp_id(d, item)
        {
            cx.push(ModelAction::OpenMlp(id));
        }
        if pressed(egui::Key::C)
            && let Some(member) = member(d, item)
        {
            cx.push(ModelAction::Collect(member));
        }
        if pressed(egui::Key::P) && selected.is_some() {
            self.pin(cx, item);
        }
        if pressed(egui::Key::H) && selected.is_some() {
            self.hide(cx, item);
        }
    }

    fn navigate(&mut self, ui: &egui::Ui, response: &egui::Response, rect: Rect) {
        // What the drag takes hold of is found where it was when it began.
        if response.dragged() && !response.drag_started() && self.dragged.is_none() {
            self.pan += response.drag_delta();
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

    fn links(
        &self,
        painter: &egui::Painter,
        cx: &Context<'_>,
        picture: &Picture,
        lit: &[Line],
        focused: bool,
        at: impl Fn((f32, f32)) -> Pos2,
        fade: f32,
    ) {
        let p = cx.palette;
        let strongest = picture.links.first().map_or(1.0, |l| l.weight.abs()).max(1e-12);
        let line = |link: &Line, strength: f32| {
            let share = (link.weight.abs() / strongest).sqrt();
            let color = p.signed(link.weight).gamma_multiply((0.05 + 0.75 * share * share.sqrt()) * strength * fade);
            let width = (0.5 + 3.5 * share) * self.zoom.clamp(0.7, 1.5);
            let ends = [at(picture.items[link.source].place), at(picture.items[link.target].place)];
            let stroke = Stroke::new(width, color);
            match link.input {
                Input::Value => _ = painter.line_segment(ends, stroke),
                Input::Query => _ = painter.add(egui::Shape::dashed_line(&ends, stroke, 9.0, 5.0)),
                Input::Key => _ = painter.add(egui::Shape::dashed_line(&ends, stroke, 2.5, 4.0)),
            }
        };
        // Of a group, a link is crossed out where one of its members' fails.
        let item = |id: &str| picture.item_of.get(id).copied();
        let fails: HashSet<(usize, usize)> = super::audit::audit_of(cx.state).map_or_else(HashSet::new, |audit| {
            audit.links.iter().filter(|l| l.fails).filter_map(|l| item(&l.source).zip(item(&l.target))).collect()
        });
        let quiet = if focused { 0.22 } else { 1.0 };
        // The weak ones first, so that the strong ones lie on top.
        for link in picture.links[..picture.links.len().min(LINKS)].iter().rev() {
            line(link, quiet);
        }
        for link in lit.iter().rev() {
            line(link, 1.3);
        }
        self.looks(painter, cx, picture, &at);
        for link in picture.links.iter().take(LINKS).filter(|_| !fails.is_empty()) {
            let (source, target) = (&picture.items[link.source], &picture.items[link.target]);
            if fails.contains(&(link.source, link.target)) {
                let middle = at(source.place).lerp(at(target.place), 0.5);
                painter.text(middle, Align2::CENTER_CENTER, "✕", theme::small(), p.warning);
            }
        }
    }

    /// The pairs of drawn features that make the pinned head look where it does, as dotted lines from key to query.
    fn looks(&self, painter: &egui::Painter, cx: &Context<'_>, picture: &Picture, at: impl Fn((f32, f32)) -> Pos2) {
        let Some(looks) = cx.state.results.looks.fresh() else { return };
        // Pairs are of a run, and say nothing of another's graph.
        let is_of_graph = cx.state.live_graph().is_some_and(|live| live.trace == looks.question.trace);
        if !is_of_graph {
            return;
        }
        let looks = looks.value.clone();
        let item = |source: Source, pos: usize| match source {
            Source::Feature { layer, feature } => picture.item_of.get(&format!("{layer}_{feature}_{pos}")).copied(),
            _ => None,
        };
        let drawn = looks.features().take(PAIRS).filter_map(|p| {
            let (query, key) = (item(p.query, looks.query)?, item(p.key, looks.key)?);
            (query != key).then_some((query, key, p.value))
        });
        let all: Vec<(usize, usize, f32)> = drawn.collect();
        let most = all.first().map_or(1.0, |p| p.2.abs()).max(1e-12);
        for (query, key, value) in all {
            let share = (value.abs() / most).sqrt();
            let stroke = Stroke::new(0.8 + 1.6 * share, cx.palette.signed(value).gamma_multiply(0.3 + 0.7 * share));
            let ends = [at(picture.items[key].place), at(picture.items[query].place)];
            painter.add(egui::Shape::dotted_line(&ends, stroke.color, 5.0, stroke.width));
        }
    }

    fn labels(
        &self,
        painter: &egui::Painter,
        rect: Rect,
        cx: &Context<'_>,
        d: &Drawing,
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
        let turns = &picture.turns;
        let marks: Vec<Pos2> = picture.items.iter().map(|i| at(i.place)).collect();
        for i in order {
            let item = &picture.items[i];
            let end = item.is_end();
            // Errors are marks; their place says which they are.
            if (taken.len() > LABELS || item.kind == NodeKind::Error && !lit.contains(&i)) && !end {
                continue;
            }
            let center = at(item.place);
            if !rect.contains(center) {
                continue;
            }
            let strength = if focused && !lit.contains(&i) { 0.4 } else { 1.0 } * fade;
            // What the chat template wrote is dimmed, as everywhere.
            let template = |m: &usize| turns.is_template(d.graph.nodes[*m].pos);
            let quiet = item.kind == NodeKind::Token && item.members.iter().all(template);
            let color = if end && !quiet { p.text } else { p.weak };
            let galley = painter.layout_no_wrap(
                token_text::cut(&item.spoken(), 16),
                theme::mono_small(),
                color.gamma_multiply(strength),
            );
            let size = galley.size();
            // A group is wider than it is high.
            let beside = if item.members.len() > 1 { 1.3 } else { 1.0 } * radius(item) + 4.0;
            let right = center + vec2(beside, -size.y / 2.0);
            let left = center - vec2(beside + size.x, size.y / 2.0);
            let below = center + vec2(-size.x / 2.0, radius(item) + 1.0);
            // Beside the node where there is room, else below it.
            let corners = if end {
                [center - size / 2.0; 3]
            } else if right.x + size.x > rect.right() {
                [left, below, below]
            } else {
                [right, below, left]
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
}

fn columns_and_layers(
    painter: &egui::Painter,
    rect: Rect,
    cx: &Context<'_>,
    d: &Drawing,
    picture: &Picture,
    layer_height: f32,
    at: impl Fn((f32, f32)) -> Pos2,
) {
    let p = cx.palette;
    let turns = &picture.turns;
    for (pos, (left, right)) in picture.columns.iter().enumerate() {
        let x = at((*left, 0.0)).x..=at((*right, 0.0)).x;
        let band = Rect::from_x_y_ranges(*x.start()..=*x.end(), rect.y_range());
        if cx.pinned().pos == pos && cx.state.desk().graph.file.is_none() {
            painter.rect_filled(band, 0.0, p.header);
        }
        if let Some(color) = turns.band(pos) {
            let y = rect.bottom() - 2.0..=rect.bottom();
            painter.rect_filled(Rect::from_x_y_ranges(x.clone(), y), 0.0, color);
        }
        painter.vline(*x.end(), rect.y_range(), Stroke::new(1.0, p.border.gamma_multiply(0.6)));
    }
    let every = [1, 2, 5, 10, 20].into_iter().find(|n| *n as f32 * layer_height >= 14.0).unwrap_or(50);
    for layer in (0..(d.height as usize).saturating_sub(2)).step_by(every) {
        let y = at((0.0, layer as f32 + 1.0)).y;
        if rect.y_range().contains(y) {
            painter.text(pos2(rect.left() + 22.0, y), Align2::RIGHT_CENTER, layer, theme::mono_small(), p.faint);
        }
    }
}

/// The nodes and links that are lit: the focus' own links, and its strongest way up and down.
fn lit_by(picture: &Picture, focus: usize) -> (HashSet<usize>, Vec<Line>) {
    let mut lit: HashSet<usize> = HashSet::new();
    let mut lit_links: Vec<Line> = Vec::new();
    lit.insert(focus);
    for link in picture.links.iter().filter(|l| l.source == focus || l.target == focus).take(60) {
        lit.extend([link.source, link.target]);
        lit_links.push(*link);
    }
    let (mut up, mut down) = (focus, focus);
    let height = |i: usize| picture.items[i].place.1;
    while let Some(link) = picture.links.iter().find(|l| l.source == up && height(l.target) > height(up)) {
        up = link.target;
        lit.insert(up);
        lit_links.push(*link);
    }
    while let Some(link) = picture.links.iter().find(|l| l.target == down && height(l.source) < height(down)) {
        down = link.source;
        lit.insert(down);
        lit_links.push(*link);
    }
    (lit, lit_links)
}

/// The node that is dragged, at the pointer, and what it would be grouped with.
fn dragged_node(
    painter: &egui::Painter,
    cx: &Context<'_>,
    item: &Item,
    pointer: Pos2,
    goal: Option<&Item>,
    at: impl Fn((f32, f32)) -> Pos2,
    radius: impl Fn(&Item) -> f32,
) {
    let p = cx.palette;
    painter.line_segment([at(item.place), pointer], Stroke::new(1.0, p.accent));
    painter.circle_filled(pointer, radius(item), p.accent.gamma_multiply(0.6));
    if let Some(goal) = goal {
        painter.circle_stroke(at(goal.place), radius(goal) + 5.0, Stroke::new(2.0, p.accent));
    }
    let text = goal.map_or_else(
        || "drop it on another node to group them".to_owned(),
        |g| format!("group with {}", token_text::cut(&g.spoken(), 16)),
    );
    painter.text(pointer + vec2(14.0, -14.0), Align2::LEFT_BOTTOM, text, theme::small(), p.text);
}

fn mark(painter: &egui::Painter, d: &Drawing, item: &Item, center: Pos2, r: f32, color: Color32, ring: Stroke) {
    // Nodes of files are known by their names, if at all.
    let what = member(d, item).or_else(|| Member::parse(&item.label));
    let is_mlp = matches!(what, Some(Member::Component(Component::Mlp { .. })));
    if item.members.len() > 1 {
        painter.rect(Rect::from_center_size(center, vec2(2.6 * r, 1.8 * r)), r * 0.9, color, ring, StrokeKind::Outside);
    } else if item.kind == NodeKind::Error {
        let points = [vec2(0.0, -r), vec2(r, 0.0), vec2(0.0, r), vec2(-r, 0.0)].map(|v| center + v);
        painter.add(egui::Shape::convex_polygon(points.to_vec(), color, ring));
    } else if matches!(what, Some(Member::Neuron { .. })) {
        let points = [vec2(0.0, -1.1 * r), vec2(r, 0.8 * r), vec2(-r, 0.8 * r)].map(|v| center + v);
        painter.add(egui::Shape::convex_polygon(points.to_vec(), color, ring));
    } else if is_mlp {
        painter.rect(Rect::from_center_size(center, vec2(1.8 * r, 1.8 * r)), 1.5, color, ring, StrokeKind::Outside);
    } else {
        painter.circle(center, r, color, ring);
    }
}

fn tooltip(ui: &mut egui::Ui, cx: &Context<'_>, d: &Drawing, item: &Item) {
    let title = if item.is_fold() { "folded tokens".to_owned() } else { item.spoken() };
    ui.label(RichText::new(title).font(theme::title()));
    ui.label(place_name(cx, d, item));
    let name = cx.state.results.graph.value().map_or("", |shown| shown.value_name());
    if let Some(value) = item.value {
        ui.label(format!("{name} {value:+.4}"));
    }
    ui.label(format!("influence {:.4}", item.influence));
    if item.is_fold() {
        ui.label(
            RichText::new("nodes are folded with their tokens, or nothing else stands there").font(theme::small()),
        );
        return;
    }
    if let [one] = item.members[..] {
        let cumulative = d.cumulative[one];
        ui.label(format!("with all more influential nodes {:.1} %", 100.0 * cumulative));
    }
    let opens = if mlp_id(d, item).is_some() { "double click: its neurons · " } else { "" };
    let text = format!("click: its links · {opens}drag onto another: group · right click: more");
    ui.label(RichText::new(text).font(theme::small()).color(cx.palette.weak));
}
