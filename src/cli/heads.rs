//! `heads`: scores every attention head: how much it attends to the previous token, to duplicates, by induction, and so on.

use serde_json::{Map, json};

use super::heads_over::{self, OverArgs};
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, table};
use crate::analysis::head_scores::{Measure, SCORES, head_scores, repeat_length, repeated_random};
use crate::analysis::plan::{OverText, Planned, cost};
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
    #[command(flatten)]
    pages: OverArgs,
    /// Heads to list per score in the table
    #[arg(long, default_value_t = 8, value_name = "N")]
    top: usize,
}

impl Arguments {
    /// What `--over` goes over.
    pub fn work(&self) -> Option<Work<'_>> {
        let p = &self.pages;
        (!p.over.is_empty()).then(|| Work::over_text(&self.model, &p.over, (p.tokens, p.context), OverText::Heads))
    }

    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::new(&self.model, |model| {
            // Without a prompt random tokens are repeated once.
            let given = self.prompt.optional(model)?.map(|ids| ids.len());
            let random = 2 * self.length.min(model.config.n_ctx / 2);
            Ok(cost(model, given.unwrap_or(random), Planned::Trace))
        })
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    args.pages.check()?;
    if args.pages.is_asked() {
        return heads_over::execute(&args.pages, &args.model);
    }
    let job = Job::begin(&args.model, "heads")?;
    let model = &job.model;
    let given = args.prompt.optional(model)?;
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
    let trace = Trace::run(model, ids, &job.progress)?;
    let scores = head_scores(&trace, measure, &job.progress)?;
    let json = || {
        let by_name: Map<_, _> = SCORES
            .iter()
            .map(|s| (s.name().to_owned(), json!({"axes": ["layer", "head"], "values": scores.values[*s as usize]})))
            .collect();
        let (name, n) = match measure {
            Measure::Diagonal { n } => ("diagonal", Some(n)),
            Measure::Detector => ("detector", None),
        };
        json!({"scores": by_name, "measure": name, "n": n, "seed": random.then_some(args.seed)})
    };
    let text = || {
        let tables = SCORES.map(|score| {
            let mut ranked: Vec<(usize, usize, f32)> = scores.values[score as usize]
                .iter()
                .enumerate()
                .flat_map(|(l, heads)| heads.iter().enumerate().map(move |(h, v)| (l, h, *v)))
                .collect();
            ranked.sort_by(|a, b| b.2.total_cmp(&a.2));
            let rows: Vec<Vec<String>> =
                ranked.iter().take(args.top).map(|(l, h, v)| vec![format!("{l}.{h}"), format!("{v:.4}")]).collect();
            format!("{}: {}\n{}", score.name(), score.explain(), table(&["head", "score"], &rows))
        });
        tables.join("\n\n")
    };
    job.finish(Some(&trace.ids), json, text)
}
