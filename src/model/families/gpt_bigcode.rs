//! GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key and value for all heads.

use serde_json::{Map, Value, json};

use super::gpt2::{GPT2, gpt2};
use super::{Family, Form};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{Names, Qkv};

pub const FAMILY: Family = Family {
    name: "gpt_bigcode",
    title: "GPT-BigCode",
    config,
    names,
    gguf: Some(Form { arch: "starcoder", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gpt2("gpt_bigcode", o)?;
    c.n_kv_heads = if o.flag_or("multi_query", true)? { 1 } else { c.n_heads };
    c.activation = o.activation(&["activation_function"], "gelu_pytorch_tanh")?;
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = super::gpt2::gguf(k)?;
    map.insert("multi_query".to_owned(), json!(k.int("attention.head_count_kv")? == Some(1)));
    Ok(map)
}

fn names(o: &Options) -> Result<Names> {
    let qkv = if o.flag_or("multi_query", true)? { Qkv::Stacked("attn.c_attn") } else { Qkv::Grouped("attn.c_attn") };
    Ok(Names { qkv, conv1d: false, ..GPT2 })
}
