//! The one decoder block that the engine computes, as options: norms, positions, attention, MLP, caps. A family's file
//! maps a Hugging Face config onto these options.

use serde::Serialize;

use super::rotary::Rotary;
use crate::error::{Error, Result};

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
    /// What attention and MLP write is multiplied by this; it is folded into the weights that write (Granite).
    pub residual_scale: f32,
    /// The logits are multiplied by this; it is folded into the unembedding (Granite, Command R).
    pub unembed_scale: f32,
    /// The experts of every MLP, where it is a mixture. Then d_mlp counts the neurons of all experts.
    pub experts: Option<Experts>,
    pub tied_embeddings: bool,
}

/// A mixture of experts: each position is computed by a few MLPs that a router chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Experts {
    pub count: usize,
    /// How many of them a position uses: those of the highest probability.
    pub used: usize,
    /// The probabilities of the used ones are divided by their sum.
    pub renormalise: bool,
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
    /// The residual stream itself, after attention and MLP have been added to it (OPT-350m).
    Stream,
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
    /// A rotation of q and k, one entry for each layer; `None` for layers that know no positions (SmolLM3).
    Rotary(Vec<Option<Rotary>>),
    /// A bias on the scores that falls linearly with distance, with one slope for each head (BLOOM).
    Alibi(Vec<f32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Activation {
    Silu,
    /// The tanh approximation: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
    /// x · Φ(x), exactly.
    Gelu,
    Relu,
    /// max(x, 0)²
    Relu2,
}

impl Activation {
    /// Reads the name in a Hugging Face config.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "gelu" => Self::Gelu,
            "relu" => Self::Relu,
            "relu2" => Self::Relu2,
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
    /// As `PerHead`, with gains of its own for every head (StableLM 2, Command R+).
    OwnGains,
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
            residual_scale: 1.0,
            unembed_scale: 1.0,
            experts: None,
            tied_embeddings: false,
        }
    }

    /// Returns the KV head that query head `head` reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head * self.n_kv_heads / self.n_heads
    }

    /// # Errors
    /// The residual stream is not the sum of what is written to it.
    pub fn adds_up(&self) -> Result<()> {
        if self.norm_placement != NormPlacement::Stream {
            return Ok(());
        }
        Err(Error::request(format!(
            "{} normalises its residual stream after every addition, so that its parts do not add up; use patching, \
             ablation or the lens instead",
            self.name
        )))
    }

    /// True where a norm stands between what attention and MLP give and what is added to the residual stream.
    pub fn norms_outputs(&self) -> bool {
        matches!(self.norm_placement, NormPlacement::Post | NormPlacement::Sandwich)
    }

    /// True where how fast positions turn depends on the length of the prompt, so that a token's values do.
    pub fn rotates_by_length(&self) -> bool {
        matches!(&self.positions, Positions::Rotary(layers) if layers.iter().flatten().any(Rotary::by_length))
    }

    pub fn has_mlp(&self) -> bool {
        self.d_mlp > 0
    }

    /// True where the final norm subtracts the mean, so that a direction is read without its mean.
    pub fn centres(&self) -> bool {
        matches!(self.norm, NormKind::Layer { .. })
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

/// Returns ALiBi's slope for each head, as in BLOOM: powers of 2^(−8/n) for the largest power of two n ≤ n_heads, then
/// the odd powers of its half step.
pub fn alibi_slopes(n_heads: usize) -> Vec<f32> {
    let n = 1usize << n_heads.max(1).ilog2();
    let base = 2f64.powf(-8.0 / n as f64);
    let extra = 2f64.powf(-4.0 / n as f64);
    let slopes = (1..=n).map(|i| base.powi(i as i32));
    let rest = (0..n_heads - n).map(|i| extra.powi(2 * i as i32 + 1));
    slopes.chain(rest).map(|s| s as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alibi_slopes_as_in_the_paper() {
        for (i, s) in alibi_slopes(8).iter().enumerate() {
            assert!((s - 0.5f32.powi(i as i32 + 1)).abs() < 1e-7);
        }
    }
}
