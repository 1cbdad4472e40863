//! Phi 1, 1.5 and 2: attention and MLP side by side behind one norm, half of each head rotated.

use super::{Family, Form, common_shape, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, QkNorm};
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family {
    name: "phi",
    title: "Phi",
    config,
    names,
    gguf: Some(Form { arch: "phi2", when: |_| true, config: |k| k.rotated(true), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("phi", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    if o.flag_or("qk_layernorm", false)? {
        c.qk_norm = QkNorm::PerHead;
    }
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, Some(0.5))?);
    c.parallel = Parallel::SharedNorm;
    c.activation = o.activation(&["hidden_act"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let qk_norm = o.flag_or("qk_layernorm", false)?;
    Ok(Names {
        q_norm: qk_norm.then_some("self_attn.q_layernorm"),
        k_norm: qk_norm.then_some("self_attn.k_layernorm"),
        ln2: None,
        qkv_bias: true,
        o: "self_attn.dense",
        o_bias: true,
        mlp: MlpNames::Plain { input: "mlp.fc1", output: "mlp.fc2" },
        mlp_bias: true,
        ln_final: Some("final_layernorm"),
        unembed_bias: true,
        ..LLAMA
    })
}
