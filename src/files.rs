//! Writing files so that they are either whole or absent, and where the user's own lie.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use directories::ProjectDirs;

use crate::error::{Error, Result};
use crate::interrupt;

fn folder(of: fn(&ProjectDirs) -> &Path) -> PathBuf {
    let own = ProjectDirs::from("", "", "circuitscope");
    own.map_or_else(|| temporary_folder().to_owned(), |d| of(&d).to_owned())
}

/// This user's folder among the temporary files, which others can name and cannot take: one that is not the user's own is
/// left alone, and a new one is made.
pub fn temporary_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| temporary_folder_in(&std::env::temp_dir()))
}

fn temporary_folder_in(base: &Path) -> PathBuf {
    let known = base.join(format!("circuitscope-{}", user()));
    if own_folder(&known).is_ok() {
        return known;
    }
    // Its name cannot be known beforehand.
    let mut fresh = tempfile::Builder::new();
    #[cfg(unix)]
    fresh.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let fresh = fresh.prefix("circuitscope-").tempdir_in(base);
    fresh.map_or(known, tempfile::TempDir::keep)
}

/// The number by which the system knows the user; 0 where it has none.
fn user() -> u32 {
    #[cfg(unix)]
    {
        // SAFETY: it takes nothing and cannot fail.
        unsafe { libc::geteuid() }
    }
    #[cfg(not(unix))]
    {
        0
    }
}

/// Makes a folder that only this user can write, or finds it.
///
/// # Errors
/// It cannot be made; a link or something else is in its place; it belongs to another user, or others may write in it.
pub fn own_folder(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::write(parent, e))?;
    }
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::write(path, e)),
        _ => {}
    }
    let there = std::fs::symlink_metadata(path).map_err(|e| Error::write(path, e))?;
    let refused = |why: &str| Err(Error::failed(format!("{} {why}; take it away", path.display())));
    if !there.is_dir() {
        return refused("is a link or no folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        if there.uid() != user() {
            return refused("belongs to another user");
        }
        if there.mode() & 0o002 != 0 {
            return refused("can be written by every user");
        }
    }
    Ok(())
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

/// The most bytes of what people write by hand: configurations, prompts, templates, edits.
pub const SMALL: u64 = 16 << 20;
/// The most bytes of what programs write and is read as a whole: graphs, circuits, sessions, labels.
pub const LARGE: u64 = 1 << 30;

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// The file cannot be read, or is longer.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(|e| Error::read(path, e))?;
    bytes(file, path, limit)
}

/// Reads a text of at most `limit` bytes, without a byte-order mark.
///
/// # Errors
/// The file cannot be read, is longer, or is no UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|e| Error::read(path, e))?;
    text(file, path, limit)
}

/// Reads at most `limit` bytes of what messages call `name`.
fn bytes(source: impl Read, name: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A device has no length, so that it is what is read that is measured.
    source.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::read(name, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::failed(format!("{} is longer than {limit} bytes, too long for what it is", name.display())));
    }
    Ok(bytes)
}

/// As [`read_text`], from what is open already; messages call it `name`.
///
/// # Errors
/// As there.
pub fn text(source: impl Read, name: &Path, limit: u64) -> Result<String> {
    let text = String::from_utf8(bytes(source, name, limit)?)
        .map_err(|_| Error::failed(format!("{} is not a text in UTF-8", name.display())))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Writes a file so that it is whole or absent: [`Output`] in one call.
///
/// # Errors
/// As there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut output = Output::create(path)?;
    output.write_all(bytes).map_err(|e| Error::write(path, e))?;
    output.finish()
}

/// A file that is being written. It lies beside its place, and takes it in [`Self::finish`]; until then an earlier one
/// stands, and nothing is left of one that is dropped or that a signal ends. Links are followed. A device or a pipe has no
/// place to take and is written as it is.
pub struct Output {
    /// Where the user wants it, for messages.
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// A temporary file, and the place that it takes.
    Beside(tempfile::NamedTempFile, PathBuf),
    Through(std::fs::File),
}

