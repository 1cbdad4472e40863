//! Dictionary formats: one file each, one line in [`FORMATS`].

pub mod circuit_tracer;
pub mod dictionary_learning;
pub mod gemma_scope;
pub mod llama_scope;
pub mod qwen_scope;
pub mod saelens;
pub mod sparsify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::Value as Json;

use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::features::dictionary::cross_layer::Later;
use crate::features::dictionary::place::Place;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::progress::Progress;
use crate::typed::{self, Typed};

/// A way in which dictionaries lie on disk.
pub struct Format {
    pub name: &'static str,
    /// What a folder or file of it looks like, for messages.
    pub looks: &'static str,
    /// Whether a path looks like it.
    pub matches: fn(&Path) -> bool,
    /// The layer that it reads, as far as its configuration or its name says, without its weights.
    pub layer: fn(&Path) -> Option<usize>,
    pub open: fn(&Path, &Progress) -> Result<Dictionary>,
}

/// Every format, the first that matches a path opens it.
pub const FORMATS: &[Format] = &[
    saelens::FORMAT,
    gemma_scope::FORMAT,
    circuit_tracer::FORMAT,
    sparsify::FORMAT,
    dictionary_learning::FORMAT,
    llama_scope::FORMAT,
    qwen_scope::FORMAT,
];

/// Whether a path that may be a model's is a dictionary's: a model's folder can hold files of a name that dictionaries have.
pub fn is_dropped(path: &Path) -> bool {
    let gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let model = path.join("config.json").is_file() && path.join("tokenizer.json").is_file();
    !gguf && !model && FORMATS.iter().any(|f| (f.matches)(path))
}

/// Opens a dictionary.
///
/// # Errors
/// A path of no known format, a damaged file, or shapes that do not belong together.
pub fn open(path: &Path, progress: &Progress) -> Result<Dictionary> {
    if !path.exists() {
        return Err(Error::read(path, std::io::ErrorKind::NotFound.into()));
    }
    let format = FORMATS.iter().find(|f| (f.matches)(path)).ok_or_else(|| {
        let known: Vec<String> = FORMATS.iter().map(|f| format!("{} ({})", f.name, f.looks)).collect();
        Error::request(format!(
            "{} is no dictionary of features that is known here; known are {}",
            path.display(),
            known.join(", ")
        ))
    })?;
    (format.open)(path, progress)?.validated()
}

/// The layer that the dictionary at a path reads, where that is known before it is opened.
pub fn layer_of(path: &Path) -> Option<usize> {
    FORMATS.iter().find(|f| (f.matches)(path)).and_then(|f| (f.layer)(path))
}

/// The dictionaries at a path: one, or one a layer in a set's folder.
///
/// # Errors
/// A folder that cannot be read, a list of files that are not there.
pub fn all_at(path: &Path) -> Result<Vec<PathBuf>> {
    /// Folders below a set's that dictionaries may lie in.
    const DEPTH: usize = 3;
    if path.is_dir() {
        let layers = if (circuit_tracer::FORMAT.matches)(path) {
            circuit_tracer::layers(path)?
        } else {
            gemma_scope::layers(path)
        };
        if layers.len() > 1 {
            return Ok(layers.into_iter().map(|(_, file)| file).collect());
        }
        let layers = qwen_scope::layers(path);
        if !layers.is_empty() {
            return Ok(layers.into_iter().map(|(_, file)| file).collect());
        }
        if !FORMATS.iter().any(|f| (f.matches)(path)) {
            let mut found = Vec::new();
            below(path, DEPTH, &mut found);
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    Ok(vec![path.to_owned()])
}

/// Whether a path that may be a model's holds a set: a dictionary for each of several layers.
pub fn is_set(path: &Path) -> bool {
    let model = path.join("config.json").is_file() && path.join("tokenizer.json").is_file();
    path.is_dir() && !model && all_at(path).is_ok_and(|all| all.len() > 1)
}

/// The folders below one that hold a dictionary each, those of layer 2 before those of layer 10.
fn below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut folders: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect();
    let number = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits = name.split(|c: char| !c.is_ascii_digit()).find(|d| !d.is_empty());
        (digits.and_then(|d| d.parse::<usize>().ok()), name)
    };
    folders.sort_by_key(number);
    for folder in folders {
        if FORMATS.iter().any(|f| (f.matches)(&folder)) {
            found.push(folder);
        } else if depth > 1 {
            below(&folder, depth - 1, found);
        }
    }
}

/// The place that a hook of a transformers model names, as in `model.layers.5.mlp.output`; `None` for one that no model
/// here has.
pub fn place_of_hook(hook: &str) -> Option<Place> {
    let (module, side) = hook.rsplit_once('.')?;
    place_of_module(module, side)
}

