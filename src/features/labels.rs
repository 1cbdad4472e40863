//! Labels and notes that a user writes on features, kept beside the dictionary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// File name, in the dictionary's folder.
const FILE: &str = "labels.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    #[serde(default)]
    pub label: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// By feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels(pub BTreeMap<u32, Label>);

fn file_of(dictionary: &Path) -> PathBuf {
    if dictionary.is_dir() {
        return dictionary.join(FILE);
    }
    // Several dictionaries may lie in one folder.
    let stem = dictionary.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    dictionary.with_file_name(format!("{stem}.{FILE}"))
}

impl Labels {
    /// The labels of the dictionary at a path; none where there is no file.
    ///
    /// # Errors
    /// A damaged file, which is left as it is.
    pub fn open(dictionary: &Path) -> Result<Self> {
        let path = file_of(dictionary);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| Error::Malformed {
                path,
                format: "labels",
                what: e.to_string(),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::read(&path, e)),
        }
    }

    /// # Errors
    /// A folder that cannot be written; the earlier file then stands.
    pub fn save(&self, dictionary: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        write_atomic(&file_of(dictionary), text.as_bytes())
    }

    pub fn of(&self, feature: u32) -> Option<&Label> {
        self.0.get(&feature)
    }

    /// Sets a label; an empty one is taken away.
    pub fn set(&mut self, feature: u32, label: Label) {
        if label.label.trim().is_empty() && label.note.trim().is_empty() {
            self.0.remove(&feature);
        } else {
            self.0.insert(feature, label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Labels::open(dir.path()).unwrap(), Labels::default());
        let mut l = Labels::default();
        l.set(7, Label { label: "royalty".to_owned(), note: String::new() });
        l.set(8, Label { label: " ".to_owned(), note: String::new() });
        l.save(dir.path()).unwrap();
        assert_eq!(Labels::open(dir.path()).unwrap(), l);
        assert_eq!(l.0.len(), 1);
        write_atomic(&dir.path().join(FILE), b"{").unwrap();
        assert!(Labels::open(dir.path()).unwrap_err().to_string().contains("labels.json"));
    }
}
