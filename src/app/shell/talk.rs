//! The conversation editor: messages with their roles in the prompt's place, laid out by the model's own chat template.

use eframe::egui::{self, RichText};

use crate::app::look::theme;
use crate::app::model::ModelAction;
use crate::app::model::talk::TalkAction;
use crate::app::shell::topbar::editor;
use crate::app::view::Context;
use crate::app::widgets::turns::{THINKING, role_color};
use crate::model::chat::{Conversation, Ending, Message};

/// Points that the messages take at most; more of them scroll.
const MOST: f32 = 260.0;
/// Points of a role's button.
const ROLE: f32 = 84.0;
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// A conversation being edited; the document follows it.
#[derive(Default)]
pub struct Talk {
    now: Conversation,
    seen: Option<Conversation>,
}

/// What is done to the messages in one frame.
enum Done {
    Typed,
    Role(usize, &'static str),
    Remove(usize),
    Add(&'static str),
    Ending(Ending),
}

/// The button that begins a conversation with the prompt, and ends it.
pub fn toggle(ui: &mut egui::Ui, cx: &mut Context<'_>) {
    let desk = cx.state.desk();
    let open = desk.conversation.is_some();
    // A prompt that was written since begins a conversation of its own.
    let kept = desk.closed.clone().filter(|c| c.title() == desk.prompt);
    let reads = cx.state.model.as_ref().is_some_and(|m| m.has_chat_template());
    let text = RichText::new("chat").color(if open { cx.palette.accent } else { cx.palette.text });
    let response = ui.add_enabled(open || reads, egui::Button::new(text));
    let said = match (open, kept.is_some()) {
        (true, _) => "back to a plain prompt of the last words; the conversation is kept",
        (false, true) => "back to the conversation that was closed",
        (false, false) => "hold a conversation, laid out by the model's own template",
    };
    let response = response.on_hover_text(said).on_disabled_hover_text("this model has no chat template");
    if response.clicked() {
        let begun =
            || Conversation { messages: vec![Message::new("user", &cx.state.desk().prompt)], ending: Ending::Answer };
        let (name, next) = match (open, kept) {
            (true, _) => ("close the conversation", None),
            (false, Some(kept)) => ("open the conversation again", Some(kept)),
            (false, None) => ("begin a conversation", Some(begun())),
        };
        cx.push(TalkAction::Converse(name, next));
    }
}

impl Talk {
    /// Draws the conversation of the document, where there is one.
    pub fn ui(&mut self, ui: &mut egui::Ui, cx: &mut Context<'_>, conversation: &Conversation) {
        if self.seen.as_ref() != Some(conversation) {
            (self.now, self.seen) = (conversation.clone(), Some(conversation.clone()));
        }
        let mut done = None;
        ui.vertical(|ui| {
            let scroll =
                egui::ScrollArea::vertical().id_salt("conversation").max_height(MOST).auto_shrink([false, true]);
            scroll.show(ui, |ui| {
                for i in 0..self.now.messages.len() {
                    self.message(ui, cx, i, &mut done);
                }
                answer(ui, cx);
            });
            self.below(ui, cx, &mut done);
        });
        if let Some(done) = done {
            self.apply(cx, done);
        }
    }

    /// One message: its role, its words, and a button that takes it away.
    fn message(&mut self, ui: &mut egui::Ui, cx: &Context<'_>, i: usize, done: &mut Option<Done>) {
        let folds = cx.state.desk().folds_thinking;
        let Some(message) = self.now.messages.get_mut(i) else { return };
        ui.with_layout(egui::Layout::right_to_left(egui::Align::TOP), |ui| {
            let remove = ui.small_button("×").on_hover_text("takes this message away");
            remove.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("remove message {i}")));
            if remove.clicked() {
                *done = Some(Done::Remove(i));
            }
            ui.with_layout(egui::Layout::left_to_right(egui::Align::TOP), |ui| {
                let color = role_color(&cx.palette, &message.role);
                let button = egui::Button::new(RichText::new(&message.role).font(theme::small()).color(color));
                let role = ui.add_sized([ROLE, 22.0], button).on_hover_text("who says this");
                role.widget_info(|| {
                    egui::WidgetInfo::labeled(egui::Role::Button, true, format!("role of message {i}"))
                });
                egui::Popup::menu(&role).show(|ui| {
                    for name in ROLES {
                        if ui.selectable_label(message.role == name, name).clicked() {
                            *done = Some(Done::Role(i, name));
                            ui.close();
                        }
                    }
                });
                let serde_json::Value::String(words) = &mut message.content else {
                    ui.label(RichText::new("parts that are edited in the session's file").color(cx.palette.weak));
                    return;
                };
                let (thought, mut rest) = split_thinking(words);
                let (thought, folded) = (thought.to_owned(), folds && !thought.is_empty());
                if folded {
                    let n = thought.split_whitespace().count();
                    let text = RichText::new(format!("thinking, {n} words …")).font(theme::small());
                    // As high as the field beside it.
                    let line = egui::Layout::left_to_right(egui::Align::Center);
                    ui.allocate_ui_with_layout(egui::vec2(0.0, 24.0), line, |ui| ui.label(text.color(cx.palette.weak)));
                } else {
                    rest = words;
                }
                let mut text = rest.to_owned();
                let response = editor(ui, &mut text, &format!("turn {i}"), &format!("Message {i}"), "what is said");
                if response.changed() {
                    *words = if folded { thought + &text } else { text };
                    *done = Some(Done::Typed);
                }
            });
        });
    }

