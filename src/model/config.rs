//! The one decoder block that the engine computes, as options: norms, positions, attention, MLP, caps. A family's file
//! maps a Hugging Face config onto these options.

use serde::Serialize;

/// The shapes of a model and the options of its block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    pub name: String,
    /// Registry name of the family (`llama`, `gpt2`, …).
    pub family: String,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub d_model: usize,
    pub d_head: usize,
    /// Width of the MLP; 0 for attention-only models.
    pub d_mlp: usize,
    pub d_vocab: usize,
    /// The longest prompt that the model was made for, in tokens.
    pub n_ctx: usize,
    pub norm: NormKind,
    pub norm_placement: NormPlacement,
    pub positions: Positions,
    pub activation: Activation,
    /// `post = act(pre) * pre_linear` rather than `act(pre)`.
    pub gated_mlp: bool,
    pub parallel: Parallel,
    /// Attention scores are `q · k` times this, per layer.
    pub attn_scale: Vec<f32>,
    pub qk_norm: QkNorm,
    /// Scores become `cap * tanh(scores / cap)` before the mask.
    pub attn_softcap: Option<f32>,
    /// Logits become `cap * tanh(logits / cap)`.
    pub final_softcap: Option<f32>,
    /// Per layer: a query sees only the last `window` positions, its own included.
    pub window: Vec<Option<usize>>,
    /// The embedding is multiplied by this.
    pub embed_scale: f32,
    pub tied_embeddings: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum NormKind {
    /// x / sqrt(mean(x²) + eps) · w
    Rms { eps: f32 },
    /// (x − mean) / sqrt(var + eps) · w + b
    Layer { eps: f32 },
}

