//! The token strip: the prompt's tokens coloured by surprise, and what comes next. Everything links to it.

use crate::app::model::ModelAction;
use std::sync::Arc;

use eframe::egui::{self, Align2, Rect, RichText, Sense, pos2, vec2};

use crate::analysis::run::Run;
use crate::app::action::{Action, Command};
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::colorbar::{colorbar, share};
use crate::app::widgets::heatmap::coloring;
use crate::app::widgets::token_text;
use crate::app::widgets::turns::Turns;
use crate::engine::RunSide;
use crate::gpu::ColorMap;
use crate::gpu::colormap::ink_on;
use crate::session::desk::{Focus, Show};

/// Surprise at which the colour is full, nats: about one in 20,000.
const FULL_SURPRISE: f32 = 10.0;
const HEIGHT: f32 = 46.0;
const NEXT_SHOWN: usize = 4;
/// Points for each of them.
const NEXT: f32 = 96.0;
/// Points for what the colours mean, where the strip is this wide.
const LEGEND: f32 = 210.0;
const LEGEND_FROM: f32 = 1100.0;
/// Points for the names of the two rows.
const ROW_NAMES: f32 = 66.0;

/// Room for the other prompt's tokens below.
pub const SECOND_ROW: f32 = 26.0;

/// Tells one shown run from another.
type Stamp = (Show, u64);

/// Widths and texts of the chips, kept until the run changes.
#[derive(Default)]
pub struct Strip {
    stamp: Option<Stamp>,
    /// What the second row was laid out for.
    other: Option<Arc<Run>>,
    counterparts: Vec<Option<usize>>,
    texts: Vec<String>,
    other_texts: Vec<String>,
    /// The other run as it was last shown.
    kept: Option<(Arc<Run>, Vec<Option<usize>>)>,
    /// The position that was last scrolled to, and the width in which it was.
    shown: Option<(Stamp, usize, u32)>,
    /// Left and right edge of each chip.
    chips: Vec<(f32, f32)>,
    other_chips: Vec<(f32, f32)>,
    total: f32,
    /// Whose words the tokens are of, and which are folded away, each range drawn as one chip.
    turns: Turns,
}

/// The run that the shown one is compared with, and for each of its tokens the shown run's counterpart.
fn other(cx: &Context<'_>) -> Option<(Arc<Run>, Vec<Option<usize>>)> {
    let pair = cx.state.pair()?;
    let corrupted = cx.state.corrupted().filter(|_| pair.corrupted.is_some())?;
    let edits = cx.state.desk().stack.is_active() && matches!(cx.state.desk().show, Show::Edited | Show::Difference);
    if cx.state.desk().show == Show::Corrupted || edits && cx.state.desk().stack.base == RunSide::Corrupted {
        Some((cx.state.clean()?.clone(), pair.alignment.clone()))
    } else {
        Some((corrupted.clone(), cx.state.runs.counterparts.clone()))
    }
}

/// Tokens side by side: (own, other) indices of each column. Where the correspondence crosses itself the two rows
/// simply run beside each other.
fn columns(n: usize, counterparts: &[Option<usize>]) -> Vec<(Option<usize>, Option<usize>)> {
    let m = counterparts.len();
    let own = crate::analysis::alignment::inverse(&counterparts.to_vec(), n);
    let mut out = Vec::with_capacity(n.max(m));
    let (mut i, mut j) = (0, 0);
    while i < n || j < m {
        if i < n && (own[i].is_none()) {
            out.push((Some(i), None));
            i += 1;
        } else if j < m && counterparts[j].is_none() {
            out.push((None, Some(j)));
            j += 1;
        } else if i < n && own[i] == Some(j) {
            out.push((Some(i), Some(j)));
            (i, j) = (i + 1, j + 1);
        } else {
            return (0..n.max(m)).map(|k| (Some(k).filter(|k| *k < n), Some(k).filter(|k| *k < m))).collect();
        }
    }
    out
}

