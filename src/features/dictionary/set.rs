//! A set: a transcoder for every layer of a model, which together stand in for its MLPs. Layers are read one after the
//! other when they are asked for, and kept where all of them are small.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::formats::{self, all_at, circuit_tracer};
use super::store::{SETS, path_of, shipped_layer};
use super::{Activation, Dictionary, Normalisation};
use crate::engine::SiteKind;
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::model::config::ModelConfig;
use crate::progress::Progress;

/// Bytes of weights of a set that is kept in memory.
const KEPT: u64 = 1 << 30;

struct Member {
    layer: usize,
    file: PathBuf,
    dictionary: OnceLock<Arc<Dictionary>>,
}

/// Bytes of a file, or of the files of a folder that is a dictionary.
fn bytes_at(path: &Path) -> u64 {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |f| f.len());
    match std::fs::read_dir(path) {
        Ok(all) => all.filter_map(std::result::Result::ok).map(|f| length(&f.path())).sum(),
        Err(_) => length(path),
    }
}

crate::identity!(DictionarySet);

/// A transcoder for every layer, by layer.
pub struct DictionarySet {
    /// What opens it again.
    pub spec: String,
    pub path: PathBuf,
    pub name: String,
    members: Vec<Member>,
    /// Whether layers that were read stay in memory.
    keep: bool,
    /// The folder whose `config.yaml` describes all layers.
    described: bool,
}

impl DictionarySet {
    /// # Errors
    /// A path without dictionaries, two for one layer, or files that cannot be read.
    pub fn open(spec: &str, progress: &Progress) -> Result<Self> {
        let path = path_of(spec)?;
        if !path.exists() {
            return Err(Error::read(&path, std::io::ErrorKind::NotFound.into()));
        }
        let described = path.is_dir() && circuit_tracer::is_set(&path);
        // Files hold two or four bytes a number, memory four.
        let fits = |files: &mut dyn Iterator<Item = &Path>| 2 * files.map(bytes_at).sum::<u64>() <= KEPT;
        let mut keep = false;
        let members: Vec<Member> = if described {
            let layers = circuit_tracer::layers(&path)?;
            layers.into_iter().map(|(layer, file)| Member { layer, file, dictionary: OnceLock::new() }).collect()
        } else {
            let files = all_at(&path)?;
            keep = fits(&mut files.iter().map(PathBuf::as_path));
            files
                .into_iter()
                .map(|file| {
                    progress.check()?;
                    if let Some(layer) = formats::layer_of(&file) {
                        return Ok(Member { layer, file, dictionary: OnceLock::new() });
                    }
                    let dictionary = Arc::new(super::store::open(&file.to_string_lossy(), progress)?);
                    let layer = dictionary.places()?.0.layer();
                    // A large one was read for its place alone, and is read again when it is its layer's turn.
                    let dictionary = if keep { OnceLock::from(dictionary) } else { OnceLock::new() };
                    Ok(Member { layer, file, dictionary })
                })
                .collect::<Result<_>>()?
        };
        let mut set = Self {
            spec: spec.to_owned(),
            name: match SETS.iter().find(|b| b.name == spec) {
                Some(shipped) => shipped.name.to_owned(),
                None => path.file_name().map_or_else(|| spec.to_owned(), |n| n.to_string_lossy().into_owned()),
            },
            path,
            members,
            keep: false,
            described,
        };
        set.members.sort_by_key(|m| m.layer);
        if let Some(w) = set.members.windows(2).find(|w| w[0].layer == w[1].layer) {
            return Err(Error::request(format!(
                "{} holds two dictionaries of layer {}, {} and {}; name a folder with one a layer",
                set.path.display(),
                w[0].layer,
                w[0].file.display(),
                w[1].file.display()
            )));
        }
        set.keep = keep || described && fits(&mut set.members.iter().map(|m| m.file.as_path()));
        Ok(set)
    }