/// The places where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum NormPlacement {
    /// The inputs of attention and MLP.
    Pre,
    /// The outputs of attention and MLP, before they are added to the residual stream (OLMo 2).
    Post,
    /// Inputs and outputs (Gemma 2 and 3).
    Sandwich,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Parallel {
    /// Attention first; the MLP reads the stream with attention's output.
    Sequential,
    /// Attention and MLP read the same residual stream through the same norm (GPT-J, Phi).
    SharedNorm,
    /// Attention and MLP read the same residual stream, each through its own norm (GPT-NeoX).
    OwnNorms,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Positions {
    None,
    /// A learned row for each position, added to the embedding.
    Learned,
    /// A rotation of q and k, one entry for each layer.
    Rotary(Vec<Rotary>),
    /// A bias on the scores that falls linearly with distance, with one slope for each head (BLOOM).
    Alibi,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotary {
    /// The first `dims` of each head's d_head are rotated.
    pub dims: usize,
    pub base: f64,
    pub style: RotaryStyle,
    pub scaling: RotaryScaling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RotaryStyle {
    /// Dimension i turns with i + dims/2 (Llama, NeoX).
    Half,
    /// Dimension 2i turns with 2i + 1 (GPT-J).
    Adjacent,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum RotaryScaling {
    None,
    Linear {
        factor: f64,
    },
    /// Llama 3's: long wavelengths are slowed by `factor`, short ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
}

impl Rotary {
    /// The turning speed of each pair, in radians for each position; length dims/2.
    pub fn frequencies(&self) -> Vec<f64> {
        (0..self.dims / 2)
            .map(|i| {
                let f = self.base.powf(-2.0 * i as f64 / self.dims as f64);
                match self.scaling {
                    RotaryScaling::None => f,
                    RotaryScaling::Linear { factor } => f / factor,
                    RotaryScaling::Llama3 { factor, low, high, original } => {
                        let wavelength = 2.0 * std::f64::consts::PI / f;
                        if wavelength > original / low {
                            f / factor
                        } else if wavelength < original / high {
                            f
                        } else {
                            let smooth = (original / wavelength - low) / (high - low);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    }
                }
            })
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Activation {
    Silu,
    /// The tanh approximation: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
    /// x · Φ(x), exactly.
    Gelu,
    Relu,
}

impl Activation {
    /// Reads the name in a Hugging Face config.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "gelu" => Self::Gelu,
            "relu" => Self::Relu,
            _ => return None,
        })
    }
}

/// Normalisation of queries and keys before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum QkNorm {
    None,
    /// The d_head values of each head by themselves (Qwen 3, Gemma 3).
    PerHead,
    /// The values of all heads together (OLMo 2).
    FullWidth,
}

impl ModelConfig {
    /// Returns a sequential pre-norm decoder without positions, windows, caps or biases, with all layers alike. A
    /// family changes the options in which it differs.
    pub fn plain(family: &str, shape: Shape, norm: NormKind) -> Self {
        let Shape { n_layers, n_heads, n_kv_heads, d_model, d_head, d_mlp, d_vocab, n_ctx } = shape;
        Self {
            name: family.to_owned(),
            family: family.to_owned(),
            n_layers,
            n_heads,
            n_kv_heads,
            d_model,
            d_head,
            d_mlp,
            d_vocab,
            n_ctx,
            norm,
            norm_placement: NormPlacement::Pre,
            positions: Positions::None,
            activation: Activation::Silu,
            gated_mlp: false,
            parallel: Parallel::Sequential,
            attn_scale: vec![(d_head as f32).sqrt().recip(); n_layers],
            qk_norm: QkNorm::None,
            attn_softcap: None,
            final_softcap: None,
            window: vec![None; n_layers],
            embed_scale: 1.0,
            tied_embeddings: false,
        }
    }

    /// Returns the KV head that query head `head` reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head * self.n_kv_heads / self.n_heads
    }

    pub fn has_mlp(&self) -> bool {
        self.d_mlp > 0
    }

    /// True where the final norm subtracts the mean, so that a direction is read without its mean.
    pub fn centres(&self) -> bool {
        matches!(self.norm, NormKind::Layer { .. })
    }

    /// Returns ALiBi's slope for each head, as in BLOOM: powers of 2^(−8/n) for the largest power of two n ≤ n_heads,
    /// then the odd powers of its half step.
    pub fn alibi_slopes(&self) -> Option<Vec<f32>> {
        if self.positions != Positions::Alibi {
            return None;
        }
        let n = 1usize << self.n_heads.ilog2();
        let base = 2f64.powf(-8.0 / n as f64);
        let extra = 2f64.powf(-4.0 / n as f64);
        let slopes = (1..=n).map(|i| base.powi(i as i32));
        let rest = (0..self.n_heads - n).map(|i| extra.powi(2 * i as i32 + 1));
        Some(slopes.chain(rest).map(|s| s as f32).collect())
    }
}

/// The sizes that every family's config holds.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub d_model: usize,
    pub d_head: usize,
    pub d_mlp: usize,
    pub d_vocab: usize,
    pub n_ctx: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alibi_slopes_as_in_the_paper() {
        let shape =
            Shape { n_layers: 1, n_heads: 8, n_kv_heads: 8, d_model: 8, d_head: 1, d_mlp: 0, d_vocab: 2, n_ctx: 8 };
        let mut config = ModelConfig::plain("bloom", shape, NormKind::Layer { eps: 1e-5 });
        config.positions = Positions::Alibi;
        let slopes = config.alibi_slopes().unwrap();
        for (i, s) in slopes.iter().enumerate() {
            assert!((s - 0.5f32.powi(i as i32 + 1)).abs() < 1e-7);
        }
    }

    #[test]
    fn frequencies_of_four_dims() {
        let rotary = Rotary { dims: 4, base: 100.0, style: RotaryStyle::Half, scaling: RotaryScaling::None };
        // base^0 = 1 and 100^(-2/4) = 0.1
        let f = rotary.frequencies();
        assert!((f[0] - 1.0).abs() < 1e-12 && (f[1] - 0.1).abs() < 1e-12);
    }
}
