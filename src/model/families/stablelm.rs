//! StableLM: Llama's layout with LayerNorm and a quarter of each head rotated.

use serde_json::{Map, Value, json};

use super::{Family, Form, common_shape, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "stablelm",
    title: "StableLM",
    config,
    names,
    gguf: Some(Form { arch: "stablelm", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("stablelm", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    if o.flag_or("qk_layernorm", false)? {
        c.qk_norm = QkNorm::OwnGains;
    }
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, Some(0.25))?);
    c.gated_mlp = true;
    c.activation = o.activation(&["hidden_act"], "silu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    if o.flag_or("use_parallel_residual", false)? {
        c.parallel = Parallel::SharedNorm;
    }
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(true)?;
    map.insert("use_parallel_residual".to_owned(), json!(k.flag("use_parallel_residual")?.unwrap_or(false)));
    map.insert("qk_layernorm".to_owned(), json!(k.has("blk.0.attn_q_norm.weight")));
    map.insert("use_qkv_bias".to_owned(), json!(k.has("blk.0.attn_q.bias")));
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let ln2 = if o.flag_or("use_parallel_residual", false)? { None } else { LLAMA.ln2 };
    let qk_norm = o.flag_or("qk_layernorm", false)?;
    Ok(Names {
        qkv_bias: o.flag_or("use_qkv_bias", false)?,
        ln2,
        q_norm: qk_norm.then_some("self_attn.q_layernorm"),
        k_norm: qk_norm.then_some("self_attn.k_layernorm"),
        ..LLAMA
    })
}
