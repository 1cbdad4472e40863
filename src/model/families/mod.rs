//! The model families. Each one is a file that maps its config and its weight names onto the block, and one line of
//! [`FAMILIES`].

pub mod bloom;
pub mod gemma;
pub mod gemma2;
pub mod gemma3;
pub mod gpt2;
pub mod gpt_neo;
pub mod gpt_neox;
pub mod gptj;
pub mod lab;
pub mod llama;
pub mod mistral;
pub mod olmo2;
pub mod opt;
pub mod phi;
pub mod phi3;
pub mod qwen2;
pub mod qwen3;
pub mod stablelm;
pub mod starcoder2;

use super::config::{ModelConfig, NormKind, Positions, RotaryStyle, Shape};
use super::options::Options;
use super::weights::Names;
use crate::error::Result;

/// A model family.
pub struct Family {
    /// `model_type` in config.json.
    pub name: &'static str,
    pub title: &'static str,
    pub config: fn(&Options) -> Result<ModelConfig>,
    pub names: fn(&Options) -> Result<Names>,
}

/// Every family that can be opened.
pub const FAMILIES: &[Family] = &[
    llama::FAMILY,
    gpt2::FAMILY,
    mistral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    olmo2::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    stablelm::FAMILY,
    starcoder2::FAMILY,
    gpt_neo::FAMILY,
    gpt_neox::FAMILY,
    gptj::FAMILY,
    opt::FAMILY,
    bloom::FAMILY,
    lab::FAMILY,
];

pub fn by_name(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.name == name)
}

/// Returns the names of all families, for messages.
pub fn known() -> String {
    FAMILIES.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}

/// Reads the sizes by the option names that most families share.
fn common_shape(o: &Options) -> Result<Shape> {
    let (d, heads) = (o.size("hidden_size")?, o.size("num_attention_heads")?);
    let kv_heads = o.size_or("num_key_value_heads", heads)?;
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(o.refuse("num_key_value_heads", format!("{kv_heads} (for {heads} heads)")));
    }
    Ok(Shape {
        n_layers: o.layers("num_hidden_layers")?,
        n_heads: heads,
        n_kv_heads: kv_heads,
        d_model: d,
        d_head: o.size_or("head_dim", d / heads)?,
        d_mlp: o.size("intermediate_size")?,
        d_vocab: o.size("vocab_size")?,
        n_ctx: o.size("max_position_embeddings")?,
    })
}

fn layer_norm(o: &Options, option: &str) -> Result<NormKind> {
    Ok(NormKind::Layer { eps: o.number_or(option, 1e-5)? as f32 })
}

/// Reads the config of Llama's block: RMSNorm, rotary halves, gated MLP.
fn gated_rms(family: &str, o: &Options) -> Result<ModelConfig> {
    let norm = NormKind::Rms { eps: o.number_or("rms_norm_eps", 1e-6)? as f32 };
    let mut c = ModelConfig::plain(family, common_shape(o)?, norm);
    // Gemma 3's config describes a rotation for each kind of layer; its own file reads them.
    let by_kind = o.raw("rope_parameters").is_some_and(|p| p.get("full_attention").is_some());
    if by_kind && family != "gemma3_text" {
        return Err(o.refuse("rope_parameters.full_attention", "(one description for each kind of layer)"));
    }
    if !by_kind {
        c.positions = Positions::Rotary(vec![o.rotary(c.d_head, RotaryStyle::Half, 1.0)?; c.n_layers]);
    }
    c.gated_mlp = true;
    c.activation = o.activation(&["hidden_activation", "hidden_act"], "silu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", family.starts_with("gemma"))?;
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let names: std::collections::HashSet<_> = FAMILIES.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        for family in FAMILIES {
            let map = serde_json::json!({"model_type": family.name, "quantum_attention": true});
            let options = Options::new(family.name, map.as_object().unwrap());
            let error = options.finish().unwrap_err().to_string();
            assert!(error.contains("quantum_attention"), "{error}");
        }
    }
}
