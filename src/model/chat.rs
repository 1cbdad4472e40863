//! Conversations: messages laid out as one text by the model's own chat template, and which message each token is of.
//!
//! A template is Jinja. It is given what transformers gives one (`apply_chat_template`), and what Python's values look
//! like is kept: `True`, `None`, the spaces of `json.dumps`, the methods of strings.

use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{Environment, ErrorKind, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Model;
use super::gguf::{self, Gguf};
use super::tokenizer_folder;
use crate::error::{Error, Result};
use crate::files::{self, SMALL, read_text};
use crate::guard::Gate;
use crate::typed::typed;

/// What a message says of itself beside its words, such as `tool_calls`, goes to the template as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    /// A text; or, as some templates take it, a list of parts `{"type": "text", "text": …}`.
    #[serde(default)]
    pub content: Value,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Message {
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: json!(content), rest: Map::new() }
    }

    /// Its words, where they are a text.
    pub fn text(&self) -> &str {
        self.content.as_str().unwrap_or_default()
    }

    /// The texts in it, in the order in which a template lays them out.
    fn texts_mut(&mut self) -> Vec<&mut String> {
        match &mut self.content {
            Value::String(text) => vec![text],
            Value::Array(parts) => parts
                .iter_mut()
                .filter_map(|part| match part.get_mut("text") {
                    Some(Value::String(text)) => Some(text),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// How a conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With what the template puts before the assistant's answer.
    #[default]
    Answer,
    /// With the last message.
    Closed,
    /// Inside the last message, which goes on: what the template puts after its words is left out.
    Open,
}

/// A conversation as it is asked of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    pub messages: Vec<Message>,
    #[serde(default)]
    pub ending: Ending,
}

impl Conversation {
    /// The words that were said last: by what a conversation is called in a list.
    pub fn title(&self) -> String {
        let said = self.messages.iter().rev().map(Message::text).find(|t| !t.trim().is_empty());
        said.map_or_else(|| "conversation".to_owned(), |t| t.trim().to_owned())
    }
}

/// Reads a conversation from a file, or from standard input where that is `-`.
///
/// # Errors
/// It cannot be read, or as [`parse`].
pub fn read(file: &Path) -> Result<Vec<Message>> {
    if file == Path::new("-") {
        let text = files::text(std::io::stdin().lock(), Path::new("standard input"), SMALL)?;
        return parse(&text, "standard input");
    }
    parse(&read_text(file, SMALL)?, &file.display().to_string())
}

/// Reads a conversation: `[{"role", "content"}, …]`, alone or as the `messages` of an object.
///
/// # Errors
/// It is no JSON, no list of messages, or empty. `from` says where it was read, for the sentence.
pub fn parse(text: &str, from: &str) -> Result<Vec<Message>> {
    let wrong = |what: String| {
        Error::request(format!("{from} is not a conversation: {what}; give [{{\"role\": …, \"content\": …}}, …]"))
    };
    let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| wrong(e.to_string()))?;
    let list = match value {
        Value::Object(mut fields) => fields.remove("messages").unwrap_or(Value::Null),
        list => list,
    };
    let Value::Array(list) = list else { return Err(wrong("it holds no list of messages".to_owned())) };
    if list.is_empty() {
        return Err(wrong("it holds no message".to_owned()));
    }
    list.into_iter()
        .enumerate()
        .map(|(i, message)| match &message["content"] {
            Value::Null | Value::String(_) | Value::Array(_) => {
                serde_json::from_value(message).map_err(|e| wrong(format!("message {i} is none ({e})")))
            }
            _ => Err(wrong(format!("the content of message {i} is neither a text nor a list of parts"))),
        })
        .collect()
}

/// A conversation as a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Laid {
    pub text: String,
    pub ids: Vec<u32>,
    /// turns[token]: the index of the message whose words the token is of; `None` for what the template wrote. A token of
    /// both is the message's.
    pub turns: Vec<Option<usize>>,
}

