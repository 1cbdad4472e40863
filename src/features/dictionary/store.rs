//! Dictionaries by name or path, each read once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::engine::Site;
use crate::engine::dictionaries::{Dictionaries, FeatureRows};
use crate::engine::edit::FeatureChange;
use crate::error::Result;
use crate::features::dictionary::edit::FeatureEdit;
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Dictionary, formats};
use crate::model::{Model, builtin};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// A dictionary that ships with the program, for a built-in model.
pub struct Builtin {
    pub name: &'static str,
    pub model: &'static str,
    pub purpose: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

pub const BUILTINS: &[Builtin] = &[Builtin {
    name: "text-features",
    model: "text",
    purpose: "1,024 features of the residual stream after the second layer of `text`, 24 active at a time",
    files: &[
        ("cfg.json", include_bytes!("../../../assets/text-features/cfg.json")),
        ("sae_weights.safetensors", include_bytes!("../../../assets/text-features/sae_weights.safetensors")),
        ("CARD.md", include_bytes!("../../../assets/text-features/CARD.md")),
    ],
}];

/// Sets of transcoders that ship with the program, in circuit-tracer's format. A layer goes by the set's name and its
/// file's, as in `text-transcoders/layer_0.safetensors`.
pub const SETS: &[Builtin] = &[Builtin {
    name: "text-transcoders",
    model: "text",
    purpose: "a transcoder for each of the three MLPs of `text`, of 896 features, about 20 active at a time",
    files: &[
        ("config.yaml", include_bytes!("../../../assets/text-transcoders/config.yaml")),
        ("layer_0.safetensors", include_bytes!("../../../assets/text-transcoders/layer_0.safetensors")),
        ("layer_1.safetensors", include_bytes!("../../../assets/text-transcoders/layer_1.safetensors")),
        ("layer_2.safetensors", include_bytes!("../../../assets/text-transcoders/layer_2.safetensors")),
        ("CARD.md", include_bytes!("../../../assets/text-transcoders/CARD.md")),
    ],
}];

impl Builtin {
    /// Where it lies in the cache, below the folder of all that ships.
    fn folder(&self) -> PathBuf {
        Path::new("builtin").join(format!("dictionary-{}", self.name))
    }
}

/// Which of those that ship a dictionary is, if it is one.
pub fn builtin(dictionary: &Dictionary) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| dictionary.path.ends_with(b.folder()))
}

/// What a file that ships is called as part of its set, as in `text-transcoders/layer_0.safetensors`.
pub fn shipped_layer(path: &Path) -> Option<String> {
    let set = SETS.iter().find(|b| path.parent().is_some_and(|p| p.ends_with(b.folder())))?;
    Some(format!("{}/{}", set.name, path.file_name()?.to_string_lossy()))
}

struct Kept {
    path: PathBuf,
    changed: Option<SystemTime>,
    /// As its file says.
    dictionary: Arc<Dictionary>,
    /// What is found instead of it: the same at places that its file does not name.
    instead: Option<Arc<Dictionary>>,
}

/// The folder or file of a dictionary or set by its path, or the name that a shipped one has.
///
/// # Errors
/// Unpacking one that ships.
pub fn path_of(spec: &str) -> Result<PathBuf> {
    let unpacked = |b: &Builtin| builtin::unpack(&format!("dictionary-{}", b.name), b.files);
    if let Some(b) = BUILTINS.iter().chain(SETS).find(|b| b.name == spec) {
        return unpacked(b);
    }
    let layer = spec.split_once('/').and_then(|(set, file)| Some((SETS.iter().find(|b| b.name == set)?, file)));
    match layer.filter(|(b, file)| b.files.iter().any(|(name, _)| name == file)) {
        Some((b, file)) => Ok(unpacked(b)?.join(file)),
        None => Ok(PathBuf::from(spec)),
    }
}

/// Opens a dictionary by the path of its folder or file, or a built-in one by its name.
///
/// # Errors
/// As [`formats::open`].
pub fn open(spec: &str, progress: &Progress) -> Result<Dictionary> {
    let mut dictionary = formats::open(&path_of(spec)?, progress)?;
    // Also where it is opened by its path, as edits name it.
    if let Some(b) = builtin(&dictionary) {
        b.name.clone_into(&mut dictionary.name);
    }
    Ok(dictionary)
}

/// When a folder or file last changed.
fn changed(path: &Path) -> Option<SystemTime> {
    let of = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    of(&path.join("sae_weights.safetensors")).or_else(|| of(path))
}

