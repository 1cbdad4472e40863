//! Direct logit attribution: how much each component by itself adds to a logit, or to the difference of two logits
//! [Elhage et al. 2021; TransformerLens `logit_attrs`].
//!
//! The residual stream at a position is a sum of what the embedding, every head, every MLP and every output bias wrote.
//! The logit is the dot product of the normalised stream with a column of the unembedding. With the final norm's scale
//! frozen at its value in the run, that is a linear function of the sum, so each term has its own part:
//!
//! ```text
//! part = (what the component wrote) · gain · W_U[answer] / scale
//! ```
//!
//! The parts add up to the logit (or difference), before a final soft cap where the model has one. Effects that go
//! through later components are not counted.

use candle_core::Tensor;

use super::subject::{Compared, Subject};
use crate::engine::kernels::norm::normalize;
use crate::engine::kernels::product;
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::model::weights::Norm;
use crate::progress::Progress;
use crate::question::Question;

/// The parts of one logit (difference).
#[derive(Clone, Debug, Default)]
pub struct Attribution {
    pub pos: usize,
    pub answer: u32,
    pub wrong: Option<u32>,
    /// Part of the token embedding (after the embedding norm, where there is one).
    pub embed: f32,
    /// Part of the learned position; 0 where the model has none.
    pub pos_embed: f32,
    /// Parts of the heads, [layer][head].
    pub heads: Vec<Vec<f32>>,
    /// Parts of the MLPs, [layer]; empty for attention-only models.
    pub mlps: Vec<f32>,
    /// Parts of attention's output biases, [layer]; zero where there is none.
    pub attn_biases: Vec<f32>,
    /// Part of the final norm's offset and the unembedding's bias.
    pub output_bias: f32,
    /// Part of what edits added to the stream beside the components; zero for a plain run.
    pub edits: f32,
    /// The logit (difference) of the run itself, to compare the sum with.
    pub logit: f32,
}

impl Attribution {
    /// Returns the part of all biases together.
    pub fn biases(&self) -> f32 {
        self.attn_biases.iter().sum::<f32>() + self.output_bias
    }

    /// Returns the sum of all parts.
    pub fn sum(&self) -> f32 {
        let heads: f64 = self.heads.iter().flatten().map(|v| f64::from(*v)).sum();
        let mlps: f64 = self.mlps.iter().map(|v| f64::from(*v)).sum();
        (f64::from(self.embed)
            + f64::from(self.pos_embed)
            + heads
            + mlps
            + f64::from(self.biases())
            + f64::from(self.edits)) as f32
    }
}

