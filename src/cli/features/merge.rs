//! `features merge`: puts the parts of an index together.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::shown;
use crate::cli::{emit, emit_json};
use crate::error::{Error, Result};
use crate::features::scan::index_file;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Index files of all parts
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Index file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &Arguments) -> Result<()> {
    // A part may be large, so that only one is in memory beside the whole.
    let (first, others) = args.parts.split_first().ok_or_else(|| Error::request("name the parts to merge"))?;
    let started = Instant::now();
    let mut whole = index_file::open(first)?;
    whole.check_finished()?;
    for part in others {
        whole.absorb(index_file::open(part)?)?;
    }
    index_file::save(&whole, &args.output)?;
    let missing = whole.about.of.saturating_sub(whole.about.shards.len());
    if args.json {
        let doc = json!({"model": {"name": whole.about.model}, "seconds": started.elapsed().as_secs_f64(),
            "load_seconds": 0.0, "output": shown(&args.output), "about": whole.about, "missing": missing,
            "features": whole.entries.len()});
        return emit_json(doc);
    }
    let left =
        if missing > 0 { format!("; {missing} of {} parts are still missing", whole.about.of) } else { String::new() };
    emit(&format!("{} positions in {}{left}", whole.about.positions, args.output.display()))
}
