//! The model thread: one request of each kind waits, the most urgent one runs, answers come back over a
//! bounded channel, and whoever watches is woken.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Progress;
use super::request::{Answer, Kind, Payload, Request};
use crate::error::Error;

/// What runs now.
#[derive(Clone, Debug)]
pub struct Status {
    pub kind: Kind,
    pub progress: Progress,
    /// Requests that wait behind it.
    pub waiting: usize,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<Kind, (Request, Progress)>,
    running: Option<(Kind, Progress)>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    /// A job that panicked holds no lock, so a poisoned queue is still a good one.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle to the model thread. Dropping it cancels what runs and ends the thread.
pub struct Worker {
    shared: Arc<Shared>,
    answers: Receiver<Answer>,
}

/// Answers that may wait to be read: enough for a burst of partial results, few enough to bound memory.
const CHANNEL: usize = 64;

impl Worker {
    /// Starts the thread; `wake` is called after every answer.
    pub fn spawn(wake: impl Fn() + Send + 'static) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::default()), changed: Condvar::new() });
        let (sender, answers) = sync_channel(CHANNEL);
        let thread_shared = shared.clone();
        let spawned =
            std::thread::Builder::new().name("model".to_owned()).spawn(move || serve(&thread_shared, &sender, &wake));
        if let Err(e) = spawned {
            eprintln!("circuitscope: the model thread could not be started: {e}");
        }
        Self { shared, answers }
    }

    /// Asks. Whatever the request outdates is dropped from the queue and cancelled if it runs.
    pub fn submit(&self, request: Request) {
        let kind = request.kind();
        let mut queue = self.shared.lock();
        queue.waiting.retain(|k, _| !kind.outdates(*k));
        if let Some((running, progress)) = &queue.running
            && kind.outdates(*running)
        {
            progress.cancel();
        }
        queue.waiting.insert(kind, (request, Progress::new()));
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Cancels what runs and forgets what waits.
    pub fn cancel_all(&self) {
        let mut queue = self.shared.lock();
        queue.waiting.clear();
        if let Some((_, progress)) = &queue.running {
            progress.cancel();
        }
    }

    /// Cancels the run and its analyses; a model being opened goes on.
    pub fn cancel_run(&self) {
        let mut queue = self.shared.lock();
        queue.waiting.retain(|k, _| !Kind::Run.outdates(*k));
        if let Some((kind, progress)) = &queue.running
            && Kind::Run.outdates(*kind)
        {
            progress.cancel();
        }
    }

    /// What runs now, if anything.
    pub fn status(&self) -> Option<Status> {
        let queue = self.shared.lock();
        let waiting = queue.waiting.len();
        queue.running.clone().map(|(kind, progress)| Status { kind, progress, waiting })
    }

    /// True while something runs or waits.
    pub fn is_busy(&self) -> bool {
        let queue = self.shared.lock();
        queue.running.is_some() || !queue.waiting.is_empty()
    }

    /// The next answer that has arrived.
    pub fn poll(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.waiting.clear();
        if let Some((_, progress)) = &queue.running {
            progress.cancel();
        }
        drop(queue);
        self.shared.changed.notify_one();
    }
}

fn serve(shared: &Shared, sender: &SyncSender<Answer>, wake: &(impl Fn() + Send)) {
    loop {
        let (request, progress) = {
            let mut queue = shared.lock();
            loop {
                if queue.closed {
                    return;
                }
                if let Some((kind, job)) = queue.waiting.pop_first() {
                    queue.running = Some((kind, job.1.clone()));
                    break job;
                }
                queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let kind = request.kind();
        let (model, traces) = request.inputs();
        let spec = request.spec();
        let send = |payload| {
            let answer = Answer { kind, model: model.clone(), traces: traces.clone(), spec: spec.clone(), payload };
            let delivered = sender.send(answer).is_ok();
            wake();
            delivered
        };
        let mut partial = |payload: Payload| {
            send(Ok(payload));
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| request.execute(&progress, &mut partial)));
        let payload = outcome.unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Error::failed(format!(
                "{} failed unexpectedly ({what}); please report this with the model and prompt",
                kind.label()
            )))
        });
        // The answer first: whoever sees that nothing runs must find it waiting.
        let delivered = send(payload);
        shared.lock().running = None;
        wake();
        if !delivered {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn wait(worker: &Worker) -> Answer {
        for _ in 0..1000 {
            if let Some(a) = worker.poll() {
                return a;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no answer came");
    }

    #[test]
    fn a_bad_file_is_an_answer() {
        let worker = Worker::spawn(|| {});
        worker.submit(Request::Open { spec: "no/such/model".to_owned() });
        let answer = wait(&worker);
        assert_eq!(answer.kind, Kind::Open);
        assert!(answer.payload.err().unwrap().to_string().contains("no/such/model"));
        while worker.is_busy() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn newer_requests_outdate() {
        assert!(Kind::Open.outdates(Kind::Lens));
        assert!(Kind::Run.outdates(Kind::Lens) && !Kind::Run.outdates(Kind::Open));
        assert!(Kind::Lens.outdates(Kind::Lens) && !Kind::Lens.outdates(Kind::Norms));
    }
}
