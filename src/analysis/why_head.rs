//! Why a head attends where it does, and what it does there: takes its query, key and value apart by the components
//! that wrote them (the QK and OV circuits of "A Mathematical Framework for Transformer Circuits", Elhage et al. 2021).
//!
//! An attention score is a dot product q · k. With norm scales frozen at their values in the run, q and k are linear in
//! the residual stream, which is a sum of what each component wrote. So the score is a sum of parts: one for each
//! component that wrote to the query's position, and in the same way one for each that wrote to the key's.
//!
//! A score matters only against the other scores of its row. So the parts here are those of the *advantage*: the chosen
//! key's score minus the mean score of the other keys that the query sees. They add up to it exactly (before a soft
//! cap).

use candle_core::Tensor;

use super::component::Component;
use super::contributions::Contributions;
use super::ov_circuit::{OvCircuit, Tried, ov_circuit};
use crate::engine::forward::Prepared;
use crate::engine::frozen::FrozenNorm;
use crate::engine::kernels::norm::normalize;
use crate::engine::kernels::product;
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::model::config::QkNorm;
use crate::model::matrix::Matrix;
use crate::model::weights::Norm;
use crate::progress::Progress;
use crate::question::Question;
use std::sync::Arc;

/// A component and its part. `None` stands for biases and other constants.
pub type Share = (Option<Component>, f32);

/// The attention of one query of one head, taken apart.
#[derive(Clone, Debug)]
pub struct Why {
    pub layer: usize,
    pub head: usize,
    pub query: usize,
    pub key: usize,
    /// The pattern's weight at the key.
    pub attention: f32,
    /// The key's score minus the mean score of the other keys that the query sees, scaled as it goes into the softmax,
    /// before a soft cap.
    pub advantage: f32,
    /// The part of ALiBi's distance term; 0 without ALiBi.
    pub by_position: f32,
    /// Parts of the rest of the advantage, by the components that wrote the query; `by_key` by those that wrote the
    /// keys. Each list adds up to the rest.
    pub by_query: Vec<Share>,
    pub by_key: Vec<Share>,
    /// Shares of the head's output z, along z, by the components that wrote the values. They add up to 1.
    pub by_value: Vec<Share>,
    /// The pattern's row of this query, one weight for each key.
    pub pattern: Vec<f32>,
}

/// Takes a head's attention apart at one query and one key; without a key, at the key that the head attends to most.
///
/// # Errors
/// The head or the position does not exist, or the run is an edited one.
pub fn why_head(
    trace: &Trace,
    layer: usize,
    head: usize,
    query: usize,
    key: Option<usize>,
    progress: &Progress,
) -> Result<Why> {
    let c = &trace.model.config;
    if query >= trace.len() || key.is_some_and(|k| k > query) {
        return Err(Error::request(format!(
            "a query at {query} with the key {} is not in this prompt of {} tokens; keys do not come after their query",
            key.unwrap_or(query),
            trace.len()
        )));
    }
    let n = query + 1;
    if !trace.edits().is_empty() {
        return Err(Error::request("a head is taken apart in a run without edits; switch them off"));
    }
    let pattern: Vec<f32> = trace.head_pattern(layer, head)?.get(query)?.narrow(0, 0, n)?.to_vec1()?;
    let strongest = (0..n).max_by(|a, b| pattern[*a].total_cmp(&pattern[*b])).unwrap_or(0);
    let key = key.unwrap_or(strongest);
    let parts = Parts::of(trace, layer, n, progress)?;
    let block = &trace.model.weights.blocks[layer];
    let (kv, d) = (c.kv_head(head), c.d_head);
    let reader = HeadReader::of(trace, layer, head, n);
    let scale = reader.scale();
    let keys = reader.keys(n)?;
    let q = reader.query(query)?;
    // The weights of the advantage: +1 for the key, −1/m for each of the m other keys in sight.
    let others = pattern.iter().enumerate().filter(|(k, w)| *k != key && **w > 0.0).count();
    let factors: Vec<f32> = pattern
        .iter()
        .enumerate()
        .map(|(k, w)| {
            if others == 0 || *w == 0.0 && k != key {
                0.0
            } else if k == key {
                1.0
            } else {
                -1.0 / others as f32
            }
        })
        .collect();
    let contrast = keys.broadcast_mul(&Tensor::from_slice(&factors, (n, 1), keys.device())?)?.sum(0)?;
    let advantage = (&q * &contrast)?.sum_all()?.to_scalar::<f32>()? * scale;
    // ALiBi adds a part of the scores that no component writes.
    let slope = reader.slope();
    let by_position: f32 = factors.iter().enumerate().map(|(k, f)| slope * f * (k as f32 - query as f32)).sum();

    // By query: the dot product of each part with the key minus the mean of the other keys.
    let read = reader.read(&contrast, query, SiteKind::Q)?;
    let by_query = parts.project(&read, query)?.into_iter().map(|v| v * scale).collect::<Vec<f32>>();

    // By key: at the chosen key, minus the mean over the others.
    let mut by_key = vec![0f32; by_query.len()];
    for (pos, factor) in factors.iter().copied().enumerate().filter(|(_, f)| *f != 0.0) {
        progress.check()?;
        let read = reader.read(&q, pos, SiteKind::K)?;
        for (sum, v) in by_key.iter_mut().zip(parts.project(&read, pos)?) {
            *sum += factor * scale * v;
        }
    }

    // By value: the share of each part along z.
    let z = trace.get(SiteKind::Z, layer)?.get(query)?.get(head)?;
    let size = z.sqr()?.sum_all()?.to_scalar::<f32>()?.max(1e-20);
    let values = block.attn.v.weight.narrow(1, kv * d, d)?;
    let read = product::back(&z.unsqueeze(0)?, &values)?.squeeze(0)?;
    let mut by_value = vec![0f32; by_query.len()];
    for (pos, weight) in pattern.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        for (sum, v) in by_value.iter_mut().zip(parts.project(&read, pos)?) {
            *sum += weight * v / size;
        }
    }
    Ok(Why {
        layer,
        head,
        query,
        key,
        attention: pattern[key],
        advantage: advantage + by_position,
        by_position,
        by_query: parts.ranked(&by_query, advantage),
        by_key: parts.ranked(&by_key, advantage),
        by_value: parts.ranked(&by_value, 1.0),
        pattern,
    })
}

