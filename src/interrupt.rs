//! Signals that end the program (SIGINT, SIGTERM): files that are half written go, and work that keeps checkpoints writes
//! one first.

use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::progress::Progress;

/// How something is taken away.
type Remove = fn(&Path) -> std::io::Result<()>;

/// The temporary files and folders that there are. Whoever makes, keeps or removes one holds the lock.
static TEMPORARY: Mutex<Vec<(PathBuf, Remove)>> = Mutex::new(Vec::new());
/// The work that ends by itself when it is cancelled, with numbers to know it by.
static CAREFUL: Mutex<Vec<(usize, Progress)>> = Mutex::new(Vec::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The exit status of a program that a signal ended, as shells give it for SIGINT.
pub const STATUS: u8 = 130;

fn files() -> MutexGuard<'static, Vec<(PathBuf, Remove)>> {
    // A list of paths is whole at any moment.
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn working() -> MutexGuard<'static, Vec<(usize, Progress)>> {
    CAREFUL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program at a signal. Where [`careful`] work runs the first signal only cancels it, and the second ends the
/// program.
pub fn watch() {
    let watched = ctrlc::set_handler(|| {
        let first = !INTERRUPTED.swap(true, Ordering::SeqCst);
        let working = working();
        if first && !working.is_empty() {
            working.iter().for_each(|(_, progress)| progress.cancel());
            return;
        }
        // The lock is kept to the end, so that no file is made after this.
        let files = files();
        for (path, remove) in files.iter() {
            let _ = remove(path);
        }
        exit(STATUS.into());
    });
    // Without a handler a signal ends the program as it always did.
    drop(watched);
}

/// Removes the temporary files of a program that ends at once, unless one is just being made.
pub fn remove_temporary() {
    if let Ok(files) = TEMPORARY.try_lock() {
        files.iter().for_each(|(path, remove)| drop(remove(path)));
    }
}

/// Whether a signal has come.
pub fn has_come() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Work that leaves a checkpoint when it is cancelled, until this is dropped.
pub struct Careful {
    number: usize,
}

/// Says that such work runs. A signal cancels its progress.
pub fn careful(progress: &Progress) -> Careful {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    working().push((number, progress.clone()));
    Careful { number }
}

impl Drop for Careful {
    fn drop(&mut self) {
        working().retain(|(number, _)| *number != self.number);
    }
}

/// Makes a temporary file that goes at a signal.
pub fn temporary(
    make: impl FnOnce() -> std::io::Result<tempfile::NamedTempFile>,
) -> std::io::Result<tempfile::NamedTempFile> {
    going(make, |path| std::fs::remove_file(path))
}

/// Makes a temporary folder that goes at a signal with all that is in it.
pub fn temporary_folder(
    make: impl FnOnce() -> std::io::Result<tempfile::TempDir>,
) -> std::io::Result<tempfile::TempDir> {
    going(make, |path| std::fs::remove_dir_all(path))
}

/// Makes a folder that goes at a signal if nothing is in it by then.
pub fn empty_folder(folder: &Path) -> std::io::Result<()> {
    going(|| std::fs::create_dir_all(folder).map(|()| folder), |path| std::fs::remove_dir(path)).map(drop)
}

fn going<T: AsRef<Path>>(make: impl FnOnce() -> std::io::Result<T>, remove: Remove) -> std::io::Result<T> {
    let mut files = files();
    // Those that are gone by now need no removal.
    files.retain(|(path, _)| path.exists());
    let made = make()?;
    files.push((made.as_ref().to_owned(), remove));
    Ok(made)
}

/// Puts a temporary file in its place; a signal comes before or after that.
pub fn permanent<R>(keep: impl FnOnce() -> R) -> R {
    let _files = files();
    keep()
}