impl Strip {
    pub fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        if let Some(error) = cx.state.shown_error() {
            ui.set_min_height(HEIGHT);
            ui.label(RichText::new(error).color(cx.palette.error));
            return;
        }
        let Some(shown) = cx.state.shown_run() else {
            ui.set_min_height(HEIGHT);
            let text = if cx.state.opened.is_running() {
                "opening the model …"
            } else if cx.state.model.is_none() {
                "open a model to begin"
            } else if cx.state.desk().is_blank() {
                "type a prompt to begin"
            } else {
                "running …"
            };
            ui.label(RichText::new(text).color(cx.palette.weak));
            return;
        };
        let (run, fresh, stamp) = (shown.run.clone(), shown.fresh, shown.stamp);
        // While a new run is on its way the other prompt stays where it was.
        let other = other(cx).or_else(|| self.kept.take().filter(|_| cx.state.corrupted().is_some()));
        self.kept.clone_from(&other);
        let turns = cx.turns_of(&run);
        if self.turns != turns {
            (self.turns, self.stamp) = (turns, None);
        }
        self.measure(ui, &run, stamp, other.as_ref());
        let available = ui.available_width();
        // Where two rows stand, there is room for the legend below what comes next.
        let beside = other.is_none() && available > LEGEND_FROM;
        let legend = if beside { LEGEND } else { 0.0 };
        let next_width = NEXT * NEXT_SHOWN as f32 + 30.0 + legend + if other.is_some() { ROW_NAMES } else { 0.0 };
        let tokens_width = (available - next_width).max(120.0).min(self.total + 4.0);
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = 6.0;
            if let Some((there, _)) = &other {
                row_names(ui, cx, there);
            }
            let height = HEIGHT + if other.is_some() { SECOND_ROW } else { 0.0 };
            ui.allocate_ui(vec2(tokens_width, height), |ui| self.tokens(ui, cx, &run, fresh, other.as_ref()));
            ui.label(RichText::new("→").size(16.0).color(cx.palette.accent));
            let scale = coloring(&cx.palette, ColorMap::Magma, 0.0, FULL_SURPRISE, false, true);
            let legend = |ui: &mut egui::Ui| colorbar(ui, &scale, "surprise 0", &format!("{FULL_SURPRISE} nats"));
            if other.is_some() {
                ui.allocate_ui(vec2(ui.available_width(), HEIGHT + SECOND_ROW), |ui| {
                    ui.vertical(|ui| {
                        ui.horizontal(|ui| next(ui, cx, &run, fresh));
                        legend(ui);
                    });
                });
            } else {
                next(ui, cx, &run, fresh);
                if beside {
                    ui.with_layout(egui::Layout::right_to_left(egui::Align::TOP), legend);
                }
            }
        });
    }

    fn measure(&mut self, ui: &egui::Ui, run: &Run, stamp: Stamp, other: Option<&(Arc<Run>, Vec<Option<usize>>)>) {
        let counterparts = other.map_or(&[][..], |(_, c)| c);
        let same_other = match (&self.other, other) {
            (Some(a), Some((b, _))) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if self.stamp == Some(stamp)
            && self.texts.len() == run.texts.len()
            && same_other
            && self.counterparts == counterparts
        {
            return;
        }
        self.stamp = Some(stamp);
        self.other = other.map(|(r, _)| r.clone());
        self.counterparts = counterparts.to_vec();
        let short = |texts: &[String]| texts.iter().map(|t| token_text::short(t, 18)).collect::<Vec<_>>();
        self.texts = short(&run.texts);
        self.other_texts = other.map_or_else(Vec::new, |(r, _)| short(&r.texts));
        let width = |text: &String| {
            let galley = ui.painter().layout_no_wrap(text.clone(), theme::mono(), egui::Color32::PLACEHOLDER);
            (galley.size().x + 12.0).max(20.0)
        };
        for range in self.turns.folded() {
            if let Some((name, _)) = self.turns.fold(range.start) {
                self.texts[range.start] = name;
            }
        }
        self.chips = vec![(0.0, 0.0); self.texts.len()];
        self.other_chips = vec![(0.0, 0.0); self.other_texts.len()];
        let mut x = 0.0;
        for (own, there) in columns(self.texts.len(), counterparts) {
            // Folded away behind the first of them.
            if let Some(i) = own.filter(|i| self.turns.folded().iter().any(|r| r.contains(i) && *i > r.start)) {
                self.chips[i] = (x, x);
                continue;
            }
            let w = own.map_or(0.0, |i| width(&self.texts[i])).max(there.map_or(0.0, |j| width(&self.other_texts[j])));
            if let Some(i) = own {
                self.chips[i] = (x, x + w);
            }
            if let Some(j) = there {
                self.other_chips[j] = (x, x + w);
            }
            x += w + 3.0;
        }
        self.total = x;
    }

    fn tokens(
        &mut self,
        ui: &mut egui::Ui,
        cx: &mut Context<'_>,
        run: &Run,
        fresh: bool,
        other: Option<&(Arc<Run>, Vec<Option<usize>>)>,
    ) {
        let p = cx.pinned();
        let scroll = egui::ScrollArea::horizontal().id_salt("tokens").auto_shrink([false, true]);
        scroll.show_viewport(ui, |ui, viewport| {
            let height = 38.0 + if other.is_some() { SECOND_ROW } else { 0.0 };
            let (area, _) = ui.allocate_exact_size(vec2(self.total, height), Sense::hover());
            // The clean prompt's row stays above the corrupted one's, whichever of them is shown.
            let rows = Rows::of(cx, other.map(|(there, _)| there));
            // A newly pinned token comes into view, and stays there where the room for the row changes.
            let place = self.stamp.map(|s| (s, p.pos, viewport.width() as u32));
            if self.shown != place && p.pos < self.texts.len() {
                self.shown = place;
                let x = area.min.x + self.chips[p.pos].0..=area.min.x + self.chips[p.pos].1;
                ui.scroll_to_rect(Rect::from_x_y_ranges(x, area.y_range()), None);
            }
            if let Some((there, counterparts)) = other {
                let origin = area.min + vec2(0.0, rows.other);
                self.second(ui, cx, run, there, counterparts, origin, viewport);
            }
            let first = self.chips.partition_point(|x| x.1 < viewport.min.x);
            for i in first..self.texts.len() {
                if self.chips[i].0 > viewport.max.x {
                    break;
                }
                if self.chips[i].0 >= self.chips[i].1 {
                    continue;
                }
                let chip = Rect::from_min_max(
                    pos2(area.min.x + self.chips[i].0, area.min.y + rows.own + 1.0),
                    pos2(area.min.x + self.chips[i].1, area.min.y + rows.own + 23.0),
                );
                let loss = run.trace.loss.get(i).copied().flatten();
                let id = ui.scope_id().with(("token", i));
                let response = ui.interact(chip, id, Sense::click());
                response.widget_info(|| {
                    egui::WidgetInfo::selected(
                        egui::Role::Button,
                        true,
                        p.pos == i,
                        format!("token {i} {}", self.texts[i]),
                    )
                });
                // What the template wrote is dimmed.
                let of_template = self.turns.is_template(i);
                let strength = if of_template { 0.3 } else { 1.0 } * if fresh { 1.0 } else { 0.5 };
                let color = loss.map_or(cx.palette.raised, |l| surprise(l).gamma_multiply(strength));
                let ink = match (loss.is_some() && fresh, of_template) {
                    (_, true) => cx.palette.weak,
                    (true, false) => ink_on(color),
                    (false, false) => cx.palette.text,
                };
                let painter = ui.painter();
                painter.rect_filled(chip, 4.0, color);
                if loss.is_none() {
                    // Nothing predicts it, but it can be clicked like the others.
                    let stroke = egui::Stroke::new(1.0, cx.palette.faint);
                    painter.rect_stroke(chip, 4.0, stroke, egui::StrokeKind::Inside);
                }
                painter.text(chip.center(), Align2::CENTER_CENTER, &self.texts[i], theme::mono(), ink);
                let next = self.chips.get(i + 1).map(|c| area.min.x + c.0);
                self.band(painter, i, chip, next);
                let is_pinned = p.pos == i;
                let is_hovered = cx.state.hovered.pos == Some(i) || response.hovered() || response.has_focus();
                let number_color = if is_pinned { cx.palette.accent } else { cx.palette.weak };
                painter.text(
                    pos2(chip.center().x, chip.max.y + 8.0),
                    Align2::CENTER_CENTER,
                    i,
                    theme::mono_small(),
                    number_color,
                );
                let kind = egui::StrokeKind::Outside;
                if is_pinned {
                    painter.rect_stroke(chip, 4.0, egui::Stroke::new(2.0, cx.palette.accent), kind);
                } else if is_hovered {
                    painter.rect_stroke(chip, 4.0, egui::Stroke::new(1.0, cx.palette.text), kind);
                }
                if response.hovered() {
                    cx.hovered.pos = Some(i);
                }
                if response.clicked() {
                    cx.pin(|p| {
                        (p.pos, p.focus) = (i, Focus::Token);
                    });
                }
                if response.double_clicked() {
                    cx.push(Action::Do(Command::Trace));
                }
                response.on_hover_ui(|ui| about(ui, cx, run, i));
            }
        });
    }
}

