//! Cohere's Command R: attention and MLP side by side behind one LayerNorm without offset, neighbouring dimensions
//! rotated, scaled logits.

use serde_json::{Map, Value, json};

use super::{Family, Form, common_shape, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "cohere",
    title: "Command R",
    config,
    names,
    gguf: Some(Form { arch: "command-r", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("cohere", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Adjacent, None)?);
    c.parallel = Parallel::SharedNorm;
    c.gated_mlp = true;
    c.activation = o.activation(&["hidden_act"], "silu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    c.unembed_scale = o.number_or("logit_scale", 0.0625)? as f32;
    if o.flag_or("use_qk_norm", false)? {
        c.qk_norm = QkNorm::OwnGains;
    }
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    map.insert("logit_scale".to_owned(), json!(k.float("logit_scale")?));
    map.insert("use_qk_norm".to_owned(), json!(k.has("blk.0.attn_q_norm.weight")));
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", false)?;
    let qk_norm = o.flag_or("use_qk_norm", false)?;
    Ok(Names {
        ln2: None,
        norm_bias: false,
        qkv_bias: bias,
        o_bias: bias,
        q_norm: qk_norm.then_some("self_attn.q_norm"),
        k_norm: qk_norm.then_some("self_attn.k_norm"),
        ..LLAMA
    })
}
