//! `jlens`: fits a Jacobian lens, reads a prompt through it, and intervenes along what it reads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::faithful::{Cells, FaithfulArgs};
use super::output::{quoted, warn};
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, ShardArgs, merge, table};
use crate::analysis::logit_lens::logit_lens;
use crate::analysis::plan::OverText;
use crate::analysis::transport::Transport;
use crate::engine::edit::Positions;
use crate::engine::resolve::{Sources, resolve_stack};
use crate::engine::{EditStack, Trace};
use crate::error::{Error, Result};
use crate::features::rows::Rows;
use crate::lenses::JacobianLens;
use crate::lenses::edit::Intervention;
use crate::lenses::fit::{SKIP, Settings, TOKENS, fit};
use crate::lenses::open::LensSource;
use crate::lenses::question::{prompts, unfinished};
use crate::model::Model;
use crate::progress::Progress;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fit a lens on text: one matrix a layer, averaged over prompts
    Fit(Fit),
    /// Put the shards of a fit together, as `merge` does
    Merge(merge::Arguments),
    /// What each layer is about to say, read through a lens
    Read(Read),
    /// Steer, take out or swap what a lens reads, and what it does to the prediction
    Edit(Edit),
}

#[derive(clap::Args, Debug)]
struct Fit {
    #[command(flatten)]
    model: ModelArgs,
    /// Text files, folders of them, or shipped texts by name (mixed, prose); repeatable
    #[arg(long, value_name = "PATH", required_unless_present = "ids_file", conflicts_with = "ids_file")]
    text: Vec<String>,
    /// A JSON list of lists of token ids, taken as they are
    #[arg(long, value_name = "FILE")]
    ids_file: Option<String>,
    /// Layers, counted from 0; all but the last without
    #[arg(long, value_name = "L,L,...", value_delimiter = ',')]
    layers: Vec<usize>,
    /// Tokens of a prompt at most; without, 128 of a text, and all of a list of --ids-file
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Positions at each prompt's start that are left out
    #[arg(long, value_name = "N", default_value_t = SKIP)]
    skip: usize,
    /// Prompts at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    shard: ShardArgs,
    /// Lens file to write: .safetensors, or .pt as torch saves it. While the fit is not done FILE.fit lies beside it, from
    /// which the same command goes on
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(clap::Args, Debug)]
struct Read {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Lens: .safetensors or .pt; a tuned lens (params.pt or its folder); or text-lens, which ships for the model text
    #[arg(long, value_name = "FILE")]
    lens: String,
    /// Layers, counted from 0; all of the lens without
    #[arg(long, value_name = "L,L,...", value_delimiter = ',')]
    layers: Vec<usize>,
    /// Tokens of each layer and position
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    faithful: FaithfulArgs,
}

#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("intervention").required(true))]
struct Edit {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Lens: .safetensors or .pt; a tuned lens (params.pt or its folder); or text-lens, which ships for the model text
    #[arg(long, value_name = "FILE")]
    lens: String,
    /// Layers whose output is changed
    #[arg(long, value_name = "L,L,...", value_delimiter = ',', required = true)]
    layer: Vec<usize>,
    /// Add the token's direction, --alpha times as long as the stream; a token is its text, or id:N (as one with a comma)
    #[arg(long, value_name = "TOKEN", group = "intervention", allow_hyphen_values = true)]
    steer: Option<String>,
    /// Take the tokens' directions out; a token with a comma is given as id:N
    #[arg(
        long,
        value_name = "TOKEN,TOKEN,...",
        group = "intervention",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    ablate: Vec<String>,
    /// Exchange the coordinates of two tokens; a token with a comma is given as id:N
    #[arg(long, value_name = "TOKEN,TOKEN", group = "intervention", value_delimiter = ',', allow_hyphen_values = true)]
    swap: Vec<String>,
    /// Strength of --steer and --swap
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_hyphen_values = true, conflicts_with = "ablate")]
    alpha: f32,
    /// Swap towards the coordinates of the unedited run, so that several layers do not undo each other
    #[arg(long, requires = "swap", conflicts_with_all = ["steer", "ablate"])]
    clamped: bool,
    /// Positions that are changed: all, last, or numbers counted from 0
    #[arg(long, value_name = "all|last|N,N", default_value = "all")]
    pos: String,
    /// Tokens whose logits to give, those of the intervention without; a token with a comma is given as id:N
    #[arg(long, value_name = "TOKEN,TOKEN,...", value_delimiter = ',', allow_hyphen_values = true)]
    tokens: Vec<String>,
}

