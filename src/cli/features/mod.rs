//! `features`: trains, judges, indexes and steers dictionaries of features. Every subcommand is one file and one line in the
//! list below.

use std::path::Path;

use clap::Args;

use crate::analysis::plan::OverText;
use crate::cli::ModelArgs;
use crate::cli::output::{remember_checked, warn};
use crate::cli::submit::Work;
use crate::error::Result;
use crate::features::rows::Cut;
use crate::features::{Dictionary, DictionarySet, Place, trust};
use crate::model::Model;
use crate::progress::Progress;

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

crate::cli::commands! {
    encode as Encode: "Which features are active, and what they reconstruct",
    train as Train: "Train a sparse autoencoder or a transcoder",
    eval as Eval: "How good a dictionary is, on text",
    dashboard as Dashboard: "Index where every feature is active in a text",
    merge as Merge: "Put the parts of an index together",
    show as Show: "One feature's page of an index",
    steer as Steer: "What changing a feature does to the prediction",
    intervene as Intervene: "Give features of a set other values at chosen positions, and see what the model does",
}

impl Arguments {
    /// What is gone over, where that can be done in shards.
    pub fn work(&self) -> Option<Work<'_>> {
        match &self.command {
            Command::Dashboard(a) => Some(a.work()),
            Command::Train(a) => a.work(),
            _ => None,
        }
    }
}

/// Runs the subcommand that was given.
pub fn execute(args: &Arguments) -> Result<()> {
    args.command.execute()
}

/// The options that choose the dictionary.
#[derive(Args, Clone, Debug)]
pub struct DictionaryArgs {
    /// A folder or file of SAELens, Gemma Scope, circuit-tracer, sparsify, dictionary_learning, Llama Scope or Qwen Scope, or
    /// a built-in name
    #[arg(long, value_name = "DIR")]
    pub dictionary: String,
    /// The site that it reads (and writes), where its files do not say
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// The site that a transcoder writes, where its files do not say
    #[arg(long, value_name = "SITE", requires = "site")]
    pub target: Option<String>,
}

impl DictionaryArgs {
    /// Opens the dictionary, and says where it stands in the model where its files do not.
    pub fn open(&self, progress: &Progress) -> Result<Dictionary> {
        let dictionary = crate::features::open(&self.dictionary, progress)?;
        let target = self.target.as_deref().map(Place::parse).transpose()?;
        match &self.site {
            Some(site) => dictionary.placed(Place::parse(site)?, target),
            None => Ok(dictionary),
        }
    }
}

/// Keeps what the check of a dictionary on ordinary text says for every document that comes from it, and what speaks against
/// it as warnings.
pub fn check(model: &Model, dictionary: &Dictionary) {
    // Without a tokenizer there is no ordinary text to try it on.
    if model.tokenizer.is_none() {
        trust::said(model, dictionary).iter().for_each(|w| warn(w));
        return;
    }
    match trust::check(model, dictionary, &Progress::new()) {
        Ok(found) => {
            found.warnings.iter().for_each(|w| warn(w));
            remember_checked(vec![found]);
        }
        Err(e) => warn(&format!("The dictionary {} could not be checked: {e}.", dictionary.path.display())),
    }
}

/// What the checks of a set's layers say on ordinary text, which is kept as [`check`] keeps it. Nothing without a tokenizer.
///
/// # Errors
/// A set that does not fit the model.
pub fn check_set(model: &Model, set: &DictionarySet, progress: &Progress) -> Result<Vec<trust::Checked>> {
    if model.tokenizer.is_none() {
        for layer in 0..model.config.n_layers {
            let (dictionary, ..) = set.layer(layer, &model.config, progress)?;
            trust::said(model, &dictionary).iter().for_each(|w| warn(w));
        }
        return Ok(Vec::new());
    }
    let checked = trust::check_set(model, set, progress)?;
    checked.iter().flat_map(|c| &c.warnings).for_each(|w| warn(w));
    remember_checked(checked.clone());
    Ok(checked)
}

/// The options that choose the text.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// Text files, folders of them, or shipped texts by name (mixed, prose); repeatable
    #[arg(long, value_name = "PATH", default_values_t = ["mixed".to_owned()])]
    pub text: Vec<String>,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub context: usize,
    /// Tokens of the text that are used at most
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Begin each row with the model's beginning-of-sequence token, also where its tokenizer does not add one
    #[arg(long)]
    pub bos: bool,
}

impl TextArgs {
    /// What goes over it, for a plan.
    pub fn work<'a>(&'a self, model: &'a ModelArgs, what: OverText) -> Work<'a> {
        Work::over_text(model, &self.text, (self.tokens, self.context), what)
    }

    /// Returns how the text is cut into rows: with the beginning-of-sequence token where `--bos` or the dictionary asks for
    /// it.
    pub fn cut(&self, model: &Model, dictionary: Option<&Dictionary>) -> Cut {
        let bos = self.bos || dictionary.is_some_and(|d| d.wants_bos(model));
        Cut { context: self.context, limit: self.tokens, bos }
    }
}

/// Returns a number of gigabytes as bytes.
pub fn gigabytes(n: f64) -> usize {
    (n * 1e9) as usize
}

/// Returns a folder's name, for a dictionary.
pub fn folder_name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "dictionary".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// Returns a path as it is printed.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
