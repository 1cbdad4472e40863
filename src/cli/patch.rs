//! `patch`: copies one activation of the clean run into the corrupted run, cell by cell, and prints how much of the answer
//! comes back (activation patching).

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::over_set::{self, OverSetArgs};
use super::submit::Work;
use super::sweep::{SiteArg, axes_of, estimate_line, nested, parse_axes, sweep_table};
use super::{Job, ModelArgs, laid_out};
use crate::analysis::metric::MetricKind;
use crate::analysis::pair::Pair;
use crate::analysis::patching::patching;
use crate::analysis::plan::{Planned, cost};
use crate::analysis::sweep::{Sweep, check_span};
use crate::engine::Trace;
use crate::error::{Error, Result, note};
use crate::model::Model;
use crate::model::chat::{self, Ending};
use crate::progress::Progress;

/// The options that give the two prompts, and the tokens that are compared.
#[derive(clap::Args, Clone, Debug)]
pub struct PairArgs {
    /// The clean prompt, which gives the answer
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "clean_ids")]
    pub clean: Option<String>,
    /// The corrupted prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "corrupt_ids")]
    pub corrupt: Option<String>,
    /// A conversation as the clean prompt, laid out by the model's own chat template up to where the assistant answers: a
    /// file of JSON [{"role", "content"}, …], or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["clean", "clean_ids"])]
    pub clean_chat: Option<PathBuf>,
    /// A conversation as the corrupted prompt
    #[arg(long, value_name = "FILE", conflicts_with_all = ["corrupt", "corrupt_ids"])]
    pub corrupt_chat: Option<PathBuf>,
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
    /// Tokens of the longer prompt.
    ///
    /// # Errors
    /// As [`Self::ids`].
    pub fn longest(&self, model: &Model) -> Result<usize> {
        Ok(self.ids(model)?.iter().map(Vec::len).max().unwrap_or(0))
    }

    /// The ids of both prompts, clean and corrupted. A prompt that is missing is an error.
    pub fn ids(&self, model: &Model) -> Result<[Vec<u32>; 2]> {
        let read =
            |text: &Option<String>, chat: &Option<PathBuf>, ids: &Option<Vec<u32>>, name: &str| match (text, chat, ids)
            {
                (Some(text), ..) => model.encode(text, self.bos),
                (None, Some(file), _) => laid_out(model, &chat::read(file)?, Ending::Answer, self.bos),
                (None, None, Some(ids)) => Ok(ids.clone()),
                (None, None, None) => Err(Error::request(format!(
                    "the {name} prompt is missing; add --{name} TEXT, --{name}-chat FILE or --{name}-ids 1,2,3"
                ))),
            };
        // A document's tokens are the clean prompt's, and so are the turns that were remembered last.
        let corrupt = read(&self.corrupt, &self.corrupt_chat, &self.corrupt_ids, "corrupt")?;
        let clean = read(&self.clean, &self.clean_chat, &self.clean_ids, "clean")?;
        Ok([clean, corrupt])
    }

    /// Runs both prompts.
    pub fn runs(&self, model: &Arc<Model>, progress: &Progress) -> Result<Pair> {
        let [clean, corrupt] = self.ids(model)?;
        Pair::of_prompts(model, clean, Some(corrupt), progress)
    }

    /// Returns the ids of the answer and of the wrong answer, where they were given.
    pub fn tokens(&self, model: &Model) -> Result<(Option<u32>, Option<u32>)> {
        let one = |t: &Option<String>| t.as_deref().map(|t| model.single_token(t)).transpose();
        Ok((one(&self.answer)?, one(&self.wrong)?))
    }
}

/// Returns the tokens of the corrupted prompt, whose positions a patching grid counts.
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
    #[command(flatten)]
    over: OverSetArgs,
}

impl Arguments {
    /// The prompt set that is gone over.
    pub fn work(&self) -> Option<Work<'_>> {
        let site = self.site.kind();
        let by = parse_axes(site, self.by.as_deref(), self.head.as_deref()).ok()?;
        self.over.work(&self.model, Planned::Sweep { site, by, runs: 2 })
    }

    /// What it costs on one pair of prompts.
    pub fn alone(&self) -> Work<'_> {
        Work::new(&self.model, |model| {
            let (site, n) = (self.site.kind(), self.pair.longest(model)?);
            let by = parse_axes(site, self.by.as_deref(), self.head.as_deref())?;
            Ok(cost(model, n, Planned::Sweep { site, by, runs: 2 }))
        })
    }
}

/// Patches every pair of a prompt set.
fn over_set(args: &Arguments) -> Result<()> {
    let by = parse_axes(args.site.kind(), args.by.as_deref(), args.head.as_deref())?;
    let measured = json!({"site": args.site.name(), "by": by.name(), "head": args.head, "metric": args.metric.name()});
    let model = (Arc::new(args.model.open()?), args.model.json);
    over_set::execute(&args.over, model, ("patch", measured), args.top, &mut |pair, progress| {
        let metric = args.metric.with(pair.answer, pair.wrong)?;
        let found = Sweep::new(&pair.pair, patching(args.site.kind(), by, metric), progress)?.run(progress, |_| {})?;
        Ok(over_set::of_sweep(&found))
    })
}

pub fn execute(args: &Arguments) -> Result<()> {
    if args.over.is_asked()? {
        return over_set(args);
    }
    let job = Job::begin(&args.model, "patch")?;
    let (answer, wrong) = args.pair.tokens(&job.model)?;
    let metric = args.metric.with(answer, wrong)?;
    let by = parse_axes(args.site.kind(), args.by.as_deref(), args.head.as_deref())?;
    let pair = args.pair.runs(&job.model, &job.progress)?;
    let sweep = Sweep::new(&pair, patching(args.site.kind(), by, metric), &job.progress)?;
    check_span(&pair, metric)?;
    let estimate = sweep.estimate();
    if !args.model.json {
        note(&estimate_line(&estimate));
    }
    let found = sweep.run(&job.progress, |_| {})?;
    let normalised = found.normalised()?;
    let json = || {
        let (axes, shape) = axes_of(&found);
        json!({
            "corrupt_tokens": corrupt_tokens(&pair), "alignment": pair.alignment,
            "site": args.site.name(), "by": by.name(), "metric": found.settings.metric.kind().name(),
            "axes": axes,
            "values": nested(&normalised, &shape),
            "raw": nested(&found.values, &shape),
            "clean": found.clean, "corrupt": found.corrupted,
            "logit_diff_clean": found.clean, "logit_diff_corrupt": found.corrupted,
            "cells_run": found.run, "cells_skipped": found.skipped, "cells_unaligned": found.unaligned,
            "sweep_seconds": found.seconds,
            "estimate": {"seconds": estimate.seconds, "bytes": estimate.bytes},
        })
    };
    let text = || {
        let caption = format!(
            "patching {} by {}: 0 is the corrupted run ({:+.4}), 1 the clean run ({:+.4}), {}",
            args.site.name(),
            by.name(),
            found.corrupted.unwrap_or(f32::NAN),
            found.clean,
            found.settings.metric.kind().label()
        );
        sweep_table(&found, &normalised, args.top, &caption, f32::abs)
    };
    job.finish(Some(&pair.clean.ids), json, text)
}
