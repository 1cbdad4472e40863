//! `models`: lists the built-in models, and those that other programs keep on this machine.

use serde_json::{Value, json};

use super::{emit, emit_json, progress, table};
use crate::error::Result;
use crate::model::builtin::BUILTINS;
use crate::model::found::{FoundModels, Inspected};
use crate::question::Question;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Also list the models in the caches of Hugging Face, LM Studio and Ollama; they open by their names
    #[arg(long)]
    found: bool,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let found = if args.found {
        let (progress, bar) = progress("looking for models");
        let found = FoundModels { round: 0 }.run(&progress, &mut |_| {})?;
        drop(bar);
        Some(found)
    } else {
        None
    };
    let free = found.as_ref().and_then(|f| f.available);
    if args.json {
        let list: Vec<_> = BUILTINS
            .iter()
            .map(|b| json!({"name": b.name, "purpose": b.purpose, "n_params": b.n_params, "license": b.license}))
            .collect();
        let mut doc = json!({ "models": list });
        if let Some(found) = found {
            doc["found"] = found.models.iter().map(|f| entry(f, free)).collect();
            doc["memory_available_bytes"] = json!(free);
        }
        return emit_json(doc);
    }
    let rows: Vec<Vec<String>> = BUILTINS
        .iter()
        .map(|b| vec![b.name.to_owned(), b.n_params.to_string(), b.license.to_owned(), b.purpose.to_owned()])
        .collect();
    let mut text = table(&["model", "parameters", "licence", "purpose"], &rows);
    match found {
        None => {}
        Some(found) if found.models.is_empty() => {
            text += "\n\nNo model was found in the caches of Hugging Face, LM Studio and Ollama.";
        }
        Some(found) => {
            let rows: Vec<Vec<String>> = found.models.iter().map(|f| row(f, free)).collect();
            text += &format!("\n\n{}", table(&["found", "in", "GB", "family", "in memory"], &rows));
        }
    }
    emit(&text)
}

fn entry((found, facts): &Inspected, free: Option<u64>) -> Value {
    let mut entry = json!({"name": found.name, "path": found.path, "cache": found.cache, "bytes": found.bytes});
    match facts {
        Ok(facts) => {
            let needed = facts.memory_bytes();
            entry["family"] = json!(facts.family);
            entry["n_params"] = json!(facts.n_params);
            entry["memory_bytes"] = json!(needed);
            entry["stored_bytes"] = json!(facts.stored_bytes);
            // What is too large as f32 is held as it is stored.
            entry["fits"] = json!(free.map(|free| needed.min(facts.stored_bytes) <= free));
        }
        Err(reason) => {
            for key in ["family", "memory_bytes", "stored_bytes", "fits"] {
                entry[key] = Value::Null;
            }
            entry["error"] = json!(reason);
        }
    }
    entry
}

fn row((found, facts): &Inspected, free: Option<u64>) -> Vec<String> {
    let gb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e9);
    let (family, memory) = match facts {
        Ok(facts) => {
            let needed = facts.memory_bytes();
            let fits = match free {
                Some(free) if needed.min(facts.stored_bytes) > free => format!(", {} are free", gb(free)),
                _ => String::new(),
            };
            (facts.family.clone(), format!("{} as f32, {} as stored{fits}", gb(needed), gb(facts.stored_bytes)))
        }
        Err(reason) => ("-".to_owned(), reason.clone()),
    };
    vec![found.name.clone(), found.cache.to_owned(), gb(found.bytes), family, memory]
}
