//! What a desk asks, as Python: a script for TransformerLens that computes the number which the program shows.
//!
//! A script is written out of what the desk says, with token ids in the place of texts, so that tokenizers cannot
//! disagree. Weights are loaded as they are, without folding or centring, so that activations are the program's. What
//! TransformerLens would compute otherwise is refused in one sentence: no script gives another number in silence.
//! `scripts/check-code` runs the scripts and compares.

use std::fmt::Write;
use std::path::Path;

use super::Desk;
use super::desk::{Intervention, Pinned, Show, Source};
use crate::analysis::direct_attribution::direct_attribution;
use crate::analysis::metric::Metric;
use crate::analysis::pair::Pair;
use crate::analysis::patching::Ablation;
use crate::analysis::patterns::PatternChoice;
use crate::analysis::run::Run;
use crate::analysis::sweep::Axes;
use crate::engine::edit::{Direction, Positions};
use crate::engine::resolve::Alignment;
use crate::engine::{Action, Axis, Edit, RunSide, Site, SiteKind, Trace};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::{ModelConfig, NormPlacement, Positions as Embedding};

/// What can be written as code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Snippet {
    /// The next tokens and the loss.
    #[default]
    Run,
    /// The attention pattern that is pinned.
    Pattern,
    /// A patching sweep.
    Patching,
    /// An ablation sweep.
    Ablation,
    /// What each component adds to the answer.
    Attribution,
    /// The prediction after each layer.
    Lens,
}

impl Snippet {
    pub const ALL: [Self; 6] =
        [Self::Run, Self::Pattern, Self::Patching, Self::Ablation, Self::Attribution, Self::Lens];

    /// What a menu calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Run => "Next tokens",
            Self::Pattern => "Attention pattern",
            Self::Patching => "Activation patching",
            Self::Ablation => "Ablation",
            Self::Attribution => "Direct logit attribution",
            Self::Lens => "Logit lens",
        }
    }
}

/// The runs that the code is to repeat.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The clean run, with the answers that were given for it.
    pub clean: &'a Run,
    /// The runs of both prompts.
    pub pair: &'a Pair,
}

impl Facts<'_> {
    fn model(&self) -> &Model {
        &self.clean.trace.model
    }

    fn config(&self) -> &ModelConfig {
        &self.model().config
    }

    /// The run that the views show, or the run that its edits apply to.
    fn shown<'a>(&'a self, desk: &Desk) -> Result<Shown<'a>> {
        let edits = desk.stack.is_active();
        let compares = self.pair.corrupted.is_some();
        let plain = |side| Ok(Shown { trace: self.pair.run(side)?, side, edited: false });
        match desk.show {
            Show::Difference if edits || compares => Err(Error::request(
                "the difference of two runs is shown, which is not written as code; show one of the two runs and copy its code",
            )),
            Show::Edited if edits => {
                Ok(Shown { trace: self.pair.run(desk.stack.base)?, side: desk.stack.base, edited: true })
            }
            Show::Corrupted if compares => plain(RunSide::Corrupted),
            _ => plain(RunSide::Clean),
        }
    }
}

struct Shown<'a> {
    trace: &'a Trace,
    side: RunSide,
    edited: bool,
}

/// Pins what a window would pin when it opens on the desk: the end of the prompt, and the head that adds most to the
/// answer. What was chosen by hand stays.
///
/// # Errors
/// An answer outside the vocabulary.
pub fn settle(desk: &mut Desk, facts: Facts<'_>) -> Result<()> {
    let trace = facts.shown(desk).map_or(&*facts.clean.trace, |s| s.trace);
    let last = trace.len().saturating_sub(1);
    desk.pinned.pos = if desk.chose_pos { desk.pinned.pos.min(last) } else { last };
    if desk.chose_head || desk.found_head {
        return Ok(());
    }
    let (Some(answer), wrong) = facts.clean.asked_at(trace, desk.pinned.pos) else { return Ok(()) };
    let parts = direct_attribution(trace, desk.pinned.pos, answer, wrong)?;
    let all = parts.heads.iter().enumerate().flat_map(|(l, row)| row.iter().enumerate().map(move |(h, v)| (l, h, *v)));
    if let Some((layer, head, _)) = all.max_by(|x, y| x.2.total_cmp(&y.2)) {
        desk.found_head = true;
        desk.pinned = Pinned { layer, head: Some(head), all_heads: false, ..desk.pinned };
    }
    Ok(())
}

/// Writes what the desk asks as a Python script for TransformerLens. The script leaves its numbers in `result`.
///
/// # Errors
/// One sentence where TransformerLens cannot compute what the program shows.
pub fn python(desk: &Desk, what: Snippet, facts: Facts<'_>) -> Result<String> {
    if facts.config().family == "circuitscope_lab" {
        return Err(Error::request(format!(
            "TransformerLens cannot open `{}`, a model of this program's own family; open a model from Hugging Face to copy code",
            facts.config().name
        )));
    }
    match what {
        Snippet::Run => next_tokens(desk, facts),
        Snippet::Pattern => pattern(desk, facts),
        Snippet::Patching => patching(desk, facts),
        Snippet::Ablation => ablation(desk, facts),
        Snippet::Attribution => attribution(desk, facts),
        Snippet::Lens => lens(desk, facts),
    }
}

/// A script that is being written.
struct Script<'a> {
    facts: Facts<'a>,
    text: String,
}

