//! Calls into libraries that trust what a file says. Such a file can make them panic, take all memory, or never end. The
//! work goes on a thread of its own, whose allocations are counted; what comes of it is a value or a [`Fault`], and the
//! program goes on.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Why guarded work gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Panic,
    Memory,
    Time,
    /// It went wrong earlier, and is not tried again.
    Earlier,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Panic => "it is damaged, or contradicts itself",
            Self::Memory => "it asks for far more memory than its size explains",
            Self::Time => "it comes to no end",
            Self::Earlier => "it went wrong before and is not tried again; open it anew to do so",
        })
    }
}

/// What an input of one byte may cost beside a fixed amount: more than any good file takes.
const BYTES: (usize, usize) = (1 << 30, 256);
const SECONDS: (f64, f64) = (20.0, 1e-5);
/// Bytes of a guarded thread's stack. Parsers call themselves as deep as a file's brackets go; what is not touched costs
/// nothing.
const STACK: usize = 32 << 20;

/// What the allocator and whoever waits know of a guarded thread.
struct Watch {
    exceeded: AtomicBool,
    waiter: Thread,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Bytes that this thread may still take; no limit where there is no watch.
    static LEFT: Cell<isize> = const { Cell::new(0) };
    static WATCH: Cell<*const Watch> = const { Cell::new(std::ptr::null()) };
}

/// Counts an allocation of this thread; for the allocator alone. A guarded thread that takes too much stops here for good,
/// since an allocation can neither fail nor unwind: it keeps what it has, which is bounded.
pub(crate) fn charge(size: usize) {
    // Threads that are being taken down have no such variables any more.
    let watch = WATCH.try_with(Cell::get).unwrap_or(std::ptr::null());
    if watch.is_null() {
        return;
    }
    let left = LEFT.with(|left| {
        left.set(left.get().saturating_sub_unsigned(size));
        left.get()
    });
    if left < 0 {
        // SAFETY: the watch is set by `guarded` on this thread, which holds its Arc until the thread's work ends.
        let watch = unsafe { &*watch };
        watch.exceeded.store(true, Ordering::SeqCst);
        watch.waiter.unpark();
        loop {
            std::thread::park();
        }
    }
}

/// Counts memory that this thread gives back; for the allocator alone.
pub(crate) fn refund(size: usize) {
    if !WATCH.try_with(Cell::get).unwrap_or(std::ptr::null()).is_null() {
        LEFT.with(|left| left.set(left.get().saturating_add_unsigned(size)));
    }
}

/// Prints nothing of panics on guarded threads: they are a file's fault.
fn silence() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.try_with(Cell::get).unwrap_or(false) {
                before(panic);
            }
        }));
    });
}

/// Runs work on an input of so many bytes, within bounds that grow with it.
///
/// # Errors
/// The work panics, takes more than 1 GB and 256 times the input of memory, or more than 20 s and 10 s a megabyte. A
/// thread that cannot be ended stays.
pub fn guarded<R: Send + 'static>(input: usize, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Fault> {
    guarded_deep(STACK, input, work)
}

/// As [`guarded`], with a stack of so many bytes for work that calls itself.
///
/// # Errors
/// As [`guarded`].
pub fn guarded_deep<R: Send + 'static>(
    stack: usize,
    input: usize,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, Fault> {
    silence();
    let bytes = BYTES.0.saturating_add(input.saturating_mul(BYTES.1));
    let until = Instant::now() + Duration::from_secs_f64(SECONDS.0 + input as f64 * SECONDS.1);
    let watch = Arc::new(Watch { exceeded: AtomicBool::new(false), waiter: std::thread::current() });
    let result: Arc<Mutex<Option<Option<R>>>> = Arc::default();
    let (theirs, place) = (watch.clone(), result.clone());
    let started = std::thread::Builder::new().name("guarded".to_owned()).stack_size(stack).spawn(move || {
        QUIET.set(true);
        LEFT.set(isize::try_from(bytes).unwrap_or(isize::MAX));
        WATCH.set(Arc::as_ptr(&theirs));
        // What `work` touched is thrown away with it.
        let outcome = catch_unwind(AssertUnwindSafe(work)).ok();
        WATCH.set(std::ptr::null());
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        theirs.waiter.unpark();
    });
    // A system that has no thread left has no memory for the work either.
    let Ok(thread) = started else { return Err(Fault::Memory) };
    loop {
        if let Some(outcome) = result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
            return outcome.ok_or(Fault::Panic);
        }
        if watch.exceeded.load(Ordering::SeqCst) {
            return Err(Fault::Memory);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Time);
        }
        std::thread::park_timeout(left);
    }
}

/// What stands before a library that is called again and again on the word of one file. A fault that leaves a thread
/// behind is the last: it would leave another at every call, with its memory.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// As [`guarded_deep`].
    ///
    /// # Errors
    /// As [`guarded`]; and once it ran out of memory or time, at once.
    pub fn guarded<R: Send + 'static>(
        &self,
        stack: Option<usize>,
        input: usize,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Fault> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Fault::Earlier);
        }
        let result = guarded_deep(stack.unwrap_or(STACK), input, work);
        if matches!(result, Err(Fault::Memory | Fault::Time)) {
            self.0.store(true, Ordering::SeqCst);
        }
        result
    }
}

/// Two of them stand before the same thing or they do not; they are no part of what they stand before.
impl PartialEq for Gate {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_libraries_are_values() {
        assert_eq!(guarded(0, || vec![1u8; 100].len()), Ok(100));
        let empty: Vec<u8> = Vec::new();
        assert_eq!(guarded(0, move || empty[empty.len()]), Err(Fault::Panic));
        // A claim of four gigabytes, and a text that doubles itself.
        assert_eq!(guarded(0, || Vec::<u8>::with_capacity(4 << 30).capacity()), Err(Fault::Memory));
        let doubling = || (0..60).fold("ab".to_owned(), |text, _| text.clone() + &text).len();
        assert_eq!(guarded(0, doubling), Err(Fault::Memory));
        // What is given back does not count.
        let reused = || (0..100).map(|_| vec![0u8; 100 << 20].len()).max();
        assert_eq!(guarded(0, reused), Ok(Some(100 << 20)));
        assert!(!QUIET.get());
    }

    #[test]
    fn a_fault_that_leaves_a_thread_is_the_last() {
        let gate = Gate::default();
        let empty: Vec<u8> = Vec::new();
        assert_eq!(gate.guarded(None, 0, move || empty[empty.len()]), Err(Fault::Panic));
        assert_eq!(gate.clone().guarded(None, 0, || Vec::<u8>::with_capacity(4 << 30).capacity()), Err(Fault::Memory));
        assert_eq!(gate.guarded(None, 0, || 1), Err(Fault::Earlier));
        assert_eq!(Gate::default().guarded(None, 0, || 1), Ok(1));
    }
}