impl Output {
    /// # Errors
    /// A folder that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = |e| Error::write(path, e);
        #[cfg(unix)]
        if let Some(open) = descriptor(path) {
            return Ok(Self { path: path.to_owned(), kind: Kind::Through(open.map_err(failed)?) });
        }
        let place = followed(path);
        let kind = match std::fs::metadata(&place) {
            Ok(there) if !there.is_file() && !there.is_dir() => {
                Kind::Through(std::fs::OpenOptions::new().write(true).open(&place).map_err(failed)?)
            }
            there => {
                let folder = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let mut builder = tempfile::Builder::new();
                #[cfg(unix)]
                builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
                // What went wrong is said of the user's file, not of the one beside it.
                let beside = interrupt::temporary(|| builder.tempfile_in(folder));
                let file = beside.map_err(|e| failed(std::io::Error::from(e.kind())))?;
                // A file that is replaced keeps who may read it; a new one follows the umask.
                #[cfg(unix)]
                if let Ok(there) = there {
                    file.as_file().set_permissions(there.permissions()).map_err(failed)?;
                }
                Kind::Beside(file, place)
            }
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// A full disk; a folder of that name.
    pub fn finish(self) -> Result<()> {
        let failed = |e| Error::write(&self.path, e);
        match self.kind {
            Kind::Through(mut file) => file.flush().map_err(failed),
            Kind::Beside(file, place) => {
                file.as_file().sync_all().map_err(failed)?;
                interrupt::permanent(|| file.persist(&place)).map(drop).map_err(|e| failed(e.error))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.kind {
            Kind::Beside(file, _) => file.write(bytes),
            Kind::Through(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.kind {
            Kind::Beside(file, _) => file.flush(),
            Kind::Through(file) => file.flush(),
        }
    }
}

/// What this process has open already where a path names that: `/dev/stdout`, `/dev/fd/3`, what a shell puts for `>(…)`. It
/// may be a pipe, which has no name, or a file that others write as well, so that it is written from where it stands.
#[cfg(unix)]
fn descriptor(path: &Path) -> Option<std::io::Result<std::fs::File>> {
    use std::os::fd::{BorrowedFd, RawFd};
    let mut place = std::path::absolute(path).ok()?;
    for _ in 0..LINKS {
        let folder = std::fs::canonicalize(place.parent()?).ok()?;
        let own = folder.starts_with(format!("/proc/{}", std::process::id())) && folder.ends_with("fd");
        if own || folder == Path::new("/dev/fd") {
            let number: RawFd = place.file_name()?.to_str()?.parse().ok()?;
            // A number of which nothing is open.
            std::fs::symlink_metadata(&place).ok()?;
            // SAFETY: it was open a moment ago, and is only copied; a copy of one that was closed meanwhile fails.
            let copy = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
            return Some(copy.map(std::fs::File::from));
        }
        place = folder.join(std::fs::read_link(&place).ok()?);
    }
    None
}

/// Refuses a pipe, or what is open already, for a work that saves several times: it would hold one state behind the other.
///
/// # Errors
/// The path is one of those.
pub fn can_be_saved_again(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let is_pipe = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo());
        if is_pipe || descriptor(path).is_some() {
            return Err(Error::request(format!(
                "{} cannot be written anew, and this work saves what it has done now and then; name a file",
                path.display()
            )));
        }
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Links that are followed: as many as Linux follows.
const LINKS: usize = 40;

/// Where a path leads by links, whether or not there is something.
fn followed(path: &Path) -> PathBuf {
    let mut place = path.to_owned();
    for _ in 0..LINKS {
        let Ok(next) = std::fs::read_link(&place) else { break };
        place = place.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    place
}

/// A folder that one process writes for a long time. Another that claims it meanwhile is refused.
pub struct Claim {
    folder: PathBuf,
    /// The folder was not there before. It goes again if it is empty.
    made: bool,
    /// The system lifts the lock when the file is closed, also by a kill.
    _lock: std::fs::File,
}

impl Claim {
    /// Makes a folder where there is none, and claims it until the claim is dropped.
    ///
    /// # Errors
    /// Another process writes there; a folder that cannot be written.
    pub fn of(folder: &Path) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            return Err(Error::request(format!("{} is no folder; name a folder", folder.display())));
        }
        let failed = |e| Error::write(folder, e);
        let made = !folder.exists();
        if made {
            interrupt::empty_folder(folder).map_err(failed)?;
        }
        // A folder can be locked itself, but on Windows, where the lock is a file in it.
        #[cfg(unix)]
        let lock = std::fs::File::open(folder);
        #[cfg(not(unix))]
        let lock = std::fs::File::create(folder.join(".circuitscope-lock"));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::failed(format!(
                "another circuitscope is writing {}; wait until it has ended, or give another folder",
                folder.display()
            ))),
            // Some network disks cannot lock; there nobody can be told.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(Self { folder: folder.to_owned(), made, _lock: lock }),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.made {
            // Removes an empty folder alone.
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn temporary_files_go_into_no_folder_of_others() {
        use std::os::unix::fs::{MetadataExt as _, symlink};
        let base = tempfile::tempdir().unwrap();
        let known = base.path().join(format!("circuitscope-{}", user()));
        let first = temporary_folder_in(base.path());
        assert_eq!(first, known);
        assert_eq!(std::fs::metadata(&known).unwrap().mode() & 0o777, 0o700);
        assert_eq!(temporary_folder_in(base.path()), known, "it is found again");
        // A link that was put there is not followed.
        std::fs::remove_dir(&known).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), &known).unwrap();
        let fresh = temporary_folder_in(base.path());
        assert!(fresh != known && fresh.starts_with(base.path()) && fresh.is_dir());
        assert_eq!(std::fs::metadata(&fresh).unwrap().mode() & 0o777, 0o700);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_files_keep_their_readers() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_atomic(&at("real"), b"old").unwrap();
        std::fs::set_permissions(at("real"), std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        symlink("new", at("dangling")).unwrap();
        write_atomic(&at("second"), b"new").unwrap();
        write_atomic(&at("dangling"), b"there").unwrap();
        assert_eq!(read(&at("real"), 9).unwrap(), b"new");
        assert_eq!(read(&at("new"), 9).unwrap(), b"there");
        assert!(at("link").is_symlink() && at("dangling").is_symlink());
        assert_eq!(std::fs::metadata(at("real")).unwrap().permissions().mode() & 0o777, 0o640);
        // What is given up leaves nothing.
        drop(Output::create(&at("third")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_file_without_end_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        write_atomic(&path, &[b' '; 100]).unwrap();
        assert!(read(&path, 100).is_ok());
        assert!(read_text(&path, 99).unwrap_err().to_string().contains("longer than 99 bytes"));
    }

    #[test]
    fn a_folder_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("training");
        let first = Claim::of(&place).unwrap();
        let told = Claim::of(&place).map(drop).unwrap_err().to_string();
        assert!(told.contains("another circuitscope is writing"), "{told}");
        drop(first);
        assert!(!place.exists());
        let second = Claim::of(&place).unwrap();
        write_atomic(&place.join("state"), b"1").unwrap();
        drop(second);
        drop(Claim::of(&place).unwrap());
        assert!(place.join("state").is_file());
    }
}
