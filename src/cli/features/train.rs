//! `features train`: harvests activations and trains a dictionary on them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{TextArgs, encode::about, gigabytes, shown};
use crate::analysis::plan::OverText;
use crate::cli::submit::{Training, Work};
use crate::cli::{Job, ModelArgs, Part, emit, emit_json, note, progress, warn};
use crate::error::{Error, Result};
use crate::features::Place;
use crate::features::dictionary::formats::saelens;
use crate::features::train::activations::Keep;
use crate::features::train::elsewhere::Captured;
use crate::features::train::recipe::Recipe;
use crate::features::train::set::{Layers, Source, Trained, harvest_set, places, train_set};
use crate::features::train::{Method, Point, Settings};
use crate::files::Claim;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Site whose activations are taken apart (blocks.5.hook_mlp_out)
    #[arg(long, value_name = "SITE", required_unless_present = "layers")]
    site: Option<String>,
    /// Train a set of transcoders, one for each of these layers' MLPs, in circuit-tracer's format: all, 3, or 0-5
    #[arg(long, value_name = "all|0-5", conflicts_with_all = ["site", "target"])]
    layers: Option<Layers>,
    /// How it is written (default: saelens; circuit-tracer with --layers). In SAELens' format --layers takes one layer
    #[arg(long, value_enum)]
    format: Option<Written>,
    /// Site that a transcoder learns to write; without it a sparse autoencoder is trained
    #[arg(long, value_name = "SITE")]
    target: Option<String>,
    /// Folder to write, in SAELens' format; a set in circuit-tracer's
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// l1, topk, batchtopk, matryoshka, jumprelu or gated (default: topk; batchtopk for transcoders)
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// How many features
    #[arg(long, value_name = "N", default_value_t = Settings::default().features)]
    features: usize,
    /// Active features a position (topk, batchtopk, matryoshka)
    #[arg(short, long, value_name = "N", default_value_t = Settings::default().k)]
    k: usize,
    /// Weight of the sparsity penalty (l1, jumprelu, gated)
    #[arg(long, value_name = "X", default_value_t = Settings::default().sparsity)]
    sparsity: f32,
    /// Steps of training
    #[arg(long, value_name = "N", default_value_t = Settings::default().steps)]
    steps: usize,
    /// Positions a step
    #[arg(long, value_name = "N", default_value_t = Settings::default().batch)]
    batch: usize,
    /// Learning rate
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
    /// How many first features each reconstruction has (matryoshka; default: a sixteenth, an eighth, a quarter, a half, all)
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    nested: Vec<usize>,
    /// Let a transcoder pass its input on by a matrix of its own, beside its features
    #[arg(long)]
    skip: bool,
    /// Width of the window in which a threshold feels its neighbours (jumprelu), in scaled activations
    #[arg(long, value_name = "X", default_value_t = Settings::default().bandwidth)]
    bandwidth: f32,
    /// Positions of silence after which a feature counts as dead
    #[arg(long, value_name = "N", default_value_t = Settings::default().dead_after)]
    dead_after: usize,
    /// Steps between two resamplings of dead features (l1, jumprelu, gated); 0 for none
    #[arg(long, value_name = "N", default_value_t = Settings::default().resample)]
    resample: usize,
    /// Weight of the auxiliary loss that revives dead features (topk, batchtopk, matryoshka)
    #[arg(long, value_name = "X", default_value_t = Settings::default().auxiliary)]
    auxiliary: f32,
    /// Seed of the first weights and the order of positions
    #[arg(long, value_name = "N", default_value_t = Settings::default().seed)]
    seed: u64,
    /// Train on each row's first position as well, whose activations are outliers in many models; with --activations on each
    /// text's, where the file tells texts apart
    #[arg(long)]
    include_first: bool,
    /// Train on activations that are there already, without the model: safetensors with tensors by the names of sites, as
    /// `run --capture` and a merged harvest are, or a folder of SAELens' cached activations. A set's model is named by -m
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "context", "tokens", "bos", "keep"])]
    activations: Option<PathBuf>,
    /// Keep the harvested activations in this folder; a later training takes them from there, and a set's harvest that was
    /// stopped goes on
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Gigabytes of activations kept in memory; more go to a temporary file
    #[arg(long, value_name = "GB", default_value_t = 4.0, value_parser = crate::cli::parse_gigabytes)]
    memory: f64,
    /// Only harvest shard I of N of what a set (--layers) is trained on into the file --output, counted from 0; put all of
    /// them together with `merge`, and train on that with --activations
    #[arg(long, value_name = "I/N", requires = "layers", conflicts_with_all = ["site", "target", "activations", "keep", "format"])]
    shard: Option<Part>,
}

