//! A training of a small transformer that someone watches, and the search for one that was stopped.

use std::path::PathBuf;
use std::sync::Arc;

use super::run::{self, Probe};
use super::{StepReport, Task, TrainOptions};
use crate::error::Result;
use crate::identity;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Everything that a training has reported so far, by rising step.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The losses. Their probes are in `probes`.
    pub reports: Vec<Arc<StepReport>>,
    pub probes: Vec<Arc<Probe>>,
}

identity!(Record);

impl Record {
    /// Adds a report. It replaces what was known of the same and of later steps.
    fn add(&mut self, mut report: StepReport) {
        self.reports.truncate(self.reports.partition_point(|r| r.step < report.step));
        if let Some(probe) = report.probe.take() {
            self.probes.truncate(self.probes.partition_point(|p| p.step < probe.step));
            self.probes.push(probe);
        }
        if !report.values.is_empty() {
            self.reports.push(Arc::new(report));
        }
    }
}

/// Asks for the training of a small transformer. It writes the model to a folder. When it is cancelled it leaves a
/// checkpoint there, from which the next one goes on.
#[derive(Clone, PartialEq)]
pub struct TransformerTrainingOf {
    pub task: &'static Task,
    pub options: TrainOptions,
    /// What was reported before a checkpoint. The training adds to it.
    pub known: Arc<Record>,
}

impl Question for TransformerTrainingOf {
    type Answer = Record;

    const LABEL: &'static str = "training a transformer";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Record)) -> Result<Record> {
        let mut record = Record::clone(&self.known);
        (self.task.train)(&self.options, progress, &mut |report| {
            record.add(report);
            partial(record.clone());
        })?;
        Ok(record)
    }
}

/// Asks whether a training was stopped that can go on with the same seed to the same number of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoppedIn {
    pub folder: PathBuf,
    pub seed: u64,
    pub steps: usize,
}

impl Question for StoppedIn {
    type Answer = bool;

    const LABEL: &'static str = "looking for a stopped training";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(bool)) -> Result<bool> {
        // A checkpoint that cannot be read is one that no training can go on from.
        let checkpoint = run::read_checkpoint(&self.folder).ok().flatten();
        Ok(checkpoint.is_some_and(|c| (c.log.seed, c.log.steps) == (self.seed, self.steps)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: usize, probe: Option<usize>) -> StepReport {
        let probe = probe.map(|step| {
            let (scores, tokens, patterns) = (Vec::new(), Vec::new(), Vec::new());
            Arc::new(Probe { step, scores, tokens, patterns, fourier: None, folder: None })
        });
        StepReport { step, values: vec![("loss".to_owned(), step as f32)], probe }
    }

    fn three_steps(_: &TrainOptions, _: &Progress, out: &mut dyn FnMut(StepReport)) -> Result<()> {
        out(report(2, None));
        out(report(4, Some(5)));
        out(report(6, Some(7)));
        Ok(())
    }

    static TASK: Task =
        Task { name: "test", purpose: "", watch: "", source: "", steps: 7, time: "", train: three_steps };

    #[test]
    fn what_is_trained_again_replaces_what_was_known() {
        let mut known = Record::default();
        [report(0, Some(1)), report(3, Some(5)), report(9, Some(10))].into_iter().for_each(|r| known.add(r));
        let options =
            TrainOptions { output: PathBuf::new(), text: None, steps: None, seed: 0, probes: true, fresh: false };
        let training = TransformerTrainingOf { task: &TASK, options, known: Arc::new(known) };
        let mut parts = Vec::new();
        let end = training.run(&Progress::new(), &mut |part| parts.push(part)).unwrap();
        let steps = |r: &Record| r.reports.iter().map(|r| r.step).collect::<Vec<_>>();
        assert_eq!(parts.iter().map(steps).collect::<Vec<_>>(), [vec![0, 2], vec![0, 2, 4], vec![0, 2, 4, 6]]);
        assert_eq!(steps(&end), [0, 2, 4, 6]);
        assert_eq!(end.probes.iter().map(|p| p.step).collect::<Vec<_>>(), [1, 5, 7]);
    }
}
