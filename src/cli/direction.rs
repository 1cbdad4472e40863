//! `direction`: finds the direction of a concept, reads it and steers along it.

use std::path::PathBuf;
use std::time::Instant;

use clap::Subcommand;
use serde_json::json;

use super::generate::text_of;
use super::output::quoted;
use super::steering::{self, SteerArgs};
use super::{Job, ModelArgs, PromptArgs, emit, emit_json, progress, table, warn};
use crate::cli::writable;
use crate::engine::SiteKind;
use crate::engine::dictionaries::NoDictionaries;
use crate::error::{Error, Result};
use crate::features::direction::concept::{ConceptSet, Pool};
use crate::features::direction::{Concept, Method, find};
use crate::features::harvest::{PASS, activations};
use crate::features::rows::{Cut, Rows};
use crate::features::text::documents;
use crate::features::words::{Word, words};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find a direction at every layer from texts with and without a concept, and test it on held-out ones
    Find(Find),
    /// How far along the direction each token of a text lies
    Read(Read),
    /// What adding the direction does to the prediction
    Steer(Steer),
    /// The features of a dictionary that point the same way
    Similar(Similar),
}

#[derive(clap::Args, Debug)]
struct Find {
    /// sentiment, royalty, code-vs-prose, or a file with columns label and text
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "with")]
    set: Option<String>,
    /// Texts or words with the concept, one a line
    #[arg(long, value_name = "FILE", requires = "without", conflicts_with = "set")]
    with: Option<PathBuf>,
    /// Texts or words without it, one a line
    #[arg(long, value_name = "FILE")]
    without: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Site, at every layer: resid_post, resid_mid, mlp_out, attn_out, z
    #[arg(long, default_value = "resid_post")]
    site: String,
    /// difference-of-means, logistic-regression or pca-of-differences
    #[arg(long, default_value = "difference-of-means")]
    method: String,
    /// What stands for a text: last (its last token) or mean (over all but the first)
    #[arg(long, default_value = "mean")]
    pool: String,
    /// Where to write the directions
    #[arg(short, long, value_name = "FILE", value_parser = writable)]
    output: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct Read {
    /// Directions that `find` wrote
    file: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Layer (default: the best on held-out texts)
    #[arg(long)]
    layer: Option<usize>,
    /// Text files, folders or shipped texts to read word by word, instead of a prompt; repeatable
    #[arg(long, value_name = "PATH", conflicts_with_all = ["prompt", "ids"])]
    text: Vec<String>,
    /// Tokens of a row of text
    #[arg(long, value_name = "N", default_value_t = 128)]
    context: usize,
    /// Tokens of the text that are read at most
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Words listed of those that lie furthest along the direction and against it
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
}

#[derive(clap::Args, Debug)]
struct Steer {
    /// Directions that `find` wrote
    file: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Layer (default: the best on held-out texts)
    #[arg(long)]
    layer: Option<usize>,
    /// Take the direction away instead of adding it
    #[arg(long, conflicts_with = "alpha")]
    ablate: bool,
    #[command(flatten)]
    steer: SteerArgs,
}

#[derive(clap::Args, Debug)]
struct Similar {
    /// Directions that `find` wrote
    file: PathBuf,
    /// Dictionary whose features are compared
    #[arg(long, value_name = "DIR")]
    dictionary: String,
    /// Layer (default: the dictionary's)
    #[arg(long)]
    layer: Option<usize>,
    /// How many features to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.command {
        Command::Find(a) => execute_find(a),
        Command::Read(a) => execute_read(a),
        Command::Steer(a) => execute_steer(a),
        Command::Similar(a) => execute_similar(a),
    }
}

/// Returns the site with a name, full or short (`resid_post`).
fn kind_of(name: &str) -> Result<SiteKind> {
    SiteKind::by_name(name)
        .ok_or_else(|| Error::request(format!("there is no site `{name}`; choose resid_post, mlp_out, attn_out or z")))
}

