//! OLMo 3: OLMo 2 with windows on three layers of four. Only the others are scaled to a longer context.

use serde_json::{Map, Value, json};

use super::{Family, Form, gated_rms_unrotated, olmo2};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement, Positions, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;

pub const FAMILY: Family = Family {
    name: "olmo3",
    title: "OLMo 3",
    config,
    names: olmo2::names,
    gguf: Some(Form { arch: "olmo2", when: windowed, config: gguf, interleaved: false }),
};

const BASE: f64 = 500_000.0;

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms_unrotated("olmo3", o)?;
    c.norm_placement = NormPlacement::Post;
    c.qk_norm = QkNorm::FullWidth;
    c.window = o.windows(c.n_layers, |l| !(l + 1).is_multiple_of(4))?;
    let global = o.rotary_of(Some("full_attention"), c.d_head, RotaryStyle::Half, None, BASE)?;
    // A description of the older spelling is for the full layers alone.
    let empty = json!({});
    let local = o.raw("rope_parameters").and_then(|p| p.get("sliding_attention")).unwrap_or(&empty);
    let base = o.number_or("rope_theta", BASE)?;
    let local = o.rotary_from("rope_parameters.sliding_attention", local, c.d_head, RotaryStyle::Half, base, None)?;
    let of = |window: &Option<usize>| Some(if window.is_some() { local.clone() } else { global.clone() });
    c.positions = Positions::Rotary(c.window.iter().map(of).collect());
    Ok(c)
}

fn windowed(k: &Keys) -> bool {
    matches!(k.int("attention.sliding_window"), Ok(Some(n)) if n > 0)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    let global = map.remove("rope_parameters").unwrap_or_default();
    let base = global.get("rope_theta").and_then(Value::as_f64);
    let local = json!({"rope_theta": k.float("rope.freq_base_swa")?.or(base)});
    map.insert("rope_parameters".to_owned(), json!({"full_attention": global, "sliding_attention": local}));
    k.windows(&mut map, k.int("attention.sliding_window")?, 4)?;
    Ok(map)
}
