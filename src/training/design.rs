//! The design of a small transformer: its shape, its variables, the weights made of them, and its files.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::model::config::{Activation, ModelConfig, NormKind, Positions, Shape};
use crate::model::rotary::{Rotary, RotaryStyle};
use crate::model::safetensors_file::pack;
use crate::model::weights::{Attention, Block, Linear, Mlp, Norm, Weights};

const EPS: f32 = 1e-5;

/// The shape of a small transformer. It has a LayerNorm before attention, MLP and unembedding, rotary positions, and
/// biases on q and k. First weights are drawn with standard deviation 1/√d_model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Design {
    pub d_model: usize,
    pub heads: usize,
    pub layers: usize,
    /// Number of ReLU neurons of a layer; 0 for a model without MLPs.
    pub d_mlp: usize,
    pub vocab: usize,
    pub context: usize,
    pub rope_base: f64,
    /// Standard deviation of the first embeddings.
    pub embed_std: f32,
}

/// Draws a standard normal number (Box–Muller), the same on every machine.
fn normal(rng: &mut impl Rng) -> f32 {
    let u: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
    let v: f64 = rng.random_range(0.0..1.0);
    ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
}

impl Design {
    pub fn config(&self, name: &str) -> ModelConfig {
        let d_head = self.d_model / self.heads;
        let shape = Shape {
            n_layers: self.layers,
            n_heads: self.heads,
            n_kv_heads: self.heads,
            d_model: self.d_model,
            d_head,
            d_mlp: self.d_mlp,
            d_vocab: self.vocab,
            n_ctx: self.context,
        };
        let mut c = ModelConfig::plain("circuitscope_lab", shape, NormKind::Layer { eps: EPS });
        let rotary = Rotary::plain(d_head, self.rope_base, RotaryStyle::Half);
        c.positions = Positions::Rotary(vec![Some(rotary); self.layers]);
        c.activation = Activation::Relu;
        name.clone_into(&mut c.name);
        c
    }

    /// Returns the content of config.json.
    fn config_json(&self) -> serde_json::Value {
        let mut v = json!({
            "model_type": "circuitscope_lab", "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "hidden_size": self.d_model, "intermediate_size": self.d_mlp, "vocab_size": self.vocab,
            "max_position_embeddings": self.context, "layer_norm_eps": 1e-5, "rope_theta": self.rope_base,
            "tie_word_embeddings": false,
        });
        if self.d_mlp > 0 {
            v["hidden_act"] = json!("relu");
        }
        v
    }