/// Dictionaries that are kept, at most; of more those read first are forgotten, but not those that were changed.
const KEPT: usize = 4;

crate::identity!(Store);

/// Dictionaries that were opened, so that each is read once. Edits find theirs here by name or path.
#[derive(Default)]
pub struct Store {
    kept: Mutex<Vec<Kept>>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a dictionary the one that is found under a path or name.
    ///
    /// # Errors
    /// As unpacking a built-in one.
    pub fn insert(&self, spec: &str, dictionary: Arc<Dictionary>) -> Result<()> {
        self.keep(path_of(spec)?, dictionary.clone(), Some(dictionary));
        Ok(())
    }

    fn keep(&self, path: PathBuf, dictionary: Arc<Dictionary>, instead: Option<Arc<Dictionary>>) {
        let changed = changed(&path);
        let mut kept = self.lock();
        kept.retain(|k| k.path != path);
        if kept.iter().filter(|k| k.instead.is_none()).count() >= KEPT
            && let Some(oldest) = kept.iter().position(|k| k.instead.is_none())
        {
            kept.remove(oldest);
        }
        kept.push(Kept { path, changed, dictionary, instead });
    }

    /// As [`open`], but a dictionary that has been opened before and lies unchanged is the same one again.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self, spec: &str, progress: &Progress) -> Result<Arc<Dictionary>> {
        self.known(spec, progress).map(|(dictionary, instead)| instead.unwrap_or(dictionary))
    }

    /// Returns a dictionary as its file says, and what stands in for it.
    fn known(&self, spec: &str, progress: &Progress) -> Result<(Arc<Dictionary>, Option<Arc<Dictionary>>)> {
        let path = path_of(spec)?;
        let now = changed(&path);
        let known = self.lock().iter().find(|k| k.path == path && k.changed == now).map(|k| {
            let (dictionary, instead) = (&k.dictionary, &k.instead);
            (dictionary.clone(), instead.clone())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let dictionary = Arc::new(open(spec, progress)?);
        self.keep(path, dictionary.clone(), None);
        Ok((dictionary, None))
    }
}

/// The sites that a dictionary reads and a transcoder writes, where its file does not say.
pub type Sites = (Place, Option<Place>);

/// A dictionary that was opened.
pub struct OpenedDictionary {
    pub dictionary: Arc<Dictionary>,
    /// The same as its file says.
    pub of_file: Arc<Dictionary>,
    /// Tells its features from those of another dictionary at the same place.
    pub hash: u64,
}

/// Asks for the dictionary of a name or path. From then on edits find it in the store, at the sites that were named.
#[derive(Clone, PartialEq)]
pub struct DictionaryOf {
    pub spec: String,
    pub sites: Option<Sites>,
    pub store: Arc<Store>,
}

impl Question for DictionaryOf {
    type Answer = OpenedDictionary;

    const LABEL: &'static str = "reading the dictionary";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(OpenedDictionary)) -> Result<OpenedDictionary> {
        let (of_file, instead) = self.store.known(&self.spec, progress)?;
        let hash = of_file.hash()?;
        let Some((input, output)) = self.sites else {
            return Ok(OpenedDictionary { dictionary: instead.unwrap_or_else(|| of_file.clone()), of_file, hash });
        };
        let known = instead.filter(|d| d.input == Some(input) && output.is_none_or(|o| d.output == Some(o)));
        let dictionary = match known {
            Some(d) => d,
            None => Arc::new((*of_file).clone().placed(input, output)?),
        };
        self.store.keep(path_of(&self.spec)?, of_file.clone(), Some(dictionary.clone()));
        Ok(OpenedDictionary { dictionary, of_file, hash })
    }
}

impl Dictionaries for Store {
    fn direction(&self, dictionary: &str, feature: usize, site: Site) -> Result<Vec<f32>> {
        let d = self.open(dictionary, &Progress::new())?;
        // Only a cross-layer feature writes something else at each site.
        if d.later.is_empty() { d.direction(feature) } else { d.direction_at(feature, site) }
    }

    fn change(
        &self,
        dictionary: &str,
        feature: usize,
        change: FeatureChange,
        site: Site,
        model: &Model,
    ) -> Result<Arc<dyn FeatureRows>> {
        let d = self.open(dictionary, &Progress::new())?;
        Ok(Arc::new(FeatureEdit::new(d, feature, change, site, model)?))
    }
}
