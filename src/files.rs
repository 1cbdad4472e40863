//! Writing files so that they are either whole or absent, and where the user's own lie.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use directories::ProjectDirs;

use crate::error::{Error, Result};

fn folder(of: fn(&ProjectDirs) -> &Path) -> PathBuf {
    let own = ProjectDirs::from("", "", "circuitscope");
    own.map_or_else(|| std::env::temp_dir().join("circuitscope"), |d| of(&d).to_owned())
}

/// The user's folder for what can be made again; the temporary files' where there is none.
pub fn cache_folder() -> PathBuf {
    folder(ProjectDirs::cache_dir)
}

/// A file without a name, gone when nobody has it open. It lies on the cache folder's disk: temporary files' folders are
/// kept in memory by some systems.
///
/// # Errors
/// A folder that cannot be written.
pub fn scratch_file() -> Result<std::fs::File> {
    tempfile::tempfile_in(scratch_folder()).map_err(|e| Error::write(scratch_folder(), e))
}

/// Where [`scratch_file`]s lie: with temporary files where the cache folder cannot be written.
pub fn scratch_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let own = cache_folder();
        let usable = std::fs::create_dir_all(&own).is_ok() && tempfile::tempfile_in(&own).is_ok();
        if usable { own } else { std::env::temp_dir() }
    })
}

/// The user's folder for what cannot be made again; the temporary files' where there is none.
pub fn data_folder() -> PathBuf {
    folder(ProjectDirs::data_local_dir)
}

/// How long ago something was, in words.
pub fn ago(at: std::time::SystemTime) -> String {
    let minutes = at.elapsed().map_or(0, |t| t.as_secs() / 60);
    match minutes {
        0 => "just now".to_owned(),
        1..60 => format!("{minutes} min ago"),
        60..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}

/// A name as part of a file's: what could mean something else in one is replaced.
pub fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect()
}

/// Reads a text of at most `limit` bytes, without a byte-order mark.
///
/// # Errors
/// The file cannot be read, is longer, or is no UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::read(path, e))?;
    // A device has no length, so that it is what is read that is measured.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::read(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::failed(format!("{} is longer than {limit} bytes, too long for what it is", path.display())));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| Error::failed(format!("{} is not a text in UTF-8", path.display())))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Writes beside `path` and renames into place.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e| Error::write(path, e);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    persist(file, path)
}

/// Renames a temporary file, which is private, into place; a result is as readable as any other file of the user's.
pub fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    let fail = |e| Error::write(path, e);
    file.persist(path).map_err(|e| fail(e.error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    }
    Ok(())
}