impl<'a> Script<'a> {
    /// Writes what all scripts begin with: what they compute, the model, and how it is loaded.
    fn begin(facts: Facts<'a>, what: Snippet, prints: &str) -> Self {
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

    fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    /// Writes the token ids of a prompt under a name, with its text beside.
    fn prompt(&mut self, name: &str, trace: &Trace) {
        if trace.model.tokenizer.is_some() {
            let text: String = (0..trace.len()).map(|p| trace.token_text(p)).collect();
            self.line(&format!("# {}", quoted(&text)));
        }
        self.line(&wrapped(&format!("{name} = torch.tensor([["), &trace.ids, "]])"));
    }

    /// Writes the ids of the tokens that are compared, with their texts beside.
    fn answers(&mut self, answer: Option<u32>, wrong: Option<u32>) {
        let model = self.facts.clean.trace.model.clone();
        for (name, id) in [("answer", answer), ("wrong", wrong)] {
            if let Some(id) = id {
                self.line(&format!("{name} = {id}  # {}", quoted(&model.token_text(id))));
            }
        }
    }

    /// Writes the prompt of the run that is shown as `ids`, and its edits as `hooks`.
    fn shown(&mut self, desk: &Desk, shown: &Shown<'_>) -> Result<()> {
        self.prompt("ids", shown.trace);
        if shown.edited {
            Edits { script: self, desk, base: shown.side }.write()?;
        }
        Ok(())
    }

    /// Writes the texts that a mean is taken over, and the values of some hooks in each as `caches`.
    fn references(&mut self, texts: &[String], filter: &str) -> Result<()> {
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
    fn run(&mut self, shown: &Shown<'_>, filter: Option<&str>) {
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
fn weights(model: &Model) -> (String, Option<&'static str>) {
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
fn guess(stem: &str) -> String {
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
fn one_line(text: &str) -> String {
    let text = quoted(text);
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(&text).to_owned()
}

/// Returns a comment in lines of a readable width.
fn comment(text: &str) -> String {
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
const WIDTH: usize = 110;

/// Returns a list of numbers between two texts, in lines of a readable width.
fn wrapped(before: &str, numbers: &[impl ToString], after: &str) -> String {
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
fn list(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(", "))
}

fn next_tokens(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let (answer, wrong) = (facts.clean.answer, facts.clean.wrong);
    let compares = answer.is_some() && wrong.is_some();
    let mut prints = "the most probable tokens after the prompt".to_owned();
    if compares {
        prints += ", the logit difference of two answers";
    }
    if shown.trace.len() > 1 {
        prints += ", the mean loss in nats";
    }
    let mut s = Script::begin(facts, Snippet::Run, &prints);
    s.shown(desk, &shown)?;
    s.line("");
    s.run(&shown, None);
    s.line("result = logits[0, -1].softmax(-1).topk(10)");
    s.line("for prob, token in zip(result.values, result.indices):");
    s.line("    print(f\"{prob.item():.6f}  {logits[0, -1, token].item():9.4f}  {model.tokenizer.decode([token.item()])!r}\")");
    if compares {
        s.answers(answer, wrong);
        s.line("difference = (logits[0, -1, answer] - logits[0, -1, wrong]).item()");
        s.line("print(\"logit difference\", difference)");
    }
    if shown.trace.len() > 1 {
        s.line("loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()");
        s.line("print(\"loss\", loss)");
    }
    Ok(s.text)
}

fn pattern(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let which = desk.pinned.which();
    let of = match which {
        PatternChoice::Head(layer, head) => format!("head {layer}.{head}"),
        PatternChoice::LayerMean(layer) => format!("layer {layer}, the mean of its heads"),
        PatternChoice::ModelMean => "the mean of all heads".to_owned(),
    };
    let prints = format!("{of}, one row for each query and one column for each key");
    let mut s = Script::begin(facts, Snippet::Pattern, &prints);
    s.shown(desk, &shown)?;
    s.line("");
    let one = |layer: usize| format!("\"{}\"", Site::new(SiteKind::Pattern, layer));
    match which {
        PatternChoice::Head(layer, head) => {
            s.line(&format!("name = {}", one(layer)));
            s.run(&shown, Some("name"));
            s.line(&format!("result = cache[name][0, {head}]"));
        }
        PatternChoice::LayerMean(layer) => {
            s.line(&format!("name = {}", one(layer)));
            s.run(&shown, Some("name"));
            s.line("result = cache[name][0].mean(0)");
        }
        PatternChoice::ModelMean => {
            s.run(&shown, Some(&ending(SiteKind::Pattern)));
            s.line(
                "patterns = [cache[f\"blocks.{layer}.attn.hook_pattern\"][0] for layer in range(model.cfg.n_layers)]",
            );
            s.line("result = torch.stack(patterns).mean((0, 1))");
        }
    }
    print_grid(&mut s);
    Ok(s.text)
}

/// Writes a filter of hook names by their ends.
fn ending(kind: SiteKind) -> String {
    format!("lambda name: name.endswith(\"{}\")", kind.hook())
}

fn print_grid(s: &mut Script<'_>) {
    s.line("torch.set_printoptions(precision=4, sci_mode=False, linewidth=200, threshold=100_000)");
    s.line("print(result)");
}

fn lens(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let answer = facts.clean.answer;
    let wrong = facts.clean.wrong.filter(|_| answer.is_some());
    let mut columns = vec!["the most probable token", "its probability"];
    if answer.is_some() {
        columns.push("that of the answer");
    }
    if wrong.is_some() {
        columns.push("the logit difference");
    }
    let prints =
        format!("for each layer and the pinned position, {}; `result` holds all positions", columns.join(", "));
    let mut s = Script::begin(facts, Snippet::Lens, &prints);
    s.shown(desk, &shown)?;
    s.answers(answer, wrong);
    s.line(&format!("pos = {}", position(desk, shown.trace)));
    s.line("");
    s.run(&shown, Some(&ending(SiteKind::ResidPost)));
    s.line("result = []  # of each layer, for all positions");
    s.line("for layer in range(model.cfg.n_layers):");
    s.line("    resid = cache[f\"blocks.{layer}.hook_resid_post\"]");
    s.line("    logits = model.unembed(model.ln_final(resid))[0]");
    if let Some(cap) = facts.config().final_softcap {
        s.line(&format!("    logits = {cap:?} * (logits / {cap:?}).tanh()  # the model's cap"));
    }
    s.line("    probs = logits.softmax(-1)");
    s.line("    row = {\"token\": probs.argmax(-1), \"prob\": probs.amax(-1)}");
    if answer.is_some() {
        s.line("    row[\"answer\"] = probs[:, answer]");
    }
    if wrong.is_some() {
        s.line("    row[\"difference\"] = logits[:, answer] - logits[:, wrong]");
    }
    s.line("    result.append(row)");
    s.line("    numbers = [f\"{name} {value[pos].item():.4f}\" for name, value in row.items() if name != \"token\"]");
    s.line("    print(layer, repr(model.tokenizer.decode([row[\"token\"][pos].item()])), *numbers)");
    Ok(s.text)
}

/// The pinned position: the end, until another one is chosen.
fn position(desk: &Desk, trace: &Trace) -> usize {
    let last = trace.len().saturating_sub(1);
    if desk.chose_pos { desk.pinned.pos.min(last) } else { last }
}

fn attribution(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let shown = facts.shown(desk)?;
    let c = facts.config();
    let at_embedding = |e: &Edit| e.site.kind == SiteKind::Embed || e.site == Site::new(SiteKind::ResidPre, 0);
    if shown.edited && desk.stack.active().any(at_embedding) {
        return Err(Error::request(
            "the embedding is edited, whose part is then not told from the edit's in code; switch that edit off",
        ));
    }
    let post_norm = matches!(c.norm_placement, NormPlacement::Post | NormPlacement::Sandwich);
    if post_norm && c.centres() {
        return Err(Error::request("this model centres what attention writes, which is not written as code"));
    }
    let pos = position(desk, shown.trace);
    let other_length = shown.trace.len() != facts.clean.trace.len();
    if shown.edited && other_length && (facts.clean.answer.is_none() || pos + 1 != shown.trace.len()) {
        return Err(Error::request(
            "the edited run's own favourite is explained; type an answer and pin the last token",
        ));
    }
    let (answer, wrong) = facts.clean.asked_at(shown.trace, pos);
    let answer = answer.ok_or_else(|| Error::request("there is no token to explain; type an answer"))?;
    let of = if wrong.is_some() { "the logit difference" } else { "the answer's logit" };
    let prints = format!("what each component adds to {of}, with the final norm's scale held still");
    let mut s = Script::begin(facts, Snippet::Attribution, &prints);
    s.shown(desk, &shown)?;
    s.answers(Some(answer), wrong);
    s.line(&format!("pos = {pos}"));
    s.line("");
    s.line("KEPT = (\"hook_resid_pre\", \"hook_resid_post\", \"hook_z\", \"hook_mlp_out\", \"hook_scale\")");
    s.run(&shown, Some("lambda name: name.endswith(KEPT)"));
    s.line(if wrong.is_some() {
        "direction = model.W_U[:, answer] - model.W_U[:, wrong]"
    } else {
        "direction = model.W_U[:, answer]"
    });
    // Gemma's gains are stored without the 1 that is added to them.
    let one = if c.family.starts_with("gemma") { "1 + " } else { "" };
    let gain = |norm: &str| if one.is_empty() { format!("{norm}.weight") } else { format!("({one}{norm}.weight)") };
    s.line(&format!("reading = direction * {}", gain("model.ln_final")));
    if c.centres() {
        s.line("reading = reading - reading.mean()");
    }
    s.line("reading = reading / cache[\"ln_final.hook_scale\"][0, pos]");
    let positions = if c.positions == Embedding::Learned { "  # with the position's" } else { "" };
    s.line(&format!("parts = {{\"embed\": (cache[\"blocks.0.hook_resid_pre\"][0, pos] @ reading).item()}}{positions}"));
    s.line("for layer in range(model.cfg.n_layers):");
    s.line("    z, W_O = cache[f\"blocks.{layer}.attn.hook_z\"][0, pos], model.blocks[layer].attn.W_O");
    if post_norm {
        s.line("    norm = model.blocks[layer].ln1_post  # on what attention writes; its scale is held still as well");
        s.line(&format!(
            "    local = reading * {} / cache[f\"blocks.{{layer}}.ln1_post.hook_scale\"][0, pos]",
            gain("norm")
        ));
        s.line("    heads = torch.einsum(\"hd,hdm,m->h\", z, W_O, local)");
    } else {
        s.line("    heads = torch.einsum(\"hd,hdm,m->h\", z, W_O, reading)");
    }
    s.line("    parts.update({f\"a{layer}.h{head}\": part.item() for head, part in enumerate(heads)})");
    if c.has_mlp() {
        s.line("    parts[f\"m{layer}\"] = (cache[f\"blocks.{layer}.hook_mlp_out\"][0, pos] @ reading).item()");
    }
    s.line(&format!("resid = cache[\"blocks.{}.hook_resid_post\"][:, pos]", c.n_layers - 1));
    s.line("logit = (model.ln_final(resid)[0] @ direction).item()");
    if facts.model().weights.unembed_bias.is_some() {
        let minus = if wrong.is_some() { " - model.b_U[wrong]" } else { "" };
        s.line(&format!("logit += (model.b_U[answer]{minus}).item()"));
    }
    let rest = if shown.edited { "biases and edits" } else { "biases" };
    s.line(&format!("parts[\"{rest}\"] = logit - sum(parts.values())"));
    s.line("result = parts");
    s.line("for name, part in sorted(parts.items(), key=lambda item: -abs(item[1]))[:20]:");
    s.line("    print(f\"{name:8}{part:+.4f}\")");
    s.line(&format!("print(\"sum\", logit){}", c.final_softcap.map_or("", |_| "  # before the model's cap")));
    Ok(s.text)
}

fn patching(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    if desk.patching.source != Source::Exact {
        return Err(Error::request(
            "approximate numbers are shown, which are not written as code; choose the exact ones and copy again",
        ));
    }
    if facts.pair.corrupted.is_none() {
        return Err(Error::request("patching compares two prompts; type a corrupted prompt"));
    }
    Sweep::of(desk, facts, None)?.write()
}

fn ablation(desk: &Desk, facts: Facts<'_>) -> Result<String> {
    let with = match desk.patching.intervention {
        Some(Intervention::Ablate(with)) => with,
        _ => Ablation::Zero,
    };
    if with == Ablation::Resample && facts.pair.corrupted.is_none() {
        return Err(Error::request("resampling takes values from the other prompt; type a corrupted prompt"));
    }
    if with == Ablation::Mean && desk.patching.site == SiteKind::Pattern {
        return Err(Error::request(
            "patterns cannot be mean-ablated, their rows differ in length; choose zero or resample",
        ));
    }
    Sweep::of(desk, facts, Some(with))?.write()
}

/// A sweep that is to be written as loops.
struct Sweep<'a> {
    desk: &'a Desk,
    facts: Facts<'a>,
    /// `None` for patching.
    with: Option<Ablation>,
    metric: Metric,
    site: SiteKind,
    axes: Vec<(&'static str, usize)>,
    /// From the edited run's positions to the other's, where values are copied.
    alignment: Option<Alignment>,
}

impl<'a> Sweep<'a> {
    fn of(desk: &'a Desk, facts: Facts<'a>, with: Option<Ablation>) -> Result<Self> {
        use crate::analysis::patching::{ablation, patching};
        let settings = desk.patching;
        let (answer, wrong) = facts.pair.answers(facts.clean.answer, facts.clean.wrong);
        let metric = settings.metric.with(answer, wrong)?;
        let sweep = match with {
            None => patching(settings.site, settings.by, metric),
            Some(with) => ablation(settings.site, settings.by, with, metric),
        };
        let base = facts.pair.run(sweep.base)?;
        sweep.check(base)?;
        sound(facts.config(), settings.site)?;
        let copies = matches!(sweep.action, Action::Copy(_));
        let alignment = copies.then(|| facts.pair.alignment_from(sweep.base));
        if let Some(a) = &alignment
            && settings.site == SiteKind::Pattern
        {
            same_places(a, facts.pair.run(sweep.base.other())?.len())?;
        }
        Ok(Self { desk, facts, with, metric, site: settings.site, axes: sweep.axes(base), alignment })
    }

    fn write(&self) -> Result<String> {
        let what = if self.with.is_none() { Snippet::Patching } else { Snippet::Ablation };
        let axes: Vec<&str> = self.axes.iter().map(|(name, _)| *name).collect();
        let site = self.site.hook().rsplit("hook_").next().unwrap_or_default();
        let label = self.metric.kind().label();
        let prints = match self.with {
            None => format!(
                "{site} of the clean run in the corrupted one, by {}: 0 is the corrupted run's {label}, 1 the clean one's",
                axes.join(", ")
            ),
            Some(with) => {
                format!("change of the {label} under {} ablation of {site}, by {}", with.label(), axes.join(", "))
            }
        };
        let mut s = Script::begin(self.facts, what, &prints);
        s.prompt("clean", &self.facts.clean.trace);
        if let Some(corrupted) = self.facts.pair.corrupted.as_deref().filter(|_| self.alignment.is_some()) {
            s.prompt("corrupted", corrupted);
        }
        s.line("");
        self.write_metric(&mut s);
        self.write_sources(&mut s)?;
        self.write_loops(&mut s);
        print_grid(&mut s);
        Ok(s.text)
    }

    fn write_metric(&self, s: &mut Script<'_>) {
        let tokens = self.metric.tokens();
        s.answers(tokens.first().copied(), tokens.get(1).copied());
        if self.metric == Metric::Kl {
            s.line("clean_log_probs = model(clean)[0, -1].log_softmax(-1)");
        }
        s.line("\n\ndef metric(logits):");
        s.line(match self.metric {
            Metric::LogitDifference { .. } => "    return (logits[0, -1, answer] - logits[0, -1, wrong]).item()",
            Metric::Logit { .. } => "    return logits[0, -1, answer].item()",
            Metric::Probability { .. } => "    return logits[0, -1].softmax(-1)[answer].item()",
            Metric::Rank { .. } => "    return (logits[0, -1] > logits[0, -1, answer]).sum().item()",
            Metric::Kl => {
                "    log_probs = logits[0, -1].log_softmax(-1)\n    return (clean_log_probs.exp() * (clean_log_probs - log_probs)).sum().item()"
            }
        });
        s.line("\n");
    }

    /// Writes the runs that values are taken from, and the unedited metrics.
    fn write_sources(&self, s: &mut Script<'_>) -> Result<()> {
        let filter = ending(self.site);
        let keep = |s: &mut Script<'_>, name: &str, of: &str| {
            s.line(&format!("_, {name} = model.run_with_cache({of}, names_filter={filter})"));
        };
        match self.with {
            None => keep(s, "cache", "clean"),
            Some(Ablation::Resample) => keep(s, "cache", "corrupted"),
            Some(_) => {}
        }
        if self.with == Some(Ablation::Mean) && !self.desk.stack.reference.is_empty() {
            s.references(&self.desk.stack.reference, &filter)?;
        }
        let own_mean = self.with == Some(Ablation::Mean) && self.desk.stack.reference.is_empty();
        if self.site == SiteKind::ResidMid {
            let both = "lambda name: name.endswith((\"hook_resid_pre\", \"hook_resid_mid\"))";
            s.line(&format!("_, own = model.run_with_cache({}, names_filter={both})", self.base()));
        } else if own_mean {
            keep(s, "own", self.base());
        }
        if self.with.is_none() {
            s.line("at_clean, at_corrupted = metric(model(clean)), metric(model(corrupted))");
        } else {
            s.line("baseline = metric(model(clean))");
            s.line("print(\"without ablation\", baseline)");
        }
        if let Some((to, from)) = self.moved() {
            s.line(&wrapped("positions = [", &to, "]  # of the edited run"));
            s.line(&wrapped("sources = [", &from, "]  # their counterparts in the other one"));
        }
        Ok(())
    }

    /// The prompt whose run is edited.
    fn base(&self) -> &'static str {
        if self.with.is_none() { "corrupted" } else { "clean" }
    }

    /// The positions that are copied to and from, where they are not all of both prompts in their order.
    fn moved(&self) -> Option<(Vec<usize>, Vec<usize>)> {
        let alignment = self.alignment.as_ref()?;
        let all = alignment.iter().enumerate().all(|(i, p)| *p == Some(i));
        (!all).then(|| pairs(alignment, 0..alignment.len()))
    }

    fn write_loops(&self, s: &mut Script<'_>) {
        let shape: Vec<usize> = self.axes.iter().map(|(_, n)| *n).collect();
        let edge = matches!(self.desk.patching.by, Axes::DestSrc { .. });
        // What causality forbids stays as it is; a position without a counterpart has no value.
        s.line(&if edge {
            format!("result = torch.zeros({})", list(&shape))
        } else {
            format!("result = torch.full({}, float(\"nan\"))", list(&shape))
        });
        let moved = self.moved().is_some();
        let mut depth = 0;
        let mut open = |s: &mut Script<'_>, line: &str| {
            s.line(&format!("{}{line}", "    ".repeat(depth)));
            depth += 1;
        };
        if let Axes::DestSrc { layer, head } = self.desk.patching.by {
            s.line(&format!("layer, head = {layer}, {head}"));
        }
        for (axis, n) in &self.axes {
            match *axis {
                "layer" => open(s, &format!("for layer in range({n}):")),
                "head" | "kv_head" => open(s, &format!("for head in range({n}):")),
                "pos" if moved => open(s, "for pos, source in zip(positions, sources):"),
                "pos" => open(s, &format!("for pos in range({n}):")),
                "dest" => open(s, &format!("for dest in range({n}):")),
                _ => open(s, "for src in range(dest + 1):"),
            }
        }
        let names: Vec<&str> = self.axes.iter().map(|(a, _)| if *a == "kv_head" { "head" } else { *a }).collect();
        let has = |name: &str| names.contains(&name) || edge && name == "head";
        let (at, of) = self.indices(&has, moved);
        let tab = "    ".repeat(depth);
        // TransformerLens' hook_resid_mid reaches the MLP alone; the stream is changed by what attention adds to it.
        let mid = self.site == SiteKind::ResidMid;
        let hook = if mid { SiteKind::AttnOut } else { self.site };
        s.line(&format!("{tab}name = f\"blocks.{{layer}}.{}\"\n", self.site.hook()));
        s.line(&format!("{tab}def edit(value, hook):"));
        let new = match self.with {
            None | Some(Ablation::Resample) => format!("cache[name][{of}]"),
            Some(Ablation::Zero) => "0.0".to_owned(),
            Some(Ablation::Mean) => {
                let head = if has("head") { "[head]" } else { "" };
                let rows = if self.desk.stack.reference.is_empty() {
                    "own[name][0]"
                } else {
                    "torch.cat([c[name][0] for c in caches])"
                };
                format!("{rows}.mean(0){head}")
            }
        };
        if mid {
            s.line(&format!(
                "{tab}    # hook_resid_mid itself reaches the MLP alone: the stream is set by what attention adds to it"
            ));
        }
        s.line(&format!("{tab}    value = value.clone()"));
        s.line(&if mid {
            format!("{tab}    value[{at}] = {new} - own[f\"blocks.{{layer}}.hook_resid_pre\"][{at}]")
        } else {
            format!("{tab}    value[{at}] = {new}")
        });
        s.line(&format!("{tab}    return value\n"));
        let hooked = if mid { format!("f\"blocks.{{layer}}.{}\"", hook.hook()) } else { "name".to_owned() };
        s.line(&format!("{tab}logits = model.run_with_hooks({}, fwd_hooks=[({hooked}, edit)])", self.base()));
        let cell = names.join(", ");
        s.line(&match self.with {
            None => format!("{tab}result[{cell}] = (metric(logits) - at_corrupted) / (at_clean - at_corrupted)"),
            Some(_) => format!("{tab}result[{cell}] = metric(logits) - baseline"),
        });
    }

    /// The part of a value that a cell changes, and the part of the other run's that is copied there.
    fn indices(&self, has: &dyn Fn(&str) -> bool, moved: bool) -> (String, String) {
        if self.site == SiteKind::Pattern {
            let at = match (has("dest"), has("pos")) {
                (true, _) => ":, head, dest, src",
                (false, true) => ":, head, pos",
                (false, false) => ":, head",
            };
            return (at.to_owned(), at.to_owned());
        }
        let head = if has("head") { ", head" } else { "" };
        let (to, from) = match (has("pos"), moved) {
            (true, true) => ("pos", "source"),
            (true, false) => ("pos", "pos"),
            (false, true) => ("positions", "sources"),
            (false, false) => (":", ":"),
        };
        (format!(":, {to}{head}"), format!(":, {from}{head}"))
    }
}

/// Returns the positions of one run that have counterparts in the other, and these.
fn pairs(alignment: &Alignment, of: impl IntoIterator<Item = usize>) -> (Vec<usize>, Vec<usize>) {
    of.into_iter().filter_map(|p| Some((p, (*alignment.get(p)?)?))).unzip()
}

/// Refuses to copy patterns between prompts whose tokens do not correspond one to one.
fn same_places(alignment: &Alignment, other: usize) -> Result<()> {
    if alignment.len() == other && alignment.iter().enumerate().all(|(i, p)| *p == Some(i)) {
        return Ok(());
    }
    Err(Error::request(
        "attention patterns are patched edge by edge, which needs prompts whose tokens correspond one to one; patch z, q, k or v instead",
    ))
}

/// Refuses to change a site where TransformerLens does not do with it what the program does.
fn sound(config: &ModelConfig, kind: SiteKind) -> Result<()> {
    use SiteKind::{
        AttnScores, Embed, Ln1Normalized, Ln1Scale, Ln2Normalized, Ln2Scale, LnFinalNormalized, LnFinalScale, Pattern,
        RotK, RotQ,
    };
    let family = config.family.as_str();
    let is_other = match kind {
        // TransformerLens reads these beside the computation, or counts gains and scales otherwise.
        Embed | Ln1Scale | Ln1Normalized | Ln2Scale | Ln2Normalized | LnFinalScale | LnFinalNormalized => true,
        // It is told of these families' patterns once they have been used.
        Pattern | AttnScores => ["gpt_neo", "gptj", "opt"].contains(&family),
        // It has no such hooks there.
        RotQ | RotK => ["gpt_neox", "gptj", "phi3"].contains(&family),
        _ => false,
    };
    if !is_other {
        return Ok(());
    }
    Err(Error::request(format!(
        "TransformerLens does not change {} of a model of the {family} family as this program does, so that this is not written as code; change another site",
        kind.hook()
    )))
}

/// Writes the active edits of a stack as hooks.
struct Edits<'s, 'a> {
    script: &'s mut Script<'a>,
    desk: &'s Desk,
    base: RunSide,
}

/// What a hook of an edit takes its values from.
#[derive(Default)]
struct Needs {
    /// Hooks whose values in the unedited run are needed, and in the other prompt's.
    own: Vec<String>,
    other: Vec<String>,
    reference: Vec<String>,
    unit: bool,
}

impl Edits<'_, '_> {
    fn write(mut self) -> Result<()> {
        let facts = self.script.facts;
        let base = facts.pair.run(self.base)?;
        self.desk.stack.check(&base.model.config, base.len())?;
        let alignment = facts.pair.alignment_from(self.base);
        let (mut needs, mut hooks, mut bodies) = (Needs::default(), Vec::new(), Vec::new());
        // Edits of generated tokens change nothing in a prompt's run.
        let active = self.desk.stack.active().filter(|e| e.positions != Positions::Generated);
        for (i, edit) in active.enumerate() {
            sound(&base.model.config, edit.site.kind)?;
            let body = self.body(edit, &alignment, &mut needs)?;
            let site = if edit.action == Action::KnockOut { SiteKind::AttnScores } else { edit.site.kind };
            hooks.push(format!("(\"{}\", edit_{})", Site::new(site, edit.site.layer), i + 1));
            bodies.push(format!(
                "\n\ndef edit_{}(value, hook):  # {}\n    value = value.clone()\n{}    return value",
                i + 1,
                one_line(&edit.to_string()),
                body.iter().map(|line| format!("    {line}\n")).collect::<String>()
            ));
        }
        self.write_sources(needs)?;
        for body in &bodies {
            self.script.line(body);
        }
        self.script.line(&format!("\n\nhooks = [{}]", hooks.join(", ")));
        Ok(())
    }

    fn write_sources(&mut self, needs: Needs) -> Result<()> {
        let facts = self.script.facts;
        let keep = |mut names: Vec<String>| {
            names.sort();
            names.dedup();
            names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
        };
        if !needs.other.is_empty() {
            let other = facts.pair.run(self.base.other())?;
            self.script.prompt("other_ids", other);
            let names = keep(needs.other);
            self.script.line(&format!("_, other = model.run_with_cache(other_ids, names_filter=[{names}])"));
        }
        if !needs.own.is_empty() {
            let names = keep(needs.own);
            self.script.line(&format!("_, own = model.run_with_cache(ids, names_filter=[{names}])"));
        }
        if !needs.reference.is_empty() {
            self.script.references(&self.desk.stack.reference, &format!("[{}]", keep(needs.reference)))?;
        }
        if needs.unit {
            self.script.line("\n\ndef unit(direction):\n    return direction / direction.norm()");
        }
        Ok(())
    }

    /// Returns the lines that change `value`.
    fn body(&self, edit: &Edit, alignment: &Alignment, needs: &mut Needs) -> Result<Vec<String>> {
        let name = edit.site.to_string();
        if edit.site.kind == SiteKind::ResidMid {
            return Err(Error::request(format!(
                "TransformerLens' hook_resid_mid changes what the MLP reads and not the stream, so that `{edit}` is not written as code; edit {}.attn_out instead",
                edit.site.layer
            )));
        }
        if edit.site.kind == SiteKind::AttnScores && edit.action != Action::KnockOut {
            return Err(unwritten(edit, "scores are only cut"));
        }
        let all = place(&edit.positions);
        let target = format!("value[{}]", index(edit, &all)?);
        Ok(match &edit.action {
            Action::Zero => vec![format!("{target} = 0.0")],
            Action::Set(v) if edit.is_edge() => {
                // A query sees no later key, whatever is written there.
                vec![format!("{target} = {v:?}"), "value = value.tril()".to_owned()]
            }
            Action::Set(v) => vec![format!("{target} = {v:?}")],
            Action::Scale(v) => vec![format!("{target} *= {v:?}")],
            Action::Mean => {
                let part = part_of_row(edit);
                if self.desk.stack.reference.is_empty() {
                    needs.own.push(name.clone());
                    vec![format!("{target} = own[\"{name}\"][0].mean(0){part}")]
                } else {
                    needs.reference.push(name.clone());
                    vec![format!("{target} = torch.cat([c[\"{name}\"][0] for c in caches]).mean(0){part}")]
                }
            }
            Action::Copy(which) if *which == self.base => {
                needs.own.push(name.clone());
                vec![format!("{target} = own[\"{name}\"][{}]", index(edit, &all)?)]
            }
            Action::Copy(_) => {
                needs.other.push(name.clone());
                let (to, from) = self.copied(edit, alignment)?;
                vec![format!("value[{}] = other[\"{name}\"][{}]", index(edit, &to)?, index(edit, &from)?)]
            }
            Action::Add { direction: Direction::Difference, factor } => {
                needs.other.push(name.clone());
                needs.own.push(name.clone());
                let (to, from) = self.copied(edit, alignment)?;
                let (to, from) = (index(edit, &to)?, index(edit, &from)?);
                let (own, other) = (format!("own[\"{name}\"][{to}]"), format!("other[\"{name}\"][{from}]"));
                let (clean, corrupted) = if self.base == RunSide::Clean { (own, other) } else { (other, own) };
                vec![format!("value[{to}] += {factor:?} * ({clean} - {corrupted})")]
            }
            Action::Add { direction, factor } => {
                vec![format!("{target} += {factor:?} * {}", self.direction(direction, edit, needs)?)]
            }
            Action::Project { direction } => vec![
                format!("direction = {}", self.direction(direction, edit, needs)?),
                format!("{target} -= ({target} @ direction)[..., None] * direction"),
            ],
            Action::Swap { from, to } => vec![
                format!("source = {}", self.direction(from, edit, needs)?),
                format!("target = {}", self.direction(to, edit, needs)?),
                format!("{target} += ({target} @ source)[..., None] * (target - source)"),
            ],
            Action::Feature { .. } => return Err(unwritten(edit, "it changes a dictionary's feature")),
            Action::KnockOut => {
                // The first position keeps its single edge.
                let rows = match &edit.positions {
                    Positions::At(list) => place(&Positions::At(list.iter().copied().filter(|p| *p > 0).collect())),
                    _ => "1:".to_owned(),
                };
                vec![format!("value[{}] = float(\"-inf\")", index(edit, &rows)?)]
            }
            Action::Force(weight) => self.force(edit, *weight),
        })
    }

    /// Gives an edge its weight; the query's other edges share the rest in proportion.
    fn force(&self, edit: &Edit, weight: f32) -> Vec<String> {
        let src = edit.src.unwrap_or_default();
        let rows = match &edit.positions {
            Positions::At(places) => list(&sorted(places).into_iter().filter(|p| *p >= src).collect::<Vec<_>>()),
            _ => format!("range({src}, value.shape[-1])"),
        };
        let head = edit.head.map_or(":".to_owned(), |h| h.to_string());
        vec![
            format!("for dest in {rows}:"),
            format!("    row = value[:, {head}, dest].clone()"),
            format!("    rest = row.sum(-1, keepdim=True) - row[..., [{src}]]"),
            format!("    value[:, {head}, dest] = row * torch.where(rest > 1e-9, (1 - {weight:?}) / rest, 0.0)"),
            format!("    value[:, {head}, dest, {src}] = {weight:?}"),
        ]
    }

    /// Returns the positions that an edit copies to and from.
    fn copied(&self, edit: &Edit, alignment: &Alignment) -> Result<(String, String)> {
        let pair = self.script.facts.pair;
        let (base, other) = (pair.run(self.base)?.len(), pair.run(self.base.other())?.len());
        if edit.is_edge() {
            same_places(alignment, other)?;
        }
        let chosen = match &edit.positions {
            Positions::At(places) => sorted(places),
            _ if base == other && alignment.iter().enumerate().all(|(i, p)| *p == Some(i)) => {
                return Ok((":".to_owned(), ":".to_owned()));
            }
            _ => (0..base).collect(),
        };
        let (to, from) = pairs(alignment, chosen.iter().copied());
        if matches!(edit.positions, Positions::At(_)) && to.len() < chosen.len() {
            return Err(Error::request(format!(
                "a position of `{edit}` has no counterpart in the other prompt; align it or choose another position"
            )));
        }
        let one = |list_of: &[usize]| match list_of {
            [one] => one.to_string(),
            many => list(many),
        };
        Ok((one(&to), one(&from)))
    }

    fn direction(&self, direction: &Direction, edit: &Edit, needs: &mut Needs) -> Result<String> {
        let whole_row = edit.coordinate.is_none() && edit.site.kind.axes().last() == Some(&Axis::Model);
        match direction {
            Direction::Token { .. } if !whole_row => Err(unwritten(edit, "a token's direction is one of the stream")),
            Direction::Token { id, minus } => {
                needs.unit = true;
                let minus = minus.map_or(String::new(), |m| format!(" - model.W_U[:, {m}]"));
                Ok(format!("unit(model.W_U[:, {id}]{minus})"))
            }
            Direction::Difference => Err(unwritten(edit, "its direction is another one at each position")),
            Direction::Vector(_) | Direction::Concept { .. } => {
                Err(unwritten(edit, "its direction is a list of numbers that only the session holds"))
            }
            Direction::Feature { .. } => Err(unwritten(edit, "its direction belongs to a dictionary")),
        }
    }
}

fn unwritten(edit: &Edit, why: &str) -> Error {
    Error::request(format!("the edit `{edit}` is not written as code: {why}; switch it off and copy again"))
}

fn sorted(places: &[usize]) -> Vec<usize> {
    let mut places = places.to_vec();
    places.sort_unstable();
    places.dedup();
    places
}

/// Returns positions as an index.
fn place(positions: &Positions) -> String {
    match positions {
        Positions::At(places) => match &sorted(places)[..] {
            [one] => one.to_string(),
            many => list(many),
        },
        _ => ":".to_owned(),
    }
}

/// Returns the index of what an edit changes at some positions.
fn index(edit: &Edit, positions: &str) -> Result<String> {
    let of = |n: Option<usize>| n.map(|n| n.to_string());
    if edit.is_edge() {
        let head = of(edit.head).unwrap_or_else(|| ":".to_owned());
        return Ok(format!(":, {head}, {positions}, {}", of(edit.src).unwrap_or_else(|| ":".to_owned())));
    }
    let per_head = edit.site.kind.axes().len() == 3;
    if per_head && edit.head.is_none() && edit.coordinate.is_some() {
        return Err(unwritten(edit, "its coordinate is one of a head; choose a head as well"));
    }
    let parts = [Some(":".to_owned()), Some(positions.to_owned()), of(edit.head), of(edit.coordinate)];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// Returns the index of the same part of a row of means.
fn part_of_row(edit: &Edit) -> String {
    [edit.head, edit.coordinate].into_iter().flatten().map(|i| format!("[{i}]")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::EditStack;
    use crate::progress::Progress;
    use crate::session::desk::PatchSettings;

    const CLEAN: [u32; 6] = [5, 9, 23, 44, 7, 31];
    const CORRUPTED: [u32; 6] = [5, 9, 61, 44, 7, 12];

    /// A model and two runs of it; the tiny models have no tokenizer, so that texts are ids.
    struct Bench {
        clean: Run,
        pair: Pair,
    }

    impl Bench {
        fn on(family: &str) -> Self {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(family);
            Self::of(Model::open(folder.to_str().unwrap()).unwrap(), &CORRUPTED)
        }

        fn of(model: Model, corrupted: &[u32]) -> Self {
            let model = Arc::new(model);
            let run = |ids: &[u32]| Arc::new(Trace::run(&model, ids.to_vec(), &Progress::new()).unwrap());
            let pair = Pair::new(run(&CLEAN), run(corrupted));
            Self { clean: Run::of(String::new(), pair.clean.clone(), Some(50), Some(60)), pair }
        }

        fn python(&self, desk: &Desk, what: Snippet) -> Result<String> {
            python(desk, what, Facts { clean: &self.clean, pair: &self.pair })
        }
    }

    fn desk() -> Desk {
        Desk { model: "llama".to_owned(), ..Desk::default() }
    }

    fn edited(base: RunSide, edits: Vec<Edit>) -> Desk {
        Desk { show: Show::Edited, stack: EditStack { base, edits, reference: Vec::new() }.into(), ..desk() }
    }

    fn z() -> Edit {
        Edit::new(Site::new(SiteKind::Z, 1), Action::Zero).head(2)
    }

    #[test]
    fn texts_become_python_strings_on_one_line() {
        assert_eq!(quoted("a\n\"b\"\\ 'c'\t\r\0"), r#""a\n\"b\"\\ 'c'\t\r\u0000""#);
        assert_eq!(quoted("é 日本 🙂"), "\"é 日本 🙂\"");
        // What an editor takes for the end of a line, or turns around, is escaped.
        assert_eq!(quoted("\u{2028}\u{85}\u{202e}\u{7f}"), "\"\\u2028\\u0085\\u202e\\u007f\"");
        assert_eq!(one_line("a\"\nb\""), "a\\\"\\nb\\\"");
        for text in ["x\ny", "\u{2028}", "\"", "\\"] {
            assert_eq!(serde_json::from_str::<String>(&quoted(text)).unwrap(), text);
        }
    }

    #[test]
    fn long_lists_are_wrapped() {
        let ids: Vec<u32> = (10_000..10_050).collect();
        let text = wrapped("ids = torch.tensor([[", &ids, "]])");
        assert!(text.lines().count() > 2 && text.lines().all(|l| l.len() <= WIDTH + 3), "{text}");
        assert_eq!(text.matches(',').count(), 49);
        assert_eq!(wrapped("x = [", &[1, 2], "]"), "x = [1, 2]");
    }

    #[test]
    fn names_of_weights_are_guessed_from_files() {
        assert_eq!(guess("SmolLM2-135M-Instruct.Q4_1"), "HuggingFaceTB/SmolLM2-135M-Instruct");
        assert_eq!(guess("qwen2.5-0.5b-IQ4_XS"), "Qwen/qwen2.5-0.5b");
        assert_eq!(guess("my-model.f16"), "my-model");
        assert_eq!(guess("pythia-70m"), "EleutherAI/pythia-70m");
        let bench = Bench::on("llama");
        let (name, note) = weights(&bench.clean.trace.model);
        assert!(name.ends_with("llama") && Path::new(&name).is_absolute() && note.is_none(), "{name}");
    }

    #[test]
    fn every_script_names_its_ids_model_and_program() {
        let bench = Bench::on("llama");
        for what in Snippet::ALL {
            let text = bench.python(&desk(), what).unwrap();
            assert!(text.contains("[[5, 9, 23, 44, 7, 31]]"), "{text}");
            assert!(text.contains("MODEL = \"") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
            assert!(text.contains("result = ") && text.contains("print("), "{text}");
            assert_eq!(text.contains("[[5, 9, 61, 44, 7, 12]]"), what == Snippet::Patching, "{text}");
            let sweeps = matches!(what, Snippet::Patching | Snippet::Ablation);
            assert_eq!(sweeps, text.contains("def metric"), "{text}");
            assert!(what == Snippet::Pattern || text.contains("answer = 50") && text.contains("wrong = 60"), "{text}");
        }
    }

    #[test]
    fn the_run_that_is_shown_is_the_one_that_is_written() {
        let bench = Bench::on("llama");
        let corrupted = bench.python(&Desk { show: Show::Corrupted, ..desk() }, Snippet::Run).unwrap();
        assert!(corrupted.contains("61") && !corrupted.contains("23, 44"), "{corrupted}");
        let text = bench.python(&edited(RunSide::Clean, vec![z().at(3)]), Snippet::Lens).unwrap();
        assert!(text.contains("value[:, 3, 2] = 0.0") && text.contains("model.hooks(fwd_hooks=hooks)"), "{text}");
        let copy = Edit { action: Action::Copy(RunSide::Corrupted), ..z() };
        let text = bench.python(&edited(RunSide::Clean, vec![copy]), Snippet::Run).unwrap();
        assert!(text.contains("other_ids = torch.tensor([[5, 9, 61") && text.contains("other[\""), "{text}");
        let difference = Desk { show: Show::Difference, ..desk() };
        let error = bench.python(&difference, Snippet::Pattern).unwrap_err();
        assert!(error.is_request() && error.to_string().contains("difference of two runs"), "{error}");
        // An edit that is switched off is not part of the run.
        let off = edited(RunSide::Clean, vec![Edit { enabled: false, ..z() }]);
        assert!(!bench.python(&off, Snippet::Run).unwrap().contains("hooks"));
    }

    #[test]
    fn sweeps_follow_the_settings() {
        let bench = Bench::on("llama");
        let sweep = |site, by, what| {
            let patching = PatchSettings { site, by, ..PatchSettings::default() };
            bench.python(&Desk { patching, ..desk() }, what)
        };
        let text = sweep(SiteKind::K, Axes::LayerHeadPos, Snippet::Patching).unwrap();
        assert!(
            text.contains("torch.full([3, 2, 6]") && text.contains("value[:, pos, head] = cache[name][:, pos, head]")
        );
        let text = sweep(SiteKind::Pattern, Axes::DestSrc { layer: 1, head: 3 }, Snippet::Ablation).unwrap();
        assert!(text.contains("layer, head = 1, 3") && text.contains("value[:, head, dest, src] = 0.0"), "{text}");
        let text = sweep(SiteKind::ResidMid, Axes::LayerPos, Snippet::Patching).unwrap();
        assert!(text.contains("hook_attn_out\", edit)") && text.contains("- own[f"), "{text}");
        assert!(sweep(SiteKind::Z, Axes::LayerPos, Snippet::Patching).unwrap_err().is_request());
    }

    #[test]
    fn positions_without_a_counterpart_are_left_out() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/llama");
        let bench = Bench::of(Model::open(folder.to_str().unwrap()).unwrap(), &[5, 9, 8, 23, 44, 7, 31]);
        let patching = |site, by| Desk { patching: PatchSettings { site, by, ..PatchSettings::default() }, ..desk() };
        let text = bench.python(&patching(SiteKind::Z, Axes::LayerHead), Snippet::Patching).unwrap();
        assert!(
            text.contains("positions = [0, 1, 3, 4, 5, 6]") && text.contains("sources = [0, 1, 2, 3, 4, 5]"),
            "{text}"
        );
        let error = bench.python(&patching(SiteKind::Pattern, Axes::LayerHead), Snippet::Patching).unwrap_err();
        assert!(error.to_string().contains("one to one"), "{error}");
    }

    #[test]
    fn what_cannot_be_written_is_one_sentence() {
        let bench = Bench::on("llama");
        let post = |action| Edit::new(Site::new(SiteKind::ResidPost, 1), action);
        let vector = Direction::Vector(vec![1.0; 64]);
        let feature = Action::Feature {
            dictionary: "sae".to_owned(),
            feature: 3,
            change: crate::engine::edit::FeatureChange::Set(0.0),
        };
        for (edit, part) in [
            (post(Action::Add { direction: vector, factor: 1.0 }), "list of numbers"),
            (post(feature), "dictionary"),
            (Edit::new(Site::new(SiteKind::ResidMid, 1), Action::Zero), "resid_mid"),
            (Edit::new(Site::new(SiteKind::LnFinalScale, 0), Action::Scale(2.0)), "ln_final.hook_scale"),
        ] {
            let error = bench.python(&edited(RunSide::Clean, vec![edit]), Snippet::Run).unwrap_err();
            assert!(error.is_request() && error.to_string().contains(part), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        let approximate = PatchSettings { source: Source::Approximate, ..PatchSettings::default() };
        let error = bench.python(&Desk { patching: approximate, ..desk() }, Snippet::Patching).unwrap_err();
        assert!(error.to_string().contains("approximate"), "{error}");
        let own = Bench::of(Model::open("induction").unwrap(), &CORRUPTED);
        let error = own.python(&desk(), Snippet::Run).unwrap_err();
        assert!(error.is_request() && error.to_string().contains("own family"), "{error}");
    }

    #[test]
    fn a_window_and_a_file_pin_the_same() {
        let bench = Bench::on("llama");
        let facts = Facts { clean: &bench.clean, pair: &bench.pair };
        let mut d = desk();
        settle(&mut d, facts).unwrap();
        assert_eq!(d.pinned.pos, 5);
        let best = direct_attribution(&bench.clean.trace, 5, 50, Some(60)).unwrap().heads;
        let largest = best.iter().flatten().copied().fold(f32::MIN, f32::max);
        assert_eq!(best[d.pinned.layer][d.pinned.head.unwrap()], largest);
        let mut chosen = Desk { chose_head: true, chose_pos: true, ..desk() };
        chosen.pinned = Pinned { pos: 2, layer: 1, head: None, ..Pinned::default() };
        let before = chosen.pinned;
        settle(&mut chosen, facts).unwrap();
        assert_eq!(chosen.pinned, before);
    }
}