impl Arguments {
    /// What a fit goes over.
    pub fn work(&self) -> Option<Work<'_>> {
        let Command::Fit(a) = &self.command else { return None };
        let tokens = a.tokens.unwrap_or(TOKENS);
        let limit = a.limit.map(|n| n.saturating_mul(tokens));
        let specs = a.ids_file.as_slice();
        let specs = if specs.is_empty() { &a.text[..] } else { specs };
        let layers = if a.layers.is_empty() { usize::MAX } else { a.layers.len() };
        Some(Work::over_text(&a.model, specs, (limit, tokens), OverText::Fit { layers }))
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.command {
        Command::Fit(a) => execute_fit(a),
        Command::Merge(a) => merge::execute(a),
        Command::Read(a) => execute_read(a),
        Command::Edit(a) => execute_edit(a),
    }
}

/// Reads the prompts: rows of text, or lists of ids; and how many tokens each has at most.
fn rows_of(args: &Fit, model: &Model, progress: &Progress) -> Result<(Rows, usize)> {
    let Some(path) = &args.ids_file else {
        let tokens = args.tokens.unwrap_or(TOKENS);
        return Ok((prompts(model, &args.text, tokens, args.limit, progress)?, tokens));
    };
    let text = crate::files::read_text(Path::new(path), 1 << 30)?;
    let lists: Vec<Vec<u32>> = serde_json::from_str(&text).map_err(|e| Error::Malformed {
        path: PathBuf::from(path),
        format: "list of lists of token ids",
        what: e.to_string(),
    })?;
    let tokens = args.tokens.unwrap_or_else(|| lists.iter().map(Vec::len).max().unwrap_or(0));
    let most = args.limit.unwrap_or(usize::MAX);
    let lists: Vec<Vec<u32>> = lists.into_iter().take(most).map(|l| l.into_iter().take(tokens).collect()).collect();
    for list in &lists {
        model.network().check(list)?;
    }
    Ok((Rows::new(lists.into_iter().zip(0..)), tokens))
}

fn execute_fit(args: &Fit) -> Result<()> {
    let shard = args.shard.shard.begin(Some(&args.output))?;
    let mut job = Job::begin(&args.model, "fitting a Jacobian lens")?;
    let model = job.model.clone();
    crate::lenses::fit::layers_of(&model, &args.layers)?;
    let (rows, tokens) = rows_of(args, &model, &job.progress)?;
    let texts = match &args.ids_file {
        Some(path) => vec![path.clone()],
        None => args.text.clone(),
    };
    let settings = Settings { layers: args.layers.clone(), skip: args.skip, tokens, texts, shard };
    job.restart();
    // A shard is itself what is kept on the way.
    let kept = if shard.1 > 1 { args.output.clone() } else { unfinished(&args.output) };
    let sums = fit(&model, &rows, &settings, Some(&kept), &job.progress, &mut |_| {})?;
    job.stop();
    let short = sums.about.next - sums.prompts();
    if short > 0 {
        warn(&format!(
            "{short} prompts were left out: they have no token after the first {} and before the last.",
            args.skip
        ));
    }
    let lens = match sums.lens() {
        // A shard may have no prompt.
        Err(_) if shard.1 > 1 => None,
        lens => Some(lens?),
    };
    if lens.is_none() {
        warn("No prompt of this shard is long enough; it is written empty, and can be merged with the others.");
    }
    if let Some(lens) = lens.as_ref().filter(|_| shard.1 == 1) {
        lens.save(&args.output)?;
        // The lens is whole; what is left over only takes room.
        drop(std::fs::remove_file(&kept));
    }
    let output = args.output.display();
    let json = || match &lens {
        Some(lens) => fields(lens, &args.output),
        None => json!({"n_prompts": 0, "output": output.to_string()}),
    };
    let said = || lens.as_ref().map_or("0 prompts".to_owned(), told);
    let text = || format!("{} in {output} · {:.1} s", said(), job.stop());
    job.finish(None, json, text)
}

/// What a document says of a lens.
pub(super) fn fields(lens: &JacobianLens, output: &Path) -> Value {
    let layers: Vec<usize> = lens.layers.keys().copied().collect();
    let agreement: Vec<Option<f32>> = layers.iter().map(|l| lens.about.agreement.get(l).copied()).collect();
    let frobenius: Vec<Option<f32>> = lens.layers.values().map(norm).collect();
    json!({"layers": layers, "n_prompts": lens.about.n_prompts, "agreement": agreement, "frobenius": frobenius,
        "skip": lens.about.skip, "output": output.display().to_string()})
}

