//! `ablate`: removes one component at a time and prints what the answer loses.

use std::sync::Arc;

use serde_json::json;

use super::submit::Work;
use super::sweep::{SiteArg, axes_of, estimate_line, nested, parse_axes, sweep_table};
use super::{Job, ModelArgs, PromptArgs, table};
use crate::analysis::backup::{Change, changes};
use crate::analysis::direct_attribution::direct_attribution;
use crate::analysis::metric::MetricKind;
use crate::analysis::pair::Pair;
use crate::analysis::patching::{Ablation, ablation};
use crate::analysis::plan::{Planned, cost};
use crate::analysis::sweep::{Axes, Sweep, SweepResult};
use crate::engine::resolve::resolve;
use crate::engine::{Edit, SiteKind, Trace};
use crate::error::{Error, Result, note};
use crate::progress::Progress;

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
    metric: Option<MetricKind>,
    /// List the components whose direct attribution rises after this ablation: a cell by its indices, as 23.3
    #[arg(long, value_name = "CELL")]
    backup: Option<String>,
    /// Cells to list in the table
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

impl Arguments {
    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::new(&self.model, |model| {
            let (site, n) = (self.site.kind(), self.prompt.required(model)?.len());
            let by = parse_axes(site, self.by.as_deref(), self.head.as_deref())?;
            Ok(cost(model, n, Planned::Sweep { site, by, runs: 1 }))
        })
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "ablate")?;
    let model = &job.model;
    let ids = args.prompt.required(model)?;
    let one = |t: &Option<String>| t.as_deref().map(|t| model.single_token(t)).transpose();
    let (answer, wrong) = (one(&args.answer)?, one(&args.wrong)?);
    let default = if wrong.is_some() { MetricKind::LogitDifference } else { MetricKind::Logit };
    let metric = args.metric.unwrap_or(default).with(answer, wrong)?;
    let site = args.site.kind();
    let whole = parse_axes(site, None, None).map(|by| match by {
        Axes::LayerPos => Axes::Layer,
        other => other,
    });
    let by = if args.by.is_some() { parse_axes(site, args.by.as_deref(), args.head.as_deref())? } else { whole? };
    if args.with == Ablation::Resample && args.corrupt.is_none() && args.corrupt_ids.is_none() {
        return Err(Error::request("resample ablation takes values from another prompt; add --corrupt TEXT"));
    }
    if args.with == Ablation::Mean && site == SiteKind::Pattern {
        return Err(Error::request(
            "patterns cannot be mean-ablated, their rows differ in length; choose zero or resample",
        ));
    }
    let run = |ids| Ok::<_, Error>(Arc::new(Trace::run(model, ids, &job.progress)?));
    let clean = run(ids)?;
    let mut pair = match (&args.corrupt, &args.corrupt_ids) {
        (Some(text), _) => Pair::new(clean, run(model.encode(text, args.prompt.bos)?)?),
        (None, Some(ids)) => Pair::new(clean, run(ids.clone())?),
        (None, None) => Pair::alone(clean),
    };
    pair.reference =
        Arc::new(args.reference.iter().map(|t| run(model.encode(t, args.prompt.bos)?)).collect::<Result<Vec<_>>>()?);
    let settings = ablation(site, by, args.with, metric);
    let backed_up = args.backup.as_deref().map(|text| cell(text, &settings.axes(&pair.clean))).transpose()?;
    if let Some(cell) = &backed_up {
        // An error of this cell is told before the sweep, which may be long.
        if metric.tokens().is_empty() {
            return Err(Error::request("--backup attributes an answer; choose a metric that uses one"));
        }
        resolve(&settings.edit(cell), &pair.sources(settings.base)?)?;
    }
    let sweep = Sweep::new(&pair, settings, &job.progress)?;
    let estimate = sweep.estimate();
    if !args.model.json {
        note(&estimate_line(&estimate));
    }
    let found = sweep.run(&job.progress, |_| {})?;
    let backup = backed_up.map(|cell| backup(&pair, &found, &cell, &job.progress)).transpose()?;
    let reference = match (args.with, args.reference.len()) {
        (Ablation::Mean, 0) => Some("the prompt's own positions".to_owned()),
        (Ablation::Mean, n) => Some(format!("all positions of {n} reference texts")),
        _ => None,
    };
    let json = || {
        let (axes, shape) = axes_of(&found);
        json!({
            "site": args.site.name(), "by": by.name(), "with": args.with.label(), "reference": reference,
            "metric": found.settings.metric.kind().name(),
            "axes": axes, "values": nested(&found.values, &shape), "baseline": found.baseline,
            "backup": backup.as_ref().map(|(edit, list)| json!({"edit": edit.to_string(), "changes": list.iter().map(|c|
                json!({"component": c.component.to_string(), "before": c.before, "after": c.after})).collect::<Vec<_>>()})),
            "cells_run": found.run, "cells_skipped": found.skipped,
            "sweep_seconds": found.seconds,
            "estimate": {"seconds": estimate.seconds, "bytes": estimate.bytes},
        })
    };
    let text = || {
        let mut text = String::new();
        if let Some((edit, list)) = &backup {
            let row = |c: &Change| {
                let numbers = [c.rise(), c.before, c.after].map(|v| format!("{v:+.4}"));
                std::iter::once(c.component.to_string()).chain(numbers).collect()
            };
            let rows: Vec<Vec<String>> = list.iter().take(args.top).map(row).collect();
            text = format!(
                "{}\n\ndirect attribution of the answer before and after `{edit}`, largest rises first\n\n",
                table(&["component", "rise", "before", "after"], &rows)
            );
        }
        let change: Vec<f32> = found.values.iter().map(|v| v - found.baseline).collect();
        let caption = format!(
            "{} ablation of {} by {}{}: change of the {} from {:+.4}",
            args.with.label(),
            args.site.name(),
            by.name(),
            reference.as_ref().map_or(String::new(), |r| format!(" (mean over {r})")),
            found.settings.metric.kind().label(),
            found.baseline
        );
        text + &sweep_table(&found, &change, args.top, &caption, f32::abs)
    };
    job.finish(Some(&pair.clean.ids), json, text)
}

