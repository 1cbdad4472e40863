//! OLMoE: a mixture of experts whose shares are the router's probabilities as they are; all of q and all of k normalised.

use serde_json::{Map, Value};

use super::mixtral::experts;
use super::{Family, Form, gated_rms, qwen3_moe};
use crate::error::Result;
use crate::model::config::{ModelConfig, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, Names};

pub const FAMILY: Family = Family {
    name: "olmoe",
    title: "OLMoE",
    config,
    names,
    gguf: Some(Form { arch: "olmoe", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("olmoe", o)?;
    c.qk_norm = QkNorm::FullWidth;
    let count = o.size_of(&["num_experts", "num_local_experts"])?.unwrap_or(64);
    let experts = experts(o, count, 8, o.flag_or("norm_topk_prob", false)?)?;
    c.d_mlp *= experts.count;
    c.experts = Some(experts);
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    k.experts(&mut map, false)?;
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", false)?;
    Ok(Names {
        qkv_bias: bias,
        o_bias: bias,
        q_norm: Some("self_attn.q_norm"),
        k_norm: Some("self_attn.k_norm"),
        mlp: qwen3_moe::EXPERTS,
        ..LLAMA
    })
}
