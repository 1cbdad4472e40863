//! Mistral 7B and its kin: Llama with a sliding window on every layer.

use super::{Family, gated_rms};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family { name: "mistral", title: "Mistral", config, names, gguf: None };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("mistral", o)?;
    c.window = o.windows(c.n_layers, |_| true)?;
    Ok(c)
}

fn names(_: &Options) -> Result<Names> {
    Ok(LLAMA)
}
