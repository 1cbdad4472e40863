//! Tuned lenses [Belrose et al. 2023]: an affine map for each layer, trained so that the prediction read behind it is like
//! the model's own.
//!
//! A file holds `{i}.weight` [d, d] and `{i}.bias` [d] for each layer i, which are added to what they read: h + A h + b. In
//! the authors' program lens i reads the stream *before* block i; so the stream after block l is read by lens l + 1, and lens
//! 0 reads the embedding, which is not shown here. Beside it a `config.json` names the model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::jacobian::{fits, is_of};
use crate::analysis::transport::{Affine, Transport};
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::model::Model;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::model::torch_file::{TorchFile, Value};
use crate::progress::Progress;

pub(super) const FORMAT: &str = "tuned lens";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    base_model_name_or_path: Option<String>,
    num_hidden_layers: Option<usize>,
}

/// Opens a tuned lens of a model: `params.pt`, the folder that holds it, or safetensors with the same names.
///
/// # Errors
/// A file that is none, or the lens of another model.
pub fn open(path: &Path, model: &Model) -> Result<Arc<Transport>> {
    let file = if path.is_dir() { in_folder(path)? } else { path.to_owned() };
    let malformed = |what: String| Error::Malformed { path: file.clone(), format: FORMAT, what };
    let mut tensors = tensors(&file)?;
    let config = file.with_file_name("config.json");
    let config: Config = if config.is_file() {
        serde_json::from_str(&read_text(&config, 1 << 20)?).map_err(|e| Error::Malformed {
            path: config.clone(),
            format: FORMAT,
            what: e.to_string(),
        })?
    } else {
        Config::default()
    };
    let last = tensors.keys().filter_map(|name| layer_of(name)).max();
    let last = last.ok_or_else(|| malformed("it holds no `0.weight`".to_owned()))?;
    let width = tensors.get(&format!("{last}.weight")).map_or(0, |t| t.dims().first().copied().unwrap_or(0));
    let name = file.display().to_string();
    fits(&name, width, [last].into_iter(), model)?;
    let layers_of = config.num_hidden_layers.unwrap_or(last + 1);
    if layers_of != model.config.n_layers {
        return Err(Error::request(format!(
            "{name} is a tuned lens of a model with {layers_of} layers, and {} has {}; open the lens of this model",
            model.config.name, model.config.n_layers
        )));
    }
    is_of(&name, config.base_model_name_or_path.as_deref(), None, model)?;
    let identity = Tensor::eye(width, candle_core::DType::F32, &Device::Cpu)?;
    let mut layers = BTreeMap::new();
    for i in 1..=last {
        let weight = tensors.remove(&format!("{i}.weight")).filter(|t| t.dims() == [width, width]);
        let weight = weight.ok_or_else(|| malformed(format!("it holds no `{i}.weight` of [{width}, {width}]")))?;
        let bias = tensors.remove(&format!("{i}.bias"));
        if let Some(b) = bias.as_ref().filter(|b| b.dims() != [width]) {
            return Err(malformed(format!("`{i}.bias` has shape {:?} where [{width}] belongs", b.dims())));
        }
        layers.insert(i - 1, Affine { matrix: (weight + &identity)?.t()?, bias });
    }
    let shown = path.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
    Ok(Arc::new(Transport { name: format!("{FORMAT} {shown}"), kind: FORMAT, layers, path: Some(path.to_owned()) }))
}

/// The file of a tuned lens in its folder.
///
/// # Errors
/// There is none.
pub(super) fn in_folder(folder: &Path) -> Result<PathBuf> {
    ["params.pt", "params.safetensors"].iter().map(|name| folder.join(name)).find(|p| p.is_file()).ok_or_else(|| {
        Error::Unopenable {
            path: folder.to_owned(),
            what: "it holds no params.pt and no params.safetensors; name the lens' file or its folder".to_owned(),
        }
    })
}

/// The layer whose weight has this name in a file.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    plain(name).strip_suffix(".weight")?.parse().ok()
}

fn plain(name: &str) -> &str {
    name.strip_prefix("layer_translators.").unwrap_or(name)
}

/// All tensors of a file by the names of the authors' program, without what stands before the layer's number.
fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
        let index = safetensors_file::index(&[path.to_owned()])?;
        let shapes: Vec<(String, Vec<usize>)> =
            index.entries.iter().map(|(n, e)| (n.clone(), e.shape.clone())).collect();
        let store = Store::new(path, index.files, index.entries, Device::Cpu, &Progress::new());
        return shapes
            .into_iter()
            .filter(|(_, shape)| !shape.is_empty())
            .map(|(name, shape)| {
                let values = store.leading(&name, &shape, 0, shape[0])?;
                Ok((plain(&name).to_owned(), Tensor::from_vec(values, shape, &Device::Cpu)?))
            })
            .collect();
    }
    let mut file = TorchFile::open(path)?;
    let Value::Dictionary(entries) = file.value.clone() else {
        return Err(Error::Malformed {
            path: path.to_owned(),
            format: FORMAT,
            what: "it is no dictionary of tensors by name".to_owned(),
        });
    };
    let mut out = BTreeMap::new();
    for (name, value) in &entries {
        if let (Value::Text(name), Value::Tensor(place)) = (name, value) {
            out.insert(plain(name).to_owned(), file.tensor(place)?);
        }
    }
    Ok(out)
}
