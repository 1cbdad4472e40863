//! A set of transcoders, one for each of several layers: the text is run once for all of them, then each layer is trained
//! by itself. Layers that are finished stay in the folder, so that a stopped set goes on with the layer that was begun.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::features::dictionary::formats::circuit_tracer;
use crate::features::dictionary::place::Place;
use crate::features::quality::reconstruction;
use crate::features::rows::Rows;
use crate::features::train::activations::{Harvest, Keep};
use crate::features::train::elsewhere::Captured;
use crate::features::train::harvest_file::{self, HarvestAbout, Harvested};
use crate::features::train::recipe::{Recipe, split};
use crate::features::train::{Origin, Point, Trainer};
use crate::hash::Hash;
use crate::model::Model;
use crate::model::safetensors_file::metadata;
use crate::progress::Progress;
use crate::shard::hex;

/// Held-out tokens that a finished layer is judged on.
const JUDGED: usize = 4096;

/// Which layers a set is trained for: all, one, or a range as in `0-5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    All,
    Range(usize, usize),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("`{text}` names no layers; write all, 3, or 0-5");
        if text == "all" {
            return Ok(Self::All);
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
        if from <= to { Ok(Self::Range(from, to)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Range(from, to) if from == to => from.fmt(f),
            Self::Range(from, to) => write!(f, "{from}-{to}"),
        }
    }
}

impl Layers {
    /// How many; those beyond a model's layers are counted as well where all are meant.
    pub fn count(self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Range(from, to) => to - from + 1,
        }
    }

    fn of(self, n_layers: usize) -> Result<Vec<usize>> {
        match self {
            Self::All => Ok((0..n_layers).collect()),
            Self::Range(_, to) if to >= n_layers => {
                Err(Error::request(format!("there is no layer {to}; layers go from 0 to {}", n_layers - 1)))
            }
            Self::Range(from, to) => Ok((from..=to).collect()),
        }
    }
}

/// The hooks of a layer's transcoder: the MLP's input and what the MLP gives.
pub const HOOKS: [&str; 2] = ["mlp.hook_in", "mlp.hook_out"];

/// What a layer's transcoder reads and writes.
///
/// # Errors
/// Never for a layer.
pub fn places(layer: usize) -> Result<[Place; 2]> {
    let place = |hook: &str| Place::parse(&format!("blocks.{layer}.{hook}"));
    Ok([place(HOOKS[0])?, place(HOOKS[1])?])
}

/// A layer that was trained.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Trained {
    pub layer: usize,
    pub path: PathBuf,
    /// The last point of the training; `None` for a layer that was finished before.
    pub last: Option<Point>,
}

/// What was done for a set.
pub struct TrainedSet {
    pub layers: Vec<Trained>,
    pub positions: usize,
    pub harvested: Duration,
    pub trained: Duration,
}

/// Where a set's activations come from.
pub enum Source<'a> {
    /// From the recipe's text, in one pass. Up to so many bytes of them lie in memory, more in a temporary file.
    Text(&'a Model, usize),
    /// The same, kept in a harvest's file, which is gone on with, and taken as it is where it is whole.
    Kept(&'a Model, &'a Path),
    /// From a file, and the name of the model whose they are.
    File(&'a Captured, &'a str),
}

