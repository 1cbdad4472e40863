//! `attribute`: estimates patching for all cells at once, from gradients.

use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;

use super::output::document;
use super::patch::{PairArgs, corrupt_tokens};
use super::sweep::{SiteArg, emit_sweep, nested, parse_axes};
use super::{ModelArgs, emit_json, progress};
use crate::analysis::attribution_patching::attribution_patching;
use crate::analysis::audit::audit;
use crate::analysis::metric::MetricKind;
use crate::analysis::patching::patching;
use crate::analysis::sweep::{Axes, Sweep};
use crate::engine::Freeze;
use crate::error::{Error, Result};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FreezeArg {
    Patterns,
    Norms,
    Gates,
}

pub fn execute(args: &Arguments) -> Result<()> {
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
    let freeze = Freeze {
        patterns: args.freeze.contains(&FreezeArg::Patterns),
        norms: args.freeze.contains(&FreezeArg::Norms),
        gates: args.freeze.contains(&FreezeArg::Gates),
    };
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
        eprintln!("{site} is left out: {}", reason.as_str().unwrap_or_default());
    }
    for (grid, values, caption) in &tables {
        emit_sweep(grid, values, args.top, caption, f32::abs)?;
    }
    Ok(())
}
