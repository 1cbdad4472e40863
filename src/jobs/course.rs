//! The training of a lab transformer that someone watches, on a thread of its own.

use std::sync::mpsc::{Receiver, channel};

use crate::error::Result;
use crate::progress::Progress;
use crate::training::{Lab, StepReport, TrainOptions};

/// What arrives from the thread.
pub enum Report {
    Step(StepReport),
    /// The training has ended: finished, stopped or failed.
    Ended(Result<()>),
}

/// The handle of a running training. Dropping it stops the training; its checkpoint stays.
pub struct CourseRun {
    progress: Progress,
    reports: Receiver<Report>,
}

impl CourseRun {
    /// Starts, or goes on from a checkpoint that lies in the output folder; `wake` is called whenever there is
    /// something to receive.
    pub fn spawn(lab: &'static Lab, options: TrainOptions, wake: impl Fn() + Send + 'static) -> Self {
        let progress = Progress::new();
        let watched = progress.clone();
        let (sender, reports) = channel();
        std::thread::spawn(move || {
            let outcome = (lab.train)(&options, &watched, &mut |r| {
                // A handle that was dropped has cancelled as well.
                drop(sender.send(Report::Step(r)));
                wake();
            });
            drop(sender.send(Report::Ended(outcome)));
            wake();
        });
        Self { progress, reports }
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn poll(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    pub fn stop(&self) {
        self.progress.cancel();
    }
}

impl Drop for CourseRun {
    fn drop(&mut self) {
        self.progress.cancel();
    }
}
