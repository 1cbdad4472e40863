//! Sessions that are kept by themselves, so that nothing is lost when the window closes or the program dies. Each window
//! has a file of its own, `window-0.scope` for the first; what makes room for another session is put aside.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::file::{EXTENSION, Session, is_session};
use crate::error::{Error, Result};
use crate::files::data_folder;

/// Sessions put aside at most; the oldest go first.
const MOST_ASIDE: usize = 30;
/// Windows that are open at once at most.
const MOST_WINDOWS: usize = 64;
/// How the names of sessions that were put aside begin.
const ASIDE: &str = "left-";

/// Where sessions are kept.
pub fn folder() -> PathBuf {
    data_folder().join("sessions")
}

/// A window's own file. No other window takes it while this value lives, nor after a crash has ended it.
#[derive(Debug)]
pub struct Kept {
    pub path: PathBuf,
    _lock: File,
}

impl Kept {
    /// Takes the first file in `folder` that no other window has.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn take(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        sweep(folder);
        for i in 0..MOST_WINDOWS {
            let lock = folder.join(format!("window-{i}.lock"));
            let file = File::options().create(true).truncate(false).write(true).open(&lock);
            let file = file.map_err(|e| Error::write(&lock, e))?;
            match file.try_lock() {
                Ok(()) => return Ok(Self { path: folder.join(format!("window-{i}.{EXTENSION}")), _lock: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(Error::write(&lock, e)),
            }
        }
        Err(Error::failed(format!("{MOST_WINDOWS} windows are open already; close one")))
    }

    /// Returns the session that was kept; `None` where there is none yet.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load(&self) -> Result<Option<Session>> {
        if self.path.exists() { Session::open(&self.path).map(Some) } else { Ok(None) }
    }

    /// Puts the kept session aside, where [`aside`] finds it, and returns its new place.
    ///
    /// # Errors
    /// A file that cannot be moved.
    pub fn put_aside(&self) -> Result<Option<PathBuf>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let path = folder.join(format!("{ASIDE}{time}.{EXTENSION}"));
        std::fs::rename(&self.path, &path).map_err(|e| Error::write(&path, e))?;
        for old in aside(folder).into_iter().skip(MOST_ASIDE) {
            // One that cannot be removed is one too many, no more.
            let _ = std::fs::remove_file(old);
        }
        Ok(Some(path))
    }
}

/// Returns the sessions that were put aside, newest first.
pub fn aside(folder: &Path) -> Vec<PathBuf> {
    let own = |p: &PathBuf| is_session(p) && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(ASIDE));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|e| e.path()).filter(own).collect();
    all.sort();
    all.reverse();
    all
}

/// Returns how long ago a session was put aside, in words.
pub fn age(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let at = name.strip_prefix(ASIDE).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    crate::files::ago(UNIX_EPOCH + Duration::from_millis(at))
}

/// Removes what a program that was killed while it wrote has left behind.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(".tmp") && old > Some(Duration::from_secs(60)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Desk;

    #[test]
    fn each_window_keeps_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let of = |prompt: &str| Session {
            file: None,
            document: Desk { prompt: prompt.to_owned(), ..Desk::default() }.into(),
        };
        let first = Kept::take(folder.path()).unwrap();
        assert_eq!(first.load().unwrap(), None);
        of("a").save(&first.path).unwrap();
        let second = Kept::take(folder.path()).unwrap();
        assert_eq!(second.load().unwrap(), None);
        of("b").save(&second.path).unwrap();
        drop(first);
        let again = Kept::take(folder.path()).unwrap();
        assert_eq!(again.load().unwrap(), Some(of("a")));
        let left = again.put_aside().unwrap().unwrap();
        assert_eq!(again.load().unwrap(), None);
        assert_eq!(aside(folder.path()), std::slice::from_ref(&left));
        assert_eq!(Session::open(&left).unwrap(), of("a"));
        assert_eq!(second.load().unwrap(), Some(of("b")));
    }
}
