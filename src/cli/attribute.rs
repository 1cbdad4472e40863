//! `attribute`: estimates patching for all cells at once, from gradients.

use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;

use super::output::document;
use super::over_set::{self, OverSetArgs};
use super::patch::{PairArgs, corrupt_tokens};
use super::submit::Work;
use super::sweep::{SiteArg, emit_sweep, nested, parse_axes};
use super::{ModelArgs, emit_json, progress};
use crate::analysis::attribution_patching::attribution_patching;
use crate::analysis::audit::audit;
use crate::analysis::metric::{Metric, MetricKind};
use crate::analysis::patching::patching;
use crate::analysis::plan::{Planned, cost};
use crate::analysis::sweep::{Axes, Sweep};
use crate::circuit::eap::{Path, edge_scores};
use crate::circuit::trial::AnsweredPair;
use crate::engine::{Freeze, RunSide};
use crate::error::{Error, Result, note};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Attribution patching: nodes
    Atp,
    /// Edge attribution patching
    Eap,
    /// The same with integrated gradients
    EapIg,
}

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) pair: PairArgs,
    /// Which approximation
    #[arg(long, value_enum, default_value_t = Method::Atp)]
    pub(super) method: Method,
    /// Points of EAP-IG's path
    #[arg(long, default_value_t = crate::circuit::eap::STEPS, value_name = "M")]
    pub(super) steps: usize,
    /// Sites to report (repeat; default: all that can be patched)
    #[arg(long, value_enum)]
    site: Vec<SiteArg>,
    /// The grid, for a single --site
    #[arg(long, value_name = "AXES", requires = "site")]
    by: Option<String>,
    /// The head whose edges `--by dest,src` attributes
    #[arg(long, value_name = "LAYER.HEAD", requires = "by")]
    head: Option<String>,
    /// What to measure at the last position
    #[arg(long, value_enum, default_value_t)]
    pub(super) metric: MetricKind,
    /// Hold constant under the gradient (repeat): patterns, norms, gates
    #[arg(long, value_enum)]
    freeze: Vec<FreezeArg>,
    /// Run the same cells exactly as well and say how well the approximation agrees
    #[arg(long)]
    audit: bool,
    /// Cells or edges to list in the table
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(super) top: usize,
    #[command(flatten)]
    over: OverSetArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FreezeArg {
    Patterns,
    Norms,
    Gates,
}

/// Attributes every pair of a prompt set.
fn over_set(args: &Arguments) -> Result<()> {
    let name = args.method.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    let metric = args.metric.name();
    if args.method != Method::Atp {
        let (path, steps) = match args.method {
            Method::EapIg => (Path::Integrated(args.steps), args.steps),
            _ => (Path::Clean, 0),
        };
        let measured = json!({"method": name, "steps": steps, "metric": metric});
        let model = (Arc::new(args.model.open()?), args.model.json);
        return over_set::execute(&args.over, model, ("attribute", measured), args.top, &mut |pair, progress| {
            let metric = args.metric.with(pair.answer, pair.wrong)?;
            let scores = edge_scores(&pair.pair, metric, path, progress)?;
            Ok(over_set::of_edges(&scores, ends(pair, metric)?))
        });
    }
    let ([site], false) = (&args.site[..], args.audit) else {
        return Err(Error::request("over a prompt set one site is attributed, without --audit; name it with --site"));
    };
    let by = parse_axes(site.kind(), args.by.as_deref(), args.head.as_deref())?;
    let freeze = args.frozen();
    let measured = json!({"method": name, "site": site.name(), "by": by.name(), "head": args.head, "metric": metric,
        "frozen": freeze.names()});
    let model = (Arc::new(args.model.open()?), args.model.json);
    over_set::execute(&args.over, model, ("attribute", measured), args.top, &mut |pair, progress| {
        let metric = args.metric.with(pair.answer, pair.wrong)?;
        let found = attribution_patching(&pair.pair, metric, &[site.kind()], freeze, progress)?;
        Ok(over_set::of_sweep(&found.grid(&pair.pair, site.kind(), by)?))
    })
}

/// The metric of the clean and of the corrupted run.
fn ends(pair: &AnsweredPair, metric: Metric) -> Result<[f32; 2]> {
    let readout = pair.pair.readout(metric)?;
    let corrupted = pair.pair.run(RunSide::Corrupted)?;
    Ok([readout.of(&pair.pair.clean, pair.pair.clean.len() - 1)?, readout.of(corrupted, corrupted.len() - 1)?])
}

