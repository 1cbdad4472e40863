//! Euclidean norms of the residual stream, and of everything that attention, MLPs and single heads write to it. They
//! show where a run writes much: the stream grows from layer to layer, and a large write stands out.

use candle_core::{D, Tensor};

use super::subject::{Compared, Subject};
use crate::engine::kernels::product;
use crate::engine::{SiteKind, Trace};
use crate::error::Result;
use crate::progress::Progress;
use crate::question::Question;

/// The norms of one run.
#[derive(Clone, Debug, Default)]
pub struct Norms {
    /// resid_post, [layer][pos]
    pub resid_post: Vec<Vec<f32>>,
    /// attn_out, [layer][pos]
    pub attn_out: Vec<Vec<f32>>,
    /// mlp_out, [layer][pos]; empty for attention-only models.
    pub mlp_out: Vec<Vec<f32>>,
    /// Each head's contribution z · W_O, before any norm of the output, [layer * n_heads + head][pos].
    pub heads: Vec<Vec<f32>>,
}

fn rows(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.sqr()?.sum(D::Minus1)?.sqrt()?.to_vec1()?)
}

/// Computes the norms at every layer and position.
pub fn norms(trace: &Trace, progress: &Progress) -> Result<Norms> {
    let c = &trace.model.config;
    progress.expect(c.n_layers as u64);
    let mut out = Norms::default();
    for layer in 0..c.n_layers {
        out.resid_post.push(rows(&trace.get(SiteKind::ResidPost, layer)?)?);
        out.attn_out.push(rows(&trace.get(SiteKind::AttnOut, layer)?)?);
        if c.has_mlp() {
            out.mlp_out.push(rows(&trace.get(SiteKind::MlpOut, layer)?)?);
        }
        let z = trace.get(SiteKind::Z, layer)?;
        let o = &trace.model.weights.blocks[layer].attn.o.weight;
        for head in 0..c.n_heads {
            let zh = z.narrow(1, head, 1)?.squeeze(1)?.contiguous()?;
            out.heads.push(rows(&product::apply(&zh, &o.narrow(0, head * c.d_head, c.d_head)?)?)?);
        }
        progress.step(1)?;
    }
    Ok(out)
}

/// Asks for the norms of a run, or of two.
#[derive(Clone, PartialEq)]
pub struct NormsOf {
    pub subject: Subject,
}

impl Question for NormsOf {
    type Answer = Compared<Norms>;
    const LABEL: &'static str = "norms";

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        self.subject.ask(|trace| norms(trace, progress))
    }
}
