//! BLOOM: no positions but a bias that falls with distance, and a norm on the embedding.

use super::{COMMON, Family, Form, Sizes, layer_norm, shape};
use crate::error::Result;
use crate::model::config::{Activation, ModelConfig, Positions, alibi_slopes};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family {
    name: "bloom",
    title: "BLOOM",
    config,
    names,
    gguf: Some(Form { arch: "bloom", when: |_| true, config: |k| k.common(), interleaved: false }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let sizes = Sizes {
        layers: &["n_layer", "num_hidden_layers"],
        heads: &["n_head", "num_attention_heads"],
        d_model: &["hidden_size", "n_embed"],
        mlp_times: Some(4),
        n_ctx: &["seq_length", "max_position_embeddings"],
        // ALiBi sets no limit; BLOOM was trained with this length.
        trained: Some(2048),
        kv_heads: &[],
        ..COMMON
    };
    o.raw("n_inner");
    let shape = shape(o, &sizes)?;
    let mut c = ModelConfig::plain("bloom", shape, layer_norm(o, "layer_norm_epsilon")?);
    o.only("apply_residual_connection_post_layernorm", false)?;
    c.positions = Positions::Alibi(alibi_slopes(c.n_heads));
    c.activation = Activation::GeluTanh;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    Ok(c)
}

fn names(_: &Options) -> Result<Names> {
    Ok(Names {
        prefixes: &["transformer.", ""],
        embed: "word_embeddings",
        embed_norm: Some("word_embeddings_layernorm"),
        layers: "h",
        qkv: Qkv::Grouped("self_attention.query_key_value"),
        qkv_bias: true,
        o: "self_attention.dense",
        o_bias: true,
        mlp: MlpNames::Plain { input: "mlp.dense_h_to_4h", output: "mlp.dense_4h_to_h" },
        mlp_bias: true,
        ln_final: Some("ln_f"),
        ..LLAMA
    })
}