/// Lays a conversation out by the model's own template and splits it into tokens. Special tokens in the text are read
/// as such. No token is put before what the template writes, as in transformers, unless `bos` asks for the
/// beginning-of-sequence token; there are never two.
///
/// # Errors
/// The model has no tokenizer or no chat template, or the template refuses the conversation.
pub fn lay_out(model: &Model, messages: &[Message], ending: Ending, bos: bool) -> Result<Laid> {
    let tokenizer = model.tokenizer.as_ref().ok_or(Error::NoTokenizer)?;
    let (text, spans) = model.chat_template()?.lay_out(messages, ending)?;
    let first = tokenizer.bos_token();
    let (mut ids, mut turns) = (Vec::new(), Vec::new());
    if bos {
        ids.extend(tokenizer.start(true)?);
        turns.push(None);
    }
    for (id, range) in tokenizer.pieces_at(&text)? {
        // Some templates write the token that is there already.
        if ids.len() == 1 && Some(id) == first && ids.first() == Some(&id) {
            continue;
        }
        ids.push(id);
        let inside = |span: &Range<usize>| range.start < span.end && span.start < range.end;
        turns.push(spans.iter().find(|(_, span)| inside(span)).map(|(turn, _)| *turn));
    }
    if ids.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    Ok(Laid { text, ids, turns })
}

/// The file of a folder that most templates stand in.
const CONFIG: &str = "tokenizer_config.json";

/// The steps that a template may take, an instruction or 64 bytes each: enough for any conversation that fits a model, and
/// a bound on templates that would never end.
const FUEL: u64 = 1_000_000;
/// A step can put a value into another one, and the engine goes into values by calling itself: to throw them away if for
/// nothing else. So there are this many bytes of stack for each step. What is not touched costs nothing.
const STACK: usize = 1024 * FUEL as usize;
/// As deep as values lie in one another where they are written out: conversations and tools are far flatter.
const DEEPEST: usize = 100;
/// Bytes of the longest text that is made of a conversation.
const LONGEST: usize = 1 << 26;

/// Where in a text the words of messages lie: (message, bytes), in the text's order.
pub type Spans = Vec<(usize, Range<usize>)>;

/// A model's chat template and the special tokens that it may name.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The file that it is from, for error messages.
    path: PathBuf,
    source: String,
    special: Map<String, Value>,
    gate: Gate,
}

