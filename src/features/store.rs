//! Dictionaries by name or path, each read once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::dictionary::Dictionary;
use super::formats;
use crate::error::Result;
use crate::jobs::Progress;
use crate::model::builtin;

/// A dictionary that ships with the program, for a built-in model.
pub struct Builtin {
    pub name: &'static str,
    pub model: &'static str,
    pub purpose: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

pub const BUILTINS: &[Builtin] = &[];

type Cache = HashMap<PathBuf, (Option<SystemTime>, Arc<Dictionary>)>;

static CACHE: Mutex<Option<Cache>> = Mutex::new(None);

fn path_of(spec: &str) -> Result<PathBuf> {
    match BUILTINS.iter().find(|b| b.name == spec) {
        Some(b) => builtin::unpack(&format!("dictionary-{}", b.name), b.files),
        None => Ok(PathBuf::from(spec)),
    }
}

/// Opens a dictionary by the path of its folder or file, or a built-in one by its name.
///
/// # Errors
/// As [`formats::open`].
pub fn open(spec: &str, progress: &Progress) -> Result<Dictionary> {
    let mut dictionary = formats::open(&path_of(spec)?, progress)?;
    if BUILTINS.iter().any(|b| b.name == spec) {
        spec.clone_into(&mut dictionary.name);
    }
    Ok(dictionary)
}

/// When a folder or file last changed.
fn changed(path: &Path) -> Option<SystemTime> {
    let of = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    of(&path.join("sae_weights.safetensors")).or_else(|| of(path))
}

/// As [`open`], but a dictionary that has been opened before and lies unchanged is the same one again.
///
/// # Errors
/// As [`open`].
pub fn shared(spec: &str, progress: &Progress) -> Result<Arc<Dictionary>> {
    let path = path_of(spec)?;
    let now = changed(&path);
    let known = |cache: &Option<Cache>| {
        cache.as_ref().and_then(|c| c.get(&path)).filter(|(then, _)| *then == now).map(|(_, d)| d.clone())
    };
    if let Some(d) = known(&CACHE.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(d);
    }
    let dictionary = Arc::new(open(spec, progress)?);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    cache.get_or_insert_default().insert(path, (now, dictionary.clone()));
    Ok(dictionary)
}