/// Attributes the logit of `answer`, minus that of `wrong` where there is one, at position `pos`.
///
/// # Errors
/// The position lies outside the prompt, or an id outside the vocabulary.
pub fn direct_attribution(trace: &Trace, pos: usize, answer: u32, wrong: Option<u32>) -> Result<Attribution> {
    let model = &trace.model;
    let (c, w) = (&model.config, &model.weights);
    c.adds_up()?;
    if pos >= trace.len() {
        return Err(Error::request(format!(
            "position {pos} is outside the prompt of {} tokens; positions count from 0",
            trace.len()
        )));
    }
    model.network().check(&[answer])?;
    if let Some(wrong) = wrong {
        model.network().check(&[wrong])?;
    }
    let column = |id: u32| w.unembed.output(id as usize);
    let mut direction = column(answer)?;
    let mut unembed_bias = 0.0;
    if let Some(wrong) = wrong {
        direction = (direction - column(wrong)?)?;
    }
    if let Some(b) = &w.unembed_bias {
        let at = |id: u32| -> Result<f32> { Ok(b.get(id as usize)?.to_scalar()?) };
        unembed_bias = at(answer)? - wrong.map(at).transpose()?.unwrap_or(0.0);
    }
    // The direction that the logit reads in the residual stream: W_U with the gain, the centring and the frozen scale.
    let scale: f32 = trace.final_scale()?.get(pos)?.get(0)?.to_scalar()?;
    let mut norm_bias = 0.0;
    let mut reading = direction.clone();
    if let Some(Norm { weight, bias }) = &w.ln_final {
        if let Some(b) = bias {
            norm_bias = dot(&direction, b)?;
        }
        reading = (&direction * weight)?;
        if c.centres() {
            reading = reading.broadcast_sub(&reading.mean_keepdim(0)?)?;
        }
        reading = (reading / f64::from(scale))?;
    }
    let row = |kind, layer: usize| -> Result<Tensor> { Ok(trace.get(kind, layer)?.get(pos)?) };
    let embed_row = row(SiteKind::Embed, 0)?;
    let mut out = Attribution {
        pos,
        answer,
        wrong,
        embed: dot(&embed_row, &reading)?,
        output_bias: norm_bias + unembed_bias,
        ..Attribution::default()
    };
    if let Some(p) = &w.pos_embed {
        out.pos_embed = dot(&p.get(pos)?, &reading)?;
    }
    for (layer, block) in w.blocks.iter().enumerate() {
        let z = row(SiteKind::Z, layer)?.flatten_all()?;
        // Some models normalise attention's output before it is added. That norm is frozen as well.
        let mut local = reading.clone();
        let mut offset = 0.0;
        if let Some(post) = &block.ln1_post {
            let mut raw = product::apply(&z.unsqueeze(0)?, &block.attn.o.weight)?;
            if let Some(b) = &block.attn.o.bias {
                raw = raw.broadcast_add(b)?;
            }
            let divisor: f32 = normalize(&raw, c.norm, false)?.1.flatten_all()?.get(0)?.to_scalar()?;
            if let Some(b) = &post.bias {
                offset = dot(b, &reading)?;
            }
            local = (local * &post.weight)?;
            if c.centres() {
                local = local.broadcast_sub(&local.mean_keepdim(0)?)?;
            }
            local = (local / f64::from(divisor))?;
        }
        // W_O · direction gives the effect of every coordinate of z at once.
        let effect = product::back(&local.unsqueeze(0)?, &block.attn.o.weight)?.squeeze(0)?;
        let parts = (z * effect)?.reshape((c.n_heads, c.d_head))?.sum(1)?;
        out.heads.push(parts.to_vec1()?);
        let bias = block.attn.o.bias.as_ref().map(|b| dot(b, &local)).transpose()?;
        out.attn_biases.push(bias.unwrap_or(0.0) + offset);
        if block.mlp.is_some() {
            out.mlps.push(dot(&row(SiteKind::MlpOut, layer)?, &reading)?);
        }
    }
    // The logit of the run itself, with edits of the final norm.
    out.logit = dot(&trace.normalized(pos)?.squeeze(0)?, &direction)? + unembed_bias;
    if !trace.edits().is_empty() {
        out.edits = out.logit - out.sum();
    }
    Ok(out)
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a * b)?.sum_all()?.to_scalar()?)
}

/// Asks for the attribution of a logit (difference) at a position of a run, or of two.
#[derive(Clone, PartialEq)]
pub struct AttributionOf {
    pub subject: Subject,
    pub pos: usize,
    pub answer: u32,
    pub wrong: Option<u32>,
}

impl Question for AttributionOf {
    type Answer = Compared<Attribution>;
    const LABEL: &'static str = "direct attribution";

    fn run(&self, _: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { subject, pos, answer, wrong } = self;
        let aligned = |trace: &Trace| {
            let same = std::ptr::eq(trace, &*subject.trace);
            if same { Some(*pos) } else { subject.alignment.get(*pos).copied().flatten() }
        };
        subject.ask(|trace| match aligned(trace) {
            Some(p) => direct_attribution(trace, p, *answer, *wrong),
            None => Err(Error::request("this token has no counterpart in the other prompt; pin another one")),
        })
    }
}
