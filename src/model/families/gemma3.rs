//! Gemma 3 (text): Gemma 2 without soft caps, with q and k norms, and two rotary bases.

use super::gemma::gemma_base;
use super::{Family, gemma2};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormPlacement, Positions, QkNorm, RotaryStyle};
use crate::model::options::Options;
use crate::model::weights::Names;

pub const FAMILY: Family = Family { name: "gemma3_text", title: "Gemma 3", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gemma_base("gemma3_text", o)?;
    c.norm_placement = NormPlacement::Sandwich;
    c.qk_norm = QkNorm::PerHead;
    c.attn_softcap = o.number("attn_logit_softcapping")?.map(|x| x as f32);
    c.final_softcap = o.number("final_logit_softcapping")?.map(|x| x as f32);
    let scalar = o.number_or("query_pre_attn_scalar", 256.0)?;
    c.attn_scale = vec![scalar.sqrt().recip() as f32; c.n_layers];
    let pattern = o.size_of(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6).max(1);
    c.window = o.windows(c.n_layers, |l| !(l + 1).is_multiple_of(pattern))?;
    // Windowed layers have a rotary base of their own. Only the other layers are scaled to a longer context.
    let local_base = o.number_or("rope_local_base_freq", 10_000.0)?;
    let empty = serde_json::json!({});
    let by_kind = o.raw("rope_parameters");
    let part = |kind: &str| by_kind.and_then(|p| p.get(kind));
    let global = match part("full_attention") {
        Some(p) => o.rotary_from("rope_parameters.full_attention", p, c.d_head, RotaryStyle::Half, 1e6, 1.0)?,
        None => {
            let base = o.number_or("rope_theta", 1e6)?;
            o.rotary_from(
                "rope_scaling",
                o.raw("rope_scaling").unwrap_or(&empty),
                c.d_head,
                RotaryStyle::Half,
                base,
                1.0,
            )?
        }
    };
    let local = part("sliding_attention").unwrap_or(&empty);
    let local =
        o.rotary_from("rope_parameters.sliding_attention", local, c.d_head, RotaryStyle::Half, local_base, 1.0)?;
    c.positions =
        Positions::Rotary(c.window.iter().map(|w| if w.is_some() { local.clone() } else { global.clone() }).collect());
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    Ok(Names { q_norm: Some("self_attn.q_norm"), k_norm: Some("self_attn.k_norm"), ..gemma2::names(o)? })
}
