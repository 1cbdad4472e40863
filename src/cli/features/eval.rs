//! `features eval`: a dictionary's quality on text.

use serde_json::json;

use super::{DictionaryArgs, HELD_OUT, TextArgs, encode::about};
use crate::cli::output::document;
use crate::cli::{ModelArgs, emit, progress, table};
use crate::error::Result;
use crate::features::quality::{DENSITY_BINS, DENSITY_FROM, Quality, evaluate};

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
    let (progress, bar) = progress("judging");
    let dictionary = args.dictionary.open(&progress)?;
    let model = args.model.open()?;
    dictionary.check(&model.config)?;
    let rows = args.text.rows(&model, &progress)?;
    let rows = if args.all { rows } else { rows.held_out(HELD_OUT).1 };
    let quality = evaluate(&model, &dictionary, &rows, args.loss_tokens, &progress)?;
    drop(bar);
    if args.model.json {
        let rest = json!({
            "dictionary": about(&dictionary), "quality": quality, "held_out": !args.all,
            "density_bins": {"from": DENSITY_FROM, "to": 0.0, "bins": DENSITY_BINS, "unit": "log10 share of positions"},
        });
        return emit(&document(&model, None, quality.seconds, rest).to_string());
    }
    emit(&format!("{}\n\n{}", dictionary.describe(), report(&quality)))
}

/// The figures as a table.
pub(super) fn report(q: &Quality) -> String {
    let of = |name: &str, r: &crate::features::quality::Reconstruction| {
        vec![
            name.to_owned(),
            r.positions.to_string(),
            format!("{:.1}", r.l0),
            format!("{:.4}", r.explained_variance),
            format!("{:.4}", r.mse),
            format!("{:.4}", r.cosine),
            format!("{:.2}", r.mean_length),
        ]
    };
    let header = ["positions", "n", "L0", "explained variance", "MSE", "cosine", "length"];
    let mut text = table(
        &header,
        &[of("after the first", &q.after_first), of("without outliers", &q.typical), of("the first", &q.first)],
    );
    text.push_str(&format!(
        "\n\nCE-loss score {:.4}: {:.4} nats plain, {:.4} reconstructed, {:.4} with nothing there\n{:.2} % of the features are dead on {} tokens",
        q.ce_score,
        q.ce,
        q.ce_reconstructed,
        q.ce_ablated,
        100.0 * q.dead,
        q.tokens
    ));
    if let Some(c) = q.encoder_decoder_cosine {
        text.push_str(&format!(" · mean encoder–decoder cosine {c:.3}"));
    }
    text.push_str(&format!(" · {:.1} s", q.seconds));
    text
}
