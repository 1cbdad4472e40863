//! Models that other programs keep on this machine: the caches of Hugging Face, LM Studio and Ollama.
//!
//! Listing reads names alone. What a model is, and whether it can be opened, is read from its header when it is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use directories::BaseDirs;

use super::place::is_gguf;
use super::{Facts, hub, inspect};
use crate::error::Result;
use crate::files::{SMALL, read_text};
use crate::memory::available;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// A model in another program's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name by which it opens: `org/name`, `org/name:file.gguf`, `llama3.2:1b`.
    pub name: String,
    /// The folder or the GGUF file.
    pub path: PathBuf,
    /// Whose cache it lies in.
    pub cache: &'static str,
    /// Size on the disk: its weights.
    pub bytes: u64,
}

impl Found {
    /// Returns what it is.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn inspect(&self) -> Result<Facts> {
        inspect(&self.path)
    }
}

/// Folders of the caches. More than one of a kind: a program keeps older ones.
#[derive(Clone, Debug, Default)]
pub struct Caches {
    pub hugging_face: Vec<PathBuf>,
    pub lm_studio: Vec<PathBuf>,
    pub ollama: Vec<PathBuf>,
}

impl Caches {
    /// The user's own, where the programs' variables and defaults say.
    pub fn of_user() -> Self {
        let home = BaseDirs::new().map(|d| d.home_dir().to_owned());
        let at = |rest: &[&str]| -> Vec<PathBuf> { home.iter().flat_map(|h| rest.iter().map(|r| h.join(r))).collect() };
        let ollama = match variable("OLLAMA_MODELS") {
            Some(folder) => vec![folder],
            // The second is where its service on Linux keeps them.
            None => at(&[".ollama/models"]).into_iter().chain(["/usr/share/ollama/.ollama/models".into()]).collect(),
        };
        Self {
            hugging_face: hub::cache_folder().into_iter().collect(),
            lm_studio: at(&[".lmstudio/models", ".cache/lm-studio/models"]),
            ollama,
        }
    }

    /// Lists what lies there, by name. A folder that cannot be read has nothing.
    pub fn list(&self) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::new();
        all.extend(self.hugging_face.iter().flat_map(|folder| hugging_face(folder)));
        all.extend(self.lm_studio.iter().flat_map(|folder| lm_studio(folder)));
        all.extend(self.ollama.iter().flat_map(|folder| ollama(folder)));
        // The same folder may be named twice.
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|f| seen.insert((f.name.clone(), f.path.clone())));
        all.sort_by_key(|f| f.name.to_lowercase());
        all
    }
}

/// A path in the environment; an empty one is none.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Returns the model of this name in the user's caches. As in Ollama, a name without a tag means `latest`.
pub fn by_name(name: &str) -> Option<Found> {
    let latest = format!("{name}:latest");
    let mut list = Caches::of_user().list();
    let at = [name, &latest].into_iter().find_map(|name| list.iter().position(|f| f.name == name))?;
    Some(list.swap_remove(at))
}

/// Names of a folder's entries, in order.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let read = std::fs::read_dir(folder).into_iter().flatten().filter_map(std::result::Result::ok);
    let mut all: Vec<_> = read.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect();
    all.sort();
    all
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// The models in one folder: its GGUF files, or else the folder itself where it has a config. `name` is the folder's.
fn in_folder(name: &str, folder: &Path, cache: &'static str) -> Vec<Found> {
    let files: Vec<(String, PathBuf)> = entries(folder).into_iter().filter(|(_, path)| path.is_file()).collect();
    let ends = |file: &str, end: &str| file.to_ascii_lowercase().ends_with(end);
    // Of a model in parts the first one opens.
    let later = |file: &str| part(file).is_some_and(|(_, n)| n > 1);
    let ggufs: Vec<_> = files.iter().filter(|(file, _)| ends(file, ".gguf") && !later(file)).collect();
    let alone = ggufs.len() == 1;
    let mut found: Vec<Found> = ggufs
        .into_iter()
        .map(|(file, path)| {
            let parts = part(file).map(|(stem, _)| stem);
            let whole = |(other, _): &&(String, PathBuf)| parts.is_some() && part(other).map(|(stem, _)| stem) == parts;
            let bytes = match parts {
                Some(_) => files.iter().filter(whole).map(|(_, path)| size(path)).sum(),
                None => size(path),
            };
            let name = if alone { name.to_owned() } else { format!("{name}:{file}") };
            Found { name, path: path.clone(), cache, bytes }
        })
        .collect();
    let weights = files.iter().filter(|(file, _)| ends(file, ".safetensors"));
    if folder.join("config.json").is_file() && (found.is_empty() || weights.clone().next().is_some()) {
        let bytes = weights.map(|(_, path)| size(path)).sum();
        // A folder of both goes by its own name, the file in it by the longer one.
        for f in found.iter_mut().filter(|f| f.name == name) {
            f.name = format!("{name}:{}", f.path.file_name().unwrap_or_default().to_string_lossy());
        }
        found.push(Found { name: name.to_owned(), path: folder.to_owned(), cache, bytes });
    }
    found
}

