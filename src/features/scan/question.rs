//! Scans as questions: a text that is scanned, an index from a file, a scan that was made before.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::features::Dictionary;
use crate::features::rows::{Cut, Rows};
use crate::features::scan::index::{About, Index};
use crate::features::scan::{Plan, Subject, WINDOW, index_file, kept};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Asks where in a text the features, neurons or direction of one subject are active.
#[derive(Clone, PartialEq)]
pub struct ScanOf {
    pub model: Arc<Model>,
    pub subject: Subject,
    /// Whose features are correlated with neurons and directions.
    pub companion: Option<Arc<Dictionary>>,
    pub texts: Vec<String>,
    /// Tokens of a row.
    pub context: usize,
    /// Tokens of the text that are used at most.
    pub limit: Option<usize>,
    /// The folder where scans are kept: one that was stopped goes on there, and one that is done is there at once.
    pub folder: Option<PathBuf>,
    /// The index of the text so far is handed out: not where a whole one is shown until the next is whole.
    pub parts: bool,
}

/// What a scan has found.
pub struct ScanOutcome {
    pub index: Arc<Index>,
    /// Why it is not kept for another time.
    pub unkept: Option<String>,
}

impl Question for ScanOf {
    type Answer = ScanOutcome;

    const LABEL: &'static str = "scanning text";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(ScanOutcome)) -> Result<ScanOutcome> {
        let bos = self.companion.as_ref().is_some_and(|d| d.wants_bos(&self.model));
        let cut = Cut { bos, ..Cut::new(self.context, self.limit) };
        let rows = Rows::cut(&self.model, &self.texts, &cut, progress)?;
        let plan = Plan {
            model: &self.model,
            subjects: vec![self.subject.clone()],
            companion: self.companion.clone(),
            rows: &rows,
            texts: self.texts.clone(),
            context: self.context,
            limit: self.limit,
            shard: (0, 1),
            window: WINDOW,
        };
        // Where none can be kept the scan is made all the same.
        let (file, unkept) = match self.folder.as_ref().map(|folder| kept::file(folder, &plan)).transpose() {
            Ok(file) => (file, None),
            Err(e) => (None, Some(e.to_string())),
        };
        let files = file.as_ref().map(std::slice::from_ref);
        let mut all = plan.run(files, progress, &mut |_, index| {
            if self.parts {
                partial(ScanOutcome { index: Arc::new(index.clone()), unkept: None });
            }
        })?;
        let index = all.pop().ok_or_else(|| Error::failed("the scan gave no index"))?;
        Ok(ScanOutcome { index: Arc::new(index), unkept })
    }
}

impl ScanOf {
    /// Returns the question that an index answers which was made elsewhere.
    pub fn of_index(model: Arc<Model>, subject: Subject, index: &Index) -> Self {
        let About { texts, context, limit, .. } = index.about.clone();
        Self { model, subject, companion: None, texts, context, limit, folder: None, parts: false }
    }
}

/// Asks for the index in a file.
#[derive(Clone, PartialEq)]
pub struct IndexFileOf {
    pub path: PathBuf,
    pub model: Arc<Model>,
    /// Directions and the dictionary that it may be of; neurons are known by its own words.
    pub subjects: Vec<Subject>,
}

/// An index from a file, and whose it is.
pub struct IndexFile {
    pub index: Arc<Index>,
    pub subject: Subject,
}

impl Question for IndexFileOf {
    type Answer = IndexFile;

    const LABEL: &'static str = "reading an index";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(IndexFile)) -> Result<IndexFile> {
        let index = index_file::open(&self.path)?;
        index.check_model(&self.model)?;
        let about = &index.about;
        let is_it = |s: &&Subject| {
            // A dictionary whose file names no site may have been scanned at another.
            let elsewhere = matches!(s, Subject::Features(d) if d.input.is_some_and(|p| p.to_string() != about.site));
            !elsewhere && s.hash().is_ok_and(|hash| hash == about.subject_hash)
        };
        let subject = match about.layer_of_neurons() {
            Some(layer) => Some(Subject::Neurons(layer)),
            None => self.subjects.iter().find(is_it).cloned(),
        };
        let subject = subject.ok_or_else(|| {
            let open = self.subjects.iter().find_map(|s| match s {
                Subject::Features(d) => Some(d.name.as_str()),
                _ => None,
            });
            Error::request(format!(
                "the index is of {}, {} features at {}, and neither of {} nor of a direction in the list; open what was scanned first",
                about.subject,
                index.entries.len(),
                about.site,
                open.unwrap_or("an open dictionary")
            ))
        })?;
        Ok(IndexFile { index: Arc::new(index), subject })
    }
}

/// Asks for the newest scan of a dictionary that is kept in a folder.
#[derive(Clone, PartialEq)]
pub struct KeptScanOf {
    pub model: Arc<Model>,
    pub dictionary: Arc<Dictionary>,
    pub folder: PathBuf,
}

impl Question for KeptScanOf {
    type Answer = Option<Arc<Index>>;

    const LABEL: &'static str = "looking for an earlier scan";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let newest = kept::newest(&self.folder, &self.model, &Subject::Features(self.dictionary.clone()))?;
        newest.map(|path| index_file::open(&path).map(Arc::new)).transpose()
    }
}
