//! Qwen 2 and 2.5: Llama with biases on q, k and v.

use super::{Family, Form, gated_rms};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "qwen2",
    title: "Qwen 2",
    config,
    names,
    gguf: Some(Form { arch: "qwen2", when: |_| true, config: |k| k.rotated(false), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("qwen2", o)?;
    o.only("use_mrope", false)?;
    c.window = qwen_windows(o, c.n_layers)?;
    Ok(c)
}

/// Reads the sliding windows. They are off unless `use_sliding_window` is set; then they begin at layer
/// `max_window_layers`.
pub(super) fn qwen_windows(o: &Options, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let first = o.size_or("max_window_layers", 28)?;
    if o.flag_or("use_sliding_window", false)? {
        o.windows(n_layers, |l| l >= first)
    } else {
        o.raw("sliding_window");
        o.raw("layer_types");
        Ok(vec![None; n_layers])
    }
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names { qkv_bias: true, ..LLAMA })
}
