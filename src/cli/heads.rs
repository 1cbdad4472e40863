//! `heads`: what kind of head each is.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, json};

use super::output::document;
use super::{ModelArgs, PromptArgs, emit, progress, table};
use crate::analysis::head_scores::{Measure, SCORES, head_scores, repeat_length, repeated_random};
use crate::engine::Trace;
use crate::error::{Error, Result};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Seed of the random tokens that are used without a prompt
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many random tokens, before they are repeated once
    #[arg(long, default_value_t = 30, value_name = "N")]
    length: usize,
    /// Heads to list per score in the table
    #[arg(long, default_value_t = 8, value_name = "N")]
    top: usize,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let given = args.prompt.optional(&model)?;
    let random = given.is_none();
    let ids = match given {
        Some(ids) => ids,
        None => {
            if args.length < 2 || args.length > model.config.n_ctx / 2 {
                return Err(Error::request(format!(
                    "--length {} does not fit; give 2 to {} tokens",
                    args.length,
                    model.config.n_ctx / 2
                )));
            }
            repeated_random(model.config.d_vocab, args.length, args.seed)
        }
    };
    // A text is scored by detection patterns; tokens repeated once by their diagonals.
    let measure = match (args.prompt.prompt.is_some(), repeat_length(&ids)) {
        (false, Some(n)) => Measure::Diagonal { n },
        _ => Measure::Detector,
    };
    let (progress, bar) = progress("heads");
    let started = Instant::now();
    let trace = Trace::run(&model, ids, &progress)?;
    let scores = head_scores(&trace, measure, &progress)?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let by_name: Map<_, _> = SCORES
            .iter()
            .map(|s| (s.name().to_owned(), json!({"axes": ["layer", "head"], "values": scores.values[*s as usize]})))
            .collect();
        let (name, n) = match measure {
            Measure::Diagonal { n } => ("diagonal", Some(n)),
            Measure::Detector => ("detector", None),
        };
        let doc = json!({"scores": by_name, "measure": name, "n": n, "seed": random.then_some(args.seed)});
        return emit(&document(&model, Some(&trace.ids), seconds, doc).to_string());
    }
    let mut text = Vec::new();
    for score in SCORES {
        let mut ranked: Vec<(usize, usize, f32)> = scores.values[score as usize]
            .iter()
            .enumerate()
            .flat_map(|(l, heads)| heads.iter().enumerate().map(move |(h, v)| (l, h, *v)))
            .collect();
        ranked.sort_by(|a, b| b.2.total_cmp(&a.2));
        let rows: Vec<Vec<String>> =
            ranked.iter().take(args.top).map(|(l, h, v)| vec![format!("{l}.{h}"), format!("{v:.4}")]).collect();
        text.push(format!("{}: {}\n{}", score.name(), score.explain(), table(&["head", "score"], &rows)));
    }
    emit(&text.join("\n\n"))
}