/// The format of what is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Written {
    /// A folder for one dictionary
    Saelens,
    /// A folder with a transcoder for each layer
    CircuitTracer,
}

impl Arguments {
    /// What a set's harvest goes over.
    pub fn work(&self) -> Option<Work<'_>> {
        let layers = self.layers.as_ref().filter(|_| self.activations.is_none())?;
        let training = Training {
            dictionaries: layers.count(),
            features: self.features,
            steps: self.steps,
            batch: self.batch,
            held: gigabytes(self.memory),
        };
        Some(self.text.work(&self.model, OverText::Harvest).then(training))
    }
}

/// Reads the settings of the training from the options.
fn settings(args: &Arguments) -> Result<Settings> {
    // Neither SAELens nor circuit-tracer has a transcoder of the plain default.
    let writes = args.layers.is_some() || args.target.is_some();
    let name = args.method.as_deref().unwrap_or(if writes { "batchtopk" } else { "topk" });
    let method = Method::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = Method::ALL.iter().map(|m| m.name()).collect();
        Error::request(format!("there is no method `{name}`; known are {}", known.join(", ")))
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
        nested: args.nested.clone(),
        skip: args.skip,
        bandwidth: args.bandwidth,
        dead_after: args.dead_after,
        resample: args.resample,
        auxiliary: args.auxiliary,
        seed: args.seed,
    };
    Ok(s)
}

/// The layers of a set; nothing where one dictionary is trained.
///
/// # Errors
/// A format that does not hold what is trained.
fn set_of(args: &Arguments) -> Result<Option<Layers>> {
    match (args.layers, args.format) {
        (None, Some(Written::CircuitTracer)) => {
            Err(Error::request("circuit-tracer's format holds sets of transcoders; name their layers with --layers"))
        }
        (Some(Layers::Range(from, to)), Some(Written::Saelens)) if from == to => Ok(None),
        (Some(layers), Some(Written::Saelens)) => Err(Error::request(format!(
            "SAELens' format holds one dictionary in a folder, not --layers {layers}; name one layer, or leave out --format"
        ))),
        (layers, _) => Ok(layers),
    }
}

/// Reads the whole recipe from the options.
fn recipe(args: &Arguments) -> Result<Recipe> {
    let (site, target) = match args.layers {
        // A set has sites of its own.
        Some(Layers::Range(layer, _)) => places(layer).map(|[site, target]| (site, Some(target)))?,
        Some(Layers::All) => (Place::mlp_input(0), None),
        None => {
            let site = args.site.as_deref().ok_or_else(|| Error::request("name what is taken apart with --site"))?;
            (Place::parse(site)?, args.target.as_deref().map(Place::parse).transpose()?)
        }
    };
    Ok(Recipe {
        site,
        target,
        text: args.text.text.clone(),
        context: args.text.context,
        tokens: args.text.tokens,
        bos: args.text.bos,
        include_first: args.include_first,
        settings: settings(args)?,
    })
}

