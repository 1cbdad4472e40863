//! The model families. Each one is a file that maps its config and its weight names onto the block, and one line of
//! [`FAMILIES`].

pub mod bloom;
pub mod cohere;
pub mod exaone4;
pub mod falcon;
pub mod gemma;
pub mod gemma2;
pub mod gemma3;
pub mod glm4;
pub mod gpt2;
pub mod gpt_bigcode;
pub mod gpt_neo;
pub mod gpt_neox;
pub mod gptj;
pub mod granite;
pub mod lab;
pub mod llama;
pub mod mistral;
pub mod mixtral;
pub mod mpt;
pub mod nemotron;
pub mod olmo;
pub mod olmo2;
pub mod olmo3;
pub mod olmoe;
pub mod opt;
pub mod phi;
pub mod phi3;
pub mod qwen2;
pub mod qwen3;
pub mod qwen3_moe;
pub mod smollm3;
pub mod stablelm;
pub mod starcoder2;

use serde_json::{Map, Value};

use super::config::{ModelConfig, NormKind, Positions, Shape};
use super::gguf_config::Keys;
use super::options::Options;
use super::rotary::RotaryStyle;
use super::weights::Names;
use crate::error::{Error, Result};

/// A model family.
pub struct Family {
    /// `model_type` in config.json.
    pub name: &'static str,
    pub title: &'static str,
    pub config: fn(&Options) -> Result<ModelConfig>,
    pub names: fn(&Options) -> Result<Names>,
    /// How a GGUF file holds it; `None` where llama.cpp does not know the family.
    pub gguf: Option<Form>,
}

/// The form of a family in GGUF files, in llama.cpp's words.
pub struct Form {
    /// `general.architecture`
    pub arch: &'static str,
    /// Tells families apart that share an architecture.
    pub when: fn(&Keys) -> bool,
    /// The options that config.json would have, out of the metadata.
    pub config: fn(&Keys) -> Result<Map<String, Value>>,
    /// True where the rows of q and k are stored with the two halves of each head interleaved.
    pub interleaved: bool,
}

/// Every family that can be opened.
pub const FAMILIES: &[Family] = &[
    mixtral::FAMILY,
    llama::FAMILY,
    gpt2::FAMILY,
    mistral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    smollm3::FAMILY,
    olmo::FAMILY,
    olmo3::FAMILY,
    olmo2::FAMILY,
    olmoe::FAMILY,
    granite::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    stablelm::FAMILY,
    starcoder2::FAMILY,
    gpt_bigcode::FAMILY,
    cohere::FAMILY,
    nemotron::FAMILY,
    glm4::FAMILY,
    exaone4::FAMILY,
    falcon::FAMILY,
    mpt::FAMILY,
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

/// Returns the family of a GGUF architecture, and its form there.
pub fn by_arch(keys: &Keys) -> Option<(&'static Family, &'static Form)> {
    let of = |f: &'static Family| f.gguf.as_ref().map(|form| (f, form));
    FAMILIES.iter().filter_map(of).find(|(_, form)| form.arch == keys.arch() && (form.when)(keys))
}

/// Returns the names of all architectures, for messages.
pub fn known_archs() -> String {
    let mut names: Vec<_> = FAMILIES.iter().filter_map(|f| f.gguf.as_ref().map(|g| g.arch)).collect();
    names.dedup();
    names.join(", ")
}

/// The spellings of the options that hold a model's sizes.
struct Sizes {
    layers: &'static [&'static str],
    heads: &'static [&'static str],
    kv_heads: &'static [&'static str],
    d_model: &'static [&'static str],
    d_mlp: &'static [&'static str],
    /// The MLP's width in multiples of d_model, where no option says it.
    mlp_times: Option<usize>,
    n_ctx: &'static [&'static str],
    /// The context length, where no option says it.
    trained: Option<usize>,
}

