//! GPT-J: attention and MLP side by side behind one norm, neighbouring dimensions rotated.

use serde_json::{Map, Value, json};

use super::gpt2::{GPT2, SIZES};
use super::{Family, Form, layer_norm, rotated, shape};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::rotary::{Rotary, RotaryStyle};
use crate::model::weights::{MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "gptj",
    title: "GPT-J",
    config,
    names,
    gguf: Some(Form { arch: "gptj", when: |_| true, config: gguf, interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("gptj", shape(o, &SIZES)?, layer_norm(o, "layer_norm_epsilon")?);
    let dims = o.size_or("rotary_dim", c.d_head)?;
    if dims == 0 || dims > c.d_head || dims % 2 != 0 {
        return Err(o.refuse("rotary_dim", dims));
    }
    c.positions = rotated(&c, Rotary::plain(dims, 10_000.0, RotaryStyle::Adjacent));
    o.only("rotary", true)?;
    o.only("scale_attn_weights", true)?;
    c.parallel = Parallel::SharedNorm;
    c.activation = o.activation(&["activation_function"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    Ok(c)
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = super::gpt2::gguf(k)?;
    map.insert("rotary_dim".to_owned(), json!(k.int("rope.dimension_count")?));
    Ok(map)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        pos_embed: None,
        ln2: None,
        qkv: Qkv::Separate("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        qkv_bias: false,
        o: "attn.out_proj",
        o_bias: false,
        mlp: MlpNames::Plain { input: "mlp.fc_in", output: "mlp.fc_out" },
        unembed_bias: true,
        conv1d: false,
        ..GPT2
    })
}
