//! The labels and notes of the feature views: read when a dictionary or model is opened, written as they are typed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result, note, one_line};
use crate::features::labels::{Changes, Label, Labels, LabelsOf, LabelsWritten, Unit};
use crate::jobs::Pool;
use crate::jobs::slot::Slot;

/// Labels of one file: of a dictionary or of a model. Its changes are written one after the other, and another file is
/// read only when all are written.
#[derive(Default)]
struct LabelFile {
    /// Whose they are.
    of: Option<LabelsOf>,
    labels: Labels,
    reading: Slot<LabelsOf>,
    writing: Slot<LabelsWritten>,
    /// Changes by file that are not being written yet.
    unwritten: BTreeMap<PathBuf, Changes>,
    /// Changes that could not be written: they go along with the next of their file.
    failed: BTreeMap<PathBuf, Changes>,
    errors: Vec<String>,
    /// How often something was written.
    writings: u64,
}

/// What is said of labels that are not tried to be written again, so that none is lost.
fn unsaved(error: &str, changes: &Changes) -> String {
    let all: Vec<String> = changes.iter().map(|(unit, l)| format!("{unit}: {} {}", l.label, l.note)).collect();
    format!("{error}; not written are the labels {}", all.join(" | "))
}

impl LabelFile {
    /// The labels as they were read, once they are.
    fn is_known(&self) -> bool {
        self.reading.fresh().is_some()
    }

    /// Where changes are written; nowhere in pictures.
    fn file(&self) -> Option<&PathBuf> {
        self.reading.fresh().and_then(|read| read.file.as_ref())
    }

    /// Writes what was changed, then reads the labels that are wanted.
    fn ask(&mut self, pool: &Pool, of: Option<LabelsOf>) {
        if self.of != of {
            self.of = of;
            self.labels = Labels::default();
            self.reading.forget();
            // What could not be written is tried once more.
            for file in self.failed.keys() {
                self.unwritten.entry(file.clone()).or_default();
            }
        }
        if self.writing.is_running() {
            return;
        }
        match self.next_writing() {
            Some(next) => {
                self.writing.forget();
                self.writing.want(pool, Some(next));
            }
            None => self.reading.want(pool, self.of.clone()),
        }
    }

    fn next_writing(&mut self) -> Option<LabelsWritten> {
        let (file, new) = self.unwritten.pop_first()?;
        let mut changes = self.failed.remove(&file).unwrap_or_default();
        changes.extend(new);
        Some(LabelsWritten { file, changes })
    }

    /// Takes in what was read and written; true if anything was.
    fn poll(&mut self) -> bool {
        let read = self.reading.poll();
        if let Some(read) = self.reading.take_news() {
            self.labels = read.labels.clone();
        }
        self.errors.extend(self.reading.take_error());
        let wrote = self.writing.poll();
        let Some(LabelsWritten { file, changes }) = self.writing.wanted().filter(|_| wrote).cloned() else {
            return read;
        };
        let is_open = self.file() == Some(&file);
        self.writings += 1;
        if let Some(labels) = self.writing.take_news().filter(|_| is_open) {
            // Another window's labels are among them.
            self.labels = (*labels).clone();
            for (unit, label) in self.unwritten.get(&file).into_iter().flatten() {
                self.labels.set(unit.clone(), label.clone());
            }
        }
        if let Some(error) = self.writing.take_error() {
            self.errors.push(if is_open { error } else { unsaved(&error, &changes) });
            if is_open {
                self.failed.insert(file, changes);
            }
        }
        true
    }

    /// Writes what is not written yet before the program ends.
    fn finish(&mut self) {
        // It may not have begun. Written twice it is the same.
        if let Some(LabelsWritten { file, changes }) =
            self.writing.wanted().filter(|_| self.writing.is_running()).cloned()
        {
            self.failed.entry(file).or_default().extend(changes);
        }
        self.writing.finish();
        for file in self.failed.keys() {
            self.unwritten.entry(file.clone()).or_default();
        }
        while let Some(LabelsWritten { file, changes }) = self.next_writing() {
            // There is no window any more to say it in.
            if let Err(e) = Labels::amend(&file, &changes) {
                note(&format!("circuitscope: {}", one_line(&unsaved(&e.to_string(), &changes))));
            }
        }
    }

    fn set(&mut self, unit: Unit, label: Label) -> Result<()> {
        if !self.is_known() {
            let failed = self.reading.wanted().is_some() && !self.reading.is_running();
            return Err(Error::request(match failed {
                false => "the labels written before are still being read; try again in a moment",
                true => {
                    "the labels written before could not be read, so none is written over them; mend their file first"
                }
            }));
        }
        if let Some(file) = self.file().cloned() {
            self.unwritten.entry(file).or_default().insert(unit.clone(), label.clone());
        }
        self.labels.set(unit, label);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.reading.is_running() || self.writing.is_running() || !self.unwritten.is_empty()
    }
}

