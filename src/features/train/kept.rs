//! Activations that trainings in the window kept: how much there is of them, and taking them away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Where they lie: they can be made again.
pub fn folder() -> PathBuf {
    crate::files::cache_folder().join("activations")
}

fn entries(folder: &Path) -> impl Iterator<Item = std::fs::DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}

/// Bytes of the files in a folder's folders: each of those is one training's.
pub fn bytes(folder: &Path) -> u64 {
    entries(folder).flat_map(|e| entries(&e.path())).filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum()
}

/// Asks how many bytes of activations are kept in a folder, perhaps after taking them away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptActivationsOf {
    pub folder: PathBuf,
    pub remove: bool,
}

impl Question for KeptActivationsOf {
    type Answer = u64;

    const LABEL: &'static str = "measuring kept activations";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(u64)) -> Result<u64> {
        if self.remove {
            remove(&self.folder)?;
        }
        Ok(bytes(&self.folder))
    }
}

/// How old an unfinished file must be before it counts as one that nobody is writing.
const ABANDONED: Duration = Duration::from_secs(600);

/// Takes away what is whole, and what was left when a program was killed; not what another window is writing.
pub fn remove(folder: &Path) -> Result<()> {
    let whole = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
    for own in entries(folder).map(|e| e.path()) {
        for file in entries(&own) {
            let path = file.path();
            let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if whole(&path) || age.is_some_and(|a| a > ABANDONED) {
                std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
            }
        }
        // Goes only if it is empty.
        drop(std::fs::remove_dir(own));
    }
    Ok(())
}
