//! `features encode`: prints which features are active, and writes activations and reconstruction as safetensors.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Tensor;
use serde_json::json;

use super::{DictionaryArgs, shown};
use crate::cli::output::{document, quoted};
use crate::cli::writable;
use crate::cli::{ModelArgs, PromptArgs, emit, emit_json, progress, table};
use crate::error::{Error, Result};
use crate::features::harvest::activations;
use crate::features::train::elsewhere::Captured;
use crate::files::write_atomic;
use crate::memory::afford;
use crate::model::safetensors_file::pack;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    dictionary: DictionaryArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Activations to encode instead of a prompt's: safetensors with one tensor [n, d_in] or with tensors by the names of
    /// sites, or a folder of SAELens' cached activations
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "ids"])]
    activations: Option<PathBuf>,
    /// Where to write `features` [pos, d_sae] and `reconstruction` [pos, d_out]
    #[arg(short, long, value_name = "FILE", value_parser = writable)]
    output: Option<PathBuf>,
    /// How many features to list at each position
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let (progress, bar) = progress("encoding");
    let loading = Instant::now();
    let dictionary = args.dictionary.open(&progress)?;
    // Loading is not part of the computation.
    let (started, model, ids, x) = match &args.activations {
        Some(path) => {
            let table = Captured::open(path)?.only(dictionary.input)?;
            let x = table.tensor(0, table.rows())?;
            (Instant::now(), None, Vec::new(), x)
        }
        None => {
            let model = args.model.open()?;
            let ids = args.prompt.optional(&model)?.ok_or_else(|| {
                Error::request("there is nothing to encode; add --prompt TEXT, --ids 1,2,3 or --activations FILE")
            })?;
            let (input, _) = dictionary.check(&model.config)?;
            super::check(&model, &dictionary);
            let started = Instant::now();
            let x = activations(&model, &[&ids], &[input], &progress)?.remove(0);
            (started, Some(model), ids, x)
        }
    };
    let load_seconds = (started - loading).as_secs_f64();
    let (acts, reconstruction) = dictionary.run(&x, &progress)?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if let Some(path) = &args.output {
        // Four bytes a feature and position, of which nearly all are zero; the contract asks for them in full.
        let bytes = 4 * acts.rows().saturating_mul(dictionary.d_sae);
        afford(bytes, &format!("all features of {} positions", acts.rows()), "encode fewer at a time")?;
        let features = acts.dense(dictionary.d_sae)?;
        let tensors: [(&str, &Tensor); 2] = [("features", &features), ("reconstruction", &reconstruction)];
        let about = [
            ("dictionary", shown(&dictionary.path)),
            ("ids", serde_json::to_string(&ids).unwrap_or_default()),
            ("generator", concat!("circuitscope ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        write_atomic(path, &pack(tensors, &about)?)?;
    }
    let top: Vec<Vec<(u32, f32)>> = (0..acts.rows())
        .map(|r| {
            let mut row: Vec<(u32, f32)> = acts.row(r).collect();
            row.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            row.truncate(args.top);
            row
        })
        .collect();
    let l0 = acts.values.len() as f64 / acts.rows().max(1) as f64;
    if args.model.json {
        let listed: Vec<_> = top
            .iter()
            .map(|r| r.iter().map(|(f, v)| json!({"feature": f, "activation": v})).collect::<Vec<_>>())
            .collect();
        let rest = json!({
            "dictionary": about(&dictionary), "axes": ["pos"], "top": listed, "l0": l0,
            "output": args.output.as_deref().map(shown),
        });
        return match &model {
            Some(m) => emit_json(document(m, Some(&ids), seconds, rest)),
            None => {
                let mut doc = rest;
                doc["model"] = json!({"name": dictionary.model_name});
                (doc["seconds"], doc["load_seconds"]) = (json!(seconds), json!(load_seconds));
                emit_json(doc)
            }
        };
    }
    let rows: Vec<Vec<String>> = top
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let token = match (&model, ids.get(i)) {
                (Some(m), Some(id)) => quoted(&m.token_text(*id)),
                _ => i.to_string(),
            };
            let features: Vec<String> = r.iter().map(|(f, v)| format!("{f}:{v:.2}")).collect();
            vec![token, features.join("  ")]
        })
        .collect();
    let mut text = table(&["position", "features"], &rows);
    text.push_str(&format!("\n\n{} · {l0:.1} active a position · {seconds:.3} s", dictionary.describe()));
    emit(&text)
}

/// Returns the facts about a dictionary for a document.
pub(super) fn about(d: &crate::features::Dictionary) -> serde_json::Value {
    json!({
        "path": shown(&d.path), "format": d.format, "architecture": d.activation.name(), "kind": d.kind(),
        "d_in": d.d_in, "d_sae": d.d_sae, "d_out": d.d_out,
        "input": d.input.map(|p| p.to_string()), "output": d.output.map(|p| p.to_string()),
        "model_name": d.model_name,
    })
}
