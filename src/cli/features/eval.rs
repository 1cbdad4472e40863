//! `features eval`: measures on a text how good a dictionary is.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{DictionaryArgs, TextArgs, encode::about};
use crate::cli::output::warn;
use crate::cli::{Job, ModelArgs, emit, emit_json, note, progress};
use crate::error::{Error, Result};
use crate::features::quality::{DENSITY_BINS, DENSITY_FROM, evaluate, judge};
use crate::features::rows::Rows;
use crate::features::train::elsewhere::Captured;
use crate::features::train::recipe::{self, split};
use crate::features::trust::explains_nothing;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    dictionary: DictionaryArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Judge on activations that are there already, without the model and its loss: safetensors with tensors by the names of
    /// sites or with one [n, d_in], or a folder of SAELens' cached activations
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "context", "tokens", "bos", "all", "loss_tokens"])]
    activations: Option<PathBuf>,
    /// Use all rows of the text, not only those that training holds out
    #[arg(long)]
    all: bool,
    /// Tokens on which the loss is measured, with three passes each
    #[arg(long, value_name = "N", default_value_t = 8_192)]
    loss_tokens: usize,
}

/// Judges on activations in a file.
fn on_activations(args: &Arguments, path: &Path) -> Result<()> {
    let (progress, bar) = progress("judging");
    let loading = Instant::now();
    let dictionary = args.dictionary.open(&progress)?;
    let file = Captured::open(path)?;
    let target = match (dictionary.transcoder, dictionary.output) {
        (false, _) => None,
        (true, Some(place)) => Some(file.table(place, false)?),
        (true, None) => {
            return Err(Error::request(
                "the transcoder does not say where it writes; name it with --site and --target",
            ));
        }
    };
    let input = if target.is_some() { dictionary.input.map(|p| file.table(p, false)) } else { None };
    let input = input.unwrap_or_else(|| file.only(dictionary.input))?;
    let load_seconds = loading.elapsed().as_secs_f64();
    let found = judge(&dictionary, &input, target.as_ref(), &progress)?;
    drop(bar);
    let r = &found.all;
    let of = format!("of the activations in {}", path.display());
    // Equal rows have no variance to explain.
    if !r.explained_variance.is_nan() {
        explains_nothing(&dictionary, r, &of).iter().for_each(|sentence| warn(sentence));
    }
    if args.model.json {
        return emit_json(json!({
            "model": {"name": dictionary.model_name}, "dictionary": about(&dictionary), "quality": found,
            "seconds": found.seconds, "load_seconds": load_seconds,
        }));
    }
    emit(&format!(
        "{}\n\n{} positions: L0 {:.1} · explained variance {:.4} · MSE {:.4} · cosine {:.4} · {:.2} % of the features are dead · {:.1} s",
        dictionary.describe(),
        r.positions,
        r.l0,
        r.explained_variance,
        r.mse,
        r.cosine,
        100.0 * found.dead,
        found.seconds
    ))
}

pub fn execute(args: &Arguments) -> Result<()> {
    if let Some(path) = &args.activations {
        return on_activations(args, path);
    }
    let job = Job::begin(&args.model, "judging")?;
    let model = &job.model;
    let dictionary = args.dictionary.open(&job.progress)?;
    dictionary.check(&model.config)?;
    super::check(model, &dictionary);
    let cut = args.text.cut(model, Some(&dictionary));
    let rows = Rows::cut(model, &args.text.text, &cut, &job.progress)?;
    let rows = if args.all { rows } else { split(rows).1 };
    let held_out = if args.all { Some(false) } else { recipe::held_out(&dictionary, model, &args.text.text, &cut) };
    let quality = evaluate(model, &dictionary, &rows, args.loss_tokens, &job.progress)?;
    job.took(quality.seconds);
    let json = || {
        json!({
            "dictionary": about(&dictionary), "quality": quality, "held_out": held_out,
            "density_bins": {"from": DENSITY_FROM, "to": 0.0, "bins": DENSITY_BINS, "unit": "log10 share of positions"},
        })
    };
    let text = || {
        if held_out.is_none() {
            note(
                "the dictionary does not say that it was trained on this text, cut like this: some rows may have been trained on",
            );
        }
        format!("{}\n\n{}", dictionary.describe(), quality.report())
    };
    job.finish(None, json, text)
}
