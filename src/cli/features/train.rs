//! `features train`: harvests activations and trains a dictionary on them.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::{HELD_OUT, TextArgs, encode::about, eval::report, folder_name, gigabytes, shown};
use crate::cli::output::document;
use crate::cli::{ModelArgs, emit, progress};
use crate::error::{Error, Result};
use crate::features::formats::saelens;
use crate::features::quality::{Quality, ce_score, evaluate};
use crate::features::rows::Rows;
use crate::features::train::activations::{Harvest, Table, file_name};
use crate::features::train::{Method, Origin, Point, STATE, Settings, Trainer};
use crate::features::{Dictionary, Place};
use crate::files::write_atomic;
use crate::jobs::Progress;
use crate::model::Model;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Site whose activations are taken apart (blocks.5.hook_mlp_out)
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Site that a transcoder learns to write; without it a sparse autoencoder is trained
    #[arg(long, value_name = "SITE")]
    target: Option<String>,
    /// Folder to write, in SAELens' format
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// l1, topk, batchtopk, jumprelu or gated
    #[arg(long, value_name = "NAME", default_value = "topk")]
    method: String,
    #[arg(long, value_name = "N", default_value_t = Settings::default().features)]
    features: usize,
    /// Active features a position (topk, batchtopk)
    #[arg(short, long, value_name = "N", default_value_t = Settings::default().k)]
    k: usize,
    /// Weight of the sparsity penalty (l1, jumprelu, gated)
    #[arg(long, value_name = "X", default_value_t = Settings::default().sparsity)]
    sparsity: f32,
    #[arg(long, value_name = "N", default_value_t = Settings::default().steps)]
    steps: usize,
    /// Positions a step
    #[arg(long, value_name = "N", default_value_t = Settings::default().batch)]
    batch: usize,
    #[arg(long, value_name = "X", default_value_t = Settings::default().rate)]
    rate: f32,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = Settings::default().warmup)]
    warmup: usize,
    /// Share of the steps, at the end, over which the learning rate falls to zero
    #[arg(long, value_name = "X", default_value_t = Settings::default().fall)]
    fall: f32,
    /// Share of the steps over which the sparsity penalty rises
    #[arg(long, value_name = "X", default_value_t = Settings::default().sparsity_warmup)]
    sparsity_warmup: f32,
    /// Width of the window in which a threshold feels its neighbours (jumprelu), in scaled activations
    #[arg(long, value_name = "X", default_value_t = Settings::default().bandwidth)]
    bandwidth: f32,
    /// Positions of silence after which a feature counts as dead
    #[arg(long, value_name = "N", default_value_t = Settings::default().dead_after)]
    dead_after: usize,
    /// Steps between two resamplings of dead features (l1, jumprelu, gated); 0 for none
    #[arg(long, value_name = "N", default_value_t = Settings::default().resample)]
    resample: usize,
    /// Weight of the auxiliary loss that revives dead features (topk, batchtopk)
    #[arg(long, value_name = "X", default_value_t = Settings::default().auxiliary)]
    auxiliary: f32,
    #[arg(long, value_name = "N", default_value_t = Settings::default().seed)]
    seed: u64,
    /// Train on each row's first position as well, whose activations are outliers in many models
    #[arg(long)]
    include_first: bool,
    /// Keep the harvested activations in this folder; a later training takes them from there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Gigabytes of activations kept in memory; more go to a temporary file
    #[arg(long, value_name = "GB", default_value_t = 4.0)]
    memory: f64,
}

fn settings(args: &Arguments) -> Result<Settings> {
    let method = Method::by_name(&args.method).ok_or_else(|| {
        let known: Vec<&str> = Method::ALL.iter().map(|m| m.name()).collect();
        Error::request(format!("there is no method `{}`; known are {}", args.method, known.join(", ")))
    })?;
    let s = Settings {
        method,
        features: args.features,
        k: args.k,
        sparsity: args.sparsity,
        steps: args.steps,
        batch: args.batch,
        rate: args.rate,
        warmup: args.warmup,
        fall: args.fall,
        sparsity_warmup: args.sparsity_warmup,
        bandwidth: args.bandwidth,
        dead_after: args.dead_after,
        resample: args.resample,
        auxiliary: args.auxiliary,
        seed: args.seed,
    };
    s.check()?;
    if args.target.is_some() && matches!(method, Method::TopK | Method::Gated) {
        return Err(Error::request(format!(
            "SAELens has no {} transcoder; choose l1, batchtopk or jumprelu",
            method.name()
        )));
    }
    Ok(s)
}

