//! Activations that trainings in the window kept: how much there is of them, and taking them away.

use std::path::{Path, PathBuf};

use super::features::FeaturesState;
use crate::error::{Error, Result};

/// Where they lie: they can be made again.
pub(super) fn folder() -> PathBuf {
    crate::files::cache_folder().join("activations")
}

/// Bytes of the files in a folder's folders: each of those is one training's.
fn bytes(folder: &Path) -> u64 {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries(folder).flat_map(|e| entries(&e.path())).filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum()
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::write(folder, e)),
        _ => Ok(()),
    }
}

impl FeaturesState {
    /// Finds out how many bytes are kept.
    pub(super) fn measure_activations(&mut self) {
        let folder = self.activations.clone();
        self.kept_bytes.start(&self.wake, move |_, _| Ok(bytes(&folder)));
    }

    pub(super) fn forget_activations(&mut self) {
        let folder = self.activations.clone();
        self.kept_bytes.start(&self.wake, move |_, _| {
            remove(&folder)?;
            Ok(bytes(&folder))
        });
    }
}