/// Labels of the open dictionary's features, and of the open model's neurons and directions.
#[derive(Default)]
pub struct LabelStore {
    dictionary: LabelFile,
    model: LabelFile,
}

impl LabelStore {
    fn file(&self, unit: &Unit) -> &LabelFile {
        if matches!(unit, Unit::Feature(_)) { &self.dictionary } else { &self.model }
    }

    /// Says whose labels are wanted: a dictionary's, and a model's.
    pub fn ask(&mut self, pool: &Pool, dictionary: Option<LabelsOf>, model: Option<LabelsOf>) {
        self.dictionary.ask(pool, dictionary);
        self.model.ask(pool, model);
    }

    /// Takes in what was read and written; true if anything was.
    pub fn poll(&mut self) -> bool {
        let dictionary = self.dictionary.poll();
        self.model.poll() || dictionary
    }

    /// Writes what is not written yet before the program ends.
    pub fn finish(&mut self) {
        self.dictionary.finish();
        self.model.finish();
    }

    /// Returns what went wrong with a file, once each.
    pub fn take_errors(&mut self) -> Vec<String> {
        let mut errors = std::mem::take(&mut self.dictionary.errors);
        errors.append(&mut self.model.errors);
        errors
    }

    pub fn is_busy(&self) -> bool {
        self.dictionary.is_busy() || self.model.is_busy()
    }

    /// True if a unit's label can be written: until its file has been read none is.
    pub fn is_known(&self, unit: &Unit) -> bool {
        self.file(unit).is_known()
    }

    pub fn of(&self, unit: &Unit) -> Option<&Label> {
        self.file(unit).labels.of(unit)
    }

    /// Returns the label's words, where there are any.
    pub fn words(&self, unit: &Unit) -> Option<&str> {
        self.of(unit).map(|l| l.label.trim()).filter(|l| !l.is_empty())
    }

    /// True if any of the dictionary's features has a label.
    pub fn has_features(&self) -> bool {
        !self.dictionary.labels.0.is_empty()
    }

    /// True once the labels of the open dictionary are known.
    pub fn knows_features(&self) -> bool {
        self.dictionary.is_known()
    }

    /// How often labels of features were written: what read them before then reads them anew.
    pub fn writings(&self) -> u64 {
        self.dictionary.writings
    }

    /// Reads the labels of the open dictionary again: somebody else has written some.
    pub fn read_again(&mut self) {
        self.dictionary.writings += 1;
        self.dictionary.reading.again();
    }

    /// # Errors
    /// If the labels that are there have not been read.
    pub fn set(&mut self, unit: Unit, label: Label) -> Result<()> {
        let file = if matches!(unit, Unit::Feature(_)) { &mut self.dictionary } else { &mut self.model };
        file.set(unit, label)
    }

    /// Returns the units whose label has these words, in small letters.
    pub fn find<'a>(&'a self, words: &'a str) -> impl Iterator<Item = &'a Unit> {
        self.dictionary.labels.find(words).chain(self.model.labels.find(words))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::features::Dictionary;
    use crate::progress::Progress;

    fn rest(labels: &mut LabelFile, pool: &Pool, of: &LabelsOf) {
        while labels.is_busy() || labels.of.as_ref() != Some(of) || labels.reading.wanted().is_none() {
            labels.poll();
            labels.ask(pool, Some(of.clone()));
            std::thread::yield_now();
        }
    }

    /// Labels are written though another dictionary is opened at once, and another after that, or the window is closed.
    #[test]
    fn no_label_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(Arc::new(|| {}));
        let shipped = crate::features::open("text-features", &Progress::new()).unwrap();
        let file = |name: &str| dir.path().join(format!("{name}.labels.json"));
        let of = |name: &str| {
            let dictionary = Arc::new(Dictionary { path: dir.path().join(name), ..shipped.clone() });
            LabelsOf::Dictionary { dictionary, folder: None }
        };
        let written = |path: &Path| Labels::open(path).unwrap().0.len();
        let label = |label: &str| Label { label: label.to_owned(), note: String::new() };
        let (a, b, c) = (of("a"), of("b"), of("c"));
        let mut labels = LabelFile::default();
        assert!(labels.set(Unit::Feature(1), label("too early")).is_err());
        rest(&mut labels, &pool, &a);
        labels.set(Unit::Feature(1), label("one")).unwrap();
        labels.ask(&pool, Some(a.clone()));
        labels.set(Unit::Feature(2), label("two")).unwrap();
        labels.ask(&pool, Some(b));
        labels.ask(&pool, Some(c.clone()));
        rest(&mut labels, &pool, &c);
        assert_eq!((written(&file("a")), labels.labels.0.len()), (2, 0));
        rest(&mut labels, &pool, &a);
        assert_eq!(labels.labels.0.len(), 2, "they are read again");
        labels.set(Unit::Feature(3), label("three")).unwrap();
        labels.ask(&pool, Some(a));
        labels.set(Unit::Feature(4), label("four")).unwrap();
        labels.finish();
        assert_eq!(written(&file("a")), 4);
    }
}
