//! `features eval`: measures on a text how good a dictionary is.

use serde_json::json;

use super::{DictionaryArgs, TextArgs, encode::about};
use crate::cli::{Job, ModelArgs, note};
use crate::error::Result;
use crate::features::quality::{DENSITY_BINS, DENSITY_FROM, evaluate};
use crate::features::rows::Rows;
use crate::features::train::recipe::{self, split};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    dictionary: DictionaryArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Use all rows of the text, not only those that training holds out
    #[arg(long)]
    all: bool,
    /// Tokens on which the loss is measured, with three passes each
    #[arg(long, value_name = "N", default_value_t = 8_192)]
    loss_tokens: usize,
}

pub fn execute(args: &Arguments) -> Result<()> {
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