fn norm(j: &candle_core::Tensor) -> Option<f32> {
    j.sqr().and_then(|s| s.sum_all()).and_then(|s| s.to_scalar::<f32>()).map(f32::sqrt).ok()
}

pub(super) fn told(lens: &JacobianLens) -> String {
    let rows: Vec<Vec<String>> = lens
        .layers
        .iter()
        .map(|(l, j)| {
            let alike = lens.about.agreement.get(l).map_or("–".to_owned(), |a| format!("{a:.4}"));
            vec![l.to_string(), norm(j).map_or("–".to_owned(), |n| format!("{n:.3}")), alike]
        })
        .collect();
    format!("{}\n\n{} prompts", table(&["layer", "‖J‖", "halves agree"], &rows), lens.about.n_prompts)
}

/// The layers that are read: those that were asked for, or all of the lens.
fn layers_of(asked: &[usize], lens: &Transport, model: &Model) -> Result<Vec<usize>> {
    if asked.is_empty() {
        return Ok(lens.layers.keys().copied().collect());
    }
    let asked: BTreeSet<usize> = asked.iter().copied().collect();
    for layer in &asked {
        if *layer >= model.config.n_layers {
            return Err(Error::request(format!(
                "there is no layer {layer}; this model's layers go from 0 to {}",
                model.config.n_layers - 1
            )));
        }
        if !lens.reads(*layer, model.config.n_layers) {
            lens.layer(*layer)?;
        }
    }
    Ok(asked.into_iter().collect())
}

fn execute_read(args: &Read) -> Result<()> {
    let mut job = Job::begin(&args.model, "reading through the lens")?;
    let model = job.model.clone();
    let ids = args.prompt.required(&model)?;
    let lens = LensSource::of(&args.lens).open(&model)?;
    let layers = layers_of(&args.layers, &lens, &model)?;
    let swap = args.faithful.token(&model)?;
    job.restart();
    let trace = Arc::new(Trace::run(&model, ids, &job.progress)?);
    let read = logit_lens(&trace, Some(&lens), &[], None, None, args.top.max(1), &job.progress, |_| {})?;
    let cells = layers
        .iter()
        .map(|l| (0..trace.len()).map(|p| read.cell(*l, p)).collect::<Option<Vec<_>>>())
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::failed("the lens left a cell out"))?;
    let cells = Cells { layers, positions: (0..trace.len()).collect(), cells };
    let faithful = args.faithful.measure(&trace, Some(&lens), &cells, swap, &job.progress)?;
    let Cells { layers, cells, .. } = cells;
    let json = || {
        let top: Vec<Vec<Vec<Value>>> = cells
            .iter()
            .map(|row| {
                row.iter()
                    .map(|c| {
                        let one = |t: &crate::engine::logits::Ranked| json!({"id": t.id, "text": model.token_text(t.id), "logit": t.logit, "prob": t.prob});
                        c.top.iter().take(args.top).map(one).collect()
                    })
                    .collect()
            })
            .collect();
        let mut doc = json!({"axes": ["layer", "pos"], "lens": lens.name, "layers": layers, "top": top});
        if let Some(found) = &faithful {
            doc["faithful"] = found.json();
        }
        doc
    };
    let text = || {
        let mut rows = Vec::new();
        for (layer, row) in layers.iter().zip(&cells) {
            for (pos, cell) in row.iter().enumerate() {
                let words: Vec<String> =
                    cell.top.iter().take(args.top).map(|t| quoted(&model.token_text(t.id))).collect();
                let first = cell.top.first().map_or(String::new(), |t| format!("{:.2}", t.logit));
                let mut row = vec![layer.to_string(), pos.to_string(), quoted(&trace.token_text(pos)), first];
                row.extend(faithful.as_ref().map(|found| found.share(*layer, pos)));
                row.push(words.join(" "));
                rows.push(row);
            }
        }
        let mut columns = vec!["layer", "pos", "token", "logit", "faithful", "reads"];
        columns.retain(|c| faithful.is_some() || *c != "faithful");
        table(&columns, &rows)
    };
    job.finish(Some(&trace.ids), json, text)
}