/// Activations that lie in a folder already, if they fit.
fn kept(harvest: &Harvest<'_>, widths: &[usize], n: usize) -> Result<Option<Vec<Table>>> {
    let Some(folder) = harvest.keep else { return Ok(None) };
    let paths: Vec<PathBuf> = (0..widths.len()).map(|i| folder.join(file_name(i))).collect();
    if !paths.iter().all(|p| p.is_file()) {
        return Ok(None);
    }
    let tables = paths.iter().map(|p| Table::open(p)).collect::<Result<Vec<_>>>()?;
    for (i, ((t, d), p)) in tables.iter().zip(widths).zip(&paths).enumerate() {
        let (found, wanted) = (Table::origin(p)?.unwrap_or_default(), harvest.origin(i)?);
        if (t.rows(), t.width()) != (n, *d) || found != wanted {
            return Err(Error::request(format!(
                "{} holds activations [{}, {}] of `{found}`, but [{n}, {d}] of `{wanted}` are needed; choose another --keep",
                p.display(),
                t.rows(),
                t.width()
            )));
        }
    }
    Ok(Some(tables))
}

/// The text as rows to train on and rows held out, and the activations of the former.
fn harvest(args: &Arguments, model: &Model, places: &[Place]) -> Result<(Vec<Table>, Rows, f64)> {
    let (progress, bar) = progress("harvesting activations");
    let (trained, held) = args.text.rows(model, &progress)?.held_out(HELD_OUT);
    let started = Instant::now();
    let skip_first = !args.include_first;
    let n = trained.positions(skip_first);
    let widths: Vec<usize> = places.iter().map(|p| p.width(&model.config)).collect();
    let harvest = Harvest {
        model,
        rows: &trained,
        places,
        skip_first,
        keep: args.keep.as_deref(),
        memory: gigabytes(args.memory),
    };
    let tables = match kept(&harvest, &widths, n)? {
        Some(tables) => tables,
        None => harvest.run(&progress)?,
    };
    drop(bar);
    Ok((tables, held, started.elapsed().as_secs_f64()))
}

pub fn execute(args: &Arguments) -> Result<()> {
    let settings = settings(args)?;
    if args.output.join(saelens::CONFIG).is_file() {
        return Err(Error::request(format!(
            "{} holds a finished dictionary, and perhaps labels of its features; name another folder",
            args.output.display()
        )));
    }
    let model = args.model.open()?;
    let mut places = vec![Place::parse(&args.site)?];
    if let Some(t) = &args.target {
        places.push(Place::parse(t)?);
    }
    for p in &places {
        p.check(&model.config)?;
    }
    let (mut tables, held, harvested) = harvest(args, &model, &places)?;
    let target = if tables.len() > 1 { tables.pop() } else { None };
    let input = tables.pop().ok_or_else(|| Error::failed("nothing was harvested"))?;
    let origin = Origin {
        model_name: Some(model.config.name.clone()),
        input: places.first().copied(),
        output: places.last().copied(),
    };
    let positions = input.rows();
    let mut trainer = Trainer::new(settings.clone(), origin, input, target)?;
    if trainer.resume(&args.output)? {
        note(&format!("goes on from step {}", trainer.step));
    }
    let name = folder_name(&args.output);
    let (progress, bar) = progress("training");
    // A few rows are enough to see where the score is going.
    let few = held.first(16);
    let started = Instant::now();
    let first = trainer.step;
    let mut judging = 0.0;
    let mut judge = |t: &Trainer| {
        let begun = Instant::now();
        let score =
            (!few.is_empty()).then(|| ce_score(&model, &t.dictionary(&name)?, &few, &Progress::new())).transpose();
        judging += begun.elapsed().as_secs_f64();
        score
    };
    let outcome = trainer.run(Some(&args.output), &progress, &mut judge, &mut |p| {
        if p.ce_score.is_some() {
            note(&line(&p));
        }
    });
    outcome?;
    let seconds = started.elapsed().as_secs_f64() - judging;
    drop(bar);
    let dictionary = trainer.dictionary(&name)?;
    let (progress, bar) = crate::cli::progress("judging");
    let quality = if held.is_empty() { None } else { Some(evaluate(&model, &dictionary, &held, 8_192, &progress)?) };
    drop(bar);
    let rate = trainer.dense_operations() * settings.steps.saturating_sub(first) as f64 / seconds.max(1e-9) / 1e9;
    let training = json!({
        "settings": settings, "text": args.text.text, "context": args.text.context, "positions": positions,
        "first_position": args.include_first, "quality": quality, "curve": trainer.curve,
    });
    // The configuration comes last: a folder that has one is finished.
    std::fs::create_dir_all(&args.output).map_err(|e| Error::write(&args.output, e))?;
    write_atomic(
        &args.output.join("CARD.md"),
        card(args, &dictionary, &settings, &trainer.curve, quality.as_ref(), positions, &model).as_bytes(),
    )?;
    saelens::save(&dictionary, &args.output, &json!({"circuitscope": training}))?;
    let state = args.output.join(STATE);
    if state.is_file() {
        std::fs::remove_file(&state).map_err(|e| Error::write(&state, e))?;
    }
    if args.model.json {
        let rest = json!({
            "dictionary": about(&dictionary), "output": shown(&args.output), "settings": settings, "positions": positions,
            "harvest_seconds": harvested, "train_seconds": seconds, "dense_gflops": rate,
            "positions_per_second": settings.steps.saturating_sub(first) as f64 * settings.batch as f64 / seconds.max(1e-9),
            "curve": trainer.curve, "quality": quality,
        });
        return emit(&document(&model, None, harvested + seconds, rest).to_string());
    }
    let mut text = format!(
        "{}\n{positions} positions harvested in {harvested:.1} s, {} steps in {seconds:.1} s ({rate:.0} GFLOP/s as dense products)\n",
        dictionary.describe(),
        settings.steps.saturating_sub(first)
    );
    if let Some(q) = &quality {
        text.push_str(&format!("\n{}\n", report(q)));
    }
    text.push_str(&format!("\nwritten to {}", args.output.display()));
    emit(&text)
}