impl Strip {
    /// The band below a token that tells whose turn it is of; it goes on to `next`, where that is of the same turn.
    fn band(&self, painter: &egui::Painter, pos: usize, chip: Rect, next: Option<f32>) {
        let Some(color) = self.turns.band(pos) else { return };
        let right = next.filter(|_| self.turns.goes_on(pos)).unwrap_or(chip.max.x);
        let band = Rect::from_min_max(pos2(chip.min.x, chip.max.y - 0.5), pos2(right, chip.max.y + 1.5));
        painter.rect_filled(band, 0.0, color);
    }

    /// The other prompt's tokens, under their counterparts: what is the same is quiet.
    fn second(
        &self,
        ui: &egui::Ui,
        cx: &mut Context<'_>,
        run: &Run,
        there: &Arc<Run>,
        counterparts: &[Option<usize>],
        origin: egui::Pos2,
        viewport: Rect,
    ) {
        let there_is_clean = is_clean(cx, there);
        for (j, (from, to)) in self.other_chips.iter().copied().enumerate() {
            if to < viewport.min.x || from > viewport.max.x {
                continue;
            }
            let counterpart = counterparts.get(j).copied().flatten();
            let same = counterpart.is_some_and(|i| run.trace.ids.get(i) == there.trace.ids.get(j));
            let chip = Rect::from_min_max(pos2(origin.x + from, origin.y), pos2(origin.x + to, origin.y + 20.0));
            let response = ui.interact(chip, ui.scope_id().with(("other token", j)), Sense::click());
            let name = format!("other token {j} {}", self.other_texts[j]);
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, name.clone()));
            let painter = ui.painter();
            painter.rect_filled(chip, 4.0, if same { cx.palette.base } else { cx.palette.raised });
            if !same {
                let stroke = egui::Stroke::new(1.0, cx.palette.accent.gamma_multiply(0.8));
                painter.rect_stroke(chip, 4.0, stroke, egui::StrokeKind::Inside);
            }
            let ink = match (same, counterpart) {
                (true, _) => cx.palette.faint,
                (false, Some(_)) => cx.palette.text,
                (false, None) => cx.palette.weak,
            };
            painter.text(chip.center(), Align2::CENTER_CENTER, &self.other_texts[j], theme::mono(), ink);
            if response.hovered() {
                cx.hovered.pos = counterpart;
            }
            if response.clicked()
                && let Some(i) = counterpart
            {
                cx.pin(|p| (p.pos, p.focus) = (i, Focus::Token));
            }
            let pinned = cx.pinned().pos;
            response.context_menu(|ui| {
                // The document keeps the correspondence from the clean prompt's side.
                let (token, partner) = if there_is_clean { (j, Some(pinned)) } else { (pinned, Some(j)) };
                if ui.button(format!("corresponds to {} ({pinned})", cx.token(pinned))).clicked() {
                    cx.push(ModelAction::Align(token, partner));
                    ui.close();
                }
                let apart = ui.add_enabled(counterpart.is_some(), egui::Button::new("corresponds to nothing"));
                if apart.on_disabled_hover_text("it corresponds to nothing already").clicked() {
                    let token = if there_is_clean { Some(j) } else { counterpart };
                    cx.actions.extend(token.map(|t| ModelAction::Align(t, None).into()));
                    ui.close();
                }
            });
            response.on_hover_ui(|ui| {
                let which = if there_is_clean { "clean" } else { "corrupted" };
                let side = if there_is_clean { "below" } else { "above" };
                ui.label(
                    RichText::new(format!("{} ({j}) of the {which} prompt", self.other_texts[j])).font(theme::title()),
                );
                match counterpart {
                    Some(i) if same => ui.label(format!("the same as token {i} {side}")),
                    Some(i) => ui.label(format!("differs from token {i} {side}")),
                    None => ui.label(format!("has no counterpart {side}")),
                };
                ui.weak("Right click changes what it corresponds to.");
            });
        }
    }
}

