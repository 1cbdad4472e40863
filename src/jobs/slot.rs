//! A slot holds the newest answer to one question, and gets the next one computed.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::{Ended, Pool, Ticket, guarded};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// An answer, with the question that it answers.
pub struct Answer<Q: Question> {
    pub question: Q,
    pub value: Arc<Q::Answer>,
    /// It answers what is wanted now; otherwise it is shown dimmed.
    pub fresh: bool,
    /// It is complete, not a part of what is being computed.
    pub whole: bool,
    /// Changes with every new value of a slot: caches use it as their key.
    pub stamp: u64,
}

impl<Q: Question> Clone for Answer<Q> {
    fn clone(&self) -> Self {
        Self { question: self.question.clone(), value: self.value.clone(), ..*self }
    }
}

impl<Q: Question> Deref for Answer<Q> {
    type Target = Q::Answer;

    fn deref(&self) -> &Q::Answer {
        &self.value
    }
}

/// What a job has said: the newest part, and how it ended.
struct Mail<A> {
    part: Option<A>,
    end: Option<Result<A>>,
}

struct Job<A> {
    ticket: Ticket,
    mail: Arc<Mutex<Mail<A>>>,
}

/// The newest answer to one question, what is wanted, and what is under way. Dropping it stops its job.
pub struct Slot<Q: Question> {
    wanted: Option<Q>,
    job: Option<Job<Q::Answer>>,
    answer: Option<Answer<Q>>,
    /// Why there is no answer to what is wanted.
    error: Option<String>,
    /// A job that nobody wants any more and that may still run.
    ending: Option<Ended>,
    stopped: bool,
    news: bool,
    stamp: u64,
}

impl<Q: Question> Default for Slot<Q> {
    fn default() -> Self {
        Self { wanted: None, job: None, answer: None, error: None, ending: None, stopped: false, news: false, stamp: 0 }
    }
}

impl<Q: Question> Slot<Q> {
    /// Says what is wanted. The same question again changes nothing. Another one drops the job under way and starts the
    /// next; the old answer stays, no longer fresh, until the new one arrives. `None` wants nothing.
    pub fn want(&mut self, pool: &Pool, question: Option<Q>) {
        if question == self.wanted {
            if let Some(job) = &self.job {
                job.ticket.renew();
            }
            return;
        }
        self.leave_job();
        (self.error, self.stopped) = (None, false);
        self.wanted = question;
        self.refresh();
        let known = self.answer.as_ref().is_some_and(|a| a.fresh && a.whole);
        if let Some(question) = self.wanted.clone().filter(|_| !known) {
            self.start(pool, question);
        }
    }

    /// As [`Self::want`] for what somebody looks at. What nobody looks at (`seen` is false) is not computed, and only an
    /// answer to this very question is kept.
    pub fn ask(&mut self, pool: &Pool, question: Option<Q>, seen: bool) {
        if seen {
            return self.want(pool, question);
        }
        if self.answer.as_ref().is_some_and(|a| question.as_ref() != Some(&a.question)) {
            self.forget();
        } else if self.wanted.is_some() && self.wanted != question || self.job.is_some() {
            self.want(pool, None);
        }
    }

    /// A slot with the same answer; what is under way stays with this one.
    pub fn share(&self) -> Self {
        let answer = self.answer.clone().filter(|a| a.fresh && a.whole);
        Self { wanted: answer.as_ref().map(|a| a.question.clone()), answer, stamp: self.stamp, ..Self::default() }
    }

    fn start(&mut self, pool: &Pool, question: Q) {
        let mail = Arc::new(Mutex::new(Mail { part: None, end: None }));
        let (theirs, wake, before) = (mail.clone(), pool.wake().clone(), self.ending.take());
        let ticket = pool.start(Q::LABEL, Q::LANE, move |progress| {
            // Two jobs of a slot never run side by side: the first may still be writing its files.
            if let (Lane::Long, Some(before)) = (Q::LANE, before) {
                before.wait();
            }
            answer(&question, progress, &theirs, &*wake);
        });
        self.job = Some(Job { ticket, mail });
    }

    fn leave_job(&mut self) {
        if let Some(job) = self.job.take() {
            self.ending = job.ticket.cancel();
        }
    }

    /// Takes in what has arrived. True if anything has.
    pub fn poll(&mut self) -> bool {
        let Some(job) = &self.job else { return false };
        // Before looking: what is written last is written before the writer is gone.
        let alone = Arc::strong_count(&job.mail) == 1;
        let (part, mut end) = {
            let mut mail = job.mail.lock().unwrap_or_else(PoisonError::into_inner);
            (mail.part.take(), mail.end.take())
        };
        if alone && end.is_none() {
            end = Some(Err(Error::failed(format!("{} could not start a thread; close other programs", Q::LABEL))));
        }
        if part.is_none() && end.is_none() {
            return false;
        }
        // What was known when a job was stopped or failed is still worth showing.
        if let Some(part) = part.filter(|_| !matches!(end, Some(Ok(_)))) {
            self.put(part, false);
        }
        if let Some(end) = end {
            self.leave_job();
            match end {
                Ok(value) => {
                    self.put(value, true);
                    self.news = true;
                }
                Err(Error::Cancelled) => self.stopped = true,
                Err(error) => self.error = Some(error.to_string()),
            }
        }
        true
    }

