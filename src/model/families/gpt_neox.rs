//! GPT-NeoX and Pythia: attention and MLP side by side, a quarter of each head rotated.

use serde_json::{Map, Value, json};

use super::{Family, Form, common_shape, layer_norm, rotated};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::RotaryStyle;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "gpt_neox",
    title: "GPT-NeoX, Pythia",
    config,
    names,
    gguf: Some(Form { arch: "gptneox", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("gpt_neox", common_shape(o)?, layer_norm(o, "layer_norm_eps")?);
    let share = o.number_or("rotary_pct", 0.25)?;
    let base = o.number_or("rotary_emb_base", 10_000.0)?;
    c.positions = rotated(&c, o.rotary_of(None, c.d_head, RotaryStyle::Half, Some(share), base)?);
    c.activation = o.activation(&["hidden_act"], "gelu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    if o.flag_or("use_parallel_residual", true)? {
        c.parallel = Parallel::OwnNorms;
    }
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(true)?;
    map.insert("use_parallel_residual".to_owned(), json!(k.flag("use_parallel_residual")?.unwrap_or(true)));
    map.insert("attention_bias".to_owned(), json!(k.has("blk.0.attn_qkv.bias")));
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("attention_bias", true)?;
    Ok(Names {
        prefixes: &["gpt_neox.", ""],
        embed: "embed_in",
        qkv: Qkv::Grouped("attention.query_key_value"),
        qkv_bias: bias,
        o: "attention.dense",
        o_bias: bias,
        mlp: MlpNames::Plain { input: "mlp.dense_h_to_4h", output: "mlp.dense_4h_to_h" },
        mlp_bias: true,
        ln_final: Some("final_layer_norm"),
        unembed: "embed_out",
        ..LLAMA
    })
}
