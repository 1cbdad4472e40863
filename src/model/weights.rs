//! The weights of the block, and how they are read under the names that a family gives them.

use candle_core::Tensor;

use super::config::{ModelConfig, NormKind, Positions};
use super::store::Store;
use crate::error::Result;

/// A linear layer: y = x · weight + bias, with weight [input, output] and bias [output].
#[derive(Clone, Debug)]
pub struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

/// The gain and the offset of a norm, each [d].
#[derive(Clone, Debug)]
pub struct Norm {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

/// The weights of attention: q [d_model, n_heads · d_head]; k, v [d_model, n_kv_heads · d_head]; o [n_heads · d_head,
/// d_model].
#[derive(Clone, Debug)]
pub struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    pub q_norm: Option<Tensor>,
    pub k_norm: Option<Tensor>,
}

/// The weights of the MLP: `input` and `gate` [d_model, d_mlp], `output` [d_mlp, d_model].
#[derive(Clone, Debug)]
pub struct Mlp {
    pub gate: Option<Linear>,
    pub input: Linear,
    pub output: Linear,
}

#[derive(Clone, Debug)]
pub struct Block {
    pub ln1: Option<Norm>,
    pub attn: Attention,
    /// The norm of attention's output, before it is added to the residual stream.
    pub ln1_post: Option<Norm>,
    pub ln2: Option<Norm>,
    pub mlp: Option<Mlp>,
    pub ln2_post: Option<Norm>,
}

#[derive(Clone, Debug)]
pub struct Weights {
    /// [d_vocab, d_model]; `None` where it is the transposed unembedding, which is kept once.
    pub embed: Option<Tensor>,
    /// [n_ctx, d_model]
    pub pos_embed: Option<Tensor>,
    pub embed_norm: Option<Norm>,
    pub blocks: Vec<Block>,
    pub ln_final: Option<Norm>,
    /// [d_model, d_vocab]
    pub unembed: Tensor,
    /// [d_vocab]
    pub unembed_bias: Option<Tensor>,
}

impl Weights {
    /// Returns every tensor with its name: TransformerLens' name where it has one.
    pub fn named(&self) -> Vec<(String, &Tensor)> {
        fn linear<'a>(out: &mut Vec<(String, &'a Tensor)>, w: String, b: String, l: &'a Linear) {
            out.push((w, &l.weight));
            if let Some(bias) = &l.bias {
                out.push((b, bias));
            }
        }
        fn norm<'a>(out: &mut Vec<(String, &'a Tensor)>, name: String, n: Option<&'a Norm>) {
            if let Some(n) = n {
                out.push((format!("{name}.w"), &n.weight));
                if let Some(b) = &n.bias {
                    out.push((format!("{name}.b"), b));
                }
            }
        }
        let mut out = Vec::new();
        if let Some(e) = &self.embed {
            out.push(("embed.W_E".to_owned(), e));
        }
        if let Some(e) = &self.pos_embed {
            out.push(("pos_embed.W_pos".to_owned(), e));
        }
        norm(&mut out, "embed.ln".to_owned(), self.embed_norm.as_ref());
        for (l, b) in self.blocks.iter().enumerate() {
            let at = |s: &str| format!("blocks.{l}.{s}");
            norm(&mut out, at("ln1"), b.ln1.as_ref());
            linear(&mut out, at("attn.W_Q"), at("attn.b_Q"), &b.attn.q);
            linear(&mut out, at("attn.W_K"), at("attn.b_K"), &b.attn.k);
            linear(&mut out, at("attn.W_V"), at("attn.b_V"), &b.attn.v);
            linear(&mut out, at("attn.W_O"), at("attn.b_O"), &b.attn.o);
            for (name, n) in [("attn.q_norm.w", &b.attn.q_norm), ("attn.k_norm.w", &b.attn.k_norm)] {
                if let Some(n) = n {
                    out.push((at(name), n));
                }
            }
            norm(&mut out, at("ln1_post"), b.ln1_post.as_ref());
            norm(&mut out, at("ln2"), b.ln2.as_ref());
            if let Some(m) = &b.mlp {
                if let Some(g) = &m.gate {
                    linear(&mut out, at("mlp.W_gate"), at("mlp.b_gate"), g);
                }
                linear(&mut out, at("mlp.W_in"), at("mlp.b_in"), &m.input);
                linear(&mut out, at("mlp.W_out"), at("mlp.b_out"), &m.output);
            }
            norm(&mut out, at("ln2_post"), b.ln2_post.as_ref());
        }
        norm(&mut out, "ln_final".to_owned(), self.ln_final.as_ref());
        out.push(("unembed.W_U".to_owned(), &self.unembed));
        if let Some(b) = &self.unembed_bias {
            out.push(("unembed.b_U".to_owned(), b));
        }
        out
    }

    /// Returns the number of parameters. A tied embedding counts once.
    pub fn n_params(&self) -> usize {
        self.named().iter().map(|(_, t)| t.elem_count()).sum()
    }
}

