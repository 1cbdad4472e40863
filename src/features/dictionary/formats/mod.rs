//! Dictionary formats: one file each, one line in [`FORMATS`].

pub mod circuit_tracer;
pub mod gemma_scope;
pub mod saelens;

use std::path::Path;

use candle_core::Device;

use crate::error::{Error, Result};
use crate::features::dictionary::Dictionary;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::progress::Progress;

/// A way in which dictionaries lie on disk.
pub struct Format {
    pub name: &'static str,
    /// What a folder or file of it looks like, for messages.
    pub looks: &'static str,
    /// Whether a path looks like it.
    pub matches: fn(&Path) -> bool,
    pub open: fn(&Path, &Progress) -> Result<Dictionary>,
}

/// Every format, the first that matches a path opens it.
pub const FORMATS: &[Format] = &[saelens::FORMAT, gemma_scope::FORMAT, circuit_tracer::FORMAT];

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

/// The dictionaries at a path: one, or one a layer in a set's folder.
///
/// # Errors
/// A folder that cannot be read.
pub fn all_at(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    if path.is_dir() && (circuit_tracer::FORMAT.matches)(path) {
        let layers = circuit_tracer::layers(path)?;
        if layers.len() > 1 {
            return Ok(layers.into_iter().map(|(_, file)| file).collect());
        }
    }
    Ok(vec![path.to_owned()])
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

fn read_text(path: &Path) -> Result<String> {
    crate::files::read_text(path, crate::files::SMALL)
}

/// The last parts of a path as a name for a dictionary.
fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.components().filter_map(|c| c.as_os_str().to_str()).collect();
    parts.last().map_or_else(String::new, |s| (*s).to_owned())
}