impl Arguments {
    /// The prompt set that is gone over.
    pub fn work(&self) -> Option<Work<'_>> {
        self.over.work(&self.model, self.planned())
    }

    /// What it costs on one pair of prompts.
    pub fn alone(&self) -> Work<'_> {
        Work::new(&self.model, |model| Ok(cost(model, self.pair.longest(model)?, self.planned())))
    }

    fn planned(&self) -> Planned {
        match self.method {
            Method::Atp => Planned::Nodes { site: None },
            Method::Eap => Planned::Edges { steps: 1 },
            Method::EapIg => Planned::Edges { steps: self.steps },
        }
    }

    fn frozen(&self) -> Freeze {
        Freeze {
            patterns: self.freeze.contains(&FreezeArg::Patterns),
            norms: self.freeze.contains(&FreezeArg::Norms),
            gates: self.freeze.contains(&FreezeArg::Gates),
        }
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    if args.over.is_asked()? {
        return over_set(args);
    }
    if args.method != Method::Atp {
        if !args.site.is_empty() || !args.freeze.is_empty() || args.audit {
            return Err(Error::request(
                "--site, --freeze and --audit belong to --method atp; edges have no sites of their own",
            ));
        }
        return super::attribute_edges::execute(args);
    }
    let model = Arc::new(args.model.open()?);
    let (answer, wrong) = args.pair.tokens(&model)?;
    let metric = args.metric.with(answer, wrong)?;
    let freeze = args.frozen();
    let sites: Vec<SiteArg> = if args.site.is_empty() {
        let exists = |s: &&SiteArg| s.kind().exists(&model.config);
        SiteArg::value_variants().iter().filter(exists).copied().collect()
    } else {
        args.site.clone()
    };
    let kinds: Vec<_> = sites.iter().map(|s| s.kind()).collect();
    let (progress, bar) = progress("attribute");
    let started = Instant::now();
    let pair = args.pair.runs(&model, &progress)?;
    let atp = attribution_patching(&pair, metric, &kinds, freeze, &progress)?;
    let mut nodes = serde_json::Map::new();
    let mut left_out = serde_json::Map::new();
    let mut tables = Vec::new();
    for site in sites {
        let by = match (&args.by, Axes::choices(site.kind()).first()) {
            (None, Some(first)) => *first,
            (by, _) => parse_axes(site.kind(), by.as_deref(), args.head.as_deref())?,
        };
        let grid = match atp.grid(&pair, site.kind(), by) {
            // Of prompts that differ in length, what still makes sense is reported.
            Err(e) if args.site.is_empty() && e.is_request() => {
                left_out.insert(site.name(), json!(e.to_string()));
                continue;
            }
            grid => grid?,
        };
        let values = grid.normalised()?;
        let axes: Vec<&str> = grid.axes.iter().map(|(n, _)| *n).collect();
        let shape: Vec<usize> = grid.axes.iter().map(|(_, n)| *n).collect();
        let mut entry = json!({"axes": axes, "by": by.name(), "values": nested(&values, &shape)});
        let mut caption = format!("attribution patching of {} by {} (an approximation)", site.name(), by.name());
        if args.audit {
            let exact = Sweep::new(&pair, patching(site.kind(), by, metric), &progress)?.run(&progress, |_| {})?;
            let a = audit(&values, &exact.normalised()?)?;
            caption = format!(
                "{caption}; against exact patching: correlation {:.3}, rank correlation of sizes {:.3}, mean |difference| {:.4}, worst {:.4}",
                a.correlation, a.rank_correlation, a.mean, a.worst
            );
            let worst: Vec<_> = a
                .disagreements
                .iter()
                .take(args.top)
                .map(|(i, x, e)| json!({"cell": grid.cell(*i), "approximate": x, "exact": e}))
                .collect();
            entry["audit"] = json!({"cells": a.cells, "correlation": a.correlation, "rank_correlation": a.rank_correlation,
                "mean_difference": a.mean, "worst_difference": a.worst, "worst_cells": worst});
        }
        nodes.insert(site.name(), entry);
        tables.push((grid, values, caption));
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let doc = json!({
            "method": "atp", "approximation": true, "metric": metric.kind().name(), "frozen": freeze.names(),
            "clean": atp.clean, "corrupt": atp.corrupted,
            "corrupt_tokens": corrupt_tokens(&pair), "alignment": pair.alignment,
            "gradient_seconds": atp.seconds, "nodes": nodes, "left_out": left_out,
        });
        return emit_json(document(&model, Some(&pair.clean.ids), seconds, doc));
    }
    for (site, reason) in &left_out {
        note(&format!("{site} is left out: {}", reason.as_str().unwrap_or_default()));
    }
    for (grid, values, caption) in &tables {
        emit_sweep(grid, values, args.top, caption, f32::abs)?;
    }
    Ok(())
}
