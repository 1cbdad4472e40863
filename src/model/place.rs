//! Where a model lies: a path, the name of one that was found on this machine, or one to fetch from the hub.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{builtin, found, hub};
use crate::error::Result;
use crate::progress::Progress;

/// A file or folder, and the name of the model in it where that is not the file's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub path: PathBuf,
    pub name: Option<String>,
}

/// Returns the place that `spec` means. What begins with `hf:` is fetched where it is not in the hub's cache; the path
/// that is returned for anything else that is neither there nor found does not exist.
///
/// # Errors
/// What is to be fetched cannot be.
pub fn resolve(spec: &str, progress: &Progress) -> Result<Place> {
    if let Some(wanted) = spec.strip_prefix("hf:") {
        return hub::fetch(&hub::Wanted::parse(wanted)?, &hub::Hub::of_environment()?, progress);
    }
    let path = PathBuf::from(spec);
    if !path.exists()
        && let Some(found) = found::by_name(spec)
    {
        return Ok(Place { path: found.path, name: Some(found.name) });
    }
    let name = hub::repository_of(&path).filter(|_| path.is_dir());
    Ok(Place { path, name })
}

/// Says whether `spec` is a name and no path: a built-in model's, one to fetch, or a found one's where no file is called so.
pub fn is_name(spec: &str) -> bool {
    builtin::by_name(spec).is_some()
        || spec.starts_with("hf:")
        || !Path::new(spec).exists() && found::by_name(spec).is_some()
}

/// Says whether a file is GGUF: by its ending, or by its first letters where it has another one or none.
pub fn is_gguf(path: &Path) -> bool {
    let begins = || {
        let mut letters = [0; 4];
        File::open(path).and_then(|mut f| f.read_exact(&mut letters)).is_ok() && &letters == b"GGUF"
    };
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) || path.is_file() && begins()
}
