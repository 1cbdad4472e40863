//! How a window starts: what the command line says of it, and the document that follows.

use std::path::PathBuf;

use super::file::{Session, is_session};
use super::{Desk, Document, desk::Show};
use crate::engine::EditStack;
use crate::error::Result;
use crate::model::builtin::{self, BUILTINS};
use crate::model::chat::{self, Conversation, Ending};
use crate::model::matrix::Held;

/// A prompt that most English models have an opinion on: indirect object identification.
pub const PROMPT: &str = "When Mary and John went to the store, John gave a drink to";

/// The options that give a conversation in the prompt's place.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ChatArgs {
    /// A conversation in the prompt's place, laid out by the model's own chat template: a file of JSON
    /// [{"role", "content"}, …], or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "ids"])]
    pub chat: Option<PathBuf>,
    /// End with the last message, without what the template puts before the assistant's answer
    #[arg(long, requires = "chat", conflicts_with_all = ["prompt", "ids"])]
    pub no_generation_prompt: bool,
    /// Leave the last message open, so that it goes on
    #[arg(long, requires = "chat", conflicts_with_all = ["prompt", "ids", "no_generation_prompt"])]
    pub open_turn: bool,
}

impl ChatArgs {
    /// Reads the conversation, where one is given.
    ///
    /// # Errors
    /// The file cannot be read or holds no conversation.
    pub fn read(&self) -> Result<Option<Conversation>> {
        let Some(file) = &self.chat else { return Ok(None) };
        let ending = match (self.no_generation_prompt, self.open_turn) {
            (true, _) => Ending::Closed,
            (_, true) => Ending::Open,
            _ => Ending::Answer,
        };
        Ok(Some(Conversation { messages: chat::read(file)?, ending }))
    }
}

/// What the window opens on.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Start {
    /// A session file to open, or what can be dropped on the window: a model, a graph, a circuit, a dictionary
    #[arg(value_name = "FILE", value_parser = openable, conflicts_with_all = ["model", "weights", "prompt", "ids", "chat", "no_generation_prompt", "open_turn", "answer", "wrong", "corrupt", "edits"])]
    pub file: Option<PathBuf>,
    /// Model to open: a .gguf file, a Hugging Face folder, or a built-in name
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How weights are held in memory (default: auto)
    #[arg(long, value_enum, value_name = "HOW")]
    pub weights: Option<Held>,
    /// Prompt to begin with
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Prompt to begin with, as token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', conflicts_with = "prompt")]
    pub ids: Option<Vec<u32>>,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Answer token to explain (taken as given, with its leading space)
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub answer: Option<String>,
    /// Token to compare the answer with
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub wrong: Option<String>,
    /// The corrupted prompt to compare with
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub corrupt: Option<String>,
    /// A stack of edits as JSON, as the window saves it
    #[arg(long, value_name = "FILE")]
    pub edits: Option<PathBuf>,
    /// Say how long the first frame and the first result took, then close
    #[arg(long, hide = true)]
    pub time: bool,
}

/// Reads the name of a file. A session that is not there says so when it is opened.
fn openable(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let wrong = "it is neither a subcommand nor a session file or another that is there";
    if is_session(&path) || path.exists() { Ok(path) } else { Err(wrong.to_owned()) }
}

impl Start {
    /// Whether the command line says what the window is to open on.
    pub fn is_given(&self) -> bool {
        let Self { file, model, weights, prompt, ids, chat, answer, wrong, corrupt, edits, time } = self;
        let texts = [model, prompt, answer, wrong, corrupt];
        let files = [file, edits, &chat.chat];
        *time
            || ids.is_some()
            || weights.is_some()
            || files.into_iter().any(Option::is_some)
            || texts.into_iter().any(Option::is_some)
    }

    /// Returns the document that the window opens on. A file that is no session is taken for a model.
    ///
    /// # Errors
    /// A session or a stack of edits that cannot be read, or no built-in model to begin with.
    pub fn document(&self) -> Result<Document> {
        if let Some(path) = self.file.as_deref().filter(|p| is_session(p)) {
            return Ok(Session::open(path)?.document);
        }
        let named = self.model.clone().or_else(|| self.file.as_ref().map(|p| p.display().to_string()));
        let model = named.map_or_else(builtin::default_name, Ok)?;
        let own = BUILTINS.iter().find(|b| b.name == model).map(|b| b.prompt);
        let conversation = self.chat.read()?;
        let ioi = self.prompt.is_none() && self.ids.is_none() && conversation.is_none() && own.is_none();
        let stack = self.edits.as_deref().map(EditStack::open).transpose()?.unwrap_or_default();
        Ok(Document::from(Desk {
            show: if stack.is_active() { Show::Edited } else { Show::Clean },
            corrupted: self.corrupt.clone().unwrap_or_default(),
            stack: stack.into(),
            // The ids are named where the prompt would stand.
            prompt: match (&self.ids, &conversation) {
                (Some(ids), _) => format!("{} token ids", ids.len()),
                (None, Some(talk)) => talk.title(),
                (None, None) => self.prompt.clone().unwrap_or_else(|| own.unwrap_or(PROMPT).to_owned()),
            },
            ids: self.ids.clone(),
            conversation,
            answer: self.answer.clone().unwrap_or_else(|| if ioi { " Mary" } else { "" }.to_owned()),
            wrong: self.wrong.clone().unwrap_or_else(|| if ioi { " John" } else { "" }.to_owned()),
            model,
            weights: self.weights.unwrap_or_default(),
            ..Desk::default()
        }))
    }
}
