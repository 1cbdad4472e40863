//! Every failure the library can report. Each message is one sentence: what, where, what to do.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {source}; check that the path exists and that you may read it", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}; check that the folder exists and has room", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// What is in a file does not fit together.
    #[error("{} is not a usable {format} file: {what}; correct it, or use another one", path.display())]
    Malformed { path: PathBuf, format: &'static str, what: String },
    /// Bytes of a file are missing or were changed on the way.
    #[error("{} is not a whole {format} file: {what}; get it again from its source", path.display())]
    Damaged { path: PathBuf, format: &'static str, what: String },
    /// A good file that cannot be used here; `what` says what to do instead.
    #[error("{} cannot be opened: {what}", path.display())]
    Unopenable { path: PathBuf, what: String },
    #[error("{} holds no tensor `{name}`, which the {family} family needs; a file may be missing, or the config names the wrong family", path.display())]
    MissingTensor { path: PathBuf, name: String, family: String },
    #[error(
        "tensor `{name}` has shape {found:?} where the config asks for {expected:?}; config and weights do not belong together"
    )]
    WrongShape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "tensor `{name}` holds NaN or infinite values; such weights compute nothing, so use another copy of the model"
    )]
    NotFinite { name: String },
    #[error("{} says its family is `{family}`, which is not implemented; implemented are {known}", path.display())]
    UnknownFamily { path: PathBuf, family: String, known: String },
    #[error("config option `{option}` = {value} is not implemented for the {family} family; use a model without it")]
    UnsupportedOption { family: String, option: String, value: String },
    #[error("config option `{option}` {what} (family {family}); correct config.json")]
    BadOption { family: String, option: String, what: String },
    #[error(
        "no model at `{spec}`: {what}; give a .gguf file, a folder with config.json and *.safetensors, or a built-in model ({builtins})"
    )]
    NoModel { spec: String, what: String, builtins: String },
    #[error("the tokenizer of {} cannot be used: {what}; run on token ids instead (--ids 1,2,3)", path.display())]
    Tokenizer { path: PathBuf, what: String },
    #[error("this model has no tokenizer, so it cannot read text; give token ids instead (--ids 1,2,3)")]
    NoTokenizer,
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    #[error("the prompt has {tokens} tokens, but this model reads at most {limit}; shorten it")]
    PromptTooLong { tokens: usize, limit: usize },
    #[error("token id {id} is outside the vocabulary of {d_vocab}; use ids from 0 to {}", d_vocab - 1)]
    TokenOutOfRange { id: u32, d_vocab: usize },
    #[error(
        "`{text}` is not one token, it splits into {pieces}; give a text that is a single token (mind the leading space)"
    )]
    NotOneToken { text: String, pieces: String },
    #[error("{what}")]
    BadRequest { what: String },
    #[error("cancelled")]
    Cancelled,
    #[error("{what}")]
    Failed { what: String },
    #[error("computation failed: {0}; please report this with the model and prompt")]
    Engine(#[from] candle_core::Error),
}

/// A text of a file or a user as a message shows it: at most 80 characters, none of them a control character.
pub fn short(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(80) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}

impl Error {
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    pub fn request(what: impl Into<String>) -> Self {
        Self::BadRequest { what: what.into() }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed { what: what.into() }
    }

    /// True where the request itself was wrong (exit status 2), false where the work failed (1).
    pub fn is_request(&self) -> bool {
        matches!(
            self,
            Self::NoModel { .. }
                | Self::NoTokenizer
                | Self::EmptyPrompt
                | Self::PromptTooLong { .. }
                | Self::TokenOutOfRange { .. }
                | Self::NotOneToken { .. }
                | Self::BadRequest { .. }
        )
    }
}
