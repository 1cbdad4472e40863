//! GPT-J: attention and MLP side by side behind one norm, neighbouring dimensions rotated.

use super::gpt2::GPT2;
use super::{Family, layer_norm};
use crate::error::Result;
use crate::model::config::{ModelConfig, Parallel, Positions, Rotary, RotaryScaling, RotaryStyle, Shape};
use crate::model::options::Options;
use crate::model::weights::{MlpNames, Names, Qkv};

pub const FAMILY: Family = Family { name: "gptj", title: "GPT-J", config, names };

fn config(o: &Options) -> Result<ModelConfig> {
    let (d, heads) = (o.size("n_embd")?, o.size("n_head")?);
    let shape = Shape {
        n_layers: o.layers("n_layer")?,
        n_heads: heads,
        n_kv_heads: heads,
        d_model: d,
        d_head: d / heads,
        d_mlp: o.size_or("n_inner", 4 * d)?,
        d_vocab: o.size("vocab_size")?,
        n_ctx: o.size("n_positions")?,
    };
    let mut c = ModelConfig::plain("gptj", shape, layer_norm(o, "layer_norm_epsilon")?);
    let dims = o.size_or("rotary_dim", c.d_head)?;
    if dims > c.d_head || dims % 2 != 0 {
        return Err(o.refuse("rotary_dim", dims));
    }
    let rotary = Rotary { dims, base: 10_000.0, style: RotaryStyle::Adjacent, scaling: RotaryScaling::None };
    c.positions = Positions::Rotary(vec![rotary; c.n_layers]);
    o.only("rotary", true)?;
    o.only("scale_attn_weights", true)?;
    c.parallel = Parallel::SharedNorm;
    c.activation = o.activation(&["activation_function"], "gelu_new")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", false)?;
    Ok(c)
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