pub fn execute(args: &Arguments) -> Result<()> {
    let recipe = recipe(args)?;
    recipe.settings.check()?;
    let folder = &args.output;
    match (args.layers, args.shard, set_of(args)?) {
        (Some(layers), Some(shard), _) => return harvest(args, &recipe, layers, shard.begin(Some(&args.output))?),
        (_, None, Some(layers)) => return execute_set(args, &recipe, layers),
        _ => {}
    }
    if folder.join(saelens::CONFIG).is_file() {
        return Err(Error::request(format!(
            "{} holds a finished dictionary, and perhaps labels of its features; name another folder",
            folder.display()
        )));
    }
    let _claim = Claim::of(folder)?;
    if let Some(path) = &args.activations {
        return execute_on(args, &recipe, path);
    }
    let job = Job::begin(&args.model, "training")?;
    let (model, progress) = (&job.model, &job.progress);
    let keep = args.keep.as_deref().map_or_else(|| Keep::Not(gigabytes(args.memory)), Keep::In);
    let mut training = recipe.begin(model, keep, progress)?;
    if training.trainer.resume(folder)? {
        note(&format!("goes on from step {}", training.trainer.step));
    }
    let started = Instant::now();
    let first = training.trainer.step;
    training.run(model, folder, progress, &mut |p| {
        if p.ce_score.is_some() {
            note(&line(&p));
        }
    })?;
    let seconds = (started.elapsed() - training.judged).as_secs_f64();
    let (dictionary, quality) = training.finish(model, folder, progress)?;
    let (settings, harvested) = (&recipe.settings, training.harvested.as_secs_f64());
    let steps = settings.steps.saturating_sub(first);
    let rate = training.trainer.dense_operations() * steps as f64 / seconds.max(1e-9) / 1e9;
    job.took(harvested + seconds);
    let json = || {
        json!({
            "dictionary": about(&dictionary), "output": shown(folder), "settings": settings,
            "positions": training.positions, "harvest_seconds": harvested, "train_seconds": seconds,
            "dense_gflops": rate, "positions_per_second": steps as f64 * settings.batch as f64 / seconds.max(1e-9),
            "curve": training.trainer.curve, "quality": quality,
        })
    };
    let text = || {
        let report = quality.as_ref().map_or(String::new(), |q| format!("\n{}\n", q.report()));
        format!(
            "{}\n{} positions harvested in {harvested:.1} s, {steps} steps in {seconds:.1} s ({rate:.0} GFLOP/s as dense products)\n{report}\nwritten to {}",
            dictionary.describe(),
            training.positions,
            folder.display()
        )
    };
    job.finish(None, json, text)
}

/// Trains one dictionary on activations in a file.
fn execute_on(args: &Arguments, recipe: &Recipe, path: &Path) -> Result<()> {
    let started = Instant::now();
    let mut file = Captured::open(path)?;
    file.model = args.model.model.clone().or(file.model);
    let load_seconds = started.elapsed().as_secs_f64();
    let (progress, bar) = progress("training");
    let started = Instant::now();
    let mut training = recipe.begin_on(&file, &progress)?;
    training.trainer.resume(&args.output)?;
    let found = training.run(&args.output, &progress, &mut |_| {})?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if found.first > 0 {
        note(&format!("went on from step {}", found.first));
    }
    if args.model.json {
        return emit_json(json!({
            "model": {"name": file.model}, "dictionary": about(&found.dictionary), "output": shown(&args.output),
            "settings": recipe.settings, "positions": found.positions, "curve": found.curve,
            "seconds": seconds, "load_seconds": load_seconds,
        }));
    }
    let last = found.curve.last().map_or(String::new(), |p| format!("{}\n", line(p)));
    emit(&format!(
        "{}\n{} positions of {}, trained in {seconds:.1} s\n{last}written to {}",
        found.dictionary.describe(),
        found.positions,
        path.display(),
        args.output.display()
    ))
}

/// Harvests a shard of what a set is trained on.
fn harvest(args: &Arguments, recipe: &Recipe, layers: Layers, shard: (usize, usize)) -> Result<()> {
    let mut job = Job::begin(&args.model, "harvesting")?;
    job.restart();
    let about = harvest_set(&job.model, recipe, layers, shard, &args.output, &job.progress)?;
    let seconds = job.stop();
    let json = || json!({"output": shown(&args.output), "about": about});
    let text = || {
        format!(
            "{} positions at {} sites in {} · {seconds:.1} s",
            about.positions,
            about.places.len(),
            args.output.display()
        )
    };
    job.finish(None, json, text)
}

/// Where the harvest of some layers is kept in a folder.
fn kept(folder: &Path, layers: Layers) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    Ok(folder.join(format!("harvest-{layers}.safetensors")))
}