/// The queries and keys of one head as attention uses them, after their norms and rotation, and the way back from them to
/// what the head reads.
pub struct HeadReader<'a> {
    trace: &'a Trace,
    layer: usize,
    head: usize,
    prepared: Prepared,
}

impl<'a> HeadReader<'a> {
    /// Of a head in a run's first `n` positions.
    pub fn of(trace: &'a Trace, layer: usize, head: usize, n: usize) -> Self {
        Self { trace, layer, head, prepared: Prepared::new(&trace.model.config, n) }
    }

    /// What a dot product of query and key is multiplied by.
    pub fn scale(&self) -> f32 {
        self.prepared.attend(self.layer).scale
    }

    /// ALiBi's slope: what a score falls by with each position of distance; 0 without it.
    pub fn slope(&self) -> f32 {
        let slopes = self.prepared.attend(self.layer).slopes.as_ref();
        slopes.and_then(|s| s.get(self.head)).copied().unwrap_or(0.0)
    }

    /// The keys of the first `n` positions, [pos, d_head].
    pub fn keys(&self, n: usize) -> Result<Tensor> {
        let kv = self.trace.model.config.kv_head(self.head);
        let past = self.trace.past(self.layer)?;
        Ok(past.keys.narrow(0, 0, n)?.narrow(1, kv, 1)?.squeeze(1)?.contiguous()?)
    }

    /// The query of a position, [d_head].
    pub fn query(&self, pos: usize) -> Result<Tensor> {
        let rotated = SiteKind::RotQ.exists(&self.trace.model.config);
        let q = self.trace.get(if rotated { SiteKind::RotQ } else { SiteKind::Q }, self.layer)?;
        Ok(q.get(pos)?.get(self.head)?)
    }

    /// Takes a direction [d_head] of a position's query (`SiteKind::Q`) or key back to what the head reads there, [d_model]
    /// behind the layer's first norm; norms of queries and keys are held at their divisors.
    pub fn read(&self, direction: &Tensor, pos: usize, kind: SiteKind) -> Result<Tensor> {
        let (c, attn) = (&self.trace.model.config, &self.trace.model.weights.blocks[self.layer].attn);
        let d = c.d_head;
        let turned = match self.prepared.rotation(self.layer) {
            Some(table) => table.rows(&[pos]).inverse().apply(&direction.reshape((1, 1, 1, d))?.contiguous()?)?,
            None => direction.reshape((1, 1, 1, d))?,
        };
        let raw = unnormed(self.trace, self.layer, self.head, pos, kind, &turned.flatten_all()?)?;
        let weight: Matrix = match kind {
            SiteKind::Q => attn.q.weight.narrow(1, self.head * d, d)?,
            _ => attn.k.weight.narrow(1, c.kv_head(self.head) * d, d)?,
        };
        Ok(product::back(&raw.unsqueeze(0)?, &weight)?.squeeze(0)?)
    }
}

