//! Threads that work beside the window. What runs is a closure with a name and a [`Progress`]; the pool knows nothing of
//! what it computes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::memory;
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

/// A piece of work that costs much and waits for a word.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    pub label: &'static str,
    pub cost: Cost,
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
    /// Of those that run, the ones that wait for a word.
    asking: Vec<Asking>,
    /// Seconds from which on work waits for a word; `None` where nobody can be asked.
    patience: Option<f64>,
    /// The dearest that was agreed to, of each kind of work: at that price nobody is asked again.
    agreed: Vec<(&'static str, Cost)>,
    /// Threads of [`Lane::Quick`] whose work does not wait for a word, and whether one of them computes: the others wait.
    quick: usize,
    computes: bool,
    closed: bool,
    next_id: u64,
    next_rank: u64,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Somebody has agreed to a piece of work, or does not want it.
    answered: Condvar,
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

    /// Does the work of [`Lane::Quick`], one piece after the other, until the window closes, or until there is another thread
    /// for it.
    fn serve(&self) {
        loop {
            let mut queue = self.lock();
            let next = loop {
                if queue.closed || queue.quick > 1 {
                    queue.quick -= 1;
                    return;
                }
                let first = (0..queue.waiting.len()).min_by_key(|i| queue.waiting[*i].rank);
                if let Some(i) = first.filter(|_| !queue.computes) {
                    break queue.waiting.swap_remove(i);
                }
                let (back, rests) = self.changed.wait_timeout(queue, REST).unwrap_or_else(PoisonError::into_inner);
                queue = back;
                if rests.timed_out() && queue.running.is_empty() {
                    rayon::spawn(memory::give_back);
                }
            };
            queue.running.push(next.task.clone());
            queue.computes = true;
            drop(queue);
            self.run(next.task, next.work, next.ends);
            self.lock().computes = false;
            self.changed.notify_all();
        }
    }

    /// Starts a thread that does what waits.
    fn serve_beside(self: &Arc<Self>) {
        let shared = self.clone();
        self.lock().quick += 1;
        if !spawn("quick", move || shared.serve()) {
            self.lock().quick -= 1;
        }
    }

    /// Waits for a word where a piece of work costs much. What comes after it in its lane does not wait with it.
    fn ask(self: &Arc<Self>, id: u64, lane: Lane, cost: Cost) -> Result<()> {
        let Some(patience) = self.lock().patience else { return Ok(()) };
        if !cost.is_large(patience, memory::available()) {
            return Ok(());
        }
        let mut queue = self.lock();
        let Some(task) = queue.running.iter().find(|t| t.id == id).cloned() else { return Ok(()) };
        if queue.agreed.iter().any(|(label, most)| *label == task.label && cost.is_within(most)) {
            return Ok(());
        }
        queue.asking.push(Asking { label: task.label, cost, id });
        task.progress.rest(true);
        if lane == Lane::Quick {
            queue.quick -= 1;
            queue.computes = false;
            drop(queue);
            self.serve_beside();
            queue = self.lock();
        }
        (self.wake)();
        while !task.progress.is_cancelled() && queue.asking.iter().any(|a| a.id == id) {
            queue = self.answered.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.asking.retain(|a| a.id != id);
        if lane == Lane::Quick {
            // What was begun meanwhile comes first: quick work is computed one piece after the other.
            while queue.computes {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.quick += 1;
            queue.computes = true;
        }
        task.progress.rest(false);
        task.progress.check()
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
        let (changed, answered) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { queue: Mutex::default(), changed, answered, wake });
        shared.serve_beside();
        Self { shared }
    }

    /// From now on work that takes so many seconds, or half of the memory that is free, waits for a word.
    pub fn ask_from(&self, seconds: f64) {
        self.shared.lock().patience = Some(seconds);
    }

    /// What waits for a word.
    pub fn asking(&self) -> Vec<Asking> {
        self.shared.lock().asking.clone()
    }

    /// Says whether a piece of work that waits for a word is to be done.
    pub fn answer(&self, asking: &Asking, goes: bool) {
        let mut queue = self.shared.lock();
        queue.asking.retain(|a| a.id != asking.id);
        if goes {
            queue.agreed.retain(|(label, most)| *label != asking.label || !most.is_within(&asking.cost));
            queue.agreed.push((asking.label, asking.cost));
        }
        if let Some(task) = queue.running.iter().find(|t| t.id == asking.id && !goes) {
            task.progress.cancel();
        }
        self.shared.answered.notify_all();
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
        let (pool, id) = (Arc::downgrade(&self.shared), queue.next_id);
        let asker = move |cost| pool.upgrade().map_or(Ok(()), |pool| pool.ask(id, lane, cost));
        let task = Task { label, progress: Progress::asking(Box::new(asker)), id };
        queue.next_id += 1;
        match lane {
            Lane::Quick => {
                let rank = queue.next_rank;
                queue.next_rank += 1;
                queue.waiting.push(Waiting { task: task.clone(), rank, work, ends });
                self.shared.changed.notify_all();
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
        self.shared.changed.notify_all();
        self.shared.answered.notify_all();
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
            pool.answered.notify_all();
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
