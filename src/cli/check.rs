//! `check`: what can be known of a model, and of a dictionary beside it, without anybody's word.

use serde_json::json;

use super::{Job, ModelArgs, open_unchecked, warn};
use crate::analysis::trust;
use crate::error::Result;
use crate::features::trust::check_all;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// A dictionary, or a set of them with one a layer, to check beside the model
    #[arg(long, value_name = "PATH")]
    dictionary: Option<String>,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::with(open_unchecked(&args.model.spec()?, args.model.weights)?.into(), args.model.json, "checking");
    let (model, progress) = (&job.model, &job.progress);
    let found = trust::check(model, progress)?;
    let dictionaries =
        args.dictionary.as_deref().map(|d| check_all(model, d, progress)).transpose()?.unwrap_or_default();
    let said = found.warnings.iter().chain(dictionaries.iter().flat_map(|d| &d.warnings));
    said.for_each(|w| warn(w));
    let token = |id: &u32| json!({"id": id, "text": model.token_text(*id)});
    let json = || {
        let first = &found.first;
        let mut doc = json!({
            "loss": found.loss.map(|l| l.nats_per_token), "bits_per_byte": found.loss.map(|l| l.bits_per_byte),
            "loss_tokens": found.loss.map(|l| l.tokens), "loss_limit": trust::limit(model.config.d_vocab),
            "round_trip": {"prose": found.round_trip, "other": found.round_trip_other},
            "first_token": {
                "puts": first.puts.as_ref().map(token), "names": first.names.as_ref().map(token),
                "config": first.config.iter().map(token).collect::<Vec<_>>(),
                "loss_with": first.loss_with, "loss_without": first.loss_without, "agrees": first.agrees,
            },
            "remarks": found.remarks,
        });
        if args.dictionary.is_some() {
            doc["dictionaries"] = json!(dictionaries);
        }
        doc
    };
    let text = || {
        let mut lines = vec![format!("{}: {}", model.config.name, found.line())];
        lines.extend(found.remarks.iter().cloned());
        lines.extend(dictionaries.iter().map(|d| {
            let explained =
                d.explained_variance.map_or("of one layer alone it cannot be said".to_owned(), |v| format!("{v:.3}"));
            let promised = d.promised_l0.map(|p| format!(" (promised {p:.0})")).unwrap_or_default();
            let at = if d.input == d.output { d.input.clone() } else { format!("{} → {}", d.input, d.output) };
            format!("{at}: explained variance {explained} · L0 {:.1}{promised}", d.l0)
        }));
        lines.join("\n")
    };
    job.finish(None, json, text)
}
