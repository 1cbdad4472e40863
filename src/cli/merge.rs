//! `merge`: puts the shards of a work over texts together, whichever work it was.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::{emit, emit_json, jlens, over_set};
use crate::arrow_file;
use crate::circuit::pair_values::{self, PairValues};
use crate::error::{Error, Result};
use crate::features::scan::index::Index;
use crate::features::scan::index_file;
use crate::features::train::harvest_file;
use crate::heads::index::HeadIndex;
use crate::heads::index_file as head_pages;
use crate::lenses::sums::Sums;
use crate::shard::{About, in_order};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The files of all shards, in any order
    #[arg(required = true, value_name = "SHARD")]
    parts: Vec<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Merge what there is where shards are missing; what comes of it is a shard file, and the others can be merged in later
    #[arg(long)]
    partial: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was put together.
struct Merged {
    model: String,
    /// What a document says of it.
    fields: Value,
    /// The same as a line of text.
    line: String,
    missing: Vec<usize>,
    of: usize,
}

impl Merged {
    fn new(model: &str, about: &impl About, fields: Value, line: String) -> Self {
        let shard = about.shard();
        Self { model: model.to_owned(), fields, line, missing: shard.missing(), of: shard.of }
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    merge(&args.parts, &args.output, args.partial, args.json)
}

/// Puts shards together, and says what came of it.
pub fn merge(parts: &[PathBuf], output: &Path, partial: bool, json: bool) -> Result<()> {
    let first = parts.first().ok_or_else(|| Error::request("name the shards to merge"))?;
    let started = Instant::now();
    let works: [(IsOne, Work); 5] = [
        (|path| arrow_file::is_one(path, &index_file::KIND), features),
        (|path| arrow_file::is_one(path, &head_pages::KIND), heads),
        (|path| Sums::about(path).is_ok(), fit),
        (|path| harvest_file::about(path).is_ok(), harvest),
        (|path| pair_values::about(path).is_ok(), pairs),
    ];
    std::fs::File::open(first).map_err(|e| Error::read(first, e))?;
    let (_, work) = works.iter().find(|(is_one, _)| is_one(first)).ok_or_else(|| {
        Error::request(format!(
            "{} is no shard; --shard I/N makes some, see `circuitscope merge --help`",
            first.display()
        ))
    })?;
    let merged = work(parts, output, partial)?;
    let seconds = started.elapsed().as_secs_f64();
    if json {
        let mut doc = json!({"model": {"name": merged.model}});
        if let (Value::Object(doc), Value::Object(fields)) = (&mut doc, merged.fields) {
            doc.extend(fields);
        }
        doc["output"] = json!(output.display().to_string());
        doc["missing"] = json!(merged.missing.len());
        (doc["seconds"], doc["load_seconds"]) = (json!(seconds), json!(0.0));
        return emit_json(doc);
    }
    let left = match merged.missing.len() {
        0 => String::new(),
        n => format!("; {n} of {} shards are still missing", merged.of),
    };
    emit(&format!("{} in {}{left}", merged.line, output.display()))
}

type IsOne = fn(&Path) -> bool;
type Work = fn(&[PathBuf], &Path, bool) -> Result<Merged>;

/// The files in their order, after what each says of itself was compared.
fn ordered<A: About>(parts: &[PathBuf], partial: bool, about: fn(&Path) -> Result<A>) -> Result<Vec<PathBuf>> {
    let files = parts.iter().map(|p| Ok((p.clone(), about(p)?))).collect::<Result<Vec<_>>>()?;
    in_order(files, partial)
}

/// Opens the first and lets it absorb the others. A shard may be large, so that only one is in memory beside the whole.
fn put_together<T>(
    parts: &[PathBuf],
    open: fn(&Path) -> Result<T>,
    absorb: impl Fn(&mut T, T) -> Result<()>,
) -> Result<T> {
    let mut parts = parts.iter();
    let first = parts.next().ok_or_else(|| Error::request("name the shards to merge"))?;
    let mut whole = open(first)?;
    parts.try_for_each(|part| absorb(&mut whole, open(part)?))?;
    Ok(whole)
}

fn features(parts: &[PathBuf], output: &Path, partial: bool) -> Result<Merged> {
    let parts = ordered(parts, partial, index_file::about)?;
    let whole = put_together(&parts, index_file::open, Index::absorb)?;
    index_file::save(&whole, output)?;
    let a = &whole.about;
    let fields = json!({"about": a, "features": whole.entries.len()});
    Ok(Merged::new(&a.model, a, fields, format!("{} positions", a.positions)))
}

fn heads(parts: &[PathBuf], output: &Path, partial: bool) -> Result<Merged> {
    let parts = ordered(parts, partial, head_pages::about)?;
    let whole = put_together(&parts, head_pages::open, HeadIndex::absorb)?;
    head_pages::save(&whole, output)?;
    let a = &whole.about;
    Ok(Merged::new(&a.model, a, json!({"about": a}), format!("{} queries", a.queries)))
}

fn harvest(parts: &[PathBuf], output: &Path, partial: bool) -> Result<Merged> {
    let parts = ordered(parts, partial, harvest_file::about)?;
    let a = harvest_file::merge(&parts, output)?;
    Ok(Merged::new(&a.model, &a, json!({"about": a}), format!("{} positions at {} sites", a.positions, a.places.len())))
}

fn pairs(parts: &[PathBuf], output: &Path, partial: bool) -> Result<Merged> {
    let parts = ordered(parts, partial, pair_values::about)?;
    let whole = put_together(&parts, PairValues::open, PairValues::absorb)?;
    whole.save(output)?;
    let a = &whole.about;
    Ok(Merged::new(&a.model, a, over_set::fields(&whole)?, over_set::line(&whole)))
}

/// The lens of all shards; where some are missing their sums, since a lens could not take them in later.
fn fit(parts: &[PathBuf], output: &Path, partial: bool) -> Result<Merged> {
    let parts = ordered(parts, partial, Sums::about)?;
    let whole = put_together(&parts, Sums::open, |a, b| a.absorb(&b))?;
    let a = &whole.about;
    let lens = whole.lens()?;
    if a.shard.missing().is_empty() {
        lens.save(output)?;
    } else {
        whole.save(output)?;
    }
    Ok(Merged::new(&a.model, a, jlens::fields(&lens, output), jlens::told(&lens)))
}