impl Source<'_> {
    /// The layers that are meant.
    fn layers(&self, layers: Layers) -> Result<Vec<usize>> {
        let file = match self {
            Self::Text(model, _) | Self::Kept(model, _) => return layers.of(model.config.n_layers),
            Self::File(file, _) => file,
        };
        let there = file.places();
        let has = |l: &usize| places(*l).is_ok_and(|both| both.iter().all(|p| there.contains(p)));
        let all: Vec<usize> =
            there.iter().map(|p| p.layer()).collect::<BTreeSet<_>>().into_iter().filter(has).collect();
        let asked = match layers {
            Layers::All => all.clone(),
            Layers::Range(from, to) => (from..=to).collect(),
        };
        match asked.iter().find(|l| !all.contains(l)) {
            None if !asked.is_empty() => Ok(asked),
            lacking => Err(Error::request(format!(
                "{} lacks blocks.{}.{} or {} beside it; a transcoder is trained on both",
                file.path().display(),
                lacking.copied().unwrap_or(0),
                HOOKS[0],
                HOOKS[1]
            ))),
        }
    }

    /// What tells the model's weights from others: a hash of them, or for activations that do not say it their file.
    fn fingerprint(&self) -> Result<String> {
        Ok(match self {
            Self::Text(model, _) | Self::Kept(model, _) => format!("{:016x}", model.fingerprint()?),
            Self::File(file, _) => file.model_hash.clone().unwrap_or_else(|| file.path().display().to_string()),
        })
    }

    /// How a layer is trained: as `recipe` says, of this source's text.
    fn recipe_of(&self, recipe: &Recipe, layer: usize) -> Result<Recipe> {
        let mut own = recipe_of(recipe, layer)?;
        match self {
            Self::Text(model, _) | Self::Kept(model, _) => own.check(&model.config)?,
            Self::File(file, _) => {
                // What another program captured does not say what it is of.
                let (mut texts, mut context, mut tokens) = (vec![file.path().display().to_string()], 0, None);
                if let Ok(harvest) = harvest_file::about(file.path()) {
                    (texts, context, tokens) = (harvest.texts, harvest.context, harvest.limit);
                    (own.bos, own.include_first) = (harvest.bos, harvest.include_first);
                }
                (own.text, own.context, own.tokens) = (texts, context, tokens);
                own.check_format()?;
            }
        }
        Ok(own)
    }

    /// What a layer's file says of how it was trained.
    fn about(&self, recipe: &Recipe, fingerprint: &str) -> Result<Vec<(&'static str, String)>> {
        about(recipe, self.model_name(), fingerprint, self.activations(recipe)?)
    }

    /// What tells the activations of a file from others: a hash of some rows of a layer's. A harvest of here names its text.
    fn activations(&self, recipe: &Recipe) -> Result<Option<String>> {
        let Self::File(file, _) = self else { return Ok(None) };
        if harvest_file::about(file.path()).is_ok() {
            return Ok(None);
        }
        let table = file.table(recipe.site, !recipe.include_first)?;
        let rows: Vec<usize> = (0..table.rows()).step_by(table.rows().div_ceil(HASHED).max(1)).collect();
        let mut hash = Hash::default();
        hash.add(table.rows() as u64);
        hash.values(&table.take(&rows)?);
        Ok(Some(hex(hash.0)))
    }

    fn model_name(&self) -> &str {
        match self {
            Self::Text(model, _) | Self::Kept(model, _) => &model.config.name,
            Self::File(_, name) => name,
        }
    }
}

/// How a layer of a set is trained.
///
/// # Errors
/// Never for a layer of a model.
pub fn recipe_of(recipe: &Recipe, layer: usize) -> Result<Recipe> {
    let [site, target] = places(layer)?;
    let mut own = Recipe { site, target: Some(target), ..recipe.clone() };
    own.settings.seed = recipe.settings.seed.wrapping_add(layer as u64);
    Ok(own)
}

/// What a layer's file says of how it was trained: its recipe, the model by name and weights, and what tells the activations
/// of a file from others.
fn about(
    recipe: &Recipe,
    model: &str,
    fingerprint: &str,
    activations: Option<String>,
) -> Result<Vec<(&'static str, String)>> {
    let recipe = serde_json::to_string(recipe).map_err(|e| Error::failed(e.to_string()))?;
    let mut all = vec![
        ("circuitscope.recipe", recipe),
        ("circuitscope.model", model.to_owned()),
        (WEIGHTS, fingerprint.to_owned()),
    ];
    all.extend(activations.map(|hash| (ACTIVATIONS, hash)));
    Ok(all)
}

/// Hash of some numbers of every weight of the model.
const WEIGHTS: &str = "circuitscope.weights";
/// Hash of some of the activations, where they came from a file, of so many rows.
const ACTIVATIONS: &str = "circuitscope.activations";
const HASHED: usize = 64;

/// A layer that lies there is taken up only if it was trained in this very way.
fn same_training(path: &Path, about: &[(&str, String)]) -> Result<()> {
    let facts = metadata(path)?;
    for (name, wanted) in about {
        let there = facts.get(*name).cloned();
        // One model goes by several names.
        if there.as_ref() == Some(wanted) || *name == "circuitscope.model" {
            continue;
        }
        let what = match there {
            None => "does not say how it was trained".to_owned(),
            Some(_) if *name == WEIGHTS => {
                let of = facts.get("circuitscope.model").cloned().unwrap_or_default();
                format!("was trained of other weights ({of})")
            }
            Some(_) if *name == ACTIVATIONS => "was trained on other activations".to_owned(),
            Some(_) => "was trained with other settings or on another text".to_owned(),
        };
        return Err(Error::request(format!(
            "{} {what}; give the same, another --output, or take it away",
            path.display()
        )));
    }
    Ok(())
}