/// The names that a family gives its tensors. Paths are relative to one layer unless said otherwise.
#[derive(Clone, Debug)]
pub struct Names {
    /// The outer modules under which a model may have been saved; the first is the usual one.
    pub prefixes: &'static [&'static str],
    pub embed: &'static str,
    pub pos_embed: Option<&'static str>,
    /// Number of rows at the start of the position table that are never used (2 for OPT).
    pub pos_offset: usize,
    pub embed_norm: Option<&'static str>,
    pub layers: &'static str,
    pub ln1: Option<&'static str>,
    pub ln1_post: Option<&'static str>,
    pub ln2: Option<&'static str>,
    pub ln2_post: Option<&'static str>,
    pub qkv: Qkv,
    pub qkv_bias: bool,
    pub o: &'static str,
    pub o_bias: bool,
    pub q_norm: Option<&'static str>,
    pub k_norm: Option<&'static str>,
    pub mlp: MlpNames,
    pub mlp_bias: bool,
    pub ln_final: &'static str,
    /// The full path; no prefix is put before it.
    pub unembed: &'static str,
    pub unembed_bias: bool,
    /// True where gains are stored as w − 1 (Gemma).
    pub gain_plus_one: bool,
    /// True where linear weights are stored as [input, output] (GPT-2's Conv1D).
    pub conv1d: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Qkv {
    Separate(&'static str, &'static str, &'static str),
    /// One weight holds all of q, then k, then v.
    Stacked(&'static str),
    /// One weight holds for each head its q, k and v.
    PerHead(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub enum MlpNames {
    Plain {
        input: &'static str,
        output: &'static str,
    },
    Gated {
        gate: &'static str,
        input: &'static str,
        output: &'static str,
    },
    /// One weight holds gate and input, gate first.
    StackedGate {
        both: &'static str,
        output: &'static str,
    },
}

/// Returns Llama's names. Most families differ from them in a few.
pub const LLAMA: Names = Names {
    prefixes: &["model.", ""],
    embed: "embed_tokens",
    pos_embed: None,
    pos_offset: 0,
    embed_norm: None,
    layers: "layers",
    ln1: Some("input_layernorm"),
    ln1_post: None,
    ln2: Some("post_attention_layernorm"),
    ln2_post: None,
    qkv: Qkv::Separate("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    qkv_bias: false,
    o: "self_attn.o_proj",
    o_bias: false,
    q_norm: None,
    k_norm: None,
    mlp: MlpNames::Gated { gate: "mlp.gate_proj", input: "mlp.up_proj", output: "mlp.down_proj" },
    mlp_bias: false,
    ln_final: "norm",
    unembed: "lm_head",
    unembed_bias: false,
    gain_plus_one: false,
    conv1d: false,
};

struct Reader<'a> {
    config: &'a ModelConfig,
    names: &'a Names,
    store: &'a Store,
}

impl Reader<'_> {
    fn linear(&self, path: &str, input: usize, output: usize, bias: bool) -> Result<Linear> {
        let name = format!("{path}.weight");
        let weight = if self.names.conv1d {
            self.store.matrix(&name, input, output)?
        } else {
            self.store.linear(&name, input, output)?
        };
        let bias = if bias { Some(self.store.vector(&format!("{path}.bias"), output)?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn gain(&self, name: &str, d: usize) -> Result<Tensor> {
        let w = self.store.vector(name, d)?;
        Ok(if self.names.gain_plus_one { (w + 1.0)? } else { w })
    }

    fn norm(&self, path: &str, d: usize) -> Result<Norm> {
        let weight = self.gain(&format!("{path}.weight"), d)?;
        let bias = match self.config.norm {
            NormKind::Rms { .. } => None,
            NormKind::Layer { .. } => Some(self.store.vector(&format!("{path}.bias"), d)?),
        };
        Ok(Norm { weight, bias })
    }

    fn optional_norm(&self, layer: &str, path: Option<&str>) -> Result<Option<Norm>> {
        path.map(|p| self.norm(&format!("{layer}{p}"), self.config.d_model)).transpose()
    }

    /// Cuts a stacked layer [input, ..] along its columns into layers of the given widths.
    fn cut(stacked: &Linear, widths: &[usize]) -> Result<Vec<Linear>> {
        let mut at = 0;
        widths
            .iter()
            .map(|&w| {
                // The part is copied, because a view would keep the whole parent in memory.
                let weight = stacked.weight.narrow(1, at, w)?.force_contiguous()?;
                let bias = stacked.bias.as_ref().map(|b| b.narrow(0, at, w)?.force_contiguous()).transpose()?;
                at += w;
                Ok(Linear { weight, bias })
            })
            .collect()
    }

    fn attention(&self, layer: &str) -> Result<Attention> {
        let c = self.config;
        let (d, q_width, kv_width) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
        let bias = self.names.qkv_bias;
        let (q, k, v) = match self.names.qkv {
            Qkv::Separate(q, k, v) => (
                self.linear(&format!("{layer}{q}"), d, q_width, bias)?,
                self.linear(&format!("{layer}{k}"), d, kv_width, bias)?,
                self.linear(&format!("{layer}{v}"), d, kv_width, bias)?,
            ),
            Qkv::Stacked(name) => {
                let all = self.linear(&format!("{layer}{name}"), d, q_width + 2 * kv_width, bias)?;
                let mut parts = Self::cut(&all, &[q_width, kv_width, kv_width])?.into_iter();
                next3(&mut parts)?
            }
            Qkv::PerHead(name) => {
                let all = self.linear(&format!("{layer}{name}"), d, 3 * q_width, bias)?;
                let weight = all.weight.reshape((d, c.n_heads, 3, c.d_head))?;
                let bias = all.bias.as_ref().map(|b| b.reshape((c.n_heads, 3, c.d_head))).transpose()?;
                let mut parts = (0..3)
                    .map(|i| {
                        Ok(Linear {
                            weight: weight.narrow(2, i, 1)?.force_contiguous()?.reshape((d, q_width))?,
                            bias: bias
                                .as_ref()
                                .map(|b| b.narrow(1, i, 1)?.force_contiguous()?.reshape(q_width))
                                .transpose()?,
                        })
                    })
                    .collect::<Result<Vec<_>>>()?
                    .into_iter();
                next3(&mut parts)?
            }
        };
        let o = self.linear(&format!("{layer}{}", self.names.o), q_width, d, self.names.o_bias)?;
        let qk_norm = |name: Option<&str>, heads: usize| -> Result<Option<Tensor>> {
            let width = match c.qk_norm {
                super::config::QkNorm::None => return Ok(None),
                super::config::QkNorm::PerHead => c.d_head,
                super::config::QkNorm::FullWidth => heads * c.d_head,
            };
            name.map(|n| self.gain(&format!("{layer}{n}.weight"), width)).transpose()
        };
        Ok(Attention {
            q,
            k,
            v,
            o,
            q_norm: qk_norm(self.names.q_norm, c.n_heads)?,
            k_norm: qk_norm(self.names.k_norm, c.n_kv_heads)?,
        })
    }

    fn mlp(&self, layer: &str) -> Result<Option<Mlp>> {
        let (d, m, bias) = (self.config.d_model, self.config.d_mlp, self.names.mlp_bias);
        if m == 0 {
            return Ok(None);
        }
        let at = |name: &str| format!("{layer}{name}");
        Ok(Some(match self.names.mlp {
            MlpNames::Plain { input, output } => Mlp {
                gate: None,
                input: self.linear(&at(input), d, m, bias)?,
                output: self.linear(&at(output), m, d, bias)?,
            },
            MlpNames::Gated { gate, input, output } => Mlp {
                gate: Some(self.linear(&at(gate), d, m, bias)?),
                input: self.linear(&at(input), d, m, bias)?,
                output: self.linear(&at(output), m, d, bias)?,
            },
            MlpNames::StackedGate { both, output } => {
                let all = self.linear(&at(both), d, 2 * m, bias)?;
                let mut parts = Self::cut(&all, &[m, m])?;
                let input = parts.pop();
                let gate = parts.pop();
                match (gate, input) {
                    (Some(gate), Some(input)) => {
                        Mlp { gate: Some(gate), input, output: self.linear(&at(output), m, d, bias)? }
                    }
                    _ => return Ok(None),
                }
            }
        }))
    }
}

fn next3(parts: &mut impl Iterator<Item = Linear>) -> Result<(Linear, Linear, Linear)> {
    match (parts.next(), parts.next(), parts.next()) {
        (Some(a), Some(b), Some(c)) => Ok((a, b, c)),
        _ => Err(crate::error::Error::failed("a stacked projection did not divide into three")),
    }
}

/// Reads all weights of a model by its family's names.
///
/// # Errors
/// A tensor is missing, has another shape, or holds NaN. The message names it.
pub fn read(config: &ModelConfig, names: &Names, store: &Store) -> Result<Weights> {
    let reader = Reader { config, names, store };
    let (d, vocab) = (config.d_model, config.d_vocab);
    let embed_name = format!("{}.weight", names.embed);
    let prefix = store.prefix(names.prefixes, &embed_name);
    let embed_path = format!("{prefix}{embed_name}");
    // The largest tensor is read first: the extra memory for reading it is free again before the rest is read.
    let (embed, unembed) = if config.tied_embeddings {
        (None, store.linear(&embed_path, d, vocab)?)
    } else {
        let unembed = store.linear(&format!("{}.weight", names.unembed), d, vocab)?;
        (Some(store.matrix(&embed_path, vocab, d)?), unembed)
    };
    let unembed_bias =
        if names.unembed_bias { Some(store.vector(&format!("{}.bias", names.unembed), vocab)?) } else { None };
    let pos_embed = match (&config.positions, names.pos_embed) {
        (Positions::Learned, Some(name)) => {
            let rows = config.n_ctx + names.pos_offset;
            let table = store.matrix(&format!("{prefix}{name}.weight"), rows, d)?;
            Some(table.narrow(0, names.pos_offset, config.n_ctx)?.contiguous()?)
        }
        _ => None,
    };
    let embed_norm = reader.optional_norm(prefix, names.embed_norm)?;
    let blocks = (0..config.n_layers)
        .map(|l| {
            let layer = format!("{prefix}{}.{l}.", names.layers);
            Ok(Block {
                ln1: reader.optional_norm(&layer, names.ln1)?,
                attn: reader.attention(&layer)?,
                ln1_post: reader.optional_norm(&layer, names.ln1_post)?,
                ln2: if config.has_mlp() { reader.optional_norm(&layer, names.ln2)? } else { None },
                mlp: reader.mlp(&layer)?,
                ln2_post: if config.has_mlp() { reader.optional_norm(&layer, names.ln2_post)? } else { None },
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let ln_final = Some(reader.norm(&format!("{prefix}{}", names.ln_final), d)?);
    Ok(Weights { embed, pos_embed, embed_norm, blocks, ln_final, unembed, unembed_bias })
}
