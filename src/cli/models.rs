//! `models`: lists the built-in models.

use serde_json::json;

use super::{emit, table};
use crate::error::Result;
use crate::model::builtin::BUILTINS;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &Arguments) -> Result<()> {
    if args.json {
        let list: Vec<_> = BUILTINS
            .iter()
            .map(|b| json!({"name": b.name, "purpose": b.purpose, "n_params": b.n_params, "license": b.license}))
            .collect();
        return emit(&json!({ "models": list }).to_string());
    }
    let rows: Vec<Vec<String>> = BUILTINS
        .iter()
        .map(|b| vec![b.name.to_owned(), b.n_params.to_string(), b.license.to_owned(), b.purpose.to_owned()])
        .collect();
    emit(&table(&["model", "parameters", "licence", "purpose"], &rows))
}
