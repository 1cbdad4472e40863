//! `features`: dictionaries of features. One file a subcommand.

mod dashboard;
mod encode;
mod eval;
mod steer;
mod train;

use std::path::Path;

use clap::{Args, Subcommand};

use crate::error::Result;
use crate::features::rows::Cut;
use crate::features::{Dictionary, Place};
use crate::model::Model;
use crate::progress::Progress;

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Which features are active, and what they reconstruct
    Encode(encode::Arguments),
    /// Train a sparse autoencoder or a transcoder
    Train(Box<train::Arguments>),
    /// How good a dictionary is, on text
    Eval(eval::Arguments),
    /// Index where every feature is active in a text
    Dashboard(dashboard::Arguments),
    /// Put the parts of an index together
    Merge(dashboard::Merge),
    /// One feature's page of an index
    Show(dashboard::Show),
    /// What changing a feature does to the prediction
    Steer(steer::Arguments),
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.command {
        Command::Encode(a) => encode::execute(a),
        Command::Train(a) => train::execute(a),
        Command::Eval(a) => eval::execute(a),
        Command::Dashboard(a) => dashboard::execute(a),
        Command::Merge(a) => dashboard::merge(a),
        Command::Show(a) => dashboard::show(a),
        Command::Steer(a) => steer::execute(a),
    }
}

/// Which dictionary.
#[derive(Args, Clone, Debug)]
pub struct DictionaryArgs {
    /// A SAELens folder, a Gemma Scope params.npz, a circuit-tracer layer file, or a built-in name
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
    pub fn open(&self, progress: &Progress) -> Result<Dictionary> {
        let dictionary = crate::features::open(&self.dictionary, progress)?;
        let target = self.target.as_deref().map(Place::parse).transpose()?;
        match &self.site {
            Some(site) => dictionary.placed(Place::parse(site)?, target),
            None => Ok(dictionary),
        }
    }
}

/// Which text.
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
    /// How the text is cut: as it was for the dictionary, where that says so.
    pub fn cut(&self, model: &Model, dictionary: Option<&Dictionary>) -> Cut {
        let bos = self.bos || dictionary.is_some_and(|d| d.wants_bos(model));
        Cut { context: self.context, limit: self.tokens, bos }
    }
}

/// A number of gigabytes as bytes.
pub fn gigabytes(n: f64) -> usize {
    (n.max(0.0) * 1e9) as usize
}

/// A folder's name, for a dictionary.
pub fn folder_name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "dictionary".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// A path as it is printed.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