/// `NAME-00001-of-00002.gguf`: the name, and which part it is.
pub(super) fn part(file: &str) -> Option<(&str, usize)> {
    let stem = file.get(..file.len().checked_sub(5)?)?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (name, n) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(of) && digits(n)).then(|| n.parse().ok().map(|n| (name, n)))?
}

/// `models--ORG--NAME/snapshots/COMMIT/…`, with names of commits under `refs`.
fn hugging_face(folder: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for (repository, path) in entries(folder) {
        let Some(name) = repository.strip_prefix("models--").map(|n| n.replace("--", "/")) else { continue };
        let refs: BTreeMap<String, String> = entries(&path.join("refs"))
            .into_iter()
            .filter_map(|(name, path)| Some((read_text(&path, SMALL).ok()?.trim().to_owned(), name)))
            .collect();
        let mut snapshots = entries(&path.join("snapshots"));
        let changed =
            |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        // The one that goes by the plain name stands first: `main`, else the newest.
        let is_main = |commit: &String| refs.get(commit).is_some_and(|r| r == "main");
        snapshots.sort_by_key(|(commit, path)| (!is_main(commit), std::cmp::Reverse(changed(path))));
        for (i, (commit, path)) in snapshots.iter().enumerate() {
            let revision = refs.get(commit).map_or(commit.as_str(), String::as_str);
            let name = if i == 0 { name.clone() } else { format!("{name}@{revision}") };
            found.extend(in_folder(&name, path, "Hugging Face"));
        }
    }
    found
}

/// `PUBLISHER/NAME/…`.
fn lm_studio(folder: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for (publisher, path) in entries(folder) {
        for (name, path) in entries(&path) {
            found.extend(in_folder(&format!("{publisher}/{name}"), &path, "LM Studio"));
        }
    }
    found
}

/// `manifests/REGISTRY/NAMESPACE/NAME/TAG`, each a list of layers; the layer with the weights is a GGUF file among the
/// `blobs`, whose name is its digest.
fn ollama(folder: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    let manifests = folder.join("manifests");
    for (registry, path) in entries(&manifests) {
        for (namespace, path) in entries(&path) {
            for (model, path) in entries(&path) {
                for (tag, path) in entries(&path) {
                    let name = match (registry.as_str(), namespace.as_str()) {
                        ("registry.ollama.ai", "library") => format!("{model}:{tag}"),
                        ("registry.ollama.ai", namespace) => format!("{namespace}/{model}:{tag}"),
                        (registry, namespace) => format!("{registry}/{namespace}/{model}:{tag}"),
                    };
                    if let Some(path) = weights_of(&path, folder) {
                        found.push(Found { name, bytes: size(&path), path, cache: "Ollama" });
                    }
                }
            }
        }
    }
    found
}

/// The file of weights that a manifest of Ollama's names.
fn weights_of(manifest: &Path, folder: &Path) -> Option<PathBuf> {
    let manifest: serde_json::Value = serde_json::from_str(&read_text(manifest, SMALL).ok()?).ok()?;
    let layers = manifest["layers"].as_array()?;
    let layer = layers.iter().find(|l| l["mediaType"] == "application/vnd.ollama.image.model")?;
    let digest = layer["digest"].as_str()?.replace(':', "-");
    // A digest is a plain name; a path could lead out of the folder.
    let plain = digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then(|| folder.join("blobs").join(digest))
}

/// A found model and what it is, or why it cannot be opened.
pub type Inspected = (Found, std::result::Result<Facts, String>);

/// What was found, and what memory there is for it.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub models: Vec<Inspected>,
    /// Bytes that are free; `None` where the system does not say.
    pub available: Option<u64>,
}

/// Asks for the models in the caches of this machine.
#[derive(Clone, PartialEq)]
pub struct FoundModels {
    /// Asked again where this differs.
    pub round: u64,
}

impl Question for FoundModels {
    type Answer = Listing;
    const LABEL: &'static str = "looking for models";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let list = Caches::of_user().list();
        progress.expect(list.len() as u64);
        let mut known = Listing { models: Vec::new(), available: available() };
        for found in list {
            let facts = if found.path.is_dir() || is_gguf(&found.path) {
                found.inspect().map_err(|e| e.to_string())
            } else {
                Err(format!("{} is not there or is no GGUF file; fetch it again", found.path.display()))
            };
            known.models.push((found, facts));
            progress.step(1)?;
            partial(known.clone());
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_whole_files() {
        assert_eq!(part("llama-00001-of-00003.gguf"), Some(("llama", 1)));
        assert_eq!(part("a-b-00012-of-00013.gguf"), Some(("a-b", 12)));
        for whole in ["llama.gguf", "x-of-y.gguf", "a-1-of-.gguf", ".gguf", "é", "abc-def-of-12.gguf"] {
            assert_eq!(part(whole), None, "{whole}");
        }
    }
}
