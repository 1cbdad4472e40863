//! Calls into libraries that panic on damaged files: the panic is the file's fault, and is told as one sentence by who
//! calls, not by a trace of this program.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, or nothing where it panics on this thread; of that nothing is printed.
pub fn quietly<R>(work: impl FnOnce() -> R) -> Option<R> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    QUIET.set(true);
    // What `work` touched is thrown away with it.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_gives_nothing() {
        assert_eq!(quietly(|| 3), Some(3));
        let empty: Vec<u8> = Vec::new();
        assert_eq!(quietly(|| empty[empty.len()]), None);
        assert!(!QUIET.get());
    }
}
