//! What was used lately, kept in the user's data folder.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::{SMALL, read_text, write_atomic};

/// The list of models.
pub const MODELS: &str = "recent.json";
/// The list of folders that files were opened from and saved in.
pub const FOLDERS: &str = "recent-folders.json";
/// The list of session files.
pub const SESSIONS: &str = "recent-sessions.json";

fn path(list: &str) -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "circuitscope").map(|d| d.data_dir().join(list))
}

/// Returns a list, newest first; empty where there is none yet or it cannot be read.
pub fn load(list: &str) -> Vec<String> {
    let text = path(list).and_then(|p| read_text(&p, SMALL).ok());
    text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
}

/// Writes a list.
///
/// # Errors
/// A folder that cannot be written.
pub fn save(list: &str, items: &[String]) -> Result<()> {
    let Some(path) = path(list) else { return Ok(()) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    let text = serde_json::to_string_pretty(items).map_err(|e| Error::failed(e.to_string()))?;
    write_atomic(&path, text.as_bytes())
}