/// What is said about a token that is pointed at.
fn about(ui: &mut egui::Ui, cx: &Context<'_>, run: &Run, i: usize) {
    ui.label(RichText::new(format!("{} ({i})", token_text::visible(&run.texts[i]))).font(theme::title()));
    ui.label(format!("id {}", run.trace.ids[i]));
    if let Some(whose) = cx.turns_of(run).whose(i) {
        ui.label(whose);
    }
    match run.trace.loss.get(i).copied().flatten() {
        Some(l) => ui.label(format!("surprise {l:.2} nats: probability {}", share((-l).exp()))),
        None => ui.label("the first token; nothing predicts it"),
    };
    let hint = "click: pin · double click: the graph of what is predicted after it (G)";
    ui.label(RichText::new(hint).font(theme::small()));
}

/// Where the two rows stand, in points below the strip's edge.
#[derive(Clone, Copy)]
struct Rows {
    /// Of the run that is shown.
    own: f32,
    /// Of the one that it is compared with.
    other: f32,
}

impl Rows {
    fn of(cx: &Context<'_>, there: Option<&Arc<Run>>) -> Self {
        match there {
            Some(there) if is_clean(cx, there) => Self { own: SECOND_ROW - 2.0, other: 1.0 },
            _ => Self { own: 0.0, other: 36.0 },
        }
    }
}

