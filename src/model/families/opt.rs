//! OPT: learned positions that start at row 2, ReLU.

use super::Family;
use crate::error::Result;
use crate::model::config::{ModelConfig, NormKind, Positions, Shape};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family { name: "opt", title: "OPT", config, names, gguf: None };

fn config(o: &Options) -> Result<ModelConfig> {
    let (d, heads) = (o.size("hidden_size")?, o.size("num_attention_heads")?);
    let shape = Shape {
        n_layers: o.layers(&["num_hidden_layers"])?,
        n_heads: heads,
        n_kv_heads: heads,
        d_model: d,
        d_head: d / heads,
        d_mlp: o.size("ffn_dim")?,
        d_vocab: o.size("vocab_size")?,
        n_ctx: o.size("max_position_embeddings")?,
    };
    let mut c = ModelConfig::plain("opt", shape, NormKind::Layer { eps: 1e-5 });
    o.only("do_layer_norm_before", true)?;
    o.only("_remove_final_layer_norm", false)?;
    o.only("layer_norm_elementwise_affine", true)?;
    if let Some(width) = o.size_of(&["word_embed_proj_dim"])?.filter(|w| *w != d) {
        return Err(o.refuse("word_embed_proj_dim", width));
    }
    c.positions = Positions::Learned;
    c.activation = o.activation(&["activation_function"], "relu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)?;
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let bias = o.flag_or("enable_bias", true)?;
    Ok(Names {
        prefixes: &["model.decoder.", "decoder."],
        pos_embed: Some("embed_positions"),
        pos_offset: 2,
        ln1: Some("self_attn_layer_norm"),
        ln2: Some("final_layer_norm"),
        qkv_bias: bias,
        o: "self_attn.out_proj",
        o_bias: bias,
        mlp: MlpNames::Plain { input: "fc1", output: "fc2" },
        mlp_bias: bias,
        ln_final: "final_layer_norm",
        ..LLAMA
    })
}
