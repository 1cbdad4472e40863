//! Reads the options of a sweep and prints its cells, for `patch`, `ablate`, `attribute` and `render`.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::{emit, table};
use crate::analysis::sweep::{Axes, Estimate, SweepResult};
use crate::engine::SiteKind;
use crate::error::{Error, Result};

/// The sites of a sweep, by their short names on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SiteArg {
    ResidPre,
    ResidMid,
    AttnOut,
    MlpOut,
    Z,
    Q,
    K,
    V,
    Pattern,
}

impl SiteArg {
    pub fn kind(self) -> SiteKind {
        match self {
            Self::ResidPre => SiteKind::ResidPre,
            Self::ResidMid => SiteKind::ResidMid,
            Self::AttnOut => SiteKind::AttnOut,
            Self::MlpOut => SiteKind::MlpOut,
            Self::Z => SiteKind::Z,
            Self::Q => SiteKind::Q,
            Self::K => SiteKind::K,
            Self::V => SiteKind::V,
            Self::Pattern => SiteKind::Pattern,
        }
    }

    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// The intervention at each cell of a sweep that `render` draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoArg {
    Patch,
    Zero,
    Mean,
    Resample,
}

/// Reads the axes of a sweep: those that were asked for, or the site's first choice.
pub fn parse_axes(site: SiteKind, by: Option<&str>, head: Option<&str>) -> Result<Axes> {
    let choices = Axes::choices(site);
    let known = || choices.iter().map(|c| c.name()).collect::<Vec<_>>().join(" or ");
    let chosen = match by {
        None => choices.first().copied(),
        Some(text) => choices.iter().copied().find(|c| c.name() == text.replace(' ', "")),
    };
    let chosen = chosen.ok_or_else(|| {
        Error::request(format!("--by {} does not fit this site; choose {}", by.unwrap_or_default(), known()))
    })?;
    let Axes::DestSrc { .. } = chosen else {
        return match head {
            Some(_) => Err(Error::request("--head chooses the pattern of --by dest,src; leave it out otherwise")),
            None => Ok(chosen),
        };
    };
    let head = head.ok_or_else(|| Error::request("--by dest,src needs --head LAYER.HEAD"))?;
    let parsed = head.split_once('.').and_then(|(l, h)| Some((l.parse().ok()?, h.parse().ok()?)));
    let (layer, head) =
        parsed.ok_or_else(|| Error::request(format!("`{head}` is not a head; write LAYER.HEAD, as 23.3")))?;
    Ok(Axes::DestSrc { layer, head })
}

/// Returns the numbers as nested lists of the given shape.
pub fn nested(values: &[f32], shape: &[usize]) -> Value {
    match shape {
        [] | [_] => json!(values),
        [_, rest @ ..] => {
            let step = rest.iter().product::<usize>().max(1);
            Value::Array(values.chunks_exact(step).map(|part| nested(part, rest)).collect())
        }
    }
}

/// Returns a line about the cost of a sweep, before it runs.
pub fn estimate_line(e: &Estimate) -> String {
    format!(
        "{} cells, {} of them to run ({} need no run); about {:.1} s and {:.0} MB",
        e.cells,
        e.to_run,
        e.cells - e.to_run,
        e.seconds,
        e.bytes as f64 / 1e6
    )
}

/// Prints the strongest cells as a table, with a caption below.
pub fn emit_sweep(
    found: &SweepResult,
    values: &[f32],
    top: usize,
    caption: &str,
    strength: impl Fn(f32) -> f32,
) -> Result<()> {
    emit(&sweep_table(found, values, top, caption, strength))
}

/// Returns the strongest cells as a table, with a caption below.
pub fn sweep_table(
    found: &SweepResult,
    values: &[f32],
    top: usize,
    caption: &str,
    strength: impl Fn(f32) -> f32,
) -> String {
    // A cell without a counterpart in the other prompt was not run and is not ranked.
    let mut ranked: Vec<usize> = (0..values.len()).filter(|i| values[*i].is_finite()).collect();
    ranked.sort_by(|a, b| strength(values[*b]).total_cmp(&strength(values[*a])));
    let mut header: Vec<&str> = found.axes.iter().map(|(n, _)| *n).collect();
    header.extend(["value", "metric"]);
    let rows: Vec<Vec<String>> = ranked
        .iter()
        .take(top)
        .map(|i| {
            let mut row: Vec<String> = found.cell(*i).iter().map(ToString::to_string).collect();
            row.extend([format!("{:+.4}", values[*i]), format!("{:+.4}", found.values[*i])]);
            row
        })
        .collect();
    format!(
        "{}\n\n{caption}; {} cells run in {:.2} s, {} provably unchanged{}",
        table(&header, &rows),
        found.run,
        found.seconds,
        found.skipped,
        if found.unaligned > 0 { format!(", {} without a counterpart", found.unaligned) } else { String::new() }
    )
}

/// Returns the names of the axes, and their lengths.
pub fn axes_of(found: &SweepResult) -> (Vec<&'static str>, Vec<usize>) {
    found.axes.iter().copied().unzip()
}
