//! EXAONE 4: only outputs are normalised, as in OLMo 2, and each head's q and k. Where some layers are windowed, the
//! others know no positions.

use serde_json::{Map, Value};

use super::{Family, Form, gated_rms, olmo2};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement, Positions, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;

pub const FAMILY: Family = Family {
    name: "exaone4",
    title: "EXAONE 4",
    config,
    names: olmo2::names,
    gguf: Some(Form { arch: "exaone4", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("exaone4", o)?;
    c.norm_placement = NormPlacement::Post;
    c.qk_norm = QkNorm::PerHead;
    let pattern = match o.raw("sliding_window_pattern") {
        // "LLLG": one full layer behind three windowed ones.
        Some(text) if text.is_string() => text.as_str().map_or(4, str::len),
        Some(_) => o.size_or("sliding_window_pattern", 4)?,
        None => 4,
    };
    if o.raw("sliding_window").is_some() {
        c.window = o.windows(c.n_layers, |l| pattern > 0 && !(l + 1).is_multiple_of(pattern))?;
        if let Positions::Rotary(layers) = &mut c.positions {
            for (slot, window) in layers.iter_mut().zip(&c.window) {
                *slot = slot.take().filter(|_| window.is_some());
            }
        }
    } else {
        o.raw("layer_types");
    }
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    // The largest model is windowed whether the file says so or not.
    let large = (map.get("num_hidden_layers").and_then(Value::as_u64) == Some(64)).then_some(4096);
    k.windows(&mut map, k.int("attention.sliding_window")?.or(large), 4)?;
    Ok(map)
}
