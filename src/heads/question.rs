//! Heads over a text, as a question.

use std::path::PathBuf;
use std::sync::Arc;

use super::index::HeadIndex;
use super::index_file;
use super::scan::Plan;
use crate::error::{Error, Result};
use crate::features::rows::{Cut, Rows};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Where the pages of all heads come from.
#[derive(Clone, PartialEq)]
pub enum Source {
    Text {
        texts: Vec<String>,
        /// Tokens of a row.
        context: usize,
        /// Tokens of the text at most.
        limit: Option<usize>,
        /// Where scans are kept: one that was stopped goes on there, and one that is done is there at once.
        folder: Option<PathBuf>,
    },
    /// Pages that were written before.
    File(PathBuf),
}

/// Asks for the pages of all heads of a model.
#[derive(Clone, PartialEq)]
pub struct HeadsOver {
    pub model: Arc<Model>,
    pub source: Source,
}

/// Where the window's scans of heads lie: they can be made again.
pub fn folder() -> PathBuf {
    crate::files::cache_folder().join("heads")
}

impl Question for HeadsOver {
    type Answer = Arc<HeadIndex>;
    const LABEL: &'static str = "heads over a text";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { model, source } = self;
        let (texts, context, limit, folder) = match source {
            Source::Text { texts, context, limit, folder } => (texts, context, limit, folder),
            Source::File(path) => {
                let index = index_file::open(path)?;
                index.check(model)?;
                return Ok(Arc::new(index));
            }
        };
        let rows = Rows::cut(model, texts, &Cut::new(*context, *limit), progress)?;
        let plan = Plan { model, rows: &rows, texts: texts.clone(), context: *context, limit: *limit, shard: (0, 1) };
        let file = folder.as_ref().map(|folder| -> Result<PathBuf> {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
            let name = crate::files::file_name(&model.config.name);
            let path = folder.join(format!("{name}-{}.arrow", plan.identity()?));
            // A damaged one would be in the way for ever.
            if path.is_file() && index_file::open(&path).is_err() {
                std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
            }
            Ok(path)
        });
        let file = file.transpose()?;
        plan.run(file.as_deref(), progress, &mut |index| partial(Arc::new(index.clone()))).map(Arc::new)
    }
}
