//! The weights of the block, and how they are read under the names that a family gives them.

use candle_core::{DType, Tensor};

use super::config::{ModelConfig, NormKind, Positions, QkNorm};
use super::matrix::{Matrix, Rows};
use super::store::Store;
use crate::error::{Error, Result};

/// A linear layer: y = x · weight + bias, with weight [input, output] and bias [output].
#[derive(Clone, Debug)]
pub struct Linear {
    pub weight: Matrix,
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
    /// Of each head's d_head, or of all heads' together (see `QkNorm`).
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
}

/// The weights of the MLP: `input` and `gate` [d_model, d_mlp], `output` [d_mlp, d_model]. The experts of a mixture stand
/// side by side: neuron n belongs to expert n / (d_mlp / experts).
#[derive(Clone, Debug)]
pub struct Mlp {
    /// [d_model, experts]: what chooses among the experts.
    pub router: Option<Linear>,
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
    pub embed: Option<Matrix>,
    /// [n_ctx, d_model]
    pub pos_embed: Option<Tensor>,
    pub embed_norm: Option<Norm>,
    pub blocks: Vec<Block>,
    pub ln_final: Option<Norm>,
    /// [d_model, d_vocab]
    pub unembed: Matrix,
    /// [d_vocab]
    pub unembed_bias: Option<Tensor>,
}

/// One of a model's weights.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    Matrix(&'a Matrix),
    Tensor(&'a Tensor),
}

impl Weight<'_> {
    pub fn elem_count(self) -> usize {
        match self {
            Self::Matrix(m) => m.elem_count(),
            Self::Tensor(t) => t.elem_count(),
        }
    }

    /// Returns the bytes that it takes in memory.
    pub fn bytes(self) -> usize {
        match self {
            Self::Matrix(m) => m.bytes(),
            Self::Tensor(t) => 4 * t.elem_count(),
        }
    }

    /// Returns one value in `step`, as it is read: [input, output], one input after the other.
    ///
    /// # Errors
    /// As copying.
    pub fn every(self, step: usize) -> Result<Vec<f32>> {
        match self {
            Self::Matrix(m) => m.every(step),
            Self::Tensor(t) => Matrix::from(t.clone()).every(step),
        }
    }
}