impl Template {
    /// Reads the template of a model that lies at `path`: a GGUF file or a folder. `None` where it has none.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no template.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        if path.is_dir() { Self::of_folder(path) } else { Self::of_gguf(path) }
    }

    fn of_gguf(path: &Path) -> Result<Option<Self>> {
        let file = Gguf::open(path)?;
        let Some(source) = file.get::<&str>("tokenizer.chat_template")? else { return Ok(None) };
        let tokens: &[gguf::Value] = file.get("tokenizer.ggml.tokens")?.unwrap_or(&[]);
        let names = [("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"), ("seperator", "sep")];
        let mut special = Map::new();
        for (key, name) in names {
            let id: Option<i64> = file.get(&format!("tokenizer.ggml.{key}_token_id"))?;
            let token = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)?.as_text());
            special.extend(token.map(|token| (format!("{name}_token"), json!(token))));
        }
        Ok(Some(Self { path: path.to_owned(), source: source.to_owned(), special, gate: Gate::default() }))
    }

    fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let read = |name: &str| -> Result<Option<String>> {
            let path = folder.join(name);
            if path.exists() { read_text(&path, SMALL).map(Some) } else { Ok(None) }
        };
        let fields = |name: &str| -> Result<Map<String, Value>> {
            let Some(text) = read(name)? else { return Ok(Map::new()) };
            serde_json::from_str(&text).map_err(|e| Error::Malformed {
                path: folder.join(name),
                format: "tokenizer config",
                what: e.to_string(),
            })
        };
        let mut config = fields(CONFIG)?;
        let (path, source) = if let Some(source) = read("chat_template.jinja")? {
            (folder.join("chat_template.jinja"), source)
        } else if let Some(found) = config.remove("chat_template").filter(|t| !t.is_null()) {
            let path = folder.join(CONFIG);
            (path.clone(), one_of(found, &path)?)
        } else if let Some(found) = fields("chat_template.json")?.remove("chat_template").filter(|t| !t.is_null()) {
            let path = folder.join("chat_template.json");
            (path.clone(), one_of(found, &path)?)
        } else {
            return Ok(None);
        };
        let mut special = Map::new();
        for (name, of) in [("special_tokens_map.json", &fields("special_tokens_map.json")?), (CONFIG, &config)] {
            special.extend(special_tokens(of).map_err(|what| Error::Malformed {
                path: folder.join(name),
                format: "tokenizer config",
                what: format!("its {what}"),
            })?);
        }
        Ok(Some(Self { path, source, special, gate: Gate::default() }))
    }

    fn refuse(&self, e: &minijinja::Error) -> Error {
        let what = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
        // What a template says may have lines of its own.
        let what = what.split(|c: char| c.is_whitespace() || c.is_control()).collect::<Vec<_>>().join(" ");
        let line = e.line().map(|l| format!(" (line {l})")).unwrap_or_default();
        Error::request(format!(
            "the chat template of {} cannot lay this conversation out: {what}{line}; change the messages' roles or order, \
             or give the laid out text with --prompt",
            self.path.display()
        ))
    }

    /// Returns the text of a conversation.
    ///
    /// # Errors
    /// The template is malformed, or refuses the conversation.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String> {
        let (template, owned) = (self.clone(), messages.to_owned());
        let rendered = self.gate.guarded(Some(STACK), self.source.len(), move || template.rendered(&owned, answer));
        rendered.unwrap_or_else(|fault| {
            Err(Error::failed(format!("the chat template of {} cannot be used: {fault}", self.path.display())))
        })
    }

    fn rendered(&self, messages: &[Message], answer: bool) -> Result<String> {
        let mut env = Environment::new();
        prepare(&mut env).map_err(|e| self.refuse(&e))?;
        // The tags that say which words are learnt from wrap, and write nothing.
        let source = without_generation(&self.source);
        let template = env.template_from_named_str("chat template", &source).map_err(|e| self.refuse(&e))?;
        let mut context = self.special.clone();
        context.insert("messages".to_owned(), json!(messages));
        context.insert("add_generation_prompt".to_owned(), json!(answer));
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        let text = template.render(Jinja::from(Serde(context))).map_err(|e| self.refuse(&e))?;
        if text.len() > LONGEST {
            return Err(Error::request(format!(
                "the chat template of {} makes {} bytes of this conversation, more than any model reads; shorten it",
                self.path.display(),
                text.len()
            )));
        }
        Ok(text)
    }

    /// Returns the text of a conversation, and where in it (bytes) the words of its messages lie: (message, range), in
    /// the text's order.
    ///
    /// # Errors
    /// As [`Self::render`]; and a last message that is to go on but that the template does not write.
    pub fn lay_out(&self, messages: &[Message], ending: Ending) -> Result<(String, Spans)> {
        let answer = ending == Ending::Answer;
        let mut text = self.render(messages, answer)?;
        let mut spans: Spans = Vec::new();
        for turn in 0..messages.len() {
            let from = spans.last().map_or(0, |(_, span)| span.end);
            spans.extend(self.find(messages, turn, answer, &text, from).into_iter().map(|span| (turn, span)));
        }
        if ending == Ending::Open {
            let last = spans.last().filter(|(turn, _)| turn + 1 == messages.len()).map(|(_, span)| span.end);
            let end = last.ok_or_else(|| {
                Error::request(format!(
                    "the last message cannot go on: the chat template of {} does not write its words as they are; close \
                     the message instead",
                    self.path.display()
                ))
            })?;
            text.truncate(end);
        }
        Ok((text, spans))
    }

    /// Finds a message's words in the text: the template lays the conversation out again with a mark at each end of
    /// them. Where a mark changes what is written (templates look at how words begin), the other one alone is tried, and
    /// last of all the words are looked for behind `from`.
    fn find(&self, messages: &[Message], turn: usize, answer: bool, text: &str, from: usize) -> Vec<Range<usize>> {
        let parts = messages[turn].clone().texts_mut().len();
        let mut found = Vec::new();
        for part in 0..parts {
            let mut words = messages[turn].clone();
            let words = words.texts_mut().swap_remove(part).trim().to_owned();
            let span = [(true, true), (false, true), (true, false)]
                .into_iter()
                .find_map(|marks| self.marked(messages, (turn, part), marks, answer, text))
                .map(|(start, end)| match (start, end) {
                    (Some(start), Some(end)) => start..end,
                    // A part of the words was left out: what is there reaches as far as the words agree.
                    (None, Some(end)) => end - shared(text[..end].chars().rev(), words.chars().rev())..end,
                    (Some(start), None) => start..start + shared(text[start..].chars(), words.chars()),
                    (None, None) => 0..0,
                })
                .or_else(|| {
                    let from = found.last().map_or(from, |span: &Range<usize>| span.end);
                    text.get(from..)?.find(&words).map(|at| from + at..from + at + words.len())
                });
            found.extend(span.filter(|span| !span.is_empty() && span.start <= span.end));
        }
        found
    }

    /// Lays the conversation out with a mark before or behind the words of a part of a message, inside the spaces around
    /// them, which templates take away. Returns where the marks came out; `None` where the text is not the same but for
    /// them, or no mark came out once.
    fn marked(
        &self,
        messages: &[Message],
        (turn, part): (usize, usize),
        (before, behind): (bool, bool),
        answer: bool,
        text: &str,
    ) -> Option<(Option<usize>, Option<usize>)> {
        // Code points that stand in no text.
        const START: char = '\u{fdd0}';
        const END: char = '\u{fdd1}';
        let mut messages = messages.to_vec();
        let words = messages.get_mut(turn)?.texts_mut().into_iter().nth(part)?;
        let inner = words.trim();
        let at = words.len() - words.trim_start().len();
        let (head, tail) = (&words[..at], &words[at + inner.len()..]);
        let mark = |wanted: bool, mark: char| if wanted { mark.to_string() } else { String::new() };
        *words = format!("{head}{}{inner}{}{tail}", mark(before, START), mark(behind, END));
        let marked = self.render(&messages, answer).ok()?;
        if marked.chars().filter(|c| ![START, END].contains(c)).ne(text.chars()) {
            return None;
        }
        let once = |mark: char| {
            let mut all = marked.match_indices(mark);
            all.next().filter(|_| all.next().is_none()).map(|(at, _)| at)
        };
        let (start, end) =
            (once(START), once(END).map(|at| at - if marked[..at].contains(START) { START.len_utf8() } else { 0 }));
        (start.is_some() || end.is_some()).then_some((start, end))
    }
}