fn places(text: &str, len: usize) -> Result<Positions> {
    match text {
        "all" => Ok(Positions::All),
        "last" => Ok(Positions::At(vec![len - 1])),
        list => list
            .split(',')
            .map(|p| p.trim().parse().ok().filter(|p| *p < len))
            .collect::<Option<Vec<usize>>>()
            .map(Positions::At)
            .ok_or_else(|| {
                Error::request(format!(
                    "--pos {text} names no positions of this prompt; give all, last, or numbers from 0 to {}",
                    len - 1
                ))
            }),
    }
}

/// The intervention that was asked for, and its tokens.
fn intervention(args: &Edit, model: &Model) -> Result<(Intervention, Vec<u32>)> {
    if !args.alpha.is_finite() {
        return Err(Error::request(format!("--alpha {} is no finite number", args.alpha)));
    }
    let ids = |texts: &[String]| texts.iter().map(|t| model.single_token(t)).collect::<Result<Vec<u32>>>();
    if let Some(token) = &args.steer {
        let token = model.single_token(token)?;
        return Ok((Intervention::Steer { token, alpha: args.alpha }, vec![token]));
    }
    if !args.ablate.is_empty() {
        let tokens = ids(&args.ablate)?;
        return Ok((Intervention::Ablate { tokens: tokens.clone() }, tokens));
    }
    match ids(&args.swap)?[..] {
        [from, to] => Ok((Intervention::Swap { from, to, alpha: args.alpha, clamped: args.clamped }, vec![from, to])),
        _ => Err(Error::request("--swap takes two tokens, as in --swap \" Paris, London\"")),
    }
}

fn execute_edit(args: &Edit) -> Result<()> {
    let mut job = Job::begin(&args.model, "editing")?;
    let model = job.model.clone();
    let ids = args.prompt.required(&model)?;
    let lens = LensSource::of(&args.lens).open(&model)?;
    let layers = layers_of(&args.layer, &lens, &model)?;
    let (what, own) = intervention(args, &model)?;
    let watched = match &args.tokens[..] {
        [] => own,
        texts => texts.iter().map(|t| model.single_token(t)).collect::<Result<_>>()?,
    };
    let positions = places(&args.pos, ids.len())?;
    let mut edits = Vec::new();
    for layer in layers {
        edits.extend(what.edits(&model, Some(&lens), layer, &positions)?);
    }
    job.restart();
    let base = Trace::run(&model, ids, &job.progress)?;
    let stack = EditStack { edits, ..EditStack::default() };
    let ops = resolve_stack(&stack, &Sources::alone(&base))?;
    let edited = Trace::run_edited(&model, base.ids.clone(), Arc::new(ops), &job.progress)?;
    let logits = |trace: &Trace| -> Result<Vec<f32>> {
        let (columns, bias) = model.network().unembed_columns(&watched)?;
        let row = trace.normalized(trace.len() - 1)?;
        Ok(model.network().logits_by(&row, &columns, bias.as_ref())?.flatten_all()?.to_vec1()?)
    };
    let (before, after) = (logits(&base)?, logits(&edited)?);
    let words = |trace: &Trace| -> Vec<Value> {
        let next = trace.next.last().into_iter().flatten();
        next.map(|t| json!({"id": t.id, "text": model.token_text(t.id), "prob": t.prob, "logit": t.logit})).collect()
    };
    let json = || {
        let watched: Vec<Value> = watched.iter().map(|id| json!({"id": id, "text": model.token_text(*id)})).collect();
        let edits: Vec<String> = stack.edits.iter().map(ToString::to_string).collect();
        json!({"lens": lens.name, "edits": edits, "watched": watched, "logits_before": before, "logits_after": after,
            "next_before": words(&base), "next_after": words(&edited)})
    };
    let text = || {
        let rows: Vec<Vec<String>> = watched
            .iter()
            .zip(before.iter().zip(&after))
            .map(|(id, (b, a))| {
                vec![quoted(&model.token_text(*id)), format!("{b:.3}"), format!("{a:.3}"), format!("{:+.3}", a - b)]
            })
            .collect();
        let next = |trace: &Trace| {
            let next = trace.next.last().into_iter().flatten().take(5);
            next.map(|t| format!("{} {:.1} %", quoted(&model.token_text(t.id)), 100.0 * t.prob))
                .collect::<Vec<_>>()
                .join("  ")
        };
        let edits: Vec<String> = stack.edits.iter().map(ToString::to_string).collect();
        format!(
            "{}\n\nbefore  {}\nafter   {}\n\n{}",
            table(&["token", "before", "after", "change"], &rows),
            next(&base),
            next(&edited),
            edits.join("\n")
        )
    };
    job.finish(Some(&base.ids), json, text)
}