    /// Draws the variables, with their names in the model folder, in a fixed order. Linear layers are [input, output].
    pub fn variables(&self, seed: u64) -> Result<Vec<(String, Var)>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut vars = Vec::new();
        let mut add = |name: String, shape: &[usize], std: f32, base: f32| -> Result<()> {
            let n = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|_| if std > 0.0 { std * normal(&mut rng) } else { base }).collect();
            vars.push((name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?));
            Ok(())
        };
        let (d, m) = (self.d_model, self.d_mlp);
        let std = (d as f32).sqrt().recip();
        add("embed_tokens.weight".to_owned(), &[self.vocab, d], self.embed_std, 0.0)?;
        add("lm_head.weight".to_owned(), &[d, self.vocab], std, 0.0)?;
        for l in 0..self.layers {
            add(format!("layers.{l}.input_layernorm.weight"), &[d], 0.0, 1.0)?;
            add(format!("layers.{l}.input_layernorm.bias"), &[d], 0.0, 0.0)?;
            for part in ["q", "k", "v", "o"] {
                add(format!("layers.{l}.self_attn.{part}_proj.weight"), &[d, d], std, 0.0)?;
            }
            for part in ["q", "k"] {
                add(format!("layers.{l}.self_attn.{part}_proj.bias"), &[d], 0.0, 0.0)?;
            }
            if m > 0 {
                add(format!("layers.{l}.post_attention_layernorm.weight"), &[d], 0.0, 1.0)?;
                add(format!("layers.{l}.post_attention_layernorm.bias"), &[d], 0.0, 0.0)?;
                add(format!("layers.{l}.mlp.up_proj.weight"), &[d, m], std, 0.0)?;
                add(format!("layers.{l}.mlp.up_proj.bias"), &[m], 0.0, 0.0)?;
                add(format!("layers.{l}.mlp.down_proj.weight"), &[m, d], (m as f32).sqrt().recip(), 0.0)?;
                add(format!("layers.{l}.mlp.down_proj.bias"), &[d], 0.0, 0.0)?;
            }
        }
        add("norm.weight".to_owned(), &[d], 0.0, 1.0)?;
        add("norm.bias".to_owned(), &[d], 0.0, 0.0)?;
        Ok(vars)
    }

    /// Puts named tensors together to weights, so that training runs the same forward pass as analyses do.
    pub fn weights(&self, tensors: &[(String, Tensor)]) -> Result<Weights> {
        let by_name: HashMap<&str, &Tensor> = tensors.iter().map(|(n, v)| (n.as_str(), v)).collect();
        let get = |name: &str| {
            by_name.get(name).map(|v| (*v).clone()).ok_or_else(|| Error::failed(format!("no variable {name}")))
        };
        let norm = |path: &str| -> Result<Norm> {
            Ok(Norm { weight: get(&format!("{path}.weight"))?, bias: Some(get(&format!("{path}.bias"))?) })
        };
        let linear = |path: &str, bias: bool| -> Result<Linear> {
            let bias = if bias { Some(get(&format!("{path}.bias"))?) } else { None };
            Ok(Linear { weight: get(&format!("{path}.weight"))?.into(), bias })
        };
        let blocks = (0..self.layers)
            .map(|l| {
                let at = |part: &str| format!("layers.{l}.{part}");
                let mlp = self.d_mlp > 0;
                Ok(Block {
                    ln1: Some(norm(&at("input_layernorm"))?),
                    attn: Attention {
                        q: linear(&at("self_attn.q_proj"), true)?,
                        k: linear(&at("self_attn.k_proj"), true)?,
                        v: linear(&at("self_attn.v_proj"), false)?,
                        o: linear(&at("self_attn.o_proj"), false)?,
                        q_norm: None,
                        k_norm: None,
                    },
                    ln1_post: None,
                    ln2: if mlp { Some(norm(&at("post_attention_layernorm"))?) } else { None },
                    mlp: if mlp {
                        let (input, output) = (linear(&at("mlp.up_proj"), true)?, linear(&at("mlp.down_proj"), true)?);
                        Some(Mlp { router: None, gate: None, input, output })
                    } else {
                        None
                    },
                    ln2_post: None,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Weights {
            embed: Some(get("embed_tokens.weight")?.into()),
            pos_embed: None,
            embed_norm: None,
            blocks,
            ln_final: Some(norm("norm")?),
            unembed: get("lm_head.weight")?.into(),
            unembed_bias: None,
        })
    }

    /// Writes config, weights and tokenizer in the format that the family's loader reads. Linear layers are [output,
    /// input], and numbers have 16 bits.
    pub fn save(&self, folder: &Path, tensors: &[(String, Tensor)], tokenizer: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let mut out: Vec<(String, Tensor)> = Vec::new();
        for (name, t) in tensors {
            let turned = name == "lm_head.weight" || name.contains("_proj.weight");
            let t = if turned { t.t()?.contiguous()? } else { t.clone() };
            // Half the size of what was trained; the loader computes in f32 again.
            let t = t.to_dtype(DType::F16)?;
            let name = if name == "lm_head.weight" { name.clone() } else { format!("model.{name}") };
            out.push((name, t));
        }
        for l in 0..self.layers {
            // The family has a bias on v; none is trained.
            let zero = Tensor::zeros(self.d_model, DType::F16, &Device::Cpu)?;
            out.push((format!("model.layers.{l}.self_attn.v_proj.bias"), zero));
        }
        let bytes = pack(out.iter().map(|(n, t)| (n.as_str(), t)), &[])?;
        write_atomic(&folder.join("model.safetensors"), &bytes)?;
        write_atomic(&folder.join("config.json"), format!("{:#}\n", self.config_json()).as_bytes())?;
        write_atomic(&folder.join("tokenizer.json"), tokenizer.as_bytes())
    }
}