/// Bytes that two texts share from where they begin.
fn shared(a: impl Iterator<Item = char>, b: impl Iterator<Item = char>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// The one template where there are several by name: transformers takes `default`.
fn one_of(found: Value, path: &Path) -> Result<String> {
    let wrong = |what: &str| Error::Malformed { path: path.to_owned(), format: "chat template", what: what.to_owned() };
    let named = |name: &Value| name.as_str() == Some("default");
    match found {
        Value::String(source) => Ok(source),
        Value::Array(list) => {
            let chosen = list.iter().find(|t| named(&t["name"])).or_else(|| list.first().filter(|_| list.len() == 1));
            let chosen = chosen.and_then(|t| t["template"].as_str());
            chosen.map(str::to_owned).ok_or_else(|| wrong("of its templates none is called `default`"))
        }
        Value::Object(map) => {
            let chosen = map.get("default").and_then(Value::as_str);
            chosen.map(str::to_owned).ok_or_else(|| wrong("of its templates none is called `default`"))
        }
        _ => Err(wrong("`chat_template` is neither a text nor a list of named texts")),
    }
}

/// The special tokens that a tokenizer's config names: texts, or objects that hold one.
fn special_tokens(config: &Map<String, Value>) -> std::result::Result<Map<String, Value>, String> {
    let mut special = Map::new();
    let mut give = |name: &str, token: &Value| -> std::result::Result<(), String> {
        let text = tokenizer_folder::special(Some(token), name)?;
        special.extend(text.map(|text| (name.to_owned(), json!(text))));
        Ok(())
    };
    // Options end in `_token` as well, such as `add_bos_token`.
    for (name, token) in config.iter().filter(|(name, v)| name.ends_with("_token") && !v.is_boolean()) {
        give(name, token)?;
    }
    // Names that the model's maker added.
    if let Some(Value::Object(map)) = config.get("extra_special_tokens") {
        for (name, token) in map {
            give(name, token)?;
        }
    }
    let more = "additional_special_tokens";
    if let Some(list) = typed::<&[Value]>(config.get(more), more)? {
        let texts: std::result::Result<Vec<_>, _> =
            list.iter().map(|token| tokenizer_folder::special(Some(token), more)).collect();
        special.insert(more.to_owned(), texts?.into_iter().flatten().collect());
    }
    Ok(special)
}

/// Takes the tags `{% generation %}` and `{% endgeneration %}` for ones that write their inside and keep the same spaces.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let Some(end) = rest[at + 2..].find("%}").map(|n| at + 2 + n) else { break };
        let tag = &rest[at + 2..end];
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let other = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => {
                out.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
                continue;
            }
        };
        out.push_str(&rest[..at + 2]);
        out.push_str(&tag.replace(word, &format!(" {other} ")));
        rest = &rest[end..];
    }
    out + rest
}

