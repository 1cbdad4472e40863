//! The models opened lately, kept in the user's data folder.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::write_atomic;

fn path() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "circuitscope").map(|d| d.data_dir().join("recent.json"))
}

/// The list, newest first; empty where there is none yet or it cannot be read.
pub fn load() -> Vec<String> {
    let text = path().and_then(|p| std::fs::read_to_string(p).ok());
    text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
}

pub fn save(list: &[String]) -> Result<()> {
    let Some(path) = path() else { return Ok(()) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    let text = serde_json::to_string_pretty(list).map_err(|e| Error::failed(e.to_string()))?;
    write_atomic(&path, text.as_bytes())
}
