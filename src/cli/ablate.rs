//! `ablate`: what is lost when one component is removed.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::output::document;
use super::sweep::{MetricArg, SiteArg, byof, emit_sweep, estimate_line, nested};
use super::{ModelArgs, PromptArgs, emit, progress};
use crate::analysis::metric::MetricKind;
use crate::analysis::pair::Pair;
use crate::analysis::patching::{Ablation, ablation};
use crate::analysis::sweep::Sweep;
use crate::engine::Trace;
use crate::error::{Error, Result};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Token whose logit to follow
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    answer: Option<String>,
    /// Token whose logit to subtract
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    wrong: Option<String>,
    /// What to remove
    #[arg(long, value_enum)]
    site: SiteArg,
    /// The grid: layer,head | layer,head,pos | layer,pos | layer (default: all positions together)
    #[arg(long, value_name = "AXES")]
    by: Option<String>,
    /// The head whose edges `--by dest,src` cuts out
    #[arg(long, value_name = "LAYER.HEAD", requires = "by")]
    head: Option<String>,
    /// What takes its place
    #[arg(long, value_enum, default_value_t)]
    with: Ablation,
    /// The prompt to resample from
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    corrupt: Option<String>,
    /// The prompt to resample from, as token ids
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', conflicts_with = "corrupt")]
    corrupt_ids: Option<Vec<u32>>,
    /// Texts over whose positions the mean is taken (repeat; default: the prompt's own positions)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    reference: Vec<String>,
    /// What to measure at the last position (default: logit difference with --wrong, else logit)
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    /// Cells to list in the table
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

pub fn execute(args: &Arguments) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let ids = args.prompt.required(&model)?;
    let one = |t: &Option<String>| t.as_deref().map(|t| model.single_token(t)).transpose();
    let (answer, wrong) = (one(&args.answer)?, one(&args.wrong)?);
    let default = if wrong.is_some() { MetricKind::LogitDifference } else { MetricKind::Logit };
    let metric = args.metric.map_or(default, MetricArg::kind).with(answer, wrong)?;
    let site = args.site.kind();
    let whole = byof(site, None, None).map(|by| match by {
        crate::analysis::sweep::By::LayerPos => crate::analysis::sweep::By::Layer,
        other => other,
    });
    let by = if args.by.is_some() { byof(site, args.by.as_deref(), args.head.as_deref())? } else { whole? };
    if args.with == Ablation::Resample && args.corrupt.is_none() && args.corrupt_ids.is_none() {
        return Err(Error::request("resample ablation takes values from another prompt; add --corrupt TEXT"));
    }
    if args.with == Ablation::Mean && site == crate::engine::SiteKind::Pattern {
        return Err(Error::request(
            "patterns cannot be mean-ablated, their rows differ in length; choose zero or resample",
        ));
    }
    let (progress, bar) = progress("ablate");
    let started = Instant::now();
    let run = |ids| Ok::<_, Error>(Arc::new(Trace::run(&model, ids, &progress)?));
    let clean = run(ids)?;
    let mut pair = match (&args.corrupt, &args.corrupt_ids) {
        (Some(text), _) => Pair::new(clean, run(model.encode(text, args.prompt.bos)?)?),
        (None, Some(ids)) => Pair::new(clean, run(ids.clone())?),
        (None, None) => Pair::alone(clean),
    };
    pair.reference =
        Arc::new(args.reference.iter().map(|t| run(model.encode(t, args.prompt.bos)?)).collect::<Result<Vec<_>>>()?);
    let sweep = Sweep::new(&pair, ablation(site, by, args.with, metric), &progress)?;
    let estimate = sweep.estimate();
    if !args.model.json {
        eprintln!("{}", estimate_line(&estimate));
    }
    let found = sweep.run(&progress, |_| {})?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    let reference = match (args.with, args.reference.len()) {
        (Ablation::Mean, 0) => Some("the prompt's own positions".to_owned()),
        (Ablation::Mean, n) => Some(format!("all positions of {n} reference texts")),
        _ => None,
    };
    if args.model.json {
        let axes: Vec<&str> = found.axes.iter().map(|(n, _)| *n).collect();
        let shape: Vec<usize> = found.axes.iter().map(|(_, n)| *n).collect();
        let doc = json!({
            "site": args.site.name(), "by": by.name(), "with": args.with.label(), "reference": reference,
            "metric": found.question.metric.kind().name(),
            "axes": axes, "values": nested(&found.values, &shape), "baseline": found.baseline,
            "cells_run": found.run, "cells_skipped": found.skipped,
            "sweep_seconds": found.seconds,
            "estimate": {"seconds": estimate.seconds, "bytes": estimate.bytes},
        });
        return emit(&document(&model, Some(&pair.clean.ids), seconds, doc).to_string());
    }
    let change: Vec<f32> = found.values.iter().map(|v| v - found.baseline).collect();
    emit_sweep(
        &found,
        &change,
        args.top,
        &format!(
            "{} ablation of {} by {}{}: change of the {} from {:+.4}",
            args.with.label(),
            args.site.name(),
            by.name(),
            reference.map_or(String::new(), |r| format!(" (mean over {r})")),
            found.question.metric.kind().label(),
            found.baseline
        ),
        f32::abs,
    )
}
