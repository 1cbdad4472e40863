//! Lenses as questions: one from a file, one that is fitted on a text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fit::{Settings, fit};
use super::open::LensSource;
use super::sums::Sums;
use crate::analysis::transport::Transport;
use crate::error::{Error, Result};
use crate::features::rows::{Cut, Rows};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// Asks for the lens in a file, or one that ships.
#[derive(Clone, PartialEq)]
pub struct LensFileOf {
    pub model: Arc<Model>,
    pub source: LensSource,
}

impl Question for LensFileOf {
    type Answer = Arc<Transport>;
    const LABEL: &'static str = "opening a lens";
    const LANE: Lane = Lane::Long;

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        self.source.open(&self.model)
    }
}

/// Asks for a Jacobian lens of a model on texts.
#[derive(Clone, PartialEq)]
pub struct FitOf {
    pub model: Arc<Model>,
    pub texts: Vec<String>,
    pub settings: Settings,
    /// Prompts at most.
    pub limit: Option<usize>,
    /// Where the lens is written, when it is done.
    pub output: PathBuf,
}

/// How far a fit is.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The lens so far.
    pub lens: Arc<Transport>,
    /// By layer, how alike two halves of the prompts are.
    pub agreement: BTreeMap<usize, f32>,
    pub prompts: usize,
    pub total: usize,
    pub done: bool,
}

/// Cuts texts into the prompts of a fit.
///
/// # Errors
/// As [`Rows::cut`].
pub fn prompts(
    model: &Model,
    texts: &[String],
    tokens: usize,
    limit: Option<usize>,
    progress: &Progress,
) -> Result<Rows> {
    let most = limit.map(|n| n.saturating_mul(tokens));
    let rows = Rows::cut(model, texts, &Cut::new(tokens, most), progress)?;
    match limit {
        // A row may be shorter than the others, so that there are more of them.
        Some(limit) => Ok(rows.first(limit)),
        None => Ok(rows),
    }
}

/// Where lenses lie that were fitted in the window: they took long to make.
pub fn folder() -> PathBuf {
    crate::files::data_folder().join("lenses")
}

/// Where a fit that is not done lies, beside its lens.
pub fn unfinished(output: &std::path::Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".fit");
    PathBuf::from(name)
}

impl FitOf {
    fn fitted(&self, sums: &Sums) -> Result<Fitted> {
        Ok(Fitted {
            lens: sums.lens()?.transport(&self.model)?,
            agreement: sums.agreement(),
            prompts: sums.prompts(),
            total: sums.about.total,
            done: sums.about.done,
        })
    }
}

impl Question for FitOf {
    type Answer = Fitted;
    const LABEL: &'static str = "fitting a Jacobian lens";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Fitted)) -> Result<Fitted> {
        let Self { model, texts, settings, limit, output } = self;
        if let Some(folder) = output.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        let rows = prompts(model, texts, settings.tokens, *limit, progress)?;
        let kept = unfinished(output);
        let mut told = Instant::now();
        let sums = fit(model, &rows, settings, Some(&kept), progress, &mut |sums| {
            if told.elapsed() > Duration::from_millis(300) || sums.prompts() == 1 {
                told = Instant::now();
                if let Ok(so_far) = self.fitted(sums) {
                    partial(so_far);
                }
            }
        })?;
        let mut lens = sums.lens()?;
        lens.path = Some(output.clone());
        lens.save(output)?;
        // The lens is whole; what is left over only takes room.
        drop(std::fs::remove_file(&kept));
        Ok(Fitted { lens: lens.transport(model)?, ..self.fitted(&sums)? })
    }
}

/// Asks for the lens of all parts in a folder, as `jlens fit --shard` writes them.
#[derive(Clone, PartialEq)]
pub struct MergeOf {
    pub model: Arc<Model>,
    pub folder: PathBuf,
    /// Where the lens is written.
    pub output: PathBuf,
}

/// How many parts were put together, and how many are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    pub parts: usize,
    pub missing: usize,
    pub prompts: usize,
}

impl Question for MergeOf {
    type Answer = Merged;
    const LABEL: &'static str = "merging a Jacobian lens";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Merged)) -> Result<Merged> {
        let entries = std::fs::read_dir(&self.folder).map_err(|e| Error::read(&self.folder, e))?;
        let mut parts: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
        parts.sort_unstable();
        if parts.is_empty() {
            return Err(Error::request(format!(
                "{} holds no file; name the folder of the parts that `jlens fit --shard` wrote",
                self.folder.display()
            )));
        }
        progress.check()?;
        let whole = Sums::merged(&parts)?;
        let lens = whole.lens()?;
        lens.transport(&self.model)?;
        if let Some(folder) = self.output.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        lens.save(&self.output)?;
        Ok(Merged { parts: parts.len(), missing: whole.missing(), prompts: whole.prompts() })
    }
}
