//! Lenses as questions: one from a file, one that is fitted on a text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    /// The folder that the lens is written to, when it is done.
    pub folder: PathBuf,
}

/// How far a fit is.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The lens so far; from its file once it is done.
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

/// The file of a lens of the model that was made of this.
///
/// # Errors
/// The model's weights cannot be read.
pub fn lens_file(model: &Model, folder: &Path, of: &str) -> Result<PathBuf> {
    let name = crate::files::file_name(&format!("{}-{of}", model.config.name));
    Ok(folder.join(format!("{name}-{:016x}.safetensors", model.fingerprint()?)))
}

/// Where a fit that is not done lies, beside its lens.
pub fn unfinished(output: &Path) -> PathBuf {
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
        let Self { model, texts, settings, limit, folder } = self;
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let rows = prompts(model, texts, settings.tokens, *limit, progress)?;
        // A text that was edited is another one, whatever its name: a fit of the old one is not gone on with.
        let of = format!("{}-{}-{:016x}", settings.texts.join("+"), rows.len(), rows.hash()?);
        let output = lens_file(model, folder, &of)?;
        let kept = unfinished(&output);
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
        lens.save(&output)?;
        // The lens is whole; what is left over only takes room.
        drop(std::fs::remove_file(&kept));
        Ok(Fitted { lens: lens.transport(model)?, ..self.fitted(&sums)? })
    }
}

/// Asks for the lens of all parts in a folder, as `jlens fit --shard` writes them.
#[derive(Clone, PartialEq)]
pub struct MergeOf {
    pub model: Arc<Model>,
    /// The folder of the parts.
    pub parts: PathBuf,
    /// The folder that the lens is written to.
    pub folder: PathBuf,
}

/// How many parts were put together, how many are missing, and how many files of the folder are no parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The lens' file.
    pub output: PathBuf,
    pub parts: usize,
    pub missing: usize,
    pub others: usize,
    pub prompts: usize,
}

impl Question for MergeOf {
    type Answer = Merged;
    const LABEL: &'static str = "merging a Jacobian lens";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Merged)) -> Result<Merged> {
        let entries = std::fs::read_dir(&self.parts).map_err(|e| Error::read(&self.parts, e))?;
        let files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
        let (mut parts, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|p| Sums::about(p).is_ok());
        parts.sort_unstable();
        if parts.is_empty() {
            return Err(Error::request(format!(
                "{} holds no part of a fit; name the folder of the parts that `jlens fit --shard` wrote",
                self.parts.display()
            )));
        }
        progress.check()?;
        let whole = Sums::merged(&parts)?;
        let lens = whole.lens()?;
        lens.transport(&self.model)?;
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::write(&self.folder, e))?;
        // Parts of another text are another lens.
        let output = lens_file(&self.model, &self.folder, &format!("merged-{}", whole.about.shard.text_hash))?;
        lens.save(&output)?;
        Ok(Merged {
            output,
            parts: parts.len(),
            missing: whole.missing(),
            others: others.len(),
            prompts: whole.prompts(),
        })
    }
}
