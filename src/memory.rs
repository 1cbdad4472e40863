//! Memory: how much there is, work that does not fit refused before it begins, and the allocator.
//!
//! The allocator is the system's, asking Linux for huge pages where an allocation is large. Tensors are megabytes; with
//! 4 kB pages a run that keeps what it computes spends more time on page faults than on some of its products.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cost::duration;
use crate::error::{Error, Result};
use crate::files::{SMALL, read_text};
use crate::guard::{charge, refund};

pub struct LargePages;

/// From this size on huge pages are asked for: two of them.
const LARGE: usize = 4 << 20;

fn advise(pointer: *mut u8, size: usize) -> *mut u8 {
    #[cfg(target_os = "linux")]
    if size >= LARGE && !pointer.is_null() {
        const HUGE: usize = 2 << 20;
        let start = (pointer as usize).next_multiple_of(HUGE);
        let end = (pointer as usize + size) / HUGE * HUGE;
        if end > start {
            // SAFETY: the range lies inside the block just allocated, and the advice changes no contents.
            // A kernel that refuses it leaves small pages, which is no error.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = size;
    pointer
}

/// What was asked for, if it is there.
fn there(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() { ran_out(size) } else { pointer }
}

/// Bytes held in blocks of these sizes, and the most that these have been since memory was last given back. Larger ones go
/// back to the system as soon as they are freed.
static HELD: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);
const COUNTED: std::ops::Range<usize> = 64 << 10..MAPPED;

fn take(size: usize) {
    if COUNTED.contains(&size) {
        let held = HELD.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
        MOST.fetch_max(held, Ordering::Relaxed);
    }
}

fn leave(size: usize) {
    if COUNTED.contains(&size) {
        HELD.fetch_sub(size as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call is counted and handed to the system allocator unchanged.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        take(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        advise(there(unsafe { System.alloc(layout) }, layout.size()), layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        take(layout.size());
        // SAFETY: as above.
        advise(there(unsafe { System.alloc_zeroed(layout) }, layout.size()), layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        refund(layout.size());
        leave(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        charge(size);
        refund(layout.size());
        leave(layout.size());
        take(size);
        // SAFETY: as above.
        advise(there(unsafe { System.realloc(pointer, layout, size) }, size), size)
    }
}

/// Bytes from which on a block is mapped by itself.
const MAPPED: usize = 32 << 20;

/// Memory that a run gives back is kept for the next one, up to this many bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = i32::MAX;

/// Lets glibc keep freed memory instead of returning it to the system at once: the next keystroke asks for
/// the same tensors again, and every page returned is a page fault then. Called once, at the start.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: these settings change when memory is returned to the system, nothing else; a refusal is
    // harmless.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED as i32);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        // One arena: the model thread's tensors and the window's strings share what is kept.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Bytes of memory that this process holds; `None` where the system does not say.
pub fn resident() -> Option<u64> {
    let pages = read_text(Path::new("/proc/self/statm"), SMALL).ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page())
}

/// Bytes of a page, in which the system counts memory.
#[cfg(unix)]
fn page() -> u64 {
    // SAFETY: the call asks for a number.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok().filter(|n| *n > 0).unwrap_or(4096)
}

#[cfg(not(unix))]
fn page() -> u64 {
    4096
}

/// Gives memory that is free back to the system.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: only memory that is free is given back.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From this on, memory that is held for the next run is given back once nothing runs.
const MUCH: u64 = 512 << 20;

/// Gives what a long prompt left behind back to the system. To be called once nothing has run for a while; does nothing
/// unless so much was freed since the last time that the next run's page faults are worth it.
pub fn give_back() {
    let held = HELD.load(Ordering::Relaxed);
    if MOST.load(Ordering::Relaxed) > held + MUCH {
        trim();
        MOST.store(held, Ordering::Relaxed);
    }
}

/// Left to everything that is too small to be counted.
pub const RESERVE: u64 = 64 << 20;

/// Bytes that this process can still take: what the system has free, a container (cgroup) or `ulimit -v` allows; `None`
/// where nothing of it is said.
pub fn available() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let free = system.available_memory();
    [(free > 0).then_some(free), in_container(&mut system), address_space()].into_iter().flatten().min()
}

/// What is left of the memory that this process' control group may take. What it holds of files counts as free, since the
/// kernel takes that back.
fn in_container(system: &mut sysinfo::System) -> Option<u64> {
    let own = sysinfo::get_current_pid().ok()?;
    let nothing = sysinfo::ProcessRefreshKind::nothing();
    system.refresh_processes_specifics(sysinfo::ProcessesToUpdate::Some(&[own]), false, nothing);
    let limits = system.process(own)?.cgroup_limits()?;
    Some(limits.total_memory.saturating_sub(limits.rss))
}

/// What is left of the address space that `ulimit -v` allows.
fn address_space() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the call writes to a variable of its own type.
        let said = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
        if !said || limit.rlim_cur == libc::RLIM_INFINITY {
            return None;
        }
        let sizes = read_text(Path::new("/proc/self/statm"), SMALL).ok()?;
        let pages: u64 = sizes.split(' ').next()?.parse().ok()?;
        Some(limit.rlim_cur.saturating_sub(pages * page()))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Bytes of `most` that work in pieces may hold at a time: no more than a quarter of what is free.
pub fn piece(most: usize) -> usize {
    let some = || available().map_or(most, |free| most.min(usize::try_from(free / 4).unwrap_or(most)));
    if some() == most {
        return most;
    }
    // What earlier work left behind is free as well.
    trim();
    some()
}

/// Whether what is needed fits into what is free, with something left over.
pub fn fits(needed: u64, free: u64) -> bool {
    needed < RESERVE || needed.saturating_add(RESERVE) <= free
}

/// Refuses what would not fit in memory, so that the system need not end the program. `what` would take `needed` bytes, and
/// `instead` says what to do: "keeping a run of 9 tokens", "shorten the prompt".
///
/// # Errors
/// One sentence with what it would need and what is free.
pub fn afford(needed: usize, what: &str, instead: &str) -> Result<()> {
    let needed = needed as u64;
    let is_there = || available().is_none_or(|free| fits(needed, free));
    if is_there() {
        return Ok(());
    }
    // What earlier work left behind is free as well.
    trim();
    if is_there() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{what} would need {} of memory and {} are free; {instead}",
        bytes(needed),
        bytes(available().unwrap_or(0))
    )))
}

/// What something needs, in words: "needs 6.1 GB and about 40 s; 11 GB are free".
pub fn needs(needed: u64, seconds: f64) -> String {
    let free = available().map_or_else(String::new, |free| format!("; {} are free", bytes(free)));
    format!("needs {} and about {}{free}", bytes(needed), duration(seconds))
}

/// A number of bytes in two or three digits.
pub fn bytes(n: u64) -> String {
    let (unit, name) = match n {
        0..1_000 => return format!("{n} bytes"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let v = n as f64 / unit;
    if v < 9.95 { format!("{v:.1} {name}") } else { format!("{v:.0} {name}") }
}

/// Ends the program where the system refuses memory, with a sentence in place of a signal. Nothing is allocated here.
fn ran_out(size: usize) -> ! {
    struct Line([u8; 160], usize);
    impl std::fmt::Write for Line {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let end = (self.1 + text.len()).min(self.0.len());
            self.0[self.1..end].copy_from_slice(&text.as_bytes()[..end - self.1]);
            self.1 = end;
            Ok(())
        }
    }
    let mut line = Line([0; 160], 0);
    let said = "circuitscope: the memory that this program may take ran out";
    let _ = writeln!(line, "{said}, {size} bytes more were asked for; ask for less or allow more memory");
    let _ = std::io::stderr().write_all(&line.0[..line.1]);
    crate::interrupt::remove_temporary();
    #[cfg(unix)]
    // SAFETY: ends the process at once; what would run at an ordinary end might allocate.
    unsafe {
        libc::_exit(1)
    }
    #[cfg(not(unix))]
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_few_digits() {
        let sizes = [0, 999, 1_000, 440_000, 3_141_592, 538_060_000, 1_250_000_000, 24_000_000_000];
        let said = ["0 bytes", "999 bytes", "1.0 kB", "440 kB", "3.1 MB", "538 MB", "1.2 GB", "24 GB"];
        assert_eq!(sizes.map(bytes), said);
    }

    #[test]
    fn what_is_free_bounds_what_is_begun() {
        let free = available().expect("this system says what is free");
        assert!(free > 0 && afford(1 << 20, "a little", "go on").is_ok());
        let said = afford(usize::MAX / 2, "everything", "take less").unwrap_err().to_string();
        assert!(said.starts_with("everything would need 9223372037 GB of memory and "), "{said}");
        assert!(said.ends_with(" are free; take less"), "{said}");
        assert!(piece(100) == 100 && (piece(usize::MAX) as u64) < free);
    }
}