/// Reads a cell of a grid: its indices with dots between.
fn cell(text: &str, axes: &[(&str, usize)]) -> Result<Vec<usize>> {
    let indices: Option<Vec<usize>> = text.split('.').map(|i| i.parse().ok()).collect();
    let fits = |list: &Vec<usize>| list.len() == axes.len() && list.iter().zip(axes).all(|(i, (_, n))| i < n);
    indices.filter(fits).ok_or_else(|| {
        let (names, sizes): (Vec<&str>, Vec<String>) = axes.iter().map(|(name, n)| (*name, n.to_string())).unzip();
        Error::request(format!(
            "--backup {text} is not a cell of this sweep; give {} with a dot between, within {}",
            names.join(", "),
            sizes.join(" × ")
        ))
    })
}

/// Ablates one cell and returns the edit, with the components whose direct attribution rises most first.
fn backup(pair: &Pair, found: &SweepResult, cell: &[usize], progress: &Progress) -> Result<(Edit, Vec<Change>)> {
    let [answer, rest @ ..] = &found.settings.metric.tokens()[..] else {
        return Err(Error::request("--backup attributes an answer; add --answer and a metric that uses it"));
    };
    let edit = found.settings.edit(cell);
    let sources = pair.sources(found.settings.base)?;
    let ops = Arc::new(vec![resolve(&edit, &sources)?]);
    let base = sources.base;
    let after = Trace::run_edited(&base.model, base.ids.clone(), ops, progress)?;
    let explain = |t: &Trace| direct_attribution(t, t.len() - 1, *answer, rest.first().copied());
    Ok((edit, changes(&explain(base)?, &explain(&after)?)))
}
