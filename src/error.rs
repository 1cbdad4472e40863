//! Every failure the library can report. Each message is one sentence: what, where, what to do.

use std::io::Write as _;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    /// What is in a file does not fit together.
    Malformed {
        path: PathBuf,
        format: &'static str,
        what: String,
    },
    /// Bytes of a file are missing or were changed on the way.
    Damaged {
        path: PathBuf,
        format: &'static str,
        what: String,
    },
    /// A good file that cannot be used here; `what` says what to do instead.
    Unopenable {
        path: PathBuf,
        what: String,
    },
    MissingTensor {
        path: PathBuf,
        name: String,
        family: String,
    },
    WrongShape {
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    NotFinite {
        /// The file or folder that holds it, where it is from one.
        path: Option<PathBuf>,
        name: String,
    },
    UnknownFamily {
        path: PathBuf,
        family: String,
        known: String,
    },
    UnsupportedOption {
        family: String,
        option: String,
        value: String,
    },
    BadOption {
        family: String,
        option: String,
        what: String,
    },
    NoModel {
        spec: String,
        what: String,
        builtins: String,
    },
    Tokenizer {
        path: PathBuf,
        what: String,
    },
    NoTokenizer,
    EmptyPrompt,
    PromptTooLong {
        tokens: usize,
        limit: usize,
    },
    TokenOutOfRange {
        id: u32,
        d_vocab: usize,
    },
    NotOneToken {
        text: String,
        pieces: String,
    },
    BadRequest {
        what: String,
    },
    Cancelled,
    Failed {
        what: String,
    },
    Engine(candle_core::Error),
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Engine(error)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&one_line(&self.sentence()))
    }
}

/// The most characters of a name, and of a whole message.
const LONGEST_NAME: usize = 80;
/// With the words before it, such as "circuitscope: warning: ", a message has at most 300.
const LONGEST: usize = 270;

/// Writes a text so that it stays on its line and misleads no terminal and no reader: characters that move the cursor, end
/// the line or turn the direction of reading are escaped.
fn visible(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A text of a file or a user as a message shows it: at most 80 characters, none of them a control character.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => visible(&text[..end]) + "…",
        None => visible(text),
    }
}

/// The end of a path, which tells more than its beginning; any other word as it is.
fn end_of_path(word: &str) -> String {
    /// Characters that are kept.
    const END: usize = 50;
    let from = word.char_indices().rev().nth(END - 1).map(|(from, _)| from);
    match from.filter(|from| *from > 0 && word.contains(std::path::MAIN_SEPARATOR)) {
        Some(from) => format!("…{}", &word[from..]),
        None => word.to_owned(),
    }
}