fn is_clean(cx: &Context<'_>, run: &Arc<Run>) -> bool {
    cx.state.clean().is_some_and(|c| Arc::ptr_eq(c, run))
}

/// Which run each of the two rows is of.
fn row_names(ui: &mut egui::Ui, cx: &Context<'_>, there: &Arc<Run>) {
    let rows = Rows::of(cx, Some(there));
    let (rect, _) = ui.allocate_exact_size(vec2(ROW_NAMES - 6.0, HEIGHT + SECOND_ROW), Sense::hover());
    let own = match cx.state.desk().show {
        Show::Clean => "clean",
        Show::Corrupted => "corrupted",
        Show::Edited | Show::Difference if cx.state.desk().stack.is_active() => "edited",
        Show::Edited | Show::Difference => "clean",
    };
    let other = if is_clean(cx, there) { "clean" } else { "corrupted" };
    for (text, y, color) in [(own, rows.own + 12.0, cx.palette.text), (other, rows.other + 10.0, cx.palette.weak)] {
        let at = pos2(rect.min.x, rect.min.y + y);
        ui.painter().text(at, Align2::LEFT_CENTER, text, theme::small(), color);
    }
    let said = format!("{own} tokens are shown, compared with the {other} ones");
    ui.interact(rect, ui.scope_id().with("rows"), Sense::hover())
        .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &said));
}