fn note(text: &str) {
    use std::io::Write;
    // Nobody reads a closed stderr.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn line(p: &Point) -> String {
    format!(
        "step {}: explained {:.4} · L0 {:.1} · dead {:.1} % · CE score {}",
        p.step,
        p.explained,
        p.l0,
        100.0 * p.dead,
        p.ce_score.map_or("–".to_owned(), |s| format!("{s:.4}"))
    )
}

fn card(
    args: &Arguments,
    d: &Dictionary,
    s: &Settings,
    curve: &[Point],
    quality: Option<&Quality>,
    positions: usize,
    model: &Model,
) -> String {
    let mut again = format!("circuitscope features train -m {} --site {}", model.spec, args.site);
    if let Some(t) = &args.target {
        again.push_str(&format!(" --target {t}"));
    }
    for t in &args.text.text {
        again.push_str(&format!(" --text {t}"));
    }
    again.push_str(&format!(
        " --context {} --method {} --features {} -k {} --sparsity {} --steps {} --batch {} --rate {} --warmup {} --fall {} \
         --sparsity-warmup {} --bandwidth {} --dead-after {} --resample {} --auxiliary {} --seed {}{}{} -o FOLDER",
        args.text.context,
        s.method.name(),
        s.features,
        s.k,
        s.sparsity,
        s.steps,
        s.batch,
        s.rate,
        s.warmup,
        s.fall,
        s.sparsity_warmup,
        s.bandwidth,
        s.dead_after,
        s.resample,
        s.auxiliary,
        s.seed,
        args.text.tokens.map_or(String::new(), |n| format!(" --tokens {n}")),
        if args.include_first { " --include-first" } else { "" },
    ));
    let mut text = format!(
        "# {}\n\nA {} for {}, in SAELens' format.\n\nTrain it again: `{again}`\n\n## Scores\n\nOn the rows that training held out (every {HELD_OUT}th):\n\n",
        d.name,
        d.describe(),
        model.config.name
    );
    match quality {
        Some(q) => text.push_str(&format!("```\n{}\n```\n", report(q))),
        None => text.push_str("The text was too short to hold any out.\n"),
    }
    text.push_str(&format!(
        "\n## Recipe\n\n{}; {positions} positions of {} in rows of {} tokens{}; activations scaled to a mean squared length of d;\nAdam, learning rate {} after {} warm-up steps, falling to zero over the last {:.0} %; decoder rows of length 1.\n\n## Curve\n\n| step | explained variance | L0 | dead | CE-loss score |\n| --- | --- | --- | --- | --- |\n",
        s.method.explain(),
        args.text.text.join(", "),
        args.text.context,
        if args.include_first { "" } else { ", each row's first left out" },
        s.rate,
        s.warmup,
        100.0 * s.fall,
    ));
    for p in curve.iter().filter(|p| p.ce_score.is_some() || p.step == 1) {
        text.push_str(&format!(
            "| {} | {:.4} | {:.1} | {:.1} % | {} |\n",
            p.step,
            p.explained,
            p.l0,
            100.0 * p.dead,
            p.ce_score.map_or("–".to_owned(), |s| format!("{s:.4}"))
        ));
    }
    text
}
