//! `probe`: what can be read off a model's activations, and whether the model uses it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;

use super::{Job, ModelArgs, table, warn};
use crate::cli::writable;
use crate::error::{Error, Result, short};
use crate::features::direction::Concept;
use crate::features::direction::concept::Pool;
use crate::files::write_atomic;
use crate::probes::fit::Score;
use crate::probes::interchange::{self, InterchangeOf};
use crate::probes::question::{DRAWS, Kind, ProbesOf, Recipe, site_by_name, site_name, sites};
use crate::probes::set::Texts;
use crate::question::Question;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fit a probe at every layer, beside three controls
    Fit(Fit),
    /// Put one text's value of the property into another's run: does the model answer as for the first?
    Interchange(Swap),
}

#[derive(clap::Args, Debug)]
struct Fit {
    /// sentiment, royalty, code-vs-prose, number, or a file with columns label and text, and perhaps group and split
    #[arg(long, value_name = "NAME|FILE")]
    set: String,
    #[command(flatten)]
    model: ModelArgs,
    #[arg(long, default_value = "resid_post", help = sites_help("Site that is read, at every layer"))]
    site: String,
    /// The layers that are read; all without
    #[arg(long, value_name = "LAYER,LAYER,...", value_delimiter = ',')]
    layers: Vec<usize>,
    /// What stands for a text: last (its last token) or mean (over all but the first)
    #[arg(long, default_value = "mean")]
    pool: String,
    /// Read so many coordinates, those that tell the classes apart most; all of them without
    #[arg(long, value_name = "K")]
    k: Option<usize>,
    /// Coordinates of the control with random ones, where the probe reads all
    #[arg(long, value_name = "K", default_value_t = 16, conflicts_with = "k")]
    random: usize,
    /// Seed of the split and of the controls
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to write the probes, as JSON
    #[arg(short, long, value_name = "FILE", value_parser = writable)]
    output: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct Swap {
    /// sentiment, royalty, code-vs-prose, number, or a file with columns label and text, and perhaps group and split
    #[arg(long, value_name = "NAME|FILE")]
    set: String,
    #[command(flatten)]
    model: ModelArgs,
    /// What the model answers for each class, in the classes' order
    #[arg(long, value_name = "TOKEN,TOKEN,...", value_delimiter = ',', required = true, allow_hyphen_values = true)]
    answers: Vec<String>,
    #[arg(long, default_value = "resid_post", help = sites_help("Site that is changed, and that the probe reads"))]
    site: String,
    /// Its layer
    #[arg(long)]
    layer: usize,
    /// Which tokens of a text: last, or mean (all but the first, by the difference of their means)
    #[arg(long, default_value = "last")]
    pool: String,
    /// The probe reads so many coordinates, those that tell the classes apart most; all of them without
    #[arg(long, value_name = "K")]
    k: Option<usize>,
    /// Dimensions of the subspace that is searched
    #[arg(long, default_value_t = 1)]
    rank: usize,
    /// A direction, as `direction find` writes it, whose span is interchanged as well
    #[arg(long, value_name = "FILE")]
    direction: Option<PathBuf>,
    /// Pairs of held-out texts that are judged
    #[arg(long, default_value_t = 64)]
    pairs: usize,
    /// Seed of the split, the pairs, the search and the controls
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn sites_help(what: &str) -> String {
    let known: Vec<&str> = sites().map(site_name).collect();
    format!("{what}: {}", known.join(", "))
}

fn pool_by_name(name: &str) -> Result<Pool> {
    [Pool::Last, Pool::Mean]
        .into_iter()
        .find(|p| p.name() == name)
        .ok_or_else(|| Error::request(format!("`{}` cannot stand for a text; choose last or mean", short(name))))
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.command {
        Command::Fit(a) => execute_fit(a),
        Command::Interchange(a) => execute_interchange(a),
    }
}

fn execute_fit(args: &Fit) -> Result<()> {
    let pool = pool_by_name(&args.pool)?;
    let site = site_by_name(&args.site)?;
    let mut job = Job::begin(&args.model, "fitting probes")?;
    job.restart();
    let recipe = Recipe {
        texts: Texts::Set(args.set.clone()),
        site,
        pool,
        kind: args.k.map_or(Kind::Linear, Kind::Sparse),
        random: args.random,
        layers: args.layers.clone(),
        seed: args.seed,
    };
    let question = ProbesOf { model: job.model.clone(), recipe };
    let found = question.run(&job.progress, &mut |_| {})?;
    job.stop();
    found.warnings.iter().for_each(|w| warn(w));
    if let Some(path) = &args.output {
        let doc = json!({"format": "circuitscope probes", "model": job.model.config.name, "set": found.set, "site": args.site,
            "pool": pool, "k": args.k, "seed": args.seed, "classes": found.classes, "held_out": found.held_out,
            "layers": found.layers});
        write_atomic(path, doc.to_string().as_bytes())?;
    }
    let json = || {
        let layers: Vec<_> = found
            .layers
            .iter()
            .map(|l| {
                json!({"layer": l.layer, "score": l.score, "shuffled_labels": l.shuffled_labels,
                    "random_coordinates": l.random_coordinates, "random_model": l.random_model,
                    "coordinates": args.k.map(|_| &l.probe.coordinates)})
            })
            .collect();
        json!({"set": found.set, "classes": found.classes, "train": found.train, "test": found.test, "held_out": found.held_out,
            "site": args.site,
            "k": args.k, "draws": DRAWS, "layers": layers, "output": args.output.as_ref().map(|p| p.display().to_string())})
    };
    let text = || {
        let told =
            |s: &Score| format!("{:.3} [{:.2}, {:.2}]", s.accuracy, s.accuracy_interval[0], s.accuracy_interval[1]);
        let rows: Vec<Vec<String>> = found
            .layers
            .iter()
            .map(|l| {
                vec![
                    l.layer.to_string(),
                    told(&l.score),
                    format!("{:.3} [{:.2}, {:.2}]", l.score.auc, l.score.auc_interval[0], l.score.auc_interval[1]),
                    told(&l.shuffled_labels),
                    told(&l.random_coordinates),
                    told(&l.random_model),
                ]
            })
            .collect();
        let header = ["layer", "accuracy", "AUC", "shuffled labels", "random coordinates", "random model"];
        format!(
            "{}\n\n{} classes, {} texts to fit, {} held out; 95 % intervals",
            table(&header, &rows),
            found.classes.len(),
            found.train,
            found.test
        )
    };
    job.finish(None, json, text)
}

fn execute_interchange(args: &Swap) -> Result<()> {
    let (site, pool) = (site_by_name(&args.site)?, pool_by_name(&args.pool)?);
    let mut job = Job::begin(&args.model, "interchanging")?;
    let direction = args.direction.as_deref().map(Concept::open).transpose()?.map(Arc::new);
    job.restart();
    let recipe = interchange::Recipe {
        texts: Texts::Set(args.set.clone()),
        answers: args.answers.clone(),
        site,
        layer: args.layer,
        pool,
        kind: args.k.map_or(Kind::Linear, Kind::Sparse),
        rank: args.rank,
        pairs: args.pairs,
        seed: args.seed,
    };
    let question = InterchangeOf { model: job.model.clone(), recipe, direction };
    let found = question.run(&job.progress, &mut |_| {})?;
    job.stop();
    let json = || {
        json!({"set": found.set, "classes": found.classes, "answers": args.answers, "rank": args.rank,
            "interchange": found})
    };
    let text = || {
        let row = |(name, share, _): (String, f32, bool)| {
            let [low, high] = found.interval(share);
            vec![name, format!("{share:.3} [{low:.2}, {high:.2}]")]
        };
        let rows: Vec<Vec<String>> = found.shares().into_iter().map(row).collect();
        format!(
            "{}\n\n{} of layer {}, tokens: {}; {} held-out pairs of {} texts: the share whose answer is the source's, but for the first row; 95 % \
             intervals, as of no more pairs than texts",
            table(&["what is interchanged", "share"], &rows),
            found.site,
            found.layer,
            found.pool.name(),
            found.pairs,
            found.texts
        )
    };
    job.finish(None, json, text)
}
