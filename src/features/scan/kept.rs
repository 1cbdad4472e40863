//! Scans made in the window lie in files, so that one that was stopped goes on and one that is done is found again.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::features::scan::{Plan, Subject, index_file};
use crate::model::Model;

/// Where the window's scans lie: they can be made again.
pub fn folder() -> PathBuf {
    crate::files::cache_folder().join("scans")
}

/// Bytes that they may take; the oldest give way.
const MOST: u64 = 4 << 30;

/// How the file names of a subject's scans begin.
fn prefix(model: &Model, subject: &Subject) -> Result<String> {
    let name = crate::files::file_name(&model.config.name);
    // Models and dictionaries of the same name are told apart by their weights.
    let mut hash = crate::hash::Hash(model.fingerprint()?);
    hash.add(subject.hash()?);
    Ok(format!("{name}-{}-{:016x}-", subject.place()?, hash.0))
}

/// The index files of a folder, the newest first.
fn files(folder: &Path) -> Vec<(PathBuf, Metadata)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(PathBuf, Metadata)> = entries
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|e| e == "arrow"))
        .filter_map(|e| Some((e.path(), e.metadata().ok()?)))
        .collect();
    found.sort_by_key(|(path, m)| (std::cmp::Reverse(m.modified().ok()), path.clone()));
    found
}

/// The file of the first subject's scan, as this plan makes it; its folder is there, and room in it.
pub fn file(folder: &Path, plan: &Plan<'_>) -> Result<PathBuf> {
    let subject = plan.subjects.first().ok_or_else(|| Error::request("there is nothing to scan"))?;
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let path = folder.join(format!("{}{:016x}.arrow", prefix(plan.model, subject)?, plan.identity(subject)?));
    // A damaged one would be in the way for ever.
    if path.is_file() && index_file::open(&path).is_err() {
        std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
    }
    let mut bytes = 0;
    for (old, m) in files(folder) {
        bytes += m.len();
        if bytes > MOST && old != path {
            // What cannot be removed only takes room.
            drop(std::fs::remove_file(old));
        }
    }
    Ok(path)
}

/// The newest whole scan of a subject, or else the newest part of one, if there is any.
pub fn newest(folder: &Path, model: &Model, subject: &Subject) -> Result<Option<PathBuf>> {
    let prefix = prefix(model, subject)?;
    let mut found = files(folder);
    found.retain(|(path, _)| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
    let whole = found.iter().find(|(path, _)| index_file::about(path).is_ok_and(|a| a.is_complete()));
    Ok(whole.or(found.first()).map(|(path, _)| path.clone()))
}