    /// The same as if it were too large to be kept.
    #[cfg(test)]
    pub fn as_large(self) -> Self {
        Self { keep: false, ..self }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether there is one for every layer of a model.
    ///
    /// # Errors
    /// One sentence naming the layer that is missing or too many.
    pub fn check(&self, model: &ModelConfig) -> Result<()> {
        let layers: Vec<usize> = self.members.iter().map(|m| m.layer).collect();
        let missing = (0..model.n_layers).find(|l| !layers.contains(l));
        let told = format!("{} has {} layers", model.name, model.n_layers);
        if let Some(l) = missing {
            return Err(Error::request(format!(
                "the set {} has no dictionary of layer {l}, and {told}; a graph on features needs one for each",
                self.path.display()
            )));
        }
        if let Some(l) = layers.iter().find(|l| **l >= model.n_layers) {
            return Err(Error::request(format!(
                "the set {} has a dictionary of layer {l}, but {told}; it belongs to another model",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// The transcoder of a layer, and where it reads and writes in a model.
    ///
    /// # Errors
    /// A layer that cannot be read, or that does not fit the model or a graph.
    pub fn layer(
        &self,
        layer: usize,
        model: &ModelConfig,
        progress: &Progress,
    ) -> Result<(Arc<Dictionary>, Place, Place)> {
        let dictionary = self.read(layer, progress)?;
        let (input, output) = dictionary.check(model)?;
        let refuse = |what: &str| Err(Error::request(format!("{} {what}", dictionary.path.display())));
        if !dictionary.transcoder {
            return refuse("is an SAE, which stands in for no MLP; a graph on features needs transcoders");
        }
        if input.layer() != layer || output.layer() != layer {
            return refuse(&format!("reads {input} and writes {output}, not both in layer {layer}"));
        }
        use SiteKind::{Ln2Normalized, MlpOut, MlpResult, ResidMid, ResidPre};
        if !matches!(output.site.kind, MlpOut | MlpResult)
            || !matches!(input.site.kind, Ln2Normalized | ResidMid | ResidPre)
        {
            return refuse(&format!("reads {input} and writes {output}, not what an MLP does"));
        }
        if !matches!(dictionary.normalisation, Normalisation::None | Normalisation::Centre) || dictionary.rescale {
            return refuse("normalises what it reads, so that its features are not linear in it; a graph needs others");
        }
        if matches!(dictionary.activation, Activation::Gated { .. }) {
            return refuse("is gated, so that its features have two pre-activations; a graph needs others");
        }
        Ok((dictionary, input, output))
    }

    /// A layer's dictionary as its file says, whatever model it is for.
    ///
    /// # Errors
    /// A layer that is not there or cannot be read.
    pub fn read(&self, layer: usize, progress: &Progress) -> Result<Arc<Dictionary>> {
        let member = self.members.iter().find(|m| m.layer == layer).ok_or_else(|| {
            Error::request(format!("the set {} has no dictionary of layer {layer}", self.path.display()))
        })?;
        if let Some(known) = member.dictionary.get() {
            return Ok(known.clone());
        }
        let dictionary = Arc::new(if self.described {
            circuit_tracer::open_layer(&self.path, &member.file, layer, progress)?.validated()?
        } else {
            formats::open(&member.file, progress)?
        });
        if self.keep {
            return Ok(member.dictionary.get_or_init(|| dictionary).clone());
        }
        Ok(dictionary)
    }

    /// The layers that it has, rising.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.members.iter().map(|m| m.layer)
    }

    /// What opens a layer's dictionary by itself, as edits name it: its file, or for a set that ships its name there.
    pub fn layer_spec(&self, layer: usize) -> Option<String> {
        let file = self.file(layer)?;
        Some(shipped_layer(file).unwrap_or_else(|| file.display().to_string()))
    }

    /// The file that a layer is read from.
    pub fn file(&self, layer: usize) -> Option<&Path> {
        self.members.iter().find(|m| m.layer == layer).map(|m| m.file.as_path())
    }
}