/// Colour of a surprise: dark where expected, bright where not.
fn surprise(loss: f32) -> egui::Color32 {
    ColorMap::Magma.at(0.12 + 0.78 * (loss / FULL_SURPRISE).clamp(0.0, 1.0))
}

/// The most probable tokens after the pinned position.
fn next(ui: &mut egui::Ui, cx: &mut Context<'_>, run: &Run, fresh: bool) {
    let p = cx.pinned();
    let Some(list) = run.trace.next.get(p.pos) else { return };
    for (k, t) in list.iter().take(NEXT_SHOWN).enumerate() {
        let text = cx.text_of(t.id);
        let (rect, response) = ui.allocate_exact_size(vec2(90.0, 38.0), Sense::click());
        response.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::Button, true, format!("next {text} {:.1} %", t.prob * 100.0))
        });
        let chip = Rect::from_min_size(rect.min + vec2(0.0, 1.0), vec2(rect.width(), 22.0));
        let painter = ui.painter_at(rect);
        let fill = if response.hovered() { cx.palette.hovered } else { cx.palette.raised };
        painter.rect_filled(chip, 4.0, fill);
        painter.rect_stroke(chip, 4.0, egui::Stroke::new(1.0, cx.palette.border), egui::StrokeKind::Inside);
        let bar =
            Rect::from_min_size(pos2(chip.min.x, chip.max.y + 2.0), vec2(chip.width() * t.prob.clamp(0.0, 1.0), 3.0));
        painter.rect_filled(bar, 1.5, cx.palette.accent.gamma_multiply(if fresh { 1.0 } else { 0.5 }));
        let ink = if k == 0 { cx.palette.text } else { cx.palette.weak };
        let percent = painter.layout_no_wrap(share(t.prob), theme::mono_small(), cx.palette.weak);
        let width = percent.size().x;
        painter.galley(pos2(chip.max.x - 6.0 - width, chip.center().y - 0.5 * percent.size().y), percent, ink);
        let mut job = egui::text::LayoutJob::simple_singleline(token_text::visible(&text), theme::mono(), ink);
        job.wrap = egui::text::TextWrapping::truncate_at_width((chip.width() - width - 18.0).max(8.0));
        let name = painter.layout_job(job);
        painter.galley(pos2(chip.min.x + 6.0, chip.center().y - 0.5 * name.size().y), name, ink);
        if response.clicked()
            && let Some(model) = &cx.state.model
        {
            cx.push(ModelAction::Answer(model.token_text(t.id)));
        }
        response.on_hover_text(format!(
            "{text}: probability {}, logit {:.4}. Click to explain it.",
            share(t.prob),
            t.logit
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn columns_follow_the_correspondence() {
        // Own 0 1 2; other 0 1 2 3, where other 1 was inserted.
        let c = columns(3, &[Some(0), None, Some(1), Some(2)]);
        assert_eq!(c, [(Some(0), Some(0)), (None, Some(1)), (Some(1), Some(2)), (Some(2), Some(3))]);
        // Crossed: side by side.
        assert_eq!(columns(2, &[Some(1), Some(0)]), [(Some(0), Some(0)), (Some(1), Some(1))]);
        assert_eq!(columns(2, &[]), [(Some(0), None), (Some(1), None)]);
    }
}
