//! Threads that work beside the window. What runs is a closure with a name and a [`Progress`]; the pool knows nothing of
//! what it computes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::question::Lane;

/// Where nothing has run for so long, memory is given back to the system.
const REST: Duration = Duration::from_secs(2);

/// Asks the window for another frame.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A piece of work that runs or waits.
#[derive(Clone, Debug)]
pub struct Task {
    pub label: &'static str,
    pub progress: Progress,
    id: u64,
}

type Work = Box<dyn FnOnce(&Progress) + Send>;

struct Waiting {
    task: Task,
    /// The smaller, the more urgent.
    rank: u64,
    work: Work,
    /// Dropped when the work has ended.
    ends: Sender<()>,
}

#[derive(Default)]
struct Queue {
    /// Of [`Lane::Quick`]; the other lane's work never waits.
    waiting: Vec<Waiting>,
    running: Vec<Task>,
    closed: bool,
    next_id: u64,
    next_rank: u64,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    wake: Wake,
}

impl Shared {
    /// Work that panicked held no lock, so a poisoned queue is still a good one.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, task: Task, work: Work, ends: Sender<()>) {
        work(&task.progress);
        drop(ends);
        self.lock().running.retain(|t| t.id != task.id);
        (self.wake)();
    }
}

/// The threads. Dropping it cancels everything.
pub struct Pool {
    shared: Arc<Shared>,
}

/// A piece of work under way. Dropping it cancels the work.
pub struct Ticket {
    pub task: Task,
    pool: Weak<Shared>,
    ended: Option<Receiver<()>>,
}

/// The end of a piece of work that nobody wants any more.
pub struct Ended(Receiver<()>);

impl Ended {
    /// Waits until the work has let go of everything.
    pub fn wait(self) {
        // Nothing is ever sent: the other side is dropped.
        let _ = self.0.recv();
    }
}

impl Pool {
    /// Starts the thread of [`Lane::Quick`]; `wake` is called whenever something has happened.
    pub fn new(wake: Wake) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), wake });
        let quick = shared.clone();
        spawn("quick", move || {
            loop {
                let mut queue = quick.lock();
                let next = loop {
                    if queue.closed {
                        return;
                    }
                    let first = (0..queue.waiting.len()).min_by_key(|i| queue.waiting[*i].rank);
                    if let Some(i) = first {
                        break queue.waiting.swap_remove(i);
                    }
                    let (back, rests) = quick.changed.wait_timeout(queue, REST).unwrap_or_else(PoisonError::into_inner);
                    queue = back;
                    if rests.timed_out() && queue.running.is_empty() {
                        rayon::spawn(crate::memory::give_back);
                    }
                };
                queue.running.push(next.task.clone());
                drop(queue);
                quick.run(next.task, next.work, next.ends);
            }
        });
        Self { shared }
    }

    /// Begins a round of asking: what is asked for (again) first is the most urgent from now on.
    pub fn begin_round(&self) {
        self.shared.lock().next_rank = 0;
    }

    pub fn wake(&self) -> &Wake {
        &self.shared.wake
    }

    pub(super) fn start(
        &self,
        label: &'static str,
        lane: Lane,
        work: impl FnOnce(&Progress) + Send + 'static,
    ) -> Ticket {
        let (ends, ended) = channel();
        let work: Work = Box::new(work);
        let mut queue = self.shared.lock();
        let task = Task { label, progress: Progress::new(), id: queue.next_id };
        queue.next_id += 1;
        match lane {
            Lane::Quick => {
                let rank = queue.next_rank;
                queue.next_rank += 1;
                queue.waiting.push(Waiting { task: task.clone(), rank, work, ends });
                self.shared.changed.notify_one();
            }
            Lane::Long => {
                queue.running.push(task.clone());
                let (shared, theirs) = (self.shared.clone(), task.clone());
                if !spawn(label, move || shared.run(theirs, work, ends)) {
                    queue.running.retain(|t| t.id != task.id);
                }
            }
        }
        Ticket { task, pool: Arc::downgrade(&self.shared), ended: Some(ended) }
    }

    /// What runs, the longest first. What rests, as a paused training does, is left out.
    pub fn running(&self) -> Vec<Task> {
        let mut all = self.shared.lock().running.clone();
        all.retain(|t| !t.progress.is_resting());
        all.sort_by(|a, b| b.progress.elapsed().total_cmp(&a.progress.elapsed()));
        all
    }

    /// How many pieces of work wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// True while something runs or waits. What rests does neither.
    pub fn is_busy(&self) -> bool {
        let queue = self.shared.lock();
        queue.running.iter().any(|t| !t.progress.is_resting()) || !queue.waiting.is_empty()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.waiting.clear();
        queue.running.iter().for_each(|t| t.progress.cancel());
        self.shared.changed.notify_one();
    }
}

impl Ticket {
    /// Work that waits is as urgent as its place in the round of asking.
    pub(super) fn renew(&self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut queue = pool.lock();
        let rank = queue.next_rank;
        if let Some(w) = queue.waiting.iter_mut().find(|w| w.task.id == self.task.id) {
            w.rank = rank;
            queue.next_rank += 1;
        }
    }

    /// Cancels, and returns what the end can be waited for by.
    pub(super) fn cancel(mut self) -> Option<Ended> {
        self.ended.take().map(Ended)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.task.progress.cancel();
        if let Some(pool) = self.pool.upgrade() {
            let mut queue = pool.lock();
            // Its closure may hold much: it is dropped outside the lock.
            let dropped: Vec<Waiting> = queue.waiting.extract_if(.., |w| w.task.id == self.task.id).collect();
            drop(queue);
            drop(dropped);
        }
    }
}

/// False where the system gives no thread.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).is_ok()
}

/// Runs something; a panic in it becomes an error.
pub(super) fn guarded<T>(label: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::failed(format!(
            "{label} failed inside the program ({text}); please report this with the model and prompt"
        )))
    })
}
