//! The conversation in the prompt's place: how it changes, and how what was generated comes into it.

use crate::app::model::ModelAction;
use crate::app::shell::notices::Level;
use crate::app::state::State;
use crate::engine::RunSide;
use crate::model::chat::{Conversation, Ending, Message};

/// What the conversation editor asks for.
#[derive(Clone, Debug)]
pub enum TalkAction {
    /// A conversation in the prompt's place, or the prompt again; the text says what is done.
    Converse(&'static str, Option<Conversation>),
    /// Whether thinking is folded away.
    Fold(bool),
    /// Puts what was generated into the conversation: into its last message where that is open, else as the answer.
    Keep,
}

impl From<TalkAction> for crate::app::action::Action {
    fn from(action: TalkAction) -> Self {
        ModelAction::Talk(action).into()
    }
}

impl State {
    pub(in crate::app) fn apply_talk(&mut self, action: TalkAction, now: f64) {
        match action {
            TalkAction::Converse(name, conversation) => self.type_text(name, now, |d| {
                (d.alignment, d.ids) = (None, None);
                if let Some(c) = &conversation {
                    d.prompt = c.title();
                }
                d.converse(conversation);
            }),
            TalkAction::Fold(folds) => self.change("fold thinking", now, |d| d.folds_thinking = folds),
            TalkAction::Keep => self.keep_answer(now),
        }
    }

    /// The text that was generated of the prompt as it stands, under the edits where there are any, without the token that
    /// ended it.
    pub fn generated_text(&self) -> Option<String> {
        let stack = &self.desk().stack;
        if self.typing.is_pending() || stack.is_active() && stack.base != RunSide::Clean {
            return None;
        }
        let model = self.model.as_ref()?;
        let tokenizer = model.tokenizer.as_ref()?;
        let generated = self.results.generated.fresh()?;
        let list = generated.edited.as_ref().unwrap_or(&generated.base);
        let mut ids: Vec<u32> = list.iter().map(|t| t.id).collect();
        if ids.last().is_some_and(|id| model.stops.contains(id)) {
            ids.pop();
        }
        Some(tokenizer.decode(&ids)).filter(|t| !t.is_empty())
    }

    fn keep_answer(&mut self, now: f64) {
        let (Some(text), Some(mut conversation)) = (self.generated_text(), self.desk().conversation.clone()) else {
            self.notices.push(Level::Info, "Generate an answer first.");
            return;
        };
        match conversation.messages.last_mut().filter(|_| conversation.ending == Ending::Open) {
            Some(open) if !open.content.is_string() => {
                self.notices.push(
                    Level::Info,
                    "The last message is made of parts, so that the answer cannot go on in it; close it first.",
                );
                return;
            }
            Some(open) => open.content = format!("{}{text}", open.text()).into(),
            None => conversation.messages.push(Message::new("assistant", text.trim_start())),
        }
        conversation.ending = Ending::Open;
        self.apply_talk(TalkAction::Converse("keep the answer", Some(conversation)), now);
    }
}
