//! `probe`: what can be read off a model's activations, and whether the model uses it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;

use super::{Job, ModelArgs, table};
use crate::engine::SiteKind;
use crate::error::{Error, Result};
use crate::features::direction::concept::Pool;
use crate::files::write_atomic;
use crate::probes::fit::Score;
use crate::probes::interchange::InterchangeOf;
use crate::probes::question::{DRAWS, Kind, ProbesOf};
use crate::probes::set::LabelledSet;
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
    /// sentiment, royalty, code-vs-prose, or a file with columns label and text, and perhaps group and split
    #[arg(long, value_name = "NAME|FILE")]
    set: String,
    #[command(flatten)]
    model: ModelArgs,
    /// Site, at every layer: resid_post, resid_mid, mlp_out, attn_out, z, post
    #[arg(long, default_value = "resid_post")]
    site: String,
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
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct Swap {
    /// sentiment, royalty, code-vs-prose, or a file with columns label and text, and perhaps group and split
    #[arg(long, value_name = "NAME|FILE")]
    set: String,
    #[command(flatten)]
    model: ModelArgs,
    /// What the model answers for each class, in the classes' order
    #[arg(long, value_name = "TOKEN,TOKEN,...", value_delimiter = ',', required = true, allow_hyphen_values = true)]
    answers: Vec<String>,
    /// Layer whose output is changed, at each text's last position
    #[arg(long)]
    layer: usize,
    /// Dimensions of the subspace that is searched
    #[arg(long, default_value_t = 1)]
    rank: usize,
    /// Pairs of held-out texts that are judged
    #[arg(long, default_value_t = 64)]
    pairs: usize,
    /// Seed of the split, the pairs, the search and the controls
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.command {
        Command::Fit(a) => execute_fit(a),
        Command::Interchange(a) => execute_interchange(a),
    }
}

/// Returns the site with a name, full or short (`resid_post`).
fn kind_of(name: &str) -> Result<SiteKind> {
    SiteKind::ALL
        .into_iter()
        .filter(|k| k.layered())
        .find(|k| k.hook() == name || k.hook().rsplit_once("hook_").is_some_and(|(_, s)| s == name))
        .ok_or_else(|| {
            Error::request(format!("there is no site `{name}`; choose resid_post, mlp_out, attn_out, z or post"))
        })
}

fn execute_fit(args: &Fit) -> Result<()> {
    let pool = match args.pool.as_str() {
        "last" => Pool::Last,
        "mean" => Pool::Mean,
        other => return Err(Error::request(format!("`{other}` cannot stand for a text; choose last or mean"))),
    };
    let set = Arc::new(LabelledSet::open(&args.set, args.seed)?);
    let site = kind_of(&args.site)?;
    let mut job = Job::begin(&args.model, "fitting probes")?;
    job.restart();
    let question = ProbesOf {
        model: job.model.clone(),
        set: set.clone(),
        site,
        pool,
        kind: args.k.map_or(Kind::Linear, Kind::Sparse),
        random: args.random,
        seed: args.seed,
    };
    let found = question.run(&job.progress, &mut |_| {})?;
    job.stop();
    let held_out = set.test.iter().filter(|t| **t).count();
    if let Some(path) = &args.output {
        let doc = json!({"format": "circuitscope probes", "model": job.model.config.name, "set": set.name, "site": args.site,
            "pool": pool, "classes": set.classes, "layers": found});
        write_atomic(path, doc.to_string().as_bytes())?;
    }
    let json = || {
        let layers: Vec<_> = found
            .iter()
            .map(|l| {
                json!({"layer": l.layer, "score": l.score, "shuffled_labels": l.shuffled_labels,
                    "random_coordinates": l.random_coordinates, "random_model": l.random_model,
                    "coordinates": args.k.map(|_| &l.probe.coordinates)})
            })
            .collect();
        json!({"set": set.name, "classes": set.classes, "train": set.len() - held_out, "test": held_out, "site": args.site,
            "k": args.k, "draws": DRAWS, "layers": layers, "output": args.output.as_ref().map(|p| p.display().to_string())})
    };
    let text = || {
        let told =
            |s: &Score| format!("{:.3} [{:.2}, {:.2}]", s.accuracy, s.accuracy_interval[0], s.accuracy_interval[1]);
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|l| {
                vec![
                    l.layer.to_string(),
                    told(&l.score),
                    format!("{:.3}", l.score.auc),
                    told(&l.shuffled_labels),
                    told(&l.random_coordinates),
                    told(&l.random_model),
                ]
            })
            .collect();
        let header = ["layer", "accuracy", "AUC", "shuffled labels", "random coordinates", "random model"];
        format!(
            "{}\n\n{} classes, {} texts to fit, {held_out} held out; 95 % intervals",
            table(&header, &rows),
            set.classes.len(),
            set.len() - held_out
        )
    };
    job.finish(None, json, text)
}

fn execute_interchange(args: &Swap) -> Result<()> {
    let set = Arc::new(LabelledSet::open(&args.set, args.seed)?);
    let mut job = Job::begin(&args.model, "interchanging")?;
    let model = job.model.clone();
    let answers = args.answers.iter().map(|t| model.single_token(t)).collect::<Result<Vec<u32>>>()?;
    job.restart();
    let question = InterchangeOf {
        model,
        set: set.clone(),
        answers,
        layer: args.layer,
        rank: args.rank,
        pairs: args.pairs,
        seed: args.seed,
    };
    let found = question.run(&job.progress, &mut |_| {})?;
    job.stop();
    let json = || json!({"set": set.name, "classes": set.classes, "answers": args.answers, "rank": args.rank, "interchange": found});
    let text = || {
        let rows: Vec<Vec<String>> = [
            ("answers as for the base, unchanged", found.base),
            ("answers as for the source, unchanged", found.untouched),
            ("the whole stream", found.whole),
            ("DAS", found.das),
            ("the probe's directions", found.probe),
            ("the classes' means", found.means),
            ("control: a random subspace", found.random_subspace),
            ("control: DAS for shuffled labels", found.shuffled_labels),
            ("control: DAS in a model with random weights", found.random_model),
        ]
        .map(|(name, v)| vec![name.to_owned(), format!("{v:.3}")])
        .to_vec();
        format!(
            "{}\n\nlayer {}, {} held-out pairs: the share whose answer is the source's",
            table(&["what is interchanged", "share"], &rows),
            found.layer,
            found.pairs
        )
    };
    job.finish(None, json, text)
}
