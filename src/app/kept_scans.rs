//! Scans made in the window lie in files, so that one that was stopped goes on and one that is done is found again.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::features::scan::{Plan, Subject};

/// Where scans lie below the folder of the feature views.
const FOLDER: &str = "scans";

/// How the file names of a subject's scans begin.
fn prefix(model: &str, subject: &Subject) -> Result<String> {
    let model: String = model.chars().map(|c| if c.is_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect();
    Ok(format!("{model}-{}-{:016x}-", subject.place()?, subject.hash()?))
}

/// The file of the first subject's scan, as this plan makes it; its folder is there.
pub(super) fn file(place: &Path, plan: &Plan<'_>) -> Result<PathBuf> {
    let subject = plan.subjects.first().ok_or_else(|| Error::request("there is nothing to scan"))?;
    let folder = place.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
    let name = format!("{}{:016x}.arrow", prefix(&plan.model.config.name, subject)?, plan.identity(subject)?);
    Ok(folder.join(name))
}

/// The newest scan of a subject, if there is any.
pub(super) fn newest(place: &Path, model: &str, subject: &Subject) -> Result<Option<PathBuf>> {
    let prefix = prefix(model, subject)?;
    let Ok(entries) = std::fs::read_dir(place.join(FOLDER)) else { return Ok(None) };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .filter(|e| e.path().extension().is_some_and(|e| e == "arrow"))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    found.sort();
    Ok(found.pop().map(|(_, p)| p))
}
