//! Labels and notes that a user writes on features, neurons and directions. A dictionary's lie beside it, so that they go
//! where it goes; those of a model's neurons and directions in a file of the user's own, known by the model's weights.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::features::dictionary::set::DictionarySet;
use crate::features::dictionary::{Dictionary, store};
use crate::files::{LARGE, data_folder, file_name, read_text, write_atomic};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// File name, in the dictionary's folder.
const FILE: &str = "labels.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    #[serde(default)]
    pub label: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a label is on. In files a feature is its number, a neuron `layer.number`, and a direction goes by its words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Unit {
    Feature(u32),
    Neuron(usize, usize),
    /// As [`crate::features::direction::Concept::title`] says it.
    Direction(String),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature(n) => n.fmt(f),
            Self::Neuron(layer, n) => write!(f, "{layer}.{n}"),
            Self::Direction(words) => f.write_str(words),
        }
    }
}

impl From<Unit> for String {
    fn from(unit: Unit) -> Self {
        unit.to_string()
    }
}

impl From<String> for Unit {
    fn from(text: String) -> Self {
        let neuron = || {
            let (layer, n) = text.split_once('.')?;
            Some(Self::Neuron(layer.parse().ok()?, n.parse().ok()?))
        };
        text.parse().ok().map(Self::Feature).or_else(neuron).unwrap_or(Self::Direction(text))
    }
}

/// By what they are on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels(pub BTreeMap<Unit, Label>);

/// Labels by what they are on; empty ones are to be taken away.
pub type Changes = BTreeMap<Unit, Label>;

/// How long another window's writing is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps other windows from writing a file as long as it lives. There is none where no lock can be had: what crosses
/// then is one label, and not the file, which is replaced as a whole.
fn lock(path: &Path) -> Option<File> {
    // Of the labels' own file there is another one after each writing.
    let name = format!(".{}.lock", path.file_name()?.to_string_lossy());
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path.with_file_name(name)).ok()?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

/// The file with the labels of a dictionary: beside it, and below `folder` for those that ship with the program, which
/// lie where everything can be made again.
pub fn of_dictionary(folder: &Path, dictionary: &Dictionary) -> PathBuf {
    match store::builtin(dictionary) {
        Some(b) => folder.join("labels").join(format!("dictionary-{}.json", b.name)),
        None => of_file(folder, &dictionary.path),
    }
}

/// The file with the labels of a dictionary in a file of its own, or of one of a set that ships.
fn of_file(folder: &Path, path: &Path) -> PathBuf {
    match store::shipped_layer(path) {
        Some(name) => folder.join("labels").join(format!("dictionary-{}.json", file_name(&name))),
        None => beside(path),
    }
}

/// The file with the labels of the dictionary at a path.
fn beside(dictionary: &Path) -> PathBuf {
    if dictionary.is_dir() {
        return dictionary.join(FILE);
    }
    // Several dictionaries may lie in one folder.
    let stem = dictionary.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    dictionary.with_file_name(format!("{stem}.{FILE}"))
}

/// Descriptions of features of a set by (layer, feature); layers whose labels cannot be read have none.
pub fn of_set(set: &DictionarySet) -> BTreeMap<(usize, u32), String> {
    let folder = folder();
    let layer = |layer: usize| {
        let labels = set.file(layer).and_then(|file| Labels::open(&of_file(&folder, file)).ok()).unwrap_or_default();
        labels.0.into_iter().filter_map(move |(unit, label)| match unit {
            Unit::Feature(feature) if !label.label.is_empty() => Some(((layer, feature), label.label)),
            _ => None,
        })
    };
    set.layers().flat_map(layer).collect()
}

/// Where dictionaries that are trained in the window, and the labels of models, lie.
pub fn folder() -> PathBuf {
    data_folder().join("features")
}

/// The file below `folder` with the labels of a model's neurons and directions.
///
/// # Errors
/// As reading the weights.
pub fn of_model(folder: &Path, model: &Model) -> Result<PathBuf> {
    let name = file_name(&model.config.name);
    Ok(folder.join("labels").join(format!("{name}-{:016x}.json", model.fingerprint()?)))
}