/// Gives an environment what transformers gives its own.
fn prepare(env: &mut Environment) -> std::result::Result<(), minijinja::Error> {
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_debug(false);
    env.set_fuel(Some(FUEL));
    // The text is no web page, whatever it is called.
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(|state, value, method, args| match (value.as_str(), method) {
        (Some(text), _) if OWN_METHODS.contains(&method) => own_method(text, method, args),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    });
    env.set_formatter(|out, _, value| {
        if let Some(text) = value.as_str() {
            return out.write_str(text).map_err(minijinja::Error::from);
        }
        if value.is_undefined() {
            return Ok(());
        }
        flat(value)?;
        out.write_str(&python(value)).map_err(minijinja::Error::from)
    });
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |what: String| -> std::result::Result<Jinja, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
    });
    env.add_function("strftime_now", |format: String| -> std::result::Result<String, minijinja::Error> {
        let now = jiff::ZonedDateTime::now();
        jiff::fmt::strtime::format(&format, &now)
            .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
    // In Python a text and a mapping can be gone through as well, and have a length and items.
    let many = |v: &Jinja| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map);
    env.add_test("sequence", move |v: &Jinja| many(v));
    env.add_test("iterable", move |v: &Jinja| many(v) || v.kind() == ValueKind::Iterable);
    Ok(())
}

/// Methods of Python's strings that the engine's own list lacks, or has otherwise.
const OWN_METHODS: [&str; 5] = ["title", "removeprefix", "removesuffix", "partition", "rsplit"];

fn own_method(text: &str, method: &str, args: &[Jinja]) -> std::result::Result<Jinja, minijinja::Error> {
    let wrong = || minijinja::Error::new(ErrorKind::InvalidOperation, format!("{method} is given other arguments"));
    let argument = |i: usize| args.get(i).and_then(Jinja::as_str).filter(|a| !a.is_empty());
    Ok(match method {
        "title" => {
            let mut inside = false;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                // A letter behind anything but a letter begins a word.
                if inside {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
                inside = c.is_alphabetic();
            }
            Jinja::from(out)
        }
        "removeprefix" => {
            let prefix = args.first().and_then(Jinja::as_str).ok_or_else(wrong)?;
            Jinja::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = args.first().and_then(Jinja::as_str).ok_or_else(wrong)?;
            Jinja::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let at = argument(0).ok_or_else(wrong)?;
            Jinja::from(match text.split_once(at) {
                Some((before, behind)) => vec![before.to_owned(), at.to_owned(), behind.to_owned()],
                None => vec![text.to_owned(), String::new(), String::new()],
            })
        }
        _ => {
            let at = argument(0).ok_or_else(wrong)?;
            let most = args.get(1).map_or(Some(usize::MAX - 1), Jinja::as_usize).ok_or_else(wrong)?;
            let mut parts: Vec<String> = text.rsplitn(most.saturating_add(1), at).map(str::to_owned).collect();
            parts.reverse();
            Jinja::from(parts)
        }
    })
}