/// The spellings of most families. The others know these too.
const COMMON: Sizes = Sizes {
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    kv_heads: &["num_key_value_heads"],
    d_model: &["hidden_size"],
    d_mlp: &["intermediate_size"],
    mlp_times: None,
    n_ctx: &["max_position_embeddings"],
    trained: None,
};

/// Reads the sizes.
fn shape(o: &Options, s: &Sizes) -> Result<Shape> {
    let (d, heads) = (o.need(s.d_model)?, o.need(s.heads)?);
    let kv_heads = o.size_of(s.kv_heads)?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(o.refuse(s.kv_heads[0], format!("{kv_heads} (for {heads} heads)")));
    }
    let d_head = match o.size_of(&["head_dim"])? {
        Some(n) => n,
        None if d % heads == 0 => d / heads,
        None => return Err(o.bad(s.heads[0], format!("is {heads}, which does not divide the width of {d}"))),
    };
    Ok(Shape {
        n_layers: o.layers(s.layers)?,
        n_heads: heads,
        n_kv_heads: kv_heads,
        d_model: d,
        d_head,
        d_mlp: match (o.size_of(s.d_mlp)?, s.mlp_times) {
            (Some(n), _) if n > 0 => n,
            (None, Some(times)) => times * d,
            _ => o.need(s.d_mlp)?,
        },
        d_vocab: o.size("vocab_size")?,
        n_ctx: match (o.size_of(s.n_ctx)?, s.trained) {
            (None, Some(n)) => n,
            _ => o.need(s.n_ctx)?,
        },
    })
}

fn common_shape(o: &Options) -> Result<Shape> {
    shape(o, &COMMON)
}

/// What a norm adds to the variance.
fn epsilon(told: f64) -> Result<f32> {
    const MOST: f64 = 0.1;
    if (0.0..=MOST).contains(&told) {
        return Ok(told as f32);
    }
    Err(Error::failed(format!("a norm's epsilon of {told} cannot be; it lies between 0 and {MOST}")))
}

fn layer_norm(o: &Options, option: &str) -> Result<NormKind> {
    let common = o.number("layer_norm_eps")?;
    Ok(NormKind::Layer { eps: epsilon(o.number(option)?.or(common).unwrap_or(1e-5))? })
}

/// Reads the config of Llama's block: RMSNorm, rotary halves, gated MLP.
fn gated_rms(family: &str, o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms_unrotated(family, o)?;
    c.positions = rotated(&c, o.rotary(c.d_head, RotaryStyle::Half, None)?);
    Ok(c)
}

/// As [`gated_rms`] for families that read their rotations themselves.
fn gated_rms_unrotated(family: &str, o: &Options) -> Result<ModelConfig> {
    let norm = NormKind::Rms { eps: epsilon(o.number_or("rms_norm_eps", 1e-6)?)? };
    let mut c = ModelConfig::plain(family, common_shape(o)?, norm);
    c.gated_mlp = true;
    c.activation = o.activation(&["hidden_activation", "hidden_act"], "silu")?;
    c.tied_embeddings = o.flag_or("tie_word_embeddings", family.starts_with("gemma"))?;
    Ok(c)
}

/// One rotation for all layers.
fn rotated(c: &ModelConfig, rotary: super::rotary::Rotary) -> Positions {
    Positions::Rotary(vec![Some(rotary); c.n_layers])
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
    fn options_that_no_family_reads() {
        for family in FAMILIES {
            let finish = |map: Value| Options::new(family.name, map.as_object().unwrap()).finish();
            let warnings =
                finish(serde_json::json!({"quantum_attention": true, "_private": 1, "empty": null})).unwrap();
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains("`quantum_attention`") && !warnings[0].contains("private"), "{warnings:?}");
            let error = finish(serde_json::json!({"kv_lora_rank": 512})).unwrap_err().to_string();
            assert!(error.contains("kv_lora_rank"), "{error}");
            assert!(finish(serde_json::json!({"is_encoder_decoder": false, "pruned_heads": {}})).unwrap().is_empty());
        }
    }
}
