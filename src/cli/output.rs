//! Prints what a command found: one JSON document or a table on stdout, progress on stderr. [`Job`] holds what nearly
//! every command needs.

use std::cell::{Cell, OnceCell};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::ModelArgs;
use crate::error::{Error, Result, one_line};
use crate::features::trust::Checked;
use crate::model::Model;
use crate::progress::Progress;

/// Prints a text and a line break to stdout. A reader that has closed the pipe is no error.
pub fn emit(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Prints a text to stdout as it is. A reader that has closed the pipe is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// What a command's documents say besides its own fields. A process runs one command, so that it stands here once and no
/// command can forget it.
struct Beside {
    /// What a reader of the numbers has to know, in sentences, in the order in which it was found.
    warnings: Vec<String>,
    /// The conversation that was read in a prompt's place: its token ids, and the index of each one's message.
    turns: Option<(Vec<u32>, Vec<Option<usize>>)>,
    /// What the checks of the dictionaries said that the numbers come from.
    checked: Vec<Checked>,
}

static BESIDE: Mutex<Beside> = Mutex::new(Beside { warnings: Vec::new(), turns: None, checked: Vec::new() });

fn beside() -> std::sync::MutexGuard<'static, Beside> {
    // Nothing is left half done under the lock.
    BESIDE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a warning, a whole sentence, for every document and for stderr. The same one is kept once.
pub fn warn(sentence: &str) {
    let sentence = one_line(sentence);
    let mut beside = beside();
    if !beside.warnings.contains(&sentence) {
        beside.warnings.push(sentence);
    }
}

/// Says on stderr what was warned of. Once, when a command has ended well: an error is one sentence alone.
pub fn say_warnings() {
    for warning in &beside().warnings {
        note(&format!("circuitscope: warning: {warning}"));
    }
}

/// Says which message of a conversation each of these tokens belongs to.
pub fn remember_turns(ids: &[u32], turns: &[Option<usize>]) {
    beside().turns = Some((ids.to_vec(), turns.to_vec()));
}

/// Keeps what was checked of dictionaries for every document that comes from them.
pub fn remember_checked(checked: Vec<Checked>) {
    let mut beside = beside();
    beside.checked.retain(|old| checked.iter().all(|new| new.path != old.path));
    beside.checked.extend(checked);
}

/// Prints a document with its `"warnings"`, and the checks of its `"dictionaries"`. Every document is printed here but pages for Neuronpedia, which has its own form.
pub fn emit_json(mut document: Value) -> Result<()> {
    if let Value::Object(fields) = &mut document {
        let beside = beside();
        fields.insert("warnings".to_owned(), json!(beside.warnings));
        if !beside.checked.is_empty() {
            fields.insert("dictionaries".to_owned(), json!(beside.checked));
        }
        drop(beside);
    }
    emit(&document.to_string())
}

/// What a command needs while it computes: the opened model, the progress with its bar, and the clock.
pub struct Job {
    pub model: Arc<Model>,
    pub progress: Progress,
    json: bool,
    bar: Cell<Option<Bar>>,
    started: Instant,
    seconds: OnceCell<f64>,
}

impl Job {
    /// Opens the model that was asked for; then starts the clock and a progress bar with this label.
    pub fn begin(args: &ModelArgs, label: &'static str) -> Result<Self> {
        Ok(Self::with(Arc::new(args.open()?), args.json, label))
    }

    /// Starts the clock and a progress bar for a model that is open already.
    pub fn with(model: Arc<Model>, json: bool, label: &'static str) -> Self {
        let progress = Progress::new();
        let bar = Cell::new(Some(Bar::new(label, progress.clone())));
        Self { model, progress, json, bar, started: Instant::now(), seconds: OnceCell::new() }
    }

    /// Starts the clock again: the time until now was spent on loading.
    pub fn restart(&mut self) {
        self.started = Instant::now();
    }

    /// Takes `seconds` for the seconds of the computation, where it has a clock of its own.
    pub fn took(&self, seconds: f64) {
        self.hide_bar();
        // A clock that has stopped already keeps its seconds.
        let _ = self.seconds.set(seconds);
    }

    /// Takes the bar away, before text is printed while the computation goes on.
    pub fn hide_bar(&self) {
        drop(self.bar.take());
    }

    /// Returns the seconds of the computation. The first call stops the clock and takes the bar away.
    pub fn stop(&self) -> f64 {
        *self.seconds.get_or_init(|| {
            let seconds = self.started.elapsed().as_secs_f64();
            self.hide_bar();
            seconds
        })
    }

    /// Stops the clock and prints the result: with `--json` the fields of `json` in a document with the model, the tokens
    /// `ids` and the seconds, otherwise `text`. Only the one that is printed is built.
    pub fn finish(
        &self,
        ids: Option<&[u32]>,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let seconds = self.stop();
        if self.json { emit_json(document(&self.model, ids, seconds, json())) } else { emit(&text()) }
    }
}

/// Returns a document with the fields that each one carries and those of `rest`: `model`, `tokens` where there are ids
/// (with `turn`, the index of a token's message, where they are a conversation's), `rest`, `seconds` and `load_seconds`.
pub fn document(model: &Model, ids: Option<&[u32]>, seconds: f64, rest: Value) -> Value {
    model.warnings.iter().for_each(|w| warn(w));
    let mut doc = Map::new();
    doc.insert("model".to_owned(), model_facts(model));
    doc.insert("weights".to_owned(), json!(model.held.name()));
    if let Some(ids) = ids {
        let mut tokens: Vec<Value> = ids.iter().map(|id| json!({"id": id, "text": model.token_text(*id)})).collect();
        if let Some((_, turns)) = beside().turns.as_ref().filter(|(of, _)| of == ids) {
            for (token, turn) in tokens.iter_mut().zip(turns) {
                token["turn"] = json!(turn);
            }
        }
        doc.insert("tokens".to_owned(), Value::Array(tokens));
    }
    if let Value::Object(rest) = rest {
        doc.extend(rest);
    }
    doc.insert("seconds".to_owned(), json!(seconds));
    doc.insert("load_seconds".to_owned(), json!(model.load_seconds));
    Value::Object(doc)
}

/// Returns the sizes of a model for a document.
pub fn model_facts(model: &Model) -> Value {
    let c = &model.config;
    json!({
        "name": c.name, "family": c.family, "n_layers": c.n_layers, "n_heads": c.n_heads,
        "n_kv_heads": c.n_kv_heads, "d_model": c.d_model, "d_head": c.d_head, "d_mlp": c.d_mlp,
        "d_vocab": c.d_vocab, "n_params": model.n_params, "n_ctx": c.n_ctx,
    })
}

pub use crate::error::note;

/// Returns a token's text for a table: in quotes, with line breaks visible.
pub fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Where it is set and stderr is no terminal, stderr says in lines how far a command is: [`PROGRESS`], the share, the label.
pub const PROGRESS_LINES: &str = "CIRCUITSCOPE_PROGRESS";
pub const PROGRESS: &str = "circuitscope: progress: ";

/// A progress bar on stderr that follows a [`Progress`] until it is dropped. Where stderr is no terminal it draws nothing,
/// or says lines.
pub struct Bar {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bar {
    pub fn new(label: &'static str, progress: Progress) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watched = stop.clone();
        let goes_on = move || !watched.load(Ordering::Relaxed);
        let thread = if std::io::stderr().is_terminal() {
            Some(std::thread::spawn(move || draw(label, &progress, goes_on)))
        } else if std::env::var_os(PROGRESS_LINES).is_some() {
            Some(std::thread::spawn(move || say(label, &progress, goes_on)))
        } else {
            None
        };
        Self { stop, thread }
    }
}

fn draw(label: &'static str, progress: &Progress, goes_on: impl Fn() -> bool) {
    let bar = ProgressBar::new(1000);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:32} {percent}% {eta} left") {
        bar.set_style(style);
    }
    bar.set_message(label);
    while goes_on() {
        bar.set_position((progress.fraction() * 1000.0) as u64);
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
}

/// Says a line whenever a hundredth more is done, four times a second at most.
fn say(label: &str, progress: &Progress, goes_on: impl Fn() -> bool) {
    let (mut said, mut next) = (0.0, Instant::now() + Duration::from_millis(250));
    while goes_on() {
        let done = progress.fraction();
        if Instant::now() >= next && done >= said + 0.01 {
            note(&format!("{PROGRESS}{done:.2} {label}"));
            (said, next) = (done, Instant::now() + Duration::from_millis(250));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread only draws. If it panicked, the result is still whole.
            drop(thread.join());
        }
    }
}