    /// What can be added, how the conversation ends, and the answer.
    fn below(&self, ui: &mut egui::Ui, cx: &mut Context<'_>, done: &mut Option<Done>) {
        ui.horizontal_wrapped(|ui| {
            for role in ["user", "assistant", "system"] {
                if ui.small_button(format!("+ {role}")).on_hover_text("adds a message").clicked() {
                    *done = Some(Done::Add(role));
                }
            }
            ui.separator();
            for (ending, text, said) in [
                (Ending::Answer, "answer follows", "ends with what the template puts before the assistant's answer"),
                (Ending::Open, "goes on", "the last message is open: what is predicted goes on with it"),
                (Ending::Closed, "closed", "ends with the last message"),
            ] {
                let text = RichText::new(text).font(theme::small());
                let button = egui::Button::selectable(self.now.ending == ending, text);
                if ui.add(button).on_hover_text(said).clicked() {
                    *done = Some(Done::Ending(ending));
                }
            }
            ui.separator();
            if ui.small_button("Write on").on_hover_text("lets the model write on (Ctrl+G)").clicked() {
                cx.push(ModelAction::Generate);
            }
            if cx.state.generated_text().is_some()
                && ui.small_button("Keep").on_hover_text("puts what was written into the conversation").clicked()
            {
                cx.push(TalkAction::Keep);
            }
            if self.now.messages.iter().any(|m| !split_thinking(m.text()).0.is_empty()) {
                let mut folds = cx.state.desk().folds_thinking;
                if ui.checkbox(&mut folds, RichText::new("fold thinking").font(theme::small())).changed() {
                    cx.push(TalkAction::Fold(folds));
                }
            }
        });
    }

    fn apply(&mut self, cx: &mut Context<'_>, done: Done) {
        let c = &mut self.now;
        let name = match done {
            Done::Typed => "type a message",
            Done::Role(i, role) => {
                if let Some(message) = c.messages.get_mut(i) {
                    role.clone_into(&mut message.role);
                }
                "change a role"
            }
            Done::Remove(i) => {
                c.messages.remove(i);
                "remove a message"
            }
            Done::Add(role) => {
                c.messages.push(Message::new(role, ""));
                // One's own words for the assistant are gone on with.
                c.ending = if role == "assistant" { Ending::Open } else { Ending::Answer };
                "add a message"
            }
            Done::Ending(ending) => {
                c.ending = ending;
                "end the conversation otherwise"
            }
        };
        // Without messages there is no conversation.
        let next = Some(c.clone()).filter(|c| !c.messages.is_empty());
        self.seen.clone_from(&next);
        cx.push(TalkAction::Converse(name, next));
    }
}

/// What the model has written, before it is kept.
fn answer(ui: &mut egui::Ui, cx: &Context<'_>) {
    let Some(text) = cx.state.generated_text() else { return };
    ui.horizontal_top(|ui| {
        let who = RichText::new("written").font(theme::small()).color(cx.palette.weak);
        ui.add_sized([ROLE, 22.0], egui::Label::new(who));
        let label = egui::Label::new(RichText::new(text.trim_end()).font(theme::mono()).color(cx.palette.weak)).wrap();
        let name = format!("written: {}", text.trim());
        let response = ui.add(label);
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &name));
    });
}

/// A message's thinking with the signs around it and the empty lines behind them, and what is said.
pub fn split_thinking(text: &str) -> (&str, &str) {
    let begins = text.trim_start().starts_with(THINKING.0);
    match text.find(THINKING.1).filter(|_| begins) {
        Some(at) => {
            let end = at + THINKING.1.len();
            let end = text.len() - text[end..].trim_start_matches('\n').len();
            text.split_at(end)
        }
        None => ("", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_is_told_from_what_is_said() {
        assert_eq!(split_thinking("<think>\nhm\n</think>\n\nYes"), ("<think>\nhm\n</think>\n\n", "Yes"));
        for plain in ["Yes", "a <think>b</think>", "<think> open", ""] {
            assert_eq!(split_thinking(plain), ("", plain));
        }
    }
}
