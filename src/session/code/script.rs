//! A script as it is written: how it begins, prompts and lists in Python, texts as its strings.

use std::fmt::Write;
use std::path::Path;

use super::edits::Edits;
use super::{Facts, Shown, Snippet};
use crate::engine::{SiteKind, Trace};
use crate::error::Result;
use crate::model::Model;
use crate::session::Desk;

/// A script that is being written.
pub(super) struct Script<'a> {
    pub(super) facts: Facts<'a>,
    pub(super) text: String,
}

impl<'a> Script<'a> {
    /// Writes what all scripts begin with: what they compute, the model, and how it is loaded.
    pub(super) fn begin(facts: Facts<'a>, what: Snippet, prints: &str) -> Self {
        let model = facts.model();
        let (name, note) = weights(model);
        let mut text = comment(&format!("{}: {prints}.", what.title()));
        let _ =
            writeln!(text, "# Model:  {} ({}, {})", one_line(&model.config.name), model.config.family, model.format);
        let _ = writeln!(
            text,
            "# Written by circuitscope {} for TransformerLens 4: pip install \"transformer_lens>=4\"",
            env!("CARGO_PKG_VERSION")
        );
        text += &note.map_or_else(String::new, comment);
        let _ = writeln!(text, "MODEL = {}  # a Hugging Face name, or a folder", quoted(&name));
        text += "\n\
            import torch\n\
            from transformer_lens.model_bridge import TransformerBridge\n\
            \n\
            torch.set_grad_enabled(False)\n\
            model = TransformerBridge.boot_transformers(MODEL, device=\"cpu\", dtype=torch.float32)\n\
            model.enable_compatibility_mode(no_processing=True)  # the usual hook names, and the weights as they are\n\n";
        Self { facts, text }
    }

    pub(super) fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    /// Writes the token ids of a prompt under a name, with its text beside.
    pub(super) fn prompt(&mut self, name: &str, trace: &Trace) {
        if trace.model.tokenizer.is_some() {
            let text: String = (0..trace.len()).map(|p| trace.token_text(p)).collect();
            self.line(&format!("# {}", quoted(&text)));
        }
        self.line(&wrapped(&format!("{name} = torch.tensor([["), &trace.ids, "]])"));
    }

    /// Writes the ids of the tokens that are compared, with their texts beside.
    pub(super) fn answers(&mut self, answer: Option<u32>, wrong: Option<u32>) {
        let model = self.facts.clean.trace.model.clone();
        for (name, id) in [("answer", answer), ("wrong", wrong)] {
            if let Some(id) = id {
                self.line(&format!("{name} = {id}  # {}", quoted(&model.token_text(id))));
            }
        }
    }

    /// Writes the prompt of the run that is shown as `ids`, and its edits as `hooks`.
    pub(super) fn shown(&mut self, desk: &Desk, shown: &Shown<'_>) -> Result<()> {
        self.prompt("ids", shown.trace);
        if shown.edited {
            Edits { script: self, desk, base: shown.side }.write()?;
        }
        Ok(())
    }

    /// Writes the texts that a mean is taken over, and the values of some hooks in each as `caches`.
    pub(super) fn references(&mut self, texts: &[String], filter: &str) -> Result<()> {
        let model = self.facts.clean.trace.model.clone();
        self.line("references = [  # the texts that the mean is taken over");
        for text in texts {
            self.line(&format!("    # {}", quoted(text)));
            self.line(&wrapped("    [", &model.encode(text, false)?, "],"));
        }
        self.line("]");
        self.line(&format!("filter = {filter}"));
        self.line("caches = [model.run_with_cache(torch.tensor([r]), names_filter=filter)[1] for r in references]");
        Ok(())
    }

    /// Writes the run that is shown, with the values of some hooks kept in `cache`; without a filter only its logits.
    pub(super) fn run(&mut self, shown: &Shown<'_>, filter: Option<&str>) {
        let call = match filter {
            Some(filter) => format!("logits, cache = model.run_with_cache(ids, names_filter={filter})"),
            None => "logits = model(ids)".to_owned(),
        };
        if shown.edited {
            self.line("with model.hooks(fwd_hooks=hooks):");
            self.line(&format!("    {call}"));
        } else {
            self.line(&call);
        }
    }
}

