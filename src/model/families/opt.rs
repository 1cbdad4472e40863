//! OPT: learned positions that start at row 2, ReLU. OPT-350m has a narrower embedding and normalises the stream itself.

use super::{COMMON, Family, Sizes, shape};
use crate::error::Result;
use crate::model::config::{ModelConfig, NormKind, NormPlacement, Positions};
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family { name: "opt", title: "OPT", config, names, gguf: None };

const SIZES: Sizes = Sizes { d_mlp: &["ffn_dim"], kv_heads: &[], ..COMMON };

/// True for the models that normalise what attention and MLP read; the others normalise the stream itself (350m).
fn before(o: &Options) -> Result<bool> {
    o.flag_or("do_layer_norm_before", true)
}

/// The width of the embedding, where it is not that of the stream.
fn narrow(o: &Options) -> Result<Option<usize>> {
    let d = o.size("hidden_size")?;
    Ok(o.size_of(&["word_embed_proj_dim"])?.filter(|w| *w != d))
}

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = ModelConfig::plain("opt", shape(o, &SIZES)?, NormKind::Layer { eps: 1e-5 });
    o.only("_remove_final_layer_norm", false)?;
    o.only("layer_norm_elementwise_affine", true)?;
    if !before(o)? {
        c.norm_placement = NormPlacement::Stream;
    }
    c.positions = Positions::Learned;
    c.activation = o.activation(&["activation_function"], "relu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", true)? && narrow(o)?.is_none();
    Ok(c)
}

fn names(o: &Options) -> Result<Names> {
    let (bias, before) = (o.flag_or("enable_bias", true)?, before(o)?);
    let (ln1, ln2) = (Some("self_attn_layer_norm"), Some("final_layer_norm"));
    Ok(Names {
        prefixes: &["model.decoder.", "decoder."],
        pos_embed: Some("embed_positions"),
        pos_offset: 2,
        ln1: ln1.filter(|_| before),
        ln1_post: ln1.filter(|_| !before),
        ln2: ln2.filter(|_| before),
        ln2_post: ln2.filter(|_| !before),
        qkv_bias: bias,
        o: "self_attn.out_proj",
        o_bias: bias,
        mlp: MlpNames::Plain { input: "fc1", output: "fc2" },
        mlp_bias: bias,
        ln_final: ln2.filter(|_| before),
        projection: narrow(o)?.map(|width| (width, "project_in", "project_out")),
        ..LLAMA
    })
}
