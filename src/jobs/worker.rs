//! The model's threads: one request of each kind waits, the most urgent one runs, answers come back over a
//! bounded channel, and whoever watches is woken. Sweeps, graphs and circuit searches have threads of their own, so
//! that a click is answered while they go on.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::kind::{Kind, Lane};
use super::request::{Answer, Payload, Request};
use crate::error::Error;
use crate::progress::Progress;

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
    waiting: BTreeMap<Kind, (Request, Progress, u64)>,
    running: Option<(Kind, Progress)>,
    closed: bool,
}

#[derive(Default)]
struct Thread {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Thread {
    /// A job that panicked holds no lock, so a poisoned queue is still a good one.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle to the model's threads. Dropping it cancels what runs and ends them.
pub struct Worker {
    /// By [`Lane`].
    lanes: [Arc<Thread>; Lane::ALL.len()],
    answers: Receiver<(u64, Answer)>,
    /// The newest request of each kind: answers to older ones are dropped.
    newest: RefCell<HashMap<Kind, u64>>,
}

/// Answers that may wait to be read: enough for a burst of partial results, few enough to bound memory.
const CHANNEL: usize = 64;

impl Worker {
    /// Starts the threads; `wake` is called after every answer.
    pub fn spawn(wake: impl Fn() + Clone + Send + 'static) -> Self {
        let lanes = Lane::ALL.map(|_| Arc::new(Thread::default()));
        let (sender, answers) = sync_channel(CHANNEL);
        for (lane, name) in lanes.iter().zip(Lane::ALL.map(Lane::name)) {
            let (lane, sender, wake) = (lane.clone(), sender.clone(), wake.clone());
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || serve(&lane, &sender, &wake));
            if let Err(e) = spawned {
                eprintln!("circuitscope: the thread `{name}` could not be started: {e}");
            }
        }
        Self { lanes, answers, newest: RefCell::default() }
    }

    /// Answers to requests of this kind made so far are no longer wanted; the number of the next one.
    fn next(&self, kind: Kind) -> u64 {
        let mut newest = self.newest.borrow_mut();
        let serial = newest.entry(kind).or_insert(0);
        *serial += 1;
        *serial
    }

    /// Asks. Whatever the request outdates is dropped from the queues, cancelled if it runs, and its answers
    /// that are still on their way are not handed out.
    pub fn submit(&self, request: Request) {
        let kind = request.kind();
        self.withdraw(|k| kind.outdates(k));
        let serial = self.next(kind);
        let lane = &self.lanes[kind.lane() as usize];
        lane.lock().waiting.insert(kind, (request, Progress::new(), serial));
        lane.changed.notify_one();
    }

    /// Takes back what has been asked of these kinds.
    pub fn withdraw(&self, kinds: impl Fn(Kind) -> bool) {
        for kind in Kind::ALL.into_iter().filter(|k| kinds(*k)) {
            self.next(kind);
        }
        for lane in &self.lanes {
            let mut queue = lane.lock();
            queue.waiting.retain(|k, _| !kinds(*k));
            if let Some((running, progress)) = &queue.running
                && kinds(*running)
            {
                progress.cancel();
            }
        }
    }

    /// Cancels what runs and forgets what waits.
    pub fn cancel_all(&self) {
        for lane in &self.lanes {
            let mut queue = lane.lock();
            queue.waiting.clear();
            if let Some((_, progress)) = &queue.running {
                progress.cancel();
            }
        }
    }

    /// Cancels the run and its analyses; a model being opened goes on.
    pub fn cancel_run(&self) {
        self.withdraw(|k| Kind::Run.outdates(k));
    }

    /// What runs now, if anything; of several the one that takes longest.
    pub fn status(&self) -> Option<Status> {
        let queues = self.lanes.each_ref().map(|l| l.lock());
        let waiting = queues.iter().map(|q| q.waiting.len()).sum();
        let running = queues.iter().rev().find_map(|q| q.running.clone())?;
        Some(Status { kind: running.0, progress: running.1, waiting })
    }

    /// True while something runs or waits.
    pub fn is_busy(&self) -> bool {
        self.lanes.iter().any(|lane| {
            let queue = lane.lock();
            queue.running.is_some() || !queue.waiting.is_empty()
        })
    }

    /// Whether a request of this kind runs or waits.
    pub fn has(&self, kind: Kind) -> bool {
        self.lanes.iter().any(|lane| {
            let queue = lane.lock();
            queue.waiting.contains_key(&kind) || queue.running.as_ref().is_some_and(|(k, _)| *k == kind)
        })
    }

    /// The next answer that has arrived and is still wanted.
    pub fn poll(&self) -> Option<Answer> {
        loop {
            let (serial, answer) = self.answers.try_recv().ok()?;
            if self.newest.borrow().get(&answer.kind) == Some(&serial) {
                return Some(answer);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for lane in &self.lanes {
            let mut queue = lane.lock();
            queue.closed = true;
            queue.waiting.clear();
            if let Some((_, progress)) = &queue.running {
                progress.cancel();
            }
            drop(queue);
            lane.changed.notify_one();
        }
    }
}

fn serve(lane: &Thread, sender: &SyncSender<(u64, Answer)>, wake: &(impl Fn() + Send)) {
    loop {
        let (request, progress, serial) = {
            let mut queue = lane.lock();
            loop {
                if queue.closed {
                    return;
                }
                if let Some((kind, job)) = queue.waiting.pop_first() {
                    queue.running = Some((kind, job.1.clone()));
                    break job;
                }
                queue = lane.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let kind = request.kind();
        let (model, traces) = request.inputs();
        let spec = request.spec();
        let send = |payload| {
            let answer = Answer { kind, model: model.clone(), traces: traces.clone(), spec: spec.clone(), payload };
            let delivered = sender.send((serial, answer)).is_ok();
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
        lane.lock().running = None;
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