/// Returns what a model is loaded by in Python, and what is to be said of it.
pub(super) fn weights(model: &Model) -> (String, Option<&'static str>) {
    let path = Path::new(&model.spec);
    if model.format == "GGUF" {
        let note = "The program read a GGUF file, which TransformerLens does not. Give below the Hugging Face folder or \
            name of the weights that it was made of (the name is a guess). Where the file is quantised, numbers differ \
            as much as the weights do.";
        return (guess(&model.config.name), Some(note));
    }
    // A folder of the hub's cache goes by the name of its model.
    let cached = path.components().find_map(|c| c.as_os_str().to_str()?.strip_prefix("models--")?.split_once("--"));
    if let Some((owner, name)) = cached {
        return (format!("{owner}/{name}"), None);
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    (std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display().to_string(), None)
}

/// Who publishes the models whose names begin so.
const PUBLISHERS: [(&str, &str); 15] = [
    ("smollm", "HuggingFaceTB"),
    ("qwen", "Qwen"),
    ("gemma", "google"),
    ("llama", "meta-llama"),
    ("meta-llama", "meta-llama"),
    ("mistral", "mistralai"),
    ("ministral", "mistralai"),
    ("olmo", "allenai"),
    ("phi", "microsoft"),
    ("pythia", "EleutherAI"),
    ("gpt-neo", "EleutherAI"),
    ("gpt-j", "EleutherAI"),
    ("gpt2", "openai-community"),
    ("stablelm", "stabilityai"),
    ("starcoder", "bigcode"),
];

/// Returns the name that a GGUF file's model probably has: without the kind of its quantisation, under its publisher.
pub(super) fn guess(stem: &str) -> String {
    let is_kind = |part: &str| {
        let part = part.to_ascii_uppercase();
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        ["F16", "F32", "BF16", "FP16"].contains(&&*part)
            || part.strip_prefix("IQ").or(part.strip_prefix('Q')).is_some_and(|rest| digit(rest.chars().next()))
    };
    let name = match stem.rsplit_once(['.', '-']) {
        Some((name, kind)) if is_kind(kind) => name,
        _ => stem,
    };
    let lower = name.to_ascii_lowercase();
    match PUBLISHERS.iter().find(|(start, _)| lower.starts_with(start)) {
        Some((_, owner)) => format!("{owner}/{name}"),
        None => name.to_owned(),
    }
}

/// Returns a text as a Python string on one line. JSON's escapes are Python's; characters that would end a line or turn
/// the direction of writing are escaped as well.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{85}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Returns a text for the middle of a comment.
pub(super) fn one_line(text: &str) -> String {
    let text = quoted(text);
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(&text).to_owned()
}

/// Returns a comment in lines of a readable width.
pub(super) fn comment(text: &str) -> String {
    let mut out = String::new();
    let mut width = usize::MAX;
    for word in text.split(' ') {
        if width.saturating_add(word.chars().count()) >= WIDTH {
            out += if out.is_empty() { "#" } else { "\n#" };
            width = 1;
        }
        width += 1 + word.chars().count();
        out.push(' ');
        out += word;
    }
    out + "\n"
}

/// Widest line of a script.
pub(super) const WIDTH: usize = 110;

/// Returns a list of numbers between two texts, in lines of a readable width.
pub(super) fn wrapped(before: &str, numbers: &[impl ToString], after: &str) -> String {
    let mut lines = vec![before.to_owned()];
    for (i, number) in numbers.iter().enumerate() {
        let comma = if i + 1 < numbers.len() { "," } else { "" };
        let word = format!("{}{comma}", number.to_string());
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => {
                if i > 0 && !line.trim().is_empty() {
                    line.push(' ');
                }
                line.push_str(&word);
            }
            _ => lines.push(format!("    {word}")),
        }
    }
    lines.join("\n") + after
}

/// Returns a list as Python writes it.
pub(super) fn list(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(", "))
}

/// Writes a filter of hook names by their ends.
pub(super) fn ending(kind: SiteKind) -> String {
    format!("lambda name: name.endswith(\"{}\")", kind.hook())
}

pub(super) fn print_grid(s: &mut Script<'_>) {
    s.line("torch.set_printoptions(precision=4, sci_mode=False, linewidth=200, threshold=100_000)");
    s.line("print(result)");
}