/// Harvests a shard of what a set is trained on into a file.
///
/// # Errors
/// As [`Harvested::run`].
pub fn harvest_set(
    model: &Model,
    recipe: &Recipe,
    layers: Layers,
    shard: (usize, usize),
    path: &Path,
    progress: &Progress,
) -> Result<HarvestAbout> {
    let mut all = Vec::new();
    for layer in layers.of(model.config.n_layers)? {
        let own = recipe_of(recipe, layer)?;
        own.check(&model.config)?;
        all.extend(own.places());
    }
    let (rows, _) = split(Rows::cut(model, &recipe.text, &recipe.cut(), progress)?);
    let Recipe { text, include_first, .. } = recipe;
    Harvested { model, rows: &rows, places: &all, texts: text, cut: recipe.cut(), include_first: *include_first, shard }
        .run(path, progress)
}

/// Trains a transcoder for each of some layers, and writes them into a folder as circuit-tracer keeps them. `recipe` says
/// how; its sites are not looked at, nor is its text where the activations come from a file.
///
/// # Errors
/// Settings that cannot be, layers that are not there, running the model, writing the folder, or [`Error::Cancelled`].
pub fn train_set(
    source: &Source<'_>,
    recipe: &Recipe,
    layers: Layers,
    folder: &Path,
    progress: &Progress,
    report: &mut dyn FnMut(usize, Point),
) -> Result<TrainedSet> {
    let asked = source.layers(layers)?;
    let fingerprint = source.fingerprint()?;
    let mut missing = Vec::new();
    let mut done = Vec::new();
    for layer in asked {
        let (own, path) = (source.recipe_of(recipe, layer)?, circuit_tracer::layer_file(folder, layer));
        if path.is_file() {
            same_training(&path, &source.about(&own, &fingerprint)?)?;
            done.push(Trained { layer, path, last: None });
        } else {
            missing.push((layer, own));
        }
    }
    let (mut positions, mut harvested, started) = (0, Duration::ZERO, Instant::now());
    if !missing.is_empty() {
        if let (Source::Text(model, held), Some((_, own))) = (source, missing.first()) {
            progress.needs(|| own.cost(model, missing.len(), *held))?;
        }
        progress.reserve(missing.iter().map(|(_, r)| r.settings.units(r.settings.steps)).sum());
        let all: Vec<Place> = missing.iter().flat_map(|(_, r)| r.places()).collect();
        let cut = |model| Ok::<_, Error>(split(Rows::cut(model, &recipe.text, &recipe.cut(), progress)?));
        let mut judged = None;
        let tables = match source {
            Source::Text(model, memory) => {
                let (rows, held_out) = cut(model)?;
                judged = Some((*model, held_out.sample(JUDGED)?));
                let (skip_first, keep) = (!recipe.include_first, Keep::Not(*memory));
                Harvest { model, rows: &rows, places: &all, skip_first, keep }.run(progress)?
            }
            Source::Kept(model, path) => {
                judged = Some((*model, cut(model)?.1.sample(JUDGED)?));
                harvest_set(model, recipe, layers, (0, 1), path, progress)?;
                let file = Captured::open(path)?;
                all.iter().map(|p| file.table(*p, !recipe.include_first)).collect::<Result<_>>()?
            }
            Source::File(file, _) => {
                all.iter().map(|p| file.table(*p, !recipe.include_first)).collect::<Result<_>>()?
            }
        };
        let mut tables = tables.into_iter();
        harvested = started.elapsed();
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        for (layer, own) in missing {
            let (Some(input), Some(target)) = (tables.next(), tables.next()) else {
                return Err(Error::failed("nothing was harvested"));
            };
            positions = input.rows();
            let about = source.about(&own, &fingerprint)?;
            let model_name = Some(source.model_name().to_owned());
            let origin = Origin { model_name, input: Some(own.site), output: own.target };
            let mut trainer = Trainer::new(own.settings, origin, input, Some(target))?;
            // What is begun lies in a folder of its own until it is finished.
            let begun = folder.join(format!("layer_{layer}.begun"));
            trainer.resume(&begun)?;
            let mut last = None;
            trainer.run(Some(&begun), progress, &mut |_| Ok(None), &mut |point| {
                report(layer, point);
                last = Some(point);
            })?;
            let dictionary = trainer.dictionary(&format!("layer {layer}"))?;
            let path = circuit_tracer::save(&dictionary, folder, layer, &about)?;
            if begun.is_dir() {
                std::fs::remove_dir_all(&begun).map_err(|e| Error::write(&begun, e))?;
            }
            if let (Some((model, rows)), Some(point)) = (&judged, &mut last) {
                point.held_out = Some(reconstruction(model, &dictionary, rows, progress)?.explained_variance);
                report(layer, *point);
            }
            done.push(Trained { layer, path, last });
        }
    }
    // It comes last: a folder that has one is finished.
    circuit_tracer::describe(folder, source.model_name(), HOOKS)?;
    done.sort_by_key(|t| t.layer);
    Ok(TrainedSet { layers: done, positions, harvested, trained: started.elapsed().saturating_sub(harvested) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::train::{Method, Settings, harvest_file};

    #[test]
    fn layers_are_named() {
        let of = |text: &str| text.parse::<Layers>().map_err(|_| ()).and_then(|l| l.of(4).map_err(|_| ()));
        assert_eq!(of("all"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(of("2"), Ok(vec![2]));
        assert_eq!(of("1-3"), Ok(vec![1, 2, 3]));
        for wrong in ["", "3-1", "0-4", "a", "1-"] {
            assert_eq!(of(wrong), Err(()), "{wrong}");
        }
        assert_eq!("1-3".parse::<Layers>().unwrap().to_string(), "1-3");
    }

    fn recipe() -> Recipe {
        Recipe {
            site: places(0).unwrap()[0],
            target: None,
            text: vec!["prose".to_owned()],
            context: 32,
            tokens: Some(1500),
            bos: false,
            include_first: false,
            settings: Settings {
                method: Method::BatchTopK,
                features: 32,
                k: 4,
                steps: 12,
                batch: 64,
                ..Settings::default()
            },
        }
    }

    #[test]
    fn a_set_is_trained_and_goes_on_where_it_was_stopped() {
        let model = Model::open("text").unwrap();
        let recipe = recipe();
        let dir = tempfile::tempdir().unwrap();
        let train = |folder: &Path, progress: &Progress| {
            train_set(&Source::Text(&model, 1 << 30), &recipe, Layers::All, folder, progress, &mut |_, _| {})
        };
        let n = model.config.n_layers;
        let whole = train(&dir.path().join("whole"), &Progress::new()).unwrap();
        assert_eq!(whole.layers.len(), n);
        let judged: Vec<f32> = whole.layers.iter().filter_map(|l| l.last?.held_out).collect();
        assert!(judged.len() == n && judged.iter().all(|v| *v < 1.0), "{judged:?}");
        let set =
            crate::features::DictionarySet::open(dir.path().join("whole").to_str().unwrap(), &Progress::new()).unwrap();
        set.check(&model.config).unwrap();
        for layer in 0..n {
            let (d, input, output) = set.layer(layer, &model.config, &Progress::new()).unwrap();
            assert_eq!((d.d_sae, input, output), (32, places(layer).unwrap()[0], places(layer).unwrap()[1]));
        }
        // A layer that is there is kept, and the others come out as they did.
        let again = dir.path().join("again");
        std::fs::create_dir(&again).unwrap();
        let file = |folder: &Path, l: usize| circuit_tracer::layer_file(folder, l);
        std::fs::copy(file(&dir.path().join("whole"), 0), file(&again, 0)).unwrap();
        let rest = train(&again, &Progress::new()).unwrap();
        assert!(rest.layers[0].last.is_none() && rest.layers[n - 1].last.is_some());
        let decoder = |folder: &Path| -> Vec<Vec<f32>> {
            let all = candle_core::safetensors::load(file(folder, n - 1), &candle_core::Device::Cpu).unwrap();
            all["W_dec"].to_vec2().unwrap()
        };
        assert_eq!(decoder(&again), decoder(&dir.path().join("whole")));
        // From a harvest in shards the same set is trained, bit for bit.
        let parts: Vec<PathBuf> = (0..3).map(|i| dir.path().join(format!("part-{i}"))).collect();
        for (i, part) in parts.iter().enumerate() {
            harvest_set(&model, &recipe, Layers::All, (i, 3), part, &Progress::new()).unwrap();
        }
        let (merged, sharded) = (dir.path().join("merged"), dir.path().join("sharded"));
        harvest_file::merge(&parts, &merged).unwrap();
        let file = Captured::open(&merged).unwrap();
        let source = Source::File(&file, "text");
        train_set(&source, &recipe, Layers::All, &sharded, &Progress::new(), &mut |_, _| {}).unwrap();
        for layer in 0..n {
            let read = |folder: &Path| crate::files::read(&circuit_tracer::layer_file(folder, layer), 1 << 30).unwrap();
            assert_eq!(read(&sharded), read(&dir.path().join("whole")), "layer {layer}");
        }
        // A harvest of another text is not gone on with, and the layers say which text it was.
        let (other, elsewhere) = (dir.path().join("other"), dir.path().join("elsewhere"));
        let other_text = Recipe { tokens: recipe.tokens.map(|n| n / 2), ..recipe.clone() };
        harvest_set(&model, &other_text, Layers::All, (0, 1), &other, &Progress::new()).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        let first = circuit_tracer::layer_file(&sharded, 0);
        std::fs::copy(&first, circuit_tracer::layer_file(&elsewhere, 0)).unwrap();
        let other = Captured::open(&other).unwrap();
        let source = Source::File(&other, "text");
        let made = train_set(&source, &recipe, Layers::All, &elsewhere, &Progress::new(), &mut |_, _| {});
        assert!(made.is_err_and(|e| e.to_string().contains("on another text")));
        let said: Recipe = serde_json::from_str(&metadata(&first).unwrap()["circuitscope.recipe"]).unwrap();
        assert_eq!((said.text, said.context, said.tokens), (recipe.text.clone(), recipe.context, recipe.tokens));
        // Layers of other settings, of other weights, or of who knows what are not taken up.
        let refused = |recipe: &Recipe| {
            let source = Source::Text(&model, 1 << 30);
            let made = train_set(&source, recipe, Layers::All, &again, &Progress::new(), &mut |_, _| {});
            made.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let other = Recipe { settings: Settings { k: 5, ..recipe.settings.clone() }, ..recipe.clone() };
        assert!(refused(&other).contains("layer_0.safetensors was trained with other settings"), "{}", refused(&other));
        let mut own = recipe.clone();
        let [site, target] = places(0).unwrap();
        (own.site, own.target) = (site, Some(target));
        let foreign = about(&own, "another", "0", None).unwrap();
        let layer = set.layer(0, &model.config, &Progress::new()).unwrap().0;
        circuit_tracer::save(&layer, &again, 0, &foreign).unwrap();
        assert!(refused(&recipe).contains("other weights (another)"), "{}", refused(&recipe));
        circuit_tracer::save(&layer, &again, 0, &[]).unwrap();
        assert!(refused(&recipe).contains("does not say how it was trained"), "{}", refused(&recipe));
    }

    /// A harvest that is kept is begun, stopped, gone on with, and taken as it is by another training.
    #[test]
    fn a_kept_harvest_goes_on() {
        let (model, recipe, dir) = (Model::open("text").unwrap(), recipe(), tempfile::tempdir().unwrap());
        let n = model.config.n_layers;
        let source = Source::Text(&model, 1 << 30);
        train_set(&source, &recipe, Layers::All, &dir.path().join("whole"), &Progress::new(), &mut |_, _| {}).unwrap();
        let (kept, from_kept) = (dir.path().join("kept.safetensors"), dir.path().join("from-kept"));
        let stopped = Progress::new();
        let begun = std::thread::scope(|scope| {
            scope.spawn(|| {
                while stopped.counts().0 < 600 {
                    std::thread::yield_now();
                }
                stopped.cancel();
            });
            train_set(&Source::Kept(&model, &kept), &recipe, Layers::All, &from_kept, &stopped, &mut |_, _| {})
        });
        assert!(matches!(begun, Err(Error::Cancelled)));
        let about_kept = harvest_file::about(&kept).unwrap();
        assert!(about_kept.done > 0, "{about_kept:?}");
        let progress = Progress::new();
        let source = Source::Kept(&model, &kept);
        train_set(&source, &recipe, Layers::All, &from_kept, &progress, &mut |_, _| {}).unwrap();
        for layer in 0..n {
            let read = |folder: &Path| crate::files::read(&circuit_tracer::layer_file(folder, layer), 1 << 30).unwrap();
            assert_eq!(read(&from_kept), read(&dir.path().join("whole")), "layer {layer}");
        }
        let written = || std::fs::metadata(&kept).unwrap().len();
        let (size, other) =
            (written(), Recipe { settings: Settings { k: 3, ..recipe.settings.clone() }, ..recipe.clone() });
        train_set(&source, &other, Layers::All, &dir.path().join("k3"), &Progress::new(), &mut |_, _| {}).unwrap();
        assert_eq!(written(), size);
        let longer = Recipe { tokens: Some(2000), ..recipe.clone() };
        let refused_text =
            train_set(&source, &longer, Layers::All, &dir.path().join("longer"), &Progress::new(), &mut |_, _| {});
        assert!(refused_text.err().is_some_and(|e| e.to_string().contains("kept.safetensors")));
    }
}
