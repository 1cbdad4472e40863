//! The allocator: the system's, asking Linux for huge pages where an allocation is large. Tensors are
//! megabytes; with 4 kB pages a run that keeps what it computes spends more time on page faults than on
//! some of its products.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

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

// SAFETY: every call is counted and handed to the system allocator unchanged.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        advise(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: as above.
        advise(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        refund(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        charge(size);
        refund(layout.size());
        // SAFETY: as above.
        advise(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

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
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        // One arena: the model thread's tensors and the window's strings share what is kept.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Bytes of memory that this process holds; `None` where the system does not say.
pub fn resident() -> Option<u64> {
    let pages = read_text(Path::new("/proc/self/statm"), SMALL).ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// From this on, memory that is held for the next run is given back once nothing runs.
const MUCH: u64 = 512 << 20;

/// Gives what a long prompt left behind back to the system. To be called once nothing has run for a while; does nothing
/// unless the process has grown since the last time by so much that the next run's page faults are worth it.
pub fn give_back() {
    static LAST: AtomicU64 = AtomicU64::new(0);
    if resident().is_some_and(|now| now > LAST.load(Ordering::Relaxed) + MUCH) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: only memory that is free is given back.
        unsafe {
            libc::malloc_trim(0);
        }
        LAST.store(resident().unwrap_or(0), Ordering::Relaxed);
    }
}

/// Bytes that this process can still take: what the system has free, or a container allows; `None` where neither is said.
pub fn available() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let allowed = system.cgroup_limits().map(|limits| limits.free_memory);
    let free = system.available_memory();
    (free > 0).then(|| allowed.map_or(free, |allowed| free.min(allowed)))
}
