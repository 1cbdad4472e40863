//! SmolLM3: Llama in which every fourth layer knows no positions.

use serde_json::Value;

use super::{Family, Form, gated_rms, llama};
use crate::error::Result;
use crate::model::config::{ModelConfig, Positions};
use crate::model::options::Options;

pub const FAMILY: Family = Family {
    name: "smollm3",
    title: "SmolLM3",
    config,
    names: llama::names,
    gguf: Some(Form { arch: "smollm3", when: |_| true, config: |k| k.rotated(false), interleaved: true }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("smollm3", o)?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    let every = o.size_or("no_rope_layer_interval", 4)?.max(1);
    let turns: Vec<bool> = match o.raw("no_rope_layers") {
        // Despite its name, the list has 1 for layers that do turn.
        Some(list) => {
            let flag = |v: &Value| v.as_u64().filter(|n| *n <= 1).map(|n| n == 1);
            let flags = list.as_array().and_then(|l| l.iter().map(flag).collect::<Option<Vec<_>>>());
            flags
                .filter(|l| l.len() == c.n_layers)
                .ok_or_else(|| o.bad("no_rope_layers", format!("does not list 0 or 1 for {} layers", c.n_layers)))?
        }
        None => (1..=c.n_layers).map(|l| !l.is_multiple_of(every)).collect(),
    };
    if let Positions::Rotary(layers) = &mut c.positions {
        for (slot, turns) in layers.iter_mut().zip(&turns) {
            *slot = slot.take().filter(|_| *turns);
        }
    }
    if o.flag_or("use_sliding_window", false)? {
        c.window = o.windows(c.n_layers, |l| !turns[l])?;
    } else {
        o.raw("sliding_window");
        o.raw("layer_types");
    }
    Ok(c)
}
