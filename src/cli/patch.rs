//! `patch`: activation patching.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::output::document;
use super::sweep::{SiteArg, byof, emit_sweep, nested};
use super::{ModelArgs, emit, progress};
use crate::analysis::metric::MetricKind;
use crate::analysis::pair::Pair;
use crate::analysis::patching::patching;
use crate::analysis::sweep::{Sweep, check_span};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;

/// The two prompts and what is compared.
#[derive(clap::Args, Clone, Debug)]
pub struct PairArgs {
    /// The clean prompt, which gives the answer
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "clean_ids")]
    pub clean: Option<String>,
    /// The corrupted prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "corrupt_ids")]
    pub corrupt: Option<String>,
    /// The clean prompt as token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub clean_ids: Option<Vec<u32>>,
    /// The corrupted prompt as token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub corrupt_ids: Option<Vec<u32>>,
    /// Put the model's beginning-of-sequence token first
    #[arg(long)]
    pub bos: bool,
    /// The clean prompt's answer, a single token
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub answer: Option<String>,
    /// The token to compare it with
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub wrong: Option<String>,
}

impl PairArgs {
    /// Both runs.
    pub fn runs(&self, model: &Arc<Model>, progress: &crate::progress::Progress) -> Result<Pair> {
        let read = |text: &Option<String>, ids: &Option<Vec<u32>>, name: &str| -> Result<Vec<u32>> {
            match (text, ids) {
                (Some(text), _) => model.encode(text, self.bos),
                (None, Some(ids)) => Ok(ids.clone()),
                (None, None) => Err(Error::request(format!(
                    "the {name} prompt is missing; add --{name} TEXT or --{name}-ids 1,2,3"
                ))),
            }
        };
        let clean = read(&self.clean, &self.clean_ids, "clean")?;
        let corrupt = read(&self.corrupt, &self.corrupt_ids, "corrupt")?;
        let run = |ids| Ok::<_, Error>(Arc::new(Trace::run(model, ids, progress)?));
        Ok(Pair::new(run(clean)?, run(corrupt)?))
    }

    /// Ids of the answer and the wrong answer.
    pub fn tokens(&self, model: &Model) -> Result<(Option<u32>, Option<u32>)> {
        let one = |t: &Option<String>| t.as_deref().map(|t| model.single_token(t)).transpose();
        Ok((one(&self.answer)?, one(&self.wrong)?))
    }
}

/// The corrupted prompt's tokens, which positions of a patching grid count.
pub fn corrupt_tokens(pair: &Pair) -> Value {
    let text = |t: &Arc<Trace>| t.ids.iter().map(|id| json!({"id": id, "text": t.model.token_text(*id)})).collect();
    pair.corrupted.as_ref().map_or(Value::Null, text)
}

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pair: PairArgs,
    /// Where to patch
    #[arg(long, value_enum)]
    site: SiteArg,
    /// The grid: layer,pos | layer,head | layer,head,pos | layer | dest,src (default: the site's first)
    #[arg(long, value_name = "AXES")]
    by: Option<String>,
    /// The head whose edges `--by dest,src` patches
    #[arg(long, value_name = "LAYER.HEAD")]
    head: Option<String>,
    /// What to measure at the last position
    #[arg(long, value_enum, default_value_t)]
    metric: MetricKind,
    /// Cells to list in the table
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let (answer, wrong) = args.pair.tokens(&model)?;
    let metric = args.metric.with(answer, wrong)?;
    let by = byof(args.site.kind(), args.by.as_deref(), args.head.as_deref())?;
    let (progress, bar) = progress("patch");
    let started = Instant::now();
    let pair = args.pair.runs(&model, &progress)?;
    let question = patching(args.site.kind(), by, metric);
    let sweep = Sweep::new(&pair, question, &progress)?;
    check_span(&pair, metric)?;
    let estimate = sweep.estimate();
    if !args.model.json {
        eprintln!("{}", super::sweep::estimate_line(&estimate));
    }
    let found = sweep.run(&progress, |_| {})?;
    let normalised = found.normalised()?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let axes: Vec<&str> = found.axes.iter().map(|(n, _)| *n).collect();
        let shape: Vec<usize> = found.axes.iter().map(|(_, n)| *n).collect();
        let doc = json!({
            "corrupt_tokens": corrupt_tokens(&pair), "alignment": pair.alignment,
            "site": args.site.name(), "by": by.name(), "metric": found.question.metric.kind().name(),
            "axes": axes,
            "values": nested(&normalised, &shape),
            "raw": nested(&found.values, &shape),
            "clean": found.clean, "corrupt": found.corrupted,
            "logit_diff_clean": found.clean, "logit_diff_corrupt": found.corrupted,
            "cells_run": found.run, "cells_skipped": found.skipped, "cells_unaligned": found.unaligned,
            "sweep_seconds": found.seconds,
            "estimate": {"seconds": estimate.seconds, "bytes": estimate.bytes},
        });
        return emit(&document(&model, Some(&pair.clean.ids), seconds, doc).to_string());
    }
    emit_sweep(
        &found,
        &normalised,
        args.top,
        &format!(
            "patching {} by {}: 0 is the corrupted run ({:+.4}), 1 the clean run ({:+.4}), {}",
            args.site.name(),
            by.name(),
            found.corrupted.unwrap_or(f32::NAN),
            found.clean,
            found.question.metric.kind().label()
        ),
        f32::abs,
    )
}