impl Weights {
    /// Returns every weight with its name: TransformerLens' name where it has one.
    pub fn named(&self) -> Vec<(String, Weight<'_>)> {
        fn linear<'a>(out: &mut Vec<(String, Weight<'a>)>, w: String, b: String, l: &'a Linear) {
            out.push((w, Weight::Matrix(&l.weight)));
            if let Some(bias) = &l.bias {
                out.push((b, Weight::Tensor(bias)));
            }
        }
        fn norm<'a>(out: &mut Vec<(String, Weight<'a>)>, name: String, n: Option<&'a Norm>) {
            if let Some(n) = n {
                out.push((format!("{name}.w"), Weight::Tensor(&n.weight)));
                if let Some(b) = &n.bias {
                    out.push((format!("{name}.b"), Weight::Tensor(b)));
                }
            }
        }
        let mut out = Vec::new();
        if let Some(e) = &self.embed {
            out.push(("embed.W_E".to_owned(), Weight::Matrix(e)));
        }
        if let Some(e) = &self.pos_embed {
            out.push(("pos_embed.W_pos".to_owned(), Weight::Tensor(e)));
        }
        norm(&mut out, "embed.ln".to_owned(), self.embed_norm.as_ref());
        for (l, b) in self.blocks.iter().enumerate() {
            let at = |s: &str| format!("blocks.{l}.{s}");
            norm(&mut out, at("ln1"), b.ln1.as_ref());
            linear(&mut out, at("attn.W_Q"), at("attn.b_Q"), &b.attn.q);
            linear(&mut out, at("attn.W_K"), at("attn.b_K"), &b.attn.k);
            linear(&mut out, at("attn.W_V"), at("attn.b_V"), &b.attn.v);
            linear(&mut out, at("attn.W_O"), at("attn.b_O"), &b.attn.o);
            norm(&mut out, at("attn.q_norm"), b.attn.q_norm.as_ref());
            norm(&mut out, at("attn.k_norm"), b.attn.k_norm.as_ref());
            norm(&mut out, at("ln1_post"), b.ln1_post.as_ref());
            norm(&mut out, at("ln2"), b.ln2.as_ref());
            if let Some(m) = &b.mlp {
                if let Some(r) = &m.router {
                    linear(&mut out, at("mlp.W_router"), at("mlp.b_router"), r);
                }
                if let Some(g) = &m.gate {
                    linear(&mut out, at("mlp.W_gate"), at("mlp.b_gate"), g);
                }
                linear(&mut out, at("mlp.W_in"), at("mlp.b_in"), &m.input);
                linear(&mut out, at("mlp.W_out"), at("mlp.b_out"), &m.output);
            }
            norm(&mut out, at("ln2_post"), b.ln2_post.as_ref());
        }
        norm(&mut out, "ln_final".to_owned(), self.ln_final.as_ref());
        out.push(("unembed.W_U".to_owned(), Weight::Matrix(&self.unembed)));
        if let Some(b) = &self.unembed_bias {
            out.push(("unembed.b_U".to_owned(), Weight::Tensor(b)));
        }
        out
    }

    /// Returns the number of parameters. A tied embedding counts once.
    pub fn n_params(&self) -> usize {
        self.named().iter().map(|(_, w)| w.elem_count()).sum()
    }

    /// Returns the bytes that they take in memory.
    pub fn bytes(&self) -> usize {
        self.named().iter().map(|(_, w)| w.bytes()).sum()
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
    pub ln_final: Option<&'static str>,
    /// Where the embedding is narrower than the stream: its width, the layer that widens it and the one that narrows the
    /// stream for it again (OPT-350m). Both are folded into embedding and unembedding.
    pub projection: Option<(usize, &'static str, &'static str)>,
    /// The full path; no prefix is put before it.
    pub unembed: &'static str,
    pub unembed_bias: bool,
    /// What the norms store.
    pub gains: Gains,
    /// True where LayerNorms store an offset too.
    pub norm_bias: bool,
    /// True where linear weights are stored as [input, output] (GPT-2's Conv1D).
    pub conv1d: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gains {
    /// The gain itself.
    Plain,
    /// The gain less 1 (Gemma, Nemotron).
    LessOne,
    /// Nothing: the gain is 1 (OLMo 1).
    None,
}

#[derive(Clone, Copy, Debug)]
pub enum Qkv {
    Separate(&'static str, &'static str, &'static str),
    /// One weight holds all of q, then k, then v.
    Stacked(&'static str),
    /// One weight holds for each KV head the queries that read it, its k and its v.
    Grouped(&'static str),
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
    /// A router, and for each expert a weight of its own, whose number stands for `{e}`.
    Experts {
        router: &'static str,
        gate: &'static str,
        input: &'static str,
        output: &'static str,
    },
    /// A router, and tensors of three axes that hold one matrix for each expert.
    StackedExperts {
        router: &'static str,
        gate: &'static str,
        input: &'static str,
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
    ln_final: Some("norm"),
    projection: None,
    unembed: "lm_head",
    unembed_bias: false,
    gains: Gains::Plain,
    norm_bias: true,
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
            self.store.rows(&name, input, output, false)?
        } else {
            self.store.rows(&name, output, input, true)?
        };
        let weight = weight.into();
        let bias = if bias { Some(self.store.vector(&format!("{path}.bias"), output)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// Reads a layer that writes to the residual stream.
    fn writer(&self, path: &str, input: usize, bias: bool) -> Result<Linear> {
        let layer = self.linear(path, input, self.config.d_model, bias)?;
        let scale = self.config.residual_scale;
        Ok(Linear { weight: layer.weight.scaled(scale)?, bias: layer.bias.map(|b| scaled(b, scale)).transpose()? })
    }

    fn norm(&self, path: &str, d: usize) -> Result<Norm> {
        let weight = match self.names.gains {
            Gains::Plain => self.store.vector(&format!("{path}.weight"), d)?,
            Gains::LessOne => (self.store.vector(&format!("{path}.weight"), d)? + 1.0)?,
            Gains::None => Tensor::ones(d, DType::F32, self.store.device())?,
        };
        let has_bias = matches!(self.config.norm, NormKind::Layer { .. })
            && self.names.norm_bias
            && self.names.gains != Gains::None;
        let bias = if has_bias { Some(self.store.vector(&format!("{path}.bias"), d)?) } else { None };
        Ok(Norm { weight, bias })
    }

    fn optional_norm(&self, layer: &str, path: Option<&str>) -> Result<Option<Norm>> {
        path.map(|p| self.norm(&format!("{layer}{p}"), self.config.d_model)).transpose()
    }

    /// Cuts a stacked layer [input, ..] along its columns into layers of the given widths.
    fn cut<const N: usize>(stacked: &Linear, widths: [usize; N]) -> Result<[Linear; N]> {
        let mut at = 0;
        let parts = widths.map(|w| {
            // The parts share the memory of the whole; together they use all of it.
            let weight = stacked.weight.narrow(1, at, w)?;
            let bias = stacked.bias.as_ref().map(|b| b.narrow(0, at, w)?.force_contiguous()).transpose()?;
            at += w;
            Ok(Linear { weight, bias })
        });
        collected(parts)
    }

    /// Parts a layer whose columns hold for each KV head `shares` heads of q, one of k and one of v.
    fn grouped(&self, all: &Linear) -> Result<[Linear; 3]> {
        let c = self.config;
        let (groups, d) = (c.n_kv_heads, c.d_head);
        let shares = c.n_heads / groups;
        let part = |from: usize, n: usize| -> Result<Linear> {
            let outputs: Vec<u32> =
                (0..groups).flat_map(|g| (0..n * d).map(move |i| ((g * (shares + 2) + from) * d + i) as u32)).collect();
            let bias = all.bias.as_ref().map(|b| {
                b.reshape((groups, shares + 2, d))?.narrow(1, from, n)?.force_contiguous()?.reshape(groups * n * d)
            });
            Ok(Linear { weight: all.weight.gathered(&outputs)?, bias: bias.transpose()? })
        };
        Ok([part(0, shares)?, part(shares, 1)?, part(shares + 1, 1)?])
    }

    fn attention(&self, layer: &str) -> Result<Attention> {
        let c = self.config;
        let (d, q_width, kv_width) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
        let bias = self.names.qkv_bias;
        let [q, k, v] = match self.names.qkv {
            Qkv::Separate(q, k, v) => [
                self.linear(&format!("{layer}{q}"), d, q_width, bias)?,
                self.linear(&format!("{layer}{k}"), d, kv_width, bias)?,
                self.linear(&format!("{layer}{v}"), d, kv_width, bias)?,
            ],
            Qkv::Stacked(name) => {
                let all = self.linear(&format!("{layer}{name}"), d, q_width + 2 * kv_width, bias)?;
                Self::cut(&all, [q_width, kv_width, kv_width])?
            }
            Qkv::Grouped(name) => {
                self.grouped(&self.linear(&format!("{layer}{name}"), d, q_width + 2 * kv_width, bias)?)?
            }
        };
        let o = self.writer(&format!("{layer}{}", self.names.o), q_width, self.names.o_bias)?;
        let qk_norm = |name: Option<&str>, heads: usize| -> Result<Option<Norm>> {
            let Some(path) = name.map(|n| format!("{layer}{n}")) else { return Ok(None) };
            match c.qk_norm {
                QkNorm::None => Ok(None),
                QkNorm::PerHead => self.norm(&path, c.d_head).map(Some),
                QkNorm::FullWidth => self.norm(&path, heads * c.d_head).map(Some),
                QkNorm::OwnGains => self.own_gains(&path, heads).map(Some),
            }
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

    /// The gains [heads · d_head] of norms that every head has for itself: one tensor [heads, d_head], or one for each
    /// head (StableLM).
    fn own_gains(&self, path: &str, heads: usize) -> Result<Norm> {
        let d = self.config.d_head;
        let whole = format!("{path}.weight");
        let weight = if self.store.contains(&whole) {
            self.store.matrix(&whole, heads, d)?.flatten_all()?
        } else {
            let each = (0..heads).map(|h| self.store.vector(&format!("{path}.norms.{h}.weight"), d));
            Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?
        };
        Ok(Norm { weight, bias: None })
    }

    fn mlp(&self, layer: &str) -> Result<Option<Mlp>> {
        let (d, m, bias) = (self.config.d_model, self.config.d_mlp, self.names.mlp_bias);
        if m == 0 {
            return Ok(None);
        }
        let at = |name: &str| format!("{layer}{name}");
        Ok(Some(match self.names.mlp {
            MlpNames::Plain { input, output } => Mlp {
                router: None,
                gate: None,
                input: self.linear(&at(input), d, m, bias)?,
                output: self.writer(&at(output), m, bias)?,
            },
            MlpNames::Gated { gate, input, output } => Mlp {
                router: None,
                gate: Some(self.linear(&at(gate), d, m, bias)?),
                input: self.linear(&at(input), d, m, bias)?,
                output: self.writer(&at(output), m, bias)?,
            },
            MlpNames::StackedGate { both, output } => {
                let [gate, input] = Self::cut(&self.linear(&at(both), d, 2 * m, bias)?, [m, m])?;
                Mlp { router: None, gate: Some(gate), input, output: self.writer(&at(output), m, bias)? }
            }
            MlpNames::Experts { router, gate, input, output } => {
                let each = |name: &str, input: usize, output: usize| -> Result<Rows> {
                    let path = |e: usize| at(&format!("{}.weight", name.replace("{e}", &e.to_string())));
                    let one = |e| self.store.rows(&path(e), output, input, true);
                    Rows::stacked(&(0..self.experts()).map(one).collect::<Result<Vec<_>>>()?)
                };
                let width = m / self.experts();
                Mlp {
                    router: Some(self.linear(&at(router), d, self.experts(), false)?),
                    gate: Some(bare(each(gate, d, width)?)),
                    input: bare(each(input, d, width)?),
                    output: bare(each(output, width, d)?.grouped(self.experts())),
                }
            }
            MlpNames::StackedExperts { router, gate, input, output } => {
                let (n, width) = (self.experts(), m / self.experts());
                // Stored [expert, d_mlp, d_model] and, the output, [expert, d_model, d_mlp].
                let read = |name: &str, shape| self.store.experts(&at(&format!("{name}.weight")), shape);
                let output = Matrix::from(read(output, [n, d, width])?.grouped(n));
                Mlp {
                    router: Some(self.linear(&at(router), d, n, false)?),
                    gate: Some(bare(read(gate, [n, width, d])?)),
                    input: bare(read(input, [n, width, d])?),
                    output: Linear { weight: output.scaled(self.config.residual_scale)?, bias: None },
                }
            }
        }))
    }

    fn experts(&self) -> usize {
        self.config.experts.map_or(1, |e| e.count.max(1))
    }

    /// The embedding [d_vocab, d_model] (`None` where it is the unembedding's transpose) and the unembedding [d_model,
    /// d_vocab]. The largest tensor is read first: the extra memory for reading it is free again before the rest is read.
    fn embeddings(&self, embed: &str, unembed: &str) -> Result<(Option<Matrix>, Matrix)> {
        let (d, vocab) = (self.config.d_model, self.config.d_vocab);
        let read = |name: &str, by_output| Ok::<_, Error>(Matrix::from(self.store.rows(name, vocab, d, by_output)?));
        let scale = self.config.unembed_scale;
        if self.config.tied_embeddings && !(self.store.contains(unembed) && self.differ(embed, unembed)?) {
            return Ok((None, read(embed, true)?.scaled(scale)?));
        }
        let unembed = read(unembed, true)?.scaled(scale)?;
        Ok((Some(read(embed, false)?), unembed))
    }

    /// Embedding and unembedding of a narrower table [d_vocab, width], through the layers that widen and narrow it.
    fn projected(
        &self,
        prefix: &str,
        embed: &str,
        (width, widen, narrow): (usize, &str, &str),
    ) -> Result<(Option<Matrix>, Matrix)> {
        let (d, vocab) = (self.config.d_model, self.config.d_vocab);
        let table = self.store.matrix(embed, vocab, width)?;
        let widen = self.store.linear(&format!("{prefix}{widen}.weight"), width, d)?;
        let narrow = self.store.linear(&format!("{prefix}{narrow}.weight"), d, width)?;
        Ok((Some(table.matmul(&widen)?.into()), narrow.matmul(&table.t()?)?.into()))
    }

    /// True where a file that calls its embeddings tied holds an unembedding of its own that is another one. Such a file
    /// is saved by mistake, and transformers 5 uses what it holds.
    fn differ(&self, embed: &str, unembed: &str) -> Result<bool> {
        let (d, vocab) = (self.config.d_model, self.config.d_vocab);
        let differ = self.store.differ(embed, unembed, &[vocab, d])?;
        if differ {
            self.store.warn(format!(
                "The config says that embedding and unembedding are one, but `{unembed}` differs from `{embed}`; it is \
                 used as transformers 5 does, where transformers 4 would ignore it."
            ));
        }
        Ok(differ)
    }
}

/// A layer without a bias.
fn bare(weight: Rows) -> Linear {
    Linear { weight: weight.into(), bias: None }
}

fn scaled(t: Tensor, scale: f32) -> Result<Tensor> {
    Ok(if (scale - 1.0).abs() > f32::EPSILON { (t * f64::from(scale))? } else { t })
}

fn collected<const N: usize>(parts: [Result<Linear>; N]) -> Result<[Linear; N]> {
    let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
    parts.try_into().map_err(|_| Error::failed("a stacked projection did not divide into its parts"))
}

/// Reads all weights of a model by its family's names.
///
/// # Errors
/// A tensor is missing, has another shape, or holds NaN. The message names it.
pub fn read(config: &ModelConfig, names: &Names, store: &Store) -> Result<Weights> {
    let reader = Reader { config, names, store };
    let (d, vocab) = (config.d_model, config.d_vocab);
    let embed_name = format!("{}.weight", names.embed);
    let (module, prefix) = store.place(names.prefixes, &embed_name);
    let prefix = &format!("{module}{prefix}");
    // The unembedding of a part of a larger model lies in it or beside it.
    let unembed_path = [module, ""].map(|m| format!("{m}{}", names.unembed));
    let unembed_path = unembed_path.iter().find(|p| store.contains(&format!("{p}.weight"))).unwrap_or(&unembed_path[1]);
    let embed_path = format!("{prefix}{embed_name}");
    let (embed, unembed) = match names.projection {
        Some(projection) => reader.projected(prefix, &embed_path, projection)?,
        None => reader.embeddings(&embed_path, &format!("{unembed_path}.weight"))?,
    };
    let unembed_bias =
        if names.unembed_bias { Some(store.vector(&format!("{unembed_path}.bias"), vocab)?) } else { None };
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
    let ln_final = reader.optional_norm(prefix, names.ln_final)?;
    Ok(Weights { embed, pos_embed, embed_norm, blocks, ln_final, unembed, unembed_bias })
}
