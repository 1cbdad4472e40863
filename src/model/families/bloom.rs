//! BLOOM: no positions but a bias that falls with distance, and a norm on the embedding.

use super::{Family, layer_norm};
use crate::error::Result;
use crate::model::config::{Activation, ModelConfig, Positions, Shape};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names, Qkv};

pub const FAMILY: Family = Family { name: "bloom", title: "BLOOM", config, names };

/// The context length. ALiBi sets no limit; BLOOM was trained with this length.
const TRAINED_LENGTH: usize = 2048;

fn config(o: &Options) -> Result<ModelConfig> {
    let d = match o.size_of(&["hidden_size", "n_embed"])? {
        Some(d) => d,
        None => o.size("hidden_size")?,
    };
    let heads = match o.size_of(&["n_head", "num_attention_heads"])? {
        Some(n) if n > 0 => n,
        _ => o.size("n_head")?,
    };
    let n_layers = if o.raw("n_layer").is_some() { o.layers("n_layer")? } else { o.layers("num_hidden_layers")? };
    o.raw("num_hidden_layers");
    o.raw("n_inner");
    let shape = Shape {
        n_layers,
        n_heads: heads,
        n_kv_heads: heads,
        d_model: d,
        d_head: d / heads,
        d_mlp: 4 * d,
        d_vocab: o.size("vocab_size")?,
        n_ctx: o.size_or("seq_length", TRAINED_LENGTH)?,
    };
    let mut c = ModelConfig::plain("bloom", shape, layer_norm(o, "layer_norm_epsilon")?);
    o.only("apply_residual_connection_post_layernorm", false)?;
    c.positions = Positions::Alibi;
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
        qkv: Qkv::PerHead("self_attention.query_key_value"),
        qkv_bias: true,
        o: "self_attention.dense",
        o_bias: true,
        mlp: MlpNames::Plain { input: "mlp.dense_h_to_4h", output: "mlp.dense_4h_to_h" },
        mlp_bias: true,
        ln_final: "ln_f",
        ..LLAMA
    })
}
