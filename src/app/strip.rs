//! The token strip: the prompt's tokens coloured by surprise, and what comes next. Everything links to it.

use eframe::egui::{self, Align2, Rect, RichText, Sense, pos2, vec2};

use super::command::Action;
use super::selection::Focus;
use super::theme;
use super::views::Context;
use super::widgets::token_text;
use crate::gpu::ColorMap;
use crate::gpu::colormap::ink_on;
use crate::jobs::Run;

/// Surprise at which the colour is full, nats: about one in 20,000.
const FULL_SURPRISE: f32 = 10.0;
const HEIGHT: f32 = 46.0;
const NEXT_SHOWN: usize = 4;

/// Widths and texts of the chips, kept until the run changes.
#[derive(Default)]
pub struct Strip {
    stamp: u64,
    texts: Vec<String>,
    /// The position that was last scrolled to.
    shown: Option<(u64, usize)>,
    /// Left edge of each chip; the last entry is the total width.
    edges: Vec<f32>,
}

impl Strip {
    pub fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>) {
        let results = &cx.state.results;
        if let Some(error) = &results.run.error {
            ui.set_min_height(HEIGHT);
            ui.label(RichText::new(error).color(cx.palette.error));
            return;
        }
        let Some(result) = results.run.result.clone() else {
            ui.set_min_height(HEIGHT);
            let text = if cx.state.opening.is_some() {
                "opening the model …"
            } else if cx.state.model.is_none() {
                "open a model to begin"
            } else if cx.state.document.prompt.is_empty() {
                "type a prompt to begin"
            } else {
                "running …"
            };
            ui.label(RichText::new(text).color(cx.palette.weak));
            return;
        };
        let run = result.value.as_ref().clone();
        self.measure(ui, &run, result.stamp);
        let available = ui.available_width();
        let next_width = 96.0 * NEXT_SHOWN as f32 + 30.0;
        let tokens_width = (available - next_width).max(120.0).min(self.edges.last().copied().unwrap_or(0.0) + 4.0);
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = 6.0;
            ui.allocate_ui(vec2(tokens_width, HEIGHT), |ui| self.tokens(ui, cx, &run, result.fresh));
            ui.label(RichText::new("→").size(16.0).color(cx.palette.accent));
            next(ui, cx, &run, result.fresh);
        });
    }

    fn measure(&mut self, ui: &egui::Ui, run: &Run, stamp: u64) {
        if self.stamp == stamp && self.texts.len() == run.texts.len() {
            return;
        }
        self.stamp = stamp;
        self.texts = run.texts.iter().map(|t| token_text::short(t, 18)).collect();
        let mut x = 0.0;
        self.edges = vec![0.0];
        for text in &self.texts {
            let width = ui.painter().layout_no_wrap(text.clone(), theme::mono(), egui::Color32::PLACEHOLDER).size().x;
            x += (width + 12.0).max(20.0) + 3.0;
            self.edges.push(x);
        }
    }

    fn tokens(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, run: &Run, fresh: bool) {
        let p = cx.pinned();
        let scroll = egui::ScrollArea::horizontal().id_salt("tokens").auto_shrink([false, true]);
        scroll.show_viewport(ui, |ui, viewport| {
            let total = self.edges.last().copied().unwrap_or(0.0);
            let (area, _) = ui.allocate_exact_size(vec2(total, 38.0), Sense::hover());
            // A newly pinned token comes into view.
            if self.shown != Some((self.stamp, p.pos)) && p.pos < self.texts.len() {
                self.shown = Some((self.stamp, p.pos));
                let x = area.min.x + self.edges[p.pos]..=area.min.x + self.edges[p.pos + 1];
                ui.scroll_to_rect(Rect::from_x_y_ranges(x, area.y_range()), None);
            }
            let first = self.edges.partition_point(|x| *x < viewport.min.x).saturating_sub(1);
            for i in first..self.texts.len() {
                if self.edges[i] > viewport.max.x {
                    break;
                }
                let chip = Rect::from_min_max(
                    pos2(area.min.x + self.edges[i], area.min.y + 1.0),
                    pos2(area.min.x + self.edges[i + 1] - 3.0, area.min.y + 23.0),
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
                let color =
                    loss.map_or(cx.palette.raised, |l| surprise(l).gamma_multiply(if fresh { 1.0 } else { 0.5 }));
                let ink = if loss.is_some() && fresh { ink_on(color) } else { cx.palette.text };
                let painter = ui.painter();
                painter.rect_filled(chip, 4.0, color);
                painter.text(chip.center(), Align2::CENTER_CENTER, &self.texts[i], theme::mono(), ink);
                let is_pinned = p.pos == i;
                let is_hovered =
                    cx.state.selection.hovered.pos == Some(i) || response.hovered() || response.has_focus();
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
                response.on_hover_ui(|ui| {
                    ui.label(
                        RichText::new(format!("{} ({i})", token_text::visible(&run.texts[i]))).font(theme::title()),
                    );
                    ui.label(format!("id {}", run.trace.ids[i]));
                    match loss {
                        Some(l) => ui.label(format!("surprise {l:.2} nats: probability {:.3} %", (-l).exp() * 100.0)),
                        None => ui.label("the first token; nothing predicts it"),
                    };
                });
            }
        });
    }
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
        let bar =
            Rect::from_min_size(pos2(chip.min.x, chip.max.y + 2.0), vec2(chip.width() * t.prob.clamp(0.0, 1.0), 3.0));
        painter.rect_filled(bar, 1.5, cx.palette.accent.gamma_multiply(if fresh { 1.0 } else { 0.5 }));
        let ink = if k == 0 { cx.palette.text } else { cx.palette.weak };
        let left = painter.with_clip_rect(chip.with_max_x(chip.max.x - 40.0));
        left.text(
            pos2(chip.min.x + 6.0, chip.center().y),
            Align2::LEFT_CENTER,
            token_text::short(&text, 10),
            theme::mono(),
            ink,
        );
        let percent =
            if t.prob >= 0.0995 { format!("{:.0} %", t.prob * 100.0) } else { format!("{:.1} %", t.prob * 100.0) };
        painter.text(
            pos2(chip.max.x - 6.0, chip.center().y),
            Align2::RIGHT_CENTER,
            percent,
            theme::mono_small(),
            cx.palette.weak,
        );
        if response.clicked()
            && let Some(model) = &cx.state.model
        {
            cx.actions.push(Action::SetAnswer(model.token_text(t.id)));
        }
        response.on_hover_text(format!(
            "{text}: probability {:.4} %, logit {:.3}. Click to explain it.",
            t.prob * 100.0,
            t.logit
        ));
    }
}