/// What a set of some of a model's layers cannot be used for, in a sentence.
fn gap(layers: &[Trained], n_layers: Option<usize>) -> Option<String> {
    let whole = layers.iter().enumerate().all(|(i, l)| l.layer == i) && n_layers.is_none_or(|n| n == layers.len());
    let (first, last) = (layers.first()?.layer, layers.last()?.layer);
    let told = if first == last { format!("layer {first} alone") } else { format!("layers {first} to {last} alone") };
    (!whole).then(|| {
        format!(
            "The set has {told}: circuit-tracer, like graphs on features here, needs every layer from 0 to the last."
        )
    })
}

/// Trains a set.
fn execute_set(args: &Arguments, recipe: &Recipe, layers: Layers) -> Result<()> {
    let folder = &args.output;
    if folder.join("config.yaml").is_file() {
        return Err(Error::request(format!("{} holds a finished set; name another folder", folder.display())));
    }
    let _claim = Claim::of(folder)?;
    let mut say = |layer: usize, p: Point| {
        // A layer whose text is known is judged on what was held out of it.
        if p.step == recipe.settings.steps && p.held_out.is_some() == args.activations.is_none() {
            note(&format!("layer {layer}: {}", line(&p)));
        }
    };
    let job = if args.activations.is_none() { Some(Job::begin(&args.model, "training")?) } else { None };
    let (found, name, load_seconds) = match (&job, &args.activations) {
        (Some(job), _) => {
            let kept = args.keep.as_deref().map(|folder| kept(folder, layers)).transpose()?;
            let source = match &kept {
                Some(path) => Source::Kept(&job.model, path),
                None => Source::Text(&job.model, gigabytes(args.memory)),
            };
            let found = train_set(&source, recipe, layers, folder, &job.progress, &mut say)?;
            (found, job.model.config.name.clone(), job.model.load_seconds)
        }
        (None, path) => {
            let started = Instant::now();
            let file = Captured::open(path.as_deref().unwrap_or(Path::new("")))?;
            let name = args.model.model.clone().or(file.model.clone()).ok_or_else(|| {
                Error::request("a set says which model it reads, and the file does not; name it with -m")
            })?;
            let (progress, _bar) = progress("training");
            let load_seconds = started.elapsed().as_secs_f64();
            (train_set(&Source::File(&file, &name), recipe, layers, folder, &progress, &mut say)?, name, load_seconds)
        }
    };
    if let Some(said) = gap(&found.layers, job.as_ref().map(|j| j.model.config.n_layers)) {
        warn(&said);
    }
    let (harvested, trained) = (found.harvested.as_secs_f64(), found.trained.as_secs_f64());
    let fields = json!({
        "output": shown(folder), "settings": recipe.settings, "positions": found.positions, "layers": found.layers,
        "harvest_seconds": harvested, "train_seconds": trained,
    });
    let judged: Vec<f32> = found.layers.iter().filter_map(|l| l.last?.held_out).collect();
    let mean = judged.iter().sum::<f32>() / judged.len() as f32;
    let held_out = if judged.is_empty() {
        String::new()
    } else {
        format!("explained on held-out text: {mean:.4}, mean of {} layers\n", judged.len())
    };
    let text = format!(
        "{held_out}{} transcoders of {} features; {} positions harvested in {harvested:.1} s, trained in {trained:.1} s\nwritten to {}",
        found.layers.len(),
        recipe.settings.features,
        found.positions,
        folder.display()
    );
    match job {
        Some(job) => {
            job.took(harvested + trained);
            job.finish(None, || fields, || text)
        }
        None if args.model.json => {
            let mut doc = fields;
            doc["model"] = json!({"name": name});
            (doc["seconds"], doc["load_seconds"]) = (json!(harvested + trained), json!(load_seconds));
            emit_json(doc)
        }
        None => emit(&text),
    }
}

/// Returns a line about a point of the training.
fn line(p: &Point) -> String {
    let held_out = p.held_out.map_or(String::new(), |v| format!(" · on held-out text {v:.4}"));
    format!(
        "step {}: explained {:.4}{held_out} · L0 {:.1} · dead {:.1} % · CE score {}",
        p.step,
        p.explained,
        p.l0,
        100.0 * p.dead,
        p.ce_score.map_or("–".to_owned(), |s| format!("{s:.4}"))
    )
}
