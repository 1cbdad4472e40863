//! Qwen 3 with a mixture of experts in every layer.

use serde_json::{Map, Value};

use super::mixtral::experts;
use super::{Family, Form, gated_rms, qwen2, qwen3};
use crate::error::Result;
use crate::model::config::{ModelConfig, QkNorm};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{MlpNames, Names};

pub const FAMILY: Family = Family {
    name: "qwen3_moe",
    title: "Qwen 3 MoE",
    config,
    names,
    gguf: Some(Form { arch: "qwen3moe", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("qwen3_moe", o)?;
    c.qk_norm = QkNorm::PerHead;
    c.window = qwen2::qwen_windows(o, c.n_layers)?;
    // The block is the same in all layers.
    if o.raw("mlp_only_layers").is_some_and(|l| l.as_array().is_none_or(|l| !l.is_empty())) {
        return Err(o.refuse("mlp_only_layers", "(some layers without experts)"));
    }
    o.only("decoder_sparse_step", 1)?;
    let experts = experts(
        o,
        o.size_of(&["num_experts", "num_local_experts"])?.unwrap_or(128),
        8,
        o.flag_or("norm_topk_prob", false)?,
    )?;
    c.d_mlp = o.size("moe_intermediate_size")? * experts.count;
    c.experts = Some(experts);
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    k.experts(&mut map, true)?;
    Ok(map)
}

/// One matrix for each expert.
pub(super) const EXPERTS: MlpNames = MlpNames::Experts {
    router: "mlp.gate",
    gate: "mlp.experts.{e}.gate_proj",
    input: "mlp.experts.{e}.up_proj",
    output: "mlp.experts.{e}.down_proj",
};

fn names(o: &Options) -> Result<Names> {
    Ok(Names { mlp: EXPERTS, ..qwen3::names(o)? })
}