/// Takes a direction in the space of queries or keys after their norm and rotation back to the space before them.
fn unnormed(
    trace: &Trace,
    layer: usize,
    head: usize,
    pos: usize,
    kind: SiteKind,
    direction: &Tensor,
) -> Result<Tensor> {
    let c = &trace.model.config;
    let attn = &trace.model.weights.blocks[layer].attn;
    let (gain, heads, at) = match kind {
        SiteKind::Q => (&attn.q_norm, c.n_heads, head),
        _ => (&attn.k_norm, c.n_kv_heads, c.kv_head(head)),
    };
    let Some(Norm { weight: gain, .. }) = gain else { return Ok(direction.clone()) };
    let raw = trace.get(kind, layer)?.get(pos)?;
    let (raw, gain) = match c.qk_norm {
        QkNorm::FullWidth => (raw.reshape((1, heads * c.d_head))?, gain.narrow(0, at * c.d_head, c.d_head)?),
        QkNorm::OwnGains => (raw.get(at)?.unsqueeze(0)?, gain.narrow(0, at * c.d_head, c.d_head)?),
        _ => (raw.get(at)?.unsqueeze(0)?, gain.clone()),
    };
    let divisor: f32 = normalize(&raw.contiguous()?, c.norm, false)?.1.flatten_all()?.get(0)?.to_scalar()?;
    let scaled = ((direction * gain)? / f64::from(divisor))?;
    if !c.centres() {
        return Ok(scaled);
    }
    let mean = scaled.mean_keepdim(scaled.rank() - 1)?;
    Ok(scaled.broadcast_sub(&mean)?)
}

/// The writes of all components before a layer, after that layer's first norm.
struct Parts {
    /// [writer]
    writers: Vec<Component>,
    /// [pos] of [sender, d_model]
    rows: Vec<Tensor>,
}

impl Parts {
    fn of(trace: &Trace, layer: usize, n: usize, progress: &Progress) -> Result<Self> {
        let c = &trace.model.config;
        let writers = Component::writers(c, layer);
        let all = Contributions::part(trace, 0..n, layer, progress)?;
        let stream = trace.get(SiteKind::ResidPre, layer)?.narrow(0, 0, n)?.contiguous()?;
        let norm = FrozenNorm::of(&stream, trace.model.weights.blocks[layer].ln1.as_ref(), c)?;
        let device = stream.device();
        let through = all
            .values
            .into_iter()
            .map(|v| norm.apply(&Tensor::from_vec(v, (n, c.d_model), device)?))
            .collect::<Result<Vec<_>>>()?;
        let stacked = Tensor::stack(&through, 1)?;
        Ok(Self { writers, rows: (0..n).map(|p| Ok(stacked.get(p)?)).collect::<Result<_>>()? })
    }

    fn project(&self, direction: &Tensor, pos: usize) -> Result<Vec<f32>> {
        Ok(self.rows[pos].matmul(&direction.unsqueeze(1)?)?.flatten_all()?.to_vec1()?)
    }

    /// Returns the parts, largest first, with the rest of the total that no component wrote.
    fn ranked(&self, values: &[f32], total: f32) -> Vec<Share> {
        let rest = total - values.iter().sum::<f32>();
        let mut out: Vec<Share> = values.iter().enumerate().map(|(s, v)| (Some(self.writers[s]), *v)).collect();
        let scale = values.iter().fold(total.abs(), |m, v| m.max(v.abs()));
        if rest.abs() > 1e-4 * scale {
            out.push((None, rest));
        }
        out.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        out
    }
}

/// Asks why a head attends where it does, and what it does with it: the OV circuit follows the parts of the score.
#[derive(Clone, PartialEq)]
pub struct WhyOf {
    pub trace: Arc<Trace>,
    pub layer: usize,
    pub head: usize,
    pub query: usize,
    pub key: Option<usize>,
}

impl Question for WhyOf {
    type Answer = (Why, Option<OvCircuit>);
    const LABEL: &'static str = "taking a head apart";

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let Self { trace, layer, head, query, key } = self;
        let why = why_head(trace, *layer, *head, *query, *key, progress)?;
        partial((why.clone(), None));
        progress.check()?;
        let ov = ov_circuit(&trace.model, *layer, *head, &Tried::of(&trace.model, &trace.ids)?, progress)?;
        Ok((why, Some(ov)))
    }
}