/// The place at the `input` or `output` of a module of a transformers model, as in `layers.5.mlp` or `h.5`.
fn place_of_module(module: &str, side: &str) -> Option<Place> {
    let parts: Vec<&str> = module.split('.').collect();
    let at = parts.iter().position(|p| matches!(*p, "layers" | "h" | "blocks" | "block"))?;
    let layer: usize = parts.get(at + 1)?.parse().ok()?;
    let place = |kind| Some(Place::from(Site::new(kind, layer)));
    match (parts[at + 2..].join(".").as_str(), side) {
        ("", "output") => place(SiteKind::ResidPost),
        ("", "input") => place(SiteKind::ResidPre),
        ("mlp" | "feed_forward", "output") => place(SiteKind::MlpResult),
        ("mlp" | "feed_forward", "input") | ("pre_feedforward_layernorm", "output") => Some(Place::mlp_input(layer)),
        ("pre_feedforward_layernorm", "input") => place(SiteKind::ResidMid),
        ("post_feedforward_layernorm", "output") => place(SiteKind::MlpOut),
        // What Gemma 2 and 3 call so stands behind attention; elsewhere it is the norm before the MLP.
        ("self_attn.o_proj", "input") => place(SiteKind::Z),
        _ => None,
    }
}

/// A cross-layer transcoder's decoders in a file: what each feature of a layer writes to each layer.
struct CrossLayer<'a> {
    file: &'a Path,
    name: String,
    /// [d_sae, layers, d_out].
    shape: [usize; 3],
    /// Which of the layers is the features' own; those before it are not read.
    own: usize,
}

impl<'a> CrossLayer<'a> {
    /// Values of a decoder that are read at a time.
    const PART: usize = 16 << 20;

    fn of(store: &Store, file: &'a Path, format: &'static str, name: String, own: usize, d_sae: usize) -> Result<Self> {
        let shape = store.entries().get(&name).map(|e| e.shape.clone()).unwrap_or_default();
        let malformed = |what| Error::Malformed { path: file.to_owned(), format, what };
        let &[features, outputs, d_out] = &shape[..] else {
            return Err(malformed(format!("{name} has shape {shape:?} where [feature, layer, d_model] belongs")));
        };
        if (features, outputs.max(own + 1), d_out.max(1)) != (d_sae, outputs, d_out) {
            let expected = vec![d_sae, outputs.max(own + 1), d_out.max(1)];
            return Err(Error::WrongShape { name, found: shape, expected });
        }
        Ok(Self { file, name, shape: [features, outputs, d_out], own })
    }

    /// What is written to the own layer, [d_sae, d_out], and the later layers, which stay in the file.
    fn decoders(self, store: &Store, format: &str) -> Result<(Tensor, Later)> {
        let Self { file, name, shape, own } = self;
        let [features, outputs, d_out] = shape;
        // All of it is read once, so that what is no number is found now; kept is what is written to the own layer.
        let mut kept = Vec::with_capacity(features * d_out);
        let some = (Self::PART / (outputs * d_out)).max(1);
        for from in (0..features).step_by(some) {
            let part = store.leading(&name, &shape, from, some.min(features - from))?;
            part.chunks_exact(outputs * d_out).for_each(|f| kept.extend_from_slice(&f[own * d_out..(own + 1) * d_out]));
        }
        let later = if outputs == own + 1 {
            Later::default()
        } else {
            // Read later by whoever asks, when the job that opens is long over.
            let store = Arc::new(self::store(file, format, &Progress::new())?);
            Later::File { store, name, shape, own }
        };
        Ok((Tensor::from_vec(kept, (features, d_out), &Device::Cpu)?, later))
    }
}

/// The tensors of a safetensors file.
fn store(path: &Path, format: &str, progress: &Progress) -> Result<Store> {
    let index = safetensors_file::index(&[path.to_owned()])?;
    let store = Store::new(path, index.files, index.entries, Device::Cpu, progress);
    Ok(store.with_unread(index.unread).for_family(format))
}

/// A tensor's shape, which must have two axes.
fn matrix_shape(store: &Store, path: &Path, format: &'static str, name: &str) -> Result<(usize, usize)> {
    match store.entries().get(name).map(|e| &e.shape[..]) {
        Some([a, b]) if *a > 0 && *b > 0 => Ok((*a, *b)),
        Some(other) => Err(Error::Malformed {
            path: path.to_owned(),
            format,
            what: format!("{name} has shape {other:?} where a matrix belongs"),
        }),
        None => Err(Error::Malformed { path: path.to_owned(), format, what: format!("it holds no tensor `{name}`") }),
    }
}

/// What a folder's configuration says, an object.
fn config_of(path: &Path, malformed: &impl Fn(String) -> Error) -> Result<Json> {
    let config: Json = serde_json::from_str(&read_text(path)?).map_err(|e| malformed(e.to_string()))?;
    if config.is_object() { Ok(config) } else { Err(malformed("it is no object".to_owned())) }
}

/// A field of a type; nothing where it is absent or null. Another type is refused.
fn typed<'a, T: Typed<'a>>(
    value: Option<&'a Json>,
    name: &str,
    malformed: &impl Fn(String) -> Error,
) -> Result<Option<T>> {
    typed::typed(value, name).map_err(|what| malformed(format!("its {what}")))
}

/// A configuration, or nothing where it cannot be read: opening says why.
fn config_at(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_str(&read_text(path).ok()?).ok()
}

fn read_text(path: &Path) -> Result<String> {
    crate::files::read_text(path, crate::files::SMALL)
}

/// The last parts of a path as a name for a dictionary.
fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.components().filter_map(|c| c.as_os_str().to_str()).collect();
    parts.last().map_or_else(String::new, |s| (*s).to_owned())
}
