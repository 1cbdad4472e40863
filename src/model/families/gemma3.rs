//! Gemma 3 (text): Gemma 2 without soft caps, with q and k norms, and two rotary bases.

use serde_json::{Map, Value, json};

use super::gemma::gemma_base;
use super::{Family, Form, gemma2};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement, Positions, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::Names;

pub const FAMILY: Family = Family {
    name: "gemma3_text",
    title: "Gemma 3",
    config,
    names,
    gguf: Some(Form { arch: "gemma3", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gemma_base("gemma3_text", o)?;
    c.norm_placement = NormPlacement::Sandwich;
    c.qk_norm = QkNorm::PerHead;
    // transformers' class has the option and never applies it.
    o.raw("attn_logit_softcapping");
    c.final_softcap = o.number("final_logit_softcapping")?.map(|x| x as f32);
    let scalar = o.number_or("query_pre_attn_scalar", 256.0)?;
    c.attn_scale = vec![scalar.sqrt().recip() as f32; c.n_layers];
    let pattern = o.size_of(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6).max(1);
    c.window = o.windows(c.n_layers, |l| !(l + 1).is_multiple_of(pattern))?;
    // Windowed layers have a rotary base of their own. Only the other layers are scaled to a longer context.
    let local_base = o.number_or("rope_local_base_freq", 10_000.0)?;
    let global = o.rotary_of(Some("full_attention"), c.d_head, RotaryStyle::Half, None, 1e6)?;
    let empty = json!({});
    let local = o.raw("rope_parameters").and_then(|p| p.get("sliding_attention")).unwrap_or(&empty);
    let option = "rope_parameters.sliding_attention";
    let local = o.rotary_from(option, local, c.d_head, RotaryStyle::Half, local_base, None)?;
    let of = |window: &Option<usize>| Some(if window.is_some() { local.clone() } else { global.clone() });
    c.positions = Positions::Rotary(c.window.iter().map(of).collect());
    Ok(c)
}

/// The local rotary base may be absent; which layers are windowed mostly belongs to the architecture.
fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    let global = map.remove("rope_parameters");
    let local = json!({"rope_theta": k.float("rope.freq_base_swa")?.unwrap_or(10_000.0)});
    map.insert("rope_parameters".to_owned(), json!({"full_attention": global, "sliding_attention": local}));
    k.windows(&mut map, k.int("attention.sliding_window")?, 6)?;
    map.insert("final_logit_softcapping".to_owned(), json!(k.float("final_logit_softcapping")?));
    map.insert("query_pre_attn_scalar".to_owned(), gemma2::scalar(&map, 62));
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    Ok(Names { q_norm: Some("self_attn.q_norm"), k_norm: Some("self_attn.k_norm"), ..gemma2::names(o)? })
}