/// Asks for the labels of a dictionary's features, or of a model's neurons and directions. Without a folder those of a
/// model, and of a dictionary that ships, have no file.
#[derive(Clone, PartialEq)]
pub enum LabelsOf {
    Dictionary { dictionary: Arc<Dictionary>, folder: Option<PathBuf> },
    Model { model: Arc<Model>, folder: Option<PathBuf> },
}

/// Labels as they were read, and the file that they are written to.
pub struct LabelsRead {
    pub file: Option<PathBuf>,
    pub labels: Labels,
}

impl Question for LabelsOf {
    type Answer = LabelsRead;

    const LABEL: &'static str = "reading labels";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(LabelsRead)) -> Result<LabelsRead> {
        let file = match self {
            Self::Dictionary { dictionary: d, folder: Some(folder) } => Some(of_dictionary(folder, d)),
            Self::Dictionary { dictionary: d, folder: None } => {
                let ships = store::builtin(d).is_some() || store::shipped_layer(&d.path).is_some();
                (!ships).then(|| beside(&d.path))
            }
            Self::Model { model, folder } => folder.as_ref().map(|folder| of_model(folder, model)).transpose()?,
        };
        let labels = file.as_deref().map_or_else(|| Ok(Labels::default()), Labels::open)?;
        Ok(LabelsRead { file, labels })
    }
}

/// Asks for changes to be written to a file of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelsWritten {
    pub file: PathBuf,
    pub changes: Changes,
}

impl Question for LabelsWritten {
    /// What the file holds then.
    type Answer = Labels;

    const LABEL: &'static str = "writing labels";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Labels)) -> Result<Labels> {
        Labels::amend(&self.file, &self.changes)
    }
}

/// Asks for the descriptions of a set's features. Another number of writings asks anew.
#[derive(Clone, PartialEq)]
pub struct SetLabelsOf {
    pub set: Arc<DictionarySet>,
    pub writings: u64,
}

impl Question for SetLabelsOf {
    /// By (layer, feature).
    type Answer = BTreeMap<(usize, u32), String>;

    const LABEL: &'static str = "reading the set's labels";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        Ok(of_set(&self.set))
    }
}

/// Asks for labels of features, by layer, to be written to a set; says how many were.
#[derive(Clone, PartialEq)]
pub struct SetLabelled {
    pub set: Arc<DictionarySet>,
    pub labels: BTreeMap<(usize, u32), String>,
}

impl Question for SetLabelled {
    type Answer = usize;

    const LABEL: &'static str = "writing labels to the set";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(usize)) -> Result<usize> {
        let mut by_layer: BTreeMap<usize, Changes> = BTreeMap::new();
        for ((layer, feature), label) in &self.labels {
            let label = Label { label: label.clone(), note: String::new() };
            by_layer.entry(*layer).or_default().insert(Unit::Feature(*feature), label);
        }
        let mut written = 0;
        for (layer, mut changes) in by_layer {
            progress.check()?;
            let Some(file) = self.set.file(layer).map(|file| of_file(&folder(), file)) else { continue };
            // What the user has written stands.
            let own = Labels::open(&file)?;
            changes.retain(|unit, _| own.of(unit).is_none_or(|l| l.label.trim().is_empty()));
            for (unit, label) in &mut changes {
                label.note = own.of(unit).map_or_else(String::new, |l| l.note.clone());
            }
            if !changes.is_empty() {
                written += changes.len();
                Labels::amend(&file, &changes)?;
            }
        }
        Ok(written)
    }
}

