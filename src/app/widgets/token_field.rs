//! A field for one token: it shows spaces, and offers the tokens that what is typed may be meant to be.

use eframe::egui::{self, Key, Modifiers, RichText};

use crate::analysis::completion::{Completion, CompletionsOf};
use crate::app::look::theme;
use crate::app::view::Context;
use crate::app::widgets::colorbar::share;
use crate::app::widgets::token_text;
use crate::jobs::slot::Slot;

/// Points that a field is wide.
const WIDTH: f32 = 84.0;

/// What a field offers.
#[derive(Default)]
pub struct TokenField {
    offered: Slot<CompletionsOf>,
    /// The offer that the arrow keys have chosen.
    at: Option<usize>,
}

impl TokenField {
    /// Draws the field; true if its text has changed. `notes` say why a text is not used.
    pub fn ui(
        &mut self,
        ui: &mut egui::Ui,
        cx: &Context<'_>,
        text: &mut String,
        (hint, name, id): (&str, &str, &str),
        notes: &[String],
    ) -> bool {
        let id = egui::Id::unique(id);
        let before = text.clone();
        let focused = ui.memory(|m| m.has_focus(id));
        let offers = if focused { self.offers(cx, text) } else { Vec::new() };
        if focused {
            self.keys(ui, text, &offers);
        }
        // The note names the text between backticks.
        let note = notes.iter().find(|n| !text.is_empty() && n.contains(&format!("`{text}`")));
        let color = if note.is_some() { cx.palette.error } else { cx.palette.text };
        let mut layouter = |ui: &egui::Ui, text: &dyn egui::TextBuffer, _: f32| {
            // One sign for one, so that the cursor stands where it seems to.
            let shown: String = text.as_str().chars().map(|c| if c == ' ' { '·' } else { c }).collect();
            ui.painter().layout_no_wrap(shown, theme::mono(), color)
        };
        let field = egui::TextEdit::singleline(text).id(id).hint_text(hint).font(theme::mono());
        let field = field.margin(egui::Margin::symmetric(6, 4)).layouter(&mut layouter).desired_width(WIDTH);
        let response = ui.add(field).accessible_name(name);
        let said = note.map_or("one token as it is, with its space before; empty for the model's own favourite", |n| n);
        if !focused {
            response.clone().on_hover_text(said);
        }
        let popup = egui::Popup::from_response(&response).open(focused && (!offers.is_empty() || note.is_some()));
        let popup = popup.close_behavior(egui::PopupCloseBehavior::IgnoreClicks).width(240.0);
        popup.show(|ui| {
            for (k, offer) in offers.iter().enumerate() {
                if row(ui, cx, offer, self.at == Some(k)).clicked() {
                    text.clone_from(&offer.text);
                    response.surrender_focus();
                }
            }
            if let Some(note) = note.filter(|_| offers.is_empty()) {
                ui.label(RichText::new(note).font(theme::small()).color(cx.palette.error));
            }
        });
        before != *text
    }

    /// Tokens that may be meant.
    fn offers(&mut self, cx: &Context<'_>, text: &str) -> Vec<Completion> {
        let question = cx.state.clean().map(|r| CompletionsOf { trace: r.trace.clone(), typed: text.to_owned() });
        self.offered.want(&cx.state.pool, question);
        self.offered.poll();
        self.offered.value().map_or_else(Vec::new, |v| v.to_vec())
    }

    /// Walks through the offers and takes one.
    fn keys(&mut self, ui: &egui::Ui, text: &mut String, offers: &[Completion]) {
        let pressed = |key| ui.input_mut(|i| i.consume_key(Modifiers::NONE, key));
        if pressed(Key::ArrowDown) && !offers.is_empty() {
            self.at = Some(self.at.map_or(0, |k| (k + 1).min(offers.len() - 1)));
        }
        if pressed(Key::ArrowUp) {
            self.at = self.at.and_then(|k| k.checked_sub(1));
        }
        let takes = ui.input(|i| i.key_pressed(Key::Enter) || i.key_pressed(Key::Tab));
        if let Some(offer) = self.at.filter(|_| takes).and_then(|k| offers.get(k)) {
            text.clone_from(&offer.text);
        }
        if takes || ui.input(|i| i.events.iter().any(|e| matches!(e, egui::Event::Text(_)))) {
            self.at = None;
        }
    }
}

fn row(ui: &mut egui::Ui, cx: &Context<'_>, offer: &Completion, chosen: bool) -> egui::Response {
    let right = RichText::new(format!("{}   {}", share(offer.prob), offer.id));
    let right = right.font(theme::mono_small()).color(cx.palette.weak);
    let name = RichText::new(token_text::short(&offer.text, 16)).font(theme::mono());
    let button = egui::Button::selectable(chosen, name).right_text(right);
    let response = ui.add_sized([ui.available_width(), 22.0], button);
    response.accessible_name(format!("token {}", token_text::visible(&offer.text)))
}