/// Refuses a value that is too deep or too large to be written out: one that holds itself twice, again and again, is
/// small until then.
fn flat(value: &Jinja) -> std::result::Result<(), minijinja::Error> {
    /// Values inside one.
    const MOST: usize = 1_000_000;
    fn go(value: &Jinja, depth: usize, left: &mut usize) -> bool {
        let Some(rest) = left.checked_sub(1) else { return false };
        *left = rest;
        match value.kind() {
            ValueKind::Seq | ValueKind::Map if depth == 0 => false,
            ValueKind::Seq => value.try_iter().is_ok_and(|mut all| all.all(|v| go(&v, depth - 1, left))),
            ValueKind::Map => value.try_iter().is_ok_and(|mut keys| {
                keys.all(|key| go(&key, depth - 1, left) && value.get_item(&key).is_ok_and(|v| go(&v, depth - 1, left)))
            }),
            _ => true,
        }
    }
    if go(value, DEEPEST, &mut { MOST }) {
        return Ok(());
    }
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "it writes out values that lie in one another too deep"))
}

/// What Python prints for a value.
fn python(value: &Jinja) -> String {
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Seq | ValueKind::Map => repr(value),
        _ => value.to_string(),
    }
}

/// What Python writes for a value inside a list: texts in quotes.
fn repr(value: &Jinja) -> String {
    let items = || value.try_iter().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    c if c == '\\' || c == quote => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
            out.push(quote);
            out
        }
        ValueKind::Seq => format!("[{}]", items().iter().map(repr).collect::<Vec<_>>().join(", ")),
        ValueKind::Map => {
            let pair = |key: &Jinja| format!("{}: {}", repr(key), repr(&value.get_item(key).unwrap_or_default()));
            format!("{{{}}}", items().iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        _ => python(value),
    }
}

/// `json.dumps` as transformers calls it: nothing is escaped for HTML, letters stay letters, a space follows `,` and `:`.
fn tojson(_: &State, value: Jinja, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let wrong = |e: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    flat(&value)?;
    let mut json = serde_json::to_value(&value).map_err(|e| wrong(&e))?;
    let indent = options.get::<Option<usize>>("indent")?;
    if options.get::<Option<bool>>("sort_keys")?.unwrap_or(false) {
        json.sort_all_objects();
    }
    // Given by some templates; it is what is done here anyway.
    let _ = options.get::<Option<bool>>("ensure_ascii")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let separators = match separators.as_deref() {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(wrong(&"`separators` of tojson are two texts")),
    };
    if indent.is_some_and(|n| n > 64) {
        return Err(wrong(&"`indent` of tojson is at most 64"));
    }
    let mut out = String::new();
    dump(&json, indent, 0, &separators, &mut out);
    Ok(out)
}

fn dump(value: &Value, indent: Option<usize>, depth: usize, separators: &[String; 2], out: &mut String) {
    let line = |depth: usize| indent.map(|n| format!("\n{}", " ".repeat(n * depth))).unwrap_or_default();
    let (open, close, items): (char, char, Vec<(Option<&String>, &Value)>) = match value {
        Value::Array(list) => ('[', ']', list.iter().map(|v| (None, v)).collect()),
        Value::Object(map) => ('{', '}', map.iter().map(|(k, v)| (Some(k), v)).collect()),
        other => return out.push_str(&other.to_string()),
    };
    out.push(open);
    for (i, (key, item)) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(&separators[0]);
        }
        out.push_str(&line(depth + 1));
        if let Some(key) = key {
            out.push_str(&format!("{}{}", json!(key), separators[1]));
        }
        dump(item, indent, depth + 1, separators, out);
    }
    if !items.is_empty() {
        out.push_str(&line(depth));
    }
    out.push(close);
}