/// A sentence as it is shown, whatever is told in it of files and requests: one line, names in backticks cut to 80
/// characters. Of one that is still too long paths lose their beginning, then the middle is left out, since its end says
/// what to do.
pub fn one_line(sentence: &str) -> String {
    let mut parts: Vec<String> = sentence.split('`').map(visible).collect();
    // A name that itself holds a backtick leaves no way to tell names from words.
    if parts.len() % 2 == 1 {
        parts.iter_mut().skip(1).step_by(2).for_each(|name| *name = short(name));
    }
    let mut whole = parts.join("`");
    if whole.chars().count() > LONGEST {
        whole = whole.split(' ').map(end_of_path).collect::<Vec<_>>().join(" ");
    }
    let letters: Vec<char> = whole.chars().collect();
    if letters.len() <= LONGEST {
        return whole;
    }
    let (head, tail) = (&letters[..LONGEST * 2 / 3], &letters[letters.len() - LONGEST / 3..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

/// Says a line on stderr, beside the output. A stderr that is closed or full has no reader, so that the line may be lost.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Error {
    /// The message, with the words of files and requests as they are.
    fn sentence(&self) -> String {
        match self {
            Self::Read { path, source } => {
                format!("cannot read {}: {source}; check that the path exists and that you may read it", path.display())
            }
            Self::Write { path, source } => {
                format!("cannot write {}: {source}; check that the folder exists and has room", path.display())
            }
            Self::Malformed { path, format, what } => {
                format!("{} is not a usable {format} file: {what}; correct it, or use another one", path.display())
            }
            Self::Damaged { path, format, what } => {
                format!("{} is not a whole {format} file: {what}; get it again from its source", path.display())
            }
            Self::Unopenable { path, what } => format!("{} cannot be opened: {what}", path.display()),
            Self::MissingTensor { path, name, family } => format!(
                "{} holds no tensor `{name}`, which the {family} family needs; a file may be missing, or the config \
                 names the wrong family",
                path.display()
            ),
            Self::WrongShape { name, found, expected } => format!(
                "tensor `{name}` has shape {found:?} where the config asks for {expected:?}; config and weights do not \
                 belong together"
            ),
            Self::NotFinite { path, name } => {
                let place = path.as_ref().map_or_else(String::new, |p| format!(" in {}", p.display()));
                format!(
                    "tensor `{name}`{place} holds NaN or infinite values; nothing can be computed with them, so use another \
                     copy"
                )
            }
            Self::UnknownFamily { path, family, known } => format!(
                "{} says its family is `{family}`, which is not implemented; implemented are {known}",
                path.display()
            ),
            Self::UnsupportedOption { family, option, value } => format!(
                "config option `{option}` = `{value}` is not implemented for the {family} family; use a model without it"
            ),
            Self::BadOption { family, option, what } => {
                format!("config option `{option}` {what} (family {family}); correct the model's configuration")
            }
            Self::NoModel { spec, what, builtins } => format!(
                "no model at `{spec}`: {what}; give a .gguf file, a folder with config.json and *.safetensors, or a \
                 built-in model ({builtins})"
            ),
            Self::Tokenizer { path, what } => format!(
                "the tokenizer of {} cannot be used: {what}; run on token ids instead (--ids 1,2,3)",
                path.display()
            ),
            Self::NoTokenizer => {
                "this model has no tokenizer, so it cannot read text; give token ids instead (--ids 1,2,3)".to_owned()
            }
            Self::EmptyPrompt => "the prompt is empty; give at least one token".to_owned(),
            Self::PromptTooLong { tokens, limit } => {
                format!("the prompt has {tokens} tokens, but this model reads at most {limit}; shorten it")
            }
            Self::TokenOutOfRange { id, d_vocab } => format!(
                "token id {id} is outside the vocabulary of {d_vocab}; use ids from 0 to {}",
                d_vocab.saturating_sub(1)
            ),
            Self::NotOneToken { text, pieces } => format!(
                "`{text}` is not one token, it splits into {pieces}; give a text that is a single token (mind the leading \
                 space)"
            ),
            Self::BadRequest { what } | Self::Failed { what } => what.clone(),
            Self::Cancelled => "cancelled".to_owned(),
            Self::Engine(error) => {
                format!("computation failed: {error}; please report this with the model and prompt")
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_whatever_a_file_says() {
        let error = Error::MissingTensor {
            path: "a\nb".into(),
            name: format!("x\u{1b}[31m\u{202e}{}", "y".repeat(65_000)),
            family: "llama".to_owned(),
        };
        let shown = error.to_string();
        assert!(shown.starts_with(r"a\nb holds no tensor `x\u{1b}[31m\u{202e}yyy"), "{shown}");
        assert!(shown.contains("yyy…`, which the llama family needs"), "{shown}");
        assert!(shown.chars().count() <= 300 && !shown.chars().any(char::is_control));
        // Without names to cut, the middle goes and the advice stays.
        let shape = Error::WrongShape { name: "w".to_owned(), found: vec![1; 100_000], expected: vec![2, 3] };
        let shown = shape.to_string();
        assert!(shown.chars().count() <= 300 && shown.ends_with("do not belong together"), "{shown}");
        let deep =
            Error::read(Path::new(&format!("/{}/model.gguf", "deep/".repeat(90))), std::io::ErrorKind::NotFound.into());
        let shown = deep.to_string();
        assert!(shown.contains("deep//model.gguf: ") && shown.contains("check that the path exists"), "{shown}");
        // A backtick in a name.
        assert_eq!(one_line("a `b`c` d"), "a `b`c` d");
        assert_eq!(one_line(&one_line("`a\nb`")), r"`a\nb`");
    }
}