impl Labels {
    /// The labels of a file; none where there is no file.
    ///
    /// # Errors
    /// A damaged file, which is left as it is.
    pub fn open(path: &Path) -> Result<Self> {
        match read_text(path, LARGE) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| Error::Malformed {
                path: path.to_owned(),
                format: "labels",
                what: e.to_string(),
            }),
            Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
    }

    /// # Errors
    /// A folder that cannot be written; the earlier file then stands.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        write_atomic(path, text.as_bytes())
    }

    /// Puts changes into a file, and says what it holds then: what is there already, perhaps from another window, stays.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::save`].
    pub fn amend(path: &Path, changes: &Changes) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        let _lock = lock(path);
        let mut labels = Self::open(path)?;
        changes.iter().for_each(|(unit, label)| labels.set(unit.clone(), label.clone()));
        labels.save(path)?;
        Ok(labels)
    }

    pub fn of(&self, unit: &Unit) -> Option<&Label> {
        self.0.get(unit)
    }

    /// Sets a label; an empty one is taken away.
    pub fn set(&mut self, unit: Unit, label: Label) {
        if label.label.trim().is_empty() && label.note.trim().is_empty() {
            self.0.remove(&unit);
        } else {
            self.0.insert(unit, label);
        }
    }

    /// Units whose label has these words, in small letters.
    pub fn find<'a>(&'a self, words: &'a str) -> impl Iterator<Item = &'a Unit> {
        let all = self.0.iter().filter(move |(_, l)| !words.is_empty() && l.label.to_lowercase().contains(words));
        all.map(|(unit, _)| unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = beside(dir.path());
        assert_eq!(Labels::open(&path).unwrap(), Labels::default());
        let mut l = Labels::default();
        let label = |label: &str| Label { label: label.to_owned(), note: String::new() };
        l.set(Unit::Feature(7), label("royalty"));
        l.set(Unit::Feature(8), label(" "));
        l.save(&path).unwrap();
        assert_eq!(Labels::open(&path).unwrap(), l);
        assert_eq!(l.0.len(), 1);
        write_atomic(&path, b"{").unwrap();
        assert!(Labels::open(&path).unwrap_err().to_string().contains("labels.json"));
    }

    /// What ships is unpacked where everything can be made again: labels are not.
    #[test]
    fn labels_of_a_shipped_dictionary_lie_with_the_users_data() {
        let d = crate::features::open("text-features", &Progress::new()).unwrap();
        let of = |d: &Dictionary| of_dictionary(Path::new("data"), d);
        assert_eq!(of(&d), Path::new("data/labels/dictionary-text-features.json"));
        let own = Dictionary { path: "mine/text-features".into(), ..d };
        assert_eq!(of(&own), beside(&own.path));
    }

    #[test]
    fn units_are_what_they_were_when_they_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels").join("model.json");
        let units = [Unit::Feature(12), Unit::Neuron(3, 140), Unit::Direction("3.5 stars at layer 2".to_owned())];
        let mut l = Labels::default();
        for (k, unit) in units.iter().enumerate() {
            l.set(unit.clone(), Label { label: format!("Number {k}"), note: "seen twice".to_owned() });
        }
        l.save(&path).unwrap();
        let again = Labels::open(&path).unwrap();
        assert_eq!(again, l);
        let find = |words: &str| again.find(words).cloned().collect::<Vec<_>>();
        assert_eq!((find("number 1"), find(""), find("9")), (vec![units[1].clone()], vec![], vec![]));
        // Files written before there were labels of anything but features.
        write_atomic(&path, br#"{"12": {"label": "Number 0", "note": "seen twice"}}"#).unwrap();
        assert_eq!(Labels::open(&path).unwrap().of(&units[0]), l.of(&units[0]));
    }

    /// Two windows that write at once lose nothing of each other's.
    #[test]
    fn labels_of_two_writers_do_not_cross() {
        let dir = tempfile::tempdir().unwrap();
        let path = beside(dir.path());
        let write = |from: u32| {
            for n in from..from + 20 {
                let label = Label { label: format!("label {n}"), note: String::new() };
                Labels::amend(&path, &Changes::from([(Unit::Feature(n), label)])).unwrap();
            }
        };
        std::thread::scope(|s| {
            s.spawn(|| write(0));
            s.spawn(|| write(100));
        });
        assert_eq!(Labels::open(&path).unwrap().0.len(), 40);
    }
}