/// Opens the set of examples that was asked for.
fn set_of(args: &Find) -> Result<ConceptSet> {
    if let Some(spec) = &args.set {
        return ConceptSet::open(spec);
    }
    let lines = |path: &Option<PathBuf>| -> Result<Vec<String>> {
        let path = path.as_ref().ok_or_else(|| Error::request("give --with and --without"))?;
        let all = documents(&[path.display().to_string()])?;
        Ok(all.iter().flat_map(|d| d.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect())
    };
    let name = args.with.as_ref().and_then(|p| p.file_stem()).map_or("concept".into(), |s| s.to_string_lossy());
    ConceptSet::from_lists(&name, &lines(&args.with)?, &lines(&args.without)?)
}

fn execute_find(args: &Find) -> Result<()> {
    let method = Method::by_name(&args.method).ok_or_else(|| {
        let known: Vec<&str> = Method::ALL.iter().map(|m| m.name()).collect();
        Error::request(format!("there is no method `{}`; known are {}", args.method, known.join(", ")))
    })?;
    let pool = match args.pool.as_str() {
        "last" => Pool::Last,
        "mean" => Pool::Mean,
        other => return Err(Error::request(format!("`{other}` cannot stand for a text; choose last or mean"))),
    };
    let (set, kind) = (set_of(args)?, kind_of(&args.site)?);
    let job = Job::begin(&args.model, "reading the texts")?;
    let concept = find(&job.model, &set, kind, pool, method, &job.progress)?;
    let seconds = job.stop();
    if let Some(path) = &args.output {
        concept.save(path)?;
    }
    let best = concept.best().map(|b| (b.layer, b.auc, b.accuracy));
    let json = || {
        let layers: Vec<_> = concept
            .layers
            .iter()
            .map(|l| {
                json!({
                    "layer": l.layer, "auc": l.auc, "accuracy": l.accuracy, "control_auc": l.control_auc,
                    "control_accuracy": l.control_accuracy, "gap": l.gap, "typical_length": l.typical_length,
                })
            })
            .collect();
        json!({
            "concept": concept.name, "method": method.name(), "pool": pool, "site": concept.hook, "train": concept.train,
            "test": concept.test, "layers": layers, "best_layer": best.map(|b| b.0),
            "output": args.output.as_ref().map(|p| p.display().to_string()),
        })
    };
    let text = || {
        let rows: Vec<Vec<String>> = concept
            .layers
            .iter()
            .map(|l| {
                vec![
                    l.layer.to_string(),
                    format!("{:.4}", l.auc),
                    format!("{:.4}", l.accuracy),
                    format!("{:.3}", l.control_auc),
                    format!("{:.3}", l.control_accuracy),
                    format!("{:.2}", l.gap),
                    format!("{:.1}", l.typical_length),
                ]
            })
            .collect();
        let header = ["layer", "AUC", "accuracy", "AUC, random labels", "accuracy, random", "gap", "length"];
        let mut text = table(&header, &rows);
        if let Some((layer, auc, accuracy)) = best {
            text.push_str(&format!(
            "\n\n{} by {}: best at layer {layer}, AUC {auc:.4}, accuracy {accuracy:.4} on {} held-out texts ({} to fit) · {seconds:.1} s",
            concept.name,
            method.name(),
            concept.test,
            concept.train
        ));
        }
        text
    };
    job.finish(None, json, text)
}

fn execute_read(args: &Read) -> Result<()> {
    let concept = Concept::open(&args.file)?;
    let job = Job::begin(&args.model, "reading")?;
    let model = &job.model;
    concept.check(model)?;
    let layer = concept.layer(args.layer)?;
    if !args.text.is_empty() {
        return read_text(args, &concept, layer, &job);
    }
    let ids = args.prompt.required(model)?;
    let place = crate::features::Place::from(concept.site(layer)?);
    let rows = activations(model, &[&ids], &[place], &job.progress)?.remove(0);
    let values = concept.read(layer, &rows)?;
    let seconds = job.stop();
    let texts: Vec<String> = ids.iter().map(|id| model.token_text(*id)).collect();
    let json = || {
        let words = words(&texts, &values).into_iter();
        let by_word: Vec<_> =
            words.map(|w| json!({"word": w.text, "pos": [w.start, w.end], "value": w.value})).collect();
        json!({"concept": concept.name, "layer": layer, "axes": ["pos"], "values": values, "words": by_word,
            "unit": "distance of the classes' means, 0 halfway between them"})
    };
    let text = || {
        let rows: Vec<Vec<String>> =
            texts.iter().zip(&values).map(|(text, v)| vec![quoted(text), format!("{v:+.3}"), bar_of(*v)]).collect();
        format!(
            "{}\n\n{} at layer {layer}: +0.5 is the mean of texts with it, −0.5 of those without · {seconds:.3} s",
            table(&["token", "value", ""], &rows),
            concept.name
        )
    };
    job.finish(Some(&ids), json, text)
}

/// Draws a value as a bar to the right or the left of a line.
fn bar_of(v: f32) -> String {
    let n = (v.abs() * 8.0).round().min(24.0) as usize;
    if v >= 0.0 {
        format!("{}│{:<24}", " ".repeat(24), "█".repeat(n))
    } else {
        format!("{:>24}│", "█".repeat(n))
    }
}

/// A word of a text, with the text around it.
struct Found {
    word: Word,
    around: String,
}

/// The first words in some order. No more of them are kept in memory than are wanted.
struct Leading {
    found: Vec<Found>,
    most: usize,
    before: fn(f32, f32) -> bool,
}

impl Leading {
    /// Takes a word in where it is among the first.
    fn take(&mut self, word: &Word, around: impl FnOnce() -> String) {
        let at = self.found.partition_point(|f| !(self.before)(word.value, f.word.value));
        if at < self.most {
            self.found.insert(at, Found { word: word.clone(), around: around() });
            self.found.truncate(self.most);
        }
    }
}

/// Reads every word of files or folders. The table lists the strongest and the weakest, the document all of them.
fn read_text(args: &Read, concept: &Concept, layer: usize, job: &Job) -> Result<()> {
    let (model, progress) = (&job.model, &job.progress);
    let place = crate::features::Place::from(concept.site(layer)?);
    let rows = Rows::cut(model, &args.text, &Cut::new(args.context, args.tokens), progress)?;
    progress.expect(rows.tokens() as u64);
    let mut strongest = Leading { found: Vec::new(), most: args.top, before: |a, b| a > b };
    let mut weakest = Leading { found: Vec::new(), most: args.top, before: |a, b| a < b };
    let (mut list, mut count, mut sum) = (Vec::new(), 0usize, 0f64);
    for batch in rows.batches(PASS) {
        let some = rows.some(&batch)?;
        let held = activations(model, &some.rows(), &[place], progress)?.remove(0);
        let values = concept.read(layer, &held)?;
        for ((row, ids), values) in batch.iter().zip(some.rows()).zip(values.chunks_exact(some.len)) {
            let texts: Vec<String> = ids.iter().map(|id| model.token_text(*id)).collect();
            // The first position is an outlier in many models.
            for mut word in words(&texts, values).into_iter().filter(|w| w.start > 0) {
                if word.text.contains("\\x") && model.tokenizer.is_some() {
                    word.text = text_of(model, &ids[word.start..word.end]).trim().to_owned();
                }
                count += 1;
                sum += f64::from(word.value);
                if args.model.json {
                    list.push(json!({"word": word.text, "value": word.value, "row": row,
                        "pos": [word.start, word.end], "document": rows.document(*row)}));
                    continue;
                }
                let around = || text_of(model, &ids[word.start.saturating_sub(5)..(word.end + 5).min(ids.len())]);
                strongest.take(&word, around);
                weakest.take(&word, around);
            }
        }
        progress.step(some.tokens() as u64)?;
    }
    let seconds = job.stop();
    let json = || {
        json!({"concept": concept.name, "layer": layer, "text": args.text, "words": list,
            "unit": "distance of the classes' means, 0 halfway between them"})
    };
    let text = || {
        let mean = sum / count.max(1) as f64;
        let line = |f: &Found| {
            let around = f.around.replace('\n', "⏎");
            vec![f.word.text.clone(), format!("{:+.3}", f.word.value), bar_of(f.word.value), around]
        };
        // Of few words none is listed twice.
        let mut lines: Vec<Vec<String>> = strongest.found.iter().take(count.div_ceil(2)).map(line).collect();
        lines.push(["·", "", "", ""].map(str::to_owned).to_vec());
        lines.extend(weakest.found.iter().take(count / 2).rev().map(line));
        format!(
            "{}\n\n{} at layer {layer} on {count} words, {mean:+.3} on average: +0.5 is the mean of texts with it, −0.5 of those without · {seconds:.1} s",
            table(&["word", "value", "", "where"], &lines),
            concept.name,
        )
    };
    job.finish(None, json, text)
}

fn execute_steer(args: &Steer) -> Result<()> {
    let concept = Concept::open(&args.file)?;
    let mut job = Job::begin(&args.model, "steering")?;
    concept.check(&job.model)?;
    let layer = concept.layer(args.layer)?;
    let mut steer = args.steer.clone();
    let mut what = format!("{} at layer {layer}", concept.name);
    if args.ablate {
        steer.alpha = vec![0.0, 1.0];
        what = format!("{} taken away at layer {layer} (α = 1) or not (0)", concept.name);
    }
    let edits = |alpha: f32| match (args.ablate, alpha == 0.0) {
        (true, true) => Ok(Vec::new()),
        (true, false) => Ok(vec![concept.ablate(layer)?]),
        (false, _) => Ok(vec![concept.steer(layer, alpha)?]),
    };
    steering::execute(&mut job, &args.prompt, &steer, &what, &edits, &NoDictionaries)
}

fn execute_similar(args: &Similar) -> Result<()> {
    let concept = Concept::open(&args.file)?;
    let (progress, bar) = progress("reading the dictionary");
    let loading = Instant::now();
    let dictionary = crate::features::open(&args.dictionary, &progress)?;
    dictionary.warnings.iter().for_each(|said| warn(said));
    drop(bar);
    let (load_seconds, started) = (loading.elapsed().as_secs_f64(), Instant::now());
    let layer = match (args.layer, dictionary.output) {
        (Some(l), _) => l,
        (None, Some(place)) => place.layer(),
        (None, None) => concept.layer(None)?,
    };
    let found = concept.similar(layer, &dictionary, args.top)?;
    if args.json {
        let list: Vec<_> = found.iter().map(|(f, c)| json!({"feature": f, "cosine": c})).collect();
        let rest = json!({"concept": concept.name, "model": {"name": concept.model}, "layer": layer, "features": list,
            "load_seconds": load_seconds, "seconds": started.elapsed().as_secs_f64()});
        return emit_json(rest);
    }
    let rows: Vec<Vec<String>> = found.iter().map(|(f, c)| vec![f.to_string(), format!("{c:+.4}")]).collect();
    emit(&format!(
        "{}\n\n{} at layer {layer} against {}",
        table(&["feature", "cosine"], &rows),
        concept.name,
        dictionary.describe()
    ))
}
