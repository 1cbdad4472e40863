//! Printing: one JSON document or a table on stdout, progress on stderr.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// Prints to stdout. A reader that went away is no failure.
pub fn emit(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// The fields that every document carries, then `rest`.
pub fn document(model: &Model, ids: Option<&[u32]>, seconds: f64, rest: Value) -> Value {
    let mut doc = Map::new();
    doc.insert("model".to_owned(), model_facts(model));
    if let Some(ids) = ids {
        let tokens: Vec<Value> = ids.iter().map(|id| json!({"id": id, "text": model.token_text(*id)})).collect();
        doc.insert("tokens".to_owned(), Value::Array(tokens));
    }
    if let Value::Object(rest) = rest {
        doc.extend(rest);
    }
    doc.insert("seconds".to_owned(), json!(seconds));
    doc.insert("load_seconds".to_owned(), json!(model.load_seconds));
    Value::Object(doc)
}

pub fn model_facts(model: &Model) -> Value {
    let c = &model.config;
    json!({
        "name": c.name, "family": c.family, "n_layers": c.n_layers, "n_heads": c.n_heads,
        "n_kv_heads": c.n_kv_heads, "d_model": c.d_model, "d_head": c.d_head, "d_mlp": c.d_mlp,
        "d_vocab": c.d_vocab, "n_params": model.n_params, "n_ctx": c.n_ctx,
    })
}

/// A line beside the output, on stderr.
pub fn note(text: &str) {
    // Nobody reads a closed stderr.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A token's text for a table: quoted, with line breaks visible.
pub fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A progress bar that follows a [`Progress`] until dropped; silent where stderr is no terminal.
pub struct Bar {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bar {
    pub fn new(label: &'static str, progress: Progress) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watched = stop.clone();
        let thread = std::io::stderr().is_terminal().then(|| {
            std::thread::spawn(move || {
                let bar = ProgressBar::new(1000);
                if let Ok(style) = ProgressStyle::with_template("{msg} {bar:32} {percent}% {eta} left") {
                    bar.set_style(style);
                }
                bar.set_message(label);
                while !watched.load(Ordering::Relaxed) {
                    bar.set_position((progress.fraction() * 1000.0) as u64);
                    std::thread::sleep(Duration::from_millis(50));
                }
                bar.finish_and_clear();
            })
        });
        Self { stop, thread }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The bar's thread only draws; if it failed there is nothing to mend.
            drop(thread.join());
        }
    }
}