    fn put(&mut self, value: Q::Answer, whole: bool) {
        let Some(question) = self.wanted.clone() else { return };
        self.stamp += 1;
        let new = Answer { question, value: Arc::new(value), fresh: true, whole, stamp: self.stamp };
        retire(self.answer.replace(new));
    }

    fn refresh(&mut self) {
        if let Some(a) = &mut self.answer {
            a.fresh = self.wanted.as_ref() == Some(&a.question);
        }
    }

    /// Puts an answer in that was found elsewhere.
    pub fn set(&mut self, question: Q, value: Q::Answer) {
        self.leave_job();
        (self.error, self.stopped) = (None, false);
        self.wanted = Some(question);
        self.put(value, true);
    }

    /// Says why nothing can be asked. The old answer is not taken for one to what is wanted.
    pub fn refuse(&mut self, why: &str) {
        if self.error.as_deref() != Some(why) {
            self.forget();
            self.error = Some(why.to_owned());
        }
    }

    /// Stops what is under way, as the user asked. It is not started again until another question is wanted or
    /// [`Self::again`] is called.
    pub fn stop(&mut self) {
        self.poll();
        if self.job.is_some() {
            self.leave_job();
            self.stopped = true;
        }
    }

    /// Forgets how the question ended, so that it is asked again.
    pub fn again(&mut self) {
        self.leave_job();
        (self.wanted, self.error, self.stopped) = (None, None, false);
        if let Some(a) = &mut self.answer {
            (a.fresh, a.whole) = (false, false);
        }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.leave_job();
        retire(self.answer.take());
        (self.wanted, self.error, self.stopped, self.news) = (None, None, false, false);
    }

    /// The newest answer, fresh or not.
    pub fn get(&self) -> Option<&Answer<Q>> {
        self.answer.as_ref()
    }

    /// The answer to what is wanted now.
    pub fn fresh(&self) -> Option<&Answer<Q>> {
        self.answer.as_ref().filter(|a| a.fresh)
    }

    /// The newest answer's value.
    pub fn value(&self) -> Option<&Arc<Q::Answer>> {
        self.answer.as_ref().map(|a| &a.value)
    }

    pub fn wanted(&self) -> Option<&Q> {
        self.wanted.as_ref()
    }

    /// Why there is no answer to what is wanted.
    pub fn error(&self) -> Option<&String> {
        self.error.as_ref()
    }

    /// The error, which is then forgotten: for what is said once. The question is not asked again by that.
    pub fn take_error(&mut self) -> Option<String> {
        self.error.take()
    }

    /// A whole answer that has arrived since this was last called.
    pub fn take_news(&mut self) -> Option<Arc<Q::Answer>> {
        std::mem::take(&mut self.news).then(|| self.value().cloned()).flatten()
    }

    pub fn is_running(&self) -> bool {
        self.job.is_some()
    }

    /// The user stopped what is wanted.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// How far the job is.
    pub fn progress(&self) -> Option<&Progress> {
        self.job.as_ref().map(|j| &j.ticket.task.progress)
    }

    /// Stops what is under way and waits until it has let go of its files.
    pub fn finish(&mut self) {
        self.stop();
        if let Some(ended) = self.ending.take() {
            ended.wait();
        }
    }
}

/// A slot whatever its question: what is done with all of them.
pub trait AnySlot {
    fn poll(&mut self) -> bool;
    fn stop(&mut self);
    fn forget(&mut self);
    fn again(&mut self);
    /// As [`Self::again`] if the question was stopped or has failed.
    fn retry(&mut self);
    fn is_running(&self) -> bool;
    /// The user stopped it.
    fn is_stopped(&self) -> bool;
}

impl<Q: Question> AnySlot for Slot<Q> {
    fn poll(&mut self) -> bool {
        Self::poll(self)
    }

    fn stop(&mut self) {
        Self::stop(self);
    }

    fn forget(&mut self) {
        Self::forget(self);
    }

    fn again(&mut self) {
        Self::again(self);
    }

    fn is_stopped(&self) -> bool {
        Self::is_stopped(self)
    }

    fn retry(&mut self) {
        if self.stopped || self.error.is_some() {
            Self::again(self);
        }
    }

    fn is_running(&self) -> bool {
        Self::is_running(self)
    }
}

fn answer<Q: Question>(question: &Q, progress: &Progress, mail: &Mutex<Mail<Q::Answer>>, wake: &dyn Fn()) {
    let put = |change: &mut dyn FnMut(&mut Mail<Q::Answer>)| {
        change(&mut mail.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let mut partial = |part: Q::Answer| {
        let mut part = Some(part);
        // Only the newest part is worth anything: each is the whole answer so far.
        put(&mut |mail| std::mem::swap(&mut mail.part, &mut part));
        wake();
    };
    let end = guarded(Q::LABEL, || {
        progress.check()?;
        question.run(progress, &mut partial)
    });
    let mut end = Some(end);
    put(&mut |mail| mail.end = end.take());
}

/// Gives an answer's memory back on another thread: an index of a hundred thousand features is millions of small lists.
fn retire<Q: Question>(answer: Option<Answer<Q>>) {
    if let Some(Answer { value, question, .. }) = answer {
        rayon::spawn(move || drop((value, question)));
    }
}
